//! `copy`: snapshots of one repository into another one, with other keys and settings; only what is missing there is sent.
//!
//! Every chunk is authenticated and its id recomputed when it is read, and it is compressed and sealed anew. There are two ways, and the dedup
//! secrets decide which one is gone:
//!
//! - **The same secret** (`init --dedup-from`; `same`): a chunk has the same id in both, so the trees are the same chunks too. The trees are
//!   walked, and only a chunk whose id the index over there lacks is read, but for the chunks of trees, which the walk reads. Row digests stay.
//! - **Different secrets** (`other`): ids, borders of chunks and digests of rows are all made with the secret, so the snapshot is taken as a
//!   backup takes a site: its streams are cut anew, rows are digested anew, `database.json` gets the new digests, and the tree is built. What is
//!   sent is what the index over there lacks, so a copy also meets what that repository's own backups have stored.
//!
//! **How what is unchanged is known.** A copy has a parent as a backup has: the newest snapshot of the site over there. With the same secret, a
//! directory or file with the same content there is passed over. With different secrets, a file whose plain BLAKE3 and size are those of the
//! parent's file at its path is taken over: those digests are made without any secret, so that no table of pairs of ids has to be kept, found,
//! trusted and pruned, and it does not matter whether the parent came by a copy or from a backup. A file that changed is read whole,
//! of which only the new chunks are sent; who wants less to be read shares the secret.
//!
//! **Which snapshots are there already.** A copied record says where it was made ([`CopiedFrom`]); a copy of a copy names the first place. So
//! nothing is copied twice, in whatever order and between however many repositories, nor back to where it came from. A copy that was forgotten
//! over there is copied again unless the snapshots are named. Two copies that commit the same snapshot in the same moment both stand, and share
//! their chunks.
//!
//! Order: a session in the source, which pins its snapshots → for each snapshot, the oldest first, a session over there, and from it on the
//! order of a backup: packs, runs, record, entry, which is tested on the state that it follows.
//!
//! Invariants:
//! 1. A copied snapshot restores to the same bytes (`both_ways_give_the_same_files`).
//! 2. A second copy of a snapshot sends nothing, and of a similar one what changed (`a_second_copy_sends_what_changed`).
//! 3. What is damaged in the source is not copied: the snapshot is named, and the others are copied (`damage_is_named_and_not_copied`).
//! 4. Neither repository loses anything by a copy that ends early (`it/copy.rs`).
//!
//! Failure: as with a backup; what an interrupted copy stored is found by the next one through its index runs.
//!
//! Threads: those of a backup; one reads ahead; one for the signs of life of the session in the source.

mod other;
mod parents;
mod rows;
mod same;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::format::id::{ObjectHash, RepositoryId};
use crate::format::node::Content;
use crate::format::snapshot::{CopiedFrom, Record};
use crate::ops::backup::engine::{Engine, Stored};
use crate::ops::backup::{BackupOptions, Interrupt, now, repair};
use crate::ops::snapshots::{self, Snapshot, frame_decoder};
use crate::ops::window::is_of_one_object;
use crate::stats::{Counter, Stats};
use crate::store::chunk_index::{self, ChunkIndex};
use crate::store::reader::ChunkReader;
use crate::store::{Commit, Repository, Session, State, StoreError};

/// How often the session in the source gives a sign of life.
const BEAT: Duration = Duration::from_secs(120);

/// What to copy, and how.
#[derive(Clone, Debug)]
pub struct CopyOptions {
    /// Snapshots as people name them; all that the other repository has not if there is none.
    pub snapshots: Vec<String>,
    /// Threads that compute; absent: one for each core.
    pub workers: Option<usize>,
    /// zstd level; absent: the other repository's.
    pub level: Option<i32>,
    /// Scratch folder for what does not fit in memory.
    pub scratch: PathBuf,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self {
            snapshots: Vec::new(),
            workers: None,
            level: None,
            scratch: std::env::temp_dir(),
        }
    }
}

/// What was found on the way, told as it happens.
#[derive(Debug)]
pub enum CopyEvent<'a> {
    /// A snapshot was copied.
    Copied(&'a CopiedSnapshot),
    /// A snapshot is there already; its id there.
    Present {
        /// The snapshot.
        snapshot: &'a Snapshot,
        /// Its id in the other repository.
        there: ObjectHash,
    },
    /// A snapshot was not copied because the source is damaged.
    Damaged {
        /// The snapshot; absent where the damage is not one snapshot's.
        snapshot: Option<ObjectHash>,
        /// What is damaged.
        what: &'a str,
    },
}

