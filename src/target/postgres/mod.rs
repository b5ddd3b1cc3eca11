//! Restores a database and the globals of its cluster into a server, and compares what was restored.

pub mod globals;
pub mod plan;
pub mod schedule;
pub(crate) mod sql;
pub mod toc;
