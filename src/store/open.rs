//! Creating and opening a repository: the plain `format` object and the key objects, each with its copy.
//!
//! Invariants:
//! 1. `format` is written last, so a creation that died looks like no repository (`an_unfinished_creation_is_no_repository`).
//! 2. A damaged object is read from its copy and said, and never taken for a wrong key (`damage_is_never_a_wrong_key`).
//! 3. A place that holds anything else is refused and not changed (`other_places_are_refused`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use zeroize::Zeroizing;

use super::state::State;
use super::{Ambient, Repository, SharedRandom, StoreError, put_durably};
use crate::backend::{Backend, BackendErrorKind, ByteRange, ObjectKind, ObjectName};
use crate::crypto::{Credential, KeyError, Keyring, NewKey, Secret32};
use crate::format::framed::FramedError;
use crate::format::id::ObjectHash;
use crate::format::key::{KeyKind, KeyObject, SecretSet};
use crate::format::repository::RepositoryFormat;

/// What a new repository is to be.
#[derive(Debug)]
pub struct CreateOptions<'a> {
    /// Its settings, with a fresh id.
    pub format: RepositoryFormat,
    /// Its secrets.
    pub keyring: Keyring,
    /// Its first key objects; at least one must give everything.
    pub keys: Vec<NewKey<'a>>,
}

/// What a key object says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// The hash that names the object.
    pub name: ObjectHash,
    /// For whom.
    pub kind: KeyKind,
    /// What people call it.
    pub label: String,
    /// Seconds since 1970.
    pub created: i64,
    /// Which secrets it gives.
    pub secrets: SecretSet,
}

/// What opens a key object.
#[derive(Clone)]
pub enum KeySecret {
    /// A passphrase, as it was typed.
    Passphrase(Zeroizing<Vec<u8>>),
    /// The 256 bits of a key file or recovery key.
    Key(Secret32),
}

impl fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySecret")
    }
}

/// What was read of a key object.
#[derive(Debug)]
pub struct StoredKey {
    /// What it says.
    pub info: KeyInfo,
    /// The object.
    pub object: KeyObject,
}

impl Repository {
    /// Creates a repository in an empty place and opens it.
    pub fn create(
        backend: Arc<dyn Backend>,
        place: &str,
        options: &CreateOptions<'_>,
        mut ambient: Ambient,
    ) -> Result<Self, StoreError> {
        let format_bytes = options.format.to_bytes();
        let format_hash = RepositoryFormat::hash_of(&format_bytes);
        let mut objects = Vec::new();
        for new in &options.keys {
            let wrapped = options
                .keyring
                .wrap(new, &format_hash, &mut *ambient.random);
            objects.push(wrapped.map_err(|error| StoreError::Refused(error.to_string()))?);
        }
        let Some(first) = objects
            .first()
            .map(|object| info(ObjectHash::of(&object.to_bytes()), object))
        else {
            return Err(StoreError::Refused("a repository needs a key".into()));
        };
        let occupied = || StoreError::Occupied {
            place: place.to_owned(),
        };
        backend.create_layout().map_err(|error| match error.kind {
            BackendErrorKind::AlreadyExists => occupied(),
            _ => error.into(),
        })?;
        let put = |name: ObjectName, bytes: &[u8]| match put_durably(
            &*backend,
            &name,
            bytes,
            ambient.pause,
        ) {
            Err(StoreError::Backend(error)) if error.kind == BackendErrorKind::AlreadyExists => {
                Err(occupied())
            }
            other => other,
        };
        for object in &objects {
            let bytes = object.to_bytes();
            let hash = ObjectHash::of(&bytes);
            put(ObjectName::key(hash.0), &bytes)?;
            put(ObjectName::key_copy(hash.0), &bytes)?;
        }
        put(ObjectName::format_copy(), &format_bytes)?;
        put(ObjectName::format(), &format_bytes)?;
        Ok(Self::assemble(
            backend,
            options.keyring.clone(),
            options.format.clone(),
            first,
            ambient,
        ))
    }

