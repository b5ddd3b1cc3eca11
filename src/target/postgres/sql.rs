//! Just enough SQL to rename a database in a statement, to find the roles that one names, and to split what `pg_dumpall` prints. It is not a
//! parser: it knows where strings, identifiers and comments begin and end, nothing of what they mean. It works on bytes in any encoding that keeps ASCII.
//!
//! It is never used on definitions with bodies (`BEGIN ATOMIC` has semicolons inside): those are executed whole, as the archive has them.

use std::ops::Range;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// A key word or an identifier without quotes.
    Word,
    /// An identifier in double quotes.
    Quoted,
    /// A string constant of any form.
    String,
    /// One other byte.
    Symbol(u8),
}

/// A token and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: TokenKind,
    pub(crate) range: Range<usize>,
}

impl Token {
    /// Whether it is this key word; a quoted identifier never is.
    pub(crate) fn is(&self, sql: &[u8], word: &str) -> bool {
        self.kind == TokenKind::Word
            && sql[self.range.clone()].eq_ignore_ascii_case(word.as_bytes())
    }

    /// The identifier that it denotes, if it can be one.
    pub(crate) fn identifier(&self, sql: &[u8]) -> Option<Vec<u8>> {
        let text = &sql[self.range.clone()];
        match self.kind {
            TokenKind::Word => Some(text.to_ascii_lowercase()),
            TokenKind::Quoted => Some(unquote(text, b'"')),
            TokenKind::String | TokenKind::Symbol(_) => None,
        }
    }
}

fn unquote(text: &[u8], quote: u8) -> Vec<u8> {
    let inner = text.strip_prefix(&[quote]).unwrap_or(text);
    let inner = inner.strip_suffix(&[quote]).unwrap_or(inner);
    let mut plain = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied();
    while let Some(byte) = bytes.next() {
        plain.push(byte);
        if byte == quote {
            bytes.next();
        }
    }
    plain
}

/// Cuts SQL into tokens; comments and white space are left out. `standard_strings` says whether a backslash in a plain string is an ordinary character.
pub(crate) fn tokens(sql: &[u8], standard_strings: bool) -> Vec<Token> {
    cut(sql, standard_strings, true)
}

/// Whether psql would find a command of its own in a statement: a backslash outside strings, quoted identifiers and comments. No statement needs one.
pub(crate) fn holds_psql_command(sql: &[u8], standard_strings: bool) -> bool {
    sql.contains(&b'\\')
        && cut(sql, standard_strings, false)
            .iter()
            .any(|token| token.kind == TokenKind::Symbol(b'\\'))
}

fn cut(sql: &[u8], standard_strings: bool, skip_commands: bool) -> Vec<Token> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < sql.len() {
        let start = at;
        let kind = match sql[at] {
            byte if byte.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            b'-' if sql[at..].starts_with(b"--") => {
                at = end_of_line(sql, at);
                continue;
            }
            b'/' if sql[at..].starts_with(b"/*") => {
                at = end_of_comment(sql, at);
                continue;
            }
            // A command of psql, as `\restrict` around what `pg_dumpall` prints: it begins a line between statements, never inside a string.
            b'\\'
                if skip_commands
                    && begins_line(sql, at)
                    && found
                        .last()
                        .is_none_or(|t: &Token| t.kind == TokenKind::Symbol(b';')) =>
            {
                at = end_of_line(sql, at);
                continue;
            }
            b'\'' => {
                at = end_of_quoted(sql, at, b'\'', !standard_strings);
                TokenKind::String
            }
            b'"' => {
                at = end_of_quoted(sql, at, b'"', false);
                TokenKind::Quoted
            }
            b'e' | b'E' if sql.get(at + 1) == Some(&b'\'') => {
                at = end_of_quoted(sql, at + 1, b'\'', true);
                TokenKind::String
            }
            b'$' => match end_of_dollar_quoted(sql, at) {
                Some(end) => {
                    at = end;
                    TokenKind::String
                }
                None => {
                    at += 1;
                    TokenKind::Symbol(b'$')
                }
            },
            byte if is_word(byte) => {
                at += sql[at..]
                    .iter()
                    .take_while(|b| is_word(**b) || **b == b'$')
                    .count();
                TokenKind::Word
            }
            byte => {
                at += 1;
                TokenKind::Symbol(byte)
            }
        };
        found.push(Token {
            kind,
            range: start..at,
        });
    }
    found
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

