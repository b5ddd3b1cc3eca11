//! Writes packs, and the index runs over them.
//!
//! Layout: `format::pack` and `format::index`. Two packs for data are open (a frame goes to either by a bit of its first chunk's id,
//! which is keyed, so that the order of sizes says nothing) and one for trees.
//!
//! Invariants:
//! 1. A run names only packs that are durable (`runs_follow_their_packs`): one thread commits packs and then writes the run.
//! 2. A pack's name is the hash of all its bytes; nothing is read back for it.
//! 3. After an error nothing more is written, and nothing is deleted: what is left is garbage that prune collects.
//!
//! Memory: the chunk lists of packs whose run is not written yet, about 10 MiB; frames are written through.
//!
//! Threads: any worker adds frames; a frame's place is reserved under the pack's lock, it is sealed without a lock, appended under it.
//! One thread of its own closes packs and writes runs. Lock order: slot, then pack.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;

use super::StoreError;
use super::session::{PacksDurable, RunsDurable, Session};
use crate::backend::{NewObject, ObjectKind, ObjectName};
use crate::crypto::ObjectKey;
use crate::format::header::SealedKind;
use crate::format::id::ObjectHash;
use crate::format::index::{IndexEntry, IndexRun, RUN_ENTRIES_TARGET, RunFrame, RunPack};
use crate::format::pack::{
    Base, Class, DIRECTORY_NUMBER, Encoding, FOOTER_NUMBER, FOOTER_SEALED_LEN, Footer, FrameChunk,
    FrameEntry, PackDirectory,
};
use crate::format::padme::padme;
use crate::stats::Stats;

/// A run is written at least so often while packs are, so that a run that is killed loses at most so much of its work.
const RUN_EVERY: Duration = Duration::from_secs(15);

/// A compressed frame that shall be stored.
#[derive(Debug)]
pub struct NewFrame<'a> {
    /// Its class.
    pub class: Class,
    /// How `body` is encoded.
    pub encoding: Encoding,
    /// Length before compression.
    pub raw_len: u32,
    /// What a prefix frame is on.
    pub base: Option<Base>,
    /// Its chunks in order.
    pub chunks: Vec<FrameChunk>,
    /// Encoded bytes; sealed in place.
    pub body: &'a mut Vec<u8>,
}

/// What was stored.
#[derive(Clone, Debug, Default)]
pub struct StoredPacks {
    /// The packs.
    pub packs: PacksDurable,
    /// Index runs over them.
    pub runs: RunsDurable,
}

struct OpenPack {
    object: Box<dyn NewObject>,
    hasher: blake3::Hasher,
    key: ObjectKey,
    len: u64,
    /// Length with all frames that have a place, and with the directory that they need.
    reserved: u64,
    /// What the longest frame so far took of it.
    frame_max: u64,
    pending: u32,
    full: bool,
    directory: PackDirectory,
}

/// Taken out by whoever closes it.
type SharedPack = Arc<Mutex<Option<OpenPack>>>;

#[derive(Default)]
struct Slot {
    pack: Option<SharedPack>,
}

struct Shared {
    session: Arc<Session>,
    pack_bytes: u64,
    stats: Arc<Stats>,
    slots: [Mutex<Slot>; 3],
    failed: AtomicBool,
    error: Mutex<Option<StoreError>>,
}

/// The open packs of a run.
pub struct PackWriter {
    shared: Arc<Shared>,
    closer: Mutex<Option<Closer>>,
}

struct Closer {
    sender: crossbeam_channel::Sender<OpenPack>,
    thread: JoinHandle<StoredPacks>,
}

impl fmt::Debug for PackWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackWriter")
            .field("session", &self.shared.session.number())
            .finish_non_exhaustive()
    }
}

type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Another thread failed first and has told why.
fn stopped() -> StoreError {
    StoreError::Stopped
}

fn sealing(error: crate::crypto::SealError) -> StoreError {
    super::seal_error(&"a pack", error)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// At most how long the entry of a frame in its directory is.
fn directory_bytes(chunks: usize) -> u64 {
    // Five numbers, and the name and number of a base.
    const FRAME: u64 = 72;
    const CHUNK: u64 = 40;
    FRAME + to_u64(chunks) * CHUNK
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).expect("a length fits 64 bits")
}

fn to_u32(value: u64) -> Result<u32> {
    u32::try_from(value).map_err(|_e| {
        StoreError::Refused("a pack grew past 4 GiB; this is a bug in holdfast".into())
    })
}

