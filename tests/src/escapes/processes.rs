//! Programs, the half that needs no exec: other processes, which do what they are made to do.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Dirs;
use super::corpus::{Technique, contained, open};
use super::names::{Helper, done};
use super::sys::*;

/// Other processes.
pub const OTHERS: &[Technique] = &[
    contained(
        "ptrace",
        "ptrace of a process outside: a word of its code overwritten",
        |d| {
            let pid = victim(d)?;
            let none = std::ptr::null_mut::<libc::c_void>();
            // SAFETY: ptrace of a process of ours, at the address where it is executing.
            unsafe {
                ok(libc::ptrace(libc::PTRACE_ATTACH, pid, none, none))?;
                libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL);
                let mut regs: libc::user_regs_struct = std::mem::zeroed();
                ok(libc::ptrace(libc::PTRACE_GETREGS, pid, none, &raw mut regs))?;
                ok(libc::ptrace(libc::PTRACE_POKETEXT, pid, regs.rip, -1i64))?;
                ok(libc::ptrace(libc::PTRACE_DETACH, pid, none, none))?;
            }
            Ok(())
        },
        "ptrace",
        "no-others",
    )
    .setup(sleeper),
    open(
        "ptrace-permitted",
        "ptrace of a program of the session that may do more",
        in_permitted,
        "needs ptrace, also inside of the session",
    )
    .setup(|d| {
        std::fs::write(d.path("home/data"), super::SECRET)?;
        // A loop, and behind it the instruction of system calls.
        std::fs::write(d.desk("reader"), program(&[0xeb, 0xfe, 0x0f, 0x05]))?;
        done(std::fs::set_permissions(d.desk("reader"), std::fs::Permissions::from_mode(0o755)))
    }),
    contained(
        "exec-storm",
        "300 programs at once, started by one that may do more, none of which may",
        |d| {
            let status = Command::new(d.desk("reader"))
                .args(["escape", "programs", "storm"])
                .arg(d.path(""))
                .status()?;
            error(status.code().and_then(|s| u8::try_from(s).ok()).unwrap_or(super::NO_EFFECT))
        },
        "open_read",
        "only-reader",
    )
    .setup(|d| {
        std::fs::write(d.path("home/data"), super::SECRET)?;
        std::fs::copy(super::ME, d.desk("reader"))?;
        std::fs::write(d.desk("opener"), program(&OPENER))?;
        done(std::fs::set_permissions(d.desk("opener"), std::fs::Permissions::from_mode(0o755)))
    }),
    contained(
        "process-vm-writev",
        "process_vm_writev into a process outside",
        |d| {
            let (pid, address) = target(d)?;
            let mut word = 7u64;
            let local = libc::iovec { iov_base: (&raw mut word).cast(), iov_len: 8 };
            let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: 8 };
            // SAFETY: eight bytes on this side; the other side is checked by the kernel.
            ok(unsafe { libc::process_vm_writev(pid, &raw const local, 1, &raw const remote, 1, 0) }
                as libc::c_long)?;
            Ok(())
        },
        "ptrace",
        "no-others",
    )
    .setup(word),
    contained(
        "process-vm-readv",
        "process_vm_readv of a process outside that has the secret in memory",
        |d| {
            let (pid, address) = target(d)?;
            let mut word = 0u64;
            let local = libc::iovec { iov_base: (&raw mut word).cast(), iov_len: 8 };
            let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: 8 };
            // SAFETY: as above.
            ok(unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) }
                as libc::c_long)?;
            if word == WORD.load(Ordering::Relaxed) { Ok(()) } else { Err(no_effect("another word")) }
        },
        "ptrace",
        "no-others",
    )
    .setup(word),
    contained(
        "proc-mem",
        "a write to `/proc/PID/mem` of a process outside",
        |d| {
            let (pid, address) = target(d)?;
            let file = std::fs::File::options().write(true).open(format!("/proc/{pid}/mem"))?;
            std::os::unix::fs::FileExt::write_all_at(&file, &7u64.to_le_bytes(), address)
        },
        "open_write",
        "no-process-memory",
    )
    .setup(word),
    open(
        "setuid-program",
        "a setuid program gives the rights of root back",
        |d| {
            drop_user()?;
            // Only its owner can remove what this makes.
            let status = Command::new(d.desk("su"))
                .args(["escape", "programs", "as-root"])
                .arg(d.path(""))
                .status()?;
            if status.success() {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(status.code().unwrap_or(5)))
            }
        },
        "needs setuid",
    )
    .setup(|d| {
        std::fs::copy(super::ME, d.desk("su"))?;
        done(std::fs::set_permissions(d.desk("su"), std::fs::Permissions::from_mode(0o4755)))
    }),
];

