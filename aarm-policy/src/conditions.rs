//! The rules' `when` in the kernel's terms: distinct conditions on labels and on history, and what the latter
//! count. `aarm_common::policy` describes them.
//!
//! The numbering is a function of the policy alone, so that the bits of a receipt can be understood with the
//! policy it names.

use aarm_common::policy::{
    HISTORY_COUNT, HISTORY_FEWER, HISTORY_OLDER, HISTORY_YOUNGER, LABELS_ALL, LABELS_ANY, LABELS_NONE,
};

use crate::data::Label;
use crate::model::Policy;
use crate::when::{Ask, Prior, Span};

/// A condition on labels, and the rules that need it, by their place in compiled order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LabelTest {
    pub kind: u32,
    pub mask: u64,
    pub rules: Vec<usize>,
}

impl LabelTest {
    /// Whether it holds for a session with these labels.
    pub(crate) fn holds(kind: u32, mask: u64, labels: u64) -> bool {
        match kind {
            LABELS_ANY => labels & mask != 0,
            LABELS_ALL => labels & mask == mask,
            LABELS_NONE => labels & mask == 0,
            _ => false,
        }
    }
}

/// A condition on history, and the rules that need it, likewise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HistoryTest {
    pub kind: u32,
    pub watch: usize,
    pub count: u32,
    pub nanos: u64,
    pub rules: Vec<usize>,
}

/// What a history condition counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WatchTest {
    /// A bit for each operation; 0: any.
    pub operations: u64,
    pub rule: Option<String>,
}

impl WatchTest {
    fn of(prior: &Prior) -> Self {
        let operations = prior.operations.iter().flat_map(|name| name.members());
        WatchTest {
            operations: operations.fold(0, |bits, op| bits | 1 << op as u8),
            rule: prior.rule.clone(),
        }
    }

    /// See [`aarm_common::policy::Watch::key`]: the first 8 bytes, big-endian, of the SHA-256 of
    /// `aarm watch 1\noperations NAMES\nrule ID\n`, with names in the order of their numbers and separated by
    /// commas, and `*` for no restriction.
    pub(crate) fn key(&self) -> u64 {
        let names: Vec<&str> = aarm_common::Operation::ALL
            .iter()
            .filter(|op| self.operations >> **op as u8 & 1 == 1)
            .map(|op| op.name())
            .collect();
        let names = if names.is_empty() { "*".to_owned() } else { names.join(",") };
        let text =
            format!("aarm watch 1\noperations {names}\nrule {}\n", self.rule.as_deref().unwrap_or("*"));
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        let key = digest.as_ref().iter().take(8).fold(0u64, |key, byte| key << 8 | u64::from(*byte));
        key.max(1)
    }
}

/// All conditions of a policy, each once, numbered in the order in which its rules, by precedence, ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conditions {
    pub labels: Vec<LabelTest>,
    pub history: Vec<HistoryTest>,
    pub watches: Vec<WatchTest>,
    /// What each history condition says, for people.
    pub shown: Vec<String>,
}

impl Conditions {
    pub(crate) fn of(policy: &Policy) -> Self {
        let labels = policy.labels();
        let mut found = Conditions::default();
        for (rule, at) in policy.order().into_iter().enumerate() {
            for (_, ask) in policy.rules()[at].when.iter().flat_map(|when| when.asks()) {
                match label_test(&ask, &labels) {
                    Some((LABELS_NONE, 0)) => {} // No such label is declared: it holds always.
                    Some((kind, mask)) => found.add_labels(kind, mask, rule),
                    None => found.add_history(&ask, rule),
                }
            }
        }
        found
    }

    fn add_labels(&mut self, kind: u32, mask: u64, rule: usize) {
        match self.labels.iter_mut().find(|test| (test.kind, test.mask) == (kind, mask)) {
            Some(test) => test.rules.push(rule),
            None => self.labels.push(LabelTest { kind, mask, rules: vec![rule] }),
        }
    }

