//! Finds the content-defined borders of chunks in a stream of bytes. Pure: no I/O, no clock, no threads, no environment (which kernel the
//! process uses is told once, see [`Kernel::choose`]).
//! It does not hash, store or compress chunks, and it does not know what the bytes mean; the only structure it can respect is
//! the row end of table streams ([`Chunker::cut_at_row_end`], [`RowCutter`]).
//!
//! # Where a chunk ends
//!
//! A *position* `e` of a chunk is the border after its first `e` bytes. With the words of [`ChunkerParams`]:
//!
//! 1. Stage 1, over the last 16 bytes, cheap and position-parallel: `h(e) = C + Σ_{j<4} load_le32(e − 4(j+1)) · K_j mod 2^32`.
//!    The position passes if `h(e) < stage1_threshold`.
//! 2. Stage 2, over the last 32 bytes, a real pseudo-random function: SipHash-1-3 of them is below `t_strict` before the normal
//!    point and below `t_loose` from there on. A position that passes both is a *candidate*.
//! 3. The chunk ends at its first candidate in `min_bytes ..= max_bytes − 1`, else at `max_bytes`, else where the stream ends.
//!
//! `K`, `C` and the SipHash key are drawn from a [`ChunkerKey`] (see its docs), so that someone who sees chunk sizes but not the key
//! can't tell which known file they belong to. Stage 1 alone is linear and could be solved for; stage 2 can't. Neither replaces
//! hiding the borders, which grouping chunks in sealed frames does.
//!
//! Since `min_bytes` is at least [`WINDOW_BYTES`], the 32 bytes before every position that is asked about lie in the chunk itself:
//! nothing before the start of the chunk, or of the stream, has a say.
//!
//! # Invariants
//!
//! 1. Whether `e` is a candidate depends on the 32 bytes before it, the key and the parameters, on nothing else; every kernel gives the
//!    same answer (`kernels_agree`).
//! 2. Borders depend on the bytes of the stream, not on how they arrive (`cuts_do_not_depend_on_segmentation`,
//!    `rows::tests::batches_do_not_depend_on_how_rows_arrive`).
//! 3. Every chunk but the last of a stream is of `min_bytes ..= max_bytes` (`sizes_are_within_bounds_and_add_up`).
//! 4. A change moves only the borders near it (`borders_come_back_after_an_insertion`).
//! 5. No run of one repeated byte is a candidate, so zeros are cut at the maximum, at full speed (`constant_runs_are_cut_at_the_maximum`).
//! 6. The borders of a given key and data never change, else nothing deduplicates against what is stored (`borders_are_pinned`).
//!
//! # Threads
//!
//! A [`Chunker`] is immutable and cheap to clone; any number of threads may use one.

mod kernel;
mod key;
mod params;
mod rows;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

pub use kernel::{Kernel, NoKernel};
pub use key::{ChunkerDomain, ChunkerKey};
pub use params::{ChunkerParams, ParamsError, WINDOW_BYTES};
pub use rows::{RowBatch, RowCutter};

use kernel::WindowHash;

/// Cuts streams into chunks; see the module docs for where.
#[derive(Clone)]
pub struct Chunker {
    inner: Arc<Inner>,
}

struct Inner {
    params: ChunkerParams,
    min: usize,
    normal: usize,
    max: usize,
    hash: WindowHash,
    kernel: Kernel,
}

impl fmt::Debug for Chunker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunker")
            .field("params", &self.inner.params)
            .field("kernel", &self.inner.kernel)
            .finish_non_exhaustive()
    }
}

impl Chunker {
    /// Makes a chunker with the kernel that was chosen, else with the fastest one of this CPU. The parameters may come from a stored object: they are checked.
    pub fn new(key: &ChunkerKey, params: ChunkerParams) -> Result<Self, ParamsError> {
        Self::with_kernel(key, params, Kernel::chosen())
    }

