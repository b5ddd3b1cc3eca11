//! Dumps of databases from a real server into a sink that keeps everything in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use holdfast::format::database::DatabaseInfo;
use holdfast::format::large_object::PageReader;
use holdfast::source::SourceError;
use holdfast::source::postgres::RetryPolicy;
use holdfast::source::postgres::dump::{
    DatabaseOutcome, DatabaseSource, DumpOptions, RowDigester, StreamOptions, cluster_consistency,
    open_snapshots, stream_databases,
};

use crate::archive::{Archive, collect};
use crate::pg_cluster::{Cluster, ClusterOptions, settings};

pub(crate) type Outcome = Result<DatabaseOutcome, SourceError>;

pub(crate) fn source(
    cluster: &Cluster,
    dbname: &str,
    change: impl FnOnce(&mut DumpOptions),
) -> DatabaseSource {
    source_at(&cluster.conninfo(dbname), dbname, change)
}

pub(crate) fn source_at(
    conninfo: &str,
    name: &str,
    change: impl FnOnce(&mut DumpOptions),
) -> DatabaseSource {
    let mut options = DumpOptions {
        retry: RetryPolicy::once(),
        ..DumpOptions::default()
    };
    change(&mut options);
    DatabaseSource {
        name: name.to_owned(),
        settings: settings(conninfo),
        options,
    }
}

/// Dumps databases; `between` runs while the snapshots are open.
pub(crate) fn dump_with(
    sources: &[DatabaseSource],
    connections: usize,
    between: impl FnOnce(),
) -> (Vec<Outcome>, Archive) {
    let mut slots: Vec<Option<Outcome>> = Vec::new();
    let mut open = Vec::new();
    for opened in open_snapshots(sources) {
        match opened {
            Ok(database) => {
                open.push(database);
                slots.push(None);
            }
            Err(error) => slots.push(Some(Err(error))),
        }
    }
    between();
    let digester = RowDigester::new(&[9; 192]);
    let options = StreamOptions {
        connections: Some(connections),
        content_digest: true,
    };
    let (streamed, archive) = collect(|sink| stream_databases(open, sink, &digester, options));
    let mut streamed = streamed.into_iter().map(|(_, outcome)| outcome);
    let outcomes = slots
        .into_iter()
        .map(|slot| slot.unwrap_or_else(|| streamed.next().unwrap()))
        .collect();
    (outcomes, archive)
}

pub(crate) fn dump(source: DatabaseSource) -> (DatabaseOutcome, Archive) {
    let (outcomes, archive) = dump_with(&[source], 3, || {});
    (outcomes.into_iter().next().unwrap().unwrap(), archive)
}

pub(crate) fn info(archive: &Archive, name: &str) -> DatabaseInfo {
    serde_json::from_slice(archive.bytes(&format!("databases/{name}/database.json"))).unwrap()
}

fn part<'a>(archive: &'a Archive, table: &str) -> &'a str {
    std::str::from_utf8(archive.bytes(&format!("databases/postgres/tables/{table}/000000")))
        .unwrap()
}

