//! Chunk id → where it is, for all packs that the log names and nothing condemned.
//!
//! Layout in memory: the entries of all runs in one array, a hash table of positions into it, and one bit for each entry that a
//! backup relied on. An interface of its own ([`ChunkIndex::find`], [`ChunkIndex::rely_on`]), so that a file on disk can take its place.
//!
//! Invariants:
//! 1. Packs that are condemned or quarantined are not in it, whatever the runs say (`unusable_packs_are_left_out`).
//! 2. What a backup relies on is remembered for the test before the commit (`relied_packs_are_known`).
//! 3. Nothing new relies on a pack that was refused meanwhile (`refused_packs_are_not_relied_on`).
//!
//! Memory: 60 bytes for each chunk of the repository.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hashbrown::HashTable;

use crate::format::id::{ChunkId, ObjectHash};
use crate::format::index::{IndexEntry, IndexRun, RunFrame, RunPack};

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// Position of the pack in [`ChunkIndex::packs`].
    pub pack: u32,
    /// Frame number.
    pub frame: u32,
    /// First byte in the frame's plaintext.
    pub offset: u32,
    /// Length in bytes.
    pub len: u32,
}

/// The index.
#[derive(Debug, Default)]
pub struct ChunkIndex {
    packs: Vec<RunPack>,
    entries: Vec<IndexEntry>,
    table: HashTable<u32>,
    relied: Vec<AtomicU64>,
    /// One for each pack: condemned or quarantined since the index was built.
    refused: Vec<AtomicBool>,
}

fn hash_of(id: &ChunkId) -> u64 {
    let first = id
        .as_bytes()
        .first_chunk::<8>()
        .expect("an id has 32 bytes");
    u64::from_le_bytes(*first)
}