/// Starts the permitted program and makes it open what only it may.
fn in_permitted(d: &Dirs) -> io::Result<()> {
    let child = Helper(Command::new(d.desk("reader")).spawn()?);
    let pid = child.0.id() as i32;
    let path = c(d.path("home/data"));
    let none = std::ptr::null_mut::<libc::c_void>();
    let mut bytes = path.as_bytes_with_nul().to_vec();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    // SAFETY: ptrace of a child of ours; what is written is on its stack, below what it uses.
    unsafe {
        ok(libc::ptrace(libc::PTRACE_ATTACH, pid, none, none))?;
        libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL);
        let mut regs: libc::user_regs_struct = std::mem::zeroed();
        ok(libc::ptrace(libc::PTRACE_GETREGS, pid, none, &raw mut regs))?;
        let at = (regs.rsp - 4096) & !7;
        for (n, word) in bytes.chunks_exact(8).enumerate() {
            let word = u64::from_ne_bytes(word.try_into().map_err(io::Error::other)?);
            ok(libc::ptrace(libc::PTRACE_POKEDATA, pid, at + 8 * n as u64, word))?;
        }
        regs.rip += 2;
        regs.orig_rax = u64::MAX;
        (regs.rax, regs.rdi, regs.rsi) = (libc::SYS_open as u64, at, libc::O_RDONLY as u64);
        ok(libc::ptrace(libc::PTRACE_SETREGS, pid, none, &raw const regs))?;
        ok(libc::ptrace(libc::PTRACE_SINGLESTEP, pid, none, none))?;
        libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL);
        ok(libc::ptrace(libc::PTRACE_GETREGS, pid, none, &raw mut regs))?;
        match regs.rax as i64 {
            errno @ -4095..0 => Err(io::Error::from_raw_os_error(-errno as i32)),
            _ => Ok(()),
        }
    }
}

/// A process outside that does nothing.
pub fn sleeper(d: &Dirs) -> io::Result<super::corpus::Keep> {
    let child = Command::new("/bin/busybox").args(["sleep", "60"]).spawn()?;
    std::fs::write(d.desk("pid"), child.id().to_string())?;
    Ok(Box::new(Helper(child)))
}

/// Its number.
pub fn victim(d: &Dirs) -> io::Result<i32> {
    std::fs::read_to_string(d.desk("pid"))?.trim().parse().map_err(io::Error::other)
}

/// A word in the memory of the process outside.
static WORD: AtomicU64 = AtomicU64::new(0x7365_6372_6574);

fn word(d: &Dirs) -> io::Result<super::corpus::Keep> {
    WORD.store(0x7365_6372_6574, Ordering::Relaxed);
    done(std::fs::write(d.desk("where"), format!("{} {}", std::process::id(), WORD.as_ptr() as usize)))
}

fn target(d: &Dirs) -> io::Result<(i32, u64)> {
    let text = std::fs::read_to_string(d.desk("where"))?;
    let (pid, address) = text.split_once(' ').ok_or_else(|| no_effect("no place"))?;
    Ok((pid.parse().map_err(io::Error::other)?, address.parse().map_err(io::Error::other)?))
}

/// Opens the file that its first argument names; exits with 0 if it could.
///
/// ```text
/// mov rdi, [rsp + 16]; xor esi, esi; mov eax, 2 (open);  syscall
/// mov edi, eax;        shr edi, 31;  mov eax, 60 (exit); syscall
/// ```
const OPENER: [u8; 26] = [
    0x48, 0x8b, 0x7c, 0x24, 0x10, 0x31, 0xf6, 0xb8, 2, 0, 0, 0, 0x0f, 0x05, 0x89, 0xc7, 0xc1, 0xef, 0x1f,
    0xb8, 60, 0, 0, 0, 0x0f, 0x05,
];

/// What the permitted program does: starts many that are not, all at once. Succeeds if one of them has its rights.
pub fn storm(root: &str) -> io::Result<()> {
    let d = Dirs::at(root);
    let (hold, held) = pipe()?;
    let (opener, data) = (c(d.desk("opener")), c(d.path("home/data")));
    let argv = [opener.as_ptr(), data.as_ptr(), std::ptr::null()];
    let env = [std::ptr::null()];
    for _ in 0..300 {
        // SAFETY: this program has one thread here; a child waits until all are there, then becomes another program.
        unsafe {
            if ok(libc::fork().into())? == 0 {
                libc::close(held.as_raw_fd());
                libc::read(hold.as_raw_fd(), [0u8].as_mut_ptr().cast(), 1);
                libc::execve(argv[0], argv.as_ptr(), env.as_ptr());
                libc::_exit(2);
            }
        }
    }
    drop(held);
    let (mut status, mut won) = (0, 0);
    // SAFETY: our own children.
    while unsafe { libc::wait(&raw mut status) } > 0 {
        won += u32::from(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
    }
    eprintln!("{won} of them");
    if won > 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}
