//! What a role that is not a superuser cannot see or read of a database, and the statement that mends it.
//!
//! Two kinds. What is *hidden* goes missing without a word: `pg_dump` exits with 0 and leaves it out. What is *closed* ends the
//! dump with an error. `pg_read_all_data` (since version 14) opens tables, sequences and schemas, and the catalogs of large objects
//! and passwords as well, which `pg_dump` alone would make nothing of; it opens neither row security nor the other hidden things.
//!
//! | hidden | why |
//! |---|---|
//! | passwords of roles | `pg_authid` is closed, so `pg_dumpall --no-role-passwords` it is |
//! | options of user mappings of others | `pg_user_mappings` shows NULL |
//! | subscriptions | `pg_dump` skips them for who is not a superuser |
//! | positions of sequences | they stand in the sequence itself; its definition does not, since version 10 |
//!
//! **Invariants**
//! 1. A superuser has no gaps (`a_superuser_misses_nothing`).
//! 2. After the statements that are named here the same role dumps without that gap (`what_is_named_is_what_mends_it`).

use tokio_postgres::SimpleQueryMessage;

use super::error::PgError;
use super::session::PgSession;

/// What a gap says that concerns the globals of the whole cluster.
pub(super) const PASSWORDS: &str = "passwords of roles";

/// What may go missing without an error, by the names under which an administrator accepts the loss: no right opens it on a managed server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Passwords of roles: `role-passwords`.
    RolePasswords,
    /// Options of the user mappings of others: `user-mapping-options`.
    UserMappingOptions,
    /// Subscriptions: `subscriptions`.
    Subscriptions,
}

impl Loss {
    /// All of them.
    pub const ALL: [Loss; 3] = [
        Loss::RolePasswords,
        Loss::UserMappingOptions,
        Loss::Subscriptions,
    ];

    /// Its name in site files and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Loss::RolePasswords => "role-passwords",
            Loss::UserMappingOptions => "user-mapping-options",
            Loss::Subscriptions => "subscriptions",
        }
    }
}

/// Something that a role cannot see or read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gap {
    /// What it is.
    pub what: String,
    /// Which ones, where they have names.
    pub names: Vec<String>,
    /// The statements that mend it, to be run by a superuser in this database; or what else helps.
    pub remedy: String,
    /// It goes missing without an error, and the rest is dumped.
    pub hidden: bool,
    /// The loss that it is, where it may be accepted.
    pub loss: Option<Loss>,
}

impl Gap {
    /// Writes it in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        match self.names.as_slice() {
            [] => self.what.clone(),
            names => format!("{}: {}", self.what, shortened(names)),
        }
    }

    /// Whether this is a loss that was accepted.
    #[must_use]
    pub fn is_accepted(&self, accepted: &[Loss]) -> bool {
        self.loss.is_some_and(|loss| accepted.contains(&loss))
    }
}

/// Lists names, not all of too many.
fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>();
    match names.len() {
        count if count > SHOWN => format!("{} and {} more", shown.join(", "), count - SHOWN),
        _ => shown.join(", "),
    }
}

/// What has to be read of a database.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// A condition on the schema `n`; `true` wants all.
    pub schemas: &'a str,
    /// A condition on the table `c` in the schema `n`, which is true where rows are left out.
    pub rows_excluded: &'a str,
}

impl Default for Wanted<'_> {
    fn default() -> Self {
        Self {
            schemas: "true",
            rows_excluded: "false",
        }
    }
}

/// Schemas and relations that belong to users.
const OF_USERS: &str =
    "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relpersistence <> 't'";

/// Whether the session's role is a superuser.
pub fn is_superuser(session: &mut PgSession) -> Result<bool, PgError> {
    let found = session
        .simple_column("SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user")?;
    Ok(found.first().and_then(Option::as_deref) == Some("t"))
}

/// Whether the passwords of roles can be read, which `pg_dumpall` wants to know.
pub fn reads_passwords(session: &mut PgSession) -> Result<bool, PgError> {
    let found = session
        .simple_column("SELECT pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT')")?;
    Ok(found.first().and_then(Option::as_deref) == Some("t"))
}

