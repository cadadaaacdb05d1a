//! What a table knows of sessions: labels that `data` adds, conditions of `when`, conflicts, summaries.

use aarm_common::Operation;
use aarm_common::limits::*;
use aarm_common::policy::{ANY_RULE, Bits, HistoryCondition, LabelCondition, NO_SET, Policy as Table, Watch};

use super::report::{Report, Use};
use super::sets::{Sets, set_bit};
use crate::conditions::Conditions;
use crate::diagnostic::{Code, Diagnostic};
use crate::model::{Policy, Record, Rule};

/// Fills in all that depends on the session, for rules in compiled order.
pub(super) fn fill(
    table: &mut Table,
    policy: &Policy,
    order: &[usize],
    sets: &mut Sets,
    report: &mut Report,
) -> Vec<Diagnostic> {
    for op in Operation::ALL.iter().filter(|op| policy.record(**op) == Record::Summary) {
        table.summary |= 1 << *op as u8;
    }
    conflicts(table, policy, order, sets);
    data_labels(table, policy);
    let rules: Vec<&Rule> = order.iter().map(|i| &policy.rules()[*i]).collect();
    conditions(table, &Conditions::of(policy), &rules, sets, report)
}

/// For each rule the set of those that contradict it. Rules with one right stand side by side, so each has two
/// sets at most.
fn conflicts(table: &mut Table, policy: &Policy, order: &[usize], sets: &mut Sets) {
    let mut from = 0;
    while from < order.len() {
        let right = |i: usize| {
            let rule = &policy.rules()[order[i]];
            (rule.classification, rule.priority.unwrap_or(0))
        };
        let to = (from..order.len()).find(|i| right(*i) != right(from)).unwrap_or(order.len());
        for (i, one) in order.iter().enumerate().take(to).skip(from) {
            let mut bits = Bits::default();
            let others = (from..to).filter(|other| policy.conflict(*one, order[*other]));
            others.for_each(|other| set_bit(&mut bits, other));
            if bits != Bits::default() {
                table.conflicts[i] = sets.id(bits);
            }
        }
        from = to;
    }
}

/// The labels of each part of `data`, in the order of [`crate::data::On::parts`].
fn data_labels(table: &mut Table, policy: &Policy) {
    let labels = policy.labels();
    let bits = policy.data().iter().flat_map(|entry| {
        let bit = labels.iter().position(|label| label.name == entry.label).unwrap_or(0);
        entry.on.parts().into_iter().map(move |_| 1u64 << bit)
    });
    table.data_labels.iter_mut().zip(bits).for_each(|(to, bits)| *to = bits);
}

fn conditions(
    table: &mut Table,
    found: &Conditions,
    rules: &[&Rule],
    sets: &mut Sets,
    report: &mut Report,
) -> Vec<Diagnostic> {
    report.label_conditions = Use::new(found.labels.len(), LABEL_CONDITIONS);
    report.history_conditions = Use::new(found.history.len(), HISTORY_CONDITIONS);
    report.watches = Use::new(found.watches.len(), WATCHES);
    let mut errors = Vec::new();
    let first_over =
        |rules_of: Option<&Vec<usize>>| rules_of.and_then(|list| list.first()).map(|i| rules[*i]);
    let over = found.labels.get(LABEL_CONDITIONS).map(|test| &test.rules);
    errors.extend(too_many("distinct conditions on labels", report.label_conditions, first_over(over)));
    let over = found.history.get(HISTORY_CONDITIONS).map(|test| &test.rules);
    errors.extend(too_many("distinct conditions on history", report.history_conditions, first_over(over)));
    let over = found.history.iter().find(|test| test.watch >= WATCHES).map(|test| &test.rules);
    errors.extend(too_many("kinds of events to count", report.watches, first_over(over)));
    if !errors.is_empty() {
        return errors;
    }
    let mut needed_by = |rules: &[usize]| {
        let mut bits = Bits::default();
        rules.iter().for_each(|rule| set_bit(&mut bits, *rule));
        u32::from(sets.id(bits))
    };
    table.label_conditions = found.labels.len() as u32;
    for (to, test) in table.labels.iter_mut().zip(&found.labels) {
        *to = LabelCondition { kind: test.kind, needed_by: needed_by(&test.rules), mask: test.mask };
    }
    table.history_conditions = found.history.len() as u32;
    for (to, test) in table.history.iter_mut().zip(&found.history) {
        *to = HistoryCondition {
            kind: test.kind,
            needed_by: needed_by(&test.rules),
            watch: test.watch as u32,
            count: test.count,
            nanos: test.nanos,
        };
    }
    for (to, watch) in table.watches.iter_mut().zip(&found.watches) {
        let rule = watch.rule.as_ref().and_then(|id| rules.iter().position(|rule| rule.id == *id));
        *to = Watch {
            key: watch.key(),
            operations: watch.operations,
            // The parser let through no id that is no rule's.
            rule: rule.map_or(ANY_RULE, |i| i as u32),
            reserved: 0,
        };
    }
    errors
}

/// The error for more conditions than the kernel holds, at the first rule that is too much.
fn too_many(what: &str, Use { used, limit }: Use, rule: Option<&Rule>) -> Option<Diagnostic> {
    let rule = rule.filter(|_| used > limit)?;
    let message = format!(
        "{used} {what}, and the kernel's table holds {limit}; rule \"{}\" is the first with one too many",
        rule.id
    );
    Some(
        Diagnostic::error(rule.place, Code::TooCostly, message)
            .help("conditions that say the same count once"),
    )
}

const _: () = assert!(NO_SET as usize >= RULE_SETS && HISTORY_CONDITIONS <= 32 && WATCHES <= 8);
