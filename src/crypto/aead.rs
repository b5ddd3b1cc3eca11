//! The key of one object, and the frames that it seals.
//!
//! A frame is sealed with AES-256-GCM: nonce = frame number as a 96-bit little-endian counter; associated data = repository id, kind, salt
//! of the header, frame number, and where one is given a byte that says whether it is the last. Without encryption the tag is BLAKE3-128,
//! keyed with the object key, over the length of the associated data, these, and the body.
//!
//! It doesn't count: whoever seals gives every frame of an object its own number, once. Sealing two frames under one number would give both
//! away.
//!
//! Invariants: a frame opens only as what it was sealed (`frames_open_only_in_their_place`).
//!
//! Threads: an [`ObjectKey`] is shared by any number of threads; clones share one key schedule.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::seal::SealError;
use super::secret::{Secret32, constant_time_eq};
use crate::format::header::{SealedKind, Suite};
use crate::format::id::RepositoryId;

/// Bytes that sealing adds to a frame.
pub const TAG_LEN: usize = 16;

const AAD_PREFIX_LEN: usize = 16 + 1 + 32;

/// Seals and opens the numbered frames of one object.
#[derive(Clone)]
pub struct ObjectKey(Arc<Inner>);

struct Inner {
    cipher: Cipher,
    aad_prefix: [u8; AAD_PREFIX_LEN],
}

enum Cipher {
    Aes(LessSafeKey),
    Tag(Secret32),
}

/// Where a frame stands in its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    number: u64,
    last: Option<bool>,
}

impl ObjectKey {
    pub(super) fn new(
        suite: Suite,
        key: Secret32,
        repository: &RepositoryId,
        kind: SealedKind,
        salt: &[u8; 32],
    ) -> Self {
        let mut aad_prefix = [0; AAD_PREFIX_LEN];
        aad_prefix[..16].copy_from_slice(repository.as_bytes());
        aad_prefix[16] = kind.code();
        aad_prefix[17..].copy_from_slice(salt);
        let cipher = match suite {
            Suite::None => Cipher::Tag(key),
            Suite::Aes256Gcm => {
                let key =
                    UnboundKey::new(&AES_256_GCM, key.expose()).expect("AES-256 takes 32 bytes");
                Cipher::Aes(LessSafeKey::new(key))
            }
        };
        Self(Arc::new(Inner { cipher, aad_prefix }))
    }

    /// Seals `buf` as frame `number` and appends the tag. No number is used twice under one key.
    pub fn seal_in_place(&self, number: u64, buf: &mut Vec<u8>) -> Result<(), SealError> {
        let tag = self.seal(Place { number, last: None }, buf)?;
        buf.extend_from_slice(&tag);
        Ok(())
    }

    /// Seals `body` as frame `number` and returns the tag, which belongs right behind it. No number is used twice under one key.
    pub fn seal_detached(&self, number: u64, body: &mut [u8]) -> Result<[u8; TAG_LEN], SealError> {
        self.seal(Place { number, last: None }, body)
    }

    /// Opens frame `number`, tag included; returns the plaintext. After an error `buf` holds nothing usable.
    pub fn open_in_place<'a>(
        &self,
        number: u64,
        buf: &'a mut [u8],
    ) -> Result<&'a mut [u8], SealError> {
        self.open(Place { number, last: None }, buf)
    }

    /// Like [`ObjectKey::seal_detached`], and binds whether it is the last segment of its object.
    pub fn seal_segment(
        &self,
        number: u64,
        last: bool,
        body: &mut [u8],
    ) -> Result<[u8; TAG_LEN], SealError> {
        self.seal(
            Place {
                number,
                last: Some(last),
            },
            body,
        )
    }

    /// Opens what [`ObjectKey::seal_segment`] sealed, tag included.
    pub fn open_segment<'a>(
        &self,
        number: u64,
        last: bool,
        buf: &'a mut [u8],
    ) -> Result<&'a mut [u8], SealError> {
        self.open(
            Place {
                number,
                last: Some(last),
            },
            buf,
        )
    }

    fn seal(&self, place: Place, body: &mut [u8]) -> Result<[u8; TAG_LEN], SealError> {
        let aad = self.0.associated(place);
        match &self.0.cipher {
            Cipher::Tag(key) => Ok(plain_tag(key, aad.as_ref(), body)),
            Cipher::Aes(key) => {
                let tag = key
                    .seal_in_place_separate_tag(place.nonce(), Aad::from(aad), body)
                    .map_err(|_unspecified| SealError::FrameTooLong)?;
                tag.as_ref()
                    .try_into()
                    .map_err(|_length| SealError::FrameTooLong)
            }
        }
    }

    fn open<'a>(&self, place: Place, buf: &'a mut [u8]) -> Result<&'a mut [u8], SealError> {
        let damaged = SealError::Frame {
            number: place.number,
        };
        let aad = self.0.associated(place);
        match &self.0.cipher {
            Cipher::Tag(key) => {
                let (body, tag) = buf.split_last_chunk_mut::<TAG_LEN>().ok_or(damaged)?;
                match constant_time_eq(&plain_tag(key, aad.as_ref(), body), tag) {
                    true => Ok(body),
                    false => Err(SealError::Frame {
                        number: place.number,
                    }),
                }
            }
            Cipher::Aes(key) => key
                .open_in_place(place.nonce(), Aad::from(aad), buf)
                .map_err(|_unspecified| damaged),
        }
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ObjectKey")
    }
}

