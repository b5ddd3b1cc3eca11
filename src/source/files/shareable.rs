//! A file that several workers read at once.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;

use super::walk::{Shared, words};
use crate::pipeline::{ReadAt, Unreadable};

/// A file that several workers read.
pub(super) struct Shareable {
    /// The walk, which may be stopped.
    pub(super) shared: Arc<Shared>,
    /// The file.
    pub(super) file: Arc<OwnedFd>,
}

impl ReadAt for Shareable {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Unreadable> {
        self.shared.check().map_err(Unreadable::Run)?;
        let mut filled = 0;
        while filled < buffer.len() {
            let at = offset + filled as u64;
            match rustix::io::pread(&self.file, &mut buffer[filled..], at) {
                Ok(0) => break,
                Ok(len) => filled += len,
                Err(Errno::INTR) => {}
                Err(error) => {
                    return Err(Unreadable::Item(words(&format!("read it at {at}"), error)));
                }
            }
        }
        Ok(filled)
    }
}
