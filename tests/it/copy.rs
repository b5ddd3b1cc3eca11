//! Copies into a second repository: with the same dedup secret and another one, with and without encryption, other sizes of chunks; cut
//! short, beside backups, from a damaged source.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use holdfast::format::header::Suite;

use crate::pg_cluster::{Cluster, signal};
use crate::place::{Outcome, Place, Running, assert_same_tree, files_below, noise, noise_tree};

/// How the second repository is made.
#[derive(Clone, Copy, Debug)]
struct Way {
    name: &'static str,
    /// Flags of `init`; `{from}` is the first repository.
    init: &'static [&'static str],
    encrypted: bool,
}

const WAYS: [Way; 4] = [
    Way {
        name: "shared",
        init: &["--dedup-from", "{from}"],
        encrypted: true,
    },
    Way {
        name: "shared-plain",
        init: &["--dedup-from", "{from}", "--encryption", "none"],
        encrypted: false,
    },
    Way {
        name: "other",
        init: &["--chunk-size", "32K"],
        encrypted: true,
    },
    Way {
        name: "other-plain",
        init: &["--chunk-size", "4K", "--encryption", "none"],
        encrypted: false,
    },
];

/// A command on any repository of the place. The keys of all of them are there.
fn on(place: &Place, repository: &Path, encrypted: bool, args: &[&str]) -> Command {
    let mut command = place.command(args);
    command.env("HOLDFAST_REPO", repository);
    if !encrypted {
        command.env_remove("HOLDFAST_KEY_FILE");
    }
    command
}

fn run(command: &mut Command) -> Outcome {
    Outcome::of(command.output().unwrap())
}

fn create(place: &Place, way: Way) -> PathBuf {
    let path = place.path(way.name);
    let from = place.repository_path();
    let from = from.to_str().unwrap();
    let flags = way.init.iter().map(|flag| flag.replace("{from}", from));
    let args: Vec<String> = std::iter::once("init".to_owned()).chain(flags).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut command = on(place, &path, way.encrypted, &args);
    command.env("HOLDFAST_FROM_KEY_FILE", place.path("key"));
    if way.encrypted {
        // A key of its own, that opens nothing else.
        command.env("HOLDFAST_KEY_FILE", second_key(place, way));
    }
    run(&mut command).expect(0);
    path
}

fn second_key(place: &Place, way: Way) -> PathBuf {
    place.path(&format!("{}.key", way.name))
}

/// A command on the second repository.
fn there(place: &Place, way: Way, args: &[&str]) -> Command {
    let mut command = on(place, &place.path(way.name), way.encrypted, args);
    if way.encrypted {
        command.env("HOLDFAST_KEY_FILE", second_key(place, way));
    }
    command
}

fn copy_command(place: &Place, way: Way, args: &[&str]) -> Command {
    let to = place.path(way.name);
    let mut command = place.command(["copy", "--json", "--to", to.to_str().unwrap()]);
    command.args(args);
    if way.encrypted {
        command.env("HOLDFAST_TO_KEY_FILE", second_key(place, way));
    }
    command
}

fn copy(place: &Place, way: Way, args: &[&str]) -> Outcome {
    run(&mut copy_command(place, way, args))
}

fn number(outcome: &Outcome, field: &str) -> u64 {
    let summary = outcome.summary();
    summary[field]
        .as_u64()
        .unwrap_or_else(|| panic!("{field} in {summary}"))
}

/// Hash of every file of a repository.
fn objects(path: &Path) -> BTreeMap<PathBuf, blake3::Hash> {
    let files = files_below(path).into_iter();
    files
        .map(|file| (file.clone(), blake3::hash(&fs::read(file).unwrap())))
        .collect()
}

/// What was there is there still, as it was.
#[track_caller]
fn assert_written_once(before: &BTreeMap<PathBuf, blake3::Hash>, path: &Path) {
    let after = objects(path);
    for (file, hash) in before {
        assert_eq!(after.get(file), Some(hash), "{}", file.display());
    }
}

fn assert_good(place: &Place, way: Way) {
    run(&mut there(place, way, &["verify", "--end-to-end"])).expect(0);
}

fn assert_comes_back(place: &Place, way: Way, snapshot: &str, tree: &Path) {
    let target = tempfile::tempdir().unwrap();
    let below = tree.strip_prefix("/").unwrap().display();
    let spec = format!("{snapshot}:paths/{below}");
    let to = target.path().to_str().unwrap();
    run(&mut there(place, way, &["restore", &spec, "--target", to])).expect(0);
    assert_same_tree(tree, target.path());
}

