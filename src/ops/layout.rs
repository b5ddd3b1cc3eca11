//! Where the bytes of a content stand in its file: a content holds what is between the holes.
//!
//! Invariants: holes ascend and do not overlap, and content and holes together are exactly the file's size; anything else is damage
//! (`contents_stand_between_holes`).
//!
//! Memory: the holes of one tree chunk.

use std::sync::Arc;

use crate::format::node::{Hole, Node, decode_items};
use crate::store::StoreError;
use crate::store::reader::ChunkReader;
use crate::store::tree::Chunks;

/// A run of data in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Zeros before it that are not stored.
    pub hole: u64,
    /// First byte in the file.
    pub offset: u64,
    /// Length.
    pub len: u64,
}

/// Gives each piece of a content its place in the file.
#[derive(Debug)]
pub struct Layout {
    holes: std::vec::IntoIter<Hole>,
    more: Option<(Arc<ChunkReader>, Chunks)>,
    next: Option<Hole>,
    at: u64,
    size: u64,
}

impl Layout {
    /// The layout of a file.
    pub fn new(reader: &Arc<ChunkReader>, node: &Node) -> Self {
        let stream = node.holes_stream.as_ref();
        Self {
            holes: node.holes.clone().into_iter(),
            more: stream.map(|content| (reader.clone(), Chunks::new(reader.clone(), content))),
            next: None,
            at: 0,
            size: node.size,
        }
    }

    /// The next hole, without taking it.
    fn peek(&mut self) -> Result<Option<Hole>, StoreError> {
        loop {
            if self.next.is_none() {
                self.next = self.holes.next();
            }
            if let Some(hole) = self.next {
                let end = hole.offset.checked_add(hole.len);
                if hole.offset < self.at || hole.len == 0 || end.is_none_or(|end| end > self.size) {
                    return Err(StoreError::damaged(
                        "tree",
                        "the holes of a file are out of place",
                    ));
                }
                return Ok(Some(hole));
            }
            let Some((reader, chunks)) = &mut self.more else {
                return Ok(None);
            };
            let Some(chunk) = chunks.next().transpose()? else {
                self.more = None;
                continue;
            };
            let bytes = reader.chunk(&chunk)?;
            let mut holes = Vec::new();
            decode_items(&bytes, |hole: Hole| holes.push(hole))
                .map_err(|e| StoreError::damaged(format!("tree chunk {}", chunk.id), e))?;
            self.holes = holes.into_iter();
        }
    }

    fn skip_holes(&mut self) -> Result<u64, StoreError> {
        let mut skipped = 0;
        while let Some(hole) = self.peek()?.filter(|hole| hole.offset == self.at) {
            self.at += hole.len;
            skipped += hole.len;
            self.next = None;
        }
        Ok(skipped)
    }

    /// Places the next bytes of the content, at most `len`, which is not 0.
    pub fn place(&mut self, len: u64) -> Result<Run, StoreError> {
        let hole = self.skip_holes()?;
        let border = self.peek()?.map_or(self.size, |hole| hole.offset);
        let run = Run {
            hole,
            offset: self.at,
            len: len.min(border - self.at),
        };
        if run.len == 0 {
            return Err(StoreError::damaged(
                "tree",
                "a file's content is longer than the file",
            ));
        }
        self.at += run.len;
        Ok(run)
    }

    /// Ends the file; gives the length of the hole at its end.
    pub fn finish(&mut self) -> Result<u64, StoreError> {
        let hole = self.skip_holes()?;
        if self.at != self.size {
            return Err(StoreError::damaged(
                "tree",
                "a file's content is shorter than the file",
            ));
        }
        Ok(hole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: u64, holes: &[(u64, u64)]) -> Layout {
        let holes: Vec<Hole> = holes
            .iter()
            .map(|(offset, len)| Hole {
                offset: *offset,
                len: *len,
            })
            .collect();
        Layout {
            holes: holes.into_iter(),
            more: None,
            next: None,
            at: 0,
            size,
        }
    }

    fn runs(mut layout: Layout, mut content: u64) -> Result<(Vec<Run>, u64), StoreError> {
        let mut out = Vec::new();
        while content > 0 {
            let run = layout.place(content.min(7))?;
            content -= run.len;
            out.push(run);
        }
        Ok((out, layout.finish()?))
    }

    #[test]
    fn contents_stand_between_holes() {
        let run = |hole, offset, len| Run { hole, offset, len };
        assert_eq!(
            runs(layout(10, &[]), 10).unwrap(),
            (vec![run(0, 0, 7), run(0, 7, 3)], 0)
        );
        assert_eq!(
            runs(layout(20, &[(0, 4), (6, 10), (16, 1)]), 5).unwrap(),
            (vec![run(4, 4, 2), run(11, 17, 3)], 0)
        );
        assert_eq!(runs(layout(8, &[(0, 8)]), 0).unwrap(), (vec![], 8));
        for (size, holes, content) in [
            (10, &[][..], 11),
            (10, &[], 9),
            (10, &[(4, 2), (5, 1)], 7),
            (10, &[(4, 7)], 4),
            (10, &[(4, 0)], 10),
            (10, &[(4, u64::MAX)], 10),
        ] {
            assert!(
                runs(layout(size, holes), content).is_err(),
                "{size} {holes:?} {content}"
            );
        }
    }
}
