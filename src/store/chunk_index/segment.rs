//! A segment: exactly what some index runs of the repository say, in an immutable file or in memory.
//!
//! Layout of a file, in pages (`pages`), little-endian:
//!
//! | part | content |
//! |---|---|
//! | header, one page | magic `hfindex1` (8), seed (8), repository id (16), entries (8), packs (8), blocks of the filter (8), homes (8), pages of the buckets (8), first page of the pack rows (8), first byte of the frames (8), length of the file (8) |
//! | directory | 85 entries a page: id (32), pack (4), frame (4), offset (4), length (4); packs one after the other, each in the order of its frames |
//! | filter, buckets | `buckets`: for each entry the first eight bytes of its id and its position in the directory (5) |
//! | pack rows | 56 a page: name (32), length (8), first entry (8), entries (4), frames (4), first byte among the frames (8), bytes there (4), which of the runs (4) |
//! | frames | for each pack: per frame offset (4), sealed length (4), raw length (4), class (1), encoding (1), base flag (1), 0 (1), with the flag base pack (32) and frame (4); then XXH3-64 of these (8) |
//!
//! The directory stands in the order of the packs, so what is stored side by side is read side by side; the buckets find a place in it.
//!
//! Invariants:
//! 1. What is read was written so, or [`Broken`] is returned (`a_flip_anywhere_is_noticed_or_harmless`).
//! 2. A merge holds what its inputs hold, without the runs that are left out (`a_merge_holds_what_its_inputs_hold`).
//! 3. Memory: making one from runs holds their entries twice; a merge holds 24 bytes for each pack and 128 KiB for each input.

use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;

use rayon::slice::ParallelSliceMut;

use super::buckets::{Cursor, Shape, Table, TableWriter, merge as merge_tables, prefix};
use super::pages::{
    BODY, Broken, Out, PAGE, PageCache, Pages, Region, at, check_of, seal, u32_at, u64_at, wide,
};
use super::rows::{PAGE_ROWS, ROW, Row, frames_blob, read_frames};
use crate::format::id::{ChunkId, ObjectHash, RepositoryId};
use crate::format::index::{IndexEntry, IndexRun, RunFrame, RunPack};

const MAGIC: [u8; 8] = *b"hfindex1";
/// Bytes of an entry in the directory.
const ENTRY: usize = 48;
/// Entries of a page.
pub(super) const PAGE_ENTRIES: u64 = 85;
/// No file is longer: a petabyte is more than 10¹³ chunks.
const FILE_MAX: u64 = 1 << 50;
/// Bytes of an entry of the table: prefix and position.
const KEY: usize = 13;

/// What the header says.
#[derive(Clone, Copy, Debug)]
struct Head {
    repository: RepositoryId,
    entries: u64,
    packs: u64,
    table: Shape,
    rows: u64,
    frames: u64,
    len: u64,
}

/// Positions in the directory at which a prefix stands: nearly always one.
#[derive(Debug, Default)]
pub(super) struct Places {
    first: Option<u64>,
    more: Vec<u64>,
}

