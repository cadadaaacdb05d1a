//! Hold: what neither may nor may not happen waits.
//!
//! [`settle`] turns a verdict that says "ask" into one that says what came of asking, or that the action waits: then the
//! thread is told to stop, its system call ends with an error that makes the kernel begin it anew, and the hook meets the
//! same action again when the daemon has let the thread go on. Nothing has happened meanwhile, and what runs is what was
//! decided: the action is known again by a keyed hash over all that it is, so one that differs in anything is asked
//! about by itself.
//!
//! What is deferred is often decided at once, by the daemon alone. So its thread looks for the answer for a moment before it stops
//! ([`spin`]), and then nobody sees that it waited: no signal, no second try.
//!
//! Must never: let an error that only the kernel understands reach a program. So that error is returned only after a signal was sent, and where
//! the system call cannot be begun anew nothing waits. Must never: leave a thread stopped that was answered. So whoever stops looks for
//! the answer once more ([`stop`]), and whoever answers continues what was marked as stopped.

use aarm_common::event::*;
use aarm_common::hold::{self, ALSO, Asks, Grant, GrantKey, HOLD_STOPPED, Hold, Syscalls};
use aarm_common::limits::SYSCALLS;
use aarm_common::op::{Decision, OPERATIONS, Operation};
use aarm_common::policy::MODE_AUDIT;
use aarm_common::state::{Config, Stat, Task};
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{bpf_loop, bpf_send_signal_thread, bpf_task_pt_regs};
use core::ffi::c_void;

use crate::decide::{Verdict, WAITS};
use crate::emit::{aarm_emit, has_room, now};
use crate::kernel::*;
use crate::maps::*;
use crate::scratch::{ASKED, CONNECTING, END, MADE, Scratch};
use crate::session::Frame;

/// `-ERESTARTNOINTR`: the kernel begins the system call anew.
pub const RESTART: i32 = 513;

pub const SIGCONT: u32 = 18;
pub const SIGSTOP: u32 = 19;
/// `task_struct.flags`: kernel threads, workers of io_uring, and threads of the kernel that act for a user (from 6.4).
const PF_IO_WORKER: u32 = 0x10;
const PF_USER_WORKER: u32 = 0x4000;
const PF_KTHREAD: u32 = 0x20_0000;
/// Tries to send a signal.
const SIGNAL_TRIES: u32 = 1024;
/// What a system call's result is before it has one; after it, what still runs is work of others (io_uring).
const ENOSYS: i64 = 38;

/// No system call.
const NO_CALL: u64 = u64::MAX;
const EXECVE: u64 = 59;
const EXECVEAT: u64 = 322;

/// System calls that can be begun anew, by operation.
static RESTARTABLE: [Syscalls; OPERATIONS] = hold::table();

/// What became of an action that must be asked about.
pub mod settled {
    /// It need not be.
    pub const NO: u8 = 0;
    /// It waits.
    pub const WAITS: u8 = 1;
    /// It was answered.
    pub const ANSWERED: u8 = 2;
    /// An earlier answer holds.
    pub const GRANTED: u8 = 3;
    /// It cannot wait.
    pub const CANNOT: u8 = 4;
    /// There is no room for it to wait.
    pub const NO_ROOM: u8 = 5;
    /// There is no room for its event: it has no receipt.
    pub const UNTOLD: u8 = 6;
    /// Its rule changes it, and it cannot be changed. Not for [`settle`](super::settle) to say.
    pub const UNCHANGED: u8 = 7;
}

/// The bit of what [`aarm_hold`] returns that says ALLOW.
const ALLOW: u32 = 1 << 8;

/// Asks about an action whose verdict says so. What the event says of the action must be complete.
#[inline(always)]
pub unsafe fn settle(f: &Frame, op: Operation, v: Verdict) -> Verdict {
    // SAFETY: the frame's pointers are valid map values.
    unsafe {
        let asks = v.decision == Decision::StepUp as u8 || v.decision == Decision::Defer as u8;
        if !asks || v.more & WAITS == 0 || v.settled != settled::NO || (*f.policy).mode == MODE_AUDIT {
            return v;
        }
        let what = op as u32 | (v.facet as u32) << 8 | (v.decision as u32) << 16 | (v.cause() as u32) << 24;
        // One after the other, because the kernel bounds the stack of all functions that are in each other.
        let named = aarm_name(f.scratch, f.slot, what, v.rule as u32);
        let became = aarm_hold(f.scratch, f.slot, what, v.rule as u32 | named << 16);
        let decision = if became & ALLOW != 0 { Decision::Allow } else { Decision::Deny } as u8;
        match became as u8 {
            settled::WAITS => Verdict { settled: settled::WAITS, ..v },
            settled => Verdict { decision, settled, ..v },
        }
    }
}

