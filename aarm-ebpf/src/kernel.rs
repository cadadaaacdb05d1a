//! Reading kernel structures: member offsets, and the two ways to read.
//!
//! The offsets are globals that the daemon sets from the running kernel's BTF before it loads the object, so
//! the verifier sees constants and one object serves every kernel.
//!
//! - [`typed`]: a plain load through a pointer whose type the verifier knows (hook arguments, the current
//!   task, and what they point to). One instruction.
//! - [`read`]: through `bpf_probe_read_kernel`, for pointers that passed through memory.

use aarm_common::state::ObjectId;
use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_probe_read_kernel};
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
    OFF_VFSMOUNT_MNT_ROOT;
    OFF_MOUNT_MNT;
    OFF_MOUNT_MNT_PARENT;
    OFF_MOUNT_MNT_MOUNTPOINT;
    OFF_LINUX_BINPRM_FILE;
    OFF_TASK_STRUCT_PID;
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
    OFF_SOCKET_SK;
    OFF_SOCKET_TYPE;
    OFF_SOCK_SK_PROTOCOL;
    OFF_SOCK_SKC_FAMILY;
    OFF_SOCK_SKC_NUM;
    OFF_SOCK_SKC_RCV_SADDR;
    OFF_SOCK_SKC_V6_RCV_SADDR;
    OFF_MSGHDR_MSG_NAME;
    OFF_MSGHDR_MSG_NAMELEN;
    OFF_UNIX_SOCK_ADDR;
    OFF_UNIX_SOCK_PATH;
    OFF_UNIX_ADDRESS_LEN;
    OFF_UNIX_ADDRESS_NAME;
}

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

/// The current task, typed.
#[inline(always)]
pub fn current() -> *mut c_void {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_task_btf().cast() }
}

/// Identity of an inode given by typed pointer; zeros for none.
#[inline(always)]
pub fn object(inode: *const c_void) -> ObjectId {
    if inode.is_null() {
        return ObjectId::default();
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
        // SAFETY: `path` is typed by contract.
        unsafe { Self { mnt: typed(path, &OFF_PATH_MNT), dentry: typed(path, &OFF_PATH_DENTRY) } }
    }

    /// From a typed `struct file *`.
    #[inline(always)]
    pub fn of_file(file: *const c_void) -> Self {
        // SAFETY: as above; `f_path` is embedded.
        unsafe { Self::of_path(file.byte_add(off(&OFF_FILE_F_PATH))) }
    }

    /// The entry `dentry` in the directory with this typed `struct path *`.
    #[inline(always)]
    pub fn in_dir(dir: *const c_void, dentry: *const c_void) -> Self {
        // SAFETY: `dir` is typed by contract.
        unsafe { Self { mnt: typed(dir, &OFF_PATH_MNT), dentry: dentry as u64 } }
    }
}

/// The inode of a typed dentry; null for a name that does not exist yet.
#[inline(always)]
pub fn dentry_inode(dentry: *const c_void) -> *const c_void {
    // SAFETY: `dentry` is typed by contract.
    unsafe { typed(dentry, &OFF_DENTRY_D_INODE) }
}
