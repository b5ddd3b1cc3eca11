//! Everything but packs and trees: plain objects, the log, sealed objects; and all objects without a key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::{Report, Reporter, VerifySummary, check_stop, describe};
use crate::backend::{Backend, BackendErrorKind, ByteRange, ObjectKind, ObjectName};
use crate::error::{Error, Result};
use crate::format::header::{Header, SealedKind};
use crate::format::id::ObjectHash;
use crate::format::index::IndexRun;
use crate::format::key::KeyObject;
use crate::format::repository::RepositoryFormat;
use crate::ops::backup::Interrupt;
use crate::ops::window::{for_each_parallel, is_of_one_object, thread_count};
use crate::stats::Stats;
use crate::store::chunk_index::ChunkIndex;
use crate::store::{Repository, State, StoreError};

/// Bytes that are read at once.
const BLOCK_BYTES: usize = 1 << 20;
const GONE: &str = "it is gone, although the log names it";

/// Kinds that are named by their hash and are neither packs nor keys.
const SEALED: [(ObjectKind, SealedKind); 7] = [
    (ObjectKind::Index, SealedKind::Index),
    (ObjectKind::Snapshot, SealedKind::Snapshot),
    (ObjectKind::Gc, SealedKind::Gc),
    (ObjectKind::Ledger, SealedKind::Ledger),
    (ObjectKind::Quarantine, SealedKind::Quarantine),
    (ObjectKind::Checkpoint, SealedKind::Checkpoint),
    (ObjectKind::Map, SealedKind::Map),
];

/// The bytes of an object; `None` if it is absent. What can't be read is reported, and counts as absent.
fn read(
    backend: &dyn Backend,
    name: &ObjectName,
    report: &Reporter<'_>,
) -> Result<Option<bytes::Bytes>> {
    match backend.get(name, ByteRange::All) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind == BackendErrorKind::NotFound => Ok(None),
        Err(e) if is_unreadable(e.kind) => {
            report.damaged(name, describe(&e));
            Ok(None)
        }
        Err(e) => Err(e.into()),
    }
}

/// Whether an error is one of this object, not of the whole store.
pub(super) fn is_unreadable(kind: BackendErrorKind) -> bool {
    matches!(kind, BackendErrorKind::Other | BackendErrorKind::Short)
}

/// `format` and key objects, each with its copy.
pub(super) fn plain(
    backend: &dyn Backend,
    state: Option<&State>,
    report: &Reporter<'_>,
    summary: &mut VerifySummary,
) -> Result<()> {
    let mut formats = Vec::new();
    for name in [ObjectName::format(), ObjectName::format_copy()] {
        summary.objects += 1;
        match backend.get(&name, ByteRange::All) {
            Ok(bytes) => match RepositoryFormat::decode(&bytes) {
                Ok(_) => formats.push(bytes),
                Err(e) => report.damaged(name, e),
            },
            Err(e) if e.kind == BackendErrorKind::NotFound => report.damaged(name, "it is gone"),
            Err(e) if is_unreadable(e.kind) => report.damaged(name, describe(&e)),
            Err(e) => return Err(e.into()),
        }
    }
    if let [format, copy] = formats.as_slice()
        && format != copy
    {
        report.damaged(
            "format",
            "it differs from its copy, although both have good checksums",
        );
    }
    let mut keys: BTreeSet<ObjectHash> =
        state.map(|state| state.keys().clone()).unwrap_or_default();
    let strays = backend.list(ObjectKind::Key, &mut |info| {
        keys.extend(info.name.hash().map(ObjectHash));
    })?;
    note_strays(ObjectKind::Key, strays.count, &strays.examples, report);
    if keys.is_empty() {
        report.damaged("keys/", "there is no key object");
    }
    for key in keys {
        if state.is_some_and(|state| state.is_condemned(ObjectKind::Key, &key)) {
            continue;
        }
        for name in [ObjectName::key(key.0), ObjectName::key_copy(key.0)] {
            summary.objects += 1;
            match backend.get(&name, ByteRange::All) {
                Ok(bytes) if ObjectHash::of(&bytes) != key => {
                    report.damaged(name, "its bytes do not have the hash that it is named by")
                }
                Ok(bytes) => {
                    if let Err(e) = KeyObject::decode(&bytes) {
                        report.damaged(name, e);
                    }
                }
                Err(e) if e.kind == BackendErrorKind::NotFound => {
                    report.damaged(name, "it is gone, and the other one of its two is there");
                }
                Err(e) if is_unreadable(e.kind) => report.damaged(name, describe(&e)),
                Err(e) => return Err(e.into()),
            }
        }
    }
    heartbeats(backend, report, summary)
}

