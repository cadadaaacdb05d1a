//! Tools that are crates, built into the cache.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cache;
use crate::command::{command, quiet};

/// A tool: a crate that installs programs.
pub struct Tool {
    name: &'static str,
    version: &'static str,
}

/// Links kernel programs. The last version that finds LLVM in the Rust toolchain itself.
pub const LINKER: Tool = Tool { name: "bpf-linker", version: "0.10.3" };
/// Drives libFuzzer. Only for `cargo xtask fuzz`.
pub const FUZZ: Tool = Tool { name: "cargo-fuzz", version: "0.13.2" };
/// Reads licences, sources and advisories of dependencies. Only for `cargo xtask deny`.
pub const DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2" };

impl Tool {
    fn entry(&self) -> String {
        format!("{}-{}", self.name, self.version)
    }

    /// Where it is, if it is there.
    pub fn present(&self) -> Option<String> {
        let path = cache::dir().ok()?.join(self.entry()).join("bin").join(self.name);
        path.exists().then(|| path.display().to_string())
    }

    /// The directory to put on the PATH; builds the tool if need be (minutes).
    pub fn bin(&self) -> Result<PathBuf> {
        let root = cache::entry(&self.entry(), |dir| {
            let build = tempfile::tempdir()?;
            quiet(
                command("cargo", ["install", self.name, "--version", self.version, "--locked", "--root"])
                    .arg(dir)
                    .env("CARGO_TARGET_DIR", build.path()),
            )
            .with_context(|| format!("building {}", self.name))?;
            Ok(())
        })?;
        Ok(root.join("bin"))
    }

    /// The program itself; builds it if need be, and says so.
    pub fn program(&self) -> Result<PathBuf> {
        if self.present().is_none() {
            println!("building {} {} (once, some minutes) ...", self.name, self.version);
        }
        Ok(self.bin()?.join(self.name))
    }
}
