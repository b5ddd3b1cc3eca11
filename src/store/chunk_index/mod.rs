//! Chunk id → where it is, for all packs that the log names and nothing condemned.
//!
//! It is made of segments (`segment`): immutable files in a folder of this host's cache (`cache`), or memory where there is no such folder. An
//! index is opened without being read: a look-up reads the pages that it needs. It knows nothing of sources, and nothing depends on the
//! files: what they hold is what index runs of the repository say, and is read from those again when a file is absent, damaged or out of date.
//!
//! # Look-up
//!
//! For each segment, the largest first: the filter (64 bytes) says "absent" for 99 of 100 ids that are; the bucket of the id (a page of 4 KiB)
//! gives the place in the directory; the entry there (a page) has the whole id, which is compared. Before all that `near` is asked,
//! because chunks come in the order in which they were stored.
//!
//! | index | is read | memory |
//! |---|---|---|
//! | up to 64 MiB of files (a million chunks), few look-ups | by pages | the pages |
//! | the same, after some hundred look-ups | once, as a whole | the files |
//! | the same, after one look-up for each 16 chunks | | and a hash table, 5 to 10 bytes for each chunk |
//! | larger | by pages, `pread` | 32 MiB of pages, 2 MiB of notes; filters up to 48 MiB together |
//!
//! Mapping the files would be faster by the cost of a system call for each page that is in the page cache (365 ns measured against 1400 to
//! 2000 for a look-up in 10 to 100 million entries), but mapped pages count as this process's memory, and a file that somebody cuts short
//! ends it by a signal. Small indexes are as fast as memory, because they are in it.
//!
//! # Size
//!
//! A chunk takes 48 bytes in the directory, 13 / (5/6) = 15.6 in the buckets and 1.3 in the filter: 65 bytes. A pack takes 72 bytes and 16 for
//! each frame. For a thousand million chunks of 16 KiB (16 TB before compression; packs of 32 MiB with frames of 1 MiB that are compressed to
//! half: 250,000 packs of 64 frames):
//!
//! | part | arithmetic | bytes |
//! |---|---|---|
//! | directory | 10⁹ / 85 pages of 4 KiB | 48.2 · 10⁹ |
//! | buckets | 10⁹ / 260 pages of 4 KiB | 15.8 · 10⁹ |
//! | filter | 10⁹ / 48 blocks of 64 bytes | 1.3 · 10⁹ |
//! | packs | 250,000 · (72 + 64 · 16 + 8) | 0.28 · 10⁹ |
//! | **together** | | **65.6 · 10⁹**, 0.4 % of what is stored |
//! | memory | 32 MiB pages + 2 MiB notes + 250,000 bytes of flags + 128 KiB of names of runs | 36 · 10⁶ |
//!
//! With the sizes of segments falling by four or more there are at most eleven. A new chunk reads eleven blocks of filters (4 µs if they are in
//! the page cache, which the filters' 1.3 GB fit in), a chunk in no order two pages more; a chunk in the order of its pack a memory access and an
//! 85th of a page.
//!
//! # Invariants
//!
//! 1. Packs that are condemned or quarantined when it is opened are not in it, whatever runs and files say (`unusable_packs_are_left_out`).
//! 2. What a backup relies on is remembered for the test before the commit (`relied_packs_are_known`).
//! 3. Nothing new relies on a pack that was refused meanwhile (`refused_packs_are_not_relied_on`).
//! 4. "Present" is said only where the whole id equals one that a checked page holds, and pages hold what runs of this state say
//!    (`the_cache_says_what_the_runs_say`, `a_damaged_file_is_noticed_and_made_anew`).
//! 5. Damage of a file in use: the runs that it was made of are read again and the look-up is answered by them. Where that fails too, a chunk
//!    counts as absent, so a backup stores it again, and a reader gets the cause from [`ChunkIndex::failure`], not "missing".
//!
//! Threads: shared by any number of threads.

mod buckets;
mod builder;
pub mod cache;
mod id_set;
mod names;
mod near;
mod pages;
mod rows;
mod segment;
#[cfg(test)]
mod tests;
mod warm;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use self::buckets::prefix;
use self::builder::Builder;
use self::near::Near;
use self::pages::{Broken, at, lock, wide};
use self::rows::Row;
use self::segment::Segment;
use super::StoreError;
use crate::format::id::{ChunkId, ObjectHash};
use crate::format::index::{IndexEntry, IndexRun, RunFrame, RunPack};

