//! Many threads whose every call must be asked about, and processes that signal and kill beside them.
//!
//! What is done follows from the seed, so that a case knows each call that is made: [`deed`]. Each is about an object of its own,
//! by which its receipts are found. Calls are told as they end, a line each: `w THREAD NUMBER ERRNO`.

use std::time::Duration;

use crate::actor::{connect, on_path, on_paths, open, send_to, symlink};
use crate::differential::rng::Rng;

/// Where held files are.
pub const DIR: &str = "/tmp/s/held";
/// Threads of the process that must come through.
pub const THREADS: usize = 64;
/// Threads of each process that is killed.
const VICTIM_THREADS: usize = 3;
/// Calls of each of these: more than it lives for.
const VICTIM_TIMES: usize = 1000;
/// Processes that are killed, at a time.
const VICTIMS: usize = 2;
/// Ports: what waits for as long as it takes, and what waits for a short time only; with the second digit by the kind of call.
const PORT: u16 = 4000;
const SHORT_PORT: u16 = 4010;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Udp,
    Tcp,
    Send,
    Read,
    Mkdir,
    Symlink,
    Create,
    Unlink,
    Rename,
    Truncate,
}

const KINDS: &[Kind] = &[
    Kind::Udp,
    Kind::Tcp,
    Kind::Send,
    Kind::Read,
    Kind::Mkdir,
    Kind::Symlink,
    Kind::Create,
    Kind::Unlink,
    Kind::Rename,
    Kind::Truncate,
];
/// Those that need no file to be there.
const OF_VICTIMS: usize = 7;

/// One call.
#[derive(Clone, Debug)]
pub struct Deed {
    /// What is done.
    kind: Kind,
    /// To what: a path, or an address and port.
    pub object: String,
}

/// The calls of a thread of the process that must come through.
pub fn deed(seed: u64, thread: usize, number: usize) -> Deed {
    let mut rng = Rng::of(seed, thread, number);
    let kind = rng.one(KINDS);
    make(kind, rng.one_in(8), "w", thread + 1, number)
}

fn make(kind: Kind, short: bool, who: &str, thread: usize, number: usize) -> Deed {
    let port = if short { SHORT_PORT } else { PORT };
    let address = |more| format!("127.{thread}.{}.{}:{}", number >> 8 & 255, number & 255, port + more);
    let object = match kind {
        Kind::Udp => address(0),
        Kind::Tcp => address(1),
        Kind::Send => address(2),
        _ => format!("{DIR}/{}{who}-{thread}-{number}", if short { "short/" } else { "" }),
    };
    Deed { kind, object }
}

impl Deed {
    /// A file that must be there.
    pub fn needs(&self) -> Option<&str> {
        matches!(self.kind, Kind::Read | Kind::Unlink | Kind::Rename | Kind::Truncate).then_some(&self.object)
    }

    /// Whether an errno is what a call that was allowed ends with: nobody listens for the one.
    pub fn allowed(&self, errno: i32) -> bool {
        errno == 0 || self.kind == Kind::Tcp && errno == libc::ECONNREFUSED
    }

    /// Whether it has happened, where that can be seen afterwards.
    pub fn happened(&self) -> Option<bool> {
        let there = || std::fs::symlink_metadata(&self.object).is_ok();
        match self.kind {
            Kind::Mkdir | Kind::Symlink | Kind::Create => Some(there()),
            Kind::Unlink | Kind::Rename => Some(!there()),
            Kind::Truncate => std::fs::metadata(&self.object).ok().map(|m| m.len() == 0),
            Kind::Udp | Kind::Tcp | Kind::Send | Kind::Read => None,
        }
    }

    fn act(&self) -> i32 {
        let o = self.object.as_str();
        let done = match self.kind {
            Kind::Udp => connect(o, libc::SOCK_DGRAM),
            Kind::Tcp => connect(o, libc::SOCK_STREAM),
            Kind::Send => send_to(o),
            Kind::Read => opened(o, libc::O_RDONLY),
            Kind::Mkdir => on_path(libc::SYS_mkdirat, o, [0o755, 0, 0]),
            Kind::Symlink => symlink("target", o),
            Kind::Create => opened(o, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL),
            Kind::Unlink => on_path(libc::SYS_unlinkat, o, [0; 3]),
            Kind::Rename => on_paths(libc::SYS_renameat2, o, &format!("{o}-moved"), 0),
            Kind::Truncate => opened(o, libc::O_WRONLY | libc::O_TRUNC),
        };
        done.err().unwrap_or(0)
    }
}

