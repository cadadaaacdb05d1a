//! `aarm explain`: why a recorded action was decided as it was.
//!
//! Replays the action through the reference evaluator, with the policy text and the context that the receipt names. Must
//! never smooth over a difference: if the evaluator says something else than the receipt, that is what is said, first.

use std::path::{Path, PathBuf};

use aarm_policy::{Explanation, Policy};
use serde::Serialize;
use serde_json::Value;

use super::exit::{CliError, Exit};
use super::output::Output;
use super::replay::{Deciding, Replay};
use super::{files, policy, sessions};

/// Most bytes of a receipt that is given as a file: one with what may stand around it.
const FILE_MAX: usize = 1 << 20;

/// Say why an action was decided as it was
///
/// Replays the action of a receipt through the reference evaluator and lists every rule that was considered. Needs the policy
/// that decided: it is looked for by its hash among the policies of the host, or given. Exits with 0 if the evaluator
/// agrees with the receipt, and with 1, loudly, if it does not. With --session, replays every decision of a session and shows
/// those on which the two disagree.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo aarm explain 4711
  aarm receipts --decision DENY -n 1 --json | aarm explain -
  aarm explain receipt.json --policy old/coding-agent.yaml --json
  sudo aarm explain --session $AARM_SESSION")]
pub struct ExplainArgs {
    /// Index in the log, or a file with one receipt as JSON; `-` reads standard input
    #[arg(value_name = "RECEIPT", required_unless_present = "session", conflicts_with = "session")]
    receipt: Option<String>,
    /// Replay all decisions of this session: its id or UUID
    #[arg(long, short, value_name = "SESSION", value_parser = sessions::session_id)]
    session: Option<String>,
    /// The policy that decided
    #[arg(long, short, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    policy: Option<PathBuf>,
    /// Where the host's policies are
    #[arg(long, value_name = "DIR", default_value = "/etc/aarm/policies", value_hint = clap::ValueHint::DirPath)]
    policies: PathBuf,
    /// The log that an index is of: a directory, or the URL of an archive
    #[arg(long, value_name = "LOG", default_value = "/var/lib/aarm/log", value_hint = clap::ValueHint::DirPath)]
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

/// What became of a session's decisions.
#[derive(Default, Serialize)]
struct Tally {
    /// The evaluator says the same.
    agree: u64,
    /// It says something else.
    disagree: u64,
    /// It says something else, but the receipt does not have all that it would need.
    untold: u64,
    /// The kernel failed closed.
    closed: u64,
}

/// Runs it.
pub fn run(args: &ExplainArgs, out: &mut Output) -> Result<Exit, CliError> {
    if let Some(session) = &args.session {
        return all(args, session, out);
    }
    let receipt = find(args)?;
    if receipt["kind"] != "action" {
        return Err(CliError::Usage(format!(
            "a receipt of kind {} decides nothing: give one of kind \"action\"",
            receipt["kind"]
        )));
    }
    let replay = deciding(args, &receipt)?.replay(&receipt)?;
    if args.json {
        let (agrees, explanation) = (replay.agrees, &replay.explanation);
        out.json(&Answer { agrees, receipt: &receipt, explanation })?;
    } else {
        tell(&receipt, &replay, out)?;
    }
    Ok(if replay.agrees { Exit::OK } else { Exit::NEGATIVE })
}

/// Replays a session.
fn all(args: &ExplainArgs, session: &str, out: &mut Output) -> Result<Exit, CliError> {
    let mut known: Option<Deciding> = None;
    let mut tally = Tally::default();
    each(&args.log, |_, bytes| {
        let receipt: Value = serde_json::from_slice(bytes).map_err(|e| log_error(&args.log, e))?;
        let of = |name: &str| receipt["session"][name] == session;
        if receipt["kind"] != "action" || !(of("uuid") || of("id")) {
            return Ok(true);
        }
        // A session changes its policy only by a reload.
        let hash = receipt["decision"]["policy"]["hash"].as_str().unwrap_or_default();
        let deciding = match known.take().filter(|known| known.hash() == hash) {
            Some(known) => known,
            None => deciding(args, &receipt)?,
        };
        let replay = known.insert(deciding).replay(&receipt)?;
        let untold = !replay.agrees && replay.missing.is_some();
        match () {
            () if replay.closed.is_some() => tally.closed += 1,
            () if replay.agrees => tally.agree += 1,
            () if untold => tally.untold += 1,
            () => {
                tally.disagree += 1;
                if args.json {
                    out.json_line(&Answer {
                        agrees: false,
                        receipt: &receipt,
                        explanation: &replay.explanation,
                    })?;
                } else {
                    tell(&receipt, &replay, out)?;
                }
            }
        }
        Ok(true)
    })?;
    if args.json {
        out.json_line(&tally)?;
    } else {
        out.line(&format!(
            "{} decisions agree with the evaluator, {} disagree; {} cannot be replayed from the receipt alone, {} failed closed",
            tally.agree, tally.disagree, tally.untold, tally.closed
        ))?;
    }
    if tally.agree + tally.disagree + tally.untold + tally.closed == 0 {
        return Err(CliError::Usage(format!(
            "the log {} has no decision of session {session}",
            args.log.display()
        )));
    }
    Ok(if tally.disagree == 0 { Exit::OK } else { Exit::NEGATIVE })
}

/// A replay in words.
fn tell(receipt: &Value, replay: &Replay, out: &mut Output) -> Result<(), CliError> {
    let (decision, explanation) = (&receipt["decision"], &replay.explanation);
    if let Some(closed) = &replay.closed {
        out.line(&format!(
            "The kernel failed closed ({closed}): no rule was asked. A replay says: {explanation}"
        ))?;
    } else if replay.agrees {
        out.line(&format!("{explanation}"))?;
    } else {
        let recorded = format!(
            "{} {}",
            decision["result"].as_str().unwrap_or("?"),
            decision["rule"].as_str().map_or_else(|| "by default".to_owned(), |r| format!("by rule {r}"))
        );
        out.line("THE RECEIPT AND THE EVALUATOR DISAGREE. One of them is wrong: please report this.")?;
        out.line(&format!("  receipt:   {recorded}"))?;
        out.line(&format!("  evaluator: {explanation}"))?;
        if let Some(missing) = replay.missing {
            out.line(&format!("  ({missing})"))?;
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
    Ok(())
}

fn log_error(log: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> CliError {
    CliError::Log { path: log.to_path_buf(), source: source.into() }
}

/// Goes through the receipts of a log, oldest first, as long as `go_on`.
fn each(log: &Path, mut go_on: impl FnMut(u64, &[u8]) -> Result<bool, CliError>) -> Result<(), CliError> {
    let source = super::files::log(log)?;
    for item in aarm_receipt::read::Reader::open(&*source, 0).map_err(|e| log_error(log, e))? {
        let (at, bytes) = item.map_err(|e| log_error(log, e))?;
        if !go_on(at, &bytes)? {
            break;
        }
    }
    Ok(())
}

/// The receipt meant.
fn find(args: &ExplainArgs) -> Result<Value, CliError> {
    let wanted = args.receipt.as_deref().unwrap_or_default();
    if let Ok(index) = wanted.parse::<u64>() {
        let mut found = None;
        each(&args.log, |at, bytes| {
            if at == index {
                found = Some(serde_json::from_slice(bytes).map_err(|e| log_error(&args.log, e))?);
            }
            Ok(at < index)
        })?;
        return found.ok_or_else(|| {
            CliError::Usage(format!("the log {} has no receipt {index}", args.log.display()))
        });
    }
    let bytes = files::read(Path::new(wanted), FILE_MAX)?;
    let line: Value = serde_json::from_slice(&bytes)
        .map_err(|e| CliError::Usage(format!("{} is not one receipt as JSON: {e}", wanted)))?;
    // As `aarm receipts --json` prints it, or by itself.
    Ok(if line["receipt"].is_object() { line["receipt"].clone() } else { line })
}

/// The policy that decided.
fn deciding(args: &ExplainArgs, receipt: &Value) -> Result<Deciding, CliError> {
    Deciding::new(named(args, receipt)?, policy::host_env()?)
}

fn named(args: &ExplainArgs, receipt: &Value) -> Result<Policy, CliError> {
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
