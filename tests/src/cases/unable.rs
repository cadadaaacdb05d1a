//! Hosts that cannot enforce: everything says so, with what is missing, and nothing is begun.

use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Case;
use crate::host::{Host, policy};

pub const CASES: &[Case] = &[
    ("without_type_information_doctor_and_daemon_say_so", no_btf),
    ("malformed_type_information_is_no_type_information", malformed_btf),
    ("without_root_doctor_and_daemon_say_so", not_root),
];

/// In a boot of its own: `bpf` is not in its `lsm=`, and it has `preempt=full`.
pub const NO_BPF: &[Case] = &[
    ("doctor_prints_the_line_that_enables_bpf", doctor),
    ("a_preemptible_kernel_before_6_2_cannot_enforce", preempts),
    ("the_daemon_refuses_to_start", daemon),
    ("nothing_is_run_without_enforcement", run),
];

const AARM: &str = "/usr/local/bin/aarm";
const LSM: &str = "lockdown,capability,landlock";

/// Standard output and error together.
fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// Fails unless it ended with 2 and said all of this.
fn cannot(out: &Output, words: &[&str]) -> Result<()> {
    let text = text(out);
    ensure!(out.status.code() == Some(2), "{}: {text}", out.status);
    for word in words {
        ensure!(text.contains(word), "it does not say \"{word}\":\n{text}");
    }
    Ok(())
}

/// One check of `aarm doctor --json`.
fn check(out: &Output, name: &str) -> Result<Value> {
    let report: Value = serde_json::from_slice(&out.stdout).with_context(|| text(out))?;
    ensure!(report["can_enforce"] == false, "{report}");
    let operations = report["operations"].as_array().context("operations")?;
    ensure!(operations.iter().all(|o| o["enforceable"] == false), "{report}");
    let mut checks = report["checks"].as_array().context("checks")?.iter();
    checks.find(|c| c["name"] == name).cloned().with_context(|| format!("no check \"{name}\": {report}"))
}

fn doctor() -> Result<()> {
    let line = format!("change lsm={LSM} to lsm={LSM},bpf");
    let out = Command::new(AARM).arg("doctor").output()?;
    let active = "`bpf` is not among the active security modules: ";
    cannot(&out, &[active, &line, "cannot enforce here"])?;
    let out = Command::new(AARM).args(["doctor", "--json"]).output()?;
    cannot(&out, &[])?;
    let c = check(&out, "BPF security module")?;
    ensure!(c["state"] == "missing" && c["found"].as_str().is_some_and(|f| f.starts_with(active)), "{c}");
    let fix: Vec<&str> =
        c["fix"].as_array().context("fix")?.iter().map(|l| l.as_str().unwrap_or("")).collect();
    ensure!(fix.iter().any(|l| l.contains(&line)) && fix.contains(&"sudo reboot"), "{c}");
    ensure!(fix.iter().any(|l| l.contains(&format!("s/lsm={LSM}/lsm={LSM},bpf/"))), "{c}");
    Ok(())
}

fn preempts() -> Result<()> {
    let out = Command::new(AARM).args(["doctor", "--json"]).output()?;
    let c = check(&out, "preemption")?;
    let fix = c["fix"].as_array().context("fix")?;
    ensure!(c["state"] == "missing", "{c}");
    ensure!(fix.iter().any(|l| l.as_str().is_some_and(|l| l.contains("preempt=voluntary"))), "{c}");
    Ok(())
}

fn daemon() -> Result<()> {
    let h = Host::prepare(&[("test.yaml", &policy(""))], "")?;
    cannot(&h.agent().output()?, &["`bpf` is not in its LSM list", "aarm doctor"])?;
    ensure!(!std::path::Path::new("/sys/fs/bpf/aarm").exists(), "something is pinned");
    ensure!(!h.aarm(&["status"])?.status.success(), "something answers");
    Ok(())
}

fn run() -> Result<()> {
    let ran = "/tmp/ran-unsupervised";
    let out = Command::new(AARM).args(["run", "--", "/bin/busybox", "touch", ran]).output()?;
    ensure!(out.status.code() == Some(125), "{}: {}", out.status, text(&out));
    ensure!(!std::path::Path::new(ran).exists(), "the command was run");
    ensure!(!out.stderr.is_empty());
    Ok(())
}

/// Runs a command where a mount over the type information hides it; nobody else sees that mount.
fn hidden(mount: &str, command: &Command) -> Result<Output> {
    let mut c = Command::new("/bin/busybox");
    c.args(["unshare", "-m", "/bin/sh", "-c", &format!("{mount} && exec timeout 60 \"$@\""), "sh"]);
    c.arg(command.get_program()).args(command.get_args());
    Ok(c.output()?)
}

/// What doctor and daemon say under a mount, with nothing of an earlier daemon to take over.
fn without_btf(mount: &str, daemon: &str) -> Result<()> {
    let h = Host::prepare(&[("test.yaml", &policy(""))], "")?;
    h.agent().args(["detach", "--force"]).output()?;
    let mut ask = Command::new(AARM);
    ask.arg("doctor");
    cannot(&hidden(mount, &ask)?, &["CONFIG_DEBUG_INFO_BTF=y", "cannot enforce here"])?;
    let out = hidden(mount, ask.arg("--json"))?;
    cannot(&out, &[])?;
    ensure!(check(&out, "type information")?["state"] == "missing", "{}", text(&out));
    cannot(&hidden(mount, &h.agent())?, &[daemon])
}

fn no_btf() -> Result<()> {
    let mount = "mount -t tmpfs none /sys/kernel/btf";
    without_btf(mount, "no type information (/sys/kernel/btf/vmlinux)")
}

fn malformed_btf() -> Result<()> {
    without_btf("mount -o bind /dev/null /sys/kernel/btf/vmlinux", "type information is malformed")
}

fn not_root() -> Result<()> {
    let h = Host::prepare(&[("test.yaml", &policy(""))], "")?;
    cannot(&h.agent().uid(1000).gid(1000).output()?, &["must run as root", "sudo"])?;
    ensure!(!h.path("log").exists(), "a log was begun");
    let out = Command::new(AARM).arg("doctor").uid(1000).gid(1000).output()?;
    cannot(&out, &["not running as root", "sudo aarm doctor"])
}
