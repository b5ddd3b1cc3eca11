//! A backend in a folder of this host, or of a share that it mounts.
//!
//! It takes no lock, keeps no state beside the objects, and follows no symbolic link below the root.
//!
//! # Layout
//!
//! The paths of [`ObjectName`], and `tmp/` for files that have no name yet where the file system has no `O_TMPFILE`. Folders
//! have mode 0700, files 0600. A folder that is missing reads as an empty one and is made when something is written to it, so
//! that a copy of a repository that lost its empty folders is still one.
//!
//! # Invariants
//!
//! 1. An object appears under its name complete and synced: its data are written to a file without a name and fsynced before the
//!    name is made, by an exclusive link (test `conformance_on_every_way_to_publish`).
//! 2. `Ok` of `put_new` and `commit`: the folder was fsynced after the link, and every folder above it since it was made (tests
//!    `data_are_synced_before_the_name_and_the_name_after_it`, `folders_that_others_made_are_synced_once`).
//! 3. After an fsync of a folder failed nothing is reported as durable any more, because the kernel reports such an error once
//!    and forgets what it could not write (test `nothing_is_durable_after_a_failed_sync_of_a_folder`).
//! 4. A file that is never committed leaves nothing, or what `remove_abandoned` finds (tests `a_dropped_object_leaves_nothing`,
//!    `abandoned_files_are_removed_and_held_ones_are_not`).
//!
//! # Failure
//!
//! Before the link: nothing, the kernel frees the file; a named one is left in `tmp/`, and `remove_abandoned` unlinks it, because
//! nobody holds its `flock` any more. Between link and fsync of the folder: the object is there, complete, and may be gone after
//! a loss of power; nobody was told that it is durable. A new folder that nothing was linked into stays, empty.
//!
//! # Threads
//!
//! Any. There are no locks; handles of folders are opened once and kept.

mod folders;
mod object;

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::fd::AsFd;
use rustix::fs::{AtFlags, Dir, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::{
    Backend, BackendError, BackendErrorKind, ByteRange, Condemned, NewObject, ObjectInfo,
    ObjectKind, ObjectName, Operation, Strays, Subject,
};
use folders::{Folders, MODE_FOLDER, TMP, file_of, regular};
use object::LocalObject;

/// How a file gets its name; it becomes the next one where a file system refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Publishing {
    /// A file without a name (`O_TMPFILE`), which is linked.
    Unnamed,
    /// A file in `tmp/`, which is linked and then unlinked there.
    Linked,
    /// A file in `tmp/`, which is renamed exclusively, where there are no hard links.
    Renamed,
}

/// A backend in a folder.
#[derive(Debug)]
pub struct Local {
    folders: Arc<Folders>,
    publishing: Publishing,
}

impl Local {
    /// Names the folder of a repository; it need not exist, and is opened by the first call.
    pub fn new(path: impl Into<PathBuf>) -> Result<Self, BackendError> {
        let path = path.into();
        let absolute = std::path::absolute(&path).map_err(|error| {
            let place = Subject::Place(path.display().to_string());
            BackendError::new(BackendErrorKind::Other, Operation::Open, place, error)
        })?;
        Ok(Self {
            folders: Arc::new(Folders::new(absolute)),
            publishing: Publishing::Unnamed,
        })
    }

    /// Begins with this way to publish instead of the best one; for tests.
    #[must_use]
    pub fn publishing(mut self, publishing: Publishing) -> Self {
        self.publishing = publishing;
        self
    }

    fn open_object(
        &self,
        name: &ObjectName,
        operation: Operation,
    ) -> Result<(File, u64), BackendError> {
        let Some(folder) = self.folders.of_object(name, operation)? else {
            return Err(self.folders.absent(operation, name));
        };
        // O_NONBLOCK, lest a fifo in place of an object stops us for ever.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&folder, file_of(name), flags, 0.into());
        let file = match opened {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Err(self.folders.absent(operation, name)),
            Err(errno) => return Err(folders::error(errno, operation, *name)),
        };
        let metadata = file
            .metadata()
            .map_err(|error| BackendError::new(BackendErrorKind::Other, operation, *name, error))?;
        if !metadata.is_file() {
            return Err(not_a_file(operation, name));
        }
        Ok((file, metadata.len()))
    }

