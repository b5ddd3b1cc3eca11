//! A stand-in of a Qlik Sense site from real parts, and its site file: the profile as it is printed, with names, passwords and paths filled in.
//!
//! Five databases with names in mixed case on port 4432, a share whose folders the repository database names, certificates from openssl,
//! services behind `ssh` of which one works in the database. Backed up at night, lost altogether, restored; and restored at another place.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::pg_cluster::{Cluster, ClusterOptions, free_port, quick, settings};
use crate::place::{Outcome, Place, Running, files_below, noise, seen};
use crate::services::{Services, until};
use holdfast::source::postgres::Connector;

/// The port of Qlik's own database server.
const PORT: u16 = 4432;
const DATABASES: [&str; 5] = ["QSR", "SenseServices", "QSMQ", "Licenses", "QLogs"];
const SERVICES: [&str; 6] = [
    "QlikSenseServiceDispatcher",
    "QlikSenseRepositoryService",
    "QlikSensePrintingService",
    "QlikSenseSchedulerService",
    "QlikSenseEngineService",
    "QlikSenseProxyService",
];
const SHARES: [&str; 4] = ["Apps", "StaticContent", "ArchivedLogs", "CustomData"];
/// `ssh -F FILE central COMMAND`: what the script on the node does, and what else it is asked.
const SSH: &str = r#"#!/bin/sh
test "$1" = -F && shift 2
shift
case $* in
*qlik-node.ps1\ stop)
    for name in Proxy Engine Scheduler Printing Repository; do
        sh $HERE/service stop QlikSense${name}Service || exit
    done
    sh $HERE/service stop QlikSenseServiceDispatcher || exit
    ;;
*qlik-node.ps1\ start)
    sh $HERE/service start QlikSenseServiceDispatcher || exit
    for name in Repository Printing Scheduler Engine Proxy; do
        sh $HERE/service start QlikSense${name}Service || exit
    done
    ;;
*qlik-node.ps1\ save) ;;
*) echo "$*" >> $HERE/log ;;
esac
exit 0
"#;
/// `scp … central:FOLDER FOLDER`: what the script has saved on the node; on a bare machine it is not there yet.
const SCP: &str = r#"#!/bin/sh
for to in "$@"; do :; done
test -e $HERE/../node || exit 0
cp -rpT $HERE/../node "$to/saved"
"#;
const PASSWORD: &str = "Sup3r secret";
/// What the vendor's scripts leave out, and so does the profile.
const LEFT_OUT: [&str; 5] = [
    "StaticContent/TempContent",
    "StaticContent/Transaction Logs",
    "StaticContent/DefaultExtensionTemplates",
    "StaticContent/DefaultApps",
    "CustomData/connector.log",
];

const QSR: &str = r#"
CREATE TABLE "Apps" ("ID" uuid PRIMARY KEY, "Name" text NOT NULL, "FileSize" bigint, "ModifiedDate" timestamptz DEFAULT '2026-11-01Z');
CREATE TABLE "Users" ("ID" serial PRIMARY KEY, "UserDirectory" varchar(80), "UserId" varchar(80), "Roles" jsonb, UNIQUE ("UserDirectory", "UserId"));
CREATE TABLE "AppObjects" ("ID" uuid PRIMARY KEY, "App_ID" uuid REFERENCES "Apps" ON DELETE CASCADE, "Content" bytea);
CREATE TABLE "DataConnections" ("ID" uuid PRIMARY KEY, "Connectionstring" text, "Password" bytea);
CREATE TABLE "LocalConfigs" ("ID" int PRIMARY KEY, "HostName" text);
CREATE TABLE "ServerNodeConfigurations" ("ID" int PRIMARY KEY, "Name" text, "HostName" text, "IsCentral" boolean);
CREATE TABLE "ServiceClusterSettingsSharedPersistenceProperties" ("ID" uuid PRIMARY KEY, "RootFolder" text, "AppFolder" text,
    "StaticContentRootFolder" text, "Connector32RootFolder" text, "Connector64RootFolder" text, "ArchivedLogsRootFolder" text);
