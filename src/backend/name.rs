//! Names of objects: their kinds, and their paths below the root of a repository.
//!
//! It says nothing about what is inside an object.
//!
//! # Layout
//!
//! | kind | path |
//! |---|---|
//! | format | `format`, `format.copy` |
//! | key | `keys/<64 hex>`, `keys/<64 hex>.copy` |
//! | pack | `packs/<first byte, 2 hex>/<64 hex>` |
//! | log | `log/<number, 16 decimal digits>` |
//! | heartbeat | `heartbeats/<session, 16 decimal digits>-<count, 8 decimal digits>` |
//! | index, snapshot, gc, ledger, quarantine, checkpoint, map | `<folder>/<64 hex>` |
//!
//! Hexadecimal digits are small letters. A number that needs more digits than its width takes as many as it needs, so that
//! every `u64` has exactly one form.
//!
//! # Invariants
//!
//! 1. A name and its path determine each other (test `a_path_and_its_name_determine_each_other`).
//! 2. Any other text is refused, never a panic (tests `other_paths_are_refused`, `any_text_is_a_name_or_refused`).

use std::fmt;
use std::str::FromStr;

/// What an object is; each kind has a folder of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// Parameters of the repository, in plain.
    Format,
    /// Wrapped secrets.
    Key,
    /// Sealed frames and their directory.
    Pack,
    /// A run of the chunk index.
    Index,
    /// The record of one snapshot.
    Snapshot,
    /// An entry of the commit log.
    Log,
    /// What one prune condemns.
    Gc,
    /// What was verified.
    Ledger,
    /// What is known to be damaged.
    Quarantine,
    /// The folded state at a number of the log.
    Checkpoint,
    /// A sign of life of a session.
    Heartbeat,
    /// Chunk ids of another repository and ours.
    Map,
}

impl ObjectKind {
    /// Every kind, in the order of their declaration.
    pub const ALL: [Self; 12] = [
        Self::Format,
        Self::Key,
        Self::Pack,
        Self::Index,
        Self::Snapshot,
        Self::Log,
        Self::Gc,
        Self::Ledger,
        Self::Quarantine,
        Self::Checkpoint,
        Self::Heartbeat,
        Self::Map,
    ];

    /// Returns the folder of this kind; `None` for the format object, which lies at the root.
    #[must_use]
    pub const fn folder(self) -> Option<&'static str> {
        match self {
            Self::Format => None,
            Self::Key => Some("keys"),
            Self::Pack => Some("packs"),
            Self::Index => Some("index"),
            Self::Snapshot => Some("snapshots"),
            Self::Log => Some("log"),
            Self::Gc => Some("gc"),
            Self::Ledger => Some("ledger"),
            Self::Quarantine => Some("quarantine"),
            Self::Checkpoint => Some("checkpoints"),
            Self::Heartbeat => Some("heartbeats"),
            Self::Map => Some("maps"),
        }
    }

    /// Whether objects of this kind are named by the hash of their bytes.
    #[must_use]
    pub const fn is_hashed(self) -> bool {
        !matches!(self, Self::Format | Self::Log | Self::Heartbeat)
    }

    /// Returns the position of this kind in [`ObjectKind::ALL`].
    pub(crate) const fn position(self) -> usize {
        self as usize
    }

    fn of_folder(folder: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.folder() == Some(folder))
    }
}

/// Writes the folder, with a slash behind it; `format` for the format object.
impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.folder() {
            Some(folder) => write!(f, "{folder}/"),
            None => f.write_str("format"),
        }
    }
}

/// The name of an object; its `Display` is the path below the root.
///
/// Names of one kind are ordered as their paths are (log entries and heartbeats: by number).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    kind: ObjectKind,
    part: Part,
    /// The second, equal object of a format or key object.
    copy: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Part {
    None,
    Hash([u8; 32]),
    Seq(u64),
    Heartbeat { session: u64, count: u64 },
}

impl ObjectName {
    /// The name of the format object.
    #[must_use]
    pub const fn format() -> Self {
        Self {
            kind: ObjectKind::Format,
            part: Part::None,
            copy: false,
        }
    }

    /// The name of the copy of the format object.
    #[must_use]
    pub const fn format_copy() -> Self {
        Self {
            kind: ObjectKind::Format,
            part: Part::None,
            copy: true,
        }
    }

    /// The name of a key object.
    #[must_use]
    pub const fn key(hash: [u8; 32]) -> Self {
        Self {
            kind: ObjectKind::Key,
            part: Part::Hash(hash),
            copy: false,
        }
    }

