//! The running machinery of a backup: index, parents, packs, workers, sink.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::bases::StoredBases;
use super::{BackupOptions, Interrupt};
use crate::backend::ObjectKind;
use crate::error::{Error, Result};
use crate::format::id::ObjectHash;
use crate::format::node::{Content, Node};
use crate::format::snapshot::{ComponentKind, ComponentState};
use crate::ops::references::References;
use crate::ops::snapshots::{self, Snapshot, frame_decoder};
use crate::pipeline::chunker::{Chunker, ChunkerDomain, ChunkerKey, ChunkerParams};
use crate::pipeline::dedup::Dedup;
use crate::pipeline::pool::Pool;
use crate::pipeline::tree::BuiltTree;
use crate::pipeline::worker::{Worker, WorkerParts};
use crate::pipeline::{Sink, TreePath};
use crate::source::{ParentNode, ParentTree};
use crate::stats::Stats;
use crate::store::chunk_index::{ChunkIndex, cache};
use crate::store::packs::PackWriter;
use crate::store::reader::ChunkReader;
use crate::store::{Repository, RunsDurable, Session, StoreError, tree};

/// Bytes of units that may be in flight between sources' threads and workers.
const UNITS_BYTES: usize = 32 << 20;
/// Directories and files that may wait for a worker.
const TASKS_MAX: usize = 4096;
/// Memory for nodes before they spill.
const TREE_BYTES: usize = 48 << 20;
/// How often a session gives a sign of life.
const BEAT: Duration = Duration::from_secs(120);

/// How often the log is read on while sources are open.
pub(in crate::ops) const FOLLOW: Duration = Duration::from_secs(180);

/// What is stored when all sources have ended.
#[derive(Debug)]
pub(in crate::ops) struct Stored {
    pub(in crate::ops) tree: BuiltTree,
    pub(in crate::ops) skipped: Content,
    /// Own and adopted runs.
    pub(in crate::ops) runs: RunsDurable,
    /// Packs of others that chunks were found in.
    pub(in crate::ops) reused: HashSet<ObjectHash>,
    /// The index that chunks were found in.
    pub(in crate::ops) index: Arc<ChunkIndex>,
    pub(in crate::ops) damage: Vec<String>,
}

/// A parent component.
#[derive(Clone, Debug)]
pub(in crate::ops) struct ParentComponent {
    pub(in crate::ops) snapshot: ObjectHash,
    pub(in crate::ops) node: Node,
    pub(in crate::ops) started: crate::format::node::Timestamp,
}

/// The machinery.
#[derive(Debug)]
pub(in crate::ops) struct Engine {
    pub(in crate::ops) repository: Arc<Repository>,
    session: Arc<Session>,
    pub(in crate::ops) sink: Sink,
    pool: Pool,
    parts: WorkerParts,
    dedup: Arc<Dedup>,
    workers: Vec<JoinHandle<Result<()>>>,
    watch: Watch,
    parents: Vec<Snapshot>,
    site_name: String,
    pub(in crate::ops) reader: Arc<ChunkReader>,
    adopted: Vec<(RunsDurable, Vec<ObjectHash>)>,
    damage: Vec<String>,
    pub(in crate::ops) interrupt: Interrupt,
    /// The rules that tie rows to files.
    pub(super) references: Arc<References>,
}

/// The parts of workers for a repository.
pub(in crate::ops) fn worker_parts(
    repository: &Repository,
    options: &BackupOptions,
    dedup: &Arc<Dedup>,
    stats: &Arc<Stats>,
) -> Result<WorkerParts> {
    let keyring = repository.keyring();
    let missing = |m: crate::crypto::MissingSecret| StoreError::MissingSecret {
        what: m.action.to_owned(),
    };
    let format = repository.format();
    let cannot = |e: crate::pipeline::chunker::ParamsError| {
        Error::Message(format!("the repository's chunk sizes are not usable: {e}"))
    };
    let file_key = ChunkerKey::derive(
        keyring.file_chunker_secret().map_err(missing)?.expose(),
        ChunkerDomain::Files,
    );
    let table_key = ChunkerKey::derive(
        keyring.table_chunker_secret().map_err(missing)?.expose(),
        ChunkerDomain::Tables,
    );
    let file_params = ChunkerParams::try_from(&format.file_chunker).map_err(cannot)?;
    let table_params = ChunkerParams::try_from(&format.table_chunker).map_err(cannot)?;
    Ok(WorkerParts {
        store: dedup.clone(),
        id_key: keyring.chunk_id_key().map_err(missing)?,
        file_chunker: Chunker::new(&file_key, file_params).map_err(cannot)?,
        table_chunker: Chunker::new(&table_key, table_params).map_err(cannot)?,
        split_key: *keyring.directory_split_key().map_err(missing)?.expose(),
        frame_bytes: usize::try_from(format.frame_bytes).expect("32 bits fit"),
        level: options.level.unwrap_or(format.compression.level),
        small_file_bytes: u64::from(format.small_file_bytes),
        stats: stats.clone(),
    })
}

