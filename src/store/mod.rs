//! A repository on a backend: opening it, its sealed objects, and its commit log.
//!
//! It does not know what a file or a table is, runs no thread, and nothing in it deletes.
//!
//! | part | holds |
//! |---|---|
//! | [`open`] | creating and opening: `format` and key objects with their copies |
//! | [`state`] | STATE(n), the pure fold over the log |
//! | [`log`] | reading the log forward to its end |
//! | [`append`] | the tests and the one way to change anything |
//! | [`session`] | a run that writes: its session, its objects, its commit |
//! | [`remember`] | the last entry that this host saw |
//! | [`chunk_index`] | where each chunk is: a file in this host's cache, made of the index runs |
//!
//! Invariants:
//! 1. What is read under a hash has that hash, or is refused (`a_changed_object_is_named`).
//! 2. An object whose creation had an unclear answer is read back before it counts (`objects_survive_unclear_answers`).
//!
//! Threads: a [`Repository`] is shared by any number of threads. Its locks are held for a look-up each, never while the backend works.

pub mod append;
pub mod chunk_index;
pub mod error;
pub mod log;
pub mod open;
pub mod pack_check;
pub mod packs;
pub mod reader;
pub mod remember;
pub mod session;
#[cfg(test)]
mod simulation;
pub mod state;
#[cfg(test)]
mod testing;
pub mod tree;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::backend::{Backend, BackendError, BackendErrorKind, ByteRange, ObjectKind, ObjectName};
use crate::crypto::{Keyring, Random, SealError, SystemRandom};
use crate::format::header::{HeaderError, SealedKind};
use crate::format::id::ObjectHash;
use crate::format::index::IndexRun;
use crate::format::ledger::LedgerEntry;
use crate::format::log::{GcList, Quarantine};
use crate::format::repository::RepositoryFormat;
use crate::format::snapshot::Record;

pub use append::{Appended, Candidate, Decision, Lost, Outcome, Validated};
pub use error::StoreError;
pub use open::{CreateOptions, KeyInfo, KeySecret};
pub use remember::{Position, Remembered};
pub use session::{Commit, PacksDurable, RecordDurable, RunsDurable, Session};
pub use state::{BrokenEntry, Named, State, Violation};

/// How often a call whose answer was unclear is made again.
const TRIES_MAX: u32 = 8;
/// The first pause between two tries; each further one is twice as long.
const PAUSE_FIRST: Duration = Duration::from_millis(20);

/// What a repository takes from its surroundings, so that a test can put something else in its place.
pub struct Ambient {
    /// Seconds since 1970; for people, never for safety.
    pub now: fn() -> i64,
    /// Waits before a call is made again.
    pub pause: fn(Duration),
    /// Where nonces and keys come from.
    pub random: Box<dyn Random + Send>,
    /// Host and process, as they stand in log entries.
    pub written_by: String,
    /// Where the last entry seen is remembered; nowhere if there is none.
    pub remembered: Option<Remembered>,
    /// Folder for what can be read again from the repository; nothing is kept if there is none.
    pub cache: Option<PathBuf>,
}

impl Default for Ambient {
    fn default() -> Self {
        Self {
            now: || {
                let elapsed = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)
            },
            pause: std::thread::sleep,
            random: Box::new(SystemRandom),
            written_by: String::new(),
            remembered: None,
            cache: None,
        }
    }
}

impl fmt::Debug for Ambient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ambient")
            .field("written_by", &self.written_by)
            .finish_non_exhaustive()
    }
}

/// An open repository.
#[derive(Debug)]
pub struct Repository {
    backend: Arc<dyn Backend>,
    keyring: Keyring,
    format: RepositoryFormat,
    /// The key object that opened it.
    key: KeyInfo,
    /// Damage that was found at opening and could be read around.
    warnings: Vec<StoreError>,
    kdf_ms: u64,
    now: fn() -> i64,
    pause: fn(Duration),
    written_by: String,
    random: Mutex<SharedRandom>,
    remembered: Option<Remembered>,
    cache: Option<PathBuf>,
    /// The newest state that was read.
    known: Mutex<Arc<State>>,
    /// Packs that runs name, for the fold's checks. Runs never change.
    run_packs: Mutex<HashMap<ObjectHash, Arc<[ObjectHash]>>>,
}