INSERT INTO "Apps" SELECT md5('app ' || n)::uuid, 'Sales ' || n, n * 1000 FROM generate_series(1, 40) n;
INSERT INTO "Users" ("UserDirectory", "UserId", "Roles") SELECT 'COMPANY', 'user' || n, jsonb_build_array('r' || n % 7) FROM generate_series(1, 2000) n;
INSERT INTO "AppObjects" SELECT md5('object ' || n)::uuid, md5('app ' || (n % 40 + 1))::uuid, decode(repeat(md5(n::text), 20), 'hex') FROM generate_series(1, 3000) n;
INSERT INTO "DataConnections" SELECT md5('c ' || n)::uuid, 'lib://warehouse' || n, decode(md5('p' || n), 'hex') FROM generate_series(1, 30) n;
INSERT INTO "LocalConfigs" VALUES (1, 'central.example');
INSERT INTO "ServerNodeConfigurations" VALUES (1, 'Central', 'CENTRAL.example', true), (2, 'Rim', 'rim.example', false);
INSERT INTO "ServiceClusterSettingsSharedPersistenceProperties" VALUES (md5('cluster')::uuid, '\\server\QlikShare', '\\server\QlikShare\Apps',
    '\\server\QlikShare\StaticContent', '\\server\QlikShare\CustomData', '\\server\QlikShare\CustomData', '\\server\QlikShare\ArchivedLogs');