impl Places {
    fn push(&mut self, place: u64) {
        match self.first {
            None => self.first = Some(place),
            Some(_) => self.more.push(place),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u64> {
        self.first.into_iter().chain(self.more.iter().copied())
    }
}

/// One segment.
#[derive(Debug)]
pub(super) struct Segment {
    pages: Pages,
    head: Head,
    table: Table,
    /// The runs that it was made of; rows name them by position.
    pub(super) runs: Vec<ObjectHash>,
    /// Its file in the cache.
    pub(super) path: Option<PathBuf>,
}

fn directory_pages(entries: u64) -> u64 {
    entries.div_ceil(PAGE_ENTRIES)
}

fn new_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn encode_entry(entry: &IndexEntry) -> [u8; ENTRY] {
    let mut bytes = [0; ENTRY];
    bytes[..32].copy_from_slice(entry.id.as_bytes());
    for (place, value) in [
        (32, entry.pack),
        (36, entry.frame),
        (40, entry.offset),
        (44, entry.len),
    ] {
        bytes[place..place + 4].copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

fn decode_entry(bytes: &[u8]) -> IndexEntry {
    IndexEntry {
        id: ChunkId::from_slice(&bytes[..32]).expect("32 bytes"),
        pack: u32_at(bytes, 32),
        frame: u32_at(bytes, 36),
        offset: u32_at(bytes, 40),
        len: u32_at(bytes, 44),
    }
}

/// Writes rows or entries, as many as fit in a page.
struct PageWriter {
    seed: u64,
    number: u64,
    page: Vec<u8>,
    size: usize,
    region: Region,
}

impl PageWriter {
    fn new(seed: u64, first: u64, size: usize) -> Self {
        Self {
            seed,
            number: first,
            page: Vec::with_capacity(PAGE),
            size,
            region: Region::new(first * wide(PAGE)),
        }
    }

    fn put(&mut self, out: &mut dyn Out, item: &[u8]) -> std::io::Result<()> {
        self.page.extend_from_slice(item);
        match self.page.len() + self.size > BODY {
            true => self.end_page(out),
            false => Ok(()),
        }
    }

    fn end_page(&mut self, out: &mut dyn Out) -> std::io::Result<()> {
        self.page.resize(PAGE, 0);
        seal(self.seed, self.number, &mut self.page);
        self.region.put(out, &self.page)?;
        self.page.clear();
        self.number += 1;
        Ok(())
    }

    fn finish(mut self, out: &mut dyn Out) -> std::io::Result<u64> {
        if !self.page.is_empty() {
            self.end_page(out)?;
        }
        self.region.flush(out)?;
        Ok(self.number)
    }
}

impl Head {
    fn encode(&self, seed: u64) -> Vec<u8> {
        let mut page = MAGIC.to_vec();
        page.extend_from_slice(&seed.to_le_bytes());
        page.extend_from_slice(&self.repository.0);
        for value in [
            self.entries,
            self.packs,
            self.table.blocks,
            self.table.homes,
            self.table.pages,
            self.rows,
            self.frames,
            self.len,
        ] {
            page.extend_from_slice(&value.to_le_bytes());
        }
        page.resize(PAGE, 0);
        seal(seed, 0, &mut page);
        page
    }

    fn decode(page: &[u8]) -> Option<(u64, Self)> {
        let seed = u64_at(page, 8);
        if page[..8] != MAGIC || check_of(seed, 0, &page[..BODY]) != u64_at(page, BODY) {
            return None;
        }
        let value = |nth: usize| u64_at(page, 32 + 8 * nth);
        // Nothing below can overflow, whatever somebody wrote there.
        let (len, packs) = (value(7), value(1));
        let fits = len <= FILE_MAX
            && value(0) <= len / wide(ENTRY)
            && packs <= u64::from(u32::MAX).min(len / wide(ROW))
            && value(4) <= len / wide(PAGE);
        if !fits {
            return None;
        }
        let mut table = Shape::new(KEY, value(0), 1 + directory_pages(value(0)));
        table.pages = value(4);
        if (table.blocks, table.homes) != (value(2), value(3)) {
            return None;
        }
        let head = Self {
            repository: RepositoryId(*page[16..].first_chunk()?),
            entries: value(0),
            packs,
            table,
            rows: value(5),
            frames: value(6),
            len,
        };
        let frames = (head.rows.min(len) + packs.div_ceil(PAGE_ROWS)) * wide(PAGE);
        let in_order = head.rows == table.end() && head.frames == frames && frames <= len;
        in_order.then_some((seed, head))
    }
}

/// Writes the parts of a segment in their order: all entries of the directory, the table, then the packs.
struct Writer<'o> {
    out: &'o mut dyn Out,
    seed: u64,
    head: Head,
}

impl<'o> Writer<'o> {
    fn new(out: &'o mut dyn Out, repository: RepositoryId, entries: u64, packs: u64) -> Self {
        Self {
            out,
            seed: new_seed(),
            head: Head {
                repository,
                entries,
                packs,
                table: Shape::new(KEY, entries, 1 + directory_pages(entries)),
                rows: 0,
                frames: 0,
                len: 0,
            },
        }
    }

    fn directory(&self) -> PageWriter {
        PageWriter::new(self.seed, 1, ENTRY)
    }

    fn table(&self) -> TableWriter {
        TableWriter::new(self.head.table, self.seed)
    }

    fn end_table(&mut self, table: TableWriter) -> std::io::Result<PackWriter> {
        self.head.table = table.finish(self.out)?;
        self.head.rows = self.head.table.end();
        let frames = (self.head.rows + self.head.packs.div_ceil(PAGE_ROWS)) * wide(PAGE);
        self.head.frames = frames;
        Ok(PackWriter {
            rows: PageWriter::new(self.seed, self.head.rows, ROW),
            frames: Region::new(frames),
            start: frames,
        })
    }

    fn finish(mut self, packs: PackWriter) -> std::io::Result<(u64, Head)> {
        packs.rows.finish(self.out)?;
        let mut frames = packs.frames;
        frames.flush(self.out)?;
        self.head.len = frames.end;
        let page = self.head.encode(self.seed);
        self.out.write_at(0, &page)?;
        Ok((self.seed, self.head))
    }
}

struct PackWriter {
    rows: PageWriter,
    frames: Region,
    start: u64,
}

impl PackWriter {
    fn put(
        &mut self,
        out: &mut dyn Out,
        mut row: Row,
        frames: &[RunFrame],
        seed: u64,
    ) -> std::io::Result<()> {
        let blob = frames_blob(seed, frames);
        row.frames = u32::try_from(frames.len()).expect("a format limit");
        row.frames_len = u32::try_from(blob.len()).expect("a format limit");
        row.frames_at = self.frames.end - self.start;
        self.frames.put(out, &blob)?;
        self.rows.put(out, &row.encode())
    }
}

/// Runs that become one segment.
#[derive(Debug, Default)]
pub(super) struct Batch {
    packs: Vec<RunPack>,
    /// Of each pack, the position of its run.
    run_of: Vec<u32>,
    entries: Vec<IndexEntry>,
    pub(super) runs: Vec<ObjectHash>,
}

impl Batch {
    /// Entries so far.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing was added, not even an empty run.
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.packs.is_empty()
    }

    /// Adds the packs of a run that `takes`.
    pub(super) fn add(
        &mut self,
        name: ObjectHash,
        run: IndexRun,
        mut takes: impl FnMut(&ObjectHash) -> bool,
    ) {
        let number = u32::try_from(self.runs.len()).expect("fewer than 2^32 runs");
        self.runs.push(name);
        let mut places: Vec<Option<u32>> = Vec::with_capacity(run.packs.len());
        for pack in run.packs {
            places.push(takes(&pack.name).then(|| {
                let place = u32::try_from(self.packs.len()).expect("fewer than 2^32 packs");
                self.packs.push(pack);
                self.run_of.push(number);
                place
            }));
        }
        let entries = run.entries.into_iter().filter_map(|entry| {
            let pack = places.get(entry.pack as usize).copied().flatten()?;
            Some(IndexEntry { pack, ..entry })
        });
        self.entries.extend(entries);
    }

    /// Bytes of its segment, or a little less.
    pub(super) fn bytes(&self) -> usize {
        self.entries.len() * 65 + self.packs.len() * ROW + 4 * PAGE
    }

    /// Writes the segment and gives its runs. After an error it can be written elsewhere.
    pub(super) fn write(
        &mut self,
        out: &mut dyn Out,
        repository: RepositoryId,
    ) -> std::io::Result<Vec<ObjectHash>> {
        let count = u32::try_from(self.entries.len()).expect("a batch is bounded");
        self.entries
            .par_sort_unstable_by_key(|entry| (entry.pack, entry.frame, entry.offset, entry.id));
        let mut writer = Writer::new(out, repository, u64::from(count), wide(self.packs.len()));
        let mut directory = writer.directory();
        let mut counts = vec![0u32; self.packs.len()];
        for entry in &self.entries {
            counts[entry.pack as usize] += 1;
            directory.put(writer.out, &encode_entry(entry))?;
        }
        directory.finish(writer.out)?;
        let mut keys: Vec<(u64, u32)> = self
            .entries
            .iter()
            .zip(0u32..)
            .map(|(entry, place)| (prefix(entry.id.as_bytes()), place))
            .collect();
        keys.par_sort_unstable();
        let mut table = writer.table();
        for (prefix, place) in keys {
            table.push(writer.out, &key_of(prefix, u64::from(place)))?;
        }
        let mut packs = writer.end_table(table)?;
        let mut first_entry = 0;
        for ((pack, entries), run) in self.packs.iter().zip(counts).zip(&self.run_of) {
            let row = Row::new(pack, first_entry, entries, *run);
            packs.put(writer.out, row, &pack.frames, writer.seed)?;
            first_entry += u64::from(entries);
        }
        writer.finish(packs)?;
        Ok(self.runs.clone())
    }
}

fn key_of(prefix: u64, place: u64) -> [u8; KEY] {
    let mut key = [0; KEY];
    key[..8].copy_from_slice(&prefix.swap_bytes().to_le_bytes());
    key[8..].copy_from_slice(&place.to_le_bytes()[..5]);
    key
}

fn place_of(key: &[u8]) -> u64 {
    let mut place = [0; 8];
    place[..5].copy_from_slice(&key[8..KEY]);
    u64::from_le_bytes(place)
}

impl Segment {
    /// A segment whose bytes are in memory.
    pub(super) fn of_memory(bytes: Vec<u8>, runs: Vec<ObjectHash>) -> Self {
        let (seed, head) = Head::decode(&bytes[..PAGE]).expect("it was just written");
        Self {
            pages: Pages::of_memory(seed, bytes),
            head,
            table: Table::new(head.table),
            runs,
            path: None,
        }
    }

    /// Opens a file, of which only the header is read.
    pub(super) fn open(
        file: File,
        repository: RepositoryId,
        runs: Vec<ObjectHash>,
        cache: &Arc<PageCache>,
    ) -> Result<Self, Broken> {
        use std::os::unix::fs::FileExt;
        let mut page = vec![0; PAGE];
        file.read_exact_at(&mut page, 0)?;
        let (seed, head) =
            Head::decode(&page).ok_or_else(|| Broken("its header is damaged".into()))?;
        if head.repository != repository {
            return Err(Broken("it is another repository's".into()));
        }
        if file.metadata()?.len() != head.len {
            return Err(Broken("it has another length".into()));
        }
        Ok(Self {
            pages: Pages::of_file(seed, file, cache.clone()),
            head,
            table: Table::new(head.table),
            runs,
            path: None,
        })
    }

    pub(super) fn entries(&self) -> u64 {
        self.head.entries
    }

    pub(super) fn packs(&self) -> u32 {
        u32::try_from(self.head.packs).unwrap_or(u32::MAX)
    }

    /// Whether all of it is in memory.
    pub(super) fn is_whole(&self) -> bool {
        self.pages.whole().is_some()
    }

    /// Length of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.head.len
    }

    pub(super) fn filter_bytes(&self) -> u64 {
        self.head.table.filter_bytes()
    }

    /// Takes the whole file into memory, once every page of it was checked.
    pub(super) fn load(&self) -> Result<(), Broken> {
        if self.pages.whole().is_some() {
            return Ok(());
        }
        let mut bytes = vec![0; at(self.head.len)];
        self.pages.read(0, &mut bytes)?;
        let filter = self.head.table.filter..self.head.table.first;
        let paged = at(self.head.frames);
        for (number, page) in (0u64..).zip(bytes[..paged].chunks_exact(PAGE)) {
            if !filter.contains(&number) {
                self.pages.check(number, page)?;
            }
        }
        let range = at(filter.start) * PAGE..at(filter.end) * PAGE;
        let end = range.start + at(self.head.table.filter_bytes());
        self.table
            .mend(self.pages.seed, &mut bytes[range.start..end]);
        self.pages.keep(bytes.into_boxed_slice());
        Ok(())
    }

    /// Takes the filter into memory.
    pub(super) fn load_filter(&self) {
        self.table.keep_filter(&self.pages);
    }

    /// Whether an id with this prefix may be there.
    pub(super) fn may_have(&self, prefix: u64) -> bool {
        self.table.may_have(&self.pages, prefix)
    }

    /// Positions at which an id with this prefix stands.
    pub(super) fn find(&self, prefix: u64) -> Result<Places, Broken> {
        let mut places = Places::default();
        self.table
            .find(&self.pages, prefix, |key| places.push(place_of(key)))?;
        Ok(places)
    }

    /// The bytes of an entry, where all is in memory.
    pub(super) fn entry_bytes(&self, place: u64) -> Option<&[u8]> {
        let start = at(1 + place / PAGE_ENTRIES) * PAGE + at(place % PAGE_ENTRIES) * ENTRY;
        self.pages.whole()?.get(start..start + ENTRY)
    }

    /// The entry at a position, if it is of this chunk.
    pub(super) fn entry_of(&self, place: u64, id: &ChunkId) -> Result<Option<IndexEntry>, Broken> {
        if place >= self.head.entries {
            return Err(Broken("a position is out of range".into()));
        }
        let (page, slot) = (1 + place / PAGE_ENTRIES, at(place % PAGE_ENTRIES));
        let entry = self.pages.with(page, |bytes| {
            let bytes = &bytes[slot * ENTRY..];
            (bytes[..32] == id.as_bytes()[..]).then(|| decode_entry(bytes))
        })?;
        match entry {
            Some(entry) if u64::from(entry.pack) >= self.head.packs => {
                Err(Broken("a pack is out of range".into()))
            }
            entry => Ok(entry),
        }
    }

    /// Gives the entries from `first` on that stand in the same page.
    pub(super) fn page_entries(&self, first: u64) -> Result<Vec<IndexEntry>, Broken> {
        let end = self
            .head
            .entries
            .min((first / PAGE_ENTRIES + 1) * PAGE_ENTRIES);
        let slots =
            at(first % PAGE_ENTRIES)..at(first % PAGE_ENTRIES) + at(end.saturating_sub(first));
        self.pages.with(1 + first / PAGE_ENTRIES, |bytes| {
            slots
                .map(|slot| decode_entry(&bytes[slot * ENTRY..]))
                .collect()
        })
    }

    /// The prefixes of the page of a position, with that of its first entry.
    pub(super) fn neighbours(&self, place: u64, out: &mut Vec<u64>) -> Result<u64, Broken> {
        let first = place - place % PAGE_ENTRIES;
        let count = at(PAGE_ENTRIES.min(self.head.entries.saturating_sub(first)));
        out.clear();
        self.pages.with(1 + place / PAGE_ENTRIES, |bytes| {
            out.extend(bytes.chunks_exact(ENTRY).take(count).map(prefix));
        })?;
        Ok(first)
    }

    /// A pack's row.
    pub(super) fn row(&self, pack: u32) -> Result<Row, Broken> {
        if pack >= self.packs() {
            return Err(Broken("a pack is out of range".into()));
        }
        let pack = u64::from(pack);
        let slot = at(pack % PAGE_ROWS) * ROW;
        self.pages.with(self.head.rows + pack / PAGE_ROWS, |bytes| {
            Row::decode(&bytes[slot..])
        })
    }

    /// Gives all rows, page by page, without filling the cache.
    pub(super) fn each_row(&self, mut each: impl FnMut(u32, Row)) -> Result<(), Broken> {
        let mut page = vec![0; PAGE];
        for pack in 0..self.packs() {
            let slot = u64::from(pack) % PAGE_ROWS;
            if slot == 0 {
                let number = self.head.rows + u64::from(pack) / PAGE_ROWS;
                self.pages.read_page(number, &mut page)?;
            }
            each(pack, Row::decode(&page[at(slot) * ROW..]));
        }
        Ok(())
    }

    /// A pack's frames.
    pub(super) fn pack(&self, row: &Row) -> Result<RunPack, Broken> {
        let start = self.head.frames.saturating_add(row.frames_at);
        if start.saturating_add(u64::from(row.frames_len)) > self.head.len {
            return Err(Broken("the frames of a pack are out of range".into()));
        }
        let mut blob = vec![0; row.frames_len as usize];
        self.pages.read(start, &mut blob)?;
        let wrong = || Broken(format!("the frames of pack {} are damaged", row.name));
        let content = blob.len().checked_sub(8).ok_or_else(wrong)?;
        if check_of(self.pages.seed, 0, &blob[..content]) != u64_at(&blob, content) {
            return Err(wrong());
        }
        Ok(RunPack {
            name: row.name,
            len: row.len,
            frames: read_frames(&blob[..content], row.frames).ok_or_else(wrong)?,
        })
    }

    /// Where a pack's entries stand.
    pub(super) fn entries_of(&self, row: &Row) -> std::ops::Range<u64> {
        row.first_entry..row.first_entry.saturating_add(u64::from(row.entries))
    }
}

/// Why a merge failed.
#[derive(Debug)]
pub(super) enum MergeError {
    /// An input is damaged: its position.
    Input(usize, Broken),
    /// The new file can't be written.
    Output(std::io::Error),
}

impl From<std::io::Error> for MergeError {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<Broken> for MergeError {
    fn from(broken: Broken) -> Self {
        Self::Input(usize::MAX, broken)
    }
}

/// What a merge takes over of one input.
struct Kept {
    /// Of each pack the first entry in the input, and that in the output; absent if it is left out.
    packs: Vec<(u64, Option<u64>)>,
    /// The position of each run in the output.
    runs: Vec<Option<u32>>,
}

impl Kept {
    fn place(&self, old: u64) -> Option<u64> {
        let pack = self.packs.partition_point(|(first, _)| *first <= old);
        let (first, new) = self.packs[pack.checked_sub(1)?];
        Some(new? + (old - first))
    }
}

/// Writes what `inputs` hold into one segment, without the runs that are not `wanted`; gives the runs that it holds.
pub(super) fn merge(
    inputs: &[&Segment],
    wanted: &dyn Fn(&ObjectHash) -> bool,
    repository: RepositoryId,
    out: &mut dyn Out,
) -> Result<Vec<ObjectHash>, MergeError> {
    let mut runs = Vec::new();
    let mut kept: Vec<Kept> = Vec::with_capacity(inputs.len());
    let (mut entries, mut pack_count) = (0u64, 0u64);
    for (nth, input) in inputs.iter().enumerate() {
        let numbers = input.runs.iter().map(|run| {
            wanted(run).then(|| {
                runs.push(*run);
                u32::try_from(runs.len() - 1).expect("fewer than 2^32 runs")
            })
        });
        let numbers: Vec<Option<u32>> = numbers.collect();
        let mut packs = Vec::with_capacity(input.packs() as usize);
        let each = |_: u32, row: Row| {
            let keeps = numbers.get(row.run as usize).copied().flatten().is_some();
            packs.push((row.first_entry, keeps.then_some(entries)));
            if keeps {
                entries = entries.saturating_add(u64::from(row.entries));
                pack_count += 1;
            }
        };
        input
            .each_row(each)
            .map_err(|e| MergeError::Input(nth, e))?;
        kept.push(Kept {
            packs,
            runs: numbers,
        });
    }
    let mut writer = Writer::new(out, repository, entries, pack_count);
    let mut directory = writer.directory();
    let mut new_pack = 0u32;
    for (nth, (input, kept)) in inputs.iter().zip(&kept).enumerate() {
        let failed = |e| MergeError::Input(nth, e);
        for (pack, (_, new)) in (0u32..).zip(&kept.packs) {
            if new.is_none() {
                continue;
            }
            let range = input.entries_of(&input.row(pack).map_err(failed)?);
            let mut place = range.start;
            while place < range.end {
                let page = input.page_entries(place).map_err(failed)?;
                if page.is_empty() {
                    return Err(failed(Broken(
                        "the entries of a pack are out of range".into(),
                    )));
                }
                for entry in page {
                    if place == range.end {
                        break;
                    }
                    let entry = IndexEntry {
                        pack: new_pack,
                        ..entry
                    };
                    directory.put(writer.out, &encode_entry(&entry))?;
                    place += 1;
                }
            }
            new_pack += 1;
        }
    }
    directory.finish(writer.out)?;
    let mut table = writer.table();
    let cursors = inputs
        .iter()
        .map(|input| Cursor::new(&input.pages, input.head.table));
    merge_tables(cursors.collect(), |which, key| {
        match kept[which].place(place_of(key)) {
            Some(place) => table
                .push(writer.out, &key_of(prefix(key), place))
                .map_err(MergeError::Output),
            None => Ok(()),
        }
    })?;
    let mut packs = writer.end_table(table)?;
    let seed = writer.seed;
    for (nth, (input, kept)) in inputs.iter().zip(&kept).enumerate() {
        let failed = |e| MergeError::Input(nth, e);
        for (pack, (_, new)) in (0u32..).zip(&kept.packs) {
            let Some(first_entry) = *new else { continue };
            let row = input.row(pack).map_err(failed)?;
            let frames = input.pack(&row).map_err(failed)?.frames;
            let run = kept.runs.get(row.run as usize).copied().flatten();
            let row = Row {
                first_entry,
                run: run.expect("only packs of runs that are wanted are kept"),
                ..row
            };
            packs.put(writer.out, row, &frames, seed)?;
        }
    }
    writer.finish(packs)?;
    Ok(runs)
}
