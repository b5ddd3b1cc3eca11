//! Indexes against what the runs say.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::backend::Memory;
use crate::format::header::SealedKind;
use crate::format::log::{GcList, Quarantine};
use crate::format::snapshot::Record;
use crate::store::session::PacksDurable;
use crate::store::{Repository, State, testing};

fn id(number: u16) -> ChunkId {
    ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn pack_named(name: ObjectHash, frames: usize) -> RunPack {
    let frame = RunFrame {
        raw_len: 1 << 20,
        sealed_len: 50,
        ..RunFrame::default()
    };
    RunPack {
        name,
        len: 1000,
        frames: vec![frame; frames],
    }
}

/// A run of packs, each with the chunks that it holds.
fn run_of(packs: &[(ObjectHash, Vec<u16>)]) -> IndexRun {
    let mut run = IndexRun::default();
    for (pack, (name, ids)) in (0u32..).zip(packs) {
        run.packs.push(pack_named(*name, 3));
        let entries = ids.iter().zip(0u32..).map(|(number, place)| IndexEntry {
            id: id(*number),
            pack,
            frame: place / 40 % 3,
            offset: place * 100,
            len: 1 + u32::from(*number),
        });
        run.entries.extend(entries);
    }
    run.entries.sort_unstable();
    run
}

fn run(pack: u8, ids: &[u16]) -> IndexRun {
    run_of(&[(ObjectHash([pack; 32]), ids.to_vec())])
}

/// Where each chunk is, by the name of the pack.
type Model = BTreeMap<ChunkId, BTreeSet<(ObjectHash, u32, u32, u32)>>;

fn add_to_model(model: &mut Model, run: &IndexRun, usable: &dyn Fn(&ObjectHash) -> bool) {
    for entry in &run.entries {
        let pack = run.packs[entry.pack as usize].name;
        if usable(&pack) {
            let place = (pack, entry.frame, entry.offset, entry.len);
            model.entry(entry.id).or_default().insert(place);
        }
    }
}

/// Everything that an index says is what the model says.
fn compare(index: &ChunkIndex, model: &Model, ids: u16) {
    for number in 0..ids {
        let id = id(number);
        let expected = model.get(&id).cloned().unwrap_or_default();
        let named = |location: Location| {
            // A pack whose row is found damaged here has another number afterwards.
            let pack = index.pack(location.pack).ok()?;
            assert_eq!(pack.frames, pack_named(pack.name, 3).frames);
            Some((pack.name, location.frame, location.offset, location.len))
        };
        let all = loop {
            let heals = index.heals();
            let all: BTreeSet<_> = index.find_all(&id).into_iter().filter_map(named).collect();
            if index.heals() == heals {
                break all;
            }
        };
        assert_eq!(all, expected, "chunk {number}");
        let one = index.find(&id);
        assert_eq!(one.is_some(), !expected.is_empty(), "chunk {number}");
        if let Some(one) = one {
            assert!(named(one).is_none_or(|place| expected.contains(&place)));
        }
        assert_eq!(index.rely_on(&id), !expected.is_empty(), "chunk {number}");
        assert_eq!(index.position(&id).is_some(), !expected.is_empty());
    }
    assert!(index.failure().is_none());
    let names: BTreeSet<ObjectHash> = index.relied_packs().into_iter().collect();
    for (id, places) in model {
        assert!(
            places.iter().any(|place| names.contains(&place.0)),
            "{id} was relied on"
        );
    }
}

#[test]
fn unusable_packs_are_left_out() {
    let runs = [run(1, &[1, 2]), run(2, &[2, 3]), run(2, &[3])];
    let index = ChunkIndex::build(runs, |name| name.0[0] != 1);
    assert_eq!(index.packs().unwrap().len(), 1);
    assert!(index.find(&id(1)).is_none());
    assert_eq!(index.find_all(&id(2)).len(), 1);
    assert_eq!(index.find_all(&id(3)).len(), 1, "a pack is taken once");
}

#[test]
fn relied_packs_are_known() {
    let index = ChunkIndex::build([run(1, &[1, 2]), run(2, &[3]), run(3, &[1])], |_| true);
    assert!(index.rely_on(&id(3)));
    assert!(!index.rely_on(&id(4)));
    assert_eq!(index.relied_packs(), [ObjectHash([2; 32])]);
    assert_eq!(index.find_all(&id(1)).len(), 2);
    let again = index.again();
    assert!(again.relied_packs().is_empty() && again.find(&id(3)).is_some());
}

#[test]
fn refused_packs_are_not_relied_on() {
    let index = ChunkIndex::build([run(1, &[1, 2]), run(2, &[3])], |_| true);
    assert!(index.rely_on(&id(1)));
    assert_eq!(index.refuse(|pack| *pack == ObjectHash([1; 32])), 1);
    assert_eq!(index.refuse(|pack| *pack == ObjectHash([1; 32])), 0);
    assert!(!index.rely_on(&id(2)));
    assert!(index.rely_on(&id(3)));
    assert!(index.find(&id(2)).is_some(), "who reads may still use it");
    // What was relied on before is still known: the test before the commit finds it.
    assert_eq!(index.relied_packs().len(), 2);
}

#[test]
fn an_index_beyond_memory_is_the_same() {
    let runs: Vec<IndexRun> = (0u16..60)
        .map(|n| {
            let ids: Vec<u16> = (0..150).map(|i| (n * 97 + i * 13) % 7000).collect();
            run(u8::try_from(n).unwrap(), &ids)
        })
        .collect();
    let mut model = Model::new();
    runs.iter()
        .for_each(|run| add_to_model(&mut model, run, &|_| true));
    let index = ChunkIndex::build(runs, |_| true);
    assert!(index.segments() < 6, "of 15 many were merged");
    assert!(index.slots.iter().any(|slot| !slot.segment.is_whole()));
    compare(&index, &model, 7100);
    let entries = |pack| {
        let mut count = 0;
        index.each_entry(pack, &mut |_| count += 1).unwrap();
        count
    };
    let packs = index.packs().unwrap();
    assert_eq!(
        packs.iter().map(|pack| entries(*pack)).sum::<u64>(),
        60 * 150
    );
}

#[test]
fn a_hash_table_says_the_same() {
    let runs = [run(1, &[1, 2, 3]), run(2, &[2, 4]), run(3, &[2, 5])];
    let mut model = Model::new();
    runs.iter()
        .for_each(|run| add_to_model(&mut model, run, &|_| true));
    let index = ChunkIndex::build(runs, |_| true);
    while index.positions.get().is_none() {
        assert!(index.rely_on(&id(1)) && !index.rely_on(&id(9)));
    }
    compare(&index, &model, 20);
    // Another copy is relied on where the first one's pack is refused.
    index.refuse(|pack| pack.0[0] < 3);
    let relied = [1, 2, 3, 4, 5, 6].map(|number| index.rely_on(&id(number)));
    assert_eq!(relied, [false, true, false, false, true, false]);
}

/// A repository whose log a test writes, and processes on one host that use its index.
struct World {
    memory: Arc<Memory>,
    writer: Arc<Repository>,
    cache: tempfile::TempDir,
    packs: u32,
}

impl World {
    fn new() -> Self {
        let memory = Arc::new(Memory::new());
        Self {
            writer: Arc::new(testing::create(memory.clone(), 1).unwrap()),
            memory,
            cache: tempfile::tempdir().unwrap(),
            packs: 0,
        }
    }

    /// A process of its own.
    fn process(&self, seed: u64) -> Arc<Repository> {
        let mut repository = testing::open(self.memory.clone(), seed);
        repository.cache = Some(self.cache.path().to_path_buf());
        Arc::new(repository)
    }

    fn commit(&mut self, runs: Vec<IndexRun>) -> Vec<ObjectHash> {
        let session = self.writer.open_session().unwrap();
        let packs = runs
            .iter()
            .flat_map(|run| run.packs.iter().map(|pack| pack.name));
        let durable = PacksDurable::new(packs);
        let runs = session.write_runs(&durable, &runs).unwrap();
        let record = session.write_record(&Record::default(), &runs).unwrap();
        session
            .commit(&record, &runs, &HashSet::new(), &[])
            .unwrap();
        runs.names().collect()
    }

    /// Commits a run of packs of consecutive chunks.
    fn add(&mut self, packs: &[(u16, u16)]) -> ObjectHash {
        let packs: Vec<(ObjectHash, Vec<u16>)> = packs
            .iter()
            .map(|(first, count)| {
                self.packs += 1;
                let name = ObjectHash(*blake3::hash(&self.packs.to_le_bytes()).as_bytes());
                (name, (*first..first + count).collect())
            })
            .collect();
        self.commit(vec![run_of(&packs)])[0]
    }

    fn gc(&self, list: &GcList) {
        let plaintext = minicbor::to_vec(list).unwrap();
        let name = self
            .writer
            .put_object(SealedKind::Gc, 0, &plaintext)
            .unwrap();
        let mut decide = |state: &State| state.validate_gc_of_a_test(name, list, &*self.writer);
        self.writer.append_or_refuse(&mut decide).unwrap();
    }

    /// Condemns the packs that `is_dead`, merges what is left of two runs into one, and condemns those and runs without a living pack.
    fn prune(&mut self, is_dead: impl Fn(usize) -> bool, merges: bool) {
        let state = self.writer.read_state().unwrap();
        let mut list = GcList::default();
        let mut left = IndexRun::default();
        let mut place = 0;
        for (nth, name) in state.index().keys().enumerate() {
            let run = self.writer.load_run(name).unwrap();
            let dead: Vec<bool> = run
                .packs
                .iter()
                .map(|pack| {
                    place += 1;
                    is_dead(place) || state.is_condemned_pack(&pack.name)
                })
                .collect();
            let packs = run.packs.iter().zip(&dead).filter(|(_, dead)| **dead);
            list.packs.extend(packs.map(|(pack, _)| pack.name));
            if dead.iter().all(|dead| *dead) {
                list.runs.push(*name);
            } else if merges && nth < 2 {
                list.runs.push(*name);
                let base = u32::try_from(left.packs.len()).unwrap();
                let mut numbers = Vec::new();
                let mut next = base;
                for (pack, dead) in run.packs.iter().zip(&dead) {
                    numbers.push((!dead).then_some(next));
                    if !dead {
                        left.packs.push(pack.clone());
                        next += 1;
                    }
                }
                let entries = run.entries.iter().filter_map(|entry| {
                    let pack = numbers[entry.pack as usize]?;
                    Some(IndexEntry { pack, ..*entry })
                });
                left.entries.extend(entries);
            }
        }
        if !left.packs.is_empty() {
            left.entries.sort_unstable();
            let session = self.writer.open_session().unwrap();
            let durable = PacksDurable::new(left.packs.iter().map(|pack| pack.name));
            list.added_runs = session
                .write_runs(&durable, &[left])
                .unwrap()
                .names()
                .collect();
        }
        list.packs.retain(|pack| !state.is_condemned_pack(pack));
        self.gc(&list);
    }

    fn quarantine(&self, nth: usize) {
        let state = self.writer.read_state().unwrap();
        let Some(run) = state.index().keys().nth(nth % state.index().len().max(1)) else {
            return;
        };
        let pack = self.writer.load_run(run).unwrap().packs[0].name;
        let content = Quarantine {
            packs: vec![pack],
            ..Quarantine::default()
        };
        let plaintext = minicbor::to_vec(&content).unwrap();
        let put = self
            .writer
            .put_object(SealedKind::Quarantine, 0, &plaintext);
        let object = put.unwrap();
        let mut decide = |state: &State| state.validate_quarantine(object, false, &*self.writer);
        self.writer.append_or_refuse(&mut decide).unwrap();
    }

    fn model(&self, state: &State) -> Model {
        let mut model = Model::new();
        for name in state.index().keys() {
            let run = self.writer.load_run(name).unwrap();
            add_to_model(&mut model, &run, &|pack| !state.is_unusable_pack(pack));
        }
        model
    }

    fn open(&self, process: &Arc<Repository>) -> (ChunkIndex, Model) {
        let state = process.read_state().unwrap();
        let index = cache::open(process, &state, &mut |e| panic!("{e}")).unwrap();
        let model = self.model(&state);
        (index, model)
    }

    fn files(&self) -> Vec<std::path::PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.cache.path().to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                match entry.path().is_dir() {
                    true => folders.push(entry.path()),
                    false => files.push(entry.path()),
                }
            }
        }
        files.retain(|path| path.file_name().is_some_and(|name| name != "lock"));
        files.sort();
        files
    }

    fn segments(&self) -> Vec<std::path::PathBuf> {
        let mut files = self.files();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
        files
    }
}

