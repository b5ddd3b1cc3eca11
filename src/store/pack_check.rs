//! Reads a pack whole and says what is wrong with it: its name, its header, its directory, every frame, every chunk, every byte of padding.
//!
//! It never changes anything, and it does not ask which files are affected; `ops::verify` does.
//!
//! Invariants:
//! 1. Each byte of the object is hashed exactly once, in order, so a single flipped bit anywhere is found (`ops::verify`,
//!    `every_flip_is_found`).
//! 2. A frame whose bytes are good is never called damaged because of another part of its pack (`ops::verify`,
//!    `affected_files_are_named`); but a prefix frame is when its base is, wherever that stands.
//!
//! Memory of a checker: one sealed frame, one decoded frame, and the pack's directory with its padding; the bases are those of the reader.
//!
//! Threads: a checker belongs to one thread.

use bytes::Bytes;

use super::chunk_index::{ChunkIndex, Location};
use super::reader::{ChunkReader, Scratch};
use super::{Repository, StoreError};
use crate::backend::{BackendError, BackendErrorKind, ObjectKind, ObjectName};
use crate::crypto::{ChunkIdKey, ObjectKey};
use crate::format::header::SealedKind;
use crate::format::id::ObjectHash;
use crate::format::index::{RunFrame, RunPack};
use crate::format::pack::{
    DIRECTORY_NUMBER, FOOTER_NUMBER, FOOTER_SEALED_LEN, Footer, FrameEntry, PackDirectory,
};

/// Bytes that are read at once where no frame says how many.
const BLOCK_BYTES: usize = 1 << 20;

/// What the index says of a pack.
#[derive(Clone, Copy, Debug)]
pub struct Indexed<'a> {
    /// The index.
    pub index: &'a ChunkIndex,
    /// What it says of the pack.
    pub table: &'a RunPack,
    /// Position of the pack in it.
    pub pack: u32,
    /// How many chunks it names in this pack.
    pub chunk_count: u64,
}

/// What was found in a pack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackFindings {
    /// Chunks whose ids were recomputed and are right.
    pub chunks: u64,
    /// Bytes read.
    pub bytes: u64,
    /// What is wrong, in words; nothing for a good pack.
    pub wrong: Vec<String>,
    /// Frames that can't be used.
    pub damaged_frames: Vec<u32>,
    /// No frame can be used.
    pub all_damaged: bool,
    /// A frame that others of it are on is gone, as it may be when the log went on.
    pub lacks_base: bool,
}

/// Checks packs, one after the other.
pub struct PackChecker<'r> {
    repository: &'r Repository,
    id_key: ChunkIdKey,
    /// Reads the bases of prefix frames, which stand in other packs.
    reader: &'r ChunkReader,
    scratch: Scratch,
    sealed: Vec<u8>,
    plain: Vec<u8>,
}

impl std::fmt::Debug for PackChecker<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackChecker").finish_non_exhaustive()
    }
}

/// One pack being read.
struct Reading<'c, 'r> {
    checker: &'c mut PackChecker<'r>,
    name: ObjectName,
    len: u64,
    /// The index names it.
    indexed: bool,
    /// Everything before this was hashed.
    at: u64,
    hasher: blake3::Hasher,
    found: PackFindings,
}

/// What a frame is on.
enum BaseOf {
    None,
    Plain(Bytes),
    Absent,
    Bad(String),
}

/// The end of a pack, from its directory on.
struct Tail {
    directory: PackDirectory,
    offset: u64,
}

impl<'r> PackChecker<'r> {
    /// A checker of packs of the reader's repository.
    pub fn new(reader: &'r ChunkReader) -> Result<Self, StoreError> {
        let repository = &**reader.repository();
        let missing = |missing: crate::crypto::MissingSecret| StoreError::MissingSecret {
            what: missing.action.to_owned(),
        };
        Ok(Self {
            repository,
            id_key: repository.keyring().chunk_id_key().map_err(missing)?,
            reader,
            scratch: reader.scratch()?,
            sealed: Vec::new(),
            plain: Vec::new(),
        })
    }

