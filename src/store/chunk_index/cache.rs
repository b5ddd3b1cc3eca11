//! The folder of a host's cache in which the segments of a repository's index are.
//!
//! ```text
//! <cache>/<repository id>/index/list       which segments there are, and of which runs each is made
//!                               <name>.seg a segment
//!                               lock       held by who changes the list
//! ```
//!
//! A segment is never changed: it is written beside its place, renamed into it, and named by the list, which is replaced by a rename.
//! Who opens an index reads the list and the headers of the segments. The list is compared with the runs that the state of the log
//! names, so it needs no number of a generation:
//!
//! - a run that no segment has is loaded and becomes a segment;
//! - a run that the log names no more, because a prune condemned it, does not count: its packs are left out until a merge leaves them away;
//! - packs that are condemned or quarantined are left out when the index is opened.
//!
//! Segments are merged so that each is at least four times as long as all shorter ones together: at most one for each fourfold of the index.
//! A command that reads merges no more than it costs to bring the index up to date; the end of a backup does all of it ([`settle`]).
//!
//! Layout of the list, little-endian: magic `hfsegs01` (8), repository id (16), number of segments (4), for each: name (16), entries (8), length
//! of the file (8), number of runs (4), their names (32 each); then XXH3-64 of everything before (8).
//!
//! Invariants:
//! 1. Nothing of correctness depends on the folder: absent, damaged, of another state, deleted while in use, it costs time only
//!    (`the_cache_says_what_the_runs_say`, `a_damaged_file_is_noticed_and_made_anew`, `a_cache_that_vanishes_is_made_again`).
//! 2. Only runs that no segment has are loaded (`only_what_is_lacking_is_loaded`).
//! 3. Any number of processes use and extend it at once: who changes the list holds a lock (`flock`) and reads it again under it; who finds a
//!    file gone reads the list again. Nobody waits for the lock who lacks a few runs only: those are loaded for that command alone
//!    (`writers_share_a_cache`), as are all of them after ten minutes (`nobody_waits_for_ever_for_a_lock`).
//!
//! Failure: what is left of a process that died is a file that no list names; the next one that changes the list removes it. Nothing
//! is synced: what a loss of power leaves is noticed by its checksums. A folder that can't be written costs its advantage and a warning.
//!
//! The files hold ids, lengths and names of packs, which are sealed in the repository: the folder is its owner's alone (mode 0700). Checksums
//! find damage, not forgery: a folder that others own or may write to is not used (`a_cache_that_others_can_write_to_is_not_used`).

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::pages::{PageCache, check_of, u32_at, u64_at, wide};
use super::segment::{Batch, MergeError, Segment, merge};
use super::{BATCH_ENTRIES, ChunkIndex};
use crate::backend::{BackendErrorKind, ObjectKind, ObjectName};
use crate::format::id::{ObjectHash, RepositoryId};
use crate::format::index::IndexRun;
use crate::store::{Repository, State, StoreError};

const MAGIC: [u8; 8] = *b"hfsegs01";
/// Segments below this are merged whatever their order.
const SMALL_ENTRIES: u64 = 4096;
/// A longer segment is left alone while it is this many times as long as all shorter ones.
const RATIO: u64 = 4;
/// Entries that a command which only reads merges in any case.
const READER_ENTRIES: u64 = 1 << 18;
/// Segments that are merged at once.
const MERGED_MAX: usize = 200;
/// Segments that are merged when so many were made at once.
const GATHERED: usize = if cfg!(test) { 4 } else { 64 };
/// Runs that are loaded at once while they are short; they are up to 12 MB of entries.
const LOADED: usize = 8;
const LOADED_LONG: usize = 2;
const LONG_ENTRIES: usize = 1 << 15;
/// Segments without a folder that are not merged.
pub(super) const UNNAMED_MAX: usize = 8;
/// The repository that segments without a folder say that they are of.
pub(super) const NOBODY: RepositoryId = RepositoryId([0; 16]);
/// Runs for which a command does not wait until another process has brought the cache up to date.
const FEW_RUNS: usize = 16;
/// How long a command waits for that, and after how long it says so. A hundred million chunks take about a minute.
const WAIT_MAX: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 600 });
const WAIT_SAID: Duration = Duration::from_secs(5);
const WAIT_STEP: Duration = Duration::from_millis(20);
/// How often a list is read again because a file that it names is gone.
const TRIES: u32 = 3;

