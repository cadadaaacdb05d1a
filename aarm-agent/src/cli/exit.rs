//! Exit codes and the one error type of the command line.
//!
//! Every error says what happened and, in [`CliError::help`], what to do next. Text that came from elsewhere
//! (paths, the daemon) is escaped where it is printed, not here.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use aarm_receipt::KeyError;
use aarm_receipt::archive::ArchiveError;
use aarm_receipt::bundle::ProveError;
use aarm_receipt::history::WriteError as HistoryError;
use aarm_receipt::witness::WitnessError;

use super::output::{Color, Output, style};
use super::{count, escape};
use crate::api::types::{Diagnostic, ErrorBody, ErrorCode};
use crate::store::StoreError;

/// An exit code of `aarm`. `aarm run` passes on the status of its command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit(pub u8);

impl Exit {
    /// Done, and the answer is yes.
    pub const OK: Self = Self(0);
    /// Done, and the answer is no: tampered, invalid, a test failed, no such session.
    pub const NEGATIVE: Self = Self(1);
    /// Could not be done here: no daemon, not permitted, unreadable, a kernel that cannot enforce.
    pub const CANNOT: Self = Self(2);
    /// `verify`: what is there is intact, but not all of it is there or signed.
    pub const INCOMPLETE: Self = Self(3);
    /// `verify`: what is there is intact, but too few witnesses have seen it, or too long ago.
    pub const TOO_OLD: Self = Self(4);
    /// The command line itself is wrong (`EX_USAGE`).
    pub const USAGE: Self = Self(64);
    /// `run`: aarm failed, the command was not run.
    pub const RUN_FAILED: Self = Self(125);
    /// `run`: the command was found but not executed: no permission, or the policy refused it.
    pub const RUN_REFUSED: Self = Self(126);
    /// `run`: no such command.
    pub const RUN_NOT_FOUND: Self = Self(127);
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.0)
    }
}

