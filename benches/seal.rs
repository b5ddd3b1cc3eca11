//! Sealing and opening of frames, and what an object costs besides its bytes.
//!
//! `cargo bench --bench seal`; the rates are of plaintext, on one core, with the data in the cache of the core where it fits.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use holdfast::crypto::{Credential, Keyring, NewKey, ObjectKey, Secret32, SystemRandom};
use holdfast::format::header::{SealedKind, Suite};
use holdfast::format::repository::{KdfSettings, RepositoryFormat};

const SUITES: [(Suite, &str); 2] = [
    (Suite::Aes256Gcm, "aes-256-gcm"),
    (Suite::None, "tags only"),
];

fn keyring(suite: Suite) -> Keyring {
    let id = Keyring::generate_repository_id(&mut SystemRandom);
    Keyring::generate(id, suite, None, &mut SystemRandom)
}

fn pack_key(suite: Suite) -> ObjectKey {
    let made = keyring(suite).new_object(SealedKind::Pack, 1, &mut SystemRandom);
    made.expect("the keyring has all secrets").1
}

fn frames(c: &mut Criterion) {
    for (suite, name) in SUITES {
        let key = pack_key(suite);
        let mut group = c.benchmark_group(format!("frame {name}"));
        for len in [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20] {
            group.throughput(Throughput::Bytes(len as u64));
            group.bench_function(BenchmarkId::new("seal", len), |b| {
                let mut buf = vec![0x5a; len];
                let mut number = 0;
                b.iter(|| {
                    number += 1;
                    black_box(key.seal_detached(number, &mut buf)).expect("frames are short")
                });
            });
            let mut sealed = vec![0x5a; len];
            key.seal_in_place(0, &mut sealed).expect("frames are short");
            group.bench_function(BenchmarkId::new("open", len), |b| {
                // Opening overwrites the frame: the copy is measured with it, as readers copy too.
                let mut buf = sealed.clone();
                b.iter(|| {
                    buf.copy_from_slice(&sealed);
                    black_box(key.open_in_place(0, &mut buf))
                        .expect("it was sealed so")
                        .len()
                });
            });
        }
        group.finish();
    }
}

fn objects(c: &mut Criterion) {
    let keyring = keyring(Suite::Aes256Gcm);
    let mut group = c.benchmark_group("object of 200 bytes");
    for kind in [SealedKind::Log, SealedKind::Snapshot] {
        group.bench_function(BenchmarkId::new("seal", kind), |b| {
            b.iter(|| {
                keyring
                    .seal_object(kind, 1, &[7; 200], &mut SystemRandom)
                    .expect("all secrets are there")
            });
        });
        let bytes = keyring
            .seal_object(kind, 1, &[7; 200], &mut SystemRandom)
            .expect("all secrets are there");
        group.bench_function(BenchmarkId::new("open", kind), |b| {
            b.iter(|| keyring.open_object(kind, &bytes).expect("it was sealed so"));
        });
    }
    group.finish();
}

fn keys(c: &mut Criterion) {
    let keyring = keyring(Suite::Aes256Gcm);
    let format = RepositoryFormat::new(keyring.repository_id, 0, Suite::Aes256Gcm);
    let hash = RepositoryFormat::hash_of(&format.to_bytes());
    let secret = Secret32::generate(&mut SystemRandom);
    let mut group = c.benchmark_group("unlock");
    group.sample_size(10);
    let passphrase = NewKey::passphrase(
        b"correct horse battery staple",
        KdfSettings::default(),
        "",
        0,
    );
    for (name, new) in [
        ("key file", NewKey::key_file(&secret, "", 0)),
        ("passphrase", passphrase),
    ] {
        let object = keyring
            .wrap(&new, &hash, &mut SystemRandom)
            .expect("all secrets are there");
        group.bench_function(name, |b| {
            let credential: Credential<'_> = new.credential;
            b.iter_batched(
                || (),
                |()| {
                    Keyring::unwrap(&object, credential, &format, &hash)
                        .expect("the right credential")
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, frames, objects, keys);
criterion_main!(benches);
