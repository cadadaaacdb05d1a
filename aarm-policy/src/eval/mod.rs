//! The reference evaluator: what a policy says about an action, and why.
//!
//! It works on the policy itself, without bitmaps or automaton, and is the yardstick for the compiled table
//! and for the kernel. "Why was this denied" is answered by it, from the recorded action and context.

mod context;
mod line;
mod matcher;
mod subject;

use aarm_common::{Decision, Operation};
use serde::Serialize;
use std::fmt;
use std::net::IpAddr;

use crate::action::{Action, canonical};
use crate::args::FUEL;
use crate::env::Env;
use crate::glob::Glob;
use crate::host::Host;
use crate::model::{Match, Mode, Policy, Record, decision_name, operation_name};
use crate::program::{Facts, Lack};
use crate::subject::Unknown;
use context::Seen;
pub use context::{Context, MAX_HISTORY, Past};
pub use line::{Line, eval_line, wanted};
use subject::Standing;

/// Why the decision is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A rule matched.
    Rule,
    /// No rule matched: the default of the operation's family.
    Default,
    /// Rules with the same right contradict each other.
    Conflict,
    /// The rule that would decide depends on what is not known of who acts.
    Unknown,
    /// The rule that would decide asks for what is known of a program only when it is about to run: an exec goes on to its first instruction, and is decided there.
    Args,
}

impl From<Cause> for aarm_common::event::Cause {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Rule => Self::Rule,
            Cause::Default => Self::Default,
            Cause::Conflict => Self::Conflict,
            Cause::Unknown => Self::Unknown,
            Cause::Args => Self::Args,
        }
    }
}

/// Which path of an action a facet is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The only one, or the source.
    Source,
    /// The target of a rename or link.
    Target,
}

/// One of the things that an action does at once: a rename also reads and writes its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Facet {
    /// The operation it is decided as.
    #[serde(serialize_with = "operation_name")]
    pub operation: Operation,
    /// The path it is about.
    pub end: End,
}

/// The facets of an action. The first one is the action itself. The strictest decision on any of them is that on the action; of
/// several that are equally strict, the first. One that asks and refuses at once is stricter than any that waits.
pub fn facets(action: &Action) -> Vec<Facet> {
    let at = |end: End, operations: &[Operation]| -> Vec<Facet> {
        operations.iter().map(|operation| Facet { operation: *operation, end }).collect()
    };
    let op = action.operation;
    match op {
        Operation::OpenRead | Operation::OpenWrite => {
            let mut all = vec![op];
            if op == Operation::OpenWrite {
                all.extend(action.also_read.then_some(Operation::OpenRead));
            }
            // It truncates also where it opens for reading only.
            all.extend(action.truncates.then_some(Operation::Truncate));
            if op == Operation::OpenWrite {
                all.extend(action.sysctl.then_some(Operation::SysctlWrite));
            }
            all.extend(action.raw_memory.then_some(Operation::RawMemory));
            at(End::Source, &all)
        }
        Operation::ReceiveFd => {
            let mut all = vec![op, Operation::OpenRead];
            all.extend(action.writes.then_some(Operation::OpenWrite));
            at(End::Source, &all)
        }
        Operation::Send if action.fast_open => at(End::Source, &[op, Operation::Connect]),
        Operation::Rename | Operation::Link => {
            let both = [op, Operation::OpenRead, Operation::OpenWrite];
            let exchange = action.exchange && op == Operation::Rename;
            let target = if exchange { &both[..] } else { &[op, Operation::OpenWrite] };
            [at(End::Source, &both), at(End::Target, target)].concat()
        }
        _ => at(End::Source, &[op]),
    }
}

/// A rule that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Considered {
    /// The rule.
    pub rule: String,
    /// The facet it was asked about.
    #[serde(flatten)]
    pub facet: Facet,
    /// Whether all of its predicates hold.
    pub matched: bool,
    /// The first predicate or condition that does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<&'static str>,
    /// The first condition that is unknown, if none fails. Whether the rule holds all the same is for it to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<&'static str>,
}

/// What asks about an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Asking {
    /// The rule; none: a default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// STEP_UP or DEFER.
    #[serde(serialize_with = "decision_name")]
    pub decision: Decision,
    /// Why.
    pub cause: Cause,
}

