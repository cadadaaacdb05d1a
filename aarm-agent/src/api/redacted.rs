//! Erasing what was redacted: over the unix socket, for root.
//!
//! | request | answer |
//! |---|---|
//! | `DELETE /v1/redacted/SESSION` | [`Erased`] |
//!
//! `SESSION` is a UUID, as receipts have it. A receipt says that it was done, by whom, and of how many values.

use std::sync::Arc;

use aarm_receipt::redact::sidecar::Sidecar;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::server::{Answer, Api, Peer, Refusal, root};
use super::types::ErrorCode;
use crate::daemon::core::Command;

/// What was erased.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erased {
    /// The session.
    pub session: String,
    /// How many values.
    pub values: u64,
    /// Whether the receipt of it is on disk. If not, it will be when the log has room.
    pub recorded: bool,
}

/// Erases what was redacted of a session.
pub async fn erase(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    Path(session): Path<String>,
) -> Answer<Json<Erased>> {
    root(&peer)?;
    api.outside(&peer).await?;
    let (sidecar, name) = (Sidecar::at(&api.config.redacted), session.clone());
    let erased =
        tokio::task::spawn_blocking(move || sidecar.erase(&name)).await.map_err(Refusal::internal)?;
    let values = match erased {
        Ok(Some(values)) => values,
        Ok(None) => return Err(nothing(&session)),
        Err(e) if e.kind() == std::io::ErrorKind::InvalidInput => return Err(nothing(&session)),
        Err(e) => return Err(Refusal::internal(e)),
    };
    let by = format!("uid:{}", peer.uid);
    let durable = api.ask(|answer| Command::Erased(session.clone(), values, by, answer)).await?;
    let recorded = api.durable(durable).await;
    Ok(Json(Erased { session, values, recorded }))
}

fn nothing(session: &str) -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        ErrorCode::NotFound,
        format!("nothing redacted is kept of session {session:?}"),
        Some("`aarm redacted list` shows of which there is something; a session is named by its UUID"),
    )
}
