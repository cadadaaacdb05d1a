//! Files and the tree of names: read and write families, and what makes memory executable.

use aarm_common::event::{FLAG_ALIAS, FLAG_ALSO_READ, FLAG_EXCHANGE, FLAG_PATH_CUT};
use aarm_common::limits::DATA_WORD;
use aarm_common::op::{Decision, FAMILIES, OPERATIONS};
use aarm_common::policy::NO_SET;
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_kernel_str};
use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;

use super::*;
use crate::decide::{Verdict, used_words};
use crate::emit::summarize;
use crate::known::still;
use crate::scratch::{self, Scratch, no_hits};
use crate::session::{Subject, framed, subject, supervised};

/// `__O_TMPFILE`: this open has made a file without a name, another one each time.
const O_TMPFILE: u32 = 0o20_000_000;
/// `FMODE_CREATED`: this open has made the file.
const FMODE_CREATED: u32 = 1 << 20;
const FMODE_WRITE: u32 = 2;
const FMODE_READ: u32 = 1;
/// `__FMODE_EXEC` in `f_flags`: the kernel opens the file to run it.
const OPEN_FOR_EXEC: u32 = 0x20;
const O_TRUNC: u32 = 0o1000;
const PROT_EXEC: u64 = 4;
const VM_EXEC: u64 = 4;
/// Also set in `MAP_SHARED_VALIDATE`.
const MAP_SHARED: u64 = 1;
const RENAME_EXCHANGE: u32 = 2;
const PROC_SUPER_MAGIC: u64 = 0x9fa0;
/// `_IOC_WRITE` in the direction of an ioctl command: it hands data to the kernel.
const IOC_WRITE: u32 = 1;
/// Commands of old that write and do not say so: simulate terminal input, paste, make immutable.
const WRITING_IOCTLS: [u32; 3] = [0x5412, 0x541c, 0x4008_6602];
/// What the types of devices have in common, and no others: `is_raw` must be asked.
const DEVICE_MASK: u64 = 0o13_0000;
const DEVICE: u64 = 0o2_0000;
const _: () = assert!(S_IFCHR as u64 & DEVICE_MASK == DEVICE && S_IFBLK as u64 & DEVICE_MASK == DEVICE);
const _: () = assert!(S_IFREG as u64 & DEVICE_MASK != DEVICE && S_IFDIR as u64 & DEVICE_MASK != DEVICE);
const _: () = assert!(S_IFIFO as u64 & DEVICE_MASK != DEVICE && S_IFSOCK as u64 & DEVICE_MASK != DEVICE);
/// Character devices of major 1: mem, kmem, port.
const MEMORY_DEVICES: [u32; 3] = [1 << 20 | 1, 1 << 20 | 2, 1 << 20 | 4];

/// Whether opening it is reaching past the filesystem: memory, ports, a disk as such.
#[inline(always)]
unsafe fn is_raw(o: &Object) -> bool {
    // SAFETY: typed by contract.
    unsafe {
        let kind = o.mode() & S_IFMT;
        if kind == S_IFBLK {
            return true;
        }
        if kind != S_IFCHR {
            return false;
        }
        let device: u32 = typed(o.inode, &OFF_INODE_I_RDEV);
        device == MEMORY_DEVICES[0] || device == MEMORY_DEVICES[1] || device == MEMORY_DEVICES[2]
    }
}

/// Whether the bytes at `at` are below `/proc/sys`.
#[inline(always)]
unsafe fn is_proc_sys(s: *const Scratch, at: u32) -> bool {
    let text = *b"/proc/sys/";
    let mut differ = 0;
    let mut i = 0;
    while i < text.len() {
        // SAFETY: the mask keeps the index inside the buffer.
        differ |= unsafe { (*s).buf[(at.wrapping_add(i as u32) & 16383) as usize] } ^ text[i];
        i += 1;
    }
    differ == 0
}

