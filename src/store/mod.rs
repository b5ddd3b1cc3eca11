//! A repository on a backend.
