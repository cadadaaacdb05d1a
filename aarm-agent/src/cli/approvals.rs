//! `aarm approvals`: what waits for an answer, and answering.

use std::collections::HashMap;
use std::io::{BufRead, IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};

use super::client::{Client, block_on};
use super::exit::{CliError, Exit};
use super::output::{Output, style};
use super::table::{self, Cell, Column};
use super::time::Clock;
use super::users::Users;
use super::{Global, escape};
use crate::api::approvals::{
    AnswerRequest, AnswerResponse, Approval, ApprovalList, COMMENT_MAX, SECONDS_MAX, Scope, USES_MAX,
};
use crate::api::signed::{Envelope, Signed};

/// How often `watch` looks.
const LOOK: Duration = Duration::from_millis(500);

/// List what waits for an answer, and answer it
///
/// Where a policy says STEP_UP or DEFER, the system call waits, without having had an effect, until somebody whom the policy
/// names answers, or its time is over: then it is refused. Nobody inside a session can answer.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  aarm approvals
  aarm approvals show 5f0c1f7d9a3b2e61
  aarm approvals approve 5f0c1f7d9a3b2e61
  aarm approvals approve 5f0c1f7d9a3b2e61 --for 10m --comment 'release day'
  aarm approvals deny 5f0c1f7d9a3b2e61
  aarm approvals approve 5f0c1f7d9a3b2e61 --like   # and all that wait and are like it
  aarm approvals watch                     # asks, one after the other
  aarm approvals watch --notify            # and says so on the desktop
  aarm approvals --json | jq '.approvals[].id'"
)]
pub struct ApprovalsArgs {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List what waits
    #[command(after_help = "Examples:\n  aarm approvals list --json")]
    List(ListArgs),
    /// Show all that is known of one
    #[command(after_help = "Examples:\n  aarm approvals show 5f0c1f7d9a3b2e61")]
    Show {
        /// Its name
        #[arg(value_name = "ID", value_parser = id)]
        id: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Let it happen
    #[command(
        after_help = "Examples:\n  aarm approvals approve 5f0c1f7d9a3b2e61\n  aarm approvals approve 5f0c1f7d9a3b2e61 --session"
    )]
    Approve {
        /// Its name
        #[arg(value_name = "ID", value_parser = id)]
        id: String,
        #[command(flatten)]
        scope: ScopeArgs,
        /// For the receipt
        #[arg(long, value_name = "TEXT", value_parser = comment)]
        comment: Option<String>,
    },
    /// Refuse it
    #[command(after_help = "Examples:\n  aarm approvals deny 5f0c1f7d9a3b2e61 --comment 'not on a Friday'")]
    Deny {
        /// Its name
        #[arg(value_name = "ID", value_parser = id)]
        id: String,
        /// All that wait now and are like it as well: of the same session, program, operation and rules
        #[arg(long)]
        like: bool,
        /// For the receipt
        #[arg(long, value_name = "TEXT", value_parser = comment)]
        comment: Option<String>,
    },
    /// Make a key for signing answers, and print what the daemon's settings need of it
    #[command(
        after_help = "Examples:\n  aarm approvals keygen mia.pk8    # then in agent.yaml: approver_keys: { mia: … }, in a policy: approvers: ['key:mia']"
    )]
    Keygen {
        /// The new file, for its owner only
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Sign an answer to a request that came from elsewhere; prints what to post to the daemon
    #[command(
        after_help = "Examples:\n  aarm approvals sign --key mia.pk8 --as mia REQUEST approve | curl --json @- http://HOST:9466/v1/answers\n  aarm approvals sign --key mia.pk8 --as mia REQUEST deny --comment 'not today'"
    )]
    Sign {
        /// The key
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Its name in the daemon's settings
        #[arg(long = "as", value_name = "NAME")]
        name: String,
        /// The request: `request` of what the webhook told
        #[arg(value_parser = request)]
        request: String,
        /// The answer
        answer: Word,
        #[command(flatten)]
        scope: ScopeArgs,
        /// For the receipt
        #[arg(long, value_name = "TEXT", value_parser = comment)]
        comment: Option<String>,
    },
    /// Ask for each, as they come: one key and return
    #[command(
        after_help = "Examples:\n  aarm approvals watch\n  aarm approvals watch --notify    # where notify-send(1) is there"
    )]
    Watch {
        /// Say on the desktop what waits
        #[arg(long)]
        notify: bool,
    },
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Word {
    /// It may happen
    Approve,
    /// It may not
    Deny,
}

