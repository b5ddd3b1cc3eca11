//! `ls`: the nodes of a snapshot with all their metadata.
//!
//! Memory: one chunk of nodes for each directory on the path.

use std::sync::Arc;

use serde::Serialize;

use super::browse::{Archive, Entry, OnDamage, Place, Report, Walk, id_text};
use crate::error::Result;
use crate::store::Repository;

/// What is listed.
#[derive(Clone, Debug, Default)]
pub struct LsOptions {
    /// A directory: what it holds; anything else: itself.
    pub place: Place,
    /// Also what stands in directories below.
    pub recursive: bool,
}

/// What was listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LsSummary {
    /// Id of the snapshot.
    pub snapshot: String,
    /// Nodes that are not directories.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Sum of the sizes of the files in bytes.
    pub bytes: u64,
    /// Damage that was told; exit code 4 if it is not 0.
    pub damaged: u64,
}

/// Gives every node to `each`, a directory before what it holds, by name.
pub fn ls(
    repository: &Arc<Repository>,
    options: &LsOptions,
    each: &mut dyn FnMut(&Entry) -> Result<()>,
    damage: OnDamage<'_>,
) -> Result<LsSummary> {
    let mut report = Report::new(damage);
    let archive = Archive::open(repository, &mut report)?;
    let opened = archive.open_place(&options.place)?;
    let mut summary = LsSummary {
        snapshot: id_text(&opened.snapshot.id),
        ..LsSummary::default()
    };
    let mut list = |entry: &Entry| {
        match entry.node.is_directory() {
            true => summary.directories += 1,
            false => {
                summary.files += 1;
                summary.bytes += entry.node.size;
            }
        }
        each(entry)
    };
    if opened.node.is_directory() {
        let mut walk = Walk::below(&opened.reader, &opened.path, &opened.node);
        while let Some(entry) = walk.next(&mut report)? {
            if !options.recursive {
                walk.skip_below();
            }
            list(&entry)?;
        }
    } else {
        list(&Entry {
            path: opened.path,
            node: opened.node,
        })?;
    }
    summary.damaged = report.damaged;
    Ok(summary)
}
