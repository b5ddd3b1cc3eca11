//! The program itself: exit codes and messages of bad input, the form of JSON, quiet ends. Few, because each starts processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A folder for one test, with a repository and its key.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn empty() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn with_repository() -> Self {
        let place = Self::empty();
        place.good(&["init", "--encryption", "none"]);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command
            .env_clear()
            .env("HOME", self.folder.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TZ", "UTC")
            .env("HOLDFAST_REPO", self.path("repository"))
            .stdin(Stdio::null())
            .args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs what must succeed and returns its stdout.
    fn good(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs what must fail: the exit code, and what its one line on stderr must hold.
    fn bad(&self, args: &[&str], code: i32, text: &str) {
        check(&self.run(args), args, code, text);
    }

    fn is_empty(&self) -> bool {
        fs::read_dir(self.folder.path()).unwrap().next().is_none()
    }
}

fn check(output: &Output, args: &[&str], code: i32, text: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert!(stderr.contains(text), "{args:?}: {stderr}");
    let told = stderr.lines().filter(|l| l.starts_with("holdfast: "));
    assert_eq!(told.count(), 1, "{args:?} is told once: {stderr}");
}

fn objects(stdout: &str) -> Vec<Value> {
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    stdout.lines().map(parse).collect()
}

/// The names of everything below a folder, with sizes.
fn names(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        found.push((entry.path(), metadata.len()));
        if metadata.is_dir() {
            found.extend(names(&entry.path()));
        }
    }
    found.sort();
    found
}

#[test]
fn no_repository_is_exit_10_and_nothing_is_created() {
    let place = Place::empty();
    for args in [
        &["snapshots"][..],
        &["ls", "latest"],
        &["verify"],
        &["verify", "--no-key"],
        &["backup", "/etc/hostname"],
    ] {
        place.bad(args, 10, "there is no repository at");
    }
    assert!(place.is_empty());
}

#[test]
fn other_places_are_refused_and_not_changed() {
    let place = Place::empty();
    let folder = place.path("repository");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("thesis.txt"), "three years").unwrap();
    let before = names(&folder);
    place.bad(&["snapshots"], 1, "is not a holdfast repository");
    let key = place.path("key");
    let args = ["init", "--key-file", key.to_str().unwrap()];
    place.bad(&args, 1, "needs an empty place");
    assert_eq!(names(&folder), before);
    assert!(!key.exists(), "a key of no repository is not left behind");
    place.bad(
        &["--repo", "s3://bucket/x", "snapshots"],
        1,
        "not supported yet",
    );
}

#[test]
fn init_over_a_repository_is_refused() {
    let place = Place::with_repository();
    let before = names(&place.path("repository"));
    place.bad(&["init", "--encryption", "none"], 1, "needs an empty place");
    assert_eq!(names(&place.path("repository")), before);
}

#[test]
fn a_wrong_key_is_exit_12_and_names_the_way() {
    let place = Place::empty();
    let key = place.path("key");
    let made = place.good(&["init", "--json", "--key-file", key.to_str().unwrap()]);
    let recovery = objects(&made)[0]["recovery_key"]
        .as_str()
        .unwrap()
        .to_owned();
    place.bad(&["snapshots"], 12, "HOLDFAST_KEY_FILE");
    let other = place.path("other");
    let elsewhere = place.path("elsewhere");
    place.good(&[
        "-r",
        elsewhere.to_str().unwrap(),
        "--key-file",
        other.to_str().unwrap(),
        "init",
    ]);
    place.bad(
        &["--key-file", other.to_str().unwrap(), "snapshots"],
        12,
        "does not open",
    );
    let mut passphrase = place.command(&["snapshots"]);
    let output = passphrase
        .env("HOLDFAST_PASSPHRASE", "hunter2")
        .output()
        .unwrap();
    check(
        &output,
        &["HOLDFAST_PASSPHRASE"],
        12,
        "which has: key file, recovery key",
    );
    assert!(!String::from_utf8_lossy(&output.stderr).contains("hunter2"));
    let garbage = place.path("garbage");
    fs::write(&garbage, "no key at all\n").unwrap();
    let args = [
        "init",
        "-r",
        "/nowhere",
        "--key-file",
        garbage.to_str().unwrap(),
    ];
    place.bad(&args, 1, "is not a key file");
    // The recovery key opens it, typed into a file or given as the passphrase.
    fs::write(&garbage, recovery.to_lowercase().replace('-', " ")).unwrap();
    place.good(&["--key-file", garbage.to_str().unwrap(), "snapshots"]);
    let mut typed = place.command(&["snapshots"]);
    let output = typed.env("HOLDFAST_PASSPHRASE", recovery).output();
    assert!(output.unwrap().status.success());
}

