//! Restores a database beside the one that it will replace, and gives it the name when it is complete.
//!
//! The new database has a temporary name of our own, `<name>_holdfast_<6 hex>`, and a comment that marks it. When everything is in it, one transaction
//! sets the archived comment and connection limit and renames both databases; then the old one is dropped, or keeps another name. `RENAME` locks the
//! database first and looks for sessions then, so new ones wait for the end of the transaction and learn there that the database was renamed; a
//! second session ends those that are there. Nothing of the old database is changed before, not even who may connect to it.
//!
//! Invariants:
//! 1. Whatever fails before the swap leaves the old database as it was (`a_failure_leaves_the_old_database`).
//! 2. The name always leads to a complete database, the old or the new one (`a_database_is_replaced_while_it_is_used`).
//! 3. Only databases that carry our mark are dropped as leftovers (`leftovers_are_recognised_by_their_mark`).
//!
//! Failure: killed before the swap, the new database is left behind, after it the old one; both carry the mark, and the next run drops them. Killed
//! between the creation of the new database and its mark, an empty database is left that is named and not dropped.
//!
//! Threads: [`Replacement::swap`] ends sessions from a thread of its own while it renames. A lock in the maintenance database keeps two restores of the
//! same database from replacing each other's work.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::archive::DatabaseArchive;
use super::error::RestoreError;
use super::report::{Phase, Recorder, RestoreReport};
use super::restore::{RestoreOptions, restore};
use super::sql::{quote_identifier, quote_literal};
use super::target_database::{RestoreTarget, some_of};
use crate::source::postgres::connect::EndpointAddress;
use crate::source::postgres::{Connector, PgError, PgSession};

/// A name of a database may have this many bytes.
const NAME_BYTES_MAX: usize = 63;
const INFIX: &str = "_holdfast_";
const HEX_DIGITS: usize = 6;
/// First words of the comments that mark databases of ours.
const MARK_NEW: &str = "holdfast restores this database, it is not complete; it will be ";
const MARK_OLD: &str = "holdfast replaced this database and will drop it; it was ";
/// First key of the lock that a restore holds; the second one is made of the name.
const LOCK_CLASS: i32 = 0x686f_6c64;
/// How often sessions are ended while the databases are renamed.
const PAUSE_END: Duration = Duration::from_millis(50);
/// The server itself waits five seconds for sessions to end.
const TRIES: u32 = 2;
/// How long a dropped database's last sessions may take to go.
const DROP_LIMIT: Duration = Duration::from_secs(10);
const OBJECT_IN_USE: &str = "55006";
const NO_DATABASE: &str = "3D000";

/// What becomes of the database that is replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SwapOptions {
    /// It keeps this name; without one it is dropped.
    pub keep: Option<String>,
    /// The new database takes its place although something could not be restored.
    pub incomplete: bool,
}

