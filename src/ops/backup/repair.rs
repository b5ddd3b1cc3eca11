//! What to do when a prune condemned what a backup relied on: every chunk of the new snapshot is looked up again on the newer state, and
//! what does not resolve is read from where it still is and stored again under new names.

use std::collections::HashSet;
use std::sync::Arc;

use super::BackupOptions;
use super::engine::{Stored, worker_parts};
use crate::error::{Error, Result};
use crate::format::id::ObjectHash;
use crate::format::node::{ChunkRef, Content, Node};
use crate::format::pack::Class;
use crate::format::snapshot::Record;
use crate::ops::snapshots::frame_decoder;
use crate::pipeline::dedup::Dedup;
use crate::pipeline::worker::Worker;
use crate::stats::Stats;
use crate::store::chunk_index::cache;
use crate::store::packs::PackWriter;
use crate::store::reader::ChunkReader;
use crate::store::state::State;
use crate::store::{Lost, Session, StoreError, tree};

/// Stores again what is lost and fixes `stored`, so that the commit can be tried on `state` or later.
pub(in crate::ops) fn repair(
    session: &Arc<Session>,
    options: &BackupOptions,
    stats: &Arc<Stats>,
    record: &Record,
    stored: &mut Stored,
    lost: &Lost,
    state: &Arc<State>,
) -> Result<()> {
    let repository = session.repository();
    // Where the chunks were: the index of the run and its own runs, condemned packs included.
    let own: Vec<ObjectHash> = stored.runs.names().collect();
    let load = |name: &ObjectHash| repository.load_run(name);
    let mut old = stored.index.again();
    old.add_runs(own.iter().map(load), |_| true)?;
    let old = Arc::new(ChunkReader::new(
        repository.clone(),
        state.clone(),
        Arc::new(old),
        None,
        frame_decoder,
    )?);
    // Where they may be relied on: the index at `state` and own runs that are not lost.
    let mut own_packs: HashSet<ObjectHash> = HashSet::new();
    let kept = own.iter().filter(|name| !lost.runs.contains(name));
    let kept = kept.map(|name| {
        let run = load(name)?;
        own_packs.extend(run.packs.iter().map(|pack| pack.name));
        Ok::<_, StoreError>(run)
    });
    let mut hole = None;
    let mut index = cache::open(repository, state, &mut |e| hole = Some(e))?;
    if let Some(hole) = hole {
        return Err(hole.into());
    }
    index.add_runs(kept, |pack| !state.is_unusable_pack(pack))?;
    let index = Arc::new(index);
    let packs = PackWriter::new(
        session.clone(),
        repository.format().pack_bytes,
        stats.clone(),
    );
    let dedup = Arc::new(Dedup::new(index.clone(), packs));
    let mut worker = Worker::new(worker_parts(repository, options, &dedup, stats)?)?;
    let mut again = Again {
        old,
        worker: &mut worker,
    };
    let result = again
        .directory(&record.root)
        .and_then(|()| again.content(&record.skipped, Class::Tree));
    let flushed = result.and_then(|()| worker.flush());
    let packs = dedup.packs().finish();
    flushed?;
    stored.runs.remove_lost(lost);
    stored.runs.extend(packs?.runs);
    stored.reused = index
        .relied_packs()
        .into_iter()
        .filter(|pack| !own_packs.contains(pack))
        .collect();
    stored.index = index;
    Ok(())
}

struct Again<'a> {
    old: Arc<ChunkReader>,
    worker: &'a mut Worker,
}

impl Again<'_> {
    fn chunk(&mut self, chunk: &ChunkRef, class: Class) -> Result<()> {
        let bytes = self.old.chunk(chunk).map_err(|e| {
            Error::Store(StoreError::Lost {
                what: format!("chunk {} can't be read where it was: {e}", chunk.id),
            })
        })?;
        // Claims against the newer index: relies on it where it resolves there, stores it again where not.
        self.worker.put_chunk(class, &bytes).map(drop)
    }

    fn content(&mut self, content: &Content, class: Class) -> Result<()> {
        if content.depth > 0 {
            for chunk in &content.refs {
                self.chunk(chunk, Class::Tree)?;
                let bytes = self.old.chunk(chunk)?;
                let mut refs = Vec::new();
                crate::format::node::decode_items(&bytes, |r: ChunkRef| refs.push(r))
                    .map_err(|e| StoreError::damaged(format!("tree chunk {}", chunk.id), e))?;
                self.content(
                    &Content {
                        depth: content.depth - 1,
                        refs,
                    },
                    class,
                )?;
            }
            return Ok(());
        }
        content
            .refs
            .iter()
            .try_for_each(|chunk| self.chunk(chunk, class))
    }

    fn directory(&mut self, directory: &Content) -> Result<()> {
        let mut open = vec![directory.clone()];
        while let Some(directory) = open.pop() {
            self.content(&directory, Class::Tree)?;
            for node in tree::Nodes::new(self.old.clone(), &directory) {
                let node: Node = node?;
                for stream in [&node.xattrs_stream, &node.holes_stream]
                    .into_iter()
                    .flatten()
                {
                    self.content(stream, Class::Tree)?;
                }
                if node.is_directory() {
                    open.push(node.content);
                } else {
                    let class = if node.table.is_some() {
                        Class::Table
                    } else {
                        Class::File
                    };
                    self.content(&node.content, class)?;
                }
            }
        }
        Ok(())
    }
}
