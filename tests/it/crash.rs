//! Backups that end before their time: killed, interrupted, on a full disk, on a disk that takes no writes.
//!
//! Whatever happens, nothing is listed that can't be restored, the next run succeeds, and what an index run names is not stored again.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use holdfast::ops::verify::Depth;

use crate::pg_cluster::signal;
use crate::place::{Place, assert_same_tree, is_root, noise_tree, skipped};

/// A place with a small repository and a tree that takes a while.
fn with_tree() -> (Place, std::path::PathBuf) {
    let place = Place::small();
    let tree = place.path("tree");
    noise_tree(&tree, 1, 100, 90_000);
    (place, tree)
}

/// Restores the newest snapshot and compares it with the tree.
fn assert_comes_back(place: &Place, tree: &Path) {
    let target = tempfile::tempdir().unwrap();
    let below = tree.strip_prefix("/").unwrap().display();
    place.restore(&format!("latest:paths/{below}"), target.path());
    assert_same_tree(tree, target.path());
}

/// No chunk is named twice by the index.
fn assert_stored_once(place: &Place) {
    let chunks = place.stored_chunks();
    let twice = chunks.windows(2).filter(|pair| pair[0].0 == pair[1].0);
    assert_eq!(twice.count(), 0, "chunks that are stored twice");
}

#[test]
fn killed_backups_harm_nothing_and_the_next_one_succeeds() {
    let (place, tree) = with_tree();
    let seed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .subsec_nanos();
    for round in 0..4u32 {
        // A moment by what was written so far: right at the start, or after some packs.
        let packs = usize::try_from((seed >> (4 * round)) % 12).unwrap();
        println!("seed {seed}: killed after {packs} packs more");
        let already = place.pack_count();
        let sessions = log_count(&place);
        let mut backup = place.start_backup(&tree);
        let reached =
            backup.until(|| log_count(&place) > sessions && place.pack_count() >= already + packs);
        assert!(reached, "{:#?}", backup.wait());
        backup.kill();
        // The runs that were killed may be ended by nobody, and they have left packs without an index: no damage.
        assert_eq!(place.snapshots().len(), 0);
        place.assert_good(Depth::Data);
    }
    place.back_up(&tree).expect(0);
    assert_eq!(place.snapshots().len(), 1);
    place.assert_good(Depth::EndToEnd);
    assert_comes_back(&place, &tree);
}

fn log_count(place: &Place) -> usize {
    fs::read_dir(place.repository_path().join("log")).map_or(0, Iterator::count)
}

#[test]
fn what_an_interrupted_backup_stored_is_used_by_the_next_one() {
    let (place, tree) = with_tree();
    let mut backup = place.start_backup(&tree);
    assert!(backup.until(|| place.pack_count() >= 8));
    signal(backup.pid(), "INT");
    backup.wait().expect(130);
    assert_eq!(place.snapshots().len(), 0);
    place.assert_good(Depth::Data);
    let kept = place.stored_chunks();
    let kept_bytes: u64 = kept.iter().map(|(_, len)| u64::from(*len)).sum();
    assert!(kept_bytes >= 8 * 200_000, "{kept_bytes} bytes were kept");

    // One that is killed does not change that.
    let (already, sessions) = (place.pack_count(), log_count(&place));
    let mut backup = place.start_backup(&tree);
    assert!(backup.until(|| log_count(&place) > sessions && place.pack_count() > already));
    backup.kill();

    let summary = place.back_up(&tree).expect(0).summary();
    assert_stored_once(&place);
    let new = summary["bytes_new"].as_u64().unwrap();
    // Beside the rest of the files only their directories.
    let rest = 100 * 90_000 - kept_bytes;
    assert!(
        (rest..rest + 100_000).contains(&new),
        "{new} bytes were new, {rest} were missing"
    );
    place.assert_good(Depth::EndToEnd);
    assert_comes_back(&place, &tree);
}

#[test]
fn a_terminated_backup_ends_cleanly() {
    let (place, tree) = with_tree();
    let mut backup = place.start_backup(&tree);
    assert!(backup.until(|| place.pack_count() >= 1));
    signal(backup.pid(), "TERM");
    let outcome = backup.wait().expect(130);
    assert!(outcome.stderr.contains("interrupted"), "{outcome:#?}");
    place.assert_good(Depth::Data);
}

/// A file system of its own; unmounted when it is dropped.
struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    /// None where it is not allowed.
    fn new(at: &'a Path, options: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "holdfast-test"])
            .arg(at)
            .output();
        mounted
            .is_ok_and(|output| output.status.success())
            .then_some(Self(at))
    }

    fn remount(&self, options: &str) {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,{options}")])
            .arg(self.0)
            .status();
        assert!(status.unwrap().success(), "remount {options}");
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[test]
fn a_full_disk_stops_the_run_before_the_commit() {
    let place = Place::new();
    let disk = place.path("disk");
    let Some(mount) = is_root()
        .then(|| Mount::new(&disk, "size=4m,mode=700"))
        .flatten()
    else {
        skipped("a repository on a full disk: only root may mount a small file system");
        return;
    };
    let repository = disk.join("repository");
    place.create_small(&repository, holdfast::format::header::Suite::Aes256Gcm);
    std::os::unix::fs::symlink(&repository, place.repository_path()).unwrap();
    let (small, tree) = (place.path("small"), place.path("tree"));
    noise_tree(&small, 7, 5, 20_000);
    noise_tree(&tree, 1, 100, 90_000);
    place.back_up(&small).expect(0);

    let named = repository.display().to_string();
    let run = || {
        let mut command = place.command(["backup", "--json"]);
        command.env("HOLDFAST_REPO", &repository).arg(&tree);
        crate::place::Outcome::of(command.output().unwrap())
    };
    let outcome = run().expect(1).says("No space left on device").says(&named);
    assert_eq!(
        outcome.messages("component"),
        Vec::<serde_json::Value>::new()
    );
    assert_eq!(place.snapshots().len(), 1, "nothing was committed");
    place.assert_good(Depth::Data);
    run().expect(1);

    mount.remount("size=64m");
    run().expect(0);
    assert_eq!(place.snapshots().len(), 2);
    place.assert_good(Depth::EndToEnd);
    assert_comes_back(&place, &tree);

    // The same where nothing can be written at all; reading goes on.
    mount.remount("ro");
    run().expect(1).says("Read-only file system").says(&named);
    place.assert_good(Depth::Data);
    place.run(["snapshots"]).expect(0);
    drop(mount);
}
