//! Counts what is asked of a backend, for tests of cost: a second identical run writes no pack.
//!
//! Calls are counted when they are made, bytes and created objects when the call succeeded. Threads: any.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::{
    Backend, BackendError, ByteRange, Condemned, NewObject, ObjectInfo, ObjectKind, ObjectName,
    Strays,
};

/// A backend that counts.
#[derive(Debug)]
pub struct Counting {
    inner: Arc<dyn Backend>,
    counters: Arc<Counters>,
}

/// What was counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls of `put_new`.
    pub put_new: u64,
    /// Calls of `begin`.
    pub begin: u64,
    /// Calls of `append`.
    pub append: u64,
    /// Calls of `NewObject::sync`.
    pub sync: u64,
    /// Calls of `commit` and `publish`.
    pub commit: u64,
    /// Calls of `get`.
    pub get: u64,
    /// Calls of `read_into`.
    pub read_into: u64,
    /// Calls of `len`.
    pub len: u64,
    /// Calls of `exists`.
    pub exists: u64,
    /// Calls of `list` and `list_log_after`.
    pub list: u64,
    /// Calls of `delete`.
    pub delete: u64,
    /// Calls of `sync_names`.
    pub sync_names: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    created: [u64; ObjectKind::ALL.len()],
}

impl Counts {
    /// Returns how many objects of a kind were created.
    #[must_use]
    pub fn created(&self, kind: ObjectKind) -> u64 {
        self.created[kind.position()]
    }
}

#[derive(Debug, Default)]
struct Counters {
    put_new: AtomicU64,
    begin: AtomicU64,
    append: AtomicU64,
    sync: AtomicU64,
    commit: AtomicU64,
    get: AtomicU64,
    read_into: AtomicU64,
    len: AtomicU64,
    exists: AtomicU64,
    list: AtomicU64,
    delete: AtomicU64,
    sync_names: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    created: [AtomicU64; ObjectKind::ALL.len()],
}

impl Counters {
    fn created(&self, name: &ObjectName) {
        add(&self.created[name.kind().position()], 1);
    }
}

fn add(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

impl Counting {
    /// Wraps a backend.
    #[must_use]
    pub fn new(inner: Arc<dyn Backend>) -> Self {
        Self {
            inner,
            counters: Arc::default(),
        }
    }

    /// Returns what was counted since the beginning or the last `reset`.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.read_each(|counter| counter.load(Ordering::Relaxed))
    }

    /// Starts again at zero, and returns what was counted.
    pub fn reset(&self) -> Counts {
        self.read_each(|counter| counter.swap(0, Ordering::Relaxed))
    }

    fn read_each(&self, read: impl Fn(&AtomicU64) -> u64) -> Counts {
        let counters = &*self.counters;
        Counts {
            put_new: read(&counters.put_new),
            begin: read(&counters.begin),
            append: read(&counters.append),
            sync: read(&counters.sync),
            commit: read(&counters.commit),
            get: read(&counters.get),
            read_into: read(&counters.read_into),
            len: read(&counters.len),
            exists: read(&counters.exists),
            list: read(&counters.list),
            delete: read(&counters.delete),
            sync_names: read(&counters.sync_names),
            bytes_read: read(&counters.bytes_read),
            bytes_written: read(&counters.bytes_written),
            created: std::array::from_fn(|kind| read(&counters.created[kind])),
        }
    }
}

impl Backend for Counting {
    fn create_layout(&self) -> Result<(), BackendError> {
        self.inner.create_layout()
    }

    fn put_new(&self, name: &ObjectName, body: &[u8]) -> Result<(), BackendError> {
        add(&self.counters.put_new, 1);
        self.inner.put_new(name, body)?;
        add(&self.counters.bytes_written, body.len());
        self.counters.created(name);
        Ok(())
    }

    fn begin(&self, kind: ObjectKind) -> Result<Box<dyn NewObject>, BackendError> {
        add(&self.counters.begin, 1);
        let inner = self.inner.begin(kind)?;
        Ok(Box::new(CountingObject {
            inner,
            counters: self.counters.clone(),
        }))
    }

