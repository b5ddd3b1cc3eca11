//! Reading the commit log: forward from what is known to its end.
//!
//! The end is the first number that is absent. Nothing is taken from a listing; one listing beside it only shows whether an entry was lost.
//!
//! Invariants:
//! 1. An entry counts only if it opens, decodes and follows the one before it (`damaged_entries_are_named`).
//! 2. A number that is absent although a later one exists is damage, never the end (`a_hole_is_damage`).
//! 3. A log that lacks the entry that this host remembers is refused (`a_rollback_is_noticed`).
//!
//! Failure: reading changes nothing. On damage the state that was known before stays.

use std::sync::Arc;

use super::remember::Position;
use super::state::State;
use super::{Repository, StoreError, decode, lock, seal_error};
use crate::backend::{BackendErrorKind, ByteRange, ObjectKind, ObjectName};
use crate::format::header::SealedKind;
use crate::format::id::ObjectHash;
use crate::format::log::LogEntry;

/// An entry as it is stored.
#[derive(Clone, Debug)]
pub struct StoredEntry {
    /// What it says.
    pub entry: LogEntry,
    /// Hash of its bytes.
    pub hash: ObjectHash,
}

/// What an absent object means, found out by reading the log after it was found absent.
#[derive(Clone, Debug)]
pub enum Absent {
    /// The snapshot was forgotten meanwhile, by this entry.
    Forgotten(u64),
    /// The log went on: look everything up again in this state.
    Moved(Arc<State>),
    /// The log did not move: the object is lost.
    Damage,
}

impl Repository {
    /// STATE(n) at the end of the log, n at least what was read before.
    pub fn read_state(&self) -> Result<Arc<State>, StoreError> {
        let mut state = self.known_state();
        loop {
            self.fold_forward(&mut state)?;
            if self.is_at_end(&state)? && self.has_quarantines(&mut state)? {
                break;
            }
        }
        self.check_remembered(&state)?;
        self.keep_state(&state);
        self.remember(&state);
        Ok(state)
    }

    /// The newest state that was read; reads nothing.
    pub fn known_state(&self) -> Arc<State> {
        Arc::clone(&lock(&self.known))
    }

