//! The `format` object: what every client must know before it has a key.
//!
//! Plain, written once at creation, twice (`format` and its copy, the same bytes). It holds no secret. Its hash is associated data of
//! every key wrap, so that nobody can change a setting and keep the keys.
//!
//! Layout: a [`framed`] object with the magic `HFFORMAT` and version 1; the body is a CBOR map with the integer keys of
//! [`RepositoryFormat`]; unknown keys are skipped.
//!
//! Invariants:
//! 1. Decoding is total, and no setting that it lets through can make a reader reserve more than the limits here (`limits_hold`).
//! 2. A stranger, a newer version and damage are told apart (`errors_are_told_apart`).

use minicbor::{Decode, Encode};

use super::framed::{self, FramedError};
use super::header::Suite;
use super::id::{ObjectHash, RepositoryId};

/// The first bytes of the `format` object.
pub const FORMAT_MAGIC: [u8; 8] = *b"HFFORMAT";
/// The version that this code writes, and the newest that it reads.
pub const REPOSITORY_VERSION: u16 = 1;

/// Longest chunk that any setting allows.
pub const CHUNK_BYTES_LIMIT: u32 = 16 << 20;
/// Longest frame (before compression) that any setting allows.
pub const FRAME_BYTES_LIMIT: u32 = 64 << 20;
/// Longest pack that any setting asks for.
pub const PACK_BYTES_LIMIT: u32 = 1 << 30;

/// What argon2id costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct KdfSettings {
    /// Memory in KiB.
    #[n(0)]
    pub memory_kib: u32,
    /// Passes over it.
    #[n(1)]
    pub passes: u32,
    /// Lanes.
    #[n(2)]
    pub lanes: u32,
}

impl KdfSettings {
    /// More memory than this is refused when a key object asks for it: 1 GiB.
    pub const MEMORY_KIB_MAX: u32 = 1 << 20;
    /// More passes are refused.
    pub const PASSES_MAX: u32 = 64;
    /// More lanes are refused.
    pub const LANES_MAX: u32 = 16;

    /// True if a reader may do what is asked.
    pub fn is_acceptable(&self) -> bool {
        (1..=Self::LANES_MAX).contains(&self.lanes)
            && (1..=Self::PASSES_MAX).contains(&self.passes)
            && (self.lanes.saturating_mul(8)..=Self::MEMORY_KIB_MAX).contains(&self.memory_kib)
    }
}

impl Default for KdfSettings {
    /// 64 MiB, 3 passes, 1 lane.
    fn default() -> Self {
        Self {
            memory_kib: 64 << 10,
            passes: 3,
            lanes: 1,
        }
    }
}

/// How streams of one class are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ChunkerSettings {
    /// The algorithm and the rule by which thresholds follow from the sizes; 1 is the only one yet.
    #[n(0)]
    pub algorithm: u8,
    /// No chunk but the last of a stream is shorter.
    #[n(1)]
    pub bytes_min: u32,
    /// What chunks of random data come near to.
    #[n(2)]
    pub bytes_average: u32,
    /// No chunk is longer.
    #[n(3)]
    pub bytes_max: u32,
}

impl ChunkerSettings {
    /// Half of the average at least, four times the average at most.
    pub fn around(bytes_average: u32) -> Self {
        Self {
            algorithm: 1,
            bytes_min: bytes_average / 2,
            bytes_average,
            bytes_max: bytes_average.saturating_mul(4),
        }
    }

    fn is_acceptable(&self) -> bool {
        self.algorithm == 1
            && self.bytes_min >= 64
            && self.bytes_min <= self.bytes_average
            && self.bytes_average <= self.bytes_max
            && self.bytes_max <= CHUNK_BYTES_LIMIT
    }
}

/// How frames are compressed where nothing else is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CompressionSettings {
    /// 1 is zstd, the only one yet.
    #[n(0)]
    pub codec: u8,
    /// Level of zstd, from 1 to 19.
    #[n(1)]
    pub level: i32,
}

