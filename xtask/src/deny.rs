//! `cargo xtask deny`: what may be built in, by `deny.toml`.
//!
//! Not a part of `cargo xtask test`: building the tool takes longer than everything that test needs.

use std::process::Command;

use anyhow::Result;

use crate::cache;
use crate::command::run as run_command;
use crate::setup;

/// Everything that has a lock file of its own.
const MANIFESTS: &[&str] = &["Cargo.toml", "aarm-ebpf/Cargo.toml", "fuzz/Cargo.toml"];

/// Licences, duplicates and sources always; advisories where their database can be had. The exit status.
pub fn run() -> Result<u8> {
    let program = setup::DENY.program()?;
    let root = cache::repository();
    let deny = |manifest: &str| {
        let mut c = Command::new(&program);
        c.current_dir(root).args(["--log-level", "warn", "--locked", "--manifest-path", manifest]);
        c.arg("--config").arg(root.join("deny.toml"));
        c
    };
    for manifest in MANIFESTS {
        println!("{manifest}");
        // One file of exceptions for all manifests: not each of them needs each exception.
        let mut c = deny(manifest);
        c.args(["check", "-A", "unmatched-skip", "-A", "unnecessary-skip", "licenses", "bans", "sources"]);
        run_command(&mut c)?;
    }
    if let Err(e) = run_command(deny(MANIFESTS[0]).args(["fetch", "db"])) {
        println!("advisories: NOT CHECKED, their database cannot be had: {e:#}");
        return Ok(0);
    }
    for manifest in MANIFESTS {
        run_command(deny(manifest).args(["--offline", "check", "advisories"]))?;
    }
    Ok(0)
}