#[test]
fn a_database_is_archived_as_it_is() {
    let cluster = Cluster::start();
    cluster.sql(
        "postgres",
        r#"CREATE EXTENSION pg_trgm;
           CREATE TABLE t (a int PRIMARY KEY, b text, c text GENERATED ALWAYS AS (b || '!') STORED);
           INSERT INTO t VALUES (1, E'tab\there'), (2, NULL), (3, E'line\nend\\');
           ALTER TABLE t DROP COLUMN b CASCADE; ALTER TABLE t ADD COLUMN "b ""x" text DEFAULT 'é';
           CREATE TABLE empty (a int); CREATE TABLE "no columns" ();
           INSERT INTO "no columns" DEFAULT VALUES; INSERT INTO "no columns" DEFAULT VALUES;
           CREATE SCHEMA "S/1 %"; CREATE TABLE "S/1 %".".." (x money); INSERT INTO "S/1 %".".." VALUES (1.5);
           CREATE SEQUENCE s1; SELECT nextval('s1'), nextval('s1'); CREATE SEQUENCE s2 START 7;
           CREATE TABLE parted (k int, v text) PARTITION BY HASH (k);
           CREATE TABLE parted_0 PARTITION OF parted FOR VALUES WITH (MODULUS 1, REMAINDER 0);
           CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE moods (m mood) PARTITION BY HASH (m);
           CREATE TABLE moods_0 PARTITION OF moods FOR VALUES WITH (MODULUS 1, REMAINDER 0);
           INSERT INTO moods VALUES ('ok'); INSERT INTO parted VALUES (1, 'x');
           CREATE MATERIALIZED VIEW mv AS SELECT 1; CREATE UNLOGGED TABLE unlogged AS SELECT 5 AS five;
           CREATE TABLE parent (p int); CREATE TABLE child (q int) INHERITS (parent); INSERT INTO child VALUES (1, 2);
           SELECT lo_from_bytea(50000, 'hello'), lo_create(50001), lo_from_bytea(90000, '\x00ff');
           SELECT lo_put(50001, 1000000, 'far'); COMMENT ON LARGE OBJECT 50000 IS 'a comment'; GRANT SELECT ON LARGE OBJECT 50000 TO public"#,
    );
    let (outcome, archive) = dump(source(&cluster, "postgres", |_| {}));
    assert_eq!(outcome.rows, 3 + 2 + 1 + 1 + 1 + 1 + 1, "{outcome:?}");
    assert_eq!(outcome.large_objects, 3);
    assert_eq!(outcome.incomplete, None);
    assert_eq!(part(&archive, "public/t"), "1\té\n2\té\n3\té\n");
    assert_eq!(part(&archive, "public/empty"), "");
    assert_eq!(part(&archive, "public/no columns"), "\n\n");
    assert_eq!(part(&archive, "S%2F1 %25/%2E%2E"), "$1.50\n");
    assert_eq!(part(&archive, "public/child"), "1\t2\n");
    assert_eq!(part(&archive, "public/parent"), "");
    assert_eq!(part(&archive, "public/unlogged"), "5\n");

    let info = info(&archive, "postgres");
    assert!(info.extensions.iter().any(|(name, _)| name == "pg_trgm"));
    assert!(
        !info
            .tables
            .iter()
            .any(|table| ["parted", "moods", "mv"].contains(&table.name.as_str()))
    );
    let table = |name: &str| info.tables.iter().find(|table| table.name == name).unwrap();
    assert_eq!(table("t").columns, ["a", "b \"x"]);
    assert_eq!(
        table("moods_0").load_via,
        Some(("public".to_owned(), "moods".to_owned()))
    );
    assert_eq!(table("parted_0").load_via, None);
    let (node, bytes) = &archive.files["databases/postgres/tables/public/t/000000"];
    let meta = node.table.as_ref().unwrap();
    assert_eq!(
        (
            meta.rows,
            meta.rows_digest.map(|b| format!("{b:02x}")).concat()
        ),
        (3, table("t").rows_digest.clone())
    );
    assert_eq!(node.size, u64::try_from(bytes.len()).unwrap());
    assert!(node.digest.is_none(), "the digest of its rows proves it");
    let sequences: Vec<_> = info
        .sequences
        .iter()
        .map(|s| (s.name.as_str(), s.last_value, s.is_called))
        .collect();
    assert_eq!(sequences, [("s1", 2, true), ("s2", 7, false)]);

    assert!(
        archive
            .bytes("databases/postgres/schema.dump")
            .starts_with(b"PGDMP")
    );
    let cluster_name = &info.cluster;
    let globals =
        String::from_utf8_lossy(archive.bytes(&format!("clusters/{cluster_name}/globals.sql")));
    assert!(globals.contains("CREATE ROLE postgres"), "{globals}");

    let lines =
        String::from_utf8_lossy(archive.bytes("databases/postgres/large-objects/metadata.json"));
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(
        lines[0].contains("\"oid\":50000")
            && lines[0].contains("a comment")
            && lines[0].contains("=r/postgres"),
        "{}",
        lines[0]
    );
    let mut pages = PageReader::new(archive.bytes("databases/postgres/large-objects/0000049152"));
    assert_eq!(pages.next_page().unwrap(), Some((50_000, 0, &b"hello"[..])));
    let (oid, offset, page) = pages.next_page().unwrap().unwrap();
    assert_eq!(
        (oid, offset + u64::try_from(page.len()).unwrap()),
        (50_001, 1_000_003)
    );
    assert!(page.ends_with(b"far"));
    assert!(
        archive
            .files
            .contains_key("databases/postgres/large-objects/0000081920")
    );
}

