//! Index runs: chunk id → pack, frame, place.
//!
//! Layout of the plaintext of a sealed object `index/<name>`, kind 2, little-endian:
//!
//! | size | what |
//! |---|---|
//! | 4 | number of packs |
//! | per pack | name (32), length of the object (8), number of frames (4), then per frame: offset (4), sealed length (4), raw length (4), class (1), encoding (1), base flag (1), reserved 0 (1); with base flag 1: base pack's name (32), base frame (4) |
//! | 8 | number of entries |
//! | blocks of up to 4096 entries | count (4), length of the columns (4), ids (32 each), columns: zstd of the byte planes of pack, frame, offset, length (each 4 bytes per entry: all lowest bytes first) |
//!
//! Entries ascend by id, then pack. A chunk that is stored twice has two entries.
//!
//! Invariants: every entry's pack and frame exist and the chunk lies inside its frame; frames with encoding 2 and no others have a base
//! (`hostile_runs_are_refused`).

use super::id::{ChunkId, ObjectHash};
use super::pack::{Base, Class, Encoding, FRAME_COUNT_MAX, FRAME_RAW_MAX, le};

/// Entries of one block.
const BLOCK_ENTRIES: usize = 4096;
/// Entries of a run that a backup writes, at most.
pub const RUN_ENTRIES_TARGET: usize = 1 << 18;

/// A frame in the pack table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunFrame {
    /// First byte in the pack.
    pub offset: u32,
    /// Length in the pack, with the tag.
    pub sealed_len: u32,
    /// Length of the plaintext.
    pub raw_len: u32,
    /// Class.
    pub class: Class,
    /// Encoding.
    pub encoding: Encoding,
    /// What a prefix frame is compressed on.
    pub base: Option<Base>,
}

/// A pack in the pack table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunPack {
    /// Its name.
    pub name: ObjectHash,
    /// Length of the object in bytes.
    pub len: u64,
    /// Frames by number.
    pub frames: Vec<RunFrame>,
}

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IndexEntry {
    /// The chunk.
    pub id: ChunkId,
    /// Position of its pack in the run's pack table.
    pub pack: u32,
    /// Frame number.
    pub frame: u32,
    /// First byte in the frame's plaintext.
    pub offset: u32,
    /// Length in bytes.
    pub len: u32,
}

/// One run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexRun {
    /// The pack table.
    pub packs: Vec<RunPack>,
    /// Sorted entries.
    pub entries: Vec<IndexEntry>,
}

/// Why a run is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the index run does not decode: {0}")]
pub struct IndexFormatError(pub &'static str);

impl IndexRun {
    /// The packs that its chunks need, sorted: those of its table, and those of the bases of their prefix frames. A pack of this list must
    /// not go while a chunk that needs it lives: the test of a snapshot entry is made on it, and so must be that of a gc entry.
    pub fn named_packs(&self) -> Vec<ObjectHash> {
        let frames = self.packs.iter().flat_map(|pack| &pack.frames);
        let bases = frames.filter_map(|frame| frame.base.map(|(pack, _)| pack));
        let mut packs: Vec<ObjectHash> = self
            .packs
            .iter()
            .map(|pack| pack.name)
            .chain(bases)
            .collect();
        packs.sort_unstable();
        packs.dedup();
        packs
    }

    /// The plaintext; sorts nothing, the entries must ascend.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.entries.len().saturating_mul(40));
        put32(&mut out, self.packs.len());
        for pack in &self.packs {
            out.extend_from_slice(pack.name.as_bytes());
            out.extend_from_slice(&pack.len.to_le_bytes());
            put32(&mut out, pack.frames.len());
            for frame in &pack.frames {
                for value in [frame.offset, frame.sealed_len, frame.raw_len] {
                    out.extend_from_slice(&value.to_le_bytes());
                }
                out.extend_from_slice(&[
                    frame.class.number(),
                    frame.encoding.number(),
                    u8::from(frame.base.is_some()),
                    0,
                ]);
                if let Some((name, number)) = frame.base {
                    out.extend_from_slice(name.as_bytes());
                    out.extend_from_slice(&number.to_le_bytes());
                }
            }
        }
        let count = u64::try_from(self.entries.len()).expect("a length fits 64 bits");
        out.extend_from_slice(&count.to_le_bytes());
        for block in self.entries.chunks(BLOCK_ENTRIES) {
            let planes = planes_of(block);
            let columns = zstd::bulk::compress(&planes, 1).expect("memory for a block of 64 KiB");
            put32(&mut out, block.len());
            put32(&mut out, columns.len());
            for entry in block {
                out.extend_from_slice(entry.id.as_bytes());
            }
            out.extend_from_slice(&columns);
        }
        out
    }

    /// Decodes and checks a run.
    pub fn decode(bytes: &[u8]) -> Result<Self, IndexFormatError> {
        let mut at = Cursor { bytes };
        let pack_count = at.u32("pack count")?;
        let mut run = Self::default();
        for _ in 0..pack_count {
            run.packs.push(decode_pack(&mut at)?);
        }
        let entry_count = at.u64("entry count")?;
        while u64::try_from(run.entries.len()).unwrap_or(u64::MAX) < entry_count {
            decode_block(&mut at, &mut run)?;
        }
        if !at.bytes.is_empty()
            || u64::try_from(run.entries.len()).unwrap_or(u64::MAX) != entry_count
        {
            return Err(IndexFormatError("length"));
        }
        Ok(run)
    }
}

