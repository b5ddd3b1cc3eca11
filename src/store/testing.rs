//! Repositories for tests: in memory, repeatable, without waiting.

use std::sync::Arc;

use super::open::{CreateOptions, KeySecret};
use super::session::{PacksDurable, Session};
use super::{Ambient, Repository, StoreError};
use crate::backend::{Backend, ObjectKind, ObjectName};
use crate::crypto::{Keyring, NewKey, SeededRandom};
use crate::format::header::{SealedKind, Suite};
use crate::format::id::{ChunkId, ObjectHash, RepositoryId};
use crate::format::index::{IndexEntry, IndexRun, RunFrame, RunPack};
use crate::format::repository::RepositoryFormat;

/// Surroundings that repeat.
pub(crate) fn ambient(seed: u64) -> Ambient {
    Ambient {
        now: || 1_800_000_000,
        pause: |_| {},
        random: Box::new(SeededRandom::new(seed)),
        written_by: format!("test {seed}"),
        remembered: None,
        cache: None,
    }
}

/// Creates a repository without encryption.
pub(crate) fn create(backend: Arc<dyn Backend>, seed: u64) -> Result<Repository, StoreError> {
    let mut random = SeededRandom::new(seed + 1_000_000);
    let id = RepositoryId([7; 16]);
    let options = CreateOptions {
        format: RepositoryFormat::new(id, 0, Suite::None),
        keyring: Keyring::generate(id, Suite::None, None, &mut random),
        keys: vec![NewKey::plain("test", 0)],
    };
    Repository::create(backend, "memory", &options, ambient(seed))
}

/// Opens what [`create`] made.
pub(crate) fn open(backend: Arc<dyn Backend>, seed: u64) -> Repository {
    let mut unlock = |_: &super::KeyInfo| -> Option<KeySecret> { None };
    Repository::open(backend, "memory", &mut unlock, ambient(seed)).unwrap()
}

/// The id of a test's chunk.
pub(crate) fn chunk(number: u8) -> ChunkId {
    ChunkId([number; 32])
}

/// Stores a pack that is said to hold these chunks.
pub(crate) fn store_pack(
    session: &Session,
    chunks: &[u8],
) -> Result<(PacksDurable, RunPack), StoreError> {
    let repository = session.repository();
    let name = repository.put_object(SealedKind::Pack, session.number(), chunks)?;
    let len = repository
        .backend()
        .len(&ObjectName::hashed(ObjectKind::Pack, name.0))?;
    let frame = RunFrame {
        raw_len: 1 << 20,
        ..RunFrame::default()
    };
    Ok((
        PacksDurable::new([name]),
        RunPack {
            name,
            len,
            frames: vec![frame],
        },
    ))
}

/// A run of packs and the chunks that each holds.
pub(crate) fn run_of(packs: &[(RunPack, Vec<u8>)]) -> IndexRun {
    let mut run = IndexRun::default();
    for (position, (pack, chunks)) in packs.iter().enumerate() {
        run.packs.push(pack.clone());
        let pack = u32::try_from(position).unwrap();
        let entry = |number: &u8| IndexEntry {
            id: chunk(*number),
            pack,
            frame: 0,
            offset: 0,
            len: 1,
        };
        run.entries.extend(chunks.iter().map(entry));
    }
    run.entries.sort();
    run
}

/// Stores a pack and a run that names it.
pub(crate) fn store_chunks(session: &Session, chunks: &[u8]) -> (ObjectHash, super::RunsDurable) {
    let (durable, pack) = store_pack(session, chunks).unwrap();
    let name = pack.name;
    let runs = session
        .write_runs(&durable, &[run_of(&[(pack, chunks.to_vec())])])
        .unwrap();
    (name, runs)
}
