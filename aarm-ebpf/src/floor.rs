//! Empty programs on the same hooks as the real ones: the floor that benchmarks measure against, and what
//! `aarm doctor` attaches to see whether this kernel lets anything be attached.
#![no_std]
#![no_main]
#![allow(non_snake_case)]

use aya_ebpf::macros::{btf_tracepoint, cgroup_skb, cgroup_sock_addr, fentry, fexit, lsm};
use aya_ebpf::programs::{BtfTracePointContext, FEntryContext, FExitContext, LsmContext, SkBuffContext, SockAddrContext};

/// Declares one empty program for each hook.
macro_rules! empty {
    (lsm: $($hook:ident)+) => { $(
        #[lsm]
        pub fn $hook(_ctx: LsmContext) -> i32 {
            0
        }
    )+ };
    (tracepoint: $($name:ident)+) => { $(
        #[btf_tracepoint]
        pub fn $name(_ctx: BtfTracePointContext) -> i32 {
            0
        }
    )+ };
}

empty! { lsm:
    bprm_check_security bprm_creds_from_file bprm_committed_creds
    file_open file_permission file_receive mmap_file mmap_file__data file_mprotect file_ioctl file_ioctl_compat
    path_mknod path_mkdir path_rmdir path_unlink path_symlink path_truncate path_chmod path_chown path_rename
    path_link file_truncate inode_setxattr inode_removexattr inode_set_acl
    socket_create socket_connect socket_bind socket_listen socket_accept socket_sendmsg socket_recvmsg
    socket_setsockopt
    unix_stream_connect unix_may_send
    task_alloc task_free task_kill ptrace_access_check ptrace_traceme task_setrlimit task_prctl
    shm_alloc_security msg_queue_alloc_security key_alloc shm_shmat msg_queue_msgsnd msg_queue_msgrcv key_permission
    sb_mount move_mount sb_umount sb_pivotroot path_chroot task_fix_setuid capset userns_create bpf perf_event_open
    kernel_read_file kernel_load_data kernel_module_request uring_cmd uring_override_creds
}
empty! { tracepoint: sched_process_exec sched_process_fork sched_process_exit }

/// Declares one empty program at the beginning or the end of each function.
macro_rules! empty_at {
    (fentry: $($name:ident: $function:literal)+) => { $(
        #[fentry(function = $function)]
        pub fn $name(_ctx: FEntryContext) -> i32 {
            0
        }
    )+ };
    (fexit: $($name:ident: $function:literal)+) => { $(
        #[fexit(function = $function)]
        pub fn $name(_ctx: FExitContext) -> i32 {
            0
        }
    )+ };
}

empty_at! { fentry:
    arch_dup_task_struct: "arch_dup_task_struct"
    dentry_moves: "__d_move"
    mount_attaches: "__attach_mnt"
    mount_shows: "make_visible"
    mounts_go: "umount_tree"
}
empty_at! { fexit:
    signals_taken: "get_signal"
    dentry_moved: "__d_move"
    mount_attached: "__attach_mnt"
    mount_shown: "make_visible"
    mounts_gone: "umount_tree"
}

#[cgroup_skb(egress)]
pub fn dns_queries(_ctx: SkBuffContext) -> i32 {
    1
}

#[cgroup_skb(ingress)]
pub fn dns_answers(_ctx: SkBuffContext) -> i32 {
    1
}

/// Declares one empty program for each kind of address.
macro_rules! empty_on_addresses {
    ($($name:ident: $kind:ident)+) => { $(
        #[cgroup_sock_addr($kind)]
        pub fn $name(_ctx: SockAddrContext) -> i32 {
            1
        }
    )+ };
}

empty_on_addresses! {
    redirect_connect4: connect4
    redirect_connect6: connect6
    redirect_sendmsg4: sendmsg4
    redirect_sendmsg6: sendmsg6
    redirect_recvmsg4: recvmsg4
    redirect_recvmsg6: recvmsg6
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// As in the real object.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
