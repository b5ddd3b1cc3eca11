//! The script of roles and tablespaces.
#![no_main]

use holdfast::target::postgres::globals::parse_globals;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    drop(parse_globals(data));
});
