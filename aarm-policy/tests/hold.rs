//! What policies say of actions that wait: read strictly, in the order of AARM's precedence, and never widening.

use aarm_common::Decision;
use aarm_policy::{
    Action, Approver, Context, DEFER_WAIT, Env, OnTimeout, Policy, Risk, STEP_UP_WAIT, Span, compile, eval,
};

fn text(spec: &str) -> String {
    format!(
        "apiVersion: aarm.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: p, version: \"1\"}}\nspec:\n{spec}\n"
    )
}

fn rules(rules: &str) -> String {
    text(&format!("  rules:\n{rules}"))
}

#[track_caller]
fn ok(text: &str) -> Policy {
    Policy::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{text}\n{e:#?}"))
}

#[track_caller]
fn refused(text: &str, shown: &str) {
    let all = Policy::parse(text.as_bytes()).expect_err("must be refused");
    let lines: Vec<String> = all.iter().map(ToString::to_string).collect();
    assert!(lines.len() == 1 && lines[0].contains(shown), "{lines:#?}");
}

fn env() -> Env {
    Env::from_passwd(b"u:x:1000:1000::/home/u:/bin/sh\n")
}

fn action(json: &str) -> Action {
    Action::from_json(json.as_bytes()).unwrap_or_else(|e| panic!("{json}: {e:#?}"))
}

#[test]
fn what_is_said_is_read_and_what_is_not_is_filled_in() {
    let p = ok(&text(
        "  hold: {approvers: ['group:ops'], timeout: 5m, risk: LOW}\n  rules:\n    - {id: a, match: {operation: exec}, decision: STEP_UP, approvers: ['uid:7', 'user:mia', 'gid:5', human],\n       timeout: 1m, on_timeout: DENY, risk: HIGH, escalate: {after: 30s, approvers: 'group:boss'}}\n    - {id: b, match: {operation: open_read}, decision: DEFER, on_timeout: STEP_UP}",
    ));
    let a = p.hold(Some(&p.rules()[0]), Decision::StepUp);
    assert_eq!(
        a.approvers,
        [Approver::Uid(7), Approver::User("mia".into()), Approver::Gid(5), Approver::Human]
    );
    assert_eq!((a.timeout, a.on_timeout, a.risk), (Span(60_000_000_000), OnTimeout::Deny, Some(Risk::High)));
    assert_eq!(a.escalate.unwrap().approvers, [Approver::Group("boss".into())]);
    let b = p.hold(Some(&p.rules()[1]), Decision::Defer);
    assert_eq!((b.timeout, b.on_timeout, b.risk), (DEFER_WAIT, OnTimeout::StepUp, Some(Risk::Low)));
    assert_eq!(b.approvers, [Approver::Group("ops".into())]);
    assert_eq!(p.hold(None, Decision::StepUp).timeout, Span(300_000_000_000));
    let p = ok(&rules("    - {id: a, match: {operation: exec}, decision: STEP_UP}"));
    let a = p.hold(Some(&p.rules()[0]), Decision::StepUp);
    assert_eq!((a.timeout, a.approvers), (STEP_UP_WAIT, vec![Approver::Uid(0)]));
}

#[test]
fn bad_terms_are_refused_with_what_to_do() {
    let rule = |more: &str| rules(&format!("    - {{id: a, match: {{operation: exec}}, {more}}}"));
    for (more, shown) in [
        (
            "decision: DENY, timeout: 1m",
            "`timeout` says nothing about a rule that decides DENY (only STEP_UP and DEFER",
        ),
        ("decision: ALLOW, approvers: human", "`approvers` says nothing about a rule that decides ALLOW"),
        ("decision: STEP_UP, on_timeout: ALLOW", "no answer is never ALLOW"),
        ("decision: DEFER, on_timeout: ALLOW", "no answer is never ALLOW"),
        ("decision: STEP_UP, on_timeout: STEP_UP", "people are asked already"),
        ("decision: STEP_UP, on_timeout: MAYBE", "\"MAYBE\" cannot follow a timeout"),
        ("decision: STEP_UP, timeout: 25h", "\"25h\" is no time to wait"),
        ("decision: STEP_UP, timeout: soon", "\"soon\" is no time to wait"),
        ("decision: STEP_UP, approvers: ['uid:-1']", "\"uid:-1\" is no approver"),
        ("decision: STEP_UP, approvers: ['uid:4294967295']", "is no approver"),
        ("decision: STEP_UP, approvers: ['user:']", "\"user:\" is no approver"),
        ("decision: STEP_UP, approvers: ['group:a b']", "is no approver"),
        ("decision: STEP_UP, approvers: [root]", "\"root\" is no approver (write uid:N, user:NAME"),
        ("decision: STEP_UP, approvers: []", "an empty list of approvers"),
        ("decision: STEP_UP, risk: HIHG", "\"HIHG\" is no risk (did you mean \"HIGH\"?)"),
        (
            "decision: STEP_UP, timeout: 1m, escalate: {after: 1m, approvers: human}",
            "after 1m nobody is asked any more",
        ),
        ("decision: STEP_UP, escalate: {after: 1m}", "needs the field \"approvers\""),
        ("decision: DEFER, resolve: [dns]", "the resolver `dns` finds nothing out about `exec`"),
        ("decision: STEP_UP, classification: forbidden", "a forbidden rule can only be DENY"),
        (
            "decision: STEP_UP, classification: context_dependent_defer, when: {elapsed: {over: 1s}}",
            "a context_dependent_defer rule can only be DEFER",
        ),
        ("decision: DEFER, classification: context_dependent_defer", "needs the field \"when\""),
    ] {
        refused(&rule(more), shown);
    }
    let many: Vec<String> = (0..33).map(|n| format!("'uid:{n}'")).collect();
    refused(
        &rule(&format!("decision: STEP_UP, approvers: [{}]", many.join(", "))),
        "33 approvers; at most 32",
    );
}

#[test]
fn what_cannot_wait_is_refused_when_it_is_loaded() {
    let rule = |ops: &str| rules(&format!("    - {{id: a, match: {{operation: {ops}}}, decision: STEP_UP}}"));
    refused(&rule("signal"), "`signal` cannot wait for an answer");
    refused(&rule("[open_read, process]"), "`signal`, `ptrace`, `key` cannot wait for an answer");
    refused(&rule("read"), "`receive_fd` cannot wait for an answer: the message has left its queue");
    refused(&text("  defaults: {process: DEFER}"), "cannot wait for an answer");
    ok(&rule("[exec, write, network]"));
    ok(&text("  defaults: {network: STEP_UP}"));
}

#[test]
fn precedence_is_that_of_aarm() {
    // In the file the other way round: 6 static, 5 what lifts it, 4 context-dependent deny, 3 defer, 1 forbidden.
    let when = "when: {elapsed: {under: 1h}}";
    let all = [
        ("s", "decision: DENY".to_owned()),
        ("l", format!("decision: STEP_UP, classification: context_dependent_allow, {when}")),
        ("d", format!("decision: DENY, {when}")),
        ("w", format!("decision: DEFER, {when}")),
        ("f", "decision: DENY, classification: forbidden".to_owned()),
    ];
    for n in 1..=all.len() {
        let text: Vec<String> = all[..n]
            .iter()
            .map(|(id, more)| format!("    - {{id: {id}, match: {{operation: exec}}, {more}}}"))
            .collect();
        let p = ok(&rules(&text.join("\n")));
        let e = eval(&p, &env(), &action(r#"{"operation":"exec","path":"/bin/x"}"#), &Context::default());
        assert_eq!(e.rule.as_deref(), Some(all[n - 1].0));
        assert_eq!(e.waits, matches!(e.decision, Decision::StepUp | Decision::Defer), "{e}");
    }
    // Asking restricts, unless its author says that it lifts.
    let p = ok(&rules(&format!(
        "    - {{id: a, match: {{operation: exec}}, decision: ALLOW, {when}}}\n    - {{id: b, match: {{operation: exec}}, decision: STEP_UP, {when}}}"
    )));
    let e = eval(&p, &env(), &action(r#"{"operation":"exec","path":"/bin/x"}"#), &Context::default());
    assert_eq!((e.decision, e.rule.as_deref()), (Decision::StepUp, Some("b")));
}

#[test]
fn who_answers_for_one_facet_does_not_lift_what_another_refuses() {
    let p = ok(&rules(
        "    - {id: ask, match: {operation: open_write}, decision: STEP_UP}\n    - {id: no, match: {operation: open_read}, decision: DENY}\n    - {id: wait, match: {operation: truncate}, decision: DEFER}",
    ));
    let of = |json: &str| {
        let e = eval(&p, &env(), &action(json), &Context::default());
        (e.decision, e.rule.unwrap_or_default())
    };
    assert_eq!(of(r#"{"operation":"open_write","path":"/a"}"#), (Decision::StepUp, "ask".into()));
    assert_eq!(
        of(r#"{"operation":"open_write","path":"/a","also_read":true}"#),
        (Decision::Deny, "no".into())
    );
    assert_eq!(
        of(r#"{"operation":"open_write","path":"/a","truncates":true}"#),
        (Decision::Defer, "wait".into())
    );
}

#[test]
fn the_table_says_what_is_refused_at_once() {
    let p = ok(&text(
        "  hold: {defer_timeout: 0s}\n  rules:\n    - {id: a, match: {operation: exec}, decision: STEP_UP, timeout: 0s}\n    - {id: b, match: {operation: exec}, decision: STEP_UP}\n    - {id: c, match: {operation: exec}, decision: DEFER}\n    - {id: d, match: {operation: exec}, decision: DEFER, timeout: 1s}",
    ));
    let compiled = compile(&p, &env(), 1).unwrap();
    assert_eq!(compiled.table.at_once[0], 0b0101);
    assert_eq!(compiled.table.defaults_wait, aarm_common::policy::WAIT_STEP_UP);
    assert_eq!(compiled.rules[3].hold.as_ref().unwrap().timeout, Span(1_000_000_000));
}
