//! Chunks to compressed frames and back. It groups and compresses; it does not seal, name or place frames, and it does not decide
//! which chunks are new.
//!
//! A frame holds about 1 MiB of chunks of one class, one after another, and is compressed as a whole: one zstd frame without
//! dictionary and without checksum (what comes back is authenticated and its ids are recomputed), or the plain bytes where
//! compression saves too little to pay for reading it back.
//!
//! A *prefix frame* is compressed as the continuation of another frame's plaintext, its base, without which it can't be read; so of rows
//! that the base has little more is stored than which of them are gone. It is used where it takes at most three quarters of what the same
//! bytes take alone ([`FrameCodec::compress_on_base`]).
//!
//! # Invariants
//!
//! 1. What was compressed comes back bit by bit (`every_content_comes_back`).
//! 2. Decompression gives exactly as many bytes as its caller expects or an error; it never takes memory for a length that the data
//!    declares itself, and never more than [`FRAME_PLAIN_BYTES_MAX`] (`lengths_are_never_trusted`, `hostile_bytes_give_errors`).
//! 3. With another base than its own a prefix frame gives other bytes or an error (`another_base_gives_no_content_of_its_own`); the ids of its chunks tell.
//! 4. The chunks of a frame lie one after another and fill it exactly (`chunks_fill_the_frame`, `chunks_that_do_not_fill_the_frame_are_refused`).
//!
//! # Threads
//!
//! A [`FrameCodec`] and a [`FrameBuilder`] belong to one worker each.

use std::fmt;
use std::io;

use thiserror::Error;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{CCtx, CParameter, DCtx, SafeResult};

use crate::format::id::ChunkId;
use crate::format::pack::{Encoding, FRAME_RAW_MAX, FrameChunk};

/// How many plain bytes a frame may hold at most, by the format; a builder that is filled with the largest chunks stays far below it.
pub const FRAME_PLAIN_BYTES_MAX: usize = FRAME_RAW_MAX as usize;

/// How many plain bytes make a frame full, by default. Larger frames compress hardly better, and reading one chunk costs more.
pub const FRAME_TARGET_BYTES: usize = 1 << 20;

/// What level 1 is made of here: matches are looked for in a whole frame of the usual size (a power of two), from six bytes on instead of
/// seven, and the table of places is twice as large as zstd's own (a power of two). A table twice as large again gains nothing over matches of
/// six bytes and costs 6 % more time, because two workers on one core share its second-level cache.
const LEVEL_1_WINDOW_LOG: u32 = 20;
const LEVEL_1_HASH_LOG: u32 = 15;
const LEVEL_1_MATCH_MIN: u32 = 6;
/// Prefix frames have a level of their own, if theirs is lower: two tables, whose larger one keeps the places of eight bytes. With the one table of
/// level 1 most of what the base has is not found, however large it is made; level 5 finds a tenth more in three times the time.
const PREFIX_LEVEL: i32 = 3;
const PREFIX_HASH_LOG: u32 = 18;
const PREFIX_CHAIN_LOG: u32 = 17;
/// Lets zstd choose by the level.
const BY_LEVEL: u32 = 0;

/// A prefix frame that shrinks to this part of its plaintext is taken without trying what it takes alone.
const PREFIX_AT_ONCE: usize = 32;

/// Frames smaller than this are compressed without asking the probe first, which would cost as much.
const PROBE_MIN_BYTES: usize = 64 << 10;
/// The probe looks at four samples of this size, evenly spread.
const PROBE_SAMPLE_BYTES: usize = 4 << 10;
const PROBE_SAMPLES: usize = 4;
/// The fast level that the probe uses: what it cannot shrink, level 1 can hardly shrink either.
const PROBE_LEVEL: i32 = -5;

