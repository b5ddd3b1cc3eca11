//! Sealed objects: the header with its key, whole objects, and objects segment by segment.
//!
//! A pack's frames are sealed by whoever builds the pack, with the [`ObjectKey`] from here; everything else is a run of segments.
//!
//! Layout of a segmented body: plaintext in segments of 1 MiB, the last one shorter or as long, each followed by its tag of 16 bytes;
//! numbered from 0, and bound to whether it is the last. An empty plaintext is one empty segment. All lengths follow from the object's.
//!
//! Key of an object: BLAKE3 of the writer secret (mode 1) or of the data key that the header carries wrapped (mode 2), the repository id,
//! and all header fields before the commitment. Its first 32 bytes are the key, the next 32 the commitment, which is compared before
//! anything is opened.
//!
//! Invariants:
//! 1. No field of the header and no byte of the body can change unnoticed (`every_flip_is_an_error`).
//! 2. An object that was cut anywhere, or has something appended, is an error (`every_truncation_is_an_error`).
//! 3. Without the seal private key packs and snapshot records can be made, and not opened (`a_write_only_host_cannot_read`).

use std::ops::Range;

use thiserror::Error;

use super::aead::{ObjectKey, TAG_LEN};
use super::envelope;
use super::kdf::{self, Committed};
use super::keys::{Keyring, MissingSecret};
use super::random::{Random, array};
use super::secret::{Secret32, constant_time_eq};
use crate::format::header::{Header, HeaderError, SealedKind, WRAP_LEN};
use crate::format::id::Nonce;

/// Plaintext bytes of every segment but the last.
pub const SEGMENT_LEN: usize = 1 << 20;

const SEALED_SEGMENT_LEN: usize = SEGMENT_LEN + TAG_LEN;

/// Why something can't be sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SealError {
    /// The header can't be read.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// An intact header of something else.
    #[error("object is a {found}, not a {expected}")]
    Kind {
        /// What was asked for.
        expected: SealedKind,
        /// What it is.
        found: SealedKind,
    },
    /// The header names another suite than the repository.
    #[error("object is protected in another way than its repository")]
    Suite,
    /// The key in use lacks a secret.
    #[error(transparent)]
    Missing(#[from] MissingSecret),
    /// The header does not fit the keys: it is damaged, or of another repository.
    #[error("object header is damaged: it does not fit the keys of this repository")]
    Commitment,
    /// A frame or segment is not what was sealed.
    #[error("frame {number} is damaged")]
    Frame {
        /// Its number.
        number: u64,
    },
    /// The body can't be a run of segments.
    #[error("object is cut short")]
    Truncated,
    /// Longer than the cipher takes.
    #[error("frame is too long to be sealed")]
    FrameTooLong,
    /// The seal public key is not a point that keys can be wrapped to.
    #[error("the seal public key is not usable")]
    PublicKey,
}

impl SealError {
    /// True if the stored bytes are to blame: not what this program wrote. False for a newer version and for missing secrets.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Header(HeaderError::Newer(_))
            | Self::Missing(_)
            | Self::FrameTooLong
            | Self::PublicKey => false,
            Self::Header(_)
            | Self::Kind { .. }
            | Self::Suite
            | Self::Commitment
            | Self::Frame { .. }
            | Self::Truncated => true,
        }
    }
}

impl Keyring {
    /// Starts an object: its header's bytes, and the key for its frames.
    pub fn new_object(
        &self,
        kind: SealedKind,
        session: u64,
        random: &mut dyn Random,
    ) -> Result<(Vec<u8>, ObjectKey), SealError> {
        let (header, key) = self.new_header(kind, session, random)?;
        Ok((header.to_bytes(), key))
    }

