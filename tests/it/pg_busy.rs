//! A busy server with default settings: many tables, `ALTER TABLE` and `TRUNCATE` while they are dumped.
//!
//! Nobody waits for more than one part of a table or the dump of the schema: a connection that copies holds the lock of one table at a
//! time, which is looked up in the server all the while. And the result is exact: every table is that of the snapshot, as a ledger, which
//! is written in the same transactions as the tables, says of the same snapshot.
//!
//! `PG_BUSY_TABLES` sets another number of tables than 10,000.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use holdfast::format::database::DatabaseInfo;
use holdfast::source::postgres::RetryPolicy;
use holdfast::source::postgres::dump::{
    DatabaseSource, DumpOptions, RowDigester, StreamOptions, open_snapshots, stream_databases,
};

use crate::archive::{Archive, collect};
use crate::pg_cluster::{Cluster, settings};

/// A table has so many rows more than its generation.
const ROWS: usize = 10;
/// Tables that one transaction creates: the lock table of a default server has room for 6400 locks.
const BATCH: usize = 250;

fn table_count() -> usize {
    let wanted = std::env::var("PG_BUSY_TABLES").ok();
    wanted.map_or(10_000, |text| text.parse().expect("a number"))
}

fn create_tables(cluster: &Cluster, count: usize) {
    cluster.sql(
        "postgres",
        "CREATE TABLE ledger (table_number int PRIMARY KEY, generation int NOT NULL)",
    );
    let mut session = cluster.session("postgres");
    for first in (1..=count).step_by(BATCH) {
        let last = count.min(first + BATCH - 1);
        let sql = format!(
            "DO $$ BEGIN FOR i IN {first}..{last} LOOP \
             EXECUTE format('CREATE TABLE t%s (generation int, n int)', i); \
             EXECUTE format('INSERT INTO t%s SELECT 0, g FROM generate_series(1, {ROWS}) g', i); \
             INSERT INTO ledger VALUES (i, 0); END LOOP; END $$"
        );
        session.batch_execute(&sql).unwrap();
    }
}

/// Empties a table and fills it anew, in one transaction with the ledger.
fn truncate(session: &mut holdfast::source::postgres::PgSession, table: usize, generation: usize) {
    let rows = ROWS + generation;
    let sql = format!(
        "BEGIN; TRUNCATE t{table}; INSERT INTO t{table} (generation, n) SELECT {generation}, g FROM generate_series(1, {rows}) g; \
         UPDATE ledger SET generation = {generation} WHERE table_number = {table}; COMMIT"
    );
    session.batch_execute(&sql).unwrap();
}

/// What a thread saw of the locks of other sessions.
#[derive(Debug, Default)]
struct Locks {
    samples: u64,
    /// Most tables that a session held at once.
    held_max: BTreeMap<i32, usize>,
    /// Sessions that were seen copying; `pg_dump` copies nothing.
    copying: BTreeSet<i32>,
}

fn watch(cluster: &Cluster, done: &AtomicBool) -> Locks {
    let mut session = cluster.session("postgres");
    let mut locks = Locks::default();
    while !done.load(Ordering::SeqCst) {
        let rows = session
            .simple_column(
                "SELECT a.pid || ' ' || (a.query ~ '^(COPY|SAVEPOINT holdfast_part)')::int || ' ' || count(*) \
                 FROM pg_locks l JOIN pg_stat_activity a USING (pid) JOIN pg_class c ON c.oid = l.relation \
                 WHERE l.granted AND l.mode = 'AccessShareLock' AND c.relkind = 'r' \
                 AND c.relnamespace = 'public'::regnamespace AND a.pid <> pg_backend_pid() GROUP BY a.pid, a.query",
            )
            .unwrap();
        locks.samples += 1;
        for row in rows.into_iter().flatten() {
            let fields: Vec<usize> = row.split(' ').map(|n| n.parse().unwrap()).collect();
            let pid = i32::try_from(fields[0]).unwrap();
            let most = locks.held_max.entry(pid).or_default();
            *most = fields[2].max(*most);
            if fields[1] == 1 {
                locks.copying.insert(pid);
            }
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    locks
}

/// Changes tables one after the other without touching a row; returns how long each statement took.
fn alter(cluster: &Cluster, count: usize, done: &AtomicBool) -> Vec<Duration> {
    let mut session = cluster.session("postgres");
    let mut waits = Vec::new();
    for table in (1..=count).cycle() {
        if done.load(Ordering::SeqCst) {
            break;
        }
        let what = match table % 10 {
            0 => format!("ADD COLUMN IF NOT EXISTS later_{} int", waits.len() % 3),
            _ => "SET (fillfactor = 90)".to_owned(),
        };
        let begun = Instant::now();
        session
            .batch_execute(&format!("ALTER TABLE t{table} {what}"))
            .unwrap();
        waits.push(begun.elapsed());
        std::thread::sleep(Duration::from_millis(1));
    }
    waits
}

fn text<'a>(archive: &'a Archive, table: &str) -> &'a str {
    let path = format!("databases/postgres/tables/public/{table}/000000");
    std::str::from_utf8(archive.bytes(&path)).unwrap()
}

