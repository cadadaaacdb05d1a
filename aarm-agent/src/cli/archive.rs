//! `aarm archive`: copies a log to where its host is not, once.

use std::io::IsTerminal;
use std::path::PathBuf;

use aarm_receipt::archive::copy;
use serde_json::json;

use super::exit::{CliError, Exit};
use super::output::Output;
use super::{count, escape, verify};
use crate::store::{self, Store};

/// Copy a log to an archive, or bring the archive to where the log is
///
/// The daemon does that by itself where its configuration says so; this is for logs that have no daemon any more, and for copies. What is
/// there already is not copied again, and everything is read back. It can be broken off and begun again at any time: the archive
/// verifies as it was until it is as it is to be. Another log, or another history of this one, is not put over what is archived.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo aarm archive /var/lib/aarm/log s3://bucket/host    # or gs://bucket/host, az://container/host
  aarm archive ./copied-log file:///mnt/archive/host
  aarm verify s3://bucket/host --key host.pub

Credentials, region and endpoint are taken from the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION,
AWS_ENDPOINT, ... (or the instance's own); GOOGLE_SERVICE_ACCOUNT, ...; AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY, ...
Exit codes: 0 it is there, 1 something else is archived there, or the store did not keep what it was given, 2 it cannot be done.")]
pub struct ArchiveArgs {
    /// The log directory, or a copy of one
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    log: PathBuf,
    /// Where to; `{origin}` in it is the log's name
    #[arg(value_name = "URL")]
    url: String,
    /// File with the public keys; without it those in the log are taken
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    key: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &ArchiveArgs, out: &mut Output) -> Result<Exit, CliError> {
    store::can_be_written(&args.url)?;
    let log = args.log.as_path();
    let trusted = verify::keys_of(args.key.as_deref(), &log)?;
    let url = store::of_log(&args.url, trusted.origin());
    let to = Store::create(&url)?;
    let shown = !args.json && std::io::stderr().is_terminal();
    let progress = |done, all| {
        if shown {
            verify::progress(done, all);
        }
    };
    let copied = copy(&log, &to, &trusted, &progress)?;
    if args.json {
        out.json(&json!({ "origin": trusted.origin(), "url": url, "copied": copied }))?;
        return Ok(Exit::OK);
    }
    out.line(&format!(
        "{}: {} of {} are archived",
        escape::text(&url),
        count(copied.receipts as usize, "receipt"),
        escape::text(trusted.origin())
    ))?;
    let (segments, tiles) =
        (count(copied.segments as usize, "segment"), count(copied.tiles as usize, "tile"));
    out.line(&format!("  now {segments} and {tiles} of them, {} bytes in all, and read back", copied.bytes))?;
    Ok(Exit::OK)
}
