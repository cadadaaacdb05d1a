//! The process tree: sessions are inherited at birth and closed at the last exit.

use aarm_common::event::Kind;
use aarm_common::state::{Stat, TASK_COUNTED, TASK_IN_EXEC, session_slot};
use aya_ebpf::macros::{btf_tracepoint, lsm};
use aya_ebpf::programs::{BtfTracePointContext, LsmContext};
use core::ffi::c_void;

use crate::emit::{self, EAGAIN};
use crate::kernel::*;
use crate::maps::{SESSIONS, TASKS, count};
use crate::scratch;
use crate::session::{earlier, leave};

/// The child gets its parent's session before it exists for anybody else. The parent is the task that
/// clones, whoever becomes the parent in the tree (`CLONE_PARENT`).
#[lsm(hook = "task_alloc")]
pub fn task_alloc(ctx: LsmContext) -> i32 {
    let previous: i32 = ctx.arg(2);
    let mine = TASKS.get(current());
    if previous != 0 {
        return earlier(previous);
    }
    if mine.is_null() {
        return 0;
    }
    // SAFETY: map values are checked for null before use.
    unsafe {
        if (*mine).session == 0 {
            return 0;
        }
        if !emit::has_room() {
            // The birth will have an event that cannot be refused any more; so it is refused now.
            count(Stat::RingFull);
            return -EAGAIN;
        }
        let child = TASKS.get_or_create(ctx.arg::<*mut c_void>(0));
        if child.is_null() {
            count(Stat::TaskStorage);
            return -EAGAIN;
        }
        scratch::copy(&raw const (*mine).exe, &raw mut (*child).exe);
        (*child).exe_generation = (*mine).exe_generation;
        (*child).flags = 0;
        (*child).session = (*mine).session;
    }
    0
}

#[btf_tracepoint(function = "sched_process_fork")]
pub fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    if TASKS.get(current()).is_null() {
        return 0;
    }
    let child: *mut c_void = ctx.arg(1);
    let task = TASKS.get(child);
    if task.is_null() {
        return 0;
    }
    // SAFETY: map values are checked for null before use; the child is a typed pointer.
    unsafe {
        let id = (*task).session;
        let Some(session) = SESSIONS.get_ptr_mut(session_slot(id)) else { return 0 };
        core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(
            &raw mut (*session).tasks,
            1,
        );
        (*task).flags |= TASK_COUNTED;
        let pid: u32 = typed(child, &OFF_TASK_STRUCT_PID);
        let tgid: u32 = typed(child, &OFF_TASK_STRUCT_TGID);
        if pid != tgid {
            return 0;
        }
        let time_ns = emit::now();
        let Some((s, scratch)) = scratch::take() else {
            count(Stat::Lost);
            return 0;
        };
        (*s).head.time_ns = time_ns;
        (*s).head.arg = tgid as u64;
        emit::report(s, scratch, Kind::Fork, id);
        scratch::give(s);
    }
    0
}

#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit(_ctx: BtfTracePointContext) -> i32 {
    let me = current();
    let task = TASKS.get(me);
    if task.is_null() {
        return 0;
    }
    // SAFETY: map values are checked for null before use; `me` is typed.
    unsafe {
        if (*task).session == 0 {
            return 0;
        }
        (*task).flags &= !TASK_IN_EXEC;
        let time_ns = emit::now();
        let Some((s, scratch)) = scratch::take() else {
            count(Stat::Lost);
            return 0;
        };
        (*s).head.time_ns = time_ns;
        let signal: *const c_void = typed(me, &OFF_TASK_STRUCT_SIGNAL);
        let live: u32 = typed(signal, &OFF_SIGNAL_STRUCT_LIVE);
        if live == 0 {
            let code: u32 = typed(me, &OFF_TASK_STRUCT_EXIT_CODE);
            (*s).head.arg = code as u64;
            emit::report(s, scratch, Kind::Exit, (*task).session);
        }
        leave(s, scratch, task);
        scratch::give(s);
    }
    0
}
