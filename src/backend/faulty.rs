//! Lets chosen operations of a backend fail, for tests: fail operation 1, 2, 3 … until a run completes.
//!
//! Every call of the trait and of a new object is one operation, but for `create_layout`, `remove_abandoned` and `free_bytes`.
//! Threads: any; the order of operations among threads is theirs.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::{
    Backend, BackendError, BackendErrorKind, ByteRange, Condemned, NewObject, ObjectInfo,
    ObjectKind, ObjectName, Operation, Strays, Subject,
};

/// Which operations fail, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The first operation that fails; the first of all has number 1.
    pub first: u64,
    /// How many fail in a row; `u64::MAX` is a store that never comes back.
    pub count: u64,
    /// The kind of the error.
    pub kind: BackendErrorKind,
    /// Whether the operation is done and only its answer lost.
    pub lost_answer: bool,
}

impl Fault {
    /// One operation fails and is not done.
    #[must_use]
    pub const fn once(number: u64, kind: BackendErrorKind) -> Self {
        Self {
            first: number,
            count: 1,
            kind,
            lost_answer: false,
        }
    }

    /// Operations fail from this one on and are not done.
    #[must_use]
    pub const fn from(number: u64, kind: BackendErrorKind) -> Self {
        Self {
            first: number,
            count: u64::MAX,
            kind,
            lost_answer: false,
        }
    }

    /// One operation is done, and its answer is `Transient`.
    #[must_use]
    pub const fn lost_answer(number: u64) -> Self {
        Self {
            first: number,
            count: 1,
            kind: BackendErrorKind::Transient,
            lost_answer: true,
        }
    }
}

/// A backend of which chosen operations fail.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn Backend>,
    plan: Arc<Plan>,
}

#[derive(Debug)]
struct Plan {
    fault: Mutex<Option<Fault>>,
    operations: AtomicU64,
    faults_met: AtomicU64,
}

impl Faulty {
    /// Wraps a backend; without a fault it only counts.
    #[must_use]
    pub fn new(inner: Arc<dyn Backend>, fault: Option<Fault>) -> Self {
        let plan = Plan {
            fault: Mutex::new(fault),
            operations: AtomicU64::new(0),
            faults_met: AtomicU64::new(0),
        };
        Self {
            inner,
            plan: Arc::new(plan),
        }
    }

    /// Plans another fault, or none; numbers still count from the beginning.
    pub fn plan(&self, fault: Option<Fault>) {
        *self
            .plan
            .fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// Returns how many operations there were.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.plan.operations.load(Ordering::Relaxed)
    }

    /// Returns how many operations failed because it was planned; a test whose fault was never met has tested nothing.
    #[must_use]
    pub fn faults_met(&self) -> u64 {
        self.plan.faults_met.load(Ordering::Relaxed)
    }
}

impl Plan {
    fn run<T>(
        &self,
        operation: Operation,
        subject: impl Into<Subject>,
        call: impl FnOnce() -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        let number = self.operations.fetch_add(1, Ordering::Relaxed) + 1;
        let fault = *self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(fault) =
            fault.filter(|fault| number >= fault.first && number - fault.first < fault.count)
        else {
            return call();
        };
        self.faults_met.fetch_add(1, Ordering::Relaxed);
        if fault.lost_answer {
            call()?;
        }
        let cause = io::Error::other(format!("planned fault of operation {number}"));
        Err(BackendError::new(fault.kind, operation, subject, cause))
    }
}

impl Backend for Faulty {
    fn create_layout(&self) -> Result<(), BackendError> {
        self.inner.create_layout()
    }

    fn put_new(&self, name: &ObjectName, body: &[u8]) -> Result<(), BackendError> {
        self.plan
            .run(Operation::Create, *name, || self.inner.put_new(name, body))
    }

    fn begin(&self, kind: ObjectKind) -> Result<Box<dyn NewObject>, BackendError> {
        let inner = self
            .plan
            .run(Operation::Begin, kind, || self.inner.begin(kind))?;
        Ok(Box::new(FaultyObject {
            inner,
            kind,
            plan: self.plan.clone(),
        }))
    }

    fn get(&self, name: &ObjectName, range: ByteRange) -> Result<Bytes, BackendError> {
        self.plan.run(Operation::Read(range), *name, || {
            self.inner.get(name, range)
        })
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
        let read = || self.inner.read_into(name, offset, buffer);
        self.plan.run(Operation::Read(range), *name, read)
    }

