//! Where restored bytes go.

pub mod dated;
pub mod files;
pub mod postgres;
pub mod tar;
