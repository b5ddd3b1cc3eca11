//! Holes of sparse files, found with `SEEK_HOLE` and `SEEK_DATA`.
//!
//! Invariants: holes ascend, do not touch, are not empty and end at the size at the latest (`holes_of_a_file_are_found`). Not more than
//! [`HOLES_MAX`] are kept; ranges after them count as data, which reads as the same zeros.

use std::os::fd::AsFd;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::format::node::Hole;

/// Holes of one file that are remembered (4 MiB).
pub(super) const HOLES_MAX: usize = 1 << 18;

/// The holes of an open file up to `size`; none where the file system can't tell.
pub(super) fn holes(file: impl AsFd, size: u64) -> Result<Vec<Hole>, Errno> {
    let mut found: Vec<Hole> = Vec::new();
    let mut at = 0;
    while at < size && found.len() < HOLES_MAX {
        let data = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
            Ok(data) => data.min(size),
            // No data after `at`.
            Err(Errno::NXIO) => size,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        if data > at {
            found.push(Hole {
                offset: at,
                len: data - at,
            });
        }
        if data >= size {
            break;
        }
        at = match rustix::fs::seek(&file, SeekFrom::Hole(data)) {
            Ok(hole) => hole,
            // The file shrank below `data`: reading finds out.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error),
        };
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::holes::segments;
    use std::os::unix::fs::FileExt;

    #[test]
    fn holes_of_a_file_are_found() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 << 20).unwrap();
        file.write_all_at(&[1; 4096], 1 << 20).unwrap();
        file.write_all_at(&[1; 4096], 5 << 20).unwrap();
        let found = holes(&file, 10 << 20).unwrap();
        let total: u64 = found.iter().map(|hole| hole.len).sum();
        assert_eq!(total, (10 << 20) - 8192);
        assert_eq!(found.len(), 3);
        let parts: Vec<_> = segments(&found, 10 << 20).collect();
        assert_eq!(parts.len(), 5);
        let mut at = 0;
        for part in parts {
            assert_eq!(part.offset, at);
            at += part.len;
        }
        assert_eq!(at, 10 << 20);
    }
}