#[test]
fn every_way_brings_everything_and_the_second_time_nothing() {
    let place = Place::small();
    let tree = place.path("tree");
    noise_tree(&tree, 1, 20, 30_000);
    fs::write(tree.join("large"), noise(2, 900_000)).unwrap();
    place.back_up(&tree).expect(0);
    let source = objects(&place.repository_path());
    for way in WAYS {
        create(&place, way);
        let first = copy(&place, way, &[]).expect(0);
        assert_eq!(first.messages("copied").len(), 1, "{first:#?}");
        assert_eq!(
            (
                number(&first, "snapshots_copied"),
                number(&first, "snapshots_skipped")
            ),
            (1, 0)
        );
        assert!(number(&first, "chunks_sent") > 40, "{first:#?}");
        let before = objects(&place.path(way.name));
        let second = copy(&place, way, &[]).expect(0);
        assert_eq!(
            (
                number(&second, "snapshots_copied"),
                number(&second, "snapshots_skipped")
            ),
            (0, 1)
        );
        let nothing = ["chunks_read", "chunks_sent", "bytes_stored"];
        assert_eq!(nothing.map(|field| number(&second, field)), [0; 3]);
        assert_eq!(objects(&place.path(way.name)), before, "nothing is written");
        assert_good(&place, way);
        assert_comes_back(&place, way, "latest", &tree);
    }

    // A similar one sends what changed, and reads no more where the secret is shared.
    noise_tree(&tree, 3, 2, 30_000);
    let mut large = noise(2, 900_000);
    large.splice(500_000..500_010, *b"inserted bytes");
    fs::write(tree.join("large"), &large).unwrap();
    place.back_up(&tree).expect(0);
    for way in WAYS {
        let before = objects(&place.path(way.name));
        let third = copy(&place, way, &["latest"]).expect(0);
        assert_eq!(
            (
                number(&third, "snapshots_copied"),
                number(&third, "snapshots_skipped")
            ),
            (1, 0)
        );
        let new = number(&third, "bytes_new");
        assert!(
            (60_000..400_000).contains(&new),
            "{new} bytes were new with {way:?}"
        );
        if way.name.starts_with("shared") {
            assert_eq!(number(&third, "chunks_read"), number(&third, "chunks_sent"));
        }
        assert_written_once(&before, &place.path(way.name));
        assert_good(&place, way);
        assert_comes_back(&place, way, "latest", &tree);
        // The snapshot before it is still what it was; and who made them is known there.
        let listed = run(&mut there(&place, way, &["snapshots", "--json"])).expect(0);
        let snapshots = listed.messages("snapshot");
        assert_eq!(snapshots.len(), 2);
        assert!(
            snapshots
                .iter()
                .all(|s| s["copied_from"]["snapshot"].is_string())
        );
    }
    assert_written_once(&source, &place.repository_path());
}

#[test]
fn a_copy_that_is_cut_short_goes_on() {
    for way in [WAYS[0], WAYS[2]] {
        let place = Place::small();
        let tree = place.path("tree");
        noise_tree(&tree, 4, 100, 90_000);
        place.back_up(&tree).expect(0);
        // Small packs, so that there are many to be cut short between.
        let path = place.path(way.name);
        match way.name {
            "shared" => create_small_sharing(&place, &path),
            _ => place.create_small(&path, Suite::Aes256Gcm),
        }
        fs::copy(place.path("key"), second_key(&place, way)).unwrap();
        let packs = || files_below(&path.join("packs")).len();

        let mut interrupted = Running::start(copy_command(&place, way, &[]));
        assert!(
            interrupted.until(|| packs() >= 8),
            "{:#?}",
            interrupted.wait()
        );
        signal(interrupted.pid(), "INT");
        interrupted.wait().expect(130);
        assert_good(&place, way);

        let already = packs();
        let mut killed = Running::start(copy_command(&place, way, &[]));
        assert!(killed.until(|| packs() > already), "{:#?}", killed.wait());
        killed.kill();
        assert_good(&place, way);

        let before = objects(&path);
        let last = copy(&place, way, &[]).expect(0);
        let new = number(&last, "bytes_new");
        assert!(
            new < 9_000_000 - 8 * 200_000,
            "{new} bytes of 9 MB were new"
        );
        assert_written_once(&before, &path);
        assert_good(&place, way);
        assert_comes_back(&place, way, "latest", &tree);
        // Whoever was killed left a session in the source; it is good, and takes backups.
        place.back_up(&tree).expect(0);
    }
}

