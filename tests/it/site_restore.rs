//! A whole site back to its place: a stand-in with two databases, a share, configuration, certificates and a service that is a real process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::pg_cluster::{Cluster, ClusterOptions};
use crate::place::{Outcome, PATIENCE, Place};

/// What the databases of the stand-in are.
const QSR: &str = r#"
CREATE TABLE "Apps" ("ID" uuid PRIMARY KEY, "Name" text NOT NULL);
CREATE TABLE "Users" ("ID" serial PRIMARY KEY, "App" uuid REFERENCES "Apps", "Name" text);
CREATE TABLE "ServiceClusterSettingsSharedPersistenceProperties" ("ID" int PRIMARY KEY, "RootFolder" text, "AppFolder" text,
    "StaticContentRootFolder" text, "ArchivedLogsRootFolder" text, "Other" text);
INSERT INTO "Apps" SELECT md5(n::text)::uuid, 'App ' || n FROM generate_series(1, 200) n;
INSERT INTO "Users" ("App", "Name") SELECT md5((n % 200 + 1)::text)::uuid, 'User ' || n FROM generate_series(1, 1000) n;
INSERT INTO "ServiceClusterSettingsSharedPersistenceProperties" VALUES (1, '\\a\Share', '\\a\share\Apps', '\\a\Share\StaticContent', '\\a\Share\Logs', '\\a\Share');
SELECT lo_from_bytea(0, 'a large object');
CREATE VIEW named AS SELECT "Name" FROM "Apps";
CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS number FROM "Users";
"#;
const SERVICES: &str = "
CREATE TABLE settings (key text PRIMARY KEY, value jsonb);
INSERT INTO settings SELECT 'key ' || n, jsonb_build_object('n', n) FROM generate_series(1, 100) n;
";

/// Everything of the databases that can be seen by rows.
const SUMS: [(&str, &str); 2] = [
    (
        "QSR",
        r#"SELECT md5(string_agg(t, ',' ORDER BY t)) FROM (SELECT a::text AS t FROM "Apps" a UNION ALL SELECT u::text FROM "Users" u
           UNION ALL SELECT p::text FROM "ServiceClusterSettingsSharedPersistenceProperties" p UNION ALL SELECT c::text FROM counted c
           UNION ALL SELECT last_value::text FROM "Users_ID_seq" UNION ALL SELECT encode(lo_get(oid), 'hex') FROM pg_largeobject_metadata) x"#,
    ),
    (
        "Services",
        "SELECT md5(string_agg(s::text, ',' ORDER BY key)) FROM settings s",
    ),
];

/// A site: what belongs to it besides its databases lies in a folder of a test's place.
struct Site<'a> {
    place: &'a Place,
    cluster: &'a Cluster,
    name: &'static str,
}

impl<'a> Site<'a> {
    fn new(place: &'a Place, cluster: &'a Cluster, name: &'static str) -> Self {
        fs::create_dir_all(place.path(name)).unwrap();
        Self {
            place,
            cluster,
            name,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path(self.name).join(name)
    }

    fn database(&self, name: &str) -> String {
        format!("{}_{name}", self.name)
    }

    /// Databases, share, configuration, certificate.
    fn fill(&self) {
        for (name, sql) in [("QSR", QSR), ("Services", SERVICES)] {
            let database = self.database(name);
            self.cluster
                .sql("postgres", &format!("CREATE DATABASE \"{database}\""));
            self.cluster.sql(&database, sql);
        }
        for n in 0..30 {
            let path = self.path(&format!("share/Apps/folder {}/app-{n}", n % 3));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, format!("app {n} ").repeat(500 * n)).unwrap();
        }
        fs::create_dir_all(self.path("etc/app.d")).unwrap();
        fs::write(self.path("etc/app.conf"), "port = 4432\n").unwrap();
        fs::write(self.path("etc/app.d/more.conf"), "more = true\n").unwrap();
        fs::create_dir_all(self.path("certificates")).unwrap();
        fs::write(self.path("certificates/server.pem"), "not a certificate\n").unwrap();
    }

