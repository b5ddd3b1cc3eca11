//! Databases exported for PostgreSQL's own programs, restored by those, and compared with their sources by `pg_dump`.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use holdfast::target::postgres::{
    DirectoryFiles, ExportError, ExportOptions, ExportedDatabase, write_directory, write_script,
};

use crate::pg_archive::MemoryArchive;
use crate::pg_cluster::Cluster;
use crate::pg_restore::{RICH, RICH_INSIDE, assert_same, dumped};

fn rich(cluster: &Cluster) -> MemoryArchive {
    for statement in RICH.split_inclusive(";\n") {
        cluster.sql("postgres", statement);
    }
    cluster.sql("'Ri ch'", RICH_INSIDE);
    MemoryArchive::of(cluster, "Ri ch")
}

fn script(archive: &MemoryArchive, options: &ExportOptions) -> (Vec<u8>, ExportedDatabase) {
    let mut script = Vec::new();
    let mut sink = |bytes: &[u8]| {
        script.extend_from_slice(bytes);
        Ok(())
    };
    let written = write_script(archive, options, &mut sink).expect("written");
    (script, written)
}

fn psql(cluster: &Cluster, dbname: &str, script: &[u8], stop: bool) -> Output {
    let mut child = Command::new(cluster.program("psql"))
        .args([
            "-X",
            "-q",
            "-v",
            if stop {
                "ON_ERROR_STOP=1"
            } else {
                "ON_ERROR_STOP=0"
            },
        ])
        .args(["-d", &cluster.conninfo(dbname)])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("psql");
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(script)
        .expect("psql reads");
    child.wait_with_output().expect("psql")
}

fn good(output: &Output) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && !stderr.contains("ERROR"),
        "{stderr}"
    );
}

/// Roles first: neither form has them. Those that are there already are no matter.
fn globals(cluster: &Cluster, archive: &MemoryArchive) {
    psql(
        cluster,
        "postgres",
        archive.globals.as_deref().expect("archived"),
        false,
    );
}

fn pg_restore(cluster: &Cluster, folder: &Path) -> Output {
    let mut command = Command::new(cluster.program("pg_restore"));
    command.args([
        "--create",
        "--jobs=2",
        "--exit-on-error",
        "-d",
        &cluster.conninfo("postgres"),
    ]);
    command.arg(folder).output().expect("pg_restore")
}

#[test]
fn both_forms_bring_a_database_back_as_it_was() {
    let (source, other) = (Cluster::start(), Cluster::start());
    let archive = rich(&source);
    let rows: u64 = archive.info.tables.iter().map(|table| table.rows).sum();
    globals(&other, &archive);

    let create = ExportOptions {
        create: true,
        ..ExportOptions::default()
    };
    let (text, written) = script(&archive, &create);
    assert_eq!((written.rows, written.large_objects), (rows, 3));
    assert!(
        text.len() < 2_000_000,
        "the holes of a large object are not written"
    );
    good(&psql(&other, "postgres", &text, true));
    assert_same(&dumped(&source, "Ri ch"), &dumped(&other, "Ri ch"));
    let again = MemoryArchive::of(&other, "Ri ch");
    assert_eq!(
        (&again.objects, &again.pages),
        (&archive.objects, &archive.pages)
    );

    other.sql("postgres", "DROP DATABASE \"Ri ch\"");
    let folder = tempfile::tempdir().unwrap();
    let files = DirectoryFiles::new(folder.path());
    let written = write_directory(&archive, None, &files, &mut || Ok(())).expect("written");
    assert_eq!((written.rows, written.large_objects), (rows, 3));
    good(&pg_restore(&other, folder.path()));
    assert_same(&dumped(&source, "Ri ch"), &dumped(&other, "Ri ch"));
    let again = MemoryArchive::of(&other, "Ri ch");
    assert_eq!(again.objects, archive.objects);

    // Into a database that is there, without owners and privileges.
    other.sql("postgres", "CREATE DATABASE bare");
    other.sql("postgres", "ALTER DATABASE bare SET \"rich.factor\" = 3");
    let bare = ExportOptions {
        no_owner: true,
        no_privileges: true,
        ..ExportOptions::default()
    };
    let (text, _) = script(&archive, &bare);
    good(&psql(&other, "bare", &text, true));
    let dump = dumped(&other, "bare");
    assert!(!dump.contains("GRANT") && !dump.contains("OWNER TO rich_owner"));
    assert!(dump.contains("Row 1500"));
}