    /// Reads one entry; `None` where the number is not taken.
    pub fn read_entry(&self, seq: u64) -> Result<Option<StoredEntry>, StoreError> {
        let name = ObjectName::log(seq);
        let bytes = match self.backend.get(&name, ByteRange::All) {
            Ok(bytes) => bytes,
            Err(error) if error.kind == BackendErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let opened = self.keyring.open_object(SealedKind::Log, &bytes);
        let (_, plaintext) = opened.map_err(|error| seal_error(&name, error))?;
        let entry = decode(name, &plaintext)?;
        Ok(Some(StoredEntry {
            entry,
            hash: ObjectHash::of(&bytes),
        }))
    }

    /// Number of the last entry, by doubling and bisection from an entry that is known to exist (or 0). Never too large; an answer that
    /// is too small is harmless.
    pub fn find_end(&self, known: u64) -> Result<u64, StoreError> {
        let exists = |seq: u64| self.backend.exists(&ObjectName::log(seq));
        let (mut low, mut step) = (known, 1u64);
        while exists(low.saturating_add(step))? {
            low = low.saturating_add(step);
            step = step.saturating_mul(2);
        }
        let mut high = low.saturating_add(step);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if exists(middle)? {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// Finds out what it means that `object` is absent, which was looked for because of `seen`: reads the log after it.
    pub fn explain_absent(
        &self,
        seen: &State,
        object: &ObjectName,
        snapshot: Option<&ObjectHash>,
    ) -> Result<Absent, StoreError> {
        let now = self.read_state()?;
        if let Some(entry) = snapshot.and_then(|record| now.forgotten_by(record)) {
            return Ok(Absent::Forgotten(entry));
        }
        let moved = now.seq() > seen.seq();
        tracing::debug!(%object, moved, "an object is absent");
        Ok(if moved {
            Absent::Moved(now)
        } else {
            Absent::Damage
        })
    }

    fn fold_forward(&self, state: &mut Arc<State>) -> Result<(), StoreError> {
        let remembered = self.remembered_position();
        while let Some(stored) = self.read_entry(state.seq() + 1)? {
            let next = Arc::make_mut(state);
            next.fold(&stored.entry, stored.hash, self)?;
            if let Some(position) =
                remembered.filter(|p| p.seq == next.seq() && p.hash != next.hash())
            {
                let what = format!(
                    "log entry {} is not the one that this host saw before",
                    position.seq
                );
                return Err(StoreError::Rollback { what });
            }
        }
        Ok(())
    }

    /// False if the next entry has come meanwhile. Entries beyond a number that is absent, and stays so after they were seen, are damage.
    fn is_at_end(&self, state: &State) -> Result<bool, StoreError> {
        let next = state.seq() + 1;
        let mut later = None;
        self.backend
            .list_log_after(state.seq(), &mut |info| later = later.max(info.name.seq()))?;
        let Some(later) = later else { return Ok(true) };
        if self.backend.exists(&ObjectName::log(next))? {
            return Ok(false);
        }
        Err(StoreError::LogGap {
            missing: next,
            later,
        })
    }

    /// Loads quarantines in force. One that is gone was lifted meanwhile (then the log goes on: false), or it is damage.
    fn has_quarantines(&self, state: &mut Arc<State>) -> Result<bool, StoreError> {
        let Some(name) = state.missing_quarantine() else {
            return Ok(true);
        };
        if Arc::make_mut(state).load_quarantines(self)? {
            return Ok(true);
        }
        if self.backend.exists(&ObjectName::log(state.seq() + 1))? {
            return Ok(false);
        }
        let object = ObjectName::hashed(ObjectKind::Quarantine, name.0);
        Err(StoreError::damaged(
            object,
            "it is gone, although a log entry names it",
        ))
    }

    /// Keeps `state` if it is newer than what is known.
    pub(super) fn keep_state(&self, state: &Arc<State>) {
        let mut known = lock(&self.known);
        if state.seq() > known.seq() {
            *known = Arc::clone(state);
        }
    }

    fn remembered_position(&self) -> Option<Position> {
        self.remembered.as_ref()?.position(self.format.id)
    }

    fn check_remembered(&self, state: &State) -> Result<(), StoreError> {
        match self
            .remembered_position()
            .filter(|position| position.seq > state.seq())
        {
            Some(position) => {
                let (end, seen) = (state.seq(), position.seq);
                let what =
                    format!("its log ends at entry {end}, and this host has seen entry {seen}");
                Err(StoreError::Rollback { what })
            }
            None => Ok(()),
        }
    }

    /// Remembers the end of the log, once it is durable: an entry that a loss of power takes back must not look like a rollback.
    pub(super) fn remember(&self, state: &State) {
        let Some(remembered) = &self.remembered else {
            return;
        };
        let position = Position {
            seq: state.seq(),
            hash: state.hash(),
        };
        if position.seq == 0
            || self
                .remembered_position()
                .is_some_and(|known| known.seq >= position.seq)
        {
            return;
        }
        if let Err(error) = self.backend.sync_names(&[ObjectKind::Log]) {
            tracing::debug!(%error, "the end of the log is not remembered");
            return;
        }
        if let Err(error) = remembered.remember(self.format.id, position) {
            let folder = remembered.folder().display();
            tracing::warn!(%error, "cannot remember the end of the log in {folder}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Memory;
    use crate::store::testing;
    use crate::store::{Remembered, Violation};

    /// A repository whose log has `len` entries.
    fn with_entries(len: u64) -> (Memory, Repository) {
        let memory = Memory::new();
        let repository = testing::create(Arc::new(memory.clone()), 1).unwrap();
        for _ in 0..len {
            repository
                .append_or_refuse(&mut |state| Ok(state.validate_session()))
                .unwrap();
        }
        (memory, repository)
    }

    #[test]
    fn the_end_is_found_at_any_length() {
        let (memory, repository) = with_entries(0);
        for len in 0..=70 {
            for known in [0, len / 3, len / 2, len] {
                assert_eq!(repository.find_end(known).unwrap(), len, "from {known}");
            }
            memory.replace(&ObjectName::log(len + 1), vec![0]);
        }
    }

    #[test]
    fn reading_forward_gives_the_same_state_from_anywhere() {
        let (memory, repository) = with_entries(5);
        let fresh = testing::open(Arc::new(memory), 2);
        let (here, there) = (repository.known_state(), fresh.read_state().unwrap());
        assert_eq!((here.seq(), here.hash()), (there.seq(), there.hash()));
        assert_eq!(there.sessions().collect::<Vec<_>>(), vec![1, 2, 3, 4, 5]);
        let folded = Arc::clone(&there);
        assert!(
            Arc::ptr_eq(&folded, &fresh.read_state().unwrap()),
            "nothing new is folded again"
        );
    }

    #[test]
    fn damaged_entries_are_named() {
        let (memory, _) = with_entries(4);
        let contents = memory.contents();
        let bytes = |seq| contents[&ObjectName::log(seq)].to_vec();
        let check = |seq: u64, bad: Vec<u8>| {
            let memory = Memory::with_contents(contents.clone());
            memory.replace(&ObjectName::log(seq), bad);
            let repository = testing::open(Arc::new(memory), 2);
            let error = repository.read_state().unwrap_err();
            assert!(error.is_damage(), "{error}");
            let next = ObjectName::log(seq + 1).to_string();
            let named = error
                .to_string()
                .contains(&ObjectName::log(seq).to_string())
                || error.to_string().contains(&next);
            assert!(named, "{error}");
            assert_eq!(repository.known_state().seq(), 0, "what was known stays");
        };
        for seq in 1..=4 {
            check(seq, vec![]);
            check(seq, b"something else".to_vec());
            check(seq, bytes(seq % 4 + 1));
            let good = bytes(seq);
            for position in (0..good.len()).step_by(7) {
                let mut flipped = good.clone();
                flipped[position] ^= 0x40;
                // Another version number says that a newer program wrote it; that stops us too, with another exit code.
                if position != 9 {
                    check(seq, flipped);
                }
                check(seq, good[..position].to_vec());
            }
        }
    }

    #[test]
    fn an_entry_of_another_log_breaks_the_chain() {
        let (memory, _) = with_entries(3);
        let (other, _) = {
            let other = Memory::with_contents(memory.contents());
            other.remove(&ObjectName::log(3));
            other.remove(&ObjectName::log(2));
            let repository = testing::open(Arc::new(other.clone()), 9);
            for _ in 0..2 {
                repository
                    .append_or_refuse(&mut |state| Ok(state.validate_session()))
                    .unwrap();
            }
            (other, repository)
        };
        memory.replace(
            &ObjectName::log(2),
            other.contents()[&ObjectName::log(2)].clone(),
        );
        let error = testing::open(Arc::new(memory), 2).read_state().unwrap_err();
        let StoreError::BrokenLog(broken) = error else {
            panic!("{error}")
        };
        assert_eq!((broken.seq, broken.why), (3, Violation::Chain));
    }

    #[test]
    fn a_hole_is_damage() {
        for hole in 1..5 {
            let (memory, _) = with_entries(5);
            memory.remove(&ObjectName::log(hole));
            let repository = testing::open(Arc::new(memory.clone()), 2);
            let error = repository.read_state().unwrap_err();
            assert!(
                matches!(error, StoreError::LogGap { missing, later: 5 } if missing == hole),
                "{error}"
            );
            let append = repository.append_or_refuse(&mut |state| Ok(state.validate_session()));
            assert!(
                append.is_err() && !memory.contents().contains_key(&ObjectName::log(hole)),
                "no one fills a hole"
            );
        }
    }

    #[test]
    fn a_rollback_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let remembering = |memory: &Memory| {
            let mut repository = testing::open(Arc::new(memory.clone()), 5);
            repository.remembered = Some(Remembered::in_folder(folder.path()));
            repository
        };
        let (memory, _) = with_entries(3);
        let before = memory.contents();
        let repository = remembering(&memory);
        repository
            .append_or_refuse(&mut |state| Ok(state.validate_session()))
            .unwrap();
        assert_eq!(remembering(&memory).read_state().unwrap().seq(), 4);

        let rolled_back = Memory::with_contents(before.clone());
        let error = remembering(&rolled_back).read_state().unwrap_err();
        assert!(matches!(error, StoreError::Rollback { .. }), "{error}");
        let other = testing::open(Arc::new(rolled_back.clone()), 6);
        for _ in 0..2 {
            other
                .append_or_refuse(&mut |state| Ok(state.validate_session()))
                .unwrap();
        }
        let error = remembering(&rolled_back).read_state().unwrap_err();
        assert!(
            matches!(error, StoreError::Rollback { .. }),
            "another history of the same length: {error}"
        );
    }

    #[test]
    fn an_absent_object_is_explained() {
        let memory = Memory::new();
        let repository = Arc::new(testing::create(Arc::new(memory), 1).unwrap());
        let session = repository.open_session().unwrap();
        let (pack, runs) = testing::store_chunks(&session, &[1]);
        let record = session.write_record(&Default::default(), &runs).unwrap();
        session
            .commit(&record, &runs, &Default::default(), &[])
            .unwrap();
        let seen = repository.read_state().unwrap();
        let name = ObjectName::hashed(ObjectKind::Pack, pack.0);
        let explain = |seen: &State| {
            repository
                .explain_absent(seen, &name, Some(&record.name()))
                .unwrap()
        };
        assert!(matches!(explain(&seen), Absent::Damage));
        repository.open_session().unwrap();
        assert!(matches!(explain(&seen), Absent::Moved(now) if now.seq() == seen.seq() + 1));
        repository.forget(&[record.name()]).unwrap();
        assert!(matches!(explain(&seen), Absent::Forgotten(4)));
    }
}
