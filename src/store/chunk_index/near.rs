//! What stands beside what was found last: a backup meets chunks in the order in which an earlier one stored them.
//!
//! When a chunk is found by way of the buckets, the page of the directory that it stands in is read, and the prefixes of all 85 entries are
//! noted here with their positions. The next chunks of the same stream are then found without buckets and filters, in a page that is in
//! memory already; in the last quarter of a page the next one is noted. A note may be stale or of another id: it is compared
//! with the entry itself before it counts, so there is nothing to lock and nothing to take out.
//!
//! Before the notes each thread asks for what stands right behind its last find: a stream that did not change needs nothing else.
//!
//! Memory: 2 MiB, once an index is used that is too large to be in memory as a whole.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::pages::at;
use super::segment::PAGE_ENTRIES;

const NOTES: usize = 1 << 18;
const PLACE_BITS: u32 = 40;
/// Pages that were noted ahead and need not be so again.
const AHEAD: usize = 32;

thread_local! {
    /// The index that the thread's last find was in, and the position behind it.
    static NEXT: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

#[derive(Debug)]
pub(super) struct Near {
    /// Tells this index from others.
    number: u64,
    notes: OnceLock<Box<[AtomicU64]>>,
    ahead: [AtomicU64; AHEAD],
}

fn slot(prefix: u64) -> usize {
    at(prefix % (1 << 18))
}

impl Default for Near {
    fn default() -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            notes: OnceLock::new(),
            ahead: Default::default(),
        }
    }
}

impl Near {
    /// The position behind the one where this thread found something last.
    pub(super) fn next(&self) -> Option<u64> {
        let (number, place) = NEXT.get();
        (number == self.number).then_some(place)
    }

    /// Something was found at a position.
    pub(super) fn found(&self, place: u64) {
        NEXT.set((self.number, place + 1));
    }

    /// The position that was noted for a prefix.
    pub(super) fn find(&self, prefix: u64) -> Option<u64> {
        let note = self.notes.get()?[slot(prefix)].load(Ordering::Relaxed);
        let tag = prefix >> PLACE_BITS << PLACE_BITS;
        let place = (note ^ tag).checked_sub(1)?;
        (place >> PLACE_BITS == 0).then_some(place)
    }

    /// Notes the prefixes that stand from position `first` on.
    pub(super) fn note(&self, first: u64, prefixes: &[u64]) {
        let notes = self
            .notes
            .get_or_init(|| (0..NOTES).map(|_| AtomicU64::new(0)).collect());
        for (place, prefix) in (first + 1..).zip(prefixes) {
            let tag = prefix >> PLACE_BITS << PLACE_BITS;
            notes[slot(*prefix)].store(tag | place, Ordering::Relaxed);
        }
    }

    /// Whether the page behind that of a position is to be noted now.
    pub(super) fn is_due(&self, place_in_segment: u64, page: u64) -> bool {
        if place_in_segment % PAGE_ENTRIES < PAGE_ENTRIES * 3 / 4 {
            return false;
        }
        let last = &self.ahead[at(page / PAGE_ENTRIES) % AHEAD];
        last.swap(page, Ordering::Relaxed) != page
    }
}