/// A segment in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listed {
    name: u128,
    entries: u64,
    len: u64,
    runs: Vec<ObjectHash>,
}

/// A segment that is open.
pub(super) struct OpenSegment {
    listed: Option<Listed>,
    pub(super) segment: Arc<Segment>,
}

/// Who may change the list.
enum Lock {
    /// This process, until the file is closed.
    Held(#[expect(dead_code, reason = "it is held, not read")] File),
    /// Another one.
    Busy,
    /// Nobody can be kept from it.
    Impossible,
}

/// The folder of one repository.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    repository: RepositoryId,
    pages: Arc<PageCache>,
}

fn encode(repository: RepositoryId, list: &[Listed]) -> Vec<u8> {
    let short = |count: usize| u32::try_from(count).expect("a list is short").to_le_bytes();
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&repository.0);
    bytes.extend_from_slice(&short(list.len()));
    for listed in list {
        bytes.extend_from_slice(&listed.name.to_le_bytes());
        bytes.extend_from_slice(&listed.entries.to_le_bytes());
        bytes.extend_from_slice(&listed.len.to_le_bytes());
        bytes.extend_from_slice(&short(listed.runs.len()));
        for run in &listed.runs {
            bytes.extend_from_slice(run.as_bytes());
        }
    }
    let check = check_of(0, 0, &bytes);
    bytes.extend_from_slice(&check.to_le_bytes());
    bytes
}

fn decode(repository: RepositoryId, bytes: &[u8]) -> Option<Vec<Listed>> {
    let content = bytes.len().checked_sub(8)?;
    let (content, check) = bytes.split_at(content);
    if check_of(0, 0, content) != u64_at(check, 0) {
        return None;
    }
    let head = content.get(..28)?;
    if head[..8] != MAGIC || head[8..24] != repository.0 {
        return None;
    }
    let mut rest = &content[28..];
    let mut list = Vec::new();
    for _ in 0..u32_at(head, 24) {
        let (fixed, after) = rest.split_at_checked(36)?;
        let count = u32_at(fixed, 32) as usize;
        let (runs, after) = after.split_at_checked(count.checked_mul(32)?)?;
        rest = after;
        list.push(Listed {
            name: u128::from_le_bytes(*fixed.first_chunk()?),
            entries: u64_at(fixed, 16),
            len: u64_at(fixed, 24),
            runs: runs
                .chunks_exact(32)
                .map(ObjectHash::from_slice)
                .collect::<Option<_>>()?,
        });
    }
    rest.is_empty().then_some(list)
}

/// Refuses a folder that another user owns or may write to.
fn check_owner(folder: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(folder)?;
    let own = rustix::process::geteuid().as_raw();
    let what = match () {
        () if !found.is_dir() => "is not a folder",
        () if found.uid() != own => "belongs to another user",
        () if found.mode() & 0o022 != 0 => "may be written to by others",
        () => return Ok(()),
    };
    Err(io::Error::other(format!("{} {what}", folder.display())))
}

/// A file that vanishes with the process, where large ones belong: `TMPDIR`, else `/var/tmp`, because `/tmp` is memory on many systems.
pub(super) fn scratch_file() -> io::Result<File> {
    let named = std::env::var_os("TMPDIR").map(PathBuf::from);
    let folder = named.unwrap_or_else(|| PathBuf::from("/var/tmp"));
    tempfile::tempfile_in(folder).or_else(|_| tempfile::tempfile())
}

