//! The suites that run inside a VM.
//!
//! - [`actor`]: one technique each, in the plainest system calls: what a supervised process may try.
//! - [`wanted`]: how much a run was asked for, and its seed.
//! - [`asks`], [`desk`]: answering what waits, one by one and in great number.
//! - [`host`]: a daemon with a policy of the case's own, and the questions a case asks afterwards.
//! - [`differential`]: random policies and actions, the kernel against the reference evaluator.
//! - [`escapes`]: the corpus of ways around a policy, and what became of each.
//! - [`storm`]: many threads that must all ask, and who disturbs them.
//! - [`race`]: system calls whose arguments are rewritten meanwhile; [`meddle`]: programs that are, before they run.
//! - [`measured`]: a daemon for a measurement.
//! - [`resolver`]: a resolver whose answers may be wrong, and programs that ask it.
//! - [`terminal`]: a terminal, and somebody at it.
//! - [`cases`]: the cases, by what a user relies on.
//!
//! Must never: look into the product's internals. A case knows what a user knows: files, commands, the API. Except
//! [`differential`], which asks the evaluator.

pub mod actor;
pub mod asks;
pub mod bpf;
pub mod cases;
pub mod cuts;
pub mod desk;
pub mod differential;
pub mod escapes;
pub mod host;
pub mod measured;
pub mod meddle;
pub mod race;
pub mod reach;
pub mod resolver;
pub mod storm;
pub mod terminal;
pub mod wanted;