    fn len(&self, name: &ObjectName) -> Result<u64, BackendError> {
        self.plan
            .run(Operation::Length, *name, || self.inner.len(name))
    }

    fn exists(&self, name: &ObjectName) -> Result<bool, BackendError> {
        self.plan
            .run(Operation::Length, *name, || self.inner.exists(name))
    }

    fn list(
        &self,
        kind: ObjectKind,
        each: &mut dyn FnMut(ObjectInfo),
    ) -> Result<Strays, BackendError> {
        self.plan
            .run(Operation::List, kind, || self.inner.list(kind, each))
    }

    fn list_log_after(
        &self,
        seq: u64,
        each: &mut dyn FnMut(ObjectInfo),
    ) -> Result<Strays, BackendError> {
        let list = || self.inner.list_log_after(seq, each);
        self.plan.run(Operation::List, ObjectKind::Log, list)
    }

    fn delete(&self, name: &Condemned) -> Result<(), BackendError> {
        self.plan
            .run(Operation::Delete, *name.name(), || self.inner.delete(name))
    }

    fn sync_names(&self, kinds: &[ObjectKind]) -> Result<(), BackendError> {
        let Some(&first) = kinds.first() else {
            return Ok(());
        };
        self.plan
            .run(Operation::Sync, first, || self.inner.sync_names(kinds))
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
struct FaultyObject {
    inner: Box<dyn NewObject>,
    kind: ObjectKind,
    plan: Arc<Plan>,
}

impl NewObject for FaultyObject {
    fn append(&mut self, bytes: &[u8]) -> Result<(), BackendError> {
        self.plan
            .run(Operation::Append, self.kind, || self.inner.append(bytes))
    }

    fn sync(&mut self) -> Result<(), BackendError> {
        self.plan
            .run(Operation::Sync, self.kind, || self.inner.sync())
    }

    fn commit(self: Box<Self>, name: &ObjectName) -> Result<(), BackendError> {
        let Self { inner, plan, .. } = *self;
        plan.run(Operation::Create, *name, || inner.commit(name))
    }

    fn publish(self: Box<Self>, name: &ObjectName) -> Result<(), BackendError> {
        let Self { inner, plan, .. } = *self;
        plan.run(Operation::Create, *name, || inner.publish(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Memory, conformance::conformance};

    #[test]
    fn conformance_without_a_fault() {
        conformance(&|| Box::new(Faulty::new(Arc::new(Memory::new()), None)));
    }

    #[test]
    fn the_planned_operation_fails_and_is_not_done() {
        let fault = Fault::once(2, BackendErrorKind::NoSpace);
        let backend = Faulty::new(Arc::new(Memory::new()), Some(fault));
        backend.put_new(&ObjectName::log(1), b"one").unwrap();
        let error = backend.put_new(&ObjectName::log(2), b"two").unwrap_err();
        assert_eq!(error.kind, BackendErrorKind::NoSpace);
        assert_eq!(error.to_string(), "cannot create log/0000000000000002");
        assert!(!backend.exists(&ObjectName::log(2)).unwrap());
        assert_eq!((backend.operations(), backend.faults_met()), (3, 1));
    }

    #[test]
    fn a_lost_answer_is_an_operation_that_was_done() {
        let fault = Fault::lost_answer(3);
        let backend = Faulty::new(Arc::new(Memory::new()), Some(fault));
        let mut object = backend.begin(ObjectKind::Log).unwrap();
        object.append(b"one").unwrap();
        let error = object.commit(&ObjectName::log(1)).unwrap_err();
        assert_eq!(error.kind, BackendErrorKind::Transient);
        assert_eq!(
            &backend.get(&ObjectName::log(1), ByteRange::All).unwrap()[..],
            b"one"
        );
    }

    #[test]
    fn a_store_can_stay_away_until_planned_otherwise() {
        let fault = Fault::from(1, BackendErrorKind::Transient);
        let backend = Faulty::new(Arc::new(Memory::new()), Some(fault));
        for _ in 0..3 {
            backend.exists(&ObjectName::log(1)).unwrap_err();
        }
        backend.plan(None);
        backend.exists(&ObjectName::log(1)).unwrap();
        assert_eq!(backend.faults_met(), 3);
    }
}
