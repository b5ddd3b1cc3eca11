//! Which pieces a database is copied in, and the statements for one piece of a table.
//!
//! A table of more than one range is read in fixed ranges of blocks, so that several connections share it and the same range
//! holds the same rows from one backup to the next. The last range is open: rows beyond the size that was
//! seen belong to it.

use super::catalog::{Catalog, Table, identifier, literal};

/// The catalog of relations, as `pg_identify_object_as_address` wants it.
const PG_CLASS_OID: u32 = 1259;
/// Since when that function exists.
const ADDRESS_SINCE: u32 = 90_500;

/// What a range of large objects counts as, because nobody knows its size beforehand.
const LARGE_OBJECT_BYTES: u64 = 128 << 20;

/// One piece of work for one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// A part of a table.
    Rows {
        /// Position in the catalog.
        table: usize,
        /// Number of the part.
        part: u64,
        /// First block; 0 for a whole table.
        first_block: u64,
        /// First block behind it; none for the last part.
        end_block: Option<u64>,
        /// Expected bytes.
        bytes: u64,
    },
    /// The pages of a range of large objects.
    LargeObjects {
        /// First oid of the range.
        first: u32,
    },
}

impl Piece {
    /// Returns the bytes that are expected of it.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Piece::Rows { bytes, .. } => *bytes,
            // Nobody knows before they are read.
            Piece::LargeObjects { .. } => LARGE_OBJECT_BYTES,
        }
    }
}

/// Lists all pieces, the biggest first: the last ones to run should be short.
pub(super) fn plan(catalog: &Catalog, range_blocks: u64) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for (position, table) in catalog
        .tables
        .iter()
        .enumerate()
        .filter(|(_, table)| !table.data_excluded)
    {
        pieces.extend(table_pieces(position, table, range_blocks));
    }
    pieces.sort_by_key(|piece| match piece {
        Piece::Rows { bytes, .. } => std::cmp::Reverse(*bytes),
        Piece::LargeObjects { .. } => std::cmp::Reverse(0),
    });
    let large_objects = catalog
        .large_object_ranges
        .iter()
        .map(|(first, _)| Piece::LargeObjects { first: *first });
    // Their size is not known beforehand, so they begin.
    large_objects.chain(pieces).collect()
}

fn table_pieces(position: usize, table: &Table, range_blocks: u64) -> Vec<Piece> {
    let count = if table.ranges && table.blocks > 0 {
        table.blocks.div_ceil(range_blocks)
    } else {
        1
    };
    (0..count)
        .map(|part| Piece::Rows {
            table: position,
            part,
            first_block: part * range_blocks,
            end_block: (part + 1 < count).then_some((part + 1) * range_blocks),
            bytes: table.bytes / count,
        })
        .collect()
}

/// How many parts a table has.
pub(super) fn part_count(table: &Table, range_blocks: u64) -> u64 {
    if table.data_excluded {
        return 0;
    }
    u64::try_from(table_pieces(0, table, range_blocks).len()).unwrap_or(u64::MAX)
}

/// Writes the full name of a table.
pub(super) fn relation(table: &Table) -> String {
    format!("{}.{}", identifier(&table.schema), identifier(&table.name))
}

/// Writes the condition that a table still has its names: the catalog is read as of the snapshot, the function looks
/// at what is now. The arguments are SQL for its oid, its schema and its name.
fn names_condition(version_num: u32, oid: &str, schema: &str, name: &str) -> String {
    if version_num >= ADDRESS_SINCE {
        format!(
            "NOT EXISTS (SELECT 1 FROM pg_catalog.pg_attribute a WHERE a.attrelid = {oid} AND a.attnum > 0 AND NOT a.attisdropped \
             AND (pg_catalog.pg_identify_object_as_address({PG_CLASS_OID}, {oid}, a.attnum)).object_names \
             IS DISTINCT FROM ARRAY[{schema}, {name}, a.attname::text])"
        )
    } else {
        format!(
            "(pg_catalog.quote_ident({schema}) || '.' || pg_catalog.quote_ident({name}))::pg_catalog.regclass::pg_catalog.oid = {oid}"
        )
    }
}

/// The name of the statement that [`prepare_check`] makes.
pub(super) const CHECK: &str = "holdfast_check";

