//! `aarm original`: where a redirected connection was to go.

use std::net::SocketAddr;

use super::Global;
use super::client::{Client, block_on};
use super::exit::{CliError, Exit};
use super::output::Output;
use crate::api::redirects::{Ends, Original};

/// Tell where a redirected connection was to go
///
/// For the proxy to which a rule redirects (`modify: { redirect: … }`): asks for one of its connections, while that is open.
/// Prints the address and port that the program asked for. Whoever asks must be root, or the user that the proxy runs as, and
/// in its network namespace.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  aarm original 127.0.0.1:41022 127.0.0.1:3128           # 203.0.113.9:443
  aarm original 127.0.0.1:41022 127.0.0.1:3128 --json    # with the session that asked for it")]
pub struct OriginalArgs {
    /// Who has connected, as the proxy sees it
    client: SocketAddr,
    /// The proxy's own end
    proxy: SocketAddr,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &OriginalArgs, global: &Global, out: &mut Output) -> Result<Exit, CliError> {
    let ends = Ends { client: args.client, proxy: args.proxy };
    let found: Original =
        block_on(async { Client::connect(&global.socket).await?.query("/v1/redirects", &ends).await })?;
    if args.json {
        out.json(&found)?;
    } else {
        out.line(&found.original.to_string())?;
    }
    Ok(Exit::OK)
}
