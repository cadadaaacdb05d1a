//! The API on the unix socket.

pub mod approvals;
pub mod redirects;
pub mod server;
mod streams;
pub mod types;
