//! The errors of the library: [`Error`] stops a run; [`ItemError`] is about one item of a source, which is counted, named and skipped.
//!
//! Invariants: nothing turns an [`Error`] into an [`ItemError`] or the other way round; `Stopped` is never shown, because the stage that
//! failed first has told its own cause.

use std::fmt;

use crate::backend::BackendError;
use crate::store::StoreError;

/// What stops a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another stage failed first; its error is the cause.
    #[error("stopped")]
    Stopped,
    /// Ctrl-C, SIGTERM.
    #[error("interrupted")]
    Interrupted,
    /// Another run of the site is under way on this host; says which.
    #[error("{0}")]
    Busy(String),
    /// Local scratch space or another local resource failed; names what was tried.
    #[error("{what}")]
    Local {
        /// What was tried on what.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The repository.
    #[error(transparent)]
    Store(StoreError),
    /// Anything that is complete in words.
    #[error("{0}")]
    Message(String),
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Stopped => Self::Stopped,
            other => Self::Store(other),
        }
    }
}

impl From<BackendError> for Error {
    fn from(error: BackendError) -> Self {
        Self::Store(error.into())
    }
}

impl Error {
    /// The exit code that a command ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Interrupted => 130,
            Self::Busy(_) => 11,
            Self::Store(error) => error.exit_code(),
            Self::Stopped | Self::Local { .. } | Self::Message(_) => 1,
        }
    }

    /// A local resource failed.
    pub fn local(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::Local {
            what: what.into(),
            source,
        }
    }
}

/// The result of what can stop a run.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why one item of a source was not read, or not as one state.
#[derive(Debug)]
pub struct ItemError {
    /// Its path in the tree, `/` between names, bytes as they are.
    pub path: Vec<u8>,
    /// What was tried and what the system said.
    pub reason: String,
}

impl fmt::Display for ItemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}",
            String::from_utf8_lossy(&self.path),
            self.reason
        )
    }
}

impl std::error::Error for ItemError {}
