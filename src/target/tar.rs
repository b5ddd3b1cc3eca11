//! A tar archive as a target: POSIX.1-2001 (pax), plain or compressed, streamed.
//!
//! It does not know where the bytes come from, and it makes no temporary file.
//!
//! Layout: ustar headers; whatever does not fit there stands in a pax header before it: long paths and link targets, times with nanoseconds or
//! before 1970, numbers and names that are too long, extended attributes as `SCHILY.xattr.<name>`. Names that are not UTF-8 are written as they
//! are, in a pax header with `hdrcharset=BINARY`. Sparse files are expanded. Sockets can't be expressed.
//!
//! Invariants: an entry has exactly the bytes that its header says, or the archive ends in an error (`system_tar_reads_it_back`).
//!
//! Threads: one writer. It is asynchronous for the compressors' sake; the output itself is written in place, so it runs on a runtime of its own.

use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_compression::Level;
use async_compression::tokio::write::{GzipEncoder, ZstdEncoder};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio_tar::{Builder, EntryType, Header};

use crate::format::node::{Node, NodeKind, Timestamp, Xattr};

/// Bytes that are collected before the output is written to.
const BUFFER: usize = 1 << 20;
/// Largest number in a header's field of eight: seven octal digits.
const SHORT_NUMBER_MAX: u64 = 0o7_777_777;
/// Largest number in a header's field of twelve: eleven octal digits.
const LONG_NUMBER_MAX: u64 = 0o77_777_777_777;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// How the archive is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// zstd; its level, 3 by default.
    Zstd(Option<i32>),
    /// gzip; its level, 6 by default.
    Gzip(Option<i32>),
}

/// An entry of the archive.
#[derive(Clone, Debug, Default)]
pub struct TarEntry {
    /// Path in the archive, without a slash at its ends.
    pub path: Vec<u8>,
    /// Kind, size and metadata.
    pub node: Node,
    /// All its extended attributes.
    pub xattrs: Vec<Xattr>,
    /// Path of an earlier entry that is the same file; then it has no bytes of its own.
    pub link_to: Option<Vec<u8>>,
}

impl TarEntry {
    /// Bytes that follow its header.
    pub fn data_bytes(&self) -> u64 {
        match (self.node.kind, &self.link_to) {
            (NodeKind::File, None) => self.node.size,
            _ => 0,
        }
    }
}

/// Writes where it is called; nothing else runs on the runtime.
struct InPlace(std::io::BufWriter<Box<dyn Write + Send>>);

impl AsyncWrite for InPlace {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Poll::Ready(self.0.write(bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(self.0.flush())
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.poll_flush(context)
    }
}

type Out = Box<dyn AsyncWrite + Unpin + Send>;

/// Writes an archive. Dropped without [`TarWriter::finish`], the archive has no end, so that readers see that it is cut off.
pub struct TarWriter {
    builder: Builder<Out>,
    /// Bytes of the current entry that are still to come.
    left: u64,
    /// Zeros that fill its last block.
    padding: usize,
}

impl std::fmt::Debug for TarWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TarWriter")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

impl TarWriter {
    /// Starts an archive.
    pub fn new(out: Box<dyn Write + Send>, compression: Compression) -> Self {
        let out = InPlace(std::io::BufWriter::with_capacity(BUFFER, out));
        let level = |level: Option<i32>| level.map_or(Level::Default, Level::Precise);
        let out: Out = match compression {
            Compression::None => Box::new(out),
            Compression::Zstd(l) => Box::new(ZstdEncoder::with_quality(out, level(l))),
            Compression::Gzip(l) => Box::new(GzipEncoder::with_quality(out, level(l))),
        };
        Self {
            builder: Builder::new_non_terminated(out),
            left: 0,
            padding: 0,
        }
    }

