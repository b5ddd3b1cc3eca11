use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use rustix::fs::FlockOperation;
use tempfile::TempDir;

use super::*;
use crate::backend::conformance::conformance;
use crate::backend::{Counting, Faulty};

const EVERY_WAY: [Publishing; 3] = [Publishing::Unnamed, Publishing::Linked, Publishing::Renamed];

/// A backend whose folder goes away with it.
fn scratch() -> (TempDir, Local) {
    let folder = TempDir::new().unwrap();
    let backend = Local::new(folder.path().join("repository")).unwrap();
    backend.create_layout().unwrap();
    (folder, backend)
}

/// Returns the paths of everything below a folder that is not a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

fn pack(number: u8) -> ObjectName {
    ObjectName::hashed(ObjectKind::Pack, [number; 32])
}

fn kind_of<T: std::fmt::Debug>(result: Result<T, BackendError>) -> BackendErrorKind {
    result.unwrap_err().kind
}

/// Returns an error and its cause as people see them.
fn told<T: std::fmt::Debug>(result: Result<T, BackendError>) -> String {
    let error = result.unwrap_err();
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    format!("{error}: {}", cause.unwrap_or_default())
}

#[test]
fn conformance_on_every_way_to_publish() {
    for publishing in EVERY_WAY {
        let folder = TempDir::new().unwrap();
        let number = std::sync::atomic::AtomicU64::new(0);
        conformance(&|| {
            let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let path = folder.path().join(number.to_string());
            Box::new(Local::new(path).unwrap().publishing(publishing))
        });
    }
}

#[test]
fn conformance_of_wrapped_folders() {
    let folder = TempDir::new().unwrap();
    let number = std::sync::atomic::AtomicU64::new(0);
    conformance(&|| {
        let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = folder.path().join(number.to_string());
        let local = Local::new(path).unwrap();
        Box::new(Counting::new(Arc::new(Faulty::new(Arc::new(local), None))))
    });
}

#[test]
fn objects_lie_at_their_paths_for_their_owner_only() {
    let (_folder, backend) = scratch();
    for publishing in EVERY_WAY {
        let backend = Local::new(backend.folders.path())
            .unwrap()
            .publishing(publishing);
        let name = pack(publishing as u8);
        backend.put_new(&name, b"body").unwrap();
        let path = backend.folders.path().join(name.to_string());
        assert_eq!(std::fs::read(&path).unwrap(), b"body");
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.nlink()), (0o600, 1));
        for above in path.ancestors().skip(1).take(3) {
            assert_eq!(std::fs::metadata(above).unwrap().mode() & 0o7777, 0o700);
        }
    }
}

#[test]
fn a_dropped_object_leaves_nothing() {
    for publishing in EVERY_WAY {
        let (_folder, backend) = scratch();
        let backend = Local {
            publishing,
            ..backend
        };
        backend.put_new(&pack(1), b"there").unwrap();
        let mut object = backend.begin(ObjectKind::Pack).unwrap();
        object.append(&[1; 5_000_000]).unwrap();
        object.sync().unwrap();
        drop(object);
        let mut loser = backend.begin(ObjectKind::Pack).unwrap();
        loser.append(b"late").unwrap();
        loser.commit(&pack(1)).unwrap_err();
        let expected = [backend.folders.path().join(pack(1).to_string())];
        assert_eq!(
            files_below(backend.folders.path()),
            expected,
            "{publishing:?}"
        );
    }
}

#[test]
fn abandoned_files_are_removed_and_held_ones_are_not() {
    let (_folder, backend) = scratch();
    let backend = backend.publishing(Publishing::Linked);
    let tmp = backend.folders.path().join(TMP);
    std::fs::write(tmp.join("dead"), b"left").unwrap();
    std::fs::create_dir(tmp.join("folder")).unwrap();
    symlink("/etc/hostname", tmp.join("link")).unwrap();
    // A writer that died between link and unlink.
    backend.put_new(&pack(1), b"body").unwrap();
    let object = backend.folders.path().join(pack(1).to_string());
    std::fs::hard_link(&object, tmp.join("linked")).unwrap();
    let mut held = backend.begin(ObjectKind::Pack).unwrap();
    held.append(b"held").unwrap();
    assert_eq!(backend.remove_abandoned().unwrap(), 2);
    held.commit(&pack(2)).unwrap();
    assert_eq!(std::fs::read(&object).unwrap(), b"body");
    assert_eq!(&backend.get(&pack(2), ByteRange::All).unwrap()[..], b"held");
    assert_eq!(files_below(&tmp), [tmp.join("link")]);
}

