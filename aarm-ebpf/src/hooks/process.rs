//! The process tree: sessions are inherited at birth and closed at the last exit. And what one process does to another:
//! within a session nothing of it is decided, beyond it all.

use aarm_common::event::Kind;
use aarm_common::state::{Stat, TASK_COUNTED, TASK_IN_EXEC, session_slot};
use aya_ebpf::helpers::generated::bpf_send_signal;
use aya_ebpf::macros::{btf_tracepoint, fentry, lsm};
use aya_ebpf::programs::{BtfTracePointContext, FEntryContext, LsmContext};

use super::*;
use crate::decide::Verdict;
use crate::emit::{self, EAGAIN};
use crate::line;
use crate::maps::{SESSIONS, TASKS, count};
use crate::redirect;
use crate::scratch;
use crate::session::{self, framed, leave, session_of, subject};
use crate::spare;
use crate::subject::{cgroup_of, inherit};

const CLONE_THREAD: u64 = 0x1_0000;
const SIGKILL: u32 = 9;

/// A task is about to be copied, see `spare`. A fork that cannot be refused here any more must not be the end of supervision.
#[fentry(function = "arch_dup_task_struct")]
pub fn arch_dup_task_struct(_ctx: FEntryContext) -> i32 {
    let task = session::mine();
    if let Ok(task) = task
        && task.is_null()
    {
        return 0;
    }
    // SAFETY: a valid map value; the helper has no preconditions.
    unsafe {
        let kept = match task {
            Ok(task) => (*task).session == 0 || spare::write_down(task) == 0,
            Err(()) => false,
        };
        if !kept {
            bpf_send_signal(SIGKILL);
        }
    }
    0
}

/// The child gets its parent's session before it exists for anybody else. The parent is the task that
/// clones, whoever becomes the parent in the tree (`CLONE_PARENT`).
#[lsm(hook = "task_alloc")]
pub fn task_alloc(ctx: LsmContext) -> i32 {
    let Ok(mine) = session::mine() else { return -EAGAIN };
    if mine.is_null() {
        return 0;
    }
    // SAFETY: map values are checked for null before use.
    unsafe {
        if (*mine).session == 0 {
            return 0;
        }
        spare::came_through();
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
        (*child).who_generation = 0;
        let Some(session) = SESSIONS.get_ptr_mut(session_slot((*mine).session)) else { return -EAGAIN };
        core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(
            &raw mut (*session).tasks,
            1,
        );
        (*child).flags = TASK_COUNTED;
        inherit(mine, child, ctx.arg::<u64>(1) & CLONE_THREAD != 0);
        (*child).session = (*mine).session;
    }
    0
}

/// The last of a task, also of one that was never born because its fork failed. Most have left at their exit; but the kernel
/// skips a tracepoint's program where it interrupts itself.
#[lsm(hook = "task_free")]
pub fn task_free(ctx: LsmContext) -> i32 {
    let dead: *mut c_void = ctx.arg(0);
    let task = TASKS.get(dead);
    // SAFETY: map values are checked for null before use.
    unsafe {
        let lost = spare::last(dead as u64);
        if !task.is_null() {
            line::forget(task);
            redirect::forget(task, dead);
        }
        let counted = !task.is_null() && (*task).flags & TASK_COUNTED != 0;
        if !counted && (!task.is_null() || lost == 0) {
            return 0;
        }
        let id = if counted { (*task).session } else { lost };
        let Some((s, scratch)) = scratch::take() else {
            count(Stat::Lost);
            return 0;
        };
        (*s).head.time_ns = emit::now();
        leave(s, scratch, id);
        scratch::give(s);
    }
    0
}

#[btf_tracepoint(function = "sched_process_fork")]
pub fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    if !session::mine().is_ok_and(|task| !task.is_null()) {
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
        (*s).head.object.ino = cgroup_of(child);
        emit::report(s, scratch, Kind::Fork, id);
        scratch::give(s);
    }
    0
}

