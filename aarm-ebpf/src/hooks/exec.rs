//! Running programs: the decision before, and the exact arguments once the new image is in place.

use aarm_common::event::{FLAG_ARGS_CUT, Kind};
use aarm_common::limits::{ARGS_MAX, DATA_WORD};
use aarm_common::state::{SESSION_SCANNED, Stat, TASK_IN_EXEC, session_slot};
use aya_ebpf::helpers::generated::bpf_probe_read_user;
use aya_ebpf::macros::{btf_tracepoint, fexit, lsm};
use aya_ebpf::programs::{BtfTracePointContext, FExitContext, LsmContext};

use super::*;
use crate::decide::LATER;
use crate::emit;
use crate::line;
use crate::maps::{POLICIES, SESSIONS, TASKS, count};
use crate::scratch::{self, Scratch};
use crate::session::{self, begin_if_agent, store_exe, supervised};
use crate::spare;
use crate::subject;

/// A program to run.
const PROGRAM: Naming = Naming { above: false, program: true, end: false };

#[lsm(hook = "bprm_check_security")]
pub fn bprm_check_security(ctx: LsmContext) -> i32 {
    let bprm: *const c_void = ctx.arg(0);
    // SAFETY: hook arguments are typed pointers, and so is what they point to.
    let file: *const c_void = unsafe { typed(bprm, &OFF_LINUX_BINPRM_FILE) };
    let Ok(mine) = session::mine() else { return -emit::EAGAIN };
    if mine.is_null() {
        let refused = begin_if_agent(file);
        if refused != 0 {
            return refused;
        }
        let task = TASKS.get(current());
        if task.is_null() {
            return 0;
        }
        // An agent: what it holds open was opened before its session.
        // SAFETY: a valid map value.
        let slot = unsafe { session_slot((*task).session) };
        return if opaque(inherited::aarm_scan(slot) as u64) != 0 { -emit::EPERM } else { 0 };
    }
    let result = supervised(|f| {
        // SAFETY: the frame's pointers are valid map values; the object's are typed.
        unsafe {
            // What was allowed of another exec is not allowed of this one.
            (*f.task).passed = 0;
            line::asked(f.task, bprm);
            let o = Object::of_file(file);
            (*f.s).head.object = object(o.inode);
            if let Err(cause) = prepare(f) {
                return fail_closed(f, Operation::Exec, cause);
            }
            if (*f.session).flags & SESSION_SCANNED == 0
                && inherited::aarm_scan(session_slot((*f.task).session)) != 0
            {
                return fail_closed(f, Operation::Exec, Cause::ReadFailed);
            }
            match name(f, o, PROGRAM) {
                Ok(len) => (*f.s).head.path_len = len,
                Err(cause) => return fail_closed(f, Operation::Exec, cause),
            }
            // Of a script and its interpreter the hook sees both; the last one seen is what will run.
            store_exe(&raw mut (*f.task).exec_exe, f.s, f.policy);
            (*f.task).exec_generation = (*f.policy).generation;
            (*f.task).exec_image = (*f.s).hits.exe[DATA_WORD];
            (*f.task).exec_known = (*f.policy).subject_patterns;
            (*f.task).flags |= TASK_IN_EXEC;
            let verdict = decide(f, Operation::Exec, Shape::Object);
            if verdict.more & LATER != 0 && opaque(line::aarm_line(f.scratch, f.slot, verdict.rule as u32) as u64) != 0 {
                return fail_closed(f, Operation::Exec, Cause::NoMemory);
            }
            conclude(f, Operation::Exec, verdict)
        }
    });
    #[cfg(feature = "debug-log")]
    aya_log_ebpf::info!(&ctx, "exec: {}", result);
    result
}

/// A program whose file gives it another user (setuid): decided when the kernel has found out.
#[lsm(hook = "bprm_creds_from_file")]
pub fn bprm_creds_from_file(ctx: LsmContext) -> i32 {
    supervised(|f| {
        let bprm: *const c_void = ctx.arg(0);
        // SAFETY: hook arguments are typed pointers, and so is what they point to.
        unsafe {
            let new: *const c_void = typed(bprm, &OFF_LINUX_BINPRM_CRED);
            let now: *const c_void = typed(current(), &OFF_TASK_STRUCT_CRED);
            if new.is_null() || now.is_null() {
                return 0;
            }
            let user: u32 = typed(new, &OFF_CRED_EUID);
            if user == typed::<u32>(now, &OFF_CRED_EUID) {
                return 0;
            }
            (*f.s).head.arg = user as u64;
            nameless(f, Operation::Setuid)
        }
    })
}

