//! What is kept of a site on this host: the lock of a run, and what a run that died has left undone.
//!
//! Layout, in `<state folder>/sites/<name of the site>` (mode 0700, files 0600, because commands may hold passwords):
//!
//! | file | holds |
//! |---|---|
//! | `lock` | held with `flock` by a run; one line says by whom. It stays when the run has ended |
//! | `stopped.json` | [`Pending`]: the site is stopped, and how it is started. Durable before the first stop command |
//! | `snapshots.json` | [`Leftover`]s: file-system snapshots that are to be removed. Durable before the first one is made |
//!
//! Failure: files are replaced by a rename, and durable before the call returns. `flock` ends with its process.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::moment::{Moment, ProcessIdentity};
use super::steps::Step;
use crate::error::{Error, Result};
use crate::format::path_encoding::encode_name;

/// Where things of a site are kept.
#[derive(Clone, Debug)]
pub struct SitePlace {
    state: PathBuf,
    folder: PathBuf,
    site: String,
}

/// The site is stopped.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Pending {
    /// The run that stopped it.
    pub(super) run: ProcessIdentity,
    /// The process that starts it if the run dies.
    pub(super) guardian: Option<ProcessIdentity>,
    /// When the first stop command was about to begin.
    pub(super) since: Moment,
    /// What starts it.
    pub(super) start: Vec<Step>,
    /// How often each command is tried.
    pub(super) attempts: u32,
    /// What went wrong when somebody tried.
    pub(super) problems: Vec<String>,
    /// Why it is to stay stopped until somebody asks for the start: its data are of different times.
    #[serde(default)]
    pub(super) held: Option<String>,
}

/// A file-system snapshot that is to be removed.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Leftover {
    /// The shares that are read from it.
    pub(super) shares: Vec<String>,
    /// How it is removed.
    pub(super) remove: Step,
}

const STOPPED: &str = "stopped.json";
const SNAPSHOTS: &str = "snapshots.json";

impl SitePlace {
    /// The place of a site below the state folder.
    pub fn new(state_folder: &Path, site: &str) -> Self {
        use std::os::unix::ffi::OsStrExt;
        let name = encode_name(site.as_bytes());
        Self {
            state: state_folder.to_owned(),
            folder: state_folder
                .join("sites")
                .join(std::ffi::OsStr::from_bytes(&name)),
            site: site.to_owned(),
        }
    }

    /// The name of the site.
    pub fn site(&self) -> &str {
        &self.site
    }

    /// The state folder that it lies in.
    pub fn state_folder(&self) -> &Path {
        &self.state
    }

    /// Its own folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Takes the lock of a run; [`Error::Busy`] where another process has it.
    pub fn lock(&self) -> Result<SiteLock> {
        let path = self.folder.join("lock");
        let cannot = |e| Error::local(format!("cannot lock {}", path.display()), e);
        self.make_folder().map_err(cannot)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(cannot)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).map_err(cannot)?;
                return Err(Error::Busy(format!(
                    "site {} is being worked on by another holdfast on this host: {}",
                    self.site,
                    holder.trim_end()
                )));
            }
            Err(errno) => return Err(cannot(errno.into())),
        }
        let line = format!(
            "process {}, since {}\n",
            std::process::id(),
            Moment::now().text()
        );
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| file.write_all(line.as_bytes()))
            .map_err(cannot)?;
        Ok(SiteLock {
            place: self.clone(),
            _file: file,
        })
    }

    fn make_folder(&self) -> io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
    }

    /// Why the site was left stopped, where a run has left it so on purpose.
    pub fn held(&self) -> Result<Option<String>> {
        Ok(self.pending()?.and_then(|pending| pending.held))
    }

    pub(super) fn pending(&self) -> Result<Option<Pending>> {
        self.read(STOPPED)
    }

    pub(super) fn set_pending(&self, pending: Option<&Pending>) -> Result<()> {
        self.write(STOPPED, pending)
    }

    pub(super) fn leftovers(&self) -> Result<Vec<Leftover>> {
        Ok(self.read(SNAPSHOTS)?.unwrap_or_default())
    }

    pub(super) fn set_leftovers(&self, leftovers: &[Leftover]) -> Result<()> {
        self.write(SNAPSHOTS, (!leftovers.is_empty()).then_some(leftovers))
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let path = self.folder.join(name);
        let text = match fs::read(&path) {
            Ok(text) => Zeroizing::new(text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::local(format!("cannot read {}", path.display()), e)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|e| {
            let what = format!(
                "cannot understand {} (look whether the site runs, then remove it)",
                path.display()
            );
            Error::local(what, e.into())
        })
    }

    fn write<T: Serialize + ?Sized>(&self, name: &str, content: Option<&T>) -> Result<()> {
        let path = self.folder.join(name);
        self.try_write(&path, content)
            .map_err(|e| Error::local(format!("cannot write {}", path.display()), e))
    }

    fn try_write<T: Serialize + ?Sized>(&self, path: &Path, content: Option<&T>) -> io::Result<()> {
        match content {
            None => match fs::remove_file(path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                done => done?,
            },
            Some(content) => {
                self.make_folder()?;
                let text = Zeroizing::new(serde_json::to_vec_pretty(content)?);
                // Made for its owner alone.
                let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
                file.write_all(&text)?;
                file.as_file().sync_all()?;
                file.persist(path).map_err(|e| e.error)?;
            }
        }
        File::open(&self.folder)?.sync_all()
    }
}

/// The lock of a run; dropped, the next one may begin.
#[derive(Debug)]
pub struct SiteLock {
    place: SitePlace,
    // Held for its lock, which ends with it.
    _file: File,
}

impl SiteLock {
    /// The place that is locked.
    pub fn place(&self) -> &SitePlace {
        &self.place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_run_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let place = SitePlace::new(folder.path(), "a/b");
        let lock = place.lock().unwrap();
        let error = place.lock().unwrap_err();
        assert_eq!(error.exit_code(), 11);
        let pid = format!("process {},", std::process::id());
        assert!(error.to_string().contains(&pid), "{error}");
        SitePlace::new(folder.path(), "c").lock().unwrap();
        drop(lock);
        place.lock().unwrap();
    }

    #[test]
    fn what_is_pending_comes_back_and_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let place = SitePlace::new(folder.path(), "s");
        assert!(place.pending().unwrap().is_none());
        let pending = Pending {
            run: ProcessIdentity::own(),
            guardian: None,
            since: Moment::now(),
            start: Vec::new(),
            attempts: 3,
            problems: vec!["x".into()],
            held: Some("y".into()),
        };
        place.set_pending(Some(&pending)).unwrap();
        let read = place.pending().unwrap().unwrap();
        assert!(read.run.is_alive());
        assert_eq!(read.problems, ["x"]);
        assert_eq!(place.held().unwrap().as_deref(), Some("y"));
        for path in [place.folder().to_owned(), place.folder().join(STOPPED)] {
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}", path.display());
        }
        place.set_pending(None).unwrap();
        place.set_pending(None).unwrap();
        assert!(place.pending().unwrap().is_none());
    }
}
