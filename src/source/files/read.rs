//! Reads the contents of regular files and decides whether what was read is one state.
//!
//! A file is looked at before and after it is read. If it changed it is read again within a budget; what still changes is archived as
//! `torn`. Where it only became longer, the first bytes are read a second time: when they are the same, the length seen first is
//! archived as `grew`.
//!
//! Invariants:
//! 1. What is archived as whole was not touched between two looks (`tests::a_file_that_changes_is_never_whole`).
//! 2. A reader holds one unit of at most [`UNIT_BYTES_MAX`] and one window, whatever the files' sizes.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::{Advice, FileType, OFlags};
use rustix::io::Errno;
use xxhash_rust::xxh3::Xxh3;

use super::hands::{Hands, Reader, Task};
use super::links;
use super::metadata::{self, Handle, Stat, XattrSource};
use super::nodes;
use super::shareable::Shareable;
use super::sparse;
use super::walk::{self, Dir, Entry, Shared, one, open_entry, words};
use crate::error::{Error, Result};
use crate::format::holes::segments;
use crate::format::id::ContentDigest;
use crate::format::node::{Consistency, Hole, Node, Timestamp, Xattr};
use crate::pipeline::{
    ItemWriter, SegmentedItem, SegmentsEnd, StoredItem, StreamKind, TreePath, Worker,
};

/// Files of this size are shared by several workers: in segments that each reads by itself, or, where they have holes or may be growing, by a
/// reader of their own.
const BIG_ON_WORKER: u64 = if cfg!(test) { 5 << 20 } else { 64 << 20 };
/// The same where readers read everything.
const BIG_ON_READER: u64 = 8 << 20;
/// Bytes of small files that a reader queues at once.
const UNIT_BYTES_MAX: usize = 256 << 10;
/// Larger files are not put into a unit with others.
const UNIT_FILE_BYTES_MAX: u64 = 128 << 10;
/// A reader's buffer; it is made for the first file that is too large for a unit.
const READER_WINDOW_BYTES: usize = 256 << 10;
/// A worker's buffer.
const WORKER_WINDOW_BYTES: usize = 512 << 10;
/// Files modified this short before the walk may be growing: their first reading is hashed, so that it can be compared.
const ACTIVE_SECONDS: i64 = 600;
/// Zeros of a hole that are hashed before this looks whether the run was stopped.
const HOLE_BYTES_MAX: u64 = 16 << 30;
/// Up to this size a changing file is read three times, beyond it twice.
const THREE_TRIES_BYTES_MAX: u64 = 16 << 20;

/// Small files of a reader that wait to be queued together.
#[derive(Debug, Default)]
pub(super) struct Unit {
    bytes: Vec<u8>,
    files: Vec<(usize, Found, Reading)>,
}

/// A file to be read, and what is known of it.
#[derive(Debug)]
struct Found {
    dir: Arc<Dir>,
    name: Vec<u8>,
    path: TreePath,
    old: Option<Box<Node>>,
    xattrs: Vec<Xattr>,
}

/// What came out of reading.
#[derive(Debug)]
struct Reading {
    stat: Stat,
    len: u64,
    holes: Vec<Hole>,
    consistency: Consistency,
}

/// Why a file was not read.
enum Failure {
    /// The file's fault.
    Item(String),
    /// The run's fault.
    Run(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Run(error)
    }
}

impl Failure {
    fn read(error: Errno) -> Self {
        Self::Item(words("read it", error))
    }
}

