//! `aarm policy reload`.

use crate::api::types::ReloadResponse;
use crate::cli::client::{Client, block_on};
use crate::cli::exit::{CliError, Exit};
use crate::cli::output::Output;
use crate::cli::{Global, count, escape};

/// Make the daemon read its policies again
///
/// If one of them has errors, all of them are shown, nothing changes, and the exit code is 1. Needs root.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  aarm policy reload
  aarm policy check /etc/aarm/policies/*.yaml && aarm policy reload")]
pub struct ReloadArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &ReloadArgs, global: &Global, out: &mut Output) -> Result<Exit, CliError> {
    let answer: ReloadResponse = block_on(async {
        let nothing = serde_json::Map::new();
        Client::connect(&global.socket).await?.post("/v1/policies/reload", &nothing).await
    })?;
    if args.json {
        out.json(&answer)?;
        return Ok(Exit::OK);
    }
    for (label, names) in
        [("loaded", &answer.loaded), ("unchanged", &answer.unchanged), ("removed", &answer.removed)]
    {
        if !names.is_empty() {
            out.line(&format!("{label:<10} {}", escape::value(&names.join(", "))))?;
        }
    }
    out.line(&format!("{} now under a new version", count(answer.sessions_moved as usize, "session")))?;
    Ok(Exit::OK)
}
