//! What waits for an answer, and answering, over the unix socket.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /v1/approvals` | | [`ApprovalList`]: what the caller may see, oldest first, without `prior` |
//! | `GET /v1/approvals/{id}` | | [`Approval`] |
//! | `POST /v1/approvals/{id}` | [`AnswerRequest`] | [`AnswerResponse`], once the answer is on paper |
//!
//! Root sees everything, a user what his sessions wait for and what he may answer. Who may answer is for the policy to say, and
//! nobody inside a session ever may.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};
use axum::{Extension, Json};
use hyper::body::Bytes;
use serde::{Deserialize, Serialize};

use super::server::{Answer, Api, Peer, Refusal, strict};
use super::types::{ErrorCode, PolicyLabel};
use crate::daemon::core::Command;
use crate::daemon::holds::{AnswerError, Answerer, Names};

/// Most bytes of a comment.
pub const COMMENT_MAX: usize = 1024;
/// Longest time that an answer can be good for, in seconds.
pub const SECONDS_MAX: u64 = 7 * 86_400;
/// Most actions that an answer can be good for.
pub const USES_MAX: u64 = 1_000_000;

/// An action that waits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Its name: 16 hexadecimal digits.
    pub id: String,
    /// The hash of the request, for answers that are signed: see [`super::signed`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request: String,
    /// What those have in common that are like each other: session, operation, program, and the rules that ask.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub like: String,
    /// Session, hexadecimal.
    pub session: String,
    /// Session.
    pub uuid: String,
    /// The policy that asks.
    pub policy: PolicyLabel,
    /// What asks.
    #[serde(flatten)]
    pub asked: Asked,
    /// What asks as well: an action does several things at once, and each may be for somebody else to answer. It happens when
    /// all are answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<Asked>,
    /// What asked and was answered already.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answered: Vec<Answered>,
    /// What the session is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<String>,
    /// On whose behalf, as claimed at registration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub human: Option<String>,
    /// Family.
    pub tool: String,
    /// Operation.
    pub operation: String,
    /// The object.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// A second name: the target of a rename or link, or the object's name on the host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path2: String,
    /// Address and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Names by which the session knows the address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// User.
    pub uid: u32,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Thread name.
    pub comm: String,
    /// Program.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub exe: String,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub argv: Vec<String>,
    /// The directory that a program was run in, of one that is about to run.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cwd: String,
    /// Labels of the session when it asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// What the session did last, oldest first; all of it is in the log (`aarm receipts --session`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prior: Vec<PriorAction>,
    /// What resolvers found out so far, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
    /// What they say of it besides.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, String>,
    /// When it began to wait, RFC 3339.
    pub requested: String,
}

/// What a session did before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriorAction {
    /// RFC 3339.
    pub time: String,
    /// What was done.
    pub operation: String,
    /// A path, or an address and port; the end of a long one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub object: String,
    /// What it got.
    pub decision: String,
    /// The rule that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

/// What a resolver found out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Which.
    pub resolver: String,
    /// `ALLOW`, `DENY`, `unknown`, `failed`, or `known` of what rules decide by.
    pub found: String,
    /// What is to say of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// What asks about an action.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The rule; none: a default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The rule's reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `STEP_UP` or `DEFER`: a deferral that people are asked about stays one.
    pub decision: String,
    /// Why: `rule`, `default`, `conflict`, `unknown`.
    pub cause: String,
    /// How much is at stake, as the rule says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<String>,
    /// Until when it waits, RFC 3339.
    pub deadline: String,
    /// What it gets then.
    pub on_timeout: String,
    /// Who may answer.
    pub approvers: Vec<String>,
    /// The backup approvers are asked as well.
    pub escalated: bool,
}

/// What asked about an action and was answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// The rule; none: a default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Who answered.
    pub approver: String,
}

/// `GET /v1/approvals`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalList {
    /// Oldest first.
    pub approvals: Vec<Approval>,
}

