//! Contents of files in order, read ahead in windows over several frames at once.
//!
//! A thread plans: it walks whatever is to be read and hands it to a [`Feeder`], marks between the contents. Each window's frames are read and
//! decoded once each, by all cores; the pieces come out in the order in which they were planned.
//!
//! Invariants:
//! 1. Every byte of a piece was authenticated, its chunk's id recomputed; holes come as zeros (`a_sparse_file_comes_back`).
//! 2. A content gives exactly as many bytes as its node says, or fails (`sizes_that_lie_are_damage`).
//! 3. A content of at most [`WHOLE_BYTES`] lies in one window, so that its failure is known before its first byte is used.
//!
//! Memory: four windows (planned, waiting, in the channel, in use) of at most twice [`WINDOW_BYTES`], and two frames for each core.
//!
//! Threads: the planner, one for each core while a window is read, and the consumer. If the consumer goes away the planner ends.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::format::node::{ChunkRef, Content, Hole, Node, decode_items};
use crate::ops::backup::Interrupt;
use crate::store::StoreError;
use crate::store::chunk_index::Location;
use crate::store::reader::{ChunkReader, Scratch};
use crate::store::tree::{Chunks, read_all};

/// Bytes of chunks that are read at once.
pub(crate) const WINDOW_BYTES: usize = 16 << 20;
/// A content of at most this size lies in one window.
pub(crate) const WHOLE_BYTES: u64 = 4 << 20;
/// Steps of a window.
const WINDOW_STEPS: usize = 1 << 16;
/// Bytes of a list of holes or of large attributes.
const LIST_BYTES_MAX: usize = 64 << 20;

/// A part of what was planned, in order.
#[derive(Debug)]
pub(crate) enum Piece<T> {
    /// What the planner put there.
    Mark(T),
    /// Bytes of the content after the last mark.
    Data(Bytes),
    /// So many zeros.
    Zeros(u64),
    /// The rest of the content after the last mark can't be read.
    Failed(StoreError),
}

impl<T> Piece<T> {
    /// Why the content can't be read, if this says so; zeros stand in its place.
    pub(crate) fn take_failure(&mut self) -> Option<StoreError> {
        match std::mem::replace(self, Self::Zeros(0)) {
            Self::Failed(error) => Some(error),
            other => {
                *self = other;
                None
            }
        }
    }
}

/// The pieces of one window.
pub(crate) type Window<T> = Vec<Piece<T>>;

/// Gives the windows to the consumer; `Err` is why the planner ended early.
pub(crate) type Windows<T> = mpsc::Receiver<Result<Window<T>>>;

/// Runs `plan` on a thread of its own and `consume` on this one.
pub(crate) fn read_ahead<T: Send, R>(
    interrupt: &Interrupt,
    plan: impl FnOnce(&mut Feeder<T>) -> Result<()> + Send,
    consume: impl FnOnce(Windows<T>) -> Result<R>,
) -> Result<R> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::scope(|scope| {
        let planner = std::thread::Builder::new().name("read-ahead".into());
        let run = move || {
            let mut feeder = Feeder::new(sender, interrupt.clone());
            let planned = plan(&mut feeder).and_then(|()| feeder.flush());
            match planned {
                Ok(()) | Err(Error::Stopped) => {}
                // Nobody listens any more: then the consumer has an error of its own.
                Err(e) => drop(feeder.sender.blocking_send(Err(e))),
            }
        };
        planner
            .spawn_scoped(scope, run)
            .map_err(|e| Error::local("cannot start a thread", e))?;
        consume(receiver)
    })
}

enum Step<T> {
    Mark(T),
    /// `len` bytes from `start` on of a wanted chunk.
    Part {
        want: usize,
        start: usize,
        len: usize,
    },
    Zeros(u64),
    Failed(StoreError),
}

/// Takes the plan.
pub(crate) struct Feeder<T> {
    sender: mpsc::Sender<Result<Window<T>>>,
    interrupt: Interrupt,
    /// What the wants are read with.
    reader: Option<Arc<ChunkReader>>,
    scratches: Vec<Scratch>,
    steps: Vec<Step<T>>,
    wants: Vec<ChunkRef>,
    wanted_bytes: usize,
}