#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit(_ctx: BtfTracePointContext) -> i32 {
    let me = current();
    let Ok(task) = session::mine() else {
        count(Stat::Lost);
        return 0;
    };
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
        if (*task).flags & TASK_COUNTED != 0 {
            (*task).flags &= !TASK_COUNTED;
            spare::left(me as u64);
            leave(s, scratch, (*task).session);
        }
        scratch::give(s);
    }
    0
}

/// `PTRACE_MODE_ATTACH`: to change it, by whatever means; otherwise to read it.
const PTRACE_MODE_ATTACH: u32 = 2;
/// `PTRACE_MODE_NOAUDIT`: the kernel only asks what to show.
const PTRACE_MODE_NOAUDIT: u32 = 4;
const PR_SET_MM: i32 = 35;
const PR_SET_PTRACER: i32 = 0x5961_6d61;

/// Decides an action on another process, unless it is of the same session. One that `changes` what has not been decided yet is refused,
/// whosever that is.
#[inline(always)]
fn upon(op: Operation, other: *mut c_void, arg: u32, changes: bool) -> i32 {
    subject(|u| {
        // SAFETY: the subject's pointers are valid map values; `other` is typed.
        unsafe {
            let shut = changes && line::is_undecided(other);
            if !shut && session_of(other) == (*u.task).session {
                return 0;
            }
            framed(u, |f| {
                let pid: u32 = typed(other, &OFF_TASK_STRUCT_TGID);
                (*f.s).head.arg = (arg as u64) << 32 | pid as u64;
                if shut {
                    // First who acts, which the receipt says.
                    let cause = prepare(f).err().unwrap_or(Cause::Args);
                    return fail_closed(f, op, cause);
                }
                nameless(f, op)
            })
        }
    })
}

#[lsm(hook = "task_kill")]
pub fn task_kill(ctx: LsmContext) -> i32 {
    upon(Operation::Signal, ctx.arg(0), ctx.arg(2), false)
}

#[lsm(hook = "ptrace_access_check")]
pub fn ptrace_access_check(ctx: LsmContext) -> i32 {
    let mode: u32 = ctx.arg(1);
    if mode & PTRACE_MODE_NOAUDIT == 0 {
        return upon(Operation::Ptrace, ctx.arg(0), mode, mode & PTRACE_MODE_ATTACH != 0);
    }
    subject(|u| {
        // SAFETY: the subject's pointers are valid map values.
        unsafe {
            if session_of(ctx.arg(0)) == (*u.task).session {
                return 0;
            }
            // Listing processes asks this of every one of them; the answer decides what is shown, and is not recorded.
            framed(u, |f| {
                if prepare(f).is_err() {
                    return -emit::EPERM;
                }
                names::pathless(f.s, f.policy);
                let v: Verdict = decide(f, Operation::Ptrace, Shape::Object);
                if refuses(v) { -emit::EPERM } else { 0 }
            })
        }
    })
}

#[lsm(hook = "ptrace_traceme")]
pub fn ptrace_traceme(ctx: LsmContext) -> i32 {
    upon(Operation::Ptrace, ctx.arg(0), 0, false)
}

#[lsm(hook = "task_setrlimit")]
pub fn task_setrlimit(ctx: LsmContext) -> i32 {
    upon(Operation::Prlimit, ctx.arg(0), ctx.arg(1), false)
}

/// Letting others trace, or saying that the program is another one.
#[lsm(hook = "task_prctl")]
pub fn task_prctl(ctx: LsmContext) -> i32 {
    let option: i32 = ctx.arg(0);
    if option != PR_SET_MM && option != PR_SET_PTRACER {
        return 0;
    }
    subject(|u| {
        framed(u, |f| {
            // SAFETY: the frame's pointers are valid map values.
            unsafe {
                (*f.s).head.arg = (option as u32 as u64) << 32;
                nameless(f, Operation::Ptrace)
            }
        })
    })
}
