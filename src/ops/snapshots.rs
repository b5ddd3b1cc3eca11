//! Which snapshots there are, and which one a person means.

use std::sync::Arc;

use crate::backend::{ObjectKind, ObjectName};
use crate::error::{Error, Result};
use crate::format::id::ObjectHash;
use crate::format::node::{Content, Node};
use crate::format::snapshot::Record;
use crate::pipeline::frames::FrameCodec;
use crate::store::chunk_index;
use crate::store::reader::{ChunkReader, Decode};
use crate::store::state::State;
use crate::store::{Repository, StoreError, tree};

/// The tag of snapshots that were taken of a target before a restore. `latest` and dates pass over them: what was replaced is not what anybody wants
/// next, unless it is asked for by name.
pub const TAG_SAFETY: (&str, &str) = ("holdfast", "before-restore");

/// A live snapshot.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Name of its record: its id.
    pub id: ObjectHash,
    /// Number of the log entry that committed it.
    pub seq: u64,
    /// The record.
    pub record: Record,
}

impl Snapshot {
    /// Whether it was taken of a target before a restore.
    pub fn is_safety_backup(&self) -> bool {
        let tags = &mut self.record.tags.iter();
        tags.any(|(key, value)| (key.as_str(), value.as_str()) == TAG_SAFETY)
    }
}

/// The live snapshots in the order of their commits; records that can't be read are given to `damaged`.
pub fn list(
    repository: &Repository,
    state: &State,
    damaged: &mut dyn FnMut(StoreError),
) -> Result<Vec<Snapshot>> {
    let mut snapshots = Vec::with_capacity(state.live().len());
    for (id, seq) in state.live().iter() {
        match repository.load_record(id) {
            Ok(record) => snapshots.push(Snapshot {
                id: *id,
                seq: *seq,
                record,
            }),
            Err(e) if e.is_damage() => damaged(e),
            Err(StoreError::Backend(e)) if e.kind == crate::backend::BackendErrorKind::NotFound => {
                damaged(StoreError::damaged(
                    &e.subject,
                    "it is gone, although the log names it",
                ));
            }
            Err(e) => return Err(e.into()),
        }
    }
    snapshots.sort_by_key(|snapshot| snapshot.seq);
    Ok(snapshots)
}

/// Refuses a name for a snapshot that would mean something else where a snapshot is named; the error is complete in words.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_id = name.len() >= 4 && name.bytes().all(|b| b.is_ascii_hexdigit());
    let why = if name.trim() != name || name.is_empty() {
        "it is empty, or begins or ends with a space"
    } else if name.starts_with("latest") {
        "what begins with \"latest\" means the newest snapshots"
    } else if is_id {
        "it could be the beginning of an id; names of hexadecimal digits alone have at most three"
    } else if name.parse::<jiff::civil::Date>().is_ok() {
        "a date means the newest snapshot up to that day"
    } else if name.contains(':') || name.starts_with('-') || name.chars().any(char::is_control) {
        "it must not begin with - nor hold : or control characters"
    } else {
        return Ok(());
    };
    Err(format!("{name:?} can't be the name of a snapshot: {why}"))
}

