//! The daemon's command line.

use std::path::PathBuf;
use std::process::ExitCode;

use aarm_agent::daemon::config::Config;
use aarm_agent::daemon::start;
use aarm_agent::kernel;
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
struct Cli {
    /// Configuration file [default: /etc/aarm/agent.yaml, if it is there]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Check the configuration and exit
    #[arg(long)]
    check_config: bool,
    /// How much to log: error, warn, info, debug
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: tracing::Level,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
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

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Nowhere to report a failure to print.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 64 } else { 0 });
        }
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(cli.log_level)
        .with_target(false)
        .with_ansi(false)
        .init();
    let (path, named) = start::config_path(cli.config);
    let config = match Config::load(&path, named) {
        Ok(config) => config,
        Err(e) => return fail(&e, 1),
    };
    if cli.check_config {
        println!("{}: ok", path.display());
        return ExitCode::SUCCESS;
    }
    match cli.command {
        Some(Command::Detach { force }) => match kernel::detach(&config.bpffs, force) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => fail(&e, if e.is_host() { 2 } else { 1 }),
        },
        Some(Command::BenchFloor) => match floor() {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => fail(&e, 1),
        },
        None => match start::run(config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => fail(&e, if e.is_host() { 2 } else { 1 }),
        },
    }
}

fn floor() -> Result<(), kernel::KernelError> {
    let mut floor = kernel::probe::Floor::load()?;
    floor.attach_all()?;
    println!("ready");
    loop {
        std::thread::park();
    }
}

/// Says what is wrong, to its root, and gives the exit status.
fn fail(error: &dyn std::error::Error, status: u8) -> ExitCode {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(s) = source {
        let more = s.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = s.source();
    }
    eprintln!("aarm-agent: {text}");
    ExitCode::from(status)
}
