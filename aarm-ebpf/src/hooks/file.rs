//! Files and the tree of names: read and write families, and the mapping of executable files.

use aarm_common::event::{FLAG_ALSO_READ, FLAG_EXCHANGE, FLAG_PATH_CUT};
use aarm_common::op::Operation;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use core::ffi::c_void;

use super::*;
use crate::decide::{Shape, Verdict, decide, stricter};
use crate::emit::{cause_of, conclude, fail_closed};
use crate::kernel::*;
use crate::scratch::END;
use crate::session::supervised;

const FMODE_WRITE: u32 = 2;
const FMODE_READ: u32 = 1;
/// `__FMODE_EXEC` in `f_flags`: the kernel opens the file to run it.
const OPEN_FOR_EXEC: u32 = 0x20;
const O_TRUNC: u32 = 0o1000;
const PROT_EXEC: u64 = 4;
/// No further facets.
const ONLY: [Option<Operation>; 2] = [None, None];
const RENAME_EXCHANGE: u32 = 2;
const S_IFMT: u32 = 0o170000;
const S_IFREG: u32 = 0o100000;
const S_IFSOCK: u32 = 0o140000;

/// Decides an action on one path: `op`, and whatever is `also` a facet of the same action.
#[inline(always)]
unsafe fn one_path(f: &Frame, op: Operation, also: [Option<Operation>; 2], place: Place, inode: *const c_void) -> i32 {
    // SAFETY: the frame's pointers are valid map values; `inode` is typed.
    unsafe {
        (*f.s).head.object = object(inode);
        if let Err(cause) = prepare(f) {
            return fail_closed(f, op, cause);
        }
        match path(f, place) {
            Ok(len) => (*f.s).head.path_len = len,
            Err(cause) => return fail_closed(f, op, cause),
        }
        let shape = if op.is_exec() { Shape::Program } else { Shape::Path };
        let mut verdict = decide(f, op, shape);
        if let Some(also) = also[0] {
            verdict = stricter(verdict, decide(f, also, shape));
        }
        if let Some(also) = also[1] {
            verdict = stricter(verdict, decide(f, also, shape));
        }
        conclude(f, op, verdict, cause_of(verdict))
    }
}

#[lsm(hook = "file_open")]
pub fn file_open(ctx: LsmContext) -> i32 {
    supervised(ctx.arg(1), |f| {
        let file: *const c_void = ctx.arg(0);
        // SAFETY: hook arguments are typed pointers.
        unsafe {
            let flags: u32 = typed(file, &OFF_FILE_F_FLAGS);
            if flags & OPEN_FOR_EXEC != 0 {
                // Decided as exec, and the loader as mmap_exec.
                return 0;
            }
            let mode: u32 = typed(file, &OFF_FILE_F_MODE);
            (*f.s).head.arg = flags as u64;
            let inode: *const c_void = typed(file, &OFF_FILE_F_INODE);
            if mode & FMODE_WRITE == 0 {
                return one_path(f, Operation::OpenRead, ONLY, Place::of_file(file), inode);
            }
            let mut also = ONLY;
            if mode & FMODE_READ != 0 {
                (*f.s).head.flags |= FLAG_ALSO_READ;
                also[0] = Some(Operation::OpenRead);
            }
            if flags & O_TRUNC != 0 {
                // Kernels from 6.2 on do not ask path_truncate about it.
                also[1] = Some(Operation::Truncate);
            }
            one_path(f, Operation::OpenWrite, also, Place::of_file(file), inode)
        }
    })
}

#[lsm(hook = "mmap_file")]
pub fn mmap_file(ctx: LsmContext) -> i32 {
    let file: *const c_void = ctx.arg(0);
    let prot: u64 = ctx.arg(2);
    if file.is_null() || prot & PROT_EXEC == 0 {
        return 0;
    }
    supervised(ctx.arg(4), |f| {
        // SAFETY: hook arguments are typed pointers, and this one is not null.
        unsafe {
            (*f.s).head.arg = prot;
            let inode: *const c_void = typed(file, &OFF_FILE_F_INODE);
            one_path(f, Operation::MmapExec, ONLY, Place::of_file(file), inode)
        }
    })
}

