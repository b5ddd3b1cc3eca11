//! Files that several workers share.

use super::*;

#[test]
fn a_big_file_is_shared_by_the_workers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("big");
    fs::write(&path, noise(6 << 20, 9)).unwrap();
    let hash = blake3::hash(&fs::read(&path).unwrap());
    // Fresh, so that it may be growing: one reader, units on the workers. Old: segments.
    let nodes = [false, true].map(|old| {
        if old {
            settle(&path, 1_700_000_000);
        }
        let result = backup(
            &source(directory.path()),
            None,
            &Arc::new(MemoryStore::default()),
        );
        let node = result.node("shares/s/big");
        assert_eq!(node.digest.unwrap().0, *hash.as_bytes());
        assert_eq!(blake3::hash(&result.tree.whole(&node)), hash);
        assert_eq!(node.consistency, Consistency::Whole);
        node
    });
    assert_eq!(nodes[0].content, nodes[1].content);
}

/// Chunks and digest are of the same bytes, also where several workers found something else each.
#[test]
fn a_big_file_that_changes_is_one_content() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f");
    fs::write(&path, noise(6 << 20, 5)).unwrap();
    settle(&path, 1_700_000_000);
    let stop = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::options().write(true).open(&path).unwrap();
            for at in (0..).step_by(100_003) {
                file.write_all_at(b"?", at % (6 << 20)).unwrap();
                settle(&path, 1_700_000_000);
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let result = backup(
            &source(directory.path()),
            None,
            &Arc::new(MemoryStore::default()),
        );
        stop.store(true, Ordering::Relaxed);
        result
    });
    let node = result.node("shares/s/f");
    assert_eq!(node.consistency, Consistency::Torn);
    let hash = blake3::hash(&result.tree.whole(&node));
    assert_eq!(node.digest.unwrap().0, *hash.as_bytes());
}