/// Writes the statement that prepares the question for each part, whether its table is still the one of the snapshot:
/// same file, same names. Planning it anew for each table costs more than its answer.
pub(super) fn prepare_check(version_num: u32) -> String {
    format!(
        "PREPARE {CHECK} (pg_catalog.oid, pg_catalog.text, pg_catalog.text, pg_catalog.oid) AS \
         SELECT coalesce(pg_catalog.pg_relation_filenode($1), 0) = $4 AND {}",
        names_condition(version_num, "$1", "$2", "$3")
    )
}

/// Writes the statements that lock a table for one part and ask the prepared question.
pub(super) fn lock_and_check(table: &Table) -> String {
    format!(
        "SAVEPOINT holdfast_part; LOCK TABLE ONLY {} IN ACCESS SHARE MODE NOWAIT; EXECUTE {CHECK} ({}, {}, {}, {})",
        relation(table),
        table.oid,
        literal(&table.schema),
        literal(&table.name),
        table.filenode,
    )
}

/// Writes the question which tables may have got other names since a snapshot, for a session outside of it: those of
/// which a row of the catalog is newer than the oldest transaction that the snapshot does not see for sure. Numbers
/// of transactions come round; a row that is called newer by mistake costs one more look, none is missed.
pub(super) fn renamed_candidates(oldest: u64) -> String {
    let newer = |of: &str| newer(of, oldest);
    format!(
        "SELECT a.attrelid FROM pg_catalog.pg_attribute a WHERE a.attnum > 0 AND {} \
         UNION SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'r' AND ({} OR {})",
        newer("a"),
        newer("c"),
        newer("n")
    )
}

/// Writes the same question for values of enums, with the names of their types.
pub(super) fn renamed_values(oldest: u64) -> String {
    format!(
        "SELECT e.oid, pg_catalog.format_type(e.enumtypid, NULL) FROM pg_catalog.pg_enum e WHERE {}",
        newer("e", oldest)
    )
}

/// Writes the condition that a row of a catalog is newer than a transaction.
fn newer(of: &str, oldest: u64) -> String {
    format!(
        "((({of}.xmin::pg_catalog.text::pg_catalog.int8 - {}) & 4294967295) < 2147483648)",
        oldest % (1 << 32)
    )
}

/// Writes the question whether a table still has the names of the snapshot, for a session in it.
pub(super) fn names_check(table: &Table, version_num: u32) -> String {
    let (schema, name) = (literal(&table.schema), literal(&table.name));
    let oid = table.oid.to_string();
    format!(
        "SELECT {}",
        names_condition(version_num, &oid, &schema, &name)
    )
}

/// Gives the lock of a part back.
pub(super) const UNLOCK: &str =
    "ROLLBACK TO SAVEPOINT holdfast_part; RELEASE SAVEPOINT holdfast_part";

/// Writes the COPY statement of a part; no conversion of the encoding takes place.
pub(super) fn copy_statement(
    table: &Table,
    first_block: u64,
    end_block: Option<u64>,
    form: Form<'_>,
) -> String {
    let columns: Vec<String> = table
        .columns
        .iter()
        .map(|column| identifier(column))
        .collect();
    let columns = columns.join(", ");
    let what = if table.filter.is_none() && first_block == 0 && end_block.is_none() {
        let list = if columns.is_empty() {
            String::new()
        } else {
            format!(" ({columns})")
        };
        format!("{}{list}", relation(table))
    } else {
        let condition = match (&table.filter, first_block, end_block) {
            (Some(filter), ..) => filter.clone(),
            (None, 0, Some(end)) => format!("WHERE ctid < '({end},0)'::pg_catalog.tid"),
            (None, first, Some(end)) => {
                format!(
                    "WHERE ctid >= '({first},0)'::pg_catalog.tid AND ctid < '({end},0)'::pg_catalog.tid"
                )
            }
            (None, first, None) => format!("WHERE ctid >= '({first},0)'::pg_catalog.tid"),
        };
        format!(
            "(SELECT {columns} FROM ONLY {} {condition})",
            relation(table)
        )
    };
    match form {
        Form::Text { encoding } => format!(
            "COPY {what} TO STDOUT WITH (FORMAT text, ENCODING {})",
            literal(encoding)
        ),
        Form::Binary => format!("COPY {what} TO STDOUT WITH (FORMAT binary)"),
    }
}

/// In which format rows are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form<'a> {
    /// As text, in this encoding.
    Text {
        /// That of the database.
        encoding: &'a str,
    },
    /// For rows whose text does not fit into the server's 1 GiB: a bytea takes two digits for each byte.
    Binary,
}

