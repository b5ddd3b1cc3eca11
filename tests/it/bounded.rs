//! Memory that does not grow with the number of entries: a directory of a million entries, of which one is a large file that comes slowly
//! and keeps the directory open.
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
use holdfast::pipeline::chunker::{Chunker, ChunkerDomain, ChunkerKey, ChunkerParams};
use holdfast::pipeline::worker::{ChunkStore, Claim, Worker, WorkerParts};
use holdfast::pipeline::{ItemWriter, Pool, Sink, StreamKind, TreePath};
use holdfast::store::packs::NewFrame;

use crate::place::noise;

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
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture"])
        .arg("bounded::child_with_one_large_directory")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    let field = |name: &str| -> usize {
        let value = said
            .split_whitespace()
            .find_map(|word| word.strip_prefix(name));
        value
            .unwrap_or_else(|| panic!("{name} in {said}"))
            .parse()
            .unwrap()
    };
    assert_eq!(field("files="), usize::try_from(ENTRIES).unwrap());
    let peak = field("peak=");
    assert!(
        peak < BOUND_MIB,
        "{peak} MiB were used, {BOUND_MIB} are allowed: {said}"
    );
}
