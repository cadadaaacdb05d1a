//! `aarm status`: the daemon in short.

use super::client::{Client, block_on};
use super::exit::{CliError, Exit};
use super::output::{Output, style};
use super::time::Clock;
use super::{Global, count, escape};
use crate::api::types::Status;

/// Show whether the daemon is well, and what it has recorded
///
/// Exits with 0 if everything needed to decide and record is in order, with 1 if not.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  aarm status
  aarm status --json | jq -r .log.key     # the key that verifies this host's receipts")]
pub struct StatusArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &StatusArgs, global: &Global, out: &mut Output) -> Result<Exit, CliError> {
    let status: Status = block_on(async { Client::connect(&global.socket).await?.get("/v1/status").await })?;
    if args.json {
        out.json(&status)?;
    } else {
        print(&status, out)?;
    }
    Ok(if status.ready { Exit::OK } else { Exit::NEGATIVE })
}

fn print(s: &Status, out: &mut Output) -> std::io::Result<()> {
    let clock = Clock::local();
    let (word, how) = if s.ready { ("ready", style::GOOD) } else { ("not ready", style::BAD) };
    let ready = out.paint(how, word);
    out.line(&match &s.problem {
        Some(problem) => format!("{ready}: {}", escape::value(problem)),
        None => ready,
    })?;
    let taken_over = if s.adopted { ", took over from a former daemon" } else { "" };
    let default = match &s.default_policy {
        Some(name) => format!("default {}", escape::value(name)),
        None => "no default".into(),
    };
    let lost = format!("{} lost", s.ring.lost);
    let lost = if s.ring.lost == 0 { lost } else { out.paint(style::BAD, &lost) };
    let lines = [
        (
            "daemon",
            format!(
                "{} (ABI {}), pid {}, since {}{taken_over}",
                escape::value(&s.version),
                s.abi,
                s.pid,
                clock.seconds(&s.started)
            ),
        ),
        ("kernel", escape::value(&s.kernel).into_owned()),
        ("sessions", s.sessions.to_string()),
        ("policies", format!("{} loaded, {default}", s.policies)),
        (
            "events",
            format!("{} received, {lost}, {} of {} bytes waiting", s.ring.received, s.ring.fill, s.ring.size),
        ),
        (
            "receipts",
            format!(
                "{} in {}, {} signed",
                count(s.log.size as usize, "receipt"),
                escape::value(&s.log.dir),
                s.log.signed
            ),
        ),
        ("origin", escape::value(&s.log.origin).into_owned()),
        ("key", escape::value(&s.log.key).into_owned()),
    ];
    for (label, text) in lines {
        let label = out.paint(style::HEAD, &format!("{label:<9}"));
        out.line(&format!("{label} {text}"))?;
    }
    for w in &s.log.witnesses {
        let label = out.paint(style::HEAD, &format!("{:<9}", "witness"));
        let seen = match &w.seen {
            Some(at) => {
                format!("has seen {} at {}", count(w.receipts as usize, "receipt"), clock.seconds(at))
            }
            None => "has seen nothing yet".into(),
        };
        let problem = bad(out, w.problem.as_deref());
        out.line(&format!("{label} {} {seen}{problem}", escape::text(&w.name)))?;
    }
    if let Some(a) = &s.log.archive {
        let label = out.paint(style::HEAD, &format!("{:<9}", "archive"));
        let has = match &a.at {
            Some(at) => format!("had {} at {}", count(a.receipts as usize, "receipt"), clock.seconds(at)),
            None => "was not reached yet".into(),
        };
        let problem = bad(out, a.problem.as_deref());
        out.line(&format!("{label} {} {has}{problem}", escape::text(&a.url)))?;
    }
    Ok(())
}

/// What is wrong, after what is not.
fn bad(out: &Output, problem: Option<&str>) -> String {
    problem.map_or_else(String::new, |why| format!("; {}", out.paint(style::BAD, &escape::text(why))))
}
