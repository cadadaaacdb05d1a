//! Showing the log to others: witnesses are asked to cosign its checkpoints (C2SP tlog-witness), and whoever can read the metrics can read
//! the checkpoint.
//!
//! One task for each witness, so that one that does not answer keeps no other waiting. What a witness says is kept beside the log
//! ([`aarm_receipt::witnessed`]), where verifiers look for it. Must never: hold up the log; take a witness's word for anything but what it
//! has seen.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aarm_receipt::TrustedKeys;
use aarm_receipt::cosign::CosignerKey;
use aarm_receipt::note::{Checkpoint, NOTE_MAX};
use aarm_receipt::tile::Tiles;
use aarm_receipt::witness::{ANSWER_MAX, Request};
use aarm_receipt::witnessed::Witnessed;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::Uri;
use tokio::time::Instant;

use super::config;
use super::post::Poster;
use super::record::timestamp;
use crate::api::types::WitnessStatus;
use crate::metrics::{Metrics, WitnessResult};

/// How long a witness may take.
const TIME: Duration = Duration::from_secs(20);
/// So often the time between two requests is doubled while they fail.
const DOUBLINGS: u32 = 5;
/// A witness may have seen more than is known here: it then says how much, and is asked once more.
const TRIES: usize = 2;

/// When witnesses are asked.
#[derive(Clone, Copy, Debug)]
pub struct Rhythm {
    /// Time between requests while the log grows.
    pub every: Duration,
    /// The same while it does not: the witness says again that it has seen it.
    pub heartbeat: Duration,
}

/// Why a witness has not cosigned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Trouble {
    /// It was not reached, or refuses.
    #[error("{0}")]
    Failed(String),
    /// It has seen another log of this name than the one that is here.
    #[error("{0}")]
    Disagrees(String),
}

/// What witnesses have said, for whoever asks.
#[derive(Default)]
pub struct Board(Mutex<Vec<WitnessStatus>>);

impl Board {
    /// All of them, as they are in the configuration.
    pub fn all(&self) -> Vec<WitnessStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, at: usize, status: WitnessStatus) {
        if let Some(place) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(at) {
            *place = status;
        }
    }
}

/// The log that is shown.
#[derive(Clone)]
pub struct Log {
    /// Its directory.
    pub dir: PathBuf,
    /// The keys that sign its checkpoints.
    pub keys: TrustedKeys,
}

/// Asks all witnesses, until the task is dropped. The configuration was checked.
pub fn serve(witnesses: &[config::Witness], log: &Log, rhythm: Rhythm, metrics: &Arc<Metrics>) -> Arc<Board> {
    let mut asking = Vec::new();
    for w in witnesses {
        let (Some(key), Ok(url)) = (CosignerKey::parse(&w.key), w.address()) else { continue };
        asking.push((key, url));
    }
    let status = |key: &CosignerKey| WitnessStatus { name: key.name.clone(), ..WitnessStatus::default() };
    let board = Arc::new(Board(Mutex::new(asking.iter().map(|(key, _)| status(key)).collect())));
    for (at, (witness, url)) in asking.into_iter().enumerate() {
        let one = One { at, witness, url, log: log.clone(), receipts: 0, seconds: None };
        tokio::spawn(one.run(rhythm, Arc::clone(metrics), Arc::clone(&board)));
    }
    board
}

/// One witness.
struct One {
    /// Its place among them.
    at: usize,
    witness: CosignerKey,
    url: Uri,
    log: Log,
    /// What it has seen.
    receipts: u64,
    seconds: Option<u64>,
}

impl One {
    async fn run(mut self, rhythm: Rhythm, metrics: Arc<Metrics>, board: Arc<Board>) {
        match Witnessed::read(self.log.dir.as_path(), &self.log.keys, &self.witness) {
            Ok(Some(found)) => self.has_seen(&found),
            Ok(None) => {}
            Err(e) => tracing::warn!("what {} has said is not known any more: {e}", self.witness.name),
        }
        let mut failed = 0;
        let mut problem = None;
        let mut asked: Option<Instant> = None;
        loop {
            let result = match self.next(asked.is_none_or(|at| at.elapsed() >= rhythm.heartbeat)).await {
                Ok(None) => {
                    tokio::time::sleep(rhythm.every).await;
                    continue;
                }
                Ok(Some(next)) => {
                    let ended = tokio::time::timeout(TIME, self.ask(&next)).await;
                    ended.unwrap_or_else(|_| {
                        Err(Trouble::Failed(format!("it does not answer within {} s", TIME.as_secs())))
                    })
                }
                Err(e) => Err(e),
            };
            let (counted, now) = match &result {
                Ok(()) => (WitnessResult::Cosigned, None),
                Err(e @ Trouble::Failed(_)) => (WitnessResult::Failed, Some(e.to_string())),
                Err(e @ Trouble::Disagrees(_)) => (WitnessResult::Disagrees, Some(e.to_string())),
            };
            metrics.witness(&self.witness.name, counted, self.receipts, self.seconds);
            if now != problem {
                self.tell(&result);
                problem = now;
            }
            let (name, receipts) = (self.witness.name.clone(), self.receipts);
            let seen = self.seconds.map(|seconds| timestamp(seconds.saturating_mul(1_000_000_000)));
            board.set(self.at, WitnessStatus { name, receipts, seen, problem: problem.clone() });
            failed = if result.is_ok() { 0 } else { (failed + 1).min(DOUBLINGS) };
            asked = result.is_ok().then(Instant::now);
            tokio::time::sleep(rhythm.every * (1 << failed)).await;
        }
    }

    fn has_seen(&mut self, found: &Witnessed) {
        (self.receipts, self.seconds) = (found.checkpoint.size, Some(found.seconds));
    }

