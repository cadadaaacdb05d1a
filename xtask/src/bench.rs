//! `cargo xtask bench`: measurements that repeat.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::build::{self, Profile};
use crate::cache;
use crate::vm::{self, Spec};

/// Arguments of `cargo xtask bench`.
#[derive(Args)]
pub struct BenchArgs {
    /// What to measure; all without one.
    what: Option<What>,
    /// JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// `kernel`: only what is inside a session with 20 rules.
    #[arg(long, conflicts_with = "json")]
    quick: bool,
    /// Kernel of the VM.
    #[arg(long, default_value = "6.1")]
    kernel: String,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Instructions of the kernel path, counted in a VM.
    Kernel,
    /// The daemon alone, counted in a VM: instructions for each event, and while idle.
    Daemon,
    /// What waits for the daemon's decision, against a pipe, in two VMs: where it stops, counted; where it looks, timed.
    Waits,
    /// 10,000 actions that wait, on this machine: the daemon's memory for each, and the time to list them.
    Holds,
    /// The receipt log, on this machine.
    Receipts,
}

/// Runs it. The exit status.
pub fn run(args: &BenchArgs) -> Result<u8> {
    let mut code = 0;
    let wanted = |what| args.what.is_none_or(|w| w == what);
    // What, its program and what that is told, and whether instructions are counted.
    let in_vms = [
        (What::Kernel, "aarm-vm-bench", None, true),
        (What::Daemon, "daemon-bench", None, true),
        (What::Waits, "aarm-vm-waits", Some("stop"), true),
        (What::Waits, "aarm-vm-waits", Some("spin"), false),
    ];
    for (what, name, told, counted) in in_vms {
        if !wanted(what) {
            continue;
        }
        crate::setup::run(false)?;
        let built = build::all(Profile::Release, false)?;
        let program = if what == What::Daemon { build::daemon_bench(name)? } else { built.bin(name) };
        let path = format!("/usr/local/bin/{name}");
        let mut spec = Spec::new(&args.kernel, &[&path]);
        spec.command.extend(told.map(str::to_owned));
        if args.quick && what == What::Kernel {
            spec.command.push("--quick".into());
        }
        if args.json {
            spec.command.push("--json".into());
        }
        spec.agent = false;
        spec.icount = counted;
        spec.add = vec![(program, path)];
        spec.timeout = Duration::from_secs(3000);
        code = code.max(vm::run(&mut spec, &built)?);
    }
    if wanted(What::Holds) {
        crate::setup::run(false)?;
        let status = Command::new(build::daemon_bench("holds-bench")?).status()?;
        code = code.max(u8::from(!status.success()));
    }
    if wanted(What::Receipts) {
        let mut c = Command::new("cargo");
        c.current_dir(cache::repository()).args([
            "run",
            "--quiet",
            "--locked",
            "--release",
            "-p",
            "aarm-receipt",
            "--example",
            "receipt-bench",
            "--",
        ]);
        if args.json {
            c.arg("--json");
        }
        code = code.max(u8::from(!c.status()?.success()));
    }
    Ok(code)
}