    /// Reads the header that `bytes` start with, and finds the key. The body starts at [`Header::encoded_len`].
    pub fn open_header(
        &self,
        expected: SealedKind,
        bytes: &[u8],
    ) -> Result<(Header, ObjectKey), SealError> {
        let header = Header::decode(bytes)?;
        if header.kind != expected {
            return Err(SealError::Kind {
                expected,
                found: header.kind,
            });
        }
        if header.suite != self.suite {
            return Err(SealError::Suite);
        }
        let committed = match &header.wrap {
            None => self.derive_from_writer(&header)?,
            Some(wrapped) => self.derive_from_wrap(&header, wrapped)?,
        };
        if !constant_time_eq(&committed.commitment, &header.commitment) {
            return Err(SealError::Commitment);
        }
        let key = ObjectKey::new(
            self.suite,
            committed.key,
            &self.repository_id,
            header.kind,
            &header.salt,
        );
        Ok((header, key))
    }

    /// Seals a whole object of segments.
    pub fn seal_object(
        &self,
        kind: SealedKind,
        session: u64,
        plaintext: &[u8],
        random: &mut dyn Random,
    ) -> Result<Vec<u8>, SealError> {
        let (mut out, key) = self.new_object(kind, session, random)?;
        out.reserve_exact(sealed_len(plaintext.len()));
        let mut writer = SegmentWriter::new(key);
        writer.write(plaintext, &mut out)?;
        writer.finish(&mut out)?;
        Ok(out)
    }

    /// Opens a whole object of segments.
    pub fn open_object(
        &self,
        kind: SealedKind,
        bytes: &[u8],
    ) -> Result<(Header, Vec<u8>), SealError> {
        let (header, key) = self.open_header(kind, bytes)?;
        let body = bytes
            .get(header.encoded_len()..)
            .ok_or(SealError::Truncated)?;
        let mut plaintext = Vec::with_capacity(body.len());
        let mut reader = SegmentReader::new(key, body)?;
        while let Some(segment) = reader.next_segment()? {
            plaintext.extend_from_slice(segment);
        }
        Ok((header, plaintext))
    }

    fn new_header(
        &self,
        kind: SealedKind,
        session: u64,
        random: &mut dyn Random,
    ) -> Result<(Header, ObjectKey), SealError> {
        let nonce = Nonce(array(random));
        let salt = array(random);
        let wrap = kind.is_wrapped().then_some([0; WRAP_LEN]);
        let mut header = Header {
            kind,
            suite: self.suite,
            session,
            nonce,
            salt,
            commitment: [0; 32],
            wrap,
        };
        let committed = if kind.is_wrapped() {
            let data_key = Secret32::generate(random);
            let wrapped = envelope::wrap(
                &self.seal_public,
                &self.repository_id,
                &header,
                &data_key,
                random,
            );
            header.wrap = Some(wrapped.ok_or(SealError::PublicKey)?);
            kdf::object_from_data_key(&data_key, &self.repository_id, &header.bound())
        } else {
            self.derive_from_writer(&header)?
        };
        header.commitment = committed.commitment;
        let key = ObjectKey::new(self.suite, committed.key, &self.repository_id, kind, &salt);
        Ok((header, key))
    }

    fn derive_from_writer(&self, header: &Header) -> Result<Committed, SealError> {
        let missing = MissingSecret {
            action: "read or write the index and the log",
            secret: "writer",
        };
        let writer = self.writer.as_ref().ok_or(missing)?;
        Ok(kdf::object_from_writer(
            writer,
            &self.repository_id,
            &header.bound(),
        ))
    }

    fn derive_from_wrap(
        &self,
        header: &Header,
        wrapped: &[u8; WRAP_LEN],
    ) -> Result<Committed, SealError> {
        let missing = MissingSecret {
            action: "read packs and snapshot records",
            secret: "seal private",
        };
        let private = self.seal_private.as_ref().ok_or(missing)?;
        let bound = header.bound();
        let data_key = envelope::unwrap(private, &self.repository_id, header, &bound, wrapped)
            .ok_or(SealError::Commitment)?;
        Ok(kdf::object_from_data_key(
            &data_key,
            &self.repository_id,
            &bound,
        ))
    }
}

/// Sealed length of a segmented body with this much plaintext.
fn sealed_len(plain_len: usize) -> usize {
    let segments = plain_len.div_ceil(SEGMENT_LEN).max(1);
    plain_len.saturating_add(segments.saturating_mul(TAG_LEN))
}

