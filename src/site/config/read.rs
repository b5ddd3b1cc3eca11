//! From a parsed TOML document to settings: one function for each section, every fault noted on the way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::AcceptedLoss;
use super::read_run;
use super::run::{DrillSettings, HookSettings, RestoreSettings, StatusSettings};
use super::{
    CertificatesSettings, Confidential, DatabaseSettings, FilesSettings, LimitsSettings,
    ListSource, LockMode, Missing, PathSetting, RepositorySettings, RetentionSettings,
    ShareSettings, SiteFile, WARN_BEFORE_EXPIRY_DEFAULT, line_and_column,
};
use crate::site::compression;
use crate::site::lists::check_pattern;
use crate::site::profiles;
use crate::site::reader::{Faults, Section, check_absolute, nearest_hint, type_name};
use crate::site::secrets::{RepositoryKey, SecretSource};

/// Sections that are written as `[name]`.
const SINGLE_SECTIONS: &[&str] = &[
    "site",
    "repository",
    "retention",
    "limits",
    "quiesce",
    "restore",
    "hooks",
    "status",
    "drill",
    "replicate",
];

/// Sections that may be written either way.
const EITHER_SECTIONS: &[&str] = &["relocate"];

/// Sections that are written as `[[name]]`.
const REPEATED_SECTIONS: &[&str] = &[
    "database",
    "share",
    "files",
    "certificates",
    "preflight",
    "reference",
];

pub(super) fn read_document(
    text: &str,
    path: &Path,
    document: &DeTable<'_>,
    faults: &mut Faults,
) -> SiteFile {
    check_sections(document, faults);
    let (name, require_all, profile) = read_site(document, faults);
    let file = SiteFile {
        path: path.to_owned(),
        text: Confidential::new(text.to_owned()),
        name,
        require_all,
        profile,
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
        quiesce: single(document, "quiesce").and_then(|s| read_run::read_quiesce(s, faults)),
        preflight: repeated(document, "preflight", faults, |s| {
            read_run::read_preflight(text, s)
        }),
        references: repeated(document, "reference", faults, read_run::read_reference),
        relocate: read_run::relocate_sections(document, faults),
        restore: single(document, "restore").map_or_else(RestoreSettings::default, |s| {
            read_run::read_restore(s, faults)
        }),
        hooks: single(document, "hooks")
            .map_or_else(HookSettings::default, |s| read_run::read_hooks(s, faults)),
        status: single(document, "status").map_or_else(StatusSettings::default, |s| {
            read_run::read_status(s, faults)
        }),
        drill: single(document, "drill")
            .map_or_else(DrillSettings::default, |s| read_run::read_drill(s, faults)),
        replicate: single(document, "replicate").and_then(|s| read_run::read_replicate(s, faults)),
    };
    read_run::check_databases(&file, document, faults);
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
        if EITHER_SECTIONS.contains(&name) {
            if !value.get_ref().is_table() && !is_tables(value.get_ref()) {
                faults.add(
                    offset,
                    format!("{name} must be written as [{name}], or as [[{name}]] once for each"),
                );
            }
        } else if SINGLE_SECTIONS.contains(&name) {
            if !value.get_ref().is_table() {
                let found = type_name(value.get_ref());
                faults.add(
                    offset,
                    format!("{name} must be written once, as [{name}]; this is {found}"),
                );
            }
        } else if REPEATED_SECTIONS.contains(&name) {
            if !is_tables(value.get_ref()) {
                faults.add(
                    offset,
                    format!("{name} must be written as [[{name}]], once for each"),
                );
            }
        } else {
            let known = SINGLE_SECTIONS
                .iter()
                .chain(REPEATED_SECTIONS)
                .chain(EITHER_SECTIONS)
                .copied();
            let hint = nearest_hint(name, known);
            faults.add(offset, format!("unknown section or key {name:?}{hint}"));
        }
    }
}

fn is_tables(value: &DeValue<'_>) -> bool {
    value
        .as_array()
        .is_some_and(|array| array.iter().all(|item| item.get_ref().is_table()))
}

pub(super) type Found<'a, 'i> = (&'a DeTable<'i>, usize);

