//! The command line `aarm`.

use std::process::ExitCode;

fn main() -> ExitCode {
    aarm_agent::cli::main()
}
