//! `aarm policy`: write, test and load policies.
//!
//! `check`, `test` and `eval` read files and need neither daemon nor root; they use the parser, compiler and
//! evaluator that the daemon uses. `list` and `reload` ask the daemon.

mod check;
mod eval;
mod list;
mod reload;
mod render;
mod test;

use std::path::Path;

use aarm_policy::{Code, Diagnostic, Env, Policy, Severity};

use super::exit::{CliError, Exit};
use super::output::Output;
use super::{Global, files};

/// Check, test, try out, list and reload policies
#[derive(Debug, clap::Args)]
pub struct PolicyArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Check(check::CheckArgs),
    Test(test::TestArgs),
    Eval(eval::EvalArgs),
    List(list::ListArgs),
    Reload(reload::ReloadArgs),
}

/// Runs it.
pub fn run(args: &PolicyArgs, global: &Global, out: &mut Output) -> Result<Exit, CliError> {
    match &args.command {
        Command::Check(args) => check::run(args, out),
        Command::Test(args) => test::run(args, out),
        Command::Eval(args) => eval::run(args, out),
        Command::List(args) => list::run(args, global, out),
        Command::Reload(args) => reload::run(args, global, out),
    }
}

/// A policy file: what it says, and the policy in it or everything that is wrong with it.
pub(super) struct Document {
    pub(super) source: String,
    pub(super) policy: Result<Policy, Vec<Diagnostic>>,
}

impl Document {
    pub(super) fn read(path: &Path) -> Result<Self, CliError> {
        match files::read(path, aarm_policy::MAX_DOCUMENT) {
            Ok(bytes) => {
                let policy = Policy::parse(&bytes);
                Ok(Self { source: String::from_utf8_lossy(&bytes).into_owned(), policy })
            }
            Err(e @ CliError::TooLarge { .. }) => {
                let too_large = Diagnostic {
                    line: 1,
                    column: 1,
                    severity: Severity::Error,
                    code: Code::TooLarge,
                    message: e.to_string(),
                    help: e.help(),
                };
                Ok(Self { source: String::new(), policy: Err(vec![too_large]) })
            }
            Err(e) => Err(e),
        }
    }
}

/// Most bytes read of the host's passwd database, and of its list of name servers.
const FILE_MAX: usize = 4 << 20;

/// Where `~` points on this host, and whom it asks for names.
pub(super) fn host_env() -> Result<Env, CliError> {
    let servers = files::read(Path::new("/etc/resolv.conf"), FILE_MAX).unwrap_or_default();
    Ok(Env::from_passwd(&files::read(Path::new("/etc/passwd"), FILE_MAX)?).with_resolv_conf(&servers))
}
