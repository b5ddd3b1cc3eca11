//! One file for each command; orchestration only.
