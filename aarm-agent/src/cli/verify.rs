//! `aarm verify`: checks a receipt log, a copy or an archive of one, or the proof of one receipt, without daemon and without rights.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};

use aarm_receipt::bundle::BUNDLE_MAX;
use aarm_receipt::cosign::{COSIGNERS_MAX, CosignerKey, cosigned};
use aarm_receipt::history::{self, HistoryError};
use aarm_receipt::note::{Checkpoint, NOTE_MAX};
use aarm_receipt::source::Source;
use aarm_receipt::trust::TEXT_MAX as KEYS_MAX;
use aarm_receipt::verify::{How, Report, Verdict, Witnesses, verify};
use aarm_receipt::{Bundle, TrustedKeys};
use jiff::Timestamp;
use serde_json::json;

use super::exit::{CliError, Exit};
use super::output::Output;
use super::{escape, files, time};

/// Largest file with the keys of witnesses.
const WITNESSES_MAX: usize = COSIGNERS_MAX * 512;

/// Verify a receipt log, or the proof of a receipt or a session
///
/// Checks every byte of a log directory, of a copy of one, or of its archive: framing, canonical form, the tree over all receipts
/// against the signed checkpoint, the signatures of single receipts, and that no event is missing. Of a file from `aarm prove`:
/// that its receipt is in the log that was signed; of a session, that these are its receipts, and all there were. It needs nothing
/// but the public keys.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  aarm verify /var/lib/aarm/log
  aarm verify ./copied-log --key host.pub      # keys that were got by another way than with the log
  aarm verify ./copied-log --key host.pub --remember host.seen
  aarm verify ./copied-log --key host.pub --witnesses witnesses.pub --at-least 2 --max-age 10m
  aarm verify s3://bucket/host --key host.pub  # its archive (see `aarm archive`); also over https://
  aarm verify 4711.tlog-proof --key host.pub
  aarm verify session.history --key host.pub

Who is root on the host can cut the end of its log off: --remember notices, if it was seen before, and
--witnesses, if somebody else has seen it (`aarm witness`). Without --key the keys in the log itself are
taken: that finds damage and careless changes, but not a log that was replaced as a whole. Exit codes:
0 intact, 1 tampered with, 3 genuine but incomplete, 4 genuine, but seen by too few witnesses or too long ago.")]
pub struct VerifyArgs {
    /// The log directory, the URL of an archive, or a file from `aarm prove`
    #[arg(value_name = "LOG", value_hint = clap::ValueHint::AnyPath)]
    log: PathBuf,
    /// File with the public keys (the log's log.pub, got by a way that can be trusted)
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    key: Option<PathBuf>,
    /// File with the log's checkpoint as it was seen before: the log must begin with what that has. Afterwards, unless it was
    /// tampered with, it has the newest one; made if it is not there
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    remember: Option<PathBuf>,
    /// File with the public keys of witnesses, one a line: they must have cosigned what the log begins with
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    witnesses: Option<PathBuf>,
    /// So many of them (without it: all)
    #[arg(long, value_name = "N", requires = "witnesses")]
    at_least: Option<usize>,
    /// And not longer ago than this (90s, 10m, 2h, 3d), or not before a moment (RFC 3339)
    #[arg(long, value_name = "TIME", requires = "witnesses", value_parser = time::since)]
    max_age: Option<Timestamp>,
    /// If the log's keys were exchanged since that file was made, and all is well: have it name those after them, too
    #[arg(long, requires = "key")]
    renew_key: bool,
    /// Also hold the index that `aarm receipts` uses against the receipts, which are read once more for it
    #[arg(long)]
    index: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Reads the public keys of a log.
pub(super) fn keys(path: &Path) -> Result<TrustedKeys, CliError> {
    parse(path, &files::read(path, KEYS_MAX)?)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<TrustedKeys, CliError> {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(TrustedKeys::parse)
        .ok_or_else(|| CliError::Key(format!("{} does not hold the public keys of a log", path.display())))
}

/// The keys in a file, or else those that a log has itself.
pub(super) fn keys_of(path: Option<&Path>, log: &dyn Source) -> Result<TrustedKeys, CliError> {
    let Some(path) = path else {
        let path = log.path("log.pub");
        let bytes = log.read("log.pub", KEYS_MAX);
        return parse(&path, &bytes.map_err(|source| CliError::Read { path: path.clone(), source })?);
    };
    parse(path, &files::read(path, KEYS_MAX)?)
}

/// The checkpoint that was seen before, if any was.
fn seen(path: &Path, trusted: &TrustedKeys) -> Result<Option<Checkpoint>, CliError> {
    if !path.exists() {
        return Ok(None);
    }
    let note = files::read(path, NOTE_MAX)?;
    trusted.open(&note).map(Some).map_err(|e| CliError::Log { path: path.to_path_buf(), source: Box::new(e) })
}

/// The keys of witnesses.
fn witnesses(path: &Path) -> Result<Vec<CosignerKey>, CliError> {
    let bytes = files::read(path, WITNESSES_MAX)?;
    std::str::from_utf8(&bytes).ok().and_then(CosignerKey::parse_all).ok_or_else(|| {
        CliError::Witnesses(format!(
            "{} does not hold 1 to {COSIGNERS_MAX} of them, one a line and each once",
            path.display()
        ))
    })
}

/// What is asked of witnesses.
fn asked<'a>(args: &VerifyArgs, known: &'a [CosignerKey]) -> Result<Witnesses<'a>, CliError> {
    // Nobody saw anything before 1970.
    let since = args.max_age.map(|t| u64::try_from(t.as_second()).unwrap_or_default());
    Ok(Witnesses { known, at_least: at_least(args, known.len())?, since })
}

