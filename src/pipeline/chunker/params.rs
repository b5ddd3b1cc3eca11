//! The numbers that decide where chunks end. They are stored with a repository, as integers, so that every client cuts alike.

use thiserror::Error;

use crate::format::repository::ChunkerSettings;

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
    /// The average is too small or too large.
    #[error("chunk average of {0} bytes: must be from 512 B to 1 MiB")]
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

    /// Returns the parameters for a mean size, with the usual bounds: half of it, and four times it.
    ///
    /// With a candidate every 4·avg before the normal point (25/32 of avg) and every avg/4 after it, the expectation is 1.005 avg:
    /// 0.5 + 4·(1 − e^−0.0703) + e^−0.0703 / 4.
    pub fn for_average(avg_bytes: u32) -> Result<Self, ParamsError> {
        Self::for_sizes(avg_bytes / 2, avg_bytes, avg_bytes.saturating_mul(4))
    }

    /// Returns the parameters for given sizes. This is algorithm 1: how the thresholds follow from the average, in integers.
    pub fn for_sizes(min_bytes: u32, avg_bytes: u32, max_bytes: u32) -> Result<Self, ParamsError> {
        if !(Self::AVG_BYTES_MIN..=Self::AVG_BYTES_MAX).contains(&avg_bytes) {
            return Err(ParamsError::Average(avg_bytes));
        }
        // Stage 1 lets one position of about avg/16 pass: rare enough that stage 2 costs nothing, and no rarer than needed, because
        // each bit of it is a bit that a solved stage 1 tells about every border. Stage 2 makes one of 4·avg and of avg/4 of it;
        // for powers of two that is 2^58 and 2^62.
        let stage1_bits = avg_bytes.ilog2() - 4;
        let strict = (1_u128 << (62 + stage1_bits)) / u128::from(avg_bytes);
        let fits = "the average is above 2^(stage1_bits + 3)";
        let params = Self {
            avg_bytes,
            min_bytes,
            max_bytes,
            stage1_threshold: 1 << (32 - stage1_bits),
            t_strict: u64::try_from(strict).expect(fits),
            t_loose: u64::try_from(strict * 16).expect(fits),
        };
        params.check()?;
        Ok(params)
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

/// What a repository stores: sizes, and the number of the algorithm that gives the thresholds.
impl TryFrom<&ChunkerSettings> for ChunkerParams {
    type Error = ParamsError;

    fn try_from(settings: &ChunkerSettings) -> Result<Self, ParamsError> {
        if settings.algorithm != 1 {
            return Err(ParamsError::Invalid(
                "an algorithm that this version does not know",
            ));
        }
        Self::for_sizes(
            settings.bytes_min,
            settings.bytes_average,
            settings.bytes_max,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_settings_give_the_same_parameters() {
        let mut settings = ChunkerSettings::around(8 << 10);
        assert_eq!(
            ChunkerParams::try_from(&settings),
            ChunkerParams::for_average(8 << 10)
        );
        settings.bytes_min = settings.bytes_average;
        assert!(ChunkerParams::try_from(&settings).is_err());
        settings = ChunkerSettings {
            algorithm: 2,
            ..ChunkerSettings::around(8 << 10)
        };
        assert!(ChunkerParams::try_from(&settings).is_err());
    }

    #[test]
    fn every_average_gives_valid_parameters() {
        for bits in 9..=20 {
            let params = ChunkerParams::for_average(1 << bits).unwrap();
            assert_eq!(params.min_bytes * 8, params.max_bytes);
            assert_eq!((params.t_strict, params.t_loose), (1 << 58, 1 << 62));
        }
        for avg in [513, 1023, 1025, 3 << 10, 24 << 10, 100_000, (1 << 20) - 1] {
            let params = ChunkerParams::for_average(avg).unwrap();
            let loose =
                f64::from(params.stage1_threshold) * params.t_loose as f64 * 2_f64.powi(-96);
            assert!((loose * f64::from(avg) - 4.0).abs() < 1e-6, "{params:?}");
        }
        for avg in [0, 1, 256, 511, (1 << 20) + 1, u32::MAX] {
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
