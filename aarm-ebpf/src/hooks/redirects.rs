//! Where connections and datagrams of all cgroups go, and where answers come from. Nothing is decided here: `socket_connect` and
//! `socket_sendmsg` have, and `redirect` does what they said.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use crate::redirect::{answer, apply};

#[cgroup_sock_addr(connect4)]
pub fn redirect_connect4(ctx: SockAddrContext) -> i32 {
    apply(ctx.sock_addr, false, true)
}

#[cgroup_sock_addr(connect6)]
pub fn redirect_connect6(ctx: SockAddrContext) -> i32 {
    apply(ctx.sock_addr, true, true)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn redirect_sendmsg4(ctx: SockAddrContext) -> i32 {
    apply(ctx.sock_addr, false, false)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn redirect_sendmsg6(ctx: SockAddrContext) -> i32 {
    apply(ctx.sock_addr, true, false)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn redirect_recvmsg4(ctx: SockAddrContext) -> i32 {
    answer(ctx.sock_addr, false)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn redirect_recvmsg6(ctx: SockAddrContext) -> i32 {
    answer(ctx.sock_addr, true)
}
