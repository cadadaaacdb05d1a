//! What is known of a session when it acts.

use aarm_common::{Decision, Operation};
use serde::Serialize;
use std::collections::BTreeSet;

use super::Explanation;
use super::subject::Recorded;
use crate::action::Action;
use crate::conditions::Conditions;
use crate::model::{Mode, Policy, Rule, operation_name};
use crate::when::{Ask, Prior, Span};

/// Most events in a context that is read.
pub const MAX_HISTORY: usize = 4096;

/// What is known of a session: either all of it, or what a receipt says. The default is a session that has
/// just begun.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Context {
    /// Its labels.
    pub labels: BTreeSet<String>,
    /// Its age.
    pub elapsed: Span,
    /// What it did, in any order.
    pub history: Vec<Past>,
    /// In place of all that: label bits, the bits of the history conditions that held, and those of the subject conditions.
    #[serde(skip)]
    recorded: Option<(u64, u32, u32)>,
}

/// Something a session did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Past {
    /// The action's operation (not those of its further facets).
    #[serde(serialize_with = "operation_name")]
    pub operation: Operation,
    /// The rule that decided; `None` for a default.
    pub rule: Option<String>,
    /// Whether it was let through.
    pub passed: bool,
    /// How long ago.
    pub ago: Span,
}

impl Context {
    /// The context that a receipt carries: the session's labels, which of the policy's history conditions held, a bit for
    /// each, and which of its subject conditions held or were unknown (the event's `labels`, `conditions` and `subjects`).
    /// It has a meaning under the policy that decided then, and under no other.
    pub fn recorded(labels: u64, conditions: u32, subjects: u32) -> Self {
        Context { recorded: Some((labels, conditions, subjects)), ..Context::default() }
    }

    /// Lets time go by.
    pub fn wait(&mut self, span: Span) {
        self.elapsed.0 = self.elapsed.0.saturating_add(span.0);
        for past in &mut self.history {
            past.ago.0 = past.ago.0.saturating_add(span.0);
        }
    }

    /// What an action changes, once it is decided: labels if it passes, and what is counted.
    pub fn apply(&mut self, policy: &Policy, action: &Action, decided: &Explanation) {
        let passed =
            matches!(decided.decision, Decision::Allow | Decision::Modify) || policy.mode() == Mode::Audit;
        self.labels.extend(decided.adds.iter().cloned());
        self.history.push(Past {
            operation: action.operation,
            rule: decided.rule.clone(),
            passed,
            ago: Span(0),
        });
    }

    /// The labels as bits under a policy.
    pub(crate) fn label_bits(&self, policy: &Policy) -> u64 {
        self.recorded.map_or_else(
            || {
                let labels = policy.labels();
                let on = labels.iter().enumerate().filter(|(_, label)| self.labels.contains(&label.name));
                on.fold(0, |bits, (i, _)| bits | 1 << i)
            },
            |(labels, ..)| labels,
        )
    }

    /// The history conditions that hold under a policy, a bit for each.
    pub(crate) fn condition_bits(&self, conditions: &Conditions) -> u32 {
        use aarm_common::policy::{HISTORY_COUNT, HISTORY_FEWER, HISTORY_OLDER, HISTORY_YOUNGER};
        if let Some((_, bits, _)) = self.recorded {
            return bits;
        }
        let count = |watch: usize, nanos: u64| {
            let watch = &conditions.watches[watch];
            let counted = self.history.iter().filter(|past| {
                let operation = watch.operations == 0 || watch.operations >> past.operation as u8 & 1 == 1;
                let decided = match &watch.rule {
                    Some(rule) => past.rule.as_ref() == Some(rule),
                    None => past.passed,
                };
                operation && decided && (nanos == 0 || past.ago.0 <= nanos)
            });
            counted.count()
        };
        let mut bits = 0;
        for (i, test) in conditions.history.iter().enumerate().take(u32::BITS as usize) {
            let holds = match test.kind {
                HISTORY_COUNT => count(test.watch, test.nanos) >= test.count as usize,
                HISTORY_FEWER => count(test.watch, test.nanos) < test.count as usize,
                HISTORY_OLDER => self.elapsed.0 >= test.nanos,
                HISTORY_YOUNGER => self.elapsed.0 < test.nanos,
                _ => false,
            };
            bits |= u32::from(holds) << i;
        }
        bits
    }
}

/// A context as rules of one policy see it.
pub(super) struct Seen<'a> {
    policy: &'a Policy,
    context: &'a Context,
    /// The session's labels as far as the policy has them.
    labels: Vec<crate::data::Label>,
    /// The numbers of the conditions, where the context has only their bits.
    conditions: Option<(Conditions, u32)>,
    /// What a receipt says of subjects.
    pub(super) subjects: Option<Recorded>,
}

impl<'a> Seen<'a> {
    pub(super) fn new(policy: &'a Policy, context: &'a Context) -> Self {
        let labels = policy.labels().into_iter().enumerate().filter(|(i, label)| match context.recorded {
            Some((bits, ..)) => bits >> i & 1 == 1,
            None => context.labels.contains(&label.name),
        });
        let labels = labels.map(|(_, label)| label).collect();
        let conditions = context.recorded.map(|(_, bits, _)| (Conditions::of(policy), bits));
        let subjects = context.recorded.map(|(_, _, bits)| Recorded::new(policy, bits));
        Seen { policy, context, labels, conditions, subjects }
    }

    /// Whether the session has the label.
    pub(super) fn has(&self, name: &str) -> bool {
        self.labels.iter().any(|label| label.name == name)
    }

    /// The first condition of a rule that does not hold.
    pub(super) fn failing(&self, rule: &Rule) -> Option<&'static str> {
        let when = rule.when.as_ref()?;
        when.asks().into_iter().find(|(_, ask)| !self.holds(ask)).map(|(name, _)| name)
    }

    fn holds(&self, ask: &Ask<'_>) -> bool {
        match ask {
            Ask::Any(names) => names.iter().any(|name| self.has(name)),
            Ask::All(names) => names.iter().all(|name| self.has(name)),
            Ask::None(names) => !names.iter().any(|name| self.has(name)),
            Ask::AtLeast(level) => self.labels.iter().any(|label| label.level >= *level),
            Ask::AtMost(level) => self.labels.iter().all(|label| label.level <= *level),
            _ => match &self.conditions {
                Some((conditions, bits)) => conditions
                    .history_index(ask)
                    .is_some_and(|i| bits.checked_shr(i as u32).is_some_and(|bits| bits & 1 == 1)),
                None => self.happened(ask),
            },
        }
    }

    fn happened(&self, ask: &Ask<'_>) -> bool {
        let enough = |prior: &Prior| {
            let counted = self.context.history.iter().filter(|past| {
                prior.counts(past.operation, past.rule.as_deref(), past.passed)
                    && prior.within.is_none_or(|within| past.ago <= within)
            });
            counted.count() >= prior.count as usize
        };
        match ask {
            Ask::Happened(prior) => enough(prior),
            Ask::HappenedNot(prior) => !enough(prior),
            Ask::Over(span) => self.context.elapsed >= *span,
            Ask::Under(span) => self.context.elapsed < *span,
            _ => false,
        }
    }

    /// Whether some condition of the policy counts an action that was decided so.
    pub(super) fn is_counted(&self, operation: Operation, rule: Option<&str>, passed: bool) -> bool {
        let whens = self.policy.rules().iter().filter_map(|rule| rule.when.as_ref());
        whens.into_iter().any(|when| when.counts(operation, rule, passed))
    }
}
