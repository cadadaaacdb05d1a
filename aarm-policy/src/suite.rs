//! Running the `tests` section of a policy.

use aarm_common::{Decision, Operation};
use serde::Serialize;

use crate::action::Action;
use crate::compile::{Compiled, compile};
use crate::diagnostic::Diagnostic;
use crate::env::Env;
use crate::eval::{Context, Explanation, eval};
use crate::model::{DEFAULT_RULE, Expect, Given, Policy};
use crate::table::{self, TableContext};

/// What became of one test.
#[derive(Clone, Debug, Serialize)]
pub struct TestResult {
    /// The test's name.
    pub name: String,
    /// Its line in the document.
    pub line: u32,
    /// Whether all was as expected.
    pub passed: bool,
    /// What was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What the evaluator said.
    pub explanation: Explanation,
}

/// Runs all tests of a policy, by the evaluator and by the compiled table. Tests ship with the policy and
/// mean the same on every host, so `env` is [`Env::for_tests`] unless there is a reason.
///
/// # Errors
/// A policy that does not compile for `env`.
pub fn run_tests(policy: &Policy, env: &Env) -> Result<Vec<TestResult>, Vec<Diagnostic>> {
    let compiled = compile(policy, env, 1)?;
    let results = policy.tests().iter().map(|case| {
        let mut context = Context::default();
        let mut message = None;
        for given in &case.given {
            match given {
                Given::Wait(span) => context.wait(*span),
                Given::Label(label) => {
                    context.labels.insert(label.clone());
                }
                Given::Action(action) => {
                    let (decided, disagree) = decide(policy, env, &compiled, action, &context);
                    message = message.or(disagree);
                    context.apply(policy, action, &decided);
                }
            }
        }
        let (explanation, disagree) = decide(policy, env, &compiled, &case.action, &context);
        let message = message.or(disagree).or_else(|| unexpected(&case.expect, &explanation));
        TestResult {
            name: case.name.clone(),
            line: case.place.line,
            passed: message.is_none(),
            message,
            explanation,
        }
    });
    Ok(results.collect())
}

/// Decides by the evaluator and by the table. If they say different things, the second value says which.
fn decide(
    policy: &Policy,
    env: &Env,
    compiled: &Compiled,
    action: &Action,
    context: &Context,
) -> (Explanation, Option<String>) {
    let known = eval(policy, env, action, context);
    // The table knows nothing of a program but its path: what is known of it decides later.
    let blind = Action { args: None, told: None, ..action.clone() };
    let explanation =
        if action.operation == Operation::Exec { eval(policy, env, &blind, context) } else { known.clone() };
    let verdict = table::decide(&compiled.table, action, &TableContext::of(policy, context));
    let by_table = verdict.rule.map(|i| compiled.rules[i as usize].id.as_str());
    let adds: Vec<&str> = (compiled.labels.iter().enumerate())
        .filter(|(i, _)| verdict.adds >> i & 1 == 1)
        .map(|(_, label)| label.name.as_str())
        .collect();
    let agree = (verdict.decision, by_table, verdict.facet, adds.len(), verdict.summarized)
        == (
            explanation.decision,
            explanation.rule.as_deref(),
            explanation.facet.operation,
            explanation.adds.len(),
            explanation.summarized,
        )
        && adds.iter().all(|label| explanation.adds.iter().any(|other| other == label));
    let message = (!agree).then(|| {
        format!(
            "evaluator and table disagree, which is a defect of this program: {} and {}",
            shown(explanation.decision, explanation.rule.as_deref()),
            shown(verdict.decision, by_table)
        )
    });
    (known, message)
}

/// How the outcome differs from what was expected.
fn unexpected(expect: &Expect, got: &Explanation) -> Option<String> {
    let rule = got.rule.as_deref().unwrap_or(DEFAULT_RULE);
    let as_expected =
        got.decision == expect.decision && expect.rule.as_deref().is_none_or(|want| want == rule);
    (!as_expected).then(|| {
        let want = match expect.rule.as_deref() {
            Some(DEFAULT_RULE) => shown(expect.decision, None),
            Some(rule) => shown(expect.decision, Some(rule)),
            None => expect.decision.name().to_owned(),
        };
        format!("expected {want}, got {}", shown(got.decision, got.rule.as_deref()))
    })
}

fn shown(decision: Decision, rule: Option<&str>) -> String {
    match rule {
        Some(rule) => format!("{} by {rule}", decision.name()),
        None => format!("{} by default", decision.name()),
    }
}