#[test]
fn usage_errors_are_exit_2() {
    let place = Place::empty();
    for args in [
        &["frobnicate"][..],
        &["ls"],
        &["backup", "--readers", "0", "/etc"],
        &["restore", "latest"],
        &["init", "--chunk-size", "some"],
        &["site", "new", "--profile", "nonesuch"],
        &["verify", "--data", "--no-key"],
    ] {
        assert_eq!(place.run(args).status.code(), Some(2), "{args:?}");
    }
    place.bad(&["backup"], 2, "there is nothing to back up");
    place.bad(&["site", "check"], 2, "--site FILE");
    assert!(place.run(&["help", "backup"]).status.success());
    assert!(place.is_empty());
}

#[test]
fn sources_that_are_not_there_cost_only_themselves() {
    let place = Place::with_repository();
    let (data, gone) = (place.path("data"), place.path("gone"));
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "content").unwrap();
    let args = [
        "backup",
        "--json",
        data.to_str().unwrap(),
        gone.to_str().unwrap(),
    ];
    let output = place.run(&args);
    assert_eq!(output.status.code(), Some(3));
    let told = objects(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(told.last().unwrap()["complete"], false);
    let state = |name: &Path| {
        let component = told.iter().find(|o| o["name"] == name.to_str().unwrap());
        component.unwrap()["state"].clone()
    };
    assert_eq!(
        (state(&data), state(&gone)),
        ("complete".into(), "failed".into())
    );
    let site = place.path("site.toml");
    let text = format!(
        "[site]\nname = \"s\"\nrequire-all = true\n[[share]]\nname = \"a\"\npath = {data:?}\n[[share]]\nname = \"b\"\npath = {gone:?}\n"
    );
    fs::write(&site, text).unwrap();
    let site = site.to_str().unwrap();
    place.bad(&["backup", "--site", site], 1, "require-all");
    assert_eq!(place.good(&["snapshots", "--json"]).lines().count(), 2);
    let checked = place.run(&["site", "check", "--json", "--site", site]);
    assert_eq!(checked.status.code(), Some(1));
    let checked = objects(&String::from_utf8(checked.stdout).unwrap());
    assert_eq!(checked.last().unwrap()["verdict"], "fails");
}

#[test]
fn the_repository_is_neither_source_nor_target() {
    let place = Place::with_repository();
    let packs = place.path("repository/packs");
    place.bad(
        &["backup", packs.to_str().unwrap()],
        1,
        "not backed up into itself",
    );
    let data = place.path("data");
    fs::write(&data, "content").unwrap();
    place.good(&["backup", data.to_str().unwrap()]);
    let args = ["restore", "latest", "--target", packs.to_str().unwrap()];
    place.bad(&args, 1, "lies in the repository");
    place.bad(
        &["restore", "nonesuch", "--target", "/nowhere"],
        1,
        "there is no snapshot",
    );
    place.bad(
        &["cat", "latest:paths/nowhere"],
        1,
        "is not in the snapshot",
    );
}

