//! Finding out what a deferred action needs to be decided, before people are asked.
//!
//! ```text
//! core --Job--> here: one task for each, so many at once --Command::Attempted--> core (receipt, next in the chain)
//! ```
//! What the daemon finds out by itself has a name of its own ([`BUILT_IN`]); programs and services that are asked are named in the
//! daemon's settings, because a policy may come from somebody who must not choose what root runs. Promises: each job ends within its
//! time, and its end is told, whatever it was. Must never: decide; an answer is the core's to record and to give.

mod command;
pub mod dns;
mod hash;
mod http;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aarm_common::state::ObjectId;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc};

use self::dns::Learnt;
use super::config::Resolver;
use super::core::Command;
use super::program;
use crate::api::approvals::Approval;

/// Jobs on their way to be begun.
pub const QUEUE: usize = 1024;
/// Jobs at once.
const AT_ONCE: usize = 16;
/// What needs no settings.
pub const BUILT_IN: &[&str] = &[DECLARED, "dns", "hash", INTENT];
/// What the agent said that it is about to do: the core waits for it itself.
pub const DECLARED: &str = "declared";
/// What it was asked for, likewise.
pub const INTENT: &str = "intent";
/// Longest text that a resolver can say of what it found, in bytes; longer ones are cut.
pub const DETAIL_MAX: usize = 1024;
/// Most facts that a resolver can add.
pub const FACTS_MAX: usize = 16;
/// Longest name or text of a fact; a longer one is an error.
pub const FACT_MAX: usize = 256;

/// What is to be found out.
#[derive(Clone, Debug)]
pub struct Job {
    /// What waits, by its key in the kernel.
    pub key: u64,
    /// Since when.
    pub since_ns: u64,
    /// Which resolver.
    pub resolver: String,
    /// The session.
    pub session: u64,
    /// The file that the action is about, as the kernel saw it.
    pub object: Option<ObjectId>,
    /// What people see.
    pub about: Approval,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It may happen.
    Allow,
    /// It may not.
    Deny,
    /// Nothing that decides it; the next one is asked.
    Unknown,
    /// It could not be found out; the next one is asked.
    Failed,
    /// What was to be found out, for rules to decide.
    Known,
    /// Something by which rules decide the action anew.
    Anew,
}

impl Found {
    /// As receipts have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Unknown => "unknown",
            Self::Failed => "failed",
            Self::Known | Self::Anew => "known",
        }
    }
}

/// An attempt that is over.
#[derive(Clone, Debug)]
pub struct Attempted {
    /// See [`Job::key`].
    pub key: u64,
    /// See [`Job::since_ns`].
    pub since_ns: u64,
    /// Which resolver.
    pub resolver: String,
    /// What came of it.
    pub found: Found,
    /// What is to say of it.
    pub detail: String,
    /// What people, and resolvers that come later, are told as well.
    pub facts: BTreeMap<String, String>,
    /// A name that the session is to know.
    pub learnt: Option<Learnt>,
    /// How long it took.
    pub took: Duration,
}

/// What a resolver says.
#[derive(Debug, Default)]
struct Answer {
    found: Option<Found>,
    detail: String,
    facts: BTreeMap<String, String>,
    learnt: Option<Learnt>,
}

impl Answer {
    fn failed(why: impl std::fmt::Display) -> Self {
        Self { found: Some(Found::Failed), detail: why.to_string(), ..Self::default() }
    }
}

/// What a program or service is told.
#[derive(Serialize)]
struct Question<'a> {
    v: u32,
    resolver: &'a str,
    /// What waits, as `aarm approvals show --json` has it.
    approval: &'a Approval,
}

impl Question<'_> {
    fn of(job: &Job) -> Vec<u8> {
        let question = Question { v: 1, resolver: &job.resolver, approval: &job.about };
        serde_json::to_vec(&question).unwrap_or_default()
    }
}

/// What a program or service answers.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reply {
    decision: Said,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    facts: BTreeMap<String, String>,
}

/// Its decision.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Said {
    Allow,
    Deny,
    Unknown,
}

/// Most bytes of a reply.
const REPLY_MAX: usize = 64 << 10;

