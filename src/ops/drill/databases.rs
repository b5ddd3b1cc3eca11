//! Databases: restored into a scratch cluster or under another name into a given server, read back, asked, dropped.

use std::time::Instant;

use super::{ComponentDrill, DrillEvent, QueryDrill, Stage};
use crate::error::{Error, Result};
use crate::format::snapshot::Component;
use crate::ops::archive::{DatabaseRestoreOptions, restore_database};
use crate::ops::connect::first_rows;
use crate::ops::preflight::{Outcome, compare_rows};
use crate::ops::restore::TroubleKind;
use crate::ops::scratch_cluster::{Cluster, Programs};
use crate::site::config::run::RestoreQuery;
use crate::source::postgres::pgtools::VERSION_FOLDERS;
use crate::source::postgres::{ConnInfo, ConnectOptions, Connector, PgError, PgSession};
use crate::target::postgres::{Globals, RestoreOptions, RestoreTarget};

/// How many rows of a query are looked at.
const ROWS_MAX: u32 = 1000;
/// How many rows of a query without an expectation are shown.
const ROWS_SHOWN: usize = 20;
/// The longest name of a database.
const NAME_BYTES_MAX: usize = 63;

/// Where databases are restored.
enum Server {
    /// A private one.
    Private(Cluster),
    /// One that others use too.
    Given(Box<Connector>),
}

impl Server {
    fn start(stage: &Stage<'_>) -> Result<Self> {
        let environment = &stage.options.environment;
        if let Some(server) = &stage.options.server {
            let message = |error: &dyn std::error::Error| Error::Message(error.to_string());
            let info = ConnInfo::parse(server.expose()).map_err(|e| message(&e))?;
            let settings = info.resolve(&|name| environment(name));
            return Ok(Self::Given(Box::new(Connector::new(
                settings.map_err(|e| message(&e))?,
            ))));
        }
        let path = environment("PATH");
        let programs = Programs::find(&VERSION_FOLDERS, path.as_deref())?;
        let cluster = Cluster::start(&programs, stage.folder.join("server"), false, stage.servers)?;
        Ok(Self::Private(cluster))
    }

    /// The name that a database gets here.
    fn name_of(&self, stage: &Stage<'_>, name: &str) -> String {
        match self {
            Self::Private(_) => name.to_owned(),
            Self::Given(_) => {
                let process = std::process::id();
                let mut own = format!(
                    "holdfast_drill_{}_{process}_{name}",
                    stage.snapshot.id.short()
                );
                while own.len() > NAME_BYTES_MAX {
                    own.pop();
                }
                own
            }
        }
    }

    fn target(&self, name: &str) -> Result<RestoreTarget> {
        match self {
            Self::Private(cluster) => cluster.target(name),
            Self::Given(connector) => {
                Ok(RestoreTarget::with_name(connector.with_dbname(name), name))
            }
        }
    }

    fn connect(&self, name: &str) -> Result<PgSession> {
        match self {
            Self::Private(cluster) => cluster.connect(name),
            Self::Given(connector) => connector
                .with_dbname(name)
                .connect(&ConnectOptions::default())
                .map_err(|error| Error::Message(error.to_string())),
        }
    }

    /// Drops a database of the drill, if it was made.
    fn drop_database(&self, own: &str) -> Result<()> {
        let maintenance = match self {
            Self::Private(_) => "template1",
            Self::Given(_) => "postgres",
        };
        let quoted = own.replace('"', "\"\"");
        let mut session = self.connect(maintenance)?;
        session
            .batch_execute(&format!("DROP DATABASE IF EXISTS \"{quoted}\""))
            .map_err(|error| {
                Error::Message(format!(
                    "cannot drop the database {own} of the drill; drop it by hand: {error}"
                ))
            })
    }
}

/// Exercises databases, one after the other.
pub(super) fn exercise(
    stage: &mut Stage<'_>,
    databases: &[Component],
    each: &mut dyn FnMut(DrillEvent),
) -> Result<()> {
    let chosen = choose(stage, databases);
    if chosen.is_empty() {
        return Ok(());
    }
    let server = Server::start(stage)?;
    for component in chosen {
        stage.check_interrupt()?;
        let own = server.name_of(stage, &component.name);
        let outcome = one(stage, &server, component, &own, each);
        // Also after an error, so that nothing is left behind.
        let dropped = match &server {
            // The bare names of a private server may be those of its own databases; all of it goes anyway.
            Server::Private(_) if ["postgres", "template1", "template0"].contains(&&*own) => Ok(()),
            _ => server.drop_database(&own),
        };
        outcome.and(dropped)?;
    }
    Ok(())
}

