//! Sockets: creating them, reaching out, being reachable.
//!
//! Addresses are the kernel's copies, so another thread cannot change them after the decision. IPv4-mapped
//! IPv6 addresses are IPv4. Unix sockets are decided by the object behind the name, not by the name.

use aarm_common::event::{FLAG_ABSTRACT, FLAG_INHERITED, NO_RULE};
use aarm_common::op::Decision;
use aarm_common::policy::{AF_INET, AF_INET6, MODE_AUDIT};
use aarm_common::state::ObjectKey;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;

use super::*;
use crate::decide::{DENIED, Verdict, v4_set, v6_set};
use crate::emit;
use crate::hosts;
use crate::maps::CARRIED;
use crate::redirect;
use crate::scratch::{self, Scratch};
use crate::session::{framed, subject, supervised};

const AF_UNSPEC: u16 = 0;
const AF_UNIX: u16 = 1;
const SOCK_STREAM: u16 = 1;
const SOCK_DGRAM: u16 = 2;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const MSG_FASTOPEN: u32 = 0x2000_0000;

/// `sockaddr_in6`, which also holds a `sockaddr_in` in its first 16 bytes.
#[derive(Clone, Copy)]
#[repr(C)]
struct SockAddr {
    family: u16,
    port: u16,
    v4: u32,
    v6: [u32; 4],
    scope: u32,
}

/// Fills in what the socket itself says; returns its address family.
#[inline(always)]
pub unsafe fn socket_fields(s: *mut Scratch, sock: *const c_void) -> u16 {
    // SAFETY: `s` is a valid map value, `sock` a typed `struct socket *`.
    unsafe {
        let sk: *const c_void = typed(sock, &OFF_SOCKET_SK);
        if sk.is_null() {
            return AF_UNSPEC;
        }
        let family: u16 = typed(sk, &OFF_SOCK_SKC_FAMILY);
        (*s).head.sock_type = typed(sock, &OFF_SOCKET_TYPE);
        (*s).head.protocol = typed::<u16>(sk, &OFF_SOCK_SK_PROTOCOL) as u8;
        (*s).head.family = family;
        family
    }
}

/// Fills in an address of `len` bytes at `address` in kernel memory. `family` is the socket's.
#[inline(always)]
unsafe fn address_fields(s: *mut Scratch, family: u16, address: u64, len: u32) -> Result<(), Cause> {
    let mut a = core::mem::MaybeUninit::<[u64; 4]>::uninit();
    let want = if len >= 24 { 28 } else { 16 };
    // A v6 address may leave out its scope id: 24 bytes. Reading 28 stays inside the kernel's copy.
    // SAFETY: the destination has 32 bytes.
    let a: SockAddr = unsafe {
        zero(a.as_mut_ptr());
        if len >= 2 && bpf_probe_read_kernel(a.as_mut_ptr().cast(), want, address as *const c_void) != 0 {
            return Err(Cause::ReadFailed);
        }
        // SAFETY: integers, all of them written.
        a.as_ptr().cast::<SockAddr>().read()
    };
    // SAFETY: `s` is a valid map value.
    unsafe {
        let h = &raw mut (*s).head;
        // UDP takes AF_UNSPEC for AF_INET on an IPv4 socket.
        let named = if a.family == AF_UNSPEC && family == AF_INET { AF_INET } else { a.family };
        (*h).family = named;
        if named == AF_INET && len >= 8 {
            (*h).port = u16::from_be(a.port);
            set_v4(s, a.v4);
        } else if named == AF_INET6 && len >= 24 {
            (*h).port = u16::from_be(a.port);
            set_v6(s, a.v6);
        }
    }
    Ok(())
}

/// Stores an IPv4 address given in network order.
#[inline(always)]
unsafe fn set_v4(s: *mut Scratch, addr: u32) {
    // SAFETY: `s` is a valid map value; `addr` is 16 bytes at an aligned offset of the header.
    unsafe { *(&raw mut (*s).head.addr).cast::<[u32; 4]>() = [addr, 0, 0, 0] }
}

/// Stores an IPv6 address given in network order; a mapped one as IPv4.
#[inline(always)]
unsafe fn set_v6(s: *mut Scratch, addr: [u32; 4]) {
    // SAFETY: as above.
    unsafe {
        if addr[0] == 0 && addr[1] == 0 && addr[2] == 0xffff_u32.to_be() {
            (*s).head.family = AF_INET;
            set_v4(s, addr[3]);
        } else {
            *(&raw mut (*s).head.addr).cast::<[u32; 4]>() = addr;
        }
    }
}

