//! `manifest`: `<b3>  <path>` lines with the paths that a restore creates, as `b3sum --check` reads them.
//!
//! It reads the tree only: the digests were made when the files were archived. Paths with a backslash, a newline or a carriage return are
//! escaped as `b3sum` does it (`\\`, `\n`, `\r`, and a backslash before the line). What its format can't express (names that are not UTF-8,
//! or that hold the replacement character) and files without a digest are counted, not written.
//!
//! Memory: one chunk of nodes for each directory on the path.

use std::io::Write;
use std::sync::Arc;

use serde::Serialize;

use super::browse::{Archive, Entry, OnDamage, Place, Report, Walk, id_text};
use crate::error::{Error, Result};
use crate::format::id::ContentDigest;
use crate::format::node::{Node, NodeKind};
use crate::store::Repository;

/// What was written, and what could not be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ManifestSummary {
    /// Id of the snapshot.
    pub snapshot: String,
    /// Lines.
    pub files: u64,
    /// Regular files whose paths the format can't express.
    pub inexpressible: u64,
    /// Regular files that were archived without a digest.
    pub without_digest: u64,
    /// Damage that was told; exit code 4 if it is not 0.
    pub damaged: u64,
}

/// Writes one line for each regular file below `place`, by path.
pub fn manifest(
    repository: &Arc<Repository>,
    place: &Place,
    out: &mut dyn Write,
    damage: OnDamage<'_>,
) -> Result<ManifestSummary> {
    let mut report = Report::new(damage);
    let archive = Archive::open(repository, &mut report)?;
    let opened = archive.open_place(place)?;
    let mut summary = ManifestSummary {
        snapshot: id_text(&opened.snapshot.id),
        ..ManifestSummary::default()
    };
    let mut add = |path: &[u8], node: &Node| -> Result<()> {
        if node.kind != NodeKind::File {
            return Ok(());
        }
        let Some(digest) = digest_of(node) else {
            summary.without_digest += 1;
            return Ok(());
        };
        let Some(line) = line(&digest, opened.relative(path)) else {
            summary.inexpressible += 1;
            return Ok(());
        };
        summary.files += 1;
        out.write_all(line.as_bytes())
            .map_err(|e| Error::local("cannot write the manifest", e))
    };
    if opened.node.is_directory() {
        let mut walk = Walk::below(&opened.reader, &opened.path, &opened.node);
        while let Some(Entry { path, node }) = walk.next(&mut report)? {
            add(&path, &node)?;
        }
    } else {
        add(&opened.path, &opened.node)?;
    }
    out.flush()
        .map_err(|e| Error::local("cannot write the manifest", e))?;
    summary.damaged = report.damaged;
    Ok(summary)
}

fn digest_of(node: &Node) -> Option<ContentDigest> {
    let empty = || ContentDigest(*blake3::hash(b"").as_bytes());
    node.digest.or_else(|| (node.size == 0).then(empty))
}

/// The line of a file; `None` if the format can't express its path.
fn line(digest: &ContentDigest, path: &[u8]) -> Option<String> {
    let path = std::str::from_utf8(path).ok()?;
    if path.contains('\u{fffd}') {
        return None;
    }
    if path.contains(['\\', '\n', '\r']) {
        let escaped = path
            .replace('\\', "\\\\")
            .replace('\n', "\\n")
            .replace('\r', "\\r");
        return Some(format!("\\{digest}  {escaped}\n"));
    }
    Some(format!("{digest}  {path}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_as_b3sum_reads_them() {
        let digest = ContentDigest([0xab; 32]);
        let check = |path: &[u8], expected: Option<&str>| {
            let written = line(&digest, path);
            let expected = expected.map(|text| text.replace("AB", &"ab".repeat(32)));
            assert_eq!(written, expected);
        };
        check(b"a/b c", Some("AB  a/b c\n"));
        check(b"a\\n\nb\r", Some("\\AB  a\\\\n\\nb\\r\n"));
        check(b"\xff", None);
        check("a\u{fffd}".as_bytes(), None);
    }
}
