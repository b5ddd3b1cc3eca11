//! Reads many chunks at once: each frame that a window needs is read and decoded once, by all threads together.
//!
//! A window is a list of wanted chunks and a buffer; each chunk's bytes go to its place in the buffer. Who plans windows keeps them bounded.
//!
//! Invariants:
//! 1. What is in the buffer at a place without a failure is the chunk: authenticated, and its id recomputed unless the caller has done that.
//! 2. A damaged copy of a chunk does not hide a good one (`a_good_copy_is_found`).
//!
//! Memory: the buffer, 64 bytes for each wanted chunk, and a sealed and a decoded frame for each thread.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backend::BackendErrorKind;
use crate::error::{Error, Result};
use crate::format::node::{ChunkRef, Content};
use crate::format::pack::FRAME_RAW_MAX;
use crate::ops::backup::Interrupt;
use crate::store::StoreError;
use crate::store::chunk_index::{ChunkIndex, Location};
use crate::store::reader::{ChunkReader, Scratch, missing};
use crate::store::tree::Chunks;

/// Bytes that a window holds at most, but for a single chunk that is longer.
pub const WINDOW_BYTES: usize = 64 << 20;
/// Chunks that a window holds at most.
pub const WINDOW_CHUNKS: usize = 100_000;
/// Files that a window holds at most.
pub const WINDOW_FILES: usize = 10_000;

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
        |(scratch, plain): &mut (Scratch, Vec<u8>), at| {
            let mut group = lock(&groups[at]);
            let bad = read_group(reader, &index, wants, &mut group, check, scratch, plain);
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
    scratch: &mut Scratch,
    plain: &mut Vec<u8>,
) -> Vec<usize> {
    let Some(first) = group.first() else {
        return Vec::new();
    };
    let pack = &index.packs()[first.location.pack as usize];
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
    fn end(&self, file: Self::File, failure: Option<StoreError>) -> Result<()>;
}

struct Piece<F> {
    file: Mutex<Option<F>>,
    /// Positions in the window's chunks.
    chunks: std::ops::Range<usize>,
    /// The file ends with this piece; with an error if its list of chunks could not be read.
    end: Option<Option<StoreError>>,
}

/// Collects files into windows and runs these.
pub struct Windows<'c, C: Consumer> {
    reader: Arc<ChunkReader>,
    consumer: &'c C,
    threads: usize,
    check: bool,
    compare: bool,
    stop: Interrupt,
    chunks: Vec<ChunkRef>,
    bytes: usize,
    pieces: Vec<Piece<C::File>>,
    buffer: Vec<u8>,
}