/// Takes over, links or reads one regular file.
pub(super) fn file(
    shared: &Arc<Shared>,
    hands: &mut Hands<'_>,
    dir: &Arc<Dir>,
    entry: Entry,
    path: TreePath,
    (stat, handle): (Stat, Option<Handle>),
    offered: bool,
) -> Result<()> {
    let rule = shared.rule(&dir.place);
    if let Some(old) = &entry.old {
        if dir.place.trusted && old.size == stat.size && old.modified == stat.modified {
            let same = old.inode == Some(stat.ino);
            let counts = &shared.counts;
            one(if same {
                &counts.inode_same
            } else {
                &counts.inode_differs
            });
        }
        if rule.is_unchanged(&stat, old) {
            let found = (&entry, &path);
            return take_over(shared, hands, dir, found, (&stat, handle.as_ref()), old);
        }
    }
    if let Some(known) = shared.links.recall(&stat) {
        let node = Node {
            name: entry.name,
            ..known
        };
        nodes::count(shared, entry.old.is_some());
        return shared.add_node(&path, node);
    }
    let big = match hands {
        Hands::Worker(_) => BIG_ON_WORKER,
        Hands::Reader(_) => BIG_ON_READER,
    };
    let in_segments = stat.size >= big
        && matches!(hands, Hands::Worker(_))
        && !may_have_holes(&stat)
        && !may_be_growing(&stat, shared.now);
    let mut entry = entry;
    if stat.size >= big && !offered && !in_segments {
        let dir = Arc::clone(dir);
        match hands.offer(shared, Task::Big { dir, entry })? {
            Some(Task::Big { entry: back, .. }) => entry = back,
            _ => return Ok(()),
        }
    }
    let mut found = Found {
        dir: Arc::clone(dir),
        name: entry.name,
        path,
        old: entry.old,
        xattrs: Vec::new(),
    };
    if stat.size == 0 {
        return empty(shared, hands, found, (&stat, handle.as_ref()));
    }
    let opened = match open(shared, &found, handle.as_ref()) {
        Ok(opened) => opened,
        Err(reason) => return shared.skip(&found.path, reason),
    };
    drop(handle);
    let source = XattrSource::Open(opened.as_fd());
    found.xattrs = nodes::read_xattrs(shared, &dir.place, &found.path, &source)?;
    let path = found.path.clone();
    let done = match hands {
        Hands::Worker(worker) if in_segments => {
            read_in_segments(shared, worker, opened, found, stat)
        }
        Hands::Worker(worker) => {
            let tries = Tries::new(stat, shared.now);
            read_on_worker(shared, worker, &opened, found, tries, stat.size)
        }
        Hands::Reader(reader) => read_on_reader(shared, reader, &opened, found, stat),
    };
    match done {
        Ok(()) => Ok(()),
        Err(Failure::Item(reason)) => shared.skip(&path, reason),
        Err(Failure::Run(error)) => Err(error),
    }
}

/// The parent's content under today's metadata.
fn take_over(
    shared: &Arc<Shared>,
    hands: &mut Hands<'_>,
    dir: &Arc<Dir>,
    (entry, path): (&Entry, &TreePath),
    (stat, handle): (&Stat, Option<&Handle>),
    old: &Node,
) -> Result<()> {
    let same_state = shared.rule(&dir.place).same_inode_state(stat, old);
    if same_state && !entry.encoded.is_empty() && is_same_node(shared, dir, stat, old) {
        shared.sink.stats.files_unmodified.one();
        shared.sink.stats.bytes_unmodified.add(stat.size);
        one(&shared.counts.files);
        shared.counts.bytes.fetch_add(old.size, Ordering::Relaxed);
        let sink = &shared.sink;
        return sink.add_encoded_node(path, old, &entry.encoded);
    }
    let mut node = nodes::of_file(shared, dir, &entry.name, stat);
    node.content.clone_from(&old.content);
    node.digest = old.digest;
    node.holes.clone_from(&old.holes);
    node.holes_stream.clone_from(&old.holes_stream);
    shared.sink.stats.files_unmodified.one();
    shared.sink.stats.bytes_unmodified.add(stat.size);
    if same_state {
        node.xattrs.clone_from(&old.xattrs);
        node.xattrs_stream.clone_from(&old.xattrs_stream);
        return shared.add_node(path, node);
    }
    let source = XattrSource::of(dir.fd.as_fd(), &entry.name, handle);
    let xattrs = nodes::read_xattrs(shared, &dir.place, path, &source)?;
    let holes = std::mem::take(&mut node.holes);
    nodes::add(shared, hands, path, node, xattrs, holes)
}

/// Whether what is taken over of an unchanged file is all of the parent's node: with nothing else in it, and today's owners' names.
fn is_same_node(shared: &Shared, dir: &Dir, stat: &Stat, old: &Node) -> bool {
    let link_group = (stat.nlink > 1).then(|| links::link_group(dir.place.mount, stat.ino));
    metadata::says(old, stat, &shared.owners)
        && old.link_group == link_group
        && old.device.is_none()
        && old.target.is_none()
        && old.subtree.is_none()
        && old.table.is_none()
}

/// A file without bytes is not even opened.
fn empty(
    shared: &Arc<Shared>,
    hands: &mut Hands<'_>,
    found: Found,
    (stat, handle): (&Stat, Option<&Handle>),
) -> Result<()> {
    let mut node = nodes::of_file(shared, &found.dir, &found.name, stat);
    node.digest = shared
        .source
        .digest
        .then(|| ContentDigest(*blake3::hash(b"").as_bytes()));
    nodes::count_read(shared, found.old.as_deref(), &node);
    let source = XattrSource::of(found.dir.fd.as_fd(), &found.name, handle);
    let xattrs = nodes::read_xattrs(shared, &found.dir.place, &found.path, &source)?;
    nodes::add(shared, hands, &found.path, node, xattrs, Vec::new())
}

