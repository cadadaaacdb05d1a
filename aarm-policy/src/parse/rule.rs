//! Reading rules, and the checks between them.

use aarm_common::limits::MAX_RULES;
use aarm_common::{Decision, Family, Operation};
use std::collections::{HashMap, HashSet};

use super::fields::{Fields, Shape, each, list, number, text, wrong_type};
use super::hold;
use super::modify;
use super::program;
use super::scalars;
use super::subject::subject;
use super::when::{Known, when};
use crate::data::Label;
use crate::diagnostic::{Code, Diagnostic, MAX_DIAGNOSTICS, Place, Sink};
use crate::model::{Classification, DEFAULT_RULE, Match, OperationName, Policy, Rule};
use crate::yaml::{Node, shown};

/// Longest rule id.
pub const MAX_ID: usize = 64;
/// Bound of an explicit priority, both ways.
const MAX_PRIORITY: i128 = 1_000_000;

const RULE: Shape = Shape {
    what: "a rule",
    known: &[
        "id",
        "match",
        "when",
        "subject",
        "decision",
        "classification",
        "priority",
        "reason",
        "description",
        "approvers",
        "escalate",
        "timeout",
        "on_timeout",
        "risk",
        "modify",
        "resolve",
    ],
    later: &["fail", "overridable"],
};

const MATCH: Shape = Shape {
    what: "`match`",
    known: &[
        "operation",
        "args",
        "not_args",
        "argv",
        "not_argv",
        "env",
        "not_env",
        "hash",
        "not_hash",
        "package",
        "not_package",
        "script",
        "not_script",
        "path",
        "not_path",
        "exe",
        "not_exe",
        "host",
        "not_host",
        "cidr",
        "not_cidr",
        "port",
        "not_port",
        "protocol",
        "not_protocol",
        "family",
        "not_family",
        "type",
        "not_type",
        "uid",
        "not_uid",
    ],
    later: &["tool"],
};

/// Which operations a predicate can be asked of.
fn applies(predicate: &str, op: Operation) -> bool {
    match predicate.strip_prefix("not_").unwrap_or(predicate) {
        "args" | "argv" | "env" | "hash" | "package" | "script" => op == Operation::Exec,
        "path" => op.has_path(),
        "host" => matches!(op, Operation::Connect | Operation::Send),
        "cidr" | "port" => op.has_address(),
        "protocol" | "family" | "type" => op.has_socket(),
        _ => true,
    }
}

/// The rules of a policy, and the ids of all its rules, of those with errors too.
pub(crate) fn rules(node: &Node, labels: &[Label], sink: &mut Sink) -> (Vec<Rule>, Vec<String>) {
    let items = list(node, "rules", sink);
    if items.len() > MAX_RULES {
        sink.error(
            items[MAX_RULES].place,
            Code::TooMany,
            format!("{} rules; a policy has at most {MAX_RULES}", items.len()),
        );
    }
    // A condition may refer to a rule that comes later.
    let ids = items.iter().take(MAX_RULES).filter_map(|item| {
        item.map()?.iter().find(|(key, _)| key.text == "id").and_then(|(_, value)| value.text())
    });
    let ids: HashSet<&str> = ids.collect();
    let known = Known { labels, rules: &ids };
    let mut rules: Vec<Rule> = Vec::new();
    let mut seen: HashMap<String, Place> = HashMap::new();
    for item in items.iter().take(MAX_RULES) {
        let Some(fields) = Fields::of(item, &RULE, sink) else { continue };
        let id = fields.need("id", sink).and_then(|n| rule_id(n, &mut seen, sink));
        let rule = rule(&fields, &known, sink);
        if let (Some(id), Some(rule)) = (id, rule) {
            rules.push(Rule { id, ..rule });
        }
    }
    (rules, seen.into_keys().collect())
}

/// A rule's id: `[a-z0-9-]{1,64}`, unique.
fn rule_id(node: &Node, seen: &mut HashMap<String, Place>, sink: &mut Sink) -> Option<String> {
    let Some(text) = node.text() else {
        sink.push(wrong_type(node, "a rule id, as text"));
        return None;
    };
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.is_empty() || text.len() > MAX_ID || !text.bytes().all(allowed) {
        sink.push(
            Diagnostic::error(node.place, Code::BadValue, format!("bad rule id \"{}\"", shown(text)))
                .help(format!("1 to {MAX_ID} of a-z, 0-9 and -")),
        );
        return None;
    }
    if text == DEFAULT_RULE {
        sink.error(node.place, Code::BadValue, "\"default\" stands for no rule and cannot be the id of one");
        return None;
    }
    if let Some(first) = seen.insert(text.to_owned(), node.place) {
        sink.error(
            node.place,
            Code::DuplicateId,
            format!("rule id \"{text}\" is taken by the rule at line {}", first.line),
        );
        return None;
    }
    Some(text.to_owned())
}

