//! `site check`: reaches every source that a site file names and says what a backup would take, and what it would miss.
//!
//! It reads no content and changes nothing. What it says is true for the moment only; a backup makes its own checks.
//!
//! | part | looks at |
//! |---|---|
//! | `databases` | connection, version, rights, `pg_dump` |
//! | `files` | shares, lists of paths, certificates |
//! | `quiet` | what would be stopped and started, by commands that are there |
//! | `ops::preflight` | what must hold before a backup |

mod databases;
mod files;
mod quiet;

use serde::Serialize;

use crate::ops::backup::Environment;
use crate::ops::discover;
use crate::ops::preflight::{Outcome, PreflightContext, PreflightResult, preflight};
use crate::site::SiteFile;
use crate::site::config::ShareSettings;
use crate::site::config::run::PreflightTime;
use crate::store::Repository;

/// How a check came out; the worse, the greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All of it would be taken.
    #[default]
    Good,
    /// All of it would be taken, but there is something to know.
    Note,
    /// Something would be left out.
    Skips,
    /// The component would fail.
    Fails,
}

/// One component, looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Kind of the component: `database`, `share`, `files`, `certificates`, `repository`, `quiesce`, `preflight`.
    pub kind: &'static str,
    /// Its name in the site file.
    pub name: String,
    /// The worst of what was found.
    pub verdict: Verdict,
    /// What was found, in words; the verdict of each.
    pub findings: Vec<Finding>,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub verdict: Verdict,
    /// What it is.
    pub text: String,
}

impl Check {
    /// Begins a check of a component.
    pub fn new(kind: &'static str, name: impl Into<String>) -> Self {
        Self {
            kind,
            name: name.into(),
            ..Self::default()
        }
    }

    /// Adds what was found.
    pub fn add(&mut self, verdict: Verdict, text: impl Into<String>) {
        self.verdict = self.verdict.max(verdict);
        self.findings.push(Finding {
            verdict,
            text: text.into(),
        });
    }

    /// Adds names that are too many to list all of them.
    fn add_names(&mut self, verdict: Verdict, what: &str, names: &[String]) {
        const SHOWN: usize = 8;
        if names.is_empty() {
            return;
        }
        let more = match names.len() {
            len if len > SHOWN => format!(" and {} more", len - SHOWN),
            _ => String::new(),
        };
        let shown: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
        self.add(verdict, format!("{what}: {}{more}", shown.join(", ")));
    }
}

/// What is looked at, and from where.
#[derive(Clone)]
pub struct SiteCheckOptions<'a> {
    /// The site file.
    pub site: &'a SiteFile,
    /// Environment of connections.
    pub environment: Environment,
    /// The repository, for the free space that checks ask for.
    pub repository: Option<&'a Repository>,
    /// Now, in seconds since 1970, for certificates.
    pub now: i64,
}

impl std::fmt::Debug for SiteCheckOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SiteCheckOptions")
            .field("site", &self.site.name)
            .finish_non_exhaustive()
    }
}

/// Looks at every component, and gives each to `each` as soon as it is known, in the order of the site file.
pub fn site_check(options: &SiteCheckOptions<'_>, each: &mut dyn FnMut(Check)) {
    let site = options.site;
    // Servers that do not answer take long, so all are asked at the same time.
    std::thread::scope(|scope| {
        let asked: Vec<_> = site
            .databases
            .iter()
            .map(|settings| {
                let thread = scope.spawn(move || databases::check(settings, &options.environment));
                (settings, thread)
            })
            .collect();
        for (settings, thread) in asked {
            each(thread.join().unwrap_or_else(|_panicked| {
                let mut check = Check::new("database", &settings.name);
                check.add(
                    Verdict::Fails,
                    "looking at it panicked; this is a bug in holdfast",
                );
                check
            }));
        }
    });
    for (number, settings) in site.shares.iter().enumerate() {
        let found = discover::path_of(site, number, &options.environment);
        each(match found {
            None => files::share(settings),
            Some(Ok(path)) => files::share(&ShareSettings {
                path,
                ..settings.clone()
            }),
            Some(Err(why)) => {
                let mut check = Check::new("share", &settings.name);
                check.add(Verdict::Fails, why);
                check
            }
        });
    }
    for settings in &site.files {
        each(files::list(settings, &site.path));
    }
    for settings in &site.certificates {
        each(files::certificates(settings, &site.path, options.now));
    }
    if let Some(check) = quiet::check(site, &options.environment) {
        each(check);
    }
    let context = PreflightContext {
        site,
        environment: options.environment.clone(),
        repository: options.repository,
        now: options.now,
    };
    for when in [PreflightTime::BeforeStop, PreflightTime::AfterStop] {
        for result in preflight(&context, when) {
            each(preflight_check(&result, when));
        }
    }
}

/// A preflight check, as it stands now: one that is due after the stop may well not hold before it.
fn preflight_check(result: &PreflightResult, when: PreflightTime) -> Check {
    let mut check = Check::new("preflight", &result.name);
    let is_later = when == PreflightTime::AfterStop;
    let verdict = match result.outcome {
        Outcome::Holds => Verdict::Good,
        _ if result.refuses() && !is_later => Verdict::Fails,
        _ => Verdict::Note,
    };
    match is_later {
        true => check.add(
            verdict,
            format!(
                "looked at after the stop commands; as the site is now: {}",
                result.text
            ),
        ),
        false => check.add(verdict, &result.text),
    }
    check
}
