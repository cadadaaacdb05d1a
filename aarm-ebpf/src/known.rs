//! Paths met lately.
//!
//! An agent opens the same files again and again, and a file's path, with the rules whose globs match it, changes only
//! when something is renamed or mounted. So both are kept, under everything they were made from: the dentry with its
//! parent and the hash of its name, the mount, the inode, the policy's compilation, and the number of moves so far
//! (`hooks::moves`). Files with several hard links, and objects with another home mount, are not kept: their
//! names say less than they are.
//!
//! The table is shared by all CPUs, so an entry carries a version, odd while it is being written; a reader that
//! finds it changed has found nothing. Must never: hand out a path that was not built by `walk` in just this state.

use aarm_common::policy::Bits;
use aarm_common::state::{MOVES_BEGUN, MOVES_DONE, MOVES_TRUSTED, Task};
use core::ffi::c_void;

use crate::kernel::*;
use crate::maps::{KNOWN, MOVES};
use crate::scratch::{self, END, Scratch};

/// Entries; a power of two.
pub const KNOWN_PATHS: u32 = 8192;
/// Longest path kept, in bytes; a multiple of 8.
pub const KNOWN_BYTES: usize = 168;

/// Bytes copied of a path that is not longer.
const SHORT: usize = 40;

/// One path.
#[repr(C)]
pub struct Known {
    version: u64,
    key: Key,
    /// Its length.
    pub path_len: u64,
    /// Mode of the inode; its type is that of the key's inode for good.
    pub mode: u64,
    /// Rules that are satisfied by the object's names.
    pub object: Bits,
    path: [u64; KNOWN_BYTES / 8],
}

/// What a path was made from.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Key {
    dentry: u64,
    parent: u64,
    name: u64,
    mnt: u64,
    ino: u64,
    /// See [`moves`].
    moves: u64,
    /// Of the policy, and of the inode: its number, and the addresses of all dentries above, may have served another file
    /// before, without anything having been renamed.
    generation: u64,
}

/// Now, as far as names are concerned: 0 while something is just being renamed or mounted, or if this kernel does not show it.
#[inline(always)]
pub fn moves() -> u64 {
    let (Some(done), Some(begun), Some(trusted)) =
        (MOVES.get_ptr(MOVES_DONE), MOVES.get_ptr(MOVES_BEGUN), MOVES.get_ptr(MOVES_TRUSTED))
    else {
        return 0;
    };
    // SAFETY: valid map values.
    unsafe {
        // In this order: what has begun by now and was over before is over.
        let done = core::ptr::read_volatile(done);
        let begun = core::ptr::read_volatile(begun);
        if begun != done || core::ptr::read_volatile(trusted) == 0 { 0 } else { begun }
    }
}

const _: () = assert!(size_of::<Key>() == 7 * 8);