/// Restores a database beside the one of this name and puts it in its place.
///
/// What could not be restored is in the report; then the old database stays ([`RestoreReport::not_swapped`]), unless the options say otherwise.
pub fn replace_database(
    target: &RestoreTarget,
    archive: &dyn DatabaseArchive,
    options: &RestoreOptions,
) -> Result<RestoreReport, RestoreError> {
    let started = Instant::now();
    let (replacement, mut report) = Replacement::restore(target, archive, options)?;
    if report.is_complete() || (options.swap.incomplete && !report.stopped) {
        replacement.swap(&options.swap, &mut report)?;
    } else {
        let reason = match replacement.old {
            Some(_) => "not everything could be restored; the database stays as it was",
            None => "not everything could be restored; there is no such database, as before",
        };
        report.not_swapped = Some(reason.to_owned());
        if let Some(left) = replacement.abandon() {
            report.notes.push(left);
        }
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// A database that was restored under a temporary name and waits for its own.
#[derive(Debug)]
pub struct Replacement {
    target: RestoreTarget,
    /// On a maintenance database; it holds the lock.
    session: PgSession,
    new: Named,
    old: Option<Named>,
    /// Statements that belong to the last moment: the comment, which is our mark until then, and the connection limit.
    finals: Vec<Final>,
}

/// A statement for the last moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Final {
    /// For messages.
    pub(crate) label: String,
    pub(crate) sql: String,
    /// It sets the comment of the database.
    pub(crate) comment: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    name: String,
    oid: u32,
}

impl Replacement {
    /// Restores the archive into a new database beside the target's. The report says what could not be restored.
    ///
    /// After an error nothing is left, or what is left is named.
    pub fn restore(
        target: &RestoreTarget,
        archive: &dyn DatabaseArchive,
        options: &RestoreOptions,
    ) -> Result<(Self, RestoreReport), RestoreError> {
        let database = target.database();
        let report = RestoreReport {
            database: database.to_owned(),
            source_version: archive.description().server_version.clone(),
            ..RestoreReport::default()
        };
        let recorder = Recorder::new(report, options.on_error, Arc::clone(&options.interrupted));
        let mut session = target.maintenance()?;
        lock(&mut session, database)?;
        let old = named(&mut session, database)?;
        require_rights(&mut session, database, old.as_ref())?;
        if let Some(keep) = &options.swap.keep
            && named(&mut session, keep)?.is_some()
        {
            return Err(RestoreError::Unfit(format!(
                "the old database can't keep the name \"{keep}\", because there is one of this name"
            )));
        }
        drop_leftovers(&mut session, database, &recorder)?;
        if let Some(old) = &old {
            look_ahead(&mut session, old, &options.swap, &recorder)?;
        }
        let name = free_name(&mut session, database)?;
        tracing::debug!(database, beside = %name, "restoring beside");
        let inner = RestoreOptions {
            clean: false,
            create: true,
            ..options.clone()
        };
        let mark = format!("{MARK_NEW}{database}");
        let beside = target.renamed(&name);
        let ended = restore(&beside, archive, &inner, &recorder, Some(&mark));
        if session.ping().is_err()
            && let Ok(fresh) = target.maintenance_once()
        {
            // It was idle for long, or the server was restarted.
            session = fresh;
        }
        let new = named(&mut session, &name).ok().flatten();
        let mut replacement = Self {
            target: target.clone(),
            session,
            new: new.unwrap_or(Named { name, oid: 0 }),
            old,
            finals: Vec::new(),
        };
        let mut report = recorder.into_report();
        match ended {
            Ok(finals) => replacement.finals = finals,
            Err(RestoreError::Halted) => report.stopped = true,
            Err(error) => return Err(replacement.failed(error)),
        }
        Ok((replacement, report))
    }

    /// Reaches the new database, for what is to be done in it before it takes its place.
    pub fn connector(&self) -> Connector {
        self.target.renamed(&self.new.name).connector(&self.session)
    }

    /// Name that the new database has until the swap.
    pub fn temporary_name(&self) -> &str {
        &self.new.name
    }

    /// Puts the new database in the place of the old one. After an error the old one is there as before.
    pub fn swap(
        mut self,
        options: &SwapOptions,
        report: &mut RestoreReport,
    ) -> Result<(), RestoreError> {
        let database = self.target.database().to_owned();
        if self.session.ping().is_err() {
            self.session = self.target.maintenance()?;
        }
        let aside = match &options.keep {
            Some(name) => name.clone(),
            None => free_name(&mut self.session, &database)?,
        };
        let mut renamed = self.rename(&aside, options, report);
        for _ in 1..TRIES {
            match &renamed {
                Err(Refused { error, .. }) if error.code() == Some(OBJECT_IN_USE) => {
                    renamed = self.rename(&aside, options, report);
                }
                _ => {}
            }
        }
        if let Err(Refused { error, unended }) = renamed
            && !self.is_swapped(&database)
        {
            let reason = match unended.is_empty() {
                true => error.to_string(),
                false => format!(
                    "{error}; these sessions could not be ended: {}",
                    some_of(&unended)
                ),
            };
            return Err(self.failed(RestoreError::Swap { database, reason }));
        }
        match (self.old.take(), &options.keep) {
            (None, _) => {}
            (Some(_), Some(keep)) => report.notes.push(format!(
                "database \"{database}\" was there; it is called \"{keep}\" now"
            )),
            (Some(old), None) => {
                let old = Named { name: aside, ..old };
                report.notes.push(match drop_database(&mut self.session, &old) {
                    Ok(()) => format!("database \"{database}\" was there and was replaced"),
                    Err(error) => format!(
                        "database \"{database}\" was there and was replaced; the old one is called \"{}\" and could not be dropped: {}",
                        old.name, said(&error)
                    ),
                });
            }
        }
        Ok(())
    }

    /// Drops the new database; says what is left if that fails.
    pub fn abandon(mut self) -> Option<String> {
        let dropped = match self.session.ping() {
            Ok(()) => drop_database(&mut self.session, &self.new),
            Err(lost) => match self.target.maintenance_once() {
                Ok(mut session) => drop_database(&mut session, &self.new),
                Err(_unreachable) => Err(lost),
            },
        };
        let error = dropped.err()?;
        let reason = error
            .server_error()
            .map_or_else(String::new, |said| format!(" ({said})"));
        Some(format!(
            "the unfinished database \"{}\" could not be dropped{reason}, the next restore of \"{}\" with --clean does it",
            self.new.name,
            self.target.database()
        ))
    }

    /// Cleans up after an error and says what remains.
    fn failed(self, source: RestoreError) -> RestoreError {
        let database = self.target.database().to_owned();
        let there = self.old.is_some();
        let left = self.abandon();
        match source {
            // These carry an exit code of their own.
            RestoreError::Archive(_) | RestoreError::Interrupted => {
                if let Some(left) = left {
                    tracing::warn!("{left}");
                }
                source
            }
            source => RestoreError::Replace {
                database,
                state: match there {
                    true => "it stays as it was",
                    false => "there was none before",
                },
                left: left.map_or_else(String::new, |left| format!("; {left}")),
                source: Box::new(source),
            },
        }
    }

    /// One transaction, while another session ends whoever uses the two.
    fn rename(
        &mut self,
        aside: &str,
        options: &SwapOptions,
        report: &mut RestoreReport,
    ) -> Result<(), Refused> {
        let unended = Mutex::new(BTreeMap::new());
        let done = AtomicBool::new(false);
        let oids: Vec<u32> = self.old.iter().chain([&self.new]).map(|d| d.oid).collect();
        let mut ender = match self.target.maintenance() {
            Ok(session) => session,
            Err(RestoreError::Target(error)) => return Err(Refused::by(error)),
            Err(_) => {
                return Err(Refused::by(PgError::Lost {
                    endpoint: self.session.endpoint().to_string(),
                    reason: "no second session".to_owned(),
                }));
            }
        };
        // Once before, so that those who leave quickly are gone when the server looks.
        end_sessions(&mut ender, &oids, &unended);
        let renamed = thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    thread::sleep(PAUSE_END);
                    end_sessions(&mut ender, &oids, &unended);
                }
            });
            let renamed = self.transaction(aside, options, report);
            done.store(true, Ordering::Relaxed);
            renamed
        });
        let unended = unended.into_inner().unwrap_or_else(PoisonError::into_inner);
        renamed.map_err(|error| Refused {
            error,
            unended: unended.into_values().collect(),
        })
    }

    fn transaction(
        &mut self,
        aside: &str,
        options: &SwapOptions,
        report: &mut RestoreReport,
    ) -> Result<(), PgError> {
        let database = self.target.database().to_owned();
        let session = &mut self.session;
        session.batch_execute("BEGIN; SET LOCAL lock_timeout = '60s'")?;
        let mut statements = Vec::new();
        if let Some(old) = &self.old {
            if options.keep.is_none() {
                statements.push(comment_on(
                    &old.name,
                    Some(&format!("{MARK_OLD}{database}")),
                ));
            }
            statements.push(rename_statement(&old.name, aside));
        }
        if !self.finals.iter().any(|last| last.comment) {
            statements.push(comment_on(&self.new.name, None));
        }
        let mut failures = Vec::new();
        let result = self
            .finals
            .iter()
            .try_for_each(|last| optional(session, last, &mut failures))
            .and_then(|()| {
                statements.push(rename_statement(&self.new.name, &database));
                statements
                    .iter()
                    .try_for_each(|sql| session.batch_execute(sql))
            })
            .and_then(|()| session.batch_execute("COMMIT"));
        match result {
            Ok(()) => {
                report.failures.extend(failures);
                Ok(())
            }
            Err(error) => {
                if let Err(lost) = session.batch_execute("ROLLBACK") {
                    tracing::debug!(reason = %lost, "a swap was not rolled back by us");
                }
                Err(error)
            }
        }
    }

    /// Whether the transaction went through although its answer was lost.
    fn is_swapped(&mut self, database: &str) -> bool {
        if self.session.ping().is_err() {
            match self.target.maintenance() {
                Ok(session) => self.session = session,
                Err(_) => return false,
            }
        }
        matches!(named(&mut self.session, database), Ok(Some(found)) if found.oid == self.new.oid)
    }
}