    /// Opens a repository. `unlock` is asked for what opens a key object, one after the other, until one opens.
    pub fn open(
        backend: Arc<dyn Backend>,
        place: &str,
        unlock: &mut dyn FnMut(&KeyInfo) -> Option<KeySecret>,
        ambient: Ambient,
    ) -> Result<Self, StoreError> {
        let mut warnings = Vec::new();
        let (format, format_hash) = read_format(&*backend, place, &mut warnings)?;
        let keys = list_keys(&*backend, &mut warnings)?;
        let begun = Instant::now();
        let opened = unlock_any(keys, unlock, &format, &format_hash);
        let kdf_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (keyring, key) = match (opened, warnings.pop()) {
            // With every key object damaged the key is not to blame.
            (Err(Unopened::NoneThere), Some(damage)) => return Err(damage),
            (Err(Unopened::NoneThere), None) => {
                return Err(StoreError::damaged("keys/", "there is no key object"));
            }
            (Err(Unopened::NoneFits(error)), _) => return Err(error),
            (Ok(opened), last) => {
                warnings.extend(last);
                opened
            }
        };
        let mut repository = Self::assemble(backend, keyring, format, key, ambient);
        repository.warnings = warnings;
        repository.kdf_ms = kdf_ms;
        Ok(repository)
    }

    /// The key objects that can be read, and damage that was found on the way.
    pub fn stored_keys(&self) -> Result<(Vec<StoredKey>, Vec<StoreError>), StoreError> {
        let mut warnings = Vec::new();
        let keys = list_keys(&*self.backend, &mut warnings)?;
        Ok((keys, warnings))
    }

    fn assemble(
        backend: Arc<dyn Backend>,
        keyring: Keyring,
        format: RepositoryFormat,
        key: KeyInfo,
        ambient: Ambient,
    ) -> Self {
        Self {
            backend,
            keyring,
            format,
            key,
            warnings: Vec::new(),
            kdf_ms: 0,
            now: ambient.now,
            pause: ambient.pause,
            written_by: ambient.written_by,
            random: Mutex::new(SharedRandom(ambient.random)),
            remembered: ambient.remembered,
            cache: ambient.cache,
            known: Mutex::new(Arc::new(State::empty())),
            run_packs: Mutex::default(),
        }
    }
}

fn info(name: ObjectHash, object: &KeyObject) -> KeyInfo {
    let description = object.description();
    KeyInfo {
        name,
        kind: description.kind.clone(),
        label: description.label.clone(),
        created: description.created,
        secrets: description.secrets,
    }
}