    /// Begins an entry; [`TarEntry::data_bytes`] bytes must follow. Sockets are refused.
    pub async fn begin(&mut self, entry: &TarEntry) -> std::io::Result<()> {
        self.end_entry().await?;
        let mut header = Header::new_ustar();
        let mut pax = Pax::default();
        fill(&mut header, &mut pax, entry)?;
        if !pax.records.is_empty() {
            let mut before = Header::new_ustar();
            before.set_entry_type(EntryType::XHeader);
            put(
                &mut before.as_ustar_mut().ok_or_else(no_ustar)?.name,
                b"././@PaxHeader",
            );
            before.set_mode(0o644);
            before.set_uid(0);
            before.set_gid(0);
            before.set_mtime(0);
            before.set_size(length(&pax.records));
            before.set_cksum();
            self.builder.append(&before, pax.records.as_slice()).await?;
        }
        header.set_cksum();
        self.builder.append(&header, tokio::io::empty()).await?;
        self.left = entry.data_bytes();
        let over = usize::try_from(self.left % 512).expect("less than 512");
        self.padding = (512 - over) % 512;
        Ok(())
    }

    /// Adds bytes to the current entry.
    pub async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.take(length(bytes))?;
        self.builder.get_mut().write_all(bytes).await
    }

    /// Adds zeros to the current entry.
    pub async fn write_zeros(&mut self, mut len: u64) -> std::io::Result<()> {
        self.take(len)?;
        while len > 0 {
            let part = usize::try_from(len).map_or(ZEROS.len(), |len| len.min(ZEROS.len()));
            self.builder.get_mut().write_all(&ZEROS[..part]).await?;
            len -= length(&ZEROS[..part]);
        }
        Ok(())
    }

    fn take(&mut self, len: u64) -> std::io::Result<()> {
        let left = self.left.checked_sub(len);
        self.left =
            left.ok_or_else(|| std::io::Error::other("an entry is longer than its header says"))?;
        Ok(())
    }

    async fn end_entry(&mut self) -> std::io::Result<()> {
        if self.left > 0 {
            return Err(std::io::Error::other(
                "an entry is shorter than its header says",
            ));
        }
        let padding = std::mem::take(&mut self.padding);
        self.builder.get_mut().write_all(&ZEROS[..padding]).await
    }

    /// Ends the archive; all of it is written out.
    pub async fn finish(mut self) -> std::io::Result<()> {
        self.end_entry().await?;
        let mut out = self.builder.into_inner().await?;
        out.shutdown().await
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("a length fits 64 bits")
}

fn no_ustar() -> std::io::Error {
    std::io::Error::other("a header is not of the kind that was asked for")
}

/// Copies the bytes that fit into a field.
fn put(field: &mut [u8], bytes: &[u8]) {
    for (to, from) in field.iter_mut().zip(bytes) {
        *to = *from;
    }
}

/// Records of a pax header.
#[derive(Debug, Default)]
struct Pax {
    records: Vec<u8>,
    binary: bool,
}

impl Pax {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        // The length counts its own digits.
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while rest + len.to_string().len() != len {
            len = rest + len.to_string().len();
        }
        self.records.extend_from_slice(len.to_string().as_bytes());
        self.records.push(b' ');
        self.records.extend_from_slice(key);
        self.records.push(b'=');
        self.records.extend_from_slice(value);
        self.records.push(b'\n');
    }

    /// A name: what is not UTF-8 is announced once.
    fn add_name(&mut self, key: &[u8], value: &[u8]) {
        if !self.binary && std::str::from_utf8(value).is_err() {
            self.binary = true;
            self.add(b"hdrcharset", b"BINARY");
        }
        self.add(key, value);
    }

    /// A name goes into its field, and here too if it does not fit or if readers could take it for another character set's.
    fn name(&mut self, key: &[u8], field: &mut [u8], name: &[u8]) {
        put(field, name);
        let is_text = !name.is_ascii() && std::str::from_utf8(name).is_ok();
        if name.len() > field.len() || is_text {
            self.add_name(key, name);
        }
    }
}

