//! Reading what rules and policies say of waiting, and whether what they let wait can.

use aarm_common::{Decision, Operation};

use super::fields::{Fields, Shape, each, number, text, wrong_type};
use super::scalars;
use crate::diagnostic::{Code, Diagnostic, Place, Sink};
use crate::hold::{
    Approver, Escalate, HoldDefaults, MAX_APPROVER, MAX_APPROVERS, MAX_CASCADE, MAX_RESOLVER, MAX_RESOLVERS,
    MAX_WAIT, OnTimeout, Risk, RuleHold, is_resolver_name,
};
use crate::model::OperationName;
use crate::when::Span;
use crate::yaml::{Node, shown};

/// Fields of a rule that are about waiting.
const FIELDS: [&str; 6] = ["approvers", "escalate", "timeout", "on_timeout", "risk", "resolve"];

const ESCALATE: Shape = Shape { what: "`escalate`", known: &["after", "approvers"], later: &["to"] };
const HOLD: Shape = Shape {
    what: "`hold`",
    known: &["approvers", "timeout", "defer_timeout", "risk", "cascade"],
    later: &["escalate"],
};

/// `spec.hold`.
pub(crate) fn defaults(node: &Node, sink: &mut Sink) -> HoldDefaults {
    let Some(fields) = Fields::of(node, &HOLD, sink) else { return HoldDefaults::default() };
    HoldDefaults {
        approvers: approvers(fields.get("approvers"), sink),
        timeout: fields.get("timeout").and_then(|n| wait(n, sink)),
        defer_timeout: fields.get("defer_timeout").and_then(|n| wait(n, sink)),
        risk: fields.get("risk").and_then(|n| risk(n, sink)),
        cascade: fields
            .get("cascade")
            .and_then(|n| number(n, "how much is deferred at once", 1, MAX_CASCADE.into(), sink))
            .map(|n| n as u32),
    }
}

/// What a rule with this decision says.
pub(crate) fn of_rule(fields: &Fields<'_>, decision: Option<Decision>, sink: &mut Sink) -> RuleHold {
    let waits = matches!(decision, Some(Decision::StepUp | Decision::Defer));
    if let (Some(decision), false) = (decision, waits) {
        for name in FIELDS {
            if let Some(node) = fields.get(name) {
                sink.push(
                    Diagnostic::error(
                        node.place,
                        Code::Inapplicable,
                        format!("`{name}` says nothing about a rule that decides {}", decision.name()),
                    )
                    .help("only STEP_UP and DEFER wait for an answer"),
                );
            }
        }
        return RuleHold::default();
    }
    let hold = RuleHold {
        approvers: approvers(fields.get("approvers"), sink),
        timeout: fields.get("timeout").and_then(|n| wait(n, sink)),
        on_timeout: fields.get("on_timeout").and_then(|n| on_timeout(n, decision, sink)),
        escalate: fields.get("escalate").and_then(|n| escalate(n, sink)),
        risk: fields.get("risk").and_then(|n| risk(n, sink)),
        resolve: resolvers(fields.get("resolve"), decision, sink),
    };
    if let (Some(escalate), Some(timeout), Some(node)) =
        (&hold.escalate, hold.timeout, fields.get("escalate"))
        && escalate.after >= timeout
    {
        sink.error(
            node.place,
            Code::BadValue,
            format!("after {} nobody is asked any more: the rule's timeout is {timeout}", escalate.after),
        );
    }
    hold
}

/// Refuses a resolver that could find nothing out about these operations.
pub(crate) fn check_resolvers(
    fields: &Fields<'_>,
    hold: &RuleHold,
    names: &[OperationName],
    sink: &mut Sink,
) {
    let mut members = names.iter().flat_map(|name| name.members());
    let nameless = members.find(|op| !matches!(op, Operation::Connect | Operation::Send));
    if let (Some(op), Some(node)) = (nameless, fields.get("resolve"))
        && hold.resolve.iter().any(|name| name == "dns")
    {
        sink.push(
            Diagnostic::error(
                node.place,
                Code::Inapplicable,
                format!("the resolver `dns` finds nothing out about `{}`", op.name()),
            )
            .help("it finds names of addresses, for connect and send"),
        );
    }
}

/// Refuses a decision that would make wait what cannot.
pub(crate) fn check(decision: Decision, names: &[OperationName], place: Place, sink: &mut Sink) {
    if !matches!(decision, Decision::StepUp | Decision::Defer) {
        return;
    }
    let mut cannot: Vec<Operation> =
        names.iter().flat_map(|name| name.members()).filter(|op| !op.cannot_wait().is_empty()).collect();
    cannot.sort_unstable();
    cannot.dedup();
    let Some(first) = cannot.first() else { return };
    let list: Vec<String> = cannot.iter().map(|op| format!("`{}`", op.name())).collect();
    sink.push(
        Diagnostic::error(
            place,
            Code::Inapplicable,
            format!("{} cannot wait for an answer: {}", list.join(", "), first.cannot_wait()),
        )
        .help("let a rule of their own ALLOW or DENY them, and name only the others here"),
    );
}

