//! Entries in ascending order of their first eight bytes, spread over pages by them, with a filter in front.
//!
//! The first eight bytes of an id (the *prefix*, as a number whose order is that of the ids) are evenly spread, so they say which page an entry
//! stands in: `prefix * pages / 2^64`, its home. Nothing has to be read to find it. A home that overflows goes on in the next page.
//!
//! Layout of a page (content as in `pages`): number of entries (2), 1 if its home goes on in the next page (1), reserved (5), entries.
//! Pages are filled to five sixths on average, so that few overflow.
//!
//! Layout of the filter: blocks of 64 bytes: 480 bits, then the low half of XXH3-64 of these 60 bytes (4). Which block follows from the prefix
//! as the home does, so that blocks are written in order and only one is in memory; six bits of it from a mix of the prefix. There are 10 bits
//! for each entry: about one of a hundred absent prefixes is let through. A damaged block lets everything through.
//!
//! Invariants:
//! 1. What was pushed is found, however the prefixes are spread (`what_was_pushed_is_found`).
//! 2. The filter never hides an entry (`what_was_pushed_is_found`).
//! 3. Memory of a writer is a page, a block and two buffers of 256 KiB, whatever the number of entries; of a reader a page.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::sync::OnceLock;

use super::pages::{
    BODY, Broken, Out, PAGE, Pages, Region, at, check_of, seal, u32_at, u64_at, wide,
};

const HEAD: usize = 8;
const BLOCK: usize = 64;
const BLOCK_BITS: u64 = 480;
const BLOCK_KEYS: u64 = 48;
const BLOCK_CHECK: usize = BLOCK - 4;
/// Pages that a cursor reads at once.
const CURSOR_PAGES: u64 = 32;

/// The first eight bytes of an id or an entry, as a number in the order of the ids.
pub(super) fn prefix(bytes: &[u8]) -> u64 {
    u64_at(bytes, 0).swap_bytes()
}

/// Where `prefix` stands among `count` equal parts.
fn part(prefix: u64, count: u64) -> u64 {
    let scaled = u128::from(prefix) * u128::from(count);
    u64::try_from(scaled >> 64).expect("a part of a 64-bit count")
}

/// The part of the range within its home that lies before it, of 2^64.
fn rest(prefix: u64, count: u64) -> u64 {
    prefix.wrapping_mul(count)
}

fn slots(width: usize) -> usize {
    (BODY - HEAD) / width
}

/// Where the parts of a table stand in its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// Bytes of an entry.
    pub(super) width: usize,
    /// Entries.
    pub(super) entries: u64,
    /// Blocks of the filter.
    pub(super) blocks: u64,
    /// First page of the filter.
    pub(super) filter: u64,
    /// First page of the buckets.
    pub(super) first: u64,
    /// Pages that are somebody's home.
    pub(super) homes: u64,
    /// All pages of the buckets.
    pub(super) pages: u64,
}

impl Shape {
    /// For `entries` entries, from page `start` on; how many pages follow is known when all were written.
    pub(super) fn new(width: usize, entries: u64, start: u64) -> Self {
        let blocks = entries.div_ceil(BLOCK_KEYS).max(1);
        let fill = wide(slots(width)) * 5 / 6;
        Self {
            width,
            entries,
            blocks,
            filter: start,
            first: start + (blocks * wide(BLOCK)).div_ceil(wide(PAGE)),
            homes: entries.div_ceil(fill).max(1),
            pages: 0,
        }
    }

    /// The page behind the last one.
    pub(super) fn end(&self) -> u64 {
        self.first + self.pages
    }

    /// Bytes of the filter.
    pub(super) fn filter_bytes(&self) -> u64 {
        self.blocks * wide(BLOCK)
    }
}

fn bits(prefix: u64) -> impl Iterator<Item = usize> {
    let mut mixed = prefix;
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    mixed ^= mixed >> 33;
    (0..6).map(move |nth| at((((mixed >> (10 * nth)) & 1023) * BLOCK_BITS) >> 10))
}

fn block_check(seed: u64, number: u64, block: &[u8]) -> u32 {
    let check = check_of(seed, !number, &block[..BLOCK_CHECK]);
    u32::try_from(check & 0xFFFF_FFFF).expect("32 bits")
}

