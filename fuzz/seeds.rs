//! Writes the seeds of the corpus: valid inputs of every target, made by the code under test.

use std::fs;
use std::path::Path;

use holdfast::backend::{ObjectKind, ObjectName};
use holdfast::crypto::{Keyring, NewKey, Secret32, SeededRandom};
use holdfast::format::database::{DatabaseInfo, SequenceState, TableInfo};
use holdfast::format::header::{HEADER_LEN_WRAPPED, SealedKind, Suite};
use holdfast::format::id::{ChunkId, ContentDigest, Nonce, ObjectHash, RepositoryId};
use holdfast::format::index::{IndexEntry, IndexRun, RunFrame, RunPack};
use holdfast::format::large_object::{LargeObjectInfo, encode_header};
use holdfast::format::log::{Action, Checkpoint, GcList, LogEntry, Quarantine};
use holdfast::format::node::{
    ChunkRef, Content, Device, Hole, Node, NodeKind, Subtree, TablePart, Timestamp, Xattr,
    encode_item,
};
use holdfast::format::pack::{Class, Encoding, Footer, FrameChunk, FrameEntry, PackDirectory};
use holdfast::format::path_encoding::encode_name;
use holdfast::format::repository::{KdfSettings, RepositoryFormat};
use holdfast::format::snapshot::{CertificateFact, Component, Record, SkippedItem};
use holdfast::pipeline::frames::FrameCodec;
use holdfast::site::key_text::{format_key_file, format_recovery_key};

const HASH: ObjectHash = ObjectHash([9; 32]);

fn main() {
    for suite in [Suite::None, Suite::Aes256Gcm] {
        plain_objects(suite);
    }
    sealed_objects();
    packs_and_runs();
    nodes();
    log();
    texts();
}

fn seed(target: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    fs::create_dir_all(&folder).expect("the folder of the corpus");
    fs::write(folder.join(name), bytes).expect("a seed");
}

fn cbor<T: minicbor::Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).expect("a vector takes every byte")
}

/// The body in the frame of a plain object: what is between its 14 bytes of head and its 32 of checksum.
fn body(bytes: &[u8]) -> &[u8] {
    &bytes[14..bytes.len() - 32]
}

fn plain_objects(suite: Suite) {
    let id = RepositoryId([1; 16]);
    let format = RepositoryFormat::new(id, 1_800_000_000, suite);
    let bytes = format.to_bytes();
    let word = format!("{suite:?}").to_lowercase();
    seed("format_object", &format!("{word}-whole"), &bytes);
    seed("format_object", &format!("{word}-body"), body(&bytes));
    let mut random = SeededRandom::new(1);
    let keyring = Keyring::generate(id, suite, None, &mut random);
    let secret = Secret32::take(&mut [7; 32]);
    let kdf = KdfSettings {
        memory_kib: 8,
        passes: 1,
        lanes: 1,
    };
    let mut keys = vec![
        ("key-file", NewKey::key_file(&secret, "night", 0)),
        ("recovery", NewKey::recovery(&secret, "paper", 0)),
        ("passphrase", NewKey::passphrase(b"secret", kdf, "me", 0)),
    ];
    if suite == Suite::None {
        keys.push(("plain", NewKey::plain("open", 0)));
    }
    for (name, new) in keys {
        let key = keyring
            .wrap(&new, &RepositoryFormat::hash_of(&bytes), &mut random)
            .expect("keys can be wrapped");
        seed(
            "key_object",
            &format!("{word}-{name}"),
            body(&key.to_bytes()),
        );
    }
    for kind in SealedKind::ALL {
        let (header, _) = keyring.new_object(kind, 3, &mut random).expect("a header");
        seed("object_header", &format!("{word}-{}", kind.code()), &header);
    }
}

