//! How many connections a server gives to a role, and what to set where that is too few.
//!
//! The numbers are those of the moment; what others take later is met as a refused connection.

use super::catalog::{number, rows, text};
use crate::source::postgres::{PgError, PgSession};

/// What a server, a role and a database allow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    role: String,
    database: String,
    /// Connections that the server has for this role, those of others taken off.
    server_free: usize,
    server_max: usize,
    /// The same of `CONNECTION LIMIT` of the role, with the limit itself.
    role_free: Option<(usize, usize)>,
    /// The same of the database.
    database_free: Option<(usize, usize)>,
}

/// Which limit decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Allowed {
    pub(super) connections: usize,
    /// Whose limit that is, with what to set.
    pub(super) reason: String,
}

impl Limits {
    /// Asks the server.
    pub(super) fn read(session: &mut PgSession) -> Result<Self, PgError> {
        let reserved = match session.version_num() >= 90_600 {
            true => "coalesce(pg_catalog.current_setting('reserved_connections', true), '0')::int",
            false => "0",
        };
        let sql = format!(
            "SELECT s.max, CASE WHEN r.rolsuper THEN s.max ELSE s.max - s.superuser - s.reserved END, \
             (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity WHERE datid IS NOT NULL AND pid <> pg_catalog.pg_backend_pid()), \
             r.rolname, r.rolsuper, r.rolconnlimit, \
             (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity WHERE usesysid = r.oid AND pid <> pg_catalog.pg_backend_pid()), \
             d.datname, d.datconnlimit, \
             (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity WHERE datid = d.oid AND pid <> pg_catalog.pg_backend_pid()) \
             FROM pg_catalog.pg_roles r, pg_catalog.pg_database d, (SELECT pg_catalog.current_setting('max_connections')::int AS max, \
             pg_catalog.current_setting('superuser_reserved_connections')::int AS superuser, {reserved} AS reserved) s \
             WHERE r.rolname = session_user AND d.datname = pg_catalog.current_database()"
        );
        let found = rows(session, &sql)?;
        let Some(row) = found.first() else {
            return Ok(Self::unknown());
        };
        let count = |column| number::<usize>(row, column);
        let superuser = text(row, 4) == "t";
        let limit = |column, used| {
            let limit = usize::try_from(number::<i64>(row, column)).ok();
            let limit = limit.filter(|_| !superuser)?;
            Some((limit.saturating_sub(count(used)), limit))
        };
        Ok(Self {
            role: text(row, 3),
            database: text(row, 7),
            server_free: count(1).saturating_sub(count(2)),
            server_max: count(0),
            role_free: limit(5, 6),
            database_free: limit(8, 9),
        })
    }

    /// No limits.
    fn unknown() -> Self {
        Self {
            server_free: usize::MAX,
            server_max: usize::MAX,
            ..Self::default()
        }
    }

    /// Returns how many connections a run may have: what was asked for, else half of what the server has free.
    pub(super) fn of_server(&self, wanted: Option<usize>) -> Allowed {
        let own = match wanted {
            Some(wanted) => Allowed {
                connections: wanted,
                reason: format!("connections-max = {wanted}"),
            },
            None => Allowed {
                connections: (self.server_free / 2).max(2),
                reason: format!(
                    "half of the {} connections that the server has free (max_connections = {}; connections-max in [limits] sets another number)",
                    self.server_free, self.server_max
                ),
            },
        };
        match self.role_free {
            Some((free, limit)) if free < own.connections => Allowed {
                connections: free.max(1),
                reason: self.role_words(free, limit),
            },
            _ => own,
        }
    }

    fn role_words(&self, free: usize, limit: usize) -> String {
        format!(
            "role \"{}\" may have {limit} connections and {} of them are taken (ALTER ROLE \"{}\" CONNECTION LIMIT sets another number)",
            self.role,
            limit - free,
            self.role
        )
    }

    /// Returns how many connections the database allows, if it has a limit.
    pub(super) fn of_database(&self) -> Option<Allowed> {
        let (free, limit) = self.database_free?;
        Some(Allowed {
            connections: free.max(1),
            reason: format!(
                "database \"{}\" may have {limit} connections and {} of them are taken (ALTER DATABASE \"{}\" CONNECTION LIMIT sets another number)",
                self.database,
                limit - free,
                self.database
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_limit_decides() {
        let check = |role_free, wanted, expected: usize, words: &str| {
            let limits = Limits {
                role: "r".to_owned(),
                server_free: 60,
                server_max: 100,
                role_free,
                ..Limits::default()
            };
            let allowed = limits.of_server(wanted);
            assert_eq!(allowed.connections, expected);
            assert!(allowed.reason.contains(words), "{}", allowed.reason);
        };
        check(None, None, 30, "half of the 60");
        check(None, Some(70), 70, "connections-max = 70");
        check(
            Some((2, 3)),
            None,
            2,
            "may have 3 connections and 1 of them are taken (ALTER ROLE \"r\"",
        );
        check(Some((50, 50)), None, 30, "half");
        check(Some((0, 3)), Some(5), 1, "ALTER ROLE");
    }
}
