//! The errors of the library: `Error` stops a run, `ItemError` skips one item of a source.
