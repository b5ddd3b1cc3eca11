//! Index runs: every entry that is let through lies inside a frame of the run's own table.
#![no_main]

use holdfast::format::index::IndexRun;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(run) = IndexRun::decode(data) else {
        return;
    };
    assert!(run.entries.is_sorted_by_key(|entry| (entry.id, entry.pack)));
    for entry in &run.entries {
        let frame = run.packs[entry.pack as usize].frames[entry.frame as usize];
        assert!(u64::from(entry.offset) + u64::from(entry.len) <= u64::from(frame.raw_len));
    }
    assert_eq!(IndexRun::decode(&run.encode()), Ok(run));
});
