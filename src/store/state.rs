//! STATE(n): what the entries 1…n of the commit log say, as a pure fold.
//!
//! The log is the database. Which snapshots live, which runs are the index, what is condemned and which sessions are open follows from the
//! entries alone, and from the immutable objects that they name, which a [`Named`] loads. Nothing here reads a backend, lists, or deletes.
//!
//! ```text
//! live      = records of snapshot entries − forgotten (for ever)
//! index     = (runs of snapshot entries ∪ runs added by gc lists) − condemned runs
//! condemned = union of all gc lists that entries name; checkpoints but the newest; heartbeats of sessions that ended;
//!             lifted quarantines; removed keys. It only grows.
//! sessions  = opened − committed − expired; each with the records that were live when it began
//! roots     = live ∪ those of all open sessions
//! ```
//!
//! Invariants: every fold asserts these; a violation is damage of the log and names the entry ([`BrokenEntry`]).
//! 1. Numbers have no gap, each entry holds the hash of the one before (`the_chain_is_checked`).
//! 2. A snapshot's record is new and not condemned, none of its runs is condemned, nor a pack that those name (`snapshots_are_checked`).
//!    What later entries condemn may be gone when an entry is read: the part about packs is tested where the run is at hand
//!    ([`Named::run_packs`]), and by [`State::check_run`] whenever a run of the index is loaded (`a_run_is_checked_when_it_is_loaded`).
//! 3. Only live records are forgotten, and they never come back (`forget_is_checked`).
//! 4. A gc list condemns no root, no list that an entry names, no run that it adds, and no pack drops out of the index uncondemned
//!    (`gc_is_checked`).
//! 5. Only an open session expires (`expire_is_checked`).
//! 6. A [`Condemned`] token, which is all that a backend deletes, comes from here alone, and only for what entries ≤ n condemn
//!    (`only_the_condemned_can_be_deleted`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::error::StoreError;
use crate::backend::{Condemned, ObjectKind, ObjectName};
use crate::format::id::ObjectHash;
use crate::format::log::{Action, GcList, LogEntry, Quarantine};

/// Loads what entries name.
pub trait Named {
    /// A gc list. Those that an entry names are never deleted.
    fn gc_list(&self, name: &ObjectHash) -> Result<GcList, StoreError>;
    /// A quarantine object; `None` if it is gone, as those that were lifted may be.
    fn quarantine(&self, name: &ObjectHash) -> Result<Option<Quarantine>, StoreError>;
    /// The packs that a run names, if they are at hand; a run that a later entry condemned may be gone.
    fn run_packs(&self, name: &ObjectHash) -> Option<Arc<[ObjectHash]>>;
}

/// An entry that breaks the rules of the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("log/{seq:016} is damaged: {why}")]
pub struct BrokenEntry {
    /// Number of the entry.
    pub seq: u64,
    /// Which rule it breaks.
    pub why: Violation,
}

/// The rule that an entry breaks, or would break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Another number than its name says.
    #[error("it says that it is entry {0}")]
    Number(u64),
    /// The hash of the entry before is another one.
    #[error("it does not follow the entry before it")]
    Chain,
    /// The newest checkpoint is another one.
    #[error("it names entry {0} as the newest checkpoint")]
    Checkpoint(u64),
    /// The record of a snapshot was named before.
    #[error("its snapshot record was committed before")]
    RecordNamedBefore,
    /// The object that it names is condemned.
    #[error("it names {0}, which is condemned")]
    NamesCondemned(ObjectName),
    /// A run that it names names a condemned pack.
    #[error("index run {run} names {pack}, which was condemned before")]
    RunNamesCondemned {
        /// The run.
        run: ObjectHash,
        /// The pack.
        pack: ObjectHash,
    },
    /// It forgets what is not a live snapshot.
    #[error("it forgets {0}, which is no live snapshot")]
    NotLive(ObjectHash),
    /// It ends a session that is not open.
    #[error("it ends session {0}, which is not open")]
    NotOpen(u64),
    /// A snapshot of a session that can't have been there.
    #[error("it commits for session {0}, which did not exist")]
    NoSession(u64),
    /// The record of a root is on a gc list.
    #[error("its gc list condemns snapshot {0}, which is needed")]
    CondemnsRoot(ObjectHash),
    /// A gc list that an entry names is on a gc list.
    #[error("its gc list condemns gc list {0}, which the log names")]
    CondemnsNamedList(ObjectHash),
    /// A run that is added is condemned.
    #[error("its gc list adds run {0}, which is condemned")]
    AddsCondemnedRun(ObjectHash),
    /// A pack drops out of the index.
    #[error("pack {0} is not condemned and no longer named by the index")]
    DropsPack(ObjectHash),
    /// Something is condemned that is in force or is never condemned.
    #[error("its gc list condemns {0}, which it must not")]
    CondemnsInForce(ObjectName),
    /// It lifts a quarantine that is not in force.
    #[error("it lifts quarantine {0}, which is not in force")]
    NotInForce(ObjectHash),
}

/// A session that is open.
#[derive(Clone, Debug)]
pub struct OpenSession {
    roots: LiveRecords,
}

/// Live records, and the number of the entry that committed each.
pub type LiveRecords = Arc<BTreeMap<ObjectHash, u64>>;

