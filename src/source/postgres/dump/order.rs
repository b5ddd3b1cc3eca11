//! Configuration tables of extensions in an order in which they can be loaded.
//!
//! `CREATE EXTENSION` brings their foreign keys with it, so that these are there before the rows, unlike all others. The order is recorded by that of the
//! tables in `database.json`; scripts and archives for `pg_restore` load in it.
//!
//! Invariant: a table stands behind those that it references; where these reference each other, the order stays (`referenced_tables_come_first`).

use std::collections::BTreeMap;

use super::catalog::{EXTENSION_MEMBERS, Table, number, rows};
use super::error::DumpError;
use crate::source::postgres::PgSession;

/// Puts referenced configuration tables before those that reference them; all others stay where they are.
pub(super) fn referenced_first(
    session: &mut PgSession,
    tables: &mut [Table],
) -> Result<(), DumpError> {
    let query = format!(
        "WITH {EXTENSION_MEMBERS} SELECT DISTINCT f.conrelid, f.confrelid FROM pg_catalog.pg_constraint f \
         JOIN cfg a ON a.relid = f.conrelid JOIN cfg b ON b.relid = f.confrelid WHERE f.contype = 'f' ORDER BY 1, 2"
    );
    let mut references: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for row in rows(session, &query)? {
        references
            .entry(number(&row, 0))
            .or_default()
            .push(number(&row, 1));
    }
    if !references.is_empty() {
        sort(tables, &references, |table| table.oid);
    }
    Ok(())
}

fn sort<T: Clone>(tables: &mut [T], references: &BTreeMap<u32, Vec<u32>>, oid: impl Fn(&T) -> u32) {
    let is_about = |table: &T| {
        let oid = oid(table);
        references.contains_key(&oid) || references.values().any(|all| all.contains(&oid))
    };
    let places: Vec<usize> = (0..tables.len())
        .filter(|n| is_about(&tables[*n]))
        .collect();
    let mut waiting: Vec<T> = places.iter().map(|n| tables[*n].clone()).collect();
    for place in places {
        let left: Vec<u32> = waiting.iter().map(&oid).collect();
        let free = left.iter().position(|table| {
            let referenced = references.get(table).into_iter().flatten();
            referenced
                .clone()
                .all(|other| other == table || !left.contains(other))
        });
        // A circle is opened at its first table.
        tables[place] = waiting.remove(free.unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn referenced_tables_come_first() {
        let check = |pairs: &[(u32, u32)], tables: &[u32], expected: &[u32]| {
            let mut references: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
            for (from, to) in pairs {
                references.entry(*from).or_default().push(*to);
            }
            let mut sorted = tables.to_vec();
            sort(&mut sorted, &references, |oid| *oid);
            assert_eq!(sorted, expected, "{pairs:?}");
        };
        check(&[], &[3, 1, 2], &[3, 1, 2]);
        check(&[(1, 4)], &[1, 2, 3, 4], &[4, 2, 3, 1]);
        check(&[(1, 2), (2, 3)], &[1, 2, 3], &[3, 2, 1]);
        check(&[(1, 1), (1, 2)], &[1, 2], &[2, 1]);
        check(&[(1, 2), (2, 1)], &[9, 1, 2], &[9, 1, 2]);
        check(&[(1, 7)], &[1, 2], &[1, 2]);
    }
}
