//! Where restored bytes go.

pub mod files;
pub mod postgres;
pub mod tar;
