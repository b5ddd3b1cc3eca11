//! Walks of real directories into a store in memory, fused and with readers.

#![allow(clippy::print_stderr, reason = "a test says what it skips")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, FileType as Kind, Mode, Timespec, Timestamps, XattrFlags};

use super::*;
use crate::format::node::{
    Consistency, Content, Hole, Xattr, decode_items, decode_nodes, encode_item,
};
use crate::format::snapshot::SkippedItem;
use crate::pipeline::worker::testing::{MemoryStore, parts};
use crate::pipeline::{Pool, Worker};
use crate::source::ParentNode;
use crate::stats::Stats;

#[path = "big_tests.rs"]
mod big;

#[derive(Debug, Clone)]
struct Tree(Arc<MemoryStore>);

impl Tree {
    fn bytes(&self, content: &Content) -> Vec<u8> {
        let mut out = Vec::new();
        for chunk in &content.refs {
            let bytes = self.0.chunks.lock().unwrap()[&chunk.id].clone();
            if content.depth == 0 {
                out.extend_from_slice(&bytes);
            } else {
                let mut refs = Vec::new();
                decode_items(&bytes, |item| refs.push(item)).unwrap();
                let depth = content.depth - 1;
                out.extend(self.bytes(&Content { depth, refs }));
            }
        }
        out
    }

    fn holes(&self, node: &Node) -> Vec<Hole> {
        let mut holes = node.holes.clone();
        if let Some(stream) = &node.holes_stream {
            decode_items(&self.bytes(stream), |hole| holes.push(hole)).unwrap();
        }
        holes
    }

    fn xattrs(&self, node: &Node) -> Vec<Xattr> {
        let mut xattrs = node.xattrs.clone();
        if let Some(stream) = &node.xattrs_stream {
            decode_items(&self.bytes(stream), |xattr| xattrs.push(xattr)).unwrap();
        }
        xattrs
    }

    /// The whole content with zeros for holes.
    fn whole(&self, node: &Node) -> Vec<u8> {
        let data = self.bytes(&node.content);
        let mut out = Vec::new();
        let mut at = 0;
        for segment in crate::format::holes::segments(&self.holes(node), node.size) {
            let len = usize::try_from(segment.len).unwrap();
            if segment.data {
                out.extend_from_slice(&data[at..at + len]);
                at += len;
            } else {
                out.resize(out.len() + len, 0);
            }
        }
        assert_eq!(at, data.len());
        out
    }
}

impl ParentTree for Tree {
    fn entries(
        &self,
        directory: &Content,
    ) -> Box<dyn Iterator<Item = Result<ParentNode, Error>> + Send + '_> {
        let nodes = decode_nodes(&self.bytes(directory)).unwrap();
        Box::new(nodes.into_iter().map(|node| {
            let mut encoded = Vec::new();
            encode_item(&node, &mut encoded);
            let node = Box::new(node);
            Ok(ParentNode { node, encoded })
        }))
    }
}

struct Backup {
    outcome: TreeOutcome,
    stats: Arc<Stats>,
    tree: Tree,
    root: Content,
    skipped: Vec<(String, String)>,
    started: Timestamp,
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap(),
        nanos: since.subsec_nanos(),
    }
}

fn backup(source: &TreeSource, parent: Option<&Parent>, store: &Arc<MemoryStore>) -> Backup {
    try_backup(source, parent, store).unwrap()
}

fn try_backup(
    source: &TreeSource,
    parent: Option<&Parent>,
    store: &Arc<MemoryStore>,
) -> Result<Backup, SourceError> {
    let parts = parts(store.clone());
    let pool = Pool::new(2, 8 << 20, 64, &parts);
    let stats = Arc::new(Stats::default());
    let scratch = tempfile::tempdir().unwrap();
    let sink = Sink::new(pool.clone(), stats.clone(), 1 << 20, scratch.path());
    let started = timestamp(SystemTime::now());
    let outcome = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut worker = Worker::new(parts.clone()).unwrap();
                pool.work(&mut worker);
                worker.flush().unwrap();
            });
        }
        let outcome = walk(source, parent, started, &sink);
        pool.close();
        outcome
    })?;
    let mut worker = Worker::new(parts.clone()).unwrap();
    let (built, skipped) = sink.finish(&mut worker).unwrap();
    worker.flush().unwrap();
    let tree = Tree(store.clone());
    let mut items = Vec::new();
    decode_items(&tree.bytes(&skipped), |item: SkippedItem| {
        items.push((
            String::from_utf8_lossy(&item.path).into_owned(),
            item.reason,
        ));
    })
    .unwrap();
    Ok(Backup {
        outcome,
        stats,
        tree,
        root: built.root,
        skipped: items,
        started,
    })
}