/// An open for reading of a known path that the policy allows and only counts. Most opens of an agent are of this kind, so
/// they get by without a buffer.
#[inline(always)]
unsafe fn is_routine(u: &Subject, o: &Object) -> bool {
    let op = Operation::OpenRead;
    // SAFETY: the subject's pointers are valid map values; the object's are typed.
    unsafe {
        let (p, t) = (u.policy, u.task);
        let generation = (*p).routine;
        let labels = core::ptr::read_volatile(&raw const (*u.session).labels);
        if generation == 0
            || (*t).exe_generation != generation
            || (*t).who_generation != generation
            || (*t).labels != labels
            // Mostly no rule asks for the user, and then there is one range of them.
            || (*p).uid_start[1] != u32::MAX && (*t).uid != user().0
            // A rule that refuses because something is unknown.
            || (*t).subjects >> 16 != 0
            || context::anything_carries()
        {
            return false;
        }
        let place = Place { mnt: o.mnt, dentry: o.dentry as u64 };
        let Some(key) = Key::of(t, place, o.dentry, o.inode, generation) else { return false };
        let Some((e, version)) = key.find() else { return false };
        if (*e).mode & DEVICE_MASK == DEVICE {
            return false;
        }
        let mut decision = (*p).defaults[op.family() as usize % FAMILIES];
        let words = used_words(p);
        let row = &raw const (*p).op_rules[op as usize % OPERATIONS];
        if (*row)[DATA_WORD] & (*t).who[DATA_WORD] & (*e).object[DATA_WORD] != 0 {
            return false;
        }
        let mut w = 0;
        while w < DATA_WORD {
            if w as u32 >= words {
                break;
            }
            let m = (*row)[w] & (*t).who[w] & (*e).object[w];
            if m != 0 {
                let rule = opaque((w as u64) << 6 | m.trailing_zeros() as u64) as usize & 511;
                if (*p).conflicts[rule] != NO_SET {
                    return false;
                }
                decision = (*p).rule_decision[rule];
                break;
            }
            w += 1;
        }
        if decision != Decision::Allow as u8 || !still(e, version) {
            return false;
        }
        summarize(u.session, op);
        true
    }
}

#[lsm(hook = "file_open")]
pub fn file_open(ctx: LsmContext) -> i32 {
    subject(|u| {
        let file: *const c_void = ctx.arg(0);
        // SAFETY: hook arguments are typed pointers.
        unsafe {
            let flags: u32 = typed(file, &OFF_FILE_F_FLAGS);
            if flags & OPEN_FOR_EXEC != 0 {
                // Decided as exec, and the loader as mmap_exec.
                return 0;
            }
            let mode: u32 = typed(file, &OFF_FILE_F_MODE);
            let o = Object::of_file(file);
            if mode & FMODE_WRITE == 0 && flags & O_TRUNC == 0 && is_routine(u, &o) {
                return 0;
            }
            framed(u, |f| open(f, o, flags, mode))
        }
    })
}

/// Decides an open.
#[inline(always)]
unsafe fn open(f: &Frame, o: Object, flags: u32, mode: u32) -> i32 {
    // SAFETY: the frame's pointers are valid map values; the object's are typed.
    unsafe {
        (*f.s).head.arg = flags as u64;
        (*f.s).already = if flags & O_TMPFILE != 0 {
            scratch::MADE_NAMELESS
        } else if mode & FMODE_CREATED != 0 {
            scratch::MADE
        } else {
            0
        };
        (*f.s).head.object = object(o.inode);
        let op = if mode & FMODE_WRITE == 0 { Operation::OpenRead } else { Operation::OpenWrite };
        if let Err(cause) = prepare(f) {
            return fail_closed(f, op, cause);
        }
        match name(f, o, Naming::default()) {
            Ok(len) => (*f.s).head.path_len = len,
            Err(cause) => return fail_closed(f, op, cause),
        }
        if let Err(cause) = below_overlay(f, &o) {
            return fail_closed(f, op, cause);
        }
        let mut also = ONLY;
        if flags & O_TRUNC != 0 {
            // It truncates also where it opens for reading only, and kernels from 6.2 on do not ask path_truncate.
            also[1] = Some(Operation::Truncate);
        }
        if mode & FMODE_WRITE != 0 {
            if mode & FMODE_READ != 0 {
                (*f.s).head.flags |= FLAG_ALSO_READ;
                also[0] = Some(Operation::OpenRead);
            }
            let sb: *const c_void = typed(o.dentry, &OFF_DENTRY_D_SB);
            if typed::<u64>(sb, &OFF_SUPER_BLOCK_S_MAGIC) == PROC_SUPER_MAGIC {
                let at = (*f.s).pos;
                let alias = (*f.s).head.flags & FLAG_ALIAS != 0
                    && is_proc_sys(f.s, at.wrapping_add((*f.s).head.path_len as u32));
                if alias || is_proc_sys(f.s, at) {
                    also[2] = Some(Operation::SysctlWrite);
                }
            }
        }
        let kind = (*f.s).head.object.mode & S_IFMT;
        if (kind == S_IFBLK || kind == S_IFCHR) && is_raw(&o) {
            also[2] = Some(Operation::RawMemory);
        }
        decided(f, op, also, o.inode)
    }
}