/// The settings of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RepositoryFormat {
    /// Names the repository for ever.
    #[n(0)]
    pub id: RepositoryId,
    /// When it was created, in seconds since 1970-01-01 UTC; for people only.
    #[n(1)]
    pub created: i64,
    /// What a new passphrase costs; each key object has its own.
    #[n(2)]
    pub kdf: KdfSettings,
    /// How files are cut.
    #[n(3)]
    pub file_chunker: ChunkerSettings,
    /// How table streams are cut.
    #[n(4)]
    pub table_chunker: ChunkerSettings,
    /// Files below this many bytes go to frames of their own class.
    #[n(5)]
    pub small_file_bytes: u32,
    /// A pack is closed when it is this long.
    #[n(6)]
    pub pack_bytes: u32,
    /// A frame is closed when it holds this much plaintext.
    #[n(7)]
    pub frame_bytes: u32,
    /// How everything is protected; a header with another suite is refused.
    #[n(8)]
    #[cbor(with = "suite_code")]
    pub suite: Suite,
    /// Default compression.
    #[n(9)]
    pub compression: CompressionSettings,
}

impl RepositoryFormat {
    /// The defaults: 16 KiB chunks, 1 MiB frames, 32 MiB packs, zstd level 1.
    pub fn new(id: RepositoryId, created: i64, suite: Suite) -> Self {
        Self {
            id,
            created,
            kdf: KdfSettings::default(),
            file_chunker: ChunkerSettings::around(16 << 10),
            table_chunker: ChunkerSettings::around(16 << 10),
            small_file_bytes: 64 << 10,
            pack_bytes: 32 << 20,
            frame_bytes: 1 << 20,
            suite,
            compression: CompressionSettings { codec: 1, level: 1 },
        }
    }

    /// The bytes of the object, for `format` and its copy.
    pub fn to_bytes(&self) -> Vec<u8> {
        let body = minicbor::to_vec(self).expect("a vector takes all that is written");
        framed::frame(FORMAT_MAGIC, REPOSITORY_VERSION, &body)
            .expect("the settings take a few hundred bytes")
    }

    /// Reads the object. On any error the copy is read: if that one is good, this one was damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, FramedError> {
        let (_version, body) = framed::unframe(FORMAT_MAGIC, REPOSITORY_VERSION, bytes)?;
        let format: Self = framed::decode_exact(body)?;
        match format.is_acceptable() {
            true => Ok(format),
            false => Err(FramedError::Damaged("a setting is out of its range")),
        }
    }

    /// The hash that every key wrap is bound to. `bytes` is what [`RepositoryFormat::decode`] has read.
    pub fn hash_of(bytes: &[u8]) -> ObjectHash {
        ObjectHash::of(bytes)
    }

    /// True if a reader may do what is asked; [`RepositoryFormat::decode`] lets nothing else through.
    pub fn is_acceptable(&self) -> bool {
        self.kdf.is_acceptable()
            && self.file_chunker.is_acceptable()
            && self.table_chunker.is_acceptable()
            && self.small_file_bytes <= CHUNK_BYTES_LIMIT
            && (4096..=FRAME_BYTES_LIMIT).contains(&self.frame_bytes)
            && (64 << 10..=PACK_BYTES_LIMIT).contains(&self.pack_bytes)
            && self.compression.codec == 1
            && (1..=19).contains(&self.compression.level)
    }
}

/// A suite as its code.
mod suite_code {
    use minicbor::{Decoder, Encoder};

    use crate::format::header::Suite;

    pub(super) fn encode<C, W: minicbor::encode::Write>(
        suite: &Suite,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.u8(suite.code())?.ok()
    }