    fn list_where(
        &self,
        kind: ObjectKind,
        wanted: &dyn Fn(&ObjectName) -> bool,
        each: &mut dyn FnMut(ObjectInfo),
    ) -> Result<Strays, BackendError> {
        let mut listing = Listing {
            kind,
            wanted,
            each,
            strays: Strays::default(),
        };
        self.folders.check_in_place(kind, Operation::List)?;
        let Some(folder) = self.folders.of_kind(kind, Operation::List)? else {
            return Ok(listing.strays);
        };
        let listed = match kind {
            ObjectKind::Format => listing.root(&folder),
            ObjectKind::Pack => listing.packs(&folder),
            _ => listing.folder(&folder, &kind.to_string()),
        };
        match listed {
            Ok(()) => Ok(listing.strays),
            Err(errno) => Err(folders::error(errno, Operation::List, kind)),
        }
    }

    fn refuse_layout(&self, why: String) -> BackendError {
        let cause = io::Error::new(io::ErrorKind::AlreadyExists, why);
        let place = self.folders.place();
        BackendError::new(
            BackendErrorKind::AlreadyExists,
            Operation::CreateLayout,
            place,
            cause,
        )
    }

    /// Returns why the root is no place for a new repository.
    fn what_is_in_the_way(&self) -> Result<Option<String>, Errno> {
        let root = folders::open_folder(rustix::fs::CWD, self.folders.path(), OFlags::empty())?;
        for entry in entries(&root)? {
            if entry.starts_with("format") && ObjectName::parse(&entry).is_some() {
                return Ok(Some("it holds a repository already".into()));
            }
            if entry == LOST_AND_FOUND {
                continue;
            }
            let kind = folders_of_kinds()
                .find(|(folder, _)| *folder == entry)
                .map(|(_, kind)| kind);
            if kind.is_none() {
                return Ok(Some(format!("it is not empty: it holds {entry}")));
            }
            let folder = match folders::open_folder(&root, &*entry, OFlags::NOFOLLOW) {
                Ok(folder) => folder,
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    return Ok(Some(format!("{entry} in it is not a folder")));
                }
                Err(errno) => return Err(errno),
            };
            for object in entries(&folder)? {
                let is_empty = kind == Some(Some(ObjectKind::Pack))
                    && folders::open_folder(&folder, &*object, OFlags::NOFOLLOW)
                        .and_then(entries)
                        .is_ok_and(|entries| entries.is_empty());
                if !is_empty && entry != TMP {
                    return Ok(Some(format!("it is not empty: it holds {entry}/{object}")));
                }
            }
        }
        Ok(None)
    }
}

/// What a new file system holds before anybody wrote to it.
const LOST_AND_FOUND: &str = "lost+found";

fn folders_of_kinds() -> impl Iterator<Item = (&'static str, Option<ObjectKind>)> {
    let kinds = ObjectKind::ALL.into_iter();
    kinds
        .filter_map(|kind| Some((kind.folder()?, Some(kind))))
        .chain([(TMP, None)])
}

/// Returns the names in a folder; only for folders that are small or about to be refused.
fn entries(folder: impl AsFd) -> Result<Vec<String>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok(names)
}

fn not_a_file(operation: Operation, name: &ObjectName) -> BackendError {
    let cause = io::Error::other("it is not a regular file");
    BackendError::new(BackendErrorKind::Other, operation, *name, cause)
}

struct Listing<'a> {
    kind: ObjectKind,
    wanted: &'a dyn Fn(&ObjectName) -> bool,
    each: &'a mut dyn FnMut(ObjectInfo),
    strays: Strays,
}

