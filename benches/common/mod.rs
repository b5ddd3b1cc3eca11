//! What several benches need: repositories, and data that is the same in every run.

use std::sync::Arc;

use holdfast::backend::Backend;
use holdfast::crypto::{Keyring, NewKey, Secret32, SystemRandom};
use holdfast::format::header::Suite;
use holdfast::format::repository::RepositoryFormat;
use holdfast::store::{Ambient, CreateOptions, Repository};

/// A fresh repository with the settings that `init` gives it.
pub(crate) fn repository(backend: Arc<dyn Backend>) -> Arc<Repository> {
    let id = Keyring::generate_repository_id(&mut SystemRandom);
    let format = RepositoryFormat::new(id, 0, Suite::Aes256Gcm);
    let keyring = Keyring::generate(id, Suite::Aes256Gcm, None, &mut SystemRandom);
    let secret = Secret32::generate(&mut SystemRandom);
    let options = CreateOptions {
        format,
        keyring,
        keys: vec![NewKey::key_file(&secret, "bench", 0)],
    };
    let made = Repository::create(backend, "bench", &options, Ambient::default());
    Arc::new(made.expect("an empty place takes a repository"))
}

/// Bytes that neither compress nor repeat.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}

/// Lines of a log: zstd 1 makes about a third of them, and no chunk repeats.
#[allow(dead_code, reason = "not every bench needs text")]
pub(crate) fn text(seed: u64, len: usize) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "connection",
        "accepted",
        "from",
        "user",
        "session",
        "closed",
        "after",
        "request",
        "table",
        "updated",
        "rows",
        "warning",
        "timeout",
        "retry",
        "index",
        "reload",
    ];
    let random = noise(seed, len / 4);
    let mut out = Vec::with_capacity(len + 64);
    for bytes in random.chunks_exact(8) {
        if out.len() >= len {
            break;
        }
        let number = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let words = bytes[4..].iter().map(|byte| WORDS[usize::from(byte & 15)]);
        let line = format!("2026-03-{:02} {number:010} ", bytes[4] % 28 + 1);
        out.extend_from_slice(line.as_bytes());
        for word in words {
            out.extend_from_slice(word.as_bytes());
            out.push(b' ');
        }
        out.push(b'\n');
    }
    out.truncate(len);
    out
}
