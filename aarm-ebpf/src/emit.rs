//! Putting events into the ring.
//!
//! Owns the one rule that makes receipts complete: [`conclude`] lets an action pass only after its event is
//! in the ring. Events that report what cannot be refused any more (exit) have a part of the ring to
//! themselves, above `RING_ACTION_LIMIT`.

use aarm_common::ABI_VERSION;
use aarm_common::event::*;
use aarm_common::limits::{EVENT_MAX, RING_ACTION_LIMIT};
use aarm_common::op::{Decision, Operation};
use aarm_common::policy::MODE_AUDIT;
use aarm_common::state::{Session, Stat};
use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP};
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{
    bpf_ktime_get_boot_ns, bpf_ringbuf_output, bpf_ringbuf_reserve, bpf_ringbuf_submit,
};
use core::ffi::c_void;

use crate::context;
use crate::decide::{DENIED, Verdict, refuses};
use crate::hold::{self, settled};
use crate::kernel::*;
use crate::maps::{CPU, EVENTS, POLICIES, SCRATCH, TASKS, count};
use crate::scratch::{self, END, Scratch};
use crate::session::Frame;
use crate::shares;

/// Errno of a refusal by policy.
pub const EPERM: i32 = 1;
/// Errno of a refusal for want of room: the action may be tried again.
pub const EAGAIN: i32 = 11;

/// Boot-time nanoseconds.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Whether an action still finds room in the ring.
#[inline(always)]
pub fn has_room() -> bool {
    EVENTS.query(BPF_RB_AVAIL_DATA as u64) < RING_ACTION_LIMIT
}

/// How the daemon is woken: for who waits at once, else only if it has nothing left to do.
#[inline(always)]
unsafe fn wakeup(s: *const Scratch) -> u64 {
    // SAFETY: a valid map value.
    if unsafe { (*s).head.flags } & FLAG_HELD != 0 { BPF_RB_FORCE_WAKEUP as u64 } else { 0 }
}

/// Puts the event into the ring as a record of `BYTES`: the header, and as much of the end of the buffer as has room behind
/// it. The record is made where it stays, in words: the helper that copies a finished one goes byte by byte.
#[inline(always)]
unsafe fn place<const BYTES: usize>(s: *const Scratch) -> bool {
    const {
        assert!(
            BYTES.is_multiple_of(8) && BYTES >= HEADER_BYTES && BYTES - HEADER_BYTES <= GAP_MAX + 1 + PLACED
        )
    };
    // SAFETY: `s` is a valid map value; what is reserved is submitted, and has `BYTES`.
    unsafe {
        let to: *mut u64 = bpf_ringbuf_reserve((&raw const EVENTS).cast_mut().cast(), BYTES as u64, 0).cast();
        if to.is_null() {
            return false;
        }
        scratch::copy(&raw const (*s).head, to.cast::<EventHeader>());
        let from = (&raw const (*s).buf).cast::<u64>();
        let mut w = HEADER_BYTES / 8;
        while w < BYTES / 8 {
            core::ptr::write_volatile(to.add(w), core::ptr::read_volatile(from.add(END / 8 - BYTES / 8 + w)));
            w += 1;
        }
        bpf_ringbuf_submit(to.cast(), wakeup(s));
        true
    }
}

/// Longest variable part that [`place`] is used for.
const PLACED: usize = 168;
const _: () = assert!(END.is_multiple_of(8) && HEADER_BYTES.is_multiple_of(8));

/// Bytes of the record for a variable part of up to [`PLACED`] bytes.
#[inline(always)]
fn record_size(variable: u32) -> u32 {
    let h = HEADER_BYTES as u32;
    match variable {
        0 => h,
        1..=40 => h + 40,
        41..=72 => h + 72,
        73..=104 => h + 104,
        105..=136 => h + 136,
        _ => h + 168,
    }
}

/// Fills in what every event has and puts it into the ring; 0 if it is there. The variable part is in `buf`
/// from `pos` on. Counts what was decided. Takes a number only, see `walk`.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn aarm_emit(scratch: u32) -> i32 {
    let Some(s) = SCRATCH.get_ptr_mut(scratch) else { return -EAGAIN };
    // SAFETY: a valid map value that is ours.
    unsafe {
        let h = &raw mut (*s).head;
        let pid = bpf_get_current_pid_tgid();
        if (*h).version == 0 {
            let (uid, gid) = user();
            (*h).uid = uid;
            (*h).gid = gid;
        }
        let task: *const c_void = current();
        let parent: *const c_void = typed(task, &OFF_TASK_STRUCT_REAL_PARENT);
        (*h).pid = (pid >> 32) as u32;
        (*h).tid = pid as u32;
        (*h).ppid = typed(parent, &OFF_TASK_STRUCT_TGID);
        // Padded with NUL by the kernel whenever it is set.
        let comm = task.byte_add(off(&OFF_TASK_STRUCT_COMM)).cast::<u64>();
        let to = (&raw mut (*h).comm).cast::<u64>();
        core::ptr::write_volatile(to, core::ptr::read_volatile(comm));
        core::ptr::write_volatile(to.add(1), core::ptr::read_volatile(comm.add(1)));
        publish(s, scratch)
    }
}

