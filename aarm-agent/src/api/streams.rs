//! The two streams of receipts: from the log, and live.
//!
//! Both carry only what is durable, one [`StreamLine`] a line. A client that does not read is never waited for
//! by anybody but its own task.

use std::sync::Arc;

use aarm_receipt::index::Wanted;
use aarm_receipt::read::Reader;
use aarm_receipt::receipt::time_text;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::server::{Answer, Api, Peer, Refusal, query};
use super::types::*;

/// Lines on their way to a client.
const QUEUE: usize = 256;

/// What a client wants to see, and may.
struct Filter {
    uid: u32,
    session: Option<String>,
    decision: Option<String>,
    kind: Option<String>,
    since: Option<jiff::Timestamp>,
}

impl Filter {
    /// What the log's index knows of it.
    fn wanted(&self) -> Wanted {
        let since = self.since.and_then(|since| u64::try_from(since.as_nanosecond()).ok());
        Wanted {
            session: self.session.clone(),
            decision: self.decision.clone(),
            kind: self.kind.clone(),
            since: since.map(time_text),
            ..Wanted::default()
        }
    }

    fn matches(&self, r: &Value) -> bool {
        let text = |v: &Value| v.as_str().map(str::to_owned);
        if let Some(want) = &self.session
            && text(&r["session"]["uuid"]).as_ref() != Some(want)
            && text(&r["session"]["id"]).as_ref() != Some(want)
        {
            return false;
        }
        if let Some(want) = &self.decision
            && r["decision"]["result"].as_str() != Some(want)
        {
            return false;
        }
        if let Some(want) = &self.kind
            && r["kind"].as_str() != Some(want)
        {
            return false;
        }
        if let Some(since) = self.since
            && r["time"].as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok()).is_none_or(|t| t < since)
        {
            return false;
        }
        true
    }
}

/// Writes a line.
fn line(l: &StreamLine) -> Bytes {
    let mut bytes = serde_json::to_vec(l).unwrap_or_default();
    bytes.push(b'\n');
    bytes.into()
}

fn stream(lines: mpsc::Receiver<Result<Bytes, std::convert::Infallible>>) -> Response {
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(ReceiverStream::new(lines)))
        .into_response()
}

fn busy() -> Refusal {
    Refusal::new(
        StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::Busy,
        "too many streams are open",
        Some("close one, or wait"),
    )
}

/// Sessions a user other than root may see, by UUID; remembered while a stream runs.
struct Owned<'a> {
    api: &'a Api,
    uid: u32,
    known: std::collections::HashMap<String, bool>,
}

impl Owned<'_> {
    /// Whether a receipt belongs to a session of this user.
    async fn may_see(&mut self, r: &Value) -> bool {
        if self.uid == 0 {
            return true;
        }
        let Some(uuid) = r["session"]["uuid"].as_str() else { return false };
        if let Some(known) = self.known.get(uuid) {
            return *known;
        }
        // Its opening says whose it is; otherwise the daemon knows, for as long as it remembers.
        let owner = r["identity"]["uid"].as_u64().filter(|_| r["kind"] == "session_open");
        let mine = match owner {
            Some(uid) => uid == u64::from(self.uid),
            None => {
                let id = uuid.to_owned();
                let found = self.api.ask(|a| crate::daemon::core::Command::Session(id, a)).await;
                matches!(found, Ok(Some(s)) if s.uid == self.uid)
            }
        };
        self.known.insert(uuid.to_owned(), mine);
        mine
    }
}