impl Folder {
    /// The folder, made if it is not there. Whoever can write to it can make a backup believe that content is stored, so nobody else may.
    fn open(root: &Path, repository: RepositoryId) -> io::Result<Self> {
        let own = root.join(repository.to_string());
        let path = own.join("index");
        if !path.is_dir() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)?;
        }
        for folder in [root, &own, &path] {
            check_owner(folder)?;
        }
        Ok(Self {
            path,
            repository,
            pages: Arc::default(),
        })
    }

    fn list_path(&self) -> PathBuf {
        self.path.join("list")
    }

    fn segment_path(&self, name: u128) -> PathBuf {
        self.path.join(format!("{name:032x}.seg"))
    }

    /// The list; an empty one if there is none that is good.
    fn read_list(&self) -> Vec<Listed> {
        let read = fs::read(self.list_path());
        read.ok()
            .and_then(|bytes| decode(self.repository, &bytes))
            .unwrap_or_default()
    }

    fn write_list(&self, list: &[Listed]) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.path)?;
        file.write_all(&encode(self.repository, list))?;
        file.persist(self.list_path())
            .map_err(|error| error.error)?;
        Ok(())
    }

    /// Takes the lock. Where files can't be locked it goes on without: then the work of one of two processes is lost at worst.
    fn lock(&self, waits: bool) -> Lock {
        let opened = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.path.join("lock"));
        let Ok(file) = opened else {
            return Lock::Impossible;
        };
        match file.try_lock() {
            Ok(()) => Lock::Held(file),
            Err(TryLockError::WouldBlock) if !waits => Lock::Busy,
            Err(TryLockError::WouldBlock) => self.wait(file),
            Err(_) => Lock::Impossible,
        }
    }

    /// Waits for another process, which may be stopped and never go on.
    fn wait(&self, file: File) -> Lock {
        let begun = Instant::now();
        let mut said = false;
        while begun.elapsed() < WAIT_MAX {
            thread::sleep(WAIT_STEP);
            match file.try_lock() {
                Ok(()) => return Lock::Held(file),
                Err(TryLockError::WouldBlock) => {}
                Err(_) => return Lock::Impossible,
            }
            if !said && begun.elapsed() > WAIT_SAID {
                said = true;
                tracing::info!(
                    "another process brings the cache in {} up to date: waiting for it",
                    self.path.display()
                );
            }
        }
        tracing::warn!(
            "another process has held {} for {} minutes: going on without it",
            self.path.join("lock").display(),
            WAIT_MAX.as_secs() / 60
        );
        Lock::Busy
    }

    fn open_segment(&self, listed: &Listed) -> Option<OpenSegment> {
        let path = self.segment_path(listed.name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) => {
                tracing::debug!("{}: {error}", path.display());
                return None;
            }
        };
        let runs = listed.runs.clone();
        let opened = Segment::open(file, self.repository, runs, &self.pages);
        match opened {
            Ok(mut segment)
                if (segment.entries(), segment.bytes()) == (listed.entries, listed.len) =>
            {
                segment.path = Some(path);
                Some(OpenSegment {
                    listed: Some(listed.clone()),
                    segment: Arc::new(segment),
                })
            }
            Ok(_) => {
                tracing::warn!(
                    "{} is not what the list says; it is made anew",
                    path.display()
                );
                None
            }
            Err(broken) => {
                tracing::warn!(
                    "{} is damaged ({}); it is made anew",
                    path.display(),
                    broken.0
                );
                None
            }
        }
    }

    /// Opens what the list names and is good, each run once.
    fn open_listed(&self, list: &[Listed]) -> Vec<OpenSegment> {
        let mut covered = HashSet::new();
        let mut open = Vec::new();
        for listed in list {
            if listed.runs.iter().any(|run| covered.contains(run)) {
                continue;
            }
            if let Some(segment) = self.open_segment(listed) {
                covered.extend(listed.runs.iter().copied());
                open.push(segment);
            }
        }
        open
    }

    /// Puts a segment in its place; `write` writes it.
    fn create<E: From<io::Error>>(
        &self,
        write: impl FnOnce(&mut File) -> Result<Vec<ObjectHash>, E>,
    ) -> Result<OpenSegment, E> {
        let mut file = tempfile::Builder::new()
            .prefix("new-")
            .suffix(".seg")
            .tempfile_in(&self.path)?;
        let runs = write(file.as_file_mut())?;
        let name = random_name();
        let path = self.segment_path(name);
        let kept = file.persist(&path).map_err(|error| error.error)?;
        let mut segment = Segment::open(kept, self.repository, runs.clone(), &self.pages)
            .map_err(|broken| io::Error::other(broken.0))?;
        segment.path = Some(path);
        Ok(OpenSegment {
            listed: Some(Listed {
                name,
                entries: segment.entries(),
                len: segment.bytes(),
                runs,
            }),
            segment: Arc::new(segment),
        })
    }

    /// Removes files that no list names. Only who holds the lock does so.
    fn remove_others(&self, list: &[Listed]) {
        let named: HashSet<PathBuf> = list.iter().map(|l| self.segment_path(l.name)).collect();
        let Ok(entries) = fs::read_dir(&self.path) else {
            return;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let is_segment = path.extension().is_some_and(|extension| extension == "seg");
            if is_segment
                && !named.contains(&path)
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::debug!("{} can't be removed: {error}", path.display());
            }
        }
    }
}

