//! The test suite that every backend and every wrapper passes: one check for each promise of the trait.
//!
//! It is compiled into the library so that backends elsewhere can run it. A check panics when a promise is broken. What only a
//! loss of power can show is tested where the calls can be seen.

#![allow(
    clippy::unwrap_used,
    reason = "these are tests, and a panic is their answer"
)]

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::time::{Duration, SystemTime};

use super::{
    Backend, BackendError, BackendErrorKind, ByteRange, Condemned, ObjectInfo, ObjectKind,
    ObjectName, Operation,
};

const RACERS: usize = 16;
/// Every racer syncs a file in every round, so that more of them cost seconds on a disk.
const RACE_ROUNDS: u64 = 30;

/// Runs every check, each on a new and empty backend.
///
/// # Panics
///
/// If the backend breaks a promise.
pub fn conformance(make: &dyn Fn() -> Box<dyn Backend>) {
    let checks: [fn(&dyn Backend); 16] = [
        a_prepared_place_is_empty,
        a_place_that_holds_objects_is_refused,
        what_was_put_is_read_back,
        every_kind_has_its_own_names,
        nothing_is_overwritten,
        one_creator_wins,
        one_committer_wins,
        objects_appear_whole,
        a_dropped_object_leaves_nothing,
        objects_are_begun_in_one_thread_and_synced_in_another,
        many_are_committed_at_once,
        a_range_is_exact_or_an_error,
        an_absent_object_is_not_found,
        lists_are_complete,
        only_the_condemned_is_deleted,
        names_can_be_synced_at_any_time,
    ];
    for check in checks {
        let backend = make();
        backend.create_layout().unwrap();
        check(&*backend);
    }
}

fn listed(backend: &dyn Backend, kind: ObjectKind) -> Vec<ObjectInfo> {
    let mut infos = Vec::new();
    let strays = backend.list(kind, &mut |info| infos.push(info)).unwrap();
    assert_eq!(strays.count, 0, "{strays:?}");
    infos.sort_by_key(|info| info.name);
    infos
}

fn names(backend: &dyn Backend, kind: ObjectKind) -> Vec<ObjectName> {
    listed(backend, kind)
        .into_iter()
        .map(|info| info.name)
        .collect()
}

fn assert_empty(backend: &dyn Backend) {
    for kind in ObjectKind::ALL {
        assert_eq!(listed(backend, kind), [], "{kind}");
    }
}

fn assert_kind<T: std::fmt::Debug>(result: Result<T, BackendError>, kind: BackendErrorKind) {
    assert_eq!(result.unwrap_err().kind, kind);
}

fn all(backend: &dyn Backend, name: &ObjectName) -> Vec<u8> {
    backend.get(name, ByteRange::All).unwrap().to_vec()
}

fn pack(number: u8) -> ObjectName {
    ObjectName::hashed(ObjectKind::Pack, [number; 32])
}

/// One name of each kind, and the copies.
fn a_name_of_each() -> Vec<ObjectName> {
    let hash = [0x5a; 32];
    let mut names = vec![
        ObjectName::format(),
        ObjectName::format_copy(),
        ObjectName::key(hash),
        ObjectName::key_copy(hash),
        ObjectName::log(1),
        ObjectName::heartbeat(1, 1),
    ];
    let hashed = ObjectKind::ALL.into_iter().filter(|kind| kind.is_hashed());
    names.extend(
        hashed
            .filter(|kind| *kind != ObjectKind::Key)
            .map(|kind| ObjectName::hashed(kind, hash)),
    );
    names.sort_unstable();
    names
}

fn a_prepared_place_is_empty(backend: &dyn Backend) {
    assert_empty(backend);
    backend.create_layout().unwrap();
    assert_empty(backend);
    backend.free_bytes().unwrap();
    assert_eq!(backend.remove_abandoned().unwrap(), 0);
}

fn a_place_that_holds_objects_is_refused(backend: &dyn Backend) {
    backend.put_new(&pack(1), b"body").unwrap();
    assert_kind(backend.create_layout(), BackendErrorKind::AlreadyExists);
    backend.put_new(&ObjectName::format(), b"format").unwrap();
    assert_kind(backend.create_layout(), BackendErrorKind::AlreadyExists);
    assert_eq!(all(backend, &pack(1)), b"body");
}

