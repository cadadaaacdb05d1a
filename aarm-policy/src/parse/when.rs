//! Reading `when`.

use aarm_common::limits::{HISTORY_CONDITIONS, WATCH_TIMES};
use std::collections::HashSet;

use super::data::level;
use super::fields::{Fields, Shape, any_of, each, number, wrong_type};
use super::scalars;
use crate::data::Label;
use crate::diagnostic::{Code, Diagnostic, Sink, nearest};
use crate::when::{ElapsedWhen, LabelsWhen, LevelWhen, MAX_SPAN, Prior, Rate, Span, When};
use crate::yaml::{Node, shown};

/// Largest number of events that a condition without a time can ask for.
const MAX_COUNT: i128 = 1_000_000_000;

const WHEN: Shape = Shape {
    what: "`when`",
    known: &["labels", "level", "prior", "not_prior", "rate", "not_rate", "elapsed"],
    later: &[
        "intent",
        "not_intent",
        "drift",
        "declared",
        "not_declared",
        "identity",
        "not_identity",
        "unknown",
    ],
};

const LABELS: Shape = Shape { what: "`labels`", known: &["any", "all", "none"], later: &[] };

const LEVEL: Shape = Shape { what: "`level`", known: &["at_least", "at_most"], later: &[] };

const PRIOR: Shape = Shape {
    what: "`prior`",
    known: &["operation", "rule", "count", "within"],
    later: &["decision", "path", "host", "tool"],
};

const RATE: Shape = Shape { what: "`rate`", known: &["operation", "over", "per"], later: &["rule"] };

const ELAPSED: Shape = Shape { what: "`elapsed`", known: &["over", "under"], later: &[] };

/// What a `when` may refer to.
pub(crate) struct Known<'a> {
    /// Labels declared in `data`.
    pub labels: &'a [Label],
    /// Ids of all rules.
    pub rules: &'a HashSet<&'a str>,
}

pub(crate) fn when(node: &Node, known: &Known<'_>, sink: &mut Sink) -> Option<When> {
    let before = sink.errors();
    let fields = Fields::of(node, &WHEN, sink)?;
    let priors = |name: &str, sink: &mut Sink| {
        let Some(node) = fields.get(name) else { return Vec::new() };
        let items = any_of(node, "conditions", sink);
        if items.len() > HISTORY_CONDITIONS {
            let message = format!("a list of {} conditions; at most {HISTORY_CONDITIONS}", items.len());
            sink.error(node.place, Code::TooMany, message);
            return Vec::new();
        }
        items.iter().filter_map(|item| prior(item, known, sink)).collect::<Vec<_>>()
    };
    let mut when = When {
        labels: fields.get("labels").and_then(|n| labels(n, known.labels, sink)).unwrap_or_default(),
        level: fields.get("level").and_then(|n| levels(n, sink)).unwrap_or_default(),
        prior: priors("prior", sink),
        not_prior: priors("not_prior", sink),
        rate: fields.get("rate").and_then(|n| rate(n, sink)),
        not_rate: fields.get("not_rate").and_then(|n| rate(n, sink)),
        elapsed: fields.get("elapsed").and_then(|n| elapsed(n, sink)).unwrap_or_default(),
    };
    for list in [&mut when.prior, &mut when.not_prior] {
        let mut kept: Vec<Prior> = Vec::new();
        list.drain(..).for_each(|p| {
            if !kept.contains(&p) {
                kept.push(p)
            }
        });
        *list = kept;
    }
    if when == When::default() && sink.errors() == before {
        sink.push(
            Diagnostic::error(node.place, Code::MissingField, "a `when` that asks for nothing")
                .help(format!("give at least one of {}", WHEN.known.join(", "))),
        );
    }
    (sink.errors() == before).then_some(when)
}

/// Reports a mapping that has none of its fields.
fn not_empty(fields: &Fields<'_>, shape: &Shape, before: usize, sink: &mut Sink) {
    if fields.names().next().is_none() && sink.errors() == before {
        sink.push(
            Diagnostic::error(
                fields.place(),
                Code::MissingField,
                format!("{} that asks for nothing", shape.what),
            )
            .help(format!("give at least one of {}", shape.known.join(", "))),
        );
    }
}

fn labels(node: &Node, declared: &[Label], sink: &mut Sink) -> Option<LabelsWhen> {
    let before = sink.errors();
    let fields = Fields::of(node, &LABELS, sink)?;
    not_empty(&fields, &LABELS, before, sink);
    let mut list =
        |name: &str| each(fields.get(name), "labels", sink, |n, sink| declared_label(n, declared, sink));
    Some(LabelsWhen { any: list("any"), all: list("all"), none: list("none") })
}

