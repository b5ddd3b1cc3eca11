//! Shares, lists of files and certificates of a snapshot beside what stands at their places: what would be written, what is there besides.
//!
//! A survey looks at kind, size and time of modification of each file, so it is a forecast; the restore itself compares contents.
//!
//! Invariants:
//! 1. Only what stands below a share's root and is not in the snapshot is removed, no link is followed, and what the share's patterns leave out of
//!    backups stays (`only_what_is_not_archived_goes`).
//! 2. Lists of files never remove anything: their directories are shared with the rest of the host.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ignore::gitignore::Gitignore;
use rustix::fs::FileType;

use crate::error::{Error, Result};
use crate::format::node::{Node, NodeKind};
use crate::ops::backup::Interrupt;
use crate::ops::restore::patterns;
use crate::store::reader::ChunkReader;
use crate::store::tree::Nodes;
use crate::target::files::listing::{Directory, Listed};

/// Entries that are named; more are counted.
const NAMED: usize = 10;

/// What a tree would change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Survey {
    /// Files and their bytes in the snapshot.
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// Files that are not there.
    pub(super) new: u64,
    /// Files that seem to differ.
    pub(super) changed: u64,
    /// By how many bytes the target grows.
    pub(super) growth: u64,
    /// The largest file that is written; it stands beside the old one for a moment.
    pub(super) largest: u64,
    /// Entries that the snapshot does not have; a directory counts once.
    pub(super) extra: u64,
    pub(super) extra_named: Vec<String>,
    /// Entries that were removed, those in directories counted.
    pub(super) removed: u64,
    /// What could not be looked at or removed.
    pub(super) troubles: Vec<(String, String)>,
}

/// How a tree is looked at.
pub(super) struct Surveyor<'a> {
    pub(super) reader: &'a Arc<ChunkReader>,
    pub(super) interrupt: &'a Interrupt,
    /// What is left out of backups; such entries are never extra.
    pub(super) excludes: Gitignore,
    /// Whether what the snapshot does not have is looked for.
    pub(super) extra: bool,
    /// Whether it is removed.
    pub(super) remove: bool,
}

impl<'a> Surveyor<'a> {
    pub(super) fn new(
        reader: &'a Arc<ChunkReader>,
        interrupt: &'a Interrupt,
        excludes: &[String],
    ) -> Result<Self> {
        Ok(Self {
            reader,
            interrupt,
            excludes: patterns(excludes)?,
            extra: false,
            remove: false,
        })
    }

    /// Looks at the tree below `node` and at the directory `target`.
    pub(super) fn survey(&self, node: &Node, target: &Path) -> Result<Survey> {
        let mut survey = Survey::default();
        let directory = match Directory::open(target) {
            Ok(directory) => directory,
            Err(error) => {
                let error = std::io::Error::from(error);
                survey.trouble(target, &format!("cannot be opened: {error}"));
                None
            }
        };
        self.directory(node, directory.as_ref(), Path::new(""), &mut survey)?;
        Ok(survey)
    }

    fn directory(
        &self,
        node: &Node,
        directory: Option<&Directory>,
        at: &Path,
        survey: &mut Survey,
    ) -> Result<()> {
        if self.interrupt.is_set() {
            return Err(Error::Interrupted);
        }
        let listed = match directory.map(Directory::entries) {
            None => Vec::new(),
            Some(Ok(listed)) => listed,
            Some(Err(error)) => {
                let error = std::io::Error::from(error);
                survey.trouble(at, &format!("cannot be read: {error}"));
                Vec::new()
            }
        };
        let mut listed = listed.into_iter().peekable();
        for entry in Nodes::new(self.reader.clone(), &node.content) {
            let entry = entry?;
            while let Some(other) = listed.next_if(|other| other.name < entry.name) {
                self.extra(directory, &other, at, survey);
            }
            let found = listed.next_if(|other| other.name == entry.name);
            let path = at.join(OsStr::from_bytes(&entry.name));
            // A directory in the place of something else would be in the way.
            let in_the_way = !entry.is_directory()
                && found
                    .as_ref()
                    .is_some_and(|found| found.kind == FileType::Directory);
            if let Some(found) = found.as_ref().filter(|_| in_the_way) {
                self.extra(directory, found, at, survey);
            }
            if entry.is_directory() {
                let is_directory = found.is_some_and(|found| found.kind == FileType::Directory);
                let below = match directory.filter(|_| is_directory) {
                    None => None,
                    Some(directory) => match directory.below(&entry.name) {
                        Ok(below) => Some(below),
                        Err(error) => {
                            let error = std::io::Error::from(error);
                            survey.trouble(&path, &format!("cannot be opened: {error}"));
                            None
                        }
                    },
                };
                self.directory(&entry, below.as_ref(), &path, survey)?;
            } else {
                survey.entry(&entry, found.as_ref());
            }
        }
        for other in listed {
            self.extra(directory, &other, at, survey);
        }
        Ok(())
    }

