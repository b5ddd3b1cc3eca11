//! Append: the one way to change anything, and the tests that come before it.
//!
//! Read forward to the end n, test the entry on STATE(n), create `log/<n+1>` exclusively. Was anybody faster, his entries are read and
//! everything is tested again. After any unclear answer `log/<n+1>` is read back: these bytes: won; absent: the same bytes at the same
//! number again; else lost. So whoever creates n+1 has tested it on exactly the state that it follows.
//!
//! The writer's test W(n), for a snapshot ([`State::validate_snapshot`]):
//! - a: its record, its own and adopted runs, and every pack that these name, also as a base, are not condemned;
//! - b: no other pack that it relied on is condemned;
//! - c: a parent whose chunks it took over without look-up is a root (else they are tested as in b).
//!
//! A pack in quarantine counts as condemned here. What fails comes back as [`Lost`]: the writer stores it again under new names and tries again.
//!
//! Invariants:
//! 1. An entry is made from a [`Validated`] only, which the test on STATE(n) gives out, is good for n+1 alone, and is used up by it (types).
//! 2. Two that append at once lose no entry (`racing_appenders_lose_nothing`).
//! 3. A lost answer neither loses nor doubles an entry (`lost_answers_neither_lose_nor_double`).
//! 4. `log/` is synced before the create, so entry n is durable before n+1 exists, and after it, before success is reported
//!    (`the_log_is_synced_around_a_create`).
//!
//! Failure: before the create nothing has happened but uploads, which are garbage that prune collects; nobody cleans up after himself, as a
//! late request may still be carried out. After it the entry stands, whatever is reported.
//!
//! Threads: any number may append at once; they race as processes do.

use std::collections::HashSet;
use std::sync::Arc;

use super::session::{RecordDurable, RunsDurable};
use super::state::{Named, State, Violation};
use super::{Repository, StoreError, TRIES_MAX, is_unclear, seal_error};
use crate::backend::{BackendError, BackendErrorKind, ByteRange, ObjectKind, ObjectName};
use crate::crypto::random::array;
use crate::format::header::SealedKind;
use crate::format::id::{Nonce, ObjectHash};
use crate::format::log::{Action, GcList, LogEntry};

/// How many races one append loses before it gives up.
const RACES_MAX: u32 = 1000;

/// An action that was tested on STATE(n); good for entry n+1 alone.
#[derive(Debug)]
#[must_use = "a test without an entry changes nothing"]
pub struct Validated {
    after: u64,
    previous: ObjectHash,
    checkpoint: u64,
    action: Action,
    /// The content of the gc list that the action names. The list itself may be gone by now, if another pruner was faster.
    list: Option<Box<GcList>>,
}

/// What a writer wants to commit, and all that it relied on.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its session.
    pub session: u64,
    /// Its record.
    pub record: &'a RecordDurable,
    /// Its own and adopted runs.
    pub runs: &'a RunsDurable,
    /// Packs that it found chunks in.
    pub reused: &'a HashSet<ObjectHash>,
    /// Snapshots from which it took over chunks without look-up.
    pub parents: &'a [ObjectHash],
}

/// What a writer lost: it must be stored again under new names, or resolved again, before the commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// The record must be written again.
    pub record: bool,
    /// Own and adopted runs that are condemned, or name packs in `packs`.
    pub runs: Vec<ObjectHash>,
    /// Own and adopted packs, and packs that their frames are compressed on: the chunks of those runs must be stored again.
    pub packs: Vec<ObjectHash>,
    /// Packs of others: chunks found there must be resolved again, and stored again where that fails.
    pub reused: Vec<ObjectHash>,
    /// Snapshots whose chunks are no longer safe unseen: look each up.
    pub parents: Vec<ObjectHash>,
}

impl Lost {
    /// True if nothing is lost.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What to do on a state.
#[derive(Debug)]
pub enum Decision<G> {
    /// Append this.
    Append(Validated),
    /// Append nothing, because of this.
    GiveUp(G),
}

/// Makes a decision of the state at the end of the log.
pub type Decide<'a, G> = dyn FnMut(&Arc<State>) -> Result<Decision<G>, StoreError> + 'a;

/// How an append came out.
#[derive(Debug)]
pub enum Outcome<G> {
    /// The entry stands.
    Appended(Appended),
    /// Nothing was appended.
    GaveUp(G),
}

/// An entry that stands, durably.
#[derive(Clone, Debug)]
pub struct Appended {
    /// Its number.
    pub seq: u64,
    /// The state with it.
    pub state: Arc<State>,
}

impl State {
    /// A new session.
    pub fn validate_session(&self) -> Validated {
        self.validated(Action::Session)
    }

