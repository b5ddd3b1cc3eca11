//! What a restore of a site has done already: a file that a killed run leaves behind, so that the next one goes on where it ended.
//!
//! Layout: `<folder>/restore-<site>-<8 hex>.json`, the JSON of [`Progress`]; the digits are a hash of the site file's path. It is replaced by a
//! rename before and after each step that changes the target, and removed at the end.
//!
//! Failure: a file that is lost or can't be read costs work, not data: every step can be done again.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// How far a restore came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Progress {
    /// The repository.
    pub(super) repository: String,
    /// The snapshot.
    pub(super) snapshot: String,
    /// The target's site file.
    pub(super) site: PathBuf,
    /// When the first run began, RFC 3339.
    pub(super) begun: String,
    /// The snapshot of the target before anything of it was changed.
    pub(super) safety: Option<String>,
    /// Whether anything of the target was changed.
    pub(super) changed: bool,
    /// Components that are done, by their paths in the snapshot.
    pub(super) done: Vec<String>,
}

/// The file that it is kept in; without a folder nothing is kept.
#[derive(Clone, Debug)]
pub(super) struct ProgressFile(Option<PathBuf>);

impl ProgressFile {
    pub(super) fn new(folder: Option<&Path>, site_name: &str, site_path: &Path) -> Self {
        let absolute = std::path::absolute(site_path).unwrap_or_else(|_e| site_path.to_path_buf());
        let hash = blake3::hash(absolute.as_os_str().as_encoded_bytes()).to_hex();
        let name: String = site_name
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || "-_".contains(c) {
                    c
                } else {
                    '_'
                }
            })
            .collect();
        Self(folder.map(|folder| folder.join(format!("restore-{name}-{}.json", &hash[..8]))))
    }

    pub(super) fn read(&self) -> Option<Progress> {
        let text = fs::read(self.0.as_ref()?).ok()?;
        serde_json::from_slice(&text).ok()
    }

    pub(super) fn write(&self, progress: &Progress) -> io::Result<()> {
        let Some(path) = &self.0 else { return Ok(()) };
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&serde_json::to_vec_pretty(progress)?)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }

    pub(super) fn remove(&self) {
        if let Some(path) = &self.0
            && let Err(error) = fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("cannot remove {}: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = |folder| ProgressFile::new(folder, "a site/1", Path::new("/etc/site.toml"));
        let kept = file(Some(folder.path()));
        assert_eq!(kept.read(), None);
        let progress = Progress {
            snapshot: "ab".into(),
            changed: true,
            done: vec!["databases/QSR".into()],
            ..Progress::default()
        };
        kept.write(&progress).unwrap();
        assert_eq!(kept.read(), Some(progress.clone()));
        kept.remove();
        kept.remove();
        assert_eq!(kept.read(), None);
        file(None).write(&progress).unwrap();
        assert_eq!(file(None).read(), None);
    }
}
