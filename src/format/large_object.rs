//! Large objects of a database, below `large-objects/`.
//!
//! `metadata.json` has one JSON object [`LargeObjectInfo`] a line, in order of oids; unknown fields are skipped. All objects stand
//! there, empty ones too.
//!
//! Files of pages are named by the first oid of a range, ten digits (`0000016384`); a range is [`RANGE_OIDS`] oids, and has no file when
//! none of its objects has a page. A file is a sequence of pages in order of oid and offset, without gaps between them:
//!
//! | offset | size | type | name |
//! |---|---|---|---|
//! | 0 | 4 | u32 | oid |
//! | 4 | 8 | u64 | offset of the page in the object |
//! | 12 | 4 | u32 | length, 1 to [`PAGE_BYTES_MAX`] |
//! | 16 | length | bytes | content |
//!
//! Integers are little-endian. What no page covers is a hole and reads as zeros; the size of an object is the end of its last page.
//!
//! Invariants: a decoder never trusts a length (`lengths_are_checked`); what is written is read back (`pages_come_back`).

use std::io::{self, Read};

use serde::{Deserialize, Serialize};

/// Oids of one file of pages.
pub const RANGE_OIDS: u32 = 16_384;
/// The longest page: what `lo_get` is asked for where the pages of the server cannot be read.
pub const PAGE_BYTES_MAX: u32 = 1 << 20;
/// Bytes before the content of a page.
pub const HEADER_BYTES: usize = 16;
/// Name of the file of [`LargeObjectInfo`] lines.
pub const METADATA_NAME: &str = "metadata.json";

/// A large object without its pages: one line of `metadata.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct LargeObjectInfo {
    /// Its oid.
    pub oid: u32,
    /// Its owner.
    pub owner: String,
    /// Privileges as the server writes them (`role=rw*/grantor`); `null` is the default.
    pub acl: Option<Vec<String>>,
    /// Its comment.
    pub comment: Option<String>,
}

/// The first oid of the range that an object belongs to.
#[must_use]
pub fn range_start(oid: u32) -> u32 {
    oid & !(RANGE_OIDS - 1)
}

/// Name of the file of pages for the range of an object.
#[must_use]
pub fn range_name(oid: u32) -> String {
    format!("{:010}", range_start(oid))
}

/// Writes the header of a page.
#[must_use]
pub fn encode_header(oid: u32, offset: u64, length: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    let (oid_bytes, rest) = header.split_at_mut(4);
    let (offset_bytes, length_bytes) = rest.split_at_mut(8);
    oid_bytes.copy_from_slice(&oid.to_le_bytes());
    offset_bytes.copy_from_slice(&offset.to_le_bytes());
    length_bytes.copy_from_slice(&length.to_le_bytes());
    header
}

/// Reads the pages of one file.
#[derive(Debug)]
pub struct PageReader<R> {
    input: R,
    page: Vec<u8>,
}

impl<R: Read> PageReader<R> {
    /// Reads from `input`.
    pub fn new(input: R) -> Self {
        Self {
            input,
            page: Vec::new(),
        }
    }

    /// Returns oid, offset and content of the next page, `None` at the end of the file.
    pub fn next_page(&mut self) -> io::Result<Option<(u32, u64, &[u8])>> {
        let mut header = [0; HEADER_BYTES];
        if !read_all_or_nothing(&mut self.input, &mut header)? {
            return Ok(None);
        }
        let [
            o0,
            o1,
            o2,
            o3,
            f0,
            f1,
            f2,
            f3,
            f4,
            f5,
            f6,
            f7,
            l0,
            l1,
            l2,
            l3,
        ] = header;
        let oid = u32::from_le_bytes([o0, o1, o2, o3]);
        let offset = u64::from_le_bytes([f0, f1, f2, f3, f4, f5, f6, f7]);
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if length == 0 || length > PAGE_BYTES_MAX || offset.checked_add(u64::from(length)).is_none()
        {
            return Err(invalid("a page of a large object has an impossible length"));
        }
        let length = usize::try_from(length).map_err(io::Error::other)?;
        self.page.resize(length, 0);
        self.input.read_exact(&mut self.page)?;
        Ok(Some((oid, offset, &self.page)))
    }
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Fills the buffer; `false` where the input ends before its first byte.
fn read_all_or_nothing(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    let mut rest = buffer;
    let whole = rest.len();
    while !rest.is_empty() {
        match input.read(rest) {
            Ok(0) if rest.len() == whole => return Ok(false),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => rest = rest.get_mut(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_back() {
        let pages = [
            (1_u32, 0_u64, vec![1_u8; 2048]),
            (1, 1 << 40, vec![2; 7]),
            (99, 4096, vec![3; 1 << 20]),
        ];
        let mut bytes = Vec::new();
        for (oid, offset, page) in &pages {
            bytes.extend_from_slice(&encode_header(
                *oid,
                *offset,
                u32::try_from(page.len()).unwrap(),
            ));
            bytes.extend_from_slice(page);
        }
        let mut reader = PageReader::new(&bytes[..]);
        for (oid, offset, page) in &pages {
            assert_eq!(
                reader.next_page().unwrap(),
                Some((*oid, *offset, &page[..]))
            );
        }
        assert_eq!(reader.next_page().unwrap(), None);
    }

    #[test]
    fn lengths_are_checked() {
        let check =
            |bytes: &[u8]| assert!(PageReader::new(bytes).next_page().is_err(), "{bytes:?}");
        check(&[1]);
        check(&encode_header(1, 0, 0));
        check(&encode_header(1, 0, PAGE_BYTES_MAX + 1));
        check(&encode_header(1, u64::MAX, 1));
        check(&encode_header(1, 0, 5));
    }

    #[test]
    fn ranges_are_fixed() {
        assert_eq!(range_name(0), "0000000000");
        assert_eq!(range_name(16_383), "0000000000");
        assert_eq!(range_name(16_384), "0000016384");
        assert_eq!(range_name(u32::MAX), "4294950912");
    }
}