/// A request's hash.
fn request(text: &str) -> Result<String, String> {
    let digits = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if digits { Ok(text.to_owned()) } else { Err("a request is 64 hexadecimal digits".into()) }
}

/// Makes a key.
fn keygen(file: &Path, out: &mut Output) -> Result<Exit, CliError> {
    let failed = |why: &str| CliError::Usage(format!("{}: {why}", file.display()));
    let pkcs8 =
        Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| failed("no random numbers"))?;
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).map_err(|_| failed("no key"))?;
    let mut to = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .map_err(|e| failed(&e.to_string()))?;
    to.write_all(pkcs8.as_ref()).and_then(|()| to.sync_all()).map_err(|e| failed(&e.to_string()))?;
    out.line(&STANDARD.encode(pair.public_key().as_ref()))?;
    Ok(Exit::OK)
}

/// Signs an answer.
fn sign(key: &Path, answer: Signed, out: &mut Output) -> Result<Exit, CliError> {
    let failed = |why: &str| CliError::Usage(format!("{}: {why}", key.display()));
    let mut pkcs8 = Vec::new();
    std::fs::File::open(key)
        .and_then(|file| file.take(4096).read_to_end(&mut pkcs8))
        .map_err(|e| failed(&e.to_string()))?;
    // As `openssl genpkey -algorithm ed25519 -outform DER` makes it as well.
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pkcs8)
        .map_err(|_| failed("it is no Ed25519 key in PKCS#8"))?;
    let signature = STANDARD.encode(pair.sign(&answer.bytes()).as_ref());
    out.json(&Envelope { answer, signature })?;
    Ok(Exit::OK)
}

/// For what an approval is good: without an option for this one action.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct ScopeArgs {
    /// Only this action (the default)
    #[arg(long)]
    once: bool,
    /// The same action of the session, until it ends
    #[arg(long)]
    session: bool,
    /// The same action of the session for so long, such as 10m; at most 7 days
    #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
    time: Option<u64>,
    /// The same action of the session so often, this time included
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=USES_MAX))]
    uses: Option<u64>,
    /// All that wait now and are like it, each once: of the same session, program, operation and rules
    #[arg(long)]
    like: bool,
}

impl ScopeArgs {
    fn scope(&self) -> Scope {
        match (self.session, self.time, self.uses) {
            _ if self.like => Scope::Like,
            (true, ..) => Scope::Session,
            (_, Some(seconds), _) => Scope::Seconds(seconds),
            (_, _, Some(uses)) => Scope::Uses(uses),
            _ => Scope::Once,
        }
    }
}

/// The name of a hold.
fn id(text: &str) -> Result<String, String> {
    if text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(text.to_owned());
    }
    Err("its name has 16 hexadecimal digits, see `aarm approvals`".into())
}

/// Whole seconds from `90s`, `10m`, `2h`, `1d`.
fn seconds(text: &str) -> Result<u64, String> {
    let span = aarm_policy::Span::parse(text).map(|span| span.0 / 1_000_000_000);
    span.filter(|s| (1..=SECONDS_MAX).contains(s))
        .ok_or_else(|| "a time is 90s, 10m, 2h or 1d; at most 7d".into())
}

fn comment(text: &str) -> Result<String, String> {
    if text.len() > COMMENT_MAX {
        Err("a comment has at most 1,024 bytes".into())
    } else {
        Ok(text.to_owned())
    }
}

/// Runs it.
pub fn run(args: &ApprovalsArgs, global: &Global, out: &mut Output) -> Result<Exit, CliError> {
    match &args.command {
        None => list(args.list.json, global, out),
        Some(Command::List(args)) => list(args.json, global, out),
        Some(Command::Show { id, json }) => {
            let one: Approval = block_on(async {
                Client::connect(&global.socket).await?.get(&format!("/v1/approvals/{id}")).await
            })?;
            if *json {
                out.json(&one)?
            } else {
                show(&one, out)?
            }
            Ok(Exit::OK)
        }
        Some(Command::Approve { id, scope, comment }) => {
            let request = AnswerRequest { allow: true, scope: scope.scope(), comment: comment.clone() };
            answer(id, &request, global, out)
        }
        Some(Command::Deny { id, like, comment }) => {
            let scope = if *like { Scope::Like } else { Scope::Once };
            let request = AnswerRequest { allow: false, scope, comment: comment.clone() };
            answer(id, &request, global, out)
        }
        Some(Command::Keygen { file }) => keygen(file, out),
        Some(Command::Sign { key, name, request, answer, scope, comment }) => {
            let allow = *answer == Word::Approve;
            let scope = if allow || scope.like { scope.scope() } else { Scope::Once };
            let (request, comment) = (request.clone(), comment.clone());
            sign(key, Signed { approver: name.clone(), request, allow, scope, comment }, out)
        }
        Some(Command::Watch { notify }) => watch(*notify, global, out),
    }
}

