//! `cargo xtask fuzz`: coverage-guided fuzzing of what reads bytes that others wrote.
//!
//! The targets are in `fuzz/`, built with the stable toolchain and libFuzzer. What a run finds new goes to
//! `target/fuzz/corpus`; only `--keep` changes the corpus of the repository, which ordinary tests replay.

use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use crate::cache;
use crate::command::run as run_command;
use crate::setup;

/// What can be fuzzed: the target, where it starts from, libFuzzer's options.
const TARGETS: &[(&str, &[&str], &[&str])] = &[
    // The largest event, and a little more.
    ("event", &["fuzz/corpus/event"], &["-max_len=12600"]),
    // The largest message, and a little more.
    ("dns", &["fuzz/corpus/dns"], &["-max_len=4200", "-len_control=20"]),
    ("policy", &["fuzz/corpus/policy", "policies"], &["-dict=fuzz/policy.dict"]),
    (
        "action_json",
        &["fuzz/corpus/action_json"],
        &["-dict=fuzz/policy.dict", "-max_len=1024", "-len_control=10"],
    ),
    ("proof", &["fuzz/corpus/proof"], &["-max_len=4096"]),
    ("index", &["fuzz/corpus/index"], &["-max_len=4096"]),
    ("receipt", &["fuzz/corpus/receipt"], &["-max_len=4096"]),
];

/// Arguments of `cargo xtask fuzz`.
#[derive(Args)]
#[command(after_help = "Examples:
  cargo xtask fuzz policy --seconds 3600
  cargo xtask fuzz policy --keep         take what adds coverage into fuzz/corpus/policy
An input that fails is left in fuzz/artifacts/TARGET; keep it in fuzz/corpus/TARGET under the defect's name.")]
pub struct FuzzArgs {
    /// event, dns, policy, action_json, proof, index or receipt
    target: String,
    /// For how long.
    #[arg(long, default_value_t = 300)]
    seconds: u32,
    /// Do not search: keep of earlier runs' finds, for the repository, those that reach code nothing else does.
    #[arg(long)]
    keep: bool,
}

/// Builds and runs one target. The exit status.
pub fn run(args: &FuzzArgs) -> Result<u8> {
    let Some((target, seeds, options)) = TARGETS.iter().find(|(name, ..)| *name == args.target) else {
        let names: Vec<_> = TARGETS.iter().map(|(name, ..)| *name).collect();
        bail!("there is no target {}; there are {}", args.target, names.join(", "));
    };
    setup::cxx()?;
    let program = setup::FUZZ.program()?;
    let found = cache::target().join("fuzz/corpus").join(target);
    std::fs::create_dir_all(&found)?;
    let mut c = Command::new(program);
    c.current_dir(cache::repository())
        // The sanitizers' flags are not stable; the compiler that everything else is built with has them.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", cache::target().join("fuzz"))
        .args(["run", "--fuzz-dir", "fuzz", target]);
    if args.keep {
        // Edges, not how often: a few inputs in place of thousands.
        c.args(*seeds).arg(&found).args(["--", "-merge=1", "-use_counters=0"]);
    } else {
        c.arg(&found).args(*seeds).args(["--", "-timeout=25", "-rss_limit_mb=2048"]);
        c.arg(format!("-max_total_time={}", args.seconds));
    }
    run_command(c.args(*options))?;
    Ok(0)
}