    /// The end of a session without a snapshot.
    pub fn validate_expire(&self, session: u64) -> Result<Validated, Violation> {
        match self.is_open(session) {
            true => Ok(self.validated(Action::Expire { session })),
            false => Err(Violation::NotOpen(session)),
        }
    }

    /// Forgetting live snapshots.
    pub fn validate_forget(
        &self,
        records: Vec<ObjectHash>,
        named: &dyn Named,
    ) -> Result<Validated, Violation> {
        self.validate(Action::Forget { records }, named)
    }

    /// New and removed key objects.
    pub fn validate_key(
        &self,
        added: Vec<ObjectHash>,
        removed: Vec<ObjectHash>,
        named: &dyn Named,
    ) -> Result<Validated, Violation> {
        self.validate(Action::Key { added, removed }, named)
    }

    /// A quarantine, or its end.
    pub fn validate_quarantine(
        &self,
        object: ObjectHash,
        lifted: bool,
        named: &dyn Named,
    ) -> Result<Validated, Violation> {
        self.validate(Action::Quarantine { object, lifted }, named)
    }

    /// The writer's test W(n).
    pub fn validate_snapshot(&self, candidate: &Candidate<'_>) -> Result<Validated, Lost> {
        let lost = self.lost(
            candidate.session,
            Some(candidate.record),
            candidate.runs,
            candidate.reused,
            candidate.parents,
        );
        if !lost.is_nothing() {
            return Err(lost);
        }
        let runs = candidate.runs.names().collect();
        let (record, session) = (candidate.record.name(), candidate.session);
        Ok(self.validated(Action::Snapshot {
            record,
            runs,
            session,
        }))
    }

    /// What of all this is lost at n; also for a writer that follows the log while its sources are open, before there is a record.
    pub fn lost(
        &self,
        session: u64,
        record: Option<&RecordDurable>,
        runs: &RunsDurable,
        reused: &HashSet<ObjectHash>,
        parents: &[ObjectHash],
    ) -> Lost {
        debug_assert!(session <= self.seq(), "a session is an entry of the log");
        let mut lost = Lost::default();
        for (run, packs) in runs.iter() {
            let condemned: Vec<_> = packs
                .iter()
                .filter(|pack| self.is_unusable_pack(pack))
                .copied()
                .collect();
            if self.is_condemned(ObjectKind::Index, run) || !condemned.is_empty() {
                lost.runs.push(*run);
            }
            lost.packs.extend(condemned);
        }
        lost.packs.sort_unstable();
        lost.packs.dedup();
        lost.reused = reused
            .iter()
            .filter(|pack| self.is_unusable_pack(pack))
            .copied()
            .collect();
        lost.reused.sort_unstable();
        lost.parents = parents
            .iter()
            .filter(|parent| !self.is_root(parent))
            .copied()
            .collect();
        let condemned =
            |record: &RecordDurable| self.is_condemned(ObjectKind::Snapshot, &record.name());
        lost.record = record.is_some_and(condemned);
        lost
    }

    fn validate(&self, action: Action, named: &dyn Named) -> Result<Validated, Violation> {
        self.check_action(&action, None, named)?;
        Ok(self.validated(action))
    }

    fn validated(&self, action: Action) -> Validated {
        Validated {
            after: self.seq(),
            previous: self.hash(),
            checkpoint: self.checkpoint(),
            action,
            list: None,
        }
    }
}

impl Repository {
    /// Appends what `decide` makes of the state at the end of the log. It is asked again whenever somebody else was faster, and must then
    /// test everything again.
    pub fn append<G>(&self, decide: &mut Decide<'_, G>) -> Result<Outcome<G>, StoreError> {
        for _ in 0..RACES_MAX {
            let state = self.read_state()?;
            let validated = match decide(&state)? {
                Decision::Append(validated) => validated,
                Decision::GiveUp(why) => return Ok(Outcome::GaveUp(why)),
            };
            if let Some(appended) = self.create_next(state, validated)? {
                return Ok(Outcome::Appended(appended));
            }
        }
        Err(StoreError::Refused(format!(
            "others appended to the log {RACES_MAX} times in a row, each time faster"
        )))
    }

