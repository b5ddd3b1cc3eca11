//! Pack directories and footers: what is let through lies inside its pack.
#![no_main]

use holdfast::format::header::HEADER_LEN_WRAPPED;
use holdfast::format::pack::{FOOTER_LEN, FRAME_COUNT_MAX, Footer, PackDirectory};
use libfuzzer_sys::fuzz_target;

const HEADER: u64 = HEADER_LEN_WRAPPED as u64;

fuzz_target!(|data: &[u8]| {
    if let Some((footer, _)) = data.split_at_checked(FOOTER_LEN)
        && let Ok(footer) = Footer::decode(footer, 32 << 20)
    {
        assert!(footer.directory_offset + u64::from(footer.directory_len) < 32 << 20);
        assert!(footer.frame_count <= FRAME_COUNT_MAX);
        assert_eq!(Footer::decode(&footer.encode(), 32 << 20), Ok(footer));
    }
    if let Ok(directory) = PackDirectory::decode(data, HEADER, 32 << 20) {
        for frame in &directory.frames {
            assert!(u64::from(frame.offset) >= HEADER);
            assert!(u64::from(frame.offset) + u64::from(frame.sealed_len) <= 32 << 20);
            let chunks: u64 = frame.chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
            assert_eq!(chunks, u64::from(frame.raw_len));
        }
        let again = PackDirectory::decode(&directory.encode(), HEADER, 32 << 20);
        assert_eq!(again, Ok(directory));
    }
});
