//! Labels through memory that sessions share.
//!
//! What is mapped shared is written and read without any hook. So each object (file, memfd, segment of System V) that a
//! session maps is written down with the sessions that map it and those that may write to it, and each session's objects as a
//! list. When a session gets labels, they go at once to all objects that it may write to, from there to all sessions that
//! map these, and so on until nothing is new ([`aarm_spread`]). When an object gets labels from somebody who writes to it in the
//! ordinary way, they go on to who maps it ([`aarm_carry`]).
//!
//! Who notes a mapping looks at labels afterwards, and who adds labels looks at mappings afterwards: so one of the two sees
//! the other. Nothing is taken out while the session lives: what it unmaps, it may have copied. The last task of a session
//! takes out all of it ([`aarm_unshare`]). Must never: miss a label silently; what cannot be noted or passed on is refused.

use aarm_common::event::Cause;
use aarm_common::limits::*;
use aarm_common::state::*;
use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_ebpf::helpers::generated::bpf_loop;
use core::ffi::c_void;
use core::intrinsics::AtomicOrdering::SeqCst;
use core::intrinsics::{atomic_and, atomic_cxchg, atomic_or, atomic_xadd};

use crate::kernel::opaque;
use crate::maps::{CARRIED, CARRIES, SESSIONS, SHARED, SHARES, count};
use crate::scratch::{self, Scratch};

const WORD_MASK: usize = SESSION_WORDS - 1;
const _: () = assert!(SESSION_WORDS.is_power_of_two());
/// Steps of one spreading: each list entry and each session once.
const SPREAD_STEPS: u32 = SHARES_MAX + 2 * aarm_common::limits::SESSIONS as u32;
/// Tries to note a mapping of an object that another session is just leaving.
const SHARE_TRIES: u32 = 16;

/// Labels on their way: in a scratch buffer, because results of a loop of several steps belong into a map value.
#[repr(C)]
pub struct Spread {
    /// Session whose objects are looked at, and how many it has.
    session: u64,
    index: u64,
    count: u64,
    /// 1: all were reached. 2: something could not be kept.
    status: u64,
    /// Sessions to be looked at, and those that were, a bit for each slot.
    todo: [u64; SESSION_WORDS],
    done: [u64; SESSION_WORDS],
}

/// An object that nobody maps yet. Not on the stack, which is short.
static NOBODY: Shared = Shared { sessions: 0, mappers: [0; SESSION_WORDS], writers: [0; SESSION_WORDS] };

const REACHED: u64 = 1;
const FAILED: u64 = 2;

/// What the callback of `bpf_loop` needs.
#[repr(C)]
struct Way {
    s: *mut Scratch,
    labels: u64,
}

#[inline(always)]
fn key(ino: u64, dev_generation: u64) -> ObjectKey {
    ObjectKey { ino, dev: dev_generation as u32, generation: (dev_generation >> 32) as u32 }
}

/// An object's key as two numbers, for the functions below: see `walk`.
#[inline(always)]
fn numbers(key: ObjectKey) -> (u64, u64) {
    (key.ino, (key.generation as u64) << 32 | key.dev as u64)
}

/// Lets an object carry labels. Fails if there is no room.
#[inline(always)]
fn put(key: ObjectKey, labels: u64) -> Result<(), ()> {
    if let Some(has) = CARRIED.get_ptr_mut(key) {
        // SAFETY: a valid map value.
        unsafe {
            if core::ptr::read_volatile(has) & labels != labels {
                atomic_or::<u64, u64, { SeqCst }>(has, labels);
            }
        }
        return Ok(());
    }
    if CARRIED.insert(key, labels, BPF_NOEXIST as u64).is_err() {
        // Another one may have been faster.
        let Some(has) = CARRIED.get_ptr_mut(key) else { return Err(()) };
        // SAFETY: a valid map value.
        unsafe { atomic_or::<u64, u64, { SeqCst }>(has, labels) };
    }
    if let Some(n) = CARRIES.get_ptr_mut(0) {
        // SAFETY: a valid map value.
        unsafe { core::ptr::write_volatile(n, 1) };
    }
    Ok(())
}

