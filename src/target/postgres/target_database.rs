//! The target before the restore: what its cluster has, whether the database is there and empty; and creating it.
//!
//! Nothing that exists is dropped or restored over, unless it was asked for.

use std::collections::{BTreeMap, BTreeSet};

use super::error::RestoreError;
use super::globals::ExistingGlobals;
use crate::source::postgres::{
    ConnInfo, ConnSettings, ConnectOptions, Connector, PgError, PgSession, RetryPolicy,
};

/// Databases that nearly every cluster has, in the order in which we try to work from them.
const MAINTENANCE: [&str; 2] = ["postgres", "template1"];

/// What the target database holds of somebody's own. Whatever every new database has from the start does not count; publications came with 10.
const HOLDS: &str = "
WITH plpgsql AS (
    SELECT d.classid, d.objid FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension x ON x.oid = d.refobjid
    WHERE d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e' AND x.extname = 'plpgsql'
), own AS (
    SELECT n.oid, n.nspname FROM pg_catalog.pg_namespace n WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
), found(what, number) AS (
    SELECT 'relation', count(*) FROM pg_catalog.pg_class c JOIN own ON own.oid = c.relnamespace
    UNION ALL
    SELECT 'function', count(*) FROM pg_catalog.pg_proc p JOIN own ON own.oid = p.pronamespace
    UNION ALL
    SELECT 'type', count(*) FROM pg_catalog.pg_type t JOIN own ON own.oid = t.typnamespace WHERE t.typrelid = 0 AND t.typelem = 0
    UNION ALL
    SELECT 'schema', count(*) FROM own WHERE own.nspname <> 'public'
    UNION ALL
    SELECT 'extension', count(*) FROM pg_catalog.pg_extension WHERE extname <> 'plpgsql'
    UNION ALL
    SELECT 'large object', count(*) FROM pg_catalog.pg_largeobject_metadata
    UNION ALL
    SELECT 'event trigger', count(*) FROM pg_catalog.pg_event_trigger
    UNION ALL
    SELECT 'foreign server', count(*) FROM pg_catalog.pg_foreign_server
    UNION ALL
    SELECT 'language', count(*) FROM pg_catalog.pg_language l
    WHERE l.oid >= 16384 AND NOT EXISTS (SELECT FROM plpgsql WHERE classid = 'pg_catalog.pg_language'::pg_catalog.regclass AND objid = l.oid)
)
SELECT what, number FROM found WHERE number > 0";
const HOLDS_PUBLICATIONS: &str =
    " UNION ALL SELECT 'publication', count(*) FROM pg_catalog.pg_publication HAVING count(*) > 0";

/// Where a database is restored to: a server and the name that the database gets.
#[derive(Debug, Clone)]
pub struct RestoreTarget {
    connector: Connector,
    database: String,
    retry: RetryPolicy,
}

impl RestoreTarget {
    /// The target that a connection string names; an error when it names no database, because the default (the role's name) would be a guess.
    pub fn new(info: &ConnInfo, settings: ConnSettings) -> Result<Self, RestoreError> {
        if info.get("dbname").is_none_or(str::is_empty) {
            return Err(RestoreError::NoDatabaseName);
        }
        let database = settings.dbname.clone();
        Ok(Self {
            connector: Connector::new(settings),
            database,
            retry: RetryPolicy::default(),
        })
    }

    /// A target on the connector's server.
    pub fn with_name(connector: Connector, database: impl Into<String>) -> Self {
        Self {
            connector,
            database: database.into(),
            retry: RetryPolicy::default(),
        }
    }

    /// The same, tried as patiently as this says.
    #[must_use]
    pub fn with_retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// The same server, another name.
    pub(crate) fn renamed(&self, database: &str) -> Self {
        Self {
            connector: self.connector.clone(),
            database: database.to_owned(),
            retry: self.retry,
        }
    }

    /// Name of the restored database.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Reaches the database under its own name.
    pub(crate) fn own_connector(&self) -> Connector {
        self.connector.with_dbname(&self.database)
    }

    /// Connects to a database of the cluster that is there in any case.
    pub(crate) fn maintenance(&self) -> Result<PgSession, RestoreError> {
        self.maintenance_with(&ConnectOptions {
            retry: self.retry,
            ..ConnectOptions::restore()
        })
    }

    /// The same without a second try, for tidying up after a server that may be gone.
    pub(crate) fn maintenance_once(&self) -> Result<PgSession, RestoreError> {
        self.maintenance_with(&ConnectOptions {
            retry: RetryPolicy::once(),
            ..ConnectOptions::restore()
        })
    }