/// Why a frame could not be encoded or decoded.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The level is not one that frames are compressed at.
    #[error("compression level {0}: must be from 1 to 19")]
    Level(i32),
    /// More plain bytes than a frame may hold.
    #[error("a frame of {0} plain bytes: the maximum is {FRAME_PLAIN_BYTES_MAX}")]
    TooLarge(usize),
    /// The data gives another number of bytes than it should.
    #[error("a frame of {found} plain bytes where {expected} were expected")]
    Length {
        /// What the caller expected.
        expected: usize,
        /// What there is.
        found: usize,
    },
    /// The frame needs its base.
    #[error("a frame that needs another one to be decompressed")]
    NoBase,
    /// The data is not what zstd wrote, or is more than was expected.
    #[error("cannot decompress a frame that should hold {expected} plain bytes")]
    Decompress {
        /// What the caller expected.
        expected: usize,
        /// What zstd said.
        #[source]
        source: io::Error,
    },
    /// zstd could not compress; it has no memory or was misused.
    #[error("cannot compress a frame")]
    Compress(#[source] io::Error),
}

/// Compresses and decompresses frames. It keeps the contexts of zstd, which are expensive to make.
pub struct FrameCodec {
    level: i32,
    compressor: Compressor<'static>,
    probe: Compressor<'static>,
    decompressor: Decompressor<'static>,
    scratch: Vec<u8>,
    on_base: Vec<u8>,
}

impl fmt::Debug for FrameCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameCodec")
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}

impl FrameCodec {
    /// The level that is used where nobody asks for another. Negative levels are not offered: they are six percent faster and store
    /// forty percent more.
    pub const LEVEL_DEFAULT: i32 = 1;

    /// Makes a codec that compresses at a level from 1 to 19.
    pub fn new(level: i32) -> Result<Self, FrameError> {
        check_level(level)?;
        Ok(Self {
            level,
            compressor: compressor(level)?,
            probe: Compressor::new(PROBE_LEVEL).map_err(FrameError::Compress)?,
            decompressor: Decompressor::new().map_err(FrameError::Compress)?,
            scratch: Vec::new(),
            on_base: Vec::new(),
        })
    }

    /// Returns the level of frames to come.
    #[must_use]
    pub fn level(&self) -> i32 {
        self.level
    }

    /// Changes the level of frames to come.
    pub fn set_level(&mut self, level: i32) -> Result<(), FrameError> {
        check_level(level)?;
        if level != self.level {
            self.compressor = compressor(level)?;
            self.level = level;
        }
        Ok(())
    }

