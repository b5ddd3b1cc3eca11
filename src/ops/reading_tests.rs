//! The reading commands on small repositories.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::browse::{Damage, Entry, Place};
use super::cat::cat;
use super::find::{FindOptions, find};
use super::ls::{LsOptions, LsSummary, ls};
use super::manifest::manifest;
use super::stats::{StatsOptions, StatsSummary, stats};
use super::testing::{back_up, noise, reopen, repository, sample_tree};
use crate::backend::{Memory, ObjectKind, ObjectName};
use crate::error::Result;
use crate::format::node::NodeKind;
use crate::store::Repository;

fn no_damage(damage: &Damage) {
    panic!("{damage}");
}

fn list(
    repository: &Arc<Repository>,
    spec: &str,
    recursive: bool,
    damage: &mut dyn FnMut(&Damage),
) -> Result<(Vec<Entry>, LsSummary)> {
    let options = LsOptions {
        place: Place::from(spec),
        recursive,
    };
    let mut entries = Vec::new();
    let mut each = |entry: &Entry| {
        entries.push(entry.clone());
        Ok(())
    };
    let summary = ls(repository, &options, &mut each, damage)?;
    Ok((entries, summary))
}

fn bytes_of(repository: &Arc<Repository>, place: &str) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    cat(repository, &Place::from(place), &mut out, &mut |_| {})?;
    Ok(out)
}

/// The folder of a path that was backed up, in the tree.
fn in_tree(folder: &Path) -> String {
    format!("paths{}", folder.display())
}

#[test]
fn a_tree_is_listed_and_searched() {
    let (_, repository) = repository();
    let folder = tempfile::tempdir().unwrap();
    sample_tree(folder.path());
    back_up(&repository, folder.path());
    let root = in_tree(folder.path());
    let (entries, summary) = list(
        &repository,
        &format!("latest:/{root}/"),
        true,
        &mut no_damage,
    )
    .unwrap();
    assert_eq!((summary.files, summary.directories), (64, 4));
    let paths: Vec<String> = entries
        .iter()
        .map(|e| String::from_utf8(e.path.clone()).unwrap())
        .collect();
    assert_eq!(paths[0], format!("{root}/a"));
    assert_eq!(paths[1], format!("{root}/a/b"));
    assert!(paths.contains(&format!("{root}/a/b/c/text")));
    let (entries, _) = list(
        &repository,
        &format!("latest:{root}"),
        false,
        &mut no_damage,
    )
    .unwrap();
    let names: Vec<&[u8]> = entries.iter().map(|e| e.node.name.as_slice()).collect();
    assert_eq!(names, [&b"a"[..], b"empty", b"link", b"nothing"]);
    let (entries, _) = list(
        &repository,
        &format!("latest:{root}/link"),
        false,
        &mut no_damage,
    )
    .unwrap();
    assert_eq!(entries[0].node.target.as_deref(), Some(&b"a/b/large"[..]));
    assert!(list(&repository, "latest:nowhere", true, &mut no_damage).is_err());

    back_up(&repository, folder.path());
    let check = |options: FindOptions, expected: u64| {
        let mut found = BTreeSet::new();
        let mut each = |snapshot: &super::snapshots::Snapshot, entry: &Entry| {
            found.insert((snapshot.seq, entry.path.clone()));
            Ok(())
        };
        let summary = find(&repository, &options, &mut each, &mut no_damage).unwrap();
        assert_eq!(summary.found, expected, "{options:?}");
        assert_eq!(found.len() as u64, expected);
    };
    let pattern = |glob: &str| FindOptions {
        patterns: vec![glob.into()],
        snapshots: vec!["latest".into()],
        ..FindOptions::default()
    };
    check(pattern("small-00?"), 10);
    check(pattern("SMALL-*"), 0);
    check(
        FindOptions {
            ignore_case: true,
            ..pattern("SMALL-*")
        },
        60,
    );
    check(pattern("*/b/c/*"), 1);
    check(
        FindOptions {
            kinds: vec![NodeKind::Symlink],
            ..FindOptions::default()
        },
        2,
    );
    check(
        FindOptions {
            size_min: Some(400_001),
            ..FindOptions::default()
        },
        2,
    );
    check(
        FindOptions {
            size_max: Some(0),
            names: vec!["no*".into()],
            ..FindOptions::default()
        },
        2,
    );
    check(
        FindOptions {
            paths: vec!["**/a/b/*".into()],
            ..FindOptions::default()
        },
        6,
    );
    let year = crate::format::node::Timestamp {
        seconds: 1_600_000_000,
        nanos: 0,
    };
    check(
        FindOptions {
            older: Some(year),
            ..pattern("small*")
        },
        0,
    );
    check(
        FindOptions {
            newer: Some(year),
            ..pattern("small*")
        },
        60,
    );
}