    fn get(&self, name: &ObjectName, range: ByteRange) -> Result<Bytes, BackendError> {
        add(&self.counters.get, 1);
        let bytes = self.inner.get(name, range)?;
        add(&self.counters.bytes_read, bytes.len());
        Ok(bytes)
    }

    fn read_into(
        &self,
        name: &ObjectName,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), BackendError> {
        add(&self.counters.read_into, 1);
        self.inner.read_into(name, offset, buffer)?;
        add(&self.counters.bytes_read, buffer.len());
        Ok(())
    }

    fn len(&self, name: &ObjectName) -> Result<u64, BackendError> {
        add(&self.counters.len, 1);
        self.inner.len(name)
    }

    fn exists(&self, name: &ObjectName) -> Result<bool, BackendError> {
        add(&self.counters.exists, 1);
        self.inner.exists(name)
    }

    fn list(
        &self,
        kind: ObjectKind,
        each: &mut dyn FnMut(ObjectInfo),
    ) -> Result<Strays, BackendError> {
        add(&self.counters.list, 1);
        self.inner.list(kind, each)
    }

    fn list_log_after(
        &self,
        seq: u64,
        each: &mut dyn FnMut(ObjectInfo),
    ) -> Result<Strays, BackendError> {
        add(&self.counters.list, 1);
        self.inner.list_log_after(seq, each)
    }

    fn delete(&self, name: &Condemned) -> Result<(), BackendError> {
        add(&self.counters.delete, 1);
        self.inner.delete(name)
    }

    fn sync_names(&self, kinds: &[ObjectKind]) -> Result<(), BackendError> {
        add(&self.counters.sync_names, 1);
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
struct CountingObject {
    inner: Box<dyn NewObject>,
    counters: Arc<Counters>,
}

impl NewObject for CountingObject {
    fn append(&mut self, bytes: &[u8]) -> Result<(), BackendError> {
        add(&self.counters.append, 1);
        self.inner.append(bytes)?;
        add(&self.counters.bytes_written, bytes.len());
        Ok(())
    }

    fn sync(&mut self) -> Result<(), BackendError> {
        add(&self.counters.sync, 1);
        self.inner.sync()
    }

    fn commit(self: Box<Self>, name: &ObjectName) -> Result<(), BackendError> {
        add(&self.counters.commit, 1);
        self.inner.commit(name)?;
        self.counters.created(name);
        Ok(())
    }

    fn publish(self: Box<Self>, name: &ObjectName) -> Result<(), BackendError> {
        add(&self.counters.commit, 1);
        self.inner.publish(name)?;
        self.counters.created(name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Memory, conformance::conformance};

    #[test]
    fn conformance_of_a_counted_backend() {
        conformance(&|| Box::new(Counting::new(Arc::new(Memory::new()))));
    }

    #[test]
    fn calls_bytes_and_objects_are_counted() {
        let backend = Counting::new(Arc::new(Memory::new()));
        backend.put_new(&ObjectName::log(1), b"four").unwrap();
        backend.put_new(&ObjectName::log(1), b"four").unwrap_err();
        let mut object = backend.begin(ObjectKind::Index).unwrap();
        object.append(b"12").unwrap();
        object.append(b"345").unwrap();
        object
            .commit(&ObjectName::hashed(ObjectKind::Index, [7; 32]))
            .unwrap();
        backend
            .get(&ObjectName::log(1), ByteRange::Last(3))
            .unwrap();
        backend
            .read_into(&ObjectName::log(1), 0, &mut [0; 2])
            .unwrap();
        let expected = Counts {
            put_new: 2,
            begin: 1,
            append: 2,
            commit: 1,
            get: 1,
            read_into: 1,
            bytes_read: 5,
            bytes_written: 9,
            created: backend.counts().created,
            ..Counts::default()
        };
        assert_eq!(backend.counts(), expected);
        assert_eq!(backend.counts().created(ObjectKind::Log), 1);
        assert_eq!(backend.counts().created(ObjectKind::Index), 1);
        assert_eq!(backend.counts().created(ObjectKind::Pack), 0);
        assert_eq!(backend.reset(), expected);
        assert_eq!(backend.counts(), Counts::default());
    }
}
