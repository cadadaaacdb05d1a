//! `aarm watch`: actions as they are decided.

use tokio::signal::unix::{SignalKind, signal};

use super::client::{Client, block_on};
use super::exit::{CliError, Exit};
use super::output::Output;
use super::view::{Filter, Live};
use super::{Global, sessions, view};
use crate::api::types::{ErrorBody, StreamLine, WatchQuery};

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
        let failed = |source| CliError::System { what: "wait for signals", source };
        // Made once: a signal that comes while a line is printed must not be missed.
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut lines = Client::connect(&global.socket).await?.stream("/v1/watch", &query).await?;
        let live = Live::new(out);
        if !args.json {
            live.head(out)?;
        }
        loop {
            // Nothing may wait in the buffer while we wait for more.
            if !lines.ready() {
                out.flush()?;
            }
            let line = tokio::select! {
                line = lines.next() => line?,
                _ = interrupt.recv() => return Ok(Exit::OK),
                _ = terminate.recv() => return Ok(Exit::OK),
            };
            let Some(line) = line else { return Err(CliError::Stopped) };
            match &line {
                StreamLine::Lost { count } => return Err(CliError::Lost { count: *count }),
                StreamLine::Error { error } => {
                    let body = ErrorBody { error: error.clone(), diagnostics: Vec::new() };
                    return Err(CliError::Refused { body: Box::new(body) });
                }
                StreamLine::Receipt { receipt, .. } if !filter.passes(receipt) => {}
                _ if args.json => out.json_line(&line)?,
                StreamLine::Receipt { receipt, .. } => live.receipt(out, receipt)?,
                StreamLine::Ready { .. } => {}
            }
        }
    })
}
