//! Packs: many sealed frames, then a sealed directory and a fixed-size footer.
//!
//! Layout of `packs/<xx>/<name>`:
//!
//! | part | size | what |
//! |---|---|---|
//! | header | 186 | `format::header`, kind 1, key mode 2 (data key wrapped to the seal key) |
//! | frames | as the directory says | sealed with number 0, 1, 2 …; the plaintext is zstd or raw, as its `encoding` says |
//! | directory | as the footer says | sealed with number 2^32: CBOR [`PackDirectory`] |
//! | padding | up to the Padmé length | random bytes, covered by the pack's name alone |
//! | footer | 32 | sealed with number 2^32 + 1: offset u64, sealed length u32 of the directory, frame count u32, then the tag (16) |
//!
//! Little-endian; offsets count from the first byte of the object. The chunks of a frame stand one after the other in its plaintext.
//!
//! A frame with encoding 2, a *prefix frame*, is one zstd frame whose window begins with the plaintext of its *base*, a frame of any pack that is
//! raw or zstd itself. So the base's pack is needed as long as the frame's is, and whoever condemns a pack condemns the packs with frames on it too, after
//! the chunks of both that live were encoded anew in another pack ([`super::index::IndexRun::named_packs`] has the packs that those of a run need, too).
//!
//! Invariants: frames do not overlap the header, each other or the directory; chunks of a frame fill it exactly; prefix frames and no others
//! have a base (`hostile_directories_are_refused`). That a base has none itself is tested by whoever reads it, as it may stand in another pack.

use minicbor::{Decode, Encode};

use super::id::{ChunkId, ObjectHash};

/// Number under which the directory is sealed.
pub const DIRECTORY_NUMBER: u64 = 1 << 32;
/// Number under which the footer is sealed.
pub const FOOTER_NUMBER: u64 = DIRECTORY_NUMBER + 1;
/// Length of the footer's plaintext.
pub const FOOTER_LEN: usize = 16;
/// Length of the footer with its tag.
pub const FOOTER_SEALED_LEN: usize = FOOTER_LEN + 16;
/// No frame's plaintext is longer.
pub const FRAME_RAW_MAX: u32 = 32 << 20;
/// Frames of a pack, at most.
pub const FRAME_COUNT_MAX: u32 = 1 << 20;

/// What stands in a frame; frames of one class are compressed together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
#[cbor(index_only)]
pub enum Class {
    /// Nodes and long lists; in packs of their own.
    #[n(0)]
    Tree,
    /// Small files.
    #[n(1)]
    Small,
    /// Pieces of larger files.
    #[n(2)]
    #[default]
    File,
    /// Table parts and large objects.
    #[n(3)]
    Table,
}

impl Class {
    /// All classes, by number.
    pub const ALL: [Self; 4] = [Self::Tree, Self::Small, Self::File, Self::Table];

    /// Its number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tree => 0,
            Self::Small => 1,
            Self::File => 2,
            Self::Table => 3,
        }
    }

    /// The class of a number.
    pub fn from_number(n: u8) -> Option<Self> {
        Self::ALL.get(usize::from(n)).copied()
    }
}

/// How a frame's plaintext is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Encoding {
    /// As it is.
    #[n(0)]
    Raw,
    /// One zstd frame.
    #[n(1)]
    #[default]
    Zstd,
    /// One zstd frame with another frame's plaintext as prefix: a prefix frame on its base.
    #[n(2)]
    ZstdPrefix,
}

impl Encoding {
    /// Its number.
    pub fn number(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Zstd => 1,
            Self::ZstdPrefix => 2,
        }
    }

    /// The encoding of a number.
    pub fn from_number(n: u8) -> Option<Self> {
        [Self::Raw, Self::Zstd, Self::ZstdPrefix]
            .get(usize::from(n))
            .copied()
    }
}

/// A frame that others are compressed on: the name of its pack and its number. It has no base itself.
pub type Base = (ObjectHash, u32);

/// One chunk of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FrameChunk {
    /// Its id.
    #[n(0)]
    pub id: ChunkId,
    /// Its length in bytes.
    #[n(1)]
    pub len: u32,
}

/// One frame.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct FrameEntry {
    /// First byte in the pack.
    #[n(0)]
    pub offset: u32,
    /// Length in the pack, with the tag.
    #[n(1)]
    pub sealed_len: u32,
    /// Length of the plaintext after decompression.
    #[n(2)]
    pub raw_len: u32,
    /// Class.
    #[n(3)]
    pub class: Class,
    /// Encoding.
    #[n(4)]
    pub encoding: Encoding,
    /// Chunks in order.
    #[n(5)]
    pub chunks: Vec<FrameChunk>,
    /// The frame that serves as prefix, of a prefix frame and of no other: name of its pack and its number.
    #[n(6)]
    pub base: Option<Base>,
}

/// The directory of a pack; frame n is sealed under number n.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PackDirectory {
    /// Frames by number.
    #[cbor(n(0), default)]
    pub frames: Vec<FrameEntry>,
}

/// Why a directory or footer is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackFormatError {
    /// The CBOR does not decode.
    #[error("the pack's directory does not decode: {0}")]
    Cbor(String),
    /// A frame lies outside its place.
    #[error("frame {0} of the pack's directory is out of place")]
    Frame(usize),
    /// The footer points outside the pack.
    #[error("the pack's footer is out of range")]
    Footer,
}

