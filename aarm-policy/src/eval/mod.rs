//! The reference evaluator: what a policy says about an action, and why.
//!
//! It works on the policy itself, without bitmaps or automaton, and is the yardstick for the compiled table
//! and for the kernel. "Why was this denied" is answered by it, from the recorded action.

mod matcher;

use aarm_common::{Decision, Operation};
use serde::Serialize;
use std::fmt;
use std::net::IpAddr;

use crate::action::{Action, canonical};
use crate::env::Env;
use crate::glob::Glob;
use crate::model::{Mode, Policy, Rule, decision_name, operation_name};

/// What is known of a session. Nothing yet: no predicate of this version asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Context {}

/// Why the decision is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A rule matched.
    Rule,
    /// No rule matched: the default of the operation's family.
    Default,
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

/// The facets of an action, in the order in which a refusal is looked for. The first one is the action
/// itself. An action is refused if any facet is.
pub fn facets(action: &Action) -> Vec<Facet> {
    let at = |end: End, operations: &[Operation]| -> Vec<Facet> {
        operations.iter().map(|operation| Facet { operation: *operation, end }).collect()
    };
    let op = action.operation;
    match op {
        Operation::OpenWrite => {
            let mut all = vec![op];
            all.extend(action.also_read.then_some(Operation::OpenRead));
            all.extend(action.truncates.then_some(Operation::Truncate));
            at(End::Source, &all)
        }
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
    /// The first predicate that does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<&'static str>,
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
    /// The facet that decided.
    #[serde(flatten)]
    pub facet: Facet,
    /// The rules on the operation that were looked at, in order, until one matched; facet by facet until
    /// one was refused.
    pub considered: Vec<Considered>,
}

/// Decides an action by a policy.
pub fn eval(policy: &Policy, env: &Env, action: &Action, _context: &Context) -> Explanation {
    let order = policy.order();
    let mut considered = Vec::new();
    let mut first: Option<(Facet, Option<usize>)> = None;
    let mut decided = None;
    for facet in facets(action) {
        let winner = order.iter().copied().find(|i| {
            let rule = &policy.rules()[*i];
            if !rule.matches.names(facet.operation) {
                return false;
            }
            let failed = failing(rule, env, action, facet);
            considered.push(Considered { rule: rule.id.clone(), facet, matched: failed.is_none(), failed });
            failed.is_none()
        });
        first.get_or_insert((facet, winner));
        if decision_of(policy, facet, winner) != Decision::Allow {
            decided = Some((facet, winner));
            break;
        }
    }
    // There is always a first facet: `facets` never returns none.
    let (facet, winner) =
        decided.or(first).unwrap_or((Facet { operation: action.operation, end: End::Source }, None));
    let rule = winner.map(|i| &policy.rules()[i]);
    Explanation {
        decision: decision_of(policy, facet, winner),
        enforced: policy.mode() == Mode::Enforce,
        cause: if rule.is_some() { Cause::Rule } else { Cause::Default },
        rule: rule.map(|rule| rule.id.clone()),
        reason: rule.and_then(|rule| rule.reason.clone()),
        facet,
        considered,
    }
}

fn decision_of(policy: &Policy, facet: Facet, winner: Option<usize>) -> Decision {
    winner.map_or(policy.default_for(facet.operation.family()), |i| policy.rules()[i].decision)
}

/// The first predicate of the rule that does not hold for the facet; the operation is known to.
fn failing(rule: &Rule, env: &Env, action: &Action, facet: Facet) -> Option<&'static str> {
    let m = &rule.matches;
    let op = facet.operation;
    let object = match facet.end {
        End::Source => action.path.as_deref(),
        End::Target => action.path2.as_deref(),
    };
    let program = if op.is_exec() { object } else { action.exe.as_deref() };
    let glob = |globs: &[Glob], path: Option<&[u8]>| {
        path.is_some_and(|path| globs.iter().any(|glob| matcher::matches(glob, &env.homes, path)))
    };
    let mut checks: Vec<(&'static str, bool)> = vec![
        ("exe", m.exe.is_empty() || glob(&m.exe, program)),
        ("not_exe", !glob(&m.not_exe, program)),
        ("uid", m.uid.is_empty() || m.uid.iter().any(|r| r.contains(action.uid))),
        ("not_uid", !m.not_uid.iter().any(|r| r.contains(action.uid))),
    ];
    if op.has_path() {
        checks.push(("path", m.path.is_empty() || glob(&m.path, object)));
        checks.push(("not_path", !glob(&m.not_path, object)));
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
        checks.extend([
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
        match &self.reason {
            Some(reason) => write!(f, ": {reason}"),
            None => Ok(()),
        }
    }
}
