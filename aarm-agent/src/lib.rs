//! The aarm daemon and its command line, as a library for their two binaries.

pub mod kernel;
pub mod object;