pub(super) fn single<'a, 'i>(document: &'a DeTable<'i>, name: &str) -> Option<Found<'a, 'i>> {
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

pub(super) fn repeated<T>(
    document: &DeTable<'_>,
    name: &'static str,
    faults: &mut Faults,
    read: impl Fn(Section<'_, '_, '_>) -> Option<T>,
) -> Vec<T> {
    let title = match name {
        "database" => "[[database]]",
        "share" => "[[share]]",
        "files" => "[[files]]",
        "preflight" => "[[preflight]]",
        "reference" => "[[reference]]",
        "relocate" => "[[relocate]]",
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

fn read_site(document: &DeTable<'_>, faults: &mut Faults) -> (String, bool, Option<String>) {
    let Some((table, offset)) = single(document, "site") else {
        if !document.contains_key("site") {
            faults.add(0, "the section [site] with name = … is missing");
        }
        return (String::new(), false, None);
    };
    let mut section = Section::new("[site]", table, offset, faults);
    let values = (
        section.component_name(),
        section.boolean("require-all", false),
        section.string("profile"),
    );
    if let Some(profile) = &values.2
        && profiles::profile(profile).is_none()
    {
        let offset = section.offset_of("profile");
        let hint = nearest_hint(profile, profiles::PROFILES.iter().map(|p| p.name));
        section.fault(offset, format!("holdfast has no profile {profile:?}{hint}"));
    }
    section.finish(&[]);
    values
}

fn read_repository(
    (table, offset): Found<'_, '_>,
    faults: &mut Faults,
) -> Option<RepositorySettings> {
    let mut section = Section::new("[repository]", table, offset, faults);
    let settings = read_place(&mut section, "url");
    section.finish(&["passphrase"]);
    settings
}

/// Where a repository is, under `key`, and what opens it.
pub(super) fn read_place(
    section: &mut Section<'_, '_, '_>,
    key: &'static str,
) -> Option<RepositorySettings> {
    let url = section.required_string(key);
    if let Some(url) = &url
        && !url.contains("://")
    {
        let offset = section.offset_of(key);
        if let Err(reason) = check_absolute(Path::new(url)) {
            let title = section.title();
            section.fault(offset, format!("{key} in {title} {reason} and no URL"));
        }
    }
    let key_file = section
        .absolute_path("key-file")
        .map(RepositoryKey::KeyFile);
    let file = section.absolute_path("passphrase-file");
    let command = read_command(section, "passphrase-command");
    only_one(
        section,
        &["key-file", "passphrase-file", "passphrase-command"],
    );
    section.refuse("passphrase", "a secret does not belong in the site file; use key-file, passphrase-file or passphrase-command");
    let passphrase = file
        .map(SecretSource::File)
        .or(command.map(SecretSource::Command));
    Some(RepositorySettings {
        url: url?,
        key: key_file.or(passphrase.map(RepositoryKey::Passphrase)),
    })
}

pub(super) fn read_command(
    section: &mut Section<'_, '_, '_>,
    key: &'static str,
) -> Option<Confidential> {
    let command = section.string(key)?;
    if command.trim().is_empty() {
        let offset = section.offset_of(key);
        section.fault(offset, format!("{key} is empty"));
        return None;
    }
    Some(Confidential::new(command))
}

pub(super) fn only_one(section: &mut Section<'_, '_, '_>, keys: &[&str]) {
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
        unlogged_schema_only: section
            .choice("unlogged", &[("data", false), ("schema", true)])
            .unwrap_or_default(),
        pause_replay: section.boolean("pause-replay", false),
        strip_pg_attver: section.boolean("strip-pg-attver", false),
        accept: accepted(&mut section),
    };
    let reason =
        "a secret does not belong in the site file; use passfile, a service file or PGPASSFILE";
    section.refuse("password", reason);
    section.finish(&["password"]);
    Some(settings)
}

/// Returns the losses that are accepted.
fn accepted(section: &mut Section<'_, '_, '_>) -> Vec<AcceptedLoss> {
    let mut accepted = Vec::new();
    for (word, offset) in section.strings("accept") {
        match word.as_str() {
            "role-passwords" => accepted.push(AcceptedLoss::RolePasswords),
            "user-mapping-options" => accepted.push(AcceptedLoss::UserMappingOptions),
            "subscriptions" => accepted.push(AcceptedLoss::Subscriptions),
            _ => section.fault(
                offset,
                "accept takes \"role-passwords\", \"user-mapping-options\" and \"subscriptions\"",
            ),
        }
    }
    accepted
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
    let discovery = read_run::path_discovery(&mut section);
    let snapshot = read_run::snapshot_hook(&mut section);
    // A path that is not given is found in a database when the run begins.
    let path = match discovery {
        Some(_) => Some(section.absolute_path("path").unwrap_or_default()),
        None => section.required_path("path"),
    };
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
        snapshot,
        discovery,
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
        paths: path_settings(text, &mut section, "paths"),
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

pub(super) fn path_settings(
    text: &str,
    section: &mut Section<'_, '_, '_>,
    key: &'static str,
) -> Vec<PathSetting> {
    let mut paths = Vec::new();
    for (path, offset) in section.strings(key) {
        if !section.check_path(key, &path, offset) {
            continue;
        }
        if let Err(reason) = check_pattern(path.as_bytes()) {
            section.fault(offset, format!("{key}: {path:?} {reason}"));
        }
        let (line, _) = line_and_column(text, offset);
        paths.push(PathSetting { text: path, line });
    }
    paths
}

fn read_certificates(text: &str, mut section: Section<'_, '_, '_>) -> Option<CertificatesSettings> {
    let name = section.component_name();
    let paths = path_settings(text, &mut section, "paths");
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
        connections_max: section.integer("connections-max", 2, 10_000),
        memory_bytes: section.bytes("memory"),
        rate: section.bytes("rate"),
        compression: compression::setting(&mut section, "compression"),
        low_priority: section.boolean("low-priority", false),
    };
    section.finish(&[]);
    limits
}