/// Writes a table; entries come in ascending order of their prefixes.
#[derive(Debug)]
pub(super) struct TableWriter {
    shape: Shape,
    seed: u64,
    /// Entries of the page that is being filled, and what overflows it.
    pending: Vec<u8>,
    page: u64,
    pages: Region,
    block: [u8; BLOCK],
    block_number: u64,
    filter: Region,
}

impl TableWriter {
    pub(super) fn new(shape: Shape, seed: u64) -> Self {
        Self {
            shape,
            seed,
            pending: Vec::new(),
            page: 0,
            pages: Region::new(shape.first * wide(PAGE)),
            block: [0; BLOCK],
            block_number: 0,
            filter: Region::new(shape.filter * wide(PAGE)),
        }
    }

    pub(super) fn push(&mut self, out: &mut dyn Out, entry: &[u8]) -> io::Result<()> {
        debug_assert_eq!(entry.len(), self.shape.width);
        let prefix = prefix(entry);
        let home = part(prefix, self.shape.homes);
        while self.page < home {
            self.end_page(out)?;
        }
        self.pending.extend_from_slice(entry);
        let block = part(prefix, self.shape.blocks);
        while self.block_number < block {
            self.end_block(out)?;
        }
        for bit in bits(prefix) {
            self.block[bit / 8] |= 1 << (bit % 8);
        }
        Ok(())
    }

    fn end_block(&mut self, out: &mut dyn Out) -> io::Result<()> {
        let check = block_check(self.seed, self.block_number, &self.block);
        self.block[BLOCK_CHECK..].copy_from_slice(&check.to_le_bytes());
        self.filter.put(out, &self.block)?;
        self.block = [0; BLOCK];
        self.block_number += 1;
        Ok(())
    }

    fn end_page(&mut self, out: &mut dyn Out) -> io::Result<()> {
        let width = self.shape.width;
        let count = (self.pending.len() / width).min(slots(width));
        let taken = count * width;
        let mut page = [0; PAGE];
        let short = u16::try_from(count).expect("a page has few entries");
        page[..2].copy_from_slice(&short.to_le_bytes());
        page[2] = u8::from(taken < self.pending.len());
        page[HEAD..HEAD + taken].copy_from_slice(&self.pending[..taken]);
        seal(self.seed, self.shape.first + self.page, &mut page);
        self.pages.put(out, &page)?;
        self.pending.drain(..taken);
        self.page += 1;
        Ok(())
    }

    /// Writes what is left and says where everything is.
    pub(super) fn finish(mut self, out: &mut dyn Out) -> io::Result<Shape> {
        while self.page < self.shape.homes || !self.pending.is_empty() {
            self.end_page(out)?;
        }
        while self.block_number < self.shape.blocks {
            self.end_block(out)?;
        }
        let padding = vec![0; PAGE - at(self.filter.end % wide(PAGE))];
        if padding.len() < PAGE {
            self.filter.put(out, &padding)?;
        }
        self.filter.flush(out)?;
        self.pages.flush(out)?;
        self.shape.pages = self.page;
        Ok(self.shape)
    }
}

/// Reads a table.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) shape: Shape,
    filter: OnceLock<Box<[u8]>>,
}

/// What a page says of a prefix.
fn search(page: &[u8], width: usize, wanted: u64, homes: u64, each: &mut dyn FnMut(&[u8])) -> bool {
    let count = usize::from(u16::from_le_bytes([page[0], page[1]])).min(slots(width));
    let goes_on = page[2] != 0;
    if count == 0 {
        return false;
    }
    let key = |slot: usize| prefix(&page[HEAD + slot * width..]);
    // The prefixes are evenly spread within their page too.
    let guess = part(rest(wanted, homes), wide(count));
    let mut slot = at(guess);
    while slot > 0 && key(slot - 1) >= wanted {
        slot -= 1;
    }
    while slot < count && key(slot) < wanted {
        slot += 1;
    }
    while slot < count && key(slot) == wanted {
        let start = HEAD + slot * width;
        each(&page[start..start + width]);
        slot += 1;
    }
    slot == count && goes_on
}

impl Table {
    pub(super) fn new(shape: Shape) -> Self {
        Self {
            shape,
            filter: OnceLock::new(),
        }
    }

