//! Whether what came back is what was backed up, found out without holdfast's own records: two trees and two clusters side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::source::postgres::PgSession;

/// What a comparison of two trees came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TreeComparison {
    /// Names that were looked at.
    pub(super) entries: u64,
    /// Bytes that are equal.
    pub(super) bytes: u64,
    /// What differs, in words.
    pub(super) differences: Vec<String>,
}

/// Compares two trees: names, kinds, bytes, owners, permissions, times, links.
pub(super) fn trees(left: &Path, right: &Path) -> Result<TreeComparison> {
    let mut comparison = TreeComparison::default();
    directory(left, right, &mut comparison)
        .map_err(|error| Error::local(format!("cannot compare {}", left.display()), error))?;
    Ok(comparison)
}

fn directory(left: &Path, right: &Path, comparison: &mut TreeComparison) -> io::Result<()> {
    let mut names = entries(left)?;
    names.extend(entries(right)?);
    for name in names {
        let (left, right) = (left.join(&name), right.join(&name));
        comparison.entries += 1;
        let (Ok(a), Ok(b)) = (fs::symlink_metadata(&left), fs::symlink_metadata(&right)) else {
            comparison
                .differences
                .push(format!("{} is on one side only", left.display()));
            continue;
        };
        for (what, equal) in metadata(&a, &b) {
            if !equal {
                comparison
                    .differences
                    .push(format!("{}: {what} differs", left.display()));
            }
        }
        if a.file_type() != b.file_type() {
            continue;
        }
        let equal = if a.is_dir() {
            directory(&left, &right, comparison)?;
            true
        } else if a.is_symlink() {
            fs::read_link(&left)? == fs::read_link(&right)?
        } else if a.is_file() {
            comparison.bytes += a.len();
            same_bytes(&left, &right)?
        } else {
            a.rdev() == b.rdev()
        };
        if !equal {
            comparison
                .differences
                .push(format!("{}: its content differs", left.display()));
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> io::Result<BTreeSet<OsString>> {
    fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name()))
        .collect()
}

fn metadata(a: &Metadata, b: &Metadata) -> [(&'static str, bool); 6] {
    [
        ("kind", a.file_type() == b.file_type()),
        ("permissions", a.mode() & 0o7777 == b.mode() & 0o7777),
        ("owner", (a.uid(), a.gid()) == (b.uid(), b.gid())),
        ("size", a.is_dir() || a.len() == b.len()),
        ("number of names", a.is_dir() || a.nlink() == b.nlink()),
        (
            "time of change",
            (a.mtime(), a.mtime_nsec()) == (b.mtime(), b.mtime_nsec()),
        ),
    ]
}

fn same_bytes(left: &Path, right: &Path) -> io::Result<bool> {
    let (mut left, mut right) = (File::open(left)?, File::open(right)?);
    let (mut a, mut b) = (vec![0; 128 << 10], vec![0; 128 << 10]);
    loop {
        let n = left.read(&mut a)?;
        if n == 0 {
            return Ok(right.read(&mut b)? == 0);
        }
        match right.read_exact(&mut b[..n]) {
            Ok(()) if a[..n] == b[..n] => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

/// What a database holds: for each table the number of rows and a digest of them in any order; sequences, large objects, definitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DatabaseContent {
    /// Rows of all tables.
    pub(super) rows: u64,
    /// Tables.
    pub(super) tables: u64,
    /// Everything by name.
    pub(super) parts: BTreeMap<String, String>,
}

impl DatabaseContent {
    /// What differs, in words.
    pub(super) fn differences(&self, other: &Self) -> Vec<String> {
        let names: BTreeSet<&String> = self.parts.keys().chain(other.parts.keys()).collect();
        names
            .into_iter()
            .filter(|name| self.parts.get(*name) != other.parts.get(*name))
            .map(|name| format!("{name} differs"))
            .collect()
    }
}

/// Each query gives name and value of what must be equal.
const CATALOGS: [(&str, &str); 5] = [
    (
        "sequence",
        "SELECT schemaname || '.' || sequencename, coalesce(last_value::text, 'unused') FROM pg_sequences",
    ),
    (
        "large object",
        "SELECT oid::text, md5(lo_get(oid)) || pg_get_userbyid(lomowner) FROM pg_largeobject_metadata",
    ),
    (
        "definition of",
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname NOT IN ('pg_catalog', 'information_schema')",
    ),
    (
        "constraint",
        "SELECT conrelid::regclass || '.' || conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid <> 0",
    ),
    (
        "owner and rights of",
        "SELECT oid::regclass::text, pg_get_userbyid(relowner) || coalesce(relacl::text, '') FROM pg_class
         WHERE relnamespace = 'public'::regnamespace",
    ),
];

/// Reads what a database holds.
pub(super) fn database(session: &mut PgSession) -> Result<DatabaseContent> {
    let failed = |error: crate::source::postgres::PgError| Error::Message(error.to_string());
    let mut content = DatabaseContent::default();
    let tables = session
        .simple_column(
            "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables
             WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1",
        )
        .map_err(failed)?;
    for table in tables.into_iter().flatten() {
        let sql = format!(
            "SELECT count(*), sum(('x' || substr(md5(t::text), 1, 15))::bit(60)::bigint::numeric)::text FROM ONLY {table} t"
        );
        let row = session.query_one(&sql, &[]).map_err(failed)?;
        let (rows, digest): (i64, Option<String>) = (row.get(0), row.get(1));
        content.tables += 1;
        content.rows += u64::try_from(rows).unwrap_or(0);
        content.parts.insert(
            format!("table {table}"),
            format!("{rows} rows, {}", digest.unwrap_or_default()),
        );
    }
    for (what, sql) in CATALOGS {
        for row in session.query(sql, &[]).map_err(failed)? {
            let (name, value): (String, String) = (row.get(0), row.get(1));
            content.parts.insert(format!("{what} {name}"), value);
        }
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_of_trees_is_found() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for root in [a.path(), b.path()] {
            fs::create_dir(root.join("d")).unwrap();
            for name in ["same", "content", "d/mode", "gone"] {
                fs::write(root.join(name), "0123456789").unwrap();
            }
            std::os::unix::fs::symlink("same", root.join("link")).unwrap();
        }
        fs::write(b.path().join("content"), "0123456780").unwrap();
        fs::remove_file(b.path().join("gone")).unwrap();
        let mut permissions = fs::metadata(b.path().join("d/mode")).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o640);
        fs::set_permissions(b.path().join("d/mode"), permissions).unwrap();
        fs::remove_file(b.path().join("link")).unwrap();
        std::os::unix::fs::symlink("other", b.path().join("link")).unwrap();
        let found = trees(a.path(), b.path()).unwrap();
        let about = |name: &str, what: &str| {
            let all = &found.differences;
            assert!(
                all.iter().any(|d| d.contains(name) && d.contains(what)),
                "{name} {what}: {all:?}"
            );
        };
        about("content", "content differs");
        about("gone", "one side only");
        about("d/mode", "permissions");
        about("link", "content differs");
        assert_eq!(found.entries, 6);
    }
}
