//! Identifiers as names in the tree: every one is a valid name and comes back; any name decodes or is refused.
#![no_main]

use holdfast::format::node::is_valid_name;
use holdfast::format::path_encoding::{decode_name, encode_name};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    drop(decode_name(data));
    let name = encode_name(data);
    assert!(data.is_empty() || is_valid_name(&name));
    assert_eq!(decode_name(&name).as_deref(), Some(data));
});
