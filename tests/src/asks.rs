//! What waits for an answer, and answering it, as people do.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::host::{Attempt, Host};

/// How long somebody waits to be asked.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long something may take that is asked about again and again.
const LONG: Duration = Duration::from_secs(240);

/// All that waits.
pub fn waiting(h: &Host) -> Result<Vec<Value>> {
    let out = h.aarm(&["approvals", "--json"])?;
    ensure!(out.status.success(), "{out:?}");
    let list: Value = serde_json::from_slice(&out.stdout)?;
    Ok(list["approvals"].as_array().context("no list")?.clone())
}

/// The first that waits, and is as asked for.
pub fn next_that(h: &Host, is: impl Fn(&Value) -> bool) -> Result<Value> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(found) = waiting(h)?.into_iter().find(&is) {
            return Ok(found);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("nothing waits")
}

/// The first that waits.
pub fn next(h: &Host) -> Result<Value> {
    next_that(h, |_| true)
}

/// All that is known of it.
pub fn shown(h: &Host, asked: &Value) -> Result<Value> {
    let out = h.aarm(&["approvals", "show", "--json", id(asked)?])?;
    ensure!(out.status.success(), "{out:?}");
    Ok(serde_json::from_slice(&out.stdout)?)
}

/// Its name.
pub fn id(asked: &Value) -> Result<&str> {
    asked["id"].as_str().with_context(|| format!("no name: {asked}"))
}

/// Answers: `approve` or `deny`, the name, and more.
pub fn answer(h: &Host, words: &[&str]) -> Result<()> {
    let out = h.aarm(&[&["approvals"], words].concat())?;
    ensure!(out.status.success(), "{out:?}");
    Ok(())
}

/// Runs a command, and something else while it waits. Should that fail, nothing is left waiting, which would keep us.
pub fn while_it_waits(
    h: &Host,
    command: &[&str],
    then: impl FnOnce(&Value) -> Result<()>,
) -> Result<Attempt> {
    std::thread::scope(|scope| {
        let attempt = scope.spawn(|| h.run(&[], command));
        let done = next(h).and_then(|asked| then(&asked));
        if done.is_err() {
            for asked in waiting(h)? {
                let _ = answer(h, &["deny", id(&asked)?]);
            }
        }
        let attempt = attempt.join().map_err(|_| anyhow::anyhow!("the attempt panicked"))??;
        done.with_context(|| attempt.tell())?;
        Ok(attempt)
    })
}

/// Runs a command while somebody approves whatever waits, each when it has been seen to wait for so long.
pub fn approved(h: &Host, after: Duration, command: &[&str]) -> Result<Attempt> {
    std::thread::scope(|scope| {
        let attempt = scope.spawn(|| h.run(&[], command));
        let done = approve_until(h, after, || attempt.is_finished());
        if done.is_err() {
            kill_sessions();
        }
        let attempt = attempt.join().map_err(|_| anyhow::anyhow!("the attempt panicked"))??;
        done.with_context(|| attempt.tell())?;
        Ok(attempt)
    })
}

/// Approves whatever waits, each when it has been seen to wait for so long, until something is done.
pub fn approve_until(h: &Host, after: Duration, done: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + LONG;
    let mut seen: HashMap<String, Instant> = HashMap::new();
    while !done() {
        let all = waiting(h)?;
        ensure!(Instant::now() < deadline, "no end after {LONG:?}; waiting: {all:?}");
        for asked in all {
            let since = *seen.entry(asked["request"].to_string()).or_insert_with(Instant::now);
            if since.elapsed() >= after {
                // It may have gone on, or ended, in between.
                let _ = answer(h, &["approve", id(&asked)?]);
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Kills whatever still runs in any session: it would keep us.
pub fn kill_sessions() {
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let variables = std::fs::read(process.path().join("environ")).unwrap_or_default();
        let inside = variables.split(|b| *b == 0).any(|v| v.starts_with(b"AARM_SESSION="));
        if let Some(pid) = process.file_name().to_str().and_then(|n| n.parse().ok()).filter(|_| inside) {
            // SAFETY: no memory is involved.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
}
