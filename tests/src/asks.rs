//! What waits for an answer, and answering it, as people do.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::host::{Attempt, Host};

/// How long somebody waits to be asked.
const PATIENCE: Duration = Duration::from_secs(60);

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