/// Decides an action on a socket from the fields in the event's header; `also` is a facet of it. `sk`, a typed `struct sock *`:
/// the address is one that is reached for, and so may have a name; else null.
#[inline(always)]
pub unsafe fn socket_action(
    f: &Frame,
    op: Operation,
    shape: Shape,
    also: Option<Operation>,
    sk: *const c_void,
) -> i32 {
    // SAFETY: the frame's pointers are valid map values.
    unsafe {
        if let Err(cause) = prepare(f) {
            return fail_closed(f, op, cause);
        }
        let p = f.policy;
        hosts::satisfied(f, sk);
        let h = &raw mut (*f.s).head;
        let v = &raw mut (*f.s).scalars;
        (*v).family = (*p).family_set[((*h).family as usize).min(aarm_common::limits::SOCKET_FAMILIES - 1)];
        (*v).sock_type = (*p).type_set[((*h).sock_type as usize).min(aarm_common::limits::SOCKET_TYPES - 1)];
        (*v).proto = (*p).proto_set[(*h).protocol as usize];
        if shape == Shape::Address {
            let a = *(&raw const (*h).addr).cast::<[u32; 4]>();
            ((*v).addr, (*v).port) = match (*h).family {
                AF_INET => (v4_set(f.s, p, u32::from_be(a[0])), (*p).port_set[(*h).port as usize]),
                AF_INET6 => {
                    let high = (u32::from_be(a[0]) as u64) << 32 | u32::from_be(a[1]) as u64;
                    let low = (u32::from_be(a[2]) as u64) << 32 | u32::from_be(a[3]) as u64;
                    (v6_set(f.s, p, high, low), (*p).port_set[(*h).port as usize])
                }
                _ => ((*p).addr_none as u16, (*p).port_none as u16),
            };
        }
        let mut verdict = decide(f, op, shape);
        if !reaches_out(op) {
            return conclude(f, op, verdict);
        }
        // What changes it does so whatever the other facet gets, if it happens.
        let mut changes = if verdict.decision == Decision::Modify as u8 { verdict.rule } else { NO_RULE };
        if let Some(also) = also {
            let second = decide(f, also, shape);
            if second.decision == Decision::Modify as u8 {
                changes = second.rule;
            }
            verdict = stricter(verdict, second);
        }
        redirect::forget(f.task, current());
        if changes == NO_RULE || (*p).mode == MODE_AUDIT || !sk.is_null() && !redirect::reaches(f.s, sk) {
            return conclude(f, op, verdict);
        }
        if sk.is_null() || !redirect::begin(f, op, sk, changes) {
            verdict = Verdict {
                decision: Decision::Deny as u8,
                rule: changes,
                more: DENIED,
                settled: hold::settled::UNCHANGED,
                ..verdict
            };
        }
        let result = conclude(f, op, verdict);
        if result != 0 {
            redirect::forget(f.task, current());
            return result;
        }
        // From here on it is about who is reached.
        let to = &raw const (*f.s).redirect.target;
        (*h).addr = (*to).addr;
        (*h).family = (*to).family;
        (*h).port = (*to).port;
        result
    }
}

/// Operations on an address that is reached for.
#[inline(always)]
fn reaches_out(op: Operation) -> bool {
    op as u8 == Operation::Connect as u8 || op as u8 == Operation::Send as u8
}

#[lsm(hook = "socket_create")]
pub fn socket_create(ctx: LsmContext) -> i32 {
    let kern: i32 = ctx.arg(3);
    if kern != 0 {
        return 0;
    }
    supervised(|f| {
        let (family, kind, protocol): (u32, u32, u32) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
        // SAFETY: the frame's pointers are valid map values.
        unsafe {
            let h = &raw mut (*f.s).head;
            (*h).family = family as u16;
            (*h).sock_type = kind as u16 & 15;
            (*h).protocol = protocol as u8;
            if protocol == 0 && ((*h).family == AF_INET || (*h).family == AF_INET6) {
                // What the kernel will choose.
                (*h).protocol = match (*h).sock_type {
                    SOCK_STREAM => IPPROTO_TCP,
                    SOCK_DGRAM => IPPROTO_UDP,
                    _ => 0,
                };
            }
            (*h).arg = protocol as u64;
            socket_action(f, Operation::Socket, Shape::Socket, None, core::ptr::null())
        }
    })
}

