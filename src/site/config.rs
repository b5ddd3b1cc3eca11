//! The site file: what one snapshot covers, and where it goes.
//!
//! `SiteFile::parse` reads the text in one go and reports everything that is wrong with it, each with file, line and
//! column. It does not look whether paths exist or servers answer; that is `site check`. Passwords are not settings:
//! keys that would hold one are refused with the way to do it instead.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::profiles;
use super::reader::{Fault, Faults, Section, check_absolute, nearest_hint, type_name};
use super::redact;
use super::secrets::{RepositoryKey, SecretSource};

/// The largest site file that is read: far beyond any real one, and a limit for a wrong path.
const SITE_FILE_BYTES_MAX: u64 = 4 << 20;

/// How long before a certificate's end a warning is due, unless the site file says otherwise.
pub const WARN_BEFORE_EXPIRY_DEFAULT: Duration = Duration::from_secs(30 * 86_400);

/// Sections that the design names and that this version does not act on.
const LATER_SECTIONS: &[&str] = &["quiesce", "preflight", "reference", "relocate"];

/// Sections that are written as `[name]`.
const SINGLE_SECTIONS: &[&str] = &["site", "repository", "retention", "limits"];

/// Sections that are written as `[[name]]`.
const REPEATED_SECTIONS: &[&str] = &["database", "share", "files", "certificates"];

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
}

/// `[[share]]`.
#[derive(Debug, Clone)]
pub struct ShareSettings {
    /// The component's name in the snapshot.
    pub name: String,
    /// The top of the tree.
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
    /// Connections to one database.
    pub connections: Option<u32>,
    /// Memory for buffers, in bytes.
    pub memory_bytes: Option<u64>,
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
            let site = read_document(text, path, document.get_ref(), &mut faults);
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

fn read_document(text: &str, path: &Path, document: &DeTable<'_>, faults: &mut Faults) -> SiteFile {
    check_sections(document, faults);
    let (name, require_all) = read_site(document, faults);
    let file = SiteFile {
        path: path.to_owned(),
        text: Confidential::new(text.to_owned()),
        name,
        require_all,
        repository: single(document, "repository").and_then(|s| read_repository(s, faults)),
        databases: repeated(document, "database", faults, read_database),
        shares: repeated(document, "share", faults, read_share),
        files: repeated(document, "files", faults, |s| read_files(text, s)),
        certificates: repeated(document, "certificates", faults, |s| {
            read_certificates(text, s)
        }),
        retention: single(document, "retention")
            .map_or_else(RetentionSettings::default, |s| read_retention(s, faults)),
        limits: single(document, "limits")
            .map_or_else(LimitsSettings::default, |s| read_limits(s, faults)),
    };
    for kind in REPEATED_SECTIONS {
        check_duplicates(text, document, kind, faults);
    }
    file
}

/// Reports sections that are unknown, come later, or have the wrong kind of brackets.
fn check_sections(document: &DeTable<'_>, faults: &mut Faults) {
    for (key, value) in document.iter() {
        let name: &str = key.get_ref();
        let offset = key.span().start;
        if LATER_SECTIONS.contains(&name) {
            faults.add(
                offset,
                format!(
                    "this version of holdfast does not know [{name}] yet; take the section out"
                ),
            );
        } else if SINGLE_SECTIONS.contains(&name) {
            if !value.get_ref().is_table() {
                let found = type_name(value.get_ref());
                faults.add(
                    offset,
                    format!("{name} must be written once, as [{name}]; this is {found}"),
                );
            }
        } else if REPEATED_SECTIONS.contains(&name) {
            let is_tables = |v: &DeValue<'_>| {
                v.as_array()
                    .is_some_and(|a| a.iter().all(|i| i.get_ref().is_table()))
            };
            if !is_tables(value.get_ref()) {
                faults.add(
                    offset,
                    format!("{name} must be written as [[{name}]], once for each"),
                );
            }
        } else {
            let known = SINGLE_SECTIONS.iter().chain(REPEATED_SECTIONS).copied();
            let hint = nearest_hint(name, known);
            faults.add(offset, format!("unknown section or key {name:?}{hint}"));
        }
    }
}

type Found<'a, 'i> = (&'a DeTable<'i>, usize);

fn single<'a, 'i>(document: &'a DeTable<'i>, name: &str) -> Option<Found<'a, 'i>> {
    let (key, value) = document.get_key_value(name)?;
    Some((value.get_ref().as_table()?, key.span().start))
}

fn tables<'a, 'i>(document: &'a DeTable<'i>, name: &str) -> Vec<Found<'a, 'i>> {
    let array = document
        .get(name)
        .and_then(|value| value.get_ref().as_array());
    let items = array.into_iter().flat_map(|array| array.iter());
    items
        .filter_map(|item: &Spanned<DeValue<'i>>| {
            Some((item.get_ref().as_table()?, item.span().start))
        })
        .collect()
}

