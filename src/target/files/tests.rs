//! Restores into real directories, hostile ones among them.

#![allow(clippy::print_stderr, reason = "a test says what it skips")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use rustix::fs::CWD;

use super::*;
use crate::format::node::{Device, Node, NodeKind, Timestamp, Xattr};

fn target(directory: &Path, options: RestoreOptions) -> RestoreTarget {
    RestoreTarget::open(directory, options).unwrap()
}

fn replace() -> RestoreOptions {
    RestoreOptions {
        existing: Existing::Replace,
        amid_others: false,
        ..RestoreOptions::default()
    }
}

fn node(kind: NodeKind) -> Node {
    Node {
        name: b"n".to_vec(),
        kind,
        mode: 0o640,
        modified: Timestamp {
            seconds: 1_000_000_000,
            nanos: 987_654_321,
        },
        ..Node::default()
    }
}

fn file(content: &[u8]) -> Node {
    Node {
        size: content.len() as u64,
        ..node(NodeKind::File)
    }
}

fn write(target: &RestoreTarget, path: &str, node: &Node, content: &[u8]) -> Result<()> {
    if let Some(handle) = target.create_file(path.as_bytes(), node)? {
        handle.write_at(0, content)?;
        target.finish_file(handle, node, &node.xattrs)?;
    }
    Ok(())
}

fn leftovers(directory: &Path) -> usize {
    fs::read_dir(directory)
        .unwrap()
        .filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with(TEMPORARY_PREFIX)
        })
        .count()
}

#[test]
fn metadata_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("new/deep");
    let target = target(&root, RestoreOptions::default());
    let mut outer = node(NodeKind::Directory);
    outer.mode = 0o555;
    target.create_directory(b"", &outer, &[]).unwrap();
    target.create_directory(b"d", &outer, &[]).unwrap();
    target.create_directory(b"d/e", &outer, &[]).unwrap();
    write(&target, "d/e/f", &file(b"hello"), b"hello").unwrap();
    let link = Node {
        target: Some(b"/somewhere/else".to_vec()),
        ..node(NodeKind::Symlink)
    };
    target.create_special(b"d/link", &link, &[]).unwrap();
    let fifo = node(NodeKind::Fifo);
    assert_eq!(
        target.create_special(b"d/fifo", &fifo, &[]).unwrap(),
        Created::Done
    );
    let socket = node(NodeKind::Socket);
    assert_eq!(
        target.create_special(b"d/s", &socket, &[]).unwrap(),
        Created::LeftOut
    );
    assert_eq!(target.finish_links().unwrap(), 0);
    assert_eq!(target.finish_directories().unwrap(), 3);
    for (path, node) in [
        (&b""[..], &outer),
        (b"d", &outer),
        (b"d/e", &outer),
        (b"d/e/f", &file(b"hello")),
        (b"d/link", &link),
        (b"d/fifo", &fifo),
    ] {
        let differences = target.compare_metadata(path, node, &[]).unwrap();
        assert_eq!(differences, [], "{}", String::from_utf8_lossy(path));
        assert_eq!(target.compare(path, node).unwrap(), Comparison::Same);
    }
    assert_eq!(fs::read(root.join("d/e/f")).unwrap(), b"hello");
    assert_eq!(target.problems(), Problems::default());
    let changed = Node {
        mode: 0o600,
        ..file(b"hello!")
    };
    let differences = target.compare_metadata(b"d/e/f", &changed, &[]).unwrap();
    let what: Vec<&str> = differences.iter().map(|d| &*d.what).collect();
    assert_eq!(what, ["size", "mode"]);
    assert_eq!(
        target.compare(b"d/e/f", &changed).unwrap(),
        Comparison::Differs
    );
    assert_eq!(
        target.compare(b"d/no", &changed).unwrap(),
        Comparison::Absent
    );
    assert_eq!(
        target.compare(b"no/no", &changed).unwrap(),
        Comparison::Absent
    );
    for path in ["", "d", "d/e"] {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn attributes_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let probe = directory.path().join("probe");
    fs::write(&probe, b"").unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    if rustix::fs::setxattr(&probe, "user.a", b"1", flags).is_err() {
        eprintln!("skipped: no user attributes on this file system");
        return;
    }
    let target = target(directory.path(), replace());
    let xattr = |name: &str, value: &[u8]| Xattr {
        name: name.as_bytes().to_vec(),
        value: value.to_vec(),
    };
    // The ACL user::rw-, user:1:r--, group::r--, mask::r--, other::--- in the kernel's form.
    let entries: [(u16, u16, u32); 5] = [
        (1, 6, u32::MAX),
        (2, 4, 1),
        (4, 4, u32::MAX),
        (0x10, 4, u32::MAX),
        (0x20, 0, u32::MAX),
    ];
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&rights.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    let mut node = file(b"x");
    // Not writable: attributes have to be set before the mode.
    node.mode = 0o440;
    node.xattrs = vec![xattr("user.one", b"1"), xattr("user.two", &[0xff; 300])];
    write(&target, "plain", &node, b"x").unwrap();
    assert_eq!(
        target
            .compare_metadata(b"plain", &node, &node.xattrs)
            .unwrap(),
        []
    );
    // What an existing file has more is taken away.
    rustix::fs::setxattr(&probe, "user.a", b"1", flags).unwrap();
    let existing = target.open_existing(b"probe").unwrap().unwrap();
    assert!(target.adopt_file(&existing, &file(b""), &[]).unwrap());
    assert_eq!(
        target.compare_metadata(b"probe", &file(b""), &[]).unwrap(),
        []
    );
    let mut with_acl = file(b"y");
    with_acl.xattrs = vec![xattr("system.posix_acl_access", &acl)];
    write(&target, "acl", &with_acl, b"y").unwrap();
    if target.problems().count > 0 {
        eprintln!("skipped in part: no ACLs on this file system");
        return;
    }
    let found = target
        .compare_metadata(b"acl", &with_acl, &with_acl.xattrs)
        .unwrap();
    assert_eq!(found, []);
}