#[test]
fn big_tables_are_read_in_ranges() {
    let cluster = Cluster::start();
    cluster.sql(
        "postgres",
        "CREATE TABLE big AS SELECT g AS a, repeat('x', 200) AS b FROM generate_series(1, 5000) g",
    );
    let (outcome, whole) = dump(source(&cluster, "postgres", |_| {}));
    let (ranged_outcome, ranged) = dump(source(&cluster, "postgres", |options| {
        options.range_blocks = 20
    }));
    assert_eq!((outcome.rows, ranged_outcome.rows), (5000, 5000));
    let (one, many) = (
        &info(&whole, "postgres").tables[0],
        &info(&ranged, "postgres").tables[0],
    );
    assert_eq!(one.parts, 1);
    assert!(many.parts > 5);
    assert_eq!(one.rows_digest, many.rows_digest);
    let joined: Vec<u8> = ranged
        .files
        .iter()
        .filter(|(path, _)| path.contains("/tables/public/big/"))
        .flat_map(|(_, (_, bytes))| bytes.clone())
        .collect();
    assert_eq!(joined, part(&whole, "public/big").as_bytes());
}

#[test]
fn the_rows_are_those_of_the_snapshot() {
    let cluster = Cluster::start();
    cluster.sql(
        "postgres",
        "CREATE TABLE t AS SELECT g FROM generate_series(1, 1000) g",
    );
    let (outcomes, archive) = dump_with(&[source(&cluster, "postgres", |_| {})], 2, || {
        cluster.sql(
            "postgres",
            "DELETE FROM t WHERE g > 500; INSERT INTO t SELECT 5000",
        );
    });
    assert_eq!(outcomes[0].as_ref().unwrap().rows, 1000);
    assert_eq!(info(&archive, "postgres").tables[0].rows, 1000);
}

#[test]
fn truncate_and_alter_start_the_database_again() {
    let cluster = Cluster::start();
    for change in [
        "TRUNCATE t; INSERT INTO t VALUES (7, 8)",
        "ALTER TABLE t ALTER COLUMN a TYPE bigint; DELETE FROM t; INSERT INTO t VALUES (7, 8)",
        "DROP TABLE t; CREATE TABLE t AS SELECT 7 AS a, 8 AS b",
        "ALTER TABLE t DROP COLUMN a; ALTER TABLE t ADD COLUMN a int; TRUNCATE t; INSERT INTO t (a, b) VALUES (7, 8)",
        "ALTER TABLE t RENAME COLUMN a TO x; ALTER TABLE t RENAME COLUMN b TO a; ALTER TABLE t RENAME COLUMN x TO b; \
         DELETE FROM t; INSERT INTO t (a, b) VALUES (7, 8)",
        "ALTER TABLE t RENAME TO old; CREATE TABLE t AS SELECT 7 AS a, 8 AS b; DROP TABLE old",
    ] {
        cluster.sql("postgres", "DROP TABLE IF EXISTS t; CREATE TABLE t AS SELECT 1 AS a, 2 AS b FROM generate_series(1, 10)");
        let (outcomes, archive) = dump_with(&[source(&cluster, "postgres", |_| {})], 2, || {
            cluster.sql("postgres", change)
        });
        let outcome = outcomes[0].as_ref().unwrap();
        assert!(
            outcome
                .notes
                .iter()
                .any(|note| note.contains("begun again 1 times")),
            "{change}: {outcome:?}"
        );
        assert_eq!(outcome.rows, 1, "{change}");
        let info = info(&archive, "postgres");
        let columns = &info.tables[0].columns;
        let row: Vec<&str> = part(&archive, "public/t").trim_end().split('\t').collect();
        for (column, value) in columns.iter().zip(row) {
            assert_eq!(
                value,
                if column == "a" { "7" } else { "8" },
                "{change}: {columns:?}"
            );
        }
    }
}

