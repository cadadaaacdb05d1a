//! What is kept of a task while the kernel copies it.
//!
//! Many kernels (seen on 6.1) copy a task with the pointer to its storage and clear that of the copy only half-way through the fork.
//! If the fork fails before, freeing the copy frees the storage of the task that forked, a little later: it would be outside
//! its session from then on, and any task can make a fork fail. So before each copy the session is written down under the
//! task's address, and what is lost is put back when it is missed. An entry goes when its copy has come through; one whose
//! copy has failed stays until the task ends, or forks well after the storage would have been lost.
//!
//! Must never: let a task that was in a session be found outside. Without room for an entry it is killed.

use aarm_common::limits::SPARE_NS;
use aarm_common::state::{Spare, TASK_COUNTED, Task};
use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use core::ffi::c_void;
use core::intrinsics::{AtomicOrdering::SeqCst, atomic_xadd};

use crate::emit::now;
use crate::kernel::current;
use crate::maps::{SPARE_COUNT, SPARES, TASKS};

/// Whether there is any entry. Mostly there is none, and that is all that a task outside of sessions pays.
#[inline(always)]
pub fn any() -> bool {
    // SAFETY: a valid map value.
    SPARE_COUNT.get_ptr(0).is_some_and(|n| unsafe { core::ptr::read_volatile(n) } != 0)
}

#[inline(always)]
fn add(n: u64) {
    if let Some(count) = SPARE_COUNT.get_ptr_mut(0) {
        // SAFETY: a valid map value.
        unsafe { atomic_xadd::<u64, u64, { SeqCst }>(count, n) };
    }
}

/// The current task is about to be copied: writes it down. Returns 0, or 1 if that was not possible.
#[inline(always)]
pub unsafe fn write_down(task: *const Task) -> u32 {
    let address = current() as u64;
    // SAFETY: valid map values.
    unsafe {
        if let Some(spare) = SPARES.get_ptr_mut(address) {
            // The last copy did not come through.
            (*spare).failed_ns = now().max(1);
            return 0;
        }
        let pid = bpf_get_current_pid_tgid();
        let spare = Spare {
            session: (*task).session,
            flags: (*task).flags,
            pid: pid as u32,
            lineage: (*task).lineage,
            lineage_known: (*task).lineage_known,
            failed_ns: 0,
        };
        // First counted, so that nobody misses it who looks.
        add(1);
        if SPARES.insert(address, spare, BPF_ANY as u64).is_err() {
            add(u64::MAX);
            return 1;
        }
    }
    0
}

/// A copy of the current task has got as far as to have a storage of its own.
#[inline(always)]
pub unsafe fn came_through() {
    let address = current() as u64;
    let Some(spare) = SPARES.get_ptr(address) else { return };
    // SAFETY: a valid map value.
    let failed = unsafe { (*spare).failed_ns };
    if failed == 0 || now().wrapping_sub(failed) > SPARE_NS {
        forget(address);
    }
}

#[inline(always)]
fn forget(address: u64) {
    if SPARES.remove(address).is_ok() {
        add(u64::MAX);
    }
}

/// The task at `address` has left its session, but runs on to its end.
#[inline(always)]
pub unsafe fn left(address: u64) {
    if any()
        && let Some(spare) = SPARES.get_ptr_mut(address)
    {
        // SAFETY: a valid map value.
        unsafe { (*spare).flags &= !TASK_COUNTED };
    }
}

/// The last of a task. Gives its session if it was lost without having been left; else 0.
#[inline(always)]
pub unsafe fn last(address: u64) -> u64 {
    if !any() {
        return 0;
    }
    let Some(spare) = SPARES.get_ptr(address) else { return 0 };
    // SAFETY: a valid map value.
    let session = unsafe { if (*spare).flags & TASK_COUNTED != 0 { (*spare).session } else { 0 } };
    forget(address);
    session
}

/// What is written down of the current task has changed.
#[inline(always)]
pub unsafe fn changed(task: *const Task) {
    if any()
        && let Some(spare) = SPARES.get_ptr_mut(current() as u64)
    {
        // SAFETY: valid map values.
        unsafe {
            (*spare).flags = (*task).flags;
            // A thread that runs another program becomes the process's first.
            (*spare).pid = bpf_get_current_pid_tgid() as u32;
            (*spare).lineage = (*task).lineage;
            (*spare).lineage_known = (*task).lineage_known;
        }
    }
}

/// The session of a task that has no storage; 0: none.
#[inline(always)]
pub fn session_of(task: *mut c_void) -> u64 {
    if !any() {
        return 0;
    }
    // SAFETY: a valid map value.
    SPARES.get_ptr(task as u64).map_or(0, |spare| unsafe { (*spare).session })
}

/// Gives the current task back what it has lost. Returns 0 if it has lost nothing. Takes nothing, see `walk`.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn aarm_restore() -> u32 {
    let Some(spare) = SPARES.get_ptr(current() as u64) else { return 0 };
    let task = TASKS.get_or_create(current());
    if !task.is_null() {
        // SAFETY: valid map values. What the storage held besides is found out anew.
        unsafe {
            (*task).lineage = (*spare).lineage;
            (*task).lineage_known = (*spare).lineage_known;
            (*task).flags = (*spare).flags;
            (*task).session = (*spare).session;
        }
    }
    1
}
