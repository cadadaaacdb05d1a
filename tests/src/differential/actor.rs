//! The process that acts, and what it knows of what it does.
//!
//! A child of the suite that puts itself into a session by the API, so that nothing but its deeds is decided. Before each
//! deed it looks (attributes and links of names are not decided) what the kernel is to ask about: which object, under which
//! names, in which order. Must never: learn that from the kernel programs.

use std::collections::{BTreeSet, HashMap};
use std::ffi::CString;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::rng::Rng;
use super::world::{BOUND, HELD, NAMES, ROOTS, World};
use super::{Played, Round, deeds, sockets};

const SOCKET: &str = "/run/aarm/aarm.sock";
/// How long a slot for a policy may take to be free.
const SLOTS: std::time::Duration = std::time::Duration::from_secs(30);
/// Sockets for connections to unix sockets: each is used up by one that succeeds.
const CLIENTS: usize = 64;
/// Descriptors to receive.
const RECEIVED: usize = 24;
/// Symbolic links followed in one path.
const LINKS_MAX: usize = 40;

/// One thing that the kernel asks about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Step {
    /// Operation.
    pub op: String,
    /// The object, as it is called here.
    pub path: Option<String>,
    /// Its other names.
    pub names: Vec<String>,
    /// The target.
    pub path2: Option<String>,
    /// Its other names.
    pub names2: Vec<String>,
    /// Who.
    pub uid: u32,
    /// Device and inode of a file or pipe, which may carry labels.
    pub id: Option<(u64, u64)>,
    /// Asked about only if the object carries labels that the session does not have.
    pub if_carried: bool,
    /// The address.
    pub addr: Option<IpAddr>,
    /// The port.
    pub port: u16,
    /// The protocol of the socket.
    pub protocol: u8,
    /// The address family.
    pub family: u16,
    /// The type of the socket.
    pub kind: u16,
    /// An open for both.
    pub also_read: bool,
    /// An open that truncates.
    pub truncates: bool,
    /// A rename that exchanges.
    pub exchange: bool,
    /// Of a rename: one of the two that move is a directory.
    pub directory: bool,
    /// An open of memory.
    pub raw_memory: bool,
    /// An open of a kernel parameter.
    pub sysctl: bool,
    /// A send that connects.
    pub fast_open: bool,
    /// A descriptor that can write.
    pub writes: bool,
}

/// One deed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Act {
    /// For people.
    pub what: String,
    /// What it is decided as, in this order, until something is refused.
    pub steps: Vec<Step>,
    /// How it ended; 0: well.
    pub errno: i32,
    /// The kernel itself says EPERM as well.
    pub ambiguous: bool,
}

/// An object under all its names.
#[derive(Clone, Debug, Default)]
pub struct Named {
    /// The name used.
    pub path: String,
    /// The others.
    pub names: Vec<String>,
    /// Device and inode, if data can be in it.
    pub id: Option<(u64, u64)>,
    /// The kernel's memory.
    pub raw: bool,
}