#[test]
fn files_appear_complete() {
    let directory = tempfile::tempdir().unwrap();
    let target = target(directory.path(), RestoreOptions::default());
    let mut sparse = file(b"");
    sparse.size = 4 << 20;
    let handle = target.create_file(b"f", &sparse).unwrap().unwrap();
    std::thread::scope(|scope| {
        for part in 0..4_u64 {
            let handle = &handle;
            scope.spawn(move || handle.write_at(part << 20, &[1; 4096]).unwrap());
        }
    });
    assert!(!directory.path().join("f").exists());
    target.finish_file(handle, &sparse, &[]).unwrap();
    let found = fs::metadata(directory.path().join("f")).unwrap();
    assert_eq!(found.len(), 4 << 20);
    assert!(found.blocks() * 512 < 1 << 20, "holes were written");
    drop(target.create_file(b"given-up", &sparse).unwrap());
    assert_eq!(leftovers(directory.path()), 0);
    assert!(!directory.path().join("given-up").exists());
}

#[test]
fn what_exists_stays_or_is_replaced() {
    for existing in [Existing::Refuse, Existing::Replace] {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::write(root.join("file"), b"old").unwrap();
        fs::write(root.join("extra"), b"extra").unwrap();
        fs::create_dir(root.join("dir")).unwrap();
        fs::write(root.join("dir/kept"), b"kept").unwrap();
        symlink("extra", root.join("link")).unwrap();
        fs::write(root.join("not-a-dir"), b"").unwrap();
        let target = target(
            root,
            RestoreOptions {
                existing,
                ..RestoreOptions::default()
            },
        );
        let replaced = existing == Existing::Replace;
        let check = |done: Result<()>, what: &str| assert_eq!(done.is_ok(), replaced, "{what}");
        check(write(&target, "file", &file(b"new"), b"new"), "file");
        check(write(&target, "link", &file(b"new"), b"new"), "link");
        let directory_node = node(NodeKind::Directory);
        check(
            target.create_directory(b"not-a-dir", &directory_node, &[]),
            "not a directory",
        );
        // A directory with something in it stays in any case.
        assert!(write(&target, "dir", &file(b"new"), b"new").is_err());
        target
            .create_directory(b"dir", &directory_node, &[])
            .unwrap();
        target.finish_directories().unwrap();
        assert_eq!(fs::read(root.join("dir/kept")).unwrap(), b"kept");
        assert_eq!(fs::read(root.join("extra")).unwrap(), b"extra");
        let expected: &[u8] = if replaced { b"new" } else { b"old" };
        assert_eq!(fs::read(root.join("file")).unwrap(), expected);
        assert_eq!(root.join("link").is_symlink(), !replaced);
        assert_eq!(leftovers(root), 0);
    }
}