fn fetch(global: &Global) -> Result<ApprovalList, CliError> {
    block_on(async { Client::connect(&global.socket).await?.get("/v1/approvals").await })
}

fn list(json: bool, global: &Global, out: &mut Output) -> Result<Exit, CliError> {
    let list = fetch(global)?;
    if json {
        out.json(&list)?;
    } else if list.approvals.is_empty() {
        out.line("nothing waits for an answer")?;
    } else {
        print(&list, out)?;
    }
    Ok(Exit::OK)
}

fn send(id: &str, request: &AnswerRequest, global: &Global) -> Result<AnswerResponse, CliError> {
    block_on(async {
        Client::connect(&global.socket).await?.post(&format!("/v1/approvals/{id}"), request).await
    })
}

fn answer(id: &str, request: &AnswerRequest, global: &Global, out: &mut Output) -> Result<Exit, CliError> {
    let done = send(id, request, global)?;
    out.line(&told(&done))?;
    Ok(Exit::OK)
}

/// What an answer did.
fn told(done: &AnswerResponse) -> String {
    let mut answer = format!("{} {}", escape::value(&done.id), escape::value(&done.answer));
    if done.others > 0 {
        answer = format!("{answer}, and {} like it", done.others);
    }
    match done.left {
        0 => answer,
        n => format!("{answer}; it waits on: {n} more of the rules that ask must be answered by others"),
    }
}

/// What it is about, in a line.
fn object(a: &Approval) -> String {
    let mut text = match (&a.address, a.hosts.first()) {
        (Some(address), Some(host)) => format!("{host} ({address})"),
        (Some(address), None) => address.clone(),
        (None, _) if a.operation == "exec_args" => a.argv.join(" "),
        (None, _) => a.path.clone(),
    };
    if !a.path2.is_empty() && a.address.is_none() {
        text = format!("{text} -> {}", a.path2);
    }
    escape::value(&text).into_owned()
}

fn print(list: &ApprovalList, out: &mut Output) -> std::io::Result<()> {
    let (users, clock) = (Users::of_host(), Clock::local());
    let columns = [
        Column::text("ID"),
        Column::text("SINCE"),
        Column::text("UNTIL"),
        Column::text("RISK"),
        Column::text("USER"),
        Column::number("PID"),
        Column::text("COMMAND"),
        Column::text("ACTION"),
        Column::text("OBJECT"),
        Column::text("RULE"),
    ];
    let rows: Vec<Vec<Cell>> = kinds(&list.approvals)
        .into_iter()
        .map(|(a, others)| {
            let risk = a.asked.risk.as_deref().unwrap_or("-");
            vec![
                escape::value(&a.id).into_owned().into(),
                clock.seconds(&a.requested).into(),
                clock.seconds(&a.asked.deadline).into(),
                if matches!(risk, "HIGH" | "CRITICAL") {
                    Cell::styled(risk, style::BAD)
                } else {
                    escape::value(risk).into_owned().into()
                },
                users.name(a.uid).into(),
                a.pid.to_string().into(),
                escape::value(&a.comm).into_owned().into(),
                escape::value(&a.operation).into_owned().into(),
                (object(a) + &more(others)).into(),
                escape::value(a.asked.rule.as_deref().unwrap_or("(default)")).into_owned().into(),
            ]
        })
        .collect();
    table::print(out, &columns, &rows)
}

/// Those that wait, but of those that are like each other the first only, and how many more there are.
fn kinds(all: &[Approval]) -> Vec<(&Approval, usize)> {
    let mut kinds: Vec<(&Approval, usize)> = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
    for a in all {
        match known.get(a.like.as_str()).filter(|_| !a.like.is_empty()) {
            Some(at) => kinds[*at].1 += 1,
            None => {
                known.insert(&a.like, kinds.len());
                kinds.push((a, 0));
            }
        }
    }
    kinds
}

/// How many more there are.
fn more(others: usize) -> String {
    if others == 0 { String::new() } else { format!(" (and {others} like it)") }
}

