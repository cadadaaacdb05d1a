//! `cargo xtask man`: man pages and completions, for packages, from the definitions of the command lines.

use std::process::Command;

use anyhow::Result;

use crate::cache;
use crate::command::run as run_command;

/// Writes them into `target/man`. The exit status.
pub fn run() -> Result<u8> {
    let dir = cache::target().join("man");
    let mut c = Command::new("cargo");
    c.current_dir(cache::repository());
    c.args(["run", "--quiet", "--locked", "-p", "aarm-agent", "--example", "man", "--"]).arg(&dir);
    run_command(&mut c)?;
    println!("{}", dir.display());
    Ok(0)
}
