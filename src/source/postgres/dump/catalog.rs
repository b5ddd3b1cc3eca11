//! What a database holds, as of a snapshot: the choice of `pg_dump`, asked of the catalog.
//!
//! All queries run in the transaction of the snapshot by the simple protocol, which a pooler understands too,
//! and give text. Versions from 9.3 on differ in columns of the catalog, never in the answer's form.
//!
//! | since | what is asked |
//! |---|---|
//! | 9.5 | `pg_identify_object_as_address` (in [`super::parts`]) |
//! | 9.6 | `pg_control_system()` |
//! | 10 | partitions, `pg_current_wal_lsn` |
//! | 11 | hash partitions |
//! | 12 | generated columns, table access methods, non-deterministic collations |
//! | 13 | `pg_current_snapshot` |
//! | 14 | scans of a range of tids |

use std::collections::BTreeSet;

use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use super::error::DumpError;
use super::{names, order, pattern};
use crate::format::database::SequenceState;
use crate::format::large_object::RANGE_OIDS;
use crate::source::postgres::rights::{self, Gap, SEQUENCE_IS_READABLE};
use crate::source::postgres::{PgError, PgSession};

/// SQLSTATE of bytes that are no text of the client's encoding, as it stands in the words of the server.
const NOT_IN_THIS_ENCODING: &str = "(22021)";
/// Sequences that are read by one statement.
const SEQUENCES_PER_STATEMENT: usize = 100;

/// Types whose binary form holds no number of a catalog and has not changed with the versions.
const BINARY_TYPES: &str = "'bool', 'bytea', 'int8', 'int2', 'int4', 'text', 'json', 'jsonb', 'xml', 'point', 'lseg', 'path', 'box', 'polygon', \
    'line', 'float4', 'float8', 'circle', 'money', 'macaddr', 'macaddr8', 'inet', 'cidr', 'bpchar', 'varchar', 'date', 'time', 'timestamp', \
    'timestamptz', 'interval', 'timetz', 'bit', 'varbit', 'numeric', 'uuid', 'name'";

/// One table whose rows are taken, or whose rows were excluded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) oid: u32,
    pub(super) schema: String,
    pub(super) name: String,
    /// As of the snapshot: another one now means that the table was rewritten.
    pub(super) filenode: u32,
    pub(super) bytes: u64,
    pub(super) blocks: u64,
    /// Whether ranges of blocks can be read apart.
    pub(super) ranges: bool,
    pub(super) columns: Vec<String>,
    pub(super) filter: Option<String>,
    pub(super) load_via: Option<(String, String)>,
    pub(super) data_excluded: bool,
    /// Whether all its columns are of types whose binary form is read back as it was, by any server.
    pub(super) binary: bool,
}

/// A database as the catalog describes it.
#[derive(Clone, Debug, Default)]
pub(super) struct Catalog {
    pub(super) encoding: String,
    pub(super) collate: String,
    pub(super) ctype: String,
    pub(super) extensions: Vec<(String, String)>,
    pub(super) tables: Vec<Table>,
    pub(super) sequences: Vec<SequenceState>,
    /// Oids of the values of enums.
    pub(super) enum_values: BTreeSet<u32>,
    /// First oids of the ranges that have large objects, with their number.
    pub(super) large_object_ranges: Vec<(u32, u64)>,
    /// What is not in the archive, and why.
    pub(super) not_included: Vec<String>,
    /// What this role cannot see, so that it is missing although nothing failed.
    pub(super) hidden: Vec<Gap>,
}

/// What to leave out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exclusions<'a> {
    pub(super) table_data: &'a [String],
    pub(super) schemas: &'a [String],
    pub(super) unlogged: bool,
}

/// Writes what is wanted of a database as conditions for [`rights::closed`]: on schemas, and on tables without rows.
#[must_use]
pub fn conditions(exclude_schema: &[String], exclude_table_data: &[String]) -> (String, String) {
    let schemas = schema_condition(Exclusions {
        table_data: &[],
        schemas: exclude_schema,
        unlogged: false,
    });
    (schemas, excluded_condition(exclude_table_data))
}

