//! Settings of what happens around the reading of a site: checks before it, the quiet window, commands after a restore, what monitors are told.
//!
//! Times, counts and defaults stand at each field. Reading them is in `read_run`; doing what they say is in `ops`.

use std::path::PathBuf;
use std::time::Duration;

use super::{Confidential, PathSetting, RepositorySettings};
use crate::site::redact::redact_command;
use crate::site::secrets::SecretSource;

/// How long a command may take, unless the site file says otherwise.
pub const COMMAND_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5 * 60);

/// How long the site may be stopped, unless the site file says otherwise.
pub const WINDOW_MAX_DEFAULT: Duration = Duration::from_secs(30 * 60);

/// How long a preflight check may take, unless the site file says otherwise.
pub const PREFLIGHT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// How often a start command is tried, unless the site file says otherwise.
pub const START_ATTEMPTS_DEFAULT: u32 = 3;

/// A shell command of the site file: a string, or a table with `command` and `timeout`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandSetting {
    /// The service that it stops or starts, where the site file names it.
    pub service: Option<String>,
    /// What `/bin/sh -c` is given.
    pub command: Confidential,
    /// After which it is ended, with its children.
    pub timeout: Duration,
}

/// The longest part of a command that messages show.
const TITLE_CHARS_MAX: usize = 120;

impl CommandSetting {
    /// What messages call it: the service and the first line of the command, without the passwords that it shows openly.
    pub fn title(&self) -> String {
        let text = redact_command(self.command.expose());
        let line = text.trim().lines().next().unwrap_or_default();
        let mut shown: String = line.chars().take(TITLE_CHARS_MAX).collect();
        if shown.len() < text.trim().len() {
            shown.push('…');
        }
        match &self.service {
            Some(service) => format!("{service} ({shown})"),
            None => shown,
        }
    }
}

/// `[quiesce]`: how the site is brought to rest and started again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuiesceSettings {
    /// Commands that stop the site, in the order in which they are run.
    pub stop: Vec<CommandSetting>,
    /// Commands that start it, in the order in which they are run: as given by `start`; the services of `[[quiesce.service]]` in
    /// reverse order.
    pub start: Vec<CommandSetting>,
    /// After this time from the first stop command the site is started, whatever the run does.
    pub window_max: Duration,
    /// How often each start command is tried.
    pub start_attempts: u32,
}

/// When a preflight check is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PreflightTime {
    /// Before anything is touched.
    #[default]
    BeforeStop,
    /// After the stop commands; where there are none, the same as before.
    AfterStop,
}

/// `[[preflight]]`: a thing that must hold.
#[derive(Debug, Clone)]
pub struct PreflightSettings {
    /// What it is called in reports.
    pub name: String,
    /// Whether a backup is refused when it does not hold; else it is a warning.
    pub required: bool,
    /// When it is made.
    pub when: PreflightTime,
    /// How long it may take.
    pub timeout: Duration,
    /// What must hold.
    pub check: PreflightCheck,
}

/// What a query must give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SqlExpectation {
    /// No row.
    NoRows,
    /// One row, whose only column has this text.
    Value(String),
}

/// What a preflight check looks at.
#[derive(Debug, Clone)]
pub enum PreflightCheck {
    /// `command`: a shell command that ends with this status (`status`, 0 by default).
    Command {
        /// What `/bin/sh -c` is given.
        command: Confidential,
        /// The exit status that is good.
        status: u32,
    },
    /// `sql = { database, query, expect }`: a query in a database of the site.
    Sql {
        /// The `[[database]]` by its name.
        database: String,
        /// The query.
        query: String,
        /// What it must give: `expect`, or no rows.
        expect: SqlExpectation,
    },
    /// `redis = { url, password-file | password-command, empty-lists }`: lists of a Redis server that must be empty.
    Redis {
        /// Where the server is; may hold a password.
        url: Confidential,
        /// Where its password comes from.
        password: Option<SecretSource>,
        /// Names of lists whose `LLEN` must be 0.
        empty_lists: Vec<String>,
    },
    /// `no-stale-pid-files`: none of these files names a process that does not run.
    StalePidFiles(Vec<PathSetting>),
    /// `no-pid-files`: none of these files exists.
    NoPidFiles(Vec<PathSetting>),
    /// `no-process`: no process of these names runs (the name of the program, or a text that its command line holds where it has a `/` or a space).
    NoProcess(Vec<String>),
    /// `no-unit`: none of these systemd units is active.
    NoUnit(Vec<String>),
    /// `free-space`: so many bytes are free where the repository is.
    FreeSpace(u64),
    /// `certificates-valid-for`: no certificate of the site ends sooner.
    CertificatesValidFor(Duration),
}

