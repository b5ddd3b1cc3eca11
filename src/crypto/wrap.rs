//! Key objects: the secrets of a keyring, wrapped for a passphrase, a key file or a recovery key, and unwrapped again.
//!
//! The bytes are specified in [`format::key`](crate::format::key).
//!
//! Invariants:
//! 1. A wrong passphrase or key file is [`KeyError::WrongKey`] and nothing else; damage is found by the checksum before anything is tried
//!    (`every_flip_is_damage_and_never_a_wrong_key`).
//! 2. A wrap is bound to the `format` object and to all that the key object says about itself (`a_wrap_is_bound_to_the_format_object`).
//! 3. Secrets in clear are taken only in a repository without encryption, and only by who asks for no secret (`planted_secrets_are_refused`).

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use thiserror::Error;
use zeroize::Zeroizing;

use super::envelope;
use super::kdf::{self, Committed};
use super::keys::{Keyring, MissingSecret};
use super::random::{Random, array};
use super::secret::{Secret32, constant_time_eq};
use crate::format::header::Suite;
use crate::format::id::{ObjectHash, RepositoryId};
use crate::format::key::{KeyDescription, KeyKind, KeyObject, LABEL_LEN_MAX, SecretSet};
use crate::format::repository::{KdfSettings, RepositoryFormat};

const TAG_LEN: usize = 16;
const COMMITMENT_LEN: usize = 32;
const SECRETS_LEN_MAX: usize = 4 * 32;

