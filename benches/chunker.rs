//! How fast streams are cut by each kernel, contents hashed, big files read in segments and frames compressed: `cargo bench --bench chunker`,
//! in bytes of plaintext.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a measurement, and criterion's macros make undocumented functions"
)]

mod common;

use std::hint::black_box;
use std::sync::{Arc, mpsc};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use holdfast::backend::Memory;
use holdfast::crypto::ContentHasher;
use holdfast::error::Result;
use holdfast::format::id::ChunkId;
use holdfast::format::pack::Encoding;
use holdfast::pipeline::chunker::{
    Chunker, ChunkerDomain, ChunkerKey, ChunkerParams, Kernel, RowCutter,
};
use holdfast::pipeline::frames::{FRAME_TARGET_BYTES, FrameCodec};
use holdfast::pipeline::worker::{ChunkStore, Claim, WorkerParts};
use holdfast::pipeline::{
    ItemWriter, Pool, ReadAt, SegmentedItem, SegmentsEnd, StreamKind, Unreadable, Worker,
};
use holdfast::stats::Stats;
use holdfast::store::packs::NewFrame;

const DATA_BYTES: usize = 64 << 20;

/// Bytes without structure.
fn random(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

/// Rows of a table: a number, a few words out of a thousand, a time. zstd makes a third of it.
fn rows(length: usize) -> Vec<u8> {
    let mut choices = random(length / 2).into_iter().cycle();
    let mut choose =
        |bound: u16| u16::from_le_bytes([choices.next().unwrap(), choices.next().unwrap()]) % bound;
    let mut bytes = Vec::with_capacity(length + 200);
    let mut number = 0_u64;
    while bytes.len() < length {
        number += 1;
        let (hour, minute) = (choose(24), choose(60));
        bytes.extend(format!("{number}\t2026-03-14 {hour:02}:{minute:02}:00\t").into_bytes());
        for _ in 0..choose(16) {
            bytes.extend(format!("w{:x}rd ", choose(1000)).into_bytes());
        }
        bytes.extend(b"\t\\N\tf\n");
    }
    bytes.truncate(length);
    bytes
}

fn data() -> [(&'static str, Vec<u8>); 2] {
    [("text", rows(DATA_BYTES)), ("random", random(DATA_BYTES))]
}

fn chunker(domain: ChunkerDomain, avg_bytes: u32, kernel: Kernel) -> Chunker {
    let key = ChunkerKey::derive(&[0x42; 32], domain);
    Chunker::with_kernel(&key, ChunkerParams::for_average(avg_bytes).unwrap(), kernel).unwrap()
}

fn cut(c: &mut Criterion) {
    let mut group = c.benchmark_group("cut");
    group.throughput(Throughput::Bytes(DATA_BYTES as u64));
    for (name, data) in data() {
        for kernel in Kernel::available() {
            for avg in [16 << 10, 64 << 10] {
                let chunker = chunker(ChunkerDomain::Files, avg, kernel);
                let id = BenchmarkId::new(format!("{}/{}K", kernel.name(), avg >> 10), name);
                let mut lengths = Vec::with_capacity(DATA_BYTES / 4096);
                group.bench_function(id, |b| {
                    b.iter(|| {
                        lengths.clear();
                        black_box(chunker.cut_all(black_box(&data), true, &mut lengths))
                    });
                });
            }
        }
    }
    group.finish();
}

fn cut_rows(c: &mut Criterion) {
    let mut group = c.benchmark_group("rows");
    group.throughput(Throughput::Bytes(DATA_BYTES as u64));
    let data = rows(DATA_BYTES);
    let rows: Vec<&[u8]> = data.split_inclusive(|&byte| byte == b'\n').collect();
    group.bench_function("8K", |b| {
        b.iter_batched(
            || chunker(ChunkerDomain::Tables, 8 << 10, Kernel::detect()),
            |chunker| {
                let mut cutter = RowCutter::new(chunker, RowCutter::BATCH_BYTES);
                let mut chunks = 0;
                for &row in &rows {
                    let mut row = row;
                    while !row.is_empty() {
                        row = cutter.push(row);
                        if let Some(batch) = cutter.take_full() {
                            chunks += batch.lengths.len();
                            cutter.recycle(batch);
                        }
                    }
                }
                chunks + cutter.finish().map_or(0, |batch| batch.lengths.len())
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame");
    group.throughput(Throughput::Bytes(FRAME_TARGET_BYTES as u64));
    for (name, data) in data() {
        let plain = &data[..FRAME_TARGET_BYTES];
        let mut codec = FrameCodec::new(FrameCodec::LEVEL_DEFAULT).unwrap();
        let mut out = Vec::new();
        group.bench_function(BenchmarkId::new("compress", name), |b| {
            b.iter(|| codec.compress(black_box(plain), &mut out).unwrap());
        });
        let encoding = codec.compress(plain, &mut out).unwrap();
        assert_eq!(encoding == Encoding::Raw, name == "random");
        let mut back = Vec::new();
        group.bench_function(BenchmarkId::new("decompress", name), |b| {
            b.iter(|| {
                codec
                    .decompress(encoding, black_box(&out), plain.len(), &mut back)
                    .unwrap();
            });
        });
    }
    group.finish();
}

/// The plain digest: the crate in one call, pieces as a reader hands them over, holes that are seen for the first time and again.
fn digest(c: &mut Criterion) {
    let mut group = c.benchmark_group("digest");
    group.throughput(Throughput::Bytes(DATA_BYTES as u64));
    let data = random(DATA_BYTES);
    group.bench_function("blake3::hash", |b| {
        b.iter(|| blake3::hash(black_box(&data)))
    });
    group.bench_function("pieces of 512K", |b| {
        b.iter(|| {
            let mut hasher = ContentHasher::new();
            for piece in black_box(&data).chunks(512 << 10) {
                hasher.update(piece);
            }
            hasher.finish()
        });
    });
    group.finish();
    let mut group = c.benchmark_group("hole");
    let mut beginning = 1_u64 << 30;
    group.throughput(Throughput::Bytes(1 << 30));
    group.bench_function("new positions", |b| {
        b.iter(|| {
            let mut hasher = ContentHasher::starting_at(beginning);
            hasher.update_zeros(1 << 30);
            beginning += 1 << 30;
        });
    });
    group.bench_function("known positions", |b| {
        b.iter(|| {
            let mut hasher = ContentHasher::starting_at(1 << 30);
            hasher.update_zeros(1 << 30);
        });
    });
    group.finish();
}

/// Everything is known, so that reading, cutting and hashing are what is measured.
#[derive(Debug)]
struct Known;

impl ChunkStore for Known {
    fn claim(&self, _: &ChunkId) -> Claim {
        Claim::Known
    }

    fn add_frame(&self, frame: NewFrame<'_>) -> Result<()> {
        frame.body.clear();
        Ok(())
    }
}

/// A file in memory; a read copies, as one from the page cache does.
struct InMemory(Arc<Vec<u8>>);

impl ReadAt for InMemory {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::result::Result<usize, Unreadable> {
        let rest = &self.0[usize::try_from(offset).unwrap()..];
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}

#[derive(Clone, Copy)]
enum Way {
    Inline,
    Queued,
    Segments,
}

const WORKERS: usize = 2;

fn store_file(parts: &WorkerParts, data: &Arc<Vec<u8>>, way: Way) -> u64 {
    let pool = Pool::new(WORKERS, 32 << 20, 4096, parts);
    let size = data.len() as u64;
    let kind = StreamKind::File { size };
    let windows = |mut writer: ItemWriter<'_>| {
        let mut window = vec![0; 512 << 10];
        for piece in data.chunks(window.len()) {
            let window = &mut window[..piece.len()];
            window.copy_from_slice(piece);
            writer.write(window).unwrap();
        }
        writer.finish_wait().unwrap().bytes
    };
    std::thread::scope(|scope| {
        if matches!(way, Way::Inline) {
            let mut worker = Worker::new(parts.clone()).unwrap();
            return windows(ItemWriter::inline(&mut worker, kind, true));
        }
        for _ in 0..WORKERS {
            scope.spawn(|| pool.work(&mut Worker::new(parts.clone()).unwrap()));
        }
        let bytes = if matches!(way, Way::Queued) {
            windows(ItemWriter::queued(&pool.source_queue(), kind, true))
        } else {
            let (sender, receiver) = mpsc::channel();
            let (for_job, source) = (pool.clone(), Box::new(InMemory(data.clone())));
            let job = Box::new(move |worker: &mut Worker| {
                let done = Box::new(move |_: &mut Worker, end| {
                    sender.send(end).unwrap();
                    Ok(())
                });
                SegmentedItem::read(&for_job, worker, source, size, true, done)
            });
            assert!(pool.try_spawn(job).unwrap().is_none());
            let SegmentsEnd::Stored(item) = receiver.recv().unwrap() else {
                panic!("all of it can be read")
            };
            item.bytes
        };
        pool.close();
        bytes
    })
}

fn big_file(c: &mut Criterion) {
    let repository = common::repository(Arc::new(Memory::default()));
    let parts = WorkerParts {
        store: Arc::new(Known),
        id_key: repository.keyring().chunk_id_key().unwrap(),
        file_chunker: chunker(ChunkerDomain::Files, 16 << 10, Kernel::detect()),
        table_chunker: chunker(ChunkerDomain::Tables, 8 << 10, Kernel::detect()),
        split_key: [1; 32],
        frame_bytes: 1 << 20,
        level: 1,
        small_file_bytes: 64 << 10,
        stats: Arc::new(Stats::default()),
    };
    let data = Arc::new(random(8 * DATA_BYTES));
    let mut group = c.benchmark_group("duplicate file");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(data.len() as u64));
    for (name, way) in [
        ("one thread", Way::Inline),
        ("one reader, 2 workers", Way::Queued),
        ("2 workers in segments", Way::Segments),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| assert_eq!(store_file(&parts, &data, way), data.len() as u64));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = cut, cut_rows, digest, big_file, frames
}
criterion_main!(benches);