impl<T> std::fmt::Debug for Feeder<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feeder")
            .field("steps", &self.steps.len())
            .field("wanted_bytes", &self.wanted_bytes)
            .finish_non_exhaustive()
    }
}

impl<T: Send> Feeder<T> {
    fn new(sender: mpsc::Sender<Result<Window<T>>>, interrupt: Interrupt) -> Self {
        Self {
            sender,
            interrupt,
            reader: None,
            scratches: Vec::new(),
            steps: Vec::new(),
            wants: Vec::new(),
            wanted_bytes: 0,
        }
    }

    /// Puts a mark.
    pub(crate) fn mark(&mut self, mark: T) -> Result<()> {
        self.push(Step::Mark(mark))
    }

    /// Puts a mark and after it the content of a file.
    pub(crate) fn file(&mut self, reader: &Arc<ChunkReader>, mark: T, node: &Node) -> Result<()> {
        if node.size <= WHOLE_BYTES && self.room() < node.size {
            self.flush()?;
        }
        self.mark(mark)?;
        match self.content(reader, node) {
            Err(Error::Store(e)) => self.push(Step::Failed(e)),
            other => other,
        }
    }

    fn room(&self) -> u64 {
        let room = WINDOW_BYTES.saturating_sub(self.wanted_bytes);
        // A full list of steps ends a window too; a small content may have a chunk of a few hundred bytes at worst.
        match self.steps.len() < WINDOW_STEPS / 2 {
            true => u64::try_from(room).unwrap_or(u64::MAX),
            false => 0,
        }
    }

    fn content(&mut self, reader: &Arc<ChunkReader>, node: &Node) -> Result<()> {
        self.reader = Some(reader.clone());
        let holes = holes_of(reader, node)?;
        let mut layout = Layout::new(node.size, holes);
        layout.zeros(self)?;
        for chunk in Chunks::new(reader.clone(), &node.content) {
            let chunk = chunk?;
            let want = self.want(chunk)?;
            layout.chunk(self, want, chunk.len as usize)?;
        }
        layout.end()
    }

    /// Adds a chunk to the window; gives its position there.
    fn want(&mut self, chunk: ChunkRef) -> Result<usize> {
        if self.wanted_bytes + chunk.len as usize > WINDOW_BYTES && !self.wants.is_empty() {
            self.flush()?;
        }
        self.wanted_bytes += chunk.len as usize;
        self.wants.push(chunk);
        Ok(self.wants.len() - 1)
    }

    fn push(&mut self, step: Step<T>) -> Result<()> {
        // Parts belong to the wants of this window: only something else may begin a new one.
        let full = self.steps.len() >= WINDOW_STEPS;
        if full && !matches!(step, Step::Part { .. } | Step::Zeros(_)) {
            self.flush()?;
        }
        self.steps.push(step);
        Ok(())
    }

    /// Reads the window and hands it over.
    fn flush(&mut self) -> Result<()> {
        if self.interrupt.is_set() {
            return Err(Error::Interrupted);
        }
        if self.steps.is_empty() {
            return Ok(());
        }
        let wants = std::mem::take(&mut self.wants);
        self.wanted_bytes = 0;
        let chunks = match &self.reader {
            Some(reader) => fetch(reader, &wants, &mut self.scratches)?,
            None => Vec::new(),
        };
        let window = pieces(std::mem::take(&mut self.steps), chunks);
        self.sender
            .blocking_send(Ok(window))
            .map_err(|_gone| Error::Stopped)
    }
}

fn pieces<T>(steps: Vec<Step<T>>, chunks: Vec<Result<Bytes, StoreError>>) -> Window<T> {
    let mut chunks: Vec<Result<Bytes, Option<StoreError>>> =
        chunks.into_iter().map(|c| c.map_err(Some)).collect();
    let mut window = Vec::with_capacity(steps.len());
    for step in steps {
        match step {
            Step::Mark(mark) => window.push(Piece::Mark(mark)),
            Step::Zeros(len) => window.push(Piece::Zeros(len)),
            Step::Failed(error) => window.push(Piece::Failed(error)),
            Step::Part { want, start, len } => match &mut chunks[want] {
                Ok(bytes) => window.push(Piece::Data(bytes.slice(start..start + len))),
                // Told once; the parts after it are not used.
                Err(error) => window.extend(error.take().map(Piece::Failed)),
            },
        }
    }
    window
}