    /// Reads a pack whole. An error is one of the backend or of the key, not damage; an absent pack is an error of kind `NotFound`.
    pub fn check(
        &mut self,
        pack: &ObjectHash,
        indexed: Option<Indexed<'_>>,
    ) -> Result<PackFindings, StoreError> {
        let name = ObjectName::hashed(ObjectKind::Pack, pack.0);
        let len = self.repository.backend().len(&name)?;
        let mut reading = Reading {
            checker: self,
            name,
            len,
            indexed: indexed.is_some(),
            at: 0,
            hasher: blake3::Hasher::new(),
            found: PackFindings::default(),
        };
        match reading.run(indexed) {
            Ok(()) => {}
            Err(StoreError::Backend(e)) if e.kind == BackendErrorKind::Short => {
                reading.wrong("it became shorter while it was read");
                reading.found.all_damaged = true;
                return Ok(reading.found);
            }
            Err(e) => return Err(e),
        }
        if reading.hasher.finalize().as_bytes() != &pack.0 {
            let what = match reading.found.wrong.is_empty() {
                true => {
                    "its bytes do not have the hash that it is named by; all of its frames are good"
                }
                false => "its bytes do not have the hash that it is named by",
            };
            reading.wrong(what);
        }
        Ok(reading.found)
    }
}

impl Reading<'_, '_> {
    fn run(&mut self, indexed: Option<Indexed<'_>>) -> Result<(), StoreError> {
        if let Some(indexed) = indexed
            && indexed.table.len != self.len
        {
            let says = indexed.table.len;
            self.wrong(format!("it has {} bytes, the index says {says}", self.len));
        }
        let Some(key) = self.header()? else {
            self.found.all_damaged = true;
            return self.hash_up_to(self.len);
        };
        let tail = self.tail(&key)?;
        if let (Some(tail), Some(indexed)) = (&tail, indexed) {
            self.compare(&tail.directory, &indexed);
        }
        match &tail {
            Some(tail) => {
                let frames = (0u32..).zip(&tail.directory.frames);
                let places = frames.map(|(number, entry)| (number, place_of(entry), Some(entry)));
                self.frames(places.collect(), &key)?;
                // What stands between frames and directory, if anything does.
                self.hash_up_to(tail.offset)?;
            }
            None => {
                let frames = indexed.map_or(&[][..], |indexed| &indexed.table.frames);
                let frames = (0u32..).zip(frames);
                self.frames(
                    frames
                        .map(|(number, place)| (number, *place, None))
                        .collect(),
                    &key,
                )?;
            }
        }
        self.hash_up_to(self.len)
    }

    fn wrong(&mut self, what: impl Into<String>) {
        self.found.wrong.push(what.into());
    }

