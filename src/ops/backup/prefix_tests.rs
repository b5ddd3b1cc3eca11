//! Tables that change from night to night, played without a server.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use super::engine::Stored;
use super::*;
use crate::backend::{Backend, Memory, ObjectKind, ObjectName};
use crate::format::index::{IndexRun, RunFrame};
use crate::format::log::GcList;
use crate::format::node::{Content, Node, NodeKind, TablePart};
use crate::format::pack::{Base, Encoding};
use crate::format::snapshot::{ComponentKind, ComponentState};
use crate::ops::snapshots::{self, frame_decoder, open_reader};
use crate::ops::testing::{noise, reopen, repository};
use crate::ops::verify::{Depth, Finding, VerifyOptions, verify};
use crate::pipeline::{ItemWriter, StreamKind, TreePath};
use crate::store::chunk_index::ChunkIndex;
use crate::store::reader::ChunkReader;
use crate::store::tree::{self, read_all};
use crate::store::{Session, StoreError};

const PATH: [&[u8]; 6] = [b"databases", b"x", b"tables", b"public", b"t", b"000000"];
const ROWS: usize = 8000;

/// The rows of a night: those of `changed` are what another night's are not.
fn rows(changed: impl Fn(usize) -> bool) -> Vec<u8> {
    let bytes = noise(1, ROWS * 40);
    let mut out = Vec::new();
    for (number, row) in bytes.chunks(40).enumerate() {
        let day = u8::from(changed(number));
        out.extend_from_slice(format!("{number}\t{day}\t{row:02x?}\n").as_bytes());
    }
    out
}

fn second() -> Vec<u8> {
    rows(|number| number % 31 == 5)
}

fn path() -> TreePath {
    PATH.iter()
        .fold(TreePath::root(), |path, name| path.join(name))
}

/// A run that is not committed yet.
struct Night {
    session: Arc<Session>,
    options: BackupOptions,
    stats: Arc<Stats>,
    record: Record,
    stored: Stored,
}

fn take(repository: &Arc<Repository>, rows: &[u8]) -> Night {
    let session = Arc::new(repository.open_session().unwrap());
    let mut options = BackupOptions::new("host");
    options.workers = Some(2);
    let stats = Arc::new(Stats::default());
    let interrupt = Interrupt::default();
    let engine = Engine::start(repository, &session, &options, &stats, &interrupt).unwrap();
    let queue = engine.sink.pool.source_queue();
    let mut writer = ItemWriter::queued(&queue, StreamKind::Table, false).follows(&path());
    for row in rows.split_inclusive(|byte| *byte == b'\n') {
        writer.write(row).unwrap();
    }
    let item = writer.finish_wait().unwrap();
    let node = Node {
        name: PATH[5].to_vec(),
        kind: NodeKind::File,
        size: item.bytes,
        content: item.content,
        table: Some(TablePart::default()),
        ..Node::default()
    };
    engine.sink.add_node(&path(), node).unwrap();
    let ((), stored) = engine.finish(Ok(())).unwrap();
    let component = Component {
        kind: ComponentKind::Database,
        name: "x".into(),
        path: PATH[..2].iter().map(|name| name.to_vec().into()).collect(),
        state: ComponentState::Complete,
        ..Component::default()
    };
    let record = Record {
        site: options.site_name.clone(),
        root: stored.tree.root.clone(),
        components: vec![component],
        ..Record::default()
    };
    Night {
        session,
        options,
        stats,
        record,
        stored,
    }
}

impl Night {
    fn commit(&self) -> Commit {
        let record = self.session.write_record(&self.record, &self.stored.runs);
        let (record, stored) = (record.unwrap(), &self.stored);
        let commit = self
            .session
            .commit(&record, &stored.runs, &stored.reused, &[]);
        commit.unwrap()
    }