/// `GET /v1/watch`.
pub async fn watch(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    RawQuery(raw): RawQuery,
) -> Answer<Response> {
    let q: WatchQuery = query(raw)?;
    let slot = Arc::clone(&api.streams).try_acquire_owned().map_err(|_| busy())?;
    let filter = Filter { uid: peer.uid, session: q.session, decision: None, kind: q.kind, since: None };
    let decision = q.decision;
    let mut durable = api.durable.subscribe();
    let (lines, out) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let _slot = slot;
        let size = api.progress.durable.load(std::sync::atomic::Ordering::Acquire);
        if lines.send(Ok(line(&StreamLine::Ready { size }))).await.is_err() {
            return;
        }
        loop {
            let batch = tokio::select! {
                batch = durable.recv() => batch,
                () = lines.closed() => return,
            };
            let batch = match batch {
                Ok(batch) => batch,
                Err(broadcast::error::RecvError::Lagged(batches)) => {
                    api.metrics.slow_watchers.inc();
                    let _ = lines.send(Ok(line(&StreamLine::Lost { count: batches }))).await;
                    return;
                }
                Err(broadcast::error::RecvError::Closed) => return,
            };
            for (i, (entry, bytes)) in batch.iter().enumerate() {
                if filter.uid != 0 && entry.owner != filter.uid {
                    continue;
                }
                let Ok(receipt) = serde_json::from_slice::<Value>(bytes) else { continue };
                // Receipts other than decisions pass, so that the course of a session is seen.
                let decided = receipt["decision"]["result"].as_str();
                if decision.as_deref().is_some_and(|want| decided.is_some_and(|d| d != want))
                    || !filter.matches(&receipt)
                {
                    continue;
                }
                let l = StreamLine::Receipt { index: batch.first_index + i as u64, receipt };
                if lines.send(Ok(line(&l))).await.is_err() {
                    return;
                }
            }
        }
    });
    Ok(stream(out))
}

/// `GET /v1/receipts`.
pub async fn receipts(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    RawQuery(raw): RawQuery,
) -> Answer<Response> {
    let q: ReceiptQuery = query(raw)?;
    let slot = Arc::clone(&api.streams).try_acquire_owned().map_err(|_| busy())?;
    let since = match &q.since {
        Some(text) => Some(text.parse::<jiff::Timestamp>().map_err(|e| {
            Refusal::new(
                StatusCode::BAD_REQUEST,
                ErrorCode::BadRequest,
                format!("since: {e}"),
                Some("RFC 3339, such as 2026-01-31T12:00:00Z"),
            )
        })?),
        None => None,
    };
    let filter = Filter { uid: peer.uid, session: q.session, decision: q.decision, kind: q.kind, since };
    let limit = q.limit.unwrap_or(RECEIPTS_MAX).min(RECEIPTS_MAX) as usize;
    let only_last = q.limit.is_some();
    let durable = api.progress.durable.load(std::sync::atomic::Ordering::Acquire);
    let dir = api.config.log.clone();
    // Reading a log is disk work: a thread of its own, paced by what the client takes.
    let (found, mut matches) = mpsc::channel::<StreamLine>(QUEUE);
    std::thread::Builder::new()
        .name("aarm-read".into())
        .spawn(move || {
            let fail = |message: String| StreamLine::Error {
                error: ApiError { code: ErrorCode::Internal, message, help: None },
            };
            // Whose a session is, its opening says, which others' filters leave out.
            let opened = match filter.uid {
                0 => Reader::select(dir.as_path(), &filter.wanted()),
                _ => Reader::open(dir.as_path(), 0),
            };
            let reader = match opened {
                Ok(reader) => reader,
                Err(e) => return drop(found.blocking_send(fail(e.to_string()))),
            };
            let mut last = std::collections::VecDeque::new();
            let mut sent = 0;
            for item in reader {
                let (index, bytes) = match item {
                    Ok((index, _)) if index >= durable => break,
                    Ok(item) => item,
                    Err(e) => return drop(found.blocking_send(fail(e.to_string()))),
                };
                let Ok(receipt) = serde_json::from_slice::<Value>(&bytes) else { continue };
                // The opening is needed to know whose a session is, wanted or not.
                let opening = filter.uid != 0 && receipt["kind"] == "session_open";
                if !filter.matches(&receipt) && !opening {
                    continue;
                }
                let l = StreamLine::Receipt { index, receipt };
                if only_last {
                    last.push_back(l);
                    if last.len() > limit {
                        last.pop_front();
                    }
                } else {
                    sent += 1;
                    if sent > limit || found.blocking_send(l).is_err() {
                        return;
                    }
                }
            }
            for l in last {
                if found.blocking_send(l).is_err() {
                    return;
                }
            }
        })
        .map_err(|e| {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, e.to_string(), None)
        })?;
    let (lines, out) = mpsc::channel(QUEUE);
    let uid = peer.uid;
    tokio::spawn(async move {
        let _slot = slot;
        let mut owned = Owned { api: &api, uid, known: std::collections::HashMap::new() };
        while let Some(l) = matches.recv().await {
            if let StreamLine::Receipt { receipt, .. } = &l
                && !owned.may_see(receipt).await
            {
                continue;
            }
            if lines.send(Ok(line(&l))).await.is_err() {
                return;
            }
        }
    });
    Ok(stream(out))
}
