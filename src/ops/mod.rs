//! One file for each command; orchestration only.

pub mod archive;
pub mod backup;
pub mod browse;
pub mod cat;
pub mod connect;
pub mod copy;
pub mod dated;
pub mod demo;
pub mod diff;
pub mod drill;
pub mod export;
pub mod export_database;
pub mod find;
pub mod init;
pub mod layout;
pub mod ledger;
pub mod ls;
pub mod manifest;
pub mod preflight;
pub mod quiesce;
#[cfg(test)]
mod reading_tests;
pub mod restore;
pub mod restore_site;
pub mod sampling;
mod schema_diff;
mod scratch_cluster;
pub mod site_check;
pub mod site_extract;
pub mod snapshots;
pub mod stats;
pub mod status;
mod stream;
#[cfg(test)]
pub(crate) mod testing;
pub mod verify;
pub mod window;
