//! The name patterns of `pg_dump` and `psql`, as regular expressions for the server.
//!
//! `*` and `?` are wild cards, a dot separates schema and name, double quotes protect, other letters are
//! lower-cased. A table pattern without a schema fits in every schema; `pg_dump` would look along the search
//! path, but a name that is left out is listed in the archive, so that nothing goes unseen.

/// A pattern for tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TablePattern {
    pub(super) schema: Option<String>,
    pub(super) name: String,
}

/// Reads a pattern for tables.
pub(super) fn table(pattern: &str) -> TablePattern {
    let mut parts = parts(pattern);
    let name = parts.pop().unwrap_or_default();
    TablePattern {
        schema: parts.pop(),
        name,
    }
}

/// Reads a pattern for schemas.
pub(super) fn schema(pattern: &str) -> String {
    parts(pattern).pop().unwrap_or_default()
}

/// Splits at dots outside of quotes and translates each part.
fn parts(pattern: &str) -> Vec<String> {
    let mut parts = vec![String::from("^(")];
    let mut quoted = false;
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        let part = parts.last_mut().expect("there is always a part");
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                part.push('"');
            }
            '"' => quoted = !quoted,
            '.' if !quoted => parts.push(String::from("^(")),
            '*' if !quoted => part.push_str(".*"),
            '?' if !quoted => part.push('.'),
            '$' => part.push_str("\\$"),
            c if quoted && "|*+?()[]{}.^\\".contains(c) => {
                part.push('\\');
                part.push(c);
            }
            // As in psql, "[]" is a type name rather than an empty class.
            '[' if chars.peek() == Some(&']') => part.push_str("\\["),
            c if quoted => part.push(c),
            c => part.extend(c.to_lowercase()),
        }
    }
    parts.iter_mut().for_each(|part| part.push_str(")$"));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_become_expressions() {
        let check = |pattern: &str, schema: Option<&str>, name: &str| {
            let expected = TablePattern {
                schema: schema.map(str::to_owned),
                name: name.to_owned(),
            };
            assert_eq!(table(pattern), expected, "{pattern}");
        };
        check("public.log_*", Some("^(public)$"), "^(log_.*)$");
        check("Log?", None, "^(log.)$");
        check("\"Log?\"", None, "^(Log\\?)$");
        check("\"a.b\".\"c\"\"d\"", Some("^(a\\.b)$"), "^(c\"d)$");
        check("a$b", None, "^(a\\$b)$");
        check("(a|b)", None, "^((a|b))$");
        assert_eq!(schema("Audit*"), "^(audit.*)$");
    }
}
