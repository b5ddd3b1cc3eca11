//! Reads chunks back: every one is authenticated, and its id recomputed, before it is handed out.
//!
//! Invariants:
//! 1. No byte leaves unchecked: the frame opens under its pack's key and number, and the chunk has its id (`a_flipped_byte_is_damage`).
//! 2. A missing object is damage only if the log, read after it, still names it; then the index at that end is used (`commit-log` rule 13).
//! 3. Where a chunk is stored twice, a damaged copy does not hide the good one.
//! 4. A prefix frame is read on its base, which has none itself; damage of the base is damage of it (`ops::backup`,
//!    `damage_of_a_base_is_damage_of_what_is_on_it`, `wrong_bases_are_refused`).
//!
//! Memory: the frames in the cache, [`CACHE_FRAMES`] of about 1 MiB; as many as [`CACHE_BASES`] bases; the keys of packs that were read.
//!
//! Threads: shared by any number; locks are held for a look-up, never while the backend works, but for a base's own, so that who needs it at
//! the same time waits for it instead of reading it, too.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;

use super::chunk_index::{ChunkIndex, Location, cache};
use super::error::Short;
use super::state::State;
use super::{Repository, StoreError, seal_error};
use crate::backend::{BackendErrorKind, ByteRange, ObjectKind, ObjectName};
use crate::crypto::{ChunkIdKey, ObjectKey};
use crate::format::header::SealedKind;
use crate::format::id::{ChunkId, ObjectHash};
use crate::format::index::{RunFrame, RunPack};
use crate::format::node::ChunkRef;
use crate::format::pack::{Base, Encoding};

/// Decoded frames that are kept.
pub const CACHE_FRAMES: usize = 24;

/// Plaintexts of bases that are kept. Frames on the same base stand close together, on as many as are being read at once.
pub const CACHE_BASES: usize = 8;

/// Decompresses frames; `pipeline::frames` implements it, so that this module needs no codec.
pub trait Decode: Send {
    /// Decodes a frame of exactly `raw_len` bytes into `out`.
    fn decode(
        &mut self,
        encoding: Encoding,
        data: &[u8],
        raw_len: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), String>;

    /// The same, of a prefix frame on a frame with this plaintext.
    fn decode_on_base(
        &mut self,
        base: &[u8],
        data: &[u8],
        raw_len: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), String>;
}

/// Makes decoders, one for each thread that reads.
pub type MakeDecode = fn() -> Result<Box<dyn Decode>, String>;

/// Reads chunks of a repository at one state of its log.
pub struct ChunkReader {
    repository: Arc<Repository>,
    id_key: ChunkIdKey,
    make_decode: MakeDecode,
    current: RwLock<(Arc<State>, Arc<ChunkIndex>)>,
    /// What is being read, for telling damage from a snapshot that was forgotten meanwhile.
    snapshot: Option<ObjectHash>,
    keys: Mutex<HashMap<ObjectHash, ObjectKey>>,
    cache: Mutex<Cache>,
    bases: Mutex<Cache<BaseSlot>>,
    spare: Mutex<Vec<Scratch>>,
}

/// A base that somebody reads, or has read.
type BaseSlot = Arc<Mutex<Option<Bytes>>>;

impl std::fmt::Debug for ChunkReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChunkReader")
            .field("snapshot", &self.snapshot)
            .finish_non_exhaustive()
    }
}

struct Cache<T = Bytes> {
    frames: HashMap<(ObjectHash, u32), T>,
    order: VecDeque<(ObjectHash, u32)>,
    max: usize,
}

/// Buffers of one reading thread.
pub struct Scratch {
    sealed: Vec<u8>,
    decode: Box<dyn Decode>,
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}

impl Scratch {
    /// Decodes what stands in the buffer, opened.
    fn decode_opened(
        &mut self,
        place: &RunFrame,
        body: Range<usize>,
        base: Option<&[u8]>,
        plain: &mut Vec<u8>,
    ) -> Result<(), String> {
        let (data, raw_len) = (&self.sealed[body], place.raw_len as usize);
        decode(
            &mut *self.decode,
            place.encoding,
            data,
            raw_len,
            base,
            plain,
        )
    }

