//! The plain header that every sealed object starts with.
//!
//! It says what the object is and how its key is found, and nothing about the content; it does not decide whether the object is genuine:
//! `crypto` binds all fields before the commitment into the object's key, and the commitment says whether that key is right.
//!
//! Layout, little-endian:
//!
//! | offset | size | name |
//! |---|---|---|
//! | 0 | 8 | magic `HOLDFAST` |
//! | 8 | 1 | kind: 1 pack, 2 index run, 3 snapshot record, 4 log entry, 5 gc list, 6 ledger, 7 quarantine, 8 checkpoint, 9 map |
//! | 9 | 1 | format version = 1 |
//! | 10 | 1 | suite: 0 BLAKE3-128 tags without encryption, 1 AES-256-GCM |
//! | 11 | 1 | key mode: 1 derived from the writer secret, 2 random data key wrapped to the seal public key by HPKE |
//! | 12 | 2 | KEM id of RFC 9180: 0 in mode 1, 0x0020 (X25519, HKDF-SHA256) in mode 2 |
//! | 14 | 2 | reserved = 0 |
//! | 16 | 8 | session: log number of the session that wrote the object, 0 before any session |
//! | 24 | 16 | nonce: random, so that no name ever repeats |
//! | 40 | 32 | salt: random |
//! | 72 | 32 | key commitment |
//! | 104 | 2 | length of the wrap: 0 in mode 1, 80 in mode 2 |
//! | 106 | 0 or 80 | wrap: encapsulated key 32, sealed data key 32, tag 16 |
//!
//! Invariants:
//! 1. Decoding is total and the inverse of encoding: one header has one form (`headers_have_one_form`).
//! 2. A kind has one key mode (`a_kind_has_one_key_mode`), so that nobody who holds only the public key can make a log entry or an index.

use std::fmt;

use thiserror::Error;

use super::id::Nonce;

/// The first bytes of every sealed object.
pub const MAGIC: [u8; 8] = *b"HOLDFAST";
/// The version that this code writes, and the newest that it reads.
pub const FORMAT_VERSION: u8 = 1;
/// Bytes before the commitment; all of them are bound into the object's key.
pub const BOUND_LEN: usize = 72;
/// Length of a header whose key is derived (mode 1).
pub const HEADER_LEN_DERIVED: usize = 106;
/// Length of a header that carries a wrapped key (mode 2), the longest there is.
pub const HEADER_LEN_WRAPPED: usize = 186;
/// Length of the wrap in mode 2.
pub const WRAP_LEN: usize = 80;

const MODE_DERIVED: u8 = 1;
const MODE_WRAPPED: u8 = 2;
const KEM_X25519_HKDF_SHA256: u16 = 0x0020;

/// What a sealed object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum SealedKind {
    /// Frames and their directory.
    Pack = 1,
    /// A sorted run of the chunk index.
    Index = 2,
    /// A snapshot record.
    Snapshot = 3,
    /// An entry of the commit log.
    Log = 4,
    /// What one prune condemns.
    Gc = 5,
    /// What was verified.
    Ledger = 6,
    /// What is known to be damaged.
    Quarantine = 7,
    /// The folded state at a log number.
    Checkpoint = 8,
    /// Chunk ids of another repository and ours.
    Map = 9,
}

impl SealedKind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Pack,
        Self::Index,
        Self::Snapshot,
        Self::Log,
        Self::Gc,
        Self::Ledger,
        Self::Quarantine,
        Self::Checkpoint,
        Self::Map,
    ];

    /// The byte in the header.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The kind with this byte.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// True for what a write-only host can write and not read: packs and snapshot records.
    pub fn is_wrapped(self) -> bool {
        matches!(self, Self::Pack | Self::Snapshot)
    }

    /// Length of the header of every object of this kind.
    pub fn header_len(self) -> usize {
        if self.is_wrapped() {
            HEADER_LEN_WRAPPED
        } else {
            HEADER_LEN_DERIVED
        }
    }
}

