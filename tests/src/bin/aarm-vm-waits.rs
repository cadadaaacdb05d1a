//! What the daemon's decisions cost, against a pipe between two processes that hand one byte back and forth, in one boot: each after a pause,
//! as somebody meets it who waits for one, and one after the other, where each also waits for what the one before has left to do (receipts,
//! signatures, the disk). Each figure is the median of many, and all of them are measured in turns.
//!
//! `cargo xtask bench waits` runs it in two VMs. `aarm-vm-waits stop`: the clock is the instruction counter and one processor does it all; a
//! figure is the work of everybody on the way, the daemon's included, and whoever waits is stopped, because nobody would decide while he
//! looked. `aarm-vm-waits spin`: two processors and the time that it takes; whoever waits looks for the answer, for as long as settings
//! allow at most, because an emulated machine takes that much longer for everything.

use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

const AARM: &str = "/usr/local/bin/aarm";
const DIR: &str = "/tmp/aarm-waits";
/// Of each kind, counted.
const TIMES: usize = 24;
/// Of each kind, timed: others use the machine as well.
const TIMES_TIMED: usize = 200;
/// Before each, that is measured alone.
const PAUSE: Duration = Duration::from_millis(15);
/// How it is measured: each after a pause, or one after the other.
const WAYS: [(&str, Duration); 2] = [("alone", PAUSE), ("in_a_row", Duration::ZERO)];
/// What waits: a call that the daemon refuses by its rules, a program that it decides by its words.
const WAITS: [&str; 2] = ["call", "program"];
/// So much a call may wait, in round trips of the pipe: where it looks for its answer, and where it stops.
const LIMITS: [(&str, f64); 2] = [("spin", 3.0), ("stop", 8.0)];
/// Settings for who looks.
const LOOKS: &str = "holds: { spin_us: 10000 }\n";

/// Of one session at most one action is deferred: what comes then is refused by the daemon, without anybody being asked.
const POLICY: &str = "apiVersion: aarm.dev/v1alpha1
kind: AgentPolicy
metadata: { name: waits, version: '1' }
spec:
  mode: enforce
  defaults: { exec: ALLOW, read: ALLOW, write: ALLOW, network: ALLOW }
  hold: { cascade: 1, defer_timeout: 1h }
  rules:
    - { id: words, match: { operation: exec, exe: '/tmp/aarm-waits/lined', args: ['true'] }, decision: ALLOW }
    - { id: asks, match: { operation: connect, port: [1, 2] }, decision: DEFER }
";

/// What each of them takes, in instructions or nanoseconds, after a pause: the median.
fn medians<const N: usize>(times: usize, pause: Duration, mut bodies: [&mut dyn FnMut(); N]) -> [f64; N] {
    let mut all: [Vec<f64>; N] = std::array::from_fn(|_| Vec::with_capacity(times));
    let warm = times / 4;
    for round in 0..warm + times {
        for (body, all) in bodies.iter_mut().zip(&mut all) {
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
            let began = Instant::now();
            body();
            if round >= warm {
                all.push(began.elapsed().as_nanos() as f64);
            }
        }
    }
    all.map(|mut all| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    })
}

fn pipe() -> Result<(std::fs::File, std::fs::File)> {
    let mut ends = [0; 2];
    // SAFETY: two numbers; the descriptors are new and nobody else's.
    unsafe {
        ensure!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) == 0);
        let [read, write] = ends.map(|fd| std::fs::File::from(OwnedFd::from_raw_fd(fd)));
        Ok((read, write))
    }
}

/// Another process, which hands back what it gets.
struct Pong {
    read: std::fs::File,
    write: std::fs::File,
    child: libc::pid_t,
}

impl Pong {
    fn start() -> Result<Self> {
        let ((read, theirs_write), (theirs_read, write)) = (pipe()?, pipe()?);
        // SAFETY: the child only copies bytes, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let (mut from, mut to) = (theirs_read, theirs_write);
            drop((read, write));
            let mut byte = [0u8; 1];
            while from.read(&mut byte).is_ok_and(|n| n == 1) && to.write_all(&byte).is_ok() {}
            // SAFETY: ends this process.
            unsafe { libc::_exit(0) };
        }
        ensure!(child > 0, "fork: {}", std::io::Error::last_os_error());
        Ok(Self { read, write, child })
    }

    /// One byte there and back.
    fn ping(&mut self) {
        let mut byte = [0u8; 1];
        let _ = self.write.write_all(&byte).and_then(|()| self.read.read_exact(&mut byte));
    }

    fn end(self) {
        drop(self.write);
        // SAFETY: our own child, which has seen the end of its pipe.
        unsafe { libc::waitpid(self.child, std::ptr::null_mut(), 0) };
    }
}

fn run(program: &std::ffi::CStr) {
    let argv = [c"busybox".as_ptr(), c"true".as_ptr(), std::ptr::null()];
    // SAFETY: the child only executes or exits; the array ends in NULL.
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            libc::execv(program.as_ptr(), argv.as_ptr());
            libc::_exit(1);
        }
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
}

/// Connects a datagram socket, which sends nothing; the error.
fn connect(port: u16) -> i32 {
    // SAFETY: an all-zero address is valid; the socket is our own.
    unsafe {
        let s = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
        let mut a: libc::sockaddr_in = std::mem::zeroed();
        a.sin_family = libc::AF_INET as u16;
        a.sin_port = port.to_be();
        a.sin_addr.s_addr = u32::from(std::net::Ipv4Addr::LOCALHOST).to_be();
        let failed = libc::connect(s, (&raw const a).cast(), size_of::<libc::sockaddr_in>() as u32) != 0;
        let error = if failed { std::io::Error::last_os_error().raw_os_error().unwrap_or(-1) } else { 0 };
        libc::close(s);
        error
    }
}

