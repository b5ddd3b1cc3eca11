//! `locks = "hold"`: definitions wait for the dump; and the last attempt at a database whose definitions change all the time does the same.

use std::time::{Duration, Instant};

use holdfast::source::postgres::dump::{DumpOptions, Locks};

use crate::pg_cluster::{Cluster, ClusterOptions};
use crate::pg_dump::{dump_with, info, source};

#[test]
fn held_locks_let_no_definition_change() {
    let cluster = Cluster::start();
    cluster.sql(
        "postgres",
        "CREATE TABLE t AS SELECT g FROM generate_series(1, 100) g",
    );
    let (outcomes, archive) = dump_with(
        &[source(&cluster, "postgres", |options| {
            options.locks = Locks::Hold
        })],
        2,
        || {
            let mut session = cluster.session("postgres");
            session.batch_execute("SET lock_timeout = '200ms'").unwrap();
            let error = session.batch_execute("TRUNCATE t").unwrap_err();
            assert_eq!(error.code(), Some("55P03"));
            // One that queues up for longer does not keep the dump from reading.
            let mut queued = cluster.session("postgres");
            std::thread::spawn(move || {
                queued.batch_execute("SET lock_timeout = '20s'; TRUNCATE t")
            });
            std::thread::sleep(Duration::from_millis(300));
        },
    );
    assert_eq!(outcomes[0].as_ref().unwrap().rows, 100);
    assert_eq!(info(&archive, "postgres").tables[0].rows, 100);
}

#[test]
fn held_locks_keep_off_ddl_until_the_end_and_then_let_it_through() {
    let cluster = Cluster::start();
    cluster.sql(
        "postgres",
        "CREATE TABLE t AS SELECT g FROM generate_series(1, 100) g; CREATE TABLE u AS SELECT 1 AS a",
    );
    let mut waiter = None;
    let hold = |options: &mut DumpOptions| options.locks = Locks::Hold;
    let (outcomes, archive) = dump_with(&[source(&cluster, "postgres", hold)], 2, || {
        let mut session = cluster.session("postgres");
        waiter = Some(std::thread::spawn(move || {
            let begun = Instant::now();
            session
                .batch_execute("ALTER TABLE t ADD COLUMN x int; UPDATE t SET x = 1")
                .unwrap();
            begun.elapsed()
        }));
        std::thread::sleep(Duration::from_millis(700));
    });
    let outcome = outcomes[0].as_ref().unwrap();
    assert_eq!(outcome.rows, 101);
    assert!(
        !outcome.notes.iter().any(|note| note.contains("again")),
        "{outcome:?}"
    );
    assert_eq!(info(&archive, "postgres").tables[0].columns, ["g"]);
    // It waited for the dump, and for nothing else.
    let waited = waiter.unwrap().join().unwrap();
    assert!(waited >= Duration::from_millis(600), "{waited:?}");
    cluster.sql("postgres", "ALTER TABLE u ADD COLUMN x int");
}

#[test]
fn held_locks_that_do_not_fit_are_refused_before_they_are_taken() {
    let cluster = Cluster::start_with(&ClusterOptions {
        conf: vec![
            "max_connections = 20".to_owned(),
            "max_locks_per_transaction = 10".to_owned(),
        ],
        ..ClusterOptions::default()
    });
    // Each in a transaction of its own, because that many locks do not fit.
    let mut session = cluster.session("postgres");
    for i in 0..110 {
        session
            .batch_execute(&format!("CREATE TABLE t{i} (a int)"))
            .unwrap();
    }
    let hold = |options: &mut DumpOptions| options.locks = Locks::Hold;
    let (outcomes, _) = dump_with(&[source(&cluster, "postgres", hold)], 1, || {});
    let error = outcomes[0].as_ref().unwrap_err().to_string();
    assert!(
        error.contains("needs about 220 locks, the server has room for 200")
            && error.contains("locks = \"optimistic\""),
        "{error}"
    );
}

#[test]
fn a_definition_that_waits_before_pg_dump_is_let_through() {
    let cluster = Cluster::start();
    cluster.sql("postgres", "CREATE TABLE t AS SELECT 1 AS a");
    // The first pg_dump finds an ALTER in the queue, which waits for the locks of the dump.
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("pg_dump");
    std::fs::write(
        &script,
        format!(
            "#!/bin/sh\ncase \"$1\" in --version) echo 'pg_dump (PostgreSQL) 99.0'; exit 0;; esac\n\
             if mkdir {0}/once 2>/dev/null; then PGOPTIONS= {1} -Xq -c 'ALTER TABLE t ADD COLUMN b int' >/dev/null 2>&1 & sleep 1; fi\nexec {2} \"$@\"\n",
            folder.path().display(),
            cluster.program("psql").display(),
            cluster.program("pg_dump").display()
        ),
    )
    .unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (outcomes, archive) = dump_with(
        &[source(&cluster, "postgres", |options| {
            options.locks = Locks::Hold;
            options.tools.folder = Some(folder.path().to_owned());
        })],
        1,
        || {},
    );
    let outcome = outcomes[0].as_ref().unwrap();
    assert_eq!(outcome.rows, 1, "{outcome:?}");
    assert_eq!(info(&archive, "postgres").tables[0].columns, ["a", "b"]);
}

