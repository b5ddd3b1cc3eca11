//! `diff`: what differs between two snapshots, or between two places in them.
//!
//! Two trees are merged by name. Directories with equal contents (the same list of chunks) are equal without being read, so the cost is that of
//! the changes. Tables are compared as tables: equal rows in another order or in other parts are no change; dumps of schemas by their statements.
//!
//! Invariants:
//! 1. What has not changed is not told, what has is told once (`every_kind_of_change_is_told_once`).
//! 2. Equal directories are not read (`equal_directories_are_skipped`).
//!
//! Memory: two chunks of nodes for each directory on the path.

use std::cmp::Ordering;
use std::sync::Arc;

use serde::Serialize;

use super::browse::{
    Archive, Entry, OnDamage, Opened, Place, Report, Walk, clean_path, id_text, join_path,
    kind_word,
};
use super::schema_diff::{Facts, same_globals, schema_facts};
use crate::error::Result;
use crate::format::database::DatabaseInfo;
use crate::format::node::{Node, NodeKind};
use crate::store::Repository;
use crate::store::reader::ChunkReader;
use crate::store::tree::{Nodes, read_all};

/// A `database.json` is not read beyond this size.
const DATABASE_INFO_MAX: usize = 256 << 20;

/// What is compared.
#[derive(Clone, Debug, Default)]
pub struct DiffOptions {
    /// The older place.
    pub before: Place,
    /// The newer place.
    pub after: Place,
    /// A path below both.
    pub path: Vec<u8>,
}

/// Rows of a table on one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rows {
    rows: u64,
    digest: u128,
}

/// What happened to a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only the newer side has it.
    Added,
    /// Only the older side has it.
    Removed,
    /// It is something else now.
    TypeChanged {
        /// What it was.
        before: NodeKind,
        /// What it is.
        after: NodeKind,
    },
    /// The same kind of thing, but different.
    Modified {
        /// Its bytes, or where its link points to.
        content: bool,
        /// The metadata that differ: `mode`, `owner`, `mtime`, `xattrs`, `device`.
        metadata: Vec<&'static str>,
    },
    /// A table with other rows or other columns.
    Table {
        /// Rows before.
        rows_before: u64,
        /// Rows now.
        rows_after: u64,
        /// Its columns are other ones, or in another order.
        columns: bool,
    },
    /// A database with other properties: name of the property, what it was, what it is.
    Database {
        /// Each property that differs.
        facts: Vec<(&'static str, String, String)>,
    },
}

impl Change {
    /// The word for `--json`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::TypeChanged { .. } => "type-changed",
            Self::Modified { content: true, .. } => "modified",
            Self::Modified { content: false, .. } => "metadata",
            Self::Table { .. } => "table",
            Self::Database { .. } => "database",
        }
    }

    /// The sign that stands before the path for people.
    pub fn sign(&self) -> char {
        match self {
            Self::Added => '+',
            Self::Removed => '-',
            Self::TypeChanged { .. } => 'T',
            Self::Modified { content: true, .. } | Self::Table { .. } | Self::Database { .. } => {
                'M'
            }
            Self::Modified { content: false, .. } => 'U',
        }
    }

    /// What is to be said about it beside the path, if anything.
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::Added | Self::Removed => None,
            Self::TypeChanged { before, after } => {
                Some(format!("{} → {}", kind_word(*before), kind_word(*after)))
            }
            Self::Modified { metadata, .. } => (!metadata.is_empty()).then(|| metadata.join(", ")),
            Self::Table {
                rows_before,
                rows_after,
                columns,
            } => {
                let others = if *columns { ", other columns" } else { "" };
                Some(format!("{rows_before} → {rows_after} rows{others}"))
            }
            Self::Database { facts } => {
                let facts = facts.iter().map(|(name, a, b)| match a.is_empty() {
                    true => format!("{name} {b}"),
                    false => format!("{name}: {a} → {b}"),
                });
                Some(facts.collect::<Vec<_>>().join("; "))
            }
        }
    }
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Path in the tree of the newer side, of the older one where it was removed.
    pub path: Vec<u8>,
    /// What it is, or was.
    pub kind: NodeKind,
    /// What happened.
    pub change: Change,
    /// Size in bytes before and now, where it was and is.
    pub size: (Option<u64>, Option<u64>),
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiffSummary {
    /// Id of the older snapshot.
    pub before: String,
    /// Id of the newer snapshot.
    pub after: String,
    /// Files and directories that only the newer side has.
    pub added: u64,
    /// Files and directories that only the older side has.
    pub removed: u64,
    /// Files with another content; databases with other properties.
    pub modified: u64,
    /// Only their metadata differ.
    pub metadata: u64,
    /// Something else stands there now.
    pub type_changed: u64,
    /// Tables with other rows or columns.
    pub tables_changed: u64,
    /// Tables that were compared by rows and are equal.
    pub tables_equal: u64,
    /// Bytes of files that were added.
    pub bytes_added: u64,
    /// Bytes of files that were removed.
    pub bytes_removed: u64,
    /// Damage that was told; exit code 4 if it is not 0.
    pub damaged: u64,
}

