//! Programs: running `bin/nc` is refused, whatever it is called and however its code gets to run. It exits with 42,
//! which is how a technique knows that it ran.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::Dirs;
use super::corpus::{Expect, Family, Technique, absent, contained, open};

use super::sys::*;

/// The corpus of programs.
pub const FAMILY: Family = Family {
    name: "programs",
    rules: "
- { id: no-nc, match: { operation: [exec, mmap_exec], exe: ['/tmp/esc/*/*/bin/nc', /usr/bin/nc] }, decision: DENY }
- { id: no-memory, match: { operation: [exec, mmap_exec], exe: ['/memfd:*', '/SYSV*', '/dev/zero'] }, decision: DENY }
- { id: no-keys, match: { operation: [read, write], path: '/tmp/esc/*/*/home/.ssh/**' }, decision: DENY }
- id: only-reader
  match: { operation: open_read, path: '/tmp/esc/*/*/home/data', not_exe: '/tmp/esc/*/*/desk/reader' }
  decision: DENY
- { id: no-process-memory, match: { operation: write, path: '/proc/*/mem' }, decision: DENY }
- { id: no-fresh-code, match: { operation: mprotect_exec }, decision: DENY }
- { id: no-others, match: { operation: process }, decision: DENY }
",
    network: "ALLOW",
    daemon_first: false,
    techniques: &[STARTED, MAPPED, super::processes::OTHERS],
};

const CONTENT: &str = "a rule names a path, not content: let only known programs run instead";
const IDENTITY: &str = "needs the program's identity: a path rule does not follow it to another path";
const NC: u8 = 42;

const fn exec(name: &'static str, what: &'static str, attempt: fn(&Dirs) -> io::Result<()>) -> Technique {
    contained(name, what, attempt, "exec", "no-nc")
}

const STARTED: &[Technique] = &[
    exec("by-name", "by its name", |d| runs(&mut Command::new(d.nc()))),
    exec("symlink", "symlink", |d| {
        symlink(d.nc(), d.desk("x"))?;
        runs(&mut Command::new(d.desk("x")))
    }),
    open(
        "copy",
        "copy under another name",
        |d| {
            std::fs::copy(d.nc(), d.desk("x"))?;
            runs(&mut Command::new(d.desk("x")))
        },
        CONTENT,
    ),
    contained(
        "hard-link",
        "hard link",
        |d| {
            std::fs::hard_link(d.nc(), d.desk("x"))?;
            runs(&mut Command::new(d.desk("x")))
        },
        "exec",
        "no-nc",
    ),
    open(
        "rename",
        "rename",
        |d| {
            std::fs::rename(d.nc(), d.desk("x"))?;
            runs(&mut Command::new(d.desk("x")))
        },
        IDENTITY,
    ),
    exec("proc-root", "`/proc/self/root/…`", |d| {
        runs(&mut Command::new(format!("/proc/self/root{}", d.nc().display())))
    }),
    exec("script", "script with `#!`", |d| {
        std::fs::write(d.desk("x"), format!("#!{}\n", d.nc().display()))?;
        std::fs::set_permissions(d.desk("x"), std::fs::Permissions::from_mode(0o755))?;
        runs(&mut Command::new(d.desk("x")))
    }),
    contained("memfd-fexecve", "`memfd_create`, then fexecve", memfd, "exec", "no-memory"),
    exec("execveat", "execveat with `AT_EMPTY_PATH` of an `O_PATH` descriptor", |d| {
        let fd = super::sys::open(d.nc(), libc::O_PATH)?;
        in_child(|| execveat(fd.as_raw_fd()))
    }),
    exec("proc-fd", "`/proc/self/fd/N` of an `O_PATH` descriptor", |d| {
        let fd = super::sys::open(d.nc(), libc::O_PATH)?;
        in_child(|| execve(&format!("/proc/self/fd/{}", fd.as_raw_fd()), "x"))
    }),
    exec("unlinked", "exec of a file that is unlinked while it is open", |d| {
        let fd = super::sys::open(d.nc(), libc::O_PATH)?;
        std::fs::remove_file(d.nc())?;
        in_child(|| execveat(fd.as_raw_fd()))
    }),
    exec("argv0", "`argv[0]` lies", |d| runs(Command::new(d.nc()).arg0("/bin/ls"))),
    exec("path-race", "the path changed by another thread during exec", path_race),
    absent("argv-race", "the arguments changed by another thread during exec", "needs rules on arguments"),
    open(
        "arguments",
        "a permitted program with refused arguments (`git push --force`)",
        |d| {
            std::fs::copy(d.nc(), d.desk("git"))?;
            runs(Command::new(d.desk("git")).args(["push", "--force"]))
        },
        "needs exec_args",
    ),
    open(
        "multi-call",
        "busybox applets and other multi-call binaries",
        |_| {
            let out = Command::new("/bin/busybox").args(["nc", "--help"]).output()?;
            if out.stderr.starts_with(b"BusyBox") || out.stdout.starts_with(b"BusyBox") {
                Ok(())
            } else {
                Err(no_effect("no nc in this busybox"))
            }
        },
        "needs exec_args",
    ),
    contained(
        "one-liner-sh",
        "interpreter one-liner: `sh -c`",
        |d| {
            let script = format!("read x < '{}'; echo \"$x\"", d.key().display());
            prints_secret(Command::new("/bin/sh").args(["-c", &script]))
        },
        "open_read",
        "no-keys",
    ),
    contained(
        "one-liner-awk",
        "interpreter one-liner: `awk`",
        |d| prints_secret(Command::new("/bin/busybox").args(["awk", "{print}"]).arg(d.key())),
        "open_read",
        "no-keys",
    ),
    absent("one-liner-python", "interpreter one-liner: `python -c`, `perl -e`", "needs the Debian root"),
    exec("binfmt-misc", "binfmt_misc with the program as interpreter", |d| {
        let line = format!(":escape{}:M::ESCAPE MAGIC::{}:", std::process::id(), d.nc().display());
        std::fs::write(d.desk("formats/register"), line)?;
        std::fs::write(d.desk("x"), "ESCAPE MAGIC")?;
        std::fs::set_permissions(d.desk("x"), std::fs::Permissions::from_mode(0o755))?;
        runs(&mut Command::new(d.desk("x")))
    })
    .setup(|d| {
        super::modules::loaded(&["binfmt_misc"])?;
        std::fs::create_dir(d.desk("formats"))?;
        mount("binfmt_misc", d.desk("formats"), "binfmt_misc", 0, "")?;
        Ok(Box::new(Mounted(d.desk("formats"))))
    })
    .on(&[("7.2", super::modules::lacks("binfmt_misc"))]),
];