    fn maintenance_with(&self, options: &ConnectOptions) -> Result<PgSession, RestoreError> {
        let mut first = None;
        for name in MAINTENANCE
            .into_iter()
            .filter(|name| *name != self.database)
        {
            match self.connector.with_dbname(name).connect(options) {
                Ok(session) => return Ok(session),
                // The database does not exist, or nobody may connect to it.
                Err(error)
                    if error
                        .code()
                        .is_some_and(|code| ["3D000", "42501", "28000"].contains(&code)) =>
                {
                    first.get_or_insert(error);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(first.map_or(RestoreError::NoDatabaseName, RestoreError::Target))
    }

    /// A connector to the restored database on the very server of this session.
    pub(crate) fn connector(&self, maintenance: &PgSession) -> Connector {
        maintenance.connector().with_dbname(&self.database)
    }
}

/// Roles and tablespaces of the cluster.
pub(crate) fn existing_globals(session: &mut PgSession) -> Result<ExistingGlobals, PgError> {
    Ok(ExistingGlobals {
        roles: names(session, "SELECT rolname FROM pg_catalog.pg_roles")?,
        tablespaces: names(session, "SELECT spcname FROM pg_catalog.pg_tablespace")?,
    })
}

fn names(session: &mut PgSession, sql: &str) -> Result<BTreeSet<Vec<u8>>, PgError> {
    Ok(session
        .simple_column(sql)?
        .into_iter()
        .flatten()
        .map(String::into_bytes)
        .collect())
}

/// Extensions that the server could create.
pub(crate) fn offered_extensions(session: &mut PgSession) -> Result<BTreeSet<String>, PgError> {
    let names = session.simple_column("SELECT name FROM pg_catalog.pg_available_extensions")?;
    Ok(names.into_iter().flatten().collect())
}

/// Extensions of the database with their versions.
pub(crate) fn extension_versions(
    session: &mut PgSession,
) -> Result<BTreeMap<String, String>, PgError> {
    let sql = "SELECT extname::text, extversion FROM pg_catalog.pg_extension";
    let rows = session.query(sql, &[])?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// What a database is that exists already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExistingDatabase {
    pub(crate) encoding: String,
    pub(crate) collate: String,
    pub(crate) ctype: String,
}

/// Looks for a database of this name.
pub(crate) fn existing_database(
    session: &mut PgSession,
    name: &str,
) -> Result<Option<ExistingDatabase>, PgError> {
    let sql = "SELECT pg_catalog.pg_encoding_to_char(encoding)::text, datcollate::text, datctype::text FROM pg_catalog.pg_database WHERE datname = $1";
    let row = session.query_opt(sql, &[&name])?;
    Ok(row.map(|row| ExistingDatabase {
        encoding: row.get(0),
        collate: row.get(1),
        ctype: row.get(2),
    }))
}

/// Refuses a database that holds anything.
pub(crate) fn require_empty(session: &mut PgSession, database: &str) -> Result<(), RestoreError> {
    let publications = match session.version_num() {
        100_000.. => HOLDS_PUBLICATIONS,
        _ => "",
    };
    let rows = session.query(&format!("{HOLDS}{publications}"), &[])?;
    if rows.is_empty() {
        return Ok(());
    }
    let counts = rows.iter().map(|row| counted(row.get(1), row.get(0)));
    Err(RestoreError::NotEmpty {
        database: database.to_owned(),
        holds: counts.collect::<Vec<_>>().join(", "),
    })
}

fn counted(number: i64, what: &str) -> String {
    match (number, what) {
        (1, what) => format!("1 {what}"),
        (number, what) => format!("{number} {what}s"),
    }
}

/// Tables, views and sequences of the database, as `schema.name`.
pub(crate) fn existing_relations(session: &mut PgSession) -> Result<BTreeSet<String>, PgError> {
    let names = session.simple_column(
        "SELECT n.nspname || '.' || c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')",
    )?;
    Ok(names.into_iter().flatten().collect())
}

/// Schemas of the database.
pub(crate) fn existing_schemas(session: &mut PgSession) -> Result<BTreeSet<String>, PgError> {
    let names = session.simple_column("SELECT nspname FROM pg_catalog.pg_namespace")?;
    Ok(names.into_iter().flatten().collect())
}

/// `schema.name` for people.
pub(crate) fn shown((schema, name): &(Vec<u8>, Vec<u8>)) -> String {
    let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    format!("{}.{}", text(schema), text(name))
}

/// The first few, and how many more.
pub(crate) fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names
        .iter()
        .take(SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// `DROP TABLE public.t;` of the archive for an object that may not be there; identities have no such statement.
pub(crate) fn drop_if_exists(sql: &str) -> Option<String> {
    const KINDS: [&str; 5] = [
        "MATERIALIZED VIEW",
        "FOREIGN TABLE",
        "TABLE",
        "VIEW",
        "SEQUENCE",
    ];
    let rest = sql.strip_prefix("DROP ")?;
    let kind = KINDS.iter().find(|kind| rest.starts_with(*kind))?;
    let name = rest.strip_prefix(*kind)?;
    Some(format!("DROP {kind} IF EXISTS{name}"))
}
