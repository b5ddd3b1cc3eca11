//! What the chunker keeps secret, and how its multipliers are drawn from it.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::kernel::WindowHash;
use super::params::{ChunkerParams, ParamsError};

/// How often multipliers are drawn before the chunker gives up. At the largest stage 1 threshold about one draw in four is good.
const DRAWS_MAX: u32 = 1000;

/// What kind of stream a chunker cuts. Each has multipliers of its own, so that borders in one tell nothing about the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkerDomain {
    /// Contents of files, and every other stream of plain bytes.
    Files,
    /// Rows of tables.
    Tables,
}

impl ChunkerDomain {
    /// Returns the context of the key derivation. These strings are part of the format: they never change.
    fn context(self) -> &'static str {
        match self {
            Self::Files => "holdfast 2026-11-20 chunker v1 files",
            Self::Tables => "holdfast 2026-11-20 chunker v1 tables",
        }
    }
}

/// The secret of a [`Chunker`](super::Chunker). Zeroed on drop; `Debug` shows nothing of it.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ChunkerKey {
    bytes: [u8; 32],
}

impl fmt::Debug for ChunkerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChunkerKey(..)")
    }
}

impl ChunkerKey {
    /// Derives the key for a kind of streams from the repository's dedup secret: BLAKE3 in `derive_key` mode with the context of
    /// the domain.
    #[must_use]
    pub fn derive(dedup_secret: &[u8; 32], domain: ChunkerDomain) -> Self {
        Self {
            bytes: blake3::derive_key(domain.context(), dedup_secret),
        }
    }

    /// Draws multipliers until no run of one repeated byte passes stage 1.
    ///
    /// The stream is the extended output of BLAKE3, keyed with these bytes, over the empty message. A draw takes 36 bytes of it,
    /// little-endian: `K_0 … K_3` (their lowest bits set, so that no byte of the window is multiplied away), `C`, and the two
    /// halves of the SipHash key.
    pub(super) fn draw(&self, params: &ChunkerParams) -> Result<WindowHash, ParamsError> {
        let mut hasher = blake3::Hasher::new_keyed(&self.bytes);
        let mut stream = hasher.finalize_xof();
        hasher.zeroize();
        let mut drawn = Err(ParamsError::NoDraw);
        for _ in 0..DRAWS_MAX {
            let mut bytes = Zeroizing::new([0; 36]);
            stream.fill(&mut *bytes);
            let hash = WindowHash::from_draw(&bytes, params.stage1_threshold);
            if !(0..=255).any(|byte| hash.passes_stage1(&[byte; 16])) {
                drawn = Ok(hash);
                break;
            }
        }
        stream.zeroize();
        drawn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        let key = ChunkerKey::derive(&[0x5a; 32], ChunkerDomain::Files);
        assert_eq!(format!("{key:?}"), "ChunkerKey(..)");
    }

    #[test]
    fn domains_and_secrets_give_different_keys() {
        let files = ChunkerKey::derive(&[1; 32], ChunkerDomain::Files);
        let tables = ChunkerKey::derive(&[1; 32], ChunkerDomain::Tables);
        let other = ChunkerKey::derive(&[2; 32], ChunkerDomain::Files);
        assert_ne!(files.bytes, tables.bytes);
        assert_ne!(files.bytes, other.bytes);
    }

    #[test]
    fn every_key_has_a_draw_even_at_the_smallest_average() {
        for avg in [512, 1024, 4096, 1 << 20] {
            let params = ChunkerParams::for_average(avg).unwrap();
            for seed in 0..100 {
                let hash = ChunkerKey::derive(&[seed; 32], ChunkerDomain::Tables)
                    .draw(&params)
                    .unwrap();
                assert!((0..=255).all(|byte| !hash.passes_stage1(&[byte; 16])));
            }
        }
    }
}
