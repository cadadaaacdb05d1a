//! Operations, families and decisions: the vocabulary of `policy-language.md`, with stable numbers.
//!
//! The numbers cross the kernel boundary and are written into receipts by name; they are never reused.

/// Declares a `repr(u8)` enum with names and checked conversion from a byte.
macro_rules! named_u8 {
    ($(#[$meta:meta])* $name:ident { $($(#[$vm:meta])* $variant:ident = $value:literal => $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$vm])* $variant = $value,)+ }

        impl $name {
            /// Every value, in the order of its number.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The value with this number, or `None` for a byte that names none.
            pub const fn from_u8(byte: u8) -> Option<Self> {
                match byte { $($value => Some($name::$variant),)+ _ => None }
            }

            /// The name used in policies, receipts and metrics.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }

            /// The value with this name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some($name::$variant),)+ _ => None }
            }
        }
    };
}
pub(crate) use named_u8;

named_u8! {
    /// A family of operations: the unit of a policy's `defaults`.
    Family {
        /// Running code.
        Exec = 0 => "exec",
        /// Reading objects.
        Read = 1 => "read",
        /// Changing objects or the tree of names.
        Write = 2 => "write",
        /// Talking to anything through a socket.
        Network = 3 => "network",
        /// Reaching into processes outside the session.
        Process = 4 => "process",
        /// What only a privileged process may do.
        Privileged = 5 => "privileged",
        /// The agent's own tool calls, from the semantic feed.
        Tool = 6 => "tool",
    }
}

named_u8! {
    /// What was decided about an action.
    Decision {
        /// The action runs unchanged.
        Allow = 1 => "ALLOW",
        /// The action fails without effect.
        Deny = 2 => "DENY",
        /// The action runs with changed parameters.
        Modify = 3 => "MODIFY",
        /// The action waits for a person.
        StepUp = 4 => "STEP_UP",
        /// The action waits for missing context.
        Defer = 5 => "DEFER",
    }
}

