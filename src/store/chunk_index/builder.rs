//! An index of runs that no cache keeps: of a test, of a verification, of what a dead session left.

use std::collections::HashSet;
use std::sync::Arc;

use super::cache::Making;
use super::segment::{Batch, Segment};
use super::{BATCH_ENTRIES, ChunkIndex};
use crate::format::id::ObjectHash;
use crate::format::index::IndexRun;

/// Makes segments that no cache keeps.
#[derive(Default)]
pub(super) struct Builder {
    batch: Batch,
    known: HashSet<ObjectHash>,
    making: Making<'static>,
}

impl Builder {
    pub(super) fn add(&mut self, run: IndexRun, usable: &dyn Fn(&ObjectHash) -> bool) {
        let known = &mut self.known;
        let takes = |pack: &ObjectHash| usable(pack) && known.insert(*pack);
        self.batch.add(ObjectHash::default(), run, takes);
        if self.batch.len() >= BATCH_ENTRIES {
            self.making.add(std::mem::take(&mut self.batch));
        }
    }

    pub(super) fn finish(mut self) -> ChunkIndex {
        if !self.batch.is_empty() {
            self.making.add(self.batch);
        }
        let whole = |segment: Arc<Segment>| {
            let wanted = vec![true; segment.runs.len()].into_boxed_slice();
            (segment, wanted)
        };
        let made = self.making.finish().into_iter();
        ChunkIndex::of_segments(made.map(|open| whole(open.segment)).collect())
    }
}
