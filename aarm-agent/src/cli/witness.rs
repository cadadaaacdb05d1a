//! `aarm witness`: sees the logs of other hosts grow, and says so: needs no daemon, no root, and no kernel of ours.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aarm_receipt::TrustedKeys;
use aarm_receipt::witness::{self, Answer, REQUEST_MAX, SIZE_TYPE, Witness};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use clap::Subcommand;
use tokio::signal::unix::{SignalKind, signal};

use super::exit::{CliError, Exit};
use super::output::Output;
use super::{count, escape, verify};
use crate::tcp::{self, Serving};

/// How hosts are served: a request is some kilobytes, and its answer a signature.
const SERVING: Serving =
    Serving { connections: 256, request: Duration::from_secs(10), answer: Duration::from_secs(20) };

/// Be a witness of other hosts' logs
///
/// Who is root on a host can cut the end of its receipt log off, or write another one. A witness, on a host of somebody else,
/// remembers of each log how far it has seen it, and cosigns only what goes on from there (C2SP tlog-witness). Daemons ask the
/// witnesses in their configuration; `aarm verify --witnesses` demands that they have seen a log.
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true)]
pub struct WitnessArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Key(KeyArgs),
    Serve(ServeArgs),
}

/// Print a witness's public key, making it if it is given a name
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  aarm witness key --name witness.example/aarm       # the first time
  aarm witness key >> witnesses.pub                  # for `aarm verify --witnesses`, and for agent.yaml

Name and key are for ever: verifiers know a witness by both.")]
struct KeyArgs {
    #[command(flatten)]
    state: StateArgs,
    /// Its name: like a URL without scheme, no blanks and no `+`
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// Serve as a witness
///
/// Answers `POST /add-checkpoint` (C2SP tlog-witness) for the logs whose keys it is given, and `GET /healthz`. SIGHUP reads the
/// keys again. It speaks plain HTTP: everything it answers is signed. Put a proxy before it where requests must be private.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  aarm witness serve --logs ./hosts --listen 0.0.0.0:9467    # ./hosts/*.pub: each a host's log.pub
  aarm witness serve --logs web1.pub --logs web2.pub

In the hosts' /etc/aarm/agent.yaml:
  witnesses:
    - { url: \"http://192.0.2.7:9467\", key: \"witness.example/aarm+HASH+KEY\" }

Its state must be neither lost nor put back: it would forget what it has seen. Never run two with the same key.")]
struct ServeArgs {
    #[command(flatten)]
    state: StateArgs,
    /// A log's public keys (its log.pub), or a directory of such files (*.pub)
    #[arg(long, value_name = "PATH", required = true, value_hint = clap::ValueHint::AnyPath)]
    logs: Vec<PathBuf>,
    /// Address and port
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9467")]
    listen: SocketAddr,
}

#[derive(Debug, clap::Args)]
struct StateArgs {
    /// Directory of its key and of what it has seen
    #[arg(long, value_name = "DIR", default_value = "/var/lib/aarm-witness", value_hint = clap::ValueHint::DirPath)]
    state: PathBuf,
}

/// Runs it.
pub fn run(args: &WitnessArgs, out: &mut Output) -> Result<Exit, CliError> {
    match &args.command {
        Command::Key(args) => {
            let cosigner = witness::key(&args.state.state, args.name.as_deref())?;
            out.line(&cosigner.key().to_string())?;
            Ok(Exit::OK)
        }
        Command::Serve(args) => serve(args, out),
    }
}

/// The keys of the logs that are named.
fn logs(paths: &[PathBuf]) -> Result<Vec<TrustedKeys>, CliError> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let read = |source| CliError::Read { path: path.clone(), source };
        for entry in std::fs::read_dir(path).map_err(read)? {
            let file = entry.map_err(read)?.path();
            files.extend(Some(file).filter(|file| file.extension().is_some_and(|e| e == "pub")));
        }
    }
    files.iter().map(|path| verify::keys(path)).collect()
}

