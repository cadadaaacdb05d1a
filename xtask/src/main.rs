//! `cargo xtask`: everything a developer does with this repository.
//!
//! Owns set-up, builds and virtual machines. The product itself knows nothing of this crate.

mod bench;
mod build;
mod cache;
mod command;
mod cuts;
mod demo;
mod deny;
mod escapes;
mod fuzz;
mod image;
mod man;
mod setup;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set up, build, run, test and measure aarm.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    version,
    after_help = "Examples:
  cargo xtask demo                       build everything and run the main job
  cargo xtask test                       unit tests, then the VM suites on every kernel
  cargo xtask test --vm --kernel 6.1 network::
  cargo xtask test --vm --differential 500000 --seed 7
  cargo xtask vm --kernel 7.2            a shell in a VM with the daemon running
  cargo xtask vm -- aarm doctor"
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install or find everything that is needed. Idempotent; the second run needs no network.
    Setup {
        /// Only report what is missing; exit 1 if anything is.
        #[arg(long)]
        check: bool,
    },
    /// Build the kernel objects and the static binaries.
    Build {
        /// Optimised; what is shipped.
        #[arg(long)]
        release: bool,
        /// Kernel programs that log through aya-log.
        #[arg(long)]
        debug_log: bool,
    },
    /// Boot a VM with agent and policies and run a command in it (default: a shell).
    Vm(vm::VmArgs),
    /// Run unit tests, then the VM suites.
    Test(test::TestArgs),
    /// Print the table of the escape corpus from the last runs of its suites, as Markdown.
    Escapes(escapes::EscapesArgs),
    /// Run the main job: a scripted agent under supervision.
    Demo(demo::DemoArgs),
    /// Measure: `kernel` and `daemon` count instructions in a VM, `receipts` measures the log here.
    Bench(bench::BenchArgs),
    /// Fuzz what reads bytes that others wrote, guided by coverage.
    Fuzz(fuzz::FuzzArgs),
    /// Write man pages and completions into target/man.
    Man,
    /// Check licences, sources and known defects of all dependencies.
    Deny,
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Setup { check } => setup::run(check),
        Task::Build { release, debug_log } => {
            let profile = if release { build::Profile::Release } else { build::Profile::Debug };
            build::all(profile, debug_log).map(|_| 0)
        }
        Task::Vm(args) => vm::command(args),
        Task::Test(args) => test::run(&args),
        Task::Escapes(args) => escapes::run(&args),
        Task::Demo(args) => demo::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Man => man::run(),
        Task::Deny => deny::run(),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("xtask: {e:#}");
            ExitCode::FAILURE
        }
    }
}
