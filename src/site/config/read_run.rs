//! Reads the sections of [`super::run`].

use std::collections::BTreeSet;
use std::time::Duration;

use toml::de::DeTable;

use super::read::{Found, only_one, path_settings, read_command, read_place, single};
use super::run::{
    COMMAND_TIMEOUT_DEFAULT, CommandSetting, DrillSettings, HookSettings, Mapping,
    PREFLIGHT_TIMEOUT_DEFAULT, PathDiscovery, PreflightCheck, PreflightSettings, PreflightTime,
    QuiesceSettings, ReferenceSettings, RelocateSettings, RelocateStatement, ReplicateSettings,
    RestoreQuery, RestoreSettings, START_ATTEMPTS_DEFAULT, SnapshotHook, SqlExpectation,
    StatusSettings, WINDOW_MAX_DEFAULT,
};
use super::{Confidential, SiteFile};
use crate::site::reader::{Faults, Section};
use crate::site::secrets::SecretSource;

/// The longest time that any command or window may be given.
const TIME_MAX: Duration = Duration::from_secs(7 * 86_400);

fn time(section: &mut Section<'_, '_, '_>, key: &'static str, default: Duration) -> Duration {
    let time = section.duration(key).unwrap_or(default);
    if time.is_zero() || time > TIME_MAX {
        let offset = section.offset_of(key);
        section.fault(offset, format!("{key} must be from 1s to 7d"));
    }
    time
}

/// A command as a string, or as a table with a time limit of its own.
fn commands(
    section: &mut Section<'_, '_, '_>,
    key: &'static str,
    timeout: Duration,
) -> Vec<CommandSetting> {
    section.each(
        key,
        "a list of commands",
        |text, offset, faults| {
            if text.trim().is_empty() {
                faults.add(offset, format!("{key} holds an empty command"));
                return None;
            }
            Some(CommandSetting {
                service: None,
                command: Confidential::new(text.to_owned()),
                timeout,
            })
        },
        |mut table| {
            let command = required_command(&mut table, "command");
            let timeout = time(&mut table, "timeout", timeout);
            table.finish(&[]);
            Some(CommandSetting {
                service: None,
                command: command?,
                timeout,
            })
        },
    )
}

fn required_command(section: &mut Section<'_, '_, '_>, key: &'static str) -> Option<Confidential> {
    section.require(key);
    read_command(section, key)
}

fn command(
    section: &mut Section<'_, '_, '_>,
    key: &'static str,
    timeout: Duration,
) -> Option<CommandSetting> {
    read_command(section, key).map(|command| CommandSetting {
        service: None,
        command,
        timeout,
    })
}

pub(super) fn read_quiesce(
    (table, offset): Found<'_, '_>,
    faults: &mut Faults,
) -> Option<QuiesceSettings> {
    let mut section = Section::new("[quiesce]", table, offset, faults);
    let timeout = time(&mut section, "timeout", COMMAND_TIMEOUT_DEFAULT);
    let mut stop = commands(&mut section, "stop", timeout);
    let mut start = commands(&mut section, "start", timeout);
    only_one(&mut section, &["service", "stop"]);
    only_one(&mut section, &["service", "start"]);
    let services = section.tables("service", "[[quiesce.service]]", |mut service| {
        let timeout = time(&mut service, "timeout", timeout);
        let name = service.required_string("name");
        let stop = required_command(&mut service, "stop");
        let start = required_command(&mut service, "start");
        service.finish(&[]);
        let setting = |command| CommandSetting {
            service: name.clone(),
            command,
            timeout,
        };
        Some((setting(stop?), setting(start?)))
    });
    for (service_stop, service_start) in services {
        stop.push(service_stop);
        start.insert(0, service_start);
    }
    if stop.is_empty() != start.is_empty() {
        section.fault(
            offset,
            "[quiesce] needs stop and start: what is stopped must be started again",
        );
    }
    let settings = QuiesceSettings {
        stop,
        start,
        window_max: time(&mut section, "window-max", WINDOW_MAX_DEFAULT),
        start_attempts: section
            .integer("start-attempts", 1, 100)
            .unwrap_or(START_ATTEMPTS_DEFAULT),
    };
    section.finish(&[]);
    Some(settings)
}