impl PackWriter {
    /// Opens no pack yet. `pack_bytes`: a pack is closed when the next frame would make it longer, which is seldom by more than a frame.
    pub fn new(session: Arc<Session>, pack_bytes: u32, stats: Arc<Stats>) -> Self {
        let shared = Arc::new(Shared {
            session,
            pack_bytes: u64::from(pack_bytes),
            stats,
            slots: Default::default(),
            failed: AtomicBool::new(false),
            error: Mutex::new(None),
        });
        let (sender, receiver) = crossbeam_channel::bounded::<OpenPack>(2);
        let thread = {
            let shared = shared.clone();
            std::thread::spawn(move || shared.close_packs(&receiver))
        };
        Self {
            shared,
            closer: Mutex::new(Some(Closer { sender, thread })),
        }
    }

    /// Seals a frame into an open pack; `body` is used up.
    pub fn add(&self, frame: NewFrame<'_>) -> Result<()> {
        let shared = &*self.shared;
        shared.check()?;
        let NewFrame {
            class,
            encoding,
            raw_len,
            base,
            chunks,
            body,
        } = frame;
        let (pack, key, number) = shared.reserve(class, &chunks, to_u64(body.len()) + 16)?;
        key.seal_in_place(u64::from(number), body)
            .map_err(sealing)?;
        let entry = FrameEntry {
            offset: 0,
            sealed_len: to_u32(to_u64(body.len()))?,
            raw_len,
            class,
            encoding,
            chunks,
            base,
        };
        let closed = shared.append(&pack, number, entry, body)?;
        if let Some(pack) = closed {
            self.close(pack)?;
        }
        Ok(())
    }

    /// Closes the open packs, waits until everything is durable, and says what was stored.
    pub fn finish(&self) -> Result<StoredPacks> {
        for slot in &self.shared.slots {
            if let Some(pack) = lock(slot).pack.take()
                && let Some(pack) = lock(&pack).take()
                // A frame that was reserved and never came belongs to a worker that failed: such a pack stays garbage.
                && pack.pending == 0
                && !pack.directory.frames.is_empty()
            {
                self.close(pack)?;
            }
        }
        let closer = lock(&self.closer)
            .take()
            .expect("a pack writer is finished once");
        drop(closer.sender);
        let stored = closer.thread.join().map_err(|_panic| stopped())?;
        self.shared.check()?;
        Ok(stored)
    }

    fn close(&self, pack: OpenPack) -> Result<()> {
        let sender = lock(&self.closer)
            .as_ref()
            .map(|closer| closer.sender.clone());
        let sent = sender.is_some_and(|sender| sender.send(pack).is_ok());
        if sent { Ok(()) } else { Err(stopped()) }
    }
}

impl Shared {
    fn check(&self) -> Result<()> {
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(lock(&self.error).take().unwrap_or_else(stopped))
    }

    fn fail(&self, error: StoreError) {
        lock(&self.error).get_or_insert(error);
        self.failed.store(true, Ordering::Release);
    }

    fn reserve(
        &self,
        class: Class,
        chunks: &[FrameChunk],
        sealed_len: u64,
    ) -> Result<(SharedPack, ObjectKey, u32)> {
        let slot = match class {
            Class::Tree => 2,
            _ => chunks
                .first()
                .map_or(0, |chunk| usize::from(chunk.id.as_bytes()[31] & 1)),
        };
        let mut slot = lock(&self.slots[slot]);
        let pack = match &slot.pack {
            Some(pack) => pack.clone(),
            None => {
                let pack = Arc::new(Mutex::new(Some(self.begin()?)));
                slot.pack = Some(pack.clone());
                pack
            }
        };
        let mut guard = lock(&pack);
        let open = guard.as_mut().expect("a pack in a slot is open");
        let number = u32::try_from(open.directory.frames.len()).expect("a pack has few frames");
        open.directory.frames.push(FrameEntry::default());
        let taken = sealed_len + directory_bytes(chunks.len());
        open.reserved += taken;
        open.frame_max = open.frame_max.max(taken);
        open.pending += 1;
        // One frame more would pass a length that needs no padding, and the padding behind it is longer than what is left free here.
        if open.reserved + open.frame_max > self.pack_bytes {
            open.full = true;
            slot.pack = None;
        }
        let key = open.key.clone();
        drop(guard);
        Ok((pack, key, number))
    }

