//! Restores databases into a server.