fn what_was_put_is_read_back(backend: &dyn Backend) {
    let large: Vec<u8> = (0..9_000_001_u32)
        .map(|i| i.to_le_bytes()[0] ^ i.to_le_bytes()[1])
        .collect();
    for (number, body) in [(1, &b""[..]), (2, b"x"), (3, &large)] {
        backend.put_new(&pack(number), body).unwrap();
        assert!(all(backend, &pack(number)) == body);
        assert_eq!(backend.len(&pack(number)).unwrap(), body.len() as u64);
        assert!(backend.exists(&pack(number)).unwrap());
    }
    let mut object = backend.begin(ObjectKind::Pack).unwrap();
    for part in large.chunks(1_000_003) {
        object.append(part).unwrap();
        object.append(b"").unwrap();
    }
    object.sync().unwrap();
    object.append(b"end").unwrap();
    object.commit(&pack(4)).unwrap();
    assert!(all(backend, &pack(4)) == [&large[..], b"end"].concat());
}

fn every_kind_has_its_own_names(backend: &dyn Backend) {
    for name in a_name_of_each() {
        assert!(!backend.exists(&name).unwrap(), "{name}");
        backend.put_new(&name, name.to_string().as_bytes()).unwrap();
    }
    for name in a_name_of_each() {
        assert_eq!(all(backend, &name), name.to_string().as_bytes());
    }
    let listed = ObjectKind::ALL
        .into_iter()
        .flat_map(|kind| names(backend, kind));
    assert_eq!(listed.collect::<Vec<_>>(), a_name_of_each());
}

fn nothing_is_overwritten(backend: &dyn Backend) {
    for name in a_name_of_each() {
        backend.put_new(&name, b"first").unwrap();
        for body in [&b"second"[..], b"first", b""] {
            let error = backend.put_new(&name, body).unwrap_err();
            assert_eq!(error.kind, BackendErrorKind::AlreadyExists);
            assert_eq!(error.operation, Operation::Create);
            assert_eq!(error.object(), Some(&name));
            let mut object = backend.begin(name.kind()).unwrap();
            object.append(body).unwrap();
            assert_kind(object.commit(&name), BackendErrorKind::AlreadyExists);
            let mut object = backend.begin(name.kind()).unwrap();
            object.append(body).unwrap();
            assert_kind(object.publish(&name), BackendErrorKind::AlreadyExists);
        }
        assert_eq!(all(backend, &name), b"first");
    }
}

fn one_creator_wins(backend: &dyn Backend) {
    race(backend, &|name, body| backend.put_new(name, body));
}

fn one_committer_wins(backend: &dyn Backend) {
    race(backend, &|name, body| {
        let (head, tail) = body.split_at(body.len() / 2);
        let mut object = backend.begin(name.kind()).unwrap();
        object.append(head).unwrap();
        object.append(tail).unwrap();
        object.commit(name)
    });
}

type Create<'a> = dyn Fn(&ObjectName, &[u8]) -> Result<(), BackendError> + Sync + 'a;

/// Lets many threads create one object at the same time, in many rounds: one of them is told so, and its bytes are there.
fn race(backend: &dyn Backend, create: &Create<'_>) {
    let barrier = Barrier::new(RACERS);
    let body = |racer: usize| vec![u8::try_from(racer).unwrap(); 5000];
    let run = |racer: usize| -> Vec<u64> {
        let won = |round: &u64| {
            barrier.wait();
            match create(&ObjectName::log(*round), &body(racer)) {
                Ok(()) => true,
                Err(error) if error.kind == BackendErrorKind::AlreadyExists => false,
                Err(error) => panic!("{error:?}"),
            }
        };
        (1..=RACE_ROUNDS).filter(won).collect()
    };
    let rounds_won: Vec<Vec<u64>> = std::thread::scope(|scope| {
        let run = &run;
        let racers: Vec<_> = (0..RACERS)
            .map(|racer| scope.spawn(move || run(racer)))
            .collect();
        racers
            .into_iter()
            .map(|racer| racer.join().unwrap())
            .collect()
    });
    for round in 1..=RACE_ROUNDS {
        let winners: Vec<usize> = (0..RACERS)
            .filter(|racer| rounds_won[*racer].contains(&round))
            .collect();
        assert_eq!(winners.len(), 1, "round {round} was won by {winners:?}");
        assert!(
            all(backend, &ObjectName::log(round)) == body(winners[0]),
            "round {round}"
        );
    }
    let expected: Vec<_> = (1..=RACE_ROUNDS).map(ObjectName::log).collect();
    assert_eq!(names(backend, ObjectKind::Log), expected);
}

