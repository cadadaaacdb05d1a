//! A daemon for tests of the command line: answers every request with one prepared answer.
// Each test binary compiles this module for itself and uses a part of it.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};

/// A request that came in.
pub struct Seen {
    /// Method and target.
    pub line: String,
    /// The body.
    pub body: String,
    /// Process at the other end, as the kernel tells.
    pub pid: i32,
    /// Its threads at that moment.
    pub threads: usize,
}

/// A listening socket with a thread behind it.
pub struct Fake {
    _dir: tempfile::TempDir,
    /// Where it listens.
    pub socket: PathBuf,
    /// What came in.
    pub seen: Receiver<Seen>,
}

/// The session that [`registered`] gives out.
pub const UUID: &str = "0199c2d4-7a5b-7cc0-8000-0123456789ab";

/// The answer to a registration that succeeds.
pub fn registered() -> String {
    answer(
        "201 Created",
        &format!(
            r#"{{"session":"0000000100000003","uuid":"{UUID}","policy":{{"name":"test","version":"1","hash":"00","mode":"enforce"}}}}"#
        ),
    )
}

/// A whole HTTP answer.
pub fn answer(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

impl Fake {
    /// Starts one that answers with these bytes, or hangs up where there are none.
    pub fn start(answer: impl Into<Vec<u8>>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let (send, seen) = channel();
        let answer = answer.into();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { break };
                let credentials =
                    nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials);
                let pid = credentials.map_or(0, |c| c.pid());
                let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
                let (mut line, mut length) = (String::new(), 0);
                if reader.read_line(&mut line).unwrap_or(0) == 0 {
                    continue;
                }
                let mut header = String::new();
                while reader.read_line(&mut header).unwrap_or(0) > 2 {
                    if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap_or(0);
                    }
                    header.clear();
                }
                let mut body = vec![0; length];
                let _ = reader.read_exact(&mut body);
                let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
                let body = String::from_utf8_lossy(&body).into_owned();
                let _ = send.send(Seen { line: line.trim().to_owned(), body, pid, threads });
                let _ = stream.write_all(&answer);
            }
        });
        Self { _dir: dir, socket, seen }
    }
}
