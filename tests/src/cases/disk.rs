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
/// Opens in all: more than the two segments and the ring hold.
const OPENS: u64 = 16_000;
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
    let mut h = Host::prepare(&[("test.yaml", &policy(""))], "")?;
    let log = h.path("log");
    std::fs::create_dir(&log)?;
    mount(&log, 0, SMALL)?;
    let done = with_small_disk(&mut h, &log).with_context(|| h.log());
    if h.pid() != 0 {
        h.end(libc::SIGTERM)?;
    }
    let at = CString::new(log.as_os_str().as_encoded_bytes())?;
    // SAFETY: a path that ends in NUL.
    unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH) };
    std::fs::remove_dir_all("/tmp/full")?;
    done
}

fn with_small_disk(h: &mut Host, log: &Path) -> Result<()> {
    let path = expensive()?;
    h.launch()?;
    // Others fill what the log has not reserved: not even a checkpoint finds room.
    let mut ballast = std::fs::File::create(log.join("ballast"))?;
    while ballast.write_all(&[1; 4096]).is_ok() {}
    let mut agent = std::process::Command::new("/usr/local/bin/aarm")
        .args(["run", "--", "/bin/sh", "-c"])
        .arg(format!("{ME} actor flood {path} {OPENS}; echo status $?"))
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let began = Instant::now();
    until(h, "not ready", || Ok(h.http("/readyz")?.contains("503")))?;
    ensure!(h.http("/healthz")?.contains("200"), "alive, though not ready");
    // The session ends by itself, refused, while nothing can be written.
    let mut out = String::new();
    std::io::Read::read_to_string(agent.stdout.as_mut().context("piped above")?, &mut out)?;
    let refused: u64 = match out.lines().find_map(|l| l.strip_prefix("refused ")) {
        Some(n) => n.parse()?,
        None => bail!("the agent did not come to its end: {out}\n{}", h.log()),
    };
    println!("{refused} of {OPENS} refused after {:?}", began.elapsed());
    ensure!(refused > 0, "nothing was refused: {out}\n{}", h.log());
    ensure!(h.http("/readyz")?.contains("503"), "ready again before there is room");
    mount(log, libc::MS_REMOUNT, LARGE)?;
    until(h, "ready again", || Ok(h.http("/readyz")?.contains(" 200 ")))?;
    agent.wait()?;
    until(h, "the session's end", || {
        // Only the last: all of them are more than a hundred megabytes.
        Ok(h.receipts(&["--limit", "20"])?.iter().any(|r| r["kind"] == "session_close"))
    })?;
    let opened = h
        .receipts(&["--operation", "open_read"])?
        .iter()
        .filter(|r| r["action"]["path"].as_str().is_some_and(|p| p.starts_with("/tmp/full/")))
        .count() as u64;
    println!("{opened} receipts after {:?}", began.elapsed());
    ensure!(opened == OPENS - refused, "{opened} receipts, {refused} of {OPENS} refused\n{}", h.log());
    ensure!(h.metric("aarm_events_lost_total")? == 0.0, "events were lost");
    h.act(&["read", "/etc/passwd"])?.allowed("open_read", "/etc/passwd")?;
    h.verified()
}
