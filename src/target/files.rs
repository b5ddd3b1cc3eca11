//! Restores trees of files beneath a directory handle.
