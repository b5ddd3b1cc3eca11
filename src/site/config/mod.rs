//! The site file: what one snapshot covers, and where it goes.
//!
//! `SiteFile::parse` reads the text in one go and reports everything that is wrong with it, each with file, line and
//! column. It does not look whether paths exist or servers answer; that is `site check`. Passwords are not settings:
//! keys that would hold one are refused with the way to do it instead.

mod read;
mod read_run;
pub mod run;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;
use zeroize::Zeroizing;

use super::reader::{Fault, Faults};
use super::redact;
use super::secrets::{RepositoryKey, SecretSource};
use run::{
    DrillSettings, HookSettings, PathDiscovery, PreflightSettings, QuiesceSettings,
    ReferenceSettings, RelocateSettings, ReplicateSettings, RestoreSettings, SnapshotHook,
    StatusSettings,
};

/// The largest site file that is read: far beyond any real one, and a limit for a wrong path.
const SITE_FILE_BYTES_MAX: u64 = 4 << 20;

/// How long before a certificate's end a warning is due, unless the site file says otherwise.
pub const WARN_BEFORE_EXPIRY_DEFAULT: Duration = Duration::from_secs(30 * 86_400);

/// Why a site file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// The file could not be read.
    #[error("cannot read site file {}", path.display())]
    Read {
        /// The site file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// The file is no text, or too large for one.
    #[error("{}: {reason}", path.display())]
    NotText {
        /// The site file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// What is written there can't be used; one line for each reason.
    #[error("{}", lines(.0))]
    Invalid(Vec<SiteFault>),
}

fn lines(faults: &[SiteFault]) -> String {
    let lines: Vec<String> = faults.iter().map(SiteFault::to_string).collect();
    lines.join("\n")
}

/// One thing that is wrong in a site file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteFault {
    /// The site file.
    pub file: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
    /// What is wrong, and where possible what would be right.
    pub message: String,
}

impl fmt::Display for SiteFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}: {}",
            self.file.display(),
            self.line,
            self.column,
            self.message
        )
    }
}

/// Text that may hold a password; it is wiped when dropped and `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Confidential(Zeroizing<String>);

impl Confidential {
    /// Wraps a text.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Returns the text, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Confidential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Confidential")
    }
}

/// A site file that was read and found good.
#[derive(Debug, Clone)]
pub struct SiteFile {
    /// Where it was read from.
    pub path: PathBuf,
    text: Confidential,
    /// `[site]` name: the name under which parents are looked up.
    pub name: String,
    /// `[site]` require-all: no snapshot unless every component is complete.
    pub require_all: bool,
    /// `[site]` profile: the kind of site, where holdfast knows it; decides what a relocation of paths means.
    pub profile: Option<String>,
    /// `[repository]`; absent where the command line names it.
    pub repository: Option<RepositorySettings>,
    /// `[[database]]`, in the order of the file.
    pub databases: Vec<DatabaseSettings>,
    /// `[[share]]`, in the order of the file.
    pub shares: Vec<ShareSettings>,
    /// `[[files]]`, in the order of the file.
    pub files: Vec<FilesSettings>,
    /// `[[certificates]]`, in the order of the file.
    pub certificates: Vec<CertificatesSettings>,
    /// `[retention]`.
    pub retention: RetentionSettings,
    /// `[limits]`.
    pub limits: LimitsSettings,
    /// `[quiesce]`; absent: the site runs on.
    pub quiesce: Option<QuiesceSettings>,
    /// `[[preflight]]`, in the order of the file.
    pub preflight: Vec<PreflightSettings>,
    /// `[[reference]]`, in the order of the file.
    pub references: Vec<ReferenceSettings>,
    /// `[relocate]`, in the order of the file.
    pub relocate: Vec<RelocateSettings>,
    /// `[restore]`.
    pub restore: RestoreSettings,
    /// `[hooks]`.
    pub hooks: HookSettings,
    /// `[status]`.
    pub status: StatusSettings,
    /// `[drill]`.
    pub drill: DrillSettings,
    /// `[replicate]`; absent where the command line names the second site, or there is none.
    pub replicate: Option<ReplicateSettings>,
}

