//! Repositories of every released format, written once and read for ever.
//!
//! `tests/golden/format-<n>/<suite>` is a repository, `<suite>.txt` beside it is all that was in it when it was written: every snapshot,
//! component and node with its metadata, and the BLAKE3 of every content. What reads differently now is a broken promise, not a test to be
//! adapted: fix the code. A format that has to change gets a new number and a new folder.
//!
//! How the folders were made, as root, once for each format before its release:
//!
//! ```text
//! cargo test --test it golden::write_format_1 -- --ignored
//! ```
//!
//! Invariants: no file in `tests/golden` is not read (`every_byte_of_format_1_is_read`).

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast::backend::{Backend, Local, ObjectKind, ObjectName};
use holdfast::crypto::{Keyring, NewKey, Secret32, SystemRandom};
use holdfast::format::framed;
use holdfast::format::header::Suite;
use holdfast::format::holes::segments;
use holdfast::format::id::ObjectHash;
use holdfast::format::key::KeyKind;
use holdfast::format::node::{Content, Hole, Node, NodeKind, Timestamp, Xattr, decode_items};
use holdfast::format::repository::{ChunkerSettings, FORMAT_MAGIC, KdfSettings, RepositoryFormat};
use holdfast::format::snapshot::{ComponentState, SkippedItem};
use holdfast::ops::backup::{BackupOptions, Interrupt, backup};
use holdfast::ops::snapshots;
use holdfast::site::SiteFile;
use holdfast::stats::Stats;
use holdfast::store::reader::ChunkReader;
use holdfast::store::{Ambient, CreateOptions, KeyInfo, KeySecret, Repository, StoreError, tree};

use crate::pg_cluster::Cluster;

const SUITES: [(Suite, &str); 2] = [(Suite::Aes256Gcm, "aes-256-gcm"), (Suite::None, "none")];
const PASSPHRASE: &[u8] = b"correct horse battery staple";
const KEY_FILE: [u8; 32] = [0x11; 32];
const RECOVERY: [u8; 32] = [0x22; 32];

/// Which key opens it.
#[derive(Clone, Copy, Debug)]
enum With {
    Passphrase,
    KeyFile,
    Recovery,
    WrongKey,
    Nothing,
}

fn folder(format: u16) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/format-{format}"))
}

fn open(path: &Path, with: With) -> Result<Arc<Repository>, StoreError> {
    let backend: Arc<dyn Backend> = Arc::new(Local::new(path).unwrap());
    let mut unlock = |info: &KeyInfo| match (with, &info.kind) {
        (With::Passphrase, KeyKind::Passphrase { .. }) => {
            Some(KeySecret::Passphrase(PASSPHRASE.to_vec().into()))
        }
        (With::KeyFile, KeyKind::KeyFile) => {
            Some(KeySecret::Key(Secret32::take(&mut { KEY_FILE })))
        }
        (With::Recovery, KeyKind::Recovery) => {
            Some(KeySecret::Key(Secret32::take(&mut { RECOVERY })))
        }
        (With::WrongKey, KeyKind::KeyFile) => Some(KeySecret::Key(Secret32::take(&mut [0x33; 32]))),
        _ => None,
    };
    let place = path.display().to_string();
    Repository::open(backend, &place, &mut unlock, Ambient::default()).map(Arc::new)
}

/// A copy that may be changed.
fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(from.join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let name = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                fs::create_dir(to.path().join(&name)).unwrap();
                folders.push(name);
            } else {
                fs::copy(entry.path(), to.path().join(&name)).unwrap();
            }
        }
    }
    // Version control keeps no empty folders.
    for kind in ObjectKind::ALL {
        if kind != ObjectKind::Format {
            fs::create_dir_all(to.path().join(kind.to_string())).unwrap();
        }
    }
    to
}

