//! The aarm daemon and its command line, as a library for their two binaries.

pub mod api;
pub mod args;
pub mod cli;
pub mod daemon;
pub mod https;
pub mod kernel;
pub mod metrics;
pub mod object;
pub mod store;
pub mod tcp;
