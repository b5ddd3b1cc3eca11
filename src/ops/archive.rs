//! One archived database of a snapshot, for a restore into a server; and that restore.
//!
//! It knows where in the tree what stands; it does not speak to a server, which `target::postgres` does.
//!
//! Invariants: every byte that is handed on was checked as every chunk is; after damage nothing more of that stream is handed on
//! (`a_damaged_part_ends_with_an_error`).
//!
//! Memory: `database.json` and the schema are held whole; of rows and large objects a few frames.
//!
//! Threads: a [`SnapshotArchive`] is shared by all threads of a restore.

use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use serde::Serialize;

use super::backup::Interrupt;
use super::restore::{OnTrouble, Trouble, TroubleKind};
use super::snapshots::{self, open_reader};
use crate::error::{Error, Result};
use crate::format::database::{DatabaseInfo, TableInfo};
use crate::format::id::ChunkId;
use crate::format::large_object::{LargeObjectInfo, METADATA_NAME, PageReader};
use crate::format::node::{Content, Node};
use crate::format::path_encoding::encode_name;
use crate::stats::Stats;
use crate::store::reader::ChunkReader;
use crate::store::tree::{Chunks, Nodes, find, read_all};
use crate::store::{Repository, StoreError};
use crate::target::postgres::{
    DatabaseArchive, LargeObjectPage, RestoreError, RestoreOptions, RestoreReport, RestoreTarget,
    restore_database as restore_into,
};

/// `database.json`, `schema.dump` and `globals.sql` are at most this long.
const WHOLE_BYTES_MAX: usize = 1 << 30;

/// Name, size and content of an archived large object.
pub(crate) type LargeObjectFile = (Vec<u8>, u64, Vec<ChunkId>);

/// An archived database.
#[derive(Debug)]
pub struct SnapshotArchive {
    reader: Arc<ChunkReader>,
    root: Content,
    directory: Node,
    info: DatabaseInfo,
}

/// Names of the databases that a tree holds, as they are in the tree.
pub fn database_names(reader: &Arc<ChunkReader>, root: &Content) -> Result<Vec<Vec<u8>>> {
    let Some(directory) = find(reader, root, [&b"databases"[..]])? else {
        return Ok(Vec::new());
    };
    let nodes = Nodes::new(reader.clone(), &directory.content);
    nodes.map(|node| Ok(node?.name)).collect()
}

impl SnapshotArchive {
    /// Opens the database `name` in the tree at `root`.
    pub fn open(reader: Arc<ChunkReader>, root: &Content, name: &str) -> Result<Self> {
        let folder = encode_name(name.as_bytes());
        let Some(directory) = find(&reader, root, [&b"databases"[..], &folder])? else {
            let names = database_names(&reader, root)?;
            let names: Vec<_> = names
                .iter()
                .map(|name| String::from_utf8_lossy(name))
                .collect();
            let held = match names.is_empty() {
                true => "it holds none".to_owned(),
                false => format!("it holds {}", names.join(", ")),
            };
            return Err(Error::Message(format!(
                "the snapshot holds no database {name:?}; {held}"
            )));
        };
        let mut archive = Self {
            reader,
            root: root.clone(),
            directory,
            info: DatabaseInfo::default(),
        };
        let bytes = archive.whole(&[b"database.json"])?;
        archive.info = serde_json::from_slice(&bytes)
            .map_err(|e| StoreError::damaged(format!("databases/{name}/database.json"), e))?;
        Ok(archive)
    }

    /// The files of its large objects: name, size and content, so that equal ones are seen without reading them.
    pub(crate) fn large_object_files(&self) -> Result<Vec<LargeObjectFile>> {
        let Some(directory) = self.node(&[b"large-objects"])? else {
            return Ok(Vec::new());
        };
        let mut files = Vec::new();
        for node in Nodes::new(self.reader.clone(), &directory.content) {
            let node = node?;
            let chunks = Chunks::new(self.reader.clone(), &node.content);
            let ids: Result<Vec<ChunkId>, StoreError> =
                chunks.map(|chunk| chunk.map(|chunk| chunk.id)).collect();
            files.push((node.name, node.size, ids?));
        }
        Ok(files)
    }

