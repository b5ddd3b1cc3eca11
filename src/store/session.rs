//! A session: what a run that writes opens first and ends with its commit.
//!
//! The order is in the types: packs durable, then runs, then the record, then the entry, which is tested on the state that it follows.
//! A session's objects, and the snapshots that were live when it began, stay until it ends; if somebody expires it wrongly, that costs work
//! and never data, because the test is made all the same.
//!
//! Invariants:
//! 1. A run names packs only that are durable (`write_runs` takes [`PacksDurable`] and panics at any other pack, which is our own mistake).
//! 2. A commit whose answer was lost is found in the log and not made again (`a_commit_is_not_made_twice`).
//! 3. A record that was committed and forgotten meanwhile is not committed again (`a_commit_is_not_made_twice`).
//!
//! Failure: a session that is dropped stays open until it is expired by the age of its heartbeats, or by hand. Objects that were not
//! committed are garbage; nobody but prune deletes them.
//!
//! Threads: shared by all threads of a run. [`Session::beat`] is called every few minutes by one of them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::append::{Candidate, Decision, Lost, Outcome};
use super::error::Short;
use super::state::State;
use super::{Repository, StoreError, put_durably};
use crate::backend::{ObjectKind, ObjectName};
use crate::format::header::SealedKind;
use crate::format::id::ObjectHash;
use crate::format::index::IndexRun;
use crate::format::snapshot::Record;

/// Packs of this run that are durable; only the writer of packs makes it.
#[derive(Clone, Debug, Default)]
pub struct PacksDurable {
    names: BTreeSet<ObjectHash>,
}

impl PacksDurable {
    /// `names` are stored, durably and under these names.
    pub(super) fn new(names: impl IntoIterator<Item = ObjectHash>) -> Self {
        Self {
            names: names.into_iter().collect(),
        }
    }

    /// Takes those of `other` in.
    pub fn extend(&mut self, other: Self) {
        self.names.extend(other.names);
    }

    /// Whether this pack is among them.
    pub fn contains(&self, pack: &ObjectHash) -> bool {
        self.names.contains(pack)
    }
}

/// Own and adopted runs that are durable, as are the packs that they name; each with these and with the packs that their prefix frames need.
#[derive(Clone, Debug, Default)]
pub struct RunsDurable {
    runs: BTreeMap<ObjectHash, Arc<[ObjectHash]>>,
}

impl RunsDurable {
    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = ObjectHash> {
        self.runs.keys().copied()
    }

    /// Each with the packs that it names or needs.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectHash, &Arc<[ObjectHash]>)> {
        self.runs.iter()
    }

    /// Takes those of `other` in.
    pub fn extend(&mut self, other: Self) {
        self.runs.extend(other.runs);
    }

    /// Lets go of runs that are lost; what stands in their packs that are not lost must be named by a new run.
    pub fn remove_lost(&mut self, lost: &Lost) {
        for run in &lost.runs {
            self.runs.remove(run);
        }
    }
}

/// A snapshot record that is durable.
#[derive(Clone, Debug)]
pub struct RecordDurable {
    name: ObjectHash,
}

impl RecordDurable {
    /// Its name, which is the snapshot's id.
    pub fn name(&self) -> ObjectHash {
        self.name
    }
}

/// How a commit came out.
#[derive(Debug)]
pub enum Commit {
    /// The snapshot stands.
    Done {
        /// Number of its entry.
        seq: u64,
        /// The state with it, or a later one.
        state: Arc<State>,
    },
    /// Something was condemned: store or resolve it again on this state, then commit again.
    Lost {
        /// What.
        lost: Lost,
        /// Where.
        state: Arc<State>,
    },
}

/// An open session.
#[derive(Debug)]
pub struct Session {
    repository: Arc<Repository>,
    number: u64,
    start: Arc<State>,
    beats: AtomicU64,
}

impl Repository {
    /// Appends a session entry.
    pub fn open_session(self: &Arc<Self>) -> Result<Session, StoreError> {
        let appended = self.append_or_refuse(&mut |state| Ok(state.validate_session()))?;
        Ok(Session {
            repository: Arc::clone(self),
            number: appended.seq,
            start: appended.state,
            beats: AtomicU64::new(0),
        })
    }
}

impl Session {
    /// Its number: that of its entry. It stands in the header of all that it writes.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The state at its entry: dedup is against this index, and its snapshots stay readable.
    pub fn start(&self) -> &Arc<State> {
        &self.start
    }

