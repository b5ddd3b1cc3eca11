//! Paths of objects: a path and its name determine each other.
#![no_main]

use holdfast::backend::ObjectName;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(path) = std::str::from_utf8(data)
        && let Some(name) = ObjectName::parse(path)
    {
        assert_eq!(name.to_string(), path);
    }
});
