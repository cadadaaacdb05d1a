//! Who acts, and in which circumstances: the user, the program, and the session's labels and history.
//!
//! Gives each decision `Scratch::who`, the rules that the actor and the session satisfy. What changes rarely is kept with
//! the task ([`aarm_who`]); history is looked at each time. Labels and counts are added here, and only when an action
//! passes.

use aarm_common::event::{Cause, HEADER_BYTES};
use aarm_common::limits::*;
use aarm_common::op::Operation;
use aarm_common::policy::*;
use aarm_common::state::{ObjectKey, Session, Task};
use aarm_common::{ABI_VERSION, Decision};
use aya_ebpf::helpers::generated::bpf_loop;
use core::ffi::c_void;

use crate::decide::{LATER, Verdict, uid_set};
use crate::kernel::*;
use crate::maps::{CARRIED, CARRIES, POLICIES, SCRATCH, SESSIONS, TASKS};
use crate::scratch;
use crate::session::{Frame, refresh_exe};
use crate::shares;
use crate::subject;
use crate::walk;

const SET_MASK: usize = RULE_SETS - 1;
const _: () = assert!(HEADER_BYTES.is_multiple_of(8));

/// What goes wrong when a path cannot be had, as the cause of a denial.
#[inline(always)]
pub fn cause_of_status(status: u32) -> Cause {
    if status == walk::TOO_LONG { Cause::PathTooLong } else { Cause::ReadFailed }
}

/// Puts what every decision needs into the scratch buffer: who acts, and what the session has seen.
#[inline(always)]
pub unsafe fn prepare(f: &Frame) -> Result<(), Cause> {
    // SAFETY: the frame's pointers are valid map values.
    unsafe {
        let generation = (*f.policy).generation;
        if generation == 0 {
            return Err(Cause::NoPolicy);
        }
        if (*f.task).exe_generation != generation {
            let status = refresh_exe(f);
            if status != walk::DONE {
                return Err(cause_of_status(status));
            }
        }
        let (uid, gid) = user();
        let labels = core::ptr::read_volatile(&raw const (*f.session).labels);
        let h = &raw mut (*f.s).head;
        (*h).version = ABI_VERSION;
        (*h).uid = uid;
        (*h).gid = gid;
        (*h).labels = labels;
        if stale(f, uid, labels) {
            // It is always stale while this is so. What the kernel itself does to load the image comes before.
            if (*f.task).line_hold != 0 && (*f.task).line_key == 0 {
                return Err(Cause::Args);
            }
            if (*f.policy).subject_containers != 0 {
                // What cannot be read is unknown, which is for the rules to judge.
                subject::aarm_cgroup(f.scratch, f.slot);
            }
            if aarm_who(f.scratch, f.slot) != 0
                || (*f.policy).subject_conditions != 0 && subject::aarm_subject(f.slot) != 0
            {
                return Err(Cause::ReadFailed);
            }
        }
        (*h).subjects = (*f.task).subjects;
        scratch::copy(&raw const (*f.task).who, &raw mut (*f.s).who);
        history(f)
    }
}

/// Takes the rules out of `Scratch::who` whose conditions on history do not hold.
#[inline(always)]
unsafe fn history(f: &Frame) -> Result<(), Cause> {
    // SAFETY: the frame's pointers are valid map values.
    unsafe {
        let session = aarm_common::state::session_slot((*f.task).session);
        if (*f.policy).history_conditions != 0 && aarm_history(f.scratch, f.slot, session) != 0 {
            return Err(Cause::ReadFailed);
        }
        Ok(())
    }
}

/// Whether what the task keeps is of another policy, user, set of labels, or cgroup.
#[inline(always)]
pub unsafe fn stale(f: &Frame, uid: u32, labels: u64) -> bool {
    // SAFETY: valid map values.
    unsafe {
        let t = f.task;
        (*t).who_generation != (*f.policy).generation
            || (*t).labels != labels
            || (*t).uid != uid
            || subject::moved(f.policy, t)
    }
}

