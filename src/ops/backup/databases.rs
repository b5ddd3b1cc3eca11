//! Databases: all snapshots opened together first, streamed when the trees are read.

use super::components::{Taken, chain, fail};
use super::engine::Engine;
use super::{BackupOptions, Interrupt, now};
use crate::error::{Error, Result};
use crate::format::node::{Subtree, Timestamp};
use crate::format::path_encoding::encode_name;
use crate::format::snapshot::{ClusterConsistency, Component, ComponentKind, ComponentState};
use crate::pipeline::TreePath;
use crate::site::config::{AcceptedLoss, DatabaseSettings, LockMode};
use crate::site::redact_conninfo;
use crate::source::SourceError;
use crate::source::postgres::dump::{
    Database, DatabaseOutcome, DatabaseSource, DumpOptions, Locks, RowDigester, StreamOptions,
    cluster_consistency, open_snapshots, stream_databases, wait_for_schemas,
};
use crate::source::postgres::pgtools::ToolPlaces;
use crate::source::postgres::rights::Loss;
use crate::source::postgres::{ConnInfo, ConnSettings, StopFlag};
use crate::store::StoreError;

/// A database of the site: what becomes of its component.
struct Wanted {
    component: Component,
    base: TreePath,
    source: Result<DatabaseSource, String>,
}

/// Databases whose snapshots are open, and those that failed on the way.
#[derive(Default)]
pub(super) struct Open {
    open: Vec<(Component, TreePath, Database)>,
    failed: Vec<Component>,
}

impl Open {
    /// The databases, and when the snapshot of each was taken on its server's clock; none if it is opened later.
    pub(super) fn taken_at(&self) -> impl Iterator<Item = (&Component, Option<Timestamp>)> {
        self.open.iter().map(|(component, _, database)| {
            let taken_at = match database {
                Database::Open(open) => Some(of_millis(open.snapshot().time_ms)),
                Database::Waiting(_) => None,
            };
            (component, taken_at)
        })
    }
}

fn component(name: &str, conninfo: &str) -> (Component, TreePath) {
    let folder = encode_name(name.as_bytes());
    let base = TreePath::root()
        .join(ComponentKind::Database.folder().as_bytes())
        .join(&folder);
    let component = Component {
        kind: ComponentKind::Database,
        name: name.to_owned(),
        path: base.names().map(|name| name.to_vec().into()).collect(),
        started: now(),
        origin: redact_conninfo(conninfo),
        ..Component::default()
    };
    (component, base)
}

fn settings(conninfo: &str, options: &BackupOptions) -> Result<ConnSettings, String> {
    let parsed = ConnInfo::parse(conninfo).map_err(|e| chain(&e))?;
    parsed.resolve(&*options.environment).map_err(|e| chain(&e))
}

fn dump_options(options: &BackupOptions, interrupt: &Interrupt) -> DumpOptions {
    let tools = ToolPlaces {
        path: (options.environment)("PATH"),
        ..ToolPlaces::default()
    };
    DumpOptions {
        tools,
        connections_max: options.connections_max,
        stop: StopFlag::new(interrupt.flag()),
        ..DumpOptions::default()
    }
}

fn of_site(database: &DatabaseSettings, options: &BackupOptions, interrupt: &Interrupt) -> Wanted {
    let (component, base) = component(&database.name, database.conninfo.expose());
    let source = settings(database.conninfo.expose(), options).map(|mut settings| {
        if let Some(file) = &database.passfile {
            settings.set_passfile(file.clone());
        }
        let mut dump = dump_options(options, interrupt);
        dump.exclude_table_data
            .clone_from(&database.exclude_table_data);
        dump.exclude_schema.clone_from(&database.exclude_schema);
        dump.locks = match database.locks {
            LockMode::Optimistic => Locks::Optimistic,
            LockMode::Hold => Locks::Hold,
        };
        dump.unlogged_schema_only = database.unlogged_schema_only;
        dump.pause_replay = database.pause_replay;
        dump.strip_pg_attver = database.strip_pg_attver;
        dump.accepted = database.accept.iter().copied().map(loss).collect();
        dump.connections = database
            .connections
            .map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        if let Some(retries) = database.retries {
            dump.retry.tries = retries.max(1);
        }
        // The site may stand still now.
        if options.unreachable.contains(&database.name) {
            dump.retry.tries = 1;
        }
        DatabaseSource {
            name: database.name.clone(),
            settings,
            options: dump,
        }
    });
    Wanted {
        component,
        base,
        source,
    }
}