#[test]
fn files_come_back_byte_for_byte() {
    let (_, repository) = repository();
    let folder = tempfile::tempdir().unwrap();
    sample_tree(folder.path());
    let big: Vec<u8> = (0..40u64).flat_map(|i| noise(i % 7, 900_001)).collect();
    std::fs::write(folder.path().join("big"), &big).unwrap();
    back_up(&repository, folder.path());
    let root = in_tree(folder.path());
    assert_eq!(
        bytes_of(&repository, &format!("latest:{root}/big")).unwrap(),
        big
    );
    assert_eq!(
        bytes_of(&repository, &format!("latest:{root}/nothing")).unwrap(),
        b""
    );
    let text = bytes_of(&repository, &format!("latest:{root}/a/b/c/text")).unwrap();
    assert_eq!(text, "the same line again\n".repeat(20_000).into_bytes());
    for (path, said) in [
        ("a", "is a directory"),
        ("link", "is a symlink"),
        ("x", "not in"),
    ] {
        let refused = bytes_of(&repository, &format!("latest:{root}/{path}")).unwrap_err();
        assert!(refused.to_string().contains(said), "{refused}");
        assert_eq!(refused.exit_code(), 1);
    }
}

#[test]
fn a_sparse_file_comes_back() {
    let (_, repository) = repository();
    let folder = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(folder.path().join("sparse")).unwrap();
    file.write_all_at(&noise(1, 70_000), 1 << 20).unwrap();
    file.write_all_at(b"end", 3 << 20).unwrap();
    file.set_len(5 << 20).unwrap();
    back_up(&repository, folder.path());
    let place = format!("{}/sparse", in_tree(folder.path()));
    let (entries, _) = list(
        &repository,
        &format!("latest:{place}"),
        false,
        &mut no_damage,
    )
    .unwrap();
    assert!(
        !entries[0].node.holes.is_empty(),
        "the file system has no holes"
    );
    let expected = std::fs::read(folder.path().join("sparse")).unwrap();
    assert!(bytes_of(&repository, &format!("latest:{place}")).unwrap() == expected);
}

/// Flips one bit of an object.
fn flip(backend: &Memory, name: &ObjectName, at: usize) {
    let mut bytes = backend.contents()[name].to_vec();
    bytes[at] ^= 1;
    backend.replace(name, bytes);
}

fn packs(backend: &Memory) -> Vec<(ObjectName, usize)> {
    let contents = backend.contents();
    let packs = contents
        .iter()
        .filter(|(name, _)| name.kind() == ObjectKind::Pack);
    packs.map(|(name, bytes)| (*name, bytes.len())).collect()
}

#[test]
fn damage_ends_it_before_a_wrong_byte() {
    let (backend, repository) = repository();
    let folder = tempfile::tempdir().unwrap();
    let expected = noise(5, 1_500_000);
    std::fs::write(folder.path().join("file"), &expected).unwrap();
    back_up(&repository, folder.path());
    let place = format!("latest:{}/file", in_tree(folder.path()));
    let (mut damaged, mut short) = (0, 0);
    for (name, len) in packs(&backend) {
        let good = backend.contents()[&name].clone();
        for at in [len / 3, len / 2, len * 3 / 4] {
            flip(&backend, &name, at);
            let repository = reopen(backend.clone());
            let mut out = Vec::new();
            match cat(
                &repository,
                &Place::from(place.as_str()),
                &mut out,
                &mut |_| {},
            ) {
                Ok(_) => assert!(out == expected),
                Err(e) => {
                    assert_eq!(e.exit_code(), 4, "{e}");
                    assert!(expected.starts_with(&out));
                    damaged += 1;
                    short += usize::from(!out.is_empty());
                }
            }
            backend.replace(&name, good.clone());
        }
    }
    assert!(damaged > 5 && short > 0, "{damaged} {short}");
}