    /// Gives each entry with this prefix to `each`, which must not read a page.
    pub(super) fn find(
        &self,
        pages: &Pages,
        wanted: u64,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), Broken> {
        let Shape {
            width,
            first,
            homes,
            pages: count,
            ..
        } = self.shape;
        let mut page = part(wanted, homes);
        while page < count {
            let goes_on = pages.with(first + page, |bytes| {
                search(bytes, width, wanted, homes, &mut each)
            })?;
            if !goes_on {
                return Ok(());
            }
            page += 1;
        }
        Ok(())
    }

    /// Lets the processor fetch where the prefix is likely to stand while the filter is looked at.
    fn touch(&self, whole: &[u8], wanted: u64) {
        let homes = self.shape.homes;
        let page = at(self.shape.first + part(wanted, homes)) * PAGE;
        let fill = self.shape.entries / homes;
        let slot = at(part(rest(wanted, homes), fill));
        std::hint::black_box(whole.get(page).copied());
        std::hint::black_box(whole.get(page + HEAD + slot * self.shape.width).copied());
    }

    /// Whether the prefix may be there. A part of the filter that can't be read hides nothing.
    pub(super) fn may_have(&self, pages: &Pages, wanted: u64) -> bool {
        let number = part(wanted, self.shape.blocks);
        let start = at(number) * BLOCK;
        let has = |block: &[u8]| bits(wanted).all(|bit| block[bit / 8] & (1 << (bit % 8)) != 0);
        if let Some(filter) = self.filter.get() {
            return has(&filter[start..start + BLOCK]);
        }
        let place = self.shape.filter * wide(PAGE) + wide(start);
        if let Some(whole) = pages.whole() {
            self.touch(whole, wanted);
            let start = at(place);
            return whole.get(start..start + BLOCK).is_none_or(has);
        }
        let mut block = [0; BLOCK];
        match pages.read(place, &mut block) {
            Ok(()) => {
                let check = u32_at(&block, BLOCK_CHECK);
                check != block_check(pages.seed, number, &block) || has(&block)
            }
            Err(_) => true,
        }
    }

    /// Takes the filter into memory.
    pub(super) fn keep_filter(&self, pages: &Pages) {
        let mut filter = vec![0; at(self.shape.filter_bytes())].into_boxed_slice();
        let place = self.shape.filter * wide(PAGE);
        if pages.whole().is_some() || pages.read(place, &mut filter).is_err() {
            return;
        }
        self.mend(pages.seed, &mut filter);
        self.filter.get_or_init(|| filter);
    }

    /// Lets damaged blocks let everything through.
    pub(super) fn mend(&self, seed: u64, filter: &mut [u8]) {
        for (number, block) in (0u64..).zip(filter.chunks_exact_mut(BLOCK)) {
            if number < self.shape.blocks
                && u32_at(block, BLOCK_CHECK) != block_check(seed, number, block)
            {
                block.fill(0xFF);
            }
        }
    }
}

/// Reads all entries of a table in their order.
#[derive(Debug)]
pub(super) struct Cursor<'p> {
    pages: &'p Pages,
    shape: Shape,
    next: u64,
    buffer: Vec<u8>,
    /// Page in the buffer, and entry in it.
    place: (usize, usize),
}

impl<'p> Cursor<'p> {
    pub(super) fn new(pages: &'p Pages, shape: Shape) -> Self {
        Self {
            pages,
            shape,
            next: 0,
            buffer: Vec::new(),
            place: (0, 0),
        }
    }

    /// The next entry.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, Broken> {
        let width = self.shape.width;
        loop {
            let (page, entry) = self.place;
            let Some(bytes) = self.buffer.chunks_exact(PAGE).nth(page) else {
                if !self.fill()? {
                    return Ok(None);
                }
                continue;
            };
            let count = usize::from(u16::from_le_bytes([bytes[0], bytes[1]])).min(slots(width));
            if entry >= count {
                self.place = (page + 1, 0);
                continue;
            }
            self.place.1 += 1;
            let start = page * PAGE + HEAD + entry * width;
            return Ok(Some(&self.buffer[start..start + width]));
        }
    }

    fn fill(&mut self) -> Result<bool, Broken> {
        let count = CURSOR_PAGES.min(self.shape.pages - self.next);
        let first = self.shape.first + self.next;
        self.buffer.resize(at(count) * PAGE, 0);
        self.pages.read(first * wide(PAGE), &mut self.buffer)?;
        for (number, page) in (first..).zip(self.buffer.chunks_exact(PAGE)) {
            self.pages.check(number, page)?;
        }
        self.next += count;
        self.place = (0, 0);
        Ok(count > 0)
    }
}

