//! Deeds on sockets. Nothing answers and nothing leaves the machine: what is decided is decided before.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::actor::{Act, Actor, Named, Step, errno};
use super::deeds::done;
use super::rng::Rng;
use super::world::{DATAGRAMS, STREAMS};

const TCP: u8 = 6;
const UDP: u8 = 17;
const INET: u16 = libc::AF_INET as u16;
const INET6: u16 = libc::AF_INET6 as u16;

/// Any of them.
pub fn perform(a: &mut Actor, rng: &mut Rng) -> Option<Act> {
    match rng.below(20) {
        0..2 => socket(a, rng),
        2..6 => connect(a, rng),
        6..10 => send(a, rng),
        10..12 => bind(a, rng),
        12..15 => serve(a, rng),
        15..17 => unix_connect(a, rng),
        17..19 => unix_send(a, rng),
        _ => receive(a),
    }
}

/// Family, type and protocol of what there is without loading a module; and the protocol that the kernel then chooses.
const SOCKETS: &[(i32, i32, i32, u8)] = &[
    (libc::AF_INET, libc::SOCK_STREAM, 0, TCP),
    (libc::AF_INET, libc::SOCK_STREAM, 6, TCP),
    (libc::AF_INET, libc::SOCK_DGRAM, 0, UDP),
    (libc::AF_INET6, libc::SOCK_STREAM, 0, TCP),
    (libc::AF_INET6, libc::SOCK_DGRAM, 17, UDP),
    (libc::AF_INET, libc::SOCK_RAW, 255, 255),
    (libc::AF_UNIX, libc::SOCK_STREAM, 0, 0),
    (libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, 0),
    (libc::AF_NETLINK, libc::SOCK_RAW, 0, 0),
];

fn socket(a: &mut Actor, rng: &mut Rng) -> Option<Act> {
    let (family, kind, protocol, chosen) = rng.one(SOCKETS);
    let step = Step { family: family as u16, kind: kind as u16, protocol: chosen, ..a.plain("socket") };
    // SAFETY: numbers only; our own descriptor.
    let result = unsafe {
        let fd = libc::socket(family, kind, protocol);
        let result = errno(fd.into());
        if result == 0 {
            libc::close(fd);
        }
        result
    };
    done(format!("socket {family} {kind} {protocol}"), vec![step], result)
}

/// An address like those that policies name.
fn address(rng: &mut Rng) -> IpAddr {
    let (x, y) = (rng.below(256) as u8, rng.below(256) as u8);
    match rng.below(10) {
        0..3 => IpAddr::from([10 + x % 3, y % 5, 0, x]),
        3..5 => IpAddr::from([127, 0, x % 3, 1 + y % 2]),
        5 | 6 => IpAddr::from((0xfd00_u128 << 112 | (x as u128 % 5) << 64 | y as u128).to_be_bytes()),
        7 => IpAddr::from(Ipv6Addr::LOCALHOST),
        8 => IpAddr::from(Ipv4Addr::new(10, x % 2, y % 4, x).to_ipv6_mapped()),
        _ => IpAddr::from(Ipv4Addr::new(127, 0, 0, 1).to_ipv6_mapped()),
    }
}

fn port(rng: &mut Rng) -> u16 {
    if rng.one_in(3) { 65530 + rng.below(6) as u16 } else { rng.below(14) as u16 }
}

/// An address in the kernel's form.
fn sockaddr(address: IpAddr, port: u16) -> (libc::sockaddr_storage, u32) {
    // SAFETY: an all-zero sockaddr_storage is valid, and larger than either kind written into it.
    unsafe {
        let mut storage: libc::sockaddr_storage = std::mem::zeroed();
        let length = match address {
            IpAddr::V4(v4) => {
                let s = (&raw mut storage).cast::<libc::sockaddr_in>();
                (*s).sin_family = INET;
                (*s).sin_port = port.to_be();
                (*s).sin_addr.s_addr = u32::from(v4).to_be();
                size_of::<libc::sockaddr_in>()
            }
            IpAddr::V6(v6) => {
                let s = (&raw mut storage).cast::<libc::sockaddr_in6>();
                (*s).sin6_family = INET6;
                (*s).sin6_port = port.to_be();
                (*s).sin6_addr.s6_addr = v6.octets();
                size_of::<libc::sockaddr_in6>()
            }
        };
        (storage, length as u32)
    }
}

