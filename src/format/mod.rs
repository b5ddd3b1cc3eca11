//! Every byte at rest; the format specification.

pub mod database;
pub mod framed;
pub mod header;
pub mod holes;
pub mod id;
pub mod index;
pub mod key;
pub mod large_object;
pub mod log;
pub mod node;
pub mod pack;
pub mod padme;
pub mod path_encoding;
pub mod repository;
pub mod snapshot;
