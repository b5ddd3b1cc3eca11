//! The folders of a local repository: their handles, which of them are known to be durable, and what an error means.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;
use rustix::path::Arg;

use crate::backend::{BackendError, BackendErrorKind, ObjectKind, ObjectName, Operation, Subject};

/// The folder of files that have no name yet, where there is no `O_TMPFILE`.
pub(super) const TMP: &str = "tmp";
pub(super) const MODE_FOLDER: u32 = 0o700;
const KIND_COUNT: usize = ObjectKind::ALL.len();

/// A kept handle, or one that was opened for this call.
#[derive(Debug)]
pub(super) enum Folder<'a> {
    Kept(&'a OwnedFd),
    Opened(OwnedFd),
}

impl AsFd for Folder<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Folder::Kept(fd) => fd.as_fd(),
            Folder::Opened(fd) => fd.as_fd(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Folders {
    path: PathBuf,
    root: OnceLock<OwnedFd>,
    kinds: [OnceLock<OwnedFd>; KIND_COUNT],
    /// Whether the folder's own name was synced since this process first wrote into it. Who made it may have died before that.
    pub(super) kinds_synced: [AtomicBool; KIND_COUNT],
    pub(super) packs_synced: [AtomicBool; 256],
    /// An fsync of a folder failed.
    sync_failed: AtomicBool,
    #[cfg(test)]
    calls: std::sync::Mutex<Vec<String>>,
}

impl Folders {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            root: OnceLock::new(),
            kinds: [const { OnceLock::new() }; KIND_COUNT],
            kinds_synced: [const { AtomicBool::new(false) }; KIND_COUNT],
            packs_synced: [const { AtomicBool::new(false) }; 256],
            sync_failed: AtomicBool::new(false),
            #[cfg(test)]
            calls: std::sync::Mutex::default(),
        }
    }

    /// Remembers a call that durability rests on, so that tests see their order.
    pub(super) fn note(&self, _call: impl FnOnce() -> String) {
        #[cfg(test)]
        self.calls.lock().unwrap().push(_call());
    }

    #[cfg(test)]
    pub(super) fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn place(&self) -> Subject {
        Subject::Place(self.path.display().to_string())
    }

    pub(super) fn root(&self) -> Result<&OwnedFd, BackendError> {
        if let Some(root) = self.root.get() {
            return Ok(root);
        }
        let root = open_folder(rustix::fs::CWD, &*self.path, OFlags::empty())
            .map_err(|errno| error(errno, Operation::Open, self.place()))?;
        Ok(self.root.get_or_init(|| root))
    }

    /// Returns the folder of a kind, or `None` if it is missing.
    pub(super) fn of_kind(
        &self,
        kind: ObjectKind,
        operation: Operation,
    ) -> Result<Option<Folder<'_>>, BackendError> {
        let root = self.root()?;
        let Some(name) = kind.folder() else {
            return Ok(Some(Folder::Kept(root)));
        };
        let kept = &self.kinds[kind.position()];
        if let Some(folder) = kept.get() {
            return Ok(Some(Folder::Kept(folder)));
        }
        match open_folder(root, name, OFlags::NOFOLLOW) {
            Ok(folder) => Ok(Some(Folder::Kept(kept.get_or_init(|| folder)))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(error(errno, operation, kind)),
        }
    }

    /// Returns the folder that an object lies in, or `None` if it is missing.
    pub(super) fn of_object(
        &self,
        name: &ObjectName,
        operation: Operation,
    ) -> Result<Option<Folder<'_>>, BackendError> {
        let folder = self.of_kind(name.kind(), operation)?;
        let (Some(packs), Some(sub)) = (&folder, pack_folder(name)) else {
            return Ok(folder);
        };
        match open_folder(packs, &*format!("{sub:02x}"), OFlags::NOFOLLOW) {
            Ok(folder) => Ok(Some(Folder::Opened(folder))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(error(errno, operation, *name)),
        }
    }

    /// Returns the folder of a kind, which is made if it is missing.
    pub(super) fn make_for_kind(
        &self,
        kind: ObjectKind,
        operation: Operation,
    ) -> Result<Folder<'_>, BackendError> {
        if let (None, Some(name)) = (self.of_kind(kind, operation)?, kind.folder()) {
            // A folder is made only below a root that is still the repository's.
            self.check_in_place(kind, operation)?;
            make_folder(self.root()?, name).map_err(|errno| error(errno, operation, kind))?;
        }
        let folder = self.of_kind(kind, operation)?;
        folder.ok_or_else(|| error(Errno::NOENT, operation, kind))
    }

    /// Returns the folder that an object shall lie in, which is made if it is missing.
    pub(super) fn make_for_object(&self, name: &ObjectName) -> Result<Folder<'_>, BackendError> {
        let operation = Operation::Create;
        let folder = self.make_for_kind(name.kind(), operation)?;
        let Some(sub) = pack_folder(name) else {
            return Ok(folder);
        };
        make_folder(&folder, &format!("{sub:02x}"))
            .and_then(|()| open_folder(&folder, &*format!("{sub:02x}"), OFlags::NOFOLLOW))
            .map(Folder::Opened)
            .map_err(|errno| match errno {
                Errno::NOENT => self.absent(operation, name),
                errno => error(errno, operation, *name),
            })
    }

    /// Returns `tmp/`, which is made if it is missing.
    pub(super) fn tmp(&self) -> Result<OwnedFd, Errno> {
        let root = self.root().map_err(|_gone| Errno::NOENT)?;
        match open_folder(root, TMP, OFlags::NOFOLLOW) {
            Err(Errno::NOENT) => {
                make_folder(root, TMP)?;
                open_folder(root, TMP, OFlags::NOFOLLOW)
            }
            opened => opened,
        }
    }

    /// Makes the name of an object durable.
    pub(super) fn sync_name(&self, name: &ObjectName) -> Result<(), BackendError> {
        let kind = name.kind();
        let Some(folder) = self.of_object(name, Operation::Sync)? else {
            return Err(self.absent(Operation::Sync, name));
        };
        self.sync_folder(&folder, &(*name).into())?;
        if let Some(sub) = pack_folder(name) {
            let synced = &self.packs_synced[usize::from(sub)];
            if !synced.load(Ordering::Acquire) {
                let packs = self.of_kind(kind, Operation::Sync)?;
                let packs = packs.ok_or_else(|| self.absent(Operation::Sync, name))?;
                self.sync_folder(&packs, &kind.into())?;
                synced.store(true, Ordering::Release);
            }
        }
        self.sync_above(kind)
    }

    /// Makes the name of a kind's folder durable, once for each process.
    pub(super) fn sync_above(&self, kind: ObjectKind) -> Result<(), BackendError> {
        let synced = &self.kinds_synced[kind.position()];
        if !synced.load(Ordering::Acquire) {
            self.sync_folder(self.root()?, &kind.into())?;
            synced.store(true, Ordering::Release);
        }
        Ok(())
    }

    pub(super) fn sync_folder(
        &self,
        folder: impl AsFd,
        subject: &Subject,
    ) -> Result<(), BackendError> {
        let failed = |source: io::Error| {
            BackendError::new(kind_of(&source), Operation::Sync, subject.clone(), source)
        };
        if self.sync_failed.load(Ordering::Acquire) {
            return Err(failed(io::Error::other(
                "an earlier sync failed, so it is not known what is durable",
            )));
        }
        match rustix::io::retry_on_intr(|| rustix::fs::fsync(&folder)) {
            // Some network file systems have no such call for folders; their names are durable at once or never.
            Ok(()) | Err(Errno::INVAL) => {
                self.note(|| format!("fsync {}", self.path_below(&folder).display()));
                Ok(())
            }
            Err(errno) => {
                self.sync_failed.store(true, Ordering::Release);
                Err(failed(errno.into()))
            }
        }
    }

    /// Returns the path of an open folder, below the root if it lies there.
    fn path_below(&self, folder: impl AsFd) -> PathBuf {
        let link = format!("/proc/self/fd/{}", folder.as_fd().as_raw_fd());
        let path = std::fs::read_link(link).unwrap_or_default();
        path.strip_prefix(&self.path)
            .map(Path::to_owned)
            .unwrap_or(path)
    }

    /// Returns the error of an object that is not there, or of a repository that is not there any more.
    pub(super) fn absent(&self, operation: Operation, name: &ObjectName) -> BackendError {
        match self.check_in_place(name.kind(), operation) {
            Ok(()) => BackendError::bare(BackendErrorKind::NotFound, operation, *name),
            Err(error) => error,
        }
    }

    /// Fails if the open root or the open folder of a kind is not any more what its path names: then "absent" means nothing.
    pub(super) fn check_in_place(
        &self,
        kind: ObjectKind,
        operation: Operation,
    ) -> Result<(), BackendError> {
        let gone = |what: String| {
            let cause = io::Error::other(what);
            Err(BackendError::new(
                BackendErrorKind::Other,
                operation,
                kind,
                cause,
            ))
        };
        let path = self.path.display();
        let root = self.root()?;
        if !same_file(root, rustix::fs::CWD, &*self.path) {
            return gone(format!(
                "the repository folder {path} is gone or was replaced"
            ));
        }
        if let (Some(folder), Some(name)) = (self.kinds[kind.position()].get(), kind.folder())
            && !same_file(folder, root, name)
        {
            return gone(format!("the folder {path}/{name} is gone or was replaced"));
        }
        Ok(())
    }
}

