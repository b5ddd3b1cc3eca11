//! `find`: nodes of one, several or all snapshots by name, path, kind, size and time.
//!
//! Memory: one chunk of nodes for each directory on the path.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde::Serialize;

use super::browse::{Archive, Entry, OnDamage, Report, Walk};
use super::snapshots::Snapshot;
use crate::error::{Error, Result};
use crate::format::node::{NodeKind, Timestamp};
use crate::store::Repository;

/// What is looked for. Everything that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct FindOptions {
    /// Which snapshots; all of them if empty.
    pub snapshots: Vec<String>,
    /// Globs, one of which must match: the whole path if it holds a `/`, else the name.
    pub patterns: Vec<String>,
    /// Globs, one of which must match the name.
    pub names: Vec<String>,
    /// Globs, one of which must match the whole path in the tree (`*` also matches `/`).
    pub paths: Vec<String>,
    /// Letter case does not matter.
    pub ignore_case: bool,
    /// Modified after it.
    pub newer: Option<Timestamp>,
    /// Modified before it.
    pub older: Option<Timestamp>,
    /// Kinds, if any are given.
    pub kinds: Vec<NodeKind>,
    /// Files of at least so many bytes.
    pub size_min: Option<u64>,
    /// Files of at most so many bytes.
    pub size_max: Option<u64>,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FindSummary {
    /// Snapshots that were searched.
    pub snapshots: u64,
    /// Nodes that were looked at.
    pub nodes: u64,
    /// Nodes that were found.
    pub found: u64,
    /// Damage that was told; exit code 4 if it is not 0.
    pub damaged: u64,
}

struct Matcher<'o> {
    options: &'o FindOptions,
    any: Globs,
    names: Globs,
    paths: Globs,
}

/// Globs over names and globs over whole paths; one of them must match, if there are any.
struct Globs {
    name: GlobSet,
    path: GlobSet,
}

impl Globs {
    fn new(globs: &[String], ignore_case: bool, is_path: impl Fn(&str) -> bool) -> Result<Self> {
        let build = |wanted: bool| {
            let mut set = GlobSetBuilder::new();
            for glob in globs.iter().filter(|glob| is_path(glob) == wanted) {
                let text = glob.trim_start_matches('/');
                let built = GlobBuilder::new(text).case_insensitive(ignore_case).build();
                set.add(built.map_err(|e| Error::Message(e.to_string()))?);
            }
            set.build().map_err(|e| Error::Message(e.to_string()))
        };
        Ok(Self {
            name: build(false)?,
            path: build(true)?,
        })
    }

    fn matches(&self, entry: &Entry) -> bool {
        (self.name.is_empty() && self.path.is_empty())
            || self.name.is_match(OsStr::from_bytes(&entry.node.name))
            || self.path.is_match(OsStr::from_bytes(&entry.path))
    }
}

impl<'o> Matcher<'o> {
    fn new(options: &'o FindOptions) -> Result<Self> {
        let case = options.ignore_case;
        Ok(Self {
            any: Globs::new(&options.patterns, case, |glob| glob.contains('/'))?,
            names: Globs::new(&options.names, case, |_| false)?,
            paths: Globs::new(&options.paths, case, |_| true)?,
            options,
        })
    }

    fn matches(&self, entry: &Entry) -> bool {
        let (options, node) = (self.options, &entry.node);
        let sized = options.size_min.is_some() || options.size_max.is_some();
        (options.kinds.is_empty() || options.kinds.contains(&node.kind))
            && (!sized || node.kind == NodeKind::File)
            && options.size_min.is_none_or(|min| node.size >= min)
            && options.size_max.is_none_or(|max| node.size <= max)
            && options.newer.is_none_or(|time| node.modified > time)
            && options.older.is_none_or(|time| node.modified < time)
            && self.any.matches(entry)
            && self.names.matches(entry)
            && self.paths.matches(entry)
    }
}

/// Gives every node that fits to `each`, snapshot by snapshot, the oldest first.
pub fn find(
    repository: &Arc<Repository>,
    options: &FindOptions,
    each: &mut dyn FnMut(&Snapshot, &Entry) -> Result<()>,
    damage: OnDamage<'_>,
) -> Result<FindSummary> {
    let matcher = Matcher::new(options)?;
    let mut report = Report::new(damage);
    let archive = Archive::open(repository, &mut report)?;
    let mut wanted = Vec::new();
    for spec in &options.snapshots {
        wanted.push(archive.resolve(spec)?);
    }
    if options.snapshots.is_empty() {
        wanted.extend_from_slice(archive.snapshots());
    }
    wanted.sort_by_key(|snapshot| snapshot.seq);
    wanted.dedup_by_key(|snapshot| snapshot.seq);
    let mut summary = FindSummary::default();
    for snapshot in &wanted {
        summary.snapshots += 1;
        let reader = archive.reader(snapshot)?;
        let mut walk = Walk::root(&reader, snapshot);
        while let Some(entry) = walk.next(&mut report)? {
            summary.nodes += 1;
            if matcher.matches(&entry) {
                summary.found += 1;
                each(snapshot, &entry)?;
            }
        }
    }
    summary.damaged = report.damaged;
    Ok(summary)
}