struct SharedRandom(Box<dyn Random + Send>);

impl fmt::Debug for SharedRandom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Random")
    }
}

/// A lock whose holder panicked guards values that are replaced whole, so they are good all the same.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Repository {
    /// Where the objects are.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// The secrets that the key in use gives.
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// The settings.
    pub fn format(&self) -> &RepositoryFormat {
        &self.format
    }

    /// The key object that opened it.
    pub fn key(&self) -> &KeyInfo {
        &self.key
    }

    /// Damage that was found at opening: the run goes on with the copies, and ends with exit code 4.
    pub fn warnings(&self) -> &[StoreError] {
        &self.warnings
    }

    /// Milliseconds that opening its key objects took.
    pub fn kdf_ms(&self) -> u64 {
        self.kdf_ms
    }

    /// Calls `f` with the source of random bytes.
    pub fn with_random<T>(&self, f: impl FnOnce(&mut dyn Random) -> T) -> T {
        f(&mut *lock(&self.random).0)
    }

    /// Seals `plaintext`, stores it under its hash, durably, and returns the hash.
    pub fn put_object(
        &self,
        kind: SealedKind,
        session: u64,
        plaintext: &[u8],
    ) -> Result<ObjectHash, StoreError> {
        let sealed =
            self.with_random(|random| self.keyring.seal_object(kind, session, plaintext, random));
        let bytes = sealed.map_err(|error| seal_error(&kind, error))?;
        self.put_stored(kind, &bytes)
    }

    /// Stores the bytes of a sealed object under their hash, durably, and returns the hash.
    pub fn put_stored(&self, kind: SealedKind, bytes: &[u8]) -> Result<ObjectHash, StoreError> {
        let hash = ObjectHash::of(bytes);
        let name = ObjectName::hashed(object_kind(kind), hash.0);
        put_durably(&*self.backend, &name, bytes, self.pause)?;
        Ok(hash)
    }

    /// Reads and opens an object; its bytes are checked against its name first.
    pub fn load_object(&self, kind: SealedKind, hash: &ObjectHash) -> Result<Vec<u8>, StoreError> {
        let name = ObjectName::hashed(object_kind(kind), hash.0);
        let bytes = self.backend.get(&name, ByteRange::All)?;
        if ObjectHash::of(&bytes) != *hash {
            return Err(StoreError::damaged(
                name,
                "its bytes do not have the hash that it is named by",
            ));
        }
        let opened = self.keyring.open_object(kind, &bytes);
        Ok(opened.map_err(|error| seal_error(&name, error))?.1)
    }

    /// Reads a snapshot record.
    pub fn load_record(&self, hash: &ObjectHash) -> Result<Record, StoreError> {
        let plaintext = self.load_object(SealedKind::Snapshot, hash)?;
        decode(ObjectName::hashed(ObjectKind::Snapshot, hash.0), &plaintext)
    }

    /// Stores an entry of the ledger. No log entry names it.
    pub fn put_ledger(&self, entry: &LedgerEntry) -> Result<ObjectHash, StoreError> {
        let plaintext = minicbor::to_vec(entry).expect("a vector takes every byte");
        self.put_object(SealedKind::Ledger, 0, &plaintext)
    }

    /// Reads an entry of the ledger.
    pub fn load_ledger(&self, hash: &ObjectHash) -> Result<LedgerEntry, StoreError> {
        let plaintext = self.load_object(SealedKind::Ledger, hash)?;
        decode(ObjectName::hashed(ObjectKind::Ledger, hash.0), &plaintext)
    }

    /// Reads an index run and checks it against the newest state that was read.
    pub fn load_run(&self, hash: &ObjectHash) -> Result<IndexRun, StoreError> {
        let plaintext = self.load_object(SealedKind::Index, hash)?;
        let name = ObjectName::hashed(ObjectKind::Index, hash.0);
        let run = IndexRun::decode(&plaintext).map_err(|error| StoreError::damaged(name, error))?;
        let packs = self.keep_run_packs(hash, &run);
        self.known_state().check_run(hash, &packs)?;
        Ok(run)
    }

    /// Remembers which packs a run names, those of its bases too.
    fn keep_run_packs(&self, hash: &ObjectHash, run: &IndexRun) -> Arc<[ObjectHash]> {
        let packs: Arc<[ObjectHash]> = run.named_packs().into();
        lock(&self.run_packs).insert(*hash, Arc::clone(&packs));
        packs
    }

    fn wait(&self, attempt: u32) {
        (self.pause)(pause_before(attempt));
    }
}

