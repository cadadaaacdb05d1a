//! What holds for an action read from JSON (`aarm policy eval --action`) whatever the bytes are.
//!
//! Included by the fuzz target and by the test that replays its corpus.

use std::sync::LazyLock;

use aarm_policy::{Action, Compiled, Context, Env, Policy, compile, eval, table, table::TableContext};

/// Longer inputs are not looked at.
pub const MAX_INPUT: usize = 32 << 10;

/// A policy that has every predicate, and what it compiles to.
static POLICY: LazyLock<(Policy, Compiled)> = LazyLock::new(|| {
    let policy = Policy::parse(include_bytes!("../../policies/coding-agent.yaml"));
    let policy = policy.unwrap_or_else(|e| panic!("{e:#?}"));
    let compiled = compile(&policy, &Env::for_tests(), 1).unwrap_or_else(|e| panic!("{e:#?}"));
    (policy, compiled)
});

/// Panics if something does not hold.
pub fn check(input: &[u8]) {
    if input.len() > MAX_INPUT {
        return;
    }
    let context = Context::from_json(input);
    assert!(context.is_ok() || context.is_err_and(|e| !e.is_empty()));
    let action = match Action::from_json(input) {
        Ok(action) => action,
        Err(errors) => {
            assert!(!errors.is_empty() && errors.iter().all(|e| e.line >= 1 && e.column >= 1), "{errors:?}");
            return;
        }
    };
    assert!(action.operation.is_decided());
    // What was read is read again from what it is written as.
    let text = serde_json::to_vec(&action).unwrap_or_else(|e| panic!("{action:?}: {e}"));
    assert_eq!(Action::from_json(&text).as_ref(), Ok(&action), "{}", String::from_utf8_lossy(&text));
    let (policy, compiled) = &*POLICY;
    let by_eval = eval(policy, &Env::for_tests(), &action, &Context::default());
    let by_table = table::decide(&compiled.table, &action, &TableContext::of(policy, &Context::default()));
    let rule = by_table.rule.map(|r| compiled.rules[r as usize].id.as_str());
    assert_eq!(
        (by_eval.decision, by_eval.rule.as_deref(), by_eval.facet.operation),
        (by_table.decision, rule, by_table.facet),
        "{action:?}\n{by_eval:#?}"
    );
}