    /// The name of the copy of a key object.
    #[must_use]
    pub const fn key_copy(hash: [u8; 32]) -> Self {
        Self {
            kind: ObjectKind::Key,
            part: Part::Hash(hash),
            copy: true,
        }
    }

    /// The name of an object that is named by the hash of its bytes.
    ///
    /// # Panics
    ///
    /// If objects of this kind are not named so ([`ObjectKind::is_hashed`]).
    #[must_use]
    pub const fn hashed(kind: ObjectKind, hash: [u8; 32]) -> Self {
        assert!(
            kind.is_hashed(),
            "objects of this kind are not named by a hash"
        );
        Self {
            kind,
            part: Part::Hash(hash),
            copy: false,
        }
    }

    /// The name of a log entry.
    #[must_use]
    pub const fn log(seq: u64) -> Self {
        Self {
            kind: ObjectKind::Log,
            part: Part::Seq(seq),
            copy: false,
        }
    }

    /// The name of a heartbeat: its session, and a number that the session counts up.
    #[must_use]
    pub const fn heartbeat(session: u64, count: u64) -> Self {
        Self {
            kind: ObjectKind::Heartbeat,
            part: Part::Heartbeat { session, count },
            copy: false,
        }
    }

    /// Returns what the object is.
    #[must_use]
    pub const fn kind(&self) -> ObjectKind {
        self.kind
    }

    /// Returns the hash that names the object, if one does.
    #[must_use]
    pub const fn hash(&self) -> Option<[u8; 32]> {
        match self.part {
            Part::Hash(hash) => Some(hash),
            _ => None,
        }
    }

    /// Returns the number of a log entry.
    #[must_use]
    pub const fn seq(&self) -> Option<u64> {
        match self.part {
            Part::Seq(seq) => Some(seq),
            _ => None,
        }
    }

    /// Returns session and count of a heartbeat.
    #[must_use]
    pub const fn session_and_count(&self) -> Option<(u64, u64)> {
        match self.part {
            Part::Heartbeat { session, count } => Some((session, count)),
            _ => None,
        }
    }

    /// Whether this is the copy of a format or key object.
    #[must_use]
    pub const fn is_copy(&self) -> bool {
        self.copy
    }

    /// Parses a path below the root; the inverse of `to_string`.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let name = Self::parse_loosely(path)?;
        // Capital letters, superfluous zeros and signs read the same and are other paths.
        (name.to_string() == path).then_some(name)
    }

    fn parse_loosely(path: &str) -> Option<Self> {
        let (stem, copy) = match path.strip_suffix(".copy") {
            Some(stem) => (stem, true),
            None => (path, false),
        };
        if stem == "format" {
            return Some(Self {
                kind: ObjectKind::Format,
                part: Part::None,
                copy,
            });
        }
        let (folder, file) = stem.split_once('/')?;
        let kind = ObjectKind::of_folder(folder)?;
        if copy && kind != ObjectKind::Key {
            return None;
        }
        let part = match kind {
            ObjectKind::Format => return None,
            ObjectKind::Log => Part::Seq(file.parse().ok()?),
            ObjectKind::Heartbeat => {
                let (session, count) = file.split_once('-')?;
                Part::Heartbeat {
                    session: session.parse().ok()?,
                    count: count.parse().ok()?,
                }
            }
            ObjectKind::Pack => parse_hash(file.split_once('/')?.1)?,
            _ => parse_hash(file)?,
        };
        Some(Self { kind, part, copy })
    }
}

fn parse_hash(hex: &str) -> Option<Part> {
    let hash = blake3::Hash::from_hex(hex).ok()?;
    Some(Part::Hash(*hash.as_bytes()))
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        match self.part {
            Part::None => {}
            Part::Hash(hash) => {
                if self.kind == ObjectKind::Pack {
                    write!(f, "{:02x}/", hash[0])?;
                }
                f.write_str(&blake3::Hash::from_bytes(hash).to_hex())?;
            }
            Part::Seq(seq) => write!(f, "{seq:016}")?,
            Part::Heartbeat { session, count } => write!(f, "{session:016}-{count:08}")?,
        }
        f.write_str(if self.copy { ".copy" } else { "" })
    }
}

/// The error of a text that is not the path of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the path of an object")]
pub struct NotAnObject;

impl FromStr for ObjectName {
    type Err = NotAnObject;

