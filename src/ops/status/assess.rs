//! What is good, what is not, and why.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    CertificateStatus, ComponentStatus, Level, Remark, Status, StatusOptions, WATCHED, age_text,
    exercise, is_whole,
};
use crate::format::ledger::{LedgerEntry, LedgerKind};
use crate::format::snapshot::{Component, ComponentKind, ComponentState};
use crate::ops::snapshots::Snapshot;
use crate::site::config::WARN_BEFORE_EXPIRY_DEFAULT;

/// How many good snapshots before the last one make the median.
const MEDIAN_OF: usize = 7;

/// Site, kind and name of a component.
type Key = (String, ComponentKind, String);

fn seconds(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

impl ComponentStatus {
    fn remark(&mut self, level: Level, text: String) {
        self.level = self.level.max(level);
        self.remarks.push(Remark { level, text });
    }
}

/// The newest snapshot of each site.
fn newest<'s>(chosen: &[&'s Snapshot]) -> BTreeMap<&'s str, &'s Snapshot> {
    let newest = chosen.iter().map(|s| (s.record.site.as_str(), *s));
    newest.collect()
}

/// Looks at every component that there is or should be.
pub(super) fn components(status: &mut Status, options: &StatusOptions<'_>, chosen: &[&Snapshot]) {
    let newest = newest(chosen);
    for key in wanted(options, &newest) {
        let last = newest.get(key.0.as_str()).copied();
        let component = component(&key, options, chosen, last);
        status.components.push(component);
    }
    if status.components.is_empty() {
        status.remarks.push(Remark {
            level: Level::Critical,
            text: "nothing was ever backed up here".into(),
        });
    }
    for (site, snapshot) in newest {
        let record = &snapshot.record;
        for reference in &record.references {
            let text = match reference {
                r if !r.problem.is_empty() => {
                    format!("reference {} could not be checked: {}", r.name, r.problem)
                }
                r if r.rows_without_file + r.files_without_row > 0 => format!(
                    "reference {}: {} rows without a file, {} files without a row",
                    r.name, r.rows_without_file, r.files_without_row
                ),
                _ => continue,
            };
            status.remarks.push(Remark {
                level: Level::Warning,
                text: format!("{site}: {text}"),
            });
        }
        let problems = record.window.iter().flat_map(|window| &window.problems);
        for problem in problems.chain(&record.warnings) {
            status.remarks.push(Remark {
                level: Level::Warning,
                text: format!("{site}: {problem}"),
            });
        }
    }
}

/// Which components there should be.
fn wanted(options: &StatusOptions<'_>, newest: &BTreeMap<&str, &Snapshot>) -> BTreeSet<Key> {
    if let Some(site) = options.site {
        let key = |kind, name: &String| (site.name.clone(), kind, name.clone());
        let databases = site
            .databases
            .iter()
            .map(|d| key(ComponentKind::Database, &d.name));
        let shares = site
            .shares
            .iter()
            .map(|s| key(ComponentKind::Share, &s.name));
        let files = site
            .files
            .iter()
            .map(|f| key(ComponentKind::Files, &f.name));
        let certificates = site
            .certificates
            .iter()
            .map(|c| key(ComponentKind::Certificates, &c.name));
        return databases
            .chain(shares)
            .chain(files)
            .chain(certificates)
            .collect();
    }
    newest
        .iter()
        .flat_map(|(site, snapshot)| {
            let components = snapshot.record.components.iter();
            components.map(|c| ((*site).to_owned(), c.kind, c.name.clone()))
        })
        .filter(|(_, kind, _)| WATCHED.contains(kind))
        .collect()
}

fn find<'s>(snapshot: &'s Snapshot, (site, kind, name): &Key) -> Option<&'s Component> {
    if snapshot.record.site != *site {
        return None;
    }
    let mut components = snapshot.record.components.iter();
    components.find(|c| c.kind == *kind && c.name == *name)
}

fn component(
    key: &Key,
    options: &StatusOptions<'_>,
    chosen: &[&Snapshot],
    newest: Option<&Snapshot>,
) -> ComponentStatus {
    let settings = options.settings();
    let mut found = ComponentStatus {
        site: key.0.clone(),
        kind: key.1.folder(),
        name: key.2.clone(),
        ..ComponentStatus::default()
    };
    let good: Vec<(&Snapshot, &Component)> = chosen
        .iter()
        .rev()
        .filter_map(|snapshot| Some((*snapshot, find(snapshot, key)?)))
        .filter(|(_, component)| component.state == ComponentState::Complete)
        .take(MEDIAN_OF + 1)
        .collect();
    if let Some(newest) = newest {
        match find(newest, key) {
            None => found.remark(
                Level::Warning,
                format!(
                    "the newest snapshot, {}, does not have it",
                    newest.id.short()
                ),
            ),
            Some(component) if component.state != ComponentState::Complete => {
                let word = match component.state {
                    ComponentState::Failed => "failed",
                    _ => "is incomplete",
                };
                found.remark(
                    Level::Warning,
                    format!(
                        "it {word} in the newest snapshot, {}: {}",
                        newest.id.short(),
                        component.message
                    ),
                );
            }
            Some(_) => {}
        }
    }
    let Some(((snapshot, component), before)) = good.split_first() else {
        found.remark(Level::Critical, "there is no good snapshot of it".into());
        return found;
    };
    let at = snapshot.record.started.seconds;
    let age = options.now.saturating_sub(at);
    found.last_good = Some(snapshot.id.short());
    found.last_good_at = Some(at);
    found.age = Some(age);
    found.bytes = component.totals.bytes;
    found.items = match key.1 {
        ComponentKind::Database => component.tables,
        _ => component.totals.files,
    };
    if age > seconds(settings.max_age) {
        found.remark(
            Level::Critical,
            format!(
                "its last good snapshot is {} old, more than {}",
                age_text(age),
                age_text(seconds(settings.max_age))
            ),
        );
    }
    found.median_bytes = median(before.iter().map(|(_, c)| c.totals.bytes).collect());
    if let Some(median) = found.median_bytes {
        let kept = u64::from(100 - settings.shrink_percent.min(100));
        let least = u128::from(median) * u128::from(kept) / 100;
        if u128::from(found.bytes) < least {
            found.remark(
                Level::Warning,
                format!(
                    "it shrank to {} bytes; the median of the {} before is {median}",
                    found.bytes,
                    before.len()
                ),
            );
        }
    }
    found
}

