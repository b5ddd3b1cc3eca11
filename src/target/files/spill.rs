//! Records in an unnamed temporary file, read from the last to the first or in order.
//!
//! Layout: per record its bytes, then their length (u32, little-endian).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes that wait to be written at once.
const BUFFER_BYTES: usize = 64 << 10;

/// Appended records.
#[derive(Debug)]
pub(super) struct Spill {
    file: File,
    written: u64,
    buffer: Vec<u8>,
}

impl Spill {
    /// An empty one.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            file: tempfile::tempfile()?,
            written: 0,
            buffer: Vec::new(),
        })
    }

    /// Appends a record.
    pub(super) fn push(&mut self, record: &[u8]) -> io::Result<()> {
        let len = u32::try_from(record.len())
            .map_err(|_too_long| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.buffer.extend_from_slice(record);
        self.buffer.extend_from_slice(&len.to_le_bytes());
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Takes the last record.
    pub(super) fn pop(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.buffer.is_empty() {
            if self.written == 0 {
                return Ok(None);
            }
            // A window of the file's end becomes the buffer, so that most records cost no call.
            let mut len = [0; 4];
            self.file.read_exact_at(&mut len, self.written - 4)?;
            let need = u64::from(u32::from_le_bytes(len)) + 4;
            let window = self.written.min(need.max(BUFFER_BYTES as u64));
            let size = usize::try_from(window).map_err(io::Error::other)?;
            self.buffer.resize(size, 0);
            self.file
                .read_exact_at(&mut self.buffer, self.written - window)?;
            self.written -= window;
        }
        let broken = || io::Error::from(io::ErrorKind::InvalidData);
        let at = self.buffer.len().checked_sub(4).ok_or_else(broken)?;
        let tail: [u8; 4] = self.buffer[at..].try_into().map_err(|_damage| broken())?;
        let len = usize::try_from(u32::from_le_bytes(tail)).map_err(io::Error::other)?;
        let Some(start) = at.checked_sub(len) else {
            // The record begins before the window: read on from its end.
            self.written += self.buffer.len() as u64;
            self.buffer.clear();
            return self.pop_large(len);
        };
        let record = self.buffer[start..at].to_vec();
        self.buffer.truncate(start);
        // What is left may begin inside a record, or between its length and its bytes.
        if !self.buffer.is_empty() && !self.ends_whole() {
            self.written += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(Some(record))
    }

    /// Whether the buffer holds at least one whole record at its end.
    fn ends_whole(&self) -> bool {
        let Some(at) = self.buffer.len().checked_sub(4) else {
            return false;
        };
        let tail: [u8; 4] = self.buffer[at..].try_into().unwrap_or([0xff; 4]);
        usize::try_from(u32::from_le_bytes(tail)).is_ok_and(|len| len <= at)
    }

    fn pop_large(&mut self, len: usize) -> io::Result<Option<Vec<u8>>> {
        let end = self.written - 4;
        let mut record = vec![0; len];
        let start = end
            .checked_sub(len as u64)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        self.file.read_exact_at(&mut record, start)?;
        self.written = start;
        Ok(Some(record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_from_the_last_to_the_first() {
        let mut spill = Spill::new().unwrap();
        let record = |number: usize| vec![number.to_le_bytes()[0]; number * 37 % 5000];
        for number in 0..500 {
            spill.push(&record(number)).unwrap();
        }
        spill.push(&vec![9; 200_000]).unwrap();
        spill.push(b"end").unwrap();
        assert_eq!(spill.pop().unwrap().unwrap(), b"end");
        assert_eq!(spill.pop().unwrap().unwrap(), vec![9; 200_000]);
        for number in (0..500).rev() {
            assert_eq!(spill.pop().unwrap().unwrap(), record(number), "{number}");
        }
        assert_eq!(spill.pop().unwrap(), None);
        assert_eq!(spill.pop().unwrap(), None);
    }
}
