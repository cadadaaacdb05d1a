//! `aarm policy check`.

use std::path::{Path, PathBuf};

use aarm_policy::{Diagnostic, Env, Mode, Policy, Severity};
use serde::Serialize;

use super::render;
use crate::cli::exit::{CliError, Exit};
use crate::cli::output::{Output, style};
use crate::cli::{count, escape};

/// Say everything that is wrong with policies
///
/// Parses and compiles each file as the daemon would on this host. Exits with 1 if one of them has errors.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  aarm policy check policies/*.yaml
  aarm policy check --json coding-agent.yaml | jq '.[].diagnostics[]'
  cat draft.yaml | aarm policy check -")]
pub struct CheckArgs {
    /// Policy files; `-` is standard input
    #[arg(required = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What was found in one file.
#[derive(Serialize)]
struct Report {
    file: String,
    valid: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<Loaded>,
    diagnostics: Vec<Diagnostic>,
}

#[derive(Serialize)]
struct Loaded {
    name: String,
    version: String,
    hash: String,
    mode: &'static str,
    rules: usize,
    agents: usize,
    tests: usize,
    /// Rules that ask for the command line, or change what a program gets: an exec that one of them may be about stops until it is decided.
    by_command_line: Vec<String>,
    size: aarm_policy::Report,
}

/// Runs it.
pub fn run(args: &CheckArgs, out: &mut Output) -> Result<Exit, CliError> {
    let env = super::host_env()?;
    let mut reports = Vec::new();
    let mut all_valid = true;
    for path in &args.files {
        let super::Document { source, policy } = super::Document::read(path)?;
        let report = check(path, policy, &env);
        all_valid &= report.valid;
        if args.json {
            reports.push(report);
        } else {
            print(path, &source, &report, out)?;
        }
    }
    if args.json {
        out.json(&reports)?;
    }
    Ok(if all_valid { Exit::OK } else { Exit::NEGATIVE })
}

fn check(path: &Path, policy: Result<Policy, Vec<Diagnostic>>, env: &Env) -> Report {
    let file = path.to_string_lossy().into_owned();
    let policy = match policy {
        Ok(policy) => policy,
        Err(diagnostics) => return Report { file, valid: false, policy: None, diagnostics },
    };
    let mut diagnostics = policy.warnings().to_vec();
    let size = match aarm_policy::compile(&policy, env, 1) {
        Ok(compiled) => compiled.report,
        Err(errors) => {
            diagnostics.extend(errors);
            return Report { file, valid: false, policy: None, diagnostics };
        }
    };
    let loaded = Loaded {
        name: policy.name().to_owned(),
        version: policy.version().to_owned(),
        hash: policy.hash().to_owned(),
        mode: match policy.mode() {
            Mode::Enforce => "enforce",
            Mode::Audit => "audit",
        },
        rules: policy.rules().len(),
        agents: policy.agents().len(),
        tests: policy.tests().len(),
        by_command_line: policy
            .rules()
            .iter()
            .filter(|rule| rule.is_by_line())
            .map(|rule| rule.id.clone())
            .collect(),
        size,
    };
    Report { file, valid: true, policy: Some(loaded), diagnostics }
}

fn print(path: &Path, source: &str, report: &Report, out: &mut Output) -> std::io::Result<()> {
    for d in &report.diagnostics {
        render::diagnostic(out, path, source, d)?;
    }
    let errors = report.diagnostics.iter().filter(|d| d.severity == Severity::Error).count();
    let file = escape::bytes(path.as_os_str().as_encoded_bytes());
    let warnings = match report.diagnostics.len() - errors {
        0 => String::new(),
        n => format!(", {}", count(n, "warning")),
    };
    match &report.policy {
        Some(p) => {
            let ok = out.paint(style::GOOD, "ok");
            let name = escape::value(&p.name);
            let (rules, tests) = (count(p.rules, "rule"), count(p.tests, "test"));
            out.line(&format!("{file}: {ok}: {name}, {rules}, {tests}, mode {}{warnings}", p.mode))?;
            if p.by_command_line.is_empty() {
                return Ok(());
            }
            let ids = p.by_command_line.join(", ");
            out.line(&format!(
                "  stops each exec that they may be about until it is decided, before its first instruction: {ids}"
            ))
        }
        None => {
            let bad = out.paint(style::BAD, &count(errors, "error"));
            out.line(&format!("{file}: {bad}{warnings}"))
        }
    }
}
