//! `aarm policy eval`.

use std::path::PathBuf;

use aarm_policy::{Action, Context, Diagnostic};
use serde::Serialize;

use crate::cli::exit::{CliError, Exit};
use crate::cli::output::Output;
use crate::cli::{files, policy};

/// Most bytes of an action or a context.
const JSON_MAX: usize = 1 << 20;

/// Decide one action, and say why
///
/// Prints the decision as JSON: which rule won, which facet of the action decided, what was considered. Uses
/// the evaluator that the kernel's tables are tested against. Exits with 0 whatever the decision is.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  aarm policy eval -p p.yaml -a '{\"operation\":\"open_read\",\"path\":\"/root/.netrc\"}'
  aarm policy eval -p p.yaml -a '{\"operation\":\"connect\",\"addr\":\"::1\",\"port\":443}'
  aarm policy eval -p p.yaml -a '{\"operation\":\"connect\",\"addr\":\"::1\",\"port\":443}' -c '{\"labels\":[\"SECRET\"],\"elapsed\":\"5m\"}'
  aarm policy eval -p p.yaml -a - < action.json

A context has `labels`, `elapsed` and `history`: earlier actions such as
  {\"operation\":\"connect\",\"rule\":null,\"passed\":true,\"seconds_ago\":3}")]
pub struct EvalArgs {
    /// Policy file
    #[arg(long, short, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    policy: PathBuf,
    /// The action, as JSON; `-` reads it from standard input
    #[arg(long, short, value_name = "JSON")]
    action: String,
    /// What is known of the session, as JSON
    #[arg(long, short, value_name = "JSON", default_value = "{}")]
    context: String,
}

/// What is printed: which policy decided, and its decision.
#[derive(Serialize)]
struct Answer<'a> {
    policy: Label<'a>,
    #[serde(flatten)]
    explanation: aarm_policy::Explanation,
}

#[derive(Serialize)]
struct Label<'a> {
    name: &'a str,
    version: &'a str,
    hash: &'a str,
}

/// Runs it.
pub fn run(args: &EvalArgs, out: &mut Output) -> Result<Exit, CliError> {
    let wrong = |errors: Vec<Diagnostic>| CliError::Policy {
        path: args.policy.clone(),
        diagnostics: errors.iter().map(|d| api(&args.policy.to_string_lossy(), d)).collect(),
    };
    let parsed = policy::Document::read(&args.policy)?.policy.map_err(wrong)?;
    let env = policy::host_env()?;
    // What the daemon would refuse must not look decided here.
    aarm_policy::compile(&parsed, &env, 1).map_err(wrong)?;
    let action = match args.action.as_str() {
        "-" => files::read("-".as_ref(), JSON_MAX)?,
        text => text.as_bytes().to_vec(),
    };
    let action = Action::from_json(&action).map_err(|e| usage("--action", &e))?;
    let context =
        Context::for_policy(args.context.as_bytes(), &parsed).map_err(|e| usage("--context", &e))?;
    let explanation = aarm_policy::eval(&parsed, &env, &action, &context);
    let policy = Label { name: parsed.name(), version: parsed.version(), hash: parsed.hash() };
    out.json(&Answer { policy, explanation })?;
    Ok(Exit::OK)
}

fn api(file: &str, d: &Diagnostic) -> crate::api::types::Diagnostic {
    crate::api::types::Diagnostic {
        file: file.to_owned(),
        line: d.line,
        column: d.column,
        message: d.message.clone(),
        help: d.help.clone(),
    }
}

fn usage(argument: &'static str, errors: &[Diagnostic]) -> CliError {
    let errors: Vec<String> = errors.iter().map(|d| api(argument, d).to_string()).collect();
    CliError::Usage(errors.join("\n"))
}
