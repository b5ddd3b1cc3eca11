//! A flat, write-once object store: the trait that the repository stands on, and what implements it.
//!
//! A backend keeps bytes under names. It knows nothing of encryption or of what is inside an object, it does not retry, and it
//! never decides what may be deleted.
//!
//! # Invariants
//!
//! Every sentence of [`Backend`] and [`NewObject`] is a check in [`conformance`], which every backend and every wrapper passes.
//! Those that the safety of a repository rests on:
//!
//! 1. A name is given to one object only, whoever creates it at the same time (check `one_creator_wins`).
//! 2. A name that can be seen has all its bytes, and they are durable (check `objects_appear_whole`; on a disk see [`local`]).
//! 3. Nothing but [`Backend::delete`] removes an object, and it takes a [`Condemned`] name only.
//!
//! # Failure
//!
//! After an error or a crash in `put_new` or `commit` the object is complete or absent. The caller who needs to know which reads
//! it back. An object without a name leaves nothing behind, but for [`local`] on file systems without `O_TMPFILE`.
//!
//! # Threads
//!
//! A backend is used by any number of threads at once. A [`NewObject`] belongs to one thread at a time.

pub mod conformance;
mod counting;
mod error;
mod faulty;
mod limited;
pub mod local;
mod memory;
mod name;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;

pub use counting::{Counting, Counts};
pub use error::{BackendError, BackendErrorKind, Operation, Subject};
pub use faulty::{Fault, Faulty};
pub use limited::Limited;
pub use local::{Local, Publishing};
pub use memory::Memory;
pub use name::{NotAnObject, ObjectKind, ObjectName};

/// A flat, write-once object store.
pub trait Backend: fmt::Debug + Send + Sync {
    /// Prepares an empty place for a repository; what is prepared already is left as it is.
    ///
    /// A place that holds objects, or anything else that is not ours, is refused with `AlreadyExists` and not changed.
    fn create_layout(&self) -> Result<(), BackendError>;

    /// Creates an object. `Ok` means that it is durable, its name included.
    ///
    /// A name that exists gives `AlreadyExists`; nothing is ever overwritten. After an error or a crash the object is complete
    /// or absent, never torn.
    fn put_new(&self, name: &ObjectName, body: &[u8]) -> Result<(), BackendError> {
        let mut object = self.begin(name.kind())?;
        object.append(body)?;
        object.commit(name)
    }

    /// Starts an object whose name is known at its end, because it is the hash of its bytes: append, then commit.
    fn begin(&self, kind: ObjectKind) -> Result<Box<dyn NewObject>, BackendError>;

    /// Commits several objects at once: all data first, then all names; `Ok` means that all are durable.
    ///
    /// It stops at the first error; then each of them is complete or absent.
    fn commit_many(
        &self,
        objects: Vec<(Box<dyn NewObject>, ObjectName)>,
    ) -> Result<(), BackendError> {
        let mut kinds: Vec<ObjectKind> = objects.iter().map(|(_, name)| name.kind()).collect();
        for (object, name) in objects {
            object.publish(&name)?;
        }
        kinds.sort_unstable();
        kinds.dedup();
        self.sync_names(&kinds)
    }

    /// Reads a part of an object: exactly the bytes asked for. An object that is too short for them gives `Short`.
    fn get(&self, name: &ObjectName, range: ByteRange) -> Result<Bytes, BackendError>;

    /// Reads from `offset` on until `buffer` is full; an object that is too short for that gives `Short`, and the content of
    /// `buffer` is then without meaning.
    fn read_into(
        &self,
        name: &ObjectName,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), BackendError>;

    /// Returns the length of an object.
    fn len(&self, name: &ObjectName) -> Result<u64, BackendError>;

