//! Pages of 4 KiB with a checksum each, in memory or in a file of the cache.
//!
//! Layout of a page: 4088 bytes of content, then XXH3-64 of them, seeded with the file's own seed plus the page's number, so that a page of
//! another file, or of another place in this one, is as wrong as a flipped bit.
//!
//! Invariants:
//! 1. Nothing is handed out of a page whose checksum is wrong ([`Broken`] instead) (`a_flipped_page_is_never_used`).
//! 2. A file is read with `pread`, never mapped: one that was cut short gives an error, not a signal, and what was read counts towards
//!    the memory of nobody but [`PageCache`].
//!
//! Threads: shared by any number; the lock of one place in the cache is held while its page is read or searched.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes of a page.
pub(super) const PAGE: usize = 4096;
/// Bytes of its content.
pub(super) const BODY: usize = PAGE - 8;
/// Pages that are kept of files that are too large to be loaded: 32 MiB.
const CACHED: usize = 8192;

/// A part of a cache file is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken(pub(super) String);

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

/// An index or a length that is known to fit.
pub(super) fn at(number: u64) -> usize {
    usize::try_from(number).expect("a place in memory")
}

/// The other way.
pub(super) fn wide(number: usize) -> u64 {
    u64::try_from(number).expect("a length fits 64 bits")
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("four bytes of a page"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("eight bytes of a page"))
}

/// The checksum of `bytes` that stand at `number`.
pub(super) fn check_of(seed: u64, number: u64, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, seed.wrapping_add(number))
}

/// Writes the checksum of a page.
pub(super) fn seal(seed: u64, number: u64, page: &mut [u8]) {
    let check = check_of(seed, number, &page[..BODY]);
    page[BODY..].copy_from_slice(&check.to_le_bytes());
}

fn is_good(seed: u64, number: u64, page: &[u8]) -> bool {
    check_of(seed, number, &page[..BODY]) == u64_at(page, BODY)
}

#[derive(Debug, Default)]
struct Place {
    /// File and page, plus one.
    key: u64,
    bytes: Vec<u8>,
}

/// Pages of all files of an index that were read last; each has one place that it can be in.
#[derive(Debug, Default)]
pub(super) struct PageCache {
    places: OnceLock<Box<[Mutex<Place>]>>,
}

impl PageCache {
    fn place(&self, key: u64) -> &Mutex<Place> {
        let places = self
            .places
            .get_or_init(|| (0..CACHED).map(|_| Mutex::default()).collect());
        let mixed = key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        &places[at(mixed) % CACHED]
    }
}

/// What is written to: a buffer or a file.
pub(super) trait Out {
    /// Writes at a place.
    fn write_at(&mut self, place: u64, bytes: &[u8]) -> io::Result<()>;
}

impl Out for Vec<u8> {
    fn write_at(&mut self, place: u64, bytes: &[u8]) -> io::Result<()> {
        let (start, end) = (at(place), at(place) + bytes.len());
        if self.len() < end {
            self.resize(end, 0);
        }
        self[start..end].copy_from_slice(bytes);
        Ok(())
    }
}

impl Out for File {
    fn write_at(&mut self, place: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, place)
    }
}

/// Collects small writes that stand one after the other.
#[derive(Debug)]
pub(super) struct Region {
    /// Where the next byte goes.
    pub(super) end: u64,
    buffer: Vec<u8>,
}

impl Region {
    const FLUSH: usize = 256 << 10;

    pub(super) fn new(start: u64) -> Self {
        Self {
            end: start,
            buffer: Vec::new(),
        }
    }

    pub(super) fn put(&mut self, out: &mut dyn Out, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        self.end += wide(bytes.len());
        match self.buffer.len() >= Self::FLUSH {
            true => self.flush(out),
            false => Ok(()),
        }
    }