    /// The site file; `more` is appended.
    fn file(&self, more: &str) -> PathBuf {
        let database = |name: &str| {
            let conninfo = self.cluster.conninfo(&self.database(name));
            format!("[[database]]\nname = \"{name}\"\nconninfo = \"{conninfo}\"\n")
        };
        let text = format!(
            "[site]\nname = \"{name}\"\nprofile = \"qlik-sense\"\n\n[repository]\nurl = \"{repository}\"\n\n{qsr}\n{services}\n\
             [[share]]\nname = \"Apps\"\npath = \"{share}\"\nexclude = [\"*.tmp\"]\n\n\
             [[files]]\nname = \"config\"\npaths = [\"{etc}\"]\n\n\
             [[certificates]]\nname = \"tls\"\npaths = [\"{certificates}/*\"]\n\n{more}",
            name = self.name,
            repository = self.place.repository_path().display(),
            qsr = database("QSR"),
            services = database("Services"),
            share = self.path("share").display(),
            etc = self.path("etc").display(),
            certificates = self.path("certificates").display(),
        );
        let path = self.path("site.toml");
        fs::write(&path, text).unwrap();
        path
    }

    /// Commands that stop and start a process that stands for the site's services.
    fn quiesce(&self) -> String {
        let pid = self.path("pid");
        let log = self.path("service.log");
        format!(
            "[quiesce]\nstop = [\"echo stop >> {log} && kill $(cat {pid}) && rm {pid}\"]\n\
             start = [\"setsid sleep 3600 < /dev/null > /dev/null 2>&1 & echo $! > {pid}; echo start >> {log}\"]\nstart-attempts = 1\n\n",
            log = log.display(),
            pid = pid.display()
        )
    }

    fn start_service(&self) {
        let script = format!(
            "setsid sleep 3600 < /dev/null > /dev/null 2>&1 & echo $! > {}",
            self.path("pid").display()
        );
        let status = Command::new("sh").args(["-c", &script]).status().unwrap();
        assert!(status.success());
    }

    fn runs(&self) -> bool {
        fs::read_to_string(self.path("pid")).is_ok_and(|pid| is_alive(pid.trim()))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("service.log")).unwrap_or_default()
    }

    fn sums(&self) -> Vec<String> {
        let sum = |(name, sql): &(&str, &str)| {
            let mut session = self.cluster.session(&self.database(name));
            let row = session.query_one(sql, &[]).unwrap();
            row.get::<_, String>(0)
        };
        SUMS.iter().map(sum).collect()
    }

    /// Everything below the folders of the site: path and content.
    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let mut found = Vec::new();
        for top in ["share", "etc", "certificates"] {
            collect(&self.path(""), Path::new(top), &mut found);
        }
        found.sort();
        found
    }

    fn value(&self, database: &str, sql: &str) -> String {
        let mut session = self.cluster.session(&self.database(database));
        session.query_one(sql, &[]).unwrap().get(0)
    }

    fn destroy(&self) {
        for name in ["QSR", "Services"] {
            let database = self.database(name);
            self.cluster.sql(
                "postgres",
                &format!("DROP DATABASE IF EXISTS \"{database}\""),
            );
        }
        for top in ["share", "etc", "certificates"] {
            fs::remove_dir_all(self.path(top)).ok();
        }
    }
}

impl Drop for Site<'_> {
    fn drop(&mut self) {
        if let Ok(pid) = fs::read_to_string(self.path("pid")) {
            Command::new("kill").arg(pid.trim()).output().ok();
        }
    }
}

/// A process that has ended and that nobody waits for is not alive.
fn is_alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(") ").next().unwrap_or("Z").starts_with('Z'))
}

fn collect(root: &Path, below: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    let Ok(entries) = fs::read_dir(root.join(below)) else {
        return;
    };
    for entry in entries {
        let path = below.join(entry.unwrap().file_name());
        match root.join(&path).is_dir() {
            true => collect(root, &path, found),
            false => found.push((
                path.display().to_string(),
                fs::read(root.join(&path)).unwrap(),
            )),
        }
    }
}

fn restore(place: &Place, snapshot: &str, file: &Path, more: &[&str]) -> Outcome {
    let file = file.to_str().unwrap();
    let mut args = vec!["restore", snapshot, "--site", file, "--json"];
    args.extend(more);
    place.run(args)
}

fn backup(place: &Place, file: &Path, name: &str) {
    let file = file.to_str().unwrap();
    place
        .run(["backup", "--site", file, "--name", name])
        .expect(0);
}