/// Computes `Task::context` and `Task::who` for the user and labels in the event's header. Returns 0, or 1 if the task is
/// none of ours. Takes numbers only, see `walk`.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn aarm_who(scratch: u32, slot: u32) -> u32 {
    let Some(s) = SCRATCH.get_ptr_mut(scratch) else { return 1 };
    let Some(p) = POLICIES.get_ptr(slot) else { return 1 };
    let task = TASKS.get(current());
    if task.is_null() {
        return 1;
    }
    // SAFETY: valid map values; masks keep indices inside.
    unsafe {
        let (uid, labels) = ((*s).head.uid, (*s).head.labels);
        let set = uid_set(s, p, uid) as usize & SET_MASK;
        scratch::copy(&raw const (*p).sets[set], &raw mut (*task).context);
        let conditions = (*p).label_conditions;
        let mut narrow = Narrow { task, p, labels };
        if bpf_loop(conditions, by_label as *mut c_void, (&raw mut narrow).cast(), 0) != conditions as i64 {
            return 1;
        }
        let mut w = 0;
        while w < RULE_WORDS {
            (*task).who[w] = (*task).context[w] & (*task).exe[w];
            w += 1;
        }
        (*task).uid = uid;
        (*task).labels = labels;
        (*task).subjects = 0;
        // Where there are subject conditions, it is not over yet.
        (*task).who_generation = if (*p).subject_conditions == 0 { (*p).generation } else { 0 };
        0
    }
}

/// What the callback of `bpf_loop` needs: a loop that the verifier follows to its end costs each of our programs as much as all else in
/// [`aarm_who`] does twenty times.
#[repr(C)]
struct Narrow {
    task: *mut Task,
    p: *const Policy,
    labels: u64,
}

/// Takes the rules out of `Task::context` that need one condition on labels, if it does not hold.
#[inline(never)]
extern "C" fn by_label(i: u32, narrow: *mut Narrow) -> i64 {
    // SAFETY: the context is the caller's; the pointers in it are map values; masks keep indices inside.
    unsafe {
        let (task, p) = ((*narrow).task, (*narrow).p);
        if task.is_null() || p.is_null() {
            return 1;
        }
        let c = (*p).labels[i as usize & (LABEL_CONDITIONS - 1)];
        let has = (*narrow).labels & c.mask;
        let holds = match c.kind {
            LABELS_ANY => has != 0,
            LABELS_ALL => has == c.mask,
            LABELS_NONE => has == 0,
            _ => false,
        };
        if !holds {
            let needed = c.needed_by as usize & SET_MASK;
            let mut w = 0;
            while w < RULE_WORDS {
                (*task).context[w] &= !(*p).sets[needed][w];
                w += 1;
            }
        }
        0
    }
}

/// Takes the rules out of `Scratch::who` that need a history condition which does not hold; those that do go into the
/// event's header. Returns 0, or 1 if that could not be done. Does not ask for the task's storage once more: by its source, 6.1
/// says that there is none while somebody else on the CPU is inside it.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn aarm_history(scratch: u32, slot: u32, session: u32) -> u32 {
    let Some(s) = SCRATCH.get_ptr_mut(scratch) else { return 1 };
    let Some(p) = POLICIES.get_ptr(slot) else { return 1 };
    let Some(session) = SESSIONS.get_ptr(session) else { return 1 };
    // SAFETY: valid map values; masks keep indices inside.
    unsafe {
        let time = (*s).head.time_ns;
        let mut held = 0u32;
        let mut i = 0;
        while i < HISTORY_CONDITIONS {
            if i as u32 >= (*p).history_conditions {
                break;
            }
            if holds(session, p, i, time) {
                held |= 1 << i;
            } else {
                let needed = (*p).history[i].needed_by as usize & SET_MASK;
                let mut w = 0;
                while w < RULE_WORDS {
                    (*s).who[w] &= !(*p).sets[needed][w];
                    w += 1;
                }
            }
            i += 1;
        }
        (*s).head.conditions = held;
        0
    }
}

