//! What a site file may say, and what it gets when it says something else.

use super::run::{CommandSetting, PreflightCheck, PreflightTime, SqlExpectation};
use super::*;

const FULL: &str = r##"
[site]
name = "qlik-prod"
require-all = true

[repository]
url = "s3://bucket/prefix"
key-file = "/etc/holdfast/key"

[[database]]
name = "QSR"
conninfo = "host=db1,db2 port=4432 user=postgres dbname=QSR password=hunter2 sslmode=verify-full"
passfile = "/etc/holdfast/pgpass"
exclude-table-data = ["public.log_*"]
exclude-schema = ["scratch"]
locks = "hold"
connections = 4
retries = 3

[[share]]
name = "Apps"
path = "/mnt/qlik/Apps"
exclude = ["*.tmp", "!keep.tmp", "# comment", ""]
readers = 32
one-file-system = true
cachedir-tag = true
allow-empty = true

[[files]]
name = "config"
lists = ["/etc/holdfast/eclecticiq.list", "builtin:eclecticiq"]
paths = [
  "/etc/hosts",
  "/etc/*.conf",
]
missing = "error"

[[certificates]]
name = "qlik"
paths = ["/etc/qlik/certs/*.pem"]
password-command = "pass show pfx"
warn-before-expiry = "2w"
missing = "ok"

[retention]
daily = 7
weekly = 5
monthly = 12

[limits]
readers = 8
workers = 2
connections = 6
memory = "256 MiB"
"##;

fn parse(text: &str) -> Result<SiteFile, SiteError> {
    SiteFile::parse(text, Path::new("s.toml"))
}

#[test]
fn everything_is_read() {
    let site = parse(FULL).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((site.name.as_str(), site.require_all), ("qlik-prod", true));
    let repository = site.repository.as_ref().unwrap();
    assert_eq!(repository.url, "s3://bucket/prefix");
    assert_eq!(
        repository.key,
        Some(RepositoryKey::KeyFile("/etc/holdfast/key".into()))
    );
    let database = &site.databases[0];
    assert!(database.conninfo.expose().starts_with("host=db1,db2 "));
    assert_eq!(database.passfile, Some("/etc/holdfast/pgpass".into()));
    assert_eq!(
        (
            &database.exclude_table_data[..],
            &database.exclude_schema[..]
        ),
        (
            &["public.log_*".to_owned()][..],
            &["scratch".to_owned()][..]
        )
    );
    assert_eq!(
        (database.locks, database.connections, database.retries),
        (LockMode::Hold, Some(4), Some(3))
    );
    assert!(!database.unlogged_schema_only && !database.pause_replay && !database.strip_pg_attver);
    let share = &site.shares[0];
    assert_eq!(
        (share.path.as_path(), share.exclude.len(), share.readers),
        (Path::new("/mnt/qlik/Apps"), 4, Some(32))
    );
    assert!(share.one_file_system && share.cachedir_tag && share.allow_empty);
    let files = &site.files[0];
    assert_eq!(
        files.lists,
        [
            ListSource::File("/etc/holdfast/eclecticiq.list".into()),
            ListSource::Builtin("eclecticiq")
        ]
    );
    assert_eq!(
        files.paths[1],
        PathSetting {
            text: "/etc/*.conf".into(),
            line: 34
        }
    );
    assert_eq!(files.missing, Missing::Error);
    let certificates = &site.certificates[0];
    assert_eq!(
        certificates.warn_before_expiry,
        Duration::from_secs(14 * 86_400)
    );
    assert_eq!(
        (certificates.password.is_some(), certificates.missing),
        (true, Missing::Ok)
    );
    assert_eq!(
        (site.retention.daily, site.retention.yearly),
        (Some(7), None)
    );
    assert_eq!(
        (site.limits.workers, site.limits.memory_bytes),
        (Some(2), Some(256 << 20))
    );
}

#[test]
fn ways_of_a_database() {
    let site = parse(
        "site.name = \"s\"\n[[database]]\nname = \"d\"\nconninfo = \"\"\nunlogged = \"schema\"\npause-replay = true\nstrip-pg-attver = true\naccept = [\"role-passwords\"]\n",
    )
    .unwrap();
    let database = &site.databases[0];
    assert!(database.unlogged_schema_only && database.pause_replay && database.strip_pg_attver);
    assert_eq!(database.accept, [AcceptedLoss::RolePasswords]);
}

