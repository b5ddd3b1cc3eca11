//! Backups of small trees into memory.

use std::sync::Arc;

use super::*;
use crate::backend::{Backend, ObjectKind};
use crate::format::header::Suite;
use crate::format::node::NodeKind;
use crate::ops::snapshots::{self, node_at, open_reader};
use crate::ops::testing::{back_up, create, noise, reopen, repository, sample_tree};
use crate::store::tree::read_all;

fn objects(backend: &dyn Backend, kind: ObjectKind) -> usize {
    let mut count = 0;
    backend.list(kind, &mut |_| count += 1).unwrap();
    count
}

fn read(repository: &Arc<Repository>, path: &str) -> Vec<u8> {
    let state = repository.read_state().unwrap();
    let snapshot = snapshots::list(repository, &state, &mut |e| panic!("{e}"))
        .unwrap()
        .pop()
        .unwrap();
    let reader = open_reader(repository, &state, Some(snapshot.id), &mut |e| {
        panic!("{e}")
    })
    .unwrap();
    let node = node_at(&reader, &snapshot.record.root, path.as_bytes()).unwrap();
    assert_eq!(node.kind, NodeKind::File);
    let bytes = read_all(&reader, &node.content, 1 << 30).unwrap();
    assert_eq!(node.digest.unwrap().0, *blake3::hash(&bytes).as_bytes());
    assert_eq!(node.size, bytes.len() as u64);
    bytes
}

#[test]
fn a_tree_comes_back_and_again_stores_nothing() {
    for suite in [Suite::Aes256Gcm, Suite::None] {
        let backend = Arc::new(crate::backend::Memory::default());
        let repository = create(backend.clone(), suite);
        let folder = tempfile::tempdir().unwrap();
        sample_tree(folder.path());
        let (first, _) = back_up(&repository, folder.path());
        assert!(first.complete, "{:?}", first.components);
        let root = format!("paths{}", folder.path().display());
        assert_eq!(
            read(&repository, &format!("{root}/a/b/large")),
            noise(1000, 700_000)
        );
        assert_eq!(read(&repository, &format!("{root}/nothing")), b"");
        let packs = objects(&*backend, ObjectKind::Pack);
        assert!(packs >= 3, "{packs}");
        let (second, stats) = back_up(&repository, folder.path());
        assert!(second.complete);
        assert_eq!(stats.bytes_new.get(), 0, "an unchanged tree stores nothing");
        assert_eq!(objects(&*backend, ObjectKind::Pack), packs);
        assert_eq!(objects(&*backend, ObjectKind::Snapshot), 2);
    }
}

#[test]
fn a_change_stores_little() {
    let (_, repository) = repository();
    let folder = tempfile::tempdir().unwrap();
    sample_tree(folder.path());
    back_up(&repository, folder.path());
    let mut large = noise(1000, 700_000);
    large.splice(300_000..300_010, *b"something else");
    std::fs::write(folder.path().join("a/b/large"), &large).unwrap();
    let (summary, stats) = back_up(&repository, folder.path());
    assert!(stats.bytes_new.get() < 60_000, "{}", stats.bytes_new.get());
    assert_eq!(summary.totals.files_changed, 1);
    let path = format!("paths{}/a/b/large", folder.path().display());
    assert_eq!(read(&repository, &path), large);
}

#[test]
fn an_interrupted_run_is_continued() {
    let (backend, repository) = repository();
    let folder = tempfile::tempdir().unwrap();
    sample_tree(folder.path());
    let mut options = BackupOptions::new("host");
    options.paths.push(folder.path().to_path_buf());
    let session = Arc::new(repository.open_session().unwrap());
    let stats = Arc::new(Stats::default());
    let interrupt = Interrupt::default();
    let engine = Engine::start(&repository, &session, &options, &stats, &interrupt).unwrap();
    let taken = {
        let rest = AtRest::prepare(&repository, &options).unwrap();
        components::take_all(&engine, &options, rest)
    };
    interrupt.set();
    assert!(matches!(engine.finish(taken), Err(Error::Interrupted)));
    session.expire().unwrap();
    assert_eq!(objects(&*backend, ObjectKind::Snapshot), 0);
    let repository = reopen(backend);
    let (summary, stats) = back_up(&repository, folder.path());
    assert!(summary.complete);
    // Frames that a worker had begun are lost with it.
    assert!(
        stats.bytes_new.get() < 350_000,
        "{} bytes were stored again",
        stats.bytes_new.get()
    );
    let path = format!("paths{}/a/b/large", folder.path().display());
    assert_eq!(read(&repository, &path), noise(1000, 700_000));
}

