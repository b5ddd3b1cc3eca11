//! `database.json`: what a database was when it was archived.
//!
//! Layout: UTF-8 JSON, one object [`DatabaseInfo`]; unknown fields are skipped. It is a file in the tree, so `cat` shows it.
//! Names are strings; where an identifier is not UTF-8 its bytes are %-encoded, as in the tree.

use serde::{Deserialize, Serialize};

/// What a database was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct DatabaseInfo {
    /// Name on the server.
    pub name: String,
    /// Folder name of its cluster below `/clusters`.
    pub cluster: String,
    /// The cluster's system identifier, where the server told it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_identifier: Option<String>,
    /// `server_version_num`.
    pub server_version_num: u32,
    /// `server_version`.
    pub server_version: String,
    /// Version of the pg_dump that wrote `schema.dump`.
    pub pg_dump_version: String,
    /// Encoding of the database.
    pub encoding: String,
    /// Collation and ctype.
    pub collate: String,
    /// Ctype.
    pub ctype: String,
    /// When the snapshot was taken, on the server's clock, RFC 3339.
    pub snapshot_time: String,
    /// `pg_current_snapshot()` text.
    pub snapshot: String,
    /// WAL position.
    pub lsn: String,
    /// Whether the server was a standby.
    pub standby: bool,
    /// Extensions and their versions.
    pub extensions: Vec<(String, String)>,
    /// Sequences: schema, name, last value, is_called.
    pub sequences: Vec<SequenceState>,
    /// Tables.
    pub tables: Vec<TableInfo>,
    /// Large objects archived.
    pub large_objects: u64,
    /// What was not visible or left out, and why.
    pub not_included: Vec<String>,
}

/// State of a sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct SequenceState {
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// `last_value`.
    pub last_value: i64,
    /// `is_called`.
    pub is_called: bool,
}

/// A table whose rows are archived.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct TableInfo {
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// Columns in the order of the COPY stream.
    pub columns: Vec<String>,
    /// Root that it must be loaded through: schema and name.
    pub load_via: Option<(String, String)>,
    /// Condition of an extension's configuration table.
    pub filter: Option<String>,
    /// Part files below `tables/<schema>/<table>/`.
    pub parts: u64,
    /// Parts that are in COPY's binary format, because a row is too big for its text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub binary_parts: Vec<u64>,
    /// Rows.
    pub rows: u64,
    /// Sum of the parts' `rows_digest`, 32 hex digits, little-endian bytes.
    pub rows_digest: String,
    /// Its rows were left out (`exclude-table-data`).
    pub data_excluded: bool,
}