impl Backup {
    /// Every node by its path.
    fn nodes(&self) -> BTreeMap<Vec<u8>, Node> {
        let mut found = BTreeMap::new();
        let mut open = vec![(Vec::new(), self.root.clone())];
        while let Some((path, content)) = open.pop() {
            for node in self.tree.entries(&content) {
                let node = *node.unwrap().node;
                let mut below: Vec<u8> = path.clone();
                if !below.is_empty() {
                    below.push(b'/');
                }
                below.extend_from_slice(&node.name);
                if node.is_directory() {
                    open.push((below.clone(), node.content.clone()));
                }
                found.insert(below, node);
            }
        }
        found
    }

    fn node(&self, path: &str) -> Node {
        let nodes = self.nodes();
        match nodes.get(path.as_bytes()) {
            Some(node) => node.clone(),
            None => panic!("no {path} among {}", nodes.len()),
        }
    }

    /// As the parent of the next run, `seconds` later than it was.
    fn as_parent(&self, path: &str, seconds: i64) -> Parent {
        Parent {
            tree: Arc::new(self.tree.clone()),
            node: self.node(path),
            started: Timestamp {
                seconds: self.started.seconds + seconds,
                nanos: 0,
            },
        }
    }
}

fn source(root: &Path) -> TreeSource {
    let base = TreePath::root().join(b"shares").join(b"s");
    TreeSource::new(Roots::Tree(root.to_owned()), base)
}

fn settle(path: &Path, seconds: i64) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 123_456_789,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(99);
            state.to_le_bytes()[7]
        })
        .collect()
}