#[test]
fn what_is_left_out_has_its_default() {
    let site = parse("site.name = \"s\"\ndatabase = [{name = \"d\", conninfo = \"\"}]\nshare = [{name = \"x\", path = \"/x\"}]").unwrap();
    assert!(site.repository.is_none() && !site.require_all);
    assert_eq!(
        (site.databases[0].locks, site.databases[0].retries),
        (LockMode::Optimistic, None)
    );
    assert!(!site.shares[0].allow_empty && !site.shares[0].one_file_system);
    assert_eq!(site.limits, LimitsSettings::default());
}

/// The faults of a text, as they are shown, without the file name.
fn faults(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(_) => Vec::new(),
        Err(error) => error
            .to_string()
            .lines()
            .map(|line| line.strip_prefix("s.toml:").unwrap().to_owned())
            .collect(),
    }
}

#[test]
fn errors_name_line_column_and_the_nearest_key() {
    let check = |text: &str, expected: &[&str]| {
        assert_eq!(
            faults(&format!("[site]\nname = \"s\"\n{text}")),
            expected,
            "{text}"
        );
    };
    check(
        "require_all = true",
        &["3:1: unknown key \"require_all\" in [site]; did you mean \"require-all\"?"],
    );
    check(
        "colour = 1",
        &["3:1: unknown key \"colour\" in [site]; known here: name, profile, require-all"],
    );
    check(
        "require-all = \"yes\"",
        &["3:15: require-all in [site] must be true or false, not a string"],
    );
    check(
        "[[databse]]",
        &["3:3: unknown section or key \"databse\"; did you mean \"database\"?"],
    );
    check(
        "[database]\nname = \"x\"",
        &["3:2: database must be written as [[database]], once for each"],
    );
    check(
        "[[repository]]\nurl = \"/x\"",
        &["3:3: repository must be written once, as [repository]; this is a list"],
    );
    check(
        "[[share]]\nname = \"a\"\npath = \"/a\"\nexclud = []\nreaders = \"x\"\n[[share]]\nname = \"a\"\npath = \"b\"",
        &[
            "6:1: unknown key \"exclud\" in [[share]]; did you mean \"exclude\"?",
            "7:11: readers in [[share]] must be a whole number, not a string",
            "9:8: [[share]] \"a\" stands already in line 4",
            "10:8: path in [[share]]: \"b\" is not an absolute path",
        ],
    );
    check(
        "[[share]]\nname = \"a/b\"\npath = \"/x/../y\"",
        &[
            "4:8: name in [[share]] must not contain \"/\"",
            "5:8: path in [[share]]: \"/x/../y\" must not contain \"..\"",
        ],
    );
    check(
        "[[share]]\nname = \"..\"\npath = \"\"",
        &[
            "4:8: name in [[share]] must not be \".\" or \"..\"",
            "5:8: path in [[share]]: \"\" is empty",
        ],
    );
    check(
        "[[share]]\nname = \"a\\u0000b\"\npath = \"/x\"",
        &["4:8: name in [[share]] must not contain a NUL"],
    );
    check(
        "[[share]]",
        &[
            "3:1: [[share]] needs name = …",
            "3:1: [[share]] needs path = …",
        ],
    );
    check(
        "[[share]]\nname = \"a\"\npath = \"/x\"\nreaders = 0",
        &["6:11: readers in [[share]] must be from 1 to 128"],
    );
    check(
        "[[database]]\nname = \"d\"\nconninfo = \"\"\nlocks = \"held\"",
        &["6:9: locks in [[database]] must be one of \"optimistic\", \"hold\", not \"held\""],
    );
    check(
        "[[files]]\nname = \"f\"",
        &["3:1: [[files]] needs lists = [...] or paths = [...]"],
    );
    check(
        "[[files]]\nname = \"f\"\nlists = [\"builtin:eclectic\"]",
        &["5:10: holdfast has no list \"eclectic\"; did you mean \"eclecticiq\"?"],
    );
    check(
        "[[files]]\nname = \"f\"\npaths = [\"/ok\",\n \"/x[\"]",
        &["6:2: paths: \"/x[\" is no glob: a [ without its ]?"],
    );
    check(
        "[repository]\nurl = \"backup\"",
        &["4:7: url in [repository] is not an absolute path and no URL"],
    );
    check(
        "[replicate]\nsite = \"/x\"\nto = \"backup\"",
        &["5:6: to in [replicate] is not an absolute path and no URL"],
    );
    check(
        "[repository]\nurl = \"/b\"\nkey-file = \"/k\"\npassphrase-file = \"/p\"",
        &[
            "6:19: passphrase-file beside key-file: only one of key-file, passphrase-file, passphrase-command can be used",
        ],
    );
    check(
        "[[certificates]]\nname = \"c\"\npaths = []\nwarn-before-expiry = \"soon\"",
        &[
            "6:22: warn-before-expiry in [[certificates]]: \"soon\" is no duration such as \"30d\", \"12h\" or \"90m\"",
        ],
    );
    check(
        "[limits]\nmemory = \"much\"",
        &["4:10: memory in [limits] must be a size such as \"256 MiB\""],
    );
}