fn sealed_objects() {
    for (number, kind) in (0u8..).zip(SealedKind::ALL) {
        for suite in [Suite::None, Suite::Aes256Gcm] {
            let keyring = Keyring::generate(
                RepositoryId([2; 16]),
                suite,
                None,
                &mut SeededRandom::new(1),
            );
            let object = keyring
                .seal_object(kind, 7, b"plaintext", &mut SeededRandom::new(2))
                .expect("sealed");
            let choice = number << 1 | suite.code();
            seed(
                "sealed_object",
                &format!("stranger-{choice}"),
                &[&[choice, 0, 0], &object[..]].concat(),
            );
            seed(
                "sealed_object",
                &format!("ours-{choice}"),
                &[0x80 | choice, 100, 0, b'a', b'b'],
            );
        }
    }
    let mut codec = FrameCodec::new(1).expect("level 1");
    let mut packed = Vec::new();
    let plain = b"the same again ".repeat(50);
    let encoding = codec.compress(&plain, &mut packed).expect("compressed");
    let [low, high] = u16::try_from(plain.len()).expect("short").to_le_bytes();
    seed(
        "frame",
        "zstd",
        &[&[encoding.number(), low, high], &packed[..]].concat(),
    );
    seed(
        "frame",
        "raw",
        &[&[Encoding::Raw.number(), 4, 0], &b"four"[..]].concat(),
    );
    seed("chunker", "rows", &b"1\tone\n2\ttwo\n".repeat(300));
    seed("chunker", "zeros", &[0; 4000]);
}

fn packs_and_runs() {
    let chunks = |n: u8| {
        (0..n)
            .map(|i| FrameChunk {
                id: ChunkId([i; 32]),
                len: 100,
            })
            .collect()
    };
    let header = u32::try_from(HEADER_LEN_WRAPPED).expect("short");
    let frame = |offset: u32, n: u8| FrameEntry {
        offset,
        sealed_len: 60,
        raw_len: u32::from(n) * 100,
        class: Class::Small,
        encoding: Encoding::Zstd,
        chunks: chunks(n),
        base: None,
    };
    let mut directory = PackDirectory {
        frames: vec![frame(header, 3), frame(header + 60, 2)],
    };
    seed("pack_directory", "directory", &directory.encode());
    directory.frames[1].base = Some((HASH, 0));
    seed("pack_directory", "base", &directory.encode());
    let footer = Footer {
        directory_offset: 400,
        directory_len: 100,
        frame_count: 2,
    };
    seed("pack_directory", "footer", &footer.encode());
    let frames = vec![
        RunFrame {
            offset: 186,
            sealed_len: 60,
            raw_len: 300,
            ..RunFrame::default()
        };
        2
    ];
    let based = RunFrame {
        base: Some((HASH, 1)),
        ..frames[0]
    };
    let packs = vec![
        RunPack {
            name: HASH,
            len: 1000,
            frames: frames.clone(),
        },
        RunPack {
            name: ObjectHash([8; 32]),
            len: 2000,
            frames: vec![frames[0], based],
        },
    ];
    let entries = (0..6u8)
        .map(|i| IndexEntry {
            id: ChunkId([i; 32]),
            pack: u32::from(i & 1),
            frame: u32::from(i >> 2),
            offset: 100,
            len: 100,
        })
        .collect();
    seed("index_run", "run", &IndexRun { packs, entries }.encode());
    seed("index_run", "empty", &IndexRun::default().encode());
}

fn content(depth: u8) -> Content {
    let refs = (0..3u8)
        .map(|i| ChunkRef {
            id: ChunkId([i; 32]),
            len: 16 << 10,
        })
        .collect();
    Content { depth, refs }
}