/// A rule but for its id.
fn rule(fields: &Fields<'_>, known: &Known<'_>, sink: &mut Sink) -> Option<Rule> {
    let before = sink.errors();
    let mut matches = fields.need("match", sink).and_then(|n| matches(n, sink));
    let subject = fields.get("subject").and_then(|n| subject(n, matches.as_mut(), sink));
    let decision = fields.need("decision", sink).and_then(|n| scalars::rule_decision(n, sink));
    let hold = hold::of_rule(fields, decision, sink);
    if let (Some(decision), Some(m)) = (decision, &matches) {
        let place = fields.get("decision").map_or(fields.place(), |n| n.place);
        hold::check(decision, &m.operations, place, sink);
        hold::check_resolvers(fields, &hold, &m.operations, sink);
    }
    if let (Some(Decision::Modify), Some(m)) = (decision, &mut matches) {
        // What is changed of a program is changed of one that is run.
        only_exec(&mut m.operations);
    }
    let operations = matches.as_ref().map(|m| m.operations.as_slice()).unwrap_or_default();
    let modify = modify::of_rule(fields, decision, operations, sink);
    let when = fields.get("when").map(|n| when(n, known, sink));
    let classification = match fields.get("classification") {
        Some(n) => classification(n, sink),
        None => Some(match (&when, decision) {
            (None, _) => Classification::Static,
            (Some(_), Some(Decision::Allow)) => Classification::ContextDependentAllow,
            (Some(_), Some(Decision::Defer)) => Classification::ContextDependentDefer,
            (Some(_), _) => Classification::ContextDependentDeny,
        }),
    };
    let priority = fields
        .get("priority")
        .and_then(|n| number(n, "a priority", -MAX_PRIORITY, MAX_PRIORITY, sink))
        .map(|n| n as i32);
    let reason = fields.get("reason").and_then(|n| text(n, sink)).map(str::to_owned);
    let description = fields.get("description").and_then(|n| text(n, sink)).map(str::to_owned);
    if let (Some(classification), Some(decision)) = (classification, decision) {
        check_classification(fields, classification, decision, sink);
    }
    let when = match when {
        Some(when) => Some(when?),
        None => None,
    };
    let rule = Rule {
        id: String::new(),
        matches: matches?,
        when,
        subject,
        decision: decision?,
        hold,
        modify,
        classification: classification?,
        priority,
        reason,
        description,
        place: fields.place(),
    };
    (sink.errors() == before).then_some(rule)
}

/// Whether decision and `when` are what the classification says.
fn check_classification(
    fields: &Fields<'_>,
    classification: Classification,
    decision: Decision,
    sink: &mut Sink,
) {
    let (name, needed, contextual) = match classification {
        Classification::Forbidden => ("forbidden", &[Decision::Deny][..], false),
        Classification::ContextDependentDefer => ("context_dependent_defer", &[Decision::Defer][..], true),
        // Asking restricts as refusing does, and lifts as allowing does: it is for the author to say which is meant.
        Classification::ContextDependentDeny => {
            ("context_dependent_deny", &[Decision::Deny, Decision::StepUp, Decision::Modify][..], true)
        }
        Classification::ContextDependentAllow => {
            ("context_dependent_allow", &[Decision::Allow, Decision::StepUp, Decision::Modify][..], true)
        }
        Classification::Static => ("static", &[][..], false),
    };
    let place = |name: &str| fields.get(name).map_or(fields.place(), |n| n.place);
    if !needed.is_empty() && !needed.contains(&decision) {
        let words: Vec<&str> = needed.iter().map(|d| d.name()).collect();
        sink.error(
            place("decision"),
            Code::BadValue,
            format!("a {name} rule can only be {}", words.join(" or ")),
        );
    }
    match (contextual, fields.get("when")) {
        (false, Some(when)) => sink.push(
            Diagnostic::error(
                when.place,
                Code::BadValue,
                format!("a {name} rule does not depend on the context"),
            )
            .help("leave out \"when\", or the classification"),
        ),
        (true, None) => sink.push(
            Diagnostic::error(
                place("classification"),
                Code::MissingField,
                format!("a {name} rule needs the field \"when\""),
            )
            .help("without one it is static"),
        ),
        _ => {}
    }
}

fn classification(node: &Node, sink: &mut Sink) -> Option<Classification> {
    const WORDS: [&str; 5] = [
        "forbidden",
        "static",
        "context_dependent_deny",
        "context_dependent_allow",
        "context_dependent_defer",
    ];
    let Some(text) = node.text() else {
        sink.push(wrong_type(node, "a classification, as text"));
        return None;
    };
    match text {
        "forbidden" => Some(Classification::Forbidden),
        "static" => Some(Classification::Static),
        "context_dependent_deny" => Some(Classification::ContextDependentDeny),
        "context_dependent_allow" => Some(Classification::ContextDependentAllow),
        "context_dependent_defer" => Some(Classification::ContextDependentDefer),
        _ => {
            sink.push(scalars::unknown_word(node, "classification", WORDS.iter().copied()));
            None
        }
    }
}

