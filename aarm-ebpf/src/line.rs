//! Programs whose command line decides whether they run.
//!
//! A command line cannot be decided where a program is asked for: another thread may still change it. So an exec that some rule asks
//! the command line of goes on until the new image is in place, and stops there, before its first instruction. What the rules'
//! other predicates say was found when it was asked for, and is kept in `LINES` for the daemon, which reads the command line and
//! decides. Then the image runs, or is killed.
//!
//! Whatever continues it: [`watch`] is called when a task has taken its signals and is about to return to its program, and stops it
//! again while nothing is decided. Should that ever be missed, `context::prepare` refuses whatever it does. Nor does anybody of a session
//! attach to it meanwhile, or write its memory: what is decided, and shown to people, is what runs.

use aarm_common::event::*;
use aarm_common::hold::{HOLD_STOPPED, Hold, LINE_ROUNDS, Lines};
use aarm_common::limits::{DATA_WORD, LINE_LOOK_NS, RULE_WORDS};
use aarm_common::op::{Decision, Operation};
use aarm_common::policy::MODE_AUDIT;
use aarm_common::state::{ObjectId, Stat, Task, session_slot};
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use core::ffi::c_void;

use crate::decide::{Shape, matching};
use crate::emit::{aarm_emit, now};
use crate::hold::{self, SIGCONT, SIGSTOP, signal};
use crate::kernel::*;
use crate::maps::*;
use crate::scratch::Scratch;
use crate::walk::{self, walk};

const SIGKILL: u32 = 9;

/// Nothing found yet.
static NOTHING: Lines =
    Lines { rounds: 0, conditions: 0, subjects: 0, reserved: 0, labels: 0, matched: [[0; RULE_WORDS]; LINE_ROUNDS], unsure: [[0; RULE_WORDS]; LINE_ROUNDS], objects: [ObjectId { ino: 0, dev: 0, mode: 0 }; LINE_ROUNDS] };

/// A task asks for a program. Of a script and its interpreter the hook sees both, one after the other.
#[inline(always)]
pub unsafe fn asked(task: *mut Task, bprm: *const c_void) {
    // SAFETY: a valid map value; the kernel pointer is typed.
    unsafe {
        let first = typed::<u64>(bprm, &OFF_LINUX_BINPRM_INTERP) == typed::<u64>(bprm, &OFF_LINUX_BINPRM_FILENAME);
        if first {
            forget(task);
        }
    }
}

/// What was asked for did not come to be.
#[inline(always)]
pub unsafe fn forget(task: *mut Task) {
    // SAFETY: a valid map value.
    unsafe {
        let key = (*task).line_key;
        if key != 0 {
            let _ = LINES.remove(key);
            (*task).line_key = 0;
        }
    }
}

/// Keeps what is known of a program whose command line decides: of the object in the scratch buffer, which the event is about.
/// `rule`: the first that asks for it. Returns 0, or 1 if there is no room. Takes numbers only, see `walk`.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn aarm_line(scratch: u32, slot: u32, rule: u32) -> u32 {
    let Some(s) = SCRATCH.get_ptr_mut(scratch) else { return 1 };
    let Some(p) = POLICIES.get_ptr(slot) else { return 1 };
    let Some(config) = CONFIG.get_ptr(0) else { return 1 };
    let task = TASKS.get(current());
    if task.is_null() {
        return 1;
    }
    // SAFETY: valid map values; indices are bounded.
    unsafe {
        let h = &raw mut (*s).head;
        if (*task).line_key == 0 {
            let key = hold::name_with(s, config, (*h).time_ns, bpf_get_current_pid_tgid());
            if LINES.insert(key, &NOTHING, BPF_NOEXIST as u64).is_err() {
                return 1;
            }
            (*task).line_key = key;
            (*task).line_rule = rule as u64;
        }
        let key = (*task).line_key;
        let Some(lines) = LINES.get_ptr_mut(key) else { return 1 };
        let round = opaque((*lines).rounds as u64) as usize;
        if round >= LINE_ROUNDS {
            return 1;
        }
        let mut w = 0;
        while w < DATA_WORD {
            (*lines).matched[round][w] = matching(s, p, Operation::Exec as usize, Shape::Object as u32, w);
            // Of conditions that are all known nothing is kept.
            (*lines).unsure[round][w] = if (*h).subjects >> 16 != 0 { (*task).unsure[w] } else { 0 };
            w += 1;
        }
        (*lines).objects[round] = (*h).object;
        (*lines).rounds = round as u32 + 1;
        (*lines).conditions = (*h).conditions;
        (*lines).subjects = (*h).subjects;
        (*lines).labels = (*h).labels;
        (*h).hold = key;
        0
    }
}

