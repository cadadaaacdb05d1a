//! The command line `aarm`: one file for each subcommand.
//!
//! Owns: arguments, what is printed, exit codes ([`exit`]). Everything it knows about sessions and policies in
//! force comes from the daemon ([`client`]); `verify`, `doctor` and `policy check|test|eval` work without one.
//!
//! Promises: text from elsewhere reaches a terminal only through [`escape`]; `aarm run` never runs a command
//! outside a session ([`run`]). Must never: start a thread before `run` has forked.

mod approvals;
mod archive;
mod client;
mod completions;
mod doctor;
mod escape;
mod exit;
mod explain;
mod files;
mod following;
mod hook;
mod keys;
mod original;
mod output;
mod policy;
mod prove;
mod receipts;
mod redacted;
mod replay;
mod run;
mod sessions;
mod sheet;
mod status;
mod supervise;
mod table;
mod time;
mod users;
mod verify;
mod view;
mod watch;
mod witness;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ErrorKind};
use clap::{Args, Parser, Subcommand};

use crate::api::types::{SOCKET, SOCKET_ENV};
use exit::{CliError, Exit};
use output::{Color, Output};

/// Supervise AI agents from the kernel
///
/// aarm runs an agent so that the Linux kernel sees each of its actions before it takes effect, decides it by
/// a policy, and leaves a receipt that anyone can verify.
#[derive(Debug, Parser)]
#[command(name = "aarm", version, max_term_width = 100, after_help = exit::HELP, subcommand_required = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every subcommand.
#[derive(Debug, Args)]
pub struct Global {
    /// Socket of the daemon
    #[arg(long, global = true, value_name = "PATH", env = SOCKET_ENV, hide_env_values = true, default_value = SOCKET)]
    #[arg(help_heading = "Global options")]
    socket: PathBuf,
    /// Colour the output: auto, always or never
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t = Color::Auto)]
    #[arg(hide_possible_values = true, help_heading = "Global options")]
    color: Color,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    Sessions(sessions::SessionsArgs),
    Approvals(approvals::ApprovalsArgs),
    Watch(watch::WatchArgs),
    Receipts(receipts::ReceiptsArgs),
    Explain(explain::ExplainArgs),
    Prove(prove::ProveArgs),
    Verify(verify::VerifyArgs),
    Archive(archive::ArchiveArgs),
    Keys(keys::KeysArgs),
    Redacted(redacted::RedactedArgs),
    Witness(witness::WitnessArgs),
    Doctor(doctor::DoctorArgs),
    Policy(policy::PolicyArgs),
    Status(status::StatusArgs),
    Hook(hook::HookArgs),
    Original(original::OriginalArgs),
    Completions(completions::CompletionsArgs),
}

/// The whole program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    let color = cli.global.color;
    let is_run = matches!(cli.command, Command::Run(_));
    let done = dispatch(cli);
    match done {
        Ok(exit) => exit.into(),
        Err(e) => {
            e.report(color);
            let exit = e.exit();
            if is_run { Exit::RUN_FAILED.into() } else { exit.into() }
        }
    }
}

fn dispatch(cli: Cli) -> Result<Exit, CliError> {
    let global = &cli.global;
    let mut out = Output::stdout(global.color);
    let exit = match cli.command {
        // Forks: nothing may be buffered, and nothing is.
        Command::Run(args) => return run::run(args, global),
        Command::Sessions(args) => sessions::run(&args, global, &mut out),
        Command::Approvals(args) => approvals::run(&args, global, &mut out),
        Command::Watch(args) => watch::run(&args, global, &mut out),
        Command::Receipts(args) => receipts::run(&args, global, &mut out),
        Command::Explain(args) => explain::run(&args, &mut out),
        Command::Prove(args) => prove::run(&args, &mut out),
        Command::Verify(args) => verify::run(&args, &mut out),
        Command::Archive(args) => archive::run(&args, &mut out),
        Command::Keys(args) => keys::run(&args, &mut out),
        Command::Redacted(args) => redacted::run(&args, global, &mut out),
        Command::Witness(args) => witness::run(&args, &mut out),
        Command::Doctor(args) => doctor::run(&args, global, &mut out),
        Command::Policy(args) => policy::run(&args, global, &mut out),
        Command::Status(args) => status::run(&args, global, &mut out),
        Command::Hook(args) => hook::run(&args, global, &mut out),
        Command::Original(args) => original::run(&args, global, &mut out),
        Command::Completions(args) => completions::run(&args, &mut out),
    }?;
    match out.flush() {
        // Nobody reads on, but the verdict stands.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(exit),
        flushed => Ok(flushed.map(|()| exit)?),
    }
}

/// Prints a usage error or help, and says how to exit: 64, or 125 where a command should have been run, whose
/// own status must stay recognisable.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return Exit::OK.into();
    }
    if usage_of_run(error, std::env::args_os().skip(1)) {
        Exit::RUN_FAILED.into()
    } else {
        Exit::USAGE.into()
    }
}

/// Whether the arguments that clap refused were meant for `aarm run`.
fn usage_of_run(error: &clap::Error, args: impl Iterator<Item = std::ffi::OsString>) -> bool {
    if error.kind() == ErrorKind::InvalidSubcommand || error.get(ContextKind::InvalidSubcommand).is_some() {
        return false;
    }
    let mut args = args;
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--socket" | "--color") => drop(args.next()),
            Some(option) if option.starts_with('-') => {}
            first => return first == Some("run"),
        }
    }
    false
}

/// `1 error`, `2 errors`.
fn count(n: usize, thing: &str) -> String {
    if n == 1 { format!("1 {thing}") } else { format!("{n} {thing}s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_subcommand_has_examples() {
        fn walk(command: &clap::Command) {
            for sub in command.get_subcommands() {
                if sub.has_subcommands() {
                    walk(sub);
                } else {
                    let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                    assert!(help.starts_with("Examples:\n"), "{} has no examples", sub.get_name());
                }
            }
        }
        walk(&Cli::command());
    }

    fn refused(args: &[&str]) -> (ErrorKind, bool) {
        let e = Cli::try_parse_from(std::iter::once("aarm").chain(args.iter().copied())).unwrap_err();
        (e.kind(), usage_of_run(&e, args.iter().map(Into::into)))
    }

    #[test]
    fn wrong_usage_of_run_is_told_apart() {
        assert_eq!(refused(&["run"]), (ErrorKind::MissingRequiredArgument, true));
        assert_eq!(refused(&["--socket", "/s", "run", "--nope", "ls"]), (ErrorKind::UnknownArgument, true));
        assert_eq!(refused(&["sessions", "--nope"]), (ErrorKind::UnknownArgument, false));
        assert_eq!(refused(&["rum", "ls"]), (ErrorKind::InvalidSubcommand, false));
    }

    #[test]
    fn options_after_the_command_are_the_commands() {
        let cli = Cli::try_parse_from(["aarm", "run", "ls", "--color", "never", "--help"]).unwrap();
        assert_eq!(cli.global.color, Color::Auto);
        // A misspelt option must not be taken for the command.
        assert!(Cli::try_parse_from(["aarm", "run", "--polcy", "x", "--", "ls"]).is_err());
    }

    #[test]
    fn counting() {
        assert_eq!(
            (count(1, "error"), count(0, "error"), count(2, "error")),
            ("1 error".into(), "0 errors".into(), "2 errors".into())
        );
    }
}
