//! A resolver for tests, and programs that ask it. Messages are put together by hand, so that they can be wrong.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::actor;

/// How long a program waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Type of a record with the name of an address.
const PTR: u16 = 12;
/// Type of a record with an IPv4 address.
const A: u16 = 1;
/// With an IPv6 address.
const AAAA: u16 = 28;
/// With another name.
const CNAME: u16 = 5;

/// A name in a message.
fn name(text: &str) -> Vec<u8> {
    let labels = text.split('.').flat_map(|l| std::iter::once(l.len() as u8).chain(l.bytes()));
    labels.chain([0]).collect()
}

/// A query with this number.
pub fn query(id: u16, host: &str, kind: u16) -> Vec<u8> {
    let mut m = Vec::new();
    for word in [id, 0x0100, 1, 0, 0, 0] {
        m.extend(word.to_be_bytes());
    }
    m.extend(name(host));
    m.extend(kind.to_be_bytes());
    m.extend([0, 1]);
    m
}

/// One record of an answer.
#[derive(Clone, Copy, Debug)]
pub enum Record<'a> {
    /// An address, and for how many seconds.
    Address(IpAddr, u32),
    /// The name is another one.
    Alias(&'a str),
    /// The address has this name.
    Name(&'a str),
}

/// The name that a query asks for, whether for an IPv4 address, and where the question ends: what follows are options.
pub fn asked(query: &[u8]) -> (String, bool, usize) {
    let (mut at, mut labels) = (12, Vec::new());
    while let Some(len @ 1..) = query.get(at).map(|n| *n as usize) {
        let label = query.get(at + 1..at + 1 + len).unwrap_or_default();
        labels.push(String::from_utf8_lossy(label).into_owned());
        at += 1 + len;
    }
    let end = (at + 5).min(query.len());
    (labels.join("."), query[..end].ends_with(&[0, A as u8, 0, 1]), end)
}

/// The answer to a query.
pub fn answer(query: &[u8], records: &[Record<'_>]) -> Vec<u8> {
    let mut m = query[..asked(query).2].to_vec();
    m[10..12].copy_from_slice(&[0, 0]);
    m[2..4].copy_from_slice(&0x8180u16.to_be_bytes());
    m[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
    for record in records {
        let (kind, ttl, data) = match record {
            Record::Address(IpAddr::V4(a), ttl) => (A, *ttl, a.octets().to_vec()),
            Record::Address(IpAddr::V6(a), ttl) => (AAAA, *ttl, a.octets().to_vec()),
            Record::Alias(to) => (CNAME, 60, name(to)),
            Record::Name(of) => (PTR, 60, name(of)),
        };
        // The owner is the question's name.
        m.extend([0xc0, 12]);
        m.extend(kind.to_be_bytes());
        m.extend([0, 1]);
        m.extend(ttl.to_be_bytes());
        m.extend((data.len() as u16).to_be_bytes());
        m.extend(data);
    }
    m
}

/// A server that sends what a function makes of each query.
pub struct Resolver {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Resolver {
    /// Serves at an address; the messages of a query are sent in their order.
    pub fn start(
        at: &str,
        answers: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
    ) -> std::io::Result<Self> {
        let socket = UdpSocket::bind(at)?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((n, from)) = socket.recv_from(&mut buffer) else { continue };
                for message in answers(&buffer[..n]) {
                    // Whoever asked may be gone.
                    let _ = socket.send_to(&message, from);
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn errno(e: &std::io::Error) -> i32 {
    e.raw_os_error().unwrap_or(libc::EIO)
}

/// `ask SERVER NAME HOW TARGET...`: asks for a name, takes the first datagram that comes (or none), and connects to each target
/// in turn; the result is that of the last. HOW: `connected` or `sendto`, and `6` after it to ask for IPv6 addresses. A
/// target `wait` waits six seconds.
pub fn ask(args: &[String]) -> Result<i32, i32> {
    let [server, host, how, targets @ ..] = args else { return Err(libc::EINVAL) };
    let server: SocketAddr = server.parse().map_err(|_| libc::EINVAL)?;
    let any: SocketAddr = if server.is_ipv4() { ([0u8; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).map_err(|e| errno(&e))?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(|e| errno(&e))?;
    let message = query(0x5a5a, host, if how.ends_with('6') { AAAA } else { A });
    if how.starts_with("connected") {
        socket.connect(server).map_err(|e| errno(&e))?;
        socket.send(&message).map_err(|e| errno(&e))?;
    } else {
        socket.send_to(&message, server).map_err(|e| errno(&e))?;
    }
    let mut buffer = [0; 4096];
    let _ = socket.recv_from(&mut buffer);
    let mut last = Ok(0);
    for target in targets {
        if target == "wait" {
            std::thread::sleep(Duration::from_secs(6));
        } else {
            last = actor::connect(target, libc::SOCK_STREAM);
        }
    }
    last
}

/// `ask-elsewhere SERVER NAME ADDRESS TARGET`: makes a network namespace of its own, answers itself there, and connects from
/// where it was before.
pub fn ask_elsewhere(args: &[String]) -> Result<i32, i32> {
    let [server, host, address, target] = args else { return Err(libc::EINVAL) };
    let address: IpAddr = address.parse().map_err(|_| libc::EINVAL)?;
    let before = std::fs::File::open("/proc/thread-self/ns/net").map_err(|e| errno(&e))?;
    // SAFETY: numbers, and a request structure of the right size for its ioctl.
    unsafe {
        actor::check(libc::unshare(libc::CLONE_NEWNET).into())?;
        let s = actor::check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).into())?;
        let mut up: libc::ifreq = std::mem::zeroed();
        up.ifr_name[0] = b'l' as libc::c_char;
        up.ifr_name[1] = b'o' as libc::c_char;
        up.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        actor::check(libc::ioctl(s, libc::SIOCSIFFLAGS, &raw mut up).into())?;
    }
    {
        let _own = Resolver::start(server, move |q| vec![answer(q, &[Record::Address(address, 60)])])
            .map_err(|e| errno(&e))?;
        let here = [server.clone(), host.clone(), "connected".into()];
        ask(&here)?;
    }
    // SAFETY: an open descriptor.
    unsafe {
        actor::check(libc::setns(std::os::fd::AsRawFd::as_raw_fd(&before), libc::CLONE_NEWNET).into())?;
    }
    actor::connect(target, libc::SOCK_STREAM)
}
