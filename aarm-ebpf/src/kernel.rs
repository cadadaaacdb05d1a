//! Reading kernel structures: member offsets, and the two ways to read.
//!
//! The offsets are globals that the daemon sets from the running kernel's BTF before it loads the object, so
//! the verifier sees constants and one object serves every kernel.
//!
//! - [`typed`]: a plain load through a pointer whose type the verifier knows (hook arguments, the current
//!   task, and what they point to). One instruction.
//! - [`read`]: through `bpf_probe_read_kernel`, for pointers that passed through memory.

use aarm_common::state::{ObjectId, ObjectKey};
use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_get_current_uid_gid;
use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_get_func_arg, bpf_probe_read_kernel};
use aya_ebpf::programs::LsmContext;
use core::ffi::c_void;

/// Declares the offsets. The names are those of the kernel's members, and what the daemon looks up.
macro_rules! offsets {
    ($($(#[$meta:meta])* $name:ident;)+) => { $(
        $(#[$meta])*
        #[unsafe(no_mangle)]
        pub static $name: u32 = 0;
    )+ };
}

offsets! {
    OFF_FILE_F_PATH;
    OFF_FILE_F_MODE;
    OFF_FILE_F_FLAGS;
    OFF_FILE_F_INODE;
    OFF_PATH_MNT;
    OFF_PATH_DENTRY;
    OFF_DENTRY_D_PARENT;
    OFF_DENTRY_D_INODE;
    OFF_INODE_I_INO;
    OFF_INODE_I_MODE;
    OFF_INODE_I_SB;
    OFF_SUPER_BLOCK_S_DEV;
    OFF_INODE_I_NLINK;
    OFF_INODE_I_RDEV;
    OFF_INODE_I_GENERATION;
    OFF_INODE_I_DENTRY;
    OFF_DENTRY_D_NAME_HASH;
    OFF_DENTRY_D_NAME_LEN;
    OFF_DENTRY_D_SB;
    OFF_DENTRY_D_ALIAS;
    OFF_SUPER_BLOCK_S_MOUNTS;
    OFF_SUPER_BLOCK_S_ROOT;
    OFF_SUPER_BLOCK_S_MAGIC;
    OFF_VFSMOUNT_MNT_ROOT;
    OFF_MOUNT_MNT;
    OFF_MOUNT_MNT_PARENT;
    /// Mounts of a filesystem as a list, oldest first (before 6.18); 0: not so.
    OFF_MOUNT_MNT_INSTANCE;
    /// Mounts of a filesystem as a chain, newest first (from 6.18); 0: not so.
    OFF_MOUNT_NEXT_FOR_SB;
    OFF_MOUNT_MNT_NS;
    OFF_MNT_NAMESPACE_INUM;
    OFF_LINUX_BINPRM_FILE;
    OFF_LINUX_BINPRM_FILENAME;
    OFF_LINUX_BINPRM_INTERP;
    OFF_TASK_STRUCT_PID;
    OFF_TASK_STRUCT_FLAGS;
    OFF_TASK_STRUCT_PTRACE;
    OFF_PT_REGS_AX;
    OFF_PT_REGS_ORIG_AX;
    OFF_PT_REGS_DI;
    OFF_PT_REGS_SI;
    OFF_PT_REGS_DX;
    OFF_PT_REGS_R10;
    OFF_PT_REGS_R8;
    OFF_PT_REGS_R9;
    OFF_PT_REGS_IP;
    OFF_PT_REGS_SP;
    OFF_TASK_STRUCT_TGID;
    OFF_TASK_STRUCT_REAL_PARENT;
    OFF_TASK_STRUCT_MM;
    OFF_TASK_STRUCT_FS;
    OFF_TASK_STRUCT_SIGNAL;
    OFF_TASK_STRUCT_EXIT_CODE;
    OFF_SIGNAL_STRUCT_LIVE;
    OFF_MM_STRUCT_EXE_FILE;
    OFF_MM_STRUCT_ARG_START;
    OFF_MM_STRUCT_ARG_END;
    OFF_FS_STRUCT_PWD;
    OFF_TASK_STRUCT_FILES;
    OFF_FILES_STRUCT_FDT;
    OFF_FDTABLE_MAX_FDS;
    OFF_FDTABLE_FD;
    OFF_CRED_UID;
    OFF_CRED_GID;
    OFF_CRED_EUID;
    OFF_CRED_FSUID;
    OFF_TASK_STRUCT_CRED;
    OFF_TASK_STRUCT_COMM;
    OFF_LINUX_BINPRM_CRED;
    OFF_VM_AREA_STRUCT_VM_FILE;
    OFF_VM_AREA_STRUCT_VM_FLAGS;
    OFF_SOCKET_SK;
    OFF_SOCKET_STATE;
    OFF_SOCKET_TYPE;
    OFF_SOCK_SK_PROTOCOL;
    OFF_SOCK_SKC_FAMILY;
    OFF_SOCK_SKC_NUM;
    OFF_SOCK_SKC_RCV_SADDR;
    OFF_SOCK_SKC_V6_RCV_SADDR;
    OFF_SOCK_SKC_NET;
    OFF_NET_INUM;
    OFF_MSGHDR_MSG_NAME;
    OFF_MSGHDR_MSG_NAMELEN;
    OFF_MSGHDR_MSG_FLAGS;
    OFF_MSGHDR_MSG_CONTROL;
    OFF_MSGHDR_MSG_CONTROLLEN;
    OFF_SOCKET_FILE;
    OFF_SOCK_SK_SOCKET;
    OFF_UNIX_SOCK_PEER;
    OFF_UNIX_SOCK_ADDR;
    OFF_UNIX_SOCK_PATH;
    OFF_UNIX_ADDRESS_LEN;
    OFF_UNIX_ADDRESS_NAME;
    OFF_TASK_STRUCT_CGROUPS;
    OFF_CSS_SET_DFL_CGRP;
    OFF_CGROUP_KN;
    OFF_KERNFS_NODE_ID;
    OFF_KERNFS_NODE_NAME;
    OFF_KERNFS_NODE_PARENT;
}

/// Bits of a mode that are the file's type.
pub const S_IFMT: u32 = 0o170000;
/// A regular file.
pub const S_IFREG: u32 = 0o100000;
/// A directory.
pub const S_IFDIR: u32 = 0o040000;
/// A block device.
pub const S_IFBLK: u32 = 0o060000;
/// A character device.
pub const S_IFCHR: u32 = 0o020000;
/// A socket's name.
pub const S_IFSOCK: u32 = 0o140000;
/// A pipe.
pub const S_IFIFO: u32 = 0o010000;

/// The value of an offset. Volatile, so that it is read from the loaded object and not folded to 0.
#[inline(always)]
pub fn off(offset: &'static u32) -> usize {
    // SAFETY: a reference is valid to read.
    unsafe { core::ptr::read_volatile(offset) as usize }
}

/// Loads a member through a pointer the verifier knows the type of. A null or stale pointer reads as 0.
///
/// # Safety
/// `base` must be a typed kernel pointer that has not passed through memory the verifier cannot follow.
#[inline(always)]
pub unsafe fn typed<T: Copy>(base: *const c_void, offset: &'static u32) -> T {
    // SAFETY: the verifier checks the access against the kernel's type.
    unsafe { core::ptr::read_volatile(base.byte_add(off(offset)).cast()) }
}

/// Reads `T` from kernel memory at `base + offset`.
#[inline(always)]
pub fn read<T: Plain>(base: u64, offset: usize) -> Result<T, ()> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the destination is a local of that size; the source may be anything, the helper checks it and
    // fills the whole destination, with zeros if it fails.
    unsafe {
        let from = (base + offset as u64) as *const c_void;
        let failed = bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, from);
        if failed == 0 { Ok(value.assume_init()) } else { Err(()) }
    }
}

