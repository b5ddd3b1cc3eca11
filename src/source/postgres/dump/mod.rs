//! Dumps databases: a snapshot, the schema by `pg_dump`, the rows by COPY over several connections.
//!
//! Two steps, so that all snapshots can be opened in a moment of quiet and read later: [`open_snapshots`],
//! then [`stream_databases`]. What is stored of a database is listed in `format::database`; rows go out as
//! the server writes them, nothing is parsed but the ends of rows.
//!
//! **Invariants**
//! 1. A database is archived whole or not at all (`a_failed_database_leaves_nothing`).
//! 2. Every part of a table is read under a lock, and only if the table is still the one of the snapshot;
//!    else the database is begun again, at most three times (`truncate_and_alter_start_the_database_again`).
//!    `pg_dump` runs meanwhile; what it read fits the rows, or the database is begun again too
//!    (`a_table_that_is_copied_and_renamed_before_pg_dump_comes_to_it_starts_the_database_again`).
//!    So is one of which a value of an enum was renamed (`a_renamed_value_of_an_enum_starts_the_database_again`).
//! 3. No lock on a table outlives one part, but those of `pg_dump` while it runs, those of `locks = "hold"`
//!    (`nobody_waits_for_more_than_one_part`), and those of the last attempt: definitions that change faster than
//!    a database can be read wait once, rather than that there is no backup
//!    (`the_last_attempt_at_a_database_that_is_altered_all_the_time_holds_its_tables`). It goes without where the
//!    lock table of the server has no room for them.
//! 4. The digest of a table does not depend on its parts (`big_tables_are_read_in_ranges`).
//!
//! **Failure**: whatever ends a database early takes its nodes back from the sink; its stored chunks are
//! garbage that the next run may use.
//!
//! **Threads**: one for each database, which waits for turns, and one for each connection that copies; each has
//! its own session. A thread waits for the server, for the sink's budget or for a turn, never for a piece of
//! another thread. `connections` of each server copy at a time, which bounds the streams that are being cut.
//!
//! **Connections**: a snapshot needs an open one. No more than `connections_max` are open to a server, whatever
//! for (`sixty_databases_never_exceed_the_budget`); databases that do not fit wait for others to end.

mod admission;
mod again;
mod budget;
mod catalog;
mod cluster;
mod consistency;
mod digest;
mod error;
mod hold;
mod keep_alive;
mod large_objects;
mod late_changes;
mod limits;
mod lock_holders;
mod names;
mod open;
mod order;
mod outcome;
mod part_lock;
mod parts;
mod pattern;
mod schema;
mod stream;
mod unreadable;

use std::time::Duration;

use super::pgtools::ToolPlaces;
use super::rights::Loss;
use super::{ConnSettings, ConnectOptions, RetryPolicy, StopFlag};

pub use catalog::conditions;
pub use consistency::{ClusterConsistency, cluster_consistency};
pub use digest::{RowDigester, RowSum};
pub use open::{
    Database, OpenDatabase, SessionBeside, SnapshotFacts, Waiting, open_snapshots, wait_for_schemas,
};
pub use outcome::DatabaseOutcome;
pub(crate) use parts::binary_row;
pub use stream::{StreamOptions, stream_databases};

/// How tables are kept from changing while they are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Locks {
    /// Each table part is locked while it is read; a changed definition starts the database again, the third time
    /// with all tables locked.
    #[default]
    Optimistic,
    /// All tables are locked from before the snapshot until the end.
    Hold,
}

/// How a database is dumped.
#[derive(Clone, Debug)]
pub struct DumpOptions {
    /// Tables whose rows are left out, patterns as for `pg_dump`.
    pub exclude_table_data: Vec<String>,
    /// Schemas that are left out, patterns as for `pg_dump`.
    pub exclude_schema: Vec<String>,
    /// Kind of locks.
    pub locks: Locks,
    /// Connections that copy at once; none uses the limit of the run.
    pub connections: Option<usize>,
    /// Connections to the cluster that may be open at a time, whatever for; none uses half of what it has free.
    pub connections_max: Option<usize>,
    /// How often connecting is tried.
    pub retry: RetryPolicy,
    /// Where `pg_dump` and `pg_dumpall` are looked for.
    pub tools: ToolPlaces,
    /// How long a table that others lock is waited for.
    pub lock_wait: Duration,
    /// Whether rows of unlogged tables are left out.
    pub unlogged_schema_only: bool,
    /// Whether a standby stops to replay while it is read.
    pub pause_replay: bool,
    /// Whether settings of columns that nothing reads back are taken out of the schema; else they fail the database.
    pub strip_pg_attver: bool,
    /// What may be missing without making the database incomplete.
    pub accepted: Vec<Loss>,
    /// Somebody's wish for an end.
    pub stop: StopFlag,
    /// Blocks of one part of a big table.
    pub range_blocks: u64,
}

impl Default for DumpOptions {
    fn default() -> Self {
        Self {
            exclude_table_data: Vec::new(),
            exclude_schema: Vec::new(),
            locks: Locks::Optimistic,
            connections: None,
            connections_max: None,
            retry: RetryPolicy::default(),
            tools: ToolPlaces::default(),
            lock_wait: Duration::from_secs(300),
            unlogged_schema_only: false,
            pause_replay: false,
            strip_pg_attver: false,
            accepted: Vec::new(),
            stop: StopFlag::default(),
            // 1 GiB of the usual blocks. What is smaller is read as a whole, through the server's ring buffer; ranges go around it and push
            // the rest out of its cache.
            range_blocks: 131_072,
        }
    }
}

impl DumpOptions {
    /// How sessions of a dump are opened.
    fn session(&self) -> ConnectOptions {
        ConnectOptions {
            retry: self.retry,
            stop: self.stop.clone(),
            ..ConnectOptions::dump()
        }
    }
}

/// A database that is to be dumped.
#[derive(Clone, Debug)]
pub struct DatabaseSource {
    /// Name of the component: its folder below `/databases`.
    pub name: String,
    /// Where it is.
    pub settings: ConnSettings,
    /// How it is dumped.
    pub options: DumpOptions,
}
