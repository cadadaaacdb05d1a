//! The guard itself: the daemon, what it has on disk and in the kernel, and what would take its place.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use super::Dirs;
use super::corpus::{Expect, Family, Technique, absent, contained, elsewhere, open};
use super::modules::{lacks, loaded};
use super::names::done;
use super::sys::*;
use crate::bpf::{self, bpf};

/// The corpus of the guard.
pub const FAMILY: Family = Family {
    name: "guard",
    rules: "
- { id: no-keys, match: { operation: [read, write], path: '/tmp/esc/*/*/home/.ssh/**' }, decision: DENY }
- id: no-guard
  match:
    operation: write
    path: ['/tmp/aarm-case-*', '/tmp/aarm-case-*/{log,keys,state,policies}/**', '/run/aarm/**', '/sys/fs/bpf/**', '/sys/fs/cgroup/**', '/proc/*/{mem,oom_score_adj}']
  decision: DENY
- { id: no-raw-memory, match: { operation: [read, write], path: '/dev/{mem,kmem,port}' }, decision: DENY }
- { id: no-nodes, match: { operation: mknod }, decision: DENY }
- { id: no-others, match: { operation: process }, decision: DENY }
- { id: no-privilege, match: { operation: [mount, umount, chroot, userns, bpf, perf, module, kexec, raw_memory, sysctl_write, uring_cmd] }, decision: DENY }
",
    network: "ALLOW",
    daemon_first: true,
    techniques: &[PROCESS, FILES, KERNEL, APPROVALS],
};

const fn guarded(
    name: &'static str,
    what: &'static str,
    attempt: fn(&Dirs) -> io::Result<()>,
    operation: &'static str,
) -> Technique {
    contained(name, what, attempt, operation, "no-guard")
}

