//! Running programs: the decision before, and the exact arguments once the new image is in place.

use aarm_common::event::{FLAG_ARGS_CUT, Kind};
use aarm_common::limits::ARGS_MAX;
use aarm_common::op::Operation;
use aarm_common::state::{Stat, TASK_IN_EXEC};
use aya_ebpf::helpers::generated::bpf_probe_read_user;
use aya_ebpf::macros::{btf_tracepoint, lsm};
use aya_ebpf::programs::{BtfTracePointContext, LsmContext};
use core::ffi::c_void;

use super::*;
use crate::decide::{Shape, decide};
use crate::emit::{self, cause_of, conclude, fail_closed};
use crate::kernel::*;
use crate::maps::{POLICIES, SESSIONS, TASKS, count};
use crate::scratch::{self, END, Scratch};
use crate::session::{begin_if_agent, earlier, store_exe, supervised};

#[lsm(hook = "bprm_check_security")]
pub fn bprm_check_security(ctx: LsmContext) -> i32 {
    let previous: i32 = ctx.arg(1);
    let bprm: *const c_void = ctx.arg(0);
    // SAFETY: hook arguments are typed pointers, and so is what they point to.
    let file: *const c_void = unsafe { typed(bprm, &OFF_LINUX_BINPRM_FILE) };
    if TASKS.get(current()).is_null() {
        return if previous == 0 { begin_if_agent(file) } else { earlier(previous) };
    }
    supervised(previous, |f| {
        // SAFETY: the frame's pointers are valid map values.
        unsafe {
            let inode: *const c_void = typed(file, &OFF_FILE_F_INODE);
            (*f.s).head.object = object(inode);
            if let Err(cause) = prepare(f) {
                return fail_closed(f, Operation::Exec, cause);
            }
            let place = Place::of_file(file);
            match path(f, place) {
                Ok(len) => (*f.s).head.path_len = len,
                Err(cause) => return fail_closed(f, Operation::Exec, cause),
            }
            // Of a script and its interpreter the hook sees both; the last one seen is what will run.
            store_exe(&raw mut (*f.task).exec_exe, f.s, f.policy);
            (*f.task).exec_generation = (*f.policy).generation;
            (*f.task).flags |= TASK_IN_EXEC;
            let verdict = decide(f, Operation::Exec, Shape::Program);
            conclude(f, Operation::Exec, verdict, cause_of(verdict))
        }
    })
}

#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(_ctx: BtfTracePointContext) -> i32 {
    let task = TASKS.get(current());
    if task.is_null() {
        return 0;
    }
    // SAFETY: map values are checked for null before use.
    unsafe {
        let id = (*task).session;
        if id == 0 {
            return 0;
        }
        if (*task).flags & TASK_IN_EXEC != 0 {
            scratch::copy(&raw const (*task).exec_exe, &raw mut (*task).exe);
            (*task).exe_generation = (*task).exec_generation;
            (*task).flags &= !TASK_IN_EXEC;
        } else {
            (*task).exe_generation = 0;
        }
        let time_ns = emit::now();
        let Some(session) = SESSIONS.get_ptr(aarm_common::state::session_slot(id)) else { return 0 };
        let slot = (*session).policy;
        let Some(policy) = POLICIES.get_ptr(slot) else { return 0 };
        let Some((s, scratch)) = scratch::take() else {
            count(Stat::Lost);
            return 0;
        };
        (*s).head.time_ns = time_ns;
        (*s).head.policy = (*policy).generation;
        arguments(s);
        let fs: *const c_void = typed(current(), &OFF_TASK_STRUCT_FS);
        let pwd = Place::of_path(fs.byte_add(off(&OFF_FS_STRUCT_PWD)));
        if let Ok(len) = path_in(s, scratch, slot, pwd) {
            (*s).head.path2_len = len;
        }
        emit::report(s, scratch, Kind::ExecCommitted, id);
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
