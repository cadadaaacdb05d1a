//! `when`: what a rule asks of its session.
//!
//! Owns the meaning of each condition's words; the evaluator ([`crate::eval`]) and the compiler
//! ([`crate::conditions`]) each interpret [`When::asks`] in their own way.

use aarm_common::Operation;
use serde::{Serialize, Serializer};
use std::fmt;

use crate::data::Level;
use crate::model::OperationName;

/// Longest time that a policy or a context can name: a year and a day.
pub const MAX_SPAN: Span = Span(366 * 24 * 3_600_000_000_000);

/// A time, in nanoseconds. Written as a number and a unit: `500ms`, `30s`, `10m`, `2h`, `1d`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub u64);

/// Units with their nanoseconds, the largest first.
const UNITS: [(&str, u64); 7] = [
    ("d", 24 * 3_600_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

impl Span {
    /// Reads a time of at most [`MAX_SPAN`].
    pub fn parse(text: &str) -> Option<Span> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at_checked(digits)?;
        if digits == 0 || digits > 18 {
            return None;
        }
        let (_, nanos) = UNITS.iter().find(|(name, _)| *name == unit)?;
        let span = Span(number.parse::<u64>().ok()?.checked_mul(*nanos)?);
        (span <= MAX_SPAN).then_some(span)
    }
}

impl fmt::Display for Span {
    /// With the largest unit of which it is a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = UNITS.iter().find(|(_, nanos)| self.0 >= *nanos && self.0.is_multiple_of(*nanos));
        match whole {
            Some((unit, nanos)) => write!(f, "{}{unit}", self.0 / nanos),
            None => write!(f, "0s"),
        }
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Conditions on the session. All that are given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct When {
    /// On the labels it has.
    #[serde(skip_serializing_if = "is_default")]
    pub labels: LabelsWhen,
    /// On the level of its labels.
    #[serde(skip_serializing_if = "is_default")]
    pub level: LevelWhen,
    /// What must have happened: each of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prior: Vec<Prior>,
    /// What must not have happened: none of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_prior: Vec<Prior>,
    /// How much must have happened of late.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// How much must not have happened of late.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_rate: Option<Rate>,
    /// How old it is.
    #[serde(skip_serializing_if = "is_default")]
    pub elapsed: ElapsedWhen,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// `when.labels`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LabelsWhen {
    /// It has one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub any: Vec<String>,
    /// It has all of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub all: Vec<String>,
    /// It has none of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub none: Vec<String>,
}

/// `when.level`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LevelWhen {
    /// Some label has at least this level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_least: Option<Level>,
    /// No label has a higher level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_most: Option<Level>,
}

/// `when.elapsed`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ElapsedWhen {
    /// The session is at least this old.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over: Option<Span>,
    /// The session is younger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub under: Option<Span>,
}

/// `when.prior`: earlier events of the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Prior {
    /// Actions of these operations; with [`Prior::rule`], of the rule's decisions those on these operations.
    /// Empty: of any.
    #[serde(rename = "operation", skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<OperationName>,
    /// Decisions by this rule, whatever they were. Without it, actions that were let through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// At least so many.
    pub count: u32,
    /// Not longer ago than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within: Option<Span>,
}

impl Prior {
    /// Whether an action of this operation is counted: decided by `rule`, and let through or not.
    pub(crate) fn counts(&self, operation: Operation, rule: Option<&str>, passed: bool) -> bool {
        let named = || self.operations.iter().any(|name| name.members().any(|op| op == operation));
        (self.operations.is_empty() || named())
            && self.rule.as_deref().map_or(passed, |asked| Some(asked) == rule)
    }
}

/// `when.rate`: actions let through of late. It holds if the action at hand makes more than `over` of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rate {
    /// Of these operations.
    #[serde(rename = "operation")]
    pub operations: Vec<OperationName>,
    /// So many before this one.
    pub over: u32,
    /// Within this time.
    pub per: Span,
}

impl Rate {
    /// The same as a condition on earlier events.
    fn as_prior(&self) -> Prior {
        Prior { operations: self.operations.clone(), rule: None, count: self.over, within: Some(self.per) }
    }
}

/// One condition, by what it asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask<'w> {
    Any(&'w [String]),
    All(&'w [String]),
    None(&'w [String]),
    AtLeast(Level),
    AtMost(Level),
    /// That this many such events happened.
    Happened(Prior),
    /// That fewer did.
    HappenedNot(Prior),
    Over(Span),
    Under(Span),
}

impl When {
    /// The conditions with their names, in the order in which they are looked at.
    pub(crate) fn asks(&self) -> Vec<(&'static str, Ask<'_>)> {
        let mut asks = Vec::new();
        for (name, list, ask) in [
            ("when.labels.any", &self.labels.any, Ask::Any as fn(_) -> _),
            ("when.labels.all", &self.labels.all, Ask::All),
            ("when.labels.none", &self.labels.none, Ask::None),
        ] {
            if !list.is_empty() {
                asks.push((name, ask(list.as_slice())));
            }
        }
        asks.extend(self.level.at_least.map(|level| ("when.level.at_least", Ask::AtLeast(level))));
        asks.extend(self.level.at_most.map(|level| ("when.level.at_most", Ask::AtMost(level))));
        asks.extend(self.priors());
        asks.extend(self.elapsed.over.map(|span| ("when.elapsed.over", Ask::Over(span))));
        asks.extend(self.elapsed.under.map(|span| ("when.elapsed.under", Ask::Under(span))));
        asks
    }

    /// The conditions that count events.
    fn priors(&self) -> impl Iterator<Item = (&'static str, Ask<'_>)> {
        let prior = self.prior.iter().map(|p| ("when.prior", Ask::Happened(p.clone())));
        let not_prior = self.not_prior.iter().map(|p| ("when.not_prior", Ask::HappenedNot(p.clone())));
        let rate = self.rate.iter().map(|r| ("when.rate", Ask::Happened(r.as_prior())));
        let not_rate = self.not_rate.iter().map(|r| ("when.not_rate", Ask::HappenedNot(r.as_prior())));
        prior.chain(not_prior).chain(rate).chain(not_rate)
    }

    /// Whether some condition counts an action of this operation, decided by `rule`, let through or not.
    pub(crate) fn counts(&self, operation: Operation, rule: Option<&str>, passed: bool) -> bool {
        self.priors().any(|(_, ask)| match ask {
            Ask::Happened(prior) | Ask::HappenedNot(prior) => prior.counts(operation, rule, passed),
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_come_back() {
        for (text, nanos, shown) in [
            ("5m", 300_000_000_000, "5m"),
            ("60s", 60_000_000_000, "1m"),
            ("90s", 90_000_000_000, "90s"),
            ("1500ms", 1_500_000_000, "1500ms"),
            ("24h", 86_400_000_000_000, "1d"),
            ("0s", 0, "0s"),
            ("366d", MAX_SPAN.0, "366d"),
        ] {
            assert_eq!(Span::parse(text), Some(Span(nanos)), "{text}");
            assert_eq!(Span(nanos).to_string(), shown);
        }
        for text in
            ["", "5", "m", "5 m", "-5m", "5M", "367d", "999999999999999999d", "5mm", "é", "5é", "1.5s"]
        {
            assert_eq!(Span::parse(text), None, "{text}");
        }
    }
}
