//! The quiet window with real processes as services: whatever happens to the run, they are up afterwards.
//!
//! A service is a process that sleeps; while it is up its PID stands in a file of the share, so that a snapshot shows whether it was read at
//! rest. A check that is due after the stop waits as long as the file `hold` is there, so that a test can act inside the window.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use holdfast::format::header::Suite;
use serde_json::Value;

use super::full_disk::Small;
use super::pg_cluster::Cluster;
use super::place::{Outcome, PATIENCE, Place, Running, noise_tree};

/// Starts and stops services, and writes down when.
const SERVICE: &str = r#"#!/bin/sh
# service start|stop NAME
here=$(dirname "$0")
echo "$1 $2" >> "$here/log"
pid="$here/share/$2.pid"
case $1 in
start)
    test -e "$pid" && exit 0
    if test -e "$here/broken-$2"; then
        echo "no license for $2"
        test -s "$here/broken-$2" && rm "$here/broken-$2"
        exit 9
    fi
    sleep 3000 &
    echo $! > "$pid"
    ;;
stop)
    test -e "$here/stuck-$2" && { echo "$2 does not end"; exit 4; }
    test -e "$pid" || exit 0
    kill "$(cat "$pid")"
    rm "$pid"
    ;;
esac
"#;

struct Site {
    place: Place,
}

impl Site {
    /// Two services that are up, a share, and a site file with `more` at its end.
    fn new(more: &str) -> Self {
        Self::with_window("1h", more)
    }

    fn with_window(window_max: &str, more: &str) -> Self {
        Self::at(Place::small(), window_max, more)
    }

    fn at(place: Place, window_max: &str, more: &str) -> Self {
        let site = Self { place };
        let path = |name: &str| site.place.path(name).display().to_string();
        fs::create_dir(path("share")).unwrap();
        fs::write(path("share/app.qvf"), "an app").unwrap();
        fs::write(path("service"), SERVICE).unwrap();
        let service = format!("sh {}", path("service"));
        let text = format!(
            "[site]\nname = \"stand-in\"\n\
             [[share]]\nname = \"Apps\"\npath = \"{share}\"\n\
             [quiesce]\nstart-attempts = 2\nwindow-max = \"{window_max}\"\n\
             [[quiesce.service]]\nname = \"web\"\nstop = \"{service} stop web\"\nstart = \"{service} start web\"\n\
             [[quiesce.service]]\nname = \"engine\"\nstop = \"{service} stop engine\"\nstart = \"{service} start engine\"\n\
             [[preflight]]\nname = \"held\"\nwhen = \"after-stop\"\ntimeout = \"10m\"\n\
             command = \"touch {inside}; while test -e {hold}; do sleep 0.05; done\"\n{more}\n",
            share = path("share"),
            inside = path("inside"),
            hold = path("hold"),
        );
        fs::write(path("site.toml"), text).unwrap();
        for name in ["web", "engine"] {
            let started = Command::new("sh")
                .args([&path("service"), "start", name])
                .status();
            assert!(started.unwrap().success());
        }
        fs::remove_file(path("log")).unwrap();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path(name)
    }

