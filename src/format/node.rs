//! Nodes: what a directory of a snapshot holds, and how contents refer to chunks.
//!
//! Layout: a directory's stream is the CBOR of its nodes, one after the other, sorted by name (bytewise), cut into chunks **at entry
//! borders**: an entry ends a chunk when the keyed hash of its name is below a threshold (`store::tree`). Each chunk is therefore a whole
//! number of nodes and decodes alone. A node is a CBOR map with integer keys; unknown keys are skipped, absent keys have their default.
//!
//! A [`Content`] of depth 0 lists the chunks of the bytes themselves; of depth *n* it lists tree chunks that hold
//! [`ChunkRef`]s (CBOR, one after the other) of a content of depth *n* − 1.
//!
//! Invariants: names are not empty, hold no NUL and no `/`, and are not `.` or `..` (`hostile_names_are_refused`).

use minicbor::{Decode, Encode};

use super::id::{ChunkId, ContentDigest};

/// Deepest [`Content`] that a reader follows; depth 4 holds more than 10^12 chunks.
pub const CONTENT_DEPTH_MAX: u8 = 4;

/// A chunk, and how long its plaintext is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ChunkRef {
    /// Keyed BLAKE3 of the plaintext.
    #[n(0)]
    pub id: ChunkId,
    /// Length of the plaintext in bytes, 1…16 MiB.
    #[n(1)]
    pub len: u32,
}

/// The bytes of a file, of a directory's stream, or of a long list: a list of chunks, or a list of lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Content {
    /// 0: `refs` are the data; n: `refs` are tree chunks of references of depth n − 1.
    #[n(0)]
    pub depth: u8,
    /// In the order of the bytes.
    #[n(1)]
    pub refs: Vec<ChunkRef>,
}

/// A point in time: seconds since 1970-01-01 UTC (negative before it) and nanoseconds 0…999 999 999.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Timestamp {
    /// Whole seconds, rounded down.
    #[n(0)]
    pub seconds: i64,
    /// Nanoseconds after `seconds`.
    #[n(1)]
    pub nanos: u32,
}

/// What a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
#[cbor(index_only)]
pub enum NodeKind {
    /// A regular file, or a stream such as a table part.
    #[n(0)]
    #[default]
    File,
    /// A directory; its content is the stream of its nodes.
    #[n(1)]
    Directory,
    /// A symbolic link; `target` says where to.
    #[n(2)]
    Symlink,
    /// A named pipe.
    #[n(3)]
    Fifo,
    /// A character device; `device` has its numbers.
    #[n(4)]
    CharDevice,
    /// A block device; `device` has its numbers.
    #[n(5)]
    BlockDevice,
    /// A socket; recorded, never created at a restore.
    #[n(6)]
    Socket,
}

/// Whether the archived content is one state of the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Consistency {
    /// Did not change while it was read.
    #[n(0)]
    #[default]
    Whole,
    /// Only its tail was added to while it was read; the archived length is consistent.
    #[n(1)]
    Grew,
    /// Changed while it was read, again and again.
    #[n(2)]
    Torn,
}

/// An extended attribute; POSIX ACLs are the attributes `system.posix_acl_access` and `system.posix_acl_default`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Xattr {
    /// Full name with its namespace.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub name: Vec<u8>,
    /// Value as it is.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub value: Vec<u8>,
}

/// A hole: a range without data of a sparse file, that reads as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Hole {
    /// First byte.
    #[n(0)]
    pub offset: u64,
    /// Length in bytes, not 0.
    #[n(1)]
    pub len: u64,
}

/// Device numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Device {
    /// Major number.
    #[n(0)]
    pub major: u32,
    /// Minor number.
    #[n(1)]
    pub minor: u32,
}

/// What a directory holds below it, itself not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Subtree {
    /// Nodes that are not directories.
    #[cbor(n(0), default)]
    pub files: u64,
    /// Directories.
    #[cbor(n(1), default)]
    pub directories: u64,
    /// Sum of the sizes of files in bytes.
    #[cbor(n(2), default)]
    pub bytes: u64,
}

/// One part of a table: what its COPY stream is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct TablePart {
    /// Columns in the order of the stream, in the database's encoding; empty for a table without columns to copy.
    #[cbor(n(0), default)]
    pub columns: Vec<minicbor::bytes::ByteVec>,
    /// 0 text, 1 binary.
    #[cbor(n(1), default)]
    pub format: u8,
    /// Rows of this part.
    #[cbor(n(2), default)]
    pub rows: u64,
    /// Sum mod 2^128 over all rows of XXH3-128 of the row without its newline, little-endian.
    #[cbor(n(3), default, with = "minicbor::bytes")]
    pub rows_digest: [u8; 16],
    /// First block of a fixed ctid range.
    #[cbor(n(4), default)]
    pub first_block: u64,
    /// First block after it; absent where the range is open.
    #[n(5)]
    pub end_block: Option<u64>,
}