#[test]
fn a_damaged_directory_hides_nothing_else() {
    let (backend, repository) = repository();
    let folder = tempfile::tempdir().unwrap();
    for directory in 0..6 {
        let directory = folder.path().join(format!("d{directory}"));
        std::fs::create_dir(&directory).unwrap();
        for file in 0..150 {
            std::fs::write(directory.join(format!("{file:03}{}", "x".repeat(100))), b"").unwrap();
        }
    }
    back_up(&repository, folder.path());
    let (all, _) = list(&repository, "latest", true, &mut no_damage).unwrap();
    let all: BTreeSet<Vec<u8>> = all.into_iter().map(|entry| entry.path).collect();
    let mut partly = 0;
    for (name, len) in packs(&backend) {
        let good = backend.contents()[&name].clone();
        for at in (200..len).step_by(len / 12) {
            flip(&backend, &name, at);
            let mut told = 0;
            let listed = list(&reopen(backend.clone()), "latest", true, &mut |_| told += 1);
            match listed {
                Err(e) => assert_eq!(e.exit_code(), 4, "{e}"),
                Ok((entries, summary)) => {
                    assert_eq!(summary.damaged, told);
                    assert!(entries.iter().all(|entry| all.contains(&entry.path)));
                    assert_eq!(told > 0, entries.len() < all.len());
                    partly += usize::from(told > 0 && entries.len() > 150);
                }
            }
            backend.replace(&name, good.clone());
        }
    }
    assert!(partly > 2, "{partly}");
}

#[test]
fn a_manifest_names_what_a_restore_creates() {
    let (_, repository) = repository();
    let folder = tempfile::tempdir().unwrap();
    sample_tree(folder.path());
    std::fs::write(folder.path().join("new\nline\\"), b"1").unwrap();
    std::fs::write(
        folder.path().join(std::ffi::OsStr::from_bytes(b"\xff")),
        b"2",
    )
    .unwrap();
    back_up(&repository, folder.path());
    let root = in_tree(folder.path());
    let check = |spec: String, files: u64, inexpressible: u64| {
        let mut out = Vec::new();
        let place = Place::from(spec.as_str());
        let summary = manifest(&repository, &place, &mut out, &mut no_damage).unwrap();
        let found = (summary.files, summary.inexpressible, summary.without_digest);
        assert_eq!(found, (files, inexpressible, 0));
        String::from_utf8(out).unwrap()
    };
    let text = check(format!("latest:{root}"), 64, 1);
    let small = blake3::hash(&noise(3, 121)).to_hex();
    assert!(text.contains(&format!("{small}  a/small-003\n")), "{text}");
    assert!(text.contains(&format!("{}  nothing\n", blake3::hash(b"").to_hex())));
    assert!(text.contains(&format!(
        "\n\\{}  new\\nline\\\\\n",
        blake3::hash(b"1").to_hex()
    )));
    let text = check(format!("latest:{root}/a/small-003"), 1, 0);
    assert_eq!(text, format!("{small}  small-003\n"));
    assert!(check("latest".into(), 64, 1).contains(&format!("  {root}/a/small-003\n")));
}

