//! What all reading commands share: opening a snapshot, walking its tree, telling damage.
//!
//! It reads trees only, never contents of files.
//!
//! Invariants:
//! 1. What can't be read is told and counted, and the walk goes on with what stands beside it (`a_damaged_directory_hides_nothing_else`).
//! 2. A walk holds one chunk of nodes for each directory on its path, whatever the size of the tree.
//!
//! Threads: a walk belongs to one thread; the readers that it is made from are shared.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::snapshots::{self, Snapshot, frame_decoder, node_at};
use crate::error::{Error, Result};
use crate::format::id::ObjectHash;
use crate::format::node::{Consistency, Node, NodeKind, Timestamp};
use crate::store::chunk_index::{self, ChunkIndex};
use crate::store::reader::ChunkReader;
use crate::store::state::State;
use crate::store::tree::Nodes;
use crate::store::{Repository, StoreError};

/// Damage that a command came across and went on after.
#[derive(Debug)]
pub struct Damage {
    /// What can't be read because of it: a path in the tree. Absent where it is not about one path.
    pub path: Option<Vec<u8>>,
    /// The damage.
    pub error: StoreError,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{}: {}", String::from_utf8_lossy(path), self.error),
            None => self.error.fmt(f),
        }
    }
}

/// Is told every damage.
pub type OnDamage<'a> = &'a mut dyn FnMut(&Damage);

/// Tells damage and counts it.
pub(crate) struct Report<'a> {
    tell: Tell<'a>,
    /// How often damage was told.
    pub(crate) damaged: u64,
}

enum Tell<'a> {
    Call(OnDamage<'a>),
    Keep(&'a mut Vec<Damage>),
}

impl fmt::Debug for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Report")
            .field("damaged", &self.damaged)
            .finish_non_exhaustive()
    }
}

impl<'a> Report<'a> {
    pub(crate) fn new(tell: OnDamage<'a>) -> Self {
        Self {
            tell: Tell::Call(tell),
            damaged: 0,
        }
    }

    /// For a thread that can't tell by itself: what it finds is kept until somebody else does.
    pub(crate) fn keeping(kept: &'a mut Vec<Damage>) -> Self {
        Self {
            tell: Tell::Keep(kept),
            damaged: 0,
        }
    }

    pub(crate) fn tell(&mut self, path: Option<&[u8]>, error: StoreError) {
        self.damaged += 1;
        let damage = Damage {
            path: path.map(<[u8]>::to_vec),
            error,
        };
        match &mut self.tell {
            Tell::Call(tell) => tell(&damage),
            Tell::Keep(kept) => kept.push(damage),
        }
    }

    /// Tells damage and goes on; any other error ends the command.
    pub(crate) fn go_on_after(&mut self, path: &[u8], error: StoreError) -> Result<()> {
        if !error.is_damage() {
            return Err(error.into());
        }
        self.tell(Some(path), error);
        Ok(())
    }
}

/// Where in which snapshot: `SNAP[:PATH]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Id prefix, name, `latest`, `latest~2` or a date.
    pub snapshot: String,
    /// `/` between names, bytes as they are; empty for the root.
    pub path: Vec<u8>,
}

impl Place {
    /// Reads `SNAP[:PATH]`; the first colon parts them.
    pub fn parse(spec: &std::ffi::OsStr) -> Result<Self> {
        use std::os::unix::ffi::OsStrExt;
        let bytes = spec.as_bytes();
        let colon = bytes.iter().position(|b| *b == b':');
        let (snapshot, path) = bytes.split_at(colon.unwrap_or(bytes.len()));
        let text = std::str::from_utf8(snapshot)
            .map_err(|_not_utf8| Error::Message(format!("{} names no snapshot", spec.display())))?;
        Ok(Self {
            snapshot: text.to_owned(),
            path: path.get(1..).unwrap_or_default().to_vec(),
        })
    }
}

impl From<&str> for Place {
    fn from(spec: &str) -> Self {
        let (snapshot, path) = snapshots::split_spec(spec);
        Self {
            snapshot: snapshot.to_owned(),
            path: path.as_bytes().to_vec(),
        }
    }
}

/// The live snapshots of a repository, and readers for them that share one index.
#[derive(Debug)]
pub(crate) struct Archive {
    repository: Arc<Repository>,
    state: Arc<State>,
    index: Arc<ChunkIndex>,
    snapshots: Vec<Snapshot>,
}

