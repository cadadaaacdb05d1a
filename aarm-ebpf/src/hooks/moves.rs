//! Whatever changes the name of something that has one already: counted when it begins and when it is over.
//!
//! The kernel has sequence numbers for this, but reading them at each open costs 150 instructions. So the functions
//! that move dentries and mounts are watched, all of which run under the locks of those sequence numbers, where
//! nothing preempts the programs (and so none is skipped). Which of them a kernel has, and calls, differs: the daemon tries out
//! that each kind of move is seen before it lets `known` rely on it.

use aarm_common::state::{MOVES_BEGUN, MOVES_DONE};
use aya_ebpf::macros::{fentry, fexit};
use aya_ebpf::programs::{FEntryContext, FExitContext};
use core::intrinsics::{AtomicOrdering::SeqCst, atomic_xadd};

use crate::maps::MOVES;

#[inline(always)]
fn count(entry: u32) -> i32 {
    if let Some(n) = MOVES.get_ptr_mut(entry) {
        // SAFETY: a valid map value.
        unsafe { atomic_xadd::<u64, u64, { SeqCst }>(n, 1) };
    }
    0
}

/// Declares the programs at the beginning and at the end of functions.
macro_rules! watch {
    ($($(#[$doc:meta])+ $begins:ident $over:ident $function:literal;)+) => { $(
        $(#[$doc])+
        #[fentry(function = $function)]
        pub fn $begins(_ctx: FEntryContext) -> i32 {
            count(MOVES_BEGUN)
        }

        $(#[$doc])+
        #[fexit(function = $function)]
        pub fn $over(_ctx: FExitContext) -> i32 {
            count(MOVES_DONE)
        }
    )+ };
}

// A mount that gets a place is seen when it becomes visible there: after the change, and with the lock still held.
watch! {
    /// Renames, exchanges, and directories that turn up in another place.
    dentry_moves dentry_moved "__d_move";
    /// New, bound, moved, propagated, or by pivot_root: before 6.16.
    mount_attaches mount_attached "__attach_mnt";
    /// The same, from 6.16 on.
    mount_shows mount_shown "make_visible";
    /// Mounts that go, also with their namespace.
    mounts_go mounts_gone "umount_tree";
}