/// The part of [`aarm_emit`] that does not ask who acts.
#[inline(always)]
unsafe fn publish(s: *mut Scratch, scratch: u32) -> i32 {
    // SAFETY: a valid map value that is ours; positions are masked and bounded.
    unsafe {
        let pos = (*s).pos as usize;
        let variable = END.wrapping_sub(pos) as u32;
        let at = opaque(pos.wrapping_sub(HEADER_BYTES) as u64 & 0x3ff8) as usize;
        if at > END {
            return -EAGAIN;
        }
        let len = opaque(END.wrapping_sub(at) as u64);
        if len > EVENT_MAX as u64 {
            return -EAGAIN;
        }
        let placed = variable <= PLACED as u32;
        let record = if placed { record_size(variable) } else { len as u32 };
        let Some(cpu) = CPU.get_ptr_mut(0) else { return -EAGAIN };
        let h = &raw mut (*s).head;
        (*h).version = ABI_VERSION;
        (*h).len = record;
        (*h).cpu = scratch / scratch::PER_CPU;
        (*h).gap = record.wrapping_sub(HEADER_BYTES as u32).wrapping_sub(variable);
        (*h).took_ns = now().wrapping_sub((*h).time_ns) as u32;
        (*h).seq = core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(
            &raw mut (*cpu).seq,
            1,
        );
        if (*h).kind == Kind::Action as u8 {
            let stat = if (*h).flags & FLAG_HELD != 0 {
                Stat::Held
            } else if (*h).flags & FLAG_AUDIT != 0 {
                Stat::Audited
            } else if (*h).decision == Decision::Allow as u8 || (*h).decision == Decision::Modify as u8 {
                Stat::Allowed
            } else {
                Stat::Denied
            };
            (*cpu).stats[stat as usize] += 1;
        }
        if placed {
            let done = match record as usize - HEADER_BYTES {
                0 => place::<{ HEADER_BYTES }>(s),
                40 => place::<{ HEADER_BYTES + 40 }>(s),
                72 => place::<{ HEADER_BYTES + 72 }>(s),
                104 => place::<{ HEADER_BYTES + 104 }>(s),
                136 => place::<{ HEADER_BYTES + 136 }>(s),
                _ => place::<{ HEADER_BYTES + 168 }>(s),
            };
            return if done { 0 } else { -EAGAIN };
        }
        let to = (&raw mut (*s).buf).cast::<u8>().add(at);
        scratch::copy(h.cast_const(), to.cast::<EventHeader>());
        let failed = bpf_ringbuf_output((&raw const EVENTS).cast_mut().cast(), to.cast(), len, wakeup(s));
        if failed != 0 { -EAGAIN } else { 0 }
    }
}

/// Whether the action happens: in audit mode a refused one does, with all that follows from it.
#[inline(always)]
pub unsafe fn passes(f: &Frame, v: Verdict) -> bool {
    // SAFETY: a valid map value.
    unsafe { (*f.policy).mode == MODE_AUDIT || !refuses(v) }
}

/// Records a verdict and gives what the hook returns: 0 only if the event is in the ring (or in audit mode). What the
/// session learns from an action that passes is known before the hook returns.
#[inline(always)]
pub unsafe fn conclude(f: &Frame, op: Operation, v: Verdict) -> i32 {
    // SAFETY: the frame's pointers are valid map values.
    unsafe {
        let v = hold::settle(f, op, v);
        if v.settled == settled::WAITS {
            return -hold::RESTART;
        }
        let sent = v.settled != settled::UNTOLD;
        recorded(f, op, v, v.cause(), sent)
    }
}

