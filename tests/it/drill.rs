//! `drill` and `status`: an exercise finds what does not come back, leaves nothing behind, and is remembered.

use std::fs;
use std::path::Path;

use crate::pg_cluster::Cluster;
use crate::place::{Place, files_below, noise_tree};

/// A site with a share and a database; its backup and its site file.
fn site(place: &Place, cluster: &Cluster) -> String {
    cluster.sql("postgres", "CREATE DATABASE app");
    cluster.sql(
        "app",
        "CREATE ROLE reader; CREATE TABLE blob (id int PRIMARY KEY, processing_status text); \
         GRANT SELECT ON blob TO reader; \
         INSERT INTO blob SELECT g, CASE g WHEN 7 THEN 'failed' ELSE 'success' END FROM generate_series(1, 1000) g; \
         SELECT lo_from_bytea(0, 'large')",
    );
    noise_tree(&place.path("share"), 1, 40, 3000);
    fs::hard_link(
        files_below(&place.path("share"))[0].clone(),
        place.path("share").join("other-name"),
    )
    .unwrap();
    let text = format!(
        "[site]\nname = \"s\"\n[[database]]\nname = \"app\"\nconninfo = \"{}\"\n[[share]]\nname = \"files\"\npath = \"{}\"\n\
         [[certificates]]\nname = \"none\"\npaths = [\"/nonesuch/*.pem\"]\n[drill]\nscratch = \"{}\"\n\
         [[restore.query]]\nname = \"to ingest again\"\ndatabase = \"app\"\nsql = \"SELECT id, processing_status FROM blob WHERE processing_status NOT IN ('success', 'pending')\"\n\
         [[restore.query]]\nname = \"rows\"\ndatabase = \"app\"\nsql = \"SELECT count(*) FROM blob\"\nexpect = 1000\n",
        cluster.conninfo("app"),
        place.path("share").display(),
        place.path("scratch").display()
    );
    fs::create_dir(place.path("scratch")).unwrap();
    place.open_to_all();
    let file = place.path("site.toml");
    fs::write(&file, text).unwrap();
    place
        .run(["backup", "--site", file.to_str().unwrap()])
        .expect(0);
    file.to_str().unwrap().to_owned()
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

#[test]
fn everything_comes_back_and_nothing_is_left() {
    let (place, cluster) = (Place::small(), Cluster::start());
    let site = site(&place, &cluster);
    let drilled = place.run(["drill", "--site", &site, "--json"]).expect(0);
    let summary = drilled.summary();
    assert_eq!(summary["good"], true, "{drilled:#?}");
    assert_eq!(summary["rows"], 1000);
    assert_eq!(summary["tables"], 1);
    let queries = drilled.messages("query");
    assert_eq!(queries[0]["text"], "7, failed");
    assert_eq!(queries[1]["good"], true);
    assert!(is_empty(&place.path("scratch")));
    // It is remembered, and status finds it.
    let status = place.run(["status", "--json", "--site", &site]).expect(0);
    let exercises = status.messages("exercise");
    assert_eq!(exercises[0]["kind"], "drill");
    assert_eq!(exercises[0]["damaged"], 0);
    assert_eq!(status.messages("component").len(), 3);
    place
        .run(["status", "--monitor", "--site", &site])
        .expect(0);
}

#[test]
fn a_sample_is_a_part_and_queries_come_from_the_archived_site_file() {
    let (place, cluster) = (Place::small(), Cluster::start());
    site(&place, &cluster);
    let scratch = place.path("scratch").display().to_string();
    let drilled = place
        .run(["drill", "--sample", "20%", "--json", "--scratch", &scratch])
        .expect(0);
    let files = drilled.summary()["files"].as_u64().unwrap();
    assert!(files < 41, "{files}");
    assert_eq!(drilled.messages("query").len(), 2);
    assert!(is_empty(&place.path("scratch")));
}

#[test]
fn a_given_server_keeps_nothing() {
    let (place, cluster) = (Place::small(), Cluster::start());
    let site = site(&place, &cluster);
    let elsewhere = Cluster::start();
    let server = elsewhere.conninfo("postgres");
    let drilled = place
        .run(["drill", "--site", &site, "--server", &server])
        .expect(0);
    assert!(
        drilled.stdout.contains("everything came back"),
        "{drilled:#?}"
    );
    let mut session = elsewhere.session("postgres");
    let left = session
        .simple_column(
            "SELECT datname FROM pg_database WHERE datname ~ 'drill' UNION ALL SELECT rolname FROM pg_roles WHERE rolname = 'reader'",
        )
        .unwrap();
    assert_eq!(left, []);
}

#[test]
fn what_does_not_come_back_is_named_and_remembered() {
    let (place, cluster) = (Place::small(), Cluster::start());
    let site = site(&place, &cluster);
    let text = fs::read_to_string(&site).unwrap();
    fs::write(&site, text.replace("expect = 1000", "expect = 1001")).unwrap();
    let drilled = place.run(["drill", "--site", &site]).expect(3);
    assert!(
        drilled.stdout.contains("it is 1000, not 1001"),
        "{drilled:#?}"
    );
    let status = place
        .run(["status", "--monitor", "--site", &site])
        .expect(2);
    assert!(
        status.stdout.starts_with("HOLDFAST CRITICAL"),
        "{status:#?}"
    );
    assert!(status.stdout.contains("the last drill"), "{status:#?}");
}

#[test]
fn verifications_are_remembered() {
    let place = Place::small();
    noise_tree(&place.path("share"), 1, 3, 3000);
    place.back_up(&place.path("share")).expect(0);
    place.run(["verify", "--data"]).expect(0);
    let status = place.run(["status", "--json"]).expect(0);
    let exercises = status.messages("exercise");
    assert_eq!(exercises.len(), 1);
    assert_eq!(exercises[0]["depth"], "data");
    let metrics = place.path("metrics.prom");
    place
        .run(["status", "--prometheus", metrics.to_str().unwrap()])
        .expect(0);
    let text = fs::read_to_string(&metrics).unwrap();
    assert!(
        text.contains("holdfast_exercise_damaged{kind=\"verify\",depth=\"data\",scope=\"all\"} 0")
    );
    // The ledger is no damage to anybody.
    place.assert_good(holdfast::ops::verify::Depth::EndToEnd);
    place.run(["verify", "--no-key"]).expect(0);
}
