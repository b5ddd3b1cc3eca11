//! A simulation of the commit protocol: writers, pruners, people who forget and expire, on one store, with races and lost answers.
//!
//! Everything comes from a seed, in one thread: a race is an action of somebody else between a test and its create. After every step the
//! invariants are checked by brute force:
//! - I(n): every chunk of every root is in an uncondemned pack that a run of the index names, and so is the pack on which frames of one are;
//! - E: everything that entries name and none condemns exists;
//! - at the end everybody dies, every session expires, and one prune leaves what the live snapshots need and nothing else.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use super::append::{Decision, Outcome};
use super::session::{Commit, PacksDurable, RecordDurable, RunsDurable, Session};
use super::state::State;
use super::testing::{self, run_of, store_pack};
use super::{Repository, StoreError};
use crate::backend::{Backend, Fault, Faulty, Memory, ObjectKind, ObjectName};
use crate::crypto::{Random, SeededRandom};
use crate::format::header::{Header, SealedKind};
use crate::format::id::ObjectHash;
use crate::format::index::RunPack;
use crate::format::log::GcList;
use crate::format::pack::Encoding;
use crate::format::snapshot::Record;

const CHUNKS: u8 = 6;

type Packs = BTreeMap<ObjectHash, (RunPack, BTreeSet<u8>)>;

struct Dice(SeededRandom);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        usize::try_from(u64::from_le_bytes(bytes) % u64::try_from(n).unwrap()).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.below(from.len())])
    }

    fn subset(&mut self) -> BTreeSet<u8> {
        (0..CHUNKS).filter(|_| self.one_in(2)).collect()
    }
}

/// Chunks of a record: the test's records carry them as their name.
fn chunks_of(record: &Record) -> BTreeSet<u8> {
    record
        .name
        .as_deref()
        .unwrap_or_default()
        .split_terminator(',')
        .map(|n| n.parse().unwrap())
        .collect()
}

fn record_of(chunks: &BTreeSet<u8>) -> Record {
    let name = chunks.iter().map(|chunk| format!("{chunk},")).collect();
    Record {
        name: Some(name),
        ..Record::default()
    }
}

/// The pack that frames of a pack are on.
fn base_of(pack: &RunPack) -> Option<ObjectHash> {
    pack.frames[0].base.map(|(base, _)| base)
}

/// Uncondemned packs of the index at `state`, with what they hold. An error is a run that is absent: the log went on.
fn index_of(repository: &Repository, state: &State) -> Result<Packs, StoreError> {
    let mut packs = Packs::new();
    for name in state.index().keys() {
        add_run(repository, name, &mut packs)?;
    }
    packs.retain(|pack, _| !state.is_condemned_pack(pack));
    Ok(packs)
}

fn add_run(
    repository: &Repository,
    name: &ObjectHash,
    packs: &mut Packs,
) -> Result<(), StoreError> {
    let run = repository.load_run(name)?;
    for pack in &run.packs {
        packs
            .entry(pack.name)
            .or_insert_with(|| (pack.clone(), BTreeSet::new()));
    }
    for entry in &run.entries {
        let pack = &run.packs[usize::try_from(entry.pack).unwrap()];
        packs.get_mut(&pack.name).unwrap().1.insert(entry.id.0[0]);
    }
    Ok(())
}

fn held(packs: &Packs) -> BTreeSet<u8> {
    packs
        .values()
        .flat_map(|(_, chunks)| chunks)
        .copied()
        .collect()
}

/// A run that makes a backup.
struct Writer {
    session: Session,
    target: BTreeSet<u8>,
    inherited: BTreeSet<u8>,
    parents: Vec<ObjectHash>,
    /// Chunks found in packs of others, by pack.
    reused: BTreeMap<ObjectHash, BTreeSet<u8>>,
    to_store: BTreeSet<u8>,
    /// Packs that own frames may be on.
    bases: Vec<ObjectHash>,
    own: Packs,
    durable: PacksDurable,
    runs: RunsDurable,
    record: Option<RecordDurable>,
}