/// All databases; or some, until the wanted part of the bytes is met. Which ones changes with the seed of the sample.
fn choose<'c>(stage: &Stage<'_>, databases: &'c [Component]) -> Vec<&'c Component> {
    let sample = stage.options.sample;
    if sample.is_all() {
        return databases.iter().collect();
    }
    let total: u64 = databases.iter().map(|c| c.totals.bytes).sum();
    let wanted = u128::from(total) * u128::from(sample.percent()) / 100;
    let mut order: Vec<&Component> = databases.iter().collect();
    order.sort_by_key(|component| !sample.takes(component.name.as_bytes()));
    let mut bytes = 0u128;
    let mut chosen = Vec::new();
    for component in order {
        if !chosen.is_empty() && bytes >= wanted {
            break;
        }
        bytes += u128::from(component.totals.bytes);
        chosen.push(component);
    }
    chosen
}

fn one(
    stage: &mut Stage<'_>,
    server: &Server,
    component: &Component,
    own: &str,
    each: &mut dyn FnMut(DrillEvent),
) -> Result<()> {
    let begun = Instant::now();
    let mut found = ComponentDrill {
        kind: component.kind.folder(),
        name: component.name.clone(),
        ..ComponentDrill::default()
    };
    let foreign = matches!(server, Server::Given(_));
    let options = DatabaseRestoreOptions {
        restore: RestoreOptions {
            jobs: stage.jobs(),
            // Nothing of a drill may stay on a server of others.
            globals: match foreign {
                true => Globals::None,
                false => Globals::Missing,
            },
            no_owner: foreign,
            no_privileges: foreign,
            no_tablespaces: true,
            ..RestoreOptions::default()
        },
        check: true,
    };
    let mut damage = 0;
    let troubles = std::sync::Mutex::new(Vec::new());
    let restored = restore_database(
        stage.repository,
        &stage.id(),
        &component.name,
        &server.target(own)?,
        &options,
        stage.stats,
        stage.interrupt,
        &|trouble| {
            let mut troubles = troubles
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            troubles.push((trouble.kind == TroubleKind::Damaged, trouble.to_string()));
        },
    );
    let troubles = troubles
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    for (is_damage, text) in troubles {
        damage += u64::from(is_damage);
        found.problem(text);
    }
    let asked = match restored {
        Err(Error::Interrupted) => return Err(Error::Interrupted),
        // A server that can't take it is what a drill is to find out.
        Err(error) => {
            damage += u64::from(error.exit_code() == 4);
            found.problem(error.to_string());
            false
        }
        Ok(restored) => {
            let report = restored.report;
            damage += report.damaged;
            found.items = u64::try_from(report.tables.len()).unwrap_or(u64::MAX);
            found.rows = report.check.as_ref().map_or(0, |check| check.rows);
            for failure in &report.failures {
                found.problem(format!("{}: {}", failure.object, failure.reason));
            }
            match &report.check {
                None => found.problem("its rows were not read back".into()),
                Some(check) => {
                    for difference in &check.differences {
                        found.problem(format!("{difference:?}"));
                    }
                }
            }
            found.notes.clone_from(&report.notes);
            true
        }
    };
    stage.damaged += damage;
    found.seconds = begun.elapsed().as_secs_f64();
    each(DrillEvent::Component(found));
    let queries = stage.queries.iter();
    for query in queries.filter(|query| query.database == component.name) {
        let result = match asked {
            true => ask(server, own, query),
            false => (Some(false), "the database was not restored".into()),
        };
        each(DrillEvent::Query(QueryDrill {
            name: query.name.clone(),
            database: query.database.clone(),
            good: result.0,
            text: result.1,
        }));
    }
    Ok(())
}

fn ask(server: &Server, own: &str, query: &RestoreQuery) -> (Option<bool>, String) {
    let rows = server.connect(own).and_then(|mut session| {
        let rows = rows(&mut session, &query.sql);
        rows.map_err(|error| Error::Message(error.to_string()))
    });
    match (rows, &query.expect) {
        (Err(error), _) => (Some(false), error.to_string()),
        (Ok(rows), Some(expect)) => {
            let (outcome, text) = compare_rows(&rows, expect);
            (Some(outcome == Outcome::Holds), text)
        }
        (Ok(rows), None) => (None, shown(&rows)),
    }
}

fn rows(session: &mut PgSession, sql: &str) -> Result<Vec<Vec<Option<String>>>, PgError> {
    session.batch_execute("BEGIN READ ONLY")?;
    let rows = first_rows(session, sql, ROWS_MAX)?;
    session.batch_execute("ROLLBACK")?;
    Ok(rows)
}

/// Rows for people, one a line.
fn shown(rows: &[Vec<Option<String>>]) -> String {
    let line = |row: &Vec<Option<String>>| -> String {
        let values: Vec<&str> = row.iter().map(|v| v.as_deref().unwrap_or("NULL")).collect();
        values.join(", ")
    };
    let mut lines: Vec<String> = rows.iter().take(ROWS_SHOWN).map(line).collect();
    match rows.len() {
        0 => lines.push("no rows".into()),
        n if n > ROWS_SHOWN => lines.push(format!("… {} more rows", n - ROWS_SHOWN)),
        _ => {}
    }
    lines.join("\n")
}
