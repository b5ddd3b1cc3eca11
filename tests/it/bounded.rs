//! Memory that does not grow with the number of entries: a directory of a million entries, of which one is a large file that comes slowly
//! and keeps the directory open. And a restore whose memory does not grow with what is restored.
//!
//! Memory belongs to a process, so the work is done by a child: this test binary itself, told to run the ignored test.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast::crypto::keys::Keyring;
use holdfast::crypto::random::SeededRandom;
use holdfast::error::Result;
use holdfast::format::header::Suite;
use holdfast::format::id::{ChunkId, RepositoryId};
use holdfast::format::node::{Node, NodeKind, Timestamp};
use holdfast::ops::window::{WINDOW_BYTES, thread_count};
use holdfast::pipeline::chunker::{Chunker, ChunkerDomain, ChunkerKey, ChunkerParams};
use holdfast::pipeline::worker::{ChunkStore, Claim, Worker, WorkerParts};
use holdfast::pipeline::{ItemWriter, Pool, Sink, StreamKind, TreePath};
use holdfast::store::packs::NewFrame;
use holdfast::store::reader::CACHE_FRAMES;

use crate::place::{Place, noise};

const ENTRIES: u64 = 1_000_000;
/// Bytes of nodes that are held in memory.
const TREE_BYTES: usize = 16 << 20;
const UNITS_BYTES: usize = 8 << 20;
const WORKERS: usize = 2;
/// The bound that `pipeline` states, with these settings: frames and windows of the workers, units in flight and one for the file, and
/// the tree's budget; and the program itself with its threads' stacks and what the allocator keeps. The nodes alone would be 150 MiB.
const BOUND_MIB: usize = WORKERS * 10 + ((UNITS_BYTES + TREE_BYTES) >> 20) + 2 + 24;

/// Takes everything and keeps nothing.
#[derive(Debug, Default)]
struct Nowhere {
    bytes: AtomicU64,
}

impl ChunkStore for Nowhere {
    fn claim(&self, _id: &ChunkId) -> Claim {
        Claim::New
    }

    fn add_frame(&self, frame: NewFrame<'_>) -> Result<()> {
        let len = u64::try_from(frame.body.len()).expect("a length fits 64 bits");
        self.bytes.fetch_add(len, Ordering::Relaxed);
        Ok(())
    }
}

fn parts(store: Arc<Nowhere>) -> WorkerParts {
    let mut random = SeededRandom::new(1);
    let keyring = Keyring::generate(RepositoryId([1; 16]), Suite::Aes256Gcm, None, &mut random);
    let chunker = |domain| {
        let key = ChunkerKey::derive(&[7; 32], domain);
        Chunker::new(&key, ChunkerParams::for_average(16 << 10).unwrap()).unwrap()
    };
    WorkerParts {
        store,
        id_key: keyring.chunk_id_key().unwrap(),
        file_chunker: chunker(ChunkerDomain::Files),
        table_chunker: chunker(ChunkerDomain::Tables),
        split_key: [3; 32],
        frame_bytes: 1 << 20,
        level: 1,
        small_file_bytes: 64 << 10,
        stats: Arc::default(),
    }
}

fn node(name: String) -> Node {
    Node {
        name: name.into_bytes(),
        kind: NodeKind::File,
        mode: 0o644,
        user: Some(b"somebody".to_vec()),
        modified: Timestamp {
            seconds: 1_700_000_000,
            nanos: 123_456_789,
        },
        inode: Some(4711),
        ..Node::default()
    }
}

/// Most memory that this process has used, in MiB.
fn peak_mib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.expect("a peak").parse::<usize>().unwrap() >> 10
}