    fn args<'a>(&self, args: &[&'a str]) -> Vec<&'a str> {
        let mut all = args.to_vec();
        all.extend(["--site", "site.toml"]);
        all
    }

    fn run(&self, args: &[&str]) -> Outcome {
        self.place.run(self.args(args))
    }

    fn back_up(&self) -> Outcome {
        self.run(&["backup", "--json"])
    }

    /// A backup that is inside its window.
    fn held(&self) -> Running {
        fs::write(self.path("hold"), "").unwrap();
        let mut running = self.start();
        let inside = self.path("inside");
        assert!(running.until(|| inside.exists()), "{:#?}", running.wait());
        assert!(!self.is_up("web") && !self.is_up("engine"));
        running
    }

    fn start(&self) -> Running {
        Running::start(self.place.command(self.args(&["backup", "--json"])))
    }

    fn let_go(&self) {
        fs::remove_file(self.path("hold")).unwrap();
    }

    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn pid(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.path(&format!("share/{name}.pid"))).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    fn is_up(&self, name: &str) -> bool {
        self.pid(name)
            .is_some_and(|pid| Path::new("/proc").join(pid).exists())
    }

    #[track_caller]
    fn assert_up(&self) {
        assert!(
            self.is_up("web") && self.is_up("engine"),
            "{:?}",
            self.log()
        );
    }

    #[track_caller]
    fn comes_up(&self) {
        until(|| self.is_up("web") && self.is_up("engine"));
    }

    fn state(&self, name: &str) -> PathBuf {
        self.path("home/.local/state/holdfast/sites/stand-in")
            .join(name)
    }

    /// What the state file says.
    fn stopped(&self) -> Option<Value> {
        let text = fs::read(self.state("stopped.json")).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    }

    fn guardian(&self) -> String {
        self.stopped().unwrap()["guardian"]["pid"].to_string()
    }

    fn snapshot_count(&self) -> usize {
        self.place.snapshots().len()
    }

    fn restored(&self, name: &str) -> PathBuf {
        let target = self.path(name);
        self.place.restore("latest:shares/Apps", &target);
        target
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for pid in ["web", "engine"].iter().filter_map(|name| self.pid(name)) {
            Command::new("kill").arg(pid).status().ok();
        }
    }
}

