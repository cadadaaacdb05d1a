//! `aarm verify`: checks a receipt log, or a copy of one, without daemon and without rights.

use std::path::{Path, PathBuf};

use aarm_receipt::TrustedKeys;
use aarm_receipt::verify::{Verdict, verify_dir};
use serde_json::json;

use super::exit::{CliError, Exit};
use super::output::Output;
use super::{escape, files};

/// Largest key file.
const KEY_MAX: usize = 4096;

/// Verify a receipt log
///
/// Checks every byte of a log directory, or of a copy of one: framing, canonical form, the tree over all receipts
/// against the signed checkpoint, the signatures of single receipts, and that no event is missing. It needs
/// nothing but the public keys.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  aarm verify /var/lib/aarm/log
  aarm verify ./copied-log --key host.pub      # keys that were got by another way than with the log

Without --key the keys in the log itself are taken: that finds damage and careless changes, but not a log that
was replaced as a whole. Exit codes: 0 intact, 1 tampered with, 3 genuine but incomplete.")]
pub struct VerifyArgs {
    /// The log directory
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    log: PathBuf,
    /// File with the public keys (the log's log.pub, got by a way that can be trusted)
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    key: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

fn keys(path: &Path) -> Result<TrustedKeys, CliError> {
    let bytes = files::read(path, KEY_MAX)?;
    std::str::from_utf8(&bytes).ok().and_then(TrustedKeys::parse).ok_or_else(|| {
        CliError::Key(format!("{} does not hold the two public keys of a log", path.display()))
    })
}

/// Runs it.
pub fn run(args: &VerifyArgs, out: &mut Output) -> Result<Exit, CliError> {
    if args.log.is_file() {
        return Err(CliError::Usage(format!("{} is a file: give the log's directory", args.log.display())));
    }
    let own = args.log.join("log.pub");
    let trusted = keys(args.key.as_deref().unwrap_or(&own))?;
    let report = verify_dir(&args.log, &trusted);
    if args.json {
        let from = if args.key.is_some() { "given" } else { "log" };
        out.json(&json!({ "report": report, "keys": from }))?;
    } else {
        for line in report.to_string().lines() {
            out.line(&escape::text(line))?;
        }
        if args.key.is_none() {
            out.line("  keys: those in the log itself; give --key to hold it against keys you trust")?;
        }
    }
    Ok(match report.verdict {
        Verdict::Intact => Exit::OK,
        Verdict::Tampered => Exit::NEGATIVE,
        Verdict::Incomplete => Exit::INCOMPLETE,
    })
}