/// The sessions that map an object are to be looked at.
#[inline(always)]
unsafe fn reach(s: *mut Scratch, shared: *const Shared) {
    let mut w = 0;
    while w < SESSION_WORDS {
        // SAFETY: both are valid map values; the index is inside.
        unsafe {
            let new = core::ptr::read_volatile(&raw const (*shared).mappers[w]) & !(*s).spread.done[w];
            (*s).spread.todo[w] |= new;
        }
        w += 1;
    }
}

/// One object of the session at hand, or the next session.
#[inline(never)]
extern "C" fn spread_step(_index: u32, way: *mut Way) -> i64 {
    // SAFETY: the context is the caller's; the buffer in it is a map value.
    unsafe {
        let (s, labels) = ((*way).s, (*way).labels);
        if s.is_null() {
            return 1;
        }
        let p = &raw mut (*s).spread;
        let index = (*p).index;
        if index < (*p).count {
            (*p).index = index + 1;
            let session = (*p).session;
            // Not there yet, or not writable yet: who is just noting it looks at the labels afterwards.
            let Some(object) = SHARES.get_ptr(ShareKey { session, n: index }) else { return 0 };
            let object = *object;
            let Some(shared) = SHARED.get_ptr(object) else { return 0 };
            let slot = session_slot(session);
            let word = core::ptr::read_volatile(&raw const (*shared).writers[slot as usize >> 6 & WORD_MASK]);
            if word >> (slot & 63) & 1 == 0 {
                return 0;
            }
            if put(object, labels).is_err() {
                (*p).status = FAILED;
                return 1;
            }
            let Some(shared) = SHARED.get_ptr(object) else { return 0 };
            reach(s, shared);
            return 0;
        }
        let mut w = 0;
        while w < SESSION_WORDS {
            if (*p).todo[w] != 0 {
                break;
            }
            w += 1;
        }
        if w == SESSION_WORDS {
            (*p).status = REACHED;
            return 1;
        }
        let w = opaque(w as u64) as usize & WORD_MASK;
        let bit = (*p).todo[w] & (*p).todo[w].wrapping_neg();
        (*p).todo[w] &= !bit;
        (*p).done[w] |= bit;
        let slot = (w as u32) << 6 | bit.trailing_zeros();
        let Some(session) = SESSIONS.get_ptr_mut(slot) else { return 0 };
        crate::context::add_labels(session, labels);
        (*p).session = session_id(slot, (*session).generation);
        (*p).index = 0;
        let count = core::ptr::read_volatile(&raw const (*session).shares);
        (*p).count = if count > SESSION_SHARES_MAX { SESSION_SHARES_MAX } else { count } as u64;
        0
    }
}

/// Passes labels on to everything that can be reached from the sessions to be looked at. Whether that was possible.
#[inline(always)]
unsafe fn spread(s: *mut Scratch, labels: u64) -> bool {
    let mut way = Way { s, labels };
    // SAFETY: the callback has this type, and its context outlives the call.
    unsafe {
        bpf_loop(SPREAD_STEPS, spread_step as *mut c_void, (&raw mut way).cast(), 0);
        (*s).spread.status == REACHED
    }
}

/// Runs `body` with an empty [`Spread`].
#[inline(always)]
fn spreading(body: impl FnOnce(*mut Scratch) -> bool) -> u32 {
    let Some((s, _)) = scratch::take() else { return 1 };
    // SAFETY: ours.
    unsafe { scratch::zero(&raw mut (*s).spread) };
    let done = body(s);
    scratch::give(s);
    if done { 0 } else { 1 }
}