/// Why the databases were not renamed.
struct Refused {
    error: PgError,
    /// Sessions that stayed, with the reason.
    unended: Vec<String>,
}

impl Refused {
    fn by(error: PgError) -> Self {
        Self {
            error,
            unended: Vec::new(),
        }
    }
}

/// A statement whose refusal does not spoil the transaction.
fn optional(
    session: &mut PgSession,
    last: &Final,
    failures: &mut Vec<super::report::Failure>,
) -> Result<(), PgError> {
    session.batch_execute("SAVEPOINT holdfast_last")?;
    match session.batch_execute(&last.sql) {
        Ok(()) => Ok(()),
        Err(error) => {
            let Some(server) = error.server_error() else {
                return Err(error);
            };
            failures.push(super::report::Failure {
                phase: Phase::Database,
                object: last.label.clone(),
                reason: server.to_string(),
                sqlstate: Some(server.code.clone()),
            });
            session.batch_execute("ROLLBACK TO SAVEPOINT holdfast_last")
        }
    }
}

fn said(error: &PgError) -> String {
    error
        .server_error()
        .map_or_else(|| error.to_string(), ToString::to_string)
}

fn quoted(name: &str) -> String {
    String::from_utf8_lossy(&quote_identifier(name.as_bytes())).into_owned()
}