/// Types of which every bit pattern is a value.
///
/// # Safety
/// As it says.
pub unsafe trait Plain: Copy {}
// SAFETY: integers.
unsafe impl Plain for u32 {}
// SAFETY: integers.
unsafe impl Plain for u64 {}
// SAFETY: integers.
unsafe impl Plain for [u64; 2] {}
// SAFETY: integers.
unsafe impl Plain for [u32; 4] {}

/// The same number, but the compiler does not know where it came from: a check that follows is compiled as
/// written, on the whole register, which is the form in which the verifier learns from it.
#[inline(always)]
pub fn opaque(mut n: u64) -> u64 {
    // SAFETY: a local.
    unsafe { core::ptr::read_volatile(&raw mut n) }
}

/// A kernel pointer as a number, to calculate with. It goes through `by`, a place in a map: what comes out of one is no
/// pointer to the verifier.
///
/// # Safety
/// `by` must be in a valid map value that nobody else uses.
#[inline(always)]
pub unsafe fn number(pointer: u64, by: *mut u64) -> u64 {
    // SAFETY: by the caller's word.
    unsafe {
        core::ptr::write_volatile(by, pointer);
        core::ptr::read_volatile(by)
    }
}

/// Number of the inode of a socket, given as `struct sock *`. Fails for one that no process holds.
#[inline(always)]
pub fn socket_inode(sk: u64) -> Result<u64, ()> {
    let socket = read::<u64>(sk, off(&OFF_SOCK_SK_SOCKET))?;
    let file = read::<u64>(socket, off(&OFF_SOCKET_FILE))?;
    let inode = read::<u64>(file, off(&OFF_FILE_F_INODE))?;
    read::<u64>(inode, off(&OFF_INODE_I_INO))
}