#[test]
fn changes_that_do_not_matter_do_not_start_it_again() {
    let cluster = Cluster::start();
    cluster.sql("postgres", "CREATE TABLE t AS SELECT 1 AS a, 2 AS b");
    let (outcomes, archive) = dump_with(&[source(&cluster, "postgres", |_| {})], 2, || {
        cluster.sql("postgres", "ALTER TABLE t ADD COLUMN c int; UPDATE t SET c = 3; CREATE TABLE later (x int); CREATE INDEX ON t (a)");
    });
    let outcome = outcomes[0].as_ref().unwrap();
    assert!(
        !outcome
            .notes
            .iter()
            .any(|note| note.contains("begun again")),
        "{outcome:?}"
    );
    assert_eq!(part(&archive, "public/t"), "1\t2\n");
}

#[test]
fn a_failed_database_leaves_nothing() {
    let cluster = Cluster::start();
    cluster.sql("postgres", "CREATE DATABASE good");
    cluster.sql("good", "CREATE TABLE g AS SELECT 1 AS a");
    cluster.sql(
        "postgres",
        "CREATE ROLE reader LOGIN; CREATE TABLE open AS SELECT 1 AS a; GRANT SELECT ON open TO reader; \
         CREATE TABLE closed AS SELECT 2 AS b",
    );
    let conninfo = cluster
        .conninfo("postgres")
        .replace("user=postgres", "user=reader");
    let sources = [
        source_at(&conninfo, "bad", |_| {}),
        source(&cluster, "good", |_| {}),
        source(&cluster, "missing", |_| {}),
    ];
    let (outcomes, archive) = dump_with(&sources, 2, || {});
    let error = outcomes[0].as_ref().unwrap_err().to_string();
    assert!(
        error.contains("permission denied for table closed"),
        "{error}"
    );
    assert_eq!(outcomes[1].as_ref().unwrap().rows, 1);
    let error = outcomes[2].as_ref().unwrap_err().to_string();
    assert!(
        error.contains("database \"missing\" does not exist"),
        "{error}"
    );
    assert!(
        archive
            .files
            .keys()
            .all(|path| !path.starts_with("databases/bad/")),
        "{:?}",
        archive.files.keys()
    );
}

#[test]
fn row_security_fails_the_database_instead_of_hiding_rows() {
    let cluster = Cluster::start();
    cluster.sql(
        "postgres",
        "CREATE ROLE reader LOGIN; CREATE TABLE t AS SELECT 1 AS a; GRANT SELECT ON t TO reader; \
         ALTER TABLE t ENABLE ROW LEVEL SECURITY",
    );
    let conninfo = cluster
        .conninfo("postgres")
        .replace("user=postgres", "user=reader");
    let (outcomes, _) = dump_with(&[source_at(&conninfo, "postgres", |_| {})], 1, || {});
    let error = outcomes[0].as_ref().unwrap_err().to_string();
    assert!(error.contains("row-level security"), "{error}");
}

