//! The look-up that every chunk pays: is it in the repository, or has this run stored it already?
//!
//! `cargo bench --bench dedup`; an index of a million entries in four runs; times are for one chunk on one core, with ids in random order,
//! so nearly every look-up misses the caches, but where the order in which they were stored is said.
#![allow(
    missing_docs,
    clippy::cast_possible_truncation,
    reason = "a measurement, and criterion's macros make undocumented functions"
)]

mod common;

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use holdfast::backend::Memory;
use holdfast::format::id::{ChunkId, ObjectHash};
use holdfast::format::index::{IndexEntry, IndexRun, RunFrame, RunPack};
use holdfast::pipeline::dedup::Dedup;
use holdfast::pipeline::worker::{ChunkStore, Claim};
use holdfast::stats::Stats;
use holdfast::store::chunk_index::ChunkIndex;
use holdfast::store::packs::PackWriter;

const RUNS: u64 = 4;
const RUN_ENTRIES: u64 = 250_000;
const BATCH: usize = 10_000;

/// Ids as they come: evenly spread, in no order.
fn ids(seed: u64, count: usize) -> Vec<ChunkId> {
    let bytes = common::noise(seed, count * 32);
    let ids = bytes.chunks_exact(32).map(ChunkId::from_slice);
    ids.collect::<Option<_>>().expect("32 bytes each")
}

fn run(number: u64) -> IndexRun {
    let frame = RunFrame {
        offset: 186,
        sealed_len: 1 << 19,
        raw_len: 1 << 20,
        ..RunFrame::default()
    };
    let pack = RunPack {
        name: ObjectHash::of(&number.to_le_bytes()),
        len: 32 << 20,
        frames: vec![frame; 64],
    };
    let mut entries: Vec<IndexEntry> = ids(number, RUN_ENTRIES as usize)
        .into_iter()
        .zip(0u32..)
        .map(|(id, position)| IndexEntry {
            id,
            pack: 0,
            frame: position / 4096,
            offset: (position % 4096) << 8,
            len: 256,
        })
        .collect();
    entries.sort_unstable();
    IndexRun {
        packs: vec![pack],
        entries,
    }
}

fn index() -> Arc<ChunkIndex> {
    Arc::new(ChunkIndex::build((0..RUNS).map(run), |_| true))
}

/// `BATCH` ids that the index has, from all of its runs.
fn known() -> Vec<ChunkId> {
    let each = BATCH / RUNS as usize;
    let mut known: Vec<Vec<ChunkId>> = (0..RUNS).map(|number| ids(number, each)).collect();
    (0..each)
        .flat_map(|_| known.iter_mut().filter_map(Vec::pop).collect::<Vec<_>>())
        .collect()
}

fn look_up(c: &mut Criterion) {
    let index = index();
    let (known, unknown) = (known(), ids(77, BATCH));
    let mut group = c.benchmark_group("index of a million");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("hit", |b| {
        b.iter(|| known.iter().filter(|id| index.find(id).is_some()).count());
    });
    group.bench_function("hit and relied on", |b| {
        b.iter(|| known.iter().filter(|id| index.rely_on(id)).count());
    });
    group.bench_function("miss", |b| {
        b.iter(|| unknown.iter().filter(|id| index.find(id).is_some()).count());
    });
    group.finish();
}

fn claims(c: &mut Criterion) {
    let repository = common::repository(Arc::new(Memory::default()));
    let index = index();
    let (known, unknown) = (known(), ids(78, BATCH));
    let dedup = || {
        let session = Arc::new(repository.open_session().expect("a session"));
        let packs = PackWriter::new(session, 32 << 20, Arc::new(Stats::default()));
        Dedup::new(index.clone(), packs)
    };
    let mut group = c.benchmark_group("claim");
    group.throughput(Throughput::Elements(BATCH as u64));
    let store = dedup();
    let in_order = ids(0, BATCH);
    group.bench_function("in the repository, in the order of storing", |b| {
        b.iter(|| {
            in_order
                .iter()
                .filter(|id| store.claim(id) == Claim::New)
                .count()
        });
    });
    group.bench_function("in the repository", |b| {
        b.iter(|| {
            known
                .iter()
                .filter(|id| store.claim(id) == Claim::New)
                .count()
        });
    });
    group.sample_size(20);
    group.bench_function("new", |b| {
        b.iter_batched_ref(
            dedup,
            |store| {
                unknown
                    .iter()
                    .filter(|id| store.claim(id) == Claim::New)
                    .count()
            },
            BatchSize::PerIteration,
        );
    });
    let store = dedup();
    black_box(
        unknown
            .iter()
            .filter(|id| store.claim(id) == Claim::New)
            .count(),
    );
    group.bench_function("new before in this run", |b| {
        b.iter(|| {
            unknown
                .iter()
                .filter(|id| store.claim(id) == Claim::New)
                .count()
        });
    });
    group.finish();
}

fn build(c: &mut Criterion) {
    let runs: Vec<IndexRun> = (0..RUNS).map(run).collect();
    let encoded: Vec<Vec<u8>> = runs.iter().map(IndexRun::encode).collect();
    let mut group = c.benchmark_group("open");
    group.throughput(Throughput::Elements(RUNS * RUN_ENTRIES));
    group.sample_size(10);
    group.bench_function("decode runs", |b| {
        b.iter(|| {
            let runs = encoded.iter().map(|run| IndexRun::decode(run));
            runs.collect::<Result<Vec<_>, _>>()
                .expect("our own runs")
                .len()
        });
    });
    group.bench_function("build the index", |b| {
        b.iter_batched(
            || runs.clone(),
            |runs| ChunkIndex::build(runs, |_| true).positions(),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, look_up, claims, build);
criterion_main!(benches);
