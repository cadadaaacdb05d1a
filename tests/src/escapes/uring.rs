//! io_uring: the same effects without the system calls, from the caller, from worker threads, and from a thread of the
//! kernel that polls.

use std::ffi::CString;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;

use io_uring::squeue::{Entry, Flags};
use io_uring::{IoUring, opcode, types};

use super::corpus::{Expect, Family, Keep, Technique, contained, inherit, open, write};
use super::handed::called;
use super::names::done;
use super::network::{OUTSIDE, address, received, socket};
use super::services::{caller, serve_tcp, serve_udp, talk};
use super::sys::*;
use super::{Dirs, INHERITED};

/// The corpus of io_uring.
pub const FAMILY: Family = Family {
    name: "uring",
    rules: "
- { id: no-keys, match: { operation: [read, write], path: '/tmp/esc/*/*/home/.ssh/**' }, decision: DENY }
- { id: no-etc, match: { operation: write, path: '/tmp/esc/*/*/etc/**' }, decision: DENY }
- { id: local-web, match: { operation: [connect, send], cidr: '127.0.0.1/32', port: 8080 }, decision: ALLOW }
- { id: sockets, match: { operation: socket, family: [inet, inet6], type: [stream, dgram], protocol: [tcp, udp] }, decision: ALLOW }
- { id: no-others, match: { operation: process }, decision: DENY }
- { id: no-privilege, match: { operation: [mount, umount, chroot, userns, bpf, perf, module, kexec, raw_memory, sysctl_write, uring_cmd] }, decision: DENY }
",
    network: "DENY",
    daemon_first: false,
    techniques: &[READS, WRITES, SOCKETS, OTHERS],
};

const BEFORE: &str = "descriptors opened before registration are not decided again";
const OLD: Expect = Expect::Absent("this kernel's io_uring cannot");

const fn read(name: &'static str, what: &'static str, attempt: fn(&Dirs) -> io::Result<()>) -> Technique {
    contained(name, what, attempt, "open_read", "no-keys")
}

const READS: &[Technique] = &[
    read("openat", "openat", |d| read_secret_fd(act(&mut ring()?, open_key(d))?)),
    read("openat2", "openat2", |d| {
        let how: &types::OpenHow = Box::leak(Box::new(types::OpenHow::new()));
        read_secret_fd(act(&mut ring()?, opcode::OpenAt2::new(HERE, text(d.key()), how).build())?)
    }),
    read("openat-async", "openat by a worker thread (`IOSQE_ASYNC`)", |d| {
        read_secret_fd(act(&mut ring()?, open_key(d).flags(Flags::ASYNC))?)
    }),
    read("openat-sqpoll", "openat by the kernel's polling thread (SQPOLL)", |d| {
        read_secret_fd(act(&mut polled()?, open_key(d))?)
    }),
    read("openat-registered", "openat into a registered descriptor, and a read of that", |d| {
        let mut ring = ring()?;
        ring.submitter().register_files_sparse(1)?;
        let slot = types::DestinationSlot::try_from_slot_target(0).map_err(|_| no_effect("no slot"))?;
        act(&mut ring, opcode::OpenAt::new(HERE, text(d.key())).file_index(Some(slot)).build())?;
        read_fixed(&mut ring)
    }),
    contained(
        "registered-before",
        "a read of a registered descriptor that was opened before the session",
        |_| {
            let mut ring = ring()?;
            ring.submitter().register_files(&[INHERITED])?;
            read_fixed(&mut ring)
        },
        "open_read",
        "no-keys",
    )
    .setup(|d| inherit(std::fs::File::open(d.key())?)),
    read("personality", "openat with the personality of other credentials", |d| {
        let mut ring = ring()?;
        let root = ring.submitter().register_personality()?;
        drop_user()?;
        read_secret_fd(act(&mut ring, open_key(d).personality(root))?)
    })
    .setup(|d| done(std::fs::set_permissions(d.key(), std::fs::Permissions::from_mode(0o600)))),
    contained(
        "splice",
        "splice from a descriptor that was opened before the session",
        |_| {
            let (out, inp) = pipe()?;
            act(
                &mut ring()?,
                opcode::Splice::new(types::Fd(INHERITED), 0, types::Fd(inp.as_raw_fd()), -1, 64).build(),
            )?;
            let mut buf = [0u8; 64];
            // SAFETY: the buffer has the length given.
            let n =
                ok(unsafe { libc::read(out.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) }
                    as libc::c_long)?;
            is_secret(&buf[..n as usize])
        },
        "open_read",
        "no-keys",
    )
    .setup(|d| inherit(std::fs::File::open(d.key())?)),
];

