//! Properties of the borders, on data of many kinds.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

/// A small deterministic generator (SplitMix64), so that data repeats from its seed.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| self.next().to_le_bytes());
        let mut bytes: Vec<u8> = words.take(length.div_ceil(8)).flatten().collect();
        bytes.truncate(length);
        bytes
    }
}

fn key(seed: u64) -> ChunkerKey {
    let mut secret = [0; 32];
    secret[..8].copy_from_slice(&seed.to_le_bytes());
    ChunkerKey::derive(&secret, ChunkerDomain::Files)
}

pub(super) fn chunker(seed: u64, avg: u32) -> Chunker {
    Chunker::new(&key(seed), ChunkerParams::for_average(avg).unwrap()).unwrap()
}

fn lengths(chunker: &Chunker, data: &[u8]) -> Vec<usize> {
    let mut lengths = Vec::new();
    assert_eq!(chunker.cut_all(data, true, &mut lengths), data.len());
    lengths
}

/// Data of one of several kinds: random, few symbols, text, periodic, constant runs between random bytes.
fn sample(kind: u8, seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    match kind {
        0 => random.bytes(length),
        1 => random
            .bytes(length)
            .iter()
            .map(|byte| b'a' + byte % 2)
            .collect(),
        2 => {
            let words = std::iter::repeat_with(|| format!("{} ", random.below(3000)));
            words.flat_map(String::into_bytes).take(length).collect()
        }
        3 => {
            let period = random.bytes(1 + usize::try_from(seed % 5000).unwrap());
            period.iter().copied().cycle().take(length).collect()
        }
        4 => {
            let words = std::iter::repeat_with(|| format!("{} ", random.below(3000)));
            words
                .flat_map(String::into_bytes)
                .flat_map(|byte| [byte, 0])
                .take(length)
                .collect()
        }
        _ => {
            let runs = std::iter::repeat_with(|| {
                let byte = random.next().to_le_bytes()[0];
                let mut run = vec![byte; usize::try_from(random.below(700)).unwrap()];
                run.extend(random.bytes(300));
                run
            });
            runs.flatten().take(length).collect()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn kernels_agree(
        seed: u64, kind in 0_u8..6, avg_bits in 9_u32..=13, length in 0_usize..100_000, skip in 0_usize..64
    ) {
        let params = ChunkerParams::for_average(1 << avg_bits).unwrap();
        let data = sample(kind, seed, length + skip);
        let data = &data[skip..];
        let expected = lengths(&Chunker::with_kernel(&key(seed), params, Kernel::SCALAR).unwrap(), data);
        for kernel in Kernel::available() {
            let chunker = Chunker::with_kernel(&key(seed), params, kernel).unwrap();
            prop_assert_eq!(&expected, &lengths(&chunker, data), "{:?}", kernel);
        }
    }

    #[test]
    fn kernels_cut_rows_alike(
        seed: u64, kind in 0_u8..6, avg_bits in 9_u32..=12, length in 0_usize..60_000, skip in 0_usize..40,
        newline in 1_u64..400, pieces in prop::collection::vec(1_usize..9000, 1..20)
    ) {
        let params = ChunkerParams::for_average(1 << avg_bits).unwrap();
        let mut data = sample(kind, seed, length + skip);
        let mut random = Random::new(seed);
        let mut at = 0;
        while at < data.len() {
            data[at] = b'\n';
            at += usize::try_from(1 + random.below(newline)).unwrap();
        }
        let data = &data[skip..];
        let cut = |kernel| {
            let chunker = Chunker::with_kernel(&key(seed), params, kernel).unwrap();
            // Pieces arrive as they like; the rest of one waits for the next.
            let (mut lengths, mut start, mut seen) = (Vec::new(), 0, 0);
            for piece in pieces.iter().cycle() {
                seen = data.len().min(seen + piece);
                while let Some(length) = chunker.cut_at_row_end(&data[start..seen], seen == data.len()) {
                    lengths.push(length);
                    start += length;
                }
                if seen == data.len() {
                    return lengths;
                }
            }
            lengths
        };
        let expected = cut(Kernel::SCALAR);
        for kernel in Kernel::available() {
            prop_assert_eq!(&expected, &cut(kernel), "{:?}", kernel);
        }
        let whole = Chunker::with_kernel(&key(seed), params, Kernel::SCALAR).unwrap();
        let (mut lengths, mut rest) = (Vec::new(), data);
        while let Some(length) = whole.cut_at_row_end(rest, true) {
            lengths.push(length);
            rest = &rest[length..];
        }
        prop_assert_eq!(expected, lengths);
    }

    #[test]
    fn kernels_find_the_same_candidate_in_any_range(
        seed: u64, kind in 0_u8..6, start in 32_usize..200, count in 0_usize..3000, threshold: u64
    ) {
        // A dense stage 1, so that several positions of a block pass.
        let params = ChunkerParams { stage1_threshold: 1 << 27, ..ChunkerParams::for_average(512).unwrap() };
        let hash = key(seed).draw(&params).unwrap();
        let data = sample(kind, seed, start + count);
        let expected = (start..start + count).find(|&at| {
            hash.passes_stage1(data[at - 16..at].try_into().unwrap())
                && Kernel::SCALAR.find(&hash, &data, at..at + 1, threshold).is_some()
        });
        for kernel in Kernel::available() {
            prop_assert_eq!(expected, kernel.find(&hash, &data, start..start + count, threshold), "{:?}", kernel);
        }
    }

    #[test]
    fn sizes_are_within_bounds_and_add_up(seed: u64, kind in 0_u8..6, avg_bits in 9_u32..=14, length in 0_usize..300_000) {
        let chunker = chunker(seed, 1 << avg_bits);
        let data = sample(kind, seed, length);
        let lengths = lengths(&chunker, &data);
        prop_assert_eq!(lengths.is_empty(), data.is_empty());
        if let Some((last, others)) = lengths.split_last() {
            let (min, max) = (chunker.inner.min, chunker.inner.max);
            prop_assert!(others.iter().all(|length| (min..=max).contains(length)));
            prop_assert!((1..=max).contains(last));
        }
        prop_assert_eq!(chunker.chunks(&data).flatten().copied().collect::<Vec<u8>>(), data);
    }

    #[test]
    fn cuts_do_not_depend_on_segmentation(
        seed: u64, kind in 0_u8..6, length in 0_usize..60_000, pieces in prop::collection::vec(1_usize..9000, 1..20)
    ) {
        let chunker = chunker(seed, 1024);
        let data = sample(kind, seed, length);
        let (mut found, mut start, mut seen) = (Vec::new(), 0, 0);
        for piece in pieces.iter().cycle() {
            seen = data.len().min(seen + piece);
            start += chunker.cut_all(&data[start..seen], seen == data.len(), &mut found);
            if seen == data.len() {
                break;
            }
        }
        prop_assert_eq!(start, data.len());
        prop_assert_eq!(found, lengths(&chunker, &data));
    }

    #[test]
    fn borders_come_back_after_an_insertion(seed: u64, at in 0_usize..200_000, inserted in 1_usize..5000) {
        let chunker = chunker(seed, 1024);
        let old = sample(0, seed, 200_000);
        let new = [&old[..at], Random::new(!seed).bytes(inserted).as_slice(), &old[at..]].concat();
        let known: HashSet<&[u8]> = chunker.chunks(&old).collect();
        let fresh: usize = chunker.chunks(&new).filter(|chunk| !known.contains(chunk)).map(<[u8]>::len).sum();
        // The bytes inserted, the chunks that they fall into, and what passes until two borders meet: a few chunks as a rule, sixteen once in
        // some ten thousand times, and each sixteen more as seldom again.
        prop_assert!(fresh <= inserted + 96 * 1024, "{} new bytes", fresh);
    }
}

#[test]
fn what_is_undecided_is_not_cut() {
    let chunker = chunker(1, 1024);
    let data = sample(0, 1, 4096);
    assert_eq!(chunker.cut(&data[..4095], false), None);
    assert!(chunker.cut(&data, false).is_some());
    assert_eq!(chunker.cut(&[], true), None);
    assert_eq!(chunker.cut(&data[..512], true), Some(512));
}

#[test]
fn constant_runs_are_cut_at_the_maximum() {
    for seed in 0..8 {
        for avg in [512, 16 << 10] {
            let chunker = chunker(seed, avg);
            for byte in [0, 0xff, b' ', b'0', 0x80] {
                let data = vec![byte; 3 * chunker.max_bytes()];
                assert_eq!(lengths(&chunker, &data), [chunker.max_bytes(); 3]);
            }
        }
    }
}

/// Means over several keys: random data near the average, structured data not always at the maximum.
#[test]
fn means_are_sane() {
    let avg = 4096;
    for (kind, allowed) in [
        (0, 0.95..1.06),
        (1, 0.7..1.5),
        (2, 0.9..1.2),
        (4, 0.7..1.6),
        (5, 0.9..2.5),
    ] {
        let means: Vec<f64> = (0..6)
            .map(|seed| {
                let data = sample(kind, seed, 4 << 20);
                let count = lengths(&chunker(seed, avg), &data).len();
                f64::from(4 << 20) / f64::from(u32::try_from(count).unwrap()) / f64::from(avg)
            })
            .collect();
        assert!(
            means.iter().all(|mean| allowed.contains(mean)),
            "kind {kind}: {means:?}"
        );
    }
}

/// Whatever the period, chunks stay within the bounds, and they repeat as the data does.
#[test]
fn periods_give_bounded_chunks() {
    for period in [2, 3, 7, 64, 512, 4096] {
        let pattern = Random::new(period).bytes(usize::try_from(period).unwrap());
        let data: Vec<u8> = pattern.iter().copied().cycle().take(1 << 20).collect();
        let chunker = chunker(period, 2048);
        let distinct: HashSet<&[u8]> = chunker.chunks(&data).collect();
        assert!(
            distinct.len() <= 4200,
            "period {period}: {}",
            distinct.len()
        );
        assert!(
            lengths(&chunker, &data)
                .iter()
                .rev()
                .skip(1)
                .all(|length| (1024..=8192).contains(length))
        );
    }
}

#[test]
fn keys_and_domains_cut_differently() {
    let data = sample(0, 9, 1 << 20);
    let borders = |chunker: &Chunker| -> HashSet<usize> {
        let mut end = 0;
        lengths(chunker, &data)
            .iter()
            .map(|length| {
                end += length;
                end
            })
            .collect()
    };
    let params = ChunkerParams::for_average(1024).unwrap();
    let tables = ChunkerKey::derive(&[0; 32], ChunkerDomain::Tables);
    let all = [
        borders(&chunker(0, 1024)),
        borders(&chunker(1, 1024)),
        borders(&Chunker::new(&tables, params).unwrap()),
    ];
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        // The end of the data is always shared, and a thousand borders among a million positions meet now and then.
        assert!(all[a].intersection(&all[b]).count() < 20);
    }
}

/// The first borders of fixed data with fixed keys. If this test fails, nothing deduplicates against existing repositories: change
/// the code back, or make a new version of the chunker beside the old one.
#[test]
fn borders_are_pinned() {
    let data = sample(0, 42, 1 << 20);
    let first = |avg| lengths(&chunker(42, avg), &data)[..6].to_vec();
    assert_eq!(first(1024), [973, 1073, 847, 800, 803, 917]);
    assert_eq!(first(16 << 10), [14105, 15156, 19791, 14131, 14850, 15616]);
}

/// The module docs, word by word, without any of the code under test but the parameters.
#[test]
fn the_description_is_what_the_code_does() {
    let secret = [0x17; 32];
    let params = ChunkerParams::for_average(1024).unwrap();
    let subkey = blake3::derive_key("holdfast 2026-11-20 chunker v1 files", &secret);
    let mut stream = blake3::Hasher::new_keyed(&subkey).finalize_xof();
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    let stage1 = |draw: &[u8], before: &[u8]| {
        let end = before.len();
        (0..4).fold(word(&draw[16..20]), |sum, j| {
            let multiplier = word(&draw[4 * j..4 * j + 4]) | 1;
            let loaded = word(&before[end - 4 * (j + 1)..end - 4 * j]);
            sum.wrapping_add(loaded.wrapping_mul(multiplier))
        }) < params.stage1_threshold
    };
    let mut draw = [0; 36];
    stream.fill(&mut draw);
    while (0..=255).any(|byte| stage1(&draw, &[byte; 16])) {
        stream.fill(&mut draw);
    }
    let sip = siphasher::sip::SipHasher13::new_with_key(draw[20..].try_into().unwrap());
    let data = sample(2, 5, 200_000);
    let (mut start, mut expected) = (0, Vec::new());
    while start < data.len() {
        let rest = &data[start..data.len().min(start + 4096)];
        let candidate = (512..rest.len()).find(|&at| {
            let limit = if at < 800 { 1 << 58 } else { 1 << 62 };
            stage1(&draw, &rest[..at]) && sip.hash(&rest[at - 32..at]) < limit
        });
        expected.push(candidate.unwrap_or(rest.len()));
        start += expected.last().unwrap();
    }
    let key = ChunkerKey::derive(&secret, ChunkerDomain::Files);
    assert_eq!(
        lengths(&Chunker::new(&key, params).unwrap(), &data),
        expected
    );
}

#[test]
fn kernels_have_names() {
    for kernel in Kernel::available() {
        assert_eq!(Kernel::named(kernel.name()), Some(kernel));
    }
    assert_eq!(Kernel::named("abacus"), None);
    assert!(Kernel::available().any(|kernel| kernel == Kernel::detect()));
    assert!(Kernel::available().any(|kernel| kernel == Kernel::chosen()));
    let error = Kernel::choose("abacus").unwrap_err().to_string();
    assert!(
        error.contains("`abacus`") && error.contains("scalar"),
        "{error}"
    );
}

#[test]
fn debug_shows_no_secret() {
    let text = format!("{:?}", chunker(1, 1024));
    assert!(
        text.contains("avg_bytes") && !text.contains("multipliers") && !text.contains("sip"),
        "{text}"
    );
}

#[test]
fn the_last_row_end_is_found_wherever_it_is() {
    let mut random = Random::new(3);
    for length in (0..1100).step_by(7) {
        let mut bytes = vec![b'x'; length];
        assert_eq!(last_row_end(&bytes), None);
        for _ in 0..random.below(4) * u64::from(length > 0) {
            let place = random.below(length as u64);
            bytes[usize::try_from(place).unwrap()] = b'\n';
        }
        let expected = bytes.iter().rposition(|&byte| byte == b'\n');
        assert_eq!(last_row_end(&bytes), expected, "{length}");
    }
}
