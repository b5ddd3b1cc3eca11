//! Bytes to chunk boundaries; pure.