/// `COMMENT ON DATABASE`; none takes the comment away.
pub(crate) fn comment_on(database: &str, comment: Option<&str>) -> String {
    let comment = comment.map_or_else(
        || "NULL".to_owned(),
        |text| String::from_utf8_lossy(&quote_literal(text.as_bytes())).into_owned(),
    );
    format!("COMMENT ON DATABASE {} IS {comment}", quoted(database))
}

fn rename_statement(from: &str, to: &str) -> String {
    format!("ALTER DATABASE {} RENAME TO {}", quoted(from), quoted(to))
}

fn named(session: &mut PgSession, name: &str) -> Result<Option<Named>, PgError> {
    let sql = "SELECT oid FROM pg_catalog.pg_database WHERE datname = $1";
    let row = session.query_opt(sql, &[&name])?;
    Ok(row.map(|row| Named {
        name: name.to_owned(),
        oid: row.get(0),
    }))
}

/// One restore of a database at a time.
fn lock(session: &mut PgSession, database: &str) -> Result<(), RestoreError> {
    let sql = "SELECT pg_catalog.pg_try_advisory_lock($1, pg_catalog.hashtext($2))";
    if session.query_one(sql, &[&LOCK_CLASS, &database])?.get(0) {
        return Ok(());
    }
    let sql = "SELECT l.pid, coalesce(a.client_addr::text, 'this host') FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
               WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid::bigint = $1::bigint \
               AND l.objid::bigint = (pg_catalog.hashtext($2)::bigint & 4294967295)";
    let class = i64::from(LOCK_CLASS);
    let holder = session.query_opt(sql, &[&class, &database])?;
    let holder = holder.map_or_else(String::new, |row| {
        let (pid, host): (i32, String) = (row.get(0), row.get(1));
        format!(" (session {pid} of the server, from {host})")
    });
    Err(RestoreError::Unfit(format!(
        "another restore of database \"{database}\" is running on this server{holder}"
    )))
}

