//! A terminal, and somebody who types at it and reads what it shows.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

/// How long somebody looks at it for what should appear.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command with a terminal of its own.
pub struct Terminal {
    child: Child,
    keys: File,
    shown: Arc<Mutex<String>>,
    /// How much of it was read.
    read: usize,
}

impl Terminal {
    /// Starts a command as the leader of a new session with a terminal. The terminal does not echo: what it shows was written by
    /// programs.
    pub fn start(command: &mut Command) -> Result<Self> {
        let (mut ours, mut its) = (-1, -1);
        let none = std::ptr::null_mut();
        // SAFETY: two valid places; the rest may be null.
        let opened = unsafe { libc::openpty(&mut ours, &mut its, none, std::ptr::null(), std::ptr::null()) };
        ensure!(opened == 0, "no terminal: {}", std::io::Error::last_os_error());
        // SAFETY: just opened, and nobody else's.
        let (ours, its) = unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(its)) };
        // SAFETY: a valid descriptor and structure; our own end is not for the command.
        unsafe {
            let mut mode = std::mem::zeroed();
            libc::tcgetattr(its.as_raw_fd(), &mut mode);
            mode.c_lflag &= !libc::ECHO;
            libc::tcsetattr(its.as_raw_fd(), libc::TCSANOW, &mode);
            libc::fcntl(ours.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC);
        }
        command.env("TERM", "dumb").stdin(Stdio::from(its.try_clone()?));
        command.stdout(Stdio::from(its.try_clone()?)).stderr(Stdio::from(its));
        // SAFETY: system calls only.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                Ok(())
            });
        }
        let child = command.spawn()?;
        // It has our copies of its end otherwise, and what it shows would never end.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut screen, all) = (File::from(ours.try_clone()?), shown.clone());
        std::thread::spawn(move || {
            let mut some = [0; 4096];
            // An error is how it tells that nobody has the other end any more.
            while let Ok(n @ 1..) = screen.read(&mut some) {
                let text = String::from_utf8_lossy(&some[..n]).replace('\r', "");
                all.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            }
        });
        Ok(Self { child, keys: File::from(ours), shown, read: 0 })
    }

    /// Types.
    pub fn types(&mut self, keys: &str) -> Result<()> {
        Ok(self.keys.write_all(keys.as_bytes())?)
    }

    /// Waits until it shows a text after what was read so far, and reads up to there.
    pub fn shows(&mut self, text: &str) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let all = self.all();
            let new = &all[self.read..];
            if let Some(at) = new.find(text) {
                let end = at + text.len();
                self.read += end;
                return Ok(new[..end].to_owned());
            }
            ensure!(Instant::now() < deadline, "it does not show {text:?}:\n{all}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// All that it has shown.
    pub fn all(&self) -> String {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the command's end.
    pub fn ends(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("it does not end:\n{}", self.all())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