/// The name of a label that `data` declares.
pub(crate) fn declared_label(node: &Node, declared: &[Label], sink: &mut Sink) -> Option<String> {
    let Some(name) = node.text() else {
        sink.push(wrong_type(node, "a label, as text"));
        return None;
    };
    if declared.iter().any(|label| label.name == name) {
        return Some(name.to_owned());
    }
    let error = Diagnostic::error(
        node.place,
        Code::BadValue,
        format!("no entry of `data` declares the label \"{}\"", shown(name)),
    );
    // What is near is looked for in capitals, as labels usually are.
    let near = nearest(name, declared.iter().map(|label| label.name.as_str()));
    sink.push(match (near, declared) {
        (Some(near), _) => error.help(format!("did you mean \"{near}\"?")),
        (None, []) => error.help("this policy has no `data`"),
        (None, _) => {
            let names: Vec<&str> = declared.iter().take(12).map(|label| label.name.as_str()).collect();
            error.help(format!("it declares {}", names.join(", ")))
        }
    });
    None
}

fn levels(node: &Node, sink: &mut Sink) -> Option<LevelWhen> {
    let before = sink.errors();
    let fields = Fields::of(node, &LEVEL, sink)?;
    not_empty(&fields, &LEVEL, before, sink);
    let mut one = |name: &str| fields.get(name).and_then(|n| level(n, sink));
    Some(LevelWhen { at_least: one("at_least"), at_most: one("at_most") })
}

fn prior(node: &Node, known: &Known<'_>, sink: &mut Sink) -> Option<Prior> {
    let before = sink.errors();
    let fields = Fields::of(node, &PRIOR, sink)?;
    if fields.get("operation").is_none() && fields.get("rule").is_none() && sink.errors() == before {
        sink.push(
            Diagnostic::error(node.place, Code::MissingField, "`prior` needs to know what is counted")
                .help("give \"operation\", \"rule\" or both"),
        );
    }
    let within = fields.get("within").and_then(|n| positive_span(n, sink));
    let most = if fields.get("within").is_some() { WATCH_TIMES as i128 } else { MAX_COUNT };
    let count = fields.get("count").map_or(Some(1), |n| {
        let what = if most < MAX_COUNT { "a count with \"within\"" } else { "a count" };
        number(n, what, 1, most, sink).map(|n| n as u32)
    });
    let prior = Prior {
        operations: each(fields.get("operation"), "operations", sink, scalars::operation_name),
        rule: fields.get("rule").and_then(|n| rule_id(n, known.rules, sink)),
        count: count.unwrap_or(1),
        within,
    };
    (sink.errors() == before).then_some(prior)
}

/// The id of a rule of this policy.
pub(crate) fn rule_id(node: &Node, rules: &HashSet<&str>, sink: &mut Sink) -> Option<String> {
    let Some(name) = node.text() else {
        sink.push(wrong_type(node, "a rule id, as text"));
        return None;
    };
    if rules.contains(name) {
        return Some(name.to_owned());
    }
    let error =
        Diagnostic::error(node.place, Code::BadValue, format!("there is no rule \"{}\"", shown(name)));
    sink.push(match nearest(name, rules.iter().copied()) {
        Some(near) => error.help(format!("did you mean \"{near}\"?")),
        None => error,
    });
    None
}

fn rate(node: &Node, sink: &mut Sink) -> Option<Rate> {
    let before = sink.errors();
    let fields = Fields::of(node, &RATE, sink)?;
    let operations = each(fields.need("operation", sink), "operations", sink, scalars::operation_name);
    let over = fields.need("over", sink).and_then(|n| number(n, "\"over\"", 1, WATCH_TIMES as i128, sink));
    let per = fields.need("per", sink).and_then(|n| positive_span(n, sink));
    let rate = Rate { operations, over: over? as u32, per: per? };
    (sink.errors() == before).then_some(rate)
}

fn elapsed(node: &Node, sink: &mut Sink) -> Option<ElapsedWhen> {
    let before = sink.errors();
    let fields = Fields::of(node, &ELAPSED, sink)?;
    not_empty(&fields, &ELAPSED, before, sink);
    let mut one = |name: &str| fields.get(name).and_then(|n| positive_span(n, sink));
    Some(ElapsedWhen { over: one("over"), under: one("under") })
}

/// A time that is not 0, which would mean "at any time" to the kernel.
fn positive_span(node: &Node, sink: &mut Sink) -> Option<Span> {
    let span = span(node, sink)?;
    if span.0 == 0 {
        sink.error(node.place, Code::BadValue, "a time of 0");
        return None;
    }
    Some(span)
}

/// A time.
pub(crate) fn span(node: &Node, sink: &mut Sink) -> Option<Span> {
    let written = match (node.text(), node.integer()) {
        (_, Some(_)) | (Some(_), _) => node.written().unwrap_or_default(),
        _ => {
            sink.push(wrong_type(node, "a time such as 10m, as text"));
            return None;
        }
    };
    let span = Span::parse(written);
    if span.is_none() {
        sink.push(
            Diagnostic::error(node.place, Code::BadValue, format!("bad time \"{}\"", shown(written)))
                .help(format!("write a number and a unit: 500ms, 30s, 10m, 2h, 1d; at most {MAX_SPAN}")),
        );
    }
    span
}