/// Where data and zeros of a file lie.
struct Layout {
    size: u64,
    /// Bytes given so far.
    at: u64,
    holes: std::vec::IntoIter<Hole>,
    /// The next hole.
    next: Option<Hole>,
}

impl Layout {
    fn new(size: u64, holes: Vec<Hole>) -> Self {
        let mut holes = holes.into_iter();
        let next = holes.next();
        Self {
            size,
            at: 0,
            holes,
            next,
        }
    }

    fn lies(&self) -> StoreError {
        StoreError::damaged(
            "tree",
            format!(
                "a content does not have the {} bytes that its node says",
                self.size
            ),
        )
    }

    fn advance(&mut self, len: u64) -> Result<(), StoreError> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.size);
        self.at = end.ok_or_else(|| self.lies())?;
        Ok(())
    }

    /// Gives the holes that begin here.
    fn zeros<T: Send>(&mut self, feeder: &mut Feeder<T>) -> Result<()> {
        while let Some(hole) = self.next.filter(|hole| hole.offset <= self.at) {
            if hole.offset < self.at {
                return Err(self.lies().into());
            }
            self.advance(hole.len)?;
            self.next = self.holes.next();
            feeder.push(Step::Zeros(hole.len))?;
        }
        Ok(())
    }

    fn chunk<T: Send>(&mut self, feeder: &mut Feeder<T>, want: usize, len: usize) -> Result<()> {
        let mut start = 0;
        while start < len {
            let gap = self.next.map_or(u64::MAX, |hole| hole.offset - self.at);
            let part = (len - start).min(usize::try_from(gap).unwrap_or(usize::MAX));
            self.advance(u64::try_from(part).expect("a length fits 64 bits"))?;
            feeder.push(Step::Part {
                want,
                start,
                len: part,
            })?;
            start += part;
            self.zeros(feeder)?;
        }
        Ok(())
    }

    fn end(self) -> Result<()> {
        match self.at == self.size && self.next.is_none() {
            true => Ok(()),
            false => Err(self.lies().into()),
        }
    }
}

/// All holes of a file.
fn holes_of(reader: &Arc<ChunkReader>, node: &Node) -> Result<Vec<Hole>, StoreError> {
    let mut holes = node.holes.clone();
    if let Some(stream) = &node.holes_stream {
        list_items(reader, stream, |hole| holes.push(hole))?;
    }
    Ok(holes)
}

/// Reads a list that stands in a stream of its own.
pub(crate) fn list_items<T: for<'b> minicbor::Decode<'b, ()>>(
    reader: &Arc<ChunkReader>,
    stream: &Content,
    each: impl FnMut(T),
) -> Result<(), StoreError> {
    let bytes = read_all(reader, stream, LIST_BYTES_MAX)?;
    decode_items(&bytes, each).map_err(|e| StoreError::damaged("tree", e))
}