fn show(a: &Approval, out: &mut Output) -> std::io::Result<()> {
    let (users, clock) = (Users::of_host(), Clock::local());
    let value = |text: &str| escape::value(text).into_owned();
    let mut lines = vec![
        ("id", value(&a.id)),
        ("action", format!("{} {}", value(&a.operation), object(a))),
        ("decision", format!("{} because of {}", value(&a.asked.decision), value(&a.asked.cause))),
        ("rule", value(a.asked.rule.as_deref().unwrap_or("(default)"))),
    ];
    lines.extend(a.asked.reason.iter().map(|t| ("reason", value(t))));
    lines.extend(a.asked.risk.iter().map(|t| ("risk", value(t))));
    lines.push((
        "policy",
        format!("{}, version {}, {}", value(&a.policy.name), value(&a.policy.version), value(&a.policy.hash)),
    ));
    lines.push(("session", format!("{} {}", super::sessions::short(&a.session), value(&a.uuid))));
    lines.extend(a.intent.iter().map(|t| ("intent", value(t))));
    lines.extend(a.human.iter().map(|t| ("for", value(t))));
    if !a.labels.is_empty() {
        lines.push(("labels", value(&a.labels.join(" "))));
    }
    let thread = if a.tid == a.pid { String::new() } else { format!(", thread {}", a.tid) };
    lines.push(("process", format!("{}{thread}, {}", a.pid, value(&a.comm))));
    if !a.exe.is_empty() {
        lines.push(("program", value(&a.exe)));
    }
    if !a.argv.is_empty() {
        lines.push(("command", value(&a.argv.join(" "))));
    }
    if !a.cwd.is_empty() {
        lines.push(("in", value(&a.cwd)));
    }
    lines.push(("user", users.name(a.uid)));
    lines.push((
        "waits",
        format!(
            "since {}, until {}: then {}",
            clock.seconds(&a.requested),
            clock.seconds(&a.asked.deadline),
            value(&a.asked.on_timeout)
        ),
    ));
    let more = if a.asked.escalated { " (escalated)" } else { "" };
    lines.push(("approvers", format!("{}{more}", value(&a.asked.approvers.join(", ")))));
    for one in &a.also {
        let rule = value(one.rule.as_deref().unwrap_or("(default)"));
        let who = value(&one.approvers.join(", "));
        lines.push(("also", format!("{rule}: {who}, until {}", clock.seconds(&one.deadline))));
    }
    if !a.request.is_empty() {
        lines.push(("request", value(&a.request)));
    }
    for one in &a.prior {
        let rule = one.rule.as_deref().map_or(String::new(), |rule| format!(" ({})", value(rule)));
        let what =
            format!("{} {}: {}{rule}", value(&one.operation), value(&one.object), value(&one.decision));
        lines.push(("before", format!("{} {what}", clock.seconds(&one.time))));
    }
    for one in &a.attempts {
        let detail = if one.detail.is_empty() { String::new() } else { format!(": {}", value(&one.detail)) };
        lines.push(("asked", format!("{}: {}{detail}", value(&one.resolver), value(&one.found))));
    }
    for (name, fact) in &a.facts {
        lines.push(("fact", format!("{}: {}", value(name), value(fact))));
    }
    for one in &a.answered {
        let rule = value(one.rule.as_deref().unwrap_or("(default)"));
        lines.push(("answered", format!("{rule}: {}", value(&one.approver))));
    }
    for (label, text) in lines {
        let label = out.paint(style::HEAD, &format!("{label:<9}"));
        out.line(&format!("{label} {text}"))?;
    }
    out.line("")?;
    out.line(&format!(
        "what the session did before: aarm receipts --session {}",
        super::sessions::short(&a.session)
    ))
}

/// Says on the desktop what waits, if there is one that can be told.
fn notify(program: &Path, a: &Approval, others: usize) -> std::io::Result<()> {
    let (head, text) = notice(a, others);
    let urgency = match a.asked.risk.as_deref() {
        Some("HIGH" | "CRITICAL") => "critical",
        _ => "normal",
    };
    let told = std::process::Command::new(program)
        .args(["--app-name=aarm", "--urgency", urgency, "--", &head, &text])
        .stdin(std::process::Stdio::null())
        .output()?;
    match told.status.success() {
        true => Ok(()),
        false => Err(std::io::Error::other(String::from_utf8_lossy(&told.stderr).trim().to_owned())),
    }
}