#[track_caller]
fn until(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited for too long");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

fn signal(name: &str, pid: impl ToString) {
    let status = Command::new("kill")
        .args([format!("-{name}"), pid.to_string()])
        .status();
    assert!(status.unwrap().success());
}

const NIGHT: [&str; 4] = ["stop web", "stop engine", "start engine", "start web"];

fn quiet_of(outcome: &Outcome) -> Vec<(String, Value)> {
    let components = outcome.messages("component").into_iter();
    components
        .filter(|component| component["kind"] != "site")
        .map(|component| {
            let name = component["name"].as_str().unwrap().to_owned();
            (name, component["quiet"].clone())
        })
        .collect()
}

#[test]
fn services_are_down_for_the_walk_and_up_while_databases_stream() {
    let cluster = Cluster::start();
    cluster.sql("postgres", "CREATE DATABASE \"QSR\"");
    cluster.sql(
        "QSR",
        "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n",
    );
    let conninfo = cluster.conninfo("QSR");
    let site = Site::new(&format!(
        "[[database]]\nname = \"QSR\"\nconninfo = \"{conninfo}\"\n\
         [hooks]\non-success = \"cat > $HOME/report; echo $HOLDFAST_SITE $HOLDFAST_EXIT_CODE >> $HOME/report\"\n"
    ));
    let outcome = site.back_up().expect(0);
    assert_eq!(site.log(), NIGHT);
    site.assert_up();
    assert!(site.stopped().is_none());
    let tree = site.restored("restored");
    assert!(tree.join("app.qvf").exists());
    assert!(!tree.join("web.pid").exists() && !tree.join("engine.pid").exists());
    let mut quiet = quiet_of(&outcome);
    quiet.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(
        quiet,
        [("Apps".into(), true.into()), ("QSR".into(), true.into())]
    );
    let window = &outcome.summary()["window"];
    let time = |value: &Value| value.as_str().unwrap().to_owned();
    let database = &outcome.messages("component")[..];
    let database = database.iter().find(|c| c["name"] == "QSR").unwrap();
    assert!(
        time(&database["started"]) <= time(&window["start_begun"]),
        "opened at rest"
    );
    assert!(
        time(&database["finished"]) >= time(&window["started"]),
        "streamed afterwards"
    );
    let report = fs::read_to_string(site.path("home/report")).unwrap();
    assert_eq!(report, format!("{}stand-in 0\n", outcome.stdout));
    let long = site.run(&["snapshots", "--long"]).expect(0);
    for words in ["stopped for", "shares/Apps  complete", "at rest"] {
        assert!(long.stdout.contains(words), "{}", long.stdout);
    }
}

#[test]
fn a_failing_stop_command_is_named_and_everything_is_started() {
    let site = Site::new("[hooks]\non-failure = \"cat > $HOME/report\"\n");
    fs::write(site.path("stuck-engine"), "").unwrap();
    site.back_up()
        .expect(1)
        .says("stop command engine (sh")
        .says("it ended with status 4; it said: engine does not end; the site was started again");
    assert_eq!(site.log(), NIGHT);
    site.assert_up();
    assert_eq!(site.snapshot_count(), 0);
    assert!(site.stopped().is_none());
    let report = fs::read_to_string(site.path("home/report")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(
        (&report["message_type"], &report["code"]),
        (&"error".into(), &1.into())
    );
}

#[test]
fn a_failing_start_command_is_tried_again() {
    let site = Site::new("");
    fs::write(site.path("broken-engine"), "once").unwrap();
    site.back_up().expect(0).says("is tried again");
    site.assert_up();
    assert_eq!(site.snapshot_count(), 1);
}

#[test]
fn a_service_that_stays_down_is_shouted_about_and_started_later() {
    let site = Site::new("[hooks]\non-failure = \"cat > $HOME/report\"\n");
    fs::write(site.path("broken-engine"), "").unwrap();
    let outcome = site
        .back_up()
        .expect(3)
        .says("SITE stand-in IS NOT UP: start command engine (sh")
        .says("no license for engine");
    assert!(site.is_up("web") && !site.is_up("engine"));
    assert_eq!(site.snapshot_count(), 1);
    let problems = &outcome.summary()["problems"];
    assert!(
        problems[0]
            .as_str()
            .unwrap()
            .contains("start command engine")
    );
    assert_eq!(quiet_of(&outcome), [("Apps".into(), true.into())]);
    let report = fs::read_to_string(site.path("home/report")).unwrap();
    assert!(report.contains("start command engine"), "{report}");
    // It is kept in mind, and tried again.
    let again = site.run(&["site", "start"]).expect(1);
    again
        .says("could not start all of it")
        .says("no license for engine");
    fs::remove_file(site.path("broken-engine")).unwrap();
    site.run(&["site", "start"]).expect(0);
    site.assert_up();
    assert!(site.stopped().is_none());
}

#[test]
fn a_killed_run_leaves_the_site_up() {
    let site = Site::new("[hooks]\non-failure = \"cat > $HOME/report\"\n");
    let running = site.held();
    running.kill();
    site.comes_up();
    until(|| site.stopped().is_none() && site.path("home/report").exists());
    assert_eq!(site.log(), NIGHT);
    assert_eq!(site.snapshot_count(), 0);
    site.let_go();
    site.back_up().expect(0);
    assert_eq!(site.log().len(), 8);
    site.assert_up();
}

#[test]
fn a_run_killed_inside_a_stop_command_leaves_the_site_up() {
    let site = Site::new("");
    let file = site.path("site.toml");
    let text = fs::read_to_string(&file).unwrap();
    let slow = format!("touch {}; sleep 2; sh", site.path("slow").display());
    let text = text.replacen("stop = \"sh", &format!("stop = \"{slow}"), 1);
    fs::write(&file, text).unwrap();
    let mut running = site.start();
    let slow = site.path("slow");
    assert!(running.until(|| slow.exists()));
    running.kill();
    until(|| site.log().ends_with(&["start web".into()]) && site.stopped().is_none());
    std::thread::sleep(std::time::Duration::from_secs(3));
    // What would have stopped it has ended too.
    site.assert_up();
    assert_eq!(site.log(), ["start engine", "start web"]);
}

/// A run and its guardian that were killed inside the window.
fn killed_both(site: &Site) {
    let running = site.held();
    signal("KILL", site.guardian());
    running.kill();
    site.let_go();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(!site.is_up("web") && site.stopped().is_some());
}

#[test]
fn the_next_run_starts_what_a_killed_guardian_could_not() {
    let site = Site::new("");
    killed_both(&site);
    site.back_up()
        .expect(0)
        .says("which ended without starting it");
    site.assert_up();
    let mut log = NIGHT.to_vec();
    log.extend(["start engine", "start web"]);
    log.extend(NIGHT);
    log.drain(2..4);
    assert_eq!(site.log(), log);
    assert!(site.stopped().is_none());
}

#[test]
fn site_start_starts_what_a_killed_guardian_could_not() {
    let site = Site::new("");
    killed_both(&site);
    let outcome = site.run(&["site", "start"]).expect(0);
    assert_eq!(outcome.stdout, "site stand-in was started\n");
    site.assert_up();
    assert!(site.stopped().is_none());
    // Without a dead run it runs the start commands of the site file.
    site.run(&["site", "start"]).expect(0);
    assert_eq!(site.log().len(), 6);
}

#[test]
fn a_run_whose_guardian_was_killed_starts_the_site_itself() {
    let site = Site::new("");
    let running = site.held();
    signal("KILL", site.guardian());
    site.let_go();
    running.wait().expect(0).says("the guardian was killed");
    assert_eq!(site.log(), NIGHT);
    site.assert_up();
    assert!(site.stopped().is_none());
}

#[test]
fn ctrl_c_and_term_start_the_site() {
    for name in ["INT", "TERM"] {
        let site = Site::new("");
        let running = site.held();
        // As from a terminal: the guardian hears it too.
        signal(name, site.guardian());
        signal(name, running.pid());
        // While the run still waits for the check.
        site.comes_up();
        site.let_go();
        running.wait().expect(130);
        assert_eq!(site.log(), NIGHT);
        assert_eq!(site.snapshot_count(), 0);
        assert!(site.stopped().is_none());
    }
}

#[test]
fn a_second_ctrl_c_ends_the_run_and_not_the_guardian() {
    let site = Site::new("");
    fs::write(site.path("broken-engine"), "once").unwrap();
    let running = site.held();
    signal("INT", running.pid());
    std::thread::sleep(std::time::Duration::from_millis(200));
    signal("INT", running.pid());
    let outcome = running.wait().expect(130);
    // Its end is the guardian's, who has the same stderr.
    assert!(outcome.stderr.contains("interrupted"), "{outcome:#?}");
    site.assert_up();
    assert!(site.stopped().is_none());
    site.let_go();
}

#[test]
fn what_is_wrong_before_the_stop_leaves_the_site_alone() {
    let site = Site::new("");
    let other = site.place.write_key("other", [1; 32]);
    let mut command = site.place.command(site.args(&["backup"]));
    command.env("HOLDFAST_KEY_FILE", other);
    Outcome::of(command.output().unwrap()).expect(12);
    let mut command = site.place.command(site.args(&["backup"]));
    command.env("HOLDFAST_REPO", site.path("nowhere"));
    Outcome::of(command.output().unwrap()).expect(10);
    assert_eq!(site.log(), [""; 0]);
    site.assert_up();
}

#[test]
fn what_fails_inside_the_window_leaves_the_site_up() {
    let site = Site::new(
        "[[database]]\nname = \"QSR\"\nconninfo = \"host=/nonesuch dbname=QSR\"\nretries = 1\n\
         [[share]]\nname = \"Gone\"\npath = \"/nonesuch/share\"\n",
    );
    let outcome = site.back_up().expect(3);
    assert_eq!(outcome.component("QSR").0, "failed");
    assert_eq!(outcome.component("Gone").0, "failed");
    assert_eq!(outcome.component("Apps").0, "complete");
    assert_eq!(site.log(), NIGHT);
    site.assert_up();
}

#[test]
fn a_full_repository_leaves_the_site_up() {
    let place = Place::new();
    let repository = place.repository_path();
    fs::create_dir(&repository).unwrap();
    let Some(_small) = Small::mount(&repository) else {
        return println!("not run: a memory file system can't be mounted here");
    };
    place.create_small(&repository, Suite::Aes256Gcm);
    let site = Site::at(place, "1h", "");
    noise_tree(&site.path("share"), 1, 40, 200_000);
    site.back_up().expect(1).says("o space left");
    assert_eq!(site.log(), NIGHT);
    site.assert_up();
    assert!(site.stopped().is_none());
}

#[test]
fn a_run_that_hangs_has_the_site_for_window_max_only() {
    let site = Site::with_window("2s", "");
    let running = site.held();
    signal("STOP", running.pid());
    site.let_go();
    site.comes_up();
    until(|| site.stopped().is_none());
    signal("CONT", running.pid());
    let outcome = running.wait().expect(3).says("(window-max); starting it");
    assert_eq!(site.log(), NIGHT);
    assert_eq!(quiet_of(&outcome), [("Apps".into(), false.into())]);
    let problems = &outcome.summary()["problems"];
    assert!(problems[0].as_str().unwrap().contains("window-max (2 s)"));
    assert_eq!(site.snapshot_count(), 1);
}

#[test]
fn one_run_per_site_and_host() {
    let site = Site::new("");
    let running = site.held();
    let pid = format!("process {}, since 2", running.pid());
    site.back_up().expect(11).in_one_line().says(&pid);
    site.run(&["site", "start"]).expect(11);
    site.run(&["restore", "latest", "--yes"]).expect(11);
    // Paths without a site file are nobody's business.
    site.place.back_up(&site.path("share")).expect(0);
    site.let_go();
    running.wait().expect(0);
    assert_eq!(site.log(), NIGHT);
}

#[test]
fn a_check_that_fails_leaves_the_site_alone() {
    let site = Site::new("[[preflight]]\nname = \"nobody signed in\"\ncommand = \"exit 1\"\n");
    site.back_up().expect(1).says("nobody signed in");
    assert_eq!(site.log(), [""; 0]);
    site.assert_up();
}

#[test]
fn a_file_system_snapshot_makes_the_window_short() {
    let site = Site::new("");
    let (share, now) = (site.path("share"), site.path("now"));
    let file = site.path("site.toml");
    let text = fs::read_to_string(&file).unwrap();
    let hook = format!(
        "\nsnapshot-create = \"cp -al {0} {1}\"\nsnapshot-remove = \"rm -r {1} && ! test -e {1}-stuck\"\nsnapshot-path = \"{1}\"\n[quiesce]",
        share.display(),
        now.display()
    );
    fs::write(&file, text.replacen("\n[quiesce]", &hook, 1)).unwrap();
    let outcome = site.back_up().expect(0);
    site.assert_up();
    assert!(!now.exists(), "the snapshot is removed");
    assert!(!site.state("snapshots.json").exists());
    assert_eq!(quiet_of(&outcome), [("Apps".into(), true.into())]);
    let tree = site.restored("restored");
    assert!(tree.join("app.qvf").exists() && !tree.join("web.pid").exists());
    let component = &outcome.messages("component")[1];
    assert_eq!(component["name"], "Apps");
    let finished = component["finished"].as_str().unwrap().to_owned();
    let window = outcome.summary()["window"].clone();
    assert!(
        finished.as_str() >= window["started"].as_str().unwrap(),
        "read afterwards"
    );
    // What could not be removed is named, and tried again.
    let stuck = site.path("now-stuck");
    fs::write(&stuck, "").unwrap();
    site.back_up()
        .expect(3)
        .says("a file-system snapshot is left over");
    fs::remove_file(&stuck).unwrap();
    fs::create_dir(&now).unwrap();
    site.back_up().expect(0).says("was left over; removing it");
    assert!(!now.exists() && !site.state("snapshots.json").exists());
    // One that can't be made is the share's failure; the site is up.
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("cp -al", "false", 1)).unwrap();
    let outcome = site.back_up().expect(3);
    let (state, message) = outcome.component("Apps");
    assert_eq!(state, "failed");
    assert!(message.contains("snapshot-create false"), "{message}");
    site.assert_up();
}
