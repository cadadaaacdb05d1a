//! The kernel programs: they see what supervised tasks do before it happens, decide it, and record it.
//!
//! Layers, each using only those above it:
//! - [`maps`]: every map, shared with the daemon through pins.
//! - [`kernel`]: reading kernel structures through offsets the daemon took from the running kernel's BTF.
//! - [`scratch`]: buffers for building paths and events.
//! - [`walk`]: the one path walker, which drives the policy's automaton on its way.
//! - [`known`], [`names`]: paths met lately; the other names of an object.
//! - [`hosts`]: by which names an address is known.
//! - [`context`], [`subject`]: who acts, and what the session has seen; lineage and cgroup.
//! - [`decide`]: the one decision function.
//! - [`emit`]: putting events into the ring.
//! - [`hold`]: actions that wait for their decision.
//! - [`spare`]: what is kept of a task while the kernel copies it.
//! - [`session`]: which session a task belongs to.
//! - [`hooks`]: one file for each family; they only normalise what the kernel hands them into a query.
//!
//! Must never: let an action of a supervised task pass in enforce mode without its event in the ring.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features)]
// `hook__what`: the second program on a hook.
#![allow(non_snake_case)]

mod context;
mod decide;
mod emit;
mod hold;
mod hooks;
mod hosts;
mod kernel;
mod line;
mod known;
mod maps;
mod names;
mod redirect;
mod scratch;
mod session;
mod shares;
mod spare;
mod subject;
mod walk;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel lets only GPL-compatible programs call the helpers used here.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
