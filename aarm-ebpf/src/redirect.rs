//! Connections and datagrams that go somewhere else.
//!
//! The hook that decides to redirect cannot change an address: it notes where to ([`aarm_redirect`]), and a program on the cgroups'
//! root, which the kernel calls next in the same system call, changes it ([`apply`]). What is noted is for one thread and one socket,
//! until that thread's next decision: of several datagrams to one address in one system call the kernel asks about the first only.
//!
//! What is not TCP or UDP over IP never gets as far as such a program, and is refused instead. Answers to redirected datagrams
//! are given the address that the program sent to ([`answer`]).

use aarm_common::limits::{MAX_RULES, REDIRECTS as TARGETS};
use aarm_common::op::Operation;
use aarm_common::policy::{AF_INET, AF_INET6, Target};
use aarm_common::state::{AnsweringKey, Task};
use aya_ebpf::bindings::{BPF_ANY, bpf_sock_addr};
use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_get_socket_cookie};
use core::ffi::c_void;

use crate::kernel::*;
use crate::maps::{ANSWERING, POLICIES, REDIRECTED, REDIRECTING, REDIRECTS, SCRATCH, TASKS};
use crate::scratch::Scratch;
use crate::session::Frame;

const IPPROTO_TCP: u16 = 6;
const IPPROTO_UDP: u16 = 17;
/// Bytes 8 to 11 of a mapped IPv4 address.
const MAPPED: u32 = 0xffff_u32.to_be();
/// What a program on a cgroup says of an address.
const PASS: i32 = 1;
const REFUSE: i32 = 0;

/// Whether an action on this typed `struct sock *` reaches an address at all, by the event's header: a socket of IP may also be told to
/// forget whom it is connected to.
#[inline(always)]
pub unsafe fn reaches(s: *const Scratch, sk: *const c_void) -> bool {
    // SAFETY: a valid map value; typed by contract.
    unsafe {
        let family: u16 = typed(sk, &OFF_SOCK_SKC_FAMILY);
        let of_ip = family == AF_INET || family == AF_INET6;
        !of_ip || (*s).head.family == AF_INET || (*s).head.family == AF_INET6
    }
}

/// Notes that what is about to be done on this typed `struct sock *` is redirected as `rule` says. Whether it will be.
#[inline(always)]
pub unsafe fn begin(f: &Frame, op: Operation, sk: *const c_void, rule: u16) -> bool {
    // SAFETY: valid map values; typed by contract.
    unsafe {
        let protocol: u16 = typed(sk, &OFF_SOCK_SK_PROTOCOL);
        let family: u16 = typed(sk, &OFF_SOCK_SKC_FAMILY);
        if protocol != IPPROTO_TCP && protocol != IPPROTO_UDP || family != AF_INET && family != AF_INET6 {
            return false;
        }
        (*f.s).redirect.socket = number(sk as u64, &raw mut (*f.s).sb);
        // The kernel does not let a datagram change from one version of IP to the other.
        let kept = if op as u8 == Operation::Send as u8 && protocol == IPPROTO_UDP { (*f.s).head.family } else { 0 };
        let families = family as u32 | (kept as u32) << 16;
        opaque(aarm_redirect(f.scratch, f.slot, rule as u32, families) as u64) == 0
    }
}

/// [`begin`] for the socket in `Scratch::redirect`. `families`: the socket's, and in the upper half the only one that the target can
/// have, if there is one. Returns 0, or 1 where it cannot be. Takes numbers only, see `walk`.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn aarm_redirect(scratch: u32, slot: u32, rule: u32, families: u32) -> u32 {
    let Some(s) = SCRATCH.get_ptr_mut(scratch) else { return 1 };
    let Some(p) = POLICIES.get_ptr(slot) else { return 1 };
    let task = TASKS.get(current());
    if task.is_null() {
        return 1;
    }
    // SAFETY: valid map values; masks keep indices inside.
    unsafe {
        let at = (*p).rule_redirect[rule as usize & (MAX_RULES - 1)] as usize;
        if at == 0 {
            return 1;
        }
        let target = &raw const (*p).redirects[(at - 1) & (TARGETS - 1)];
        // A socket of IPv4 reaches nothing else.
        let (family, only) = (families as u16, (families >> 16) as u16);
        let to = (*target).family;
        if to == 0 || to == AF_INET6 && family == AF_INET || only != 0 && to != only {
            return 1;
        }
        let r = &raw mut (*s).redirect;
        let h = &raw const (*s).head;
        crate::scratch::copy(target, &raw mut (*r).target);
        (*r).original.addr = (*h).addr;
        (*r).original.family = (*h).family;
        (*r).original.port = (*h).port;
        (*r).original.reserved = 0;
        (*r).session = (*task).session;
        (*r).time_ns = (*h).time_ns;
        (*task).redirecting = 1;
        if REDIRECTING.insert(current() as u64, &*r, BPF_ANY as u64).is_err() {
            return 1;
        }
        // For who receives it. One that no process holds has nobody to ask for it.
        if let Ok(inode) = socket_inode((*r).socket) {
            let _ = REDIRECTED.insert(inode, &*r, BPF_ANY as u64);
        }
        0
    }
}

/// Something else is decided of the thread, or it ends: what was noted is over.
#[inline(always)]
pub unsafe fn forget(task: *mut Task, of: *const c_void) {
    // SAFETY: a valid map value.
    unsafe {
        if (*task).redirecting != 0 {
            let _ = REDIRECTING.remove(of as u64);
            (*task).redirecting = 0;
        }
    }
}

