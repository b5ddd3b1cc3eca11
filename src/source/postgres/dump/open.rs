//! Opens the snapshots of all databases together, then reads what each database is.
//!
//! PostgreSQL has no snapshot across databases. Those of one cluster are taken right after one another and
//! compared by `pg_current_snapshot()`: equal ones show the same transactions, so the databases agree with
//! each other as if one snapshot covered them. Where others write all the time, the attempt is repeated;
//! what remains is a spread in milliseconds, which the archive states.
//!
//! Steps of one database: connect, `BEGIN` and export (with its cluster), catalog, sequences, `pg_dump`. The
//! transaction then stays open, without locks on tables, until the rows are copied.
//!
//! Each open snapshot is a connection. Where a cluster has more databases than it may have connections
//! ([`super::budget`]), the rest wait: their snapshots are taken one by one when others are done, and the
//! archive says that they are later.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::budget::Lease;
use super::catalog::{self, Catalog, Exclusions, number, rows, text};
use super::cluster::{Cluster, Clusters, Server};
use super::error::DumpError;
use super::hold::{self, Holder};
use super::limits::Allowed;
use super::schema::{self, Output, SchemaRequest};
use super::{DatabaseSource, Locks, admission};
use crate::error::Error;
use crate::source::SourceError;
use crate::source::postgres::replay::{self, ReplayPause};
use crate::source::postgres::{ConnectOptions, Connector, PgError, PgSession, RetryPolicy, rights};

/// How often the databases of a cluster are opened again for snapshots that agree.
const AGREEMENT_TRIES: u32 = 20;
/// How often one database is begun again because its definitions changed meanwhile.
pub(super) const RESTARTS_MAX: u32 = 3;
/// How often one database is begun again because the replay of a standby ended it: the next time is hardly better.
const REPLAYS_MAX: u32 = 1;
/// Children that dump schemas at a time.
const CHILDREN_AT_ONCE: usize = 8;
const BEGIN: &str = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// What is known of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotFacts {
    /// The name under which other sessions take it over.
    pub(super) exported: String,
    /// `pg_current_snapshot()` as text: equal ones show the same transactions.
    pub visible: String,
    /// When it was taken, by the server's clock, RFC 3339.
    pub time: String,
    /// The same in milliseconds since 1970.
    pub time_ms: i64,
    /// The position in the WAL right after it.
    pub lsn: String,
}

/// Everything about a database that was read in its snapshot before the rows.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) snapshot: SnapshotFacts,
    pub(super) catalog: Catalog,
    pub(super) schema: Output,
    pub(super) holder: Option<Holder>,
}

/// A database whose snapshot is open.
#[derive(Debug)]
pub struct OpenDatabase {
    pub(super) source: DatabaseSource,
    pub(super) session: Arc<Mutex<PgSession>>,
    pub(super) connector: Connector,
    pub(super) cluster: Arc<Cluster>,
    pub(super) prepared: Prepared,
    /// How often it was begun again.
    pub(super) again: Again,
    pub(super) server: Arc<Server>,
    /// Its connections, given back when it is dropped.
    _lease: Lease,
    /// How many connections the database itself allows, and why.
    pub(super) allowed: Option<Allowed>,
    /// Why its snapshot is later than those of its neighbours.
    pub(super) late: Option<String>,
    /// Held for its Drop: the standby goes on when the last database of it is done.
    _pause: Option<Arc<ReplayPause>>,
}

/// Which reasons to begin a database again have been used up.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Again {
    /// Because definitions changed.
    pub(super) restarts: u32,
    /// Because the replay of a standby ended a statement.
    pub(super) replays: u32,
}

impl Again {
    /// Counts one more time, or returns the error for good.
    fn allow(&mut self, database: &str, error: DumpError) -> Result<(), DumpError> {
        let (reason, times) = match error {
            DumpError::Restart(reason) if self.restarts < RESTARTS_MAX => {
                self.restarts += 1;
                (reason, self.restarts)
            }
            DumpError::Replay(reason) if self.replays < REPLAYS_MAX => {
                self.replays += 1;
                (reason, self.replays)
            }
            error => return Err(error),
        };
        tracing::warn!(
            database,
            times,
            reason,
            "beginning again with a new snapshot"
        );
        Ok(())
    }
}

