//! Copies between small repositories in memory.

use super::*;
use crate::backend::{Backend, Memory, ObjectKind, ObjectName};
use crate::crypto::{Keyring, NewKey, SystemRandom};
use crate::format::header::Suite;
use crate::format::id::ContentDigest;
use crate::format::node::Timestamp;
use crate::format::repository::{ChunkerSettings, RepositoryFormat};
use crate::ops::testing::{back_up, key, noise, repository, sample_tree};
use crate::ops::verify::{Depth, VerifyOptions, verify};
use crate::store::tree::Nodes;
use crate::store::{Ambient, CreateOptions};

/// A repository with other settings; it shares the dedup secret with `like`, if there is one.
fn other(like: Option<&Repository>, suite: Suite) -> (Arc<Memory>, Arc<Repository>) {
    let id = Keyring::generate_repository_id(&mut SystemRandom);
    let mut format = RepositoryFormat::new(id, 0, suite);
    format.file_chunker = ChunkerSettings::around(4 << 10);
    format.table_chunker = ChunkerSettings::around(2 << 10);
    if let Some(like) = like {
        format.file_chunker = like.format().file_chunker;
        format.table_chunker = like.format().table_chunker;
    }
    format.frame_bytes = 64 << 10;
    format.pack_bytes = 512 << 10;
    let dedup = like.and_then(|like| like.keyring().dedup.clone());
    let keyring = Keyring::generate(id, suite, dedup, &mut SystemRandom);
    let key = key();
    let new = match suite {
        Suite::None => NewKey::plain("test", 0),
        _ => NewKey::key_file(&key, "test", 0),
    };
    let options = CreateOptions {
        format,
        keyring,
        keys: vec![new],
    };
    let backend = Arc::new(Memory::default());
    let made = Repository::create(backend.clone(), "other", &options, Ambient::default()).unwrap();
    (backend, Arc::new(made))
}

/// All ways: secret shared or not, with and without encryption over there.
fn ways(like: &Repository) -> Vec<(Arc<Memory>, Arc<Repository>)> {
    let like = [Some(like), None];
    let suites = [Suite::Aes256Gcm, Suite::None];
    let ways = like
        .iter()
        .flat_map(|like| suites.map(|suite| (*like, suite)));
    ways.map(|(like, suite)| other(like, suite)).collect()
}

fn copied(source: &Arc<Repository>, target: &Arc<Repository>) -> (CopySummary, Arc<Stats>) {
    let stats = Arc::new(Stats::default());
    let options = CopyOptions {
        workers: Some(2),
        ..CopyOptions::default()
    };
    let summary = copy(
        source,
        target,
        &options,
        &stats,
        &Interrupt::default(),
        &mut |_| {},
    );
    (summary.unwrap(), stats)
}

type Seen = (
    Vec<u8>,
    u32,
    Timestamp,
    u64,
    Option<ContentDigest>,
    Option<Vec<u8>>,
);

fn look(repository: &Arc<Repository>, id: &ObjectHash) -> (Record, Vec<Seen>) {
    let state = repository.read_state().unwrap();
    let record = repository.load_record(id).unwrap();
    let reader = snapshots::open_reader(repository, &state, None, &mut |e| panic!("{e}")).unwrap();
    let mut open = vec![(Vec::new(), record.root.clone())];
    let mut seen = Vec::new();
    while let Some((path, content)) = open.pop() {
        for node in Nodes::new(reader.clone(), &content) {
            let node = node.unwrap();
            let path = [&path[..], b"/", &node.name].concat();
            if node.is_directory() {
                open.push((path.clone(), node.content));
            }
            seen.push((
                path,
                node.mode,
                node.modified,
                node.size,
                node.digest,
                node.target,
            ));
        }
    }
    seen.sort();
    (record, seen)
}

fn assert_good(repository: &Arc<Repository>) {
    let options = VerifyOptions {
        depth: Depth::EndToEnd,
        ..VerifyOptions::default()
    };
    let stats = Arc::new(Stats::default());
    let stop = Interrupt::default();
    let summary = verify(repository, &options, &stats, &stop, &|found| {
        panic!("{found}")
    });
    assert_eq!(summary.unwrap().exit_code(), 0);
}

#[test]
fn both_ways_give_the_same_files() {
    let (_, source) = repository();
    let folder = tempfile::tempdir().unwrap();
    sample_tree(folder.path());
    let (first, _) = back_up(&source, folder.path());
    for (_, target) in ways(&source) {
        let (summary, _) = copied(&source, &target);
        assert_eq!(summary.damage, Vec::<String>::new());
        let there = summary.there(&first.snapshot).unwrap();
        let (before, files) = look(&source, &first.snapshot);
        let (record, copied_files) = look(&target, &there);
        assert_eq!(files, copied_files);
        assert!(files.len() > 60, "{}", files.len());
        assert_eq!(record.subtree, before.subtree);
        let from = record.copied_from.unwrap();
        assert_eq!(
            (from.repository, from.snapshot),
            (source.format().id, first.snapshot)
        );
        let same = |record: &Record| {
            (
                record.site.clone(),
                record.host.clone(),
                record.started,
                record.finished,
            )
        };
        assert_eq!(same(&record), same(&before));
        assert_good(&target);
        let state = source.read_state().unwrap();
        assert_eq!(
            state.sessions().count(),
            0,
            "the session in the source has ended"
        );
    }
}

