//! What `database.json` says.
#![no_main]

use holdfast::format::database::DatabaseInfo;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(info) = serde_json::from_slice::<DatabaseInfo>(data) {
        let text = serde_json::to_vec(&info).expect("strings and numbers");
        let again: DatabaseInfo = serde_json::from_slice(&text).expect("what was written is read");
        assert_eq!(again, info);
    }
});
