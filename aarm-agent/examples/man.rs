//! Writes man pages and completions, for packages: `man DIR`. Both come from the definitions that `--help` prints.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

fn main() -> io::Result<()> {
    let Some(dir) = std::env::args_os().nth(1) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "usage: man DIR"));
    };
    let dir = Path::new(&dir);
    fs::create_dir_all(dir)?;
    for (command, section) in [(aarm_agent::cli::Cli::command(), 1), (aarm_agent::args::Cli::command(), 8)] {
        let mut command = command.disable_help_subcommand(true);
        command.build();
        pages(dir, &command, section)?;
    }
    // For `aarm` only: the daemon is not for a shell at which people work.
    let completions = dir.join("completions");
    fs::create_dir_all(&completions)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut aarm_agent::cli::Cli::command(), "aarm", &completions)?;
    }
    Ok(())
}

/// The page of a command (the systemd unit names that of the daemon), and those of its subcommands.
fn pages(dir: &Path, command: &Command, section: u8) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let mut page = Vec::new();
    let man = Man::new(command.clone()).title(&name).section(section.to_string());
    let man = man.source(concat!("aarm ", env!("CARGO_PKG_VERSION")));
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.get_subcommands().any(|c| !c.is_hide_set()) {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(after) = command.get_after_help() {
        extra(&mut page, &after.to_string())?;
    }
    if command.get_version().is_some() {
        man.render_version_section(&mut page)?;
    }
    fs::write(dir.join(format!("{name}.{section}")), page)?;
    command.get_subcommands().filter(|c| !c.is_hide_set()).try_for_each(|c| pages(dir, c, section))
}

/// What stands after the options, line by line as it is: examples and tables.
fn extra(page: &mut Vec<u8>, text: &str) -> io::Result<()> {
    writeln!(page, ".SH NOTES\n.nf")?;
    for line in text.lines() {
        // A point or a quote at the beginning would be a request to the formatter.
        let line = line.replace('\\', r"\e").replace('-', r"\-").replace('\'', r"\(aq");
        let guard = if line.starts_with('.') { r"\&" } else { "" };
        writeln!(page, "{guard}{line}")?;
    }
    writeln!(page, ".fi")
}