/// Adds the entries in a bad order while the large file is on its way; returns how many nodes the tree then holds.
fn one_large_directory() -> u64 {
    let store = Arc::new(Nowhere::default());
    let parts = parts(store.clone());
    let scratch = tempfile::tempdir().unwrap();
    let pool = Pool::new(WORKERS, UNITS_BYTES, 100, &parts);
    let sink = Sink::new(
        pool.clone(),
        parts.stats.clone(),
        TREE_BYTES,
        scratch.path(),
    );
    let folder = TreePath::root().join(b"shares").join(b"Apps");
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            let (pool, parts) = (pool.clone(), parts.clone());
            scope.spawn(move || {
                let mut worker = Worker::new(parts).unwrap();
                pool.work(&mut worker);
                worker.flush().unwrap();
            });
        }
        let queue = pool.source_queue();
        let mut large = ItemWriter::queued(&queue, StreamKind::File { size: 0 }, true);
        for number in 0..ENTRIES - 1 {
            let name = format!("entry-{:07}.qvd", number * 7919 % 1_000_003);
            sink.add_node(&folder.join(name.as_bytes()), node(name))
                .unwrap();
            if number % 50_000 == 0 {
                large.write(&noise(number, 1 << 20)).unwrap();
            }
        }
        let item = large.finish_wait().unwrap();
        let mut file = node("large.qvd".to_owned());
        file.content = item.content;
        sink.add_node(&folder.join(b"large.qvd"), file).unwrap();
        pool.close();
    });
    let mut worker = Worker::new(parts).unwrap();
    let (tree, _) = sink.finish(&mut worker).unwrap();
    worker.flush().unwrap();
    assert!(store.bytes.load(Ordering::Relaxed) > 20 << 20);
    tree.subtree.files
}

#[test]
#[ignore = "run in a process of its own by a_million_entries_fit_the_stated_memory"]
fn child_with_one_large_directory() {
    let before = peak_mib();
    let files = one_large_directory();
    println!("files={files} before={before} peak={}", peak_mib());
}

#[test]
fn a_million_entries_fit_the_stated_memory() {
    let said = Said::by_child("bounded::child_with_one_large_directory");
    assert_eq!(said.field("files="), usize::try_from(ENTRIES).unwrap());
    said.assert_peak(BOUND_MIB);
}

/// What a child printed.
struct Said(String);

impl Said {
    fn by_child(test: &str) -> Self {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture", test])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}");
        Self(said)
    }

    fn field(&self, name: &str) -> usize {
        let mut words = self.0.split_whitespace();
        let value = words.find_map(|word| word.strip_prefix(name));
        let value = value.unwrap_or_else(|| panic!("{name} in {}", self.0));
        value.parse().unwrap()
    }

    fn assert_peak(&self, bound_mib: usize) {
        let peak = self.field("peak=");
        assert!(
            peak < bound_mib,
            "{peak} MiB were used, {bound_mib} are allowed: {}",
            self.0
        );
    }
}

/// What is restored.
const RESTORED_MIB: usize = 288;
/// Sealed and decoded frame of a thread that reads, with room for the largest, and its stack and decoder.
const READER_MIB: usize = 6;
/// The program itself, its index and state, the nodes of a window's files, what the allocator keeps.
const REST_MIB: usize = 30;

#[test]
#[ignore = "run in a process of its own by a_restore_fits_the_stated_memory"]
fn child_that_restores() {
    let place = Place::new();
    place.run(["init"]).expect(0);
    let tree = place.path("tree");
    // The same bytes under many names are stored once, and restored as often as there are names.
    let bytes = noise(1, 24 << 20);
    for number in 0..RESTORED_MIB / 24 {
        let folder = tree.join(format!("d{number}"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("large"), &bytes).unwrap();
        for small in 0..200 {
            std::fs::write(folder.join(format!("f{small}")), noise(small, 3000)).unwrap();
        }
    }
    drop(bytes);
    place.back_up(&tree).expect(0);
    let before = peak_mib();
    let summary = place.restore("latest", &place.path("out"));
    let files = summary.files;
    println!("files={files} before={before} peak={}", peak_mib());
}

/// `ops::window` states the bound: two windows, a frame in two forms for each thread that reads, and the frames of the tree that are kept.
#[test]
fn a_restore_fits_the_stated_memory() {
    let said = Said::by_child("bounded::child_that_restores");
    assert_eq!(said.field("files="), RESTORED_MIB / 24 * 201);
    let windows = 2 * (WINDOW_BYTES >> 20);
    // The bytes that the child itself made are gone, but count.
    let own = 24;
    said.assert_peak(windows + CACHE_FRAMES + thread_count() * READER_MIB + REST_MIB + own);
}
