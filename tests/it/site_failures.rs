//! What fails around a site: one clear message, the documented exit code, and the site runs on as before.
//!
//! | what | backup | restore |
//! |---|---|---|
//! | wrong password, unreachable database | here | here; `a_failure_before_the_change_leaves_the_site` |
//! | missing share | here | a bare machine has none: `site_qlik` |
//! | full repository | `a_full_repository_leaves_the_site_up` | here |
//! | failing stop command | `a_failing_stop_command_is_named_and_everything_is_started` | `a_failure_before_the_change_leaves_the_site` |
//! | failing start command | `a_service_that_stays_down_is_shouted_about_and_started_later` | `a_failure_before_the_change_leaves_the_site` |
//! | the site is used | | `a_failure_before_the_change_leaves_the_site` |
//! | relocation that matches no row | | `only_what_differs_and_relocated` |
//! | no repository, wrong key | `what_is_wrong_before_the_stop_leaves_the_site_alone` | here |

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use holdfast::format::header::Suite;

use crate::full_disk::Small;
use crate::pg_cluster::{Cluster, ClusterOptions};
use crate::place::{Outcome, Place, noise, noise_tree, seen, skipped};
use crate::services::Services;

const NIGHT: [&str; 4] = ["stop web", "stop engine", "start engine", "start web"];

struct Site {
    place: Place,
    cluster: Cluster,
    services: Services,
}

impl Site {
    fn new(place: Place) -> Self {
        let cluster = Cluster::start_with(&ClusterOptions {
            tcp: true,
            hba: vec![
                "local all all trust".into(),
                "host all all 127.0.0.1/32 scram-sha-256".into(),
            ],
            ..ClusterOptions::default()
        });
        cluster.sql("postgres", "ALTER ROLE postgres PASSWORD 'right'");
        for name in ["QSR", "QLogs"] {
            cluster.sql("postgres", &format!("CREATE DATABASE \"{name}\""));
            let rows = "CREATE TABLE rows AS SELECT n, md5(n::text) FROM generate_series(1, 500) n";
            cluster.sql(name, rows);
        }
        noise_tree(&place.path("share"), 3, 20, 2000);
        let services = Services::install(&place.path("services"));
        services.start(&["web", "engine"]);
        let site = Self {
            place,
            cluster,
            services,
        };
        site.password("right");
        site
    }

