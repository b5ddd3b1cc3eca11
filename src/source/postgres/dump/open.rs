//! Opens the snapshots of all databases together, then reads what each database is.
//!
//! PostgreSQL has no snapshot across databases. Those of one cluster are taken right after one another and
//! compared by `pg_current_snapshot()`: equal ones show the same transactions, so the databases agree with
//! each other as if one snapshot covered them. Where others write all the time, the attempt is repeated;
//! what remains is a spread in milliseconds, which the archive states.
//!
//! Steps of one database: connect, `BEGIN` and export (with its cluster), catalog, sequences. `pg_dump` starts
//! beside them and runs beside what follows; who needs its end first has [`wait_for_schemas`]. The transaction
//! stays open, without locks on tables, until the rows are copied.
//!
//! A database that definitions change under is begun again. The last time all its tables are locked as for
//! `locks = "hold"`, if the server has room for that and others leave a moment for it; the outcome says so.
//!
//! Each open snapshot is a connection. Where a cluster has more databases than it may have connections
//! ([`super::budget`]), the rest wait: their snapshots are taken one by one when others are done, and the
//! archive says that they are later.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::again::Again;
use super::budget::Lease;
use super::catalog::{self, Catalog, Exclusions, number, rows, text};
use super::cluster::{Cluster, Clusters, Server};
use super::error::DumpError;
use super::hold::{self, Holder};
use super::limits::Allowed;
use super::schema::{SchemaDump, SchemaRequest};
use super::{DatabaseSource, Locks, admission, lock_holders};
use crate::error::Error;
use crate::source::SourceError;
use crate::source::postgres::replay::{self, ReplayPause};
use crate::source::postgres::{ConnectOptions, Connector, PgError, PgSession, RetryPolicy, rights};

/// How often the databases of a cluster are opened again for snapshots that agree.
const AGREEMENT_TRIES: u32 = 20;
/// Children that dump schemas at a time.
const CHILDREN_AT_ONCE: usize = 8;
/// SQLSTATE of a lock that was waited for in vain, as it stands in the words of the server.
const LOCK_TIMEOUT: &str = "(55P03)";
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
    /// Taken by the attempt that copies the rows.
    pub(super) schema: Option<SchemaDump>,
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

