//! System calls that the standard library has no name for, and what techniques share.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{CANNOT, Dirs, NO_EFFECT, SECRET};

/// The result of a system call.
pub fn ok(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A text for the kernel.
pub fn c(text: impl AsRef<OsStr>) -> CString {
    CString::new(text.as_ref().as_bytes()).unwrap_or_default()
}

/// This machine cannot do it at all.
pub fn cannot(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, why.to_owned())
}

/// Nothing was refused, and nothing happened.
pub fn no_effect(what: &str) -> io::Error {
    io::Error::other(what.to_owned())
}

/// The exit status for an error.
pub fn status(e: &io::Error) -> u8 {
    match e.raw_os_error() {
        Some(errno) => u8::try_from(errno).unwrap_or(NO_EFFECT),
        None if e.kind() == io::ErrorKind::Unsupported => CANNOT,
        None => NO_EFFECT,
    }
}

/// The inverse of [`status`].
pub fn error(status: u8) -> io::Result<()> {
    match status {
        0 => Ok(()),
        CANNOT => Err(cannot("the child says that it cannot")),
        NO_EFFECT => Err(no_effect("the child saw no effect")),
        errno => Err(io::Error::from_raw_os_error(errno.into())),
    }
}

/// Succeeds if `content` is what must not be read.
pub fn is_secret(content: &[u8]) -> io::Result<()> {
    if content == SECRET.as_bytes() { Ok(()) } else { Err(no_effect("read something else")) }
}

/// Succeeds if the secret can be read under this name.
pub fn read_secret(path: impl AsRef<Path>) -> io::Result<()> {
    is_secret(&std::fs::read(path)?)
}

/// Succeeds if the secret can be read from this descriptor.
pub fn read_secret_fd(fd: RawFd) -> io::Result<()> {
    let mut buf = [0u8; 64];
    // SAFETY: the buffer has the length given.
    let n = ok(unsafe { libc::pread(fd, buf.as_mut_ptr().cast(), buf.len(), 0) } as libc::c_long)?;
    is_secret(&buf[..n as usize])
}

/// Succeeds if the guarded file is no longer what it was.
pub fn is_changed(d: &Dirs) -> io::Result<()> {
    if std::fs::read(d.passwd())? == super::ORIGINAL.as_bytes() {
        Err(no_effect("unchanged"))
    } else {
        Ok(())
    }
}

/// `openat`.
pub fn openat(dir: RawFd, name: impl AsRef<OsStr>, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: the name ends in NUL; the descriptor is new.
    unsafe {
        let fd = ok(libc::openat(dir, c(name).as_ptr(), flags, 0o644).into())?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// `open` with raw flags.
pub fn open(path: impl AsRef<OsStr>, flags: i32) -> io::Result<OwnedFd> {
    openat(libc::AT_FDCWD, path, flags)
}

/// `mount`.
pub fn mount(
    from: impl AsRef<OsStr>,
    to: impl AsRef<OsStr>,
    kind: &str,
    flags: libc::c_ulong,
    data: &str,
) -> io::Result<()> {
    let (from, to, kind, data) = (c(from), c(to), c(kind), c(data));
    // SAFETY: all texts end in NUL.
    ok(unsafe { libc::mount(from.as_ptr(), to.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) }.into())?;
    Ok(())
}

/// A bind mount.
pub fn bind(from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> io::Result<()> {
    mount(from, to, "", libc::MS_BIND, "")
}

/// `umount2`.
pub fn umount(at: impl AsRef<OsStr>, flags: i32) -> io::Result<()> {
    // SAFETY: the path ends in NUL.
    ok(unsafe { libc::umount2(c(at).as_ptr(), flags) }.into())?;
    Ok(())
}

/// A mount that goes when this does.
pub struct Mounted(pub std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount(&self.0, libc::MNT_DETACH);
    }
}

/// `unshare`.
pub fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: numbers only.
    ok(unsafe { libc::unshare(flags) }.into())?;
    Ok(())
}

/// A mount namespace whose mounts nobody else sees.
pub fn own_mounts() -> io::Result<()> {
    unshare(libc::CLONE_NEWNS)?;
    mount("", "/", "", libc::MS_REC | libc::MS_PRIVATE, "")
}

/// Becomes the user that is nobody special.
pub fn drop_user() -> io::Result<()> {
    // SAFETY: numbers only.
    unsafe {
        ok(libc::setgroups(0, std::ptr::null()).into())?;
        ok(libc::setresgid(1000, 1000, 1000).into())?;
        ok(libc::setresuid(1000, 1000, 1000).into())?;
    }
    Ok(())
}

/// `renameat2`.
pub fn rename(from: impl AsRef<OsStr>, to: impl AsRef<OsStr>, flags: libc::c_uint) -> io::Result<()> {
    let (from, to) = (c(from), c(to));
    let at = libc::AT_FDCWD;
    // SAFETY: both paths end in NUL.
    ok(unsafe { libc::syscall(libc::SYS_renameat2, at, from.as_ptr(), at, to.as_ptr(), flags) })?;
    Ok(())
}

/// Runs `body` in a child made by `clone` with these flags, and gives its result. The result comes through a pipe, so
/// that it arrives whoever the child's parent is.
pub fn in_clone(flags: i32, body: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let (read, write) = pipe()?;
    // SAFETY: a clone without a new stack is a fork, and this program has one thread when it calls this.
    let pid = ok(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })?;
    if pid == 0 {
        report(&write, body());
    }
    drop(write);
    let result = result_of(&read);
    if flags & libc::CLONE_PARENT == 0 {
        // SAFETY: our own child.
        unsafe { libc::waitpid(pid as i32, std::ptr::null_mut(), libc::__WALL) };
    }
    result
}

