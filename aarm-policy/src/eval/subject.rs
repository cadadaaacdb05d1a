//! Whether a rule's `subject` holds: by the patterns themselves, or by what a receipt says.

use super::matcher;
use crate::action::Action;
use crate::env::Env;
use crate::glob::Glob;
use crate::model::{Policy, Rule};
use crate::subject::{Subject, Subjects, Truth, Unknown, is_container};
use aarm_common::policy::{ANCESTOR_ANY, ANCESTOR_NONE};

/// What can be said of a rule's `subject`, with the condition that makes it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It holds, or asks for nothing.
    Holds,
    /// This does not hold.
    Fails(&'static str),
    /// This is unknown, and nothing fails.
    Unknown(&'static str),
}

/// The conditions of a policy with what a receipt says of them.
pub(super) struct Recorded {
    subjects: Subjects,
    bits: u32,
}

impl Recorded {
    pub(super) fn new(policy: &Policy, bits: u32) -> Self {
        Recorded { subjects: Subjects::of(policy), bits }
    }
}

/// Judges a rule's `subject`.
pub(super) fn standing(rule: &Rule, env: &Env, action: &Action, recorded: Option<&Recorded>) -> Standing {
    let mut unknown = None;
    for (name, kind, globs) in rule.subject.iter().flat_map(Subject::asks) {
        let truth = match recorded {
            Some(recorded) => recorded
                .subjects
                .index(kind, globs)
                .map_or(Truth::Fails, |condition| Truth::recorded(recorded.bits, condition)),
            None => truth(kind, globs, env, action),
        };
        match truth {
            Truth::Holds => {}
            Truth::Fails => return Standing::Fails(name),
            Truth::Unknown => unknown = unknown.or(Some(name)),
        }
    }
    unknown.map_or(Standing::Holds, Standing::Unknown)
}

/// Whether a rule holds although something is unknown.
pub(super) fn stands(rule: &Rule) -> bool {
    rule.subject.as_ref().is_some_and(|subject| subject.unknown != Unknown::Skip)
}

fn truth(kind: u32, globs: &[Glob], env: &Env, action: &Action) -> Truth {
    let matches = |path: &Vec<u8>| globs.iter().any(|glob| matcher::matches(glob, &env.homes, path));
    let (met, known) = if is_container(kind) {
        (action.container.iter().any(matches), action.container.is_some())
    } else if matches!(kind, ANCESTOR_ANY | ANCESTOR_NONE) {
        (action.ancestors.iter().flatten().any(matches), action.ancestors.is_some())
    } else {
        (action.exe.iter().any(matches), true)
    };
    Truth::of(kind, met, known)
}
