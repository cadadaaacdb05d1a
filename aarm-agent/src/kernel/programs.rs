//! Which programs the object holds and where each attaches. The one list of hooks in user space.

use aya::programs::links::FdLink;
use aya::programs::{BtfTracePoint, Lsm, ProgramError};
use aya::{Btf, Ebpf};

use super::error::KernelError;

/// Programs on security hooks; a program has the name of its hook, and a second one on a hook `hook__what`.
pub const LSM: &[&str] = &[
    "bprm_check_security",
    "bprm_creds_from_file",
    "bprm_committed_creds",
    "file_open",
    "file_permission",
    "file_receive",
    "mmap_file",
    "mmap_file__data",
    "file_mprotect",
    "file_ioctl",
    "file_ioctl_compat",
    "path_mknod",
    "path_mkdir",
    "path_rmdir",
    "path_unlink",
    "path_symlink",
    "path_truncate",
    "path_chmod",
    "path_chown",
    "path_rename",
    "path_link",
    "file_truncate",
    "inode_setxattr",
    "inode_removexattr",
    "inode_set_acl",
    "socket_create",
    "socket_connect",
    "socket_bind",
    "socket_listen",
    "socket_accept",
    "socket_sendmsg",
    "socket_recvmsg",
    "unix_stream_connect",
    "unix_may_send",
    "task_kill",
    "ptrace_access_check",
    "ptrace_traceme",
    "task_setrlimit",
    "task_prctl",
    "shm_alloc_security",
    "msg_queue_alloc_security",
    "key_alloc",
    "shm_shmat",
    "msg_queue_msgsnd",
    "msg_queue_msgrcv",
    "key_permission",
    "sb_mount",
    "move_mount",
    "sb_umount",
    "sb_pivotroot",
    "path_chroot",
    "task_fix_setuid",
    "capset",
    "userns_create",
    "bpf",
    "perf_event_open",
    "kernel_read_file",
    "kernel_load_data",
    "kernel_module_request",
    "uring_cmd",
    "uring_override_creds",
    "task_free",
    "task_alloc",
];

/// Hooks that a kernel may lack: there the action does not exist, or another hook sees it.
pub const OPTIONAL: &[(&str, &str)] = &[
    ("file_truncate", "before 6.2 path_truncate sees it"),
    ("file_ioctl_compat", "before 6.8 file_ioctl sees it"),
    ("inode_set_acl", "before 6.2 inode_setxattr sees it"),
    ("uring_cmd", "the kernel has no io_uring"),
    ("uring_override_creds", "the kernel has no io_uring"),
    ("key_alloc", "the kernel has no keys"),
    ("key_permission", "the kernel has no keys"),
    ("perf_event_open", "the kernel has no perf events"),
];

/// The hook of a program.
pub fn hook(program: &'static str) -> &'static str {
    program.split("__").next().unwrap_or(program)
}

/// Whether a kernel that lacks the hook is still one to enforce on.
pub fn is_optional(name: &str) -> bool {
    OPTIONAL.iter().any(|(hook, _)| *hook == name)
}

/// Programs on tracepoints; a program has the name of its tracepoint.
pub const TRACEPOINTS: &[&str] = &["sched_process_exec", "sched_process_fork", "sched_process_exit"];

/// The names that this kernel has a place for, in the order of attachment: inheritance and exit first, so that no
/// session can leak.
pub fn names(kernel: &super::btf::Btf) -> impl Iterator<Item = &'static str> {
    let there = |name: &&&str| !is_optional(name) || kernel.has_function(&format!("bpf_lsm_{name}"));
    TRACEPOINTS.iter().chain(LSM.iter().rev().filter(there)).copied()
}

/// Loads and attaches one program.
pub fn attach(object: &mut Ebpf, name: &'static str, btf: &Btf) -> Result<FdLink, KernelError> {
    let refused = |source| KernelError::Program { program: name, source };
    let program = object.program_mut(name).ok_or(KernelError::NoProgram(name))?;
    let link: Result<FdLink, ProgramError> = if TRACEPOINTS.contains(&name) {
        let p: &mut BtfTracePoint = program.try_into().map_err(refused)?;
        p.load(name, btf).map_err(refused)?;
        let id = p.attach().map_err(refused)?;
        p.take_link(id).map(Into::into)
    } else {
        let p: &mut Lsm = program.try_into().map_err(refused)?;
        p.load(hook(name), btf).map_err(refused)?;
        let id = p.attach().map_err(refused)?;
        p.take_link(id).map(Into::into)
    };
    link.map_err(refused)
}
