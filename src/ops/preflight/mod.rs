//! Preflight checks: what must hold before a site is touched, or before it is read.
//!
//! Each check of `[[preflight]]` has a name, a time limit and one of three results: it holds, it does not, or it could not be made. One that
//! could not be made counts as one that does not hold: a check is there because its answer matters.
//!
//! | part | checks |
//! |---|---|
//! | `host` | PID files, processes, systemd units, certificates, free space |
//! | `servers` | queries in a database of the site, lists of a Redis server |
//!
//! Invariants:
//!
//! 1. Every check gives a result, also one that panics or hangs in its own code (test `every_check_gives_a_result`).
//! 2. No result shows a password (test `servers::tests::a_password_is_not_shown`).

mod host;
mod servers;

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::ops::backup::Environment;
use crate::site::SiteFile;
use crate::site::command::{Surroundings, run};
use crate::site::config::run::{
    CommandSetting, PreflightCheck, PreflightSettings, PreflightTime, SqlExpectation,
};
use crate::store::Repository;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It holds.
    Holds,
    /// It does not hold.
    Fails,
    /// It could not be made.
    Unknown,
}

/// One check, made.
#[derive(Clone, Debug, Serialize)]
pub struct PreflightResult {
    /// Its name in the site file.
    pub name: String,
    /// What was looked at, in a word: `command`, `sql`, `redis`, `pid-files`, `process`, `unit`, `free-space`, `certificates`.
    pub kind: &'static str,
    /// Whether a backup is refused when it does not hold.
    pub required: bool,
    /// How it came out.
    pub outcome: Outcome,
    /// What was found, in words.
    pub text: String,
    /// How long it took, in milliseconds.
    pub millis: u64,
}

impl PreflightResult {
    /// Whether a backup must not go on.
    pub fn refuses(&self) -> bool {
        self.required && self.outcome != Outcome::Holds
    }
}

/// What checks look at.
#[derive(Clone)]
pub struct PreflightContext<'a> {
    /// The site file.
    pub site: &'a SiteFile,
    /// Environment of connections and commands.
    pub environment: Environment,
    /// The repository; absent where none could be opened.
    pub repository: Option<&'a Repository>,
    /// Now, in seconds since 1970, for certificates.
    pub now: i64,
}

impl std::fmt::Debug for PreflightContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PreflightContext")
            .field("site", &self.site.name)
            .finish_non_exhaustive()
    }
}

/// What a check found.
type Found = (Outcome, String);

/// Makes the checks of one time, all at once, and gives their results in the order of the site file.
///
/// Where nothing is stopped, those of `after-stop` are made with the first ones.
pub fn preflight(context: &PreflightContext<'_>, when: PreflightTime) -> Vec<PreflightResult> {
    let stops = context
        .site
        .quiesce
        .as_ref()
        .is_some_and(|quiesce| !quiesce.stop.is_empty());
    let due = |settings: &&PreflightSettings| {
        let at = match stops {
            true => settings.when,
            false => PreflightTime::BeforeStop,
        };
        at == when
    };
    make(context, context.site.preflight.iter().filter(due))
}

/// Makes all checks of a site, whenever they are due.
pub fn preflight_all(context: &PreflightContext<'_>) -> Vec<PreflightResult> {
    make(context, context.site.preflight.iter())
}

fn make<'s>(
    context: &PreflightContext<'_>,
    checks: impl Iterator<Item = &'s PreflightSettings>,
) -> Vec<PreflightResult> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = checks
            .map(|settings| (settings, scope.spawn(move || check(context, settings))))
            .collect();
        let results = threads.into_iter().map(|(settings, thread)| {
            thread.join().unwrap_or_else(|_panicked| PreflightResult {
                name: settings.name.clone(),
                kind: kind(&settings.check),
                required: settings.required,
                outcome: Outcome::Unknown,
                text: "the check panicked; this is a bug in holdfast".into(),
                millis: 0,
            })
        });
        results.collect()
    })
}

fn kind(check: &PreflightCheck) -> &'static str {
    match check {
        PreflightCheck::Command { .. } => "command",
        PreflightCheck::Sql { .. } => "sql",
        PreflightCheck::Redis { .. } => "redis",
        PreflightCheck::StalePidFiles(_) | PreflightCheck::NoPidFiles(_) => "pid-files",
        PreflightCheck::NoProcess(_) => "process",
        PreflightCheck::NoUnit(_) => "unit",
        PreflightCheck::FreeSpace(_) => "free-space",
        PreflightCheck::CertificatesValidFor(_) => "certificates",
    }
}

