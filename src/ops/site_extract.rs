//! `site extract`: the site file back out of a snapshot, so that a site can be rebuilt from the repository alone.

use std::sync::Arc;

use super::snapshots::{self, Snapshot, open_reader};
use crate::error::{Error, Result};
use crate::store::reader::ChunkReader;
use crate::store::tree::{find, read_all};
use crate::store::{Repository, StoreError};

/// A site file is at most this long.
const SITE_FILE_BYTES: usize = 4 << 20;
/// What stands in the place of a password.
const MARK: &str = "***";

/// The site file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteText {
    /// Id of the snapshot.
    pub snapshot: String,
    /// As it was typed, without passwords.
    pub text: String,
    /// Lines in which a password was taken out, counted from 1.
    pub redacted_lines: Vec<usize>,
}

/// Reads the site file of a snapshot.
pub fn site_text(repository: &Arc<Repository>, snapshot: &str) -> Result<SiteText> {
    let mut damage = |e: StoreError| tracing::warn!("{e}");
    let state = repository.read_state()?;
    let all = snapshots::list(repository, &state, &mut damage)?;
    let snapshot = snapshots::resolve_live(&state, &all, snapshot)?;
    let reader = open_reader(repository, &state, Some(snapshot.id), &mut damage)?;
    let text = site_text_of(&reader, &snapshot)?;
    let lines = text.lines().zip(1..);
    let redacted_lines = lines
        .filter(|(line, _)| line.contains(MARK))
        .map(|(_, number)| number)
        .collect();
    Ok(SiteText {
        snapshot: snapshot.id.to_string(),
        text,
        redacted_lines,
    })
}

/// The text of a snapshot's site file.
pub(super) fn site_text_of(reader: &Arc<ChunkReader>, snapshot: &Snapshot) -> Result<String> {
    let path = [&b"site"[..], b"site.toml"];
    let node = find(reader, &snapshot.record.root, path)?.ok_or_else(|| {
        Error::Message(format!(
            "snapshot {} was taken without a site file",
            snapshot.id.short()
        ))
    })?;
    let bytes = read_all(reader, &node.content, SITE_FILE_BYTES)?;
    String::from_utf8(bytes).map_err(|e| StoreError::damaged("site/site.toml", e).into())
}
