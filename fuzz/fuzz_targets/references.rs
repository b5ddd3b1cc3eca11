//! Streams of items one after the other: chunk references, attributes, holes, skipped items.
#![no_main]

use holdfast::format::node::{ChunkRef, Hole, Xattr, decode_items, encode_item};
use holdfast::format::snapshot::SkippedItem;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    check::<ChunkRef>(data);
    check::<Xattr>(data);
    check::<Hole>(data);
    check::<SkippedItem>(data);
});

fn check<T>(data: &[u8])
where
    T: for<'b> minicbor::Decode<'b, ()> + minicbor::Encode<()> + PartialEq + std::fmt::Debug,
{
    let mut items: Vec<T> = Vec::new();
    if decode_items(data, |item| items.push(item)).is_err() {
        return;
    }
    let mut bytes = Vec::new();
    for item in &items {
        encode_item(item, &mut bytes);
    }
    let mut again = Vec::new();
    decode_items(&bytes, |item: T| again.push(item)).expect("what was encoded decodes");
    assert_eq!(items, again);
}