    /// What stands at `path` below the database; a table's part, say.
    fn node(&self, path: &[&[u8]]) -> Result<Option<Node>> {
        Ok(find(
            &self.reader,
            &self.directory.content,
            path.iter().copied(),
        )?)
    }

    fn file(&self, path: &[&[u8]]) -> Result<Node> {
        let shown = || String::from_utf8_lossy(&path.join(&b'/')).into_owned();
        self.node(path)?.ok_or_else(|| {
            let name = &self.info.name;
            StoreError::damaged(
                format!("databases/{name}"),
                format!("{} is not there", shown()),
            )
            .into()
        })
    }

    fn whole(&self, path: &[&[u8]]) -> Result<Vec<u8>> {
        let node = self.file(path)?;
        Ok(read_all(&self.reader, &node.content, WHOLE_BYTES_MAX)?)
    }

    fn stream(&self, content: &Content) -> ContentRead {
        ContentRead {
            reader: self.reader.clone(),
            chunks: Chunks::new(self.reader.clone(), content),
            current: Bytes::new(),
        }
    }
}

impl DatabaseArchive for SnapshotArchive {
    fn description(&self) -> &DatabaseInfo {
        &self.info
    }

    fn schema_dump(&self) -> Result<Vec<u8>> {
        self.whole(&[b"schema.dump"])
    }

    fn read_part(
        &self,
        table: &TableInfo,
        part: u64,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let (schema, name) = (
            encode_name(table.schema.as_bytes()),
            encode_name(table.name.as_bytes()),
        );
        let node = self.file(&[b"tables", &schema, &name, format!("{part:06}").as_bytes()])?;
        for chunk in Chunks::new(self.reader.clone(), &node.content) {
            sink(&self.reader.chunk(&chunk?)?)?;
        }
        Ok(())
    }

    fn large_objects(&self, each: &mut dyn FnMut(LargeObjectInfo) -> Result<()>) -> Result<()> {
        let Some(node) = self.node(&[b"large-objects", METADATA_NAME.as_bytes()])? else {
            return Ok(());
        };
        let mut lines = BufReader::new(self.stream(&node.content));
        let mut line = Vec::new();
        loop {
            line.clear();
            if lines.read_until(b'\n', &mut line).map_err(read_error)? == 0 {
                return Ok(());
            }
            let object = serde_json::from_slice(&line)
                .map_err(|e| StoreError::damaged(format!("large-objects/{METADATA_NAME}"), e))?;
            each(object)?;
        }
    }

    fn large_object_pages(
        &self,
        each: &mut dyn FnMut(LargeObjectPage<'_>) -> Result<()>,
    ) -> Result<()> {
        let Some(directory) = self.node(&[b"large-objects"])? else {
            return Ok(());
        };
        for node in Nodes::new(self.reader.clone(), &directory.content) {
            let node = node?;
            if node.name == METADATA_NAME.as_bytes() {
                continue;
            }
            let mut pages = PageReader::new(BufReader::new(self.stream(&node.content)));
            while let Some((oid, offset, data)) = pages.next_page().map_err(read_error)? {
                each(LargeObjectPage { oid, offset, data })?;
            }
        }
        Ok(())
    }

    fn globals(&self) -> Result<Option<Vec<u8>>> {
        let cluster = encode_name(self.info.cluster.as_bytes());
        let path = [&b"clusters"[..], &cluster, b"globals.sql"];
        match find(&self.reader, &self.root, path)? {
            Some(node) => Ok(Some(read_all(
                &self.reader,
                &node.content,
                WHOLE_BYTES_MAX,
            )?)),
            None => Ok(None),
        }
    }
}

/// A content as a stream of bytes.
#[derive(Debug)]
struct ContentRead {
    reader: Arc<ChunkReader>,
    chunks: Chunks,
    current: Bytes,
}

impl Read for ContentRead {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.next() {
                None => return Ok(0),
                Some(chunk) => {
                    let read = chunk.and_then(|chunk| self.reader.chunk(&chunk));
                    self.current = read.map_err(std::io::Error::other)?;
                }
            }
        }
        let len = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..len]);
        Ok(len)
    }
}

