//! Damage of every kind, in small repositories in memory.

use std::sync::{Arc, Mutex};

use super::*;
use crate::backend::{Memory, ObjectKind, ObjectName};
use crate::format::header::Suite;
use crate::ops::backup::Interrupt;
use crate::ops::testing::{back_up, create, key, noise, sample_tree};
use crate::store::{Ambient, KeySecret};

fn filled(suite: Suite) -> Arc<Memory> {
    let backend = Arc::new(Memory::default());
    let repository = create(backend.clone(), suite);
    let folder = tempfile::tempdir().unwrap();
    sample_tree(folder.path());
    back_up(&repository, folder.path());
    std::fs::write(folder.path().join("a/b/later"), noise(77, 90_000)).unwrap();
    back_up(&repository, folder.path());
    backend
}

/// A small one, so that many flips are quick.
fn tiny(suite: Suite) -> Arc<Memory> {
    let backend = Arc::new(Memory::default());
    let repository = create(backend.clone(), suite);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), noise(1, 6000)).unwrap();
    std::fs::write(folder.path().join("b"), "text\n".repeat(900)).unwrap();
    back_up(&repository, folder.path());
    backend
}

fn open(backend: &Arc<Memory>) -> Result<Arc<Repository>, StoreError> {
    let mut unlock = |_: &crate::store::KeyInfo| Some(KeySecret::Key(key()));
    Repository::open(backend.clone(), "test", &mut unlock, Ambient::default()).map(Arc::new)
}

fn run(backend: &Arc<Memory>, depth: Depth) -> Result<(VerifySummary, Vec<Finding>)> {
    let repository = open(backend)?;
    let found = Mutex::new(Vec::new());
    let options = VerifyOptions {
        depth,
        threads: Some(1),
        ..VerifyOptions::default()
    };
    let each = |finding: &Finding| found.lock().unwrap().push(finding.clone());
    let summary = verify(
        &repository,
        &options,
        &Arc::default(),
        &Interrupt::default(),
        &each,
    )?;
    Ok((summary, found.into_inner().unwrap()))
}

fn no_key(backend: &Arc<Memory>) -> VerifySummary {
    without_key(
        &**backend,
        Some(1),
        &Arc::default(),
        &Interrupt::default(),
        &|_| {},
    )
    .unwrap()
}

/// What a command would end with.
fn exit(result: Result<(VerifySummary, Vec<Finding>)>) -> u8 {
    match result {
        Ok((summary, _)) => summary.exit_code(),
        Err(e) => e.exit_code(),
    }
}

#[test]
fn a_good_repository_is_good() {
    for suite in [Suite::Aes256Gcm, Suite::None] {
        let backend = filled(suite);
        for depth in [Depth::Structure, Depth::Data, Depth::EndToEnd] {
            let (summary, found) = run(&backend, depth).unwrap();
            assert_eq!(found, [], "{depth:?}");
            assert_eq!(summary.exit_code(), 0);
            assert_eq!(summary.snapshots, 2);
            assert!(
                summary.files >= 60 && summary.packs >= 3 && summary.chunks > 100,
                "{summary:?}"
            );
        }
        let summary = no_key(&backend);
        assert_eq!(summary.damaged, 0);
        assert!(summary.packs >= 3 && summary.bytes_read > 700_000 && summary.unchecked >= 4);
    }
}

#[test]
fn one_snapshot_can_be_asked_for() {
    let backend = filled(Suite::Aes256Gcm);
    let repository = open(&backend).unwrap();
    let options = |snapshot: &str| VerifyOptions {
        snapshot: Some(snapshot.into()),
        depth: Depth::EndToEnd,
        threads: Some(2),
        host: None,
    };
    let verify = |snapshot: &str| {
        verify(
            &repository,
            &options(snapshot),
            &Arc::default(),
            &Interrupt::default(),
            &|f| panic!("{f}"),
        )
    };
    let (all, first) = (verify("latest").unwrap(), verify("latest~1").unwrap());
    assert_eq!((all.snapshots, first.snapshots), (1, 1));
    assert!(
        first.packs < all.packs,
        "the second backup has packs of its own"
    );
    assert!(verify("nothing").is_err());
}