    /// Whether an object exists.
    fn exists(&self, name: &ObjectName) -> Result<bool, BackendError> {
        match self.len(name) {
            Ok(_) => Ok(true),
            Err(error) if error.kind == BackendErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Hands every object of a kind to `each`, in no order, and returns what else was found there.
    ///
    /// What was there before the call and is not deleted meanwhile is handed over exactly once.
    fn list(
        &self,
        kind: ObjectKind,
        each: &mut dyn FnMut(ObjectInfo),
    ) -> Result<Strays, BackendError>;

    /// Hands every log entry with a number above `seq` to `each`, in no order.
    fn list_log_after(
        &self,
        seq: u64,
        each: &mut dyn FnMut(ObjectInfo),
    ) -> Result<Strays, BackendError> {
        self.list(ObjectKind::Log, &mut |info| {
            if info.name.seq() > Some(seq) {
                each(info);
            }
        })
    }

    /// Deletes an object; deleting an absent one is `Ok`. Format objects and log entries are refused with `Denied`.
    ///
    /// It is not durable: a condemned object that comes back after a loss of power is garbage as before.
    fn delete(&self, name: &Condemned) -> Result<(), BackendError>;

    /// Makes every name of these kinds durable that can be seen now, whoever created it.
    fn sync_names(&self, kinds: &[ObjectKind]) -> Result<(), BackendError>;

    /// Removes what dead writers left behind that never became an object, and returns how many there were.
    fn remove_abandoned(&self) -> Result<u64, BackendError> {
        Ok(0)
    }

    /// Returns the space that is left, where the store has a limit.
    fn free_bytes(&self) -> Result<Option<u64>, BackendError>;

    /// Returns the root of a repository that lies in this host's file system, so that nobody backs it up into itself. It is
    /// absolute; links in it are not resolved.
    fn local_path(&self) -> Option<&Path> {
        None
    }
}

/// An object that has no name yet. Dropped without a commit, it leaves nothing.
pub trait NewObject: fmt::Debug + Send {
    /// Adds bytes at the end.
    fn append(&mut self, bytes: &[u8]) -> Result<(), BackendError>;

    /// Makes what was appended durable, so that a later commit is quick. May be called from any thread.
    fn sync(&mut self) -> Result<(), BackendError>;

    /// Gives the object its name, as [`Backend::put_new`] does. `Ok` means that it is durable, its name included.
    ///
    /// # Panics
    ///
    /// If the name is of another kind than the object was begun with.
    fn commit(self: Box<Self>, name: &ObjectName) -> Result<(), BackendError>;

    /// As `commit`, but the name is durable only after [`Backend::sync_names`] of its kind; the data are at once.
    fn publish(self: Box<Self>, name: &ObjectName) -> Result<(), BackendError> {
        self.commit(name)
    }
}

/// A part of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// The whole object.
    All,
    /// `len` bytes from `offset` on.
    Exact {
        /// Position of the first byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
    },
    /// The last bytes, as many as it says.
    Last(u64),
}

impl ByteRange {
    /// Returns offset and length of this part in an object of `object_len` bytes; `None` if it is too short.
    #[must_use]
    pub fn within(self, object_len: u64) -> Option<(u64, u64)> {
        match self {
            Self::All => Some((0, object_len)),
            Self::Exact { offset, len } => {
                (offset.checked_add(len)? <= object_len).then_some((offset, len))
            }
            Self::Last(len) => Some((object_len.checked_sub(len)?, len)),
        }
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("0+all"),
            Self::Exact { offset, len } => write!(f, "{offset}+{len}"),
            Self::Last(len) => write!(f, "end-{len}"),
        }
    }
}

/// An object as a listing shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name.
    pub name: ObjectName,
    /// Its length.
    pub len: u64,
    /// When it was created, on the clock of the store.
    pub modified: SystemTime,
}

/// What a listing found that is no object of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strays {
    /// How many.
    pub count: u64,
    /// The first few of their paths below the root.
    pub examples: Vec<String>,
}

impl Strays {
    const EXAMPLES_MAX: usize = 8;

    /// Adds one.
    pub fn add(&mut self, path: String) {
        self.count += 1;
        if self.examples.len() < Self::EXAMPLES_MAX {
            self.examples.push(path);
        }
    }
}

/// The name of an object that an entry of the commit log condemned; nothing else can be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Condemned(ObjectName);

impl Condemned {
    /// Only the fold of the log calls this, for what the entries that it read condemn.
    pub(crate) const fn new(name: ObjectName) -> Self {
        Self(name)
    }

    /// Returns the name.
    #[must_use]
    pub const fn name(&self) -> &ObjectName {
        &self.0
    }

