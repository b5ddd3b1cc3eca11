//! Several databases at a time, and servers that give few connections.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use holdfast::source::postgres::Connector;
use holdfast::source::postgres::dump::{DatabaseSource, DumpOptions, Locks, cluster_consistency};
use holdfast::target::postgres::{
    Globals, RestoreOptions, RestoreReport, RestoreTarget, restore_database,
};

use crate::pg_archive::MemoryArchive;
use crate::pg_cluster::{Cluster, ClusterOptions, settings};
use crate::pg_dump::{dump_with, info, source, source_at};

/// Counts the connections of others while something runs; returns the most that there were, of each database and of all.
fn watched<T>(cluster: &Cluster, work: impl FnOnce() -> T) -> (T, BTreeMap<String, usize>) {
    let mut session = cluster.session("template1");
    let done = Arc::new(AtomicBool::new(false));
    let watcher = {
        let done = Arc::clone(&done);
        thread::spawn(move || {
            let mut most: BTreeMap<String, usize> = BTreeMap::new();
            while !done.load(Ordering::Relaxed) {
                let sql = "SELECT datname::text FROM pg_stat_activity \
                           WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
                let rows = session.query(sql, &[]).unwrap();
                let mut now: BTreeMap<String, usize> = BTreeMap::new();
                for row in rows {
                    let name: Option<String> = row.get(0);
                    *now.entry(name.unwrap_or_default()).or_default() += 1;
                    *now.entry("all".to_owned()).or_default() += 1;
                }
                for (name, count) in now {
                    let most = most.entry(name).or_default();
                    *most = count.max(*most);
                }
                thread::sleep(Duration::from_millis(2));
            }
            most
        })
    };
    let result = work();
    done.store(true, Ordering::Relaxed);
    (result, watcher.join().unwrap())
}

/// How long a session that said goodbye may still be seen on a busy machine; a child here stays three times as long.
const LEAVING: Duration = Duration::from_millis(500);

/// Returns for how long without a break there were more connections of others than `limit` while something ran.
fn above<T>(cluster: &Cluster, limit: i64, work: impl FnOnce() -> T) -> (T, Duration) {
    let mut session = cluster.session("template1");
    let done = Arc::new(AtomicBool::new(false));
    let watcher = {
        let done = Arc::clone(&done);
        thread::spawn(move || {
            let (mut since, mut longest) = (None, Duration::ZERO);
            while !done.load(Ordering::Relaxed) {
                let sql = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
                let count: i64 = session.query_one(sql, &[]).unwrap().get(0);
                match count > limit {
                    true => longest = longest.max(since.get_or_insert_with(Instant::now).elapsed()),
                    false => since = None,
                }
                thread::sleep(Duration::from_millis(2));
            }
            longest
        })
    };
    let result = work();
    done.store(true, Ordering::Relaxed);
    (result, watcher.join().unwrap())
}

fn create(cluster: &Cluster, names: &[String], sql: &str) {
    let mut session = cluster.session("postgres");
    for name in names {
        session
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .unwrap();
        if !sql.is_empty() {
            cluster.sql(name, sql);
        }
    }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("d{n:02}")).collect()
}

fn all(
    cluster: &Cluster,
    names: &[String],
    change: impl Fn(&mut DumpOptions) + Copy,
) -> Vec<DatabaseSource> {
    names
        .iter()
        .map(|name| source(cluster, name, change))
        .collect()
}

#[test]
fn sixty_databases_never_exceed_the_budget() {
    let cluster = Cluster::start();
    // A template with a table is faster than sixty logins.
    cluster.sql(
        "template1",
        "CREATE TABLE t AS SELECT g AS a FROM generate_series(1, 10) g",
    );
    let names = names(60);
    create(&cluster, &names, "");
    let sources = all(&cluster, &names, |options| {
        options.connections_max = Some(7)
    });
    let ((outcomes, archive), most) = watched(&cluster, || dump_with(&sources, 4, || {}));
    for (name, outcome) in names.iter().zip(&outcomes) {
        let outcome = outcome.as_ref().unwrap();
        assert_eq!((outcome.tables, outcome.rows), (1, 10), "{name}");
        assert_eq!(info(&archive, name).tables[0].rows, 10);
    }
    // On a busy machine one may still be seen that has said goodbye.
    assert!(most["all"] <= 8, "{most:?}");
    assert!(most["all"] >= 5, "{most:?}");
    // Six wait for nothing; the others say why they are later.
    let late = |outcome: &&_| -> bool {
        let outcome: &holdfast::source::postgres::dump::DatabaseOutcome = outcome;
        outcome
            .notes
            .iter()
            .any(|note| note.contains("connections-max = 7"))
    };
    let outcomes: Vec<_> = outcomes.iter().flatten().collect();
    assert_eq!(outcomes.iter().copied().filter(|o| late(o)).count(), 54);
    let consistency = cluster_consistency(&outcomes);
    assert_eq!(consistency.len(), 1);
    assert!(consistency[0].spread_ms > 0);
}

