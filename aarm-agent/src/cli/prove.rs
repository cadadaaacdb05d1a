//! `aarm prove`: one receipt with all that proves it, for others to check.

use std::path::PathBuf;

use aarm_receipt::Bundle;

use super::exit::{CliError, Exit};
use super::output::Output;
use super::{files, verify};

/// Prove a receipt to others
///
/// Writes one receipt of a log with the proof that it is in it: a few kilobytes of text (a C2SP transparency log proof), which
/// `aarm verify` checks anywhere with the log's public keys, without the log, daemon or network. Others can check it as well:
/// docs/verify-proof.py knows public specifications only.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo aarm prove 4711 -o 4711.tlog-proof
  aarm verify 4711.tlog-proof --key host.pub

The index of a receipt is in `aarm receipts --json`. A receipt can be proven once a checkpoint covers it: within a second or so.")]
pub struct ProveArgs {
    /// Index in the log
    #[arg(value_name = "INDEX")]
    index: u64,
    /// The log directory, or a copy of one
    #[arg(long, value_name = "DIR", default_value = "/var/lib/aarm/log", value_hint = clap::ValueHint::DirPath)]
    log: PathBuf,
    /// File with the public keys; without it those in the log are taken
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    key: Option<PathBuf>,
    /// Write it there instead of to standard output
    #[arg(long, short, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    output: Option<PathBuf>,
}

/// Runs it.
pub fn run(args: &ProveArgs, out: &mut Output) -> Result<Exit, CliError> {
    let trusted = verify::keys(args.key.as_deref().unwrap_or(&args.log.join("log.pub")))?;
    let bundle = Bundle::make(&args.log, &trusted, args.index)?.to_string();
    match &args.output {
        Some(path) => files::write(path, bundle.as_bytes())?,
        None => bundle.lines().try_for_each(|line| out.line(line))?,
    }
    Ok(Exit::OK)
}
