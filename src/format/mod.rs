//! Every byte at rest; the format specification.

pub mod database;
pub mod id;
pub mod index;
pub mod log;
pub mod node;
pub mod pack;
pub mod snapshot;
