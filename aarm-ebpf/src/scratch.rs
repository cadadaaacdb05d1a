//! Scratch buffers: the walk's state, and the space in which an event grows backwards.
//!
//! Programs may be preempted by others on the same CPU, so a per-CPU buffer alone is not safe, and a buffer
//! for each task costs memory that most never use. So each CPU has [`PER_CPU`] buffers, taken and given back
//! by an atomic exchange; a program keeps the CPU it started on. None free: the action is denied.

use aarm_common::event::EventHeader;
use aarm_common::hold::Hold;
use aarm_common::limits::EVENT_MAX;
use aarm_common::policy::{Bits, Hits};
use aarm_common::state::{Redirect, Stat};
use aya_ebpf::helpers::bpf_get_smp_processor_id;

use crate::decide::Scalars;
use crate::hold::Sip;
use crate::hosts::Dns;
use crate::maps::{SCRATCH, count};
use crate::shares::Spread;

/// Buffers for each CPU: how deeply programs can preempt each other before one is refused.
pub const PER_CPU: u32 = 4;
/// Where events end in [`Scratch::buf`]; they grow towards 0.
pub const END: usize = EVENT_MAX;

/// Facets of one action: six are the most that there are.
pub const ASKED: usize = 8;

/// The object was made, and that was decided by itself.
pub const MADE: u64 = 1;
/// An object without a name was made, and nobody was asked about that.
pub const MADE_NAMELESS: u64 = 2;
/// A connection is being made, and the system call only waits for it.
pub const CONNECTING: u64 = 3;

/// A number of which the verifier knows nothing any more: what depends on it is followed once, and not once for each value that it may
/// have.
///
/// # Safety
/// `s` must be a buffer of our own.
#[inline(always)]
pub unsafe fn forget(s: *mut Scratch, n: u64) -> u64 {
    // SAFETY: by contract.
    unsafe {
        core::ptr::write_volatile(&raw mut (*s).forgotten, n);
        core::ptr::read_volatile(&raw const (*s).forgotten)
    }
}

/// One buffer.
#[repr(C)]
pub struct Scratch {
    /// 1 while taken.
    busy: u64,
    /// Walk: the dentry to look at next.
    pub dentry: u64,
    /// Walk: the mount it begins in (`struct vfsmount *`).
    pub mnt: u64,
    /// Walk: the mount it has come to (`struct mount *`).
    pub mount: u64,
    /// Walk: that mount's parent, the place in it, and the mount's own root dentry.
    pub mount_parent: u64,
    /// See `mount_parent`.
    pub mountpoint: u64,
    /// See `mount_parent`.
    pub root: u64,
    /// Where the event begins so far, in `buf`.
    pub pos: u32,
    /// Where the path being built ends, in `buf`.
    pub path_end: u32,
    /// State of the policy's automaton.
    pub state: u32,
    /// Outcome of the walk: `walk::RUNNING` and the others.
    pub status: u32,
    /// The event's fixed part, filled in by the hook.
    pub head: EventHeader,
    /// The dimensions of the action that are numbers.
    pub scalars: Scalars,
    /// Rules that are satisfied by who acts, and in which session.
    pub who: Bits,
    /// Rules that are satisfied by the object's names.
    pub object: Bits,
    /// `data` entries that match some facet of the action.
    pub data: u64,
    /// Labels that the object carries.
    pub carried: u64,
    /// The object's filesystem (`struct super_block *`) while its home mount is looked for, and that mount.
    pub sb: u64,
    /// See `sb`.
    pub home: u64,
    /// Labels on their way through shared memory.
    pub spread: Spread,
    /// What is known of a DNS message, or of the address whose name is looked for.
    pub dns: Dns,
    /// What asks about the action, facet by facet, as `hold::Asks`.
    pub asks: [u16; ASKED],
    /// How many of them.
    pub asked: u32,
    /// Zero.
    pub reserved: u32,
    /// See [`forget`].
    pub forgotten: u64,
    /// What the system call has done already, one of the three above; 0: nothing.
    pub already: u64,
    /// Name of an action that is asked about, as done by one thread.
    pub hold: u64,
    /// Name of the same, whichever thread does it, as asked about by the same rules.
    pub action: u64,
    /// Name of the system call, and of what it is about, whatever it does to that.
    pub call: u64,
    /// What is put into `HOLDS`.
    pub waits: Hold,
    /// Where the action is redirected to.
    pub redirect: Redirect,
    /// State of the hash that names an action which waits.
    pub sip: Sip,
    /// Globs that match the names walked. Zeros while `hit` is 0.
    pub hits: Hits,
    /// Not 0: something is in `hits`. Mostly nothing is, and nothing need be cleared or gathered.
    pub hit: u64,
    /// The event: used from `pos` to [`END`]. Twice as long, because the verifier bounds position and
    /// length apart from each other.
    pub buf: [u8; 2 * END],
}

