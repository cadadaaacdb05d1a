//! The API on the unix socket.

pub mod approvals;
pub mod server;
mod streams;
pub mod types;