const CHECKS: &[&str] = &[
    "command",
    "sql",
    "redis",
    "no-stale-pid-files",
    "no-pid-files",
    "no-process",
    "no-unit",
    "free-space",
    "certificates-valid-for",
];

pub(super) fn read_preflight(
    text: &str,
    mut section: Section<'_, '_, '_>,
) -> Option<PreflightSettings> {
    let name = section.component_name();
    let required = section.boolean("required", true);
    let when = section
        .choice(
            "when",
            &[
                ("before-stop", PreflightTime::BeforeStop),
                ("after-stop", PreflightTime::AfterStop),
            ],
        )
        .unwrap_or_default();
    let timeout = time(&mut section, "timeout", PREFLIGHT_TIMEOUT_DEFAULT);
    only_one(&mut section, CHECKS);
    let check = read_check(text, &mut section);
    if !CHECKS.iter().any(|key| section.has(key)) {
        let text = format!(
            "[[preflight]] needs what is to be checked: one of {}",
            CHECKS.join(", ")
        );
        section.fault(section.offset, text);
    }
    section.finish(&[]);
    Some(PreflightSettings {
        name,
        required,
        when,
        timeout,
        check: check?,
    })
}

fn read_check(text: &str, section: &mut Section<'_, '_, '_>) -> Option<PreflightCheck> {
    // Every getter is asked, so that every key is known and every fault is found.
    let status = section.integer("status", 0, 255).unwrap_or(0);
    let command =
        read_command(section, "command").map(|command| PreflightCheck::Command { command, status });
    let sql = section.table("sql", "sql of [[preflight]]", |mut sql| {
        let database = sql.required_string("database");
        let query = sql.required_string("query");
        let expect = expectation(&mut sql).unwrap_or(SqlExpectation::NoRows);
        sql.finish(&[]);
        Some(PreflightCheck::Sql {
            database: database?,
            query: query?,
            expect,
        })
    });
    let redis = section.table("redis", "redis of [[preflight]]", |mut redis| {
        let url = redis.required_string("url");
        let file = redis.absolute_path("password-file").map(SecretSource::File);
        let command = read_command(&mut redis, "password-command").map(SecretSource::Command);
        only_one(&mut redis, &["password-file", "password-command"]);
        let lists = redis.strings("empty-lists");
        redis.require("empty-lists");
        redis.finish(&[]);
        Some(PreflightCheck::Redis {
            url: Confidential::new(url?),
            password: file.or(command),
            empty_lists: lists.into_iter().map(|(list, _)| list).collect(),
        })
    });
    let stale = path_settings(text, section, "no-stale-pid-files");
    let stale = (!stale.is_empty()).then_some(PreflightCheck::StalePidFiles(stale));
    let pids = path_settings(text, section, "no-pid-files");
    let pids = (!pids.is_empty()).then_some(PreflightCheck::NoPidFiles(pids));
    let names = |list: Vec<(String, usize)>| -> Option<Vec<String>> {
        (!list.is_empty()).then(|| list.into_iter().map(|(name, _)| name).collect())
    };
    let process = names(section.strings("no-process")).map(PreflightCheck::NoProcess);
    let unit = names(section.strings("no-unit")).map(PreflightCheck::NoUnit);
    let space = section.bytes("free-space").map(PreflightCheck::FreeSpace);
    let certificates = section
        .duration("certificates-valid-for")
        .map(PreflightCheck::CertificatesValidFor);
    command
        .or(sql)
        .or(redis)
        .or(stale)
        .or(pids)
        .or(process)
        .or(unit)
        .or(space)
        .or(certificates)
}

