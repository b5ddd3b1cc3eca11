//! PostgreSQL databases as a source.
//!
//! The connection layer gives users of libpq what they know: conninfo strings and URIs, service and
//! password files, `PG*` variables, every `sslmode`, several hosts with `target_session_attrs`.
//! It does not read the environment of the process (a lookup comes in as an argument), and it never
//! shows a password, in no message and no `Debug`.
//!
//! | file | subject |
//! |---|---|
//! | [`conninfo`] | text → [`ConnInfo`], and [`ConnInfo::resolve`] → [`ConnSettings`] |
//! | `passfile`, `service` | the two files of libpq |
//! | [`tls`] | what rustls is told for each `sslmode` |
//! | [`connect`] | hosts, tries and time-outs; [`Connector`] |
//! | `start` | one attempt: what is sent, over which stream |
//! | [`framing`], `tap` | the rows of a COPY, taken out of the stream before they become messages |
//! | `advice` | what to do when a server refuses a session |
//! | `pooler` | a pool that gives each transaction another session is refused |
//! | [`profile`] | the settings of a session |
//! | [`session`] | [`PgSession`], the blocking facade |
//! | [`cancel`] | ends a statement from another thread |
//! | [`child`] | the environment of a `pg_dump` child |
//! | [`pgtools`] | which `pg_dump` fits a server |
//! | [`release_waves`] | whether a `pg_dump` is older than the server |
//! | [`replay`] | the replay of a standby: paused, and why it ended a statement |
//! | [`rights`] | what a role cannot see or read, and the GRANT that mends it |
//! | [`dump`] | the dump itself: snapshots, schema, rows, large objects |
//!
//! ```no_run
//! # fn main() -> Result<(), holdfast::source::postgres::PgError> {
//! use holdfast::source::postgres::{ConnInfo, ConnectOptions, Connector};
//!
//! let environment = |name: &str| std::env::var_os(name);
//! let settings = ConnInfo::parse("host=db1,db2 dbname=QSR")?.resolve(&environment)?;
//! let mut session = Connector::new(settings).connect(&ConnectOptions::dump())?;
//! let rows = session.query("SELECT count(*) FROM pg_class", &[])?;
//! # let _count: i64 = rows[0].get(0);
//! // Workers and children go to the very server that the first session found.
//! let worker = session.connector().connect(&ConnectOptions::dump())?;
//! # drop(worker);
//! # Ok(())
//! # }
//! ```
//!
//! **Invariants**
//! 1. Only what may pass later is tried again; a wrong password never is (`a_wrong_password_is_tried_once`).
//! 2. A session, its workers and its children talk to the same server (`workers_go_to_the_chosen_server`).
//! 3. No password in any message (`errors_and_debug_show_no_password`).
//!
//! **Threads**: a [`PgSession`] belongs to one thread at a time and runs its own current-thread runtime,
//! so none of its methods may be called from asynchronous code. [`CancelHandle`] may be used from any thread.

mod advice;
pub mod cancel;
pub mod child;
pub mod connect;
pub mod conninfo;
pub mod dump;
pub mod error;
pub mod framing;
mod keywords;
mod passfile;
pub mod pgtools;
mod pooler;
pub mod profile;
pub mod release_waves;
pub mod replay;
pub mod rights;
mod service;
pub mod session;
pub mod settings;
mod start;
mod tap;
pub mod tls;

pub use cancel::CancelHandle;
pub use child::ChildEnvironment;
pub use connect::{ConnectOptions, Connector, Endpoint, EndpointAddress, RetryPolicy};
pub use conninfo::{ConnInfo, ConnInfoError};
pub use dump::{DatabaseSource, DumpOptions, OpenDatabase, open_snapshots, stream_databases};
pub use error::{Attempt, PgError, ServerError};
pub use pgtools::{PgTool, ToolError, find_tool};
pub use profile::SessionProfile;
pub use session::{PgSession, StopFlag};
pub use settings::{ConnSettings, HostSpec, SslMode, TargetSessionAttrs};
