//! Restores of small repositories into scratch directories.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Mutex;

use super::*;
use crate::backend::{Backend, Local, Memory, ObjectKind};
use crate::format::header::Suite;
use crate::ops::testing::{back_up, create, noise, reopen, repository, sample_tree};

fn run(
    repository: &Arc<Repository>,
    spec: &str,
    target: &Path,
    options: &RestoreOptions,
) -> Result<(RestoreSummary, Vec<Trouble>)> {
    let troubles = Mutex::new(Vec::new());
    let each = |trouble: &Trouble| troubles.lock().unwrap().push(trouble.clone());
    let stats = Arc::default();
    let summary = restore(
        repository,
        spec,
        target,
        options,
        &stats,
        &Interrupt::default(),
        &each,
    )?;
    Ok((summary, troubles.into_inner().unwrap()))
}

fn in_place() -> RestoreOptions {
    RestoreOptions {
        in_place: true,
        threads: Some(2),
        ..RestoreOptions::default()
    }
}

/// Everything that a restore brings back: names, kinds, modes, times, contents, links.
fn shape(root: &Path) -> Vec<(PathBuf, u32, i64, i64, Vec<u8>)> {
    let mut out = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let content = if meta.is_dir() {
                open.push(path.clone());
                Vec::new()
            } else if meta.is_symlink() {
                std::fs::read_link(&path)
                    .unwrap()
                    .as_os_str()
                    .as_bytes()
                    .to_vec()
            } else {
                std::fs::read(&path).unwrap()
            };
            let name = path.strip_prefix(root).unwrap().to_path_buf();
            out.push((name, meta.mode(), meta.mtime(), meta.mtime_nsec(), content));
        }
    }
    out.sort();
    out
}

