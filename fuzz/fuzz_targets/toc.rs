//! The table of contents of pg_dump's archives, read from any bytes.
#![no_main]

use holdfast::target::postgres::toc::Toc;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    drop(Toc::parse(data));
});