/// What the swap will need, asked for before hours are spent.
fn require_rights(
    session: &mut PgSession,
    database: &str,
    old: Option<&Named>,
) -> Result<(), RestoreError> {
    let sql = "SELECT current_user::text, rolsuper, rolcreatedb FROM pg_catalog.pg_roles WHERE rolname = current_user";
    let row = session.query_one(sql, &[])?;
    let (role, superuser, creates): (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
    if superuser {
        return Ok(());
    }
    let me = quoted(&role);
    if !creates {
        return Err(RestoreError::Unfit(format!(
            "role {me} may not create databases, and database \"{database}\" is replaced by a new one beside it; ALTER ROLE {me} CREATEDB"
        )));
    }
    let Some(old) = old else {
        return Ok(());
    };
    let sql = "SELECT pg_catalog.pg_get_userbyid(datdba)::text, pg_catalog.pg_has_role(datdba, 'USAGE') FROM pg_catalog.pg_database WHERE oid = $1";
    let row = session.query_one(sql, &[&old.oid])?;
    let (owner, owns): (String, bool) = (row.get(0), row.get(1));
    if !owns {
        return Err(RestoreError::Unfit(format!(
            "role {me} does not own database \"{database}\" and can't replace it; GRANT {} TO {me}",
            quoted(&owner)
        )));
    }
    let sql = "SELECT DISTINCT a.usename::text FROM pg_catalog.pg_stat_activity a JOIN pg_catalog.pg_roles r ON r.rolname = a.usename \
               WHERE a.datid = $1 AND a.pid <> pg_catalog.pg_backend_pid() AND NOT pg_catalog.pg_has_role(r.oid, 'USAGE') \
               AND (r.rolsuper OR NOT EXISTS (SELECT 1 FROM pg_catalog.pg_roles s \
                    WHERE s.rolname = 'pg_signal_backend' AND pg_catalog.pg_has_role(s.oid, 'USAGE'))) ORDER BY 1";
    let others: Vec<String> = session
        .query(sql, &[&old.oid])?
        .iter()
        .map(|row| quoted(row.get(0)))
        .collect();
    if !others.is_empty() {
        return Err(RestoreError::Unfit(format!(
            "sessions of {} use database \"{database}\", and role {me} may not end them; end them first, or GRANT pg_signal_backend TO {me} (which does not end those of superusers)",
            some_of(&others)
        )));
    }
    Ok(())
}

/// What would keep the old database from being renamed or dropped, and whether there is room for both.
fn look_ahead(
    session: &mut PgSession,
    old: &Named,
    options: &SwapOptions,
    recorder: &Recorder,
) -> Result<(), RestoreError> {
    let sql = "SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = $1 ORDER BY prepared";
    let prepared: Vec<String> = session
        .query(sql, &[&old.name])?
        .iter()
        .map(|row| row.get(0))
        .collect();
    if !prepared.is_empty() {
        return Err(RestoreError::Unfit(format!(
            "prepared transactions hold database \"{}\": {}; COMMIT PREPARED or ROLLBACK PREPARED them first",
            old.name,
            some_of(&prepared)
        )));
    }
    if session.version_num() >= 100_000 && options.keep.is_none() {
        let sql = "SELECT subname::text FROM pg_catalog.pg_subscription WHERE subdbid = $1";
        let found = session.query(sql, &[&old.oid]);
        let names: Vec<String> = found.iter().flatten().map(|row| row.get(0)).collect();
        if !names.is_empty() {
            recorder.note(format!(
                "database \"{}\" has subscriptions ({}), which keep it from being dropped after it was replaced",
                old.name,
                some_of(&names)
            ));
        }
    }
    note_space(session, old, recorder);
    Ok(())
}

/// Both databases are there for a while. Only on this host can be seen how much room there is.
fn note_space(session: &mut PgSession, old: &Named, recorder: &Recorder) {
    if !matches!(session.endpoint().address, EndpointAddress::Socket(_)) {
        return;
    }
    let sql = "SELECT pg_catalog.pg_database_size(d.oid), CASE WHEN d.dattablespace = 1663 \
               THEN (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'data_directory') \
               ELSE pg_catalog.pg_tablespace_location(d.dattablespace) END FROM pg_catalog.pg_database d WHERE d.oid = $1";
    let Ok(row) = session.query_one(sql, &[&old.oid]) else {
        return;
    };
    let (size, place): (i64, Option<String>) = (row.get(0), row.get(1));
    let Some(place) = place.filter(|place| !place.is_empty()) else {
        return;
    };
    let (Ok(size), Ok(found)) = (u64::try_from(size), rustix::fs::statvfs(place.as_str())) else {
        return;
    };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    if free < size {
        recorder.note(format!(
            "{place} has {} MB free, and the database that is replaced has {}; both are there until the new one is complete",
            free >> 20,
            size >> 20
        ));
    }
}

/// Our part of a temporary name; as much of the name as there is room for.
fn prefix(database: &str) -> String {
    let room = NAME_BYTES_MAX - INFIX.len() - HEX_DIGITS;
    let mut end = database.len().min(room);
    while !database.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{INFIX}", &database[..end])
}

fn is_ours(name: &str, comment: &str, database: &str) -> bool {
    let digits = name.strip_prefix(&prefix(database));
    let named = digits.is_some_and(|digits| {
        digits.len() == HEX_DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit())
    });
    let marked = [MARK_NEW, MARK_OLD]
        .iter()
        .any(|mark| comment.strip_prefix(mark) == Some(database));
    named && marked
}