#[test]
fn statistics_add_up() {
    let (backend, repository) = repository();
    let folder = tempfile::tempdir().unwrap();
    sample_tree(folder.path());
    back_up(&repository, folder.path());
    std::fs::copy(folder.path().join("a/b/large"), folder.path().join("copy")).unwrap();
    back_up(&repository, folder.path());
    let ask = |snapshot: Option<&str>| {
        let options = StatsOptions {
            snapshot: snapshot.map(str::to_owned),
            scratch: std::env::temp_dir(),
        };
        stats(&repository, &options, &mut no_damage).unwrap()
    };
    let StatsSummary::Repository(whole) = ask(None) else {
        panic!("of the repository");
    };
    let stored: usize = backend.contents().values().map(bytes::Bytes::len).sum();
    assert_eq!(whole.repository_bytes, stored as u64);
    assert_eq!(whole.packs, packs(&backend).len() as u64);
    assert_eq!(whole.snapshots, 2);
    assert!(whole.dedup_ratio > 2.5, "{whole:?}");
    assert!(whole.compression_ratio > 1.0, "{whole:?}");
    let StatsSummary::Snapshot(first) = ask(Some("latest~1")) else {
        panic!("of a snapshot");
    };
    let StatsSummary::Snapshot(second) = ask(Some("latest")) else {
        panic!("of a snapshot");
    };
    assert_eq!(second.restore_bytes, first.restore_bytes + 700_000);
    assert_eq!(
        whole.restore_bytes,
        first.restore_bytes + second.restore_bytes
    );
    assert_eq!((second.files, second.symlinks), (64, 1));
    let data = |stats: &super::stats::SnapshotStats| -> u64 {
        let classes = stats.classes.iter().filter(|class| class.class != "tree");
        classes.map(|class| class.unique_bytes).sum()
    };
    assert_eq!(data(&first), data(&second));
    assert!(second.chunks <= whole.chunks);
}

#[test]
fn every_kind_of_change_is_told_once() {
    use super::diff::{Change, DiffOptions, diff};
    let (_, repository) = repository();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    sample_tree(folder.path());
    std::fs::create_dir_all(at("gone/deep")).unwrap();
    std::fs::write(at("gone/deep/file"), b"12345").unwrap();
    std::fs::create_dir(at("kind")).unwrap();
    std::fs::write(at("kind/below"), b"1").unwrap();
    back_up(&repository, folder.path());
    let root = in_tree(folder.path());
    let ask = |before: &str, after: &str, path: &str| {
        let options = DiffOptions {
            before: Place::from(before),
            after: Place::from(after),
            path: path.as_bytes().to_vec(),
        };
        let mut told = Vec::new();
        let mut each = |difference: &super::diff::Difference| {
            let path = String::from_utf8(difference.path.clone()).unwrap();
            let short = path.strip_prefix(&format!("{root}/")).unwrap_or(&path);
            told.push(format!("{} {short}", difference.change.word()));
            if let Change::Modified { content, metadata } = &difference.change {
                assert!(*content || !metadata.is_empty());
            }
            Ok(())
        };
        let summary = diff(&repository, &options, &mut each, &mut no_damage).unwrap();
        (told, summary)
    };
    let same = ask("latest", "latest", "");
    assert_eq!(same.0, Vec::<String>::new());

    std::fs::remove_dir_all(at("gone")).unwrap();
    std::fs::remove_dir_all(at("kind")).unwrap();
    std::fs::write(at("kind"), b"a file now").unwrap();
    std::fs::write(at("a/small-007"), b"changed").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o400);
    std::fs::set_permissions(at("a/b/c/text"), mode).unwrap();
    std::fs::remove_file(at("link")).unwrap();
    std::os::unix::fs::symlink("elsewhere", at("link")).unwrap();
    std::fs::create_dir(at("new")).unwrap();
    std::fs::write(at("new/file"), b"123").unwrap();
    back_up(&repository, folder.path());
    let (told, summary) = ask("latest~1", "latest", &root);
    let expected = [
        "modified a/small-007",
        "metadata a/b/c/text",
        "modified link",
        "removed gone",
        "removed gone/deep",
        "removed gone/deep/file",
        "added new",
        "added new/file",
        "type-changed kind",
        "removed kind/below",
    ];
    let told: BTreeSet<&str> = told.iter().map(String::as_str).collect();
    let top = format!("metadata {root}");
    let missing: Vec<_> = expected
        .iter()
        .filter(|line| !told.contains(**line))
        .collect();
    assert!(missing.is_empty(), "{missing:?} of {told:?}");
    let more = |line: &&&str| !expected.contains(*line) && ***line != top;
    // The times of directories whose entries changed.
    let more: Vec<_> = told.iter().filter(more).collect();
    assert!(more.is_empty(), "{more:?}");
    let numbers = (
        summary.added,
        summary.removed,
        summary.modified,
        summary.type_changed,
    );
    assert_eq!(numbers, (2, 4, 2, 1));
    assert_eq!((summary.bytes_added, summary.bytes_removed), (3, 6));
    assert_eq!(summary.damaged, 0);
    let (back, summary) = ask("latest", "latest~1", &root);
    assert_eq!((summary.added, summary.removed), (4, 2));
    assert!(back.contains(&"added kind/below".to_owned()));
    let (below, _) = ask(
        &format!("latest~1:{root}/a"),
        &format!("latest:{root}/a"),
        "b",
    );
    assert_eq!(below, ["metadata a/b/c/text"]);
}