/// Changes one byte in the middle of a file.
fn flip(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mut bytes = fs::read(path).unwrap();
    let half = bytes.len() / 2;
    bytes[half] ^= 1;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A repository with the dedup secret and the small sizes of the place's.
fn create_small_sharing(place: &Place, at: &Path) {
    use holdfast::crypto::{Keyring, NewKey, Secret32, SystemRandom};
    use holdfast::store::{Ambient, CreateOptions, Repository};
    let like = place.open();
    let mut format = like.format().clone();
    format.id = Keyring::generate_repository_id(&mut SystemRandom);
    let dedup = like.keyring().dedup.clone();
    let secret = Secret32::take(&mut [9; 32]);
    let options = CreateOptions {
        keyring: Keyring::generate(format.id, Suite::Aes256Gcm, dedup, &mut SystemRandom),
        format,
        keys: vec![NewKey::key_file(&secret, "test", 0)],
    };
    let backend = std::sync::Arc::new(holdfast::backend::Local::new(at).unwrap());
    Repository::create(backend, "test", &options, Ambient::default()).unwrap();
}

#[test]
fn a_damaged_snapshot_is_named_and_the_others_are_copied() {
    let place = Place::small();
    let (tree, bad) = (place.path("tree"), place.path("bad"));
    noise_tree(&tree, 5, 10, 30_000);
    noise_tree(&bad, 6, 10, 30_000);
    let first = place.back_up(&tree).expect(0).summary();
    let before: Vec<PathBuf> = files_below(&place.repository_path().join("packs"));
    let second = place.back_up(&bad).expect(0).summary();
    for pack in files_below(&place.repository_path().join("packs")) {
        if !before.contains(&pack) {
            flip(&pack);
        }
    }
    let id = second["snapshot"].as_str().unwrap();
    for way in [WAYS[0], WAYS[3]] {
        create(&place, way);
        let outcome = copy(&place, way, &[]).expect(4);
        let copied = outcome.messages("copied");
        assert_eq!(copied.len(), 1, "{outcome:#?}");
        assert_eq!(copied[0]["from"], first["snapshot"]);
        let damage = outcome.messages("damage");
        assert_eq!(damage.len(), 1, "{outcome:#?}");
        assert_eq!(damage[0]["snapshot"], id);
        copy(&place, way, &[id]).expect(4);
        copy(&place, way, &[first["snapshot"].as_str().unwrap()]).expect(0);
        assert_good(&place, way);
        assert_comes_back(&place, way, "latest", &tree);
    }
}

#[test]
fn copies_go_on_beside_backups_on_both_sides() {
    for way in [WAYS[0], WAYS[2]] {
        let place = Place::small();
        let (tree, here, over_there) =
            (place.path("tree"), place.path("here"), place.path("there"));
        for (folder, seed) in [(&tree, 7), (&here, 8), (&over_there, 9)] {
            noise_tree(folder, seed, 40, 60_000);
            // Half of it is the same everywhere, so that each relies on what the others may be storing.
            noise_tree(&folder.join("same"), 10, 40, 60_000);
        }
        place.back_up(&tree).expect(0);
        create(&place, way);
        let copying = Running::start(copy_command(&place, way, &[]));
        let backup_here = place.start_backup(&here);
        let mut backup_there = there(&place, way, &["backup", "--json"]);
        backup_there.arg(&over_there);
        let backup_there = Running::start(backup_there);
        copying.wait().expect(0);
        backup_here.wait().expect(0);
        backup_there.wait().expect(0);
        // What the backup has added here is copied by the next one; two at a time harm nothing either.
        let both = [(); 2].map(|()| Running::start(copy_command(&place, way, &[])));
        for one in both {
            one.wait().expect(0);
        }
        place.assert_good(holdfast::ops::verify::Depth::EndToEnd);
        assert_good(&place, way);
        for folder in [&tree, &here, &over_there] {
            let listed = run(&mut there(&place, way, &["snapshots", "--json"])).expect(0);
            let snapshots = listed.messages("snapshot");
            let name = folder.to_str().unwrap();
            let of = snapshots
                .iter()
                .find(|snapshot| snapshot["components"][0]["name"] == name);
            let id = of.unwrap()["id"].as_str().unwrap().to_owned();
            assert_comes_back(&place, way, &id, folder);
        }
    }
}

#[test]
fn databases_come_back_from_a_copy() {
    let place = Place::small();
    let cluster = Cluster::start();
    cluster.sql(
        "postgres",
        "CREATE DATABASE qsr ENCODING 'UTF8' TEMPLATE template0",
    );
    cluster.sql(
        "qsr",
        r#"CREATE TABLE "Odd Ta/ble" (id int PRIMARY KEY, t text, raw bytea);
        INSERT INTO "Odd Ta/ble" SELECT g, E'row\t' || md5(g::text), decode(md5((g * 7)::text), 'hex') FROM generate_series(1, 6000) g;
        CREATE TABLE empty (a int); CREATE TABLE still (a int, b text);
        INSERT INTO still SELECT g, repeat(md5(g::text), 20) FROM generate_series(1, 2000) g;
        CREATE SEQUENCE s START 7; SELECT nextval('s');
        SELECT lo_create(4242), lo_put(4242, 0, decode(repeat('deadbeef00', 3000), 'hex'));"#,
    );
    let conninfo = cluster.conninfo("qsr");
    let back_up = || {
        place
            .run(["backup", "--json", "--database", &conninfo])
            .expect(0)
    };
    back_up();
    for way in WAYS {
        create(&place, way);
        copy(&place, way, &[]).expect(0);
    }
    cluster.sql(
        "qsr",
        r#"DELETE FROM "Odd Ta/ble" WHERE id % 100 = 3; INSERT INTO empty VALUES (1);"#,
    );
    back_up();
    for (turn, way) in WAYS.into_iter().enumerate() {
        copy(&place, way, &[]).expect(0);
        assert_good(&place, way);
        for (snapshot, rows) in [("latest", "5940"), ("latest~1", "6000")] {
            let name = format!("copy_{turn}_{rows}");
            let into = cluster.conninfo(&name);
            let args = [
                "restore",
                snapshot,
                "--database",
                "qsr",
                "--into",
                &into,
                "--check",
                "--json",
            ];
            let restored = run(&mut there(&place, way, &args)).expect(0);
            assert_eq!(restored.messages("summary").len(), 1, "{restored:#?}");
            let count = cluster
                .session(&name)
                .simple_column(r#"SELECT count(*) FROM "Odd Ta/ble""#)
                .unwrap();
            assert_eq!(count, [Some(rows.to_owned())]);
        }
        // The digests of rows are those of that repository: what did not change says so there too.
        let differing = run(&mut there(
            &place,
            way,
            &["diff", "latest~1", "latest", "--json"],
        ))
        .expect(0);
        assert!(differing.stdout.contains("Odd Ta"), "{differing:#?}");
        assert!(!differing.stdout.contains("/still"), "{differing:#?}");
    }
}

#[test]
fn wrong_places_and_keys_are_told_apart() {
    let place = Place::small();
    let tree = place.path("tree");
    noise_tree(&tree, 11, 3, 3_000);
    place.back_up(&tree).expect(0);
    let copy_to = |to: &OsStr, key: Option<&str>| {
        let mut command = place.command([OsStr::new("copy"), OsStr::new("--to"), to]);
        if let Some(key) = key {
            command.env("HOLDFAST_TO_KEY_FILE", place.path(key));
        }
        run(&mut command)
    };
    copy_to(place.repository_path().as_os_str(), Some("key"))
        .expect(1)
        .says("the same repository");
    copy_to(place.path("nothing").as_os_str(), Some("key")).expect(10);
    place.write_key("wrong", [3; 32]);
    create(&place, WAYS[0]);
    let to = place.path(WAYS[0].name);
    copy_to(to.as_os_str(), Some("wrong")).expect(12);
    // The key of this repository is not tried on the other one.
    copy_to(to.as_os_str(), None)
        .expect(12)
        .says("HOLDFAST_TO_KEY_FILE");
    place.run(["copy"]).expect(2).says("--to");
    copy(&place, WAYS[0], &["nosuch"]).expect(1).says("nosuch");
    assert_eq!(files_below(&to.join("snapshots")).len(), 0);
}