impl Named for Repository {
    fn gc_list(&self, name: &ObjectHash) -> Result<GcList, StoreError> {
        let path = ObjectName::hashed(ObjectKind::Gc, name.0);
        match self.load_object(SealedKind::Gc, name) {
            Err(StoreError::Backend(error)) if error.kind == BackendErrorKind::NotFound => Err(
                StoreError::damaged(path, "it is gone, although a log entry names it"),
            ),
            Err(error) => Err(error),
            Ok(plaintext) => decode(path, &plaintext),
        }
    }

    fn quarantine(&self, name: &ObjectHash) -> Result<Option<Quarantine>, StoreError> {
        let path = ObjectName::hashed(ObjectKind::Quarantine, name.0);
        match self.load_object(SealedKind::Quarantine, name) {
            Err(StoreError::Backend(error)) if error.kind == BackendErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(plaintext) => decode(path, &plaintext).map(Some),
        }
    }

    fn run_packs(&self, name: &ObjectHash) -> Option<Arc<[ObjectHash]>> {
        lock(&self.run_packs).get(name).cloned()
    }
}

/// The folder of a sealed kind.
fn object_kind(kind: SealedKind) -> ObjectKind {
    match kind {
        SealedKind::Pack => ObjectKind::Pack,
        SealedKind::Index => ObjectKind::Index,
        SealedKind::Snapshot => ObjectKind::Snapshot,
        SealedKind::Log => ObjectKind::Log,
        SealedKind::Gc => ObjectKind::Gc,
        SealedKind::Ledger => ObjectKind::Ledger,
        SealedKind::Quarantine => ObjectKind::Quarantine,
        SealedKind::Checkpoint => ObjectKind::Checkpoint,
        SealedKind::Map => ObjectKind::Map,
    }
}

fn seal_error(object: &dyn fmt::Display, error: SealError) -> StoreError {
    match error {
        SealError::Header(HeaderError::Newer(_)) => StoreError::NewerFormat {
            object: object.to_string(),
            what: error.to_string(),
        },
        SealError::Missing(missing) => StoreError::MissingSecret {
            what: missing.action.to_owned(),
        },
        SealError::FrameTooLong | SealError::PublicKey => StoreError::Local {
            what: format!("cannot seal {object}"),
            source: Box::new(error),
        },
        _ => StoreError::damaged(object, error),
    }
}

/// Decodes CBOR that takes all of `plaintext`.
fn decode<'b, T: minicbor::Decode<'b, ()>>(
    object: ObjectName,
    plaintext: &'b [u8],
) -> Result<T, StoreError> {
    let mut decoder = minicbor::Decoder::new(plaintext);
    match decoder.decode() {
        Ok(value) if decoder.position() == plaintext.len() => Ok(value),
        Ok(_) => Err(StoreError::damaged(object, "bytes follow its end")),
        Err(error) if error.is_unknown_variant() => Err(StoreError::NewerFormat {
            object: object.to_string(),
            what: error.to_string(),
        }),
        Err(error) => Err(StoreError::damaged(object, error)),
    }
}

