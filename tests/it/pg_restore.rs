//! Restores of whole databases into private clusters, compared with their sources by `pg_dump` itself.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use holdfast::source::postgres::{ConnInfo, Connector};
use holdfast::target::postgres::report::Phase;
use holdfast::target::postgres::{
    Globals, OnError, RestoreError, RestoreOptions, RestoreReport, RestoreTarget, restore_database,
};

use crate::pg_archive::{MemoryArchive, schema, secret};
use crate::pg_cluster::{Cluster, settings};
use crate::pg_dump::{dump, source_at};

/// A database with one of nearly everything.
pub(crate) const RICH: &str = r#"
CREATE ROLE rich_owner LOGIN PASSWORD 'it''s';
CREATE ROLE "Reader ""q""";
GRANT "Reader ""q""" TO rich_owner WITH ADMIN OPTION;
ALTER ROLE rich_owner SET work_mem = '7MB';
CREATE DATABASE "Ri ch" TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C' OWNER rich_owner CONNECTION LIMIT 77;
"#;

pub(crate) const RICH_INSIDE: &str = r#"
ALTER DATABASE "Ri ch" SET datestyle = 'SQL, DMY';
ALTER DATABASE "Ri ch" SET extra_float_digits = 0;
ALTER DATABASE "Ri ch" SET quote_all_identifiers = on;
ALTER DATABASE "Ri ch" SET bytea_output = 'escape';
COMMENT ON DATABASE "Ri ch" IS 'DATABASE "Ri ch"';
REVOKE TEMPORARY ON DATABASE "Ri ch" FROM PUBLIC;
ALTER SCHEMA public OWNER TO rich_owner;
CREATE SCHEMA "odd; schema" AUTHORIZATION "Reader ""q""";
CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s "happy"');
CREATE FUNCTION norm(t text) RETURNS text LANGUAGE sql IMMUTABLE AS $_$ SELECT lower(btrim(t)); $_$;
ALTER FUNCTION norm(text) OWNER TO rich_owner;
CREATE TABLE "odd; schema"."Ta""b'le ü" (
    id int GENERATED ALWAYS AS IDENTITY (START WITH -5 INCREMENT BY 3 MINVALUE -100) PRIMARY KEY,
    "select" text, low text GENERATED ALWAYS AS (norm("select")) STORED, f float8, at timestamptz, raw bytea, m mood);
INSERT INTO "odd; schema"."Ta""b'le ü" ("select", f, at, raw, m)
    SELECT ' Row ' || g || E'\t\\.\n', g / 7.0, '2020-01-01Z'::timestamptz + g * interval '1 hour', decode(md5(g::text), 'hex'), 'ok' FROM generate_series(1, 1500) g;