/// STATE(n).
#[derive(Clone, Debug, Default)]
pub struct State {
    seq: u64,
    hash: ObjectHash,
    live: LiveRecords,
    /// Record → the entry that forgot it.
    forgotten: HashMap<ObjectHash, u64>,
    /// Run → the entry that made it part of the index.
    index: BTreeMap<ObjectHash, u64>,
    /// What gc lists and key, quarantine and checkpoint entries condemn → the first entry that does.
    condemned: HashMap<ObjectName, u64>,
    /// gc lists that entries name.
    lists: HashSet<ObjectHash>,
    sessions: BTreeMap<u64, OpenSession>,
    /// Quarantines in force; the content once it is loaded.
    quarantines: BTreeMap<ObjectHash, Option<Arc<Quarantine>>>,
    keys: BTreeSet<ObjectHash>,
    checkpoint: u64,
    checkpoint_object: Option<ObjectHash>,
}

impl State {
    /// STATE(0): an empty log.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Number of the last entry that is folded in.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Hash of that entry's stored bytes; zero before the first.
    pub fn hash(&self) -> ObjectHash {
        self.hash
    }

    /// Number of the newest checkpoint entry; 0 where there is none.
    pub fn checkpoint(&self) -> u64 {
        self.checkpoint
    }

    /// Live snapshots: record → the entry that committed it.
    pub fn live(&self) -> &LiveRecords {
        &self.live
    }

    /// True for the record of a live snapshot.
    pub fn is_live(&self, record: &ObjectHash) -> bool {
        self.live.contains_key(record)
    }

    /// The entry that forgot this record.
    pub fn forgotten_by(&self, record: &ObjectHash) -> Option<u64> {
        self.forgotten.get(record).copied()
    }

    /// Records whose chunks must stay: live ones, and those that were live when an open session began.
    pub fn roots(&self) -> BTreeSet<ObjectHash> {
        let pinned = self
            .sessions
            .values()
            .flat_map(|session| session.roots.keys());
        self.live.keys().chain(pinned).copied().collect()
    }

    /// True for what [`State::roots`] holds.
    pub fn is_root(&self, record: &ObjectHash) -> bool {
        self.is_live(record)
            || self
                .sessions
                .values()
                .any(|session| session.roots.contains_key(record))
    }

    /// The runs that are the index: run → the entry that added it.
    pub fn index(&self) -> &BTreeMap<ObjectHash, u64> {
        &self.index
    }

    /// Numbers of the open sessions.
    pub fn sessions(&self) -> impl Iterator<Item = u64> {
        self.sessions.keys().copied()
    }

    /// True for an open session.
    pub fn is_open(&self, session: u64) -> bool {
        self.sessions.contains_key(&session)
    }

    /// Key objects that entries added and none removed; those of the first day are not among them.
    pub fn keys(&self) -> &BTreeSet<ObjectHash> {
        &self.keys
    }

    /// Quarantine objects in force.
    pub fn quarantines(&self) -> impl Iterator<Item = &ObjectHash> {
        self.quarantines.keys()
    }

    /// True if an entry names this gc list.
    pub fn names_list(&self, list: &ObjectHash) -> bool {
        self.lists.contains(list)
    }

    /// The token that lets a backend delete `name`, if the log condemns it.
    pub fn condemned(&self, name: &ObjectName) -> Option<Condemned> {
        let ended = |session: u64| session <= self.seq && !self.is_open(session);
        let heartbeat = name
            .session_and_count()
            .is_some_and(|(session, _)| ended(session));
        (heartbeat || self.condemned.contains_key(name)).then(|| Condemned::new(*name))
    }

    /// Everything that entries condemn by name; heartbeats are found by listing them.
    pub fn all_condemned(&self) -> impl Iterator<Item = Condemned> {
        self.condemned.keys().map(|name| Condemned::new(*name))
    }

    /// True for a condemned pack: it is never used again, even if it is still there.
    pub fn is_condemned_pack(&self, pack: &ObjectHash) -> bool {
        self.is_condemned(ObjectKind::Pack, pack)
    }

    /// True for a pack that a writer must not rely on: condemned, or known to be damaged in whole or in part.
    pub fn is_unusable_pack(&self, pack: &ObjectHash) -> bool {
        self.is_condemned_pack(pack) || self.is_quarantined_pack(pack)
    }

    /// Whether any pack is unusable.
    pub fn has_unusable_packs(&self) -> bool {
        let mut condemned = self.condemned.keys();
        !self.quarantines.is_empty() || condemned.any(|name| name.kind() == ObjectKind::Pack)
    }

    /// True for a pack of which a quarantine in force names all or a frame.
    pub fn is_quarantined_pack(&self, pack: &ObjectHash) -> bool {
        self.quarantines.values().flatten().any(|quarantine| {
            quarantine.packs.contains(pack)
                || quarantine.frames.iter().any(|(name, _)| name == pack)
        })
    }

    /// True if the log condemns this object.
    pub fn is_condemned(&self, kind: ObjectKind, hash: &ObjectHash) -> bool {
        self.condemned
            .contains_key(&ObjectName::hashed(kind, hash.0))
    }

    /// Checks the packs that a loaded run of the index names: none was condemned before the run became part of the index.
    pub fn check_run(&self, run: &ObjectHash, packs: &[ObjectHash]) -> Result<(), BrokenEntry> {
        let Some(&added) = self.index.get(run) else {
            return Ok(());
        };
        for pack in packs {
            let condemned = self
                .condemned
                .get(&ObjectName::hashed(ObjectKind::Pack, pack.0));
            if condemned.is_some_and(|by| *by <= added) {
                let why = Violation::RunNamesCondemned {
                    run: *run,
                    pack: *pack,
                };
                return Err(BrokenEntry { seq: added, why });
            }
        }
        Ok(())
    }