#[test]
fn equal_directories_are_skipped() {
    use super::diff::{DiffOptions, diff};
    let (backend, repository) = repository();
    let folder = tempfile::tempdir().unwrap();
    // So many that reading all is far more than reading two, wherever this secret cuts the nodes.
    for directory in (0..160).map(|i| folder.path().join(format!("d{i:03}"))) {
        std::fs::create_dir(&directory).unwrap();
        for file in 0..60 {
            std::fs::write(directory.join(format!("{file:03}{}", "x".repeat(200))), b"").unwrap();
        }
    }
    back_up(&repository, folder.path());
    std::fs::write(folder.path().join("d020/new"), b"").unwrap();
    back_up(&repository, folder.path());
    let reads = |run: &dyn Fn(&Arc<Repository>)| {
        let counting = Arc::new(crate::backend::Counting::new(backend.clone()));
        let repository = reopen(counting.clone());
        run(&repository);
        counting.counts().read_into
    };
    let all = reads(&|repository| {
        list(repository, "latest", true, &mut no_damage).unwrap();
    });
    let changed = reads(&|repository| {
        let options = DiffOptions {
            before: Place::from("latest~1"),
            after: Place::from("latest"),
            ..DiffOptions::default()
        };
        let mut told = 0;
        let mut each = |_: &super::diff::Difference| {
            told += 1;
            Ok(())
        };
        let summary = diff(repository, &options, &mut each, &mut no_damage).unwrap();
        assert_eq!((summary.added, summary.removed), (1, 0));
    });
    assert!(changed * 3 < all, "{changed} of {all}");
}

/// A folder with everything that a tar archive can hold and this user can make.
fn rich_tree(root: &Path) {
    use rustix::fs::{CWD, FileType, Mode, XattrFlags};
    sample_tree(root);
    let long = format!("{}/{}", "d".repeat(120), "e".repeat(150));
    std::fs::create_dir_all(root.join(&long)).unwrap();
    std::fs::write(root.join(&long).join("f".repeat(200)), b"long").unwrap();
    std::fs::write(root.join("gr\u{fc}\u{df}e"), b"text").unwrap();
    let raw = std::ffi::OsStr::from_bytes(b"raw\xff\xfe");
    std::fs::write(root.join(raw), b"raw").unwrap();
    let mut raw = vec![b'r'; 150];
    raw.extend_from_slice(b"\xff\n");
    std::fs::write(root.join(std::ffi::OsStr::from_bytes(&raw)), b"long raw").unwrap();
    std::fs::hard_link(root.join("a/b/large"), root.join("z-same")).unwrap();
    std::fs::hard_link(root.join("a/small-001"), root.join("a/small-001-again")).unwrap();
    std::os::unix::fs::symlink("t".repeat(180), root.join("long-link")).unwrap();
    rustix::fs::mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::from(0o640), 0).unwrap();
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(&noise(77, 10_000), 1 << 20).unwrap();
    sparse.set_len(9 << 20).unwrap();
    let old = std::fs::File::create(root.join("old")).unwrap();
    let time = std::time::UNIX_EPOCH - std::time::Duration::from_millis(1500);
    old.set_modified(time).unwrap();
    let value = b"1\0=\n2";
    rustix::fs::setxattr(
        root.join("old"),
        "user.with=sign",
        value,
        XattrFlags::empty(),
    )
    .unwrap();
}