/// Writes an identifier.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Writes a string literal; sessions have `standard_conforming_strings` on.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Runs a query and returns its rows.
pub(super) fn rows(session: &mut PgSession, sql: &str) -> Result<Vec<SimpleQueryRow>, PgError> {
    let messages = session.simple_query(sql)?;
    Ok(messages
        .into_iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        })
        .collect())
}

pub(super) fn text(row: &SimpleQueryRow, column: usize) -> String {
    row.get(column).unwrap_or_default().to_owned()
}

/// Reads a number that the server wrote.
pub(super) fn number<T: std::str::FromStr + Default>(row: &SimpleQueryRow, column: usize) -> T {
    row.get(column)
        .and_then(|text| text.parse().ok())
        .unwrap_or_default()
}

/// Reads everything that is known before rows are copied.
pub(super) fn read(
    session: &mut PgSession,
    exclusions: Exclusions<'_>,
) -> Result<Catalog, DumpError> {
    match read_all(session, exclusions) {
        Err(DumpError::Failed(words)) if words.contains(NOT_IN_THIS_ENCODING) => {
            Err(DumpError::Failed(names::explain(session, &words)))
        }
        other => other,
    }
}

/// Lists the tables that are to be locked.
pub(super) fn table_names(
    session: &mut PgSession,
    exclusions: Exclusions<'_>,
) -> Result<Vec<Table>, DumpError> {
    read_tables(session, exclusions, Sizes::Unasked, &mut Vec::new())
}

/// Whether the sizes of tables are asked for, which waits for each table that others lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sizes {
    Asked,
    Unasked,
}

fn read_all(session: &mut PgSession, exclusions: Exclusions<'_>) -> Result<Catalog, DumpError> {
    let mut catalog = Catalog::default();
    read_database(session, &mut catalog)?;
    catalog.tables = read_tables(session, exclusions, Sizes::Asked, &mut catalog.not_included)?;
    read_sequences(session, exclusions, &mut catalog)?;
    let sql = format!(
        "SELECT (oid::bigint / {RANGE_OIDS}) * {RANGE_OIDS}, count(*) FROM pg_catalog.pg_largeobject_metadata GROUP BY 1 ORDER BY 1"
    );
    catalog.large_object_ranges = rows(session, &sql)?
        .iter()
        .map(|row| (number(row, 0), number(row, 1)))
        .collect();
    let values = rows(session, "SELECT oid FROM pg_catalog.pg_enum")?;
    catalog.enum_values = values.iter().map(|row| number(row, 0)).collect();
    for schema in exclusions.schemas {
        catalog
            .not_included
            .push(format!("schemas that match \"{schema}\" (exclude-schema)"));
    }
    catalog.hidden.extend(rights::hidden(session)?);
    for gap in &catalog.hidden {
        catalog.not_included.push(format!(
            "{} (this role may not see them; {})",
            gap.summary(),
            gap.remedy
        ));
    }
    Ok(catalog)
}

/// Reads the encoding of the database.
pub(super) fn encoding(session: &mut PgSession) -> Result<String, PgError> {
    let found = rows(session, "SELECT pg_catalog.getdatabaseencoding()")?;
    Ok(found.first().map(|row| text(row, 0)).unwrap_or_default())
}

fn read_database(session: &mut PgSession, catalog: &mut Catalog) -> Result<(), DumpError> {
    let found = rows(
        session,
        "SELECT pg_catalog.pg_encoding_to_char(encoding), datcollate, datctype \
         FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()",
    )?;
    if let Some(row) = found.first() {
        catalog.encoding = text(row, 0);
        catalog.collate = text(row, 1);
        catalog.ctype = text(row, 2);
    }
    let extensions = rows(
        session,
        "SELECT extname, extversion FROM pg_catalog.pg_extension ORDER BY 1",
    )?;
    catalog.extensions = extensions
        .iter()
        .map(|row| (text(row, 0), text(row, 1)))
        .collect();
    Ok(())
}

/// Writes the condition for schemas that are dumped.
fn schema_condition(exclusions: Exclusions<'_>) -> String {
    let mut sql = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'".to_owned();
    for schema in exclusions.schemas {
        sql.push_str(&format!(
            " AND n.nspname !~ {}",
            literal(&pattern::schema(schema))
        ));
    }
    sql
}

