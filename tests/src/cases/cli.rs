//! What the command line promises its users.

use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use super::Case;
use crate::host::{Host, ME, policy};

pub const CASES: &[Case] = &[
    ("status_and_signals_pass_through", status),
    ("without_a_daemon_nothing_is_run", no_daemon),
    ("a_user_without_rights_can_run", unprivileged),
    ("doctor_says_this_kernel_can_enforce", doctor),
    ("sessions_and_watch_show_what_happens", watch),
];

fn status() -> Result<()> {
    let h = Host::start(&policy(""))?;
    ensure!(h.run(&[], &[ME, "actor", "exit", "7"])?.status == 7);
    let a = h.run(&[], &["/bin/sh", "-c", "kill -TERM $$"])?;
    ensure!(a.status == 128 + libc::SIGTERM, "{}", a.status);
    let out = Command::new("/usr/local/bin/aarm").args(["run", "--", "/no/such/program"]).output()?;
    ensure!(out.status.code() == Some(127), "{}", out.status);
    Ok(())
}

fn no_daemon() -> Result<()> {
    let _ = std::fs::remove_file("/tmp/ran");
    let out = Command::new("/usr/local/bin/aarm")
        .args(["run", "--", "/bin/busybox", "touch", "/tmp/ran"])
        .output()?;
    ensure!(out.status.code() == Some(125), "{}", out.status);
    ensure!(!std::path::Path::new("/tmp/ran").exists(), "the command was run");
    ensure!(!out.stderr.is_empty());
    Ok(())
}

fn unprivileged() -> Result<()> {
    use std::os::unix::process::CommandExt;
    let h = Host::start(&policy(
        "- { id: no, match: { operation: read, path: '/etc/passwd' }, decision: DENY }",
    ))?;
    let out = Command::new("/usr/local/bin/aarm")
        .args(["run", "--intent", "try it", "--as", "alice", "--", ME, "actor", "read", "/etc/passwd"])
        .uid(1000)
        .gid(1000)
        .current_dir("/")
        .output()?;
    ensure!(
        out.status.code() == Some(libc::EPERM),
        "{} {}\n{}",
        out.status,
        String::from_utf8_lossy(&out.stderr),
        h.log()
    );
    let denied = h.recorded(&["--decision", "DENY"])?;
    let text = denied.first().map(ToString::to_string).unwrap_or_default();
    ensure!(text.contains("alice") && text.contains("1000"), "{text}");
    Ok(())
}

fn doctor() -> Result<()> {
    let out = Command::new("/usr/local/bin/aarm").args(["doctor", "--json"]).output()?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    let _: serde_json::Value = serde_json::from_slice(&out.stdout)?;
    Ok(())
}

fn watch() -> Result<()> {
    let h = Host::start(&policy(""))?;
    let mut watch =
        Command::new("/usr/local/bin/aarm").args(["watch", "--json"]).stdout(Stdio::piped()).spawn()?;
    std::thread::sleep(std::time::Duration::from_millis(500));
    let a = h.act(&["read", "/etc/passwd"])?;
    a.allowed("open_read", "/etc/passwd")?;
    std::thread::sleep(std::time::Duration::from_millis(500));
    // SAFETY: our own child.
    unsafe { libc::kill(watch.id() as i32, libc::SIGINT) };
    let mut text = String::new();
    if let Some(mut out) = watch.stdout.take() {
        std::io::Read::read_to_string(&mut out, &mut text)?;
    }
    watch.wait()?;
    ensure!(text.contains("/etc/passwd"), "{text}");
    let out = h.aarm(&["sessions", "--all", "--json"])?;
    ensure!(out.status.success() && !out.stdout.is_empty());
    Ok(())
}