/// Whether any policy redirects: mostly none does, and then this is all that the programs below cost.
#[inline(always)]
fn any() -> bool {
    // SAFETY: a word that the daemon alone writes.
    unsafe { core::ptr::read_volatile(&raw const REDIRECTS) != 0 }
}

/// A connection, or a datagram, is about to go somewhere: `v6`: on a socket of IPv6.
#[inline(always)]
pub fn apply(ctx: *mut bpf_sock_addr, v6: bool, connects: bool) -> i32 {
    if any() { redirect(ctx, v6, connects) } else { PASS }
}

/// [`apply`] where some policy redirects. A function of its own, because the registers that it needs are saved when it is called, and all
/// others need not pay for that.
#[inline(never)]
fn redirect(ctx: *mut bpf_sock_addr, v6: bool, connects: bool) -> i32 {
    // SAFETY: the context is the kernel's; its members are read and written one by one, as the verifier wants it. Valid map values.
    unsafe {
        let task = bpf_get_current_task();
        let Some(r) = REDIRECTING.get_ptr(task) else { return PASS };
        // By the socket, not by the address: another program may have changed that already.
        let sk = core::ptr::read_volatile(&raw const (*ctx).__bindgen_anon_1.sk) as u64;
        if sk != core::ptr::read_volatile(&raw const (*r).socket) {
            return PASS;
        }
        let target = &raw const (*r).target;
        let addr = (&raw const (*target).addr).cast::<u32>();
        if !v6 {
            if (*target).family != AF_INET {
                return REFUSE;
            }
            core::ptr::write_volatile(&raw mut (*ctx).user_ip4, core::ptr::read_volatile(addr));
        } else {
            let words = match (*target).family {
                AF_INET => [0, 0, MAPPED, core::ptr::read_volatile(addr)],
                _ => [
                    core::ptr::read_volatile(addr),
                    core::ptr::read_volatile(addr.add(1)),
                    core::ptr::read_volatile(addr.add(2)),
                    core::ptr::read_volatile(addr.add(3)),
                ],
            };
            let to = (&raw mut (*ctx).user_ip6).cast::<u32>();
            core::ptr::write_volatile(to, words[0]);
            core::ptr::write_volatile(to.add(1), words[1]);
            core::ptr::write_volatile(to.add(2), words[2]);
            core::ptr::write_volatile(to.add(3), words[3]);
        }
        core::ptr::write_volatile(&raw mut (*ctx).user_port, (*target).port.to_be() as u32);
        if core::ptr::read_volatile(&raw const (*ctx).protocol) == IPPROTO_UDP as u32 {
            let key = AnsweringKey { socket: bpf_get_socket_cookie(ctx.cast()), target: *target };
            let _ = ANSWERING.insert(&key, &(*r).original, BPF_ANY as u64);
        }
        if connects {
            let _ = REDIRECTING.remove(task);
        }
        PASS
    }
}

/// A datagram has come: one that answers a redirected one comes from where that was to go.
#[inline(always)]
pub fn answer(ctx: *mut bpf_sock_addr, v6: bool) -> i32 {
    if any() { answered(ctx, v6) } else { PASS }
}

/// [`answer`] where some policy redirects.
#[inline(never)]
fn answered(ctx: *mut bpf_sock_addr, v6: bool) -> i32 {
    // SAFETY: as in `apply`.
    unsafe {
        let mut from = Target { addr: [0; 16], family: AF_INET, port: 0, reserved: 0 };
        let addr = (&raw mut from.addr).cast::<u32>();
        if v6 {
            let words = (&raw const (*ctx).user_ip6).cast::<u32>();
            let [a, b, c, d] = [
                core::ptr::read_volatile(words),
                core::ptr::read_volatile(words.add(1)),
                core::ptr::read_volatile(words.add(2)),
                core::ptr::read_volatile(words.add(3)),
            ];
            if a == 0 && b == 0 && c == MAPPED {
                addr.write(d);
            } else {
                from.family = AF_INET6;
                addr.write(a);
                addr.add(1).write(b);
                addr.add(2).write(c);
                addr.add(3).write(d);
            }
        } else {
            addr.write(core::ptr::read_volatile(&raw const (*ctx).user_ip4));
        }
        from.port = u16::from_be(core::ptr::read_volatile(&raw const (*ctx).user_port) as u16);
        let key = AnsweringKey { socket: bpf_get_socket_cookie(ctx.cast()), target: from };
        let Some(original) = ANSWERING.get_ptr(&key) else { return PASS };
        let addr = (&raw const (*original).addr).cast::<u32>();
        if !v6 {
            core::ptr::write_volatile(&raw mut (*ctx).user_ip4, core::ptr::read_volatile(addr));
        } else {
            let mapped = (*original).family == AF_INET;
            let to = (&raw mut (*ctx).user_ip6).cast::<u32>();
            let first = core::ptr::read_volatile(addr);
            core::ptr::write_volatile(to, if mapped { 0 } else { first });
            core::ptr::write_volatile(to.add(1), if mapped { 0 } else { core::ptr::read_volatile(addr.add(1)) });
            core::ptr::write_volatile(to.add(2), if mapped { MAPPED } else { core::ptr::read_volatile(addr.add(2)) });
            core::ptr::write_volatile(to.add(3), if mapped { first } else { core::ptr::read_volatile(addr.add(3)) });
        }
        core::ptr::write_volatile(&raw mut (*ctx).user_port, (*original).port.to_be() as u32);
        PASS
    }
}
