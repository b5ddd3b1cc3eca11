//! Damage to every kind of object of a repository on disk, one at a time, with nothing cached or remembered.
//!
//! Each case says what it does to which objects, and what must then be: `verify --data` names them with exit code 4; a restore gives every
//! file byte for byte or names it, loses exactly the files whose bytes lay in what was damaged, and never gives a wrong byte.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast::format::id::{ChunkId, ObjectHash};
use holdfast::format::node::{Content, decode_items, decode_nodes};
use holdfast::ops::restore::Trouble;
use holdfast::ops::snapshots::{Snapshot, open_reader};
use holdfast::ops::verify::Depth;
use holdfast::store::reader::ChunkReader;

use crate::place::{Place, files_below, noise, noise_tree, restored, verified};

/// Where a chunk is: its run, its pack, its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Spot {
    run: ObjectHash,
    pack: ObjectHash,
    frame: u32,
}

/// A frame in its pack.
#[derive(Clone, Copy, Debug)]
struct Extent {
    offset: usize,
    end: usize,
}

/// A file of a snapshot: its bytes, and where they and the directories above it lie.
#[derive(Debug)]
struct Kept {
    bytes: Vec<u8>,
    spots: BTreeSet<Spot>,
}

type Files = BTreeMap<PathBuf, Kept>;

/// A repository with two snapshots, and all that is in it.
struct Bench {
    place: Place,
    snapshots: Vec<(Snapshot, Files)>,
    extents: BTreeMap<(ObjectHash, u32), Extent>,
    /// Every object by its path below the repository.
    objects: BTreeMap<String, Vec<u8>>,
}

/// What becomes of an object; none: it is deleted.
type Changes = Vec<(String, Option<Vec<u8>>)>;

impl Bench {
    fn new() -> Self {
        let place = Place::small();
        let tree = place.path("tree");
        noise_tree(&tree, 1, 12, 30_000);
        noise_tree(&tree.join("small"), 2, 20, 700);
        fs::write(tree.join("large"), noise(3, 400_000)).unwrap();
        fs::write(tree.join("empty"), b"").unwrap();
        place.back_up(&tree).expect(0);
        fs::write(tree.join("d1/later"), noise(4, 300_000)).unwrap();
        place.back_up(&tree).expect(0);
        let mut bench = Self {
            snapshots: Vec::new(),
            extents: BTreeMap::new(),
            objects: BTreeMap::new(),
            place,
        };
        bench.learn();
        bench
    }

    /// Learns where everything is while all is good.
    fn learn(&mut self) {
        let root = self.place.repository_path();
        for path in files_below(&root) {
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
            self.objects
                .insert(name.to_owned(), fs::read(&path).unwrap());
        }
        let repository = self.place.open();
        let state = repository.read_state().unwrap();
        let mut spots: BTreeMap<ChunkId, Spot> = BTreeMap::new();
        for name in state.index().keys() {
            let run = repository.load_run(name).unwrap();
            for pack in &run.packs {
                for (number, frame) in (0u32..).zip(&pack.frames) {
                    let offset = usize::try_from(frame.offset).unwrap();
                    let end = offset + usize::try_from(frame.sealed_len).unwrap();
                    self.extents
                        .insert((pack.name, number), Extent { offset, end });
                }
            }
            for entry in &run.entries {
                let spot = Spot {
                    run: *name,
                    pack: run.packs[usize::try_from(entry.pack).unwrap()].name,
                    frame: entry.frame,
                };
                let other = spots.insert(entry.id, spot);
                assert!(other.is_none(), "a chunk is stored once");
            }
        }
        for snapshot in self.place.snapshots() {
            let reader = open_reader(&repository, &state, Some(snapshot.id), &mut |e| {
                panic!("{e}")
            });
            let walk = Walk {
                reader: reader.unwrap(),
                spots: &spots,
            };
            let mut files = Files::new();
            let root = &snapshot.record.root;
            walk.directory(Path::new(""), root, &BTreeSet::new(), &mut files);
            assert!(files.len() > 30);
            self.snapshots.push((snapshot, files));
        }
    }

