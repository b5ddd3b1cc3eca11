//! Statements of a newer `pg_dump` in the words of an older server, for restores onto the version that a database came from when only later clients are
//! installed. What a statement makes stays the same; what an old server cannot make at all is not touched, so that it refuses.
//!
//! | before | statement | written instead |
//! |---|---|---|
//! | 15 | `CREATE DATABASE … LOCALE_PROVIDER = libc` | nothing: it was the only one |
//! | 13 | `CREATE DATABASE … LOCALE = 'l'` | `LC_COLLATE = 'l' LC_CTYPE = 'l'` |
//! | 11 | `CREATE OPERATOR … (FUNCTION = f` | `PROCEDURE = f` |
//! | 11 | `CREATE [EVENT] TRIGGER … EXECUTE FUNCTION` | `EXECUTE PROCEDURE` |

use std::borrow::Cow;
use std::ops::Range;

use super::sql::{Token, TokenKind, tokens};

const LOCALE_PROVIDERS: u32 = 150_000;
const LOCALE: u32 = 130_000;
const FUNCTION: u32 = 110_000;

/// The statement of an entry of this kind for a server of that version.
pub(crate) fn for_server<'a>(
    kind: &[u8],
    sql: &'a [u8],
    version_num: u32,
    standard_strings: bool,
) -> Cow<'a, [u8]> {
    let edits = match kind {
        b"DATABASE" if version_num < LOCALE_PROVIDERS => {
            database(sql, &tokens(sql, standard_strings), version_num)
        }
        b"OPERATOR" | b"TRIGGER" | b"EVENT TRIGGER" if version_num < FUNCTION => {
            functions(sql, &tokens(sql, standard_strings), kind == b"OPERATOR")
        }
        _ => Vec::new(),
    };
    if edits.is_empty() {
        return Cow::Borrowed(sql);
    }
    let mut written = Vec::with_capacity(sql.len());
    let mut copied = 0;
    for (range, new) in edits {
        written.extend_from_slice(&sql[copied..range.start]);
        written.extend_from_slice(&new);
        copied = range.end;
    }
    written.extend_from_slice(&sql[copied..]);
    Cow::Owned(written)
}

/// What stands at a place, and what is written there.
type Edit = (Range<usize>, Vec<u8>);

fn database(sql: &[u8], tokens: &[Token], version_num: u32) -> Vec<Edit> {
    let mut edits = Vec::new();
    for clause in tokens.windows(3) {
        let [name, equals, value] = clause else {
            continue;
        };
        if equals.kind != TokenKind::Symbol(b'=') {
            continue;
        }
        let range = name.range.start..value.range.end;
        if name.is(sql, "LOCALE_PROVIDER") && value.is(sql, "libc") {
            edits.push((range, Vec::new()));
        } else if name.is(sql, "LOCALE") && version_num < LOCALE {
            let value = &sql[value.range.clone()];
            edits.push((
                range,
                [b"LC_COLLATE = ", value, b" LC_CTYPE = ", value].concat(),
            ));
        }
    }
    edits
}

fn functions(sql: &[u8], tokens: &[Token], operator: bool) -> Vec<Edit> {
    tokens
        .windows(2)
        .filter_map(|pair| {
            let word = match operator {
                true => (pair[1].kind == TokenKind::Symbol(b'=')).then_some(&pair[0]),
                false => pair[0].is(sql, "EXECUTE").then_some(&pair[1]),
            }?;
            word.is(sql, "FUNCTION")
                .then(|| (word.range.clone(), b"PROCEDURE".to_vec()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_words_for_older_servers() {
        let check = |kind: &str, sql: &str, version: u32, expected: &str| {
            let written = for_server(kind.as_bytes(), sql.as_bytes(), version, true);
            assert_eq!(String::from_utf8_lossy(&written), expected, "{version}");
        };
        let create = "CREATE DATABASE \"LOCALE = a\" WITH ENCODING = 'UTF8' LOCALE_PROVIDER = libc LOCALE = 'it''s';";
        check("DATABASE", create, 150_000, create);
        check(
            "DATABASE",
            create,
            140_000,
            "CREATE DATABASE \"LOCALE = a\" WITH ENCODING = 'UTF8'  LOCALE = 'it''s';",
        );
        check(
            "DATABASE",
            create,
            120_000,
            "CREATE DATABASE \"LOCALE = a\" WITH ENCODING = 'UTF8'  LC_COLLATE = 'it''s' LC_CTYPE = 'it''s';",
        );
        let icu = "CREATE DATABASE d WITH LOCALE_PROVIDER = icu ICU_LOCALE = 'de';";
        check("DATABASE", icu, 120_000, icu);

        let operator =
            "CREATE OPERATOR s.=> (\n    FUNCTION = s.\"FUNCTION = f\",\n    LEFTARG = text\n);";
        check("OPERATOR", operator, 110_000, operator);
        check(
            "OPERATOR",
            operator,
            100_023,
            "CREATE OPERATOR s.=> (\n    PROCEDURE = s.\"FUNCTION = f\",\n    LEFTARG = text\n);",
        );
        let trigger = "CREATE EVENT TRIGGER t ON ddl_command_start\n   EXECUTE FUNCTION s.f();\n";
        check(
            "EVENT TRIGGER",
            trigger,
            90_624,
            "CREATE EVENT TRIGGER t ON ddl_command_start\n   EXECUTE PROCEDURE s.f();\n",
        );
        check("FUNCTION", trigger, 90_624, trigger);
    }
}