/// Writes the condition for tables whose rows are left out.
fn excluded_condition(patterns: &[String]) -> String {
    let mut sql = "false".to_owned();
    for excluded in patterns {
        let excluded = pattern::table(excluded);
        let schema = match &excluded.schema {
            Some(schema) => format!("n.nspname ~ {} AND ", literal(schema)),
            None => String::new(),
        };
        sql.push_str(&format!(
            " OR ({schema}c.relname ~ {})",
            literal(&excluded.name)
        ));
    }
    sql
}

/// Relations of extensions, and which of them are configuration with which condition.
pub(super) const EXTENSION_MEMBERS: &str = "\
ext AS (SELECT d.objid AS relid FROM pg_catalog.pg_depend d \
  WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass \
  AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'), \
cfg AS (SELECT pg_catalog.unnest(e.extconfig) AS relid, pg_catalog.unnest(e.extcondition) AS cond FROM pg_catalog.pg_extension e)";

/// Partitioned tables whose leaves may hold other rows after a restore, so that rows must go in through them:
/// hash keys whose hash is not portable, which are enums (by oid) and texts with a non-deterministic collation
/// (by the version of ICU).
fn unsafe_partitions(version_num: u32) -> String {
    if version_num < 110_000 {
        return "bad AS (SELECT 0::pg_catalog.oid AS relid WHERE false), up AS (SELECT 0::pg_catalog.oid AS leaf, 0::pg_catalog.oid AS anc, 0 AS lvl WHERE false)".to_owned();
    }
    let collations = if version_num >= 120_000 {
        " OR (p.partstrat = 'h' AND EXISTS (SELECT 1 FROM pg_catalog.unnest(p.partcollation) AS k(oid) \
         JOIN pg_catalog.pg_collation l ON l.oid = k.oid WHERE NOT l.collisdeterministic))"
    } else {
        ""
    };
    format!(
        "bad AS (SELECT p.partrelid AS relid FROM pg_catalog.pg_partitioned_table p WHERE (SELECT o.oid FROM pg_catalog.pg_opclass o \
         JOIN pg_catalog.pg_am m ON o.opcmethod = m.oid WHERE o.opcname = 'enum_ops' \
         AND o.opcnamespace = 'pg_catalog'::pg_catalog.regnamespace AND m.amname = 'hash') = ANY (p.partclass){collations}), \
         up AS (SELECT i.inhrelid AS leaf, i.inhparent AS anc, 1 AS lvl FROM pg_catalog.pg_inherits i \
         JOIN pg_catalog.pg_class l ON l.oid = i.inhrelid AND l.relispartition \
         UNION ALL SELECT u.leaf, i.inhparent, u.lvl + 1 FROM up u JOIN pg_catalog.pg_inherits i ON i.inhrelid = u.anc \
         JOIN pg_catalog.pg_class l ON l.oid = i.inhrelid AND l.relispartition)"
    )
}

