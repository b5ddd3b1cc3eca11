//! The ledger: what was verified or restored as an exercise, when, how deep, with what result.
//!
//! Layout: sealed objects `ledger/<hash>`, kind 6, sealed with the writer's secret; the plaintext is the CBOR map [`LedgerEntry`].
//!
//! No log entry names them and nothing rests on them: an entry that is lost is an exercise that nobody remembers. They are found by listing.

use minicbor::{Decode, Encode};

use super::id::ObjectHash;
use super::node::Timestamp;

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum LedgerKind {
    /// `verify`.
    #[n(0)]
    #[default]
    Verify,
    /// `drill`.
    #[n(1)]
    Drill,
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(index_only)]
pub enum LedgerDepth {
    /// Everything but the bytes of packs.
    #[n(0)]
    #[default]
    Structure,
    /// Every byte.
    #[n(1)]
    Data,
    /// Every content against its digest.
    #[n(2)]
    EndToEnd,
    /// Restored, and compared with the archive.
    #[n(3)]
    Restored,
}

impl LedgerDepth {
    /// The word that people and `--json` see.
    pub fn word(self) -> &'static str {
        match self {
            Self::Structure => "structure",
            Self::Data => "data",
            Self::EndToEnd => "end-to-end",
            Self::Restored => "restored",
        }
    }
}

/// One verification or exercise, ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LedgerEntry {
    /// What was done.
    #[n(0)]
    pub kind: LedgerKind,
    /// How deep.
    #[n(1)]
    pub depth: LedgerDepth,
    /// The one snapshot that was looked at; absent: all that were live.
    #[n(2)]
    pub snapshot: Option<ObjectHash>,
    /// The site of that snapshot.
    #[cbor(n(3), default)]
    pub site: String,
    /// When it began.
    #[cbor(n(4), default)]
    pub started: Timestamp,
    /// When it ended.
    #[cbor(n(5), default)]
    pub finished: Timestamp,
    /// Number of the last log entry that it knew.
    #[cbor(n(6), default)]
    pub log_position: u64,
    /// Damaged objects; with a drill whatever did not come back as it was.
    #[cbor(n(7), default)]
    pub damaged: u64,
    /// Files and tables that can't be restored.
    #[cbor(n(8), default)]
    pub affected: u64,
    /// Snapshots looked at.
    #[cbor(n(9), default)]
    pub snapshots: u64,
    /// Packs looked at.
    #[cbor(n(10), default)]
    pub packs: u64,
    /// Chunks looked at.
    #[cbor(n(11), default)]
    pub chunks: u64,
    /// Files looked at, or restored.
    #[cbor(n(12), default)]
    pub files: u64,
    /// Tables restored.
    #[cbor(n(13), default)]
    pub tables: u64,
    /// Rows counted.
    #[cbor(n(14), default)]
    pub rows: u64,
    /// Bytes read from packs, or restored.
    #[cbor(n(15), default)]
    pub bytes: u64,
    /// Of a hundred files, so many were looked at; 0 and 100 mean all of them.
    #[cbor(n(16), default)]
    pub sample_percent: u32,
    /// Host that did it.
    #[cbor(n(17), default)]
    pub host: String,
    /// `holdfast 1.2.3`.
    #[cbor(n(18), default)]
    pub program: String,
    /// What was found, in words; a few lines.
    #[cbor(n(19), default)]
    pub notes: Vec<String>,
}

impl LedgerEntry {
    /// Whether nothing bad was found.
    pub fn is_good(&self) -> bool {
        self.damaged == 0 && self.affected == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_back_and_unknown_fields_are_skipped() {
        let entry = LedgerEntry {
            depth: LedgerDepth::EndToEnd,
            snapshot: Some(ObjectHash([7; 32])),
            notes: vec!["one".into()],
            ..LedgerEntry::default()
        };
        let bytes = minicbor::to_vec(&entry).unwrap();
        assert_eq!(minicbor::decode::<LedgerEntry>(&bytes).unwrap(), entry);
        let mut e = minicbor::Encoder::new(Vec::new());
        e.map(3).unwrap().u32(999).unwrap().str("later").unwrap();
        e.u32(0).unwrap().u32(1).unwrap();
        e.u32(1).unwrap().u32(3).unwrap();
        let read: LedgerEntry = minicbor::decode(&e.into_writer()).unwrap();
        assert_eq!(read.kind, LedgerKind::Drill);
        assert!(read.is_good());
    }
}
