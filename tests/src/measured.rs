//! A daemon for a measurement: its policies and all it keeps in a directory of the measurement's own.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Result, bail};

const AGENT: &str = "/usr/local/bin/aarm-agent";
const AARM: &str = "/usr/local/bin/aarm";

/// Starts one, with the policies in `dir/policies` and further lines of settings, and waits until it serves: five minutes at most, because loading programs takes long
/// on an emulated machine.
pub fn daemon(dir: &Path, settings: &str) -> Result<Child> {
    let at = dir.display();
    let config = dir.join("agent.yaml");
    std::fs::write(
        &config,
        format!(
            "policies: {at}/policies\nlog: {at}/log\nkeys: {at}/keys\nstate: {at}/state\nredacted: {at}/redacted\n{settings}"
        ),
    )?;
    let path = dir.join("daemon.log");
    let log = std::fs::File::create(&path)?;
    let mut daemon =
        Command::new(AGENT).arg("--config").arg(&config).stdout(log.try_clone()?).stderr(log).spawn()?;
    for _ in 0..3000 {
        if Command::new(AARM).arg("status").stdout(Stdio::null()).stderr(Stdio::null()).status()?.success() {
            return Ok(daemon);
        }
        if daemon.try_wait()?.is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("aarm-agent does not serve: {}", std::fs::read_to_string(path)?)
}
