//! Tables of which rows here and there change from night to night: what is new of them is stored on what they were.

use holdfast::format::header::Suite;
use holdfast::ops::verify::Depth;

use crate::pg_cluster::Cluster;
use crate::place::{Outcome, Place};

const TABLE: &str = "CREATE TABLE stock (id int PRIMARY KEY, amount int, name text);
    INSERT INTO stock SELECT g, 0, md5(g::text) || md5((-g)::text) FROM generate_series(1, 60000) g;
    CREATE TABLE small (id int); INSERT INTO small VALUES (1)";

/// Changes rows that lie all over the table.
fn change(cluster: &Cluster, remainder: usize) {
    let sql =
        format!("UPDATE stock SET amount = amount + 1 WHERE abs(hashint4(id)) % 100 = {remainder}");
    cluster.sql("shop", &sql);
}

fn back_up(place: &Place, cluster: &Cluster) -> u64 {
    let conninfo = cluster.conninfo("shop");
    let outcome = place.run(["backup", "--json", "--database", &conninfo]);
    let summary = outcome.expect(0).summary();
    summary["bytes_stored"].as_u64().unwrap()
}

fn restore(place: &Place, cluster: &Cluster, spec: &str, name: &str) -> Outcome {
    let into = cluster.conninfo(name);
    place.run([
        "restore",
        spec,
        "--database",
        "shop",
        "--into",
        &into,
        "--check",
    ])
}

#[test]
fn scattered_changes_take_little_and_come_back() {
    let (place, cluster) = (Place::small(), Cluster::start());
    cluster.sql("postgres", "CREATE DATABASE shop");
    cluster.sql("shop", TABLE);
    let first = back_up(&place, &cluster);
    for day in 0..3 {
        change(&cluster, day);
        let stored = back_up(&place, &cluster);
        // What was updated stands at the end of the table, and is stored anew: a hundredth.
        assert!(stored * 12 < first, "day {day}: {stored} of {first}");
    }
    place.assert_good(Depth::EndToEnd);
    let specs = ["latest~3", "latest~2", "latest~1", "latest"];
    for (day, spec) in specs.iter().enumerate() {
        let name = format!("back_{day}");
        restore(&place, &cluster, spec, &name).expect(0);
        let mut session = cluster.session(&name);
        let changed = session.simple_column("SELECT count(*) FROM stock WHERE amount = 1");
        let changed: usize = changed.unwrap()[0].as_deref().unwrap().parse().unwrap();
        assert!((day * 450..=day * 750).contains(&changed), "{changed}");
    }

    // Into another repository, which has other packs, and back out of it.
    let other = Place::new();
    other.create_small(&other.repository_path(), Suite::Aes256Gcm);
    let to = other.repository_path();
    let key = other.path("key");
    let mut copy = place.command(["copy", "--to", to.to_str().unwrap()]);
    copy.env("HOLDFAST_TO_KEY_FILE", key);
    Outcome::of(copy.output().unwrap()).expect(0);
    other.assert_good(Depth::EndToEnd);
    restore(&other, &cluster, "latest", "from_copy").expect(0);
}
