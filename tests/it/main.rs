//! The integration tests: one binary, a module for each subject.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that can't go on ends, and says on the terminal what it saw"
)]

mod archive;
mod bad_input;
mod bounded;
mod cli;
mod concurrent;
mod copy;
mod crash;
mod damage;
mod drill;
mod full_disk;
mod golden;
mod pg_adversary;
mod pg_archive;
mod pg_binary;
mod pg_busy;
mod pg_cluster;
mod pg_connect;
mod pg_dump;
mod pg_export;
mod pg_hold;
mod pg_parallel;
mod pg_pooler;
mod pg_prefix;
mod pg_restore;
mod pg_rights;
mod pg_selection;
mod pg_standby;
mod pg_swap;
mod pg_tls;
mod pg_traps;
mod place;
mod quiet;
mod redis;
mod references;
mod replicate;
mod round_trip;
mod services;
mod shared_dedup;
mod site_eclecticiq;
mod site_failures;
mod site_qlik;
mod site_restore;
mod tidy;