/// Finds what `spec` means: an id prefix of at least four digits, a name, `latest`, `latest~2`, or a date (the newest snapshot that began
/// on or before that day, UTC).
pub fn resolve(snapshots: &[Snapshot], spec: &str) -> Result<Snapshot> {
    let none = || {
        Error::Message(format!(
            "there is no snapshot {spec:?}; `holdfast snapshots` lists them"
        ))
    };
    if let Some(back) = spec.strip_prefix("latest") {
        let back = match back.strip_prefix('~') {
            Some(number) => number.parse::<usize>().map_err(|_e| none())?,
            None if back.is_empty() => 0,
            None => return Err(none()),
        };
        let mut regular = snapshots
            .iter()
            .rev()
            .filter(|snapshot| !snapshot.is_safety_backup());
        return regular.nth(back).cloned().ok_or_else(none);
    }
    if let Some(named) = snapshots
        .iter()
        .rev()
        .find(|snapshot| snapshot.record.name.as_deref() == Some(spec))
    {
        return Ok(named.clone());
    }
    if spec.len() >= 4 && spec.len() <= 64 && spec.bytes().all(|b| b.is_ascii_hexdigit()) {
        let spec = spec.to_ascii_lowercase();
        let mut matching = snapshots
            .iter()
            .filter(|snapshot| snapshot.id.to_string().starts_with(&spec));
        match (matching.next(), matching.next()) {
            (Some(one), None) => return Ok(one.clone()),
            (Some(_), Some(_)) => {
                return Err(Error::Message(format!(
                    "{spec:?} begins the ids of several snapshots"
                )));
            }
            (None, _) => {}
        }
    }
    if let Ok(day) = spec.parse::<jiff::civil::Date>() {
        let end = day
            .tomorrow()
            .ok()
            .and_then(|d| d.to_zoned(jiff::tz::TimeZone::UTC).ok());
        let end = end.map_or(i64::MAX, |end| end.timestamp().as_second());
        let on_or_before = snapshots
            .iter()
            .rev()
            .find(|snapshot| !snapshot.is_safety_backup() && snapshot.record.started.seconds < end);
        return on_or_before.cloned().ok_or_else(none);
    }
    Err(none())
}

/// Finds what `spec` means among the live snapshots, of which `snapshots` are those whose records can be read. If it means one of the
/// others, or may, that is the error: nobody is given an older snapshot than the one that was asked for.
pub fn resolve_live(state: &State, snapshots: &[Snapshot], spec: &str) -> Result<Snapshot> {
    let mut live: Vec<(u64, ObjectHash)> =
        state.live().iter().map(|(id, seq)| (*seq, *id)).collect();
    live.sort_unstable();
    let is_read = |id: &ObjectHash| snapshots.iter().any(|snapshot| snapshot.id == *id);
    let unread = |id: &ObjectHash, what: String| {
        let name = ObjectName::hashed(ObjectKind::Snapshot, id.0);
        Err(Error::Store(StoreError::damaged(name, what)))
    };
    let Some((_, newest_unread)) = live.iter().rev().find(|(_, id)| !is_read(id)) else {
        return resolve(snapshots, spec);
    };
    if let Some(back) = spec.strip_prefix("latest") {
        let back = match back.strip_prefix('~') {
            Some(number) => number.parse::<usize>().ok(),
            None => back.is_empty().then_some(0),
        };
        let is_safety = |id: &ObjectHash| {
            let known = snapshots.iter().find(|snapshot| snapshot.id == *id);
            known.is_some_and(Snapshot::is_safety_backup)
        };
        live.retain(|(_, id)| !is_safety(id));
        let meant = back.and_then(|back| live.iter().rev().nth(back));
        return match meant {
            Some((_, id)) if !is_read(id) => {
                unread(id, format!("it is {spec:?} and can't be read"))
            }
            Some((_, id)) => resolve(snapshots, &id.to_string()),
            None => resolve(snapshots, spec),
        };
    }
    resolve(snapshots, spec).or_else(|_not_found| {
        let prefix = spec.to_ascii_lowercase();
        let named = live
            .iter()
            .find(|(_, id)| !is_read(id) && id.to_string().starts_with(&prefix));
        let id = named.map_or(newest_unread, |(_, id)| id);
        unread(
            id,
            format!("it can't be read, and may be the snapshot {spec:?}"),
        )
    })
}

struct FrameDecoder(FrameCodec);

impl Decode for FrameDecoder {
    fn decode(
        &mut self,
        encoding: crate::format::pack::Encoding,
        data: &[u8],
        raw_len: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        self.0
            .decompress(encoding, data, raw_len, out)
            .map_err(|e| e.to_string())
    }

    fn decode_on_base(
        &mut self,
        base: &[u8],
        data: &[u8],
        raw_len: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        self.0
            .decompress_on_base(base, data, raw_len, out)
            .map_err(|e| e.to_string())
    }
}

