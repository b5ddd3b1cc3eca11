//! Roles that are not superusers: what they cannot see or read, what mends it, and what becomes of a dump.

use holdfast::format::large_object::PageReader;
use holdfast::source::postgres::{Connector, rights};

use crate::pg_cluster::{Cluster, ClusterOptions, quick, settings};
use crate::pg_dump::{dump, dump_with, info, source, source_at};
use crate::place::Place;

/// A cluster with a role that may read tables, and with what such a role cannot see.
fn cluster_with_secrets() -> Cluster {
    let cluster = Cluster::start_with(&ClusterOptions {
        conf: vec!["wal_level = logical".to_owned()],
        ..ClusterOptions::default()
    });
    cluster.sql(
        "postgres",
        "CREATE ROLE reader LOGIN; CREATE ROLE other LOGIN PASSWORD 'sesame'; \
         CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw; \
         CREATE USER MAPPING FOR other SERVER far OPTIONS (user 'o', password 'p'); \
         CREATE SUBSCRIPTION sub CONNECTION 'host=nowhere' PUBLICATION p WITH (connect = false); \
         CREATE TABLE t AS SELECT 1 AS a; GRANT SELECT ON t TO reader; SELECT lo_from_bytea(70000, 'secret')",
    );
    cluster
}

fn as_reader(cluster: &Cluster) -> String {
    cluster
        .conninfo("postgres")
        .replace("user=postgres", "user=reader")
}

#[test]
fn a_superuser_misses_nothing() {
    let cluster = cluster_with_secrets();
    let mut session = cluster.session("postgres");
    assert!(rights::hidden(&mut session).unwrap().is_empty());
    assert!(
        rights::closed(&mut session, rights::Wanted::default())
            .unwrap()
            .is_empty()
    );
    let (outcome, _) = dump(source(&cluster, "postgres", |_| {}));
    assert_eq!(outcome.incomplete, None);
}

#[test]
fn what_is_named_is_what_mends_it() {
    let cluster = cluster_with_secrets();
    let reader = as_reader(&cluster);
    let attempt = || {
        let (outcomes, archive) = dump_with(&[source_at(&reader, "postgres", |_| {})], 1, || {});
        (outcomes.into_iter().next().unwrap(), archive)
    };
    let gaps = || {
        let mut session = Connector::new(settings(&reader)).connect(&quick()).unwrap();
        let mut gaps = rights::hidden(&mut session).unwrap();
        gaps.extend(rights::closed(&mut session, rights::Wanted::default()).unwrap());
        gaps
    };
    let found = gaps();
    let whats: Vec<String> = found.iter().map(rights::Gap::summary).collect();
    assert_eq!(
        whats,
        [
            "passwords of roles",
            "options of user mappings: other on far",
            "subscriptions: sub",
            "no right to read large objects: 70000",
        ]
    );
    // One role opens all but what pg_dump itself never shows.
    cluster.sql("postgres", "GRANT pg_read_all_data TO reader");
    assert_eq!(gaps(), found[1..3]);
    cluster.sql("postgres", "REVOKE pg_read_all_data FROM reader");
    // The large object ends the dump; with its GRANT it is there.
    let error = attempt().0.unwrap_err().to_string();
    assert!(error.contains("large object"), "{error}");
    cluster.sql("postgres", &found[3].remedy);
    let (outcome, archive) = attempt();
    let incomplete = outcome.unwrap().incomplete.unwrap();
    for part in ["passwords of roles", "other on far", "subscriptions: sub"] {
        assert!(incomplete.contains(part), "{incomplete}");
    }
    let listed = info(&archive, "postgres").not_included;
    assert_eq!(
        listed
            .iter()
            .filter(|what| what.contains("may not see"))
            .count(),
        3,
        "{listed:?}"
    );
    // One after the other they go away.
    cluster.sql("postgres", &found[0].remedy);
    let (outcome, archive) = attempt();
    let incomplete = outcome.unwrap().incomplete.unwrap();
    assert!(!incomplete.contains("passwords"), "{incomplete}");
    let globals = String::from_utf8_lossy(archive.bytes(&format!(
        "clusters/{}/globals.sql",
        info(&archive, "postgres").cluster
    )));
    assert!(globals.contains("SCRAM-SHA-256"), "{globals}");
    let statement = |remedy: &str| remedy.split(" (").next().unwrap().to_owned();
    cluster.sql("postgres", &statement(&found[1].remedy));
    assert!(gaps().is_empty());
    assert_eq!(attempt().0.unwrap().incomplete, None);
}