/// Declares the operations with their family, the hook that sees them, and whether this version decides them.
macro_rules! operations {
    ($($(#[$vm:meta])* $variant:ident = $value:literal => $text:literal, $family:ident, $hook:literal, $decided:literal;)+) => {
        named_u8! {
            /// One operation of the policy language.
            Operation { $($(#[$vm])* $variant = $value => $text,)+ }
        }
        impl Operation {
            /// The family the operation belongs to.
            pub const fn family(self) -> Family {
                match self { $(Operation::$variant => Family::$family,)+ }
            }
            /// The kernel hook that decides the operation; empty while none does.
            pub const fn hook(self) -> &'static str {
                match self { $(Operation::$variant => $hook,)+ }
            }
            /// Whether this version decides the operation. A rule on any other is refused when it is loaded.
            pub const fn is_decided(self) -> bool {
                match self { $(Operation::$variant => $decided,)+ }
            }
        }
    };
}

operations! {
    /// Running a program.
    Exec = 0 => "exec", Exec, "bprm_check_security", true;
    /// The exact command line, at the first instruction of the new image: what `args` and `argv` in rules on `exec` are decided as.
    ExecArgs = 1 => "exec_args", Exec, "bprm_committed_creds", false;
    /// Mapping a file executable: the loader, shared libraries.
    MmapExec = 2 => "mmap_exec", Exec, "mmap_file", true;
    /// Making memory executable.
    MprotectExec = 3 => "mprotect_exec", Exec, "file_mprotect", true;

    /// Opening for reading.
    OpenRead = 4 => "open_read", Read, "file_open", true;
    /// Receiving a descriptor over a socket.
    ReceiveFd = 5 => "receive_fd", Read, "file_receive", true;

    /// Opening for writing.
    OpenWrite = 6 => "open_write", Write, "file_open", true;
    /// Creating a regular file or a socket name.
    Create = 7 => "create", Write, "path_mknod", true;
    /// Creating a directory.
    Mkdir = 8 => "mkdir", Write, "path_mkdir", true;
    /// Creating a FIFO or a device node.
    Mknod = 9 => "mknod", Write, "path_mknod", true;
    /// Creating a symbolic link.
    Symlink = 10 => "symlink", Write, "path_symlink", true;
    /// Creating a hard link; decided on both ends.
    Link = 11 => "link", Write, "path_link", true;
    /// Renaming or exchanging; decided on both ends.
    Rename = 12 => "rename", Write, "path_rename", true;
    /// Removing a name.
    Unlink = 13 => "unlink", Write, "path_unlink", true;
    /// Removing a directory.
    Rmdir = 14 => "rmdir", Write, "path_rmdir", true;
    /// Changing a file's length by name.
    Truncate = 15 => "truncate", Write, "path_truncate", true;
    /// Changing permission bits.
    Chmod = 16 => "chmod", Write, "path_chmod", true;
    /// Changing the owner.
    Chown = 17 => "chown", Write, "path_chown", true;
    /// Changing an extended attribute.
    Setxattr = 18 => "setxattr", Write, "inode_setxattr", true;
    /// An ioctl that writes.
    IoctlWrite = 19 => "ioctl_write", Write, "file_ioctl", true;

    /// Creating a socket.
    Socket = 20 => "socket", Network, "socket_create", true;
    /// Connecting to an address.
    Connect = 21 => "connect", Network, "socket_connect", true;
    /// Sending to an address given with the message.
    Send = 22 => "send", Network, "socket_sendmsg", true;
    /// Binding to a local address.
    Bind = 23 => "bind", Network, "socket_bind", true;
    /// Waiting for connections.
    Listen = 24 => "listen", Network, "socket_listen", true;
    /// Accepting a connection.
    Accept = 25 => "accept", Network, "socket_accept", true;
    /// Connecting to a unix socket.
    UnixConnect = 26 => "unix_connect", Network, "unix_stream_connect", true;
    /// Sending to a unix datagram socket.
    UnixSend = 27 => "unix_send", Network, "unix_may_send", true;

    /// Signalling a task outside the session.
    Signal = 28 => "signal", Process, "task_kill", true;
    /// ptrace and its relatives.
    Ptrace = 29 => "ptrace", Process, "ptrace_access_check", true;
    /// Changing the limits of another process.
    Prlimit = 30 => "prlimit", Process, "task_setrlimit", true;
    /// System V shared memory.
    Shm = 31 => "shm", Process, "shm_shmat", true;
    /// Message queues.
    Mqueue = 32 => "mqueue", Process, "msg_queue_msgsnd", true;
    /// Kernel keys.
    Key = 33 => "key", Process, "key_permission", true;

    /// Mounting.
    Mount = 34 => "mount", Privileged, "sb_mount", true;
    /// Unmounting.
    Umount = 35 => "umount", Privileged, "sb_umount", true;
    /// chroot and pivot_root.
    Chroot = 36 => "chroot", Privileged, "path_chroot", true;
    /// Changing user ids.
    Setuid = 37 => "setuid", Privileged, "task_fix_setuid", true;
    /// Changing capabilities.
    Capset = 38 => "capset", Privileged, "capset", true;
    /// Creating a user namespace.
    Userns = 39 => "userns", Privileged, "userns_create", true;
    /// The bpf system call.
    Bpf = 40 => "bpf", Privileged, "bpf", true;
    /// perf_event_open.
    Perf = 41 => "perf", Privileged, "perf_event_open", true;
    /// Loading kernel modules.
    Module = 42 => "module", Privileged, "kernel_read_file", true;
    /// Loading another kernel.
    Kexec = 43 => "kexec", Privileged, "kernel_load_data", true;
    /// /dev/mem and the like.
    RawMemory = 44 => "raw_memory", Privileged, "file_open", true;
    /// Writing kernel parameters.
    SysctlWrite = 45 => "sysctl_write", Privileged, "file_open", true;
    /// io_uring command passthrough.
    UringCmd = 46 => "uring_cmd", Privileged, "uring_cmd", true;
}

/// Rows of a table indexed by [`Operation`]; a power of two, so that a masked index stays inside.
pub const OPERATIONS: usize = 64;
/// Rows of a table indexed by [`Family`].
pub const FAMILIES: usize = 8;

const _: () = assert!(Operation::ALL.len() <= OPERATIONS && Family::ALL.len() <= FAMILIES);

impl Operation {
    /// Whether the operation acts on an IP or other socket address (`cidr`, `port`, `protocol`).
    pub const fn has_address(self) -> bool {
        matches!(
            self,
            Operation::Connect | Operation::Send | Operation::Bind | Operation::Listen | Operation::Accept
        )
    }

    /// Whether the operation has a socket, and so an address family, type and protocol.
    pub const fn has_socket(self) -> bool {
        self.has_address() || matches!(self, Operation::Socket)
    }

    /// Whether the object of the operation has a path.
    pub const fn has_path(self) -> bool {
        matches!(self.family(), Family::Exec | Family::Read | Family::Write)
            || matches!(
                self,
                Operation::UnixConnect
                    | Operation::UnixSend
                    | Operation::Mount
                    | Operation::Umount
                    | Operation::Chroot
                    | Operation::Module
                    | Operation::Kexec
                    | Operation::RawMemory
                    | Operation::SysctlWrite
            )
    }

    /// Hooks that decide the operation as well, and since which kernel where that is later than the first that is supported,
    /// 6.1. Source: `include/linux/lsm_hook_defs.h` of the releases.
    pub const fn other_hooks(self) -> &'static str {
        match self {
            Operation::OpenRead | Operation::OpenWrite => {
                "`file_permission`, `mmap_file` for descriptors from before the session"
            }
            Operation::Truncate => "`file_truncate` from 6.2, `file_open` for O_TRUNC",
            Operation::Setxattr => "`inode_removexattr`, `inode_set_acl` from 6.2",
            Operation::IoctlWrite => "`file_ioctl_compat` from 6.8",
            Operation::Socket => {
                "`socket_setsockopt`, `socket_sendmsg` for routes and headers of one's own: as type `raw`"
            }
            Operation::Ptrace => "`ptrace_traceme`, `task_prctl`",
            Operation::Shm => "`shm_alloc_security` for whose it is",
            Operation::Mqueue => "`msg_queue_msgrcv`; `msg_queue_alloc_security` for whose it is",
            Operation::Key => "`key_alloc` for whose it is",
            Operation::Mount => "`move_mount`",
            Operation::Chroot => "`sb_pivotroot`",
            Operation::Setuid => "`bprm_creds_from_file`",
            Operation::Module => "`kernel_module_request`, `kernel_load_data`",
            Operation::UringCmd => "`uring_override_creds`",
            _ => "",
        }
    }

    /// Why an action of this operation cannot wait for its decision in the kernel; empty where it can, because its system call can
    /// be begun anew without having had an effect.
    pub const fn cannot_wait(self) -> &'static str {
        match self {
            Operation::ReceiveFd => "the message has left its queue",
            Operation::Signal => "others of the group may have got it",
            Operation::Ptrace => "the kernel only asks whether, and takes any error for a no",
            Operation::Key => "a search goes on without the key",
            Operation::UringCmd => "requests of a ring do not restart",
            _ => "",
        }
    }

    /// Whether `exe` in a rule means the program that would run rather than the one acting.
    pub const fn is_exec(self) -> bool {
        matches!(self.family(), Family::Exec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_and_name_comes_back() {
        for op in Operation::ALL {
            assert_eq!(Operation::from_u8(*op as u8), Some(*op));
            assert_eq!(Operation::from_name(op.name()), Some(*op));
            // A command line is decided, but rules name the exec.
            assert_eq!(op.is_decided() || *op == Operation::ExecArgs, !op.hook().is_empty());
        }
        assert_eq!(Operation::from_u8(255), None);
        assert_eq!(Decision::from_u8(0), None);
    }
}
