//! Lists of paths and globs.
#![no_main]

use std::path::Path;

use holdfast::site::lists::parse_list;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(entries) = parse_list(data, Path::new("some.list")) {
        assert!(entries.iter().all(|entry| !entry.pattern.is_empty()));
    }
});