fn random_name() -> u128 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let half = || u128::from(RandomState::new().build_hasher().finish());
    half() << 64 | half()
}

/// A segment in a file that vanishes with the process; in memory where there is no place for one.
pub(super) fn unnamed(bytes: Vec<u8>, runs: Vec<ObjectHash>, pages: &Arc<PageCache>) -> Segment {
    let id = NOBODY;
    let written = scratch_file().and_then(|mut file| {
        file.write_all(&bytes)?;
        Ok(file)
    });
    let written = written.inspect_err(|e| {
        tracing::warn!("a part of the index is kept in memory, no file can be made for it: {e}");
    });
    let opened = written
        .ok()
        .and_then(|file| Segment::open(file, id, runs.clone(), pages).ok());
    opened.unwrap_or_else(|| Segment::of_memory(bytes, runs))
}

/// Merges segments into a file that vanishes with the process.
pub(super) fn merged_unnamed(
    segments: &[Arc<Segment>],
    pages: &Arc<PageCache>,
) -> Result<Segment, MergeError> {
    let id = NOBODY;
    let mut file = scratch_file()?;
    let inputs: Vec<&Segment> = segments.iter().map(|segment| &**segment).collect();
    let runs = merge(&inputs, &|_| true, id, &mut file)?;
    Ok(Segment::open(file, id, runs, pages)?)
}

/// Opens the index of a state: all runs that it names, without condemned and quarantined packs.
///
/// A damaged or missing run is given to `damaged`; the index then lacks what only that run names.
///
/// Runs that the cache has are not read. Who needs to know which packs each run names (a prune, for what it may condemn) must load them.
pub fn open(
    repository: &Arc<Repository>,
    state: &Arc<State>,
    damaged: &mut dyn FnMut(StoreError),
) -> Result<ChunkIndex, StoreError> {
    let mut work = Work::new(repository, state, false);
    let segments = work.bring_up(damaged)?;
    let wanted = |run: &ObjectHash| state.index().contains_key(run);
    let segments = segments.into_iter().map(|open| {
        let counts = open.segment.runs.iter().map(wanted).collect();
        (open.segment, counts)
    });
    let mut index = ChunkIndex::of_segments(segments.collect());
    let (loads, judge) = (repository.clone(), state.clone());
    index.reload = Some(Arc::new(move |run| loads.load_run(run)));
    index.usable = Some(Arc::new(move |pack| !judge.is_unusable_pack(pack)));
    let is_unusable = |pack: &ObjectHash| state.is_unusable_pack(pack);
    let any: Option<&dyn Fn(&ObjectHash) -> bool> = match state.has_unusable_packs() {
        true => Some(&is_unusable),
        false => None,
    };
    index.leave_out(any);
    Ok(index)
}

