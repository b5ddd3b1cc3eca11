//! Bad input to the command: what is refused changes nothing, and what fails alone does not harm the rest.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use holdfast::ops::verify::Depth;
use holdfast::source::SourceError;
use holdfast::source::postgres::RetryPolicy;
use holdfast::source::postgres::dump::{DatabaseSource, DumpOptions, open_snapshots};
use holdfast::source::postgres::pgtools::ToolPlaces;

use crate::pg_cluster::{Cluster, ClusterOptions, free_port, settings};
use crate::place::{Outcome, Place, is_root, noise, noise_tree, restored, seen};

/// A place with a default repository that holds one snapshot of a tree.
fn filled() -> Place {
    let place = Place::small();
    noise_tree(&place.path("tree"), 3, 5, 3000);
    place.back_up(&place.path("tree")).expect(0);
    place
}

fn on(place: &Place, repository: &Path, args: &[&str]) -> Outcome {
    let mut command = place.command(args);
    command.env("HOLDFAST_REPO", repository);
    Outcome::of(command.output().unwrap())
}

#[test]
fn a_place_without_a_repository_is_named_and_not_made() {
    let place = Place::new();
    let tree = place.path("tree");
    noise_tree(&tree, 3, 1, 10);
    for repository in [place.path("nowhere"), place.path("a/b")] {
        for args in [&["snapshots"][..], &["backup", tree.to_str().unwrap()]] {
            on(&place, &repository, args)
                .expect(10)
                .says(repository.to_str().unwrap())
                .in_one_line();
            assert!(!repository.exists());
        }
    }
    let empty = place.path("empty");
    fs::create_dir(&empty).unwrap();
    on(&place, &empty, &["snapshots"]).expect(10).in_one_line();
    assert_eq!(seen(&empty).len(), 1);
}

#[test]
fn a_wrong_key_is_told_from_damage() {
    let place = filled();
    let before = seen(&place.repository_path());
    place.write_key("other", [8; 32]);
    let tree = place.path("tree");
    for args in [&["snapshots"][..], &["backup", tree.to_str().unwrap()]] {
        let mut command = place.command(args);
        command.env("HOLDFAST_KEY_FILE", place.path("other"));
        Outcome::of(command.output().unwrap())
            .expect(12)
            .says("other")
            .in_one_line();
    }
    assert_eq!(seen(&place.repository_path()), before);
}

#[test]
fn a_wrong_passphrase_is_refused() {
    let place = Place::new();
    let with = |passphrase: &str, args: &[&str]| {
        let mut command = place.command(args);
        command
            .env_remove("HOLDFAST_KEY_FILE")
            .env("HOLDFAST_PASSPHRASE", passphrase);
        Outcome::of(command.output().unwrap())
    };
    with("correct horse", &["init"]).expect(0);
    let before = seen(&place.repository_path());
    let wrong = with("wrong horse", &["snapshots"]).expect(12).in_one_line();
    assert!(
        !wrong.stderr.contains("horse"),
        "a secret is never shown: {wrong:#?}"
    );
    with("", &["snapshots"]).expect(12);
    assert_eq!(seen(&place.repository_path()), before);
    with("correct horse", &["snapshots"]).expect(0);
}

