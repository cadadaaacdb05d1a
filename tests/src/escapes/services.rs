//! Services outside of any session: what techniques of the network reach, or are reached by.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Dirs;
use super::corpus::Keep;
use super::sys::no_effect;

/// A service outside, ended when dropped.
pub struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn run(body: impl FnOnce(&AtomicBool) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let theirs = stop.clone();
        Self { stop, thread: Some(std::thread::spawn(move || body(&theirs))) }
    }

    /// Answers each connection; as a proxy with what another service answers.
    pub fn tcp(address: &str, beyond: Option<&'static str>) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self::run(move |stop| {
            while !stop.load(Ordering::Relaxed) {
                let Ok((mut s, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                };
                let _ = s.set_nonblocking(false);
                let _ = s.set_read_timeout(Some(Duration::from_secs(5)));
                let mut buf = [0u8; 4];
                if s.read_exact(&mut buf).is_ok() && beyond.is_none_or(|b| tcp(b).is_ok()) {
                    let _ = s.write_all(b"pong");
                }
            }
        }))
    }

    /// Answers each datagram.
    fn udp(address: &str) -> io::Result<Self> {
        let s = UdpSocket::bind(address)?;
        s.set_read_timeout(Some(Duration::from_millis(20)))?;
        Ok(Self::run(move |stop| {
            let mut buf = [0u8; 16];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((_, from)) = s.recv_from(&mut buf) {
                    let _ = s.send_to(b"pong", from);
                }
            }
        }))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// TCP services at these addresses.
pub fn serve_tcp(addresses: &[&str]) -> io::Result<Keep> {
    let all: io::Result<Vec<_>> = addresses.iter().map(|a| Server::tcp(a, None)).collect();
    Ok(Box::new(all?))
}

/// UDP services at these addresses.
pub fn serve_udp(addresses: &[&str]) -> io::Result<Keep> {
    let all: io::Result<Vec<_>> = addresses.iter().map(|a| Server::udp(a)).collect();
    Ok(Box::new(all?))
}

/// Somebody outside who calls as soon as there is a port to call.
pub fn caller(d: &Dirs) -> io::Result<Keep> {
    let path = d.desk("port");
    Ok(Box::new(Server::run(move |stop| {
        while !stop.load(Ordering::Relaxed) {
            let port = std::fs::read_to_string(&path).ok().and_then(|p| p.parse::<u16>().ok());
            if let Some(mut s) = port.and_then(|p| TcpStream::connect(("127.0.0.1", p)).ok()) {
                let _ = s.read(&mut [0u8; 1]);
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    })))
}

/// Succeeds if a TCP service answers.
pub fn tcp(address: &str) -> io::Result<()> {
    talk(TcpStream::connect(address)?)
}

/// The same on a connection.
pub fn talk(mut s: TcpStream) -> io::Result<()> {
    s.write_all(b"ping")?;
    said(&mut s)
}

/// Succeeds if the other side answers.
pub fn said(s: &mut TcpStream) -> io::Result<()> {
    s.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut buf = [0u8; 4];
    s.read_exact(&mut buf)?;
    if &buf == b"pong" { Ok(()) } else { Err(no_effect("another answer")) }
}