    /// The repository.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// Leaves a sign of life, whose age is read on the store's own clock.
    pub fn beat(&self) -> Result<(), StoreError> {
        let count = self.beats.fetch_add(1, Ordering::Relaxed);
        let name = ObjectName::heartbeat(self.number, count);
        put_durably(
            &**self.repository.backend(),
            &name,
            &[],
            self.repository.pause,
        )
    }

    /// Stores index runs for packs of this run.
    ///
    /// # Panics
    ///
    /// If a run names a pack that is not in `packs`.
    pub fn write_runs(
        &self,
        packs: &PacksDurable,
        runs: &[IndexRun],
    ) -> Result<RunsDurable, StoreError> {
        let mut durable = RunsDurable::default();
        for run in runs {
            assert!(
                run.packs.iter().all(|pack| packs.contains(&pack.name)),
                "a run names durable packs only"
            );
            let name = self
                .repository
                .put_object(SealedKind::Index, self.number, &run.encode())?;
            durable
                .runs
                .insert(name, self.repository.keep_run_packs(&name, run));
        }
        Ok(durable)
    }

    /// Adopts a run that no entry names: of a session that died after it wrote it. Its packs must all be there; they and the run are made
    /// durable, as nobody else has promised it.
    pub fn adopt_run(&self, name: &ObjectHash) -> Result<RunsDurable, StoreError> {
        let run = self.repository.load_run(name)?;
        for pack in &run.packs {
            let length = self
                .repository
                .backend()
                .len(&ObjectName::hashed(ObjectKind::Pack, pack.name.0))?;
            if length != pack.len {
                let object = ObjectName::hashed(ObjectKind::Pack, pack.name.0);
                return Err(StoreError::damaged(
                    object,
                    format!("it has {length} bytes, its index run says {}", pack.len),
                ));
            }
        }
        self.repository
            .backend()
            .sync_names(&[ObjectKind::Pack, ObjectKind::Index])?;
        let packs = self.repository.keep_run_packs(name, &run);
        Ok(RunsDurable {
            runs: BTreeMap::from([(*name, packs)]),
        })
    }

    /// Stores the record. `runs` are those that its entry will name: they come first.
    pub fn write_record(
        &self,
        record: &Record,
        _runs: &RunsDurable,
    ) -> Result<RecordDurable, StoreError> {
        let plaintext = minicbor::to_vec(record).expect("a vector takes all that is written");
        let name = self
            .repository
            .put_object(SealedKind::Snapshot, self.number, &plaintext)?;
        Ok(RecordDurable { name })
    }

    /// Reads the log on and says what is lost of what was used so far: a source that is still open is read again now, not later.
    pub fn follow(
        &self,
        runs: &RunsDurable,
        reused: &HashSet<ObjectHash>,
        parents: &[ObjectHash],
    ) -> Result<(Lost, Arc<State>), StoreError> {
        let state = self.repository.read_state()?;
        Ok((state.lost(self.number, None, runs, reused, parents), state))
    }

    /// Commits the snapshot: test W(n), then the entry, which also ends the session. After [`Commit::Lost`], and after an error too, it may
    /// be called again.
    pub fn commit(
        &self,
        record: &RecordDurable,
        runs: &RunsDurable,
        reused: &HashSet<ObjectHash>,
        parents: &[ObjectHash],
    ) -> Result<Commit, StoreError> {
        let candidate = Candidate {
            session: self.number,
            record,
            runs,
            reused,
            parents,
        };
        let mut decide = |state: &Arc<State>| {
            if let Some(done) = already_committed(state, &record.name())? {
                return Ok(Decision::GiveUp(done));
            }
            Ok(match state.validate_snapshot(&candidate) {
                Ok(validated) => Decision::Append(validated),
                Err(lost) => Decision::GiveUp(Commit::Lost {
                    lost,
                    state: Arc::clone(state),
                }),
            })
        };
        match self.repository.append(&mut decide)? {
            Outcome::Appended(appended) => Ok(Commit::Done {
                seq: appended.seq,
                state: appended.state,
            }),
            Outcome::GaveUp(commit) => Ok(commit),
        }
    }

    /// Ends the session without a snapshot, unless it has ended already.
    pub fn expire(&self) -> Result<(), StoreError> {
        self.repository.expire(self.number).map(|_| ())
    }
}

/// What an earlier commit of this record, whose answer was lost, has come to.
fn already_committed(
    state: &Arc<State>,
    record: &ObjectHash,
) -> Result<Option<Commit>, StoreError> {
    if let Some(entry) = state.forgotten_by(record) {
        return Err(StoreError::Forgotten {
            record: Short(*record),
            entry,
        });
    }
    let seq = state.live().get(record).copied();
    Ok(seq.map(|seq| Commit::Done {
        seq,
        state: Arc::clone(state),
    }))
}
