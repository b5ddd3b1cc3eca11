//! The one set of counters of a run.
