//! Append: the one way to change anything, and the tests that come before it.
//!
//! Read forward to the end n, test the entry on STATE(n), create `log/<n+1>` exclusively. Was anybody faster, his entries are read and
//! everything is tested again. After any unclear answer `log/<n+1>` is read back: these bytes: won; absent: the same bytes at the same
//! number again; else lost. So whoever creates n+1 has tested it on exactly the state that it follows.
//!
//! The writer's test W(n), for a snapshot ([`State::validate_snapshot`]):
//! - a: its record, its own and adopted runs, and every pack that these name are not condemned;
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
use crate::format::log::{Action, LogEntry};

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
    /// Own and adopted packs: their chunks must be stored again.
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
        }
    }
}

impl Repository {
    /// Appends what `decide` makes of the state at the end of the log. It is asked again whenever somebody else was faster, and must then
    /// test everything again.
    pub fn append<G>(
        &self,
        decide: &mut dyn FnMut(&Arc<State>) -> Result<Decision<G>, StoreError>,
    ) -> Result<Outcome<G>, StoreError> {
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
        next.fold(&entry, ObjectHash::of(&bytes), self)
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
