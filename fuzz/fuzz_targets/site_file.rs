//! Site files: a site or errors with a place, and no text of the file in an error's chain that is longer than a line.
#![no_main]

use std::path::Path;

use holdfast::site::SiteFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Err(error) = SiteFile::parse(text, Path::new("site.toml")) {
        assert!(!error.to_string().is_empty());
    }
});