/// Brings the cache up to date with a state and puts its segments in order, so that the next command finds it ready. What fails costs time only.
pub fn settle(repository: &Arc<Repository>, state: &Arc<State>) {
    let mut work = Work::new(repository, state, true);
    if work.folder.is_none() {
        return;
    }
    if let Err(error) = work.bring_up(&mut |_| {}) {
        tracing::debug!("the cache of the index is not brought up to date: {error}");
    }
}

/// Bringing a folder up to date.
struct Work<'r> {
    repository: &'r Repository,
    wanted: &'r BTreeMap<ObjectHash, u64>,
    folder: Option<Folder>,
    /// Merge whatever is to be merged.
    all: bool,
}

impl<'r> Work<'r> {
    fn new(repository: &'r Repository, state: &'r State, all: bool) -> Self {
        let root = repository.cache.as_deref();
        let folder = root.and_then(|root| {
            let opened = Folder::open(root, repository.format.id);
            opened
                .inspect_err(|e| tracing::warn!("the cache {} can't be used: {e}", root.display()))
                .ok()
        });
        Self {
            repository,
            wanted: state.index(),
            folder,
            all,
        }
    }

    fn counts(&self, run: &ObjectHash) -> bool {
        self.wanted.contains_key(run)
    }

    fn lacking(&self, open: &[OpenSegment]) -> Vec<ObjectHash> {
        let covered: HashSet<&ObjectHash> = open.iter().flat_map(|o| &o.segment.runs).collect();
        let lacking = self.wanted.keys().filter(|run| !covered.contains(run));
        lacking.copied().collect()
    }

    /// Segments without a run that counts serve nobody.
    fn useful(&self, mut open: Vec<OpenSegment>) -> Vec<OpenSegment> {
        open.retain(|o| o.segment.runs.iter().any(|run| self.counts(run)));
        open
    }

    fn bring_up(
        &mut self,
        damaged: &mut dyn FnMut(StoreError),
    ) -> Result<Vec<OpenSegment>, StoreError> {
        let Some(folder) = self.folder.take() else {
            return self.load(&self.lacking(&[]), None, damaged);
        };
        for _ in 0..TRIES {
            let list = folder.read_list();
            let open = self.useful(folder.open_listed(&list));
            let is_ready = !self.all || self.to_merge(&open, u64::MAX).is_empty();
            if is_ready && self.lacking(&open).is_empty() {
                return Ok(by_length(open));
            }
            // Another process may have replaced what is gone.
            if folder.read_list() == list {
                break;
            }
        }
        // Few runs are sooner loaded for this command alone than another process is done with a long merge.
        let mut open = self.useful(folder.open_listed(&folder.read_list()));
        let lock = folder.lock(!self.all && self.lacking(&open).len() > FEW_RUNS);
        if matches!(lock, Lock::Busy) {
            if !self.all {
                open.extend(self.load(&self.lacking(&open), None, damaged)?);
            }
            return Ok(by_length(open));
        }
        let list = folder.read_list();
        open = self.useful(folder.open_listed(&list));
        // A segment that a merge finds damaged is given up, and its runs are loaded again.
        for _ in 0..TRIES {
            let new = self.load(&self.lacking(&open), Some(&folder), damaged)?;
            let loaded = new.iter().map(|o| o.segment.entries()).sum();
            open.extend(new);
            if self.merge(&folder, &mut open, loaded) {
                break;
            }
        }
        // The last merge may have given one up as well.
        let rest = self.lacking(&open);
        if !rest.is_empty() {
            open.extend(self.load(&rest, None, damaged)?);
        }
        let listed: Vec<Listed> = open.iter().filter_map(|o| o.listed.clone()).collect();
        if listed != list {
            match folder.write_list(&listed) {
                Ok(()) if matches!(lock, Lock::Held(_)) => folder.remove_others(&listed),
                Ok(()) => {}
                Err(e) => tracing::warn!("{} can't be written: {e}", folder.path.display()),
            }
        }
        Ok(by_length(open))
    }