#[test]
fn exclusions_are_kept_out_and_listed() {
    let cluster = Cluster::start();
    cluster.sql(
        "postgres",
        "CREATE TABLE log_1 AS SELECT 1 AS a; CREATE TABLE kept AS SELECT 2 AS a; CREATE SCHEMA audit; \
         CREATE TABLE audit.x AS SELECT 3 AS a; CREATE SEQUENCE audit.s",
    );
    let (outcome, archive) = dump(source(&cluster, "postgres", |options| {
        options.exclude_table_data = vec!["public.log_*".to_owned()];
        options.exclude_schema = vec!["audit".to_owned()];
    }));
    assert_eq!((outcome.tables, outcome.rows), (1, 1));
    let info = info(&archive, "postgres");
    let names: Vec<_> = info
        .tables
        .iter()
        .map(|table| (table.name.as_str(), table.data_excluded, table.parts))
        .collect();
    assert_eq!(names, [("kept", false, 1), ("log_1", true, 0)]);
    assert!(info.sequences.is_empty());
    assert!(
        info.not_included
            .iter()
            .any(|what| what.contains("public.log_1")),
        "{:?}",
        info.not_included
    );
    let schema = archive.bytes("databases/postgres/schema.dump");
    let holds = |text: &[u8]| schema.windows(text.len()).any(|window| window == text);
    assert!(holds(b"log_1") && !holds(b"audit"));
}

#[test]
fn databases_of_one_cluster_are_opened_together() {
    let cluster = Cluster::start();
    for name in ["one", "two", "three"] {
        cluster.sql("postgres", &format!("CREATE DATABASE {name}"));
    }
    let sources = ["one", "two", "three"].map(|name| source(&cluster, name, |_| {}));
    let (outcomes, archive) = dump_with(&sources, 2, || {});
    let outcomes: Vec<DatabaseOutcome> = outcomes.into_iter().map(Result::unwrap).collect();
    let consistency = cluster_consistency(&outcomes.iter().collect::<Vec<_>>());
    assert_eq!(consistency.len(), 1);
    assert!(consistency[0].atomic, "{consistency:?}");
    assert_eq!(
        archive
            .files
            .keys()
            .filter(|path| path.starts_with("clusters/"))
            .count(),
        1
    );
}

#[test]
fn other_encodings_keep_their_bytes() {
    let cluster = Cluster::start();
    cluster.sql(
        "postgres",
        "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'",
    );
    cluster.sql(
        "postgres",
        "CREATE DATABASE bytes ENCODING 'SQL_ASCII' TEMPLATE template0",
    );
    cluster.sql(
        "latin",
        "CREATE TABLE \"größe\" AS SELECT 'é'::text AS \"ä\"",
    );
    cluster.sql(
        "bytes",
        r"CREATE TABLE t (a text); INSERT INTO t VALUES (E'\377')",
    );
    let sources = [
        source(&cluster, "latin", |_| {}),
        source(&cluster, "bytes", |_| {}),
    ];
    let (outcomes, archive) = dump_with(&sources, 1, || {});
    outcomes.into_iter().for_each(|outcome| {
        outcome.unwrap();
    });
    assert_eq!(
        archive.bytes("databases/latin/tables/public/größe/000000"),
        b"\xe9\n"
    );
    assert_eq!(
        archive.bytes("databases/bytes/tables/public/t/000000"),
        b"\xff\n"
    );
}

#[test]
fn nobody_waits_for_more_than_one_part() {
    // While one database is dumped in many parts, ALTERs and readers come and go.
    let cluster = Cluster::start();
    cluster.sql(
        "postgres",
        "DO $$ BEGIN FOR i IN 1..300 LOOP EXECUTE format('CREATE TABLE t%s AS SELECT g, repeat(''x'', 100) AS x FROM generate_series(1, 300) g', i); END LOOP; END $$",
    );
    let done = Arc::new(AtomicBool::new(false));
    let (alters, longest_ms) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut session = cluster.session("postgres");
    let mut thread = None;
    let (outcomes, archive) = dump_with(&[source(&cluster, "postgres", |_| {})], 2, || {
        let (done, alters, longest_ms) = (done.clone(), alters.clone(), longest_ms.clone());
        thread = Some(std::thread::spawn(move || {
            for i in (1..=300).cycle() {
                if done.load(Ordering::SeqCst) {
                    return;
                }
                let begun = Instant::now();
                session
                    .batch_execute(&format!(
                        "ALTER TABLE t{i} ALTER COLUMN x SET DEFAULT 'y'; SELECT count(*) FROM t{i}"
                    ))
                    .unwrap();
                longest_ms.fetch_max(
                    u64::try_from(begun.elapsed().as_millis()).unwrap(),
                    Ordering::SeqCst,
                );
                alters.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(1));
            }
        }));
    });
    done.store(true, Ordering::SeqCst);
    thread.unwrap().join().unwrap();
    assert_eq!(outcomes[0].as_ref().unwrap().rows, 300 * 300);
    assert!(
        info(&archive, "postgres")
            .tables
            .iter()
            .all(|table| table.rows == 300)
    );
    assert!(alters.load(Ordering::SeqCst) > 10);
    assert!(
        longest_ms.load(Ordering::SeqCst) < 3000,
        "an ALTER waited for {} ms",
        longest_ms.load(Ordering::SeqCst)
    );
}

