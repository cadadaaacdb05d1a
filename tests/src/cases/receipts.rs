//! The log is complete, and says when it is not what it was.

use std::process::Command;

use anyhow::{Result, ensure};

use super::Case;
use crate::host::{Host, file, policy};

pub const CASES: &[Case] = &[
    ("the_log_verifies_elsewhere_without_the_daemon", elsewhere),
    ("one_changed_byte_is_found", tampered),
    ("filters_select", filters),
    ("metrics_count_what_receipts_tell", metrics),
];

const RULES: &str = "- { id: no-secret, match: { operation: read, path: '/tmp/r/secret' }, decision: DENY }";

fn host() -> Result<Host> {
    file("/tmp/r/secret", "x")?;
    Host::start(&policy(RULES))
}

fn copy(from: &std::path::Path, to: &str) -> Result<()> {
    let _ = std::fs::remove_dir_all(to);
    ensure!(Command::new("/bin/busybox").args(["cp", "-r"]).arg(from).arg(to).status()?.success());
    Ok(())
}

fn elsewhere() -> Result<()> {
    let mut h = host()?;
    h.act(&["read", "/tmp/r/secret"])?;
    h.end(libc::SIGTERM)?;
    copy(&h.path("log"), "/tmp/r/copy")?;
    let out = h.aarm(&["verify", "/tmp/r/copy"])?;
    ensure!(
        out.status.success(),
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(())
}

fn tampered() -> Result<()> {
    let mut h = host()?;
    h.act(&["read", "/tmp/r/secret"])?;
    h.end(libc::SIGTERM)?;
    copy(&h.path("log"), "/tmp/r/copy")?;
    // The first place in any file of the copy that says what was refused.
    let mut changed = false;
    for entry in std::fs::read_dir("/tmp/r/copy")?.flatten() {
        let Ok(mut bytes) = std::fs::read(entry.path()) else { continue };
        if let Some(at) = bytes.windows(13).position(|w| w == b"/tmp/r/secret") {
            bytes[at + 7] = b'S';
            std::fs::write(entry.path(), bytes)?;
            changed = true;
            break;
        }
    }
    ensure!(changed, "the log does not contain the path in the clear");
    let out = h.aarm(&["verify", "/tmp/r/copy"])?;
    ensure!(out.status.code() == Some(1), "{}\n{}", out.status, String::from_utf8_lossy(&out.stdout));
    Ok(())
}

fn filters() -> Result<()> {
    let h = host()?;
    let a = h.act(&["read", "/tmp/r/secret"])?;
    h.act(&["nothing"])?;
    let denied = h.receipts(&["--decision", "DENY"])?;
    ensure!(denied.iter().all(|r| r["decision"]["result"] == "DENY") && !denied.is_empty());
    let recent = h.receipts(&["--since", "10m"])?;
    ensure!(recent.len() >= a.receipts.len());
    Ok(())
}

fn metrics() -> Result<()> {
    let h = host()?;
    h.act(&["read", "/tmp/r/secret"])?;
    ensure!(h.http("/healthz")?.contains("200") && h.http("/readyz")?.contains("200"));
    let denied = h.metric("aarm_actions_total{decision=\"DENY\",operation=\"open_read\"}")?;
    ensure!(denied >= 1.0, "{denied}");
    ensure!(h.metric("aarm_events_lost_total")? == 0.0);
    ensure!(h.metric("aarm_events_received_total")? > 5.0);
    Ok(())
}
