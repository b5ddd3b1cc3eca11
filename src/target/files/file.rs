//! Regular files: written under a temporary name, finished, renamed; existing ones compared.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::create::{Place, remove, temporary_name};
use super::{RestoreTarget, Result, TargetError};
use crate::format::node::{Node, Xattr};

/// A file that is being written, by as many threads as like to. Dropped unfinished it is removed.
#[derive(Debug)]
pub struct FileHandle {
    fd: OwnedFd,
    path: Vec<u8>,
    temporary: Option<Place>,
    place: Place,
    /// Where the furthest write ended.
    end: AtomicU64,
}

impl FileHandle {
    /// Its path below the target.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// Writes at an offset of the whole file, holes counted. What is never written reads as zeros.
    pub fn write_at(&self, mut offset: u64, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match rustix::io::pwrite(&self.fd, bytes, offset) {
                Ok(0) => return Err(TargetError::new(&self.path, "write to it", Errno::NOSPC)),
                Ok(len) => {
                    bytes = &bytes[len..];
                    offset += len as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(TargetError::new(&self.path, "write to it", error)),
            }
        }
        self.end.fetch_max(offset, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for FileHandle {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            remove(temporary);
        }
    }
}

/// A regular file that is in the target already, open for reading.
#[derive(Debug)]
pub struct ExistingFile {
    fd: OwnedFd,
    path: Vec<u8>,
    size: u64,
    links: u64,
}

impl ExistingFile {
    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether it has other names, perhaps outside the target.
    pub fn has_other_names(&self) -> bool {
        self.links > 1
    }

    /// Reads at an offset until `buffer` is full or the file ends; gives the number of bytes.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let at = offset + filled as u64;
            match rustix::io::pread(&self.fd, &mut buffer[filled..], at) {
                Ok(0) => break,
                Ok(len) => filled += len,
                Err(Errno::INTR) => {}
                Err(error) => return Err(TargetError::new(&self.path, "read it", error)),
            }
        }
        Ok(filled)
    }
}

impl RestoreTarget {
    /// Begins a regular file. `None`: it is another name of a file that was begun already and needs no content; it is made by
    /// [`RestoreTarget::finish_links`].
    pub fn create_file(&self, path: &[u8], node: &Node) -> Result<Option<FileHandle>> {
        let place = self.place(path)?;
        if !self.claim_name(path, node)? {
            return Ok(None);
        }
        let temporary = Place {
            directory: Arc::clone(&place.directory),
            name: temporary_name(),
        };
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(first_mode(node.mode));
        let fd = rustix::fs::openat(&temporary.directory, &*temporary.name, flags, mode)
            .map_err(|error| TargetError::new(path, "create it", error))?;
        Ok(Some(FileHandle {
            fd,
            path: path.to_vec(),
            temporary: Some(temporary),
            place,
            end: AtomicU64::new(0),
        }))
    }

    /// Sets a written file's metadata and gives it its name. `xattrs` are all its attributes.
    pub fn finish_file(&self, mut handle: FileHandle, node: &Node, xattrs: &[Xattr]) -> Result<()> {
        if handle.end.load(Ordering::Relaxed) < node.size {
            rustix::fs::ftruncate(&handle.fd, node.size)
                .map_err(|error| TargetError::new(&handle.path, "give it its size", error))?;
        }
        let inherited = handle.place.directory.inherits();
        self.apply(&handle.path, handle.fd.as_fd(), node, xattrs, inherited)?;
        let Some(temporary) = &handle.temporary else {
            return Ok(());
        };
        self.move_into_place(&handle.path, temporary, &handle.place)?;
        handle.temporary = None;
        Ok(())
    }

    /// Opens a regular file that exists; `None` if there is none. Anything else under that name is not opened and waits for nobody.
    pub fn open_existing(&self, path: &[u8]) -> Result<Option<ExistingFile>> {
        let place = match self.place(path) {
            Ok(place) => place,
            Err(error) if error.is_stop() => return Err(error),
            Err(_) => return Ok(None),
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(&place.directory, &*place.name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
            Err(error) => return Err(TargetError::new(path, "open it", error)),
        };
        let stat =
            rustix::fs::fstat(&fd).map_err(|error| TargetError::new(path, "look at it", error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        Ok(Some(ExistingFile {
            fd,
            path: path.to_vec(),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            links: stat.st_nlink,
        }))
    }

    /// Keeps an existing file whose content is the archived one and sets its metadata. `false`: nothing was done, because it has other
    /// names, perhaps outside the target, and other metadata; the caller replaces it. Ask [`RestoreTarget::claim_name`] before.
    pub fn adopt_file(&self, file: &ExistingFile, node: &Node, xattrs: &[Xattr]) -> Result<bool> {
        if file.has_other_names() {
            let differences = self.compare_metadata(&file.path, node, xattrs)?;
            return Ok(node.link_group.is_some() && differences.is_empty());
        }
        self.apply(&file.path, file.fd.as_fd(), node, xattrs, true)?;
        Ok(true)
    }
}

/// The mode that a file is created with: its own where nobody can read by it who can't when the file has its owner, else the owner's alone.
/// Most files then need no change of their mode, which waits for the server on a share and for the journal on a disk.
fn first_mode(mode: u32) -> u32 {
    let (group, others) = ((mode >> 3) & 7, mode & 7);
    match group & !others {
        0 => 0o600 | (mode & 0o777),
        _ => 0o600,
    }
}

/// Copies a finished file where no second name can be made.
pub(super) fn copy(path: &[u8], from: &Place, to: &Place) -> Result<()> {
    let fail = |error| TargetError::new(path, "copy it", error);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let source =
        rustix::fs::openat(&from.directory, &*from.name, flags, Mode::empty()).map_err(fail)?;
    let stat = rustix::fs::fstat(&source).map_err(fail)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target =
        rustix::fs::openat(&to.directory, &*to.name, flags, Mode::from(0o600)).map_err(fail)?;
    let mut reader = std::fs::File::from(source);
    let mut writer = std::fs::File::from(target);
    std::io::copy(&mut reader, &mut writer)
        .map_err(|error| TargetError::io(path, "copy it", &error))?;
    let uid = rustix::fs::Uid::from_raw(stat.st_uid);
    let gid = rustix::fs::Gid::from_raw(stat.st_gid);
    rustix::fs::fchown(&writer, Some(uid), Some(gid)).map_err(fail)?;
    for xattr in super::apply::present(reader.as_fd(), false).map_err(fail)? {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::fsetxattr(&writer, &*xattr.name, &xattr.value, flags).map_err(fail)?;
    }
    rustix::fs::fchmod(&writer, Mode::from_raw_mode(stat.st_mode)).map_err(fail)?;
    let time = rustix::fs::Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::futimens(&writer, &times).map_err(fail)
}
