//! Large objects: their pages as the server stores them, so that holes stay holes.
//!
//! The pages stand in a catalog that only superusers may read; for others each object is read by `lo_get`,
//! and stretches of zeros are taken for holes.

use bytes::Buf;

use super::catalog::{number, rows};
use super::error::DumpError;
use super::parts;
use crate::format::large_object::{LargeObjectInfo, PAGE_BYTES_MAX, RANGE_OIDS, encode_header};
use crate::source::postgres::PgSession;

/// Takes bytes of a stream.
pub(super) type Write<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), DumpError>;

/// Writes the pages of one range of oids.
pub(super) fn copy_range(
    session: &mut PgSession,
    first: u32,
    write: Write<'_>,
) -> Result<(), DumpError> {
    let found = rows(
        session,
        "SELECT pg_catalog.has_table_privilege('pg_catalog.pg_largeobject', 'SELECT'), pg_catalog.current_setting('block_size')",
    )?;
    let readable = found.first().is_some_and(|row| row.get(0) == Some("t"));
    // The server keeps a quarter of a block in each row.
    let page_bytes = found
        .first()
        .map(|row| number::<u64>(row, 1))
        .unwrap_or_default()
        / 4;
    if readable {
        copy_pages(session, first, page_bytes, write)
    } else {
        copy_objects(session, first, page_bytes, write)
    }
}

fn last_of(first: u32) -> u32 {
    first.saturating_add(RANGE_OIDS - 1)
}

fn copy_pages(
    session: &mut PgSession,
    first: u32,
    page_bytes: u64,
    write: Write<'_>,
) -> Result<(), DumpError> {
    // In binary: the text of a bytea is twice as long, and both sides would work for it.
    let sql = format!(
        "COPY (SELECT loid, pageno, data FROM pg_catalog.pg_largeobject WHERE loid >= {first} AND loid <= {} ORDER BY loid, pageno) \
         TO STDOUT WITH (FORMAT binary)",
        last_of(first)
    );
    session.copy_out::<DumpError>(&sql, &mut |message| {
        let Some(row) = parts::binary_row(message) else {
            return Ok(());
        };
        let (oid, number, page) = read_row(row).ok_or_else(|| {
            DumpError::Failed("a page of a large object cannot be read".to_owned())
        })?;
        write_page(oid, number * page_bytes, page, write)
    })?;
    Ok(())
}

/// Reads oid, number and bytes of a page from a row in binary.
fn read_row(mut row: &[u8]) -> Option<(u32, u64, &[u8])> {
    if row.try_get_u16().ok()? != 3 {
        return None;
    }
    let mut field = || {
        let length = usize::try_from(row.try_get_i32().ok()?).ok()?;
        let (field, rest) = row.split_at_checked(length)?;
        row = rest;
        Some(field)
    };
    let number = |mut field: &[u8]| match field.len() {
        4 => Some(field.get_u32()),
        _ => None,
    };
    let (oid, page_number) = (number(field()?)?, number(field()?)?);
    let page = field()?;
    row.is_empty()
        .then_some((oid, u64::from(page_number), page))
}

fn write_page(oid: u32, offset: u64, page: &[u8], write: Write<'_>) -> Result<(), DumpError> {
    if page.is_empty() {
        return Ok(());
    }
    let length = u32::try_from(page.len()).expect("a page is at most 1 MiB");
    write(&encode_header(oid, offset, length))?;
    write(page)
}

fn copy_objects(
    session: &mut PgSession,
    first: u32,
    page_bytes: u64,
    write: Write<'_>,
) -> Result<(), DumpError> {
    let sql = format!(
        "SELECT oid FROM pg_catalog.pg_largeobject_metadata WHERE oid >= {first} AND oid <= {} ORDER BY 1",
        last_of(first)
    );
    let oids: Vec<u32> = rows(session, &sql)?
        .iter()
        .map(|row| number(row, 0))
        .collect();
    oids.into_iter()
        .try_for_each(|oid| copy_object(session, oid, page_bytes, write))
}

fn copy_object(
    session: &mut PgSession,
    oid: u32,
    page_bytes: u64,
    write: Write<'_>,
) -> Result<(), DumpError> {
    let step = i32::try_from(PAGE_BYTES_MAX).expect("a page is 1 MiB");
    let mut pages = FullPages::new(oid, page_bytes);
    let mut offset = 0_i64;
    loop {
        let row = session.query_one(
            "SELECT pg_catalog.lo_get($1, $2, $3)",
            &[&oid, &offset, &step],
        )?;
        let piece: Vec<u8> = row.get(0);
        if piece.is_empty() {
            return pages.finish(write);
        }
        pages.add(&piece, write)?;
        offset += i64::try_from(piece.len()).expect("a page is at most 1 MiB");
    }
}

