//! Several processes at one repository at the same time.

use std::path::PathBuf;

use holdfast::ops::verify::Depth;

use crate::place::{Place, Running, assert_same_tree, noise_tree};

/// Starts a backup of each tree, waits for all, and checks that all of them are whole.
fn check_side_by_side(count: u64) {
    let place = Place::small();
    let trees: Vec<PathBuf> = (0..count)
        .map(|number| {
            let tree = place.path(&format!("tree-{number}"));
            // Half of it is in all trees, so that each relies on what the others may be storing.
            noise_tree(&tree.join("shared"), 50, 15, 60_000);
            noise_tree(&tree.join("own"), 51 + number, 15, 60_000);
            tree
        })
        .collect();
    let running: Vec<Running> = trees.iter().map(|tree| place.start_backup(tree)).collect();
    for backup in running {
        let summary = backup.wait().expect(0).summary();
        assert_eq!(summary["complete"], true);
    }
    let snapshots = place.snapshots();
    assert_eq!(u64::try_from(snapshots.len()).unwrap(), count);
    place.assert_good(Depth::EndToEnd);
    for tree in &trees {
        let name = tree
            .strip_prefix("/")
            .unwrap()
            .as_os_str()
            .as_encoded_bytes();
        let of_tree = snapshots.iter().find(|snapshot| {
            let components = &snapshot.record.components;
            components
                .iter()
                .any(|component| component.name.as_bytes().ends_with(name))
        });
        let id = of_tree.expect("its snapshot").id.to_string();
        let below = tree.strip_prefix("/").unwrap().display();
        let target = tempfile::tempdir().unwrap();
        place.restore(&format!("{id}:paths/{below}"), target.path());
        assert_same_tree(tree, target.path());
    }
}

#[test]
fn two_backups_at_the_same_time_both_commit() {
    check_side_by_side(2);
}

#[test]
fn four_backups_at_the_same_time_all_commit() {
    check_side_by_side(4);
}

#[test]
fn restores_and_verifications_go_on_beside_a_backup() {
    let place = Place::small();
    let (first, second) = (place.path("first"), place.path("second"));
    noise_tree(&first, 60, 20, 40_000);
    noise_tree(&second, 61, 60, 90_000);
    place.back_up(&first).expect(0);
    let below = first.strip_prefix("/").unwrap().display().to_string();
    let mut backup = place.start_backup(&second);
    assert!(backup.until(|| place.pack_count() >= 6));
    let mut beside = 0;
    loop {
        let id = place.snapshots()[0].id;
        let target = tempfile::tempdir().unwrap();
        place.restore(&format!("{id}:paths/{below}"), target.path());
        assert_same_tree(&first, target.path());
        place.assert_good(Depth::Data);
        if backup.has_ended() {
            break;
        }
        beside += 1;
    }
    backup.wait().expect(0);
    assert!(
        beside > 0,
        "the backup ended before anything was done beside it"
    );
    assert_eq!(place.snapshots().len(), 2);
    place.assert_good(Depth::EndToEnd);
}