/// [`settle`] as a function that the verifier checks by itself, once. `what`: operation, facet, decision and cause, a byte
/// each. `rule`: in its upper half what [`aarm_name`] said. Returns what became of it (`settled`), and [`ALLOW`].
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn aarm_hold(scratch: u32, slot: u32, what: u32, rule: u32) -> u32 {
    const NO_ROOM: u32 = settled::NO_ROOM as u32;
    let Some(s) = SCRATCH.get_ptr_mut(scratch) else { return NO_ROOM };
    let Some(p) = POLICIES.get_ptr(slot) else { return NO_ROOM };
    let task = TASKS.get(current());
    if task.is_null() {
        return NO_ROOM;
    }
    // SAFETY: valid map values; masks keep indices inside.
    unsafe {
        if rule >> 16 != 0 {
            // More people than fit into one question.
            count(Stat::CannotWait);
            return settled::CANNOT as u32;
        }
        let session = (*task).session;
        let h = &raw mut (*s).head;
        let thread = bpf_get_current_pid_tgid();
        let key = (*s).hold;
        let action = (*s).action;
        // First what was asked: its answer may be a grant as well.
        if let Some(hold) = HOLDS.get_ptr_mut(key) {
            (*h).hold = key;
            return waits_still(task, hold, key, (*s).call, h);
        }
        let already = (*s).already;
        if already == CONNECTING && ((*task).passed == key || (*task).passed == action) {
            // A stop interrupts a connection that is being made, also one for another thread's sake: the kernel begins the system call anew,
            // which then only waits.
            (*h).hold = (*task).passed;
            return settled::ANSWERED as u32 | ALLOW;
        }
        if granted(session, action, (*h).time_ns) {
            (*h).hold = action;
            passed(task, action, what as u8, (*s).call);
            return settled::GRANTED as u32 | ALLOW;
        }
        if already != 0 && already != CONNECTING {
            // What it is made for was asked about with its making; where that was not asked about, it is too late to. That was in this
            // very open, however long ago: each making forgets what was allowed before (`path_mknod`).
            if already == MADE && (*task).passed != 0 && (*task).passed_op == Operation::Create as u64 {
                (*h).hold = (*task).passed;
                return settled::ANSWERED as u32 | ALLOW;
            }
            count(Stat::CannotWait);
            return settled::CANNOT as u32;
        }
        let number = system_call();
        if what as u8 == Operation::MmapExec as u8 && (number == EXECVE || number == EXECVEAT) {
            // The kernel maps what it was asked to run: that was asked about as such, and there is no way back any more.
            if (*task).passed != 0 && (*task).passed_op == Operation::Exec as u64 {
                (*h).hold = (*task).passed;
                return settled::ANSWERED as u32 | ALLOW;
            }
            count(Stat::CannotWait);
            return settled::CANNOT as u32;
        }
        if !can_restart(what as u8, number) {
            count(Stat::CannotWait);
            return settled::CANNOT as u32;
        }
        (*h).hold = key;
        if (*task).kept == key && (*task).passed_call == (*s).call {
            (*task).kept = 0;
            passed(task, key, what as u8, (*s).call);
            return settled::ANSWERED as u32 | ALLOW;
        }
        if !has_room() {
            return settled::UNTOLD as u32;
        }
        // Not on the stack, which is the scarcer place.
        (*s).waits = Hold {
            since_ns: (*h).time_ns,
            session,
            action,
            pid: (thread >> 32) as u32,
            tid: thread as u32,
            policy: (*p).generation,
            flags: 0,
            rule: rule as u16,
            op: what as u8,
            decision: (what >> 16) as u8,
            stops: 0,
        };
        if HOLDS.insert(key, &(*s).waits, BPF_NOEXIST as u64).is_err() {
            count(Stat::NoMemory);
            return NO_ROOM;
        }
        let since = (*h).time_ns;
        (*h).kind = Kind::Action as u8;
        (*h).op = what as u8;
        (*h).facet = (what >> 8) as u8;
        (*h).decision = (what >> 16) as u8;
        (*h).cause = (what >> 24) as u8;
        (*h).rule = rule as u16;
        (*h).session = session;
        (*h).policy = (*p).generation;
        (*h).adds = 0;
        (*h).flags |= FLAG_HELD;
        let told = aarm_emit(scratch) == 0;
        (*h).flags &= !FLAG_HELD;
        if !told {
            // Nobody would ever be asked.
            let _ = HOLDS.remove(key);
            return settled::UNTOLD as u32;
        }
        // People take longer.
        if (what >> 16) as u8 == Decision::Defer as u8 {
            spin(key, since);
        }
        let Some(hold) = HOLDS.get_ptr_mut(key) else {
            // It is to be decided anew: the kernel begins the call again for a signal that stops nobody.
            return if signal(SIGSTOP) && signal(SIGCONT) { settled::WAITS } else { settled::CANNOT } as u32;
        };
        waits_still(task, hold, key, (*s).call, h)
    }
}