/// Flips a bit of one byte of an object, and says what verify finds.
fn flip(backend: &Arc<Memory>, name: &ObjectName, at: usize) -> (u8, u8) {
    let good = backend.contents()[name].clone();
    let mut bad = good.to_vec();
    bad[at] ^= 1 << (at % 8);
    backend.replace(name, bad);
    let with_key = exit(run(backend, Depth::Data));
    let without = no_key(backend).exit_code();
    backend.replace(name, good);
    (with_key, without)
}

#[test]
fn every_flip_is_found() {
    for suite in [Suite::Aes256Gcm, Suite::None] {
        let backend = tiny(suite);
        let objects = backend.contents();
        let mut flips = 0;
        for (name, bytes) in &objects {
            // All of the beginning and the end, where the structure is; a sample of the rest.
            let dense = |at: &usize| *at < 12 || bytes.len() - at <= 34 || at.is_multiple_of(61);
            for at in (0..bytes.len()).filter(dense) {
                let (with_key, without) = flip(&backend, name, at);
                assert_eq!(with_key, 4, "{name} at {at}");
                if name.kind() != ObjectKind::Log {
                    assert_eq!(without, 4, "{name} at {at}, without a key");
                }
                flips += 1;
            }
        }
        assert!(flips > 300, "{flips}");
        assert_eq!(
            exit(run(&backend, Depth::Data)),
            0,
            "every flip was taken back"
        );
    }
}

#[test]
fn everything_that_is_gone_is_missed() {
    let backend = filled(Suite::Aes256Gcm);
    for (name, bytes) in backend.contents() {
        backend.remove(&name);
        let code = exit(run(&backend, Depth::Structure));
        backend.replace(&name, bytes.clone());
        // Without its last entry the log is a good one that is shorter.
        let end = run(&backend, Depth::Structure)
            .map(|_| open(&backend).unwrap().read_state().unwrap().seq());
        let is_last = name.seq().is_some() && name.seq() == end.ok();
        assert_eq!(code == 4, !is_last, "{name} deleted: {code}");
        if name.kind() == ObjectKind::Heartbeat {
            continue;
        }
        backend.replace(&name, bytes.slice(..bytes.len() / 2));
        assert_eq!(exit(run(&backend, Depth::Structure)), 4, "{name} cut");
        backend.replace(&name, bytes);
    }
}

#[test]
fn affected_files_are_named() {
    let backend = filled(Suite::Aes256Gcm);
    let (name, bytes) = backend
        .contents()
        .into_iter()
        .filter(|(name, _)| name.kind() == ObjectKind::Pack)
        .max_by_key(|(_, bytes)| bytes.len())
        .unwrap();
    let mut bad = bytes.to_vec();
    bad[5000] ^= 1;
    backend.replace(&name, bad);
    let (summary, found) = run(&backend, Depth::Data).unwrap();
    assert_eq!(summary.damaged, 1, "{found:?}");
    assert!(summary.affected >= 1, "{found:?}");
    let affected: Vec<_> = found
        .iter()
        .filter(|f| f.kind == FindingKind::Affected)
        .collect();
    assert!(affected.iter().all(|f| f.path.is_some()), "{affected:?}");
    assert!(
        summary.affected < summary.files / 2,
        "one frame is not everything"
    );
    // End to end the same: an affected file is not read again and not counted twice.
    let (again, _) = run(&backend, Depth::EndToEnd).unwrap();
    assert_eq!(
        (again.damaged, again.affected),
        (summary.damaged, summary.affected)
    );
    // Padding belongs to no file.
    let mut bad = bytes.to_vec();
    let at = bad.len() - 40;
    bad[at] ^= 1;
    backend.replace(&name, bad);
    let (summary, found) = run(&backend, Depth::Data).unwrap();
    assert_eq!((summary.damaged, summary.affected), (1, 0), "{found:?}");
}

#[test]
fn a_stranger_is_no_repository() {
    let error = without_key(
        &Memory::default(),
        None,
        &Arc::default(),
        &Interrupt::default(),
        &|_| {},
    );
    assert_eq!(error.unwrap_err().exit_code(), 10);
}