/// Opens a file by the handle that it was looked at with, which costs no look-up of its name, or by its name.
fn open(shared: &Shared, found: &Found, handle: Option<&Handle>) -> Result<OwnedFd, String> {
    if let Some(opened) = handle.and_then(|handle| handle.open(walk::open_flags(shared)).ok()) {
        return Ok(opened);
    }
    // Another program's lease (Samba's oplocks) makes a non-blocking open fail until it is given up.
    for _ in 0..20 {
        match open_entry(shared, &found.dir.fd, &found.name, OFlags::empty()) {
            Ok(opened) => return Ok(opened),
            Err(Errno::AGAIN) => std::thread::sleep(Duration::from_millis(50)),
            Err(Errno::NOENT) => return Err("vanished before it was read".to_owned()),
            Err(Errno::LOOP) => return Err("became a symbolic link while it was read".to_owned()),
            Err(error) => return Err(words("open it", error)),
        }
    }
    Err("another program holds a lease on it".to_owned())
}

fn may_have_holes(stat: &Stat) -> bool {
    stat.size >= 4096 && stat.blocks.saturating_mul(512) < stat.size
}

fn may_be_growing(stat: &Stat, now: Timestamp) -> bool {
    stat.modified.seconds >= now.seconds.saturating_sub(ACTIVE_SECONDS)
}

/// Readings of one file, one after the other.
struct Tries {
    first: Option<Stat>,
    count: u32,
    hashed: bool,
}

/// One reading: what the file looked like before it.
struct Plan {
    stat: Stat,
    holes: Vec<Hole>,
}

enum Verdict {
    Done(Reading),
    Again,
}

/// Bytes of a reading, and their hash where one was made.
struct Pass {
    len: u64,
    hash: Option<u128>,
}

impl Tries {
    fn new(stat: Stat, now: Timestamp) -> Self {
        Self {
            hashed: may_be_growing(&stat, now),
            first: Some(stat),
            count: 0,
        }
    }

    /// After a reading that was not one state.
    fn after_the_first() -> Self {
        Self {
            hashed: true,
            first: None,
            count: 1,
        }
    }

    fn plan(&mut self, file: &OwnedFd) -> Result<Plan, Failure> {
        let stat = match self.first.take() {
            Some(stat) => stat,
            None => Stat::of(file).map_err(Failure::read)?,
        };
        let holes = if may_have_holes(&stat) {
            sparse::holes(file, stat.size).map_err(Failure::read)?
        } else {
            Vec::new()
        };
        Ok(Plan { stat, holes })
    }

    /// Looks at the file after a reading.
    fn judge(
        &mut self,
        shared: &Shared,
        file: &OwnedFd,
        plan: Plan,
        pass: &Pass,
        window: &mut Vec<u8>,
    ) -> Result<Verdict, Failure> {
        let after = Stat::of(file).map_err(Failure::read)?;
        if after.kind != FileType::RegularFile {
            return Err(Failure::Item(
                "became something else while it was read".to_owned(),
            ));
        }
        let complete = pass.len == plan.stat.size;
        let consistency = if complete && after.same_content(&plan.stat) {
            Some(Consistency::Whole)
        } else if complete && after.ino == plan.stat.ino && after.size > plan.stat.size {
            self.only_grew(shared, file, &plan, pass, window)?
        } else {
            None
        };
        self.count += 1;
        self.hashed = true;
        let tries = if plan.stat.size <= THREE_TRIES_BYTES_MAX {
            3
        } else {
            2
        };
        let consistency = match consistency {
            Some(consistency) => consistency,
            None if self.count < tries => return Ok(Verdict::Again),
            None => Consistency::Torn,
        };
        Ok(Verdict::Done(Reading {
            len: pass.len,
            stat: plan.stat,
            holes: plan.holes,
            consistency,
        }))
    }

    fn only_grew(
        &self,
        shared: &Shared,
        file: &OwnedFd,
        plan: &Plan,
        pass: &Pass,
        window: &mut Vec<u8>,
    ) -> Result<Option<Consistency>, Failure> {
        if pass.hash.is_none() {
            return Ok(None);
        }
        let again = copy(shared, file, plan, sized(window), true, |_| Ok(()))?;
        Ok((again.hash == pass.hash && again.len == pass.len).then_some(Consistency::Grew))
    }
}

