//! `aarm verify`: checks a receipt log, a copy of one, or the proof of one receipt, without daemon and without rights.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use aarm_receipt::bundle::BUNDLE_MAX;
use aarm_receipt::note::{Checkpoint, NOTE_MAX};
use aarm_receipt::verify::{How, Verdict, verify_dir};
use aarm_receipt::{Bundle, TrustedKeys};
use serde_json::json;

use super::exit::{CliError, Exit};
use super::output::Output;
use super::{escape, files};

/// Largest key file.
const KEY_MAX: usize = 4096;

/// Verify a receipt log, or the proof of one receipt
///
/// Checks every byte of a log directory, or of a copy of one: framing, canonical form, the tree over all receipts
/// against the signed checkpoint, the signatures of single receipts, and that no event is missing. Of a file from `aarm prove`:
/// that its receipt is in the log that was signed. It needs nothing but the public keys.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  aarm verify /var/lib/aarm/log
  aarm verify ./copied-log --key host.pub      # keys that were got by another way than with the log
  aarm verify ./copied-log --key host.pub --remember host.seen
  aarm verify 4711.tlog-proof --key host.pub

Who is root on the host can cut the end of its log off: --remember notices, if it was seen before. Without
--key the keys in the log itself are taken: that finds damage and careless changes, but not a log that was
replaced as a whole. Exit codes: 0 intact, 1 tampered with, 3 genuine but incomplete.")]
pub struct VerifyArgs {
    /// The log directory, or a file from `aarm prove`
    #[arg(value_name = "PATH", value_hint = clap::ValueHint::AnyPath)]
    log: PathBuf,
    /// File with the public keys (the log's log.pub, got by a way that can be trusted)
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    key: Option<PathBuf>,
    /// File with the log's checkpoint as it was seen before: the log must begin with what that has. Afterwards, unless it was
    /// tampered with, it has the newest one; made if it is not there
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    remember: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Reads the public keys of a log.
pub(super) fn keys(path: &Path) -> Result<TrustedKeys, CliError> {
    let bytes = files::read(path, KEY_MAX)?;
    std::str::from_utf8(&bytes).ok().and_then(TrustedKeys::parse).ok_or_else(|| {
        CliError::Key(format!("{} does not hold the two public keys of a log", path.display()))
    })
}

/// The checkpoint that was seen before, if any was.
fn seen(path: &Path, trusted: &TrustedKeys) -> Result<Option<Checkpoint>, CliError> {
    if !path.exists() {
        return Ok(None);
    }
    let note = files::read(path, NOTE_MAX)?;
    Checkpoint::open(&note, &trusted.log)
        .map(Some)
        .map_err(|e| CliError::Log { path: path.to_path_buf(), source: Box::new(e) })
}

/// Shows how far it is, on one line that goes when it is done.
fn progress(done: usize, all: usize) {
    let text = if done < all { format!("\r{done} of {all} segments") } else { "\r\x1b[K".into() };
    // Nobody can be told that standard error is closed.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Runs it.
pub fn run(args: &VerifyArgs, out: &mut Output) -> Result<Exit, CliError> {
    if args.log.is_file() {
        return proof(args, out);
    }
    let own = args.log.join("log.pub");
    let trusted = keys(args.key.as_deref().unwrap_or(&own))?;
    let seen = args.remember.as_deref().map(|path| seen(path, &trusted)).transpose()?.flatten();
    let shown = !args.json && std::io::stderr().is_terminal();
    let how = How { seen: seen.as_ref(), progress: shown.then_some(&progress) };
    let report = verify_dir(&args.log, &trusted, how);
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
    // Never an older one: who puts that back would have it forgotten what was seen.
    let newer = seen.is_none_or(|seen| seen.size < report.signed);
    if let Some(path) = args.remember.as_ref().filter(|_| newer && report.verdict != Verdict::Tampered) {
        files::write(path, &report.checkpoint)?;
    }
    Ok(match report.verdict {
        Verdict::Intact => Exit::OK,
        Verdict::Tampered => Exit::NEGATIVE,
        Verdict::Incomplete => Exit::INCOMPLETE,
    })
}

/// Checks the proof of one receipt.
fn proof(args: &VerifyArgs, out: &mut Output) -> Result<Exit, CliError> {
    let Some(key) = &args.key else {
        return Err(CliError::Key("a proof has none with it".into()));
    };
    if args.remember.is_some() {
        return Err(CliError::Usage(
            "--remember is for logs: a proof does not tell how a log goes on".into(),
        ));
    }
    let trusted = keys(key)?;
    let bytes = files::read(&args.log, BUNDLE_MAX)?;
    let (index, proven) = match Bundle::parse(&bytes).and_then(|b| Ok((b.index, b.verify(&trusted)?))) {
        Ok(found) => found,
        Err(e) => {
            let why = e.to_string();
            if args.json {
                out.json(&json!({ "verdict": Verdict::Tampered, "problem": why }))?;
            } else {
                out.line(&format!("NOT PROVEN: {}", escape::text(&why)))?;
            }
            return Ok(Exit::NEGATIVE);
        }
    };
    let (origin, size) = (&proven.checkpoint.origin, proven.checkpoint.size);
    if args.json {
        let verdict = Verdict::Intact;
        let receipt = &proven.receipt;
        out.json(&json!({ "verdict": verdict, "origin": origin, "index": index, "signed": size, "receipt": receipt }))?;
    } else {
        out.line(&format!(
            "proven: receipt {index} of {}, among the first {size} that were signed",
            escape::text(origin)
        ))?;
        out.json(&proven.receipt)?;
    }
    Ok(Exit::OK)
}
