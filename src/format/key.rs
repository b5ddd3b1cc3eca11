//! Key objects: the secrets of a repository, wrapped for somebody.
//!
//! What the bytes are; wrapping and unwrapping is `crypto::wrap`. Each is stored twice, the same bytes.
//!
//! Layout: a [`framed`] object with the magic `HFKEYOBJ` and version 1; the body is the CBOR map
//! {0: description, a byte string, 1: wrapped, a byte string}. The description is itself the CBOR map of [`KeyDescription`]; it is a byte
//! string so that the exact bytes, fields that this version doesn't know included, are associated data of the wrap.
//!
//! The wrap: commitment, 32 bytes · then the secrets, sealed with AES-256-GCM under nonce 0 (each key that wraps is used once, because the
//! salt is random) · tag, 16 bytes. In a key object of kind plain: secrets · BLAKE3-128 tag. The associated data are the hash of the
//! `format` object, then the description. The secrets: those of [`SecretSet`] in its order, 32 bytes each, then the seal public key, 32 bytes.
//!
//! Invariants:
//! 1. Damage is told by the checksum alone, so a wrong passphrase is never taken for damage nor damage for a wrong passphrase
//!    (`every_flip_is_damage_and_never_a_wrong_key` in `crypto::wrap`).
//! 2. No key object makes a reader use more memory or time than [`KdfSettings::is_acceptable`] allows (`hostile_costs_are_refused`).

use minicbor::{Decode, Encode};

use super::framed::{self, FramedError};
use super::id::RepositoryId;
use super::repository::KdfSettings;

/// The first bytes of a key object.
pub const KEY_MAGIC: [u8; 8] = *b"HFKEYOBJ";
/// The version that this code writes, and the newest that it reads.
pub const KEY_VERSION: u16 = 1;
/// Longest label.
pub const LABEL_LEN_MAX: usize = 1024;

/// Which secrets a key object gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SecretSet {
    /// Chunk ids, chunker, row digests.
    pub dedup: bool,
    /// Index, log and lists.
    pub writer: bool,
    /// Reading packs and snapshot records.
    pub seal_private: bool,
}

impl SecretSet {
    /// Everything: an administrator.
    pub const ALL: Self = Self {
        dedup: true,
        writer: true,
        seal_private: true,
    };
    /// What a host needs that backs up and can't read.
    pub const WRITE_ONLY: Self = Self {
        dedup: true,
        writer: true,
        seal_private: false,
    };

    /// Bit 0 dedup, 1 writer, 2 seal private.
    pub fn bits(self) -> u8 {
        u8::from(self.dedup) | (u8::from(self.writer) << 1) | (u8::from(self.seal_private) << 2)
    }

    /// The set with these bits; none if it has others.
    pub fn from_bits(bits: u8) -> Option<Self> {
        let set = Self {
            dedup: bits & 1 != 0,
            writer: bits & 2 != 0,
            seal_private: bits & 4 != 0,
        };
        (set.bits() == bits).then_some(set)
    }

    /// How many secrets these are.
    pub fn count(self) -> usize {
        [self.dedup, self.writer, self.seal_private]
            .into_iter()
            .filter(|given| *given)
            .count()
    }
}

/// For whom the secrets are wrapped.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum KeyKind {
    /// Whoever knows a passphrase, stretched with argon2id.
    #[n(0)]
    Passphrase {
        /// What stretching costs.
        #[n(0)]
        kdf: KdfSettings,
    },
    /// Whoever has a key file: 256 random bits, no stretching.
    #[n(1)]
    KeyFile,
    /// Whoever has the recovery key: 256 random bits on paper.
    #[n(2)]
    Recovery,
    /// The owner of a private key; reserved.
    #[n(3)]
    Recipient {
        /// KEM id of RFC 9180.
        #[n(0)]
        kem: u16,
        /// The public key that it is wrapped to.
        #[n(1)]
        #[cbor(with = "minicbor::bytes")]
        public: Vec<u8>,
        /// The encapsulated key.
        #[n(2)]
        #[cbor(with = "minicbor::bytes")]
        encapsulated: Vec<u8>,
    },
    /// Everybody: a repository without encryption.
    #[n(4)]
    Plain,
}

impl KeyKind {
    /// The word for people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Passphrase { .. } => "passphrase",
            Self::KeyFile => "key file",
            Self::Recovery => "recovery key",
            Self::Recipient { .. } => "recipient",
            Self::Plain => "plain",
        }
    }
}

/// What a key object says in clear about itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct KeyDescription {
    /// 128 random bits: names the key for people and for the log, whatever bytes it is stored in.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub id: [u8; 16],
    /// The repository it belongs to, so that a stray key is named as such.
    #[n(1)]
    pub repository: RepositoryId,
    /// For whom.
    #[n(2)]
    pub kind: KeyKind,
    /// What people call it.
    #[n(3)]
    pub label: String,
    /// When it was made, in seconds since 1970-01-01 UTC; for people only.
    #[n(4)]
    pub created: i64,
    /// Which secrets it gives.
    #[n(5)]
    #[cbor(with = "secret_set")]
    pub secrets: SecretSet,
    /// Makes the wrapping key unique.
    #[n(6)]
    #[cbor(with = "minicbor::bytes")]
    pub salt: [u8; 32],
}

/// A key object: the description, its exact bytes, and what is wrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyObject {
    description: KeyDescription,
    description_bytes: Vec<u8>,
    wrapped: Vec<u8>,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Body {
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    description: Vec<u8>,
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    wrapped: Vec<u8>,
}

impl KeyObject {
    /// Puts a description's [`KeyDescription::to_bytes`] and what was wrapped with them together.
    pub fn new(description: KeyDescription, wrapped: Vec<u8>) -> Self {
        let description_bytes = description.to_bytes();
        Self {
            description,
            description_bytes,
            wrapped,
        }
    }