#[test]
fn all_snapshots_are_opened_together_where_there_is_room() {
    let cluster = Cluster::start();
    cluster.sql(
        "template1",
        "CREATE TABLE t AS SELECT g AS a FROM generate_series(1, 10) g",
    );
    let names = names(30);
    create(&cluster, &names, "");
    let sources = all(&cluster, &names, |_| {});
    let ((outcomes, _), most) = watched(&cluster, || {
        dump_with(&sources, 4, || {
            cluster.sql("d07", "INSERT INTO t VALUES (0)")
        })
    });
    let outcomes: Vec<_> = outcomes.iter().flatten().collect();
    assert_eq!(
        outcomes.iter().map(|outcome| outcome.rows).sum::<u64>(),
        300
    );
    let consistency = cluster_consistency(&outcomes);
    assert_eq!((consistency.len(), consistency[0].atomic), (1, true));
    // Half of those that the server has free, of one hundred.
    assert!((31..=48).contains(&most["all"]), "{most:?}");
}

#[test]
fn a_large_database_gets_the_connections_that_small_ones_do_not_need() {
    let cluster = Cluster::start();
    let mut all_names = names(3);
    create(&cluster, &all_names, "CREATE TABLE t AS SELECT 1 AS a");
    all_names.push("large".to_owned());
    create(
        &cluster,
        &["large".to_owned()],
        "CREATE TABLE l AS SELECT g AS a, repeat('x', 1000) AS b FROM generate_series(1, 150000) g",
    );
    let sources = all(&cluster, &all_names, |options| options.range_blocks = 2_500);
    let ((outcomes, archive), most) = watched(&cluster, || dump_with(&sources, 4, || {}));
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(info(&archive, "large").tables[0].rows, 150_000);
    assert_eq!(most["large"], 4, "{most:?}");
}

#[test]
fn a_database_that_fails_leaves_the_others_whole() {
    let cluster = Cluster::start();
    let names = names(5);
    create(&cluster, &names, "CREATE TABLE t AS SELECT 1 AS a");
    let mut session = cluster.session("d02");
    let mut sources = all(&cluster, &names, |options| {
        options.lock_wait = Duration::from_millis(300);
    });
    sources.push(source(&cluster, "nowhere", |_| {}));
    let (outcomes, archive) = dump_with(&sources, 2, || {
        session
            .batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
            .unwrap();
    });
    let good: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(good, [true, true, false, true, true, false]);
    let has = |name: &str| {
        let prefix = format!("databases/{name}/");
        archive.files.keys().any(|path| path.starts_with(&prefix))
    };
    assert!(!has("d02") && has("d01") && has("d04"));
}

#[test]
fn a_role_with_two_connections_is_enough() {
    let cluster = Cluster::start();
    let names = names(4);
    create(
        &cluster,
        &names,
        "CREATE TABLE t AS SELECT g AS a, repeat('x', 500) AS b FROM generate_series(1, 20000) g",
    );
    cluster.sql(
        "postgres",
        "CREATE ROLE few LOGIN CONNECTION LIMIT 2; GRANT pg_read_all_data TO few",
    );
    let conninfo = |name: &str| cluster.conninfo(name).replace("user=postgres", "user=few");
    let sources: Vec<_> = names
        .iter()
        .map(|name| source_at(&conninfo(name), name, |options| options.range_blocks = 100))
        .collect();
    let ((outcomes, archive), most) = watched(&cluster, || dump_with(&sources, 4, || {}));
    for (name, outcome) in names.iter().zip(&outcomes) {
        assert_eq!(outcome.as_ref().unwrap().rows, 20_000, "{name}");
        assert_eq!(info(&archive, name).tables[0].parts, 14);
    }
    assert!(most["all"] <= 2, "{most:?}");
    let notes = &outcomes[3].as_ref().unwrap().notes;
    assert!(
        notes
            .iter()
            .any(|note| note.contains("ALTER ROLE \"few\" CONNECTION LIMIT")),
        "{notes:?}"
    );
}

#[test]
fn connections_that_others_take_meanwhile_are_done_without() {
    let cluster = Cluster::start_with(&ClusterOptions {
        conf: vec![
            "max_connections = 10".to_owned(),
            "superuser_reserved_connections = 0".to_owned(),
        ],
        ..ClusterOptions::default()
    });
    cluster.sql(
        "postgres",
        "CREATE TABLE t AS SELECT g AS a, repeat('x', 1000) AS b FROM generate_series(1, 100000) g",
    );
    let one = source(&cluster, "postgres", |options| {
        options.range_blocks = 1_000;
        options.connections_max = Some(10);
    });
    let mut others = Vec::new();
    let (outcomes, archive) = dump_with(&[one], 6, || {
        others.extend((0..8).map(|_| cluster.session("template1")));
    });
    assert_eq!(outcomes[0].as_ref().unwrap().rows, 100_000);
    assert!(info(&archive, "postgres").tables[0].parts > 10);
    drop(others);
}

