//! Running the `tests` section of a policy.

use aarm_common::Decision;
use serde::Serialize;

use crate::compile::compile;
use crate::diagnostic::Diagnostic;
use crate::env::Env;
use crate::eval::{Context, Explanation, eval};
use crate::model::{DEFAULT_RULE, Expect, Policy};
use crate::table;

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
        // Earlier actions change nothing yet: no rule of this version asks about the session.
        let context = Context::default();
        let explanation = eval(policy, env, &case.action, &context);
        let verdict = table::decide(&compiled.table, &case.action);
        let by_table = verdict.rule.map(|i| compiled.rules[i as usize].id.as_str());
        let message = if (verdict.decision, by_table, verdict.facet)
            != (explanation.decision, explanation.rule.as_deref(), explanation.facet.operation)
        {
            Some(format!(
                "evaluator and table disagree, which is a defect of this program: {} and {}",
                shown(explanation.decision, explanation.rule.as_deref()),
                shown(verdict.decision, by_table)
            ))
        } else {
            unexpected(&case.expect, &explanation)
        };
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