    /// Names of objects whose path begins so.
    fn named(&self, prefix: &str) -> Vec<String> {
        let names = self.objects.keys();
        names
            .filter(|name| name.starts_with(prefix))
            .cloned()
            .collect()
    }

    fn apply(&self, changes: &Changes) {
        for (name, bytes) in changes {
            let path = self.place.repository_path().join(name);
            fs::remove_file(&path).ok();
            if let Some(bytes) = bytes {
                fs::write(&path, bytes).unwrap();
            }
        }
    }

    fn undo(&self, changes: &Changes) {
        let good = changes
            .iter()
            .map(|(name, _)| (name.clone(), Some(self.objects[name].clone())));
        self.apply(&good.collect());
    }

    /// Damages objects and checks all that must hold.
    fn check(&self, what: &str, changes: Changes, lost: &dyn Fn(&Spot) -> bool) {
        println!("{what}");
        self.apply(&changes);
        let names: Vec<&str> = changes.iter().map(|(name, _)| name.as_str()).collect();
        self.check_verify(what, &names);
        for (snapshot, files) in &self.snapshots {
            self.check_restore(what, snapshot, files, lost);
        }
        self.undo(&changes);
    }

    /// `verify --data` names all of the damaged objects.
    fn check_verify(&self, what: &str, names: &[&str]) {
        let repository = self.place.open();
        let (summary, found) = verified(&repository, Depth::Data).expect(what);
        assert_eq!(summary.exit_code(), 4, "{what}");
        for name in names {
            let is_named = found.iter().any(|finding| finding.object == *name);
            assert!(is_named, "{what}: {name} in {found:#?}");
        }
    }

    /// Every file comes back as it was or is named; exactly those that need what is lost do not come back.
    fn check_restore(
        &self,
        what: &str,
        snapshot: &Snapshot,
        files: &Files,
        lost: &dyn Fn(&Spot) -> bool,
    ) {
        let target = tempfile::tempdir().unwrap();
        let spec = snapshot.id.to_string();
        let (summary, troubles) = restored(&self.place.open(), &spec, target.path()).expect(what);
        let mut missing = BTreeSet::new();
        for (path, kept) in files {
            match fs::read(target.path().join(path)) {
                Ok(bytes) => assert!(bytes == kept.bytes, "{what}: WRONG BYTES in {path:?}"),
                Err(_) => {
                    assert!(
                        is_named(path, &troubles),
                        "{what}: {path:?} in {troubles:#?}"
                    );
                    missing.insert(path.clone());
                }
            }
        }
        let expected: BTreeSet<PathBuf> = files
            .iter()
            .filter(|(_, kept)| kept.spots.iter().any(lost))
            .map(|(path, _)| path.clone())
            .collect();
        assert_eq!(missing, expected, "{what}: {troubles:#?}");
        let nothing_else = files_below(target.path())
            .iter()
            .all(|path| files.contains_key(path.strip_prefix(target.path()).unwrap()));
        assert!(
            nothing_else,
            "{what}: something else was left in the target"
        );
        if !missing.is_empty() {
            assert_eq!(summary.exit_code(), 4, "{what}");
        }
    }
}

/// Whether a file or a directory above it was named.
fn is_named(path: &Path, troubles: &[Trouble]) -> bool {
    troubles
        .iter()
        .any(|trouble| path.starts_with(trouble.path.trim_matches('/')))
}

struct Walk<'a> {
    reader: Arc<ChunkReader>,
    spots: &'a BTreeMap<ChunkId, Spot>,
}