    /// Encodes a frame into `out`, whose content is replaced and whose memory is used again.
    pub fn compress(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<Encoding, FrameError> {
        if plain.len() > FRAME_PLAIN_BYTES_MAX {
            return Err(FrameError::TooLarge(plain.len()));
        }
        out.clear();
        if !self.looks_incompressible(plain)? {
            out.reserve(zstd::zstd_safe::compress_bound(plain.len()));
            self.compressor
                .compress_to_buffer(plain, out)
                .map_err(FrameError::Compress)?;
            if saves_enough(plain.len(), out.len()) {
                return Ok(Encoding::Zstd);
            }
            out.clear();
        }
        out.extend_from_slice(plain);
        Ok(Encoding::Raw)
    }

    /// Decodes a frame of exactly `plain_len` bytes into `out`, whose content is replaced and whose memory is used again. The data may
    /// be anything. After an error the content of `out` means nothing.
    pub fn decompress(
        &mut self,
        encoding: Encoding,
        data: &[u8],
        plain_len: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), FrameError> {
        if plain_len > FRAME_PLAIN_BYTES_MAX {
            return Err(FrameError::TooLarge(plain_len));
        }
        let found = match encoding {
            Encoding::Raw => {
                out.clear();
                if data.len() == plain_len {
                    out.extend_from_slice(data);
                }
                data.len()
            }
            Encoding::ZstdPrefix => return Err(FrameError::NoBase),
            Encoding::Zstd => {
                // zstd writes into this slice and nowhere else; it needs a window of its own for streams only. Bytes of an earlier
                // frame are left to be overwritten, which spares zeroing them.
                out.resize(plain_len, 0);
                self.decompressor
                    .decompress_to_buffer(data, out.as_mut_slice())
                    .map_err(|source| FrameError::Decompress {
                        expected: plain_len,
                        source,
                    })?
            }
        };
        if found == plain_len {
            Ok(())
        } else {
            Err(FrameError::Length {
                expected: plain_len,
                found,
            })
        }
    }

    /// Encodes a frame into `out` as a prefix frame on `base`, or without it where that is not much longer.
    pub fn compress_on_base(
        &mut self,
        plain: &[u8],
        base: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Encoding, FrameError> {
        if plain.len() > FRAME_PLAIN_BYTES_MAX || base.len() > FRAME_PLAIN_BYTES_MAX {
            return Err(FrameError::TooLarge(plain.len().max(base.len())));
        }
        // A context refers to its prefix as long as it lives, so each frame has one of its own; it is made in less time than the prefix is
        // taken in.
        let mut context = prefix_context(self.level, base.len() + plain.len())?;
        zstd(context.ref_prefix(base)).map_err(FrameError::Compress)?;
        self.on_base.clear();
        self.on_base
            .reserve(zstd::zstd_safe::compress_bound(plain.len()));
        zstd(context.compress2(&mut self.on_base, plain)).map_err(FrameError::Compress)?;
        if self.on_base.len() > plain.len() / PREFIX_AT_ONCE {
            let alone = self.compress(plain, out)?;
            if self.on_base.len() > out.len() / 4 * 3 {
                return Ok(alone);
            }
        }
        std::mem::swap(out, &mut self.on_base);
        Ok(Encoding::ZstdPrefix)
    }

    /// Decodes a prefix frame of exactly `plain_len` bytes, as [`FrameCodec::decompress`] does others. `base` may be anything, too.
    pub fn decompress_on_base(
        &mut self,
        base: &[u8],
        data: &[u8],
        plain_len: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), FrameError> {
        if plain_len > FRAME_PLAIN_BYTES_MAX || base.len() > FRAME_PLAIN_BYTES_MAX {
            return Err(FrameError::TooLarge(plain_len.max(base.len())));
        }
        let decompress = |source| FrameError::Decompress {
            expected: plain_len,
            source,
        };
        let mut context = DCtx::try_create().ok_or_else(|| decompress(out_of_memory()))?;
        zstd(context.ref_prefix(base)).map_err(decompress)?;
        out.resize(plain_len, 0);
        let found = zstd(context.decompress(out.as_mut_slice(), data)).map_err(decompress)?;
        if found == plain_len {
            Ok(())
        } else {
            Err(FrameError::Length {
                expected: plain_len,
                found,
            })
        }
    }

    /// Tells, from four samples, whether compressing the whole would be in vain. Errors of judgement cost space or time, nothing else.
    fn looks_incompressible(&mut self, plain: &[u8]) -> Result<bool, FrameError> {
        if plain.len() < PROBE_MIN_BYTES {
            return Ok(false);
        }
        let mut samples = [0; PROBE_SAMPLES * PROBE_SAMPLE_BYTES];
        let stride = (plain.len() - PROBE_SAMPLE_BYTES) / (PROBE_SAMPLES - 1);
        for (i, sample) in samples.chunks_exact_mut(PROBE_SAMPLE_BYTES).enumerate() {
            sample.copy_from_slice(&plain[i * stride..][..PROBE_SAMPLE_BYTES]);
        }
        // Counting is cheaper than compressing, and settles most of what shrinks.
        if !looks_evenly_spread(&samples) {
            return Ok(false);
        }
        self.scratch.clear();
        self.scratch
            .reserve(zstd::zstd_safe::compress_bound(samples.len()));
        let compressed = self
            .probe
            .compress_to_buffer(&samples, &mut self.scratch)
            .map_err(FrameError::Compress)?;
        Ok(compressed * 100 > samples.len() * 98)
    }
}

/// Makes a compressor of a level, as it is used here.
fn compressor(level: i32) -> Result<Compressor<'static>, FrameError> {
    let (window_log, hash_log, match_min) = match level {
        1 => (LEVEL_1_WINDOW_LOG, LEVEL_1_HASH_LOG, LEVEL_1_MATCH_MIN),
        _ => (BY_LEVEL, BY_LEVEL, BY_LEVEL),
    };
    let mut compressor = Compressor::new(level).map_err(FrameError::Compress)?;
    for parameter in [
        CParameter::WindowLog(window_log),
        CParameter::HashLog(hash_log),
        CParameter::MinMatch(match_min),
    ] {
        compressor
            .set_parameter(parameter)
            .map_err(FrameError::Compress)?;
    }
    Ok(compressor)
}

/// Makes a context for a prefix frame that is as long as this together with its base.
fn prefix_context(level: i32, bytes: usize) -> Result<CCtx<'static>, FrameError> {
    let window_log = bytes.max(2).next_power_of_two().ilog2().clamp(10, 27);
    let (level, hash_log, chain_log) = match level {
        ..=PREFIX_LEVEL => (PREFIX_LEVEL, PREFIX_HASH_LOG, PREFIX_CHAIN_LOG),
        level => (level, BY_LEVEL, BY_LEVEL),
    };
    let mut context = CCtx::try_create().ok_or_else(|| FrameError::Compress(out_of_memory()))?;
    for parameter in [
        CParameter::CompressionLevel(level),
        CParameter::WindowLog(window_log),
        CParameter::HashLog(hash_log),
        CParameter::ChainLog(chain_log),
    ] {
        zstd(context.set_parameter(parameter)).map_err(FrameError::Compress)?;
    }
    Ok(context)
}