/// Gives the entries of several tables to `each`, in the order of their prefixes, with the position of their table.
pub(super) fn merge<E: From<Broken>>(
    mut cursors: Vec<Cursor<'_>>,
    mut each: impl FnMut(usize, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut heads: Vec<[u8; 32]> = vec![[0; 32]; cursors.len()];
    let mut heap = BinaryHeap::with_capacity(cursors.len());
    for (which, cursor) in cursors.iter_mut().enumerate() {
        if let Some(entry) = cursor.next()? {
            heads[which][..entry.len()].copy_from_slice(entry);
            heap.push(Reverse((prefix(entry), which)));
        }
    }
    while let Some(mut top) = heap.peek_mut() {
        let which = top.0.1;
        let width = cursors[which].shape.width;
        each(which, &heads[which][..width])?;
        match cursors[which].next()? {
            Some(entry) => {
                heads[which][..width].copy_from_slice(entry);
                top.0.0 = prefix(entry);
            }
            None => drop(std::collections::binary_heap::PeekMut::pop(top)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(width: usize, prefixes: &[u64], seed: u64) -> (Pages, Table) {
        let mut sorted = prefixes.to_vec();
        sorted.sort_unstable();
        let shape = Shape::new(width, wide(sorted.len()), 1);
        let mut writer = TableWriter::new(shape, seed);
        let mut out: Vec<u8> = Vec::new();
        for (number, prefix) in sorted.iter().enumerate() {
            let mut entry = vec![0; width];
            entry[..8].copy_from_slice(&prefix.swap_bytes().to_le_bytes());
            entry[8] = u8::try_from(number % 251).unwrap();
            writer.push(&mut out, &entry).unwrap();
        }
        let shape = writer.finish(&mut out).unwrap();
        assert_eq!(wide(out.len()), shape.end() * wide(PAGE));
        (Pages::of_memory(seed, out), Table::new(shape))
    }

    fn check(width: usize, prefixes: &[u64]) {
        let (pages, table) = table(width, prefixes, 5);
        for wanted in prefixes {
            let expected = prefixes.iter().filter(|other| *other == wanted).count();
            let mut found = 0;
            let each = |entry: &[u8]| {
                assert_eq!(prefix(entry), *wanted);
                found += 1;
            };
            table.find(&pages, *wanted, each).unwrap();
            assert_eq!(found, expected);
            assert!(table.may_have(&pages, *wanted));
        }
        for absent in [
            0,
            1,
            u64::MAX,
            1 << 40,
            prefixes.first().map_or(7, |p| p ^ 1),
        ] {
            let mut found = 0;
            table.find(&pages, absent, |_| found += 1).unwrap();
            assert_eq!(found, prefixes.iter().filter(|p| **p == absent).count());
        }
        let mut cursor = Cursor::new(&pages, table.shape);
        let mut all = Vec::new();
        while let Some(entry) = cursor.next().unwrap() {
            all.push(prefix(entry));
        }
        let mut sorted = prefixes.to_vec();
        sorted.sort_unstable();
        assert_eq!(all, sorted);
    }

    proptest! {
        #[test]
        fn what_was_pushed_is_found(
            width in prop_oneof![Just(13usize), Just(32)],
            seeds in proptest::collection::vec(any::<u64>(), 0..400),
            // How many of the upper bits are the same: prefixes crowd in one home.
            crowd in 0u32..60,
            repeat in 1usize..4,
        ) {
            let mut prefixes: Vec<u64> = seeds.iter().map(|seed| seed >> crowd).collect();
            for _ in 1..repeat {
                prefixes.extend_from_within(..prefixes.len().min(300));
            }
            check(width, &prefixes);
        }
    }

    #[test]
    fn the_filter_lets_few_through() {
        let random = |n: u64| u64_at(blake3::hash(&n.to_le_bytes()).as_bytes(), 0);
        let prefixes: Vec<u64> = (0..50_000).map(random).collect();
        let (pages, table) = table(13, &prefixes, 3);
        let through = (50_000..150_000)
            .filter(|n| table.may_have(&pages, random(*n)))
            .count();
        assert!((300..2000).contains(&through), "{through} of 100000");
    }
}
