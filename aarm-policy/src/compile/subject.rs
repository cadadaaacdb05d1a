//! What a table knows of who acts: the patterns of `subject`, the conditions on them, and what unknown ones do.

use aarm_common::limits::{SUBJECT_CONDITIONS, SUBJECT_PATTERNS};
use aarm_common::policy::{Bits, Policy as Table, SubjectCondition};

use super::nfa::Predicate;
use super::report::{Report, Use};
use super::sets::{Sets, set_bit};
use crate::diagnostic::{Code, Diagnostic};
use crate::glob::Glob;
use crate::model::Rule;
use crate::subject::{Subject, Subjects, Unknown, is_container};

/// The patterns of a rule's `subject`, each with what the automaton reports of it.
pub(super) fn globs<'p>(rule: &'p Rule, subjects: &Subjects) -> Vec<(Predicate, &'p Glob)> {
    let asks = rule.subject.iter().flat_map(Subject::asks);
    let found = asks.flat_map(|(_, kind, globs)| globs.iter().map(move |glob| (kind, glob)));
    found
        .filter_map(|(kind, glob)| {
            let known = if is_container(kind) { &subjects.containers } else { &subjects.programs };
            // What is beyond the bound is refused below.
            let bit =
                known.iter().position(|pattern| pattern == glob).filter(|bit| *bit < SUBJECT_PATTERNS)?;
            Some(match is_container(kind) {
                true => (Predicate::Container(bit as u8), glob),
                false => (Predicate::Program(bit as u8), glob),
            })
        })
        .collect()
}

/// Fills in the conditions of rules in compiled order.
pub(super) fn fill(
    table: &mut Table,
    subjects: &Subjects,
    rules: &[&Rule],
    sets: &mut Sets,
    report: &mut Report,
) -> Vec<Diagnostic> {
    report.subject_conditions = Use::new(subjects.tests.len(), SUBJECT_CONDITIONS);
    report.program_patterns = Use::new(subjects.programs.len(), SUBJECT_PATTERNS);
    report.container_patterns = Use::new(subjects.containers.len(), SUBJECT_PATTERNS);
    let over = |container: bool| {
        let mut tests = subjects.tests.iter().filter(|test| is_container(test.kind) == container);
        tests.find(|test| test.patterns.iter().any(|bit| *bit >= SUBJECT_PATTERNS))
    };
    let errors: Vec<Diagnostic> = [
        ("distinct conditions on subjects", report.subject_conditions, subjects.tests.get(SUBJECT_CONDITIONS)),
        ("patterns of programs in subjects", report.program_patterns, over(false)),
        ("patterns of containers", report.container_patterns, over(true)),
    ]
    .into_iter()
    .filter(|(_, used, _)| used.used > used.limit)
    .map(|(what, Use { used, limit }, test)| {
        let rule = test.and_then(|test| test.rules.first()).map(|i| rules[*i]);
        Diagnostic::error(
            rule.map(|rule| rule.place).unwrap_or_default(),
            Code::TooCostly,
            format!(
                "{used} {what}, and the kernel's table holds {limit}; rule \"{}\" is the first with one too many",
                rule.map_or("", |rule| &rule.id)
            ),
        )
        .help("what is written the same counts once")
    })
    .collect();
    if !errors.is_empty() {
        return errors;
    }
    table.subject_conditions = subjects.tests.len() as u32;
    table.subject_containers = u32::from(!subjects.containers.is_empty());
    table.subject_patterns = (0..subjects.programs.len()).fold(0, |mask, bit| mask | 1 << bit);
    for (to, test) in table.subjects.iter_mut().zip(&subjects.tests) {
        let mut bits = Bits::default();
        test.rules.iter().for_each(|rule| set_bit(&mut bits, *rule));
        *to = SubjectCondition { kind: test.kind, needed_by: sets.id(bits).into(), mask: test.mask() };
    }
    for (i, subject) in rules.iter().enumerate().filter_map(|(i, rule)| Some((i, rule.subject.as_ref()?))) {
        match subject.unknown {
            Unknown::Defer => {}
            Unknown::Deny => set_bit(&mut table.unknown_deny, i),
            Unknown::Skip => set_bit(&mut table.unknown_skip, i),
        }
    }
    errors
}

const _: () = assert!(SUBJECT_CONDITIONS <= 16 && SUBJECT_PATTERNS <= u8::MAX as usize);
