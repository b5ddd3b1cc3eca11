//! What goes wrong around a database: servers that end, programs that are killed, settings and names that nobody expects. Each is told in one clear
//! error with its exit code, loses nothing, and the next run works.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use holdfast::ops::verify::Depth;

use crate::full_disk::Small;
use crate::pg_cluster::{Cluster, signal};
use crate::place::{Outcome, PATIENCE, Place};

/// As root the server has a user of its own, who must reach nothing of ours.
fn conninfo(cluster: &Cluster, user: &str, dbname: &str) -> String {
    cluster
        .conninfo(dbname)
        .replace("user=postgres", &format!("user={user}"))
}

fn restore(place: &Place, database: &str, into: &str, more: &[&str]) -> Outcome {
    let args = ["restore", "latest", "--database", database, "--into", into];
    place.run(args.iter().chain(more))
}

fn texts(cluster: &Cluster, dbname: &str, sql: &str) -> Vec<String> {
    let rows = cluster.session(dbname).query(sql, &[]).expect(sql);
    rows.iter().map(|row| row.get(0)).collect()
}

fn databases(cluster: &Cluster) -> Vec<String> {
    let sql = "SELECT datname::text FROM pg_database WHERE NOT datistemplate ORDER BY 1";
    texts(cluster, "postgres", sql)
}