impl Writer {
    fn new(session: Session, dice: &mut Dice) -> Result<Option<Self>, StoreError> {
        let state = Arc::clone(session.start());
        let repository = Arc::clone(session.repository());
        let Ok(index) = index_of(&repository, &state) else {
            return Ok(None);
        };
        let mut writer = Self {
            target: dice.subset(),
            inherited: BTreeSet::new(),
            parents: Vec::new(),
            reused: BTreeMap::new(),
            to_store: BTreeSet::new(),
            bases: {
                let alone = index.values().filter(|(pack, _)| base_of(pack).is_none());
                alone.map(|(pack, _)| pack.name).collect()
            },
            own: Packs::new(),
            durable: PacksDurable::default(),
            runs: RunsDurable::default(),
            record: None,
            session,
        };
        let live: Vec<_> = state.live().keys().copied().collect();
        if let Some(parent) = dice.pick(&live).filter(|_| dice.one_in(2)) {
            let Ok(record) = repository.load_record(&parent) else {
                return Ok(None);
            };
            writer.inherited = chunks_of(&record);
            writer.target.extend(&writer.inherited);
            writer.parents.push(parent);
        }
        let wanted: Vec<_> = writer
            .target
            .difference(&writer.inherited)
            .copied()
            .collect();
        writer.resolve(&index, wanted, dice);
        Ok(Some(writer))
    }

    /// Finds each chunk in the index, or puts it on the list of what is to be stored.
    fn resolve(&mut self, index: &Packs, wanted: Vec<u8>, dice: &mut Dice) {
        for chunk in wanted {
            let holders: Vec<_> = index
                .iter()
                .filter(|(_, (_, chunks))| chunks.contains(&chunk))
                .map(|(pack, _)| *pack)
                .collect();
            match dice.pick(&holders) {
                Some(pack) => drop(self.reused.entry(pack).or_default().insert(chunk)),
                None => drop(self.to_store.insert(chunk)),
            }
        }
    }

    /// One step; true when it is done.
    fn step(&mut self, dice: &mut Dice, interfere: &mut dyn FnMut()) -> Result<bool, StoreError> {
        if !self.to_store.is_empty() {
            let some: Vec<u8> = self
                .to_store
                .iter()
                .copied()
                .take(1 + dice.below(3))
                .collect();
            let (durable, mut pack) = store_pack(&self.session, &some)?;
            if let Some(base) = dice.pick(&self.bases).filter(|_| dice.one_in(2)) {
                pack.frames[0].base = Some((base, 0));
                pack.frames[0].encoding = Encoding::ZstdPrefix;
                self.reused.entry(base).or_default();
            }
            self.durable.extend(durable);
            self.to_store.retain(|chunk| !some.contains(chunk));
            self.own
                .insert(pack.name, (pack, some.into_iter().collect()));
            return Ok(false);
        }
        let named: BTreeSet<_> = self
            .runs
            .iter()
            .flat_map(|(_, packs)| packs.iter())
            .copied()
            .collect();
        let unnamed: Vec<_> = self
            .own
            .iter()
            .filter(|(pack, _)| !named.contains(pack))
            .collect();
        if !unnamed.is_empty() {
            let packs: Vec<_> = unnamed
                .iter()
                .map(|(_, (pack, chunks))| (pack.clone(), chunks.iter().copied().collect()))
                .collect();
            self.runs
                .extend(self.session.write_runs(&self.durable, &[run_of(&packs)])?);
            return Ok(false);
        }
        let Some(record) = self.record.clone() else {
            self.record = Some(
                self.session
                    .write_record(&record_of(&self.target), &self.runs)?,
            );
            return Ok(false);
        };
        interfere();
        let reused: HashSet<_> = self.reused.keys().copied().collect();
        match self
            .session
            .commit(&record, &self.runs, &reused, &self.parents)
        {
            Ok(Commit::Done { .. }) | Err(StoreError::Forgotten { .. }) => Ok(true),
            Ok(Commit::Lost { lost, state }) => self.repair(&lost, &state, dice).map(|()| false),
            Err(error) => Err(error),
        }
    }

