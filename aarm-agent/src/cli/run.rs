//! `aarm run`: puts a command into a session, or does not run it.
//!
//! Promises: the command's first action is decided already, because the process that becomes the command
//! registers *itself* and executes only after the daemon said that it is in a session. Whatever goes wrong
//! before that, the command is not run.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::execvp;

use super::exit::{CliError, Exit};
use super::output::Color;
use super::supervise::{self, End};
use super::{Global, client, escape, files};
use crate::api::types::{ErrorCode, RegisterRequest, RegisterResponse};

/// Environment variable in which a command finds the UUID of its session.
pub const SESSION_ENV: &str = "AARM_SESSION";

/// Run a command under supervision
///
/// The command and everything it starts become one session: each of its actions is decided by the policy
/// before it takes effect, and leaves a receipt. Without a daemon the command is not run. It finds the UUID of
/// its session in AARM_SESSION.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  aarm run -- git status
  aarm run --policy coding-agent --intent 'fix the login test' -- claude
  aarm run --policy ./strict.yaml --as alice@example.com -- bash -c 'make && make test'

Exit codes: that of the command (128+N and the same signal if signal N ended it);
125 aarm failed and nothing was run, 126 the command may not be executed, 127 no such command.")]
pub struct RunArgs {
    /// Policy: the name of a loaded one, or a file (a value with a `/` in it, or ending in .yaml, .yml or
    /// .json). Default: the daemon's default policy
    #[arg(long, short, value_name = "NAME|FILE")]
    policy: Option<OsString>,
    /// What the session is for; recorded in its receipts
    #[arg(long, short, value_name = "TEXT")]
    intent: Option<String>,
    /// On whose behalf it runs; recorded as a claim
    #[arg(long = "as", value_name = "HUMAN")]
    human: Option<String>,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD", value_hint = clap::ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
}

/// Whether `--policy` means a file.
///
/// Only its form counts, never whether there is such a file: what lies in the working directory must not
/// take the place of a loaded policy.
fn policy_file(value: &OsString) -> Option<PathBuf> {
    let bytes = value.as_bytes();
    let file =
        bytes.contains(&b'/') || [".yaml", ".yml", ".json"].iter().any(|e| bytes.ends_with(e.as_bytes()));
    file.then(|| value.into())
}

impl RunArgs {
    fn request(&self) -> Result<RegisterRequest, CliError> {
        let mut request = RegisterRequest {
            intent: self.intent.clone(),
            human: self.human.clone(),
            ..RegisterRequest::default()
        };
        if let Some(value) = &self.policy {
            if let Some(path) = policy_file(value) {
                request.policy_text = Some(files::policy_text(&path)?);
                request.policy_file = Some(path.to_string_lossy().into_owned());
            } else {
                request.policy = Some(value.to_string_lossy().into_owned());
            }
        }
        Ok(request)
    }
}

/// Runs it. Returns how the command ended, or the exit code where it was not run.
pub fn run(args: RunArgs, global: &Global) -> Result<Exit, CliError> {
    let request = args.request()?;
    let command = args
        .command
        .into_iter()
        .map(|a| CString::new(a.into_vec()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| CliError::Usage("an argument holds a NUL byte".into()))?;
    let end = supervise::supervise(|| become_command(&command, &request, &global.socket, global.color))?;
    // Dies by the same signal, where one ended the command.
    Ok(match end {
        End::Exited(status) => Exit(status),
        End::Signaled(_) => Exit(supervise::end_like(end)),
    })
}

/// What the child does; returns only if the command does not run.
fn become_command(command: &[CString], request: &RegisterRequest, socket: &Path, color: Color) -> Exit {
    let session = match register(request, socket) {
        Ok(session) => session,
        Err(e) => return not_run(&e, request, color),
    };
    // From here on every action is decided and recorded: nothing may happen that is not the command's.
    // SAFETY: this process has one thread.
    unsafe { std::env::set_var(SESSION_ENV, &session.uuid) };
    let Err(errno) = execvp(&command[0], command);
    let name = escape::bytes(command[0].as_bytes());
    eprintln!("aarm: cannot run {name}: {}", errno.desc());
    match errno {
        Errno::ENOENT | Errno::ENOTDIR => Exit::RUN_NOT_FOUND,
        Errno::EPERM | Errno::EACCES => {
            if errno == Errno::EPERM {
                eprintln!("  the policy {} denies it", escape::value(&session.policy.name));
            }
            eprintln!(
                "  help: `aarm receipts --session {} --decision DENY` tells by which rule, if the policy \
                 denied it (or see it live with `aarm watch`)",
                escape::value(&session.uuid)
            );
            Exit::RUN_REFUSED
        }
        _ => Exit::RUN_REFUSED,
    }
}

/// Puts this process into a session.
fn register(request: &RegisterRequest, socket: &Path) -> Result<RegisterResponse, CliError> {
    client::block_on(async {
        let mut client = client::Client::connect(socket).await?;
        // Looked at while this process may still look without leaving a receipt.
        match supervise::threads()? {
            1 => client.post("/v1/sessions", request).await,
            threads => Err(CliError::Threads { threads }),
        }
    })
}

fn not_run(error: &CliError, request: &RegisterRequest, color: Color) -> Exit {
    error.report(color);
    if let CliError::Refused { body } = error
        && body.error.code == ErrorCode::UnknownPolicy
        && let Some(name) = request.policy.as_deref().filter(|n| Path::new(n).is_file())
    {
        eprintln!("  help: to use the file of that name, write --policy ./{}", escape::value(name));
    }
    eprintln!("  the command was not run: aarm runs nothing unsupervised");
    Exit::RUN_FAILED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_never_a_file_by_accident() {
        for name in ["coding-agent", "Cargo", "yaml", ".", "a.yaml.old"] {
            assert_eq!(policy_file(&name.into()), None, "{name}");
        }
        for file in ["./coding-agent", "/etc/p", "x.yaml", "x.yml", "x.json", "a/b"] {
            assert_eq!(policy_file(&file.into()), Some(file.into()));
        }
    }
}
