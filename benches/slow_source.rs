//! A source that answers every call after 5 ms, read by 64 threads of its own, for two workers: a share behind a slow link.
//!
//! `cargo bench --bench slow_source`; a file costs three calls (open, read, close), so 64 readers can do 4266 files a second at best. What
//! is measured is how near the pipeline comes to that while its two workers never wait for the source.
#![allow(
    missing_docs,
    clippy::cast_possible_truncation,
    reason = "a measurement, and criterion's macros make undocumented functions"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use holdfast::backend::Memory;
use holdfast::error::Result;
use holdfast::format::id::ChunkId;
use holdfast::pipeline::chunker::{Chunker, ChunkerDomain, ChunkerKey, ChunkerParams};
use holdfast::pipeline::worker::{ChunkStore, Claim, WorkerParts};
use holdfast::pipeline::{ItemWriter, Pool, SourceQueue, StreamKind, Worker};
use holdfast::stats::Stats;
use holdfast::store::packs::NewFrame;

const READERS: usize = 64;
const WORKERS: usize = 2;
const CALL: Duration = Duration::from_millis(5);
const FILES: usize = 2000;
const FILE_BYTES: usize = 32 << 10;

/// Everything is new, and nothing is kept: the source is what is measured.
#[derive(Debug, Default)]
struct Nowhere;

impl ChunkStore for Nowhere {
    fn claim(&self, _: &ChunkId) -> Claim {
        Claim::New
    }

    fn add_frame(&self, frame: NewFrame<'_>) -> Result<()> {
        frame.body.clear();
        Ok(())
    }
}

fn parts() -> WorkerParts {
    let repository = common::repository(Arc::new(Memory::default()));
    let chunker = |domain, average| {
        let params = ChunkerParams::for_average(average).expect("a usual average");
        Chunker::new(&ChunkerKey::derive(&[7; 32], domain), params).expect("good parameters")
    };
    WorkerParts {
        store: Arc::new(Nowhere),
        id_key: repository.keyring().chunk_id_key().expect("all secrets"),
        file_chunker: chunker(ChunkerDomain::Files, 16 << 10),
        table_chunker: chunker(ChunkerDomain::Tables, 8 << 10),
        split_key: [1; 32],
        frame_bytes: 1 << 20,
        level: 1,
        small_file_bytes: 64 << 10,
        stats: Arc::new(Stats::default()),
    }
}

/// Reads files until none is left; every call takes its time.
fn read(
    queue: &SourceQueue,
    next: &AtomicUsize,
    done: &Arc<AtomicUsize>,
    bytes: &[u8],
) -> Result<()> {
    while next.fetch_add(1, Ordering::Relaxed) < FILES {
        std::thread::sleep(CALL);
        let kind = StreamKind::File {
            size: FILE_BYTES as u64,
        };
        let mut writer = ItemWriter::queued(queue, kind, true);
        std::thread::sleep(CALL);
        writer.write(bytes)?;
        std::thread::sleep(CALL);
        let done = done.clone();
        writer.finish(Box::new(move |_, item| {
            assert_eq!(item.bytes, FILE_BYTES as u64);
            done.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }))?;
    }
    Ok(())
}

fn run(parts: &WorkerParts, bytes: &[u8]) {
    let pool = Pool::new(WORKERS, 32 << 20, 4096, parts);
    let (next, done) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| pool.work(&mut Worker::new(parts.clone()).expect("a worker")));
        }
        let readers: Vec<_> = (0..READERS)
            .map(|_| {
                let (queue, next, done) = (pool.source_queue(), &next, &done);
                scope.spawn(move || {
                    read(&queue, next, done, bytes)?;
                    queue.drain()
                })
            })
            .collect();
        for reader in readers {
            reader.join().expect("no panic").expect("no error");
        }
        pool.close();
    });
    assert_eq!(done.load(Ordering::Relaxed), FILES);
}

fn slow_source(c: &mut Criterion) {
    let parts = parts();
    let bytes = common::text(1, FILE_BYTES);
    let mut group = c.benchmark_group("5 ms a call, 64 readers, 2 workers");
    group.sample_size(10);
    group.throughput(Throughput::Elements(FILES as u64));
    group.bench_function("files of 32 KiB", |b| b.iter(|| run(&parts, &bytes)));
    group.finish();
}

criterion_group!(benches, slow_source);
criterion_main!(benches);