INSERT INTO "odd; schema"."Ta""b'le ü" ("select", f) VALUES (NULL, 'NaN'), ('', '-0'), ('\N', 'Infinity');
CREATE TABLE zero ();
INSERT INTO zero SELECT FROM generate_series(1, 7);
CREATE TABLE only_generated (a int GENERATED ALWAYS AS (2) STORED);
INSERT INTO only_generated SELECT FROM generate_series(1, 3);
CREATE TABLE dropped (a int, b text, c int);
INSERT INTO dropped SELECT g, 'b' || g, -g FROM generate_series(1, 100) g;
ALTER TABLE dropped DROP COLUMN a;
CREATE TABLE ca (id int PRIMARY KEY, b_id int);
CREATE TABLE cb (id serial PRIMARY KEY, a_id int NOT NULL REFERENCES ca ON DELETE CASCADE);
INSERT INTO ca SELECT g, g FROM generate_series(1, 50) g;
INSERT INTO cb(a_id) SELECT 51 - g FROM generate_series(1, 50) g;
ALTER TABLE ca ADD CONSTRAINT back FOREIGN KEY (b_id) REFERENCES cb DEFERRABLE INITIALLY DEFERRED;
COMMENT ON CONSTRAINT back ON ca IS 'of a foreign key';
CREATE TABLE parts (id int NOT NULL, at date NOT NULL, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (MINVALUE) TO ('2020-01-01') PARTITION BY HASH (id);
CREATE TABLE parts_1a PARTITION OF parts_1 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE parts_1b PARTITION OF parts_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE parts_2 (at date NOT NULL, id int NOT NULL);
ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES FROM ('2020-01-01') TO (MAXVALUE);
INSERT INTO parts SELECT g, '2019-06-01'::date + g FROM generate_series(1, 400) g;
CREATE TABLE to_parts (id int, at date, FOREIGN KEY (id, at) REFERENCES parts);
INSERT INTO to_parts SELECT id, at FROM parts WHERE id < 20;
CREATE TABLE by_mood (m mood) PARTITION BY LIST (m);
CREATE TABLE by_mood_sad PARTITION OF by_mood FOR VALUES IN ('sad');
INSERT INTO by_mood VALUES ('sad');
CREATE TABLE parent (a int, b text);
CREATE TABLE kid (c int) INHERITS (parent);
INSERT INTO parent VALUES (1, 'p'); INSERT INTO kid VALUES (2, 'k', 3);
CREATE SEQUENCE virgin START 5;
CREATE SEQUENCE used INCREMENT -3 MINVALUE -300 MAXVALUE -1 START -7;
SELECT nextval('used');
CREATE VIEW by_key AS SELECT id, b_id, count(*) FROM ca GROUP BY id;
CREATE MATERIALIZED VIEW mv AS SELECT count(*) AS n FROM "odd; schema"."Ta""b'le ü";
ALTER DATABASE "Ri ch" SET "rich.factor" = '3';
SET "rich.factor" = 3;
CREATE MATERIALIZED VIEW needs_setting AS SELECT current_setting('rich.factor')::int AS factor;
CREATE EXTENSION btree_gist;
CREATE MATERIALIZED VIEW a_mv_on_mv AS SELECT n + 1 AS m FROM mv;
CREATE UNIQUE INDEX mv_u ON mv (n);
CREATE INDEX low ON "odd; schema"."Ta""b'le ü" (low, norm("select"));
COMMENT ON INDEX "odd; schema".low IS 'of an index';
CREATE STATISTICS st ON id, b_id FROM ca;
CREATE FUNCTION trg() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'a trigger fired'; END $$;
CREATE TRIGGER t BEFORE INSERT OR UPDATE ON ca FOR EACH ROW EXECUTE FUNCTION trg('arg\ with ''quote');
CREATE RULE log AS ON INSERT TO cb DO ALSO INSERT INTO dropped VALUES ('rule fired', 1);
CREATE FUNCTION evt() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN IF current_setting('rich.block', true) = 'on' THEN RAISE 'blocked'; END IF; END $$;
CREATE EVENT TRIGGER evt ON ddl_command_start EXECUTE FUNCTION evt();
COMMENT ON EVENT TRIGGER evt IS 'of an event trigger';
CREATE TABLE secret (who text); INSERT INTO secret VALUES ('a'), ('b');
ALTER TABLE secret OWNER TO rich_owner; ALTER TABLE secret ENABLE ROW LEVEL SECURITY; ALTER TABLE secret FORCE ROW LEVEL SECURITY;
CREATE POLICY p ON secret TO "Reader ""q""" USING (who = current_user);
GRANT SELECT (who) ON secret TO "Reader ""q""" WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES FOR ROLE rich_owner IN SCHEMA public GRANT SELECT ON TABLES TO "Reader ""q""";
CREATE PUBLICATION pub FOR TABLE parts, ca;
SELECT lo_create(4242), lo_create(4243), lo_create(4244);
SELECT lo_put(4242, 0, decode(repeat('deadbeef00', 3000), 'hex')), lo_put(4243, 5000000, '\x0102');
COMMENT ON LARGE OBJECT 4242 IS 'lo''s comment';
ALTER LARGE OBJECT 4242 OWNER TO rich_owner;
GRANT SELECT ON LARGE OBJECT 4242 TO "Reader ""q""" WITH GRANT OPTION;
"#;

fn options() -> RestoreOptions {
    RestoreOptions {
        jobs: 3,
        check: Some(Arc::from(secret())),
        ..RestoreOptions::default()
    }
}

fn target(cluster: &Cluster, dbname: &str) -> RestoreTarget {
    RestoreTarget::with_name(Connector::new(cluster.settings("postgres")), dbname)
}

fn restored(
    cluster: &Cluster,
    dbname: &str,
    archive: &MemoryArchive,
    options: &RestoreOptions,
) -> RestoreReport {
    restore_database(&target(cluster, dbname), archive, options).expect("restored")
}

/// What `pg_dump` says of a database, with the rows of each table sorted: their order is not part of what is restored.
pub(crate) fn dumped(cluster: &Cluster, dbname: &str) -> String {
    let conninfo = cluster.conninfo(&format!("'{dbname}'"));
    let output = Command::new(cluster.program("pg_dump"))
        .args(["-C", "-d", &conninfo])
        .output()
        .expect("pg_dump");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut lines: Vec<String> = String::from_utf8(output.stdout)
        .expect("UTF-8")
        .lines()
        .map(str::to_owned)
        .collect();
    lines.retain(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"));
    let mut at = 0;
    while let Some(copy) = lines[at..]
        .iter()
        .position(|line| line.starts_with("COPY "))
    {
        let start = at + copy + 1;
        let end = start
            + lines[start..]
                .iter()
                .position(|line| line == "\\.")
                .expect("an end of COPY");
        lines[start..end].sort();
        at = end;
    }
    lines.join("\n")
}

pub(crate) fn assert_same(one: &str, other: &str) {
    let differing = one.lines().zip(other.lines()).find(|(a, b)| a != b);
    assert!(
        differing.is_none() && one.len() == other.len(),
        "first difference: {differing:#?}"
    );
}

#[test]
fn a_database_comes_back_as_it_was() {
    let (source, other) = (Cluster::start(), Cluster::start());
    for statement in RICH.split_inclusive(";\n") {
        source.sql("postgres", statement);
    }
    source.sql("'Ri ch'", RICH_INSIDE);
    let archive = MemoryArchive::of(&source, "Ri ch");
    assert!(
        archive.info.tables.iter().any(|table| table.parts > 2),
        "a table has several parts"
    );

    let report = restored(&other, "Ri ch", &archive, &options());
    assert_eq!(report.failures, []);
    assert!(report.is_complete() && report.created, "{report:#?}");
    assert_eq!(report.roles_created, ["Reader \"q\"", "rich_owner"]);
    assert_eq!(
        report.rows,
        archive
            .info
            .tables
            .iter()
            .map(|table| table.rows)
            .sum::<u64>()
    );
    assert_eq!(
        (report.large_objects, report.sequences),
        (3, archive.info.sequences.len() as u64)
    );
    assert_eq!(
        report.check.as_ref().expect("checked").tables,
        archive.info.tables.len() as u64
    );
    assert_same(&dumped(&source, "Ri ch"), &dumped(&other, "Ri ch"));
    let again = MemoryArchive::of(&other, "Ri ch");
    assert_eq!(
        (again.objects, again.pages),
        (archive.objects, archive.pages)
    );

    // Under another name beside it, all roles being there now: the same but for the name.
    let archive = MemoryArchive::of(&source, "Ri ch");
    let report = restored(&other, "Re ch", &archive, &options());
    assert!(
        report.is_complete() && report.roles_created.is_empty(),
        "{report:#?}"
    );
    assert_same(
        &dumped(&source, "Ri ch"),
        &dumped(&other, "Re ch").replace("Re ch", "Ri ch"),
    );
}

#[test]
fn what_the_source_dumped_is_restored() {
    let (cluster, other) = (Cluster::start(), Cluster::start());
    for statement in RICH.split_inclusive(";\n") {
        cluster.sql("postgres", statement);
    }
    cluster.sql("'Ri ch'", RICH_INSIDE);
    let by_two_blocks = source_at(&cluster.conninfo("'Ri ch'"), "Ri ch", |options| {
        options.range_blocks = 2
    });
    let (_outcome, tree) = dump(by_two_blocks);
    let archive = MemoryArchive::from_tree(&tree, "Ri ch");
    assert!(
        archive.info.tables.iter().any(|table| table.parts > 2),
        "a table has several parts"
    );

    let checked = RestoreOptions {
        check: Some(Arc::from([9; 192])),
        ..options()
    };
    let report = restored(&other, "Ri ch", &archive, &checked);
    assert!(report.is_complete(), "{report:#?}");
    assert_eq!(report.check.as_ref().expect("checked").rows, report.rows);
    assert_eq!((report.large_objects, report.roles_created.len()), (3, 2));
    assert_same(&dumped(&cluster, "Ri ch"), &dumped(&other, "Ri ch"));
}

#[test]
fn refuses_a_database_that_holds_anything() {
    let cluster = Cluster::start();
    cluster.sql("postgres", "CREATE DATABASE one");
    cluster.sql(
        "one",
        "CREATE TABLE t AS SELECT g FROM generate_series(1, 10) g",
    );
    let archive = MemoryArchive::of(&cluster, "one");

    let refused = |database: &str| {
        restore_database(&target(&cluster, database), &archive, &options())
            .expect_err("refused")
            .to_string()
    };
    assert!(
        refused("one").contains("is not empty: it holds 1 relation;"),
        "{}",
        refused("one")
    );
    for (name, holds) in [
        ("two", "CREATE SCHEMA s"),
        ("three", "SELECT lo_create(0)"),
        ("four", "CREATE EXTENSION pg_trgm WITH SCHEMA public"),
        ("five", "CREATE TYPE e AS ENUM ('a')"),
    ] {
        cluster.sql("postgres", &format!("CREATE DATABASE {name}"));
        assert_eq!(
            restored(
                &cluster,
                name,
                &MemoryArchive::of(&cluster, name),
                &options()
            )
            .rows,
            0,
            "an empty one is used"
        );
        cluster.sql(name, holds);
        assert!(refused(name).contains("is not empty"), "{name}");
    }
    cluster.sql(
        "postgres",
        "CREATE DATABASE six TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'",
    );
    assert!(
        refused("six").contains("exists with encoding LATIN1"),
        "{}",
        refused("six")
    );

    let nameless = format!("host={} user=postgres", cluster.socket_folder().display());
    let error = RestoreTarget::new(
        &ConnInfo::parse(&nameless).expect("parses"),
        settings(&nameless),
    )
    .expect_err("refused");
    assert!(matches!(error, RestoreError::NoDatabaseName));
}

#[test]
fn what_fails_is_reported() {
    let (source, other) = (Cluster::start(), Cluster::start());
    source.sql("postgres", "CREATE ROLE gone");
    source.sql("postgres", "CREATE DATABASE d");
    source.sql(
        "d",
        "CREATE TABLE zz_lookup (k int PRIMARY KEY); INSERT INTO zz_lookup SELECT generate_series(1, 20);
         CREATE FUNCTION known(i int) RETURNS boolean LANGUAGE sql STABLE AS 'SELECT EXISTS (SELECT FROM public.zz_lookup WHERE k = i)';
         CREATE TABLE aa_checked (i int CHECK (known(i)), filler text);
         INSERT INTO aa_checked SELECT g % 20 + 1, repeat('x', 50) FROM generate_series(1, 2000) g;
         CREATE TABLE owned (i int); ALTER TABLE owned OWNER TO gone; GRANT SELECT ON zz_lookup TO gone;
         CREATE TABLE divisor (d int); INSERT INTO divisor VALUES (1);
         CREATE MATERIALIZED VIEW mv_fails AS SELECT 1 / d AS q FROM divisor; UPDATE divisor SET d = 0;
         SELECT lo_create(7); ALTER LARGE OBJECT 7 OWNER TO gone;",
    );
    let archive = MemoryArchive::of(&source, "d");

    // A CHECK that looks into a table that is loaded later: tried again, not lost. Missing roles: named, the rest is restored.
    let without_roles = RestoreOptions {
        globals: Globals::None,
        ..options()
    };
    let report = restored(&other, "d", &archive, &without_roles);
    assert_eq!(report.roles_missing, ["gone"]);
    assert!(
        report
            .tables
            .iter()
            .any(|table| table.name == "aa_checked" && table.retried > 0 && table.rows == 2000)
    );
    let failed: Vec<(Phase, &str)> = report
        .failures
        .iter()
        .map(|failure| (failure.phase, failure.object.as_str()))
        .collect();
    assert_eq!(
        failed,
        [
            (Phase::PreData, "owner of TABLE public.owned"),
            (Phase::LargeObjects, "large object 7"),
            (Phase::Privileges, "ACL public.TABLE zz_lookup"),
            (Phase::Last, "MATERIALIZED VIEW DATA public.mv_fails"),
        ]
    );
    assert_eq!(report.failures[3].sqlstate.as_deref(), Some("22012"));
    assert_eq!(report.check.as_ref().expect("checked").differences, []);
    assert!(!report.is_complete() && !report.stopped);

    // Tables that could not be made do not keep others from being loaded, also where one session meets several of them.
    let mut archive = MemoryArchive::of(&source, "d");
    for (name, like) in [("aaa_missing", "divisor"), ("zzz_missing", "divisor")] {
        let mut table = archive
            .info
            .tables
            .iter()
            .find(|table| table.name == like)
            .expect("a table")
            .clone();
        let rows = archive.parts[&("public".to_owned(), like.to_owned(), 0)].clone();
        name.clone_into(&mut table.name);
        archive
            .parts
            .insert(("public".to_owned(), table.name.clone(), 0), rows);
        archive.info.tables.push(table);
    }
    archive
        .info
        .extensions
        .push(("no_such_extension".to_owned(), "1.0".to_owned()));
    archive.info.extensions[0].1 = "0.9".to_owned();
    let one_by_one = RestoreOptions {
        jobs: 1,
        ..without_roles.clone()
    };
    let report = restored(&other, "missing", &archive, &one_by_one);
    let lost: Vec<&str> = report
        .failures
        .iter()
        .filter(|failure| failure.phase == Phase::Data)
        .map(|failure| failure.object.as_str())
        .collect();
    assert_eq!(
        lost,
        [
            "rows of public.aaa_missing, part 0",
            "rows of public.zzz_missing, part 0"
        ]
    );
    assert!(
        report
            .tables
            .iter()
            .any(|table| table.name == "aa_checked" && table.rows == 2000)
    );
    assert_eq!(report.extensions_missing, ["no_such_extension"]);
    assert!(
        report
            .notes
            .iter()
            .any(|note| note == "extension plpgsql is of version 1.0, it was of version 0.9"),
        "{:?}",
        report.notes
    );
    let archive = MemoryArchive::of(&source, "d");

    // The same, stopping at the first: before anything is created.
    let stop = RestoreOptions {
        on_error: OnError::Stop,
        ..without_roles.clone()
    };
    let error = restore_database(&target(&other, "e"), &archive, &stop).expect_err("refused");
    assert!(
        matches!(&error, RestoreError::RolesMissing(roles) if roles == &["gone"]),
        "{error}"
    );
    assert_eq!(
        other
            .session("postgres")
            .query("SELECT FROM pg_database WHERE datname = 'e'", &[])
            .expect("asked")
            .len(),
        0
    );
    let no_owner = RestoreOptions {
        no_owner: true,
        no_privileges: true,
        ..stop
    };
    let report = restored(&other, "e", &archive, &no_owner);
    assert!(report.stopped && report.failures.len() == 1, "{report:#?}");
    assert_eq!(report.failures[0].phase, Phase::Last);

    // Roles brought along: only the view fails.
    let report = restored(&other, "f", &archive, &options());
    assert_eq!(report.roles_created, ["gone"]);
    assert_eq!(report.failures.len(), 1, "{:#?}", report.failures);
}

#[test]
fn damaged_and_changed_rows_are_noticed() {
    let cluster = Cluster::start();
    cluster.sql("postgres", "CREATE DATABASE d");
    cluster.sql(
        "d",
        "CREATE TABLE t AS SELECT g, 'row ' || g AS v FROM generate_series(1, 5000) g; CREATE TABLE u (i int); INSERT INTO u VALUES (1);
         CREATE SEQUENCE s; CREATE TABLE h (k text, v int) PARTITION BY HASH (k);
         CREATE TABLE h0 PARTITION OF h FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE h1 PARTITION OF h FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         INSERT INTO h SELECT 'k' || g, g FROM generate_series(1, 200) g;",
    );
    let part = |table: &str, number: u64| ("public".to_owned(), table.to_owned(), number);

    // Rows that belong into another partition here than there (another collation, another byte order) go in through the root.
    let mut archive = MemoryArchive::of(&cluster, "d");
    let (h0, h1) = (
        archive.parts[&part("h0", 0)].clone(),
        archive.parts[&part("h1", 0)].clone(),
    );
    let (rows0, rows1) = (
        h0.iter().filter(|b| **b == b'\n').count(),
        h1.iter().filter(|b| **b == b'\n').count(),
    );
    assert!(rows0 > 0 && rows1 > 0);
    archive.parts.insert(part("h0", 0), h1);
    archive.parts.insert(part("h1", 0), h0);
    for table in &mut archive.info.tables {
        match table.name.as_str() {
            "h0" => table.rows = rows1 as u64,
            "h1" => table.rows = rows0 as u64,
            _ => {}
        }
    }
    let report = restored(&cluster, "moved", &archive, &options());
    assert!(report.is_complete(), "{report:#?}");
    assert!(
        report
            .tables
            .iter()
            .filter(|table| table.loaded_via.as_deref() == Some("public.h"))
            .count()
            == 2
    );

    // One changed byte, one lost row, a wrong position of a sequence: the comparison names them.
    let mut archive = MemoryArchive::of(&cluster, "d");
    let bytes = archive.parts.get_mut(&part("t", 1)).expect("a second part");
    let at = bytes.len() - 2;
    bytes[at] = b'x';
    archive.parts.insert(part("u", 0), Vec::new());
    archive.info.large_objects = 3;
    let report = restored(&cluster, "changed", &archive, &options());
    let names: Vec<&str> = report
        .check
        .as_ref()
        .expect("checked")
        .differences
        .iter()
        .map(|d| d.object.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "number of large objects",
            "rows of public.t",
            "rows of public.u"
        ]
    );
    assert_eq!(report.failures.len(), 1, "{:#?}", report.failures);
    assert_eq!(
        report.failures[0].reason,
        "1 rows were archived, 0 were taken by the server"
    );

    // A damaged part costs that part: nothing of it is in the table, and the rest is.
    let mut archive = MemoryArchive::of(&cluster, "d");
    archive.damaged.insert(part("t", 1));
    let report = restored(&cluster, "damaged", &archive, &options());
    assert_eq!(
        (report.damaged, report.failures.len()),
        (1, 1),
        "{:#?}",
        report.failures
    );
    assert_eq!(report.failures[0].object, "rows of public.t, part 1");
    let lost = archive.parts[&part("t", 1)]
        .iter()
        .filter(|b| **b == b'\n')
        .count() as u64;
    assert_eq!(
        report.rows,
        archive
            .info
            .tables
            .iter()
            .map(|table| table.rows)
            .sum::<u64>()
            - lost
    );
    let names: Vec<&str> = report
        .check
        .as_ref()
        .expect("checked")
        .differences
        .iter()
        .map(|d| d.object.as_str())
        .collect();
    assert_eq!(names, ["rows of public.t"]);

    // A part that cannot be read ends the restore, and nothing of it is in the table.
    let mut archive = MemoryArchive::of(&cluster, "d");
    archive.parts.remove(&part("u", 0));
    let error = restore_database(&target(&cluster, "unread"), &archive, &options())
        .expect_err("unreadable");
    assert!(matches!(error, RestoreError::Archive(_)), "{error}");

    // Interrupted before it begins to write.
    let stopped = RestoreOptions {
        interrupted: Arc::new(AtomicBool::new(true)),
        ..options()
    };
    let archive = MemoryArchive::of(&cluster, "d");
    let error =
        restore_database(&target(&cluster, "never"), &archive, &stopped).expect_err("interrupted");
    assert!(matches!(error, RestoreError::Interrupted), "{error}");
}

#[test]
fn other_encodings_keep_every_byte() {
    let cluster = Cluster::start();
    cluster.sql(
        "postgres",
        "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'",
    );
    cluster.sql("latin", "CREATE TABLE \"täble\" (\"cölumn\" text DEFAULT 'é'); INSERT INTO \"täble\" VALUES ('ÄÖÜ ß ÿ'), (NULL); COMMENT ON TABLE \"täble\" IS 'kömment'");
    cluster.sql(
        "postgres",
        "CREATE DATABASE bytes TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'",
    );
    cluster.sql("bytes", r"CREATE TABLE mixed (v text DEFAULT E'\xe4\\ $holdfast$ '''); INSERT INTO mixed VALUES (E'\xe9'), (E'\xff\xfe'), (E'\\.'), (DEFAULT); ALTER TABLE mixed OWNER TO postgres");
    // The schema in UTF-8, and in the encoding of the database.
    for (name, utf8) in [("latin", true), ("latin", false), ("bytes", false)] {
        let mut archive = MemoryArchive::of(&cluster, name);
        let pg_dump = cluster.program("pg_dump");
        archive.schema = schema(&cluster.conninfo(name), &pg_dump.to_string_lossy(), utf8);
        let copy = format!("{name}_{utf8}");
        let report = restored(&cluster, &copy, &archive, &options());
        assert!(report.is_complete(), "{report:#?}");
        let again = MemoryArchive::of(&cluster, &copy);
        let archive = MemoryArchive::of(&cluster, name);
        assert_eq!(
            (&again.parts, &again.info.tables),
            (&archive.parts, &archive.info.tables)
        );
        let definitions = |archive: &MemoryArchive| {
            let toc = holdfast::target::postgres::toc::Toc::parse(&archive.schema).expect("parses");
            let tables = toc
                .entries
                .into_iter()
                .filter(|entry| matches!(entry.kind(), b"TABLE" | b"COMMENT"));
            tables.map(|entry| entry.definition).collect::<Vec<_>>()
        };
        assert_eq!(definitions(&again), definitions(&archive));
    }
}