const WRITES: &[Technique] = &[
    write(
        "openat-write",
        "openat for writing",
        |d| {
            let entry =
                opcode::OpenAt::new(HERE, text(d.passwd())).flags(libc::O_WRONLY | libc::O_TRUNC).build();
            act(&mut ring()?, entry)?;
            is_changed(d)
        },
        "open_write",
    ),
    write(
        "create",
        "openat that creates, by a worker thread",
        |d| {
            let entry = opcode::OpenAt::new(HERE, text(d.path("etc/new")))
                .flags(libc::O_WRONLY | libc::O_CREAT)
                .mode(0o644);
            act(&mut ring()?, entry.build().flags(Flags::ASYNC)).map(drop)
        },
        "create",
    ),
    write(
        "unlinkat",
        "unlinkat",
        |d| act(&mut ring()?, opcode::UnlinkAt::new(HERE, text(d.passwd())).build()).map(drop),
        "unlink",
    ),
    write(
        "unlinkat-sqpoll",
        "unlinkat by the kernel's polling thread",
        |d| act(&mut polled()?, opcode::UnlinkAt::new(HERE, text(d.passwd())).build()).map(drop),
        "unlink",
    ),
    write(
        "renameat",
        "renameat",
        |d| {
            act(&mut ring()?, opcode::RenameAt::new(HERE, text(d.passwd()), HERE, text(d.desk("x"))).build())
                .map(drop)
        },
        "rename",
    ),
    write(
        "linkat",
        "linkat",
        |d| {
            std::fs::write(d.desk("x"), "x")?;
            act(
                &mut ring()?,
                opcode::LinkAt::new(HERE, text(d.desk("x")), HERE, text(d.path("etc/new"))).build(),
            )
            .map(drop)
        },
        "link",
    ),
    write(
        "mkdirat",
        "mkdirat",
        |d| act(&mut ring()?, opcode::MkDirAt::new(HERE, text(d.path("etc/new"))).build()).map(drop),
        "mkdir",
    ),
    write(
        "symlinkat",
        "symlinkat",
        |d| {
            act(&mut ring()?, opcode::SymlinkAt::new(HERE, text("x"), text(d.path("etc/new"))).build())
                .map(drop)
        },
        "symlink",
    ),
    contained(
        "setxattr",
        "setxattr",
        |d| {
            let entry =
                opcode::SetXattr::new(text("trusted.mark"), c"x".as_ptr().cast(), text(d.passwd()), 1)
                    .build();
            act(&mut ring()?, entry).map(drop)
        },
        "setxattr",
        "no-etc",
    ),
];

const fn refused(
    name: &'static str,
    what: &'static str,
    attempt: fn(&Dirs) -> io::Result<()>,
    operation: &'static str,
) -> Technique {
    contained(name, what, attempt, operation, "default")
}

const SOCKETS: &[Technique] = &[
    refused(
        "socket",
        "socket",
        |_| {
            act(&mut ring()?, opcode::Socket::new(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP).build())
                .map(drop)
        },
        "socket",
    ),
    refused("connect", "connect", |_| connect(|e| e), "connect").setup(|_| serve_tcp(&[OUTSIDE])),
    refused("connect-async", "connect by a worker thread", |_| connect(|e| e.flags(Flags::ASYNC)), "connect")
        .setup(|_| serve_tcp(&[OUTSIDE])),
    refused(
        "sendmsg",
        "sendmsg",
        |_| {
            let s = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
            let to = leak(address(libc::AF_INET, 9090));
            let iov = leak(libc::iovec { iov_base: c"ping".as_ptr().cast_mut().cast(), iov_len: 4 });
            // SAFETY: an all-zero header is valid; what it points to is never freed.
            let m = leak(unsafe { std::mem::zeroed::<libc::msghdr>() });
            m.msg_name = (&raw mut *to).cast();
            m.msg_namelen = 16;
            m.msg_iov = iov;
            m.msg_iovlen = 1;
            act(&mut ring()?, opcode::SendMsg::new(types::Fd(s.as_raw_fd()), m).build())?;
            received(&s.into())
        },
        "send",
    )
    .setup(|_| serve_udp(&[OUTSIDE])),
    refused(
        "send-zc",
        "send_zc",
        |_| {
            let s = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
            let to: *const libc::sockaddr_in = leak(address(libc::AF_INET, 9090));
            let entry = opcode::SendZc::new(types::Fd(s.as_raw_fd()), c"ping".as_ptr().cast(), 4);
            act(&mut ring()?, entry.dest_addr(to.cast()).dest_addr_len(16).build())?;
            received(&s.into())
        },
        "send",
    )
    .setup(|_| serve_udp(&[OUTSIDE])),
    refused(
        "bind",
        "bind",
        |_| {
            let s = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
            let to: *const libc::sockaddr_in = leak(address(libc::AF_INET, 9292));
            act(&mut ring()?, opcode::Bind::new(types::Fd(s.as_raw_fd()), to.cast(), 16).build()).map(drop)
        },
        "bind",
    )
    .on(&[("6.1", OLD)]),
    refused(
        "listen",
        "listen",
        |d| {
            let s = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
            act(&mut ring()?, opcode::Listen::new(types::Fd(s.as_raw_fd()), 1).build())?;
            called(d, &TcpListener::from(s))
        },
        "listen",
    )
    .setup(caller)
    .on(&[("6.1", OLD)]),
    contained(
        "accept",
        "accept on a listening socket opened before the session",
        |d| {
            std::fs::write(d.desk("port"), "9191")?;
            let none = std::ptr::null_mut();
            act(&mut ring()?, opcode::Accept::new(types::Fd(INHERITED), none, none.cast()).build()).map(drop)
        },
        "accept",
        "default",
    )
    .setup(|d| Ok(Box::new((inherit(TcpListener::bind("127.0.0.1:9191")?)?, caller(d)?)) as Keep)),
];

