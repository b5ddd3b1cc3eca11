//! What can go wrong while a database is dumped.

use std::io;

use crate::error::Error;
use crate::source::SourceError;
use crate::source::postgres::{PgError, replay};

/// Why a database could not be dumped as it was.
#[derive(Debug)]
pub(super) enum DumpError {
    /// A definition changed under the snapshot; a new snapshot may do.
    Restart(String),
    /// Others queue up for the tables that are to be held; in another moment they may not.
    Queue(String),
    /// The replay of a standby ended a statement; the database may pass when it is begun again.
    Replay(String),
    /// There is no connection for it now; the words name the limit.
    NoConnection(String),
    /// The database failed, in the server's own words.
    Failed(String),
    /// The run cannot go on.
    Run(Error),
}

impl DumpError {
    /// Puts what was being done before the reason.
    pub(super) fn context(self, what: &str) -> Self {
        match self {
            DumpError::Restart(reason) => DumpError::Restart(format!("{what}: {reason}")),
            DumpError::Queue(reason) => DumpError::Queue(format!("{what}: {reason}")),
            DumpError::Replay(reason) => DumpError::Replay(format!("{what}: {reason}")),
            DumpError::NoConnection(reason) => DumpError::NoConnection(format!("{what}: {reason}")),
            DumpError::Failed(reason) => DumpError::Failed(format!("{what}: {reason}")),
            run => run,
        }
    }

    pub(super) fn into_source(self) -> SourceError {
        match self {
            DumpError::Restart(reason)
            | DumpError::Queue(reason)
            | DumpError::Replay(reason)
            | DumpError::NoConnection(reason)
            | DumpError::Failed(reason) => SourceError::Component(reason),
            DumpError::Run(error) => SourceError::Run(error),
        }
    }
}

impl From<PgError> for DumpError {
    fn from(error: PgError) -> Self {
        if matches!(error, PgError::Interrupted { .. }) {
            return DumpError::Run(Error::Interrupted);
        }
        let text = error.to_string();
        if replay::is_conflict(&text) {
            return DumpError::Replay(text);
        }
        if may_be_a_changed_definition(&error) {
            DumpError::Restart(text)
        } else {
            DumpError::Failed(text)
        }
    }
}

impl From<Error> for DumpError {
    fn from(error: Error) -> Self {
        DumpError::Run(error)
    }
}

/// Makes an error of a failed local operation: scratch space, a child that could not be started.
pub(super) fn local(what: &str, error: io::Error) -> DumpError {
    DumpError::Run(Error::local(what, error))
}

/// Says whether the server's answer may come from an ALTER, DROP or replay beside the snapshot.
fn may_be_a_changed_definition(error: &PgError) -> bool {
    let Some(server) = error.server_error() else {
        return false;
    };
    match server.code.as_str() {
        // Undefined table, column, object, schema, function.
        "42P01" | "42703" | "42704" | "3F000" | "42883" => true,
        // Messages about the catalog have no code of their own.
        "XX000" => {
            server.message.contains("cache lookup failed")
                || server.message.contains("could not open relation with OID")
        }
        _ => false,
    }
}