/// Reads chunks, each of their frames once, on all cores.
fn fetch(
    reader: &Arc<ChunkReader>,
    wants: &[ChunkRef],
    scratches: &mut Vec<Scratch>,
) -> Result<Vec<Result<Bytes, StoreError>>> {
    let index = reader.index();
    let mut places: Vec<(Location, usize)> = Vec::with_capacity(wants.len());
    for (want, chunk) in wants.iter().enumerate() {
        let found = index.find(&chunk.id).filter(|found| found.len == chunk.len);
        places.extend(found.map(|location| (location, want)));
    }
    places.sort_unstable_by_key(|(l, want)| (l.pack, l.frame, l.offset, *want));
    let groups: Vec<&[(Location, usize)]> = places
        .chunk_by(|(a, _), (b, _)| (a.pack, a.frame) == (b.pack, b.frame))
        .collect();
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    while scratches.len() < threads {
        scratches.push(reader.scratch()?);
    }
    let slots: Vec<OnceLock<Bytes>> = wants.iter().map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    let work = |scratch: &mut Scratch| {
        while let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (first, _) = group[0];
            let Ok(pack) = index.pack(first.pack) else {
                continue;
            };
            let pack = &*pack;
            let mut plain = Vec::new();
            // What fails here is read again below, from another copy or after the log went on.
            if let Err(e) = reader.read_frame(pack, first.frame, scratch, &mut plain) {
                tracing::debug!("{e}");
                continue;
            }
            let frame = Bytes::from(plain);
            let used: usize = group.iter().map(|(place, _)| place.len as usize).sum();
            let mut last: Option<(Location, Bytes)> = None;
            for (place, want) in *group {
                let known = last.as_ref().filter(|(location, _)| location == place);
                if let Some((_, bytes)) = known {
                    slots[*want].get_or_init(|| bytes.clone());
                    continue;
                }
                let start = place.offset as usize;
                let end = start + place.len as usize;
                let Some(bytes) = frame.get(start..end) else {
                    continue;
                };
                if reader.check_chunk(pack, &wants[*want], bytes).is_err() {
                    continue;
                }
                // A frame of which little is used is not kept for that little.
                let bytes = match used < frame.len() / 2 {
                    true => Bytes::copy_from_slice(bytes),
                    false => frame.slice(start..end),
                };
                slots[*want].get_or_init(|| bytes.clone());
                last = Some((*place, bytes));
            }
        }
    };
    std::thread::scope(|scope| {
        let used = groups.len().clamp(1, threads);
        let mut mine = None;
        for scratch in scratches.iter_mut().take(used) {
            match mine {
                None => mine = Some(scratch),
                Some(_) => drop(scope.spawn(|| work(scratch))),
            }
        }
        mine.into_iter().for_each(&work);
    });
    let chunks = slots.into_iter().zip(wants);
    Ok(chunks
        .map(|(slot, want)| match slot.into_inner() {
            Some(bytes) => Ok(bytes),
            None => reader.chunk(want),
        })
        .collect())
}

/// Writes zeros.
pub(crate) fn write_zeros(out: &mut dyn std::io::Write, len: u64) -> std::io::Result<()> {
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), len), out).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_lie_are_damage() {
        let check = |size: u64, holes: &[(u64, u64)], chunks: &[usize], expected: Option<&str>| {
            let (sender, _receiver) = mpsc::channel(1);
            let mut feeder: Feeder<()> = Feeder::new(sender, Interrupt::default());
            let holes = holes.iter().map(|(offset, len)| Hole {
                offset: *offset,
                len: *len,
            });
            let layout = Layout::new(size, holes.collect());
            let run = |feeder: &mut Feeder<()>, mut layout: Layout| -> Result<()> {
                layout.zeros(feeder)?;
                for (want, len) in chunks.iter().enumerate() {
                    layout.chunk(feeder, want, *len)?;
                }
                layout.end()
            };
            let outcome = run(&mut feeder, layout);
            let step = |step: &Step<()>| match step {
                Step::Part { want, start, len } => format!("{want}:{start}+{len}"),
                Step::Zeros(len) => format!("0x{len}"),
                _ => String::new(),
            };
            let steps: Vec<String> = feeder.steps.iter().map(step).collect();
            match expected {
                Some(expected) => {
                    outcome.unwrap();
                    assert_eq!(steps.join(" "), expected);
                }
                None => assert_eq!(outcome.unwrap_err().exit_code(), 4),
            }
        };
        check(0, &[], &[], Some(""));
        check(30, &[], &[10, 20], Some("0:0+10 1:0+20"));
        check(
            30,
            &[(0, 5), (10, 5), (25, 5)],
            &[12, 3],
            Some("0x5 0:0+5 0x5 0:5+7 1:0+3 0x5"),
        );
        check(9, &[(0, 9)], &[], Some("0x9"));
        check(29, &[], &[10, 20], None);
        check(31, &[], &[10, 20], None);
        check(30, &[(40, 5)], &[30], None);
        check(30, &[(0, 10), (5, 10)], &[10], None);
        check(30, &[(20, u64::MAX)], &[20], None);
    }
}
