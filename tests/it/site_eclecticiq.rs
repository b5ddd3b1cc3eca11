//! A stand-in of an EclecticIQ platform from real parts, and its site file: the profile as it is printed, with names and paths filled in.
//!
//! The intel database, configuration by the shipped list of which a host has a part, the snapshot folder of Elasticsearch, Redis with the
//! queues, units behind `systemctl`. What must hold before a backup is broken, one after the other.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::pg_cluster::Cluster;
use crate::place::{Outcome, Place, files_below, noise};
use crate::redis::Redis;
use crate::services::Services;

const UNITS: [&str; 2] = [
    "eclecticiq-platform-backend-workers",
    "eclecticiq-platform-backend-services",
];
const STOPPED: [&str; 2] = [
    "stop eclecticiq-platform-backend-services",
    "stop eclecticiq-platform-backend-workers",
];
const STARTED: [&str; 2] = [
    "start eclecticiq-platform-backend-workers",
    "start eclecticiq-platform-backend-services",
];

const PLATFORM: &str = "
CREATE TABLE blob (id serial PRIMARY KEY, processing_status text NOT NULL, content bytea);
CREATE TABLE entity (id uuid PRIMARY KEY, data jsonb, created timestamptz DEFAULT '2026-11-01Z');
CREATE INDEX ON entity USING gin (data);
INSERT INTO blob (processing_status, content)
SELECT CASE WHEN n % 400 = 0 THEN 'error' WHEN n % 7 = 0 THEN 'pending' ELSE 'success' END, decode(md5(n::text), 'hex') FROM generate_series(1, 1000) n;
INSERT INTO entity (id, data) SELECT md5(n::text)::uuid, jsonb_build_object('type', 'indicator', 'n', n) FROM generate_series(1, 2000) n;
SELECT lo_from_bytea(0, 'a report');
CREATE ROLE eclecticiq LOGIN;
ALTER TABLE blob OWNER TO eclecticiq;
";
const SUM: &str = "SELECT md5(string_agg(t, ',' ORDER BY t)) FROM (SELECT b::text AS t FROM blob b UNION ALL SELECT e::text FROM entity e
    UNION ALL SELECT last_value::text FROM blob_id_seq UNION ALL SELECT tableowner::text FROM pg_tables WHERE tablename = 'blob'
    UNION ALL SELECT encode(lo_get(oid), 'hex') FROM pg_largeobject_metadata) x";

/// `systemctl start|stop|is-active UNIT`, where a unit may be a pattern: as the real one does, it knows of those that are loaded only.
const SYSTEMCTL: &str = r#"#!/bin/sh
verb=$1
shift
test "$verb" = daemon-reload && exit 0
test "$1" = -- && shift
unit=${1%.service}
if test "$verb" != is-active; then
    case $unit in
    *\**) ;;
    *) exec sh $HERE/service $verb "$unit" ;;
    esac
    for pid in $HERE/run/$unit.pid; do
        name=${pid##*/}
        test -e "$pid" && { sh $HERE/service $verb "${name%.pid}" || exit; }
    done
    exit 0
fi
code=3
for pid in $HERE/run/$unit.pid; do
    test -e "$pid" && { echo active; code=0; }
done
case $code$unit in
*\**) ;;
3*) echo inactive ;;
esac
exit $code
"#;
/// Elasticsearch: its tasks, and a snapshot that is a file of its repository.
const CURL: &str = r#"#!/bin/sh
case "$*" in
*_tasks*) printf '{"nodes":{}}' ;;
*DELETE*) rm -f $HERE/../db-backup/elasticsearch/snap-* ;;
*PUT*wait_for_completion=true*)
    echo "index at $(cat $HERE/at)" > $HERE/../db-backup/elasticsearch/snap-1.dat
    echo '{"snapshot":{"state":"SUCCESS"}}'
    ;;
*) exit 22 ;;
esac
"#;

struct Site<'a> {
    place: &'a Place,
    cluster: Cluster,
    redis: Redis,
    services: Services,
}

impl<'a> Site<'a> {
    fn new(place: &'a Place) -> Self {
        let site = Self {
            place,
            cluster: Cluster::start(),
            redis: Redis::start(),
            services: Services::install(&place.path("services")),
        };
        site.cluster.sql("postgres", "CREATE DATABASE platform");
        site.cluster.sql("platform", PLATFORM);
        site.install_programs();
        site.write_configuration();
        fs::create_dir_all(site.path("db-backup/elasticsearch/indices")).unwrap();
        fs::write(
            site.path("db-backup/elasticsearch/indices/stix_v4"),
            noise(1, 50_000),
        )
        .unwrap();
        fs::create_dir_all(site.path("var/run/eclecticiq")).unwrap();
        site.services.start(&UNITS);
        site
    }