/// The words of a site file in those of the source.
pub(crate) fn loss(accepted: AcceptedLoss) -> Loss {
    match accepted {
        AcceptedLoss::RolePasswords => Loss::RolePasswords,
        AcceptedLoss::UserMappingOptions => Loss::UserMappingOptions,
        AcceptedLoss::Subscriptions => Loss::Subscriptions,
    }
}

fn of_argument(conninfo: &str, options: &BackupOptions, interrupt: &Interrupt) -> Wanted {
    let settings = settings(conninfo, options);
    let name = settings.as_ref().map_or_else(
        |_e| redact_conninfo(conninfo),
        |settings| settings.dbname.clone(),
    );
    let (component, base) = component(&name, conninfo);
    let options = DumpOptions {
        accepted: options.accept.clone(),
        ..dump_options(options, interrupt)
    };
    Wanted {
        component,
        base,
        source: settings.map(|settings| DatabaseSource {
            name,
            settings,
            options,
        }),
    }
}

/// Opens the snapshots of all databases together.
pub(super) fn open(engine: &Engine, options: &BackupOptions) -> Result<Open> {
    let site = options
        .site
        .as_ref()
        .map(|site| site.databases.as_slice())
        .unwrap_or_default();
    let wanted: Vec<Wanted> = site
        .iter()
        .map(|database| of_site(database, options, &engine.interrupt))
        .chain(
            options
                .databases
                .iter()
                .map(|conninfo| of_argument(conninfo, options, &engine.interrupt)),
        )
        .collect();
    let mut all = Open::default();
    let mut sources = Vec::new();
    let mut places = Vec::new();
    for Wanted {
        component,
        base,
        source,
    } in wanted
    {
        let taken = places
            .iter()
            .any(|(_, other): &(Component, TreePath)| *other == base);
        match source {
            Ok(_) if taken => {
                let message = format!(
                    "another database is called {}: name them in a site file",
                    component.name
                );
                all.failed.push(fail_alone(component, message));
            }
            Ok(source) => {
                sources.push(source);
                places.push((component, base));
            }
            Err(message) => all.failed.push(fail(engine, component, &base, message)?),
        }
    }
    if sources.is_empty() {
        return Ok(all);
    }
    for (opened, (component, base)) in open_snapshots(&sources).into_iter().zip(places) {
        match opened {
            Ok(open) => all.open.push((component, base, open)),
            Err(SourceError::Component(message)) => {
                all.failed.push(fail(engine, component, &base, message)?)
            }
            Err(SourceError::Run(e)) => return Err(e),
        }
    }
    Ok(all)
}

/// Waits until the schemas of the opened databases are dumped, so that nobody's change of a definition matters any more
/// while the rows wait for their turn.
pub(super) fn finish_schemas(engine: &Engine, open: &mut Open) -> Result<()> {
    let mut places = Vec::new();
    let mut databases = Vec::new();
    for (component, base, database) in open.open.drain(..) {
        places.push((component, base));
        databases.push(Ok(database));
    }
    for (slot, (component, base)) in wait_for_schemas(databases).into_iter().zip(places) {
        match slot {
            Ok(database) => open.open.push((component, base, database)),
            Err(SourceError::Component(message)) => {
                let failed = fail(engine, component, &base, message)?;
                open.failed.push(failed);
            }
            Err(SourceError::Run(e)) => return Err(e),
        }
    }
    Ok(())
}