/// All that is in a repository, as text. What a snapshot shares with those before it is counted and digested.
fn describe(repository: &Arc<Repository>) -> String {
    let mut out = String::new();
    let state = repository.read_state().unwrap();
    let all = snapshots::list(repository, &state, &mut |e| panic!("{e}")).unwrap();
    writeln!(out, "log entries: {}", state.seq()).unwrap();
    let mut known = BTreeSet::new();
    for snapshot in &all {
        let record = &snapshot.record;
        writeln!(
            out,
            "\nsnapshot {} entry {} site {} name {:?} tags {:?} files {} directories {} bytes {}",
            snapshot.id,
            snapshot.seq,
            record.site,
            record.name,
            record.tags,
            record.subtree.files,
            record.subtree.directories,
            record.subtree.bytes
        )
        .unwrap();
        for c in &record.components {
            writeln!(
                out,
                "component {:?} {} {:?} skipped {} torn {} tables {} rows {} parent {:?} {:?}",
                c.kind, c.name, c.state, c.skipped, c.torn, c.tables, c.rows, c.parent, c.totals
            )
            .unwrap();
        }
        let id = Some(snapshot.id);
        let reader =
            snapshots::open_reader(repository, &state, id, &mut |e| panic!("{e}")).unwrap();
        for item in items::<SkippedItem>(&reader, &record.skipped) {
            let path = String::from_utf8_lossy(&item.path).into_owned();
            writeln!(out, "skipped {path} {}", item.reason).unwrap();
        }
        let mut lines = Vec::new();
        describe_tree(&reader, &record.root, b"", &mut lines);
        let (old, new): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| known.contains(line));
        if !old.is_empty() {
            let digest = blake3::hash(old.concat().as_bytes());
            writeln!(out, "as before: {} {digest}", old.len()).unwrap();
        }
        out.extend(new.iter().map(String::as_str));
        known.extend(new);
    }
    out
}

fn items<T: for<'b> minicbor::Decode<'b, ()>>(
    reader: &Arc<ChunkReader>,
    content: &Content,
) -> Vec<T> {
    let bytes = tree::read_all(reader, content, 1 << 20).unwrap();
    let mut items = Vec::new();
    decode_items(&bytes, |item| items.push(item)).unwrap();
    items
}

fn describe_tree(
    reader: &Arc<ChunkReader>,
    directory: &Content,
    path: &[u8],
    out: &mut Vec<String>,
) {
    for node in tree::Nodes::new(reader.clone(), directory) {
        let node = node.unwrap();
        let path = [path, &node.name].concat();
        let xattrs = match &node.xattrs_stream {
            Some(stream) => items(reader, stream),
            None => node.xattrs.clone(),
        };
        let holes = match &node.holes_stream {
            Some(stream) => items(reader, stream),
            None => node.holes.clone(),
        };
        let content = match node.kind {
            NodeKind::File => content_of(reader, &node, &holes),
            _ => blake3::hash(b""),
        };
        if let Some(digest) = node.digest {
            assert_eq!(
                digest.as_bytes(),
                content.as_bytes(),
                "{}",
                path.escape_ascii()
            );
        }
        let mut line = String::new();
        describe_node(&path, &node, &xattrs, &holes, content, &mut line);
        out.push(line);
        if node.kind == NodeKind::Directory {
            describe_tree(reader, &node.content, &[&path[..], b"/"].concat(), out);
        }
    }
}

/// The BLAKE3 of a file, every chunk read and checked.
fn content_of(reader: &Arc<ChunkReader>, node: &Node, holes: &[Hole]) -> blake3::Hash {
    let bytes = tree::read_all(reader, &node.content, 8 << 20).unwrap();
    let (mut hasher, mut rest) = (blake3::Hasher::new(), &bytes[..]);
    for segment in segments(holes, node.size) {
        let len = usize::try_from(segment.len).unwrap();
        if segment.data {
            let (data, tail) = rest.split_at(len);
            hasher.update(data);
            rest = tail;
        } else {
            hasher.update(&vec![0; len]);
        }
    }
    assert!(
        rest.is_empty(),
        "{}: {} bytes too many",
        node.name.escape_ascii(),
        rest.len()
    );
    hasher.finalize()
}

fn describe_node(
    path: &[u8],
    node: &Node,
    xattrs: &[Xattr],
    holes: &[Hole],
    content: blake3::Hash,
    out: &mut String,
) {
    let time = |t: Timestamp| format!("{}.{:09}", t.seconds, t.nanos);
    write!(
        out,
        "{} {:?} {:o} {}:{} {} {} {:?}",
        path.escape_ascii(),
        node.kind,
        node.mode,
        node.uid,
        node.gid,
        time(node.modified),
        node.size,
        node.consistency
    )
    .unwrap();
    if node.kind == NodeKind::File && node.size > 0 {
        let short = &content.to_hex()[..32];
        write!(out, " content {short} depth {}", node.content.depth).unwrap();
    }
    if let Some(target) = &node.target {
        write!(out, " target {}", target.escape_ascii()).unwrap();
    }
    if let Some(device) = node.device {
        write!(out, " device {}:{}", device.major, device.minor).unwrap();
    }
    if let Some(group) = node.link_group {
        write!(out, " group {group}").unwrap();
    }
    match holes {
        [] => {}
        [first, .., last] if holes.len() > 9 => {
            let count = holes.len();
            write!(
                out,
                " {count} holes {}+{} … {}+{}",
                first.offset, first.len, last.offset, last.len
            )
            .unwrap();
        }
        _ => holes
            .iter()
            .for_each(|hole| write!(out, " hole {}+{}", hole.offset, hole.len).unwrap()),
    }
    for xattr in xattrs {
        let value = blake3::hash(&xattr.value);
        write!(out, " xattr {} {value}", xattr.name.escape_ascii()).unwrap();
    }
    if let Some(table) = &node.table {
        let columns: Vec<String> = table
            .columns
            .iter()
            .map(|c| c.escape_ascii().to_string())
            .collect();
        write!(
            out,
            " columns {columns:?} rows {} sum {:02x?}",
            table.rows, table.rows_digest
        )
        .unwrap();
    }
    out.push('\n');
}