    /// Appends what `test` allows, or fails with what it says.
    pub fn append_or_refuse(
        &self,
        test: &mut dyn FnMut(&State) -> Result<Validated, Violation>,
    ) -> Result<Appended, StoreError> {
        let mut decide = |state: &Arc<State>| match test(state) {
            Ok(validated) => Ok(Decision::Append(validated)),
            Err(violation) => Ok(Decision::GiveUp(violation)),
        };
        match self.append(&mut decide)? {
            Outcome::Appended(appended) => Ok(appended),
            Outcome::GaveUp(violation) => {
                Err(StoreError::Refused(format!("not possible: {violation}")))
            }
        }
    }

    /// Forgets snapshots.
    pub fn forget(&self, records: &[ObjectHash]) -> Result<Appended, StoreError> {
        self.append_or_refuse(&mut |state| state.validate_forget(records.to_vec(), self))
    }

    /// Ends a session, whoever opened it; `None` if it is not open.
    pub fn expire(&self, session: u64) -> Result<Option<Appended>, StoreError> {
        let mut decide = |state: &Arc<State>| {
            Ok(match state.validate_expire(session) {
                Ok(validated) => Decision::Append(validated),
                Err(_) => Decision::GiveUp(()),
            })
        };
        match self.append(&mut decide)? {
            Outcome::Appended(appended) => Ok(Some(appended)),
            Outcome::GaveUp(()) => Ok(None),
        }
    }

    /// Creates the entry after `state`; `None` if somebody else has.
    fn create_next(
        &self,
        state: Arc<State>,
        validated: Validated,
    ) -> Result<Option<Appended>, StoreError> {
        assert_eq!(
            (validated.after, validated.previous),
            (state.seq(), state.hash()),
            "an entry follows the state that it was tested on"
        );
        let seq = validated.after + 1;
        let entry = LogEntry {
            seq,
            previous: validated.previous,
            nonce: Nonce(self.with_random(array)),
            checkpoint: validated.checkpoint,
            action: validated.action,
            written_at: (self.now)(),
            written_by: self.written_by.clone(),
        };
        let plaintext = minicbor::to_vec(&entry).expect("a vector takes all that is written");
        let sealed = self.with_random(|random| {
            self.keyring
                .seal_object(SealedKind::Log, 0, &plaintext, random)
        });
        let name = ObjectName::log(seq);
        let bytes = sealed.map_err(|error| seal_error(&name, error))?;

        // An entry that the fold refuses would stop everybody for ever, so it is folded in before it exists.
        let mut next = State::clone(&state);
        next.fold_with(
            &entry,
            ObjectHash::of(&bytes),
            validated.list.map(|list| *list),
            self,
        )
        .map_err(would_break)?;

        // Own objects are durable already: their types say so. Entry n may be somebody else's.
        self.backend.sync_names(&[ObjectKind::Log])?;
        if !self.create_entry(seq, &bytes)? {
            return Ok(None);
        }
        self.backend
            .sync_names(&[ObjectKind::Log])
            .map_err(|source| StoreError::Unclear { seq, source })?;
        let state = Arc::new(next);
        self.keep_state(&state);
        self.remember(&state);
        Ok(Some(Appended { seq, state }))
    }

    /// True if these bytes are entry `seq` now, false if others are.
    fn create_entry(&self, seq: u64, bytes: &[u8]) -> Result<bool, StoreError> {
        let name = ObjectName::log(seq);
        let mut attempt = 0;
        loop {
            let Err(error) = self.backend.put_new(&name, bytes) else {
                return Ok(true);
            };
            match self.read_back(&name)? {
                Some(stored) => return Ok(stored == bytes),
                None if !is_unclear(&error) => return Err(error.into()),
                None if attempt == TRIES_MAX => {
                    return Err(StoreError::Unclear { seq, source: error });
                }
                None => {}
            }
            attempt += 1;
            self.wait(attempt);
        }
    }