/// Path, mode, time, links and content or target of everything below a folder.
fn facts(root: &Path) -> BTreeSet<String> {
    use std::os::unix::fs::MetadataExt;
    let mut all = BTreeSet::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let content = match meta.file_type() {
                t if t.is_dir() => {
                    open.push(path.clone());
                    String::new()
                }
                t if t.is_symlink() => format!("{:?}", std::fs::read_link(&path).unwrap()),
                t if t.is_file() => blake3::hash(&std::fs::read(&path).unwrap()).to_string(),
                _ => String::new(),
            };
            let mut value = [0; 64];
            let xattr = rustix::fs::lgetxattr(&path, "user.with=sign", &mut value).ok();
            let links = if meta.is_dir() { 0 } else { meta.nlink() };
            let time = (meta.mtime(), meta.mtime_nsec());
            let owner = (meta.uid(), meta.gid());
            let name = path.strip_prefix(root).unwrap();
            let xattr = xattr.map(|len| value[..len].to_vec());
            all.insert(format!(
                "{name:?} {:o} {owner:?} {time:?} {links} {content} {xattr:?}",
                meta.mode()
            ));
        }
    }
    all
}

#[test]
fn system_tar_reads_it_back() {
    use super::export::{TarOptions, TarOutput, export_tar};
    use crate::target::tar::Compression;
    let (_, repository) = repository();
    let folder = tempfile::tempdir().unwrap();
    rich_tree(folder.path());
    back_up(&repository, folder.path());
    let place = Place::from(format!("latest:{}", in_tree(folder.path())).as_str());
    let expected = facts(folder.path());
    let out = tempfile::tempdir().unwrap();
    for (compression, name) in [
        (Compression::None, "plain.tar"),
        (Compression::Zstd(None), "all.tar.zst"),
        (Compression::Gzip(Some(1)), "all.tar.gz"),
    ] {
        let options = TarOptions {
            place: place.clone(),
            compression,
        };
        let file = out.path().join(name);
        let summary = export_tar(
            &repository,
            &options,
            TarOutput::File(file.clone()),
            &super::backup::Interrupt::default(),
            &mut no_damage,
        )
        .unwrap();
        assert_eq!((summary.links, summary.sockets, summary.damaged), (2, 0, 0));
        assert_eq!(summary.bytes_written, file.metadata().unwrap().len());
        let target = out.path().join(format!("{name}-extracted"));
        std::fs::create_dir(&target).unwrap();
        let tar = std::process::Command::new("tar")
            .args(["--xattrs", "--xattrs-include=*", "-xpf"])
            .args([file.as_os_str(), "-C".as_ref(), target.as_os_str()])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&tar.stderr);
        assert!(tar.status.success(), "{said}");
        let extracted = facts(&target);
        let differ: Vec<_> = expected.symmetric_difference(&extracted).collect();
        assert!(differ.is_empty(), "{differ:#?} {said}");
        assert!(std::fs::read_dir(out.path()).unwrap().all(|entry| {
            !entry
                .unwrap()
                .file_name()
                .to_string_lossy()
                .ends_with(".partial")
        }));
    }
}

/// Exports the newest snapshot's folder into memory.
fn tar_of(
    repository: &Arc<Repository>,
    place: &str,
    damage: &mut dyn FnMut(&Damage),
) -> (Result<super::export::ExportSummary>, Vec<u8>) {
    use super::export::{TarOptions, TarOutput, export_tar};
    let shared = tempfile::tempfile().unwrap();
    let options = TarOptions {
        place: Place::from(place),
        ..TarOptions::default()
    };
    let out = TarOutput::Stream(Box::new(shared.try_clone().unwrap()));
    let interrupt = super::backup::Interrupt::default();
    let summary = export_tar(repository, &options, out, &interrupt, damage);
    let mut bytes = vec![0; usize::try_from(shared.metadata().unwrap().len()).unwrap()];
    shared.read_exact_at(&mut bytes, 0).unwrap();
    (summary, bytes)
}