/// Gives labels to a session that shares memory, and these and those that it has to whatever it reaches by that. Returns 0, or 1
/// if something could not be kept: then the session owes it. Takes numbers only, see `walk`.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn aarm_spread(slot: u32, labels: u64) -> u32 {
    let Some(session) = SESSIONS.get_ptr_mut(slot) else { return 1 };
    // SAFETY: valid map values; the buffer is ours.
    unsafe {
        if !any(session) {
            return 0;
        }
        let has = &raw const (*session).labels;
        let all = labels | core::ptr::read_volatile(has);
        let failed = spreading(|s| {
            (*s).spread.todo[slot as usize >> 6 & WORD_MASK] = 1 << (slot & 63);
            spread(s, all)
        });
        let flags = &raw mut (*session).flags;
        if failed != 0 {
            count(Stat::NoMemory);
            atomic_or::<u32, u32, { SeqCst }>(flags, SESSION_OWES_LABELS);
        } else if owes(session) && core::ptr::read_volatile(has) == all {
            atomic_and::<u32, u32, { SeqCst }>(flags, !SESSION_OWES_LABELS);
        }
        failed
    }
}

/// Lets an object carry labels, and gives them to who maps it. Returns 0, or 1 if something could not be kept. Takes numbers
/// only, see `walk`.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn aarm_carry(ino: u64, dev_generation: u64, labels: u64) -> u32 {
    let object = key(ino, dev_generation);
    if put(object, labels).is_err() {
        return 1;
    }
    // Also where it had them already: the last time, they may not have come through.
    if SHARED.get_ptr(object).is_none() {
        return 0;
    }
    // SAFETY: the buffer is ours, the other a valid map value.
    spreading(|s| unsafe {
        let Some(shared) = SHARED.get_ptr(object) else { return true };
        reach(s, shared);
        spread(s, labels)
    })
}

/// Notes that a session maps an object, and whether it may write to it. Returns 0, or 1 if it could not be noted. Takes numbers
/// only, see `walk`.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn aarm_share(ino: u64, dev_generation: u64, slot: u32, writes: u32) -> u32 {
    let object = key(ino, dev_generation);
    let Some(session) = SESSIONS.get_ptr_mut(slot) else { return 1 };
    let (word, bit) = (slot as usize >> 6 & WORD_MASK, 1u64 << (slot & 63));
    let mut tries = 0;
    // SAFETY: valid map values; masks keep indices inside.
    unsafe {
        let id = session_id(slot, (*session).generation);
        let mut listed = false;
        while tries < SHARE_TRIES {
            tries += 1;
            if SHARED.get_ptr(object).is_none() {
                let _ = SHARED.insert(object, &NOBODY, BPF_NOEXIST as u64);
            }
            let Some(shared) = SHARED.get_ptr_mut(object) else { return 1 };
            if core::ptr::read_volatile(&raw const (*shared).mappers[word]) & bit == 0 {
                if !listed {
                    // First of all: what is in no list is never taken out.
                    let n = atomic_xadd::<u32, u32, { SeqCst }>(&raw mut (*session).shares, 1);
                    if n >= SESSION_SHARES_MAX
                        || SHARES.insert(ShareKey { session: id, n: n as u64 }, object, BPF_ANY as u64).is_err()
                    {
                        return 1;
                    }
                    listed = true;
                }
                let before = atomic_xadd::<u64, u64, { SeqCst }>(&raw mut (*shared).sessions, 1);
                if before & SHARED_GONE != 0 {
                    // The last one to map it is just taking it out.
                    continue;
                }
                let had = atomic_or::<u64, u64, { SeqCst }>(&raw mut (*shared).mappers[word], bit);
                if had & bit != 0 {
                    // Another task of the session was faster.
                    atomic_xadd::<u64, u64, { SeqCst }>(&raw mut (*shared).sessions, u64::MAX);
                }
            }
            // What was removed in between may be another object's by now. With the session in it, it stays.
            let Some(shared) = SHARED.get_ptr_mut(object) else { continue };
            if core::ptr::read_volatile(&raw const (*shared).mappers[word]) & bit == 0 {
                continue;
            }
            if writes != 0 {
                atomic_or::<u64, u64, { SeqCst }>(&raw mut (*shared).writers[word], bit);
            }
            return 0;
        }
    }
    1
}