/// A file that an overlay opens below itself has the overlay's name and another inode (before 6.7): adds what that inode's
/// own name satisfies.
#[inline(always)]
unsafe fn below_overlay(f: &Frame, o: &Object) -> Result<(), Cause> {
    // SAFETY: as in `open`.
    unsafe {
        let named = dentry_inode(o.dentry);
        if named == o.inode || o.inode.is_null() {
            return Ok(());
        }
        let sb: *const c_void = typed(o.inode, &OFF_INODE_I_SB);
        let home = names::other_home(f.s, f.scratch, sb, 0);
        let Ok(alias) = read::<u64>(o.inode as u64, off(&OFF_INODE_I_DENTRY)) else {
            return Err(Cause::ReadFailed);
        };
        if home == 0 || alias == 0 {
            return Ok(());
        }
        let dentry = alias.wrapping_sub(off(&OFF_DENTRY_D_ALIAS) as u64);
        let pos = (*f.s).pos;
        let status = walk(f.s, f.scratch, f.slot, Place { mnt: home, dentry }, true);
        (*f.s).pos = pos;
        if status != walk::DONE {
            return Err(cause_of_status(status));
        }
        names::satisfied(f.s, f.policy, false);
        Ok(())
    }
}

#[lsm(hook = "file_permission")]
pub fn file_permission(ctx: LsmContext) -> i32 {
    subject(|u| {
        // SAFETY: hook arguments are typed pointers.
        unsafe { inherited::permission(u, ctx.arg(0), ctx.arg(1)) }
    })
}

#[lsm(hook = "file_receive")]
pub fn file_receive(ctx: LsmContext) -> i32 {
    supervised(|f| {
        let file: *const c_void = ctx.arg(0);
        // SAFETY: hook arguments are typed pointers.
        unsafe {
            let mode: u32 = typed(file, &OFF_FILE_F_MODE);
            (*f.s).head.arg = mode as u64 & (FMODE_READ | FMODE_WRITE) as u64;
            let mut also = ONLY;
            also[0] = Some(Operation::OpenRead);
            if mode & FMODE_WRITE != 0 {
                also[1] = Some(Operation::OpenWrite);
            }
            one_object(f, Operation::ReceiveFd, also, Object::of_file(file), Naming::default())
        }
    })
}

/// A program to run.
const PROGRAM: Naming = Naming { above: false, program: true, end: false };

#[lsm(hook = "mmap_file")]
pub fn mmap_file(ctx: LsmContext) -> i32 {
    let file: *const c_void = ctx.arg(0);
    let prot: u64 = ctx.arg(2);
    if prot & PROT_EXEC == 0 {
        return 0;
    }
    supervised(|f| {
        // SAFETY: hook arguments are typed pointers.
        unsafe {
            (*f.s).head.arg = prot;
            if file.is_null() || is_null(&ctx, 0) {
                return executable_memory(f);
            }
            one_object(f, Operation::MmapExec, ONLY, Object::of_file(file), PROGRAM)
        }
    })
}

