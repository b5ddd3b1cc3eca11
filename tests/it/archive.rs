//! A sink that keeps everything in memory, for tests of sources: what comes out is a map from path to node and bytes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use holdfast::crypto::keys::Keyring;
use holdfast::crypto::random::SeededRandom;
use holdfast::error::Result;
use holdfast::format::header::Suite;
use holdfast::format::id::{ChunkId, RepositoryId};
use holdfast::format::node::{Content, Node, decode_items, decode_nodes};
use holdfast::pipeline::chunker::{Chunker, ChunkerDomain, ChunkerKey, ChunkerParams};
use holdfast::pipeline::frames::FrameCodec;
use holdfast::pipeline::worker::{ChunkStore, Claim, Worker, WorkerParts};
use holdfast::pipeline::{Pool, Sink};
use holdfast::store::packs::NewFrame;

#[derive(Debug, Default)]
struct MemoryStore {
    claimed: Mutex<HashSet<ChunkId>>,
    chunks: Mutex<HashMap<ChunkId, Vec<u8>>>,
}

impl ChunkStore for MemoryStore {
    fn claim(&self, id: &ChunkId) -> Claim {
        if self.claimed.lock().unwrap().insert(*id) {
            Claim::New
        } else {
            Claim::Known
        }
    }

    fn add_frame(&self, frame: NewFrame<'_>) -> Result<()> {
        let mut plain = Vec::new();
        let raw_len = usize::try_from(frame.raw_len).unwrap();
        FrameCodec::new(1)
            .unwrap()
            .decompress(frame.encoding, frame.body, raw_len, &mut plain)
            .unwrap();
        let mut rest = &plain[..];
        for chunk in &frame.chunks {
            let (bytes, after) = rest.split_at(usize::try_from(chunk.len).unwrap());
            self.chunks.lock().unwrap().insert(chunk.id, bytes.to_vec());
            rest = after;
        }
        Ok(())
    }
}

impl MemoryStore {
    fn expand(&self, content: &Content) -> Vec<u8> {
        let mut out = Vec::new();
        for chunk in &content.refs {
            let bytes = self.chunks.lock().unwrap()[&chunk.id].clone();
            if content.depth == 0 {
                out.extend_from_slice(&bytes);
            } else {
                let mut refs = Vec::new();
                decode_items(&bytes, |r| refs.push(r)).unwrap();
                out.extend(self.expand(&Content {
                    depth: content.depth - 1,
                    refs,
                }));
            }
        }
        out
    }

    fn collect(&self, prefix: &str, directory: &Content, into: &mut Archive) {
        for node in decode_nodes(&self.expand(directory)).unwrap() {
            let path = format!("{prefix}{}", String::from_utf8_lossy(&node.name));
            if node.is_directory() {
                self.collect(&format!("{path}/"), &node.content, into);
            } else {
                let bytes = self.expand(&node.content);
                into.files.insert(path, (node, bytes));
            }
        }
    }
}

/// What a source has put into the sink.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    pub(crate) files: BTreeMap<String, (Node, Vec<u8>)>,
}

impl Archive {
    pub(crate) fn bytes(&self, path: &str) -> &[u8] {
        &self
            .files
            .get(path)
            .unwrap_or_else(|| panic!("{path} is not in {:?}", self.files.keys()))
            .1
    }
}

/// Runs a source with two workers; returns what it returned and what it stored.
pub(crate) fn collect<R>(source: impl FnOnce(&Sink) -> R) -> (R, Archive) {
    let keyring = Keyring::generate(
        RepositoryId([1; 16]),
        Suite::Aes256Gcm,
        None,
        &mut SeededRandom::new(1),
    );
    let chunker = |domain| {
        Chunker::new(
            &ChunkerKey::derive(&[7; 32], domain),
            ChunkerParams::for_average(8192).unwrap(),
        )
        .unwrap()
    };
    let store = Arc::new(MemoryStore::default());
    let parts = WorkerParts {
        store: store.clone(),
        id_key: keyring.chunk_id_key().unwrap(),
        file_chunker: chunker(ChunkerDomain::Files),
        table_chunker: chunker(ChunkerDomain::Tables),
        split_key: [3; 32],
        frame_bytes: 1 << 20,
        level: 1,
        small_file_bytes: 64 << 10,
        stats: Arc::default(),
    };
    let scratch = tempfile::tempdir().unwrap();
    let pool = Pool::new(2, 8 << 20, 100, &parts);
    let sink = Sink::new(pool.clone(), parts.stats.clone(), 16 << 20, scratch.path());
    let result = std::thread::scope(|scope| {
        for _ in 0..2 {
            let (pool, parts) = (pool.clone(), parts.clone());
            scope.spawn(move || {
                let mut worker = Worker::new(parts).unwrap();
                pool.work(&mut worker);
                worker.flush().unwrap();
            });
        }
        let result = source(&sink);
        pool.close();
        result
    });
    if let Some(error) = pool.take_error() {
        panic!("{error}");
    }
    let mut worker = Worker::new(parts).unwrap();
    let (tree, _skipped) = sink.finish(&mut worker).unwrap();
    worker.flush().unwrap();
    let mut archive = Archive::default();
    store.collect("", &tree.root, &mut archive);
    (result, archive)
}
