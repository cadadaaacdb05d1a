//! The other names of an object.
//!
//! A rule protects an object, whatever name was used. The walk gives the name that was used, of the real object; this module
//! adds what else it is called:
//! - through another mount of the same filesystem: a bind mount, a mount in another namespace, a detached one. Each
//!   filesystem has a *home mount*, the oldest one of its root in the host's namespace; the path through it is the object's
//!   path on the host, found by the dentries alone.
//! - through another hard link: globs met under any name stick to the inode (`LINKED`), and the daemon adds those of the
//!   names it finds when it loads a policy.
//!
//! A positive predicate holds if any name satisfies it; a negated one if none does.

use aarm_common::limits::{DATA_WORD, RULE_WORDS};
use aarm_common::policy::{Hits, Policy};
use aarm_common::state::LinkedKey;
use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::generated::bpf_loop;
use core::ffi::c_void;

use crate::kernel::*;
use crate::known::moves;
use crate::maps::{CONFIG, HOME_MOUNT, LINKED, SCRATCH};
use crate::scratch::Scratch;

/// Mounts of one filesystem looked at; a home mount beyond them is not found.
const MOUNTS_MAX: u32 = 4096;

/// An entry of `HOME_MOUNT`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct HomeMount {
    /// `struct vfsmount *`.
    mnt: u64,
    /// `known::moves` when it was looked for.
    moves: u64,
}

/// What the callback of `bpf_loop` needs.
#[repr(C)]
struct Search {
    /// The mount to look at.
    mount: u64,
    /// Where a list ends.
    end: u64,
    /// The filesystem's root dentry.
    root: u64,
    /// The host's mount namespace.
    namespace: u64,
    /// What was found (`struct vfsmount *`).
    found: u64,
    /// A mount of the root in whatever namespace.
    any: u64,
}

/// The home mount of the filesystem of a typed `struct super_block *`, if it is not `mnt`; else 0.
#[inline(always)]
pub unsafe fn other_home(s: *mut Scratch, scratch: u32, sb: *const c_void, mnt: u64) -> u64 {
    // SAFETY: `s` is a valid map value, `sb` typed.
    unsafe {
        let first = number(typed(sb, &OFF_SUPER_BLOCK_S_MOUNTS), &raw mut (*s).sb);
        let mnt = number(mnt, &raw mut (*s).home);
        if off(&OFF_MOUNT_MNT_INSTANCE) != 0 {
            // A list, oldest first (before 6.18).
            if first.wrapping_sub(off(&OFF_MOUNT_MNT_INSTANCE) as u64) == mnt.wrapping_sub(off(&OFF_MOUNT_MNT) as u64) {
                return 0;
            }
        }
        (*s).sb = sb as u64;
        (*s).home = 0;
        if aarm_home(scratch) == 0 || (*s).home == mnt { 0 } else { (*s).home }
    }
}

/// The home mount of a filesystem, or if it has none some mount of its root; 0 for none at all.
#[inline(always)]
pub unsafe fn some_mount(s: *mut Scratch, scratch: u32, sb: *const c_void) -> u64 {
    // SAFETY: `s` is a valid map value, `sb` typed.
    unsafe {
        (*s).sb = sb as u64;
        (*s).home = 0;
        (*s).mnt = 0;
        if aarm_home(scratch) != 0 { (*s).home } else { (*s).mnt }
    }
}

/// Looks for the home mount of `Scratch::sb`; puts it into `Scratch::home` and returns 1, or 0 if there is none. Takes a
/// number only, see `walk`.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn aarm_home(scratch: u32) -> u32 {
    let Some(s) = SCRATCH.get_ptr_mut(scratch) else { return 0 };
    let Some(config) = CONFIG.get_ptr(0) else { return 0 };
    // SAFETY: valid map values.
    unsafe {
        let sb = (*s).sb;
        let now = moves();
        if let Some(known) = HOME_MOUNT.get_ptr(sb)
            && now != 0
            && (*known).moves == now
            && (*known).mnt != 0
        {
            (*s).home = (*known).mnt;
            return 1;
        }
        let (Ok(first), Ok(root)) =
            (read::<u64>(sb, off(&OFF_SUPER_BLOCK_S_MOUNTS)), read::<u64>(sb, off(&OFF_SUPER_BLOCK_S_ROOT)))
        else {
            return 0;
        };
        let list = off(&OFF_MOUNT_MNT_INSTANCE) as u64;
        let mut search = Search {
            mount: first.wrapping_sub(list),
            end: if list != 0 { (sb + off(&OFF_SUPER_BLOCK_S_MOUNTS) as u64).wrapping_sub(list) } else { 0 },
            root,
            namespace: (*config).mount_namespace as u64,
            found: 0,
            any: 0,
        };
        bpf_loop(MOUNTS_MAX, look_at_mount as *mut c_void, (&raw mut search).cast(), 0);
        let found = search.found;
        if now != 0 && found != 0 {
            let entry = HomeMount { mnt: found, moves: now };
            let _ = HOME_MOUNT.insert(sb, entry, BPF_ANY as u64);
        }
        (*s).home = found;
        if found == 0 {
            (*s).mnt = search.any;
        }
        (found != 0) as u32
    }
}