/// Names an action that is asked about, into `Scratch::hold` (as of this thread), `Scratch::action` and `Scratch::call`, and puts into the
/// event what asks about it. Returns 0, or 1 if that is more than an event can say. Takes numbers only, see `walk`.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn aarm_name(scratch: u32, slot: u32, what: u32, rule: u32) -> u32 {
    let Some(s) = SCRATCH.get_ptr_mut(scratch) else { return 1 };
    let Some(p) = POLICIES.get_ptr(slot) else { return 1 };
    let Some(config) = CONFIG.get_ptr(0) else { return 1 };
    let task = TASKS.get(current());
    if task.is_null() {
        return 1;
    }
    // SAFETY: valid map values.
    unsafe {
        let asks = Asks::bits(rule as u16, (what >> 16) as u8, (what >> 24) as u8);
        if !others(s, asks) {
            return 1;
        }
        let about = name_object(s, config, what as u8);
        (*s).call = name_call(s, config, about);
        let action = name_action(s, config, about, what, (*task).session);
        (*s).hold = name_with(s, config, action, bpf_get_current_pid_tgid());
        let asked = name_with(s, config, action, asks as u64 | ((*p).generation as u64) << 16);
        let also = core::ptr::read_unaligned((&raw const (*s).head.also).cast::<u64>());
        (*s).action = name_with(s, config, asked, also);
        0
    }
}

/// Puts into the event what asks about the action besides `first`, each once; whether all of it has room.
#[inline(always)]
unsafe fn others(s: *mut Scratch, first: u16) -> bool {
    // SAFETY: a valid map value; indices are bounded.
    unsafe {
        let also = &raw mut (*s).head.also;
        let asked = (*s).asked;
        let mut i = 0;
        while i < ASKED {
            if i as u32 >= asked {
                break;
            }
            let one = (*s).asks[i];
            if one != first {
                let mut there = false;
                let mut n = 0;
                while n < ALSO {
                    let has = core::ptr::read_volatile((&raw const (*also)[n]).cast::<u16>());
                    if has == 0 {
                        core::ptr::write_volatile((&raw mut (*also)[n]).cast::<u16>(), one);
                    }
                    if has == 0 || has == one {
                        there = true;
                        break;
                    }
                    n += 1;
                }
                if !there {
                    return false;
                }
            }
            i += 1;
        }
        true
    }
}

/// An action that was asked about: just now, or before, and the thread does it again.
#[inline(always)]
unsafe fn waits_still(task: *mut Task, hold: *mut Hold, key: u64, call: u64, h: *mut EventHeader) -> u32 {
    // SAFETY: valid map values.
    unsafe {
        let since = core::ptr::read_volatile(&raw const (*hold).since_ns);
        let answered = answer(key, since);
        if answered != NONE {
            let allow = answered == YES;
            let op = (*hold).op;
            let _ = HOLDS.remove(key);
            let _ = VERDICTS.remove(key);
            // What the same system call was allowed before is over and done with.
            passed(task, if allow { key } else { 0 }, op, call);
            (*task).kept = 0;
            // What is told next happens now.
            (*h).time_ns = now();
            return settled::ANSWERED as u32 | if allow { ALLOW } else { 0 };
        }
        let op = (*hold).op;
        if !stop(hold, key, since) {
            // Nobody waits any more: the daemon sees that it is gone.
            let _ = HOLDS.remove(key);
            count(Stat::CannotWait);
            return settled::CANNOT as u32;
        }
        keep(task, op, call);
        settled::WAITS as u32
    }
}