/// Finds what would go missing without an error.
pub fn hidden(session: &mut PgSession) -> Result<Vec<Gap>, PgError> {
    if is_superuser(session)? {
        return Ok(Vec::new());
    }
    let role = quoted(&session.endpoint().user.clone());
    let mut gaps = Vec::new();
    let mut gap = |loss: Loss, what: &str, names: Vec<String>, remedy: String| {
        gaps.push(Gap {
            what: what.to_owned(),
            names,
            remedy,
            hidden: true,
            loss: Some(loss),
        });
    };
    if !reads_passwords(session)? {
        gap(
            Loss::RolePasswords,
            PASSWORDS,
            Vec::new(),
            format!("GRANT SELECT ON pg_catalog.pg_authid TO {role}"),
        );
    }
    let mappings = names(
        session,
        "SELECT u.usename || ' on ' || u.srvname \
         FROM pg_catalog.pg_user_mappings u JOIN pg_catalog.pg_foreign_server s ON s.oid = u.srvid WHERE u.umoptions IS NULL AND NOT \
         CASE WHEN u.umuser = 0 THEN pg_catalog.pg_has_role(s.srvowner, 'USAGE') \
         ELSE u.usename = current_user AND (pg_catalog.pg_has_role(s.srvowner, 'USAGE') OR pg_catalog.has_server_privilege(s.oid, 'USAGE')) END \
         ORDER BY 1",
    )?;
    if !mappings.is_empty() {
        gap(
            Loss::UserMappingOptions,
            "options of user mappings",
            mappings,
            format!("ALTER ROLE {role} SUPERUSER (no GRANT opens the mappings of others)"),
        );
    }
    if session.version_num() >= 100_000 {
        let subscriptions = names(
            session,
            "SELECT subname FROM pg_catalog.pg_subscription WHERE subdbid = \
             (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) ORDER BY 1",
        )?;
        if !subscriptions.is_empty() {
            gap(
                Loss::Subscriptions,
                "subscriptions",
                subscriptions,
                format!("ALTER ROLE {role} SUPERUSER (pg_dump leaves them out for everybody else)"),
            );
        }
    }
    Ok(gaps)
}

/// Finds what would end a dump with an error.
pub fn closed(session: &mut PgSession, wanted: Wanted<'_>) -> Result<Vec<Gap>, PgError> {
    if is_superuser(session)? {
        return Ok(Vec::new());
    }
    let mut gaps = Vec::new();
    gaps.extend(closed_schemas(session, wanted)?);
    gaps.extend(closed_tables(session, wanted)?);
    gaps.extend(closed_sequences(session, wanted.schemas)?);
    gaps.extend(row_security(session, wanted)?);
    gaps.extend(large_objects(session)?);
    Ok(gaps)
}

fn closed_gap(what: &str, names: Vec<String>, remedy: String) -> Option<Gap> {
    (!names.is_empty()).then(|| Gap {
        what: what.to_owned(),
        names,
        remedy,
        hidden: false,
        loss: None,
    })
}

fn closed_schemas(session: &mut PgSession, wanted: Wanted<'_>) -> Result<Option<Gap>, PgError> {
    let names = schemas_without_usage(session, wanted.schemas, "'r', 'p'")?;
    let remedy = grant_usage(session, &names);
    Ok(closed_gap("no right to look into schemas", names, remedy))
}

/// Schemas with relations of some kinds that the role may not look into.
fn schemas_without_usage(
    session: &mut PgSession,
    schemas: &str,
    kinds: &str,
) -> Result<Vec<String>, PgError> {
    let sql = format!(
        "SELECT DISTINCT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid \
         WHERE {OF_USERS} AND ({schemas}) AND c.relkind IN ({kinds}) AND NOT pg_catalog.has_schema_privilege(n.oid, 'USAGE') ORDER BY 1"
    );
    names(session, &sql)
}

fn grant_usage(session: &PgSession, schemas: &[String]) -> String {
    let role = quoted(&session.endpoint().user);
    format!("GRANT USAGE ON SCHEMA {} TO {role}", schemas.join(", "))
}

/// Writes the query for the relations of some kinds of which the condition on `c` and `n` holds.
fn relations_query(schemas: &str, kinds: &str, condition: &str) -> String {
    format!(
        "SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE {OF_USERS} AND ({schemas}) AND c.relkind IN ({kinds}) \
         AND ({condition}) \
         AND (NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass \
         AND d.objid = c.oid AND d.deptype = 'e') \
         OR EXISTS (SELECT 1 FROM pg_catalog.pg_extension e WHERE c.oid = ANY (e.extconfig))) ORDER BY 1"
    )
}