    fn extra(&self, directory: Option<&Directory>, entry: &Listed, at: &Path, survey: &mut Survey) {
        let path = at.join(OsStr::from_bytes(&entry.name));
        let excluded =
            |path: &Path, is_directory: bool| self.excludes.matched(path, is_directory).is_ignore();
        let (Some(directory), true) = (directory, self.extra) else {
            return;
        };
        if excluded(&path, entry.kind == FileType::Directory) {
            return;
        }
        survey.extra += 1;
        if survey.extra_named.len() < NAMED {
            survey.extra_named.push(path.display().to_string());
        }
        if !self.remove {
            return;
        }
        match directory.remove(entry, at, &excluded) {
            Ok(removed) => survey.removed += removed.gone,
            Err(error) => {
                let error = std::io::Error::from(error);
                survey.trouble(&path, &format!("cannot be removed: {error}"));
            }
        }
    }
}

impl Survey {
    fn trouble(&mut self, path: &Path, what: &str) {
        self.troubles
            .push((path.display().to_string(), what.to_owned()));
    }

    fn entry(&mut self, node: &Node, found: Option<&Listed>) {
        if node.kind != NodeKind::File {
            return;
        }
        self.files += 1;
        self.bytes = self.bytes.saturating_add(node.size);
        let stored = node
            .size
            .saturating_sub(node.holes.iter().map(|hole| hole.len).sum());
        match found.filter(|found| found.kind == FileType::RegularFile) {
            None => {
                self.new += 1;
                self.growth = self.growth.saturating_add(stored);
            }
            Some(found) if found.size != node.size || found.modified != node.modified => {
                self.changed += 1;
                self.growth = self
                    .growth
                    .saturating_add(stored.saturating_sub(found.size));
                self.largest = self.largest.max(stored);
            }
            Some(_same) => {}
        }
    }
}

/// The nearest directory on the way to `path` that exists.
pub(super) fn existing_above(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_e| path.to_path_buf());
    let found = absolute.ancestors().find(|path| path.exists());
    found.unwrap_or(Path::new("/")).to_path_buf()
}

/// The file system that a path is or would be on: its number and its free bytes.
pub(super) fn free_space(path: &Path) -> Option<(u64, u64)> {
    let above = existing_above(path);
    let device = rustix::fs::stat(&above).ok()?.st_dev;
    let found = rustix::fs::statvfs(&above).ok()?;
    Some((device, found.f_bavail.saturating_mul(found.f_frsize)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::ops::restore::RestoreOptions;
    use crate::ops::snapshots::{self, node_at, open_reader};
    use crate::ops::testing::{back_up, reopen, repository};

    #[test]
    fn only_what_is_not_archived_goes() {
        let (backend, repository) = repository();
        let source = tempfile::tempdir().unwrap();
        fs::create_dir(source.path().join("a")).unwrap();
        fs::write(source.path().join("a/one"), "one").unwrap();
        fs::write(source.path().join("two"), "two").unwrap();
        back_up(&repository, source.path());
        let repository = reopen(backend);
        let state = repository.read_state().unwrap();
        let all = snapshots::list(&repository, &state, &mut |e| panic!("{e}")).unwrap();
        let reader =
            open_reader(&repository, &state, Some(all[0].id), &mut |e| panic!("{e}")).unwrap();
        let path = format!("paths{}", source.path().display());
        let node = node_at(&reader, &all[0].record.root, path.as_bytes()).unwrap();

        let folder = tempfile::tempdir().unwrap();
        let (target, outside) = (folder.path().join("share"), folder.path().join("outside"));
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("victim"), "v").unwrap();
        let interrupt = Interrupt::default();
        let mut surveyor = Surveyor::new(&reader, &interrupt, &["*.log".into()]).unwrap();
        let bare = surveyor.survey(&node, &target).unwrap();
        assert_eq!((bare.files, bare.bytes, bare.new), (2, 6, 2));
        let options = RestoreOptions {
            in_place: true,
            ..RestoreOptions::default()
        };
        let spec = format!("latest:{path}");
        let restored = crate::ops::restore::restore(
            &repository,
            &spec,
            &target,
            &options,
            &Arc::default(),
            &interrupt,
            &|t| panic!("{t}"),
        );
        restored.unwrap();
        fs::write(target.join("a/one"), "changed").unwrap();
        fs::create_dir_all(target.join("gone/deep")).unwrap();
        fs::write(target.join("gone/deep/x"), "x").unwrap();
        fs::write(target.join("server.log"), "stays").unwrap();
        fs::write(target.join("a/extra"), "x").unwrap();
        symlink(&outside, target.join("way")).unwrap();
        fs::remove_file(target.join("two")).unwrap();
        fs::create_dir(target.join("two")).unwrap();
        fs::write(target.join("two/in the way"), "x").unwrap();
        surveyor.extra = true;
        let found = surveyor.survey(&node, &target).unwrap();
        assert_eq!(
            (found.new, found.changed, found.extra),
            (1, 1, 4),
            "{found:?}"
        );
        assert!(target.join("gone").exists());
        surveyor.remove = true;
        let found = surveyor.survey(&node, &target).unwrap();
        assert_eq!((found.extra, found.removed), (4, 7), "{found:?}");
        assert_eq!(found.troubles, []);
        assert!(outside.join("victim").exists() && target.join("server.log").exists());
        let mut left: Vec<_> = fs::read_dir(&target)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["a", "server.log"]);
        let again = crate::ops::restore::restore(
            &repository,
            &spec,
            &target,
            &options,
            &Arc::default(),
            &interrupt,
            &|t| panic!("{t}"),
        );
        assert_eq!(again.unwrap().files, 2);
        assert_eq!(fs::read(target.join("two")).unwrap(), b"two");
    }
}
