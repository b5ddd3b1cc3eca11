//! Stage 1 at 16 positions at a time, as the AVX2 form does it with 32: four vectors of four 32-bit hashes each hold the positions that
//! are 0, 1, 2 and 3 modulo 4, so that every factor is one unaligned load; positions that pass go through stage 2 in order.
#![allow(
    unsafe_code,
    reason = "vector loads take raw pointers, and a target feature must be promised to the compiler; both are argued for below"
)]

use std::arch::aarch64::{
    uint32x4_t, vandq_u32, vcleq_u32, vdupq_n_u32, vget_lane_u64, vld1q_u8, vmaxvq_u32, vmlaq_u32,
    vorrq_u32, vreinterpret_u64_u8, vreinterpretq_u16_u32, vreinterpretq_u32_u8, vshrn_n_u16,
};
use std::ops::Range;

use super::{STAGE1_BYTES, WindowHash, scalar};

/// Positions per step.
const BLOCK: usize = 16;

/// See [`Kernel::find`](super::Kernel::find), which has checked the range. Only a kernel that detection has made leads here.
pub(super) fn find(
    hash: &WindowHash,
    data: &[u8],
    range: Range<usize>,
    threshold: u64,
) -> Option<usize> {
    debug_assert!(std::arch::is_aarch64_feature_detected!("neon"));
    // SAFETY: `Kernel::detect` is the only maker of the form that leads here, and it has seen that the CPU has NEON.
    unsafe { find_blocks(hash, data, range, threshold) }
}

#[target_feature(enable = "neon")]
fn find_blocks(
    hash: &WindowHash,
    data: &[u8],
    range: Range<usize>,
    threshold: u64,
) -> Option<usize> {
    let splat = |value: u32| vdupq_n_u32(value);
    let multipliers = hash.multipliers.map(splat);
    let (addend, max) = (splat(hash.addend), splat(hash.stage1_max));
    let mut start = range.start;
    while range.end - start >= BLOCK {
        // The loads touch offset −16 to offset +15 (exclusive) around `start`.
        let near = &data[start - STAGE1_BYTES..start + BLOCK - 1];
        let passed = [0, 1, 2, 3].map(|residue| {
            let mut sum = addend;
            for (j, multiplier) in multipliers.iter().enumerate() {
                let offset = STAGE1_BYTES + residue - 4 * (j + 1);
                // SAFETY: `offset` is at most 15, a vector has 16 bytes, and `near` has 31; the load needs no alignment.
                let bytes = unsafe { vld1q_u8(near.as_ptr().add(offset)) };
                sum = vmlaq_u32(sum, vreinterpretq_u32_u8(bytes), *multiplier);
            }
            vcleq_u32(sum, max)
        });
        let low = vorrq_u32(passed[0], passed[1]);
        let high = vorrq_u32(passed[2], passed[3]);
        if vmaxvq_u32(vorrq_u32(low, high)) != 0 {
            let mut mask = position_mask(passed);
            while mask != 0 {
                let position = start + (mask.trailing_zeros() / 4) as usize;
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

/// Returns one bit in four for each position that passed, in order: byte `i` of lane `j` is position `4j + i`.
#[target_feature(enable = "neon")]
fn position_mask(passed: [uint32x4_t; 4]) -> u64 {
    let byte = |lanes: uint32x4_t, byte: u32| vandq_u32(lanes, vdupq_n_u32(0xff << (8 * byte)));
    let [a, b, c, d] = passed;
    let low = vorrq_u32(byte(a, 0), byte(b, 1));
    let bytes = vorrq_u32(low, vorrq_u32(byte(c, 2), byte(d, 3)));
    // Sixteen bytes that are 0 or 0xff become sixteen groups of four equal bits.
    let nibbles = vshrn_n_u16::<4>(vreinterpretq_u16_u32(bytes));
    vget_lane_u64::<0>(vreinterpret_u64_u8(nibbles)) & 0x1111_1111_1111_1111
}
