//! Telling people elsewhere what waits for them, and what became of it.
//!
//! One queue and one task for each address, so that one that does not answer keeps nobody else waiting. What is told is signed if there is
//! a secret, and tried again for a while. Must never: hold up the core; what has no room is counted, and stands in the log as everything
//! does.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::mpsc;

use super::config::{Format, Webhook};
use super::post::{PostError, Poster, address, secret};
use crate::api::approvals::Approval;
use crate::metrics::Metrics;

/// What waits to be told to all.
pub const QUEUE: usize = 1024;
/// What waits to be told to one address.
const EACH: usize = 256;
/// How often it is tried, and for how long one try may take.
const TRIES: u32 = 7;
const TIME: Duration = Duration::from_secs(10);
/// Time before the second try; each next one is twice as long.
const PAUSE: Duration = Duration::from_secs(1);
/// Most bytes of an answer that are read; nothing in it matters.
const ANSWER_MAX: usize = 64 << 10;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// People are asked.
    Waiting,
    /// More people are asked.
    Escalated,
    /// It was answered, by whomever, or its time is over.
    Answered,
}

/// Something to tell.
#[derive(Clone, Debug, Serialize)]
pub struct Notice {
    /// 1.
    pub v: u32,
    /// What happened.
    pub event: What,
    /// The host it happened on.
    pub host: String,
    /// What it is about.
    pub approval: Approval,
    /// How many others like it wait that nobody was told of: `GET /v1/approvals` has them.
    #[serde(skip_serializing_if = "is_zero")]
    pub others: usize,
    /// The answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<Told>,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// An answer, as it is told.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    /// `ALLOW`, `MODIFY` or `DENY`.
    pub answer: String,
    /// How it was reached.
    pub method: String,
    /// Who answered; empty: nobody did.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub approver: String,
}

impl Notice {
    /// In one line, for people.
    fn text(&self) -> String {
        let a = &self.approval;
        let object = a.address.clone().unwrap_or_else(|| a.path.clone());
        let what = format!("{} {object} by {} (user {}, process {})", a.operation, a.comm, a.uid, a.pid);
        let rule = a.asked.rule.as_deref().unwrap_or("a default");
        let because = a.asked.reason.as_deref().map_or(String::new(), |reason| format!(": {reason}"));
        match (&self.answer, self.event) {
            (Some(told), _) => {
                let by = match told.approver.is_empty() {
                    true => format!("({})", told.method),
                    false => format!("by {}", told.approver),
                };
                format!("{}: {} {by}: {what}", self.host, told.answer)
            }
            (None, event) => {
                let mut more = if event == What::Escalated { " (escalated)" } else { "" }.to_owned();
                if self.others > 0 {
                    more = format!("{more} and {} like it", self.others);
                }
                format!(
                    "{}: {}{more}: {what}. Rule {rule}{because}. Until {}: aarm approvals approve {}",
                    self.host, a.asked.decision, a.asked.deadline, a.id
                )
            }
        }
    }

    fn body(&self, format: Format) -> Vec<u8> {
        match format {
            Format::Json => serde_json::to_vec(self),
            // What Slack and those that are like it take. `<`, `>` and `&` have a meaning there.
            Format::Slack => {
                let text = self.text().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
                serde_json::to_vec(&serde_json::json!({ "text": text }))
            }
        }
        .unwrap_or_default()
    }
}

/// Tells until there is nothing more.
pub async fn serve(mut notices: mpsc::Receiver<Arc<Notice>>, hooks: Vec<Webhook>, metrics: Arc<Metrics>) {
    let queues: Vec<mpsc::Sender<Arc<Notice>>> = hooks
        .into_iter()
        .map(|hook| {
            let (to, queue) = mpsc::channel(EACH);
            tokio::spawn(tell(queue, hook, Arc::clone(&metrics)));
            to
        })
        .collect();
    while let Some(notice) = notices.recv().await {
        for queue in &queues {
            if queue.try_send(Arc::clone(&notice)).is_err() {
                metrics.webhooks(false);
                tracing::warn!("a webhook is so far behind that hold {} is not told", notice.approval.id);
            }
        }
    }
}

async fn tell(mut queue: mpsc::Receiver<Arc<Notice>>, hook: Webhook, metrics: Arc<Metrics>) {
    while let Some(notice) = queue.recv().await {
        let told = with_patience(&hook, &notice).await;
        metrics.webhooks(told.is_ok());
        if let Err(why) = told {
            tracing::warn!("webhook {}: hold {} is not told: {why}", hook.url, notice.approval.id);
        }
    }
}

/// Tries until it is told, or it is no use any more.
async fn with_patience(hook: &Webhook, notice: &Notice) -> Result<(), String> {
    let body = notice.body(hook.format);
    let mut pause = PAUSE;
    let mut last = String::new();
    for n in 0..TRIES {
        if n > 0 {
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        match tokio::time::timeout(TIME, once(hook, body.clone())).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(PostError::Address(bad))) => return Err(PostError::Address(bad).to_string()),
            Ok(Err(e)) => last = e.to_string(),
            Err(_) => last = format!("no answer within {} s", TIME.as_secs()),
        }
    }
    Err(format!("{last} (tried {TRIES} times)"))
}

async fn once(hook: &Webhook, body: Vec<u8>) -> Result<(), PostError> {
    let secret = hook.secret.as_deref().map(secret).transpose()?;
    let to = address(&hook.url)?;
    Poster::to(&to)?.post(&to, body, secret.as_deref(), ANSWER_MAX).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::approvals::Asked;

    fn notice(event: What, answer: Option<Told>) -> Notice {
        let asked = Asked {
            rule: Some("r".into()),
            reason: Some("<b>&".into()),
            decision: "STEP_UP".into(),
            ..Asked::default()
        };
        let approval = Approval {
            id: "00000000000000ab".into(),
            operation: "connect".into(),
            address: Some("203.0.113.9:443".into()),
            asked,
            ..Approval::default()
        };
        Notice { v: 1, event, host: "h".into(), approval, others: 0, answer }
    }

    #[test]
    fn what_is_told() {
        let json: serde_json::Value =
            serde_json::from_slice(&notice(What::Waiting, None).body(Format::Json)).unwrap();
        assert_eq!((&json["event"], &json["approval"]["rule"]), (&"waiting".into(), &"r".into()));
        assert!(json.get("answer").is_none());
        let slack = |n: Notice| -> String {
            let json: serde_json::Value = serde_json::from_slice(&n.body(Format::Slack)).unwrap();
            json["text"].as_str().unwrap().to_owned()
        };
        let asked = slack(notice(What::Waiting, None));
        assert!(
            asked.contains("connect 203.0.113.9:443") && asked.contains("approve 00000000000000ab"),
            "{asked}"
        );
        assert!(asked.contains("&lt;b&gt;&amp;") && !asked.contains("<b>"), "{asked}");
        let told = Told { answer: "DENY".into(), method: "timeout".into(), approver: String::new() };
        let over = slack(notice(What::Answered, Some(told)));
        assert!(over.contains("DENY (timeout)") && !over.contains("approve 0"), "{over}");
    }
}