/// Reads an object; `None` if it is absent.
fn read(backend: &dyn Backend, name: &ObjectName) -> Result<Option<Vec<u8>>, StoreError> {
    match backend.get(name, ByteRange::All) {
        Ok(bytes) => Ok(Some(bytes.to_vec())),
        Err(error) if error.kind == BackendErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads `format`, or its copy.
fn read_format(
    backend: &dyn Backend,
    place: &str,
    warnings: &mut Vec<StoreError>,
) -> Result<(RepositoryFormat, ObjectHash), StoreError> {
    let mut errors = Vec::new();
    for name in [ObjectName::format(), ObjectName::format_copy()] {
        match read(backend, &name)?
            .map(|bytes| (RepositoryFormat::decode(&bytes), ObjectHash::of(&bytes)))
        {
            Some((Ok(format), hash)) => {
                warnings.extend(errors.into_iter().map(|error: Option<FramedError>| {
                    let what = error.map_or("it is gone".into(), |error| error.to_string());
                    StoreError::damaged(ObjectName::format(), what)
                }));
                return Ok((format, hash));
            }
            Some((Err(error), _)) => errors.push(Some(error)),
            None => errors.push(None),
        }
    }
    let errors: Vec<_> = errors.into_iter().flatten().collect();
    for error in &errors {
        match error {
            FramedError::Newer { .. } => {
                return Err(StoreError::NewerFormat {
                    object: place.to_owned(),
                    what: error.to_string(),
                });
            }
            FramedError::Damaged(_) => {
                return Err(StoreError::damaged(ObjectName::format(), error));
            }
            FramedError::NotHoldfast => {}
        }
    }
    match errors.is_empty() {
        true => Err(without_format(backend, place)?),
        false => Err(StoreError::NotOurs {
            place: place.to_owned(),
            what: "its file `format` is something else".into(),
        }),
    }
}

/// Says what a place without a `format` object is.
fn without_format(backend: &dyn Backend, place: &str) -> Result<StoreError, StoreError> {
    let nothing = StoreError::NoRepository {
        place: place.to_owned(),
    };
    let mut entries = false;
    match backend.list(ObjectKind::Log, &mut |_| entries = true) {
        Ok(_) if entries => {
            return Ok(StoreError::damaged(
                "format",
                "it is gone, and so is its copy",
            ));
        }
        Ok(_) => {}
        Err(error) if error.kind == BackendErrorKind::NotFound => return Ok(nothing),
        Err(error) => return Err(error.into()),
    }
    let strays = backend.list(ObjectKind::Format, &mut |_| {})?;
    Ok(match strays.count {
        0 => nothing,
        _ => StoreError::NotOurs {
            place: place.to_owned(),
            what: format!("it holds {}", strays.examples.join(", ")),
        },
    })
}

/// Reads every key object that is good, or whose copy is.
fn list_keys(
    backend: &dyn Backend,
    warnings: &mut Vec<StoreError>,
) -> Result<Vec<StoredKey>, StoreError> {
    let mut hashes: BTreeMap<ObjectHash, ()> = BTreeMap::new();
    backend.list(ObjectKind::Key, &mut |info| {
        if let Some(hash) = info.name.hash() {
            hashes.insert(ObjectHash(hash), ());
        }
    })?;
    let mut keys = Vec::new();
    for name in hashes.into_keys() {
        let mut damage = None;
        for path in [ObjectName::key(name.0), ObjectName::key_copy(name.0)] {
            match read_key(backend, &path, &name) {
                Ok(key) => {
                    keys.push(key);
                    break;
                }
                Err(error @ (StoreError::Damaged { .. } | StoreError::NewerFormat { .. })) => {
                    damage.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        warnings.extend(damage);
    }
    // What costs nothing is tried first, a passphrase last.
    keys.sort_by_key(|key| match key.info.kind {
        KeyKind::Plain => 0,
        KeyKind::KeyFile => 1,
        KeyKind::Recovery => 2,
        KeyKind::Passphrase { .. } => 3,
        KeyKind::Recipient { .. } => 4,
    });
    Ok(keys)
}

fn read_key(
    backend: &dyn Backend,
    path: &ObjectName,
    name: &ObjectHash,
) -> Result<StoredKey, StoreError> {
    let bytes = read(backend, path)?.ok_or_else(|| StoreError::damaged(path, "it is gone"))?;
    let object = KeyObject::decode(&bytes).map_err(|error| match error {
        FramedError::Newer { .. } => StoreError::NewerFormat {
            object: path.to_string(),
            what: error.to_string(),
        },
        _ => StoreError::damaged(path, error),
    })?;
    if ObjectHash::of(&bytes) != *name {
        return Err(StoreError::damaged(
            path,
            "its bytes do not have the hash that it is named by",
        ));
    }
    Ok(StoredKey {
        info: info(*name, &object),
        object,
    })
}

enum Unopened {
    /// No key object could be read.
    NoneThere,
    /// None opens with what was given.
    NoneFits(StoreError),
}

fn unlock_any(
    keys: Vec<StoredKey>,
    unlock: &mut dyn FnMut(&KeyInfo) -> Option<KeySecret>,
    format: &RepositoryFormat,
    format_hash: &ObjectHash,
) -> Result<(Keyring, KeyInfo), Unopened> {
    if keys.is_empty() {
        return Err(Unopened::NoneThere);
    }
    let mut tried = 0u32;
    for StoredKey { info, object } in keys {
        let secret = match info.kind {
            KeyKind::Plain => None,
            _ => match unlock(&info) {
                Some(secret) => Some(secret),
                None => continue,
            },
        };
        let credential = match &secret {
            Some(KeySecret::Passphrase(passphrase)) => Credential::Passphrase(passphrase),
            Some(KeySecret::Key(secret)) => Credential::Secret(secret),
            None => Credential::None,
        };
        match Keyring::unwrap(&object, credential, format, format_hash) {
            Ok(keyring) => return Ok((keyring, info)),
            Err(KeyError::WrongKey | KeyError::OtherCredential(_)) => tried += 1,
            Err(KeyError::OtherRepository(_) | KeyError::Unsupported(_)) => {}
            Err(error @ KeyError::Inconsistent(_)) => {
                let object = ObjectName::key(info.name.0);
                return Err(Unopened::NoneFits(StoreError::damaged(object, error)));
            }
            Err(error) => {
                let what = "cannot open a key object".to_owned();
                return Err(Unopened::NoneFits(StoreError::Local {
                    what,
                    source: Box::new(error),
                }));
            }
        }
    }
    let what = match tried {
        0 => "no key was given".to_owned(),
        _ => "it opens none of the repository's keys".to_owned(),
    };
    Err(Unopened::NoneFits(StoreError::WrongKey { what }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Fault, Faulty, Local, Memory};
    use crate::crypto::SeededRandom;
    use crate::format::framed;
    use crate::format::header::Suite;
    use crate::format::id::RepositoryId;
    use crate::format::repository::{FORMAT_MAGIC, KdfSettings};
    use crate::store::testing::ambient;

    const PASSPHRASE: &[u8] = b"correct horse";

    fn key_file() -> Secret32 {
        Secret32::take(&mut [5; 32])
    }

    /// Encrypted, with a passphrase that is cheap to stretch, and a key file.
    fn create(backend: Arc<dyn Backend>) -> Result<Repository, StoreError> {
        let mut random = SeededRandom::new(1);
        let id = RepositoryId([9; 16]);
        let kdf = KdfSettings {
            memory_kib: 8,
            passes: 1,
            lanes: 1,
        };
        let secret = key_file();
        let options = CreateOptions {
            format: RepositoryFormat::new(id, 0, Suite::Aes256Gcm),
            keyring: Keyring::generate(id, Suite::Aes256Gcm, None, &mut random),
            keys: vec![
                NewKey::passphrase(PASSPHRASE, kdf, "people", 0),
                NewKey::key_file(&secret, "nightly", 0),
            ],
        };
        Repository::create(backend, "there", &options, ambient(1))
    }

    fn open_with(
        backend: Arc<dyn Backend>,
        unlock: &mut dyn FnMut(&KeyInfo) -> Option<KeySecret>,
    ) -> Result<Repository, StoreError> {
        Repository::open(backend, "there", unlock, ambient(2))
    }

    fn open(backend: Arc<dyn Backend>) -> Result<Repository, StoreError> {
        open_with(backend, &mut |info| match info.kind {
            KeyKind::KeyFile => Some(KeySecret::Key(key_file())),
            _ => Some(KeySecret::Passphrase(PASSPHRASE.to_vec().into())),
        })
    }

    fn created() -> Memory {
        let memory = Memory::new();
        create(Arc::new(memory.clone())).unwrap();
        memory
    }

    #[test]
    fn each_key_opens() {
        let memory = created();
        let begun = create(Arc::new(Memory::new())).unwrap();
        let check = |wanted: &'static str, secret: KeySecret| {
            let mut unlock = |info: &KeyInfo| (info.label == wanted).then(|| secret.clone());
            let repository = open_with(Arc::new(memory.clone()), &mut unlock).unwrap();
            assert_eq!(repository.key().label, wanted);
            assert_eq!(repository.format(), begun.format());
            assert_eq!(repository.keyring().secrets(), SecretSet::ALL);
            assert!(repository.warnings().is_empty());
        };
        check("people", KeySecret::Passphrase(PASSPHRASE.to_vec().into()));
        check("nightly", KeySecret::Key(key_file()));
        assert_eq!(
            open(Arc::new(memory))
                .unwrap()
                .stored_keys()
                .unwrap()
                .0
                .len(),
            2
        );
    }

    #[test]
    fn a_wrong_key_is_said() {
        let check = |secret: Option<KeySecret>, words: &str| {
            let error = open_with(Arc::new(created()), &mut |_| secret.clone()).unwrap_err();
            assert_eq!(error.exit_code(), 12, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        };
        check(
            Some(KeySecret::Passphrase(b"correct hose".to_vec().into())),
            "none of the repository's keys",
        );
        check(
            Some(KeySecret::Key(Secret32::take(&mut [6; 32]))),
            "none of the repository's keys",
        );
        check(None, "no key was given");
    }

    #[test]
    fn damage_is_never_a_wrong_key() {
        let good = created().contents();
        assert_eq!(good.len(), 6, "two formats, two keys twice");
        for name in good.keys() {
            let bytes = &good[name];
            for position in (0..bytes.len()).step_by(11) {
                let mut flipped = bytes.to_vec();
                flipped[position] ^= 0x20;
                for bad in [flipped, bytes[..position].to_vec()] {
                    let memory = Memory::with_contents(good.clone());
                    memory.replace(name, bad);
                    let repository = open(Arc::new(memory)).unwrap();
                    let warned: Vec<_> = repository
                        .warnings()
                        .iter()
                        .map(ToString::to_string)
                        .collect();
                    // The copies are read by `verify`, and here only where they are needed.
                    assert_eq!(
                        warned.len(),
                        usize::from(!name.is_copy()),
                        "{name}: {warned:?}"
                    );
                    assert!(
                        warned
                            .iter()
                            .all(|warning| warning.contains(&name.to_string())),
                        "{warned:?}"
                    );
                    assert!(repository.warnings().iter().all(StoreError::is_damage));
                }
            }
            let memory = Memory::with_contents(good.clone());
            memory.remove(name);
            let repository = open(Arc::new(memory)).unwrap();
            assert_eq!(
                repository.warnings().len(),
                usize::from(!name.is_copy()),
                "{name} is gone"
            );
        }
    }

    #[test]
    fn damage_of_both_copies_is_damage() {
        let good = created().contents();
        let spoil = |wanted: &dyn Fn(&ObjectName) -> bool| {
            let memory = Memory::with_contents(good.clone());
            for name in good.keys().filter(|name| wanted(name)) {
                let mut bytes = good[name].to_vec();
                bytes[40] ^= 1;
                memory.replace(name, bytes);
            }
            open(Arc::new(memory))
        };
        let error = spoil(&|name| name.kind() == ObjectKind::Format).unwrap_err();
        assert!(error.is_damage(), "{error}");
        let error = spoil(&|name| name.kind() == ObjectKind::Key).unwrap_err();
        assert!(error.is_damage(), "{error}");
        let one = good
            .keys()
            .find(|name| name.kind() == ObjectKind::Key)
            .and_then(ObjectName::hash);
        let repository = spoil(&|name| name.hash().is_some() && name.hash() == one).unwrap();
        assert_eq!(repository.warnings().len(), 1, "the other key opens");

        let memory = Memory::with_contents(good.clone());
        memory.remove(&ObjectName::format());
        memory.remove(&ObjectName::format_copy());
        memory.replace(&ObjectName::log(1), vec![1]);
        assert!(
            open(Arc::new(memory)).unwrap_err().is_damage(),
            "a log without a format"
        );
    }

    #[test]
    fn newer_and_foreign_formats_are_named() {
        let check = |bytes: &[u8], words: &str| {
            let memory = created();
            memory.replace(&ObjectName::format(), bytes.to_vec());
            memory.replace(&ObjectName::format_copy(), bytes.to_vec());
            let error = open(Arc::new(memory)).unwrap_err();
            assert_eq!(error.exit_code(), 1, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        };
        check(
            &framed::frame(FORMAT_MAGIC, 2, b"other fields").unwrap(),
            "newer version",
        );
        check(b"[core]\n\tbare = true\n", "not a holdfast repository");
    }

    #[test]
    fn other_places_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let local =
            |name: &str| Arc::new(Local::new(folder.path().join(name).to_str().unwrap()).unwrap());
        assert_eq!(open(local("nowhere")).unwrap_err().exit_code(), 10);
        assert!(!folder.path().join("nowhere").exists());
        std::fs::create_dir(folder.path().join("empty")).unwrap();
        assert_eq!(open(local("empty")).unwrap_err().exit_code(), 10);

        std::fs::create_dir(folder.path().join("photos")).unwrap();
        std::fs::write(folder.path().join("photos/cat.jpg"), b"cat").unwrap();
        let error = open(local("photos")).unwrap_err();
        assert!(
            matches!(&error, StoreError::NotOurs { .. }) && error.to_string().contains("cat.jpg"),
            "{error}"
        );
        let error = create(local("photos")).unwrap_err();
        assert!(matches!(error, StoreError::Occupied { .. }), "{error}");
        assert_eq!(
            std::fs::read_dir(folder.path().join("photos"))
                .unwrap()
                .count(),
            1
        );

        create(local("ours")).unwrap();
        open(local("ours")).unwrap();
        let error = create(local("ours")).unwrap_err();
        assert!(matches!(error, StoreError::Occupied { .. }), "{error}");
        open(local("ours")).unwrap();
    }

    #[test]
    fn an_unfinished_creation_is_no_repository() {
        let mut finished = false;
        for operation in 1..40 {
            let memory = Memory::new();
            let faulty = Arc::new(Faulty::new(Arc::new(memory.clone()), None));
            faulty.plan(Some(Fault::from(operation, BackendErrorKind::NoSpace)));
            match create(faulty) {
                Ok(_) => finished = true,
                // With the copy of `format` all is there.
                Err(_) if memory.contents().contains_key(&ObjectName::format_copy()) => {
                    open(Arc::new(memory)).unwrap();
                }
                Err(_) => assert_eq!(open(Arc::new(memory)).unwrap_err().exit_code(), 10),
            }
        }
        assert!(finished);
    }
}