#[test]
fn every_byte_of_format_1_is_read() {
    let mut expected: Vec<PathBuf> = Vec::new();
    for (suite, name) in SUITES {
        let text = fs::read_to_string(folder(1).join(format!("{name}.txt"))).unwrap();
        let copy = copy(&folder(1).join(name));
        let ways: &[With] = match suite {
            Suite::None => &[With::Nothing],
            Suite::Aes256Gcm => &[With::KeyFile, With::Passphrase, With::Recovery],
        };
        for with in ways {
            let repository =
                open(copy.path(), *with).unwrap_or_else(|e| panic!("{name} {with:?}: {e}"));
            assert!(repository.warnings().is_empty());
            let found = describe(&repository);
            for (found, expected) in found.lines().zip(text.lines()) {
                assert_eq!(found, expected, "{name} {with:?}");
            }
            assert_eq!(found.len(), text.len(), "{name}: the rest of the text");
        }
        expected.extend([folder(1).join(name), folder(1).join(format!("{name}.txt"))]);
    }
    let mut found: Vec<PathBuf> = fs::read_dir(folder(1))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn a_wrong_key_is_a_wrong_key() {
    let copy = copy(&folder(1).join("aes-256-gcm"));
    let refused = open(copy.path(), With::WrongKey).unwrap_err();
    assert!(matches!(refused, StoreError::WrongKey { .. }), "{refused}");
    assert_eq!(refused.exit_code(), 12);
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    for (suite, name) in SUITES {
        let copy = copy(&folder(1).join(name));
        let with = match suite {
            Suite::None => With::Nothing,
            Suite::Aes256Gcm => With::KeyFile,
        };
        let newer = framed::frame(FORMAT_MAGIC, 2, b"whatever comes then").unwrap();
        for copy_name in ["format", "format.copy"] {
            let path = copy.path().join(copy_name);
            fs::remove_file(&path).unwrap();
            fs::write(&path, &newer).unwrap();
        }
        let refused = open(copy.path(), with).unwrap_err();
        assert!(
            matches!(refused, StoreError::NewerFormat { .. }),
            "{refused}"
        );
        assert_eq!(refused.exit_code(), 1);
        assert!(refused.to_string().contains("version 2"), "{refused}");
    }
}

#[test]
fn a_newer_object_is_refused_by_name() {
    let copy = copy(&folder(1).join("aes-256-gcm"));
    let path = copy.path().join("log/0000000000000001");
    let mut bytes = fs::read(&path).unwrap();
    bytes[9] = 2;
    fs::remove_file(&path).unwrap();
    fs::write(&path, &bytes).unwrap();
    let refused = open(copy.path(), With::KeyFile)
        .and_then(|repository| repository.read_state())
        .unwrap_err();
    assert!(
        matches!(refused, StoreError::NewerFormat { .. }),
        "{refused}"
    );
    assert!(
        refused.to_string().contains("log/0000000000000001"),
        "{refused}"
    );
}

#[test]
fn names_of_objects_are_the_hashes_of_their_bytes() {
    let mut count = 0;
    for (_, name) in SUITES {
        let local = Local::new(folder(1).join(name)).unwrap();
        for kind in [
            ObjectKind::Pack,
            ObjectKind::Index,
            ObjectKind::Snapshot,
            ObjectKind::Key,
        ] {
            local
                .list(kind, &mut |info| {
                    let path = folder(1).join(name).join(info.name.to_string());
                    let hash = ObjectHash::of(&fs::read(path).unwrap());
                    assert_eq!(info.name.hash(), Some(hash.0), "{}", info.name);
                    count += 1;
                })
                .unwrap();
        }
    }
    assert!(count > 12, "{count}");
}

/// Where the generator puts what it backs up: the paths stand in the snapshots. A file system that takes more than 4 KiB of attributes.
const SITE: &str = "/dev/shm/holdfast-golden";

fn create(path: &Path, suite: Suite) -> Arc<Repository> {
    let id = Keyring::generate_repository_id(&mut SystemRandom);
    let mut format = RepositoryFormat::new(id, 1_800_000_000, suite);
    format.kdf = KdfSettings {
        memory_kib: 64,
        passes: 1,
        lanes: 1,
    };
    format.file_chunker = ChunkerSettings::around(1 << 10);
    format.table_chunker = ChunkerSettings::around(512);
    format.frame_bytes = 16 << 10;
    format.pack_bytes = 64 << 10;
    let (key_file, recovery) = (
        Secret32::take(&mut { KEY_FILE }),
        Secret32::take(&mut { RECOVERY }),
    );
    let keys = match suite {
        Suite::None => vec![NewKey::plain("golden", 0)],
        Suite::Aes256Gcm => vec![
            NewKey::key_file(&key_file, "golden", 0),
            NewKey::passphrase(PASSPHRASE, format.kdf, "golden, typed", 0),
            NewKey::recovery(&recovery, "golden, on paper", 0),
        ],
    };
    let keyring = Keyring::generate(id, suite, None, &mut SystemRandom);
    let backend: Arc<dyn Backend> = Arc::new(Local::new(path).unwrap());
    let options = CreateOptions {
        format,
        keyring,
        keys,
    };
    Arc::new(Repository::create(backend, "golden", &options, Ambient::default()).unwrap())
}

/// Text that compresses and has no chunk twice.
fn lines(seed: u64, count: u64) -> String {
    (0..count).fold(String::new(), |mut text, i| {
        writeln!(
            text,
            "line {i} of text {seed}: {}",
            i.wrapping_mul(seed + 2_654_435_761) % 9973
        )
        .unwrap();
        text
    })
}

/// Every kind of file.
fn make_share(share: &Path) {
    use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};
    let file = |name: &str, bytes: &[u8]| fs::write(share.join(name), bytes).unwrap();
    for folder in ["many", "deep/er/still", "empty folder"] {
        fs::create_dir_all(share.join(folder)).unwrap();
    }
    file("empty", b"");
    file("one byte", b"1");
    file("long", lines(1, 2200).as_bytes());
    file("deep/er/still/here", lines(2, 50).as_bytes());
    for number in 0..300 {
        file(
            &format!("many/file-{number:04}"),
            format!("{number}").as_bytes(),
        );
    }
    let name = std::ffi::OsStr::from_bytes(b"not utf-8 \xff\xfe and\nnew line");
    fs::write(share.join(name), b"name").unwrap();
    fs::hard_link(share.join("long"), share.join("deep/same as long")).unwrap();
    std::os::unix::fs::symlink("../nowhere/\u{fc}", share.join("link")).unwrap();
    let sparse = fs::File::create(share.join("sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    sparse.write_all_at(b"in the middle", 1 << 20).unwrap();
    sparse.write_all_at(b"at the end", (3 << 20) - 10).unwrap();
    let holes = fs::File::create(share.join("many holes")).unwrap();
    for number in 0..90u64 {
        holes
            .write_all_at(&number.to_le_bytes(), number * 65_536)
            .unwrap();
    }
    let device = |name: &str, kind, number| {
        mknodat(
            CWD,
            share.join(name),
            kind,
            Mode::from_raw_mode(0o640),
            number,
        )
        .unwrap();
    };
    device("fifo", FileType::Fifo, 0);
    device(
        "character device",
        FileType::CharacterDevice,
        rustix::fs::makedev(1, 3),
    );
    device(
        "block device",
        FileType::BlockDevice,
        rustix::fs::makedev(7, 300),
    );
    let _socket = std::os::unix::net::UnixListener::bind(share.join("socket")).unwrap();
    let xattr = |name: &str, key: &str, value: &[u8]| {
        setxattr(share.join(name), key, value, XattrFlags::empty()).unwrap();
    };
    xattr("one byte", "user.note", b"\x00\xff");
    xattr("long", "user.large", &[7; 3000]);
    xattr("long", "user.larger", &[8; 800]);
    xattr("long", "user.too large for the node", &[9; 500]);
    xattr("many", "user.folder", b"yes");
    let acl: Vec<u8> = [
        2u32.to_le_bytes().to_vec(),
        acl_entry(1, 6, u32::MAX),
        acl_entry(2, 4, 1234),
        acl_entry(4, 4, u32::MAX),
        acl_entry(16, 4, u32::MAX),
        acl_entry(32, 0, u32::MAX),
    ]
    .concat();
    xattr("one byte", "system.posix_acl_access", &acl);
    std::os::unix::fs::chown(share.join("one byte"), Some(1000), Some(60_000)).unwrap();
    let odd = std::os::unix::fs::PermissionsExt::from_mode(0o6711);
    fs::set_permissions(share.join("empty"), odd).unwrap();
    let time = |seconds: i64, nanos| rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: nanos,
    };
    let times = rustix::fs::Timestamps {
        last_access: time(0, 0),
        last_modification: time(-86_400, 123_456_789),
    };
    rustix::fs::utimensat(
        CWD,
        share.join("empty"),
        &times,
        rustix::fs::AtFlags::empty(),
    )
    .unwrap();
}

fn acl_entry(tag: u16, permissions: u16, id: u32) -> Vec<u8> {
    [
        &tag.to_le_bytes()[..],
        &permissions.to_le_bytes(),
        &id.to_le_bytes(),
    ]
    .concat()
}

const SCHEMA: &str = r#"
CREATE TABLE numbers (id int PRIMARY KEY, word text, amount numeric);
INSERT INTO numbers SELECT i, 'word ' || i * 7919 % 1000, i / 7.0 FROM generate_series(1, 900) AS i;
CREATE TABLE "odd/name %" ("select" text, raw bytea);
INSERT INTO "odd/name %" VALUES (E'tab\there', '\x00ff'), (NULL, NULL);
CREATE TABLE nothing (id int);
CREATE SEQUENCE counter START 42;
SELECT nextval('counter');
SELECT lo_from_bytea(4711, decode(repeat('00ff10', 1000), 'hex'));
COMMENT ON TABLE numbers IS 'a table';
"#;

#[test]
#[ignore = "writes tests/golden/format-1 anew; see the module's docs"]
fn write_format_1() {
    let site = Path::new(SITE);
    fs::remove_dir_all(site).ok();
    fs::create_dir_all(site.join("share")).unwrap();
    fs::create_dir_all(site.join("etc")).unwrap();
    make_share(&site.join("share"));
    fs::write(site.join("etc/app.conf"), "port = 1\n").unwrap();
    let cluster = Cluster::start();
    cluster
        .session("postgres")
        .batch_execute("CREATE DATABASE golden")
        .unwrap();
    cluster.session("golden").batch_execute(SCHEMA).unwrap();
    let text = format!(
        "[site]\nname = \"golden\"\n[[share]]\nname = \"Share\"\npath = \"{SITE}/share\"\n[[files]]\nname = \"config\"\npaths = [\"{SITE}/etc/*.conf\", \"{SITE}/etc/absent\"]\n[[database]]\nname = \"golden\"\nconninfo = \"{}\"\n",
        cluster.conninfo("golden")
    );
    let site_file = Arc::new(SiteFile::parse(&text, Path::new("site.toml")).unwrap());
    for (suite, name) in SUITES {
        let path = folder(1).join(name);
        fs::remove_dir_all(&path).ok();
        fs::create_dir_all(&path).unwrap();
        let repository = create(&path, suite);
        for run in ["first", "second"] {
            fs::write(site.join("share/changes"), lines(run.len() as u64, 200)).unwrap();
            let mut options = BackupOptions::new("golden");
            options.site = Some(site_file.clone());
            options.site_name = "golden".into();
            options.name = Some(run.into());
            options.tags = vec![("run".into(), run.into())];
            let stats = Arc::new(Stats::default());
            let summary = backup(&repository, &options, &stats, &Interrupt::default()).unwrap();
            for component in &summary.components {
                assert_ne!(
                    component.state,
                    ComponentState::Failed,
                    "{}",
                    component.message
                );
            }
        }
        // Signs of life are not read by anybody later, and empty files are lost in some archives.
        for kind in ["heartbeats", "tmp"] {
            fs::remove_dir_all(path.join(kind)).ok();
        }
        fs::write(folder(1).join(format!("{name}.txt")), describe(&repository)).unwrap();
    }
    fs::remove_dir_all(site).unwrap();
    let log = ObjectName::log(1).to_string();
    assert!(folder(1).join("none").join(log).exists());
}