#[test]
fn every_line_of_json_is_an_object_and_the_last_one_is_the_summary() {
    let place = Place::with_repository();
    let data = place.path("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), vec![7; 100_000]).unwrap();
    let data = data.to_str().unwrap();
    let target = place.path("target");
    let commands: [&[&str]; 11] = [
        &["backup", data, "--name", "one", "--tag", "k=v"],
        &["backup", data],
        &["snapshots"],
        &["ls", "-R", "latest"],
        &["find", "file"],
        &["diff", "one", "latest"],
        &["stats"],
        &["manifest", "latest"],
        &["verify", "--end-to-end"],
        &["restore", "latest", "--target", target.to_str().unwrap()],
        &["key", "list"],
    ];
    for command in commands {
        let args = [command, &["--json"]].concat();
        let told = objects(&place.good(&args));
        for (object, last) in told
            .iter()
            .rev()
            .zip([true].into_iter().chain(std::iter::repeat(false)))
        {
            let (first, kind) = object.as_object().unwrap().iter().next().unwrap();
            assert_eq!(first, "message_type", "{command:?}");
            assert_eq!(kind == "summary", last, "{command:?}: {object}");
        }
        let summary = told.last().unwrap();
        assert!(summary["kdf_ms"].is_u64(), "{command:?}: {summary}");
        let fields: &[&str] = match command[0] {
            "backup" => &[
                "snapshot",
                "files_new",
                "files_changed",
                "files_unmodified",
                "tables",
                "rows",
                "bytes_read",
                "bytes_new",
                "bytes_stored",
                "skipped",
                "seconds",
            ],
            "verify" => &["packs", "chunks", "bytes_read", "damaged"],
            _ => &[],
        };
        for field in fields {
            assert!(summary.get(field).is_some(), "{command:?}: {field}");
        }
    }
}

#[test]
fn damage_is_exit_4_and_what_can_be_read_is_read() {
    let place = Place::with_repository();
    let data = place.path("data");
    fs::write(&data, vec![7; 100_000]).unwrap();
    place.good(&["backup", data.to_str().unwrap()]);
    let format = place.path("repository/format");
    let mut bytes = fs::read(&format).unwrap();
    bytes[40] ^= 1;
    fs::remove_file(&format).unwrap();
    fs::write(&format, bytes).unwrap();
    let output = place.run(&["cat", &format!("latest:paths{}", data.display())]);
    assert_eq!(output.status.code(), Some(4));
    assert_eq!(output.stdout, vec![7; 100_000]);
    let output = place.run(&["verify"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stdout).contains("DAMAGED format"));
}

#[test]
fn a_closed_pipe_is_no_error() {
    let place = Place::with_repository();
    place.good(&[
        "backup",
        env!("CARGO_MANIFEST_DIR"),
        "--exclude",
        "target/",
        "--exclude",
        ".git",
    ]);
    let mut child = place
        .command(&["ls", "-R", "latest"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn quiet_says_nothing_of_what_is_good() {
    let place = Place::empty();
    let silent = |args: &[&str]| {
        let output = place.run(&[&["--quiet"], args].concat());
        assert!(output.status.success(), "{args:?}");
        assert_eq!(
            (&*output.stdout, &*output.stderr),
            (&b""[..], &b""[..]),
            "{args:?}"
        );
    };
    silent(&["init", "--encryption", "none"]);
    let source = place.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), b"content").unwrap();
    let source = source.to_str().unwrap();
    silent(&["backup", source]);
    silent(&["verify", "--end-to-end"]);
    let target = place.path("target");
    silent(&["restore", "latest", "--target", target.to_str().unwrap()]);
    let tar = place.path("tree.tar");
    silent(&[
        "export",
        "latest",
        "--format",
        "tar",
        "-o",
        tar.to_str().unwrap(),
    ]);
    // What a command is there to print stays, and so does what is not good.
    assert!(!place.good(&["--quiet", "ls", "latest"]).is_empty());
    let output = place.run(&["--quiet", "backup", source, "/nonexistent/share"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stdout).contains("INCOMPLETE"));
    assert!(
        place
            .good(&["--quiet", "--json", "backup", source])
            .contains("summary")
    );
}