    /// Folds the next entry in; `stored_hash` is the hash of its stored bytes. After an error the state is as before.
    pub fn fold(
        &mut self,
        entry: &LogEntry,
        stored_hash: ObjectHash,
        named: &dyn Named,
    ) -> Result<(), StoreError> {
        self.check_chain(entry).map_err(|why| self.broken(why))?;
        let list = match &entry.action {
            Action::Gc { list } => Some(named.gc_list(list)?),
            _ => None,
        };
        self.fold_with(entry, stored_hash, list, named)
    }

    /// As [`State::fold`], with the content of the gc list at hand.
    pub(super) fn fold_with(
        &mut self,
        entry: &LogEntry,
        stored_hash: ObjectHash,
        list: Option<GcList>,
        named: &dyn Named,
    ) -> Result<(), StoreError> {
        self.check_chain(entry).map_err(|why| self.broken(why))?;
        self.check_action(&entry.action, list.as_ref(), named)
            .map_err(|why| self.broken(why))?;
        self.apply(entry.seq, &entry.action, list.unwrap_or_default());
        self.seq = entry.seq;
        self.hash = stored_hash;
        Ok(())
    }

    fn broken(&self, why: Violation) -> StoreError {
        let seq = self.seq + 1;
        StoreError::BrokenLog(BrokenEntry { seq, why })
    }

    /// Loads the quarantines in force that are not loaded yet; false if one is gone, which is damage unless a later entry lifted it.
    pub fn load_quarantines(&mut self, named: &dyn Named) -> Result<bool, StoreError> {
        let mut complete = true;
        for (name, content) in &mut self.quarantines {
            if content.is_none() {
                *content = named.quarantine(name)?.map(Arc::new);
                complete &= content.is_some();
            }
        }
        Ok(complete)
    }

    /// The first quarantine in force whose content could not be loaded.
    pub fn missing_quarantine(&self) -> Option<ObjectHash> {
        self.quarantines
            .iter()
            .find(|(_, content)| content.is_none())
            .map(|(name, _)| *name)
    }

    fn check_chain(&self, entry: &LogEntry) -> Result<(), Violation> {
        if entry.seq != self.seq + 1 {
            return Err(Violation::Number(entry.seq));
        }
        if entry.previous != self.hash {
            return Err(Violation::Chain);
        }
        if entry.checkpoint != self.checkpoint {
            return Err(Violation::Checkpoint(entry.checkpoint));
        }
        Ok(())
    }

    /// Whether `action` may follow this state; `list` is the content of its gc list.
    pub(super) fn check_action(
        &self,
        action: &Action,
        list: Option<&GcList>,
        named: &dyn Named,
    ) -> Result<(), Violation> {
        match action {
            Action::Session => Ok(()),
            Action::Expire { session } if self.is_open(*session) => Ok(()),
            Action::Expire { session } => Err(Violation::NotOpen(*session)),
            Action::Snapshot {
                record,
                runs,
                session,
            } => self.check_snapshot(record, runs, *session, named),
            Action::Forget { records } => self.check_forget(records),
            Action::Gc { list: name } => {
                self.check_uncondemned(ObjectKind::Gc, name)?;
                list.map_or(Ok(()), |list| self.check_gc(name, list, named))
            }
            Action::Key { added, removed: _ } => added
                .iter()
                .try_for_each(|key| self.check_uncondemned(ObjectKind::Key, key)),
            Action::Quarantine {
                object,
                lifted: false,
            } => self.check_uncondemned(ObjectKind::Quarantine, object),
            Action::Quarantine {
                object,
                lifted: true,
            } => match self.quarantines.contains_key(object) {
                true => Ok(()),
                false => Err(Violation::NotInForce(*object)),
            },
            Action::Checkpoint { object } => self.check_uncondemned(ObjectKind::Checkpoint, object),
        }
    }

    fn check_uncondemned(&self, kind: ObjectKind, hash: &ObjectHash) -> Result<(), Violation> {
        match self.is_condemned(kind, hash) {
            true => Err(Violation::NamesCondemned(ObjectName::hashed(kind, hash.0))),
            false => Ok(()),
        }
    }

    fn check_snapshot(
        &self,
        record: &ObjectHash,
        runs: &[ObjectHash],
        session: u64,
        named: &dyn Named,
    ) -> Result<(), Violation> {
        if self.is_live(record) || self.forgotten.contains_key(record) {
            return Err(Violation::RecordNamedBefore);
        }
        if session == 0 || session > self.seq {
            return Err(Violation::NoSession(session));
        }
        self.check_uncondemned(ObjectKind::Snapshot, record)?;
        for run in runs {
            self.check_uncondemned(ObjectKind::Index, run)?;
            self.check_packs_of(run, &HashSet::new(), named)?;
        }
        Ok(())
    }

    /// None of the packs that a new run names is condemned, or is by the list that is about to be folded in.
    fn check_packs_of(
        &self,
        run: &ObjectHash,
        listed: &HashSet<ObjectHash>,
        named: &dyn Named,
    ) -> Result<(), Violation> {
        let packs = named.run_packs(run).unwrap_or_default();
        match packs
            .iter()
            .find(|pack| self.is_condemned_pack(pack) || listed.contains(pack))
        {
            Some(pack) => Err(Violation::RunNamesCondemned {
                run: *run,
                pack: *pack,
            }),
            None => Ok(()),
        }
    }