fn flip(path: &Path, place: u64) {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let len = file.metadata().unwrap().len();
    if len == 0 {
        return;
    }
    let mut byte = [0];
    file.read_exact_at(&mut byte, place % len).unwrap();
    byte[0] ^= 1 << (place % 8);
    file.write_all_at(&byte, place % len).unwrap();
}

/// Look-ups by pages, whatever their number.
fn only_pages(index: &ChunkIndex) {
    index.looked_up.store(u32::MAX, Ordering::Relaxed);
}

#[derive(Clone, Debug)]
enum Step {
    Add(Vec<(u16, u16)>),
    Prune(usize, bool),
    Quarantine(usize),
    Flip(usize, u64),
    Cut(usize, u64),
    Remove(usize),
    Open(bool),
    Settle,
    CompareOld,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let packs = || proptest::collection::vec((0u16..1500, 1u16..250), 1..4);
    let step = prop_oneof![
        4 => packs().prop_map(Step::Add),
        1 => (2usize..9, any::<bool>()).prop_map(|(n, merges)| Step::Prune(n, merges)),
        1 => any::<usize>().prop_map(Step::Quarantine),
        2 => (any::<usize>(), any::<u64>()).prop_map(|(n, at)| Step::Flip(n, at)),
        1 => (any::<usize>(), any::<u64>()).prop_map(|(n, at)| Step::Cut(n, at)),
        1 => any::<usize>().prop_map(Step::Remove),
        3 => any::<bool>().prop_map(Step::Open),
        1 => Just(Step::Settle),
        2 => Just(Step::CompareOld),
    ];
    proptest::collection::vec(step, 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Two processes and a writer; prunes, quarantines and damage of any file at any time, also of files that are in use.
    #[test]
    fn the_cache_says_what_the_runs_say(steps in steps()) {
        let mut world = World::new();
        world.add(&[(0, 300), (100, 50)]);
        let processes = [world.process(2), world.process(3)];
        let mut old = Vec::new();
        for (turn, step) in steps.into_iter().enumerate() {
            let process = &processes[turn % 2];
            let files = world.files();
            match step {
                Step::Add(packs) => drop(world.add(&packs)),
                Step::Prune(n, merges) => world.prune(|place| place % n == 0, merges),
                Step::Quarantine(nth) => world.quarantine(nth),
                Step::Flip(n, at) if !files.is_empty() => flip(&files[n % files.len()], at),
                Step::Cut(n, at) if !files.is_empty() => {
                    let path = &files[n % files.len()];
                    let file = std::fs::File::options().write(true).open(path).unwrap();
                    let len = file.metadata().unwrap().len();
                    file.set_len(at % (len + 1)).unwrap();
                }
                Step::Remove(n) if !files.is_empty() => {
                    std::fs::remove_file(&files[n % files.len()]).unwrap();
                }
                Step::Open(by_pages) => {
                    let (index, model) = world.open(process);
                    if by_pages {
                        only_pages(&index);
                    }
                    compare(&index, &model, 1800);
                    old.push((index, model));
                }
                Step::Settle => {
                    let state = process.read_state().unwrap();
                    cache::settle(process, &state);
                }
                Step::CompareOld => {
                    for (index, model) in &old {
                        compare(index, model, 1800);
                    }
                }
                _ => {}
            }
        }
        let (index, model) = world.open(&processes[0]);
        compare(&index, &model, 1800);
    }
}

#[test]
fn a_flip_anywhere_is_noticed_or_harmless() {
    let mut world = World::new();
    world.add(&[(0, 200), (150, 90)]);
    world.add(&[(100, 120)]);
    let process = world.process(2);
    drop(world.open(&process));
    let [segment] = &world.segments()[..] else {
        panic!("one segment");
    };
    let good = std::fs::read(segment).unwrap();
    let mut heals = 0;
    for place in (0..good.len()).step_by(97) {
        let mut flipped = good.clone();
        flipped[place] ^= 4;
        // Written where it is, so that the list still names it.
        std::fs::write(segment, &flipped).unwrap();
        let (index, model) = world.open(&process);
        match place % 2 == 0 {
            true => only_pages(&index),
            false => drop(index.looked_up.swap(index.few, Ordering::Relaxed)),
        }
        compare(&index, &model, 400);
        heals += index.heals();
        for path in world.segments() {
            std::fs::remove_file(path).unwrap();
        }
        std::fs::write(segment, &good).unwrap();
        let list = cache::list_of_a_test(&process, segment, &index_runs(&process));
        std::fs::write(segment.with_file_name("list"), list).unwrap();
    }
    assert!(
        heals > good.len() / 97 / 2,
        "{heals} of {}",
        good.len() / 97
    );
}

fn index_runs(process: &Repository) -> Vec<ObjectHash> {
    process.known_state().index().keys().copied().collect()
}

#[test]
fn a_damaged_file_is_noticed_and_made_anew() {
    let mut world = World::new();
    world.add(&[(0, 400), (350, 90)]);
    let process = world.process(2);
    let (index, model) = world.open(&process);
    only_pages(&index);
    let before = world.segments();
    let file = std::fs::File::options()
        .write(true)
        .open(&before[0])
        .unwrap();
    file.set_len(5000).unwrap();
    compare(&index, &model, 500);
    assert_eq!(index.heals(), 1);
    assert!(
        world.segments().is_empty(),
        "who finds damage removes the file"
    );
    let (index, model) = world.open(&process);
    compare(&index, &model, 500);
    assert_eq!((index.heals(), world.segments().len()), (0, 1));
}

#[test]
fn a_cache_that_vanishes_is_made_again() {
    let mut world = World::new();
    world.add(&[(0, 400)]);
    let process = world.process(2);
    let (index, model) = world.open(&process);
    only_pages(&index);
    std::fs::remove_dir_all(world.cache.path()).unwrap();
    compare(&index, &model, 500);
    assert_eq!(index.heals(), 0, "an open file stays");
    let (index, model) = world.open(&process);
    compare(&index, &model, 500);
    // A folder that can't be made costs its advantage only.
    std::fs::remove_dir_all(world.cache.path()).unwrap();
    std::fs::write(world.cache.path(), b"in the way").unwrap();
    let (index, model) = world.open(&process);
    compare(&index, &model, 500);
    std::fs::remove_file(world.cache.path()).unwrap();
    std::fs::create_dir(world.cache.path()).unwrap();
}

#[test]
fn only_what_is_lacking_is_loaded() {
    use crate::backend::Counting;
    let mut world = World::new();
    for nth in 0..5 {
        world.add(&[(nth * 100, 100)]);
    }
    let counting = Arc::new(Counting::new(world.memory.clone()));
    let mut repository = testing::open(counting.clone(), 9);
    repository.cache = Some(world.cache.path().to_path_buf());
    let process = Arc::new(repository);
    let opened = |process: &Arc<Repository>| {
        let state = process.read_state().unwrap();
        counting.reset();
        cache::open(process, &state, &mut |e| panic!("{e}")).unwrap();
        counting.counts().get
    };
    assert_eq!(opened(&process), 5);
    assert_eq!(opened(&process), 0);
    world.add(&[(900, 10)]);
    assert_eq!(opened(&process), 1);
    world.prune(|place| place == 2, false);
    assert_eq!(opened(&process), 0, "a prune takes away only");
}

#[test]
fn segments_fall_in_length() {
    let mut world = World::new();
    let process = world.process(2);
    for nth in 0..40u16 {
        world.add(&[(nth * 40, 40 + nth % 7)]);
        let (index, model) = world.open(&process);
        if nth % 8 == 0 {
            compare(&index, &model, 1700);
        }
        assert!(index.slots.len() <= 2, "{}", index.slots.len());
    }
    assert_eq!(world.segments().len(), world.open(&process).0.slots.len());
}

#[test]
fn writers_share_a_cache() {
    let mut world = World::new();
    for nth in 0..12 {
        world.add(&[(nth * 100, 130)]);
    }
    let world = &world;
    std::thread::scope(|scope| {
        for seed in 0..6u64 {
            scope.spawn(move || {
                let process = world.process(20 + seed);
                for _ in 0..8 {
                    let (index, model) = world.open(&process);
                    compare(&index, &model, 1400);
                    if seed == 0 {
                        for path in world.files() {
                            // Another process may have removed it.
                            drop(std::fs::remove_file(path));
                        }
                    }
                }
            });
        }
    });
}

#[test]
fn a_merge_holds_what_its_inputs_hold() {
    let mut world = World::new();
    let runs: Vec<ObjectHash> = (0..30)
        .map(|nth| world.add(&[(nth * 50, 90), (nth, 0)]))
        .collect();
    let process = world.process(2);
    drop(world.open(&process));
    // Most of the runs go; their packs are left out at once, and left away when the cache is put in order.
    let state = world.writer.read_state().unwrap();
    let mut list = GcList::default();
    for run in &runs[..20] {
        let packs = world.writer.load_run(run).unwrap().packs;
        list.packs.extend(packs.iter().map(|pack| pack.name));
        list.runs.push(*run);
    }
    assert!(state.index().len() == 30);
    world.gc(&list);
    let (index, model) = world.open(&process);
    compare(&index, &model, 2000);
    assert_eq!(index.pack_numbers(), 60);
    cache::settle(&process, &process.read_state().unwrap());
    let (index, model) = world.open(&process);
    compare(&index, &model, 2000);
    assert_eq!(index.pack_numbers(), 20);
}

#[test]
fn a_cache_that_others_can_write_to_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let mut world = World::new();
    world.add(&[(0, 400)]);
    let process = world.process(2);
    let mode = |mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(world.cache.path(), permissions).unwrap();
    };
    mode(0o777);
    let (index, model) = world.open(&process);
    compare(&index, &model, 500);
    assert!(world.segments().is_empty());
    mode(0o755);
    let (index, model) = world.open(&process);
    compare(&index, &model, 500);
    assert_eq!(world.segments().len(), 1);
}

