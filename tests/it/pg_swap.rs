//! A whole database replaced by a restored one: `clean` restores beside it and gives the new one the name at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use holdfast::source::postgres::Connector;
use holdfast::target::postgres::{
    Replacement, RestoreError, RestoreOptions, RestoreReport, RestoreTarget, SwapOptions,
    restore_database,
};

use crate::pg_archive::{MemoryArchive, secret};
use crate::pg_cluster::{Cluster, quick, settings};
use crate::pg_restore::{RICH, RICH_INSIDE, assert_same, dumped};

fn options() -> RestoreOptions {
    RestoreOptions {
        jobs: 2,
        clean: true,
        check: Some(Arc::from(secret())),
        ..RestoreOptions::default()
    }
}

fn target(cluster: &Cluster, dbname: &str) -> RestoreTarget {
    RestoreTarget::with_name(Connector::new(cluster.settings("postgres")), dbname)
}

fn texts(cluster: &Cluster, dbname: &str, sql: &str) -> Vec<String> {
    let rows = cluster.session(dbname).query(sql, &[]).expect(sql);
    rows.iter().map(|row| row.get(0)).collect()
}

fn databases(cluster: &Cluster) -> Vec<String> {
    let sql = "SELECT datname::text FROM pg_database WHERE NOT datistemplate ORDER BY 1";
    texts(cluster, "postgres", sql)
}

/// A cluster with a database `app` that has changed since it was archived.
fn changed() -> (Cluster, MemoryArchive) {
    let cluster = Cluster::start();
    cluster.sql("postgres", "CREATE DATABASE app");
    cluster.sql(
        "app",
        "CREATE TABLE t (i int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 1000)",
    );
    let archive = MemoryArchive::of(&cluster, "app");
    cluster.sql(
        "app",
        "DELETE FROM t WHERE i > 10; CREATE TABLE newer (i int)",
    );
    cluster.sql("postgres", "COMMENT ON DATABASE app IS 'newer'");
    (cluster, archive)
}

fn count(cluster: &Cluster) -> String {
    texts(cluster, "app", "SELECT count(*)::text FROM t").remove(0)
}

#[test]
fn everything_of_the_database_itself_is_as_archived() {
    let cluster = Cluster::start();
    for statement in RICH.split_inclusive(";\n") {
        cluster.sql("postgres", statement);
    }
    let inside = format!(
        "{RICH_INSIDE} ALTER DATABASE \"Ri ch\" CONNECTION LIMIT 1; ALTER DATABASE \"Ri ch\" IS_TEMPLATE true; \
         ALTER ROLE rich_owner IN DATABASE \"Ri ch\" SET work_mem = '9MB';"
    );
    cluster.sql("'Ri ch'", &inside);
    let before = dumped(&cluster, "Ri ch");
    let archive = MemoryArchive::of(&cluster, "Ri ch");
    cluster.sql(
        "postgres",
        "ALTER DATABASE \"Ri ch\" CONNECTION LIMIT -1; ALTER DATABASE \"Ri ch\" RESET ALL; COMMENT ON DATABASE \"Ri ch\" IS 'x'; \
         GRANT ALL ON DATABASE \"Ri ch\" TO PUBLIC; ALTER DATABASE \"Ri ch\" OWNER TO postgres; ALTER ROLE rich_owner IN DATABASE \"Ri ch\" RESET ALL",
    );
    let report = restore_database(&target(&cluster, "Ri ch"), &archive, &options()).unwrap();
    assert!(report.is_complete(), "{report:#?}");
    assert_eq!(report.database, "Ri ch");
    assert_same(&before, &dumped(&cluster, "Ri ch"));
    assert_eq!(databases(&cluster), ["postgres"]);
    let sql = "SELECT shobj_description(oid, 'pg_database') || datconnlimit FROM pg_database WHERE datname = 'Ri ch'";
    assert_eq!(texts(&cluster, "postgres", sql), ["DATABASE \"Ri ch\"1"]);
    let sql = "SELECT datname::text FROM pg_database ORDER BY 1";
    assert_eq!(texts(&cluster, "postgres", sql).len(), 4);
}