/// Which witnesses have cosigned a proof's checkpoint, and what is wrong with that, if it is not what is asked for.
fn heard(
    args: &VerifyArgs,
    note: &str,
    checkpoint: &Checkpoint,
) -> Result<(Vec<String>, Option<String>), CliError> {
    let Some(path) = &args.witnesses else { return Ok((Vec::new(), None)) };
    let known = witnesses(path)?;
    let asked = asked(args, &known)?;
    let found = match cosigned(note.as_bytes(), checkpoint, &known) {
        Ok(found) => found,
        Err(e) => return Ok((Vec::new(), Some(format!("what witnesses have said: {e}")))),
    };
    let lately = found.into_iter().filter(|(_, seconds)| asked.since.is_none_or(|since| *seconds >= since));
    let names: Vec<String> = lately.map(|(key, _)| key.name.clone()).collect();
    let problem = asked.lack(names.len());
    Ok((names, problem))
}

/// How many of the witnesses must have seen the log.
fn at_least(args: &VerifyArgs, known: usize) -> Result<usize, CliError> {
    match args.at_least {
        None => Ok(known),
        Some(n) if (1..=known).contains(&n) => Ok(n),
        Some(n) => Err(CliError::Usage(format!(
            "--at-least must be from 1 to {known}, as many as there are, not {n}"
        ))),
    }
}

/// What each witness has seen.
fn seen_by(report: &Report, out: &mut Output) -> Result<(), CliError> {
    let clock = time::Clock::local();
    for seen in &report.witnesses {
        let at = Timestamp::from_second(seen.seconds as i64).map_or_else(|_| "?".into(), |t| t.to_string());
        let at = clock.seconds(&at);
        out.line(&format!("  {} has seen {} receipts at {at}", escape::text(&seen.name), seen.receipts))?;
    }
    Ok(())
}

