//! File-system snapshots of shares: made while the site is at rest, read when it is up again, removed in any case.
//!
//! Failure: what could not be removed, or was left by a run that was killed, is named, kept in the state folder, and removed by the next run.

use super::place::{Leftover, SiteLock};
use super::steps::{Step, environment};
use crate::error::Result;
use crate::site::SiteFile;
use crate::site::config::run::SnapshotHook;

/// The snapshots of a run. Dropped, they are removed.
#[derive(Debug)]
pub struct FsSnapshots<'a> {
    site: &'a str,
    lock: Option<&'a SiteLock>,
    groups: Vec<Group>,
    /// What could not be removed.
    problems: Vec<String>,
}

/// Shares with the same `snapshot-create`.
#[derive(Debug)]
struct Group {
    command: String,
    shares: Vec<String>,
    create: Step,
    removes: Vec<(String, Step)>,
    /// Why there is none.
    failure: Option<String>,
}

impl<'a> FsSnapshots<'a> {
    /// The snapshots that a site file asks for; none is made yet.
    pub fn of(site: Option<&'a SiteFile>, lock: Option<&'a SiteLock>) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        for share in site.map(|site| site.shares.as_slice()).unwrap_or_default() {
            if let Some(hook) = &share.snapshot {
                add(&mut groups, &share.name, hook);
            }
        }
        Self {
            site: site.map_or("", |site| site.name.as_str()),
            lock,
            groups,
            problems: Vec::new(),
        }
    }

    /// Makes them. One that fails is its shares' failure; an error means that it could not be noted what is to be removed.
    pub fn create(&mut self, cancelled: &dyn Fn() -> bool) -> Result<()> {
        if self.groups.is_empty() {
            return Ok(());
        }
        self.note()?;
        for at in 0..self.groups.len() {
            let group = &mut self.groups[at];
            let environment = environment(self.site, "snapshot-create");
            if let Err(how) = group.create.run(&environment, b"", cancelled) {
                let failure = format!("snapshot-create {} failed: {how}", group.create.title);
                tracing::warn!("{failure}");
                group.failure = Some(failure);
                // Half of it may be there and would be in the way of the next one.
                let group = self.groups.remove(at);
                remove(self.site, &group.removes, &mut Vec::new());
                self.groups.insert(
                    at,
                    Group {
                        removes: Vec::new(),
                        ..group
                    },
                );
            }
        }
        Ok(())
    }

    /// Why a share can't be read from its snapshot.
    pub fn failure(&self, share: &str) -> Option<&str> {
        let group = self
            .groups
            .iter()
            .find(|group| group.shares.iter().any(|name| name == share))?;
        group.failure.as_deref()
    }

    /// Removes them all and returns what could not be removed.
    pub fn remove(&mut self) -> Vec<String> {
        for group in &mut self.groups {
            let removes = std::mem::take(&mut group.removes);
            group.removes = remove(self.site, &removes, &mut self.problems);
        }
        if !self.groups.is_empty()
            && let Err(e) = self.note()
        {
            tracing::warn!("{e}");
        }
        self.groups.clear();
        self.problems.clone()
    }

    /// Keeps in mind what is to be removed.
    fn note(&self) -> Result<()> {
        let Some(lock) = self.lock else {
            return Ok(());
        };
        let leftovers: Vec<Leftover> = self
            .groups
            .iter()
            .flat_map(|group| {
                group.removes.iter().map(|(_, remove)| Leftover {
                    shares: group.shares.clone(),
                    remove: remove.clone(),
                })
            })
            .collect();
        lock.place().set_leftovers(&leftovers)
    }
}

impl Drop for FsSnapshots<'_> {
    fn drop(&mut self) {
        self.remove();
    }
}

fn add(groups: &mut Vec<Group>, share: &str, hook: &SnapshotHook) {
    let command = hook.create.command.expose();
    let remove = (
        hook.remove.command.expose().to_owned(),
        Step::of(&hook.remove),
    );
    match groups.iter_mut().find(|group| group.command == command) {
        Some(group) => {
            group.shares.push(share.to_owned());
            if group.removes.iter().all(|(text, _)| *text != remove.0) {
                group.removes.push(remove);
            }
        }
        None => groups.push(Group {
            command: command.to_owned(),
            shares: vec![share.to_owned()],
            create: Step::of(&hook.create),
            removes: vec![remove],
            failure: None,
        }),
    }
}

/// Runs commands that remove snapshots; returns those that failed.
fn remove(
    site: &str,
    removes: &[(String, Step)],
    problems: &mut Vec<String>,
) -> Vec<(String, Step)> {
    let environment = environment(site, "snapshot-remove");
    let mut left = Vec::new();
    for (text, step) in removes {
        if let Err(how) = step.run(&environment, b"", &|| false) {
            let problem = format!(
                "a file-system snapshot is left over: snapshot-remove {} failed: {how}",
                step.title
            );
            tracing::warn!("{problem}");
            problems.push(problem);
            left.push((text.clone(), step.clone()));
        }
    }
    left
}

/// Removes what a run that died has left, and says what it did.
pub(super) fn remove_leftovers(lock: &SiteLock, note: &mut dyn FnMut(&str)) -> Result<Vec<String>> {
    let leftovers = lock.place().leftovers()?;
    if leftovers.is_empty() {
        return Ok(Vec::new());
    }
    let mut problems = Vec::new();
    let mut kept = Vec::new();
    for leftover in leftovers {
        note(&format!(
            "a file-system snapshot of {} was left over; removing it ({})",
            leftover.shares.join(", "),
            leftover.remove.title
        ));
        let removes = [(String::new(), leftover.remove)];
        let left = remove(lock.place().site(), &removes, &mut problems);
        kept.extend(left.into_iter().map(|(_, remove)| Leftover {
            shares: leftover.shares.clone(),
            remove,
        }));
    }
    lock.place().set_leftovers(&kept)?;
    Ok(problems)
}
