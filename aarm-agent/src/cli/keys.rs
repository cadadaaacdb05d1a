//! `aarm keys`: the keys that sign a host's log, and their exchange for others. Works on files: it needs no daemon.

use std::path::{Path, PathBuf};

use aarm_receipt::keys::{self, Brought, KEY_MAX};
use aarm_receipt::trust::{Epoch, TrustedKeys};
use clap::Subcommand;
use serde_json::json;

use super::exit::{CliError, Exit};
use super::output::Output;
use super::{escape, files, verify};

/// Show or exchange the keys that sign receipts
///
/// A log is signed by two keys: one for checkpoints, one for receipts with a signature of their own. Exchanged for others, the
/// old ones are no more: a receipt names the new ones, and both sign a checkpoint of it, so that whoever trusts the old ones can
/// follow (`aarm verify --renew-key`).
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true)]
pub struct KeysArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Show(ShowArgs),
    Rotate(RotateArgs),
    Forget(ForgetArgs),
}

/// Show the public keys of a log, and from which receipt on each is good
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  aarm keys show
  aarm keys show --json | jq -r '.keys[-1].checkpoint'")]
struct ShowArgs {
    /// The log directory, or a copy of one
    #[arg(long, value_name = "DIR", default_value = LOG, value_hint = clap::ValueHint::DirPath)]
    log: PathBuf,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Prepare new keys, which the daemon takes when it starts next
///
/// Until then nothing changes. Afterwards the old keys are deleted; what they signed stays proven. Witnesses and whoever checks
/// proofs need the new log.pub; whoever checks logs can follow with the old one.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo aarm keys rotate && sudo systemctl restart aarm-agent
  openssl genpkey -algorithm ed25519 -out log.pem        # keys of your own: PKCS#8, PEM or DER
  sudo aarm keys rotate --checkpoint-key log.pem
  aarm verify copy/ --key host.pub --renew-key           # elsewhere: follows, and keeps the new public keys")]
struct RotateArgs {
    #[command(flatten)]
    at: At,
    /// Ed25519 key for checkpoints, in PKCS#8; without it one is made
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    checkpoint_key: Option<PathBuf>,
    /// The same for single receipts
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    receipt_key: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Forget keys that were prepared and not taken yet
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo aarm keys forget")]
struct ForgetArgs {
    #[command(flatten)]
    at: At,
}

#[derive(Debug, clap::Args)]
struct At {
    /// The directory of the keys, as agent.yaml has it
    #[arg(long, value_name = "DIR", default_value = "/var/lib/aarm/keys", value_hint = clap::ValueHint::DirPath)]
    keys: PathBuf,
    /// The log directory, as agent.yaml has it
    #[arg(long, value_name = "DIR", default_value = LOG, value_hint = clap::ValueHint::DirPath)]
    log: PathBuf,
}

const LOG: &str = "/var/lib/aarm/log";

/// Runs it.
pub fn run(args: &KeysArgs, out: &mut Output) -> Result<Exit, CliError> {
    match &args.command {
        Command::Show(args) => show(&public(&args.log)?, args.json, out),
        Command::Rotate(args) => rotate(args, out),
        Command::Forget(args) => match keys::forget(&args.at.keys)? {
            true => {
                out.line("forgotten: the log goes on with the keys that it has")?;
                Ok(Exit::OK)
            }
            false => {
                out.line("there are none")?;
                Ok(Exit::NEGATIVE)
            }
        },
    }
}

fn public(log: &Path) -> Result<TrustedKeys, CliError> {
    verify::keys(&log.join("log.pub"))
}

fn as_json(epoch: &Epoch) -> serde_json::Value {
    json!({
        "since": epoch.since, "checkpoint": epoch.log.to_string(), "receipt": epoch.receipt.to_string(),
    })
}

fn show(public: &TrustedKeys, as_it_is: bool, out: &mut Output) -> Result<Exit, CliError> {
    if as_it_is {
        let keys: Vec<_> = public.epochs().iter().map(as_json).collect();
        out.json(&json!({ "origin": public.origin(), "keys": keys }))?;
        return Ok(Exit::OK);
    }
    for epoch in public.epochs() {
        out.line(&format!("since receipt {}:", epoch.since))?;
        say(epoch, out)?;
    }
    Ok(Exit::OK)
}

fn say(epoch: &Epoch, out: &mut Output) -> Result<(), CliError> {
    out.line(&format!("  checkpoints  {}", escape::text(&epoch.log.to_string())))?;
    Ok(out.line(&format!("  receipts     {}", escape::text(&epoch.receipt.to_string())))?)
}

fn rotate(args: &RotateArgs, out: &mut Output) -> Result<Exit, CliError> {
    let origin = public(&args.at.log)?.origin().to_owned();
    let brought =
        |path: &Option<PathBuf>| path.as_deref().map(|path| files::read(path, KEY_MAX as usize)).transpose();
    let (log, receipt) = (brought(&args.checkpoint_key)?, brought(&args.receipt_key)?);
    let epoch =
        keys::prepare(&args.at.keys, Brought { log: log.as_deref(), receipt: receipt.as_deref() }, &origin)?;
    if args.json {
        let (checkpoint, receipt) = (epoch.log.to_string(), epoch.receipt.to_string());
        out.json(&json!({ "origin": origin, "checkpoint": checkpoint, "receipt": receipt }))?;
        return Ok(Exit::OK);
    }
    out.line("prepared:")?;
    say(&epoch, out)?;
    out.line("The daemon takes them when it starts next: systemctl restart aarm-agent")?;
    Ok(Exit::OK)
}