/// Stops the thread, unless it is answered meanwhile; either way there is a signal, for which the kernel leaves the system call. Whether
/// that could be done.
#[inline(always)]
pub unsafe fn stop(hold: *mut Hold, key: u64, since: u64) -> bool {
    // SAFETY: a valid map value.
    unsafe {
        (*hold).stops = (*hold).stops.wrapping_add(1);
        core::ptr::write_volatile(&raw mut (*hold).flags, HOLD_STOPPED);
        // The second signal is none, but it can be sent only when the first one is there: see `signal`.
        if !signal(SIGSTOP) || !signal(0) {
            return false;
        }
        // Whoever has answered, or has taken the hold away to have it decided anew, may have looked for the mark, or have continued the thread,
        // before. Then it must not stop. Otherwise he does that from now on.
        if answer(key, since) != NONE || HOLDS.get_ptr(key).is_none() {
            signal(SIGCONT);
        }
        true
    }
}

/// What the callback of `bpf_loop` needs.
#[repr(C)]
struct Look {
    key: u64,
    since: u64,
    until: u64,
}

/// Looks for an answer, without a pause, for as long as settings say.
#[inline(always)]
pub unsafe fn spin(key: u64, since: u64) {
    let Some(config) = CONFIG.get_ptr(0) else { return };
    // SAFETY: a valid map value; the callback has this type, and its context outlives the call.
    unsafe {
        let mut ctx = Look { key, since, until: now().wrapping_add((*config).spin_ns as u64) };
        bpf_loop(LOOKS, look_once as *mut c_void, (&raw mut ctx).cast(), 0);
    }
}

/// More looks than there is time for.
const LOOKS: u32 = 1 << 20;

/// One look.
#[inline(never)]
extern "C" fn look_once(_index: u32, ctx: *mut Look) -> i64 {
    // SAFETY: the context is the caller's.
    unsafe {
        if now() > (*ctx).until || answer((*ctx).key, (*ctx).since) != NONE {
            return 1;
        }
        0
    }
}

/// Sends the thread a signal. Where a program cannot be preempted, newer kernels (6.12 and later) send it from an interrupt that
/// the CPU is about to take, and there is room for one: the next one is a moment away.
#[inline(always)]
pub fn signal(number: u32) -> bool {
    let mut ctx = Signal { number, failed: 1 };
    // SAFETY: the callback has this type, and its context outlives the call.
    unsafe {
        bpf_loop(SIGNAL_TRIES, try_signal as *mut c_void, (&raw mut ctx).cast(), 0);
        // The verifier of 6.1 takes what one step leaves for what all leave: see ARCHITECTURE.md.
        opaque(ctx.failed as u64) == 0
    }
}

#[repr(C)]
struct Signal {
    number: u32,
    /// 0 once it is sent.
    failed: u32,
}

/// One try.
#[inline(never)]
extern "C" fn try_signal(_index: u32, ctx: *mut Signal) -> i64 {
    // SAFETY: the context is the caller's.
    unsafe {
        if bpf_send_signal_thread((*ctx).number) == 0 {
            (*ctx).failed = 0;
            return 1;
        }
        0
    }
}

/// Notes what was allowed last.
#[inline(always)]
unsafe fn passed(task: *mut Task, key: u64, op: u8, call: u64) {
    // SAFETY: a valid map value.
    unsafe {
        (*task).passed = key;
        (*task).passed_op = op as u64;
        (*task).passed_call = call;
    }
}

/// A system call is about to be begun anew for its second action: what was allowed of its first one is not asked about again. Not whatever
/// the thread was allowed just before: while the second action waits, a handler of signals could do that once more.
#[inline(always)]
unsafe fn keep(task: *mut Task, op: u8, call: u64) {
    // SAFETY: a valid map value.
    unsafe {
        let same = (*task).passed_op != op as u64 && (*task).passed_call == call;
        (*task).kept = if same { (*task).passed } else { 0 };
    }
}

/// No answer yet.
pub const NONE: u32 = 0;
/// It may happen.
pub const YES: u32 = 1;
/// It may not.
pub const NO: u32 = 2;

/// The answer to a hold: one of the three above.
#[inline(always)]
pub unsafe fn answer(key: u64, since: u64) -> u32 {
    let Some(v) = VERDICTS.get_ptr(key) else { return NONE };
    // SAFETY: a valid map value.
    unsafe {
        if core::ptr::read_volatile(&raw const (*v).since_ns) != since {
            return NONE;
        }
        if core::ptr::read_volatile(&raw const (*v).decision) == Decision::Allow as u32 { YES } else { NO }
    }
}

