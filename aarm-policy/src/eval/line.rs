//! Deciding an exec at the first instruction of its image.

use aarm_common::limits::RULE_WORDS;
use aarm_common::policy::Bits;
use aarm_common::{Decision, Family};

use super::{Cause, strictness};
use crate::args::FUEL;
use crate::model::Policy;
use crate::program::{Facts, Lack, Undecided, Wanted};
use crate::subject::Unknown;

/// What is decided of an exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The decision.
    pub decision: Decision,
    /// Why; never that it depends on the program, unless that cannot be told.
    pub cause: Cause,
    /// The rule, by its index in compiled order; none: the default.
    pub rule: Option<u16>,
    /// It may wait for an answer.
    pub waits: bool,
    /// Why nothing could be decided, and it is refused.
    pub undecided: Option<Undecided>,
}

impl Line {
    /// The order in which decisions on the programs of one exec prevail, as on the facets of an action.
    pub fn strictness(&self) -> u8 {
        strictness(self.decision, self.waits)
    }
}

fn is_in(bits: &Bits, at: usize) -> bool {
    bits.get(at / 64).is_some_and(|w| w >> (at % 64) & 1 != 0)
}

/// All that rules among these ask for.
pub fn wanted(policy: &Policy, matched: &Bits) -> Wanted {
    let rules = policy.order().into_iter().enumerate().filter(|(at, _)| is_in(matched, *at));
    rules.fold(Wanted::default(), |all, (_, rule)| all.and(policy.rules()[rule].matches.program.wants()))
}

/// Decides an exec by what is known of its program. `matched`: the rules, in compiled order, whose other predicates and conditions hold,
/// as the kernel found when it was asked for; `unsure`: those that something unknown makes refuse. Where it depends on what is not known
/// yet, that is the error.
pub fn eval_line(policy: &Policy, matched: &Bits, unsure: &Bits, facts: &Facts<'_>) -> Result<Line, Wanted> {
    let order = policy.order();
    let mut fuel = FUEL;
    let mut holds = |at: usize| -> Result<bool, Lack> {
        let program = &policy.rules()[order[at]].matches.program;
        Ok(is_in(matched, at) && program.failing(facts, &mut fuel)?.is_none())
    };
    let mut found = || -> Result<(Option<usize>, bool), Lack> {
        for at in 0..order.len().min(RULE_WORDS * 64) {
            if holds(at)? {
                let mut contradicted = false;
                if !is_in(unsure, at) {
                    for other in at + 1..order.len() {
                        contradicted |= policy.conflict(order[at], order[other]) && holds(other)?;
                    }
                }
                return Ok((Some(at), contradicted));
            }
        }
        Ok((None, false))
    };
    let (winner, contradicted) = match found() {
        Ok(found) => found,
        Err(Lack::Yet(wanted)) => return Err(wanted),
        Err(Lack::Ever(undecided)) => {
            return Ok(Line {
                decision: Decision::Deny,
                cause: Cause::Args,
                rule: None,
                waits: false,
                undecided: Some(undecided),
            });
        }
    };
    let rule = winner.map(|at| &policy.rules()[order[at]]);
    let unsure = winner.is_some_and(|at| is_in(unsure, at));
    let (decision, cause) = match rule {
        Some(rule) if unsure => match &rule.subject {
            Some(subject) if subject.unknown == Unknown::Deny => (Decision::Deny, Cause::Unknown),
            _ => (Decision::Defer, Cause::Unknown),
        },
        Some(_) if contradicted => (Decision::Defer, Cause::Conflict),
        Some(rule) => (rule.decision, Cause::Rule),
        None => (policy.default_for(Family::Exec), Cause::Default),
    };
    let own = rule.filter(|_| cause == Cause::Rule);
    let waits = policy.waits(own, decision);
    Ok(Line { decision, cause, rule: winner.map(|at| at as u16), waits, undecided: None })
}
