//! Connection strings and URIs, and what is left of them when secrets are taken out.
#![no_main]

use holdfast::site::redact_conninfo;
use holdfast::source::postgres::ConnInfo;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    drop(ConnInfo::parse(text));
    let shown = redact_conninfo(text);
    drop(redact_conninfo(&shown));
});