/// Names and contents of the regular files of an archive.
fn files_of(tar: &[u8]) -> std::collections::BTreeMap<Vec<u8>, Vec<u8>> {
    use futures_util::StreamExt;
    use tokio::io::AsyncReadExt;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut files = std::collections::BTreeMap::new();
        let mut archive = tokio_tar::Archive::new(tar);
        let mut entries = archive.entries().unwrap();
        while let Some(entry) = entries.next().await {
            let mut entry = entry.unwrap();
            if entry.header().entry_type().is_file() {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).await.unwrap();
                files.insert(entry.path_bytes().unwrap().to_vec(), bytes);
            }
        }
        files
    })
}

#[test]
fn damaged_files_are_left_out() {
    let (backend, repository) = repository();
    let folder = tempfile::tempdir().unwrap();
    sample_tree(folder.path());
    std::fs::hard_link(
        folder.path().join("a/b/large"),
        folder.path().join("z-same"),
    )
    .unwrap();
    back_up(&repository, folder.path());
    let place = format!("latest:{}", in_tree(folder.path()));
    let (summary, whole) = tar_of(&repository, &place, &mut no_damage);
    assert_eq!(summary.unwrap().files, 64);
    let whole = files_of(&whole);
    assert_eq!(whole[&b"a/b/large"[..]], noise(1000, 700_000));
    let mut left_out = 0;
    for (name, len) in packs(&backend) {
        let good = backend.contents()[&name].clone();
        for at in (300..len).step_by(len / 7) {
            flip(&backend, &name, at);
            let mut told = 0;
            let (summary, tar) = tar_of(&reopen(backend.clone()), &place, &mut |_| told += 1);
            match summary {
                Err(e) => assert_eq!(e.exit_code(), 4, "{e}"),
                Ok(summary) => {
                    assert_eq!(summary.damaged, told);
                    let files = files_of(&tar);
                    assert!(files.iter().all(|(name, bytes)| whole[name] == *bytes));
                    assert_eq!(
                        told > 0,
                        files.len() < whole.len(),
                        "{told} {}",
                        files.len()
                    );
                    left_out += usize::from(told > 0 && files.len() > 10);
                }
            }
            backend.replace(&name, good.clone());
        }
    }
    assert!(left_out > 3, "{left_out}");
}

#[test]
fn an_output_appears_whole_or_not_at_all() {
    use super::export::{TarOptions, TarOutput, export_tar};
    let (backend, repository) = repository();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("big"), noise(1, 6 << 20)).unwrap();
    back_up(&repository, folder.path());
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("x.tar");
    let run = |repository: &Arc<Repository>, interrupt: &super::backup::Interrupt| {
        let options = TarOptions {
            place: Place::from("latest"),
            ..TarOptions::default()
        };
        let output = TarOutput::File(file.clone());
        export_tar(repository, &options, output, interrupt, &mut |_| {})
    };
    let interrupt = super::backup::Interrupt::default();
    interrupt.set();
    assert_eq!(run(&repository, &interrupt).unwrap_err().exit_code(), 130);
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
    std::fs::write(&file, b"precious").unwrap();
    let refused = run(&repository, &super::backup::Interrupt::default()).unwrap_err();
    assert_eq!(refused.exit_code(), 1);
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    std::fs::remove_file(&file).unwrap();
    let (name, len) = packs(&backend)
        .into_iter()
        .max_by_key(|(_, len)| *len)
        .unwrap();
    flip(&backend, &name, len / 2);
    let outcome = run(
        &reopen(backend.clone()),
        &super::backup::Interrupt::default(),
    );
    match outcome {
        Err(e) => {
            assert_eq!(e.exit_code(), 4);
            assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
        }
        Ok(summary) => assert_eq!((summary.damaged, summary.files), (1, 0)),
    }
}

