//! Where random bytes come from: an argument everywhere, so that a run can be repeated from a seed.

/// A source of random bytes. Closures over `&mut [u8]` are sources too.
pub trait Random {
    /// Fills `out`.
    fn fill(&mut self, out: &mut [u8]);
}

impl<F: FnMut(&mut [u8])> Random for F {
    fn fill(&mut self, out: &mut [u8]) {
        self(out);
    }
}

/// The operating system's generator.
///
/// Not by way of aws-lc: its generator measures the jitter of the processor before it gives the first byte, which is most of what a small
/// backup costs.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    /// Panics if the operating system has no random bytes: nothing can be sealed then.
    fn fill(&mut self, out: &mut [u8]) {
        let mut filled = 0;
        while filled < out.len() {
            match rustix::rand::getrandom(&mut out[filled..], rustix::rand::GetRandomFlags::empty())
            {
                Ok(count) => filled += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("the operating system gives no random bytes: {error}"),
            }
        }
    }
}

/// A reproducible stream of bytes for tests and simulations. Never for a real repository.
#[derive(Clone)]
pub struct SeededRandom(blake3::OutputReader);

impl SeededRandom {
    /// The stream that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        let mut hasher =
            blake3::Hasher::new_derive_key("holdfast 2026-11-20 seeded bytes for tests");
        Self(hasher.update(&seed.to_le_bytes()).finalize_xof())
    }
}

impl std::fmt::Debug for SeededRandom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SeededRandom")
    }
}

impl Random for SeededRandom {
    fn fill(&mut self, out: &mut [u8]) {
        self.0.fill(out);
    }
}

/// Returns `N` random bytes.
pub fn array<const N: usize>(random: &mut dyn Random) -> [u8; N] {
    let mut out = [0; N];
    random.fill(&mut out);
    out
}
