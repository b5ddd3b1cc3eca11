//! Where a sparse file's data lies: the ranges between its holes.
//!
//! Invariants: segments cover `0..size` without gaps and overlaps and are not empty (`segments_cover_everything`), whatever the holes of a
//! hostile node say: holes that go back or beyond the size are cut (`hostile_holes_are_cut`).

use super::node::Hole;

/// A range of a file: data or a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First byte.
    pub offset: u64,
    /// Length, not 0.
    pub len: u64,
    /// Whether it holds data.
    pub data: bool,
}

/// Cuts `0..size` into data and holes.
pub fn segments<'h>(
    holes: impl IntoIterator<Item = &'h Hole>,
    size: u64,
) -> impl Iterator<Item = Segment> {
    let mut at = 0;
    let mut rest = holes.into_iter();
    let mut pending: Option<(u64, u64)> = None;
    std::iter::from_fn(move || {
        loop {
            if let Some((start, end)) = pending.take() {
                let segment = Segment {
                    offset: start,
                    len: end.saturating_sub(start),
                    data: false,
                };
                at = end;
                return Some(segment);
            }
            if at >= size {
                return None;
            }
            let hole = rest.next().map(|hole| {
                let start = hole.offset.clamp(at, size);
                let end = hole.offset.saturating_add(hole.len).clamp(start, size);
                (start, end)
            });
            let data_end = hole.map_or(size, |(start, _)| start);
            pending = hole.filter(|(start, end)| end > start);
            if data_end > at {
                let segment = Segment {
                    offset: at,
                    len: data_end.saturating_sub(at),
                    data: true,
                };
                at = data_end;
                return Some(segment);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(holes: &[(u64, u64)], size: u64, count: usize) {
        let holes: Vec<Hole> = holes
            .iter()
            .map(|(offset, len)| Hole {
                offset: *offset,
                len: *len,
            })
            .collect();
        let parts: Vec<_> = segments(&holes, size).collect();
        assert_eq!(parts.len(), count, "{holes:?} {parts:?}");
        let mut at = 0;
        for part in parts {
            assert_eq!(part.offset, at);
            assert!(part.len > 0);
            at += part.len;
        }
        assert_eq!(at, size);
    }

    #[test]
    fn segments_cover_everything() {
        check(&[], 0, 0);
        check(&[], 10, 1);
        check(&[(0, 10)], 10, 1);
        check(&[(0, 5)], 10, 2);
        check(&[(5, 5)], 10, 2);
        check(&[(2, 2), (6, 2)], 10, 5);
    }

    #[test]
    fn hostile_holes_are_cut() {
        check(&[(5, 100)], 10, 2);
        check(&[(20, 5)], 10, 1);
        check(&[(5, 2), (1, 3)], 10, 3);
        check(&[(5, 2), (6, 3)], 10, 4);
        check(&[(3, u64::MAX), (4, 1)], 10, 2);
        check(&[(u64::MAX, u64::MAX), (4, 0)], 10, 1);
    }
}