/// Whether an open file is what a path names.
pub(super) fn same_file(open: impl AsFd, folder: impl AsFd, path: impl Arg) -> bool {
    let identity = |status: Statx| (status.stx_dev_major, status.stx_dev_minor, status.stx_ino);
    let open = rustix::fs::statx(open, "", AtFlags::EMPTY_PATH, StatxFlags::INO).map(identity);
    let named = rustix::fs::statx(folder, path, AtFlags::empty(), StatxFlags::INO).map(identity);
    matches!((open, named), (Ok(open), Ok(named)) if open == named)
}

pub(super) fn regular(status: &Statx) -> bool {
    FileType::from_raw_mode(status.stx_mode.into()) == FileType::RegularFile
}

pub(super) fn open_folder(
    beside: impl AsFd,
    path: impl Arg,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(beside, path, flags, Mode::empty())
}

fn make_folder(beside: impl AsFd, name: &str) -> Result<(), Errno> {
    match rustix::fs::mkdirat(beside, name, MODE_FOLDER.into()) {
        Err(Errno::EXIST) => Ok(()),
        made => made,
    }
}

/// Returns the last part of an object's path.
pub(super) fn file_of(name: &ObjectName) -> String {
    let path = name.to_string();
    match path.rsplit_once('/') {
        Some((_, file)) => file.to_owned(),
        None => path,
    }
}

/// Whether two objects lie in the same folder.
pub(super) fn same_folder(one: &ObjectName, other: &ObjectName) -> bool {
    one.kind() == other.kind() && pack_folder(one) == pack_folder(other)
}

fn pack_folder(name: &ObjectName) -> Option<u8> {
    match name.kind() {
        ObjectKind::Pack => name.hash().map(|hash| hash[0]),
        _ => None,
    }
}

pub(super) fn error(
    errno: Errno,
    operation: Operation,
    subject: impl Into<Subject>,
) -> BackendError {
    let source = io::Error::from(errno);
    BackendError::new(kind_of(&source), operation, subject, source)
}

/// Returns what an error of the system means to a caller.
pub(super) fn kind_of(error: &io::Error) -> BackendErrorKind {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT) => BackendErrorKind::NotFound,
        Some(Errno::EXIST) => BackendErrorKind::AlreadyExists,
        Some(Errno::NOSPC | Errno::DQUOT) => BackendErrorKind::NoSpace,
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => BackendErrorKind::Denied,
        Some(Errno::AGAIN | Errno::INTR | Errno::TIMEDOUT) => BackendErrorKind::Transient,
        _ => BackendErrorKind::Other,
    }
}
