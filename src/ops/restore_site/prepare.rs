//! From a snapshot and the target's site file to a plan: everything is looked at, nothing is touched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::SiteRestoreOptions;
use super::databases::{self, Look, chain};
use super::plan::{DatabasePlan, SiteRestorePlan, TreePlan};
use super::relocate;
use super::state::{Progress, ProgressFile};
use super::trees::{Surveyor, existing_above, free_space};
use crate::error::{Error, Result};
use crate::format::node::Node;
use crate::format::snapshot::{Component, ComponentKind, ComponentState};
use crate::ops::archive::SnapshotArchive;
use crate::ops::backup::{Interrupt, now};
use crate::ops::browse::time_text;
use crate::ops::quiesce::SitePlace;
use crate::ops::restore::refuse_repository;
use crate::ops::site_extract::site_text_of;
use crate::ops::snapshots::{self, Snapshot, open_reader};
use crate::site::SiteFile;
use crate::site::redact_conninfo;
use crate::store::reader::ChunkReader;
use crate::store::tree::find;
use crate::store::{Repository, StoreError};
use crate::target::postgres::{DatabaseArchive, RestoreTarget};

/// Files that are written at once, each beside the one that it replaces.
const FILES_AT_ONCE: u64 = 4;

/// A database with its place.
#[derive(Debug)]
pub(super) struct PreparedDatabase {
    /// `databases/<name>`.
    pub(super) path: String,
    pub(super) name: String,
    pub(super) target: RestoreTarget,
    pub(super) archive: SnapshotArchive,
    pub(super) exists: bool,
}

/// A share, or a list of files, with its place.
#[derive(Debug)]
pub(super) struct PreparedTree {
    /// `shares/<name>`.
    pub(super) path: String,
    pub(super) kind: ComponentKind,
    pub(super) name: String,
    /// `None` where a database knows it when it is restored.
    pub(super) to: Option<PathBuf>,
    pub(super) node: Node,
    pub(super) delete: bool,
    pub(super) excludes: Vec<String>,
}

/// Everything that is known before the first step.
#[derive(Debug)]
pub struct Prepared {
    pub(super) repository: Arc<Repository>,
    pub(super) options: SiteRestoreOptions,
    pub(super) snapshot: Snapshot,
    pub(super) reader: Arc<ChunkReader>,
    pub(super) databases: Vec<PreparedDatabase>,
    pub(super) trees: Vec<PreparedTree>,
    pub(super) plan: SiteRestorePlan,
    pub(super) progress: Progress,
    pub(super) file: ProgressFile,
}

/// Looks at the snapshot and at the target. What speaks against the restore is in the plan; an error is what keeps the plan from being made.
pub fn prepare(
    repository: &Arc<Repository>,
    options: &SiteRestoreOptions,
    interrupt: &Interrupt,
) -> Result<Prepared> {
    let mut damage = |e: StoreError| tracing::warn!("{e}");
    let state = repository.read_state()?;
    let all = snapshots::list(repository, &state, &mut damage)?;
    let snapshot = snapshots::resolve_live(&state, &all, &options.snapshot)?;
    let reader = open_reader(repository, &state, Some(snapshot.id), &mut damage)?;
    let site = &options.site;
    let record = &snapshot.record;
    let file = ProgressFile::new(options.state_folder.as_deref(), &site.name, &site.path);
    let begun = now();
    let mut prepared = Prepared {
        plan: SiteRestorePlan {
            snapshot: snapshot.id.to_string(),
            snapshot_site: record.site.clone(),
            taken: time_text(record.started),
            site: site.name.clone(),
            delta: options.delta,
            stop_commands: site.quiesce.as_ref().map_or(0, |q| q.stop.len()),
            start_commands: site.quiesce.as_ref().map_or(0, |q| q.start.len()),
            post_commands: site.restore.post_commands.len(),
            queries: site
                .restore
                .queries
                .iter()
                .map(|q| q.name.clone())
                .collect(),
            ..SiteRestorePlan::default()
        },
        progress: Progress {
            repository: repository.format().id.to_string(),
            snapshot: snapshot.id.to_string(),
            site: std::path::absolute(&site.path).unwrap_or_else(|_e| site.path.clone()),
            begun: time_text(begun),
            ..Progress::default()
        },
        repository: repository.clone(),
        options: options.clone(),
        snapshot,
        reader,
        databases: Vec::new(),
        trees: Vec::new(),
        file,
    };
    prepared.resume();
    if prepared.takes_safety_backup() {
        prepared.plan.safety_backup = Some(safety_name(&site.name, &prepared.progress.begun));
    }
    let chosen = prepared.choose();
    prepared.look_at_databases(&chosen)?;
    prepared.look_at_trees(&chosen, interrupt)?;
    prepared.look_at_settings();
    Ok(prepared)
}