/// A tree with one of everything.
fn one_of_everything() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fs::create_dir(root.join("d")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    fs::write(root.join("d/a"), b"hello").unwrap();
    fs::write(root.join("none"), b"").unwrap();
    fs::write(root.join("big"), noise(3 << 20, 1)).unwrap();
    fs::write(
        root.join(std::ffi::OsStr::from_bytes(b"\xff\xfename")),
        b"raw",
    )
    .unwrap();
    symlink("d/a", root.join("link")).unwrap();
    symlink("/nowhere/at/all", root.join("dangling")).unwrap();
    fs::hard_link(root.join("d/a"), root.join("second")).unwrap();
    rustix::fs::mknodat(CWD, root.join("fifo"), Kind::Fifo, Mode::from(0o600), 0).unwrap();
    drop(std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap());
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    sparse.write_all_at(&noise(5000, 2), 1 << 20).unwrap();
    let holey = File::create(root.join("holey")).unwrap();
    for number in 0..100 {
        holey.write_all_at(b"data", number << 14).unwrap();
    }
    holey.set_len(100 << 14).unwrap();
    fs::set_permissions(root.join("d/a"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::set_permissions(root.join("empty"), fs::Permissions::from_mode(0o1777)).unwrap();
    settle(&root.join("d/a"), 1_000_000_007);
    settle(&root.join("link"), 900);
    directory
}

fn user_attributes(root: &Path) -> bool {
    let set = |name: &str, value: &[u8]| {
        rustix::fs::setxattr(root.join("d"), name, value, XattrFlags::empty()).is_ok()
    };
    set("user.one", b"1") && set("user.large", &[7; 2000]) && {
        (0..30).all(|number| set(&format!("user.n{number:02}"), &[number; 60]))
    }
}

#[test]
fn every_kind_is_recorded_as_it_is() {
    let directory = one_of_everything();
    let root = directory.path();
    let attributes = user_attributes(root);
    if !attributes {
        eprintln!("skipped in part: no user attributes on this file system");
    }
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        let device = rustix::fs::makedev(1, 3);
        let mode = Mode::from(0o666);
        rustix::fs::mknodat(CWD, root.join("null"), Kind::CharacterDevice, mode, device).unwrap();
    } else {
        eprintln!("skipped in part: devices need root");
    }
    for readers in [0, 8] {
        let store = Arc::new(MemoryStore::default());
        let source = TreeSource {
            readers: Some(readers),
            ..source(root)
        };
        let result = backup(&source, None, &store);
        assert_eq!(result.skipped, []);
        let node = |name: &str| result.node(&format!("shares/s/{name}"));
        let a = node("d/a");
        assert_eq!((a.size, a.mode), (5, 0o640));
        let settled = Timestamp {
            seconds: 1_000_000_007,
            nanos: 123_456_789,
        };
        assert_eq!(a.modified, settled);
        assert_eq!(a.digest.unwrap().0, *blake3::hash(b"hello").as_bytes());
        assert_eq!(result.tree.whole(&a), b"hello");
        assert_eq!(a.link_group, node("second").link_group);
        assert!(a.link_group.is_some());
        assert_eq!(result.tree.whole(&node("second")), b"hello");
        assert_eq!(result.tree.whole(&node("big")), noise(3 << 20, 1));
        assert_eq!(
            node("none").digest.unwrap().0,
            *blake3::hash(b"").as_bytes()
        );
        let raw = &result.nodes()[&b"shares/s/\xff\xfename"[..]];
        assert_eq!(result.tree.whole(raw), b"raw");
        assert_eq!(node("link").target.unwrap(), b"d/a");
        assert_eq!(node("link").modified.seconds, 900);
        assert_eq!(node("dangling").kind, NodeKind::Symlink);
        assert_eq!(node("fifo").kind, NodeKind::Fifo);
        assert_eq!(node("socket").kind, NodeKind::Socket);
        assert_eq!(result.outcome.sockets, 1);
        assert_eq!(node("empty").mode, 0o1777);
        for name in ["sparse", "holey"] {
            let found = node(name);
            let bytes = fs::read(root.join(name)).unwrap();
            assert_eq!(result.tree.whole(&found), bytes);
            assert_eq!(found.digest.unwrap().0, *blake3::hash(&bytes).as_bytes());
        }
        assert!(!node("sparse").holes.is_empty());
        assert!(node("holey").holes_stream.is_some());
        if attributes {
            let xattrs = result.tree.xattrs(&node("d"));
            assert_eq!(xattrs.len(), 32);
            assert!(node("d").xattrs_stream.is_none());
            assert_eq!(xattrs[0].value.len(), 2000);
        }
        if is_root {
            let null = node("null");
            assert_eq!(null.kind, NodeKind::CharDevice);
            assert_eq!(null.device.map(|d| (d.major, d.minor)), Some((1, 3)));
            assert_eq!(a.user.as_deref(), Some(&b"root"[..]));
        }
        assert_eq!(result.outcome.totals.directories, 2);
    }
}

#[test]
fn large_attributes_are_a_stream() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f");
    fs::create_dir(directory.path().join("d")).unwrap();
    fs::write(&path, b"x").unwrap();
    // ext4 holds one block of attributes; tmpfs and others more.
    let values = (0..9).map(|number| vec![number; 400]);
    let fits = values.enumerate().all(|(number, value)| {
        let name = format!("user.{}{number}", "n".repeat(100));
        rustix::fs::setxattr(&path, name, &value, XattrFlags::empty()).is_ok()
    });
    if !fits {
        eprintln!("skipped: this file system holds no large attributes");
        return;
    }
    for readers in [0, 2] {
        let store = Arc::new(MemoryStore::default());
        let source = TreeSource {
            readers: Some(readers),
            ..source(directory.path())
        };
        let result = backup(&source, None, &store);
        let node = result.node("shares/s/f");
        assert_eq!(result.tree.xattrs(&node).len(), 9);
        assert!(node.xattrs_stream.is_some());
    }
}

#[test]
fn unchanged_files_are_taken_over() {
    let directory = one_of_everything();
    let root = directory.path();
    for readers in [0, 4] {
        let store = Arc::new(MemoryStore::default());
        let source = TreeSource {
            readers: Some(readers),
            ..source(root)
        };
        let first = backup(&source, None, &store);
        let second = backup(&source, Some(&first.as_parent("shares/s", 60)), &store);
        assert_eq!(second.stats.bytes_read.get(), 0);
        assert_eq!(second.stats.files_new.get(), 0);
        assert_eq!(second.stats.files_changed.get(), 0);
        assert_eq!(second.root, first.root);
        // What is younger than the parent is read although it looks the same.
        let fresh = backup(&source, Some(&first.as_parent("shares/s", -3600)), &store);
        assert_eq!(fresh.stats.bytes_read.get(), first.stats.bytes_read.get());
        assert_eq!(fresh.root, first.root);
    }
}

