//! Finds the borders of the messages that a server sends, and sets the rows of a `COPY … TO STDOUT` apart. It understands nothing else of
//! the protocol, and does no I/O.
//!
//! # Layout
//!
//! A message is a byte that says its kind, then four bytes: a big-endian length that counts itself, then the payload. CopyData (`d`) between
//! CopyOutResponse (`H`) and CopyDone (`c`) or ErrorResponse (`E`) is what a reader of rows gets, if there is one; all else is passed on byte by
//! byte as it stands, whether a message is whole or not.
//!
//! All bytes lie in one buffer: `[passed on or read][not yet looked at][room]`. Rows stay where they were received, with their five bytes
//! of head, until their reader has seen them; what is behind them waits.
//!
//! # Invariants
//!
//! 1. Every byte comes out once, in order, as rows or as other bytes, however the stream was cut (`segments_do_not_matter`).
//! 2. What comes behind rows is not passed on before they were read, so who waits for the end of a COPY has all of its rows
//!    (`the_end_waits_for_the_rows`).
//! 3. The buffer grows with the bytes that came, not with the length that a message claims, and never beyond one message of 1 GiB
//!    (`a_claimed_length_takes_no_memory`, `lengths_that_cannot_be_are_refused`).

use std::fmt;
use std::ops::Range;

use bytes::Buf;
use thiserror::Error;

/// Kind and length.
const HEADER_BYTES: usize = 5;
/// What the length counts at least: itself.
const LENGTH_MIN: usize = 4;
/// The server makes no message of 1 GiB.
const LENGTH_MAX: usize = 1 << 30;
/// Room of the buffer, unless a row is larger. Some dozen times what a server writes at once, and small enough for the second-level cache.
const BUFFER_BYTES: usize = 256 << 10;

const COPY_DATA: u8 = b'd';
const COPY_DONE: u8 = b'c';
const COPY_OUT_RESPONSE: u8 = b'H';
const ERROR_RESPONSE: u8 = b'E';
const READY_FOR_QUERY: u8 = b'Z';

/// Why a stream cannot be that of a server.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the server sent a message of kind {kind:?} with the length {length}, which cannot be")]
pub struct FramingError {
    kind: char,
    length: i32,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// These bytes of the buffer go to whoever speaks the protocol; [`Framer::passed`] says how many he took.
    Pass(Range<usize>),
    /// Rows wait for their reader: [`Framer::rows`], then [`Framer::rows_read`].
    Rows,
    /// More has to be read, into [`Framer::room`].
    Read,
}

/// Takes a stream apart; see the docs of the module.
pub struct Framer {
    /// As long as its room reaches.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// How many bytes are left of the message that is being passed on.
    passing: usize,
    /// Whole messages of rows from `start` on.
    rows: usize,
    /// The length of the message that the buffer begins with, where it is of rows and not whole.
    wanted: usize,
    has_reader: bool,
    copying: bool,
    /// The session has begun; some servers refuse it in words without a length.
    ready: bool,
    /// Room of the buffer, unless a row is larger.
    room: usize,
}

impl fmt::Debug for Framer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Framer")
            .field("bytes", &(self.end - self.start))
            .field("copying", &self.copying)
            .finish_non_exhaustive()
    }
}

impl Default for Framer {
    fn default() -> Self {
        Self::with_room(BUFFER_BYTES)
    }
}

impl Framer {
    /// Makes a framer whose buffer has this room unless a row is larger.
    #[must_use]
    pub fn with_room(bytes: usize) -> Self {
        let room = bytes.max(HEADER_BYTES);
        Self {
            buffer: vec![0; room],
            room,
            start: 0,
            end: 0,
            passing: 0,
            rows: 0,
            wanted: 0,
            has_reader: false,
            copying: false,
            ready: false,
        }
    }

    /// Says whether the rows of the COPY that comes next have a reader. Without one they are passed on; those that come after
    /// their reader has gone are thrown away.
    pub fn set_reader(&mut self, has_reader: bool) {
        self.has_reader = has_reader;
    }