    fn begin(&self) -> Result<OpenPack> {
        let repository = self.session.repository();
        let mut object = repository.backend().begin(ObjectKind::Pack)?;
        let header = repository.with_random(|random| {
            repository
                .keyring()
                .new_object(SealedKind::Pack, self.session.number(), random)
        });
        let (header, key) = header.map_err(sealing)?;
        object.append(&header)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&header);
        let len = to_u64(header.len());
        Ok(OpenPack {
            object,
            hasher,
            key,
            len,
            reserved: len + to_u64(FOOTER_SEALED_LEN) + directory_bytes(0),
            frame_max: 0,
            pending: 0,
            full: false,
            directory: PackDirectory::default(),
        })
    }

    /// Appends a sealed frame; gives the pack when it is full and this was its last frame.
    fn append(
        &self,
        pack: &Mutex<Option<OpenPack>>,
        number: u32,
        mut entry: FrameEntry,
        body: &[u8],
    ) -> Result<Option<OpenPack>> {
        let mut guard = lock(pack);
        let Some(open) = guard.as_mut() else {
            return Err(stopped());
        };
        entry.offset = to_u32(open.len)?;
        open.object.append(body)?;
        open.hasher.update(body);
        open.len += to_u64(body.len());
        open.directory.frames[usize::try_from(number).expect("32 bits fit")] = entry;
        open.pending -= 1;
        if open.full && open.pending == 0 {
            Ok(guard.take())
        } else {
            Ok(None)
        }
    }

    fn close_packs(&self, receiver: &crossbeam_channel::Receiver<OpenPack>) -> StoredPacks {
        let mut stored = StoredPacks::default();
        let mut run = RunBuilder::default();
        let mut last_run = Instant::now();
        loop {
            let received = receiver.recv_timeout(RUN_EVERY);
            if matches!(received, Err(RecvTimeoutError::Disconnected)) {
                break;
            }
            if self.failed.load(Ordering::Acquire) {
                continue;
            }
            let mut result = match received {
                Ok(pack) => self.close_pack(pack, &mut run, &mut stored),
                Err(_nothing_yet) => Ok(()),
            };
            if result.is_ok() && last_run.elapsed() >= RUN_EVERY {
                last_run = Instant::now();
                result = self.write_run(&mut run, &mut stored);
            }
            if let Err(error) = result {
                self.fail(error);
            }
        }
        if !self.failed.load(Ordering::Acquire)
            && let Err(error) = self.write_run(&mut run, &mut stored)
        {
            self.fail(error);
        }
        stored
    }

    fn close_pack(
        &self,
        mut pack: OpenPack,
        run: &mut RunBuilder,
        stored: &mut StoredPacks,
    ) -> Result<()> {
        let mut tail = pack.directory.encode();
        pack.key
            .seal_in_place(DIRECTORY_NUMBER, &mut tail)
            .map_err(sealing)?;
        let directory_len = to_u32(to_u64(tail.len()))?;
        let footer_len = to_u64(FOOTER_SEALED_LEN);
        let len = padme(pack.len + to_u64(tail.len()) + footer_len);
        let padding = len - pack.len - to_u64(tail.len()) - footer_len;
        let start = tail.len();
        tail.resize(
            start + usize::try_from(to_u32(padding)?).expect("32 bits fit"),
            0,
        );
        self.session
            .repository()
            .with_random(|random| random.fill(&mut tail[start..]));
        let frame_count =
            u32::try_from(pack.directory.frames.len()).expect("a pack has few frames");
        let footer = Footer {
            directory_offset: pack.len,
            directory_len,
            frame_count,
        };
        let mut footer = footer.encode().to_vec();
        pack.key
            .seal_in_place(FOOTER_NUMBER, &mut footer)
            .map_err(sealing)?;
        tail.extend_from_slice(&footer);
        pack.object.append(&tail)?;
        pack.hasher.update(&tail);
        let name = ObjectHash(*pack.hasher.finalize().as_bytes());
        pack.object
            .commit(&ObjectName::hashed(ObjectKind::Pack, name.0))?;
        self.stats.bytes_stored.add(len);
        tracing::debug!(pack = %name.short(), bytes = len, frames = pack.directory.frames.len(), "pack closed");
        stored.packs.extend(PacksDurable::new([name]));
        run.add(name, len, &pack.directory);
        if run.run.entries.len() >= RUN_ENTRIES_TARGET {
            self.write_run(run, stored)
        } else {
            Ok(())
        }
    }

    fn write_run(&self, builder: &mut RunBuilder, stored: &mut StoredPacks) -> Result<()> {
        let Some(run) = builder.take() else {
            return Ok(());
        };
        let runs = self
            .session
            .write_runs(&stored.packs, std::slice::from_ref(&run))?;
        // About what it is sealed: an id each and two or three bytes more.
        self.stats.bytes_stored.add(to_u64(run.entries.len()) * 38);
        stored.runs.extend(runs);
        Ok(())
    }
}

