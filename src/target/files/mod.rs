//! Restores trees of files beneath a directory handle: nothing is ever written outside it, whatever the archive or the target says.
//!
//! It plans nothing and reads no archive: a caller names entries by their path below the target (names joined by `/`) and brings nodes
//! and bytes, in this order: [`RestoreTarget::create_directory`] before what is in it, files and other entries in any order and from any
//! thread, then once [`RestoreTarget::finish_links`] and [`RestoreTarget::finish_directories`].
//!
//! Invariants:
//! 1. Names are checked one by one (no `..`, no `/`, no NUL), and no symbolic link below the target is followed
//!    (`tests::nothing_leaves_the_target`).
//! 2. A file appears under its name when it is complete: it is written under a temporary name and renamed
//!    (`tests::files_appear_complete`); a crash leaves `.holdfast-…` files, never half a file under its own name.
//! 3. Set-user-id and set-group-id bits are set only on what has the archived owner (`tests::special_bits_need_the_owner`).
//! 4. Times are set last, those of directories after everything in them (`tests::metadata_comes_back`).
//! 5. Memory: what directories and further names of files still need is in unnamed temporary files; one path for each group of names.
//!
//! Failure: what concerns one entry is counted, named ([`RestoreTarget::problems`]) and the restore goes on; a full or read-only disk is
//! [`TargetError::Stop`].

mod apply;
mod beneath;
mod compare;
mod create;
mod file;
pub mod listing;
mod spill;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

pub use compare::{Comparison, Difference};
pub use create::{Created, TEMPORARY_PREFIX};
pub use file::{ExistingFile, FileHandle};

use self::apply::OwnerNumbers;
use self::beneath::{Directory, Handles};
use self::spill::Spill;

/// Whose files the restored ones become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ownership {
    /// The archived names where they exist here, else the archived numbers; needs root.
    ByName,
    /// The archived numbers; needs root.
    ByNumber,
    /// Whoever restores.
    #[default]
    Leave,
}

/// What happens to entries that exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// They stay; each is a problem that is named.
    #[default]
    Refuse,
    /// They are replaced, but a directory that holds anything only by a directory.
    Replace,
}

/// How a restore treats its target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    /// Whose files the restored ones become.
    pub ownership: Ownership,
    /// Whether devices are created; needs root.
    pub special: bool,
    /// What happens to entries that exist.
    pub existing: Existing,
    /// The target is more than what is restored (`/`, say): directories that exist keep their metadata, and what stands in the place of an
    /// archived directory stays, also a link to one.
    pub amid_others: bool,
    /// Threads that finish directories; 0 is 1. The callers of everything else bring their own.
    pub threads: usize,
}

/// Why something was not restored.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// This entry failed; the others go on.
    #[error("{path}: {what}")]
    Item {
        /// Its path below the target, for people.
        path: String,
        /// What was tried and why it failed.
        what: String,
    },
    /// Nothing more can be written.
    #[error("cannot write to the restore target, at {path}: {what}")]
    Stop {
        /// Where it happened, below the target, for people.
        path: String,
        /// What was tried and why it failed.
        what: String,
    },
}

impl TargetError {
    fn new(path: &[u8], what: &str, error: Errno) -> Self {
        let path = String::from_utf8_lossy(path).into_owned();
        let text = format!("cannot {what}: {}", std::io::Error::from(error));
        if matches!(error, Errno::NOSPC | Errno::DQUOT | Errno::ROFS) {
            Self::Stop { path, what: text }
        } else {
            Self::Item { path, what: text }
        }
    }

    fn item(path: &[u8], what: impl Into<String>) -> Self {
        Self::Item {
            path: String::from_utf8_lossy(path).into_owned(),
            what: what.into(),
        }
    }

    fn io(path: &[u8], what: &str, error: &std::io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(errno) => Self::new(path, what, errno),
            None => Self::item(path, format!("cannot {what}: {error}")),
        }
    }

    /// Whether the whole restore has to end.
    pub fn is_stop(&self) -> bool {
        matches!(self, Self::Stop { .. })
    }
}

/// The result of one step of a restore.
pub type Result<T, E = TargetError> = std::result::Result<T, E>;

/// Problems that are kept in words; more are counted.
const PROBLEMS_MAX: usize = 1000;

/// What went wrong with single entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    /// How many there were.
    pub count: u64,
    /// The first thousand: path and what happened.
    pub named: Vec<(String, String)>,
}

/// A directory that a restore fills.
#[derive(Debug)]
pub struct RestoreTarget {
    root: Arc<Directory>,
    path: PathBuf,
    options: RestoreOptions,
    handles: Handles,
    owners: OwnerNumbers,
    is_root: bool,
    own_ids: (u32, u32),
    directories: Mutex<Spill>,
    links: Mutex<Spill>,
    groups: Mutex<HashMap<u64, Box<[u8]>>>,
    problems: Mutex<Problems>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RestoreTarget {
    /// Opens the directory `path`, which is created with its parents if it does not exist. The path itself may lead through symbolic
    /// links: it is the user's.
    pub fn open(path: &Path, options: RestoreOptions) -> Result<Self> {
        let shown = path.as_os_str().as_encoded_bytes().to_vec();
        std::fs::create_dir_all(path)
            .map_err(|error| TargetError::io(&shown, "create this directory", &error))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(rustix::fs::CWD, path, flags, Mode::empty())
            .map_err(|error| TargetError::new(&shown, "open this directory", error))?;
        let root = Arc::new(Directory::from(root));
        let spill = || {
            Spill::new().map_err(|error| TargetError::io(&shown, "create a scratch file", &error))
        };
        Ok(Self {
            handles: Handles::new(Arc::clone(&root)),
            root,
            path: path.to_owned(),
            options,
            owners: OwnerNumbers::of_system(),
            is_root: rustix::process::geteuid().is_root(),
            own_ids: (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            ),
            directories: Mutex::new(spill()?),
            links: Mutex::new(spill()?),
            groups: Mutex::new(HashMap::new()),
            problems: Mutex::new(Problems::default()),
        })
    }

    /// Waits until the file system of the target has written everything; an error of writing since it was opened is an error here.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(&*self.root)
            .map_err(|error| TargetError::new(b"", "write everything to the disk", error))
    }

    /// The path it was opened with, for people.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What went wrong with single entries until now.
    pub fn problems(&self) -> Problems {
        lock(&self.problems).clone()
    }

    /// Counts and names what went wrong with an entry; gives back what has to end the restore.
    pub fn note(&self, error: TargetError) -> Result<()> {
        match error {
            TargetError::Item { path, what } => {
                tracing::warn!(%path, "{what}");
                let mut problems = lock(&self.problems);
                problems.count += 1;
                if problems.named.len() < PROBLEMS_MAX {
                    problems.named.push((path, what));
                }
                Ok(())
            }
            stop @ TargetError::Stop { .. } => Err(stop),
        }
    }

    /// Counts and names what went wrong with one part of an entry.
    fn note_errno(&self, path: &[u8], what: &str, error: Errno) -> Result<()> {
        self.note(TargetError::new(path, what, error))
    }
}
