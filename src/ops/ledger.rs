//! Writes and reads the ledger: what was verified or restored as an exercise.

use crate::backend::ObjectKind;
use crate::error::Result;
use crate::format::id::ObjectHash;
use crate::format::ledger::LedgerEntry;
use crate::store::{Repository, StoreError};

/// How many entries are read, the newest by the time of their objects: years of nightly ones.
const READ_MAX: usize = 2000;

/// Notes an exercise; returns why it could not be noted, which harms nothing else: the repository may be read-only.
pub fn write(repository: &Repository, entry: &LedgerEntry) -> Option<StoreError> {
    let written = repository.put_ledger(entry);
    written.err()
}

/// The entries that can be read, the oldest first; the others are given to `damaged`.
pub fn read(
    repository: &Repository,
    damaged: &mut dyn FnMut(StoreError),
) -> Result<Vec<LedgerEntry>> {
    let mut names = Vec::new();
    let listed = repository.backend().list(ObjectKind::Ledger, &mut |info| {
        names.push((info.modified, info.name));
    });
    listed.map_err(StoreError::from)?;
    names.sort_by_key(|(modified, _)| std::cmp::Reverse(*modified));
    names.truncate(READ_MAX);
    let mut entries = Vec::with_capacity(names.len());
    for (_, name) in names {
        let Some(hash) = name.hash() else { continue };
        match repository.load_ledger(&ObjectHash(hash)) {
            Ok(entry) => entries.push(entry),
            Err(error) => damaged(error),
        }
    }
    entries.sort_by_key(|entry| (entry.finished.seconds, entry.finished.nanos));
    Ok(entries)
}
