//! Padmé: how much an object is padded so that its size says little.
//!
//! The padded length of `len` keeps as many leading bits as `len` has bits in its bit count (Nikitin et al., "Reducing Metadata Leakage
//! from Encrypted Files and Communication with PURBs", 2019): only O(log log len) bits about the size leak, and the overhead is at most
//! 12 %, and falls with the size. It pads lengths only; whoever uses it appends the zeros.
//!
//! Invariants:
//! 1. The result is at least `len` and at most 12 % larger (`padding_is_small`).
//! 2. Padding a padded length changes nothing (`padding_is_idempotent`).

/// Returns the padded length of something `len` bytes long; `len` itself below 2 and where the padded length exceeds `u64`.
pub fn padme(len: u64) -> u64 {
    let Some(exponent) = len.checked_ilog2() else {
        return len;
    };
    let Some(mantissa_bits) = exponent.checked_ilog2() else {
        return len;
    };
    let zero_bits = exponent.saturating_sub(mantissa_bits.saturating_add(1));
    let mask = (1u64 << zero_bits).wrapping_sub(1);
    match len.checked_add(mask) {
        Some(sum) => sum & !mask,
        None => len,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: u64, expected: u64) {
        assert_eq!(padme(input), expected, "padme({input})");
    }

    #[test]
    fn known_lengths() {
        check(0, 0);
        check(1, 1);
        check(2, 2);
        check(7, 7);
        check(8, 8);
        check(9, 10);
        check(15, 16);
        check(100, 104);
        check(1000, 1024);
        check(1 << 20, 1 << 20);
        check((1 << 20) + 1, (1 << 20) + (1 << 15));
        check(32 << 20, 32 << 20);
        check((32 << 20) + 1, (32 << 20) + (1 << 20));
        check(u64::MAX, u64::MAX);
    }

    #[test]
    fn padding_is_small() {
        for len in (1..200_000)
            .chain((1..60).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit, (1 << bit) + 1]))
        {
            let padded = padme(len);
            assert!(padded >= len);
            assert!(
                u128::from(padded - len) * 100 <= u128::from(len) * 12,
                "{len} -> {padded}"
            );
        }
    }

    #[test]
    fn padding_is_idempotent() {
        for len in 0..200_000 {
            assert_eq!(padme(padme(len)), padme(len));
        }
    }
}
