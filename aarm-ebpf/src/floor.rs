//! Empty programs on the same hooks as the real ones: the floor that benchmarks measure against, and what
//! `aarm doctor` attaches to see whether this kernel lets anything be attached.
#![no_std]
#![no_main]

use aya_ebpf::macros::{btf_tracepoint, lsm};
use aya_ebpf::programs::{BtfTracePointContext, LsmContext};

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
    bprm_check_security file_open mmap_file path_mknod path_mkdir path_rmdir path_unlink path_symlink
    path_truncate path_chmod path_chown path_rename path_link socket_create socket_connect socket_bind
    socket_listen socket_sendmsg unix_stream_connect unix_may_send task_alloc
}
empty! { tracepoint: sched_process_exec sched_process_fork sched_process_exit }

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// As in the real object.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
