//! Plaintext streams to frames: worker threads and bounded queues live here only.
//!
//! A stream is cut by who reads it ([`ItemWriter`]); its chunks are hashed, claimed, framed and compressed by a [`Worker`], one for each
//! core; big files that can be read anywhere are cut by several workers at once ([`SegmentedItem`]); frames go to the
//! [`worker::ChunkStore`], nodes to the [`Sink`], which builds the tree at the end.
//!
//! Memory of a backup: workers × (12 frames of 1 MiB + window of 1 MiB + chunk lists of 4 segments) + units in flight (a setting) + one unit
//! for each source and for each stream that is being cut (of each cluster of databases as many as it has `connections`) + the tree's
//! budget (a setting) + open packs (3 × 32 MiB where the backend can't stream) + for each table part that changed, while it is copied,
//! what it was (at most 8 MiB: [`previous`]).

pub mod chunker;
pub mod dedup;
pub mod frames;
pub mod item;
pub mod pool;
pub mod previous;
pub mod segments;
pub mod sink;
pub mod tree;
pub mod worker;

pub use item::{ContentBuilder, ItemWriter, StoredItem, StreamKind};
pub use pool::{Pool, SourceQueue};
pub use segments::{ReadAt, SegmentedItem, SegmentsEnd, Unreadable};
pub use sink::{Observer, Sink, TreePath};
pub use worker::Worker;
