//! `aarm prove`: one receipt, or all of a session, with all that proves it, for others to check.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use aarm_receipt::source::Source;
use aarm_receipt::{Bundle, TrustedKeys, history};
use uuid::Uuid;

use super::exit::{CliError, Exit};
use super::output::Output;
use super::{files, verify};

/// Prove a receipt, or a session, to others
///
/// Writes one receipt of a log with the proof that it is in it: a few kilobytes of text (a C2SP transparency log proof), which
/// `aarm verify` checks anywhere with the log's public keys, without the log, daemon or network. Of a session it writes all
/// receipts, each of which names the one before, and the proof of the last: nothing can be left out. Others can check both as
/// well: docs/verify-proof.py knows public specifications only.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo aarm prove 4711 -o 4711.tlog-proof
  aarm verify 4711.tlog-proof --key host.pub
  sudo aarm prove --session 01a227b9-e7ab-750a-93be-e56d7cea73cc -o session.history
  aarm verify session.history --key host.pub

The index of a receipt is in `aarm receipts --json`. A receipt can be proven once a checkpoint covers it: within a second or so.")]
pub struct ProveArgs {
    /// Index in the log
    #[arg(value_name = "INDEX", required_unless_present = "session", conflicts_with = "session")]
    index: Option<u64>,
    /// All receipts of this session: its UUID
    #[arg(long, short, value_name = "UUID")]
    session: Option<Uuid>,
    /// The log directory, a copy of one, or the URL of an archive
    #[arg(long, value_name = "LOG", default_value = "/var/lib/aarm/log", value_hint = clap::ValueHint::DirPath)]
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
    let log = files::log(&args.log)?;
    let trusted = verify::keys_of(args.key.as_deref(), &*log)?;
    match (args.index, args.session) {
        (Some(index), _) => {
            let bundle = Bundle::make(&*log, &trusted, index)?.to_string();
            match &args.output {
                Some(path) => files::write(path, bundle.as_bytes())?,
                None => bundle.lines().try_for_each(|line| out.line(line))?,
            }
        }
        (None, Some(session)) => of_session(&*log, &trusted, session, args.output.as_deref())?,
        (None, None) => return Err(CliError::Usage("which receipt, or which --session?".into())),
    }
    Ok(Exit::OK)
}

/// Writes all receipts of a session: there may be more of them than memory has room for.
fn of_session(
    log: &dyn Source,
    trusted: &TrustedKeys,
    session: Uuid,
    to: Option<&Path>,
) -> Result<(), CliError> {
    let uuid = session.hyphenated().to_string();
    match to {
        Some(path) => files::write_with(path, |file| {
            history::write(log, trusted, &uuid, file)?;
            Ok(())
        }),
        None => {
            let mut out = BufWriter::new(std::io::stdout().lock());
            history::write(log, trusted, &uuid, &mut out)?;
            Ok(out.flush()?)
        }
    }
}
