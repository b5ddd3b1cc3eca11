//! Reads many chunks at once: each frame that a window needs is read and decoded once, by all threads together.
//!
//! A window is a list of wanted chunks and a buffer; each chunk's bytes go to its place in the buffer. Who plans windows keeps them bounded.
//!
//! Invariants:
//! 1. What is in the buffer at a place without a failure is the chunk: authenticated, and its id recomputed unless the caller has done that.
//! 2. A damaged copy of a chunk does not hide a good one (`a_good_copy_is_found`).
//!
//! Memory: two buffers of [`WINDOW_BYTES`], 64 bytes for each wanted chunk, the caller's files, and a sealed and a decoded frame for each
//! thread that reads; those that take hold what the caller holds for a file.
//!
//! Threads: the caller plans and reads, with helpers; one more, with helpers, takes what was read. Who fails first ends both.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::backend::BackendErrorKind;
use crate::error::{Error, Result};
use crate::format::node::{ChunkRef, Content};
use crate::format::pack::FRAME_RAW_MAX;
use crate::ops::backup::Interrupt;
use crate::store::StoreError;
use crate::store::chunk_index::{ChunkIndex, Location};
use crate::store::reader::{ChunkReader, Scratch, missing};
use crate::store::tree::Chunks;

/// Bytes that a window holds at most, but for a single chunk that is longer. Tests have small ones, so that little data makes many.
pub const WINDOW_BYTES: usize = if cfg!(test) { 256 << 10 } else { 24 << 20 };
/// Chunks that a window holds at most.
pub const WINDOW_CHUNKS: usize = 100_000;
/// Files that a window holds at most.
pub const WINDOW_FILES: usize = if cfg!(test) { 16 } else { 10_000 };

/// Files that one thread takes one after the other, if they are neighbours.
const GROUP_FILES_MAX: usize = 256;

/// Chunks that could not be read: the position among the wanted ones, and why.
pub type Failures = Vec<(usize, StoreError)>;

struct Job<'b> {
    location: Location,
    want: usize,
    out: &'b mut [u8],
}

/// How many threads a parallel step uses.
pub fn thread_count() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Calls `f` with each of `0..count`, on `threads` threads; each has a state of its own. The first error ends all.
pub fn for_each_parallel<S>(
    threads: usize,
    count: usize,
    start: impl Fn() -> Result<S> + Sync,
    f: impl Fn(&mut S, usize) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let error: Mutex<Option<Error>> = Mutex::new(None);
    let work = || {
        let run = || {
            let mut state = start()?;
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= count {
                    return Ok(());
                }
                f(&mut state, at)?;
            }
        };
        if let Err(e) = run() {
            next.store(count, Ordering::Relaxed);
            lock(&error).get_or_insert(e);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(count) {
            scope.spawn(work);
        }
        work();
    });
    match error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Whether an error is about one object, so that the rest can still be read; anything else ends the run. The version in a header is not
/// authenticated before it is understood, so an object that seems to be newer may as well be damaged.
pub fn is_of_one_object(error: &StoreError) -> bool {
    match error {
        StoreError::Backend(e) => matches!(
            e.kind,
            BackendErrorKind::Other | BackendErrorKind::Short | BackendErrorKind::NotFound
        ),
        StoreError::NewerFormat { .. } => true,
        other => other.is_damage(),
    }
}

