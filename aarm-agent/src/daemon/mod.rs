//! The daemon: from kernel events to receipts, and from policies to kernel tables.
//!
//! ```text
//! ring -> core (sessions, policies) -> batches -> writer thread (log) -> durable -> watchers, waiters
//!                  ^ commands from the API
//! ```
//! Every arrow is bounded, and a full one pushes back to the ring, where a full ring refuses actions.

pub mod archive;
pub mod batch;
mod cgroups;
pub mod config;
pub mod core;
pub mod gaps;
pub mod holds;
pub mod host;
mod image;
pub mod journal;
pub mod links;
pub mod lock;
pub mod notify;
mod patterns;
pub mod policies;
pub mod port;
pub mod post;
pub mod prior;
pub mod program;
mod quiet;
pub mod record;
pub mod recorded;
pub mod redacted;
pub mod resolve;
pub mod retention;
pub mod sessions;
pub mod snapshot;
pub mod start;
mod statements;
pub mod webhooks;
pub mod witnesses;
pub mod writer;