/// Whether a history condition holds.
#[inline(always)]
unsafe fn holds(session: *const Session, p: *const Policy, i: usize, time: u64) -> bool {
    // SAFETY: valid map values; masks keep indices inside.
    unsafe {
        let c = (*p).history[i & (HISTORY_CONDITIONS - 1)];
        let age = time.wrapping_sub((*session).started_ns);
        if c.kind == HISTORY_OLDER {
            return age >= c.nanos;
        }
        if c.kind == HISTORY_YOUNGER {
            return age < c.nanos;
        }
        let at = c.watch as usize & (WATCHES - 1);
        let counter = &raw const (*session).counters[at];
        let count = if (*counter).key == (*p).watches[at].key { (*counter).count } else { 0 };
        let enough = count >= c.count as u64
            && (c.nanos == 0 || {
                let oldest = (count.wrapping_sub(c.count as u64)) as usize & (WATCH_TIMES - 1);
                time.wrapping_sub((*counter).times[oldest]) <= c.nanos
            });
        if c.kind == HISTORY_COUNT { enough } else { !enough }
    }
}

/// Labels that the `data` entries in `entries` add.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn aarm_labels(slot: u32, entries: u64) -> u64 {
    let Some(p) = POLICIES.get_ptr(slot) else { return 0 };
    let mut labels = 0;
    let mut i = 0;
    while i < MAX_DATA {
        // SAFETY: a valid map value; the index is inside.
        unsafe {
            if entries >> i & 1 != 0 {
                labels |= (*p).data_labels[i];
            }
        }
        i += 1;
    }
    labels
}

/// Labels that the action adds if it passes: of `data` entries, and what the object carries.
#[inline(always)]
pub unsafe fn adds(f: &Frame) -> u64 {
    // SAFETY: valid map values.
    unsafe {
        let entries = (*f.s).data;
        let labels = if entries != 0 { aarm_labels(f.slot, entries) } else { 0 };
        (labels | (*f.s).carried) & !(*f.s).head.labels
    }
}

/// Adds labels to the session: the next decision of any of its tasks sees them.
#[inline(always)]
pub unsafe fn add_labels(session: *mut Session, labels: u64) {
    // SAFETY: a valid map value.
    unsafe {
        core::intrinsics::atomic_or::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(
            &raw mut (*session).labels,
            labels,
        );
    }
}

/// Whether the action is one that the policy's history conditions count.
#[inline(always)]
pub unsafe fn is_watched(p: *const Policy) -> bool {
    // SAFETY: a valid map value.
    unsafe { (*p).watches[0].key != 0 }
}

/// Whether a watch counts a decision.
#[inline(always)]
fn counts(watch: &Watch, op: u64, passed: bool, rule: u32) -> bool {
    let counted = if watch.rule == ANY_RULE { passed } else { watch.rule == rule };
    counted && (watch.operations == 0 || watch.operations >> op & 1 != 0)
}

/// Whether [`aarm_count`] would count the decision.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn aarm_counts(slot: u32, op_rule: u64) -> u32 {
    let Some(p) = POLICIES.get_ptr(slot) else { return 1 };
    let (op, passed, rule) = (op_rule & 63, op_rule >> 8 & 1 != 0, (op_rule >> 16) as u32);
    let mut i = 0;
    while i < WATCHES {
        // SAFETY: a valid map value; the index is inside.
        let watch = unsafe { (*p).watches[i] };
        if watch.key == 0 {
            break;
        }
        if counts(&watch, op, passed, rule) {
            return 1;
        }
        i += 1;
    }
    0
}

/// Counts a decision where the policy's history conditions ask for it.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn aarm_count(slot: u32, session: u32, op_rule: u64, time: u64) -> u32 {
    let Some(p) = POLICIES.get_ptr(slot) else { return 1 };
    let Some(session) = SESSIONS.get_ptr_mut(session) else { return 1 };
    let (op, passed, rule) = (op_rule & 63, op_rule >> 8 & 1 != 0, (op_rule >> 16) as u32);
    let mut i = 0;
    while i < WATCHES {
        // SAFETY: valid map values; masks keep indices inside.
        unsafe {
            let watch = (*p).watches[i];
            if watch.key == 0 {
                break;
            }
            if counts(&watch, op, passed, rule) {
                let c = &raw mut (*session).counters[i];
                if (*c).key != watch.key {
                    (*c).count = 0;
                    (*c).key = watch.key;
                }
                let n = core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(
                    &raw mut (*c).count,
                    1,
                );
                (*c).times[n as usize & (WATCH_TIMES - 1)] = time;
            }
        }
        i += 1;
    }
    0
}