#[inline(never)]
extern "C" fn look_at_mount(_index: u32, search: *mut Search) -> i64 {
    // SAFETY: the context is the caller's.
    unsafe {
        let mount = (*search).mount;
        if mount == (*search).end {
            return 1;
        }
        let list = off(&OFF_MOUNT_MNT_INSTANCE) as u64;
        let here = read::<u64>(mount, off(&OFF_MOUNT_MNT)) == Ok((*search).root);
        if here && (*search).any == 0 {
            (*search).any = mount + off(&OFF_MOUNT_MNT) as u64;
        }
        if here
            && let Ok(namespace) = read::<u64>(mount, off(&OFF_MOUNT_MNT_NS))
            && let Ok(number) = read::<u32>(namespace, off(&OFF_MNT_NAMESPACE_INUM))
            && number as u64 == (*search).namespace
        {
            (*search).found = mount + off(&OFF_MOUNT_MNT) as u64;
            if list != 0 {
                return 1;
            }
        }
        let next = if list != 0 { list } else { off(&OFF_MOUNT_NEXT_FOR_SB) as u64 };
        match read::<u64>(mount, next as usize) {
            Ok(next) => (*search).mount = next.wrapping_sub(list),
            Err(()) => return 1,
        }
        0
    }
}

/// Adds to the hits what other hard links of a file satisfy, and keeps what this one does. Fails if there is no room to
/// remember it.
#[inline(always)]
pub fn linked(scratch: u32, inode: *const c_void, generation: u32) -> Result<(), ()> {
    let id = object(inode);
    if aarm_linked(scratch, id.ino, id.dev, generation) == 0 { Ok(()) } else { Err(()) }
}

/// [`linked`], by numbers only, see `walk`.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn aarm_linked(scratch: u32, ino: u64, dev: u32, generation: u32) -> u32 {
    let Some(s) = SCRATCH.get_ptr_mut(scratch) else { return 1 };
    let key = LinkedKey { ino, dev, generation };
    let known = LINKED.get_ptr(key);
    // SAFETY: map values are checked for null before use.
    unsafe {
        let hits = &raw mut (*s).hits;
        (*s).hit = 1;
        let mut new = 0;
        let mut w = 0;
        while w < size_of::<Hits>() / 8 {
            let to = hits.cast::<u64>().add(w);
            let has = match known {
                Some(known) => core::ptr::read_volatile(known.cast::<u64>().add(w)),
                None => 0,
            };
            let all = core::ptr::read_volatile(to) | has;
            new |= all ^ has;
            core::ptr::write_volatile(to, all);
            w += 1;
        }
        if new == 0 {
            return 0;
        }
        let value: &Hits = &*hits;
        LINKED.insert(key, value, BPF_ANY as u64).is_err() as u32
    }
}

/// Turns the hits of all names into the rules that are satisfied by the object. `above`: also rules that protect something
/// below it.
#[inline(always)]
pub unsafe fn satisfied(s: *mut Scratch, p: *const Policy, above: bool) {
    // SAFETY: both are valid map values.
    unsafe {
        if (*s).hit == 0 {
            return pathless(s, p);
        }
    }
    let mut w = 0;
    while w < RULE_WORDS {
        // SAFETY: both are valid map values.
        unsafe {
            let hits = &raw const (*s).hits;
            let mut yes = (*p).path_free[w] | (*hits).path[w];
            if above {
                yes |= (*hits).above[w];
            }
            (*s).object[w] = yes & !(*hits).not_path[w];
        }
        w += 1;
    }
}

/// The rules that are satisfied by an object without a path.
#[inline(always)]
pub unsafe fn pathless(s: *mut Scratch, p: *const Policy) {
    // SAFETY: both are valid map values.
    unsafe { crate::scratch::copy(&raw const (*p).path_free, &raw mut (*s).object) }
}

/// Narrows `Scratch::who` to rules whose `exe` predicate the object satisfies, as the program that would run.
#[inline(always)]
pub unsafe fn as_program(s: *mut Scratch, p: *const Policy, context: *const aarm_common::policy::Bits) {
    let mut w = 0;
    while w < DATA_WORD {
        // SAFETY: all are valid map values.
        unsafe {
            let hits = &raw const (*s).hits;
            (*s).who[w] = (*context)[w] & ((*p).exe_free[w] | (*hits).exe[w]) & !(*hits).not_exe[w];
        }
        w += 1;
    }
    // `data` entries have no such predicate, see `session::store_exe`.
    // SAFETY: as above.
    unsafe { (*s).who[DATA_WORD] = (*context)[DATA_WORD] };
}
