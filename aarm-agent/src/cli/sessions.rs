//! `aarm sessions`: who is under supervision.

use super::client::{Client, block_on};
use super::exit::{CliError, Exit};
use super::output::{Output, style};
use super::table::{self, Cell, Column};
use super::time::Clock;
use super::users::Users;
use super::{Global, escape};
use crate::api::types::{SessionInfo, SessionList, SessionQuery, SessionStart};

/// List sessions, or show one
///
/// A user sees his own sessions, root sees all.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  aarm sessions
  aarm sessions --all
  aarm sessions 100000003                 # one session and its processes
  aarm sessions --json | jq '.sessions[] | select(.actions.deny > 0)'")]
pub struct SessionsArgs {
    /// Show this session with its processes
    #[arg(value_name = "SESSION", value_parser = session_id, conflicts_with = "all")]
    session: Option<String>,
    /// Also those that ended lately
    #[arg(long, short)]
    all: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Reads a session's name: its hexadecimal id, leading zeros left out or not, or its UUID.
pub fn session_id(text: &str) -> Result<String, String> {
    let wrong =
        || "a session is named by its hexadecimal id or its UUID, see `aarm sessions --all`".to_owned();
    if let Ok(uuid) = uuid::Uuid::try_parse(text)
        && text.contains('-')
    {
        return Ok(uuid.hyphenated().to_string());
    }
    if text.is_empty() || text.len() > 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    u64::from_str_radix(text, 16).map(|id| format!("{id:016x}")).map_err(|_| wrong())
}

/// A session id without its leading zeros.
pub fn short(id: &str) -> String {
    escape::value(id.trim_start_matches('0')).into_owned()
}

/// Runs it.
pub fn run(args: &SessionsArgs, global: &Global, out: &mut Output) -> Result<Exit, CliError> {
    if let Some(id) = &args.session {
        let session: SessionInfo = block_on(async {
            Client::connect(&global.socket).await?.get(&format!("/v1/sessions/{id}")).await
        })?;
        if args.json {
            out.json(&session)?
        } else {
            show(&session, out)?
        }
        return Ok(Exit::OK);
    }
    let query = SessionQuery { ended: args.all };
    let list: SessionList =
        block_on(async { Client::connect(&global.socket).await?.query("/v1/sessions", &query).await })?;
    if args.json {
        out.json(&list)?;
    } else if list.sessions.is_empty() {
        out.line("no sessions; begin one with `aarm run -- CMD`")?;
    } else {
        print(&list, out)?;
    }
    Ok(Exit::OK)
}

fn policy(session: &SessionInfo) -> String {
    let mode =
        if session.policy.mode == "enforce" { String::new() } else { format!(" ({})", session.policy.mode) };
    escape::value(&format!("{}{mode}", session.policy.name)).into_owned()
}

fn print(list: &SessionList, out: &mut Output) -> std::io::Result<()> {
    let (users, clock) = (Users::of_host(), Clock::local());
    let columns = [
        Column::text("SESSION"),
        Column::text("STARTED"),
        Column::text("STATE"),
        Column::text("USER"),
        Column::number("PID"),
        Column::text("POLICY"),
        Column::number("TASKS"),
        Column::number("ALLOW"),
        Column::number("DENY"),
        Column::text("PROGRAM"),
    ];
    let rows: Vec<Vec<Cell>> = list
        .sessions
        .iter()
        .map(|s| {
            let state = match &s.ended {
                Some(_) => Cell::styled("ended", style::DIM),
                None => Cell::styled("running", style::GOOD),
            };
            let denied = s.actions.deny + s.actions.audit + s.actions.refused;
            vec![
                short(&s.session).into(),
                clock.seconds(&s.started).into(),
                state,
                users.name(s.uid).into(),
                s.pid.to_string().into(),
                policy(s).into(),
                s.tasks.to_string().into(),
                s.actions.allow.to_string().into(),
                if denied > 0 { Cell::styled(denied.to_string(), style::BAD) } else { "0".into() },
                escape::value(&s.exe).into_owned().into(),
            ]
        })
        .collect();
    table::print(out, &columns, &rows)
}

fn show(s: &SessionInfo, out: &mut Output) -> std::io::Result<()> {
    let (users, clock) = (Users::of_host(), Clock::local());
    let began = match s.start {
        SessionStart::Run => "by `aarm run`",
        SessionStart::Agent => "by an agent selector",
        SessionStart::Recovered => "before this daemon",
    };
    let mut lines = vec![
        ("session", short(&s.session)),
        ("uuid", escape::value(&s.uuid).into_owned()),
        ("program", escape::value(&s.exe).into_owned()),
        (
            "policy",
            format!(
                "{}, version {}, {}",
                policy(s),
                escape::value(&s.policy.version),
                escape::value(&s.policy.hash)
            ),
        ),
        ("user", users.name(s.uid)),
        ("began", format!("{} {began}", clock.seconds(&s.started))),
    ];
    lines.extend(s.ended.iter().map(|t| ("ended", clock.seconds(t))));
    lines.extend(s.human.iter().map(|t| ("for", escape::value(t).into_owned())));
    lines.extend(s.intent.iter().map(|t| ("intent", escape::value(t).into_owned())));
    let a = &s.actions;
    lines.push((
        "actions",
        format!(
            "{} allowed, {} denied, {} would be denied (audit), {} refused for want of room",
            a.allow, a.deny, a.audit, a.refused
        ),
    ));
    lines.push(("tasks", s.tasks.to_string()));
    for (label, text) in lines {
        let label = out.paint(style::HEAD, &format!("{label:<8}"));
        out.line(&format!("{label} {text}"))?;
    }
    if s.processes.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let columns =
        [Column::number("PID"), Column::number("PARENT"), Column::text("COMMAND"), Column::text("ARGUMENTS")];
    let rows: Vec<Vec<Cell>> = s
        .processes
        .iter()
        .map(|p| {
            let program = p.exe.as_deref().unwrap_or(&p.comm);
            vec![
                p.pid.to_string().into(),
                p.ppid.to_string().into(),
                escape::value(program).into_owned().into(),
                escape::value(&p.argv.join(" ")).into_owned().into(),
            ]
        })
        .collect();
    table::print(out, &columns, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_sessions() {
        assert_eq!(session_id("100000003").as_deref(), Ok("0000000100000003"));
        assert_eq!(session_id("00000001000000AB").as_deref(), Ok("00000001000000ab"));
        let uuid = "0199c2d4-7a5b-7cc0-8000-0123456789ab";
        assert_eq!(session_id(uuid).as_deref(), Ok(uuid));
        for bad in ["", "x", "../../v1/status", "12345678901234567", "+1", "0199c2d4-7a5b", "{100000003}"] {
            assert!(session_id(bad).is_err(), "{bad}");
        }
    }
}