/// connect, bind: a socket and an address that the kernel has copied in.
#[inline(always)]
unsafe fn with_address(
    f: &Frame,
    op: Operation,
    sock: *const c_void,
    address: u64,
    len: u32,
    also: Option<Operation>,
) -> i32 {
    // SAFETY: the frame's pointers are valid map values; `sock` is typed.
    unsafe {
        let family = socket_fields(f.s, sock);
        if family == AF_UNIX {
            // Decided at unix_stream_connect, unix_may_send and path_mknod, on the object behind the name.
            return 0;
        }
        if let Err(cause) = address_fields(f.s, family, address, len) {
            return fail_closed(f, op, cause);
        }
        if op as u8 == Operation::Bind as u8 {
            return socket_action(f, op, Shape::Address, also, core::ptr::null());
        }
        let sk: *mut c_void = typed(sock, &OFF_SOCKET_SK);
        let result = socket_action(f, op, Shape::Address, also, sk);
        if result == 0 {
            hosts::watch(f, sk);
        }
        result
    }
}

/// `socket.state`: a connection is being made.
const SS_CONNECTING: u32 = 2;

#[lsm(hook = "socket_connect")]
pub fn socket_connect(ctx: LsmContext) -> i32 {
    supervised(|f| {
        // SAFETY: hook arguments are typed pointers.
        unsafe {
            let sock: *const c_void = ctx.arg(0);
            if typed::<u32>(sock, &OFF_SOCKET_STATE) == SS_CONNECTING {
                (*f.s).already = scratch::CONNECTING;
            }
            with_address(f, Operation::Connect, sock, ctx.arg::<u64>(1), ctx.arg(2), None)
        }
    })
}

#[lsm(hook = "socket_bind")]
pub fn socket_bind(ctx: LsmContext) -> i32 {
    supervised(|f| {
        // SAFETY: hook arguments are typed pointers.
        unsafe { with_address(f, Operation::Bind, ctx.arg(0), ctx.arg::<u64>(1), ctx.arg(2), None) }
    })
}

#[lsm(hook = "socket_sendmsg")]
pub fn socket_sendmsg(ctx: LsmContext) -> i32 {
    subject(|u| {
        let (sock, message): (*const c_void, *const c_void) = (ctx.arg(0), ctx.arg(1));
        // SAFETY: hook arguments are typed pointers.
        unsafe {
            let (control, controls): (u64, u64) =
                (typed(message, &OFF_MSGHDR_MSG_CONTROL), typed(message, &OFF_MSGHDR_MSG_CONTROLLEN));
            if control != 0
                && controls != 0
                && is_ip(sock)
                && routes::aarm_routed(number(control, &raw mut (*u.task).key[0]), controls) != 0
            {
                let refused = framed(u, |f| routes::shaped(f, sock, 0));
                if refused != 0 {
                    return refused;
                }
            }
            let name: u64 = typed(message, &OFF_MSGHDR_MSG_NAME);
            if name == 0 {
                // Decided when the socket was connected; but what the session has seen goes with it.
                let labels = core::ptr::read_volatile(&raw const (*u.session).labels);
                return if labels == 0 { 0 } else { send_labels(sock, labels) };
            }
            framed(u, |f| {
                let len: u32 = typed(message, &OFF_MSGHDR_MSG_NAMELEN);
                let flags: u32 = typed(message, &OFF_MSGHDR_MSG_FLAGS);
                // A fast open sends and connects in one.
                let also = if flags & MSG_FASTOPEN != 0 { Some(Operation::Connect) } else { None };
                (*f.s).head.arg = flags as u64;
                with_address(f, Operation::Send, sock, name, len, also)
            })
        }
    })
}

/// Whether it is a socket of IP, of either version.
#[inline(always)]
unsafe fn is_ip(sock: *const c_void) -> bool {
    // SAFETY: `sock` is typed.
    unsafe {
        let sk: *const c_void = typed(sock, &OFF_SOCKET_SK);
        if sk.is_null() {
            return false;
        }
        let family: u16 = typed(sk, &OFF_SOCK_SKC_FAMILY);
        family == AF_INET || family == AF_INET6
    }
}

