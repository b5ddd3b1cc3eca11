//! One position after another, in plain code: the definition that every other kernel is tested against.

use std::ops::Range;

use super::{STAGE1_BYTES, WindowHash};

/// How many positions are tested between two branches; compilers turn the inner loop into what vectors the target has.
const BLOCK: usize = 16;

/// See [`Kernel::find`](super::Kernel::find).
pub(super) fn find(
    hash: &WindowHash,
    data: &[u8],
    range: Range<usize>,
    threshold: u64,
) -> Option<usize> {
    let mut start = range.start;
    while start < range.end {
        let end = range.end.min(start + BLOCK);
        let windows = || data[start - STAGE1_BYTES..end - 1].windows(STAGE1_BYTES);
        let passes = |before: &[u8]| {
            hash.passes_stage1(before.try_into().expect("a window is as long as asked for"))
        };
        if windows().fold(false, |any, before| any | passes(before)) {
            let first = windows()
                .zip(start..)
                .find(|(before, at)| passes(before) && hash.passes_stage2(data, *at, threshold));
            if let Some((_, at)) = first {
                return Some(at);
            }
        }
        start = end;
    }
    None
}