    fn done(&self) -> ObjectHash {
        assert!(matches!(self.commit(), Commit::Done { .. }));
        let state = self.session.repository().read_state().unwrap();
        let newest = state.live().iter().max_by_key(|(_, seq)| **seq);
        *newest.unwrap().0
    }

    fn runs(&self) -> Vec<IndexRun> {
        let names = self.stored.runs.names();
        names
            .map(|name| self.session.repository().load_run(&name).unwrap())
            .collect()
    }
}

fn night(repository: &Arc<Repository>, rows: &[u8]) -> Night {
    let night = take(repository, rows);
    night.done();
    night
}

/// Frames with the names of their packs and their numbers.
type Frames = Vec<(ObjectHash, u32, RunFrame)>;

/// The table's frames in these runs.
fn frames(runs: &[IndexRun]) -> Frames {
    let packs = runs.iter().flat_map(|run| &run.packs);
    let frames = packs.flat_map(|pack| {
        let numbered = (0u32..).zip(&pack.frames);
        numbered.map(|(number, frame)| (pack.name, number, *frame))
    });
    frames
        .filter(|(_, _, frame)| frame.class == crate::format::pack::Class::Table)
        .collect()
}

fn sealed(frames: &[(ObjectHash, u32, RunFrame)]) -> u32 {
    frames.iter().map(|(_, _, frame)| frame.sealed_len).sum()
}

fn content(reader: &Arc<ChunkReader>, root: &Content) -> Content {
    let node = tree::find(reader, root, PATH).unwrap();
    node.unwrap().content
}

fn read(repository: &Arc<Repository>, snapshot: &ObjectHash) -> Result<Vec<u8>, StoreError> {
    let state = repository.read_state().unwrap();
    let mut damage = |e| panic!("{e}");
    let all = snapshots::list(repository, &state, &mut damage).unwrap();
    let found = all.into_iter().find(|found| found.id == *snapshot).unwrap();
    let reader = open_reader(repository, &state, Some(found.id), &mut damage).unwrap();
    read_all(&reader, &content(&reader, &found.record.root), 1 << 30)
}

fn condemn(repository: &Arc<Repository>, list: &GcList) {
    let bytes = minicbor::to_vec(list).unwrap();
    let kind = crate::format::header::SealedKind::Gc;
    let name = repository.put_object(kind, 0, &bytes).unwrap();
    let append = repository
        .append_or_refuse(&mut |state| state.validate_gc_of_a_test(name, list, &**repository));
    append.unwrap();
}

fn flip_frames(memory: &Memory, packs: &HashSet<ObjectHash>) {
    for pack in packs {
        let name = ObjectName::hashed(ObjectKind::Pack, pack.0);
        let mut bytes = memory.contents()[&name].to_vec();
        let end = bytes.len() * 3 / 4;
        for at in (200..end).step_by(1000) {
            bytes[at] ^= 1;
        }
        memory.replace(&name, bytes);
    }
}

fn findings(repository: &Arc<Repository>) -> Vec<Finding> {
    let found = Mutex::new(Vec::new());
    let options = VerifyOptions {
        depth: Depth::Data,
        threads: Some(2),
        ..VerifyOptions::default()
    };
    let each = |finding: &Finding| found.lock().unwrap().push(finding.clone());
    let (stats, interrupt) = (Arc::default(), Interrupt::default());
    verify(repository, &options, &stats, &interrupt, &each).unwrap();
    found.into_inner().unwrap()
}

