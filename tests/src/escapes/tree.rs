//! The process tree: whatever a session starts, in whatever way, is in the session; and nobody outside does errands
//! for it. What is tried by the far end is to read the protected file.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::time::Duration;

use super::Dirs;
use super::corpus::{Family, Keep, Technique, absent, contained, elsewhere, open};
use super::names::{done, wait_for};
use super::sys::*;

/// The corpus of the process tree.
pub const FAMILY: Family = Family {
    name: "tree",
    rules: "
- { id: no-keys, match: { operation: [read, write], path: '/tmp/esc/*/*/home/.ssh/**' }, decision: DENY }
- { id: no-etc, match: { operation: write, path: '/tmp/esc/*/*/etc/**' }, decision: DENY }
- { id: no-sysctl, match: { operation: write, path: '/proc/sys/**' }, decision: DENY }
- id: no-later
  match:
    operation: write
    path: ['/tmp/esc/*/*/home/{.profile,.bashrc}', '/tmp/esc/*/*/home/.config/{autostart,systemd,nvim}/**', '/tmp/esc/*/*/desk/.git/hooks/**']
  decision: DENY
- { id: no-doors, match: { operation: [unix_connect, unix_send], path: '/tmp/esc/*/*/run/**' }, decision: DENY }
- { id: no-ssh, match: { operation: connect, port: 22 }, decision: DENY }
- { id: no-others, match: { operation: process }, decision: DENY }
- { id: no-privilege, match: { operation: [mount, umount, chroot, userns, bpf, perf, module, kexec, raw_memory, sysctl_write, uring_cmd] }, decision: DENY }
",
    network: "ALLOW",
    daemon_first: false,
    techniques: &[DESCENDANTS, ERRANDS, super::ipc::IPC, LATER],
};

const fn read(name: &'static str, what: &'static str, attempt: fn(&Dirs) -> io::Result<()>) -> Technique {
    contained(name, what, attempt, "open_read", "no-keys")
}

const DESCENDANTS: &[Technique] = &[
    read("double-fork", "double fork and setsid", |d| orphan(|| read_secret(d.key()))),
    read("clone-parent", "`CLONE_PARENT`", |d| in_clone(libc::CLONE_PARENT, || read_secret(d.key()))),
    read("vfork", "vfork", |d| in_clone(libc::CLONE_VFORK | libc::SIGCHLD, || read_secret(d.key()))),
    read("spawn", "posix_spawn (`CLONE_VM` with `CLONE_VFORK`), then another program", |d| {
        helper(Command::new(super::ME).args(["escape", "tree", "read-key"]).arg(d.path("")))
    }),
    read("thread", "a thread", |d| {
        let key = d.key();
        std::thread::spawn(move || read_secret(key)).join().unwrap_or_else(|_| Err(no_effect("it panicked")))
    }),
    read("leader-gone", "a thread that outlives its process's leader", |d| {
        let (read, write) = pipe()?;
        // SAFETY: this program has one thread here.
        if ok(unsafe { libc::fork() }.into())? == 0 {
            let (key, write) = (d.key(), write.try_clone()?);
            std::thread::spawn(move || {
                // The leader is a zombie by then.
                std::thread::sleep(Duration::from_millis(300));
                report(&write, read_secret(key));
            });
            // SAFETY: ends this thread and no other.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        }
        drop(write);
        result_of(&read)
    }),
    read("clone-into-cgroup", "clone into another cgroup (`CLONE_INTO_CGROUP`)", |d| {
        let dir = super::sys::open(CGROUP, libc::O_PATH | libc::O_DIRECTORY)?;
        let (read, write) = pipe()?;
        // `struct clone_args`: flags first, the signal fifth, the cgroup eleventh.
        let mut args = [0u64; 11];
        args[0] = 0x2_0000_0000;
        args[4] = libc::SIGCHLD as u64;
        args[10] = dir.as_raw_fd() as u64;
        // SAFETY: without a new stack it is a fork; the structure has the length given.
        if ok(unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)) })? == 0 {
            report(&write, read_secret(d.key()));
        }
        drop(write);
        result_of(&read)
    })
    .setup(cgroup),
    read("own-cgroup", "moves itself to another cgroup", |d| {
        std::fs::write(format!("{CGROUP}/cgroup.procs"), "0")?;
        read_secret(d.key())
    })
    .setup(cgroup),
    read("pid-namespace", "a new pid namespace", |d| {
        in_clone(libc::CLONE_NEWPID | libc::SIGCHLD, || read_secret(d.key()))
    }),
    contained(
        "all-namespaces",
        "new user, pid, ipc, uts, cgroup and time namespaces",
        |d| {
            let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;
            unshare(flags | libc::CLONE_NEWPID | libc::CLONE_NEWTIME)?;
            in_fork(|| read_secret(d.key()))
        },
        "userns",
        "no-privilege",
    ),
    read("late", "a daemon that waits until the command has ended", |d| {
        let (key, to) = (d.key(), d.desk("late"));
        // SAFETY: this program has one thread here; the grandchild ends by itself.
        unsafe {
            if ok(libc::fork().into())? == 0 {
                libc::setsid();
                if libc::fork() == 0 {
                    std::thread::sleep(Duration::from_millis(1500));
                    let result = read_secret(key);
                    let _ = std::fs::write(to, result.as_ref().map_or_else(status, |()| 0).to_string());
                }
                libc::_exit(0);
            }
            libc::wait(std::ptr::null_mut());
        }
        Ok(())
    })
    .later(|d| {
        wait_for(&d.desk("late"))?;
        match std::fs::read_to_string(d.desk("late"))?.as_str() {
            "0" => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno.parse().unwrap_or(libc::EIO))),
        }
    }),
    read("setuid-helper", "exec of a setuid program that may read it", |d| {
        drop_user()?;
        helper(Command::new(d.desk("su")).args(["escape", "tree", "read-key"]).arg(d.path("")))
    })
    .setup(|d| {
        std::fs::set_permissions(d.key(), std::fs::Permissions::from_mode(0o600))?;
        std::fs::copy(super::ME, d.desk("su"))?;
        done(std::fs::set_permissions(d.desk("su"), std::fs::Permissions::from_mode(0o4755)))
    }),
    contained(
        "nsenter",
        "`nsenter` into the namespaces of the first process",
        |d| {
            // SAFETY: numbers only.
            unsafe {
                let first = ok(libc::syscall(libc::SYS_pidfd_open, 1, 0))? as i32;
                let kinds = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWUTS;
                ok(libc::setns(first, kinds).into())?;
            }
            in_fork(|| read_secret(d.key()))
        },
        "ptrace",
        "no-others",
    ),
    elsewhere(
        "another-session",
        "beginning another session, with a policy of its own",
        "session::a_session_cannot_begin_another",
    ),
];

