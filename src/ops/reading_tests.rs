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
    packs
        .map(|(name, bytes)| (name.clone(), bytes.len()))
        .collect()
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
    assert_eq!(whole.packs as usize, packs(&backend).len());
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