impl OpenDatabase {
    /// Returns the name of the component.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.source.name
    }

    /// Returns the name of its cluster in the tree.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster.name
    }

    /// Returns what is known of its snapshot.
    #[must_use]
    pub fn snapshot(&self) -> &SnapshotFacts {
        &self.prepared.snapshot
    }

    /// Opens a session of its own in the same snapshot, with the settings that any client has: for statements that people wrote.
    /// The transaction is read-only and open.
    pub fn session_beside(&self) -> Result<PgSession, PgError> {
        let options = ConnectOptions {
            retry: RetryPolicy::once(),
            ..ConnectOptions::default()
        };
        let mut session = self.connector.connect(&options)?;
        session.batch_execute(&format!(
            "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
            catalog::literal(&self.prepared.snapshot.exported)
        ))?;
        Ok(session)
    }

    /// Returns the bytes of its tables, as far as their main files tell.
    #[must_use]
    pub fn bytes_expected(&self) -> u64 {
        let tables = self.prepared.catalog.tables.iter();
        tables
            .filter(|table| !table.data_excluded)
            .map(|table| table.bytes)
            .sum()
    }
}

/// A session on its way to an open database.
pub(super) struct Opening {
    pub(super) session: PgSession,
    pub(super) server: Arc<Server>,
    pub(super) lease: Lease,
    pub(super) allowed: Option<Allowed>,
    holder: Option<Holder>,
    pause: Option<Arc<ReplayPause>>,
    snapshot: SnapshotFacts,
}

impl Opening {
    pub(super) fn new(
        session: PgSession,
        server: Arc<Server>,
        lease: Lease,
        allowed: Option<Allowed>,
    ) -> Self {
        Self {
            session,
            server,
            lease,
            allowed,
            holder: None,
            pause: None,
            snapshot: SnapshotFacts::default(),
        }
    }
}

pub(super) type Slot<T> = Result<T, DumpError>;

/// A database that is to be streamed.
#[derive(Debug)]
pub enum Database {
    /// Its snapshot is open.
    Open(Box<OpenDatabase>),
    /// There was no connection for it yet.
    Waiting(Box<Waiting>),
}

impl Database {
    /// Returns the name of the component.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Database::Open(open) => open.name(),
            Database::Waiting(waiting) => &waiting.source.name,
        }
    }

    /// Returns what is known of its snapshot, if that is open.
    #[must_use]
    pub fn snapshot(&self) -> Option<&SnapshotFacts> {
        match self {
            Database::Open(open) => Some(open.snapshot()),
            Database::Waiting(_) => None,
        }
    }

    pub(super) fn server(&self) -> &Server {
        match self {
            Database::Open(open) => &open.server,
            Database::Waiting(waiting) => &waiting.server,
        }
    }

    /// Returns why its snapshot is not open yet.
    #[must_use]
    pub fn waits_because(&self) -> Option<&str> {
        match self {
            Database::Open(_) => None,
            Database::Waiting(waiting) => Some(&waiting.reason),
        }
    }
}

/// A database whose snapshot is opened when others are done.
#[derive(Debug)]
pub struct Waiting {
    pub(super) source: DatabaseSource,
    pub(super) server: Arc<Server>,
    clusters: Arc<Clusters>,
    pub(super) reason: String,
}

/// Opens the snapshots of all databases together and dumps their schemas. A database that fails is an error
/// in its place; the others go on. The open transactions are pinged until they are streamed or dropped.
pub fn open_snapshots(sources: &[DatabaseSource]) -> Vec<Result<Database, SourceError>> {
    let clusters = Arc::new(Clusters::default());
    let (servers, mut openings) = admission::connect_all(sources);
    pause_replay(sources, &mut openings);
    agree(sources, &mut openings);
    let work = sources.iter().zip(openings).collect();
    let prepared = in_parallel(work, CHILDREN_AT_ONCE, |(source, opening)| {
        opening.and_then(|opening| prepared(source, opening))
    });
    let opened: Vec<Result<Database, SourceError>> = sources
        .iter()
        .zip(servers)
        .zip(prepared)
        .map(|((source, server), slot)| match (slot, server) {
            (Ok((opening, prepared)), _) => Ok(Database::Open(Box::new(assembled(
                source, opening, prepared, &clusters,
            )))),
            (Err(DumpError::NoConnection(reason)), Some(server)) => {
                server.budget.will_wait();
                Ok(Database::Waiting(Box::new(Waiting {
                    source: source.clone(),
                    server,
                    clusters: Arc::clone(&clusters),
                    reason,
                })))
            }
            (Err(error), _) => Err(error.into_source()),
        })
        .collect();
    keep_alive(opened.iter().flatten());
    opened
}