fn grant_select(session: &PgSession, kind: &str, names: &[String]) -> String {
    let role = quoted(&session.endpoint().user);
    let all = match session.version_num() {
        140_000.. => format!("; or GRANT pg_read_all_data TO {role}"),
        _ => String::new(),
    };
    format!("GRANT SELECT ON {kind} {} TO {role}{all}", names.join(", "))
}

fn closed_tables(session: &mut PgSession, wanted: Wanted<'_>) -> Result<Option<Gap>, PgError> {
    // pg_dump locks every table whose definition it writes, rows or not, and for that it needs the right to read.
    let sql = relations_query(
        wanted.schemas,
        "'r', 'p'",
        "NOT pg_catalog.has_table_privilege(c.oid, 'SELECT')",
    );
    let tables = names(session, &sql)?;
    let remedy = grant_select(session, "TABLE", &tables);
    Ok(closed_gap("no right to read tables", tables, remedy))
}

/// Whether the position of the sequence `c` in the schema `n` can be read, as SQL.
pub(super) const SEQUENCE_IS_READABLE: &str = "pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT')";

/// Finds the sequences whose position cannot be read; `schemas` is a condition on the schema `n`. Their definitions are dumped all the same,
/// but for servers before 10, where `pg_dump` reads them in the sequences.
pub(super) fn closed_sequences(
    session: &mut PgSession,
    schemas: &str,
) -> Result<Option<Gap>, PgError> {
    let condition = format!("NOT ({SEQUENCE_IS_READABLE})");
    let sequences = names(session, &relations_query(schemas, "'S'", &condition))?;
    if sequences.is_empty() {
        return Ok(None);
    }
    let closed = schemas_without_usage(session, schemas, "'S'")?;
    let mut remedy = grant_select(session, "SEQUENCE", &sequences);
    if !closed.is_empty() {
        remedy = format!("{}; {remedy}", grant_usage(session, &closed));
    }
    Ok(Some(Gap {
        what: "positions of sequences".to_owned(),
        names: sequences,
        remedy,
        hidden: session.version_num() >= 100_000,
        loss: None,
    }))
}

fn row_security(session: &mut PgSession, wanted: Wanted<'_>) -> Result<Option<Gap>, PgError> {
    if session.version_num() < 90_500 {
        return Ok(None);
    }
    let sql = format!(
        "SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE {OF_USERS} AND ({}) AND NOT ({}) AND c.relkind = 'r' \
         AND c.relrowsecurity AND pg_catalog.row_security_active(c.oid) ORDER BY 1",
        wanted.schemas, wanted.rows_excluded
    );
    let remedy = format!("ALTER ROLE {} BYPASSRLS", quoted(&session.endpoint().user));
    Ok(closed_gap(
        "row security hides rows of",
        names(session, &sql)?,
        remedy,
    ))
}

fn large_objects(session: &mut PgSession) -> Result<Option<Gap>, PgError> {
    let readable = session.simple_column(
        "SELECT pg_catalog.has_table_privilege('pg_catalog.pg_largeobject', 'SELECT')",
    )?;
    if readable.first().and_then(Option::as_deref) == Some("t") {
        return Ok(None);
    }
    let names = names(
        session,
        "SELECT m.oid FROM pg_catalog.pg_largeobject_metadata m \
         WHERE NOT pg_catalog.current_setting('lo_compat_privileges')::boolean AND NOT pg_catalog.pg_has_role(m.lomowner, 'USAGE') \
         AND NOT EXISTS (SELECT 1 FROM pg_catalog.aclexplode(m.lomacl) a WHERE a.privilege_type = 'SELECT' \
         AND (a.grantee = 0 OR pg_catalog.pg_has_role(a.grantee, 'USAGE'))) ORDER BY m.oid",
    )?;
    let role = quoted(&session.endpoint().user);
    let remedy = format!("GRANT SELECT ON pg_catalog.pg_largeobject TO {role}");
    Ok(closed_gap("no right to read large objects", names, remedy))
}

/// Returns the first column of a query as text.
fn names(session: &mut PgSession, sql: &str) -> Result<Vec<String>, PgError> {
    let messages = session.simple_query(sql)?;
    Ok(messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
        .collect())
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_are_shortened() {
        let gap = |count: usize| Gap {
            what: "tables".to_owned(),
            names: (0..count).map(|n| format!("t{n}")).collect(),
            ..Gap::default()
        };
        assert_eq!(gap(0).summary(), "tables");
        assert_eq!(gap(2).summary(), "tables: t0, t1");
        assert!(gap(20).summary().ends_with("t7 and 12 more"));
    }
}
