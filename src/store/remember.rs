//! The last log entry that this host saw of each repository: it makes a repository that was rolled back visible.
//!
//! Layout: a file `<folder>/<repository id>` with one line, `<number> <hash>`; the folder is `$XDG_STATE_HOME/holdfast`, not the cache,
//! because what it says can't be found out again.
//!
//! Invariants: the number never goes back (`the_number_never_goes_back`).
//!
//! Failure: the file is replaced by a rename. Lost or cut short, it counts as never written: it is a witness, never a condition.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::format::id::{ObjectHash, RepositoryId};

/// A place in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Number of an entry.
    pub seq: u64,
    /// Hash of its stored bytes.
    pub hash: ObjectHash,
}

/// Where the last entry seen is kept.
#[derive(Clone, Debug)]
pub struct Remembered {
    folder: PathBuf,
}

impl Remembered {
    /// Keeps one file per repository in `folder`, which is created when it is needed.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// What was remembered of this repository.
    pub fn position(&self, repository: RepositoryId) -> Option<Position> {
        let text = fs::read_to_string(self.file(repository)).ok()?;
        let (seq, hash) = text.strip_suffix('\n')?.split_once(' ')?;
        Some(Position {
            seq: seq.parse().ok()?,
            hash: ObjectHash::from_hex(hash)?,
        })
    }

    /// Remembers `position` unless a later one is remembered already.
    pub fn remember(&self, repository: RepositoryId, position: Position) -> io::Result<()> {
        if self
            .position(repository)
            .is_some_and(|known| known.seq >= position.seq)
        {
            return Ok(());
        }
        fs::create_dir_all(&self.folder)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        writeln!(file, "{} {}", position.seq, position.hash)?;
        file.persist(self.file(repository))
            .map_err(|error| error.error)?;
        Ok(())
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn file(&self, repository: RepositoryId) -> PathBuf {
        self.folder.join(repository.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_never_goes_back() {
        let folder = tempfile::tempdir().unwrap();
        let remembered = Remembered::in_folder(folder.path().join("not/there/yet"));
        let id = RepositoryId([7; 16]);
        let at = |seq: u64| Position {
            seq,
            hash: ObjectHash([u8::try_from(seq).unwrap(); 32]),
        };
        assert_eq!(remembered.position(id), None);
        remembered.remember(id, at(5)).unwrap();
        remembered.remember(id, at(4)).unwrap();
        assert_eq!(remembered.position(id), Some(at(5)));
        remembered.remember(id, at(6)).unwrap();
        assert_eq!(remembered.position(id), Some(at(6)));
        assert_eq!(remembered.position(RepositoryId([8; 16])), None);
    }

    #[test]
    fn any_text_is_a_position_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let remembered = Remembered::in_folder(folder.path());
        let id = RepositoryId([7; 16]);
        for text in [
            "",
            "\n",
            "5\n",
            "5 \n",
            "x y\n",
            "5 00\n",
            "18446744073709551616 00\n",
        ] {
            fs::write(remembered.file(id), text).unwrap();
            assert_eq!(remembered.position(id), None, "{text}");
        }
    }
}
