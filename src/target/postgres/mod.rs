//! Restores a database and the globals of its cluster into a server, and compares what was restored.

pub mod toc;
