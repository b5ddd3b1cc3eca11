//! The integration tests: one binary, a module for each subject.

mod archive;
mod cli;
mod pg_archive;
mod pg_cluster;
mod pg_connect;
mod pg_dump;
mod pg_restore;
mod pg_tls;
mod tidy;
