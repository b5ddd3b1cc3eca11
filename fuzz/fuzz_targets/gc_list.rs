//! Lists of what a prune condemns: any bytes give a value or an error, and a value comes back.
#![no_main]

use holdfast::format::log::GcList;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(value) = minicbor::decode::<GcList>(data) {
        let bytes = minicbor::to_vec(&value).expect("a vector takes every byte");
        assert_eq!(
            minicbor::decode::<GcList>(&bytes).expect("what was encoded decodes"),
            value
        );
    }
});
