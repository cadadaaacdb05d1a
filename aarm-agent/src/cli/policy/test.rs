//! `aarm policy test`.

use std::path::PathBuf;

use aarm_policy::{Env, TestResult};
use serde::Serialize;

use super::render;
use crate::cli::exit::{CliError, Exit};
use crate::cli::output::{Output, style};
use crate::cli::{count, escape};

/// Run the tests that policies carry
///
/// Each case of a policy's `tests:` is decided by the evaluator. `~` is /root and /home/u, whatever the host.
/// Exits with 1 if a test fails or a policy has errors.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  aarm policy test policies/coding-agent.yaml
  aarm policy test --json policies/*.yaml | jq '.[].results[] | select(.passed | not)'")]
pub struct TestArgs {
    /// Policy files
    #[arg(required = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct FileReport {
    file: String,
    results: Vec<TestResult>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    diagnostics: Vec<aarm_policy::Diagnostic>,
}

/// Runs it.
pub fn run(args: &TestArgs, out: &mut Output) -> Result<Exit, CliError> {
    let env = Env::for_tests();
    let mut reports = Vec::new();
    let (mut passed, mut failed, mut broken) = (0, 0, 0);
    for path in &args.files {
        let super::Document { source, policy } = super::Document::read(path)?;
        let (results, diagnostics) = match policy.and_then(|p| aarm_policy::run_tests(&p, &env)) {
            Ok(results) => (results, Vec::new()),
            Err(diagnostics) => (Vec::new(), diagnostics),
        };
        passed += results.iter().filter(|r| r.passed).count();
        failed += results.iter().filter(|r| !r.passed).count();
        broken += usize::from(!diagnostics.is_empty());
        let report = FileReport { file: path.to_string_lossy().into_owned(), results, diagnostics };
        if args.json {
            reports.push(report);
            continue;
        }
        for d in &report.diagnostics {
            render::diagnostic(out, path, &source, d)?;
        }
        print(&report, out)?;
    }
    if args.json {
        out.json(&reports)?;
    } else {
        let mut summary = format!("{passed} passed, {failed} failed");
        if broken > 0 {
            summary.push_str(&format!(", {} could not be run", count(broken, "policy file")));
        }
        let how = if failed + broken == 0 { style::GOOD } else { style::BAD };
        let summary = out.paint(how, &summary);
        out.line(&summary)?;
    }
    Ok(if failed + broken == 0 { Exit::OK } else { Exit::NEGATIVE })
}

fn print(report: &FileReport, out: &mut Output) -> std::io::Result<()> {
    let file = escape::value(&report.file).into_owned();
    if report.results.is_empty() && report.diagnostics.is_empty() {
        return out.line(&format!("{file}: no tests in it"));
    }
    for result in &report.results {
        let word = if result.passed { out.paint(style::GOOD, "ok") } else { out.paint(style::BAD, "FAILED") };
        out.line(&format!("{file}:{}: {word}  {}", result.line, escape::value(&result.name)))?;
        for line in result.message.iter().flat_map(|m| m.lines()) {
            out.line(&format!("    {}", escape::text(line)))?;
        }
    }
    Ok(())
}
