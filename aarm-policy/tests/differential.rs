//! The compiled table against the reference evaluator, on random policies and random actions.

use aarm_common::Decision;
use aarm_policy::random::{self, Shape};
use aarm_policy::table::TableContext;
use aarm_policy::{Action, Cause, Code, Context, Env, Facts, Policy, compile, eval, table, wanted};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Some of what must occur is rare: so often it is looked for.
const ROUNDS: u32 = 4;
/// Met where several rules ask about one action.
const OTHERS: &str = "asks others as well";

/// Holds the two against each other. Returns false for a policy that does not fit the kernel's tables.
fn agree(
    text: &str,
    homes: &Env,
    actions: &[Action],
    contexts: &[Context],
    met: &RefCell<BTreeMap<&'static str, u32>>,
) -> bool {
    let policy = Policy::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{text}\n{e:#?}"));
    let compiled = match compile(&policy, homes, 1) {
        Ok(compiled) => compiled,
        Err(errors) => {
            assert!(errors.iter().all(|e| e.code == Code::TooCostly), "{text}\n{errors:#?}");
            return false;
        }
    };
    for (whole, context) in actions.iter().zip(contexts.iter().cycle()) {
        let seen = TableContext::of(&policy, context);
        // The kernel knows nothing of the program but its path.
        let action = &Action { args: None, told: None, ..whole.clone() };
        let by_eval = eval(&policy, homes, action, context);
        let by_table = table::decide(&compiled.table, action, &seen);
        let rule = by_table.rule.map(|i| compiled.rules[i as usize].id.as_str());
        let adds = (0..64).filter(|i| by_table.adds >> i & 1 == 1);
        let mut adds: Vec<&str> = adds.map(|i: usize| compiled.labels[i].name.as_str()).collect();
        adds.sort_unstable();
        let mut adds_by_eval: Vec<&str> = by_eval.adds.iter().map(String::as_str).collect();
        adds_by_eval.sort_unstable();
        assert_eq!(
            (by_eval.decision, by_eval.cause, by_eval.rule.as_deref(), by_eval.facet.operation),
            (by_table.decision, by_table.cause, rule, by_table.facet),
            "{text}\n{action:?}\n{context:?}\n{by_eval:#?}"
        );
        let also = by_table
            .also
            .iter()
            .flatten()
            .map(|a| (a.rule.map(|i| compiled.rules[i as usize].id.as_str()), a.decision));
        let also_by_eval = by_eval.also.iter().map(|a| (a.rule.as_deref(), a.decision));
        assert_eq!(
            (by_eval.waits, also_by_eval.collect::<Vec<_>>()),
            (by_table.waits, also.collect::<Vec<_>>()),
            "{text}\n{action:?}\n{context:?}\n{by_eval:#?}"
        );
        assert_eq!(
            (adds_by_eval, by_eval.summarized),
            (adds, by_table.summarized),
            "{text}\n{action:?}\n{context:?}\n{by_eval:#?}"
        );
        let ruled = policy.rules().iter().find(|r| Some(&r.id) == by_eval.rule.as_ref());
        let without = |change: fn(&mut Action)| {
            let mut other = action.clone();
            change(&mut other);
            let other = eval(&policy, homes, &other, context);
            (other.rule, other.adds) != (by_eval.rule.clone(), by_eval.adds.clone())
        };
        for (what, is) in [
            ("conflict", by_eval.cause == Cause::Conflict),
            ("labels", !by_eval.adds.is_empty()),
            ("summary", by_eval.summarized),
            ("condition", ruled.is_some_and(|rule| rule.when.is_some())),
            (
                "failed condition",
                by_eval.considered.iter().any(|c| c.failed.is_some_and(|f| f.starts_with("when"))),
            ),
            ("history", seen.conditions != 0),
            ("names", without(|a| a.names.clear())),
            ("above", without(|a| a.directory = false)),
            ("watch", by_table.counts != 0),
            ("subject", ruled.is_some_and(|rule| rule.subject.is_some())),
            ("unknown", by_eval.cause == Cause::Unknown),
            ("denied as unknown", by_eval.cause == Cause::Unknown && by_eval.decision == Decision::Deny),
            ("skipped as unknown", by_eval.considered.iter().any(|c| !c.matched && c.unknown.is_some())),
            (
                "failed subject",
                by_eval.considered.iter().any(|c| c.failed.is_some_and(|f| f.starts_with("subject"))),
            ),
            (OTHERS, !by_eval.also.is_empty()),
            (
                "refused at once",
                !by_eval.waits && matches!(by_eval.decision, Decision::StepUp | Decision::Defer),
            ),
            ("command line", by_eval.cause == Cause::Args),
            ("redirected", by_eval.decision == Decision::Modify),
            ("host", without(|a| a.hosts.clear())),
            ("failed host", by_eval.considered.iter().any(|c| c.failed == Some("host"))),
        ] {
            *met.borrow_mut().entry(what).or_default() += u32::from(is);
        }
        let known = eval(&policy, homes, whole, context);
        if by_eval.cause == Cause::Args {
            let (matched, unsure) = table::matched(&compiled.table, action, &seen);
            let facts = Facts::of(whole.args.as_deref(), whole.told.as_ref());
            let by_line = aarm_policy::eval_line(&policy, &matched, &unsure, &facts).expect("all is known");
            // What is known first decides, or says what is to be found out.
            let words = Facts { args: facts.args, ..Facts::default() };
            match aarm_policy::eval_line(&policy, &matched, &unsure, &words) {
                Ok(early) => assert_eq!(early, by_line, "{text}\n{whole:?}\n{context:?}"),
                Err(missing) => assert!(wanted(&policy, &matched).has(missing), "{text}\n{whole:?}"),
            }
            let rule = by_line.rule.map(|i| compiled.rules[i as usize].id.as_str());
            let waits = by_line.waits && policy.mode() == aarm_policy::Mode::Enforce;
            assert_eq!(
                (by_line.decision, by_line.cause, rule, waits),
                (known.decision, known.cause, known.rule.as_deref(), known.waits),
                "{text}\n{whole:?}\n{context:?}\n{known:#?}"
            );
        } else {
            let decided = |e: &aarm_policy::Explanation| (e.decision, e.cause, e.rule.clone(), e.waits);
            assert_eq!(decided(&known), decided(&by_eval), "{text}\n{whole:?}\n{context:?}");
        }
        // What a receipt carries is enough to decide the same again.
        let subjects = table::subject_bits(&compiled.table, action);
        let recorded = Context::recorded(seen.labels, seen.conditions, subjects);
        let told = Action { ancestors: None, container: None, ..action.clone() };
        assert_eq!(eval(&policy, homes, &told, &recorded), by_eval, "{text}\n{action:?}\n{context:?}");
    }
    let canonical = Policy::parse(policy.canonical().as_bytes());
    assert_eq!(canonical.expect("a canonical form is a document").hash(), policy.hash());
    true
}

/// Runs a strategy of policies; most of them must fit, else the test would show nothing;
/// of what the two can differ in, what `must` says must occur: until it has, there are more of them. `PROPTEST_CASES`
/// scales the number of cases: 256 is its default.
fn run(policies: impl Strategy<Value = String>, cases: u32, must: fn(&str) -> bool) {
    let cases = (cases * Config::default().cases / 256).max(1);
    let homes = prop::sample::subsequence(vec!["/root", "/home/u", "/h", ""], 0..=4);
    let mut runner = TestRunner::new(Config {
        cases,
        max_shrink_iters: 300,
        max_local_rejects: u32::MAX,
        source_file: Some(file!()),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..Config::default()
    });
    let fitted = Cell::new(0);
    let met = RefCell::default();
    let contexts = prop::collection::vec(random::context(), 1..8);
    let all = (policies, prop::collection::vec(random::action(), 40), homes, contexts);
    for round in 1..=ROUNDS {
        runner
            .run(&all, |(text, actions, homes, contexts)| {
                let homes = Env::new(homes.into_iter().map(|h| h.as_bytes().to_vec()));
                fitted.set(fitted.get() + agree(&text, &homes, &actions, &contexts, &met) as u32);
                Ok(())
            })
            .unwrap_or_else(|e| panic!("{e}"));
        println!("{} of {} policies fit; met: {:?}", fitted.get(), cases * round, met.borrow());
        assert!(fitted.get() > cases * round / 2, "too few policies fit to show anything");
        if cases < 40 || met.borrow().iter().all(|(what, n)| *n > 0 || !must(what)) {
            return;
        }
    }
    panic!("something was never tried: {:?}", met.borrow());
}

#[test]
fn few_rules_with_wild_globs() {
    run(random::policy(Shape { deep: true, ..Shape::small(0..5) }), 120, |_| false);
}

#[test]
fn many_rules() {
    run(random::policy(Shape::small(0..40)), 60, |what| what != OTHERS);
}

/// Rules that hold for much, and mostly ask: what does several things at once is for several to answer.
fn asking() -> impl Strategy<Value = String> {
    let rule = (
        prop::sample::select(&["rename", "link", "open_read", "open_write", "truncate", "raw_memory"][..]),
        prop::sample::select(
            &["STEP_UP", "DEFER", "STEP_UP, timeout: 0s", "DEFER, priority: 1", "ALLOW"][..],
        ),
        prop::sample::select(&["", ", path: [\"**/a*\"]"][..]),
    );
    let hold = prop::sample::select(&["", "  hold: {timeout: 0s}\n", "  hold: {defer_timeout: 0s}\n"][..]);
    let defaults = prop::sample::select(&["ALLOW", "STEP_UP", "DENY"][..]);
    (prop::collection::vec(rule, 2..12), hold, defaults).prop_map(|(rules, hold, default)| {
        let mut text = format!(
            "apiVersion: aarm.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: p, version: \"1\"}}\nspec:\n  \
             mode: enforce\n{hold}  defaults: {{exec: {default}}}\n  data:\n"
        );
        for label in ["A", "B", "C", "D"] {
            text.push_str(&format!("    - {{label: {label}, level: PUBLIC, on: {{read: [\"/nowhere/{label}\"]}}}}\n"));
        }
        text.push_str("  rules:\n");
        for (i, (operation, decision, path)) in rules.iter().enumerate() {
            text.push_str(&format!(
                "    - {{id: r{i}, match: {{operation: {operation}{path}}}, decision: {decision}}}\n"
            ));
        }
        text
    })
}

#[test]
fn what_several_rules_ask_about() {
    run(asking(), 60, |what| matches!(what, OTHERS | "refused at once"));
}
