//! Network: only 127.0.0.1:8080 may be reached, and nobody may reach in. A service answers; an answer is the effect.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Dirs;
use super::corpus::{Expect, Family, Keep, Technique, contained, elsewhere, open};
use super::modules::{lacks, loaded};
use super::names::{done, wait_for};
use super::services::{Server, said, serve_tcp, serve_udp, talk, tcp};
use super::sys::*;

/// The corpus of the network.
pub const FAMILY: Family = Family {
    name: "network",
    rules: "
- { id: local-web, match: { operation: [connect, send], cidr: ['127.0.0.1/32', '::1/128'], port: 8080 }, decision: ALLOW }
- { id: disconnect, match: { operation: connect, family: unspec }, decision: ALLOW }
- { id: sockets, match: { operation: socket, family: [inet, inet6], type: [stream, dgram], protocol: [tcp, udp] }, decision: ALLOW }
- { id: unix-sockets, match: { operation: socket, family: unix }, decision: ALLOW }
- { id: unix-work, match: { operation: [unix_connect, unix_send], path: '/tmp/esc/*/*/desk/**' }, decision: ALLOW }
",
    network: "DENY",
    daemon_first: false,
    techniques: &[REACHING, FAMILIES, super::handed::REACHED, super::handed::HANDED],
};

/// May be reached.
pub const INSIDE: &str = "127.0.0.1:8080";
/// May not.
pub const OUTSIDE: &str = "127.0.0.1:9090";

/// Refused for want of a rule that permits it.
pub const fn refused(
    name: &'static str,
    what: &'static str,
    attempt: fn(&Dirs) -> io::Result<()>,
    operation: &'static str,
) -> Technique {
    contained(name, what, attempt, operation, "default")
}

