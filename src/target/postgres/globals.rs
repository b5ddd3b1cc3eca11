//! Which statements of a cluster's `globals.sql` a restore executes: roles, their settings and memberships, tablespaces. Pure: what the target has comes
//! in as an argument. It never changes what exists already unless [`Globals::All`] asks for it, and never drops anything.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::sql::{Token, quote_identifier, statements, tokens};

/// How much of a cluster's globals a restore brings along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Globals {
    /// Roles and tablespaces that the target lacks; what exists is not touched.
    #[default]
    Missing,
    /// Nothing.
    None,
    /// Everything: attributes, passwords and settings of existing roles are set to those of the archive.
    All,
}

/// What the target cluster has before.
#[derive(Debug, Clone, Default)]
pub struct ExistingGlobals {
    /// Names of its roles.
    pub roles: BTreeSet<Vec<u8>>,
    /// Names of its tablespaces.
    pub tablespaces: BTreeSet<Vec<u8>>,
}

/// What one statement is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GlobalSubject {
    /// `CREATE ROLE`.
    CreateRole(Vec<u8>),
    /// `CREATE TABLESPACE`.
    CreateTablespace(Vec<u8>),
    /// Attributes, settings, a comment or a label of a role.
    Role(Vec<u8>),
    /// A role given to a member.
    Membership {
        /// The role that is given.
        role: Vec<u8>,
        /// Who gets it.
        member: Vec<u8>,
    },
    /// Settings, ACL or comment of a tablespace.
    Tablespace(Vec<u8>),
    /// The right to change a setting.
    Parameter {
        /// Who gets it, if it is a role.
        grantee: Option<Vec<u8>>,
    },
    /// `SET` of the script's own session.
    Session,
    /// Something that this version does not know.
    Other,
}

/// A statement of `globals.sql`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlobalStatement {
    /// The statement without its semicolon.
    pub sql: Vec<u8>,
    /// What it is about.
    pub subject: GlobalSubject,
}

impl GlobalStatement {
    /// A description without what may be secret (passwords).
    pub fn label(&self) -> String {
        let name = |n: &[u8]| String::from_utf8_lossy(n).into_owned();
        match &self.subject {
            GlobalSubject::CreateRole(role) => format!("CREATE ROLE {}", name(role)),
            GlobalSubject::Role(role) => format!("settings of role {}", name(role)),
            GlobalSubject::Membership { role, member } => {
                format!("GRANT {} TO {}", name(role), name(member))
            }
            GlobalSubject::CreateTablespace(space) => format!("CREATE TABLESPACE {}", name(space)),
            GlobalSubject::Tablespace(space) => format!("settings of tablespace {}", name(space)),
            GlobalSubject::Parameter { .. } => "GRANT ON PARAMETER".to_owned(),
            GlobalSubject::Session => "SET".to_owned(),
            GlobalSubject::Other => "statement".to_owned(),
        }
    }
}

/// Splits `globals.sql` into statements. `pg_dumpall` always prints with `standard_conforming_strings = on`.
pub fn parse_globals(script: &[u8]) -> Vec<GlobalStatement> {
    statements(script, true)
        .into_iter()
        .map(|sql| {
            let subject = subject(&sql, &tokens(&sql, true));
            GlobalStatement { sql, subject }
        })
        .collect()
}

fn subject(sql: &[u8], tokens: &[Token]) -> GlobalSubject {
    let is = |n: usize, word: &str| tokens.get(n).is_some_and(|t| t.is(sql, word));
    let name = |n: usize| {
        tokens
            .get(n)
            .and_then(|t| t.identifier(sql))
            .unwrap_or_default()
    };
    let position = |word: &str| tokens.iter().position(|t| t.is(sql, word));
    let after = |word: &str| position(word).map_or(Vec::new(), |n| name(n + 1));
    if is(0, "SET") || is(0, "SELECT") {
        GlobalSubject::Session
    } else if is(0, "CREATE") && is(1, "ROLE") {
        GlobalSubject::CreateRole(name(2))
    } else if is(0, "CREATE") && is(1, "TABLESPACE") {
        GlobalSubject::CreateTablespace(name(2))
    } else if is(0, "ALTER") && is(1, "ROLE") {
        GlobalSubject::Role(name(2))
    } else if is(0, "ALTER") && is(1, "TABLESPACE") {
        GlobalSubject::Tablespace(name(2))
    } else if (is(0, "COMMENT") || is(0, "SECURITY")) && position("TABLESPACE").is_some() {
        GlobalSubject::Tablespace(after("TABLESPACE"))
    } else if (is(0, "COMMENT") || is(0, "SECURITY")) && position("ROLE").is_some() {
        GlobalSubject::Role(after("ROLE"))
    } else if (is(0, "GRANT") || is(0, "REVOKE")) && position("PARAMETER").is_some() {
        let public = position("TO").is_some_and(|n| is(n + 1, "PUBLIC"));
        GlobalSubject::Parameter {
            grantee: (!public && is(0, "GRANT")).then(|| after("TO")),
        }
    } else if (is(0, "GRANT") || is(0, "REVOKE")) && position("TABLESPACE").is_some() {
        GlobalSubject::Tablespace(after("TABLESPACE"))
    } else if is(0, "GRANT") && is(2, "TO") {
        GlobalSubject::Membership {
            role: name(1),
            member: name(3),
        }
    } else {
        GlobalSubject::Other
    }
}

