//! One file for each command; orchestration only.

pub mod backup;
pub mod init;
pub mod snapshots;
#[cfg(test)]
pub(crate) mod testing;