/// What was decided, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The decision.
    #[serde(serialize_with = "decision_name")]
    pub decision: Decision,
    /// Whether a refusal is enforced: not in mode audit.
    pub enforced: bool,
    /// Why.
    pub cause: Cause,
    /// The rule that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Its reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The action waits for an answer. Otherwise STEP_UP and DEFER are refused at once.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub waits: bool,
    /// What else has to be answered before it happens: other facets are asked about by others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<Asking>,
    /// For a conflict, the rule that contradicts it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conflicts_with: Option<String>,
    /// The facet that decided.
    #[serde(flatten)]
    pub facet: Facet,
    /// Labels that the session did not have and gets, because the action passes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub adds: Vec<String>,
    /// Whether the action is only counted, instead of having a receipt.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub summarized: bool,
    /// The rules on the operation that were looked at, in order, until one matched (and of those with the same
    /// right that say otherwise); facet by facet until one was denied.
    pub considered: Vec<Considered>,
}

/// What a facet got.
#[derive(Clone, Copy)]
struct Outcome {
    facet: Facet,
    winner: Option<usize>,
    contradicted_by: Option<usize>,
    /// Something that the winner asks for is unknown.
    unsure: bool,
    decision: Decision,
    /// It may wait for an answer.
    waits: bool,
    /// What is not known of the program decides.
    later: bool,
}

impl Outcome {
    fn cause(&self) -> Cause {
        match (self.winner, self.contradicted_by) {
            _ if self.later => Cause::Args,
            (Some(_), _) if self.unsure => Cause::Unknown,
            (Some(_), Some(_)) => Cause::Conflict,
            (Some(_), None) => Cause::Rule,
            (None, _) => Cause::Default,
        }
    }

    fn asking(&self, policy: &Policy) -> Asking {
        let rule = self.winner.map(|i| policy.rules()[i].id.clone());
        Asking { rule, decision: self.decision, cause: self.cause() }
    }
}

/// Decides an action by a policy.
pub fn eval(policy: &Policy, env: &Env, action: &Action, context: &Context) -> Explanation {
    let seen = Seen::new(policy, context);
    let mut considered = Vec::new();
    let mut outcome: Option<Outcome> = None;
    let mut asking: Vec<Asking> = Vec::new();
    for facet in facets(action) {
        let next = decide(policy, env, action, facet, &seen, &mut considered);
        // The strictest decides: who answers for one facet must not lift what another refuses.
        let strict = |o: &Outcome| strictness(o.decision, o.waits);
        if outcome.is_none_or(|first| strict(&next) > strict(&first)) {
            outcome = Some(next);
        }
        let asks = next.asking(policy);
        if next.waits && !asking.contains(&asks) {
            asking.push(asks);
        }
        if next.decision == Decision::Deny {
            break;
        }
    }
    // There is always a first facet: `facets` never returns none.
    let outcome = outcome.unwrap_or(Outcome {
        facet: Facet { operation: action.operation, end: End::Source },
        winner: None,
        contradicted_by: None,
        unsure: false,
        decision: Decision::Deny,
        waits: false,
        later: false,
    });
    let Outcome { facet, winner, contradicted_by, decision, .. } = outcome;
    let waits = outcome.waits && policy.mode() == Mode::Enforce;
    let first = outcome.asking(policy);
    asking.retain(|other| waits && *other != first);
    let rule = winner.map(|i| &policy.rules()[i]);
    let name = rule.map(|rule| rule.id.clone());
    let allowed = decision == Decision::Allow;
    let passed = allowed || decision == Decision::Modify || policy.mode() == Mode::Audit;
    let adds = if passed { labels_added(policy, env, action, &seen) } else { Vec::new() };
    let summarized = allowed
        && !outcome.later
        && adds.is_empty()
        && policy.record(action.operation) == Record::Summary
        && !seen.is_counted(action.operation, name.as_deref(), passed);
    Explanation {
        decision,
        enforced: policy.mode() == Mode::Enforce,
        cause: first.cause,
        rule: name,
        reason: rule.and_then(|rule| rule.reason.clone()),
        waits,
        also: asking,
        conflicts_with: contradicted_by.map(|i| policy.rules()[i].id.clone()),
        facet,
        adds,
        summarized,
        considered,
    }
}

/// The order in which decisions on the facets of one action prevail. `waits`: of one that asks, whether it may wait.
pub(crate) fn strictness(decision: Decision, waits: bool) -> u8 {
    match decision {
        Decision::Allow => 0,
        Decision::Modify => 1,
        Decision::StepUp if waits => 2,
        Decision::Defer if waits => 3,
        Decision::StepUp | Decision::Defer => 4,
        Decision::Deny => 5,
    }
}