#[test]
fn a_database_with_few_connections() {
    let cluster = Cluster::start();
    cluster.sql(
        "postgres",
        "CREATE ROLE few LOGIN; GRANT pg_read_all_data TO few",
    );
    let names = names(1);
    create(
        &cluster,
        &names,
        "CREATE TABLE t AS SELECT g AS a, repeat('x', 500) AS b FROM generate_series(1, 20000) g",
    );
    let conninfo = cluster.conninfo("d00").replace("user=postgres", "user=few");
    let attempt = |limit: u32| {
        cluster.sql(
            "postgres",
            &format!("ALTER DATABASE d00 CONNECTION LIMIT {limit}"),
        );
        let one = source_at(&conninfo, "d00", |options| options.range_blocks = 100);
        let ((outcomes, _), most) = watched(&cluster, || dump_with(&[one], 4, || {}));
        (outcomes.into_iter().next().unwrap(), most)
    };
    let (outcome, most) = attempt(2);
    assert_eq!(outcome.unwrap().rows, 20_000);
    assert_eq!(most["d00"], 2);
    let (outcome, _) = attempt(1);
    let words = outcome.unwrap_err().to_string();
    assert!(
        words.contains("pg_dump needs a connection beside")
            && words.contains("ALTER DATABASE \"d00\" CONNECTION LIMIT"),
        "{words}"
    );
    let (outcome, _) = attempt(0);
    let words = outcome.unwrap_err().to_string();
    assert!(
        words.contains("too many connections for database \"d00\""),
        "{words}"
    );
}

#[test]
fn two_names_of_a_cluster_are_one_folder() {
    let cluster = Cluster::start_with(&ClusterOptions {
        tcp: true,
        ..ClusterOptions::default()
    });
    let other = Cluster::start();
    let names = names(3);
    create(&cluster, &names, "");
    let by_address = |host: &str, name: &str| {
        let conninfo = format!(
            "host={host} port={} user=postgres dbname={name}",
            cluster.port
        );
        source_at(&conninfo, name, |_| {})
    };
    let sources = [
        by_address("localhost", "d00"),
        source(&cluster, "d01", |_| {}),
        by_address("127.0.0.1", "d02"),
        source(&other, "postgres", |_| {}),
    ];
    let (outcomes, archive) = dump_with(&sources, 4, || {});
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    let folders: Vec<&String> = archive
        .files
        .keys()
        .filter(|path| path.starts_with("clusters/"))
        .collect();
    let first = format!("clusters/localhost-{}/globals.sql", cluster.port);
    assert_eq!(folders, ["clusters/local-5432/globals.sql", &first]);
    let identifier = |cluster: &Cluster| {
        let sql = "SELECT system_identifier::text FROM pg_control_system()";
        let text: String = cluster
            .session("postgres")
            .query_one(sql, &[])
            .unwrap()
            .get(0);
        Some(text)
    };
    for name in &names {
        assert_eq!(
            info(&archive, name).cluster,
            format!("localhost-{}", cluster.port)
        );
        assert_eq!(info(&archive, name).system_identifier, identifier(&cluster));
    }
    let consistency = cluster_consistency(&outcomes.iter().flatten().collect::<Vec<_>>());
    assert_eq!(consistency.len(), 2);
    assert!(consistency.iter().all(|cluster| cluster.atomic));

    // Two clusters behind what looks like one place.
    let third = Cluster::start();
    let sources = [
        source(&other, "postgres", |_| {}),
        source(&third, "template1", |_| {}),
    ];
    let (_, archive) = dump_with(&sources, 4, || {});
    let end = identifier(&third).unwrap().split_off(13);
    assert_eq!(info(&archive, "postgres").cluster, "local-5432");
    assert_eq!(
        info(&archive, "template1").cluster,
        format!("local-5432-{end}")
    );
}