/// Makes the decoder that [`ChunkReader`] needs.
pub fn frame_decoder() -> Result<Box<dyn Decode>, String> {
    let codec = FrameCodec::new(FrameCodec::LEVEL_DEFAULT).map_err(|e| e.to_string())?;
    Ok(Box::new(FrameDecoder(codec)))
}

/// Loads the index of `state` and opens a reader; `snapshot` is what will be read, if it is one.
///
/// Damaged index runs are given to `damaged`; what only they name is missing then.
pub fn open_reader(
    repository: &Arc<Repository>,
    state: &Arc<State>,
    snapshot: Option<ObjectHash>,
    damaged: &mut dyn FnMut(StoreError),
) -> Result<Arc<ChunkReader>> {
    let index = chunk_index::cache::open(repository, state, damaged)?;
    let reader = ChunkReader::new(
        repository.clone(),
        state.clone(),
        Arc::new(index),
        snapshot,
        frame_decoder,
    )?;
    Ok(Arc::new(reader))
}

/// Splits `SNAP:PATH`; the path is empty for the root.
pub fn split_spec(spec: &str) -> (&str, &str) {
    spec.split_once(':').unwrap_or((spec, ""))
}

/// Finds the node at `path` (`/` between names) of a snapshot; the root for an empty path.
pub fn node_at(reader: &Arc<ChunkReader>, root: &Content, path: &[u8]) -> Result<Node> {
    let names = path.split(|b| *b == b'/').filter(|name| !name.is_empty());
    let found = tree::find(reader, root, names)?;
    found.ok_or_else(|| {
        Error::Message(format!(
            "{} is not in the snapshot",
            String::from_utf8_lossy(path)
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::node::Timestamp;

    fn snapshots() -> Vec<Snapshot> {
        let days = [1_700_000_000, 1_700_086_400, 1_700_172_800];
        let all = (0u8..).zip(&days).map(|(i, seconds)| Snapshot {
            id: ObjectHash([0x11 * (i + 1); 32]),
            seq: u64::from(i),
            record: Record {
                name: (i == 1).then(|| "before-upgrade".into()),
                started: Timestamp {
                    seconds: *seconds,
                    nanos: 0,
                },
                ..Record::default()
            },
        });
        all.collect()
    }

    #[test]
    fn names_mean_nothing_else() {
        for name in [
            "before-upgrade",
            "abc",
            "2026",
            "Nightly 7",
            "v1.2",
            "deadbeat",
        ] {
            assert_eq!(check_name(name).is_ok(), name != "2026", "{name}");
        }
        for name in [
            "",
            " x",
            "latest",
            "latest~2",
            "latest-good",
            "beef",
            "2026-11-20",
            "a:b",
            "-x",
            "a\nb",
        ] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn safety_backups_are_not_the_latest() {
        let mut all = snapshots();
        all[2].record.tags = vec![(TAG_SAFETY.0.into(), TAG_SAFETY.1.into())];
        all[2].record.name = Some("before-restore-x".into());
        let seq = |spec: &str| resolve(&all, spec).map(|snapshot| snapshot.seq).ok();
        assert_eq!(seq("latest"), Some(1));
        assert_eq!(seq("latest~1"), Some(0));
        assert_eq!(seq("2030-01-01"), Some(1));
        assert_eq!(seq("before-restore-x"), Some(2));
        assert_eq!(seq("3333"), Some(2));
    }

    #[test]
    fn people_name_snapshots_in_many_ways() {
        let all = snapshots();
        let seq = |spec: &str| resolve(&all, spec).map(|snapshot| snapshot.seq).ok();
        for (spec, expected) in [
            ("latest", Some(2)),
            ("latest~1", Some(1)),
            ("latest~3", None),
            ("latest~x", None),
            ("before-upgrade", Some(1)),
            ("1111", Some(0)),
            ("11", None),
            ("2023-11-15", Some(1)),
            ("2023-11-14", Some(0)),
            ("2023-11-13", None),
            ("2030-01-01", Some(2)),
            ("nothing", None),
        ] {
            assert_eq!(seq(spec), expected, "{spec}");
        }
        assert_eq!(split_spec("latest:shares/a:b"), ("latest", "shares/a:b"));
    }
}
