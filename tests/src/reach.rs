//! Programs that reach out and say who answered; for redirected connections.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use crate::actor;

/// How long a program waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

fn errno(e: &std::io::Error) -> i32 {
    e.raw_os_error().unwrap_or(libc::EIO)
}

/// Connects, says its word, and prints what it is told.
pub fn tell(address: &str, word: &str) -> Result<i32, i32> {
    let mut stream = TcpStream::connect(address).map_err(|e| errno(&e))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|e| errno(&e))?;
    stream.write_all(word.as_bytes()).map_err(|e| errno(&e))?;
    stream.shutdown(std::net::Shutdown::Write).map_err(|e| errno(&e))?;
    let mut told = String::new();
    stream.read_to_string(&mut told).map_err(|e| errno(&e))?;
    println!("told {told}");
    Ok(0)
}

/// Sends three datagrams to each address, of which the system call sends as many as there are addresses at once, and prints from where
/// each answer comes. `connected`: connects to the first address instead.
pub fn datagrams(addresses: &[String], connected: bool) -> Result<i32, i32> {
    let to: Vec<SocketAddr> =
        addresses.iter().map(|a| a.parse()).collect::<Result<_, _>>().map_err(|_| libc::EINVAL)?;
    let first = *to.first().ok_or(libc::EINVAL)?;
    let local = if first.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(local).map_err(|e| errno(&e))?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(|e| errno(&e))?;
    let mut sent = 0;
    if connected {
        socket.connect(first).map_err(|e| errno(&e))?;
        socket.send(b"x").map_err(|e| errno(&e))?;
        sent += 1;
    } else {
        for address in &to {
            sent += thrice(&socket, address)?;
        }
    }
    let mut from: Vec<String> = Vec::new();
    for _ in 0..sent {
        let mut answer = [0u8; 64];
        let (n, who) = socket.recv_from(&mut answer).map_err(|e| errno(&e))?;
        from.push(format!("{who} {}", String::from_utf8_lossy(&answer[..n])));
    }
    from.sort();
    from.iter().for_each(|line| println!("{line}"));
    Ok(0)
}

/// Three datagrams to one address in one system call: the kernel asks its security modules about the first only.
fn thrice(socket: &UdpSocket, to: &SocketAddr) -> Result<usize, i32> {
    let (mut address, length) = actor::sockaddr(&to.to_string())?;
    let mut byte = *b"x";
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: all-zero headers are valid; everything they point to outlives the call.
    unsafe {
        let mut messages: [libc::mmsghdr; 3] = std::mem::zeroed();
        for message in &mut messages {
            message.msg_hdr.msg_name = (&raw mut address).cast();
            message.msg_hdr.msg_namelen = length;
            message.msg_hdr.msg_iov = &raw mut part;
            message.msg_hdr.msg_iovlen = 1;
        }
        let sent = libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), 3, 0);
        actor::check(sent.into()).map(|n| n as usize)
    }
}

/// Connects a socket of no protocol that can be redirected.
pub fn raw(address: &str) -> Result<i32, i32> {
    // SAFETY: numbers only.
    let socket =
        actor::check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP) }.into())?;
    let (a, n) = actor::sockaddr(address)?;
    // SAFETY: the address is valid for its length.
    actor::check(unsafe { libc::connect(socket, (&raw const a).cast(), n) }.into())
}

/// Tells a socket to forget whom it is connected to.
pub fn disconnect(address: &str) -> Result<i32, i32> {
    let (a, n) = actor::sockaddr(address)?;
    // SAFETY: numbers, and addresses valid for their lengths.
    unsafe {
        let socket = actor::check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).into())?;
        actor::check(libc::connect(socket, (&raw const a).cast(), n).into())?;
        let mut none: libc::sockaddr = std::mem::zeroed();
        none.sa_family = libc::AF_UNSPEC as u16;
        actor::check(libc::connect(socket, &raw const none, size_of::<libc::sockaddr>() as u32).into())
    }
}