/// A session in the snapshot of a database, beside those of the dump.
#[derive(Debug)]
pub struct SessionBeside {
    /// The session.
    pub session: PgSession,
    /// Its place among the connections of the server.
    _place: Lease,
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
    /// The transaction is read-only and open. Waits for a place among the connections of the server.
    pub fn session_beside(&self) -> Result<SessionBeside, PgError> {
        let stop = &self.source.options.stop;
        let place = self.server.budget.child(&|| stop.is_set());
        let place = place.ok_or_else(|| PgError::Interrupted {
            endpoint: self.source.name.clone(),
        })?;
        let options = ConnectOptions {
            retry: RetryPolicy::once(),
            ..ConnectOptions::default()
        };
        let mut session = self.connector.connect(&options)?;
        session.batch_execute(&format!(
            "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
            catalog::literal(&self.prepared.snapshot.exported)
        ))?;
        Ok(SessionBeside {
            session,
            _place: place,
        })
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

    pub(super) fn source(&self) -> &DatabaseSource {
        match self {
            Database::Open(open) => &open.source,
            Database::Waiting(waiting) => &waiting.source,
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

/// Opens the snapshots of all databases together and begins to dump their schemas. A database that fails is an error
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

/// Waits until the schemas of all open databases are dumped: from then on others may change any definition but those
/// of the tables. A database whose schema fails is begun again as always, which gives it a snapshot of its own, or is
/// an error in its place.
pub fn wait_for_schemas(
    databases: Vec<Result<Database, SourceError>>,
) -> Vec<Result<Database, SourceError>> {
    in_parallel(databases, CHILDREN_AT_ONCE, |slot| {
        let mut database = slot?;
        while let Database::Open(open) = &mut database {
            let schema = open.prepared.schema.as_mut();
            match schema.map_or(Ok(()), SchemaDump::wait) {
                Ok(()) => break,
                Err(error) => begin_again(open, error).map_err(DumpError::into_source)?,
            }
        }
        Ok(database)
    })
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

type PreparedAgain = (Prepared, Again);

fn prepared(source: &DatabaseSource, mut opening: Opening) -> Slot<(Opening, PreparedAgain)> {
    let prepared = prepare_with_restarts(source, &mut opening)?;
    Ok((opening, prepared))
}

fn assembled(
    source: &DatabaseSource,
    mut opening: Opening,
    (prepared, again): PreparedAgain,
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
        again,
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

/// Reads the catalog in an open snapshot; where definitions changed meanwhile, in a new one.
fn prepare_with_restarts(source: &DatabaseSource, opening: &mut Opening) -> Slot<PreparedAgain> {
    let mut again = Again::default();
    let place = (Arc::clone(&opening.server), opening.allowed.clone());
    let (snapshot, holder) = (opening.snapshot.clone(), opening.holder.take());
    let mut result = prepare(source, &mut opening.session, &place, snapshot, holder);
    loop {
        let error = match result {
            Ok(prepared) => return Ok((prepared, again)),
            Err(error) => error,
        };
        let connector = opening.session.connector();
        again
            .allow(&source.name, error)
            .map_err(|error| explained(source, &connector, error))?;
        result = renew(source, &mut opening.session, &place, &mut again);
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

/// Ends the transaction and prepares the database in a new snapshot, in a new session where the old one is gone.
fn renew(
    source: &DatabaseSource,
    session: &mut PgSession,
    place: &Place,
    again: &mut Again,
) -> Slot<Prepared> {
    if session.batch_execute("ROLLBACK").is_err() {
        *session = session.connector().connect(&source.options.session())?;
    }
    // Outside of a transaction, so that each look at the catalog sees what is new.
    let mut holder = hold_again(source, session, &place.0, again)?;
    session.batch_execute(BEGIN)?;
    let snapshot = take(session)?;
    if let Some(holder) = &mut holder {
        holder.import(&snapshot.exported)?;
    }
    prepare(source, session, place, snapshot, holder)
}

/// Locks all tables where that was asked for, and for the last attempt if it can be had.
fn hold_again(
    source: &DatabaseSource,
    session: &mut PgSession,
    server: &Server,
    again: &mut Again,
) -> Slot<Option<Holder>> {
    let exclusions = exclusions(source);
    if source.options.locks == Locks::Hold {
        return hold::lock_all(session, exclusions, &source.options).map(Some);
    }
    again.held = false;
    if !again.is_last() {
        return Ok(None);
    }
    let locked = match server.budget.try_admit(1) {
        Some(lease) => {
            hold::lock_all_now(session, exclusions, &source.options).map(|holder| Holder {
                _lease: Some(lease),
                ..holder
            })
        }
        None => Err(DumpError::Failed(admission::too_many(server))),
    };
    match locked {
        Ok(holder) => {
            again.held = true;
            Ok(Some(holder))
        }
        Err(DumpError::Run(error)) => Err(DumpError::Run(error)),
        Err(
            DumpError::Failed(why)
            | DumpError::Restart(why)
            | DumpError::Queue(why)
            | DumpError::Replay(why)
            | DumpError::NoConnection(why),
        ) => {
            tracing::warn!(database = %source.name, why, "the last attempt goes without held locks");
            again.not_held = Some(why);
            Ok(None)
        }
    }
}

/// Reads the catalog; a table that others keep locked is not waited for without an end.
fn read_catalog(source: &DatabaseSource, session: &mut PgSession) -> Slot<Catalog> {
    let wait = source.options.lock_wait;
    session.batch_execute(&format!(
        "SET LOCAL lock_timeout = {}",
        wait.as_millis().max(1)
    ))?;
    match catalog::read(session, exclusions(source)) {
        Err(DumpError::Failed(words)) if words.contains(LOCK_TIMEOUT) => Err(lock_holders::waited(
            &session.connector(),
            &source.options.session(),
            wait,
        )),
        read => read,
    }
}

/// The server of a database, and what the database itself allows there.
type Place = (Arc<Server>, Option<Allowed>);

/// Reads the catalog and starts to dump the schema. Where all tables are held the schema comes first: an ALTER
/// that waits for them lets `pg_dump` not pass, and then a new attempt costs least.
fn prepare(
    source: &DatabaseSource,
    session: &mut PgSession,
    (server, allowed): &Place,
    snapshot: SnapshotFacts,
    mut holder: Option<Holder>,
) -> Slot<Prepared> {
    let encoding = catalog::encoding(session)?;
    let request = SchemaRequest {
        connector: session.connector(),
        version_num: session.version_num(),
        snapshot: snapshot.exported.clone(),
        standby: session.facts().in_recovery,
        encoding,
        held: holder.is_some(),
        closed_sequences: catalog::closed_sequences(session, exclusions(source))?,
        source: source.clone(),
    };
    let mut schema = SchemaDump::start(request, Arc::clone(server), allowed.clone())?;
    // The size of a table is asked for under its lock, and whoever waits for the held locks would not let another session pass.
    let reader = match &mut holder {
        Some(holder) => &mut holder.session,
        None => session,
    };
    let catalog = read_catalog(source, reader)?;
    // Where databases share the connections of a server, one that finds none for its child can wait for the others only before it has begun.
    let shared = server
        .budget
        .is_shared(admission::connections_needed(source));
    if holder.is_some() || shared {
        schema.wait()?;
    }
    Ok(Prepared {
        snapshot,
        catalog,
        schema: Some(schema),
        holder,
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
    // Its child reads in the snapshot that ends here.
    open.prepared.schema = None;
    open.prepared.holder = None;
    let place = (Arc::clone(&open.server), open.allowed.clone());
    let mut session = open.session.lock().unwrap_or_else(PoisonError::into_inner);
    open.prepared = renew(&open.source, &mut session, &place, &mut open.again)?;
    Ok(())
}