fn databases(summary: &Value) -> Vec<(String, String)> {
    let list = summary["databases"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    list.iter()
        .map(|d| (text(&d["name"]), text(&d["action"])))
        .collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
        .collect()
}

#[test]
fn a_lost_site_comes_back_in_one_command() {
    let (place, cluster) = (Place::small(), Cluster::start());
    let site = Site::new(&place, &cluster, "prod");
    site.fill();
    let queries = "[[restore.query]]\nname = \"apps\"\ndatabase = \"QSR\"\nsql = 'SELECT count(*) FROM \"Apps\"'\nexpect = 200\n\
                   [[restore.query]]\nname = \"names\"\ndatabase = \"QSR\"\nsql = 'SELECT \"Name\", \"ID\" FROM \"Apps\" ORDER BY 1 LIMIT 2'\n";
    let post = format!(
        "[restore]\npost-commands = [\"echo post >> {}\"]\n{queries}",
        site.path("service.log").display()
    );
    let file = site.file(&format!("{}{post}", site.quiesce()));
    let plain = site.file(&post);
    backup(&place, &plain, "nightly");
    let (sums, files) = (site.sums(), site.files());
    assert_eq!(file, site.file(&format!("{}{post}", site.quiesce())));

    // Nothing is left.
    site.destroy();
    site.start_service();
    let before: Vec<_> = site.files();
    let plan = restore(&place, "nightly", &file, &["--dry-run"]).expect(0);
    let plan = &plan.messages("plan")[0];
    assert_eq!(plan["problems"], Value::Array(vec![]), "{plan}");
    assert_eq!(plan["databases"][0]["exists"], false);
    assert_eq!(plan["trees"][0]["new"], 30);
    assert_eq!((site.files(), site.log().as_str()), (before, ""));
    // Nobody can be asked.
    restore(&place, "nightly", &file, &[])
        .expect(2)
        .says("--yes")
        .in_one_line();

    let done = restore(&place, "nightly", &file, &["--yes"]).expect(0);
    let summary = done.summary();
    assert_eq!((site.sums(), site.files()), (sums.clone(), files.clone()));
    assert_eq!(site.log(), "stop\npost\nstart\n");
    assert!(site.runs() && summary["down_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(
        databases(&summary),
        pairs(&[("QSR", "created"), ("Services", "created")])
    );
    assert_eq!(summary["queries"][0]["rows"][0][0], "200");
    assert_eq!(summary["queries"][1]["row_count"], 2);
    let safety = summary["safety_backup"].as_str().unwrap().to_owned();
    assert!(safety.starts_with("before-restore-prod-"), "{safety}");

    // What was there before is a snapshot of its own, and not the latest.
    let all = place.run(["snapshots", "--json"]).expect(0);
    let all = all.messages("snapshot");
    assert_eq!(all.len(), 2);
    assert_eq!(all[1]["name"], safety.as_str());
    let latest = restore(&place, "latest", &file, &["--dry-run"]).expect(0);
    assert_eq!(latest.messages("plan")[0]["snapshot"], all[0]["id"]);

    // Somebody broke things; the same command mends them, and nothing else is written.
    cluster.sql(
        &site.database("QSR"),
        r#"UPDATE "Users" SET "Name" = 'x'; DROP VIEW named; CREATE TABLE extra ()"#,
    );
    fs::write(site.path("share/Apps/folder 1/app-1"), "broken").unwrap();
    fs::write(site.path("share/Apps/new"), "new").unwrap();
    fs::remove_file(site.path("etc/app.conf")).unwrap();
    let done = restore(&place, "nightly", &file, &["--yes"]).expect(0);
    let summary = done.summary();
    let trees = &summary["trees"];
    assert_eq!(trees[0]["summary"]["files_unchanged"], 29, "{trees}");
    assert_eq!(trees[1]["summary"]["files_unchanged"], 1, "{trees}");
    assert!(site.path("share/Apps/new").exists());
    fs::remove_file(site.path("share/Apps/new")).unwrap();
    assert_eq!((site.sums(), site.files()), (sums, files));
    assert_eq!(
        databases(&summary),
        pairs(&[("QSR", "replaced"), ("Services", "replaced")])
    );
    // And back to what was broken.
    let safety = summary["safety_backup"].as_str().unwrap();
    restore(
        &place,
        safety,
        &file,
        &["--yes", "--only", "shares/Apps", "--only", "QSR"],
    )
    .expect(0);
    assert_eq!(
        fs::read(site.path("share/Apps/folder 1/app-1")).unwrap(),
        b"broken"
    );
    assert_eq!(site.value("QSR", r#"SELECT max("Name") FROM "Users""#), "x");

    // The site file comes back too.
    let text = place.run(["site", "extract", "nightly"]).expect(0).stdout;
    assert!(text.contains("name = \"prod\"") && !text.contains("[quiesce]"));
    let out = site.path("extracted.toml");
    let args = ["site", "extract", "nightly", "-o", out.to_str().unwrap()];
    place.run(args).expect(0);
    place.run(args).expect(1).says("cannot create");
    assert_eq!(fs::read_to_string(out).unwrap(), text);
}

#[test]
fn only_what_differs_and_relocated() {
    let (place, cluster) = (Place::small(), Cluster::start());
    let active = Site::new(&place, &cluster, "active");
    active.fill();
    let file_active = active.file("");
    backup(&place, &file_active, "one");
    let passive = Site::new(&place, &cluster, "passive");
    let relocate = "[relocate]\ndatabase = \"QSR\"\npaths = [{ from = '\\\\a\\share', to = '/srv/b' }]\n\
        statements = [{ sql = 'UPDATE \"Apps\" SET \"Name\" = \"Name\" || $2::text WHERE \"Name\" = $1', values = [\"App 7\", \" at b\"] }]\n";
    // Lists of files have absolute paths: those of the active site.
    let skip = ["--yes", "--skip", "files/config", "--skip", "tls"];
    let file = passive.file(relocate);
    let done = restore(&place, "one", &file, &skip).expect(0);
    let relocated = &done.summary()["databases"][0]["relocated"];
    assert_eq!(relocated[0]["values"][0][0], r"\\a\Share", "{relocated}");
    assert_eq!(relocated[0]["values"][0][1], "/srv/b");
    let sql = r#"SELECT concat_ws(' ', "RootFolder", "AppFolder", "ArchivedLogsRootFolder", "Other") FROM "ServiceClusterSettingsSharedPersistenceProperties""#;
    let there = r"/srv/b /srv/b\Apps /srv/b\Logs \\a\Share";
    assert_eq!(passive.value("QSR", sql), there);

    // Rounds of change and delta: only the tables that differ are loaded.
    let delta: Vec<&str> = [&skip[..], &["--delta", "--delete"]].concat();
    for round in 0..3 {
        active.cluster.sql(
            &active.database("QSR"),
            &format!(r#"INSERT INTO "Users" ("App", "Name") VALUES (md5('3')::uuid, 'round {round}'); DELETE FROM "Users" WHERE "ID" = {round} + 10;
                REFRESH MATERIALIZED VIEW counted"#),
        );
        fs::write(active.path(&format!("share/Apps/round-{round}")), "new").unwrap();
        fs::remove_file(active.path(&format!("share/Apps/folder 0/app-{}", round * 3))).unwrap();
        fs::write(passive.path("share/keep.tmp"), "left out of backups").unwrap();
        backup(&place, &file_active, "round");
        let done = restore(&place, "round", &file, &delta).expect(0);
        let summary = done.summary();
        assert_eq!(
            databases(&summary),
            pairs(&[("QSR", "refilled"), ("Services", "unchanged")]),
            "{summary}"
        );
        // Users, and the two that were relocated.
        assert_eq!(summary["databases"][0]["tables"], 3);
        assert_eq!(summary["trees"][0]["removed"], 1, "{summary}");
        assert!(passive.path("share/keep.tmp").exists());
        fs::remove_file(passive.path("share/keep.tmp")).unwrap();
        assert_eq!(passive.value("QSR", sql), there);
        let name = r#"SELECT "Name" FROM "Apps" WHERE "ID" = md5('7')::uuid"#;
        assert_eq!(passive.value("QSR", name), "App 7 at b");
        let users = r#"SELECT md5(string_agg(u::text, ',' ORDER BY u::text)) || (SELECT number FROM counted) || (SELECT last_value FROM "Users_ID_seq") FROM "Users" u"#;
        assert_eq!(passive.value("QSR", users), active.value("QSR", users));
        let shares = |site: &Site<'_>| {
            let mut files = site.files();
            files.retain(|(path, _)| path.starts_with("share"));
            files
        };
        assert_eq!(shares(&passive), shares(&active));
    }
    // Definitions that differ need a whole database.
    cluster.sql(
        &active.database("Services"),
        "CREATE INDEX ON settings (value)",
    );
    backup(&place, &file_active, "round");
    let summary = restore(&place, "round", &file, &delta).expect(0).summary();
    assert_eq!(databases(&summary)[1].1, "replaced");
    assert_eq!(
        summary["databases"][1]["why_whole"],
        "its definitions differ"
    );
    // `round` is the newest of that name; the older ones stay.
    let all = place.run(["snapshots", "--json"]).expect(0);
    let older = all.messages("snapshot");
    // Safety backups of one second share a name as well.
    let older = older
        .iter()
        .filter(|s| s["name"] == "round" && s["superseded"] == true)
        .count();
    assert_eq!(older, 3);

    // A relocation that matches nothing changes nothing.
    let sums = passive.value(
        "QSR",
        r#"SELECT string_agg("Name", ',' ORDER BY "Name") FROM "Users""#,
    );
    let wrong = relocate.replace("App 7\"", "No such app\"");
    let service = passive.quiesce();
    let file = passive.file(&format!("{service}{wrong}"));
    passive.start_service();
    for more in [&skip[..], &delta[..]] {
        restore(&place, "one", &file, more)
            .expect(1)
            .says("matched no row")
            .says("nothing of the site was changed, and it was started again");
        assert_eq!(passive.value("QSR", sql), there);
    }
    assert_eq!(passive.log(), "stop\nstart\nstop\nstart\n");
    let again = passive.value(
        "QSR",
        r#"SELECT string_agg("Name", ',' ORDER BY "Name") FROM "Users""#,
    );
    assert_eq!(again, sums);
    let left = "SELECT string_agg(datname, ' ') FROM pg_database WHERE datname LIKE '%holdfast%'";
    let mut session = cluster.session("postgres");
    let left: Option<String> = session.query_one(left, &[]).unwrap().get(0);
    assert_eq!(left, None);
    let file = passive.file(&format!(
        "{service}{}",
        relocate.replace("\\\\a\\share", "/elsewhere")
    ));
    restore(&place, "one", &file, &skip)
        .expect(1)
        .says("no value begins with \"/elsewhere\"");
}

#[test]
fn a_failure_before_the_change_leaves_the_site() {
    let place = Place::small();
    let cluster = Cluster::start_with(&ClusterOptions {
        tcp: true,
        hba: vec![
            "local all all trust".into(),
            "host all all 127.0.0.1/32 scram-sha-256".into(),
        ],
        ..ClusterOptions::default()
    });
    cluster.sql("postgres", "ALTER ROLE postgres PASSWORD 'right'");
    let site = Site::new(&place, &cluster, "prod");
    site.fill();
    let file = site.file("");
    backup(&place, &file, "nightly");
    let file = site.file(&site.quiesce());
    site.start_service();
    let (sums, files) = (site.sums(), site.files());
    let unchanged = |log: &str| {
        assert_eq!((site.sums(), site.files()), (sums.clone(), files.clone()));
        assert_eq!(site.log(), log);
        assert!(site.runs());
    };
    let text = fs::read_to_string(&file).unwrap();
    let with = |from: &str, to: &str| {
        assert!(text.contains(from), "{from} in {text}");
        fs::write(&file, text.replace(from, to)).unwrap();
        restore(&place, "nightly", &file, &["--yes"])
    };
    let socket = format!("host={}", cluster.socket_folder().display());
    let tcp = format!("host=127.0.0.1 port={} password=wrong-one", cluster.port);
    let port = format!("port={}", cluster.port);
    with(&format!("{socket} {port}"), &tcp)
        .expect(1)
        .says("password authentication failed")
        .in_one_line();
    let nowhere = socket.replace("hf-pg-", "no-pg-");
    with(&socket, &nowhere).expect(1).says("cannot connect");
    unchanged("");
    with("name = \"Services\"", "name = \"Others\"")
        .expect(1)
        .says("databases/Services of the snapshot has no place")
        .in_one_line();
    unchanged("");
    // The target is too small.
    let small = place.path("small");
    fs::create_dir(&small).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "none"])
        .arg(&small)
        .output();
    if mounted.is_ok_and(|output| output.status.success()) {
        let share = site.path("share").display().to_string();
        let outcome = with(&share, small.to_str().unwrap());
        Command::new("umount").arg(&small).output().unwrap();
        outcome.expect(1).says("MB free").in_one_line();
        unchanged("");
    }
    // A stop command that fails; what it stopped is started.
    with("rm ", "echo no way; exit 5; rm ")
        .expect(1)
        .says("no way")
        .says("started again");
    unchanged("stop\nstart\n");
    // Somebody is there, although the site is stopped.
    fs::write(&file, &text).unwrap();
    let mut session = cluster.session(&site.database("QSR"));
    session
        .batch_execute("SET application_name = 'night shift'")
        .unwrap();
    restore(&place, "nightly", &file, &["--yes"])
        .expect(1)
        .says("night shift")
        .says("started again");
    session.ping().unwrap();
    unchanged("stop\nstart\nstop\nstart\n");
    // Without stop commands it is refused at once.
    fs::write(&file, text.replace(&site.quiesce(), "")).unwrap();
    restore(&place, "nightly", &file, &["--yes"])
        .expect(1)
        .says("night shift")
        .says("--end-sessions")
        .in_one_line();
    restore(&place, "nightly", &file, &["--yes", "--end-sessions"]).expect(0);
    assert!(session.ping().is_err());
    // A start command that fails is shouted about.
    fs::write(
        &file,
        text.replace("setsid sleep", "echo broken; exit 3; setsid sleep"),
    )
    .unwrap();
    let outcome = restore(&place, "nightly", &file, &["--yes"]).expect(1);
    let problems = outcome.summary()["problems"].to_string();
    assert!(problems.contains("broken"), "{problems}");
    assert_eq!((site.sums(), site.files()), (sums, files));
}

#[test]
fn a_killed_restore_is_gone_on_with() {
    let (place, cluster) = (Place::small(), Cluster::start());
    let site = Site::new(&place, &cluster, "prod");
    site.fill();
    backup(&place, &site.file(""), "nightly");
    let (sums, files) = (site.sums(), site.files());
    site.destroy();
    site.start_service();
    let (go, waits) = (site.path("go"), site.path("waits"));
    let post = format!(
        "[restore]\npost-commands = [\"test -e {go} || {{ touch {waits}; exec sleep 600; }}\"]\n",
        go = go.display(),
        waits = waits.display()
    );
    let file = site.file(&format!("{}{post}", site.quiesce()));
    let args = ["restore", "nightly", "--yes", "--json", "--site"];
    let mut command = place.command(args);
    let mut child = command.arg(&file).spawn().unwrap();
    let begun = Instant::now();
    while !waits.exists() {
        assert!(begun.elapsed() < PATIENCE && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What was stopped stays so until the restore has come to its end: no guardian and no backup starts it.
    std::thread::sleep(Duration::from_secs(1));
    let site_file = file.to_str().unwrap();
    place
        .run(["backup", "--site", site_file, "--name", "in-between"])
        .expect(1)
        .says("is stopped: the restore of snapshot");
    assert_eq!(site.log(), "stop\n");
    fs::write(&go, "").unwrap();
    let plan = restore(&place, "nightly", &file, &["--dry-run"]).expect(0);
    let plan = &plan.messages("plan")[0];
    assert_eq!(plan["databases"][0]["done"], true, "{plan}");
    let done = restore(&place, "nightly", &file, &["--yes"]).expect(0);
    let summary = done.summary();
    assert_eq!(
        databases(&summary),
        pairs(&[("QSR", "done_before"), ("Services", "done_before")])
    );
    assert_eq!(summary["trees"][0]["done_before"], true);
    assert_eq!((site.sums(), site.files()), (sums, files));
    assert!(site.runs());
    let plan = restore(&place, "nightly", &file, &["--dry-run"]).expect(0);
    assert_eq!(plan.messages("plan")[0]["databases"][0]["done"], false);

    // A command that fails after the change: nothing is started, and the message says what to type.
    fs::write(
        &file,
        fs::read_to_string(&file)
            .unwrap()
            .replace("post-commands = [", "post-commands = [\"exit 9\", "),
    )
    .unwrap();
    restore(&place, "nightly", &file, &["--yes"])
        .expect(1)
        .says("status 9")
        .says("it was not started")
        .says("holdfast restore before-restore-prod-")
        .says("holdfast site start");
    assert!(!site.runs());
    place
        .run(["site", "start", "--site", file.to_str().unwrap()])
        .expect(0);
    assert!(site.runs());

    // Killed before anything was changed, the guardian starts the site.
    let mut session = cluster.session(&site.database("QSR"));
    let stops = site.log().matches("stop").count();
    let mut command = place.command(args);
    let mut child = command.arg(&file).spawn().unwrap();
    let begun = Instant::now();
    while site.log().matches("stop").count() == stops {
        assert!(begun.elapsed() < PATIENCE && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    while !site.runs() {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
    session.ping().unwrap();
}
