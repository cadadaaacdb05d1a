//! As a service under systemd, on a Debian system.

use std::process::Command;

use anyhow::{Result, ensure};

use super::Case;
use crate::host::ME;

pub const CASES: &[Case] = &[("the_service_starts_is_ready_and_restarts", service)];

fn systemctl(args: &[&str]) -> Result<String> {
    let out = Command::new("systemctl").args(args).output()?;
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    ensure!(out.status.success(), "systemctl {}: {text}\n{}", args.join(" "), journal());
    Ok(text)
}

fn journal() -> String {
    let out = Command::new("journalctl").args(["-u", "aarm-agent", "--no-pager", "-n", "50"]).output();
    out.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
}

fn service() -> Result<()> {
    std::fs::copy(
        "/usr/share/aarm/deploy/systemd/aarm-agent.service",
        "/etc/systemd/system/aarm-agent.service",
    )?;
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", "aarm-agent"])?;
    // Type=notify: this returns when the daemon serves.
    systemctl(&["start", "aarm-agent"])?;
    let run = || {
        Command::new("/usr/local/bin/aarm")
            .args(["run", "--policy", "coding-agent", "--", ME, "actor", "read", "/etc/shadow"])
            .output()
    };
    let out = run()?;
    ensure!(
        out.status.code() == Some(libc::EPERM),
        "{} {}\n{}",
        out.status,
        String::from_utf8_lossy(&out.stderr),
        journal()
    );
    systemctl(&["restart", "aarm-agent"])?;
    let out = run()?;
    ensure!(out.status.code() == Some(libc::EPERM), "after a restart: {}", out.status);
    systemctl(&["kill", "--signal=SIGKILL", "aarm-agent"])?;
    // A daemon that adopts is there at once; one that loads anew, on an emulated machine beside others, is not.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(600);
    while std::time::Instant::now() < until {
        if run()?.status.code() == Some(libc::EPERM) {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    anyhow::bail!("the service does not come back after a kill\n{}", journal())
}