#[test]
fn a_database_is_replaced_while_it_is_used() {
    let (cluster, archive) = changed();
    let end = AtomicBool::new(false);
    let seen = thread::scope(|scope| {
        let used = scope.spawn(|| {
            // Whoever asks gets the old content or the new one, or is refused; never another.
            let mut seen = Vec::new();
            while !end.load(Ordering::Relaxed) {
                let connector = Connector::new(cluster.settings("app"));
                let Ok(mut session) = connector.connect(&quick()) else {
                    continue;
                };
                for _ in 0..50 {
                    match session.query_one("SELECT count(*) FROM t", &[]) {
                        Ok(row) => seen.push(row.get::<_, i64>(0)),
                        Err(_) => break,
                    }
                    thread::sleep(Duration::from_millis(2));
                }
            }
            seen
        });
        let idle = cluster.session("app");
        for _ in 0..3 {
            let report = restore_database(&target(&cluster, "app"), &archive, &options()).unwrap();
            assert!(report.is_complete(), "{report:#?}");
        }
        assert!(cluster.session("app").ping().is_ok());
        drop(idle);
        end.store(true, Ordering::Relaxed);
        used.join().unwrap()
    });
    assert!(
        seen.iter().all(|rows| [10, 1000].contains(rows)),
        "{seen:?}"
    );
    assert!(seen.contains(&10), "it was used before");
    assert_eq!(count(&cluster), "1000");
    assert_eq!(databases(&cluster), ["app", "postgres"]);
    let sql = "SELECT coalesce(shobj_description(oid, 'pg_database'), 'none') FROM pg_database WHERE datname = 'app'";
    assert_eq!(texts(&cluster, "postgres", sql), ["none"]);
}

#[test]
fn the_old_database_is_kept_on_request() {
    let (cluster, archive) = changed();
    let keep = RestoreOptions {
        swap: SwapOptions {
            keep: Some("app before".into()),
            ..SwapOptions::default()
        },
        ..options()
    };
    let report = restore_database(&target(&cluster, "app"), &archive, &keep).unwrap();
    assert!(report.is_complete(), "{report:#?}");
    assert_eq!(databases(&cluster), ["app", "app before", "postgres"]);
    let sql = "SELECT count(*)::text FROM t";
    assert_eq!(texts(&cluster, "'app before'", sql), ["10"]);
    assert_eq!(count(&cluster), "1000");
    let refused = restore_database(&target(&cluster, "app"), &archive, &keep).unwrap_err();
    assert!(
        refused.to_string().contains("can't keep the name"),
        "{refused}"
    );
}

fn fails(cluster: &Cluster, archive: &MemoryArchive, options: &RestoreOptions) -> RestoreError {
    let error = restore_database(&target(cluster, "app"), archive, options).expect_err("fails");
    assert_eq!(count(cluster), "10", "{error}");
    assert_eq!(databases(cluster), ["app", "postgres"], "{error}");
    error
}

#[test]
fn a_failure_leaves_the_old_database() {
    let (cluster, mut archive) = changed();
    let not_swapped = |archive: &MemoryArchive, options: &RestoreOptions| -> RestoreReport {
        let report = restore_database(&target(&cluster, "app"), archive, options).unwrap();
        assert!(
            !report.is_complete() && report.not_swapped.is_some(),
            "{report:#?}"
        );
        assert_eq!(count(&cluster), "10");
        assert_eq!(databases(&cluster), ["app", "postgres"]);
        report
    };
    // A damaged archive, rows that are not those of the digest, and what can't be read at all.
    archive.damaged.insert(("public".into(), "t".into(), 0));
    assert_eq!(not_swapped(&archive, &options()).damaged, 1);
    archive.damaged.clear();
    let digest = archive.info.tables[0].rows_digest.clone();
    archive.info.tables[0].rows_digest = "0".repeat(32);
    let report = not_swapped(&archive, &options());
    assert_eq!(report.check.unwrap().differences.len(), 1);
    archive.info.tables[0].rows_digest = digest;
    let schema = std::mem::replace(&mut archive.schema, b"PGDMP nothing".to_vec());
    fails(&cluster, &archive, &options());
    archive.schema = schema;
    let interrupted = RestoreOptions {
        interrupted: Arc::new(AtomicBool::new(true)),
        ..options()
    };
    let error = fails(&cluster, &archive, &interrupted);
    assert!(matches!(error, RestoreError::Interrupted), "{error}");
    // A prepared transaction is not ended by anybody else.
    let max = "ALTER SYSTEM SET max_prepared_transactions = 5";
    cluster.sql("postgres", max);
    let mut cluster = cluster;
    cluster.stop();
    cluster.boot();
    cluster.sql("app", "BEGIN; SELECT 1; PREPARE TRANSACTION 'left'");
    let error = fails(&cluster, &archive, &options()).to_string();
    assert!(error.contains("ROLLBACK PREPARED"), "{error}");
    cluster.sql("app", "ROLLBACK PREPARED 'left'");
    // With the user's word the incomplete one takes the place.
    archive.damaged.insert(("public".into(), "t".into(), 0));
    let anyway = RestoreOptions {
        swap: SwapOptions {
            incomplete: true,
            ..SwapOptions::default()
        },
        ..options()
    };
    let report = restore_database(&target(&cluster, "app"), &archive, &anyway).unwrap();
    assert_eq!((report.damaged, report.not_swapped), (1, None));
    assert_eq!(count(&cluster), "0");
}