/// [`aarm_counts`] for a verdict.
#[inline(always)]
pub unsafe fn is_counted(f: &Frame, op: Operation, v: Verdict, passed: bool) -> bool {
    aarm_counts(f.slot, op as u64 | (passed as u64) << 8 | (v.rule as u64) << 16) != 0
}

/// [`aarm_count`] for a verdict.
#[inline(always)]
pub unsafe fn count_decision(f: &Frame, op: Operation, v: Verdict, passed: bool) {
    // SAFETY: valid map values.
    unsafe {
        let session = aarm_common::state::session_slot((*f.task).session);
        let what = op as u64 | (passed as u64) << 8 | (v.rule as u64) << 16;
        aarm_count(f.slot, session, what, (*f.s).head.time_ns);
    }
}

/// Whether any file, pipe or socket carries labels.
#[inline(always)]
pub fn anything_carries() -> bool {
    // SAFETY: a valid map value.
    CARRIES.get_ptr(0).is_some_and(|n| unsafe { core::ptr::read_volatile(n) } != 0)
}

/// Whether it holds what is written to it: a file or a pipe, not a device.
#[inline(always)]
fn holds_data(inode: *const c_void) -> bool {
    if inode.is_null() {
        return false;
    }
    // SAFETY: typed by contract, and not null.
    let kind = unsafe { typed::<u16>(inode, &OFF_INODE_I_MODE) } as u32 & S_IFMT;
    kind == S_IFREG || kind == S_IFIFO
}

/// Labels that a file or pipe carries from sessions that wrote to it.
#[inline(always)]
pub fn carried(inode: *const c_void) -> u64 {
    if !anything_carries() || !holds_data(inode) {
        return 0;
    }
    let key = object_key(inode);
    // SAFETY: a valid map value.
    CARRIED.get_ptr(key).map_or(0, |labels| unsafe { core::ptr::read_volatile(labels) })
}

/// Lets a file or pipe carry labels, from a session that is about to write to it. Fails if there is no room.
#[inline(always)]
pub fn carry(inode: *const c_void, labels: u64) -> Result<(), Cause> {
    if labels == 0 || !holds_data(inode) { Ok(()) } else { carry_by(object_key(inode), labels) }
}

/// [`carry`] for what is known by its key.
#[inline(always)]
pub fn carry_by(key: ObjectKey, labels: u64) -> Result<(), Cause> {
    shares::carry(key, labels)
}

/// Notes that a session maps a file, or a segment of memory, together with others. Fails if there is no room.
#[inline(always)]
pub fn share(inode: *const c_void, session: u64, writes: bool) -> Result<(), Cause> {
    if !holds_data(inode) {
        return Ok(());
    }
    shares::share(object_key(inode), aarm_common::state::session_slot(session), writes)
}

/// Whether an operation on an allowed object is only counted.
#[inline(always)]
pub unsafe fn is_summary(p: *const Policy, op: Operation, v: Verdict) -> bool {
    // SAFETY: a valid map value.
    unsafe { v.decision == Decision::Allow as u8 && v.more & LATER == 0 && (*p).summary >> (op as u64 & 63) & 1 != 0 }
}

/// Rules that the actor satisfies without regard to the program, narrowed by history; for operations that are about a program
/// to run.
#[inline(always)]
pub unsafe fn program(f: &Frame) -> Result<(), Cause> {
    // SAFETY: valid map values.
    unsafe {
        crate::names::as_program(f.s, f.policy, &raw const (*f.task).context);
        history(f)
    }
}

