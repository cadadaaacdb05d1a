//! Network, the half that does not reach out by address: to be called, unix sockets, and sockets that come from elsewhere.

use std::io::{self, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::Duration;

use super::corpus::{Technique, absent, contained, inherit, open};
use super::network::{INSIDE, OUTSIDE, received, refused, socket};
use super::services::{caller, serve_tcp, talk};
use super::sys::*;
use super::{Dirs, INHERITED};

/// Being called from outside.
pub const REACHED: &[Technique] = &[
    refused(
        "bind-listen",
        "bind and listen, to be called from outside",
        |d| {
            let listener = TcpListener::bind("127.0.0.1:9191")?;
            called(d, &listener)
        },
        "bind",
    )
    .setup(caller),
    refused(
        "listen-unbound",
        "listen without bind: the kernel chooses the port",
        |d| {
            let s = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
            // SAFETY: numbers only.
            ok(unsafe { libc::listen(s.as_raw_fd(), 1) }.into())?;
            called(d, &TcpListener::from(s))
        },
        "listen",
    )
    .setup(caller),
    contained(
        "inherited-listener",
        "accept on a listening socket opened before the session",
        |d| {
            // SAFETY: nobody else has this number.
            called(d, &TcpListener::from(unsafe { OwnedFd::from_raw_fd(INHERITED) }))
        },
        "accept",
        "default",
    )
    .setup(|d| {
        let listener = inherit(TcpListener::bind("127.0.0.1:9191")?)?;
        Ok(Box::new((listener, caller(d)?)))
    }),
    refused(
        "udp-bind",
        "a UDP socket bound to be sent to",
        |_| {
            let s = UdpSocket::bind("127.0.0.1:9191")?;
            s.set_read_timeout(Some(Duration::from_secs(5)))?;
            UdpSocket::bind("127.0.0.1:0")?.send_to(b"pong", "127.0.0.1:9191")?;
            received(&s)
        },
        "bind",
    ),
    open(
        "udp-answer-from-another",
        "a datagram to the permitted address, answered by another",
        |_| {
            let s = UdpSocket::from(socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?);
            s.set_read_timeout(Some(Duration::from_secs(5)))?;
            s.send_to(b"ping", INSIDE)?;
            let mut buf = [0u8; 16];
            let (_, from) = s.recv_from(&mut buf)?;
            if from.port() == 9090 { Ok(()) } else { Err(no_effect("the permitted one answered")) }
        },
        "receiving is not decided",
    )
    .setup(|_| {
        let (inside, other) = (UdpSocket::bind(INSIDE)?, UdpSocket::bind(OUTSIDE)?);
        inside.set_read_timeout(Some(Duration::from_secs(10)))?;
        std::thread::spawn(move || {
            let mut buf = [0u8; 16];
            if let Ok((_, from)) = inside.recv_from(&mut buf) {
                let _ = other.send_to(b"pong", from);
            }
        });
        Ok(Box::new(()))
    }),
];

/// Unix sockets, and sockets that somebody else has made.
pub const HANDED: &[Technique] = &[
    refused(
        "abstract",
        "abstract unix socket",
        |d| {
            let (a, n) = crate::actor::unix(&abstract_name(d));
            let s = socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
            // SAFETY: the address is valid for its length.
            ok(unsafe { libc::connect(s.as_raw_fd(), (&raw const a).cast(), n) }.into())?;
            Ok(())
        },
        "unix_connect",
    )
    .setup(|d| {
        use std::os::linux::net::SocketAddrExt;
        let name = abstract_name(d);
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name[1..])?;
        Ok(Box::new(UnixListener::bind_addr(&address)?))
    }),
    refused(
        "unix",
        "unix socket by a symlink",
        |d| {
            std::os::unix::fs::symlink(d.path("run/s"), d.desk("s"))?;
            UnixStream::connect(d.desk("s")).map(drop)
        },
        "unix_connect",
    )
    .setup(|d| Ok(Box::new(UnixListener::bind(d.path("run/s"))?))),
    refused(
        "unix-hard-link",
        "unix socket by a hard link to its name",
        |d| {
            std::fs::hard_link(d.path("run/s"), d.desk("s"))?;
            UnixStream::connect(d.desk("s")).map(drop)
        },
        "unix_connect",
    )
    .setup(|d| Ok(Box::new(UnixListener::bind(d.path("run/s"))?))),
    refused(
        "unix-dgram",
        "unix datagram, connected first",
        |d| {
            let s = UnixDatagram::unbound()?;
            s.connect(d.path("run/s"))?;
            s.send(b"x").map(|_| ())
        },
        "unix_send",
    )
    .setup(|d| Ok(Box::new(UnixDatagram::bind(d.path("run/s"))?))),
    open(
        "passed-socket",
        "a connected socket passed by a process outside",
        |d| {
            let giver = UnixStream::connect(d.desk("giver.sock"))?;
            talk(TcpStream::from(receive_fd(&giver)?))
        },
        "needs receive_fd",
    )
    .setup(|d| {
        let server = serve_tcp(&[OUTSIDE])?;
        let listener = UnixListener::bind(d.desk("giver.sock"))?;
        let connected = TcpStream::connect(OUTSIDE)?;
        std::thread::spawn(move || {
            if let Ok((stream, _)) = listener.accept() {
                let _ = send_fd(&stream, connected.as_raw_fd());
            }
        });
        Ok(server)
    }),
    open(
        "inherited-socket",
        "a socket connected before the session was registered",
        |_| {
            // SAFETY: nobody else has this number.
            talk(TcpStream::from(unsafe { OwnedFd::from_raw_fd(INHERITED) }))
        },
        "descriptors opened before registration are not decided again",
    )
    .setup(|_| {
        let server = serve_tcp(&[OUTSIDE])?;
        Ok(Box::new((inherit(TcpStream::connect(OUTSIDE)?)?, server)))
    }),
    absent(
        "ip-in-another-way",
        "IP through a TUN device or another process's network namespace",
        "TUN is a module these machines do not have",
    ),
];

fn abstract_name(d: &Dirs) -> String {
    format!("@aarm-escape{}", d.path("").display())
}

/// Tells the caller outside where to call, and succeeds if it does.
pub fn called(d: &Dirs, listener: &TcpListener) -> io::Result<()> {
    std::fs::write(d.desk("port"), listener.local_addr()?.port().to_string())?;
    let (mut s, _) = listener.accept()?;
    s.write_all(b"x")
}
