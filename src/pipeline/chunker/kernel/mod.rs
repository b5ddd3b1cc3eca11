//! The window hash and the code that looks for candidates; one form for each kind of CPU, all of them give the same answers.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon;
mod scalar;

use std::ops::Range;
use std::sync::OnceLock;

use siphasher::sip::SipHasher13;
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::params::WINDOW_BYTES;

/// How many bytes stage 1 looks at.
const STAGE1_BYTES: usize = 16;

/// A way to look for candidates. A value exists only for what this CPU can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel(Form);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    Neon,
}

/// The kernel that was asked for, if one was.
static CHOSEN: OnceLock<Kernel> = OnceLock::new();

/// A kernel that this machine does not have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("there is no chunker kernel `{name}` for this machine: it can run {available}")]
pub struct NoKernel {
    /// What was asked for.
    pub name: String,
    /// What there is.
    pub available: String,
}

impl Kernel {
    /// The form that runs everywhere.
    pub const SCALAR: Self = Self(Form::Scalar);

    /// Returns the fastest kernel of this CPU.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            return Self(Form::Avx2);
        }
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        if std::arch::is_aarch64_feature_detected!("neon") {
            return Self(Form::Neon);
        }
        Self::SCALAR
    }

    /// Makes all chunkers of this process use the kernel of that name from now on, instead of the fastest; the first choice stays.
    pub fn choose(name: &str) -> Result<(), NoKernel> {
        let kernel = Self::named(name).ok_or_else(|| NoKernel {
            name: name.to_owned(),
            available: Self::available()
                .map(Self::name)
                .collect::<Vec<_>>()
                .join(", "),
        })?;
        CHOSEN.get_or_init(|| kernel);
        Ok(())
    }

    /// Returns the kernel that was chosen, else the fastest of this CPU.
    #[must_use]
    pub fn chosen() -> Self {
        *CHOSEN.get_or_init(Self::detect)
    }

    /// Returns all kernels that this CPU can run.
    pub fn available() -> impl Iterator<Item = Self> {
        let fastest = Self::detect();
        std::iter::once(Self::SCALAR).chain((fastest != Self::SCALAR).then_some(fastest))
    }

    /// Returns the kernel of that name, or `None` if there is none or this CPU can't run it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::available().find(|kernel| kernel.name() == name)
    }

    /// Returns the name, as [`Kernel::named`] takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            Form::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Form::Avx2 => "avx2",
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Form::Neon => "neon",
        }
    }

    /// Returns the first position in `range` that passes stage 1 and whose stage 2 hash is below `threshold`.
    ///
    /// # Panics
    ///
    /// If the range is not empty and starts before [`WINDOW_BYTES`] or ends behind the data: the sizes of the chunker rule that out.
    pub(super) fn find(
        self,
        hash: &WindowHash,
        data: &[u8],
        range: Range<usize>,
        threshold: u64,
    ) -> Option<usize> {
        if range.is_empty() {
            return None;
        }
        assert!(
            range.start >= WINDOW_BYTES && range.end <= data.len(),
            "the window of every position lies in the data"
        );
        match self.0 {
            Form::Scalar => scalar::find(hash, data, range, threshold),
            #[cfg(target_arch = "x86_64")]
            Form::Avx2 => avx2::find(hash, data, range, threshold),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Form::Neon => neon::find(hash, data, range, threshold),
        }
    }
}

/// The keyed hash of the bytes before a position.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct WindowHash {
    multipliers: [u32; 4],
    addend: u32,
    /// The largest hash that passes; one below the threshold, because a vector minimum compares with "at most".
    stage1_max: u32,
    sip_key: [u64; 2],
}

impl WindowHash {
    /// Takes the secrets from 36 drawn bytes. The threshold is at least 1.
    pub(super) fn from_draw(bytes: &[u8; 36], stage1_threshold: u32) -> Self {
        let word = |i: usize| load_u32(&bytes[4 * i..]);
        let wide = |i: usize| u64::from(word(i)) | u64::from(word(i + 1)) << 32;
        Self {
            multipliers: [word(0) | 1, word(1) | 1, word(2) | 1, word(3) | 1],
            addend: word(4),
            stage1_max: stage1_threshold - 1,
            sip_key: [wide(5), wide(7)],
        }
    }

    /// Tells whether a position with these 16 bytes before it passes stage 1.
    #[inline]
    pub(super) fn passes_stage1(&self, before: &[u8; STAGE1_BYTES]) -> bool {
        // The first multiplier belongs to the nearest bytes, which come last.
        let mut hash = self.addend;
        for (word, multiplier) in before.chunks_exact(4).zip(self.multipliers.iter().rev()) {
            hash = hash.wrapping_add(load_u32(word).wrapping_mul(*multiplier));
        }
        hash <= self.stage1_max
    }

    /// Tells whether the position passes stage 2.
    #[inline]
    fn passes_stage2(&self, data: &[u8], position: usize, threshold: u64) -> bool {
        let hasher = SipHasher13::new_with_keys(self.sip_key[0], self.sip_key[1]);
        hasher.hash(&data[position - WINDOW_BYTES..position]) < threshold
    }
}

#[inline]
fn load_u32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