impl Place {
    fn nonce(self) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&self.number.to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Associated data of one frame, without an allocation.
struct Associated {
    bytes: [u8; AAD_PREFIX_LEN + 9],
    len: usize,
}

impl AsRef<[u8]> for Associated {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Inner {
    fn associated(&self, place: Place) -> Associated {
        let mut bytes = [0; AAD_PREFIX_LEN + 9];
        bytes[..AAD_PREFIX_LEN].copy_from_slice(&self.aad_prefix);
        bytes[AAD_PREFIX_LEN..AAD_PREFIX_LEN + 8].copy_from_slice(&place.number.to_le_bytes());
        let mut len = AAD_PREFIX_LEN + 8;
        if let Some(last) = place.last {
            bytes[len] = u8::from(last);
            len += 1;
        }
        Associated { bytes, len }
    }
}

fn plain_tag(key: &Secret32, aad: &[u8], body: &[u8]) -> [u8; TAG_LEN] {
    let mut out = [0; TAG_LEN];
    let mut hasher = blake3::Hasher::new_keyed(key.expose());
    hasher
        .update(&u64::to_le_bytes(aad.len() as u64))
        .update(aad)
        .update(body);
    hasher.finalize_xof().fill(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(suite: Suite, repository: u8, kind: SealedKind, salt: u8) -> ObjectKey {
        ObjectKey::new(
            suite,
            Secret32::take(&mut [9; 32]),
            &RepositoryId([repository; 16]),
            kind,
            &[salt; 32],
        )
    }

    #[test]
    fn frames_open_only_in_their_place() {
        for suite in [Suite::None, Suite::Aes256Gcm] {
            let ours = key(suite, 1, SealedKind::Pack, 2);
            let mut sealed = b"a frame".to_vec();
            ours.seal_in_place(3, &mut sealed).unwrap();
            assert_eq!(sealed.len(), 7 + TAG_LEN);
            assert_eq!(sealed.starts_with(b"a frame"), suite == Suite::None);
            assert_eq!(
                ours.open_in_place(3, &mut sealed.clone()).unwrap(),
                b"a frame"
            );
            assert!(ours.open_in_place(4, &mut sealed.clone()).is_err());
            assert!(ours.open_segment(3, false, &mut sealed.clone()).is_err());
            assert!(ours.open_segment(3, true, &mut sealed.clone()).is_err());
            let others = [
                key(suite, 2, SealedKind::Pack, 2),
                key(suite, 1, SealedKind::Index, 2),
                key(suite, 1, SealedKind::Pack, 3),
            ];
            for other in others {
                assert!(other.open_in_place(3, &mut sealed.clone()).is_err());
            }
        }
    }

    #[test]
    fn every_change_of_a_frame_is_an_error() {
        for suite in [Suite::None, Suite::Aes256Gcm] {
            let key = key(suite, 1, SealedKind::Pack, 2);
            for len in [0usize, 1, 15, 16, 17, 100] {
                let mut sealed = vec![7; len];
                key.seal_in_place(0, &mut sealed).unwrap();
                for position in 0..sealed.len() {
                    let mut changed = sealed.clone();
                    changed[position] ^= 1;
                    assert!(key.open_in_place(0, &mut changed).is_err());
                    assert!(
                        key.open_in_place(0, &mut sealed.clone()[..position])
                            .is_err()
                    );
                }
                assert_eq!(key.open_in_place(0, &mut sealed).unwrap(), vec![7; len]);
            }
        }
    }

    #[test]
    fn keys_are_shared_between_threads() {
        fn check<T: Send + Sync + Clone + 'static>(_: &T) {}
        check(&key(Suite::Aes256Gcm, 1, SealedKind::Pack, 2));
    }
}