/// Cuts an object into the server's pages and leaves out those of zeros.
struct FullPages {
    oid: u32,
    page_bytes: usize,
    offset: u64,
    /// The last page of zeros: where the object ends with it, it is written all the same, because it says where the end is.
    zeros: Option<(u64, usize)>,
}

impl FullPages {
    fn new(oid: u32, page_bytes: u64) -> Self {
        Self {
            oid,
            page_bytes: usize::try_from(page_bytes).unwrap_or(0).max(1),
            offset: 0,
            zeros: None,
        }
    }

    /// Takes the next piece, which begins at the start of a page.
    fn add(&mut self, piece: &[u8], write: Write<'_>) -> Result<(), DumpError> {
        for page in piece.chunks(self.page_bytes) {
            if page.iter().any(|byte| *byte != 0) {
                write_page(self.oid, self.offset, page, write)?;
                self.zeros = None;
            } else {
                self.zeros = Some((self.offset, page.len()));
            }
            self.offset += u64::try_from(page.len()).expect("a page is at most 1 MiB");
        }
        Ok(())
    }

    fn finish(self, write: Write<'_>) -> Result<(), DumpError> {
        match self.zeros {
            Some((offset, length)) => write_page(self.oid, offset, &vec![0; length], write),
            None => Ok(()),
        }
    }
}

/// Writes a line of metadata for each object; returns their number.
pub(super) fn copy_metadata(session: &mut PgSession, write: Write<'_>) -> Result<u64, DumpError> {
    session.query_each::<DumpError>(
        "SELECT m.oid, pg_catalog.pg_get_userbyid(m.lomowner)::text, m.lomacl::text[], \
         pg_catalog.obj_description(m.oid, 'pg_largeobject') FROM pg_catalog.pg_largeobject_metadata m ORDER BY 1",
        &[],
        &mut |row| {
            let info = LargeObjectInfo { oid: row.get(0), owner: row.get(1), acl: row.get(2), comment: row.get(3) };
            let mut line = serde_json::to_vec(&info).expect("numbers and texts become JSON");
            line.push(b'\n');
            write(&line)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::large_object::PageReader;

    #[test]
    fn pages_of_zeros_are_holes_but_for_the_last() {
        let check = |pieces: &[&[u8]], expected: &[(u64, &[u8])]| {
            let mut bytes = Vec::new();
            let mut pages = FullPages::new(7, 4);
            let mut write = |piece: &[u8]| {
                bytes.extend_from_slice(piece);
                Ok(())
            };
            for piece in pieces {
                pages.add(piece, &mut write).unwrap();
            }
            pages.finish(&mut write).unwrap();
            let mut reader = PageReader::new(&bytes[..]);
            let mut found = Vec::new();
            while let Some((oid, offset, page)) = reader.next_page().unwrap() {
                assert_eq!(oid, 7);
                found.push((offset, page.to_vec()));
            }
            let expected: Vec<(u64, Vec<u8>)> =
                expected.iter().map(|(o, p)| (*o, p.to_vec())).collect();
            assert_eq!(found, expected, "{pieces:?}");
        };
        check(&[], &[]);
        check(
            &[b"abcdefgh", b"ij"],
            &[(0, b"abcd"), (4, b"efgh"), (8, b"ij")],
        );
        check(
            &[b"\0\0\0\0\0\0\0x", b"\0\0\0\0abcd", b"\0\0"],
            &[(4, b"\0\0\0x"), (12, b"abcd"), (16, b"\0\0")],
        );
        check(&[b"\0\0\0\0\0\0\0\0"], &[(4, b"\0\0\0\0")]);
    }

    #[test]
    fn rows_of_pages() {
        let check = |row: &[u8], expected: Option<(u32, u64, &[u8])>| {
            assert_eq!(read_row(row), expected, "{row:?}");
        };
        let (oid, number) = (b"\0\0\0\x04\xff\xff\xff\xff", b"\0\0\0\x04\0\0\0\x07");
        let row = |fields: &[&[u8]]| [&[&b"\0\x03"[..]], fields].concat().concat();
        check(
            &row(&[oid, number, b"\0\0\0\x03\0\xff\x1a"]),
            Some((u32::MAX, 7, &[0, 255, 26])),
        );
        check(&row(&[oid, number, b"\0\0\0\0"]), Some((u32::MAX, 7, &[])));
        check(&row(&[oid, number, b"\0\0\0\x02\0"]), None);
        check(&row(&[oid, number, b"\0\0\0\x01\0more"]), None);
        check(&row(&[oid, number, b"\xff\xff\xff\xff"]), None);
        check(&row(&[oid, b"\0\0\0\x02\0\x07", b"\0\0\0\0"]), None);
        check(&row(&[oid, number]), None);
        check(b"\0\x02", None);
        check(b"", None);
    }
}