const REACHING: &[Technique] = &[
    refused("tcp", "TCP", |_| tcp(OUTSIDE), "connect").setup(|_| serve_tcp(&[OUTSIDE])),
    refused("ipv6", "IPv6", |_| tcp("[::1]:9090"), "connect").setup(|_| serve_tcp(&["[::1]:9090"])),
    refused("mapped", "IPv4-mapped IPv6", |_| tcp("[::ffff:127.0.0.1]:9090"), "connect")
        .setup(|_| serve_tcp(&[OUTSIDE])),
    refused("unspecified", "`0.0.0.0` for loopback", |_| tcp("0.0.0.0:9090"), "connect")
        .setup(|_| serve_tcp(&[OUTSIDE])),
    refused(
        "unspec-then-another",
        "`connect` with AF_UNSPEC, then another",
        |_| {
            let s = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
            connect(&s, libc::AF_INET, 8080)?;
            connect(&s, libc::AF_UNSPEC, 0)?;
            connect(&s, libc::AF_INET, 9090)?;
            answered(UdpSocket::from(s), None)
        },
        "connect",
    )
    .setup(|_| serve_udp(&[INSIDE, OUTSIDE])),
    refused("udp-connected", "UDP with connect", |_| udp_connected(OUTSIDE), "connect")
        .setup(|_| serve_udp(&[OUTSIDE])),
    refused(
        "sendto",
        "UDP sendto without connect",
        |_| answered(UdpSocket::from(socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?), Some(OUTSIDE)),
        "send",
    )
    .setup(|_| serve_udp(&[OUTSIDE])),
    refused(
        "sendto-connected",
        "sendto elsewhere on a UDP socket connected to the permitted address",
        |_| {
            let s = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
            connect(&s, libc::AF_INET, 8080)?;
            // No answer can come: it would not be from whom the socket is connected to.
            send_to(&s, libc::AF_INET, 9090, 0)
        },
        "send",
    )
    .setup(|_| serve_udp(&[INSIDE, OUTSIDE])),
    refused(
        "sendto-unspec",
        "sendto with an address that says AF_UNSPEC",
        |_| {
            let s = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
            send_to(&s, libc::AF_UNSPEC, 9090, 0)?;
            received(&UdpSocket::from(s))
        },
        "send",
    )
    .setup(|_| serve_udp(&[OUTSIDE])),
    refused(
        "sendto-v4-on-v6",
        "sendto with an IPv4 address on an IPv6 socket",
        |_| {
            let s = socket(libc::AF_INET6, libc::SOCK_DGRAM, 0)?;
            send_to(&s, libc::AF_INET, 9090, 0)?;
            received(&UdpSocket::from(s))
        },
        "send",
    )
    .setup(|_| serve_udp(&[OUTSIDE])),
    refused("sendmsg", "sendmsg", |_| messages(&[9090]), "send").setup(|_| serve_udp(&[OUTSIDE])),
    refused(
        "sendmmsg",
        "sendmmsg, the first permitted and the second not",
        |_| messages(&[8080, 9090]),
        "send",
    )
    .setup(|_| serve_udp(&[INSIDE, OUTSIDE])),
    refused(
        "fast-open",
        "TCP fast open (`MSG_FASTOPEN`)",
        |_| {
            let s = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
            send_to(&s, libc::AF_INET, 9090, libc::MSG_FASTOPEN)?;
            said(&mut TcpStream::from(s))
        },
        "send",
    )
    .setup(|_| serve_tcp(&[OUTSIDE])),
    refused(
        "fast-open-connect",
        "`TCP_FASTOPEN_CONNECT`",
        |_| {
            let s = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
            // SAFETY: the option is one int.
            ok(unsafe {
                libc::setsockopt(s.as_raw_fd(), libc::IPPROTO_TCP, 30, (&raw const ONE).cast(), 4)
            }
            .into())?;
            connect(&s, libc::AF_INET, 9090)?;
            talk(TcpStream::from(s))
        },
        "connect",
    )
    .setup(|_| serve_tcp(&[OUTSIDE])),
    refused("address-race", "the address changed by another thread during connect", address_race, "connect")
        .setup(|_| serve_udp(&[INSIDE, OUTSIDE])),
    refused(
        "source-route",
        "a source route (`IP_OPTIONS`): the permitted address last, another first",
        |d| {
            let s = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
            let (level, name) = (libc::IPPROTO_IP, libc::IP_OPTIONS);
            // SAFETY: the option has the length given.
            ok(unsafe { libc::setsockopt(s.as_raw_fd(), level, name, ROUTE.as_ptr().cast(), 8) }.into())?;
            send_to(&s, libc::AF_INET, 8080, 0)?;
            wait_for(&d.desk("seen"))
        },
        "socket",
    )
    .setup(sniffer),
    refused(
        "source-route-message",
        "a source route that comes with the message (`IP_RETOPTS`)",
        route_in_message,
        "socket",
    )
    .setup(sniffer),
    refused(
        "source-route6",
        "an IPv6 routing header: the permitted address last, another first",
        route6,
        "socket",
    )
    .setup(|d| {
        let _ = std::process::Command::new("/bin/busybox")
            .args(["ip", "addr", "add", "fd00::9/128", "dev", "lo"])
            .stderr(std::process::Stdio::null())
            .status()?;
        sniffer(d)
    }),
    refused("dns", "DNS as a channel", |_| udp_connected("127.0.0.53:53"), "connect")
        .setup(|_| serve_udp(&["127.0.0.53:53"])),
    refused("docker-tcp", "Docker over TCP", |_| tcp("127.0.0.1:2375"), "connect")
        .setup(|_| serve_tcp(&["127.0.0.1:2375"])),
    refused("metadata", "the metadata address 169.254.169.254", |_| tcp("169.254.169.254:80"), "connect")
        .setup(|_| {
            let _ = std::process::Command::new("/bin/busybox")
                .args(["ip", "addr", "add", "169.254.169.254/32", "dev", "lo"])
                .stderr(std::process::Stdio::null())
                .status()?;
            serve_tcp(&["169.254.169.254:80"])
        }),
    open(
        "proxy",
        "a permitted loopback service that acts for others (a proxy)",
        |_| tcp(INSIDE),
        "what a permitted service does is its own: do not permit its port",
    )
    .setup(|_| {
        let (proxy, beyond) = (Server::tcp(INSIDE, Some(OUTSIDE))?, serve_tcp(&[OUTSIDE])?);
        Ok(Box::new((proxy, beyond)))
    }),
    refused(
        "network-namespace",
        "a new network namespace, with a service of its own",
        |_| {
            unshare(libc::CLONE_NEWNET)?;
            loopback_up()?;
            let _server = Server::tcp(OUTSIDE, None)?;
            tcp(OUTSIDE)
        },
        "bind",
    ),
    elsewhere("io-uring", "io_uring connect and send", "uring/connect and others"),
];

