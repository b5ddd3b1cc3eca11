//! What a server sends, in any bytes and any pieces: nothing is lost, and the pieces do not matter.
#![no_main]

use holdfast::source::postgres::framing::{Framer, FramingError, Step};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Default, PartialEq)]
struct Out {
    passed: Vec<u8>,
    rows: Vec<Vec<u8>>,
}

fn run(stream: &[u8], size: usize, room: usize, reads: bool) -> (Out, Result<(), FramingError>) {
    let mut framer = Framer::with_room(room);
    framer.set_reader(reads);
    let (mut out, mut rest) = (Out::default(), stream);
    loop {
        let step = match framer.step() {
            Ok(step) => step,
            Err(error) => return (out, Err(error)),
        };
        match step {
            Step::Pass(range) => {
                let bytes = framer.bytes(range);
                out.passed.extend_from_slice(bytes);
                let bytes = bytes.len();
                framer.passed(bytes);
            }
            Step::Rows => {
                out.rows.extend(framer.rows().map(<[u8]>::to_vec));
                framer.rows_read();
            }
            Step::Read if rest.is_empty() => return (out, Ok(())),
            Step::Read => {
                let place = framer.room();
                let bytes = size.min(rest.len()).min(place.len());
                assert!(bytes > 0);
                place[..bytes].copy_from_slice(&rest[..bytes]);
                framer.filled(bytes);
                rest = &rest[bytes..];
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let [size, room, stream @ ..] = data else {
        return;
    };
    let (size, room) = (usize::from(*size) + 1, usize::from(*room) + 1);
    let whole = run(stream, stream.len().max(1), 1 << 20, true);
    assert_eq!(run(stream, size, room, true), whole);
    let (out, result) = run(stream, size, room, false);
    assert!(out.rows.is_empty());
    if result.is_ok() && whole.1.is_ok() {
        let bytes: usize = whole.0.rows.iter().map(|row| row.len() + 5).sum();
        // A row that is not whole has no reader yet.
        assert!(out.passed.len() >= whole.0.passed.len() + bytes);
        assert!(stream.len() - out.passed.len() < 5, "only a piece of a head is left");
    }
});