    fn read(&mut self, offset: u64, len: usize) -> Result<Vec<u8>, BackendError> {
        let mut bytes = vec![0; len];
        let backend = self.checker.repository.backend();
        backend.read_into(&self.name, offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads and hashes the bytes up to `end` that were not hashed yet.
    fn hash_up_to(&mut self, end: u64) -> Result<(), StoreError> {
        while self.at < end {
            let len = usize::try_from(end - self.at).unwrap_or(BLOCK_BYTES);
            self.load(len.min(BLOCK_BYTES))?;
        }
        Ok(())
    }

    /// Reads and hashes the next `len` bytes; they are in `sealed` afterwards.
    fn load(&mut self, len: usize) -> Result<(), StoreError> {
        let checker = &mut *self.checker;
        checker.sealed.resize(len, 0);
        let backend = checker.repository.backend();
        backend.read_into(&self.name, self.at, &mut checker.sealed)?;
        self.hasher.update(&checker.sealed);
        let len = u64::try_from(len).expect("a length fits 64 bits");
        self.at += len;
        self.found.bytes += len;
        Ok(())
    }

    fn header(&mut self) -> Result<Option<ObjectKey>, StoreError> {
        let len = SealedKind::Pack.header_len();
        if self.len < u64::try_from(len + FOOTER_SEALED_LEN).expect("a header is short") {
            self.wrong("it is too short for a pack");
            return Ok(None);
        }
        self.load(len)?;
        let keyring = self.checker.repository.keyring();
        match keyring.open_header(SealedKind::Pack, &self.checker.sealed) {
            Ok((_, key)) => Ok(Some(key)),
            Err(e) => match super::seal_error(&self.name, e) {
                StoreError::Damaged { what, .. } | StoreError::NewerFormat { what, .. } => {
                    self.wrong(format!("its header: {what}"));
                    Ok(None)
                }
                other => Err(other),
            },
        }
    }

    /// Opens footer and directory; they are hashed later, in their order.
    fn tail(&mut self, key: &ObjectKey) -> Result<Option<Tail>, StoreError> {
        let footer_at = self.len - u64::try_from(FOOTER_SEALED_LEN).expect("a footer is short");
        let mut bytes = self.read(footer_at, FOOTER_SEALED_LEN)?;
        let footer = match key.open_in_place(FOOTER_NUMBER, &mut bytes) {
            Ok(plain) => Footer::decode(plain, self.len).map_err(|e| e.to_string()),
            Err(e) => Err(format!("its footer: {e}")),
        };
        let footer = match footer {
            Ok(footer) => footer,
            Err(what) => {
                self.wrong(what);
                return Ok(None);
            }
        };
        let len = usize::try_from(footer.directory_len).expect("32 bits fit");
        let mut bytes = self.read(footer.directory_offset, len)?;
        let header_len = u64::try_from(SealedKind::Pack.header_len()).expect("a header is short");
        let directory = match key.open_in_place(DIRECTORY_NUMBER, &mut bytes) {
            Ok(plain) => PackDirectory::decode(plain, header_len, footer.directory_offset)
                .map_err(|e| e.to_string()),
            Err(e) => Err(format!("its directory: {e}")),
        };
        match directory {
            Ok(directory) if u32::try_from(directory.frames.len()) != Ok(footer.frame_count) => {
                self.wrong("footer and directory disagree on the number of frames");
                Ok(None)
            }
            Ok(directory) => Ok(Some(Tail {
                directory,
                offset: footer.directory_offset,
            })),
            Err(what) => {
                self.wrong(what);
                Ok(None)
            }
        }
    }

    /// Whether index and directory say the same.
    fn compare(&mut self, directory: &PackDirectory, indexed: &Indexed<'_>) {
        let same_frames = directory.frames.len() == indexed.table.frames.len()
            && directory
                .frames
                .iter()
                .zip(&indexed.table.frames)
                .all(|(entry, place)| place_of(entry) == *place);
        let mut chunk_count = 0u64;
        let mut absent = 0u64;
        for (number, entry) in (0u32..).zip(&directory.frames) {
            let mut offset = 0;
            for chunk in &entry.chunks {
                let expected = Location {
                    pack: indexed.pack,
                    frame: number,
                    offset,
                    len: chunk.len,
                };
                chunk_count += 1;
                let first = indexed.index.find(&chunk.id) == Some(expected);
                if !first && !indexed.index.find_all(&chunk.id).contains(&expected) {
                    absent += 1;
                }
                offset += chunk.len;
            }
        }
        if !same_frames || absent > 0 || chunk_count != indexed.chunk_count {
            self.wrong(format!(
                "index and directory disagree: {absent} of {chunk_count} chunks are not where the index says"
            ));
        }
    }

    fn frames(
        &mut self,
        mut places: Vec<(u32, RunFrame, Option<&FrameEntry>)>,
        key: &ObjectKey,
    ) -> Result<(), StoreError> {
        let indexed = self.indexed;
        places.sort_by_key(|(_, place, _)| place.offset);
        for (number, place, entry) in places {
            let start = u64::from(place.offset);
            if start < self.at || start + u64::from(place.sealed_len) > self.len {
                self.damaged_frame(number, "it is out of place");
                continue;
            }
            self.hash_up_to(start)?;
            self.load(usize::try_from(place.sealed_len).expect("32 bits fit"))?;
            let base = match self.base_of(&place)? {
                BaseOf::Absent if indexed => {
                    self.found.lacks_base = true;
                    self.damaged_frame(number, "the frame that it is on is gone");
                    continue;
                }
                // Of a run that lost it and did not commit: nobody needs either.
                BaseOf::Absent => continue,
                BaseOf::Bad(what) => {
                    self.damaged_frame(number, &what);
                    continue;
                }
                BaseOf::Plain(base) => Some(base),
                BaseOf::None => None,
            };
            match self.open_frame(number, &place, entry, base.as_deref(), key) {
                Ok(chunks) => self.found.chunks += chunks,
                Err(what) => self.damaged_frame(number, &what),
            }
        }
        Ok(())
    }

    fn base_of(&mut self, place: &RunFrame) -> Result<BaseOf, StoreError> {
        let Some(base) = &place.base else {
            return Ok(BaseOf::None);
        };
        let PackChecker {
            reader, scratch, ..
        } = &mut *self.checker;
        if reader.index().number_of(&base.0).is_none() {
            return Ok(BaseOf::Absent);
        }
        match reader.base(base, scratch) {
            Ok(plain) => Ok(BaseOf::Plain(plain)),
            Err(StoreError::Backend(e)) if e.kind == BackendErrorKind::NotFound => {
                Ok(BaseOf::Absent)
            }
            Err(StoreError::Backend(e)) if e.kind == BackendErrorKind::Transient => Err(e.into()),
            Err(
                e @ (StoreError::Backend(_)
                | StoreError::Damaged { .. }
                | StoreError::NewerFormat { .. }),
            ) => Ok(BaseOf::Bad(format!(
                "the frame that it is on can't be read: {e}"
            ))),
            Err(e) => Err(e),
        }
    }

    fn damaged_frame(&mut self, number: u32, what: &str) {
        self.wrong(format!("frame {number}: {what}"));
        self.found.damaged_frames.push(number);
    }

    /// Opens the frame in `sealed`, decodes it and recomputes its chunks' ids.
    fn open_frame(
        &mut self,
        number: u32,
        place: &RunFrame,
        entry: Option<&FrameEntry>,
        base: Option<&[u8]>,
        key: &ObjectKey,
    ) -> Result<u64, String> {
        let PackChecker {
            id_key,
            scratch,
            sealed,
            plain,
            ..
        } = &mut *self.checker;
        let body = key.open_in_place(u64::from(number), sealed);
        let body = body.map_err(|e| e.to_string())?;
        let raw_len = usize::try_from(place.raw_len).expect("32 bits fit");
        scratch.decode(place.encoding, body, raw_len, base, plain)?;
        let Some(entry) = entry else { return Ok(0) };
        let mut rest = plain.as_slice();
        for chunk in &entry.chunks {
            let (bytes, after) = rest
                .split_at_checked(chunk.len as usize)
                .ok_or("its chunks are longer than it is")?;
            if id_key.id(bytes) != chunk.id {
                return Err(format!("chunk {} is not what its id says", chunk.id));
            }
            rest = after;
        }
        Ok(u64::try_from(entry.chunks.len()).expect("a length fits 64 bits"))
    }
}

fn place_of(entry: &FrameEntry) -> RunFrame {
    RunFrame {
        offset: entry.offset,
        sealed_len: entry.sealed_len,
        raw_len: entry.raw_len,
        class: entry.class,
        encoding: entry.encoding,
        base: entry.base,
    }
}