fn heartbeats(
    backend: &dyn Backend,
    report: &Reporter<'_>,
    summary: &mut VerifySummary,
) -> Result<()> {
    let mut wrong = Vec::new();
    let strays = backend.list(ObjectKind::Heartbeat, &mut |info| {
        summary.objects += 1;
        if info.len != 0 {
            wrong.push(info.name);
        }
    })?;
    note_strays(
        ObjectKind::Heartbeat,
        strays.count,
        &strays.examples,
        report,
    );
    for name in wrong {
        report.damaged(name, "a sign of life is empty, and this one is not");
    }
    Ok(())
}

fn note_strays(kind: ObjectKind, count: u64, examples: &[String], report: &Reporter<'_>) {
    if count > 0 {
        let examples = examples.join(", ");
        report.note(format!(
            "{kind} holds {count} things that are no objects: {examples}"
        ));
    }
}

/// Reads the log from its first entry. With a damaged entry the state before it is given, and the entries after it are opened one by one.
pub(super) fn log(
    repository: &Repository,
    report: &Reporter<'_>,
    summary: &mut VerifySummary,
) -> Result<Arc<State>> {
    let mut state = State::empty();
    let mut broken = false;
    loop {
        let seq = state.seq() + 1;
        let folded = match repository.read_entry(seq) {
            Ok(Some(stored)) => state.fold(&stored.entry, stored.hash, repository),
            Ok(None) => {
                let mut later = BTreeSet::new();
                repository
                    .backend()
                    .list_log_after(state.seq(), &mut |info| later.extend(info.name.seq()))?;
                match later.last() {
                    None => break,
                    Some(_) if repository.backend().exists(&ObjectName::log(seq))? => continue,
                    Some(later) => Err(StoreError::LogGap {
                        missing: seq,
                        later: *later,
                    }),
                }
            }
            Err(e) => Err(e),
        };
        match folded {
            Ok(()) => summary.objects += 1,
            Err(e) if is_of_one_object(&e) => {
                report.error(ObjectName::log(seq), &e);
                broken = true;
                break;
            }
            Err(e) => return Err(e.into()),
        }
    }
    if broken {
        report.note(format!(
            "the log can be read up to entry {} only; the rest is verified as of then",
            state.seq()
        ));
        rest_of_log(repository, state.seq() + 1, report, summary)?;
        state.load_quarantines(repository)?;
        return Ok(Arc::new(state));
    }
    match repository.read_state() {
        Ok(state) => Ok(state),
        Err(e) if e.is_damage() => {
            report.error("log/", &e);
            Ok(Arc::new(state))
        }
        Err(e) => Err(e.into()),
    }
}