    pub(super) fn flush(&mut self, out: &mut dyn Out) -> io::Result<()> {
        out.write_at(self.end - wide(self.buffer.len()), &self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

/// The pages of one file, or of a buffer.
#[derive(Debug)]
pub(super) struct Pages {
    pub(super) seed: u64,
    file: Option<File>,
    /// Tells its pages from those of other files in the cache.
    number: u64,
    cache: Arc<PageCache>,
    whole: OnceLock<Box<[u8]>>,
}

impl Pages {
    /// Bytes that were just made, in memory.
    pub(super) fn of_memory(seed: u64, bytes: Vec<u8>) -> Self {
        Self {
            seed,
            file: None,
            number: 0,
            cache: Arc::default(),
            whole: OnceLock::from(bytes.into_boxed_slice()),
        }
    }

    /// A file, whose pages are kept in `cache` among those of others.
    pub(super) fn of_file(seed: u64, file: File, cache: Arc<PageCache>) -> Self {
        static FILES: AtomicU64 = AtomicU64::new(0);
        Self {
            seed,
            file: Some(file),
            number: FILES.fetch_add(1, Ordering::Relaxed),
            cache,
            whole: OnceLock::new(),
        }
    }

    /// All bytes, if they are in memory.
    pub(super) fn whole(&self) -> Option<&[u8]> {
        self.whole.get().map(|bytes| &**bytes)
    }

    /// Takes the bytes of the file into memory; whoever does so has checked them.
    pub(super) fn keep(&self, bytes: Box<[u8]>) {
        // Another thread may have been faster, with the same bytes.
        self.whole.get_or_init(|| bytes);
    }

    /// Reads bytes without a checksum of their own page.
    pub(super) fn read(&self, place: u64, out: &mut [u8]) -> Result<(), Broken> {
        match (self.whole(), &self.file) {
            (Some(whole), _) => {
                let start = at(place);
                let from = whole
                    .get(start..start + out.len())
                    .ok_or_else(|| Broken("it is too short".into()))?;
                out.copy_from_slice(from);
                Ok(())
            }
            (None, Some(file)) => Ok(file.read_exact_at(out, place)?),
            (None, None) => Err(Broken("it has no bytes".into())),
        }
    }

    /// Reads a page into `out` and checks it.
    pub(super) fn read_page(&self, number: u64, out: &mut [u8]) -> Result<(), Broken> {
        self.read(number * wide(PAGE), out)?;
        self.check(number, out)
    }

    /// Checks the bytes of a page.
    pub(super) fn check(&self, number: u64, page: &[u8]) -> Result<(), Broken> {
        match is_good(self.seed, number, page) {
            true => Ok(()),
            false => Err(Broken(format!("page {number} has another checksum"))),
        }
    }

    /// Calls `f` with the content of a page. `f` must not read another page.
    pub(super) fn with<R>(&self, number: u64, f: impl FnOnce(&[u8]) -> R) -> Result<R, Broken> {
        if let Some(whole) = self.whole() {
            let start = at(number) * PAGE;
            let page = whole
                .get(start..start + BODY)
                .ok_or_else(|| Broken("it is too short".into()))?;
            return Ok(f(page));
        }
        let key = self.number.wrapping_shl(40).wrapping_add(number + 1);
        let mut place = lock(self.cache.place(key));
        if place.key != key {
            place.key = 0;
            place.bytes.resize(PAGE, 0);
            self.read_page(number, &mut place.bytes)?;
            place.key = key;
        }
        Ok(f(&place.bytes[..BODY]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_page_is_never_used() {
        let mut bytes = vec![7; 3 * PAGE];
        for number in 0..3u8 {
            let start = usize::from(number) * PAGE;
            bytes[start] = number;
            seal(99, u64::from(number), &mut bytes[start..start + PAGE]);
        }
        let open = |bytes: &[u8], seed| {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(bytes, 0).unwrap();
            Pages::of_file(seed, file, Arc::default())
        };
        let good = open(&bytes, 99);
        for number in [1u8, 2, 0, 1] {
            assert_eq!(good.with(u64::from(number), |page| page[0]), Ok(number));
        }
        assert!(good.with(3, |_| ()).is_err(), "beyond its end");
        assert!(open(&bytes, 98).with(1, |_| ()).is_err(), "of another file");
        for flip in [PAGE, PAGE + 100, 2 * PAGE - 1] {
            let mut flipped = bytes.clone();
            flipped[flip] ^= 16;
            let pages = open(&flipped, 99);
            assert!(pages.with(1, |_| ()).is_err());
            assert_eq!(pages.with(0, |page| page[0]), Ok(0));
        }
        let mut swapped = bytes[PAGE..].to_vec();
        swapped.extend_from_slice(&bytes[..PAGE]);
        assert!(open(&swapped, 99).with(0, |_| ()).is_err());
        assert!(open(&bytes[..2 * PAGE + 5], 99).with(2, |_| ()).is_err());
    }
}