const RUN: &str = r#"
[site]
name = "s"
profile = "qlik-sense"

[[database]]
name = "QSR"
conninfo = "dbname=QSR"

[[share]]
name = "Apps"
path-database = "QSR"
path-sql = 'SELECT "AppFolder" FROM p'
path-map = [{ from = '\\nas\qlik', to = "/mnt/qlik" }]
snapshot-create = "btrfs subvolume snapshot -r /mnt/qlik /mnt/.now"
snapshot-remove = "btrfs subvolume delete /mnt/.now"
snapshot-path = "/mnt/.now/Apps"

[quiesce]
timeout = "10s"
stop = ["stop a", { command = "stop b", timeout = "1m" }]
start = ["start b"]
window-max = "20m"

[[preflight]]
name = "queues"
when = "after-stop"
redis = { url = "redis://:hunter2@127.0.0.1/0", empty-lists = ["enrichers"] }

[[preflight]]
name = "nobody is signed in"
required = false
sql = { database = "QSR", query = "SELECT count(*) FROM s", expect = 0 }

[[reference]]
database = "QSR"
sql = 'SELECT "ID" FROM "Apps"'
path = "shares/Apps/{ID}"

[relocate]
database = "QSR"
statements = [{ sql = "UPDATE p SET a = $1", values = ["x", 5, true] }]
paths = [{ from = "a", to = "b" }]

[restore]
post-commands = ["reindex --password=hunter2"]
[[restore.query]]
name = "blobs"
database = "QSR"
sql = "SELECT 1"

[hooks]
on-failure = "mail -s failed admin"

[status]
max-age = "25h"

[replicate]
to = "/mnt/second/qlik"
passphrase-command = "vault --token=hunter2 read second"
site = "/etc/holdfast/second.toml"

[limits]
rate = "10 MB"
compression = "balanced"
low-priority = true
"#;

#[test]
fn what_happens_around_a_run_is_read() {
    let site = parse(RUN).unwrap();
    let quiesce = site.quiesce.as_ref().unwrap();
    let text = |commands: &[CommandSetting]| -> Vec<(String, u64)> {
        commands
            .iter()
            .map(|c| (c.command.expose().to_owned(), c.timeout.as_secs()))
            .collect()
    };
    assert_eq!(
        text(&quiesce.stop),
        [("stop a".into(), 10), ("stop b".into(), 60)]
    );
    assert_eq!(text(&quiesce.start), [("start b".into(), 10)]);
    assert_eq!(quiesce.window_max.as_secs(), 1200);
    assert_eq!(site.preflight[0].when, PreflightTime::AfterStop);
    assert!(matches!(
        &site.preflight[1].check,
        PreflightCheck::Sql { expect: SqlExpectation::Value(value), .. } if value == "0"
    ));
    assert_eq!(site.references[0].name, "shares/Apps/{ID}");
    assert_eq!(site.relocate[0].statements[0].values, ["x", "5", "true"]);
    assert!(site.restore.safety_backup && site.restore.queries[0].expect.is_none());
    assert_eq!(site.status.max_age.as_secs(), 25 * 3600);
    let second = site.replicate.as_ref().unwrap();
    assert_eq!(second.repository.url, "/mnt/second/qlik");
    assert!(second.repository.key.is_some() && second.site.is_some());
    assert_eq!(site.limits.rate, Some(10_000_000));
    assert_eq!(site.limits.compression, Some(7));
    let share = &site.shares[0];
    assert_eq!(share.discovery.as_ref().unwrap().map[0].to, "/mnt/qlik");
    assert!(share.snapshot.is_some());
    assert!(!format!("{site:?}").contains("hunter2"));
    assert!(!site.redacted().contains("hunter2"), "{}", site.redacted());
    parse(&site.redacted()).unwrap();
}