    /// Loads runs into new segments, in the folder if there is one that takes them.
    fn load(
        &self,
        runs: &[ObjectHash],
        folder: Option<&Folder>,
        damaged: &mut dyn FnMut(StoreError),
    ) -> Result<Vec<OpenSegment>, StoreError> {
        use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
        let mut making = Making {
            folder,
            ..Making::default()
        };
        let mut batch = Batch::default();
        let (mut rest, mut at_once) = (runs, LOADED_LONG);
        while !rest.is_empty() {
            let (group, after) = rest.split_at(at_once.min(rest.len()));
            rest = after;
            let load = |run: &ObjectHash| self.repository.load_run(run);
            let loaded: Vec<Result<IndexRun, StoreError>> = match group {
                [run] => vec![load(run)],
                group => group.par_iter().map(load).collect(),
            };
            at_once = LOADED;
            for (name, run) in group.iter().zip(loaded) {
                match run {
                    Ok(run) => {
                        if run.entries.len() > LONG_ENTRIES {
                            at_once = LOADED_LONG;
                        }
                        batch.add(*name, run, |_| true);
                    }
                    Err(StoreError::Backend(e)) if e.kind == BackendErrorKind::NotFound => {
                        damaged(StoreError::damaged(
                            ObjectName::hashed(ObjectKind::Index, name.0),
                            "it is gone, although the log names it",
                        ));
                    }
                    Err(e) if e.is_damage() => damaged(e),
                    Err(e) => return Err(e),
                }
                if batch.len() >= BATCH_ENTRIES {
                    making.add(std::mem::take(&mut batch));
                }
            }
        }
        if !batch.is_empty() {
            making.add(batch);
        }
        Ok(making.finish())
    }

    /// Which segments to merge: the shorter ones, up to the last that is not long enough to be left alone; entries `most` at most.
    fn to_merge(&self, open: &[OpenSegment], most: u64) -> Vec<usize> {
        let kept = (0..open.len()).filter(|place| open[*place].listed.is_some());
        let mut order: Vec<usize> = kept.clone().collect();
        order.sort_by_key(|place| open[*place].segment.entries());
        let mut taken = 0;
        let mut sum = 0u64;
        for (shorter, place) in order.iter().enumerate() {
            let entries = open[*place].segment.entries();
            if sum + entries > most {
                break;
            }
            // One that is too short takes all shorter ones along.
            if sum + entries <= SMALL_ENTRIES || entries < RATIO * sum {
                taken = shorter + 1;
            }
            sum += entries;
        }
        if taken > 1 {
            order.truncate(taken.min(MERGED_MAX));
            return order;
        }
        // One of whose runs most do not count any more.
        let is_dead = |place: &usize| {
            let runs = &open[*place].segment.runs;
            let dead = runs.iter().filter(|run| !self.counts(run)).count();
            self.all && 2 * dead > runs.len()
        };
        kept.filter(is_dead).take(1).collect()
    }

    /// Merges what is to be merged. False if a segment was found damaged: it is not among them any more.
    fn merge(&self, folder: &Folder, open: &mut Vec<OpenSegment>, loaded: u64) -> bool {
        let most = match self.all {
            true => u64::MAX,
            false => READER_ENTRIES.max(RATIO * loaded),
        };
        loop {
            let places = self.to_merge(open, most);
            if places.is_empty() {
                return true;
            }
            let inputs: Vec<&Segment> = places.iter().map(|at| &*open[*at].segment).collect();
            let counts = |run: &ObjectHash| self.counts(run);
            let merged = folder.create(|file| merge(&inputs, &counts, folder.repository, file));
            let (gone, good) = match &merged {
                Ok(_) => (places, true),
                Err(MergeError::Input(which, broken)) => {
                    tracing::warn!(
                        "a file in {} is damaged ({}); it is made anew",
                        folder.path.display(),
                        broken.0
                    );
                    let one = places.get(*which).map(|place| vec![*place]);
                    (one.unwrap_or(places), false)
                }
                Err(MergeError::Output(e)) => {
                    tracing::warn!("{} can't be written: {e}", folder.path.display());
                    return true;
                }
            };
            let mut place = 0;
            open.retain(|_| {
                place += 1;
                !gone.contains(&(place - 1))
            });
            open.extend(merged);
            if !good {
                return false;
            }
        }
    }
}