/// Whether a `host` or `not_host` predicate that asks for these holds of an address known by some names.
fn is_host(asked: &[Host], names: &[String]) -> bool {
    asked.iter().any(|host| match host.is_unknown() {
        true => names.is_empty(),
        false => names.iter().any(|name| host.matches(name)),
    })
}

/// Decides one facet.
fn decide(
    policy: &Policy,
    env: &Env,
    action: &Action,
    facet: Facet,
    seen: &Seen<'_>,
    considered: &mut Vec<Considered>,
) -> Outcome {
    let order = policy.order();
    let mut fuel = FUEL;
    let facts = Facts::of(action.args.as_deref(), action.told.as_ref());
    // Whether a rule matches, and then whether something that it asks for is unknown.
    let mut matches = |i: &usize| {
        let rule = &policy.rules()[*i];
        if !rule.matches.names(facet.operation) {
            return None;
        }
        let mut failed = failing(&rule.matches, env, action, facet).or_else(|| seen.failing(rule));
        let mut unknown = None;
        let mut later = None;
        if failed.is_none() && rule.is_by_line() {
            match rule.matches.program.failing(&facts, &mut fuel) {
                // What is changed of a program is changed when it is about to run, whatever it is.
                Ok(None) => later = facts.args.err(),
                Ok(name) => failed = name,
                Err(lack) => later = Some(lack),
            }
        }
        if failed.is_none() {
            match subject::standing(rule, env, action, seen.subjects.as_ref()) {
                Standing::Holds => {}
                Standing::Fails(name) => failed = Some(name),
                Standing::Unknown(name) => {
                    unknown = Some(name);
                    failed = (!subject::stands(rule)).then_some(name);
                }
            }
        }
        let matched = failed.is_none();
        considered.push(Considered { rule: rule.id.clone(), facet, matched, failed, unknown });
        matched.then_some((unknown.is_some(), later))
    };
    let found = order.iter().enumerate().find_map(|(at, i)| matches(i).map(|how| (at, how)));
    let winner = found.map(|(at, _)| order[at]);
    let (unsure, mut later) = found.map_or((false, None), |(_, how)| how);
    // A rule that is not sure to hold refuses by itself, whatever others say.
    let mut contradicted_by = None;
    if let Some((at, _)) = found.filter(|_| !unsure && later.is_none()) {
        for other in order[at + 1..].iter().filter(|other| policy.conflict(order[at], **other)) {
            if let Some((_, depends)) = matches(other) {
                contradicted_by = contradicted_by.or(Some(*other));
                later = later.or(depends);
            }
        }
    }
    if let Some(lack) = later {
        // What cannot be known any more is refused.
        let decision = if matches!(lack, Lack::Ever(_)) { Decision::Deny } else { Decision::Allow };
        let contradicted_by = None;
        return Outcome {
            facet,
            winner,
            contradicted_by,
            unsure: false,
            decision,
            waits: false,
            later: true,
        };
    }
    // A name opens no network that a rule refuses.
    let by_name = found.zip(winner).filter(|(_, winner)| {
        !unsure && contradicted_by.is_none() && policy.rules()[*winner].allows_by_name()
    });
    let guard = by_name.and_then(|((at, _), _)| {
        let rest = order[at + 1..].iter().copied().filter(|other| policy.rules()[*other].is_guard());
        rest.into_iter().find(|other| matches(other).is_some())
    });
    let winner = guard.filter(|guard| policy.rules()[*guard].decision != Decision::Allow).or(winner);
    let decision = match (winner, contradicted_by) {
        (Some(winner), _) if unsure => match &policy.rules()[winner].subject {
            Some(subject) if subject.unknown == Unknown::Deny => Decision::Deny,
            _ => Decision::Defer,
        },
        (Some(_), Some(_)) => Decision::Defer,
        (Some(winner), None) => policy.rules()[winner].decision,
        (None, _) => policy.default_for(facet.operation.family()),
    };
    // A conflict, or something unknown, is not what the rule says.
    let own = winner.map(|i| &policy.rules()[i]).filter(|_| !unsure && contradicted_by.is_none());
    let waits = policy.waits(own, decision);
    Outcome { facet, winner, contradicted_by, unsure, decision, waits, later: false }
}

