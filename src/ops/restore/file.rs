//! One file of a restore: compared with what is there, written, finished.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Tally, all_xattrs};
use crate::crypto::ChunkIdKey;
use crate::error::Result;
use crate::format::node::{ChunkRef, Content, Node};
use crate::ops::layout::Layout;
use crate::ops::window::{Consumer, Part, is_of_one_object};
use crate::store::StoreError;
use crate::store::reader::ChunkReader;
use crate::target::files::{ExistingFile, FileHandle, RestoreTarget, TargetError};

/// Bytes that are copied at once.
const BLOCK_BYTES: usize = 1 << 20;

/// Writes the files of a restore.
pub(super) struct Writer<'w, 'a> {
    pub(super) target: &'w RestoreTarget,
    pub(super) tally: &'w Tally<'a>,
    pub(super) reader: &'w Arc<ChunkReader>,
    pub(super) id_key: ChunkIdKey,
}

/// A file that is being restored.
pub(super) struct FileJob {
    /// Without its content.
    node: Node,
    path: Vec<u8>,
    layout: Layout,
    /// Where the comparison with the existing file is.
    compared: Option<Layout>,
    /// The existing file can be taken as it is, as far as it was looked at.
    same: bool,
    handle: Option<FileHandle>,
    /// Bytes of the content that were taken.
    position: u64,
    failure: Option<Failure>,
}

/// Why nothing more is written of a file.
enum Failure {
    Store(StoreError),
    Target(TargetError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<TargetError> for Failure {
    fn from(error: TargetError) -> Self {
        Self::Target(error)
    }
}

fn directory_of(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    &path[..end]
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).expect("a length fits 64 bits")
}

impl FileJob {
    pub(super) fn new(
        reader: &Arc<ChunkReader>,
        mut node: Node,
        path: &[u8],
        in_place: bool,
    ) -> Self {
        node.content = Content::default();
        let compared = in_place.then(|| Layout::new(reader, &node));
        Self {
            layout: Layout::new(reader, &node),
            path: path.to_vec(),
            same: in_place,
            compared,
            handle: None,
            position: 0,
            failure: None,
            node,
        }
    }
}

impl Writer<'_, '_> {
    /// The file in the target, if it may be compared with this one.
    fn existing(&self, file: &FileJob) -> Option<ExistingFile> {
        let existing = self.target.open_existing(&file.path).ok()??;
        // A file with other names that the archive does not know is not only this one.
        let own = !existing.has_other_names() || file.node.link_group.is_some();
        (existing.size() == file.node.size && own).then_some(existing)
    }

    /// Whether the next bytes of the existing file are this chunk; holes before it must read as zeros.
    fn is_present(
        &self,
        existing: &ExistingFile,
        layout: &mut Layout,
        same: &mut bool,
        chunk: &ChunkRef,
        buffer: &mut Vec<u8>,
    ) -> Result<bool, Failure> {
        let len = chunk.len as usize;
        buffer.resize(len, 0);
        let mut filled = 0;
        let mut read = true;
        while filled < len {
            let run = layout.place(to_u64(len - filled))?;
            *same = *same && are_zeros(existing, run.offset - run.hole, run.hole)?;
            let run_len = usize::try_from(run.len).expect("part of a buffer");
            let part = &mut buffer[filled..filled + run_len];
            read &= existing.read_at(run.offset, part)? == run_len;
            filled += run_len;
        }
        Ok(read && self.id_key.id(buffer) == chunk.id)
    }

    fn compare(
        &self,
        file: &mut FileJob,
        chunks: &[ChunkRef],
        present: &mut [bool],
    ) -> Result<(), Failure> {
        let Some(mut layout) = file.compared.take() else {
            return Ok(());
        };
        let Some(existing) = self.existing(file) else {
            file.same = false;
            return Ok(());
        };
        let mut buffer = Vec::new();
        for (chunk, present) in chunks.iter().zip(present) {
            *present =
                self.is_present(&existing, &mut layout, &mut file.same, chunk, &mut buffer)?;
            file.same &= *present;
        }
        file.compared = Some(layout);
        Ok(())
    }

    /// Begins to write. What was found present until now is copied from the existing file.
    fn begin(&self, file: &mut FileJob) -> Result<(), Failure> {
        if file.handle.is_some() {
            return Ok(());
        }
        let begun = self.target.create_file(&file.path, &file.node)?;
        let Some(handle) = begun else {
            let what = "another file of this name was restored before it".to_owned();
            let path = String::from_utf8_lossy(&file.path).into_owned();
            return Err(TargetError::Item { path, what }.into());
        };
        file.handle = Some(handle);
        if file.position > 0 {
            let mut layout = Layout::new(self.reader, &file.node);
            self.copy(file, &mut layout, file.position)?;
        }
        Ok(())
    }

    /// Copies the next `len` bytes of content from the existing file.
    fn copy(&self, file: &FileJob, layout: &mut Layout, mut len: u64) -> Result<(), Failure> {
        let (Some(existing), Some(handle)) = (self.existing(file), &file.handle) else {
            return Err(changed(file).into());
        };
        let mut buffer = vec![0; BLOCK_BYTES];
        while len > 0 {
            let run = layout.place(len.min(to_u64(BLOCK_BYTES)))?;
            let part = &mut buffer[..usize::try_from(run.len).expect("part of a buffer")];
            if existing.read_at(run.offset, part)? != part.len() {
                return Err(changed(file).into());
            }
            handle.write_at(run.offset, part)?;
            self.tally.written.fetch_add(run.len, Ordering::Relaxed);
            len -= run.len;
        }
        Ok(())
    }

