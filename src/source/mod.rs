//! Where bytes come from.

pub mod files;
pub mod postgres;