/// Whether a pointer argument of the hook is null. From 6.8 to 6.13 the verifier believes that none ever is, and drops the check
/// from a program that compares the typed argument; the load that follows then crashes the task in the kernel.
#[inline(always)]
pub fn is_null(ctx: &LsmContext, n: u32) -> bool {
    let mut value = 0u64;
    // SAFETY: a local.
    unsafe { bpf_get_func_arg(ctx.as_ptr(), n, &raw mut value) != 0 || value == 0 }
}

/// The current task, typed.
#[inline(always)]
pub fn current() -> *mut c_void {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_task_btf().cast() }
}

/// Real user and group of the current task, in the initial user namespace: what `bpf_get_current_uid_gid` gives, without the
/// hundred instructions in which it maps an identity.
#[inline(always)]
pub fn user() -> (u32, u32) {
    // SAFETY: typed pointers; a task's credentials live as long as it.
    unsafe {
        let cred: *const c_void = typed(current(), &OFF_TASK_STRUCT_CRED);
        if cred.is_null() {
            let both = bpf_get_current_uid_gid();
            return (both as u32, (both >> 32) as u32);
        }
        (typed(cred, &OFF_CRED_UID), typed(cred, &OFF_CRED_GID))
    }
}

/// Identity of an inode given by typed pointer; zeros for none.
#[inline(always)]
pub fn object(inode: *const c_void) -> ObjectId {
    if inode.is_null() {
        return ObjectId { ino: 0, dev: 0, mode: 0 };
    }
    // SAFETY: `inode` is typed by contract, and so is what it points to.
    unsafe {
        let sb: *const c_void = typed(inode, &OFF_INODE_I_SB);
        ObjectId {
            ino: typed(inode, &OFF_INODE_I_INO),
            dev: typed(sb, &OFF_SUPER_BLOCK_S_DEV),
            mode: typed::<u16>(inode, &OFF_INODE_I_MODE) as u32,
        }
    }
}

/// What a file is known by, whatever its names.
#[inline(always)]
pub fn object_key(inode: *const c_void) -> ObjectKey {
    let id = object(inode);
    // SAFETY: `inode` is typed by contract.
    let generation = unsafe { typed(inode, &OFF_INODE_I_GENERATION) };
    ObjectKey { ino: id.ino, dev: id.dev, generation }
}

/// A place in the tree: where a walk begins.
#[derive(Clone, Copy)]
pub struct Place {
    /// `struct vfsmount *`.
    pub mnt: u64,
    /// `struct dentry *`.
    pub dentry: u64,
}

impl Place {
    /// From a typed `struct path *`.
    #[inline(always)]
    pub fn of_path(path: *const c_void) -> Self {
        // SAFETY: `path` is typed by contract; its members lie in a row (the daemon checks that they do).
        unsafe {
            let path = path.cast::<u64>();
            Self { mnt: core::ptr::read_volatile(path), dentry: core::ptr::read_volatile(path.add(1)) }
        }
    }

    /// From a typed `struct file *`.
    #[inline(always)]
    pub fn of_file(file: *const c_void) -> Self {
        // SAFETY: as above; `f_path` is embedded.
        unsafe { Self::of_path(file.byte_add(off(&OFF_FILE_F_PATH))) }
    }
}

/// The inode of a typed dentry; null for a name that does not exist yet.
#[inline(always)]
pub fn dentry_inode(dentry: *const c_void) -> *const c_void {
    // SAFETY: `dentry` is typed by contract.
    unsafe { typed(dentry, &OFF_DENTRY_D_INODE) }
}
