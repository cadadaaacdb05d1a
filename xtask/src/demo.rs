//! `cargo xtask demo`: the main job, end to end, where this host can do it or in a VM.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::build::{self, Built, Profile};
use crate::cache;
use crate::vm::{self, Root, Spec};

/// Arguments of `cargo xtask demo`.
#[derive(Args)]
pub struct DemoArgs {
    /// In the VM, whatever this host can do.
    #[arg(long)]
    vm: bool,
    /// Kernel of the VM.
    #[arg(long, default_value = "6.12")]
    kernel: String,
}

/// Why the demo cannot run on this host; `None` if it can.
fn why_not_here(built: &Built) -> Option<String> {
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return Some("not root".into());
    }
    let doctor = Command::new(built.bin("aarm")).args(["doctor", "--json"]).output().ok()?;
    (!doctor.status.success()).then(|| "this kernel does not let it enforce (see `aarm doctor`)".into())
}

/// Runs it. The exit status.
pub fn run(args: &DemoArgs) -> Result<u8> {
    crate::setup::run(false)?;
    let built = build::all(Profile::Release, false)?;
    let reason = if args.vm { Some("asked for".to_owned()) } else { why_not_here(&built) };
    let Some(reason) = reason else {
        println!("running on this host: it can enforce");
        let status = Command::new(built.bin("aarm-demo")).arg(cache::repository().join("demo")).status()?;
        return Ok(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1));
    };
    println!("running in a VM with kernel {}: {reason}", args.kernel);
    let mut spec = Spec::new(&args.kernel, &["/usr/local/bin/aarm-demo", "/usr/share/aarm/demo"]);
    spec.root = Root::Debian;
    spec.agent = false;
    spec.add = vec![
        (built.bin("aarm-demo"), "/usr/local/bin/aarm-demo".into()),
        (cache::repository().join("demo"), "/usr/share/aarm/demo".into()),
    ];
    spec.timeout = Duration::from_secs(900);
    vm::run(&mut spec, &built)
}