fn nodes() {
    let xattr = Xattr {
        name: b"user.note".to_vec(),
        value: vec![0, 255],
    };
    let hole = Hole {
        offset: 4096,
        len: 8192,
    };
    let table = TablePart {
        columns: vec![b"id".to_vec().into(), b"name".to_vec().into()],
        rows: 12,
        rows_digest: [5; 16],
        end_block: Some(1 << 17),
        ..TablePart::default()
    };
    let full = Node {
        name: b"a".to_vec(),
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        user: Some(b"me".to_vec()),
        group: Some(b"us".to_vec()),
        modified: Timestamp {
            seconds: -1,
            nanos: 999_999_999,
        },
        changed: Some(Timestamp {
            seconds: 1,
            nanos: 0,
        }),
        inode: Some(7),
        link_group: Some(1),
        xattrs: vec![xattr.clone()],
        xattrs_stream: Some(content(0)),
        size: 1 << 20,
        holes: vec![hole],
        holes_stream: Some(content(1)),
        content: content(2),
        digest: Some(ContentDigest([3; 32])),
        table: Some(table),
        ..Node::default()
    };
    let link = Node {
        name: b"b".to_vec(),
        kind: NodeKind::Symlink,
        target: Some(b"a".to_vec()),
        ..Node::default()
    };
    let device = Node {
        name: b"c".to_vec(),
        kind: NodeKind::CharDevice,
        device: Some(Device { major: 1, minor: 3 }),
        ..Node::default()
    };
    let folder = Node {
        subtree: Some(Subtree {
            files: 1,
            directories: 2,
            bytes: 3,
        }),
        ..Node::virtual_directory(b"d")
    };
    let mut stream = Vec::new();
    for node in [&full, &link, &device, &folder] {
        encode_item(node, &mut stream);
    }
    seed("nodes", "kinds", &stream);
    seed("nodes", "short", &cbor(&link));
    let mut list = Vec::new();
    content(0)
        .refs
        .iter()
        .for_each(|chunk| encode_item(chunk, &mut list));
    seed("references", "chunks", &list);
    seed("references", "xattr", &cbor(&xattr));
    seed("references", "hole", &cbor(&hole));
    let skipped = SkippedItem {
        path: b"shares/a".to_vec(),
        reason: "permission denied".into(),
    };
    seed("references", "skipped", &cbor(&skipped));
    let record = Record {
        root: content(0),
        site: "qlik".into(),
        name: Some("before".into()),
        tags: vec![("k".into(), "v".into())],
        components: vec![Component {
            name: "Apps".into(),
            path: vec![b"shares".to_vec().into()],
            parent: Some(HASH),
            ..Component::default()
        }],
        certificates: vec![CertificateFact {
            matches: Some(b"key.pem".to_vec()),
            ..CertificateFact::default()
        }],
        clusters: vec![Default::default()],
        ..Record::default()
    };
    seed("record", "full", &cbor(&record));
    seed("record", "empty", &cbor(&Record::default()));
}

fn log() {
    let actions = [
        Action::Session,
        Action::Expire { session: 3 },
        Action::Snapshot {
            record: HASH,
            runs: vec![HASH, HASH],
            session: 1,
        },
        Action::Forget {
            records: vec![HASH],
        },
        Action::Gc { list: HASH },
        Action::Key {
            added: vec![HASH],
            removed: vec![],
        },
        Action::Quarantine {
            object: HASH,
            lifted: true,
        },
        Action::Checkpoint { object: HASH },
    ];
    for (seq, action) in (1u64..).zip(actions) {
        let entry = LogEntry {
            seq,
            previous: HASH,
            nonce: Nonce([2; 16]),
            checkpoint: 0,
            action,
            written_at: 5,
            written_by: "host".into(),
        };
        seed("log_entry", &format!("action-{seq}"), &cbor(&entry));
    }
    let list = GcList {
        packs: vec![HASH],
        lists: vec![HASH],
        others: vec!["ledger/00".into()],
        ..GcList::default()
    };
    seed("gc_list", "list", &cbor(&list));
    seed(
        "quarantine",
        "frames",
        &cbor(&Quarantine {
            packs: vec![HASH],
            frames: vec![(HASH, 3)],
            reason: "disk".into(),
        }),
    );
    let checkpoint = Checkpoint {
        seq: 9,
        hash: HASH,
        live: vec![(HASH, 1)],
        condemned: list,
        sessions: vec![(4, vec![HASH])],
        ..Checkpoint::default()
    };
    seed("checkpoint", "state", &cbor(&checkpoint));
}

