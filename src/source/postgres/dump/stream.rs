//! Copies the rows of open databases into the sink, over several connections.
//!
//! A part that others lock goes back into the queue and is tried again later, so that a long ALTER delays
//! its own table only. All databases are read at the same time, each by a thread that waits for turns
//! ([`super::budget`]): on the session of its snapshot, and on more of them where it has the largest pieces.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::budget::{Member, Turn};
use super::catalog::{self, Table};
use super::error::DumpError;
use super::large_objects;
use super::lock_holders;
use super::open::{self, Database, OpenDatabase};
use super::outcome::DatabaseOutcome;
use super::part_lock::{lock_part, prepare_check};
use super::parts::{self, Form, Piece};
use super::schema::{Output, SchemaDump};
use super::{DatabaseSource, RowDigester, RowSum};
use crate::error::Error;
use crate::format::database::{DatabaseInfo, TableInfo};
use crate::format::large_object;
use crate::format::node::{Node, NodeKind, TablePart, Timestamp};
use crate::format::path_encoding::encode_name;
use crate::pipeline::{ItemWriter, Sink, SourceQueue, StreamKind, TreePath};
use crate::source::SourceError;
use crate::source::postgres::rights::Gap;
use crate::source::postgres::{PgError, PgSession, RetryPolicy};

const PAUSE_BUSY: Duration = Duration::from_millis(100);
/// Bytes of a part between two updates of the counters.
const BYTES_PER_COUNT: u64 = 1 << 20;
const SECONDS_MS: i64 = 1000;

/// What all databases of a run share.
#[derive(Clone, Copy, Debug)]
pub struct StreamOptions {
    /// Connections to one server that copy at once; absent: as many as are of use.
    pub connections: Option<usize>,
    /// Whether the plain BLAKE3 of every stream is made, rows of tables left out: those have digests of their own.
    pub content_digest: bool,
}

impl StreamOptions {
    /// How many connections copy a database at once: what is said for it, but no more than for all; else as many as are of use. More than
    /// there are cores only get into each other's way.
    fn connections(&self, source: &DatabaseSource) -> usize {
        const ELSEWHERE: usize = 4;
        let wanted = match (source.options.connections, self.connections) {
            (Some(own), Some(all)) => own.min(all),
            (Some(given), None) | (None, Some(given)) => given,
            (None, None) if !source.settings.is_here() => ELSEWHERE,
            (None, None) => {
                thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, ELSEWHERE))
            }
        };
        wanted.max(1)
    }
}

/// Copies all databases into the sink at the same time, those that wait for a connection when there is one;
/// each result stands beside the name of its component, in the order of the argument. A database that fails
/// leaves nothing in the tree.
pub fn stream_databases(
    databases: Vec<Database>,
    sink: &Sink,
    digester: &RowDigester,
    options: StreamOptions,
) -> Vec<(String, Result<DatabaseOutcome, SourceError>)> {
    for database in &databases {
        if let Database::Open(open) = database {
            sink.stats.bytes_expected.add(open.bytes_expected());
        }
        let copies = options.connections(database.source());
        database.server().budget.raise_copies_max(copies);
    }
    let at_once = databases.len();
    open::in_parallel(databases, at_once, |database| {
        let name = database.name().to_owned();
        let outcome = opened(database, sink)
            .and_then(|mut open| stream_with_restarts(&mut open, sink, digester, options));
        (name, outcome.map_err(DumpError::into_source))
    })
}

/// Opens a database that has waited until now.
fn opened(database: Database, sink: &Sink) -> Result<Box<OpenDatabase>, DumpError> {
    let waiting = match database {
        Database::Open(open) => return Ok(open),
        Database::Waiting(waiting) => waiting,
    };
    let opened = open::open_late(&waiting, &|| sink.pool.is_stopped());
    waiting.server.budget.waits_no_more();
    let open = opened?;
    sink.stats.bytes_expected.add(open.bytes_expected());
    Ok(Box::new(open))
}

fn stream_with_restarts(
    open: &mut OpenDatabase,
    sink: &Sink,
    digester: &RowDigester,
    options: StreamOptions,
) -> Result<DatabaseOutcome, DumpError> {
    let base = TreePath::root()
        .join(b"databases")
        .join(&encode_name(open.name().as_bytes()));
    loop {
        let queue = sink.pool.source_queue();
        let result = stream_once(open, sink, &queue, digester, options, &base);
        // What is still on its way to the tree must be there before anything is taken back.
        queue.drain()?;
        let error = match result {
            Ok(outcome) => return Ok(outcome),
            Err(error) => error,
        };
        sink.discard(&base)?;
        open::begin_again(open, error)?;
    }
}