#[test]
fn two_backups_at_once_both_stand() {
    let (backend, _) = repository();
    let folder = tempfile::tempdir().unwrap();
    sample_tree(folder.path());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let repository = reopen(backend.clone());
                assert!(back_up(&repository, folder.path()).0.complete);
            });
        }
    });
    let repository = reopen(backend);
    let state = repository.read_state().unwrap();
    assert_eq!(state.live().len(), 3);
    assert_eq!(state.sessions().count(), 0);
}

#[test]
fn what_is_missing_fails_its_component_alone() {
    let (_, repository) = repository();
    let folder = tempfile::tempdir().unwrap();
    sample_tree(folder.path());
    let mut options = BackupOptions::new("host");
    options.paths.push(folder.path().to_path_buf());
    options.paths.push("/nonexistent/share".into());
    let stats = Arc::new(Stats::default());
    let summary = backup(&repository, &options, &stats, &Interrupt::default()).unwrap();
    assert!(!summary.complete);
    let failed: Vec<_> = summary
        .components
        .iter()
        .filter(|c| c.state == ComponentState::Failed)
        .collect();
    assert_eq!(failed.len(), 1);
    assert!(
        failed[0].message.contains("/nonexistent/share"),
        "{}",
        failed[0].message
    );
    let only_missing = BackupOptions {
        paths: vec!["/nonexistent/share".into()],
        ..options.clone()
    };
    assert!(backup(&repository, &only_missing, &stats, &Interrupt::default()).is_err());
    let nothing = BackupOptions {
        paths: Vec::new(),
        ..options
    };
    assert!(backup(&repository, &nothing, &stats, &Interrupt::default()).is_err());
}

/// A prune condemns everything that the first snapshot stored, while a second run relies on it; the session of that run was expired
/// wrongly, so nothing protects it.
#[test]
fn what_a_prune_condemned_is_stored_again() {
    let (backend, repository) = repository();
    let folder = tempfile::tempdir().unwrap();
    sample_tree(folder.path());
    let (first, _) = back_up(&repository, folder.path());
    let mut options = BackupOptions::new("host");
    options.paths.push(folder.path().to_path_buf());
    let session = Arc::new(repository.open_session().unwrap());
    let stats = Arc::new(Stats::default());
    let engine = Engine::start(
        &repository,
        &session,
        &options,
        &stats,
        &Interrupt::default(),
    )
    .unwrap();
    let taken = {
        let rest = AtRest::prepare(&repository, &options).unwrap();
        components::take_all(&engine, &options, rest)
    };
    let (taken, mut stored) = engine.finish(taken).unwrap();
    assert_eq!(stats.bytes_new.get(), 0);

    repository.expire(session.number()).unwrap();
    repository.forget(&[first.snapshot]).unwrap();
    let state = repository.read_state().unwrap();
    let runs: Vec<ObjectHash> = state.index().keys().copied().collect();
    let packs = runs
        .iter()
        .flat_map(|run| repository.load_run(run).unwrap().packs)
        .map(|pack| pack.name)
        .collect();
    let list = crate::format::log::GcList {
        packs,
        runs,
        records: vec![first.snapshot],
        ..Default::default()
    };
    let bytes = minicbor::to_vec(&list).unwrap();
    let name = repository
        .put_object(crate::format::header::SealedKind::Gc, 0, &bytes)
        .unwrap();
    repository
        .append_or_refuse(&mut |state| state.validate_gc_of_a_test(name, &list, &*repository))
        .unwrap();

    let record = Record {
        root: stored.tree.root.clone(),
        components: taken.components,
        ..Record::default()
    };
    let parents: Vec<ObjectHash> = record.components.iter().filter_map(|c| c.parent).collect();
    assert_eq!(parents, [first.snapshot]);
    let durable = session.write_record(&record, &stored.runs).unwrap();
    let Commit::Lost { lost, state } = session
        .commit(&durable, &stored.runs, &stored.reused, &parents)
        .unwrap()
    else {
        panic!("the commit must not stand on condemned packs");
    };
    assert_eq!(lost.parents, parents);
    assert!(!lost.reused.is_empty());
    repair::repair(
        &session,
        &options,
        &stats,
        &record,
        &mut stored,
        &lost,
        &state,
    )
    .unwrap();
    assert!(matches!(
        session
            .commit(&durable, &stored.runs, &stored.reused, &[])
            .unwrap(),
        Commit::Done { .. }
    ));
    // Only now does the pruner delete, everything that it condemned.
    for condemned in repository.read_state().unwrap().all_condemned() {
        backend.delete(&condemned).unwrap();
    }
    let repository = reopen(backend);
    let path = format!("paths{}/a/b/large", folder.path().display());
    assert_eq!(read(&repository, &path), noise(1000, 700_000));
    assert_eq!(
        read(
            &repository,
            &format!("paths{}/a/small-007", folder.path().display())
        ),
        noise(7, 149)
    );
}

