//! The numbers that decide where chunks end. They are stored with a repository, as integers, so that every client cuts alike.

use thiserror::Error;

/// How many bytes before a position decide whether it is a candidate.
pub const WINDOW_BYTES: usize = 32;

/// Sizes and thresholds of a [`Chunker`](super::Chunker); see the docs of the module for their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkerParams {
    /// The mean size on data without structure.
    pub avg_bytes: u32,
    /// No chunk but the last of a stream is shorter. The bytes before it are never looked at, which is where the speed comes from.
    pub min_bytes: u32,
    /// No chunk is longer.
    pub max_bytes: u32,
    /// A position passes stage 1 with the probability `stage1_threshold / 2^32`.
    pub stage1_threshold: u32,
    /// Before the normal point a position passes stage 2 with the probability `t_strict / 2^64`.
    pub t_strict: u64,
    /// From the normal point on a position passes stage 2 with the probability `t_loose / 2^64`.
    pub t_loose: u64,
}

/// Why parameters were refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParamsError {
    /// The average is not one that [`ChunkerParams::for_average`] knows.
    #[error("chunk average of {0} bytes: must be a power of two from 512 B to 1 MiB")]
    Average(u32),
    /// A stored value contradicts another, or is beyond what this version computes with.
    #[error("chunker parameters: {0}")]
    Invalid(&'static str),
    /// No draw of a thousand was good; only chance of one in 2^100 or odd parameters lead here.
    #[error("chunker parameters: no usable multipliers were found for this key")]
    NoDraw,
}

impl ChunkerParams {
    /// The smallest average that can be asked for. It is far too small to be of use but in tests.
    pub const AVG_BYTES_MIN: u32 = 512;
    /// The largest average that can be asked for.
    pub const AVG_BYTES_MAX: u32 = 1 << 20;

    /// Returns the parameters for a mean size that is a power of two.
    ///
    /// With the minimum at avg/2, a candidate every 4·avg before the normal point (25/32 of avg) and every avg/4 after it, the
    /// expectation is 1.005 avg: 0.5 + 4·(1 − e^−0.0703) + e^−0.0703 / 4.
    pub fn for_average(avg_bytes: u32) -> Result<Self, ParamsError> {
        if !avg_bytes.is_power_of_two()
            || !(Self::AVG_BYTES_MIN..=Self::AVG_BYTES_MAX).contains(&avg_bytes)
        {
            return Err(ParamsError::Average(avg_bytes));
        }
        // Stage 1 lets one position of avg/16 pass: rare enough that stage 2 costs nothing, and no rarer than needed, because
        // each bit of it is a bit that a solved stage 1 tells about every border. What remains for stage 2 is the same for all
        // averages: 2^-6 and 2^-2.
        let stage1_bits = avg_bytes.ilog2() - 4;
        Ok(Self {
            avg_bytes,
            min_bytes: avg_bytes / 2,
            max_bytes: avg_bytes * 4,
            stage1_threshold: 1 << (32 - stage1_bits),
            t_strict: 1 << 58,
            t_loose: 1 << 62,
        })
    }

    /// Returns the position in a chunk from which on the loose threshold holds: 25/32 of the average.
    #[must_use]
    pub fn normal_bytes(&self) -> u32 {
        self.avg_bytes - self.avg_bytes / 32 * 7
    }

    /// Checks what stored parameters must fulfil for the chunker to be correct; it need not be clever to choose them.
    pub(super) fn check(&self) -> Result<(), ParamsError> {
        let rules = [
            (
                (Self::AVG_BYTES_MIN..=Self::AVG_BYTES_MAX).contains(&self.avg_bytes),
                "the average must be from 512 B to 1 MiB",
            ),
            (
                self.min_bytes as usize >= WINDOW_BYTES,
                "the minimum must be at least 32 bytes",
            ),
            (
                self.min_bytes <= self.normal_bytes(),
                "the minimum must not be above 25/32 of the average",
            ),
            (
                self.normal_bytes() <= self.max_bytes,
                "the maximum must not be below the average",
            ),
            (
                self.max_bytes <= 4 * Self::AVG_BYTES_MAX,
                "the maximum must not be above 4 MiB",
            ),
            (
                (1..=1 << 27).contains(&self.stage1_threshold),
                "the stage 1 threshold must be from 1 to 2^27",
            ),
            (
                self.t_strict <= self.t_loose,
                "the strict threshold must not be above the loose one",
            ),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(ParamsError::Invalid(rule)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_average_gives_valid_parameters() {
        for bits in 9..=20 {
            let params = ChunkerParams::for_average(1 << bits).unwrap();
            params.check().unwrap();
            assert_eq!(params.min_bytes * 8, params.max_bytes);
        }
        for avg in [0, 1, 256, 1000, 3 << 10, 2 << 20, u32::MAX] {
            assert_eq!(
                ChunkerParams::for_average(avg),
                Err(ParamsError::Average(avg))
            );
        }
    }

    #[test]
    fn the_default_averages_are_pinned() {
        let params = ChunkerParams::for_average(16 << 10).unwrap();
        let expected = ChunkerParams {
            avg_bytes: 16384,
            min_bytes: 8192,
            max_bytes: 65536,
            stage1_threshold: 4_194_304,
            t_strict: 0x0400_0000_0000_0000,
            t_loose: 0x4000_0000_0000_0000,
        };
        assert_eq!(params, expected);
        assert_eq!(params.normal_bytes(), 12800);
    }

    #[test]
    fn contradictions_are_refused() {
        let good = ChunkerParams::for_average(4096).unwrap();
        let check = |change: fn(&mut ChunkerParams)| {
            let mut params = good;
            change(&mut params);
            assert!(
                matches!(params.check(), Err(ParamsError::Invalid(_))),
                "{params:?}"
            );
        };
        check(|p| p.avg_bytes = 0);
        check(|p| p.avg_bytes = u32::MAX);
        check(|p| p.min_bytes = 31);
        check(|p| p.min_bytes = 4096);
        check(|p| p.max_bytes = 1024);
        check(|p| p.max_bytes = u32::MAX);
        check(|p| p.stage1_threshold = 0);
        check(|p| p.stage1_threshold = u32::MAX);
        check(|p| p.t_strict = u64::MAX);
    }
}