    /// Returns the name if it may be deleted at all: the log and the format are never deleted, whatever condemned them.
    fn deletable(&self) -> Result<&ObjectName, BackendError> {
        match self.0.kind() {
            ObjectKind::Format | ObjectKind::Log => Err(BackendError::new(
                BackendErrorKind::Denied,
                Operation::Delete,
                self.0,
                std::io::Error::other("format objects and log entries are never deleted"),
            )),
            _ => Ok(&self.0),
        }
    }
}

/// Opens the backend that a URL names: a path, or `file://` and an absolute path.
///
/// Nothing is read or created yet, so that `init` can use it too.
pub fn open_url(url: &str) -> Result<Box<dyn Backend>, BackendError> {
    let refuse = |why: String| {
        BackendError::new(
            BackendErrorKind::Other,
            Operation::Open,
            Subject::Place(url.to_owned()),
            std::io::Error::new(std::io::ErrorKind::InvalidInput, why),
        )
    };
    let Some((scheme, rest)) = url
        .split_once("://")
        .filter(|(scheme, _)| is_scheme(scheme))
    else {
        if url.is_empty() {
            return Err(refuse("the path is empty".into()));
        }
        return Ok(Box::new(Local::new(url)?));
    };
    if !scheme.eq_ignore_ascii_case("file") {
        return Err(refuse(format!(
            "{scheme}:// is not supported yet; give a path or file:///path"
        )));
    }
    let rest = rest.strip_prefix("localhost").unwrap_or(rest);
    if !rest.starts_with('/') {
        return Err(refuse("a file URL has three slashes: file:///path".into()));
    }
    let path = percent_decode(rest).ok_or_else(|| refuse("a wrong % sequence".into()))?;
    Ok(Box::new(Local::new(path)?))
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

fn percent_decode(text: &str) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (hex, tail) = rest.split_at_checked(2)?;
        let digit = |byte: u8| {
            char::from(byte)
                .to_digit(16)
                .and_then(|d| u8::try_from(d).ok())
        };
        match digit(hex[0])? << 4 | digit(hex[1])? {
            0 => return None, // No path holds a NUL.
            byte => bytes.push(byte),
        }
        rest = tail;
    }
    Some(std::ffi::OsString::from_vec(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_backends() {
        let check = |url: &str, path: &str| {
            let backend = open_url(url).unwrap();
            assert_eq!(backend.local_path(), Some(Path::new(path)), "{url}");
        };
        check("/srv/backup", "/srv/backup");
        check("file:///srv/backup", "/srv/backup");
        check("FILE://localhost/srv/backup", "/srv/backup");
        check("file:///srv/a%20b%c3%a9", "/srv/a bé");
        check("/odd/::://name", "/odd/::://name");
        let here = std::env::current_dir().unwrap();
        assert_eq!(
            open_url("some/where").unwrap().local_path(),
            Some(&*here.join("some/where"))
        );
    }

    #[test]
    fn other_urls_are_refused_with_a_reason() {
        let check = |url: &str, reason: &str| {
            let error = open_url(url).unwrap_err();
            assert_eq!(error.to_string(), format!("cannot open {url}"));
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert!(source.contains(reason), "{url}: {source}");
        };
        check("s3://bucket/prefix", "s3:// is not supported yet");
        check("sftp://host/path", "sftp:// is not supported yet");
        check("file://host/path", "three slashes");
        check("file:///a%2", "wrong % sequence");
        check("file:///a%00", "wrong % sequence");
        check("", "the path is empty");
    }

    #[test]
    fn ranges_lie_within_an_object() {
        let check = |range: ByteRange, len: u64, expected: Option<(u64, u64)>| {
            assert_eq!(range.within(len), expected, "{range} of {len}");
        };
        check(ByteRange::All, 0, Some((0, 0)));
        check(ByteRange::All, 9, Some((0, 9)));
        check(ByteRange::Exact { offset: 2, len: 7 }, 9, Some((2, 7)));
        check(ByteRange::Exact { offset: 2, len: 8 }, 9, None);
        check(ByteRange::Exact { offset: 9, len: 0 }, 9, Some((9, 0)));
        check(ByteRange::Exact { offset: 10, len: 0 }, 9, None);
        check(
            ByteRange::Exact {
                offset: u64::MAX,
                len: 2,
            },
            9,
            None,
        );
        check(ByteRange::Last(9), 9, Some((0, 9)));
        check(ByteRange::Last(10), 9, None);
        check(ByteRange::Last(0), 0, Some((0, 0)));
    }
}