/// `before-restore-<site>-20261121T101500Z`.
fn safety_name(site: &str, time: &str) -> String {
    let seconds = time.split('.').next().unwrap_or(time);
    let digits: String = seconds
        .chars()
        .filter(|c| c.is_ascii_alphanumeric())
        .collect();
    let site: String = site
        .chars()
        .map(|c| {
            if c.is_alphanumeric() || "-_.".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    format!("before-restore-{site}-{}Z", digits.trim_end_matches('Z'))
}

impl Prepared {
    /// The plan.
    pub fn plan(&self) -> &SiteRestorePlan {
        &self.plan
    }

    fn problem(&mut self, text: impl Into<String>) {
        self.plan.problems.push(text.into());
    }

    fn note(&mut self, text: impl Into<String>) {
        self.plan.notes.push(text.into());
    }

    pub(super) fn is_done(&self, path: &str) -> bool {
        self.progress.done.iter().any(|done| done == path)
    }

    /// The comparison of `--delta` is made with that snapshot.
    fn takes_safety_backup(&self) -> bool {
        let wanted = self.options.safety_backup;
        self.progress.safety.is_none()
            && (self.options.delta || wanted.unwrap_or(self.options.site.restore.safety_backup))
    }

    /// Goes on with what a run that did not come to its end has left.
    fn resume(&mut self) {
        let Some(left) = self.file.read().filter(|left| left.changed) else {
            return;
        };
        let same = left.repository == self.progress.repository
            && left.snapshot == self.progress.snapshot
            && left.site == self.progress.site;
        let begun = left.begun.clone();
        if same && !self.options.from_start && self.was_started() {
            self.note(format!(
                "the restore that was begun {begun} did not come to its end, and the site was started since; it is done again from its start"
            ));
        } else if !same {
            let short = left.snapshot.get(..8).unwrap_or_default().to_owned();
            self.note(format!(
                "a restore of snapshot {short}, begun {begun}, did not come to its end; this one takes its place"
            ));
        } else if self.options.from_start {
            self.note(format!(
                "the restore that was begun {begun} did not come to its end; it is done again from its start"
            ));
        } else {
            let done = match left.done.is_empty() {
                true => "nothing".to_owned(),
                false => left.done.join(", "),
            };
            self.note(format!(
                "goes on with the restore that was begun {begun}; done already: {done}"
            ));
            self.progress = left;
        }
    }

    /// Whether a site that a restore had left stopped was started by somebody: then it has gone on, and nothing of it is done any more.
    fn was_started(&self) -> bool {
        let site = &self.options.site;
        let stops = site.quiesce.as_ref().is_some_and(|q| !q.stop.is_empty());
        let folder = self.options.state_folder.as_deref();
        let place = folder.map(|folder| SitePlace::new(folder, &site.name));
        stops && place.is_some_and(|place| matches!(place.held(), Ok(None)))
    }

    /// The components that are restored; what has no place is a problem.
    fn choose(&mut self) -> Vec<Component> {
        let names = |component: &Component| {
            [
                component.name.clone(),
                format!("{}/{}", component.kind.folder(), component.name),
            ]
        };
        let mut unmatched: Vec<String> = [&self.options.only[..], &self.options.skip[..]].concat();
        let site = self.options.site.clone();
        let mut chosen = Vec::new();
        for component in self.snapshot.record.components.clone() {
            if matches!(component.kind, ComponentKind::Site | ComponentKind::Cluster) {
                continue;
            }
            let names = names(&component);
            let is_in = |list: &[String]| list.iter().any(|text| names.contains(text));
            let (only, skip) = (is_in(&self.options.only), is_in(&self.options.skip));
            unmatched.retain(|text| !names.contains(text));
            let [name, shown] = names;
            if skip || !(only || self.options.only.is_empty()) {
                self.note(format!("{shown} is left out, as asked"));
                continue;
            }
            if component.state == ComponentState::Failed {
                self.problem(format!(
                    "{shown} is not in the snapshot, because it failed then ({}); restore an earlier snapshot, or leave it out with --skip {shown}",
                    component.message
                ));
                continue;
            }
            if !has_place(&site, component.kind, &name) {
                self.problem(format!(
                    "{shown} of the snapshot has no place in {}; add it there, or leave it out with --skip {shown}",
                    site.path.display()
                ));
                continue;
            }
            if component.state == ComponentState::Incomplete {
                self.note(format!(
                    "{shown} is incomplete in the snapshot: {}",
                    component.message
                ));
            }
            chosen.push(component);
        }
        for text in unmatched {
            self.problem(format!("the snapshot has no component {text:?}"));
        }
        for missing in not_in_snapshot(&site, &self.snapshot.record.components) {
            self.note(format!(
                "{missing} of the site file is not in the snapshot and stays as it is"
            ));
        }
        if self.plan.snapshot_site != site.name {
            self.note(format!(
                "the snapshot is of the site {:?}",
                self.plan.snapshot_site
            ));
        }
        chosen
    }

    fn look_at_databases(&mut self, chosen: &[Component]) -> Result<()> {
        let site = self.options.site.clone();
        let wanted = chosen
            .iter()
            .filter(|component| component.kind == ComponentKind::Database);
        let mut places = Vec::new();
        for component in wanted {
            let settings = site.databases.iter().find(|d| d.name == component.name);
            let Some(settings) = settings else { continue };
            match databases::target(settings, &self.options.environment) {
                Ok(target) => places.push((component, settings, target)),
                Err(error) => self.problem(error.to_string()),
            }
        }
        // Servers that do not answer take long, so all are asked at the same time.
        let looks: Vec<_> = std::thread::scope(|scope| {
            let asked: Vec<_> = places
                .iter()
                .map(|(_, _, target)| scope.spawn(|| databases::look(target)))
                .collect();
            asked.into_iter().map(|thread| thread.join()).collect()
        });
        let mut sizes = Vec::new();
        for ((component, settings, target), look) in places.into_iter().zip(looks) {
            let look = match look {
                Ok(Ok(look)) => look,
                Ok(Err(error)) => {
                    self.problem(format!("database {:?}: {}", settings.name, chain(&error)));
                    continue;
                }
                Err(_panicked) => {
                    return Err(Error::Message(
                        "looking at a database panicked; this is a bug in holdfast".into(),
                    ));
                }
            };
            let root = &self.snapshot.record.root;
            let archive = SnapshotArchive::open(self.reader.clone(), root, &component.name)?;
            let path = format!("{}/{}", component.kind.folder(), component.name);
            let done = self.is_done(&path);
            self.plan.databases.push(DatabasePlan {
                name: component.name.clone(),
                to: redact_conninfo(settings.conninfo.expose()),
                database: target.database().to_owned(),
                exists: look.exists,
                tables: u64::try_from(archive.description().tables.len()).unwrap_or(u64::MAX),
                rows: component.rows,
                bytes: component.totals.bytes,
                done,
            });
            if !done {
                self.plan.problems.extend(look.problems.iter().cloned());
                self.plan.sessions.extend(look.sessions.iter().cloned());
                sizes.push((component.name.clone(), component.totals.bytes, look.clone()));
            }
            self.databases.push(PreparedDatabase {
                path,
                name: component.name.clone(),
                target,
                archive,
                exists: look.exists,
            });
        }
        self.check_database_space(&sizes);
        if self.plan.stop_commands == 0 && !self.options.end_sessions {
            let sessions = super::in_use(&self.plan.sessions);
            self.plan.problems.extend(sessions);
        }
        Ok(())
    }

    /// The new databases stand beside the old ones until they take their places.
    fn check_database_space(&mut self, sizes: &[(String, u64, Look)]) {
        if self.options.delta {
            return;
        }
        let mut needs: BTreeMap<PathBuf, (u64, Vec<String>)> = BTreeMap::new();
        for (name, archived, look) in sizes {
            let Some(data) = &look.data else { continue };
            let need = needs.entry(data.clone()).or_default();
            // Indexes make a database larger than its rows; one that is there says how much.
            need.0 = need.0.saturating_add((*archived).max(look.bytes));
            need.1.push(name.clone());
        }
        for (data, (bytes, names)) in needs {
            let Some((_, free)) = free_space(&data) else {
                continue;
            };
            if free < bytes {
                self.problem(format!(
                    "{} has {} MB free, and the new databases ({}) need {} MB there beside the old ones",
                    data.display(),
                    free >> 20,
                    names.join(", "),
                    bytes >> 20
                ));
            }
        }
    }

    fn look_at_trees(&mut self, chosen: &[Component], interrupt: &Interrupt) -> Result<()> {
        let site = self.options.site.clone();
        let archived = self.archived_site();
        let mut growth: BTreeMap<u64, (PathBuf, u64, u64, Vec<String>)> = BTreeMap::new();
        for component in chosen {
            let (to, excludes) = match component.kind {
                ComponentKind::Share => {
                    let share = site.shares.iter().find(|s| s.name == component.name);
                    let Some(share) = share else { continue };
                    let before = archived.as_ref().and_then(|site| {
                        let share = site.shares.iter().find(|s| s.name == component.name)?;
                        Some(share.exclude.clone())
                    });
                    let excludes = [share.exclude.clone(), before.unwrap_or_default()].concat();
                    let path = share.path.clone();
                    ((!path.as_os_str().is_empty()).then_some(path), excludes)
                }
                ComponentKind::Files | ComponentKind::Certificates => {
                    (Some(PathBuf::from("/")), Vec::new())
                }
                _ => continue,
            };
            let names: Vec<&[u8]> = component.path.iter().map(|name| &name[..]).collect();
            let root = &self.snapshot.record.root;
            let Some(node) = find(&self.reader, root, names)? else {
                self.note(format!(
                    "{}/{} is empty in the snapshot",
                    component.kind.folder(),
                    component.name
                ));
                continue;
            };
            let path = format!("{}/{}", component.kind.folder(), component.name);
            let delete = self.may_delete(component, &path);
            let tree = PreparedTree {
                path,
                kind: component.kind,
                name: component.name.clone(),
                to,
                node,
                delete,
                excludes,
            };
            self.survey(tree, interrupt, &mut growth)?;
        }
        for (above, bytes, largest, names) in growth.into_values() {
            let need = bytes.saturating_add(largest.saturating_mul(FILES_AT_ONCE));
            let Some((_, free)) = free_space(&above) else {
                continue;
            };
            if bytes > 0 && free < need {
                self.problem(format!(
                    "the file system of {} has {} MB free, and {} need {} MB more there",
                    above.display(),
                    free >> 20,
                    names.join(", "),
                    need >> 20
                ));
            }
        }
        Ok(())
    }

    /// Whether what the snapshot does not have is removed: only where it has everything.
    fn may_delete(&mut self, component: &Component, path: &str) -> bool {
        if !self.options.delete || component.kind != ComponentKind::Share {
            return false;
        }
        if component.skipped > 0 {
            self.note(format!(
                "nothing is removed from {path}: the snapshot left {} items out, which would be lost",
                component.skipped
            ));
        }
        component.skipped == 0
    }

    fn survey(
        &mut self,
        tree: PreparedTree,
        interrupt: &Interrupt,
        growth: &mut BTreeMap<u64, (PathBuf, u64, u64, Vec<String>)>,
    ) -> Result<()> {
        if let Some(to) = &tree.to
            && tree.kind == ComponentKind::Share
            && let Err(error) = refuse_repository(&self.repository, to)
        {
            self.problem(error.to_string());
        }
        let mut surveyor = Surveyor::new(&self.reader, interrupt, &tree.excludes)?;
        surveyor.extra = tree.kind == ComponentKind::Share;
        let nowhere = Path::new("/nonexistent/holdfast");
        let found = surveyor.survey(&tree.node, tree.to.as_deref().unwrap_or(nowhere))?;
        if let Some(to) = &tree.to {
            for (path, what) in &found.troubles {
                self.note(format!("{}: {path} {what}", to.display()));
            }
            let above = existing_above(to);
            if let Some((device, _)) = free_space(&above) {
                let none = (above, 0, 0, Vec::new());
                let need = growth.entry(device).or_insert(none);
                need.1 = need.1.saturating_add(found.growth);
                need.2 = need.2.max(found.largest);
                need.3.push(tree.path.clone());
            }
        }
        let shown = tree.to.as_ref();
        self.plan.trees.push(TreePlan {
            kind: tree.kind.folder(),
            name: tree.name.clone(),
            to: shown.map_or_else(String::new, |to| to.display().to_string()),
            files: found.files,
            bytes: found.bytes,
            new: found.new,
            changed: found.changed,
            extra: if shown.is_some() { found.extra } else { 0 },
            extra_examples: found.extra_named,
            delete: tree.delete,
        });
        self.trees.push(tree);
        Ok(())
    }

    /// The site file of the snapshot, for what it left out.
    fn archived_site(&self) -> Option<SiteFile> {
        let text = site_text_of(&self.reader, &self.snapshot).ok()?;
        SiteFile::parse(&text, Path::new("site.toml")).ok()
    }

    fn look_at_settings(&mut self) {
        let site = self.options.site.clone();
        for settings in &site.relocate {
            if !self.databases.iter().any(|d| d.name == settings.database) {
                self.note(format!(
                    "[relocate] of {:?} is not done: that database is not restored",
                    settings.database
                ));
                continue;
            }
            if let Some(problem) = relocate::unfit(site.profile.as_deref(), settings) {
                self.problem(problem);
            }
            self.plan.relocations.extend(relocate::described(settings));
        }
        if self.databases.is_empty() && self.trees.is_empty() && self.plan.problems.is_empty() {
            self.problem("there is nothing to restore");
        }
        if self.options.end_sessions && !self.plan.sessions.is_empty() {
            self.note("sessions that use the databases will be ended");
        }
    }
}

fn has_place(site: &SiteFile, kind: ComponentKind, name: &str) -> bool {
    match kind {
        ComponentKind::Database => site.databases.iter().any(|d| d.name == name),
        ComponentKind::Share => site.shares.iter().any(|s| s.name == name),
        ComponentKind::Files => site.files.iter().any(|f| f.name == name),
        ComponentKind::Certificates => site.certificates.iter().any(|c| c.name == name),
        ComponentKind::Path | ComponentKind::Cluster | ComponentKind::Site => false,
    }
}

fn not_in_snapshot(site: &SiteFile, components: &[Component]) -> Vec<String> {
    let has = |kind: ComponentKind, name: &str| {
        components
            .iter()
            .any(|component| component.kind == kind && component.name == name)
    };
    let databases = site
        .databases
        .iter()
        .map(|d| (ComponentKind::Database, &d.name));
    let shares = site.shares.iter().map(|s| (ComponentKind::Share, &s.name));
    let files = site.files.iter().map(|f| (ComponentKind::Files, &f.name));
    let certificates = site.certificates.iter();
    let certificates = certificates.map(|c| (ComponentKind::Certificates, &c.name));
    databases
        .chain(shares)
        .chain(files)
        .chain(certificates)
        .filter(|(kind, name)| !has(*kind, name))
        .map(|(kind, name)| format!("{}/{name}", kind.folder()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn safety_backups_have_names_of_their_own() {
        assert_eq!(
            safety_name("prod", "2026-11-21T10:15:00.5Z"),
            "before-restore-prod-20261121T101500Z"
        );
        assert_eq!(
            safety_name("prod", "2026-11-21T10:15:00Z"),
            "before-restore-prod-20261121T101500Z"
        );
    }
}