impl fmt::Display for SealedKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pack => "pack",
            Self::Index => "index run",
            Self::Snapshot => "snapshot record",
            Self::Log => "log entry",
            Self::Gc => "gc list",
            Self::Ledger => "ledger",
            Self::Quarantine => "quarantine list",
            Self::Checkpoint => "checkpoint",
            Self::Map => "map",
        })
    }
}

/// How bodies are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Suite {
    /// No encryption; keyed BLAKE3-128 tags.
    None = 0,
    /// AES-256-GCM.
    Aes256Gcm = 1,
}

impl Suite {
    /// The byte in headers and in the `format` object.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The suite with this byte.
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::None),
            1 => Some(Self::Aes256Gcm),
            _ => None,
        }
    }
}

/// The fields of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the object is.
    pub kind: SealedKind,
    /// How its body is protected.
    pub suite: Suite,
    /// Log number of the session that wrote it; 0 before any.
    pub session: u64,
    /// Makes the name unique.
    pub nonce: Nonce,
    /// Makes the key unique.
    pub salt: [u8; 32],
    /// Second output of the derivation of the object's key.
    pub commitment: [u8; 32],
    /// The wrapped data key: present exactly in the kinds that are [`SealedKind::is_wrapped`].
    pub wrap: Option<[u8; WRAP_LEN]>,
}

/// Why bytes are not a header that we can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// The magic is another one.
    #[error("not a holdfast object")]
    NotHoldfast,
    /// Written by a later version.
    #[error("object has format version {0}, this program reads up to {FORMAT_VERSION}")]
    Newer(u8),
    /// Too short for a header.
    #[error("object ends inside its header")]
    Truncated,
    /// A field has a value that no writer gives it.
    #[error("object header is damaged: {0}")]
    Damaged(&'static str),
}

impl Header {
    /// Length in bytes.
    pub fn encoded_len(&self) -> usize {
        if self.wrap.is_some() {
            HEADER_LEN_WRAPPED
        } else {
            HEADER_LEN_DERIVED
        }
    }

    /// The bytes before the commitment.
    pub fn bound(&self) -> [u8; BOUND_LEN] {
        let (mode, kem) = match self.wrap_expected() {
            false => (MODE_DERIVED, 0),
            true => (MODE_WRAPPED, KEM_X25519_HKDF_SHA256),
        };
        let mut out = [0; BOUND_LEN];
        let mut rest = out.as_mut_slice();
        put(&mut rest, &MAGIC);
        put(
            &mut rest,
            &[self.kind.code(), FORMAT_VERSION, self.suite.code(), mode],
        );
        put(&mut rest, &u16::to_le_bytes(kem));
        put(&mut rest, &[0; 2]);
        put(&mut rest, &self.session.to_le_bytes());
        put(&mut rest, &self.nonce.0);
        put(&mut rest, &self.salt);
        out
    }