const MAPPED: &[Technique] = &[
    contained(
        "map-and-jump",
        "mapped executable, and jumped to",
        |d| {
            let file = super::sys::open(d.nc(), libc::O_RDONLY)?;
            let p = map(libc::PROT_READ | libc::PROT_EXEC, file.as_raw_fd())?;
            jump(p, CODE_AT)
        },
        "mmap_exec",
        "no-nc",
    ),
    absent(
        "ld-so",
        "`ld.so /usr/bin/nc`",
        "needs a dynamic loader, so the Debian root; what it does is map-and-jump",
    ),
    absent(
        "ld-preload",
        "`LD_PRELOAD` into a permitted program",
        "needs a dynamic loader, so the Debian root",
    ),
    contained(
        "read-implies-exec",
        "mapped for reading under `READ_IMPLIES_EXEC`",
        |d| {
            let file = super::sys::open(d.nc(), libc::O_RDONLY)?;
            // SAFETY: numbers only.
            ok(unsafe { libc::personality(libc::READ_IMPLIES_EXEC as libc::c_ulong) }.into())?;
            let p = map(libc::PROT_READ, file.as_raw_fd())?;
            jump(p, CODE_AT)
        },
        "mmap_exec",
        "no-nc",
    ),
    contained(
        "mprotect",
        "W^X broken by mprotect: mapped writable, then made executable",
        |d| {
            let file = super::sys::open(d.nc(), libc::O_RDONLY)?;
            let p = map(libc::PROT_READ | libc::PROT_WRITE, file.as_raw_fd())?;
            // SAFETY: the mapping made above.
            ok(unsafe { libc::mprotect(p.cast(), 4096, libc::PROT_READ | libc::PROT_EXEC) }.into())?;
            jump(p, CODE_AT)
        },
        "mprotect_exec",
        "no-nc",
    ),
    contained(
        "anonymous",
        "its code read into anonymous memory that is writable and executable",
        |d| {
            let code = std::fs::read(d.nc())?;
            let p = map(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC, -1)?;
            // SAFETY: the mapping is larger than the program.
            unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), p, code.len()) };
            jump(p, CODE_AT)
        },
        "mprotect_exec",
        "no-fresh-code",
    ),
    contained(
        "shm-exec",
        "its code in System V shared memory, attached executable",
        |d| {
            let code = std::fs::read(d.nc())?;
            // SAFETY: the segment is larger than the program.
            unsafe {
                let id = ok(libc::shmget(libc::IPC_PRIVATE, 4096, 0o700).into())? as i32;
                let p = libc::shmat(id, std::ptr::null(), 0);
                std::ptr::copy_nonoverlapping(code.as_ptr(), p.cast(), code.len());
                let x = libc::shmat(id, std::ptr::null(), libc::SHM_EXEC);
                let e = io::Error::last_os_error();
                libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut());
                if x as isize == -1 { Err(e) } else { jump(x.cast(), CODE_AT) }
            }
        },
        "mmap_exec",
        "no-memory",
    ),
    contained(
        "self-mem",
        "its code written over the program's own by `/proc/self/mem`",
        |d| {
            let code = std::fs::read(d.nc())?;
            let page = map(libc::PROT_READ | libc::PROT_EXEC, -1)?;
            let memory = std::fs::File::options().write(true).open("/proc/self/mem")?;
            std::os::unix::fs::FileExt::write_all_at(&memory, &code, page as u64)?;
            jump(page, CODE_AT)
        },
        "mprotect_exec",
        "no-fresh-code",
    )
    .on(&[("7.2", Expect::Absent("this kernel lets nobody write over what may only be read"))]),
    contained(
        "memfd-map",
        "its code in a memfd, mapped executable",
        |d| {
            let file = memfd_of(d)?;
            let p = map(libc::PROT_READ | libc::PROT_EXEC, file)?;
            jump(p, CODE_AT)
        },
        "mmap_exec",
        "no-memory",
    ),
];

