//! A whole site there and back: databases, a share, a list of files and certificates of one site file, compared in bytes, metadata and rows.

use std::ffi::OsStr;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use holdfast::ops::archive::{DatabaseRestoreOptions, restore_database};
use holdfast::ops::backup::Interrupt;
use holdfast::ops::verify::Depth;
use holdfast::source::postgres::Connector;
use holdfast::target::postgres::{Globals, OnError, RestoreTarget};

use crate::pg_cluster::Cluster;
use crate::place::{Place, assert_same_tree, files_below, noise, noise_tree};

/// A share with all that a tree can have.
fn make_share(share: &Path) {
    noise_tree(share, 70, 30, 9000);
    noise_tree(&share.join("many"), 71, 50, 200);
    fs::write(share.join("large"), noise(72, 2 << 20)).unwrap();
    fs::write(share.join("empty"), b"").unwrap();
    fs::write(share.join("ä b\n'c'"), "an odd name").unwrap();
    fs::write(share.join(OsStr::from_bytes(b"latin-\xe9")), "no UTF-8").unwrap();
    fs::create_dir(share.join("empty folder")).unwrap();
    fs::hard_link(share.join("large"), share.join("d0/same")).unwrap();
    symlink("../large", share.join("d1/link")).unwrap();
    symlink("/nowhere/at all", share.join("dangling")).unwrap();
    let mut sparse = fs::File::create(share.join("sparse")).unwrap();
    sparse.seek(SeekFrom::Start(6 << 20)).unwrap();
    sparse.write_all(b"the end").unwrap();
    drop(sparse);
    for (name, mode) in [
        ("d0/f0", 0o4755),
        ("d1/f1", 0o400),
        ("d2", 0o1777),
        ("d3", 0o2750),
    ] {
        fs::set_permissions(share.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let fifo = Command::new("mkfifo").arg(share.join("pipe")).status();
    assert!(fifo.unwrap().success());
    for (name, time) in [
        ("empty", "1970-01-02 00:00:00.000000001"),
        ("d4", "2038-01-20"),
    ] {
        let status = Command::new("touch")
            .args(["-d", time])
            .arg(share.join(name))
            .status();
        assert!(status.unwrap().success());
    }
}

fn openssl(folder: &Path, line: &str) {
    let output = Command::new("openssl")
        .args(line.split(' '))
        .current_dir(folder)
        .output()
        .expect("the tests need the openssl command: apt-get install openssl");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Every row of every table, sorted, and the values of the sequences.
fn rows(cluster: &Cluster, dbname: &str) -> Vec<String> {
    let mut session = cluster.session(dbname);
    let mut column = |sql: &str| -> Vec<String> {
        let values = session.simple_column(sql).unwrap();
        values.into_iter().flatten().collect()
    };
    let tables = column(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname !~ '^(pg_|information_schema)' ORDER BY 1",
    );
    assert!(!tables.is_empty());
    let mut all = Vec::new();
    for table in tables {
        let sql = format!(
            "SELECT '{table} ' || count(*) || ' ' || coalesce(md5(string_agg(t::text, E'\\n' ORDER BY t::text)), '') FROM {table} t"
        );
        all.extend(column(&sql));
    }
    all.extend(column(
        "SELECT sequencename || ' ' || coalesce(last_value, -1) FROM pg_sequences ORDER BY 1",
    ));
    all.extend(column(
        "SELECT oid || ' ' || md5(lo_get(oid)) FROM pg_largeobject_metadata ORDER BY 1",
    ));
    all
}

#[test]
fn a_site_comes_back_whole() {
    let (source, other) = (Cluster::start(), Cluster::start());
    for name in ["QSR", "Licenses"] {
        source.sql("postgres", &format!("CREATE DATABASE \"{name}\""));
    }
    source.sql("postgres", "CREATE ROLE app LOGIN");
    source.sql(
        "QSR",
        "CREATE TABLE apps (id serial PRIMARY KEY, name text, at timestamptz DEFAULT now(), raw bytea); \
         INSERT INTO apps (name, raw) SELECT 'app ' || g || E'\\t\\\\', decode(md5(g::text), 'hex') FROM generate_series(1, 3000) g; \
         CREATE TABLE child (app int REFERENCES apps, x numeric); INSERT INTO child SELECT g, g / 3.0 FROM generate_series(1, 500) g; \
         ALTER TABLE apps OWNER TO app; SELECT lo_from_bytea(4711, decode(repeat('ab', 5000), 'hex'))",
    );
    source.sql(
        "Licenses",
        "CREATE SCHEMA \"odd %/\"; CREATE TABLE \"odd %/\".\"T.1\" (\"A\" jsonb, b text); \
         INSERT INTO \"odd %/\".\"T.1\" VALUES ('{\"k\": [1, null]}', NULL), (NULL, ''), ('\"\\\\N\"', '\\N')",
    );

    let place = Place::new();
    place.run(["init"]).expect(0);
    let (share, etc, certificates) = (place.path("share"), place.path("etc"), place.path("certs"));
    fs::create_dir_all(etc.join("conf.d")).unwrap();
    fs::create_dir(&certificates).unwrap();
    make_share(&share);
    fs::write(etc.join("main.conf"), "listen 80\n").unwrap();
    fs::write(etc.join("conf.d/a.conf"), "a\n").unwrap();
    fs::write(etc.join("conf.d/b.conf"), "b\n").unwrap();
    fs::write(etc.join("conf.d/ignored.bak"), "old\n").unwrap();
    fs::write(
        place.path("files.list"),
        format!(
            "# what the application reads\n{0}/main.conf\n\n  # all of these\n{0}/conf.d/*.conf\n",
            etc.display()
        ),
    )
    .unwrap();
    openssl(
        &certificates,
        "req -x509 -newkey rsa:2048 -nodes -keyout server_key.pem -out server.pem -days 90 -subj /O=Example/CN=qlik.example",
    );
    let mut site = format!(
        "[site]\nname = \"round-trip\"\n[[share]]\nname = \"Apps\"\npath = \"{}\"\nexclude = [\"*.tmp\"]\n\
         [[files]]\nname = \"config\"\nlists = [\"{}\"]\n\
         [[certificates]]\nname = \"qlik\"\npaths = [\"{}/*.pem\"]\n",
        share.display(),
        place.path("files.list").display(),
        certificates.display()
    );
    for name in ["QSR", "Licenses"] {
        site += &format!(
            "[[database]]\nname = \"{name}\"\nconninfo = \"{}\"\nretries = 1\n",
            source.conninfo(name)
        );
    }
    fs::write(place.path("site.toml"), &site).unwrap();
    fs::write(share.join("left-out.tmp"), "not wanted").unwrap();
    let outcome = place.run([
        "backup",
        "--json",
        "--site",
        place.path("site.toml").to_str().unwrap(),
    ]);
    let outcome = outcome.expect(0);
    for name in ["QSR", "Licenses", "Apps", "config", "qlik", "site.toml"] {
        assert_eq!(
            outcome.component(name),
            ("complete".to_owned(), String::new())
        );
    }
    place.assert_good(Depth::EndToEnd);
    check_record(&place);

    fs::remove_file(share.join("left-out.tmp")).unwrap();
    let target = place.path("target");
    place.restore("latest", &target);
    // The folder of the share changed when the excluded file was removed from it.
    let time = fs::metadata(&share).unwrap();
    let status = Command::new("touch")
        .arg("-r")
        .arg(&share)
        .arg(target.join("shares/Apps"))
        .status();
    assert!(status.unwrap().success());
    assert_eq!(
        fs::metadata(target.join("shares/Apps")).unwrap().mode(),
        time.mode()
    );
    assert_same_tree(&share, &target.join("shares/Apps"));
    check_links_and_holes(&target.join("shares/Apps"));
    check_listed(
        &etc,
        &target.join("files/config"),
        &["main.conf", "conf.d/a.conf", "conf.d/b.conf"],
    );
    check_listed(
        &certificates,
        &target.join("certificates/qlik"),
        &["server.pem", "server_key.pem"],
    );
    assert_eq!(
        fs::read_to_string(target.join("site/site.toml")).unwrap(),
        site
    );

    for name in ["QSR", "Licenses"] {
        let into = RestoreTarget::with_name(Connector::new(other.settings("postgres")), name);
        let options = DatabaseRestoreOptions {
            restore: holdfast::target::postgres::RestoreOptions {
                jobs: 2,
                globals: Globals::Missing,
                on_error: OnError::Stop,
                ..holdfast::target::postgres::RestoreOptions::default()
            },
            check: true,
        };
        let restored = restore_database(
            &place.open(),
            "latest",
            name,
            &into,
            &options,
            &Arc::default(),
            &Interrupt::default(),
            &|trouble| panic!("{trouble}"),
        );
        let restored = restored.unwrap();
        assert_eq!(restored.exit_code(), 0, "{restored:#?}");
        assert_eq!(rows(&source, name), rows(&other, name), "{name}");
    }
    let owner = "SELECT tableowner::text FROM pg_tables WHERE tablename = 'apps'";
    assert_eq!(
        other.session("QSR").simple_column(owner).unwrap(),
        [Some("app".to_owned())]
    );
}

/// What was read from the certificates and of the cluster stands in the record.
fn check_record(place: &Place) {
    let record = &place.snapshots()[0].record;
    assert_eq!(
        (record.site.as_str(), record.is_complete()),
        ("round-trip", true)
    );
    let subjects: Vec<&str> = record
        .certificates
        .iter()
        .map(|fact| fact.subject.as_str())
        .collect();
    assert!(
        subjects.contains(&"O=Example, CN=qlik.example"),
        "{subjects:?}"
    );
    assert_eq!(record.clusters.len(), 1);
    assert!(record.clusters[0].atomic, "{:?}", record.clusters);
}

fn check_links_and_holes(restored: &Path) {
    let (one, other) = (
        fs::metadata(restored.join("large")).unwrap(),
        fs::metadata(restored.join("d0/same")).unwrap(),
    );
    assert_eq!(one.ino(), other.ino(), "two names of one file");
    let sparse = fs::metadata(restored.join("sparse")).unwrap();
    assert!(
        sparse.blocks() * 512 < 1 << 20,
        "{} blocks",
        sparse.blocks()
    );
}

/// The files of a list, at their absolute paths below the component, and nothing else.
fn check_listed(original: &Path, component: &Path, names: &[&str]) {
    let below = component.join(original.strip_prefix("/").unwrap());
    let expected: Vec<PathBuf> = {
        let mut paths: Vec<_> = names.iter().map(|name| below.join(name)).collect();
        paths.sort();
        paths
    };
    assert_eq!(files_below(component), expected);
    for name in names {
        let (one, other) = (original.join(name), below.join(name));
        assert_eq!(fs::read(&one).unwrap(), fs::read(&other).unwrap());
        let facts = |path: &Path| {
            let metadata = fs::metadata(path).unwrap();
            (
                metadata.mode(),
                metadata.uid(),
                metadata.mtime(),
                metadata.mtime_nsec(),
            )
        };
        assert_eq!(facts(&one), facts(&other), "{name}");
    }
}
