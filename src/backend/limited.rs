//! Writes no more than so many bytes a second, so that a backup leaves the line to others.
//!
//! A bucket that holds a quarter of a second's bytes: what is written is paid for afterwards, by waiting. Reading is not limited.
//!
//! Threads: any; all of them share one bucket, and each waits for its own bytes.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    Backend, BackendError, ByteRange, Condemned, NewObject, ObjectInfo, ObjectKind, ObjectName,
    Strays,
};

/// What may be written at once without waiting.
const BURST: Duration = Duration::from_millis(250);

/// A backend that is written to slowly.
#[derive(Debug)]
pub struct Limited {
    inner: Arc<dyn Backend>,
    bucket: Arc<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    bytes_a_second: u64,
    /// When everything that was written is paid for.
    paid: Mutex<Instant>,
}

impl Limited {
    /// Wraps a backend; at least one byte a second gets through.
    #[must_use]
    pub fn new(inner: Arc<dyn Backend>, bytes_a_second: u64) -> Self {
        Self {
            inner,
            bucket: Arc::new(Bucket {
                bytes_a_second: bytes_a_second.max(1),
                paid: Mutex::new(Instant::now()),
            }),
        }
    }
}

impl Bucket {
    /// Waits until these bytes may have been written.
    fn pay(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let price = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / self.bytes_a_second);
        let now = Instant::now();
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        *paid = (*paid).max(now) + price;
        let wait = paid.saturating_duration_since(now + BURST);
        drop(paid);
        thread::sleep(wait);
    }
}

impl Backend for Limited {
    fn create_layout(&self) -> Result<(), BackendError> {
        self.inner.create_layout()
    }

    fn put_new(&self, name: &ObjectName, body: &[u8]) -> Result<(), BackendError> {
        self.bucket.pay(body.len());
        self.inner.put_new(name, body)
    }

    fn begin(&self, kind: ObjectKind) -> Result<Box<dyn NewObject>, BackendError> {
        Ok(Box::new(LimitedObject {
            inner: self.inner.begin(kind)?,
            bucket: self.bucket.clone(),
        }))
    }

    fn get(&self, name: &ObjectName, range: ByteRange) -> Result<Bytes, BackendError> {
        self.inner.get(name, range)
    }

    fn read_into(
        &self,
        name: &ObjectName,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), BackendError> {
        self.inner.read_into(name, offset, buffer)
    }

    fn len(&self, name: &ObjectName) -> Result<u64, BackendError> {
        self.inner.len(name)
    }

    fn exists(&self, name: &ObjectName) -> Result<bool, BackendError> {
        self.inner.exists(name)
    }

    fn list(
        &self,
        kind: ObjectKind,
        each: &mut dyn FnMut(ObjectInfo),
    ) -> Result<Strays, BackendError> {
        self.inner.list(kind, each)
    }

    fn list_log_after(
        &self,
        seq: u64,
        each: &mut dyn FnMut(ObjectInfo),
    ) -> Result<Strays, BackendError> {
        self.inner.list_log_after(seq, each)
    }

    fn delete(&self, name: &Condemned) -> Result<(), BackendError> {
        self.inner.delete(name)
    }

    fn sync_names(&self, kinds: &[ObjectKind]) -> Result<(), BackendError> {
        self.inner.sync_names(kinds)
    }

    fn remove_abandoned(&self) -> Result<u64, BackendError> {
        self.inner.remove_abandoned()
    }

    fn free_bytes(&self) -> Result<Option<u64>, BackendError> {
        self.inner.free_bytes()
    }

    fn local_path(&self) -> Option<&Path> {
        self.inner.local_path()
    }
}

#[derive(Debug)]
struct LimitedObject {
    inner: Box<dyn NewObject>,
    bucket: Arc<Bucket>,
}

impl NewObject for LimitedObject {
    fn append(&mut self, bytes: &[u8]) -> Result<(), BackendError> {
        self.bucket.pay(bytes.len());
        self.inner.append(bytes)
    }

    fn sync(&mut self) -> Result<(), BackendError> {
        self.inner.sync()
    }

    fn commit(self: Box<Self>, name: &ObjectName) -> Result<(), BackendError> {
        self.inner.commit(name)
    }

    fn publish(self: Box<Self>, name: &ObjectName) -> Result<(), BackendError> {
        self.inner.publish(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Memory, conformance::conformance};

    #[test]
    fn conformance_of_a_limited_backend() {
        conformance(&|| Box::new(Limited::new(Arc::new(Memory::new()), u64::MAX / 4)));
    }

    #[test]
    fn writing_takes_its_time() {
        let backend = Limited::new(Arc::new(Memory::new()), 100_000);
        let begun = Instant::now();
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut object = backend.begin(ObjectKind::Pack).unwrap();
                    for _ in 0..10 {
                        object.append(&[0; 2_500]).unwrap();
                    }
                });
            }
        });
        // 75,000 bytes at 100,000 a second, a quarter of a second of them at once.
        assert!(begun.elapsed() >= Duration::from_millis(490));
    }
}
