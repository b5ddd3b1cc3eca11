//! Packs: that they are there, and every byte of them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::objects::{is_unreadable, repository_state};
use super::{Reporter, VerifySummary, check_stop, describe};
use crate::backend::{BackendErrorKind, ObjectKind, ObjectName};
use crate::error::Result;
use crate::format::id::{ChunkId, ObjectHash};
use crate::ops::backup::Interrupt;
use crate::ops::snapshots::{Snapshot, frame_decoder, open_reader};
use crate::ops::window::for_each_parallel;
use crate::stats::Stats;
use crate::store::chunk_index::ChunkIndex;
use crate::store::pack_check::{Indexed, PackChecker, PackFindings};
use crate::store::reader::ChunkReader;
use crate::store::{Repository, State, StoreError};

/// Parts of what is wrong with one pack that its line names.
const PARTS_MAX: usize = 4;

/// What is known to be damaged.
#[derive(Debug, Default)]
pub(super) struct Known {
    packs: HashSet<u32>,
    frames: HashSet<(u32, u32)>,
    /// Every pack was read whole, so what is not here is good.
    pub(super) complete: bool,
}

impl Known {
    fn is_empty(&self) -> bool {
        self.packs.is_empty() && self.frames.is_empty()
    }

    fn is_bad(&self, index: &ChunkIndex, pack: u32, frame: u32) -> bool {
        let is_bad =
            |pack, frame| self.packs.contains(&pack) || self.frames.contains(&(pack, frame));
        let base = || {
            let pack = index.pack(pack).ok()?;
            let (name, frame) = pack.frames.get(frame as usize)?.base?;
            Some((index.number_of(&name)?, frame))
        };
        is_bad(pack, frame) || base().is_some_and(|(pack, frame)| is_bad(pack, frame))
    }

    /// Whether every copy of a chunk is damaged.
    pub(super) fn is_lost(&self, index: &ChunkIndex, id: &ChunkId) -> bool {
        if self.is_empty() {
            return false;
        }
        match index.find(id) {
            Some(place) if !self.is_bad(index, place.pack, place.frame) => false,
            _ => index
                .find_all(id)
                .iter()
                .all(|place| self.is_bad(index, place.pack, place.frame)),
        }
    }
}

/// The packs of a repository.
pub(super) struct Packs<'r> {
    repository: &'r Arc<Repository>,
    state: &'r Arc<State>,
    index: &'r Arc<ChunkIndex>,
    threads: usize,
    stop: &'r Interrupt,
    report: &'r Reporter<'r>,
    stats: &'r Arc<Stats>,
    /// Positions of the packs to look at; absent: all, and those that the index does not name.
    only: Option<BTreeSet<u32>>,
    unnamed: Vec<ObjectHash>,
    absent: HashSet<u32>,
    known: Mutex<Known>,
    packs: u64,
    chunks: AtomicU64,
    bytes: AtomicU64,
}