/// Lets the receiving end of a unix socket carry the labels of who sends. The receiver takes them in when it reads.
#[inline(always)]
unsafe fn send_labels(sock: *const c_void, labels: u64) -> i32 {
    // SAFETY: `sock` is typed; its peer is read through the helper.
    unsafe {
        let sk: *const c_void = typed(sock, &OFF_SOCKET_SK);
        if sk.is_null() || typed::<u16>(sk, &OFF_SOCK_SKC_FAMILY) != AF_UNIX {
            return 0;
        }
        let Ok(peer) = read::<u64>(sk as u64, off(&OFF_UNIX_SOCK_PEER)) else { return -emit::EPERM };
        if peer == 0 {
            return 0;
        }
        let Ok(key) = socket_key(peer) else { return 0 };
        if context::carry_by(key, labels).is_err() { -emit::EPERM } else { 0 }
    }
}

/// What a socket, given as `struct sock *`, is known by. Fails for one that no process holds.
#[inline(always)]
fn socket_key(sk: u64) -> Result<ObjectKey, ()> {
    Ok(ObjectKey { ino: socket_inode(sk)?, dev: u32::MAX, generation: AF_UNIX as u32 })
}

#[lsm(hook = "socket_recvmsg")]
pub fn socket_recvmsg(ctx: LsmContext) -> i32 {
    if !context::anything_carries() {
        return 0;
    }
    subject(|u| {
        let sock: *const c_void = ctx.arg(0);
        // SAFETY: hook arguments are typed pointers; map values are checked for null before use.
        unsafe {
            let sk: *const c_void = typed(sock, &OFF_SOCKET_SK);
            if sk.is_null() || typed::<u16>(sk, &OFF_SOCK_SKC_FAMILY) != AF_UNIX {
                return 0;
            }
            let Ok(key) = socket_key(sk as u64) else { return 0 };
            let Some(labels) = CARRIED.get_ptr(key) else { return 0 };
            let labels = core::ptr::read_volatile(labels);
            if labels & !core::ptr::read_volatile(&raw const (*u.session).labels) == 0 {
                return 0;
            }
            framed(u, |f| {
                if let Err(cause) = prepare(f) {
                    return fail_closed(f, Operation::UnixSend, cause);
                }
                (*f.s).head.family = AF_UNIX;
                (*f.s).head.flags |= FLAG_INHERITED;
                (*f.s).carried = labels;
                names::pathless(f.s, f.policy);
                let verdict = decide(f, Operation::ReceiveFd, Shape::Object);
                conclude(f, Operation::ReceiveFd, verdict)
            })
        }
    })
}

#[lsm(hook = "socket_listen")]
pub fn socket_listen(ctx: LsmContext) -> i32 {
    local(&ctx, Operation::Listen)
}

#[lsm(hook = "socket_accept")]
pub fn socket_accept(ctx: LsmContext) -> i32 {
    local(&ctx, Operation::Accept)
}

/// listen, accept: a socket at its own address.
#[inline(always)]
fn local(ctx: &LsmContext, op: Operation) -> i32 {
    supervised(|f| {
        let sock: *const c_void = ctx.arg(0);
        // SAFETY: hook arguments are typed pointers.
        unsafe {
            let sk: *const c_void = typed(sock, &OFF_SOCKET_SK);
            let family = socket_fields(f.s, sock);
            if family == AF_UNIX {
                return 0;
            }
            if sk.is_null() {
                return fail_closed(f, op, Cause::ReadFailed);
            }
            (*f.s).head.port = typed(sk, &OFF_SOCK_SKC_NUM);
            if family == AF_INET {
                set_v4(f.s, typed(sk, &OFF_SOCK_SKC_RCV_SADDR));
            } else if family == AF_INET6 {
                let Ok(addr) = read::<[u32; 4]>(sk as u64, off(&OFF_SOCK_SKC_V6_RCV_SADDR)) else {
                    return fail_closed(f, op, Cause::ReadFailed);
                };
                set_v6(f.s, addr);
            }
            socket_action(f, op, Shape::Address, None, core::ptr::null())
        }
    })
}

