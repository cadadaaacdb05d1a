//! Which programs the object holds and where each attaches. The one list of hooks in user space.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use aya::programs::links::{CgroupAttachMode, FdLink, LinkError};
use aya::programs::{CgroupSkbAttachType, Program, ProgramError};
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
    "socket_setsockopt",
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

/// A program where a function of the kernel begins or ends.
pub struct Function {
    /// Its name.
    pub program: &'static str,
    /// The function's.
    pub function: &'static str,
    /// Whether a kernel without the function is still one to enforce on.
    pub optional: bool,
}

const fn on(program: &'static str, function: &'static str) -> Function {
    Function { program, function, optional: true }
}

/// Programs on functions of the kernel.
pub const FUNCTIONS: &[Function] = &[
    Function { program: "arch_dup_task_struct", function: "arch_dup_task_struct", optional: false },
    Function { program: "signals_taken", function: "get_signal", optional: false },
    on("dentry_moves", "__d_move"),
    on("dentry_moved", "__d_move"),
    on("mount_attaches", "__attach_mnt"),
    on("mount_attached", "__attach_mnt"),
    on("mount_shows", "make_visible"),
    on("mount_shown", "make_visible"),
    on("mounts_go", "umount_tree"),
    on("mounts_gone", "umount_tree"),
];

/// Programs on the packets of all cgroups, from which names of hosts are learnt; see [`cgroup_root`].
pub const PACKETS: &[(&str, CgroupSkbAttachType)] =
    &[("dns_answers", CgroupSkbAttachType::Ingress), ("dns_queries", CgroupSkbAttachType::Egress)];

/// Programs on the addresses that sockets of all cgroups reach for, by which connections are redirected; see [`cgroup_root`].
pub const ADDRESSES: &[&str] = &[
    "redirect_connect4",
    "redirect_connect6",
    "redirect_sendmsg4",
    "redirect_sendmsg6",
    "redirect_recvmsg4",
    "redirect_recvmsg6",
];

/// Where the unified hierarchy of cgroups may be mounted: alone, or beside the older ones.
const CGROUP_ROOTS: &[&str] = &["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

/// The root of the unified hierarchy. Without one no names are learnt and nothing is redirected, and a policy that needs either is
/// refused.
pub fn cgroup_root() -> Option<File> {
    use std::os::fd::AsRawFd;
    CGROUP_ROOTS.iter().filter_map(|path| File::open(path).ok()).find(|dir| {
        // SAFETY: an all-zero `statfs` is valid, and the descriptor is open.
        unsafe {
            let mut fs: libc::statfs = std::mem::zeroed();
            libc::fstatfs(dir.as_raw_fd(), &mut fs) == 0 && fs.f_type as i64 == CGROUP2_SUPER_MAGIC
        }
    })
}

/// The names that this kernel has a place for, in the order of attachment: inheritance and exit first, so that no
/// session can leak.
pub fn names(kernel: &super::btf::Btf) -> impl Iterator<Item = &'static str> {
    let there = |name: &&&str| !is_optional(name) || kernel.has_function(&format!("bpf_lsm_{name}"));
    let (packets, addresses) =
        if cgroup_root().is_some() { (PACKETS, ADDRESSES) } else { (&[][..], &[][..]) };
    let packets = packets.iter().map(|(name, _)| *name).chain(addresses.iter().copied());
    let functions =
        FUNCTIONS.iter().filter(|f| !f.optional || kernel.has_function(f.function)).map(|f| &f.program);
    TRACEPOINTS.iter().chain(functions).chain(LSM.iter().rev().filter(there)).copied().chain(packets)
}

/// Most programs that the kernel checks at once: it needs memory for each.
const AT_ONCE: usize = 8;

