//! Small repositories for tests of commands.

use std::path::Path;
use std::sync::Arc;

use crate::backend::{Backend, Memory};
use crate::crypto::{Keyring, NewKey, Secret32, SystemRandom};
use crate::format::header::Suite;
use crate::format::repository::{ChunkerSettings, RepositoryFormat};
use crate::ops::backup::{BackupOptions, BackupSummary, Interrupt, backup};
use crate::stats::Stats;
use crate::store::{Ambient, CreateOptions, KeySecret, Repository};

/// The key of every test repository.
pub(crate) fn key() -> Secret32 {
    Secret32::take(&mut [9; 32])
}

/// A repository in `backend` with small chunks, frames and packs, so that little data makes many.
pub(crate) fn create(backend: Arc<dyn Backend>, suite: Suite) -> Arc<Repository> {
    let id = Keyring::generate_repository_id(&mut SystemRandom);
    let mut format = RepositoryFormat::new(id, 0, suite);
    format.file_chunker = ChunkerSettings::around(2 << 10);
    format.table_chunker = ChunkerSettings::around(1 << 10);
    format.frame_bytes = 32 << 10;
    format.pack_bytes = 256 << 10;
    let keyring = Keyring::generate(id, suite, None, &mut SystemRandom);
    let key = key();
    let new = match suite {
        Suite::None => NewKey::plain("test", 0),
        _ => NewKey::key_file(&key, "test", 0),
    };
    let options = CreateOptions {
        format,
        keyring,
        keys: vec![new],
    };
    Arc::new(Repository::create(backend, "test", &options, Ambient::default()).unwrap())
}

/// A fresh repository in memory.
pub(crate) fn repository() -> (Arc<Memory>, Arc<Repository>) {
    let backend = Arc::new(Memory::default());
    let repository = create(backend.clone(), Suite::Aes256Gcm);
    (backend, repository)
}

/// Opens the repository in `backend` anew, as another process would.
pub(crate) fn reopen(backend: Arc<dyn Backend>) -> Arc<Repository> {
    let mut unlock = |_: &crate::store::KeyInfo| Some(KeySecret::Key(key()));
    Arc::new(Repository::open(backend, "test", &mut unlock, Ambient::default()).unwrap())
}

/// Backs up one path.
pub(crate) fn back_up(repository: &Arc<Repository>, path: &Path) -> (BackupSummary, Arc<Stats>) {
    let mut options = BackupOptions::new("host");
    options.paths.push(path.to_path_buf());
    options.workers = Some(2);
    let stats = Arc::new(Stats::default());
    let summary = backup(repository, &options, &stats, &Interrupt::default()).unwrap();
    (summary, stats)
}

/// Bytes that do not compress and repeat nowhere, the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}

/// A tree of files below `root`: small, large, empty, nested, compressible.
pub(crate) fn sample_tree(root: &Path) {
    std::fs::create_dir_all(root.join("a/b/c")).unwrap();
    std::fs::create_dir_all(root.join("empty")).unwrap();
    for (seed, i) in (0..60u64).zip(0usize..) {
        std::fs::write(
            root.join(format!("a/small-{i:03}")),
            noise(seed, 100 + i * 7),
        )
        .unwrap();
    }
    std::fs::write(root.join("a/b/large"), noise(1000, 700_000)).unwrap();
    std::fs::write(
        root.join("a/b/c/text"),
        "the same line again\n".repeat(20_000),
    )
    .unwrap();
    std::fs::write(root.join("nothing"), b"").unwrap();
    std::os::unix::fs::symlink("a/b/large", root.join("link")).unwrap();
}
