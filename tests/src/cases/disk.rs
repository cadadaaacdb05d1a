//! A full disk: what cannot be recorded is not done, and nothing that was done is lost.

use std::collections::HashSet;
use std::ffi::CString;
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Case;
use crate::host::{Host, ME, file, policy};

pub const CASES: &[Case] = &[("a_full_disk_refuses_actions_and_loses_none", full)];

/// The disk: log and state, as by default, on one. Two segments of one mebibyte and a little.
const DISK: &str = "/tmp/full/disk";
const SETTINGS: &str = "receipts: { segment_mib: 1 }\n";
const SMALL: &str = "size=3m,mode=755";
/// Room for some more segments, but not for all that the ring holds.
const LARGER: &str = "size=9m,mode=755";
/// Room for everything.
const LARGE: &str = "size=100m,mode=755";
/// Receipts that two segments hold at least: fewer, and it was not the segments that were full.
const HELD: f64 = 350.0;
/// Bytes in the ring above which actions are refused; the rest is for what cannot be.
const RING: f64 = (12 << 20) as f64;
/// Ends the agent.
const STOP: &str = "/tmp/full/stop";
/// Shows that a command was run.
const MARK: &str = "/tmp/full/mark";
const PATIENCE: Duration = Duration::from_secs(60);
/// In which the daemon ends though it cannot write.
const ENDS: Duration = Duration::from_secs(12);

fn mount(
    kind: Option<&std::ffi::CStr>,
    from: &Path,
    at: &Path,
    flags: libc::c_ulong,
    options: &str,
) -> Result<()> {
    let from = CString::new(from.as_os_str().as_encoded_bytes())?;
    let at = CString::new(at.as_os_str().as_encoded_bytes())?;
    let options = CString::new(options)?;
    let kind = kind.map_or(std::ptr::null(), std::ffi::CStr::as_ptr);
    // SAFETY: all strings end in NUL.
    let done = unsafe { libc::mount(from.as_ptr(), at.as_ptr(), kind, flags, options.as_ptr().cast()) };
    ensure!(done == 0, "mount: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Makes the disk, or gives it another size.
fn disk(flags: libc::c_ulong, options: &str) -> Result<()> {
    mount(Some(c"tmpfs"), Path::new("tmpfs"), Path::new(DISK), flags, options)
}

/// A file whose events are the largest an open has, so that few of them fill the ring.
fn expensive() -> Result<String> {
    let component = "a".repeat(250);
    let path = format!("/tmp/full{}/f", format!("/{component}").repeat(15));
    file(&path, "x")?;
    Ok(path)
}

fn until(h: &Host, what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds()? {
        ensure!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}\n{}", h.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn full() -> Result<()> {
    // A minute under emulation, and nothing in it depends on the kernel: on one of them.
    if !std::fs::read_to_string("/proc/sys/kernel/osrelease")?.starts_with("6.1.") {
        return Ok(());
    }
    let mut h = Host::prepare(&[("test.yaml", &policy(""))], SETTINGS)?;
    std::fs::create_dir_all(DISK)?;
    disk(0, SMALL)?;
    for name in ["log", "state"] {
        let on_disk = Path::new(DISK).join(name);
        std::fs::create_dir(&on_disk)?;
        std::fs::create_dir(h.path(name))?;
        mount(None, &on_disk, &h.path(name), libc::MS_BIND, "")?;
    }
    let done = with_small_disk(&mut h).with_context(|| h.log());
    let ended = if h.pid() != 0 { h.end(libc::SIGTERM).map(|_| ()) } else { Ok(()) };
    for at in [&h.path("log"), &h.path("state"), Path::new(DISK)] {
        let at = CString::new(at.as_os_str().as_encoded_bytes())?;
        // SAFETY: a path that ends in NUL.
        unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH) };
    }
    std::fs::remove_dir_all("/tmp/full")?;
    // What came first says more.
    done.and(ended)
}

/// Waits until the log takes nothing any more, though it took this many.
fn stuck(h: &Host, at_least: f64) -> Result<f64> {
    let mut last = (0.0, Instant::now());
    until(h, "the log is full", || {
        let receipts = h.metric("aarm_receipts_total")?;
        if receipts != last.0 {
            last = (receipts, Instant::now());
        }
        Ok(receipts >= at_least && last.1.elapsed() > Duration::from_secs(2))
    })?;
    Ok(last.0)
}