impl PackDirectory {
    /// CBOR of the directory.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        super::node::encode_item(self, &mut out);
        out
    }

    /// Decodes and checks a directory that starts at `directory_offset` in its pack, behind `header_len` bytes of header.
    pub fn decode(
        bytes: &[u8],
        header_len: u64,
        directory_offset: u64,
    ) -> Result<Self, PackFormatError> {
        let directory: Self =
            minicbor::decode(bytes).map_err(|e| PackFormatError::Cbor(e.to_string()))?;
        let mut places: Vec<(u64, u64, usize)> = Vec::with_capacity(directory.frames.len());
        for (number, frame) in directory.frames.iter().enumerate() {
            let chunks_len: u64 = frame.chunks.iter().map(|c| u64::from(c.len)).sum();
            let end = u64::from(frame.offset).saturating_add(u64::from(frame.sealed_len));
            if chunks_len != u64::from(frame.raw_len)
                || frame.raw_len > FRAME_RAW_MAX
                || frame.chunks.iter().any(|c| c.len == 0)
                || frame.sealed_len < 16
                || frame.base.is_some() != (frame.encoding == Encoding::ZstdPrefix)
                || u64::from(frame.offset) < header_len
                || end > directory_offset
            {
                return Err(PackFormatError::Frame(number));
            }
            places.push((u64::from(frame.offset), end, number));
        }
        places.sort_unstable();
        for pair in places.windows(2) {
            if let [(_, end, _), (start, _, number)] = pair
                && end > start
            {
                return Err(PackFormatError::Frame(*number));
            }
        }
        Ok(directory)
    }
}

/// Where the directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// First byte of the sealed directory.
    pub directory_offset: u64,
    /// Its sealed length.
    pub directory_len: u32,
    /// Frames.
    pub frame_count: u32,
}

impl Footer {
    /// The plaintext.
    pub fn encode(&self) -> [u8; FOOTER_LEN] {
        let mut out = [0; FOOTER_LEN];
        let (offset, rest) = out.split_at_mut(8);
        offset.copy_from_slice(&self.directory_offset.to_le_bytes());
        let (len, count) = rest.split_at_mut(4);
        len.copy_from_slice(&self.directory_len.to_le_bytes());
        count.copy_from_slice(&self.frame_count.to_le_bytes());
        out
    }

    /// Decodes the plaintext of the footer of a pack of `pack_len` bytes.
    pub fn decode(bytes: &[u8], pack_len: u64) -> Result<Self, PackFormatError> {
        let (Some(offset), Some(len), Some(count)) =
            (le(bytes, 0, 8), le(bytes, 8, 4), le(bytes, 12, 4))
        else {
            return Err(PackFormatError::Footer);
        };
        let (Ok(directory_len), Ok(frame_count)) = (u32::try_from(len), u32::try_from(count))
        else {
            return Err(PackFormatError::Footer);
        };
        let end = offset
            .checked_add(len)
            .and_then(|e| e.checked_add(u64::try_from(FOOTER_SEALED_LEN).unwrap_or(u64::MAX)));
        if end.is_none_or(|e| e > pack_len) || frame_count > FRAME_COUNT_MAX || directory_len < 16 {
            return Err(PackFormatError::Footer);
        }
        Ok(Self {
            directory_offset: offset,
            directory_len,
            frame_count,
        })
    }
}

/// Reads `len` little-endian bytes at `at`.
pub(crate) fn le(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(len)?)?;
    let mut value = [0u8; 8];
    value.get_mut(..len)?.copy_from_slice(field);
    Some(u64::from_le_bytes(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(offset: u32, sealed_len: u32, lens: &[u32]) -> FrameEntry {
        FrameEntry {
            offset,
            sealed_len,
            raw_len: lens.iter().sum(),
            chunks: lens
                .iter()
                .map(|len| FrameChunk {
                    id: ChunkId([1; 32]),
                    len: *len,
                })
                .collect(),
            ..FrameEntry::default()
        }
    }

    #[test]
    fn hostile_directories_are_refused() {
        let good = PackDirectory {
            frames: vec![frame(186, 40, &[10, 20]), frame(226, 30, &[5])],
        };
        assert_eq!(
            PackDirectory::decode(&good.encode(), 186, 256).unwrap(),
            good
        );
        let mut cases = vec![good.clone(); 7];
        cases[0].frames[1].offset = 200;
        cases[1].frames[0].offset = 100;
        cases[2].frames[1].sealed_len = 31;
        cases[3].frames[0].raw_len = 31;
        cases[4].frames[1].sealed_len = 3;
        cases[5].frames[0].base = Some((ObjectHash([1; 32]), 0));
        cases[6].frames[0].encoding = Encoding::ZstdPrefix;
        for case in cases {
            assert!(
                PackDirectory::decode(&case.encode(), 186, 256).is_err(),
                "{case:?}"
            );
        }
        assert!(PackDirectory::decode(&[0xff, 0x00], 186, 256).is_err());
        let mut prefix = good;
        prefix.frames[0].base = Some((ObjectHash([1; 32]), u32::MAX));
        prefix.frames[0].encoding = Encoding::ZstdPrefix;
        assert_eq!(
            PackDirectory::decode(&prefix.encode(), 186, 256).unwrap(),
            prefix
        );
    }

    #[test]
    fn footers_stay_inside() {
        let footer = Footer {
            directory_offset: 1000,
            directory_len: 50,
            frame_count: 3,
        };
        assert_eq!(Footer::decode(&footer.encode(), 1082), Ok(footer));
        assert!(Footer::decode(&footer.encode(), 1081).is_err());
        assert!(Footer::decode(&[0; 3], 1081).is_err());
    }
}
