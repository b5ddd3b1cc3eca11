//! Pages of large objects and the lines about them: no length is trusted, what is read fits its limits.
#![no_main]

use holdfast::format::large_object::{LargeObjectInfo, PAGE_BYTES_MAX, PageReader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut pages = PageReader::new(data);
    while let Ok(Some((_, offset, page))) = pages.next_page() {
        assert!(!page.is_empty() && page.len() <= PAGE_BYTES_MAX as usize);
        assert!(offset.checked_add(page.len() as u64).is_some());
    }
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(info) = serde_json::from_slice::<LargeObjectInfo>(line) {
            let text = serde_json::to_vec(&info).expect("strings and numbers");
            let again: LargeObjectInfo =
                serde_json::from_slice(&text).expect("what was written is read");
            assert_eq!(again, info);
        }
    }
});