/// Whether an earlier answer is good for this action; uses it.
#[inline(always)]
fn granted(session: u64, action: u64, now: u64) -> bool {
    let key = GrantKey { session, action };
    let Some(g) = GRANTS.get_ptr_mut(key) else { return false };
    // SAFETY: a valid map value.
    unsafe {
        let g: *mut Grant = g;
        if core::ptr::read_volatile(&raw const (*g).expires_ns) <= now {
            return false;
        }
        let before = core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(
            &raw mut (*g).uses,
            u64::MAX,
        );
        if before == 0 {
            // Used up; others at the same time see the same.
            core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(
                &raw mut (*g).uses,
                1,
            );
            return false;
        }
        // Far from both ends; a number just below zero is one that another is putting right.
        before < u64::MAX / 2
    }
}

/// The number of the system call that the task is in; [`NO_CALL`] where it is in none, or acts for others.
#[inline(always)]
unsafe fn system_call() -> u64 {
    // SAFETY: typed pointers.
    unsafe {
        let task = current();
        let flags: u32 = typed(task, &OFF_TASK_STRUCT_FLAGS);
        if flags & (PF_IO_WORKER | PF_USER_WORKER | PF_KTHREAD) != 0 {
            return NO_CALL;
        }
        let regs = bpf_task_pt_regs(task.cast()) as *const c_void;
        let number: u64 = typed(regs, &OFF_PT_REGS_ORIG_AX);
        let result: i64 = typed(regs, &OFF_PT_REGS_AX);
        if result != -ENOSYS { NO_CALL } else { number }
    }
}

/// Whether a system call can be begun anew.
#[inline(always)]
unsafe fn can_restart(op: u8, number: u64) -> bool {
    // SAFETY: the table's indices are masked.
    unsafe {
        if number >= SYSCALLS as u64 {
            return false;
        }
        let number = opaque(number) as usize & (SYSCALLS - 1);
        let row = &raw const RESTARTABLE[op as usize & (OPERATIONS - 1)];
        let word = core::ptr::read_volatile(row.cast::<u64>().add(number / 64));
        word >> (number % 64) & 1 != 0
    }
}

const _: () = assert!(ALSO * size_of::<u16>() == 8, "read as one word");

/// State of the hash, in the scratch buffer.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Sip {
    v: [u64; 4],
    /// Words hashed.
    words: u64,
}

/// One round of SipHash (Aumasson and Bernstein, 2012).
#[inline(always)]
unsafe fn round(h: *mut Sip) {
    // SAFETY: `h` is in a valid map value.
    unsafe {
        let [mut a, mut b, mut c, mut d] = (*h).v;
        a = a.wrapping_add(b);
        b = b.rotate_left(13) ^ a;
        a = a.rotate_left(32);
        c = c.wrapping_add(d);
        d = d.rotate_left(16) ^ c;
        a = a.wrapping_add(d);
        d = d.rotate_left(21) ^ a;
        c = c.wrapping_add(b);
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
        (*h).v = [a, b, c, d];
    }
}

#[inline(always)]
unsafe fn word(h: *mut Sip, m: u64) {
    // SAFETY: as in `round`.
    unsafe {
        (*h).v[3] ^= m;
        round(h);
        round(h);
        (*h).v[0] ^= m;
        (*h).words += 1;
    }
}

#[inline(always)]
unsafe fn begin(h: *mut Sip, config: *const Config) {
    // SAFETY: valid map values.
    unsafe {
        let [k0, k1] = (*config).hold_key;
        (*h).v = [
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ];
        (*h).words = 0;
    }
}

#[inline(always)]
unsafe fn finish(h: *mut Sip) -> u64 {
    // SAFETY: as in `round`.
    unsafe {
        let length = (*h).words << 59;
        word(h, length);
        (*h).v[2] ^= 0xff;
        round(h);
        round(h);
        round(h);
        round(h);
        let [a, b, c, d] = (*h).v;
        let name = a ^ b ^ c ^ d;
        // 0 is no name.
        if name == 0 { 1 } else { name }
    }
}

/// Flags of an event that are of the action itself, and not of what is known about its object.
const OF_ACTION: u16 = FLAG_ALSO_READ | FLAG_ABSTRACT | FLAG_EXCHANGE;