const HOSTILE: [(&str, &str); 27] = [
    ("statement_timeout", "1ms"),
    ("lock_timeout", "1ms"),
    ("idle_in_transaction_session_timeout", "1ms"),
    // Not shorter: it runs from the login on, before anybody can end it.
    ("idle_session_timeout", "500ms"),
    ("default_transaction_read_only", "on"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_deferrable", "on"),
    ("search_path", "nowhere"),
    ("datestyle", "SQL, DMY"),
    ("intervalstyle", "sql_standard"),
    ("extra_float_digits", "0"),
    ("bytea_output", "escape"),
    ("row_security", "off"),
    ("exit_on_error", "on"),
    ("client_encoding", "LATIN1"),
    ("standard_conforming_strings", "off"),
    ("transform_null_equals", "on"),
    ("array_nulls", "off"),
    ("quote_all_identifiers", "on"),
    ("xmlbinary", "hex"),
    ("xmloption", "document"),
    ("timezone", "Australia/Lord_Howe"),
    ("default_tablespace", "nowhere"),
    ("session_replication_role", "replica"),
    ("debug_print_parse", "on"),
    ("client_min_messages", "debug1"),
    ("backslash_quote", "off"),
];

#[test]
fn hostile_settings_change_nothing() {
    let cluster = Cluster::start();
    cluster.sql("postgres", "CREATE DATABASE app");
    cluster.sql("postgres", "CREATE ROLE hostile SUPERUSER LOGIN");
    cluster.sql(
        "app",
        r#"CREATE TABLE t (i int, f float8, d timestamptz, iv interval, b bytea, m money, x xml, a text[]);
           INSERT INTO t SELECT g, g / 7.0::float8, '2021-03-04 05:06:07.123456Z'::timestamptz + g * interval '1 h', g * interval '1 day 2 h',
             decode(md5(g::text), 'hex'), (g * 1.01)::numeric::money, '<a/>', '{NULL,"NULL",x}' FROM generate_series(1, 50) g;
           CREATE TABLE guarded (i int); INSERT INTO guarded SELECT generate_series(1, 10);
           ALTER TABLE guarded ENABLE ROW LEVEL SECURITY; ALTER TABLE guarded FORCE ROW LEVEL SECURITY"#,
    );
    for (name, value) in HOSTILE {
        cluster.sql(
            "postgres",
            &format!("ALTER ROLE hostile SET {name} = '{value}'"),
        );
    }
    let digest = "SELECT md5(string_agg(t::text, ',' ORDER BY i)) || bool_and(a[1] IS NULL AND a[2] = 'NULL') FROM t";
    let expected = texts(&cluster, "app", digest);
    let place = Place::small();
    // Of the role that reads and writes.
    let hostile = conninfo(&cluster, "hostile", "app");
    place.run(["backup", "--database", &hostile]).expect(0);
    for more in [&["--check"][..], &["--check", "--clean"]] {
        let into = conninfo(&cluster, "hostile", "of_role");
        restore(&place, "app", &into, more).expect(0);
        assert_eq!(texts(&cluster, "of_role", digest), expected);
    }
    // Of the database that is read, and that comes to be in the middle of the restore.
    for (name, value) in HOSTILE {
        if name != "client_encoding" {
            cluster.sql(
                "postgres",
                &format!("ALTER DATABASE app SET {name} = '{value}'"),
            );
        }
    }
    place
        .run(["backup", "--database", &cluster.conninfo("app")])
        .expect(0);
    for more in [&["--check"][..], &["--check", "--clean"]] {
        restore(&place, "app", &cluster.conninfo("of_db"), more).expect(0);
    }
    cluster.sql("postgres", "ALTER DATABASE of_db RESET ALL");
    assert_eq!(texts(&cluster, "of_db", digest), expected);
    place.assert_good(Depth::EndToEnd);
}

#[test]
fn refusals_say_what_to_do() {
    let cluster = Cluster::start();
    for sql in [
        "CREATE ROLE nologin",
        "CREATE ROLE mine LOGIN",
        "CREATE DATABASE app",
        "CREATE DATABASE loads",
        "ALTER DATABASE loads SET session_preload_libraries = 'nowhere'",
    ] {
        cluster.sql("postgres", sql);
    }
    let place = Place::small();
    let backup = |conninfo: &str| place.run(["backup", "--database", conninfo]).expect(1);
    backup(&conninfo(&cluster, "nologin", "app")).says("ALTER ROLE \"nologin\" LOGIN");
    backup(&cluster.conninfo("ap")).says("the server has app, loads, postgres");
    backup(&cluster.conninfo("loads")).says("session_preload_libraries");
    place
        .run(["backup", "--database", &cluster.conninfo("app")])
        .expect(0);
    let into = conninfo(&cluster, "mine", "new");
    let refused = restore(&place, "app", &into, &["--globals", "none"]).expect(1);
    refused.says("ALTER ROLE \"mine\" CREATEDB").in_one_line();
    restore(&place, "nothing", &into, &[])
        .expect(1)
        .says("it holds app");
    assert_eq!(databases(&cluster), ["app", "loads", "postgres"]);
}

#[test]
fn an_accepted_loss_does_not_make_a_backup_incomplete() {
    let cluster = Cluster::start();
    cluster.sql(
        "postgres",
        "CREATE ROLE reader LOGIN; CREATE ROLE other PASSWORD 'x'; CREATE TABLE t AS SELECT 1 AS a; GRANT SELECT ON t TO reader",
    );
    let place = Place::small();
    let reader = conninfo(&cluster, "reader", "postgres");
    place.run(["backup", "--database", &reader]).expect(3);
    let accepted = [
        "backup",
        "--database",
        &reader,
        "--accept",
        "role-passwords",
    ];
    place.run(accepted).expect(0);
    let wrong = ["backup", "--database", &reader, "--accept", "passwords"];
    place
        .run(wrong)
        .expect(2)
        .says("role-passwords, user-mapping-options, subscriptions");
    let site = place.path("site.toml");
    let text = format!(
        "[site]\nname = \"s\"\n[[database]]\nname = \"d\"\nconninfo = \"{reader}\"\naccept = [\"role-passwords\"]\n"
    );
    fs::write(&site, text).unwrap();
    let site = site.to_str().unwrap();
    let done = place.run(["backup", "--site", site, "--json"]).expect(0);
    assert_eq!(done.component("d").0, "complete");
    let snapshot = place.snapshots().pop().expect("a snapshot");
    let component = snapshot
        .record
        .components
        .iter()
        .find(|c| c.name == "d")
        .unwrap();
    let notes = component.notes.join("\n");
    assert!(
        notes.contains("accepted as missing: passwords of roles"),
        "{notes}"
    );
    let checked = place.run(["site", "check", "--site", site]);
    assert!(checked.stdout.contains("which is accepted"), "{checked:#?}");
    fs::write(
        site,
        fs::read_to_string(site)
            .unwrap()
            .replace("role-passwords", "everything"),
    )
    .unwrap();
    place
        .run(["site", "check", "--site", site])
        .expect(1)
        .says("accept takes");
}

/// A database whose rows are read or written slowly when the role says so.
fn slow_database(cluster: &Cluster) {
    cluster.sql("postgres", "CREATE DATABASE app");
    cluster.sql(
        "app",
        "CREATE FUNCTION slow(i int) RETURNS boolean LANGUAGE plpgsql AS
           'begin if current_setting(''app.slow'', true) = ''on'' then perform pg_sleep(0.1); end if; return true; end';
         CREATE UNLOGGED TABLE first AS SELECT generate_series(1, 10) AS i;
         CREATE TABLE t (i int CHECK (slow(i)));
         INSERT INTO t SELECT generate_series(1, 600)",
    );
}

fn set_slow(cluster: &Cluster, slow: &str) {
    cluster.sql(
        "postgres",
        &format!("ALTER ROLE postgres SET app.slow = '{slow}'"),
    );
}

/// Waits until the table that is slow is copied.
fn wait_for_copy(cluster: &Cluster) {
    let end = Instant::now() + PATIENCE;
    let sql =
        "SELECT query FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'COPY%\"t\"%'";
    while texts(cluster, "postgres", sql).is_empty() {
        assert!(Instant::now() < end, "no COPY was seen");
        thread::sleep(Duration::from_millis(50));
    }
}

fn started(place: &Place, args: &[&str]) -> Child {
    place.command(args).spawn().expect("the command starts")
}

fn ended(child: Child) -> Outcome {
    Outcome::of(child.wait_with_output().expect("it ends"))
}

#[test]
fn a_restore_that_is_cut_off_leaves_the_old_database() {
    let mut cluster = Cluster::start();
    slow_database(&cluster);
    let place = Place::small();
    let into = cluster.conninfo("app");
    place.run(["backup", "--database", &into]).expect(0);
    cluster.sql("app", "DELETE FROM t WHERE i > 7");
    let old = |cluster: &Cluster| {
        assert_eq!(texts(cluster, "app", "SELECT count(*)::text FROM t"), ["7"]);
    };
    let clean = [
        "restore",
        "latest",
        "--database",
        "app",
        "--into",
        &into,
        "--clean",
    ];
    set_slow(&cluster, "on");
    // Ctrl-C: nothing is left.
    let child = started(&place, &clean);
    wait_for_copy(&cluster);
    signal(child.id(), "INT");
    ended(child).expect(130);
    old(&cluster);
    assert_eq!(databases(&cluster), ["app", "postgres"]);
    // A session that somebody ends is begun anew; here its part is what the restore waits for, so it is only not lost.
    // The server ends at once and comes up again: unlogged tables that were loaded are empty then.
    let child = started(&place, &clean);
    wait_for_copy(&cluster);
    cluster.stop();
    cluster.boot();
    let refused = ended(child).expect(1);
    refused
        .says("cannot replace database \"app\"; it stays as it was")
        .says("crashed");
    old(&cluster);
    assert_eq!(databases(&cluster), ["app", "postgres"]);
    // kill -9: the new one is left, and the next run drops it.
    let mut child = started(&place, &clean);
    wait_for_copy(&cluster);
    child.kill().unwrap();
    child.wait().unwrap();
    old(&cluster);
    assert_eq!(databases(&cluster).len(), 3);
    set_slow(&cluster, "off");
    let done = restore(&place, "app", &into, &["--clean", "--check"]).expect(0);
    assert!(
        done.stdout
            .contains("left by a restore that was interrupted, was dropped"),
        "{done:#?}"
    );
    assert_eq!(
        texts(&cluster, "app", "SELECT count(*)::text FROM t"),
        ["600"]
    );
    assert_eq!(databases(&cluster), ["app", "postgres"]);
    // Without --clean what is half done has the name, and is said to be half done.
    set_slow(&cluster, "on");
    let other = cluster.conninfo("other");
    let child = started(
        &place,
        &["restore", "latest", "--database", "app", "--into", &other],
    );
    wait_for_copy(&cluster);
    cluster.stop();
    cluster.boot();
    ended(child)
        .expect(1)
        .says("database \"other\" is left incomplete, restore it again with --clean");
    set_slow(&cluster, "off");
    restore(&place, "app", &other, &[])
        .expect(1)
        .says("replace it with --clean");
    restore(&place, "app", &other, &["--clean", "--check"]).expect(0);
}

#[test]
fn a_backup_that_loses_its_server_is_no_snapshot() {
    let mut cluster = Cluster::start();
    slow_database(&cluster);
    // The condition of an extension's table is asked for each row.
    cluster.sql(
        "app",
        "UPDATE pg_extension SET extconfig = ARRAY['t'::regclass::oid], extcondition = ARRAY['WHERE public.slow(i)']",
    );
    set_slow(&cluster, "on");
    let place = Place::small();
    let from = cluster.conninfo("app");
    let backup = ["backup", "--database", &from];
    let child = started(&place, &backup);
    wait_for_copy(&cluster);
    cluster.stop();
    cluster.boot();
    ended(child).expect(1).says("app");
    let child = started(&place, &backup);
    wait_for_copy(&cluster);
    let end = "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity WHERE query LIKE 'COPY%\"t\"%' AND pid <> pg_backend_pid()";
    texts(&cluster, "postgres", end);
    ended(child).expect(1).says("table public.t");
    assert_eq!(place.snapshots().len(), 0);
    set_slow(&cluster, "off");
    place.run(backup).expect(0);
    place.assert_good(Depth::EndToEnd);
}

#[test]
fn a_killed_server_is_one_clear_error() {
    let mut cluster = Cluster::start();
    slow_database(&cluster);
    cluster.sql(
        "app",
        "UPDATE pg_extension SET extconfig = ARRAY['t'::regclass::oid], extcondition = ARRAY['WHERE public.slow(i)']",
    );
    let place = Place::small();
    let from = cluster.conninfo("app");
    let backup = ["backup", "--database", &from];
    place.run(backup).expect(0);
    set_slow(&cluster, "on");
    let child = started(&place, &backup);
    wait_for_copy(&cluster);
    cluster.crash();
    let refused = ended(child).expect(1);
    refused.says("app");
    assert_eq!(place.snapshots().len(), 1);
    cluster.boot();
    let clean = [
        "restore",
        "latest",
        "--database",
        "app",
        "--into",
        &from,
        "--clean",
    ];
    let child = started(&place, &clean);
    wait_for_copy(&cluster);
    cluster.crash();
    ended(child)
        .expect(1)
        .says("cannot replace database \"app\"; it stays as it was");
    cluster.boot();
    assert_eq!(
        texts(&cluster, "app", "SELECT count(*)::text FROM t"),
        ["600"]
    );
    // What the killed server could not drop any more is dropped by the next run.
    set_slow(&cluster, "off");
    place.run(clean).expect(0);
    assert_eq!(databases(&cluster), ["app", "postgres"]);
    place.run(backup).expect(0);
    place.assert_good(Depth::EndToEnd);
}

#[test]
fn a_connection_that_is_cut_in_a_restore_is_opened_again() {
    let cluster = Cluster::start();
    slow_database(&cluster);
    let place = Place::small();
    place
        .run(["backup", "--database", &cluster.conninfo("app")])
        .expect(0);
    set_slow(&cluster, "on");
    let into = cluster.conninfo("other");
    let args = ["restore", "latest", "--database", "app", "--into", &into];
    let child = started(&place, &[&args[..], &["--check"]].concat());
    wait_for_copy(&cluster);
    set_slow(&cluster, "off");
    let end = "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity WHERE query LIKE 'COPY%\"t\"%' AND pid <> pg_backend_pid()";
    assert_eq!(texts(&cluster, "postgres", end), ["true"]);
    ended(child).expect(0);
    let count = texts(&cluster, "other", "SELECT count(*)::text FROM t");
    assert_eq!(count, ["600"]);
}

#[test]
fn a_full_disk_of_the_server_ends_a_restore() {
    // Before the server, so that it ends first.
    let outer = tempfile::tempdir().unwrap();
    fs::set_permissions(outer.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let folder = outer.path().join("small");
    fs::create_dir(&folder).unwrap();
    let Some(small) = Small::mount_of(&folder, 40) else {
        return println!("not run: a memory file system can't be mounted here");
    };
    let cluster = Cluster::start();
    let owner = fs::metadata(cluster.data()).unwrap();
    chown(&folder, Some(owner.uid()), Some(owner.gid())).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    let create = format!("CREATE TABLESPACE small LOCATION '{}'", folder.display());
    cluster.sql("postgres", &create);
    cluster.sql("postgres", "CREATE DATABASE app TABLESPACE small");
    cluster.sql(
        "app",
        "CREATE TABLE a AS SELECT g AS i, repeat('x', 1000) AS t FROM generate_series(1, 9000) g; CREATE TABLE b AS SELECT * FROM a",
    );
    let place = Place::small();
    let conninfo = cluster.conninfo("app");
    place.run(["backup", "--database", &conninfo]).expect(0);
    // Not replaced, and nothing is left beside it that would keep the disk full.
    // What is written now needs no room later, when the other database is dropped.
    cluster.sql("postgres", "CHECKPOINT");
    restore(&place, "app", &conninfo, &["--clean"])
        .expect(1)
        .says("No space left on device")
        .says("it stays as it was");
    assert_eq!(databases(&cluster), ["app", "postgres"]);
    restore(&place, "app", &cluster.conninfo("other"), &[])
        .expect(1)
        .says("No space left on device")
        .says("database \"other\" is left incomplete");
    cluster.sql("postgres", "DROP DATABASE other");
    small.grow_to(200);
    restore(&place, "app", &conninfo, &["--clean", "--check"]).expect(0);
    let count = texts(&cluster, "app", "SELECT count(*)::text FROM b");
    assert_eq!(count, ["9000"]);
}

/// Some GB of memory and a minute: by hand, with `--ignored`.
#[test]
#[ignore = "takes 3 GB and a minute"]
fn rows_of_a_gigabyte_come_back() {
    let cluster = Cluster::start();
    cluster.sql("postgres", "CREATE DATABASE app");
    // A text is one byte on the wire for one, and the server forms no row of a GiB: less than that, and several columns.
    cluster.sql(
        "app",
        "CREATE TABLE one (t text); INSERT INTO one VALUES (repeat('0123456789', 100000000));
         CREATE TABLE several (a text, b text, c text); ALTER TABLE several ALTER a SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL;
         INSERT INTO several VALUES (repeat('a', 350000000), repeat('b', 350000000), repeat('c', 300000000))",
    );
    let place = Place::new();
    place
        .run(["init", "--key-file", place.path("key").to_str().unwrap()])
        .expect(0);
    place
        .run(["backup", "--database", &cluster.conninfo("app")])
        .expect(0);
    restore(&place, "app", &cluster.conninfo("again"), &["--check"]).expect(0);
    let sql = "SELECT concat((SELECT length(t) FROM one), ' ', (SELECT length(a) + length(b) + length(c) FROM several))";
    assert_eq!(texts(&cluster, "again", sql), ["1000000000 1000000000"]);
}

const ODD: &str = r#"
CREATE TABLE "." (i int); INSERT INTO "." VALUES (1); CREATE TABLE ".." (i int); INSERT INTO ".." VALUES (2);
CREATE TABLE "a/b" (i int); INSERT INTO "a/b" VALUES (3); CREATE TABLE "b\c" ("d\e" int); INSERT INTO "b\c" VALUES (4);
CREATE TABLE "a%2Fb" (i int); INSERT INTO "a%2Fb" VALUES (5); CREATE TABLE "%" (i int); INSERT INTO "%" VALUES (6);
CREATE TABLE "ééééééééééééééééééééééééééééééé" (i int); INSERT INTO "ééééééééééééééééééééééééééééééé" VALUES (7);
CREATE SCHEMA ".."; CREATE TABLE ".."."..." (i serial); INSERT INTO ".."."..." VALUES (8);
CREATE SCHEMA "a/b"; CREATE TABLE "a/b"." " (i int); INSERT INTO "a/b"." " VALUES (9);
CREATE TABLE "new
line" (i int, "q'uo""te
\i x" text DEFAULT E'\\! x'); INSERT INTO "new
line" VALUES (10, E'\\.\n'); CREATE INDEX "in/dex
\q" ON "new
line" (i); CREATE SEQUENCE "se;q
x"; CREATE VIEW "v
\! x" AS SELECT * FROM "a/b"; CREATE ROLE "ro
le'"; ALTER TABLE "a/b" OWNER TO "ro
le'"; CREATE TABLE zero (); INSERT INTO zero SELECT FROM generate_series(1, 100000);
DO $$ BEGIN EXECUTE 'CREATE TABLE wide (' || (SELECT string_agg('c' || g || ' int', ',') FROM generate_series(1, 1600) g) || ')';
  EXECUTE 'INSERT INTO wide SELECT ' || (SELECT string_agg('1', ',') FROM generate_series(1, 1600)); END $$;
CREATE TABLE big AS SELECT g AS i, repeat(md5(g::text), 330000) AS t FROM generate_series(1, 2) g;
"#;

#[test]
fn odd_names_and_shapes_come_back() {
    let cluster = Cluster::start();
    let name = "we\"i'rd \\ /..";
    let quoted = name.replace('"', "\"\"");
    cluster.sql("postgres", &format!("CREATE DATABASE \"{quoted}\""));
    let in_conninfo = format!("'{}'", name.replace('\\', "\\\\").replace('\'', "\\'"));
    cluster.sql(&in_conninfo, ODD);
    let conninfo = cluster.conninfo(&in_conninfo);
    let place = Place::small();
    place.run(["backup", "--database", &conninfo]).expect(0);
    restore(&place, name, &conninfo, &["--clean", "--check"]).expect(0);
    restore(&place, name, &cluster.conninfo("plain"), &["--check"]).expect(0);
    let sql = "SELECT concat((SELECT count(*) FROM zero), (SELECT i FROM \"..\"), (SELECT i FROM \"..\".\"...\"), (SELECT c1600 FROM wide))";
    assert_eq!(texts(&cluster, "plain", sql), ["100000281"]);
    assert_eq!(databases(&cluster).len(), 3);
    place.assert_good(Depth::EndToEnd);
}
