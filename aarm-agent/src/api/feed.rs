//! The semantic feed: what an agent says of itself, told by its hooks, over the unix socket.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /v1/feed` | [`Said`] | [`Noted`], once it is on paper |
//!
//! Whoever is inside a session speaks for it, and for no other. What is said is kept and shown as said: nothing is allowed because of
//! it alone, since an agent can say anything.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use hyper::body::Bytes;
use serde::{Deserialize, Serialize};

use super::server::{Answer, Api, Peer, Refusal, strict};
use super::types::ErrorCode;
use crate::daemon::core::Command;
use crate::daemon::holds::AnswerError;

/// Longest name of a tool, in bytes.
pub const NAME_MAX: usize = 128;
/// Longest text, in bytes; receipts have its beginning.
pub const TEXT_MAX: usize = 16 << 10;

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Said {
    /// Of what it is.
    pub what: What,
    /// The tool; of a request nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The request, or what the tool is called with.
    pub text: String,
}

/// Of what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// What a person has asked the agent for.
    Intent,
    /// A tool that the agent is about to call.
    Tool,
}

impl What {
    /// As receipts have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Intent => "intent",
            Self::Tool => "tool",
        }
    }
}

/// It is on paper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// The session it was said of, hexadecimal.
    pub session: String,
}

/// Handler.
pub async fn say(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    bytes: Bytes,
) -> Answer<Json<Noted>> {
    let said: Said = strict(&bytes)?;
    let bad = |why: String| Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, why, None);
    if said.name.len() > NAME_MAX || said.text.len() > TEXT_MAX {
        return Err(bad(format!("a name has at most {NAME_MAX} bytes, and a text {TEXT_MAX}")));
    }
    if (said.what == What::Tool) == said.name.is_empty() {
        return Err(bad("a tool has a name, and a request has none".into()));
    }
    let pidfd = peer.pidfd().map_err(Refusal::internal)?;
    let taken = api.ask(|a| Command::Say(pidfd, said, a)).await?.map_err(Refusal::internal)?;
    let Some(taken) = taken else {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            ErrorCode::Forbidden,
            "who is in no session has nothing to say of one",
            Some("hooks run inside the session of their agent: `aarm run -- AGENT`"),
        ));
    };
    if !api.durable(taken.durable).await {
        return Err(AnswerError::NoReceipt(api.config.log.clone()).into());
    }
    Ok(Json(Noted { session: format!("{:016x}", taken.session) }))
}
