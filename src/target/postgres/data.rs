//! Loads the rows: parts of tables by COPY over several connections, then the positions of sequences.
//!
//! A table is loaded by one worker, part after part, so that its rows lie as they lay before; a worker that finds no table left helps with the one that has
//! most parts to go. Each part is one COPY, so it is there whole or not at all.
//!
//! Failure: a part that the server refuses waits until all others are loaded and is tried again, as long as any such try succeeds (a CHECK may look into
//! another table; configuration tables of extensions have their foreign keys from the beginning). A part that does not fit its partition is loaded through
//! the partitioned table. What then still fails is reported. A part whose connection broke may be there all the same, if only the server's answer was
//! lost, and then it is there twice: the rows of its table are counted.
//!
//! Threads: `jobs` workers with a session each, and for each COPY a thread that reads the archive ahead by a few pieces.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::archive::DatabaseArchive;
use super::crew::Crew;
use super::error::RestoreError;
use super::report::{DISK_FULL, Phase, Recorder, TableReport, is_damage};
use super::sql::{quote_identifier, quote_literal};
use crate::error::Error;
use crate::format::database::{SequenceState, TableInfo};
use crate::source::postgres::{ConnectOptions, Connector, PgError, PgSession};
use crate::stats::Stats;

/// Pieces that go to the server, and how many of them may wait: the memory of one COPY is their product.
const PIECE_BYTES: usize = 256 * 1024;
const PIECES_AHEAD: usize = 8;
const CHECK_VIOLATION: &str = "23514";
/// The version that brought partitions.
const PARTITIONS: u32 = 100_000;
/// The topmost table above the one that `$1` names, as `root(relid)`; the functions for this came two versions after partitions.
pub(crate) const PARTITION_ROOT: &str = "\
up AS (SELECT pg_catalog.to_regclass($1)::pg_catalog.oid AS relid, 0 AS level UNION ALL SELECT i.inhparent, up.level + 1 FROM up \
JOIN pg_catalog.pg_class p ON p.oid = up.relid AND p.relispartition JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.relid), \
root AS (SELECT relid FROM up ORDER BY level DESC LIMIT 1)";

/// A name in text, both parts in quotes.
pub(crate) fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", quoted(schema), quoted(name))
}

fn quoted(name: &str) -> String {
    String::from_utf8_lossy(&quote_identifier(name.as_bytes())).into_owned()
}

/// The column list of a COPY: in parentheses, or nothing for a table without columns of its own.
pub(crate) fn column_list(columns: &[String]) -> String {
    if columns.is_empty() {
        return String::new();
    }
    let columns: Vec<String> = columns.iter().map(|column| quoted(column)).collect();
    format!(" ({})", columns.join(", "))
}

/// The option that says in which encoding the rows are. The session itself stays in UTF-8, because names in statements are.
pub(crate) fn encoding_option(encoding: &str) -> String {
    let encoding = quote_literal(encoding.as_bytes());
    format!(" WITH (ENCODING {})", String::from_utf8_lossy(&encoding))
}

/// What all workers share.
#[derive(Debug)]
pub(crate) struct Load<'a> {
    pub(crate) archive: &'a dyn DatabaseArchive,
    pub(crate) connector: &'a Connector,
    pub(crate) recorder: &'a Recorder,
    pub(crate) stats: &'a Stats,
    pub(crate) jobs: usize,
    /// Tables and the transactions that wrote their binary parts.
    pub(crate) binary: Mutex<Vec<(usize, u32)>>,
}

/// One part of one table, by positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unit {
    table: usize,
    part: u64,
}

/// What is to be loaded still.
#[derive(Debug)]
struct Queue {
    /// Tables nobody has begun, largest last.
    waiting: Vec<usize>,
    /// Of each table the next part, and the end.
    parts: Vec<(u64, u64)>,
}

impl Queue {
    fn new(tables: &[TableInfo]) -> Self {
        let mut waiting: Vec<usize> = (0..tables.len())
            .filter(|n| !tables[*n].data_excluded && tables[*n].parts > 0)
            .collect();
        waiting.sort_by_key(|n| (tables[*n].rows, tables[*n].parts, std::cmp::Reverse(*n)));
        Self {
            waiting,
            parts: tables.iter().map(|table| (0, table.parts)).collect(),
        }
    }

