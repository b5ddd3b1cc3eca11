//! Claims: one atomic test-and-set for each chunk, before any compression.
//!
//! A chunk is known if the repository's index has it (then the run relies on its pack, which is tested before the commit) or if this
//! run has claimed it.
//!
//! Invariants:
//! 1. Exactly one claim of an id that the repository does not have is `New`, from however many threads (`one_claim_wins`).
//!
//! Memory: that of the index, and of a set of new chunks, which spills (`store::chunk_index`).

use std::sync::Arc;

use super::previous::Bases;
use super::worker::{ChunkStore, Claim};
use crate::error::Result;
use crate::format::id::ChunkId;
use crate::store::chunk_index::{ChunkIndex, IdSet};
use crate::store::packs::{NewFrame, PackWriter};

/// Claims over the repository's index, and the packs behind them.
#[derive(Debug)]
pub struct Dedup {
    index: Arc<ChunkIndex>,
    own: IdSet,
    packs: PackWriter,
    bases: Option<Box<dyn Bases>>,
}

impl Dedup {
    /// Claims against `index`; new frames go to `packs`.
    pub fn new(index: Arc<ChunkIndex>, packs: PackWriter) -> Self {
        Self {
            index,
            own: IdSet::default(),
            packs,
            bases: None,
        }
    }

    /// Also compresses on what was there before.
    #[must_use]
    pub fn with_bases(self, bases: Box<dyn Bases>) -> Self {
        Self {
            bases: Some(bases),
            ..self
        }
    }

    /// The packs.
    pub fn packs(&self) -> &PackWriter {
        &self.packs
    }

    /// The repository's index.
    pub fn index(&self) -> &Arc<ChunkIndex> {
        &self.index
    }
}

impl ChunkStore for Dedup {
    fn claim(&self, id: &ChunkId) -> Claim {
        match self.index.rely_on(id) || !self.own.insert(id) {
            true => Claim::Known,
            false => Claim::New,
        }
    }

    fn add_frame(&self, frame: NewFrame<'_>) -> Result<()> {
        Ok(self.packs.add(frame)?)
    }

    fn bases(&self) -> Option<&dyn Bases> {
        self.bases.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::index::{IndexEntry, IndexRun, RunFrame, RunPack};
    use crate::stats::Stats;

    fn id(number: u32) -> ChunkId {
        ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    /// An index with the ids below `count`.
    fn index(count: u32) -> ChunkIndex {
        let frame = RunFrame {
            raw_len: 1 << 20,
            ..RunFrame::default()
        };
        let pack = RunPack {
            frames: vec![frame],
            ..RunPack::default()
        };
        let entry = |number| IndexEntry {
            id: id(number),
            pack: 0,
            frame: 0,
            offset: 0,
            len: 1,
        };
        let run = IndexRun {
            packs: vec![pack],
            entries: (0..count).map(entry).collect(),
        };
        ChunkIndex::build([run], |_| true)
    }

    #[test]
    fn one_claim_wins() {
        let (_, repository) = crate::ops::testing::repository();
        let session = Arc::new(repository.open_session().unwrap());
        let packs = PackWriter::new(session, 1 << 20, Arc::new(Stats::default()));
        let dedup = Dedup::new(Arc::new(index(500)), packs);
        let won = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let new = (0..2000).filter(|number| dedup.claim(&id(*number)) == Claim::New);
                    won.fetch_add(new.count(), std::sync::atomic::Ordering::SeqCst);
                });
            }
        });
        assert_eq!(
            won.into_inner(),
            1500,
            "what the repository lacks, once each"
        );
        assert_eq!(dedup.index().relied_packs().len(), 1);
    }
}