fn begins_line(sql: &[u8], at: usize) -> bool {
    at.checked_sub(1).is_none_or(|before| sql[before] == b'\n')
}

fn end_of_line(sql: &[u8], at: usize) -> usize {
    sql[at..]
        .iter()
        .position(|b| *b == b'\n')
        .map_or(sql.len(), |n| at + n + 1)
}

/// Comments nest in PostgreSQL.
fn end_of_comment(sql: &[u8], mut at: usize) -> usize {
    let mut depth = 0usize;
    while at < sql.len() {
        if sql[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if sql[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    sql.len()
}

fn end_of_quoted(sql: &[u8], start: usize, quote: u8, backslash: bool) -> usize {
    let mut at = start + 1;
    while at < sql.len() {
        if backslash && sql[at] == b'\\' {
            at += 2;
        } else if sql[at] != quote {
            at += 1;
        } else if sql.get(at + 1) == Some(&quote) {
            at += 2;
        } else {
            return at + 1;
        }
    }
    sql.len()
}

fn end_of_dollar_quoted(sql: &[u8], start: usize) -> Option<usize> {
    let name = sql[start + 1..].iter().take_while(|b| is_word(**b)).count();
    let tag_end = start + 1 + name;
    if sql.get(tag_end) != Some(&b'$') || sql.get(start + 1).is_some_and(u8::is_ascii_digit) {
        return None;
    }
    let tag = &sql[start..=tag_end];
    let body = &sql[tag_end + 1..];
    let close = body.windows(tag.len()).position(|w| w == tag);
    Some(close.map_or(sql.len(), |n| tag_end + 1 + n + tag.len()))
}

/// Splits a script of plain statements (no function bodies) at its semicolons; lines of psql's own commands and comments are left out.
pub(crate) fn statements(script: &[u8], standard_strings: bool) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut start: Option<usize> = None;
    let mut end = 0;
    for token in tokens(script, standard_strings) {
        if token.kind == TokenKind::Symbol(b';') {
            if let Some(start) = start.take() {
                found.push(script[start..end].to_vec());
            }
            continue;
        }
        start.get_or_insert(token.range.start);
        end = token.range.end;
    }
    if let Some(start) = start {
        found.push(script[start..end].to_vec());
    }
    found
}

/// An identifier, always in quotes.
pub(crate) fn quote_identifier(name: &[u8]) -> Vec<u8> {
    quote(name, b'"')
}

/// A string constant for a session with `standard_conforming_strings = on`.
pub(crate) fn quote_literal(value: &[u8]) -> Vec<u8> {
    quote(value, b'\'')
}

fn quote(value: &[u8], mark: u8) -> Vec<u8> {
    let mut quoted = vec![mark];
    for byte in value {
        if *byte == mark {
            quoted.push(mark);
        }
        quoted.push(*byte);
    }
    quoted.push(mark);
    quoted
}

/// Puts `to` where `sql` says `DATABASE from`.
pub(crate) fn rename_database(
    sql: &[u8],
    from: &[u8],
    to: &[u8],
    standard_strings: bool,
) -> Vec<u8> {
    let tokens = tokens(sql, standard_strings);
    let names = tokens.windows(2).filter(|pair| {
        pair[0].is(sql, "DATABASE") && pair[1].identifier(sql).as_deref() == Some(from)
    });
    let mut renamed = Vec::with_capacity(sql.len());
    let mut copied = 0;
    for pair in names {
        renamed.extend_from_slice(&sql[copied..pair[1].range.start]);
        renamed.extend_from_slice(&quote_identifier(to));
        copied = pair[1].range.end;
    }
    renamed.extend_from_slice(&sql[copied..]);
    renamed
}

/// The tablespace of a `CREATE DATABASE` statement and the statement without it.
pub(crate) fn database_tablespace(
    sql: &[u8],
    standard_strings: bool,
) -> Option<(Vec<u8>, Vec<u8>)> {
    let tokens = tokens(sql, standard_strings);
    let clause = tokens
        .windows(3)
        .find(|w| w[0].is(sql, "TABLESPACE") && w[1].kind == TokenKind::Symbol(b'='))?;
    let name = clause[2].identifier(sql)?;
    let mut without = sql[..clause[0].range.start].to_vec();
    without.extend_from_slice(&sql[clause[2].range.end..]);
    Some((name, without))
}

/// A `CREATE DATABASE` statement whose tablespace has another name.
pub(crate) fn map_tablespace(
    sql: &[u8],
    names: &std::collections::BTreeMap<Vec<u8>, Vec<u8>>,
    standard_strings: bool,
) -> Vec<u8> {
    let tokens = tokens(sql, standard_strings);
    let clause = tokens
        .windows(3)
        .find(|w| w[0].is(sql, "TABLESPACE") && w[1].kind == TokenKind::Symbol(b'='));
    let name = clause.and_then(|clause| {
        Some((
            clause[2].range.clone(),
            names.get(&clause[2].identifier(sql)?)?,
        ))
    });
    match name {
        None => sql.to_vec(),
        Some((range, new)) => [
            &sql[..range.start],
            &quote_identifier(new),
            &sql[range.end..],
        ]
        .concat(),
    }
}

/// Roles that an ACL, a policy or a setting names after one of these key words; `PUBLIC` and its like are no roles.
pub(crate) fn roles_after(sql: &[u8], keywords: &[&str], standard_strings: bool) -> Vec<Vec<u8>> {
    const NO_ROLES: [&str; 7] = [
        "PUBLIC",
        "DEFAULT",
        "CURRENT_USER",
        "CURRENT_ROLE",
        "SESSION_USER",
        "SESSION",
        "GROUP",
    ];
    let mut roles = Vec::new();
    let mut depth = 0usize;
    let mut in_list = false;
    let mut expected = false;
    for token in tokens(sql, standard_strings) {
        match token.kind {
            TokenKind::Symbol(b'(') => depth += 1,
            TokenKind::Symbol(b')') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > 0 {
            continue;
        }
        if keywords.iter().any(|k| token.is(sql, k)) {
            (in_list, expected) = (true, true);
        } else if in_list && token.kind == TokenKind::Symbol(b',') {
            expected = true;
        } else if expected {
            expected = false;
            let role = token
                .identifier(sql)
                .filter(|_| !NO_ROLES.iter().any(|no| token.is(sql, no)));
            roles.extend(role);
        } else {
            in_list = false;
        }
    }
    roles
}

/// Name of a column option that some minor releases keep for themselves and that others refuse, so that a table with it could not be created.
const INTERNAL_OPTION: &str = "pg_attver";

/// The statements without the column option `pg_attver`, if they set it. A statement that sets nothing else is left out.
///
/// Only for definitions of tables: it splits at semicolons.
pub(crate) fn without_internal_option(sql: &[u8], standard_strings: bool) -> Option<Vec<u8>> {
    if !sql
        .windows(INTERNAL_OPTION.len())
        .any(|part| part == INTERNAL_OPTION.as_bytes())
    {
        return None;
    }
    let tokens = tokens(sql, standard_strings);
    let mut cut: Vec<Range<usize>> = Vec::new();
    let mut statement = 0;
    for (n, token) in tokens.iter().enumerate() {
        if token.kind == TokenKind::Symbol(b';') {
            statement = n + 1;
        }
        let symbol = |at: Option<usize>| at.and_then(|at| tokens.get(at)).map(|token| token.kind);
        let is_option = token.is(sql, INTERNAL_OPTION)
            && symbol(Some(n + 1)) == Some(TokenKind::Symbol(b'='))
            && matches!(
                symbol(n.checked_sub(1)),
                Some(TokenKind::Symbol(b'(' | b','))
            );
        if !is_option {
            continue;
        }
        let end = (n..tokens.len())
            .find(|at| matches!(tokens[*at].kind, TokenKind::Symbol(b',' | b')')))?;
        let (first, last) = (symbol(n.checked_sub(1)), symbol(Some(end)));
        cut.push(match (first, last) {
            (Some(TokenKind::Symbol(b'(')), Some(TokenKind::Symbol(b')'))) => {
                let stop =
                    (end..tokens.len()).find(|at| tokens[*at].kind == TokenKind::Symbol(b';'));
                tokens[statement].range.start..stop.map_or(sql.len(), |at| tokens[at].range.end)
            }
            (Some(TokenKind::Symbol(b',')), _) => {
                tokens[n - 1].range.start..tokens[end].range.start
            }
            _ => token.range.start..tokens[end].range.end,
        });
    }
    if cut.is_empty() {
        return None;
    }
    let mut kept = Vec::with_capacity(sql.len());
    let mut copied = 0;
    for range in cut {
        kept.extend_from_slice(&sql[copied..range.start]);
        copied = range.end;
    }
    kept.extend_from_slice(&sql[copied..]);
    Some(kept)
}

/// `ALTER DATABASE … CONNECTION LIMIT = n`.
pub(crate) fn is_connection_limit(sql: &[u8]) -> bool {
    let found = tokens(sql, true);
    let is = |n: usize, word: &str| found.get(n).is_some_and(|token| token.is(sql, word));
    is(0, "ALTER") && is(1, "DATABASE") && is(3, "CONNECTION") && is(4, "LIMIT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_psql_are_refused() {
        let check = |sql: &str, standard: bool, expected: bool| {
            assert_eq!(
                holds_psql_command(sql.as_bytes(), standard),
                expected,
                "{sql}"
            );
        };
        check("CREATE TABLE t (\n\\! true\n)", true, true);
        check("\\! true", true, true);
        check("SELECT 1;\n\\! true\n", true, true);
        check("COMMENT ON TABLE t IS 'a\n\\! true\n'", true, false);
        check("SELECT 'a\\'\\! true", true, true);
        check("SELECT 'a\\'\\! true'", false, false);
        check("SELECT E'a\\'\\! true'", true, false);
        check("AS $_$ \\! true $_$", true, false);
        check("\"\\! true\"", true, false);
        check("-- \\! true\n/* \\! true */", true, false);
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn splits_statements() {
        let check = |script: &str, expected: &[&str]| {
            let found: Vec<String> = statements(script.as_bytes(), true)
                .into_iter()
                .map(text)
                .collect();
            assert_eq!(found, expected, "{script}");
        };
        check("", &[]);
        check("SELECT 1; SELECT 2", &["SELECT 1", "SELECT 2"]);
        check(
            "\\restrict abc\n\n--\n-- Roles; here\n--\nCREATE ROLE a;\n\\unrestrict abc\n",
            &["CREATE ROLE a"],
        );
        check(
            "COMMENT ON ROLE a IS 'x;\n\\restrict\n''; y';\nSELECT 2;",
            &["COMMENT ON ROLE a IS 'x;\n\\restrict\n''; y'", "SELECT 2"],
        );
        check(
            "SELECT E'a\\';b'; SELECT $x$;$y$;$x$; SELECT \"a;\"\"b\" /* ; /* ; */ */ FROM t;",
            &[
                "SELECT E'a\\';b'",
                "SELECT $x$;$y$;$x$",
                "SELECT \"a;\"\"b\" /* ; /* ; */ */ FROM t",
            ],
        );
        check("SELECT 'unfinished", &["SELECT 'unfinished"]);
        check("SELECT 'a\\'; SELECT 'b'", &["SELECT 'a\\'", "SELECT 'b'"]);
    }

    #[test]
    fn backslashes_count_without_standard_strings() {
        let found = statements(b"SELECT 'a\\';b'; SELECT 2", false);
        assert_eq!(found, [b"SELECT 'a\\';b'".to_vec(), b"SELECT 2".to_vec()]);
    }

    #[test]
    fn renames_the_database_and_nothing_else() {
        let check = |sql: &str, expected: &str| {
            assert_eq!(
                text(rename_database(sql.as_bytes(), b"tiny", b"n\"ew", true)),
                expected
            );
        };
        check(
            "CREATE DATABASE tiny WITH TEMPLATE = template0;",
            "CREATE DATABASE \"n\"\"ew\" WITH TEMPLATE = template0;",
        );
        check(
            "COMMENT ON DATABASE tiny IS 'DATABASE tiny';",
            "COMMENT ON DATABASE \"n\"\"ew\" IS 'DATABASE tiny';",
        );
        check(
            "ALTER DATABASE \"tiny\" SET a TO 'x'; ALTER ROLE tiny IN DATABASE tiny SET b TO 'y';",
            "ALTER DATABASE \"n\"\"ew\" SET a TO 'x'; ALTER ROLE tiny IN DATABASE \"n\"\"ew\" SET b TO 'y';",
        );
        check(
            "ALTER DATABASE other SET a TO 'x';",
            "ALTER DATABASE other SET a TO 'x';",
        );
    }

    #[test]
    fn finds_roles() {
        let check = |sql: &str, expected: &[&str]| {
            let found: Vec<String> = roles_after(
                sql.as_bytes(),
                &["TO", "FROM", "ROLE", "AUTHORIZATION", "BY"],
                true,
            )
            .into_iter()
            .map(text)
            .collect();
            assert_eq!(found, expected, "{sql}");
        };
        check(
            "GRANT SELECT ON TABLE public.child TO tiny_reader;",
            &["tiny_reader"],
        );
        check(
            "GRANT UPDATE(note) ON TABLE a.b TO \"To\" WITH GRANT OPTION;",
            &["To"],
        );
        check("REVOKE ALL ON SCHEMA public FROM PUBLIC;", &[]);
        check(
            "SET SESSION AUTHORIZATION \"a \"\"b\";\nGRANT ALL ON TABLE t TO c;\nRESET SESSION AUTHORIZATION;",
            &["a \"b", "c"],
        );
        check(
            "ALTER DEFAULT PRIVILEGES FOR ROLE o IN SCHEMA s GRANT SELECT ON TABLES  TO r;",
            &["o", "r"],
        );
        check(
            "CREATE POLICY p ON t FOR SELECT TO a, \"B\" USING ((x = ANY (ARRAY['TO z'])));",
            &["a", "B"],
        );
        check(
            "CREATE POLICY p ON t USING (f(a, b)) WITH CHECK (true);",
            &[],
        );
    }

    #[test]
    fn tablespace_of_a_database() {
        let found = database_tablespace(
            b"CREATE DATABASE d WITH ENCODING = 'UTF8' TABLESPACE = \"a b\";",
            true,
        )
        .unwrap();
        assert_eq!(
            (found.0, text(found.1)),
            (
                b"a b".to_vec(),
                "CREATE DATABASE d WITH ENCODING = 'UTF8' ;".to_owned()
            )
        );
        assert_eq!(
            database_tablespace(b"CREATE DATABASE d WITH ENCODING = 'TABLESPACE = x';", true),
            None
        );
    }

    #[test]
    fn internal_column_options_are_left_out() {
        let check = |sql: &str, expected: Option<&str>| {
            assert_eq!(
                without_internal_option(sql.as_bytes(), true)
                    .map(text)
                    .as_deref(),
                expected
            );
        };
        check(
            "CREATE TABLE t (a int);\nALTER TABLE ONLY t ALTER COLUMN a SET (pg_attver=1);\n",
            Some("CREATE TABLE t (a int);\n\n"),
        );
        check(
            "ALTER TABLE t ALTER COLUMN a SET (n_distinct=-0.5, pg_attver=3);",
            Some("ALTER TABLE t ALTER COLUMN a SET (n_distinct=-0.5);"),
        );
        check(
            "ALTER TABLE t ALTER COLUMN a SET (pg_attver=3, n_distinct=-0.5);",
            Some("ALTER TABLE t ALTER COLUMN a SET ( n_distinct=-0.5);"),
        );
        check(
            "CREATE TABLE t (pg_attver int, b text DEFAULT '(pg_attver=1)');",
            None,
        );
        check("CREATE TABLE t (a int);", None);
    }
}
