//! The command line of the daemon: the one definition that help and man page are made from.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Supervises AI agents from the kernel: decides each of their actions by policy, before it takes effect, and
/// leaves a signed receipt for each.
#[derive(Parser)]
#[command(
    name = "aarm-agent",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  aarm-agent                                  run with /etc/aarm/agent.yaml, or the defaults without it
  aarm-agent --config my.yaml --check-config  only check the configuration
  aarm-agent detach                           take the programs out of the kernel

Ending the daemon (SIGTERM) leaves the kernel deciding; the next daemon takes over. SIGHUP reads the policies again.

Exit codes: 0 ended in order, 1 an error, 2 this host cannot enforce (see `aarm doctor`), 64 wrong usage."
)]
pub struct Cli {
    /// Configuration file [default: /etc/aarm/agent.yaml, if it is there]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Check the configuration and exit
    #[arg(long)]
    pub check_config: bool,
    /// How much to log: error, warn, info, debug
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: tracing::Level,
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What the daemon's program does besides running.
#[derive(Subcommand)]
pub enum Command {
    /// Take programs and maps out of the kernel: nothing is supervised any more
    Detach {
        /// Even while sessions run: they go on unsupervised
        #[arg(long)]
        force: bool,
    },
    /// Attach empty programs to all hooks and stay, for measuring what a hook costs by itself
    #[command(hide = true)]
    BenchFloor,
}