/// [`conclude`] for what need not be asked about.
#[inline(always)]
unsafe fn recorded(f: &Frame, op: Operation, v: Verdict, cause: Cause, tell: bool) -> i32 {
    // SAFETY: the frame's pointers are valid map values.
    unsafe {
        let h = &raw mut (*f.s).head;
        let audit = (*f.policy).mode == MODE_AUDIT;
        let passes = passes(f, v);
        let adds = if passes { context::adds(f) } else { 0 };
        // What is shared has the labels before anything is done with what they tell of.
        if (adds != 0 || shares::owes(f.session)) && !shares::pass_on((*f.task).session, adds) {
            return if opaque(aarm_owing(f.scratch, f.slot, op as u32) as u64) != 0 { -EPERM } else { 0 };
        }
        let watched = context::is_watched(f.policy);
        if adds == 0
            && context::is_summary(f.policy, op, v)
            && !(watched && context::is_counted(f, op, v, passes))
        {
            return summarize(f.session, op);
        }
        (*h).kind = Kind::Action as u8;
        (*h).op = op as u8;
        (*h).session = (*f.task).session;
        (*h).policy = (*f.policy).generation;
        (*h).decision = v.decision;
        (*h).facet = v.facet;
        (*h).rule = v.rule;
        (*h).cause = cause as u8;
        (*h).adds = adds;
        // What would have been refused, or changed.
        if audit && v.decision != Decision::Allow as u8 {
            (*h).flags |= FLAG_AUDIT;
        }
        let sent = tell && has_room() && aarm_emit(f.scratch) == 0;
        if !sent {
            count(Stat::RingFull);
            core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(
                &raw mut (*f.session).refused,
                1,
            );
            if !audit {
                return if refuses(v) { -EPERM } else { -EAGAIN };
            }
        }
        if adds != 0 {
            context::add_labels(f.session, adds);
            // Another task may have begun to share in between.
            if !shares::pass_on((*f.task).session, adds) && !audit {
                return -EPERM;
            }
        }
        if watched {
            context::count_decision(f, op, v, passes);
        }
        if passes { 0 } else { -EPERM }
    }
}

/// Counts an allowed action instead of recording it.
#[inline(always)]
pub unsafe fn summarize(session: *mut Session, op: Operation) -> i32 {
    // SAFETY: a valid map value; the index is inside.
    unsafe {
        core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(
            &raw mut (*session).summary[op as usize],
            1,
        );
    }
    count(Stat::Summarized);
    0
}

/// Refuses an action by whatever verdict, because labels of the session could not be passed on: the end of [`conclude`], in a function
/// of its own for the verifier's sake. Returns 0 in audit mode, else 1. Takes numbers only, see `walk`.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn aarm_owing(scratch: u32, slot: u32, op: u32) -> u32 {
    let Some(s) = SCRATCH.get_ptr_mut(scratch) else { return 1 };
    let Some(policy) = POLICIES.get_ptr(slot) else { return 1 };
    let task = TASKS.get(current());
    if task.is_null() {
        return 1;
    }
    // SAFETY: valid map values.
    unsafe {
        let audit = (*policy).mode == MODE_AUDIT;
        let h = &raw mut (*s).head;
        (*h).kind = Kind::Action as u8;
        (*h).op = op as u8;
        (*h).session = (*task).session;
        (*h).policy = (*policy).generation;
        (*h).decision = Decision::Deny as u8;
        (*h).facet = op as u8;
        (*h).rule = NO_RULE;
        (*h).cause = Cause::NoMemory as u8;
        (*h).adds = 0;
        if audit {
            (*h).flags |= FLAG_AUDIT;
        }
        if !has_room() || aarm_emit(scratch) != 0 {
            count(Stat::RingFull);
        }
        if audit { 0 } else { 1 }
    }
}

/// Denies because something could not be found out.
#[inline(always)]
pub unsafe fn fail_closed(f: &Frame, op: Operation, cause: Cause) -> i32 {
    count(match cause {
        Cause::PathTooLong => Stat::PathTooLong,
        Cause::NoPolicy => Stat::NoPolicy,
        Cause::NoMemory => Stat::NoMemory,
        _ => Stat::ReadFailed,
    });
    let v = Verdict {
        decision: Decision::Deny as u8,
        facet: op as u8,
        rule: NO_RULE,
        more: DENIED,
        settled: settled::NO,
    };
    // SAFETY: as for `conclude`.
    unsafe {
        (*f.s).head.flags |= FLAG_PATH_CUT;
        (*f.s).data = 0;
        (*f.s).carried = 0;
        recorded(f, op, v, cause, true)
    }
}

/// Emits an event that reports what has happened already. It may use the whole ring; not finding room even
/// so is counted as lost, and shows as a gap in the sequence.
#[inline(always)]
pub unsafe fn report(s: *mut Scratch, scratch: u32, kind: Kind, session: u64) {
    // SAFETY: `s` is a valid map value that is ours.
    unsafe {
        let h = &raw mut (*s).head;
        (*h).kind = kind as u8;
        (*h).session = session;
        (*h).decision = Decision::Allow as u8;
        (*h).cause = Cause::None as u8;
        (*h).rule = NO_RULE;
        if aarm_emit(scratch) != 0 {
            count(Stat::Lost);
        }
    }
}

/// Emits an event that nobody's action is, from a program that runs for whatever task is interrupted. Whether it is in the ring:
/// what it tells must have no effect otherwise.
#[inline(always)]
pub unsafe fn told(s: *mut Scratch, scratch: u32, kind: Kind, session: u64) -> bool {
    // SAFETY: `s` is a valid map value that is ours.
    unsafe {
        let h = &raw mut (*s).head;
        (*h).kind = kind as u8;
        (*h).session = session;
        (*h).decision = Decision::Allow as u8;
        (*h).cause = Cause::None as u8;
        (*h).rule = NO_RULE;
        has_room() && publish(s, scratch) == 0
    }
}
