//! Names of files: one object, many ways to name it. Reading below `.ssh` and writing below `etc` are refused.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Dirs;
use super::corpus::{Expect, Family, Keep, Technique, contained, elsewhere};
use super::sys::*;

/// The corpus of names.
pub const FAMILY: Family = Family {
    name: "names",
    rules: "
- { id: no-keys, match: { operation: [read, write], path: '/tmp/esc/*/*/home/.ssh/**' }, decision: DENY }
- { id: no-etc, match: { operation: write, path: '/tmp/esc/*/*/etc/**' }, decision: DENY }
- { id: no-nodes, match: { operation: mknod }, decision: DENY }
",
    network: "ALLOW",
    daemon_first: false,
    techniques: &[NAMES, super::objects::MOUNTS, super::objects::DESCRIPTORS, super::writes::WRITES],
};

/// A way to read what must not be read.
pub const fn read(name: &'static str, what: &'static str, attempt: fn(&Dirs) -> io::Result<()>) -> Technique {
    contained(name, what, attempt, "open_read", "no-keys")
}

const NAMES: &[Technique] = &[
    read("symlink", "symlink", |d| {
        symlink(d.key(), d.desk("a"))?;
        read_secret(d.desk("a"))
    }),
    read("symlink-chain", "chain of 30 symlinks", |d| {
        symlink(d.key(), d.desk("0"))?;
        for n in 1..30 {
            symlink(d.desk(&(n - 1).to_string()), d.desk(&n.to_string()))?;
        }
        read_secret(d.desk("29"))
    }),
    read("symlink-parent", "symlinked parent", |d| {
        symlink(d.path("home/.ssh"), d.desk("dir"))?;
        read_secret(d.desk("dir/key"))
    }),
    contained(
        "hard-link",
        "hard link made in the session",
        |d| {
            std::fs::hard_link(d.key(), d.desk("x"))?;
            read_secret(d.desk("x"))
        },
        "link",
        "no-keys",
    ),
    contained(
        "hard-link-before",
        "hard link made before the policy loaded",
        |d| read_secret(d.desk("x")),
        "open_read",
        "no-keys",
    )
    .before(|d| done(std::fs::hard_link(d.key(), d.desk("x")))),
    contained(
        "rename",
        "rename of the file",
        |d| {
            std::fs::rename(d.key(), d.desk("x"))?;
            read_secret(d.desk("x"))
        },
        "rename",
        "no-keys",
    ),
    contained(
        "rename-parent",
        "rename of the directory that a rule names",
        |d| {
            std::fs::rename(d.path("home/.ssh"), d.desk("x"))?;
            read_secret(d.desk("x/key"))
        },
        "rename",
        "no-keys",
    ),
    contained(
        "rename-above",
        "rename of a directory above the one that a rule names",
        |d| {
            std::fs::rename(d.path("home"), d.desk("x"))?;
            read_secret(d.desk("x/.ssh/key"))
        },
        "rename",
        "no-keys",
    ),
    read("exchange-race", "names exchanged in a loop while another thread opens them", exchange_race),
    read("proc-root", "`/proc/self/root/…`", |d| {
        read_secret(Path::new("/proc/self/root").join(d.key().strip_prefix("/").map_err(io::Error::other)?))
    }),
    read("proc-cwd", "`/proc/self/cwd/…`", |d| {
        std::env::set_current_dir(d.path("home"))?;
        read_secret("/proc/self/cwd/.ssh/key")
    }),
    read("proc-fd-of-another", "`/proc/PID/fd/N` of a process outside", |d| {
        read_secret(std::fs::read_to_string(d.desk("where"))?)
    })
    .setup(|d| {
        let file = std::fs::File::open(d.key())?;
        std::fs::write(d.desk("where"), format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()))?;
        Ok(Box::new(file))
    }),
    read("dot-dot", "`..` through 200 levels", |d| {
        read_secret(d.desk(&format!("{}{}", "../".repeat(200), d.key().display())))
    }),
    contained(
        "long-path",
        "a path over 4,096 bytes by a chain of openat",
        |d| {
            let mut dir = open_file(d.path("home/.ssh"), libc::O_PATH)?;
            for _ in 0..20 {
                dir = openat(dir.as_raw_fd(), "d".repeat(250), libc::O_PATH)?;
            }
            read_secret_fd(openat(dir.as_raw_fd(), "key", libc::O_RDONLY)?.as_raw_fd())
        },
        "open_read",
        "path_too_long",
    )
    .setup(|d| {
        let name = "d".repeat(250);
        let mut dir = open_file(d.path("home/.ssh"), libc::O_PATH)?;
        for _ in 0..20 {
            // SAFETY: the name ends in NUL.
            ok(unsafe { libc::mkdirat(dir.as_raw_fd(), c(&name).as_ptr(), 0o755) }.into())?;
            dir = openat(dir.as_raw_fd(), &name, libc::O_PATH)?;
        }
        let file = openat(dir.as_raw_fd(), "key", libc::O_WRONLY | libc::O_CREAT)?;
        done(io::Write::write_all(&mut std::fs::File::from(file), super::SECRET.as_bytes()))
    }),
    read("nested", "40 nested directories", |d| {
        read_secret(d.path("home/.ssh").join("d/".repeat(40)).join("key"))
    })
    .setup(|d| {
        let dir = d.path("home/.ssh").join("d/".repeat(40));
        std::fs::create_dir_all(&dir)?;
        done(std::fs::write(dir.join("key"), super::SECRET))
    }),
    read("newline", "a name with a newline", |d| read_secret(named(d, b"ke\ny")))
        .setup(|d| done(std::fs::write(named(d, b"ke\ny"), super::SECRET))),
    read("not-utf8", "a name that is not UTF-8", |d| read_secret(named(d, b"\xff\xfe\x80")))
        .setup(|d| done(std::fs::write(named(d, b"\xff\xfe\x80"), super::SECRET))),
    read("long-name", "a name of 255 bytes", |d| read_secret(named(d, &[b'k'; 255])))
        .setup(|d| done(std::fs::write(named(d, &[b'k'; 255]), super::SECRET))),
    read("case-fold", "a case-folded or Unicode-equal name (tmpfs)", |d| {
        read_secret(d.path("home/.SSH/KEY"))
    })
    .setup(|d| {
        mount("tmpfs", d.path("home"), "tmpfs", 0, "casefold")?;
        let mounted = Mounted(d.path("home"));
        let root = open_file(d.path("home"), libc::O_RDONLY)?;
        // SAFETY: FS_IOC_SETFLAGS reads one int.
        ok(unsafe { libc::ioctl(root.as_raw_fd(), 0x4008_6602, &raw const FOLDED) }.into())?;
        std::fs::create_dir(d.path("home/.ssh"))?;
        std::fs::write(d.key(), super::SECRET)?;
        Ok(Box::new(mounted))
    })
    .on(&[("6.1", NO_FOLDING), ("6.12", NO_FOLDING)]),
    read("int80", "the system call for 32-bit programs (`int 0x80`)", int80),
    read("opath-reopen", "`O_PATH`, then `/proc/self/fd/N`", |d| {
        let fd = open_file(d.key(), libc::O_PATH)?;
        read_secret(format!("/proc/self/fd/{}", fd.as_raw_fd()))
    }),
    read("openat2-in-root", "openat2 with `RESOLVE_IN_ROOT`", |d| resolve(d, 0x10, "/.ssh/key")),
    read("openat2-beneath", "openat2 with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`", |d| {
        resolve(d, 0x08 | 0x04, ".ssh/key")
    }),
    read("by-handle", "`open_by_handle_at`", by_handle),
    read("chroot", "chroot", |d| {
        // SAFETY: the path ends in NUL.
        ok(unsafe { libc::chroot(c(d.path("home")).as_ptr()) }.into())?;
        read_secret("/.ssh/key")
    }),
    elsewhere("memfd", "memfd", "programs/memfd-fexecve"),
    elsewhere("io-uring", "any of these through io_uring", "uring"),
];