/// One attempt at a database.
pub(super) struct Run<'a> {
    pub(super) open: &'a OpenDatabase,
    sink: &'a Sink,
    queue: &'a SourceQueue,
    digester: &'a RowDigester,
    content_digest: bool,
    base: &'a TreePath,
    holder: Option<Mutex<&'a mut PgSession>>,
    member: Member,
    schema: OnceLock<Output>,
    work: Mutex<VecDeque<Work>>,
    sums: Mutex<Vec<RowSum>>,
    /// Tables and parts that were copied in binary.
    binary: Mutex<Vec<(usize, u64)>>,
    bytes: Mutex<u64>,
    failure: Mutex<Option<DumpError>>,
    stopped: AtomicBool,
}

/// A piece that waits for a connection.
struct Work {
    piece: Piece,
    /// Since when others keep its table locked.
    busy_since: Option<Instant>,
    not_before: Option<Instant>,
}

/// What became of one piece.
enum Copied {
    Done,
    /// Somebody else holds or awaits a lock that does not go with reading.
    Busy(String),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stream_once(
    open: &mut OpenDatabase,
    sink: &Sink,
    queue: &SourceQueue,
    digester: &RowDigester,
    options: StreamOptions,
    base: &TreePath,
) -> Result<DatabaseOutcome, DumpError> {
    let mut holder = open.prepared.holder.take();
    let schema = open.prepared.schema.take();
    let connections = options.connections(&open.source);
    let pieces = parts::plan(&open.prepared.catalog, open.source.options.range_blocks);
    let allowed = open.allowed.as_ref().map_or(connections, |a| a.connections);
    let work: VecDeque<Work> = pieces
        .into_iter()
        .map(|piece| Work {
            piece,
            busy_since: None,
            not_before: None,
        })
        .collect();
    let run = Run {
        open,
        sink,
        queue,
        digester,
        content_digest: options.content_digest,
        base,
        holder: holder
            .as_mut()
            .map(|holder| Mutex::new(&mut holder.session)),
        member: open.server.budget.join(connections.min(allowed)),
        schema: OnceLock::new(),
        work: Mutex::new(work),
        sums: Mutex::new(vec![RowSum::default(); open.prepared.catalog.tables.len()]),
        binary: Mutex::default(),
        bytes: Mutex::new(0),
        failure: Mutex::new(None),
        stopped: AtomicBool::new(false),
    };
    write_globals(&run)?;
    run.tell_what_is_left(&lock(&run.work));
    let mut compared = true;
    thread::scope(|scope| {
        let schema = scope.spawn(|| {
            let beside = schema.as_ref().is_some_and(|schema| !schema.is_ready());
            let finished = run.finish_schema(schema);
            let finished = finished.and_then(|()| match beside {
                true => run.compare_names_apart(),
                false => Ok(true),
            });
            finished.unwrap_or_else(|error| {
                run.keep(Err(error));
                true
            })
        });
        while let Some(turn) = run.member.next_turn(&|| run.check().is_err()) {
            let run = &run;
            scope.spawn(move || match turn.extra.is_some() {
                true => run.work_on_new_session(turn),
                false => run.keep(run.work_on(&mut lock(&run.open.session))),
            });
        }
        compared = schema
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let mut session = lock(&open.session);
    if let Some(error) = lock(&run.failure).take() {
        return Err(error);
    }
    if !compared {
        run.compare_names(&mut session, |_all| true)?;
    }
    run.check()?;
    let large_objects = run.write_large_object_metadata(&mut session)?;
    run.compare_enums(&mut session)?;
    run.finish(&session, large_objects)
}

/// Writes the globals of the cluster, if no database has done so yet.
fn write_globals(run: &Run<'_>) -> Result<(), DumpError> {
    let cluster = &run.open.cluster;
    let Some(Ok(globals)) = lock(&cluster.globals).take() else {
        return Ok(());
    };
    let folder = TreePath::root()
        .join(b"clusters")
        .join(&encode_name(cluster.name.as_bytes()));
    run.write_output(&folder.join(b"globals.sql"), &globals)
}

impl Run<'_> {
    pub(super) fn tables(&self) -> &[Table] {
        &self.open.prepared.catalog.tables
    }

    /// Keeps the first failure and stops the others.
    fn keep(&self, result: Result<(), DumpError>) {
        if let Err(error) = result {
            lock(&self.failure).get_or_insert(error);
            self.stopped.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn check(&self) -> Result<(), DumpError> {
        if self.stopped.load(Ordering::Relaxed) || self.sink.pool.is_stopped() {
            return Err(DumpError::Run(Error::Stopped));
        }
        Ok(())
    }

    /// Opens one more connection in the same snapshot; where that fails, the others do its work.
    fn work_on_new_session(&self, mut turn: Turn) {
        let budget = &self.open.server.budget;
        let mut options = self.open.source.options.session();
        options.retry = RetryPolicy::once();
        let opened = self
            .open
            .connector
            .connect(&options)
            .and_then(|mut session| {
                self.import(&mut session)?;
                Ok(session)
            });
        match opened {
            Ok(mut session) => {
                budget.connected();
                self.keep(self.work_on(&mut session));
                session.close();
            }
            Err(error) => {
                turn.extra = None;
                let refused = budget.refused();
                if refused.first {
                    let limit = match error.is_connection_limit() {
                        true => format!("; {}", self.open.server.limit),
                        false => String::new(),
                    };
                    tracing::warn!(
                        connections = refused.left,
                        "going on with fewer connections, more are tried for now and then: {error}{limit}"
                    );
                }
            }
        }
    }

    /// Takes the snapshot over.
    pub(super) fn import(&self, session: &mut PgSession) -> Result<(), PgError> {
        session.batch_execute(&format!(
            "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
            catalog::literal(&self.open.prepared.snapshot.exported)
        ))
    }

    /// Waits for the schema and writes it.
    fn finish_schema(&self, schema: Option<SchemaDump>) -> Result<(), DumpError> {
        let schema = schema.ok_or(DumpError::Run(Error::Stopped))?;
        let output = schema.finish(|| self.check().is_ok())?;
        self.write_output(&self.base.join(b"schema.dump"), &output)?;
        self.schema.get_or_init(|| output);
        Ok(())
    }

    fn work_on(&self, session: &mut PgSession) -> Result<(), DumpError> {
        prepare_check(session)?;
        while let Some(mut work) = self.next() {
            let copied = self
                .copy(session, &work.piece)
                .map_err(|error| error.context(&self.name_of(&work.piece)))?;
            if let Copied::Busy(words) = copied {
                let since = *work.busy_since.get_or_insert_with(Instant::now);
                let limit = self.open.source.options.lock_wait;
                if since.elapsed() > limit {
                    let seconds = limit.as_secs();
                    let name = self.name_of(&work.piece);
                    let holders = lock_holders::told(session)?;
                    return Err(DumpError::Failed(format!(
                        "{name}: locked by others for more than {seconds} s: {words}{holders}"
                    )));
                }
                work.not_before = Some(Instant::now() + PAUSE_BUSY);
                let mut waiting = lock(&self.work);
                waiting.push_back(work);
                self.tell_what_is_left(&waiting);
            }
            if self.member.should_give_way() {
                break;
            }
        }
        Ok(())
    }

    /// Returns the next piece that may be tried; waits for one that is locked by others when nothing else is left.
    fn next(&self) -> Option<Work> {
        loop {
            self.check().ok()?;
            let mut work = lock(&self.work);
            if work.is_empty() {
                return None;
            }
            let now = Instant::now();
            let ready = work
                .iter()
                .position(|work| work.not_before.is_none_or(|time| time <= now));
            if let Some(position) = ready {
                let next = work.remove(position);
                self.tell_what_is_left(&work);
                return next;
            }
            drop(work);
            thread::sleep(PAUSE_BUSY / 4);
        }
    }

    fn tell_what_is_left(&self, work: &VecDeque<Work>) {
        let bytes = work.front().map_or(0, |work| work.piece.bytes());
        self.member.left(work.len(), bytes);
    }

    fn name_of(&self, piece: &Piece) -> String {
        match piece {
            Piece::Rows { table, .. } => {
                let table = &self.tables()[*table];
                format!("table {}.{}", table.schema, table.name)
            }
            Piece::LargeObjects { first } => format!("large objects from {first}"),
        }
    }

    fn copy(&self, session: &mut PgSession, piece: &Piece) -> Result<Copied, DumpError> {
        match piece {
            Piece::LargeObjects { first } => self
                .copy_large_objects(session, *first)
                .map(|()| Copied::Done),
            Piece::Rows { .. } => match (self.copy_rows(session, piece)?, &self.holder) {
                // Whoever holds the lock already can read behind the queue for it.
                (Copied::Busy(_), Some(holder)) => {
                    let mut holder = lock(holder);
                    prepare_check(&mut holder)?;
                    self.copy_rows(&mut holder, piece)
                }
                (copied, _) => Ok(copied),
            },
        }
    }

    fn copy_rows(&self, session: &mut PgSession, piece: &Piece) -> Result<Copied, DumpError> {
        let Piece::Rows {
            table: position,
            part,
            first_block,
            end_block,
            ..
        } = piece
        else {
            return Ok(Copied::Done);
        };
        let table = &self.tables()[*position];
        if let Some(busy) = lock_part(session, table)? {
            return Ok(Copied::Busy(busy));
        }
        let encoding = &self.open.prepared.catalog.encoding;
        let blocks = (*first_block, *end_block);
        let text = self.copy_part(session, table, *part, blocks, Form::Text { encoding });
        let (form, (writer, sum, mut counted)) = match text {
            Err(DumpError::Failed(words)) if parts::is_too_big_for_text(&words) => {
                if !table.binary {
                    return Err(DumpError::Failed(format!(
                        "{words}; a row is too big for its text, and the table has columns that cannot be copied in binary"
                    )));
                }
                tracing::warn!(table = %self.name_of(piece), "a row is too big for its text, copying in binary");
                session.batch_execute(parts::UNLOCK)?;
                if let Some(busy) = lock_part(session, table)? {
                    return Ok(Copied::Busy(busy));
                }
                lock(&self.binary).push((*position, *part));
                (
                    1,
                    self.copy_part(session, table, *part, blocks, Form::Binary)?,
                )
            }
            copied => (0, copied?),
        };
        counted.flush();
        session.batch_execute(parts::UNLOCK)?;
        let columns = table
            .columns
            .iter()
            .map(|column| column.clone().into_bytes().into())
            .collect();
        let table_part = TablePart {
            columns,
            format: form,
            rows: sum.rows,
            rows_digest: sum.bytes(),
            first_block: *first_block,
            end_block: *end_block,
        };
        let path = self.part_path(table, *part);
        self.finish_stream(writer, path, Some(table_part))?;
        lock(&self.sums)[*position] += sum;
        *lock(&self.bytes) += counted.total;
        Ok(Copied::Done)
    }

    /// Copies one part, whose table is locked.
    fn copy_part(
        &self,
        session: &mut PgSession,
        table: &Table,
        part: u64,
        (first_block, end_block): (u64, Option<u64>),
        form: Form<'_>,
    ) -> Result<(ItemWriter<'_>, RowSum, Counted<'_>), DumpError> {
        // The digest of its rows is what proves a part; a second one of its bytes would cost a tenth of the time.
        let mut writer = ItemWriter::queued(self.queue, StreamKind::Table, false)
            .follows(&self.part_path(table, part));
        let mut sum = RowSum::default();
        let mut counted = Counted {
            sink: self.sink,
            rows: 0,
            bytes: 0,
            total: 0,
        };
        let sql = parts::copy_statement(table, first_block, end_block, form);
        session.copy_out_batches::<DumpError>(&sql, &mut |messages| {
            self.check()?;
            let mut bytes = 0;
            let rows_before = sum.rows;
            for message in messages {
                let row = match form {
                    Form::Binary => parts::binary_row(message),
                    Form::Text { .. } => Some(message.strip_suffix(b"\n").ok_or_else(|| {
                        DumpError::Failed("the server sent a row without its end".to_owned())
                    })?),
                };
                if let Some(row) = row {
                    sum.add(self.digester, row);
                    bytes += message.len();
                }
                writer.write(message)?;
            }
            counted.add(sum.rows - rows_before, bytes);
            Ok(())
        })?;
        Ok((writer, sum, counted))
    }

    fn table_path(&self, table: &Table) -> TreePath {
        let names = [
            &b"tables"[..],
            &encode_name(table.schema.as_bytes()),
            &encode_name(table.name.as_bytes()),
        ];
        names
            .iter()
            .fold(self.base.clone(), |path, name| path.join(name))
    }

    fn part_path(&self, table: &Table, part: u64) -> TreePath {
        self.table_path(table).join(format!("{part:06}").as_bytes())
    }

    /// Ends a stream; its node goes to the sink when it is stored.
    fn finish_stream(
        &self,
        writer: ItemWriter<'_>,
        path: TreePath,
        table: Option<TablePart>,
    ) -> Result<(), DumpError> {
        let sink = self.sink.clone();
        let modified = self.modified();
        writer.finish(Box::new(move |_worker, item| {
            let name = path.names().last().unwrap_or_default().to_vec();
            let node = Node {
                name,
                kind: NodeKind::File,
                mode: 0o600,
                modified,
                size: item.bytes,
                content: item.content,
                digest: item.digest,
                table,
                ..Node::default()
            };
            sink.add_node(&path, node)
        }))?;
        Ok(())
    }

    /// The time of the snapshot: when the content was like this.
    fn modified(&self) -> Timestamp {
        let time_ms = self.open.prepared.snapshot.time_ms;
        let millis = u32::try_from(time_ms.rem_euclid(SECONDS_MS)).unwrap_or(0);
        Timestamp {
            seconds: time_ms.div_euclid(SECONDS_MS),
            nanos: millis * 1_000_000,
        }
    }

    fn writer(&self) -> ItemWriter<'static> {
        ItemWriter::queued(self.queue, StreamKind::TableBytes, self.content_digest)
    }

    fn write_output(&self, path: &TreePath, output: &Output) -> Result<(), DumpError> {
        let mut writer = self.writer();
        output.read::<DumpError>(&mut |bytes| {
            self.sink
                .stats
                .bytes_read
                .add(u64::try_from(bytes.len()).unwrap_or(0));
            Ok(writer.write(bytes)?)
        })?;
        self.finish_stream(writer, path.clone(), None)
    }

    fn copy_large_objects(&self, session: &mut PgSession, first: u32) -> Result<(), DumpError> {
        let mut writer = self.writer();
        let mut bytes = 0_u64;
        large_objects::copy_range(session, first, &mut |piece| {
            self.check()?;
            bytes += u64::try_from(piece.len()).unwrap_or(0);
            Ok(writer.write(piece)?)
        })?;
        if bytes == 0 {
            return Ok(());
        }
        self.sink.stats.bytes_read.add(bytes);
        let path = self
            .base
            .join(b"large-objects")
            .join(large_object::range_name(first).as_bytes());
        self.finish_stream(writer, path, None)
    }

    fn write_large_object_metadata(&self, session: &mut PgSession) -> Result<u64, DumpError> {
        if self.open.prepared.catalog.large_object_ranges.is_empty() {
            return Ok(0);
        }
        let mut writer = self.writer();
        let count = large_objects::copy_metadata(session, &mut |line| Ok(writer.write(line)?))?;
        let path = self
            .base
            .join(b"large-objects")
            .join(large_object::METADATA_NAME.as_bytes());
        self.finish_stream(writer, path, None)?;
        Ok(count)
    }

    /// Writes `database.json` and sums up.
    fn finish(
        &self,
        session: &PgSession,
        large_objects: u64,
    ) -> Result<DatabaseOutcome, DumpError> {
        let info = self.info(session, large_objects);
        let json = serde_json::to_vec_pretty(&info).expect("texts and numbers become JSON");
        let mut writer = self.writer();
        writer.write(&json)?;
        self.finish_stream(writer, self.base.join(b"database.json"), None)?;
        let tables: Vec<&TableInfo> = info
            .tables
            .iter()
            .filter(|table| !table.data_excluded)
            .collect();
        let table_count = u64::try_from(tables.len()).unwrap_or(u64::MAX);
        self.sink.stats.tables.add(table_count);
        let rows = tables.iter().map(|table| table.rows).sum();
        let mut notes = info
            .not_included
            .iter()
            .map(|what| format!("not included: {what}"))
            .collect::<Vec<_>>();
        let accepted = &self.open.source.options.accepted;
        let lost = self.open.prepared.catalog.hidden.iter();
        for gap in lost.filter(|gap| gap.is_accepted(accepted)) {
            notes.push(format!("accepted as missing: {}", gap.summary()));
        }
        let schema = self.schema.get();
        notes.extend(
            schema
                .iter()
                .flat_map(|schema| schema.notes.iter().cloned()),
        );
        notes.extend(self.open.again.notes());
        if let Some(reason) = &self.open.late {
            notes.push(format!(
                "its snapshot is later than those of the cluster's other databases: {reason}"
            ));
        }
        Ok(DatabaseOutcome {
            tables: table_count,
            rows,
            bytes: *lock(&self.bytes),
            large_objects,
            notes,
            incomplete: self.incomplete(),
            cluster: self.open.cluster.name.clone(),
            snapshot: self.open.prepared.snapshot.clone(),
            server_version: info.server_version,
        })
    }

    /// Says why the component is not whole: what nobody could read, although nothing failed.
    fn incomplete(&self) -> Option<String> {
        let accepted = &self.open.source.options.accepted;
        let hidden = self.open.prepared.catalog.hidden.iter();
        let hidden: Vec<&Gap> = hidden.filter(|gap| !gap.is_accepted(accepted)).collect();
        let mut reasons: Vec<String> = self.open.cluster.globals_failure.iter().cloned().collect();
        if !hidden.is_empty() {
            let what: Vec<String> = hidden.iter().map(|gap| gap.summary()).collect();
            let mut remedies: Vec<&str> = hidden.iter().map(|gap| gap.remedy.as_str()).collect();
            remedies.dedup();
            reasons.push(format!(
                "this role may not see {} ({})",
                what.join("; "),
                remedies.join("; ")
            ));
        }
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    fn info(&self, session: &PgSession, large_objects: u64) -> DatabaseInfo {
        let prepared = &self.open.prepared;
        let catalog = &prepared.catalog;
        let range_blocks = self.open.source.options.range_blocks;
        let sums = lock(&self.sums);
        let mut binary = lock(&self.binary).clone();
        binary.sort_unstable();
        let binary_parts = |position: usize| {
            let of_table = binary.iter().filter(|(table, _)| *table == position);
            of_table.map(|(_, part)| *part).collect()
        };
        let tables = catalog
            .tables
            .iter()
            .zip(sums.iter())
            .enumerate()
            .map(|(position, (table, sum))| TableInfo {
                schema: table.schema.clone(),
                name: table.name.clone(),
                columns: table.columns.clone(),
                load_via: table.load_via.clone(),
                filter: table.filter.clone(),
                parts: parts::part_count(table, range_blocks),
                binary_parts: binary_parts(position),
                rows: sum.rows,
                rows_digest: sum.hex(),
                data_excluded: table.data_excluded,
            })
            .collect();
        DatabaseInfo {
            name: session.endpoint().dbname.clone(),
            cluster: self.open.cluster.name.clone(),
            system_identifier: self.open.cluster.system_identifier.clone(),
            server_version_num: session.version_num(),
            server_version: session.facts().version.clone(),
            pg_dump_version: self
                .schema
                .get()
                .map(|schema| schema.version.clone())
                .unwrap_or_default(),
            encoding: catalog.encoding.clone(),
            collate: catalog.collate.clone(),
            ctype: catalog.ctype.clone(),
            snapshot_time: prepared.snapshot.time.clone(),
            snapshot: prepared.snapshot.visible.clone(),
            lsn: prepared.snapshot.lsn.clone(),
            standby: session.facts().in_recovery,
            extensions: catalog.extensions.clone(),
            sequences: catalog.sequences.clone(),
            tables,
            large_objects,
            not_included: catalog.not_included.clone(),
        }
    }
}

/// Counts rows and bytes without touching the shared counters for each batch.
struct Counted<'a> {
    sink: &'a Sink,
    rows: u64,
    bytes: u64,
    total: u64,
}

impl Counted<'_> {
    fn add(&mut self, rows: u64, bytes: usize) {
        self.rows += rows;
        self.bytes += u64::try_from(bytes).unwrap_or(0);
        if self.bytes >= BYTES_PER_COUNT {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.total += self.bytes;
        self.sink.stats.rows.add(std::mem::take(&mut self.rows));
        self.sink
            .stats
            .bytes_read
            .add(std::mem::take(&mut self.bytes));
    }
}