#[test]
fn everything_closed_is_named_with_its_grant() {
    let cluster = Cluster::start();
    cluster.sql(
        "postgres",
        "CREATE ROLE reader LOGIN; CREATE SCHEMA hidden; CREATE TABLE hidden.t (a int); CREATE TABLE \"T 1\" (a int); \
         CREATE TABLE parted (k int) PARTITION BY LIST (k); CREATE SEQUENCE s; CREATE TABLE guarded AS SELECT 1 AS a; \
         ALTER TABLE guarded ENABLE ROW LEVEL SECURITY; GRANT SELECT ON guarded, hidden.t TO reader; GRANT SELECT ON pg_authid TO reader",
    );
    let reader = as_reader(&cluster);
    let closed = || {
        let mut session = Connector::new(settings(&reader)).connect(&quick()).unwrap();
        rights::closed(&mut session, rights::Wanted::default()).unwrap()
    };
    let found = closed();
    let texts: Vec<(String, String)> = found
        .iter()
        .map(|gap| (gap.summary(), gap.remedy.clone()))
        .collect();
    let either = "; or GRANT pg_read_all_data TO \"reader\"";
    let expected = [
        (
            "no right to look into schemas: hidden",
            "GRANT USAGE ON SCHEMA hidden TO \"reader\"".to_owned(),
        ),
        (
            "no right to read tables: public.\"T 1\", public.parted",
            format!("GRANT SELECT ON TABLE public.\"T 1\", public.parted TO \"reader\"{either}"),
        ),
        (
            "positions of sequences: public.s",
            format!("GRANT SELECT ON SEQUENCE public.s TO \"reader\"{either}"),
        ),
        (
            "row security hides rows of: public.guarded",
            "ALTER ROLE \"reader\" BYPASSRLS".to_owned(),
        ),
    ];
    for ((text, remedy), (what, mends)) in texts.iter().zip(&expected) {
        assert_eq!((text.as_str(), remedy), (*what, mends));
    }
    assert_eq!(texts.len(), expected.len());
    for gap in &found {
        cluster.sql("postgres", gap.remedy.split("; or ").next().unwrap());
    }
    assert_eq!(closed(), []);
    let (outcome, _) = dump(source_at(&reader, "postgres", |_| {}));
    assert_eq!(outcome.incomplete, None);
}

#[test]
fn large_objects_are_the_same_without_the_right_to_the_catalog() {
    let cluster = Cluster::start();
    cluster.sql(
        "postgres",
        "CREATE ROLE reader LOGIN; GRANT SELECT ON pg_authid TO reader; SELECT lo_from_bytea(50000, 'hello'), lo_create(50001), lo_create(50002), lo_create(50003); \
         SELECT lo_put(50001, 300000000, 'far'), lo_put(50003, 0, repeat('ab', 3000)::bytea), lo_put(50003, 2000000, repeat('cd', 5000)::bytea); \
         GRANT SELECT ON LARGE OBJECT 50000, 50001, 50002, 50003 TO reader",
    );
    let pages = |conninfo: &str| {
        let (outcome, archive) = dump(source_at(conninfo, "postgres", |_| {}));
        assert_eq!((outcome.large_objects, outcome.incomplete), (4, None));
        archive
            .bytes("databases/postgres/large-objects/0000049152")
            .to_vec()
    };
    let (as_superuser, as_reader) = (
        pages(&cluster.conninfo("postgres")),
        pages(&as_reader(&cluster)),
    );
    assert!(as_reader.len() < 40_000, "{} bytes", as_reader.len());
    let content = |bytes: &[u8]| {
        let mut objects = std::collections::BTreeMap::<u32, Vec<(u64, Vec<u8>)>>::new();
        let mut reader = PageReader::new(bytes);
        while let Some((oid, offset, page)) = reader.next_page().unwrap() {
            let pages = objects.entry(oid).or_default();
            // A page that is short or begins with zeros is the same bytes at the same place.
            pages.extend(
                page.iter()
                    .zip(offset..)
                    .filter(|(byte, _)| **byte != 0)
                    .map(|(byte, at)| (at, vec![*byte])),
            );
        }
        objects
    };
    assert_eq!(content(&as_superuser), content(&as_reader));
}

