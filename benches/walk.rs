//! The walk of a file tree: everything new, nothing changed, and a source that waits 5 ms at every call.
//!
//! `cargo bench --bench walk`; it makes its tree of 20 000 small files in the system's temporary directory. `WALK_DIR=/some/tree` walks
//! that once instead, with `WALK_READERS` readers where it is set, and prints what was found and the peak of memory.
#![allow(
    missing_docs,
    reason = "criterion's macros make functions without docs"
)]
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![allow(clippy::print_stdout, reason = "a bench reports on the terminal")]

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use holdfast::crypto::keys::Keyring;
use holdfast::crypto::random::SeededRandom;
use holdfast::error::{Error, Result};
use holdfast::format::header::Suite;
use holdfast::format::id::{ChunkId, RepositoryId};
use holdfast::format::node::{
    Content, Node, NodeKind, Timestamp, decode_items, decode_nodes, encode_item,
};
use holdfast::format::pack::Class;
use holdfast::pipeline::chunker::{Chunker, ChunkerDomain, ChunkerKey, ChunkerParams};
use holdfast::pipeline::frames::FrameCodec;
use holdfast::pipeline::worker::{ChunkStore, Claim, WorkerParts};
use holdfast::pipeline::{ItemWriter, Pool, Sink, StreamKind, TreePath, Worker};
use holdfast::source::files::{Parent, Roots, TreeOutcome, TreeSource, walk};
use holdfast::source::{ParentNode, ParentTree};
use holdfast::stats::Stats;
use holdfast::store::packs::NewFrame;

const FILES: u64 = 20_000;

/// Keeps chunks of the tree for a parent, drops everything else.
#[derive(Debug, Default)]
struct TreeOnly {
    chunks: Mutex<HashMap<ChunkId, Vec<u8>>>,
    keep: bool,
}

impl ChunkStore for TreeOnly {
    fn claim(&self, _: &ChunkId) -> Claim {
        Claim::New
    }

    fn add_frame(&self, frame: NewFrame<'_>) -> Result<()> {
        if frame.class != Class::Tree || !self.keep {
            return Ok(());
        }
        let mut plain = Vec::new();
        let raw_len = usize::try_from(frame.raw_len).unwrap();
        let mut codec = FrameCodec::new(1).unwrap();
        codec
            .decompress(frame.encoding, frame.body, raw_len, &mut plain)
            .unwrap();
        let mut at = 0;
        for chunk in &frame.chunks {
            let end = at + usize::try_from(chunk.len).unwrap();
            self.chunks
                .lock()
                .unwrap()
                .insert(chunk.id, plain[at..end].to_vec());
            at = end;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct InMemory(Arc<TreeOnly>);

impl InMemory {
    fn bytes(&self, content: &Content) -> Vec<u8> {
        let mut out = Vec::new();
        for chunk in &content.refs {
            let bytes = self.0.chunks.lock().unwrap()[&chunk.id].clone();
            if content.depth == 0 {
                out.extend_from_slice(&bytes);
                continue;
            }
            let mut refs = Vec::new();
            decode_items(&bytes, |item| refs.push(item)).unwrap();
            let depth = content.depth - 1;
            out.extend(self.bytes(&Content { depth, refs }));
        }
        out
    }
}

impl ParentTree for InMemory {
    fn entries(
        &self,
        directory: &Content,
    ) -> Box<dyn Iterator<Item = Result<ParentNode, Error>> + Send + '_> {
        let nodes = decode_nodes(&self.bytes(directory)).unwrap();
        Box::new(nodes.into_iter().map(|node| {
            let mut encoded = Vec::new();
            encode_item(&node, &mut encoded);
            let node = Box::new(node);
            Ok(ParentNode { node, encoded })
        }))
    }
}

fn parts(store: Arc<TreeOnly>) -> WorkerParts {
    let mut random = SeededRandom::new(1);
    let keyring = Keyring::generate(RepositoryId([1; 16]), Suite::Aes256Gcm, None, &mut random);
    let chunker = |average, domain| {
        let key = ChunkerKey::derive(&[7; 32], domain);
        Chunker::new(&key, ChunkerParams::for_average(average).unwrap()).unwrap()
    };
    WorkerParts {
        store,
        id_key: keyring.chunk_id_key().unwrap(),
        file_chunker: chunker(16 << 10, ChunkerDomain::Files),
        table_chunker: chunker(8 << 10, ChunkerDomain::Tables),
        split_key: [3; 32],
        frame_bytes: 1 << 20,
        level: 1,
        small_file_bytes: 64 << 10,
        stats: Arc::default(),
    }
}

/// Runs `feed` beside two workers and builds the tree.
fn with_workers<T: Send>(
    store: &Arc<TreeOnly>,
    feed: impl FnOnce(&Sink) -> T + Send,
) -> (T, Content) {
    let parts = parts(Arc::clone(store));
    let pool = Pool::new(2, 32 << 20, 64, &parts);
    let scratch = tempfile::tempdir().unwrap();
    let sink = Sink::new(
        pool.clone(),
        Arc::new(Stats::default()),
        64 << 20,
        scratch.path(),
    );
    let result = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut worker = Worker::new(parts.clone()).unwrap();
                pool.work(&mut worker);
                worker.flush().unwrap();
            });
        }
        let result = feed(&sink);
        pool.close();
        result
    });
    let mut worker = Worker::new(parts.clone()).unwrap();
    let (tree, _) = sink.finish(&mut worker).unwrap();
    worker.flush().unwrap();
    (result, tree.root)
}