impl Walk<'_> {
    fn directory(&self, path: &Path, content: &Content, above: &BTreeSet<Spot>, files: &mut Files) {
        assert_eq!(content.depth, 0, "directories of these tests are small");
        for chunk in &content.refs {
            // A node needs its own piece of its directory.
            let mut needed = above.clone();
            needed.insert(self.spots[&chunk.id]);
            let piece = self.reader.chunk(chunk).unwrap();
            for node in decode_nodes(&piece).unwrap() {
                let path = path.join(std::str::from_utf8(&node.name).unwrap());
                if node.is_directory() {
                    self.directory(&path, &node.content, &needed, files);
                } else {
                    let (bytes, mut spots) = self.read(&node.content);
                    spots.extend(&needed);
                    files.insert(path, Kept { bytes, spots });
                }
            }
        }
    }

    /// The bytes of a content, and where they and its lists lie.
    fn read(&self, content: &Content) -> (Vec<u8>, BTreeSet<Spot>) {
        let (mut bytes, mut spots) = (Vec::new(), BTreeSet::new());
        for chunk in &content.refs {
            spots.insert(self.spots[&chunk.id]);
            let piece = self.reader.chunk(chunk).unwrap();
            if content.depth == 0 {
                bytes.extend_from_slice(&piece);
                continue;
            }
            let mut refs = Vec::new();
            decode_items(&piece, |r| refs.push(r)).unwrap();
            let below = Content {
                depth: content.depth - 1,
                refs,
            };
            let (more, places) = self.read(&below);
            bytes.extend(more);
            spots.extend(places);
        }
        (bytes, spots)
    }
}

/// The four kinds of damage to one object; `other` is what it is swapped with.
fn damages(bench: &Bench, name: &str, other: &str) -> Vec<(String, Changes)> {
    let bytes = &bench.objects[name];
    let with = |what: &str, bytes: Option<Vec<u8>>| {
        (format!("{name} {what}"), vec![(name.to_owned(), bytes)])
    };
    let mut flipped = bytes.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x10;
    let swapped = vec![
        (name.to_owned(), Some(bench.objects[other].clone())),
        (other.to_owned(), Some(bytes.clone())),
    ];
    vec![
        with("deleted", None),
        with("emptied", Some(Vec::new())),
        with("cut in half", Some(bytes[..bytes.len() / 2].to_vec())),
        with("cut by a byte", Some(bytes[..bytes.len() - 1].to_vec())),
        with("longer by a byte", Some([&bytes[..], b"x"].concat())),
        with("with a flipped bit", Some(flipped)),
        (format!("{name} swapped with {other}"), swapped),
    ]
}

fn hash_of(name: &str) -> ObjectHash {
    ObjectHash::from_hex(name.rsplit('/').next().unwrap()).unwrap()
}

#[test]
fn plain_objects_are_read_from_their_copies() {
    let bench = Bench::new();
    let keys = bench.named("keys/");
    assert_eq!(keys.len(), 2, "a key and its copy: {keys:?}");
    for (name, other) in [
        ("format", keys[0].as_str()),
        ("format.copy", keys[0].as_str()),
        (keys[0].as_str(), "format"),
        (keys[1].as_str(), "format.copy"),
    ] {
        for (what, changes) in damages(&bench, name, other) {
            bench.apply(&changes);
            let repository = bench
                .place
                .try_open()
                .unwrap_or_else(|e| panic!("{what}: {e}"));
            let named = repository.warnings().iter().map(ToString::to_string);
            let named: Vec<String> = named.collect();
            let first = changes.iter().find(|(name, _)| !name.ends_with(".copy"));
            if let Some((name, _)) = first {
                assert!(
                    named.iter().any(|n| n.contains(name.as_str())),
                    "{what}: {named:?}"
                );
            }
            bench.check(&what, changes, &|_| false);
        }
    }
}