fn with_small_disk(h: &mut Host) -> Result<()> {
    let path = expensive()?;
    h.launch()?;
    // Others fill what the log has not reserved: not even a checkpoint finds room.
    let mut ballast = std::fs::File::create(Path::new(DISK).join("ballast"))?;
    while ballast.write_all(&[1; 4096]).is_ok() {}
    let mut agent = std::process::Command::new("/usr/local/bin/aarm")
        .args(["run", "--", ME, "actor", "press", &path, STOP])
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let began = Instant::now();
    until(h, "not ready", || Ok(h.http("/readyz")?.contains("503")))?;
    let first = stuck(h, HELD)?;
    println!("full after {:?} with {first} receipts", began.elapsed());
    answers(h)?;
    // With room the daemon goes on by itself, until the disk is full again.
    disk(libc::MS_REMOUNT, LARGER)?;
    let second = stuck(h, first + HELD)?;
    println!("full again after {:?} with {second} receipts", began.elapsed());
    until(h, "the ring is full", || Ok(h.metric("aarm_ring_fill_bytes")? >= RING))?;
    answers(h)?;
    ends(h)?;
    println!("ended after {:?}", began.elapsed());
    // The agent ends while there is neither a daemon nor room.
    std::fs::write(STOP, "")?;
    let mut out = String::new();
    agent.stdout.as_mut().context("piped above")?.read_to_string(&mut out)?;
    agent.wait()?;
    println!("the agent ended after {:?}", began.elapsed());
    let words: Vec<&str> = out.split_whitespace().collect();
    let ["opened", opened, "refused", refused] = words[..] else {
        bail!("the agent did not come to its end: {out}\n{}", h.log());
    };
    let (opened, refused): (usize, u64) = (opened.parse()?, refused.parse()?);
    ensure!(refused > 0, "nothing was refused: {out}\n{}", h.log());
    disk(libc::MS_REMOUNT, LARGE)?;
    h.launch()?;
    until(h, "ready again", || Ok(h.http("/readyz")?.contains(" 200 ")))?;
    until(h, "the session's end", || {
        // Only the last: all of them are tens of megabytes.
        Ok(h.receipts(&["--limit", "20"])?.iter().any(|r| r["kind"] == "session_close"))
    })?;
    println!("all written after {:?}", began.elapsed());
    told(&h.receipts(&[])?, opened)?;
    println!("all read after {:?}", began.elapsed());
    ensure!(h.metric("aarm_events_lost_total")? == 0.0, "events were lost");
    h.act(&["read", "/etc/passwd"])?.allowed("open_read", "/etc/passwd")?;
    // What was refused last is declared once a later event shows that it is missing.
    until(h, "the log verifies", || Ok(h.verify()?.status.success())).and_then(|()| h.verified())?;
    println!("all recorded after {:?}: {opened} opened, {refused} refused", began.elapsed());
    Ok(())
}

/// While the disk is full the daemon answers, and begins nothing that it could not record.
fn answers(h: &Host) -> Result<()> {
    ensure!(h.http("/healthz")?.contains(" 200 "), "alive, though not ready");
    ensure!(h.http("/readyz")?.contains("503"), "ready without room");
    let status = h.aarm(&["status"])?;
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    ensure!(text.contains("no room for receipts"), "{text}");
    let sessions = h.aarm(&["sessions", "--json"])?;
    let text = String::from_utf8_lossy(&sessions.stdout).into_owned();
    ensure!(sessions.status.success() && text.contains("uuid"), "{text}");
    let run = h.aarm(&["run", "--", "/bin/sh", "-c", &format!("echo > {MARK}")])?;
    let text = String::from_utf8_lossy(&run.stderr).into_owned();
    ensure!(run.status.code() == Some(125), "{:?}: {text}", run.status);
    ensure!(text.contains("has no room") && text.contains("make room"), "{text}");
    ensure!(!Path::new(MARK).exists(), "run without a receipt");
    let reload = h.aarm(&["policy", "reload"])?;
    let text = String::from_utf8_lossy(&reload.stderr).into_owned();
    ensure!(!reload.status.success() && text.contains("has no room"), "{text}");
    Ok(())
}

/// Told to stop while the disk is full, the daemon ends by itself and says what is the matter.
fn ends(h: &mut Host) -> Result<()> {
    let began = Instant::now();
    let status = h.end(libc::SIGTERM)?;
    ensure!(began.elapsed() < ENDS, "ended after {:?} only\n{}", began.elapsed(), h.log());
    ensure!(status.code().is_some_and(|c| c != 0), "{status} though not all is recorded\n{}", h.log());
    ensure!(h.log().contains("Nothing is lost"), "{}", h.log());
    Ok(())
}

/// Two daemons, one log: everything is told, and once.
fn told(receipts: &[Value], opened: usize) -> Result<()> {
    // Another case may have left a session that nobody told of yet.
    let recovered = receipts.iter().filter(|r| r["detail"]["how"] == "recovered");
    let left: HashSet<&str> = recovered.filter_map(|r| r["session"]["id"].as_str()).collect();
    let own = || receipts.iter().filter(|r| r["session"]["id"].as_str().is_none_or(|id| !left.contains(id)));
    let of_kind = |kind: &str| own().filter(|r| r["kind"] == kind).collect::<Vec<_>>();
    // The second one finds the policy in its place.
    for (kind, times) in [("start", 2), ("stop", 1), ("policy", 1), ("session_open", 1), ("session_close", 1)]
    {
        let found = of_kind(kind);
        ensure!(found.len() == times, "{} of {kind}, not {times}: {found:?}", found.len());
    }
    let (open, close) = (of_kind("session_open")[0], of_kind("session_close")[0]);
    let session = &open["session"];
    ensure!(close["session"] == *session, "the session was forgotten: {close}");
    let allowed: Vec<_> =
        of_kind("action").into_iter().filter(|r| r["decision"]["result"] == "ALLOW").collect();
    ensure!(allowed.iter().all(|r| r["session"] == *session), "actions of nobody");
    let pressed = allowed
        .iter()
        .filter(|r| r["action"]["path"].as_str().is_some_and(|p| p.starts_with("/tmp/full/a")))
        .count();
    ensure!(pressed == opened, "{pressed} receipts of {opened} opens");
    ensure!(
        close["detail"]["allowed"] == allowed.len(),
        "{} allowed, but {} recorded",
        close["detail"]["allowed"],
        allowed.len()
    );
    Ok(())
}