SELECT lo_from_bytea(0, decode(repeat(md5('thumbnail'), 1000), 'hex'));
SELECT lo_from_bytea(0, 'a large object');
"#;
const OTHERS: [(&str, &str); 4] = [
    (
        "SenseServices",
        r#"CREATE SCHEMA "precedents_service"; CREATE TABLE "precedents_service"."Metrics" ("Id" serial PRIMARY KEY, "Value" double precision);
           INSERT INTO "precedents_service"."Metrics" ("Value") SELECT n / 7.0 FROM generate_series(1, 500) n;
           CREATE VIEW "precedents_service"."Latest" AS SELECT max("Id") FROM "precedents_service"."Metrics""#,
    ),
    (
        "QSMQ",
        r#"CREATE TABLE "Messages" ("Id" bigserial PRIMARY KEY, "Topic" text, "Body" bytea);
           INSERT INTO "Messages" ("Topic", "Body") SELECT 't' || n % 3, decode(md5(n::text), 'hex') FROM generate_series(1, 300) n"#,
    ),
    (
        "Licenses",
        r#"CREATE TYPE "Kind" AS ENUM ('professional', 'analyzer');
           CREATE TABLE "Assignments" ("User" text PRIMARY KEY, "Type" "Kind" NOT NULL);
           INSERT INTO "Assignments" SELECT 'user' || n, (ARRAY['professional', 'analyzer']::"Kind"[])[n % 2 + 1] FROM generate_series(1, 90) n"#,
    ),
    (
        "QLogs",
        r#"CREATE TABLE log_entries (id bigserial PRIMARY KEY, entry_timestamp timestamptz, level text, payload jsonb);
           INSERT INTO log_entries (entry_timestamp, level, payload)
           SELECT '2026-11-01Z'::timestamptz + n * interval '1 minute', 'INFO', jsonb_build_object('n', n, 'text', md5(n::text)) FROM generate_series(1, 5000) n;
           CREATE INDEX ON log_entries (entry_timestamp);
           CREATE FUNCTION archive_entries(days int) RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM log_entries WHERE entry_timestamp < now() - days * interval ''1 day'''"#,
    ),
];

/// A site below a folder of a test's place.
struct Site<'a> {
    place: &'a Place,
    name: &'static str,
    port: u16,
    cluster: Cluster,
    services: Services,
}

impl<'a> Site<'a> {
    /// The machine: a database server without databases, and services that are down.
    fn machine(place: &'a Place, name: &'static str, port: u16) -> Self {
        let folder = place.path(name);
        fs::create_dir_all(folder.join("admin")).unwrap();
        let site = Self {
            place,
            name,
            port,
            cluster: server(port),
            services: Services::install(&folder.join("services")),
        };
        site.administer();
        site.services.program("bin/ssh", SSH);
        site.services.program("bin/scp", SCP);
        fs::create_dir_all(site.path("var/lib/holdfast/nodes/central")).unwrap();
        // A mount needs rights that a test may not have.
        site.services
            .program("bin/mountpoint", "#!/bin/sh\ntest -d \"$2\"\n");
        fs::create_dir_all(site.path("mnt")).unwrap();
        let psql = site.cluster.program("psql").display().to_string();
        // The repository service works in its database, and can't start without it.
        site.services.program(
            "do-QlikSenseRepositoryService",
            &format!(
                "export PGPASSWORD=repository\nset -- -c '\\! touch $HERE/ready-QlikSenseRepositoryService'\n\
                 if test -e $HERE/locks; then\n\
                 set -- -c 'BEGIN' -c 'LOCK TABLE \"Users\"' \"$@\" -c '\\! while test -e $HERE/locks; do sleep 0.05; done' -c 'COMMIT'\nfi\n\
                 test -p $HERE/fifo || mkfifo $HERE/fifo\n\
                 exec {psql} -X 'host=localhost port={port} user=qliksenserepository dbname=QSR application_name=QlikSenseRepositoryService' \"$@\" -f - 0<>$HERE/fifo\n",
            ),
        );
        // A session that has no client any more ends a moment later.
        site.services.program(
            "after-QlikSenseRepositoryService",
            &format!(
                "export PGPASSWORD='{PASSWORD}'\nn=1\nwhile test \"$n\" = 1; do\n\
                 n=$({psql} -XAtc \"SELECT 1 FROM pg_stat_activity WHERE usename = 'qliksenserepository' LIMIT 1\" \
                 'host=localhost port={port} user=postgres dbname=postgres')\ndone\nexit 0\n"
            ),
        );
        site
    }

    /// A whole site that is up.
    fn new(place: &'a Place, name: &'static str, port: u16) -> Self {
        let site = Self::machine(place, name, port);
        site.fill_databases();
        site.fill_share();
        site.make_certificates();
        for (file, text) in [
            ("node/settings/postgresql.conf", "port = 4432\n"),
            (
                "node/settings/pg_hba.conf",
                "hostssl all all all scram-sha-256\n",
            ),
            ("mnt/Ancillary/drivers/driver.ini", "[driver]\n"),
            ("node/settings/Host.cfg", "cWxpay1jZW50cmFs\n"),
        ] {
            site.write(file, text.as_bytes());
        }
        site.services.start(&SERVICES);
        site
    }

    /// What the administrator keeps elsewhere: the key of the repository and passwords.
    fn administer(&self) {
        self.place
            .write_key(&format!("{}/admin/key", self.name), [9; 32]);
        let pgpass = format!("localhost:{}:*:postgres:{PASSWORD}\n", self.port);
        for (name, text) in [("pgpass", pgpass.as_str()), ("pfx-password", "QlikSense\n")] {
            let path = self.path("admin").join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path(self.name).join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn fill_databases(&self) {
        self.cluster.sql(
            "postgres",
            "CREATE ROLE qliksenserepository LOGIN PASSWORD 'repository'; CREATE ROLE qliksenserepository_readonly",
        );
        for (name, sql) in OTHERS.iter().chain([&("QSR", QSR)]) {
            self.cluster.sql(
                "postgres",
                &format!("CREATE DATABASE \"{name}\" OWNER qliksenserepository"),
            );
            self.cluster
                .sql(name, &format!("SET ROLE qliksenserepository; {sql}"));
        }
        self.cluster.sql(
            "QLogs",
            "GRANT SELECT ON log_entries TO qliksenserepository_readonly",
        );
    }

    fn fill_share(&self) {
        let apps = r#"SELECT "ID" FROM "Apps" ORDER BY "Name""#;
        for (n, id) in (0_u64..).zip(texts(&self.cluster, "QSR", apps)) {
            // One app has lost its file.
            if n > 0 {
                self.write(
                    &format!("mnt/Apps/{}", id.to_uppercase()),
                    &noise(n, 30_000),
                );
            }
        }
        self.write("mnt/Apps/left-over", b"a file without a row");
        for n in 0..300 {
            let text = format!("define([], function() {{ return {n}; }});\n");
            self.write(
                &format!("mnt/StaticContent/Extensions/ext {}/file-{n}.js", n % 9),
                text.repeat(n).as_bytes(),
            );
        }
        self.write("mnt/StaticContent/AppContent/ü.png", &noise(7, 5000));
        self.write(
            "mnt/ArchivedLogs/central/Engine.txt",
            "a line of a log\n".repeat(20_000).as_bytes(),
        );
        self.write("mnt/CustomData/64bit/qvOdbc/config.xml", b"<odbc/>");
        for name in LEFT_OUT {
            let name = format!("mnt/{name}");
            match name.ends_with(".log") {
                true => self.write(&name, b"left out"),
                false => self.write(&format!("{name}/left-out"), b"left out"),
            }
        }
    }

    /// Root, server and client, as PEM files and as the exported PFX files.
    fn make_certificates(&self) {
        let folder = self.path("node/certificates");
        fs::create_dir_all(&folder).unwrap();
        let openssl = |arguments: &str| {
            let arguments = arguments.split(' ');
            let output = Command::new("openssl")
                .args(arguments)
                .current_dir(&folder)
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        openssl(&format!(
            "req -x509 -days 3650 {key} -keyout root_key.pem -out root.pem -subj /CN=qlik-central-CA"
        ));
        for name in ["server", "client"] {
            openssl(&format!(
                "req {key} -keyout {name}_key.pem -out {name}.csr -subj /CN=qlik-{name}"
            ));
            openssl(&format!(
                "x509 -req -in {name}.csr -CA root.pem -CAkey root_key.pem -CAcreateserial -days 3650 -out {name}.pem"
            ));
        }
        for name in ["root", "server", "client"] {
            openssl(&format!(
                "pkcs12 -export -in {name}.pem -inkey {name}_key.pem -out {name}.pfx -passout pass:QlikSense"
            ));
            fs::remove_file(folder.join(format!("{name}.csr"))).ok();
        }
    }

    /// The profile with names and paths filled in; `more` goes the same way.
    fn site_file(&self, more: &[(&str, &str)]) -> String {
        let text = self
            .place
            .run(["site", "new", "--profile", "qlik-sense"])
            .expect(0)
            .stdout;
        let path = |name: &str| self.path(name).display().to_string();
        let name = format!("name = \"{}\"", self.name);
        let repository = self.place.repository_path().display().to_string();
        let mut filled = text;
        for (from, to) in [
            ("name = \"qlik-sense\"", name.as_str()),
            ("/srv/backup/qlik-sense", &repository),
            ("/etc/holdfast/", &format!("{}/", path("admin"))),
            ("/mnt/qlik", &path("mnt")),
            ("/var/lib/holdfast", &path("var/lib/holdfast")),
            (
                "host=central.example port=4432",
                &format!("host=localhost port={}", self.port),
            ),
            ("20 GiB", "64 MiB"),
            ("# password-file", "password-file"),
            ("# post-commands", "post-commands"),
        ]
        .iter()
        .chain(more)
        {
            assert!(filled.contains(from), "{from} in {filled}");
            filled = filled.replace(from, to);
        }
        let file = self.path("site.toml");
        fs::write(&file, filled).unwrap();
        file.display().to_string()
    }

    fn run(&self, args: &[&str]) -> Outcome {
        self.services.run(self.place, args)
    }

    /// Tables with owner, number and digest of their rows, sequences, large objects: everything but definitions.
    fn contents(&self) -> BTreeMap<String, Vec<String>> {
        let of = |name: &&str| ((*name).to_owned(), contents(&self.cluster, name));
        DATABASES.iter().map(of).collect()
    }

    /// All that can be seen of the four folders of the share, without what is left out.
    fn shares(&self) -> BTreeMap<PathBuf, String> {
        let mut all = BTreeMap::new();
        for share in SHARES {
            for (path, facts) in seen(&self.path("mnt").join(share)) {
                all.insert(Path::new(share).join(path), facts);
            }
        }
        all.retain(|path, _| !LEFT_OUT.iter().any(|left| path.starts_with(left)));
        all
    }

    /// Certificates, and what else belongs to the customer.
    fn lists(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let tops = ["var/lib/holdfast/nodes", "mnt/Ancillary"].map(|top| self.path(top));
        let files = tops.iter().flat_map(|top| files_below(top));
        files
            .map(|file| (file.clone(), fs::read(file).unwrap()))
            .collect()
    }

    /// Nothing is left but what the administrator keeps elsewhere.
    fn lose_everything(self) -> Self {
        let Self {
            place,
            name,
            port,
            cluster,
            services,
        } = self;
        services.kill();
        drop((cluster, services));
        fs::remove_dir_all(place.path(name)).unwrap();
        // What holdfast knew of this host.
        fs::remove_dir_all(place.path("home")).unwrap();
        fs::create_dir(place.path("home")).unwrap();
        Self::machine(place, name, port)
    }
}

fn server(port: u16) -> Cluster {
    let cluster = Cluster::start_with(&ClusterOptions {
        tcp: true,
        port: Some(port),
        hba: vec![
            "local all all trust".into(),
            "host all all 127.0.0.1/32 scram-sha-256".into(),
        ],
        ..ClusterOptions::default()
    });
    cluster.sql(
        "postgres",
        &format!("ALTER ROLE postgres PASSWORD '{PASSWORD}'"),
    );
    cluster
}

fn texts(cluster: &Cluster, database: &str, sql: &str) -> Vec<String> {
    let values = cluster.session(database).simple_column(sql).unwrap();
    values.into_iter().map(Option::unwrap_or_default).collect()
}

fn contents(cluster: &Cluster, database: &str) -> Vec<String> {
    let relations = "SELECT CASE relkind WHEN 'S' THEN format('SELECT %L || last_value || is_called FROM %s', c.oid::regclass::text || ' ', c.oid::regclass) \
        ELSE format('SELECT %L || count(*) || coalesce(md5(string_agg(t::text, chr(10) ORDER BY t::text)), '''') FROM %s t', c.oid::regclass::text || ' ' || relowner::regrole || ' ', c.oid::regclass) END \
        FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind IN ('r', 'p', 'v', 'm', 'S') AND nspname !~ '^(pg_|information_schema)' ORDER BY 1";
    let mut all = Vec::new();
    for sql in texts(cluster, database, relations) {
        all.extend(texts(cluster, database, &sql));
    }
    let large = "SELECT oid || ' ' || lomowner::regrole || ' ' || md5(lo_get(oid)) FROM pg_largeobject_metadata ORDER BY oid";
    all.extend(texts(cluster, database, large));
    assert!(!all.is_empty(), "{database}");
    all
}