/// Names what an action is about: a keyed hash over its object and its paths, or its address.
#[inline(always)]
unsafe fn name_object(s: *mut Scratch, config: *const Config, op: u8) -> u64 {
    // SAFETY: valid map values; positions are masked.
    unsafe {
        let h = &raw const (*s).head;
        let sip = &raw mut (*s).sip;
        begin(sip, config);
        let address = op == Operation::Connect as u8
            || op == Operation::Send as u8
            || op == Operation::Bind as u8
            || op == Operation::Listen as u8
            || op == Operation::Accept as u8;
        let addr = (&raw const (*h).addr).cast::<u64>();
        word(sip, core::ptr::read_unaligned(addr));
        word(sip, core::ptr::read_unaligned(addr.add(1)));
        word(sip, (*h).port as u64);
        if !address {
            // What follows an address are the names by which it is known, and those may change.
            word(sip, (*h).object.ino);
            word(sip, (*h).object.dev as u64);
            word(sip, (*h).path_len as u64 | ((*h).path2_len as u64) << 16 | ((*h).args_len as u64) << 32);
            let mut ctx = Text { s };
            let bytes = (END as u32).wrapping_sub((*s).pos);
            bpf_loop(bytes.wrapping_add(7) / 8, hash_text as *mut c_void, (&raw mut ctx).cast(), 0);
        }
        finish(sip)
    }
}

/// Names a system call and what it is about: the same call that is begun anew has the same name, and so has only one that is made in the
/// same place with the same arguments.
#[inline(always)]
unsafe fn name_call(s: *mut Scratch, config: *const Config, about: u64) -> u64 {
    // SAFETY: valid map values, and a typed pointer.
    unsafe {
        let sip = &raw mut (*s).sip;
        let regs = bpf_task_pt_regs(current().cast()) as *const c_void;
        begin(sip, config);
        word(sip, about);
        word(sip, typed(regs, &OFF_PT_REGS_ORIG_AX));
        word(sip, typed(regs, &OFF_PT_REGS_IP));
        word(sip, typed(regs, &OFF_PT_REGS_SP));
        word(sip, typed(regs, &OFF_PT_REGS_DI));
        word(sip, typed(regs, &OFF_PT_REGS_SI));
        word(sip, typed(regs, &OFF_PT_REGS_DX));
        word(sip, typed(regs, &OFF_PT_REGS_R10));
        word(sip, typed(regs, &OFF_PT_REGS_R8));
        word(sip, typed(regs, &OFF_PT_REGS_R9));
        finish(sip)
    }
}

/// Names an action: a keyed hash over all that it is, whichever thread does it.
#[inline(always)]
unsafe fn name_action(s: *mut Scratch, config: *const Config, about: u64, what: u32, session: u64) -> u64 {
    // SAFETY: valid map values.
    unsafe {
        let h = &raw const (*s).head;
        let sip = &raw mut (*s).sip;
        begin(sip, config);
        word(sip, about);
        word(sip, session);
        word(sip, (what & 0xffff) as u64 | ((*h).flags & OF_ACTION) as u64 | ((*h).protocol as u64) << 32);
        word(sip, (*h).family as u64 | ((*h).sock_type as u64) << 32);
        word(sip, (*h).arg);
        finish(sip)
    }
}

/// Names what has that name, and something else: the action of one thread, the action as some asked about it.
#[inline(always)]
pub unsafe fn name_with(s: *mut Scratch, config: *const Config, name: u64, and: u64) -> u64 {
    // SAFETY: valid map values.
    unsafe {
        let sip = &raw mut (*s).sip;
        begin(sip, config);
        word(sip, name);
        word(sip, and);
        finish(sip)
    }
}

/// What the callback of `bpf_loop` needs.
#[repr(C)]
struct Text {
    s: *mut Scratch,
}

/// Hashes a word of the event's variable part, from its end.
#[inline(never)]
extern "C" fn hash_text(index: u32, ctx: *mut Text) -> i64 {
    // SAFETY: the context is the caller's; the mask keeps the index inside.
    unsafe {
        let s = (*ctx).s;
        if s.is_null() {
            return 1;
        }
        let end = (END as u32).wrapping_sub(index.wrapping_mul(8));
        let pos = (*s).pos;
        let at = end.wrapping_sub(8) & 16383 & !7;
        let buf = (&raw const (*s).buf).cast::<u8>();
        let mut m = core::ptr::read_volatile(buf.add(at as usize).cast::<u64>());
        // Bytes before the first one are left over from another event.
        let before = pos.wrapping_sub(at);
        if before < 8 {
            m >>= (before & 7) * 8;
        }
        word(&raw mut (*s).sip, m);
        0
    }
}