/// Why a key object can't be made or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// The passphrase, key file or recovery key is not the one.
    #[error("wrong key")]
    WrongKey,
    /// This key object asks for another kind of credential.
    #[error("this key is of another kind: {0}")]
    OtherCredential(&'static str),
    /// The key object belongs to another repository.
    #[error("the key belongs to repository {0}")]
    OtherRepository(RepositoryId),
    /// What was unwrapped, or a plain key object, contradicts itself or the `format` object.
    #[error("the key does not fit its repository: {0}")]
    Inconsistent(&'static str),
    /// A kind that this version can't use.
    #[error("keys of kind {0} are not supported by this version")]
    Unsupported(&'static str),
    /// More secrets asked for than the keyring holds.
    #[error(transparent)]
    Missing(#[from] MissingSecret),
    /// The label is too long, or stretching would cost too much.
    #[error("{0}")]
    Refused(&'static str),
    /// Not enough memory to stretch the passphrase.
    #[error("no memory for stretching the passphrase ({memory_kib} KiB)")]
    Memory {
        /// What it takes.
        memory_kib: u32,
    },
    /// Not the text of a key file or recovery key.
    #[error("not a key: {0}")]
    Text(&'static str),
}

/// What opens a key object.
#[derive(Clone, Copy)]
pub enum Credential<'a> {
    /// A passphrase, as it was typed.
    Passphrase(&'a [u8]),
    /// The 256 bits of a key file or recovery key.
    Secret(&'a Secret32),
    /// Nothing: repositories without encryption.
    None,
}

impl fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passphrase(_) => "Passphrase",
            Self::Secret(_) => "Secret",
            Self::None => "None",
        })
    }
}

/// What a new key object is to be.
#[derive(Clone, Debug)]
pub struct NewKey<'a> {
    /// For whom.
    pub kind: KeyKind,
    /// What opens it; must fit `kind`.
    pub credential: Credential<'a>,
    /// Which secrets it gives.
    pub secrets: SecretSet,
    /// What people call it.
    pub label: &'a str,
    /// Seconds since 1970-01-01 UTC.
    pub created: i64,
}

impl<'a> NewKey<'a> {
    /// Everything, for a passphrase.
    pub fn passphrase(
        passphrase: &'a [u8],
        kdf: KdfSettings,
        label: &'a str,
        created: i64,
    ) -> Self {
        let kind = KeyKind::Passphrase { kdf };
        Self {
            kind,
            credential: Credential::Passphrase(passphrase),
            secrets: SecretSet::ALL,
            label,
            created,
        }
    }

    /// Everything, for a key file.
    pub fn key_file(secret: &'a Secret32, label: &'a str, created: i64) -> Self {
        let credential = Credential::Secret(secret);
        Self {
            kind: KeyKind::KeyFile,
            credential,
            secrets: SecretSet::ALL,
            label,
            created,
        }
    }

    /// Everything, for a recovery key.
    pub fn recovery(secret: &'a Secret32, label: &'a str, created: i64) -> Self {
        Self {
            kind: KeyKind::Recovery,
            ..Self::key_file(secret, label, created)
        }
    }

    /// Everything, in clear.
    pub fn plain(label: &'a str, created: i64) -> Self {
        Self {
            kind: KeyKind::Plain,
            credential: Credential::None,
            secrets: SecretSet::ALL,
            label,
            created,
        }
    }
}

impl Keyring {
    /// Wraps secrets of this keyring; `format_hash` is [`RepositoryFormat::hash_of`] of the `format` object.
    pub fn wrap(
        &self,
        new: &NewKey<'_>,
        format_hash: &ObjectHash,
        random: &mut dyn Random,
    ) -> Result<KeyObject, KeyError> {
        if new.label.len() > LABEL_LEN_MAX {
            return Err(KeyError::Refused("the label of a key is too long"));
        }
        let plain_allowed = self.suite == Suite::None;
        if new.kind == KeyKind::Plain && !plain_allowed {
            return Err(KeyError::Refused(
                "an encrypted repository keeps no secrets in clear",
            ));
        }
        let description = KeyDescription {
            id: array(random),
            repository: self.repository_id,
            kind: new.kind.clone(),
            label: new.label.to_owned(),
            created: new.created,
            secrets: new.secrets,
            salt: array(random),
        };
        let associated = associated(format_hash, &description.to_bytes());
        let mut secrets = self.encode_secrets(new.secrets)?;
        let wrapped = match wrapping_key(&description, new.credential)? {
            None => {
                let tag = kdf::plain_tag(&associated, &secrets);
                [&secrets[..], &tag].concat()
            }
            Some(Committed { key, commitment }) => {
                let tag = cipher(&key)
                    .seal_in_place_separate_tag(zero_nonce(), Aad::from(&associated), &mut secrets)
                    .expect("a few hundred bytes are not too long");
                [&commitment[..], &secrets, tag.as_ref()].concat()
            }
        };
        Ok(KeyObject::new(description, wrapped))
    }

    /// Opens a key object; `format` and `format_hash` are what the `format` object says and [`RepositoryFormat::hash_of`] its bytes.
    pub fn unwrap(
        object: &KeyObject,
        credential: Credential<'_>,
        format: &RepositoryFormat,
        format_hash: &ObjectHash,
    ) -> Result<Self, KeyError> {
        let description = object.description();
        if description.repository != format.id {
            return Err(KeyError::OtherRepository(description.repository));
        }
        // Anybody could put secrets of his own in clear beside the keys; an encrypted repository must never write with them.
        if description.kind == KeyKind::Plain && format.suite != Suite::None {
            return Err(KeyError::Inconsistent(
                "secrets in clear in an encrypted repository",
            ));
        }
        let associated = associated(format_hash, object.description_bytes());
        let mut wrapped = Zeroizing::new(object.wrapped().to_vec());
        let secrets = match wrapping_key(description, credential)? {
            None => open_plain(&wrapped, &associated)?,
            Some(key) => open_wrapped(&key, &mut wrapped, &associated)?,
        };
        decode_secrets(description, format, secrets)
    }

    fn encode_secrets(&self, set: SecretSet) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let mut out = Zeroizing::new(Vec::with_capacity(SECRETS_LEN_MAX));
        let parts = [
            (set.dedup, &self.dedup, "dedup"),
            (set.writer, &self.writer, "writer"),
            (set.seal_private, &self.seal_private, "seal private"),
        ];
        for (wanted, secret, name) in parts {
            if wanted {
                let missing = MissingSecret {
                    action: "give on what it does not hold",
                    secret: name,
                };
                out.extend_from_slice(secret.as_ref().ok_or(missing)?.expose());
            }
        }
        out.extend_from_slice(&self.seal_public);
        Ok(out)
    }
}

fn associated(format_hash: &ObjectHash, description: &[u8]) -> Vec<u8> {
    [format_hash.as_bytes(), description].concat()
}

/// The key that wraps; `None` for a plain key object.
fn wrapping_key(
    description: &KeyDescription,
    credential: Credential<'_>,
) -> Result<Option<Committed>, KeyError> {
    match (&description.kind, credential) {
        (KeyKind::Plain, Credential::None) => Ok(None),
        (KeyKind::KeyFile | KeyKind::Recovery, Credential::Secret(secret)) => {
            Ok(Some(kdf::wrap_from_key_file(secret, &description.salt)))
        }
        (KeyKind::Passphrase { kdf }, Credential::Passphrase(passphrase)) => {
            if !kdf.is_acceptable() {
                return Err(KeyError::Refused(
                    "the passphrase would take more memory or time than allowed",
                ));
            }
            let memory_kib = kdf.memory_kib;
            let stretched = kdf::wrap_from_passphrase(passphrase, &description.salt, kdf);
            stretched
                .map(Some)
                .map_err(|_too_much| KeyError::Memory { memory_kib })
        }
        (kind @ KeyKind::Recipient { .. }, _) => Err(KeyError::Unsupported(kind.name())),
        (kind, _) => Err(KeyError::OtherCredential(kind.name())),
    }
}

