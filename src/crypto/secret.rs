//! 32 secret bytes that are zeroed when dropped and never shown.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::random::Random;

/// A secret of 256 bits. On the heap, so that moving it leaves no copy behind. Comparison takes constant time.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret32(Box<[u8; 32]>);

impl Secret32 {
    /// Takes over `bytes` and zeroes them.
    pub fn take(bytes: &mut [u8; 32]) -> Self {
        let secret = Self(Box::new(*bytes));
        bytes.zeroize();
        secret
    }

    /// A fresh one.
    pub fn generate(random: &mut dyn Random) -> Self {
        let mut secret = Self(Box::new([0; 32]));
        random.fill(&mut secret.0[..]);
        secret
    }

    /// The bytes; for deriving and wrapping only.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    pub(super) fn filled(fill: impl FnOnce(&mut [u8; 32])) -> Self {
        let mut secret = Self(Box::new([0; 32]));
        fill(&mut secret.0);
        secret
    }
}

impl PartialEq for Secret32 {
    fn eq(&self, other: &Self) -> bool {
        constant_time_eq(&self.0[..], &other.0[..])
    }
}

impl Eq for Secret32 {}

impl fmt::Debug for Secret32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret32")
    }
}

/// Compares without telling by its time where the first difference is.
pub(super) fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_shown() {
        let secret = Secret32::generate(&mut |out: &mut [u8]| out.fill(0xab));
        assert_eq!(format!("{secret:?}"), "Secret32");
        assert_eq!(secret.expose(), &[0xab; 32]);
    }

    #[test]
    fn equality_is_of_the_bytes() {
        let a = Secret32::take(&mut [1; 32]);
        assert_eq!(a, a.clone());
        assert_ne!(a, Secret32::take(&mut [2; 32]));
        let mut bytes = [3; 32];
        drop(Secret32::take(&mut bytes));
        assert_eq!(bytes, [0; 32]);
    }
}