/// Decides reaching the unix socket `other` (`struct sock *`).
#[inline(always)]
unsafe fn unix_peer(f: &Frame, op: Operation, other: u64, kind: u16) -> i32 {
    // SAFETY: the frame's pointers are valid map values; `other` is read through the helper.
    unsafe {
        let h = &raw mut (*f.s).head;
        (*h).family = AF_UNIX;
        (*h).sock_type = kind;
        let Ok(place) = read::<[u64; 2]>(other, off(&OFF_UNIX_SOCK_PATH)) else {
            return fail_closed(f, op, Cause::ReadFailed);
        };
        if let Err(cause) = prepare(f) {
            return fail_closed(f, op, cause);
        }
        let [mnt, dentry] = place;
        if dentry != 0 {
            if let Err(cause) = socket_name(f, Place { mnt, dentry }) {
                return fail_closed(f, op, cause);
            }
        } else {
            let Ok(addr) = read::<u64>(other, off(&OFF_UNIX_SOCK_ADDR)) else {
                return fail_closed(f, op, Cause::ReadFailed);
            };
            if addr == 0 {
                // A socket without a name can only have been handed over or inherited.
                return 0;
            }
            if abstract_name(f.s, addr) != 0 {
                return fail_closed(f, op, Cause::ReadFailed);
            }
            names::satisfied(f.s, f.policy, false);
        }
        let verdict = decide(f, op, Shape::Object);
        conclude(f, op, verdict)
    }
}

/// Names the object behind a unix address: its pointers came through memory, so they are read, not followed.
#[inline(always)]
unsafe fn socket_name(f: &Frame, place: Place) -> Result<(), Cause> {
    // SAFETY: the frame's pointers are valid map values.
    unsafe {
        let Ok(sb) = read::<u64>(place.dentry, off(&OFF_DENTRY_D_SB)) else { return Err(Cause::ReadFailed) };
        let home = names::some_mount(f.s, f.scratch, sb as *const c_void);
        let other = home != 0 && home != place.mnt;
        if other {
            let status = walk(f.s, f.scratch, f.slot, Place { mnt: home, dentry: place.dentry }, false);
            if status != walk::DONE {
                return Err(cause_of_status(status));
            }
            (*f.s).head.path2_len = (END as u32).wrapping_sub((*f.s).pos) as u16;
            (*f.s).head.flags |= FLAG_ALIAS;
        }
        let end = (*f.s).pos;
        let status = walk(f.s, f.scratch, f.slot, place, other);
        if status != walk::DONE {
            return Err(cause_of_status(status));
        }
        (*f.s).head.path_len = end.wrapping_sub((*f.s).pos) as u16;
        names::satisfied(f.s, f.policy, false);
        Ok(())
    }
}

/// Puts an abstract name, as `@name`, where the path goes; no glob matches it. Returns 0, or 1 on failure.
#[inline(never)]
fn abstract_name(s: *mut Scratch, addr: u64) -> u32 {
    if s.is_null() {
        return 1;
    }
    // SAFETY: `s` is a valid map value; the name is read through the helper.
    unsafe {
        let Ok(len) = read::<u32>(addr, off(&OFF_UNIX_ADDRESS_LEN)) else { return 1 };
        // The length counts the family; the name begins with a NUL, shown as `@`.
        let len = len.wrapping_sub(2) & 127;
        let at = (END as u32).wrapping_sub(len) & 16383;
        let buf = (&raw mut (*s).buf).cast::<u8>();
        let from = addr + off(&OFF_UNIX_ADDRESS_NAME) as u64 + 2;
        if bpf_probe_read_kernel(buf.add(at as usize).cast(), len, from as *const c_void) != 0 {
            return 1;
        }
        *buf.add(at as usize) = b'@';
        no_hits(s);
        (*s).pos = at;
        (*s).head.path_len = len as u16;
        (*s).head.flags |= FLAG_ABSTRACT;
        0
    }
}

#[lsm(hook = "unix_stream_connect")]
pub fn unix_stream_connect(ctx: LsmContext) -> i32 {
    supervised(|f| {
        // SAFETY: the frame's pointers are valid map values.
        unsafe { unix_peer(f, Operation::UnixConnect, ctx.arg::<u64>(1), SOCK_STREAM) }
    })
}

#[lsm(hook = "unix_may_send")]
pub fn unix_may_send(ctx: LsmContext) -> i32 {
    supervised(|f| {
        let other: *const c_void = ctx.arg(1);
        // SAFETY: hook arguments are typed pointers.
        unsafe {
            let sk: *const c_void = typed(other, &OFF_SOCKET_SK);
            if sk.is_null() {
                return fail_closed(f, Operation::UnixSend, Cause::ReadFailed);
            }
            unix_peer(f, Operation::UnixSend, sk as u64, SOCK_DGRAM)
        }
    })
}
