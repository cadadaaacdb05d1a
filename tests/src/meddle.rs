//! Changing a program of one's own session between its exec and its first instruction, by all that may change another's memory.

use std::ffi::CString;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::actor::check;

/// How long it is waited for the image.
const PATIENCE: Duration = Duration::from_secs(30);

fn errno(e: io::Error) -> i32 {
    e.raw_os_error().unwrap_or(libc::EIO)
}

/// A program that waits, what it was given, and what it is to be given instead.
struct Image<'a> {
    pid: i32,
    from: &'a str,
    to: &'a str,
}

impl Image<'_> {
    /// Whether the process runs the program already, and is stopped.
    fn is_there(&self, tool: &str) -> bool {
        let exe = std::fs::read_link(format!("/proc/{}/exe", self.pid));
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        exe.is_ok_and(|exe| exe == Path::new(tool)) && stat.contains(") T ")
    }

    /// Where its word is: at the top of the stack, which anybody may find by its map or guess.
    fn find(&self) -> Result<u64, i32> {
        let line = std::fs::read(format!("/proc/{}/cmdline", self.pid)).map_err(errno)?;
        let at = line.windows(self.from.len()).position(|w| w == self.from.as_bytes()).ok_or(libc::ENOENT)?;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).map_err(errno)?;
        // The 48th member, of which the second ends in `)`.
        let start = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(45));
        let start: u64 = start.and_then(|s| s.parse().ok()).ok_or(libc::EIO)?;
        if start == 0 { Err(libc::EACCES) } else { Ok(start + at as u64) }
    }

    /// `process_vm_writev`.
    fn writev(&self) -> Result<i32, i32> {
        let at = self.find()?;
        let local = libc::iovec { iov_base: self.to.as_ptr().cast_mut().cast(), iov_len: self.to.len() };
        let remote = libc::iovec { iov_base: at as *mut libc::c_void, iov_len: self.to.len() };
        // SAFETY: what is read here lives, and nothing here is written.
        check(
            unsafe { libc::process_vm_writev(self.pid, &raw const local, 1, &raw const remote, 1, 0) } as i64
        )
    }

    /// `/proc/PID/mem`.
    fn mem(&self) -> Result<i32, i32> {
        let mem =
            std::fs::File::options().write(true).open(format!("/proc/{}/mem", self.pid)).map_err(errno)?;
        mem.write_all_at(self.to.as_bytes(), self.find()?).map_err(errno)?;
        Ok(0)
    }

    /// As its tracer.
    fn poke(&self) -> Result<i32, i32> {
        let at = self.find()?;
        let mut bytes = self.to.as_bytes().to_vec();
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        for (n, word) in bytes.chunks_exact(8).enumerate() {
            let data = word.try_into().map(i64::from_ne_bytes).map_err(|_| libc::EINVAL)?;
            // SAFETY: it is the other process that is written.
            check(unsafe { libc::ptrace(libc::PTRACE_POKEDATA, self.pid, at + 8 * n as u64, data) })?;
        }
        Ok(0)
    }

    /// Attaches, writes, and lets it go as it was.
    fn attached(&self, request: libc::c_uint) -> Result<i32, i32> {
        let (none, mut status) = (std::ptr::null_mut::<libc::c_void>(), 0);
        // SAFETY: a process that is traced from here on; no memory of ours is involved.
        unsafe {
            check(libc::ptrace(request, self.pid, none, none))?;
            if request == libc::PTRACE_SEIZE {
                libc::ptrace(libc::PTRACE_INTERRUPT, self.pid, none, none);
            }
            check(libc::waitpid(self.pid, &raw mut status, libc::__WALL).into())?;
            let done = self.poke();
            libc::ptrace(libc::PTRACE_DETACH, self.pid, none, none);
            done
        }
    }
}

/// Waits for a child, and says how it ended.
fn ended(pid: i32) -> Result<i32, i32> {
    let mut status = 0;
    // SAFETY: a child of ours.
    check(unsafe { libc::waitpid(pid, &raw mut status, 0) }.into())?;
    println!("ended {status}");
    Ok(0)
}

/// Runs `TOOL mkdir FROM`, tries in one way to make it `TOOL mkdir TO`, says with which errno, and makes a file `ready`.
pub fn meddle(args: &[String]) -> Result<i32, i32> {
    let [how, tool, from, to, ready] = args else { return Err(libc::EINVAL) };
    let words = [tool.as_str(), "mkdir", from].map(|word| CString::new(word).unwrap_or_default());
    let argv = [words[0].as_ptr(), words[1].as_ptr(), words[2].as_ptr(), std::ptr::null()];
    let traced = how == "traced";
    // SAFETY: nothing else runs in this process; the child executes or ends.
    let pid = unsafe {
        let pid = check(libc::fork().into())?;
        if pid == 0 {
            if traced {
                libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            }
            libc::execv(argv[0], argv.as_ptr());
            libc::_exit(127);
        }
        pid
    };
    let image = Image { pid, from, to };
    let done = if traced {
        let mut status = 0;
        // SAFETY: a child of ours, that stops at its exec.
        check(unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) }.into())?;
        image.poke()
    } else {
        let began = Instant::now();
        while !image.is_there(tool) {
            if began.elapsed() > PATIENCE {
                return Err(libc::ETIME);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        match how.as_str() {
            "writev" => image.writev(),
            "mem" => image.mem(),
            "attach" => image.attached(libc::PTRACE_ATTACH),
            "seize" => image.attached(libc::PTRACE_SEIZE),
            _ => Err(libc::EINVAL),
        }
    };
    println!("{how} {}", done.err().unwrap_or(0));
    std::fs::write(ready, "").map_err(errno)?;
    if traced {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: a child of ours, which goes on.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, pid, none, none) };
    }
    ended(pid)
}
