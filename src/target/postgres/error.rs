//! Why a restore of a database ended. What single objects met is in the report, not here.

use thiserror::Error;

use super::plan::PlanError;
use super::toc::TocError;
use crate::source::postgres::PgError;

/// What ends a restore.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The connection string names no database.
    #[error(
        "the connection string names no database; add dbname=… to say what the restored one shall be called"
    )]
    NoDatabaseName,
    /// The target could not be reached, or the connection was lost.
    #[error(transparent)]
    Target(#[from] PgError),
    /// The archive could not be read.
    #[error("cannot read the archive of the database")]
    Archive(#[source] crate::error::Error),
    /// `schema.dump` is not what `pg_dump` writes.
    #[error("cannot read schema.dump")]
    Toc(#[from] TocError),
    /// `schema.dump` lacks what a restore needs.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Nothing is ever restored over something.
    #[error(
        "database \"{database}\" is not empty: it holds {holds}; restore under another name, or replace it with --clean"
    )]
    NotEmpty {
        /// Its name.
        database: String,
        /// What it holds.
        holds: String,
    },
    /// What was chosen does not fit the archive.
    #[error(transparent)]
    Selection(#[from] super::selection::SelectionError),
    /// Rows alone, or a part of a database, need something that is not there.
    #[error("{0}")]
    Unfit(String),
    /// Chosen objects are there already.
    #[error(
        "database \"{database}\" already has {objects}; restore a table under another name with --as, or drop what is there with --clean"
    )]
    Exists {
        /// The database.
        database: String,
        /// What is there.
        objects: String,
    },
    /// What shall be replaced can't be dropped.
    #[error("{object} can't be dropped, nothing was changed: {reason}")]
    Drop {
        /// The object.
        object: String,
        /// The server's reason.
        reason: String,
    },
    /// What was begun can't be gone on with.
    #[error("database \"{database}\" is left incomplete, restore it again with --clean")]
    Incomplete {
        /// Its name.
        database: String,
        /// What happened.
        #[source]
        source: Box<RestoreError>,
    },
    /// The server came up again after a crash in the middle.
    #[error(
        "the server crashed and came up again during the restore: unlogged tables are empty then, and what was not yet written may be gone"
    )]
    Crashed,
    /// The new database could not take the place of the old one.
    #[error("the restored database can't take the name \"{database}\": {reason}")]
    Swap {
        /// The name.
        database: String,
        /// The server's reason.
        reason: String,
    },
    /// A database was not replaced.
    #[error("cannot replace database \"{database}\"; {state}{left}")]
    Replace {
        /// Its name.
        database: String,
        /// How it is now.
        state: &'static str,
        /// What else is left on the server.
        left: String,
        /// What happened.
        #[source]
        source: Box<RestoreError>,
    },
    /// An empty database is there that cannot hold the archived one.
    #[error(
        "database \"{database}\" exists with encoding {has}, the archived one has {wanted}; drop it, so that it is created as it was"
    )]
    Encoding {
        /// Its name.
        database: String,
        /// Its encoding.
        has: String,
        /// The archive's.
        wanted: String,
    },
    /// The database could not be created.
    #[error("cannot create database \"{database}\": {reason}")]
    Create {
        /// Its name.
        database: String,
        /// The server's reason.
        reason: String,
    },
    /// Roles are missing, and the first failure shall stop the restore.
    #[error("the target lacks roles that the archive needs: {}", .0.join(", "))]
    RolesMissing(Vec<String>),
    /// Somebody asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// The first failure stopped the restore, as asked; the report names it.
    #[error("stopped at the first failure")]
    Halted,
}

impl RestoreError {
    /// Adds that the database is there and not complete.
    pub(crate) fn left_incomplete(self, database: &str) -> Self {
        let left = |source| Self::Incomplete {
            database: database.to_owned(),
            source: Box::new(source),
        };
        match self {
            // These carry an exit code of their own.
            Self::Archive(_) | Self::Interrupted => {
                tracing::warn!("{}", left(Self::Halted));
                self
            }
            error => left(error),
        }
    }
}