fn keep_alive<'a>(databases: impl Iterator<Item = &'a Database>) {
    let open = databases.filter_map(|database| match database {
        Database::Open(open) => Some(Arc::downgrade(&open.session)),
        Database::Waiting(_) => None,
    });
    super::keep_alive::watch(open.collect());
}

/// Opens the snapshot of a database that waited, as soon as there is a connection for it.
pub(super) fn open_late(waiting: &Waiting, is_stopped: &dyn Fn() -> bool) -> Slot<OpenDatabase> {
    let source = &waiting.source;
    let mut tries = 0;
    loop {
        let lease = waiting
            .server
            .budget
            .admit(admission::connections_needed(source), is_stopped)
            .ok_or(DumpError::Run(Error::Stopped))?;
        let opened = admission::connect(source, &waiting.server, lease).and_then(|opening| {
            let mut openings = [Ok(opening)];
            let one = std::slice::from_ref(source);
            pause_replay(one, &mut openings);
            agree(one, &mut openings);
            let [opening] = openings;
            prepared(source, opening?)
        });
        match opened {
            Ok((opening, prepared)) => {
                let mut open = assembled(source, opening, prepared, &waiting.clusters);
                open.late = Some(waiting.reason.clone());
                return Ok(open);
            }
            Err(DumpError::NoConnection(words)) => {
                // Alone on the server, nobody's end is to be waited for.
                tries += u32::from(!waiting.server.budget.is_shared(0));
                if tries > source.options.retry.tries {
                    return Err(DumpError::Failed(words));
                }
            }
            Err(error) => return Err(error),
        }
    }
}

fn prepared(source: &DatabaseSource, mut opening: Opening) -> Slot<(Opening, Prepared)> {
    let prepared = prepare_with_restarts(source, &mut opening)?;
    Ok((opening, prepared))
}

fn assembled(
    source: &DatabaseSource,
    mut opening: Opening,
    prepared: Prepared,
    clusters: &Clusters,
) -> OpenDatabase {
    let hidden = &prepared.catalog.hidden;
    let passwords = !hidden.iter().any(|gap| gap.what == rights::PASSWORDS);
    let cluster = clusters.of(
        source,
        &mut opening.session,
        &opening.server,
        passwords,
        &prepared.catalog.encoding,
    );
    OpenDatabase {
        source: source.clone(),
        connector: opening.session.connector(),
        session: Arc::new(Mutex::new(opening.session)),
        cluster,
        prepared,
        again: Again::default(),
        server: opening.server,
        _lease: opening.lease,
        allowed: opening.allowed,
        late: None,
        _pause: opening.pause,
    }
}