#[test]
fn a_night_and_a_disaster() {
    let place = Place::small();
    let free = TcpListener::bind(("127.0.0.1", PORT)).is_ok();
    let site = Site::new(&place, "qlik-prod", if free { PORT } else { free_port() });
    let file = site.site_file(&[]);
    // The night, in one command. When the repository service starts it keeps a table to itself, as one that is migrated: the rows of that
    // table can be read only when the services are up again.
    let locks = site.services.path("locks");
    fs::write(&locks, "").unwrap();
    let args = ["backup", "--site", &file, "--name", "nightly", "--json"];
    let mut night = Running::start(site.services.command(&place, &args));
    let up = || SERVICES.iter().all(|name| site.services.is_up(name));
    let log = site.services.path("log");
    assert!(night.until(|| {
        fs::read_to_string(&log).is_ok_and(|log| log.contains("start QlikSenseProxyService"))
            && up()
    }));
    assert!(!night.has_ended(), "databases are still read");
    fs::remove_file(&locks).unwrap();
    let night = night.wait().expect(0);
    let mut stops: Vec<String> = ["Proxy", "Engine", "Scheduler", "Printing", "Repository"]
        .map(|name| format!("stop QlikSense{name}Service"))
        .into();
    stops.push("stop QlikSenseServiceDispatcher".into());
    let starts: Vec<String> = SERVICES.map(|name| format!("start {name}")).into();
    assert_eq!(site.services.take_log(), [&stops[..], &starts].concat());
    site.services.assert_up(&SERVICES);

    site.run(&["site", "check", "--site", &file]).expect(0);
    // What the record says of it.
    let summary = night.summary();
    let (window, all) = (
        summary["window"]["seconds"].as_f64(),
        summary["seconds"].as_f64(),
    );
    println!("down for {window:?} s of a run of {all:?} s");
    assert!(window > Some(0.0) && window < all, "{summary}");
    let components = night.messages("component");
    for component in components
        .iter()
        .filter(|component| component["kind"] != "site")
    {
        let of_site = component["kind"] != "clusters";
        assert_eq!(component["state"], "complete", "{component}");
        assert!(!of_site || component["quiet"] == true, "{component}");
    }
    assert_eq!(summary["tables"], 11, "{summary}");
    let references = night.messages("reference");
    for (field, number) in [
        ("rows", 40),
        ("files", 40),
        ("rows_without_file", 1),
        ("files_without_row", 1),
    ] {
        assert_eq!(references[0][field], number, "{references:?}");
    }
    let long = site.run(&["snapshots", "--long"]).expect(0).stdout;
    assert!(
        long.contains("stopped for") && !long.contains("NOT at rest"),
        "{long}"
    );
    let list = site.run(&["ls", "-R", "nightly:shares"]).expect(0).stdout;
    assert!(list.contains("file-299.js"), "{list}");
    assert!(LEFT_OUT.iter().all(|name| !list.contains(name)), "{list}");

    // The disaster, and the bare machine.
    let (contents, shares, lists) = (site.contents(), site.shares(), site.lists());
    assert_eq!(lists.len(), 14, "{:?}", lists.keys());
    let text = fs::read_to_string(&file).unwrap();
    let site = site.lose_everything();
    assert!(seen(&site.path("mnt")).len() == 1);
    site.run(&["site", "extract", "latest", "-o", &file])
        .expect(0);
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    let plan = site
        .run(&["restore", "latest", "--site", &file, "--dry-run"])
        .expect(0);
    assert!(
        plan.stdout.contains("where its database says"),
        "{}",
        plan.stdout
    );
    let done = site
        .run(&["restore", "latest", "--site", &file, "--yes", "--json"])
        .expect(0);
    site.services.assert_up(&SERVICES);
    let bootstrap =
        "powershell -NoProfile -ExecutionPolicy Bypass -File C:/holdfast/qlik-node.ps1 bootstrap";
    assert_eq!(
        site.services.take_log(),
        [&stops[..], &[bootstrap.to_owned()], &starts].concat()
    );
    assert_eq!(site.contents(), contents);
    assert_eq!(site.shares(), shares);
    assert_eq!(site.lists(), lists);
    let summary = done.summary();
    assert_eq!(summary["queries"][0]["rows"][0][0], "40", "{summary}");
    // The role came with its password.
    let login = settings(&format!(
        "host=127.0.0.1 port={} user=qliksenserepository password=repository dbname=QLogs",
        site.port
    ));
    Connector::new(login)
        .connect(&quick())
        .expect("the role logs in");

    // By digests: nothing differs from the night before.
    site.run(&["backup", "--site", &file, "--name", "after"])
        .expect(0);
    let diff = site.run(&["diff", "nightly", "after"]).expect(0).stdout;
    // The new server's own superuser has a password of its own.
    let changed =
        |line: &&str| line.starts_with(['+', '-', 'M', 'T']) && !line.contains("globals.sql");
    let lines: Vec<&str> = diff.lines().filter(changed).collect();
    assert!(lines.is_empty(), "{diff}");
    site.run(&["verify", "--end-to-end", "--site", &file])
        .expect(0);
    site.run(&["drill", "nightly", "--site", &file]).expect(0);
    let status = site
        .run(&["status", "--monitor", "--site", &file])
        .expect(1)
        .stdout;
    let warning = "HOLDFAST WARNING - qlik-prod: reference apps: 1 rows without a file, 1 files without a row |";
    assert!(status.starts_with(warning), "{status}");
    // In a pinch: nothing is stopped, and the record says so of each part.
    site.services.take_log();
    let pinch = ["backup", "--site", &file, "--no-stop", "--name", "pinch"];
    let pinch = site.run(&pinch).expect(0).stdout;
    assert!(site.services.take_log().is_empty());
    assert!(
        pinch.contains("the site was not stopped, as asked"),
        "{pinch}"
    );
    assert!(pinch.contains("NOT read at rest: "), "{pinch}");
    let record = &place.snapshots().pop().unwrap().record;
    let loud = record.components.iter().filter(|c| c.quiet == Some(false));
    assert_eq!(loud.count(), DATABASES.len() + SHARES.len() + 2);
    // The tree that is looked through every month.
    let dated = site.path("dated").display().to_string();
    site.run(&["export", "nightly", "--format", "dated", "-o", &dated])
        .expect(0);
    let day = fs::read_dir(&dated)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    for name in ["QlikShare/Apps", "Certificates", "Database"] {
        assert!(
            fs::read_dir(day.join(name)).unwrap().next().is_some(),
            "{name}"
        );
    }
}