/// The error of the repository that stands in an error of a stream; or that its content makes no sense.
fn read_error(error: std::io::Error) -> Error {
    match error.downcast::<StoreError>() {
        Ok(error) => error.into(),
        Err(error) => StoreError::damaged("large-objects", error).into(),
    }
}

/// How a database is restored into a server.
#[derive(Clone, Debug, Default)]
pub struct DatabaseRestoreOptions {
    /// What of it, and how; its counters, its flag and its secret are set here.
    pub restore: RestoreOptions,
    /// Read everything back and compare it with the archive.
    pub check: bool,
}

/// How the restore of a database came out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DatabaseRestoreSummary {
    /// The snapshot.
    pub snapshot: String,
    /// What was restored and what was not.
    #[serde(flatten)]
    pub report: RestoreReport,
}

impl DatabaseRestoreSummary {
    /// 0; 1 if the old database is still there; 3 if something was not restored, or differs; 4 for damage.
    pub fn exit_code(&self) -> u8 {
        match (self.report.damaged, self.report.is_complete()) {
            (0, true) => 0,
            (0, false) if self.report.not_swapped.is_some() => 1,
            (0, false) => 3,
            _ => 4,
        }
    }
}

/// Restores the database `name` of a snapshot into a server.
#[allow(
    clippy::too_many_arguments,
    reason = "each is one thing that the caller decides"
)]
pub fn restore_database(
    repository: &Arc<Repository>,
    snapshot: &str,
    name: &str,
    target: &RestoreTarget,
    options: &DatabaseRestoreOptions,
    stats: &Arc<Stats>,
    interrupt: &Interrupt,
    each: OnTrouble<'_>,
) -> Result<DatabaseRestoreSummary> {
    let mut damaged = 0;
    let mut damage = |e: StoreError| {
        damaged += 1;
        each(&Trouble {
            kind: TroubleKind::Damaged,
            path: "repository".into(),
            what: e.to_string(),
        });
    };
    let state = repository.read_state()?;
    let all = snapshots::list(repository, &state, &mut damage)?;
    let snapshot = snapshots::resolve_live(&state, &all, snapshot)?;
    let reader = open_reader(repository, &state, Some(snapshot.id), &mut damage)?;
    let archive = SnapshotArchive::open(reader, &snapshot.record.root, name)?;
    let secret = repository.keyring().row_digest_secret();
    let secret = secret.map_err(|missing| StoreError::MissingSecret {
        what: missing.action.to_owned(),
    })?;
    let options = RestoreOptions {
        check: options.check.then(|| secret.expose().as_slice().into()),
        stats: stats.clone(),
        interrupted: interrupt.flag(),
        ..options.restore.clone()
    };
    let mut report = restore_into(target, &archive, &options).map_err(restore_error)?;
    // Damage that was met on the way to the archive counts beside that in it.
    report.damaged += damaged;
    Ok(DatabaseRestoreSummary {
        snapshot: snapshot.id.to_string(),
        report,
    })
}