/// Seals a stream of unknown length segment by segment; holds one segment.
#[derive(Debug)]
pub struct SegmentWriter {
    key: ObjectKey,
    number: u64,
    pending: Vec<u8>,
}

impl SegmentWriter {
    /// `key` must not have sealed anything yet.
    pub fn new(key: ObjectKey) -> Self {
        Self {
            key,
            number: 0,
            pending: Vec::new(),
        }
    }

    /// Takes plaintext, and appends every segment that is known not to be the last to `out`.
    pub fn write(&mut self, mut plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        while !plaintext.is_empty() {
            if self.pending.len() == SEGMENT_LEN {
                self.seal_pending(false, out)?;
            }
            let room = SEGMENT_LEN.saturating_sub(self.pending.len());
            let (head, tail) = plaintext.split_at(room.min(plaintext.len()));
            self.pending.extend_from_slice(head);
            plaintext = tail;
        }
        Ok(())
    }

    /// Appends the last segment.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), SealError> {
        self.seal_pending(true, out)
    }

    fn seal_pending(&mut self, last: bool, out: &mut Vec<u8>) -> Result<(), SealError> {
        let tag = self
            .key
            .seal_segment(self.number, last, &mut self.pending)?;
        out.extend_from_slice(&self.pending);
        out.extend_from_slice(&tag);
        self.number += 1;
        self.pending.clear();
        Ok(())
    }
}

/// Where the segments of a body are, from its length alone: for reading them one by one, in any order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentLayout {
    body_len: u64,
    count: u64,
}

impl SegmentLayout {
    /// `body_len`: length of the object without its header. An error if no plaintext gives this length.
    pub fn new(body_len: u64) -> Result<Self, SealError> {
        let count = body_len.div_ceil(SEALED_SEGMENT_LEN as u64);
        let layout = Self { body_len, count };
        let last = count
            .checked_sub(1)
            .and_then(|number| layout.range(number))
            .ok_or(SealError::Truncated)?;
        // Only the one segment of an empty plaintext is nothing but a tag.
        let shortest = TAG_LEN as u64 + u64::from(count > 1);
        match last.end - last.start >= shortest {
            true => Ok(layout),
            false => Err(SealError::Truncated),
        }
    }

    /// How many segments there are; at least one.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Length of the plaintext.
    pub fn plain_len(&self) -> u64 {
        self.body_len - self.count * TAG_LEN as u64
    }

    /// Where segment `number` is in the body, tag included; `None` behind the last.
    pub fn range(&self, number: u64) -> Option<Range<u64>> {
        if number >= self.count {
            return None;
        }
        let start = number * SEALED_SEGMENT_LEN as u64;
        let end = start.saturating_add(SEALED_SEGMENT_LEN as u64);
        Some(start..end.min(self.body_len))
    }

    /// The segment that holds this position of the plaintext, and the position in it; `None` at and behind the end.
    pub fn locate(&self, position: u64) -> Option<(u64, usize)> {
        if position >= self.plain_len() {
            return None;
        }
        let within = usize::try_from(position % SEGMENT_LEN as u64).ok()?;
        Some((position / SEGMENT_LEN as u64, within))
    }

    /// Opens the bytes of [`SegmentLayout::range`].
    pub fn open<'a>(
        &self,
        key: &ObjectKey,
        number: u64,
        buf: &'a mut [u8],
    ) -> Result<&'a mut [u8], SealError> {
        let range = self.range(number).ok_or(SealError::Truncated)?;
        if buf.len() as u64 != range.end - range.start {
            return Err(SealError::Truncated);
        }
        key.open_segment(number, number + 1 == self.count, buf)
    }
}

/// Opens a body in memory segment by segment; holds one segment.
#[derive(Debug)]
pub struct SegmentReader<'a> {
    key: ObjectKey,
    layout: SegmentLayout,
    body: &'a [u8],
    number: u64,
    buf: Vec<u8>,
}