/// A name that no database has.
fn free_name(session: &mut PgSession, database: &str) -> Result<String, PgError> {
    loop {
        let sql = "SELECT pg_catalog.lpad(pg_catalog.to_hex((pg_catalog.random() * 16777215)::integer), 6, '0')";
        let digits: String = session.query_one(sql, &[])?.get(0);
        let name = format!("{}{digits}", prefix(database));
        if named(session, &name)?.is_none() {
            return Ok(name);
        }
    }
}

/// Drops what earlier runs left behind when they were killed; nobody else's, because we hold the lock.
fn drop_leftovers(
    session: &mut PgSession,
    database: &str,
    recorder: &Recorder,
) -> Result<(), RestoreError> {
    let sql = "SELECT oid, datname::text, coalesce(pg_catalog.shobj_description(oid, 'pg_database'), '') FROM pg_catalog.pg_database";
    for row in session.query(sql, &[])? {
        let (oid, name, comment): (u32, String, String) = (row.get(0), row.get(1), row.get(2));
        if !is_ours(&name, &comment, database) {
            continue;
        }
        let left = Named { name, oid };
        recorder.note(match drop_database(session, &left) {
            Ok(()) => format!(
                "database \"{}\", left by a restore that was interrupted, was dropped",
                left.name
            ),
            Err(error) if error.server_error().is_some() => format!(
                "database \"{}\", left by a restore that was interrupted, could not be dropped: {}",
                left.name,
                said(&error)
            ),
            Err(error) => return Err(error.into()),
        });
    }
    Ok(())
}

