//! What happens around the reading: checks, the quiet window, file-system snapshots; and which components were read at rest.

use super::components::Taken;
use super::databases::Open;
use super::engine::Engine;
use super::{BackupOptions, now};
use crate::error::{Error, Result};
use crate::format::node::Timestamp;
use crate::format::snapshot::{Component, ComponentKind};
use crate::ops::preflight::{Outcome, PreflightContext, preflight};
use crate::ops::quiesce::{FsSnapshots, Mark, Quiet, QuietOptions};
use crate::site::config::run::PreflightTime;
use crate::store::Repository;

/// The state of the site during a run. Dropped, the site is up and file-system snapshots are gone.
#[derive(Debug)]
pub(super) struct AtRest<'a> {
    // Started before snapshots are removed, also when it is dropped.
    quiet: Option<Quiet>,
    snapshots: FsSnapshots<'a>,
    repository: &'a Repository,
    options: &'a BackupOptions,
    read: Vec<Read>,
    warnings: Vec<String>,
    /// What is not as it was before the run.
    problems: Vec<String>,
}

/// When a component had been read.
#[derive(Debug)]
struct Read {
    kind: ComponentKind,
    name: String,
    mark: Mark,
    /// Databases: when its snapshot was taken. A database that is begun again later has another one.
    taken_at: Option<Timestamp>,
}

impl<'a> AtRest<'a> {
    /// Makes the checks that come first, and starts the guardian. Nothing is stopped yet.
    pub(super) fn prepare(repository: &'a Repository, options: &'a BackupOptions) -> Result<Self> {
        let lock = options.lock.as_deref();
        let mut rest = Self {
            quiet: None,
            snapshots: FsSnapshots::of(options.site.as_deref(), lock),
            repository,
            options,
            read: Vec::new(),
            warnings: Vec::new(),
            problems: Vec::new(),
        };
        rest.check(PreflightTime::BeforeStop)?;
        let site = options.site.as_deref();
        let settings = site.and_then(|site| site.quiesce.as_ref());
        let Some(settings) = settings.filter(|settings| !settings.stop.is_empty()) else {
            return Ok(rest);
        };
        if options.no_stop {
            let text = "the site was not stopped, as asked: what belongs together may be of different moments";
            rest.warnings.push(text.into());
            return Ok(rest);
        }
        let lock = lock.ok_or_else(|| {
            Error::Message("a site is stopped only by who holds its lock on this host".into())
        })?;
        rest.quiet = Some(Quiet::prepare(&QuietOptions {
            lock,
            settings,
            guardian: options.guardian.clone(),
            on_failure: site.and_then(|site| site.hooks.on_failure.as_ref()),
        })?);
        Ok(rest)
    }

    fn check(&mut self, when: PreflightTime) -> Result<()> {
        let Some(site) = self.options.site.as_deref() else {
            return Ok(());
        };
        let context = PreflightContext {
            site,
            environment: self.options.environment.clone(),
            repository: Some(self.repository),
            now: now().seconds,
        };
        let mut refused = Vec::new();
        for result in preflight(&context, when) {
            let text = format!("check {:?}: {}", result.name, result.text);
            if result.refuses() {
                refused.push(text);
            } else if result.outcome != Outcome::Holds {
                tracing::warn!("{text}");
                self.warnings.push(text);
            }
        }
        match refused.is_empty() {
            true => Ok(()),
            false => Err(Error::Message(format!(
                "the site is not ready for a backup: {}",
                refused.join("; ")
            ))),
        }
    }

    /// Stops the site and makes the checks that are due then.
    pub(super) fn stop(&mut self, engine: &Engine) -> Result<()> {
        let Some(quiet) = &mut self.quiet else {
            return Ok(());
        };
        let (interrupt, pool) = (engine.interrupt.clone(), engine.sink.pool.clone());
        let stopped = quiet.stop(move || interrupt.is_set() || pool.is_stopped());
        if engine.interrupt.is_set() {
            return Err(Error::Interrupted);
        }
        stopped?;
        self.check(PreflightTime::AfterStop)
    }

    /// Notes when the snapshots of the databases were taken.
    pub(super) fn opened(&mut self, open: &Open) {
        let mark = Mark::now();
        for (component, taken_at) in open.taken_at() {
            self.read.push(Read {
                kind: component.kind,
                name: component.name.clone(),
                mark,
                // One that is opened later is never read at rest.
                taken_at: Some(taken_at.unwrap_or_default()),
            });
        }
    }

    /// Makes file-system snapshots.
    pub(super) fn make_snapshots(&mut self, engine: &Engine) -> Result<()> {
        self.snapshots.create(&|| engine.interrupt.is_set())?;
        let mark = Mark::now();
        let shares = self.options.site.iter().flat_map(|site| &site.shares);
        let shares = shares.filter(|share| share.snapshot.is_some());
        self.read.extend(shares.map(|share| Read {
            kind: ComponentKind::Share,
            name: share.name.clone(),
            mark,
            taken_at: None,
        }));
        match engine.interrupt.is_set() {
            true => Err(Error::Interrupted),
            false => Ok(()),
        }
    }

    /// Why a share can't be read from its file-system snapshot.
    pub(super) fn snapshot_failure(&self, share: &str) -> Option<String> {
        self.snapshots.failure(share).map(str::to_owned)
    }

    /// Notes when a component had been read; for shares with a file-system snapshot that was made before counts.
    pub(super) fn read(&mut self, component: &Component, mark: Mark) {
        let of = |read: &Read| read.kind == component.kind && read.name == component.name;
        if !self.read.iter().any(of) {
            self.read.push(Read {
                kind: component.kind,
                name: component.name.clone(),
                mark,
                taken_at: None,
            });
        }
    }

    /// Says whether there is a quiet window.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet.is_some()
    }

    /// Starts the site.
    pub(super) fn start(&mut self) {
        if let Some(quiet) = &mut self.quiet {
            quiet.end();
        }
    }

    /// Removes file-system snapshots.
    pub(super) fn remove_snapshots(&mut self) {
        let left = self.snapshots.remove();
        self.warnings.extend(left.iter().cloned());
        self.problems.extend(left);
    }

    /// Says of each component whether it was read at rest.
    pub(super) fn judge(mut self, taken: &mut Taken) {
        taken.warnings.append(&mut self.warnings);
        taken.problems.append(&mut self.problems);
        let asked_not_to = self.options.no_stop;
        let Some(quiet) = &mut self.quiet else {
            let read = |component: &Component| {
                let mut read = self.read.iter();
                read.any(|read| read.kind == component.kind && read.name == component.name)
            };
            for component in &mut taken.components {
                if asked_not_to && read(component) {
                    component.quiet = Some(false);
                }
            }
            return;
        };
        let window = quiet.end();
        taken.problems.extend(window.problems.iter().cloned());
        taken.window = Some(window);
        for component in &mut taken.components {
            let of = |read: &&Read| read.kind == component.kind && read.name == component.name;
            if let Some(read) = self.read.iter().find(of) {
                let same = read
                    .taken_at
                    .is_none_or(|taken_at| taken_at == component.started);
                component.quiet = Some(same && quiet.was_quiet(read.mark));
            }
        }
    }
}
