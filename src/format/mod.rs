//! Every byte at rest; the format specification.

pub mod database;
pub mod framed;
pub mod header;
pub mod id;
pub mod index;
pub mod key;
pub mod log;
pub mod node;
pub mod pack;
pub mod padme;
pub mod repository;
pub mod snapshot;