    /// The whole header.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN_WRAPPED);
        out.extend_from_slice(&self.bound());
        out.extend_from_slice(&self.commitment);
        let wrap = self.wrap.as_ref().map_or(&[][..], |wrap| &wrap[..]);
        let wrap_len = if wrap.is_empty() { 0u16 } else { 80 };
        out.extend_from_slice(&wrap_len.to_le_bytes());
        out.extend_from_slice(wrap);
        out
    }

    /// Reads the header that an object starts with; what follows it is not looked at. Its length is [`Header::encoded_len`].
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut rest = bytes;
        if take::<8>(&mut rest)? != MAGIC {
            return Err(HeaderError::NotHoldfast);
        }
        let [kind, version, suite, mode] = take(&mut rest)?;
        if version > FORMAT_VERSION {
            return Err(HeaderError::Newer(version));
        }
        if version == 0 {
            return Err(HeaderError::Damaged("version"));
        }
        let kind = SealedKind::from_code(kind).ok_or(HeaderError::Damaged("kind"))?;
        let suite = Suite::from_code(suite).ok_or(HeaderError::Damaged("suite"))?;
        let kem = u16::from_le_bytes(take(&mut rest)?);
        let expected = match kind.is_wrapped() {
            false => (MODE_DERIVED, 0),
            true => (MODE_WRAPPED, KEM_X25519_HKDF_SHA256),
        };
        if (mode, kem) != expected {
            return Err(HeaderError::Damaged("key mode"));
        }
        if take(&mut rest)? != [0; 2] {
            return Err(HeaderError::Damaged("reserved field"));
        }
        let session = u64::from_le_bytes(take(&mut rest)?);
        let nonce = Nonce(take(&mut rest)?);
        let salt = take(&mut rest)?;
        let commitment = take(&mut rest)?;
        let wrap = match (kind.is_wrapped(), u16::from_le_bytes(take(&mut rest)?)) {
            (false, 0) => None,
            (true, 80) => Some(take::<WRAP_LEN>(&mut rest)?),
            _ => return Err(HeaderError::Damaged("length of the wrapped key")),
        };
        Ok(Self {
            kind,
            suite,
            session,
            nonce,
            salt,
            commitment,
            wrap,
        })
    }

    fn wrap_expected(&self) -> bool {
        self.kind.is_wrapped()
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], HeaderError> {
    let (head, tail) = rest
        .split_first_chunk::<N>()
        .ok_or(HeaderError::Truncated)?;
    *rest = tail;
    Ok(*head)
}

fn put(rest: &mut &mut [u8], bytes: &[u8]) {
    let (head, tail) = std::mem::take(rest).split_at_mut(bytes.len());
    head.copy_from_slice(bytes);
    *rest = tail;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(kind: SealedKind) -> Header {
        Header {
            kind,
            suite: Suite::Aes256Gcm,
            session: 0x0102_0304_0506_0708,
            nonce: Nonce([0x11; 16]),
            salt: [0x22; 32],
            commitment: [0x33; 32],
            wrap: kind.is_wrapped().then_some([0x44; WRAP_LEN]),
        }
    }

    #[test]
    fn headers_have_one_form() {
        for kind in SealedKind::ALL {
            let header = example(kind);
            let mut bytes = header.to_bytes();
            assert_eq!(bytes.len(), header.encoded_len());
            assert_eq!(bytes.len(), kind.header_len());
            assert_eq!(Header::decode(&bytes), Ok(header.clone()));
            for len in 0..bytes.len() {
                assert_eq!(Header::decode(&bytes[..len]), Err(HeaderError::Truncated));
            }
            for position in 0..bytes.len() {
                for bit in 0..8 {
                    bytes[position] ^= 1 << bit;
                    if let Ok(other) = Header::decode(&bytes) {
                        assert_ne!(other, header);
                        assert_eq!(other.to_bytes(), bytes);
                    }
                    bytes[position] ^= 1 << bit;
                }
            }
        }
    }

    #[test]
    fn the_layout_is_fixed() {
        let bytes = example(SealedKind::Pack).to_bytes();
        assert_eq!(&bytes[..16], b"HOLDFAST\x01\x01\x01\x02\x20\x00\x00\x00");
        assert_eq!(&bytes[16..24], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(&bytes[24..40], [0x11; 16]);
        assert_eq!(&bytes[40..72], [0x22; 32]);
        assert_eq!(&bytes[72..104], [0x33; 32]);
        assert_eq!(&bytes[104..106], [80, 0]);
        assert_eq!(&bytes[106..], [0x44; 80]);
    }

    #[test]
    fn a_kind_has_one_key_mode() {
        let mut bytes = example(SealedKind::Log).to_bytes();
        bytes[8] = SealedKind::Pack.code();
        assert_eq!(
            Header::decode(&bytes),
            Err(HeaderError::Damaged("key mode"))
        );
    }

    #[test]
    fn newer_versions_and_strangers_are_named() {
        let mut bytes = example(SealedKind::Index).to_bytes();
        bytes[9] = 2;
        assert_eq!(Header::decode(&bytes), Err(HeaderError::Newer(2)));
        bytes[0] = b'h';
        assert_eq!(Header::decode(&bytes), Err(HeaderError::NotHoldfast));
    }
}
