//! Reading the `tests` section.

use std::collections::HashSet;

use super::action::read_short;
use super::fields::{Fields, Shape, list, text, wrong_type};
use super::scalars;
use super::when::{declared_label, span};
use crate::data::Label;
use crate::diagnostic::{Code, Diagnostic, Sink, nearest};
use crate::model::{DEFAULT_RULE, Expect, Given, TestCase};
use crate::yaml::{Node, shown};

/// Most tests of one policy.
pub const MAX_TESTS: usize = 2048;
/// Most actions before the one that is tested.
const MAX_GIVEN: usize = 64;

const CASE: Shape =
    Shape { what: "a test", known: &["name", "given", "do", "expect"], later: &["context", "labels"] };

const EXPECT: Shape =
    Shape { what: "`expect`", known: &["decision", "rule"], later: &["labels", "approvers", "modify"] };

/// The tests of a policy with rules of these ids and these labels.
pub(crate) fn cases(node: &Node, rules: &[String], labels: &[Label], sink: &mut Sink) -> Vec<TestCase> {
    let items = list(node, "tests", sink);
    if items.len() > MAX_TESTS {
        sink.error(node.place, Code::TooMany, format!("{} tests; at most {MAX_TESTS}", items.len()));
        return Vec::new();
    }
    let mut names = HashSet::new();
    let mut cases = Vec::new();
    for item in items {
        let Some(fields) = Fields::of(item, &CASE, sink) else { continue };
        let name = fields.need("name", sink).and_then(|n| {
            let name = text(n, sink)?.to_owned();
            if !names.insert(name.clone()) {
                sink.error(
                    n.place,
                    Code::DuplicateId,
                    format!("there is another test named \"{}\"", shown(&name)),
                );
            }
            Some(name)
        });
        let given = fields.get("given").map(|n| given(n, labels, sink)).unwrap_or_default();
        let action = fields.need("do", sink).and_then(|n| read_short(n, sink));
        let expect = fields.need("expect", sink).and_then(|n| expect(n, rules, sink));
        if let (Some(name), Some(action), Some(expect)) = (name, action, expect) {
            cases.push(TestCase { name, given, action, expect, place: item.place });
        }
    }
    cases
}

fn given(node: &Node, labels: &[Label], sink: &mut Sink) -> Vec<Given> {
    let items = list(node, "earlier actions", sink);
    if items.len() > MAX_GIVEN {
        sink.error(
            node.place,
            Code::TooMany,
            format!("{} earlier actions; at most {MAX_GIVEN}", items.len()),
        );
    }
    items.iter().take(MAX_GIVEN).filter_map(|item| step(item, labels, sink)).collect()
}

/// An earlier action, `{ wait: 5m }`, or `{ label: SECRET }`.
fn step(node: &Node, labels: &[Label], sink: &mut Sink) -> Option<Given> {
    match node.map() {
        Some([(key, value)]) if key.text == "wait" => span(value, sink).map(Given::Wait),
        Some([(key, value)]) if key.text == "label" => declared_label(value, labels, sink).map(Given::Label),
        _ => read_short(node, sink).map(|action| Given::Action(Box::new(action))),
    }
}

fn expect(node: &Node, rules: &[String], sink: &mut Sink) -> Option<Expect> {
    let fields = Fields::of(node, &EXPECT, sink)?;
    let decision = fields.need("decision", sink).and_then(|n| scalars::rule_decision(n, sink));
    let rule = match fields.get("rule") {
        Some(n) => Some(rule_name(n, rules, sink)?),
        None => None,
    };
    Some(Expect { decision: decision?, rule })
}

fn rule_name(node: &Node, rules: &[String], sink: &mut Sink) -> Option<String> {
    let Some(name) = node.text() else {
        sink.push(wrong_type(node, "a rule id, as text"));
        return None;
    };
    if name == DEFAULT_RULE || rules.iter().any(|id| id == name) {
        return Some(name.to_owned());
    }
    let error =
        Diagnostic::error(node.place, Code::BadValue, format!("there is no rule \"{}\"", shown(name)));
    sink.push(match nearest(name, rules.iter().map(String::as_str)) {
        Some(near) => error.help(format!("did you mean \"{near}\"?")),
        None => error.help("\"default\" stands for no rule"),
    });
    None
}
