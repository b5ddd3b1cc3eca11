//! Stops and starts the target's services around a restore.
//!
//! Invariant: what was stopped is started again unless data of the target were changed in part (`a_failure_before_the_change_leaves_the_site`
//! in `it/site_restore.rs`).

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::ops::backup::Interrupt;
use crate::ops::quiesce::{Quiet, QuietOptions, SiteLock, start_site};
use crate::ops::restore_site::SiteRestoreOptions;
use crate::site::SiteFile;
use crate::site::command::{self, Surroundings};
use crate::site::config::run::{CommandSetting, QuiesceSettings};
use crate::site::redact_command;

/// For so long the guardian waits for a restore that hangs.
const WINDOW: Duration = Duration::from_secs(30 * 86_400);

/// What a command did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CommandReport {
    /// `post`.
    pub step: &'static str,
    /// The command, without secrets.
    pub command: String,
    /// How long it took.
    pub seconds: f64,
    /// What it printed last.
    pub output: String,
    /// Why it is not good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The services of the target.
pub(super) struct Services<'a> {
    site: &'a SiteFile,
    settings: Option<&'a QuiesceSettings>,
    lock: Option<Arc<SiteLock>>,
    guardian: Option<PathBuf>,
    interrupt: Interrupt,
    reports: Mutex<Vec<CommandReport>>,
    quiet: Option<Quiet>,
    /// An earlier run has stopped the site and left it so.
    adopted: bool,
    /// From now on an interrupt does not start the site.
    kept: Arc<AtomicBool>,
    begun: Option<Instant>,
    /// For how long they were stopped.
    pub(super) down: Option<Duration>,
}

impl<'a> Services<'a> {
    pub(super) fn new(
        site: &'a SiteFile,
        options: &SiteRestoreOptions,
        interrupt: &Interrupt,
    ) -> Self {
        let settings = site.quiesce.as_ref();
        Self {
            site,
            settings: settings.filter(|settings| !settings.stop.is_empty()),
            lock: options.lock.clone(),
            guardian: options.guardian.clone(),
            interrupt: interrupt.clone(),
            reports: Mutex::default(),
            quiet: None,
            adopted: false,
            kept: Arc::default(),
            begun: None,
            down: None,
        }
    }

    fn lock(&self) -> Result<&SiteLock> {
        self.lock.as_deref().ok_or_else(|| {
            Error::Message("a site is stopped only with the lock of its state on this host".into())
        })
    }

    /// Runs the stop commands; after one that fails the site is started again. Where an earlier restore has left the site stopped nothing is run, and
    /// its reason is returned.
    pub(super) fn stop(&mut self) -> Result<Option<String>> {
        let Some(settings) = self.settings else {
            return Ok(None);
        };
        self.begun = Some(Instant::now());
        if let Some(held) = self.lock()?.place().held()? {
            self.adopted = true;
            return Ok(Some(held));
        }
        // A restore takes as long as it takes: until it is through, a start would be wrong.
        let settings = QuiesceSettings {
            window_max: WINDOW,
            ..settings.clone()
        };
        let mut quiet = Quiet::prepare(&QuietOptions {
            lock: self.lock()?,
            settings: &settings,
            guardian: self.guardian.clone(),
            on_failure: self.site.hooks.on_failure.as_ref(),
        })?;
        let (interrupt, kept) = (self.interrupt.clone(), self.kept.clone());
        quiet.stop(move || interrupt.is_set() && !kept.load(Ordering::Acquire))?;
        self.quiet = Some(quiet);
        Ok(None)
    }

    /// Whether the site is stopped.
    pub(super) fn are_stopped(&self) -> bool {
        self.quiet.is_some() || self.adopted
    }

    /// From now on only this run, or somebody by hand, starts the site.
    pub(super) fn hold(&self, why: &str) -> Result<()> {
        self.kept.store(true, Ordering::Release);
        self.quiet.as_ref().map_or(Ok(()), |quiet| quiet.hold(why))
    }

    /// Leaves the site stopped.
    pub(super) fn leave(&mut self) {
        if let Some(quiet) = self.quiet.take() {
            quiet.leave_stopped();
        }
    }

    /// Runs the start commands; says what failed.
    pub(super) fn start(&mut self) -> Vec<String> {
        let problems = match (self.quiet.take(), std::mem::take(&mut self.adopted)) {
            (Some(mut quiet), _) => quiet.end().problems,
            (None, false) => return Vec::new(),
            (None, true) => {
                let started = self.lock().and_then(|lock| {
                    start_site(lock, self.settings, &mut |note| tracing::info!("{note}"))
                });
                started.map_or_else(|e| vec![e.to_string()], |done| done.problems)
            }
        };
        self.down = self.begun.map(|begun| begun.elapsed());
        problems
    }

    /// Runs a command after the restore.
    pub(super) fn post(&self, command: &CommandSetting) -> Result<()> {
        match self.run("post", command) {
            None => Ok(()),
            Some(problem) => Err(Error::Message(problem)),
        }
    }

    /// What the commands did.
    pub(super) fn into_reports(self) -> Vec<CommandReport> {
        self.reports
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, step: &'static str, setting: &CommandSetting) -> Option<String> {
        let shown = redact_command(setting.command.expose());
        let cancelled = || self.interrupt.is_set();
        let finished = command::run(
            setting,
            &Surroundings {
                environment: &[("HOLDFAST_STEP", step)],
                stop: Some(&cancelled),
                ..Surroundings::default()
            },
        );
        let problem =
            (!finished.is_good()).then(|| format!("the {step} command `{shown}` {finished}"));
        let mut report = CommandReport {
            step,
            command: shown,
            seconds: finished.elapsed.as_secs_f64(),
            output: finished.output.trim_end().to_owned(),
            problem: None,
        };
        report.problem.clone_from(&problem);
        self.reports
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(report);
        problem
    }
}
