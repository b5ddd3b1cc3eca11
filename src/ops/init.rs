//! Creates a repository: its settings, its secrets, and the keys that open it.
//!
//! It reads no passphrase and writes no key file; the caller hands over what opens the repository.
//!
//! Failure: the `format` object is written last, so a run that dies leaves a place that is no repository, and that a second run takes.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::backend::Backend;
use crate::crypto::{Keyring, NewKey, Random, Secret32};
use crate::error::{Error, Result};
use crate::format::header::Suite;
use crate::format::repository::{ChunkerSettings, RepositoryFormat};
use crate::store::{Ambient, CreateOptions, Repository, StoreError};

/// The smallest average of chunks that can be asked for.
pub const CHUNK_BYTES_MIN: u32 = 4 << 10;
/// The largest one: the longest chunk, four times as long, still fits into a frame.
pub const CHUNK_BYTES_MAX: u32 = 256 << 10;

/// What opens the new repository.
#[derive(Debug)]
pub enum FirstKey {
    /// Whoever has a key file with these bits.
    KeyFile(Secret32),
    /// Whoever knows this.
    Passphrase(Passphrase),
    /// Everybody: no encryption.
    Nothing,
}

/// A passphrase as it was typed; never shown.
pub struct Passphrase(pub Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase")
    }
}

/// What the new repository is to be.
#[derive(Debug)]
pub struct InitOptions<'a> {
    /// What people call the place.
    pub place: &'a str,
    /// What opens it, beside the recovery key.
    pub key: FirstKey,
    /// What people call the key.
    pub label: &'a str,
    /// Average bytes of a chunk of a file, where it is not the default.
    pub chunk_bytes: Option<u64>,
    /// The same for rows of tables and large objects.
    pub table_chunk_bytes: Option<u64>,
    /// The repository that content is to be named and cut as.
    pub dedup_from: Option<&'a Repository>,
}

/// A new repository.
#[derive(Debug)]
pub struct Created {
    /// It.
    pub repository: Repository,
    /// The recovery key, to be shown once; none without encryption.
    pub recovery: Option<Secret32>,
}

/// Creates a repository in an empty place.
pub fn init(
    backend: Arc<dyn Backend>,
    options: &InitOptions<'_>,
    mut ambient: Ambient,
) -> Result<Created> {
    let random = &mut *ambient.random;
    let now = (ambient.now)();
    let suite = match options.key {
        FirstKey::Nothing => Suite::None,
        FirstKey::KeyFile(_) | FirstKey::Passphrase(_) => Suite::Aes256Gcm,
    };
    let format = settings(options, suite, now, random)?;
    let dedup = options.dedup_from.map(dedup_secret).transpose()?;
    let keyring = Keyring::generate(format.id, suite, dedup, random);
    let recovery = (suite != Suite::None).then(|| Secret32::generate(random));
    let label = options.label;
    let first = match &options.key {
        FirstKey::KeyFile(secret) => NewKey::key_file(secret, label, now),
        FirstKey::Passphrase(passphrase) => {
            NewKey::passphrase(&passphrase.0, format.kdf, label, now)
        }
        FirstKey::Nothing => NewKey::plain(label, now),
    };
    let second = recovery
        .as_ref()
        .map(|secret| NewKey::recovery(secret, "recovery key", now));
    let create = CreateOptions {
        format,
        keyring,
        keys: std::iter::once(first).chain(second).collect(),
    };
    let repository = Repository::create(backend, options.place, &create, ambient)?;
    Ok(Created {
        repository,
        recovery,
    })
}

