//! The ABI between the kernel programs (`aarm-ebpf`) and user space.
//!
//! Owns: the meaning of every byte that crosses the kernel boundary, in both directions: events going up
//! ([`event`]), tables going down ([`policy`]), the state both share ([`state`]), and the bounds of all of
//! them ([`limits`]); and the one parser of foreign bytes that runs on both sides ([`dns`]). Everything is `repr(C)`,
//! free of pointers and of implicit padding, with sizes and offsets asserted at compile time.
//!
//! Must never: depend on `std`, allocate, or trust a byte it is given. A change of any layout bumps
//! [`ABI_VERSION`]; the test `layout_is_the_one_the_version_names` fails until it does.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod dns;
pub mod event;
pub mod hold;
pub mod limits;
pub mod op;
pub mod policy;
pub mod state;

pub use op::{Decision, Family, Operation};

/// Version of everything in this crate that the kernel programs and user space must agree on.
///
/// The daemon refuses pinned maps and objects of another version, naming both.
pub const ABI_VERSION: u16 = 10;