const ERRANDS: &[Technique] = &[
    door("docker", "docker.sock", |d| errand(d, "docker.sock")).setup(|d| runner(d, "docker.sock")),
    door("containerd", "containerd", |d| errand(d, "containerd.sock"))
        .setup(|d| runner(d, "containerd.sock")),
    door("dbus", "dbus activation", |d| errand(d, "bus")).setup(|d| runner(d, "bus")),
    door("systemd-run", "`systemd-run` by systemd's private socket", |d| errand(d, "private"))
        .setup(|d| runner(d, "private")),
    absent(
        "systemd-run-real",
        "`systemd-run` and a user unit, with systemd itself",
        "needs systemd, so the Debian root",
    ),
    contained(
        "ssh",
        "ssh to localhost",
        |_| {
            let mut s = TcpStream::connect("127.0.0.1:22")?;
            let mut text = Vec::new();
            s.read_to_end(&mut text)?;
            is_secret(&text)
        },
        "connect",
        "no-ssh",
    )
    .setup(|d| {
        let (listener, key) = (TcpListener::bind("127.0.0.1:22")?, d.key());
        listener.set_nonblocking(true)?;
        std::thread::spawn(move || {
            // Long enough for any attempt; the port is free again afterwards.
            for _ in 0..300 {
                if let Ok((mut s, _)) = listener.accept() {
                    let _ = s.write_all(&std::fs::read(&key).unwrap_or_default());
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        Ok(Box::new(()))
    }),
    open(
        "any-door",
        "any other service that reads files for whoever asks",
        |d| {
            let mut s = UnixStream::connect(d.desk("helpful"))?;
            let mut text = Vec::new();
            s.read_to_end(&mut text)?;
            is_secret(&text)
        },
        "a service that is permitted acts by itself: do not permit it",
    )
    .setup(|d| runner_at(d, d.desk("helpful"))),
    contained(
        "core-pattern",
        "a program that the kernel starts on a crash (core_pattern)",
        |d| {
            std::fs::write("/proc/sys/kernel/core_pattern", format!("|{} %p", d.desk("handler").display()))?;
            crash(d)
        },
        "open_write",
        "no-sysctl",
    )
    .setup(handler),
    contained(
        "core-pattern-elsewhere",
        "core_pattern through another mount of procfs",
        |d| {
            std::fs::create_dir(d.desk("proc"))?;
            own_mounts()?;
            mount("proc", d.desk("proc"), "proc", 0, "")?;
            std::fs::write(
                d.desk("proc/sys/kernel/core_pattern"),
                format!("|{} %p", d.desk("handler").display()),
            )?;
            crash(d)
        },
        "mount",
        "no-privilege",
    )
    .setup(handler),
    open(
        "core-pattern-detached",
        "core_pattern through a procfs that is mounted nowhere (fsmount)",
        |d| {
            // SAFETY: all texts end in NUL; 6 is FSCONFIG_CMD_CREATE.
            let mount = unsafe {
                let context = ok(libc::syscall(libc::SYS_fsopen, c"proc".as_ptr(), 0))?;
                ok(libc::syscall(libc::SYS_fsconfig, context, 6, 0, 0, 0))?;
                ok(libc::syscall(libc::SYS_fsmount, context, 0, 0))? as i32
            };
            let file = openat(mount, "sys/kernel/core_pattern", libc::O_WRONLY)?;
            write!(std::fs::File::from(file), "|{} %p", d.desk("handler").display())?;
            crash(d)
        },
        "needs sysctl_write, or mount that sees fsmount: sb_mount and move_mount do not",
    )
    .setup(handler),
    contained(
        "release-agent",
        "a program that the kernel starts when a cgroup is empty (release_agent)",
        |d| {
            let at = d.desk("cg");
            std::fs::create_dir(&at)?;
            own_mounts()?;
            mount("none", &at, "cgroup", 0, "none,name=escape")?;
            std::fs::write(at.join("release_agent"), d.desk("handler").as_os_str().as_encoded_bytes())?;
            std::fs::create_dir(at.join("x"))?;
            std::fs::write(at.join("x/notify_on_release"), "1")?;
            in_fork(|| std::fs::write(at.join("x/cgroup.procs"), "0"))?;
            let seen = wait_for(&d.desk("made"));
            let _ = std::fs::remove_dir(at.join("x"));
            seen
        },
        "mount",
        "no-privilege",
    )
    .setup(handler),
    open(
        "tiocsti",
        "input pushed into a terminal of somebody outside (`TIOCSTI`)",
        |d| {
            let name = std::fs::read_to_string(d.desk("pts"))?;
            in_fork(|| {
                // SAFETY: numbers, and one byte.
                unsafe {
                    ok(libc::setsid().into())?;
                    let fd = super::sys::open(&name, libc::O_RDWR | libc::O_NOCTTY)?;
                    ok(libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 1).into())?;
                    ok(libc::ioctl(fd.as_raw_fd(), libc::TIOCSTI, b"x".as_ptr()).into())?;
                }
                Ok(())
            })
        },
        "needs ioctl_write",
    )
    .setup(|d| {
        // SAFETY: descriptors of our own; the name is copied before another call can change it.
        let (end, name) = unsafe {
            let end = ok(libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC).into())? as i32;
            ok(libc::grantpt(end).into())?;
            ok(libc::unlockpt(end).into())?;
            let name = std::ffi::CStr::from_ptr(libc::ptsname(end)).to_string_lossy().into_owned();
            (<std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(end), name)
        };
        std::fs::write(d.desk("pts"), name)?;
        Ok(Box::new(end))
    }),
];

/// A file that somebody else will run later.
const fn later(
    name: &'static str,
    what: &'static str,
    attempt: fn(&Dirs) -> io::Result<()>,
    rule: &'static str,
) -> Technique {
    contained(name, what, attempt, "create", rule)
}

const LATER: &[Technique] = &[
    later(
        "start-up-file",
        "a shell start-up file",
        |d| std::fs::write(d.path("home/.profile"), "x"),
        "no-later",
    ),
    contained(
        "start-up-file-renamed",
        "a shell start-up file by rename",
        |d| {
            std::fs::write(d.desk("x"), "x")?;
            std::fs::rename(d.desk("x"), d.path("home/.bashrc"))
        },
        "rename",
        "no-later",
    ),
    contained(
        "start-up-file-linked",
        "a shell start-up file as a symlink",
        |d| std::os::unix::fs::symlink(d.desk("x"), d.path("home/.bashrc")),
        "symlink",
        "no-later",
    ),
    later("git-hook", "`.git/hooks`", |d| std::fs::write(d.desk(".git/hooks/pre-commit"), "x"), "no-later")
        .setup(|d| done(std::fs::create_dir_all(d.desk(".git/hooks")))),
    open(
        "git-hooks-path",
        "`core.hooksPath` in `.git/config`",
        |d| std::fs::write(d.desk(".git/config"), "[core]\n\thooksPath = /tmp/hooks\n"),
        "git itself writes this file: a rule on it stops git clone, one on what runs does not need it",
    )
    .setup(|d| done(std::fs::create_dir_all(d.desk(".git")))),
    contained(
        "autostart",
        "`~/.config/autostart`",
        |d| std::fs::create_dir_all(d.path("home/.config/autostart")),
        "mkdir",
        "no-later",
    ),
    contained(
        "user-unit",
        "a user systemd unit",
        |d| std::fs::create_dir_all(d.path("home/.config/systemd/user")),
        "mkdir",
        "no-later",
    ),
    later(
        "editor-plug-in",
        "an editor plug-in",
        |d| std::fs::write(d.path("home/.config/nvim/init.lua"), "x"),
        "no-later",
    )
    .setup(|d| done(std::fs::create_dir_all(d.path("home/.config/nvim")))),
    later(
        "cron",
        "a file for cron",
        |d| std::fs::write(d.path("etc/cron.d/x"), "* * * * * root x"),
        "no-etc",
    )
    .setup(|d| done(std::fs::create_dir_all(d.path("etc/cron.d")))),
    later("at", "a job for at", |d| std::fs::write(d.path("etc/spool/at/x"), "x"), "no-etc")
        .setup(|d| done(std::fs::create_dir_all(d.path("etc/spool/at")))),
    absent(
        "cron-real",
        "`at` and `cron`, with their daemons",
        "needs their daemons, so the Debian root; what stops them is the file or the socket",
    ),
];

const CGROUP: &str = "/sys/fs/cgroup/escape";

const fn door(name: &'static str, what: &'static str, attempt: fn(&Dirs) -> io::Result<()>) -> Technique {
    contained(name, what, attempt, "unix_connect", "no-doors")
}

/// What a helper program does.
pub fn read_key(root: &str) -> io::Result<()> {
    read_secret(Dirs::at(root).key())
}

/// Runs a program of ours; its result.
fn helper(command: &mut Command) -> io::Result<()> {
    let status = command.status()?.code().and_then(|c| u8::try_from(c).ok());
    error(status.unwrap_or(super::NO_EFFECT))
}

/// Runs `body` in a process whose parents are all gone; its result.
fn orphan(body: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let (read, write) = pipe()?;
    // SAFETY: this program has one thread here.
    unsafe {
        if ok(libc::fork().into())? == 0 {
            libc::setsid();
            if libc::fork() != 0 {
                libc::_exit(0);
            }
            for _ in 0..5000 {
                if libc::getppid() == 1 {
                    break;
                }
                libc::usleep(1000);
            }
            report(&write, body());
        }
        drop(write);
        libc::wait(std::ptr::null_mut());
    }
    result_of(&read)
}

fn cgroup(_: &Dirs) -> io::Result<Keep> {
    done(std::fs::create_dir_all(CGROUP))
}

/// Asks a service outside.
fn errand(d: &Dirs, name: &str) -> io::Result<()> {
    let mut s = UnixStream::connect(d.path("run").join(name))?;
    let mut text = Vec::new();
    s.read_to_end(&mut text)?;
    is_secret(&text)
}

/// A service outside that reads the protected file for whoever asks.
fn runner(d: &Dirs, name: &str) -> io::Result<Keep> {
    runner_at(d, d.path("run").join(name))
}

fn runner_at(d: &Dirs, at: std::path::PathBuf) -> io::Result<Keep> {
    let (listener, key) = (UnixListener::bind(at)?, d.key());
    std::thread::spawn(move || {
        if let Ok((mut s, _)) = listener.accept() {
            let _ = s.write_all(&std::fs::read(&key).unwrap_or_default());
        }
    });
    Ok(Box::new(()))
}

/// Puts back what the kernel starts on a crash.
struct CorePattern(String);

impl Drop for CorePattern {
    fn drop(&mut self) {
        let _ = std::fs::write("/proc/sys/kernel/core_pattern", &self.0);
    }
}

/// A program for the kernel to start, which leaves a file.
fn handler(d: &Dirs) -> io::Result<Keep> {
    std::fs::write(d.desk("handler"), format!("#!/bin/sh\necho made > '{}'\n", d.desk("made").display()))?;
    std::fs::set_permissions(d.desk("handler"), std::fs::Permissions::from_mode(0o755))?;
    Ok(Box::new(CorePattern(std::fs::read_to_string("/proc/sys/kernel/core_pattern")?.trim().to_owned())))
}

/// A child crashes; succeeds if that started the handler.
fn crash(d: &Dirs) -> io::Result<()> {
    // SAFETY: this program has one thread here; the limit is a number.
    unsafe {
        let pid = ok(libc::fork().into())? as i32;
        if pid == 0 {
            let all = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
            libc::setrlimit(libc::RLIMIT_CORE, &raw const all);
            libc::abort();
        }
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
    wait_for(&d.desk("made"))
}
