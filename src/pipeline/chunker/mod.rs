//! Bytes to chunk boundaries; pure.

/// Placeholder until the chunker lands.
#[derive(Clone, Debug)]
pub struct Chunker {}