/// Runs `work` for all items, `at_once` at a time; servers do most of it.
pub(super) fn in_parallel<T: Send, R: Send>(
    items: Vec<T>,
    at_once: usize,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let count = items.len();
    let items = Mutex::new(items.into_iter().enumerate());
    let results = Mutex::new(Vec::with_capacity(count));
    let worker = || {
        loop {
            let next = items.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((position, item)) = next else { return };
            let result = work(item);
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            results.push((position, result));
        }
    };
    thread::scope(|scope| {
        for _ in 0..at_once.min(count) {
            scope.spawn(worker);
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(position, _)| *position);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Opens snapshots until those of each cluster agree.
fn agree(sources: &[DatabaseSource], openings: &mut [Slot<Opening>]) {
    let mut clusters: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (position, opening) in openings.iter().enumerate() {
        if let Ok(opening) = opening {
            clusters
                .entry(opening.server.identity.server.clone())
                .or_default()
                .push(position);
        }
    }
    for members in clusters.values() {
        for position in members {
            hold_if_asked(&sources[*position], &mut openings[*position]);
        }
        for round in 1..=AGREEMENT_TRIES {
            if open_once(openings, members) || round == AGREEMENT_TRIES {
                break;
            }
            // A different pause each time, so that no rhythm of the writers is met again and again.
            thread::sleep(Duration::from_millis(u64::from(round * 7 % 20)));
        }
        for position in members {
            import_into_holder(&mut openings[*position]);
        }
    }
}

fn hold_if_asked(source: &DatabaseSource, slot: &mut Slot<Opening>) {
    let Ok(opening) = slot else { return };
    if source.options.locks == Locks::Hold {
        match hold::lock_all(&mut opening.session, exclusions(source), &source.options) {
            Ok(holder) => opening.holder = Some(holder),
            Err(error) => *slot = Err(error),
        }
    }
}

fn import_into_holder(slot: &mut Slot<Opening>) {
    let Ok(opening) = slot else { return };
    if let Some(holder) = &mut opening.holder
        && let Err(error) = holder.import(&opening.snapshot.exported)
    {
        *slot = Err(error);
    }
}

/// Opens the snapshots of a cluster once, and says whether they agree.
fn open_once(openings: &mut [Slot<Opening>], members: &[usize]) -> bool {
    let mut each = |work: &dyn Fn(&mut Opening) -> Result<(), PgError>| {
        for position in members {
            let slot = &mut openings[*position];
            if let Ok(opening) = slot
                && let Err(error) = work(opening)
            {
                *slot = Err(error.into());
            }
        }
    };
    // The statement fixes the snapshot, BEGIN does not: so all begin first.
    each(&|opening| opening.session.batch_execute(&format!("ROLLBACK; {BEGIN}")));
    each(&|opening| {
        opening.snapshot = take(&mut opening.session)?;
        Ok(())
    });
    let mut seen = members
        .iter()
        .filter_map(|position| openings[*position].as_ref().ok())
        .map(|o| &o.snapshot.visible);
    let first = seen.next();
    seen.all(|visible| Some(visible) == first)
}

/// Fixes and exports the snapshot of a transaction that has just begun.
fn take(session: &mut PgSession) -> Result<SnapshotFacts, PgError> {
    let version_num = session.version_num();
    let visible = if version_num >= 130_000 {
        "pg_current_snapshot"
    } else {
        "txid_current_snapshot"
    };
    let lsn = match (session.facts().in_recovery, version_num >= 100_000) {
        (true, true) => "pg_last_wal_replay_lsn",
        (true, false) => "pg_last_xlog_replay_location",
        (false, true) => "pg_current_wal_lsn",
        (false, false) => "pg_current_xlog_location",
    };
    let found = rows(
        session,
        &format!(
            "SELECT pg_catalog.pg_export_snapshot(), pg_catalog.{visible}()::text, pg_catalog.{lsn}(), t.now, \
             pg_catalog.floor(pg_catalog.date_part('epoch', t.now) * 1000)::bigint, \
             pg_catalog.to_char(t.now AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') \
             FROM (SELECT pg_catalog.clock_timestamp() AS now) t"
        ),
    )?;
    let row = found.first();
    let field = |column| row.map(|row| text(row, column)).unwrap_or_default();
    Ok(SnapshotFacts {
        exported: field(0),
        visible: field(1),
        lsn: field(2),
        time: field(5),
        time_ms: row.map(|row| number(row, 4)).unwrap_or_default(),
    })
}

fn exclusions(source: &DatabaseSource) -> Exclusions<'_> {
    Exclusions {
        table_data: &source.options.exclude_table_data,
        schemas: &source.options.exclude_schema,
        unlogged: source.options.unlogged_schema_only,
    }
}

/// Pauses the replay of each standby from which a database wants that.
fn pause_replay(sources: &[DatabaseSource], openings: &mut [Slot<Opening>]) {
    let mut pauses: BTreeMap<String, Option<Arc<ReplayPause>>> = BTreeMap::new();
    for (source, slot) in sources.iter().zip(openings) {
        let Ok(opening) = slot else { continue };
        if !source.options.pause_replay || !opening.session.facts().in_recovery {
            continue;
        }
        if let Some(pause) = pauses.get(&opening.server.identity.server) {
            opening.pause.clone_from(pause);
            continue;
        }
        match ReplayPause::begin(&mut opening.session) {
            Ok(pause) => {
                opening.pause = pause.map(Arc::new);
                pauses.insert(
                    opening.server.identity.server.clone(),
                    opening.pause.clone(),
                );
            }
            Err(error) => {
                *slot = Err(DumpError::Failed(format!(
                    "cannot pause the replay of the standby (pause-replay): {error}"
                )));
            }
        }
    }
}

/// Reads catalog and schema in an open snapshot; where definitions changed meanwhile, in a new one.
fn prepare_with_restarts(source: &DatabaseSource, opening: &mut Opening) -> Slot<Prepared> {
    let mut again = Again::default();
    let mut result = prepare(source, opening);
    loop {
        let error = match result {
            Ok(prepared) => return Ok(prepared),
            Err(error) => error,
        };
        let connector = opening.session.connector();
        again
            .allow(&source.name, error)
            .map_err(|error| explained(source, &connector, error))?;
        result = renew(source, &mut opening.session, &mut opening.holder).and_then(|snapshot| {
            opening.snapshot = snapshot;
            prepare(source, opening)
        });
    }
}

/// Puts the settings of a standby beside the words with which its replay ended a dump.
fn explained(source: &DatabaseSource, connector: &Connector, error: DumpError) -> DumpError {
    let DumpError::Replay(words) = error else {
        return error;
    };
    let options = ConnectOptions {
        retry: RetryPolicy::once(),
        ..source.options.session()
    };
    let settings = connector
        .connect(&options)
        .and_then(|mut session| replay::settings_text(&mut session));
    DumpError::Failed(replay::explain(&words, settings.ok().as_deref()))
}

/// Ends the transaction and opens a new snapshot, in a new session where the old one is gone.
fn renew(
    source: &DatabaseSource,
    session: &mut PgSession,
    holder: &mut Option<Holder>,
) -> Slot<SnapshotFacts> {
    if session.batch_execute("ROLLBACK").is_err() {
        *session = session.connector().connect(&source.options.session())?;
    }
    if source.options.locks == Locks::Hold {
        *holder = None;
        // Outside of a transaction, so that each look at the catalog sees what is new.
        *holder = Some(hold::lock_all(
            session,
            exclusions(source),
            &source.options,
        )?);
    }
    session.batch_execute(BEGIN)?;
    let snapshot = take(session)?;
    if let Some(holder) = holder {
        holder.import(&snapshot.exported)?;
    }
    Ok(snapshot)
}

fn prepare(source: &DatabaseSource, opening: &mut Opening) -> Slot<Prepared> {
    let session = &mut opening.session;
    let catalog = catalog::read(session, exclusions(source))?;
    let schema = dump_schema(
        source,
        session,
        (&opening.server, opening.allowed.as_ref()),
        &opening.snapshot,
        &catalog,
    )?;
    Ok(Prepared {
        snapshot: opening.snapshot.clone(),
        catalog,
        schema,
        holder: opening.holder.take(),
    })
}

fn dump_schema(
    source: &DatabaseSource,
    session: &PgSession,
    (server, allowed): (&Server, Option<&Allowed>),
    snapshot: &SnapshotFacts,
    catalog: &Catalog,
) -> Slot<Output> {
    let connector = session.connector();
    let request = SchemaRequest {
        connector: &connector,
        version_num: session.version_num(),
        snapshot: &snapshot.exported,
        standby: session.facts().in_recovery,
        encoding: &catalog.encoding,
        options: &source.options,
    };
    admission::with_child(source, server, &connector, allowed, || {
        schema::dump_schema(&request)
    })
}

/// Opens a database again that failed with `error` while its rows were copied, if a new snapshot may help.
pub(super) fn begin_again(open: &mut OpenDatabase, error: DumpError) -> Slot<()> {
    let mut error = error;
    loop {
        let name = open.source.name.clone();
        open.again
            .allow(&name, error)
            .map_err(|error| explained(&open.source, &open.connector, error))?;
        match reopen(open) {
            Ok(()) => return Ok(()),
            Err(failed) => error = failed,
        }
    }
}

fn reopen(open: &mut OpenDatabase) -> Slot<()> {
    let mut session = open.session.lock().unwrap_or_else(PoisonError::into_inner);
    let mut holder = None;
    let snapshot = renew(&open.source, &mut session, &mut holder)?;
    let catalog = catalog::read(&mut session, exclusions(&open.source))?;
    let schema = dump_schema(
        &open.source,
        &session,
        (&open.server, open.allowed.as_ref()),
        &snapshot,
        &catalog,
    )?;
    open.prepared = Prepared {
        snapshot,
        catalog,
        schema,
        holder,
    };
    Ok(())
}