impl Listing<'_> {
    fn root(&mut self, root: &impl AsFd) -> Result<(), Errno> {
        for entry in Dir::read_from(root)? {
            let entry = entry?;
            let file = entry.file_name().to_string_lossy();
            let ours = folders_of_kinds().any(|(folder, _)| folder == file);
            if !ours && file != LOST_AND_FOUND {
                self.entry(root, "", &file)?;
            }
        }
        Ok(())
    }

    fn packs(&mut self, packs: &impl AsFd) -> Result<(), Errno> {
        for entry in Dir::read_from(packs)? {
            let entry = entry?;
            let file = entry.file_name().to_string_lossy();
            if file == "." || file == ".." {
                continue;
            }
            match folders::open_folder(packs, &*file, OFlags::NOFOLLOW) {
                Ok(folder) => self.folder(&folder, &format!("packs/{file}/"))?,
                Err(Errno::NOENT) => {} // Removed meanwhile.
                Err(Errno::NOTDIR | Errno::LOOP) => self.strays.add(format!("packs/{file}")),
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Lists a folder whose path below the root, with a slash behind it, is `prefix`.
    fn folder(&mut self, folder: &impl AsFd, prefix: &str) -> Result<(), Errno> {
        for entry in Dir::read_from(folder)? {
            self.entry(folder, prefix, &entry?.file_name().to_string_lossy())?;
        }
        Ok(())
    }

    fn entry(&mut self, folder: &impl AsFd, prefix: &str, file: &str) -> Result<(), Errno> {
        if file == "." || file == ".." {
            return Ok(());
        }
        let path = format!("{prefix}{file}");
        let Some(name) = ObjectName::parse(&path).filter(|name| name.kind() == self.kind) else {
            self.strays.add(path);
            return Ok(());
        };
        if !(self.wanted)(&name) {
            return Ok(());
        }
        let wanted = StatxFlags::TYPE | StatxFlags::SIZE | StatxFlags::MTIME;
        match rustix::fs::statx(folder, file, AtFlags::SYMLINK_NOFOLLOW, wanted) {
            Ok(status) if regular(&status) => {
                let modified = modified(&status);
                (self.each)(ObjectInfo {
                    name,
                    len: status.stx_size,
                    modified,
                });
            }
            Ok(_) => self.strays.add(path),
            Err(Errno::NOENT) => {} // Deleted meanwhile.
            Err(errno) => return Err(errno),
        }
        Ok(())
    }
}

fn modified(status: &Statx) -> SystemTime {
    let seconds = status.stx_mtime.tv_sec;
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let nanos = Duration::from_nanos(status.stx_mtime.tv_nsec.into());
    let epoch = SystemTime::UNIX_EPOCH;
    let time = if seconds < 0 {
        epoch.checked_sub(whole)
    } else {
        epoch.checked_add(whole)
    };
    time.and_then(|time| time.checked_add(nanos))
        .unwrap_or(epoch)
}

impl Backend for Local {
    fn create_layout(&self) -> Result<(), BackendError> {
        let failed = |error: io::Error| {
            let kind = folders::kind_of(&error);
            BackendError::new(kind, Operation::CreateLayout, self.folders.place(), error)
        };
        let path = self.folders.path();
        let missing: Vec<&Path> = path.ancestors().take_while(|path| !path.exists()).collect();
        if missing.is_empty()
            && let Some(why) = self
                .what_is_in_the_way()
                .map_err(|errno| failed(errno.into()))?
        {
            return Err(self.refuse_layout(why));
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed)?;
        let root = folders::open_folder(rustix::fs::CWD, path, OFlags::empty())
            .map_err(|errno| failed(errno.into()))?;
        for (folder, _) in folders_of_kinds() {
            match rustix::fs::mkdirat(&root, folder, MODE_FOLDER.into()) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed(errno.into())),
            }
        }
        let place = self.folders.place();
        self.folders.sync_folder(&root, &place)?;
        for parent in missing.iter().filter_map(|path| path.parent()) {
            let parent = folders::open_folder(rustix::fs::CWD, parent, OFlags::empty())
                .map_err(|errno| failed(errno.into()))?;
            self.folders.sync_folder(&parent, &place)?;
        }
        Ok(())
    }

    fn begin(&self, kind: ObjectKind) -> Result<Box<dyn NewObject>, BackendError> {
        Ok(Box::new(LocalObject::begin(
            self.folders.clone(),
            self.publishing,
            kind,
        )?))
    }

    fn commit_many(
        &self,
        mut objects: Vec<(Box<dyn NewObject>, ObjectName)>,
    ) -> Result<(), BackendError> {
        for (object, _) in &mut objects {
            object.sync()?;
        }
        // One of each folder is enough: each stands for all names in it.
        let mut names: Vec<ObjectName> = Vec::new();
        for (object, name) in objects {
            object.publish(&name)?;
            if !names.iter().any(|other| folders::same_folder(other, &name)) {
                names.push(name);
            }
        }
        names
            .iter()
            .try_for_each(|name| self.folders.sync_name(name))
    }

    fn get(&self, name: &ObjectName, range: ByteRange) -> Result<Bytes, BackendError> {
        let operation = Operation::Read(range);
        let failed =
            |error: io::Error| BackendError::new(folders::kind_of(&error), operation, *name, error);
        let (file, object_len) = self.open_object(name, operation)?;
        let (offset, len) = range
            .within(object_len)
            .ok_or_else(|| BackendError::short(operation, name, object_len))?;
        let len = usize::try_from(len).map_err(|error| failed(io::Error::other(error)))?;
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(len)
            .map_err(|error| failed(io::Error::other(error)))?;
        while bytes.len() < len {
            let position = offset + bytes.len() as u64;
            match rustix::io::pread(&file, spare_capacity(&mut bytes), position) {
                Ok(0) => return Err(BackendError::short(operation, name, position)),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(errno.into())),
            }
        }
        bytes.truncate(len); // The allocator may have given more room, and the file may have more bytes.
        Ok(Bytes::from(bytes))
    }

    fn read_into(
        &self,
        name: &ObjectName,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), BackendError> {
        use std::os::unix::fs::FileExt;
        let len = buffer.len() as u64;
        let operation = Operation::Read(ByteRange::Exact { offset, len });
        let (file, object_len) = self.open_object(name, operation)?;
        if (ByteRange::Exact { offset, len })
            .within(object_len)
            .is_none()
        {
            return Err(BackendError::short(operation, name, object_len));
        }
        file.read_exact_at(buffer, offset)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => BackendError::short(operation, name, object_len),
                _ => BackendError::new(folders::kind_of(&error), operation, *name, error),
            })
    }

    fn len(&self, name: &ObjectName) -> Result<u64, BackendError> {
        let Some(folder) = self.folders.of_object(name, Operation::Length)? else {
            return Err(self.folders.absent(Operation::Length, name));
        };
        let wanted = StatxFlags::TYPE | StatxFlags::SIZE;
        match rustix::fs::statx(&folder, file_of(name), AtFlags::SYMLINK_NOFOLLOW, wanted) {
            Ok(status) if regular(&status) => Ok(status.stx_size),
            Ok(_) => Err(not_a_file(Operation::Length, name)),
            Err(Errno::NOENT) => Err(self.folders.absent(Operation::Length, name)),
            Err(errno) => Err(folders::error(errno, Operation::Length, *name)),
        }
    }

    fn list(
        &self,
        kind: ObjectKind,
        each: &mut dyn FnMut(ObjectInfo),
    ) -> Result<Strays, BackendError> {
        self.list_where(kind, &|_| true, each)
    }

    fn list_log_after(
        &self,
        seq: u64,
        each: &mut dyn FnMut(ObjectInfo),
    ) -> Result<Strays, BackendError> {
        self.list_where(ObjectKind::Log, &|name| name.seq() > Some(seq), each)
    }

    fn delete(&self, name: &Condemned) -> Result<(), BackendError> {
        let name = name.deletable()?;
        let Some(folder) = self.folders.of_object(name, Operation::Delete)? else {
            return self.folders.check_in_place(name.kind(), Operation::Delete);
        };
        match rustix::fs::unlinkat(&folder, file_of(name), AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => self.folders.check_in_place(name.kind(), Operation::Delete),
            Err(errno) => Err(folders::error(errno, Operation::Delete, *name)),
        }
    }

    fn sync_names(&self, kinds: &[ObjectKind]) -> Result<(), BackendError> {
        for &kind in kinds {
            let failed = |errno| folders::error(errno, Operation::Sync, kind);
            let Some(folder) = self.folders.of_kind(kind, Operation::Sync)? else {
                continue;
            };
            if kind == ObjectKind::Pack {
                for entry in entries(&folder).map_err(failed)? {
                    match folders::open_folder(&folder, &*entry, OFlags::NOFOLLOW) {
                        Ok(folder) => self.folders.sync_folder(&folder, &kind.into())?,
                        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                        Err(errno) => return Err(failed(errno)),
                    }
                }
            }
            self.folders.sync_folder(&folder, &kind.into())?;
            self.folders.sync_above(kind)?;
        }
        Ok(())
    }

    fn remove_abandoned(&self) -> Result<u64, BackendError> {
        object::remove_abandoned(&self.folders)
    }

    fn free_bytes(&self) -> Result<Option<u64>, BackendError> {
        let root = self.folders.root()?;
        let status = rustix::fs::fstatvfs(root)
            .map_err(|errno| folders::error(errno, Operation::FreeSpace, self.folders.place()))?;
        Ok(Some(status.f_bavail.saturating_mul(status.f_frsize)))
    }

    fn local_path(&self) -> Option<&Path> {
        Some(self.folders.path())
    }
}

#[cfg(test)]
mod tests;