fn put32(out: &mut Vec<u8>, value: usize) {
    out.extend_from_slice(
        &u32::try_from(value)
            .expect("tables of a run are small")
            .to_le_bytes(),
    );
}

fn planes_of(block: &[IndexEntry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(block.len().saturating_mul(16));
    for column in 0..4u8 {
        for plane in 0..4usize {
            for entry in block {
                let value = match column {
                    0 => entry.pack,
                    1 => entry.frame,
                    2 => entry.offset,
                    _ => entry.len,
                };
                out.extend(value.to_le_bytes().get(plane));
            }
        }
    }
    out
}

fn decode_pack(at: &mut Cursor<'_>) -> Result<RunPack, IndexFormatError> {
    let name = at.hash("pack name")?;
    let len = at.u64("pack length")?;
    let frame_count = at.u32("frame count")?;
    if frame_count > FRAME_COUNT_MAX {
        return Err(IndexFormatError("frame count"));
    }
    let mut frames = Vec::new();
    for _ in 0..frame_count {
        let (offset, sealed_len, raw_len) = (
            at.u32("offset")?,
            at.u32("sealed length")?,
            at.u32("raw length")?,
        );
        let [class, encoding, base, reserved] = *at.take(4, "frame")? else {
            return Err(IndexFormatError("frame"));
        };
        let class = Class::from_number(class).ok_or(IndexFormatError("class"))?;
        let encoding = Encoding::from_number(encoding).ok_or(IndexFormatError("encoding"))?;
        let base = match (base, reserved) {
            (0, 0) => None,
            (1, 0) => Some((at.hash("base")?, at.u32("base frame")?)),
            _ => return Err(IndexFormatError("base flag")),
        };
        if base.is_some() != (encoding == Encoding::ZstdPrefix) {
            return Err(IndexFormatError("base"));
        }
        if raw_len > FRAME_RAW_MAX || u64::from(offset).saturating_add(u64::from(sealed_len)) > len
        {
            return Err(IndexFormatError("frame out of range"));
        }
        frames.push(RunFrame {
            offset,
            sealed_len,
            raw_len,
            class,
            encoding,
            base,
        });
    }
    Ok(RunPack { name, len, frames })
}

fn decode_block(at: &mut Cursor<'_>, run: &mut IndexRun) -> Result<(), IndexFormatError> {
    let count = usize::try_from(at.u32("block")?).map_err(|_e| IndexFormatError("block"))?;
    let columns_len =
        usize::try_from(at.u32("columns")?).map_err(|_e| IndexFormatError("columns"))?;
    if count == 0 || count > BLOCK_ENTRIES {
        return Err(IndexFormatError("block size"));
    }
    let ids = at.take(count.saturating_mul(32), "ids")?;
    let columns = at.take(columns_len, "columns")?;
    let planes = zstd::bulk::decompress(columns, count.saturating_mul(16))
        .map_err(|_e| IndexFormatError("columns"))?;
    if planes.len() != count.saturating_mul(16) {
        return Err(IndexFormatError("columns"));
    }
    let value = |column: usize, i: usize| {
        let mut bytes = [0u8; 4];
        for (plane, byte) in bytes.iter_mut().enumerate() {
            let position = (column.saturating_mul(4).saturating_add(plane))
                .saturating_mul(count)
                .saturating_add(i);
            *byte = planes.get(position).copied().unwrap_or_default();
        }
        u32::from_le_bytes(bytes)
    };
    for (i, id) in ids.chunks_exact(32).enumerate() {
        let id = ChunkId::from_slice(id).ok_or(IndexFormatError("id"))?;
        let entry = IndexEntry {
            id,
            pack: value(0, i),
            frame: value(1, i),
            offset: value(2, i),
            len: value(3, i),
        };
        let frame = position(&run.packs, entry.pack).and_then(|p| position(&p.frames, entry.frame));
        let end = u64::from(entry.offset).saturating_add(u64::from(entry.len));
        if entry.len == 0 || frame.is_none_or(|f| end > u64::from(f.raw_len)) {
            return Err(IndexFormatError("entry out of range"));
        }
        if run
            .entries
            .last()
            .is_some_and(|last| (last.id, last.pack) > (id, entry.pack))
        {
            return Err(IndexFormatError("order"));
        }
        run.entries.push(entry);
    }
    Ok(())
}

fn position<T>(items: &[T], at: u32) -> Option<&T> {
    items.get(usize::try_from(at).ok()?)
}

struct Cursor<'a> {
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], IndexFormatError> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(len)
            .ok_or(IndexFormatError(what))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, IndexFormatError> {
        let value = le(self.take(4, what)?, 0, 4).and_then(|v| u32::try_from(v).ok());
        value.ok_or(IndexFormatError(what))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, IndexFormatError> {
        le(self.take(8, what)?, 0, 8).ok_or(IndexFormatError(what))
    }

    fn hash(&mut self, what: &'static str) -> Result<ObjectHash, IndexFormatError> {
        ObjectHash::from_slice(self.take(32, what)?).ok_or(IndexFormatError(what))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(entries: usize) -> IndexRun {
        let frames = vec![
            RunFrame {
                offset: 200,
                sealed_len: 50,
                raw_len: 1 << 20,
                ..RunFrame::default()
            };
            3
        ];
        let packs = vec![RunPack {
            name: ObjectHash([9; 32]),
            len: 1000,
            frames,
        }];
        let entries = (0u32..)
            .take(entries)
            .map(|i| {
                let mut id = [0; 32];
                id[..8].copy_from_slice(&u64::from(i).to_be_bytes_for_test());
                IndexEntry {
                    id: ChunkId(id),
                    pack: 0,
                    frame: i % 3,
                    offset: i,
                    len: 17,
                }
            })
            .collect();
        IndexRun { packs, entries }
    }

    trait Big {
        fn to_be_bytes_for_test(self) -> [u8; 8];
    }
    impl Big for u64 {
        fn to_be_bytes_for_test(self) -> [u8; 8] {
            let mut bytes = self.to_le_bytes();
            bytes.reverse();
            bytes
        }
    }

    #[test]
    fn runs_come_back() {
        for n in [0, 1, 4095, 4096, 4097, 10_000] {
            let run = run(n);
            let bytes = run.encode();
            assert_eq!(IndexRun::decode(&bytes).unwrap(), run);
            if n == 10_000 {
                assert!(bytes.len() < 37 * n, "{} bytes", bytes.len());
            }
        }
    }

    #[test]
    fn hostile_runs_are_refused() {
        let mut outside = run(3);
        outside.entries[1].offset = 1 << 20;
        assert!(IndexRun::decode(&outside.encode()).is_err());
        let mut no_frame = run(3);
        no_frame.entries[1].frame = 3;
        assert!(IndexRun::decode(&no_frame.encode()).is_err());
        let mut unordered = run(3);
        unordered.entries.swap(0, 1);
        assert!(IndexRun::decode(&unordered.encode()).is_err());
        let mut no_base = run(3);
        no_base.packs[0].frames[1].encoding = Encoding::ZstdPrefix;
        assert!(IndexRun::decode(&no_base.encode()).is_err());
        let mut odd_base = run(3);
        odd_base.packs[0].frames[1].base = Some((ObjectHash([3; 32]), 0));
        assert!(IndexRun::decode(&odd_base.encode()).is_err());
        let bytes = run(5).encode();
        for len in 0..bytes.len() {
            assert!(IndexRun::decode(&bytes[..len]).is_err());
        }
    }

    #[test]
    fn packs_of_bases_are_named() {
        let mut run = run(3);
        for (frame, base) in [(0, 3), (1, 9), (2, 3)] {
            run.packs[0].frames[frame].encoding = Encoding::ZstdPrefix;
            run.packs[0].frames[frame].base = Some((ObjectHash([base; 32]), 7));
        }
        let named = [ObjectHash([3; 32]), ObjectHash([9; 32])];
        assert_eq!(run.named_packs(), named);
        assert_eq!(IndexRun::decode(&run.encode()).unwrap(), run);
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_value_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ignored = IndexRun::decode(&bytes);
        }
    }
}
