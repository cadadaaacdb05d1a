//! Which session a task belongs to, and what a hook needs of it.

use aarm_common::event::Kind;
use aarm_common::limits::{AGENTS_SLOT, DATA_WORD, WATCHES};
use aarm_common::op::OPERATIONS;
use aarm_common::policy::Policy;
use aarm_common::state::*;
use aya_ebpf::helpers::bpf_get_current_uid_gid;
use core::ffi::c_void;

use crate::decide;
use crate::emit::{self, EAGAIN};
use crate::kernel::*;
use crate::maps::*;
use crate::scratch::{self, END, Scratch};
use crate::shares;
use crate::spare;
use crate::subject;
use crate::walk::{self, walk};

/// A supervised task, as a hook finds it.
#[derive(Clone, Copy)]
pub struct Subject {
    /// The task's storage.
    pub task: *mut Task,
    /// Its session.
    pub session: *mut Session,
    /// The session's policy.
    pub policy: *const Policy,
    /// Its slot.
    pub slot: u32,
}

/// What a hook works with, for one action of a supervised task.
pub struct Frame {
    /// A scratch buffer of our own.
    pub s: *mut Scratch,
    /// Its index.
    pub scratch: u32,
    /// The task's storage.
    pub task: *mut Task,
    /// Its session.
    pub session: *mut Session,
    /// The session's policy.
    pub policy: *const Policy,
    /// Its slot.
    pub slot: u32,
}

/// The current task's storage; null: it is outside any session. An error: it is in one, but there is no memory to say so.
#[inline(always)]
pub fn mine() -> Result<*mut Task, ()> {
    let task = TASKS.get(current());
    if !task.is_null() || !spare::any() || opaque(spare::aarm_restore() as u64) == 0 {
        return Ok(task);
    }
    let task = TASKS.get(current());
    if task.is_null() {
        count(Stat::TaskStorage);
        return Err(());
    }
    Ok(task)
}

/// Runs `body` for a supervised task; everybody else pays one look into the task's storage. (Programs on one hook run one
/// after the other until one refuses, so none is ever called after a refusal that it could undo.)
#[inline(always)]
pub fn subject(body: impl FnOnce(&Subject) -> i32) -> i32 {
    let Ok(task) = mine() else { return -EAGAIN };
    if task.is_null() {
        return 0;
    }
    // SAFETY: `task` is a valid map value; map values are checked for null before use.
    unsafe {
        if (*task).session == 0 {
            return 0;
        }
        let Some(session) = SESSIONS.get_ptr_mut(session_slot((*task).session)) else { return -emit::EPERM };
        let slot = (*session).policy;
        let Some(policy) = POLICIES.get_ptr(slot) else { return -emit::EPERM };
        body(&Subject { task, session, policy, slot })
    }
}

/// Runs `body` with a scratch buffer.
#[inline(always)]
pub fn framed(u: &Subject, body: impl FnOnce(&Frame) -> i32) -> i32 {
    let time_ns = emit::now();
    let Some((s, scratch)) = scratch::take() else { return -EAGAIN };
    // SAFETY: ours.
    unsafe { (*s).head.time_ns = time_ns };
    let Subject { task, session, policy, slot } = *u;
    let result = body(&Frame { s, scratch, task, session, policy, slot });
    scratch::give(s);
    result
}

/// [`subject`] and [`framed`] in one.
#[inline(always)]
pub fn supervised(body: impl FnOnce(&Frame) -> i32) -> i32 {
    subject(|u| framed(u, body))
}

/// The session of a task, given by typed pointer; 0: none.
#[inline(always)]
pub fn session_of(task: *mut c_void) -> u64 {
    if task.is_null() {
        return 0;
    }
    let storage = TASKS.get(task);
    if storage.is_null() {
        return spare::session_of(task);
    }
    // SAFETY: a valid map value.
    unsafe { (*storage).session }
}

/// Makes `task.exe` hold for the running image under the frame's policy. Returns the walk's status.
#[inline(always)]
pub unsafe fn refresh_exe(f: &Frame) -> u32 {
    // SAFETY: the frame's pointers are valid map values; the kernel pointers are typed.
    unsafe {
        let mm: *const c_void = typed(current(), &OFF_TASK_STRUCT_MM);
        if mm.is_null() {
            return walk::FAILED;
        }
        let file: *const c_void = typed(mm, &OFF_MM_STRUCT_EXE_FILE);
        if file.is_null() {
            return walk::FAILED;
        }
        let place = Place::of_file(file);
        let pos = (*f.s).pos;
        let status = walk(f.s, f.scratch, f.slot, place, false);
        (*f.s).pos = pos;
        if status != walk::DONE {
            return status;
        }
        store_exe(&raw mut (*f.task).exe, f.s, f.policy);
        subject::looked_at(f);
        (*f.task).exe_generation = (*f.policy).generation;
        (*f.task).who_generation = 0;
        walk::DONE
    }
}

