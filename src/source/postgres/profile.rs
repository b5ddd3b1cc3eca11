//! The settings of a session, so that the text of values depends on nothing that a database or a role sets.
//!
//! What every supported server knows goes into the start options, where it beats the settings of database and
//! role before the first statement; what came with a version is set by statements when the version is known.

/// What a session is for; decides its settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionProfile {
    /// Nothing is set.
    #[default]
    Plain,
    /// Text output is exact and independent of the database's own settings.
    Dump,
    /// The same, so that what a dump wrote is read back unchanged, and function bodies are not checked.
    Restore,
}

/// Settings that every supported server knows. Sent when the session starts, so that they beat those of
/// the database and the role before the first statement.
const EXACT: &[(&str, &str)] = &[
    ("search_path", ""),
    ("datestyle", "ISO,YMD"),
    ("intervalstyle", "postgres"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("timezone", "UTC"),
    // Money is written with the currency of this locale; C keeps its integer exact.
    ("lc_monetary", "C"),
    ("xmloption", "content"),
    ("xmlbinary", "base64"),
    ("quote_all_identifiers", "off"),
    ("standard_conforming_strings", "on"),
    ("synchronize_seqscans", "off"),
    ("statement_timeout", "0"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    // NULL in an array is NULL, and `= NULL` is what it says.
    ("array_nulls", "on"),
    ("transform_null_equals", "off"),
    // Some refusals are expected.
    ("exit_on_error", "off"),
];

const RESTORE: &[(&str, &str)] = &[
    ("check_function_bodies", "off"),
    ("client_min_messages", "warning"),
    ("default_tablespace", ""),
];

/// Settings that came with some version.
const EXACT_SINCE: &[(u32, &str, &str)] = &[
    (90_300, "lock_timeout", "0"),
    // Row security gives an error instead of fewer rows.
    (90_500, "row_security", "off"),
    (90_600, "idle_in_transaction_session_timeout", "0"),
    (110_000, "jit", "off"),
    (140_000, "idle_session_timeout", "0"),
    (170_000, "transaction_timeout", "0"),
];

impl SessionProfile {
    pub(super) fn start_settings(self) -> Vec<(&'static str, &'static str)> {
        match self {
            SessionProfile::Plain => Vec::new(),
            SessionProfile::Dump => EXACT.to_vec(),
            SessionProfile::Restore => [EXACT, RESTORE].concat(),
        }
    }

    /// Returns the statements that bring the later settings.
    pub(super) fn later_statements(self, version_num: u32) -> String {
        if self == SessionProfile::Plain {
            return String::new();
        }
        let mut sql = String::new();
        for (since, name, value) in EXACT_SINCE {
            if version_num >= *since {
                sql.push_str(&set_statement(name, value));
            }
        }
        if self == SessionProfile::Dump {
            // Came with minor releases, so that only the catalog knows whether it is there.
            sql.push_str(
                "SELECT pg_catalog.set_config(name, 'view,foreign-table', false) FROM pg_catalog.pg_settings \
                 WHERE name = 'restrict_nonsystem_relation_kind';",
            );
        }
        sql
    }
}

/// Writes the statement for one setting; empty values are possible, which `SET` has no form for.
pub(super) fn set_statement(name: &str, value: &str) -> String {
    format!(
        "SELECT pg_catalog.set_config('{}', '{}', false);",
        quoted(name),
        quoted(value)
    )
}

fn quoted(text: &str) -> String {
    text.replace('\'', "''")
}

/// Writes settings as start options; backslashes protect what would split a value.
pub(super) fn start_options(user: &str, settings: &[(&str, &str)]) -> String {
    let mut options = user.trim().to_owned();
    for (name, value) in settings {
        if !options.is_empty() {
            options.push(' ');
        }
        options.push_str("-c ");
        options.push_str(name);
        options.push('=');
        for c in value.chars() {
            if c.is_whitespace() || c == '\\' {
                options.push('\\');
            }
            options.push(c);
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_options_protect_spaces_and_keep_the_users_own() {
        assert_eq!(start_options("", &[]), "");
        assert_eq!(
            start_options("-c geqo=off ", &[("a", "b c"), ("search_path", "")]),
            r"-c geqo=off -c a=b\ c -c search_path="
        );
        assert_eq!(start_options("", &[("a", r"b\c")]), r"-c a=b\\c");
    }

    #[test]
    fn settings_follow_the_version() {
        let old = SessionProfile::Dump.later_statements(90_300);
        assert!(
            old.contains("lock_timeout") && !old.contains("row_security") && !old.contains("jit")
        );
        assert!(
            SessionProfile::Dump
                .later_statements(170_000)
                .contains("transaction_timeout")
        );
        assert_eq!(SessionProfile::Plain.later_statements(170_000), "");
    }
}
