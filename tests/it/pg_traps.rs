//! What a database may hold that its keeper did not mean to be backed up: names in the way of the catalog's, functions that raise, tables that reach into
//! other schemas and servers. It comes back as it was, or one line says what did not.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use holdfast::ops::verify::Depth;
use holdfast::source::postgres::dump::DumpOptions;

use crate::pg_cluster::{Cluster, ClusterOptions};
use crate::pg_dump::{dump_with, info, source};
use crate::pg_restore::{assert_same, dumped};
use crate::place::{Outcome, Place};

fn restore(place: &Place, database: &str, into: &str, more: &[&str]) -> Outcome {
    let database = format!("--database={database}");
    let args = ["restore", "latest", &database, "--into", into];
    place.run(args.iter().chain(more))
}

fn text(cluster: &Cluster, dbname: &str, sql: &str) -> String {
    cluster
        .session(dbname)
        .query_one(sql, &[])
        .expect(sql)
        .get(0)
}

/// Whatever of the catalog is called without its schema meets one of these.
const SHADOWS: &str = r#"
CREATE FUNCTION trap() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'a trap was sprung'; END $$;
DO $do$ DECLARE f text; BEGIN
  FOREACH f IN ARRAY ARRAY['set_config(text, text, boolean) RETURNS text', 'current_setting(text) RETURNS text', 'pg_export_snapshot() RETURNS text',
    'now() RETURNS timestamptz', 'clock_timestamp() RETURNS timestamptz', 'pg_relation_size(oid) RETURNS bigint', 'pg_relation_size(regclass) RETURNS bigint',
    'format_type(oid, integer) RETURNS text', 'quote_ident(text) RETURNS text', 'quote_ident(name) RETURNS text', 'has_table_privilege(oid, text) RETURNS boolean',
    'has_table_privilege(text, text) RETURNS boolean', 'obj_description(oid, name) RETURNS text', 'pg_get_userbyid(oid) RETURNS name', 'to_regclass(text) RETURNS regclass',
    'setval(regclass, bigint, boolean) RETURNS bigint', 'lo_create(oid) RETURNS oid', 'lo_put(oid, bigint, bytea) RETURNS void', 'lo_get(oid, bigint, integer) RETURNS bytea',
    'txid_current() RETURNS bigint', 'getdatabaseencoding() RETURNS name', 'current_database() RETURNS name', 'version() RETURNS text', 'pg_is_in_recovery() RETURNS boolean',
    'floor(double precision) RETURNS double precision', 'date_part(text, timestamptz) RETURNS double precision', 'to_char(timestamptz, text) RETURNS text',
    'pg_backend_pid() RETURNS integer', 'pg_relation_filenode(regclass) RETURNS oid', 'array_to_json(anyarray) RETURNS json', 'lower(text) RETURNS text']
  LOOP EXECUTE 'CREATE FUNCTION public.' || f || ' LANGUAGE plpgsql AS $$ BEGIN RAISE ''a trap was sprung''; END $$'; END LOOP;
END $do$;
CREATE FUNCTION trap_op(anyelement, anyelement) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'a trap was sprung'; END $$;
DO $do$ DECLARE t text; o text; BEGIN
  FOREACH t IN ARRAY ARRAY['oid', 'name', 'text', '"char"', 'int4', 'int8', 'bool', 'tid', 'xid'] LOOP
    EXECUTE format('CREATE FUNCTION public.trap_op(%1$s, %1$s) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE ''a trap was sprung''; END $$', t);
    FOREACH o IN ARRAY ARRAY['=', '<>', '<', '>=', '~', '!~'] LOOP
      EXECUTE format('CREATE OPERATOR public.%s (FUNCTION = public.trap_op, LEFTARG = %s, RIGHTARG = %2$s)', o, t);
    END LOOP;
  END LOOP;
