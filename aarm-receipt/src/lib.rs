//! Receipts: one for every action, in a log that anyone can verify offline.
//!
//! - [`canonical`]: the bytes that are hashed and signed, RFC 8785 restricted to what needs no floating point.
//! - [`receipt`]: what a receipt says, and its one encoding.
//! - [`chain`]: each receipt of a session names the one before.
//! - [`merkle`]: the RFC 6962 tree over the receipts, kept as its right edge.
//! - [`proof`]: that a receipt is in the tree, or that one tree begins with another. [`tile`]: the tree's hashes on disk.
//! - [`bundle`]: one receipt with all that proves it. [`history`]: all of a session with what proves them.
//! - [`note`]: C2SP signed notes and checkpoints.
//! - [`cosign`]: cosignatures of checkpoints. [`witness`]: who gives them to logs that he has seen grow. [`witnessed`]: what a log has of them.
//! - [`keys`]: the two signing keys. [`trust`]: the public keys, and which receipts they are for. [`rotation`]: how they were exchanged.
//! - [`policies`]: the texts of policies that receipts name. [`redact`]: what receipts do not show.
//! - [`archive`]: a copy of a log that grows with it, elsewhere.
//! - [`index`]: what each segment has, for who looks for something.
//! - [`segment`]: the on-disk form. [`log`]: the one writer. [`source`]: where a log is read from. [`read`]: reading. [`verify`]: checking.
//!
//! Must never: know the kernel, the daemon or a clock; sign what is not durable; trust a byte it reads.

pub mod archive;
pub mod bundle;
pub mod canonical;
pub mod chain;
pub mod cosign;
pub mod history;
pub mod index;
pub mod keys;
pub mod log;
pub mod merkle;
pub mod note;
mod placing;
pub mod policies;
pub mod proof;
pub mod read;
pub mod receipt;
pub mod redact;
pub mod rotation;
pub mod segment;
pub mod source;
pub mod tile;
pub mod trust;
pub mod verify;
pub mod witness;
pub mod witnessed;

pub use bundle::Bundle;
pub use keys::{KeyError, Keys};
pub use log::{LogError, LogWriter, Opened, Options};
pub use receipt::{Body, Common, MAX_RECEIPT, encode};
pub use trust::TrustedKeys;
