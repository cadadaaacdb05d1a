//! `aarm explain`: why a recorded action was decided as it was.
//!
//! Replays the action through the reference evaluator, with the policy text and the context that the receipt names. Must
//! never smooth over a difference: if the evaluator says something else than the receipt, that is what is said, first.

use std::path::{Path, PathBuf};

use aarm_common::Operation;
use aarm_policy::{Action, Context, Env, Explanation, Policy};
use aarm_receipt::canonical;
use serde::Serialize;
use serde_json::Value;

use super::exit::{CliError, Exit};
use super::output::Output;
use super::{files, policy};

/// Most bytes of a receipt that is given as a file: one with what may stand around it.
const FILE_MAX: usize = 1 << 20;
const O_TRUNC: u64 = 0o1000;
const FMODE_WRITE: u64 = 2;
const MSG_FASTOPEN: u64 = 0x2000_0000;
const S_IFMT: u64 = 0o170_000;
const S_IFBLK: u64 = 0o060_000;

/// Say why an action was decided as it was
///
/// Replays the action of a receipt through the reference evaluator and lists every rule that was considered. Needs the policy
/// that decided: it is looked for by its hash among the policies of the host, or given. Exits with 0 if the evaluator
/// agrees with the receipt, and with 1, loudly, if it does not.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo aarm explain 4711
  aarm receipts --decision DENY -n 1 --json | aarm explain -
  aarm explain receipt.json --policy old/coding-agent.yaml --json")]
pub struct ExplainArgs {
    /// Index in the log, or a file with one receipt as JSON; `-` reads standard input
    #[arg(value_name = "RECEIPT")]
    receipt: String,
    /// The policy that decided
    #[arg(long, short, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    policy: Option<PathBuf>,
    /// Where the host's policies are
    #[arg(long, value_name = "DIR", default_value = "/etc/aarm/policies", value_hint = clap::ValueHint::DirPath)]
    policies: PathBuf,
    /// The log that an index is of
    #[arg(long, value_name = "DIR", default_value = "/var/lib/aarm/log", value_hint = clap::ValueHint::DirPath)]
    log: PathBuf,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Answer<'a> {
    agrees: bool,
    receipt: &'a Value,
    explanation: &'a Explanation,
}

/// Runs it.
pub fn run(args: &ExplainArgs, out: &mut Output) -> Result<Exit, CliError> {
    let receipt = find(args)?;
    if receipt["kind"] != "action" {
        return Err(CliError::Usage(format!(
            "a receipt of kind {} decides nothing: give one of kind \"action\"",
            receipt["kind"]
        )));
    }
    let policy = deciding(args, &receipt)?;
    let env = policy::host_env()?;
    let action = action(&receipt)?;
    let context = context(&receipt, &policy, &env)?;
    let explanation = aarm_policy::eval(&policy, &env, &action, &context);
    let decision = &receipt["decision"];
    let rule = decision["rule"].as_str();
    let closed = matches!(
        decision["cause"].as_str(),
        Some("path_too_long" | "read_failed" | "no_policy" | "no_memory")
    );
    let agrees = !closed
        && decision["result"] == explanation.decision.name()
        && rule == explanation.rule.as_deref()
        && decision["facet"].as_str().unwrap_or_else(|| action.operation.name())
            == explanation.facet.operation.name();
    if args.json {
        out.json(&Answer { agrees, receipt: &receipt, explanation: &explanation })?;
        return Ok(if agrees { Exit::OK } else { Exit::NEGATIVE });
    }
    let recorded = format!(
        "{} {}",
        decision["result"].as_str().unwrap_or("?"),
        rule.map_or_else(|| "by default".to_owned(), |r| format!("by rule {r}"))
    );
    if closed {
        out.line(&format!(
            "The kernel failed closed ({}): no rule was asked. A replay says: {explanation}",
            decision["cause"].as_str().unwrap_or_default()
        ))?;
    } else if agrees {
        out.line(&format!("{explanation}"))?;
    } else {
        out.line("THE RECEIPT AND THE EVALUATOR DISAGREE. One of them is wrong: please report this.")?;
        out.line(&format!("  receipt:   {recorded}"))?;
        out.line(&format!("  evaluator: {explanation}"))?;
        if action.names.is_empty() && has_flag(&receipt, "linked") {
            out.line("  (the file has several hard links; a rule may have matched a name that the receipt does not have)")?;
        }
    }
    for c in &explanation.considered {
        let why = match (c.failed, c.unknown) {
            (Some(_), Some(condition)) => format!("no: {condition} is unknown, and it says to skip"),
            (Some(predicate), None) => format!("no: {predicate} does not hold"),
            (None, Some(condition)) => format!("matches, but {condition} is unknown"),
            (None, None) => "matches".to_owned(),
        };
        out.line(&format!("  {:<24} as {:<14} {why}", c.rule, c.facet.operation.name()))?;
    }
    if explanation.considered.is_empty() {
        out.line("  no rule names this operation")?;
    }
    Ok(if agrees { Exit::OK } else { Exit::NEGATIVE })
}