#[test]
fn new_files_survive_those_who_look_for_abandoned_ones() {
    let (_folder, backend) = scratch();
    let backend = backend.publishing(Publishing::Linked);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                backend.remove_abandoned().unwrap();
            }
        });
        for seq in 1..=300 {
            backend.put_new(&ObjectName::log(seq), b"entry").unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn a_held_file_is_locked() {
    let (_folder, backend) = scratch();
    let object = backend.publishing(Publishing::Linked);
    let held = object.begin(ObjectKind::Pack).unwrap();
    let path = files_below(&object.folders.path().join(TMP)).pop().unwrap();
    let file = File::open(&path).unwrap();
    let lock = FlockOperation::NonBlockingLockExclusive;
    assert_eq!(rustix::fs::flock(&file, lock), Err(Errno::WOULDBLOCK));
    drop(held);
    assert_eq!(rustix::fs::flock(&file, lock), Ok(()));
}

#[test]
fn a_place_that_is_not_ours_is_refused_and_not_changed() {
    let check = |prepare: &dyn Fn(&Path), expected: &str| {
        let folder = TempDir::new().unwrap();
        prepare(folder.path());
        let before = files_below(folder.path());
        let error = Local::new(folder.path()).unwrap().create_layout();
        assert_eq!(
            error.as_ref().unwrap_err().kind,
            BackendErrorKind::AlreadyExists
        );
        let place = folder.path().display();
        assert_eq!(
            told(error),
            format!("cannot create a repository in {place}: {expected}")
        );
        assert_eq!(files_below(folder.path()), before);
    };
    let write = |path: &'static str| {
        move |folder: &Path| {
            let path = folder.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"x").unwrap();
        }
    };
    check(&write("notes.txt"), "it is not empty: it holds notes.txt");
    check(&write(".hidden"), "it is not empty: it holds .hidden");
    check(&write("photos/a.jpg"), "it is not empty: it holds photos");
    check(
        &write("log/0000000000000001"),
        "it is not empty: it holds log/0000000000000001",
    );
    check(&write("packs/3f/x"), "it is not empty: it holds packs/3f");
    check(&write("packs/x"), "it is not empty: it holds packs/x");
    check(&write("index"), "index in it is not a folder");
    check(&write("format"), "it holds a repository already");
    check(&write("format.copy"), "it holds a repository already");
    check(
        &|folder| symlink("/tmp", folder.join("packs")).unwrap(),
        "packs in it is not a folder",
    );
}

#[test]
fn a_place_that_is_empty_or_half_prepared_is_taken() {
    let (folder, backend) = scratch();
    backend.create_layout().unwrap();
    let path = backend.folders.path();
    std::fs::remove_dir(path.join("gc")).unwrap();
    std::fs::create_dir(path.join("lost+found")).unwrap();
    std::fs::create_dir(path.join("packs/3f")).unwrap();
    std::fs::write(path.join("tmp/left"), b"x").unwrap();
    backend.create_layout().unwrap();
    assert!(path.join("gc").is_dir());
    let deep = Local::new(folder.path().join("a/b/c")).unwrap();
    deep.create_layout().unwrap();
    assert!(folder.path().join("a/b/c/packs").is_dir());
    let file = folder.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    assert!(told(Local::new(&file).unwrap().create_layout()).contains("Not a directory"));
    assert!(told(Local::new(file.join("below")).unwrap().create_layout()).contains("irectory"));
}

#[test]
fn a_repository_that_is_not_there_is_not_found() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("nowhere");
    let backend = Local::new(&path).unwrap();
    let error = backend.get(&ObjectName::format(), ByteRange::All);
    assert_eq!(
        told(error),
        format!(
            "cannot open {}: No such file or directory (os error 2)",
            path.display()
        )
    );
    assert_eq!(
        kind_of(backend.put_new(&pack(1), b"x")),
        BackendErrorKind::NotFound
    );
    assert_eq!(
        kind_of(backend.list(ObjectKind::Log, &mut |_| ())),
        BackendErrorKind::NotFound
    );
    assert!(!backend.exists(&ObjectName::format()).unwrap());
    assert!(!path.exists(), "nothing was created");
}

