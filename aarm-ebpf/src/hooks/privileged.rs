//! What changes the system itself: mounts, roots, users and capabilities, code in the kernel.

use aarm_common::op::Operation;
use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use core::ffi::c_void;

use super::file::text;
use super::*;
use crate::session::supervised;

/// `READING_*` and `LOADING_*` of the kernel: the same numbers for both.
const FIRMWARE: u32 = 1;
const KEXEC_IMAGE: u32 = 3;
const KEXEC_INITRAMFS: u32 = 4;

/// What code or data for the kernel is decided as.
#[inline(always)]
fn loading(id: u32) -> Option<Operation> {
    match id {
        KEXEC_IMAGE | KEXEC_INITRAMFS => Some(Operation::Kexec),
        FIRMWARE => None,
        _ => Some(Operation::Module),
    }
}

#[lsm(hook = "sb_mount")]
pub fn sb_mount(ctx: LsmContext) -> i32 {
    supervised(|f| {
        let source: *const c_void = ctx.arg(0);
        // SAFETY: hook arguments are typed pointers; the source is a kernel string, if there is one.
        unsafe {
            if !source.is_null() {
                text(f.s, source);
            }
            (*f.s).head.arg = ctx.arg::<u64>(3);
            mounting(f, Operation::Mount, Object::of_path(ctx.arg(1)))
        }
    })
}

/// An action on a place where something is, or will be, mounted.
#[inline(always)]
unsafe fn mounting(f: &Frame, op: Operation, o: Object) -> i32 {
    // SAFETY: the frame's pointers are valid map values; the object's are typed.
    unsafe {
        let how = Naming { above: over(f, &o), program: false, end: false };
        one_object(f, op, ONLY, o, how)
    }
}

#[lsm(hook = "move_mount")]
pub fn move_mount(ctx: LsmContext) -> i32 {
    supervised(|f| {
        // SAFETY: hook arguments are typed pointers.
        unsafe { mounting(f, Operation::Mount, Object::of_path(ctx.arg(1))) }
    })
}

#[lsm(hook = "sb_umount")]
pub fn sb_umount(ctx: LsmContext) -> i32 {
    supervised(|f| {
        let mnt: *const c_void = ctx.arg(0);
        // SAFETY: hook arguments are typed pointers, and so is what they point to.
        unsafe {
            let dentry: *const c_void = typed(mnt, &OFF_VFSMOUNT_MNT_ROOT);
            (*f.s).head.arg = ctx.arg::<u32>(1) as u64;
            let o = Object { mnt: mnt as u64, dentry, inode: dentry_inode(dentry) };
            one_object(f, Operation::Umount, ONLY, o, Naming::default())
        }
    })
}

#[lsm(hook = "sb_pivotroot")]
pub fn sb_pivotroot(ctx: LsmContext) -> i32 {
    supervised(|f| {
        // SAFETY: hook arguments are typed pointers.
        unsafe { mounting(f, Operation::Mount, Object::of_path(ctx.arg(1))) }
    })
}

#[lsm(hook = "path_chroot")]
pub fn path_chroot(ctx: LsmContext) -> i32 {
    supervised(|f| {
        // SAFETY: hook arguments are typed pointers.
        unsafe { one_object(f, Operation::Chroot, ONLY, Object::of_path(ctx.arg(0)), Naming::default()) }
    })
}

/// Decides an action that is told apart by one number.
#[inline(always)]
fn plain(op: Operation, arg: u64) -> i32 {
    supervised(|f| {
        // SAFETY: the frame's pointers are valid map values.
        unsafe {
            (*f.s).head.arg = arg;
            nameless(f, op)
        }
    })
}

/// Only gaining another user is decided; the kernel asks about every change.
#[lsm(hook = "task_fix_setuid")]
pub fn task_fix_setuid(ctx: LsmContext) -> i32 {
    let (new, old): (*const c_void, *const c_void) = (ctx.arg(0), ctx.arg(1));
    // SAFETY: hook arguments are typed pointers.
    let (to, changes) = unsafe {
        let to: u32 = typed(new, &OFF_CRED_EUID);
        let changes = to != typed::<u32>(old, &OFF_CRED_EUID)
            || typed::<u32>(new, &OFF_CRED_UID) != typed::<u32>(old, &OFF_CRED_UID)
            || typed::<u32>(new, &OFF_CRED_FSUID) != typed::<u32>(old, &OFF_CRED_FSUID);
        (to, changes)
    };
    if changes { plain(Operation::Setuid, to as u64) } else { 0 }
}

#[lsm(hook = "capset")]
pub fn capset(_ctx: LsmContext) -> i32 {
    plain(Operation::Capset, 0)
}

#[lsm(hook = "userns_create")]
pub fn userns_create(_ctx: LsmContext) -> i32 {
    plain(Operation::Userns, 0)
}

#[lsm(hook = "bpf")]
pub fn bpf(ctx: LsmContext) -> i32 {
    plain(Operation::Bpf, ctx.arg::<u32>(0) as u64)
}

#[lsm(hook = "perf_event_open")]
pub fn perf_event_open(_ctx: LsmContext) -> i32 {
    plain(Operation::Perf, 0)
}

#[lsm(hook = "kernel_read_file")]
pub fn kernel_read_file(ctx: LsmContext) -> i32 {
    let file: *const c_void = ctx.arg(0);
    let id: u32 = ctx.arg(1);
    let Some(op) = loading(id) else { return 0 };
    if file.is_null() || is_null(&ctx, 0) {
        return plain(op, id as u64);
    }
    supervised(|f| {
        // SAFETY: hook arguments are typed pointers.
        unsafe {
            (*f.s).head.arg = id as u64;
            one_object(f, op, ONLY, Object::of_file(file), Naming::default())
        }
    })
}

#[lsm(hook = "kernel_load_data")]
pub fn kernel_load_data(ctx: LsmContext) -> i32 {
    let id: u32 = ctx.arg(0);
    match loading(id) {
        Some(op) => plain(op, id as u64),
        None => 0,
    }
}

/// The kernel would load a module of this name on the task's behalf.
#[lsm(hook = "kernel_module_request")]
pub fn kernel_module_request(ctx: LsmContext) -> i32 {
    supervised(|f| {
        // SAFETY: the frame's pointers are valid map values; the name is a kernel string.
        unsafe {
            text(f.s, ctx.arg::<*const c_void>(0));
            nameless(f, Operation::Module)
        }
    })
}

#[lsm(hook = "uring_cmd")]
pub fn uring_cmd(_ctx: LsmContext) -> i32 {
    plain(Operation::UringCmd, 0)
}

/// An operation through a ring under another user's credentials.
#[lsm(hook = "uring_override_creds")]
pub fn uring_override_creds(ctx: LsmContext) -> i32 {
    let new: *const c_void = ctx.arg(0);
    // SAFETY: hook arguments are typed pointers.
    let to: u32 = unsafe { typed(new, &OFF_CRED_EUID) };
    plain(Operation::Setuid, to as u64)
}
