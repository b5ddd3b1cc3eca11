//! Names in a `SQL_ASCII` database that are not UTF-8: they are found and named, because they cannot be archived.
//!
//! The client speaks UTF-8, so the server refuses to send them. Rows are not concerned: they go as they are.

use super::catalog::rows;
use crate::source::postgres::PgSession;

const SHOWN: usize = 5;

/// Names of all kinds with their bytes in ASCII; a backslash doubles before it can be taken for an escape.
const NAMES: &str = "SELECT kind, pg_catalog.encode(pg_catalog.decode(pg_catalog.replace(name, E'\\\\', E'\\\\\\\\'), 'escape'), 'hex') FROM (\
    SELECT 'schema' AS kind, nspname::text AS name FROM pg_catalog.pg_namespace \
    UNION ALL SELECT CASE relkind WHEN 'S' THEN 'sequence' WHEN 'i' THEN 'index' WHEN 'v' THEN 'view' ELSE 'table' END, relname::text FROM pg_catalog.pg_class \
    UNION ALL SELECT 'column', attname::text FROM pg_catalog.pg_attribute WHERE attnum > 0 AND NOT attisdropped \
    UNION ALL SELECT 'extension', extname::text FROM pg_catalog.pg_extension) AS names WHERE name ~ '[^ -~]' ORDER BY 1, 2";

/// Explains the refusal of a server to send text; `words` are its own.
pub(super) fn explain(session: &mut PgSession, words: &str) -> String {
    let found = session
        .batch_execute("ROLLBACK")
        .and_then(|()| rows(session, NAMES));
    let names: Vec<String> = match found {
        Ok(found) => found
            .iter()
            .filter_map(|row| Some((row.get(0)?, bytes_of(row.get(1)?)?)))
            .filter(|(_, bytes)| std::str::from_utf8(bytes).is_err())
            .map(|(kind, bytes)| format!("{kind} \"{}\"", bytes.escape_ascii()))
            .collect(),
        Err(error) => {
            tracing::debug!(%error, "names cannot be looked at");
            Vec::new()
        }
    };
    let named = match names.len() {
        0 => String::new(),
        count if count > SHOWN => {
            format!(
                " ({} and {} more)",
                names[..SHOWN].join(", "),
                count - SHOWN
            )
        }
        _ => format!(" ({})", names.join(", ")),
    };
    format!(
        "names in this SQL_ASCII database are not UTF-8{named}, so that they cannot be archived one by one; rename them, \
         or let pg_dump -Fc -Z0 write this database into a folder that is backed up; the server said: {words}"
    )
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}