/// Sockets made before the session.
pub struct Sockets {
    /// TCP over IPv4 and IPv6: to connect with.
    pub tcp: [i32; 2],
    /// UDP likewise.
    pub udp: [i32; 2],
    /// TCP: to be reached by.
    pub servers: Vec<i32>,
    /// Unix sockets, by type, that are not connected.
    pub streams: Vec<i32>,
    /// A unix datagram socket.
    pub datagrams: i32,
    /// From here come descriptors, of these files, to write or not; the last one first.
    pub inbox: (i32, Vec<(&'static str, bool)>),
}

/// Who acts.
pub struct Actor {
    /// Paths that were there once.
    pub paths: Vec<String>,
    /// Symbolic links to directories.
    pub links: Vec<(String, String)>,
    known: HashMap<(u64, u64), BTreeSet<String>>,
    /// The directory that is mounted at [`BOUND`].
    bound: i32,
    /// Sockets.
    pub sockets: Sockets,
    /// A process outside the session.
    pub outside: i32,
    /// Shared memory, a message queue and a key of others.
    pub ipc: (i32, i32, i32),
    /// Something is mounted at the place for it, and may not be taken away.
    pub mounted: bool,
    /// The user now.
    pub uid: u32,
}

/// As the kernel takes it.
pub fn c(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

/// The errno of a system call that says -1.
pub fn errno(result: i64) -> i32 {
    if result >= 0 { 0 } else { std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) }
}

fn open(path: &str, flags: i32) -> i32 {
    // SAFETY: the path ends in NUL.
    unsafe { libc::open(c(path).as_ptr(), flags | libc::O_CLOEXEC) }
}

fn socket(family: i32, kind: i32) -> i32 {
    // SAFETY: numbers only.
    unsafe { libc::socket(family, kind | libc::SOCK_NONBLOCK, 0) }
}

impl Sockets {
    fn new(rng: &mut Rng) -> Result<Self> {
        let (v4, v6) = (libc::AF_INET, libc::AF_INET6);
        let (tcp, udp) = (libc::SOCK_STREAM, libc::SOCK_DGRAM);
        let mut ends = [0; 2];
        // SAFETY: the array has room for both ends.
        ensure!(unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, ends.as_mut_ptr()) } == 0);
        let mut sent = Vec::new();
        for _ in 0..RECEIVED {
            let (path, writes) = (rng.one(&HELD), rng.one_in(2));
            let fd = open(path, if writes { libc::O_RDWR } else { libc::O_RDONLY });
            ensure!(fd >= 0 && sockets::send_fd(ends[0], fd) == 0, "{path} is not sent");
            // Held open, it would be one from before the session.
            // SAFETY: our own descriptor.
            unsafe { libc::close(fd) };
            sent.push((path, writes));
        }
        sent.reverse();
        Ok(Self {
            tcp: [socket(v4, tcp), socket(v6, tcp)],
            udp: [socket(v4, udp), socket(v6, udp)],
            servers: [v4, v4, v6, v6].iter().map(|f| socket(*f, tcp)).collect(),
            streams: (0..CLIENTS).map(|_| socket(libc::AF_UNIX, tcp)).collect(),
            datagrams: socket(libc::AF_UNIX, udp),
            inbox: (ends[1], sent),
        })
    }
}

