//! What differs between two archived schemas, by their meaning: `schema.dump` and `globals.sql` hold the time of the dump, numbers of objects and a random
//! token, so their bytes differ every night.
//!
//! Invariant: two dumps of the same objects are equal, whatever their numbers and times (`numbers_and_times_are_no_difference`).

use std::collections::BTreeMap;

use crate::target::postgres::toc::{Entry, Toc};

/// Objects that are named; more are counted.
const NAMED: usize = 20;

/// What happened, and to which objects.
pub(super) type Facts = Vec<(&'static str, String, String)>;

/// Objects that were added, removed and changed; `None` if one of them is no archive that we can read.
pub(super) fn schema_facts(old: &[u8], new: &[u8]) -> Option<Facts> {
    let (old, new) = (Toc::parse(old).ok()?, Toc::parse(new).ok()?);
    let (old, new) = (objects(&old), objects(&new));
    let only = |one: &Objects, other: &Objects| -> Vec<String> {
        let labels = one.keys().filter(|label| !other.contains_key(*label));
        labels.cloned().collect()
    };
    let changed: Vec<String> = old
        .iter()
        .filter(|(label, object)| new.get(*label).is_some_and(|now| now != *object))
        .map(|(label, _)| label.clone())
        .collect();
    let lists = [
        ("added", only(&new, &old)),
        ("removed", only(&old, &new)),
        ("changed", changed),
    ];
    let told = lists.into_iter().filter(|(_, labels)| !labels.is_empty());
    Some(
        told.map(|(what, labels)| (what, String::new(), listed(&labels)))
            .collect(),
    )
}

/// Whether two archives define the same. Where the databases have different names, what says something about the database itself is not compared.
/// `None` if one of them is no archive that we can read.
pub(super) fn same_schema(one: &[u8], other: &[u8], same_name: bool) -> Option<bool> {
    let of_database = |entry: &Entry| {
        entry.kind().starts_with(b"DATABASE")
            || entry
                .tag
                .as_deref()
                .is_some_and(|tag| tag.starts_with(b"DATABASE "))
    };
    let read = |bytes: &[u8]| {
        let mut toc = Toc::parse(bytes).ok()?;
        toc.entries.retain(|entry| same_name || !of_database(entry));
        Some(objects(&toc))
    };
    Some(read(one)? == read(other)?)
}

/// Whether two scripts of `pg_dumpall` have the same statements.
pub(super) fn same_globals(old: &[u8], new: &[u8]) -> bool {
    let statements = |script: &'_ [u8]| -> Vec<Vec<u8>> {
        script
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.trim_ascii().is_empty() && !line.starts_with(b"--"))
            .filter(|line| !line.starts_with(b"\\restrict") && !line.starts_with(b"\\unrestrict"))
            .map(<[u8]>::to_vec)
            .collect()
    };
    statements(old) == statements(new)
}

/// By label what makes an object; several of one label together.
type Objects = BTreeMap<String, Vec<Vec<u8>>>;

fn objects(toc: &Toc) -> Objects {
    let mut objects = Objects::new();
    for entry in &toc.entries {
        objects
            .entry(entry.label())
            .or_default()
            .push(meaning(entry));
    }
    objects
}

/// Everything of an entry but its numbers.
fn meaning(entry: &Entry) -> Vec<u8> {
    let parts = [
        &entry.definition,
        &entry.owner,
        &entry.tablespace,
        &entry.table_am,
    ];
    let parts = parts.map(|part| part.as_deref().unwrap_or_default());
    parts.join(&0)
}

fn listed(labels: &[String]) -> String {
    let shown = labels
        .iter()
        .take(NAMED)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    match labels.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: &[u8] = include_bytes!("../target/postgres/testdata/tiny-1.14.dump");

    #[test]
    fn numbers_and_times_are_no_difference() {
        let mut toc = Toc::parse(TINY).unwrap();
        toc.header.created[0] += 1;
        for entry in &mut toc.entries {
            entry.id += 7;
            entry.oid = Some(b"99".to_vec());
        }
        let again = toc.write_directory().unwrap();
        assert_eq!(schema_facts(TINY, &again), Some(Vec::new()));
        let table = toc
            .entries
            .iter()
            .position(|e| e.kind() == b"TABLE")
            .unwrap();
        let label = toc.entries[table].label();
        toc.entries[table].definition = Some(b"CREATE TABLE other ();".to_vec());
        let changed = toc.write_directory().unwrap();
        let facts = vec![("changed", String::new(), label.clone())];
        assert_eq!(schema_facts(TINY, &changed), Some(facts));
        toc.entries.remove(table);
        let removed = toc.write_directory().unwrap();
        let facts = |what| vec![(what, String::new(), label.clone())];
        assert_eq!(schema_facts(TINY, &removed), Some(facts("removed")));
        assert_eq!(schema_facts(&removed, TINY), Some(facts("added")));
        assert_eq!(schema_facts(TINY, b"PGD"), None);
    }

    #[test]
    fn comments_and_tokens_of_globals_are_no_difference() {
        let one = b"--\n-- Started on 1\n\\restrict abc\nCREATE ROLE a;\n\\unrestrict abc\n";
        let two = b"--\n-- Started on 2\n\\restrict xyz\n\nCREATE ROLE a;\n\\unrestrict xyz\n";
        assert!(same_globals(one, two));
        assert!(!same_globals(one, b"CREATE ROLE b;\n"));
    }
}