/// Readers see an object with all its bytes or not at all, while it is created.
fn objects_appear_whole(backend: &dyn Backend) {
    const OBJECTS: u8 = 40;
    const LEN: u64 = 300_000;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..OBJECTS {
                let mut object = backend.begin(ObjectKind::Pack).unwrap();
                for _ in 0..LEN / 30_000 {
                    object.append(&[number; 30_000]).unwrap();
                }
                object.commit(&pack(number)).unwrap();
            }
        });
        for number in 0..OBJECTS {
            while !backend.exists(&pack(number)).unwrap() {
                std::thread::yield_now();
            }
            let whole = backend.get(&pack(number), ByteRange::All).unwrap();
            assert_eq!(whole.len() as u64, LEN);
            assert!(whole.iter().all(|byte| *byte == number));
        }
    });
    assert!(
        listed(backend, ObjectKind::Pack)
            .iter()
            .all(|info| info.len == LEN)
    );
}

fn a_dropped_object_leaves_nothing(backend: &dyn Backend) {
    for kind in ObjectKind::ALL {
        drop(backend.begin(kind).unwrap());
        let mut object = backend.begin(kind).unwrap();
        object.append(b"something").unwrap();
        drop(object);
        let mut object = backend.begin(kind).unwrap();
        object.append(&[7; 100_000]).unwrap();
        object.sync().unwrap();
        drop(object);
    }
    assert_empty(backend);
    assert_eq!(backend.remove_abandoned().unwrap(), 0);
}

fn objects_are_begun_in_one_thread_and_synced_in_another(backend: &dyn Backend) {
    let mut object = backend.begin(ObjectKind::Pack).unwrap();
    object.append(b"first, ").unwrap();
    std::thread::scope(|scope| {
        let synced = scope.spawn(move || {
            object.append(b"second").unwrap();
            object.sync().unwrap();
            object
        });
        synced.join().unwrap().commit(&pack(1)).unwrap();
    });
    assert_eq!(all(backend, &pack(1)), b"first, second");
}

fn many_are_committed_at_once(backend: &dyn Backend) {
    let begin = |name: ObjectName| {
        let mut object = backend.begin(name.kind()).unwrap();
        object.append(name.to_string().as_bytes()).unwrap();
        (object, name)
    };
    backend.commit_many(Vec::new()).unwrap();
    backend
        .commit_many(a_name_of_each().into_iter().map(begin).collect())
        .unwrap();
    for name in a_name_of_each() {
        assert_eq!(all(backend, &name), name.to_string().as_bytes());
    }
    backend.put_new(&pack(2), b"mine").unwrap();
    let objects = vec![begin(pack(1)), begin(pack(2))];
    assert_kind(
        backend.commit_many(objects),
        BackendErrorKind::AlreadyExists,
    );
    assert_eq!(all(backend, &pack(2)), b"mine");

    let (object, name) = begin(pack(3));
    object.publish(&name).unwrap();
    backend.sync_names(&[name.kind()]).unwrap();
    assert_eq!(all(backend, &name), name.to_string().as_bytes());
}

fn a_range_is_exact_or_an_error(backend: &dyn Backend) {
    let body: Vec<u8> = (0..=255).collect();
    let name = pack(1);
    backend.put_new(&name, &body).unwrap();
    let exact = |offset, len| ByteRange::Exact { offset, len };
    let cases: [(ByteRange, Option<std::ops::Range<usize>>); 13] = [
        (ByteRange::All, Some(0..256)),
        (exact(0, 256), Some(0..256)),
        (exact(0, 0), Some(0..0)),
        (exact(17, 100), Some(17..117)),
        (exact(255, 1), Some(255..256)),
        (exact(256, 0), Some(256..256)),
        (exact(255, 2), None),
        (exact(257, 0), None),
        (exact(u64::MAX, 1), None),
        (exact(0, u64::MAX), None),
        (ByteRange::Last(256), Some(0..256)),
        (ByteRange::Last(3), Some(253..256)),
        (ByteRange::Last(257), None),
    ];
    for (range, expected) in cases {
        match expected {
            Some(part) => assert_eq!(backend.get(&name, range).unwrap(), body[part], "{range}"),
            None => {
                let error = backend.get(&name, range).unwrap_err();
                assert_eq!(error.kind, BackendErrorKind::Short, "{range}");
                assert_eq!(error.operation, Operation::Read(range));
            }
        }
    }
    let mut buffer = [0; 100];
    backend.read_into(&name, 156, &mut buffer).unwrap();
    assert_eq!(buffer, body[156..]);
    backend.read_into(&name, 256, &mut []).unwrap();
    for offset in [157, 256, 1000, u64::MAX] {
        let short = backend.read_into(&name, offset, &mut buffer);
        assert_kind(short, BackendErrorKind::Short);
    }
    assert_kind(
        backend.read_into(&name, 257, &mut []),
        BackendErrorKind::Short,
    );
}