    fn check_forget(&self, records: &[ObjectHash]) -> Result<(), Violation> {
        let mut seen = HashSet::new();
        match records
            .iter()
            .find(|record| !self.is_live(record) || !seen.insert(**record))
        {
            Some(record) => Err(Violation::NotLive(*record)),
            None => Ok(()),
        }
    }

    fn check_gc(
        &self,
        name: &ObjectHash,
        list: &GcList,
        named: &dyn Named,
    ) -> Result<(), Violation> {
        if let Some(root) = list.records.iter().find(|record| self.is_root(record)) {
            return Err(Violation::CondemnsRoot(*root));
        }
        if let Some(other) = list
            .lists
            .iter()
            .find(|other| self.names_list(other) || *other == name)
        {
            return Err(Violation::CondemnsNamedList(*other));
        }
        if let Some(other) = list
            .others
            .iter()
            .filter_map(|text| ObjectName::parse(text))
            .find(|o| !self.may_condemn(o))
        {
            return Err(Violation::CondemnsInForce(other));
        }
        let listed_packs: HashSet<_> = list.packs.iter().copied().collect();
        let listed_runs: HashSet<_> = list.runs.iter().copied().collect();
        for run in &list.added_runs {
            if self.is_condemned(ObjectKind::Index, run) || listed_runs.contains(run) {
                return Err(Violation::AddsCondemnedRun(*run));
            }
            self.check_packs_of(run, &listed_packs, named)?;
        }
        self.check_no_pack_drops(list, &listed_packs, &listed_runs, named)
    }

    /// What a gc list may condemn by its whole name.
    fn may_condemn(&self, name: &ObjectName) -> bool {
        let hash = name.hash().map(ObjectHash);
        match name.kind() {
            ObjectKind::Checkpoint => hash != self.checkpoint_object,
            ObjectKind::Quarantine => hash.is_none_or(|hash| !self.quarantines.contains_key(&hash)),
            ObjectKind::Ledger | ObjectKind::Map => true,
            _ => false,
        }
    }

    /// Every pack that the index names is condemned or still named afterwards. It can be tested only while the runs are at hand.
    fn check_no_pack_drops(
        &self,
        list: &GcList,
        listed_packs: &HashSet<ObjectHash>,
        listed_runs: &HashSet<ObjectHash>,
        named: &dyn Named,
    ) -> Result<(), Violation> {
        let gone = |pack: &ObjectHash| self.is_condemned_pack(pack) || listed_packs.contains(pack);
        let mut leaving = BTreeSet::new();
        for run in self.index.keys().filter(|run| listed_runs.contains(run)) {
            let packs = named.run_packs(run).unwrap_or_default();
            leaving.extend(packs.iter().copied().filter(|pack| !gone(pack)));
        }
        let staying = self
            .index
            .keys()
            .filter(|run| !listed_runs.contains(run))
            .chain(&list.added_runs);
        for run in staying {
            if leaving.is_empty() {
                break;
            }
            // A run that is not at hand may name any of them.
            let Some(packs) = named.run_packs(run) else {
                return Ok(());
            };
            for pack in packs.iter() {
                leaving.remove(pack);
            }
        }
        leaving
            .first()
            .map_or(Ok(()), |pack| Err(Violation::DropsPack(*pack)))
    }

    fn apply(&mut self, seq: u64, action: &Action, list: GcList) {
        match action {
            Action::Session => {
                self.sessions.insert(
                    seq,
                    OpenSession {
                        roots: Arc::clone(&self.live),
                    },
                );
            }
            Action::Expire { session } => {
                self.sessions.remove(session);
            }
            Action::Snapshot {
                record,
                runs,
                session,
            } => {
                Arc::make_mut(&mut self.live).insert(*record, seq);
                for run in runs {
                    self.index.entry(*run).or_insert(seq);
                }
                self.sessions.remove(session);
            }
            Action::Forget { records } => {
                for record in records {
                    Arc::make_mut(&mut self.live).remove(record);
                    self.forgotten.insert(*record, seq);
                }
            }
            Action::Gc { list: name } => {
                self.lists.insert(*name);
                self.apply_gc(seq, &list);
            }
            Action::Key { added, removed } => self.apply_keys(seq, added, removed),
            Action::Quarantine {
                object,
                lifted: false,
            } => {
                self.quarantines.entry(*object).or_default();
            }
            Action::Quarantine {
                object,
                lifted: true,
            } => {
                self.quarantines.remove(object);
                self.condemn(seq, ObjectName::hashed(ObjectKind::Quarantine, object.0));
            }
            Action::Checkpoint { object } => {
                if let Some(older) = self
                    .checkpoint_object
                    .replace(*object)
                    .filter(|older| older != object)
                {
                    self.condemn(seq, ObjectName::hashed(ObjectKind::Checkpoint, older.0));
                }
                self.checkpoint = seq;
            }
        }
    }

    fn apply_gc(&mut self, seq: u64, list: &GcList) {
        for (kind, hashes) in [
            (ObjectKind::Pack, &list.packs),
            (ObjectKind::Index, &list.runs),
            (ObjectKind::Snapshot, &list.records),
            (ObjectKind::Gc, &list.lists),
        ] {
            for hash in hashes {
                self.condemn(seq, ObjectName::hashed(kind, hash.0));
            }
        }
        // A name that this version can't read is of a kind that it never uses; whoever knows it may delete it.
        for other in list
            .others
            .iter()
            .filter_map(|text| ObjectName::parse(text))
        {
            self.condemn(seq, other);
        }
        for run in &list.runs {
            self.index.remove(run);
        }
        for run in &list.added_runs {
            self.index.entry(*run).or_insert(seq);
        }
    }

