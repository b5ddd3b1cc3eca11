//! Errors of the connection layer: the server's own words, which server, what was tried, what to set.
//!
//! No variant carries a password, because nothing that knows one puts it into a message.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use tokio_postgres::error::DbError;

use super::conninfo::ConnInfoError;

/// What the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    /// `ERROR`, `FATAL` or `PANIC`, in the server's language.
    pub severity: String,
    /// The SQLSTATE, five characters.
    pub code: String,
    /// The main message.
    pub message: String,
    /// More of it.
    pub detail: Option<String>,
    /// What the server suggests.
    pub hint: Option<String>,
    /// Where it happened: a COPY line, a function.
    pub context: Option<String>,
    /// The table that it is about, with its schema.
    pub table: Option<String>,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.severity, self.message, self.code)?;
        for (label, text) in [
            ("detail", &self.detail),
            ("hint", &self.hint),
            ("context", &self.context),
        ] {
            if let Some(text) = text {
                write!(f, "; {label}: {text}")?;
            }
        }
        Ok(())
    }
}

impl StdError for ServerError {}

impl From<&DbError> for ServerError {
    fn from(error: &DbError) -> Self {
        let text = |text: Option<&str>| text.map(str::to_owned);
        let table = error.table().map(|table| match error.schema() {
            Some(schema) => format!("{schema}.{table}"),
            None => table.to_owned(),
        });
        Self {
            severity: error.severity().to_owned(),
            code: error.code().code().to_owned(),
            message: error.message().to_owned(),
            detail: text(error.detail()),
            hint: text(error.hint()),
            context: text(error.where_()),
            table,
        }
    }
}

/// One try to reach one address, and why it failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Host, address and port.
    pub target: String,
    /// The reason, the server's words or the system's.
    pub reason: String,
    /// The SQLSTATE, where the server itself said no.
    pub code: Option<String>,
    /// Whether it may pass later.
    pub transient: bool,
    /// What to set or look at, where we know.
    pub advice: Option<String>,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.target, self.reason)?;
        match &self.advice {
            Some(advice) => write!(f, " ({advice})"),
            None => Ok(()),
        }
    }
}

/// Why something with a server did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PgError {
    /// The connection string, the service file or a variable is wrong.
    #[error(transparent)]
    ConnInfo(#[from] ConnInfoError),
    /// No server could be reached, or none that was acceptable.
    #[error("cannot connect to database \"{dbname}\" as \"{user}\"{}: {}", times(*.rounds), joined(.attempts))]
    Connect {
        /// The database.
        dbname: String,
        /// The role.
        user: String,
        /// How often the list of hosts was gone through.
        rounds: u32,
        /// What the last round met.
        attempts: Vec<Attempt>,
    },
    /// Certificates or TLS settings that cannot work with any server.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
    /// A server that is too old.
    #[error("{endpoint} runs PostgreSQL {version}; the oldest supported version is 9.3")]
    TooOld {
        /// Which server.
        endpoint: String,
        /// Its version.
        version: String,
    },
    /// The server refused a statement.
    #[error("{endpoint}: {error}")]
    Server {
        /// Which server.
        endpoint: String,
        /// Its words.
        error: Box<ServerError>,
    },
    /// The connection broke.
    #[error("lost the connection to {endpoint}: {reason}")]
    Lost {
        /// Which server.
        endpoint: String,
        /// The reason as far as it is known.
        reason: String,
    },
    /// Somebody asked for an end while a server was waited for.
    #[error("interrupted while waiting for {endpoint}")]
    Interrupted {
        /// Which server.
        endpoint: String,
    },
    /// What answers is not one server session, but gives each transaction another one.
    #[error(
        "{endpoint} is a connection pooler that gives each transaction another session of the server ({sign}), where no snapshot and no setting \
         lasts; connect to the server itself, or to a pool with pool_mode = session"
    )]
    Pooler {
        /// Where.
        endpoint: String,
        /// How it was noticed.
        sign: String,
    },
    /// A setting that the session needs did not take effect.
    #[error(
        "{endpoint}: the session's setting {name} stays {found:?} instead of {wanted:?}; connect to the server itself"
    )]
    Setting {
        /// Where.
        endpoint: String,
        /// The setting.
        name: String,
        /// What it should be.
        wanted: String,
        /// What it is.
        found: String,
    },
    /// The server answered something that the client cannot read.
    #[error("{endpoint}: unexpected answer: {reason}")]
    Protocol {
        /// Which server.
        endpoint: String,
        /// What was wrong.
        reason: String,
    },
    /// Something on this side: a runtime, a temporary file.
    #[error("{what}")]
    Local {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

fn times(rounds: u32) -> String {
    if rounds > 1 {
        format!(" (tried {rounds} times)")
    } else {
        String::new()
    }
}

fn joined(attempts: &[Attempt]) -> String {
    attempts
        .iter()
        .map(Attempt::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

impl PgError {
    /// Returns the SQLSTATE, where a server gave one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            PgError::Server { error, .. } => Some(&error.code),
            PgError::Connect { attempts, .. } => {
                attempts.last().and_then(|attempt| attempt.code.as_deref())
            }
            _ => None,
        }
    }

    /// Says whether a server refused because it has no more connections to give: to all, to the role or to the database.
    #[must_use]
    pub fn is_connection_limit(&self) -> bool {
        matches!(self.code(), Some("53300" | "53400"))
    }

    /// Returns the words of the server, where it was a statement that failed.
    #[must_use]
    pub fn server_error(&self) -> Option<&ServerError> {
        match self {
            PgError::Server { error, .. } => Some(error),
            _ => None,
        }
    }

    /// Makes an error of a failed local operation.
    pub(super) fn local(what: impl Into<String>, source: io::Error) -> Self {
        PgError::Local {
            what: what.into(),
            source,
        }
    }

    /// Puts a client error into our terms.
    pub(super) fn from_client(endpoint: &str, error: &tokio_postgres::Error) -> Self {
        let endpoint = endpoint.to_owned();
        if let Some(db) = error.as_db_error() {
            return PgError::Server {
                endpoint,
                error: Box::new(db.into()),
            };
        }
        let reason = chain(error);
        if error.is_closed() || io_error(error).is_some() {
            PgError::Lost { endpoint, reason }
        } else {
            PgError::Protocol { endpoint, reason }
        }
    }
}

/// Returns the I/O error behind an error, if there is one.
pub(super) fn io_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io);
        }
        next = error.source();
    }
    None
}

/// Writes an error and its causes, leaving out what the one before it already said.
pub(super) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
