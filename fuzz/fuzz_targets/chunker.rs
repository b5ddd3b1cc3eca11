//! The chunker: every kernel cuts alike, chunks add up, and sizes are within bounds.
#![no_main]

use std::sync::OnceLock;

use holdfast::pipeline::chunker::{Chunker, ChunkerDomain, ChunkerKey, ChunkerParams, Kernel};
use libfuzzer_sys::fuzz_target;

fn chunkers() -> &'static [Chunker] {
    static CHUNKERS: OnceLock<Vec<Chunker>> = OnceLock::new();
    CHUNKERS.get_or_init(|| {
        let key = ChunkerKey::derive(&[7; 32], ChunkerDomain::Files);
        let params = ChunkerParams::for_average(512).expect("the smallest average");
        Kernel::available()
            .map(|kernel| Chunker::with_kernel(&key, params, kernel).expect("good parameters"))
            .collect()
    })
}

fuzz_target!(|data: &[u8]| {
    let mut first: Option<[Vec<usize>; 2]> = None;
    for chunker in chunkers() {
        let mut cuts = [Vec::new(), Vec::new()];
        let mut rest = data;
        while let Some(len) = chunker.cut(rest, true) {
            assert!(len > 0 && len <= chunker.max_bytes());
            cuts[0].push(len);
            rest = &rest[len..];
        }
        rest = data;
        while let Some(len) = chunker.cut_at_row_end(rest, true) {
            assert!(len > 0 && len <= chunker.max_bytes());
            cuts[1].push(len);
            rest = &rest[len..];
        }
        assert!(
            cuts.iter()
                .all(|cuts| cuts.iter().sum::<usize>() == data.len())
        );
        assert_eq!(*first.get_or_insert_with(|| cuts.clone()), cuts);
    }
});