/// Inside the session.
fn measure(times: usize, pause: Duration) -> Result<Value> {
    let mut pong = Pong::start()?;
    let (mut errors, mut free_errors) = (Vec::new(), Vec::new());
    let [ping, free, held, plain, lined] = medians(
        times,
        pause,
        [
            &mut || pong.ping(),
            &mut || free_errors.push(connect(3)),
            &mut || errors.push(connect(2)),
            &mut || run(c"/tmp/aarm-waits/plain"),
            &mut || run(c"/tmp/aarm-waits/lined"),
        ],
    );
    pong.end();
    ensure!(errors.iter().all(|e| *e == libc::EPERM), "not all were refused: {errors:?}");
    ensure!(free_errors.iter().all(|e| *e == 0), "not all were free: {free_errors:?}");
    Ok(json!({ "ping": ping, "call": held - free, "program": lined - plain, "exec": plain, "connect": free }))
}

fn start(settings: &str) -> Result<Child> {
    std::fs::create_dir_all(format!("{DIR}/policies"))?;
    std::fs::write(format!("{DIR}/policies/waits.yaml"), POLICY)?;
    for name in ["plain", "lined"] {
        std::fs::copy("/bin/busybox", format!("{DIR}/{name}"))?;
    }
    aarm_vm_tests::measured::daemon(std::path::Path::new(DIR), settings)
}

/// Instructions or nanoseconds from the kernel's asking to the daemon's decision, by its method, as the receipts have it: the median.
fn decided() -> Result<Value> {
    let out = Command::new(AARM).args(["receipts", "--json"]).output()?;
    let mut waited = std::collections::BTreeMap::<String, Vec<u64>>::new();
    for line in out.stdout.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        let receipt = serde_json::from_slice::<Value>(line)?["receipt"].take();
        let detail = &receipt["detail"];
        if let (Some(method), Some(ns)) = (detail["method"].as_str(), detail["waited_ns"].as_u64()) {
            waited.entry(method.to_owned()).or_default().push(ns);
        }
    }
    let median = |mut all: Vec<u64>| {
        all.sort_unstable();
        all[all.len() / 2] as f64
    };
    Ok(waited.into_iter().map(|(method, all)| (method, json!(median(all)))).collect())
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mode = args.iter().map(String::as_str).find(|a| LIMITS.iter().any(|(mode, _)| mode == a));
    let (mode, limit) = *LIMITS.iter().find(|(m, _)| Some(*m) == mode).context("which: spin or stop?")?;
    let times = if mode == "spin" { TIMES_TIMED } else { TIMES };
    if args.iter().any(|a| a == "measure") {
        // Somebody waits already, so that whatever comes is refused. For all of it: who is gone is noticed late.
        // SAFETY: the child only connects, and ends.
        let waiter = unsafe { libc::fork() };
        if waiter == 0 {
            connect(1);
            // SAFETY: ends this process.
            unsafe { libc::_exit(0) };
        }
        ensure!(waiter > 0, "fork: {}", std::io::Error::last_os_error());
        std::thread::sleep(Duration::from_millis(500));
        let all = WAYS.iter().map(|(way, pause)| Ok(((*way).to_owned(), measure(times, *pause)?)));
        let all = all.collect::<Result<_>>();
        // SAFETY: our own child.
        unsafe {
            libc::kill(waiter, libc::SIGKILL);
            libc::waitpid(waiter, std::ptr::null_mut(), 0);
        }
        println!("{}", Value::Object(all?));
        return Ok(());
    }
    let mut daemon = start(if mode == "spin" { LOOKS } else { "" })?;
    let me = std::env::current_exe()?;
    let out = Command::new(AARM)
        .args(["run", "--policy", "waits", "--"])
        .arg(me)
        .args([mode, "measure"])
        .output()?;
    let decided = decided();
    // SAFETY: the daemon is our own.
    unsafe { libc::kill(daemon.id() as i32, libc::SIGTERM) };
    daemon.wait()?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{}: {said}", out.status);
    let mut figures: Value = serde_json::from_slice(&out.stdout).context("no figures")?;
    figures["mode"] = json!(mode);
    figures["decided"] = decided?;
    if args.iter().any(|a| a == "--json") {
        println!("{figures}");
        return Ok(());
    }
    let unit = if mode == "spin" { "it looks: ns (median)" } else { "it stops: instructions (median)" };
    println!("{unit:<38}{:>12}{:>12}{:>10}", "measured", "pipes", "limit");
    for (way, _) in WAYS {
        let of = |name: &str| figures[way][name].as_f64().unwrap_or(f64::NAN);
        println!("{:<38}{:>12.0}", format!("{way}: pipe, there and back"), of("ping"));
        for what in WAITS {
            let ratio = of(what) / of("ping");
            let met = if ratio <= limit { "met" } else { "NOT MET" };
            println!("{:<38}{:>12.0}{ratio:>12.1}{limit:>10}  {met}", format!("{way}: {what}"), of(what));
        }
    }
    println!("decided after, by method: {}", figures["decided"]);
    Ok(())
}
