//! Padded lengths: never shorter, at most an eighth longer, and padding again changes nothing.
#![no_main]

use holdfast::format::padme::padme;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|len: u64| {
    let padded = padme(len);
    assert!(padded >= len && padded - len <= len / 8);
    assert_eq!(padme(padded), padded);
});