    /// The bytes of an entry after an unclear answer; `None` if it is absent.
    fn read_back(&self, name: &ObjectName) -> Result<Option<Vec<u8>>, StoreError> {
        let seq = name.seq().unwrap_or_default();
        let mut attempt = 0;
        loop {
            let error: BackendError = match self.backend.get(name, ByteRange::All) {
                Ok(stored) => return Ok(Some(stored.to_vec())),
                Err(error) if error.kind == BackendErrorKind::NotFound => return Ok(None),
                Err(error) => error,
            };
            if error.kind != BackendErrorKind::Transient || attempt == TRIES_MAX {
                return Err(StoreError::Unclear { seq, source: error });
            }
            attempt += 1;
            self.wait(attempt);
        }
    }
}

fn would_break(error: StoreError) -> StoreError {
    match error {
        StoreError::BrokenLog(broken) => {
            StoreError::Refused(format!("not possible: {}", broken.why))
        }
        other => other,
    }
}

#[cfg(test)]
impl State {
    /// A gc entry whose list was made by a test.
    pub(crate) fn validate_gc_of_a_test(
        &self,
        list: ObjectHash,
        content: &GcList,
        named: &dyn Named,
    ) -> Result<Validated, Violation> {
        let action = Action::Gc { list };
        self.check_action(&action, Some(content), named)?;
        Ok(Validated {
            list: Some(Box::new(content.clone())),
            ..self.validated(action)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Backend, Counting, Fault, Faulty, Memory};
    use crate::format::log::Quarantine;
    use crate::format::pack::Encoding;
    use crate::format::snapshot::Record;
    use crate::store::testing::{self, store_chunks};
    use crate::store::{Commit, Session};

    fn new_repository() -> (Memory, Arc<Repository>) {
        let memory = Memory::new();
        let repository = testing::create(Arc::new(memory.clone()), 1).unwrap();
        (memory, Arc::new(repository))
    }

    fn open_session(repository: &Repository) -> Result<u64, StoreError> {
        Ok(repository
            .append_or_refuse(&mut |state| Ok(state.validate_session()))?
            .seq)
    }

    fn condemn(repository: &Repository, content: &GcList) -> Result<Appended, StoreError> {
        let plaintext = minicbor::to_vec(content).unwrap();
        let list = repository
            .put_object(SealedKind::Gc, 0, &plaintext)
            .unwrap();
        repository
            .append_or_refuse(&mut |state| state.validate_gc_of_a_test(list, content, repository))
    }

    #[test]
    fn racing_appenders_lose_nothing() {
        let (memory, _) = new_repository();
        let (threads, each) = (4, 25);
        let mut won: Vec<u64> = std::thread::scope(|scope| {
            let appender = |seed| {
                let memory = memory.clone();
                scope.spawn(move || {
                    let repository = testing::open(Arc::new(memory), seed);
                    (0..each)
                        .map(|_| open_session(&repository).unwrap())
                        .collect::<Vec<_>>()
                })
            };
            let handles: Vec<_> = (0..threads).map(|seed| appender(10 + seed)).collect();
            handles
                .into_iter()
                .flat_map(|handle| handle.join().unwrap())
                .collect()
        });
        won.sort_unstable();
        assert_eq!(won, (1..=threads * each).collect::<Vec<_>>());
        let state = testing::open(Arc::new(memory), 99).read_state().unwrap();
        assert_eq!(state.sessions().count(), won.len());
    }

    #[test]
    fn lost_answers_neither_lose_nor_double() {
        let transient = Fault::once(1, BackendErrorKind::Transient);
        for fault in [Fault::lost_answer(1), transient] {
            let mut reached_end = false;
            for operation in 1..40 {
                let (memory, _) = new_repository();
                let faulty = Arc::new(Faulty::new(Arc::new(memory.clone()), None));
                let repository = testing::open(faulty.clone(), 2);
                faulty.plan(Some(Fault {
                    first: faulty.operations() + operation,
                    ..fault
                }));
                let first = open_session(&repository);
                let met = faulty.faults_met();
                reached_end |= met == 0;
                let state = testing::open(Arc::new(memory.clone()), 3)
                    .read_state()
                    .unwrap();
                match &first {
                    Ok(seq) => assert_eq!((*seq, state.seq()), (1, 1), "operation {operation}"),
                    // The entry stands, and who appended is told that it may.
                    Err(StoreError::Unclear { seq: 1, .. }) => assert!(state.seq() <= 1),
                    Err(error) => assert_eq!(state.seq(), 0, "operation {operation}: {error}"),
                }
                faulty.plan(None);
                let next = open_session(&repository).unwrap();
                assert_eq!(next, state.seq() + 1);
            }
            assert!(reached_end, "more operations than were tried");
        }
    }

    /// A store where the next creates of log entries have an outcome of their own.
    #[derive(Debug)]
    struct Odd {
        memory: Memory,
        /// Before the answer, this is put at the same name.
        rival: std::sync::Mutex<Option<Vec<u8>>>,
    }

    impl Backend for Odd {
        fn create_layout(&self) -> Result<(), BackendError> {
            self.memory.create_layout()
        }
        fn put_new(&self, name: &ObjectName, body: &[u8]) -> Result<(), BackendError> {
            if name.kind() == ObjectKind::Log
                && let Some(rival) = self.rival.lock().unwrap().take()
            {
                self.memory.replace(name, rival);
            }
            self.memory.put_new(name, body)
        }
        fn begin(
            &self,
            kind: ObjectKind,
        ) -> Result<Box<dyn crate::backend::NewObject>, BackendError> {
            self.memory.begin(kind)
        }
        fn get(&self, name: &ObjectName, range: ByteRange) -> Result<bytes::Bytes, BackendError> {
            self.memory.get(name, range)
        }
        fn read_into(
            &self,
            name: &ObjectName,
            offset: u64,
            buffer: &mut [u8],
        ) -> Result<(), BackendError> {
            self.memory.read_into(name, offset, buffer)
        }
        fn len(&self, name: &ObjectName) -> Result<u64, BackendError> {
            self.memory.len(name)
        }
        fn list(
            &self,
            kind: ObjectKind,
            each: &mut dyn FnMut(crate::backend::ObjectInfo),
        ) -> Result<crate::backend::Strays, BackendError> {
            self.memory.list(kind, each)
        }
        fn delete(&self, name: &crate::backend::Condemned) -> Result<(), BackendError> {
            self.memory.delete(name)
        }
        fn sync_names(&self, kinds: &[ObjectKind]) -> Result<(), BackendError> {
            self.memory.sync_names(kinds)
        }
        fn free_bytes(&self) -> Result<Option<u64>, BackendError> {
            self.memory.free_bytes()
        }
    }

    #[test]
    fn a_faster_rival_makes_everything_tested_again() {
        let (memory, _) = new_repository();
        // The rival's entry 1, made on a copy of the repository.
        let copy = Memory::with_contents(memory.contents());
        open_session(&testing::open(Arc::new(copy.clone()), 50)).unwrap();
        let rival = copy.contents()[&ObjectName::log(1)].to_vec();
        let odd = Odd {
            memory: memory.clone(),
            rival: std::sync::Mutex::new(Some(rival)),
        };
        let repository = testing::open(Arc::new(odd), 2);
        let mut tested = Vec::new();
        let mut decide = |state: &Arc<State>| -> Result<Decision<()>, StoreError> {
            tested.push(state.seq());
            Ok(Decision::Append(state.validate_session()))
        };
        let Outcome::Appended(appended) = repository.append(&mut decide).unwrap() else {
            panic!()
        };
        assert_eq!((appended.seq, tested), (2, vec![0, 1]));
        assert_eq!(appended.state.sessions().collect::<Vec<_>>(), vec![1, 2]);
    }

    #[test]
    fn a_torn_entry_is_damage_and_stays() {
        let (memory, _) = new_repository();
        let odd = Odd {
            memory: memory.clone(),
            rival: std::sync::Mutex::new(Some(Vec::new())),
        };
        let error = open_session(&testing::open(Arc::new(odd), 2)).unwrap_err();
        assert!(error.is_damage(), "{error}");
        assert!(
            memory.contents()[&ObjectName::log(1)].is_empty(),
            "nobody takes it for void"
        );
    }

    #[test]
    fn the_log_is_synced_around_a_create() {
        let (memory, _) = new_repository();
        let counting = Arc::new(Counting::new(Arc::new(memory)));
        let repository = testing::open(counting.clone(), 2);
        counting.reset();
        open_session(&repository).unwrap();
        let counts = counting.counts();
        assert_eq!(counts.sync_names, 2, "{counts:?}");
        assert_eq!(
            (counts.created(ObjectKind::Log), counts.list),
            (1, 1),
            "{counts:?}"
        );
    }

    #[test]
    fn what_is_not_allowed_is_refused_and_changes_nothing() {
        let (_, repository) = new_repository();
        let session = open_session(&repository).unwrap();
        assert!(matches!(
            repository.forget(&[ObjectHash([1; 32])]),
            Err(StoreError::Refused(_))
        ));
        assert!(repository.expire(99).unwrap().is_none());
        assert!(repository.expire(session).unwrap().is_some());
        assert!(repository.expire(session).unwrap().is_none());
        assert_eq!(repository.read_state().unwrap().seq(), 2);
    }

    #[test]
    fn keys_and_quarantines_are_appended() {
        let (memory, repository) = new_repository();
        let content = Quarantine {
            packs: vec![ObjectHash([3; 32])],
            ..Quarantine::default()
        };
        let object = repository
            .put_object(
                SealedKind::Quarantine,
                0,
                &minicbor::to_vec(&content).unwrap(),
            )
            .unwrap();
        let name = ObjectName::hashed(ObjectKind::Quarantine, object.0);
        repository
            .append_or_refuse(&mut |state| state.validate_quarantine(object, false, &*repository))
            .unwrap();
        let key = vec![ObjectHash([9; 32])];
        repository
            .append_or_refuse(&mut |state| state.validate_key(key.clone(), vec![], &*repository))
            .unwrap();
        let state = testing::open(Arc::new(memory.clone()), 2)
            .read_state()
            .unwrap();
        assert!(state.is_unusable_pack(&ObjectHash([3; 32])) && state.keys().contains(&key[0]));
        memory.remove(&name);
        let error = testing::open(Arc::new(memory.clone()), 2)
            .read_state()
            .unwrap_err();
        assert!(
            error.is_damage() && error.to_string().contains("quarantine/"),
            "{error}"
        );
        repository
            .append_or_refuse(&mut |state| state.validate_quarantine(object, true, &*repository))
            .unwrap();
        let state = testing::open(Arc::new(memory), 2).read_state().unwrap();
        assert!(!state.is_unusable_pack(&ObjectHash([3; 32])) && state.condemned(&name).is_some());
    }

    // The traps, as far as a writer is concerned.

    struct Run {
        session: Session,
        pack: ObjectHash,
        runs: RunsDurable,
        record: RecordDurable,
        reused: HashSet<ObjectHash>,
        parents: Vec<ObjectHash>,
    }

    impl Run {
        fn new(repository: &Arc<Repository>) -> Self {
            let session = repository.open_session().unwrap();
            let (pack, runs) = store_chunks(&session, &[1, 2]);
            let record = session.write_record(&Record::default(), &runs).unwrap();
            Self {
                session,
                pack,
                runs,
                record,
                reused: HashSet::new(),
                parents: Vec::new(),
            }
        }

        fn commit(&self) -> Result<Commit, StoreError> {
            self.session
                .commit(&self.record, &self.runs, &self.reused, &self.parents)
        }

        fn lost(&self) -> Lost {
            match self.commit().unwrap() {
                Commit::Lost { lost, .. } => lost,
                Commit::Done { seq, .. } => panic!("committed by entry {seq}"),
            }
        }

        fn done(&self) -> u64 {
            match self.commit().unwrap() {
                Commit::Done { seq, .. } => seq,
                Commit::Lost { lost, .. } => panic!("{lost:?}"),
            }
        }

        fn run(&self) -> ObjectHash {
            self.runs.names().next().unwrap()
        }
    }

    /// Own objects, condemned after somebody expired the session: pack, run and record are all tested (H3).
    #[test]
    fn own_objects_that_are_condemned_are_lost() {
        let (_, repository) = new_repository();
        let mut run = Run::new(&repository);
        repository.expire(run.session.number()).unwrap();
        condemn(
            &repository,
            &GcList {
                packs: vec![run.pack],
                ..GcList::default()
            },
        )
        .unwrap();
        let lost = Lost {
            runs: vec![run.run()],
            packs: vec![run.pack],
            ..Lost::default()
        };
        assert_eq!(run.lost(), lost);

        // Stored again under new names: the pack, then a run that names it.
        run.runs.remove_lost(&lost);
        let (pack, runs) = store_chunks(&run.session, &[1, 2]);
        run.runs.extend(runs);
        assert_ne!(pack, run.pack);
        let only_run = run.run();
        condemn(
            &repository,
            &GcList {
                runs: vec![only_run],
                ..GcList::default()
            },
        )
        .unwrap();
        assert_eq!(
            run.lost(),
            Lost {
                runs: vec![only_run],
                ..Lost::default()
            }
        );

        run.runs = store_chunks(&run.session, &[1, 2]).1;
        condemn(
            &repository,
            &GcList {
                records: vec![run.record.name()],
                ..GcList::default()
            },
        )
        .unwrap();
        assert_eq!(
            run.lost(),
            Lost {
                record: true,
                ..Lost::default()
            }
        );
        run.record = run
            .session
            .write_record(&Record::default(), &run.runs)
            .unwrap();
        run.done();
    }

    /// A wrong expiry alone costs nothing.
    #[test]
    fn an_expired_session_commits_what_is_still_there() {
        let (_, repository) = new_repository();
        let run = Run::new(&repository);
        repository.expire(run.session.number()).unwrap();
        assert_eq!(run.done(), 3);
    }

    /// A reused pack that any gc entry condemned is lost, also one that is older than the session (H1).
    #[test]
    fn reused_packs_that_are_condemned_are_lost() {
        let (_, repository) = new_repository();
        let first = Run::new(&repository);
        first.done();
        repository.forget(&[first.record.name()]).unwrap();
        condemn(
            &repository,
            &GcList {
                packs: vec![first.pack],
                ..GcList::default()
            },
        )
        .unwrap();
        let mut run = Run::new(&repository);
        run.reused.insert(first.pack);
        assert_eq!(
            run.lost(),
            Lost {
                reused: vec![first.pack],
                ..Lost::default()
            }
        );
        run.reused.remove(&first.pack);
        run.done();
    }

    /// A pack that own frames are compressed on is needed as own packs are: with it the run is lost, not only what was found in the pack.
    #[test]
    fn a_run_is_lost_with_the_bases_of_its_frames() {
        let (_, repository) = new_repository();
        let first = Run::new(&repository);
        first.done();
        let mut run = Run::new(&repository);
        let (durable, mut pack) = testing::store_pack(&run.session, &[3]).unwrap();
        pack.frames[0].encoding = Encoding::ZstdPrefix;
        pack.frames[0].base = Some((first.pack, 0));
        let on_base = testing::run_of(&[(pack, vec![3])]);
        run.runs = run.session.write_runs(&durable, &[on_base]).unwrap();
        repository.expire(run.session.number()).unwrap();
        repository.forget(&[first.record.name()]).unwrap();
        let list = GcList {
            packs: vec![first.pack],
            ..GcList::default()
        };
        condemn(&repository, &list).unwrap();
        let lost = Lost {
            runs: vec![run.run()],
            packs: vec![first.pack],
            ..Lost::default()
        };
        assert_eq!(run.lost(), lost);
        // The fold refuses it too, and a dead session's run is tested in the same way.
        let name = run.run();
        let state = repository.read_state().unwrap();
        let adopted = run.session.adopt_run(&name).unwrap();
        let none = HashSet::new();
        assert_eq!(
            state.lost(run.session.number(), None, &adopted, &none, &[]),
            lost
        );
    }

    #[test]
    fn packs_in_quarantine_are_not_relied_on() {
        let (_, repository) = new_repository();
        let first = Run::new(&repository);
        first.done();
        let content = Quarantine {
            frames: vec![(first.pack, 0)],
            ..Quarantine::default()
        };
        let object = repository
            .put_object(
                SealedKind::Quarantine,
                0,
                &minicbor::to_vec(&content).unwrap(),
            )
            .unwrap();
        repository
            .append_or_refuse(&mut |state| state.validate_quarantine(object, false, &*repository))
            .unwrap();
        let mut run = Run::new(&repository);
        run.reused.insert(first.pack);
        assert_eq!(run.lost().reused, vec![first.pack]);
    }

    /// A parent is good while it is a root: live, or pinned by a session; not when it was forgotten and the session expired (U7).
    #[test]
    fn parents_must_be_roots() {
        let (_, repository) = new_repository();
        let parent = Run::new(&repository);
        parent.done();
        let mut run = Run::new(&repository);
        run.parents.push(parent.record.name());
        repository.forget(&run.parents).unwrap();
        let (lost, _) = run
            .session
            .follow(&run.runs, &run.reused, &run.parents)
            .unwrap();
        assert!(lost.is_nothing(), "its own session pins it: {lost:?}");
        repository.expire(run.session.number()).unwrap();
        let expected = Lost {
            parents: run.parents.clone(),
            ..Lost::default()
        };
        assert_eq!(run.lost(), expected);
        assert_eq!(
            run.session
                .follow(&run.runs, &run.reused, &run.parents)
                .unwrap()
                .0,
            expected
        );
        // Looked up, its chunks count as reused.
        run.parents.clear();
        run.reused.insert(parent.pack);
        run.done();
    }

    /// U2 and U3: the answer to the commit is lost; the caller tries again, or reads that it was forgotten meanwhile.
    #[test]
    fn a_commit_is_not_made_twice() {
        let (memory, repository) = new_repository();
        let run = Run::new(&repository);
        let seq = run.done();
        assert_eq!(run.done(), seq);
        assert_eq!(repository.read_state().unwrap().seq(), seq);
        repository.forget(&[run.record.name()]).unwrap();
        let error = run.commit().unwrap_err();
        assert!(
            matches!(error, StoreError::Forgotten { .. }) && error.exit_code() == 5,
            "{error}"
        );

        // The create is done, and then the store is gone.
        let faulty = Arc::new(Faulty::new(Arc::new(memory.clone()), None));
        let repository = Arc::new(testing::open(faulty.clone(), 7));
        let run = Run::new(&repository);
        let end = repository.read_state().unwrap().seq();
        // The operations of the commit: read n+1, list, sync, create.
        faulty.plan(Some(Fault {
            first: faulty.operations() + 4,
            count: 1 + u64::from(TRIES_MAX) + 1,
            ..Fault::lost_answer(1)
        }));
        let error = run.commit().unwrap_err();
        assert!(
            matches!(error, StoreError::Unclear { seq, .. } if seq == end + 1),
            "{error}"
        );
        faulty.plan(None);
        assert!(memory.contents().contains_key(&ObjectName::log(end + 1)));
        assert_eq!(run.done(), end + 1);
        assert_eq!(repository.read_state().unwrap().seq(), end + 1);
    }

    #[test]
    fn runs_of_a_dead_session_are_adopted_by_name() {
        let (memory, repository) = new_repository();
        let dead = Run::new(&repository);
        let mut run = Run::new(&repository);
        run.runs.extend(run.session.adopt_run(&dead.run()).unwrap());
        run.done();
        assert!(repository.known_state().index().contains_key(&dead.run()));
        // One of which a pack is gone is not.
        let dead = Run::new(&repository);
        memory.remove(&ObjectName::hashed(ObjectKind::Pack, dead.pack.0));
        assert!(run.session.adopt_run(&dead.run()).is_err());
    }

    #[test]
    fn an_entry_that_the_fold_refuses_is_never_created() {
        let (_, repository) = new_repository();
        let run = Run::new(&repository);
        let state = repository.read_state().unwrap();
        let twice = state.validated(Action::Snapshot {
            record: run.record.name(),
            runs: vec![],
            session: 77,
        });
        let error = repository
            .create_next(Arc::clone(&state), twice)
            .unwrap_err();
        assert!(matches!(error, StoreError::Refused(_)), "{error}");
        assert_eq!(repository.read_state().unwrap().seq(), state.seq());
    }

    #[test]
    fn heartbeats_count_up() {
        let (memory, repository) = new_repository();
        let session = repository.open_session().unwrap();
        session.beat().unwrap();
        session.beat().unwrap();
        for count in 0..2 {
            assert!(memory.contents()[&ObjectName::heartbeat(session.number(), count)].is_empty());
        }
    }
}
