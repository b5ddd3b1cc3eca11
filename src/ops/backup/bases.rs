//! What table parts were in the parent snapshot, and the frames that their chunks stand in.
//!
//! Only frames of packs that the log names serve as bases: what a dead session left might be left out of the snapshot's entry, and prune
//! would take it. Each pack of a base is relied on as one in which a chunk was found, and is also named by the index run of the frames
//! on it ([`crate::format::index::IndexRun::named_packs`]): if it is condemned meanwhile, the run is lost and its chunks are stored again.
//!
//! Reading: one list of chunks for each part that has new ones, and a frame of about 1 MiB for each base, about as many as frames are written.
//! A store of which reading is expensive would rather leave this out; there is none yet.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::format::id::ChunkId;
use crate::format::node::{ChunkRef, Content};
use crate::format::pack::{Base, Class};
use crate::format::snapshot::ComponentState;
use crate::ops::snapshots::Snapshot;
use crate::pipeline::TreePath;
use crate::pipeline::previous::Bases;
use crate::store::reader::{ChunkReader, Scratch};
use crate::store::{StoreError, tree};

/// Tables of a schema whose contents are kept at hand, at most: about 200 bytes each.
const TABLES_MAX: usize = 100_000;

/// Where the tables of a schema are, by their names.
type Tables = Arc<HashMap<Vec<u8>, Content>>;

/// The parents of a run, the newest last.
pub(super) struct StoredBases {
    reader: Arc<ChunkReader>,
    parents: Vec<Snapshot>,
    /// Packs with smaller numbers are named by the log.
    logged_packs: u32,
    /// The schema that was asked for last.
    tables: Mutex<Option<(TreePath, Option<Tables>)>>,
    spare: Mutex<Vec<Scratch>>,
    told: AtomicBool,
}

impl fmt::Debug for StoredBases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredBases").finish_non_exhaustive()
    }
}

impl StoredBases {
    pub(super) fn new(reader: Arc<ChunkReader>, parents: Vec<Snapshot>, logged_packs: u32) -> Self {
        Self {
            reader,
            parents,
            logged_packs,
            tables: Mutex::default(),
            spare: Mutex::default(),
            told: AtomicBool::new(false),
        }
    }

    /// Says once that something can't be read; the rest is for those who look closely.
    fn tell(&self, what: &str, error: &StoreError) {
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{what} can't be read, so what is new in tables takes more space than it could: {error}"
            );
        } else {
            tracing::debug!("{what} can't be read: {error}");
        }
    }

    /// The tables of the schema at `path`, in the newest parent in which its component was not failed.
    fn tables_of(&self, path: &TreePath) -> Option<Tables> {
        let mut last = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((known, tables)) if known == path => return tables.clone(),
            _ => {}
        }
        let tables = self.load_tables(path).unwrap_or_else(|error| {
            self.tell("the list of tables of the parent", &error);
            None
        });
        *last = Some((path.clone(), tables.clone()));
        tables
    }

    fn load_tables(&self, path: &TreePath) -> Result<Option<Tables>, StoreError> {
        for parent in self.parents.iter().rev() {
            let is_of = |component: &[minicbor::bytes::ByteVec]| {
                let names = path.names().take(component.len());
                names.eq(component.iter().map(|name| name.as_slice()))
            };
            let mut components = parent.record.components.iter();
            let component = components.find(|component| is_of(&component.path));
            if component.is_none_or(|component| component.state == ComponentState::Failed) {
                continue;
            }
            let Some(schema) = tree::find(&self.reader, &parent.record.root, path.names())? else {
                continue;
            };
            let nodes = tree::Nodes::new(self.reader.clone(), &schema.content);
            let tables = nodes
                .take(TABLES_MAX)
                .map(|node| node.map(|node| (node.name, node.content)));
            return Ok(Some(Arc::new(tables.collect::<Result<_, _>>()?)));
        }
        Ok(None)
    }

    fn chunks(
        &self,
        table: &Content,
        part: &[u8],
        chunks_max: usize,
    ) -> Result<Option<Vec<ChunkRef>>, StoreError> {
        for node in tree::Nodes::new(self.reader.clone(), table) {
            let node = node?;
            if node.name == part {
                let chunks = tree::Chunks::new(self.reader.clone(), &node.content);
                let chunks: Vec<_> = chunks.take(chunks_max + 1).collect::<Result<_, _>>()?;
                return Ok(Some(chunks).filter(|chunks| chunks.len() <= chunks_max));
            }
        }
        Ok(None)
    }
}

impl Bases for StoredBases {
    fn previous(&self, path: &TreePath, chunks_max: usize) -> Option<Vec<ChunkRef>> {
        // databases/NAME/tables/SCHEMA/TABLE/PART
        let names: Vec<&[u8]> = path.names().collect();
        let [schema @ .., table, part] = &names[..] else {
            return None;
        };
        let schema = schema
            .iter()
            .fold(TreePath::root(), |path, name| path.join(name));
        let tables = self.tables_of(&schema)?;
        let chunks = self.chunks(tables.get(*table)?, part, chunks_max);
        chunks.unwrap_or_else(|error| {
            self.tell("a table of the parent", &error);
            None
        })
    }

    fn base_of(&self, chunk: &ChunkId) -> Option<Base> {
        let index = self.reader.index();
        let found = index.find(chunk)?;
        let pack = index.pack(found.pack).ok()?;
        let frame = pack.frames.get(found.frame as usize)?;
        if frame.class != Class::Table {
            return None;
        }
        let (base, number) = match frame.base {
            Some(base) => (base, index.number_of(&base.0)?),
            None => ((pack.name, found.frame), found.pack),
        };
        (number < self.logged_packs && index.rely_on_pack(number)).then_some(base)
    }

    fn plain(&self, base: &Base) -> Option<Bytes> {
        let spare = self
            .spare
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let plain = spare
            .map_or_else(|| self.reader.scratch(), Ok)
            .and_then(|mut scratch| {
                let plain = self.reader.base(base, &mut scratch);
                self.spare
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(scratch);
                plain
            });
        plain
            .inspect_err(|error| self.tell("a frame of the parent's tables", error))
            .ok()
    }
}