/// The image is in place, or will be as soon as the kernel has loaded it: it must not run. The signal is taken on the way to its
/// first instruction.
#[inline(always)]
pub unsafe fn begin(task: *mut Task) {
    // SAFETY: valid map values.
    unsafe {
        let key = (*task).line_key;
        if key == 0 {
            return;
        }
        let session = (*task).session;
        let Some(s) = SESSIONS.get_ptr(session_slot(session)) else { return kill(task) };
        let Some(policy) = POLICIES.get_ptr((*s).policy) else { return kill(task) };
        if (*policy).mode == MODE_AUDIT {
            return;
        }
        let thread = bpf_get_current_pid_tgid();
        let hold = Hold {
            since_ns: now(),
            session,
            action: key,
            pid: (thread >> 32) as u32,
            tid: thread as u32,
            policy: (*task).exec_generation,
            flags: HOLD_STOPPED,
            rule: (*task).line_rule as u16,
            op: Operation::ExecArgs as u8,
            decision: Decision::Defer as u8,
            stops: 1,
        };
        (*task).line_hold = key;
        if HOLDS.insert(key, hold, BPF_NOEXIST as u64).is_err() || !signal(SIGSTOP) {
            count(Stat::NoMemory);
            kill(task);
        }
    }
}

/// Whether a task's image waits for its decision; the task is given by typed pointer.
#[inline(always)]
pub fn is_undecided(task: *mut c_void) -> bool {
    let task = if task.is_null() { core::ptr::null_mut() } else { TASKS.get(task) };
    // SAFETY: a valid map value.
    !task.is_null() && unsafe { (*task).line_hold } != 0
}

/// Nobody could decide it.
#[inline(always)]
unsafe fn kill(task: *mut Task) {
    // SAFETY: a valid map value.
    unsafe {
        (*task).line_hold = u64::MAX;
        signal(SIGKILL);
    }
}

/// Tells the daemon what to decide: the event in the buffer has the arguments and the working directory. Nobody is told in vain:
/// where the ring has no room, the daemon finds the hold, and refuses it.
#[inline(always)]
pub unsafe fn tell(s: *mut Scratch, scratch: u32, slot: u32, task: *mut Task) {
    // SAFETY: valid map values; kernel pointers are typed.
    unsafe {
        let key = (*task).line_key;
        if key == 0 {
            return;
        }
        (*task).line_key = 0;
        // From here on it refuses: see `context::prepare`.
        (*task).who_generation = 0;
        let held = (*task).line_hold == key;
        let traced = typed::<u32>(current(), &OFF_TASK_STRUCT_PTRACE) != 0;
        let h = &raw mut (*s).head;
        let mm: *const c_void = typed(current(), &OFF_TASK_STRUCT_MM);
        if !mm.is_null() {
            let file: *const c_void = typed(mm, &OFF_MM_STRUCT_EXE_FILE);
            if !file.is_null() {
                let end = (*s).pos;
                if walk(s, scratch, slot, Place::of_file(file), false) == walk::DONE {
                    (*h).path_len = end.wrapping_sub((*s).pos) as u16;
                } else {
                    (*s).pos = end;
                }
            }
        }
        if held {
            let Some(hold) = HOLDS.get_ptr_mut(key) else { return };
            (*h).time_ns = (*hold).since_ns;
            (*h).flags |= FLAG_HELD;
            if traced {
                (*h).flags |= FLAG_TRACED;
            } else {
                // The stop is taken back below, and `watch` looks for the decision before the next one.
                core::ptr::write_volatile(&raw mut (*hold).flags, 0);
            }
        } else {
            (*h).flags |= FLAG_AUDIT;
        }
        if let Some(lines) = LINES.get_ptr(key) {
            (*h).conditions = (*lines).conditions;
            (*h).subjects = (*lines).subjects;
            (*h).labels = (*lines).labels;
        }
        (*h).kind = Kind::Action as u8;
        (*h).op = Operation::ExecArgs as u8;
        (*h).facet = Operation::ExecArgs as u8;
        (*h).decision = Decision::Defer as u8;
        (*h).cause = Cause::Args as u8;
        (*h).rule = (*task).line_rule as u16;
        (*h).policy = (*task).exec_generation;
        (*h).hold = key;
        if aarm_emit(scratch) != 0 {
            count(Stat::RingFull);
        }
        if held {
            // Somebody may have taken back the first one. That it stops is for `watch` to say, and the second signal leaves nothing but
            // that the kernel asks for signals. Where somebody traces the exec, the kernel forgets that as well, and only a signal that
            // is there makes it ask.
            if !signal(SIGSTOP) || !traced && !signal(SIGCONT) {
                kill(task);
            }
        }
    }
}

/// A task is about to return to its program.
#[inline(always)]
pub fn watch() {
    let task = TASKS.get(current());
    if task.is_null() {
        return;
    }
    // SAFETY: valid map values.
    unsafe {
        let key = (*task).line_hold;
        if key == 0 {
            return;
        }
        let Some(hold) = HOLDS.get_ptr_mut(key) else {
            // Whoever was to decide has given it up.
            return kill(task);
        };
        let since = core::ptr::read_volatile(&raw const (*hold).since_ns);
        match hold::answer(key, since) {
            hold::YES => {
                let _ = HOLDS.remove(key);
                let _ = VERDICTS.remove(key);
                (*task).line_hold = 0;
            }
            hold::NO => {
                let _ = HOLDS.remove(key);
                let _ = VERDICTS.remove(key);
                kill(task);
            }
            _ => {
                if now().wrapping_sub(since) < LINE_LOOK_NS {
                    hold::spin(key, since);
                    // Both signals are of no consequence, but the kernel asks for signals once more, and so comes back here.
                    if signal(SIGSTOP) && signal(SIGCONT) {
                        return;
                    }
                }
                if !hold::stop(hold, key, since) {
                    kill(task);
                }
            }
        }
    }
}

