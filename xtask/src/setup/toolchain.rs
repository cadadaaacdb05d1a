//! A compiler for the BPF target, with the source of its `core`.
//!
//! In this order: rustup's nightly if it has `rust-src`; Debian's `rustc-web` and `rust-web-src`, unpacked
//! into the cache.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use super::apt;
use crate::cache;
use crate::command::{command, exists, quiet};

/// Debian's packages: compiler, its libraries, its source.
const DEBIAN: &[&str] = &["rustc-web", "rust-web-src", "libstd-rust-web-dev"];

/// What compiles kernel programs.
pub enum Toolchain {
    /// rustup's nightly.
    Nightly,
    /// Debian's compiler, unpacked here.
    Debian(PathBuf),
}

impl Toolchain {
    /// What was picked, and why it will do.
    pub fn describe(&self) -> String {
        match self {
            Self::Nightly => "rustup nightly with rust-src".into(),
            Self::Debian(root) => format!("Debian rustc-web in {}", root.display()),
        }
    }

    /// Sets a cargo command up to use it.
    pub fn apply(&self, cargo: &mut Command) {
        match self {
            Self::Nightly => {
                cargo.env("RUSTUP_TOOLCHAIN", "nightly");
            }
            Self::Debian(root) => {
                cargo.env("RUSTC", root.join("usr/bin/rustc")).env("RUSTC_BOOTSTRAP", "1");
                let mut path = vec![root.join("usr/lib/x86_64-linux-gnu"), root.join("usr/lib/llvm/lib")];
                if let Some(own) = std::env::var_os("LD_LIBRARY_PATH") {
                    path.extend(std::env::split_paths(&own));
                }
                if let Ok(path) = std::env::join_paths(path) {
                    cargo.env("LD_LIBRARY_PATH", path);
                }
            }
        }
    }
}

fn nightly() -> bool {
    exists("rustup")
        && quiet(&mut command("rustc", ["+nightly", "--print", "sysroot"]))
            .is_ok_and(|s| PathBuf::from(s.trim()).join("lib/rustlib/src/rust/library/core").is_dir())
}

fn debian_entry() -> Result<PathBuf> {
    Ok(cache::dir()?.join("rustc-web"))
}

/// What is there already.
pub fn present() -> Option<String> {
    if nightly() {
        return Some(Toolchain::Nightly.describe());
    }
    debian_entry().ok().filter(|p| p.exists()).map(|p| Toolchain::Debian(p).describe())
}

/// Finds or gets one.
pub fn find() -> Result<Toolchain> {
    if nightly() {
        return Ok(Toolchain::Nightly);
    }
    if !exists("apt-get") {
        bail!("no compiler for kernel programs: run `rustup toolchain install nightly --component rust-src`");
    }
    let root = cache::entry("rustc-web", |dir| {
        if debian_packages()?.is_none() {
            crate::command::as_root(command("apt-get", ["-q", "update"]))?;
        }
        let Some(libraries) = debian_packages()? else {
            bail!(
                "this Debian has no rustc-web: run `rustup toolchain install nightly --component rust-src`"
            );
        };
        let mut packages = DEBIAN.to_vec();
        packages.extend(libraries.iter().map(String::as_str));
        apt::unpack_own(&packages, dir)?;
        // The LLVM library lies under its version; one name for it keeps the rest simple.
        for found in std::fs::read_dir(dir.join("usr/lib"))?.flatten() {
            let name = found.file_name();
            if name.to_string_lossy().starts_with("llvm-") {
                std::os::unix::fs::symlink(&name, dir.join("usr/lib/llvm"))?;
            }
        }
        Ok(())
    })?;
    Ok(Toolchain::Debian(root))
}

/// The versioned libraries that the compiler depends on: its own and LLVM's.
fn debian_packages() -> Result<Option<Vec<String>>> {
    let depends = |package: &str| -> Option<Vec<String>> {
        let out = quiet(&mut command("apt-cache", ["show", "--no-all-versions", package])).ok()?;
        let line = out.lines().find_map(|l| l.strip_prefix("Depends: "))?.to_owned();
        Some(line.split(", ").filter_map(|d| d.split_whitespace().next()).map(str::to_owned).collect())
    };
    let Some(standard) = depends("libstd-rust-web-dev")
        .and_then(|d| d.into_iter().find(|p| p.starts_with("libstd-rust-web-")))
    else {
        return Ok(None);
    };
    let llvm = depends(&standard).and_then(|d| d.into_iter().find(|p| p.starts_with("libllvm")));
    Ok(Some([Some(standard), llvm].into_iter().flatten().collect()))
}