/// Creates an object whose name belongs to its bytes. After an unclear answer it is read back; an equal object there is ours.
fn put_durably(
    backend: &dyn Backend,
    name: &ObjectName,
    bytes: &[u8],
    pause: fn(Duration),
) -> Result<(), StoreError> {
    let mut attempt = 0;
    loop {
        let Err(error) = backend.put_new(name, bytes) else {
            return Ok(());
        };
        match backend.get(name, ByteRange::All) {
            Ok(stored) if stored == bytes => return Ok(backend.sync_names(&[name.kind()])?),
            Ok(_) => return Err(error.into()),
            Err(_) if !is_unclear(&error) || attempt == TRIES_MAX => return Err(error.into()),
            Err(_) => {}
        }
        attempt += 1;
        pause(pause_before(attempt));
    }
}

/// True if the call may have been done, or may succeed when it is made again.
fn is_unclear(error: &BackendError) -> bool {
    matches!(
        error.kind,
        BackendErrorKind::Transient | BackendErrorKind::AlreadyExists
    )
}

fn pause_before(attempt: u32) -> Duration {
    PAUSE_FIRST * 2u32.saturating_pow(attempt.saturating_sub(1).min(TRIES_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Fault, Faulty, Memory};

    #[test]
    fn a_changed_object_is_named() {
        let memory = Memory::new();
        let repository = testing::create(Arc::new(memory.clone()), 1).unwrap();
        let hash = repository
            .put_object(SealedKind::Gc, 0, b"content")
            .unwrap();
        let other = repository.put_object(SealedKind::Gc, 0, b"other").unwrap();
        assert_eq!(
            repository.load_object(SealedKind::Gc, &hash).unwrap(),
            b"content"
        );
        let name = ObjectName::hashed(ObjectKind::Gc, hash.0);
        let good = memory.contents()[&name].clone();
        let other = memory.contents()[&ObjectName::hashed(ObjectKind::Gc, other.0)].clone();
        let mut flipped = good.to_vec();
        flipped[good.len() / 2] ^= 1;
        for bad in [&flipped[..], &good[..good.len() - 1], &other[..], &[][..]] {
            memory.replace(&name, bad.to_vec());
            let error = repository.load_object(SealedKind::Gc, &hash).unwrap_err();
            assert!(
                error.is_damage() && error.to_string().contains(&name.to_string()),
                "{error}"
            );
        }
        memory.replace(&name, good);
        assert!(
            repository
                .load_object(SealedKind::Quarantine, &hash)
                .is_err()
        );
        let list = repository.gc_list(&hash).unwrap_err();
        assert!(
            list.is_damage(),
            "it is sealed well and does not decode: {list}"
        );
    }

    #[test]
    fn objects_survive_unclear_answers() {
        let memory = Memory::new();
        testing::create(Arc::new(memory.clone()), 1).unwrap();
        for fault in [
            Fault::lost_answer(1),
            Fault::once(1, BackendErrorKind::Transient),
        ] {
            let faulty = Arc::new(Faulty::new(Arc::new(memory.clone()), None));
            let repository = testing::open(faulty.clone(), 2);
            faulty.plan(Some(Fault {
                first: faulty.operations() + 1,
                ..fault
            }));
            let hash = repository
                .put_object(SealedKind::Gc, 0, b"content")
                .unwrap();
            assert_eq!(faulty.faults_met(), 1);
            assert_eq!(
                repository.load_object(SealedKind::Gc, &hash).unwrap(),
                b"content"
            );
        }
        let faulty = Arc::new(Faulty::new(Arc::new(memory), None));
        let repository = testing::open(faulty.clone(), 3);
        faulty.plan(Some(Fault::from(
            faulty.operations() + 1,
            BackendErrorKind::NoSpace,
        )));
        let error = repository
            .put_object(SealedKind::Gc, 0, b"content")
            .unwrap_err();
        assert!(
            matches!(error, StoreError::Backend(_)) && error.exit_code() == 1,
            "{error}"
        );
    }
}