impl ChunkIndex {
    /// Builds the index from runs; `usable` says whether a pack may be relied on.
    pub fn build(
        runs: impl IntoIterator<Item = IndexRun>,
        usable: impl Fn(&ObjectHash) -> bool,
    ) -> Self {
        let mut index = Self::default();
        let mut known: std::collections::HashMap<ObjectHash, u32> =
            std::collections::HashMap::new();
        for run in runs {
            index.add_run(run, &usable, &mut known);
        }
        let count = index.entries.len();
        index.table.reserve(count, |_| 0);
        for position in 0..u32::try_from(count).expect("fewer than 2^32 chunks fit in memory") {
            let entries = &index.entries;
            let hash = |at: &u32| hash_of(&entries[*at as usize].id);
            index
                .table
                .insert_unique(hash_of(&entries[position as usize].id), position, hash);
        }
        index.relied = (0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        index.refused = index.packs.iter().map(|_| AtomicBool::new(false)).collect();
        index
    }

    fn add_run(
        &mut self,
        run: IndexRun,
        usable: &impl Fn(&ObjectHash) -> bool,
        known: &mut std::collections::HashMap<ObjectHash, u32>,
    ) {
        let mut places: Vec<Option<u32>> = Vec::with_capacity(run.packs.len());
        for pack in run.packs {
            // A pack that two runs name (a merge whose inputs are still there) is taken once.
            let new = !known.contains_key(&pack.name) && usable(&pack.name);
            places.push(new.then(|| {
                let place = u32::try_from(self.packs.len()).expect("fewer than 2^32 packs");
                known.insert(pack.name, place);
                self.packs.push(pack);
                place
            }));
        }
        self.entries.reserve(run.entries.len());
        for entry in run.entries {
            if let Some(Some(pack)) = places.get(entry.pack as usize) {
                self.entries.push(IndexEntry {
                    pack: *pack,
                    ..entry
                });
            }
        }
    }

    /// The packs.
    pub fn packs(&self) -> &[RunPack] {
        &self.packs
    }

    /// Chunks, copies counted.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no chunk.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The frame of a location.
    pub fn frame(&self, location: &Location) -> &RunFrame {
        &self.packs[location.pack as usize].frames[location.frame as usize]
    }

    /// Position of an entry of the chunk in [`ChunkIndex::entries`]: a small number for a set of chunks.
    pub fn position(&self, id: &ChunkId) -> Option<u32> {
        self.table
            .find(hash_of(id), |at| self.entries[*at as usize].id == *id)
            .copied()
    }

    fn location(&self, position: u32) -> Location {
        let entry = &self.entries[position as usize];
        Location {
            pack: entry.pack,
            frame: entry.frame,
            offset: entry.offset,
            len: entry.len,
        }
    }

    /// A place of the chunk.
    pub fn find(&self, id: &ChunkId) -> Option<Location> {
        self.position(id).map(|position| self.location(position))
    }

    /// Every place of the chunk, for readers that found one damaged.
    pub fn find_all(&self, id: &ChunkId) -> Vec<Location> {
        let same = self
            .table
            .iter_hash(hash_of(id))
            .filter(|at| self.entries[**at as usize].id == *id);
        same.map(|at| self.location(*at)).collect()
    }

    /// Lets nothing new rely on packs that are no longer usable. Returns how many of them are refused for the first time.
    pub fn refuse(&self, is_unusable: impl Fn(&ObjectHash) -> bool) -> usize {
        let unusable = self.packs.iter().zip(&self.refused);
        unusable
            .filter(|(pack, refused)| {
                is_unusable(&pack.name) && !refused.swap(true, Ordering::Relaxed)
            })
            .count()
    }

    /// How many packs are refused.
    pub fn refused_packs(&self) -> usize {
        let refused = |pack: &&AtomicBool| pack.load(Ordering::Relaxed);
        self.refused.iter().filter(refused).count()
    }

    /// Whether the chunk is there, in a pack that is not refused; if so, remembers that the caller relies on it.
    pub fn rely_on(&self, id: &ChunkId) -> bool {
        let Some(position) = self.position(id) else {
            return false;
        };
        let pack = self.entries[position as usize].pack;
        if self.refused[pack as usize].load(Ordering::Relaxed) {
            return false;
        }
        self.relied[(position / 64) as usize].fetch_or(1 << (position % 64), Ordering::Relaxed);
        true
    }

    fn is_relied(&self, position: usize) -> bool {
        self.relied[position / 64].load(Ordering::Relaxed) & (1 << (position % 64)) != 0
    }

    /// The packs that hold what [`Self::rely_on`] was asked for.
    pub fn relied_packs(&self) -> Vec<ObjectHash> {
        let mut used = vec![false; self.packs.len()];
        for (position, entry) in self.entries.iter().enumerate() {
            if self.is_relied(position) {
                used[entry.pack as usize] = true;
            }
        }
        self.packs
            .iter()
            .zip(used)
            .filter(|(_, used)| *used)
            .map(|(pack, _)| pack.name)
            .collect()
    }

    /// The chunks that were relied on in one pack.
    pub fn relied_chunks(&self, pack: &ObjectHash) -> Vec<(ChunkId, Location)> {
        let relied = self.entries.iter().enumerate().filter(|(position, entry)| {
            self.packs[entry.pack as usize].name == *pack && self.is_relied(*position)
        });
        relied
            .map(|(position, entry)| {
                (
                    entry.id,
                    self.location(u32::try_from(position).expect("checked when built")),
                )
            })
            .collect()
    }

    /// All entries with their packs, in no order.
    pub fn entries(&self) -> &[IndexEntry] {
        &self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(pack: u8, ids: &[u8]) -> IndexRun {
        let frames = vec![RunFrame {
            raw_len: 100,
            sealed_len: 50,
            ..RunFrame::default()
        }];
        let entries = ids.iter().map(|id| IndexEntry {
            id: ChunkId([*id; 32]),
            pack: 0,
            frame: 0,
            offset: 0,
            len: 10,
        });
        IndexRun {
            packs: vec![RunPack {
                name: ObjectHash([pack; 32]),
                len: 1000,
                frames,
            }],
            entries: entries.collect(),
        }
    }

    #[test]
    fn unusable_packs_are_left_out() {
        let index = ChunkIndex::build([run(1, &[1, 2]), run(2, &[2, 3]), run(2, &[3])], |name| {
            name.0[0] != 1
        });
        assert_eq!(index.len(), 2);
        assert!(index.find(&ChunkId([1; 32])).is_none());
        assert_eq!(index.find_all(&ChunkId([2; 32])).len(), 1);
    }

    #[test]
    fn relied_packs_are_known() {
        let index = ChunkIndex::build([run(1, &[1, 2]), run(2, &[3]), run(3, &[1])], |_| true);
        assert!(index.rely_on(&ChunkId([3; 32])));
        assert!(!index.rely_on(&ChunkId([4; 32])));
        assert_eq!(index.relied_packs(), [ObjectHash([2; 32])]);
        assert_eq!(index.relied_chunks(&ObjectHash([2; 32])).len(), 1);
        assert_eq!(index.find_all(&ChunkId([1; 32])).len(), 2);
    }

    #[test]
    fn refused_packs_are_not_relied_on() {
        let index = ChunkIndex::build([run(1, &[1, 2]), run(2, &[3])], |_| true);
        assert!(index.rely_on(&ChunkId([1; 32])));
        assert_eq!(index.refuse(|pack| *pack == ObjectHash([1; 32])), 1);
        assert_eq!(index.refuse(|pack| *pack == ObjectHash([1; 32])), 0);
        assert!(!index.rely_on(&ChunkId([2; 32])));
        assert!(index.rely_on(&ChunkId([3; 32])));
        // What was relied on before is still known: the test before the commit finds it.
        assert_eq!(index.relied_packs().len(), 2);
    }
}
