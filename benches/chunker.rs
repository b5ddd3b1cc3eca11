//! How fast streams are cut and frames are compressed: `cargo bench --bench chunker`, in bytes of plaintext.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a measurement, and criterion's macros make undocumented functions"
)]

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use holdfast::format::pack::Encoding;
use holdfast::pipeline::chunker::{
    Chunker, ChunkerDomain, ChunkerKey, ChunkerParams, Kernel, RowCutter,
};
use holdfast::pipeline::frames::{FRAME_TARGET_BYTES, FrameCodec};

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

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = cut, cut_rows, frames
}
criterion_main!(benches);