/// `[[reference]]`: rows and files that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceSettings {
    /// What it is called in reports; the path by default.
    pub name: String,
    /// The `[[database]]` by its name.
    pub database: String,
    /// A query; its columns fill the places in `path`.
    pub sql: String,
    /// Path in the tree of the snapshot with `{column}` places: `shares/Apps/{ID}`.
    pub path: String,
    /// Whether letter case matters in file names (`ignore-case`).
    pub ignore_case: bool,
    /// Whether files without a row are counted too (`files-without-row`, true by default).
    pub files_without_row: bool,
}

/// A text that becomes another where a value begins with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// How values begin today.
    pub from: String,
    /// What stands there afterwards.
    pub to: String,
}

/// `[relocate]` or `[[relocate]]`: what a restored database is told about its new place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelocateSettings {
    /// The `[[database]]` by its name.
    pub database: String,
    /// Statements, in order, in one transaction.
    pub statements: Vec<RelocateStatement>,
    /// Beginnings of share paths, applied by the profile of the site (`paths = [{ from, to }]`).
    pub paths: Vec<Mapping>,
    /// Names of hosts, applied by the profile of the site (`hosts = [{ from, to }]`).
    pub hosts: Vec<Mapping>,
}

/// One statement of a relocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelocateStatement {
    /// The statement, with `$1` … for the values.
    pub sql: String,
    /// The values, as text.
    pub values: Vec<String>,
    /// Whether it is good that no row matches (`may-match-none`).
    pub may_match_none: bool,
}

/// `[restore]` of the target's site file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreSettings {
    /// Whether the target is backed up first (`safety-backup`, true by default).
    pub safety_backup: bool,
    /// Commands after the load and the relocation, before the start (`post-commands`).
    pub post_commands: Vec<CommandSetting>,
    /// Queries after the start (`[[restore.query]]`).
    pub queries: Vec<RestoreQuery>,
}

impl Default for RestoreSettings {
    fn default() -> Self {
        Self {
            safety_backup: true,
            post_commands: Vec::new(),
            queries: Vec::new(),
        }
    }
}

/// A query after a restore or a drill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreQuery {
    /// What it is called in reports.
    pub name: String,
    /// The `[[database]]` by its name.
    pub database: String,
    /// The query.
    pub sql: String,
    /// What it must give; absent: its rows are reported.
    pub expect: Option<SqlExpectation>,
}

/// `[hooks]`: who is told how a run ended. The report is on stdin, as JSON lines.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HookSettings {
    /// After every run that did not end with exit code 0 (`on-failure`).
    pub on_failure: Option<CommandSetting>,
    /// After every run that did (`on-success`).
    pub on_success: Option<CommandSetting>,
}

/// `[status]`: when `status` warns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusSettings {
    /// How old the last good snapshot of a component may be (`max-age`, 26 h).
    pub max_age: Duration,
    /// How long ago the repository may have been verified (`verified-within`, 35 d).
    pub verified_within: Duration,
    /// How long ago the last drill may have been (`drilled-within`); absent: drills are not asked for.
    pub drilled_within: Option<Duration>,
    /// By how many percent a component may shrink against the median of the last ones (`shrink-percent`, 50).
    pub shrink_percent: u32,
}

impl Default for StatusSettings {
    fn default() -> Self {
        Self {
            max_age: Duration::from_secs(26 * 3_600),
            verified_within: Duration::from_secs(35 * 86_400),
            drilled_within: None,
            shrink_percent: 50,
        }
    }
}

/// `[drill]`: where a restore exercise happens.
#[derive(Debug, Clone, Default)]
pub struct DrillSettings {
    /// A server whose role may create databases; absent: a private one is started from the installed programs.
    pub server: Option<Confidential>,
    /// Folder for scratch space; absent: below `TMPDIR`.
    pub scratch: Option<PathBuf>,
}

/// `[replicate]`: the second site.
#[derive(Debug, Clone)]
pub struct ReplicateSettings {
    /// The repository over there (`to`), and what opens it (`key-file`, `passphrase-file`, `passphrase-command`).
    pub repository: RepositorySettings,
    /// The site file of the other side, as this host reads it (`site`): what `replicate` restores into.
    pub site: Option<PathBuf>,
}

/// How a share is read from a file-system snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotHook {
    /// Makes the snapshot (`snapshot-create`). Shares with the same command share one snapshot.
    pub create: CommandSetting,
    /// Removes it (`snapshot-remove`).
    pub remove: CommandSetting,
    /// Where the share's path is found in it (`snapshot-path`).
    pub path: PathBuf,
}

/// Where the path of a share is found when it is not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathDiscovery {
    /// The `[[database]]` by its name (`path-database`).
    pub database: String,
    /// A query that gives one text (`path-sql`).
    pub sql: String,
    /// How the found path is reached from this host (`path-map = [{ from, to }]`); backslashes become slashes afterwards.
    pub map: Vec<Mapping>,
}