fn opened(path: &str, flags: i32) -> Result<i32, i32> {
    // SAFETY: opened here.
    open(path, flags).map(|fd| unsafe { libc::close(fd) })
}

/// Says what became of a call. By the system call itself: a process may be killed with the lock of a library.
fn say(line: &str) {
    // SAFETY: a buffer of this length.
    unsafe { libc::write(libc::STDOUT_FILENO, line.as_ptr().cast(), line.len()) };
}

fn threads(threads: usize, times: usize, who: &str, deed: impl Fn(usize, usize) -> Deed + Sync) {
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let deed = &deed;
            scope.spawn(move || {
                for number in 0..times {
                    say(&format!("{who} {thread} {number} {}\n", deed(thread, number).act()));
                }
            });
        }
    });
}

/// A process that does `body` and ends. Called by a process of one thread.
fn process(body: impl FnOnce()) -> Result<i32, i32> {
    // SAFETY: nothing else runs here, so the child may do as it likes.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        body();
        // SAFETY: it has nothing to give back.
        unsafe { libc::_exit(0) };
    }
    if pid < 0 { Err(libc::EAGAIN) } else { Ok(pid) }
}

/// The `n`th process that is to be killed.
fn victim(seed: u64, n: usize) -> Result<i32, i32> {
    process(|| {
        threads(VICTIM_THREADS, VICTIM_TIMES, "v", |thread, number| {
            let mut rng = Rng::of(seed ^ n as u64, THREADS + thread, number);
            let kind = rng.one(&KINDS[..OF_VICTIMS]);
            // Addresses that the other process has not.
            make(kind, rng.one_in(8), &format!("v{n}"), 128 + thread + n % 32 * VICTIM_THREADS, number)
        });
    })
}

fn kill(pid: i32, signal: i32) {
    // SAFETY: a child of ours, not waited for yet.
    unsafe { libc::kill(pid, signal) };
}

/// Whether a child has ended, and with which status.
fn ended(pid: i32, how: i32) -> Option<i32> {
    let mut status = 0;
    // SAFETY: a child of ours.
    (unsafe { libc::waitpid(pid, &raw mut status, how) } == pid).then_some(status)
}

/// All of it: one process that must come through, and whoever disturbs it until it has. At the end what was done to it.
pub fn storm(seed: &str, times: &str) -> Result<i32, i32> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| libc::EINVAL);
    let (seed, times) = (number(seed)?, number(times)? as usize);
    let worker = process(|| threads(THREADS, times, "w", |thread, number| deed(seed, thread, number)))?;
    let mut rng = Rng::of(seed, usize::MAX, 0);
    let mut victims = Vec::new();
    let (mut signals, mut killed) = (0, 0);
    let status = loop {
        if let Some(status) = ended(worker, libc::WNOHANG) {
            break status;
        }
        while victims.len() < VICTIMS {
            victims.push(victim(seed, killed + victims.len())?);
        }
        let at = rng.below(VICTIMS);
        match rng.below(16) {
            0 => {
                let gone = victims.swap_remove(at);
                kill(gone, libc::SIGKILL);
                ended(gone, 0);
                killed += 1;
            }
            1..6 => {
                kill(worker, libc::SIGSTOP);
                std::thread::sleep(Duration::from_micros(rng.number() % 3000));
                kill(worker, libc::SIGCONT);
                signals += 1;
            }
            6..9 => {
                kill(victims[at], libc::SIGSTOP);
                kill(victims[at], libc::SIGCONT);
                signals += 1;
            }
            _ => {
                kill(worker, libc::SIGCONT);
                signals += 1;
            }
        }
        std::thread::sleep(Duration::from_micros(rng.number() % 60_000));
    };
    for gone in victims {
        kill(gone, libc::SIGKILL);
        ended(gone, 0);
        killed += 1;
    }
    say(&format!("s {signals} {killed} {status}\n"));
    Ok(0)
}