/// What is not to be run, or is shared; a program of its own, because the stack does not suffice for both.
#[lsm(hook = "mmap_file")]
pub fn mmap_file__data(ctx: LsmContext) -> i32 {
    let file: *const c_void = ctx.arg(0);
    let prot: u64 = ctx.arg(2);
    let flags: u64 = ctx.arg(3);
    if prot & PROT_EXEC != 0 && flags & MAP_SHARED == 0 || file.is_null() || is_null(&ctx, 0) {
        return 0;
    }
    // SAFETY: hook arguments are typed pointers, and this one is not null.
    subject(|u| unsafe { inherited::mapping(u, file, flags & MAP_SHARED != 0) })
}

/// Memory that is no file's becomes executable.
#[inline(always)]
unsafe fn executable_memory(f: &Frame) -> i32 {
    // SAFETY: the frame's pointers are valid map values.
    unsafe {
        if let Err(cause) = prepare(f) {
            return fail_closed(f, Operation::MprotectExec, cause);
        }
        no_hits(f.s);
        names::satisfied(f.s, f.policy, false);
        if let Err(cause) = context::program(f) {
            return fail_closed(f, Operation::MprotectExec, cause);
        }
        let verdict = decide(f, Operation::MprotectExec, Shape::Object);
        conclude(f, Operation::MprotectExec, verdict)
    }
}

#[lsm(hook = "file_mprotect")]
pub fn file_mprotect(ctx: LsmContext) -> i32 {
    let vma: *const c_void = ctx.arg(0);
    let prot: u64 = ctx.arg(2);
    if prot & PROT_EXEC == 0 {
        return 0;
    }
    supervised(|f| {
        // SAFETY: hook arguments are typed pointers.
        unsafe {
            let flags: u64 = typed(vma, &OFF_VM_AREA_STRUCT_VM_FLAGS);
            if flags & VM_EXEC != 0 {
                return 0;
            }
            (*f.s).head.arg = prot;
            let file: *const c_void = typed(vma, &OFF_VM_AREA_STRUCT_VM_FILE);
            if file.is_null() {
                return executable_memory(f);
            }
            one_object(f, Operation::MprotectExec, ONLY, Object::of_file(file), PROGRAM)
        }
    })
}

#[lsm(hook = "file_ioctl")]
pub fn file_ioctl(ctx: LsmContext) -> i32 {
    ioctl(&ctx)
}

#[lsm(hook = "file_ioctl_compat")]
pub fn file_ioctl_compat(ctx: LsmContext) -> i32 {
    ioctl(&ctx)
}

#[inline(always)]
fn ioctl(ctx: &LsmContext) -> i32 {
    let command: u32 = ctx.arg(1);
    let listed =
        command == WRITING_IOCTLS[0] || command == WRITING_IOCTLS[1] || command == WRITING_IOCTLS[2];
    if command >> 30 & IOC_WRITE == 0 && !listed {
        return 0;
    }
    supervised(|f| {
        // SAFETY: hook arguments are typed pointers.
        unsafe {
            (*f.s).head.arg = command as u64;
            one_object(f, Operation::IoctlWrite, ONLY, Object::of_file(ctx.arg(0)), Naming::default())
        }
    })
}

#[lsm(hook = "path_mknod")]
pub fn path_mknod(ctx: LsmContext) -> i32 {
    supervised(|f| {
        let mode: u32 = ctx.arg(2);
        let kind = mode & S_IFMT;
        let op = if kind == 0 || kind == S_IFREG || kind == S_IFSOCK { Operation::Create } else { Operation::Mknod };
        // SAFETY: hook arguments are typed pointers.
        unsafe {
            (*f.s).head.arg = mode as u64 & 0xffff;
            // What was allowed to be made in another open is not this.
            (*f.task).passed = 0;
            one_object(f, op, ONLY, Object::in_dir(ctx.arg(0), ctx.arg(1)).unborn(), Naming::default())
        }
    })
}

#[lsm(hook = "path_mkdir")]
pub fn path_mkdir(ctx: LsmContext) -> i32 {
    supervised(|f| {
        let mode: u32 = ctx.arg(2);
        // SAFETY: hook arguments are typed pointers.
        unsafe {
            (*f.s).head.arg = mode as u64 & 0xffff;
            let o = Object::in_dir(ctx.arg(0), ctx.arg(1)).unborn();
            one_object(f, Operation::Mkdir, ONLY, o, Naming::default())
        }
    })
}

