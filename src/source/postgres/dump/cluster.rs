//! Clusters: which databases are neighbours, what a cluster is called in the tree, its globals.
//!
//! A cluster is known by its system identifier, whatever name it is reached by; a running server by the time
//! at which it was started too, because a standby has the identifier of its primary. Where the server does
//! not tell, the address has to do.
//!
//! Invariants: (1) one cluster is one folder below `/clusters` (`two_names_of_a_cluster_are_one_folder`);
//! (2) two clusters never share one (`clusters_of_one_name_stay_apart`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::DatabaseSource;
use super::budget::Budget;
use super::catalog::{rows, text};
use super::schema::{self, Output};
use crate::source::postgres::connect::{Endpoint, EndpointAddress};
use crate::source::postgres::{PgError, PgSession};

/// Digits of the system identifier that tell clusters of one name apart.
const DIGITS: usize = 6;

/// What tells servers and clusters apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    /// The system identifier, where the server tells it.
    pub(super) system_identifier: Option<String>,
    /// Databases with the same one share their globals.
    cluster: String,
    /// Databases with the same one share their snapshots, and the connections.
    pub(super) server: String,
}

impl Identity {
    /// Asks a server.
    pub(super) fn read(session: &mut PgSession) -> Result<Self, PgError> {
        let endpoint = session.endpoint();
        let place = format!("{:?} {}", endpoint.address, endpoint.port);
        let unknown = Self {
            system_identifier: None,
            cluster: place.clone(),
            server: place,
        };
        if session.version_num() < 90_600 {
            return Ok(unknown);
        }
        let sql = "SELECT (SELECT system_identifier FROM pg_catalog.pg_control_system()), pg_catalog.pg_postmaster_start_time()";
        match rows(session, sql) {
            Ok(found) => {
                let Some(row) = found.first() else {
                    return Ok(unknown);
                };
                let identifier = text(row, 0);
                Ok(Self {
                    server: format!("{identifier} {}", text(row, 1)),
                    cluster: identifier.clone(),
                    system_identifier: Some(identifier),
                })
            }
            // Somebody took the right away.
            Err(error) if error.server_error().is_some() => Ok(unknown),
            Err(error) => Err(error),
        }
    }
}

/// A cluster and what belongs to it as a whole.
#[derive(Debug)]
pub(super) struct Cluster {
    /// Its name in the tree.
    pub(super) name: String,
    /// Its system identifier, if it is known.
    pub(super) system_identifier: Option<String>,
    /// Roles, tablespaces and settings; or why they could not be read. Taken by who writes them first.
    pub(super) globals: Mutex<Option<Result<Output, String>>>,
    /// Why the globals are missing, for every database of the cluster.
    pub(super) globals_failure: Option<String>,
}

/// A running server that databases of this run are read from.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) identity: Identity,
    pub(super) budget: Arc<Budget>,
    /// What the budget comes from, and what to set.
    pub(super) limit: String,
}

/// All clusters of a run.
#[derive(Debug, Default)]
pub(super) struct Clusters {
    known: Mutex<BTreeMap<String, Arc<Cluster>>>,
}

impl Clusters {
    /// Returns the cluster of a database; its globals are dumped for the first one.
    pub(super) fn of(
        &self,
        source: &DatabaseSource,
        session: &mut PgSession,
        server: &Server,
        passwords: bool,
        encoding: &str,
    ) -> Arc<Cluster> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let identity = &server.identity;
        if let Some(cluster) = known.get(&identity.cluster) {
            return Arc::clone(cluster);
        }
        let taken: Vec<&str> = known
            .values()
            .map(|cluster| cluster.name.as_str())
            .collect();
        let name = folder_name(
            &place(session.endpoint()),
            identity.system_identifier.as_deref(),
            &taken,
        );
        let globals = dump_globals(source, session, server, passwords, encoding);
        let globals_failure = globals
            .as_ref()
            .err()
            .map(|reason| format!("globals of the cluster are missing: {reason}"));
        let cluster = Arc::new(Cluster {
            name,
            system_identifier: identity.system_identifier.clone(),
            globals: Mutex::new(Some(globals)),
            globals_failure,
        });
        known.insert(identity.cluster.clone(), Arc::clone(&cluster));
        cluster
    }
}

fn dump_globals(
    source: &DatabaseSource,
    session: &mut PgSession,
    server: &Server,
    passwords: bool,
    encoding: &str,
) -> Result<Output, String> {
    // Names of roles have no encoding of their own: they are bytes, made in one database and read in another. Most are made in UTF-8.
    let other = match encoding {
        "UTF8" => None,
        _ => utf8_database(session),
    };
    let stop = &source.options.stop;
    let Some(_child) = server.budget.child(&|| stop.is_set()) else {
        return Err("interrupted".to_owned());
    };
    let dump = |dbname: &str| {
        schema::dump_globals(
            &session.connector().with_dbname(dbname),
            session.version_num(),
            passwords,
            &source.options.tools,
            stop,
        )
    };
    let own = source.settings.dbname.as_str();
    match other {
        Some(other) => dump(&other).or_else(|_refused| dump(own)),
        None => dump(own),
    }
    .map_err(|error| error.into_source().to_string())
}

/// Returns the usual database for tools, if it is one in UTF-8.
fn utf8_database(session: &mut PgSession) -> Option<String> {
    let found = session.simple_column(
        "SELECT datname FROM pg_catalog.pg_database WHERE datname = 'postgres' AND datallowconn \
         AND pg_catalog.pg_encoding_to_char(encoding) = 'UTF8' AND pg_catalog.has_database_privilege(oid, 'CONNECT')",
    );
    found.ok()?.into_iter().flatten().next()
}

/// Says where a cluster is, as an operator knows it.
fn place(endpoint: &Endpoint) -> String {
    let host = match (&endpoint.host, &endpoint.address) {
        (Some(host), _) => host.clone(),
        (None, EndpointAddress::Tcp(address)) => address.to_string(),
        (None, EndpointAddress::Socket(_)) => "local".to_owned(),
    };
    format!("{host}-{}", endpoint.port)
}

/// Names the folder of a cluster by its place; a second one of that place gets the end of its identifier too.
fn folder_name(place: &str, identifier: Option<&str>, taken: &[&str]) -> String {
    let end = identifier.map(|all| &all[all.len().saturating_sub(DIGITS)..]);
    let longer = end.into_iter().map(|end| format!("{place}-{end}"));
    let numbered = (2..).map(|count| format!("{place}-{count}"));
    std::iter::once(place.to_owned())
        .chain(longer)
        .chain(numbered)
        .find(|name| !taken.contains(&name.as_str()))
        .unwrap_or_else(|| place.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_of_one_name_stay_apart() {
        let check = |identifier: Option<&str>, taken: &[&str], expected: &str| {
            assert_eq!(folder_name("db-5432", identifier, taken), expected);
        };
        let identifier = Some("7451234567890123456");
        check(identifier, &[], "db-5432");
        check(identifier, &["db-5433"], "db-5432");
        check(identifier, &["db-5432"], "db-5432-123456");
        check(identifier, &["db-5432", "db-5432-123456"], "db-5432-2");
        check(None, &["db-5432"], "db-5432-2");
        check(Some("12"), &["db-5432"], "db-5432-12");
    }
}
