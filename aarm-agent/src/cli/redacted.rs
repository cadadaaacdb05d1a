//! `aarm redacted`: what receipts do not show because a policy redacts it.

use std::path::PathBuf;

use aarm_receipt::redact::sidecar::{Known, Sidecar};
use clap::Subcommand;
use serde_json::{Value, json};

use super::client::{Client, block_on};
use super::exit::{CliError, Exit};
use super::output::Output;
use super::{Global, count, sessions};
use crate::api::redacted::Erased;

/// Where the daemon keeps them, unless its settings say otherwise.
pub const DIR: &str = "/var/lib/aarm/redacted";

/// List or erase what policies have redacted
///
/// A policy can redact members of receipts (`redact: [arguments, paths]`). Receipts then have commitments in their place, and the values are
/// kept apart, for root. `aarm receipts --reveal` shows them; erased, they are gone for ever, and the log verifies as before.
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true)]
pub struct RedactedArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(ListArgs),
    Erase(EraseArgs),
}

/// List the sessions of which something is kept
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo aarm redacted list
  sudo aarm redacted list --json | jq -r .session")]
struct ListArgs {
    #[command(flatten)]
    at: At,
    /// As JSON, one object a line
    #[arg(long)]
    json: bool,
}

/// Erase what was redacted of sessions, for ever
///
/// A receipt says that it was done. What is recorded of a session that goes on is kept again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo aarm redacted erase 0199f3c2-5b1e-7d3a-9c41-2f6a8d0e7b55        # says what would be erased
  sudo aarm redacted erase 0199f3c2-5b1e-7d3a-9c41-2f6a8d0e7b55 --yes")]
struct EraseArgs {
    /// Sessions, by their UUIDs
    #[arg(required = true, value_name = "SESSION", value_parser = sessions::session_id)]
    sessions: Vec<String>,
    #[command(flatten)]
    at: At,
    /// Do it: it cannot be taken back
    #[arg(long)]
    yes: bool,
    /// As JSON, one object a line
    #[arg(long)]
    json: bool,
}

/// Where they are.
#[derive(Debug, clap::Args)]
struct At {
    /// The directory of the values, `redacted` in the daemon's settings
    #[arg(long, value_name = "DIR", default_value = DIR, value_hint = clap::ValueHint::DirPath)]
    dir: PathBuf,
}

impl At {
    fn failed(&self, source: std::io::Error) -> CliError {
        CliError::Read { path: self.dir.clone(), source }
    }

    fn read(&self, session: &str) -> Result<Known, CliError> {
        Sidecar::at(&self.dir).read(Some(session)).map_err(|e| self.failed(e))
    }
}

/// All that is kept, or what is kept of a session.
pub fn known(dir: &std::path::Path, session: Option<&str>) -> Result<Known, CliError> {
    let at = At { dir: dir.to_owned() };
    // Of a name that is no UUID there is no file.
    let session = session.filter(|name| name.contains('-'));
    Sidecar::at(dir).read(session).map_err(|e| at.failed(e))
}

/// Runs it.
pub fn run(args: &RedactedArgs, global: &Global, out: &mut Output) -> Result<Exit, CliError> {
    match &args.command {
        Command::List(args) => list(args, out),
        Command::Erase(args) => erase(args, global, out),
    }
}

fn list(args: &ListArgs, out: &mut Output) -> Result<Exit, CliError> {
    let sessions = Sidecar::at(&args.at.dir).sessions().map_err(|e| args.at.failed(e))?;
    if sessions.is_empty() && !args.json {
        out.line("nothing redacted is kept")?;
    }
    for (session, last) in sessions {
        let known = args.at.read(&session)?;
        let (values, wrong) = (known.len(), known.wrong as usize);
        let last =
            jiff::Timestamp::try_from(last).map(|t| t.strftime("%FT%TZ").to_string()).unwrap_or_default();
        if args.json {
            let damaged = (wrong > 0).then_some(wrong);
            out.json_line(
                &json!({ "session": session, "values": values, "last": last, "damaged": damaged }),
            )?;
            continue;
        }
        let damaged = if wrong > 0 { format!(", {} damaged", count(wrong, "line")) } else { String::new() };
        out.line(&format!("{session}  {last}  {}{damaged}", count(values, "value")))?;
    }
    Ok(Exit::OK)
}

fn erase(args: &EraseArgs, global: &Global, out: &mut Output) -> Result<Exit, CliError> {
    for session in &args.sessions {
        if !args.yes {
            let values = args.at.read(session)?.len();
            if args.json {
                out.json_line(&json!({ "session": session, "values": values, "erased": false }))?;
            } else {
                let would = count(values, "value");
                out.line(&format!("{would} of session {session} would be erased, for ever: add --yes"))?;
            }
            continue;
        }
        let path = format!("/v1/redacted/{session}");
        let erased: Erased = block_on(async { Client::connect(&global.socket).await?.delete(&path).await })?;
        if args.json {
            let mut line: Value = serde_json::to_value(&erased).unwrap_or_default();
            line["erased"] = true.into();
            out.json_line(&line)?;
            continue;
        }
        let recorded = if erased.recorded { "" } else { "; its receipt waits for room in the log" };
        out.line(&format!(
            "{} of session {session} erased{recorded}",
            count(erased.values as usize, "value")
        ))?;
    }
    Ok(Exit::OK)
}
