//! `aarm receipts`: what was recorded.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aarm_common::Decision;
use aarm_receipt::read::Reader;
use aarm_receipt::redact::reveal;
use aarm_receipt::redact::sidecar::Known;
use aarm_receipt::source::Source;
use jiff::Timestamp;

use super::client::{Client, block_on};
use super::exit::{CliError, Exit};
use super::following::{Following, unless_broken};
use super::output::Output;
use super::view::{Filter, Live};
use super::{Global, count, files, redacted, sessions, sheet, time, verify, view};
use crate::api::types::{RECEIPTS_MAX, ReceiptQuery, StreamLine, WatchQuery};

/// List receipts
///
/// Asks the daemon, which shows a user his own sessions and root all; with --log, reads a log directory itself,
/// without daemon and without verifying it (see `aarm verify`). Oldest first.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  aarm receipts --since 10m --decision DENY
  aarm receipts --session $AARM_SESSION --operation write
  aarm receipts --path /etc --decision DENY --human mia
  aarm receipts --limit 20 --json | jq .receipt
  aarm receipts --since 1d --csv > receipts.csv
  aarm receipts --follow --rule no-egress
  sudo aarm receipts --log /var/lib/aarm/log --limit 100
  sudo aarm receipts --session 0199f3c2-5b1e-7d3a-9c41-2f6a8d0e7b55 --reveal
  sudo aarm receipts rebuild-index

What each file of the log has is in an index, so that only those are read that may have what is asked for."
)]
pub struct ReceiptsArgs {
    #[command(subcommand)]
    command: Option<Command>,
    /// Only this session: its id or UUID
    #[arg(long, short, value_name = "SESSION", value_parser = sessions::session_id)]
    session: Option<String>,
    /// Only actions with this decision: ALLOW, DENY, MODIFY, STEP_UP or DEFER
    #[arg(long, short, value_name = "DECISION", value_parser = view::decision)]
    decision: Option<Decision>,
    /// Only actions of this operation, or of this family: connect, network, ...
    #[arg(long, short, value_name = "OPERATION", value_parser = view::operations)]
    operation: Option<view::Operations>,
    /// Only from then on: a time ago (90s, 10m, 2h, 3d) or a moment (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time::since)]
    since: Option<Timestamp>,
    /// Only before then: a time ago, or a moment
    #[arg(long, value_name = "TIME", value_parser = time::since)]
    until: Option<Timestamp>,
    /// Only about this path, or what is below it
    #[arg(long, value_name = "PATH", value_parser = view::path_prefix)]
    path: Option<view::PathPrefix>,
    /// Only what this rule decided, or asked about
    #[arg(long, value_name = "RULE")]
    rule: Option<String>,
    /// Only on behalf of this human
    #[arg(long, value_name = "NAME")]
    human: Option<String>,
    /// Only receipts of this kind: action, resolution, session_open, ...
    #[arg(long, value_name = "KIND", value_parser = view::kind)]
    kind: Option<String>,
    /// Only the last so many
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..=RECEIPTS_MAX))]
    limit: Option<u64>,
    /// Go on with those that come, until ^C; of those before, the last ten are shown unless --limit or --since says otherwise
    #[arg(long, short)]
    follow: bool,
    /// Read this log directory, or the archive with this URL, instead of asking the daemon
    #[arg(long, value_name = "LOG", value_hint = clap::ValueHint::DirPath)]
    log: Option<PathBuf>,
    /// Show what policies have redacted, where it is kept; filters do not see it. For root
    #[arg(long)]
    reveal: bool,
    /// Where it is kept: `redacted` in the daemon's settings
    #[arg(long, value_name = "DIR", default_value = redacted::DIR, requires = "reveal", value_hint = clap::ValueHint::DirPath)]
    redacted: PathBuf,
    /// As JSON, one object a line
    #[arg(long)]
    json: bool,
    /// As CSV, with the members that most receipts have
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    RebuildIndex(RebuildArgs),
}

/// Make the log's index anew
///
/// The daemon makes it by itself, a file at a time; copies of a log, and logs of older versions, may have none. Nothing is proven by
/// it: `aarm verify --index` holds it against the receipts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo aarm receipts rebuild-index
  aarm receipts rebuild-index --log ./copied-log")]
struct RebuildArgs {
    /// The log directory
    #[arg(long, value_name = "DIR", default_value = "/var/lib/aarm/log", value_hint = clap::ValueHint::DirPath)]
    log: PathBuf,
}