/// `expect = "no-rows"`, or a value as text or number.
fn expectation(section: &mut Section<'_, '_, '_>) -> Option<SqlExpectation> {
    let text = section.scalar("expect")?;
    Some(match text.as_str() {
        "no-rows" => SqlExpectation::NoRows,
        _ => SqlExpectation::Value(text),
    })
}

pub(super) fn read_reference(mut section: Section<'_, '_, '_>) -> Option<ReferenceSettings> {
    let name = section.string("name");
    let database = section.required_string("database");
    let sql = section.required_string("sql");
    let path = section.required_string("path");
    if let Some(path) = &path
        && (!path.contains('{') || path.starts_with('/'))
    {
        let offset = section.offset_of("path");
        section.fault(
            offset,
            "path in [[reference]] is a path of the snapshot with columns in it, such as \"shares/Apps/{ID}\"",
        );
    }
    let ignore_case = section.boolean("ignore-case", false);
    let files_without_row = section.boolean("files-without-row", true);
    section.finish(&[]);
    let path = path?;
    Some(ReferenceSettings {
        name: name.unwrap_or_else(|| path.clone()),
        database: database?,
        sql: sql?,
        path,
        ignore_case,
        files_without_row,
    })
}

fn mappings(section: &mut Section<'_, '_, '_>, key: &'static str) -> Vec<Mapping> {
    section.tables(key, "{ from, to }", |mut mapping| {
        let from = mapping.required_string("from");
        let to = mapping.required_string("to");
        mapping.finish(&[]);
        let from = from?;
        if from.is_empty() {
            return None;
        }
        Some(Mapping { from, to: to? })
    })
}

pub(super) fn read_relocate(mut section: Section<'_, '_, '_>) -> Option<RelocateSettings> {
    let database = section.required_string("database");
    let statements = section.tables("statements", "statements of [relocate]", |mut statement| {
        let sql = statement.required_string("sql");
        let values = statement.scalars("values");
        let may_match_none = statement.boolean("may-match-none", false);
        statement.finish(&[]);
        Some(RelocateStatement {
            sql: sql?,
            values,
            may_match_none,
        })
    });
    let paths = mappings(&mut section, "paths");
    let hosts = mappings(&mut section, "hosts");
    section.finish(&[]);
    Some(RelocateSettings {
        database: database?,
        statements,
        paths,
        hosts,
    })
}

pub(super) fn read_restore((table, offset): Found<'_, '_>, faults: &mut Faults) -> RestoreSettings {
    let mut section = Section::new("[restore]", table, offset, faults);
    let timeout = time(&mut section, "timeout", COMMAND_TIMEOUT_DEFAULT);
    let settings = RestoreSettings {
        safety_backup: section.boolean("safety-backup", true),
        post_commands: commands(&mut section, "post-commands", timeout),
        queries: section.tables("query", "[[restore.query]]", |mut query| {
            let name = query.required_string("name");
            let database = query.required_string("database");
            let sql = query.required_string("sql");
            let expect = expectation(&mut query);
            query.finish(&[]);
            Some(RestoreQuery {
                name: name?,
                database: database?,
                sql: sql?,
                expect,
            })
        }),
    };
    section.finish(&[]);
    settings
}

pub(super) fn read_hooks((table, offset): Found<'_, '_>, faults: &mut Faults) -> HookSettings {
    let mut section = Section::new("[hooks]", table, offset, faults);
    let timeout = time(&mut section, "timeout", COMMAND_TIMEOUT_DEFAULT);
    let settings = HookSettings {
        on_failure: command(&mut section, "on-failure", timeout),
        on_success: command(&mut section, "on-success", timeout),
    };
    section.finish(&[]);
    settings
}

pub(super) fn read_status((table, offset): Found<'_, '_>, faults: &mut Faults) -> StatusSettings {
    let mut section = Section::new("[status]", table, offset, faults);
    let default = StatusSettings::default();
    let settings = StatusSettings {
        max_age: section.duration("max-age").unwrap_or(default.max_age),
        verified_within: section
            .duration("verified-within")
            .unwrap_or(default.verified_within),
        drilled_within: section.duration("drilled-within"),
        shrink_percent: section
            .integer("shrink-percent", 1, 100)
            .unwrap_or(default.shrink_percent),
    };
    section.finish(&[]);
    settings
}

