//! Contents, end to end: the digest of every file, the rows of every part of a table.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{FindingKind, Reporter, describe};
use crate::crypto::{ContentHasher, RowDigestSecret};
use crate::error::Result;
use crate::format::id::ContentDigest;
use crate::format::node::{Node, TablePart};
use crate::ops::layout::Layout;
use crate::ops::snapshots::Snapshot;
use crate::ops::window::{Consumer, Part, is_of_one_object};
use crate::stats::Stats;
use crate::store::StoreError;
use crate::store::reader::ChunkReader;

/// Recomputes what the archive says of contents.
pub(super) struct CheckContents<'r> {
    report: &'r Reporter<'r>,
    stats: &'r Arc<Stats>,
    secret: RowDigestSecret,
    rows: AtomicU64,
}

/// A content that is being read.
pub(super) struct ContentCheck {
    snapshot: Snapshot,
    path: Vec<u8>,
    layout: Layout,
    size: u64,
    hasher: Option<Box<ContentHasher>>,
    digest: Option<ContentDigest>,
    rows: Option<Box<Rows>>,
    failure: Option<StoreError>,
}

/// The rows of a part of a table.
struct Rows {
    part: TablePart,
    count: u64,
    digest: u128,
    /// The begin of a row whose end is in a later chunk.
    open: Vec<u8>,
}

impl ContentCheck {
    pub(super) fn new(
        reader: &Arc<ChunkReader>,
        node: &Node,
        snapshot: &Snapshot,
        path: &[u8],
    ) -> Self {
        let rows = node
            .table
            .as_ref()
            .filter(|part| part.format == 0)
            .map(|part| {
                Box::new(Rows {
                    part: part.clone(),
                    count: 0,
                    digest: 0,
                    open: Vec::new(),
                })
            });
        Self {
            snapshot: Snapshot {
                id: snapshot.id,
                seq: snapshot.seq,
                record: Default::default(),
            },
            path: path.to_vec(),
            layout: Layout::new(reader, node),
            size: node.size,
            hasher: node.digest.is_some().then(Box::default),
            digest: node.digest,
            rows,
            failure: None,
        }
    }

    fn zeros(&mut self, len: u64) {
        if let Some(hasher) = &mut self.hasher {
            hasher.update_zeros(len);
        }
    }

    fn bytes(&mut self, mut bytes: &[u8], secret: &RowDigestSecret) -> Result<(), StoreError> {
        if let Some(rows) = &mut self.rows {
            rows.add(bytes, secret);
        }
        while !bytes.is_empty() {
            let len = u64::try_from(bytes.len()).expect("a length fits 64 bits");
            let run = self.layout.place(len)?;
            self.zeros(run.hole);
            let (now, rest) = bytes.split_at(usize::try_from(run.len).expect("part of a slice"));
            if let Some(hasher) = &mut self.hasher {
                hasher.update(now);
            }
            bytes = rest;
        }
        Ok(())
    }

    /// What is wrong with the whole content.
    fn finish(&mut self) -> Result<Option<String>, StoreError> {
        let hole = self.layout.finish()?;
        self.zeros(hole);
        if let (Some(hasher), Some(digest)) = (self.hasher.take(), &self.digest) {
            let found = hasher.finish();
            if found != *digest {
                return Ok(Some(format!(
                    "its content has the digest {found}, the archive says {digest}"
                )));
            }
        }
        Ok(self.rows.as_ref().and_then(|rows| rows.wrong()))
    }
}

impl Rows {
    fn add(&mut self, mut bytes: &[u8], secret: &RowDigestSecret) {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let (row, rest) = bytes.split_at(end);
            bytes = rest.get(1..).unwrap_or_default();
            if self.open.is_empty() {
                self.row(row, secret);
            } else {
                let mut open = std::mem::take(&mut self.open);
                open.extend_from_slice(row);
                self.row(&open, secret);
                open.clear();
                self.open = open;
            }
        }
        self.open.extend_from_slice(bytes);
    }

    fn row(&mut self, row: &[u8], secret: &RowDigestSecret) {
        let digest = xxhash_rust::xxh3::xxh3_128_with_secret(row, secret.expose());
        self.digest = self.digest.wrapping_add(digest);
        self.count += 1;
    }

    fn wrong(&self) -> Option<String> {
        if !self.open.is_empty() {
            return Some("its last row has no end".into());
        }
        if self.count != self.part.rows {
            return Some(format!(
                "it holds {} rows, the archive says {}",
                self.count, self.part.rows
            ));
        }
        (self.digest.to_le_bytes() != self.part.rows_digest)
            .then(|| "its rows have another digest than the archive says".into())
    }
}

