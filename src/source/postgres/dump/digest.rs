//! Digests of rows: equal for equal rows in any order, additive over the parts of a table.

use std::fmt;
use std::ops::AddAssign;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_128_with_secret;

/// XXH3 takes no shorter secret.
const SECRET_BYTES_MIN: usize = 136;

/// Makes digests of rows with a secret.
#[derive(Clone)]
pub struct RowDigester {
    secret: Arc<[u8]>,
}

impl RowDigester {
    /// Uses a secret of at least 136 bytes.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        assert!(
            secret.len() >= SECRET_BYTES_MIN,
            "the secret of row digests is too short"
        );
        Self {
            secret: secret.into(),
        }
    }
}

impl fmt::Debug for RowDigester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RowDigester")
    }
}

/// How many rows there were, and the sum of their digests modulo 2^128.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowSum {
    /// Rows.
    pub rows: u64,
    sum: u128,
}

impl RowSum {
    /// Counts a row, without its newline.
    pub fn add(&mut self, digester: &RowDigester, row: &[u8]) {
        self.rows += 1;
        self.sum = self
            .sum
            .wrapping_add(xxh3_128_with_secret(row, &digester.secret));
    }

    /// Returns the sum as it is stored.
    #[must_use]
    pub fn bytes(&self) -> [u8; 16] {
        self.sum.to_le_bytes()
    }

    /// Returns the stored bytes in hex.
    #[must_use]
    pub fn hex(&self) -> String {
        self.bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

impl AddAssign for RowSum {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_parts_do_not_matter_but_every_row_does() {
        let digester = RowDigester::new(&[7; 192]);
        let sum = |rows: &[&str]| {
            let mut sum = RowSum::default();
            rows.iter()
                .for_each(|row| sum.add(&digester, row.as_bytes()));
            sum
        };
        let mut parts = sum(&["b"]);
        parts += sum(&["a", "c"]);
        assert_eq!(parts, sum(&["a", "b", "c"]));
        assert_ne!(sum(&["a", "a"]), sum(&["b", "b"]));
        assert_ne!(sum(&["a"]), sum(&["a", "a", "a"]));
        assert_eq!(sum(&[]).hex(), "0".repeat(32));
    }
}