    fn repair(
        &mut self,
        lost: &super::Lost,
        state: &State,
        dice: &mut Dice,
    ) -> Result<(), StoreError> {
        let index = index_of(self.session.repository(), state)?;
        let mut wanted = BTreeSet::new();
        self.bases.retain(|base| !state.is_unusable_pack(base));
        let own = std::mem::take(&mut self.own);
        for (name, (pack, chunks)) in own {
            let base = base_of(&pack);
            if lost.packs.contains(&name) || base.is_some_and(|base| lost.packs.contains(&base)) {
                self.to_store.extend(chunks);
            } else {
                self.own.insert(name, (pack, chunks));
            }
        }
        for pack in &lost.reused {
            wanted.extend(self.reused.remove(pack).unwrap());
        }
        if !lost.parents.is_empty() {
            self.parents.clear();
            wanted.append(&mut self.inherited);
        }
        self.runs.remove_lost(lost);
        if lost.record {
            self.record = None;
        }
        self.resolve(&index, wanted.into_iter().collect(), dice);
        Ok(())
    }
}

/// A gc list for `state`, in full or in part; `None` if the log went on meanwhile.
fn make_gc(
    repository: &Repository,
    state: &State,
    dice: &mut Dice,
    whole: bool,
) -> Result<Option<GcList>, StoreError> {
    let Ok(index) = index_of(repository, state) else {
        return Ok(None);
    };
    let mut kept = HashSet::new();
    for root in state.roots() {
        let Ok(record) = repository.load_record(&root) else {
            return Ok(None);
        };
        for chunk in chunks_of(&record) {
            let holders: Vec<_> = index
                .iter()
                .filter(|(_, (_, chunks))| chunks.contains(&chunk))
                .map(|(pack, _)| *pack)
                .collect();
            assert!(!holders.is_empty(), "the mark finds chunk {chunk} nowhere");
            if !holders.iter().any(|holder| kept.contains(holder)) {
                kept.insert(dice.pick(&holders).unwrap());
            }
        }
    }
    let merges = dice.one_in(3);
    // Whether it spares what belongs to open sessions must not matter for safety.
    let spares = dice.one_in(2);
    let backend = repository.backend();
    let mut candidates = |kind: ObjectKind| -> Result<Vec<ObjectHash>, StoreError> {
        let mut found = Vec::new();
        backend.list(kind, &mut |info| {
            found.extend(info.name.hash().map(ObjectHash))
        })?;
        found.retain(|hash| {
            let name = ObjectName::hashed(kind, hash.0);
            let Ok(bytes) = backend.get(&name, crate::backend::ByteRange::All) else {
                return false;
            };
            let session = Header::decode(&bytes).unwrap().session;
            state.condemned(&name).is_none()
                && !(spares && state.is_open(session))
                && (whole || !dice.one_in(4))
        });
        Ok(found)
    };
    let mut list = GcList {
        packs: candidates(ObjectKind::Pack)?,
        ..GcList::default()
    };
    kept.extend(
        index
            .values()
            .filter(|(pack, _)| kept.contains(&pack.name))
            .filter_map(|(pack, _)| base_of(pack))
            .collect::<Vec<_>>(),
    );
    list.packs.retain(|pack| !kept.contains(pack));
    // A pack goes together with all that have frames on it.
    for (pack, _) in index.values() {
        if !list.packs.contains(&pack.name) {
            list.packs.retain(|listed| Some(*listed) != base_of(pack));
        }
    }
    let listed: HashSet<_> = list.packs.iter().copied().collect();
    let gone = |pack: &ObjectHash| listed.contains(pack) || state.is_condemned_pack(pack);
    list.runs = candidates(ObjectKind::Index)?;
    let mut merged = Packs::new();
    list.runs.retain(|run| {
        let mut packs = Packs::new();
        let unnamed = !state.index().contains_key(run);
        if !unnamed && add_run(repository, run, &mut packs).is_err() {
            return false;
        }
        packs.retain(|pack, _| !gone(pack));
        let merge = merges && !packs.is_empty();
        if merge {
            merged.append(&mut packs);
        }
        unnamed || merge || packs.is_empty()
    });
    if !merged.is_empty() {
        let packs: Vec<_> = merged
            .into_values()
            .map(|(pack, chunks)| (pack, chunks.into_iter().collect()))
            .collect();
        let run = run_of(&packs);
        let name = repository.put_object(SealedKind::Index, 0, &run.encode())?;
        repository.keep_run_packs(&name, &run);
        list.added_runs.push(name);
    }
    list.records = candidates(ObjectKind::Snapshot)?;
    list.records.retain(|record| !state.is_root(record));
    list.lists = candidates(ObjectKind::Gc)?;
    list.lists.retain(|other| !state.names_list(other));
    Ok(Some(list))
}