fn serve(args: &ServeArgs, out: &mut Output) -> Result<Exit, CliError> {
    let failed = |what| move |source| CliError::System { what, source };
    let cosigner = witness::key(&args.state.state, None)?;
    let key = cosigner.key().to_string();
    let witness = Arc::new(Witness::open(&args.state.state, cosigner, Vec::new())?);
    let known = witness.know(logs(&args.logs)?)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("begin to serve"))?;
    runtime.block_on(async {
        let address = args.listen;
        let listener = tcp::bind(address).await.map_err(|source| CliError::Listen { address, source })?;
        let at = listener.local_addr().map_err(failed("begin to serve"))?;
        out.line(&format!("{} at http://{at}: {}", escape::text(&key), count(known, "log")))?;
        out.flush()?;
        let serving = tokio::spawn(tcp::serve(listener, router(Arc::clone(&witness)), SERVING));
        let signals = |kind| signal(kind).map_err(failed("wait for signals"));
        let (mut hup, mut term, mut int) = (
            signals(SignalKind::hangup())?,
            signals(SignalKind::terminate())?,
            signals(SignalKind::interrupt())?,
        );
        loop {
            tokio::select! {
                _ = hup.recv() => again(&witness, &args.logs),
                _ = term.recv() => break,
                _ = int.recv() => break,
            }
        }
        serving.abort();
        Ok(Exit::OK)
    })
}

/// Reads the logs' keys again; where they cannot be used, those before stay.
fn again(witness: &Witness, paths: &[PathBuf]) {
    match logs(paths).and_then(|logs| Ok(witness.know(logs)?)) {
        Ok(known) => eprintln!("{} now", count(known, "log")),
        Err(e) => eprintln!("the logs stay as they were: {}", escape::text(&e.to_string())),
    }
}

fn router(witness: Arc<Witness>) -> Router {
    Router::new()
        .route("/add-checkpoint", post(add))
        .route("/healthz", get(|| async { "ok\n" }))
        .layer(DefaultBodyLimit::max(REQUEST_MAX))
        .with_state(witness)
}

async fn add(State(witness): State<Arc<Witness>>, request: Bytes) -> Response {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
    // It makes things durable before it answers.
    let answered = tokio::task::spawn_blocking(move || witness.add_checkpoint(&request, seconds)).await;
    let Ok(Answer { status, body }) = answered else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    // Those that say that a log is not what it was, or that this one cannot remember.
    if matches!(status, 409 | 422 | 500) {
        eprintln!("answered {status}: {}", escape::text(body.trim_end()));
    }
    let kind = if status == 409 { SIZE_TYPE } else { "text/plain; charset=utf-8" };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [(header::CONTENT_TYPE, kind)], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn keys_of_logs_are_read_from_files_and_directories() {
        let dir = tempfile::tempdir().unwrap();
        let keys = aarm_receipt::Keys::from_seeds([1; 32], [2; 32]).unwrap();
        let write = |name: &str, origin: &str| {
            std::fs::write(dir.path().join(name), keys.trusted(origin).to_string()).unwrap();
        };
        write("a.pub", "a.test");
        write("b.pub", "b.test");
        std::fs::write(dir.path().join("notes.txt"), "nothing").unwrap();
        let names = |paths: &[&Path]| {
            let paths: Vec<PathBuf> = paths.iter().map(|p| p.to_path_buf()).collect();
            let mut names: Vec<String> =
                logs(&paths).unwrap().into_iter().map(|keys| keys.origin().to_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&[dir.path()]), ["a.test", "b.test"]);
        assert_eq!(names(&[&dir.path().join("b.pub")]), ["b.test"]);
        std::fs::write(dir.path().join("c.pub"), "nothing").unwrap();
        assert!(matches!(logs(&[dir.path().to_path_buf()]), Err(CliError::Key(_))));
    }
}
