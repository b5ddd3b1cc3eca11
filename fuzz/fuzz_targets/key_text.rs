//! Key files and recovery keys as people have them.
#![no_main]

use holdfast::site::key_text::{
    format_key_file, format_recovery_key, parse_key_file, parse_recovery_key,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(key) = parse_key_file(data) {
        let again = parse_key_file(format_key_file(&key).as_bytes()).expect("our own text");
        assert_eq!(*again, *key);
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(key) = parse_recovery_key(text)
    {
        let again = parse_recovery_key(&format_recovery_key(&key)).expect("our own text");
        assert_eq!(*again, *key);
    }
});
