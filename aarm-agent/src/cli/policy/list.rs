//! `aarm policy list`.

use crate::api::types::PolicyList;
use crate::cli::client::{Client, block_on};
use crate::cli::exit::{CliError, Exit};
use crate::cli::output::Output;
use crate::cli::table::{self, Cell, Column};
use crate::cli::{Global, escape};

/// List the policies in force
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  aarm policy list
  aarm policy list --json | jq -r '.policies[] | .name + \" \" + .hash'")]
pub struct ListArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &ListArgs, global: &Global, out: &mut Output) -> Result<Exit, CliError> {
    let list: PolicyList =
        block_on(async { Client::connect(&global.socket).await?.get("/v1/policies").await })?;
    if args.json {
        out.json(&list)?;
        return Ok(Exit::OK);
    }
    if list.policies.is_empty() {
        out.line(&format!(
            "no policies: put one into {} and run `aarm policy reload`",
            escape::value(&list.dir)
        ))?;
        return Ok(Exit::OK);
    }
    let columns = [
        Column::text("NAME"),
        Column::text("VERSION"),
        Column::text("MODE"),
        Column::number("RULES"),
        Column::number("AGENTS"),
        Column::number("SESSIONS"),
        Column::text("HASH"),
        Column::text("FILE"),
    ];
    let rows: Vec<Vec<Cell>> = list
        .policies
        .iter()
        .map(|p| {
            vec![
                escape::value(&p.label.name).into_owned().into(),
                escape::value(&p.label.version).into_owned().into(),
                escape::value(&p.label.mode).into_owned().into(),
                p.rules.to_string().into(),
                p.agents.to_string().into(),
                p.sessions.to_string().into(),
                escape::value(p.label.hash.get(..12).unwrap_or(&p.label.hash)).into_owned().into(),
                escape::value(&p.file).into_owned().into(),
            ]
        })
        .collect();
    table::print(out, &columns, &rows)?;
    Ok(Exit::OK)
}