impl Archive {
    /// Reads the log, the records and the index.
    pub(crate) fn open(repository: &Arc<Repository>, report: &mut Report<'_>) -> Result<Self> {
        let state = repository.read_state()?;
        let snapshots = snapshots::list(repository, &state, &mut |error| report.tell(None, error))?;
        let index =
            chunk_index::cache::open(repository, &state, &mut |error| report.tell(None, error))?;
        Ok(Self {
            repository: repository.clone(),
            state,
            index: Arc::new(index),
            snapshots,
        })
    }

    pub(crate) fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    pub(crate) fn index(&self) -> &Arc<ChunkIndex> {
        &self.index
    }

    /// The live snapshots, the oldest first.
    pub(crate) fn snapshots(&self) -> &[Snapshot] {
        &self.snapshots
    }

    pub(crate) fn resolve(&self, spec: &str) -> Result<Snapshot> {
        snapshots::resolve_live(&self.state, &self.snapshots, spec)
    }

    /// A reader of one snapshot.
    pub(crate) fn reader(&self, snapshot: &Snapshot) -> Result<Arc<ChunkReader>> {
        let reader = ChunkReader::new(
            self.repository.clone(),
            self.state.clone(),
            self.index.clone(),
            Some(snapshot.id),
            frame_decoder,
        )?;
        Ok(Arc::new(reader))
    }

    /// Finds a place and opens it for reading.
    pub(crate) fn open_place(&self, place: &Place) -> Result<Opened> {
        let snapshot = self.resolve(&place.snapshot)?;
        let reader = self.reader(&snapshot)?;
        let path = clean_path(&place.path);
        let node = node_at(&reader, &snapshot.record.root, &path)?;
        Ok(Opened {
            snapshot,
            reader,
            path,
            node,
        })
    }
}

/// A node of a snapshot and what reads it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) snapshot: Snapshot,
    pub(crate) reader: Arc<ChunkReader>,
    /// Path in the tree, without slashes at its ends; empty for the root.
    pub(crate) path: Vec<u8>,
    pub(crate) node: Node,
}

impl Opened {
    /// What a path of the tree is called when the place alone is taken: what is below the place, or the name of the file that it is.
    pub(crate) fn relative<'p>(&self, path: &'p [u8]) -> &'p [u8] {
        let cut = match self.node.is_directory() {
            true if self.path.is_empty() => 0,
            true => self.path.len() + 1,
            false => self
                .path
                .iter()
                .rposition(|b| *b == b'/')
                .map_or(0, |at| at + 1),
        };
        path.get(cut..).unwrap_or_default()
    }
}

/// A path without empty names: no slash at its ends, none doubled.
pub(crate) fn clean_path(path: &[u8]) -> Vec<u8> {
    let names: Vec<&[u8]> = path
        .split(|b| *b == b'/')
        .filter(|n| !n.is_empty())
        .collect();
    names.join(&b'/')
}

/// Joins a path and a name; the root's path is empty.
pub(crate) fn join_path(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(path.len() + 1 + name.len());
    joined.extend_from_slice(path);
    if !path.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name);
    joined
}

/// A node and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path in the tree, `/` between names, bytes as they are.
    pub path: Vec<u8>,
    /// The node.
    pub node: Node,
}

/// Walks a tree: a directory, then what it holds, by name.
#[derive(Debug)]
pub(crate) struct Walk {
    reader: Arc<ChunkReader>,
    levels: Vec<(Vec<u8>, Nodes)>,
    /// The directory that was handed out last, not entered yet.
    entered: Option<(Vec<u8>, Nodes)>,
}

impl Walk {
    /// Walks what is below `directory`, which stands at `path`; it is not handed out itself.
    pub(crate) fn below(reader: &Arc<ChunkReader>, path: &[u8], directory: &Node) -> Self {
        let nodes = Nodes::new(reader.clone(), &directory.content);
        Self {
            reader: reader.clone(),
            levels: vec![(path.to_vec(), nodes)],
            entered: None,
        }
    }

    /// Walks a whole snapshot.
    pub(crate) fn root(reader: &Arc<ChunkReader>, snapshot: &Snapshot) -> Self {
        let root = Node {
            content: snapshot.record.root.clone(),
            ..Node::virtual_directory(b"")
        };
        Self::below(reader, b"", &root)
    }