#[test]
fn a_repository_that_vanished_says_so() {
    let check = |vanish: &dyn Fn(&Path), told_by: &str| {
        let (_folder, backend) = scratch();
        backend.put_new(&ObjectName::log(1), b"entry").unwrap();
        let mut begun = backend.begin(ObjectKind::Log).unwrap();
        begun.append(b"entry").unwrap();
        vanish(backend.folders.path());
        for result in [
            backend.get(&ObjectName::log(1), ByteRange::All).map(drop),
            backend.len(&ObjectName::log(2)).map(drop),
            backend.list(ObjectKind::Log, &mut |_| ()).map(drop),
            backend.put_new(&ObjectName::log(2), b"entry"),
            begun.commit(&ObjectName::log(2)),
            backend.delete(&Condemned::new(ObjectName::heartbeat(1, 1))),
        ] {
            let error = result.unwrap_err();
            assert_eq!(error.kind, BackendErrorKind::Other, "{error:?}");
            assert!(told::<()>(Err(error)).contains(told_by));
        }
    };
    check(
        &|path| std::fs::remove_dir_all(path).unwrap(),
        "is gone or was replaced",
    );
    check(
        &|path| {
            std::fs::remove_dir_all(path).unwrap();
            std::fs::create_dir(path).unwrap();
        },
        "is gone or was replaced",
    );
}

#[test]
fn folders_that_are_missing_are_empty_until_something_is_written() {
    let (_folder, backend) = scratch();
    for (folder, _) in folders_of_kinds() {
        std::fs::remove_dir(backend.folders.path().join(folder)).unwrap();
    }
    let backend = Local::new(backend.folders.path()).unwrap();
    for kind in ObjectKind::ALL {
        assert_eq!(
            backend
                .list(kind, &mut |_| panic!("nothing is there"))
                .unwrap()
                .count,
            0
        );
    }
    assert_eq!(kind_of(backend.len(&pack(1))), BackendErrorKind::NotFound);
    backend.sync_names(&ObjectKind::ALL).unwrap();
    assert_eq!(
        std::fs::read_dir(backend.folders.path()).unwrap().count(),
        0
    );
    for publishing in EVERY_WAY {
        let name = pack(publishing as u8);
        let backend = Local::new(backend.folders.path())
            .unwrap()
            .publishing(publishing);
        backend.put_new(&name, b"body").unwrap();
        assert_eq!(backend.len(&name).unwrap(), 4);
    }
}

#[test]
fn strays_are_counted_and_shown() {
    let (_folder, backend) = scratch();
    let path = backend.folders.path();
    backend.put_new(&pack(0x3f), b"body").unwrap();
    let hex = "3f".repeat(32);
    for stray in [
        "packs/3f/note",
        "packs/3f/.hidden",
        "packs/note",
        "log/1",
        "README",
    ] {
        std::fs::write(path.join(stray), b"x").unwrap();
    }
    std::fs::create_dir_all(path.join("packs/zz")).unwrap();
    std::fs::write(path.join("packs/zz").join(&hex), b"x").unwrap();
    std::fs::create_dir(path.join("log/0000000000000007")).unwrap();
    symlink("/etc/hostname", path.join("log/0000000000000008")).unwrap();
    symlink("/etc", path.join("packs/40")).unwrap();
    let check = |kind: ObjectKind, expected_names: &[ObjectName], expected: &[&str]| {
        let mut names = Vec::new();
        let mut strays = backend
            .list(kind, &mut |info| names.push(info.name))
            .unwrap();
        strays.examples.sort();
        assert_eq!(names, expected_names);
        assert_eq!(strays.examples, expected);
        assert_eq!(strays.count, expected.len() as u64);
    };
    let misplaced = format!("packs/zz/{hex}");
    check(
        ObjectKind::Pack,
        &[pack(0x3f)],
        &[
            "packs/3f/.hidden",
            "packs/3f/note",
            "packs/40",
            "packs/note",
            &misplaced,
        ],
    );
    check(
        ObjectKind::Log,
        &[],
        &["log/0000000000000007", "log/0000000000000008", "log/1"],
    );
    check(ObjectKind::Format, &[], &["README"]);
    for number in 0..20 {
        std::fs::write(path.join(format!("gc/{number}")), b"x").unwrap();
    }
    let strays = backend.list(ObjectKind::Gc, &mut |_| ()).unwrap();
    assert_eq!((strays.count, strays.examples.len()), (20, 8));
}

