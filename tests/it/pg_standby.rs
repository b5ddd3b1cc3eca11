//! A standby as source: what it does not have, what its replay ends, and how that is kept from happening.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use holdfast::source::SourceError;
use holdfast::source::postgres::{StopFlag, replay};

use crate::pg_cluster::{Cluster, ClusterOptions, signal};
use crate::pg_dump::{dump_with, info, source};
use crate::place::{Outcome, Place};

/// Waits until a query on a server gives an answer.
pub(crate) fn wait_for(cluster: &Cluster, sql: &str, expected: &str) {
    let begun = Instant::now();
    while cluster.session("postgres").simple_column(sql).unwrap()[0].as_deref() != Some(expected) {
        assert!(begun.elapsed() < Duration::from_secs(20), "{sql}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A primary with a table, and a standby that waits for nobody.
fn impatient() -> (Cluster, Cluster) {
    let primary = Cluster::start_with(&ClusterOptions {
        conf: vec![
            "wal_level = replica".to_owned(),
            "max_standby_streaming_delay = 50ms".to_owned(),
            "max_standby_archive_delay = 50ms".to_owned(),
            "autovacuum = off".to_owned(),
        ],
        ..ClusterOptions::default()
    });
    primary.sql(
        "postgres",
        "CREATE TABLE t AS SELECT g FROM generate_series(1, 1000) g",
    );
    let standby = primary.standby();
    wait_for(
        &standby,
        "SELECT count(*) FROM pg_class WHERE relname = 't'",
        "1",
    );
    (primary, standby)
}

/// Removes rows that an older snapshot needs, and waits until the standby would like to know.
fn vacuum(primary: &Cluster) {
    primary.sql("postgres", "DELETE FROM t WHERE g > 900");
    primary.sql("postgres", "VACUUM t");
}

fn is_paused(standby: &Cluster) -> bool {
    replay::is_paused(&mut standby.session("postgres")).unwrap()
}

/// A folder with a `pg_dump` that is this script.
fn fake_pg_dump(script: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, body: &str| {
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let version = "case \"$1\" in --version) echo 'pg_dump (PostgreSQL) 99.0'; exit 0;; esac\n";
    write("pg_dump", &format!("{version}{script}"));
    folder
}

fn tools(options: &mut holdfast::source::postgres::dump::DumpOptions, folder: &Path) {
    options.tools.folder = Some(folder.to_owned());
}

#[test]
fn a_dump_that_replay_ended_is_begun_again_once() {
    let (primary, standby) = impatient();
    let (outcomes, archive) = dump_with(&[source(&standby, "postgres", |_| {})], 2, || {
        vacuum(&primary);
        wait_for(
            &standby,
            "SELECT confl_snapshot > 0 FROM pg_stat_database_conflicts WHERE datname = 'postgres'",
            "t",
        );
    });
    let outcome = outcomes[0].as_ref().unwrap();
    assert!(
        outcome
            .notes
            .iter()
            .any(|note| note.contains("the replay of the standby ended it once")),
        "{outcome:?}"
    );
    assert_eq!(outcome.rows, 900);
    assert!(info(&archive, "postgres").standby);
}

#[test]
fn a_conflict_is_explained_with_the_settings_of_the_standby() {
    let (_primary, standby) = impatient();
    let check = |detail: &str, expected: &[&str]| {
        let folder = fake_pg_dump(&format!(
            "echo 'ERROR:  canceling statement due to conflict with recovery' >&2; echo 'DETAIL:  {detail}' >&2; exit 1"
        ));
        let (outcomes, _) = dump_with(
            &[source(&standby, "postgres", |options| {
                tools(options, folder.path())
            })],
            1,
            || {},
        );
        let error = outcomes[0].as_ref().unwrap_err().to_string();
        for part in expected {
            assert!(error.contains(part), "{part}: {error}");
        }
    };
    check(
        "User query might have needed to see row versions that must be removed.",
        &[
            "max_standby_streaming_delay = 50ms",
            "hot_standby_feedback = off",
            "set hot_standby_feedback = on",
            "pause-replay = true",
        ],
    );
    check(
        "User was holding a relation lock for too long.",
        &[
            "raise max_standby_streaming_delay",
            "pause-replay = true",
            "relation lock",
        ],
    );
}

#[test]
fn a_paused_replay_ends_nothing_and_goes_on_afterwards() {
    let (primary, standby) = impatient();
    let (outcomes, _) = dump_with(
        &[source(&standby, "postgres", |options| {
            options.pause_replay = true
        })],
        2,
        || {
            assert!(is_paused(&standby));
            vacuum(&primary);
            primary.sql("postgres", "ALTER TABLE t ADD COLUMN more int");
            std::thread::sleep(Duration::from_millis(500));
        },
    );
    let outcome = outcomes[0].as_ref().unwrap();
    assert_eq!(outcome.rows, 1000, "{outcome:?}");
    assert!(
        !outcome.notes.iter().any(|note| note.contains("again")),
        "{outcome:?}"
    );
    assert!(!is_paused(&standby));
    wait_for(&standby, "SELECT count(*) FROM t", "900");
}

#[test]
fn replay_goes_on_after_an_error_and_after_an_interrupt() {
    let (_primary, standby) = impatient();
    let folder = fake_pg_dump("echo broken >&2; exit 1");
    let (outcomes, _) = dump_with(
        &[source(&standby, "postgres", |options| {
            options.pause_replay = true;
            tools(options, folder.path());
        })],
        1,
        || {},
    );
    assert!(
        outcomes[0]
            .as_ref()
            .unwrap_err()
            .to_string()
            .contains("broken")
    );
    assert!(!is_paused(&standby));

    let flag = Arc::new(AtomicBool::new(false));
    let (outcomes, _) = dump_with(
        &[source(&standby, "postgres", |options| {
            options.pause_replay = true;
            options.stop = StopFlag::new(Arc::clone(&flag));
        })],
        1,
        || {
            assert!(is_paused(&standby));
            flag.store(true, Ordering::SeqCst);
        },
    );
    assert!(matches!(outcomes[0], Ok(_) | Err(SourceError::Run(_))));
    assert!(!is_paused(&standby));

    // A pause of somebody else is left as it is.
    standby.sql("postgres", "SELECT pg_wal_replay_pause()");
    let (outcomes, _) = dump_with(
        &[source(&standby, "postgres", |options| {
            options.pause_replay = true
        })],
        1,
        || {},
    );
    assert_eq!(outcomes[0].as_ref().unwrap().rows, 1000);
    assert!(is_paused(&standby));
}

#[test]
fn a_pause_without_the_right_names_the_grant() {
    let (primary, standby) = impatient();
    primary.sql(
        "postgres",
        "CREATE ROLE reader LOGIN; GRANT pg_read_all_data TO reader",
    );
    wait_for(
        &standby,
        "SELECT count(*) FROM pg_roles WHERE rolname = 'reader'",
        "1",
    );
    let conninfo = standby
        .conninfo("postgres")
        .replace("user=postgres", "user=reader");
    let open =
        || crate::pg_dump::source_at(&conninfo, "postgres", |options| options.pause_replay = true);
    let (outcomes, _) = dump_with(&[open()], 1, || {});
    let error = outcomes[0].as_ref().unwrap_err().to_string();
    assert!(
        error.contains("pause-replay") && error.contains("permission denied"),
        "{error}"
    );
    let mut session =
        holdfast::source::postgres::Connector::new(crate::pg_cluster::settings(&conninfo))
            .connect(&crate::pg_cluster::quick())
            .unwrap();
    let missing = replay::missing_rights(&mut session).unwrap();
    assert_eq!(missing.len(), 2, "{missing:?}");
    for gap in missing {
        let grant = gap
            .split("; ")
            .nth(1)
            .unwrap()
            .split(" (on")
            .next()
            .unwrap();
        primary.sql("postgres", grant);
    }
    wait_for(
        &standby,
        "SELECT has_function_privilege('reader', 'pg_wal_replay_resume()', 'EXECUTE')",
        "t",
    );
    let (outcomes, _) = dump_with(&[open()], 1, || {});
    assert_eq!(outcomes[0].as_ref().unwrap().rows, 1000);
    assert!(!is_paused(&standby));
}

#[test]
fn the_program_lets_replay_go_on_when_it_is_interrupted() {
    let (_primary, standby) = impatient();
    let major = standby
        .session("postgres")
        .simple_column("SELECT current_setting('server_version_num')::int / 10000")
        .unwrap();
    let folder = fake_pg_dump("exec sleep 60");
    let script = fs::read_to_string(folder.path().join("pg_dump")).unwrap();
    let version = format!("{}.99", major[0].as_deref().unwrap());
    fs::write(
        folder.path().join("pg_dump"),
        script.replace("99.0", &version),
    )
    .unwrap();
    let place = Place::small();
    let site = place.path("site.toml");
    fs::write(
        &site,
        format!(
            "[site]\nname = \"s\"\n[[database]]\nname = \"d\"\nconninfo = \"{}\"\npause-replay = true\n",
            standby.conninfo("postgres")
        ),
    )
    .unwrap();
    // Once it ends by itself, twice it ends at once.
    for signals in [1, 2] {
        let path = std::env::var("PATH").unwrap_or_default();
        let child = place
            .command(["backup", "--site", site.to_str().unwrap()])
            .env("PATH", format!("{}:{path}", folder.path().display()))
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while !is_paused(&standby) {
            assert!(begun.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(Duration::from_millis(300));
        let begun = Instant::now();
        for _ in 0..signals {
            signal(child.id(), "INT");
            std::thread::sleep(Duration::from_millis(10));
        }
        let outcome = Outcome::of(child.wait_with_output().unwrap());
        assert_eq!(outcome.code, Some(130), "{outcome:#?}");
        assert!(
            begun.elapsed() < Duration::from_secs(8),
            "{:?}",
            begun.elapsed()
        );
        assert!(!is_paused(&standby), "{outcome:#?}");
    }
}