#[test]
fn other_encodings_are_exported_with_their_bytes() {
    let (source, other) = (Cluster::start(), Cluster::start());
    for (name, encoding, row) in [
        ("latin", "LATIN1", "convert_from('\\x4be46c7465', 'LATIN1')"),
        ("ascii", "SQL_ASCII", "E'K\\xe4lte \\xff\\xfe'"),
    ] {
        source.sql(
            "postgres",
            &format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'"),
        );
        let names = if encoding == "LATIN1" {
            "\"Größe\""
        } else {
            "size"
        };
        source.sql(
            name,
            &format!(
                "CREATE TABLE t (k int PRIMARY KEY, {names} text DEFAULT 'x');
                 INSERT INTO t SELECT g, {row} || g FROM generate_series(1, 100) g;"
            ),
        );
        let archive = MemoryArchive::of(&source, name);
        let create = ExportOptions {
            create: true,
            ..ExportOptions::default()
        };
        good(&psql(
            &other,
            "postgres",
            &script(&archive, &create).0,
            true,
        ));
        let sum = |cluster: &Cluster| -> String {
            let sql = format!(
                "SELECT md5(string_agg(encode(convert_to({names}, '{encoding}'), 'hex'), ',' ORDER BY k)) FROM t"
            );
            let row = cluster.session(name).query_one(&sql, &[]).expect("a sum");
            row.get(0)
        };
        let expected = sum(&source);
        assert_eq!(sum(&other), expected, "{name} by psql");
        other.sql("postgres", &format!("DROP DATABASE {name}"));
        let folder = tempfile::tempdir().unwrap();
        let files = DirectoryFiles::new(folder.path());
        write_directory(&archive, None, &files, &mut || Ok(())).expect("written");
        good(&pg_restore(&other, folder.path()));
        assert_eq!(sum(&other), expected, "{name} by pg_restore");
    }
}

#[test]
fn a_name_can_not_become_a_command_of_psql() {
    let (source, other) = (Cluster::start(), Cluster::start());
    let folder = tempfile::tempdir().unwrap();
    let witness = folder.path().join("executed");
    let evil = format!("t\n\\! touch {}\n--", witness.display());
    source.sql("postgres", "CREATE DATABASE d");
    source.sql(
        "d",
        &format!("CREATE TABLE \"{evil}\" (a int); INSERT INTO \"{evil}\" VALUES (1); COMMENT ON TABLE \"{evil}\" IS '{evil}'"),
    );
    let mut archive = MemoryArchive::of(&source, "d");
    let create = ExportOptions {
        create: true,
        ..ExportOptions::default()
    };
    good(&psql(
        &other,
        "postgres",
        &script(&archive, &create).0,
        true,
    ));
    assert!(!witness.exists(), "a command was executed");
    assert_same(&dumped(&source, "d"), &dumped(&other, "d"));
    // A server that lies about a definition.
    let (from, to) = (b"(\n    a integer\n)", b"(\n\\! true\n\n     )");
    let found = archive
        .schema
        .windows(from.len())
        .position(|part| part == from);
    let at = found.expect("the table");
    archive.schema[at..at + from.len()].copy_from_slice(to);
    let error = write_script(&archive, &create, &mut |_| Ok(())).expect_err("refused");
    assert!(matches!(error, ExportError::PsqlCommand { .. }), "{error}");
}

#[test]
fn an_export_speaks_as_its_target_does() {
    let source = Cluster::start();
    let archive = rich(&source);
    let words = [
        ("LOCALE_PROVIDER", 150_000),
        (" LOCALE = ", 130_000),
        ("EXECUTE FUNCTION", 110_000),
    ];
    for version in [
        None,
        Some(150_000),
        Some(140_000),
        Some(120_000),
        Some(100_000),
    ] {
        let options = ExportOptions {
            create: true,
            target_version: version,
            ..ExportOptions::default()
        };
        let (text, _) = script(&archive, &options);
        let folder = tempfile::tempdir().unwrap();
        let files = DirectoryFiles::new(folder.path());
        write_directory(&archive, version, &files, &mut || Ok(())).expect("written");
        let toc = std::fs::read(folder.path().join("toc.dat")).unwrap();
        for (word, since) in words {
            let expected = version.is_none_or(|version| version >= since);
            for form in [&text, &toc] {
                let found = form.windows(word.len()).any(|part| part == word.as_bytes());
                assert_eq!(found, expected, "{word} for {version:?}");
            }
        }
    }
    // What is said for an older one is understood by this one too.
    let other = Cluster::start();
    globals(&other, &archive);
    let folder = tempfile::tempdir().unwrap();
    let files = DirectoryFiles::new(folder.path());
    write_directory(&archive, Some(100_000), &files, &mut || Ok(())).expect("written");
    good(&pg_restore(&other, folder.path()));
    assert_same(&dumped(&source, "Ri ch"), &dumped(&other, "Ri ch"));
}