/// Reads a reply, strictly.
fn reply(bytes: &[u8]) -> Answer {
    // A list of the members' values would be taken for them.
    let is_object = bytes.trim_ascii_start().first() == Some(&b'{');
    let reply: Reply = match serde_json::from_slice(bytes) {
        Ok(_) if !is_object => return Answer::failed("its answer is not one: it is a list"),
        Ok(reply) => reply,
        Err(e) => return Answer::failed(format!("its answer is not one: {e}")),
    };
    let long = |text: &str| text.len() > FACT_MAX;
    if reply.facts.len() > FACTS_MAX || reply.facts.iter().any(|(name, fact)| long(name) || long(fact)) {
        return Answer::failed(format!("more than {FACTS_MAX} facts, or one of more than {FACT_MAX} bytes"));
    }
    let found = match reply.decision {
        Said::Allow => Found::Allow,
        Said::Deny => Found::Deny,
        Said::Unknown => Found::Unknown,
    };
    Answer { found: Some(found), detail: reply.reason, facts: reply.facts, learnt: None }
}

/// Does jobs until there are no more.
pub async fn serve(
    mut jobs: mpsc::Receiver<Job>,
    resolvers: BTreeMap<String, Resolver>,
    core: mpsc::Sender<Command>,
) {
    let (resolvers, at_once) = (Arc::new(resolvers), Arc::new(Semaphore::new(AT_ONCE)));
    while let Some(job) = jobs.recv().await {
        let Ok(permit) = Arc::clone(&at_once).acquire_owned().await else { return };
        let (resolvers, core) = (Arc::clone(&resolvers), core.clone());
        tokio::spawn(async move {
            let began = Instant::now();
            let answer = attempt(&job, &resolvers).await;
            let mut detail = answer.detail;
            detail.truncate(detail.floor_char_boundary(DETAIL_MAX));
            let attempted = Attempted {
                key: job.key,
                since_ns: job.since_ns,
                resolver: job.resolver,
                found: answer.found.unwrap_or(Found::Unknown),
                detail,
                facts: answer.facts,
                learnt: answer.learnt,
                took: began.elapsed(),
            };
            // If the core is gone, the next daemon finds it out.
            let _ = core.send(Command::Attempted(attempted)).await;
            drop(permit);
        });
    }
}

async fn attempt(job: &Job, resolvers: &BTreeMap<String, Resolver>) -> Answer {
    if job.resolver == "hash" {
        let job = job.clone();
        let read = program::apart(job.session, move || hash::resolve(&job)).await;
        return read.unwrap_or_else(|| Answer::failed("reading it takes too long"));
    }
    if job.resolver == "dns" {
        return dns::resolve(job).await;
    }
    let Some(resolver) = resolvers.get(&job.resolver) else {
        return Answer::failed("no resolver of that name is in the daemon's settings any more");
    };
    let question = Question::of(job);
    let asked = async {
        match (&resolver.command, &resolver.http) {
            (Some(words), _) => command::resolve(words, resolver, question).await,
            (None, Some(url)) => http::resolve(url, resolver, question).await,
            (None, None) => Answer::failed("it has neither a command nor an address"),
        }
    };
    let time = Duration::from_millis(resolver.timeout_ms);
    tokio::time::timeout(time, asked)
        .await
        .unwrap_or_else(|_| Answer::failed(format!("no answer within {} ms", resolver.timeout_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_strictly() {
        let found = |text: &str| reply(text.as_bytes());
        let r = found(r#"{"decision":"DENY","reason":"known bad","facts":{"score":"9"}}"#);
        assert_eq!((r.found, r.detail.as_str()), (Some(Found::Deny), "known bad"));
        assert_eq!(r.facts["score"], "9");
        assert_eq!(found(r#"{"decision":"ALLOW"}"#).found, Some(Found::Allow));
        assert_eq!(found(r#"{"decision":"UNKNOWN"}"#).found, Some(Found::Unknown));
        for bad in [
            "",
            "{}",
            r#"{"decision":"allow"}"#,
            r#"{"decision":"ALLOW","sure":true}"#,
            r#"{"decision":"ALLOW"}{"decision":"DENY"}"#,
            r#"{"decision":"ALLOW","facts":{"a":1}}"#,
            "[\"ALLOW\"]",
        ] {
            assert_eq!(found(bad).found, Some(Found::Failed), "{bad}");
        }
        let many: BTreeMap<String, String> =
            (0..=FACTS_MAX).map(|i| (i.to_string(), String::new())).collect();
        let text = serde_json::json!({ "decision": "ALLOW", "facts": many }).to_string();
        assert_eq!(found(&text).found, Some(Found::Failed));
    }
}