/// The new image is in place: from here on its program acts. Not left to the tracepoint below: the kernel skips a
/// tracepoint's program where it interrupts itself.
#[lsm(hook = "bprm_committed_creds")]
pub fn bprm_committed_creds(_ctx: LsmContext) -> i32 {
    let Ok(task) = session::mine() else { return 0 };
    if task.is_null() {
        return 0;
    }
    // SAFETY: a valid map value.
    unsafe {
        subject::replaced(task);
        spare::changed(task);
        if (*task).flags & TASK_IN_EXEC != 0 {
            (*task).image = (*task).exec_image;
            (*task).image_known = (*task).exec_known;
            scratch::copy(&raw const (*task).exec_exe, &raw mut (*task).exe);
            (*task).exe_generation = (*task).exec_generation;
            (*task).flags &= !TASK_IN_EXEC;
        } else {
            (*task).exe_generation = 0;
        }
        (*task).who_generation = 0;
        line::begin(task);
    }
    0
}

/// A task has taken its signals, and returns to its program unless there are more.
#[fexit(function = "get_signal")]
pub fn signals_taken(_ctx: FExitContext) -> i32 {
    line::watch();
    0
}

/// Reports what was run, with which arguments.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(_ctx: BtfTracePointContext) -> i32 {
    let Ok(task) = session::mine() else { return 0 };
    if task.is_null() {
        return 0;
    }
    // SAFETY: map values are checked for null before use.
    unsafe {
        let id = (*task).session;
        if id == 0 {
            return 0;
        }
        let time_ns = emit::now();
        let Some(session) = SESSIONS.get_ptr(session_slot(id)) else { return 0 };
        let slot = (*session).policy;
        let Some(policy) = POLICIES.get_ptr(slot) else { return 0 };
        let Some((s, scratch)) = scratch::take() else {
            count(Stat::Lost);
            return 0;
        };
        (*s).head.time_ns = time_ns;
        (*s).head.policy = (*policy).generation;
        (*s).head.object.ino = subject::cgroup_of(current());
        arguments(s);
        let fs: *const c_void = typed(current(), &OFF_TASK_STRUCT_FS);
        let pwd = Place::of_path(fs.byte_add(off(&OFF_FS_STRUCT_PWD)));
        let end = (*s).pos;
        if walk(s, scratch, slot, pwd, false) == walk::DONE {
            (*s).head.path2_len = end.wrapping_sub((*s).pos) as u16;
        } else {
            (*s).pos = end;
        }
        emit::report(s, scratch, Kind::ExecCommitted, id);
        line::tell(s, scratch, slot, task);
        scratch::give(s);
    }
    0
}

/// Puts the argument vector at the end of the event, cut to its bound.
#[inline(never)]
fn arguments(s: *mut Scratch) -> u32 {
    if s.is_null() {
        return 0;
    }
    // SAFETY: `s` is a valid map value; the memory read is the new image's, through the helper.
    unsafe {
        let mm: *const c_void = typed(current(), &OFF_TASK_STRUCT_MM);
        let start: u64 = typed(mm, &OFF_MM_STRUCT_ARG_START);
        let end: u64 = typed(mm, &OFF_MM_STRUCT_ARG_END);
        let full = end.wrapping_sub(start);
        (*s).head.arg = full;
        let len = if full > ARGS_MAX as u64 {
            (*s).head.flags |= FLAG_ARGS_CUT;
            ARGS_MAX as u32
        } else {
            full as u32
        };
        let len = len & 0x1fff;
        let at = (END as u32).wrapping_sub(len) & 16383;
        if len > ARGS_MAX as u32 {
            return 0;
        }
        let buf = (&raw mut (*s).buf).cast::<u8>();
        if bpf_probe_read_user(buf.add(at as usize).cast(), len, start as *const c_void) != 0 {
            (*s).head.flags |= FLAG_ARGS_CUT;
            return 0;
        }
        (*s).pos = at;
        (*s).head.args_len = len as u16;
        0
    }
}