/// The table of exit codes, shown by `aarm --help`.
pub const HELP: &str = "\
Exit codes:
  0    done
  1    done, and the answer is no (tampered, invalid, a test failed, no such session)
  2    cannot be done here (no daemon, not permitted, unreadable, the kernel cannot enforce)
  3    verify: what is there is intact, but not complete
  4    verify: what is there is intact, but seen by too few witnesses, or too long ago
  64   wrong usage
  run  passes the command's status on, 128+N and the same signal if a signal N ended it;
       125 aarm failed and nothing was run (also for wrong usage), 126 the command may not be
       executed, 127 there is no such command";

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Nobody listens on the socket.
    #[error("no daemon answers at {}", socket.display())]
    NoDaemon {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The daemon answered with an error.
    #[error("{}", body.error.message)]
    Refused {
        /// Its answer.
        body: Box<ErrorBody>,
    },
    /// What answered does not speak this protocol, or went away in the middle.
    #[error("the daemon at {} did not answer as expected: {what}", socket.display())]
    Protocol {
        /// The socket.
        socket: PathBuf,
        /// What was wrong.
        what: String,
    },
    /// The daemon took too long.
    #[error("the daemon at {} did not answer within {seconds} seconds", socket.display())]
    Timeout {
        /// The socket.
        socket: PathBuf,
        /// The limit.
        seconds: u64,
    },
    /// A stream ended before everything was said.
    #[error("the stream broke off: {count} receipts were not sent because this end was too slow")]
    Lost {
        /// How many.
        count: u64,
    },
    /// The daemon stopped while something was watched.
    #[error("the daemon stopped")]
    Stopped,
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is larger than its kind may be.
    #[error("{} is larger than {limit} bytes", path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// A policy with errors, all of them.
    #[error("{} cannot be used: {} in it", path.display(), count(diagnostics.len(), "error"))]
    Policy {
        /// The file.
        path: PathBuf,
        /// What is wrong, in the order of the file.
        diagnostics: Vec<Diagnostic>,
    },
    /// An argument that parses but makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A receipt log could not be opened or read.
    #[error("cannot read the receipt log {}", path.display())]
    Log {
        /// Directory or file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A log is where it cannot be read.
    #[error("cannot read {}: {why}", path.display())]
    Unreached {
        /// The log.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A URL leads to no store.
    #[error("no archive")]
    Store(#[from] StoreError),
    /// A log is not archived.
    #[error("not archived")]
    Archive(#[from] ArchiveError),
    /// A receipt cannot be proven.
    #[error("no proof")]
    Prove(#[from] ProveError),
    /// A session's history cannot be written.
    #[error("no history")]
    History(#[from] HistoryError),
    /// A file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The verifier was given no key or a bad one.
    #[error("no usable verifier key: {0}")]
    Key(String),
    /// The keys of witnesses are none.
    #[error("no usable keys of witnesses: {0}")]
    Witnesses(String),
    /// A witness cannot be one.
    #[error("this witness cannot be one")]
    Witness(#[from] WitnessError),
    /// Signing keys cannot be read or made.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// An address cannot be served.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: std::net::SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// `run`: this process has more than one thread, so a session would not hold all of it.
    #[error("this process has {threads} threads where it must have one")]
    Threads {
        /// How many.
        threads: usize,
    },
    /// A system call that should not fail failed.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Writing the output failed.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
}

impl CliError {
    /// A failed system call.
    pub fn system(what: &'static str) -> impl FnOnce(nix::Error) -> Self {
        move |e| Self::System { what, source: e.into() }
    }

    /// The exit code for this error, outside `aarm run`.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) | Self::Witness(WitnessError::Name(_)) => Exit::USAGE,
            Self::Policy { .. }
            | Self::Prove(ProveError::NotSigned { .. } | ProveError::Tampered)
            | Self::History(HistoryError::None(_)) => Exit::NEGATIVE,
            Self::Store(StoreError::Url { .. }) => Exit::USAGE,
            Self::Archive(e) if matches!(e.reason(), "disagrees" | "changed") => Exit::NEGATIVE,
            Self::Refused { body } => match body.error.code {
                ErrorCode::NotFound | ErrorCode::UnknownPolicy | ErrorCode::PolicyInvalid => Exit::NEGATIVE,
                ErrorCode::BadRequest => Exit::USAGE,
                _ => Exit::CANNOT,
            },
            // Whoever read our output has seen enough, as with `| head`.
            Self::Output(e) if e.kind() == io::ErrorKind::BrokenPipe => Exit::OK,
            _ => Exit::CANNOT,
        }
    }

    /// What to do next.
    pub fn help(&self) -> Option<String> {
        let text = match self {
            Self::NoDaemon { source, socket } => match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    format!("you may not connect to it: check the permissions of {}", socket.display())
                }
                _ => "start it with `sudo systemctl start aarm-agent` (or `sudo aarm-agent`); \
                      `aarm doctor` tells whether this host can run it; \
                      if it listens elsewhere, name its socket with --socket PATH or AARM_SOCKET"
                    .into(),
            },
            Self::Refused { body } => return body.error.help.clone(),
            Self::Protocol { .. } => "check that --socket names the socket of an aarm daemon, \
                                      and that it has the version of this command (`aarm status`)"
                .into(),
            Self::Timeout { .. } => "see `journalctl -u aarm-agent` for what it is doing".into(),
            Self::Stopped => "sessions go on and stay supervised; watch again when it is back".into(),
            Self::Lost { .. } => "nothing is lost in the log: read it with `aarm receipts`".into(),
            Self::TooLarge { .. } => "nothing of its kind needs so much: is it the right file?".into(),
            Self::Policy { path, .. } => format!("`aarm policy check {}` shows each place", path.display()),
            Self::Usage(_) => "see `aarm help`".into(),
            Self::Key(_) => "give the log's public key with --key FILE or --key 'NAME+HASH+KEY'; \
                             `aarm status` prints it"
                .into(),
            Self::Witness(WitnessError::NoKey(_)) => {
                "make one with `aarm witness key --name NAME`, with the same --state".into()
            }
            Self::Witnesses(_) => "each line is what `aarm witness key` prints: NAME+HASH+KEY".into(),
            Self::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "run it as root, or as the user who may read it".into()
            }
            Self::History(HistoryError::None(_)) => {
                "a checkpoint follows within a second or so; `aarm sessions --all` has the sessions' UUIDs"
                    .into()
            }
            Self::Log { .. } | Self::Prove(ProveError::Io { .. }) | Self::History(HistoryError::Read(_)) => {
                "name the log's directory (the daemon's is /var/lib/aarm/log; reading it takes root)".into()
            }
            Self::Unreached { .. } | Self::Store(StoreError::Open { .. }) => {
                "this says nothing of the log: see what the environment says of credentials, region and endpoint (`aarm archive --help`)"
                    .into()
            }
            Self::Archive(ArchiveError::Store { .. }) => {
                "begin it again when the store can be written to: it goes on where it was".into()
            }
            Self::Threads { .. } => "report this: it is a bug in aarm".into(),
            _ => return None,
        };
        Some(text)
    }

    /// Places where a policy is wrong.
    fn diagnostics(&self) -> &[Diagnostic] {
        match self {
            Self::Refused { body } => &body.diagnostics,
            Self::Policy { diagnostics, .. } => diagnostics,
            _ => &[],
        }
    }

    /// Says it on standard error. A closed pipe is nothing to talk about.
    pub fn report(&self, color: Color) {
        if matches!(self, Self::Output(e) if e.kind() == io::ErrorKind::BrokenPipe) {
            return;
        }
        let mut out = Output::stderr(color);
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(source) = cause {
            text.push_str(": ");
            text.push_str(&source.to_string());
            cause = source.source();
        }
        let mut lines = vec![format!("{}: {}", out.paint(style::ERROR, "aarm"), escape::text(&text))];
        lines.extend(self.diagnostics().iter().map(|d| format!("  {}", escape::text(&d.to_string()))));
        if let Some(help) = self.help() {
            lines.push(format!("  {}: {}", out.paint(style::HELP, "help"), escape::text(&help)));
        }
        // Nobody can be told that standard error is closed.
        let _ = lines.iter().try_for_each(|line| out.line(line));
    }
}