fn tables_query(version_num: u32, exclusions: Exclusions<'_>, sizes: Sizes) -> String {
    let size = match sizes {
        Sizes::Asked => "coalesce(pg_catalog.pg_relation_size(c.oid), 0)",
        Sizes::Unasked => "0::bigint",
    };
    // What is kept beside the rows is read with them.
    let bytes = match sizes {
        Sizes::Asked => format!(
            "{size} + CASE WHEN c.reltoastrelid = 0 THEN 0 ELSE coalesce(pg_catalog.pg_relation_size(c.reltoastrelid), 0) END"
        ),
        Sizes::Unasked => size.to_owned(),
    };
    let generated = if version_num >= 120_000 {
        " AND a.attgenerated = ''"
    } else {
        ""
    };
    let (method, method_join) = if version_num >= 120_000 {
        (
            "m.amname",
            "LEFT JOIN pg_catalog.pg_am m ON m.oid = c.relam",
        )
    } else {
        ("'heap'", "")
    };
    format!(
        "WITH RECURSIVE {EXTENSION_MEMBERS}, {unsafe_partitions} \
         SELECT c.oid, n.nspname, c.relname, c.relfilenode, {bytes}, {size} / pg_catalog.current_setting('block_size')::bigint, \
         c.relpersistence, {method}, cfg.cond, \
         (SELECT pg_catalog.array_to_json(pg_catalog.array_agg(a.attname::text ORDER BY a.attnum)) FROM pg_catalog.pg_attribute a \
          WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped{generated}), \
         vn.nspname, v.relname, ({excluded}), \
         NOT EXISTS (SELECT 1 FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type y ON y.oid = a.atttypid LEFT JOIN pg_catalog.pg_type e ON e.oid = y.typelem AND y.typlen = -1 \
          WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND (y.typnamespace <> (SELECT n.oid FROM pg_catalog.pg_namespace n WHERE n.nspname = 'pg_catalog') \
          OR coalesce(e.typname, y.typname) NOT IN ({BINARY_TYPES}))) \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace {method_join} \
         LEFT JOIN cfg ON cfg.relid = c.oid \
         LEFT JOIN pg_catalog.pg_class v ON v.oid = (SELECT u.anc FROM up u JOIN bad ON bad.relid = u.anc WHERE u.leaf = c.oid ORDER BY u.lvl DESC LIMIT 1) \
         LEFT JOIN pg_catalog.pg_namespace vn ON vn.oid = v.relnamespace \
         WHERE c.relkind = 'r' AND {schemas} AND c.relpersistence IN ('p', 'u') \
         AND (cfg.relid IS NOT NULL OR NOT EXISTS (SELECT 1 FROM ext WHERE ext.relid = c.oid)) ORDER BY 2, 3",
        unsafe_partitions = unsafe_partitions(version_num),
        excluded = excluded_condition(exclusions.table_data),
        schemas = schema_condition(exclusions),
    )
}

fn read_tables(
    session: &mut PgSession,
    exclusions: Exclusions<'_>,
    sizes: Sizes,
    not_included: &mut Vec<String>,
) -> Result<Vec<Table>, DumpError> {
    let version_num = session.version_num();
    let standby = session.facts().in_recovery;
    let mut tables = Vec::new();
    for row in rows(session, &tables_query(version_num, exclusions, sizes))? {
        let (schema, name) = (text(&row, 1), text(&row, 2));
        if standby && row.get(6) == Some("u") {
            not_included.push(format!(
                "rows of unlogged table {schema}.{name} (a standby does not have them)"
            ));
            continue;
        }
        let unlogged = exclusions.unlogged && row.get(6) == Some("u");
        let data_excluded = unlogged || row.get(12) == Some("t");
        if data_excluded {
            let why = match unlogged {
                true => "unlogged = \"schema\"",
                false => "exclude-table-data",
            };
            not_included.push(format!("rows of table {schema}.{name} ({why})"));
        }
        let columns = match row.get(9) {
            Some(json) => serde_json::from_str(json).map_err(|error| {
                DumpError::Failed(format!(
                    "columns of {schema}.{name} cannot be read: {error}"
                ))
            })?,
            None => Vec::new(),
        };
        tables.push(Table {
            oid: number(&row, 0),
            filenode: number(&row, 3),
            bytes: number(&row, 4),
            blocks: number(&row, 5),
            ranges: version_num >= 140_000 && row.get(7) == Some("heap") && row.get(8).is_none(),
            columns,
            filter: row
                .get(8)
                .filter(|filter| !filter.is_empty())
                .map(str::to_owned),
            load_via: row
                .get(10)
                .zip(row.get(11))
                .map(|(schema, name)| (schema.to_owned(), name.to_owned())),
            binary: row.get(13) == Some("t"),
            schema,
            name,
            data_excluded,
        });
    }
    order::referenced_first(session, &mut tables)?;
    Ok(tables)
}