#[test]
fn what_changed_in_a_table_is_stored_on_what_it_was() {
    let (backend, repository) = repository();
    let days = [rows(|_| false), second(), rows(|number| number % 17 == 3)];
    let mut taken = Vec::new();
    for day in &days {
        let night = take(&repository, day);
        taken.push((night.done(), frames(&night.runs())));
    }
    let all: Vec<_> = taken
        .iter()
        .flat_map(|(_, frames)| frames.clone())
        .collect();
    for (_, frames) in &taken[1..] {
        assert!(
            sealed(frames) * 12 < sealed(&taken[0].1),
            "{} of {}",
            sealed(frames),
            sealed(&taken[0].1)
        );
        let prefix = frames.iter().filter(|(_, _, frame)| frame.base.is_some());
        let mut count = 0;
        for (_, _, frame) in prefix {
            let base = frame.base.unwrap();
            let found = all
                .iter()
                .find(|(pack, number, _)| (*pack, *number) == base);
            assert_eq!(found.unwrap().2.base, None, "one level deep");
            count += 1;
        }
        assert!(
            count * 10 >= frames.len() * 9 && count > 5,
            "{count} of {}",
            frames.len()
        );
    }
    let repository = reopen(backend);
    for ((snapshot, _), day) in taken.iter().zip(&days) {
        assert!(read(&repository, snapshot).unwrap() == *day);
    }
    assert_eq!(findings(&repository), []);
}

#[test]
fn what_an_interrupted_run_stored_on_bases_is_adopted_with_them() {
    let (backend, repository) = repository();
    night(&repository, &rows(|_| false));
    let dead = take(&repository, &second());
    dead.session.expire().unwrap();
    let bases: Vec<ObjectHash> = frames(&dead.runs())
        .iter()
        .filter_map(|(_, _, frame)| Some(frame.base?.0))
        .collect();
    let next = take(&repository, &second());
    assert_eq!(next.stats.bytes_new.get(), 0);
    let needed: HashSet<ObjectHash> = next
        .stored
        .runs
        .iter()
        .flat_map(|(_, packs)| packs.to_vec())
        .collect();
    assert!(!bases.is_empty() && bases.iter().all(|base| needed.contains(base)));
    let snapshot = next.done();
    assert!(read(&reopen(backend), &snapshot).unwrap() == second());
}

/// The packs of the first night are condemned between the second run and its commit; nothing but its frames needs them.
#[test]
fn a_base_that_is_condemned_meanwhile_is_no_base() {
    let (backend, repository) = repository();
    let first = take(&repository, &rows(|_| false));
    let first_id = first.done();
    let mut second_night = take(&repository, &second());
    let prefix = frames(&second_night.runs());
    let bases: HashSet<ObjectHash> = prefix
        .iter()
        .filter_map(|(_, _, frame)| Some(frame.base?.0))
        .collect();
    assert!(!bases.is_empty() && bases.is_subset(&second_night.stored.reused));

    repository.expire(second_night.session.number()).unwrap();
    repository.forget(&[first_id]).unwrap();
    let list = GcList {
        packs: first.runs()[0].packs.iter().map(|pack| pack.name).collect(),
        runs: first.stored.runs.names().collect(),
        records: vec![first_id],
        ..GcList::default()
    };
    condemn(&repository, &list);

    let Commit::Lost { lost, state } = second_night.commit() else {
        panic!("the commit must not stand on condemned bases");
    };
    assert!(!lost.runs.is_empty());
    assert!(bases.iter().all(|base| lost.packs.contains(base)));
    let Night {
        session,
        options,
        stats,
        record,
        stored,
    } = &mut second_night;
    repair::repair(session, options, stats, record, stored, &lost, &state).unwrap();
    let snapshot = second_night.done();
    for condemned in repository.read_state().unwrap().all_condemned() {
        backend.delete(&condemned).unwrap();
    }
    let repository = reopen(backend);
    assert!(read(&repository, &snapshot).unwrap() == second());
    assert_eq!(findings(&repository), []);
    // Everything stands alone now, and serves as a base again.
    assert!(
        frames(&second_night.runs())
            .iter()
            .all(|(_, _, frame)| frame.base.is_none())
    );
    let third = take(&repository, &rows(|number| number % 31 == 6));
    assert!(
        frames(&third.runs())
            .iter()
            .any(|(_, _, frame)| frame.base.is_some())
    );
}

