//! A backend in memory, for tests and models: it keeps every promise but to outlive the process.
//!
//! Threads: one lock around everything, held for one call at a time.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::{
    Backend, BackendError, BackendErrorKind, ByteRange, Condemned, NewObject, ObjectInfo,
    ObjectKind, ObjectName, Operation, Strays, Subject,
};

/// A backend in memory; clones share their objects.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<ObjectName, Stored>,
    /// How far the store's clock is ahead.
    clock_ahead: Duration,
}

#[derive(Debug, Clone)]
struct Stored {
    bytes: Bytes,
    modified: SystemTime,
}

impl Memory {
    /// Makes an empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes one that holds these objects, all created now.
    #[must_use]
    pub fn with_contents(contents: BTreeMap<ObjectName, Bytes>) -> Self {
        let memory = Self::new();
        for (name, bytes) in contents {
            memory.replace(&name, bytes);
        }
        memory
    }

    /// Returns every object.
    #[must_use]
    pub fn contents(&self) -> BTreeMap<ObjectName, Bytes> {
        let state = self.lock();
        state
            .objects
            .iter()
            .map(|(name, stored)| (*name, stored.bytes.clone()))
            .collect()
    }

    /// Puts bytes under a name, whatever was there: damage, for tests.
    pub fn replace(&self, name: &ObjectName, bytes: impl Into<Bytes>) {
        let mut state = self.lock();
        let modified = SystemTime::now() + state.clock_ahead;
        state.objects.insert(
            *name,
            Stored {
                bytes: bytes.into(),
                modified,
            },
        );
    }

    /// Removes an object, whatever it is: damage, for tests. Returns whether it was there.
    pub fn remove(&self, name: &ObjectName) -> bool {
        self.lock().objects.remove(name).is_some()
    }

    /// Lets the store's clock jump ahead: what is created from now on is that much younger.
    pub fn advance_clock(&self, by: Duration) {
        self.lock().clock_ahead += by;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one insert or remove, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stored(&self, name: &ObjectName, operation: Operation) -> Result<Bytes, BackendError> {
        match self.lock().objects.get(name) {
            Some(stored) => Ok(stored.bytes.clone()),
            None => Err(BackendError::bare(
                BackendErrorKind::NotFound,
                operation,
                *name,
            )),
        }
    }

    fn create(&self, name: &ObjectName, bytes: Bytes) -> Result<(), BackendError> {
        let mut state = self.lock();
        if state.objects.contains_key(name) {
            let kind = BackendErrorKind::AlreadyExists;
            return Err(BackendError::bare(kind, Operation::Create, *name));
        }
        let modified = SystemTime::now() + state.clock_ahead;
        state.objects.insert(*name, Stored { bytes, modified });
        Ok(())
    }
}

impl Backend for Memory {
    fn create_layout(&self) -> Result<(), BackendError> {
        if self.lock().objects.is_empty() {
            return Ok(());
        }
        let cause = io::Error::new(io::ErrorKind::AlreadyExists, "it holds objects already");
        let place = Subject::Place("memory".into());
        let kind = BackendErrorKind::AlreadyExists;
        Err(BackendError::new(
            kind,
            Operation::CreateLayout,
            place,
            cause,
        ))
    }

    fn put_new(&self, name: &ObjectName, body: &[u8]) -> Result<(), BackendError> {
        self.create(name, Bytes::copy_from_slice(body))
    }

    fn begin(&self, kind: ObjectKind) -> Result<Box<dyn NewObject>, BackendError> {
        Ok(Box::new(MemoryObject {
            memory: self.clone(),
            kind,
            bytes: Vec::new(),
        }))
    }

    fn get(&self, name: &ObjectName, range: ByteRange) -> Result<Bytes, BackendError> {
        let operation = Operation::Read(range);
        let bytes = self.stored(name, operation)?;
        slice(&bytes, range).ok_or_else(|| BackendError::short(operation, name, bytes.len() as u64))
    }

    fn read_into(
        &self,
        name: &ObjectName,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), BackendError> {
        let range = ByteRange::Exact {
            offset,
            len: buffer.len() as u64,
        };
        buffer.copy_from_slice(&self.get(name, range)?);
        Ok(())
    }

    fn len(&self, name: &ObjectName) -> Result<u64, BackendError> {
        Ok(self.stored(name, Operation::Length)?.len() as u64)
    }

    fn list(
        &self,
        kind: ObjectKind,
        each: &mut dyn FnMut(ObjectInfo),
    ) -> Result<Strays, BackendError> {
        let info = |(name, stored): (&ObjectName, &Stored)| {
            let len = stored.bytes.len() as u64;
            ObjectInfo {
                name: *name,
                len,
                modified: stored.modified,
            }
        };
        // Collected first, so that `each` may call the backend.
        let infos: Vec<ObjectInfo> = self.lock().objects.iter().map(info).collect();
        infos
            .into_iter()
            .filter(|info| info.name.kind() == kind)
            .for_each(each);
        Ok(Strays::default())
    }

    fn delete(&self, name: &Condemned) -> Result<(), BackendError> {
        self.lock().objects.remove(name.deletable()?);
        Ok(())
    }

    fn sync_names(&self, _kinds: &[ObjectKind]) -> Result<(), BackendError> {
        Ok(())
    }

    fn free_bytes(&self) -> Result<Option<u64>, BackendError> {
        Ok(None)
    }
}

fn slice(bytes: &Bytes, range: ByteRange) -> Option<Bytes> {
    let (offset, len) = range.within(bytes.len() as u64)?;
    let start = usize::try_from(offset).ok()?;
    let len = usize::try_from(len).ok()?;
    Some(bytes.slice(start..start + len))
}

#[derive(Debug)]
struct MemoryObject {
    memory: Memory,
    kind: ObjectKind,
    bytes: Vec<u8>,
}

impl NewObject for MemoryObject {
    fn append(&mut self, bytes: &[u8]) -> Result<(), BackendError> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), BackendError> {
        Ok(())
    }

    fn commit(self: Box<Self>, name: &ObjectName) -> Result<(), BackendError> {
        assert_eq!(
            name.kind(),
            self.kind,
            "an object is committed as what it was begun"
        );
        self.memory.create(name, self.bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::conformance::conformance;

    #[test]
    fn conformance_of_memory() {
        conformance(&|| Box::new(Memory::new()));
    }

    #[test]
    fn contents_can_be_copied_and_damaged() {
        let memory = Memory::new();
        memory.put_new(&ObjectName::log(1), b"one").unwrap();
        let copy = Memory::with_contents(memory.contents());
        copy.replace(&ObjectName::log(1), &b"two"[..]);
        assert_eq!(
            &memory.get(&ObjectName::log(1), ByteRange::All).unwrap()[..],
            b"one"
        );
        assert_eq!(
            &copy.get(&ObjectName::log(1), ByteRange::All).unwrap()[..],
            b"two"
        );
        assert!(copy.remove(&ObjectName::log(1)));
        assert!(!copy.remove(&ObjectName::log(1)));
    }

    #[test]
    fn its_clock_can_jump() {
        let memory = Memory::new();
        memory.put_new(&ObjectName::heartbeat(1, 1), b"").unwrap();
        memory.advance_clock(Duration::from_secs(3600));
        memory.put_new(&ObjectName::heartbeat(1, 2), b"").unwrap();
        let mut times = Vec::new();
        memory
            .list(ObjectKind::Heartbeat, &mut |info| times.push(info.modified))
            .unwrap();
        assert!(times[1].duration_since(times[0]).unwrap() >= Duration::from_secs(3600));
    }
}
