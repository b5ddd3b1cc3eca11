//! A choice of files by their paths: the same one whoever asks, another one for another seed.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// So many files of a hundred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    percent: u32,
    seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self::all()
    }
}

impl Sampling {
    /// Every file.
    pub fn all() -> Self {
        Self {
            percent: 100,
            seed: 0,
        }
    }

    /// So many of a hundred, at least one and at most all; which ones is decided by `seed`.
    pub fn new(percent: u32, seed: u64) -> Self {
        Self {
            percent: percent.clamp(1, 100),
            seed,
        }
    }

    /// How many of a hundred.
    pub fn percent(self) -> u32 {
        self.percent
    }

    /// Whether all are chosen.
    pub fn is_all(self) -> bool {
        self.percent == 100
    }

    /// Whether the file at this path is chosen.
    pub fn takes(self, path: &[u8]) -> bool {
        self.is_all() || xxh3_64_with_seed(path, self.seed) % 100 < u64::from(self.percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_as_many_as_asked_for_and_others_for_another_seed() {
        let paths: Vec<String> = (0..10_000).map(|n| format!("folder/{n}.bin")).collect();
        let chosen = |sampling: Sampling| -> Vec<&String> {
            let mut all: Vec<&String> = paths.iter().collect();
            all.retain(|path| sampling.takes(path.as_bytes()));
            all
        };
        assert_eq!(chosen(Sampling::all()).len(), 10_000);
        let first = chosen(Sampling::new(10, 1));
        assert!((800..1200).contains(&first.len()), "{}", first.len());
        assert_eq!(first, chosen(Sampling::new(10, 1)));
        assert_ne!(first, chosen(Sampling::new(10, 2)));
    }
}