    fn tell(&self, result: &Result<(), Trouble>) {
        let name = &self.witness.name;
        match result {
            Ok(()) => tracing::info!("the witness {name} has seen {} receipts", self.receipts),
            Err(e @ Trouble::Failed(_)) => tracing::warn!("the witness {name}: {e}"),
            Err(e @ Trouble::Disagrees(_)) => tracing::error!("the witness {name}: {e}"),
        }
    }

    /// The checkpoint to ask for, if there is a new one, or the time for the same again has come.
    async fn next(&self, again: bool) -> Result<Option<(String, Checkpoint)>, Trouble> {
        let (path, keys, seen) = (self.log.dir.join("checkpoint"), self.log.keys.clone(), self.receipts);
        let read = move || {
            let Some(note) = read(&path)? else { return Ok(None) };
            let checkpoint = keys
                .open(note.as_bytes())
                .map_err(|e| Trouble::Failed(format!("{}: {e}", path.display())))?;
            Ok(Some((note, checkpoint)))
        };
        let found = blocking(read).await?;
        Ok(found.filter(|(_, checkpoint)| checkpoint.size != seen || again))
    }

    /// Asks for a cosignature, and keeps it.
    async fn ask(&mut self, (note, checkpoint): &(String, Checkpoint)) -> Result<(), Trouble> {
        let poster = Poster::to(&self.url).map_err(|e| Trouble::Failed(e.to_string()))?;
        let mut old = self.receipts;
        for _ in 0..TRIES {
            self.can_follow(old, checkpoint)?;
            let proof = self.proof(old, checkpoint.size).await?;
            let request = Request { old, proof, checkpoint: note.clone() }.to_string().into_bytes();
            let answer = poster.send(&self.url, request, "text/plain; charset=utf-8", None, ANSWER_MAX).await;
            let answer = answer.map_err(|e| Trouble::Failed(e.to_string()))?;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            match answer.status {
                StatusCode::OK => return self.keep(note, &text).await,
                StatusCode::CONFLICT => match text.trim_end().parse() {
                    Ok(seen) if seen != old => old = seen,
                    Ok(_) => return Err(Trouble::Disagrees(other(checkpoint.size))),
                    Err(_) => return Err(Trouble::Failed("it answered 409 without a size".into())),
                },
                StatusCode::UNPROCESSABLE_ENTITY => return Err(Trouble::Disagrees(other(old))),
                status => {
                    return Err(Trouble::Failed(format!("it answered {status}: {}", line(&text))));
                }
            }
        }
        Err(Trouble::Failed("it has seen something else each time it is asked".into()))
    }

    /// What a witness has seen, this log must have.
    fn can_follow(&self, seen: u64, checkpoint: &Checkpoint) -> Result<(), Trouble> {
        if seen <= checkpoint.size {
            return Ok(());
        }
        Err(Trouble::Disagrees(format!(
            "it has seen {seen} receipts of this log, which has {}: its end was cut off",
            checkpoint.size
        )))
    }

    /// That the log goes on from what the witness has seen.
    async fn proof(&self, old: u64, size: u64) -> Result<Vec<aarm_receipt::merkle::Hash>, Trouble> {
        if old == 0 {
            return Ok(Vec::new());
        }
        let dir = self.log.dir.clone();
        blocking(move || {
            Tiles::new(dir.as_path(), size).consistency(old).ok_or_else(|| {
                Trouble::Failed(format!(
                    "that the log goes on from {old} receipts cannot be proven: tiles are missing, or were pruned"
                ))
            })
        })
        .await
    }

    async fn keep(&mut self, note: &str, answer: &str) -> Result<(), Trouble> {
        let found = Witnessed::join(note, answer, &self.log.keys, &self.witness)
            .map_err(|e| Trouble::Failed(format!("its answer is not its cosignature: {e}")))?;
        self.has_seen(&found);
        let (dir, witness) = (self.log.dir.clone(), self.witness.clone());
        blocking(move || {
            found
                .place(&dir, &witness)
                .map_err(|e| Trouble::Failed(format!("its cosignature cannot be kept: {e}")))
        })
        .await
    }
}

fn other(receipts: u64) -> String {
    format!(
        "the first {receipts} receipts that it has seen are not those of this log: there are two of this name and key"
    )
}

/// The first line of what somebody else wrote, without what a terminal would understand.
fn line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(200).collect()
}

/// The checkpoint's note, if there is one.
fn read(path: &Path) -> Result<Option<String>, Trouble> {
    use std::io::Read;
    let failed = |e: std::io::Error| Trouble::Failed(format!("{}: {e}", path.display()));
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let mut note = String::new();
    file.take(NOTE_MAX as u64).read_to_string(&mut note).map_err(failed)?;
    Ok(Some(note))
}

/// Runs what reads or writes files.
async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, Trouble> + Send + 'static,
) -> Result<T, Trouble> {
    tokio::task::spawn_blocking(run).await.unwrap_or_else(|e| Err(Trouble::Failed(e.to_string())))
}

/// Where the checkpoint is served, as logs of its kind do: `GET /checkpoint`.
pub fn router(log: PathBuf) -> Router {
    Router::new().route("/checkpoint", get(checkpoint)).with_state(Arc::new(log))
}

async fn checkpoint(State(log): State<Arc<PathBuf>>) -> impl IntoResponse {
    let path = log.join("checkpoint");
    match blocking(move || read(&path)).await {
        Ok(Some(note)) => (StatusCode::OK, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], note),
        Ok(None) => (
            StatusCode::NOT_FOUND,
            [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
            "nothing is signed yet\n".into(),
        ),
        Err(e) => {
            tracing::warn!("{e}");
            let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
            (StatusCode::INTERNAL_SERVER_ERROR, kind, "it cannot be read\n".into())
        }
    }
}
