//! What rules ask of a session: labels, levels, history, age; what sessions get; and the table of it all.

mod sessions;

use aarm_common::limits::*;
use aarm_common::policy::*;
use aarm_common::{Decision, Operation};
use aarm_policy::table::{self, TableContext};
use aarm_policy::{
    Action, Cause, Code, Context, Diagnostic, Env, Explanation, Policy, compile, eval, run_tests,
};
use sessions::{DATA, HEAD};

fn policy(spec: &str) -> Policy {
    let text = format!("{HEAD}{spec}");
    Policy::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{text}\n{e:#?}"))
}

/// A policy with the data above and these rules, all allowed by default.
fn rules(rules: &str) -> Policy {
    policy(&format!(
        "  defaults: {{network: ALLOW, process: ALLOW, privileged: ALLOW}}\n{DATA}  rules:\n{rules}"
    ))
}

/// One rule on `connect` with this `when`.
fn when(when: &str) -> Policy {
    rules(&format!("    - {{id: r, match: {{operation: connect}}, when: {{{when}}}, decision: DENY}}\n"))
}

/// Decides by evaluator, by table, and by the evaluator from what a receipt would say. All must agree.
fn decide(policy: &Policy, action: &Action, context: &Context) -> Explanation {
    let env = Env::for_tests();
    let e = eval(policy, &env, action, context);
    let compiled = compile(policy, &env, 1).unwrap();
    let seen = TableContext::of(policy, context);
    let v = table::decide(&compiled.table, action, &seen);
    let rule = v.rule.map(|i| compiled.rules[i as usize].id.clone());
    assert_eq!((v.decision, v.cause, &rule, v.facet), (e.decision, e.cause, &e.rule, e.facet.operation));
    assert_eq!((v.adds.count_ones() as usize, v.summarized), (e.adds.len(), e.summarized));
    assert_eq!(eval(policy, &env, action, &Context::recorded(seen.labels, seen.conditions, 0)), e);
    e
}

fn connect() -> Action {
    Action::on_address(Operation::Connect, [203, 0, 113, 9].into(), 443, 6)
}

fn read(path: &str) -> Action {
    Action::on_path(Operation::OpenRead, path)
}

fn context(policy: &Policy, json: &str) -> Context {
    Context::for_policy(json.as_bytes(), policy).unwrap_or_else(|e| panic!("{json}: {e:#?}"))
}

/// Whether the rule `r` decides a connect in this context; else the condition that failed.
#[track_caller]
fn holds(policy: &Policy, json: &str) -> Result<(), &'static str> {
    let e = decide(policy, &connect(), &context(policy, json));
    match e.rule.as_deref() {
        Some("r") => Ok(()),
        _ => Err(e.considered[0].failed.expect("a failed condition")),
    }
}