fn source(root: &Path, readers: Option<usize>) -> TreeSource {
    let base = TreePath::root().join(b"tree");
    TreeSource {
        readers,
        ..TreeSource::new(Roots::Tree(root.to_owned()), base)
    }
}

fn once(
    source: &TreeSource,
    parent: Option<&Parent>,
    store: &Arc<TreeOnly>,
) -> (TreeOutcome, Content) {
    let now = Timestamp::default();
    let (outcome, root) = with_workers(store, |sink| walk(source, parent, now, sink));
    (outcome.unwrap(), root)
}

fn make_tree(root: &Path) {
    for number in 0..FILES {
        let directory = root.join(format!("d{:03}", number / 100));
        if number % 100 == 0 {
            std::fs::create_dir(&directory).unwrap();
        }
        let text = format!("file {number}, some words of it\n").repeat(100);
        std::fs::write(directory.join(format!("file-{number}")), text).unwrap();
    }
}

fn walks(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    make_tree(directory.path());
    let mut group = criterion.benchmark_group("walk");
    group
        .sample_size(10)
        .throughput(Throughput::Elements(FILES));
    let dropping = Arc::new(TreeOnly::default());
    for (name, readers) in [("new", Some(0)), ("new, 32 readers", Some(32))] {
        let source = source(directory.path(), readers);
        group.bench_function(name, |bench| bench.iter(|| once(&source, None, &dropping)));
    }
    let kept = Arc::new(TreeOnly {
        keep: true,
        ..TreeOnly::default()
    });
    let source = source(directory.path(), Some(0));
    let (_, root) = once(&source, None, &kept);
    let tree = Arc::new(InMemory(Arc::clone(&kept)));
    let node = *tree.entries(&root).next().unwrap().unwrap().node;
    assert_eq!(node.kind, NodeKind::Directory);
    let parent = Parent {
        tree,
        node,
        // Long after the files were written.
        started: Timestamp {
            seconds: 1 << 40,
            nanos: 0,
        },
    };
    group.bench_function("unchanged", |bench| {
        bench.iter(|| once(&source, Some(&parent), &dropping));
    });
    group.finish();
}

/// 64 readers that wait 5 ms for each of four calls a file, 2 workers.
fn sleeping_source(criterion: &mut Criterion) {
    const SLOW_FILES: usize = 3200;
    let mut group = criterion.benchmark_group("slow source");
    group.sample_size(10).throughput(Throughput::Elements(3200));
    let store = Arc::new(TreeOnly::default());
    let text = b"words of a small file on a slow share\n".repeat(100);
    group.bench_function("5 ms a call, 64 readers, 2 workers", |bench| {
        bench.iter(|| {
            with_workers(&store, |sink| {
                let queue = sink.pool.source_queue();
                std::thread::scope(|scope| {
                    for reader in 0..64 {
                        let (queue, text) = (&queue, &text);
                        scope
                            .spawn(move || read_slowly(sink, queue, text, reader, SLOW_FILES / 64));
                    }
                });
                queue.drain().unwrap();
            })
        });
    });
    group.finish();
}

fn read_slowly(
    sink: &Sink,
    queue: &holdfast::pipeline::SourceQueue,
    text: &[u8],
    reader: usize,
    files: usize,
) {
    for number in 0..files {
        std::thread::sleep(Duration::from_millis(4 * 5));
        let (sink, text) = (sink.clone(), text.to_vec());
        let name = format!("{reader}-{number}").into_bytes();
        let job = move |worker: &mut Worker| {
            let size = text.len() as u64;
            let mut writer = ItemWriter::inline(worker, StreamKind::File { size }, true);
            writer.write(&text)?;
            writer.finish(Box::new(move |_, item| {
                let path = TreePath::root().join(&name);
                let content = item.content;
                sink.add_node(
                    &path,
                    Node {
                        name,
                        size,
                        content,
                        ..Node::default()
                    },
                )
            }))
        };
        queue.submit(4096, Box::new(job)).unwrap();
    }
}

/// Walks a given tree once.
fn given(root: &Path) {
    let readers = std::env::var("WALK_READERS")
        .ok()
        .map(|text| text.parse().unwrap());
    let started = Instant::now();
    let (outcome, _) = once(&source(root, readers), None, &Arc::new(TreeOnly::default()));
    println!("{outcome:#?}\n{:?}", started.elapsed());
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    for line in status.lines().filter(|line| line.starts_with("VmHWM")) {
        println!("{line}");
    }
}

fn main() {
    if let Some(root) = std::env::var_os("WALK_DIR") {
        given(Path::new(&root));
        return;
    }
    let mut criterion = Criterion::default().configure_from_args();
    walks(&mut criterion);
    sleeping_source(&mut criterion);
    criterion.final_summary();
}