/// A reader's window, made when it is needed: most readers of small files never do.
fn sized(window: &mut Vec<u8>) -> &mut [u8] {
    if window.is_empty() {
        *window = vec![0; READER_WINDOW_BYTES];
    }
    window
}

/// Reads a whole file without holes to the end of `bytes`; it may be shorter than its size said.
fn append(file: &OwnedFd, size: usize, bytes: &mut Vec<u8>, hashed: bool) -> Result<Pass, Failure> {
    let start = bytes.len();
    bytes.resize(start + size, 0);
    let mut at = start;
    while at < bytes.len() {
        let offset = (at - start) as u64;
        match rustix::io::pread(file, &mut bytes[at..], offset) {
            Ok(0) => break,
            Ok(len) => at += len,
            Err(Errno::INTR) => {}
            Err(error) => {
                let what = format!("read it at {offset}");
                return Err(Failure::Item(words(&what, error)));
            }
        }
    }
    bytes.truncate(at);
    let hash = hashed.then(|| xxhash_rust::xxh3::xxh3_128(&bytes[start..]));
    Ok(Pass {
        len: (at - start) as u64,
        hash,
    })
}

enum Piece<'b> {
    Data(&'b [u8]),
    Hole(u64),
}

/// Reads what `plan` says into `window`, piece by piece; ends early where the file does.
fn copy(
    shared: &Shared,
    file: &OwnedFd,
    plan: &Plan,
    window: &mut [u8],
    hashed: bool,
    mut each: impl FnMut(Piece<'_>) -> Result<()>,
) -> Result<Pass, Failure> {
    let mut hasher = hashed.then(Xxh3::new);
    let mut at = 0;
    'all: for segment in segments(&plan.holes, plan.stat.size) {
        let end = segment.offset + segment.len;
        while !segment.data && at < end {
            let step = (end - at).min(HOLE_BYTES_MAX);
            each(Piece::Hole(step))?;
            at += step;
            shared.check()?;
        }
        while at < end {
            let room = window
                .len()
                .min(usize::try_from(end - at).unwrap_or(usize::MAX));
            let len = match rustix::io::pread(file, &mut window[..room], at) {
                Ok(0) => break 'all,
                Ok(len) => len,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(Failure::Item(words(&format!("read it at {at}"), error))),
            };
            if let Some(hasher) = &mut hasher {
                hasher.update(&window[..len]);
            }
            each(Piece::Data(&window[..len]))?;
            at += len as u64;
            if at < end {
                shared.check()?;
            }
        }
    }
    let hash = hasher.map(|hasher| hasher.digest128());
    Ok(Pass { len: at, hash })
}

fn write_piece(shared: &Shared, writer: &mut ItemWriter<'_>, piece: &Piece<'_>) -> Result<()> {
    match piece {
        Piece::Data(bytes) => {
            shared.sink.stats.bytes_read.add(bytes.len() as u64);
            writer.write(bytes)
        }
        Piece::Hole(len) => writer.write_hole(*len),
    }
}

fn advise(file: &OwnedFd, size: u64) {
    if size > 1 << 20
        && let Err(error) = rustix::fs::fadvise(file, 0, None, Advice::Sequential)
    {
        tracing::trace!(%error, "no read-ahead advice");
    }
}

/// Reads, cuts and hashes in this thread.
fn read_on_worker(
    shared: &Arc<Shared>,
    worker: &mut Worker,
    file: &OwnedFd,
    found: Found,
    tries: Tries,
    size: u64,
) -> Result<(), Failure> {
    advise(file, size);
    let mut window = std::mem::take(&mut worker.window);
    if window.is_empty() {
        window.resize(WORKER_WINDOW_BYTES, 0);
    }
    let result = stream_inline(shared, worker, file, &mut window, found, tries);
    worker.window = window;
    result
}

fn stream_inline(
    shared: &Arc<Shared>,
    worker: &mut Worker,
    file: &OwnedFd,
    window: &mut Vec<u8>,
    found: Found,
    mut tries: Tries,
) -> Result<(), Failure> {
    loop {
        let plan = tries.plan(file)?;
        let kind = StreamKind::File {
            size: plan.stat.size,
        };
        let mut writer = ItemWriter::inline(worker, kind, shared.source.digest);
        let hashed = tries.hashed;
        let pass = copy(shared, file, &plan, window, hashed, |piece| {
            write_piece(shared, &mut writer, &piece)
        })?;
        if let Verdict::Done(reading) = tries.judge(shared, file, plan, &pass, window)? {
            let shared = Arc::clone(shared);
            let done =
                move |worker: &mut Worker, item| stored(&shared, worker, found, reading, item);
            return Ok(writer.finish(Box::new(done))?);
        }
    }
}