/// What the desktop is told. Its text is markup.
fn notice(a: &Approval, others: usize) -> (String, String) {
    let rule = a.asked.rule.as_deref().unwrap_or("a default");
    let because = a.asked.reason.as_deref().map_or(String::new(), |reason| format!(": {reason}"));
    let head = format!("{} wants to {}", escape::value(&a.comm), escape::value(&a.operation));
    let text = format!("{}{}\n{rule}{because}\naarm approvals approve {}", object(a), more(others), a.id);
    (head, text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"))
}

/// Asks for each that waits, until standard input ends.
fn watch(on_desktop: bool, global: &Global, out: &mut Output) -> Result<Exit, CliError> {
    if !std::io::stdin().is_terminal() {
        return Err(CliError::Usage(
            "`aarm approvals watch` asks at a terminal; use `approve` and `deny` elsewhere".into(),
        ));
    }
    let mut passed: Vec<String> = Vec::new();
    let mut on_desktop = on_desktop;
    out.line("waiting for what needs an answer; end with Ctrl-C")?;
    out.flush()?;
    loop {
        let list = fetch(global)?;
        passed.retain(|id| list.approvals.iter().any(|a| a.id == *id));
        let Some((next, others)) = kinds(&list.approvals).into_iter().find(|(a, _)| !passed.contains(&a.id))
        else {
            std::thread::sleep(LOOK);
            continue;
        };
        if on_desktop && let Err(e) = notify(Path::new("notify-send"), next, others) {
            out.line(&format!("nothing is said on the desktop: notify-send: {e}"))?;
            on_desktop = false;
        }
        out.line("")?;
        show(next, out)?;
        let all = match others {
            0 => String::new(),
            n => format!("A: approve it and {n} like it   D: deny them   "),
        };
        out.raw(
            format!("a: approve once   s: for the session   d: deny   {all}return: later > ").as_bytes(),
        )?;
        out.flush()?;
        std::io::stdout().flush()?;
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line)? == 0 {
            return Ok(Exit::OK);
        }
        let (allow, scope) = match line.trim() {
            "a" => (true, Scope::Once),
            "s" => (true, Scope::Session),
            "d" => (false, Scope::Once),
            "A" if others > 0 => (true, Scope::Like),
            "D" if others > 0 => (false, Scope::Like),
            _ => {
                passed.extend(list.approvals.iter().filter(|a| a.like == next.like).map(|a| a.id.clone()));
                continue;
            }
        };
        match send(&next.id, &AnswerRequest { allow, scope, comment: None }, global) {
            Ok(done) => out.line(&told(&done))?,
            // Somebody else was faster, or its time is over: the next one may still be answered.
            Err(e @ CliError::Refused { .. }) => {
                out.line(&e.to_string())?;
                passed.push(next.id.clone());
            }
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_times() {
        assert!(id("00000000000000ab").is_ok());
        for bad in ["", "ab", "00000000000000AB", "../../v1/status0", "00000000000000ab0"] {
            assert!(id(bad).is_err(), "{bad}");
        }
        assert_eq!((seconds("90s"), seconds("10m"), seconds("7d")), (Ok(90), Ok(600), Ok(604_800)));
        for bad in ["", "0s", "10ms", "8d", "-1s", "10"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn text_of_agents_reaches_terminals_and_desktops_escaped() {
        let a = Approval { path: "/tmp/\u{1b}[2J<b>x&".into(), ..Approval::default() };
        assert!(!object(&a).contains('\u{1b}'));
        let (_, text) = notice(&a, 2);
        assert!(
            !text.contains(['\u{1b}', '<', '>']) && text.contains("&lt;b&gt;x&amp; (and 2 like it)"),
            "{text}"
        );
    }

    #[test]
    fn the_desktop_is_told_by_its_own_program() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (program, told) = (dir.path().join("notify-send"), dir.path().join("told"));
        std::fs::write(&program, format!("#!/bin/sh\nfor a; do echo \"$a\"; done > {}\n", told.display()))
            .unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let asked = crate::api::approvals::Asked { risk: Some("HIGH".into()), ..Default::default() };
        let a =
            Approval { id: "ab".into(), comm: "-x".into(), path: "/p".into(), asked, ..Approval::default() };
        notify(&program, &a, 0).unwrap();
        let told = std::fs::read_to_string(told).unwrap();
        // What the agent is called is no option.
        assert!(told.starts_with("--app-name=aarm\n--urgency\ncritical\n--\n-x wants to"), "{told}");
        assert!(told.ends_with("aarm approvals approve ab\n"), "{told}");
        assert!(notify(&dir.path().join("none"), &a, 0).is_err());
    }

    #[test]
    fn those_that_are_like_each_other_are_shown_once() {
        let one = |id: &str, like: &str| Approval { id: id.into(), like: like.into(), ..Approval::default() };
        let all = [one("1", "x"), one("2", "y"), one("3", "x"), one("4", ""), one("5", ""), one("6", "x")];
        let shown: Vec<(&str, usize)> = kinds(&all).into_iter().map(|(a, n)| (a.id.as_str(), n)).collect();
        assert_eq!(shown, [("1", 2), ("2", 0), ("4", 0), ("5", 0)]);
    }
}