/// Fails a component whose place in the tree belongs to another.
fn fail_alone(mut component: Component, message: String) -> Component {
    tracing::warn!(component = %component.name, "{message}");
    component.state = ComponentState::Failed;
    component.message = message;
    component.finished = now();
    component
}

/// Asks the rows of rules that tie them to files, each in the snapshot of its database.
pub(super) fn ask_references(engine: &Engine, open: &Open) -> Result<()> {
    for (component, _, database) in &open.open {
        if !engine.references.asks(&component.name) {
            continue;
        }
        let open = match database {
            Database::Open(open) => open,
            Database::Waiting(_) => {
                let reason = database.waits_because().unwrap_or_default();
                let reason = format!("its snapshot is taken later: {reason}");
                engine.references.distrust_rows(&component.name, &reason);
                continue;
            }
        };
        match open.session_beside() {
            Ok(mut beside) => {
                let asked = engine.references.ask(&component.name, &mut beside.session);
                beside.session.close();
                asked?;
            }
            Err(error) => engine
                .references
                .distrust_rows(&component.name, &error.to_string()),
        }
    }
    Ok(())
}

/// Streams the opened databases into the tree.
pub(super) fn stream(
    engine: &Engine,
    options: &BackupOptions,
    open: Open,
    taken: &mut Taken,
) -> Result<()> {
    taken.components.extend(open.failed);
    if open.open.is_empty() {
        return Ok(());
    }
    let secret = engine.repository.keyring().row_digest_secret();
    let secret = secret.map_err(|missing| StoreError::MissingSecret {
        what: missing.action.to_owned(),
    })?;
    let digester = RowDigester::new(secret.expose());
    let mut components = Vec::new();
    let mut databases = Vec::new();
    for (component, base, database) in open.open {
        let opened_at = match &database {
            Database::Open(open) => Some(open.snapshot().time_ms),
            Database::Waiting(_) => None,
        };
        components.push((component, base, opened_at));
        databases.push(database);
    }
    let settings = StreamOptions {
        connections: options.connections,
        content_digest: options.content_digest,
    };
    let results = stream_databases(databases, &engine.sink, &digester, settings);
    let mut outcomes = Vec::new();
    for ((component, base, opened_at), (_, result)) in components.into_iter().zip(results) {
        match result {
            Ok(outcome) => {
                if opened_at.is_some_and(|time| time != outcome.snapshot.time_ms) {
                    let reason = "the database was begun again with a later snapshot than the rows were asked in";
                    engine.references.distrust_rows(&component.name, reason);
                }
                taken.components.push(fill(component, &outcome));
                outcomes.push(outcome);
            }
            Err(SourceError::Component(message)) => taken
                .components
                .push(fail(engine, component, &base, message)?),
            Err(SourceError::Run(e)) => return Err(e),
        }
    }
    let consistency = cluster_consistency(&outcomes.iter().collect::<Vec<&DatabaseOutcome>>());
    taken
        .clusters
        .extend(consistency.into_iter().map(|c| ClusterConsistency {
            cluster: c.cluster,
            atomic: c.atomic,
            spread_ms: c.spread_ms,
        }));
    if engine.interrupt.is_set() {
        Err(Error::Interrupted)
    } else {
        Ok(())
    }
}

/// A server's time as it stands in the record.
fn of_millis(time: i64) -> Timestamp {
    let millis = u32::try_from(time.rem_euclid(1000)).unwrap_or_default();
    Timestamp {
        seconds: time.div_euclid(1000),
        nanos: millis * 1_000_000,
    }
}

fn fill(mut component: Component, outcome: &DatabaseOutcome) -> Component {
    component.finished = now();
    component.tables = outcome.tables;
    component.rows = outcome.rows;
    component.totals = Subtree {
        files: outcome.tables,
        directories: 0,
        bytes: outcome.bytes,
    };
    component.notes.extend(outcome.notes.iter().cloned());
    component.started = of_millis(outcome.snapshot.time_ms);
    if let Some(why) = &outcome.incomplete {
        component.state = ComponentState::Incomplete;
        component.message.clone_from(why);
    }
    component
}