fn zstd(result: SafeResult) -> io::Result<usize> {
    result.map_err(|code| io::Error::other(zstd::zstd_safe::get_error_name(code)))
}

fn out_of_memory() -> io::Error {
    io::Error::from(io::ErrorKind::OutOfMemory)
}

fn check_level(level: i32) -> Result<(), FrameError> {
    if (1..=19).contains(&level) {
        Ok(())
    } else {
        Err(FrameError::Level(level))
    }
}

/// Tells whether all byte values are about equally frequent. The fast levels find repetitions alone, and of hexadecimal digits or base64 they find
/// none, although their bytes carry four or six bits.
fn looks_evenly_spread(bytes: &[u8]) -> bool {
    let mut counts = [0_u64; 256];
    for &byte in bytes {
        counts[usize::from(byte)] += 1;
    }
    let pairs: u64 = counts.iter().map(|&count| count * count).sum();
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    // As many pairs of equal bytes as chance gives, and a fifth more: about 7.75 bits a byte, below which `saves_enough` holds.
    let by_chance = length + length * length / 256;
    pairs < by_chance + by_chance / 5
}

/// Less than 1/32 saved is not worth a decompression at each reading.
fn saves_enough(plain: usize, compressed: usize) -> bool {
    compressed + plain / 32 < plain
}

/// Chunks that will be compressed together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// The chunks' bytes, one after another.
    pub bytes: Vec<u8>,
    /// Whose bytes they are, in order; this goes into the pack's directory.
    pub chunks: Vec<FrameChunk>,
}

impl Frame {
    /// Returns each chunk's id, its offset in the frame and its bytes, in order.
    pub fn entries(&self) -> impl Iterator<Item = (ChunkId, u32, &[u8])> {
        split_frame(&self.chunks, &self.bytes)
            .expect("a frame is made of its chunks")
            .map(|(id, offset, bytes)| (*id, offset, bytes))
    }
}

/// Takes a decompressed frame apart into ids, offsets and bytes. Returns an error where the chunks do not fill it exactly.
pub fn split_frame<'a>(
    chunks: &'a [FrameChunk],
    plain: &'a [u8],
) -> Result<impl Iterator<Item = (&'a ChunkId, u32, &'a [u8])>, FrameError> {
    let expected = chunks
        .iter()
        .fold(0_usize, |sum, chunk| sum.saturating_add(chunk.len as usize));
    if expected != plain.len() || expected > FRAME_PLAIN_BYTES_MAX {
        return Err(FrameError::Length {
            expected,
            found: plain.len(),
        });
    }
    let (mut offset, mut rest) = (0, plain);
    Ok(chunks.iter().map(move |chunk| {
        let (bytes, tail) = rest.split_at(chunk.len as usize);
        let entry = (&chunk.id, offset, bytes);
        rest = tail;
        offset += chunk.len;
        entry
    }))
}