/// What the setuid program does: succeeds if it is root.
pub fn as_root() -> io::Result<()> {
    // SAFETY: no arguments.
    if unsafe { libc::geteuid() } == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

/// Succeeds if the command is the forbidden program.
fn runs(command: &mut Command) -> io::Result<()> {
    if command.status()?.code() == Some(NC.into()) { Ok(()) } else { Err(no_effect("something else ran")) }
}

fn prints_secret(command: &mut Command) -> io::Result<()> {
    let out = command.output()?;
    if out.stdout == super::SECRET.as_bytes() {
        Ok(())
    } else {
        Err(no_effect(&String::from_utf8_lossy(&out.stderr)))
    }
}

/// A child that becomes the forbidden program; `become_it` returns only if it could not.
fn in_child(become_it: impl FnOnce() -> io::Error) -> io::Result<()> {
    // SAFETY: this program has one thread here; the child reports by its status.
    unsafe {
        let pid = ok(libc::fork().into())? as i32;
        if pid == 0 {
            let errno = become_it().raw_os_error().unwrap_or(libc::EIO);
            // Told apart from what the program exits with.
            libc::_exit(if errno == libc::EPERM { 200 } else { 201 });
        }
        ended(pid)
    }
}

/// Waits for a child of [`in_child`].
fn ended(pid: i32) -> io::Result<()> {
    let mut status = 0;
    // SAFETY: our own child.
    ok(unsafe { libc::waitpid(pid, &raw mut status, 0) }.into())?;
    match libc::WEXITSTATUS(status) {
        _ if !libc::WIFEXITED(status) => Err(no_effect("a signal ended it")),
        s if s == i32::from(NC) => Ok(()),
        200 => Err(io::Error::from_raw_os_error(libc::EPERM)),
        s => Err(no_effect(&format!("it ended with {s}"))),
    }
}

fn execve(path: &str, argv0: &str) -> io::Error {
    let (path, argv0) = (c(path), c(argv0));
    let argv = [argv0.as_ptr(), std::ptr::null()];
    let env = [std::ptr::null()];
    // SAFETY: both arrays end in NULL and their strings live.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

fn execveat(fd: i32) -> io::Error {
    let (empty, argv0) = (c(""), c("x"));
    let argv = [argv0.as_ptr(), std::ptr::null()];
    let env = [std::ptr::null::<libc::c_char>()];
    // SAFETY: as above.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd,
            empty.as_ptr(),
            argv.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}

/// The program's content in a memfd.
fn memfd_of(d: &Dirs) -> io::Result<i32> {
    let code = std::fs::read(d.nc())?;
    // SAFETY: the name ends in NUL, the buffer has the length given.
    unsafe {
        let fd = ok(libc::memfd_create(c"x".as_ptr(), 0).into())? as i32;
        ok(libc::write(fd, code.as_ptr().cast(), code.len()) as libc::c_long)?;
        Ok(fd)
    }
}

fn memfd(d: &Dirs) -> io::Result<()> {
    let fd = memfd_of(d)?;
    in_child(|| execveat(fd))
}

/// Maps one page.
fn map(prot: i32, fd: i32) -> io::Result<*mut u8> {
    let flags = libc::MAP_PRIVATE | if fd < 0 { libc::MAP_ANONYMOUS } else { 0 };
    // SAFETY: a fresh mapping.
    let p = unsafe { libc::mmap(std::ptr::null_mut(), 4096, prot, flags, fd, 0) };
    if p == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(p.cast()) }
}

/// Runs the code that is at an offset of a mapping, in a child.
fn jump(p: *mut u8, offset: usize) -> io::Result<()> {
    in_child(|| {
        // SAFETY: there is code there that ends this process; if not, only this child dies.
        unsafe {
            let code: extern "C" fn() = std::mem::transmute(p.add(offset));
            code();
        }
        no_effect("it came back")
    })
}

/// Two names of equal length, one innocent, that another thread writes over each other while this one executes what
/// the buffer says.
fn path_race(d: &Dirs) -> io::Result<()> {
    std::fs::write(d.desk("ok"), program_exiting_with(43))?;
    std::fs::set_permissions(d.desk("ok"), std::fs::Permissions::from_mode(0o755))?;
    symlink(d.nc(), d.desk("nc"))?;
    race(10, || {
        in_child(|| {
            let buffer = c(d.desk("ok")).into_raw();
            flip(buffer as usize + d.desk("").as_os_str().len(), [*b"ok", *b"nc"]);
            let argv = [buffer.cast_const(), std::ptr::null()];
            // SAFETY: both arrays end in NULL; that the path changes is what is tried.
            unsafe { libc::execve(argv[0], argv.as_ptr(), [std::ptr::null()].as_ptr()) };
            io::Error::last_os_error()
        })
    })
}