/// Zeroes `T`, a multiple of 8 bytes, word by word. Volatile, because the compiler would otherwise call a `memset`
/// that goes byte by byte.
///
/// # Safety
/// `to` must be valid for writes and aligned to 8 bytes.
#[inline(always)]
pub unsafe fn zero<T>(to: *mut T) {
    let to = to.cast::<u64>();
    let mut w = 0;
    while w < size_of::<T>() / 8 {
        // SAFETY: inside `T`, by the caller's word.
        unsafe { core::ptr::write_volatile(to.add(w), 0) };
        w += 1;
    }
}

/// Copies `T`, a multiple of 8 bytes, word by word, for the same reason as [`zero`].
///
/// # Safety
/// Both must be valid, aligned to 8 bytes, and not overlap.
#[inline(always)]
pub unsafe fn copy<T>(from: *const T, to: *mut T) {
    let (from, to) = (from.cast::<u64>(), to.cast::<u64>());
    let mut w = 0;
    while w < size_of::<T>() / 8 {
        // SAFETY: inside `T`, by the caller's word.
        unsafe { core::ptr::write_volatile(to.add(w), core::ptr::read_volatile(from.add(w))) };
        w += 1;
    }
}

/// Empties the hits.
///
/// # Safety
/// `s` must be a valid map value that is ours.
#[inline(always)]
pub unsafe fn no_hits(s: *mut Scratch) {
    // SAFETY: by the caller's word.
    unsafe {
        if (*s).hit != 0 {
            zero(&raw mut (*s).hits);
            (*s).hit = 0;
        }
    }
}

/// Takes a free buffer; gives it and its index, by which the programs' own functions find it again.
#[inline(always)]
pub fn take() -> Option<(*mut Scratch, u32)> {
    // SAFETY: the helper has no preconditions.
    let base = unsafe { bpf_get_smp_processor_id() } * PER_CPU;
    let mut i = 0;
    while i < PER_CPU {
        if let Some(s) = SCRATCH.get_ptr_mut(base + i) {
            // SAFETY: a valid map value; the exchange is what makes it ours.
            if unsafe {
                core::intrinsics::atomic_xchg::<u64, { core::intrinsics::AtomicOrdering::SeqCst }>(
                    &raw mut (*s).busy,
                    1,
                )
            } == 0
            {
                // SAFETY: ours now.
                unsafe {
                    (*s).pos = END as u32;
                    core::ptr::write_volatile(&raw mut (*s).data, 0);
                    core::ptr::write_volatile(&raw mut (*s).carried, 0);
                    core::ptr::write_volatile(&raw mut (*s).already, 0);
                    core::ptr::write_volatile(&raw mut (*s).asked, 0);
                    zero(&raw mut (*s).head);
                }
                return Some((s, base + i));
            }
        }
        i += 1;
    }
    count(Stat::ScratchBusy);
    None
}

/// Gives a buffer back.
#[inline(always)]
pub fn give(s: *mut Scratch) {
    // SAFETY: it was taken, so it is a valid map value that nobody else writes.
    unsafe { core::ptr::write_volatile(&raw mut (*s).busy, 0) };
}