/// A database with a little of everything that sessions side by side do in a restore.
fn archived(cluster: &Cluster) -> MemoryArchive {
    cluster.sql(
        "postgres",
        "CREATE ROLE few LOGIN CREATEDB; GRANT pg_read_all_data TO few",
    );
    cluster.sql("postgres", "CREATE DATABASE original OWNER few");
    cluster.sql(
        "original",
        "SET ROLE few; CREATE TABLE a AS SELECT g AS a FROM generate_series(1, 5000) g; CREATE INDEX ON a (a); \
         CREATE TABLE b AS SELECT g AS a FROM generate_series(1, 4000) g; ALTER TABLE b ADD PRIMARY KEY (a); \
         CREATE TABLE c (a int REFERENCES b); INSERT INTO c SELECT a FROM b; CREATE SEQUENCE s; SELECT nextval('s'); \
         SELECT lo_from_bytea(50000, 'large'); CREATE VIEW v AS SELECT * FROM a",
    );
    let (outcomes, tree) = dump_with(&[source(cluster, "original", |_| {})], 2, || {});
    assert!(outcomes[0].is_ok());
    MemoryArchive::from_tree(&tree, "original")
}

fn restored_as_few(
    cluster: &Cluster,
    archive: &MemoryArchive,
) -> (RestoreReport, BTreeMap<String, usize>) {
    let conninfo = cluster
        .conninfo("postgres")
        .replace("user=postgres", "user=few");
    let target = RestoreTarget::with_name(Connector::new(settings(&conninfo)), "again");
    let options = RestoreOptions {
        jobs: 4,
        globals: Globals::None,
        no_privileges: true,
        check: Some(Arc::from([9; 192])),
        ..RestoreOptions::default()
    };
    let (report, most) = watched(cluster, || restore_database(&target, archive, &options));
    let report = report.unwrap();
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    assert_eq!(report.rows, 13_000);
    let check = report.check.as_ref().unwrap();
    assert!(check.differences.is_empty(), "{check:?}");
    (report, most)
}

#[test]
fn a_restore_with_two_connections_for_its_role() {
    let cluster = Cluster::start();
    let archive = archived(&cluster);
    cluster.sql("postgres", "ALTER ROLE few CONNECTION LIMIT 2");
    let (report, most) = restored_as_few(&cluster, &archive);
    assert!(most["again"] <= 2, "{most:?}");
    let notes = &report.notes;
    let said = notes
        .iter()
        .filter(|note| note.contains("too many connections for role"));
    assert!(said.clone().count() >= 1, "{notes:?}");
    assert!(
        said.clone().all(|note| note.contains("CONNECTION LIMIT")),
        "{notes:?}"
    );
}

#[test]
fn a_restore_into_a_database_with_one_connection() {
    let cluster = Cluster::start();
    let archive = archived(&cluster);
    cluster.sql(
        "postgres",
        "CREATE DATABASE again OWNER few CONNECTION LIMIT 1",
    );
    let (report, most) = restored_as_few(&cluster, &archive);
    assert_eq!(most["again"], 1, "{most:?}");
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.contains("too many connections for database")),
        "{:?}",
        report.notes
    );
}

#[test]
fn a_schema_that_is_dumped_beside_the_rows_counts_as_a_connection() {
    let cluster = Cluster::start();
    cluster.sql(
        "postgres",
        "CREATE TABLE t AS SELECT g AS a, repeat('x', 500) AS b FROM generate_series(1, 60000) g",
    );
    // A pg_dump that keeps its connection for a while.
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("pg_dump");
    let text = format!(
        "#!/bin/sh\ncase \"$1\" in --version) echo 'pg_dump (PostgreSQL) 99.0'; exit 0;; esac\n\
         {} -Xqc 'SELECT pg_sleep(1.5)' >/dev/null\nsleep 0.3\nexec {} \"$@\"\n",
        cluster.program("psql").display(),
        cluster.program("pg_dump").display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for (limit, locks) in [
        (2, Locks::Optimistic),
        (3, Locks::Optimistic),
        (3, Locks::Hold),
    ] {
        let one = source(&cluster, "postgres", |options| {
            options.range_blocks = 100;
            options.connections_max = Some(usize::try_from(limit).unwrap());
            options.locks = locks;
            options.tools.folder = Some(folder.path().to_owned());
        });
        let ((outcomes, archive), longest) = above(&cluster, limit, || dump_with(&[one], 4, || {}));
        assert_eq!(outcomes[0].as_ref().unwrap().rows, 60_000);
        assert!(info(&archive, "postgres").tables[0].parts > 10);
        assert!(longest < LEAVING, "{limit} {locks:?} {longest:?}");
    }
    // Two databases, each with its child: one after the other where there is no room.
    cluster.sql("postgres", "CREATE DATABASE other TEMPLATE postgres");
    let sources: Vec<_> = ["postgres", "other"]
        .iter()
        .map(|name| {
            source(&cluster, name, |options| {
                options.range_blocks = 100;
                options.connections_max = Some(3);
                options.tools.folder = Some(folder.path().to_owned());
            })
        })
        .collect();
    let ((outcomes, _), longest) = above(&cluster, 3, || dump_with(&sources, 4, || {}));
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert!(longest < LEAVING, "{longest:?}");
}