/// Appends a gc entry, its list made again at each try, with `interfere` between the test and the create.
fn prune(
    repository: &Repository,
    dice: &mut Dice,
    whole: bool,
    interfere: &mut dyn FnMut(),
) -> Result<(), StoreError> {
    let mut decide = |state: &Arc<State>| {
        let Some(content) = make_gc(repository, state, dice, whole)? else {
            return Ok(Decision::GiveUp(()));
        };
        let list =
            repository.put_object(SealedKind::Gc, 0, &minicbor::to_vec(&content).unwrap())?;
        let validated = state
            .validate_gc_of_a_test(list, &content, repository)
            .unwrap();
        interfere();
        Ok(Decision::Append(validated))
    };
    match repository.append(&mut decide)? {
        Outcome::Appended(_) | Outcome::GaveUp(()) => Ok(()),
    }
}

fn delete_condemned(repository: &Repository, dice: &mut Dice, whole: bool) {
    let state = repository.read_state().unwrap();
    for condemned in state.all_condemned() {
        if whole || dice.one_in(2) {
            repository.backend().delete(&condemned).unwrap();
        }
    }
}

/// Everything that goes on in one seed.
struct World {
    memory: Memory,
    faulty: Arc<Faulty>,
    /// Sees the truth, without faults.
    observer: Arc<Repository>,
    clients: Vec<Arc<Repository>>,
    writers: Vec<Writer>,
    dice: Dice,
    commits: u32,
    repairs: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let memory = Memory::new();
        testing::create(Arc::new(memory.clone()), seed).unwrap();
        let faulty = Arc::new(Faulty::new(Arc::new(memory.clone()), None));
        let client = |n| Arc::new(testing::open(faulty.clone(), seed * 100 + n));
        Self {
            observer: Arc::new(testing::open(Arc::new(memory.clone()), seed * 100 + 99)),
            clients: (0..4).map(client).collect(),
            memory,
            faulty,
            writers: Vec::new(),
            dice: Dice(SeededRandom::new(seed)),
            commits: 0,
            repairs: 0,
        }
    }

    /// Something small that others do, without faults: it lands between a test and a create.
    fn meddle(observer: &Arc<Repository>, dice: &mut Dice) {
        let state = observer.read_state().unwrap();
        match dice.below(6) {
            0 => {
                let live: Vec<_> = state.live().keys().copied().collect();
                if let Some(record) = dice.pick(&live) {
                    observer.forget(&[record]).unwrap();
                }
            }
            1 => {
                let open: Vec<_> = state.sessions().collect();
                if let Some(session) = dice.pick(&open) {
                    observer.expire(session).unwrap();
                }
            }
            2 => {
                prune(observer, dice, false, &mut || {}).unwrap();
                delete_condemned(observer, dice, false);
            }
            _ => {}
        }
    }

    fn step(&mut self) {
        self.plan_a_fault();
        let client = Arc::clone(&self.clients[self.dice.below(self.clients.len())]);
        let (observer, mut other) = (Arc::clone(&self.observer), Dice(self.dice.0.clone()));
        other.below(2);
        let mut interfere = || Self::meddle(&observer, &mut other);
        let outcome = match self.dice.below(10) {
            0 | 1 if self.writers.len() < 3 => client.open_session().and_then(|session| {
                self.writers.extend(Writer::new(session, &mut self.dice)?);
                Ok(())
            }),
            2 => prune(&client, &mut self.dice, false, &mut interfere),
            3 => {
                interfere();
                Ok(())
            }
            4 => {
                delete_condemned(&self.observer, &mut self.dice, false);
                Ok(())
            }
            _ if self.writers.is_empty() => Ok(()),
            _ => self.step_a_writer(&mut interfere),
        };
        self.faulty.plan(None);
        if let Err(error) = outcome {
            assert!(!error.is_damage(), "{error}");
        }
        self.check();
    }

    fn step_a_writer(&mut self, interfere: &mut dyn FnMut()) -> Result<(), StoreError> {
        let position = self.dice.below(self.writers.len());
        let writer = &mut self.writers[position];
        let ready = writer.record.is_some() && writer.to_store.is_empty();
        let done = writer.step(&mut self.dice, interfere)?;
        if done {
            self.commits += 1;
            self.writers.swap_remove(position);
        } else if ready {
            self.repairs += 1;
        }
        Ok(())
    }

    fn plan_a_fault(&mut self) {
        let next = self.faulty.operations() + 1 + u64::try_from(self.dice.below(12)).unwrap();
        let fault = match self.dice.below(4) {
            0 => Some(Fault::lost_answer(next)),
            1 => Some(Fault::once(
                next,
                crate::backend::BackendErrorKind::Transient,
            )),
            _ => None,
        };
        self.faulty.plan(fault);
    }

    /// I(n) and E, by brute force.
    fn check(&self) {
        let state = self.observer.read_state().unwrap();
        let exists = |kind, hash: &ObjectHash| {
            self.memory
                .exists(&ObjectName::hashed(kind, hash.0))
                .unwrap()
        };
        let index = index_of(&self.observer, &state).expect("every run of the index is there");
        assert!(
            index.keys().all(|pack| exists(ObjectKind::Pack, pack)),
            "every pack of the index is there"
        );
        let mut bases = index.values().filter_map(|(pack, _)| base_of(pack));
        assert!(
            bases.all(|base| index.contains_key(&base)),
            "every base of the index is there"
        );
        for root in state.roots() {
            let record = self
                .observer
                .load_record(&root)
                .expect("every root's record is there");
            assert!(
                chunks_of(&record).is_subset(&held(&index)),
                "every chunk of a root resolves"
            );
        }
        for seq in 1..=state.seq() {
            assert!(self.memory.exists(&ObjectName::log(seq)).unwrap());
        }
    }

    /// Everybody dies; one prune leaves what is needed.
    fn finish(mut self) -> (u32, u32) {
        self.writers.clear();
        for session in self
            .observer
            .read_state()
            .unwrap()
            .sessions()
            .collect::<Vec<_>>()
        {
            self.observer.expire(session).unwrap();
        }
        let pruner = testing::open(Arc::new(self.memory.clone()), 1);
        prune(&pruner, &mut self.dice, true, &mut || {}).unwrap();
        delete_condemned(&pruner, &mut self.dice, true);
        self.check();
        let state = self.observer.read_state().unwrap();
        let index = index_of(&self.observer, &state).unwrap();
        let mut needed = BTreeSet::new();
        for record in state.live().keys() {
            needed.extend(chunks_of(&self.observer.load_record(record).unwrap()));
        }
        for name in self.memory.contents().keys() {
            let hash = name.hash().map(ObjectHash).unwrap_or_default();
            let wanted = match name.kind() {
                ObjectKind::Pack => index.iter().any(|(name, (pack, chunks))| {
                    (*name == hash || base_of(pack) == Some(hash)) && !chunks.is_disjoint(&needed)
                }),
                ObjectKind::Index => state.index().contains_key(&hash),
                ObjectKind::Snapshot => state.is_live(&hash),
                ObjectKind::Gc => state.names_list(&hash),
                _ => true,
            };
            assert!(wanted, "{name} is left over");
        }
        (self.commits, self.repairs)
    }
}

fn run(seeds: std::ops::Range<u64>, steps: u32) -> (u32, u32) {
    let (mut commits, mut repairs) = (0, 0);
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..steps {
                world.step();
            }
            world.finish()
        });
        let (c, r) = outcome.unwrap_or_else(|_| panic!("seed {seed} breaks an invariant"));
        commits += c;
        repairs += r;
    }
    (commits, repairs)
}

#[test]
fn random_histories_keep_every_invariant() {
    let (commits, repairs) = run(0..40, 80);
    assert!(
        commits > 150 && repairs > 15,
        "too little happened: {commits} commits, {repairs} repairs"
    );
}
