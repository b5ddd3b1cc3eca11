//! A flat, write-once object store.