/// Reads on this worker and on those that are free. What changed meanwhile is read again from the first byte to the last: only then chunks and
/// digest are of the same bytes, whatever happens to the file.
fn read_in_segments(
    shared: &Arc<Shared>,
    worker: &mut Worker,
    file: OwnedFd,
    found: Found,
    stat: Stat,
) -> Result<(), Failure> {
    advise(&file, stat.size);
    let file = Arc::new(file);
    let source = Box::new(Shareable {
        shared: Arc::clone(shared),
        file: Arc::clone(&file),
    });
    let (shared, ticket) = (Arc::clone(shared), shared.tracker.ticket());
    let (pool, digest) = (shared.sink.pool.clone(), shared.source.digest);
    let done = move |worker: &mut Worker, end: SegmentsEnd| {
        let path = found.path.clone();
        let ended = match end {
            SegmentsEnd::Unreadable(reason) => Err(Failure::Item(reason)),
            SegmentsEnd::Short => {
                let tries = Tries::after_the_first();
                read_on_worker(&shared, worker, &file, found, tries, stat.size)
            }
            SegmentsEnd::Stored(item) => match Stat::of(&file) {
                Err(error) => Err(Failure::read(error)),
                Ok(after) if after.same_content(&stat) => {
                    let reading = Reading {
                        stat,
                        len: stat.size,
                        holes: Vec::new(),
                        consistency: Consistency::Whole,
                    };
                    stored(&shared, worker, found, reading, item).map_err(Failure::Run)
                }
                Ok(_changed) => {
                    let tries = Tries::after_the_first();
                    read_on_worker(&shared, worker, &file, found, tries, stat.size)
                }
            },
        };
        match ended {
            Ok(()) => {}
            Err(Failure::Item(reason)) => shared.skip(&path, reason)?,
            Err(Failure::Run(error)) => return Err(error),
        }
        drop(ticket);
        Ok(())
    };
    let done = Box::new(done);
    Ok(SegmentedItem::read(
        &pool, worker, source, stat.size, digest, done,
    )?)
}

/// Reads in this thread; cutting and hashing happen on the workers.
fn read_on_reader(
    shared: &Arc<Shared>,
    reader: &mut Reader,
    file: &OwnedFd,
    found: Found,
    stat: Stat,
) -> Result<(), Failure> {
    if stat.size <= UNIT_FILE_BYTES_MAX && !may_have_holes(&stat) {
        return read_into_unit(shared, reader, file, found, stat);
    }
    advise(file, stat.size);
    let Reader { queue, window, .. } = reader;
    let mut tries = Tries::new(stat, shared.now);
    loop {
        let plan = tries.plan(file)?;
        let kind = StreamKind::File {
            size: plan.stat.size,
        };
        let mut writer = ItemWriter::queued(queue, kind, shared.source.digest);
        let hashed = tries.hashed;
        let pass = copy(shared, file, &plan, sized(window), hashed, |piece| {
            write_piece(shared, &mut writer, &piece)
        })?;
        if let Verdict::Done(reading) = tries.judge(shared, file, plan, &pass, window)? {
            let (shared, ticket) = (Arc::clone(shared), shared.tracker.ticket());
            let done = move |worker: &mut Worker, item| {
                stored(&shared, worker, found, reading, item)?;
                drop(ticket);
                Ok(())
            };
            return Ok(writer.finish(Box::new(done))?);
        }
    }
}