/// Collects chunks of one class until they fill a frame.
#[derive(Debug)]
pub struct FrameBuilder {
    target_bytes: usize,
    frame: Frame,
    spare: Frame,
}

impl FrameBuilder {
    /// Makes a builder whose frames are full at `target_bytes`, which is at most half of [`FRAME_PLAIN_BYTES_MAX`], so that a last
    /// chunk always fits.
    #[must_use]
    pub fn new(target_bytes: usize) -> Self {
        Self {
            target_bytes: target_bytes.clamp(1, FRAME_PLAIN_BYTES_MAX / 2),
            frame: Frame::default(),
            spare: Frame::default(),
        }
    }

    /// Appends a chunk.
    ///
    /// # Panics
    ///
    /// If the chunk is empty, or if the frame would pass [`FRAME_PLAIN_BYTES_MAX`]: it was full and not taken, or the chunk is larger
    /// than any chunker makes.
    pub fn push(&mut self, id: ChunkId, bytes: &[u8]) {
        assert!(!bytes.is_empty(), "a chunk is never empty");
        assert!(
            bytes.len() <= FRAME_PLAIN_BYTES_MAX - self.frame.bytes.len(),
            "full frames are taken, and chunks are smaller than half a frame"
        );
        let len = u32::try_from(bytes.len()).expect("a frame is far smaller than 4 GiB");
        self.frame.chunks.push(FrameChunk { id, len });
        self.frame.bytes.extend_from_slice(bytes);
    }