/// One entry of the list of a session that has ended.
#[inline(never)]
extern "C" fn unshare_step(index: u32, session: *mut u64) -> i64 {
    // SAFETY: the context is the caller's; map values are checked for null before use.
    unsafe {
        let id = *session;
        let entry = ShareKey { session: id, n: index as u64 };
        let Some(object) = SHARES.get_ptr(entry) else { return 0 };
        let object = *object;
        if let Some(shared) = SHARED.get_ptr_mut(object) {
            let slot = session_slot(id);
            let (word, bit) = (slot as usize >> 6 & WORD_MASK, 1u64 << (slot & 63));
            atomic_and::<u64, u64, { SeqCst }>(&raw mut (*shared).writers[word], !bit);
            let had = atomic_and::<u64, u64, { SeqCst }>(&raw mut (*shared).mappers[word], !bit);
            if had & bit != 0
                && atomic_xadd::<u64, u64, { SeqCst }>(&raw mut (*shared).sessions, u64::MAX) == 1
                && atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(&raw mut (*shared).sessions, 0, SHARED_GONE).1
            {
                let _ = SHARED.remove(object);
            }
        }
        let _ = SHARES.remove(entry);
        0
    }
}

/// Forgets what a session maps that has ended: nobody maps anything for it any more. Takes numbers only, see `walk`.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn aarm_unshare(slot: u32) -> u32 {
    let Some(session) = SESSIONS.get_ptr(slot) else { return 1 };
    // SAFETY: a valid map value; the callback has this type, and its context outlives the call.
    unsafe {
        let mut id = session_id(slot, (*session).generation);
        let mut count = core::ptr::read_volatile(&raw const (*session).shares);
        if count > SESSION_SHARES_MAX {
            count = SESSION_SHARES_MAX;
        }
        bpf_loop(count, unshare_step as *mut c_void, (&raw mut id).cast(), 0);
    }
    0
}

/// Whether the session maps anything that others may map.
///
/// # Safety
/// `session` must be a valid map value.
#[inline(always)]
pub unsafe fn any(session: *const Session) -> bool {
    // SAFETY: by the caller's word.
    unsafe { core::ptr::read_volatile(&raw const (*session).shares) != 0 }
}

// What the functions above return is 0 or 1 to the compiler, and any number to the verifier: hence `opaque`, see `kernel`.

/// [`aarm_share`] for a key.
#[inline(always)]
pub fn share(object: ObjectKey, slot: u32, writes: bool) -> Result<(), Cause> {
    let (ino, rest) = numbers(object);
    if opaque(aarm_share(ino, rest, slot, writes as u32) as u64) != 0 { Err(Cause::NoMemory) } else { Ok(()) }
}

/// [`aarm_spread`] for a session's id. Whether that was possible.
#[inline(always)]
pub fn pass_on(session: u64, labels: u64) -> bool {
    opaque(aarm_spread(session_slot(session), labels) as u64) == 0
}

/// Whether labels of the session could not be passed on yet.
///
/// # Safety
/// As for [`any`].
#[inline(always)]
pub unsafe fn owes(session: *const Session) -> bool {
    // SAFETY: by the caller's word.
    unsafe { core::ptr::read_volatile(&raw const (*session).flags) & SESSION_OWES_LABELS != 0 }
}

/// [`aarm_carry`] for a key.
#[inline(always)]
pub fn carry(object: ObjectKey, labels: u64) -> Result<(), Cause> {
    let (ino, rest) = numbers(object);
    if opaque(aarm_carry(ino, rest, labels) as u64) != 0 { Err(Cause::NoMemory) } else { Ok(()) }
}
