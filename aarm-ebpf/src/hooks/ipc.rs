//! Kernel objects that processes share by number: System V shared memory and message queues, keys.
//!
//! Who made one is written down (`OWNERS`); a session's own are its own business, those of others are decided.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_get_func_arg;
use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;

use super::*;
use crate::maps::OWNERS;
use crate::session::{framed, session_of, subject};

/// Notes whose a new object is. An address may have been another's before.
#[inline(always)]
fn made(object: u64) -> i32 {
    let session = session_of(current());
    if session != 0 {
        let _ = OWNERS.insert(object, session, BPF_ANY as u64);
    } else {
        let _ = OWNERS.remove(object);
    }
    0
}

/// Decides the use of an object, unless it is the session's own.
#[inline(always)]
fn used(op: Operation, object: u64, arg: u64) -> i32 {
    subject(|u| {
        // SAFETY: map values are checked for null before use.
        unsafe {
            if OWNERS.get_ptr(object).is_some_and(|owner| *owner == (*u.task).session) {
                return 0;
            }
            framed(u, |f| {
                (*f.s).head.arg = arg;
                nameless(f, op)
            })
        }
    })
}

#[lsm(hook = "shm_alloc_security")]
pub fn shm_alloc_security(ctx: LsmContext) -> i32 {
    made(ctx.arg(0))
}

#[lsm(hook = "msg_queue_alloc_security")]
pub fn msg_queue_alloc_security(ctx: LsmContext) -> i32 {
    made(ctx.arg(0))
}

#[lsm(hook = "key_alloc")]
pub fn key_alloc(ctx: LsmContext) -> i32 {
    made(ctx.arg(0))
}

#[lsm(hook = "shm_shmat")]
pub fn shm_shmat(ctx: LsmContext) -> i32 {
    used(Operation::Shm, ctx.arg(0), ctx.arg::<u32>(2) as u64)
}

#[lsm(hook = "msg_queue_msgsnd")]
pub fn msg_queue_msgsnd(ctx: LsmContext) -> i32 {
    used(Operation::Mqueue, ctx.arg(0), 0)
}

#[lsm(hook = "msg_queue_msgrcv")]
pub fn msg_queue_msgrcv(ctx: LsmContext) -> i32 {
    used(Operation::Mqueue, ctx.arg(0), 1)
}

#[lsm(hook = "key_permission")]
pub fn key_permission(ctx: LsmContext) -> i32 {
    // A reference is the key's address with a flag in its lowest bit; the verifier knows no type for it.
    let mut reference = 0u64;
    // SAFETY: a local.
    if unsafe { bpf_get_func_arg(ctx.as_ptr(), 0, &raw mut reference) } != 0 {
        return -crate::emit::EPERM;
    }
    used(Operation::Key, reference & !1, ctx.arg::<u32>(2) as u64)
}