    /// Says what is to be done next.
    pub fn step(&mut self) -> Result<Step, FramingError> {
        if self.rows > 0 && self.has_reader {
            return Ok(Step::Rows);
        }
        self.start += std::mem::take(&mut self.rows);
        while self.passing == 0 {
            let Some((kind, length)) = self.header(self.start)? else {
                return Ok(Step::Read);
            };
            if kind != COPY_DATA || !self.copying {
                self.note(kind);
                self.passing = length;
                break;
            }
            self.find_rows();
            if self.rows == 0 {
                self.wanted = length;
                return Ok(Step::Read);
            }
            if self.has_reader {
                return Ok(Step::Rows);
            }
            self.start += std::mem::take(&mut self.rows);
        }
        let bytes = self.passing.min(self.end - self.start);
        match bytes {
            0 => Ok(Step::Read),
            bytes => Ok(Step::Pass(self.start..self.start + bytes)),
        }
    }

    /// Bytes of the buffer.
    #[must_use]
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// Says how many bytes of [`Step::Pass`] were taken.
    pub fn passed(&mut self, bytes: usize) {
        self.start += bytes;
        self.passing -= bytes;
    }

    /// The rows that wait, if any do.
    #[must_use]
    pub fn rows(&self) -> Rows<'_> {
        Rows {
            rest: &self.buffer[self.start..self.start + self.rows],
        }
    }

    /// Gives up the rows that waited.
    pub fn rows_read(&mut self) {
        self.start += std::mem::take(&mut self.rows);
    }

    /// Says whether there is room, without moving anything, so that it pays to read before rows are handed over.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.end < self.buffer.len()
    }

    /// Where the next bytes are put; never empty after [`Step::Read`]. [`Framer::filled`] says how many there are.
    pub fn room(&mut self) -> &mut [u8] {
        if self.rows == 0 {
            self.make_room();
        }
        &mut self.buffer[self.end..]
    }

    /// Says how many bytes were put into the room.
    pub fn filled(&mut self, bytes: usize) {
        assert!(
            bytes <= self.buffer.len() - self.end,
            "no more than the room"
        );
        self.end += bytes;
    }

    /// Extends the rows that wait by those that came meanwhile. What is wrong behind them is said when they were read.
    pub fn find_rows(&mut self) {
        while let Ok(Some((COPY_DATA, length))) = self.header(self.start + self.rows) {
            if length > self.end - self.start - self.rows {
                break;
            }
            self.rows += length;
        }
    }

    /// Returns kind and length, with the byte of the kind, of the message at `at`, if its header is there.
    fn header(&self, at: usize) -> Result<Option<(u8, usize)>, FramingError> {
        let bytes = &self.buffer[at..self.end];
        if bytes.len() < HEADER_BYTES {
            return Ok(None);
        }
        let (kind, length) = (bytes[0], (&bytes[1..]).get_i32());
        let max = match self.ready {
            true => LENGTH_MAX,
            false => usize::MAX,
        };
        match usize::try_from(length) {
            Ok(length) if (LENGTH_MIN..=max).contains(&length) => Ok(Some((kind, length + 1))),
            _ => Err(FramingError {
                kind: char::from(kind),
                length,
            }),
        }
    }

    /// Follows what is passed on.
    fn note(&mut self, kind: u8) {
        match kind {
            COPY_OUT_RESPONSE => self.copying = self.has_reader,
            COPY_DONE | ERROR_RESPONSE => self.copying = false,
            READY_FOR_QUERY => {
                self.copying = false;
                self.ready = true;
            }
            _ => {}
        }
    }

    /// Moves what is left to the front, and grows or shrinks the buffer as the message there needs.
    fn make_room(&mut self) {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= std::mem::take(&mut self.start);
        }
        let wanted = std::mem::take(&mut self.wanted);
        if self.end == self.buffer.len() {
            // Doubling follows what has come; a length that is only claimed costs nothing.
            let longer = (self.end * 2).min(wanted.max(self.end + HEADER_BYTES));
            self.buffer.reserve_exact(longer - self.end);
            self.buffer.resize(longer, 0);
        } else if self.buffer.len() > self.room && self.end.max(wanted) < self.room {
            self.buffer.truncate(self.room);
            self.buffer.shrink_to_fit();
        }
    }
}

/// Rows as they were received: one CopyData message after another, all of them whole.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rows<'a> {
    rest: &'a [u8],
}

