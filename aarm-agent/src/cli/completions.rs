//! `aarm completions`.

use clap::CommandFactory;
use clap_complete::Shell;

use super::exit::{CliError, Exit};
use super::output::Output;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  aarm completions bash > /etc/bash_completion.d/aarm
  aarm completions zsh > ~/.zfunc/_aarm
  aarm completions fish > ~/.config/fish/completions/aarm.fish")]
pub struct CompletionsArgs {
    /// Shell to write it for
    shell: Shell,
}

/// Runs it.
pub fn run(args: &CompletionsArgs, out: &mut Output) -> Result<Exit, CliError> {
    // Generated into memory: the generator panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "aarm", &mut script);
    out.raw(&script)?;
    Ok(Exit::OK)
}