fn open_wrapped<'a>(
    key: &Committed,
    wrapped: &'a mut [u8],
    associated: &[u8],
) -> Result<&'a [u8], KeyError> {
    let (commitment, sealed) = wrapped
        .split_first_chunk_mut::<COMMITMENT_LEN>()
        .ok_or(KeyError::Inconsistent("the wrap is too short"))?;
    if !constant_time_eq(commitment, &key.commitment) {
        return Err(KeyError::WrongKey);
    }
    // The key is the right one, the object is intact: then it is what the wrap is bound to that differs.
    let opened = cipher(&key.key).open_in_place(zero_nonce(), Aad::from(associated), sealed);
    opened
        .map(|plain| &*plain)
        .map_err(|_unspecified| KeyError::Inconsistent("it was made for another format object"))
}

fn open_plain<'a>(wrapped: &'a [u8], associated: &[u8]) -> Result<&'a [u8], KeyError> {
    let (secrets, tag) = wrapped
        .split_last_chunk::<TAG_LEN>()
        .ok_or(KeyError::Inconsistent("the wrap is too short"))?;
    match constant_time_eq(tag, &kdf::plain_tag(associated, secrets)) {
        true => Ok(secrets),
        false => Err(KeyError::Inconsistent(
            "it was made for another format object",
        )),
    }
}

fn decode_secrets(
    description: &KeyDescription,
    format: &RepositoryFormat,
    secrets: &[u8],
) -> Result<Keyring, KeyError> {
    let set = description.secrets;
    let (parts, rest) = secrets.as_chunks::<32>();
    let Some((seal_public, parts)) = parts
        .split_last()
        .filter(|(_, parts)| rest.is_empty() && parts.len() == set.count())
    else {
        return Err(KeyError::Inconsistent(
            "it holds other secrets than it says",
        ));
    };
    let mut parts = parts.iter();
    let mut next = |given: bool| {
        let part = if given { parts.next() } else { None };
        part.map(|bytes| Secret32::filled(|out| out.copy_from_slice(bytes)))
    };
    let keyring = Keyring {
        repository_id: format.id,
        suite: format.suite,
        dedup: next(set.dedup),
        writer: next(set.writer),
        seal_private: next(set.seal_private),
        seal_public: *seal_public,
    };
    if let Some(private) = &keyring.seal_private
        && envelope::public_of(private) != Some(keyring.seal_public)
    {
        return Err(KeyError::Inconsistent("its seal keys are not a pair"));
    }
    Ok(keyring)
}

fn cipher(key: &Secret32) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.expose()).expect("AES-256 takes 32 bytes"))
}

