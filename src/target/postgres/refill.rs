//! Gives some tables of a database the archived rows, in one transaction, where the definitions of all are the archived ones already.
//!
//! The transaction runs with `session_replication_role = replica`, so that foreign keys and triggers do not look at single rows: when all tables
//! that differ have the archived rows, all keys hold as they held in the archive. Materialized views are computed anew. What the server does not
//! allow, or what this way is not exact for, is refused with a reason, and nothing was changed; then the whole database is replaced instead.
//!
//! Invariants:
//! 1. Until [`Refill::commit`] nobody else sees any of it, and after an error or a lost connection nothing of it is there.
//! 2. A table has as many rows as were archived, or the transaction is given up.
//!
//! Failure: positions of sequences are no part of a transaction; they are set right after it. Who is killed between the two does it again: they are
//! compared by the next run.

use std::collections::BTreeSet;
use std::thread;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::archive::DatabaseArchive;
use super::data::{column_list, encoding_option, qualified};
use super::error::RestoreError;
use super::restore::RestoreOptions;
use crate::error::Error;
use crate::format::database::TableInfo;
use crate::source::postgres::{ConnectOptions, Connector, PgError, PgSession};
use crate::stats::Stats;

/// Pieces that go to the server, and how many of them may wait.
const PIECE_BYTES: usize = 256 << 10;
const PIECES_AHEAD: usize = 4;

/// Why the whole database has to be replaced instead; complete in words.
pub type Unfit = String;

/// An open transaction with the archived rows in it.
#[derive(Debug)]
pub struct Refill {
    session: PgSession,
    tables: Vec<(String, String)>,
    /// Rows that were loaded.
    pub rows: u64,
}

/// Puts the archived rows into `tables` (positions in the archive's description) in a transaction that stays open.
pub fn refill(
    connector: &Connector,
    archive: &dyn DatabaseArchive,
    tables: &[usize],
    options: &RestoreOptions,
) -> Result<Result<Refill, Unfit>, RestoreError> {
    let info = archive.description();
    let chosen: Vec<&TableInfo> = tables.iter().filter_map(|n| info.tables.get(*n)).collect();
    if let Some(why) = chosen.iter().find_map(|table| unfit_table(table)) {
        return Ok(Err(why));
    }
    // What names without a schema mean to the statements of a relocation.
    let path = search_path(connector)?;
    let mut session = connector.connect(&ConnectOptions::restore())?;
    let filled = fill(&mut session, archive, &chosen, options).and_then(|filled| match filled {
        Ok(rows) => {
            let sql = "SELECT pg_catalog.set_config('search_path', $1, true), pg_catalog.set_config('session_replication_role', 'origin', true)";
            session.query(sql, &[&path])?;
            Ok(Ok(rows))
        }
        Err(why) => Ok(Err(why)),
    });
    match filled {
        Ok(Ok(rows)) => Ok(Ok(Refill {
            session,
            tables: chosen
                .iter()
                .map(|table| (table.schema.clone(), table.name.clone()))
                .collect(),
            rows,
        })),
        Ok(Err(why)) => Ok(Err(why)),
        // The server refused something: the other way may go.
        Err(RestoreError::Target(error)) if error.server_error().is_some() => {
            Ok(Err(error.to_string()))
        }
        Err(error) => Err(error),
    }
}

impl Refill {
    /// The session with the open transaction.
    pub fn session(&mut self) -> &mut PgSession {
        &mut self.session
    }

