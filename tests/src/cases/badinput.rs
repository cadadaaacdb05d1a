//! Bad input gets a clear error; nothing is lost and nothing half-started.

use anyhow::{Result, ensure};

use super::Case;
use crate::host::{Host, policy};

pub const CASES: &[Case] = &[
    ("a_bad_policy_is_refused_with_its_place", bad_policy),
    ("a_bad_policy_leaves_the_old_one_in_force", reload),
    ("a_bad_configuration_is_refused", bad_config),
    ("a_second_daemon_is_refused", second),
    ("a_taken_socket_path_is_refused", taken),
    ("an_unwritable_log_is_refused", unwritable),
    ("a_corrupt_segment_is_refused", corrupt),
];

/// Starts a daemon that must not start; its words.
fn refused(h: &Host) -> Result<(i32, String)> {
    let out = h.agent().output()?;
    ensure!(!out.status.success(), "it started");
    let mut text = String::from_utf8_lossy(&out.stderr).into_owned();
    text.push_str(&String::from_utf8_lossy(&out.stdout));
    Ok((out.status.code().unwrap_or(-1), text))
}

fn bad_policy() -> Result<()> {
    let rules = "- { id: a, match: { operation: read, pth: '/x' }, decision: DENY }\n- { id: b, match: { operation: connect, cidr: '300.0.0.0/8' }, decision: DENY }";
    let h = Host::prepare(&[("test.yaml", &policy(rules))], "")?;
    let (_, text) = refused(&h)?;
    ensure!(text.contains("pth") && text.contains("path"), "{text}");
    ensure!(text.contains("300.0.0.0/8") && text.contains("test.yaml:"), "all errors at once: {text}");
    Ok(())
}

fn reload() -> Result<()> {
    let h = Host::start(&policy(
        "- { id: no, match: { operation: read, path: '/etc/passwd' }, decision: DENY }",
    ))?;
    std::fs::write(h.path("policies/test.yaml"), "apiVersion: nonsense")?;
    let out = h.aarm(&["policy", "reload"])?;
    ensure!(!out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    h.act(&["read", "/etc/passwd"])?.refused("open_read", "/etc/passwd", "no")?;
    std::fs::write(
        h.path("policies/test.yaml"),
        policy("- { id: other, match: { operation: read, path: '/etc/group' }, decision: DENY }"),
    )?;
    let out = h.aarm(&["policy", "reload"])?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    h.act(&["read", "/etc/passwd"])?.allowed("open_read", "/etc/passwd")?;
    h.act(&["read", "/etc/group"])?.refused("open_read", "/etc/group", "other")
}

fn bad_config() -> Result<()> {
    let h = Host::prepare(&[("test.yaml", &policy(""))], "no_such_setting: 1\n")?;
    let (_, text) = refused(&h)?;
    ensure!(text.contains("no_such_setting"), "{text}");
    Ok(())
}

fn second() -> Result<()> {
    let h = Host::start(&policy(""))?;
    let other = Host::prepare(&[("test.yaml", &policy(""))], "")?;
    let (_, text) = refused(&other)?;
    ensure!(text.contains("already") && text.contains(&h.pid().to_string()), "{text}");
    h.act(&["nothing"])?.allowed("exec", "")
}

fn taken() -> Result<()> {
    let h = Host::prepare(&[("test.yaml", &policy(""))], "socket: { path: /tmp/taken.sock }\n")?;
    std::fs::write("/tmp/taken.sock", "a file")?;
    let (_, text) = refused(&h)?;
    std::fs::remove_file("/tmp/taken.sock")?;
    ensure!(text.contains("/tmp/taken.sock"), "{text}");
    Ok(())
}

fn unwritable() -> Result<()> {
    let h = Host::prepare(&[("test.yaml", &policy(""))], "")?;
    std::fs::write(h.path("log"), "not a directory")?;
    let (_, text) = refused(&h)?;
    ensure!(text.contains("log"), "{text}");
    Ok(())
}

fn corrupt() -> Result<()> {
    let mut h = Host::start(&policy(""))?;
    h.act(&["nothing"])?;
    h.end(libc::SIGTERM)?;
    let mut changed = false;
    for entry in std::fs::read_dir(h.path("log"))?.flatten() {
        let Ok(mut bytes) = std::fs::read(entry.path()) else { continue };
        if let Some(at) = bytes.windows(12).position(|w| w == b"session_open") {
            bytes[at] ^= 1;
            std::fs::write(entry.path(), bytes)?;
            changed = true;
        }
    }
    ensure!(changed);
    let (_, text) = refused(&h)?;
    ensure!(text.to_lowercase().contains("segment") || text.to_lowercase().contains("damage"), "{text}");
    Ok(())
}
