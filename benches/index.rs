//! The index of a large repository: what it costs to make, to open and to ask.
//!
//! `cargo bench --bench index` makes a repository of a million chunks; `HOLDFAST_INDEX_ENTRIES=100000000 HOLDFAST_INDEX_FOLDER=/scratch cargo
//! bench --bench index` one of a hundred million, which takes 4 GB for the runs, 6.5 GB for the cache and as much again while it is merged.
//! A repository that is there already is used again. Packs are empty files, runs and the log are what a backup writes.
//!
//! Each part is a process of its own; its memory is given as it was at most (`VmHWM`), which includes 32 bytes for each id that is asked for.
//! "Random" ids are in no order; "pack-local" ones stand as a backup stored them. "Cold" means that the pages of the cache's files were given back.
#![allow(
    missing_docs,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    reason = "a measurement that prints"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use holdfast::backend::{Backend, Local, ObjectKind, ObjectName};
use holdfast::crypto::{Keyring, NewKey, Secret32, SystemRandom};
use holdfast::format::header::{SealedKind, Suite};
use holdfast::format::id::{ChunkId, ObjectHash};
use holdfast::format::index::{IndexEntry, IndexRun, RUN_ENTRIES_TARGET, RunFrame, RunPack};
use holdfast::format::repository::RepositoryFormat;
use holdfast::format::snapshot::Record;
use holdfast::store::chunk_index::{ChunkIndex, IdSet, cache};
use holdfast::store::{Ambient, CreateOptions, KeySecret, Repository};

const PACK_CHUNKS: u64 = 4096;
const FRAMES: u32 = 64;
const LOOK_UPS: usize = 200_000;
const LOCAL: u64 = 1_000_000;

fn id(number: u64) -> ChunkId {
    ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn ambient(folder: &Path) -> Ambient {
    Ambient {
        cache: Some(folder.join("cache")),
        ..Ambient::default()
    }
}

fn open(folder: &Path) -> Arc<Repository> {
    let backend: Arc<dyn Backend> =
        Arc::new(Local::new(folder.join("repository")).expect("a place"));
    let mut unlock = |_: &holdfast::store::KeyInfo| Some(KeySecret::Key(key()));
    let opened = Repository::open(backend, "bench", &mut unlock, ambient(folder));
    Arc::new(opened.expect("the repository that was made"))
}

fn key() -> Secret32 {
    Secret32::take(&mut [9; 32])
}

/// A run of whole packs, from chunk `first` on.
fn run(first: u64, entries: u64) -> IndexRun {
    let frame = RunFrame {
        raw_len: 1 << 20,
        ..RunFrame::default()
    };
    let mut run = IndexRun::default();
    for pack in 0..entries.div_ceil(PACK_CHUNKS) {
        let first = first + pack * PACK_CHUNKS;
        run.packs.push(RunPack {
            name: ObjectHash::of(&first.to_le_bytes()),
            len: 0,
            frames: vec![frame; FRAMES as usize],
        });
        let per_frame = u32::try_from(PACK_CHUNKS).expect("small") / FRAMES;
        let count = PACK_CHUNKS.min(entries - pack * PACK_CHUNKS);
        run.entries.extend(
            (first..first + count)
                .zip(0u32..)
                .map(|(number, place)| IndexEntry {
                    id: id(number),
                    pack: u32::try_from(pack).expect("few packs"),
                    frame: place / per_frame,
                    offset: (place % per_frame) << 14,
                    len: 1 << 14,
                }),
        );
    }
    run.entries.sort_unstable();
    run
}

fn make(folder: &Path, entries: u64) {
    let place = folder.join("repository");
    if place.is_dir() {
        return;
    }
    let begun = Instant::now();
    std::fs::create_dir_all(&place).expect("a folder");
    let id = Keyring::generate_repository_id(&mut SystemRandom);
    let secret = key();
    let options = CreateOptions {
        format: RepositoryFormat::new(id, 0, Suite::Aes256Gcm),
        keyring: Keyring::generate(id, Suite::Aes256Gcm, None, &mut SystemRandom),
        keys: vec![NewKey::key_file(&secret, "bench", 0)],
    };
    let backend: Arc<dyn Backend> = Arc::new(Local::new(&place).expect("a place"));
    let made = Repository::create(backend.clone(), "bench", &options, ambient(folder));
    let repository = Arc::new(made.expect("an empty place"));
    let session = repository.open_session().expect("a session");
    let mut runs = holdfast::store::RunsDurable::default();
    let mut first = 0;
    while first < entries {
        let count = u64::try_from(RUN_ENTRIES_TARGET)
            .expect("small")
            .min(entries - first);
        let run = run(first, count);
        for pack in &run.packs {
            let name = ObjectName::hashed(ObjectKind::Pack, pack.name.0);
            let path = place.join(name.to_string());
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, []).expect("an empty pack");
        }
        let name = repository
            .put_object(SealedKind::Index, session.number(), &run.encode())
            .expect("a run");
        runs.extend(session.adopt_run(&name).expect("it was just written"));
        first += count;
    }
    let record = session
        .write_record(&Record::default(), &runs)
        .expect("a record");
    let none = std::collections::HashSet::new();
    session
        .commit(&record, &runs, &none, &[])
        .expect("a commit");
    println!(
        "repository of {entries} chunks in {} runs made in {:.1} s",
        runs.names().count(),
        begun.elapsed().as_secs_f64()
    );
}