impl<C: Consumer> std::fmt::Debug for Windows<'_, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Windows")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl<'c, C: Consumer> Windows<'c, C> {
    /// Windows over what `reader` reads. Ids of chunks are recomputed if `check`; the consumer is asked what is present if `compare`.
    pub fn new(
        reader: Arc<ChunkReader>,
        consumer: &'c C,
        check: bool,
        compare: bool,
        threads: usize,
        stop: Interrupt,
    ) -> Self {
        Self {
            reader,
            consumer,
            threads,
            check,
            compare,
            stop,
            chunks: Vec::new(),
            bytes: 0,
            pieces: Vec::new(),
            buffer: Vec::new(),
        }
    }

    /// Adds a file with its content; runs windows as they are full.
    pub fn add(&mut self, mut file: C::File, content: &Content) -> Result<()> {
        let mut first = self.chunks.len();
        let mut failure = None;
        for chunk in Chunks::new(self.reader.clone(), content) {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(e) if is_of_one_object(&e) => {
                    failure = Some(e);
                    break;
                }
                Err(e) => return Err(e.into()),
            };
            let len = chunk.len as usize;
            if chunk.len == 0 || chunk.len > FRAME_RAW_MAX {
                failure = Some(missing(&chunk.id));
                break;
            }
            if !self.chunks.is_empty()
                && (self.bytes + len > WINDOW_BYTES || self.chunks.len() >= WINDOW_CHUNKS)
            {
                self.piece(file, first, None);
                match self.run()? {
                    Some(carried) => file = carried,
                    // It failed in this window and was ended.
                    None => return Ok(()),
                }
                first = 0;
            }
            self.bytes += len;
            self.chunks.push(chunk);
        }
        self.piece(file, first, Some(failure));
        if self.pieces.len() >= WINDOW_FILES {
            self.run()?;
        }
        Ok(())
    }

    /// Runs what is left.
    pub fn finish(mut self) -> Result<()> {
        self.run().map(drop)
    }

    fn piece(&mut self, file: C::File, first: usize, end: Option<Option<StoreError>>) {
        self.pieces.push(Piece {
            file: Mutex::new(Some(file)),
            chunks: first..self.chunks.len(),
            end,
        });
    }

    /// Runs the window; gives back the file that goes on in the next one.
    fn run(&mut self) -> Result<Option<C::File>> {
        if self.stop.is_set() {
            return Err(Error::Interrupted);
        }
        let chunks = std::mem::take(&mut self.chunks);
        let pieces = std::mem::take(&mut self.pieces);
        self.bytes = 0;
        let present = self.present(&chunks, &pieces)?;
        // Places of the wanted chunks in the buffer.
        let mut starts = Vec::with_capacity(chunks.len());
        let mut wants = Vec::with_capacity(chunks.len());
        let mut want_of = Vec::with_capacity(chunks.len());
        let mut len = 0;
        for (chunk, present) in chunks.iter().zip(&present) {
            starts.push(len);
            want_of.push(wants.len());
            if !present {
                wants.push(*chunk);
                len += chunk.len as usize;
            }
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(len.max(buffer.len()), 0);
        let failures = fetch(
            &self.reader,
            &wants,
            &mut buffer[..len],
            self.check,
            self.threads,
        )?;
        let failures: Mutex<HashMap<usize, StoreError>> =
            Mutex::new(failures.into_iter().collect());
        let carried = Mutex::new(None);
        let each = |_: &mut (), at: usize| {
            let piece: &Piece<C::File> = &pieces[at];
            let Some(mut file) = lock(&piece.file).take() else {
                return Ok(());
            };
            let failure = {
                let mut failures = lock(&failures);
                let wanted = piece.chunks.clone().filter(|at| !present[*at]);
                match failures.is_empty() {
                    true => None,
                    false => wanted
                        .map(|at| want_of[at])
                        .find_map(|want| failures.remove(&want)),
                }
            };
            if let Some(failure) = failure {
                return self.consumer.end(file, Some(failure));
            }
            let parts = parts_of(&chunks, &present, &starts, piece.chunks.clone(), &buffer);
            if !parts.is_empty() {
                self.consumer.take(&mut file, &parts)?;
            }
            Ok(match &piece.end {
                None => *lock(&carried) = Some(file),
                Some(None) => self.consumer.end(file, None)?,
                Some(Some(e)) => {
                    let e = StoreError::damaged(
                        "tree",
                        format!("its list of chunks can't be read: {e}"),
                    );
                    self.consumer.end(file, Some(e))?;
                }
            })
        };
        for_each_parallel(self.threads, pieces.len(), || Ok(()), each)?;
        self.buffer = buffer;
        let carried = lock(&carried).take();
        Ok(carried)
    }

    fn present(&self, chunks: &[ChunkRef], pieces: &[Piece<C::File>]) -> Result<Vec<bool>> {
        let mut present = vec![false; chunks.len()];
        if !self.compare {
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
            self.threads,
            pieces.len(),
            || Ok(()),
            |_: &mut (), at| {
                let piece = &pieces[at];
                match &mut *lock(&piece.file) {
                    Some(file) => self.consumer.present(
                        file,
                        &chunks[piece.chunks.clone()],
                        &mut lock(&slices[at]),
                    ),
                    None => Ok(()),
                }
            },
        )?;
        drop(slices);
        Ok(present)
    }
}

/// The parts of one piece: wanted chunks that follow each other are one.
fn parts_of<'b>(
    chunks: &[ChunkRef],
    present: &[bool],
    starts: &[usize],
    piece: std::ops::Range<usize>,
    buffer: &'b [u8],
) -> Vec<Part<'b>> {
    let mut parts = Vec::new();
    let mut at = piece.start;
    while at < piece.end {
        let same = (at..piece.end)
            .take_while(|next| present[*next] == present[at])
            .count();
        let run = at..at + same;
        let len: usize = chunks[run.clone()]
            .iter()
            .map(|chunk| chunk.len as usize)
            .sum();
        parts.push(match present[at] {
            true => Part::Present(u64::try_from(len).expect("a length fits 64 bits")),
            false => Part::Data(&buffer[starts[at]..starts[at] + len]),
        });
        at = run.end;
    }
    parts
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