fn median(mut sizes: Vec<u64>) -> Option<u64> {
    sizes.sort_unstable();
    sizes.get(sizes.len() / 2).copied()
}

/// Certificates of the newest snapshot of each site.
pub(super) fn certificates(status: &mut Status, options: &StatusOptions<'_>, chosen: &[&Snapshot]) {
    for (site, snapshot) in newest(chosen) {
        for fact in &snapshot.record.certificates {
            if fact.not_after == 0 {
                continue;
            }
            let settings = options.site.and_then(|site| {
                let mut settings = site.certificates.iter();
                settings.find(|c| c.name == fact.component)
            });
            let warn = settings.map_or(WARN_BEFORE_EXPIRY_DEFAULT, |s| s.warn_before_expiry);
            let left = fact.not_after.saturating_sub(options.now);
            let level = match left {
                left if left <= 0 => Level::Critical,
                left if left <= seconds(warn) => Level::Warning,
                _ => continue,
            };
            status.certificates.push(CertificateStatus {
                site: site.to_owned(),
                path: String::from_utf8_lossy(&fact.path).into_owned(),
                subject: fact.subject.clone(),
                not_after: fact.not_after,
                level,
            });
        }
    }
}

/// The last verifications and drills.
pub(super) fn exercises(
    status: &mut Status,
    options: &StatusOptions<'_>,
    entries: &[LedgerEntry],
    chosen: &[&Snapshot],
) {
    let settings = options.settings();
    let of_sites = |entry: &&LedgerEntry| {
        entry.kind == LedgerKind::Verify
            || chosen
                .iter()
                .any(|snapshot| snapshot.record.site == entry.site)
    };
    let mut last: BTreeMap<(bool, &str, bool), &LedgerEntry> = BTreeMap::new();
    for entry in entries.iter().filter(of_sites) {
        let is_drill = entry.kind == LedgerKind::Drill;
        last.insert(
            (is_drill, entry.depth.word(), entry.snapshot.is_some()),
            entry,
        );
    }
    status.exercises = last.values().map(|entry| exercise(entry)).collect();
    status
        .exercises
        .sort_by_key(|e| std::cmp::Reverse(e.finished));
    // The newest of all that looked at everything decides about damage, the newest deep one about age.
    let verified = entries.iter().rev().find(|entry| is_whole(entry));
    let mut remark = |level, text| status.remarks.push(Remark { level, text });
    let all = |e: &&LedgerEntry| e.kind == LedgerKind::Verify && e.snapshot.is_none();
    if let Some(entry) = entries.iter().rev().find(all)
        && !entry.is_good()
    {
        remark(
            Level::Critical,
            format!(
                "the last verification, {} ago, found damage: {} objects, {} files",
                age_text(options.now.saturating_sub(entry.finished.seconds)),
                entry.damaged,
                entry.affected
            ),
        );
    }
    let limit = seconds(settings.verified_within);
    match verified.map(|entry| options.now.saturating_sub(entry.finished.seconds)) {
        // A young repository had no time to be verified yet.
        None => {
            let first = chosen.first().map(|s| s.record.started.seconds);
            if first.is_some_and(|first| options.now.saturating_sub(first) > limit) {
                remark(
                    Level::Warning,
                    "it was never verified whole; run holdfast verify --data".into(),
                );
            }
        }
        Some(age) if age > limit => remark(
            Level::Warning,
            format!(
                "it was last verified whole {} ago; run holdfast verify --data",
                age_text(age)
            ),
        ),
        Some(_) => {}
    }
    let drill = entries
        .iter()
        .rev()
        .filter(of_sites)
        .find(|entry| entry.kind == LedgerKind::Drill);
    if let Some(entry) = drill
        && !entry.is_good()
    {
        remark(
            Level::Critical,
            format!(
                "the last drill, {} ago, failed: {}",
                age_text(options.now.saturating_sub(entry.finished.seconds)),
                entry.notes.first().map_or("", String::as_str)
            ),
        );
    }
    if let Some(within) = settings.drilled_within {
        let age = drill.map(|entry| options.now.saturating_sub(entry.finished.seconds));
        match age {
            None => remark(Level::Warning, "there was never a drill".into()),
            Some(age) if age > seconds(within) => remark(
                Level::Warning,
                format!("the last drill was {} ago", age_text(age)),
            ),
            Some(_) => {}
        }
    }
}
