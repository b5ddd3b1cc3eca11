//! Chunks of a directory's stream: names that are let through can be created below a directory.
#![no_main]

use holdfast::format::node::{decode_nodes, encode_item, is_valid_name};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(nodes) = decode_nodes(data) else {
        return;
    };
    let mut bytes = Vec::new();
    for node in &nodes {
        assert!(is_valid_name(&node.name));
        encode_item(node, &mut bytes);
    }
    assert!(nodes.is_sorted_by(|a, b| a.name < b.name));
    assert_eq!(
        decode_nodes(&bytes).expect("what was encoded decodes"),
        nodes
    );
});