END $do$;
CREATE FUNCTION trap_cat(text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'a trap was sprung'; END $$;
CREATE OPERATOR || (FUNCTION = trap_cat, LEFTARG = text, RIGHTARG = text);
CREATE AGGREGATE count(integer) (SFUNC = int4pl, STYPE = integer);
CREATE TABLE pg_class (oid oid, relname name); CREATE TABLE pg_namespace (oid oid); CREATE TABLE pg_attribute (attname name);
CREATE TABLE pg_database (datname name); CREATE TABLE pg_settings (name text); CREATE TABLE pg_largeobject (loid oid);
CREATE DOMAIN oid AS pg_catalog.text; CREATE DOMAIN regclass AS pg_catalog.text; CREATE DOMAIN int8 AS pg_catalog.text;
"#;

#[test]
fn names_in_the_way_of_the_catalogs_are_no_traps() {
    let cluster = Cluster::start();
    cluster.sql("postgres", "CREATE DATABASE app");
    cluster.sql(
        "app",
        "CREATE TABLE kept (i int PRIMARY KEY, t text, m money); INSERT INTO kept SELECT g, g, g::numeric::money FROM generate_series(1, 100) g;
         CREATE SEQUENCE s; SELECT nextval('s'); SELECT lo_from_bytea(7000, 'large'); CREATE MATERIALIZED VIEW mv AS SELECT i FROM kept",
    );
    cluster.sql("app", SHADOWS);
    for sql in [
        "CREATE ROLE lured SUPERUSER LOGIN",
        "ALTER ROLE lured SET search_path = public, pg_catalog",
        "ALTER DATABASE app SET search_path = public, pg_catalog",
    ] {
        cluster.sql("postgres", sql);
    }
    let as_lured = |dbname: &str| {
        let conninfo = cluster.conninfo(dbname);
        conninfo.replace("user=postgres", "user=lured")
    };
    let place = Place::small();
    place
        .run(["backup", "--database", &as_lured("app")])
        .expect(0);
    for more in [&["--check"][..], &["--check", "--clean"]] {
        restore(&place, "app", &as_lured("again"), more).expect(0);
    }
    // A reader asks more of the catalog than a superuser.
    cluster.sql(
        "postgres",
        "CREATE ROLE reader LOGIN; GRANT pg_read_all_data TO reader",
    );
    let reader = cluster
        .conninfo("app")
        .replace("user=postgres", "user=reader");
    place.run(["backup", "--database", &reader]).expect(0);
    restore(&place, "app", &as_lured("again"), &["--check", "--clean"]).expect(0);
    let site = place.path("site.toml");
    let site_text =
        format!("[site]\nname = \"s\"\n[[database]]\nname = \"d\"\nconninfo = \"{reader}\"\n");
    fs::write(&site, site_text).unwrap();
    place
        .run(["site", "check", "--site", site.to_str().unwrap()])
        .expect(0);
    // As a script, by somebody whose path is the same.
    let script = place.path("script.sql");
    let script = script.to_str().unwrap();
    place
        .run([
            "export", "latest", "--format", "sql", "--create", "-o", script,
        ])
        .expect(0);
    cluster.sql("postgres", "ALTER DATABASE app RENAME TO original");
    let output = std::process::Command::new(cluster.program("psql"))
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", script, "-d"])
        .arg(as_lured("postgres"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_same(
        &dumped(&cluster, "again").replace("again", "app"),
        &dumped(&cluster, "app"),
    );
}

#[test]
fn event_triggers_that_raise_do_not_stop_their_own_restore() {
    let cluster = Cluster::start();
    cluster.sql("postgres", "CREATE DATABASE app CONNECTION LIMIT 20");
    cluster.sql(
        "app",
        "CREATE TABLE t AS SELECT 1 AS a; CREATE MATERIALIZED VIEW mv AS SELECT a FROM t; COMMENT ON DATABASE app IS 'kept';
         CREATE FUNCTION never() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'never'; END $$;
         CREATE EVENT TRIGGER at_start ON ddl_command_start EXECUTE FUNCTION never();
         CREATE EVENT TRIGGER at_end ON ddl_command_end EXECUTE FUNCTION never();
         CREATE EVENT TRIGGER at_drop ON sql_drop EXECUTE FUNCTION never();
         COMMENT ON EVENT TRIGGER at_end IS 'kept too'",
    );
    let place = Place::small();
    place
        .run(["backup", "--database", &cluster.conninfo("app")])
        .expect(0);
    for more in [&["--check"][..], &["--check", "--clean"]] {
        restore(&place, "app", &cluster.conninfo("again"), more).expect(0);
        assert_same(
            &dumped(&cluster, "app"),
            &dumped(&cluster, "again").replace("again", "app"),
        );
    }
    assert_eq!(
        text(&cluster, "again", "SELECT count(*)::text FROM mv"),
        "1"
    );
    // A copy beside the live one meets them: said, not passed over.
    let beside = ["--table", "public.t", "--as", "public.t_old"];
    let args = ["restore", "latest", "--database", "app", "--into"];
    let refused = place.run(
        args.iter()
            .copied()
            .chain([cluster.conninfo("app").as_str()])
            .chain(beside),
    );
    assert!(refused.code != Some(0), "{refused:#?}");
    refused.says("never");
}

/// A folder for a tablespace, which the server owns.
fn tablespace(cluster: &Cluster, name: &str) -> std::path::PathBuf {
    let folder = cluster.socket_folder().join(name);
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    let owner = fs::metadata(cluster.data()).unwrap();
    let (uid, gid) = (
        std::os::unix::fs::MetadataExt::uid(&owner),
        std::os::unix::fs::MetadataExt::gid(&owner),
    );
    chown(&folder, Some(uid), Some(gid)).unwrap();
    folder
}

const REACHING: &str = r#"
CREATE SCHEMA one; CREATE SCHEMA two; CREATE SCHEMA "three ""3""";
CREATE TYPE one.mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE one.root (m one.mood, d date, v int) PARTITION BY HASH (m);
CREATE TABLE two.h0 PARTITION OF one.root FOR VALUES WITH (MODULUS 2, REMAINDER 0) PARTITION BY RANGE (d);
CREATE TABLE "three ""3""".h0_old PARTITION OF two.h0 FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
CREATE TABLE one.h0_rest PARTITION OF two.h0 DEFAULT;
CREATE TABLE "three ""3""".h1 PARTITION OF one.root FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO one.root SELECT (ARRAY['sad', 'ok', 'happy'])[1 + g % 3]::one.mood, date '2019-01-01' + g, g FROM generate_series(1, 900) g;
CREATE TABLE two.zz_known (k int PRIMARY KEY); INSERT INTO two.zz_known SELECT generate_series(1, 20);
CREATE FUNCTION two.is_known(i int) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN EXISTS (SELECT FROM two.zz_known WHERE k = i); END';
CREATE DOMAIN one.known AS int CHECK (two.is_known(VALUE)); CREATE DOMAIN one.knowns AS one.known[] CHECK (array_length(VALUE, 1) < 5);
CREATE TABLE one.aa_user (k one.known DEFAULT 1, ks one.knowns); INSERT INTO one.aa_user SELECT g % 20 + 1, ARRAY[g % 7 + 1] FROM generate_series(1, 500) g;
CREATE FUNCTION two.twice(i int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT i + i';
CREATE TABLE one.generated (a int, b int GENERATED ALWAYS AS (two.twice(a)) STORED, c int, EXCLUDE USING btree (b WITH =));
INSERT INTO one.generated (a, c) SELECT g, -g FROM generate_series(1, 100) g; CREATE INDEX ON one.generated (two.twice(c)) WHERE two.twice(a) > 4;
CREATE TABLE one.egg (id int PRIMARY KEY, hen int NOT NULL); CREATE TABLE two.hen (id int PRIMARY KEY, egg int NOT NULL REFERENCES one.egg, mother int REFERENCES two.hen);
INSERT INTO one.egg SELECT g, g FROM generate_series(1, 50) g; INSERT INTO two.hen SELECT g, 51 - g, nullif(g - 1, 0) FROM generate_series(1, 50) g;
ALTER TABLE one.egg ADD FOREIGN KEY (hen) REFERENCES two.hen;
CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '/nowhere'); CREATE USER MAPPING FOR postgres SERVER far;
CREATE FOREIGN TABLE one.remote (i int) SERVER far; CREATE VIEW one.over AS SELECT * FROM one.remote;
CREATE TABLE one.mixed (i int) PARTITION BY RANGE (i); CREATE TABLE one.mixed_here PARTITION OF one.mixed FOR VALUES FROM (0) TO (10);
CREATE FOREIGN TABLE two.mixed_there PARTITION OF one.mixed FOR VALUES FROM (10) TO (20) SERVER far; INSERT INTO one.mixed VALUES (1), (2);
CREATE TABLE one.aside (i int PRIMARY KEY USING INDEX TABLESPACE side) TABLESPACE side; INSERT INTO one.aside VALUES (1);
CREATE TABLE one.aside_parts (i int) PARTITION BY LIST (i) TABLESPACE side; CREATE TABLE one.aside_part PARTITION OF one.aside_parts DEFAULT TABLESPACE side;
"#;

#[test]
fn what_reaches_into_other_schemas_servers_and_disks_comes_back() {
    let (cluster, other) = (Cluster::start(), Cluster::start());
    let folder = tablespace(&cluster, "side");
    cluster.sql("postgres", "CREATE DATABASE app");
    cluster.sql(
        "postgres",
        &format!("CREATE TABLESPACE side LOCATION '{}'", folder.display()),
    );
    cluster.sql("app", REACHING);
    let place = Place::small();
    place
        .run(["backup", "--database", &cluster.conninfo("app")])
        .expect(0);
    // Beside it, where the tablespace is: the same.
    let checked = restore(&place, "app", &cluster.conninfo("again"), &["--check"]).expect(0);
    assert!(!checked.stdout.contains("ANALYZE"), "{checked:#?}");
    let squeezed = |cluster: &Cluster, dbname: &str| {
        // Which leaf a hashed enum lies in is another question in each database.
        let mut lines = Vec::new();
        let (dump, mut in_leaf) = (dumped(cluster, dbname).replace("again", "app"), false);
        for line in dump.lines() {
            in_leaf |= line.starts_with("COPY ") && line.contains("(m, d, v)");
            if !in_leaf && !line.is_empty() {
                lines.push(line.to_owned());
            }
            in_leaf &= line != "\\.";
        }
        lines
    };
    let rows = "SELECT md5(string_agg(root::text, ',' ORDER BY v)) FROM one.root";
    let (source, source_rows) = (squeezed(&cluster, "app"), text(&cluster, "app", rows));
    assert_same(&source.join("\n"), &squeezed(&cluster, "again").join("\n"));
    assert_eq!(text(&cluster, "again", rows), source_rows);
    // Elsewhere there is no such tablespace: what was in it goes to the default one, and that is said.
    let none = ["--check", "--globals", "none"];
    let told = restore(&place, "app", &other.conninfo("app"), &none).expect(0);
    assert!(
        told.stdout
            .contains("tablespaces that the target lacks: side"),
        "{told:#?}"
    );
    let without = |mut lines: Vec<String>| {
        lines.retain(|line| !line.starts_with("SET default_tablespace"));
        lines
            .join("\n")
            .replace(" TABLESPACE side", "")
            .replace("; Tablespace: side", "")
    };
    assert_same(&without(source), &without(squeezed(&other, "app")));
    assert_eq!(text(&other, "app", rows), source_rows);
    // Where it shall be made and its folder is not to be had: one failure, told by its name.
    drop(cluster);
    let told = restore(&place, "app", &other.conninfo("more"), &["--check"]).expect(3);
    assert!(told.stdout.contains("CREATE TABLESPACE side"), "{told:#?}");
    assert_eq!(text(&other, "more", rows), source_rows);
    place.assert_good(Depth::EndToEnd);
}

#[test]
fn names_of_databases_come_back() {
    let cluster = Cluster::start();
    let long = "é".repeat(31) + "x";
    let place = Place::small();
    for name in [
        "50%\n/..",
        "%",
        "é\u{301} \u{202e}",
        long.as_str(),
        "-- \\! ';",
        "a=b host='x",
    ] {
        let quoted = name.replace('"', "\"\"");
        cluster.sql("postgres", &format!("CREATE DATABASE \"{quoted}\""));
        let value = format!("'{}'", name.replace('\\', "\\\\").replace('\'', "\\'"));
        cluster.sql(&value, "CREATE TABLE t AS SELECT 7 AS a");
        let conninfo = cluster.conninfo(&value);
        place.run(["backup", "--database", &conninfo]).expect(0);
        cluster.sql(&value, "DELETE FROM t");
        restore(&place, name, &conninfo, &["--clean", "--check"]).expect(0);
        assert_eq!(
            text(&cluster, &value, "SELECT a::text FROM t"),
            "7",
            "{name:?}"
        );
        let count = "SELECT count(*)::text FROM pg_database WHERE NOT datistemplate";
        assert_eq!(text(&cluster, "postgres", count), "2", "{name:?}");
        cluster.sql("postgres", &format!("DROP DATABASE \"{quoted}\""));
    }
}

#[test]
fn a_renamed_value_of_an_enum_starts_the_database_again() {
    let cluster = Cluster::start();
    cluster.sql(
        "postgres",
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE t AS SELECT 'sad'::mood AS m; ALTER TABLE t ALTER m SET DEFAULT 'sad'",
    );
    let begun_again = |change: &str| {
        let (outcomes, archive) = dump_with(&[source(&cluster, "postgres", |_| {})], 2, || {
            cluster.sql("postgres", change);
        });
        let outcome = outcomes[0].as_ref().unwrap();
        let again = outcome
            .notes
            .iter()
            .any(|note| note.contains("begun again"));
        let rows = archive.bytes("databases/postgres/tables/public/t/000000");
        (again, String::from_utf8_lossy(rows).into_owned())
    };
    let rename = "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'";
    assert_eq!(begun_again(rename), (true, "blue\n".to_owned()));
    let add = "ALTER TYPE mood ADD VALUE 'merry'";
    assert_eq!(begun_again(add), (false, "blue\n".to_owned()));
    let other = "CREATE TYPE other AS ENUM ('a'); ALTER TYPE other RENAME VALUE 'a' TO 'b'";
    assert_eq!(begun_again(other), (false, "blue\n".to_owned()));
}

#[test]
fn who_keeps_a_table_locked_is_named() {
    let cluster = Cluster::start_with(&ClusterOptions {
        conf: vec!["max_prepared_transactions = 4".to_owned()],
        ..ClusterOptions::default()
    });
    cluster.sql("postgres", "CREATE DATABASE app");
    cluster.sql(
        "app",
        "CREATE TABLE t AS SELECT 1 AS a; CREATE TABLE u AS SELECT 1 AS a",
    );
    let lock = "BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'it''s stuck'";
    let impatient = |options: &mut DumpOptions| options.lock_wait = Duration::from_millis(700);
    let failed = |between: &dyn Fn()| {
        let (outcomes, _) = dump_with(&[source(&cluster, "app", impatient)], 2, between);
        outcomes[0].as_ref().unwrap_err().to_string()
    };
    // Between the snapshot and its rows; and before both.
    for lock in [lock, ""] {
        let error = failed(&|| cluster.sql("app", lock));
        assert!(
            error.contains("public.t is held by the prepared transaction 'it''s stuck'"),
            "{error}"
        );
    }
    // What is prepared keeps a database from being replaced; that is said before anything is done.
    let place = Place::small();
    cluster.sql("app", "ROLLBACK PREPARED 'it''s stuck'");
    let conninfo = cluster.conninfo("app");
    place.run(["backup", "--database", &conninfo]).expect(0);
    cluster.sql("app", lock);
    restore(&place, "app", &conninfo, &["--clean"])
        .expect(1)
        .says("ROLLBACK PREPARED");
    cluster.sql("app", "ROLLBACK PREPARED 'it''s stuck'");
    restore(&place, "app", &conninfo, &["--clean", "--check"]).expect(0);
    // A session is named by its process.
    let mut session = cluster.session("app");
    session
        .batch_execute("BEGIN; LOCK TABLE u IN ACCESS EXCLUSIVE MODE")
        .unwrap();
    let error = failed(&|| ());
    let pid = session.query_one("SELECT pg_backend_pid()", &[]).unwrap();
    let pid: i32 = pid.get(0);
    let words = format!("public.u is held by process {pid} of postgres");
    assert!(error.contains(&words), "{error}");
}

#[test]
fn a_dropped_schema_or_type_starts_the_database_again() {
    let cluster = Cluster::start();
    let make = "CREATE SCHEMA gone; CREATE TYPE gone.pair AS (a int, b int); CREATE TABLE gone.t AS SELECT (1, 2)::gone.pair AS p; CREATE SEQUENCE gone.s";
    for change in [
        "DROP SCHEMA gone CASCADE",
        "ALTER SCHEMA gone RENAME TO went",
        "ALTER TABLE gone.t SET SCHEMA public",
        "ALTER TYPE gone.pair RENAME ATTRIBUTE b TO c; TRUNCATE gone.t",
        "ALTER TABLE gone.t SET UNLOGGED",
        "VACUUM FULL gone.t",
        "CLUSTER gone.t USING i",
        "REINDEX TABLE gone.t",
    ] {
        cluster.sql(
            "postgres",
            "DROP SCHEMA IF EXISTS gone, went CASCADE; DROP TABLE IF EXISTS t",
        );
        cluster.sql("postgres", make);
        cluster.sql("postgres", "CREATE INDEX i ON gone.t ((p))");
        let (outcomes, archive) = dump_with(&[source(&cluster, "postgres", |_| {})], 2, || {
            cluster.sql("postgres", change)
        });
        let outcome = outcomes[0].as_ref().expect(change);
        let rows: u64 = info(&archive, "postgres")
            .tables
            .iter()
            .map(|table| table.rows)
            .sum();
        assert_eq!(rows, outcome.rows, "{change}");
        let expected = u64::from(!change.contains("DROP") && !change.contains("TRUNCATE"));
        assert_eq!(rows, expected, "{change}");
    }
}

/// Passes everything on to a server, but breaks the first connection on which it says that a COPY is done.
fn loses_an_answer(cluster: &Cluster) -> u16 {
    let socket = cluster
        .socket_folder()
        .join(format!(".s.PGSQL.{}", cluster.port));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let lost = Arc::new(AtomicBool::new(false));
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = UnixStream::connect(&socket).unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || {
                let ended = std::io::copy(&mut from, &mut to);
                to.shutdown(Shutdown::Both).ok();
                ended
            });
            let lost = Arc::clone(&lost);
            thread::spawn(move || {
                let (mut server, mut client) = (server, client);
                let mut buffer = vec![0; 1 << 16];
                loop {
                    let count = server.read(&mut buffer).unwrap_or(0);
                    let answer = buffer[..count].windows(5).any(|part| part == b"COPY ");
                    if count == 0 || (answer && !lost.swap(true, Ordering::Relaxed)) {
                        client.shutdown(Shutdown::Both).ok();
                        return;
                    }
                    if client.write_all(&buffer[..count]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[test]
fn rows_whose_answer_was_lost_are_not_there_twice_unnoticed() {
    let cluster = Cluster::start();
    cluster.sql("postgres", "CREATE DATABASE app");
    cluster.sql(
        "app",
        "CREATE TABLE t AS SELECT generate_series(1, 10) AS i",
    );
    let place = Place::small();
    place
        .run(["backup", "--database", &cluster.conninfo("app")])
        .expect(0);
    let port = loses_an_answer(&cluster);
    let into = |name: &str| {
        format!("host=127.0.0.1 port={port} user=postgres dbname={name} sslmode=disable")
    };
    let told = restore(&place, "app", &into("again"), &[]).expect(3);
    assert!(
        told.stdout.contains("20 rows are there instead of 10"),
        "{told:#?}"
    );
    // The next one meets no such accident.
    restore(&place, "app", &into("again"), &["--clean", "--check"]).expect(0);
    assert_eq!(
        text(&cluster, "again", "SELECT count(*)::text FROM t"),
        "10"
    );
}