#[test]
fn ten_thousand_tables_on_a_server_with_default_settings() {
    // A dump that held its locks would overflow the lock table and make the application wait for hours.
    let cluster = Cluster::start();
    let mut session = cluster.session("postgres");
    for first in (0..10_000).step_by(1000) {
        session
            .batch_execute(&format!(
                "DO $$ BEGIN FOR i IN {first}..{} LOOP EXECUTE format('CREATE TABLE t%s AS SELECT %s AS a', i, i); END LOOP; END $$",
                first + 999
            ))
            .unwrap();
    }
    let done = Arc::new(AtomicBool::new(false));
    let mut thread = None;
    let (outcomes, archive) = dump_with(&[source(&cluster, "postgres", |_| {})], 3, || {
        // Small tables are copied in the order of their names, so this one comes late.
        session
            .batch_execute("TRUNCATE t9999; INSERT INTO t9999 VALUES (1), (2)")
            .unwrap();
        let done = done.clone();
        thread = Some(std::thread::spawn(move || {
            let mut alters = 0_u64;
            for i in (0..10_000).cycle().step_by(7) {
                if done.load(Ordering::SeqCst) {
                    return alters;
                }
                session
                    .batch_execute(&format!("ALTER TABLE t{i} ALTER COLUMN a SET DEFAULT 7"))
                    .unwrap();
                alters += 1;
            }
            alters
        }));
    });
    done.store(true, Ordering::SeqCst);
    assert!(thread.unwrap().join().unwrap() > 100);
    let outcome = outcomes[0].as_ref().unwrap();
    assert_eq!(
        (outcome.tables, outcome.rows),
        (10_000, 10_001),
        "{:?}",
        outcome.notes
    );
    assert!(
        outcome
            .notes
            .iter()
            .any(|note| note.contains("begun again 1 times")),
        "{:?}",
        outcome.notes
    );
    assert_eq!(part(&archive, "public/t9999"), "1\n2\n");
    assert_eq!(part(&archive, "public/t1234"), "1234\n");
}