pub use id_set::IdSet;

/// Filters of segments that are read by pages, and of sets of new chunks, together.
const FILTER_BYTES: u64 = 48 << 20;
/// Entries that are sorted in memory when runs become a segment.
const BATCH_ENTRIES: usize = if cfg!(test) { 600 } else { 1 << 19 };
/// Bytes of segments without a cache that stay in memory; what is beyond goes to unnamed files.
const MEMORY_BYTES: u64 = if cfg!(test) { 200 << 10 } else { 96 << 20 };
/// Packs whose tables are kept.
const TABLES: usize = 256;

/// The pack is not there for anybody.
const LEFT_OUT: u8 = 1;
/// Nothing new relies on the pack.
const REFUSED: u8 = 2;
/// Somebody relies on the pack.
const RELIED: u8 = 4;

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// Number of the pack, for [`ChunkIndex::pack`].
    pub pack: u32,
    /// Frame number.
    pub frame: u32,
    /// First byte in the frame's plaintext.
    pub offset: u32,
    /// Length in bytes.
    pub len: u32,
}

/// Reads a run of the repository again.
type Reload = Arc<dyn Fn(&ObjectHash) -> Result<IndexRun, StoreError> + Send + Sync>;
/// Whether a pack may be used.
type Usable = Arc<dyn Fn(&ObjectHash) -> bool + Send + Sync>;

/// A segment in an index: its packs and entries have numbers of their own there.
struct Slot {
    segment: Arc<Segment>,
    first_pack: u32,
    first_entry: u64,
    flags: Box<[AtomicU8]>,
    /// Which of its runs count.
    wanted: Box<[bool]>,
    /// What takes its place once it was found damaged.
    healed: OnceLock<Option<Healed>>,
}

/// A segment made anew from its runs, whose numbers come after all others.
struct Healed {
    index: ChunkIndex,
    first_pack: u32,
    first_entry: u64,
}

/// The index.
#[derive(Default)]
pub struct ChunkIndex {
    slots: Vec<Slot>,
    near: Near,
    next_pack: AtomicU32,
    next_entry: AtomicU64,
    looked_up: AtomicU32,
    /// Look-ups by pages before something is taken into memory.
    few: u32,
    /// Look-ups before positions are put into a hash table.
    enough: u32,
    /// Positions of all entries by their prefixes, of an index that is in memory and used much.
    positions: OnceLock<hashbrown::HashTable<u32>>,
    relied: Mutex<HashSet<ObjectHash>>,
    refused: Mutex<HashSet<ObjectHash>>,
    tables: Mutex<HashMap<u32, Arc<RunPack>>>,
    /// Numbers of packs, once somebody asks for one by its name.
    names: OnceLock<HashMap<ObjectHash, u32>>,
    reload: Option<Reload>,
    usable: Option<Usable>,
    heals: AtomicUsize,
    failure: Mutex<Option<String>>,
}

impl fmt::Debug for ChunkIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkIndex")
            .field("segments", &self.slots.len())
            .field("packs", &self.next_pack)
            .field("entries", &self.next_entry)
            .finish_non_exhaustive()
    }
}

/// Where a pack's number is found, and its number there.
enum PlaceOfPack<'i> {
    Slot(&'i Slot, u32),
    Healed(&'i ChunkIndex, u32),
}

/// A chunk that was found: in a slot, at a position in its segment.
struct Hit<'i> {
    slot: &'i Slot,
    place: u64,
    entry: IndexEntry,
}

impl ChunkIndex {
    /// Builds an index of its own from runs; `usable` says whether a pack may be relied on. A pack that two runs name is taken once.
    ///
    /// It is in memory up to 96 MiB, beyond that in unnamed files.
    pub fn build(
        runs: impl IntoIterator<Item = IndexRun>,
        usable: impl Fn(&ObjectHash) -> bool,
    ) -> Self {
        let runs = runs.into_iter().map(Ok::<_, std::convert::Infallible>);
        match Self::try_build(runs, usable) {
            Ok(index) => index,
            Err(never) => match never {},
        }
    }