#[test]
fn what_is_no_repository_is_left_alone() {
    let place = Place::new();
    let tree = place.path("tree");
    noise_tree(&tree, 3, 1, 10);
    let foreign = place.path("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("format"), "<html>somebody's page</html>").unwrap();
    fs::write(foreign.join("thesis.txt"), "ten years of work").unwrap();
    let before = seen(&foreign);
    for args in [
        &["snapshots"][..],
        &["backup", tree.to_str().unwrap()],
        &["init"],
    ] {
        on(&place, &foreign, args)
            .expect(1)
            .says(foreign.to_str().unwrap())
            .in_one_line();
        assert_eq!(seen(&foreign), before, "{args:?}");
    }
    // Without a file of that name it is just as foreign.
    fs::remove_file(foreign.join("format")).unwrap();
    let before = seen(&foreign);
    on(&place, &foreign, &["init"]).expect(1).in_one_line();
    let code = on(&place, &foreign, &["snapshots"]).code;
    assert!(matches!(code, Some(1 | 10)), "{code:?}");
    assert_eq!(seen(&foreign), before);
}

#[test]
fn a_newer_format_is_named() {
    let place = filled();
    for name in ["format", "format.copy"] {
        let path = place.repository_path().join(name);
        let mut bytes = fs::read(&path).unwrap();
        let end = bytes.len() - 32;
        bytes[8..10].copy_from_slice(&[9, 0]);
        let checksum = blake3::hash(&bytes[..end]);
        bytes[end..].copy_from_slice(checksum.as_bytes());
        fs::remove_file(&path).unwrap();
        fs::write(&path, &bytes).unwrap();
    }
    let before = seen(&place.repository_path());
    let tree = place.path("tree");
    place
        .run(["snapshots"])
        .expect(1)
        .says("version 9")
        .in_one_line();
    place
        .back_up(&tree)
        .expect(1)
        .says("version 9")
        .in_one_line();
    place.run(["init"]).expect(1);
    assert_eq!(seen(&place.repository_path()), before);
}

#[test]
fn init_takes_no_place_that_is_taken() {
    let place = filled();
    let before = seen(&place.repository_path());
    place.run(["init"]).expect(1).says("already").in_one_line();
    assert_eq!(seen(&place.repository_path()), before);
    place.run(["snapshots"]).expect(0);
}

#[test]
fn the_repository_is_neither_source_nor_target() {
    let place = filled();
    let repository = place.repository_path();
    let before = seen(&repository);
    for path in [repository.clone(), repository.join("packs")] {
        place
            .back_up(&path)
            .expect(1)
            .says("repository")
            .in_one_line();
    }
    std::os::unix::fs::symlink(&repository, place.path("link")).unwrap();
    for target in [
        repository.clone(),
        repository.join("new/folder"),
        place.path("link").join("new"),
    ] {
        let error = restored(&place.open(), "latest", &target).unwrap_err();
        assert_eq!(error.exit_code(), 1, "{error}");
    }
    assert_eq!(seen(&repository), before);

    // A tree that the repository lies in is taken without it.
    place.back_up(&place.path("")).expect(0);
    let target = tempfile::tempdir().unwrap();
    let below = place.path("").strip_prefix("/").unwrap().to_owned();
    let spec = format!("latest:paths/{}", below.display());
    place.restore(&spec, target.path());
    assert!(target.path().join("tree/d0/f0").exists());
    assert!(!target.path().join("repository").exists());
}

/// Writes a site file with a good share and whatever else.
fn site(place: &Place, head: &str, rest: &str) {
    let text = format!(
        "[site]\nname = \"test\"\n{head}\n[[share]]\nname = \"good\"\npath = \"{}\"\n{rest}",
        place.path("tree").display()
    );
    fs::write(place.path("site.toml"), text).unwrap();
}

fn back_up_site(place: &Place) -> Outcome {
    let site = place.path("site.toml");
    place.run(["backup", "--json", "--site", site.to_str().unwrap()])
}

/// The site can't be backed up with `require-all`, and that leaves no snapshot.
fn check_require_all(place: &Place, rest: &str, words: &str) {
    let before = place.snapshots().len();
    site(place, "require-all = true", rest);
    back_up_site(place).expect(1).says(words);
    assert_eq!(place.snapshots().len(), before, "nothing was committed");
}

#[test]
fn a_missing_path_or_share_costs_only_itself() {
    let place = filled();
    let tree = place.path("tree");
    let gone = place.path("gone");
    let outcome = place
        .run([
            "backup",
            "--json",
            tree.to_str().unwrap(),
            gone.to_str().unwrap(),
        ])
        .expect(3);
    assert_eq!(outcome.summary()["complete"], false);
    assert_eq!(outcome.component(gone.to_str().unwrap()).0, "failed");
    assert_eq!(outcome.component(tree.to_str().unwrap()).0, "complete");

    let share = format!(
        "[[share]]\nname = \"away\"\npath = \"{}\"\n",
        gone.display()
    );
    site(&place, "", &share);
    let outcome = back_up_site(&place).expect(3);
    let (state, message) = outcome.component("away");
    assert_eq!(state, "failed");
    assert!(message.contains(gone.to_str().unwrap()), "{message}");
    assert_eq!(outcome.component("good").0, "complete");
    check_require_all(&place, &share, "away");
    // The rest of the incomplete snapshot is there.
    let target = tempfile::tempdir().unwrap();
    place.restore("latest:shares/good", target.path());
    crate::place::assert_same_tree(&tree, target.path());
    place.assert_good(Depth::EndToEnd);
}

#[test]
fn an_empty_mount_point_is_not_an_empty_share() {
    let place = filled();
    let mounted = place.path("mounted");
    noise_tree(&mounted, 4, 5, 2000);
    let share = format!(
        "[[share]]\nname = \"mounted\"\npath = \"{}\"\n",
        mounted.display()
    );
    site(&place, "", &share);
    back_up_site(&place).expect(0);
    fs::rename(&mounted, place.path("kept")).unwrap();
    fs::create_dir(&mounted).unwrap();
    let outcome = back_up_site(&place).expect(3);
    let (state, message) = outcome.component("mounted");
    assert_eq!(state, "failed");
    assert!(message.contains("not mounted"), "{message}");
    check_require_all(&place, &share, "not mounted");
    // It fails as long as it is so: the last complete snapshot counts, not the last one.
    site(&place, "", &share);
    back_up_site(&place).expect(3);
    // Mounted again, its files are found in the snapshot in which they were last seen, and are not stored again.
    fs::remove_dir(&mounted).unwrap();
    fs::rename(place.path("kept"), &mounted).unwrap();
    let summary = back_up_site(&place).expect(0).summary();
    assert!(summary["files_new"].as_u64().unwrap() <= 1, "{summary}");
}

#[test]
fn an_unreadable_file_is_named_and_the_rest_is_kept() {
    const NOBODY: u32 = 65534;
    let place = filled();
    let tree = place.path("tree");
    let closed = tree.join("d1/closed");
    fs::write(&closed, noise(1, 100)).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    let mut command = place.command(["backup", "--json", tree.to_str().unwrap()]);
    if is_root() {
        // Root reads everything.
        place.open_to_all();
        let all = [place.path("key"), place.repository_path()];
        for path in all.iter().cloned().chain(
            seen(&place.repository_path())
                .into_keys()
                .map(|below| place.repository_path().join(below)),
        ) {
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let (reuid, regid) = (format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"));
        let mut other = Command::new("setpriv");
        other.args([&reuid, &regid, "--clear-groups", "--"]);
        other.arg(command.get_program()).args(command.get_args());
        other.env_clear();
        for (name, value) in command.get_envs() {
            other.env(name, value.expect("a value"));
        }
        other.current_dir(place.path(""));
        command = other;
    }
    let outcome = Outcome::of(command.output().unwrap())
        .expect(3)
        .says("d1/closed")
        .says("ermission denied");
    let summary = outcome.summary();
    assert_eq!(
        (&summary["skipped"], &summary["complete"]),
        (&1.into(), &false.into())
    );
    let (state, _) = outcome.component(tree.to_str().unwrap());
    assert_eq!(state, "incomplete");
    let record = &place.snapshots()[1].record;
    assert_eq!(record.totals.skipped, 1);
    let target = tempfile::tempdir().unwrap();
    let below = tree.strip_prefix("/").unwrap().display();
    place.restore(&format!("latest:paths/{below}"), target.path());
    fs::remove_file(&closed).unwrap();
    let names = |root: &Path| seen(root).into_keys().collect::<Vec<_>>();
    assert_eq!(names(&tree), names(target.path()));
}

#[test]
fn databases_that_fail_are_left_out_whole_and_say_why() {
    let cluster = Cluster::start_with(&ClusterOptions {
        tcp: true,
        hba: vec![
            "local all all trust".to_owned(),
            "host all all 127.0.0.1/32 scram-sha-256".to_owned(),
        ],
        ..ClusterOptions::default()
    });
    cluster.sql(
        "postgres",
        "CREATE ROLE reader LOGIN PASSWORD 'right'; CREATE TABLE open AS SELECT 1 AS a; GRANT SELECT ON open TO reader; \
         CREATE TABLE closed AS SELECT 2 AS b",
    );
    cluster.sql("postgres", "CREATE DATABASE rows");
    cluster.sql(
        "rows",
        "CREATE TABLE seen AS SELECT 1 AS a; GRANT SELECT ON seen TO reader; ALTER TABLE seen ENABLE ROW LEVEL SECURITY",
    );
    cluster.sql("postgres", "CREATE DATABASE whole");
    cluster.sql(
        "whole",
        "CREATE TABLE t AS SELECT generate_series(1, 100) AS a",
    );

    let place = filled();
    let passfile = place.path("pgpass");
    fs::write(&passfile, "*:*:*:*:wrong\n").unwrap();
    fs::set_permissions(&passfile, fs::Permissions::from_mode(0o600)).unwrap();
    let reader = |dbname: &str| {
        cluster
            .conninfo(dbname)
            .replace("user=postgres", "user=reader")
    };
    let cases = [
        (
            "unreachable",
            format!(
                "host=127.0.0.1 port={} user=reader dbname=postgres",
                free_port()
            ),
            "refused",
        ),
        (
            "password",
            format!(
                "host=127.0.0.1 port={} user=reader dbname=postgres",
                cluster.port
            ),
            "password authentication failed for user \"reader\"",
        ),
        (
            "absent",
            cluster.conninfo("absent"),
            "database \"absent\" does not exist",
        ),
        (
            "right",
            reader("postgres"),
            "permission denied for table closed",
        ),
        ("rows", reader("rows"), "row-level security"),
    ];
    let mut rest = format!(
        "[[database]]\nname = \"whole\"\nconninfo = \"{}\"\nretries = 1\n",
        cluster.conninfo("whole")
    );
    for (name, conninfo, _) in &cases {
        rest += &format!(
            "[[database]]\nname = \"{name}\"\nconninfo = \"{conninfo}\"\nretries = 1\npassfile = \"{}\"\n",
            passfile.display()
        );
    }
    site(&place, "", &rest);
    let outcome = back_up_site(&place).expect(3);
    for (name, _, words) in &cases {
        let (state, message) = outcome.component(name);
        assert_eq!(state, "failed", "{name}: {message}");
        assert!(message.contains(words), "{name}: {message}");
        assert!(outcome.stderr.contains(words), "{name}: {outcome:#?}");
    }
    assert_eq!(outcome.component("whole").0, "complete");
    assert_eq!(outcome.component("good").0, "complete");
    assert!(
        !format!("{outcome:?}").contains("wrong"),
        "a secret is never shown"
    );

    let target = tempfile::tempdir().unwrap();
    place.restore("latest:databases", target.path());
    let names: Vec<_> = fs::read_dir(target.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["whole"], "never a part of a database");
    let rows = fs::read_to_string(target.path().join("whole/tables/public/t/000000")).unwrap();
    assert_eq!(rows.lines().count(), 100);
    check_require_all(&place, &rest, "unreachable");
}

#[test]
fn a_server_without_fitting_tools_names_the_package() {
    let cluster = Cluster::start();
    let folder = tempfile::tempdir().unwrap();
    let open = |folder: &Path| {
        let tools = ToolPlaces {
            folder: Some(folder.to_owned()),
            ..ToolPlaces::default()
        };
        let source = DatabaseSource {
            name: "postgres".to_owned(),
            settings: settings(&cluster.conninfo("postgres")),
            options: DumpOptions {
                retry: RetryPolicy::once(),
                tools,
                ..DumpOptions::default()
            },
        };
        match open_snapshots(&[source]).remove(0) {
            Err(SourceError::Component(message)) => message,
            other => panic!("{other:?}"),
        }
    };
    let message = open(folder.path());
    assert!(
        message.contains("none is installed") && message.contains("install postgresql-client-"),
        "{message}"
    );
    for tool in ["pg_dump", "pg_dumpall"] {
        let path = folder.path().join(tool);
        fs::write(
            &path,
            format!("#!/bin/sh\necho '{tool} (PostgreSQL) 9.2.24'\n"),
        )
        .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let message = open(folder.path());
    assert!(
        message.contains("9.2.24") && message.contains("install postgresql-client-"),
        "{message}"
    );
}