/// A step at an address. What is mapped is IPv4.
fn at(step: Step, kind: i32, protocol: u8, address: IpAddr, port: u16) -> Step {
    let addr = address.to_canonical();
    let family = if addr.is_ipv4() { INET } else { INET6 };
    Step { addr: Some(addr), port, protocol, family, kind: kind as u16, ..step }
}

/// The socket that fits an address, or now and then the other one.
fn choose(pair: [i32; 2], rng: &mut Rng, address: IpAddr) -> i32 {
    pair[usize::from(address.is_ipv6()) ^ usize::from(rng.one_in(8))]
}

fn connect(a: &mut Actor, rng: &mut Rng) -> Option<Act> {
    let (to, port, tcp) = (address(rng), port(rng), rng.one_in(2));
    let fd = choose(if tcp { a.sockets.tcp } else { a.sockets.udp }, rng, to);
    let (kind, protocol) = if tcp { (libc::SOCK_STREAM, TCP) } else { (libc::SOCK_DGRAM, UDP) };
    let step = at(a.plain("connect"), kind, protocol, to, port);
    let (address, len) = sockaddr(to, port);
    // SAFETY: the address is valid for its length.
    let result = errno(unsafe { libc::connect(fd, (&raw const address).cast(), len) }.into());
    done(format!("connect {} protocol {protocol}", SocketAddr::new(to, port)), vec![step], result)
}

fn send(a: &mut Actor, rng: &mut Rng) -> Option<Act> {
    let (to, port, fast) = (address(rng), port(rng), rng.one_in(4));
    let (address, len) = sockaddr(to, port);
    let mut flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let (pair, kind, protocol) = if fast {
        flags |= libc::MSG_FASTOPEN;
        (a.sockets.tcp, libc::SOCK_STREAM, TCP)
    } else {
        (a.sockets.udp, libc::SOCK_DGRAM, UDP)
    };
    let step = Step { fast_open: fast, ..at(a.plain("send"), kind, protocol, to, port) };
    let fd = choose(pair, rng, to);
    // SAFETY: buffer and address are valid for their lengths.
    let result =
        errno(unsafe { libc::sendto(fd, b"x".as_ptr().cast(), 1, flags, (&raw const address).cast(), len) }
            as i64);
    done(format!("sendto {} protocol {protocol}", SocketAddr::new(to, port)), vec![step], result)
}

/// Binds one of the sockets that are to be reached.
fn bind(a: &mut Actor, rng: &mut Rng) -> Option<Act> {
    let (to, port) = (address(rng), port(rng));
    let fd = rng.one(&a.sockets.servers);
    let step = at(a.plain("bind"), libc::SOCK_STREAM, TCP, to, port);
    let (address, len) = sockaddr(to, port);
    // SAFETY: the address is valid for its length.
    let result = errno(unsafe { libc::bind(fd, (&raw const address).cast(), len) }.into());
    done(format!("bind {}", SocketAddr::new(to, port)), vec![step], result)
}

/// Where a socket is reached.
fn local(fd: i32) -> Option<(IpAddr, u16)> {
    // SAFETY: an all-zero sockaddr_storage is valid, and has room for any address.
    unsafe {
        let mut a: libc::sockaddr_storage = std::mem::zeroed();
        let mut len = size_of::<libc::sockaddr_storage>() as u32;
        if libc::getsockname(fd, (&raw mut a).cast(), &mut len) != 0 {
            return None;
        }
        match a.ss_family {
            INET => {
                let s = (&raw const a).cast::<libc::sockaddr_in>();
                Some((
                    IpAddr::from(u32::from_be((*s).sin_addr.s_addr).to_be_bytes()),
                    u16::from_be((*s).sin_port),
                ))
            }
            INET6 => {
                let s = (&raw const a).cast::<libc::sockaddr_in6>();
                Some((IpAddr::from((*s).sin6_addr.s6_addr), u16::from_be((*s).sin6_port)))
            }
            _ => None,
        }
    }
}