#[test]
fn only_what_changed_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for number in 0..600 {
        let below = root.join(format!("d{}", number % 7));
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join(format!("f{number}")), noise(100 + number, 3)).unwrap();
    }
    let store = Arc::new(MemoryStore::default());
    let source = source(root);
    let first = backup(&source, None, &store);
    assert_eq!(first.stats.files_new.get(), 600);
    fs::write(root.join("d1/f1"), b"changed").unwrap();
    fs::remove_file(root.join("d2/f2")).unwrap();
    fs::write(root.join("d3/new"), b"new").unwrap();
    fs::set_permissions(root.join("d4/f4"), fs::Permissions::from_mode(0o600)).unwrap();
    let second = backup(&source, Some(&first.as_parent("shares/s", 60)), &store);
    // The parent seems to be from the future, so what was just written is not fresh but differs.
    assert_eq!(second.stats.files_new.get(), 1);
    assert_eq!(second.stats.files_changed.get(), 2);
    assert_eq!(second.stats.files_unmodified.get(), 597);
    assert_eq!(second.node("shares/s/d4/f4").mode, 0o600);
    assert!(!second.nodes().contains_key(&b"shares/s/d2/f2"[..]));
    assert_eq!(second.outcome.totals.files, 600);
}

#[test]
fn a_content_that_changed_alone_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f");
    fs::write(&path, b"before").unwrap();
    settle(&path, 1000);
    let store = Arc::new(MemoryStore::default());
    let source = TreeSource {
        // The change time can't be put back by a test.
        detection: Detection::ModifiedOnly,
        ..source(directory.path())
    };
    let first = backup(&source, None, &store);
    fs::write(&path, b"behind").unwrap();
    settle(&path, 1000);
    let parent = first.as_parent("shares/s", 60);
    let trusting = backup(&source, Some(&parent), &store);
    assert_eq!(trusting.outcome.bit_rot, 0);
    assert_eq!(trusting.root, first.root);
    let bad = {
        let mut parent = parent.clone();
        let mut node = first.node("shares/s/f");
        // As if inode and change time were the parent's.
        let now = Stat::at(File::open(directory.path()).unwrap(), b"f").unwrap();
        node.inode = Some(now.ino);
        node.changed = Some(now.changed);
        let mut bytes = Vec::new();
        crate::format::node::encode_item(&node, &mut bytes);
        let mut worker = Worker::new(parts(store.clone())).unwrap();
        let chunk = worker
            .put_chunk(crate::format::pack::Class::Tree, &bytes)
            .unwrap();
        worker.flush().unwrap();
        parent.node.content = Content {
            depth: 0,
            refs: vec![chunk],
        };
        parent
    };
    let reading = TreeSource {
        detection: Detection::ReadAll,
        ..source
    };
    let all = backup(&reading, Some(&bad), &Arc::new(MemoryStore::default()));
    assert_eq!(all.outcome.bit_rot, 1);
    assert!(
        all.outcome.notes[0].contains("bit rot"),
        "{:?}",
        all.outcome.notes
    );
}

#[test]
fn what_is_excluded_stays_out() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for name in ["cache", "fake", "keep", "never"] {
        fs::create_dir(root.join(name)).unwrap();
        fs::write(root.join(name).join("x.tmp"), b"x").unwrap();
        fs::write(root.join(name).join("y"), b"y").unwrap();
    }
    let tag = b"Signature: 8a477f597d28d172789f06886806bc55\n# more";
    fs::write(root.join("cache/CACHEDIR.TAG"), tag).unwrap();
    fs::write(root.join("fake/CACHEDIR.TAG"), b"Signature: no").unwrap();
    let source = TreeSource {
        excludes: vec!["*.tmp".to_owned()],
        cachedir_tag: true,
        never: vec![identity(&root.join("never")).unwrap()],
        ..source(root)
    };
    let result = backup(&source, None, &Arc::new(MemoryStore::default()));
    let names: Vec<String> = result
        .nodes()
        .into_keys()
        .map(|path| String::from_utf8(path).unwrap())
        .collect();
    let expected = [
        "shares",
        "shares/s",
        "shares/s/cache",
        "shares/s/cache/CACHEDIR.TAG",
        "shares/s/fake",
        "shares/s/fake/CACHEDIR.TAG",
        "shares/s/fake/y",
        "shares/s/keep",
        "shares/s/keep/y",
    ];
    assert_eq!(names, expected);
    assert_eq!(result.outcome.notes.len(), 1);
    let itself = TreeSource {
        never: vec![identity(root).unwrap()],
        ..source
    };
    let refused = try_backup(&itself, None, &Arc::new(MemoryStore::default()));
    assert!(matches!(refused, Err(SourceError::Component(_))));
}