    /// The next node.
    pub(crate) fn next(&mut self, report: &mut Report<'_>) -> Result<Option<Entry>> {
        self.levels.extend(self.entered.take());
        while let Some((path, nodes)) = self.levels.last_mut() {
            match nodes.next() {
                None => {
                    self.levels.pop();
                }
                Some(Err(error)) => {
                    report.go_on_after(path, error)?;
                    self.levels.pop();
                }
                Some(Ok(node)) => {
                    let path = join_path(path, &node.name);
                    if node.is_directory() {
                        let nodes = Nodes::new(self.reader.clone(), &node.content);
                        self.entered = Some((path.clone(), nodes));
                    }
                    return Ok(Some(Entry { path, node }));
                }
            }
        }
        Ok(None)
    }

    /// Leaves out what is below the directory that was handed out last.
    pub(crate) fn skip_below(&mut self) {
        self.entered = None;
    }
}

/// The word for a kind of node that people and JSON see.
pub fn kind_word(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::File => "file",
        NodeKind::Directory => "dir",
        NodeKind::Symlink => "symlink",
        NodeKind::Fifo => "fifo",
        NodeKind::CharDevice => "chardev",
        NodeKind::BlockDevice => "blockdev",
        NodeKind::Socket => "socket",
    }
}

/// A point in time as RFC 3339 in UTC, with nanoseconds where there are some.
pub fn time_text(time: Timestamp) -> String {
    let nanos = i32::try_from(time.nanos).unwrap_or_default();
    match jiff::Timestamp::new(time.seconds, nanos) {
        Ok(text) => text.to_string(),
        Err(_out_of_range) => format!("{}.{:09}", time.seconds, time.nanos),
    }
}

/// Bytes that are mostly text, for JSON: what is not UTF-8 is replaced, and stands in hex beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text<'a>(pub &'a [u8]);

impl Serialize for Text<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&String::from_utf8_lossy(self.0))
    }
}

/// The bytes in hex, where they are not UTF-8.
fn hex_of(bytes: &[u8]) -> Option<String> {
    let hex = || bytes.iter().map(|b| format!("{b:02x}")).collect();
    std::str::from_utf8(bytes).is_err().then(hex)
}

/// An entry as JSON: all metadata, without the list of its chunks.
#[derive(Clone, Debug, Serialize)]
pub struct EntryInfo<'a> {
    /// Path in the tree.
    pub path: Text<'a>,
    /// The path's bytes, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
    /// `file`, `dir`, `symlink`, `fifo`, `chardev`, `blockdev`, `socket`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Size in bytes of a file; of a directory the sum below it.
    pub size: u64,
    /// Permission bits, octal.
    pub mode: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Owner's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Text<'a>>,
    /// Group's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Text<'a>>,
    /// Last modification, RFC 3339.
    pub mtime: String,
    /// Where a symbolic link points to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Text<'a>>,
    /// Major and minor number of a device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<(u32, u32)>,
    /// Same number: the same file under several names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_group: Option<u64>,
    /// Names of its extended attributes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub xattrs: Vec<Text<'a>>,
    /// Bytes in holes.
    #[serde(skip_serializing_if = "is_zero")]
    pub hole_bytes: u64,
    /// BLAKE3 of the content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b3: Option<String>,
    /// `grew` or `torn`, where it changed while it was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consistency: Option<&'static str>,
    /// Files below a directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Rows of a part of a table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl<'a> From<&'a Entry> for EntryInfo<'a> {
    fn from(entry: &'a Entry) -> Self {
        let node = &entry.node;
        Self {
            path: Text(&entry.path),
            path_hex: hex_of(&entry.path),
            kind: kind_word(node.kind),
            size: node.subtree.map_or(node.size, |below| below.bytes),
            mode: format!("{:04o}", node.mode),
            uid: node.uid,
            gid: node.gid,
            user: node.user.as_deref().map(Text),
            group: node.group.as_deref().map(Text),
            mtime: time_text(node.modified),
            target: node.target.as_deref().map(Text),
            device: node.device.map(|device| (device.major, device.minor)),
            link_group: node.link_group,
            xattrs: node.xattrs.iter().map(|xattr| Text(&xattr.name)).collect(),
            hole_bytes: node.holes.iter().map(|hole| hole.len).sum(),
            b3: node.digest.map(|digest| digest.to_string()),
            consistency: match node.consistency {
                Consistency::Whole => None,
                Consistency::Grew => Some("grew"),
                Consistency::Torn => Some("torn"),
            },
            files: node.subtree.map(|below| below.files),
            rows: node.table.as_ref().map(|part| part.rows),
        }
    }
}

/// The id of a snapshot for JSON.
pub(crate) fn id_text(id: &ObjectHash) -> String {
    id.to_string()
}