/// A set-up that leaves nothing running.
pub fn done(result: io::Result<()>) -> io::Result<Keep> {
    result.map(|()| Box::new(()) as Keep)
}

fn open_file(path: impl AsRef<std::ffi::OsStr>, flags: i32) -> io::Result<std::os::fd::OwnedFd> {
    super::sys::open(path, flags)
}

fn named(d: &Dirs, name: &[u8]) -> std::path::PathBuf {
    d.path("home/.ssh").join(OsString::from_vec(name.to_vec()))
}

/// Set when the other thread exchanges.
static RACING: AtomicBool = AtomicBool::new(false);

/// One thread exchanges an innocent directory with a link to the protected one; this one opens and hopes that what is
/// decided is not what is opened.
fn exchange_race(d: &Dirs) -> io::Result<()> {
    std::fs::create_dir(d.desk("a"))?;
    std::fs::write(d.desk("a/key"), "innocent")?;
    symlink(d.path("home/.ssh"), d.desk("b"))?;
    let (a, b) = (d.desk("a"), d.desk("b"));
    std::thread::spawn(move || {
        loop {
            let _ = rename(&a, &b, 2);
            RACING.store(true, Ordering::Relaxed);
        }
    });
    while !RACING.load(Ordering::Relaxed) {
        std::thread::yield_now();
    }
    super::sys::race(100, || read_secret(d.desk("a/key")))
}