fn repeated<T>(
    document: &DeTable<'_>,
    name: &'static str,
    faults: &mut Faults,
    read: impl Fn(Section<'_, '_, '_>) -> Option<T>,
) -> Vec<T> {
    let title = match name {
        "database" => "[[database]]",
        "share" => "[[share]]",
        "files" => "[[files]]",
        _ => "[[certificates]]",
    };
    let mut found = Vec::new();
    for (table, offset) in tables(document, name) {
        found.extend(read(Section::new(title, table, offset, faults)));
    }
    found
}

/// Two components of a kind would have the same place in the snapshot.
fn check_duplicates(text: &str, document: &DeTable<'_>, kind: &str, faults: &mut Faults) {
    let mut first: BTreeMap<&str, usize> = BTreeMap::new();
    for (table, _) in tables(document, kind) {
        let Some(value) = table.get("name") else {
            continue;
        };
        let Some(name) = value.get_ref().as_str() else {
            continue;
        };
        let offset = value.span().start;
        if let Some(earlier) = first.insert(name, offset) {
            let (line, _) = line_and_column(text, earlier);
            faults.add(
                offset,
                format!("[[{kind}]] {name:?} stands already in line {line}"),
            );
        }
    }
}

fn read_site(document: &DeTable<'_>, faults: &mut Faults) -> (String, bool) {
    let Some((table, offset)) = single(document, "site") else {
        if !document.contains_key("site") {
            faults.add(0, "the section [site] with name = … is missing");
        }
        return (String::new(), false);
    };
    let mut section = Section::new("[site]", table, offset, faults);
    let values = (
        section.component_name(),
        section.boolean("require-all", false),
    );
    section.finish(&[]);
    values
}

fn read_repository(
    (table, offset): Found<'_, '_>,
    faults: &mut Faults,
) -> Option<RepositorySettings> {
    let mut section = Section::new("[repository]", table, offset, faults);
    let url = section.required_string("url");
    if let Some(url) = &url
        && !url.contains("://")
    {
        let offset = section.offset_of("url");
        if let Err(reason) = check_absolute(Path::new(url)) {
            section.fault(offset, format!("url in [repository] {reason} and no URL"));
        }
    }
    let key_file = section
        .absolute_path("key-file")
        .map(RepositoryKey::KeyFile);
    let file = section.absolute_path("passphrase-file");
    let command = read_command(&mut section, "passphrase-command");
    only_one(
        &mut section,
        &["key-file", "passphrase-file", "passphrase-command"],
    );
    section.refuse("passphrase", "a secret does not belong in the site file; use key-file, passphrase-file or passphrase-command");
    section.finish(&["passphrase"]);
    let passphrase = file
        .map(SecretSource::File)
        .or(command.map(SecretSource::Command));
    Some(RepositorySettings {
        url: url?,
        key: key_file.or(passphrase.map(RepositoryKey::Passphrase)),
    })
}

fn read_command(section: &mut Section<'_, '_, '_>, key: &'static str) -> Option<Confidential> {
    let command = section.string(key)?;
    if command.trim().is_empty() {
        let offset = section.offset_of(key);
        section.fault(offset, format!("{key} is empty"));
        return None;
    }
    Some(Confidential::new(command))
}

fn only_one(section: &mut Section<'_, '_, '_>, keys: &[&str]) {
    let given: Vec<&str> = keys
        .iter()
        .copied()
        .filter(|key| section.has(key))
        .collect();
    if let [first, second, ..] = given.as_slice() {
        let offset = section.offset_of(second);
        section.fault(
            offset,
            format!(
                "{second} beside {first}: only one of {} can be used",
                keys.join(", ")
            ),
        );
    }
}

fn read_database(mut section: Section<'_, '_, '_>) -> Option<DatabaseSettings> {
    let name = section.component_name();
    let conninfo = section.required_string("conninfo").map(Confidential::new);
    let settings = DatabaseSettings {
        name,
        conninfo: conninfo.unwrap_or_else(|| Confidential::new(String::new())),
        passfile: section.absolute_path("passfile"),
        exclude_table_data: texts(&mut section, "exclude-table-data"),
        exclude_schema: texts(&mut section, "exclude-schema"),
        locks: section
            .choice(
                "locks",
                &[
                    ("optimistic", LockMode::Optimistic),
                    ("hold", LockMode::Hold),
                ],
            )
            .unwrap_or_default(),
        connections: section.integer("connections", 1, 64),
        retries: section.integer("retries", 0, 1000),
    };
    let reason =
        "a secret does not belong in the site file; use passfile, a service file or PGPASSFILE";
    section.refuse("password", reason);
    section.finish(&["password"]);
    Some(settings)
}

/// Returns strings of which none may be empty.
fn texts(section: &mut Section<'_, '_, '_>, key: &'static str) -> Vec<String> {
    let mut kept = Vec::new();
    for (text, offset) in section.strings(key) {
        if text.is_empty() {
            section.fault(offset, format!("{key} holds an empty string"));
        }
        kept.push(text);
    }
    kept
}

fn read_share(mut section: Section<'_, '_, '_>) -> Option<ShareSettings> {
    let name = section.component_name();
    let path = section.required_path("path");
    let mut exclude = Vec::new();
    for (pattern, offset) in section.strings("exclude") {
        let mut builder = ignore::gitignore::GitignoreBuilder::new("/");
        if let Err(error) = builder.add_line(None, &pattern) {
            section.fault(
                offset,
                format!("exclude in [[share]]: {pattern:?} is no gitignore pattern: {error}"),
            );
        }
        exclude.push(pattern);
    }
    let readers = section.integer("readers", 1, 128);
    let one_file_system = section.boolean("one-file-system", false);
    let cachedir_tag = section.boolean("cachedir-tag", false);
    let allow_empty = section.boolean("allow-empty", false);
    section.finish(&[]);
    Some(ShareSettings {
        name,
        path: path?,
        exclude,
        readers,
        one_file_system,
        cachedir_tag,
        allow_empty,
    })
}

const MISSING: &[(&str, Missing)] = &[
    ("ok", Missing::Ok),
    ("warn", Missing::Warn),
    ("error", Missing::Error),
];

fn read_files(text: &str, mut section: Section<'_, '_, '_>) -> Option<FilesSettings> {
    let settings = FilesSettings {
        name: section.component_name(),
        lists: list_sources(&mut section),
        paths: path_settings(text, &mut section),
        missing: section.choice("missing", MISSING).unwrap_or_default(),
    };
    if !section.has("lists") && !section.has("paths") {
        section.fault(
            section.offset,
            "[[files]] needs lists = [...] or paths = [...]",
        );
    }
    section.finish(&[]);
    Some(settings)
}

fn list_sources(section: &mut Section<'_, '_, '_>) -> Vec<ListSource> {
    let mut sources = Vec::new();
    for (list, offset) in section.strings("lists") {
        if let Some(name) = list.strip_prefix("builtin:") {
            match profiles::builtin_list_names().find(|known| *known == name) {
                Some(known) => sources.push(ListSource::Builtin(known)),
                None => {
                    let hint = nearest_hint(
                        name,
                        profiles::builtin_list_names()
                            .collect::<Vec<_>>()
                            .into_iter(),
                    );
                    section.fault(offset, format!("holdfast has no list {name:?}{hint}"));
                }
            }
        } else if section.check_path("lists", &list, offset) {
            sources.push(ListSource::File(PathBuf::from(list)));
        }
    }
    sources
}

fn path_settings(text: &str, section: &mut Section<'_, '_, '_>) -> Vec<PathSetting> {
    let mut paths = Vec::new();
    for (path, offset) in section.strings("paths") {
        if !section.check_path("paths", &path, offset) {
            continue;
        }
        if let Err(reason) = super::lists::check_pattern(path.as_bytes()) {
            section.fault(offset, format!("paths: {path:?} {reason}"));
        }
        let (line, _) = line_and_column(text, offset);
        paths.push(PathSetting { text: path, line });
    }
    paths
}

fn read_certificates(text: &str, mut section: Section<'_, '_, '_>) -> Option<CertificatesSettings> {
    let name = section.component_name();
    let paths = path_settings(text, &mut section);
    if paths.is_empty() && !section.has("paths") {
        section.fault(section.offset, "[[certificates]] needs paths = [...]");
    }
    let file = section
        .absolute_path("password-file")
        .map(SecretSource::File);
    let command = read_command(&mut section, "password-command").map(SecretSource::Command);
    only_one(&mut section, &["password-file", "password-command"]);
    let warn_before_expiry = section
        .duration("warn-before-expiry")
        .unwrap_or(WARN_BEFORE_EXPIRY_DEFAULT);
    let missing = section.choice("missing", MISSING).unwrap_or_default();
    let reason = "a secret does not belong in the site file; use password-file or password-command";
    section.refuse("password", reason);
    section.finish(&["password"]);
    Some(CertificatesSettings {
        name,
        paths,
        password: file.or(command),
        warn_before_expiry,
        missing,
    })
}

fn read_retention((table, offset): Found<'_, '_>, faults: &mut Faults) -> RetentionSettings {
    let mut section = Section::new("[retention]", table, offset, faults);
    let retention = RetentionSettings {
        last: section.integer("last", 0, u32::MAX),
        hourly: section.integer("hourly", 0, u32::MAX),
        daily: section.integer("daily", 0, u32::MAX),
        weekly: section.integer("weekly", 0, u32::MAX),
        monthly: section.integer("monthly", 0, u32::MAX),
        yearly: section.integer("yearly", 0, u32::MAX),
    };
    section.finish(&[]);
    retention
}

fn read_limits((table, offset): Found<'_, '_>, faults: &mut Faults) -> LimitsSettings {
    let mut section = Section::new("[limits]", table, offset, faults);
    let limits = LimitsSettings {
        readers: section.integer("readers", 1, 128),
        workers: section.integer("workers", 1, 1024),
        connections: section.integer("connections", 1, 64),
        memory_bytes: section.bytes("memory"),
    };
    section.finish(&[]);
    limits
}

#[cfg(test)]
mod tests;