fn read_into_unit(
    shared: &Arc<Shared>,
    reader: &mut Reader,
    file: &OwnedFd,
    found: Found,
    stat: Stat,
) -> Result<(), Failure> {
    let mut tries = Tries::new(stat, shared.now);
    loop {
        let plan = tries.plan(file)?;
        let size = usize::try_from(plan.stat.size).unwrap_or(usize::MAX);
        if plan.stat.size > UNIT_FILE_BYTES_MAX {
            return Err(Failure::Item(
                "grew far beyond its size while it was read".to_owned(),
            ));
        }
        if reader.unit.bytes.len() + size > UNIT_BYTES_MAX {
            flush_reader(shared, reader)?;
        }
        let Reader { unit, window, .. } = reader;
        let start = unit.bytes.len();
        let hashed = tries.hashed;
        let dense = Plan {
            stat: plan.stat,
            holes: Vec::new(),
        };
        let pass = append(file, size, &mut unit.bytes, hashed);
        let verdict = pass.and_then(|pass| tries.judge(shared, file, dense, &pass, window));
        match verdict {
            Ok(Verdict::Done(reading)) => {
                shared.sink.stats.bytes_read.add(reading.len);
                unit.files.push((start, found, reading));
                return Ok(());
            }
            Ok(Verdict::Again) => unit.bytes.truncate(start),
            Err(failure) => {
                unit.bytes.truncate(start);
                return Err(failure);
            }
        }
    }
}

/// Queues what a reader has collected.
pub(super) fn flush(shared: &Arc<Shared>, hands: &mut Hands<'_>) -> Result<()> {
    match hands {
        Hands::Worker(_) => Ok(()),
        Hands::Reader(reader) => flush_reader(shared, reader),
    }
}

fn flush_reader(shared: &Arc<Shared>, reader: &mut Reader) -> Result<()> {
    let Unit { bytes, files } = std::mem::take(&mut reader.unit);
    if files.is_empty() {
        return Ok(());
    }
    let (shared, ticket) = (Arc::clone(shared), shared.tracker.ticket());
    let len = bytes.len();
    let job = Box::new(move |worker: &mut Worker| {
        for (start, found, reading) in files {
            let size = usize::try_from(reading.len).unwrap_or(usize::MAX);
            let kind = StreamKind::File { size: reading.len };
            let mut writer = ItemWriter::inline(worker, kind, shared.source.digest);
            writer.write(&bytes[start..start + size])?;
            let for_done = Arc::clone(&shared);
            writer.finish(Box::new(move |worker: &mut Worker, item| {
                stored(&for_done, worker, found, reading, item)
            }))?;
        }
        drop(ticket);
        Ok(())
    });
    reader.queue.submit(len, job)
}

/// Makes the node of a file whose bytes are stored.
fn stored(
    shared: &Shared,
    worker: &mut Worker,
    found: Found,
    reading: Reading,
    item: StoredItem,
) -> Result<()> {
    let mut node = nodes::of_file(shared, &found.dir, &found.name, &reading.stat);
    node.size = reading.len;
    node.content = item.content;
    node.digest = item.digest;
    node.consistency = reading.consistency;
    nodes::count_read(shared, found.old.as_deref(), &node);
    match reading.consistency {
        Consistency::Whole => {
            report_bit_rot(shared, &found, &reading.stat, &node);
            if has_few_parts(&reading, &found.xattrs) {
                let mut complete = node.clone();
                complete.xattrs.clone_from(&found.xattrs);
                complete.holes.clone_from(&reading.holes);
                shared.links.remember(&reading.stat, &complete);
            }
        }
        Consistency::Grew => one(&shared.counts.grew),
        Consistency::Torn => {
            one(&shared.counts.torn);
            shared
                .sink
                .torn(&found.path, "changed each time it was read".to_owned())?;
        }
    }
    let mut holes = reading.holes;
    holes.retain(|hole| hole.offset + hole.len <= reading.len);
    nodes::complete(shared, worker, &found.path, node, found.xattrs, holes)
}

/// Whether a file with several names is worth remembering: what it consists of fits its node.
fn has_few_parts(reading: &Reading, xattrs: &[Xattr]) -> bool {
    reading.stat.nlink > 1
        && reading.holes.len() <= 16
        && metadata::xattrs_bytes(xattrs) <= metadata::XATTRS_INLINE_BYTES_MAX
}

/// A content that changed although size, times and inode did not.
fn report_bit_rot(shared: &Shared, found: &Found, stat: &Stat, node: &Node) {
    let rule = shared.rule(&found.dir.place);
    let Some(old) = &found.old else { return };
    if !rule.same_metadata(stat, old)
        || rule.is_fresh(stat)
        || old.consistency != Consistency::Whole
        || stat.nlink == 0
    {
        return;
    }
    let same = match (old.digest, node.digest) {
        (Some(before), Some(now)) => before == now,
        _ => old.content == node.content,
    };
    if !same {
        one(&shared.counts.bit_rot);
        let at = String::from_utf8_lossy(&found.path.display_bytes()).into_owned();
        shared.note(format!(
            "possible bit rot: the content of {at} changed although its size and times did not"
        ));
    }
}