/// FS_CASEFOLD_FL.
static FOLDED: libc::c_int = 0x4000_0000;
const NO_FOLDING: Expect = Expect::Absent("needs a file system with case folding on a disk");

/// `open` by the old way in, whose pointers have 32 bits.
fn int80(d: &Dirs) -> io::Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let path = c(d.key());
    let mut result: i32 = 5;
    // SAFETY: a fresh page with room for the path; the call clobbers what is said here, and rbx is put back.
    unsafe {
        let page = libc::mmap(std::ptr::null_mut(), 4096, prot, flags, -1, 0);
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        std::ptr::copy_nonoverlapping(path.as_ptr(), page.cast(), path.count_bytes() + 1);
        std::arch::asm!(
            "push rbx", "mov rbx, {p}", "int 0x80", "pop rbx",
            p = in(reg) page as u64, inlateout("eax") result, in("ecx") 0, in("edx") 0,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { read_secret_fd(result) }
}

fn resolve(d: &Dirs, resolve: u64, name: &str) -> io::Result<()> {
    let dir = open_file(d.path("home"), libc::O_PATH)?;
    let how = [libc::O_RDONLY as u64, 0, resolve];
    // SAFETY: the name ends in NUL; `open_how` is three 64-bit words.
    let fd =
        ok(unsafe { libc::syscall(libc::SYS_openat2, dir.as_raw_fd(), c(name).as_ptr(), how.as_ptr(), 24) })?;
    read_secret_fd(fd as i32)
}

/// `struct file_handle` with room for every file system's.
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    handle: [u8; 128],
}

fn by_handle(d: &Dirs) -> io::Result<()> {
    let mut h = Handle { bytes: 128, kind: 0, handle: [0; 128] };
    let mut mount = 0i32;
    let at = libc::AT_FDCWD;
    // SAFETY: the path ends in NUL, the handle says how much room it has.
    let fd = unsafe {
        ok(libc::syscall(
            libc::SYS_name_to_handle_at,
            at,
            c(d.key()).as_ptr(),
            &raw mut h,
            &raw mut mount,
            0,
        ))?;
        let dir = open_file(d.desk(""), libc::O_RDONLY)?;
        ok(libc::syscall(libc::SYS_open_by_handle_at, dir.as_raw_fd(), &raw mut h, libc::O_RDONLY))?
    };
    read_secret_fd(fd as i32)
}

/// A process of the set-up's, ended with it.
pub struct Helper(pub std::process::Child);

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until a helper has written a file.
pub fn wait_for(path: &Path) -> io::Result<()> {
    for _ in 0..400 {
        if std::fs::metadata(path).is_ok_and(|m| m.len() > 0) {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(25));
    }
    Err(no_effect(&format!("{} never came", path.display())))
}