/// A loose source route by way of 127.0.0.9.
const ROUTE: [u8; 8] = [131, 7, 4, 127, 0, 0, 9, 0];

static ONE: libc::c_int = 1;

const FAMILIES: &[Technique] = &[
    refused("raw", "raw socket", |_| made(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP), "socket"),
    refused(
        "raw6",
        "raw IPv6 socket",
        |_| made(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6),
        "socket",
    ),
    refused("packet", "packet socket", |_| made(libc::AF_PACKET, libc::SOCK_RAW, 0x0300), "socket"),
    refused(
        "packet-dgram",
        "packet socket of type dgram",
        |_| made(libc::AF_PACKET, libc::SOCK_DGRAM, 0x0300),
        "socket",
    ),
    refused(
        "ping",
        "ICMP datagram socket",
        |_| made(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP),
        "socket",
    )
    .setup(|_| done(std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"))),
    refused("udplite", "UDP-Lite", |_| made(libc::AF_INET, libc::SOCK_DGRAM, 136), "socket")
        .on(&[("7.2", Expect::Absent("this kernel has no UDP-Lite"))]),
    refused(
        "mptcp",
        "MPTCP",
        |_| {
            let s = socket(libc::AF_INET, libc::SOCK_STREAM, 262)?;
            connect(&s, libc::AF_INET, 9090)?;
            talk(TcpStream::from(s))
        },
        "connect",
    )
    .setup(|_| serve_tcp(&[OUTSIDE])),
    refused("sctp", "SCTP", |_| made(libc::AF_INET, libc::SOCK_STREAM, 132), "socket")
        .setup(|_| loaded(&["libcrc32c", "udp_tunnel", "ip6_udp_tunnel", "sctp"]))
        .on(&[("7.2", lacks("sctp"))]),
    refused("dccp", "DCCP", |_| made(libc::AF_INET, 6, 33), "socket")
        .setup(|_| loaded(&["dccp", "dccp_ipv4"]))
        .on(&[("7.2", Expect::Absent("this kernel has no DCCP"))]),
    refused("vsock", "AF_VSOCK", |_| made(libc::AF_VSOCK, libc::SOCK_STREAM, 0), "socket")
        .setup(|_| loaded(&["vsock"]))
        .on(&[("7.2", lacks("vsock"))]),
    refused("alg", "AF_ALG", |_| made(libc::AF_ALG, libc::SOCK_SEQPACKET, 0), "socket")
        .setup(|_| loaded(&["af_alg"]))
        .on(&[("7.2", lacks("af_alg"))]),
    refused("xdp", "AF_XDP", |_| made(libc::AF_XDP, libc::SOCK_RAW, 0), "socket"),
    refused(
        "netlink",
        "AF_NETLINK (routes, addresses, packet filters)",
        |_| made(libc::AF_NETLINK, libc::SOCK_RAW, 0),
        "socket",
    ),
];

pub fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: numbers only; the descriptor is new.
    unsafe { Ok(OwnedFd::from_raw_fd(ok(libc::socket(family, kind, protocol).into())? as i32)) }
}

/// Succeeds if such a socket can be had: whoever has it needs no further permission.
fn made(family: i32, kind: i32, protocol: i32) -> io::Result<()> {
    match socket(family, kind, protocol) {
        Err(e) if e.raw_os_error() != Some(libc::EPERM) => Err(cannot(&e.to_string())),
        other => other.map(drop),
    }
}

/// An IPv4 loopback address that says it is of this family.
pub fn address(family: i32, port: u16) -> libc::sockaddr_in {
    // SAFETY: an all-zero address is valid.
    let mut a: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    a.sin_family = family as u16;
    a.sin_port = port.to_be();
    a.sin_addr.s_addr = u32::from(Ipv4Addr::LOCALHOST).to_be();
    a
}

fn connect(s: &OwnedFd, family: i32, port: u16) -> io::Result<()> {
    let a = address(family, port);
    // SAFETY: the address has the length given.
    ok(unsafe { libc::connect(s.as_raw_fd(), (&raw const a).cast(), 16) }.into())?;
    Ok(())
}

fn send_to(s: &OwnedFd, family: i32, port: u16, flags: i32) -> io::Result<()> {
    let a = address(family, port);
    // SAFETY: buffer and address have the lengths given.
    let n =
        unsafe { libc::sendto(s.as_raw_fd(), b"ping".as_ptr().cast(), 4, flags, (&raw const a).cast(), 16) };
    ok(n as libc::c_long)?;
    Ok(())
}

fn udp_connected(to: &str) -> io::Result<()> {
    let s = UdpSocket::from(socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?);
    s.connect(to)?;
    answered(s, None)
}

/// Asks, and succeeds if there is an answer.
fn answered(s: UdpSocket, to: Option<&str>) -> io::Result<()> {
    match to {
        Some(to) => s.send_to(b"ping", to)?,
        None => s.send(b"ping")?,
    };
    received(&s)
}

/// Succeeds if the service outside has answered.
pub fn received(s: &UdpSocket) -> io::Result<()> {
    s.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut buf = [0u8; 16];
    loop {
        let (n, from) = s.recv_from(&mut buf)?;
        // What the permitted address answers does not count.
        if from.port() != 8080 {
            return if &buf[..n] == b"pong" { Ok(()) } else { Err(no_effect("another answer")) };
        }
    }
}

/// `sendmsg` to one port, `sendmmsg` to several.
fn messages(ports: &[u16]) -> io::Result<()> {
    let s = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let mut to: Vec<libc::sockaddr_in> = ports.iter().map(|p| address(libc::AF_INET, *p)).collect();
    let mut iov = libc::iovec { iov_base: b"ping".as_ptr().cast_mut().cast(), iov_len: 4 };
    let mut all: Vec<libc::mmsghdr> = to
        .iter_mut()
        .map(|a| {
            // SAFETY: an all-zero header is valid.
            let mut m: libc::mmsghdr = unsafe { std::mem::zeroed() };
            m.msg_hdr.msg_name = (&raw mut *a).cast();
            m.msg_hdr.msg_namelen = 16;
            m.msg_hdr.msg_iov = &raw mut iov;
            m.msg_hdr.msg_iovlen = 1;
            m
        })
        .collect();
    // SAFETY: headers, addresses and buffer live through the calls.
    unsafe {
        if let [one] = all.as_slice() {
            ok(libc::sendmsg(s.as_raw_fd(), &raw const one.msg_hdr, 0) as libc::c_long)?;
        } else {
            let n = ok(libc::sendmmsg(s.as_raw_fd(), all.as_mut_ptr(), all.len() as u32, 0).into())?;
            if (n as usize) < all.len() {
                // The kernel tells the error of a later message only if it is asked again.
                ok(libc::sendmmsg(s.as_raw_fd(), all.as_mut_ptr().add(n as usize), 1, 0).into())?;
            }
        }
    }
    received(&UdpSocket::from(s))
}

/// Another thread writes the port while this one connects.
fn address_race(_: &Dirs) -> io::Result<()> {
    let shared: &'static mut libc::sockaddr_in = Box::leak(Box::new(address(libc::AF_INET, 8080)));
    let place = (&raw mut *shared) as usize;
    flip(place + 2, [8080u16.to_be(), 9090u16.to_be()]);
    race(100, || {
        let s = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
        // SAFETY: the address is never freed; that it changes is what is tried.
        ok(unsafe { libc::connect(s.as_raw_fd(), place as *const libc::sockaddr, 16) }.into())?;
        if UdpSocket::from(s).peer_addr()?.port() == 9090 {
            Ok(())
        } else {
            Err(no_effect("the permitted one"))
        }
    })
}

/// Brings up `lo` of a new network namespace.
fn loopback_up() -> io::Result<()> {
    let s = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    // SAFETY: an all-zero request is valid; the kernel reads name and flags.
    unsafe {
        let mut r: libc::ifreq = std::mem::zeroed();
        r.ifr_name[0] = b'l' as libc::c_char;
        r.ifr_name[1] = b'o' as libc::c_char;
        r.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
        ok(libc::ioctl(s.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const r).into())?;
    }
    Ok(())
}

fn route_in_message(d: &Dirs) -> io::Result<()> {
    let s = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let mut to = address(libc::AF_INET, 8080);
    let mut iov = libc::iovec { iov_base: b"ping".as_ptr().cast_mut().cast(), iov_len: 4 };
    let mut control = [0u64; 4];
    // SAFETY: the control buffer is aligned and has room for eight bytes; all pointers live through the call.
    unsafe {
        let mut m: libc::msghdr = std::mem::zeroed();
        m.msg_name = (&raw mut to).cast();
        m.msg_namelen = 16;
        m.msg_iov = &raw mut iov;
        m.msg_iovlen = 1;
        m.msg_control = control.as_mut_ptr().cast();
        m.msg_controllen = libc::CMSG_SPACE(8) as usize;
        let head = libc::CMSG_FIRSTHDR(&raw const m);
        (*head).cmsg_level = libc::IPPROTO_IP;
        (*head).cmsg_type = libc::IP_RETOPTS;
        (*head).cmsg_len = libc::CMSG_LEN(8) as usize;
        libc::CMSG_DATA(head).cast::<[u8; 8]>().write_unaligned(ROUTE);
        ok(libc::sendmsg(s.as_raw_fd(), &raw const m, 0) as libc::c_long)?;
    }
    wait_for(&d.desk("seen"))
}

/// A segment routing header of two segments: the last hop, which the kernel fills in, and the first.
fn route6(d: &Dirs) -> io::Result<()> {
    let mut header = [0u8; 40];
    // 40 bytes, type 4, one segment left, which is also the first.
    header[1..5].copy_from_slice(&[4, 4, 1, 1]);
    header[24..].copy_from_slice(&FIRST_HOP.octets());
    let s = socket(libc::AF_INET6, libc::SOCK_DGRAM, 0)?;
    let (level, name) = (libc::IPPROTO_IPV6, libc::IPV6_RTHDR);
    // SAFETY: the option has the length given.
    ok(unsafe { libc::setsockopt(s.as_raw_fd(), level, name, header.as_ptr().cast(), 40) }.into())?;
    UdpSocket::from(s).send_to(b"ping", "[::1]:8080")?;
    wait_for(&d.desk("seen"))
}

const FIRST_HOP: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9);

/// Watches the wire for a packet to the first hop.
fn sniffer(d: &Dirs) -> io::Result<Keep> {
    const ETH_P_ALL: u16 = 3;
    let s = socket(libc::AF_PACKET, libc::SOCK_DGRAM, ETH_P_ALL.to_be().into())?;
    let s = UdpSocket::from(s);
    s.set_read_timeout(Some(Duration::from_millis(20)))?;
    let seen = d.desk("seen");
    Ok(Box::new(Server::run(move |stop| {
        let mut packet = [0u8; 128];
        while !stop.load(Ordering::Relaxed) {
            // SAFETY: the buffer has the length given.
            let n = unsafe { libc::recv(s.as_raw_fd(), packet.as_mut_ptr().cast(), packet.len(), 0) };
            let (v4, v6) = (packet[0] >> 4 == 4, packet[0] >> 4 == 6);
            if n >= 20 && (v4 && packet[16..20] == ROUTE[3..7] || v6 && packet[24..40] == FIRST_HOP.octets())
            {
                let _ = std::fs::write(&seen, "seen");
            }
        }
    })))
}