/// Backs up a site with two shares and certificates.
fn back_up_site(repository: &Arc<Repository>, root: &Path) {
    use super::backup::{BackupOptions, Interrupt, backup};
    sample_tree(&root.join("share/Apps"));
    std::fs::create_dir_all(root.join("share/StaticContent")).unwrap();
    std::fs::write(root.join("share/StaticContent/x.js"), b"js").unwrap();
    std::fs::create_dir_all(root.join("etc/certs")).unwrap();
    std::fs::write(root.join("etc/certs/root.pem"), b"a certificate").unwrap();
    std::fs::write(root.join("etc/certs/server.pem"), b"another").unwrap();
    std::fs::write(root.join("etc/app.conf"), b"setting").unwrap();
    let text = format!(
        "[site]\nname = \"qlik\"\n\
         [repository]\nurl = \"/nowhere\"\n\
         [[share]]\nname = \"Apps\"\npath = \"{0}/share/Apps\"\n\
         [[share]]\nname = \"StaticContent\"\npath = \"{0}/share/StaticContent\"\n\
         [[files]]\nname = \"config\"\nlists = [\"{0}/list\"]\n\
         [[certificates]]\nname = \"qlik\"\npaths = [\"{0}/etc/certs/*.pem\"]\n",
        root.display()
    );
    std::fs::write(
        root.join("list"),
        format!("{}/etc/app.conf\n", root.display()),
    )
    .unwrap();
    let site = crate::site::SiteFile::parse(&text, &root.join("site.toml")).unwrap();
    let mut options = BackupOptions::new("host");
    options.site = Some(Arc::new(site));
    options.workers = Some(2);
    let stats = Arc::new(crate::stats::Stats::default());
    let summary = backup(repository, &options, &stats, &Interrupt::default()).unwrap();
    assert!(summary.complete, "{:?}", summary.components);
}

#[test]
fn the_folder_appears_whole_or_not_at_all() {
    use super::backup::Interrupt;
    use super::dated::{DatedOptions, export_dated};
    let (_, repository) = repository();
    let root = tempfile::tempdir().unwrap();
    back_up_site(&repository, root.path());
    let out = tempfile::tempdir().unwrap();
    let options = DatedOptions {
        snapshot: "latest".into(),
        target: out.path().join("QSBackup"),
        zone: jiff::tz::TimeZone::UTC,
        restore: crate::target::files::RestoreOptions::default(),
    };
    let interrupt = Interrupt::default();
    interrupt.set();
    let stopped = export_dated(&repository, &options, &interrupt, &mut no_damage).unwrap_err();
    assert_eq!(stopped.exit_code(), 130);
    assert_eq!(std::fs::read_dir(&options.target).unwrap().count(), 0);

    let run = || export_dated(&repository, &options, &Interrupt::default(), &mut no_damage);
    let summary = run().unwrap();
    assert_eq!(
        (summary.failed, summary.damaged),
        (0, 0),
        "{:?}",
        summary.failures
    );
    let mut left_out = summary.left_out.clone();
    left_out.sort();
    assert_eq!(left_out, ["files config", "site site.toml"]);
    let folder = &summary.folder;
    assert_eq!(folder.parent(), Some(options.target.as_path()));
    let apps = facts(&root.path().join("share/Apps"));
    let difference: Vec<_> = facts(&folder.join("QlikShare/Apps"))
        .symmetric_difference(&apps)
        .cloned()
        .collect();
    assert!(difference.is_empty(), "{difference:#?}");
    let read = |path: &str| std::fs::read(folder.join(path)).unwrap();
    assert_eq!(read("QlikShare/StaticContent/x.js"), b"js");
    assert_eq!(read("Certificates/root.pem"), b"a certificate");
    assert_eq!(read("Certificates/server.pem"), b"another");
    let mut tops: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    tops.sort();
    assert_eq!(tops, ["Certificates", "Database", "QlikShare"]);
    assert_eq!(std::fs::read_dir(&options.target).unwrap().count(), 1);
    let refused = run().unwrap_err();
    assert_eq!(refused.exit_code(), 1);
    assert_eq!(std::fs::read_dir(&options.target).unwrap().count(), 1);
}