fn texts() {
    for kind in ObjectKind::ALL {
        if ![ObjectKind::Format, ObjectKind::Log, ObjectKind::Heartbeat].contains(&kind) {
            let name = ObjectName::hashed(kind, [0xab; 32]).to_string();
            seed(
                "object_name",
                name.split('/').next().unwrap_or(&name),
                name.as_bytes(),
            );
        }
    }
    for name in [
        "format",
        "format.copy",
        "log/0000000000000001",
        "heartbeats/0000000000000001-00000002",
    ] {
        seed("object_name", &name.replace('/', "-"), name.as_bytes());
    }
    let copy = b"\x03\x40Z\0\0\0\x05IH\0\0\0\x07\0\0\0d\0\0\0\x061\nN\0\0\0\x05\0d\0\0\0\x062\nc\0\0\0\x04Z\0\0\0\x05T";
    seed("framing", "copy", copy);
    seed("framing", "failed-copy", &[&copy[..36], b"E\0\0\0\x05\0Z\0\0\0\x05E"].concat());
    seed("key_text", "file", format_key_file(&[7; 32]).as_bytes());
    seed(
        "key_text",
        "recovery",
        format_recovery_key(&[7; 32]).as_bytes(),
    );
    for (name, text) in [
        (
            "uri",
            "postgresql://user:pa%20ss@h1:5432,h2/db?sslmode=require&application_name=x",
        ),
        (
            "words",
            "host=db1,db2 port=4432 user=postgres password='a b\\'c' dbname=QSR target_session_attrs=prefer-standby",
        ),
    ] {
        seed("conninfo", name, text.as_bytes());
    }
    seed(
        "path_list",
        "list",
        b"# configuration\n/etc/hosts\n/etc/*.d/**/*.conf\n\n/opt/a b/[ab]?\n",
    );
    for (name, text) in [
        ("qlik", include_str!("../src/site/profiles/qlik-sense.toml")),
        (
            "eclecticiq",
            include_str!("../src/site/profiles/eclecticiq.toml"),
        ),
        ("plain", include_str!("../src/site/profiles/plain.toml")),
    ] {
        seed("site_file", name, text.as_bytes());
    }
    seed(
        "globals",
        "tiny",
        include_bytes!("../src/target/postgres/testdata/tiny-globals.sql"),
    );
    seed(
        "toc",
        "tiny",
        include_bytes!("../src/target/postgres/testdata/tiny-1.14.toc.dat"),
    );
    let info = DatabaseInfo {
        name: "QSR".into(),
        extensions: vec![("plpgsql".into(), "1.0".into())],
        sequences: vec![SequenceState {
            schema: "public".into(),
            name: "s".into(),
            last_value: -1,
            is_called: true,
        }],
        tables: vec![TableInfo {
            columns: vec!["id".into()],
            load_via: Some(("public".into(), "root".into())),
            ..TableInfo::default()
        }],
        not_included: vec!["large objects of others".into()],
        ..DatabaseInfo::default()
    };
    seed(
        "database_json",
        "info",
        &serde_json::to_vec(&info).expect("strings and numbers"),
    );
    let page = |oid, offset, bytes: &[u8]| {
        let len = u32::try_from(bytes.len()).expect("short");
        [&encode_header(oid, offset, len)[..], bytes].concat()
    };
    let pages = [
        page(16_385, 0, b"first"),
        page(16_385, 1 << 40, &[7; 99]),
        page(16_390, 0, b"x"),
    ];
    seed("large_object", "pages", &pages.concat());
    let info = LargeObjectInfo {
        oid: 7,
        owner: "me".into(),
        acl: Some(vec!["me=rw/me".into()]),
        comment: Some("c".into()),
    };
    seed(
        "large_object",
        "metadata",
        &serde_json::to_vec(&info).expect("strings and numbers"),
    );
    seed("path_encoding", "odd", &encode_name(b"a/b%c\0"));
    seed("padme", "number", &33_554_433u64.to_le_bytes());
}
