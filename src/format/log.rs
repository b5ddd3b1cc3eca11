//! The commit log's entries.
//!
//! Layout: an entry is a sealed object `log/<seq>`, kind 4; its plaintext is the CBOR map [`LogEntry`]. Numbers start at 1, without gaps.
//! `previous` is the BLAKE3 of all bytes of the stored entry before it, zero for the first.
//!
//! Invariants: the fold checks the chain (`store::state`); an unknown kind is an error that says "newer version", because a client that
//! can't fold an entry must not append (`an_unknown_kind_is_an_error`).

use minicbor::{Decode, Encode};

use super::id::{Nonce, ObjectHash};

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LogEntry {
    /// Its number, as in its name.
    #[n(0)]
    pub seq: u64,
    /// Hash of the stored bytes of entry `seq - 1`; zero at `seq` 1.
    #[n(1)]
    pub previous: ObjectHash,
    /// Makes two entries of the same content differ.
    #[n(2)]
    pub nonce: Nonce,
    /// Number of the newest checkpoint entry at `seq - 1`; 0 where there is none.
    #[cbor(n(3), default)]
    pub checkpoint: u64,
    /// What it does.
    #[n(4)]
    pub action: Action,
    /// Seconds since 1970 on the clock of who wrote it; for people, never for safety.
    #[cbor(n(5), default)]
    pub written_at: i64,
    /// Host and process that wrote it; for people.
    #[cbor(n(6), default)]
    pub written_by: String,
}

/// What an entry does.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Action {
    /// Opens a session; the session is named by the number of this entry.
    #[n(0)]
    Session,
    /// Ends a session without a snapshot.
    #[n(1)]
    Expire {
        /// Number of its session entry.
        #[n(0)]
        session: u64,
    },
    /// Commits a snapshot and ends its session.
    #[n(2)]
    Snapshot {
        /// The snapshot record.
        #[n(0)]
        record: ObjectHash,
        /// Index runs that become part of the index: own and adopted ones.
        #[n(1)]
        runs: Vec<ObjectHash>,
        /// Number of the session entry.
        #[n(2)]
        session: u64,
    },
    /// Forgets snapshots, for ever.
    #[n(3)]
    Forget {
        /// Their records.
        #[n(0)]
        records: Vec<ObjectHash>,
    },
    /// Condemns what a gc list names.
    #[n(4)]
    Gc {
        /// The gc list.
        #[n(0)]
        list: ObjectHash,
    },
    /// Adds and removes key objects.
    #[n(5)]
    Key {
        /// New key objects.
        #[n(0)]
        added: Vec<ObjectHash>,
        /// Key objects that are condemned.
        #[n(1)]
        removed: Vec<ObjectHash>,
    },
    /// Marks packs or frames as damaged, or lifts such a mark.
    #[n(6)]
    Quarantine {
        /// The quarantine object.
        #[n(0)]
        object: ObjectHash,
        /// Lifts it instead.
        #[n(1)]
        lifted: bool,
    },
    /// Names an object with the state at the number before this entry.
    #[n(7)]
    Checkpoint {
        /// The checkpoint object.
        #[n(0)]
        object: ObjectHash,
    },
}

/// What a gc list condemns and adds; object `gc/<name>`, kind 5.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct GcList {
    /// Condemned packs.
    #[cbor(n(0), default)]
    pub packs: Vec<ObjectHash>,
    /// Condemned index runs.
    #[cbor(n(1), default)]
    pub runs: Vec<ObjectHash>,
    /// Condemned snapshot records.
    #[cbor(n(2), default)]
    pub records: Vec<ObjectHash>,
    /// Condemned gc lists that no entry names.
    #[cbor(n(3), default)]
    pub lists: Vec<ObjectHash>,
    /// Index runs that become part of the index.
    #[cbor(n(4), default)]
    pub added_runs: Vec<ObjectHash>,
    /// Other condemned objects: checkpoints, quarantines, ledgers, by their whole name.
    #[cbor(n(5), default)]
    pub others: Vec<String>,
}

/// What is known to be damaged; object `quarantine/<name>`, kind 7.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Quarantine {
    /// Whole packs.
    #[cbor(n(0), default)]
    pub packs: Vec<ObjectHash>,
    /// Single frames: pack and frame number.
    #[cbor(n(1), default)]
    pub frames: Vec<(ObjectHash, u32)>,
    /// Why, for people.
    #[cbor(n(2), default)]
    pub reason: String,
}

/// The folded state at a number; object `checkpoints/<name>`, kind 8. Reserved: written by later versions, read by this one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Checkpoint {
    /// The last entry that is folded in.
    #[n(0)]
    pub seq: u64,
    /// Hash of that entry's bytes.
    #[n(1)]
    pub hash: ObjectHash,
    /// Live records and the session-start numbers that they were committed at.
    #[cbor(n(2), default)]
    pub live: Vec<(ObjectHash, u64)>,
    /// Index runs.
    #[cbor(n(3), default)]
    pub runs: Vec<ObjectHash>,
    /// Condemned names, by kind: packs, runs, records, lists.
    #[cbor(n(4), default)]
    pub condemned: GcList,
    /// Open sessions and the records live at their start.
    #[cbor(n(5), default)]
    pub sessions: Vec<(u64, Vec<ObjectHash>)>,
    /// Records ever forgotten.
    #[cbor(n(6), default)]
    pub forgotten: Vec<ObjectHash>,
    /// Quarantine objects in force.
    #[cbor(n(7), default)]
    pub quarantines: Vec<ObjectHash>,
    /// gc lists that entries name.
    #[cbor(n(8), default)]
    pub lists: Vec<ObjectHash>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_come_back() {
        let hash = ObjectHash([1; 32]);
        for action in [
            Action::Session,
            Action::Expire { session: 3 },
            Action::Snapshot {
                record: hash,
                runs: vec![hash],
                session: 1,
            },
            Action::Forget {
                records: vec![hash],
            },
            Action::Gc { list: hash },
            Action::Key {
                added: vec![hash],
                removed: vec![],
            },
            Action::Quarantine {
                object: hash,
                lifted: true,
            },
            Action::Checkpoint { object: hash },
        ] {
            let entry = LogEntry {
                seq: 1,
                previous: ObjectHash::default(),
                nonce: Nonce([2; 16]),
                checkpoint: 0,
                action,
                written_at: 5,
                written_by: "host".into(),
            };
            let bytes = minicbor::to_vec(&entry).unwrap();
            assert_eq!(minicbor::decode::<LogEntry>(&bytes).unwrap(), entry);
        }
    }

    #[test]
    fn an_unknown_kind_is_an_error() {
        let mut e = minicbor::Encoder::new(Vec::new());
        e.array(2).unwrap().u32(99).unwrap().array(0).unwrap();
        assert!(minicbor::decode::<Action>(&e.into_writer()).is_err());
    }
}