fn matches(node: &Node, sink: &mut Sink) -> Option<Match> {
    let before = sink.errors();
    let fields = Fields::of(node, &MATCH, sink)?;
    let mut operations = each(fields.need("operation", sink), "operations", sink, scalars::operation_name);
    let program = program::program(&fields, sink);
    if program::is_asked(&fields) {
        // Only of what is run all that is known: of the family it is what is meant.
        only_exec(&mut operations);
    }
    let get = |name: &str| fields.get(name);
    let matches = Match {
        program,
        path: each(get("path"), "globs", sink, scalars::glob),
        not_path: each(get("not_path"), "globs", sink, scalars::glob),
        exe: each(get("exe"), "globs", sink, scalars::glob),
        not_exe: each(get("not_exe"), "globs", sink, scalars::glob),
        uid: each(get("uid"), "user ids", sink, scalars::uids),
        not_uid: each(get("not_uid"), "user ids", sink, scalars::uids),
        operations,
        ..Match::default()
    };
    let matches = address_predicates(&fields, matches, sink);
    check_applicable(&fields, &matches.operations, sink);
    (sink.errors() == before && !matches.operations.is_empty()).then_some(matches)
}

/// Of the family exec, only running a program is meant.
fn only_exec(operations: &mut [OperationName]) {
    for name in operations {
        if *name == OperationName::Family(Family::Exec) {
            *name = OperationName::Operation(Operation::Exec);
        }
    }
}

/// Every predicate must mean something for every operation the rule names: silently ignoring it for some
/// would make the rule wider than it reads.
fn check_applicable(fields: &Fields<'_>, operations: &[OperationName], sink: &mut Sink) {
    for predicate in fields.names() {
        let mut named = operations.iter().flat_map(|name| name.members().map(move |op| (*name, op)));
        let Some((name, op)) = named.find(|(_, op)| !applies(predicate, *op)) else { continue };
        let place = fields.get(predicate).map_or(fields.place(), |n| n.place);
        let error = match name {
            OperationName::Operation(_) => Diagnostic::error(
                place,
                Code::Inapplicable,
                format!("\"{predicate}\" says nothing about `{}`", op.name()),
            ),
            OperationName::Family(family) => Diagnostic::error(
                place,
                Code::Inapplicable,
                format!(
                    "\"{predicate}\" says nothing about `{}`, a member of `{}`",
                    op.name(),
                    family.name()
                ),
            ),
        };
        let fitting: Vec<&str> =
            name.members().filter(|op| applies(predicate, *op)).map(|op| op.name()).collect();
        sink.push(if fitting.is_empty() {
            error.help("leave it out, or give the operation a rule of its own")
        } else {
            error.help(format!("instead of `{}` name [{}]", name.name(), fitting.join(", ")))
        });
    }
}

/// The predicates on addresses and sockets.
pub(crate) fn address_predicates(fields: &Fields<'_>, rest: Match, sink: &mut Sink) -> Match {
    let get = |name: &str| fields.get(name);
    Match {
        host: each(get("host"), "hosts", sink, scalars::host),
        not_host: each(get("not_host"), "hosts", sink, scalars::host),
        cidr: each(get("cidr"), "networks", sink, scalars::network),
        not_cidr: each(get("not_cidr"), "networks", sink, scalars::network),
        port: each(get("port"), "ports", sink, scalars::ports),
        not_port: each(get("not_port"), "ports", sink, scalars::ports),
        protocol: each(get("protocol"), "protocols", sink, scalars::protocol),
        not_protocol: each(get("not_protocol"), "protocols", sink, scalars::protocol),
        family: each(get("family"), "address families", sink, scalars::family),
        not_family: each(get("not_family"), "address families", sink, scalars::family),
        sock_type: each(get("type"), "socket types", sink, scalars::sock_type),
        not_sock_type: each(get("not_type"), "socket types", sink, scalars::sock_type),
        ..rest
    }
}

/// What the author of a policy should look at.
pub(crate) fn warnings(policy: &Policy) -> Vec<Diagnostic> {
    let mut found = shadowed(policy);
    found.extend(conflicts(policy));
    found.sort_by_key(Diagnostic::place);
    found.truncate(MAX_DIAGNOSTICS);
    found
}

