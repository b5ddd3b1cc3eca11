//! Two repositories that share the dedup secret and nothing else: equal content has equal ids in both, and neither opens the other.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::sync::Arc;

use holdfast::backend::{Local, ObjectKind};
use holdfast::crypto::Secret32;
use holdfast::format::header::SealedKind;
use holdfast::format::id::{ChunkId, ObjectHash};
use holdfast::format::pack::Class;
use holdfast::store::{Ambient, KeyInfo, KeySecret, Repository, StoreError};

use crate::place::{Outcome, Place, noise, noise_tree};

const KEYS: [(&str, [u8; 32]); 3] = [("one", [1; 32]), ("two", [2; 32]), ("three", [3; 32])];

/// Runs a command on one of the repositories, with the key file of the same or another one.
fn run<S: AsRef<OsStr>>(place: &Place, name: &str, key: &str, args: &[S]) -> Outcome {
    let mut command = place.command(args);
    command
        .env("HOLDFAST_REPO", place.path(name))
        .env("HOLDFAST_KEY_FILE", place.path(&format!("{key}.key")));
    Outcome::of(command.output().unwrap())
}

fn open(place: &Place, name: &str, key: [u8; 32]) -> Result<Arc<Repository>, StoreError> {
    let backend = Arc::new(Local::new(place.path(name)).unwrap());
    let mut unlock = |_: &KeyInfo| Some(KeySecret::Key(Secret32::take(&mut key.clone())));
    Repository::open(backend, name, &mut unlock, Ambient::default()).map(Arc::new)
}

/// Names of index runs, and the ids of chunks of data in them.
fn stored(repository: &Repository) -> (Vec<ObjectHash>, BTreeSet<ChunkId>) {
    let mut names = Vec::new();
    let list = repository.backend().list(ObjectKind::Index, &mut |info| {
        names.extend(info.name.hash().map(ObjectHash));
    });
    list.unwrap();
    let mut ids = BTreeSet::new();
    for name in &names {
        let run = repository.load_run(name).unwrap();
        for entry in &run.entries {
            let pack = &run.packs[usize::try_from(entry.pack).unwrap()];
            let frame = &pack.frames[usize::try_from(entry.frame).unwrap()];
            if frame.class != Class::Tree {
                ids.insert(entry.id);
            }
        }
    }
    (names, ids)
}

#[test]
fn content_has_the_same_ids_and_neither_opens_the_other() {
    let place = Place::new();
    for (name, key) in KEYS {
        place.write_key(&format!("{name}.key"), key);
    }
    run(&place, "one", "one", &["init", "--chunk-size", "8K"]).expect(0);
    let (other, key) = (place.path("one"), place.path("one.key"));
    let shared = [
        "init",
        "--dedup-from",
        other.to_str().unwrap(),
        "--dedup-from-key-file",
        key.to_str().unwrap(),
    ];
    run(&place, "two", "two", &shared).expect(0);
    run(&place, "three", "three", &["init", "--chunk-size", "8K"]).expect(0);

    let tree = place.path("tree");
    noise_tree(&tree, 90, 6, 30_000);
    fs::write(tree.join("large"), noise(91, 400_000)).unwrap();
    for (name, _) in KEYS {
        let backup = [OsStr::new("backup"), tree.as_os_str()];
        run(&place, name, name, &backup).expect(0);
    }

    let repositories = KEYS.map(|(name, key)| open(&place, name, key).unwrap());
    let [one, two, three] = repositories
        .each_ref()
        .map(|repository| stored(repository).1);
    assert!(one.len() > 40, "{}", one.len());
    assert_eq!(one, two, "the ids of equal content");
    assert!(one.is_disjoint(&three), "a stranger has ids of its own");

    for (name, key) in [("one", "two"), ("two", "one"), ("one", "three")] {
        run(&place, name, key, &["snapshots"]).expect(12);
    }
    // Objects of one that are put into the other are not taken for its own either.
    let [one, two, _] = &repositories;
    let put = |from: &str, kind: ObjectKind, names: &[ObjectHash]| {
        let folder = kind.folder().unwrap();
        let path = |at: &str, name: &ObjectHash| place.path(at).join(folder).join(name.to_string());
        for name in names {
            fs::copy(path(from, name), path("two", name)).unwrap();
        }
    };
    let runs = stored(one).0;
    put("one", ObjectKind::Index, &runs);
    let state = one.read_state().unwrap();
    let records: Vec<ObjectHash> = state.live().keys().copied().collect();
    put("one", ObjectKind::Snapshot, &records);
    for (kind, names) in [(SealedKind::Index, runs), (SealedKind::Snapshot, records)] {
        assert!(!names.is_empty());
        for name in names {
            one.load_object(kind, &name).unwrap();
            let error = two.load_object(kind, &name).unwrap_err();
            assert!(error.is_damage(), "{error}");
        }
    }
}