#[test]
fn without_a_good_copy_it_is_damage_and_never_a_wrong_key() {
    let bench = Bench::new();
    let keys = bench.named("keys/");
    for names in [vec!["format".to_owned(), "format.copy".to_owned()], keys] {
        let changed = |change: &dyn Fn(&[u8]) -> Option<Vec<u8>>| -> Changes {
            let both = names.iter();
            both.map(|name| (name.clone(), change(&bench.objects[name])))
                .collect()
        };
        let flip = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            Some(bytes)
        };
        for (what, changes) in [
            ("flipped", changed(&flip)),
            (
                "cut",
                changed(&|bytes| Some(bytes[..bytes.len() / 2].to_vec())),
            ),
            ("emptied", changed(&|_| Some(Vec::new()))),
            ("deleted", changed(&|_| None)),
        ] {
            bench.apply(&changes);
            let error = bench.place.try_open().expect_err(what);
            assert_eq!(error.exit_code(), 4, "{names:?} {what}: {error}");
            bench.place.run(["snapshots"]).expect(4).in_one_line();
            bench.undo(&changes);
        }
    }
}

#[test]
fn a_broken_log_is_named_and_nothing_is_restored_from_it() {
    let bench = Bench::new();
    let entries = bench.named("log/");
    assert_eq!(entries.len(), 4, "{entries:?}");
    let last = entries[3].clone();
    for (position, name) in entries.iter().enumerate() {
        let other = &entries[(position + 1) % 4];
        for (what, changes) in damages(&bench, name, other) {
            println!("{what}");
            bench.apply(&changes);
            let repository = bench.place.open();
            let (summary, found) = verified(&repository, Depth::Data).unwrap();
            let target = tempfile::tempdir().unwrap();
            let out = target.path().join("out");
            let end = restored(&bench.place.open(), "latest", &out);
            if *name == last && changes[0].1.is_none() {
                // Without its last entry a log is a good one that is shorter; who has seen the entry notices.
                assert_eq!((summary.exit_code(), found), (0, vec![]), "{what}");
                let (restored, troubles) = end.unwrap();
                assert_eq!(
                    (restored.snapshot, troubles),
                    (bench.snapshots[0].0.id.to_string(), vec![])
                );
                bench.place.run(["snapshots"]).expect(1).says("rolled back");
            } else {
                assert_eq!(summary.exit_code(), 4, "{what}");
                let first = changes.iter().map(|(name, _)| name).min().unwrap();
                let is_named = found.iter().any(|finding| {
                    finding.object == *first || finding.what.contains(first.as_str())
                });
                assert!(is_named, "{what}: {first} in {found:#?}");
                let error = end.expect_err(&what);
                assert_eq!(error.exit_code(), 4, "{what}: {error}");
                assert!(files_below(&out).is_empty(), "{what}");
            }
            bench.undo(&changes);
        }
    }
}

#[test]
fn a_damaged_index_run_costs_the_files_that_only_it_finds() {
    let bench = Bench::new();
    let runs = bench.named("index/");
    assert_eq!(runs.len(), 2, "{runs:?}");
    for (name, other) in [(&runs[0], &runs[1]), (&runs[1], &runs[0])] {
        for (what, changes) in damages(&bench, name, other) {
            let changed: Vec<ObjectHash> = changes.iter().map(|(name, _)| hash_of(name)).collect();
            bench.check(&what, changes, &|spot| changed.contains(&spot.run));
        }
    }
}

#[test]
fn a_damaged_record_costs_its_snapshot_alone() {
    let bench = Bench::new();
    let records = bench.named("snapshots/");
    assert_eq!(records.len(), 2, "{records:?}");
    for (name, other) in [(&records[0], &records[1]), (&records[1], &records[0])] {
        for (what, changes) in damages(&bench, name, other) {
            println!("{what}");
            bench.apply(&changes);
            let names: Vec<&str> = changes.iter().map(|(name, _)| name.as_str()).collect();
            bench.check_verify(&what, &names);
            for (snapshot, files) in &bench.snapshots {
                if names.iter().any(|name| hash_of(name) == snapshot.id) {
                    let target = tempfile::tempdir().unwrap();
                    let spec = snapshot.id.to_string();
                    let error = restored(&bench.place.open(), &spec, &target.path().join("out"));
                    let error = error.expect_err(&what);
                    assert_eq!(error.exit_code(), 4, "{what}: {error}");
                } else {
                    bench.check_restore(&what, snapshot, files, &|_| false);
                }
            }
            // Nobody is given an older snapshot than the one that was asked for.
            let newest = &bench.snapshots[1].0.id;
            if names.iter().any(|name| hash_of(name) == *newest) {
                let target = tempfile::tempdir().unwrap();
                let error = restored(&bench.place.open(), "latest", target.path());
                let error = error.expect_err(&what).to_string();
                assert!(error.contains(&newest.to_string()), "{what}: {error}");
            }
            bench.undo(&changes);
        }
    }
}