impl Engine {
    /// Loads the index and the parents, adopts what dead sessions left, and starts the threads.
    pub(in crate::ops) fn start(
        repository: &Arc<Repository>,
        session: &Arc<Session>,
        options: &BackupOptions,
        stats: &Arc<Stats>,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let mut damage: Vec<String> = repository
            .warnings()
            .iter()
            .map(ToString::to_string)
            .collect();
        let Loaded {
            index,
            logged_packs,
            adopted,
            whole,
        } = load(repository, session, &mut damage)?;
        let index = Arc::new(index);
        // With a hole in the index nothing is taken over unseen: every file is read, and what is missing is stored again.
        let parents = match whole && repository.keyring().secrets().seal_private {
            true => snapshots::list(repository, session.start(), &mut |e| {
                damage.push(e.to_string())
            })?,
            false => Vec::new(),
        };
        let reader = Arc::new(ChunkReader::new(
            repository.clone(),
            session.start().clone(),
            index.clone(),
            None,
            frame_decoder,
        )?);
        let packs = PackWriter::new(
            session.clone(),
            repository.format().pack_bytes,
            stats.clone(),
        );
        let of_site = parents
            .iter()
            .filter(|snapshot| snapshot.record.site == options.site_name);
        let bases = StoredBases::new(reader.clone(), of_site.cloned().collect(), logged_packs);
        let dedup = Dedup::new(index, packs).with_bases(Box::new(bases));
        let dedup = Arc::new(dedup);
        let parts = worker_parts(repository, options, &dedup, stats)?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let count = options.workers.unwrap_or(cores).clamp(1, 256);
        let pool = Pool::new(count, UNITS_BYTES, TASKS_MAX, &parts);
        let mut workers = Vec::with_capacity(count);
        for _ in 0..count {
            let mut worker = Worker::new(parts.clone())?;
            let pool = pool.clone();
            workers.push(std::thread::spawn(move || {
                pool.work(&mut worker);
                if pool.is_stopped() {
                    Ok(())
                } else {
                    worker.flush()
                }
            }));
        }
        let sink = Sink::new(pool.clone(), stats.clone(), TREE_BYTES, &options.scratch);
        let rules = options.site.as_ref().map(|site| site.references.as_slice());
        let references = Arc::new(References::new(rules.unwrap_or(&[]), &options.scratch));
        let sink = match references.is_empty() {
            true => sink,
            false => sink.observed_by(references.clone()),
        };
        let watch = Watch::start(session, &pool, dedup.clone(), options.follow, interrupt);
        Ok(Self {
            repository: repository.clone(),
            session: session.clone(),
            sink,
            references,
            pool,
            parts,
            dedup,
            workers,
            watch,
            parents,
            site_name: options.site_name.clone(),
            reader,
            adopted,
            damage,
            interrupt: interrupt.clone(),
        })
    }

    /// The index in which chunks are looked up.
    pub(in crate::ops) fn index(&self) -> &ChunkIndex {
        self.dedup.index()
    }

    /// The newest snapshot in which this component was complete, and the component's node in it.
    pub(in crate::ops) fn parent(
        &self,
        kind: ComponentKind,
        name: &str,
        path: &TreePath,
    ) -> Option<ParentComponent> {
        for snapshot in self
            .parents
            .iter()
            .rev()
            .filter(|snapshot| snapshot.record.site == self.site_name)
        {
            let same = snapshot
                .record
                .components
                .iter()
                .find(|c| c.kind == kind && c.name == name);
            let Some(component) = same.filter(|c| c.state != ComponentState::Failed) else {
                continue;
            };
            match tree::find(&self.reader, &snapshot.record.root, path.names()) {
                Ok(Some(node)) => {
                    return Some(ParentComponent {
                        snapshot: snapshot.id,
                        node,
                        started: component.started,
                    });
                }
                Ok(None) => {}
                Err(e) => tracing::warn!(
                    "the parent of {name} can't be read, everything is read again: {e}"
                ),
            }
        }
        None
    }