#[test]
fn damage_of_a_base_is_damage_of_what_is_on_it() {
    let (backend, repository) = repository();
    let first = night(&repository, &rows(|_| false));
    let second_night = take(&repository, &second());
    let snapshot = second_night.done();
    let prefix = frames(&second_night.runs());
    let bases: HashSet<ObjectHash> = prefix
        .iter()
        .filter_map(|(_, _, frame)| Some(frame.base?.0))
        .collect();
    flip_frames(&backend, &bases);
    let repository = reopen(backend.clone());
    let error = read(&repository, &snapshot).unwrap_err();
    assert!(error.is_damage(), "{error}");
    let found = findings(&repository);
    let named = |pack: &ObjectHash| {
        let name = ObjectName::hashed(ObjectKind::Pack, pack.0).to_string();
        found
            .iter()
            .any(|finding| format!("{finding:?}").contains(&name))
    };
    assert!(bases.iter().all(named), "{found:?}");
    assert!(
        prefix
            .iter()
            .filter(|(_, _, f)| f.base.is_some())
            .all(|(pack, _, _)| named(pack)),
        "{found:?}"
    );

    // A base that can't be read is done without.
    let third = take(&repository, &rows(|number| number % 31 == 6));
    let on_damaged = frames(&third.runs());
    assert!(!on_damaged.is_empty());
    let plain = on_damaged
        .iter()
        .filter(|(_, _, frame)| frame.base.is_none());
    assert!(plain.count() > on_damaged.len() / 4);
    drop(first);
}

#[test]
fn wrong_bases_are_refused() {
    let (_, repository) = repository();
    let first = night(&repository, &rows(|_| false));
    let second_night = night(&repository, &second());
    let prefix: Vec<_> = frames(&second_night.runs());
    let (pack, number, _) = *prefix.iter().find(|(_, _, f)| f.base.is_some()).unwrap();
    let state = repository.read_state().unwrap();
    let all = || {
        let runs = first.runs().into_iter().chain(second_night.runs());
        runs.collect::<Vec<_>>()
    };
    // Reads a chunk of one prefix frame, whose base is said to be another one.
    let read = |base: Option<Base>, encoding: Encoding| {
        let mut runs = all();
        let mut wanted = None;
        for run in &mut runs {
            for entry in &run.entries {
                let of = &run.packs[entry.pack as usize];
                if (of.name, entry.frame) == (pack, number) {
                    wanted = Some(crate::format::node::ChunkRef {
                        id: entry.id,
                        len: entry.len,
                    });
                }
            }
            for of in &mut run.packs {
                if of.name == pack {
                    let frame = &mut of.frames[number as usize];
                    frame.base = base.or(frame.base);
                    frame.encoding = encoding;
                }
            }
        }
        let index = ChunkIndex::build(runs, |_| true);
        let reader = ChunkReader::new(
            repository.clone(),
            state.clone(),
            Arc::new(index),
            None,
            frame_decoder,
        );
        reader.unwrap().chunk(&wanted.unwrap())
    };
    assert!(read(None, Encoding::ZstdPrefix).is_ok());
    let right = prefix
        .iter()
        .find(|(p, n, _)| (*p, *n) == (pack, number))
        .unwrap()
        .2
        .base
        .unwrap();
    let plain = frames(&first.runs());
    let other = plain.iter().find(|(p, n, _)| (*p, *n) != right).unwrap();
    let itself = (pack, number);
    let on_another = prefix
        .iter()
        .rev()
        .find(|(p, n, f)| f.base.is_some() && (*p, *n) != itself);
    let on_another = on_another.unwrap();
    for base in [
        (other.0, other.1),
        itself,
        (on_another.0, on_another.1),
        (right.0, 1000),
        (ObjectHash([7; 32]), 0),
    ] {
        let error = read(Some(base), Encoding::ZstdPrefix).unwrap_err();
        assert!(error.is_damage(), "{error}");
    }
}
