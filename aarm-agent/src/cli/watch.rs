//! `aarm watch`: actions as they are decided.

use super::client::block_on;
use super::exit::{CliError, Exit};
use super::following::Following;
use super::output::Output;
use super::view::{Filter, Live};
use super::{Global, sessions, view};
use crate::api::types::{StreamLine, WatchQuery};

/// Show actions live, as they are decided
///
/// Each line stands for a receipt that is on disk already. Ends at ^C, or when nobody reads on.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  aarm watch
  aarm watch --decision DENY
  aarm watch --session 100000003 --operation network
  aarm watch --json | jq -c 'select(.type == \"receipt\") | .receipt'")]
pub struct WatchArgs {
    /// Only this session: its id or UUID
    #[arg(long, short, value_name = "SESSION", value_parser = sessions::session_id)]
    session: Option<String>,
    /// Only actions with this decision: ALLOW or DENY
    #[arg(long, short, value_name = "DECISION", value_parser = view::decision)]
    decision: Option<aarm_common::Decision>,
    /// Only actions of this operation, or of this family: connect, network, ...
    #[arg(long, short, value_name = "OPERATION", value_parser = view::operations)]
    operation: Option<view::Operations>,
    /// As JSON, one object a line
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &WatchArgs, global: &Global, out: &mut Output) -> Result<Exit, CliError> {
    let query = WatchQuery {
        session: args.session.clone(),
        decision: args.decision.map(|d| d.name().to_owned()),
        kind: None,
    };
    let filter = Filter { operations: args.operation, ..Filter::default() };
    block_on(async {
        let mut coming = Following::begin(&global.socket, &query).await?;
        let live = Live::new(out);
        if !args.json {
            live.head(out)?;
        }
        while let Some(line) = coming.next(out).await? {
            match &line {
                StreamLine::Receipt { receipt, .. } if !filter.passes(receipt) => {}
                _ if args.json => out.json_line(&line)?,
                StreamLine::Receipt { receipt, .. } => live.receipt(out, receipt)?,
                _ => {}
            }
        }
        Ok(Exit::OK)
    })
}