impl Default for Making<'_> {
    fn default() -> Self {
        Self {
            folder: None,
            pages: Arc::default(),
            memory: super::MEMORY_BYTES,
            made: Vec::new(),
        }
    }
}

/// Makes segments of batches: in the folder, else in memory, else in unnamed files.
pub(super) struct Making<'f> {
    folder: Option<&'f Folder>,
    pages: Arc<PageCache>,
    /// Bytes that may still stay in memory.
    memory: u64,
    made: Vec<OpenSegment>,
}

impl Making<'_> {
    pub(super) fn add(&mut self, mut batch: Batch) {
        if self.made.len() >= GATHERED {
            self.gather();
        }
        if let Some(folder) = self.folder {
            match folder.create(|file| batch.write(file, folder.repository)) {
                Ok(open) => return self.made.push(open),
                Err(e) => tracing::warn!("{} can't be written: {e}", folder.path.display()),
            }
        }
        let mut bytes = Vec::with_capacity(batch.bytes());
        let runs = batch
            .write(&mut bytes, NOBODY)
            .expect("memory takes every byte");
        drop(batch);
        let segment = match self.memory.checked_sub(wide(bytes.len())) {
            Some(left) => {
                self.memory = left;
                Segment::of_memory(bytes, runs)
            }
            None => unnamed(bytes, runs, &self.pages),
        };
        self.made.push(OpenSegment {
            listed: None,
            segment: Arc::new(segment),
        });
    }

    /// Makes one segment of all, so that few files are open. What can't be merged stays as it is.
    fn gather(&mut self) {
        let segments: Vec<Arc<Segment>> = self.made.iter().map(|o| o.segment.clone()).collect();
        let merged = match self.folder {
            None => merged_unnamed(&segments, &self.pages).map(|merged| OpenSegment {
                listed: None,
                segment: Arc::new(merged),
            }),
            Some(folder) => {
                let inputs: Vec<&Segment> = segments.iter().map(|segment| &**segment).collect();
                folder.create(|file| merge(&inputs, &|_| true, folder.repository, file))
            }
        };
        match merged {
            Ok(merged) => {
                // No list names them yet.
                for path in segments.iter().filter_map(|segment| segment.path.as_ref()) {
                    if let Err(e) = fs::remove_file(path) {
                        tracing::debug!("{} can't be removed: {e}", path.display());
                    }
                }
                self.made = vec![merged];
            }
            Err(e) => tracing::warn!("segments of the index are not merged: {e:?}"),
        }
    }

    pub(super) fn finish(mut self) -> Vec<OpenSegment> {
        if self.folder.is_none() && self.made.len() > UNNAMED_MAX {
            self.gather();
        }
        self.made
    }
}

/// The longest first: most chunks are there.
fn by_length(mut open: Vec<OpenSegment>) -> Vec<OpenSegment> {
    open.sort_by_key(|o| std::cmp::Reverse(o.segment.entries()));
    open
}

/// A list that names one segment, whatever its content.
#[cfg(test)]
pub(super) fn list_of_a_test(repository: &Repository, path: &Path, runs: &[ObjectHash]) -> Vec<u8> {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap();
    let file = File::open(path).unwrap();
    let id = repository.format.id;
    let segment = Segment::open(file, id, runs.to_vec(), &Arc::default()).unwrap();
    let listed = Listed {
        name: u128::from_str_radix(stem, 16).unwrap(),
        entries: segment.entries(),
        len: segment.bytes(),
        runs: runs.to_vec(),
    };
    encode(id, &[listed])
}