fn an_absent_object_is_not_found(backend: &dyn Backend) {
    for name in a_name_of_each() {
        let not_found = BackendErrorKind::NotFound;
        assert_kind(backend.get(&name, ByteRange::All), not_found);
        assert_kind(backend.get(&name, ByteRange::Last(1)), not_found);
        assert_kind(backend.read_into(&name, 0, &mut [0]), not_found);
        assert_kind(backend.len(&name), not_found);
        assert!(!backend.exists(&name).unwrap());
        assert_eq!(backend.len(&name).unwrap_err().object(), Some(&name));
    }
}

fn lists_are_complete(backend: &dyn Backend) {
    let before = SystemTime::now();
    let count = 300;
    for seq in 1..=count {
        backend
            .put_new(
                &ObjectName::log(seq),
                &vec![0; usize::try_from(seq).unwrap()],
            )
            .unwrap();
    }
    for number in 0..64 {
        backend.put_new(&pack(number * 4), b"body").unwrap();
    }
    let log = listed(backend, ObjectKind::Log);
    let expected: Vec<_> = (1..=count).map(|seq| (ObjectName::log(seq), seq)).collect();
    assert_eq!(
        log.iter()
            .map(|info| (info.name, info.len))
            .collect::<Vec<_>>(),
        expected
    );
    // The clocks of a store and of this host differ, but not by a day.
    let day = Duration::from_secs(86_400);
    assert!(
        log.iter()
            .all(|info| info.modified > before - day && info.modified < before + day)
    );
    assert_eq!(
        names(backend, ObjectKind::Pack),
        (0..64).map(|n| pack(n * 4)).collect::<Vec<_>>()
    );
    assert_eq!(names(backend, ObjectKind::Index), []);

    for after in [0, 1, 299, 300, 301, u64::MAX] {
        let mut found = BTreeSet::new();
        let strays = backend.list_log_after(after, &mut |info| {
            assert!(found.insert(info.name.seq().unwrap()), "listed twice");
        });
        assert_eq!(strays.unwrap().count, 0);
        let expected = (1..=count).filter(|seq| *seq > after);
        assert_eq!(found, expected.collect(), "after {after}");
    }
}

fn only_the_condemned_is_deleted(backend: &dyn Backend) {
    for name in a_name_of_each() {
        backend.put_new(&name, b"body").unwrap();
    }
    let stays = |name: &ObjectName| matches!(name.kind(), ObjectKind::Format | ObjectKind::Log);
    for name in a_name_of_each() {
        let deleted = backend.delete(&Condemned::new(name));
        if stays(&name) {
            assert_kind(deleted, BackendErrorKind::Denied);
            assert_eq!(all(backend, &name), b"body");
        } else {
            deleted.unwrap();
            assert!(!backend.exists(&name).unwrap());
            backend.delete(&Condemned::new(name)).unwrap();
        }
    }
    // A folder that never held anything is no error either.
    backend.delete(&Condemned::new(pack(0xee))).unwrap();
    let left = ObjectKind::ALL
        .into_iter()
        .flat_map(|kind| names(backend, kind));
    let expected = a_name_of_each().into_iter().filter(stays);
    assert_eq!(left.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
}

fn names_can_be_synced_at_any_time(backend: &dyn Backend) {
    backend.sync_names(&[]).unwrap();
    backend.sync_names(&ObjectKind::ALL).unwrap();
    for name in a_name_of_each() {
        backend.put_new(&name, b"body").unwrap();
        backend.sync_names(&[name.kind()]).unwrap();
    }
    backend.sync_names(&ObjectKind::ALL).unwrap();
}
