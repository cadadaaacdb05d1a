//! bpf-linker, built from its crate into the cache.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cache;
use crate::command::{command, quiet};

/// The last version that finds LLVM in the Rust toolchain itself.
const VERSION: &str = "0.10.3";

fn entry() -> String {
    format!("bpf-linker-{VERSION}")
}

/// Where it is, if it is there.
pub fn present() -> Option<String> {
    let path = cache::dir().ok()?.join(entry()).join("bin/bpf-linker");
    path.exists().then(|| path.display().to_string())
}

/// The directory to put on the PATH; builds the linker if need be (about two minutes).
pub fn bin() -> Result<PathBuf> {
    let root = cache::entry(&entry(), |dir| {
        let build = tempfile::tempdir()?;
        quiet(
            command("cargo", ["install", "bpf-linker", "--version", VERSION, "--locked", "--root"])
                .arg(dir)
                .env("CARGO_TARGET_DIR", build.path()),
        )
        .context("building bpf-linker")?;
        Ok(())
    })?;
    Ok(root.join("bin"))
}