impl DiffSummary {
    fn count(&mut self, difference: &Difference) {
        let bytes = |size: Option<u64>| match difference.kind {
            NodeKind::File => size.unwrap_or_default(),
            _ => 0,
        };
        match &difference.change {
            Change::Added => {
                self.added += 1;
                self.bytes_added += bytes(difference.size.1);
            }
            Change::Removed => {
                self.removed += 1;
                self.bytes_removed += bytes(difference.size.0);
            }
            Change::TypeChanged { .. } => self.type_changed += 1,
            Change::Modified { content: false, .. } => self.metadata += 1,
            Change::Modified { .. } | Change::Database { .. } => self.modified += 1,
            Change::Table { .. } => self.tables_changed += 1,
        }
    }
}

/// Two directories that are being merged.
struct Level {
    /// Paths of the older and the newer directory.
    paths: (Vec<u8>, Vec<u8>),
    sides: (Side, Side),
}

/// The nodes of a directory with the next one taken out.
struct Side {
    nodes: Nodes,
    next: Option<Node>,
}

impl Side {
    fn new(reader: &Arc<ChunkReader>, directory: &Node) -> Self {
        Self {
            nodes: Nodes::new(reader.clone(), &directory.content),
            next: None,
        }
    }

    fn fill(&mut self, path: &[u8], report: &mut Report<'_>) -> Result<bool> {
        if self.next.is_none() {
            match self.nodes.next().transpose() {
                Ok(node) => self.next = node,
                Err(error) => {
                    report.go_on_after(path, error)?;
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

struct Diff<'a, 'r> {
    readers: (Arc<ChunkReader>, Arc<ChunkReader>),
    levels: Vec<Level>,
    each: &'a mut dyn FnMut(&Difference) -> Result<()>,
    report: &'a mut Report<'r>,
    summary: DiffSummary,
}

/// Gives every difference to `each`, by path.
pub fn diff(
    repository: &Arc<Repository>,
    options: &DiffOptions,
    each: &mut dyn FnMut(&Difference) -> Result<()>,
    damage: OnDamage<'_>,
) -> Result<DiffSummary> {
    let mut report = Report::new(damage);
    let archive = Archive::open(repository, &mut report)?;
    let open = |place: &Place| -> Result<Opened> {
        archive.open_place(&Place {
            snapshot: place.snapshot.clone(),
            path: join_path(&clean_path(&place.path), &options.path),
        })
    };
    let (before, after) = (open(&options.before)?, open(&options.after)?);
    let mut diff = Diff {
        readers: (before.reader.clone(), after.reader.clone()),
        levels: Vec::new(),
        each,
        report: &mut report,
        summary: DiffSummary {
            before: id_text(&before.snapshot.id),
            after: id_text(&after.snapshot.id),
            ..DiffSummary::default()
        },
    };
    diff.both((before.path, after.path), &before.node, &after.node)?;
    while diff.step()? {}
    let mut summary = diff.summary;
    summary.damaged = report.damaged;
    Ok(summary)
}

impl Diff<'_, '_> {
    /// Compares the next names of the innermost directory; false at the end of all.
    fn step(&mut self) -> Result<bool> {
        let Some(level) = self.levels.last_mut() else {
            return Ok(false);
        };
        // What stands after damage on one side can't be told from what was removed or added.
        let readable = level.sides.0.fill(&level.paths.0, self.report)?
            && level.sides.1.fill(&level.paths.1, self.report)?;
        let order = match (&level.sides.0.next, &level.sides.1.next) {
            (None, None) => None,
            (Some(_), None) => Some(Ordering::Less),
            (None, Some(_)) => Some(Ordering::Greater),
            (Some(before), Some(after)) => Some(before.name.cmp(&after.name)),
        };
        let Some(order) = order.filter(|_| readable) else {
            self.levels.pop();
            return Ok(true);
        };
        let take = |side: &mut Side, path: &[u8]| {
            let node = side.next.take().expect("it was just looked at");
            (join_path(path, &node.name), node)
        };
        match order {
            Ordering::Less => {
                let (path, node) = take(&mut level.sides.0, &level.paths.0);
                self.one(&path, &node, Change::Removed)?;
            }
            Ordering::Greater => {
                let (path, node) = take(&mut level.sides.1, &level.paths.1);
                self.one(&path, &node, Change::Added)?;
            }
            Ordering::Equal => {
                let (path_before, before) = take(&mut level.sides.0, &level.paths.0);
                let (path_after, after) = take(&mut level.sides.1, &level.paths.1);
                self.both((path_before, path_after), &before, &after)?;
            }
        }
        Ok(true)
    }

    fn tell(&mut self, difference: &Difference) -> Result<()> {
        self.summary.count(difference);
        (self.each)(difference)
    }

    /// A node that one side has, and all below it.
    fn one(&mut self, path: &[u8], node: &Node, change: Change) -> Result<()> {
        let reader = match change {
            Change::Removed => self.readers.0.clone(),
            _ => self.readers.1.clone(),
        };
        let sizes = |node: &Node| match change {
            Change::Removed => (Some(node.size), None),
            _ => (None, Some(node.size)),
        };
        self.tell(&Difference {
            path: path.to_vec(),
            kind: node.kind,
            change: change.clone(),
            size: sizes(node),
        })?;
        if !node.is_directory() {
            return Ok(());
        }
        let mut walk = Walk::below(&reader, path, node);
        while let Some(Entry { path, node }) = walk.next(self.report)? {
            self.tell(&Difference {
                kind: node.kind,
                change: change.clone(),
                size: sizes(&node),
                path,
            })?;
        }
        Ok(())
    }

    /// A node that both sides have.
    fn both(&mut self, paths: (Vec<u8>, Vec<u8>), before: &Node, after: &Node) -> Result<()> {
        if before.kind != after.kind {
            let change = Change::TypeChanged {
                before: before.kind,
                after: after.kind,
            };
            self.tell(&difference(&paths.1, before, after, change))?;
            for (side, path, node) in [(false, &paths.0, before), (true, &paths.1, after)] {
                if node.is_directory() {
                    self.below(side, path, node)?;
                }
            }
            return Ok(());
        }
        if before.is_directory() && is_table(&paths.1) {
            return self.table(&paths, before, after);
        }
        let content = content_differs(before, after);
        let metadata = metadata_differences(before, after);
        if is_database_info(&paths.1) && content {
            return self.database(&paths.1, before, after);
        }
        if let Some(by_meaning) = compared_by_meaning(&paths.1).filter(|_| content) {
            return self.schema(&paths.1, before, after, by_meaning);
        }
        let told = content && !before.is_directory();
        if told || !metadata.is_empty() {
            let change = Change::Modified {
                content: told,
                metadata,
            };
            self.tell(&difference(&paths.1, before, after, change))?;
        }
        if before.is_directory() && content {
            let sides = (
                Side::new(&self.readers.0, before),
                Side::new(&self.readers.1, after),
            );
            self.levels.push(Level { paths, sides });
        }
        Ok(())
    }

    /// What is below a directory that only one side has.
    fn below(&mut self, newer: bool, path: &[u8], directory: &Node) -> Result<()> {
        let (reader, change) = match newer {
            true => (self.readers.1.clone(), Change::Added),
            false => (self.readers.0.clone(), Change::Removed),
        };
        for node in Nodes::new(reader, &directory.content) {
            match node {
                Ok(node) => self.one(&join_path(path, &node.name), &node, change.clone())?,
                Err(error) => self.report.go_on_after(path, error)?,
            }
        }
        Ok(())
    }

    fn table(&mut self, paths: &(Vec<u8>, Vec<u8>), before: &Node, after: &Node) -> Result<()> {
        if !content_differs(before, after) {
            return Ok(());
        }
        let old = self.rows(&self.readers.0.clone(), &paths.0, before)?;
        let new = self.rows(&self.readers.1.clone(), &paths.1, after)?;
        let (Some(old), Some(new)) = (old, new) else {
            return Ok(());
        };
        if old == new {
            self.summary.tables_equal += 1;
            return Ok(());
        }
        let change = Change::Table {
            rows_before: old.0.rows,
            rows_after: new.0.rows,
            columns: old.1 != new.1,
        };
        self.tell(&difference(&paths.1, before, after, change))
    }

    /// Rows and columns of a table; `None` if they can't be read.
    fn rows(
        &mut self,
        reader: &Arc<ChunkReader>,
        path: &[u8],
        table: &Node,
    ) -> Result<Option<(Rows, Vec<Vec<u8>>)>> {
        let mut sum = Rows::default();
        let mut columns = None;
        for part in Nodes::new(reader.clone(), &table.content) {
            let part = match part {
                Ok(part) => part,
                Err(error) => {
                    self.report.go_on_after(path, error)?;
                    return Ok(None);
                }
            };
            let Some(part) = part.table else { continue };
            sum.rows += part.rows;
            sum.digest = sum
                .digest
                .wrapping_add(u128::from_le_bytes(part.rows_digest));
            let names = part.columns.into_iter().map(Into::into);
            columns.get_or_insert_with(|| names.collect());
        }
        Ok(Some((sum, columns.unwrap_or_default())))
    }

    /// A dump whose bytes differ: told if its statements do.
    fn schema(
        &mut self,
        path: &[u8],
        before: &Node,
        after: &Node,
        compare: ByMeaning,
    ) -> Result<()> {
        let readers = self.readers.clone();
        let read = |reader: &Arc<ChunkReader>, node: &Node| {
            read_all(reader, &node.content, DATABASE_INFO_MAX)
        };
        let facts = match (read(&readers.0, before), read(&readers.1, after)) {
            (Ok(old), Ok(new)) => compare(&old, &new),
            (Err(error), _) | (_, Err(error)) => return self.report.go_on_after(path, error),
        };
        let change = match facts {
            Some(facts) if facts.is_empty() => return Ok(()),
            Some(facts) => Change::Database { facts },
            None => Change::Modified {
                content: true,
                metadata: metadata_differences(before, after),
            },
        };
        self.tell(&difference(path, before, after, change))
    }

    fn database(&mut self, path: &[u8], before: &Node, after: &Node) -> Result<()> {
        let readers = self.readers.clone();
        let read = |reader: &Arc<ChunkReader>, node: &Node| {
            let bytes = read_all(reader, &node.content, DATABASE_INFO_MAX)?;
            Ok(serde_json::from_slice::<DatabaseInfo>(&bytes).unwrap_or_default())
        };
        let facts = match (read(&readers.0, before), read(&readers.1, after)) {
            (Ok(old), Ok(new)) => database_facts(&old, &new),
            (Err(error), _) | (_, Err(error)) => return self.report.go_on_after(path, error),
        };
        // A snapshot's time and place in the WAL differ always.
        if facts.is_empty() {
            return Ok(());
        }
        self.tell(&difference(path, before, after, Change::Database { facts }))
    }
}

fn difference(path: &[u8], before: &Node, after: &Node, change: Change) -> Difference {
    Difference {
        path: path.to_vec(),
        kind: after.kind,
        change,
        size: (Some(before.size), Some(after.size)),
    }
}

/// Whether the path is that of a table: `databases/<name>/tables/<schema>/<table>`.
fn is_table(path: &[u8]) -> bool {
    let names: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
    matches!(names[..], [b"databases", _, b"tables", _, _])
}

/// How two dumps are compared: what differs, or `None` where only the bytes can tell.
type ByMeaning = fn(&[u8], &[u8]) -> Option<Facts>;

/// Dumps of which every one has other bytes.
fn compared_by_meaning(path: &[u8]) -> Option<ByMeaning> {
    let names: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
    match names[..] {
        [b"databases", _, b"schema.dump"] => Some(schema_facts),
        [b"clusters", _, b"globals.sql"] => Some(|old, new| same_globals(old, new).then(Vec::new)),
        _ => None,
    }
}

fn is_database_info(path: &[u8]) -> bool {
    let names: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
    matches!(names[..], [b"databases", _, b"database.json"])
}

/// Whether bytes, nodes below, or the target of a link differ. Contents are compared by their references, then by their digests.
fn content_differs(before: &Node, after: &Node) -> bool {
    if before.target != after.target || before.size != after.size {
        return true;
    }
    let stored_alike = before.content == after.content
        && before.holes == after.holes
        && before.holes_stream == after.holes_stream;
    let same_digest = before.digest.is_some() && before.digest == after.digest;
    !stored_alike && !same_digest
}

fn metadata_differences(before: &Node, after: &Node) -> Vec<&'static str> {
    let differ = [
        ("mode", before.mode != after.mode),
        (
            "owner",
            (before.uid, before.gid, &before.user, &before.group)
                != (after.uid, after.gid, &after.user, &after.group),
        ),
        ("mtime", before.modified != after.modified),
        (
            "xattrs",
            before.xattrs != after.xattrs || before.xattrs_stream != after.xattrs_stream,
        ),
        ("device", before.device != after.device),
    ];
    let named = differ.into_iter().filter(|(_, differs)| *differs);
    named.map(|(name, _)| name).collect()
}

/// What differs between two states of a database, but for what differs always, and for rows, which stand with their tables.
fn database_facts(old: &DatabaseInfo, new: &DatabaseInfo) -> Vec<(&'static str, String, String)> {
    let extensions = |info: &DatabaseInfo| {
        let mut all: Vec<String> = info
            .extensions
            .iter()
            .map(|(n, v)| format!("{n} {v}"))
            .collect();
        all.sort();
        all.join(", ")
    };
    let moved = |a: &DatabaseInfo, b: &DatabaseInfo| {
        let differ = |s: &&crate::format::database::SequenceState| !b.sequences.contains(s);
        let changed = a.sequences.iter().filter(differ);
        let shown: Vec<String> = changed
            .map(|s| {
                let next = if s.is_called { "after" } else { "at" };
                format!("{}.{} {next} {}", s.schema, s.name, s.last_value)
            })
            .collect();
        shown.join(", ")
    };
    let all = [
        ("name", old.name.clone(), new.name.clone()),
        (
            "server",
            old.server_version.clone(),
            new.server_version.clone(),
        ),
        (
            "pg_dump",
            old.pg_dump_version.clone(),
            new.pg_dump_version.clone(),
        ),
        ("encoding", old.encoding.clone(), new.encoding.clone()),
        ("collate", old.collate.clone(), new.collate.clone()),
        ("ctype", old.ctype.clone(), new.ctype.clone()),
        ("extensions", extensions(old), extensions(new)),
        ("sequences", moved(old, new), moved(new, old)),
        (
            "tables",
            old.tables.len().to_string(),
            new.tables.len().to_string(),
        ),
        (
            "large objects",
            old.large_objects.to_string(),
            new.large_objects.to_string(),
        ),
        (
            "not included",
            old.not_included.join(", "),
            new.not_included.join(", "),
        ),
    ];
    all.into_iter().filter(|(_, a, b)| a != b).collect()
}

/// A difference as JSON.
#[derive(Clone, Debug, Serialize)]
pub struct DifferenceInfo {
    /// Path in the tree; what is not UTF-8 is replaced.
    pub path: String,
    /// `added`, `removed`, `modified`, `metadata`, `type-changed`, `table`, `database`.
    pub change: &'static str,
    /// `file`, `dir`, …
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What is to be said about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Size before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_before: Option<u64>,
    /// Size now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_after: Option<u64>,
}

impl From<&Difference> for DifferenceInfo {
    fn from(difference: &Difference) -> Self {
        Self {
            path: String::from_utf8_lossy(&difference.path).into_owned(),
            change: difference.change.word(),
            kind: kind_word(difference.kind),
            detail: difference.change.detail(),
            size_before: difference.size.0,
            size_after: difference.size.1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::database::SequenceState;

    #[test]
    fn only_what_says_something_is_a_fact() {
        let old = DatabaseInfo {
            lsn: "0/1".into(),
            snapshot_time: "yesterday".into(),
            extensions: vec![("b".into(), "1".into()), ("a".into(), "2".into())],
            sequences: vec![SequenceState {
                schema: "public".into(),
                name: "s".into(),
                last_value: 1,
                is_called: false,
            }],
            ..DatabaseInfo::default()
        };
        let mut new = old.clone();
        new.lsn = "0/2".into();
        new.snapshot_time = "today".into();
        new.extensions.reverse();
        assert_eq!(database_facts(&old, &new), []);
        new.sequences[0].is_called = true;
        new.server_version = "17.2".into();
        let facts = database_facts(&old, &new);
        let expected = [
            ("server", "", "17.2"),
            ("sequences", "public.s at 1", "public.s after 1"),
        ];
        let expected = expected.map(|(name, a, b)| (name, a.to_owned(), b.to_owned()));
        assert_eq!(facts, expected);
        let change = Change::Table {
            rows_before: 2,
            rows_after: 3,
            columns: true,
        };
        assert_eq!(
            change.detail().as_deref(),
            Some("2 → 3 rows, other columns")
        );
    }

    #[test]
    fn tables_and_databases_are_known_by_their_paths() {
        assert!(is_table(b"databases/QSR/tables/public/a"));
        assert!(!is_table(b"databases/QSR/tables/public"));
        assert!(!is_table(b"databases/QSR/tables/public/a/000000"));
        assert!(is_database_info(b"databases/QSR/database.json"));
        assert!(!is_database_info(b"shares/QSR/database.json"));
    }
}