    /// Decodes a frame, on its base if it has one.
    pub(super) fn decode(
        &mut self,
        encoding: Encoding,
        data: &[u8],
        raw_len: usize,
        base: Option<&[u8]>,
        plain: &mut Vec<u8>,
    ) -> Result<(), String> {
        decode(&mut *self.decode, encoding, data, raw_len, base, plain)
    }
}

fn decode(
    decode: &mut dyn Decode,
    encoding: Encoding,
    data: &[u8],
    raw_len: usize,
    base: Option<&[u8]>,
    plain: &mut Vec<u8>,
) -> Result<(), String> {
    match base {
        Some(base) => decode.decode_on_base(base, data, raw_len, plain),
        None => decode.decode(encoding, data, raw_len, plain),
    }
}

/// What is wrong with a base is wrong with the frame. An absent base is told as such: the log may have gone on.
fn of_base(name: &ObjectName, frame: u32, error: StoreError) -> StoreError {
    match error {
        StoreError::Damaged { .. } => StoreError::damaged(
            name,
            format!("the base of frame {frame} can't be read: {error}"),
        ),
        other => other,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ChunkReader {
    /// A reader over an index that was loaded at `state`.
    pub fn new(
        repository: Arc<Repository>,
        state: Arc<State>,
        index: Arc<ChunkIndex>,
        snapshot: Option<ObjectHash>,
        make_decode: MakeDecode,
    ) -> Result<Self, StoreError> {
        let id_key = repository.keyring().chunk_id_key();
        let id_key = id_key.map_err(|missing| StoreError::MissingSecret {
            what: missing.action.to_owned(),
        })?;
        Ok(Self {
            repository,
            id_key,
            make_decode,
            current: RwLock::new((state, index)),
            snapshot,
            keys: Mutex::default(),
            cache: Mutex::new(Cache::new(CACHE_FRAMES)),
            bases: Mutex::new(Cache::new(CACHE_BASES)),
            spare: Mutex::default(),
        })
    }

    /// The index in use.
    pub fn index(&self) -> Arc<ChunkIndex> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .clone()
    }

    /// The repository.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// Buffers for a thread that reads many frames.
    pub fn scratch(&self) -> Result<Scratch, StoreError> {
        if let Some(scratch) = lock(&self.spare).pop() {
            return Ok(scratch);
        }
        let decode = (self.make_decode)().map_err(StoreError::Refused)?;
        Ok(Scratch {
            sealed: Vec::new(),
            decode,
        })
    }

    /// Reads one chunk.
    pub fn chunk(&self, chunk: &ChunkRef) -> Result<Bytes, StoreError> {
        loop {
            let (state, index) = self
                .current
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            let heals = index.heals();
            let mut failure = None;
            for location in index.find_all(&chunk.id) {
                match self.chunk_at(&index, &location, chunk) {
                    Ok(bytes) => return Ok(bytes),
                    Err(e) => failure = Some(e),
                }
            }
            if let Some(cause) = index.failure() {
                return Err(cause);
            }
            if index.heals() > heals {
                continue;
            }
            let failure = failure.unwrap_or_else(|| missing(&chunk.id));
            self.go_on_after(failure, &state)?;
        }
    }

    fn chunk_at(
        &self,
        index: &ChunkIndex,
        location: &Location,
        chunk: &ChunkRef,
    ) -> Result<Bytes, StoreError> {
        let pack = &*index.pack(location.pack)?;
        let key = (pack.name, location.frame);
        let cached = lock(&self.cache).frames.get(&key).cloned();
        let frame = match cached {
            Some(frame) => frame,
            None => {
                let mut scratch = self.scratch()?;
                let mut plain = Vec::new();
                let read = self.read_frame(pack, location.frame, &mut scratch, &mut plain);
                lock(&self.spare).push(scratch);
                read?;
                let frame = Bytes::from(plain);
                lock(&self.cache).insert(key, frame.clone());
                frame
            }
        };
        let start = location.offset as usize;
        let bytes = frame.slice(start..start + location.len as usize);
        self.check_chunk(pack, chunk, &bytes)?;
        Ok(bytes)
    }

    /// Checks that `bytes` are the chunk.
    pub fn check_chunk(
        &self,
        pack: &RunPack,
        chunk: &ChunkRef,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        if bytes.len() != chunk.len as usize || self.id_key.id(bytes) != chunk.id {
            let object = ObjectName::hashed(ObjectKind::Pack, pack.name.0);
            return Err(StoreError::damaged(
                object,
                format!("chunk {} is not what its id says", chunk.id),
            ));
        }
        Ok(())
    }

    /// Reads, opens and decodes a frame. Its chunks still have to be checked.
    pub fn read_frame(
        &self,
        pack: &RunPack,
        frame: u32,
        scratch: &mut Scratch,
        plain: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let place = pack
            .frames
            .get(frame as usize)
            .ok_or_else(|| StoreError::damaged("index", "a frame number is out of range"))?;
        let name = ObjectName::hashed(ObjectKind::Pack, pack.name.0);
        let base = match &place.base {
            Some(base) => Some(
                self.base(base, scratch)
                    .map_err(|e| of_base(&name, frame, e))?,
            ),
            None => None,
        };
        let body = self.open_frame(pack, place, frame, scratch)?;
        let decoded = scratch.decode_opened(place, body, base.as_deref(), plain);
        decoded.map_err(|e| StoreError::damaged(name, format!("frame {frame}: {e}")))
    }

    /// Reads and opens a frame; what it returns is the place of its encoded bytes in the buffer.
    fn open_frame(
        &self,
        pack: &RunPack,
        place: &RunFrame,
        frame: u32,
        scratch: &mut Scratch,
    ) -> Result<Range<usize>, StoreError> {
        let name = ObjectName::hashed(ObjectKind::Pack, pack.name.0);
        let key = self.pack_key(&name, &pack.name)?;
        scratch.sealed.resize(place.sealed_len as usize, 0);
        self.repository
            .backend()
            .read_into(&name, u64::from(place.offset), &mut scratch.sealed)
            .map_err(|e| short(&name, e))?;
        let body = key
            .open_in_place(u64::from(frame), &mut scratch.sealed)
            .map_err(|e| seal_error(&name, e))?;
        Ok(0..body.len())
    }

    /// The plaintext of a frame that others are compressed on. It is authenticated; whether it is the right one is seen by the ids of their
    /// chunks. Also a pack that is left out of the index serves, as long as it is there.
    pub fn base(&self, base: &Base, scratch: &mut Scratch) -> Result<Bytes, StoreError> {
        let slot = {
            let mut bases = lock(&self.bases);
            match bases.frames.get(base) {
                Some(slot) => slot.clone(),
                None => {
                    let slot = BaseSlot::default();
                    bases.insert(*base, slot.clone());
                    slot
                }
            }
        };
        let mut slot = lock(&slot);
        if let Some(plain) = &*slot {
            return Ok(plain.clone());
        }
        let (pack, frame) = base;
        let name = ObjectName::hashed(ObjectKind::Pack, pack.0);
        let pack = self.index().pack_named(pack)?.ok_or_else(|| {
            StoreError::damaged(
                name,
                "the index does not name it, although frames of others need it",
            )
        })?;
        let place = pack.frames.get(*frame as usize).ok_or_else(|| {
            StoreError::damaged(name, format!("it has no frame {frame}, which others need"))
        })?;
        if place.base.is_some() {
            let what = format!("frame {frame}, on which others are, has a base itself");
            return Err(StoreError::damaged(name, what));
        }
        let body = self.open_frame(&pack, place, *frame, scratch)?;
        let mut plain = Vec::new();
        let decoded = scratch.decode_opened(place, body, None, &mut plain);
        decoded.map_err(|e| StoreError::damaged(name, format!("frame {frame}: {e}")))?;
        let plain = Bytes::from(plain);
        *slot = Some(plain.clone());
        Ok(plain)
    }

    fn pack_key(&self, name: &ObjectName, hash: &ObjectHash) -> Result<ObjectKey, StoreError> {
        if let Some(key) = lock(&self.keys).get(hash) {
            return Ok(key.clone());
        }
        let len = u64::try_from(SealedKind::Pack.header_len()).expect("a header is short");
        let header = self
            .repository
            .backend()
            .get(name, ByteRange::Exact { offset: 0, len })
            .map_err(|e| short(name, e))?;
        let opened = self
            .repository
            .keyring()
            .open_header(SealedKind::Pack, &header);
        let (_, key) = opened.map_err(|e| seal_error(name, e))?;
        lock(&self.keys).insert(*hash, key.clone());
        Ok(key)
    }

    /// After a failure at `state`: reads the log again. `Ok` if it went on, so that the caller tries again with the new index; else what
    /// the failure means.
    pub fn go_on_after(&self, failure: StoreError, state: &Arc<State>) -> Result<(), StoreError> {
        let absent = match &failure {
            StoreError::Backend(e) => e.kind == BackendErrorKind::NotFound,
            StoreError::Missing { .. } => true,
            _ => false,
        };
        if !absent {
            return Err(failure);
        }
        let now = self.repository.read_state()?;
        if let Some(snapshot) = self.snapshot
            && let Some(entry) = now.forgotten_by(&snapshot)
        {
            return Err(StoreError::Forgotten {
                record: Short(snapshot),
                entry,
            });
        }
        if now.seq() == state.seq() {
            return Err(match failure {
                StoreError::Backend(e) => {
                    StoreError::damaged(&e.subject, "it is gone, although the log names it")
                }
                other => other,
            });
        }
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.0.seq() < now.seq() {
            let index = cache::open(&self.repository, &now, &mut |e| tracing::warn!("{e}"))?;
            *current = (now, Arc::new(index));
        }
        Ok(())
    }
}

/// A chunk that no usable pack holds.
pub fn missing(id: &ChunkId) -> StoreError {
    StoreError::Missing { chunk: *id }
}

/// An object that is shorter than the index says is damaged.
fn short(name: &ObjectName, error: crate::backend::BackendError) -> StoreError {
    match error.kind {
        BackendErrorKind::Short => StoreError::damaged(name, "it is shorter than the index says"),
        _ => error.into(),
    }
}

impl<T> Cache<T> {
    fn new(max: usize) -> Self {
        Self {
            frames: HashMap::new(),
            order: VecDeque::new(),
            max,
        }
    }

    fn insert(&mut self, key: (ObjectHash, u32), frame: T) {
        if self.frames.insert(key, frame).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > self.max {
            if let Some(oldest) = self.order.pop_front() {
                self.frames.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::backend::ObjectKind;
    use crate::ops::{snapshots, testing};
    use crate::store::tree;

    #[test]
    fn a_flipped_byte_is_damage() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = testing::noise(1, 40_000);
        std::fs::write(folder.path().join("file"), &bytes).unwrap();
        let (memory, repository) = testing::repository();
        testing::back_up(&repository, folder.path());
        let state = repository.read_state().unwrap();
        let reader = |repository| {
            snapshots::open_reader(repository, &state, None, &mut |e| panic!("{e}")).unwrap()
        };
        let snapshot = snapshots::list(&repository, &state, &mut |e| panic!("{e}")).unwrap();
        let path = folder.path().join("file");
        let names = ["paths"]
            .into_iter()
            .chain(path.to_str().unwrap().split('/'));
        let names = names.filter(|name| !name.is_empty()).map(str::as_bytes);
        let node = tree::find(&reader(&repository), &snapshot[0].record.root, names);
        let content = node.unwrap().unwrap().content;
        let packs: Vec<_> = memory
            .contents()
            .into_iter()
            .filter(|(name, _)| name.kind() == ObjectKind::Pack)
            .collect();
        let mut damaged = 0;
        for (name, whole) in packs {
            for position in (0..whole.len()).step_by(whole.len() / 40) {
                let mut changed = whole.to_vec();
                changed[position] ^= 1;
                memory.replace(&name, changed);
                match tree::read_all(&reader(&repository), &content, 1 << 20) {
                    Ok(read) => assert!(read == bytes, "a wrong byte came out"),
                    Err(error) => {
                        assert!(error.is_damage(), "{error}");
                        damaged += 1;
                    }
                }
            }
            memory.replace(&name, whole);
        }
        assert!(damaged > 20, "most of a pack is its frames: {damaged}");
    }
}