/// `[repository]`.
#[derive(Debug, Clone)]
pub struct RepositorySettings {
    /// An absolute path or a URL.
    pub url: String,
    /// How to get the key; absent where the command line or the environment gives it.
    pub key: Option<RepositoryKey>,
}

/// How tables are kept from changing their shape while they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LockMode {
    /// No lock is held across the run; each part is locked and compared for the time of its copy.
    #[default]
    Optimistic,
    /// Every table is locked for the whole run, as pg_dump does it.
    Hold,
}

/// `[[database]]`.
#[derive(Debug, Clone)]
pub struct DatabaseSettings {
    /// The component's name in the snapshot.
    pub name: String,
    /// What libpq would be given; may hold a password.
    pub conninfo: Confidential,
    /// A password file of libpq's form.
    pub passfile: Option<PathBuf>,
    /// Tables whose definition is kept without rows.
    pub exclude_table_data: Vec<String>,
    /// Schemas that are left out.
    pub exclude_schema: Vec<String>,
    /// How tables are locked.
    pub locks: LockMode,
    /// How many connections read at once; absent: the limit of the run.
    pub connections: Option<u32>,
    /// How many times a connection is tried; absent: the default.
    pub retries: Option<u32>,
    /// Whether rows of unlogged tables are left out.
    pub unlogged_schema_only: bool,
    /// Whether a standby is kept from replaying while its databases are read.
    pub pause_replay: bool,
    /// Whether settings of columns that nothing reads back are taken out of the schema.
    pub strip_pg_attver: bool,
    /// What may be missing without making the component incomplete, because this role can't be given the right to see it.
    pub accept: Vec<AcceptedLoss>,
}

/// A word of `accept`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptedLoss {
    /// `role-passwords`.
    RolePasswords,
    /// `user-mapping-options`.
    UserMappingOptions,
    /// `subscriptions`.
    Subscriptions,
}

/// `[[share]]`.
#[derive(Debug, Clone)]
pub struct ShareSettings {
    /// The component's name in the snapshot.
    pub name: String,
    /// The top of the tree; empty where it is to be found in a database first.
    pub path: PathBuf,
    /// gitignore patterns relative to the path.
    pub exclude: Vec<String>,
    /// How many readers; absent: the limit of the run.
    pub readers: Option<u32>,
    /// Whether mount points below the path are left out.
    pub one_file_system: bool,
    /// Whether directories that are tagged as caches are left out.
    pub cachedir_tag: bool,
    /// Whether an empty tree is good, rather than a sign of a missing mount.
    pub allow_empty: bool,
    /// How it is read from a file-system snapshot.
    pub snapshot: Option<SnapshotHook>,
    /// How its path is found where none is given.
    pub discovery: Option<PathDiscovery>,
}

/// What it means that a path of a list is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Missing {
    /// Nothing.
    Ok,
    /// It is reported.
    #[default]
    Warn,
    /// The component failed.
    Error,
}

/// Where a list of paths comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListSource {
    /// A file of the host.
    File(PathBuf),
    /// A list that comes with holdfast, named in `profiles`.
    Builtin(&'static str),
}

/// `[[files]]`.
#[derive(Debug, Clone)]
pub struct FilesSettings {
    /// The component's name in the snapshot.
    pub name: String,
    /// Files that list paths.
    pub lists: Vec<ListSource>,
    /// Paths and globs given in place, with the line that each stands on.
    pub paths: Vec<PathSetting>,
    /// What a path that is not there means.
    pub missing: Missing,
}

/// A path or glob of the site file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathSetting {
    /// The path or glob, absolute.
    pub text: String,
    /// The line of the site file.
    pub line: usize,
}

