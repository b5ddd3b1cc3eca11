//! A file on its way to become an object.

use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use rustix::fd::OwnedFd;
use rustix::fs::{Advice, AtFlags, Dir, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::Publishing;
use super::folders::{self, Folders, file_of};
use crate::backend::{
    BackendError, BackendErrorKind, NewObject, ObjectKind, ObjectName, Operation,
};

const MODE_FILE: u32 = 0o600;

/// Writing to the disk begins after so many bytes, so that the sync at the end has little left to wait for: with packs of 32 MiB
/// that come at 300 MB/s the commits take half the time.
const WRITE_BACK_BYTES: u64 = 4 << 20;

/// Other processes that look for abandoned files can take a new one away before it is locked; not a hundred times, though.
const TEMPORARY_TRIES_MAX: u32 = 100;

#[derive(Debug)]
pub(super) struct LocalObject {
    folders: Arc<Folders>,
    kind: ObjectKind,
    file: File,
    /// The file's name in `tmp/`, if it has one.
    temporary: Option<Temporary>,
    len: u64,
    /// Up to here the disk was asked to begin.
    write_back_end: u64,
    synced: bool,
    /// After a failed write or sync the file's content is unknown, whatever later calls say.
    failed: bool,
}

#[derive(Debug)]
struct Temporary {
    tmp: OwnedFd,
    name: String,
    rename: bool,
}

impl LocalObject {
    pub(super) fn begin(
        folders: Arc<Folders>,
        publishing: Publishing,
        kind: ObjectKind,
    ) -> Result<Self, BackendError> {
        let (file, temporary) = create(&folders, publishing, kind)?;
        Ok(Self {
            folders,
            kind,
            file: file.into(),
            temporary,
            len: 0,
            write_back_end: 0,
            synced: false,
            failed: false,
        })
    }

    fn check_not_failed(&self, operation: Operation) -> Result<(), BackendError> {
        if self.failed {
            let cause = io::Error::other("an earlier write or sync of the object failed");
            return Err(BackendError::new(
                BackendErrorKind::Other,
                operation,
                self.kind,
                cause,
            ));
        }
        Ok(())
    }

    fn failed(&mut self, operation: Operation, error: io::Error) -> BackendError {
        self.failed = true;
        BackendError::new(folders::kind_of(&error), operation, self.kind, error)
    }

    fn begin_write_back(&mut self) {
        // "Not needed" makes Linux begin to write dirty pages and lets go of clean ones; nobody reads them soon.
        let len = NonZeroU64::new(self.len - self.write_back_end);
        if let Err(errno) =
            rustix::fs::fadvise(&self.file, self.write_back_end, len, Advice::DontNeed)
        {
            tracing::trace!(%errno, "no early write-back");
        }
        self.write_back_end = self.len;
    }

    /// Makes the name; fails if it exists.
    fn link(&mut self, name: &ObjectName) -> Result<(), BackendError> {
        let folder = self.folders.make_for_object(name)?;
        let file = file_of(name);
        let linked = match &mut self.temporary {
            None => {
                // By way of /proc, because AT_EMPTY_PATH wants a capability before Linux 6.10.
                let path = proc_path(&self.file);
                rustix::fs::linkat(
                    rustix::fs::CWD,
                    path,
                    &folder,
                    &*file,
                    AtFlags::SYMLINK_FOLLOW,
                )
            }
            Some(Temporary {
                tmp,
                name,
                rename: false,
            }) => {
                let linked = rustix::fs::linkat(&*tmp, &**name, &folder, &*file, AtFlags::empty());
                match linked {
                    Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => {
                        let flags = RenameFlags::NOREPLACE;
                        rustix::fs::renameat_with(&*tmp, &**name, &folder, &*file, flags)
                    }
                    linked => linked,
                }
            }
            Some(Temporary {
                tmp,
                name,
                rename: true,
            }) => {
                let flags = RenameFlags::NOREPLACE;
                rustix::fs::renameat_with(&*tmp, &**name, &folder, &*file, flags)
            }
        };
        match linked {
            Ok(()) => {
                self.folders.note(|| format!("link {name}"));
                Ok(())
            }
            Err(Errno::EXIST) => Err(BackendError::bare(
                BackendErrorKind::AlreadyExists,
                Operation::Create,
                *name,
            )),
            Err(errno) => {
                self.folders.check_in_place(self.kind, Operation::Create)?;
                // The name that is missing is not the object's.
                let source = io::Error::from(errno);
                let kind = match folders::kind_of(&source) {
                    BackendErrorKind::NotFound => BackendErrorKind::Other,
                    kind => kind,
                };
                Err(BackendError::new(kind, Operation::Create, *name, source))
            }
        }
    }
}

impl NewObject for LocalObject {
    fn append(&mut self, bytes: &[u8]) -> Result<(), BackendError> {
        self.check_not_failed(Operation::Append)?;
        self.synced = false;
        if let Err(error) = self.file.write_all(bytes) {
            return Err(self.failed(Operation::Append, error));
        }
        self.len += bytes.len() as u64;
        if self.len - self.write_back_end >= WRITE_BACK_BYTES {
            self.begin_write_back();
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), BackendError> {
        self.check_not_failed(Operation::Sync)?;
        if !self.synced {
            if let Err(error) = self.file.sync_all() {
                return Err(self.failed(Operation::Sync, error));
            }
            self.folders.note(|| "fsync file".into());
            self.synced = true;
        }
        Ok(())
    }

    fn commit(self: Box<Self>, name: &ObjectName) -> Result<(), BackendError> {
        let folders = self.folders.clone();
        self.publish(name)?;
        folders.sync_name(name)
    }

    fn publish(mut self: Box<Self>, name: &ObjectName) -> Result<(), BackendError> {
        assert_eq!(
            name.kind(),
            self.kind,
            "an object is committed as what it was begun"
        );
        self.sync()?;
        self.link(name)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Its name in `tmp/` is gone already if it was renamed.
        match rustix::fs::unlinkat(&self.tmp, &*self.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => tracing::debug!(%errno, file = self.name, "temporary file left"),
        }
    }
}

fn proc_path(file: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn create(
    folders: &Folders,
    publishing: Publishing,
    kind: ObjectKind,
) -> Result<(OwnedFd, Option<Temporary>), BackendError> {
    let folder = folders.make_for_kind(kind, Operation::Begin)?;
    if publishing == Publishing::Unnamed {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::openat(&folder, ".", flags, MODE_FILE.into()) {
            // Without /proc the file could never get a name.
            Ok(file) if folders::same_file(&file, rustix::fs::CWD, proc_path(&file)) => {
                return Ok((file, None));
            }
            // What file systems and kernels answer that do not know it.
            Ok(_) | Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => {}
            Err(errno) => return Err(cannot_begin(folders, kind, errno)),
        }
    }
    let rename = publishing == Publishing::Renamed;
    match create_named(folders, rename) {
        Ok((file, temporary)) => Ok((file, Some(temporary))),
        Err(errno) => Err(cannot_begin(folders, kind, errno)),
    }
}

/// A folder that is gone answers in many ways; then that is what is said.
fn cannot_begin(folders: &Folders, kind: ObjectKind, errno: Errno) -> BackendError {
    match folders.check_in_place(kind, Operation::Begin) {
        Ok(()) => folders::error(errno, Operation::Begin, kind),
        Err(gone) => gone,
    }
}

/// Creates a file in `tmp/` and holds its `flock`, which says that somebody is still writing it.
fn create_named(folders: &Folders, rename: bool) -> Result<(OwnedFd, Temporary), Errno> {
    for _ in 0..TEMPORARY_TRIES_MAX {
        let tmp = folders.tmp()?;
        // Every new `RandomState` gives another number; a name that is taken is tried again.
        let random = std::hash::RandomState::new().build_hasher().finish();
        let name = format!("{}-{random:016x}", std::process::id());
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&tmp, &*name, flags, Mode::from(MODE_FILE)) {
            Ok(file) => file,
            Err(Errno::EXIST) => continue,
            Err(errno) => return Err(errno),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => continue, // Somebody takes it for abandoned and removes it.
            Err(errno) => {
                drop(Temporary { tmp, name, rename });
                return Err(errno);
            }
        }
        if folders::same_file(&file, &tmp, &*name) {
            return Ok((file, Temporary { tmp, name, rename }));
        }
    }
    Err(Errno::AGAIN)
}

/// Unlinks files in `tmp/` that nobody holds.
pub(super) fn remove_abandoned(folders: &Folders) -> Result<u64, BackendError> {
    folders.root()?;
    let failed = |errno| folders::error(errno, Operation::RemoveAbandoned, folders.place());
    let tmp = folders.tmp().map_err(failed)?;
    let mut count = 0;
    for entry in Dir::read_from(&tmp).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            count += u64::from(remove_if_abandoned(&tmp, name).map_err(failed)?);
        }
    }
    Ok(count)
}

fn remove_if_abandoned(tmp: &OwnedFd, name: &std::ffi::CStr) -> Result<bool, Errno> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(tmp, name, flags, Mode::empty()) {
        Ok(file) => file,
        // Gone meanwhile, or another user's, or nothing that we put there.
        Err(Errno::NOENT | Errno::ACCESS | Errno::LOOP | Errno::ISDIR | Errno::NXIO) => {
            return Ok(false);
        }
        Err(errno) => return Err(errno),
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) if folders::same_file(&file, tmp, name) => {}
        Ok(()) | Err(Errno::WOULDBLOCK) => return Ok(false),
        Err(errno) => return Err(errno),
    }
    // Still locked here, so that nobody can have begun to use it.
    match rustix::fs::unlinkat(tmp, name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}
