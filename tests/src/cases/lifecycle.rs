//! The kernel decides whether the daemon lives or not.

use std::process::Command;

use anyhow::{Result, ensure};

use super::Case;
use crate::host::{Host, ME, file, policy};

pub const CASES: &[Case] = &[
    ("rules_hold_while_the_daemon_is_dead", dead),
    ("a_restart_loses_no_receipt", restart),
    ("a_daemon_killed_at_work_loses_no_receipt", killed_at_work),
    ("a_reload_moves_running_sessions", moved),
    ("detach_is_refused_while_sessions_run", detach),
    ("state_of_another_version_is_refused", other_version),
];

const RULES: &str = "- { id: no-secret, match: { operation: read, path: '/tmp/l/secret' }, decision: DENY }";

fn host() -> Result<Host> {
    file("/tmp/l/secret", "x")?;
    Host::start(&policy(RULES))
}

/// A supervised shell that waits for a file and then tries to read the secret; writes its status.
fn waiting() -> Result<std::process::Child> {
    for name in ["go", "done", "started"] {
        let _ = std::fs::remove_file(format!("/tmp/l/{name}"));
    }
    let script = format!(
        "echo $AARM_SESSION > /tmp/l/started; while [ ! -e /tmp/l/go ]; do /bin/busybox sleep 0.1; done; {ME} actor read /tmp/l/secret; echo $? > /tmp/l/done"
    );
    let child = Command::new("/usr/local/bin/aarm").args(["run", "--", "/bin/sh", "-c", &script]).spawn()?;
    wait_for("/tmp/l/started")?;
    Ok(child)
}

fn wait_for(path: &str) -> Result<String> {
    for _ in 0..300 {
        match std::fs::read_to_string(path) {
            Ok(text) if text.ends_with('\n') => return Ok(text.trim().to_owned()),
            _ => std::thread::sleep(std::time::Duration::from_millis(100)),
        }
    }
    anyhow::bail!("{path} does not appear")
}

fn dead() -> Result<()> {
    let mut h = host()?;
    let mut session = waiting()?;
    h.end(libc::SIGKILL)?;
    file("/tmp/l/go", "")?;
    let status = wait_for("/tmp/l/done")?;
    session.wait()?;
    ensure!(status == libc::EPERM.to_string(), "with the daemon dead the secret was read: {status}");
    Ok(())
}

fn restart() -> Result<()> {
    let mut h = host()?;
    let mut session = waiting()?;
    let id = wait_for("/tmp/l/started")?;
    h.end(libc::SIGKILL)?;
    file("/tmp/l/go", "")?;
    wait_for("/tmp/l/done")?;
    session.wait()?;
    h.launch()?;
    let receipts = h.session_receipts(&id)?;
    let refused = receipts
        .iter()
        .any(|r| r["action"]["path"] == "/tmp/l/secret" && r["decision"]["rule"] == "no-secret");
    ensure!(refused, "what happened without the daemon is not recorded: {receipts:?}\n{}", h.log());
    ensure!(h.metric("aarm_events_lost_total")? == 0.0);
    h.verified()
}

fn killed_at_work() -> Result<()> {
    let mut h = host()?;
    let script = format!("{ME} actor flood /etc/passwd 6000");
    let mut session =
        Command::new("/usr/local/bin/aarm").args(["run", "--", "/bin/sh", "-c", &script]).spawn()?;
    for _ in 0..3 {
        // Whatever it has read and not written at that moment must not be lost, nor told twice.
        std::thread::sleep(std::time::Duration::from_millis(400));
        h.end(libc::SIGKILL)?;
        h.launch()?;
    }
    ensure!(session.wait()?.success());
    for _ in 0..200 {
        if h.receipts(&[])?.iter().any(|r| r["kind"] == "session_close") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    ensure!(h.metric("aarm_events_lost_total")? == 0.0);
    h.verified()
}

fn moved() -> Result<()> {
    let h = host()?;
    let mut session = waiting()?;
    let id = wait_for("/tmp/l/started")?;
    let rules = "- { id: newer, match: { operation: read, path: '/tmp/l/secret' }, decision: DENY }";
    std::fs::write(h.path("policies/test.yaml"), policy(rules))?;
    let out = h.aarm(&["policy", "reload"])?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    file("/tmp/l/go", "")?;
    session.wait()?;
    let receipts = h.session_receipts(&id)?;
    let rule = receipts
        .iter()
        .find(|r| r["action"]["path"] == "/tmp/l/secret")
        .map(|r| r["decision"]["rule"].clone());
    ensure!(rule == Some("newer".into()), "{rule:?}");
    Ok(())
}

fn detach() -> Result<()> {
    let mut h = host()?;
    let mut session = waiting()?;
    h.end(libc::SIGTERM)?;
    let out = h.agent().arg("detach").output()?;
    ensure!(!out.status.success(), "detached under a running session");
    file("/tmp/l/go", "")?;
    session.wait()?;
    let out = h.agent().arg("detach").output()?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    ensure!(!std::path::Path::new("/sys/fs/bpf/aarm").exists());
    Ok(())
}

fn other_version() -> Result<()> {
    // Pins of a version that cannot be ours: a map of another shape under the name of ours.
    let mut h = host()?;
    h.end(libc::SIGTERM)?;
    std::fs::remove_file("/sys/fs/bpf/aarm/maps/CONFIG")?;
    std::fs::hard_link("/sys/fs/bpf/aarm/maps/SESSIONS", "/sys/fs/bpf/aarm/maps/CONFIG")
        .or_else(|_| std::fs::rename("/sys/fs/bpf/aarm/maps/SESSIONS", "/sys/fs/bpf/aarm/maps/CONFIG"))?;
    let out = h.agent().output()?;
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    let detached = h.agent().args(["detach", "--force"]).output()?;
    ensure!(!out.status.success() && text.contains("version"), "{text}");
    ensure!(detached.status.success(), "{}", String::from_utf8_lossy(&detached.stderr));
    Ok(())
}