impl Rows<'_> {
    /// Says whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

impl<'a> Iterator for Rows<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let length = self.rest.get(1..HEADER_BYTES)?.get_u32();
        let length = usize::try_from(length).expect("a length of 32 bits");
        let (row, rest) = self.rest[1..].split_at(length);
        self.rest = rest;
        Some(&row[LENGTH_MIN..])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = i32::try_from(payload.len() + LENGTH_MIN).unwrap();
        let mut bytes = vec![kind];
        // The protocol is big-endian.
        bytes.extend(length.to_le_bytes().iter().rev());
        bytes.extend_from_slice(payload);
        bytes
    }

    /// What came out, in order.
    #[derive(Debug, Default, PartialEq)]
    struct Out {
        passed: Vec<u8>,
        rows: Vec<Vec<u8>>,
    }

    /// Feeds a stream in segments of these sizes, in turn; takes at most `takes` bytes at once of what is passed on.
    fn run(
        framer: &mut Framer,
        stream: &[u8],
        sizes: &[usize],
        takes: usize,
    ) -> Result<Out, FramingError> {
        let mut out = Out::default();
        let mut sizes = sizes.iter().copied().cycle();
        let mut rest = stream;
        loop {
            match framer.step()? {
                Step::Pass(range) => {
                    let bytes = framer.bytes(range);
                    let taken = bytes.len().min(takes);
                    out.passed.extend_from_slice(&bytes[..taken]);
                    framer.passed(taken);
                }
                Step::Rows => {
                    assert!(!framer.rows().is_empty());
                    // As the tap does: more may be read meanwhile.
                    if framer.has_room() && !rest.is_empty() {
                        rest = feed(framer, rest, sizes.next().unwrap());
                        framer.find_rows();
                    }
                    out.rows.extend(framer.rows().map(<[u8]>::to_vec));
                    framer.rows_read();
                }
                Step::Read if rest.is_empty() => return Ok(out),
                Step::Read => rest = feed(framer, rest, sizes.next().unwrap()),
            }
        }
    }

    fn feed<'a>(framer: &mut Framer, rest: &'a [u8], size: usize) -> &'a [u8] {
        let room = framer.room();
        let bytes = size.clamp(1, rest.len()).min(room.len());
        assert!(bytes > 0, "there is room after `Read`");
        room[..bytes].copy_from_slice(&rest[..bytes]);
        framer.filled(bytes);
        &rest[bytes..]
    }

    fn copying(room: usize) -> Framer {
        let mut framer = Framer::with_room(room);
        framer.set_reader(true);
        let begin = [message(b'Z', b"I"), message(b'H', b"\0\0\0")].concat();
        let out = run(&mut framer, &begin, &[100], 100).unwrap();
        assert_eq!(out.passed, begin);
        framer
    }

    #[derive(Clone, Debug)]
    enum Part {
        /// A COPY whose rows have these lengths, with notices between them; ended by an error or not.
        Copy(Vec<usize>, bool),
        Other(u8, usize),
    }

    fn part() -> impl Strategy<Value = Part> {
        let other = prop::sample::select(b"NSAT123DKnt".to_vec());
        prop_oneof![
            (prop::collection::vec(0_usize..300, 0..30), any::<bool>())
                .prop_map(|(rows, fails)| Part::Copy(rows, fails)),
            (other, 0_usize..300).prop_map(|(kind, length)| Part::Other(kind, length)),
        ]
    }

    proptest! {
        #[test]
        fn segments_do_not_matter(
            parts in prop::collection::vec(part(), 0..12),
            sizes in prop::collection::vec(1_usize..400, 1..10),
            takes in 1_usize..500,
            room in 1_usize..600,
        ) {
            let (mut stream, mut expected) = (message(b'Z', b"I"), Out::default());
            expected.passed = stream.clone();
            let mut pass = |bytes: Vec<u8>, stream: &mut Vec<u8>| {
                stream.extend_from_slice(&bytes);
                expected.passed.extend(bytes);
            };
            for part in parts {
                match part {
                    Part::Other(kind, length) => pass(message(kind, &vec![kind; length]), &mut stream),
                    Part::Copy(rows, fails) => {
                        pass(message(b'H', b"\0\0\0"), &mut stream);
                        for (number, length) in rows.into_iter().enumerate() {
                            let row = vec![u8::try_from(number).unwrap(); length];
                            stream.extend(message(b'd', &row));
                            expected.rows.push(row);
                            if number % 7 == 3 {
                                pass(message(b'N', b"a notice"), &mut stream);
                            }
                        }
                        pass(message(if fails { b'E' } else { b'c' }, b""), &mut stream);
                    }
                }
            }
            let mut framer = Framer::with_room(room);
            framer.set_reader(true);
            prop_assert_eq!(run(&mut framer, &stream, &sizes, takes).unwrap(), expected);
        }
    }

    #[test]
    fn the_end_waits_for_the_rows() {
        let mut framer = copying(1000);
        let stream = [message(b'd', b"1\n"), message(b'c', b"")].concat();
        let rest = feed(&mut framer, &stream, stream.len());
        assert!(rest.is_empty());
        assert_eq!(framer.step(), Ok(Step::Rows));
        assert_eq!(framer.step(), Ok(Step::Rows), "until they were read");
        framer.rows_read();
        assert!(matches!(framer.step(), Ok(Step::Pass(_))));
    }

    #[test]
    fn rows_without_a_reader() {
        let rows = [message(b'd', b"1\n"), message(b'd', b"2\n")].concat();
        let end = message(b'c', b"");
        // The reader has gone: nobody gets them.
        let mut framer = copying(1000);
        framer.set_reader(false);
        let out = run(&mut framer, &[&rows[..], &end].concat(), &[9], 100).unwrap();
        assert_eq!((out.passed, out.rows), (end.clone(), Vec::new()));
        // There never was one: they are passed on.
        let mut framer = Framer::default();
        let all = [&message(b'H', b"")[..], &rows, &end].concat();
        let out = run(&mut framer, &all, &[9], 100).unwrap();
        assert_eq!((out.passed, out.rows), (all, Vec::new()));
        // Rows where no COPY is are not the reader's.
        framer.set_reader(true);
        assert_eq!(run(&mut framer, &rows, &[9], 100).unwrap().passed, rows);
    }

    #[test]
    fn a_row_larger_than_the_buffer_grows_it_for_a_while() {
        let mut framer = copying(64);
        let long = vec![7; 100_000];
        let stream = [message(b'd', &long), message(b'd', b"short\n")].concat();
        let out = run(&mut framer, &stream, &[1000], 100).unwrap();
        assert_eq!(out.rows, [long, b"short\n".to_vec()]);
        run(&mut framer, &message(b'd', b"\n"), &[1], 1).unwrap();
        assert_eq!(framer.buffer.capacity(), 64);
    }

    #[test]
    fn a_claimed_length_takes_no_memory() {
        let mut framer = copying(64);
        let mut stream = message(b'd', b"");
        stream[1..5].copy_from_slice(&[0x3f, 0xff, 0xff, 0xff]);
        stream.resize(1000, 1);
        let out = run(&mut framer, &stream, &[100], 100).unwrap();
        assert!(out.rows.is_empty());
        assert!(framer.buffer.capacity() <= 2048);
    }

    #[test]
    fn lengths_that_cannot_be_are_refused() {
        let check = |framer: &mut Framer, length: [u8; 4], good: bool| {
            let bytes = [&b"d"[..], &length, b"more"].concat();
            let result = run(framer, &bytes, &[3], 100);
            assert_eq!(result.is_ok(), good, "{length:?}");
        };
        for (length, good) in [
            ([0x80, 0, 0, 0], false),
            ([0xff, 0xff, 0xff, 0xff], false),
            ([0, 0, 0, 0], false),
            ([0, 0, 0, 3], false),
            ([0, 0, 0, 8], true),
            ([0x40, 0, 0, 0], true),
            ([0x40, 0, 0, 1], false),
            ([0x7f, 0xff, 0xff, 0xff], false),
        ] {
            check(&mut copying(64), length, good);
        }
        // A server that cannot even begin says so without a length, and the client passes it on.
        let words = b"Ecould not fork new process for connection";
        let out = run(&mut Framer::default(), words, &[5], 100).unwrap();
        assert_eq!(out.passed, words);
    }
}