impl ReceiptsArgs {
    /// What is asked for.
    fn filter(&self) -> Filter {
        Filter {
            operations: self.operation,
            session: self.session.clone(),
            decision: self.decision,
            since: self.since,
            until: self.until,
            kind: self.kind.clone(),
            rule: self.rule.clone(),
            human: self.human.clone(),
            path: self.path.clone(),
        }
    }

    /// Of those that match, only the last so many.
    fn limit(&self) -> Option<u64> {
        const BEFORE: u64 = 10;
        self.limit.or((self.follow && self.since.is_none()).then_some(BEFORE))
    }

    /// Whether something is asked for that the daemon does not filter by.
    fn is_ours(&self) -> bool {
        let of_texts = self.rule.is_some() || self.human.is_some();
        self.operation.is_some() || self.until.is_some() || self.path.is_some() || of_texts
    }
}

/// Runs it.
pub fn run(args: &ReceiptsArgs, global: &Global, out: &mut Output) -> Result<Exit, CliError> {
    if let Some(Command::RebuildIndex(args)) = &args.command {
        return rebuild(args, out);
    }
    let form = match (args.json, args.csv) {
        (true, _) => Form::Json,
        (_, true) => Form::Csv,
        _ => Form::Text,
    };
    let session = args.session.as_deref();
    let known = args.reveal.then(|| redacted::known(&args.redacted, session)).transpose()?;
    let mut printer = Printer { live: Live::new(out), out, form, known };
    match form {
        Form::Json => {}
        Form::Csv => sheet::head(printer.out)?,
        Form::Text => printer.live.head(printer.out)?,
    }
    match &args.log {
        Some(name) => {
            if args.follow && files::url(name).is_some() {
                return Err(CliError::Usage("--follow is for log directories and the daemon".into()));
            }
            let log = files::log(name)?;
            let next = from_log(args, &*log, 0, &mut printer)?;
            if args.follow {
                follow_log(args, &*log, next, &mut printer)?;
            }
        }
        None => block_on(from_daemon(args, &global.socket, &mut printer))?,
    }
    Ok(Exit::OK)
}

/// Makes the index anew.
fn rebuild(args: &RebuildArgs, out: &mut Output) -> Result<Exit, CliError> {
    let shown = std::io::stderr().is_terminal();
    let progress = |done, all| {
        if shown {
            verify::progress(done, all);
        }
    };
    let segments = aarm_receipt::index::rebuild(&args.log, progress)
        .map_err(|e| CliError::Log { path: args.log.clone(), source: Box::new(e) })?;
    out.line(&format!("{} indexed", count(segments, "segment")))?;
    Ok(Exit::OK)
}

/// How receipts are shown.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Json,
    Csv,
}

struct Printer<'a> {
    live: Live,
    out: &'a mut Output,
    form: Form,
    /// What was redacted, if it is to be shown.
    known: Option<Known>,
}

impl Printer<'_> {
    fn print(&mut self, line: &StreamLine) -> Result<(), CliError> {
        let mut revealed = None;
        if let (Some(known), StreamLine::Receipt { index, receipt }) = (&self.known, line) {
            let mut receipt = receipt.clone();
            reveal(&mut receipt, &|commitment| known.value(commitment));
            revealed = Some(StreamLine::Receipt { index: *index, receipt });
        }
        let line = revealed.as_ref().unwrap_or(line);
        match (self.form, line) {
            (Form::Json, _) => self.out.json_line(line)?,
            (Form::Csv, StreamLine::Receipt { index, receipt }) => sheet::receipt(self.out, *index, receipt)?,
            (Form::Text, StreamLine::Receipt { receipt, .. }) => self.live.receipt(self.out, receipt)?,
            _ => {}
        }
        Ok(())
    }
}

/// The last so many of what passes.
struct Last {
    limit: Option<usize>,
    kept: VecDeque<StreamLine>,
}

impl Last {
    fn new(limit: Option<u64>) -> Self {
        Self { limit: limit.map(|n| n as usize), kept: VecDeque::new() }
    }

    fn push(&mut self, line: StreamLine, printer: &mut Printer<'_>) -> Result<(), CliError> {
        let Some(limit) = self.limit else { return printer.print(&line) };
        if self.kept.len() == limit {
            self.kept.pop_front();
        }
        self.kept.push_back(line);
        Ok(())
    }