/// Keeps errors of the repository what they are, so that damage stays damage.
pub(crate) fn restore_error(error: RestoreError) -> Error {
    match error {
        RestoreError::Archive(error) => error,
        RestoreError::Interrupted => Error::Interrupted,
        other => {
            let mut text = other.to_string();
            let mut cause = std::error::Error::source(&other);
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            Error::Message(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ObjectKind;
    use crate::ops::testing::{back_up, noise, reopen, repository};

    /// A tree that looks like an archived database, made of files: the reader does not care who wrote it.
    fn archived(part: &[u8]) -> (Arc<crate::backend::Memory>, tempfile::TempDir) {
        let (backend, repository) = repository();
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        };
        let info = DatabaseInfo {
            name: "a/b".into(),
            cluster: "main".into(),
            ..DatabaseInfo::default()
        };
        std::fs::write(
            at("databases/a%2Fb/database.json"),
            serde_json::to_vec(&info).unwrap(),
        )
        .unwrap();
        std::fs::write(at("databases/a%2Fb/schema.dump"), b"PGDMP").unwrap();
        std::fs::write(at("databases/a%2Fb/tables/public/t%25/000001"), part).unwrap();
        let object = LargeObjectInfo {
            oid: 7,
            owner: "me".into(),
            ..LargeObjectInfo::default()
        };
        let mut line = serde_json::to_vec(&object).unwrap();
        line.push(b'\n');
        std::fs::write(
            at("databases/a%2Fb/large-objects/metadata.json"),
            line.repeat(3),
        )
        .unwrap();
        let mut pages = crate::format::large_object::encode_header(7, 2048, 5).to_vec();
        pages.extend_from_slice(b"hello");
        std::fs::write(
            at("databases/a%2Fb/large-objects/0000000000"),
            pages.repeat(400),
        )
        .unwrap();
        std::fs::write(at("clusters/main/globals.sql"), b"CREATE ROLE me;").unwrap();
        back_up(&repository, folder.path());
        (backend, folder)
    }

    fn open(
        backend: &Arc<crate::backend::Memory>,
        folder: &tempfile::TempDir,
        name: &str,
    ) -> Result<SnapshotArchive> {
        let repository = reopen(backend.clone());
        let state = repository.read_state().unwrap();
        let snapshot = snapshots::list(&repository, &state, &mut |e| panic!("{e}"))
            .unwrap()
            .pop()
            .unwrap();
        let reader = open_reader(&repository, &state, Some(snapshot.id), &mut |e| {
            panic!("{e}")
        })
        .unwrap();
        let path = format!("paths{}", folder.path().display());
        let root = snapshots::node_at(&reader, &snapshot.record.root, path.as_bytes()).unwrap();
        SnapshotArchive::open(reader, &root.content, name)
    }

    fn table() -> TableInfo {
        TableInfo {
            schema: "public".into(),
            name: "t%".into(),
            ..TableInfo::default()
        }
    }

    #[test]
    fn everything_is_where_it_was_put() {
        let part = noise(3, 300_000);
        let (backend, folder) = archived(&part);
        let archive = open(&backend, &folder, "a/b").unwrap();
        assert_eq!(archive.description().name, "a/b");
        assert_eq!(archive.schema_dump().unwrap(), b"PGDMP");
        assert_eq!(archive.globals().unwrap().unwrap(), b"CREATE ROLE me;");
        let mut rows = Vec::new();
        let mut sink = |bytes: &[u8]| {
            rows.extend_from_slice(bytes);
            Ok(())
        };
        archive.read_part(&table(), 1, &mut sink).unwrap();
        assert!(archive.read_part(&table(), 2, &mut |_| Ok(())).is_err());
        assert_eq!(rows, part);
        let (mut objects, mut pages) = (0, 0);
        let mut object = |info: LargeObjectInfo| {
            objects += u32::from(info.oid == 7 && info.owner == "me");
            Ok(())
        };
        archive.large_objects(&mut object).unwrap();
        let mut page = |page: LargeObjectPage<'_>| {
            pages += u32::from(page.oid == 7 && page.offset == 2048 && page.data == b"hello");
            Ok(())
        };
        archive.large_object_pages(&mut page).unwrap();
        assert_eq!((objects, pages), (3, 400));
        let error = open(&backend, &folder, "other").unwrap_err().to_string();
        assert!(error.contains("a%2Fb"), "{error}");
    }

    #[test]
    fn a_damaged_part_ends_with_an_error() {
        let part = noise(4, 300_000);
        let (backend, folder) = archived(&part);
        let packs = backend
            .contents()
            .into_iter()
            .filter(|(name, _)| name.kind() == ObjectKind::Pack);
        let (name, bytes) = packs.max_by_key(|(_, bytes)| bytes.len()).unwrap();
        let mut bad = bytes.to_vec();
        bad[bytes.len() / 2] ^= 1;
        backend.replace(&name, bad);
        let archive = open(&backend, &folder, "a/b").unwrap();
        let mut rows = Vec::new();
        let mut sink = |bytes: &[u8]| {
            rows.extend_from_slice(bytes);
            Ok(())
        };
        let error = archive.read_part(&table(), 1, &mut sink).unwrap_err();
        assert_eq!(error.exit_code(), 4);
        assert!(part.starts_with(&rows));
    }
}
