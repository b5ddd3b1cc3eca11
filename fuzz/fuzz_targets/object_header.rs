//! Headers of sealed objects: what decodes has one form.
#![no_main]

use holdfast::format::header::Header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(header) = Header::decode(data) {
        let bytes = header.to_bytes();
        assert_eq!(bytes.len(), header.encoded_len());
        assert_eq!(data.get(..bytes.len()), Some(&bytes[..]));
    }
});