/// Writes a `pg_dump` that runs a command of the shell before it dumps; `$n` is the number of the call.
fn pg_dump_after(cluster: &Cluster, command: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("pg_dump");
    let text = format!(
        "#!/bin/sh\ncase \"$1\" in --version) echo 'pg_dump (PostgreSQL) 99.0'; exit 0;; esac\n\
         echo >>{0}/calls\nn=$(wc -l <{0}/calls)\n\
         psql() {{ PGOPTIONS= {1} -Xq -c \"SET lock_timeout = '200ms'\" -c \"$1\" >/dev/null 2>&1; }}\n{command}\nexec {2} \"$@\"\n",
        folder.path().display(),
        cluster.program("psql").display(),
        cluster.program("pg_dump").display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    folder
}

const RENAME: &str = "psql \"ALTER TABLE t RENAME COLUMN c$n TO c$((n + 1))\"";

fn calls(folder: &tempfile::TempDir) -> usize {
    let calls = std::fs::read_to_string(folder.path().join("calls")).unwrap();
    calls.lines().count()
}

#[test]
fn the_last_attempt_at_a_database_that_is_altered_all_the_time_holds_its_tables() {
    let cluster = Cluster::start();
    cluster.sql("postgres", "CREATE TABLE t AS SELECT 7 AS c1");
    let folder = pg_dump_after(&cluster, RENAME);
    let tools = |options: &mut DumpOptions| options.tools.folder = Some(folder.path().to_owned());
    let (outcomes, archive) = dump_with(&[source(&cluster, "postgres", tools)], 2, || {});
    let outcome = outcomes[0].as_ref().unwrap();
    let said = |words: &str| outcome.notes.iter().any(|note| note.contains(words));
    assert!(
        said("begun again 3 times") && said("all tables were locked"),
        "{outcome:?}"
    );
    assert_eq!(info(&archive, "postgres").tables[0].columns, ["c4"]);
    assert_eq!(
        archive.bytes("databases/postgres/tables/public/t/000000"),
        b"7\n"
    );
    assert_eq!(calls(&folder), 4);
    cluster.sql("postgres", "ALTER TABLE t ADD COLUMN x int");
}

#[test]
fn without_room_for_held_locks_the_last_attempt_goes_without_and_says_so() {
    let cluster = Cluster::start_with(&ClusterOptions {
        conf: vec![
            "max_connections = 20".to_owned(),
            "max_locks_per_transaction = 10".to_owned(),
        ],
        ..ClusterOptions::default()
    });
    let mut session = cluster.session("postgres");
    session
        .batch_execute("CREATE TABLE t AS SELECT 7 AS c1")
        .unwrap();
    for i in 0..110 {
        session
            .batch_execute(&format!("CREATE TABLE t{i} (a int)"))
            .unwrap();
    }
    let folder = pg_dump_after(&cluster, RENAME);
    let tools = |options: &mut DumpOptions| options.tools.folder = Some(folder.path().to_owned());
    let (outcomes, _) = dump_with(&[source(&cluster, "postgres", tools)], 2, || {});
    let error = outcomes[0].as_ref().unwrap_err().to_string();
    assert!(
        error.contains("begun again 3 times, the last time without held locks")
            && error.contains("the server has room for 200"),
        "{error}"
    );
    assert_eq!(calls(&folder), 4);
}

#[test]
fn a_table_that_is_copied_and_renamed_before_pg_dump_comes_to_it_starts_the_database_again() {
    let cluster = Cluster::start();
    cluster.sql(
        "postgres",
        "CREATE TABLE t AS SELECT 7 AS c1; CREATE INDEX i ON t (c1); CREATE TABLE u AS SELECT 1 AS a",
    );
    // The rows are read beside pg_dump, so that they are there long before it begins; the second time nothing happens.
    let once = "if [ $n = 1 ]; then sleep 2; psql 'ALTER TABLE t RENAME COLUMN c1 TO c2'; fi";
    let folder = pg_dump_after(&cluster, once);
    let tools = |options: &mut DumpOptions| options.tools.folder = Some(folder.path().to_owned());
    let (outcomes, archive) = dump_with(&[source(&cluster, "postgres", tools)], 2, || {});
    let outcome = outcomes[0].as_ref().unwrap();
    assert!(
        outcome
            .notes
            .iter()
            .any(|note| note.contains("begun again 1 times")),
        "{outcome:?}"
    );
    assert_eq!(info(&archive, "postgres").tables[0].columns, ["c2"]);
    assert_eq!(calls(&folder), 2);
    // Rewritten after it was copied, it is still the one of the snapshot.
    let folder = pg_dump_after(
        &cluster,
        "sleep 2; psql 'TRUNCATE t'; psql 'ALTER TABLE u ADD COLUMN b int'",
    );
    let tools = |options: &mut DumpOptions| options.tools.folder = Some(folder.path().to_owned());
    let (outcomes, archive) = dump_with(&[source(&cluster, "postgres", tools)], 2, || {});
    assert!(
        outcomes[0].as_ref().unwrap().notes.is_empty(),
        "{outcomes:?}"
    );
    assert_eq!(
        archive.bytes("databases/postgres/tables/public/t/000000"),
        b"7\n"
    );
    assert_eq!(calls(&folder), 1);
}
