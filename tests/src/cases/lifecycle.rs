//! The kernel decides whether the daemon lives or not.

use std::os::unix::fs::DirBuilderExt;
use std::process::Command;

use anyhow::{Result, ensure};

use super::Case;
use crate::bpf;
use crate::host::{Host, ME, file, policy};

pub const CASES: &[Case] = &[
    ("rules_hold_while_the_daemon_is_dead", dead),
    ("a_restart_loses_no_receipt", restart),
    ("a_daemon_killed_at_work_loses_no_receipt", killed_at_work),
    ("what_was_counted_before_a_restart_is_not_told_again", counted),
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

/// Reads in one of the stages that a restart is between.
const READS: u64 = 50;

fn counted() -> Result<()> {
    file("/tmp/l/plain", "x")?;
    let mut h = Host::start(&(policy("") + "  record: { read: summary }\n"))?;
    for name in ["started", "go-0", "go-1", "go-2", "read-0", "read-1", "read-2"] {
        let _ = std::fs::remove_file(format!("/tmp/l/{name}"));
    }
    let stages: String = (0..3)
        .map(|i| {
            format!(
                "{ME} actor flood /tmp/l/plain {READS}; echo done > /tmp/l/read-{i}; \
                 while [ ! -e /tmp/l/go-{i} ]; do /bin/busybox sleep 0.3; done; "
            )
        })
        .collect();
    let script = format!("echo $AARM_SESSION > /tmp/l/started; {stages}");
    let mut session =
        Command::new("/usr/local/bin/aarm").args(["run", "--", "/bin/sh", "-c", &script]).spawn()?;
    let id = wait_for("/tmp/l/started")?;
    for (i, signal) in [(0, libc::SIGKILL), (1, libc::SIGTERM)] {
        wait_for(&format!("/tmp/l/read-{i}"))?;
        // Told once a while; the restart comes after that.
        let enough = (i + 1) * READS;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while summaries(&h.receipts(&["--session", &id])?).last().is_none_or(|n| *n < enough) {
            ensure!(std::time::Instant::now() < deadline, "no summary of {enough} reads\n{}", h.log());
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
        h.end(signal)?;
        h.launch()?;
        file(format!("/tmp/l/go-{i}"), "")?;
    }
    wait_for("/tmp/l/read-2")?;
    file("/tmp/l/go-2", "")?;
    session.wait()?;
    let receipts = h.session_receipts(&id)?;
    let told = summaries(&receipts);
    ensure!(told.is_sorted(), "a count went down: {told:?}");
    let reads = told.last().copied().unwrap_or_default();
    // Programs that start read a little themselves.
    ensure!((3 * READS..4 * READS).contains(&reads), "{reads} reads of {} are told: {told:?}", 3 * READS);
    let of_kind = |kind: &str| receipts.iter().filter(|r| r["kind"] == kind).cloned().collect::<Vec<_>>();
    let counted: u64 = of_kind("summary").last().map_or(0, |r| {
        let counts = r["detail"]["counts"].as_object().into_iter().flatten();
        counts.filter_map(|(_, n)| n.as_u64()).sum()
    });
    let recorded = of_kind("action").iter().filter(|r| r["decision"]["result"] == "ALLOW").count() as u64;
    let [close] = &of_kind("session_close")[..] else {
        anyhow::bail!("closed more than once: {receipts:?}");
    };
    ensure!(
        close["detail"]["allowed"] == counted + recorded,
        "{} allowed, but {recorded} recorded and {counted} counted\n{}",
        close["detail"]["allowed"],
        h.log()
    );
    ensure!(of_kind("session_open").len() == 1, "opened more than once: {receipts:?}");
    h.verified()
}

/// How many reads each summary tells.
fn summaries(receipts: &[serde_json::Value]) -> Vec<u64> {
    let of = |r: &serde_json::Value| r["detail"]["counts"]["open_read"].as_u64();
    receipts.iter().filter(|r| r["kind"] == "summary").filter_map(of).collect()
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
    // Pins of a version that cannot be ours: a map of another shape under the name of ours. Nothing is loaded for it, which
    // would take minutes: the daemon has to see it before that.
    let h = Host::prepare(&[("test.yaml", &policy(RULES))], "")?;
    h.agent().args(["detach", "--force"]).output()?;
    let dir = std::path::Path::new("/sys/fs/bpf/aarm");
    for dir in [dir, &dir.join("maps")] {
        std::fs::DirBuilder::new().mode(0o700).create(dir)?;
    }
    bpf::pin_array("/sys/fs/bpf/aarm/maps/CONFIG", 8)?;
    let out = h.agent().output()?;
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    let loaded = dir.join("maps/EVENTS").exists();
    let detached = h.agent().args(["detach", "--force"]).output()?;
    ensure!(!out.status.success() && text.contains("version"), "{text}");
    ensure!(!loaded, "what was refused has been loaded on");
    ensure!(detached.status.success(), "{}", String::from_utf8_lossy(&detached.stderr));
    ensure!(!dir.exists(), "what was detached is still there");
    Ok(())
}