/// The labels that an action adds to a session, if it passes.
fn labels_added(policy: &Policy, env: &Env, action: &Action, seen: &Seen<'_>) -> Vec<String> {
    let facets = facets(action);
    let touches =
        |m: &Match| facets.iter().any(|f| m.names(f.operation) && failing(m, env, action, *f).is_none());
    let mut adds: Vec<String> = Vec::new();
    for entry in policy.data() {
        if !seen.has(&entry.label) && !adds.contains(&entry.label) && entry.on.parts().iter().any(touches) {
            adds.push(entry.label.clone());
        }
    }
    adds
}

/// The first predicate that does not hold for the facet; the operation is known to.
fn failing(m: &Match, env: &Env, action: &Action, facet: Facet) -> Option<&'static str> {
    let op = facet.operation;
    let names: Vec<&[u8]> = match facet.end {
        End::Source => action.path.iter().chain(&action.names).map(Vec::as_slice).collect(),
        End::Target => action.path2.iter().chain(&action.names2).map(Vec::as_slice).collect(),
    };
    let actor: Vec<&[u8]> = action.exe.iter().map(Vec::as_slice).collect();
    let program = if op.is_exec() { &names } else { &actor };
    let glob = |globs: &[Glob], paths: &[&[u8]]| {
        paths.iter().any(|path| globs.iter().any(|glob| matcher::matches(glob, &env.homes, path)))
    };
    let above = |globs: &[Glob], paths: &[&[u8]]| {
        paths.iter().any(|path| globs.iter().any(|glob| matcher::is_above(glob, &env.homes, path)))
    };
    let mut checks: Vec<(&'static str, bool)> = vec![
        ("exe", m.exe.is_empty() || glob(&m.exe, program)),
        ("not_exe", !glob(&m.not_exe, program)),
        ("uid", m.uid.is_empty() || m.uid.iter().any(|r| r.contains(action.uid))),
        ("not_uid", !m.not_uid.iter().any(|r| r.contains(action.uid))),
    ];
    if op.has_path() {
        let on_path =
            m.path.is_empty() || glob(&m.path, &names) || action.moves_tree() && above(&m.path, &names);
        checks.push(("path", on_path));
        checks.push(("not_path", !glob(&m.not_path, &names)));
    }
    if op.has_socket() {
        checks.extend([
            ("protocol", m.protocol.is_empty() || m.protocol.contains(&action.protocol)),
            ("not_protocol", !m.not_protocol.contains(&action.protocol)),
            ("family", m.family.is_empty() || m.family.contains(&action.family)),
            ("not_family", !m.not_family.contains(&action.family)),
            ("type", m.sock_type.is_empty() || m.sock_type.contains(&action.sock_type)),
            ("not_type", !m.not_sock_type.contains(&action.sock_type)),
        ]);
    }
    if op.has_address() {
        // What is not IP has no port that a rule could mean.
        let addr: Option<IpAddr> = action.addr.map(canonical);
        let port = addr.map(|_| action.port.unwrap_or(0));
        let within =
            |nets: &[ipnet::IpNet]| addr.is_some_and(|addr| nets.iter().any(|net| net.contains(&addr)));
        let among = |ports: &[crate::model::Range<u16>]| {
            port.is_some_and(|port| ports.iter().any(|r| r.contains(port)))
        };
        let named = matches!(op, Operation::Connect | Operation::Send);
        checks.extend([
            ("host", m.host.is_empty() || named && is_host(&m.host, &action.hosts)),
            ("not_host", !(named && is_host(&m.not_host, &action.hosts))),
            ("cidr", m.cidr.is_empty() || within(&m.cidr)),
            ("not_cidr", !within(&m.not_cidr)),
            ("port", m.port.is_empty() || among(&m.port)),
            ("not_port", !among(&m.not_port)),
        ]);
    }
    checks.into_iter().find(|(_, holds)| !holds).map(|(name, _)| name)
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = if self.enforced { "" } else { " (audit: not enforced)" };
        write!(f, "{}{mode} ", self.decision.name())?;
        match &self.rule {
            Some(rule) => write!(f, "by rule {rule}")?,
            None => write!(f, "by default of {}", self.facet.operation.family().name())?,
        }
        write!(f, ", as {}", self.facet.operation.name())?;
        if self.facet.end == End::Target {
            write!(f, " of the target")?;
        }
        if self.cause == Cause::Unknown {
            write!(f, ", because who acts is not fully known")?;
        }
        if let Some(other) = &self.conflicts_with {
            write!(f, ", which rule {other} contradicts")?;
        }
        match &self.reason {
            Some(reason) => write!(f, ": {reason}"),
            None => Ok(()),
        }
    }
}