/// Shows how far it is, on one line that goes when it is done.
pub(super) fn progress(done: usize, all: usize) {
    let text = if done < all { format!("\r{done} of {all} segments") } else { "\r\x1b[K".into() };
    // Nobody can be told that standard error is closed.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Runs it.
pub fn run(args: &VerifyArgs, out: &mut Output) -> Result<Exit, CliError> {
    if args.log.is_file() {
        return proof(args, out);
    }
    let log = files::log(&args.log)?;
    let trusted = keys_of(args.key.as_deref(), &*log)?;
    let seen = args.remember.as_deref().map(|path| seen(path, &trusted)).transpose()?.flatten();
    let shown = !args.json && std::io::stderr().is_terminal();
    let known = args.witnesses.as_deref().map(witnesses).transpose()?;
    let asked = known.as_deref().map(|known| asked(args, known)).transpose()?;
    let how = How {
        seen: seen.as_ref(),
        witnesses: asked,
        index: args.index,
        progress: shown.then_some(&progress),
    };
    let report = verify(&*log, &trusted, how);
    if let Some(why) = log.failure().filter(|_| report.verdict != Verdict::Intact) {
        return Err(CliError::Unreached { path: args.log.clone(), why });
    }
    if args.json {
        let from = if args.key.is_some() { "given" } else { "log" };
        out.json(&json!({ "report": report, "keys": from }))?;
    } else {
        for line in report.to_string().lines() {
            out.line(&escape::text(line))?;
        }
        seen_by(&report, out)?;
        if args.key.is_none() {
            out.line("  keys: those in the log itself; give --key to hold it against keys you trust")?;
        }
    }
    // Never an older one: who puts that back would have it forgotten what was seen.
    let newer = seen.is_none_or(|seen| seen.size < report.signed);
    if let Some(path) = args.remember.as_ref().filter(|_| newer && report.verdict != Verdict::Tampered) {
        files::write(path, &report.checkpoint)?;
    }
    if let Some(path) = args.key.as_ref().filter(|_| args.renew_key && report.keys != trusted)
        && report.verdict != Verdict::Tampered
    {
        files::write(path, report.keys.to_string().as_bytes())?;
    }
    Ok(match report.verdict {
        Verdict::Intact => Exit::OK,
        Verdict::Tampered => Exit::NEGATIVE,
        Verdict::Incomplete => Exit::INCOMPLETE,
        Verdict::TooOld => Exit::TOO_OLD,
    })
}

/// Checks the history of a session.
fn of_session(
    file: BufReader<File>,
    trusted: &TrustedKeys,
    args: &VerifyArgs,
    out: &mut Output,
) -> Result<Exit, CliError> {
    let found = match history::verify(file, trusted) {
        Ok(found) => found,
        Err(HistoryError::Io(source)) => return Err(CliError::Read { path: args.log.clone(), source }),
        Err(e) => return not_proven(&e.to_string(), args, out),
    };
    let (seen_by, problem) = heard(args, &found.note, &found.checkpoint)?;
    let whole = found.begins && found.ends;
    let (verdict, exit) = match (whole, &problem) {
        (false, _) => (Verdict::Incomplete, Exit::INCOMPLETE),
        (true, Some(_)) => (Verdict::TooOld, Exit::TOO_OLD),
        (true, None) => (Verdict::Intact, Exit::OK),
    };
    let receipts: u64 = found.kinds.values().sum();
    let session = format!("{:016x}", found.session);
    let (origin, signed) = (&found.checkpoint.origin, found.checkpoint.size);
    if args.json {
        let (begins, ends, kinds) = (found.begins, found.ends, &found.kinds);
        let report = json!({
            "verdict": verdict, "origin": origin, "session": session, "receipts": receipts, "begins": begins, "ends": ends,
            "kinds": kinds, "signed": signed, "index": found.index, "witnesses": seen_by, "problem": problem,
        });
        out.json(&report)?;
        return Ok(exit);
    }
    let all = if whole { "all" } else { "not all" };
    out.line(&format!(
        "proven: session {session} of {}: {receipts} receipts, which are {all} that it had, among the first {signed} that were signed",
        escape::text(origin)
    ))?;
    if !found.begins {
        out.line("  its beginning is not here: it was pruned, or the daemon had lost what it knew of it")?;
    }
    if !found.ends {
        out.line("  its end is not here: it went on when this was written")?;
    }
    say_heard(&seen_by, problem.as_deref(), out)?;
    for (kind, n) in &found.kinds {
        out.line(&format!("  {n:>10} {kind}"))?;
    }
    Ok(exit)
}

fn say_heard(seen_by: &[String], problem: Option<&str>, out: &mut Output) -> Result<(), CliError> {
    if !seen_by.is_empty() {
        out.line(&format!("  seen by {}", escape::text(&seen_by.join(", "))))?;
    }
    if let Some(problem) = problem {
        out.line(&format!("  problem: {problem}"))?;
    }
    Ok(())
}

fn not_proven(why: &str, args: &VerifyArgs, out: &mut Output) -> Result<Exit, CliError> {
    if args.json {
        out.json(&json!({ "verdict": Verdict::Tampered, "problem": why }))?;
    } else {
        out.line(&format!("NOT PROVEN: {}", escape::text(why)))?;
    }
    Ok(Exit::NEGATIVE)
}

/// Checks the proof of one receipt, or of a session.
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
    let failed = |source| CliError::Read { path: args.log.clone(), source };
    let mut file = BufReader::new(File::open(&args.log).map_err(failed)?);
    if history::is_history(file.fill_buf().map_err(failed)?) {
        return of_session(file, &trusted, args, out);
    }
    let bytes = files::read(&args.log, BUNDLE_MAX)?;
    let (bundle, proven) =
        match Bundle::parse(&bytes).and_then(|b| b.verify(&trusted).map(|proven| (b, proven))) {
            Ok(found) => found,
            Err(e) => return not_proven(&e.to_string(), args, out),
        };
    let (index, origin, size) = (bundle.index, &proven.checkpoint.origin, proven.checkpoint.size);
    let (seen_by, problem) = heard(args, &bundle.checkpoint, &proven.checkpoint)?;
    let (verdict, exit) = match &problem {
        Some(_) => (Verdict::TooOld, Exit::TOO_OLD),
        None => (Verdict::Intact, Exit::OK),
    };
    if args.json {
        let receipt = &proven.receipt;
        out.json(&json!({
            "verdict": verdict, "origin": origin, "index": index, "signed": size, "receipt": receipt, "witnesses": seen_by,
            "problem": problem,
        }))?;
    } else {
        out.line(&format!(
            "proven: receipt {index} of {}, among the first {size} that were signed",
            escape::text(origin)
        ))?;
        say_heard(&seen_by, problem.as_deref(), out)?;
        out.json(&proven.receipt)?;
    }
    Ok(exit)
}