    /// Makes a chunker that uses the given kernel. All of them cut alike; this is for tests, measurements and for working around a
    /// faulty machine.
    pub fn with_kernel(
        key: &ChunkerKey,
        params: ChunkerParams,
        kernel: Kernel,
    ) -> Result<Self, ParamsError> {
        params.check()?;
        let inner = Inner {
            min: params.min_bytes as usize,
            normal: params.normal_bytes() as usize,
            max: params.max_bytes as usize,
            hash: key.draw(&params)?,
            params,
            kernel,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Returns the parameters that it was made with.
    #[must_use]
    pub fn params(&self) -> &ChunkerParams {
        &self.inner.params
    }

    /// Returns the kernel that it uses.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.inner.kernel
    }

    /// Returns the length of the largest chunk.
    #[must_use]
    pub fn max_bytes(&self) -> usize {
        self.inner.max
    }

    /// Returns the length of the first chunk of `data`, or `None` where that can't be told yet: it takes `max_bytes` of data, or
    /// `at_end`, which says that the stream ends with `data`. Empty data holds no chunk.
    #[must_use]
    pub fn cut(&self, data: &[u8], at_end: bool) -> Option<usize> {
        let window = self.decidable(data, at_end)?;
        Some(self.first_candidate(window).unwrap_or(window.len()))
    }

    /// Like [`Chunker::cut`], for streams of rows that end with `\n`: the chunk ends at the first row end at or after the first
    /// candidate. Where that would pass the maximum, or no candidate is found before it, the last row end that is allowed is taken;
    /// only a row that reaches from `min_bytes` to `max_bytes` is cut inside, at the maximum.
    #[must_use]
    pub fn cut_at_row_end(&self, data: &[u8], at_end: bool) -> Option<usize> {
        let window = self.decidable(data, at_end)?;
        let Inner { min, max, .. } = *self.inner;
        let after_candidate = self.first_candidate(window).and_then(|candidate| {
            let tail = &window[candidate - 1..];
            let newline = tail.iter().position(|&byte| byte == b'\n')?;
            Some(candidate + newline)
        });
        let length = after_candidate.unwrap_or_else(|| {
            if window.len() < max {
                return window.len();
            }
            let last = last_row_end(&window[min - 1..]);
            last.map_or(max, |newline| min + newline)
        });
        Some(length)
    }

    /// Appends to `lengths` the lengths of all chunks of `data` that [`Chunker::cut`] can tell, and returns their sum. With `at_end`
    /// that is all of `data`.
    pub fn cut_all(&self, data: &[u8], at_end: bool, lengths: &mut Vec<usize>) -> usize {
        let mut consumed = 0;
        while let Some(length) = self.cut(&data[consumed..], at_end) {
            lengths.push(length);
            consumed += length;
        }
        consumed
    }

    /// Returns the chunks of a whole stream that lies in memory.
    pub fn chunks<'a>(&'a self, mut data: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + 'a {
        std::iter::from_fn(move || {
            let (chunk, rest) = data.split_at(self.cut(data, true)?);
            data = rest;
            Some(chunk)
        })
    }

    /// Returns what the first chunk is chosen from, or `None` if that is not all there yet.
    fn decidable<'a>(&self, data: &'a [u8], at_end: bool) -> Option<&'a [u8]> {
        if data.is_empty() || (data.len() < self.inner.max && !at_end) {
            return None;
        }
        Some(&data[..data.len().min(self.inner.max)])
    }

    /// Returns the first candidate after the minimum and before the end of `window`.
    fn first_candidate(&self, window: &[u8]) -> Option<usize> {
        let Inner {
            params,
            min,
            normal,
            hash,
            kernel,
            ..
        } = &*self.inner;
        let (end, normal) = (window.len(), (*normal).min(window.len()));
        kernel
            .find(hash, window, *min..normal, params.t_strict)
            .or_else(|| kernel.find(hash, window, normal..end, params.t_loose))
    }
}

/// Returns the position of the last `\n`. Rows may be long: blocks are looked through several bytes at a time, from the end.
fn last_row_end(bytes: &[u8]) -> Option<usize> {
    const BLOCK_BYTES: usize = 256;
    let mut end = bytes.len();
    bytes.rchunks(BLOCK_BYTES).find_map(|block| {
        end -= block.len();
        if !block.contains(&b'\n') {
            return None;
        }
        let place = block.iter().rposition(|&byte| byte == b'\n')?;
        Some(end + place)
    })
}