    fn install_programs(&self) {
        let program = |name: &str, text: &str| self.services.program(name, text);
        program("at", "Monday");
        program("bin/systemctl", SYSTEMCTL);
        program("bin/curl", CURL);
        program(
            "bin/ss",
            "#!/bin/sh\ncat $HERE/signed-in 2> /dev/null\nexit 0\n",
        );
        program("bin/logger", "#!/bin/sh\ncat > $HERE/told\n");
        program("bin/runuser", "#!/bin/sh\nshift 3\nexec \"$@\"\n");
        let bin = "../opt/eclecticiq-platform-backend/bin";
        program(
            &format!("{bin}/eiq-platform"),
            "#!/bin/sh\ntest -e \"$EIQ_PLATFORM_SETTINGS\" && echo \"$*\" >> $HERE/log\n",
        );
        program(
            &format!("{bin}/celery"),
            "#!/bin/sh\ntrap 'exit 0' TERM\nwhile :; do sleep 0.1; done\n",
        );
        program(
            &format!("do-{}", UNITS[0]),
            &format!(
                "echo $$ > $HERE/../var/run/eclecticiq/beat.pid\ntouch $HERE/ready-{}\nexec {}\n",
                UNITS[0],
                self.path("opt/eclecticiq-platform-backend/bin/celery")
                    .display()
            ),
        );
        program(
            &format!("after-{}", UNITS[0]),
            "test -e $HERE/leaves-its-pid-file || rm -f $HERE/../var/run/eclecticiq/beat.pid\n",
        );
    }

    /// Two of three files of the shipped list, below the place.
    fn write_configuration(&self) {
        let mut list = String::new();
        let shipped = include_str!("../../src/site/profiles/eclecticiq.list");
        for (n, line) in shipped.lines().enumerate() {
            if let Some(path) = line.strip_prefix('/') {
                list.push_str(&self.path("").display().to_string());
                if n % 3 != 0 {
                    let file = self.path(&path.replace('*', "11"));
                    fs::create_dir_all(file.parent().unwrap()).unwrap();
                    fs::write(file, format!("of {line}\n")).unwrap();
                }
            }
            list.push_str(line.trim_start_matches('/'));
            list.push('\n');
        }
        // Settings that the commands after a restore look for; patterns that match several.
        for file in [
            "etc/eclecticiq/platform_settings.py",
            "etc/eclecticiq-nginx/ssl/web.pem",
            "etc/default/eclecticiq-platform-backend-worker-common",
            "etc/default/eclecticiq-platform-backend-worker-discovery",
        ] {
            let file = self.path(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "settings\n").unwrap();
        }
        fs::create_dir_all(self.path("admin")).unwrap();
        fs::write(self.path("admin/config.list"), list).unwrap();
        fs::write(self.path("admin/pgpass"), "").unwrap();
        fs::set_permissions(self.path("admin/pgpass"), fs::Permissions::from_mode(0o600)).unwrap();
        self.place.write_key("admin/key", [9; 32]);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path(name)
    }