impl<'a> SegmentReader<'a> {
    /// `body`: the object without its header.
    pub fn new(key: ObjectKey, body: &'a [u8]) -> Result<Self, SealError> {
        let layout = SegmentLayout::new(body.len() as u64)?;
        Ok(Self {
            key,
            layout,
            body,
            number: 0,
            buf: Vec::new(),
        })
    }

    /// The next segment's plaintext; `None` after the last. Every segment but the last has [`SEGMENT_LEN`] bytes.
    pub fn next_segment(&mut self) -> Result<Option<&[u8]>, SealError> {
        if self.number == self.layout.count {
            return Ok(None);
        }
        let (sealed, rest) = self.body.split_at(self.body.len().min(SEALED_SEGMENT_LEN));
        self.buf.clear();
        self.buf.extend_from_slice(sealed);
        let number = self.number;
        self.body = rest;
        self.number += 1;
        self.layout
            .open(&self.key, number, &mut self.buf)
            .map(|plain| Some(&*plain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SeededRandom;
    use crate::format::header::Suite;
    use crate::format::id::{ObjectHash, RepositoryId};
    use crate::format::key::SecretSet;

    const SUITES: [Suite; 2] = [Suite::None, Suite::Aes256Gcm];

    fn keyring(suite: Suite) -> Keyring {
        Keyring::generate(
            RepositoryId([1; 16]),
            suite,
            None,
            &mut SeededRandom::new(1),
        )
    }

    fn sealed(keyring: &Keyring, kind: SealedKind, plaintext: &[u8]) -> Vec<u8> {
        keyring
            .seal_object(kind, 42, plaintext, &mut SeededRandom::new(2))
            .unwrap()
    }

    #[test]
    fn known_answers() {
        let plaintext = b"the bytes of format 1 never drift";
        let expected = [
            "cae61358708b41995ce6c34fd3ea791969e37403e02f10729f48e6625a9ddc07",
            "b60d6dda1470fa8d337ece7eaaaa8ce8a386fff70c71e99742b159d03a9c9a9c",
            "e5ab5f43809f1d66f46a1b34727a3b8b0b3612f4675455f1559972af329f9512",
            "b6e2e05698d5f3b6a8ba31a8323b07bb02cb0f4331be14c248a1da014921bb28",
        ];
        let mut expected = expected.into_iter();
        for suite in SUITES {
            for kind in [SealedKind::Log, SealedKind::Snapshot] {
                let bytes = sealed(&keyring(suite), kind, plaintext);
                assert_eq!(
                    ObjectHash::of(&bytes).to_string(),
                    expected.next().unwrap(),
                    "{suite:?} {kind}"
                );
            }
        }
    }

    #[test]
    fn round_trips() {
        let big: Vec<u8> = (0u32..3 << 18).flat_map(u32::to_le_bytes).collect();
        let lengths = [
            0,
            1,
            1000,
            SEGMENT_LEN - 1,
            SEGMENT_LEN,
            SEGMENT_LEN + 1,
            2 * SEGMENT_LEN,
            2 * SEGMENT_LEN + 7,
        ];
        for suite in SUITES {
            let keyring = keyring(suite);
            for kind in SealedKind::ALL {
                let bytes = sealed(&keyring, kind, b"body");
                let (header, plaintext) = keyring.open_object(kind, &bytes).unwrap();
                assert_eq!((header.session, plaintext.as_slice()), (42, &b"body"[..]));
            }
            for len in lengths {
                let bytes = sealed(&keyring, SealedKind::Index, &big[..len]);
                assert_eq!(
                    bytes.len(),
                    SealedKind::Index.header_len() + sealed_len(len)
                );
                assert_eq!(
                    keyring.open_object(SealedKind::Index, &bytes).unwrap().1,
                    &big[..len]
                );
            }
        }
    }

    #[test]
    fn every_flip_is_an_error() {
        for suite in SUITES {
            let keyring = keyring(suite);
            for kind in [SealedKind::Log, SealedKind::Snapshot] {
                let mut bytes = sealed(&keyring, kind, b"some plaintext");
                for position in 0..bytes.len() {
                    for bit in 0..8 {
                        bytes[position] ^= 1 << bit;
                        let error = keyring.open_object(kind, &bytes).unwrap_err();
                        let newer = matches!(error, SealError::Header(HeaderError::Newer(_)));
                        assert!(
                            error.is_damage() || (newer && position == 9),
                            "{position}.{bit}: {error}"
                        );
                        bytes[position] ^= 1 << bit;
                    }
                }
                assert!(keyring.open_object(kind, &bytes).is_ok());
            }
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        for suite in SUITES {
            let keyring = keyring(suite);
            for kind in [SealedKind::Log, SealedKind::Snapshot] {
                let mut bytes = sealed(&keyring, kind, b"some plaintext");
                for len in 0..bytes.len() {
                    assert!(keyring.open_object(kind, &bytes[..len]).is_err(), "{len}");
                }
                bytes.push(0);
                assert!(keyring.open_object(kind, &bytes).is_err());
            }
        }
    }

    #[test]
    fn cuts_at_segment_borders_are_errors() {
        let keyring = keyring(Suite::Aes256Gcm);
        let bytes = sealed(&keyring, SealedKind::Index, &vec![5; 2 * SEGMENT_LEN + 100]);
        let header_len = SealedKind::Index.header_len();
        for segments in 0..3 {
            let cut = header_len + segments * SEALED_SEGMENT_LEN;
            for len in [cut, cut + 1, cut + TAG_LEN, cut + TAG_LEN + 1] {
                assert!(
                    keyring
                        .open_object(SealedKind::Index, &bytes[..len])
                        .is_err(),
                    "{len}"
                );
            }
        }
        let mut swapped = bytes.clone();
        swapped[header_len..header_len + 2 * SEALED_SEGMENT_LEN].rotate_left(SEALED_SEGMENT_LEN);
        assert_eq!(
            keyring.open_object(SealedKind::Index, &swapped),
            Err(SealError::Frame { number: 0 })
        );
    }

    #[test]
    fn swaps_are_errors() {
        for suite in SUITES {
            let ours = keyring(suite);
            let log = sealed(&ours, SealedKind::Log, b"entry");
            let expected = SealError::Kind {
                expected: SealedKind::Gc,
                found: SealedKind::Log,
            };
            assert_eq!(ours.open_object(SealedKind::Gc, &log), Err(expected));
            let mut renamed = log.clone();
            renamed[8] = SealedKind::Gc.code();
            assert_eq!(
                ours.open_object(SealedKind::Gc, &renamed),
                Err(SealError::Commitment)
            );
            for kind in [SealedKind::Log, SealedKind::Snapshot] {
                let bytes = sealed(&ours, kind, b"entry");
                let moved = Keyring {
                    repository_id: RepositoryId([2; 16]),
                    ..ours.clone()
                };
                assert_eq!(moved.open_object(kind, &bytes), Err(SealError::Commitment));
                let stranger = Keyring::generate(
                    RepositoryId([1; 16]),
                    suite,
                    None,
                    &mut SeededRandom::new(9),
                );
                assert_eq!(
                    stranger.open_object(kind, &bytes),
                    Err(SealError::Commitment)
                );
                let other = ours
                    .seal_object(kind, 42, b"entry", &mut SeededRandom::new(3))
                    .unwrap();
                let body = kind.header_len();
                let spliced = [&bytes[..body], &other[body..]].concat();
                assert_eq!(
                    ours.open_object(kind, &spliced),
                    Err(SealError::Frame { number: 0 })
                );
            }
        }
        let plain = sealed(&keyring(Suite::None), SealedKind::Log, b"entry");
        assert_eq!(
            keyring(Suite::Aes256Gcm).open_object(SealedKind::Log, &plain),
            Err(SealError::Suite)
        );
    }

    #[test]
    fn equal_plaintexts_give_different_objects() {
        let keyring = keyring(Suite::None);
        let mut random = SeededRandom::new(4);
        let mut seal = |kind| keyring.seal_object(kind, 0, b"same", &mut random).unwrap();
        for kind in SealedKind::ALL {
            let (one, other) = (seal(kind), seal(kind));
            let tag = one.len() - TAG_LEN;
            assert_ne!(
                one[tag..],
                other[tag..],
                "the tags are made with different keys"
            );
        }
    }

    #[test]
    fn a_write_only_host_cannot_read() {
        let admin = keyring(Suite::Aes256Gcm);
        let host = admin.restricted(SecretSet::WRITE_ONLY);
        for kind in SealedKind::ALL {
            let bytes = host
                .seal_object(kind, 7, b"by the host", &mut SeededRandom::new(5))
                .unwrap();
            assert_eq!(admin.open_object(kind, &bytes).unwrap().1, b"by the host");
            match host.open_object(kind, &bytes) {
                Ok(_) => assert!(!kind.is_wrapped()),
                Err(error) => {
                    assert!(kind.is_wrapped() && !error.is_damage());
                    let text = "this key can't read packs and snapshot records: it does not hold the seal private secret";
                    assert_eq!(error.to_string(), text);
                }
            }
        }
        let reader = admin.restricted(SecretSet {
            seal_private: true,
            ..SecretSet::default()
        });
        assert!(matches!(
            reader.seal_object(SealedKind::Log, 7, b"", &mut SeededRandom::new(5)),
            Err(SealError::Missing(_))
        ));
    }

    #[test]
    fn streams_in_any_pieces_give_the_same_object() {
        let keyring = keyring(Suite::Aes256Gcm);
        let plaintext: Vec<u8> = (0..=255).cycle().take(SEGMENT_LEN * 2 + 4321).collect();
        let whole = sealed(&keyring, SealedKind::Index, &plaintext);
        for piece in [1 << 10, 777_777, SEGMENT_LEN, 3 * SEGMENT_LEN] {
            let (mut out, key) = keyring
                .new_object(SealedKind::Index, 42, &mut SeededRandom::new(2))
                .unwrap();
            let mut writer = SegmentWriter::new(key);
            for part in plaintext.chunks(piece) {
                writer.write(part, &mut out).unwrap();
            }
            writer.finish(&mut out).unwrap();
            assert!(out == whole, "pieces of {piece}");
        }
        let (header, key) = keyring.open_header(SealedKind::Index, &whole).unwrap();
        let body = &whole[header.encoded_len()..];
        let layout = SegmentLayout::new(body.len() as u64).unwrap();
        assert_eq!(
            (layout.count(), layout.plain_len()),
            (3, plaintext.len() as u64)
        );
        for number in (0..layout.count()).rev() {
            let range = layout.range(number).unwrap();
            let mut buf = body
                [usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
                .to_vec();
            let start = usize::try_from(number).unwrap() * SEGMENT_LEN;
            let plain = layout.open(&key, number, &mut buf).unwrap();
            assert!(plain == &plaintext[start..start + plain.len()]);
        }
        assert_eq!(layout.locate(SEGMENT_LEN as u64 + 5), Some((1, 5)));
        assert_eq!(layout.locate(plaintext.len() as u64), None);
    }

    #[test]
    fn layouts_are_total() {
        let segment = SEALED_SEGMENT_LEN as u64;
        for bad in [0, 1, 15, segment + 1, segment + 16, 3 * segment + 16] {
            assert_eq!(SegmentLayout::new(bad), Err(SealError::Truncated), "{bad}");
        }
        for good in [16, 17, segment, segment + 17, u64::MAX] {
            let Ok(layout) = SegmentLayout::new(good) else {
                continue;
            };
            let last = layout.range(layout.count() - 1).unwrap();
            assert_eq!(last.end, good);
            assert_eq!(layout.range(layout.count()), None);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_error(junk in proptest::collection::vec(proptest::num::u8::ANY, 0..400), kind in 0usize..9) {
            let kind = SealedKind::ALL[kind];
            let keyring = keyring(Suite::Aes256Gcm);
            let mut bytes = sealed(&keyring, kind, b"");
            assert!(keyring.open_object(kind, &junk).is_err());
            bytes.truncate(kind.header_len());
            bytes.extend_from_slice(&junk);
            assert!(keyring.open_object(kind, &bytes).is_err());
        }
    }
}