    /// As [`ChunkIndex::build`], of runs that are read one by one; the first that can't be read ends it.
    pub fn try_build<E>(
        runs: impl IntoIterator<Item = Result<IndexRun, E>>,
        usable: impl Fn(&ObjectHash) -> bool,
    ) -> Result<Self, E> {
        let mut builder = Builder::default();
        for run in runs {
            builder.add(run?, &usable);
        }
        Ok(builder.finish())
    }

    /// An index of segments; of each, which of its runs count.
    fn of_segments(segments: Vec<(Arc<Segment>, Box<[bool]>)>) -> Self {
        let mut index = Self::default();
        for (segment, wanted) in segments {
            index.add_segment(segment, wanted);
        }
        index.set_limits();
        index
    }

    fn add_segment(&mut self, segment: Arc<Segment>, wanted: Box<[bool]>) {
        let first_pack = *self.next_pack.get_mut();
        let first_entry = *self.next_entry.get_mut();
        *self.next_pack.get_mut() += segment.packs();
        *self.next_entry.get_mut() += segment.entries();
        let flags = (0..segment.packs()).map(|_| AtomicU8::new(0)).collect();
        self.slots.push(Slot {
            segment,
            first_pack,
            first_entry,
            flags,
            wanted,
            healed: OnceLock::new(),
        });
    }

    /// Adds runs that the log does not name, without packs that are not usable.
    pub fn add_runs<E>(
        &mut self,
        runs: impl IntoIterator<Item = Result<IndexRun, E>>,
        usable: impl Fn(&ObjectHash) -> bool,
    ) -> Result<(), E> {
        for slot in Self::try_build(runs, usable)?.slots {
            self.add_segment(slot.segment, slot.wanted);
        }
        self.set_limits();
        Ok(())
    }

    /// The same index again, on which nobody relies yet; what was refused since it was opened is there.
    pub fn again(&self) -> Self {
        let segments = self.slots.iter();
        let segments = segments.map(|slot| (slot.segment.clone(), slot.wanted.clone()));
        let mut index = Self::of_segments(segments.collect());
        for (new, old) in index.slots.iter().zip(&self.slots) {
            for (new, old) in new.flags.iter().zip(&old.flags) {
                new.store(old.load(Ordering::Relaxed) & LEFT_OUT, Ordering::Relaxed);
            }
        }
        index.reload.clone_from(&self.reload);
        index.usable.clone_from(&self.usable);
        index
    }

    /// Leaves out what is not usable, and packs of runs that do not count.
    fn leave_out(&self, is_unusable: Option<&dyn Fn(&ObjectHash) -> bool>) {
        for slot in &self.slots {
            if is_unusable.is_none() && slot.wanted.iter().all(|wanted| *wanted) {
                continue;
            }
            let each = |pack: u32, row: Row| {
                let counts = slot
                    .wanted
                    .get(row.run as usize)
                    .is_some_and(|counts| *counts);
                if !counts || is_unusable.is_some_and(|is_unusable| is_unusable(&row.name)) {
                    slot.flags[pack as usize].fetch_or(LEFT_OUT, Ordering::Relaxed);
                }
            };
            if let Err(broken) = slot.segment.each_row(each) {
                self.heal(slot, &broken);
            }
        }
    }

    /// A bound for the positions of chunks: a small number for a set of them.
    pub fn positions(&self) -> usize {
        at(self.next_entry.load(Ordering::Relaxed))
    }

    /// How many packs were numbered so far, those that are left out among them.
    pub fn pack_numbers(&self) -> u32 {
        self.next_pack.load(Ordering::Relaxed)
    }

    /// Why look-ups may have said that a chunk is absent although it is not: the cache is damaged, and the runs could not be read again.
    pub fn failure(&self) -> Option<StoreError> {
        let what = lock(&self.failure).clone()?;
        Some(StoreError::Refused(what))
    }

    /// How often damage of a file was met, after it was read around.
    pub fn heals(&self) -> usize {
        self.heals.load(Ordering::Relaxed)
    }

