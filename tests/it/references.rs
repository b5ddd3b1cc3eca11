//! Rules that tie rows to files, and shares whose path stands in a database.

use std::fs;

use crate::pg_cluster::Cluster;
use crate::place::{Outcome, Place};

/// A site whose share is found in its database, with apps in rows and in files.
fn back_up(place: &Place, cluster: &Cluster, rule: &str) -> Outcome {
    let folder = place.path("mount");
    fs::create_dir_all(folder.join("Apps")).unwrap();
    for name in ["a-1", "A-2", "left-over"] {
        fs::write(folder.join("Apps").join(name), name).unwrap();
    }
    cluster.sql("postgres", "CREATE DATABASE \"QSR\"");
    cluster.sql(
        "QSR",
        "CREATE SCHEMA s; ALTER DATABASE \"QSR\" SET search_path = s; \
         CREATE TABLE s.\"Apps\" (\"ID\" text); INSERT INTO s.\"Apps\" VALUES ('a-1'), ('a-2'), ('gone'), (NULL); \
         CREATE TABLE s.persistence (\"AppFolder\" text); INSERT INTO s.persistence VALUES ('\\\\nas\\qlik\\Apps')",
    );
    let text = format!(
        "[site]\nname = \"s\"\n[[database]]\nname = \"QSR\"\nconninfo = \"{}\"\n[[share]]\nname = \"Apps\"\n\
         path-database = \"QSR\"\npath-sql = 'SELECT \"AppFolder\" FROM persistence'\n\
         path-map = [{{ from = '\\\\NAS\\qlik', to = \"{}\" }}]\n{rule}",
        cluster.conninfo("QSR"),
        folder.display()
    );
    place.open_to_all();
    fs::write(place.path("site.toml"), text).unwrap();
    place
        .run(["site", "check", "--site", "site.toml"])
        .expect(0);
    place.run(["backup", "--site", "site.toml", "--json"])
}

#[test]
fn rows_and_files_are_compared_in_the_snapshot() {
    let (place, cluster) = (Place::small(), Cluster::start());
    let rule = "[[reference]]\ndatabase = \"QSR\"\nsql = 'SELECT \"ID\" FROM \"Apps\"'\npath = \"shares/Apps/{ID}\"\nignore-case = true\n";
    let done = back_up(&place, &cluster, rule).expect(0);
    let result = &done.messages("reference")[0];
    for (field, number) in [
        ("rows", 3),
        ("files", 3),
        ("rows_without_file", 1),
        ("files_without_row", 1),
    ] {
        assert_eq!(result[field], number, "{result}");
    }
    assert_eq!(
        result["examples"].to_string(),
        "[\"no file: shares/Apps/gone\",\"no row: shares/Apps/left-over\"]"
    );
    let record = &place.snapshots()[0].record;
    assert_eq!(record.references[0].rows_without_file, 1);
    // Nothing changed: the same again, although no file is read.
    let again = place.run(["backup", "--site", "site.toml"]).expect(0);
    let words =
        "warning: reference shares/Apps/{ID}: 3 rows, 3 files; 1 without a file, 1 without a row";
    assert!(again.stdout.contains(words), "{again:#?}");
    let status = place.run(["status"]).expect(3);
    assert!(
        status.stdout.contains("1 rows without a file"),
        "{status:#?}"
    );
}

#[test]
fn a_rule_that_fails_harms_nothing_else() {
    let (place, cluster) = (Place::small(), Cluster::start());
    let rule = "[[reference]]\nname = \"bad\"\ndatabase = \"QSR\"\nsql = 'SELECT 1/0 AS x'\npath = \"shares/Apps/{x}\"\n\
                [[reference]]\ndatabase = \"QSR\"\nsql = 'SELECT \"ID\" FROM \"Apps\"'\npath = \"shares/Apps/{ID}\"\n";
    let done = back_up(&place, &cluster, rule).expect(0);
    let results = done.messages("reference");
    let problem = results[0]["problem"].to_string();
    assert!(problem.contains("division by zero"), "{problem}");
    assert_eq!(results[1]["problem"], "");
    assert_eq!(results[1]["rows_without_file"], 2);
}