#[test]
fn a_damaged_pack_costs_the_files_that_lie_in_it() {
    let bench = Bench::new();
    let packs = bench.named("packs/");
    assert!(packs.len() >= 4, "{packs:?}");
    for (position, name) in packs.iter().enumerate() {
        let other = &packs[(position + 1) % packs.len()];
        for (what, changes) in damages(&bench, name, other) {
            if what.contains("flipped") {
                // Its parts are flipped below.
                continue;
            }
            let changed: BTreeMap<ObjectHash, usize> = changes
                .iter()
                .map(|(name, bytes)| (hash_of(name), bytes.as_ref().map_or(0, Vec::len)))
                .collect();
            let swapped = changes.len() == 2;
            let lost = |spot: &Spot| match changed.get(&spot.pack) {
                None => false,
                Some(_) if swapped => true,
                // What is left of a pack that was cut can still be read.
                Some(len) => bench.extents[&(spot.pack, spot.frame)].end > *len,
            };
            bench.check(&what, changes, &lost);
        }
    }
}

#[test]
fn a_flipped_bit_in_a_pack_costs_its_frame_or_nothing() {
    let bench = Bench::new();
    for name in bench.named("packs/") {
        let pack = hash_of(&name);
        let bytes = &bench.objects[&name];
        let frames: Vec<(u32, Extent)> = bench
            .extents
            .iter()
            .filter(|((of, _), _)| *of == pack)
            .map(|((_, number), extent)| (*number, *extent))
            .collect();
        let (first, last) = (frames[0], frames[frames.len() - 1]);
        let flip = |what: &str, at: usize, lost: &dyn Fn(&Spot) -> bool| {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << (at % 8);
            let what = format!("{name}: a bit in the {what} at {at} of {}", bytes.len());
            bench.check(&what, vec![(name.clone(), Some(bytes))], lost);
        };
        let all = |spot: &Spot| spot.pack == pack;
        for at in [0, 8, 9, 10, 11, 13, 20, 30, 50, 80, 104, 120, 185] {
            flip("header", at, &all);
        }
        for (number, extent) in [first, last] {
            let of_frame = |spot: &Spot| spot.pack == pack && spot.frame == number;
            for at in [
                extent.offset,
                (extent.offset + extent.end) / 2,
                extent.end - 1,
            ] {
                flip("frame", at, &of_frame);
            }
        }
        let nothing = |_: &Spot| false;
        flip("directory", last.1.end, &nothing);
        flip("padding", bytes.len() - 33, &nothing);
        for at in [bytes.len() - 32, bytes.len() - 1] {
            flip("footer", at, &nothing);
        }
    }
}

#[test]
fn nothing_that_lies_beside_the_objects_is_damage() {
    let bench = Bench::new();
    let root = bench.place.repository_path();
    for path in [
        "notes.txt",
        "packs/readme",
        "log/old",
        "index/x.tmp",
        "tmp/left",
    ] {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "not an object").unwrap();
    }
    let (summary, _) = verified(&bench.place.open(), Depth::Data).unwrap();
    assert_eq!((summary.exit_code(), summary.damaged), (0, 0));
    for (snapshot, files) in &bench.snapshots {
        bench.check_restore("strays", snapshot, files, &|_| false);
    }
}
