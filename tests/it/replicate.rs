//! An active and a passive site: other servers and ports, other share paths, other repositories; round after round of change and `replicate`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::pg_cluster::Cluster;
use crate::place::{Outcome, Place, files_below, noise};

/// The databases of the stand-in.
const QSR: &str = r#"
CREATE TABLE "Apps" ("ID" int PRIMARY KEY, "Name" text NOT NULL);
CREATE TABLE "Users" ("ID" serial PRIMARY KEY, "App" int REFERENCES "Apps", "Name" text);
CREATE TABLE "ServiceClusterSettingsSharedPersistenceProperties" ("ID" int PRIMARY KEY, "RootFolder" text, "AppFolder" text,
    "StaticContentRootFolder" text, "ArchivedLogsRootFolder" text);
INSERT INTO "Apps" SELECT n, 'App ' || n FROM generate_series(1, 200) n;
INSERT INTO "Users" ("App", "Name") SELECT n % 200 + 1, 'User ' || n FROM generate_series(1, 1000) n;
INSERT INTO "ServiceClusterSettingsSharedPersistenceProperties" VALUES (1, '\\a\Share', '\\a\Share\Apps', '\\a\Share\StaticContent', '\\a\Share\Logs');
CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS number FROM "Users";
SELECT lo_from_bytea(0, 'a large object');
"#;
const LOGS: &str = "
CREATE TABLE entries (id int PRIMARY KEY, at timestamptz, text text);
INSERT INTO entries SELECT n, '2020-01-01Z', repeat(md5(n::text), 5) FROM generate_series(1, 500) n;
";

/// Everything that both sites must have alike.
const ALIKE: [(&str, &str); 2] = [
    (
        "QSR",
        r#"SELECT md5(string_agg(t, ',' ORDER BY t)) FROM (SELECT a::text AS t FROM "Apps" a UNION ALL SELECT u::text FROM "Users" u
           UNION ALL SELECT c::text FROM counted c UNION ALL SELECT last_value::text FROM "Users_ID_seq"
           UNION ALL SELECT encode(lo_get(oid), 'hex') FROM pg_largeobject_metadata) x"#,
    ),
    (
        "QLogs",
        "SELECT md5(string_agg(e::text, ',' ORDER BY id)) || count(*) FROM entries e",
    ),
];

/// What is another on the passive site.
const RELOCATED: &str = r#"SELECT concat_ws(' ', "RootFolder", "AppFolder", "ArchivedLogsRootFolder") FROM "ServiceClusterSettingsSharedPersistenceProperties""#;

/// A site with a server and folders of its own.
struct Site<'a> {
    place: &'a Place,
    cluster: Cluster,
    name: &'static str,
}

