//! A whole backup of files: walk, read, cut, hash, look up, compress, seal, write, commit.
//!
//! `cargo bench --bench pipeline`; the files lie in a temporary folder and in the page cache. *memory* is a repository in memory, *local*
//! one in a temporary folder with all its fsyncs. Set `TMPDIR` to choose the disk.
#![allow(
    missing_docs,
    clippy::cast_possible_truncation,
    reason = "a measurement, and criterion's macros make undocumented functions"
)]

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use holdfast::backend::{Backend, Local, Memory};
use holdfast::ops::backup::{BackupOptions, Interrupt, backup};
use holdfast::stats::Stats;
use holdfast::store::Repository;
use tempfile::TempDir;

/// Bytes of the cases with large files.
const BYTES: usize = 128 << 20;
const FILE_BYTES: usize = 16 << 20;
const SMALL_FILES: usize = 8000;

type Place = (Option<TempDir>, Arc<Repository>);

fn in_memory() -> Place {
    (None, common::repository(Arc::new(Memory::default())))
}

fn on_disk() -> Place {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let place = folder.path().join("repository");
    let backend: Arc<dyn Backend> = Arc::new(Local::new(place).expect("a local backend"));
    let repository = common::repository(backend);
    (Some(folder), repository)
}

fn run(repository: &Arc<Repository>, path: &Path, read_all: bool) -> u64 {
    let mut options = BackupOptions::new("bench");
    options.paths.push(path.to_path_buf());
    options.force_read = read_all;
    let stats = Arc::new(Stats::default());
    let summary = backup(repository, &options, &stats, &Interrupt::default()).expect("a backup");
    assert!(summary.complete, "{:?}", summary.components);
    summary.totals.bytes_stored
}

/// Large files, each with the bytes that `fill` gives for its number.
fn large(fill: fn(u64, usize) -> Vec<u8>) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for number in 0..BYTES / FILE_BYTES {
        let bytes = fill(number as u64, FILE_BYTES);
        fs::write(folder.path().join(format!("file-{number}")), bytes).expect("a file");
    }
    folder
}

fn small() -> (TempDir, u64) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut total = 0;
    for number in 0..SMALL_FILES {
        let dir = folder.path().join(format!("d{}", number / 200));
        fs::create_dir_all(&dir).expect("a folder");
        let bytes = common::text(number as u64, 500 + number * 37 % 12_000);
        total += bytes.len() as u64;
        fs::write(dir.join(format!("f{number}")), bytes).expect("a file");
    }
    (folder, total)
}

fn bench(c: &mut Criterion, name: &str, throughput: Throughput, path: &Path) {
    let mut group = c.benchmark_group(name);
    group.throughput(throughput);
    group.sample_size(10);
    for (place, make) in [("memory", in_memory as fn() -> Place), ("local", on_disk)] {
        group.bench_function(place, |b| {
            b.iter_batched(
                make,
                |place| {
                    run(&place.1, path, true);
                    place
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn new_data(c: &mut Criterion) {
    let bytes = Throughput::Bytes(BYTES as u64);
    let folder = large(common::text);
    bench(c, "new, compressible", bytes.clone(), folder.path());
    let folder = large(common::noise);
    bench(c, "new, incompressible", bytes.clone(), folder.path());

    let (_, repository) = in_memory();
    run(&repository, folder.path(), true);
    let mut group = c.benchmark_group("all duplicate");
    group.sample_size(10);
    group.throughput(bytes);
    group.bench_function("every byte read", |b| {
        b.iter(|| run(&repository, folder.path(), true));
    });
    group.finish();
}

fn small_files(c: &mut Criterion) {
    let (folder, _) = small();
    let count = Throughput::Elements(SMALL_FILES as u64);
    bench(c, "small files, new", count.clone(), folder.path());
    let (_, repository) = in_memory();
    run(&repository, folder.path(), true);
    let mut group = c.benchmark_group("small files, again");
    group.sample_size(10);
    group.throughput(count);
    group.bench_function("every byte read", |b| {
        b.iter(|| run(&repository, folder.path(), true));
    });
    group.bench_function("unchanged", |b| {
        b.iter(|| run(&repository, folder.path(), false));
    });
    group.finish();
}

criterion_group!(benches, new_data, small_files);
criterion_main!(benches);