#[test]
fn what_is_not_a_regular_file_is_no_object() {
    let (folder, backend) = scratch();
    let path = backend.folders.path();
    let outside = folder.path().join("outside");
    std::fs::write(&outside, b"secret").unwrap();
    symlink(&outside, path.join("log/0000000000000001")).unwrap();
    std::fs::create_dir(path.join("log/0000000000000002")).unwrap();
    let fifo = path.join("log/0000000000000003");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    std::fs::create_dir(path.join("elsewhere")).unwrap();
    std::fs::write(path.join("elsewhere").join("3f".repeat(32)), b"secret").unwrap();
    symlink("../elsewhere", path.join("packs/3f")).unwrap();
    for name in [
        ObjectName::log(1),
        ObjectName::log(2),
        ObjectName::log(3),
        pack(0x3f),
    ] {
        let read = backend.get(&name, ByteRange::All);
        assert_eq!(kind_of(read), BackendErrorKind::Other, "{name}");
        assert_eq!(
            kind_of(backend.len(&name)),
            BackendErrorKind::Other,
            "{name}"
        );
    }
    for seq in 1..=3 {
        let put = backend.put_new(&ObjectName::log(seq), b"entry");
        assert_eq!(kind_of(put), BackendErrorKind::AlreadyExists);
    }
    assert_eq!(
        kind_of(backend.put_new(&pack(0x3f), b"x")),
        BackendErrorKind::Other
    );
    assert_eq!(std::fs::read(&outside).unwrap(), b"secret");
}

#[test]
fn data_are_synced_before_the_name_and_the_name_after_it() {
    for publishing in EVERY_WAY {
        let (_folder, backend) = scratch();
        let path = std::fs::canonicalize(backend.folders.path()).unwrap();
        let backend = Local::new(path).unwrap().publishing(publishing);
        let check = |expected: &[&str]| assert_eq!(backend.folders.take_calls(), expected);
        let begin = |name: ObjectName| {
            let mut object = backend.begin(name.kind()).unwrap();
            object.append(b"body").unwrap();
            (object, name)
        };
        let paths = [1, 2, 3].map(|number| format!("link {}", pack(number)));

        // The first object of a folder: the names above it too, who knows who made them.
        backend.put_new(&pack(1), b"body").unwrap();
        check(&[
            "fsync file",
            &paths[0],
            "fsync packs/01",
            "fsync packs",
            "fsync ",
        ]);
        let (mut object, name) = begin(pack(2));
        object.sync().unwrap();
        object.append(b"more").unwrap();
        object.sync().unwrap();
        object.sync().unwrap();
        check(&["fsync file", "fsync file"]);
        object.commit(&name).unwrap();
        check(&[&paths[1], "fsync packs/02", "fsync packs"]);
        let (object, name) = begin(pack(3));
        object.publish(&name).unwrap();
        check(&["fsync file", &paths[2]]);
        backend.sync_names(&[ObjectKind::Pack]).unwrap();
        let mut calls = backend.folders.take_calls();
        assert_eq!(calls.pop().unwrap(), "fsync packs");
        calls.sort();
        assert_eq!(
            calls,
            ["fsync packs/01", "fsync packs/02", "fsync packs/03"]
        );

        backend.put_new(&ObjectName::log(1), b"entry").unwrap();
        let link = format!("link {}", ObjectName::log(1));
        check(&["fsync file", &link, "fsync log", "fsync "]);
        backend.put_new(&ObjectName::log(1), b"entry").unwrap_err();
        check(&["fsync file"]);
        backend.sync_names(&[ObjectKind::Log]).unwrap();
        check(&["fsync log"]);

        // Many: all data, all names, each folder once.
        let index = |number| ObjectName::hashed(ObjectKind::Index, [number; 32]);
        let links = [4, 5].map(|number| format!("link {}", index(number)));
        backend
            .commit_many(vec![begin(index(4)), begin(index(5))])
            .unwrap();
        let [first, second] = &links;
        check(&[
            "fsync file",
            "fsync file",
            first,
            second,
            "fsync index",
            "fsync ",
        ]);
    }
}