impl<'r> CheckContents<'r> {
    pub(super) fn new(
        report: &'r Reporter<'r>,
        stats: &'r Arc<Stats>,
        secret: RowDigestSecret,
    ) -> Self {
        Self {
            report,
            stats,
            secret,
            rows: AtomicU64::new(0),
        }
    }

    /// Rows counted so far.
    pub(super) fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Reports why a content could not be read.
    fn failed(&self, file: &ContentCheck, error: &StoreError) {
        self.report.file(
            FindingKind::Damaged,
            &file.snapshot,
            &file.path,
            describe(error),
        );
    }
}

impl Consumer for CheckContents<'_> {
    type File = ContentCheck;

    fn take(&self, file: &mut ContentCheck, parts: &[Part<'_>]) -> Result<()> {
        for part in parts {
            let Part::Data(bytes) = part else { continue };
            self.stats
                .bytes_read
                .add(u64::try_from(bytes.len()).expect("a length fits 64 bits"));
            if let Err(e) = file.bytes(bytes, &self.secret) {
                if !is_of_one_object(&e) {
                    return Err(e.into());
                }
                // The first error is said at the end, so that a file has one line.
                file.failure.get_or_insert(e);
                return Ok(());
            }
        }
        Ok(())
    }

    fn end(&self, mut file: ContentCheck, failure: Option<&StoreError>) -> Result<()> {
        let own = file.failure.take();
        if let Some(e) = failure.or(own.as_ref()) {
            self.failed(&file, e);
            return Ok(());
        }
        match file.finish() {
            Ok(None) => {}
            Ok(Some(wrong)) => {
                self.report
                    .file(FindingKind::Damaged, &file.snapshot, &file.path, wrong);
            }
            Err(e) if is_of_one_object(&e) => self.failed(&file, &e),
            Err(e) => return Err(e.into()),
        }
        let rows = file.rows.as_ref().map_or(0, |rows| rows.count);
        self.rows.fetch_add(rows, Ordering::Relaxed);
        tracing::trace!(bytes = file.size, "content verified");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::repository;

    #[test]
    fn rows_are_counted_wherever_they_are_cut() {
        let (_, repository) = repository();
        let secret = repository.keyring().row_digest_secret().unwrap();
        let text = "1\tone\n\n2\ttwo\\n\n\\N\t\n".repeat(20);
        let sum = text.lines().fold(0u128, |sum, row| {
            let digest = xxhash_rust::xxh3::xxh3_128_with_secret(row.as_bytes(), secret.expose());
            sum.wrapping_add(digest)
        });
        let part = TablePart {
            rows: 80,
            rows_digest: sum.to_le_bytes(),
            ..TablePart::default()
        };
        let check = |text: &str, size: usize, part: &TablePart| {
            let mut rows = Rows {
                part: part.clone(),
                count: 0,
                digest: 0,
                open: Vec::new(),
            };
            for piece in text.as_bytes().chunks(size) {
                rows.add(piece, &secret);
            }
            rows.wrong()
        };
        for size in [1, 2, 3, 7, 64, 10_000] {
            assert_eq!(check(&text, size, &part), None, "{size}");
        }
        let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
        lines.reverse();
        assert_eq!(check(&lines.concat(), 5, &part), None, "rows have no order");
        assert!(check(&text[..text.len() - 1], 5, &part).is_some());
        assert!(check(&text.replacen("one", "two", 1), 5, &part).is_some());
        let fewer = TablePart { rows: 79, ..part };
        assert!(check(&text, 5, &fewer).is_some());
    }
}