fn settings(
    options: &InitOptions<'_>,
    suite: Suite,
    now: i64,
    random: &mut dyn Random,
) -> Result<RepositoryFormat> {
    let mut format = RepositoryFormat::new(Keyring::generate_repository_id(random), now, suite);
    if let Some(other) = options.dedup_from {
        // Equal content has equal ids only where it is also cut alike.
        format.file_chunker = other.format().file_chunker;
        format.table_chunker = other.format().table_chunker;
    }
    if let Some(bytes) = options.chunk_bytes {
        format.file_chunker = chunker(bytes)?;
    }
    if let Some(bytes) = options.table_chunk_bytes {
        format.table_chunker = chunker(bytes)?;
    }
    Ok(format)
}

fn chunker(bytes: u64) -> Result<ChunkerSettings> {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    if (CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&bytes) {
        return Ok(ChunkerSettings::around(bytes));
    }
    Err(Error::Message(format!(
        "chunks can be {} KiB to {} KiB on average",
        CHUNK_BYTES_MIN >> 10,
        CHUNK_BYTES_MAX >> 10
    )))
}

fn dedup_secret(other: &Repository) -> Result<Secret32> {
    let secret = other.keyring().dedup.clone();
    secret.ok_or_else(|| {
        Error::Store(StoreError::MissingSecret {
            what: "share the dedup secret".into(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Memory;
    use crate::store::KeySecret;

    fn options(key: FirstKey) -> InitOptions<'static> {
        InitOptions {
            place: "memory",
            key,
            label: "first",
            chunk_bytes: None,
            table_chunk_bytes: None,
            dedup_from: None,
        }
    }

    fn open(
        backend: Arc<dyn Backend>,
        secret: Option<KeySecret>,
    ) -> Result<Repository, StoreError> {
        Repository::open(
            backend,
            "memory",
            &mut |_| secret.clone(),
            Ambient::default(),
        )
    }

    #[test]
    fn both_keys_open_what_was_created() {
        let backend: Arc<dyn Backend> = Arc::new(Memory::new());
        let key = Secret32::take(&mut [7; 32]);
        let created = init(
            backend.clone(),
            &options(FirstKey::KeyFile(key.clone())),
            Ambient::default(),
        )
        .unwrap();
        let recovery = created.recovery.unwrap();
        for secret in [key.clone(), recovery] {
            open(backend.clone(), Some(KeySecret::Key(secret))).unwrap();
        }
        assert_eq!(open(backend.clone(), None).unwrap_err().exit_code(), 12);
        let again = init(
            backend,
            &options(FirstKey::KeyFile(key)),
            Ambient::default(),
        );
        assert!(again.unwrap_err().to_string().contains("already"));
    }

    #[test]
    fn a_shared_dedup_secret_brings_its_settings() {
        let backend = || Arc::new(Memory::new());
        let mut first = options(FirstKey::Nothing);
        first.chunk_bytes = Some(64 << 10);
        let first = init(backend(), &first, Ambient::default()).unwrap();
        assert!(first.recovery.is_none());
        let mut second = options(FirstKey::Nothing);
        second.dedup_from = Some(&first.repository);
        let second = init(backend(), &second, Ambient::default()).unwrap();
        let chunker = |created: &Created| created.repository.format().file_chunker;
        assert_eq!(chunker(&first), chunker(&second));
        assert_eq!(chunker(&first).bytes_average, 64 << 10);
        assert_eq!(
            first.repository.keyring().dedup,
            second.repository.keyring().dedup
        );
    }

    #[test]
    fn chunk_sizes_have_bounds() {
        let check = |bytes: u64, good: bool| {
            let mut options = options(FirstKey::Nothing);
            options.chunk_bytes = Some(bytes);
            let created = init(Arc::new(Memory::new()), &options, Ambient::default());
            assert_eq!(created.is_ok(), good, "{bytes}");
            options.chunk_bytes = None;
            options.table_chunk_bytes = Some(bytes);
            let created = init(Arc::new(Memory::new()), &options, Ambient::default());
            assert_eq!(created.is_ok(), good, "{bytes}");
        };
        check(4 << 10, true);
        check(256 << 10, true);
        check((4 << 10) - 1, false);
        check(u64::MAX, false);
    }
}