pub(super) fn read_drill((table, offset): Found<'_, '_>, faults: &mut Faults) -> DrillSettings {
    let mut section = Section::new("[drill]", table, offset, faults);
    let settings = DrillSettings {
        server: section.string("server").map(Confidential::new),
        scratch: section.absolute_path("scratch"),
    };
    section.finish(&[]);
    settings
}

pub(super) fn read_replicate(
    (table, offset): Found<'_, '_>,
    faults: &mut Faults,
) -> Option<ReplicateSettings> {
    let mut section = Section::new("[replicate]", table, offset, faults);
    let repository = read_place(&mut section, "to");
    let site = section.absolute_path("site");
    section.finish(&["passphrase"]);
    Some(ReplicateSettings {
        repository: repository?,
        site,
    })
}

/// `snapshot-create`, `snapshot-remove` and `snapshot-path` of a share: all or none.
pub(super) fn snapshot_hook(section: &mut Section<'_, '_, '_>) -> Option<SnapshotHook> {
    let timeout = COMMAND_TIMEOUT_DEFAULT;
    let create = command(section, "snapshot-create", timeout);
    let remove = command(section, "snapshot-remove", timeout);
    let path = section.absolute_path("snapshot-path");
    let keys = ["snapshot-create", "snapshot-remove", "snapshot-path"];
    let given = keys.iter().filter(|key| section.has(key)).count();
    if given != 0 && given != keys.len() {
        section.fault(
            section.offset,
            "snapshot-create, snapshot-remove and snapshot-path belong together",
        );
    }
    Some(SnapshotHook {
        create: create?,
        remove: remove?,
        path: path?,
    })
}

/// `path-sql`, `path-database` and `path-map` of a share.
pub(super) fn path_discovery(section: &mut Section<'_, '_, '_>) -> Option<PathDiscovery> {
    let sql = section.string("path-sql");
    let database = section.string("path-database");
    let map = mappings(section, "path-map");
    if section.has("path-sql") != section.has("path-database") {
        section.fault(section.offset, "path-sql and path-database belong together");
    }
    Some(PathDiscovery {
        database: database?,
        sql: sql?,
        map,
    })
}

/// Databases that a section names must be there.
pub(super) fn check_databases(site: &SiteFile, document: &DeTable<'_>, faults: &mut Faults) {
    let known: BTreeSet<&str> = site.databases.iter().map(|d| d.name.as_str()).collect();
    let checks = site.preflight.iter().filter_map(|p| match &p.check {
        PreflightCheck::Sql { database, .. } => Some(("preflight", database)),
        _ => None,
    });
    let named = checks
        .chain(site.references.iter().map(|r| ("reference", &r.database)))
        .chain(site.relocate.iter().map(|r| ("relocate", &r.database)))
        .chain(
            site.restore
                .queries
                .iter()
                .map(|q| ("restore", &q.database)),
        )
        .chain(
            site.shares
                .iter()
                .filter_map(|s| s.discovery.as_ref())
                .map(|d| ("share", &d.database)),
        );
    for (section, database) in named {
        if !known.contains(database.as_str()) {
            let offset = document
                .get_key_value(section)
                .map_or(0, |(key, _)| key.span().start);
            faults.add(
                offset,
                format!("[{section}] names the database {database:?}, which no [[database]] has"),
            );
        }
    }
}

/// A section that may stand once or several times.
pub(super) fn relocate_sections(
    document: &DeTable<'_>,
    faults: &mut Faults,
) -> Vec<RelocateSettings> {
    if let Some((table, offset)) = single(document, "relocate") {
        let section = Section::new("[relocate]", table, offset, faults);
        return read_relocate(section).into_iter().collect();
    }
    super::read::repeated(document, "relocate", faults, read_relocate)
}