    /// Makes it so, sets sequences and computes statistics.
    pub fn commit(mut self, archive: &dyn DatabaseArchive) -> Result<(), RestoreError> {
        self.session.batch_execute("COMMIT")?;
        for sequence in &archive.description().sequences {
            let sql = format!(
                "SELECT pg_catalog.setval({}, {}, {})",
                literal(&qualified(&sequence.schema, &sequence.name)),
                sequence.last_value,
                sequence.is_called
            );
            self.session.batch_execute(&sql)?;
        }
        for (schema, name) in &self.tables {
            self.session
                .batch_execute(&format!("ANALYZE {}", qualified(schema, name)))?;
        }
        Ok(())
    }
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn search_path(connector: &Connector) -> Result<String, PgError> {
    let mut session = connector.connect(&ConnectOptions::default())?;
    let row = session.query_one("SELECT pg_catalog.current_setting('search_path')", &[])?;
    Ok(row.get(0))
}

fn unfit_table(table: &TableInfo) -> Option<Unfit> {
    let name = format!("{}.{}", table.schema, table.name);
    if table.load_via.is_some() {
        return Some(format!("{name} is loaded through its partitioned table"));
    }
    if table.filter.is_some() {
        return Some(format!("{name} belongs to an extension"));
    }
    (!table.binary_parts.is_empty()).then(|| format!("{name} has rows in binary form"))
}

fn fill(
    session: &mut PgSession,
    archive: &dyn DatabaseArchive,
    tables: &[&TableInfo],
    options: &RestoreOptions,
) -> Result<Result<u64, Unfit>, RestoreError> {
    session.batch_execute("BEGIN")?;
    if tables.is_empty() {
        return Ok(Ok(0));
    }
    session.batch_execute("SET LOCAL session_replication_role = replica")?;
    if let Some(why) = unfit_on_server(session, tables)? {
        return Ok(Err(why));
    }
    empty(session, tables)?;
    let mut rows = 0;
    for table in tables {
        let loaded = load(session, archive, table, options)?;
        if loaded != table.rows {
            return Ok(Err(format!(
                "{}.{} took {loaded} of {} rows",
                table.schema, table.name, table.rows
            )));
        }
        options.stats.tables.one();
        options.stats.rows.add(loaded);
        rows += loaded;
    }
    let views = session.simple_column(
        "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'm' AND c.relispopulated ORDER BY c.oid",
    )?;
    for view in views.into_iter().flatten() {
        session.batch_execute(&format!("REFRESH MATERIALIZED VIEW {view}"))?;
    }
    Ok(Ok(rows))
}

/// Triggers that fire in any case, and rules, would do more than put rows into tables.
fn unfit_on_server(
    session: &mut PgSession,
    tables: &[&TableInfo],
) -> Result<Option<Unfit>, PgError> {
    let names: BTreeSet<(&str, &str)> = tables
        .iter()
        .map(|table| (table.schema.as_str(), table.name.as_str()))
        .collect();
    let sql = "SELECT n.nspname::text, c.relname::text, CASE WHEN c.relhasrules THEN 'a rule' ELSE 'a trigger that always fires' END \
               FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND (c.relhasrules \
               OR EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND t.tgenabled IN ('A', 'R')))";
    for row in session.query(sql, &[])? {
        let (schema, name, what): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        if names.contains(&(schema.as_str(), name.as_str())) {
            return Ok(Some(format!("{schema}.{name} has {what}")));
        }
    }
    Ok(None)
}

/// TRUNCATE where no other table refers to these, else DELETE.
fn empty(session: &mut PgSession, tables: &[&TableInfo]) -> Result<(), PgError> {
    let names: Vec<String> = tables
        .iter()
        .map(|table| qualified(&table.schema, &table.name))
        .collect();
    session.batch_execute("SAVEPOINT holdfast_empty")?;
    let all = format!("TRUNCATE ONLY {}", names.join(", ONLY "));
    match session.batch_execute(&all) {
        Ok(()) => session.batch_execute("RELEASE SAVEPOINT holdfast_empty"),
        Err(error) if error.server_error().is_some() => {
            session.batch_execute("ROLLBACK TO SAVEPOINT holdfast_empty")?;
            names
                .iter()
                .try_for_each(|name| session.batch_execute(&format!("DELETE FROM ONLY {name}")))
        }
        Err(error) => Err(error),
    }
}

fn load(
    session: &mut PgSession,
    archive: &dyn DatabaseArchive,
    table: &TableInfo,
    options: &RestoreOptions,
) -> Result<u64, RestoreError> {
    let sql = format!(
        "COPY {}{} FROM STDIN{}",
        qualified(&table.schema, &table.name),
        column_list(&table.columns),
        encoding_option(&archive.description().encoding)
    );
    let (sender, receiver) = bounded(PIECES_AHEAD);
    thread::scope(|scope| {
        let reader = scope.spawn(move || read(archive, table, options, &sender));
        let copied = session.copy_in(&sql, &mut || next(&receiver));
        // A reader that waits to hand on a piece must see that nobody takes it.
        drop(receiver);
        let read = reader.join().expect("a reader that panics is our bug");
        match (copied, read) {
            (Err(RestoreError::Archive(Error::Stopped)), Err(cause)) => {
                Err(RestoreError::Archive(cause))
            }
            (copied, _) => copied,
        }
    })
}

type Piece = Result<Option<Bytes>, ()>;

fn next(receiver: &Receiver<Piece>) -> Result<Option<Bytes>, RestoreError> {
    match receiver.recv() {
        Ok(Ok(piece)) => Ok(piece),
        // The reader knows why.
        Ok(Err(())) | Err(_) => Err(RestoreError::Archive(Error::Stopped)),
    }
}

/// Reads the parts of a table ahead. What it sends last says how it ended.
fn read(
    archive: &dyn DatabaseArchive,
    table: &TableInfo,
    options: &RestoreOptions,
    sender: &Sender<Piece>,
) -> crate::error::Result<()> {
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    let send = |piece: Piece| sender.send(piece).map_err(|_nobody_reads| Error::Stopped);
    let stats: &Stats = &options.stats;
    let mut sink = |bytes: &[u8]| {
        stats
            .bytes_read
            .add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        if options
            .interrupted
            .load(std::sync::atomic::Ordering::Acquire)
        {
            return Err(Error::Interrupted);
        }
        piece.extend_from_slice(bytes);
        if piece.len() < PIECE_BYTES {
            return Ok(());
        }
        let full = std::mem::replace(&mut piece, Vec::with_capacity(PIECE_BYTES));
        send(Ok(Some(Bytes::from(full))))
    };
    let read = (0..table.parts).try_for_each(|part| archive.read_part(table, part, &mut sink));
    match read {
        Ok(()) => {
            send(Ok(Some(Bytes::from(piece))))?;
            send(Ok(None))
        }
        Err(error) => {
            // The COPY must fail, not end early.
            if send(Err(())).is_err() {
                tracing::debug!("a COPY had failed before its table could not be read");
            }
            Err(error)
        }
    }
}
