//! A session that executes steps of a plan: it keeps the settings that a step needs and sends statements as text.
//!
//! Statements that are not UTF-8 (of databases in SQL_ASCII, whose names and defaults may be any bytes) can't be sent as text by our client. Where server
//! and dump have the same encoding they are wrapped: `DO` executes a string constant in which every such byte is an escape. A few statements can't run
//! inside a function (`CREATE DATABASE`); those are reported.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::error::RestoreError;
use super::older::for_server;
use super::plan::{DumpSession, Statement, StatementKind, Step, set_table_am, set_tablespace};
use super::report::{Phase, Recorder};
use crate::source::postgres::{ConnectOptions, Connector, PgError, PgSession};

/// Deadlock, lock not available, serialization failure: another try may pass.
const TRANSIENT: [&str; 3] = ["40P01", "55P03", "40001"];
const TRIES: u32 = 3;
/// A step of statements that do not depend on each other.
const DATABASE_PROPERTIES: &[u8] = b"DATABASE PROPERTIES";
/// Schema, object, table and function that exist already.
const DUPLICATE: [&str; 4] = ["42P06", "42710", "42P07", "42723"];

/// What all sessions of one restore share.
#[derive(Debug, Clone)]
pub(crate) struct DdlSettings {
    pub(crate) dump: DumpSession,
    /// Encoding of the target database.
    pub(crate) server_encoding: String,
    /// Tablespaces that exist; others are replaced by the default.
    pub(crate) tablespaces: BTreeSet<Vec<u8>>,
}

/// One session for statements of a plan.
#[derive(Debug)]
pub(crate) struct DdlSession {
    session: PgSession,
    connector: Connector,
    settings: DdlSettings,
    tablespace: Option<Vec<u8>>,
    table_am: Option<Vec<u8>>,
}

impl DdlSession {
    pub(crate) fn open(
        connector: &Connector,
        settings: &DdlSettings,
    ) -> Result<Self, RestoreError> {
        let session = connector.connect(&ConnectOptions::restore())?;
        Self::of(session, connector, settings)
    }

    /// Makes one of a session that is there.
    pub(crate) fn of(
        mut session: PgSession,
        connector: &Connector,
        settings: &DdlSettings,
    ) -> Result<Self, RestoreError> {
        set_up(&mut session, settings)?;
        Ok(Self {
            session,
            connector: connector.clone(),
            settings: settings.clone(),
            tablespace: None,
            table_am: None,
        })
    }

    /// Says goodbye and waits until the client has done so.
    pub(crate) fn close(self) {
        self.session.close();
    }

    pub(crate) fn session(&mut self) -> &mut PgSession {
        &mut self.session
    }

    /// Executes the statements of one step. Refusals are noted; an error ends the restore.
    pub(crate) fn run(
        &mut self,
        step: &Step,
        phase: Phase,
        recorder: &Recorder,
    ) -> Result<(), RestoreError> {
        recorder.check_interrupt()?;
        self.prepare(step, phase, recorder)?;
        for statement in &step.statements {
            let object = match statement.kind {
                StatementKind::Definition => step.label.clone(),
                StatementKind::AccessMethod => format!("access method of {}", step.label),
                StatementKind::Owner => format!("owner of {}", step.label),
            };
            match self.execute(&step.kind, statement) {
                Ok(()) => recorder.report().statements += 1,
                Err(Refusal::NotText) => {
                    recorder.fail(phase, object, NOT_TEXT, None)?;
                    break;
                }
                Err(Refusal::Server(error)) => {
                    let exists = error.code().is_some_and(|code| DUPLICATE.contains(&code));
                    recorder.refused(phase, object, error)?;
                    // What could not be made has no owner; what was there already gets the archived one.
                    if !exists && step.kind != DATABASE_PROPERTIES {
                        break;
                    }
                }
            }
        }
        if step.kind == DATABASE_PROPERTIES {
            self.reconnect()?;
        }
        Ok(())
    }

    /// Settings of the database take effect with a new session, and objects of the archive may need them.
    fn reconnect(&mut self) -> Result<(), RestoreError> {
        let mut session = self.connector.connect(&ConnectOptions::restore())?;
        set_up(&mut session, &self.settings)?;
        self.session = session;
        (self.tablespace, self.table_am) = (None, None);
        Ok(())
    }

    /// Sets tablespace and access method where they differ from the last step's.
    fn prepare(
        &mut self,
        step: &Step,
        phase: Phase,
        recorder: &Recorder,
    ) -> Result<(), RestoreError> {
        if let Some(wanted) = &step.tablespace {
            let known = wanted.is_empty() || self.settings.tablespaces.contains(wanted);
            let tablespace = if known { wanted.clone() } else { Vec::new() };
            if self.tablespace.as_ref() != Some(&tablespace) {
                self.set(
                    &set_tablespace(&tablespace),
                    phase,
                    "default_tablespace",
                    recorder,
                )?;
                self.tablespace = Some(tablespace);
            }
        }
        if let Some(am) = step
            .table_am
            .as_ref()
            .filter(|am| self.table_am.as_ref() != Some(*am))
        {
            self.set(
                &set_table_am(am),
                phase,
                "default_table_access_method",
                recorder,
            )?;
            self.table_am = Some(am.clone());
        }
        Ok(())
    }

