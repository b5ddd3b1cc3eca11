//! Trees of files as a source.