    /// The newest snapshot of this site, and its root.
    pub(in crate::ops) fn newest_parent(&self) -> Option<(ObjectHash, Content)> {
        let mut newest_first = self.parents.iter().rev();
        let newest = newest_first.find(|snapshot| snapshot.record.site == self.site_name)?;
        Some((newest.id, newest.record.root.clone()))
    }

    /// The trees of parents.
    pub(in crate::ops) fn parent_tree(&self) -> Arc<dyn ParentTree> {
        Arc::new(StoredParent(self.reader.clone()))
    }

    /// Ends the workers, writes the tree, and waits until everything but the record is durable. After an error what was stored is made
    /// findable for the next run.
    pub(in crate::ops) fn finish<T>(self, taken: Result<T>) -> Result<(T, Stored)> {
        let Self {
            session,
            sink,
            pool,
            parts,
            dedup,
            workers,
            watch,
            adopted,
            damage,
            interrupt,
            reader,
            ..
        } = self;
        let taken = match taken {
            Ok(taken) => {
                pool.close();
                Some(taken)
            }
            Err(e) => {
                pool.stop(e);
                None
            }
        };
        for worker in workers {
            match worker.join() {
                Ok(Ok(())) => {}
                Ok(Err(e)) => pool.stop(e),
                Err(_panic) => pool.stop(Error::Message(
                    "a worker thread panicked; this is a bug in holdfast".into(),
                )),
            }
        }
        watch.end();
        if interrupt.is_set() {
            pool.stop(Error::Interrupted);
        }
        // What was read of parents makes room for the tree.
        drop(reader);
        let built = match (pool.is_stopped(), taken) {
            (false, Some(taken)) => write_tree(&sink, parts).map(|tree| (taken, tree)),
            _ => Err(pool.take_error().unwrap_or(Error::Stopped)),
        };
        // Also after an error: packs and a run over them, so that the next run finds what this one stored.
        let packs = dedup.packs().finish();
        let (taken, (tree, skipped)) = built.map_err(|e| first_cause(e, &packs))?;
        let packs = packs?;
        let reused: HashSet<ObjectHash> = dedup.index().relied_packs().into_iter().collect();
        let mut runs = packs.runs;
        let mut reused_of_others = reused.clone();
        for (run, packs) in adopted {
            if packs.iter().any(|pack| reused.contains(pack)) {
                for pack in &packs {
                    reused_of_others.remove(pack);
                }
                runs.extend(run);
            }
        }
        let stored = Stored {
            tree,
            skipped,
            runs,
            reused: reused_of_others,
            index: dedup.index().clone(),
            damage,
        };
        drop(session);
        Ok((taken, stored))
    }
}

/// A stage that stopped because packs could not be written shows that cause.
fn first_cause<T>(error: Error, packs: &Result<T, StoreError>) -> Error {
    match (&error, packs) {
        (Error::Stopped, Err(StoreError::Stopped)) => Error::Message("the run was stopped".into()),
        _ => error,
    }
}

fn write_tree(sink: &Sink, parts: WorkerParts) -> Result<(BuiltTree, Content)> {
    let mut worker = Worker::new(parts)?;
    let tree = sink.finish(&mut worker)?;
    worker.flush()?;
    Ok(tree)
}

/// What a run begins with.
struct Loaded {
    index: ChunkIndex,
    /// Packs with smaller numbers are named by the log.
    logged_packs: u32,
    adopted: Vec<(RunsDurable, Vec<ObjectHash>)>,
    /// Every run that the log names could be read.
    whole: bool,
}