    fn password(&self, password: &str) {
        let path = self.place.path("pgpass");
        fs::write(&path, format!("*:*:*:postgres:{password}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path(name)
    }

    /// The site file with one thing changed.
    fn file(&self, from: &str, to: &str) {
        let (port, passfile) = (self.cluster.port, self.path("pgpass"));
        let database = |name: &str| {
            format!(
                "[[database]]\nname = \"{name}\"\nconninfo = \"host=127.0.0.1 port={port} user=postgres dbname={name}\"\npassfile = \"{}\"\nretries = 1\n",
                passfile.display()
            )
        };
        let service = |name: &str| {
            let program = self.services.path("service");
            let run = format!("sh {}", program.display());
            format!(
                "[[quiesce.service]]\nname = \"{name}\"\nstop = \"{run} stop {name}\"\nstart = \"{run} start {name}\"\n"
            )
        };
        let text = format!(
            "[site]\nname = \"stand-in\"\nrequire-all = false\n{}{}[[share]]\nname = \"Apps\"\npath = \"{}\"\n[quiesce]\nstart-attempts = 1\n{}{}",
            database("QSR"),
            database("QLogs"),
            self.path("share").display(),
            service("web"),
            service("engine")
        );
        assert!(text.contains(from), "{from} in {text}");
        fs::write(self.path("site.toml"), text.replacen(from, to, 1)).unwrap();
    }

    fn run(&self, args: &[&str]) -> Outcome {
        let mut all = args.to_vec();
        all.extend(["--site", "site.toml"]);
        self.place.run(all)
    }

    #[track_caller]
    fn ran_on(&self, log: &[&str]) {
        assert_eq!(self.services.take_log(), log);
        self.services.assert_up(&["web", "engine"]);
        let stopped = self.path("home/.local/state/holdfast/sites/stand-in/stopped.json");
        assert!(!stopped.exists());
    }
}

/// A backup without one component: it is named with the reason, the others are kept.
#[track_caller]
fn check_left_out(site: &Site, component: &str, words: &str) {
    let outcome = site.run(&["backup", "--json"]).expect(3);
    site.ran_on(&NIGHT);
    let (state, message) = outcome.component(component);
    assert_eq!(state, "failed", "{outcome:#?}");
    assert!(message.contains(words), "{words:?} in {message:?}");
    let others = outcome.messages("component");
    let others = others.iter().filter(|c| c["name"] != component);
    assert!(others.clone().count() >= 3 && others.clone().all(|c| c["state"] == "complete"));
    // People read it once on each stream, with the component that it is about.
    let outcome = site.run(&["backup"]).expect(3);
    site.ran_on(&NIGHT);
    for text in [&outcome.stdout, &outcome.stderr] {
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(words)).collect();
        assert!(lines.len() <= 1, "{outcome:#?}");
        assert!(
            lines.iter().all(|line| line.contains(component)),
            "{outcome:#?}"
        );
    }
    assert!(outcome.stdout.contains(words), "{outcome:#?}");
    // Before the night it is seen too.
    let check = site.run(&["site", "check"]).expect(1);
    assert!(check.stdout.contains("FAIL"), "{check:#?}");
    site.ran_on(&[]);
}

#[test]
fn a_backup_without_one_component() {
    let site = Site::new(Place::small());
    site.file("", "");
    site.password("wrong");
    let refused = site.run(&["backup", "--json"]).expect(3);
    for name in ["QSR", "QLogs"] {
        let (state, message) = refused.component(name);
        assert_eq!(state, "failed");
        assert!(
            message.contains("password authentication failed for user \"postgres\""),
            "{message}"
        );
        assert!(!message.contains("wrong"), "{message}");
    }
    site.ran_on(&NIGHT);
    site.password("right");
    let port = format!("port={}", site.cluster.port);
    site.file(&port, "port=1");
    check_left_out(&site, "QSR", "refused");
    // Patience is for the time before the stop.
    let file = site.path("site.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("retries = 1", "retries = 3", 1)).unwrap();
    let outcome = site.run(&["backup"]).expect(3);
    site.ran_on(&NIGHT);
    let again = outcome.stderr.matches("cannot connect, trying again");
    assert_eq!(again.count(), 2, "{outcome:#?}");
    site.file("dbname=QLogs", "dbname=NoLogs");
    check_left_out(&site, "QLogs", "\"NoLogs\" does not exist");
    let share = site.path("share").display().to_string();
    site.file(&share, "/nonexistent/share");
    check_left_out(&site, "Apps", "No such file or directory");
    // A share that is not mounted is an empty folder.
    fs::create_dir(site.path("empty")).unwrap();
    site.file(&share, &site.path("empty").display().to_string());
    check_left_out(&site, "Apps", "empty");
}

#[test]
fn no_snapshot_unless_everything_is_there() {
    let site = Site::new(Place::small());
    let all = "require-all = true";
    let share = site.path("share").display().to_string();
    site.file("require-all = false", all);
    site.run(&["backup"]).expect(0);
    site.ran_on(&NIGHT);
    site.password("wrong");
    site.run(&["backup"])
        .expect(1)
        .says("password authentication failed")
        .says("nothing was stopped")
        .in_one_line();
    site.ran_on(&[]);
    site.password("right");
    let file = site.path("site.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace(&share, "/nonexistent/share")).unwrap();
    site.run(&["backup"]).expect(1).says("/nonexistent/share");
    site.ran_on(&NIGHT);
    assert_eq!(site.place.snapshots().len(), 1);
}

#[test]
fn a_restore_that_can_not_begin() {
    let site = Site::new(Place::small());
    site.file("", "");
    site.run(&["backup", "--name", "nightly"]).expect(0);
    site.services.take_log();
    let before = seen(&site.path("share"));
    let restore = ["restore", "nightly", "--yes"];
    let unchanged = |outcome: Outcome, words: &str| {
        outcome.in_one_line().says(words);
        site.ran_on(&[]);
        assert_eq!(seen(&site.path("share")), before);
    };
    let other = site.place.write_key("other", [1; 32]);
    let with = |name: &str, value: PathBuf| {
        let mut command = site
            .place
            .command(restore.iter().chain(&["--site", "site.toml"]));
        Outcome::of(command.env(name, value).output().unwrap())
    };
    unchanged(with("HOLDFAST_KEY_FILE", other).expect(12), "key");
    unchanged(
        with("HOLDFAST_REPO", site.path("nowhere")).expect(10),
        "nowhere",
    );
    unchanged(
        site.run(&["restore", "weekly", "--yes"]).expect(1),
        "weekly",
    );
    site.password("wrong");
    unchanged(
        site.run(&restore).expect(1),
        "password authentication failed",
    );
    site.password("right");
    let port = format!("port={}", site.cluster.port);
    site.file(&port, "port=1");
    unchanged(site.run(&restore).expect(1), "refused");
    let service = site.services.path("service").display().to_string();
    site.file(&format!("sh {service} stop engine"), "echo no way; exit 5");
    let outcome = site.run(&restore).expect(1);
    assert!(!outcome.stderr.contains("snapshot"), "{outcome:#?}");
    outcome.says("no way").says("the site was started again");
    site.ran_on(&["stop web", "start engine", "start web"]);
}

#[test]
fn a_full_repository_keeps_the_target_as_it_is() {
    let place = Place::new();
    let repository = place.repository_path();
    fs::create_dir(&repository).unwrap();
    let Some(_small) = Small::mount(&repository) else {
        return skipped("a memory file system can't be mounted here");
    };
    place.create_small(&repository, Suite::Aes256Gcm);
    let site = Site::new(place);
    site.file("", "");
    site.run(&["backup", "--name", "nightly"]).expect(0);
    site.services.take_log();
    // What is there now has to be backed up before, and there is no room for it.
    fs::write(site.path("share/new"), noise(9, 1_000_000)).unwrap();
    let before = seen(&site.path("share"));
    let mut filler = fs::File::create(repository.join("filler")).unwrap();
    while filler.write_all(&[1; 4096]).is_ok() {}
    let outcome = site.run(&["restore", "nightly", "--yes"]).expect(1);
    outcome
        .says("No space left on device")
        .says("nothing of the site was changed");
    site.ran_on(&NIGHT);
    assert_eq!(seen(&site.path("share")), before);
    let rows = "SELECT count(*)::int FROM rows";
    let count: i32 = site
        .cluster
        .session("QSR")
        .query_one(rows, &[])
        .unwrap()
        .get(0);
    assert_eq!(count, 500);
}