/// What a killed run left is found by the next one; a prune condemns it and the next run's session is ended, both while its sources are open.
#[test]
fn what_is_condemned_meanwhile_is_stored_again() {
    let (backend, repository) = repository();
    let folder = tempfile::tempdir().unwrap();
    sample_tree(folder.path());
    let mut options = BackupOptions::new("host");
    options.paths.push(folder.path().to_path_buf());
    let interrupt = Interrupt::default();
    let session = Arc::new(repository.open_session().unwrap());
    let stats = Arc::new(Stats::default());
    let engine = Engine::start(&repository, &session, &options, &stats, &interrupt).unwrap();
    let taken = {
        let rest = AtRest::prepare(&repository, &options).unwrap();
        components::take_all(&engine, &options, rest)
    };
    interrupt.set();
    assert!(matches!(engine.finish(taken), Err(Error::Interrupted)));
    session.expire().unwrap();

    let repository = reopen(backend.clone());
    let session = Arc::new(repository.open_session().unwrap());
    options.follow = Duration::ZERO;
    let (stats, interrupt) = (Arc::new(Stats::default()), Interrupt::default());
    let engine = Engine::start(&repository, &session, &options, &stats, &interrupt).unwrap();
    let mut garbage = crate::format::log::GcList::default();
    for (kind, names) in [
        (ObjectKind::Pack, &mut garbage.packs),
        (ObjectKind::Index, &mut garbage.runs),
    ] {
        let each = &mut |info: crate::backend::ObjectInfo| {
            names.extend(info.name.hash().map(ObjectHash));
        };
        backend.list(kind, each).unwrap();
    }
    let pruner = reopen(backend.clone());
    pruner.expire(session.number()).unwrap();
    let list = minicbor::to_vec(&garbage).unwrap();
    let list = pruner
        .put_object(crate::format::header::SealedKind::Gc, 0, &list)
        .unwrap();
    pruner
        .append_or_refuse(&mut |state| state.validate_gc_of_a_test(list, &garbage, &*pruner))
        .unwrap();
    let state = pruner.read_state().unwrap();
    for condemned in state.all_condemned() {
        backend.delete(&condemned).unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while engine.index().refused_packs() < garbage.packs.len() {
        assert!(Instant::now() < deadline, "the log is not followed");
        std::thread::sleep(Duration::from_millis(10));
    }
    let taken = {
        let rest = AtRest::prepare(&repository, &options).unwrap();
        components::take_all(&engine, &options, rest)
    };
    let (_, stored) = engine.finish(taken).unwrap();
    assert!(stored.reused.is_empty(), "{:?}", stored.reused);
    assert!(stats.bytes_new.get() > 700_000);
}