    /// The next part for a worker that just loaded one of `current`.
    fn next_unit(&mut self, current: Option<usize>) -> Option<Unit> {
        let table = current
            .filter(|n| self.left(*n) > 0)
            .or_else(|| self.waiting.pop())
            .or_else(|| self.begun_with_most_left())?;
        let part = self.parts[table].0;
        self.parts[table].0 += 1;
        Some(Unit { table, part })
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
            && self
                .parts
                .iter()
                .all(|(next, end)| next == end || *next == 0)
    }

    /// Nothing more is handed out: a worker met what ends the restore.
    fn clear(&mut self) {
        self.waiting.clear();
        self.parts.iter_mut().for_each(|(next, end)| *next = *end);
    }

    fn left(&self, table: usize) -> u64 {
        let (next, end) = self.parts[table];
        end - next
    }

    fn begun_with_most_left(&self) -> Option<usize> {
        let begun = (0..self.parts.len()).filter(|n| self.parts[*n].0 > 0 && self.left(*n) > 0);
        begun.max_by_key(|n| self.left(*n))
    }
}

#[derive(Debug)]
struct Failed {
    unit: Unit,
    error: PgError,
}

/// What a comparison must know of the load.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// Tables that were loaded through their root although the archive did not say so.
    pub(crate) via_root: BTreeSet<(String, String)>,
    /// Of tables with binary parts, by their positions, the transactions that wrote these parts.
    pub(crate) binary: BTreeMap<usize, Vec<u32>>,
}