#[test]
fn names_of_one_file_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let target = target(root, replace());
    target
        .create_directory(b"d", &node(NodeKind::Directory), &[])
        .unwrap();
    let linked = Node {
        link_group: Some(77),
        ..file(b"one")
    };
    write(&target, "a", &linked, b"one").unwrap();
    assert!(target.create_file(b"d/b", &linked).unwrap().is_none());
    assert!(target.create_file(b"c", &linked).unwrap().is_none());
    let other = Node {
        link_group: Some(78),
        ..file(b"two")
    };
    write(&target, "other", &other, b"two").unwrap();
    assert_eq!(target.finish_links().unwrap(), 2);
    target.finish_directories().unwrap();
    let inode = |name: &str| fs::metadata(root.join(name)).unwrap().ino();
    assert_eq!(inode("a"), inode("d/b"));
    assert_eq!(inode("a"), inode("c"));
    assert_ne!(inode("a"), inode("other"));
    // Once more over itself.
    assert!(target.claim_name(b"a", &linked).unwrap());
    assert!(!target.claim_name(b"c", &linked).unwrap());
    target.finish_links().unwrap();
    assert_eq!(inode("a"), inode("c"));
    assert_eq!(leftovers(root), 0);
    assert_eq!(target.problems().count, 0);
    // Where no second name can be made, the file is copied.
    let from = target.place(b"a").unwrap();
    let to = target.place(b"copied").unwrap();
    file::copy(b"copied", &from, &to).unwrap();
    assert_eq!(
        target.compare_metadata(b"copied", &linked, &[]).unwrap(),
        []
    );
    assert_eq!(fs::read(root.join("copied")).unwrap(), b"one");
}

