//! Restores a database and the globals of its cluster into a server, and compares what was restored with the archive.
//!
//! It needs no `psql` and no `pg_restore`: [`toc`] reads the archive of the schema, [`plan`] puts its statements in order, [`restore`] executes them and
//! loads the rows. It knows nothing of repositories ([`archive`]) and does not dump.
//!
//! | file | subject |
//! |---|---|
//! | [`archive`] | what a restore reads |
//! | [`toc`] | the table of contents of `pg_dump`'s archives, read and written |
//! | [`plan`], [`schedule`] | which statements, in which order; pure |
//! | [`selection`] | a part of a database, or a table under another name; pure |
//! | [`globals`] | which roles and tablespaces; pure |
//! | `sql` | where strings and names begin and end in a statement; pure |
//! | [`target_database`] | the target before: what is there, whether it is empty |
//! | `ddl`, `data`, `large_objects` | the three kinds of things that are restored |
//! | [`restore`] | all of it, from globals to the comparison |
//! | [`refill`] | the rows of some tables, in place |
//! | [`swap`] | a new database in the place of an old one |
//! | [`script`], [`directory`] | the same for `psql` and for `pg_restore`, without a server |
//! | `post_data` | indexes and constraints over several sessions |
//! | `crew` | sessions side by side, as many as the server gives |
//! | `analyze` | statistics of what was restored |
//! | [`check`] | reads rows back and compares |
//! | [`report`] | what could not be restored, and why |

pub(crate) mod analyze;
pub mod archive;
pub mod check;
pub(crate) mod crew;
pub(crate) mod data;
pub(crate) mod ddl;
pub mod directory;
pub mod error;
pub(crate) mod floats;
pub mod globals;
pub(crate) mod large_objects;
pub(crate) mod older;
pub mod plan;
pub(crate) mod post_data;
pub mod refill;
pub mod report;
pub mod restore;
pub mod schedule;
pub mod script;
pub mod selection;
pub(crate) mod sql;
pub mod swap;
pub mod target_database;
pub mod toc;

pub use archive::{DatabaseArchive, LargeObjectPage};
pub use directory::{DirectoryFiles, write_directory};
pub use error::RestoreError;
pub use globals::Globals;
pub use report::{OnError, RestoreReport};
pub use restore::{RestoreOptions, restore_database};
pub use script::{ExportError, ExportOptions, ExportedDatabase, write_script};
pub use selection::{Pattern, Selection, SelectionError};
pub use swap::{Replacement, SwapOptions, replace_database};
pub use target_database::RestoreTarget;
