//! PostgreSQL databases as a source.