    /// The profile with names and paths filled in; `more` goes the same way.
    fn site_file(&self, more: &[(&str, &str)]) -> String {
        let profile = ["site", "new", "--profile", "eclecticiq"];
        let mut filled = self.place.run(profile).expect(0).stdout;
        let root = self.path("").display().to_string();
        let root = root.trim_end_matches('/');
        let below = |path: &str| format!("{root}{path}");
        let repository = self.place.repository_path().display().to_string();
        let socket = self.cluster.socket_folder().display();
        // Elasticsearch is taken in.
        let share = [
            "[[share]]",
            "name = \"elasticsearch\"",
            "path = \"/db-backup",
            "snapshot-create",
            "snapshot-path",
            "snapshot-remove",
        ];
        for line in share {
            assert!(filled.contains(&format!("# {line}")), "{line}");
            filled = filled.replace(&format!("# {line}"), line);
        }
        for (from, to) in [
            ("/srv/backup/eclecticiq", repository.as_str()),
            ("\"/etc/holdfast/", &format!("\"{}", below("/admin/"))),
            (
                "host=localhost port=5432",
                &format!("host={socket} port=5432"),
            ),
            (
                "\"builtin:eclecticiq\"]",
                &format!("\"{}\"]", below("/admin/config.list")),
            ),
            ("\"/etc/neo4j", &format!("\"{}", below("/etc/neo4j"))),
            (
                "\"/etc/eclecticiq-nginx",
                &format!("\"{}", below("/etc/eclecticiq-nginx")),
            ),
            (
                "=/etc/eclecticiq/",
                &format!("={}", below("/etc/eclecticiq/")),
            ),
            ("\"/var/run/", &format!("\"{}", below("/var/run/"))),
            ("\"/opt/", &format!("\"{}", below("/opt/"))),
            (" /opt/", &format!(" {}", below("/opt/"))),
            ("\"/db-backup/", &format!("\"{}", below("/db-backup/"))),
            ("localhost:6379", &format!("127.0.0.1:{}", self.redis.port)),
            ("20 GiB", "64 MiB"),
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

    fn sum(&self) -> String {
        let mut session = self.cluster.session("platform");
        session.query_one(SUM, &[]).unwrap().get(0)
    }

    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let tops = ["etc", "lib", "opt", "media", "db-backup"].map(|top| self.path(top));
        let files = tops.iter().flat_map(|top| files_below(top));
        files
            .map(|file| (file.clone(), fs::read(file).unwrap()))
            .collect()
    }

    fn snapshot_count(&self) -> usize {
        self.place.snapshots().len()
    }
}

#[test]
fn a_night_and_a_disaster() {
    let place = Place::small();
    let site = Site::new(&place);
    let file = site.site_file(&[]);
    let check = site.run(&["site", "check", "--site", &file]);
    assert!(matches!(check.code, Some(0 | 3)), "{check:#?}");
    let night = site
        .run(&["backup", "--site", &file, "--name", "nightly", "--json"])
        .expect(0);
    assert_eq!(site.services.take_log(), [STOPPED, STARTED].concat());
    site.services.assert_up(&UNITS);
    let summary = night.summary();
    let (window, all) = (
        summary["window"]["seconds"].as_f64(),
        summary["seconds"].as_f64(),
    );
    println!("down for {window:?} s of a run of {all:?} s");
    assert!(window > Some(0.0) && window < all, "{summary}");
    let components = night.messages("component");
    let at_rest = ["platform", "elasticsearch", "config", "tls"];
    for name in at_rest {
        let component = components.iter().find(|c| c["name"] == name).unwrap();
        assert_eq!(component["state"], "complete", "{component}");
        assert_eq!(component["quiet"], true, "{component}");
    }
    // What this host does not have is reported, and is no failure.
    let config = components.iter().find(|c| c["name"] == "config").unwrap();
    let said = [config.to_string(), check.stdout].concat();
    assert!(said.contains("jvm.options"), "{said}");

    // Everything is lost, and the PID file of a process that died with the host is left.
    let (sum, files) = (site.sum(), site.files());
    assert!(files.len() > 50, "{}", files.len());
    site.services.kill();
    site.cluster.sql("postgres", "DROP DATABASE platform");
    site.cluster.sql("postgres", "DROP ROLE eclecticiq");
    let programs = site.path("opt/eclecticiq-platform-backend/bin");
    let saved = site.path("saved");
    fs::rename(&programs, &saved).unwrap();
    for top in ["etc", "lib", "opt", "media", "db-backup"] {
        fs::remove_dir_all(site.path(top)).ok();
    }
    fs::remove_file(&file).unwrap();
    // The software is installed anew.
    fs::create_dir_all(programs.parent().unwrap()).unwrap();
    fs::rename(&saved, &programs).unwrap();
    site.run(&["site", "extract", "latest", "-o", &file])
        .expect(0);
    let done = site
        .run(&["restore", "latest", "--site", &file, "--yes", "--json"])
        .expect(0);
    site.services.assert_up(&UNITS);
    let mut log = vec![
        "stop eclecticiq-platform-backend-services",
        "stop eclecticiq-platform-backend-workers",
        "search upgrade",
    ];
    let indices = [
        "audit",
        "documents",
        "draft-entities*",
        "extracts*",
        "logstash*",
        "statsite*",
        "stix*",
    ];
    let reindex = indices.map(|index| format!("search reindex --index={index}"));
    log.extend(reindex.iter().map(String::as_str));
    log.extend(STARTED);
    assert_eq!(site.services.take_log(), log);
    assert_eq!(site.sum(), sum);
    assert_eq!(site.files(), files);
    // The packages to ingest again.
    let query = &done.summary()["queries"][0];
    assert_eq!(query["name"], "packages to ingest again");
    assert_eq!(
        query["rows"].to_string(),
        r#"[["400","error"],["800","error"]]"#
    );
    let shown = site
        .run(&["restore", "latest", "--site", &file, "--yes", "--delta"])
        .expect(0);
    assert!(
        shown.stdout.contains("400") && shown.stdout.contains("error"),
        "{}",
        shown.stdout
    );
    site.run(&["drill", "nightly", "--site", &file]).expect(0);
}

/// A process of ours that is ended.
struct Other(Child);

impl Other {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn what_is_not_ready_is_refused() {
    let place = Place::small();
    let site = Site::new(&place);
    let night = [STOPPED, STARTED].concat();
    let refused = |file: &str, log: &[&str], words: &str| {
        let outcome = site.run(&["backup", "--site", file]);
        assert_eq!(outcome.code, Some(1), "{words}: {outcome:#?}");
        outcome
            .says("the site is not ready for a backup")
            .says(words);
        assert_eq!(site.services.take_log(), log, "{words}");
        site.services.assert_up(&UNITS);
        assert_eq!(site.snapshot_count(), 0, "{words}");
        // Somebody is told.
        let told = fs::read_to_string(site.services.path("told")).unwrap();
        assert!(told.contains(words), "{told}");
    };
    let file = site.site_file(&[]);

