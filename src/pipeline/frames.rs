//! Chunks to compressed frames and back.