fn fill(header: &mut Header, pax: &mut Pax, entry: &TarEntry) -> std::io::Result<()> {
    let node = &entry.node;
    let kind = match (&entry.link_to, node.kind) {
        (Some(_), _) => EntryType::Link,
        (None, NodeKind::File) => EntryType::Regular,
        (None, NodeKind::Directory) => EntryType::Directory,
        (None, NodeKind::Symlink) => EntryType::Symlink,
        (None, NodeKind::Fifo) => EntryType::Fifo,
        (None, NodeKind::CharDevice) => EntryType::Char,
        (None, NodeKind::BlockDevice) => EntryType::Block,
        (None, NodeKind::Socket) => return Err(std::io::Error::other("tar has no sockets")),
    };
    header.set_entry_type(kind);
    header.set_mode(node.mode & 0o7777);
    for (key, id) in [("uid", node.uid), ("gid", node.gid)] {
        if u64::from(id) > SHORT_NUMBER_MAX {
            pax.add(key.as_bytes(), id.to_string().as_bytes());
        }
    }
    header.set_uid(u64::from(node.uid).min(SHORT_NUMBER_MAX));
    header.set_gid(u64::from(node.gid).min(SHORT_NUMBER_MAX));
    let size = entry.data_bytes();
    if size > LONG_NUMBER_MAX {
        pax.add(b"size", size.to_string().as_bytes());
    }
    header.set_size(size.min(LONG_NUMBER_MAX));
    set_time(header, pax, node.modified);
    let device = node
        .device
        .filter(|_| matches!(kind, EntryType::Char | EntryType::Block));
    header.set_device_major(device.map_or(0, |device| device.major))?;
    header.set_device_minor(device.map_or(0, |device| device.minor))?;
    let fields = header.as_ustar_mut().ok_or_else(no_ustar)?;
    let mut path = entry.path.clone();
    if kind == EntryType::Directory {
        path.push(b'/');
    }
    pax.name(b"path", &mut fields.name, &path);
    let link = match kind {
        EntryType::Symlink => node.target.as_deref(),
        _ => entry.link_to.as_deref(),
    };
    pax.name(b"linkpath", &mut fields.linkname, link.unwrap_or_default());
    // These two fields end in a NUL.
    for (key, field, name) in [
        (&b"uname"[..], &mut fields.uname, &node.user),
        (b"gname", &mut fields.gname, &node.group),
    ] {
        let room = field.len() - 1;
        pax.name(key, &mut field[..room], name.as_deref().unwrap_or_default());
    }
    if entry.link_to.is_none() {
        for xattr in &entry.xattrs {
            pax.add(&xattr_key(&xattr.name), &xattr.value);
        }
    }
    Ok(())
}

/// `%` and `=` in the name of an attribute are escaped as GNU tar does it.
fn xattr_key(name: &[u8]) -> Vec<u8> {
    let mut key = b"SCHILY.xattr.".to_vec();
    for byte in name {
        match byte {
            b'%' => key.extend_from_slice(b"%25"),
            b'=' => key.extend_from_slice(b"%3D"),
            byte => key.push(*byte),
        }
    }
    key
}

fn set_time(header: &mut Header, pax: &mut Pax, time: Timestamp) {
    let whole = u64::try_from(time.seconds)
        .ok()
        .filter(|seconds| *seconds <= LONG_NUMBER_MAX);
    header.set_mtime(whole.unwrap_or_default());
    if whole.is_none() || time.nanos != 0 {
        pax.add(b"mtime", time_text(time).as_bytes());
    }
}

/// Seconds since 1970 with a fraction; a time before it has a sign.
fn time_text(time: Timestamp) -> String {
    match (time.seconds, time.nanos) {
        (seconds, 0) => seconds.to_string(),
        (seconds @ 0.., nanos) => format!("{seconds}.{nanos:09}"),
        (seconds, nanos) => {
            let nanos = 1_000_000_000u32.saturating_sub(nanos);
            format!("-{}.{nanos:09}", seconds.saturating_add(1).unsigned_abs())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_count_themselves() {
        let check = |value: usize, expected: &str| {
            let mut pax = Pax::default();
            pax.add(b"path", &vec![b'x'; value]);
            let text = String::from_utf8(pax.records).unwrap();
            assert!(text.starts_with(expected), "{text}");
            assert_eq!(text.split(' ').next().unwrap(), text.len().to_string());
        };
        check(1, "9 path=x\n");
        check(2, "11 path=xx\n");
        check(91, "101 path=");
        check(90, "99 path=");
        check(984, "994 ");
    }

    #[test]
    fn times_before_1970_have_a_sign() {
        let check = |seconds: i64, nanos: u32, expected: &str| {
            assert_eq!(time_text(Timestamp { seconds, nanos }), expected);
        };
        check(5, 0, "5");
        check(5, 20, "5.000000020");
        check(-2, 500_000_000, "-1.500000000");
        check(-1, 999_999_999, "-0.000000001");
        check(-3, 0, "-3");
    }
}
