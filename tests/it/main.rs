//! The integration tests: one binary, a module for each subject.

mod pg_cluster;
mod pg_connect;
mod tidy;