#[test]
fn a_standby_is_dumped_without_what_it_does_not_have() {
    let cluster = Cluster::start_with(&ClusterOptions {
        conf: vec!["wal_level = replica".to_owned()],
        ..ClusterOptions::default()
    });
    cluster.sql(
        "postgres",
        "CREATE TABLE t AS SELECT 1 AS a; CREATE UNLOGGED TABLE u (id serial); CREATE SEQUENCE s",
    );
    let standby = cluster.standby();
    let begun = Instant::now();
    while standby
        .session("postgres")
        .simple_column("SELECT count(*) FROM pg_class WHERE relname = 's'")
        .unwrap()[0]
        .as_deref()
        != Some("1")
    {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "the standby does not follow"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let (outcome, archive) = dump(source(&standby, "postgres", |_| {}));
    let info = info(&archive, "postgres");
    assert!(info.standby);
    assert_eq!(
        (outcome.tables, outcome.rows, info.sequences.len()),
        (1, 1, 1),
        "{info:?}"
    );
    assert!(
        info.not_included
            .iter()
            .any(|what| what.contains("unlogged table public.u")),
        "{:?}",
        info.not_included
    );
}

#[test]
fn definitions_are_in_utf8_whatever_the_database_speaks() {
    let cluster = Cluster::start();
    cluster.sql(
        "postgres",
        "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'",
    );
    cluster.sql("postgres", "CREATE ROLE \"größe\"");
    cluster.sql(
        "latin",
        "CREATE TABLE \"größe\" (a text DEFAULT 'é'); COMMENT ON TABLE \"größe\" IS 'ÿ'",
    );
    let (outcome, archive) = dump(source(&cluster, "latin", |_| {}));
    assert_eq!(outcome.incomplete, None);
    let schema = archive.bytes("databases/latin/schema.dump");
    let holds = |text: &str| {
        schema
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    };
    assert!(holds("SET client_encoding = 'UTF8'"));
    assert!(holds("\"größe\"") && holds("DEFAULT 'é'") && holds("IS 'ÿ'"));
    // The role was made in UTF-8, so it is read there.
    let info = info(&archive, "latin");
    let globals =
        std::str::from_utf8(archive.bytes(&format!("clusters/{}/globals.sql", info.cluster)))
            .unwrap();
    assert!(globals.contains("CREATE ROLE \"größe\""), "{globals}");
}

#[test]
fn names_that_are_no_text_are_named() {
    let cluster = Cluster::start();
    cluster.sql(
        "postgres",
        "CREATE DATABASE bytes ENCODING 'SQL_ASCII' TEMPLATE template0",
    );
    cluster.sql("bytes", "CREATE TABLE \"größe\" (\"é\" int)");
    let (outcome, archive) = dump(source(&cluster, "bytes", |_| {}));
    assert_eq!(outcome.tables, 1);
    assert!(
        archive
            .files
            .contains_key("databases/bytes/tables/public/größe/000000")
    );
    cluster.sql(
        "bytes",
        r#"DO $$ BEGIN EXECUTE E'CREATE TABLE "a\\b\351" (x int, "c\377" int)'; END $$"#,
    );
    let (outcomes, _) = dump_with(&[source(&cluster, "bytes", |_| {})], 1, || {});
    let error = outcomes[0].as_ref().unwrap_err().to_string();
    for part in [
        r#"column "c\xff""#,
        r#"table "a\\b\xe9""#,
        "are not UTF-8",
        "rename them",
        "pg_dump -Fc",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn settings_that_nothing_reads_back_are_refused_or_taken_out() {
    let cluster = Cluster::start();
    cluster.sql(
        "postgres",
        "CREATE TABLE t (a int, b int); ALTER TABLE t ALTER COLUMN b SET (n_distinct = 5); \
         UPDATE pg_attribute SET attoptions = coalesce(attoptions, '{}') || '{pg_attver=7}' WHERE attrelid = 't'::regclass AND attnum > 0",
    );
    let (outcomes, _) = dump_with(&[source(&cluster, "postgres", |_| {})], 1, || {});
    let error = outcomes[0].as_ref().unwrap_err().to_string();
    assert!(
        error.contains("pg_attver, 2 times") && error.contains("strip-pg-attver"),
        "{error}"
    );
    let (outcome, archive) = dump(source(&cluster, "postgres", |options| {
        options.strip_pg_attver = true
    }));
    assert!(
        outcome
            .notes
            .iter()
            .any(|note| note.contains("were taken out")),
        "{:?}",
        outcome.notes
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("schema.dump");
    std::fs::write(&file, archive.bytes("databases/postgres/schema.dump")).unwrap();
    let output = std::process::Command::new(cluster.program("pg_restore"))
        .args(["-f", "-"])
        .arg(&file)
        .output()
        .unwrap();
    let sql = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && !sql.contains("pg_attver"),
        "{sql}"
    );
    assert!(
        sql.contains("ALTER COLUMN b SET (n_distinct=5)") && !sql.contains("ALTER COLUMN a"),
        "{sql}"
    );
}

#[test]
fn rows_of_unlogged_tables_are_left_out_when_asked() {
    let cluster = Cluster::start();
    cluster.sql(
        "postgres",
        "CREATE UNLOGGED TABLE u AS SELECT 1 AS a; CREATE TABLE t AS SELECT 2 AS a",
    );
    let (outcome, archive) = dump(source(&cluster, "postgres", |options| {
        options.unlogged_schema_only = true
    }));
    assert_eq!((outcome.tables, outcome.incomplete), (1, None));
    assert_eq!(
        info(&archive, "postgres").not_included,
        ["rows of table public.u (unlogged = \"schema\")"]
    );
}

#[test]
fn what_belongs_to_a_database_beside_its_tables_is_in_the_schema() {
    let cluster = Cluster::start_with(&ClusterOptions {
        conf: vec!["wal_level = logical".to_owned()],
        ..ClusterOptions::default()
    });
    cluster.sql(
        "postgres",
        "CREATE ROLE r; ALTER ROLE r SET work_mem = '7MB'; ALTER DATABASE postgres SET work_mem = '5MB'; \
         ALTER ROLE r IN DATABASE postgres SET work_mem = '6MB'; \
         CREATE TABLE t (a int); CREATE PUBLICATION pub FOR TABLE t; \
         CREATE SUBSCRIPTION sub CONNECTION 'host=nowhere' PUBLICATION p WITH (connect = false); \
         CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION f(); \
         CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw; \
         CREATE FOREIGN TABLE elsewhere (a int) SERVER far; CREATE USER MAPPING FOR r SERVER far OPTIONS (password 'p'); \
         ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO r; CREATE STATISTICS st ON a, (a + 1) FROM t",
    );
    let (outcome, archive) = dump(source(&cluster, "postgres", |_| {}));
    assert_eq!(
        (outcome.tables, outcome.incomplete),
        (1, None),
        "a foreign table has no rows of its own"
    );
    let schema = String::from_utf8_lossy(archive.bytes("databases/postgres/schema.dump"));
    for part in [
        "ALTER DATABASE postgres SET work_mem",
        "ALTER ROLE r IN DATABASE postgres SET work_mem",
        "CREATE PUBLICATION pub",
        "CREATE SUBSCRIPTION sub",
        "CREATE EVENT TRIGGER e",
        "CREATE FOREIGN TABLE public.elsewhere",
        "CREATE USER MAPPING FOR r",
        "ALTER DEFAULT PRIVILEGES",
        "CREATE STATISTICS public.st",
    ] {
        assert!(schema.contains(part), "{part}");
    }
    let info = info(&archive, "postgres");
    assert!(
        info.extensions
            .iter()
            .any(|(name, version)| name == "postgres_fdw" && !version.is_empty())
    );
    assert!(info.server_version_num >= 100_000 && !info.pg_dump_version.is_empty());
    let globals =
        String::from_utf8_lossy(archive.bytes(&format!("clusters/{}/globals.sql", info.cluster)));
    assert!(globals.contains("ALTER ROLE r SET work_mem"), "{globals}");
}

#[test]
fn an_older_pg_dump_is_noted() {
    let cluster = Cluster::start();
    cluster.sql("postgres", "CREATE TABLE t AS SELECT 1 AS a");
    let server = cluster.session("postgres").version_num();
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("pg_dump");
    let version = format!("{}.0", server / 10_000);
    std::fs::write(
        &script,
        format!(
            "#!/bin/sh\ncase \"$1\" in --version) echo 'pg_dump (PostgreSQL) {version}'; exit 0;; esac\nexec {} \"$@\"\n",
            cluster.program("pg_dump").display()
        ),
    )
    .unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (outcome, archive) = dump(source(&cluster, "postgres", |options| {
        options.tools.folder = Some(folder.path().to_owned())
    }));
    let older = format!("pg_dump {version} is of an older release");
    assert!(
        outcome.notes.iter().any(|note| note.starts_with(&older)),
        "{:?}",
        outcome.notes
    );
    assert_eq!(info(&archive, "postgres").pg_dump_version, version);
}