#[lsm(hook = "path_mknod")]
pub fn path_mknod(ctx: LsmContext) -> i32 {
    supervised(ctx.arg(4), |f| {
        let mode: u32 = ctx.arg(2);
        let kind = mode & S_IFMT;
        let op = if kind == 0 || kind == S_IFREG || kind == S_IFSOCK { Operation::Create } else { Operation::Mknod };
        // SAFETY: hook arguments are typed pointers.
        unsafe {
            (*f.s).head.arg = mode as u64 & 0xffff;
            one_path(f, op, ONLY, Place::in_dir(ctx.arg(0), ctx.arg(1)), core::ptr::null())
        }
    })
}

#[lsm(hook = "path_mkdir")]
pub fn path_mkdir(ctx: LsmContext) -> i32 {
    supervised(ctx.arg(3), |f| {
        let mode: u32 = ctx.arg(2);
        // SAFETY: hook arguments are typed pointers.
        unsafe {
            (*f.s).head.arg = mode as u64 & 0xffff;
            one_path(f, Operation::Mkdir, ONLY, Place::in_dir(ctx.arg(0), ctx.arg(1)), core::ptr::null())
        }
    })
}

#[lsm(hook = "path_rmdir")]
pub fn path_rmdir(ctx: LsmContext) -> i32 {
    supervised(ctx.arg(2), |f| {
        let dentry: *const c_void = ctx.arg(1);
        // SAFETY: hook arguments are typed pointers.
        unsafe { one_path(f, Operation::Rmdir, ONLY, Place::in_dir(ctx.arg(0), dentry), dentry_inode(dentry)) }
    })
}

#[lsm(hook = "path_unlink")]
pub fn path_unlink(ctx: LsmContext) -> i32 {
    supervised(ctx.arg(2), |f| {
        let dentry: *const c_void = ctx.arg(1);
        // SAFETY: hook arguments are typed pointers.
        unsafe { one_path(f, Operation::Unlink, ONLY, Place::in_dir(ctx.arg(0), dentry), dentry_inode(dentry)) }
    })
}

#[lsm(hook = "path_symlink")]
pub fn path_symlink(ctx: LsmContext) -> i32 {
    supervised(ctx.arg(3), |f| {
        let target: *const c_void = ctx.arg(2);
        // SAFETY: hook arguments are typed pointers; the target is a kernel string, read through the helper
        // into a place that is then moved to the end of the event.
        unsafe {
            symlink_target(f.s, target);
            one_path(f, Operation::Symlink, ONLY, Place::in_dir(ctx.arg(0), ctx.arg(1)), core::ptr::null())
        }
    })
}

/// Puts a symlink's target text at the end of the event. A text that cannot be read is left out and flagged.
#[inline(never)]
fn symlink_target(s: *mut crate::scratch::Scratch, target: *const c_void) -> u32 {
    if s.is_null() {
        return 0;
    }
    // SAFETY: `s` is a valid map value. The text is read twice: once at the buffer's start to learn its
    // length, once where it belongs.
    unsafe {
        let buf = (&raw mut (*s).buf).cast::<u8>();
        let n = bpf_probe_read_kernel_str(buf.cast(), 4096, target);
        if n <= 1 || n > 4096 {
            (*s).head.flags |= FLAG_PATH_CUT;
            return 0;
        }
        let len = (n as u32 - 1) & 4095;
        let at = (END as u32 - len) & 16383;
        if aya_ebpf::helpers::generated::bpf_probe_read_kernel(buf.add(at as usize).cast(), len, target) != 0 {
            (*s).head.flags |= FLAG_PATH_CUT;
            return 0;
        }
        (*s).pos = at;
        (*s).head.args_len = len as u16;
        0
    }
}

#[lsm(hook = "path_truncate")]
pub fn path_truncate(ctx: LsmContext) -> i32 {
    supervised(ctx.arg(1), |f| {
        let path: *const c_void = ctx.arg(0);
        // SAFETY: hook arguments are typed pointers.
        unsafe {
            let dentry: *const c_void = typed(path, &OFF_PATH_DENTRY);
            one_path(f, Operation::Truncate, ONLY, Place::of_path(path), dentry_inode(dentry))
        }
    })
}

