//! Entries of the commit log: any bytes give a value or an error, and a value comes back.
#![no_main]

use holdfast::format::log::LogEntry;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(value) = minicbor::decode::<LogEntry>(data) {
        let bytes = minicbor::to_vec(&value).expect("a vector takes every byte");
        assert_eq!(
            minicbor::decode::<LogEntry>(&bytes).expect("what was encoded decodes"),
            value
        );
    }
});