/// One entry of a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Node {
    /// Last component of the path, as the file system has it; not necessarily UTF-8.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub name: Vec<u8>,
    /// What it is.
    #[n(1)]
    pub kind: NodeKind,
    /// Permission bits, `mode & 0o7777`.
    #[cbor(n(2), default)]
    pub mode: u32,
    /// Owner.
    #[cbor(n(3), default)]
    pub uid: u32,
    /// Group.
    #[cbor(n(4), default)]
    pub gid: u32,
    /// Owner's name at the backup, where it had one.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub user: Option<Vec<u8>>,
    /// Group's name at the backup, where it had one.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub group: Option<Vec<u8>>,
    /// Last modification of the content.
    #[cbor(n(7), default)]
    pub modified: Timestamp,
    /// Last change of the inode; for change detection.
    #[n(8)]
    pub changed: Option<Timestamp>,
    /// Inode number; for change detection only.
    #[n(9)]
    pub inode: Option<u64>,
    /// Same number: the same file under several names (hard links), each with the full content.
    #[n(10)]
    pub link_group: Option<u64>,
    /// Extended attributes and ACLs.
    #[cbor(n(11), default)]
    pub xattrs: Vec<Xattr>,
    /// Extended attributes that are too large to stand here: a stream of [`Xattr`]s, one after the other.
    #[n(12)]
    pub xattrs_stream: Option<Content>,
    /// Numbers of a device.
    #[n(13)]
    pub device: Option<Device>,
    /// Where a symbolic link points to.
    #[cbor(n(14), with = "minicbor::bytes")]
    pub target: Option<Vec<u8>>,
    /// Size in bytes, with holes.
    #[cbor(n(15), default)]
    pub size: u64,
    /// Ranges of zeros without data, ascending; the content holds what is between them.
    #[cbor(n(16), default)]
    pub holes: Vec<Hole>,
    /// Holes that are too many to stand here: a stream of [`Hole`]s, one after the other.
    #[n(17)]
    pub holes_stream: Option<Content>,
    /// The bytes of a file or the nodes of a directory.
    #[cbor(n(18), default)]
    pub content: Content,
    /// Plain BLAKE3 of the whole content, holes read as zeros.
    #[n(19)]
    pub digest: Option<ContentDigest>,
    /// Whether it changed while it was read.
    #[cbor(n(20), default)]
    pub consistency: Consistency,
    /// A directory's totals.
    #[n(21)]
    pub subtree: Option<Subtree>,
    /// What the stream is, if it is part of a table.
    #[n(22)]
    pub table: Option<TablePart>,
}

impl Node {
    /// A directory that exists only in the archive, such as `/databases`.
    pub fn virtual_directory(name: &[u8]) -> Self {
        Self {
            name: name.to_vec(),
            kind: NodeKind::Directory,
            mode: 0o700,
            ..Self::default()
        }
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == NodeKind::Directory
    }
}

/// Whether `name` can be one component of a path: not empty, not `.` or `..`, without `/` and NUL.
pub fn is_valid_name(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.iter().any(|b| *b == b'/' || *b == 0)
}

/// Encodes nodes, references or attributes one after the other.
pub fn encode_item<T: Encode<()>>(item: &T, out: &mut Vec<u8>) {
    minicbor::encode(item, out).expect("a Vec takes every byte");
}

/// Decodes items that stand one after the other; the first that does not decode ends it with an error.
pub fn decode_items<'b, T: Decode<'b, ()>>(
    bytes: &'b [u8],
    mut each: impl FnMut(T),
) -> Result<(), minicbor::decode::Error> {
    let mut decoder = minicbor::Decoder::new(bytes);
    while decoder.position() < bytes.len() {
        each(decoder.decode()?);
    }
    Ok(())
}

/// Decodes the nodes of one chunk of a directory's stream and checks their names and that they ascend.
pub fn decode_nodes(bytes: &[u8]) -> Result<Vec<Node>, minicbor::decode::Error> {
    let mut nodes: Vec<Node> = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let last = nodes.last().map_or(&b""[..], |last| &last.name);
        let (node, len) = decode_node(rest, last)?;
        nodes.push(node);
        rest = rest.get(len..).unwrap_or_default();
    }
    Ok(nodes)
}

/// Decodes the node that stands first in `bytes`, checks its name and that it comes after `last`, the name before it (empty: none), and
/// says how long it is.
pub fn decode_node(bytes: &[u8], last: &[u8]) -> Result<(Node, usize), minicbor::decode::Error> {
    let mut decoder = minicbor::Decoder::new(bytes);
    let node: Node = decoder.decode()?;
    if !is_valid_name(&node.name) {
        return Err(minicbor::decode::Error::message("name of a node"));
    }
    if last >= node.name.as_slice() {
        return Err(minicbor::decode::Error::message("order of nodes"));
    }
    if node.modified.nanos > 999_999_999 {
        return Err(minicbor::decode::Error::message("nanoseconds of a node"));
    }
    Ok((node, decoder.position()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(names: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for name in names {
            encode_item(
                &Node {
                    name: name.to_vec(),
                    ..Node::default()
                },
                &mut out,
            );
        }
        out
    }

    #[test]
    fn hostile_names_are_refused() {
        for name in [&b""[..], b".", b"..", b"a/b", b"a\0"] {
            assert!(decode_nodes(&encoded(&[name])).is_err(), "{name:?}");
        }
        assert!(decode_nodes(&encoded(&[b"b", b"a"])).is_err());
        assert!(decode_nodes(&encoded(&[b"a", b"a"])).is_err());
        assert_eq!(
            decode_nodes(&encoded(&[b"\xff\xfe", b"\xff\xff"]))
                .unwrap()
                .len(),
            2
        );
    }

    #[test]
    fn a_full_node_comes_back() {
        let node = Node {
            name: b"n".to_vec(),
            user: Some(b"root".to_vec()),
            xattrs: vec![Xattr {
                name: b"user.a".to_vec(),
                value: vec![0, 1],
            }],
            holes: vec![Hole {
                offset: 4096,
                len: 8192,
            }],
            content: Content {
                depth: 1,
                refs: vec![ChunkRef {
                    id: ChunkId([3; 32]),
                    len: 7,
                }],
            },
            digest: Some(ContentDigest([4; 32])),
            table: Some(TablePart {
                columns: vec![b"id".to_vec().into()],
                rows: 3,
                ..TablePart::default()
            }),
            ..Node::default()
        };
        let mut bytes = Vec::new();
        encode_item(&node, &mut bytes);
        assert_eq!(decode_nodes(&bytes).unwrap(), vec![node]);
    }
}