    fn finish(self, printer: &mut Printer<'_>) -> Result<(), CliError> {
        self.kept.iter().try_for_each(|line| printer.print(line))
    }
}

async fn from_daemon(args: &ReceiptsArgs, socket: &Path, printer: &mut Printer<'_>) -> Result<(), CliError> {
    // Before the others are read, so that none is missed in between.
    let coming = match args.follow {
        true => begin(args, socket, printer.out).await?,
        false => None,
    };
    let next = from_before(args, socket, printer).await?;
    match coming {
        Some(coming) => follow(args, coming, next, printer).await,
        None => Ok(()),
    }
}

/// What comes while others are shown, and after. `None`: somebody has ended it.
async fn begin(args: &ReceiptsArgs, socket: &Path, out: &mut Output) -> Result<Option<Following>, CliError> {
    let query = WatchQuery {
        session: args.session.clone(),
        decision: args.decision.map(|d| d.name().to_owned()),
        kind: args.kind.clone(),
    };
    let mut coming = Following::begin(socket, &query).await?;
    Ok(coming.next(out).await?.map(|_| coming))
}

/// Shows those from a place in the log on.
async fn follow(
    args: &ReceiptsArgs,
    mut coming: Following,
    next: u64,
    printer: &mut Printer<'_>,
) -> Result<(), CliError> {
    let filter = args.filter();
    while let Some(line) = coming.next(printer.out).await? {
        if let StreamLine::Receipt { index, receipt } = &line
            && *index >= next
            && filter.passes(receipt)
        {
            printer.print(&line)?;
        }
    }
    Ok(())
}

/// Those that are there. The place in the log after the last that was seen.
async fn from_before(args: &ReceiptsArgs, socket: &Path, printer: &mut Printer<'_>) -> Result<u64, CliError> {
    // The daemon does not filter by all of it: then the limit is ours to apply, after those filters.
    let ours = args.is_ours();
    let query = ReceiptQuery {
        session: args.session.clone(),
        decision: args.decision.map(|d| d.name().to_owned()),
        kind: args.kind.clone(),
        since: args.since.map(|t| t.to_string()),
        limit: args.limit().filter(|_| !ours),
    };
    let filter = args.filter();
    let mut last = Last::new(args.limit().filter(|_| ours));
    let mut next = 0;
    let mut lines = Client::connect(socket).await?.stream("/v1/receipts", &query).await?;
    while let Some(line) = lines.next().await? {
        let line = unless_broken(line)?;
        if let StreamLine::Receipt { index, receipt } = &line {
            next = index + 1;
            if filter.passes(receipt) {
                last.push(line, printer)?;
            }
        }
    }
    last.finish(printer)?;
    Ok(next)
}

/// How often a log directory is looked at for more.
const POLL: Duration = Duration::from_millis(200);

/// Goes on with a log directory until somebody ends this process.
fn follow_log(
    args: &ReceiptsArgs,
    log: &dyn Source,
    mut next: u64,
    printer: &mut Printer<'_>,
) -> Result<(), CliError> {
    loop {
        printer.out.flush()?;
        std::thread::sleep(POLL);
        next = from_log(args, log, next, printer)?;
    }
}

/// Reads the log's files themselves, for root and for copies, from a place on. The place after the last.
fn from_log(
    args: &ReceiptsArgs,
    log: &dyn Source,
    from: u64,
    printer: &mut Printer<'_>,
) -> Result<u64, CliError> {
    let failed = |source: aarm_receipt::read::ReadError| CliError::Log {
        path: log.path(""),
        source: Box::new(source),
    };
    let filter = args.filter();
    // Of those that come all are shown.
    let mut last = Last::new(args.limit().filter(|_| from == 0));
    let reader = match from {
        0 => Reader::select(log, &filter.wanted()),
        _ => Reader::open(log, from),
    };
    let mut next = from;
    for item in reader.map_err(failed)? {
        let (index, bytes) = item.map_err(failed)?;
        next = index + 1;
        let receipt = serde_json::from_slice(&bytes)
            .map_err(|e| CliError::Log { path: log.path(""), source: Box::new(e) })?;
        if filter.passes(&receipt) {
            last.push(StreamLine::Receipt { index, receipt }, printer)?;
        }
    }
    last.finish(printer)?;
    Ok(next)
}