    fn set(
        &mut self,
        sql: &[u8],
        phase: Phase,
        what: &str,
        recorder: &Recorder,
    ) -> Result<(), RestoreError> {
        match self.send(sql) {
            Ok(()) => Ok(()),
            Err(Refusal::NotText) => recorder.fail(phase, what, NOT_TEXT, None),
            Err(Refusal::Server(error)) => recorder.refused(phase, what, error),
        }
    }

    fn execute(&mut self, kind: &[u8], statement: &Statement) -> Result<(), Refusal> {
        let sql = for_server(
            kind,
            &statement.sql,
            self.session.version_num(),
            self.settings.dump.standard_strings,
        );
        for _ in 1..TRIES {
            match self.send(&sql) {
                Err(Refusal::Server(error))
                    if error.code().is_some_and(|code| TRANSIENT.contains(&code)) =>
                {
                    tracing::debug!(reason = %error, "trying a statement again");
                }
                result => return result,
            }
        }
        self.send(&sql)
    }

    fn send(&mut self, sql: &[u8]) -> Result<(), Refusal> {
        let text = statement_text(
            sql,
            &self.settings.dump.encoding,
            &self.settings.server_encoding,
        )
        .ok_or(Refusal::NotText)?;
        self.session.batch_execute(&text).map_err(Refusal::Server)
    }
}

/// The session stays in UTF-8, whatever the encoding of the dump: what is sent is text (see [`statement_text`]).
fn set_up(session: &mut PgSession, settings: &DdlSettings) -> Result<(), RestoreError> {
    let strings = if settings.dump.standard_strings {
        "on"
    } else {
        "off"
    };
    session.batch_execute(&format!(
        "SET standard_conforming_strings = {strings}; SET escape_string_warning = off"
    ))?;
    if let Ok(search_path) = std::str::from_utf8(&settings.dump.search_path) {
        session.batch_execute(search_path)?;
    }
    Ok(())
}

const NOT_TEXT: &str = "the statement is not UTF-8 and cannot be sent to this database; \
     export the database with `holdfast export --format pg-directory` and restore that with pg_restore";

enum Refusal {
    NotText,
    Server(PgError),
}

/// The statement as text that our client can send, if there is one.
pub(crate) fn statement_text<'a>(
    sql: &'a [u8],
    dump_encoding: &[u8],
    server_encoding: &str,
) -> Option<Cow<'a, str>> {
    let utf8 = matches!(dump_encoding, b"UTF8" | b"SQL_ASCII");
    match std::str::from_utf8(sql) {
        Ok(text) if utf8 || sql.is_ascii() => return Some(Cow::Borrowed(text)),
        _ => {}
    }
    (dump_encoding == server_encoding.as_bytes()).then(|| Cow::Owned(escaped(sql)))
}

fn escaped(sql: &[u8]) -> String {
    let mut text = String::from("DO LANGUAGE plpgsql $holdfast$ BEGIN EXECUTE E'");
    for byte in sql {
        match byte {
            b'\'' => text.push_str("''"),
            b'\\' => text.push_str("\\\\"),
            // A dollar sign could end the quoting around the block.
            b'$' | 0x80.. => {
                write!(text, "\\x{byte:02x}").expect("writing to a string does not fail")
            }
            _ => text.push(char::from(*byte)),
        }
    }
    text.push_str("'; END $holdfast$");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_become_text() {
        let check = |sql: &[u8], dump: &str, server: &str, expected: Option<&str>| {
            assert_eq!(
                statement_text(sql, dump.as_bytes(), server).as_deref(),
                expected
            );
        };
        check(b"SELECT 1", "LATIN1", "UTF8", Some("SELECT 1"));
        check(
            "SELECT 'ü'".as_bytes(),
            "UTF8",
            "LATIN1",
            Some("SELECT 'ü'"),
        );
        check(
            "SELECT 'ü'".as_bytes(),
            "SQL_ASCII",
            "SQL_ASCII",
            Some("SELECT 'ü'"),
        );
        check(b"SELECT '\xe4'", "LATIN1", "UTF8", None);
        check(
            b"SELECT '\xe4$holdfast$\\'",
            "SQL_ASCII",
            "SQL_ASCII",
            Some(
                "DO LANGUAGE plpgsql $holdfast$ BEGIN EXECUTE E'SELECT ''\\xe4\\x24holdfast\\x24\\\\'''; END $holdfast$",
            ),
        );
        // Valid UTF-8 by accident, but meant as LATIN1.
        check(
            b"SELECT '\xc3\xa9'",
            "LATIN1",
            "LATIN1",
            Some(
                "DO LANGUAGE plpgsql $holdfast$ BEGIN EXECUTE E'SELECT ''\\xc3\\xa9'''; END $holdfast$",
            ),
        );
    }
}
