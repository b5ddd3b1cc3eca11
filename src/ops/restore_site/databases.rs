//! The databases of the target before anything is touched: where they are, what the role may do, who uses them, how much room there is.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::ops::backup::Environment;
use crate::site::config::DatabaseSettings;
use crate::source::postgres::connect::EndpointAddress;
use crate::source::postgres::{ConnInfo, ConnSettings, Connector, PgSession, RetryPolicy};
use crate::target::postgres::{RestoreError, RestoreTarget};

use super::plan::SessionOnTarget;

/// What was found on the server of a database.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    pub(super) exists: bool,
    /// Its size today.
    pub(super) bytes: u64,
    pub(super) sessions: Vec<SessionOnTarget>,
    /// Where its files are, if they are on this host.
    pub(super) data: Option<PathBuf>,
    /// What keeps it from being replaced.
    pub(super) problems: Vec<String>,
}

/// Where a database of the site file is.
pub(super) fn target(
    settings: &DatabaseSettings,
    environment: &Environment,
) -> Result<RestoreTarget> {
    let mut retry = RetryPolicy::default();
    if let Some(retries) = settings.retries {
        retry.tries = retries.max(1);
    }
    let settings = connection(settings, environment)?;
    let name = settings.dbname.clone();
    Ok(RestoreTarget::with_name(Connector::new(settings), name).with_retry(retry))
}

fn connection(settings: &DatabaseSettings, environment: &Environment) -> Result<ConnSettings> {
    let of = |e: &dyn std::error::Error| {
        Error::Message(format!("database {:?}: {}", settings.name, chain(e)))
    };
    let info = ConnInfo::parse(settings.conninfo.expose()).map_err(|e| of(&e))?;
    let mut resolved = info
        .resolve(&|name| environment(name))
        .map_err(|e| of(&e))?;
    if let Some(file) = &settings.passfile {
        resolved.set_passfile(file.clone());
    }
    Ok(resolved)
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

/// Connects, and looks.
pub(super) fn look(target: &RestoreTarget) -> Result<Look, RestoreError> {
    let mut session = target.maintenance()?;
    let mut look = Look::default();
    let database = target.database();
    if session.facts().in_recovery {
        look.problems.push(format!(
            "the server of database {database:?} is a standby, which takes nothing; name its primary"
        ));
    }
    let sql = "SELECT current_user::text, rolsuper, rolcreatedb FROM pg_catalog.pg_roles WHERE rolname = current_user";
    let row = session.query_one(sql, &[])?;
    let (role, superuser, creates): (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
    if !superuser && !creates {
        look.problems.push(format!(
            "role {role:?} may not create databases, and database {database:?} is restored into a new one; ALTER ROLE {role:?} CREATEDB"
        ));
    }
    let sql = "SELECT pg_catalog.pg_get_userbyid(datdba)::text, pg_catalog.pg_has_role(datdba, 'USAGE'), \
               CASE WHEN pg_catalog.has_database_privilege(oid, 'CONNECT') THEN pg_catalog.pg_database_size(oid) ELSE 0 END \
               FROM pg_catalog.pg_database WHERE datname = $1";
    if let Some(row) = session.query_opt(sql, &[&database])? {
        look.exists = true;
        let (owner, owns, bytes): (String, bool, i64) = (row.get(0), row.get(1), row.get(2));
        look.bytes = u64::try_from(bytes).unwrap_or_default();
        if !superuser && !owns {
            look.problems.push(format!(
                "role {role:?} does not own database {database:?} and can't replace it; GRANT {owner:?} TO {role:?}"
            ));
        }
        look.sessions = sessions(&mut session, database)?;
    }
    look.data = data_folder(&mut session);
    Ok(look)
}

/// Who uses a database.
pub(super) fn sessions(
    session: &mut PgSession,
    database: &str,
) -> Result<Vec<SessionOnTarget>, RestoreError> {
    let sql = "SELECT pid, coalesce(usename::text, ''), coalesce(application_name, ''), coalesce(client_addr::text, 'this host') \
               FROM pg_catalog.pg_stat_activity WHERE datname = $1 AND pid <> pg_catalog.pg_backend_pid() AND usename IS NOT NULL ORDER BY pid";
    let rows = session.query(sql, &[&database])?;
    Ok(rows
        .iter()
        .map(|row| SessionOnTarget {
            database: database.to_owned(),
            pid: row.get(0),
            user: row.get(1),
            application: row.get(2),
            from: row.get(3),
        })
        .collect())
}

/// Only over a socket are the server's files on this host.
fn data_folder(session: &mut PgSession) -> Option<PathBuf> {
    if !matches!(session.endpoint().address, EndpointAddress::Socket(_)) {
        return None;
    }
    let sql = "SELECT pg_catalog.current_setting('data_directory')";
    let row = session.query_one(sql, &[]).ok()?;
    let folder = PathBuf::from(row.get::<_, String>(0));
    folder.is_dir().then_some(folder)
}