/// Runs `body` in a child.
pub fn in_fork(body: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    in_clone(libc::SIGCHLD, body)
}

/// A pipe.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: the array has room for both ends; both are new.
    unsafe {
        ok(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC).into())?;
        Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

/// Ends this process with a result for whoever reads the pipe.
pub fn report(write: &OwnedFd, result: io::Result<()>) -> ! {
    let byte = [result.as_ref().map_or_else(status, |()| 0)];
    // SAFETY: one byte; `_exit` runs no handlers of the parent's.
    unsafe {
        libc::write(write.as_raw_fd(), byte.as_ptr().cast(), 1);
        libc::_exit(byte[0].into())
    }
}

/// The result that a process reports.
pub fn result_of(read: &OwnedFd) -> io::Result<()> {
    let mut byte = [0u8];
    // SAFETY: one byte.
    match ok(unsafe { libc::read(read.as_raw_fd(), byte.as_mut_ptr().cast(), 1) } as libc::c_long)? {
        1 => error(byte[0]),
        _ => Err(no_effect("the child ended without a word")),
    }
}

/// Passes a descriptor.
pub fn send_fd(stream: &UnixStream, fd: RawFd) -> io::Result<()> {
    message(stream, Some(fd)).map(|_| ())
}

/// Receives a descriptor.
pub fn receive_fd(stream: &UnixStream) -> io::Result<OwnedFd> {
    message(stream, None)?.ok_or_else(|| no_effect("no descriptor came"))
}

fn message(stream: &UnixStream, send: Option<RawFd>) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0u8];
    let mut iov = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut control = [0u64; 8];
    // SAFETY: the control buffer is aligned and large enough for one descriptor; every pointer lives through the
    // calls. A received descriptor is new.
    unsafe {
        let mut m: libc::msghdr = std::mem::zeroed();
        m.msg_iov = &raw mut iov;
        m.msg_iovlen = 1;
        m.msg_control = control.as_mut_ptr().cast();
        m.msg_controllen = libc::CMSG_SPACE(4) as usize;
        let Some(fd) = send else {
            ok(libc::recvmsg(stream.as_raw_fd(), &raw mut m, 0) as libc::c_long)?;
            let head = libc::CMSG_FIRSTHDR(&raw const m);
            if head.is_null() || (*head).cmsg_type != libc::SCM_RIGHTS {
                return Ok(None);
            }
            return Ok(Some(OwnedFd::from_raw_fd(libc::CMSG_DATA(head).cast::<RawFd>().read_unaligned())));
        };
        let head = libc::CMSG_FIRSTHDR(&raw const m);
        (*head).cmsg_level = libc::SOL_SOCKET;
        (*head).cmsg_type = libc::SCM_RIGHTS;
        (*head).cmsg_len = libc::CMSG_LEN(4) as usize;
        libc::CMSG_DATA(head).cast::<RawFd>().write_unaligned(fd);
        ok(libc::sendmsg(stream.as_raw_fd(), &raw const m, 0) as libc::c_long)?;
        Ok(None)
    }
}

/// A race: tried until it is won, refused `enough` times, or lost for good.
pub fn race(enough: u32, mut attempt: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let (mut refused, mut last) = (0, no_effect("the race was never won"));
    for _ in 0..30 * enough {
        match attempt() {
            Ok(()) => return Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
                refused += 1;
                last = e;
            }
            Err(_) => {}
        }
        if refused == enough {
            break;
        }
    }
    Err(last)
}

/// Another thread that writes two values in turns, each for about as long. Returns once it does.
pub fn flip<T: Copy + Send + 'static>(place: usize, values: [T; 2]) {
    static FLIPPING: AtomicBool = AtomicBool::new(false);
    std::thread::spawn(move || {
        loop {
            for value in values {
                // SAFETY: whoever races leaves its memory in place for ever.
                unsafe { (place as *mut T).write_volatile(value) };
                FLIPPING.store(true, Ordering::Relaxed);
            }
        }
    });
    while !FLIPPING.load(Ordering::Relaxed) {
        std::thread::yield_now();
    }
}

/// Code that ends its process with a status: `mov edi, STATUS; mov eax, 60; syscall`.
pub fn code_exiting_with(status: u8) -> [u8; 12] {
    [0xbf, status, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05]
}

/// The smallest static program: one page, executable, with its code after the headers.
pub fn program_exiting_with(status: u8) -> Vec<u8> {
    program(&code_exiting_with(status))
}

/// The same with other code.
pub fn program(code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    let size = (CODE_AT + code.len()) as u64;
    let mut e = Vec::new();
    e.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    // ET_EXEC, x86-64, version 1.
    for half in [2u16, 62] {
        e.extend(half.to_le_bytes());
    }
    e.extend(1u32.to_le_bytes());
    for word in [BASE + CODE_AT as u64, 64, 0] {
        e.extend(word.to_le_bytes());
    }
    e.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 64, 0, 0] {
        e.extend(half.to_le_bytes());
    }
    // PT_LOAD, readable and executable, all of the file.
    for word in [1u32, 5] {
        e.extend(word.to_le_bytes());
    }
    for word in [0, BASE, BASE, size, size, 4096] {
        e.extend(word.to_le_bytes());
    }
    e.extend(code);
    e
}

/// Where the code is in [`program`].
pub const CODE_AT: usize = 64 + 56;