    fn from_str(path: &str) -> Result<Self, NotAnObject> {
        Self::parse(path).ok_or(NotAnObject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HASH: [u8; 32] = [0x3f; 32];

    fn hex() -> String {
        "3f".repeat(32)
    }

    #[test]
    fn a_path_and_its_name_determine_each_other() {
        let check = |name: ObjectName, path: String| {
            assert_eq!(name.to_string(), path);
            assert_eq!(ObjectName::parse(&path), Some(name), "{path}");
            assert_eq!(path.parse(), Ok(name));
        };
        check(ObjectName::format(), "format".into());
        check(ObjectName::format_copy(), "format.copy".into());
        check(ObjectName::key(HASH), format!("keys/{}", hex()));
        check(ObjectName::key_copy(HASH), format!("keys/{}.copy", hex()));
        check(
            ObjectName::hashed(ObjectKind::Pack, HASH),
            format!("packs/3f/{}", hex()),
        );
        for (kind, folder) in [
            (ObjectKind::Index, "index"),
            (ObjectKind::Snapshot, "snapshots"),
            (ObjectKind::Gc, "gc"),
            (ObjectKind::Ledger, "ledger"),
            (ObjectKind::Quarantine, "quarantine"),
            (ObjectKind::Checkpoint, "checkpoints"),
            (ObjectKind::Map, "maps"),
        ] {
            check(
                ObjectName::hashed(kind, HASH),
                format!("{folder}/{}", hex()),
            );
        }
        check(ObjectName::log(0), "log/0000000000000000".into());
        check(ObjectName::log(42), "log/0000000000000042".into());
        check(ObjectName::log(u64::MAX), "log/18446744073709551615".into());
        check(
            ObjectName::heartbeat(7, 3),
            "heartbeats/0000000000000007-00000003".into(),
        );
        check(
            ObjectName::heartbeat(u64::MAX, 123_456_789),
            "heartbeats/18446744073709551615-123456789".into(),
        );
    }

    #[test]
    fn other_paths_are_refused() {
        let capitals = "3F".repeat(32);
        let hex = hex();
        for path in [
            "",
            "/",
            "format/",
            "formats",
            "format.copy.copy",
            "Format",
            "format.copy/",
            "keys",
            "keys/",
            "log/",
            "log/1",
            "log/+000000000000042",
            "log/00000000000000042",
            "log/99999999999999999999",
            "log/0000000000000042.copy",
            "log/0000000000000042 ",
            "heartbeats/7-3",
            "heartbeats/0000000000000007-00000003-1",
            "../format",
            "tmp/x",
            "packs/3f",
            "packs/3f/",
            &format!("/keys/{hex}"),
            &format!("keys//{hex}"),
            &format!("keys/{capitals}"),
            &format!("keys/{hex}0"),
            &format!("keys/{}", &hex[1..]),
            &format!("keys/{hex}.copy.copy"),
            &format!("packs/{hex}"),
            &format!("packs/3e/{hex}"),
            &format!("packs/3f/{hex}.copy"),
            &format!("packs/3f/3f/{hex}"),
            &format!("index/3f/{hex}"),
            &format!("Index/{hex}"),
        ] {
            assert_eq!(ObjectName::parse(path), None, "{path}");
        }
    }

    #[test]
    fn log_entries_are_ordered_by_number() {
        assert!(ObjectName::log(9) < ObjectName::log(10));
        assert!(ObjectName::log(9).to_string() < ObjectName::log(10).to_string());
    }

    #[test]
    fn accessors_return_what_the_name_was_made_of() {
        assert_eq!(ObjectName::log(5).seq(), Some(5));
        assert_eq!(ObjectName::log(5).hash(), None);
        assert_eq!(ObjectName::key_copy(HASH).hash(), Some(HASH));
        assert!(ObjectName::key_copy(HASH).is_copy());
        assert_eq!(
            ObjectName::heartbeat(1, 2).session_and_count(),
            Some((1, 2))
        );
        for (position, kind) in ObjectKind::ALL.into_iter().enumerate() {
            assert_eq!(kind.position(), position);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_name_or_refused(
            folder in "(format|keys|packs|index|log|heartbeats|maps|tmp)?",
            rest in "[/0-9a-f.copy-]{0,70}",
        ) {
            let path = format!("{folder}{rest}");
            if let Some(name) = ObjectName::parse(&path) {
                prop_assert_eq!(name.to_string(), path);
            }
        }

        #[test]
        fn any_hash_comes_back(hash: [u8; 32]) {
            let name = ObjectName::hashed(ObjectKind::Pack, hash);
            prop_assert_eq!(ObjectName::parse(&name.to_string()), Some(name));
        }
    }
}
