//! The `format` object: as it is, and as the body of an intact frame, which chance would never give a right checksum.
#![no_main]

use holdfast::format::framed;
use holdfast::format::repository::{FORMAT_MAGIC, REPOSITORY_VERSION, RepositoryFormat};
use holdfast::pipeline::chunker::ChunkerParams;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    check(data);
    if let Some(bytes) = framed::frame(FORMAT_MAGIC, REPOSITORY_VERSION, data) {
        check(&bytes);
    }
});

fn check(bytes: &[u8]) {
    let Ok(format) = RepositoryFormat::decode(bytes) else {
        return;
    };
    assert!(format.is_acceptable());
    assert_eq!(
        RepositoryFormat::decode(&format.to_bytes()),
        Ok(format.clone())
    );
    for settings in [&format.file_chunker, &format.table_chunker] {
        // May be refused, must not panic.
        drop(ChunkerParams::try_from(settings));
    }
}
