//! Reading a session's context.

use std::collections::HashSet;

use super::action::finish;
use super::fields::{Fields, Shape, each, list, number, text, truth};
use super::scalars;
use super::when::{declared_label, rule_id, span};
use crate::diagnostic::{Code, Diagnostic, Sink};
use crate::eval::{Context, MAX_HISTORY, Past};
use crate::model::Policy;
use crate::when::{MAX_SPAN, Span};
use crate::yaml::{self, Kind, Node};

const CONTEXT: Shape = Shape {
    what: "a context",
    known: &["labels", "elapsed", "history"],
    later: &["intent", "drift", "declared", "identity"],
};

const PAST: Shape = Shape {
    what: "an earlier action",
    known: &["operation", "rule", "passed", "seconds_ago", "ago"],
    later: &["path", "addr"],
};

impl Context {
    /// Reads a session's context from JSON, for example
    /// `{"labels":["SECRET"],"elapsed":"5m","history":[{"operation":"connect","rule":null,"seconds_ago":3}]}`.
    ///
    /// Of an earlier action `rule` is the rule that decided (`null`: a default), `passed` whether it was let
    /// through (true unless given), and `seconds_ago` or `ago` (`"500ms"`) its time, now unless given. The session is
    /// as old as its earliest action, if `elapsed` does not say more.
    pub fn from_json(text: &[u8]) -> Result<Context, Vec<Diagnostic>> {
        read(text, None)
    }

    /// The same for a session under a policy: labels and rules that it does not have are errors.
    pub fn for_policy(text: &[u8], policy: &Policy) -> Result<Context, Vec<Diagnostic>> {
        read(text, Some(policy))
    }
}

fn read(source: &[u8], policy: Option<&Policy>) -> Result<Context, Vec<Diagnostic>> {
    let mut sink = Sink::default();
    let context = yaml::read(source, &mut sink).and_then(|node| context(&node, policy, &mut sink));
    finish(context, sink)
}

fn context(node: &Node, policy: Option<&Policy>, sink: &mut Sink) -> Option<Context> {
    let fields = Fields::of(node, &CONTEXT, sink)?;
    let mut context = Context::default();
    let declared = policy.map(Policy::labels);
    let labels = fields.get("labels").map(|n| match list(n, "labels", sink) {
        [] => Vec::new(),
        _ => each(Some(n), "labels", sink, |n, sink| match &declared {
            Some(declared) => declared_label(n, declared, sink),
            None => text(n, sink).map(str::to_owned),
        }),
    });
    context.labels.extend(labels.unwrap_or_default());
    if let Some(elapsed) = fields.get("elapsed").and_then(|n| span(n, sink)) {
        context.elapsed = elapsed;
    }
    let items = fields.get("history").map(|n| list(n, "earlier actions", sink)).unwrap_or_default();
    if items.len() > MAX_HISTORY {
        let place = fields.place();
        sink.error(place, Code::TooMany, format!("{} earlier actions; at most {MAX_HISTORY}", items.len()));
    }
    let rules: Option<HashSet<&str>> = policy.map(|p| p.rules().iter().map(|r| r.id.as_str()).collect());
    context.history =
        items.iter().take(MAX_HISTORY).filter_map(|item| past(item, rules.as_ref(), sink)).collect();
    let earliest = context.history.iter().map(|past| past.ago).max().unwrap_or_default();
    if fields.get("elapsed").is_some() && context.elapsed < earliest {
        let place = fields.get("elapsed").map_or(fields.place(), |n| n.place);
        sink.error(
            place,
            Code::BadValue,
            format!("the session began {} ago, but acted {earliest} ago", context.elapsed),
        );
    }
    context.elapsed = context.elapsed.max(earliest);
    Some(context)
}

fn past(node: &Node, rules: Option<&HashSet<&str>>, sink: &mut Sink) -> Option<Past> {
    let before = sink.errors();
    let fields = Fields::of(node, &PAST, sink)?;
    let operation = fields.need("operation", sink).and_then(|n| scalars::operation(n, sink));
    let rule = fields.get("rule").filter(|n| n.kind() != Kind::Nothing).and_then(|n| match rules {
        Some(rules) => rule_id(n, rules, sink),
        None => text(n, sink).map(str::to_owned),
    });
    let passed = fields.get("passed").map_or(Some(true), |n| truth(n, sink));
    let ago = match (fields.get("seconds_ago"), fields.get("ago")) {
        (Some(n), None) => number(n, "seconds", 0, i128::from(MAX_SPAN.0 / 1_000_000_000), sink)
            .map(|seconds| Span(seconds as u64 * 1_000_000_000)),
        (None, Some(n)) => span(n, sink),
        (None, None) => Some(Span(0)),
        (Some(n), Some(_)) => {
            sink.error(n.place, Code::BadValue, "\"seconds_ago\" and \"ago\" say the same: give one");
            None
        }
    };
    let past = Past { operation: operation?, rule, passed: passed?, ago: ago? };
    (sink.errors() == before).then_some(past)
}
