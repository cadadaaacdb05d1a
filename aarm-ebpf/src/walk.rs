//! The one path walker: from a dentry up to the root of its mount namespace.
//!
//! It goes over mounts through `struct mount`, builds the path backwards into the scratch buffer and feeds
//! the policy's automaton on the way, see `aarm_common::policy` for the protocol. What it promises: for a
//! path of up to `PATH_MAX` bytes, whatever its depth, the exact bytes and the globs that match them; for
//! anything else a status that is not [`DONE`], which callers must turn into a denial.

use aarm_common::limits::{DFA_CELLS, DFA_STATES, HIT_SETS, NAME_MAX, PATH_MAX, RULE_WORDS, WALK_MAX};
use aarm_common::policy::{Hits, Policy};
use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_kernel};
use core::ffi::c_void;

use crate::kernel::*;
use crate::maps::{POLICIES, SCRATCH};
use crate::scratch::{END, Scratch, no_hits};

/// The walk has not reached the root.
pub const RUNNING: u32 = 0;
/// The path is whole.
pub const DONE: u32 = 1;
/// The path has more than `PATH_MAX` bytes.
pub const TOO_LONG: u32 = 2;
/// Kernel memory could not be read.
pub const FAILED: u32 = 3;

/// `d_parent` and the `d_name` that follows it (the daemon checks that it does).
#[derive(Clone, Copy)]
#[repr(C)]
struct DentryHead {
    parent: u64,
    /// `qstr.hash_len`: hash in the low half, length in the high.
    hash_len: u64,
    name: u64,
}

// SAFETY: integers.
unsafe impl Plain for DentryHead {}

/// `mnt_parent`, `mnt_mountpoint` and `mnt.mnt_root` of `struct mount`, which lie in a row (the daemon checks that they do).
#[derive(Clone, Copy)]
#[repr(C)]
struct MountHead {
    parent: u64,
    mountpoint: u64,
    root: u64,
}

// SAFETY: integers.
unsafe impl Plain for MountHead {}

/// What the callback of `bpf_loop` needs; on the stack, because that is the only context it may have.
#[repr(C)]
struct Ctx {
    s: *mut Scratch,
    p: *const Policy,
}

const CELL_MASK: u32 = DFA_CELLS as u32 - 1;
/// Of a state, as an index.
pub const STATE_MASK: u32 = DFA_STATES as u32 - 1;
const HIT_MASK: u32 = HIT_SETS as u32 - 1;
/// Indices into the buffer are kept below its half (a power of two above [`END`]) for the verifier.
const BUF_MASK: u32 = 16383;
const _: () = assert!(END <= BUF_MASK as usize && 2 * END > BUF_MASK as usize + NAME_MAX + 1 - 1024);

/// One step of the automaton.
#[inline(always)]
pub unsafe fn step(p: *const Policy, state: u32, byte: u8) -> u32 {
    // SAFETY: `p` is a valid policy; the masks keep the indices inside.
    unsafe {
        let class = (*p).dfa_class[byte as usize] as u32;
        let cell = (state.wrapping_mul((*p).dfa_stride).wrapping_add(class)) & CELL_MASK;
        (*p).dfa_next[cell as usize] as u32
    }
}

/// Adds a hit set to the result.
#[inline(never)]
pub fn add_hits(s: *mut Scratch, p: *const Policy, hit: u32) {
    if s.is_null() || p.is_null() {
        return;
    }
    // SAFETY: both are map values; the mask keeps the index inside.
    unsafe {
        let from: *const Hits = &raw const (*p).hits[(hit & HIT_MASK) as usize];
        let to = &raw mut (*s).hits;
        (*s).hit = 1;
        let mut w = 0;
        while w < RULE_WORDS {
            (*to).path[w] |= (*from).path[w];
            (*to).not_path[w] |= (*from).not_path[w];
            (*to).exe[w] |= (*from).exe[w];
            (*to).not_exe[w] |= (*from).not_exe[w];
            (*to).above[w] |= (*from).above[w];
            w += 1;
        }
    }
}

