//! What a restore reads: one archived database, wherever it is kept. The restore knows nothing of repositories; who implements [`DatabaseArchive`] knows
//! nothing of servers.
//!
//! Threads: all methods are called from several threads at once, and may block on the caller's sink.

use std::fmt;

use crate::error::Result;
use crate::format::database::{DatabaseInfo, TableInfo};
use crate::format::large_object::LargeObjectInfo;

/// A stored page of a large object; pages that are not stored are holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LargeObjectPage<'a> {
    /// Whose page.
    pub oid: u32,
    /// Where in the object it begins.
    pub offset: u64,
    /// Its bytes.
    pub data: &'a [u8],
}

/// One archived database.
pub trait DatabaseArchive: Send + Sync + fmt::Debug {
    /// What the database was.
    fn description(&self) -> &DatabaseInfo;

    /// The archive of the schema, as `pg_dump -Fc` wrote it.
    fn schema_dump(&self) -> Result<Vec<u8>>;

    /// Hands the rows of one part of a table to `sink`, in pieces of any size that together are text of COPY; for the parts that `table.binary_parts` names, its
    /// binary format.
    fn read_part(
        &self,
        table: &TableInfo,
        part: u64,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()>;

    /// Hands on every large object, in order of oids.
    fn large_objects(&self, each: &mut dyn FnMut(LargeObjectInfo) -> Result<()>) -> Result<()>;

    /// Hands on every stored page of every large object, in order of oids and offsets.
    fn large_object_pages(
        &self,
        each: &mut dyn FnMut(LargeObjectPage<'_>) -> Result<()>,
    ) -> Result<()>;

    /// `globals.sql` of the database's cluster, where it was archived.
    fn globals(&self) -> Result<Option<Vec<u8>>>;
}
