//! A full disk: what cannot be recorded is not done, and nothing that was done is lost.

use std::ffi::CString;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Case;
use crate::host::{Host, ME, file, policy};

pub const CASES: &[Case] = &[("a_full_disk_refuses_actions_and_loses_none", full)];

/// Two segments of 64 MiB and a little.
const SMALL: &str = "size=129m,mode=755";
/// Room for the segments that come after.
const LARGE: &str = "size=400m,mode=755";
/// Receipts that two segments hold at least: fewer, and it was not the segments that were full.
const HELD: f64 = 9_000.0;
/// Ends the agent.
const STOP: &str = "/tmp/full/stop";
const PATIENCE: Duration = Duration::from_secs(120);

fn mount(at: &Path, flags: libc::c_ulong, options: &str) -> Result<()> {
    let at = CString::new(at.as_os_str().as_encoded_bytes())?;
    let options = CString::new(options)?;
    // SAFETY: all strings end in NUL.
    let done = unsafe {
        libc::mount(c"tmpfs".as_ptr(), at.as_ptr(), c"tmpfs".as_ptr(), flags, options.as_ptr().cast())
    };
    ensure!(done == 0, "mount: {}", std::io::Error::last_os_error());
    Ok(())
}

/// A file whose receipts are the largest an open has: a long path of bytes that are percent-encoded.
fn expensive() -> Result<String> {
    let component = "\u{e9}".repeat(127);
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
    // Two minutes under emulation, and nothing in it depends on the kernel: on one of them.
    if !std::fs::read_to_string("/proc/sys/kernel/osrelease")?.starts_with("6.1.") {
        return Ok(());
    }
    let mut h = Host::prepare(&[("test.yaml", &policy(""))], "")?;
    let log = h.path("log");
    std::fs::create_dir(&log)?;
    mount(&log, 0, SMALL)?;
    let done = with_small_disk(&mut h, &log).with_context(|| h.log());
    let ended = if h.pid() != 0 { h.end(libc::SIGTERM).map(|_| ()) } else { Ok(()) };
    let at = CString::new(log.as_os_str().as_encoded_bytes())?;
    // SAFETY: a path that ends in NUL.
    unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH) };
    std::fs::remove_dir_all("/tmp/full")?;
    // What came first says more.
    done.and(ended)
}

fn with_small_disk(h: &mut Host, log: &Path) -> Result<()> {
    let path = expensive()?;
    h.launch()?;
    // Others fill what the log has not reserved: not even a checkpoint finds room.
    let mut ballast = std::fs::File::create(log.join("ballast"))?;
    while ballast.write_all(&[1; 4096]).is_ok() {}
    let mut agent = std::process::Command::new("/usr/local/bin/aarm")
        .args(["run", "--", ME, "actor", "press", &path, STOP])
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let began = Instant::now();
    until(h, "not ready", || Ok(h.http("/readyz")?.contains("503")))?;
    let mut last = (0.0, Instant::now());
    until(h, "both segments full", || {
        let receipts = h.metric("aarm_receipts_total")?;
        if receipts != last.0 {
            last = (receipts, Instant::now());
        }
        Ok(receipts >= HELD && last.1.elapsed() > Duration::from_secs(3))
    })?;
    println!("full after {:?} with {} receipts", began.elapsed(), last.0);
    ensure!(h.http("/healthz")?.contains("200"), "alive, though not ready");
    // The agent ends while nothing can be written.
    std::fs::write(STOP, "")?;
    let mut out = String::new();
    std::io::Read::read_to_string(agent.stdout.as_mut().context("piped above")?, &mut out)?;
    let words: Vec<&str> = out.split_whitespace().collect();
    let ["opened", opened, "refused", refused] = words[..] else {
        bail!("the agent did not come to its end: {out}\n{}", h.log());
    };
    let (opened, refused): (usize, u64) = (opened.parse()?, refused.parse()?);
    ensure!(refused > 0, "nothing was refused: {out}\n{}", h.log());
    ensure!(h.http("/readyz")?.contains("503"), "ready again before there is room");
    mount(log, libc::MS_REMOUNT, LARGE)?;
    until(h, "ready again", || Ok(h.http("/readyz")?.contains(" 200 ")))?;
    agent.wait()?;
    until(h, "the session's end", || {
        // Only the last: all of them are more than a hundred megabytes.
        Ok(h.receipts(&["--limit", "20"])?.iter().any(|r| r["kind"] == "session_close"))
    })?;
    let recorded = h
        .receipts(&["--operation", "open_read"])?
        .iter()
        .filter(|r| r["action"]["path"].as_str().is_some_and(|p| p.starts_with("/tmp/full/%")))
        .count();
    ensure!(recorded == opened, "{recorded} receipts of {opened} opens\n{}", h.log());
    ensure!(h.metric("aarm_events_lost_total")? == 0.0, "events were lost");
    h.act(&["read", "/etc/passwd"])?.allowed("open_read", "/etc/passwd")?;
    h.verified()
}