/// One copied snapshot.
#[derive(Clone, Debug)]
pub struct CopiedSnapshot {
    /// Its id in the source.
    pub from: ObjectHash,
    /// Its id in the other repository.
    pub snapshot: ObjectHash,
    /// The record there.
    pub record: Record,
    /// Chunks that were read.
    pub chunks_read: u64,
    /// Chunks that were stored.
    pub chunks_sent: u64,
}

/// What a copy came to.
#[derive(Clone, Debug, Default)]
pub struct CopySummary {
    /// The snapshots that were copied, in their order.
    pub copied: Vec<CopiedSnapshot>,
    /// Snapshots that are there already: id here, id there.
    pub present: Vec<(ObjectHash, ObjectHash)>,
    /// What is damaged, in words: exit code 4.
    pub damage: Vec<String>,
    /// Chunks that were read in the source, those of trees included where they were read to be sent.
    pub chunks_read: u64,
    /// Chunks that were stored in the other repository.
    pub chunks_sent: u64,
    /// How long it took.
    pub elapsed: Duration,
}

impl CopySummary {
    /// The id there of a snapshot of the source, if it is there now.
    pub fn there(&self, from: &ObjectHash) -> Option<ObjectHash> {
        let copied = self
            .copied
            .iter()
            .map(|copied| (copied.from, copied.snapshot));
        let mut all = copied.chain(self.present.iter().copied());
        all.find(|(source, _)| source == from)
            .map(|(_, there)| there)
    }
}

/// What one copy shares: where from, what it counts, and the first damage of the source.
struct Run<'r> {
    source: &'r Arc<Repository>,
    target: &'r Arc<Repository>,
    options: &'r CopyOptions,
    stats: &'r Arc<Stats>,
    interrupt: &'r Interrupt,
    state: Arc<State>,
    index: Arc<ChunkIndex>,
    chunks_read: Counter,
}

/// Where the first damage of the source is kept, so that it is not taken for one of the other repository.
#[derive(Clone, Debug, Default)]
struct SourceDamage(Arc<Mutex<Option<String>>>);

impl SourceDamage {
    /// Sorts an error of the source: damage ends this snapshot, anything else the run.
    fn sort(&self, error: Error) -> Error {
        match error {
            Error::Store(e) if is_of_one_object(&e) => self.words(describe(&e)),
            other => other,
        }
    }

    /// Notes damage; gives what ends the copy of this snapshot.
    fn words(&self, what: String) -> Error {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(what);
        Error::Stopped
    }

    fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// Copies snapshots of `source` into `target`. `each` is told of every snapshot. An error means that the rest was not copied.
pub fn copy(
    source: &Arc<Repository>,
    target: &Arc<Repository>,
    options: &CopyOptions,
    stats: &Arc<Stats>,
    interrupt: &Interrupt,
    each: &mut dyn FnMut(CopyEvent<'_>),
) -> Result<CopySummary> {
    let begun = Instant::now();
    refuse_same(source, target)?;
    // Where nothing is missing, nothing is written, not even a session.
    let state = source.read_state()?;
    let mut summary = match nothing_to_copy(source, target, options, &state)? {
        Some(present) => {
            for (snapshot, there) in &present {
                let there = *there;
                each(CopyEvent::Present { snapshot, there });
            }
            let ids = present
                .iter()
                .map(|(snapshot, there)| (snapshot.id, *there));
            CopySummary {
                present: ids.collect(),
                ..CopySummary::default()
            }
        }
        None => {
            let session = SourceSession::open(source)?;
            let state = session.state.clone();
            let copied = copy_all(source, target, options, stats, interrupt, each, &state);
            session.end();
            copied?
        }
    };
    summary.chunks_sent = stats.chunks_new.get();
    summary.elapsed = begun.elapsed();
    Ok(summary)
}

/// Where each snapshot that is meant is over there, if all of them are.
fn nothing_to_copy(
    source: &Repository,
    target: &Repository,
    options: &CopyOptions,
    state: &State,
) -> Result<Option<Vec<(Snapshot, ObjectHash)>>> {
    let mut whole = true;
    let all = snapshots::list(source, state, &mut |_damage| whole = false)?;
    let mut there = There::default();
    there.read_on(target, &*target.read_state()?)?;
    let found = chosen(state, &all, options)?
        .into_iter()
        .map(|snapshot| Some((there.find(source, &snapshot)?, snapshot)))
        .map(|found| found.map(|(there, snapshot)| (snapshot, there)));
    let found: Option<Vec<(Snapshot, ObjectHash)>> = found.collect();
    // Damage is told by the copy itself.
    Ok(found.filter(|_| whole))
}

fn copy_all(
    source: &Arc<Repository>,
    target: &Arc<Repository>,
    options: &CopyOptions,
    stats: &Arc<Stats>,
    interrupt: &Interrupt,
    each: &mut dyn FnMut(CopyEvent<'_>),
    state: &Arc<State>,
) -> Result<CopySummary> {
    let mut summary = CopySummary::default();
    let mut damage: Vec<(Option<ObjectHash>, String)> = Vec::new();
    let all = snapshots::list(source, state, &mut |e| damage.push((None, describe(&e))))?;
    let chosen = chosen(state, &all, options)?;
    let index =
        chunk_index::cache::open(source, state, &mut |e| damage.push((None, describe(&e))))?;
    // Damage of what nobody asked for is no reason to fail; what it hits is told below.
    if !options.snapshots.is_empty() {
        damage.clear();
    }
    let run = Run {
        source,
        target,
        options,
        stats,
        interrupt,
        state: state.clone(),
        index: Arc::new(index),
        chunks_read: Counter::default(),
    };
    for (snapshot, what) in &damage {
        each(CopyEvent::Damaged {
            snapshot: *snapshot,
            what,
        });
    }
    summary
        .damage
        .extend(damage.into_iter().map(|(_, what)| what));
    let mut there = There::default();
    let before = target.read_state()?;
    there.read_on(target, &before)?;
    stats.bytes_expected.add(
        chosen
            .iter()
            .filter(|snapshot| there.find(source, snapshot).is_none())
            .map(|snapshot| snapshot.record.subtree.bytes)
            .sum(),
    );
    for snapshot in &chosen {
        if interrupt.is_set() {
            return Err(Error::Interrupted);
        }
        if let Some(found) = there.find(source, snapshot) {
            each(CopyEvent::Present {
                snapshot,
                there: found,
            });
            summary.present.push((snapshot.id, found));
            continue;
        }
        match run.one(snapshot, &mut there, &mut summary.damage)? {
            One::Copied(copied) => {
                each(CopyEvent::Copied(&copied));
                summary.copied.push(*copied);
            }
            One::Present(found) => {
                each(CopyEvent::Present {
                    snapshot,
                    there: found,
                });
                summary.present.push((snapshot.id, found));
            }
            One::Damaged(what) => {
                each(CopyEvent::Damaged {
                    snapshot: Some(snapshot.id),
                    what: &what,
                });
                summary.damage.push(format!(
                    "snapshot {} was not copied: {what}",
                    snapshot.id.short()
                ));
            }
        }
    }
    summary.chunks_read = run.chunks_read.get();
    Ok(summary)
}

/// The snapshots that are meant, the oldest first.
fn chosen(state: &State, all: &[Snapshot], options: &CopyOptions) -> Result<Vec<Snapshot>> {
    if options.snapshots.is_empty() {
        return Ok(all.to_vec());
    }
    let mut chosen = Vec::new();
    for spec in &options.snapshots {
        let snapshot = snapshots::resolve_live(state, all, spec)?;
        if !chosen
            .iter()
            .any(|other: &Snapshot| other.id == snapshot.id)
        {
            chosen.push(snapshot);
        }
    }
    chosen.sort_by_key(|snapshot| snapshot.seq);
    Ok(chosen)
}

/// Refuses a copy of a repository into itself. A copy of its files elsewhere has the same id, and is another one.
fn refuse_same(source: &Repository, target: &Repository) -> Result<()> {
    if source.format().id != target.format().id {
        return Ok(());
    }
    let place = |repository: &Repository| {
        let metadata = std::fs::metadata(repository.backend().local_path()?).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    let same = match (place(source), place(target)) {
        (Some(source), Some(target)) => source == target,
        _ => std::ptr::addr_eq(Arc::as_ptr(source.backend()), Arc::as_ptr(target.backend())),
    };
    match same {
        true => Err(Error::Message(
            "both are the same repository: a copy goes into another one".into(),
        )),
        false => Ok(()),
    }
}

/// Which snapshots the other repository has, by where they were made.
#[derive(Default)]
struct There {
    by_origin: HashMap<(RepositoryId, ObjectHash), ObjectHash>,
    known: HashSet<ObjectHash>,
}

impl There {
    /// Takes in what a state has and was not seen before.
    fn read_on(&mut self, target: &Repository, state: &State) -> Result<()> {
        for id in state.live().keys() {
            if !self.known.insert(*id) {
                continue;
            }
            match target.load_record(id) {
                Ok(record) => self.add(target, *id, &record),
                // Its own commands name it; what can't be read can't be recognised.
                Err(e) if is_of_one_object(&e) => tracing::warn!("{e}"),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn add(&mut self, target: &Repository, id: ObjectHash, record: &Record) {
        self.known.insert(id);
        self.by_origin.insert(origin(target, &id, record), id);
    }

    fn find(&self, source: &Repository, snapshot: &Snapshot) -> Option<ObjectHash> {
        let origin = origin(source, &snapshot.id, &snapshot.record);
        self.by_origin.get(&origin).copied()
    }
}

/// Where a snapshot was made.
fn origin(repository: &Repository, id: &ObjectHash, record: &Record) -> (RepositoryId, ObjectHash) {
    match &record.copied_from {
        Some(from) => (from.repository, from.snapshot),
        None => (repository.format().id, *id),
    }
}

/// How the copy of one snapshot came out.
enum One {
    Copied(Box<CopiedSnapshot>),
    Present(ObjectHash),
    Damaged(String),
}

/// What a walk found.
struct Walked {
    /// The root, where the tree is taken as it is; absent where the sink builds it.
    root: Option<Content>,
    /// Snapshots over there of which something was taken over without a look-up.
    parents: HashSet<ObjectHash>,
}

impl Run<'_> {
    fn one(&self, snapshot: &Snapshot, there: &mut There, damage: &mut Vec<String>) -> Result<One> {
        let session = Arc::new(self.target.open_session()?);
        let outcome = self.take(&session, snapshot, there, damage);
        if !matches!(outcome, Ok(One::Copied(_)))
            && let Err(e) = session.expire()
        {
            tracing::warn!("the session stays open until it expires: {e}");
        }
        outcome
    }

    fn take(
        &self,
        session: &Arc<Session>,
        snapshot: &Snapshot,
        there: &mut There,
        damage: &mut Vec<String>,
    ) -> Result<One> {
        // Another copy may have been faster since the last look.
        there.read_on(self.target, session.start())?;
        if let Some(found) = there.find(self.source, snapshot) {
            return Ok(One::Present(found));
        }
        let sent_before = self.stats.chunks_new.get();
        let read_before = self.chunks_read.get();
        let options = self.backup_options(&snapshot.record);
        let engine = Engine::start(self.target, session, &options, self.stats, self.interrupt)?;
        let reader = Arc::new(ChunkReader::new(
            self.source.clone(),
            self.state.clone(),
            self.index.clone(),
            Some(snapshot.id),
            frame_decoder,
        )?);
        let from = Transfer {
            run: self,
            engine: &engine,
            reader,
            record: &snapshot.record,
            damage: SourceDamage::default(),
        };
        let walked = match self.share_dedup() {
            true => same::take(&from),
            false => other::take(&from),
        };
        let found = from.damage;
        let (walked, mut stored) = match engine.finish(walked) {
            Ok(done) => done,
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(e) => return found.take().map(One::Damaged).ok_or(e),
        };
        damage.append(&mut stored.damage);
        let now = self.target.read_state()?;
        there.read_on(self.target, &now)?;
        if let Some(found) = there.find(self.source, snapshot) {
            return Ok(One::Present(found));
        }
        let record = self.record(session, snapshot, &walked, &mut stored, there);
        let copied = self.commit(session, &options, record, stored, walked.parents)?;
        let (name, record) = copied;
        there.add(self.target, name, &record);
        Ok(One::Copied(Box::new(CopiedSnapshot {
            from: snapshot.id,
            snapshot: name,
            record,
            chunks_read: self.chunks_read.get() - read_before,
            chunks_sent: self.stats.chunks_new.get() - sent_before,
        })))
    }

    /// Whether chunks have the same ids in both.
    fn share_dedup(&self) -> bool {
        let dedup = |repository: &Repository| repository.keyring().dedup.clone();
        dedup(self.source).is_some() && dedup(self.source) == dedup(self.target)
    }

    fn backup_options(&self, record: &Record) -> BackupOptions {
        let mut options = BackupOptions::new(record.host.clone());
        options.site_name.clone_from(&record.site);
        options.workers = self.options.workers;
        options.level = self.options.level;
        options.scratch.clone_from(&self.options.scratch);
        options
    }

    /// The record over there: what was taken, by whom and when stays; where it stands and where it came from is new.
    fn record(
        &self,
        session: &Session,
        snapshot: &Snapshot,
        walked: &Walked,
        stored: &mut Stored,
        there: &There,
    ) -> Record {
        let mut record = snapshot.record.clone();
        if let Some(root) = &walked.root {
            stored.tree.root.clone_from(root);
            stored.tree.subtree = record.subtree;
            stored.skipped.clone_from(&record.skipped);
        }
        record.root.clone_from(&stored.tree.root);
        record.subtree = stored.tree.subtree;
        record.skipped.clone_from(&stored.skipped);
        record.log_position = session.start().seq();
        let here = self.source.format().id;
        for component in &mut record.components {
            let parent = component.parent.take();
            let known = parent.and_then(|parent| there.by_origin.get(&(here, parent)));
            component.parent = known.copied();
        }
        let (repository, made_as) = origin(self.source, &snapshot.id, &snapshot.record);
        record.copied_from = Some(CopiedFrom {
            repository,
            snapshot: made_as,
            copied: now(),
        });
        record
    }

    fn commit(
        &self,
        session: &Arc<Session>,
        options: &BackupOptions,
        record: Record,
        mut stored: Stored,
        parents: HashSet<ObjectHash>,
    ) -> Result<(ObjectHash, Record)> {
        let mut parents: Vec<ObjectHash> = parents.into_iter().collect();
        loop {
            if self.interrupt.is_set() {
                return Err(Error::Interrupted);
            }
            let durable = session.write_record(&record, &stored.runs)?;
            match session.commit(&durable, &stored.runs, &stored.reused, &parents)? {
                Commit::Done { state, .. } => {
                    chunk_index::cache::settle(self.target, &state);
                    return Ok((durable.name(), record));
                }
                Commit::Lost { lost, state } => {
                    tracing::info!("others deleted what this run relied on; storing it again");
                    let stats = self.stats;
                    repair::repair(session, options, stats, &record, &mut stored, &lost, &state)?;
                    parents.clear();
                }
            }
        }
    }
}

/// One snapshot on its way.
struct Transfer<'r> {
    run: &'r Run<'r>,
    engine: &'r Engine,
    reader: Arc<ChunkReader>,
    record: &'r Record,
    damage: SourceDamage,
}

impl Transfer<'_> {
    /// Result of reading the source: damage ends this snapshot alone.
    fn read<T>(&self, result: Result<T, StoreError>) -> Result<T> {
        result.map_err(|e| self.damage.sort(e.into()))
    }
}

/// The session in the source: its packs stay until it ends.
struct SourceSession {
    state: Arc<State>,
    session: Option<Arc<Session>>,
    end: Option<crossbeam_channel::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl SourceSession {
    /// Opens it. A source that can't be written to, such as a disk that is mounted read-only, is read without: nobody prunes it meanwhile.
    fn open(source: &Arc<Repository>) -> Result<Self> {
        let session = match source.open_session() {
            Ok(session) => Arc::new(session),
            Err(StoreError::Backend(e)) => {
                tracing::warn!("the source takes no session, it is read without: {e}");
                return Ok(Self {
                    state: source.read_state()?,
                    session: None,
                    end: None,
                    thread: None,
                });
            }
            Err(e) => return Err(e.into()),
        };
        let (end, ended) = crossbeam_channel::bounded::<()>(0);
        let beating = session.clone();
        let thread = std::thread::spawn(move || {
            while let Err(crossbeam_channel::RecvTimeoutError::Timeout) = ended.recv_timeout(BEAT) {
                if let Err(e) = beating.beat() {
                    tracing::warn!("no sign of life could be left in the source: {e}");
                }
            }
        });
        Ok(Self {
            state: session.start().clone(),
            session: Some(session),
            end: Some(end),
            thread: Some(thread),
        })
    }

    fn end(mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(
                "the thread that gives signs of life panicked; this is a bug in holdfast"
            );
        }
        if let Some(session) = self.session.take()
            && let Err(e) = session.expire()
        {
            tracing::warn!("the session in the source stays open until it expires: {e}");
        }
    }
}