/// Rules whose `exe` predicate the path just walked satisfies.
#[inline(always)]
pub unsafe fn store_exe(to: *mut aarm_common::policy::Bits, s: *const Scratch, p: *const Policy) {
    let mut w = 0;
    while w < DATA_WORD {
        // SAFETY: all three are valid map values.
        unsafe { (*to)[w] = ((*p).exe_free[w] | (*s).hits.exe[w]) & !(*s).hits.not_exe[w] };
        w += 1;
    }
    // `data` entries have no such predicate; the last word of these hits is that of `subject`'s patterns.
    // SAFETY: as above.
    unsafe { (*to)[DATA_WORD] = u64::MAX };
}

/// At an exec outside any session: begins one if an agent selector says so. Returns 0, or the errno with
/// which the exec must fail because the session could not be begun.
#[inline(always)]
pub fn begin_if_agent(file: *const c_void) -> i32 {
    let Some(config) = CONFIG.get_ptr(0) else { return 0 };
    // SAFETY: a valid map value.
    if unsafe { (*config).agents } == 0 {
        return 0;
    }
    let Some(p) = POLICIES.get_ptr(AGENTS_SLOT) else { return 0 };
    let Some((s, scratch)) = scratch::take() else { return -EAGAIN };
    let place = Place::of_file(file);
    let result = begin(s, scratch, p, place);
    scratch::give(s);
    result
}

#[inline(always)]
fn begin_session(s: *mut Scratch, scratch: u32, policy: u32, selector: u32) -> i32 {
    // SAFETY: map values are checked for null before use.
    unsafe {
        if !emit::has_room() {
            count(Stat::RingFull);
            return -EAGAIN;
        }
        let Ok(Some(slot)) = FREE_SLOTS.pop() else {
            count(Stat::NoSessionSlot);
            return -EAGAIN;
        };
        let Some(session) = SESSIONS.get_ptr_mut(slot) else { return -EAGAIN };
        let task = TASKS.get_or_create(current());
        if task.is_null() {
            count(Stat::TaskStorage);
            let _ = FREE_SLOTS.push(slot, 0);
            return -EAGAIN;
        }
        let generation = (*session).generation.wrapping_add(1).max(1);
        let id = session_id(slot, generation);
        (*session).policy = policy;
        (*session).flags = 0;
        (*session).shares = 0;
        (*session).refused = 0;
        (*session).tasks = 1;
        (*session).started_ns = emit::now();
        (*session).labels = 0;
        let mut i = 0;
        while i < OPERATIONS {
            core::ptr::write_volatile(&raw mut (*session).summary[i], 0);
            i += 1;
        }
        let mut i = 0;
        while i < WATCHES {
            core::ptr::write_volatile(&raw mut (*session).counters[i].key, 0);
            i += 1;
        }
        (*session).generation = generation;
        (*task).session = id;
        (*task).flags = TASK_COUNTED | TASK_OUTSIDE;
        (*task).lineage = 0;
        (*task).lineage_known = u64::MAX;
        (*task).exe_generation = 0;
        (*task).who_generation = 0;
        count(Stat::SessionsBegun);
        let h = &raw mut (*s).head;
        (*h).time_ns = emit::now();
        (*h).arg = selector as u64;
        (*h).object.ino = subject::cgroup_of(current());
        (*h).policy = policy;
        emit::report(s, scratch, Kind::SessionBegin, id);
        0
    }
}

#[inline(always)]
fn begin(s: *mut Scratch, scratch: u32, p: *const Policy, place: Place) -> i32 {
    // SAFETY: `s` and `p` are valid map values.
    unsafe {
        if (*p).generation == 0 {
            return 0;
        }
        (*s).pos = END as u32;
        if walk(s, scratch, AGENTS_SLOT, place, false) != walk::DONE {
            // A program whose path cannot be built is not one a selector can name by path; but one it could
            // name by user or cgroup must not slip through.
            (*s).pos = END as u32;
        }
        let uid = decide::uid_set(s, p, bpf_get_current_uid_gid() as u32);
        let Some(rule) = decide::select_agent(p, s, uid) else { return 0 };
        (*s).head.path_len = (END as u32).wrapping_sub((*s).pos) as u16;
        begin_session(s, scratch, (*p).rule_slot[rule as usize & 511] as u32, rule)
    }
}

/// A task that was counted in the session `id` ends: the last one ends the session.
#[inline(always)]
pub unsafe fn leave(s: *mut Scratch, scratch: u32, id: u64) {
    // SAFETY: `s` is a valid map value.
    unsafe {
        let Some(session) = SESSIONS.get_ptr_mut(session_slot(id)) else { return };
        let before = core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(
            &raw mut (*session).tasks,
            u64::MAX,
        );
        if before == 1 {
            if shares::any(session) {
                shares::aarm_unshare(session_slot(id));
            }
            (*session).flags |= SESSION_ENDED;
            count(Stat::SessionsEnded);
            let h = &raw mut (*s).head;
            (*h).path_len = 0;
            (*h).arg = (*session).refused;
            (*s).pos = END as u32;
            emit::report(s, scratch, Kind::SessionEnd, id);
        }
    }
}

