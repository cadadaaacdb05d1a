//! The daemon's command line.

use std::process::ExitCode;

use aarm_agent::args::{Cli, Command};
use aarm_agent::daemon::config::Config;
use aarm_agent::daemon::start;
use aarm_agent::kernel;
use clap::Parser;

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