/// Reads `wants` one after the other into `buffer`, which must be exactly as long as they are together. Ids are recomputed if `check`.
pub fn fetch(
    reader: &ChunkReader,
    wants: &[ChunkRef],
    buffer: &mut [u8],
    check: bool,
    threads: usize,
) -> Result<Failures> {
    let index = reader.index();
    let mut unresolved = Vec::new();
    let mut jobs = Vec::with_capacity(wants.len());
    let mut rest = buffer;
    for (want, chunk) in wants.iter().enumerate() {
        let (out, after) = rest.split_at_mut(chunk.len as usize);
        rest = after;
        match index.find(&chunk.id) {
            Some(location) if location.len == chunk.len => jobs.push(Job {
                location,
                want,
                out,
            }),
            _ => unresolved.push((want, out)),
        }
    }
    jobs.sort_unstable_by_key(|job| (job.location.pack, job.location.frame, job.location.offset));
    let mut groups: Vec<Mutex<&mut [Job<'_>]>> = jobs
        .chunk_by_mut(|a, b| {
            (a.location.pack, a.location.frame) == (b.location.pack, b.location.frame)
        })
        .map(Mutex::new)
        .collect();
    let failed: Mutex<Vec<usize>> = Mutex::default();
    let read = for_each_parallel(
        threads,
        groups.len(),
        || Ok((reader.scratch()?, Vec::new())),
        |buffers: &mut (Scratch, Vec<u8>), at| {
            let mut group = lock(&groups[at]);
            let bad = read_group(reader, &index, wants, &mut group, check, buffers);
            if !bad.is_empty() {
                let mut failed = lock(&failed);
                failed.extend(bad);
            }
            Ok(())
        },
    );
    read?;
    // What failed is read again one by one: from another copy, or after the log went on.
    let mut again = unresolved;
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !failed.is_empty() {
        let failed: std::collections::HashSet<usize> = failed.into_iter().collect();
        for group in groups.drain(..) {
            let group = group.into_inner().unwrap_or_else(PoisonError::into_inner);
            let bad = group.iter_mut().filter(|job| failed.contains(&job.want));
            again.extend(bad.map(|job| (job.want, &mut *job.out)));
        }
    }
    read_singly(reader, wants, again)
}

/// Copies the chunks of one frame to their places; gives those that could not be had.
fn read_group(
    reader: &ChunkReader,
    index: &ChunkIndex,
    wants: &[ChunkRef],
    group: &mut [Job<'_>],
    check: bool,
    (scratch, plain): &mut (Scratch, Vec<u8>),
) -> Vec<usize> {
    let Some(first) = group.first() else {
        return Vec::new();
    };
    let pack = match index.pack(first.location.pack) {
        Ok(pack) => pack,
        Err(e) => {
            tracing::debug!("{e}");
            return group.iter().map(|job| job.want).collect();
        }
    };
    let pack = &*pack;
    if let Err(e) = reader.read_frame(pack, first.location.frame, scratch, plain) {
        tracing::debug!("{e}");
        return group.iter().map(|job| job.want).collect();
    }
    let mut bad = Vec::new();
    let mut checked = None;
    for job in group {
        let start = job.location.offset as usize;
        let bytes = plain.get(start..start + job.location.len as usize);
        let good = bytes.filter(|bytes| {
            !check
                || checked == Some(job.location)
                || reader.check_chunk(pack, &wants[job.want], bytes).is_ok()
        });
        match good {
            Some(bytes) => {
                checked = Some(job.location);
                job.out.copy_from_slice(bytes);
            }
            None => bad.push(job.want),
        }
    }
    bad
}

fn read_singly(
    reader: &ChunkReader,
    wants: &[ChunkRef],
    again: Vec<(usize, &mut [u8])>,
) -> Result<Failures> {
    let mut failures = Vec::new();
    for (want, out) in again {
        match reader.chunk(&wants[want]) {
            Ok(bytes) => out.copy_from_slice(&bytes),
            Err(e) if is_of_one_object(&e) => failures.push((want, e)),
            Err(e) => return Err(e.into()),
        }
    }
    failures.sort_by_key(|(want, _)| *want);
    Ok(failures)
}

/// A part of a file's content, as a window hands it over.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// The next bytes.
    Data(&'a [u8]),
    /// So many bytes of the content that [`Consumer::present`] did not want.
    Present(u64),
}

/// What is done with the contents that windows read.
pub trait Consumer: Sync {
    /// A file whose content is being read; it moves from window to window.
    type File: Send;

    /// Whether two files should be taken by the same thread, one after the other: both make entries in one directory, say, which the kernel
    /// lets one thread change at a time.
    fn are_neighbours(&self, _one: &Self::File, _other: &Self::File) -> bool {
        false
    }

    /// Marks the chunks that need not be read; `chunks` are the next ones of the file.
    fn present(
        &self,
        _file: &mut Self::File,
        _chunks: &[ChunkRef],
        _present: &mut [bool],
    ) -> Result<()> {
        Ok(())
    }

    /// Takes the next parts of a file. Called in the order of the content.
    fn take(&self, file: &mut Self::File, parts: &[Part<'_>]) -> Result<()>;

    /// Ends a file: whole, or with what could not be read of it. After a failure nothing more is taken of it.
    fn end(&self, file: Self::File, failure: Option<&StoreError>) -> Result<()>;
}

struct Piece<F> {
    /// The file, if it begins here; else it is the one that the window before left open.
    file: Mutex<Option<F>>,
    begins: bool,
    /// Positions in the window's chunks.
    chunks: Range<usize>,
    /// The file ends with this piece; with an error if its list of chunks could not be read.
    end: Option<Option<StoreError>>,
}

impl<F> Piece<F> {
    /// The file that begins here.
    fn file(&mut self) -> Option<&F> {
        let file = self.file.get_mut();
        file.unwrap_or_else(PoisonError::into_inner).as_ref()
    }
}

/// A window whose chunks were read.
struct Full<F> {
    pieces: Vec<Piece<F>>,
    chunks: Vec<ChunkRef>,
    present: Vec<bool>,
    /// Where each chunk begins in the buffer.
    starts: Vec<usize>,
    /// By position of the chunk.
    failures: HashMap<usize, StoreError>,
    buffer: Vec<u8>,
}

/// How windows are read.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What reads them.
    pub reader: Arc<ChunkReader>,
    /// Whether ids of chunks are recomputed.
    pub check: bool,
    /// Whether the consumer is asked what is present. Then a window is read only after the one before was taken.
    pub compare: bool,
    /// Threads that read and decode.
    pub threads: usize,
    /// Threads that take, and that look what is present; many where the consumer waits for a server.
    pub takers: usize,
    /// Ends it.
    pub stop: Interrupt,
}

/// Collects files into windows: while one is read, the one before is taken by the consumer.
pub struct Windows<'w, C: Consumer> {
    settings: &'w Settings,
    consumer: &'w C,
    chunks: Vec<ChunkRef>,
    bytes: usize,
    pieces: Vec<Piece<C::File>>,
    full: Sender<Full<C::File>>,
    buffers: Receiver<Vec<u8>>,
    open: &'w Mutex<Option<C::File>>,
}

impl<C: Consumer> std::fmt::Debug for Windows<'_, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Windows")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// Calls `plan`, which adds files; returns when all of them were taken.
pub fn with_windows<C: Consumer, R>(
    settings: &Settings,
    consumer: &C,
    plan: impl FnOnce(&mut Windows<'_, C>) -> Result<R>,
) -> Result<R> {
    // One buffer is filled while the other one is taken; with a comparison there is nothing to overlap.
    let buffer_count = if settings.compare { 1 } else { 2 };
    let open = Mutex::new(None);
    let (full, taken) = bounded(0);
    let (back, buffers) = bounded(buffer_count);
    for _ in 0..buffer_count {
        back.send(Vec::new()).expect("there is room for each");
    }
    std::thread::scope(|scope| {
        let open = &open;
        let taking = scope.spawn(move || take_all(settings, consumer, open, taken, back));
        let mut windows = Windows {
            settings,
            consumer,
            chunks: Vec::new(),
            bytes: 0,
            pieces: Vec::new(),
            full,
            buffers,
            open,
        };
        let planned = plan(&mut windows).and_then(|planned| {
            windows.run()?;
            Ok(planned)
        });
        drop(windows);
        let taken = taking.join().unwrap_or_else(|_panic| {
            Err(Error::Message(
                "a thread that takes windows panicked; this is a bug in holdfast".into(),
            ))
        });
        // Whoever failed first made the other one stop.
        match (planned, taken) {
            (Err(Error::Stopped), Err(e)) => Err(e),
            (Err(e), _) | (Ok(_), Err(e)) => Err(e),
            (Ok(planned), Ok(())) => Ok(planned),
        }
    })
}

impl<C: Consumer> Windows<'_, C> {
    /// Adds a file with its content; reads windows as they are full.
    pub fn add(&mut self, file: C::File, content: &Content) -> Result<()> {
        let mut file = Some(file);
        let mut first = self.chunks.len();
        let mut failure = None;
        for chunk in Chunks::new(self.settings.reader.clone(), content) {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(e) if is_of_one_object(&e) => {
                    failure = Some(e);
                    break;
                }
                Err(e) => return Err(e.into()),
            };
            if chunk.len == 0 || chunk.len > FRAME_RAW_MAX {
                failure = Some(missing(&chunk.id));
                break;
            }
            let len = chunk.len as usize;
            if !self.chunks.is_empty()
                && (self.bytes + len > WINDOW_BYTES || self.chunks.len() >= WINDOW_CHUNKS)
            {
                self.piece(&mut file, first, None);
                self.run()?;
                first = 0;
            }
            self.bytes += len;
            self.chunks.push(chunk);
        }
        self.piece(&mut file, first, Some(failure));
        if self.pieces.len() >= WINDOW_FILES {
            self.run()?;
        }
        Ok(())
    }

    fn piece(&mut self, file: &mut Option<C::File>, first: usize, end: Option<Option<StoreError>>) {
        let file = file.take();
        self.pieces.push(Piece {
            begins: file.is_some(),
            file: Mutex::new(file),
            chunks: first..self.chunks.len(),
            end,
        });
    }

    /// Reads the window and hands it on.
    fn run(&mut self) -> Result<()> {
        if self.settings.stop.is_set() {
            return Err(Error::Interrupted);
        }
        let chunks = std::mem::take(&mut self.chunks);
        let pieces = std::mem::take(&mut self.pieces);
        self.bytes = 0;
        let mut buffer = self.buffers.recv().map_err(|_closed| Error::Stopped)?;
        let present = self.present(&chunks, &pieces)?;
        let mut starts = Vec::with_capacity(chunks.len());
        let (mut wants, mut positions) = (Vec::new(), Vec::new());
        let mut len = 0;
        for (position, (chunk, present)) in chunks.iter().zip(&present).enumerate() {
            starts.push(len);
            if !present {
                wants.push(*chunk);
                positions.push(position);
                len += chunk.len as usize;
            }
        }
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        let Settings {
            reader,
            check,
            threads,
            ..
        } = self.settings;
        let failures = fetch(reader, &wants, &mut buffer[..len], *check, *threads)?;
        let failures = failures.into_iter().map(|(want, e)| (positions[want], e));
        let full = Full {
            failures: failures.collect(),
            pieces,
            chunks,
            present,
            starts,
            buffer,
        };
        self.full.send(full).map_err(|_closed| Error::Stopped)
    }

    fn present(&self, chunks: &[ChunkRef], pieces: &[Piece<C::File>]) -> Result<Vec<bool>> {
        let mut present = vec![false; chunks.len()];
        if !self.settings.compare {
            return Ok(present);
        }
        let mut slices = Vec::with_capacity(pieces.len());
        let mut rest = present.as_mut_slice();
        for piece in pieces {
            let (own, after) = rest.split_at_mut(piece.chunks.len());
            rest = after;
            slices.push(Mutex::new(own));
        }
        for_each_parallel(
            self.settings.takers,
            pieces.len(),
            || Ok(()),
            |_: &mut (), at| {
                let piece = &pieces[at];
                // The only buffer is here, so the window before was taken and its open file waits.
                let mut file = if piece.begins {
                    lock(&piece.file)
                } else {
                    lock(self.open)
                };
                match &mut *file {
                    Some(file) => {
                        let chunks = &chunks[piece.chunks.clone()];
                        self.consumer.present(file, chunks, &mut lock(&slices[at]))
                    }
                    None => Ok(()),
                }
            },
        )?;
        drop(slices);
        Ok(present)
    }
}

/// Takes windows until no more come.
fn take_all<C: Consumer>(
    settings: &Settings,
    consumer: &C,
    open: &Mutex<Option<C::File>>,
    windows: Receiver<Full<C::File>>,
    back: Sender<Vec<u8>>,
) -> Result<()> {
    for mut window in windows {
        let next = Mutex::new(None);
        let groups = groups(consumer, &mut window.pieces, settings.takers);
        for_each_parallel(
            settings.takers,
            groups.len(),
            || Ok(()),
            |_: &mut (), at| {
                for piece in &window.pieces[groups[at].clone()] {
                    let file = if piece.begins {
                        lock(&piece.file).take()
                    } else {
                        lock(open).take()
                    };
                    // Else it was ended in an earlier window.
                    if let Some(file) = file {
                        take_piece(consumer, file, &window, piece, &next)?;
                    }
                }
                Ok(())
            },
        )?;
        *lock(open) = next.into_inner().unwrap_or_else(PoisonError::into_inner);
        if back.send(window.buffer).is_err() {
            break;
        }
    }
    Ok(())
}

/// Pieces that one thread takes: neighbours, but never so many that threads have nothing to do.
fn groups<C: Consumer>(
    consumer: &C,
    pieces: &mut [Piece<C::File>],
    takers: usize,
) -> Vec<Range<usize>> {
    let len_max = (pieces.len() / takers.max(1)).clamp(1, GROUP_FILES_MAX);
    let mut groups: Vec<Range<usize>> = Vec::new();
    for at in 0..pieces.len() {
        let (before, now) = pieces.split_at_mut(at);
        let (one, other) = (before.last_mut().and_then(Piece::file), now[0].file());
        let joins = groups.last().is_some_and(|last| last.len() < len_max)
            && matches!((one, other), (Some(one), Some(other)) if consumer.are_neighbours(one, other));
        match groups.last_mut() {
            Some(last) if joins => last.end = at + 1,
            _ => groups.push(at..at + 1),
        }
    }
    groups
}

/// Takes what one window has of a file.
fn take_piece<C: Consumer>(
    consumer: &C,
    mut file: C::File,
    window: &Full<C::File>,
    piece: &Piece<C::File>,
    next: &Mutex<Option<C::File>>,
) -> Result<()> {
    if !window.failures.is_empty() {
        let mut chunks = piece.chunks.clone();
        if let Some(failure) = chunks.find_map(|at| window.failures.get(&at)) {
            return consumer.end(file, Some(failure));
        }
    }
    let parts = parts_of(window, piece.chunks.clone());
    if !parts.is_empty() {
        consumer.take(&mut file, &parts)?;
    }
    match &piece.end {
        None => *lock(next) = Some(file),
        Some(end) => consumer.end(file, end.as_ref())?,
    }
    Ok(())
}

/// The parts of one piece: wanted chunks that follow each other are one.
fn parts_of<F>(window: &Full<F>, piece: Range<usize>) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut at = piece.start;
    while at < piece.end {
        let is_present = window.present[at];
        let same = window.present[at..piece.end].iter();
        let count = same.take_while(|present| **present == is_present).count();
        let chunks = &window.chunks[at..at + count];
        let len: usize = chunks.iter().map(|chunk| chunk.len as usize).sum();
        parts.push(match is_present {
            true => Part::Present(u64::try_from(len).expect("a length fits 64 bits")),
            false => Part::Data(&window.buffer[window.starts[at]..window.starts[at] + len]),
        });
        at += count;
    }
    parts
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{ObjectKind, ObjectName};
    use crate::format::id::ObjectHash;
    use crate::format::pack::Class;
    use crate::ops::snapshots::frame_decoder;
    use crate::ops::testing::{noise, repository};
    use crate::pipeline::dedup::Dedup;
    use crate::pipeline::worker::{Worker, testing};
    use crate::store::Repository;
    use crate::store::packs::PackWriter;

    /// Stores chunks as a run that knows of no other would; gives its index run.
    fn store(repository: &Arc<Repository>, chunks: &[Vec<u8>]) -> (Vec<ChunkRef>, ObjectHash) {
        let session = Arc::new(repository.open_session().unwrap());
        let packs = PackWriter::new(session, 1 << 20, Arc::default());
        let dedup = Arc::new(Dedup::new(Arc::default(), packs));
        let mut parts = testing::parts(Arc::default());
        parts.store = dedup.clone();
        parts.id_key = repository.keyring().chunk_id_key().unwrap();
        let mut worker = Worker::new(parts).unwrap();
        let put = |chunk: &Vec<u8>| worker.put_chunk(Class::File, chunk).unwrap();
        let refs = chunks.iter().map(put).collect();
        worker.flush().unwrap();
        let stored = dedup.packs().finish().unwrap();
        (refs, stored.runs.names().next().unwrap())
    }

    #[test]
    fn a_good_copy_is_found() {
        let (backend, repository) = repository();
        let chunks: Vec<Vec<u8>> = (0..60).map(|i| noise(i, 3000)).collect();
        let (refs, first) = store(&repository, &chunks);
        let (_, second) = store(&repository, &chunks);
        let runs = [first, second].map(|run| repository.load_run(&run).unwrap());
        let packs = |run: usize| -> Vec<ObjectName> {
            let names = runs[run].packs.iter();
            names
                .map(|pack| ObjectName::hashed(ObjectKind::Pack, pack.name.0))
                .collect()
        };
        let read = || {
            let state = repository.read_state().unwrap();
            let index = Arc::new(ChunkIndex::build(runs.clone(), |_| true));
            let reader = ChunkReader::new(repository.clone(), state, index, None, frame_decoder);
            let mut buffer = vec![0; 60 * 3000];
            let failures = fetch(&reader.unwrap(), &refs, &mut buffer, true, 2).unwrap();
            (failures.len(), buffer == chunks.concat())
        };
        assert_eq!(read(), (0, true));
        let damage = |packs: Vec<ObjectName>| {
            for name in packs {
                let mut bytes = backend.contents()[&name].to_vec();
                let half = bytes.len() / 2;
                bytes[half] ^= 1;
                backend.replace(&name, bytes);
            }
        };
        damage(packs(0));
        assert_eq!(read(), (0, true), "the second copy is good");
        damage(packs(1));
        let (failures, whole) = read();
        assert!(failures > 0 && failures < 60 && !whole, "{failures}");
    }
}
