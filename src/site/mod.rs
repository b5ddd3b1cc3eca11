//! What a site is: the site file, its profiles, its path lists, and the secrets that it points to.
//!
//! This module reads what an administrator wrote and says what is wrong with it, with file, line and column. It reaches
//! no database, opens no repository and reads no share. It knows how a command is run, not when.
//!
//! Invariants:
//!
//! 1. What the site file says is taken or refused, never ignored: an unknown key or section is an error
//!    (test `config::tests::errors_name_line_column_and_the_nearest_key`).
//! 2. The site file as it goes into a snapshot holds no password that the site file gave
//!    (test `redact::tests::no_password_survives`).
//! 3. No error and no `Debug` output of this module shows a secret (tests `debug_shows_no_secret`).

pub mod command;
pub mod compression;
pub mod config;
pub mod key_text;
pub mod lists;
pub mod profiles;
mod reader;
mod redact;
pub mod secrets;

pub use config::{SiteError, SiteFile};
pub use redact::{redact_command, redact_conninfo};
