//! The process between the shell and a supervised command.
//!
//! `aarm run` forks; the child becomes the command and this process waits for it. It must be as if it were not
//! there: signals sent to it reach the command, a stop by the terminal stops both, and its own end looks like
//! the command's. Later it is what keeps the shell from noticing that the kernel holds a command.
//!
//! Both stay in one process group, so that pipelines and the terminal work as without aarm. It follows that
//! what the terminal sends (^C, ^\, ^Z, a new window size) reaches the command by itself: passed on it would
//! arrive twice. What anyone else sends is passed on; if it was sent to the whole group the command gets it
//! twice, which is better than not at all.
//!
//! Must never: start a thread, or wait for anything but its signals.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, kill, killpg, sigaction, sigprocmask,
};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Pid, fork, getpgid, getpgrp, tcgetpgrp, tcsetpgrp};

use super::exit::{CliError, Exit};

/// Signals that are passed on.
const FORWARDED: [Signal; 9] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGTSTP,
    Signal::SIGCONT,
];

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status.
    Exited(u8),
    /// By the signal of this number, which may be a real-time one.
    Signaled(i32),
}

/// Runs `child` in a child process and waits for it. `child` returns only if it could not become the command.
pub fn supervise(child: impl FnOnce() -> Exit) -> Result<End, CliError> {
    let threads = threads()?;
    if threads != 1 {
        return Err(CliError::Threads { threads });
    }
    let mut set: SigSet = FORWARDED.into_iter().collect();
    set.add(Signal::SIGCHLD);
    // Giving the terminal away from the background would stop us otherwise.
    set.add(Signal::SIGTTOU);
    let mut mask = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut mask))
        .map_err(CliError::system("block signals"))?;
    // Whoever started us may ignore SIGCHLD: the command's status would be lost.
    let inherited = default_action(Signal::SIGCHLD)?;

    // SAFETY: this process has one thread (checked above), so the child may do whatever its parent may.
    match unsafe { fork() }.map_err(CliError::system("start a process"))? {
        ForkResult::Child => {
            // SAFETY: puts back what was there before.
            let restored = unsafe { sigaction(Signal::SIGCHLD, &inherited) }
                .and_then(|_| sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None))
                .and_then(|()| default_action_raw(Signal::SIGPIPE));
            // An exec with the wrong signals blocked would be a trap for the command; none of these can fail.
            if restored.is_err() {
                std::process::abort();
            }
            std::process::exit(i32::from(child().0))
        }
        ForkResult::Parent { child } => Supervisor::new(child, set)?.wait(),
    }
}

/// Threads of this process.
pub fn threads() -> Result<usize, CliError> {
    std::fs::read_dir("/proc/self/task").map(Iterator::count).map_err(|source| CliError::System {
        what: "count this process's threads in /proc/self/task",
        source,
    })
}

/// Ends this process as the command ended.
pub fn end_like(end: End) -> u8 {
    match end {
        End::Exited(status) => status,
        End::Signaled(signal) => {
            // The command has left its core where it belongs; ours would be a second one of no use.
            if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_CORE) {
                let _ = setrlimit(Resource::RLIMIT_CORE, 0, hard);
            }
            // SAFETY: the default action runs no code of ours, the set is initialised before it is used.
            unsafe {
                libc::signal(signal, libc::SIG_DFL);
                libc::raise(signal);
                let mut only = std::mem::zeroed();
                libc::sigemptyset(&mut only);
                libc::sigaddset(&mut only, signal);
                libc::sigprocmask(libc::SIG_UNBLOCK, &only, std::ptr::null_mut());
            }
            // Still here only if this process may not die of it (it is the first of a pid namespace).
            u8::try_from(128 + signal).unwrap_or(u8::MAX)
        }
    }
}

fn default_action_raw(signal: Signal) -> nix::Result<SigAction> {
    let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action runs no code of ours.
    unsafe { sigaction(signal, &action) }
}

fn default_action(signal: Signal) -> Result<SigAction, CliError> {
    default_action_raw(signal).map_err(CliError::system("set a signal's action"))
}

/// The waiting process.
struct Supervisor {
    child: Pid,
    /// Our own process group, the command's too unless it leaves.
    group: Pid,
    signals: SignalFd,
    terminal: Option<OwnedFd>,
    /// The command is stopped, and we are not.
    stopped: bool,
}