/// Listens or accepts.
fn serve(a: &mut Actor, rng: &mut Rng) -> Option<Act> {
    let fd = rng.one(&a.sockets.servers);
    let (address, port) = local(fd)?;
    let op = rng.one(&["listen", "accept"]);
    let step = at(a.plain(op), libc::SOCK_STREAM, TCP, address, port);
    // SAFETY: numbers only.
    let result = errno(unsafe {
        match op {
            "listen" => libc::listen(fd, 4).into(),
            _ => i64::from(libc::accept(fd, std::ptr::null_mut(), std::ptr::null_mut())),
        }
    });
    done(format!("{op} at {}", SocketAddr::new(address, port)), vec![step], result)
}

fn unix_connect(a: &mut Actor, rng: &mut Rng) -> Option<Act> {
    let name = rng.one(&STREAMS);
    let fd = a.sockets.streams.pop()?;
    let step = a.step("unix_connect", &Named { path: name.into(), ..Named::default() });
    let (address, len) = crate::actor::unix(name);
    // SAFETY: the address is valid for its length.
    let result = errno(unsafe { libc::connect(fd, (&raw const address).cast(), len) }.into());
    if result != 0 {
        a.sockets.streams.push(fd);
    }
    done(format!("connect {name}"), vec![step], result)
}

fn unix_send(a: &mut Actor, rng: &mut Rng) -> Option<Act> {
    let name = rng.one(&DATAGRAMS);
    let step = a.step("unix_send", &Named { path: name.into(), ..Named::default() });
    let (address, len) = crate::actor::unix(name);
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let fd = a.sockets.datagrams;
    // SAFETY: buffer and address are valid for their lengths.
    let result =
        errno(unsafe { libc::sendto(fd, b"x".as_ptr().cast(), 1, flags, (&raw const address).cast(), len) }
            as i64);
    done(format!("sendto {name}"), vec![step], result)
}

/// Room for one descriptor in a control message.
const CONTROL: usize = 64;

/// Sends a descriptor; gives the errno.
pub fn send_fd(socket: i32, fd: i32) -> i32 {
    let mut control = [0u64; CONTROL / 8];
    let mut byte = [0u8];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: the buffers outlive the call; the control buffer is aligned and has room for one descriptor.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(4) as usize;
        let head = libc::CMSG_FIRSTHDR(&raw const message);
        (*head).cmsg_level = libc::SOL_SOCKET;
        (*head).cmsg_type = libc::SCM_RIGHTS;
        (*head).cmsg_len = libc::CMSG_LEN(4) as usize;
        libc::CMSG_DATA(head).cast::<i32>().write_unaligned(fd);
        errno(libc::sendmsg(socket, &raw const message, 0) as i64)
    }
}

/// Receives a descriptor that was opened before the session.
fn receive(a: &mut Actor) -> Option<Act> {
    let (path, writes) = a.sockets.inbox.1.pop()?;
    let object = a.object(path, false)?;
    let step = Step { writes, ..a.step("receive_fd", &object) };
    let mut control = [0u64; CONTROL / 8];
    let mut byte = [0u8];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: as in `send_fd`.
    let result = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(4) as usize;
        let n = libc::recvmsg(a.sockets.inbox.0, &raw mut message, libc::MSG_DONTWAIT);
        let head = libc::CMSG_FIRSTHDR(&raw const message);
        if n < 0 {
            errno(n as i64)
        } else if head.is_null() {
            // The message arrives without it.
            libc::EPERM
        } else {
            libc::close(libc::CMSG_DATA(head).cast::<i32>().read_unaligned());
            0
        }
    };
    done(format!("receive a descriptor of {path}"), vec![step], result)
}