/// For what an answer is good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// This action.
    #[default]
    Once,
    /// The same action of any thread of the session, until it ends.
    Session,
    /// The same for so many seconds.
    Seconds(u64),
    /// The same so many times, this one included.
    Uses(u64),
    /// All that wait now and are like it, each once: `like` of an [`Approval`] says which.
    Like,
}

/// `POST /v1/approvals/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerRequest {
    /// Whether it may happen.
    pub allow: bool,
    /// For what the answer is good; a refusal is for once, or for all that wait and are like it.
    #[serde(default)]
    pub scope: Scope,
    /// For the receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// Its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerResponse {
    /// The approval.
    pub id: String,
    /// `ALLOW`, `MODIFY` (it happens, changed as a rule says), or `DENY`: also where it was allowed and could not be changed so.
    pub answer: String,
    /// How many rules are still to be answered, by others, before it happens.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left: usize,
    /// How many others were answered with it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub others: usize,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl From<AnswerError> for Refusal {
    fn from(e: AnswerError) -> Self {
        let (status, code, help) = match &e {
            AnswerError::NotFound(_) => {
                (StatusCode::NOT_FOUND, ErrorCode::NotFound, "`aarm approvals` lists what waits")
            }
            AnswerError::NotYours(_) => {
                (StatusCode::FORBIDDEN, ErrorCode::Forbidden, "`aarm approvals show ID` says who may answer")
            }
            AnswerError::OnlyOnce => (
                StatusCode::BAD_REQUEST,
                ErrorCode::BadRequest,
                "answer without `--session`, `--for` or `--uses`",
            ),
            AnswerError::NoReceipt(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                ErrorCode::Unavailable,
                "make room on that file system and answer again: it goes on waiting",
            ),
        };
        Self::new(status, code, e.to_string(), Some(help))
    }
}

/// Handler.
pub async fn list(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
) -> Answer<([(HeaderName, &'static str); 1], Vec<u8>)> {
    let who = answerer(&peer);
    let list = api.ask(|a| Command::Approvals(who, a)).await?;
    Ok(([(CONTENT_TYPE, "application/json")], list))
}

/// Handler.
pub async fn show(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
) -> Answer<Json<Approval>> {
    let who = answerer(&peer);
    match api.ask(|a| Command::Approval(id.clone(), who, a)).await? {
        Some(found) => Ok(Json(found)),
        None => Err(AnswerError::NotFound(id).into()),
    }
}

/// Handler.
pub async fn answer(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Answer<Json<AnswerResponse>> {
    let request: AnswerRequest = strict(&bytes)?;
    check(&request)?;
    // Whoever acts for an agent answers nothing, whatever user it runs as.
    api.outside(&peer).await?;
    answer_of(&api, id, answerer(&peer), request).await
}

/// Whether an answer keeps its bounds.
pub fn check(request: &AnswerRequest) -> Answer<()> {
    let bad = |m: &str| Err(Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, m, None));
    match request.scope {
        Scope::Seconds(n) if n == 0 || n > SECONDS_MAX => return bad("an answer is good for 1 s to 7 days"),
        Scope::Uses(n) if n == 0 || n > USES_MAX => {
            return bad("an answer is good for 1 to 1,000,000 actions");
        }
        _ => {}
    }
    if request.comment.as_ref().is_some_and(|c| c.len() > COMMENT_MAX) {
        return bad("a comment has at most 1,024 bytes");
    }
    Ok(())
}

/// Gives an answer; told when it is on paper.
pub async fn answer_of(
    api: &Api,
    id: String,
    who: Answerer,
    request: AnswerRequest,
) -> Answer<Json<AnswerResponse>> {
    let given = api.ask(|a| Command::Answer(id.clone(), who, request, a)).await??;
    if !api.durable(given.durable).await {
        return Err(AnswerError::NoReceipt(api.config.log.clone()).into());
    }
    Ok(Json(AnswerResponse { id, answer: given.answer.into(), left: given.left, others: given.others }))
}

fn answerer(peer: &Peer) -> Answerer {
    Answerer { uid: peer.uid, gids: peer.groups(), names: Names::of_host(), key: None }
}