/// Each wrapping key seals once: its salt is random.
fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SeededRandom;
    use crate::format::framed::FramedError;
    use crate::format::repository::ChunkerSettings;

    const CHEAP: KdfSettings = KdfSettings {
        memory_kib: 64,
        passes: 1,
        lanes: 1,
    };

    struct Example {
        keyring: Keyring,
        format: RepositoryFormat,
        hash: ObjectHash,
    }

    fn example(suite: Suite) -> Example {
        let mut format = RepositoryFormat::new(RepositoryId([1; 16]), 1_800_000_000, suite);
        format.table_chunker = ChunkerSettings::around(8 << 10);
        let hash = RepositoryFormat::hash_of(&format.to_bytes());
        let keyring = Keyring::generate(format.id, suite, None, &mut SeededRandom::new(1));
        Example {
            keyring,
            format,
            hash,
        }
    }

    impl Example {
        fn wrap(&self, new: &NewKey<'_>) -> KeyObject {
            self.keyring
                .wrap(new, &self.hash, &mut SeededRandom::new(2))
                .unwrap()
        }

        fn unwrap(
            &self,
            object: &KeyObject,
            credential: Credential<'_>,
        ) -> Result<Keyring, KeyError> {
            Keyring::unwrap(object, credential, &self.format, &self.hash)
        }
    }

    fn assert_same(a: &Keyring, b: &Keyring) {
        assert_eq!(
            (a.repository_id, a.suite, a.seal_public),
            (b.repository_id, b.suite, b.seal_public)
        );
        assert_eq!(
            (&a.dedup, &a.writer, &a.seal_private),
            (&b.dedup, &b.writer, &b.seal_private)
        );
    }

    #[test]
    fn every_kind_round_trips() {
        let site = example(Suite::Aes256Gcm);
        let secret = Secret32::take(&mut [8; 32]);
        let keys = [
            NewKey::passphrase(b"open sesame", CHEAP, "admin", 5),
            NewKey::key_file(&secret, "host", 6),
            NewKey::recovery(&secret, "paper", 7),
        ];
        for new in keys {
            for bits in 0..8 {
                let new = NewKey {
                    secrets: SecretSet::from_bits(bits).unwrap(),
                    ..new.clone()
                };
                let object = KeyObject::decode(&site.wrap(&new).to_bytes()).unwrap();
                assert_eq!(object.description().label, new.label);
                let opened = site.unwrap(&object, new.credential).unwrap();
                assert_same(&opened, &site.keyring.restricted(new.secrets));
            }
        }
        let open = example(Suite::None);
        let object = KeyObject::decode(&open.wrap(&NewKey::plain("open", 0)).to_bytes()).unwrap();
        assert_same(
            &open.unwrap(&object, Credential::None).unwrap(),
            &open.keyring,
        );
    }

    #[test]
    fn known_answers() {
        let site = example(Suite::Aes256Gcm);
        let secret = Secret32::take(&mut [8; 32]);
        let object = |new: &NewKey<'_>| ObjectHash::of(&site.wrap(new).to_bytes()).to_string();
        assert_eq!(
            object(&NewKey::passphrase(b"open sesame", CHEAP, "admin", 5)),
            "b33110336e59f514317ef5da6a66efb2a5e9324e2154152c695d3bc868fe3de0"
        );
        assert_eq!(
            object(&NewKey::key_file(&secret, "host", 6)),
            "77f7902283cf50642ec1ec9e7659699b41da1d7283735669f343976adad4316f"
        );
        let open = example(Suite::None);
        assert_eq!(
            ObjectHash::of(&open.wrap(&NewKey::plain("open", 7)).to_bytes()).to_string(),
            "bc2d1e2aea1d3ea407e2fad22946e81dc2b6e332cf9ac79bba08142f2fa2539e"
        );
    }

    #[test]
    fn a_wrong_key_is_a_wrong_key() {
        let site = example(Suite::Aes256Gcm);
        let secret = Secret32::take(&mut [8; 32]);
        let other = Secret32::take(&mut [7; 32]);
        let object = site.wrap(&NewKey::passphrase(b"open sesame", CHEAP, "admin", 5));
        assert_eq!(
            site.unwrap(&object, Credential::Passphrase(b"open barley"))
                .unwrap_err(),
            KeyError::WrongKey
        );
        assert_eq!(
            site.unwrap(&object, Credential::Passphrase(b""))
                .unwrap_err(),
            KeyError::WrongKey
        );
        assert_eq!(
            site.unwrap(&object, Credential::None).unwrap_err(),
            KeyError::OtherCredential("passphrase")
        );
        assert_eq!(
            site.unwrap(&object, Credential::Secret(&secret))
                .unwrap_err(),
            KeyError::OtherCredential("passphrase")
        );
        let object = site.wrap(&NewKey::key_file(&secret, "host", 6));
        assert_eq!(
            site.unwrap(&object, Credential::Secret(&other))
                .unwrap_err(),
            KeyError::WrongKey
        );
    }

    #[test]
    fn every_flip_is_damage_and_never_a_wrong_key() {
        let site = example(Suite::Aes256Gcm);
        let secret = Secret32::take(&mut [8; 32]);
        let mut bytes = site.wrap(&NewKey::key_file(&secret, "host", 6)).to_bytes();
        for position in 0..bytes.len() {
            for bit in 0..8 {
                bytes[position] ^= 1 << bit;
                assert!(
                    matches!(KeyObject::decode(&bytes), Err(FramedError::Damaged(_))),
                    "{position}.{bit}"
                );
                bytes[position] ^= 1 << bit;
            }
        }
    }

    #[test]
    fn a_wrap_is_bound_to_the_format_object() {
        let secret = Secret32::take(&mut [8; 32]);
        for (suite, new) in [
            (
                Suite::Aes256Gcm,
                NewKey::passphrase(b"open sesame", CHEAP, "admin", 5),
            ),
            (Suite::Aes256Gcm, NewKey::key_file(&secret, "host", 6)),
            (Suite::None, NewKey::plain("open", 7)),
        ] {
            let site = example(suite);
            let object = site.wrap(&new);
            let forged = RepositoryFormat {
                pack_bytes: 1 << 20,
                ..site.format.clone()
            };
            let hash = RepositoryFormat::hash_of(&forged.to_bytes());
            let error = Keyring::unwrap(&object, new.credential, &forged, &hash).unwrap_err();
            assert_eq!(
                error,
                KeyError::Inconsistent("it was made for another format object")
            );
            let renamed = KeyDescription {
                label: "somebody else".into(),
                ..object.description().clone()
            };
            let renamed = KeyObject::new(renamed, object.wrapped().to_vec());
            assert!(matches!(
                site.unwrap(&renamed, new.credential),
                Err(KeyError::Inconsistent(_))
            ));
            let other = RepositoryFormat {
                id: RepositoryId([2; 16]),
                ..site.format.clone()
            };
            let error = Keyring::unwrap(&object, new.credential, &other, &site.hash).unwrap_err();
            assert_eq!(error, KeyError::OtherRepository(RepositoryId([1; 16])));
        }
    }

    #[test]
    fn what_cannot_be_given_is_refused() {
        let site = example(Suite::Aes256Gcm);
        let hash = site.hash;
        let host = site.keyring.restricted(SecretSet::WRITE_ONLY);
        let secret = Secret32::take(&mut [8; 32]);
        let new = NewKey::key_file(&secret, "host", 6);
        assert!(matches!(
            host.wrap(&new, &hash, &mut SeededRandom::new(3)),
            Err(KeyError::Missing(_))
        ));
        let plain = NewKey::plain("in clear", 6);
        assert!(matches!(
            site.keyring.wrap(&plain, &hash, &mut SeededRandom::new(3)),
            Err(KeyError::Refused(_))
        ));
        let greedy = KdfSettings {
            memory_kib: u32::MAX,
            passes: 1,
            lanes: 1,
        };
        let new = NewKey::passphrase(b"x", greedy, "greedy", 0);
        assert!(matches!(
            site.keyring.wrap(&new, &hash, &mut SeededRandom::new(3)),
            Err(KeyError::Refused(_))
        ));
        let reserved = KeyKind::Recipient {
            kem: 0x20,
            public: vec![],
            encapsulated: vec![],
        };
        let new = NewKey {
            kind: reserved,
            ..NewKey::plain("later", 0)
        };
        let error = site
            .keyring
            .wrap(&new, &hash, &mut SeededRandom::new(3))
            .unwrap_err();
        assert_eq!(error, KeyError::Unsupported("recipient"));
    }

    /// A key object in clear can be forged by anybody who can write to the store.
    #[test]
    fn planted_secrets_are_refused() {
        let (open, site) = (example(Suite::None), example(Suite::Aes256Gcm));
        let planted = open
            .keyring
            .wrap(
                &NewKey::plain("mine", 0),
                &site.hash,
                &mut SeededRandom::new(3),
            )
            .unwrap();
        assert!(matches!(
            site.unwrap(&planted, Credential::None),
            Err(KeyError::Inconsistent(_))
        ));
        let plain = open.wrap(&NewKey::plain("open", 0));
        let with_passphrase = open
            .unwrap(&plain, Credential::Passphrase(b"typed in vain"))
            .unwrap_err();
        assert_eq!(with_passphrase, KeyError::OtherCredential("plain"));
    }

    #[test]
    fn malformed_wraps_are_errors() {
        let open = example(Suite::None);
        let object = open.wrap(&NewKey::plain("open", 0));
        for len in 0..object.wrapped().len() {
            let cut = KeyObject::new(
                object.description().clone(),
                object.wrapped()[..len].to_vec(),
            );
            assert!(matches!(
                open.unwrap(&cut, Credential::None),
                Err(KeyError::Inconsistent(_))
            ));
        }
        let site = example(Suite::Aes256Gcm);
        let secret = Secret32::take(&mut [8; 32]);
        let object = site.wrap(&NewKey::key_file(&secret, "host", 6));
        for len in 0..object.wrapped().len() {
            let cut = KeyObject::new(
                object.description().clone(),
                object.wrapped()[..len].to_vec(),
            );
            assert!(site.unwrap(&cut, Credential::Secret(&secret)).is_err());
        }
    }
}