#[lsm(hook = "path_chmod")]
pub fn path_chmod(ctx: LsmContext) -> i32 {
    supervised(ctx.arg(2), |f| {
        let path: *const c_void = ctx.arg(0);
        let mode: u32 = ctx.arg(1);
        // SAFETY: hook arguments are typed pointers.
        unsafe {
            (*f.s).head.arg = mode as u64 & 0xffff;
            let dentry: *const c_void = typed(path, &OFF_PATH_DENTRY);
            one_path(f, Operation::Chmod, ONLY, Place::of_path(path), dentry_inode(dentry))
        }
    })
}

#[lsm(hook = "path_chown")]
pub fn path_chown(ctx: LsmContext) -> i32 {
    supervised(ctx.arg(3), |f| {
        let path: *const c_void = ctx.arg(0);
        let (uid, gid): (u32, u32) = (ctx.arg(1), ctx.arg(2));
        // SAFETY: hook arguments are typed pointers.
        unsafe {
            (*f.s).head.arg = (uid as u64) << 32 | gid as u64;
            let dentry: *const c_void = typed(path, &OFF_PATH_DENTRY);
            one_path(f, Operation::Chown, ONLY, Place::of_path(path), dentry_inode(dentry))
        }
    })
}

/// The facets of one end of a rename or link: on the source also a read and a write of it, on the target
/// also a write there.
#[inline(always)]
fn end_facets(f: &Frame, op: Operation, source: bool) -> Verdict {
    let mut verdict = decide(f, op, Shape::Path);
    if source {
        verdict = stricter(verdict, decide(f, Operation::OpenRead, Shape::Path));
    }
    stricter(verdict, decide(f, Operation::OpenWrite, Shape::Path))
}

/// Decides an action on two names. The target's path is built first: it stands after the source's.
#[inline(always)]
unsafe fn two_paths(f: &Frame, op: Operation, from: Place, to: Place, inode: *const c_void, exchange: bool) -> i32 {
    // SAFETY: the frame's pointers are valid map values; `inode` is typed.
    unsafe {
        (*f.s).head.object = object(inode);
        if exchange {
            (*f.s).head.flags |= FLAG_EXCHANGE;
        }
        if let Err(cause) = prepare(f) {
            return fail_closed(f, op, cause);
        }
        match path(f, to) {
            Ok(len) => (*f.s).head.path2_len = len,
            Err(cause) => return fail_closed(f, op, cause),
        }
        let target = end_facets(f, op, exchange);
        match path(f, from) {
            Ok(len) => (*f.s).head.path_len = len,
            Err(cause) => return fail_closed(f, op, cause),
        }
        let verdict = stricter(end_facets(f, op, true), target);
        conclude(f, op, verdict, cause_of(verdict))
    }
}

#[lsm(hook = "path_rename")]
pub fn path_rename(ctx: LsmContext) -> i32 {
    supervised(ctx.arg(5), |f| {
        let old: *const c_void = ctx.arg(1);
        let flags: u32 = ctx.arg(4);
        // SAFETY: hook arguments are typed pointers.
        unsafe {
            let from = Place::in_dir(ctx.arg(0), old);
            let to = Place::in_dir(ctx.arg(2), ctx.arg(3));
            two_paths(f, Operation::Rename, from, to, dentry_inode(old), flags & RENAME_EXCHANGE != 0)
        }
    })
}

#[lsm(hook = "path_link")]
pub fn path_link(ctx: LsmContext) -> i32 {
    supervised(ctx.arg(3), |f| {
        let old: *const c_void = ctx.arg(0);
        let dir: *const c_void = ctx.arg(1);
        // SAFETY: hook arguments are typed pointers. Both names are in one mount, else the kernel refuses.
        unsafe {
            let from = Place::in_dir(dir, old);
            let to = Place::in_dir(dir, ctx.arg(2));
            two_paths(f, Operation::Link, from, to, dentry_inode(old), false)
        }
    })
}