    /// Does something that fails where it meets damage of a file, again as long as the damage was read around meanwhile.
    pub fn read_around<T>(
        &self,
        mut work: impl FnMut() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        loop {
            let heals = self.heals();
            match work() {
                Err(_) if self.heals() > heals && self.failure().is_none() => {}
                done => return done,
            }
        }
    }

    /// Notes that a segment is damaged, takes its file away, and makes it anew in memory from the runs.
    fn heal<'s>(&self, slot: &'s Slot, broken: &Broken) -> Option<&'s Healed> {
        let healed = slot.healed.get_or_init(|| {
            let path = slot.segment.path.as_deref();
            let name =
                path.map_or_else(|| "a part of the index".into(), |p| p.display().to_string());
            tracing::warn!(
                "{name} is damaged ({}); it is made anew from the repository",
                broken.0
            );
            if let Some(Err(error)) = path.map(std::fs::remove_file) {
                tracing::debug!("{name} can't be removed: {error}");
            }
            match self.made_anew(slot) {
                Ok(index) => {
                    let first_pack = self
                        .next_pack
                        .fetch_add(index.pack_numbers(), Ordering::Relaxed);
                    let entries = wide(index.positions());
                    let first_entry = self.next_entry.fetch_add(entries, Ordering::Relaxed);
                    let refused = lock(&self.refused).clone();
                    index.refuse(|pack| refused.contains(pack));
                    Some(Healed {
                        index,
                        first_pack,
                        first_entry,
                    })
                }
                Err(error) => {
                    let what = format!("{name} is damaged, and can't be made anew: {error}");
                    tracing::error!("{what}");
                    *lock(&self.failure) = Some(what);
                    None
                }
            }
        });
        // After it was read around, also by whoever waited for that: a look-up of theirs is worth another try.
        self.heals.fetch_add(1, Ordering::Relaxed);
        healed.as_ref()
    }

    fn made_anew(&self, slot: &Slot) -> Result<Self, StoreError> {
        let reload = self
            .reload
            .as_ref()
            .ok_or_else(|| StoreError::Refused("there are no runs to make it from".into()))?;
        let usable = |pack: &ObjectHash| self.usable.as_ref().is_none_or(|usable| usable(pack));
        let mut builder = Builder::default();
        for (run, wanted) in slot.segment.runs.iter().zip(&slot.wanted) {
            if *wanted {
                builder.add(reload(run)?, &usable);
            }
        }
        Ok(builder.finish())
    }

    /// How many segments it is made of.
    pub fn segments(&self) -> usize {
        self.slots.len()
    }

    fn bytes(&self) -> u64 {
        self.slots.iter().map(|slot| slot.segment.bytes()).sum()
    }

    /// Whether look-ups go to files, so that what is near is worth noting.
    fn is_paged(&self) -> bool {
        self.slots.iter().any(|slot| !slot.segment.is_whole())
    }

    /// The slot in which an entry's position lies.
    fn slot_of_entry(&self, place: u64) -> Option<&Slot> {
        let behind = self.slots.partition_point(|slot| slot.first_entry <= place);
        let slot = self.slots.get(behind.checked_sub(1)?)?;
        (place - slot.first_entry < slot.segment.entries()).then_some(slot)
    }

    /// The chunk, if it stands behind this thread's last find, or was noted.
    fn find_near(&self, id: &ChunkId, prefix: u64) -> Option<Hit<'_>> {
        let next = self.near.next().and_then(|place| self.entry_at(place, id));
        let hit = match next {
            Some(hit) => hit,
            None => self.entry_at(self.near.find(prefix)?, id)?,
        };
        let slot = hit.slot;
        self.near.found(slot.first_entry + hit.place);
        let next = (hit.place / segment::PAGE_ENTRIES + 1) * segment::PAGE_ENTRIES;
        if !slot.segment.is_whole()
            && next < slot.segment.entries()
            && self.near.is_due(hit.place, slot.first_entry + next)
        {
            self.note(slot, next);
        }
        Some(hit)
    }

    /// The entry at a position, if it is this chunk's and not left out.
    fn entry_at(&self, place: u64, id: &ChunkId) -> Option<Hit<'_>> {
        let slot = self.slot_of_entry(place)?;
        if slot.healed.get().is_some() {
            return None;
        }
        let place = place - slot.first_entry;
        match slot.segment.entry_of(place, id) {
            Ok(entry) => {
                let entry = entry?;
                (!slot.is_left_out(entry.pack)).then_some(Hit { slot, place, entry })
            }
            Err(broken) => {
                self.heal(slot, &broken);
                None
            }
        }
    }

    /// Notes what stands in the page of a position.
    fn note(&self, slot: &Slot, place: u64) {
        let mut prefixes = Vec::with_capacity(at(segment::PAGE_ENTRIES));
        match slot.segment.neighbours(place, &mut prefixes) {
            Ok(first) => self.near.note(slot.first_entry + first, &prefixes),
            Err(broken) => drop(self.heal(slot, &broken)),
        }
    }

    /// Gives each place of a chunk in one segment to `each` until it returns true; `Some(true)` if it did.
    fn find_in<'s>(
        slot: &'s Slot,
        id: &ChunkId,
        prefix: u64,
        each: &mut dyn FnMut(Hit<'s>) -> bool,
    ) -> Result<bool, Broken> {
        for place in slot.segment.find(prefix)?.iter() {
            if let Some(entry) = slot.segment.entry_of(place, id)?
                && !slot.is_left_out(entry.pack)
                && each(Hit { slot, place, entry })
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Gives places of a chunk, with the numbers to add to those of packs and entries, to `each` until it returns true.
    ///
    /// With `surely` no filter is asked: a damaged block of one, if the damage is not noticed, hides a chunk, which a backup can bear.
    fn look_up(
        &self,
        id: &ChunkId,
        surely: bool,
        each: &mut dyn FnMut(&Hit<'_>, (u32, u64)) -> bool,
    ) -> bool {
        self.warm();
        let prefix = prefix(id.as_bytes());
        for slot in &self.slots {
            if slot.healed.get().is_none() {
                if !surely && !slot.segment.may_have(prefix) {
                    continue;
                }
                let base = (slot.first_pack, slot.first_entry);
                match Self::find_in(slot, id, prefix, &mut |hit| each(&hit, base)) {
                    Ok(true) => return true,
                    Ok(false) => continue,
                    Err(broken) => drop(self.heal(slot, &broken)),
                }
            }
            if let Some(Some(healed)) = slot.healed.get() {
                let mut each = |hit: &Hit<'_>, (pack, entry): (u32, u64)| {
                    each(hit, (healed.first_pack + pack, healed.first_entry + entry))
                };
                if healed.index.look_up(id, surely, &mut each) {
                    return true;
                }
            }
        }
        false
    }

    /// Position of an entry of the chunk, below [`ChunkIndex::positions`].
    pub fn position(&self, id: &ChunkId) -> Option<usize> {
        let mut found = None;
        self.look_up(id, true, &mut |hit, (_, first)| {
            found = Some(at(first + hit.place));
            true
        });
        found
    }

    /// A place of the chunk.
    pub fn find(&self, id: &ChunkId) -> Option<Location> {
        if let Some(found) = self.find_hashed(id) {
            return found.map(|hit| hit.location(hit.slot.first_pack));
        }
        let prefix = prefix(id.as_bytes());
        if let Some(hit) = self.find_near(id, prefix) {
            return Some(hit.location(hit.slot.first_pack));
        }
        // What is in memory was checked when it came there.
        let passes = 1 + usize::from(self.is_paged());
        for surely in [false, true].into_iter().take(passes) {
            let mut found = None;
            let mut near = None;
            self.look_up(id, surely, &mut |hit, (first_pack, first_entry)| {
                found = Some(hit.location(first_pack));
                near = Some(first_entry + hit.place);
                true
            });
            if found.is_some() {
                self.note_found(near);
                return found;
            }
        }
        None
    }

    fn note_found(&self, place: Option<u64>) {
        if let Some(place) = place
            && let Some(slot) = self.slot_of_entry(place)
            && slot.healed.get().is_none()
        {
            self.near.found(place);
            if slot.segment.is_whole() {
                return;
            }
            self.note(slot, place - slot.first_entry);
        }
    }

    /// Every place of the chunk, for readers that found one damaged.
    pub fn find_all(&self, id: &ChunkId) -> Vec<Location> {
        let mut found = Vec::new();
        self.look_up(id, true, &mut |hit, (first_pack, _)| {
            found.push(hit.location(first_pack));
            false
        });
        found
    }

    /// Whether the chunk is there, in a pack that is not refused; if so, remembers that the caller relies on it.
    pub fn rely_on(&self, id: &ChunkId) -> bool {
        match self.find_hashed(id) {
            Some(None) => return false,
            Some(Some(hit)) if self.rely_on_hit(&hit) => return true,
            _ => {}
        }
        let prefix = prefix(id.as_bytes());
        if let Some(hit) = self.find_near(id, prefix)
            && self.rely_on_hit(&hit)
        {
            return true;
        }
        let mut near = None;
        let mut relied = false;
        self.look_up(id, false, &mut |hit, (_, first_entry)| {
            near = Some(first_entry + hit.place);
            relied = self.rely_on_hit(hit);
            relied
        });
        if relied {
            self.note_found(near);
        }
        relied
    }

    fn rely_on_hit(&self, hit: &Hit<'_>) -> bool {
        let flags = &hit.slot.flags[hit.entry.pack as usize];
        let known = flags.load(Ordering::Relaxed);
        if known & (REFUSED | LEFT_OUT) != 0 {
            return false;
        }
        if known & RELIED == 0 {
            // A name that can't be read can't be tested before the commit.
            let Ok(row) = hit.slot.segment.row(hit.entry.pack) else {
                return false;
            };
            lock(&self.relied).insert(row.name);
            flags.fetch_or(RELIED, Ordering::Relaxed);
        }
        true
    }

    /// The packs that hold what [`Self::rely_on`] was asked for.
    pub fn relied_packs(&self) -> Vec<ObjectHash> {
        let mut packs: Vec<ObjectHash> = lock(&self.relied).iter().copied().collect();
        packs.sort_unstable();
        packs
    }

    /// Lets nothing new rely on packs that are no longer usable. Returns how many of them are refused for the first time.
    pub fn refuse(&self, is_unusable: impl Fn(&ObjectHash) -> bool) -> usize {
        self.refuse_by(&is_unusable)
    }

    fn refuse_by(&self, is_unusable: &dyn Fn(&ObjectHash) -> bool) -> usize {
        let before = self.refused_packs();
        for slot in &self.slots {
            if slot.healed.get().is_none() {
                let each = |pack: u32, row: Row| {
                    let flags = &slot.flags[pack as usize];
                    let known = flags.load(Ordering::Relaxed);
                    if known & (LEFT_OUT | REFUSED) == 0 && is_unusable(&row.name) {
                        flags.fetch_or(REFUSED, Ordering::Relaxed);
                        lock(&self.refused).insert(row.name);
                    }
                };
                if let Err(broken) = slot.segment.each_row(each) {
                    self.heal(slot, &broken);
                }
            }
            if let Some(Some(healed)) = slot.healed.get() {
                healed.index.refuse_by(is_unusable);
                let refused = lock(&healed.index.refused).clone();
                lock(&self.refused).extend(refused);
            }
        }
        self.refused_packs() - before
    }

    /// How many packs are refused.
    pub fn refused_packs(&self) -> usize {
        lock(&self.refused).len()
    }

    fn place_of_pack(&self, pack: u32) -> Option<PlaceOfPack<'_>> {
        for slot in &self.slots {
            if let Some(own) = pack.checked_sub(slot.first_pack)
                && own < slot.segment.packs()
            {
                return Some(PlaceOfPack::Slot(slot, own));
            }
            if let Some(Some(healed)) = slot.healed.get()
                && let Some(own) = pack.checked_sub(healed.first_pack)
                && own < healed.index.pack_numbers()
            {
                return Some(PlaceOfPack::Healed(&healed.index, own));
            }
        }
        None
    }

    fn row(&self, pack: u32) -> Result<(&Slot, Row), StoreError> {
        match self.place_of_pack(pack) {
            Some(PlaceOfPack::Slot(slot, own)) => match slot.segment.row(own) {
                Ok(row) => Ok((slot, row)),
                Err(broken) => Err(self.healed_error(slot, &broken)),
            },
            Some(PlaceOfPack::Healed(index, own)) => index.row(own),
            None => Err(StoreError::Refused(format!("the index has no pack {pack}"))),
        }
    }

    fn healed_error(&self, slot: &Slot, broken: &Broken) -> StoreError {
        self.heal(slot, broken);
        StoreError::Refused("a file of the index's cache is damaged, and was removed".into())
    }

    /// A pack's name.
    pub fn pack_name(&self, pack: u32) -> Result<ObjectHash, StoreError> {
        Ok(self.row(pack)?.1.name)
    }

    /// How many chunks a pack holds.
    pub fn chunks_of_pack(&self, pack: u32) -> Result<u64, StoreError> {
        Ok(u64::from(self.row(pack)?.1.entries))
    }

    /// A pack with its frames.
    pub fn pack(&self, pack: u32) -> Result<Arc<RunPack>, StoreError> {
        if let Some(table) = lock(&self.tables).get(&pack) {
            return Ok(table.clone());
        }
        let (slot, row) = self.row(pack)?;
        let table = match slot.segment.pack(&row) {
            Ok(table) => Arc::new(table),
            Err(broken) => return Err(self.healed_error(slot, &broken)),
        };
        let mut tables = lock(&self.tables);
        if tables.len() >= TABLES {
            tables.clear();
        }
        tables.insert(pack, table.clone());
        Ok(table)
    }

    /// The frame of a location.
    pub fn frame(&self, location: &Location) -> Result<RunFrame, StoreError> {
        let pack = self.pack(location.pack)?;
        let frame = pack.frames.get(location.frame as usize);
        frame
            .copied()
            .ok_or_else(|| StoreError::Refused("the index has no such frame".into()))
    }

    /// The numbers of all packs that are not left out, each pack once.
    pub fn packs(&self) -> Result<Vec<u32>, StoreError> {
        let mut seen = HashSet::new();
        let mut packs = Vec::new();
        self.packs_into(0, &mut seen, &mut packs);
        match self.failure() {
            Some(failure) => Err(failure),
            None => Ok(packs),
        }
    }

    fn packs_into(&self, base: u32, seen: &mut HashSet<ObjectHash>, packs: &mut Vec<u32>) {
        for slot in &self.slots {
            let mut found = Vec::new();
            if slot.healed.get().is_none() {
                let each = |pack: u32, row: Row| {
                    if !slot.is_left_out(pack) {
                        found.push((row.name, base + slot.first_pack + pack));
                    }
                };
                match slot.segment.each_row(each) {
                    Ok(()) => {
                        let new = found.into_iter().filter(|(name, _)| seen.insert(*name));
                        packs.extend(new.map(|(_, pack)| pack));
                        continue;
                    }
                    Err(broken) => drop(self.heal(slot, &broken)),
                }
            }
            if let Some(Some(healed)) = slot.healed.get() {
                healed
                    .index
                    .packs_into(base + healed.first_pack, seen, packs);
            }
        }
    }

    /// Gives the entries of a pack, in the order of its frames; their packs are numbers of this index.
    pub fn each_entry(
        &self,
        pack: u32,
        each: &mut dyn FnMut(IndexEntry),
    ) -> Result<(), StoreError> {
        let (slot, row) = self.row(pack)?;
        let range = slot.segment.entries_of(&row);
        let mut place = range.start;
        while place < range.end {
            let entries = match slot.segment.page_entries(place) {
                Ok(entries) if !entries.is_empty() => entries,
                Ok(_) => return Err(StoreError::Refused("a pack's entries are cut".into())),
                Err(broken) => return Err(self.healed_error(slot, &broken)),
            };
            for entry in entries.into_iter().take(at(range.end - place)) {
                each(IndexEntry { pack, ..entry });
                place += 1;
            }
        }
        Ok(())
    }
}

impl Slot {
    fn is_left_out(&self, pack: u32) -> bool {
        self.flags[pack as usize].load(Ordering::Relaxed) & LEFT_OUT != 0
    }
}

impl Hit<'_> {
    fn location(&self, first_pack: u32) -> Location {
        Location {
            pack: first_pack + self.entry.pack,
            frame: self.entry.frame,
            offset: self.entry.offset,
            len: self.entry.len,
        }
    }
}
