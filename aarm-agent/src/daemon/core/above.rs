//! Who stops because what he has started is held.
//!
//! su, nsenter and others stop themselves when their child stops, until somebody continues them: at a terminal, the user would. Of a
//! hold nobody knows but us. So whoever has stopped for one is continued when it is over: above what was held and inside its session
//! only, and only where the one below is not stopped, or what was stopped by others (^Z) would go on. Some are late, so we look for a
//! while.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use super::Core;
use crate::daemon::holds::Waiting;
use crate::daemon::port::KernelPort;
use crate::kernel::pidfd;

/// How long we look.
const LATE: Duration = Duration::from_secs(3);
/// What waited for less was decided by rules.
const SOON: Duration = Duration::from_millis(100);
/// How many above each other.
const DEPTH: usize = 16;
/// Of how many we look for those who are late: looking takes time that others wait for.
const LATE_MAX: usize = 64;

/// What was held, and may have been copied.
pub(super) struct Above {
    child: u32,
    parent: u32,
    session: u64,
    until: Instant,
}

impl Core {
    /// Something is held no more that waited so long. Looking takes five times what a decision takes: what was decided at once is looked after
    /// at the next tick.
    pub(super) fn look_above(&mut self, w: &Waiting, waited: Duration) {
        let child = w.about.pid;
        // Another one may be its parent by now.
        let parent = if waited < SOON { None } else { state(child) }.map_or(w.ppid, |s| s.parent);
        let above = Above { child, parent, session: w.session, until: Instant::now() + LATE };
        if waited >= SOON {
            above.go_on(&*self.p.kernel);
        }
        // Once each, however often its children are held.
        self.above.retain(|other| other.parent != parent);
        if self.above.len() >= LATE_MAX {
            self.above.remove(0);
        }
        self.above.push(above);
        assert!(self.above.len() <= LATE_MAX, "the first leaves for the last");
    }

    /// Looks again.
    pub(super) fn above_tick(&mut self) {
        let now = Instant::now();
        let kernel = &*self.p.kernel;
        self.above.retain(|above| {
            above.go_on(kernel);
            above.until > now
        });
    }
}

impl Above {
    fn go_on(&self, kernel: &dyn KernelPort) {
        let mut stopped_below = state(self.child).is_some_and(|s| s.stopped);
        let mut pid = self.parent;
        for _ in 0..DEPTH {
            // In this order: what the descriptor is of is what has this number, or is gone.
            let (Ok(process), Some(found)) = (pidfd(pid), state(pid)) else { return };
            if !kernel.session_of(process.as_fd()).is_ok_and(|s| s == Some(self.session)) {
                return;
            }
            if found.stopped && !stopped_below {
                tracing::debug!("process {pid} stopped because {} was held, and is continued", self.child);
                go_on(&process);
            }
            stopped_below &= found.stopped;
            pid = found.parent;
        }
    }
}

/// Continues a process.
fn go_on(process: &OwnedFd) {
    let no_info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: numbers and a null pointer, which the call allows. It may be gone.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), libc::SIGCONT, no_info, 0) };
}

/// What a process does, and whose child it is.
struct State {
    stopped: bool,
    parent: u32,
}

fn state(pid: u32) -> Option<State> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse(&String::from_utf8_lossy(&stat))
}

/// The third and the fourth of the fields of proc(5). The name before them may have any text.
fn parse(stat: &str) -> Option<State> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let stopped = fields.next()? == "T";
    Some(State { stopped, parent: fields.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_whatever_the_name_is() {
        let found = parse("7 (a) T 1 (b) S) T 4711 7 7 0").unwrap();
        assert!(found.stopped && found.parent == 4711);
        let found = parse("7 (su) S 1 7 7 0").unwrap();
        assert!(!found.stopped && found.parent == 1);
        assert!(parse("7 (su)").is_none() && parse("").is_none());
    }
}
