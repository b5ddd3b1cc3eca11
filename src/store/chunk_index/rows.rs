//! Rows of packs and their frames, as a segment holds them (`segment` has the layout).

use super::pages::{check_of, u32_at, u64_at};
use crate::format::id::ObjectHash;
use crate::format::index::{RunFrame, RunPack};
use crate::format::pack::{Class, Encoding};

/// Bytes of a row.
pub(super) const ROW: usize = 72;
/// Rows of a page.
pub(super) const PAGE_ROWS: u64 = 56;
const FRAME: usize = 16;
const FRAME_BASE: usize = 36;

/// A pack's row.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) name: ObjectHash,
    pub(super) len: u64,
    pub(super) first_entry: u64,
    pub(super) entries: u32,
    pub(super) frames: u32,
    pub(super) frames_at: u64,
    pub(super) frames_len: u32,
    pub(super) run: u32,
}

impl Row {
    pub(super) fn encode(&self) -> [u8; ROW] {
        let mut bytes = [0; ROW];
        bytes[..32].copy_from_slice(self.name.as_bytes());
        bytes[32..40].copy_from_slice(&self.len.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.first_entry.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.entries.to_le_bytes());
        bytes[52..56].copy_from_slice(&self.frames.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.frames_at.to_le_bytes());
        bytes[64..68].copy_from_slice(&self.frames_len.to_le_bytes());
        bytes[68..72].copy_from_slice(&self.run.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Self {
        Self {
            name: ObjectHash::from_slice(&bytes[..32]).expect("32 bytes"),
            len: u64_at(bytes, 32),
            first_entry: u64_at(bytes, 40),
            entries: u32_at(bytes, 48),
            frames: u32_at(bytes, 52),
            frames_at: u64_at(bytes, 56),
            frames_len: u32_at(bytes, 64),
            run: u32_at(bytes, 68),
        }
    }

    pub(super) fn new(pack: &RunPack, first_entry: u64, entries: u32, run: u32) -> Self {
        Self {
            name: pack.name,
            len: pack.len,
            first_entry,
            entries,
            frames: 0,
            frames_at: 0,
            frames_len: 0,
            run,
        }
    }
}

/// The bytes of frames, with their checksum.
pub(super) fn frames_blob(seed: u64, frames: &[RunFrame]) -> Vec<u8> {
    let mut blob = Vec::with_capacity(frames.len() * FRAME + 8);
    for frame in frames {
        for value in [frame.offset, frame.sealed_len, frame.raw_len] {
            blob.extend_from_slice(&value.to_le_bytes());
        }
        let base = u8::from(frame.base.is_some());
        blob.extend_from_slice(&[frame.class.number(), frame.encoding.number(), base, 0]);
        if let Some((name, number)) = frame.base {
            blob.extend_from_slice(name.as_bytes());
            blob.extend_from_slice(&number.to_le_bytes());
        }
    }
    let check = check_of(seed, 0, &blob);
    blob.extend_from_slice(&check.to_le_bytes());
    blob
}

/// Frames of checked bytes.
pub(super) fn read_frames(blob: &[u8], count: u32) -> Option<Vec<RunFrame>> {
    let mut frames = Vec::with_capacity(blob.len() / FRAME);
    let mut rest = blob;
    for _ in 0..count {
        let (fixed, after) = rest.split_at_checked(FRAME)?;
        rest = after;
        let base = match fixed[14] {
            0 => None,
            _ => {
                let (base, after) = rest.split_at_checked(FRAME_BASE)?;
                rest = after;
                Some((ObjectHash::from_slice(&base[..32])?, u32_at(base, 32)))
            }
        };
        frames.push(RunFrame {
            offset: u32_at(fixed, 0),
            sealed_len: u32_at(fixed, 4),
            raw_len: u32_at(fixed, 8),
            class: Class::from_number(fixed[12])?,
            encoding: Encoding::from_number(fixed[13])?,
            base,
        });
    }
    rest.is_empty().then_some(frames)
}