#[test]
fn rights_are_asked_for_before_anything_is_done() {
    let (cluster, archive) = changed();
    cluster.sql(
        "postgres",
        "CREATE ROLE mine LOGIN; CREATE ROLE theirs LOGIN",
    );
    let conninfo = cluster
        .conninfo("postgres")
        .replace("user=postgres", "user=mine");
    let mine = RestoreTarget::with_name(Connector::new(settings(&conninfo)), "app");
    let no_owner = RestoreOptions {
        no_owner: true,
        no_privileges: true,
        globals: holdfast::target::postgres::Globals::None,
        ..options()
    };
    let refused = || {
        let error = restore_database(&mine, &archive, &no_owner).expect_err("refused");
        assert_eq!(databases(&cluster), ["app", "postgres"]);
        error.to_string()
    };
    let error = refused();
    assert!(error.contains("ALTER ROLE \"mine\" CREATEDB"), "{error}");
    cluster.sql("postgres", "ALTER ROLE mine CREATEDB");
    let error = refused();
    assert!(error.contains("GRANT \"postgres\" TO \"mine\""), "{error}");
    cluster.sql("postgres", "ALTER DATABASE app OWNER TO mine");
    let theirs = cluster
        .conninfo("app")
        .replace("user=postgres", "user=theirs");
    let other = Connector::new(settings(&theirs)).connect(&quick()).unwrap();
    let error = refused();
    assert!(
        error.contains("GRANT pg_signal_backend TO \"mine\""),
        "{error}"
    );
    cluster.sql("postgres", "GRANT pg_signal_backend TO mine");
    let report = restore_database(&mine, &archive, &no_owner).unwrap();
    assert_eq!(report.not_swapped, None, "{report:#?}");
    drop(other);
    assert_eq!(count(&cluster), "1000");
    assert_eq!(databases(&cluster), ["app", "postgres"]);
}

#[test]
fn leftovers_are_dropped_and_look_alikes_stay() {
    let (cluster, archive) = changed();
    for (name, comment) in [
        (
            "app_holdfast_0a0b0c",
            "holdfast restores this database, it is not complete; it will be app",
        ),
        (
            "app_holdfast_0d0e0f",
            "holdfast replaced this database and will drop it; it was app",
        ),
        ("app_holdfast_ffffff", "of somebody"),
        (
            "app_holdfast_eeeeee",
            "holdfast restores this database, it is not complete; it will be apple",
        ),
    ] {
        cluster.sql("postgres", &format!("CREATE DATABASE {name}"));
        let mark = format!("COMMENT ON DATABASE {name} IS '{comment}'");
        cluster.sql("postgres", &mark);
    }
    // Somebody looks into one of them.
    let user = cluster.session("app_holdfast_0a0b0c");
    let report = restore_database(&target(&cluster, "app"), &archive, &options()).unwrap();
    assert!(report.is_complete(), "{report:#?}");
    drop(user);
    assert_eq!(
        databases(&cluster),
        [
            "app",
            "app_holdfast_eeeeee",
            "app_holdfast_ffffff",
            "postgres"
        ]
    );
    assert_eq!(
        report
            .notes
            .iter()
            .filter(|note| note.contains("interrupted"))
            .count(),
        2
    );
}

#[test]
fn a_missing_database_appears_when_it_is_complete() {
    let (cluster, archive) = changed();
    let anew = target(&cluster, "a new one");
    let (replacement, mut report) = Replacement::restore(&anew, &archive, &options()).unwrap();
    assert!(!databases(&cluster).contains(&"a new one".to_owned()));
    // What is to be done before it is seen is done here.
    let mut session = replacement.connector().connect(&quick()).unwrap();
    session.batch_execute("INSERT INTO t VALUES (0)").unwrap();
    let second = Replacement::restore(&anew, &archive, &options()).unwrap_err();
    assert!(
        second.to_string().contains("another restore of database"),
        "{second}"
    );
    replacement
        .swap(&SwapOptions::default(), &mut report)
        .unwrap();
    assert!(session.ping().is_err());
    assert_eq!(
        texts(&cluster, "'a new one'", "SELECT count(*)::text FROM t"),
        ["1001"]
    );
    assert_eq!(databases(&cluster), ["a new one", "app", "postgres"]);
}
