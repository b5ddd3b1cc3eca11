//! Stage 1 at 32 positions at a time. Four vectors of eight 32-bit hashes each hold the positions that are 0, 1, 2 and 3 modulo 4,
//! so that every factor is one unaligned load; positions that pass go through stage 2 in order.
#![allow(
    unsafe_code,
    reason = "vector loads take raw pointers, and a target feature must be promised to the compiler; both are argued for below"
)]

use std::arch::x86_64::{
    __m256i, _mm256_add_epi32, _mm256_and_si256, _mm256_cmpeq_epi32, _mm256_loadu_si256,
    _mm256_min_epu32, _mm256_movemask_epi8, _mm256_mullo_epi32, _mm256_or_si256, _mm256_set1_epi32,
    _mm256_testz_si256,
};
use std::ops::Range;

use super::{STAGE1_BYTES, WindowHash, scalar};

/// Positions per step.
const BLOCK: usize = 32;

/// See [`Kernel::find`](super::Kernel::find), which has checked the range. Only a kernel that detection has made leads here.
pub(super) fn find(
    hash: &WindowHash,
    data: &[u8],
    range: Range<usize>,
    threshold: u64,
) -> Option<usize> {
    debug_assert!(std::arch::is_x86_feature_detected!("avx2"));
    // SAFETY: `Kernel::detect` is the only maker of the form that leads here, and it has seen that the CPU has AVX2.
    unsafe { find_blocks(hash, data, range, threshold) }
}

#[target_feature(enable = "avx2")]
fn find_blocks(
    hash: &WindowHash,
    data: &[u8],
    range: Range<usize>,
    threshold: u64,
) -> Option<usize> {
    let splat = |value: u32| _mm256_set1_epi32(value.cast_signed());
    let multipliers = hash.multipliers.map(splat);
    let (addend, max) = (splat(hash.addend), splat(hash.stage1_max));
    let mut start = range.start;
    while range.end - start >= BLOCK {
        // The loads touch offset −16 to offset +31 (exclusive) around `start`.
        let near = &data[start - STAGE1_BYTES..start + BLOCK - 1];
        let passed = [0, 1, 2, 3].map(|residue| {
            let mut sum = addend;
            for (j, multiplier) in multipliers.iter().enumerate() {
                let offset = STAGE1_BYTES + residue - 4 * (j + 1);
                // SAFETY: `offset` is at most 15, a vector has 32 bytes, and `near` has 47.
                let bytes = unsafe { near.as_ptr().add(offset).cast::<__m256i>() };
                // SAFETY: as above; the load needs no alignment.
                let words = unsafe { _mm256_loadu_si256(bytes) };
                sum = _mm256_add_epi32(sum, _mm256_mullo_epi32(words, *multiplier));
            }
            _mm256_cmpeq_epi32(_mm256_min_epu32(sum, max), sum)
        });
        let any = _mm256_or_si256(
            _mm256_or_si256(passed[0], passed[1]),
            _mm256_or_si256(passed[2], passed[3]),
        );
        if _mm256_testz_si256(any, any) == 0 {
            let mut mask = position_mask(passed);
            while mask != 0 {
                let position = start + mask.trailing_zeros() as usize;
                if hash.passes_stage2(data, position, threshold) {
                    return Some(position);
                }
                mask &= mask - 1;
            }
        }
        start += BLOCK;
    }
    scalar::find(hash, data, start..range.end, threshold)
}

/// Returns one bit for each position that passed, in order: byte `i` of lane `j` is position `4j + i`.
#[target_feature(enable = "avx2")]
fn position_mask(passed: [__m256i; 4]) -> u32 {
    let byte = |lanes: __m256i, byte: u32| {
        _mm256_and_si256(
            lanes,
            _mm256_set1_epi32((0xff_u32 << (8 * byte)).cast_signed()),
        )
    };
    let [a, b, c, d] = passed;
    let low = _mm256_or_si256(byte(a, 0), byte(b, 1));
    let high = _mm256_or_si256(byte(c, 2), byte(d, 3));
    _mm256_movemask_epi8(_mm256_or_si256(low, high)).cast_unsigned()
}