impl<'a> Site<'a> {
    fn new(place: &'a Place, name: &'static str) -> Self {
        fs::create_dir_all(place.path(name)).unwrap();
        let cluster = Cluster::start();
        Self {
            place,
            cluster,
            name,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path(self.name).join(name)
    }

    fn fill(&self) {
        for (name, sql) in [("QSR", QSR), ("QLogs", LOGS)] {
            let create = format!("CREATE DATABASE \"{name}\"");
            self.cluster.sql("postgres", &create);
            self.cluster.sql(name, sql);
        }
        for n in 0..20 {
            self.write(&format!("Apps/app-{n}"), &noise(n, 20_000));
            self.write(
                &format!("StaticContent/ext/file-{n}.js"),
                format!("text {n}\n").repeat(50).as_bytes(),
            );
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path("share").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Writes the site file.
    fn file(&self, repository: &Path, more: &str) -> PathBuf {
        let share = |name: &str| {
            let path = self.path("share").join(name);
            format!(
                "[[share]]\nname = \"{name}\"\npath = \"{}\"\n\n",
                path.display()
            )
        };
        let database = |name: &str| {
            let conninfo = self.cluster.conninfo(name);
            format!("[[database]]\nname = \"{name}\"\nconninfo = \"{conninfo}\"\n\n")
        };
        let text = format!(
            "[site]\nname = \"{}\"\nprofile = \"qlik-sense\"\n\n[repository]\nurl = \"{}\"\n\n{}{}{}{}{more}",
            self.name,
            repository.display(),
            database("QSR"),
            database("QLogs"),
            share("Apps"),
            share("StaticContent"),
        );
        let path = self.path("site.toml");
        fs::write(&path, text).unwrap();
        path
    }

    fn text(&self, database: &str, sql: &str) -> String {
        let mut session = self.cluster.session(database);
        session.query_one(sql, &[]).unwrap().get(0)
    }

    fn alike(&self) -> Vec<String> {
        ALIKE
            .iter()
            .map(|(database, sql)| self.text(database, sql))
            .collect()
    }

    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let root = self.path("share");
        let below = |file: PathBuf| {
            (
                file.strip_prefix(&root).unwrap().to_owned(),
                fs::read(file).unwrap(),
            )
        };
        files_below(&root).into_iter().map(below).collect()
    }
}

/// Round `n` of changes: rows, files, and now and then a definition.
fn change(site: &Site<'_>, n: u64) {
    site.cluster.sql(
        "QSR",
        &format!(
            r#"INSERT INTO "Users" ("App", "Name") VALUES ({n} + 1, 'round {n}'); DELETE FROM "Users" WHERE "ID" = {n} + 10;
            UPDATE "Apps" SET "Name" = 'changed in {n}' WHERE "ID" = {n} * 7 + 1; REFRESH MATERIALIZED VIEW counted"#
        ),
    );
    match n {
        4 => site.cluster.sql("QLogs", "ALTER TABLE entries ADD COLUMN level int DEFAULT 3"),
        n if n % 3 == 1 => site.cluster.sql(
            "QLogs",
            &format!("INSERT INTO entries (id, at, text) VALUES (1000 + {n}, '2021-01-01Z', 'a log line')"),
        ),
        _ => {}
    }
    site.write(&format!("Apps/new-{n}"), &noise(100 + n, 15_000));
    site.write("Apps/app-3", &noise(200 + n, 20_000));
    let gone = site
        .path("share")
        .join(format!("StaticContent/ext/file-{n}.js"));
    fs::remove_file(gone).unwrap();
}

/// How the second repository is made.
struct Second {
    path: PathBuf,
    key: Option<PathBuf>,
}

fn second(place: &Place, shared: bool) -> Second {
    let path = place.path("second");
    let key = shared.then(|| place.path("second.key"));
    let from = place.repository_path();
    let mut command = match &key {
        Some(_) => place.command(["init", "--dedup-from", from.to_str().unwrap()]),
        None => place.command(["init", "--chunk-size", "32K", "--encryption", "none"]),
    };
    command
        .env("HOLDFAST_REPO", &path)
        .env("HOLDFAST_FROM_KEY_FILE", place.path("key"));
    match &key {
        Some(key) => command.env("HOLDFAST_KEY_FILE", key),
        None => command.env_remove("HOLDFAST_KEY_FILE"),
    };
    run(&mut command).expect(0);
    Second { path, key }
}

fn run(command: &mut Command) -> Outcome {
    Outcome::of(command.output().unwrap())
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field]
        .as_str()
        .unwrap_or_else(|| panic!("{field} in {value}"))
}

fn check_rounds(shared: bool, rounds: u64) {
    let place = Place::small();
    let (active, passive) = (Site::new(&place, "active"), Site::new(&place, "passive"));
    active.fill();
    let second = second(&place, shared);
    let key = second
        .key
        .as_ref()
        .map(|key| format!("key-file = \"{}\"\n", key.display()));
    let relocate = "[relocate]\ndatabase = \"QSR\"\npaths = [{ from = '\\\\a\\Share', to = '\\\\b\\Other' }]\n";
    let there = passive.file(&second.path, relocate);
    let replicate = format!(
        "[replicate]\nto = \"{}\"\n{}site = \"{}\"\n",
        second.path.display(),
        key.unwrap_or_default(),
        there.display()
    );
    let here = active.file(&place.repository_path(), &replicate);
    let here = here.to_str().unwrap();
    // Nobody can be asked here.
    place
        .run(["replicate", "--site", here])
        .expect(2)
        .says("--yes");

    let mut sent = Vec::new();
    for round in 0..=rounds {
        if round > 0 {
            change(&active, round - 1);
        }
        place
            .run(["backup", "--site", here, "--name", "nightly"])
            .expect(0);
        let outcome = place
            .run(["replicate", "--site", here, "--yes", "--json"])
            .expect(0);
        let summary = outcome.summary();
        assert_eq!(summary["copied"]["present"], false, "{summary}");
        sent.push(summary["copied"]["chunks_sent"].as_u64().unwrap());
        assert_eq!(passive.alike(), active.alike(), "round {round}: {summary}");
        assert_eq!(passive.files(), active.files(), "round {round}");
        assert_eq!(
            active.text("QSR", RELOCATED),
            r"\\a\Share \\a\Share\Apps \\a\Share\Logs"
        );
        assert_eq!(
            passive.text("QSR", RELOCATED),
            r"\\b\Other \\b\Other\Apps \\b\Other\Logs"
        );
        let actions: Vec<&str> = summary["databases"]
            .as_array()
            .unwrap()
            .iter()
            .map(|d| text(d, "action"))
            .collect();
        let logs = match round {
            0 => "created",
            5 => "replaced",
            n if n % 3 == 2 => "refilled",
            _ => "unchanged",
        };
        let qsr = if round == 0 { "created" } else { "refilled" };
        assert_eq!(actions, [qsr, logs], "round {round}: {summary}");
    }
    // On average: where the chunks of so little data end is left to chance.
    let later: u64 = sent.iter().skip(1).sum();
    assert!(
        later * 2 < sent[0] * rounds,
        "a round sends little: {sent:?}"
    );

    // The same once more: nothing is sent, and nothing differs.
    let summary = place
        .run(["replicate", "--site", here, "--yes", "--json"])
        .expect(0)
        .summary();
    assert_eq!(summary["copied"]["present"], true, "{summary}");
    assert_eq!(summary["copied"]["chunks_sent"], 0, "{summary}");
    assert_eq!(passive.alike(), active.alike());

    // An earlier state, named.
    let summary = place
        .run(["replicate", "latest~1", "--site", here, "--yes", "--json"])
        .expect(0)
        .summary();
    assert_eq!(summary["copied"]["present"], true, "{summary}");
    assert_ne!(passive.alike(), active.alike());
    for repository in [&place.repository_path(), &second.path] {
        let mut command = place.command(["verify", "--end-to-end"]);
        command.env("HOLDFAST_REPO", repository);
        match &second.key {
            Some(key) if *repository == second.path => command.env("HOLDFAST_KEY_FILE", key),
            _ => &mut command,
        };
        run(&mut command).expect(0);
    }
}

#[test]
fn ten_rounds_of_change_arrive_on_the_passive_site() {
    check_rounds(false, 10);
}

#[test]
fn rounds_arrive_with_a_shared_dedup_secret() {
    check_rounds(true, 3);
}

#[test]
fn what_is_missing_is_said_before_anything_is_touched() {
    let place = Place::small();
    place
        .run(["replicate", "--yes"])
        .expect(2)
        .says("--to-site");
    let site = place.path("other.toml");
    fs::write(&site, "[site]\nname = \"b\"\n").unwrap();
    let site = site.to_str().unwrap();
    place
        .run(["replicate", "--yes", "--to-site", site])
        .expect(2)
        .says("--to");
    let to = second(&place, false);
    let to = to.path.to_str().unwrap();
    place
        .run(["replicate", "--yes", "--to-site", site, "--to", to])
        .expect(1)
        .says("there is no snapshot");
}