/// Drops a database of ours, and ends the sessions that use it. One that is gone is dropped.
fn drop_database(session: &mut PgSession, database: &Named) -> Result<(), PgError> {
    let name = quoted(&database.name);
    let until = Instant::now() + DROP_LIMIT;
    let unended = Mutex::new(BTreeMap::new());
    loop {
        end_sessions(session, &[database.oid], &unended);
        match session.batch_execute(&format!("DROP DATABASE {name}")) {
            Err(error) if error.code() == Some(NO_DATABASE) => return Ok(()),
            Err(error) if error.code() == Some(OBJECT_IN_USE) && Instant::now() < until => {
                thread::sleep(PAUSE_END);
            }
            // A template is not dropped; the archived one may have been one.
            Err(error) if error.code() == Some("42809") && Instant::now() < until => {
                session.batch_execute(&format!("ALTER DATABASE {name} IS_TEMPLATE false"))?;
            }
            dropped => return dropped,
        }
    }
}

/// Asks the server to end sessions; what it refuses is remembered.
fn end_sessions(
    session: &mut PgSession,
    databases: &[u32],
    unended: &Mutex<BTreeMap<i32, String>>,
) {
    let sql = "SELECT pid, coalesce(usename::text, 'the server') FROM pg_catalog.pg_stat_activity WHERE datid = ANY ($1) AND pid <> pg_catalog.pg_backend_pid()";
    let Ok(rows) = session.query(sql, &[&databases]) else {
        return;
    };
    let mut still = BTreeMap::new();
    for row in rows {
        let (pid, user): (i32, String) = (row.get(0), row.get(1));
        if let Err(error) = session.query_one("SELECT pg_catalog.pg_terminate_backend($1)", &[&pid])
        {
            still.insert(pid, format!("session {pid} of {user} ({})", said(&error)));
        }
    }
    *unended.lock().unwrap_or_else(PoisonError::into_inner) = still;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_are_recognised_by_their_mark() {
        let check = |name: &str, comment: &str, database: &str, expected: bool| {
            assert_eq!(is_ours(name, comment, database), expected, "{name}");
        };
        let new = |name: &str| format!("{MARK_NEW}{name}");
        check("app_holdfast_0a1b2c", &new("app"), "app", true);
        check(
            "app_holdfast_0a1b2c",
            &format!("{MARK_OLD}app"),
            "app",
            true,
        );
        check("app_holdfast_0a1b2c", "", "app", false);
        check("app_holdfast_0a1b2c", &new("apple"), "app", false);
        check("app_holdfast_0a1b2", &new("app"), "app", false);
        check("app_holdfast_0a1b2g", &new("app"), "app", false);
        check("app", &new("app"), "app", false);
        // Long names share their first bytes; the mark has all of them.
        let long = "é".repeat(31);
        let short = format!("{}_holdfast_ffffff", "é".repeat(23));
        check(&short, &new(&long), &long, true);
        check(&short, &new(&"é".repeat(30)), &long, false);
        assert!(prefix(&long).len() + HEX_DIGITS <= NAME_BYTES_MAX);
    }

    #[test]
    fn names_and_comments_are_quoted() {
        assert_eq!(
            rename_statement("a\"b", "c d"),
            r#"ALTER DATABASE "a""b" RENAME TO "c d""#
        );
        assert_eq!(
            comment_on("a", Some("it's")),
            "COMMENT ON DATABASE \"a\" IS 'it''s'"
        );
        assert_eq!(comment_on("a", None), "COMMENT ON DATABASE \"a\" IS NULL");
    }
}