/// Feeds the `/` that ends a component (read backwards) and collects what it completes.
#[inline(always)]
pub unsafe fn boundary(s: *mut Scratch, p: *const Policy) {
    // SAFETY: both are valid map values.
    unsafe {
        let state = step(p, (*s).state, b'/');
        (*s).state = state;
        hit(s, p, (*p).hit_boundary[(state & STATE_MASK) as usize] as u32);
    }
}

/// Adds a hit set to the result, unless it is the empty one.
#[inline(always)]
pub unsafe fn hit(s: *mut Scratch, p: *const Policy, hit: u32) {
    if hit != 0 {
        add_hits(s, p, hit);
    }
}

/// One dentry, or one mount.
#[inline(never)]
extern "C" fn step_dentry(_index: u32, ctx: *mut Ctx) -> i64 {
    // SAFETY: the context is the caller's; the pointers in it are map values.
    unsafe {
        let (s, p) = ((*ctx).s, (*ctx).p);
        if s.is_null() || p.is_null() {
            return 1;
        }
        let dentry = (*s).dentry;
        if dentry == (*s).root {
            return cross_mount(s);
        }
        let Ok(head) = read::<DentryHead>(dentry, off(&OFF_DENTRY_D_PARENT)) else {
            (*s).status = FAILED;
            return 1;
        };
        // A tree of its own: an internal filesystem, as of a memfd or a pipe. Its only name is the dentry's.
        let alone = head.parent == dentry;
        if alone && (*s).pos != (*s).path_end {
            (*s).status = DONE;
            return 1;
        }
        let len = (head.hash_len >> 32) as u32;
        let pos = (*s).pos;
        if len > NAME_MAX as u32 {
            (*s).status = FAILED;
            return 1;
        }
        if pos < len + 1 || (*s).path_end - (pos - len - 1) > PATH_MAX as u32 {
            (*s).status = TOO_LONG;
            return 1;
        }
        let start = (pos - len) & BUF_MASK;
        let buf = (&raw mut (*s).buf).cast::<u8>();
        if bpf_probe_read_kernel(buf.add(start as usize).cast(), len, head.name as *const c_void) != 0 {
            (*s).status = FAILED;
            return 1;
        }
        if alone && (len == 0 || *buf.add(start as usize) == b'/') {
            (*s).status = DONE;
            return 1;
        }
        let mut state = (*s).state;
        let last = pos.wrapping_sub(1);
        let mut i = 0;
        while i < NAME_MAX as u32 {
            if i >= len {
                break;
            }
            // Masked at every step, so that the compiler keeps an index and the verifier a bound.
            let at = last.wrapping_sub(i) & BUF_MASK;
            state = step(p, state, *buf.add(at as usize));
            i += 1;
        }
        (*s).state = state;
        let slash = start.wrapping_sub(1) & BUF_MASK;
        *buf.add(slash as usize) = b'/';
        (*s).pos = slash;
        boundary(s, p);
        (*s).dentry = head.parent;
        if alone {
            (*s).status = DONE;
            return 1;
        }
        0
    }
}

/// From the root of a mount to the place it is mounted on.
#[inline(always)]
unsafe fn cross_mount(s: *mut Scratch) -> i64 {
    // SAFETY: `s` is a valid map value.
    unsafe {
        let parent = (*s).mount_parent;
        if parent == (*s).mount || parent == 0 {
            (*s).status = DONE;
            return 1;
        }
        (*s).dentry = (*s).mountpoint;
        if enter_mount(s, parent) { 0 } else { 1 }
    }
}

/// Reads what the walk needs of a mount.
#[inline(always)]
unsafe fn enter_mount(s: *mut Scratch, mount: u64) -> bool {
    // SAFETY: `s` is a valid map value.
    unsafe {
        let Ok(head) = read::<MountHead>(mount, off(&OFF_MOUNT_MNT_PARENT)) else {
            (*s).status = FAILED;
            return false;
        };
        (*s).mount = mount;
        (*s).mount_parent = head.parent;
        (*s).mountpoint = head.mountpoint;
        (*s).root = head.root;
        true
    }
}

