//! One file for each command; orchestration only.

pub mod snapshots;
