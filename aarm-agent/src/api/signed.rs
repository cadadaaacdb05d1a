//! Answers from elsewhere: signed by a key that the daemon's settings know.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /v1/answers` | [`Envelope`] | [`AnswerResponse`], once the answer is on paper |
//!
//! Over the unix socket, and over TCP where `answers.listen` says so. What is signed names the request by its hash, which is of this
//! host, this boot and this very action: an answer is good for nothing else, and once. The signature is what counts, not who
//! brings it.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Bytes;
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use super::approvals::{AnswerRequest, AnswerResponse, Approval, Scope, answer_of, check};
use super::server::{Answer, Api, Refusal, strict};
use super::types::ErrorCode;
use crate::daemon::core::Command;
use crate::daemon::holds::Answerer;

/// What the signed text begins with, so that a signature for something else is none for this.
const CONTEXT: &[u8] = b"aarm-answer-v1\n";

/// An answer and its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// What is signed.
    pub answer: Signed,
    /// Ed25519, base64, over `aarm-answer-v1`, a line end, and the answer in canonical JSON (RFC 8785).
    pub signature: String,
}

/// What is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The key, by its name in the daemon's settings.
    pub approver: String,
    /// The request: `request` of an [`Approval`].
    pub request: String,
    /// Whether it may happen.
    pub allow: bool,
    /// For what the answer is good.
    #[serde(default)]
    pub scope: Scope,
    /// For the receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

impl Signed {
    /// The bytes that are signed.
    pub fn bytes(&self) -> Vec<u8> {
        // Of text, numbers and truth values: there is always one.
        let json = serde_json_canonicalizer::to_vec(self).unwrap_or_default();
        [CONTEXT, &json].concat()
    }
}

/// The hash of a request, as its approvers see it: SHA-256 of its canonical JSON without the hash itself, and of the host.
pub fn hash(host: &str, approval: &Approval) -> String {
    let bare = Approval { request: String::new(), ..approval.clone() };
    let json = serde_json_canonicalizer::to_vec(&(host, bare)).unwrap_or_default();
    let digest = ring::digest::digest(&ring::digest::SHA256, &json);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The key in its form in settings: 32 bytes, base64.
pub fn key(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok().filter(|key| key.len() == 32)
}

/// Who has signed, if somebody has whose key is known.
fn signer(keys: &BTreeMap<String, String>, envelope: &Envelope) -> Option<String> {
    let name = &envelope.answer.approver;
    let key = key(keys.get(name)?)?;
    let signature = STANDARD.decode(&envelope.signature).ok()?;
    UnparsedPublicKey::new(&ED25519, key).verify(&envelope.answer.bytes(), &signature).ok()?;
    Some(name.clone())
}

/// Handler.
pub async fn answer(State(api): State<Arc<Api>>, bytes: Bytes) -> Answer<Json<AnswerResponse>> {
    let envelope: Envelope = strict(&bytes)?;
    let Some(name) = signer(&api.config.approver_keys, &envelope) else {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            ErrorCode::Forbidden,
            "the answer has no signature of a key that is known here",
            Some(
                "`approver_keys` in the daemon's settings has the keys; `aarm approvals sign` makes signatures",
            ),
        ));
    };
    let Signed { request, allow, scope, comment, .. } = envelope.answer;
    let given = AnswerRequest { allow, scope, comment };
    check(&given)?;
    let who = Answerer { key: Some(name), ..Answerer::nobody() };
    let id = api.ask(|a| Command::Requested(request.clone(), a)).await?;
    let Some(id) = id else {
        return Err(Refusal::new(
            StatusCode::NOT_FOUND,
            ErrorCode::NotFound,
            format!("nothing waits that is the request {request}"),
            Some("it was answered, its time was over, or it ended"),
        ));
    };
    answer_of(&api, id, who, given).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{Ed25519KeyPair, KeyPair};

    #[test]
    fn only_the_named_key_signs_and_only_what_it_signed() {
        let pair = |seed: u8| Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let public = |p: &Ed25519KeyPair| STANDARD.encode(p.public_key().as_ref());
        let (mia, eve) = (pair(1), pair(2));
        let keys = BTreeMap::from([("mia".to_owned(), public(&mia)), ("eve".to_owned(), public(&eve))]);
        let signed = |by: &Ed25519KeyPair, name: &str, allow| {
            let answer = Signed {
                approver: name.into(),
                request: "ab".into(),
                allow,
                scope: Scope::Once,
                comment: None,
            };
            let signature = STANDARD.encode(by.sign(&answer.bytes()).as_ref());
            Envelope { answer, signature }
        };
        let good = signed(&mia, "mia", true);
        assert_eq!(signer(&keys, &good).as_deref(), Some("mia"));
        assert_eq!(signer(&keys, &signed(&eve, "mia", true)), None);
        assert_eq!(signer(&keys, &signed(&mia, "bob", true)), None);
        let mut other = good.clone();
        other.answer.allow = false;
        assert_eq!(signer(&keys, &other), None);
        let mut other = good.clone();
        other.answer.request = "ac".into();
        assert_eq!(signer(&keys, &other), None);
        // What is signed, written down, so that others can sign it.
        assert_eq!(
            String::from_utf8(good.answer.bytes()).unwrap(),
            "aarm-answer-v1\n{\"allow\":true,\"approver\":\"mia\",\"request\":\"ab\",\"scope\":\"once\"}"
        );
        // Of no other prefix.
        let bare = STANDARD.encode(mia.sign(&good.answer.bytes()[CONTEXT.len()..]).as_ref());
        assert_eq!(signer(&keys, &Envelope { signature: bare, ..good }), None);
    }

    #[test]
    fn a_request_is_of_one_host_and_one_action() {
        let a = Approval { id: "a".into(), requested: "t".into(), ..Approval::default() };
        let hashed = hash("h", &a);
        assert_eq!(hash("h", &Approval { request: hashed.clone(), ..a.clone() }), hashed);
        assert_ne!(hash("i", &a), hashed);
        assert_ne!(hash("h", &Approval { requested: "u".into(), ..a }), hashed);
    }
}