impl Actor {
    /// A real path: no link in it, and at its end only if `follow` is not set. The last component need not exist.
    pub fn real(&self, path: &str, follow: bool) -> Option<String> {
        let mut todo: Vec<String> =
            path.split('/').rev().filter(|p| !p.is_empty()).map(str::to_owned).collect();
        let mut at = String::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            let here = format!("{at}/{part}");
            let target = match std::fs::read_link(&here) {
                Ok(target) if follow || !todo.is_empty() => target,
                _ => {
                    at = here;
                    continue;
                }
            };
            links += 1;
            if links > LINKS_MAX {
                return None;
            }
            let target = target.to_str()?.to_owned();
            // All links made here are absolute.
            at.clear();
            todo.extend(target.split('/').rev().filter(|p| !p.is_empty()).map(str::to_owned));
        }
        Some(if at.is_empty() { "/".to_owned() } else { at })
    }

    /// The path on the host of a real path, if it is another one. Fails if it has none any more.
    fn home(&self, real: &str) -> Option<Option<String>> {
        let Some(rest) = real.strip_prefix(BOUND).filter(|rest| rest.is_empty() || rest.starts_with('/'))
        else {
            return Some(None);
        };
        let base = std::fs::read_link(format!("/proc/self/fd/{}", self.bound)).ok()?;
        let base = base.to_str().filter(|base| !base.ends_with(" (deleted)"))?;
        Some(Some(format!("{base}{rest}")))
    }

    /// An object that is there. `linked`: it is about to get another name.
    pub fn object(&mut self, real: &str, linked: bool) -> Option<Named> {
        let meta = std::fs::symlink_metadata(real).ok()?;
        let mut all: BTreeSet<String> = self.home(real)?.into_iter().collect();
        all.insert(real.to_owned());
        let id = (meta.dev(), meta.ino());
        if meta.is_file() && (meta.nlink() > 1 || linked) {
            let known = self.known.entry(id).or_default();
            known.extend(all.iter().cloned());
            // With one link it has no names but those it has now; the others count again with the second.
            if meta.nlink() > 1 {
                all = known.clone();
            }
        }
        all.remove(real);
        Some(Named {
            path: real.to_owned(),
            names: all.into_iter().collect(),
            id: (meta.is_file() || meta.file_type().is_fifo()).then_some(id),
            raw: meta.file_type().is_char_device() && meta.rdev() == libc::makedev(1, 1),
        })
    }

    /// A name that is about to be made.
    pub fn unborn(&self, real: &str) -> Option<Named> {
        Some(Named {
            path: real.to_owned(),
            names: self.home(real)?.into_iter().collect(),
            ..Named::default()
        })
    }

    /// A step on an object.
    pub fn step(&self, op: &str, on: &Named) -> Step {
        Step {
            op: op.to_owned(),
            path: Some(on.path.clone()).filter(|path| !path.is_empty()),
            names: on.names.clone(),
            id: on.id,
            uid: self.uid,
            ..Step::default()
        }
    }

    /// A step without an object.
    pub fn plain(&self, op: &str) -> Step {
        Step { op: op.to_owned(), uid: self.uid, ..Step::default() }
    }

    /// A path that is there and passes.
    pub fn existing(&self, rng: &mut Rng, pass: impl Fn(&std::fs::Metadata) -> bool) -> Option<String> {
        for _ in 0..24 {
            let path = rng.of_list(&self.paths)?;
            if std::fs::symlink_metadata(path).is_ok_and(|meta| pass(&meta))
                && self.real(path, false).as_ref() == Some(path)
            {
                return Some(path.clone());
            }
        }
        None
    }

    /// The same path by another way, now and then: through a symbolic link to a directory above.
    pub fn by_a_link(&self, rng: &mut Rng, path: &str) -> String {
        let ways = self.links.iter().filter_map(|(link, target)| {
            let rest = path.strip_prefix(target.as_str()).filter(|rest| rest.starts_with('/'))?;
            Some(format!("{link}{rest}"))
        });
        let ways: Vec<String> = ways.collect();
        match rng.of_list(&ways) {
            Some(way) if rng.one_in(2) && self.real(way, false).as_deref() == Some(path) => way.clone(),
            _ => path.to_owned(),
        }
    }

    /// A path that is not there, in a directory that is.
    pub fn free(&self, rng: &mut Rng) -> Option<String> {
        for _ in 0..12 {
            let dir = if rng.one_in(3) {
                rng.one(&ROOTS).to_owned()
            } else {
                self.existing(rng, std::fs::Metadata::is_dir)?
            };
            let path = format!("{dir}/{}", rng.one(&NAMES));
            if path.len() < 60 && std::fs::symlink_metadata(&path).is_err() {
                return Some(path);
            }
        }
        None
    }
}

