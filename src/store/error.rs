//! The error of a repository: what a command tells people, and the exit code that belongs to it.
//!
//! Invariants: damage of the repository has kinds of its own and is never reported as a wrong key or as a failed call
//! (`kinds_have_their_exit_codes`).

use std::fmt;

use super::state::BrokenEntry;
use crate::backend::BackendError;
use crate::format::id::ObjectHash;

/// Why a repository can't do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Nothing is there.
    #[error("there is no repository at {place}")]
    NoRepository {
        /// Path or URL.
        place: String,
    },
    /// Something is there, and it is not a repository.
    #[error("{place} is not a holdfast repository: {what}")]
    NotOurs {
        /// Path or URL.
        place: String,
        /// What was found.
        what: String,
    },
    /// A repository is there already.
    #[error(
        "{place} holds a repository or other files already; a new repository needs an empty place"
    )]
    Occupied {
        /// Path or URL.
        place: String,
    },
    /// Written by a later version.
    #[error("{object} was written by a newer version of holdfast: {what}")]
    NewerFormat {
        /// Which object.
        object: String,
        /// What it says.
        what: String,
    },
    /// No key object opens with what was given.
    #[error("wrong key or passphrase: {what}")]
    WrongKey {
        /// What was tried.
        what: String,
    },
    /// The key that was used does not give a secret that this needs.
    #[error("this key does not allow to {what}")]
    MissingSecret {
        /// What was tried.
        what: String,
    },
    /// An object is not what its name, its seal or its place says.
    #[error("{object} is damaged: {what}")]
    Damaged {
        /// Path of the object below the root.
        object: String,
        /// What is wrong.
        what: String,
    },
    /// The log breaks its own rules.
    #[error(transparent)]
    BrokenLog(#[from] BrokenEntry),
    /// Entries are missing in the log.
    #[error("log/{missing:016} is missing, although log/{later:016} exists: the log is damaged")]
    LogGap {
        /// The number that is absent.
        missing: u64,
        /// A number beyond it that a listing shows.
        later: u64,
    },
    /// The log is not the one that this host saw before.
    #[error("the repository was rolled back or replaced: {what}")]
    Rollback {
        /// What differs.
        what: String,
    },
    /// A snapshot was forgotten while it was needed.
    #[error("snapshot {record} was forgotten by log entry {entry}")]
    Forgotten {
        /// Its record.
        record: Short,
        /// The entry.
        entry: u64,
    },
    /// What the backup needs is gone, and the source can't be read again.
    #[error("what this run relied on was condemned by a prune meanwhile: {what}")]
    Lost {
        /// What is lost.
        what: String,
    },
    /// A chunk that a snapshot needs is in no pack that may be used.
    #[error("chunk {chunk} is in no pack that the index names: the repository is damaged")]
    Missing {
        /// The chunk.
        chunk: crate::format::id::ChunkId,
    },
    /// Another thread failed first and has told why; never shown.
    #[error("stopped")]
    Stopped,
    /// An action that the state of the repository does not allow.
    #[error("{0}")]
    Refused(String),
    /// The entry was sent, and the backend did not say whether it arrived.
    #[error(
        "it is not known whether log/{seq:016} was written; read the repository again before you rely on it"
    )]
    Unclear {
        /// Number of the entry.
        seq: u64,
        /// The last answer.
        #[source]
        source: BackendError,
    },
    /// Something that is ours only, such as random numbers or memory.
    #[error("{what}")]
    Local {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl StoreError {
    /// Damage of one object.
    pub fn damaged(object: impl fmt::Display, what: impl fmt::Display) -> Self {
        Self::Damaged {
            object: object.to_string(),
            what: what.to_string(),
        }
    }

    /// The exit code that a command ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoRepository { .. } => 10,
            Self::WrongKey { .. } => 12,
            Self::Damaged { .. }
            | Self::Missing { .. }
            | Self::BrokenLog(_)
            | Self::LogGap { .. } => 4,
            Self::Forgotten { .. } => 5,
            _ => 1,
        }
    }

    /// True for damage of the repository.
    pub fn is_damage(&self) -> bool {
        self.exit_code() == 4
    }
}

/// A hash shown by its first digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short(pub ObjectHash);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_their_exit_codes() {
        let check = |error: StoreError, code: u8| assert_eq!(error.exit_code(), code, "{error}");
        check(
            StoreError::NoRepository {
                place: "/srv".into(),
            },
            10,
        );
        check(
            StoreError::WrongKey {
                what: "1 key object".into(),
            },
            12,
        );
        check(StoreError::damaged("format", "checksum"), 4);
        check(
            StoreError::LogGap {
                missing: 3,
                later: 5,
            },
            4,
        );
        check(
            StoreError::Forgotten {
                record: Short(ObjectHash([1; 32])),
                entry: 9,
            },
            5,
        );
        check(
            StoreError::Rollback {
                what: "entry 9 is gone".into(),
            },
            1,
        );
        check(
            StoreError::NotOurs {
                place: "/etc".into(),
                what: "files".into(),
            },
            1,
        );
    }
}