    /// Tells whether the frame holds what makes it full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.frame.bytes.len() >= self.target_bytes
    }

    /// Tells whether it holds at least half of that.
    #[must_use]
    pub fn is_half_full(&self) -> bool {
        self.frame.bytes.len() >= self.target_bytes / 2
    }

    /// Tells whether there is no chunk in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frame.chunks.is_empty()
    }

    /// Returns the number of plain bytes collected.
    #[must_use]
    pub fn plain_bytes(&self) -> usize {
        self.frame.bytes.len()
    }

    /// Returns the frame, full or not, and starts the next one; `None` if there is no chunk in it.
    pub fn take(&mut self) -> Option<Frame> {
        if self.is_empty() {
            return None;
        }
        let next = std::mem::take(&mut self.spare);
        Some(std::mem::replace(&mut self.frame, next))
    }

    /// Gives back a frame that was used up, so that its memory serves a later one.
    pub fn recycle(&mut self, mut frame: Frame) {
        frame.bytes.clear();
        frame.chunks.clear();
        self.spare = frame;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn codec() -> FrameCodec {
        FrameCodec::new(FrameCodec::LEVEL_DEFAULT).unwrap()
    }

    fn random(seed: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new()
            .update(&seed.to_le_bytes())
            .finalize_xof()
            .fill(&mut bytes);
        bytes
    }

    fn text(seed: u64, length: usize) -> Vec<u8> {
        let words = random(seed, length / 4 + 1);
        words
            .iter()
            .flat_map(|word| format!("{word} word ").into_bytes())
            .take(length)
            .collect()
    }

    fn round_trip(codec: &mut FrameCodec, plain: &[u8]) -> (Encoding, usize) {
        let (mut sealed, mut back) = (vec![1; 7], vec![2; 9]);
        let encoding = codec.compress(plain, &mut sealed).unwrap();
        codec
            .decompress(encoding, &sealed, plain.len(), &mut back)
            .unwrap();
        assert_eq!(plain, back);
        (encoding, sealed.len())
    }

    #[test]
    fn what_compresses_is_compressed() {
        let mut codec = codec();
        let mut check = |plain: &[u8], expected| {
            let (encoding, length) = round_trip(&mut codec, plain);
            assert_eq!(encoding, expected, "{} bytes", plain.len());
            assert!(length <= plain.len());
        };
        check(&[], Encoding::Raw);
        check(b"x", Encoding::Raw);
        check(&[0; 100], Encoding::Zstd);
        check(&text(1, 1000), Encoding::Zstd);
        check(&text(2, 1 << 20), Encoding::Zstd);
        check(&random(3, 1000), Encoding::Raw);
        check(&random(4, PROBE_MIN_BYTES), Encoding::Raw);
        check(&random(5, 1 << 20), Encoding::Raw);
        // Half random, half zeros: the samples see both.
        check(
            &[random(6, 1 << 19), vec![0; 1 << 19]].concat(),
            Encoding::Zstd,
        );
        // Saves two percent only.
        check(&[random(7, 98_000), vec![0; 2000]].concat(), Encoding::Raw);
        check(&vec![7; FRAME_PLAIN_BYTES_MAX], Encoding::Zstd);
    }

    #[test]
    fn levels_are_checked_and_matter() {
        for level in [i32::MIN, -1, 0, 20, i32::MAX] {
            assert!(matches!(FrameCodec::new(level), Err(FrameError::Level(l)) if l == level));
            assert!(matches!(
                codec().set_level(level),
                Err(FrameError::Level(_))
            ));
        }
        let plain = text(8, 300_000);
        let mut codec = codec();
        let (_, fast) = round_trip(&mut codec, &plain);
        codec.set_level(12).unwrap();
        assert_eq!(codec.level(), 12);
        let (_, strong) = round_trip(&mut codec, &plain);
        assert!(strong < fast, "{strong} {fast}");
        codec.set_level(1).unwrap();
        assert_eq!(round_trip(&mut codec, &plain).1, fast);
    }

    #[test]
    fn lengths_are_never_trusted() {
        let mut codec = codec();
        let plain = text(9, 100_000);
        let (mut sealed, mut out) = (Vec::new(), Vec::new());
        codec.compress(&plain, &mut sealed).unwrap();
        for expected in [0, 1, 99_999, 100_001, FRAME_PLAIN_BYTES_MAX] {
            let result = codec.decompress(Encoding::Zstd, &sealed, expected, &mut out);
            assert!(
                matches!(
                    result,
                    Err(FrameError::Decompress { .. } | FrameError::Length { .. })
                ),
                "{expected}: {result:?}"
            );
            let result = codec.decompress(Encoding::Raw, &plain, expected, &mut out);
            assert!(matches!(result, Err(FrameError::Length { .. })));
        }
        let mut out = Vec::new();
        for expected in [FRAME_PLAIN_BYTES_MAX + 1, usize::MAX] {
            let result = codec.decompress(Encoding::Zstd, &sealed, expected, &mut out);
            assert!(matches!(result, Err(FrameError::TooLarge(_))));
            assert_eq!(out.capacity(), 0);
        }
        let huge = vec![0; FRAME_PLAIN_BYTES_MAX + 1];
        assert!(matches!(
            codec.compress(&huge, &mut out),
            Err(FrameError::TooLarge(_))
        ));
    }

    /// A bomb: a frame that declares, and would give, far more than is expected.
    #[test]
    fn digits_of_chance_are_compressed_and_chance_is_not() {
        let mut codec = codec();
        let bytes = random(1, 256 << 10);
        assert_eq!(round_trip(&mut codec, &bytes), (Encoding::Raw, bytes.len()));
        let digits: Vec<u8> = bytes
            .iter()
            .flat_map(|byte| format!("{byte:02x}").into_bytes())
            .collect();
        let (encoding, length) = round_trip(&mut codec, &digits);
        assert_eq!(encoding, Encoding::Zstd);
        assert!(length * 100 < digits.len() * 55, "{length}");
    }

    #[test]
    fn a_bomb_stops_at_the_expected_length() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
        let mut out = Vec::new();
        let result = codec().decompress(Encoding::Zstd, &bomb, 1000, &mut out);
        assert!(matches!(result, Err(FrameError::Decompress { .. })));
        assert!(out.capacity() < 10_000);
    }

    proptest! {
        #[test]
        fn every_content_comes_back(bytes in prop::collection::vec(any::<u8>(), 0..2000), repeat in 1_usize..100) {
            round_trip(&mut codec(), &bytes.repeat(repeat));
        }

        #[test]
        fn every_content_comes_back_on_every_base(
            bytes in prop::collection::vec(any::<u8>(), 0..2000), repeat in 1_usize..60, base in prop::collection::vec(any::<u8>(), 0..2000),
            flips in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 0..4)
        ) {
            let (mut codec, mut out, mut back) = (codec(), Vec::new(), Vec::new());
            let plain = [&bytes[..], &base].concat().repeat(repeat);
            for base in [base.clone(), [&base[..], &bytes].concat()] {
                match codec.compress_on_base(&plain, &base, &mut out).unwrap() {
                    Encoding::ZstdPrefix => {
                        codec.decompress_on_base(&base, &out, plain.len(), &mut back).unwrap();
                        prop_assert_eq!(&back, &plain);
                        for (at, xor) in &flips {
                            let at = at.index(out.len());
                            out[at] ^= xor;
                        }
                        if codec.decompress_on_base(&base, &out, plain.len(), &mut back).is_ok() {
                            prop_assert_eq!(back.len(), plain.len());
                        }
                    }
                    encoding => {
                        codec.decompress(encoding, &out, plain.len(), &mut back).unwrap();
                        prop_assert_eq!(&back, &plain);
                    }
                }
            }
        }

        #[test]
        fn hostile_bytes_give_errors(
            bytes in prop::collection::vec(any::<u8>(), 0..300), flips in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..4), expected in 0_usize..5000
        ) {
            let (mut codec, mut out) = (codec(), Vec::new());
            // Whatever it says, it says so without a panic, and gives no more than was asked for.
            for data in [bytes.clone(), [&[0x28, 0xb5, 0x2f, 0xfd], bytes.as_slice()].concat()] {
                if codec.decompress(Encoding::Zstd, &data, expected, &mut out).is_ok() {
                    prop_assert_eq!(out.len(), expected);
                }
            }
            let plain = text(expected as u64, 3000);
            let mut sealed = Vec::new();
            codec.compress(&plain, &mut sealed).unwrap();
            for (at, xor) in &flips {
                let at = at.index(sealed.len());
                sealed[at] ^= xor;
            }
            if codec.decompress(Encoding::Zstd, &sealed, plain.len(), &mut out).is_ok() {
                prop_assert_eq!(out.len(), plain.len());
            }
        }

        #[test]
        fn chunks_fill_the_frame(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..500), 0..60)) {
            let mut builder = FrameBuilder::new(2000);
            let (mut frames, mut back) = (Vec::new(), Vec::new());
            for (i, chunk) in chunks.iter().enumerate() {
                builder.push(id(i), chunk);
                if builder.is_full() {
                    frames.extend(builder.take());
                }
            }
            frames.extend(builder.take());
            prop_assert!(builder.is_empty() && builder.take().is_none());
            for frame in &frames {
                prop_assert!(frame.bytes.len() < 2500);
                let mut end = 0;
                for (id, offset, bytes) in frame.entries() {
                    prop_assert_eq!(offset as usize, end);
                    end += bytes.len();
                    back.push((id, bytes.to_vec()));
                }
                prop_assert_eq!(end, frame.bytes.len());
            }
            let expected: Vec<_> = chunks.into_iter().enumerate().map(|(i, chunk)| (id(i), chunk)).collect();
            prop_assert_eq!(back, expected);
        }
    }

    fn id(i: usize) -> ChunkId {
        ChunkId([u8::try_from(i).unwrap(); 32])
    }

    #[test]
    fn chunks_that_do_not_fill_the_frame_are_refused() {
        let check = |lengths: &[u32], fits: bool| {
            let chunks: Vec<_> = lengths
                .iter()
                .map(|&len| FrameChunk { id: id(1), len })
                .collect();
            assert_eq!(split_frame(&chunks, b"abcd").is_ok(), fits, "{lengths:?}");
        };
        check(&[4], true);
        check(&[1, 3], true);
        check(&[], false);
        check(&[1, 2], false);
        check(&[1, 4], false);
        check(&[u32::MAX, 5], false);
    }

    #[test]
    fn a_prefix_frame_needs_its_base() {
        let result = codec().decompress(Encoding::ZstdPrefix, b"abc", 3, &mut Vec::new());
        assert!(matches!(result, Err(FrameError::NoBase)));
    }

    /// Rows of a table, of which those with `gone` are left out.
    fn rows(seed: u64, count: usize, gone: impl Fn(usize) -> bool) -> Vec<u8> {
        let noise = random(seed, count * 16);
        let rows = noise.chunks(16).enumerate().filter(|(i, _)| !gone(*i));
        rows.flat_map(|(i, row)| format!("{i}\t{row:02x?}\n").into_bytes())
            .collect()
    }

    #[test]
    fn of_what_the_base_has_little_is_stored() {
        let mut codec = codec();
        let base = rows(1, 12_000, |_| false);
        assert!(base.len() > 800 << 10, "{}", base.len());
        let plain = rows(1, 12_000, |i| i % 100 == 7);
        let (mut on_base, mut back) = (Vec::new(), Vec::new());
        let encoding = codec.compress_on_base(&plain, &base, &mut on_base).unwrap();
        assert_eq!(encoding, Encoding::ZstdPrefix);
        assert!(on_base.len() < plain.len() / 300, "{}", on_base.len());
        codec
            .decompress_on_base(&base, &on_base, plain.len(), &mut back)
            .unwrap();
        assert!(back == plain);
        // A part of it, at the end.
        let tail = &plain[plain.len() - 30_000..];
        codec.compress_on_base(tail, &base, &mut on_base).unwrap();
        assert!(on_base.len() < 300, "{}", on_base.len());
    }

    #[test]
    fn a_base_that_is_of_no_use_is_left_out() {
        let mut codec = codec();
        let mut alone = Vec::new();
        for plain in [rows(1, 3000, |_| false), random(1, 300_000), Vec::new()] {
            let expected = codec.compress(&plain, &mut alone).unwrap();
            let mut out = Vec::new();
            for base in [random(2, 1 << 20), rows(3, 3000, |_| false), Vec::new()] {
                let encoding = codec.compress_on_base(&plain, &base, &mut out).unwrap();
                assert_eq!(encoding, expected);
                assert!(out == alone);
            }
        }
    }

    #[test]
    fn another_base_gives_no_content_of_its_own() {
        let mut codec = codec();
        let base = rows(1, 3000, |_| false);
        let plain = rows(1, 3000, |i| i == 1000);
        let (mut sealed, mut back) = (Vec::new(), Vec::new());
        codec.compress_on_base(&plain, &base, &mut sealed).unwrap();
        let others = [
            rows(2, 3000, |_| false),
            base[..base.len() - 1].to_vec(),
            Vec::new(),
        ];
        for other in others {
            let read = codec.decompress_on_base(&other, &sealed, plain.len(), &mut back);
            assert!(read.is_err() || back != plain);
        }
        for wrong in [0, 1, plain.len() - 1, plain.len() + 1] {
            let read = codec.decompress_on_base(&base, &sealed, wrong, &mut back);
            assert!(read.is_err(), "{wrong}");
        }
        for wrong in [FRAME_PLAIN_BYTES_MAX + 1, usize::MAX] {
            let read = codec.decompress_on_base(&base, &sealed, wrong, &mut back);
            assert!(matches!(read, Err(FrameError::TooLarge(_))));
        }
        let long = vec![0; FRAME_PLAIN_BYTES_MAX + 1];
        let read = codec.decompress_on_base(&long, &sealed, plain.len(), &mut back);
        assert!(matches!(read, Err(FrameError::TooLarge(_))));
    }

    #[test]
    fn a_frame_serves_again() {
        let mut builder = FrameBuilder::new(10);
        builder.push(id(1), b"0123456789");
        assert!(builder.is_full());
        let frame = builder.take().unwrap();
        builder.recycle(frame);
        builder.push(id(2), b"ab");
        assert!(!builder.is_full());
        assert_eq!(builder.plain_bytes(), 2);
        assert_eq!(builder.take().unwrap().bytes, b"ab");
    }
}
