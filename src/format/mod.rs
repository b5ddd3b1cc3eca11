//! Every byte at rest; the format specification.
