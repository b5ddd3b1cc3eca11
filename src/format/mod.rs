//! Every byte at rest; the format specification.

pub mod id;
pub mod node;