/// Says whether the server could not make the text of a row.
pub(super) fn is_too_big_for_text(error: &str) -> bool {
    error.contains("invalid memory alloc request size") || error.contains("enlarge string buffer")
}

/// Returns the row in a message of a binary COPY: the first one has the header before it, the last one is only the end.
pub(crate) fn binary_row(message: &[u8]) -> Option<&[u8]> {
    const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
    // After the signature: flags, and the length of an extension, which no version has.
    const HEADER_BYTES: usize = SIGNATURE.len() + 8;
    let row = match message.starts_with(SIGNATURE) {
        true => message.get(HEADER_BYTES..)?,
        false => message,
    };
    (!row.is_empty() && row != b"\xff\xff").then_some(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(blocks: u64) -> Table {
        Table {
            oid: 7,
            schema: "s".to_owned(),
            name: "t".to_owned(),
            blocks,
            bytes: blocks * 8192,
            ranges: true,
            columns: vec!["a".to_owned(), "b\"c".to_owned()],
            ..Table::default()
        }
    }

    #[test]
    fn ranges_are_fixed_and_the_last_is_open() {
        let check = |blocks: u64, expected: &[(u64, Option<u64>)]| {
            let found: Vec<(u64, Option<u64>)> = table_pieces(0, &table(blocks), 100)
                .into_iter()
                .map(|piece| match piece {
                    Piece::Rows {
                        first_block,
                        end_block,
                        ..
                    } => (first_block, end_block),
                    Piece::LargeObjects { .. } => panic!("no large objects here"),
                })
                .collect();
            assert_eq!(found, expected, "{blocks}");
            assert_eq!(
                part_count(&table(blocks), 100),
                u64::try_from(expected.len()).unwrap()
            );
        };
        check(0, &[(0, None)]);
        check(100, &[(0, None)]);
        check(101, &[(0, Some(100)), (100, None)]);
        check(250, &[(0, Some(100)), (100, Some(200)), (200, None)]);
    }

    #[test]
    fn statements() {
        let check = |table: &Table, first, end, expected: &str| {
            let text = Form::Text { encoding: "LATIN1" };
            let sql = copy_statement(table, first, end, text);
            assert_eq!(
                sql,
                format!("COPY {expected} TO STDOUT WITH (FORMAT text, ENCODING 'LATIN1')")
            );
        };
        let mut table = table(300);
        check(&table, 0, None, r#""s"."t" ("a", "b""c")"#);
        check(
            &table,
            0,
            Some(100),
            r#"(SELECT "a", "b""c" FROM ONLY "s"."t" WHERE ctid < '(100,0)'::pg_catalog.tid)"#,
        );
        check(
            &table,
            200,
            None,
            r#"(SELECT "a", "b""c" FROM ONLY "s"."t" WHERE ctid >= '(200,0)'::pg_catalog.tid)"#,
        );
        table.columns.clear();
        check(&table, 0, None, r#""s"."t""#);
        table.filter = Some("WHERE NOT builtin".to_owned());
        check(
            &table,
            0,
            None,
            r#"(SELECT  FROM ONLY "s"."t" WHERE NOT builtin)"#,
        );
    }

    #[test]
    fn messages_of_a_binary_copy() {
        let check = |message: &[u8], expected: Option<&[u8]>| {
            assert_eq!(binary_row(message), expected, "{message:?}");
        };
        let header = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
        check(header, None);
        check(&[&header[..], b"\0\x01row"].concat(), Some(b"\0\x01row"));
        check(&[&header[..], b"\xff\xff"].concat(), None);
        check(b"\0\x01row", Some(b"\0\x01row"));
        check(b"\xff\xff", None);
        assert_eq!(
            copy_statement(&table(1), 0, None, Form::Binary),
            r#"COPY "s"."t" ("a", "b""c") TO STDOUT WITH (FORMAT binary)"#
        );
    }

    #[test]
    fn big_pieces_come_first_and_excluded_tables_not_at_all() {
        let mut catalog = Catalog {
            tables: vec![table(10), table(50), table(20)],
            ..Catalog::default()
        };
        catalog.tables[2].data_excluded = true;
        catalog.large_object_ranges = vec![(16_384, 3)];
        let order: Vec<Option<usize>> = plan(&catalog, 100)
            .into_iter()
            .map(|piece| match piece {
                Piece::Rows { table, .. } => Some(table),
                Piece::LargeObjects { .. } => None,
            })
            .collect();
        assert_eq!(order, [None, Some(1), Some(0)]);
    }
}