/// The index at the session's start, with the runs that dead sessions left and that are still whole.
fn load(
    repository: &Arc<Repository>,
    session: &Session,
    damage: &mut Vec<String>,
) -> Result<Loaded> {
    let state = session.start();
    let mut whole = true;
    let mut index = cache::open(repository, state, &mut |e| {
        whole = false;
        damage.push(format!("{e}; what only this run names is stored again"));
    })?;
    let logged_packs = index.pack_numbers();
    let mut loose = Vec::new();
    repository.backend().list(ObjectKind::Index, &mut |info| {
        if let Some(hash) = info.name.hash() {
            let name = ObjectHash(hash);
            if !state.index().contains_key(&name) && !state.is_condemned(ObjectKind::Index, &name) {
                loose.push(name);
            }
        }
    })?;
    let mut adopted = Vec::new();
    let runs = loose.iter().filter_map(|name| {
        let run = session
            .adopt_run(name)
            .and_then(|durable| Ok((durable, repository.load_run(name)?)));
        match run {
            Ok((durable, run)) => {
                let mut needed = run.named_packs().into_iter();
                if needed.any(|pack| state.is_unusable_pack(&pack)) {
                    return None;
                }
                let packs = run.packs.iter().map(|pack| pack.name).collect();
                adopted.push((durable, packs));
                Some(Ok::<_, StoreError>(run))
            }
            Err(e) => {
                tracing::debug!("index run {name} of an unfinished session is not used: {e}");
                None
            }
        }
    });
    index.add_runs(runs, |_| true)?;
    Ok(Loaded {
        index,
        logged_packs,
        adopted,
        whole,
    })
}

#[derive(Debug)]
struct StoredParent(Arc<ChunkReader>);

impl ParentTree for StoredParent {
    fn entries(
        &self,
        directory: &Content,
    ) -> Box<dyn Iterator<Item = Result<ParentNode, Error>> + Send + '_> {
        let mut nodes = tree::Nodes::new(self.0.clone(), directory);
        Box::new(std::iter::from_fn(move || {
            let next = nodes.next_with(|node, encoded| ParentNode {
                node: Box::new(node),
                encoded: encoded.to_vec(),
            })?;
            Some(next.map_err(Error::from))
        }))
    }
}

/// Reads the log on: nothing new is found in packs that were condemned or quarantined since the run began. What relied on them before is
/// stored again at the commit, whose test is made on the newest state in any case; so an error here costs work at most, and is tried again.
fn follow(session: &Session, dedup: &Dedup) {
    let state = match session.repository().read_state() {
        Ok(state) => state,
        Err(e) => return tracing::warn!("the log could not be read on, which is tried again: {e}"),
    };
    let refused = dedup.index().refuse(|pack| state.is_unusable_pack(pack));
    if refused > 0 {
        tracing::info!("{refused} packs were condemned meanwhile; what they held is stored again");
    }
    if !state.is_open(session.number()) {
        tracing::warn!(
            "this run's session was ended by another process; it goes on without its protection"
        );
    }
}

/// Gives signs of life, follows the log and hears the interrupt.
#[derive(Debug)]
struct Watch {
    end: crossbeam_channel::Sender<()>,
    thread: JoinHandle<()>,
}

impl Watch {
    fn start(
        session: &Arc<Session>,
        pool: &Pool,
        dedup: Arc<Dedup>,
        follow_every: Duration,
        interrupt: &Interrupt,
    ) -> Self {
        let (end, ended) = crossbeam_channel::bounded::<()>(0);
        let (session, pool, interrupt) = (session.clone(), pool.clone(), interrupt.clone());
        let thread = std::thread::spawn(move || {
            let mut last = std::time::Instant::now();
            let mut followed = last;
            while let Err(crossbeam_channel::RecvTimeoutError::Timeout) =
                ended.recv_timeout(Duration::from_millis(50))
            {
                if interrupt.is_set() {
                    pool.stop(Error::Interrupted);
                }
                if last.elapsed() >= BEAT {
                    last = std::time::Instant::now();
                    if let Err(e) = session.beat() {
                        tracing::warn!("no sign of life could be left: {e}");
                    }
                }
                if followed.elapsed() >= follow_every {
                    follow(&session, &dedup);
                    followed = std::time::Instant::now();
                }
            }
        });
        Self { end, thread }
    }

    fn end(self) {
        drop(self.end);
        if self.thread.join().is_err() {
            tracing::error!(
                "the thread that gives signs of life panicked; this is a bug in holdfast"
            );
        }
    }
}
