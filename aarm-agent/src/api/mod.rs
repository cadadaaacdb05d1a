//! The API on the unix socket.

pub mod approvals;
pub mod feed;
pub mod redacted;
pub mod redirects;
pub mod server;
pub mod signed;
mod streams;
pub mod types;