#[test]
fn a_second_copy_sends_what_changed() {
    let (_, source) = repository();
    let folder = tempfile::tempdir().unwrap();
    sample_tree(folder.path());
    back_up(&source, folder.path());
    let targets = ways(&source);
    for (backend, target) in &targets {
        let (first, _) = copied(&source, target);
        assert_eq!((first.copied.len(), first.present.len()), (1, 0));
        let objects = backend.contents().len();
        let (second, _) = copied(&source, target);
        assert_eq!((second.copied.len(), second.present.len()), (0, 1));
        assert_eq!((second.chunks_read, second.chunks_sent), (0, 0));
        assert_eq!(
            backend.contents().len(),
            objects,
            "nothing at all is written"
        );
    }
    std::fs::write(folder.path().join("a/small-003"), noise(77, 5_000)).unwrap();
    let (changed, _) = back_up(&source, folder.path());
    for (_, target) in &targets {
        let (third, stats) = copied(&source, target);
        assert_eq!((third.copied.len(), third.present.len()), (1, 1));
        assert!(third.chunks_read < 30, "{}", third.chunks_read);
        assert!(stats.bytes_new.get() < 40_000, "{}", stats.bytes_new.get());
        assert_eq!(
            look(&source, &changed.snapshot).1,
            look(target, &third.copied[0].snapshot).1
        );
        assert_good(target);
    }
    // What comes back, or goes on to a third one, is the same snapshot still.
    let (_, target) = &targets[2];
    let (back, _) = copied(target, &source);
    assert_eq!((back.copied.len(), back.present.len()), (0, 2));
    let (_, third) = other(None, Suite::None);
    assert_eq!(copied(target, &third).0.copied.len(), 2);
    assert_eq!(copied(&source, &third).0.present.len(), 2);
}

#[test]
fn a_backup_over_there_is_a_parent_too() {
    let (_, source) = repository();
    let folder = tempfile::tempdir().unwrap();
    sample_tree(folder.path());
    back_up(&source, folder.path());
    for (_, target) in ways(&source) {
        back_up(&target, folder.path());
        let (summary, stats) = copied(&source, &target);
        assert_eq!(summary.copied.len(), 1);
        assert_eq!(stats.files_new.get(), 0, "every file is taken over");
        assert!(stats.bytes_new.get() < 20_000, "{}", stats.bytes_new.get());
        assert_good(&target);
    }
}

#[test]
fn damage_is_named_and_not_copied() {
    let (backend, source) = repository();
    let folder = tempfile::tempdir().unwrap();
    sample_tree(folder.path());
    let (first, _) = back_up(&source, folder.path());
    let packs = |backend: &Memory| -> HashSet<ObjectName> {
        let names = backend.contents().into_keys();
        names
            .filter(|name| name.kind() == ObjectKind::Pack)
            .collect()
    };
    let before = packs(&backend);
    std::fs::write(folder.path().join("a/new"), noise(5, 300_000)).unwrap();
    back_up(&source, folder.path());
    for name in packs(&backend).difference(&before) {
        let mut bytes = backend.contents()[name].to_vec();
        let half = bytes.len() / 2;
        bytes[half] ^= 1;
        backend.replace(name, bytes);
    }
    std::fs::remove_file(folder.path().join("a/new")).unwrap();
    let (third, _) = back_up(&source, folder.path());
    for (_, target) in ways(&source) {
        let (summary, _) = copied(&source, &target);
        let from: Vec<ObjectHash> = summary.copied.iter().map(|copied| copied.from).collect();
        assert_eq!(from, [first.snapshot, third.snapshot]);
        assert_eq!(summary.damage.len(), 1, "{:?}", summary.damage);
        assert!(
            summary.damage[0].contains("was not copied"),
            "{:?}",
            summary.damage
        );
        assert_good(&target);
        assert_eq!(target.read_state().unwrap().sessions().count(), 0);
    }
}

#[test]
fn a_repository_is_not_copied_into_itself() {
    let (backend, source) = repository();
    let again = crate::ops::testing::reopen(backend.clone() as Arc<dyn Backend>);
    let refused = |target: &Arc<Repository>| {
        let stats = Arc::new(Stats::default());
        let options = CopyOptions::default();
        copy(
            &source,
            target,
            &options,
            &stats,
            &Interrupt::default(),
            &mut |_| {},
        )
    };
    assert!(refused(&source).is_err() && refused(&again).is_err());
    // A copy of its files is another repository, although it has its name and secrets.
    let folder = tempfile::tempdir().unwrap();
    sample_tree(folder.path());
    back_up(&source, folder.path());
    let twin = crate::ops::testing::reopen(Arc::new(Memory::with_contents(backend.contents())));
    back_up(&source, folder.path());
    let (summary, _) = copied(&source, &twin);
    assert_eq!((summary.copied.len(), summary.present.len()), (1, 1));
    assert_good(&twin);
}