/// Puts this process into a session of its own. `None`: the kernel's tables do not hold the policy.
fn register(text: &str) -> Result<Option<String>> {
    let body = serde_json::json!({ "policy_text": text }).to_string();
    let deadline = std::time::Instant::now() + SLOTS;
    loop {
        let mut s = UnixStream::connect(SOCKET)?;
        write!(
            s,
            "POST /v1/sessions HTTP/1.1\r\nHost: aarm\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = Vec::new();
        let mut part = [0; 4096];
        // Not up to its end: from the moment of the answer on, everything is decided.
        let (head, body) = loop {
            let n = s.read(&mut part)?;
            ensure!(n > 0, "the daemon hung up: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&part[..n]);
            let text = String::from_utf8_lossy(&answer);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|l| {
                let (name, value) = l.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            if length.is_some_and(|length| body.len() >= length) {
                break (head.to_owned(), body.to_owned());
            }
        };
        let value: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        if let Some(uuid) = value["uuid"].as_str() {
            return Ok(Some(uuid.to_owned()));
        }
        let wait = body.contains("policies are in use");
        if !wait && body.contains("diagnostics") {
            return Ok(None);
        }
        ensure!(wait && std::time::Instant::now() < deadline, "{head}\n{body}");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

/// What the child does.
fn act(
    round: &Round,
    text: &str,
    world: &World,
    ipc: (i32, i32, i32),
    out: &mut std::fs::File,
) -> Result<()> {
    // SAFETY: numbers only. Another user keeps this one's capabilities, so that what is refused is refused by policy.
    let (outside, kept) = unsafe { (libc::getppid(), libc::prctl(libc::PR_SET_SECUREBITS, 1 << 2, 0, 0, 0)) };
    ensure!(kept == 0, "securebits: {}", std::io::Error::last_os_error());
    without_keyrings()?;
    let mut actor = Actor {
        paths: world.paths.clone(),
        links: world.links.clone(),
        known: world.known.clone(),
        bound: open(&world.source, libc::O_PATH),
        sockets: Sockets::new(&mut Rng::of(round.seed, round.number, usize::MAX))?,
        outside,
        ipc,
        mounted: false,
        uid: 0,
    };
    let Some(session) = register(text)? else {
        return Ok(out.write_all(b"null")?);
    };
    let mut acts = Vec::with_capacity(round.deeds);
    for i in 0..round.deeds {
        let mut rng = Rng::of(round.seed, round.number, i + 1);
        acts.push(deeds::perform(&mut actor, &mut rng));
    }
    Ok(out.write_all(serde_json::to_string(&(session, acts))?.as_bytes())?)
}

/// `keyctl(2)`.
const SETPERM: libc::c_long = 5;

/// A key of this process's own, which whoever knows its number may do anything with.
fn key() -> Result<i32> {
    const PROCESS_KEYRING: libc::c_long = -2;
    // SAFETY: texts end in NUL, the content is one byte; otherwise numbers.
    unsafe {
        let (kind, name, content) = (c"user".as_ptr(), c"aarm-differential".as_ptr(), b"x".as_ptr());
        let key = libc::syscall(libc::SYS_add_key, kind, name, content, 1, PROCESS_KEYRING);
        ensure!(key > 0, "add_key: {}", std::io::Error::last_os_error());
        let set = libc::syscall(libc::SYS_keyctl, SETPERM, key, 0x3f3f_3f3fu32, 0, 0);
        ensure!(set == 0, "keyctl: {}", std::io::Error::last_os_error());
        Ok(key as i32)
    }
}

/// Gives this process a keyring that cannot be searched, in the place of one that can. Looking at a key the kernel first searches what
/// keyrings there are, and asks about each, whatever comes of it.
fn without_keyrings() -> Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    const ALL_BUT_SEARCH: u32 = 0x3700_0000;
    // SAFETY: numbers, and no name.
    unsafe {
        let ring = libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, 0, 0, 0, 0);
        ensure!(ring > 0, "keyctl: {}", std::io::Error::last_os_error());
        let set = libc::syscall(libc::SYS_keyctl, SETPERM, ring, ALL_BUT_SEARCH, 0, 0);
        ensure!(set == 0, "keyctl: {}", std::io::Error::last_os_error());
    }
    Ok(())
}

/// Performs a round's deeds under a policy, in a process of its own.
pub fn perform(round: &Round, text: &str, world: &World) -> Result<Option<Played>> {
    let mut ends = [0; 2];
    // SAFETY: numbers; the array has room for both ends.
    let (shm, queue) = unsafe {
        ensure!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) == 0);
        (libc::shmget(libc::IPC_PRIVATE, 4096, 0o600), libc::msgget(libc::IPC_PRIVATE, 0o600))
    };
    let key = key()?;
    // SAFETY: both are ours alone.
    let (from, to) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    // SAFETY: the child uses what it has and ends by `_exit`; the C library makes its allocator usable after a fork.
    let pid = unsafe { libc::fork() };
    ensure!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        let mut out = std::fs::File::from(to);
        let status = match act(round, text, world, (shm, queue, key), &mut out) {
            Ok(()) => 0,
            Err(e) => {
                let _ = write!(out, "{e:?}");
                1
            }
        };
        // SAFETY: ends this process.
        unsafe { libc::_exit(status) };
    }
    drop(to);
    let mut said = String::new();
    std::fs::File::from(from).read_to_string(&mut said)?;
    let mut status = 0;
    // SAFETY: our own child and objects.
    unsafe {
        libc::waitpid(pid, &mut status, 0);
        libc::shmctl(shm, libc::IPC_RMID, std::ptr::null_mut());
        libc::msgctl(queue, libc::IPC_RMID, std::ptr::null_mut());
    }
    if status != 0 {
        bail!("the process that acts ended with status {status}: {said}");
    }
    let told: Option<(String, Vec<Act>)> = serde_json::from_str(&said).with_context(|| said.clone())?;
    Ok(told.map(|(session, acts)| Played { session, acts }))
}