fn check(context: &PreflightContext<'_>, settings: &PreflightSettings) -> PreflightResult {
    let begun = Instant::now();
    let (outcome, text) = look(context, settings);
    PreflightResult {
        name: settings.name.clone(),
        kind: kind(&settings.check),
        required: settings.required,
        outcome,
        text,
        millis: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}

fn look(context: &PreflightContext<'_>, settings: &PreflightSettings) -> Found {
    let limit = settings.timeout;
    let site = context.site;
    match &settings.check {
        PreflightCheck::Command { command, status } => {
            let setting = CommandSetting {
                service: None,
                command: command.clone(),
                timeout: limit,
            };
            check_command(&setting, *status, &site.name)
        }
        PreflightCheck::Sql {
            database,
            query,
            expect,
        } => servers::sql(context, database, query, expect, limit),
        PreflightCheck::Redis {
            url,
            password,
            empty_lists,
        } => servers::redis(url, password.as_ref(), empty_lists, limit),
        PreflightCheck::StalePidFiles(paths) => host::stale_pid_files(paths, &site.path),
        PreflightCheck::NoPidFiles(paths) => host::no_pid_files(paths, &site.path),
        PreflightCheck::NoProcess(names) => host::no_process(names),
        PreflightCheck::NoUnit(units) => host::no_unit(units, limit),
        PreflightCheck::FreeSpace(wanted) => host::free_space(context.repository, *wanted),
        PreflightCheck::CertificatesValidFor(time) => {
            host::certificates_valid_for(site, *time, context.now)
        }
    }
}

fn check_command(setting: &CommandSetting, status: u32, site: &str) -> Found {
    let surroundings = Surroundings {
        environment: &[("HOLDFAST_SITE", site)],
        ..Surroundings::default()
    };
    let finished = run(setting, &surroundings);
    let wanted = i32::try_from(status).unwrap_or(i32::MAX);
    let outcome = match finished.ended_with(wanted) {
        true => Outcome::Holds,
        false => match finished.ending {
            crate::site::command::Ending::Exited(_) => Outcome::Fails,
            _ => Outcome::Unknown,
        },
    };
    let text = match outcome {
        Outcome::Holds => format!("the command {finished}"),
        _ => format!("the command {finished}; status {status} is wanted"),
    };
    (outcome, text)
}

/// Compares the rows of a query with what is expected; a row is the texts of its columns.
pub(crate) fn compare_rows(rows: &[Vec<Option<String>>], expect: &SqlExpectation) -> Found {
    const SHOWN: usize = 5;
    let text = |row: &[Option<String>]| -> String {
        let values: Vec<&str> = row.iter().map(|v| v.as_deref().unwrap_or("NULL")).collect();
        values.join(", ")
    };
    match (expect, rows) {
        (SqlExpectation::NoRows, []) => (Outcome::Holds, "no rows".into()),
        (SqlExpectation::NoRows, rows) => {
            let mut lines: Vec<String> = rows.iter().take(SHOWN).map(|row| text(row)).collect();
            if rows.len() > SHOWN {
                lines.push("…".into());
            }
            let words = match rows.len() {
                1 => "1 row".to_owned(),
                n => format!("{n} rows"),
            };
            (
                Outcome::Fails,
                format!("{words} where none should be: {}", lines.join(" | ")),
            )
        }
        (SqlExpectation::Value(wanted), [row]) if row.len() == 1 => {
            let found = row.first().cloned().flatten();
            match found.as_deref() == Some(wanted.as_str()) {
                true => (Outcome::Holds, format!("it is {wanted}")),
                false => (Outcome::Fails, format!("it is {}, not {wanted}", text(row))),
            }
        }
        (SqlExpectation::Value(wanted), rows) => (
            Outcome::Fails,
            format!(
                "{} rows of {} columns instead of the one value {wanted}",
                rows.len(),
                rows.first().map_or(0, Vec::len)
            ),
        ),
    }
}

/// What is left of a time limit.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

#[cfg(test)]
mod tests;
