//! Which programs the object holds and where each attaches. The one list of hooks in user space.

use aya::programs::links::FdLink;
use aya::programs::{BtfTracePoint, Lsm, ProgramError};
use aya::{Btf, Ebpf};

use super::error::KernelError;

/// Programs on security hooks; a program has the name of its hook.
pub const LSM: &[&str] = &[
    "bprm_check_security",
    "file_open",
    "mmap_file",
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
    "socket_create",
    "socket_connect",
    "socket_bind",
    "socket_listen",
    "socket_sendmsg",
    "unix_stream_connect",
    "unix_may_send",
    "task_alloc",
];

/// Programs on tracepoints; a program has the name of its tracepoint.
pub const TRACEPOINTS: &[&str] = &["sched_process_exec", "sched_process_fork", "sched_process_exit"];

/// All names, in the order of attachment: inheritance and exit first, so that no session can leak.
pub fn names() -> impl Iterator<Item = &'static str> {
    TRACEPOINTS.iter().chain(LSM.iter().rev()).copied()
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
        p.load(name, btf).map_err(refused)?;
        let id = p.attach().map_err(refused)?;
        p.take_link(id).map(Into::into)
    };
    link.map_err(refused)
}