#[test]
fn nobody_waits_for_ever_for_a_lock() {
    let mut world = World::new();
    for nth in 0..20 {
        world.add(&[(nth * 50, 60)]);
    }
    let process = world.process(2);
    drop(world.open(&process));
    let lock = world.segments()[0].with_file_name("lock");
    for path in world.segments() {
        std::fs::remove_file(path).unwrap();
    }
    let file = std::fs::File::options().write(true).open(lock).unwrap();
    file.lock().unwrap();
    let (index, model) = world.open(&process);
    compare(&index, &model, 1200);
    assert!(world.segments().is_empty(), "the list is another's");
}

/// Who can write to the cache can write checksums too. What such a file says may be wrong, but nothing breaks.
#[test]
fn a_forged_file_breaks_nothing() {
    let mut world = World::new();
    world.add(&[(0, 300)]);
    let process = world.process(2);
    drop(world.open(&process));
    let [segment] = &world.segments()[..] else {
        panic!("one segment");
    };
    let good = std::fs::read(segment).unwrap();
    let seed = u64::from_le_bytes(good[8..16].try_into().unwrap());
    let values = [0, 1, 5000, 1 << 32, 1 << 52, u64::MAX / 4096, u64::MAX];
    for number in 0..good.len() / pages::PAGE {
        // The header's fields, then the first of a page, and those of pack rows.
        let places = match number {
            0 => (32..96).step_by(8),
            _ => (0..72).step_by(8),
        };
        for (place, value) in places.flat_map(|place| values.map(|value| (place, value))) {
            let mut forged = good.clone();
            let page = &mut forged[number * pages::PAGE..][..pages::PAGE];
            page[place..place + 8].copy_from_slice(&value.to_le_bytes());
            pages::seal(seed, number as u64, page);
            std::fs::write(segment, &forged).unwrap();
            let state = process.read_state().unwrap();
            let index = cache::open(&process, &state, &mut |e| panic!("{e}")).unwrap();
            if place % 16 == 0 {
                only_pages(&index);
            }
            for number in 0..40 {
                index.find(&id(number));
                index.rely_on(&id(number));
            }
            for pack in index.packs().unwrap_or_default() {
                drop(index.pack(pack));
                drop(index.each_entry(pack, &mut |_| {}));
            }
            cache::settle(&process, &state);
            for path in world.segments() {
                std::fs::remove_file(path).unwrap();
            }
            std::fs::write(segment, &good).unwrap();
            let list = cache::list_of_a_test(&process, segment, &index_runs(&process));
            std::fs::write(segment.with_file_name("list"), list).unwrap();
        }
    }
}

#[test]
fn what_meets_damage_is_done_again() {
    let mut world = World::new();
    world.add(&[(0, 400), (350, 90)]);
    let process = world.process(2);
    let (index, _) = world.open(&process);
    only_pages(&index);
    let file = std::fs::File::options()
        .write(true)
        .open(&world.segments()[0])
        .unwrap();
    file.set_len(5000).unwrap();
    let mut tries = 0;
    let chunks = index.read_around(|| {
        tries += 1;
        let mut chunks = 0;
        for pack in index.packs()? {
            index.pack(pack)?;
            index.each_entry(pack, &mut |_| chunks += 1)?;
        }
        Ok(chunks)
    });
    assert_eq!((chunks.unwrap(), index.heals()), (490, 1));
    assert!((1..=2).contains(&tries), "{tries}");
    let refused = index.read_around(|| Err::<(), _>(StoreError::Refused("no damage".into())));
    assert!(refused.is_err());
}
