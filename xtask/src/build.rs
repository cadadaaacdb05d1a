//! Building: the kernel objects with their own toolchain, then static binaries that embed them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache;
use crate::command::run;
use crate::setup;

/// Where the static binaries are for.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What a build gives.
pub struct Built {
    /// Directory of the binaries.
    dir: PathBuf,
}

impl Built {
    /// A binary.
    pub fn bin(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// The kernel objects: `(variable that tells the daemon's build, file)`.
const OBJECTS: &[(&str, &str, &str)] =
    &[("AARM_BPF_OBJECT", "aarm", "aarm.bpf.o"), ("AARM_BPF_FLOOR", "floor", "floor.bpf.o")];

/// Builds the kernel objects; returns the variables that point to them.
fn objects(debug_log: bool) -> Result<Vec<(&'static str, PathBuf)>> {
    let toolchain = setup::toolchain()?;
    let linker = setup::LINKER.bin()?;
    let target = cache::target().join("ebpf");
    let mut path = vec![linker];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let flags = [
        "-Clinker=bpf-linker",
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        "-Ctarget-cpu=v3",
        "--cfg=bpf_target_arch=\"x86_64\"",
    ];
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(cache::repository().join("aarm-ebpf"))
        .args([
            "build",
            "--quiet",
            "--locked",
            "--release",
            "--target",
            "bpfel-unknown-none",
            "-Z",
            "build-std=core",
        ])
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("PATH", std::env::join_paths(path)?)
        // Cargo tells its children which rustup toolchain it is; this build has another.
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTC");
    if debug_log {
        cargo.args(["--features", "debug-log"]);
    }
    toolchain.apply(&mut cargo);
    run(&mut cargo).context("building the kernel programs")?;
    let out = cache::target().join("bpf");
    std::fs::create_dir_all(&out)?;
    OBJECTS
        .iter()
        .map(|(variable, binary, file)| {
            let to = out.join(file);
            copy_if_changed(&target.join("bpfel-unknown-none/release").join(binary), &to)?;
            Ok((*variable, to))
        })
        .collect()
}

/// Copies only if the content differs, so that what depends on the file is not built again for nothing.
fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let new = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if std::fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    std::fs::write(to, new).with_context(|| format!("cannot write {}", to.display()))
}

/// How binaries are built.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// With all checks, and slow.
    Debug,
    /// As it is shipped.
    Release,
    /// For the suites in VMs: nearly as fast, and built in half the time.
    Suites,
}

impl Profile {
    /// As cargo knows it.
    fn name(self) -> &'static str {
        match self {
            Self::Debug => "dev",
            Self::Release => "release",
            Self::Suites => "suites",
        }
    }

    /// Where cargo puts what it builds.
    fn dir(self) -> PathBuf {
        let name = if self == Self::Debug { "debug" } else { self.name() };
        cache::target().join(TARGET).join(name)
    }
}

/// `cargo build` of static binaries with these kernel objects inside.
fn static_build(profile: Profile, objects: &[(&str, PathBuf)]) -> Command {
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(cache::repository())
        .args(["build", "--quiet", "--locked", "--target", TARGET, "--profile", profile.name()])
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .env("CARGO_TARGET_DIR", cache::target());
    for (variable, path) in objects {
        cargo.env(variable, path);
    }
    cargo
}

/// Builds a benchmark of the daemon's own; where it is.
pub fn daemon_bench(name: &str) -> Result<PathBuf> {
    let mut cargo = static_build(Profile::Release, &objects(false)?);
    run(cargo.args(["-p", "aarm-agent", "--example", name])).with_context(|| format!("building {name}"))?;
    Ok(Profile::Release.dir().join("examples").join(name))
}

/// Builds everything that runs in a VM or on a host: the product and the test binaries.
pub fn all(profile: Profile, debug_log: bool) -> Result<Built> {
    eprintln!("building kernel programs");
    let objects = objects(debug_log)?;
    eprintln!("building static binaries ({})", profile.name());
    let mut cargo = static_build(profile, &objects);
    cargo.args(["-p", "aarm-agent", "-p", "aarm-vm-tests", "--bins"]);
    if debug_log {
        cargo.args(["--features", "aarm-agent/debug-log"]);
    }
    run(&mut cargo).context("building the static binaries")?;
    let dir = profile.dir();
    eprintln!("built {}", dir.join("aarm-agent").display());
    Ok(Built { dir })
}