/// The statements to execute, in order.
pub fn select_globals(
    script: &[u8],
    existing: &ExistingGlobals,
    mode: Globals,
) -> Vec<GlobalStatement> {
    if mode == Globals::None {
        return Vec::new();
    }
    let mut selected = parse_globals(script);
    let all = mode == Globals::All;
    let new_role = |role: &Vec<u8>| !existing.roles.contains(role);
    let new_space = |space: &Vec<u8>| !existing.tablespaces.contains(space);
    selected.retain(|statement| match &statement.subject {
        GlobalSubject::CreateRole(role) => new_role(role),
        GlobalSubject::Role(role) => all || new_role(role),
        GlobalSubject::Membership { role, member } => all || new_role(role) || new_role(member),
        GlobalSubject::CreateTablespace(space) => new_space(space),
        GlobalSubject::Tablespace(space) => all || new_space(space),
        GlobalSubject::Parameter { grantee } => all || grantee.as_ref().is_some_and(new_role),
        GlobalSubject::Other => all,
        GlobalSubject::Session => false,
    });
    selected
}

/// Whether a role is one of PostgreSQL's own, which every cluster has and nobody can create.
pub fn is_predefined_role(role: &[u8]) -> bool {
    role.starts_with(b"pg_")
}

/// The roles that a script creates.
pub fn created_roles(statements: &[GlobalStatement]) -> BTreeSet<Vec<u8>> {
    let created = statements
        .iter()
        .filter_map(|statement| match &statement.subject {
            GlobalSubject::CreateRole(role) => Some(role.clone()),
            _ => None,
        });
    created.collect()
}

/// `CREATE ROLE` for a role that no script describes: no login, no rights.
pub fn bare_role(role: &[u8]) -> GlobalStatement {
    let mut sql = b"CREATE ROLE ".to_vec();
    sql.extend_from_slice(&quote_identifier(role));
    GlobalStatement {
        sql,
        subject: GlobalSubject::CreateRole(role.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: &[u8] = include_bytes!("testdata/tiny-globals.sql");
    const RICH: &[u8] = b"\\restrict k
SET client_encoding = 'UTF8';
CREATE ROLE a;
ALTER ROLE a WITH LOGIN PASSWORD 'SCRAM-SHA-256$4096:x;y';
CREATE ROLE \"B b\";
ALTER ROLE \"B b\" WITH NOLOGIN;
COMMENT ON ROLE \"B b\" IS 'TABLESPACE
\\q; x';
ALTER ROLE a SET search_path TO '$user', 'TABLESPACE';
GRANT a TO \"B b\" WITH ADMIN OPTION GRANTED BY postgres;
GRANT SET ON PARAMETER work_mem TO a;
CREATE TABLESPACE \"t s\" OWNER a LOCATION '/srv/ts';
ALTER TABLESPACE \"t s\" SET (random_page_cost=1.5);
REVOKE ALL ON TABLESPACE \"t s\" FROM a;
COMMENT ON TABLESPACE \"t s\" IS 'ROLE';
\\unrestrict k
";

    fn set(names: &[&str]) -> BTreeSet<Vec<u8>> {
        names.iter().map(|n| n.as_bytes().to_vec()).collect()
    }

    fn labels(script: &[u8], existing: &ExistingGlobals, mode: Globals) -> Vec<String> {
        select_globals(script, existing, mode)
            .iter()
            .map(GlobalStatement::label)
            .collect()
    }

    #[test]
    fn missing_roles_are_taken_and_existing_ones_left() {
        let check = |roles: &[&str], tablespaces: &[&str], mode, expected: &[&str]| {
            let existing = ExistingGlobals {
                roles: set(roles),
                tablespaces: set(tablespaces),
            };
            assert_eq!(labels(RICH, &existing, mode), expected);
        };
        let (a, b, ts) = (
            "settings of role a",
            "settings of role B b",
            "settings of tablespace t s",
        );
        let member = "GRANT a TO B b";
        let everything = [
            "CREATE ROLE a",
            a,
            "CREATE ROLE B b",
            b,
            b,
            a,
            member,
            "GRANT ON PARAMETER",
            "CREATE TABLESPACE t s",
            ts,
            ts,
            ts,
        ];
        check(&[], &[], Globals::Missing, &everything);
        check(&[], &[], Globals::All, &everything);
        check(&[], &[], Globals::None, &[]);
        check(&["a", "B b"], &["t s"], Globals::Missing, &[]);
        check(
            &["a"],
            &["t s"],
            Globals::Missing,
            &["CREATE ROLE B b", b, b, member],
        );
        check(
            &["a", "B b"],
            &["t s"],
            Globals::All,
            &[a, b, b, a, member, "GRANT ON PARAMETER", ts, ts, ts],
        );
    }

    #[test]
    fn reads_what_pg_dumpall_wrote() {
        let existing = ExistingGlobals {
            roles: set(&["postgres"]),
            tablespaces: BTreeSet::new(),
        };
        let selected = select_globals(TINY, &existing, Globals::Missing);
        assert_eq!(
            created_roles(&selected),
            set(&["tiny_owner", "tiny_reader"])
        );
        assert_eq!(selected.len(), 4);
        assert!(
            parse_globals(TINY)
                .iter()
                .all(|s| s.subject != GlobalSubject::Other)
        );
    }

    #[test]
    fn a_label_shows_no_password() {
        assert!(
            parse_globals(RICH)
                .iter()
                .all(|s| !s.label().contains("SCRAM"))
        );
    }
}