/// Reads the state of all sequences that the role may read. They are not subject to snapshots: what is read is at least as far as
/// any row of the snapshot knows.
fn read_sequences(
    session: &mut PgSession,
    exclusions: Exclusions<'_>,
    catalog: &mut Catalog,
) -> Result<(), DumpError> {
    let schemas = schema_condition(exclusions);
    let sql = format!(
        "WITH {EXTENSION_MEMBERS} SELECT n.nspname, c.relname, c.relpersistence, {SEQUENCE_IS_READABLE} FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace LEFT JOIN cfg ON cfg.relid = c.oid \
         WHERE c.relkind = 'S' AND {schemas} AND c.relpersistence IN ('p', 'u') \
         AND (cfg.relid IS NOT NULL OR NOT EXISTS (SELECT 1 FROM ext WHERE ext.relid = c.oid)) ORDER BY 1, 2"
    );
    let standby = session.facts().in_recovery;
    let mut names: Vec<(String, String)> = Vec::new();
    let mut closed = false;
    for row in rows(session, &sql)? {
        let (schema, name) = (text(&row, 0), text(&row, 1));
        if standby && row.get(2) == Some("u") {
            catalog.not_included.push(format!(
                "state of unlogged sequence {schema}.{name} (a standby does not have it)"
            ));
        } else if row.get(3) == Some("f") {
            closed = true;
        } else {
            names.push((schema, name));
        }
    }
    for batch in names.chunks(SEQUENCES_PER_STATEMENT) {
        catalog.sequences.extend(read_states(session, batch)?);
    }
    if closed {
        let gap = rights::closed_sequences(session, &schemas)?;
        catalog.hidden.extend(gap);
    }
    Ok(())
}

/// Lists schemas and names of the sequences that the role may not read.
pub(super) fn closed_sequences(
    session: &mut PgSession,
    exclusions: Exclusions<'_>,
) -> Result<Vec<(String, String)>, PgError> {
    let sql = format!(
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE NOT (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user) \
         AND c.relkind = 'S' AND {} AND NOT ({SEQUENCE_IS_READABLE}) ORDER BY 1, 2",
        schema_condition(exclusions)
    );
    let found = rows(session, &sql)?;
    Ok(found
        .iter()
        .map(|row| (text(row, 0), text(row, 1)))
        .collect())
}

fn read_states(
    session: &mut PgSession,
    names: &[(String, String)],
) -> Result<Vec<SequenceState>, DumpError> {
    let selects: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(position, (schema, name))| {
            format!(
                "SELECT {position}, last_value, is_called FROM {}.{}",
                identifier(schema),
                identifier(name)
            )
        })
        .collect();
    // The savepoint gives the locks back, so that nobody's ALTER waits for the whole dump.
    let sql = format!(
        "SAVEPOINT holdfast_sequences; {} ORDER BY 1; ROLLBACK TO SAVEPOINT holdfast_sequences",
        selects.join(" UNION ALL ")
    );
    let found = rows(session, &sql)?;
    Ok(found
        .iter()
        .zip(names)
        .map(|(row, (schema, name))| SequenceState {
            schema: schema.clone(),
            name: name.clone(),
            last_value: number(row, 1),
            is_called: row.get(2) == Some("t"),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_are_quoted() {
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("it's"), "'it''s'");
    }

    #[test]
    fn queries_ask_each_version_only_what_it_knows() {
        let none = Exclusions {
            table_data: &[],
            schemas: &[],
            unlogged: false,
        };
        let check = |version: u32, words: &[(&str, bool)]| {
            let sql = tables_query(version, none, Sizes::Asked);
            for (word, expected) in words {
                assert_eq!(sql.contains(word), *expected, "{version} {word}");
            }
        };
        check(
            90_300,
            &[
                ("attgenerated", false),
                ("pg_partitioned_table", false),
                ("relam", false),
                ("regnamespace", false),
            ],
        );
        check(
            110_000,
            &[
                ("pg_partitioned_table", true),
                ("collisdeterministic", false),
                ("attgenerated", false),
            ],
        );
        check(
            180_000,
            &[
                ("collisdeterministic", true),
                ("attgenerated", true),
                ("relam", true),
            ],
        );
    }

    #[test]
    fn exclusions_become_conditions() {
        assert_eq!(
            excluded_condition(&["public.log_*".to_owned()]),
            "false OR (n.nspname ~ '^(public)$' AND c.relname ~ '^(log_.*)$')"
        );
        assert_eq!(
            excluded_condition(&["log".to_owned()]),
            "false OR (c.relname ~ '^(log)$')"
        );
        assert!(
            schema_condition(Exclusions {
                table_data: &[],
                schemas: &["audit".to_owned()],
                unlogged: false,
            })
            .ends_with("n.nspname !~ '^(audit)$'")
        );
    }
}
