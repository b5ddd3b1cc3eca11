//! `locks = "hold"`: definitions wait for the dump.

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
