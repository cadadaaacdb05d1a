//! Headers that a program shapes itself: a route by which a packet goes to somebody else before it goes where the decision said.
//!
//! To ask for one, as an option of the socket or with a message, is decided as opening a raw socket: that is what shaping
//! headers takes otherwise, and who is refused the one must not get the other.

use aya_ebpf::helpers::generated::bpf_loop;
use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;

use super::network::{socket_action, socket_fields};
use super::*;
use crate::session::supervised;

const SOCK_RAW: u16 = 3;
const IPPROTO_IP: u32 = 0;
const IPPROTO_IPV6: u32 = 41;
const IP_HDRINCL: u32 = 3;
const IP_OPTIONS: u32 = 4;
const IP_RETOPTS: u32 = 7;
const IPV6_2292RTHDR: u32 = 5;
const IPV6_2292PKTOPTIONS: u32 = 6;
const IPV6_HDRINCL: u32 = 36;
const IPV6_RTHDR: u32 = 57;
/// Control messages looked at; a message with more is taken to hold a route.
const CONTROLS_MAX: u32 = 32;
/// Bytes of `struct cmsghdr`.
const CONTROL_HEADER: u64 = 16;

/// Whether it gives the socket's packets a route.
#[inline(always)]
fn is_route(level: u32, name: u32) -> bool {
    level == IPPROTO_IP && (name == IP_OPTIONS || name == IP_RETOPTS || name == IP_HDRINCL)
        || level == IPPROTO_IPV6
            && (name == IPV6_RTHDR
                || name == IPV6_2292RTHDR
                || name == IPV6_2292PKTOPTIONS
                || name == IPV6_HDRINCL)
}

/// Decides it.
#[inline(always)]
pub unsafe fn shaped(f: &Frame, sock: *const c_void, name: u32) -> i32 {
    // SAFETY: the frame's pointers are valid map values; `sock` is typed.
    unsafe {
        socket_fields(f.s, sock);
        (*f.s).head.sock_type = SOCK_RAW;
        (*f.s).head.arg = name as u64;
        socket_action(f, Operation::Socket, Shape::Socket, None, core::ptr::null())
    }
}

#[lsm(hook = "socket_setsockopt")]
pub fn socket_setsockopt(ctx: LsmContext) -> i32 {
    let (level, name): (u32, u32) = (ctx.arg(1), ctx.arg(2));
    // What receiving sockets are told of (IP_RETOPTS as an option) is no route.
    if !is_route(level, name) || level == IPPROTO_IP && name == IP_RETOPTS {
        return 0;
    }
    // SAFETY: hook arguments are typed pointers.
    supervised(|f| unsafe { shaped(f, ctx.arg(0), name) })
}

/// What the callback of `bpf_loop` needs.
#[repr(C)]
struct Controls {
    at: u64,
    end: u64,
    /// 0 while looking, 1: a route, 2: none.
    found: u64,
}

/// Whether some control message (of the kernel's copy, `len` bytes at `control`) gives a route: 0 for no. Takes numbers only, see
/// `walk`.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn aarm_routed(control: u64, len: u64) -> u32 {
    let mut controls = Controls { at: control, end: control.wrapping_add(len), found: 0 };
    // SAFETY: the context lives as long as the loop.
    unsafe { bpf_loop(CONTROLS_MAX, look_at_control as *mut c_void, (&raw mut controls).cast(), 0) };
    (controls.found != 2) as u32
}

#[inline(never)]
extern "C" fn look_at_control(_index: u32, controls: *mut Controls) -> i64 {
    // SAFETY: the context is the caller's.
    unsafe {
        let c = controls;
        if (*c).at.wrapping_add(CONTROL_HEADER) > (*c).end {
            (*c).found = 2;
            return 1;
        }
        let (Ok(len), Ok(what)) = (read::<u64>((*c).at, 0), read::<u64>((*c).at, 8)) else {
            (*c).found = 1;
            return 1;
        };
        if is_route(what as u32, (what >> 32) as u32) {
            (*c).found = 1;
            return 1;
        }
        if len < CONTROL_HEADER || len > (*c).end.wrapping_sub((*c).at) {
            // The kernel refuses the whole message.
            (*c).found = 2;
            return 1;
        }
        (*c).at = (*c).at.wrapping_add(len.wrapping_add(7) & !7);
        0
    }
}