/// `[[certificates]]`.
#[derive(Debug, Clone)]
pub struct CertificatesSettings {
    /// The component's name in the snapshot.
    pub name: String,
    /// Paths and globs, with the line that each stands on.
    pub paths: Vec<PathSetting>,
    /// Where the password of `.pfx` files comes from.
    pub password: Option<SecretSource>,
    /// How long before its end a certificate is warned about.
    pub warn_before_expiry: Duration,
    /// What a path that is not there means.
    pub missing: Missing,
}

/// `[retention]`: how many snapshots of each kind are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetentionSettings {
    /// The newest ones.
    pub last: Option<u32>,
    /// The last one of each of so many hours.
    pub hourly: Option<u32>,
    /// The last one of each of so many days.
    pub daily: Option<u32>,
    /// The last one of each of so many weeks.
    pub weekly: Option<u32>,
    /// The last one of each of so many months.
    pub monthly: Option<u32>,
    /// The last one of each of so many years.
    pub yearly: Option<u32>,
}

/// `[limits]`: what a run may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LimitsSettings {
    /// Threads that read sources.
    pub readers: Option<u32>,
    /// Threads that compute.
    pub workers: Option<u32>,
    /// Connections to one cluster that copy at a time.
    pub connections: Option<u32>,
    /// All connections to one cluster that may be open at a time.
    pub connections_max: Option<u32>,
    /// Memory for buffers, in bytes.
    pub memory_bytes: Option<u64>,
    /// Bytes a second that are written to the repository, at most.
    pub rate: Option<u64>,
    /// Level of compression.
    pub compression: Option<i32>,
    /// Whether the run gives way to others in processor and disk time.
    pub low_priority: bool,
}

impl SiteFile {
    /// Reads and checks a site file.
    pub fn load(path: &Path) -> Result<Self, SiteError> {
        let read_error = |cause| SiteError::Read {
            path: path.to_owned(),
            cause,
        };
        let not_text = |reason| SiteError::NotText {
            path: path.to_owned(),
            reason,
        };
        if std::fs::metadata(path).map_err(read_error)?.len() > SITE_FILE_BYTES_MAX {
            return Err(not_text("is too large for a site file"));
        }
        let bytes = std::fs::read(path).map_err(read_error)?;
        let text = String::from_utf8(bytes).ok().map(Zeroizing::new);
        Self::parse(&text.ok_or_else(|| not_text("is not UTF-8 text"))?, path)
    }

    /// Checks the text of a site file; `path` is what errors call it.
    pub fn parse(text: &str, path: &Path) -> Result<Self, SiteError> {
        let mut faults = Faults::default();
        let (document, syntax_errors) = DeTable::parse_recoverable(text);
        if syntax_errors.is_empty() {
            let site = read::read_document(text, path, document.get_ref(), &mut faults);
            if faults.0.is_empty() {
                return Ok(site);
            }
        }
        for error in syntax_errors {
            // The error's own Display quotes the line, which may hold a password.
            faults.add(
                error.span().map_or(0, |span| span.start),
                one_line(error.message()),
            );
        }
        Err(SiteError::Invalid(located(text, path, faults.0)))
    }

    /// Returns the text as it goes into the snapshot: as typed, but without passwords.
    pub fn redacted(&self) -> String {
        redact::redact_site_text(self.text.expose())
    }
}

fn one_line(message: &str) -> String {
    message.replace('\n', ", ")
}

/// Sorts faults by place and turns offsets into lines and columns.
fn located(text: &str, path: &Path, mut faults: Vec<Fault>) -> Vec<SiteFault> {
    faults.sort_by_key(|fault| fault.offset);
    faults.dedup();
    faults
        .into_iter()
        .map(|fault| {
            let (line, column) = line_and_column(text, fault.offset);
            SiteFault {
                file: path.to_owned(),
                line,
                column,
                message: fault.message,
            }
        })
        .collect()
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        line,
        before
            .get(line_start..)
            .map_or(0, |head| head.chars().count())
            + 1,
    )
}

#[cfg(test)]
mod tests;