    /// What it says about itself.
    pub fn description(&self) -> &KeyDescription {
        &self.description
    }

    /// The bytes that the wrap is bound to.
    pub fn description_bytes(&self) -> &[u8] {
        &self.description_bytes
    }

    /// The wrap.
    pub fn wrapped(&self) -> &[u8] {
        &self.wrapped
    }

    /// The bytes of the object.
    pub fn to_bytes(&self) -> Vec<u8> {
        let body = Body {
            description: self.description_bytes.clone(),
            wrapped: self.wrapped.clone(),
        };
        let body = minicbor::to_vec(body).expect("a vector takes all that is written");
        framed::frame(KEY_MAGIC, KEY_VERSION, &body).expect("labels are bounded, all else is short")
    }

    /// Reads the object. On any error its copy is read: if that one is good, this one was damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, FramedError> {
        let (_version, body) = framed::unframe(KEY_MAGIC, KEY_VERSION, bytes)?;
        let body: Body = framed::decode_exact(body)?;
        let description: KeyDescription = framed::decode_exact(&body.description)?;
        if let KeyKind::Passphrase { kdf } = &description.kind
            && !kdf.is_acceptable()
        {
            return Err(FramedError::Damaged(
                "asks for more memory or time than allowed",
            ));
        }
        if description.label.len() > LABEL_LEN_MAX {
            return Err(FramedError::Damaged("label"));
        }
        Ok(Self {
            description,
            description_bytes: body.description,
            wrapped: body.wrapped,
        })
    }
}

impl KeyDescription {
    /// The bytes that the wrap is bound to.
    pub fn to_bytes(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("a vector takes all that is written")
    }
}

/// A set of secrets as its bits.
mod secret_set {
    use minicbor::{Decoder, Encoder};

    use super::SecretSet;

    pub(super) fn encode<C, W: minicbor::encode::Write>(
        set: &SecretSet,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.u8(set.bits())?.ok()
    }

    pub(super) fn decode<C>(
        d: &mut Decoder<'_>,
        _: &mut C,
    ) -> Result<SecretSet, minicbor::decode::Error> {
        SecretSet::from_bits(d.u8()?)
            .ok_or_else(|| minicbor::decode::Error::message("set of secrets"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(kind: KeyKind) -> KeyDescription {
        KeyDescription {
            id: [1; 16],
            repository: RepositoryId([2; 16]),
            kind,
            label: "night shift".into(),
            created: 1_800_000_000,
            secrets: SecretSet::WRITE_ONLY,
            salt: [3; 32],
        }
    }

    #[test]
    fn round_trip() {
        let kinds = [
            KeyKind::Passphrase {
                kdf: KdfSettings::default(),
            },
            KeyKind::KeyFile,
            KeyKind::Recovery,
            KeyKind::Recipient {
                kem: 0x20,
                public: vec![1; 32],
                encapsulated: vec![2; 32],
            },
            KeyKind::Plain,
        ];
        for kind in kinds {
            let object = KeyObject::new(example(kind), vec![9; 144]);
            assert_eq!(KeyObject::decode(&object.to_bytes()), Ok(object));
        }
    }

    #[test]
    fn hostile_costs_are_refused() {
        let costs = [
            (1 << 21, 3, 1),
            (64 << 10, 65, 1),
            (64 << 10, 0, 1),
            (64 << 10, 3, 17),
            (64 << 10, 3, 0),
            (7, 3, 1),
        ];
        for (memory_kib, passes, lanes) in costs {
            let kdf = KdfSettings {
                memory_kib,
                passes,
                lanes,
            };
            let bytes = KeyObject::new(example(KeyKind::Passphrase { kdf }), vec![]).to_bytes();
            assert!(
                matches!(KeyObject::decode(&bytes), Err(FramedError::Damaged(_))),
                "{kdf:?}"
            );
        }
    }

    #[test]
    fn a_set_has_only_known_bits() {
        for bits in 0..=255 {
            assert_eq!(
                SecretSet::from_bits(bits).map(SecretSet::bits),
                (bits < 8).then_some(bits)
            );
        }
    }

    #[test]
    fn unknown_fields_are_kept_for_the_wrap() {
        let mut description = example(KeyKind::Plain).to_bytes();
        assert_eq!(description[0], 0xa7, "a map of seven");
        description[0] = 0xa8;
        description.extend_from_slice(&[0x18, 50, 0]);
        let body = minicbor::to_vec(Body {
            description: description.clone(),
            wrapped: vec![],
        })
        .unwrap();
        let object = KeyObject::decode(&framed::frame(KEY_MAGIC, 1, &body).unwrap()).unwrap();
        assert_eq!(object.description(), &example(KeyKind::Plain));
        assert_eq!(object.description_bytes(), description);
    }

    proptest::proptest! {
        #[test]
        fn decoding_is_total(junk in proptest::collection::vec(proptest::num::u8::ANY, 0..300), cut in 0usize..400, byte: u8) {
            let mut body = minicbor::to_vec(Body {
                description: example(KeyKind::KeyFile).to_bytes(),
                wrapped: vec![1; 64],
            }).unwrap();
            let position = cut % body.len();
            body[position] = byte;
            for body in [&junk[..], &body, &body[..position]] {
                let bytes = framed::frame(KEY_MAGIC, KEY_VERSION, body).unwrap();
                if let Ok(object) = KeyObject::decode(&bytes) {
                    assert!(object.description().label.len() <= LABEL_LEN_MAX);
                }
            }
            assert!(KeyObject::decode(&junk).is_err());
        }
    }
}