const PROCESS: &[Technique] = &[
    contained("kill", "kill of the daemon", |d| signal(d, libc::SIGKILL), "signal", "no-others"),
    contained("stop", "SIGSTOP to the daemon", |d| signal(d, libc::SIGSTOP), "signal", "no-others"),
    contained(
        "pidfd-signal",
        "a signal to the daemon by a pidfd",
        |d| {
            // SAFETY: numbers only.
            unsafe {
                let fd = ok(libc::syscall(libc::SYS_pidfd_open, daemon(d)?.0, 0))?;
                ok(libc::syscall(libc::SYS_pidfd_send_signal, fd, libc::SIGSTOP, 0, 0))?;
            }
            Ok(())
        },
        "signal",
        "no-others",
    ),
    open(
        "sigio",
        "a signal to the daemon by the kernel (`F_SETOWN`)",
        |d| {
            let (read, write) = pipe()?;
            // SAFETY: numbers, and one byte.
            unsafe {
                ok(libc::fcntl(read.as_raw_fd(), libc::F_SETOWN, daemon(d)?.0).into())?;
                ok(libc::fcntl(read.as_raw_fd(), 10, libc::SIGSTOP).into())?;
                ok(libc::fcntl(read.as_raw_fd(), libc::F_SETFL, libc::O_ASYNC).into())?;
                ok(libc::write(write.as_raw_fd(), b"x".as_ptr().cast(), 1) as libc::c_long)?;
            }
            // It is stopped when it next runs.
            for _ in 0..100 {
                let status = std::fs::read_to_string(format!("/proc/{}/status", daemon(d)?.0))?;
                if status.contains("T (stopped)") {
                    return Ok(());
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            Err(no_effect("it runs on"))
        },
        "needs signal, also for those that the kernel sends",
    ),
    contained(
        "ptrace",
        "ptrace of the daemon",
        |d| {
            let none = std::ptr::null_mut::<libc::c_void>();
            // SAFETY: nothing of the daemon is changed.
            ok(unsafe { libc::ptrace(libc::PTRACE_SEIZE, daemon(d)?.0, none, none) })?;
            Ok(())
        },
        "ptrace",
        "no-others",
    ),
    guarded(
        "memory",
        "a write to the daemon's memory (`/proc/PID/mem`)",
        |d| std::fs::File::options().write(true).open(format!("/proc/{}/mem", daemon(d)?.0)).map(drop),
        "open_write",
    ),
    guarded(
        "oom",
        "the daemon made the first to be killed for want of memory",
        |d| std::fs::write(format!("/proc/{}/oom_score_adj", daemon(d)?.0), "1000"),
        "open_write",
    ),
    guarded(
        "freeze",
        "the daemon moved to a cgroup that can be frozen",
        |d| std::fs::write("/sys/fs/cgroup/escape-guard/cgroup.procs", daemon(d)?.0.to_string()),
        "open_write",
    )
    .setup(|_| done(std::fs::create_dir_all("/sys/fs/cgroup/escape-guard"))),
    contained(
        "prlimit",
        "the daemon's limits (prlimit)",
        |d| {
            let none = libc::rlimit { rlim_cur: 0, rlim_max: libc::RLIM_INFINITY };
            // SAFETY: the limit of core dumps, which nobody needs here.
            ok(unsafe {
                libc::prlimit(daemon(d)?.0, libc::RLIMIT_CORE, &raw const none, std::ptr::null_mut())
            }
            .into())?;
            Ok(())
        },
        "prlimit",
        "no-others",
    ),
    open(
        "scheduler",
        "the daemon's scheduling: only when nothing else runs",
        |d| {
            // SAFETY: an all-zero parameter is valid for this policy.
            unsafe {
                let none: libc::sched_param = std::mem::zeroed();
                ok(libc::sched_setscheduler(daemon(d)?.0, libc::SCHED_IDLE, &raw const none).into())?;
            }
            Ok(())
        },
        "no operation covers scheduling yet",
    ),
];

const FILES: &[Technique] = &[
    guarded(
        "log-write",
        "a write to its log",
        |d| std::fs::File::options().append(true).open(in_log(d)?).map(drop),
        "open_write",
    ),
    guarded(
        "log-truncate",
        "its log cut short",
        |d| {
            // SAFETY: the path ends in NUL; the length is what it is, so that proving it damages nothing.
            ok(unsafe {
                libc::truncate(c(in_log(d)?).as_ptr(), std::fs::metadata(in_log(d)?)?.len() as i64)
            }
            .into())?;
            Ok(())
        },
        "truncate",
    ),
    guarded(
        "log-rename",
        "its log moved away",
        |d| {
            let log = daemon(d)?.1.join("log");
            std::fs::rename(&log, d.desk("log"))?;
            std::fs::rename(d.desk("log"), log)
        },
        "rename",
    ),
    guarded(
        "directory-rename",
        "the directory above moved away",
        |d| {
            let dir = daemon(d)?.1;
            std::fs::rename(&dir, d.desk("dir"))?;
            std::fs::rename(d.desk("dir"), dir)
        },
        "rename",
    ),
    guarded(
        "keys",
        "another signing key",
        |d| std::fs::write(daemon(d)?.1.join("keys/other"), "x"),
        "create",
    ),
    guarded(
        "policy",
        "a policy of one's own",
        |d| std::fs::write(daemon(d)?.1.join("policies/a.txt"), "x"),
        "create",
    ),
    guarded(
        "state",
        "what it keeps for its successor",
        |d| std::fs::write(daemon(d)?.1.join("state/x"), "x"),
        "create",
    ),
    guarded(
        "socket",
        "its socket replaced",
        |_| {
            rename("/run/aarm/aarm.sock", "/run/aarm/mine", 0)?;
            rename("/run/aarm/mine", "/run/aarm/aarm.sock", 0)
        },
        "rename",
    ),
    contained(
        "mount-over",
        "mounting over `/run/aarm`",
        |_| mount("tmpfs", "/run/aarm", "tmpfs", 0, ""),
        "mount",
        "no-privilege",
    )
    .setup(|_| Ok(Box::new(Mounted("/run/aarm".into())))),
    guarded(
        "unpin",
        "a pin removed: unpinning",
        |_| std::fs::remove_file("/sys/fs/bpf/aarm/links/file_open"),
        "unlink",
    ),
    guarded(
        "pin-rename",
        "a pin moved away",
        |_| {
            rename("/sys/fs/bpf/aarm/maps/CONFIG", "/sys/fs/bpf/mine", 0)?;
            rename("/sys/fs/bpf/mine", "/sys/fs/bpf/aarm/maps/CONFIG", 0)
        },
        "rename",
    ),
    contained(
        "umount-bpffs",
        "bpffs unmounted",
        |_| {
            unshare(libc::CLONE_NEWNS)?;
            umount("/sys/fs/bpf", libc::MNT_DETACH)
        },
        "umount",
        "no-privilege",
    ),
    absent(
        "disk",
        "filling the disk",
        "the machines have no disk; receipts that cannot be written wait, then actions are refused",
    ),
];

const KERNEL: &[Technique] = &[
    contained(
        "bpf-load",
        "`bpf()` of its own: a program loaded",
        |_| {
            // r0 = 0; exit
            let program: [u64; 2] = [0xb7, 0x95];
            let mut a = [0u64; 16];
            // A socket filter of two instructions, with its licence.
            a[0] = 1 | 2 << 32;
            a[1] = program.as_ptr() as u64;
            a[2] = c"GPL".as_ptr() as u64;
            bpf(bpf::PROG_LOAD, &mut a, 48).map(drop)
        },
        "bpf",
        "no-privilege",
    ),
    contained(
        "map-by-pin",
        "a map of the guard opened by its pin",
        |_| {
            let path = c("/sys/fs/bpf/aarm/maps/SESSIONS");
            bpf(bpf::OBJ_GET, &mut [path.as_ptr() as u64, 0], 16).map(drop)
        },
        "bpf",
        "no-privilege",
    ),
    contained(
        "map-by-id",
        "a map of the guard opened by its number, and its own entry removed from it",
        |d| {
            let tasks = bpf::map_named(b"TASKS")?;
            // SAFETY: numbers only.
            let me = ok(unsafe { libc::syscall(libc::SYS_pidfd_open, std::process::id(), 0) })? as i32;
            let mut delete = [tasks.as_raw_fd() as u64, (&raw const me) as u64, 0, 0];
            match bpf(bpf::MAP_DELETE_ELEM, &mut delete, 32) {
                // Outside of a session there is none.
                Err(e) if e.raw_os_error() != Some(libc::ENOENT) => return Err(e),
                _ => {}
            }
            read_secret(d.key())
        },
        "bpf",
        "no-privilege",
    ),
    absent(
        "link-by-id",
        "detaching links by their numbers",
        "the kernel has no such thing for links of LSM programs",
    ),
    contained(
        "perf",
        "perf_event_open on the daemon",
        |d| {
            let mut a = [0u64; 16];
            // A software event, the clock of the CPU, in a structure of 128 bytes.
            a[0] = 1 | 128 << 32;
            // SAFETY: the structure has the length it says.
            ok(unsafe { libc::syscall(libc::SYS_perf_event_open, a.as_ptr(), daemon(d)?.0, -1, -1, 0) })?;
            Ok(())
        },
        "perf",
        "no-privilege",
    ),
    contained(
        "module",
        "kernel module load",
        |_| {
            // Refused or not is what the kernel shows.
            let _ = loaded(&["dummy"]);
            if std::path::Path::new("/sys/module/dummy").exists() {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(libc::EPERM))
            }
        },
        "module",
        "no-privilege",
    )
    .setup(|_| Ok(Box::new(Module)))
    .on(&[("7.2", lacks("dummy"))]),
    contained(
        "kexec",
        "kexec",
        |_| {
            // Unloads whatever image is loaded: the permission that is asked is that for loading one.
            // SAFETY: no segments.
            ok(unsafe { libc::syscall(libc::SYS_kexec_load, 0, 0, 0, 0) })?;
            Ok(())
        },
        "kexec",
        "no-privilege",
    ),
    contained(
        "dev-mem",
        "`/dev/mem`",
        |_| {
            let mut byte = [0u8];
            std::fs::File::open("/dev/mem")?.read_exact(&mut byte)
        },
        "open_read",
        "no-raw-memory",
    ),
    contained(
        "dev-mem-own",
        "`/dev/mem` by a device node of one's own",
        |d| {
            // SAFETY: the path ends in NUL.
            ok(unsafe {
                libc::mknod(c(d.desk("mem")).as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(1, 1))
            }
            .into())?;
            std::fs::File::open(d.desk("mem")).map(drop)
        },
        "mknod",
        "no-nodes",
    ),
    contained(
        "dev-mem-before",
        "`/dev/mem` by a device node that was there before",
        |d| std::fs::File::open(d.desk("mem")).map(drop),
        "open_read",
        "no-privilege",
    )
    .setup(|d| {
        // SAFETY: the path ends in NUL.
        ok(unsafe { libc::mknod(c(d.desk("mem")).as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(1, 1)) }
            .into())?;
        Ok(Box::new(()))
    }),
    open(
        "ports",
        "I/O ports (`iopl`)",
        |_| {
            // SAFETY: a number; nothing is done with the permission.
            ok(unsafe { libc::syscall(libc::SYS_iopl, 3) })?;
            Ok(())
        },
        "needs raw_memory",
    ),
    elsewhere("flood", "filling the ring by a flood of events", "pressure::a_flood_is_refused_not_lost"),
    contained(
        "many-tasks",
        "exhausting tasks: 300 at once, the last of which reads",
        |d| {
            let (hold, held) = pipe()?;
            for _ in 0..300 {
                // SAFETY: this program has one thread here; a child waits for the end of the pipe's writers.
                unsafe {
                    if ok(libc::fork().into())? == 0 {
                        libc::close(held.as_raw_fd());
                        libc::read(hold.as_raw_fd(), [0u8].as_mut_ptr().cast(), 1);
                        libc::_exit(0);
                    }
                }
            }
            let result = in_fork(|| read_secret(d.key()));
            drop(held);
            // SAFETY: our own children.
            while unsafe { libc::wait(std::ptr::null_mut()) } > 0 {}
            result
        },
        "open_read",
        "no-keys",
    ),
    absent("inode-storage", "exhausting inode storage", "nothing is kept for each inode yet"),
    absent("memory", "exhausting memory", "ends these machines, with and without a guard"),
];

const APPROVALS: &[Technique] = &[
    Technique::new(
        "reload",
        "a reload of the policies, asked by the session",
        |_| {
            let mut s = UnixStream::connect("/run/aarm/aarm.sock")?;
            s.write_all(b"POST /v1/policies/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            s.read_to_string(&mut answer)?;
            if answer.starts_with("HTTP/1.1 200") {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(libc::EACCES))
            }
        },
        Expect::Harmless("the daemon refuses what a session asks"),
    ),
    elsewhere(
        "approvals-socket",
        "approvals while nobody serves their socket",
        "hold::what_waits_outlives_the_daemon",
    ),
    elsewhere(
        "forged-approval",
        "forging an approval from inside the session",
        "hold::nobody_answers_for_himself",
    ),
    elsewhere(
        "replayed-grant",
        "replaying a grant from another session or thread",
        "hold::an_answer_is_good_for_what_it_says",
    ),
    elsewhere(
        "changed-arguments",
        "changing arguments between hold and resume",
        "toctou::while_an_image_is_asked_about_nobody_changes_it",
    ),
    elsewhere("sigcont", "SIGCONT to a held task", "hold::signals_neither_free_nor_lose_what_waits"),
    elsewhere(
        "held-over-restart",
        "being held while the daemon restarts",
        "storm::each_ends_as_its_receipts_say",
    ),
];

/// The daemon's process and directory.
fn daemon(d: &Dirs) -> io::Result<(i32, PathBuf)> {
    let text = std::fs::read_to_string(d.path("daemon"))?;
    let (pid, dir) = text.split_once(' ').ok_or_else(|| no_effect("no daemon"))?;
    Ok((pid.parse().map_err(io::Error::other)?, dir.into()))
}

fn signal(d: &Dirs, signal: i32) -> io::Result<()> {
    // SAFETY: numbers only.
    ok(unsafe { libc::kill(daemon(d)?.0, signal) }.into())?;
    Ok(())
}

/// Some file of the log.
fn in_log(d: &Dirs) -> io::Result<PathBuf> {
    let mut all =
        std::fs::read_dir(daemon(d)?.1.join("log"))?.flatten().map(|e| e.path()).filter(|p| p.is_file());
    all.next().ok_or_else(|| no_effect("no log"))
}

/// Removes the module that a technique loads.
struct Module;

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: the name ends in NUL.
        unsafe { libc::syscall(libc::SYS_delete_module, c"dummy".as_ptr(), libc::O_NONBLOCK) };
    }
}