#[test]
fn nothing_leaves_the_target() {
    let directory = tempfile::tempdir().unwrap();
    let outside = directory.path().join("outside");
    let root = directory.path().join("root");
    fs::create_dir(&outside).unwrap();
    fs::create_dir(&root).unwrap();
    fs::write(outside.join("victim"), b"untouched").unwrap();
    let before = fs::metadata(outside.join("victim")).unwrap();
    symlink(&outside, root.join("way")).unwrap();
    symlink("../outside", root.join("relative")).unwrap();
    symlink(outside.join("victim"), root.join("to-file")).unwrap();
    fs::create_dir(root.join("real")).unwrap();
    symlink(&outside, root.join("real/way")).unwrap();
    let target = target(&root, replace());
    for path in [
        "..",
        "../x",
        "a/../../x",
        "/etc/x",
        "//x",
        "",
        ".",
        "./x",
        "real/..",
        "real/../../x",
        "a//b",
        "x/",
        "a\0b",
    ] {
        assert!(
            write(&target, path, &file(b"bad"), b"bad").is_err(),
            "{path:?}"
        );
        let link = Node {
            target: Some(b"x".to_vec()),
            ..node(NodeKind::Symlink)
        };
        assert!(
            target.create_special(path.as_bytes(), &link, &[]).is_err(),
            "{path:?}"
        );
        if !path.is_empty() {
            let directory = node(NodeKind::Directory);
            let made = target.create_directory(path.as_bytes(), &directory, &[]);
            assert!(made.is_err(), "{path:?}");
        }
    }
    for path in [
        "way/x",
        "relative/x",
        "real/way/x",
        "to-file/x",
        "way/victim",
    ] {
        assert!(
            write(&target, path, &file(b"bad"), b"bad").is_err(),
            "{path}"
        );
        assert!(
            target.open_existing(path.as_bytes()).unwrap().is_none(),
            "{path}"
        );
        assert_eq!(
            target.compare(path.as_bytes(), &file(b"")).unwrap(),
            Comparison::Absent
        );
        let opened = target
            .handles
            .open_by_name(path.split('/').next().unwrap().as_bytes());
        assert!(opened.is_err() || path.starts_with("real"), "{path}");
    }
    // A link in the place of a file is replaced, in the place of a directory too; neither is followed.
    write(&target, "to-file", &file(b"mine"), b"mine").unwrap();
    target
        .create_directory(b"way", &node(NodeKind::Directory), &[])
        .unwrap();
    write(&target, "way/x", &file(b"mine"), b"mine").unwrap();
    assert!(root.join("way").symlink_metadata().unwrap().is_dir());
    // Another name of a file outside is replaced, its bytes and metadata stay.
    fs::hard_link(outside.join("victim"), root.join("shared")).unwrap();
    let existing = target.open_existing(b"shared").unwrap().unwrap();
    assert!(existing.has_other_names());
    assert!(
        !target
            .adopt_file(&existing, &file(b"untouched"), &[])
            .unwrap()
    );
    let grouped = Node {
        link_group: Some(4),
        ..file(b"untouched")
    };
    assert!(!target.adopt_file(&existing, &grouped, &[]).unwrap());
    write(&target, "shared", &file(b"mine"), b"mine").unwrap();
    // A group whose first name became a link.
    let linked = Node {
        link_group: Some(5),
        ..file(b"one")
    };
    write(&target, "first", &linked, b"one").unwrap();
    assert!(target.create_file(b"second", &linked).unwrap().is_none());
    fs::remove_file(root.join("first")).unwrap();
    symlink(outside.join("victim"), root.join("first")).unwrap();
    assert_eq!(target.finish_links().unwrap(), 0);
    assert_eq!(target.problems().count, 1);
    assert!(!root.join("second").exists());
    // A directory that was swapped for a link before its metadata are set.
    let open = Node {
        mode: 0o777,
        ..node(NodeKind::Directory)
    };
    target.create_directory(b"swapped", &open, &[]).unwrap();
    fs::remove_dir(root.join("swapped")).unwrap();
    symlink(&outside, root.join("swapped")).unwrap();
    target.finish_directories().unwrap();
    assert_eq!(target.problems().count, 2);
    assert_ne!(
        fs::metadata(&outside).unwrap().permissions().mode() & 0o777,
        0o777
    );
    let after = fs::metadata(outside.join("victim")).unwrap();
    assert_eq!(fs::read(outside.join("victim")).unwrap(), b"untouched");
    assert_eq!(
        (before.mode(), before.mtime()),
        (after.mode(), after.mtime())
    );
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
}

#[test]
fn a_pipe_in_the_place_of_a_file_holds_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let mode = rustix::fs::Mode::from(0o600);
    let path = directory.path().join("f");
    rustix::fs::mknodat(CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let target = target(directory.path(), replace());
    assert!(target.open_existing(b"f").unwrap().is_none());
    assert_eq!(
        target.compare(b"f", &file(b"x")).unwrap(),
        Comparison::Differs
    );
    write(&target, "f", &file(b"x"), b"x").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"x");
    let existing = target.open_existing(b"f").unwrap().unwrap();
    let mut buffer = [0; 10];
    assert_eq!(
        (existing.size(), existing.read_at(0, &mut buffer).unwrap()),
        (1, 1)
    );
}

