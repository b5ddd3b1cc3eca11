//! holdfast: a streaming archiver for whole sites.

pub mod backend;
pub mod crypto;
pub mod error;
pub mod format;
pub mod ops;
pub mod pipeline;
pub mod site;
pub mod sort;
pub mod source;
pub mod stats;
pub mod store;
pub mod target;