#[test]
fn the_site_at_another_place() {
    let place = Place::small();
    let site = Site::new(&place, "qlik-a", free_port());
    let file = site.site_file(&[]);
    site.run(&["backup", "--site", &file, "--name", "nightly"])
        .expect(0);
    let other = Site::machine(&place, "qlik-b", free_port());
    let relocate = |line: &str| (format!("# {line}"), line.to_owned());
    let lines = ["[relocate]", "database = \"QSR\"", "paths = ", "hosts = "].map(relocate);
    let mut more = vec![(r"map = [{ from = '\\server", r"map = [{ from = '\\SERVER-B")];
    more.extend(lines.iter().map(|(from, to)| (from.as_str(), to.as_str())));
    let file_b = other.site_file(&more);
    // Lists of files and certificates go to their absolute paths, which on this machine are those of the first site.
    let args = ["restore", "nightly", "--site", &file_b, "--yes", "--json"];
    let done = other.run(&args).expect(0).summary();
    other.services.assert_up(&SERVICES);
    site.services.assert_up(&SERVICES);
    let folders = r#"SELECT concat_ws(' ', "RootFolder", "AppFolder", "StaticContentRootFolder", "Connector64RootFolder", "ArchivedLogsRootFolder")
        FROM "ServiceClusterSettingsSharedPersistenceProperties""#;
    let there = r"\\server-b\QlikShare ? ?\Apps ?\StaticContent ?\CustomData ?\ArchivedLogs"
        .replace("? ", "");
    let there = there.replace('?', r"\\server-b\QlikShare");
    assert_eq!(texts(&other.cluster, "QSR", folders), [there]);
    let hosts = r#"SELECT "HostName" FROM "LocalConfigs" UNION ALL SELECT "HostName" FROM "ServerNodeConfigurations" ORDER BY 1"#;
    let central = "central-b.example";
    assert_eq!(
        texts(&other.cluster, "QSR", hosts),
        [central, central, "rim.example"]
    );
    let relocated = &done["databases"][0]["relocated"];
    assert_eq!(
        relocated[0]["values"][0][1], r"\\server-b\QlikShare",
        "{relocated}"
    );
    // All else is as at the first site.
    let changed = ["\"ServiceCluster", "\"LocalConfigs\"", "\"ServerNode"];
    let alike = |site: &Site<'_>| {
        let mut contents = site.contents();
        contents
            .get_mut("QSR")
            .unwrap()
            .retain(|line| !changed.iter().any(|name| line.starts_with(name)));
        contents
    };
    assert_eq!(alike(&other), alike(&site));
    assert_eq!(other.shares(), site.shares());
    until("the services have their sessions", || {
        !texts(&other.cluster, "QSR", "SELECT pid FROM pg_stat_activity WHERE application_name = 'QlikSenseRepositoryService'").is_empty()
    });
    // Once more, only what differs.
    let done = other
        .run(&[
            "restore", "nightly", "--site", &file_b, "--yes", "--json", "--delta",
        ])
        .expect(0)
        .summary();
    let actions: Vec<&str> = done["databases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["action"].as_str().unwrap())
        .collect();
    assert_eq!(
        actions,
        [
            "refilled",
            "unchanged",
            "unchanged",
            "unchanged",
            "unchanged"
        ]
    );
    assert_eq!(alike(&other), alike(&site));
}
