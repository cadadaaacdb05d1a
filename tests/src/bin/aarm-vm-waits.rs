//! Counts what the daemon's decisions cost, against a pipe between two processes that hand one byte back and forth, in one boot: each after a pause,
//! as somebody meets it who waits for one, and one after the other, where each also waits for what the one before has left to do (receipts,
//! signatures, the disk).
//!
//! Runs in a VM whose clock is the instruction counter and whose one processor does it all (`cargo xtask bench waits`): a figure is the
//! work of everybody on the way, the daemon's included. Each is the median of many.

use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

const AARM: &str = "/usr/local/bin/aarm";
const DIR: &str = "/tmp/aarm-waits";
/// Of each kind.
const TIMES: usize = 24;
/// Before each, that is measured alone.
const PAUSE: Duration = Duration::from_millis(15);
/// How it is measured: each after a pause, or one after the other.
const WAYS: [(&str, Duration); 2] = [("alone", PAUSE), ("in_a_row", Duration::ZERO)];
/// So much a wait may take, in round trips of the pipe: where the program looks for its answer, and where it stops.
const LIMITS: [(&str, f64); 2] = [("spin", 3.0), ("stop", 8.0)];

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

/// Instructions that something takes, after a pause: the median.
fn median(pause: Duration, mut body: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..TIMES + TIMES / 4)
        .map(|_| {
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
            let began = Instant::now();
            body();
            began.elapsed().as_nanos() as f64
        })
        .skip(TIMES / 4)
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
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

/// One byte to another process and back.
fn ping(pause: Duration) -> Result<f64> {
    let ((mut ours_read, theirs_write), (theirs_read, mut ours_write)) = (pipe()?, pipe()?);
    // SAFETY: the child only copies bytes, and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let (mut read, mut write) = (theirs_read, theirs_write);
        drop((ours_read, ours_write));
        let mut byte = [0u8; 1];
        while read.read(&mut byte).is_ok_and(|n| n == 1) && write.write_all(&byte).is_ok() {}
        // SAFETY: ends this process.
        unsafe { libc::_exit(0) };
    }
    drop((theirs_read, theirs_write));
    let mut byte = [0u8; 1];
    let time = median(pause, || {
        let _ = ours_write.write_all(&byte).and_then(|()| ours_read.read_exact(&mut byte));
    });
    drop(ours_write);
    // SAFETY: our own child, which has seen the end of its pipe.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    Ok(time)
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
fn measure(pause: Duration) -> Result<Value> {
    let ping = ping(pause)?;
    let plain = median(pause, || run(c"/tmp/aarm-waits/plain"));
    let lined = median(pause, || run(c"/tmp/aarm-waits/lined"));
    // Somebody waits already, so that whatever comes is refused.
    // SAFETY: the child only connects, and ends.
    let waiter = unsafe { libc::fork() };
    if waiter == 0 {
        connect(1);
        // SAFETY: ends this process.
        unsafe { libc::_exit(0) };
    }
    std::thread::sleep(Duration::from_millis(500));
    let mut errors = Vec::new();
    let mut free_errors = Vec::new();
    let free = median(pause, || free_errors.push(connect(3)));
    let held = median(pause, || errors.push(connect(2)));
    // SAFETY: our own child.
    unsafe {
        libc::kill(waiter, libc::SIGKILL);
        libc::waitpid(waiter, std::ptr::null_mut(), 0);
    }
    ensure!(errors.iter().all(|e| *e == libc::EPERM), "not all were refused: {errors:?}");
    ensure!(free_errors.iter().all(|e| *e == 0), "not all were free: {free_errors:?}");
    Ok(json!({ "ping": ping, "spin": lined - plain, "stop": held - free, "exec": plain, "connect": free }))
}

fn start() -> Result<Child> {
    std::fs::create_dir_all(format!("{DIR}/policies"))?;
    std::fs::write(format!("{DIR}/policies/waits.yaml"), POLICY)?;
    for name in ["plain", "lined"] {
        std::fs::copy("/bin/busybox", format!("{DIR}/{name}"))?;
    }
    aarm_vm_tests::measured::daemon(std::path::Path::new(DIR))
}

/// Instructions from the kernel's asking to the daemon's decision, by its method, as the receipts have it: the median.
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
    if std::env::args().nth(1).as_deref() == Some("measure") {
        let all = WAYS.iter().map(|(way, pause)| Ok(((*way).to_owned(), measure(*pause)?)));
        println!("{}", Value::Object(all.collect::<Result<_>>()?));
        return Ok(());
    }
    let mut daemon = start()?;
    let me = std::env::current_exe()?;
    let out = Command::new(AARM).args(["run", "--policy", "waits", "--"]).arg(me).arg("measure").output()?;
    let decided = decided();
    // SAFETY: the daemon is our own.
    unsafe { libc::kill(daemon.id() as i32, libc::SIGTERM) };
    daemon.wait()?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{}: {said}", out.status);
    let mut figures: Value = serde_json::from_slice(&out.stdout).context("no figures")?;
    figures["decided"] = decided?;
    if std::env::args().any(|a| a == "--json") {
        println!("{figures}");
        return Ok(());
    }
    println!("{:<34}{:>12}{:>12}{:>10}", "instructions (median)", "measured", "pipes", "limit");
    for (way, _) in WAYS {
        let of = |name: &str| figures[way][name].as_f64().unwrap_or(f64::NAN);
        println!("{:<34}{:>12.1}", format!("{way}: pipe, there and back"), of("ping"));
        for (name, limit) in LIMITS {
            let ratio = of(name) / of("ping");
            let met = if ratio <= limit { "met" } else { "NOT MET" };
            println!("{:<34}{:>12.1}{ratio:>12.1}{limit:>10}  {met}", format!("{way}: {name}"), of(name));
        }
    }
    println!("decided after, by method: {}", figures["decided"]);
    Ok(())
}