    fn add_history(&mut self, ask: &Ask<'_>, rule: usize) {
        if let Some(at) = self.history_index(ask) {
            self.history[at].rules.push(rule);
            return;
        }
        let Some((kind, counted, count, nanos)) = history_test(ask) else { return };
        let watch = counted.map_or(0, |watch| {
            self.watches.iter().position(|known| *known == watch).unwrap_or_else(|| {
                self.watches.push(watch);
                self.watches.len() - 1
            })
        });
        self.history.push(HistoryTest { kind, watch, count, nanos, rules: vec![rule] });
        self.shown.push(shown(ask));
    }

    /// The number of a condition on history.
    pub(crate) fn history_index(&self, ask: &Ask<'_>) -> Option<usize> {
        let (kind, counted, count, nanos) = history_test(ask)?;
        self.history.iter().position(|test| {
            (test.kind, test.count, test.nanos) == (kind, count, nanos)
                && counted.as_ref().is_none_or(|watch| self.watches.get(test.watch) == Some(watch))
        })
    }
}

/// Kind and mask of a condition on labels; `None` for one on history.
fn label_test(ask: &Ask<'_>, labels: &[Label]) -> Option<(u32, u64)> {
    let mask = |test: &dyn Fn(&Label) -> bool| {
        labels.iter().enumerate().filter(|(_, label)| test(label)).fold(0u64, |bits, (i, _)| bits | 1 << i)
    };
    let named = |names: &[String]| mask(&|label| names.contains(&label.name));
    Some(match ask {
        Ask::Any(names) => (LABELS_ANY, named(names)),
        // To have all of one is to have any of it.
        Ask::All([name]) => (LABELS_ANY, named(std::slice::from_ref(name))),
        Ask::All(names) => (LABELS_ALL, named(names)),
        Ask::None(names) => (LABELS_NONE, named(names)),
        Ask::AtLeast(level) => (LABELS_ANY, mask(&|label| label.level >= *level)),
        Ask::AtMost(level) => (LABELS_NONE, mask(&|label| label.level > *level)),
        Ask::Happened(_) | Ask::HappenedNot(_) | Ask::Over(_) | Ask::Under(_) => return None,
    })
}

/// Kind, what is counted, how many and nanoseconds of a condition on history; `None` for one on labels.
fn history_test(ask: &Ask<'_>) -> Option<(u32, Option<WatchTest>, u32, u64)> {
    let counted = |kind, prior: &Prior| {
        (kind, Some(WatchTest::of(prior)), prior.count, prior.within.map_or(0, |span| span.0))
    };
    Some(match ask {
        Ask::Happened(prior) => counted(HISTORY_COUNT, prior),
        Ask::HappenedNot(prior) => counted(HISTORY_FEWER, prior),
        Ask::Over(span) => (HISTORY_OLDER, None, 0, span.0),
        Ask::Under(span) => (HISTORY_YOUNGER, None, 0, span.0),
        _ => return None,
    })
}

fn shown(ask: &Ask<'_>) -> String {
    let events = |prior: &Prior| {
        let names: Vec<&str> = prior.operations.iter().map(|name| name.name()).collect();
        let what = match (&prior.rule, names.is_empty()) {
            (Some(rule), true) => format!("decisions by {rule}"),
            (Some(rule), false) => format!("decisions by {rule} on {}", names.join(", ")),
            (None, _) => format!("actions {}", names.join(", ")),
        };
        let within = prior.within.map_or(String::new(), |span: Span| format!(" within {span}"));
        format!("{} {what}{within}", prior.count)
    };
    match ask {
        Ask::Happened(prior) => format!("at least {}", events(prior)),
        Ask::HappenedNot(prior) => format!("fewer than {}", events(prior)),
        Ask::Over(span) => format!("session older than {span}"),
        Ask::Under(span) => format!("session younger than {span}"),
        _ => String::new(),
    }
}