#[test]
fn services_are_started_in_reverse() {
    let site = parse(
        "[site]\nname = \"s\"\n[[quiesce.service]]\nname = \"a\"\nstop = \"stop a\"\nstart = \"start a\"\n\
         [[quiesce.service]]\nname = \"b\"\nstop = \"stop b\"\nstart = \"start b\"",
    )
    .unwrap();
    let quiesce = site.quiesce.unwrap();
    let stop: Vec<&str> = quiesce.stop.iter().map(|c| c.command.expose()).collect();
    let start: Vec<&str> = quiesce.start.iter().map(|c| c.command.expose()).collect();
    assert_eq!(
        (stop, start),
        (vec!["stop a", "stop b"], vec!["start b", "start a"])
    );
}

#[test]
fn what_happens_around_a_run_is_checked() {
    for (text, message) in [
        ("[quiesce]\nstop = [\"x\"]", "needs stop and start"),
        ("[quiesce]\nstop = [\"\"]\nstart = [\"x\"]", "empty command"),
        (
            "[quiesce]\nstop = [\"x\"]\nstart = [\"x\"]\nwindow-max = \"0s\"",
            "from 1s to 7d",
        ),
        ("[[preflight]]\nname = \"p\"", "needs what is to be checked"),
        (
            "[[preflight]]\nname = \"p\"\ncommand = \"x\"\nfree-space = 1",
            "only one of",
        ),
        (
            "[[preflight]]\nname = \"p\"\nsql = { database = \"d\", query = \"q\" }",
            "which no [[database]] has",
        ),
        (
            "[[reference]]\ndatabase = \"d\"\nsql = \"q\"\npath = \"/a\"",
            "path of the snapshot",
        ),
        (
            "[[share]]\nname = \"a\"\npath = \"/a\"\nsnapshot-create = \"x\"",
            "belong together",
        ),
        (
            "[[share]]\nname = \"a\"\npath-sql = \"x\"",
            "belong together",
        ),
        (
            "[relocate]\ndatabase = \"d\"\nstatements = [\"x\"]",
            "a text where a table belongs",
        ),
        ("relocate = 5", "must be written as [relocate]"),
    ] {
        let found = faults(&format!("{text}\n[site]\nname = \"s\""));
        assert!(
            found.iter().any(|f| f.contains(message)),
            "{text}: {found:?}"
        );
    }
}

#[test]
fn a_missing_site_section_and_broken_toml() {
    assert_eq!(
        faults(""),
        ["1:1: the section [site] with name = … is missing"]
    );
    let found = faults("[site]\nname = \"ä\" \"x\"\nrequire-all = \n");
    assert!(found.len() >= 2, "{found:?}");
    assert!(found[0].starts_with("2:1"), "{found:?}");
    let found = faults("[site]\nname = \"a\"\nname = \"b\"");
    assert!(found[0].starts_with("3:1: "), "{found:?}");
}

#[test]
fn passwords_are_refused_and_never_repeated() {
    for text in [
        "[[database]]\nname = \"d\"\nconninfo = \"\"\npassword = \"hunter2\"",
        "[[certificates]]\nname = \"d\"\npaths = []\npassword = \"hunter2\"",
        "[repository]\nurl = \"/b\"\npassphrase = \"hunter2\"",
        "[[database]]\nname = \"d\"\nconninfo = \"password=hunter2\" oops",
        "[[database]]\nname = \"d\"\nconninfo = [\"password=hunter2\"]",
        "[[database]]\nname = \"d\"\nconninfo = \"password=hunter2",
    ] {
        let error = parse(&format!("[site]\nname = \"s\"\n{text}")).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    let found = faults("[site]\nname = \"s\"\n[repository]\nurl = \"/b\"\npassphrase = \"x\"");
    assert_eq!(
        found,
        [
            "5:1: passphrase in [repository]: a secret does not belong in the site file; use key-file, passphrase-file or passphrase-command"
        ]
    );
}

#[test]
fn debug_shows_no_secret() {
    let site = parse(FULL).unwrap();
    assert!(!format!("{site:?}").contains("hunter2"));
    assert!(!site.redacted().contains("hunter2"));
    assert!(parse(&site.redacted()).is_ok());
}

#[test]
fn load_says_what_it_could_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("site.toml");
    let error = SiteFile::load(&path).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot read site file {}", path.display())
    );
    std::fs::write(&path, b"\xff").unwrap();
    assert!(
        SiteFile::load(&path)
            .unwrap_err()
            .to_string()
            .ends_with("is not UTF-8 text")
    );
    std::fs::write(&path, FULL).unwrap();
    assert_eq!(SiteFile::load(&path).unwrap().name, "qlik-prod");
}