impl Load<'_> {
    fn tables(&self) -> &[TableInfo] {
        &self.archive.description().tables
    }

    /// Loads all rows.
    pub(crate) fn run(&self, crew: &Crew<'_>) -> Result<Loaded, RestoreError> {
        self.recorder.report().tables = self.tables().iter().map(table_report).collect();
        let crashes = OnceLock::new();
        let queue = Mutex::new(Queue::new(self.tables()));
        let failed = Mutex::new(Vec::new());
        let results: Vec<Result<(), RestoreError>> = thread::scope(|scope| {
            let work = || {
                let result = self.work(crew, &queue, &failed, &crashes);
                if result.is_err() {
                    queue.lock().unwrap_or_else(PoisonError::into_inner).clear();
                }
                result
            };
            let workers: Vec<_> = (0..self.jobs.max(1)).map(|_| scope.spawn(work)).collect();
            workers
                .into_iter()
                .map(|worker| worker.join().expect("a worker that panics is our bug"))
                .collect()
        });
        results.into_iter().collect::<Result<(), RestoreError>>()?;
        let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut loaded = Loaded {
            via_root: self.again(failed, &crashes)?,
            ..Loaded::default()
        };
        self.compare_counts()?;
        let written = self.binary.lock().unwrap_or_else(PoisonError::into_inner);
        for (table, transaction) in written.iter() {
            loaded.binary.entry(*table).or_default().push(*transaction);
        }
        Ok(loaded)
    }

    /// A new session. After a COPY that failed the old one is given up: the client sends its end of COPY even where the server never began one, and
    /// the answer to that would be taken for the answer to the next statement.
    fn session(&self) -> Result<PgSession, PgError> {
        self.connector.connect(&ConnectOptions::restore())
    }

    /// The same after a failure that may have been the server's end.
    fn session_after(&self, crashes: &OnceLock<String>) -> Result<PgSession, RestoreError> {
        let mut session = self.session()?;
        let now = crashes_of(&mut session)?;
        match crashes.get().is_none_or(|before| *before == now) {
            true => Ok(session),
            false => Err(RestoreError::Crashed),
        }
    }

    fn work(
        &self,
        crew: &Crew<'_>,
        queue: &Mutex<Queue>,
        failed: &Mutex<Vec<Failed>>,
        crashes: &OnceLock<String>,
    ) -> Result<(), RestoreError> {
        let is_work_left = || {
            !queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_empty()
        };
        let joined = crew.join(ConnectOptions::restore(), &is_work_left)?;
        let Some((mut session, _place)) = joined else {
            return Ok(());
        };
        if crashes.get().is_none() {
            let before = crashes_of(&mut session)?;
            crashes.get_or_init(|| before);
        }
        let mut current = None;
        loop {
            let next = queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .next_unit(current);
            let Some(unit) = next else { return Ok(()) };
            current = Some(unit.table);
            self.recorder.check_interrupt()?;
            let table = &self.tables()[unit.table];
            let into = table
                .load_via
                .clone()
                .unwrap_or_else(|| (table.schema.clone(), table.name.clone()));
            match self.copy(&mut session, unit, &into) {
                Ok(rows) => self.loaded(unit, rows),
                Err(RestoreError::Target(error)) if error.code() != Some(DISK_FULL) => {
                    tracing::debug!(table = %table.name, reason = %error, "a part is put off");
                    failed
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(Failed { unit, error });
                    drop(session);
                    session = self.session_after(crashes)?;
                }
                // Damage costs the part that it lies in, not the database.
                Err(RestoreError::Archive(error)) if is_damage(&error) => {
                    self.recorder
                        .damaged(Phase::Data, part_label(table, unit.part), &error)?;
                    drop(session);
                    session = self.session_after(crashes)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Tries what failed once more, one after the other, until a whole round brings nothing.
    fn again(
        &self,
        mut failed: Vec<Failed>,
        crashes: &OnceLock<String>,
    ) -> Result<BTreeSet<(String, String)>, RestoreError> {
        let mut via_root = BTreeSet::new();
        if failed.is_empty() {
            return Ok(via_root);
        }
        let lost = failed.iter().filter(|f| f.error.server_error().is_none());
        let lost: BTreeSet<usize> = lost.map(|failed| failed.unit.table).collect();
        let mut session = self.session()?;
        let mut progress = true;
        while progress && !failed.is_empty() {
            progress = false;
            let mut still = Vec::new();
            for before in failed {
                let table = &self.tables()[before.unit.table];
                let own = (table.schema.clone(), table.name.clone());
                let into = self.where_to(&mut session, table, &before.error)?;
                self.recorder.report().tables[before.unit.table].retried += 1;
                match self.copy(&mut session, before.unit, &into) {
                    Ok(rows) => {
                        progress = true;
                        self.loaded(before.unit, rows);
                        if into != own {
                            self.recorder.report().tables[before.unit.table].loaded_via =
                                Some(format!("{}.{}", into.0, into.1));
                            via_root.insert(own);
                        }
                    }
                    Err(RestoreError::Archive(error)) if is_damage(&error) => {
                        let object = part_label(table, before.unit.part);
                        self.recorder.damaged(Phase::Data, object, &error)?;
                        drop(session);
                        session = self.session_after(crashes)?;
                    }
                    Err(RestoreError::Target(error)) if error.server_error().is_some() => {
                        still.push(Failed {
                            unit: before.unit,
                            error,
                        });
                        drop(session);
                        session = self.session_after(crashes)?;
                    }
                    Err(error) => return Err(error),
                }
            }
            failed = still;
        }
        self.count_again(&mut session, &lost)?;
        for left in failed {
            let table = &self.tables()[left.unit.table];
            let object = part_label(table, left.unit.part);
            self.recorder.refused(Phase::Data, object, left.error)?;
        }
        Ok(via_root)
    }

    /// Counts the rows of tables that were loaded over a connection that broke.
    fn count_again(
        &self,
        session: &mut PgSession,
        tables: &BTreeSet<usize>,
    ) -> Result<(), RestoreError> {
        for position in tables {
            let report = self.recorder.report().tables[*position].clone();
            // What went in through a root lies beside the rows of others.
            if report.loaded_via.is_some() {
                continue;
            }
            let object = format!("rows of {}.{}", report.schema, report.name);
            let name = qualified(&report.schema, &report.name);
            match session.query_one(&format!("SELECT count(*) FROM ONLY {name}"), &[]) {
                Ok(row) => {
                    let there: i64 = row.get(0);
                    if u64::try_from(there) != Ok(report.rows) {
                        let reason = format!(
                            "the connection broke before the server said what became of a part; {there} rows are there instead of {}",
                            report.rows
                        );
                        self.recorder.fail(Phase::Data, object, reason, None)?;
                    }
                }
                Err(error) if error.server_error().is_some() => {
                    tracing::debug!(%error, table = %name, "rows cannot be counted");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Rows that violate their partition's bounds go in through the topmost partitioned table, which finds their place.
    fn where_to(
        &self,
        session: &mut PgSession,
        table: &TableInfo,
        error: &PgError,
    ) -> Result<(String, String), RestoreError> {
        let own = table
            .load_via
            .clone()
            .unwrap_or_else(|| (table.schema.clone(), table.name.clone()));
        if error.code() != Some(CHECK_VIOLATION) || session.version_num() < PARTITIONS {
            return Ok(own);
        }
        let sql = format!(
            "WITH RECURSIVE {PARTITION_ROOT} SELECT n.nspname::text, c.relname::text FROM root JOIN pg_catalog.pg_class c ON c.oid = root.relid \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        );
        let root = session.query_opt(&sql, &[&qualified(&own.0, &own.1)])?;
        Ok(root.map_or(own, |row| (row.get(0), row.get(1))))
    }

    fn loaded(&self, unit: Unit, rows: u64) {
        self.stats.rows.add(rows);
        let mut report = self.recorder.report();
        report.tables[unit.table].rows += rows;
        report.rows += rows;
        drop(report);
        if unit.part + 1 == self.tables()[unit.table].parts {
            self.stats.tables.one();
        }
    }

    /// One COPY; returns the number of rows that the server took.
    fn copy(
        &self,
        session: &mut PgSession,
        unit: Unit,
        into: &(String, String),
    ) -> Result<u64, RestoreError> {
        let table = &self.tables()[unit.table];
        let binary = table.binary_parts.contains(&unit.part);
        let form = match binary {
            true => " WITH (FORMAT binary)".to_owned(),
            false => encoding_option(&self.archive.description().encoding),
        };
        let sql = format!(
            "COPY {}{} FROM STDIN{form}",
            qualified(&into.0, &into.1),
            column_list(&table.columns),
        );
        // Its rows are found again by the transaction that wrote them.
        let transaction = match binary {
            true => Some(begin(session)?),
            false => None,
        };
        let rows = self.send(session, &sql, table, unit)?;
        if let Some(transaction) = transaction {
            session.batch_execute("COMMIT")?;
            let mut written = self.binary.lock().unwrap_or_else(PoisonError::into_inner);
            written.push((unit.table, transaction));
        }
        Ok(rows)
    }

    fn send(
        &self,
        session: &mut PgSession,
        sql: &str,
        table: &TableInfo,
        unit: Unit,
    ) -> Result<u64, RestoreError> {
        let (sender, receiver) = bounded(PIECES_AHEAD);
        thread::scope(|scope| {
            let reader = scope.spawn(move || self.read(table, unit.part, &sender));
            let copied = session.copy_in(sql, &mut || next_piece(&receiver));
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

    /// Reads a part ahead. What it sends last says how it ended.
    fn read(
        &self,
        table: &TableInfo,
        part: u64,
        sender: &Sender<Piece>,
    ) -> crate::error::Result<()> {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let send = |piece: Piece| sender.send(piece).map_err(|_nobody_reads| Error::Stopped);
        let read = self.archive.read_part(table, part, &mut |bytes| {
            self.stats
                .bytes_read
                .add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            self.recorder
                .check_interrupt()
                .map_err(|_interrupted| Error::Interrupted)?;
            piece.extend_from_slice(bytes);
            if piece.len() < PIECE_BYTES {
                return Ok(());
            }
            send(Piece::Rows(Bytes::from(std::mem::replace(
                &mut piece,
                Vec::with_capacity(PIECE_BYTES),
            ))))
        });
        match read {
            Ok(()) => {
                send(Piece::Rows(Bytes::from(piece)))?;
                send(Piece::End)
            }
            Err(error) => {
                // The COPY must fail, not end early: half a part would look like a whole one.
                let interrupted = matches!(error, Error::Interrupted);
                if send(Piece::Failed { interrupted }).is_err() {
                    tracing::debug!("a COPY had failed before its part could not be read");
                }
                Err(error)
            }
        }
    }

    /// The server says how many rows it took; the archive says how many there were.
    fn compare_counts(&self) -> Result<(), RestoreError> {
        let differing: Vec<TableReport> = self
            .recorder
            .report()
            .tables
            .iter()
            .filter(|t| !t.data_excluded && t.rows != t.rows_archived)
            .cloned()
            .collect();
        let failed: BTreeSet<String> = self
            .recorder
            .report()
            .failures
            .iter()
            .filter(|f| f.phase == Phase::Data)
            .map(|f| f.object.clone())
            .collect();
        for table in differing {
            let object = format!("rows of {}.{}", table.schema, table.name);
            if failed
                .iter()
                .any(|known| known.starts_with(&format!("{object}, part ")))
            {
                continue;
            }
            let reason = format!(
                "{} rows were archived, {} were taken by the server",
                table.rows_archived, table.rows
            );
            self.recorder.fail(Phase::Data, object, reason, None)?;
        }
        Ok(())
    }
}

/// Begins a transaction and returns its number, as `xmin` of its rows will show it.
fn begin(session: &mut PgSession) -> Result<u32, PgError> {
    session.batch_execute("BEGIN")?;
    let sql = "SELECT pg_catalog.txid_current() & 4294967295";
    let transaction: i64 = session.query_one(sql, &[])?.get(0);
    Ok(u32::try_from(transaction).expect("32 bits were taken"))
}

/// Something that is another after the server crashed: its counters begin anew then, and are kept when it is stopped and started.
fn crashes_of(session: &mut PgSession) -> Result<String, PgError> {
    let sql = "SELECT coalesce(stats_reset::text, '') FROM pg_catalog.pg_stat_bgwriter";
    Ok(session.query_one(sql, &[])?.get(0))
}

/// What the reader of a part hands on.
#[derive(Debug)]
enum Piece {
    Rows(Bytes),
    End,
    Failed { interrupted: bool },
}

fn next_piece(receiver: &Receiver<Piece>) -> Result<Option<Bytes>, RestoreError> {
    match receiver.recv() {
        Ok(Piece::Rows(bytes)) => Ok(Some(bytes)),
        Ok(Piece::End) => Ok(None),
        Ok(Piece::Failed { interrupted: true }) => Err(RestoreError::Interrupted),
        Ok(Piece::Failed { interrupted: false }) | Err(_) => {
            Err(RestoreError::Archive(Error::Stopped))
        }
    }
}

fn part_label(table: &TableInfo, part: u64) -> String {
    format!("rows of {}.{}, part {part}", table.schema, table.name)
}

fn table_report(table: &TableInfo) -> TableReport {
    TableReport {
        schema: table.schema.clone(),
        name: table.name.clone(),
        rows_archived: table.rows,
        loaded_via: table
            .load_via
            .as_ref()
            .map(|(schema, name)| format!("{schema}.{name}")),
        data_excluded: table.data_excluded,
        ..TableReport::default()
    }
}

/// Sets every sequence to its archived position.
pub(crate) fn set_sequences(
    session: &mut PgSession,
    sequences: &[SequenceState],
    recorder: &Recorder,
) -> Result<(), RestoreError> {
    for sequence in sequences {
        recorder.check_interrupt()?;
        let name = qualified(&sequence.schema, &sequence.name);
        let literal = String::from_utf8_lossy(&quote_literal(name.as_bytes())).into_owned();
        let sql = format!(
            "SELECT pg_catalog.setval({literal}, {}, {})",
            sequence.last_value, sequence.is_called
        );
        match session.batch_execute(&sql) {
            Ok(()) => recorder.report().sequences += 1,
            Err(error) => recorder.refused(
                Phase::Sequences,
                format!("sequence {}.{}", sequence.schema, sequence.name),
                error,
            )?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: u64, parts: u64) -> TableInfo {
        TableInfo {
            rows,
            parts,
            ..TableInfo::default()
        }
    }

    #[test]
    fn large_tables_first_and_each_by_one_worker() {
        let mut excluded = table(1000, 1);
        excluded.data_excluded = true;
        let mut queue = Queue::new(&[table(5, 1), table(90, 3), excluded, table(50, 2)]);
        let mut next = |current| queue.next_unit(current).map(|unit| (unit.table, unit.part));
        assert_eq!(next(None), Some((1, 0)));
        assert_eq!(
            next(None),
            Some((3, 0)),
            "another worker takes another table"
        );
        assert_eq!(next(Some(1)), Some((1, 1)), "and stays with its own");
        assert_eq!(next(None), Some((0, 0)));
        assert_eq!(next(Some(0)), Some((3, 1)), "with none left it helps");
        assert_eq!(next(Some(0)), Some((1, 2)));
        assert_eq!(next(Some(1)), None);
    }

    #[test]
    fn names_are_quoted() {
        assert_eq!(qualified("a b", "c\"d"), "\"a b\".\"c\"\"d\"");
        assert_eq!(column_list(&[]), "");
        assert_eq!(
            column_list(&["select".to_owned(), "ü".to_owned()]),
            " (\"select\", \"ü\")"
        );
    }
}