/// Has the kernel check and load the programs, several at once, which takes most of the time that a start takes. `progress` is told how
/// many are done, and one of them.
pub fn load(
    object: &mut Ebpf,
    names: &[&'static str],
    btf: &Btf,
    progress: impl Fn(usize, &'static str) + Sync,
) -> Result<(), KernelError> {
    // By their names: the object knows them as such only.
    let mut programs: BTreeMap<String, &mut Program> =
        object.programs_mut().map(|(name, program)| (name.to_owned(), program)).collect();
    let mut waiting = Vec::new();
    for name in names {
        waiting.push((*name, programs.remove(*name).ok_or(KernelError::NoProgram(name))?));
    }
    // The order is of no consequence here: nothing is attached yet.
    let waiting = Mutex::new(waiting);
    let done = AtomicUsize::new(0);
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let work = || -> Result<(), KernelError> {
        while let Some((name, program)) = next() {
            load_one(program, name, btf).map_err(|source| {
                // Nobody begins another one.
                waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
                KernelError::Program { program: name, source }
            })?;
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, name);
        }
        Ok(())
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(AT_ONCE);
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        others.into_iter().fold(own, |first, other| {
            first.and(other.join().unwrap_or_else(|e| std::panic::resume_unwind(e)))
        })
    })
}

fn load_one(program: &mut Program, name: &'static str, btf: &Btf) -> Result<(), ProgramError> {
    match program {
        Program::BtfTracePoint(p) => p.load(name, btf),
        Program::FEntry(p) => p.load(function(name), btf),
        Program::FExit(p) => p.load(function(name), btf),
        Program::Lsm(p) => p.load(hook(name), btf),
        Program::CgroupSkb(p) => p.load(),
        Program::CgroupSockAddr(p) => p.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// The function that a program is for.
fn function(program: &'static str) -> &'static str {
    FUNCTIONS.iter().find(|f| f.program == program).map_or(program, |f| f.function)
}

/// Attaches one program that is loaded.
pub fn attach(object: &mut Ebpf, name: &'static str) -> Result<FdLink, KernelError> {
    let refused = |source| KernelError::Program { program: name, source };
    let no_link =
        |e: LinkError| KernelError::io(format!("cannot pin {name}"))(std::io::Error::other(e.to_string()));
    let root = || cgroup_root().ok_or(KernelError::NoProgram(name));
    let link = match object.program_mut(name).ok_or(KernelError::NoProgram(name))? {
        Program::BtfTracePoint(p) => p.attach().and_then(|id| p.take_link(id)).map(Into::into),
        Program::FEntry(p) => p.attach().and_then(|id| p.take_link(id)).map(Into::into),
        Program::FExit(p) => p.attach().and_then(|id| p.take_link(id)).map(Into::into),
        Program::Lsm(p) => p.attach().and_then(|id| p.take_link(id)).map(Into::into),
        Program::CgroupSkb(p) => {
            let direction = PACKETS.iter().find(|(packets, _)| *packets == name);
            let (_, direction) = direction.ok_or(KernelError::NoProgram(name))?;
            // A link takes no flags, and always stands beside those of others.
            let id = p.attach(root()?, *direction, CgroupAttachMode::Single).map_err(refused)?;
            // Links of cgroups are descriptors since 5.7.
            return p.take_link(id).map_err(refused)?.try_into().map_err(no_link);
        }
        Program::CgroupSockAddr(p) => {
            let id = p.attach(root()?, CgroupAttachMode::Single).map_err(refused)?;
            return p.take_link(id).map_err(refused)?.try_into().map_err(no_link);
        }
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    link.map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The benchmark and `aarm doctor` attach the empty programs by the same list.
    #[test]
    fn the_floor_has_a_program_for_each_of_ours() {
        let floor = include_str!("../../../aarm-ebpf/src/floor.rs");
        let words: Vec<&str> = floor.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
        let packets = PACKETS.iter().map(|(name, _)| name).chain(ADDRESSES);
        for name in TRACEPOINTS.iter().chain(FUNCTIONS.iter().map(|f| &f.program)).chain(LSM).chain(packets) {
            assert!(words.contains(name), "floor.rs has no {name}");
        }
    }
}
