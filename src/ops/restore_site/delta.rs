//! What differs between a database of the target and the archived one.
//!
//! Nothing is asked of the server: the snapshot of the target that is taken before every such restore knows its definitions, and of every table the
//! sum of its rows' digests, made with the same secret. So the comparison costs what that snapshot costs, and sees every row.

use crate::error::Result;
use crate::format::database::{DatabaseInfo, TableInfo};
use crate::ops::archive::SnapshotArchive;
use crate::ops::schema_diff::same_schema;
use crate::target::postgres::DatabaseArchive;

/// How to make a database equal to the archived one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    /// The rows of these tables differ, by their position in the archive; with none the positions of sequences.
    Rows(Vec<usize>),
    /// It is equal already.
    Nothing,
    /// More than rows differs; the reason in words.
    More(String),
}

/// Compares the target as it was archived a moment ago with what is to be restored.
pub(super) fn compare(archived: &SnapshotArchive, now: &SnapshotArchive) -> Result<Difference> {
    let (old, new) = (archived.description(), now.description());
    if let Some(why) = facts_differ(old, new) {
        return Ok(Difference::More(why));
    }
    let same = same_schema(
        &archived.schema_dump()?,
        &now.schema_dump()?,
        old.name == new.name,
    );
    if same != Some(true) {
        return Ok(Difference::More("its definitions differ".into()));
    }
    if archived.large_object_files()? != now.large_object_files()? {
        return Ok(Difference::More("its large objects differ".into()));
    }
    Ok(rows_differ(old, new))
}

fn facts_differ(old: &DatabaseInfo, new: &DatabaseInfo) -> Option<String> {
    let facts = |info: &DatabaseInfo| {
        (
            info.encoding.clone(),
            info.collate.clone(),
            info.ctype.clone(),
        )
    };
    if facts(old) != facts(new) {
        return Some("its encoding or locale differs".into());
    }
    let mut extensions = [old.extensions.clone(), new.extensions.clone()];
    extensions.iter_mut().for_each(|list| list.sort());
    (extensions[0] != extensions[1]).then(|| "its extensions differ".into())
}

fn rows_differ(old: &DatabaseInfo, new: &DatabaseInfo) -> Difference {
    let find = |table: &TableInfo| {
        new.tables
            .iter()
            .find(|now| (&now.schema, &now.name) == (&table.schema, &table.name))
    };
    if old.tables.len() != new.tables.len() {
        return Difference::More("it has other tables".into());
    }
    let mut differing = Vec::new();
    for (n, table) in old.tables.iter().enumerate() {
        let Some(now) = find(table) else {
            return Difference::More(format!("it has no table {}.{}", table.schema, table.name));
        };
        // Rows that were left out of the snapshot are not known; those of the target stay.
        let same = table.data_excluded
            || (!now.data_excluded
                && (table.rows, &table.rows_digest) == (now.rows, &now.rows_digest)
                && table.rows_digest.len() == 32);
        if !same {
            differing.push(n);
        }
    }
    let sequences = |info: &DatabaseInfo| {
        let mut all: Vec<_> = info
            .sequences
            .iter()
            .map(|s| (s.schema.clone(), s.name.clone(), s.last_value, s.is_called))
            .collect();
        all.sort();
        all
    };
    match differing.is_empty() && sequences(old) == sequences(new) {
        true => Difference::Nothing,
        false => Difference::Rows(differing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::database::SequenceState;

    #[test]
    fn tables_are_compared_by_their_digests() {
        let table = |name: &str, digest: char| TableInfo {
            schema: "public".into(),
            name: name.into(),
            rows: 2,
            rows_digest: digest.to_string().repeat(32),
            ..TableInfo::default()
        };
        let info = |digests: &[char]| DatabaseInfo {
            tables: ["a", "b"]
                .iter()
                .zip(digests)
                .map(|(name, digest)| table(name, *digest))
                .collect(),
            sequences: vec![SequenceState {
                name: "s".into(),
                last_value: 7,
                ..SequenceState::default()
            }],
            ..DatabaseInfo::default()
        };
        let (old, mut new) = (info(&['1', '2']), info(&['1', '2']));
        assert_eq!(rows_differ(&old, &new), Difference::Nothing);
        new.sequences[0].last_value = 8;
        assert_eq!(rows_differ(&old, &new), Difference::Rows(vec![]));
        let new = info(&['1', '3']);
        assert_eq!(rows_differ(&old, &new), Difference::Rows(vec![1]));
        let mut excluded = old.clone();
        excluded.tables[1].data_excluded = true;
        assert_eq!(rows_differ(&excluded, &new), Difference::Nothing);
        assert_eq!(rows_differ(&old, &excluded), Difference::Rows(vec![1]));
        let fewer = info(&['1']);
        assert!(matches!(rows_differ(&old, &fewer), Difference::More(_)));
        let mut other = old.clone();
        other.extensions.push(("hstore".into(), "1.8".into()));
        assert!(facts_differ(&old, &other).is_some() && facts_differ(&old, &old).is_none());
    }
}