fn rest_of_log(
    repository: &Repository,
    broken: u64,
    report: &Reporter<'_>,
    summary: &mut VerifySummary,
) -> Result<()> {
    let mut later = BTreeSet::new();
    repository
        .backend()
        .list_log_after(broken, &mut |info| later.extend(info.name.seq()))?;
    for seq in later {
        summary.objects += 1;
        match repository.read_entry(seq) {
            Ok(_) => {}
            Err(e) if is_of_one_object(&e) => report.error(ObjectName::log(seq), &e),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// How many entries were seen; the runs, with their content where it is kept.
type LoadedRuns = (usize, Vec<(ObjectHash, Option<IndexRun>)>);

/// Entries of runs that are kept until the index is built of them.
const KEPT_ENTRIES: usize = 1 << 20;

/// Every sealed object but packs and the log: those that are listed, and those that the log names. Gives the index.
pub(super) fn sealed(
    repository: &Repository,
    state: &State,
    threads: usize,
    report: &Reporter<'_>,
    summary: &mut VerifySummary,
) -> Result<ChunkIndex> {
    let mut names: BTreeMap<(ObjectKind, ObjectHash), SealedKind> = BTreeMap::new();
    for (kind, sealed) in SEALED {
        let strays = repository.backend().list(kind, &mut |info| {
            names.extend(
                info.name
                    .hash()
                    .map(|hash| ((kind, ObjectHash(hash)), sealed)),
            );
        })?;
        note_strays(kind, strays.count, &strays.examples, report);
    }
    let runs = state
        .index()
        .keys()
        .map(|run| ((ObjectKind::Index, *run), SealedKind::Index));
    let records = state
        .live()
        .keys()
        .map(|record| ((ObjectKind::Snapshot, *record), SealedKind::Snapshot));
    names.extend(runs.chain(records));
    let names: Vec<_> = names.into_iter().collect();
    summary.objects += u64::try_from(names.len()).unwrap_or(u64::MAX);
    // Small indexes are not read twice.
    let loaded: Mutex<LoadedRuns> = Mutex::default();
    for_each_parallel(
        threads,
        names.len(),
        || Ok(()),
        |_: &mut (), at| {
            let ((kind, hash), sealed) = names[at];
            let name = ObjectName::hashed(kind, hash.0);
            let result = match kind {
                ObjectKind::Index => repository.load_run(&hash).map(Some),
                ObjectKind::Snapshot => repository.load_record(&hash).map(|_| None),
                _ => repository.load_object(sealed, &hash).map(|_| None),
            };
            match result {
                Ok(Some(run)) if state.index().contains_key(&hash) => {
                    if let Err(e) = state.check_run(
                        &hash,
                        &run.packs.iter().map(|pack| pack.name).collect::<Vec<_>>(),
                    ) {
                        report.damaged(name, e);
                    }
                    let mut loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
                    loaded.0 += run.entries.len();
                    let kept = (loaded.0 <= KEPT_ENTRIES).then_some(run);
                    loaded.1.push((hash, kept));
                    Ok(())
                }
                Ok(_) => Ok(()),
                Err(StoreError::Backend(e)) if e.kind == BackendErrorKind::NotFound => {
                    absent(repository, state, kind, &hash, report)
                }
                Err(e) if is_of_one_object(&e) => {
                    report.error(name, &e);
                    Ok(())
                }
                Err(e) => Err(e.into()),
            }
        },
    )?;
    let (_, mut runs) = loaded.into_inner().unwrap_or_else(PoisonError::into_inner);
    runs.sort_by_key(|(name, _)| *name);
    let runs = runs.into_iter().map(|(name, run)| match run {
        Some(run) => Ok(run),
        None => repository.load_run(&name),
    });
    // Quarantined packs are verified too: that is how a mark proves wrong.
    let index = ChunkIndex::try_build(runs, |pack| !state.is_condemned_pack(pack))?;
    Ok(index)
}

/// What it means that a listed or named object is not there any more.
fn absent(
    repository: &Repository,
    state: &State,
    kind: ObjectKind,
    hash: &ObjectHash,
    report: &Reporter<'_>,
) -> Result<()> {
    let needed = |state: &State| match kind {
        ObjectKind::Index => state.index().contains_key(hash),
        ObjectKind::Snapshot => state.is_live(hash),
        _ => false,
    };
    let still = needed(state) && needed(&*repository_state(repository, state)?);
    if still {
        report.damaged(ObjectName::hashed(kind, hash.0), GONE);
    }
    Ok(())
}

/// The state of the log now; with a damaged log the one that is known.
pub(super) fn repository_state(repository: &Repository, known: &State) -> Result<Arc<State>> {
    match repository.read_state() {
        Ok(state) => Ok(state),
        Err(e) if e.is_damage() => Ok(Arc::new(known.clone())),
        Err(e) => Err(e.into()),
    }
}

/// Verifies without a key that every object still has the hash that names it; plain objects have checksums. Entries of the log are named
/// by their numbers and are chained under their seals: without a key only their headers can be looked at, and they are counted as unchecked.
pub fn without_key(
    backend: &dyn Backend,
    threads: Option<usize>,
    stats: &Arc<Stats>,
    stop: &Interrupt,
    each: Report<'_>,
) -> Result<VerifySummary> {
    let begun = Instant::now();
    let report = Reporter::new(each);
    let mut summary = VerifySummary::default();
    // Where the place itself is absent, every call fails; that is no repository either.
    let there = |name| match backend.exists(&name) {
        Err(e) if e.kind == BackendErrorKind::NotFound => Ok(false),
        other => other,
    };
    if !there(ObjectName::format())? && !there(ObjectName::format_copy())? {
        let mut keys = 0;
        match backend.list(ObjectKind::Key, &mut |_| keys += 1) {
            Err(e) if e.kind == BackendErrorKind::NotFound => {}
            other => drop(other?),
        }
        if keys == 0 {
            let place = backend
                .local_path()
                .map_or("this place".into(), |path| path.display().to_string());
            return Err(Error::Store(StoreError::NoRepository { place }));
        }
    }
    plain(backend, None, &report, &mut summary)?;
    log_without_key(backend, &report, &mut summary)?;
    let mut objects = Vec::new();
    for kind in SEALED
        .iter()
        .map(|(kind, _)| *kind)
        .chain([ObjectKind::Pack])
    {
        let strays = backend.list(kind, &mut |info| {
            stats.bytes_expected.add(info.len);
            objects.push((info.name, info.len));
        })?;
        note_strays(kind, strays.count, &strays.examples, &report);
    }
    objects.sort();
    let (packs, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let threads = threads.unwrap_or_else(thread_count).clamp(1, 256);
    for_each_parallel(
        threads,
        objects.len(),
        || Ok(vec![0; BLOCK_BYTES]),
        |block, at| {
            check_stop(stop)?;
            let (name, len) = objects[at];
            match hash_object(backend, &name, len, block) {
                Ok(hash) if Some(hash) == name.hash() => {}
                Ok(_) => report.damaged(name, "its bytes do not have the hash that it is named by"),
                // Deleted since it was listed: without a key nobody can say whether it was needed.
                Err(e) if e.kind == BackendErrorKind::NotFound => {}
                Err(e) if is_unreadable(e.kind) => report.damaged(name, describe(&e)),
                Err(e) => return Err(e.into()),
            }
            stats.bytes_read.add(len);
            bytes.fetch_add(len, Ordering::Relaxed);
            if name.kind() == ObjectKind::Pack {
                packs.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        },
    )?;
    summary.packs = packs.into_inner();
    summary.objects += u64::try_from(objects.len()).unwrap_or(u64::MAX) - summary.packs;
    summary.bytes_read = bytes.into_inner();
    summary.damaged = report.damaged.load(Ordering::Relaxed);
    summary.seconds = begun.elapsed().as_secs_f64();
    Ok(summary)
}

fn hash_object(
    backend: &dyn Backend,
    name: &ObjectName,
    listed: u64,
    block: &mut [u8],
) -> Result<[u8; 32], crate::backend::BackendError> {
    let len = match listed {
        0 => 0,
        _ => backend.len(name)?,
    };
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    while at < len {
        let part = usize::try_from(len - at)
            .unwrap_or(BLOCK_BYTES)
            .min(block.len());
        backend.read_into(name, at, &mut block[..part])?;
        hasher.update(&block[..part]);
        at += u64::try_from(part).expect("a length fits 64 bits");
    }
    Ok(*hasher.finalize().as_bytes())
}

fn log_without_key(
    backend: &dyn Backend,
    report: &Reporter<'_>,
    summary: &mut VerifySummary,
) -> Result<()> {
    let mut entries = BTreeSet::new();
    let strays = backend.list(ObjectKind::Log, &mut |info| entries.extend(info.name.seq()))?;
    note_strays(ObjectKind::Log, strays.count, &strays.examples, report);
    for (expected, seq) in (1u64..).zip(&entries) {
        if expected != *seq {
            report.error(
                "log/",
                &StoreError::LogGap {
                    missing: expected,
                    later: *seq,
                },
            );
            break;
        }
    }
    for seq in entries {
        let name = ObjectName::log(seq);
        summary.objects += 1;
        summary.unchecked += 1;
        let Some(bytes) = read(backend, &name, report)? else {
            continue;
        };
        match Header::decode(&bytes) {
            Ok(header) if header.kind == SealedKind::Log => {}
            Ok(_) => report.damaged(name, "it is no log entry"),
            Err(e) => report.damaged(name, e),
        }
    }
    if summary.unchecked > 0 {
        report.note(format!(
            "without a key the contents of {} log entries can't be checked",
            summary.unchecked
        ));
    }
    Ok(())
}
