//! What an index takes into memory as it is used: nothing for a few look-ups, whole files of small ones and a hash table for many.
//!
//! Invariants: a look-up says the same before and after (`the_cache_says_what_the_runs_say`, `a_hash_table_says_the_same`).

use std::sync::atomic::Ordering;

use hashbrown::HashTable;

use super::buckets::prefix;
use super::pages::{PAGE, at, wide};
use super::{ChunkIndex, FILTER_BYTES, Hit};
use crate::format::id::ChunkId;

/// Files up to this length together are taken into memory when they are used much.
const WHOLE_BYTES: u64 = 64 << 20;
/// Look-ups by pages before anything is taken into memory, and pages for each further one.
const FEW: u64 = 64;
const PAGES_A_LOOK_UP: u64 = 32;
/// Entries of an index in memory for each look-up before it gets a hash table.
const ENTRIES_A_LOOK_UP: u64 = 16;
/// More entries than an index in memory can have.
const WHOLE_ENTRIES: u64 = 1 << 24;

impl ChunkIndex {
    /// Sets how many look-ups are enough for what.
    pub(super) fn set_limits(&mut self) {
        let pages = self.bytes().min(WHOLE_BYTES) / wide(PAGE);
        let few = FEW + pages / PAGES_A_LOOK_UP;
        let entries = (*self.next_entry.get_mut()).min(WHOLE_ENTRIES);
        self.few = u32::try_from(few).unwrap_or(u32::MAX);
        self.enough = u32::try_from(few + entries / ENTRIES_A_LOOK_UP + 1).unwrap_or(u32::MAX);
    }

    /// Takes files into memory once it pays.
    pub(super) fn warm(&self) {
        if self.looked_up.load(Ordering::Relaxed) > self.enough {
            return;
        }
        // Only the thread that counts to a limit does what is due there.
        let count = self.looked_up.fetch_add(1, Ordering::Relaxed);
        if count == self.enough && !self.is_paged() {
            self.make_positions();
        }
        if count != self.few {
            return;
        }
        if self.bytes() <= WHOLE_BYTES {
            for slot in self.slots.iter().filter(|slot| !slot.segment.is_whole()) {
                if let Err(broken) = slot.segment.load() {
                    self.heal(slot, &broken);
                }
            }
            return;
        }
        if self
            .slots
            .iter()
            .map(|slot| slot.segment.filter_bytes())
            .sum::<u64>()
            <= FILTER_BYTES
        {
            self.slots
                .iter()
                .for_each(|slot| slot.segment.load_filter());
        }
    }

    /// Makes a hash table of what is in memory as a whole: a look-up is three accesses to memory then.
    fn make_positions(&self) {
        let entries = self
            .slots
            .iter()
            .map(|slot| slot.segment.entries())
            .sum::<u64>();
        if entries >= WHOLE_ENTRIES || self.slots.iter().any(|slot| slot.healed.get().is_some()) {
            return;
        }
        let hash = |place: &u32| self.prefix_at(*place).map_or(0, u64::swap_bytes);
        let mut positions = HashTable::with_capacity(at(entries));
        for slot in &self.slots {
            for place in slot.first_entry..slot.first_entry + slot.segment.entries() {
                let place = u32::try_from(place).expect("fewer than 2^24");
                positions.insert_unique(hash(&place), place, hash);
            }
        }
        self.positions.get_or_init(|| positions);
    }

    fn prefix_at(&self, place: u32) -> Option<u64> {
        let slot = self.slot_of_entry(u64::from(place))?;
        let bytes = slot
            .segment
            .entry_bytes(u64::from(place) - slot.first_entry)?;
        Some(prefix(bytes))
    }

    /// By the hash table: `None` if there is none.
    pub(super) fn find_hashed(&self, id: &ChunkId) -> Option<Option<Hit<'_>>> {
        let positions = self.positions.get()?;
        let is_same = |place: &u32| {
            let place = u64::from(*place);
            self.slot_of_entry(place).is_some_and(|slot| {
                let bytes = slot.segment.entry_bytes(place - slot.first_entry);
                bytes.is_some_and(|bytes| bytes[..32] == id.as_bytes()[..])
            })
        };
        let hash = prefix(id.as_bytes()).swap_bytes();
        let Some(place) = positions.find(hash, is_same) else {
            return Some(None);
        };
        // One that is left out says nothing of other copies.
        self.entry_at(u64::from(*place), id).map(Some)
    }
}