    // Queues, as the vendor looks at them: when the services are stopped.
    site.redis.command(&["LPUSH", "enrichers", "a task"]);
    refused(&file, &night, "enrichers holds 1");
    // Or before anything is touched.
    let first = "name = \"Celery queues are empty\"\nwhen = \"after-stop\"";
    let before = site.site_file(&[(first, "name = \"Celery queues are empty\"")]);
    refused(&before, &[], "enrichers holds 1");
    let check = site.run(&["site", "check", "--site", &before]).expect(1);
    assert!(check.stdout.contains("enrichers holds 1"), "{check:#?}");
    site.redis.command(&["DEL", "enrichers"]);
    let port = format!("127.0.0.1:{}", site.redis.port);
    let nowhere = site.site_file(&[(&port, "127.0.0.1:1")]);
    refused(&nowhere, &night, "127.0.0.1:1");

    // PID files: of a process that died, before anything is touched; and what the stop leaves behind.
    let optional = "\"no stale PID files\"\nno-stale-pid-files = [";
    let file = site.site_file(&[]);
    let text = fs::read_to_string(&file).unwrap();
    let (head, tail) = text.split_at(text.find(optional).unwrap());
    fs::write(
        &file,
        format!(
            "{head}{}",
            tail.replacen("required = false", "required = true", 1)
        ),
    )
    .unwrap();
    let stale = site.path("var/run/eclecticiq/ingestion.pid");
    fs::write(&stale, "4194305\n").unwrap();
    refused(
        &file,
        &[],
        "names process 4194305, which does not run: remove it",
    );
    fs::remove_file(&stale).unwrap();
    let leaves = site.services.path("leaves-its-pid-file");
    fs::write(&leaves, "").unwrap();
    refused(&file, &night, "beat.pid is left over from process");
    fs::remove_file(&leaves).unwrap();

    // Units and processes that are still there, by name and by pattern.
    site.services.start(&["eclecticiq-platform-backend-web"]);
    refused(
        &file,
        &night,
        "eclecticiq-platform-backend-web.service is active",
    );
    let web = "  \"eclecticiq-platform-backend-web.service\",";
    let pattern = site.site_file(&[(web, "  \"eclecticiq-platform-backend-*\",")]);
    refused(&pattern, &night, "eclecticiq-platform-backend-* is active");
    let stop = site.services.path("service");
    let stopped = Command::new("sh")
        .arg(stop)
        .args(["stop", "eclecticiq-platform-backend-web"])
        .status();
    assert!(stopped.unwrap().success());
    site.services.take_log();
    let celery = site.path("opt/eclecticiq-platform-backend/bin/celery");
    let left = Other::start(&mut Command::new(celery));
    refused(
        &pattern,
        &night,
        &format!("runs as process {}", left.0.id()),
    );
    drop(left);

    // Somebody works in the database.
    let mut session = site.cluster.session("platform");
    session
        .batch_execute("SET application_name = 'analyst'; BEGIN; SELECT 1 FROM blob")
        .unwrap();
    refused(&pattern, &night, "idle in transaction");
    session.batch_execute("ROLLBACK").unwrap();
    drop(session);

    // Who is signed in is only said.
    fs::write(
        site.services.path("signed-in"),
        "0 0 10.0.0.1:443 10.0.0.2:5000\n",
    )
    .unwrap();
    let outcome = site
        .run(&["backup", "--site", &pattern, "--json"])
        .expect(0);
    let warnings = outcome.summary()["warnings"].to_string();
    assert!(warnings.contains("no users are signed in"), "{warnings}");
    assert_eq!(site.snapshot_count(), 1);
}