#[test]
fn a_missing_root_fails_the_component() {
    let gone = source(Path::new("/nonexistent/share"));
    let result = try_backup(&gone, None, &Arc::new(MemoryStore::default()));
    let Err(SourceError::Component(text)) = result else {
        panic!("not a component's error");
    };
    assert!(text.contains("/nonexistent/share"), "{text}");
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(MemoryStore::default());
    fs::write(directory.path().join("f"), b"x").unwrap();
    let first = backup(&source(directory.path()), None, &store);
    assert!(!first.outcome.looks_unmounted());
    fs::remove_file(directory.path().join("f")).unwrap();
    let parent = first.as_parent("shares/s", 60);
    let second = backup(&source(directory.path()), Some(&parent), &store);
    assert!(second.outcome.looks_unmounted());
}

#[test]
fn lists_keep_absolute_paths() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    fs::create_dir_all(root.join("real/sub")).unwrap();
    fs::write(root.join("real/conf"), b"conf").unwrap();
    fs::write(root.join("real/sub/deep"), b"deep").unwrap();
    fs::write(root.join("real/other"), b"other").unwrap();
    fs::set_permissions(root.join("real"), fs::Permissions::from_mode(0o710)).unwrap();
    symlink("real", root.join("alias")).unwrap();
    let list = vec![
        root.join("alias/conf"),
        root.join("real/sub"),
        root.join("real/sub/deep"),
        root.join("real/gone"),
    ];
    let base = TreePath::root().join(b"files").join(b"config");
    let source = TreeSource::new(Roots::List(list), base);
    let store = Arc::new(MemoryStore::default());
    let result = backup(&source, None, &store);
    assert_eq!(result.skipped, []);
    assert_eq!(result.outcome.missing, [root.join("real/gone")]);
    let at = |path: &str| {
        let full = root.join(path);
        format!("files/config{}", full.to_str().unwrap())
    };
    assert_eq!(result.node(&at("alias")).kind, NodeKind::Symlink);
    assert_eq!(result.node(&at("real")).mode, 0o710);
    assert_eq!(result.tree.whole(&result.node(&at("real/conf"))), b"conf");
    assert_eq!(
        result.tree.whole(&result.node(&at("real/sub/deep"))),
        b"deep"
    );
    assert!(!result.nodes().contains_key(at("real/other").as_bytes()));
    let again = backup(&source, Some(&result.as_parent("files/config", 60)), &store);
    assert_eq!(again.stats.bytes_read.get(), 0);
    assert_eq!(again.stats.files_new.get(), 0);
}

#[test]
fn deep_trees_need_few_handles() {
    let directory = tempfile::tempdir().unwrap();
    let mut at = rustix::fs::open(directory.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
    let depth = 600;
    for _ in 0..depth {
        rustix::fs::mkdirat(&at, c"deeper", Mode::from(0o755)).unwrap();
        for name in [c"a", c"z"] {
            let flags = OFlags::CREATE | OFlags::WRONLY;
            let file = rustix::fs::openat(&at, name, flags, Mode::from(0o644)).unwrap();
            rustix::io::write(&file, b"x").unwrap();
        }
        at = rustix::fs::openat(&at, c"deeper", OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    for readers in [0, 2] {
        let source = TreeSource {
            readers: Some(readers),
            ..source(directory.path())
        };
        let result = backup(&source, None, &Arc::new(MemoryStore::default()));
        assert_eq!(result.skipped, []);
        assert_eq!(result.outcome.totals.files, 2 * depth);
        assert_eq!(result.outcome.totals.directories, depth);
    }
    // The path is too long for a removal by path.
    let status = std::process::Command::new("rm")
        .arg("-rf")
        .arg(directory.path())
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn large_directories_and_many_readers() {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..5000 {
        let path = directory.path().join(format!("file-{number:05}"));
        fs::write(path, format!("content {}", number % 100)).unwrap();
    }
    let mut roots = Vec::new();
    for readers in [0, 1, 64] {
        let source = TreeSource {
            readers: Some(readers),
            ..source(directory.path())
        };
        let result = backup(&source, None, &Arc::new(MemoryStore::default()));
        assert_eq!(result.outcome.totals.files, 5000);
        roots.push(result.root);
    }
    assert_eq!(roots[0], roots[1]);
    assert_eq!(roots[0], roots[2]);
}

/// Archives a file while `change` runs over and over; again where the other thread did not run meanwhile.
fn while_changing(readers: usize, len: usize, change: impl Fn(&File) + Sync) -> (Node, Backup) {
    let mut last = change_once(readers, len, &change);
    for _ in 0..20 {
        if last.0.consistency != Consistency::Whole {
            break;
        }
        last = change_once(readers, len, &change);
    }
    last
}

fn change_once(readers: usize, len: usize, change: &(impl Fn(&File) + Sync)) -> (Node, Backup) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f");
    fs::write(&path, noise(len, 5)).unwrap();
    let stop = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::options().append(true).read(true).open(&path).unwrap();
            while !stop.load(Ordering::Relaxed) {
                change(&file);
            }
        });
        let source = TreeSource {
            readers: Some(readers),
            ..source(directory.path())
        };
        let result = backup(&source, None, &Arc::new(MemoryStore::default()));
        stop.store(true, Ordering::Relaxed);
        result
    });
    (result.node("shares/s/f"), result)
}