#[test]
fn folders_that_others_made_are_synced_once() {
    let (_folder, backend) = scratch();
    let backend = Local::new(backend.folders.path()).unwrap();
    let folders = &backend.folders;
    // Made by a process that died before it synced it.
    std::fs::create_dir(folders.path().join("packs/3f")).unwrap();
    let order = std::sync::atomic::Ordering::Relaxed;
    assert!(!folders.packs_synced[0x3f].load(order));
    backend.put_new(&pack(0x3f), b"body").unwrap();
    assert!(folders.packs_synced[0x3f].load(order));
    assert!(folders.kinds_synced[ObjectKind::Pack.position()].load(order));
    assert!(!folders.packs_synced[0x40].load(order));
    assert!(!folders.kinds_synced[ObjectKind::Log.position()].load(order));
}

#[test]
fn nothing_is_durable_after_a_failed_sync_of_a_folder() {
    let (_folder, backend) = scratch();
    // An fsync of an O_PATH handle fails.
    let path_only = rustix::fs::openat(
        rustix::fs::CWD,
        backend.folders.path(),
        OFlags::PATH | OFlags::CLOEXEC,
        0.into(),
    )
    .unwrap();
    backend
        .folders
        .sync_folder(&path_only, &ObjectKind::Log.into())
        .unwrap_err();
    let put = backend.put_new(&pack(1), b"body");
    assert!(told(put).contains("an earlier sync failed"));
    assert!(told(backend.sync_names(&[ObjectKind::Log])).contains("an earlier sync failed"));
    assert!(
        backend.exists(&pack(1)).unwrap(),
        "it is there, and nobody may rely on it"
    );
}

#[test]
fn errors_of_the_system_have_kinds() {
    let check = |errno: Errno, expected: BackendErrorKind| {
        assert_eq!(
            folders::error(errno, Operation::Begin, ObjectKind::Log).kind,
            expected
        );
    };
    check(Errno::NOENT, BackendErrorKind::NotFound);
    check(Errno::EXIST, BackendErrorKind::AlreadyExists);
    check(Errno::NOSPC, BackendErrorKind::NoSpace);
    check(Errno::DQUOT, BackendErrorKind::NoSpace);
    check(Errno::ROFS, BackendErrorKind::Denied);
    check(Errno::ACCESS, BackendErrorKind::Denied);
    check(Errno::PERM, BackendErrorKind::Denied);
    check(Errno::TIMEDOUT, BackendErrorKind::Transient);
    check(Errno::IO, BackendErrorKind::Other);
    check(Errno::MFILE, BackendErrorKind::Other);
}

#[test]
fn a_folder_that_nobody_may_write_is_denied() {
    let (_folder, backend) = scratch();
    let log = backend.folders.path().join("log");
    backend.put_new(&ObjectName::log(1), b"entry").unwrap();
    std::fs::set_permissions(&log, std::fs::Permissions::from_mode(0o500)).unwrap();
    if rustix::process::geteuid().is_root() {
        return; // Root may write everywhere.
    }
    let put = backend.put_new(&ObjectName::log(2), b"entry");
    assert_eq!(kind_of(put), BackendErrorKind::Denied);
    assert_eq!(
        &backend.get(&ObjectName::log(1), ByteRange::All).unwrap()[..],
        b"entry"
    );
}

#[test]
fn a_file_that_shrank_is_short() {
    let (_folder, backend) = scratch();
    backend.put_new(&pack(1), &[1; 1000]).unwrap();
    let path = backend.folders.path().join(pack(1).to_string());
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(600)
        .unwrap();
    let range = ByteRange::Exact {
        offset: 500,
        len: 200,
    };
    let read = backend.get(&pack(1), range);
    assert_eq!(
        told(read),
        format!(
            "cannot read {} at 500+200: the object has only 600 bytes",
            pack(1)
        )
    );
}

#[test]
fn the_free_space_is_that_of_the_file_system() {
    let (_folder, backend) = scratch();
    assert!(backend.free_bytes().unwrap().unwrap() > 0);
}