    fn apply_keys(&mut self, seq: u64, added: &[ObjectHash], removed: &[ObjectHash]) {
        self.keys.extend(added);
        for key in removed {
            self.keys.remove(key);
            self.condemn(seq, ObjectName::key(key.0));
            self.condemn(seq, ObjectName::key_copy(key.0));
        }
    }

    fn condemn(&mut self, seq: u64, name: ObjectName) {
        self.condemned.entry(name).or_insert(seq);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::id::Nonce;

    /// What entries name, in memory.
    #[derive(Default)]
    struct Objects {
        lists: HashMap<ObjectHash, GcList>,
        quarantines: HashMap<ObjectHash, Quarantine>,
        runs: HashMap<ObjectHash, Vec<ObjectHash>>,
    }

    impl Named for Objects {
        fn gc_list(&self, name: &ObjectHash) -> Result<GcList, StoreError> {
            self.lists
                .get(name)
                .cloned()
                .ok_or_else(|| StoreError::damaged(name, "it is gone"))
        }
        fn quarantine(&self, name: &ObjectHash) -> Result<Option<Quarantine>, StoreError> {
            Ok(self.quarantines.get(name).cloned())
        }
        fn run_packs(&self, name: &ObjectHash) -> Option<Arc<[ObjectHash]>> {
            self.runs.get(name).map(|packs| packs.as_slice().into())
        }
    }

    fn h(n: u8) -> ObjectHash {
        ObjectHash([n; 32])
    }

    fn entry(state: &State, action: Action) -> LogEntry {
        LogEntry {
            seq: state.seq() + 1,
            previous: state.hash(),
            nonce: Nonce([0; 16]),
            checkpoint: state.checkpoint(),
            action,
            written_at: 0,
            written_by: String::new(),
        }
    }

    fn try_fold(state: &mut State, objects: &Objects, action: Action) -> Result<(), Violation> {
        let entry = entry(state, action);
        let stored = ObjectHash::of(&minicbor::to_vec(&entry).unwrap());
        match state.fold(&entry, stored, objects) {
            Ok(()) => Ok(()),
            Err(StoreError::BrokenLog(broken)) => {
                assert_eq!(broken.seq, entry.seq);
                Err(broken.why)
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn folded(objects: &Objects, actions: impl IntoIterator<Item = Action>) -> State {
        let mut state = State::empty();
        for action in actions {
            try_fold(&mut state, objects, action).unwrap();
        }
        state
    }

    fn snapshot(record: u8, runs: &[u8], session: u64) -> Action {
        Action::Snapshot {
            record: h(record),
            runs: runs.iter().map(|run| h(*run)).collect(),
            session,
        }
    }

    fn forget(records: &[u8]) -> Action {
        Action::Forget {
            records: records.iter().map(|record| h(*record)).collect(),
        }
    }

    /// Folds `actions`, then expects `last` to be refused, and the state to be unchanged by it.
    fn check_refused(objects: &Objects, actions: Vec<Action>, last: Action, why: Violation) {
        let mut state = folded(objects, actions);
        let before = (
            state.seq(),
            state.hash(),
            state.roots(),
            state.index().clone(),
        );
        assert_eq!(try_fold(&mut state, objects, last), Err(why));
        assert_eq!(
            before,
            (
                state.seq(),
                state.hash(),
                state.roots(),
                state.index().clone()
            )
        );
    }

    #[test]
    fn kinds_fold() {
        let objects = Objects {
            lists: HashMap::from([(
                h(90),
                GcList {
                    packs: vec![h(30)],
                    runs: vec![h(20)],
                    records: vec![h(1)],
                    lists: vec![h(91)],
                    added_runs: vec![h(22)],
                    others: vec![format!("ledger/{}", h(70)), "later/thing".into()],
                },
            )]),
            runs: HashMap::from([(h(20), vec![h(30), h(31)]), (h(22), vec![h(31)])]),
            ..Objects::default()
        };
        let mut state = folded(
            &objects,
            [Action::Session, snapshot(1, &[20], 1), Action::Session],
        );
        assert_eq!(
            (state.seq(), state.sessions().collect::<Vec<_>>()),
            (3, vec![3])
        );
        assert!(state.is_live(&h(1)) && state.index().contains_key(&h(20)));

        try_fold(&mut state, &objects, snapshot(2, &[21], 3)).unwrap();
        try_fold(&mut state, &objects, Action::Session).unwrap();
        try_fold(&mut state, &objects, forget(&[1])).unwrap();
        assert!(
            !state.is_live(&h(1)) && state.is_root(&h(1)),
            "pinned by session 5"
        );
        assert_eq!(state.roots(), BTreeSet::from([h(1), h(2)]));
        assert_eq!(state.forgotten_by(&h(1)), Some(6));
        try_fold(&mut state, &objects, Action::Expire { session: 5 }).unwrap();
        assert_eq!(state.roots(), BTreeSet::from([h(2)]));

        try_fold(&mut state, &objects, Action::Gc { list: h(90) }).unwrap();
        assert!(state.is_condemned_pack(&h(30)) && !state.is_condemned_pack(&h(31)));
        assert!(
            state.is_condemned(ObjectKind::Index, &h(20))
                && state.is_condemned(ObjectKind::Gc, &h(91))
        );
        assert!(
            state.is_condemned(ObjectKind::Snapshot, &h(1))
                && state.is_condemned(ObjectKind::Ledger, &h(70))
        );
        assert_eq!(
            state.index().keys().copied().collect::<Vec<_>>(),
            vec![h(21), h(22)]
        );
        assert!(state.names_list(&h(90)));

        try_fold(
            &mut state,
            &objects,
            Action::Key {
                added: vec![h(50)],
                removed: vec![h(51)],
            },
        )
        .unwrap();
        assert!(state.keys().contains(&h(50)));
        assert!(state.condemned(&ObjectName::key_copy(h(51).0)).is_some());
        try_fold(
            &mut state,
            &objects,
            Action::Key {
                added: vec![],
                removed: vec![h(50)],
            },
        )
        .unwrap();
        assert!(state.keys().is_empty());

        try_fold(&mut state, &objects, Action::Checkpoint { object: h(60) }).unwrap();
        assert_eq!(state.checkpoint(), 11);
        try_fold(&mut state, &objects, Action::Checkpoint { object: h(61) }).unwrap();
        assert!(state.is_condemned(ObjectKind::Checkpoint, &h(60)));
        assert!(!state.is_condemned(ObjectKind::Checkpoint, &h(61)));
    }

    #[test]
    fn the_chain_is_checked() {
        let objects = Objects::default();
        let mut state = folded(
            &objects,
            [Action::Session, Action::Checkpoint { object: h(1) }],
        );
        let good = entry(&state, Action::Session);
        let check = |bad: LogEntry, why: Violation| {
            let error = state.clone().fold(&bad, h(0), &objects).unwrap_err();
            let StoreError::BrokenLog(broken) = error else {
                panic!("{error}")
            };
            assert_eq!(broken, BrokenEntry { seq: 3, why });
        };
        check(
            LogEntry {
                seq: 2,
                ..good.clone()
            },
            Violation::Number(2),
        );
        check(
            LogEntry {
                seq: 4,
                ..good.clone()
            },
            Violation::Number(4),
        );
        check(
            LogEntry {
                previous: h(9),
                ..good.clone()
            },
            Violation::Chain,
        );
        check(
            LogEntry {
                checkpoint: 0,
                ..good.clone()
            },
            Violation::Checkpoint(0),
        );
        state.fold(&good, h(5), &objects).unwrap();
        assert_eq!(state.hash(), h(5));
    }

    #[test]
    fn snapshots_are_checked() {
        let lists = HashMap::from([(
            h(90),
            GcList {
                packs: vec![h(30)],
                runs: vec![h(20)],
                records: vec![h(5)],
                ..GcList::default()
            },
        )]);
        let runs = HashMap::from([(h(21), vec![h(31), h(30)]), (h(22), vec![h(31)])]);
        let objects = Objects {
            lists,
            runs,
            ..Objects::default()
        };
        let before = || {
            vec![
                Action::Session,
                snapshot(1, &[], 1),
                forget(&[1]),
                Action::Gc { list: h(90) },
                Action::Session,
            ]
        };
        let check = |last, why| check_refused(&objects, before(), last, why);
        check(snapshot(1, &[], 5), Violation::RecordNamedBefore);
        check(snapshot(2, &[], 6), Violation::NoSession(6));
        check(snapshot(2, &[], 0), Violation::NoSession(0));
        let condemned = |kind, n| Violation::NamesCondemned(ObjectName::hashed(kind, h(n).0));
        check(snapshot(5, &[], 5), condemned(ObjectKind::Snapshot, 5));
        check(snapshot(2, &[22, 20], 5), condemned(ObjectKind::Index, 20));
        check(
            snapshot(2, &[22, 21], 5),
            Violation::RunNamesCondemned {
                run: h(21),
                pack: h(30),
            },
        );
        let mut state = folded(&objects, before());
        try_fold(&mut state, &objects, snapshot(2, &[22], 5)).unwrap();
        check_refused(
            &objects,
            vec![Action::Session, snapshot(1, &[], 1)],
            snapshot(1, &[], 1),
            Violation::RecordNamedBefore,
        );
    }

    #[test]
    fn a_snapshot_of_an_expired_session_folds() {
        let actions = [
            Action::Session,
            Action::Expire { session: 1 },
            snapshot(1, &[2], 1),
        ];
        assert!(folded(&Objects::default(), actions).is_live(&h(1)));
    }

    #[test]
    fn a_run_is_checked_when_it_is_loaded() {
        let condemn = |pack| GcList {
            packs: vec![pack],
            ..GcList::default()
        };
        let objects = Objects {
            lists: HashMap::from([(h(90), condemn(h(30))), (h(91), condemn(h(31)))]),
            ..Objects::default()
        };
        let actions = [
            Action::Session,
            Action::Gc { list: h(90) },
            snapshot(1, &[20], 1),
            Action::Gc { list: h(91) },
        ];
        let state = folded(&objects, actions);
        state
            .check_run(&h(20), &[h(31), h(32)])
            .expect("condemned later");
        state.check_run(&h(99), &[h(30)]).expect("not in the index");
        let why = Violation::RunNamesCondemned {
            run: h(20),
            pack: h(30),
        };
        assert_eq!(
            state.check_run(&h(20), &[h(31), h(30)]),
            Err(BrokenEntry { seq: 3, why })
        );
    }

    #[test]
    fn forget_is_checked() {
        let before = || vec![Action::Session, snapshot(1, &[], 1)];
        let check = |before, last, record| {
            check_refused(
                &Objects::default(),
                before,
                last,
                Violation::NotLive(h(record)),
            )
        };
        check(before(), forget(&[2]), 2);
        check(before(), forget(&[1, 1]), 1);
        check([before(), vec![forget(&[1])]].concat(), forget(&[1]), 1);
    }

    #[test]
    fn expire_is_checked() {
        let check = |before, session| {
            let last = Action::Expire { session };
            check_refused(
                &Objects::default(),
                before,
                last,
                Violation::NotOpen(session),
            );
        };
        check(vec![], 1);
        check(vec![Action::Session, snapshot(1, &[], 1)], 1);
        check(vec![Action::Session, snapshot(1, &[], 1)], 2);
        check(vec![Action::Session, Action::Expire { session: 1 }], 1);
    }

    #[test]
    fn gc_is_checked() {
        let checkpoint = ObjectName::hashed(ObjectKind::Checkpoint, h(60).0);
        let quarantine = ObjectName::hashed(ObjectKind::Quarantine, h(61).0);
        let check = |list: GcList, why: Violation| {
            let lists = HashMap::from([
                (
                    h(90),
                    GcList {
                        runs: vec![h(29)],
                        ..GcList::default()
                    },
                ),
                (h(91), list),
            ]);
            let runs = [
                (20, vec![30, 31]),
                (21, vec![32]),
                (22, vec![31]),
                (23, vec![30]),
            ];
            let runs = runs.map(|(run, packs)| (h(run), packs.into_iter().map(h).collect()));
            let objects = Objects {
                lists,
                runs: HashMap::from(runs),
                ..Objects::default()
            };
            let before = vec![
                Action::Session,
                snapshot(1, &[20], 1),
                Action::Session,
                forget(&[1]),
                snapshot(2, &[21], 1),
                Action::Gc { list: h(90) },
                Action::Checkpoint { object: h(60) },
                Action::Quarantine {
                    object: h(61),
                    lifted: false,
                },
            ];
            check_refused(&objects, before, Action::Gc { list: h(91) }, why);
        };
        let list = GcList::default;
        check(
            GcList {
                records: vec![h(2)],
                ..list()
            },
            Violation::CondemnsRoot(h(2)),
        );
        check(
            GcList {
                records: vec![h(1)],
                ..list()
            },
            Violation::CondemnsRoot(h(1)),
        );
        check(
            GcList {
                lists: vec![h(90)],
                ..list()
            },
            Violation::CondemnsNamedList(h(90)),
        );
        check(
            GcList {
                lists: vec![h(91)],
                ..list()
            },
            Violation::CondemnsNamedList(h(91)),
        );
        let adds = |added, runs| GcList {
            added_runs: vec![h(added)],
            runs,
            ..list()
        };
        check(adds(29, vec![]), Violation::AddsCondemnedRun(h(29)));
        check(adds(22, vec![h(22)]), Violation::AddsCondemnedRun(h(22)));
        check(
            GcList {
                runs: vec![h(20)],
                ..list()
            },
            Violation::DropsPack(h(30)),
        );
        check(
            GcList {
                packs: vec![h(30)],
                runs: vec![h(20)],
                ..list()
            },
            Violation::DropsPack(h(31)),
        );
        check(
            GcList {
                packs: vec![h(30)],
                ..adds(23, vec![])
            },
            Violation::RunNamesCondemned {
                run: h(23),
                pack: h(30),
            },
        );
        for name in [
            checkpoint,
            quarantine,
            ObjectName::log(3),
            ObjectName::format(),
            ObjectName::key([1; 32]),
        ] {
            check(
                GcList {
                    others: vec![name.to_string()],
                    ..list()
                },
                Violation::CondemnsInForce(name),
            );
        }
    }

    #[test]
    fn a_condemned_list_is_no_entry() {
        let lists = HashMap::from([
            (
                h(90),
                GcList {
                    lists: vec![h(91)],
                    ..GcList::default()
                },
            ),
            (h(91), GcList::default()),
        ]);
        let objects = Objects {
            lists,
            ..Objects::default()
        };
        let why = Violation::NamesCondemned(ObjectName::hashed(ObjectKind::Gc, h(91).0));
        check_refused(
            &objects,
            vec![Action::Gc { list: h(90) }],
            Action::Gc { list: h(91) },
            why,
        );
    }

    #[test]
    fn a_merge_that_names_every_remaining_pack_folds() {
        let lists = HashMap::from([(
            h(90),
            GcList {
                packs: vec![h(30)],
                runs: vec![h(20), h(21)],
                added_runs: vec![h(22)],
                ..GcList::default()
            },
        )]);
        let runs = HashMap::from([
            (h(20), vec![h(30), h(31)]),
            (h(21), vec![h(32)]),
            (h(22), vec![h(31), h(32)]),
        ]);
        let objects = Objects {
            lists,
            runs,
            ..Objects::default()
        };
        let actions = [
            Action::Session,
            snapshot(1, &[20, 21], 1),
            Action::Gc { list: h(90) },
        ];
        let state = folded(&objects, actions);
        assert_eq!(state.index().clone(), BTreeMap::from([(h(22), 3)]));
        // Who reads it later finds the old runs gone.
        let later = Objects {
            runs: HashMap::new(),
            ..objects
        };
        let actions = [
            Action::Session,
            snapshot(1, &[20, 21], 1),
            Action::Gc { list: h(90) },
        ];
        assert_eq!(folded(&later, actions).index(), state.index());
    }

    #[test]
    fn quarantines_hold_until_they_are_lifted() {
        let content = Quarantine {
            packs: vec![h(30)],
            frames: vec![(h(31), 7)],
            reason: String::new(),
        };
        let objects = Objects {
            quarantines: HashMap::from([(h(61), content)]),
            ..Objects::default()
        };
        let mut state = folded(
            &objects,
            [Action::Quarantine {
                object: h(61),
                lifted: false,
            }],
        );
        assert_eq!(state.missing_quarantine(), Some(h(61)));
        assert!(state.load_quarantines(&objects).unwrap());
        for pack in [30, 31] {
            assert!(state.is_unusable_pack(&h(pack)) && !state.is_condemned_pack(&h(pack)));
        }
        try_fold(
            &mut state,
            &objects,
            Action::Quarantine {
                object: h(61),
                lifted: true,
            },
        )
        .unwrap();
        assert!(
            !state.is_unusable_pack(&h(30)) && state.is_condemned(ObjectKind::Quarantine, &h(61))
        );
        let again = Action::Quarantine {
            object: h(61),
            lifted: true,
        };
        assert_eq!(
            try_fold(&mut state, &objects, again),
            Err(Violation::NotInForce(h(61)))
        );
        let again = Action::Quarantine {
            object: h(61),
            lifted: false,
        };
        assert!(matches!(
            try_fold(&mut state, &objects, again),
            Err(Violation::NamesCondemned(_))
        ));
        // Who reads the log later needs the object no more, unless it is in force.
        let gone = Objects::default();
        let mut state = folded(
            &gone,
            [Action::Quarantine {
                object: h(61),
                lifted: false,
            }],
        );
        assert!(!state.load_quarantines(&gone).unwrap());
        try_fold(
            &mut state,
            &gone,
            Action::Quarantine {
                object: h(61),
                lifted: true,
            },
        )
        .unwrap();
        assert!(state.load_quarantines(&gone).unwrap());
    }

    #[test]
    fn only_the_condemned_can_be_deleted() {
        let lists = HashMap::from([(
            h(90),
            GcList {
                packs: vec![h(30)],
                ..GcList::default()
            },
        )]);
        let objects = Objects {
            lists,
            ..Objects::default()
        };
        let state = folded(
            &objects,
            [
                Action::Session,
                Action::Session,
                Action::Gc { list: h(90) },
                Action::Expire { session: 1 },
            ],
        );
        let token = |name: ObjectName| state.condemned(&name).map(|token| *token.name());
        let pack = ObjectName::hashed(ObjectKind::Pack, h(30).0);
        assert_eq!(token(pack), Some(pack));
        assert_eq!(token(ObjectName::hashed(ObjectKind::Pack, h(31).0)), None);
        assert_eq!(token(ObjectName::hashed(ObjectKind::Index, h(30).0)), None);
        assert!(
            token(ObjectName::heartbeat(1, 0)).is_some(),
            "its session ended"
        );
        assert!(
            token(ObjectName::heartbeat(3, 0)).is_some(),
            "no session has this number"
        );
        assert!(token(ObjectName::heartbeat(2, 0)).is_none(), "open");
        assert!(
            token(ObjectName::heartbeat(5, 0)).is_none(),
            "not known yet"
        );
        assert_eq!(
            state
                .all_condemned()
                .map(|token| *token.name())
                .collect::<Vec<_>>(),
            vec![pack]
        );
    }

    proptest::proptest! {
        /// Any order of any actions folds or is refused; condemned only grows, what was forgotten stays so, and an index holds nothing condemned.
        #[test]
        fn any_log_keeps_the_rules(steps in proptest::collection::vec((0u8..8, 0u8..6, 0u8..6), 0..60)) {
            let mut objects = Objects::default();
            for n in 0..6 {
                let list = GcList {
                    packs: vec![h(30 + n)],
                    runs: vec![h(20 + n)],
                    records: vec![h(1 + n)],
                    lists: vec![h(90 + (n + 1) % 6)],
                    added_runs: vec![h(20 + (n + 2) % 6)],
                    others: vec![],
                };
                objects.lists.insert(h(90 + n), list);
                objects.runs.insert(h(20 + n), vec![h(30 + n), h(30 + (n + 1) % 6)]);
                objects.quarantines.insert(h(60 + n), Quarantine::default());
            }
            let mut state = State::empty();
            for (kind, a, b) in steps {
                let action = match kind {
                    0 => Action::Session,
                    1 => Action::Expire { session: u64::from(a) + 1 },
                    2 | 3 => snapshot(1 + a, &[20 + b], u64::from(b) + 1),
                    4 => forget(&[1 + a]),
                    5 => Action::Gc { list: h(90 + a) },
                    6 => Action::Quarantine { object: h(60 + a), lifted: b % 2 == 0 },
                    _ => Action::Checkpoint { object: h(70 + a) },
                };
                let (condemned, forgotten) = (state.condemned.clone(), state.forgotten.clone());
                let folded = try_fold(&mut state, &objects, action).is_ok();
                proptest::prop_assert!(condemned.iter().all(|(name, seq)| state.condemned.get(name) == Some(seq)));
                proptest::prop_assert!(folded || condemned.len() == state.condemned.len());
                proptest::prop_assert!(forgotten.keys().all(|record| !state.is_live(record)));
                for run in state.index.keys() {
                    proptest::prop_assert!(!state.is_condemned(ObjectKind::Index, run));
                }
                proptest::prop_assert!(state.roots().iter().all(|record| !state.is_condemned(ObjectKind::Snapshot, record)));
            }
        }
    }
}