/// The receipt meant.
fn find(args: &ExplainArgs) -> Result<Value, CliError> {
    let log_error =
        |source: Box<dyn std::error::Error + Send + Sync>| CliError::Log { path: args.log.clone(), source };
    if let Ok(index) = args.receipt.parse::<u64>() {
        for item in aarm_receipt::read::Reader::open(&args.log, 0).map_err(|e| log_error(Box::new(e)))? {
            let (at, bytes) = item.map_err(|e| log_error(Box::new(e)))?;
            if at == index {
                return serde_json::from_slice(&bytes).map_err(|e| log_error(Box::new(e)));
            }
        }
        return Err(CliError::Usage(format!("the log {} has no receipt {index}", args.log.display())));
    }
    let bytes = files::read(Path::new(&args.receipt), FILE_MAX)?;
    let line: Value = serde_json::from_slice(&bytes)
        .map_err(|e| CliError::Usage(format!("{} is not one receipt as JSON: {e}", args.receipt)))?;
    // As `aarm receipts --json` prints it, or by itself.
    Ok(if line["receipt"].is_object() { line["receipt"].clone() } else { line })
}

/// The policy that decided.
fn deciding(args: &ExplainArgs, receipt: &Value) -> Result<Policy, CliError> {
    let hash = receipt["decision"]["policy"]["hash"].as_str().unwrap_or_default();
    if let Some(path) = &args.policy {
        let policy = policy::Document::read(path)?.policy.map_err(|_| {
            CliError::Usage(format!("{0} has errors: `aarm policy check {0}` shows them", path.display()))
        })?;
        return if policy.hash() == hash {
            Ok(policy)
        } else {
            let found = policy.hash();
            Err(CliError::Usage(format!(
                "{} has hash {found}, and the receipt was decided under {hash}",
                path.display()
            )))
        };
    }
    for entry in std::fs::read_dir(&args.policies).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|x| x == "yaml" || x == "yml")
            && let Ok(document) = policy::Document::read(&path)
            && let Ok(policy) = document.policy
            && policy.hash() == hash
        {
            return Ok(policy);
        }
    }
    Err(CliError::Usage(format!(
        "no policy in {} has the hash {hash} that the receipt names: give the one that was in force with --policy",
        args.policies.display()
    )))
}

fn has_flag(receipt: &Value, flag: &str) -> bool {
    receipt["action"]["flags"].as_array().is_some_and(|flags| flags.iter().any(|f| f == flag))
}

/// The action as the evaluator takes it.
fn action(receipt: &Value) -> Result<Action, CliError> {
    let a = &receipt["action"];
    let name = a["operation"].as_str().unwrap_or_default();
    let op = Operation::from_name(name).ok_or_else(|| {
        CliError::Usage(format!("the receipt's operation `{name}` is not one this version knows"))
    })?;
    let bytes = |v: &Value| v.as_str().and_then(canonical::decode);
    let number = |v: &Value| v.as_u64().unwrap_or_default();
    let mut action = Action::new(op);
    action.path = bytes(&a["path"]);
    let other = bytes(&a["path2"]);
    if has_flag(receipt, "alias") {
        action.names.extend(other);
    } else {
        action.path2 = other;
    }
    action.exe = bytes(&receipt["identity"]["exe"]);
    action.uid = number(&receipt["identity"]["uid"]) as u32;
    let n = &a["network"];
    if n.is_object() {
        action.addr = n["addr"].as_str().and_then(|t| t.parse().ok());
        action.port = action.addr.map(|_| number(&n["port"]) as u16);
        action.protocol = number(&n["protocol"]) as u8;
        action.sock_type = number(&n["type"]) as u16;
        action.family = match &n["family"] {
            Value::String(name) => aarm_receipt::receipt::family_number(name).unwrap_or_default(),
            other => number(other) as u16,
        };
    }
    let arg = number(&a["arg"]);
    let opens = matches!(op, Operation::OpenRead | Operation::OpenWrite);
    let facet = receipt["decision"]["facet"].as_str();
    action.also_read = has_flag(receipt, "also_read");
    action.exchange = has_flag(receipt, "exchange");
    action.directory = has_flag(receipt, "directory");
    action.truncates = opens && arg & O_TRUNC != 0;
    action.writes = op == Operation::ReceiveFd && arg & FMODE_WRITE != 0;
    action.fast_open = op == Operation::Send && arg & MSG_FASTOPEN != 0;
    action.sysctl = op == Operation::OpenWrite
        && action.path.iter().chain(&action.names).any(|p| p.starts_with(b"/proc/sys/"));
    action.raw_memory = opens
        && (number(&a["object"]["mode"]) & S_IFMT == S_IFBLK || facet == Some(Operation::RawMemory.name()));
    Ok(action)
}

/// What the session had seen.
fn context(receipt: &Value, policy: &Policy, env: &Env) -> Result<Context, CliError> {
    let compiled = aarm_policy::compile(policy, env, 1)
        .map_err(|_| CliError::Usage("the policy does not fit the kernel's tables on this host".into()))?;
    let c = &receipt["context"];
    let has = |label: &str| c["labels"].as_array().is_some_and(|all| all.iter().any(|l| l == label));
    let labels =
        compiled.labels.iter().enumerate().filter(|(_, l)| has(&l.name)).fold(0, |m, (i, _)| m | 1 << i);
    let bits = |name: &str| c[name].as_u64().unwrap_or_default() as u32;
    let subjects = bits("subjects") & 0xffff | bits("unknown") << 16;
    Ok(Context::recorded(labels, bits("conditions"), subjects))
}