    pub(super) fn decode<C>(
        d: &mut Decoder<'_>,
        _: &mut C,
    ) -> Result<Suite, minicbor::decode::Error> {
        Suite::from_code(d.u8()?).ok_or_else(|| minicbor::decode::Error::message("suite"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written out, so that other defaults change no test.
    fn example() -> RepositoryFormat {
        RepositoryFormat {
            id: RepositoryId([7; 16]),
            created: 1_800_000_000,
            kdf: KdfSettings {
                memory_kib: 64 << 10,
                passes: 3,
                lanes: 1,
            },
            file_chunker: ChunkerSettings::around(16 << 10),
            table_chunker: ChunkerSettings::around(8 << 10),
            small_file_bytes: 64 << 10,
            pack_bytes: 32 << 20,
            frame_bytes: 1 << 20,
            suite: Suite::Aes256Gcm,
            compression: CompressionSettings { codec: 1, level: 1 },
        }
    }

    #[test]
    fn defaults_are_acceptable() {
        assert!(RepositoryFormat::new(RepositoryId([7; 16]), 0, Suite::None).is_acceptable());
    }

    #[test]
    fn round_trip() {
        for suite in [Suite::None, Suite::Aes256Gcm] {
            let format = RepositoryFormat { suite, ..example() };
            assert_eq!(RepositoryFormat::decode(&format.to_bytes()), Ok(format));
        }
    }

    #[test]
    fn the_bytes_are_fixed() {
        let bytes = example().to_bytes();
        assert_eq!(
            RepositoryFormat::hash_of(&bytes).to_string(),
            "49dd449d5008ea15e127d107efe4cfbac8b8707fc0f7413a670e99387ced13b6",
            "the format object has changed: that is a new format version"
        );
    }

    #[test]
    fn errors_are_told_apart() {
        let mut bytes = example().to_bytes();
        for position in 0..bytes.len() {
            bytes[position] ^= 0x10;
            assert!(
                matches!(
                    RepositoryFormat::decode(&bytes),
                    Err(FramedError::Damaged(_))
                ),
                "{position}"
            );
            bytes[position] ^= 0x10;
        }
        assert_eq!(
            RepositoryFormat::decode(b"[core]\n\tbare = true\n"),
            Err(FramedError::NotHoldfast)
        );
        let newer = framed::frame(FORMAT_MAGIC, 2, b"other fields").unwrap();
        assert_eq!(
            RepositoryFormat::decode(&newer),
            Err(FramedError::Newer { found: 2, known: 1 })
        );
        let extra = framed::frame(FORMAT_MAGIC, 1, &[0xa0, 0xa0]).unwrap();
        assert!(matches!(
            RepositoryFormat::decode(&extra),
            Err(FramedError::Damaged(_))
        ));
    }

    #[test]
    fn unknown_fields_are_skipped() {
        let mut body = minicbor::to_vec(example()).unwrap();
        assert_eq!(body[0], 0xaa, "a map of ten");
        body[0] = 0xab;
        body.extend_from_slice(&[0x18, 99, 0x82, 1, 0x61, b'x']);
        let bytes = framed::frame(FORMAT_MAGIC, 1, &body).unwrap();
        assert_eq!(RepositoryFormat::decode(&bytes), Ok(example()));
    }

    #[test]
    fn limits_hold() {
        let bad: [fn(&mut RepositoryFormat); 8] = [
            |f| f.kdf.memory_kib = KdfSettings::MEMORY_KIB_MAX + 1,
            |f| f.kdf.passes = 0,
            |f| f.kdf.lanes = 17,
            |f| f.file_chunker.bytes_max = CHUNK_BYTES_LIMIT + 1,
            |f| f.table_chunker.bytes_min = f.table_chunker.bytes_average + 1,
            |f| f.table_chunker.algorithm = 2,
            |f| f.frame_bytes = u32::MAX,
            |f| f.pack_bytes = 0,
        ];
        for spoil in bad {
            let mut format = example();
            spoil(&mut format);
            assert!(
                matches!(
                    RepositoryFormat::decode(&format.to_bytes()),
                    Err(FramedError::Damaged(_))
                ),
                "{format:?}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn decoding_is_total(junk in proptest::collection::vec(proptest::num::u8::ANY, 0..300), cut in 0usize..400, byte: u8) {
            let mut body = minicbor::to_vec(example()).unwrap();
            let position = cut % body.len();
            body[position] = byte;
            for body in [&junk[..], &body, &body[..position]] {
                let bytes = framed::frame(FORMAT_MAGIC, REPOSITORY_VERSION, body).unwrap();
                if let Ok(format) = RepositoryFormat::decode(&bytes) {
                    assert!(format.is_acceptable());
                }
            }
            assert!(RepositoryFormat::decode(&junk).is_err());
        }
    }
}
