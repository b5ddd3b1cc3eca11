//! Certificates and keys: PEM, DER, PKCS #12. Whatever the file holds, facts come back.
#![no_main]

use std::path::Path;

use holdfast::source::certificates::read_certificate_bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for name in ["some.pem", "some.pfx", "some.key"] {
        drop(read_certificate_bytes(
            Path::new(name),
            data,
            Some(b"secret"),
        ));
    }
});