#[test]
fn special_bits_need_the_owner() {
    let directory = tempfile::tempdir().unwrap();
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let own = Node {
        mode: 0o4755,
        uid,
        gid,
        ..file(b"x")
    };
    let foreign = Node {
        uid: uid + 4321,
        ..own.clone()
    };
    let leave = target(directory.path(), replace());
    write(&leave, "own", &own, b"x").unwrap();
    write(&leave, "foreign", &foreign, b"x").unwrap();
    let mode = |name: &str| fs::metadata(directory.path().join(name)).unwrap().mode() & 0o7777;
    assert_eq!(mode("own"), 0o4755);
    assert_eq!(mode("foreign"), 0o755);
    assert_eq!(leave.problems().count, 1);
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped in part: owners need root");
        return;
    }
    let by_number = RestoreOptions {
        ownership: Ownership::ByNumber,
        special: true,
        existing: Existing::Replace,
        amid_others: false,
        threads: 3,
    };
    let chowning = target(directory.path(), by_number);
    write(&chowning, "foreign", &foreign, b"x").unwrap();
    assert_eq!(mode("foreign"), 0o4755);
    assert_eq!(
        chowning
            .compare_metadata(b"foreign", &foreign, &[])
            .unwrap(),
        []
    );
    let device = Node {
        device: Some(Device { major: 1, minor: 3 }),
        uid: 12,
        ..node(NodeKind::CharDevice)
    };
    assert_eq!(
        leave.create_special(b"null", &device, &[]).unwrap(),
        Created::LeftOut
    );
    assert_eq!(
        chowning.create_special(b"null", &device, &[]).unwrap(),
        Created::Done
    );
    assert_eq!(
        chowning.compare_metadata(b"null", &device, &[]).unwrap(),
        []
    );
    let link = Node {
        uid: 55,
        gid: 56,
        target: Some(b"nowhere".to_vec()),
        ..node(NodeKind::Symlink)
    };
    chowning.create_special(b"link", &link, &[]).unwrap();
    assert_eq!(chowning.compare_metadata(b"link", &link, &[]).unwrap(), []);
    let by_name = RestoreOptions {
        ownership: Ownership::ByName,
        ..by_number
    };
    let named = target(directory.path(), by_name);
    let roots = Node {
        uid: 999_999,
        user: Some(b"root".to_vec()),
        gid: 777,
        group: Some(b"no such group here".to_vec()),
        ..file(b"x")
    };
    write(&named, "named", &roots, b"x").unwrap();
    let found = fs::metadata(directory.path().join("named")).unwrap();
    assert_eq!((found.uid(), found.gid()), (0, 777));
}

#[test]
fn deep_paths_are_opened_name_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let target = target(directory.path(), RestoreOptions::default());
    let mut path = Vec::new();
    for _ in 0..30 {
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&[b'd'; 200]);
        target
            .create_directory(&path, &node(NodeKind::Directory), &[])
            .unwrap();
    }
    path.extend_from_slice(b"/f");
    let handle = target.create_file(&path, &file(b"x")).unwrap().unwrap();
    handle.write_at(0, b"x").unwrap();
    target.finish_file(handle, &file(b"x"), &[]).unwrap();
    assert_eq!(target.finish_directories().unwrap(), 30);
    assert_eq!(
        target.compare_metadata(&path, &file(b"x"), &[]).unwrap(),
        []
    );
    let removed = std::process::Command::new("rm")
        .arg("-rf")
        .arg(directory.path())
        .status();
    assert!(removed.unwrap().success());
}

#[test]
fn a_full_disk_ends_the_restore() {
    let error = TargetError::new(b"a/b", "write to it", Errno::NOSPC);
    assert!(error.is_stop());
    assert!(!TargetError::new(b"a/b", "write to it", Errno::ACCESS).is_stop());
    let directory = tempfile::tempdir().unwrap();
    let target = target(directory.path(), RestoreOptions::default());
    assert!(target.note(error).is_err());
}