/// Every table is as the ledger of the same snapshot says.
fn assert_exact(archive: &Archive, count: usize) -> usize {
    let ledger: BTreeMap<usize, usize> = text(archive, "ledger")
        .lines()
        .map(|line| {
            let (table, generation) = line.split_once('\t').unwrap();
            (table.parse().unwrap(), generation.parse().unwrap())
        })
        .collect();
    assert_eq!(ledger.len(), count);
    let info: DatabaseInfo =
        serde_json::from_slice(archive.bytes("databases/postgres/database.json")).unwrap();
    let rows: BTreeMap<&str, u64> = info
        .tables
        .iter()
        .map(|table| (table.name.as_str(), table.rows))
        .collect();
    for (table, generation) in &ledger {
        let name = format!("t{table}");
        let lines: Vec<&str> = text(archive, &name).lines().collect();
        assert_eq!(lines.len(), ROWS + generation, "{name}");
        assert_eq!(rows[name.as_str()], u64::try_from(lines.len()).unwrap());
        let numbers: BTreeSet<usize> = lines
            .iter()
            .map(|line| {
                let fields: Vec<&str> = line.split('\t').collect();
                assert_eq!(fields[0], generation.to_string(), "{name}: {line}");
                fields[1].parse().unwrap()
            })
            .collect();
        assert_eq!(numbers, (1..=ROWS + generation).collect(), "{name}");
    }
    ledger
        .values()
        .filter(|generation| **generation > 0)
        .count()
}

#[test]
fn many_tables_are_dumped_beside_alter_and_truncate() {
    let count = table_count();
    let cluster = Cluster::start();
    create_tables(&cluster, count);
    let source = DatabaseSource {
        name: "postgres".to_owned(),
        settings: settings(&cluster.conninfo("postgres")),
        options: DumpOptions {
            retry: RetryPolicy::once(),
            ..DumpOptions::default()
        },
    };
    let done = Arc::new(AtomicBool::new(false));
    let (outcome, archive, waits, locks, opening) = std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch(&cluster, &done));
        let altering = scope.spawn(|| alter(&cluster, count, &done));
        let begun = Instant::now();
        let opened = open_snapshots(std::slice::from_ref(&source))
            .remove(0)
            .unwrap_or_else(|e| panic!("{e}"));
        let opening = begun.elapsed();
        // Some tables are emptied between the snapshot and their turn, and some more while the others are copied.
        let mut session = cluster.session("postgres");
        for table in (1..=count).step_by(count / 5) {
            truncate(&mut session, table, 1);
        }
        let truncating = scope.spawn(move || {
            for table in (2..=count).step_by(count / 5) {
                truncate(&mut session, table, 2);
            }
        });
        let digester = RowDigester::new(&[9; 192]);
        let options = StreamOptions {
            connections: Some(2),
            content_digest: true,
        };
        let (outcomes, archive) =
            collect(|sink| stream_databases(vec![opened], sink, &digester, options));
        // Whoever had to wait has been served while the dump went on: nothing is locked any more when it ends.
        done.store(true, Ordering::SeqCst);
        truncating.join().unwrap();
        let waits = altering.join().unwrap();
        let locks = watching.join().unwrap();
        let outcome = outcomes.into_iter().next().unwrap().1;
        (outcome, archive, waits, locks, opening)
    });
    let outcome = outcome.unwrap_or_else(|e| panic!("{e}"));
    assert!(
        outcome
            .notes
            .iter()
            .any(|note| note.contains("begun again")),
        "{outcome:?}"
    );
    assert_eq!(usize::try_from(outcome.tables).unwrap(), count + 1);
    let changed = assert_exact(&archive, count);
    assert!((5..=10).contains(&changed), "{changed} tables were emptied");

    let longest = waits.iter().max().unwrap();
    println!(
        "{} ALTERs, the longest took {longest:?}; opening with the schema took {opening:?}; {} samples",
        waits.len(),
        locks.samples
    );
    assert!(waits.len() > 50 && locks.samples > 50);
    assert!(!locks.copying.is_empty(), "{locks:?}");
    for pid in &locks.copying {
        assert_eq!(
            locks.held_max[pid], 1,
            "tables that a copying session holds: {locks:?}"
        );
    }
}