#[lsm(hook = "path_rmdir")]
pub fn path_rmdir(ctx: LsmContext) -> i32 {
    supervised(|f| {
        // SAFETY: hook arguments are typed pointers.
        unsafe { one_object(f, Operation::Rmdir, ONLY, Object::in_dir(ctx.arg(0), ctx.arg(1)), Naming::default()) }
    })
}

#[lsm(hook = "path_unlink")]
pub fn path_unlink(ctx: LsmContext) -> i32 {
    supervised(|f| {
        // SAFETY: hook arguments are typed pointers.
        unsafe { one_object(f, Operation::Unlink, ONLY, Object::in_dir(ctx.arg(0), ctx.arg(1)), Naming::default()) }
    })
}

#[lsm(hook = "path_symlink")]
pub fn path_symlink(ctx: LsmContext) -> i32 {
    supervised(|f| {
        // SAFETY: hook arguments are typed pointers; the target is a kernel string.
        unsafe {
            text(f.s, ctx.arg::<*const c_void>(2));
            let o = Object::in_dir(ctx.arg(0), ctx.arg(1)).unborn();
            one_object(f, Operation::Symlink, ONLY, o, Naming::default())
        }
    })
}

/// Puts a kernel string at the end of the event. One that cannot be read is left out and flagged.
#[inline(never)]
pub fn text(s: *mut Scratch, from: *const c_void) -> u32 {
    if s.is_null() {
        return 0;
    }
    // SAFETY: `s` is a valid map value. The text is read twice: once at the buffer's start to learn its
    // length, once where it belongs.
    unsafe {
        let buf = (&raw mut (*s).buf).cast::<u8>();
        let n = bpf_probe_read_kernel_str(buf.cast(), 4096, from);
        if n <= 1 || n > 4096 {
            (*s).head.flags |= FLAG_PATH_CUT;
            return 0;
        }
        let len = (n as u32 - 1) & 4095;
        let at = (END as u32 - len) & 16383;
        if bpf_probe_read_kernel(buf.add(at as usize).cast(), len, from) != 0 {
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
    supervised(|f| {
        // SAFETY: hook arguments are typed pointers.
        unsafe { one_object(f, Operation::Truncate, ONLY, Object::of_path(ctx.arg(0)), Naming::default()) }
    })
}

#[lsm(hook = "file_truncate")]
pub fn file_truncate(ctx: LsmContext) -> i32 {
    supervised(|f| {
        // SAFETY: hook arguments are typed pointers.
        unsafe { one_object(f, Operation::Truncate, ONLY, Object::of_file(ctx.arg(0)), Naming::default()) }
    })
}

#[lsm(hook = "path_chmod")]
pub fn path_chmod(ctx: LsmContext) -> i32 {
    supervised(|f| {
        let mode: u32 = ctx.arg(1);
        // SAFETY: hook arguments are typed pointers.
        unsafe {
            (*f.s).head.arg = mode as u64 & 0xffff;
            one_object(f, Operation::Chmod, ONLY, Object::of_path(ctx.arg(0)), Naming::default())
        }
    })
}

#[lsm(hook = "path_chown")]
pub fn path_chown(ctx: LsmContext) -> i32 {
    supervised(|f| {
        let (uid, gid): (u32, u32) = (ctx.arg(1), ctx.arg(2));
        // SAFETY: hook arguments are typed pointers.
        unsafe {
            (*f.s).head.arg = (uid as u64) << 32 | gid as u64;
            one_object(f, Operation::Chown, ONLY, Object::of_path(ctx.arg(0)), Naming::default())
        }
    })
}

#[lsm(hook = "inode_setxattr")]
pub fn inode_setxattr(ctx: LsmContext) -> i32 {
    xattr(ctx.arg(1), ctx.arg(2))
}

#[lsm(hook = "inode_removexattr")]
pub fn inode_removexattr(ctx: LsmContext) -> i32 {
    xattr(ctx.arg(1), ctx.arg(2))
}

#[lsm(hook = "inode_set_acl")]
pub fn inode_set_acl(ctx: LsmContext) -> i32 {
    xattr(ctx.arg(1), ctx.arg(2))
}

/// Changing an attribute: the kernel says of which dentry, not by which mount; so it is named by its home mount.
#[inline(always)]
fn xattr(dentry: *const c_void, attribute: *const c_void) -> i32 {
    supervised(|f| {
        // SAFETY: hook arguments are typed pointers; the attribute's name is a kernel string.
        unsafe {
            let sb: *const c_void = typed(dentry, &OFF_DENTRY_D_SB);
            let mnt = names::some_mount(f.s, f.scratch, sb);
            if mnt == 0 {
                return fail_closed(f, Operation::Setxattr, Cause::ReadFailed);
            }
            text(f.s, attribute);
            let o = Object { mnt, dentry, inode: dentry_inode(dentry) };
            one_object(f, Operation::Setxattr, ONLY, o, Naming::default())
        }
    })
}

/// The facets of one end of a rename or link: on the source also a read and a write of it, on the target
/// also a write there.
#[inline(always)]
fn end_facets(f: &Frame, op: Operation, source: bool) -> Verdict {
    let mut verdict = decide(f, op, Shape::Object);
    if source {
        verdict = stricter(verdict, decide(f, Operation::OpenRead, Shape::Object));
    }
    stricter(verdict, decide(f, Operation::OpenWrite, Shape::Object))
}

/// Decides an action on two names. The target's path is built first: it stands after the source's.
#[inline(always)]
unsafe fn two_objects(f: &Frame, op: Operation, from: Object, to: Object, exchange: bool) -> i32 {
    // SAFETY: the frame's pointers are valid map values; the objects' are typed.
    unsafe {
        (*f.s).head.object = object(from.inode);
        if exchange {
            (*f.s).head.flags |= FLAG_EXCHANGE;
        }
        if let Err(cause) = prepare(f) {
            return fail_closed(f, op, cause);
        }
        let above = over(f, &from) || exchange && over(f, &to);
        let how = Naming { above, program: false, end: true };
        match name(f, to, how) {
            Ok(len) => (*f.s).head.path2_len = len,
            Err(cause) => return fail_closed(f, op, cause),
        }
        let target = end_facets(f, op, exchange);
        match name(f, from, how) {
            Ok(len) => (*f.s).head.path_len = len,
            Err(cause) => return fail_closed(f, op, cause),
        }
        // It is about to have a second name: what the first one satisfies must be known under that.
        if op as u8 == Operation::Link as u8
            && from.mode() & S_IFMT == S_IFREG
            && names::linked(f.scratch, from.inode, (*f.policy).generation).is_err()
        {
            return fail_closed(f, op, Cause::NoMemory);
        }
        let verdict = stricter(end_facets(f, op, true), target);
        let verdict = hold::settle(f, op, verdict);
        if !from.inode.is_null() && passes(f, verdict) {
            (*f.s).carried = context::carried(from.inode);
        }
        conclude(f, op, verdict)
    }
}

#[lsm(hook = "path_rename")]
pub fn path_rename(ctx: LsmContext) -> i32 {
    supervised(|f| {
        let flags: u32 = ctx.arg(4);
        // SAFETY: hook arguments are typed pointers.
        unsafe {
            let from = Object::in_dir(ctx.arg(0), ctx.arg(1));
            let to = Object::in_dir(ctx.arg(2), ctx.arg(3));
            two_objects(f, Operation::Rename, from, to, flags & RENAME_EXCHANGE != 0)
        }
    })
}

#[lsm(hook = "path_link")]
pub fn path_link(ctx: LsmContext) -> i32 {
    supervised(|f| {
        let dir: *const c_void = ctx.arg(1);
        // SAFETY: hook arguments are typed pointers. Both names are in one mount, else the kernel refuses.
        unsafe {
            let from = Object::in_dir(dir, ctx.arg(0));
            let to = Object::in_dir(dir, ctx.arg(2)).unborn();
            two_objects(f, Operation::Link, from, to, false)
        }
    })
}