#[test]
fn a_file_that_changes_is_never_whole() {
    for readers in [0, 3] {
        let (node, result) = while_changing(readers, 4 << 20, |mut file| {
            file.write_all(b"one more line\n").unwrap();
        });
        assert_eq!(node.consistency, Consistency::Grew, "readers {readers}");
        assert_eq!(result.tree.whole(&node).len() as u64, node.size);
        assert_eq!(result.outcome.grew, 1);
        let position = std::sync::atomic::AtomicU64::new(0);
        let (node, result) = while_changing(readers, 4 << 20, |file| {
            let at = position.fetch_add(1, Ordering::Relaxed) % (4 << 20);
            // A file opened for appending writes at its end; so this one is opened again.
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
            let file = File::options().write(true).open(path).unwrap();
            file.write_all_at(b"?", at).unwrap();
        });
        assert_eq!(node.consistency, Consistency::Torn, "readers {readers}");
        assert_eq!(result.outcome.torn, 1);
        assert_eq!(result.skipped.len(), 1);
        assert_eq!(node.size, 4 << 20);
    }
}

#[test]
fn unreadable_entries_are_counted_and_named() {
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: root reads everything");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fs::write(root.join("secret"), b"x").unwrap();
    fs::create_dir(root.join("closed")).unwrap();
    fs::set_permissions(root.join("secret"), fs::Permissions::from_mode(0o0)).unwrap();
    fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o0)).unwrap();
    let result = backup(&source(root), None, &Arc::new(MemoryStore::default()));
    fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(result.outcome.skipped, 2);
    assert_eq!(result.skipped.len(), 2);
    assert_eq!(result.node("shares/s/closed").kind, NodeKind::Directory);
}

#[test]
fn the_end_of_a_run_ends_the_walk() {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..2000 {
        fs::write(
            directory.path().join(number.to_string()),
            noise(2000, number),
        )
        .unwrap();
    }
    for readers in [0, 16] {
        let parts = parts(Arc::default());
        let pool = Pool::new(2, 1 << 20, 64, &parts);
        let scratch = tempfile::tempdir().unwrap();
        let sink = Sink::new(pool.clone(), Arc::default(), 1 << 20, scratch.path());
        let source = TreeSource {
            readers: Some(readers),
            ..source(directory.path())
        };
        let result = std::thread::scope(|scope| {
            scope.spawn(|| pool.work(&mut Worker::new(parts.clone()).unwrap()));
            scope.spawn(|| {
                std::thread::sleep(std::time::Duration::from_millis(5));
                pool.stop(Error::Interrupted);
            });
            walk(&source, None, Timestamp::default(), &sink)
        });
        if let Err(error) = result {
            assert!(matches!(error, SourceError::Run(_)), "{error}");
        }
        assert!(matches!(pool.take_error(), Some(Error::Interrupted)));
    }
}

#[test]
fn covered_paths_are_walked_once() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("d/f"), b"x").unwrap();
    let list: Vec<PathBuf> = ["d/f", "d", "d", "e"].map(|name| root.join(name)).into();
    let kept = list::without_covered(&list);
    assert_eq!(kept, [&root.join("d"), &root.join("e")]);
}