/// Collects packs for an index run.
#[derive(Debug, Default)]
pub struct RunBuilder {
    run: IndexRun,
}

impl RunBuilder {
    /// Adds a pack with its directory.
    pub fn add(&mut self, name: ObjectHash, len: u64, directory: &PackDirectory) {
        let pack = u32::try_from(self.run.packs.len()).expect("a run has few packs");
        let mut frames = Vec::with_capacity(directory.frames.len());
        for (frame, entry) in (0u32..).zip(&directory.frames) {
            frames.push(RunFrame {
                offset: entry.offset,
                sealed_len: entry.sealed_len,
                raw_len: entry.raw_len,
                class: entry.class,
                encoding: entry.encoding,
                base: entry.base,
            });
            let mut offset = 0;
            for chunk in &entry.chunks {
                self.run.entries.push(IndexEntry {
                    id: chunk.id,
                    pack,
                    frame,
                    offset,
                    len: chunk.len,
                });
                offset += chunk.len;
            }
        }
        self.run.packs.push(RunPack { name, len, frames });
    }

    /// The sorted run, if it holds anything.
    pub fn take(&mut self) -> Option<IndexRun> {
        use rayon::slice::ParallelSliceMut;
        let mut run = std::mem::take(&mut self.run);
        if run.packs.is_empty() {
            return None;
        }
        run.entries.par_sort_unstable();
        Some(run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{BackendErrorKind, Fault, Faulty, Memory};
    use crate::format::header::Suite;
    use crate::format::id::ChunkId;
    use crate::store::Repository;

    /// Writes frames of every class into small packs, ten frames a pack.
    fn write(repository: &Arc<Repository>) -> Result<StoredPacks> {
        let session = Arc::new(repository.open_session()?);
        let packs = PackWriter::new(session, 20_000, Arc::new(Stats::default()));
        for number in 0..90u32 {
            let chunk = FrameChunk {
                id: ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes()),
                len: 2000,
            };
            packs.add(NewFrame {
                class: Class::ALL[number as usize % 4],
                encoding: Encoding::Raw,
                raw_len: 2000,
                base: None,
                chunks: vec![chunk],
                body: &mut vec![5; 2000],
            })?;
        }
        packs.finish()
    }

    /// Checks that every run names packs that exist, with their lengths; returns how many chunks the runs name.
    fn check_runs(repository: &Repository) -> usize {
        let backend = repository.backend();
        let mut names = Vec::new();
        let list = backend.list(ObjectKind::Index, &mut |info| names.push(info.name));
        list.unwrap();
        let mut chunks = 0;
        for name in names {
            let run = repository
                .load_run(&ObjectHash(name.hash().unwrap()))
                .unwrap();
            for pack in &run.packs {
                let name = ObjectName::hashed(ObjectKind::Pack, pack.name.0);
                assert_eq!(backend.len(&name).unwrap(), pack.len);
            }
            chunks += run.entries.len();
        }
        chunks
    }

    #[test]
    fn runs_follow_their_packs() {
        let memory = Arc::new(Memory::default());
        let faulty = Arc::new(Faulty::new(memory, None));
        let repository = crate::ops::testing::create(faulty.clone(), Suite::Aes256Gcm);
        write(&repository).unwrap();
        let mut packs = 0;
        let list = repository
            .backend()
            .list(ObjectKind::Pack, &mut |_| packs += 1);
        list.unwrap();
        assert!(packs > 6, "{packs}");
        assert_eq!(check_runs(&repository), 90);
        for step in 0.. {
            let first = faulty.operations() + step;
            faulty.plan(Some(Fault::from(first, BackendErrorKind::NoSpace)));
            let outcome = write(&repository);
            faulty.plan(None);
            check_runs(&repository);
            if outcome.is_ok() {
                assert!(step > 20, "the faults were met: {step}");
                return;
            }
        }
    }
}
