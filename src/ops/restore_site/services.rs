//! Stops and starts the target's services around a restore.
//!
//! Invariant: what was stopped is started again unless data of the target were changed in part (`a_failure_before_the_change_leaves_the_site`
//! in `it/site_restore.rs`).

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::ops::backup::Interrupt;
use crate::site::command::{self, Surroundings};
use crate::site::config::run::{CommandSetting, QuiesceSettings};
use crate::site::redact_command;

/// Between two tries of a start command.
const PAUSE: Duration = Duration::from_secs(1);

/// What a command did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CommandReport {
    /// `stop`, `start` or `post`.
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
#[derive(Debug)]
pub(super) struct Services<'a> {
    settings: Option<&'a QuiesceSettings>,
    interrupt: &'a Interrupt,
    reports: Mutex<Vec<CommandReport>>,
    stopped: Option<Instant>,
    /// For how long they were stopped.
    pub(super) down: Option<Duration>,
}

impl<'a> Services<'a> {
    pub(super) fn new(settings: Option<&'a QuiesceSettings>, interrupt: &'a Interrupt) -> Self {
        Self {
            settings: settings.filter(|settings| !settings.stop.is_empty()),
            interrupt,
            reports: Mutex::default(),
            stopped: None,
            down: None,
        }
    }

    /// Runs the stop commands in order; the first that fails ends it. Where an earlier run has stopped the site already, what fails is only told.
    pub(super) fn stop(&mut self, stopped_before: bool) -> Result<Vec<String>> {
        let mut told = Vec::new();
        let Some(settings) = self.settings else {
            return Ok(told);
        };
        self.stopped = Some(Instant::now());
        for command in &settings.stop {
            match self.run("stop", command, true) {
                None => {}
                Some(problem) if stopped_before && !self.interrupt.is_set() => told.push(problem),
                Some(problem) => return Err(Error::Message(problem)),
            }
        }
        Ok(told)
    }

    /// Whether stop commands were run and start commands were not.
    pub(super) fn are_stopped(&self) -> bool {
        self.stopped.is_some()
    }

    /// Runs all start commands, each as often as it may be tried; says what failed.
    pub(super) fn start(&mut self) -> Vec<String> {
        let (Some(settings), Some(stopped)) = (self.settings, self.stopped.take()) else {
            return Vec::new();
        };
        let mut problems = Vec::new();
        for command in &settings.start {
            let mut problem = None;
            for attempt in 0..settings.start_attempts.max(1) {
                if attempt > 0 {
                    std::thread::sleep(PAUSE);
                }
                problem = self.run("start", command, false);
                if problem.is_none() {
                    break;
                }
            }
            problems.extend(problem);
        }
        self.down = Some(stopped.elapsed());
        problems
    }

    /// Runs a command after the restore.
    pub(super) fn post(&self, command: &CommandSetting) -> Result<()> {
        match self.run("post", command, true) {
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

    fn run(
        &self,
        step: &'static str,
        setting: &CommandSetting,
        can_be_cancelled: bool,
    ) -> Option<String> {
        let shown = redact_command(setting.command.expose());
        let cancelled = || self.interrupt.is_set();
        let finished = command::run(
            setting,
            &Surroundings {
                environment: &[("HOLDFAST_STEP", step)],
                stop: can_be_cancelled.then_some(&cancelled),
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