/// Walks from a place; the path is put before what the buffer holds already, the globs that match it into `hits`: in
/// place of what is there, or (`also`) beside it. Returns the walk's status.
#[inline(always)]
pub unsafe fn walk(s: *mut Scratch, scratch: u32, slot: u32, place: Place, also: bool) -> u32 {
    // SAFETY: `s` is a valid map value.
    unsafe {
        (*s).mnt = place.mnt;
        (*s).dentry = place.dentry;
    }
    aarm_walk(scratch, slot, also as u32)
}

/// [`walk`] from the place in the scratch buffer. Takes numbers only, so that the verifier checks it by itself, once for each
/// program and not once for each place it is called from.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn aarm_walk(scratch: u32, slot: u32, also: u32) -> u32 {
    let Some(s) = SCRATCH.get_ptr_mut(scratch) else { return FAILED };
    let Some(p) = POLICIES.get_ptr(slot) else { return FAILED };
    // SAFETY: both are valid map values.
    unsafe {
        (*s).path_end = (*s).pos;
        (*s).state = (*p).dfa_start;
        (*s).status = RUNNING;
        if also == 0 {
            no_hits(s);
        }
        let mount = (*s).mnt - off(&OFF_MOUNT_MNT) as u64;
        if !enter_mount(s, mount) {
            return FAILED;
        }
        let mut ctx = Ctx { s, p };
        bpf_loop(WALK_MAX, step_dentry as *mut c_void, (&raw mut ctx).cast(), 0);
        if (*s).status == RUNNING {
            (*s).status = TOO_LONG;
        }
        if (*s).status != DONE {
            return (*s).status;
        }
        if (*s).pos == (*s).path_end {
            // The root directory itself.
            if (*s).pos == 0 {
                return TOO_LONG;
            }
            let slash = ((*s).pos - 1) & BUF_MASK;
            *(&raw mut (*s).buf).cast::<u8>().add(slash as usize) = b'/';
            (*s).pos = slash;
            boundary(s, p);
        }
        hit(s, p, (*p).hit_end[((*s).state & STATE_MASK) as usize] as u32);
        DONE
    }
}

/// What the callback of [`spell`] needs.
#[repr(C)]
struct Spelling {
    s: *mut Scratch,
    p: *const Policy,
    at: u32,
    len: u32,
}

/// Feeds the automaton the `len` bytes of a host's name at `at` in the buffer, as `aarm_common::policy` says, and adds the globs
/// that match it to what is there. A name without a byte satisfies none.
#[inline(always)]
pub unsafe fn spell(s: *mut Scratch, p: *const Policy, at: u32, len: u32) {
    // SAFETY: both are valid map values.
    unsafe {
        (*s).state = (*p).dfa_start;
        let mut ctx = Spelling { s, p, at, len };
        // One step more than bytes: the end.
        bpf_loop(len + 1, spell_byte as *mut c_void, (&raw mut ctx).cast(), 0);
    }
}

#[inline(never)]
extern "C" fn spell_byte(index: u32, ctx: *mut Spelling) -> i64 {
    // SAFETY: the context is the caller's; the pointers in it are map values; masks keep indices inside.
    unsafe {
        let (s, p) = ((*ctx).s, (*ctx).p);
        if s.is_null() || p.is_null() {
            return 1;
        }
        let end = index >= (*ctx).len;
        let byte = (*s).buf[((*ctx).at.wrapping_add(index) & BUF_MASK) as usize];
        if end || byte == b'.' {
            boundary(s, p);
        } else {
            (*s).state = step(p, (*s).state, byte);
        }
        if end {
            let hit = (*p).hit_end[((*s).state & STATE_MASK) as usize] as u32;
            if hit != 0 {
                add_hits(s, p, hit);
            }
        }
        0
    }
}