#[test]
fn the_program_says_what_is_missing_and_ends_with_3() {
    let cluster = cluster_with_secrets();
    cluster.sql(
        "postgres",
        "GRANT SELECT ON pg_catalog.pg_largeobject TO reader",
    );
    let place = Place::small();
    let site = place.path("site.toml");
    std::fs::write(
        &site,
        format!(
            "[site]\nname = \"s\"\n[[database]]\nname = \"d\"\nconninfo = \"{}\"\n",
            as_reader(&cluster)
        ),
    )
    .unwrap();
    let site = site.to_str().unwrap();
    let checked = place.run(["site", "check", "--site", site]);
    let backed_up = place.run(["backup", "--site", site]).expect(3);
    for part in [
        "passwords of roles",
        "options of user mappings: other on far",
        "subscriptions: sub",
    ] {
        assert!(checked.stdout.contains(part), "{part}: {}", checked.stdout);
        let told = format!("{}{}", backed_up.stdout, backed_up.stderr);
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(
        checked
            .stdout
            .contains("GRANT SELECT ON pg_catalog.pg_authid TO \"reader\""),
        "{}",
        checked.stdout
    );
}

#[test]
fn sequences_that_may_not_be_read_make_a_backup_incomplete() {
    let cluster = Cluster::start();
    cluster.sql(
        "postgres",
        "CREATE ROLE reader LOGIN; GRANT SELECT ON pg_authid TO reader; CREATE TABLE t (a serial); INSERT INTO t VALUES (DEFAULT), (DEFAULT); \
         GRANT SELECT ON t TO reader; CREATE SEQUENCE \"S 1\"; SELECT nextval('\"S 1\"'); CREATE SCHEMA shut; CREATE SEQUENCE shut.s; \
         CREATE SEQUENCE open START 7; GRANT SELECT ON open TO reader",
    );
    let place = Place::small();
    let site = place.path("site.toml");
    let text = format!(
        "[site]\nname = \"s\"\n[[database]]\nname = \"d\"\nconninfo = \"{}\"\n",
        as_reader(&cluster)
    );
    std::fs::write(&site, text).unwrap();
    let site = site.to_str().unwrap();
    let what = "positions of sequences: public.\"S 1\", public.t_a_seq, shut.s";
    let grants = [
        "GRANT USAGE ON SCHEMA shut TO \"reader\"",
        "GRANT SELECT ON SEQUENCE public.\"S 1\", public.t_a_seq, shut.s TO \"reader\"",
    ];
    let done = place.run(["backup", "--site", site, "--json"]).expect(3);
    let (state, message) = done.component("d");
    assert_eq!(state, "incomplete", "{message}");
    let checked = place.run(["site", "check", "--site", site]).expect(3);
    for words in grants.iter().chain([&what]) {
        assert!(message.contains(words), "{message}");
        assert!(checked.stdout.contains(words), "{}", checked.stdout);
    }
    // The definitions are there; the restore says what is not.
    let into = cluster.conninfo("copy");
    let restored = place
        .run(["restore", "latest", "--database", "d", "--into", &into])
        .expect(0);
    assert!(restored.stdout.contains(what), "{restored:#?}");
    let sql = "SELECT last_value FROM \"S 1\" UNION ALL SELECT last_value FROM open UNION ALL SELECT last_value FROM shut.s";
    let positions = cluster.session("copy").query(sql, &[]).unwrap();
    let positions: Vec<i64> = positions.iter().map(|row| row.get(0)).collect();
    assert_eq!(positions, [1, 7, 1]);
    for grant in grants {
        cluster.sql("postgres", grant);
    }
    let done = place.run(["backup", "--site", site, "--json"]).expect(0);
    assert_eq!(done.component("d").0, "complete");
    let checked = place.run(["site", "check", "--site", site]).expect(0);
    assert!(!checked.stdout.contains("sequences"), "{}", checked.stdout);
}