impl<'r> Packs<'r> {
    pub(super) fn new(
        repository: &'r Arc<Repository>,
        state: &'r Arc<State>,
        index: &'r Arc<ChunkIndex>,
        threads: usize,
        stop: &'r Interrupt,
        report: &'r Reporter<'r>,
        stats: &'r Arc<Stats>,
    ) -> Self {
        Self {
            repository,
            state,
            index,
            threads,
            stop,
            report,
            stats,
            only: None,
            unnamed: Vec::new(),
            absent: HashSet::new(),
            known: Mutex::default(),
            packs: 0,
            chunks: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// Looks only at packs that hold chunks of these snapshots.
    pub(super) fn only_those_of(&mut self, snapshots: &[Snapshot]) -> Result<()> {
        let mut used = BTreeSet::new();
        for snapshot in snapshots {
            let reader = open_reader(self.repository, self.state, Some(snapshot.id), &mut |_| {})?;
            super::trees::each_chunk(&reader, &snapshot.record, self.stop, &mut |id| {
                used.extend(self.index.find_all(id).iter().map(|place| place.pack));
            })?;
        }
        let mut bases = BTreeSet::new();
        for pack in &used {
            let table = self.index.pack(*pack)?;
            let named = table.frames.iter().filter_map(|frame| frame.base);
            bases.extend(named.filter_map(|(name, _)| self.index.number_of(&name)));
        }
        used.extend(bases);
        self.only = Some(used);
        Ok(())
    }

    fn name(&self, pack: u32) -> Result<ObjectName> {
        let hash = self.index.pack_name(pack)?;
        Ok(ObjectName::hashed(ObjectKind::Pack, hash.0))
    }

    fn wanted(&self) -> Result<Vec<u32>> {
        Ok(match &self.only {
            Some(only) => only.iter().copied().collect(),
            // Damage of a cached file gives its packs other numbers, so it is met before they are used.
            None => self.index.read_around(|| {
                let packs = self.index.packs()?;
                packs
                    .iter()
                    .try_for_each(|pack| self.index.pack(*pack).map(drop))?;
                Ok(packs)
            })?,
        })
    }

    /// That every pack is there; with `lengths` also that it has the length that the index says.
    pub(super) fn exist(&mut self, lengths: bool) -> Result<()> {
        let mut listed: HashMap<ObjectHash, u64> = HashMap::new();
        self.repository
            .backend()
            .list(ObjectKind::Pack, &mut |info| {
                listed.extend(info.name.hash().map(|hash| (ObjectHash(hash), info.len)));
            })?;
        for pack in self.wanted()? {
            self.packs += 1;
            let table = self.index.pack(pack)?;
            let len = match listed.get(&table.name) {
                Some(len) if *len == table.len => continue,
                _ => self.len(pack)?,
            };
            match len {
                None => {
                    self.absent.insert(pack);
                }
                Some(len) if lengths && len != table.len => {
                    let what = format!("it has {len} bytes, the index says {}", table.len);
                    self.report.damaged(self.name(pack)?, what);
                    self.lost(pack);
                }
                Some(_) => {}
            }
        }
        if self.only.is_none() {
            for pack in self.index.packs()? {
                listed.remove(&self.index.pack_name(pack)?);
            }
            self.unnamed = listed.into_keys().collect();
            self.unnamed.sort_unstable();
        }
        Ok(())
    }

    /// The length of a pack; `None` if it is lost, which is reported unless the log condemned it meanwhile.
    fn len(&self, pack: u32) -> Result<Option<u64>> {
        let name = self.name(pack)?;
        match self.repository.backend().len(&name) {
            Ok(len) => Ok(Some(len)),
            Err(e) if e.kind == BackendErrorKind::NotFound => {
                self.absent(pack)?;
                Ok(None)
            }
            Err(e) if is_unreadable(e.kind) => {
                self.report.damaged(name, describe(&e));
                self.lost(pack);
                Ok(None)
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Says that a pack is lost, unless the log condemned it meanwhile: then what is needed of it is elsewhere.
    fn absent(&self, pack: u32) -> Result<()> {
        let now = repository_state(self.repository, self.state)?;
        let hash = self.index.pack_name(pack)?;
        if !now.is_condemned_pack(&hash) {
            self.lost(pack);
            self.report
                .damaged(self.name(pack)?, "it is gone, although the log names it");
        }
        Ok(())
    }

    /// Reads every pack whole.
    pub(super) fn read(&mut self) -> Result<()> {
        let named: Vec<u32> = self
            .wanted()?
            .into_iter()
            .filter(|pack| !self.absent.contains(pack))
            .collect();
        for pack in &named {
            self.stats.bytes_expected.add(self.index.pack(*pack)?.len);
        }
        self.packs += u64::try_from(self.unnamed.len()).unwrap_or(u64::MAX);
        let bases = ChunkReader::new(
            self.repository.clone(),
            self.state.clone(),
            self.index.clone(),
            None,
            frame_decoder,
        )?;
        let start = || Ok(PackChecker::new(&bases)?);
        for_each_parallel(
            self.threads,
            named.len() + self.unnamed.len(),
            start,
            |checker, at| {
                check_stop(self.stop)?;
                match named.get(at) {
                    Some(pack) => self.read_named(checker, *pack),
                    None => self.read_unnamed(checker, &self.unnamed[at - named.len()]),
                }
            },
        )?;
        self.known
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .complete = self.only.is_none();
        Ok(())
    }

    fn read_named(&self, checker: &mut PackChecker<'_>, pack: u32) -> Result<()> {
        let table = self.index.pack(pack)?;
        let indexed = Indexed {
            index: self.index,
            table: &table,
            pack,
            chunk_count: self.index.chunks_of_pack(pack)?,
        };
        let found = checker.check(&table.name, Some(indexed));
        let found = match found {
            Ok(found) => found,
            Err(StoreError::Backend(e)) if e.kind == BackendErrorKind::NotFound => {
                return self.absent(pack);
            }
            Err(StoreError::Backend(e)) if is_unreadable(e.kind) => {
                self.lost(pack);
                self.report.damaged(self.name(pack)?, describe(&e));
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        };
        if found.lacks_base {
            let now = repository_state(self.repository, self.state)?;
            if now.is_condemned_pack(&table.name) {
                return Ok(());
            }
        }
        self.count(&found);
        if found.all_damaged {
            self.lost(pack);
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .frames
            .extend(found.damaged_frames.iter().map(|frame| (pack, *frame)));
        drop(known);
        self.say(self.name(pack)?, &found);
        Ok(())
    }

    /// A pack that the log does not name: what a dead session left, or what a running one has just written.
    fn read_unnamed(&self, checker: &mut PackChecker<'_>, pack: &ObjectHash) -> Result<()> {
        let name = ObjectName::hashed(ObjectKind::Pack, pack.0);
        match checker.check(pack, None) {
            Ok(found) => {
                self.count(&found);
                self.say(name, &found);
                Ok(())
            }
            Err(StoreError::Backend(e)) if e.kind == BackendErrorKind::NotFound => Ok(()),
            Err(StoreError::Backend(e)) if is_unreadable(e.kind) => {
                self.report.damaged(name, describe(&e));
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    fn lost(&self, pack: u32) {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .packs
            .insert(pack);
    }

    fn count(&self, found: &PackFindings) {
        self.chunks.fetch_add(found.chunks, Ordering::Relaxed);
        self.bytes.fetch_add(found.bytes, Ordering::Relaxed);
        self.stats.bytes_read.add(found.bytes);
        self.stats.chunks.add(found.chunks);
    }

    fn say(&self, name: ObjectName, found: &PackFindings) {
        if found.wrong.is_empty() {
            return;
        }
        let mut what = found
            .wrong
            .iter()
            .take(PARTS_MAX)
            .cloned()
            .collect::<Vec<_>>()
            .join("; ");
        if found.wrong.len() > PARTS_MAX {
            what = format!("{what}; and {} more", found.wrong.len() - PARTS_MAX);
        }
        self.report.damaged(name, what);
    }

    pub(super) fn finish(self, summary: &mut VerifySummary) -> Known {
        summary.packs = self.packs;
        summary.chunks = self.chunks.into_inner();
        summary.bytes_read = self.bytes.into_inner();
        self.known
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
