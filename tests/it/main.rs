//! The integration tests: one binary, a module for each subject.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod archive;
mod cli;
mod golden;
mod pg_archive;
mod pg_cluster;
mod pg_connect;
mod pg_dump;
mod pg_restore;
mod pg_tls;
mod tidy;