impl Key {
    /// The key of an object given by typed pointers; in the task's storage, because the stack is short, and because what
    /// comes out of a map is a number. `None`: the path cannot be kept.
    #[inline(always)]
    pub unsafe fn of<'a>(
        task: *mut Task,
        place: Place,
        dentry: *const c_void,
        inode: *const c_void,
        generation: u32,
    ) -> Option<&'a Self> {
        // SAFETY: typed pointers and a valid map value by contract.
        unsafe {
            if dentry.is_null() || inode.is_null() {
                return None;
            }
            let links: u32 = typed(inode, &OFF_INODE_I_NLINK);
            if links != 1 && typed::<u16>(inode, &OFF_INODE_I_MODE) as u32 & S_IFMT != S_IFDIR {
                return None;
            }
            let moves = moves();
            if moves == 0 {
                return None;
            }
            // `d_parent`, hash and length lie in a row (the daemon checks that they do).
            let names: *const u32 = dentry.byte_add(off(&OFF_DENTRY_D_PARENT)).cast();
            let hash = core::ptr::read_volatile(names.add(2));
            let len = core::ptr::read_volatile(names.add(3));
            let key: *mut Self = (&raw mut (*task).key).cast();
            core::ptr::write_volatile(&raw mut (*key).dentry, place.dentry);
            core::ptr::write_volatile(&raw mut (*key).parent, core::ptr::read_volatile(names.cast()));
            core::ptr::write_volatile(&raw mut (*key).mnt, place.mnt);
            (*key).name = (len as u64) << 32 | hash as u64;
            (*key).ino = typed(inode, &OFF_INODE_I_INO);
            (*key).moves = moves;
            let born: u32 = typed(inode, &OFF_INODE_I_GENERATION);
            (*key).generation = (born as u64) << 32 | generation as u64;
            Some(&*key)
        }
    }

    #[inline(always)]
    fn slot(&self) -> u32 {
        // SAFETY: as numbers, see `of`.
        let (dentry, mnt) =
            unsafe { (core::ptr::read_volatile(&raw const self.dentry), core::ptr::read_volatile(&raw const self.mnt)) };
        let mixed = (dentry ^ mnt.rotate_left(20)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 40) as u32 & (KNOWN_PATHS - 1)
    }

    #[inline(always)]
    unsafe fn is(&self, e: *const Known) -> bool {
        // SAFETY: `e` is a valid map value.
        unsafe {
            let k = &raw const (*e).key;
            let differ = ((*k).dentry ^ core::ptr::read_volatile(&raw const self.dentry))
                | ((*k).parent ^ core::ptr::read_volatile(&raw const self.parent))
                | ((*k).name ^ self.name)
                | ((*k).mnt ^ core::ptr::read_volatile(&raw const self.mnt))
                | ((*k).ino ^ self.ino)
                | ((*k).moves ^ self.moves)
                | ((*k).generation ^ self.generation);
            differ == 0
        }
    }

    /// The entry, and the version that [`still`] must find when everything needed was read from it.
    #[inline(always)]
    pub fn find(&self) -> Option<(*const Known, u64)> {
        let e = KNOWN.get_ptr(self.slot())?;
        // SAFETY: a valid map value.
        unsafe {
            let version = core::ptr::read_volatile(&raw const (*e).version);
            if version & 1 != 0 || !self.is(e) { None } else { Some((e, version)) }
        }
    }

    /// Puts a known path, and the rules it satisfies, where a walk would have; gives the path's length. The buffer must be
    /// empty.
    #[inline(always)]
    pub unsafe fn recall(&self, s: *mut Scratch) -> Option<u16> {
        let (e, version) = self.find()?;
        // SAFETY: both are valid map values.
        unsafe {
            scratch::copy(&raw const (*e).object, &raw mut (*s).object);
            let len = (*e).path_len;
            let to: *mut [u64; KNOWN_BYTES / 8] =
                (&raw mut (*s).buf).cast::<u8>().add(END - KNOWN_BYTES).cast();
            if len <= SHORT as u64 {
                let at = (KNOWN_BYTES - SHORT) / 8;
                let from = (&raw const (*e).path).cast::<u64>().add(at);
                scratch::copy(from.cast::<[u64; SHORT / 8]>(), to.cast::<u64>().add(at).cast());
            } else {
                scratch::copy(&raw const (*e).path, to);
            }
            if !still(e, version) {
                return None;
            }
            (*s).pos = (END as u32).wrapping_sub(len as u32);
            Some(len as u16)
        }
    }

    /// Keeps what a walk has just found: the path at the end of the buffer, and the rules it satisfies. The key's `moves` are
    /// from before the walk: if something was renamed or mounted meanwhile, nobody will ever see these numbers again, and so
    /// nobody finds the entry.
    #[inline(always)]
    pub unsafe fn keep(&self, s: *const Scratch, len: u16, mode: u32) {
        if len as usize > KNOWN_BYTES {
            return;
        }
        let Some(e) = KNOWN.get_ptr_mut(self.slot()) else { return };
        // SAFETY: both are valid map values; the exchange makes the entry ours.
        unsafe {
            let version = core::ptr::read_volatile(&raw const (*e).version);
            if version & 1 != 0 {
                return;
            }
            let (_, ours) = core::intrinsics::atomic_cxchg::<
                u64,
                { core::intrinsics::AtomicOrdering::SeqCst },
                { core::intrinsics::AtomicOrdering::SeqCst },
            >(&raw mut (*e).version, version, version + 1);
            if !ours {
                return;
            }
            scratch::copy(self, &raw mut (*e).key);
            (*e).path_len = len as u64;
            (*e).mode = mode as u64;
            scratch::copy(&raw const (*s).object, &raw mut (*e).object);
            let from: *const [u64; KNOWN_BYTES / 8] =
                (&raw const (*s).buf).cast::<u8>().add(END - KNOWN_BYTES).cast();
            if len as usize <= SHORT {
                let at = (KNOWN_BYTES - SHORT) / 8;
                let to = (&raw mut (*e).path).cast::<u64>().add(at);
                scratch::copy(from.cast::<u64>().add(at).cast::<[u64; SHORT / 8]>(), to.cast());
            } else {
                scratch::copy(from, &raw mut (*e).path);
            }
            core::ptr::write_volatile(&raw mut (*e).version, version + 2);
        }
    }
}

/// Whether an entry is still what it was.
#[inline(always)]
pub unsafe fn still(e: *const Known, version: u64) -> bool {
    // SAFETY: a valid map value.
    unsafe { core::ptr::read_volatile(&raw const (*e).version) == version }
}
