//! The error of a backend: a small kind for branching, and for people what was tried on what.

use std::error::Error;
use std::fmt;
use std::io;

use super::{ByteRange, ObjectKind, ObjectName};

/// What went wrong in a backend. Its `Display` says what was tried on what; the cause is its source.
#[derive(Debug)]
pub struct BackendError {
    /// For branching.
    pub kind: BackendErrorKind,
    /// What was tried.
    pub operation: Operation,
    /// On what.
    pub subject: Subject,
    source: Option<io::Error>,
}

/// Kinds of errors that callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BackendErrorKind {
    /// The object is absent (or the place, when a repository is opened).
    NotFound,
    /// The name is taken; or, for a layout, the place is.
    AlreadyExists,
    /// Not permitted, or read-only.
    Denied,
    /// The disk or the quota is full.
    NoSpace,
    /// The same call may succeed a moment later; the only kind that is retried. What a failed create did is unknown.
    Transient,
    /// The object has fewer bytes than were asked for.
    Short,
    /// Anything else.
    Other,
}

/// What was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// To open the repository's place.
    Open,
    /// To prepare an empty place.
    CreateLayout,
    /// To start an object.
    Begin,
    /// To write data of an object.
    Append,
    /// To make data or names durable.
    Sync,
    /// To give an object its name.
    Create,
    /// To read a part of an object.
    Read(ByteRange),
    /// To ask for an object's length.
    Length,
    /// To list a kind.
    List,
    /// To delete an object.
    Delete,
    /// To remove what dead writers left.
    RemoveAbandoned,
    /// To ask for the space that is left.
    FreeSpace,
}

/// What an operation was tried on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// One object.
    Object(ObjectName),
    /// All objects of a kind, or one that has no name yet.
    Kind(ObjectKind),
    /// A place: a path or a URL.
    Place(String),
}

impl BackendError {
    /// Makes an error with its cause.
    pub fn new(
        kind: BackendErrorKind,
        operation: Operation,
        subject: impl Into<Subject>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self {
            kind,
            operation,
            subject: subject.into(),
            source: Some(source.into()),
        }
    }

    /// Makes an error whose kind says all.
    pub fn bare(kind: BackendErrorKind, operation: Operation, subject: impl Into<Subject>) -> Self {
        Self {
            kind,
            operation,
            subject: subject.into(),
            source: None,
        }
    }

    /// Makes the error of an object that has fewer bytes than were asked for.
    pub(super) fn short(operation: Operation, name: &ObjectName, object_len: u64) -> Self {
        let cause = format!("the object has only {object_len} bytes");
        let cause = io::Error::new(io::ErrorKind::UnexpectedEof, cause);
        Self::new(BackendErrorKind::Short, operation, *name, cause)
    }

    /// Returns the name of the object, if the error is about one.
    #[must_use]
    pub fn object(&self) -> Option<&ObjectName> {
        match &self.subject {
            Subject::Object(name) => Some(name),
            _ => None,
        }
    }
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = &self.subject;
        match self.operation {
            Operation::Open => write!(f, "cannot open {subject}"),
            Operation::CreateLayout => write!(f, "cannot create a repository in {subject}"),
            Operation::Begin => write!(f, "cannot start an object in {subject}"),
            Operation::Append => write!(f, "cannot write an object to {subject}"),
            Operation::Sync => write!(f, "cannot sync {subject}"),
            Operation::Create => write!(f, "cannot create {subject}"),
            Operation::Read(ByteRange::All) => write!(f, "cannot read {subject}"),
            Operation::Read(range) => write!(f, "cannot read {subject} at {range}"),
            Operation::Length => write!(f, "cannot get the length of {subject}"),
            Operation::List => write!(f, "cannot list {subject}"),
            Operation::Delete => write!(f, "cannot delete {subject}"),
            Operation::RemoveAbandoned => write!(f, "cannot remove what is left in {subject}"),
            Operation::FreeSpace => write!(f, "cannot get the free space of {subject}"),
        }?;
        match (&self.source, self.kind) {
            (Some(_), _) => Ok(()),
            (None, kind) => write!(f, ": {kind}"),
        }
    }
}

impl Error for BackendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source
            .as_ref()
            .map(|source| source as &(dyn Error + 'static))
    }
}

impl fmt::Display for BackendErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "it does not exist",
            Self::AlreadyExists => "it exists already",
            Self::Denied => "it is not permitted",
            Self::NoSpace => "no space is left",
            Self::Transient => "it may succeed later",
            Self::Short => "it is too short",
            Self::Other => "it failed",
        })
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(name) => name.fmt(f),
            Self::Kind(kind) => kind.fmt(f),
            Self::Place(place) => f.write_str(place),
        }
    }
}

impl From<ObjectName> for Subject {
    fn from(name: ObjectName) -> Self {
        Self::Object(name)
    }
}

impl From<ObjectKind> for Subject {
    fn from(kind: ObjectKind) -> Self {
        Self::Kind(kind)
    }
}

impl From<String> for Subject {
    fn from(place: String) -> Self {
        Self::Place(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_what_was_tried_on_what() {
        let check = |operation, subject: Subject, expected: &str| {
            let cause = io::Error::other("the cause");
            let error = BackendError::new(BackendErrorKind::Other, operation, subject, cause);
            assert_eq!(error.to_string(), expected);
            assert_eq!(error.source().unwrap().to_string(), "the cause");
        };
        let pack = ObjectName::hashed(ObjectKind::Pack, [0x3f; 32]);
        let range = ByteRange::Exact {
            offset: 1_048_576,
            len: 65_536,
        };
        let path = format!("packs/3f/{}", "3f".repeat(32));
        check(
            Operation::Read(range),
            pack.into(),
            &format!("cannot read {path} at 1048576+65536"),
        );
        check(
            Operation::Create,
            ObjectName::log(7).into(),
            "cannot create log/0000000000000007",
        );
        check(Operation::List, ObjectKind::Gc.into(), "cannot list gc/");
        check(Operation::Sync, ObjectKind::Log.into(), "cannot sync log/");
        check(
            Operation::CreateLayout,
            "/srv/x".to_owned().into(),
            "cannot create a repository in /srv/x",
        );
        let bare = BackendError::bare(
            BackendErrorKind::AlreadyExists,
            Operation::Create,
            ObjectName::format(),
        );
        assert_eq!(bare.to_string(), "cannot create format: it exists already");
    }
}