impl Supervisor {
    fn new(child: Pid, set: SigSet) -> Result<Self, CliError> {
        let signals =
            SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC).map_err(CliError::system("receive signals"));
        let signals = match signals {
            Ok(signals) => signals,
            // A command that nobody can signal or wait for must not run on.
            Err(e) => {
                let _ = kill(child, Signal::SIGKILL);
                return Err(e);
            }
        };
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        let terminal = open("/dev/tty", flags, Mode::empty()).ok();
        Ok(Self { child, group: getpgrp(), signals, terminal, stopped: false })
    }

    fn wait(mut self) -> Result<End, CliError> {
        loop {
            let info = match self.signals.read_signal() {
                Ok(Some(info)) => info,
                Ok(None) | Err(Errno::EINTR) => continue,
                Err(e) => return Err(CliError::system("receive signals")(e)),
            };
            let Some(signal) = i32::try_from(info.ssi_signo).ok().and_then(|n| Signal::try_from(n).ok())
            else {
                continue;
            };
            match signal {
                Signal::SIGCHLD => {
                    if let Some(end) = self.children()? {
                        return Ok(end);
                    }
                }
                Signal::SIGTTOU => {}
                Signal::SIGTSTP if self.stopped && from_kernel(&info) => self.stop(signal),
                signal if self.passes_on(&info) => {
                    // The command may have ended just now; its SIGCHLD follows.
                    let _ = kill(self.child, signal);
                }
                _ => {}
            }
        }
    }

    /// Whether the command has not got this signal by itself.
    fn passes_on(&self, info: &siginfo) -> bool {
        if from_kernel(info) {
            self.child_group() != Some(self.group)
        } else {
            info.ssi_pid != self.child.as_raw() as u32
        }
    }

    /// What became of the command since the last look.
    fn children(&mut self) -> Result<Option<End>, CliError> {
        loop {
            let mut status = 0;
            let flags = libc::WNOHANG | libc::WUNTRACED | libc::WCONTINUED;
            // Not nix's wrapper: it knows no real-time signals.
            // SAFETY: `status` outlives the call.
            match unsafe { libc::waitpid(self.child.as_raw(), &mut status, flags) } {
                0 => return Ok(None),
                -1 if Errno::last() == Errno::EINTR => {}
                -1 => return Err(CliError::system("wait for the command")(Errno::last())),
                _ if libc::WIFEXITED(status) => {
                    return Ok(Some(End::Exited(libc::WEXITSTATUS(status) as u8)));
                }
                _ if libc::WIFSIGNALED(status) => return Ok(Some(End::Signaled(libc::WTERMSIG(status)))),
                _ if libc::WIFSTOPPED(status) => {
                    self.stopped = true;
                    if let Ok(signal) = Signal::try_from(libc::WSTOPSIG(status)) {
                        self.child_stopped(signal);
                    }
                }
                _ => self.stopped = false,
            }
        }
    }

    /// A stop by the terminal becomes ours as well, and the shell sees it. SIGSTOP does not: that is how the
    /// kernel holds a command, and no business of the shell's. A command that stops *itself* so can still be
    /// put into the background with ^Z, which then reaches only us.
    fn child_stopped(&mut self, signal: Signal) {
        if !matches!(signal, Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU) {
            return;
        }
        // It has a group of its own and wants the terminal that the shell has just given to ours.
        if signal != Signal::SIGTSTP
            && let Some(group) = self.child_group().filter(|g| *g != self.group)
            && self.foreground() == Some(self.group)
        {
            self.give_terminal(group);
            self.resume();
            return;
        }
        self.stop(signal);
    }

    /// Stops this process until the shell continues it, then continues the command.
    fn stop(&mut self, signal: Signal) {
        let group = self.child_group().filter(|g| *g != self.group);
        let had_terminal = group.filter(|g| self.foreground() == Some(*g));
        let only: SigSet = [signal].into_iter().collect();
        // Sent while blocked, so that it merges with one that is pending already: one stop, not two. It
        // arrives at the unblock. Where it does not stop us (nobody could continue an orphaned group), the
        // command must go on as well.
        let _ = default_action_raw(signal)
            .and_then(|before| kill(Pid::this(), signal).map(|()| before))
            .and_then(|before| sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&only), None).map(|()| before))
            .and_then(|before| sigprocmask(SigmaskHow::SIG_BLOCK, Some(&only), None).map(|()| before))
            // SAFETY: puts back what was there before.
            .and_then(|before| unsafe { sigaction(signal, &before) });
        if let Some(group) = had_terminal
            && self.foreground() == Some(self.group)
        {
            self.give_terminal(group);
        }
        self.resume();
    }

    fn resume(&mut self) {
        self.stopped = false;
        let _ = match self.child_group().filter(|g| *g != self.group) {
            Some(group) if group == self.child => killpg(group, Signal::SIGCONT),
            _ => kill(self.child, Signal::SIGCONT),
        };
    }

    fn child_group(&self) -> Option<Pid> {
        getpgid(Some(self.child)).ok()
    }

    fn foreground(&self) -> Option<Pid> {
        self.terminal.as_ref().and_then(|t| tcgetpgrp(t).ok())
    }

    fn give_terminal(&self, group: Pid) {
        if let Some(terminal) = &self.terminal {
            let _ = tcsetpgrp(terminal, group);
        }
    }
}

/// From the terminal, that is.
fn from_kernel(info: &siginfo) -> bool {
    info.ssi_code == libc::SI_KERNEL
}
