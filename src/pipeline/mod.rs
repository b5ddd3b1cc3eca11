//! Plaintext streams to frames: worker threads and bounded queues live here only.

pub mod chunker;
pub mod frames;