/// A source, backed up once; and the path of it in the snapshot.
fn backed_up() -> (tempfile::TempDir, Arc<Memory>, Arc<Repository>, String) {
    let (backend, repository) = repository();
    let source = tempfile::tempdir().unwrap();
    sample_tree(source.path());
    std::fs::hard_link(
        source.path().join("a/b/large"),
        source.path().join("a/zz-other-name"),
    )
    .unwrap();
    let sparse = std::fs::File::create(source.path().join("sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 1 << 20).unwrap();
    let mode = |path: &str, mode| {
        std::fs::set_permissions(
            source.path().join(path),
            std::fs::Permissions::from_mode(mode),
        )
        .unwrap();
    };
    mode("a/small-001", 0o640);
    mode("empty", 0o711);
    back_up(&repository, source.path());
    let spec = format!("latest:paths{}", source.path().display());
    (source, backend, repository, spec)
}

#[test]
fn a_tree_comes_back() {
    let (source, _, repository, spec) = backed_up();
    let target = tempfile::tempdir().unwrap();
    let (summary, troubles) = run(
        &repository,
        &spec,
        target.path(),
        &RestoreOptions::default(),
    )
    .unwrap();
    assert_eq!(troubles, []);
    assert_eq!(summary.exit_code(), 0);
    assert_eq!(shape(target.path()), shape(source.path()));
    assert_eq!(summary.links, 1);
    let inode = |name: &str| target.path().join(name).metadata().unwrap().ino();
    assert_eq!(inode("a/b/large"), inode("a/zz-other-name"));
    assert!(target.path().join("sparse").metadata().unwrap().blocks() < 1000);
    let own = |path: &Path| path.metadata().unwrap().mtime();
    assert_eq!(
        own(target.path()),
        own(source.path()),
        "the target stands for the directory"
    );
}

#[test]
fn without_a_path_the_top_folders_come_too() {
    let (source, _, repository, spec) = backed_up();
    let target = tempfile::tempdir().unwrap();
    run(
        &repository,
        "latest",
        target.path(),
        &RestoreOptions::default(),
    )
    .unwrap();
    let relative = source.path().strip_prefix("/").unwrap();
    assert_eq!(
        shape(&target.path().join("paths").join(relative)),
        shape(source.path())
    );
    let one = tempfile::tempdir().unwrap();
    let (summary, _) = run(
        &repository,
        &format!("{spec}/a/b/large"),
        one.path(),
        &RestoreOptions::default(),
    )
    .unwrap();
    assert_eq!(summary.files, 1);
    assert_eq!(
        std::fs::read(one.path().join("large")).unwrap(),
        noise(1000, 700_000)
    );
    assert!(
        run(
            &repository,
            &format!("{spec}/none"),
            one.path(),
            &RestoreOptions::default()
        )
        .is_err()
    );
}

#[test]
fn only_what_differs_is_written() {
    let (source, _, repository, spec) = backed_up();
    let target = tempfile::tempdir().unwrap();
    run(
        &repository,
        &spec,
        target.path(),
        &RestoreOptions::default(),
    )
    .unwrap();
    let at = |name: &str| target.path().join(name);
    std::fs::write(at("a/small-003"), "else").unwrap();
    std::fs::remove_file(at("a/small-004")).unwrap();
    let text = at("a/b/c/text");
    let mut bytes = std::fs::read(&text).unwrap();
    bytes[200_000] ^= 1;
    std::fs::write(&text, &bytes).unwrap();
    let sparse = std::fs::OpenOptions::new()
        .write(true)
        .open(at("sparse"))
        .unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"no hole", 2 << 20).unwrap();
    std::fs::remove_file(at("link")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", at("link")).unwrap();
    std::fs::write(at("mine"), "stays").unwrap();
    std::fs::set_permissions(at("a/small-001"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let (summary, troubles) = run(&repository, &spec, target.path(), &in_place()).unwrap();
    assert_eq!(troubles, []);
    assert_eq!(std::fs::read(at("mine")).unwrap(), b"stays");
    std::fs::remove_file(at("mine")).unwrap();
    // Removing it changed the time of the directory.
    let (again, _) = run(&repository, &spec, target.path(), &in_place()).unwrap();
    assert_eq!(shape(target.path()), shape(source.path()));
    assert_eq!(summary.files - summary.files_unchanged, 4);
    assert_eq!(again.files, again.files_unchanged);
    assert_eq!(again.bytes_written, 0);
}

#[test]
fn what_exists_is_kept_unless_told() {
    let (_, _, repository, spec) = backed_up();
    let target = tempfile::tempdir().unwrap();
    std::fs::create_dir(target.path().join("a")).unwrap();
    std::fs::write(target.path().join("a/small-000"), "mine").unwrap();
    let (summary, troubles) = run(
        &repository,
        &spec,
        target.path(),
        &RestoreOptions::default(),
    )
    .unwrap();
    assert_eq!((summary.skipped, summary.exit_code()), (1, 3));
    assert_eq!(troubles[0].path, "a/small-000");
    assert_eq!(
        std::fs::read(target.path().join("a/small-000")).unwrap(),
        b"mine"
    );
}

#[test]
fn patterns_choose() {
    let (_, _, repository, spec) = backed_up();
    let check = |include: &[&str], exclude: &[&str], expected: &[&str]| {
        let target = tempfile::tempdir().unwrap();
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        let options = RestoreOptions {
            include: own(include),
            exclude: own(exclude),
            ..RestoreOptions::default()
        };
        run(&repository, &spec, target.path(), &options).unwrap();
        let names = shape(target.path())
            .into_iter()
            .map(|entry| entry.0.display().to_string());
        assert_eq!(
            names.collect::<Vec<_>>(),
            expected,
            "{include:?} {exclude:?}"
        );
    };
    check(&["/a/b/c"], &[], &["a", "a/b", "a/b/c", "a/b/c/text"]);
    check(&["small-00*"], &["*[1-9]"], &["a", "a/small-000"]);
    check(&["/nothing", "empty/"], &[], &["empty", "nothing"]);
    check(&[], &["/a", "sparse", "link"], &["empty", "nothing"]);
}

#[test]
fn damage_costs_only_its_files() {
    let (source, backend, _, spec) = backed_up();
    let good = shape(source.path());
    let mut whole = 0;
    for (name, bytes) in backend.contents() {
        for at in [
            bytes.len() / 3,
            bytes.len() / 2,
            bytes.len().saturating_sub(45),
        ] {
            if name.kind() != ObjectKind::Pack || at < 200 {
                continue;
            }
            let mut bad = bytes.to_vec();
            bad[at] ^= 4;
            backend.replace(&name, bad);
            let target = tempfile::tempdir().unwrap();
            let repository = reopen(backend.clone());
            let Ok((summary, troubles)) = run(
                &repository,
                &spec,
                target.path(),
                &RestoreOptions::default(),
            ) else {
                // The tree above the path itself.
                backend.replace(&name, bytes.clone());
                continue;
            };
            let restored = shape(target.path());
            for entry in &restored {
                let wanted = good
                    .iter()
                    .find(|other| other.0 == entry.0)
                    .expect("nothing is invented");
                assert_eq!(wanted.4, entry.4, "a wrong byte in {}", entry.0.display());
            }
            let complete = restored.len() == good.len();
            whole += usize::from(complete);
            assert_eq!(
                summary.exit_code(),
                if complete { 0 } else { 4 },
                "{troubles:?}"
            );
            assert_eq!(complete, troubles.is_empty());
            backend.replace(&name, bytes.clone());
        }
    }
    assert!(whole > 0, "padding and directories cost no file");
}

#[test]
fn the_repository_is_no_target() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("repository");
    let backend: Arc<dyn Backend> = Arc::new(Local::new(&root).unwrap());
    let repository = create(backend, Suite::Aes256Gcm);
    let source = tempfile::tempdir().unwrap();
    sample_tree(source.path());
    back_up(&repository, source.path());
    let link = scratch.path().join("link");
    std::os::unix::fs::symlink(&root, &link).unwrap();
    for target in [
        root.clone(),
        root.join("new/folder"),
        link.join("x"),
        scratch.path().join("repository/../repository/y"),
    ] {
        let refused = run(&repository, "latest", &target, &RestoreOptions::default());
        assert!(refused.is_err(), "{}", target.display());
        assert!(!root.join("new").exists());
    }
    let beside = scratch.path().join("repository-2");
    run(&repository, "latest", &beside, &RestoreOptions::default()).unwrap();
}

#[test]
fn a_forgotten_snapshot_says_so() {
    let (_, backend, repository, spec) = backed_up();
    let id = *repository
        .read_state()
        .unwrap()
        .live()
        .keys()
        .next()
        .unwrap();
    let reader_of = reopen(backend.clone());
    reader_of.read_state().unwrap();
    // Forgotten and pruned between the look at the log and the reading of a pack.
    let state = reader_of.known_state();
    let all = snapshots::list(&reader_of, &state, &mut |e| panic!("{e}")).unwrap();
    let reader = open_reader(&reader_of, &state, Some(id), &mut |e| panic!("{e}")).unwrap();
    repository.forget(&[id]).unwrap();
    for (name, _) in backend.contents() {
        if name.kind() == ObjectKind::Pack {
            backend.remove(&name);
        }
    }
    let (_, path) = split_spec(&spec);
    let error = node_at(&reader, &all[0].record.root, path.as_bytes()).unwrap_err();
    assert_eq!(error.exit_code(), 5, "{error}");
    assert!(
        run(
            &reopen(backend),
            &spec,
            Path::new("/nowhere"),
            &RestoreOptions::default()
        )
        .is_err()
    );
}

fn compare(repository: &Arc<Repository>, spec: &str, target: &Path) -> Vec<String> {
    use crate::ops::verify::{AgainstOptions, Difference, against};
    let found = Mutex::new(Vec::new());
    let each = |difference: &Difference| found.lock().unwrap().push(difference.to_string());
    let options = AgainstOptions::default();
    let summary = against(
        repository,
        spec,
        target,
        &options,
        &Arc::default(),
        &Interrupt::default(),
        &each,
    )
    .unwrap();
    let mut found = found.into_inner().unwrap();
    assert_eq!(summary.differences, found.len() as u64);
    found.sort();
    found
}

#[test]
fn a_restored_tree_is_equal() {
    let (source, _, repository, spec) = backed_up();
    let target = tempfile::tempdir().unwrap();
    run(
        &repository,
        &spec,
        target.path(),
        &RestoreOptions::default(),
    )
    .unwrap();
    let none: [&str; 0] = [];
    assert_eq!(compare(&repository, &spec, target.path()), none);
    assert_eq!(compare(&repository, &spec, source.path()), none);
}

#[test]
fn every_difference_is_named() {
    let (source, _, repository, spec) = backed_up();
    let at = |name: &str| source.path().join(name);
    // In place, so that times of directories stay.
    let time = |name: &str| {
        let meta = at(name).metadata().unwrap();
        (meta.modified().unwrap(), meta.accessed().unwrap())
    };
    let (modified, _) = time("a/b/c/text");
    let mut bytes = std::fs::read(at("a/b/c/text")).unwrap();
    bytes[123_456] ^= 1;
    std::fs::write(at("a/b/c/text"), &bytes).unwrap();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(at("a/b/c/text"))
        .unwrap();
    file.set_modified(modified).unwrap();
    std::fs::set_permissions(at("a/small-005"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let (directory, _) = time("empty");
    std::fs::write(at("empty/more"), "").unwrap();
    std::fs::File::open(at("empty"))
        .unwrap()
        .set_modified(directory)
        .unwrap();
    let (root, _) = time("");
    std::fs::remove_file(at("nothing")).unwrap();
    std::fs::remove_file(at("link")).unwrap();
    std::os::unix::fs::symlink("elsewhere", at("link")).unwrap();
    std::fs::File::open(source.path())
        .unwrap()
        .set_modified(root)
        .unwrap();
    let found = compare(&repository, &spec, source.path());
    let wanted = [
        "a/b/c/text: its content is another one",
        "a/small-005: mode:",
        "empty/more: it is not in the snapshot",
        "link: modified:",
        "link: target:",
        "nothing: it is not there",
    ];
    assert_eq!(found.len(), wanted.len(), "{found:?}");
    for (found, wanted) in found.iter().zip(wanted) {
        assert!(found.starts_with(wanted), "{found} is not {wanted}");
    }
}