/// Rules with the same right that decide the same operation differently: what both match is deferred.
fn conflicts(policy: &Policy) -> Vec<Diagnostic> {
    let rules = policy.rules();
    let operations: Vec<u64> = rules.iter().map(operations_of).collect();
    let mut found = Vec::new();
    for (i, later) in rules.iter().enumerate() {
        let earlier = (0..i).find(|j| policy.conflict(i, *j) && operations[i] & operations[*j] != 0);
        if let (Some(j), Some(priority)) = (earlier, later.priority) {
            let message = format!(
                "rules \"{}\" and \"{}\" have the same priority {priority} and disagree: what both match gets DEFER",
                rules[j].id, later.id
            );
            found.push(
                Diagnostic::warning(later.place, Code::Conflict, message)
                    .help("give one of them another priority, or none"),
            );
        }
    }
    found
}

/// The operations a rule names, as bits.
fn operations_of(rule: &Rule) -> u64 {
    rule.matches.operations.iter().flat_map(|name| name.members()).fold(0, |bits, op| bits | 1 << op as u8)
}

const _: () = assert!(aarm_common::op::OPERATIONS <= 64);

/// Comparisons spent on looking for rules that can never win; beyond them no more is found.
const SHADOW_FUEL: u64 = 5_000_000;

/// Warnings about rules that can never win, because an earlier one holds wherever they do.
fn shadowed(policy: &Policy) -> Vec<Diagnostic> {
    let order = policy.order();
    let rules: Vec<(&Rule, u64)> =
        order.iter().map(|i| &policy.rules()[*i]).map(|rule| (rule, operations_of(rule))).collect();
    let mut compare = Compare { fuel: SHADOW_FUEL };
    let mut found = Vec::new();
    for (i, (rule, ops)) in rules.iter().enumerate() {
        // A rule that contradicts the earlier one matters wherever both hold.
        let by = (0..i).find(|j| {
            let (earlier, wider) = rules[*j];
            ops & !wider == 0
                && (earlier.when.is_none() || earlier.when == rule.when)
                && (earlier.subject.is_none() || earlier.subject == rule.subject)
                && !policy.conflict(order[i], order[*j])
                && compare.no_narrower(&earlier.matches, &rule.matches)
        });
        if let Some((by, _)) = by.map(|j| rules[j]) {
            found.push(Diagnostic::warning(
                rule.place,
                Code::Shadowed,
                format!(
                    "rule \"{}\" can never decide: \"{}\" comes first and holds wherever it does",
                    rule.id, by.id
                ),
            ));
        }
    }
    found
}

/// Compares matches within a bounded effort.
struct Compare {
    fuel: u64,
}

impl Compare {
    /// Whether each predicate of `wide` is absent or certainly holds where the one of `narrow` does. It errs
    /// on the side of no.
    fn no_narrower(&mut self, wide: &Match, narrow: &Match) -> bool {
        self.any(&wide.path, &narrow.path)
            && self.none(&wide.not_path, &narrow.not_path)
            && self.any(&wide.exe, &narrow.exe)
            && self.none(&wide.not_exe, &narrow.not_exe)
            && self.any(&wide.host, &narrow.host)
            && self.none(&wide.not_host, &narrow.not_host)
            && self.any(&wide.cidr, &narrow.cidr)
            && self.none(&wide.not_cidr, &narrow.not_cidr)
            && self.any(&wide.port, &narrow.port)
            && self.none(&wide.not_port, &narrow.not_port)
            && self.any(&wide.protocol, &narrow.protocol)
            && self.none(&wide.not_protocol, &narrow.not_protocol)
            && self.any(&wide.family, &narrow.family)
            && self.none(&wide.not_family, &narrow.not_family)
            && self.any(&wide.sock_type, &narrow.sock_type)
            && self.none(&wide.not_sock_type, &narrow.not_sock_type)
            && self.any(&wide.uid, &narrow.uid)
            && self.none(&wide.not_uid, &narrow.not_uid)
            && (wide.program.is_empty() || wide.program == narrow.program)
    }

    /// Whether "any of `wide`" holds wherever "any of `narrow`" does.
    fn any<T: PartialEq>(&mut self, wide: &[T], narrow: &[T]) -> bool {
        wide.is_empty() || !narrow.is_empty() && self.subset(narrow, wide)
    }

    /// Whether "none of `wide`" holds wherever "none of `narrow`" does.
    fn none<T: PartialEq>(&mut self, wide: &[T], narrow: &[T]) -> bool {
        self.subset(wide, narrow)
    }

    /// Whether all of `part` are in `whole`; no, where the fuel does not suffice to know.
    fn subset<T: PartialEq>(&mut self, part: &[T], whole: &[T]) -> bool {
        part.iter().all(|p| {
            whole.iter().any(|w| {
                self.fuel = self.fuel.saturating_sub(1);
                self.fuel > 0 && w == p
            })
        })
    }
}