#[test]
fn labels_and_levels() {
    let p = when("labels: {any: [SECRET, STAFF], none: [WEB]}");
    assert_eq!(holds(&p, r#"{"labels":["STAFF"]}"#), Ok(()));
    assert_eq!(holds(&p, "{}"), Err("when.labels.any"));
    assert_eq!(holds(&p, r#"{"labels":["STAFF","WEB"]}"#), Err("when.labels.none"));
    let p = when("labels: {all: [SECRET, STAFF]}");
    assert_eq!(holds(&p, r#"{"labels":["STAFF"]}"#), Err("when.labels.all"));
    assert_eq!(holds(&p, r#"{"labels":["STAFF","SECRET"]}"#), Ok(()));
    let p = when("level: {at_least: INTERNAL, at_most: CONFIDENTIAL}");
    assert_eq!(holds(&p, "{}"), Err("when.level.at_least"));
    assert_eq!(holds(&p, r#"{"labels":["WEB"]}"#), Err("when.level.at_least"));
    assert_eq!(holds(&p, r#"{"labels":["WEB","STAFF"]}"#), Ok(()));
    assert_eq!(holds(&p, r#"{"labels":["STAFF","SECRET"]}"#), Err("when.level.at_most"));
    assert_eq!(holds(&when("level: {at_most: RESTRICTED}"), r#"{"labels":["SECRET"]}"#), Ok(()));
}

#[test]
fn history_and_age() {
    let past = |what: &str| format!(r#"{{"history":[{what}]}}"#);
    let p = when("prior: {operation: [read, unlink], count: 2, within: 10s}");
    let one = r#"{"operation":"open_read","seconds_ago":10}"#;
    let two = r#"{"operation":"unlink","ago":"2500ms"}"#;
    assert_eq!(holds(&p, &past(one)), Err("when.prior"));
    assert_eq!(holds(&p, &past(&format!("{one},{two}"))), Ok(()));
    let late = r#"{"operation":"open_read","seconds_ago":11}"#;
    assert_eq!(holds(&p, &past(&format!("{late},{two}"))), Err("when.prior"));
    let refused = r#"{"operation":"open_read","passed":false}"#;
    assert_eq!(holds(&p, &past(&format!("{refused},{two}"))), Err("when.prior"));
    // A rule's decisions count whatever they were.
    let p = when("prior: {rule: r}");
    assert_eq!(holds(&p, &past(r#"{"operation":"bind","rule":"r","passed":false}"#)), Ok(()));
    assert_eq!(holds(&p, &past(r#"{"operation":"bind","rule":null}"#)), Err("when.prior"));
    let p = when("prior: {rule: r, operation: connect}");
    assert_eq!(holds(&p, &past(r#"{"operation":"bind","rule":"r"}"#)), Err("when.prior"));
    // Each of a list, and none of a `not_` list.
    let p = when("prior: [{operation: unlink}, {operation: bind}], not_prior: [{operation: mount}]");
    let both = r#"{"operation":"unlink"},{"operation":"bind"}"#;
    assert_eq!(holds(&p, &past(both)), Ok(()));
    assert_eq!(holds(&p, &past(two)), Err("when.prior"));
    assert_eq!(holds(&p, &past(&format!(r#"{both},{{"operation":"mount"}}"#))), Err("when.not_prior"));
    let p = when("rate: {operation: connect, over: 2, per: 1m}");
    let c = |ago: u32| format!(r#"{{"operation":"connect","seconds_ago":{ago}}}"#);
    assert_eq!(holds(&p, &past(&c(1))), Err("when.rate"));
    assert_eq!(holds(&p, &past(&[c(1), c(61)].join(","))), Err("when.rate"));
    assert_eq!(holds(&p, &past(&[c(1), c(60)].join(","))), Ok(()));
    assert_eq!(
        holds(&when("not_rate: {operation: connect, over: 1, per: 1m}"), &past(&c(1))),
        Err("when.not_rate")
    );
    let p = when("elapsed: {over: 5m, under: 1h}");
    assert_eq!(holds(&p, r#"{"elapsed":"299s"}"#), Err("when.elapsed.over"));
    assert_eq!(holds(&p, r#"{"elapsed":"5m"}"#), Ok(()));
    assert_eq!(holds(&p, r#"{"elapsed":"60m"}"#), Err("when.elapsed.under"));
    // A session is as old as what it did.
    assert_eq!(holds(&p, &past(&c(301))), Ok(()));
}

#[test]
fn touching_data_adds_labels_if_the_action_passes() {
    let p = rules("    - {id: no-root, match: {operation: read, path: /root/**}, decision: DENY}\n");
    let adds = |action: &Action| decide(&p, action, &Context::default()).adds;
    assert_eq!(adds(&read("/a/.env")), ["SECRET"]);
    assert!(adds(&read("/a/env")).is_empty());
    assert!(adds(&Action::on_path(Operation::OpenWrite, "/a/.env")).is_empty());
    assert_eq!(
        adds(&Action { also_read: true, ..Action::on_path(Operation::OpenWrite, "/a/.env") }),
        ["SECRET"]
    );
    assert_eq!(adds(&Action::on_path(Operation::Unlink, "/srv/staff/x")), ["STAFF"]);
    assert_eq!(adds(&Action::on_path(Operation::MmapExec, "/usr/bin/vault")), ["SECRET"]);
    assert_eq!(adds(&connect()), ["WEB"]);
    assert_eq!(adds(&Action::on_address(Operation::Accept, [1, 2, 3, 4].into(), 1, 6)), ["WEB"]);
    assert!(adds(&Action::on_address(Operation::Connect, [10, 0, 0, 1].into(), 1, 6)).is_empty());
    // By any of its names, by a facet, and by the directory it is in.
    assert_eq!(adds(&Action { names: vec![b"/x".into(), b"/y/.env".into()], ..read("/tmp/a") }), ["SECRET"]);
    let rename = |from: &str, directory| Action {
        path2: Some(b"/b".into()),
        directory,
        ..Action::on_path(Operation::Rename, from)
    };
    assert_eq!(adds(&rename("/a/.env", false)), ["SECRET"]);
    assert_eq!(adds(&rename("/srv", true)), ["STAFF"]);
    assert!(adds(&rename("/srv", false)).is_empty());
    // Not what is refused, and not what the session has.
    assert!(adds(&read("/root/.env")).is_empty());
    let had = context(&p, r#"{"labels":["SECRET"]}"#);
    assert!(decide(&p, &read("/a/.env"), &had).adds.is_empty());
    // In mode audit what is refused passes, and so it adds.
    let text = p.canonical().replace("\"mode\":\"enforce\"", "\"mode\":\"audit\"");
    let audit = Policy::parse(text.as_bytes()).unwrap();
    let e = decide(&audit, &read("/root/.env"), &Context::default());
    assert_eq!((e.decision, e.enforced, e.adds), (Decision::Deny, false, vec!["SECRET".to_owned()]));
}

#[test]
fn rules_with_one_right_that_contradict_each_other_defer() {
    let p = rules(
        "    - {id: a, match: {operation: read, path: /a/**}, decision: ALLOW, priority: 5}
    - {id: b, match: {operation: read, path: /**/x}, decision: DENY, priority: 5, reason: No.}
    - {id: c, match: {operation: read}, decision: DENY, priority: 4}
",
    );
    let got = |path: &str| decide(&p, &read(path), &Context::default());
    let e = got("/a/x");
    assert_eq!((e.decision, e.cause, e.rule.as_deref()), (Decision::Defer, Cause::Conflict, Some("a")));
    assert_eq!(e.conflicts_with.as_deref(), Some("b"));
    assert_eq!(e.to_string(), "DEFER by rule a, as open_read, which rule b contradicts");
    assert_eq!((got("/a/y").decision, got("/a/y").cause), (Decision::Allow, Cause::Rule));
    assert_eq!(got("/b/x").rule.as_deref(), Some("b"));
    assert_eq!(got("/b/y").rule.as_deref(), Some("c"));
}

#[test]
fn precedence_of_contexts() {
    let p = rules(
        "    - {id: static, match: {operation: connect}, decision: DENY, priority: 100}
    - {id: allow, match: {operation: connect}, when: {elapsed: {over: 1m}}, decision: ALLOW}
    - {id: deny, match: {operation: connect}, when: {labels: {any: [SECRET]}}, decision: DENY}
    - {id: forbidden, match: {operation: connect, port: 25}, decision: DENY, classification: forbidden}
",
    );
    let rule = |json: &str| decide(&p, &connect(), &context(&p, json)).rule;
    assert_eq!(rule("{}").as_deref(), Some("static"));
    assert_eq!(rule(r#"{"elapsed":"1m"}"#).as_deref(), Some("allow"));
    assert_eq!(rule(r#"{"elapsed":"1m","labels":["SECRET"]}"#).as_deref(), Some("deny"));
    let mail = Action { port: Some(25), ..connect() };
    assert_eq!(decide(&p, &mail, &Context::default()).rule.as_deref(), Some("forbidden"));
}

#[test]
fn routine_opens_are_those_that_nothing_but_the_task_decides() {
    let routine = |spec: &str| compile(&policy(spec), &Env::default(), 7).unwrap().table.routine;
    let rule = |more: &str| {
        format!("  rules:\n    - {{id: r, match: {{operation: connect}}, {more} decision: DENY}}\n")
    };
    let counted = "  record: {read: summary}\n";
    assert_eq!(routine(&format!("{counted}{}", rule(""))), 7);
    assert_eq!(routine(&rule("")), 0, "recorded");
    assert_eq!(
        routine(&format!("  record: {{read: summary, open_read: full}}\n{}", rule(""))),
        0,
        "recorded"
    );
    let elapsed = rule("when: {elapsed: {over: 1m}},");
    assert_eq!(routine(&format!("{counted}{elapsed}")), 0, "history");
    let prior = rule("when: {prior: {operation: bind}},");
    assert_eq!(routine(&format!("{counted}{prior}")), 0, "counted for history");
    let container = rule("subject: {container: any},");
    assert_eq!(routine(&format!("{counted}{container}")), 0, "cgroups");
}

#[test]
fn summaries_leave_out_what_matters() {
    let p = policy(&format!(
        "  defaults: {{network: ALLOW}}\n  record: {{read: summary, receive_fd: full, write: summary, network: summary}}\n{DATA}  rules:
    - {{id: no, match: {{operation: read, path: /no}}, decision: DENY}}
    - {{id: many, match: {{operation: connect}}, when: {{prior: {{operation: bind}}}}, decision: DENY}}
"
    ));
    let summarized = |action: &Action| decide(&p, action, &Context::default()).summarized;
    assert!(summarized(&read("/a")));
    assert!(summarized(&Action::on_path(Operation::Unlink, "/a")));
    assert!(!summarized(&read("/no")), "what is refused");
    assert!(!summarized(&read("/a/.env")), "what adds a label");
    assert!(!summarized(&Action::on_path(Operation::ReceiveFd, "/a")), "what is said of the operation");
    assert!(!summarized(&Action::on_path(Operation::Exec, "/a")), "what nothing is said of");
    let near = |op| Action::on_address(op, [10, 0, 0, 1].into(), 1, 6);
    assert!(summarized(&near(Operation::Listen)));
    assert!(!summarized(&near(Operation::Bind)), "what a condition counts");
}

#[test]
fn new_facets() {
    let p = rules(
        "    - {id: raw, match: {operation: raw_memory}, decision: DENY}
    - {id: sysctl, match: {operation: sysctl_write, path: /proc/sys/kernel/**}, decision: DENY}
    - {id: connect, match: {operation: connect}, decision: DENY}
    - {id: read, match: {operation: open_read, path: /r}, decision: DENY}
    - {id: write, match: {operation: open_write, path: /w}, decision: DENY}
    - {id: etc, match: {operation: [open_write, mount], path: \"/etc/**/x\"}, decision: DENY}
    - {id: floating, match: {operation: open_read, path: \"**/p/*/q\"}, decision: DENY}
",
    );
    let by = |json: &str| {
        let action = Action::from_json(json.as_bytes()).unwrap_or_else(|e| panic!("{json}: {e:#?}"));
        let again = serde_json::to_string(&action).unwrap();
        assert_eq!(Action::from_json(again.as_bytes()).unwrap(), action, "{again}");
        let e = decide(&p, &action, &Context::default());
        (e.rule.unwrap_or_default(), e.facet.operation.name())
    };
    let is = |rule: &str, facet| (rule.to_owned(), facet);
    let op = |op: &str, rest: &str| format!(r#"{{"operation":"{op}",{rest}}}"#);
    assert_eq!(by(&op("open_read", r#""path":"/dev/sda","raw_memory":true"#)), is("raw", "raw_memory"));
    assert_eq!(by(&op("open_read", r#""path":"/dev/sda""#)), is("", "open_read"));
    assert_eq!(
        by(&op("open_write", r#""path":"/proc/sys/kernel/x","sysctl":true"#)),
        is("sysctl", "sysctl_write")
    );
    let to = r#""addr":"1.2.3.4","port":1"#;
    assert_eq!(by(&op("send", to)), is("", "send"));
    assert_eq!(by(&op("send", &format!(r#"{to},"fast_open":true"#))), is("connect", "connect"));
    assert_eq!(by(&op("receive_fd", r#""path":"/r""#)), is("read", "open_read"));
    assert_eq!(by(&op("receive_fd", r#""path":"/w""#)), is("", "receive_fd"));
    assert_eq!(by(&op("receive_fd", r#""path":"/w","writes":true"#)), is("write", "open_write"));
    assert_eq!(by(&op("open_read", r#""path":"/a","names":["/b","/r"]"#)), is("read", "open_read"));
    assert_eq!(by(r#"{"operation":"ptrace"}"#), is("", "ptrace"));
    // Directories, at both ends; a mount always covers one.
    let rename = |from: &str, to: &str, directory: bool| {
        by(&op("rename", &format!(r#""path":"{from}","path2":"{to}","directory":{directory}"#)))
    };
    assert_eq!(rename("/etc/a", "/b", true), is("etc", "open_write"));
    assert_eq!(rename("/b", "/etc", true), is("etc", "open_write"));
    assert_eq!(rename("/etc/a", "/b", false), is("", "rename"));
    assert_eq!(rename("/usr", "/b", true), is("", "rename"));
    assert_eq!(by(&op("mount", r#""path":"/etc""#)), is("etc", "mount"));
    assert_eq!(by(&op("mount", r#""path":"/""#)), is("etc", "mount"));
    assert_eq!(by(&op("umount", r#""path":"/etc""#)), is("", "umount"));
    // A glob that may start anywhere: only where the directory's name is part of what it matches.
    assert_eq!(rename("/a/p", "/b", true), is("floating", "open_read"));
    assert_eq!(rename("/a/p/c", "/b", true), is("floating", "open_read"));
    assert_eq!(rename("/a", "/b", true), is("", "rename"));
    assert_eq!(rename("/a/p/c/d", "/b", true), is("", "rename"));
}

#[test]
fn not_path_is_about_every_name() {
    let p = rules("    - {id: r, match: {operation: read, path: /a/**, not_path: /a/ok}, decision: DENY}\n");
    let by = |path: &str, name: &str| {
        decide(&p, &Action { names: vec![name.into()], ..read(path) }, &Context::default()).decision
    };
    assert_eq!(by("/b", "/a/x"), Decision::Deny);
    assert_eq!(by("/a/x", "/a/ok"), Decision::Allow);
    assert_eq!(by("/b", "/c"), Decision::Allow);
}

#[test]
fn the_table_of_conditions() {
    let p = rules(
        "    - {id: b, match: {operation: connect}, when: {prior: {operation: bind, count: 3, within: 10s}, labels: {all: [STAFF]}}, decision: DENY}
    - {id: a, match: {operation: bind}, when: {labels: {any: [STAFF]}, elapsed: {under: 1s}}, decision: ALLOW}
    - {id: c, match: {operation: send}, when: {not_prior: {rule: b, operation: [send, connect]}, rate: {operation: bind, over: 3, per: 10s}}, decision: DENY}
",
    );
    let compiled = compile(&p, &Env::default(), 1).unwrap();
    let t = &compiled.table;
    let ids: Vec<&str> = compiled.rules.iter().map(|r| r.id.as_str()).collect();
    assert_eq!(ids, ["b", "c", "a"]);
    // One condition on labels, as all of one label is any of it.
    assert_eq!((t.label_conditions, t.labels[0].kind, t.labels[0].mask), (1, LABELS_ANY, 0b10));
    assert_eq!(t.sets[t.labels[0].needed_by as usize][0], 0b101);
    let history: Vec<(u32, u32, u32, u64, u64)> = t.history[..t.history_conditions as usize]
        .iter()
        .map(|h| (h.kind, h.watch, h.count, h.nanos, t.sets[h.needed_by as usize][0]))
        .collect();
    assert_eq!(
        history,
        [
            (HISTORY_COUNT, 0, 3, 10_000_000_000, 0b011),
            (HISTORY_FEWER, 1, 1, 0, 0b010),
            (HISTORY_YOUNGER, 0, 0, 1_000_000_000, 0b100),
        ]
    );
    let op = |op: Operation| 1u64 << op as u8;
    assert_eq!((t.watches[0].operations, t.watches[0].rule), (op(Operation::Bind), ANY_RULE));
    let both = op(Operation::Send) | op(Operation::Connect);
    assert_eq!((t.watches[1].operations, t.watches[1].rule), (both, 0));
    assert!(t.watches[0].key != 0 && t.watches[2].key == 0);
    // The key is about what is counted, not about where it stands: first bytes of
    // sha256("aarm watch 1\noperations bind\nrule *\n").
    let digest = ring_sha256("aarm watch 1\noperations bind\nrule *\n");
    assert_eq!(t.watches[0].key, u64::from_be_bytes(digest));
    assert_eq!(compiled.conditions[0], "at least 3 actions bind within 10s");
    assert_eq!(t.data_labels[..6], [0b1, 0b10, 0b10, 0b100, 0b1, 0]);
    assert_eq!(compiled.report.data.used, 5);
    assert!(t.conflicts.iter().all(|set| *set == NO_SET));
}

fn ring_sha256(text: &str) -> [u8; 8] {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref()[..8].try_into().unwrap()
}

#[test]
fn conditions_are_bounded() {
    let one = |i: usize, when: String| {
        format!("    - {{id: r{i}, match: {{operation: connect}}, when: {{{when}}}, decision: DENY}}\n")
    };
    let too_many = |text: String, shown: &str| {
        let errors: Vec<Diagnostic> =
            compile(&rules(&text), &Env::default(), 1).map(|c| c.report).expect_err("too many");
        assert!(errors.len() == 1 && errors[0].code == Code::TooCostly, "{errors:#?}");
        assert!(errors[0].message.contains(shown), "{}", errors[0]);
    };
    let list =
        |n: usize, when: &dyn Fn(usize) -> String| -> String { (0..n).map(|i| one(i, when(i))).collect() };
    let ages = |i: usize| format!("elapsed: {{over: {}s}}", i + 1);
    assert!(compile(&rules(&list(HISTORY_CONDITIONS, &ages)), &Env::default(), 1).is_ok());
    too_many(
        list(HISTORY_CONDITIONS + 3, &ages),
        "19 distinct conditions on history, and the kernel's table holds 16; rule \"r16\" is the first",
    );
    let kinds = |i: usize| format!("prior: {{operation: {}}}", Operation::ALL[i + 4].name());
    too_many(
        list(WATCHES + 1, &kinds),
        "9 kinds of events to count, and the kernel's table holds 8; rule \"r8\"",
    );
    // Enough labels for more than 64 combinations.
    let data: String =
        (0..7).map(|i| format!("    - {{label: L{i}, level: PUBLIC, on: {{read: /{i}}}}}\n")).collect();
    let combination = |i: usize| {
        let names: Vec<String> = (0..7).filter(|k| (i + 1) >> k & 1 == 1).map(|k| format!("L{k}")).collect();
        format!("labels: {{any: [{}]}}", names.join(", "))
    };
    let p = policy(&format!("  data:\n{data}  rules:\n{}", list(LABEL_CONDITIONS + 1, &combination)));
    let errors = compile(&p, &Env::default(), 1).map(|c| c.report).unwrap_err();
    assert!(errors[0].message.contains("65 distinct conditions on labels"), "{}", errors[0]);
}

#[test]
fn tests_tell_a_story() {
    let text = format!(
        "{HEAD}{DATA}  rules:
    - {{id: egress, match: {{operation: [connect, send]}}, when: {{labels: {{any: [SECRET]}}}}, decision: DENY}}
    - {{id: slow-down, match: {{operation: unlink}}, when: {{rate: {{operation: unlink, over: 2, per: 10s}}}}, decision: DENY}}
    - {{id: out, match: {{operation: connect}}, decision: ALLOW}}
    - {{id: one, match: {{operation: mkdir}}, decision: ALLOW, priority: 1}}
    - {{id: two, match: {{operation: mkdir}}, decision: DENY, priority: 1}}
tests:
  - name: secret then egress is refused
    given: [{{ read: /home/u/.ssh/id_ed25519 }}]
    do: {{ connect: \"203.0.113.9:443\" }}
    expect: {{ decision: DENY, rule: egress }}
  - {{name: a label, given: [{{label: SECRET}}], do: {{connect: \"1.2.3.4:1\"}}, expect: {{decision: DENY}}}}
  - {{name: nothing, do: {{connect: \"1.2.3.4:1\"}}, expect: {{decision: ALLOW, rule: out}}}}
  - {{name: thrice, given: [{{unlink: /a}}, {{unlink: /b}}], do: {{unlink: /c}}, expect: {{decision: DENY, rule: slow-down}}}}
  - {{name: later, given: [{{unlink: /a}}, {{wait: 11s}}, {{unlink: /b}}], do: {{unlink: /c}}, expect: {{decision: ALLOW}}}}
  - {{name: conflict, do: {{mkdir: /a}}, expect: {{decision: DEFER, rule: one}}}}
  - {{name: process, do: {{ptrace: }}, expect: {{decision: DENY, rule: default}}}}
"
    );
    let p = Policy::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{e:#?}"));
    let failed: Vec<String> = run_tests(&p, &Env::for_tests())
        .unwrap()
        .into_iter()
        .filter(|r| !r.passed)
        .map(|r| format!("{}: {:?}", r.name, r.message))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(Policy::parse(p.canonical().as_bytes()).unwrap().hash(), p.hash());
    for (given, shown) in [
        ("{label: X}", "no entry of `data` declares the label \"X\""),
        ("{wait: 3}", "bad time"),
        ("{ptrace: /a}", "`ptrace` has no object that rules know (write { ptrace: })"),
    ] {
        let text = text.replace("given: [{label: SECRET}]", &format!("given: [{given}]"));
        let all = Policy::parse(text.as_bytes()).unwrap_err();
        assert!(all.iter().any(|e| e.to_string().contains(shown)), "{given}: {all:#?}");
    }
}

#[test]
fn what_a_condition_may_hide_is_not_warned_about() {
    let p = rules(
        "    - {id: a, match: {operation: connect}, when: {elapsed: {over: 1m}}, decision: DENY}
    - {id: b, match: {operation: connect}, when: {elapsed: {over: 1h}}, decision: DENY}
    - {id: c, match: {operation: connect, port: 1}, when: {elapsed: {over: 1m}}, decision: DENY}
    - {id: d, match: {operation: connect, port: 1}, decision: DENY}
",
    );
    let warnings: Vec<String> = p.warnings().iter().map(|w| w.message.clone()).collect();
    assert_eq!(warnings, ["rule \"c\" can never decide: \"a\" comes first and holds wherever it does"]);
}
