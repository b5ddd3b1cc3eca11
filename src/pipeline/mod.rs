//! Plaintext streams to frames: worker threads and bounded queues live here only.

pub mod chunker;
pub mod frames;
pub mod item;
pub mod pool;
pub mod sink;
pub mod worker;

pub use item::{ContentBuilder, ItemWriter, StoredItem, StreamKind};
pub use pool::{Pool, SourceQueue};
pub use sink::{Sink, TreePath};
pub use worker::Worker;