    fn write(&self, file: &mut FileJob, mut bytes: &[u8]) -> Result<(), Failure> {
        self.begin(file)?;
        let Some(handle) = &file.handle else {
            return Ok(());
        };
        self.tally
            .written
            .fetch_add(to_u64(bytes.len()), Ordering::Relaxed);
        while !bytes.is_empty() {
            let run = file.layout.place(to_u64(bytes.len()))?;
            let (now, rest) = bytes.split_at(usize::try_from(run.len).expect("part of a slice"));
            handle.write_at(run.offset, now)?;
            bytes = rest;
        }
        Ok(())
    }

    fn take_part(&self, file: &mut FileJob, part: &Part<'_>) -> Result<(), Failure> {
        let len = match part {
            Part::Data(bytes) => {
                self.write(file, bytes)?;
                to_u64(bytes.len())
            }
            Part::Present(len) => {
                let mut layout =
                    std::mem::replace(&mut file.layout, Layout::new(self.reader, &Node::default()));
                let taken = match file.handle.is_some() {
                    true => self.copy(file, &mut layout, *len),
                    false => skip(&mut layout, *len).map_err(Failure::from),
                };
                file.layout = layout;
                taken?;
                *len
            }
        };
        file.position += len;
        self.tally.stats.bytes_read.add(len);
        Ok(())
    }

    fn finish(&self, file: &mut FileJob) -> Result<bool, Failure> {
        let hole = file.layout.finish()?;
        let xattrs = all_xattrs(self.reader, &file.node)?;
        if file.handle.is_none()
            && file.same
            && let Some(existing) = self.existing(file)
            && are_zeros(&existing, file.node.size - hole, hole)?
            && self.target.adopt_file(&existing, &file.node, &xattrs)?
        {
            return Ok(true);
        }
        // Also what may not be touched because it has names elsewhere: it is copied from there and replaced.
        self.begin(file)?;
        if let Some(handle) = file.handle.take() {
            self.target.finish_file(handle, &file.node, &xattrs)?;
        }
        Ok(false)
    }

    fn failed(&self, file: &FileJob, failure: Failure) -> Result<()> {
        match failure {
            Failure::Store(e) if is_of_one_object(&e) => {
                self.tally.damaged(&file.path, &e);
                Ok(())
            }
            Failure::Store(e) => Err(e.into()),
            Failure::Target(e) => self.tally.target_error(e),
        }
    }
}

/// An existing file that somebody else changes meanwhile is none that can be relied on.
fn changed(file: &FileJob) -> TargetError {
    TargetError::Item {
        path: String::from_utf8_lossy(&file.path).into_owned(),
        what: "the existing file changed while it was compared".into(),
    }
}

fn skip(layout: &mut Layout, mut len: u64) -> Result<(), StoreError> {
    while len > 0 {
        len -= layout.place(len)?.len;
    }
    Ok(())
}

/// Whether a range of a file reads as zeros.
pub(crate) fn are_zeros(
    existing: &ExistingFile,
    mut offset: u64,
    mut len: u64,
) -> Result<bool, TargetError> {
    let mut buffer = vec![0; usize::try_from(len).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES)];
    while len > 0 {
        let part_len = usize::try_from(len)
            .unwrap_or(BLOCK_BYTES)
            .min(buffer.len());
        let part = &mut buffer[..part_len];
        if existing.read_at(offset, part)? != part_len || part.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        offset += to_u64(part_len);
        len -= to_u64(part_len);
    }
    Ok(true)
}

impl Consumer for Writer<'_, '_> {
    type File = FileJob;

    fn present(&self, file: &mut FileJob, chunks: &[ChunkRef], present: &mut [bool]) -> Result<()> {
        if let Err(e) = self.compare(file, chunks, present) {
            // What can't be compared is restored as if it were not there.
            present.fill(false);
            file.same = false;
            file.compared = None;
            if let Failure::Store(e) = e {
                file.failure = Some(Failure::Store(e));
            }
        }
        Ok(())
    }

    fn are_neighbours(&self, one: &FileJob, other: &FileJob) -> bool {
        directory_of(&one.path) == directory_of(&other.path)
    }

    fn take(&self, file: &mut FileJob, parts: &[Part<'_>]) -> Result<()> {
        for part in parts {
            if file.failure.is_some() {
                break;
            }
            if let Err(e) = self.take_part(file, part) {
                file.handle = None;
                file.failure = Some(e);
            }
        }
        if matches!(&file.failure, Some(Failure::Target(e)) if e.is_stop()) {
            let stop = file.failure.take().expect("it was there");
            return self.failed(file, stop);
        }
        Ok(())
    }

    fn end(&self, mut file: FileJob, failure: Option<&StoreError>) -> Result<()> {
        let finished = match (file.failure.take(), failure) {
            (Some(failure), _) => Err(failure),
            (None, Some(e)) => {
                // Its temporary file goes before anything is said of it.
                file.handle = None;
                self.tally.damaged(&file.path, e);
                return Ok(());
            }
            (None, None) => self.finish(&mut file),
        };
        match finished {
            Ok(unchanged) => {
                self.tally.files.fetch_add(1, Ordering::Relaxed);
                self.tally
                    .unchanged
                    .fetch_add(u64::from(unchanged), Ordering::Relaxed);
                self.tally.stats.files_new.one();
                Ok(())
            }
            Err(failure) => {
                file.handle = None;
                self.failed(&file, failure)
            }
        }
    }
}