const OTHERS: &[Technique] = &[
    contained(
        "uring-cmd",
        "uring_cmd (to a socket)",
        |_| {
            let s = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
            // SOCKET_URING_OP_SIOCINQ: the bytes that wait.
            act(&mut ring()?, opcode::UringCmd16::new(types::Fd(s.as_raw_fd()), 0).build()).map(drop)
        },
        "uring_cmd",
        "no-privilege",
    )
    .on(&[("6.1", OLD)]),
    read("inherited-ring", "a ring made before the session: what is submitted runs in the session", |d| {
        read_secret_fd(act(&mut inherited(d)?, open_key(d))?)
    })
    .setup(|d| hand_over(d, IoUring::new(8)?)),
    open(
        "inherited-sqpoll",
        "a polled ring made before the session: its thread belongs to its maker",
        |d| {
            // The path is the maker's: its thread reads the maker's memory.
            let path = std::fs::read_to_string(d.desk("path"))?.parse::<usize>().map_err(io::Error::other)?;
            let entry = opcode::UnlinkAt::new(HERE, path as *const libc::c_char).build();
            act(&mut inherited(d)?, entry).map(drop)
        },
        BEFORE,
    )
    .setup(|d| {
        std::fs::write(d.desk("path"), (text(d.passwd()) as usize).to_string())?;
        hand_over(d, polled()?)
    }),
];

/// The working directory, as the directory of a relative path.
const HERE: types::Fd = types::Fd(libc::AT_FDCWD);

/// A text that the kernel may read whenever it likes.
fn text(text: impl AsRef<std::ffi::OsStr>) -> *const libc::c_char {
    CString::into_raw(c(text))
}

/// Memory that the kernel may use whenever it likes.
fn leak<T>(value: T) -> &'static mut T {
    Box::leak(Box::new(value))
}

fn ring() -> io::Result<IoUring> {
    IoUring::new(8)
}

/// A ring whose submissions a thread of the kernel takes.
fn polled() -> io::Result<IoUring> {
    IoUring::builder().setup_sqpoll(1000).build(8)
}

/// Submits one entry; the result of its completion.
fn act(ring: &mut IoUring, entry: Entry) -> io::Result<RawFd> {
    // SAFETY: whatever the entries here point to is never freed.
    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let done = ring.completion().next().ok_or_else(|| no_effect("no completion"))?;
    if done.result() < 0 { Err(io::Error::from_raw_os_error(-done.result())) } else { Ok(done.result()) }
}

fn open_key(d: &Dirs) -> Entry {
    opcode::OpenAt::new(HERE, text(d.key())).flags(libc::O_RDONLY).build()
}

/// Reads the first registered descriptor.
fn read_fixed(ring: &mut IoUring) -> io::Result<()> {
    let buf = leak([0u8; 64]);
    let n = act(ring, opcode::Read::new(types::Fixed(0), buf.as_mut_ptr(), 64).build())?;
    is_secret(&buf[..n as usize])
}

fn connect(how: fn(Entry) -> Entry) -> io::Result<()> {
    let s = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    let to: *const libc::sockaddr_in = leak(address(libc::AF_INET, 9090));
    act(&mut ring()?, how(opcode::Connect::new(types::Fd(s.as_raw_fd()), to.cast(), 16).build()))?;
    talk(TcpStream::from(s))
}

/// Makes a ring inheritable, and leaves what is needed to use it.
fn hand_over(d: &Dirs, ring: IoUring) -> io::Result<Keep> {
    // SAFETY: the parameters are plain numbers, in a type of the kernel's layout.
    let bytes = unsafe {
        let p: *const io_uring::Parameters = ring.params();
        std::slice::from_raw_parts(p.cast::<u8>(), size_of::<io_uring::Parameters>())
    };
    std::fs::write(d.desk("params"), bytes)?;
    // SAFETY: the ring's own descriptor; the copy is our own.
    let copy = unsafe { OwnedFd::from_raw_fd(ok(libc::dup(ring.as_raw_fd()).into())? as RawFd) };
    Ok(Box::new((inherit(copy)?, ring)))
}

/// The ring under the inherited number.
fn inherited(d: &Dirs) -> io::Result<IoUring> {
    let bytes = std::fs::read(d.desk("params"))?;
    if bytes.len() != size_of::<io_uring::Parameters>() {
        return Err(no_effect("no parameters"));
    }
    // SAFETY: the parameters are those of this ring, and nobody else has its number here.
    unsafe { IoUring::from_fd(INHERITED, bytes.as_ptr().cast::<io_uring::Parameters>().read_unaligned()) }
}