fn approvers(node: Option<&Node>, sink: &mut Sink) -> Vec<Approver> {
    let found = each(node, "approvers", sink, |node, sink| {
        let Some(text) = node.text() else {
            sink.push(wrong_type(node, "an approver, as text"));
            return None;
        };
        let approver = Approver::parse(text);
        if approver.is_none() {
            sink.push(
                Diagnostic::error(node.place, Code::BadValue, format!("\"{}\" is no approver", shown(text))).help(
                    format!(
                        "write uid:N, user:NAME, gid:N, group:NAME, key:NAME (names of at most {MAX_APPROVER} bytes) or human"
                    ),
                ),
            );
        }
        approver
    });
    if let Some(node) = node
        && found.len() > MAX_APPROVERS
    {
        sink.error(node.place, Code::TooMany, format!("{} approvers; at most {MAX_APPROVERS}", found.len()));
    }
    found
}

/// Who is asked before people are.
fn resolvers(node: Option<&Node>, decision: Option<Decision>, sink: &mut Sink) -> Vec<String> {
    let found = each(node, "resolvers", sink, |node, sink| {
        let Some(text) = node.text() else {
            sink.push(wrong_type(node, "the name of a resolver, as text"));
            return None;
        };
        if !is_resolver_name(text) {
            sink.push(
                Diagnostic::error(
                    node.place,
                    Code::BadValue,
                    format!("\"{}\" is no name of a resolver", shown(text)),
                )
                .help(format!(
                    "1 to {MAX_RESOLVER} of a-z, 0-9 and -: declared, dns, hash, intent, or one of the daemon's settings"
                )),
            );
            return None;
        }
        Some(text.to_owned())
    });
    let Some(node) = node else { return found };
    if found.len() > MAX_RESOLVERS {
        sink.error(node.place, Code::TooMany, format!("{} resolvers; at most {MAX_RESOLVERS}", found.len()));
    }
    if decision == Some(Decision::StepUp) {
        sink.push(
            Diagnostic::error(
                node.place,
                Code::Inapplicable,
                "`resolve` says nothing about a rule that decides STEP_UP",
            )
            .help("STEP_UP is for people to answer; a DEFER with `on_timeout: STEP_UP` asks them last"),
        );
    }
    found
}

fn wait(node: &Node, sink: &mut Sink) -> Option<Span> {
    let found = node.text().and_then(Span::parse).filter(|span| *span <= MAX_WAIT);
    if found.is_none() {
        sink.push(
            Diagnostic::error(
                node.place,
                Code::BadValue,
                format!("\"{}\" is no time to wait", shown(node.written().unwrap_or_default())),
            )
            .help("write 30s, 10m or 2h, at most 24h; 0s refuses at once"),
        );
    }
    found
}

fn on_timeout(node: &Node, decision: Option<Decision>, sink: &mut Sink) -> Option<OnTimeout> {
    match (node.text(), decision) {
        (Some("DENY"), _) => Some(OnTimeout::Deny),
        (Some("STEP_UP"), Some(Decision::Defer) | None) => Some(OnTimeout::StepUp),
        (Some("STEP_UP"), _) => {
            sink.push(
                Diagnostic::error(
                    node.place,
                    Code::BadValue,
                    "people are asked already: `on_timeout` is DENY",
                )
                .help("`escalate` asks more of them"),
            );
            None
        }
        (Some("ALLOW"), _) => {
            sink.push(
                Diagnostic::error(node.place, Code::BadValue, "no answer is never ALLOW")
                    .help("write DENY, or STEP_UP in a DEFER rule"),
            );
            None
        }
        _ => {
            sink.push(
                Diagnostic::error(
                    node.place,
                    Code::BadValue,
                    format!("\"{}\" cannot follow a timeout", shown(node.written().unwrap_or_default())),
                )
                .help("write DENY, or STEP_UP in a DEFER rule"),
            );
            None
        }
    }
}

fn escalate(node: &Node, sink: &mut Sink) -> Option<Escalate> {
    let fields = Fields::of(node, &ESCALATE, sink)?;
    let after = fields.need("after", sink).and_then(|n| wait(n, sink));
    let who = approvers(fields.need("approvers", sink), sink);
    Some(Escalate { after: after?, approvers: who })
}

fn risk(node: &Node, sink: &mut Sink) -> Option<Risk> {
    let word = text(node, sink)?;
    let found = Risk::ALL.into_iter().find(|risk| risk.name() == word);
    if found.is_none() {
        sink.push(scalars::unknown_word(node, "risk", Risk::ALL.iter().map(|risk| risk.name())));
    }
    found
}