fn status(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find(|line| line.starts_with(field));
    let kb = line.and_then(|line| line.split_whitespace().nth(1));
    kb.and_then(|kb| kb.parse::<f64>().ok()).expect("a number") / 1024.0
}

fn say(what: &str, value: &str) {
    println!(
        "{what:46} {value:>22}   {:7.1} MB at most, {:6.1} now",
        status("VmHWM"),
        status("VmRSS")
    );
}

fn index(folder: &Path) -> ChunkIndex {
    let repository = open(folder);
    let state = repository.read_state().expect("the log");
    let begun = Instant::now();
    let index = cache::open(&repository, &state, &mut |e| panic!("{e}")).expect("the index");
    let ms = begun.elapsed().as_secs_f64() * 1e3;
    say(
        &format!("open {index:?}")[..46.min(format!("open {index:?}").len())],
        &format!("{ms:.2} ms"),
    );
    index
}

/// Numbers below `below`, in no order.
fn random(seed: u64, below: u64) -> impl Iterator<Item = u64> {
    (0u64..).map(move |n| {
        let hash = blake3::hash(&[n.to_le_bytes(), seed.to_le_bytes()].concat());
        u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("32 bytes")) % below
    })
}

fn time(what: &str, ids: &[ChunkId], expected: bool, look_up: impl Fn(&ChunkId) -> bool) {
    let begun = Instant::now();
    let found = ids.iter().filter(|id| look_up(id)).count();
    let ns = begun.elapsed().as_secs_f64() * 1e9 / ids.len() as f64;
    assert_eq!(found, if expected { ids.len() } else { 0 });
    say(what, &format!("{ns:.0} ns"));
}

fn give_back(folder: &Path) {
    let mut folders = vec![folder.join("cache")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("the cache").flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
                continue;
            }
            let file = std::fs::File::open(entry.path()).expect("a file");
            file.sync_all().expect("synced");
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
        }
    }
}

fn child(part: &str, folder: &Path, entries: u64) {
    if part == "make the cache" {
        let repository = open(folder);
        let state = repository.read_state().expect("the log");
        let begun = Instant::now();
        cache::settle(&repository, &state);
        return say(part, &format!("{:.1} s", begun.elapsed().as_secs_f64()));
    }
    if part == "new chunks of a run" {
        let set = IdSet::default();
        let begun = Instant::now();
        for number in 0..entries {
            assert!(set.insert(&id(number)));
        }
        let ns = begun.elapsed().as_secs_f64() * 1e9 / entries as f64;
        return say(part, &format!("{ns:.0} ns with the hash"));
    }
    if part.starts_with("cold") {
        give_back(folder);
    }
    let index = index(folder);
    let hits = |count| -> Vec<ChunkId> { random(1, entries).take(count).map(id).collect() };
    let misses = |count| -> Vec<ChunkId> {
        let numbers = random(2, u64::MAX / 2).take(count);
        numbers.map(|n| id(n + entries)).collect()
    };
    let start = entries / 3;
    let local = || -> Vec<ChunkId> { (start..(start + LOCAL).min(entries)).map(id).collect() };
    let relied = |id: &ChunkId| index.rely_on(id);
    match part {
        "open" => {}
        "cold random hits" => time(part, &hits(20_000), true, relied),
        "cold misses" => time(part, &misses(20_000), false, relied),
        "random hits" => time(part, &hits(LOOK_UPS), true, relied),
        "misses" => time(part, &misses(LOOK_UPS), false, relied),
        "pack-local hits" => time(part, &local(), true, relied),
        "one hit" => time(part, &hits(1), true, |id| index.find(id).is_some()),
        _ => {
            time("all: pack-local hits", &local(), true, relied);
            time("all: misses", &misses(LOOK_UPS), false, relied);
            time("all: random hits", &hits(LOOK_UPS), true, relied);
        }
    }
}

fn main() {
    let setting = |name: &str| std::env::var(name).ok();
    let entries =
        setting("HOLDFAST_INDEX_ENTRIES").map_or(1_000_000, |n| n.parse().expect("a number"));
    let scratch = tempfile::tempdir().expect("a folder");
    let folder =
        setting("HOLDFAST_INDEX_FOLDER").map_or(scratch.path().to_path_buf(), PathBuf::from);
    if let Some(part) = setting("HOLDFAST_INDEX_PART") {
        return child(&part, &folder, entries);
    }
    make(&folder, entries);
    let parts = [
        "make the cache",
        "open",
        "one hit",
        "pack-local hits",
        "misses",
        "random hits",
        "all",
        "cold misses",
        "cold random hits",
        "new chunks of a run",
    ];
    for part in parts {
        let own = std::env::current_exe().expect("this program");
        let child = std::process::Command::new(own)
            .env("HOLDFAST_INDEX_PART", part)
            .env("HOLDFAST_INDEX_FOLDER", &folder)
            .env("HOLDFAST_INDEX_ENTRIES", entries.to_string())
            .status();
        assert!(child.expect("it starts").success());
    }
    let size = |name: &str| {
        let out = std::process::Command::new("du")
            .args(["-sb"])
            .arg(folder.join(name))
            .output();
        String::from_utf8_lossy(&out.expect("du").stdout)
            .split('\t')
            .next()
            .map(str::to_owned)
    };
    println!(
        "bytes: repository {:?}, cache {:?}",
        size("repository"),
        size("cache")
    );
}
