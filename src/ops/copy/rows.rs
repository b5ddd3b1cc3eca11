//! Counts and digests the rows of a part of a table again, with another secret, from its stream in pieces of any size.
//!
//! Memory: none for rows, however long they are.

use xxhash_rust::xxh3::{Xxh3, Xxh3Builder, xxh3_128_with_secret};

use crate::crypto::RowDigestSecret;
use crate::format::node::TablePart;

/// Signature, flags, and the length of an extension, before the first row in the binary form.
const BINARY_HEADER: usize = 19;
/// The form of [`TablePart`] that is binary.
const BINARY: u8 = 1;

/// What is being counted.
pub(super) struct Rows {
    secret: RowDigestSecret,
    form: Form,
    count: u64,
    sum: u128,
    /// The row that is open, if a piece ended in it.
    open: Option<Box<Xxh3>>,
}

enum Form {
    Text,
    /// What comes next, and the bytes of it that have come, where they are fewer than a length takes.
    Binary(Expected, Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Header,
    Fields,
    Length { fields: u16 },
    Bytes { fields: u16, len: u32 },
    Nothing,
}

impl Rows {
    pub(super) fn new(part: &TablePart, secret: RowDigestSecret) -> Self {
        let form = match part.format {
            BINARY => Form::Binary(Expected::Header, Vec::new()),
            _ => Form::Text,
        };
        Self {
            secret,
            form,
            count: 0,
            sum: 0,
            open: None,
        }
    }

    /// The next bytes of the stream.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        match std::mem::replace(&mut self.form, Form::Text) {
            Form::Text => self.text(bytes),
            Form::Binary(expected, pending) => {
                self.form = self.binary(expected, pending, bytes);
            }
        }
    }

    /// Rows and digest; `None` if the stream ends inside a row.
    pub(super) fn finish(self) -> Option<(u64, u128)> {
        let whole = match self.form {
            Form::Text => self.open.is_none(),
            Form::Binary(expected, pending) => {
                // A part without rows may have no stream at all.
                let empty = expected == Expected::Header && pending.is_empty();
                empty || expected == Expected::Nothing
            }
        };
        whole.then_some((self.count, self.sum))
    }

    fn text(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let (row, rest) = bytes.split_at(end);
            bytes = rest.get(1..).unwrap_or_default();
            self.part(row);
            self.end_row(row);
        }
        if !bytes.is_empty() {
            self.open_row().update(bytes);
        }
    }

    /// Adds to the open row; a row that is in one piece is digested at its end.
    fn part(&mut self, bytes: &[u8]) {
        if let Some(open) = &mut self.open {
            open.update(bytes);
        }
    }

    fn end_row(&mut self, row: &[u8]) {
        let digest = match self.open.take() {
            Some(open) => open.digest128(),
            None => xxh3_128_with_secret(row, self.secret.expose()),
        };
        self.sum = self.sum.wrapping_add(digest);
        self.count += 1;
    }

    fn open_row(&mut self) -> &mut Xxh3 {
        let secret = *self.secret.expose();
        self.open
            .get_or_insert_with(|| Box::new(Xxh3Builder::new().with_secret(secret).build()))
    }

    fn binary(&mut self, mut expected: Expected, mut pending: Vec<u8>, mut bytes: &[u8]) -> Form {
        while !bytes.is_empty() && expected != Expected::Nothing {
            let want = match expected {
                Expected::Header => BINARY_HEADER,
                Expected::Fields => 2,
                Expected::Length { .. } => 4,
                Expected::Bytes { len, .. } => len as usize,
                Expected::Nothing => break,
            };
            if let Expected::Bytes { fields, len } = expected {
                let (now, rest) = bytes.split_at(want.min(bytes.len()));
                self.open_row().update(now);
                bytes = rest;
                let left = len - u32::try_from(now.len()).expect("no more than was wanted");
                expected = match left {
                    0 => self.after_field(fields),
                    len => Expected::Bytes { fields, len },
                };
                continue;
            }
            let (now, rest) = bytes.split_at((want - pending.len()).min(bytes.len()));
            pending.extend_from_slice(now);
            bytes = rest;
            if pending.len() == want {
                expected = self.number(expected, &pending);
                pending.clear();
            }
        }
        if !bytes.is_empty() {
            // Something follows the end: it is no stream that ends well.
            return Form::Binary(Expected::Fields, vec![0]);
        }
        Form::Binary(expected, pending)
    }

    /// What follows a header, a number of fields or a length.
    #[allow(
        clippy::big_endian_bytes,
        reason = "COPY's binary format is in network byte order"
    )]
    fn number(&mut self, expected: Expected, bytes: &[u8]) -> Expected {
        match (expected, bytes) {
            (Expected::Fields, [0xff, 0xff]) => Expected::Nothing,
            (Expected::Fields, [high, low]) => {
                self.open_row().update(bytes);
                match u16::from_be_bytes([*high, *low]) {
                    0 => self.after_field(1),
                    fields => Expected::Length { fields },
                }
            }
            (Expected::Length { fields }, [a, b, c, d]) => {
                self.open_row().update(bytes);
                match u32::from_be_bytes([*a, *b, *c, *d]) {
                    0 | u32::MAX => self.after_field(fields),
                    len => Expected::Bytes { fields, len },
                }
            }
            _ => Expected::Fields,
        }
    }

    /// Ends a field, and the row with its last one.
    fn after_field(&mut self, fields: u16) -> Expected {
        match fields {
            0 | 1 => {
                self.end_row(&[]);
                Expected::Fields
            }
            more => Expected::Length { fields: more - 1 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::repository;

    fn check(part: &TablePart, stream: &[u8], rows: &[&[u8]]) {
        let (_, repository) = repository();
        let secret = || repository.keyring().row_digest_secret().unwrap();
        let sum = rows.iter().fold(0u128, |sum, row| {
            sum.wrapping_add(xxh3_128_with_secret(row, secret().expose()))
        });
        let expected = (u64::try_from(rows.len()).unwrap(), sum);
        for size in [1, 2, 3, 7, 64, 300, 1 << 20] {
            let mut counted = Rows::new(part, secret());
            stream.chunks(size).for_each(|piece| counted.add(piece));
            assert_eq!(counted.finish(), Some(expected), "{size}");
            let mut counted = Rows::new(part, secret());
            let cut = &stream[..stream.len() - 1];
            cut.chunks(size).for_each(|piece| counted.add(piece));
            assert_eq!(counted.finish(), None, "{size}");
        }
    }

    #[test]
    fn rows_are_digested_wherever_they_are_cut() {
        let long = "long ".repeat(200);
        let text = ["1\tone", "", &long, "\\N\t"].map(str::as_bytes);
        let stream: Vec<u8> = text
            .iter()
            .flat_map(|row| [row, &b"\n"[..]].concat())
            .collect();
        check(&TablePart::default(), &stream, &text);

        let long = [&[0, 2][..], &[0, 0, 1, 244], &[7; 500], &[0xff; 4]].concat();
        let short = [&[0, 2][..], &[0; 4], &[0, 0, 0, 1], b"x"].concat();
        let rows: [&[u8]; 3] = [&long, &short, &[0, 0]];
        let header = [&b"PGCOPY\n\xff\r\n\0"[..], &[0; 8]].concat();
        let stream = [&header, &rows.concat()[..], b"\xff\xff"].concat();
        let part = TablePart {
            format: BINARY,
            ..TablePart::default()
        };
        check(&part, &stream, &rows);
    }
}
