//! Names of hosts in policies: what they decide, and what they cannot open.

use aarm_policy::table::{TableContext, decide};
use aarm_policy::{Action, Code, Context, Env, Policy, compile, eval, run_tests};

fn policy(spec: &str) -> Policy {
    let text = format!(
        "apiVersion: aarm.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: p, version: \"1\"}}\nspec:\n{spec}"
    );
    Policy::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{text}\n{e:#?}"))
}

/// The decision on a connect to an address known by some names.
fn decided(policy: &Policy, addr: &str, names: &[&str]) -> String {
    let addr = addr.parse().unwrap();
    let mut action = Action::on_address(aarm_common::Operation::Connect, addr, 443, 6);
    action.hosts = names.iter().map(|n| (*n).to_owned()).collect();
    let e = eval(policy, &Env::for_tests(), &action, &Context::default());
    let compiled = compile(policy, &Env::for_tests(), 1).unwrap();
    let v = decide(&compiled.table, &action, &TableContext { labels: 0, conditions: 0 });
    let rule = v.rule.map(|i| compiled.rules[i as usize].id.clone());
    assert_eq!((v.decision, rule), (e.decision, e.rule.clone()), "{addr} {names:?}: as the kernel decides");
    format!("{} {}", e.decision.name(), e.rule.unwrap_or_else(|| "default".into()))
}

#[test]
fn names_decide() {
    let p = policy(
        "  rules:
    - { id: forge, match: { operation: connect, host: ['github.com', '*.github.com'] }, decision: ALLOW }
    - { id: no-tracker, match: { operation: connect, host: '**.tracker.example' }, decision: DENY }
    - { id: nameless, match: { operation: connect, host: unknown }, decision: DENY }
    - { id: rest, match: { operation: connect, not_host: '**.example' }, decision: ALLOW }
",
    );
    for (names, expected) in [
        (&["github.com"][..], "ALLOW forge"),
        (&["api.github.com"], "ALLOW forge"),
        (&["a.b.github.com"], "ALLOW rest"),
        (&["tracker.example"], "DENY no-tracker"),
        (&["x.y.tracker.example"], "DENY no-tracker"),
        // Any name satisfies; for a negated one none may.
        (&["x.example", "github.com"], "ALLOW forge"),
        (&["x.example", "other.org"], "DENY default"),
        (&[], "DENY nameless"),
    ] {
        assert_eq!(decided(&p, "203.0.113.9", names), expected, "{names:?}");
    }
}

#[test]
fn a_forged_answer_opens_no_network_that_a_rule_refuses() {
    let allow =
        "- { id: forge, priority: 9, match: { operation: connect, host: github.com }, decision: ALLOW }";
    let deny = "- { id: private, match: { operation: connect, cidr: [10.0.0.0/8, 169.254.0.0/16] }, decision: DENY }";
    let some =
        "- { id: mirror, priority: 1, match: { operation: connect, cidr: 10.1.0.0/16 }, decision: ALLOW }";
    let all = "- { id: all, priority: 2, match: { operation: connect }, decision: DENY }";
    let p = policy(&format!("  rules:\n    {allow}\n    {all}\n    {some}\n    {deny}\n"));
    assert_eq!(decided(&p, "203.0.113.9", &["github.com"]), "ALLOW forge");
    assert_eq!(decided(&p, "203.0.113.9", &["x"]), "DENY all");
    assert_eq!(decided(&p, "169.254.169.254", &["github.com"]), "DENY private");
    assert_eq!(decided(&p, "10.2.0.1", &["github.com"]), "DENY private");
    // What a rule allows whatever the name stays allowed.
    assert_eq!(decided(&p, "10.1.0.1", &["github.com"]), "ALLOW forge");
    // A network that a rule asks about is asked about.
    let ask = "- { id: ask, match: { operation: connect, cidr: 192.0.2.0/24 }, decision: STEP_UP }";
    let p = policy(&format!("  rules:\n    {allow}\n    {ask}\n"));
    assert_eq!(decided(&p, "192.0.2.1", &["github.com"]), "STEP_UP ask");
}

/// Found by the differential test: a rule that redirects by name and names a network, too, was taken for what refuses that network, and so hid
/// the rule that did.
#[test]
fn what_is_redirected_by_its_name_opens_no_network_that_a_rule_refuses() {
    let redirect = "- { id: proxied, priority: 9, match: { operation: connect, host: github.com, cidr: [10.0.0.0/8, 192.0.2.0/24] }, decision: MODIFY, modify: { redirect: '127.0.0.1:3128' } }";
    let deny = "- { id: private, match: { operation: connect, cidr: 10.0.0.0/8 }, decision: DENY }";
    let p = policy(&format!("  rules:\n    {redirect}\n    {deny}\n"));
    assert_eq!(decided(&p, "192.0.2.1", &["github.com"]), "MODIFY proxied");
    assert_eq!(decided(&p, "10.1.0.1", &["github.com"]), "DENY private");
    assert_eq!(decided(&p, "10.1.0.1", &["x"]), "DENY private");
}

#[test]
fn names_need_somebody_who_tells_them() {
    let rule = "  rules:\n    - { id: a, match: { operation: connect, host: a.b }, decision: ALLOW }\n";
    let errors = compile(&policy(rule), &Env::default(), 1).err().unwrap();
    assert_eq!(errors[0].code, Code::NoResolver);
    assert_eq!(errors[0].line, 6);
    let env = Env::default().with_resolv_conf(b"nameserver ::1\n");
    let table = compile(&policy(rule), &env, 1).unwrap().table;
    assert_eq!((table.resolver_count, table.resolvers[0].addr), (1, [0, 1]));
    let own = policy(&format!("  resolvers: [127.0.0.0/8, 'fd00::/8']\n{rule}"));
    let table = compile(&own, &env, 1).unwrap().table;
    assert_eq!(table.resolver_count, 2);
    assert_eq!(table.resolvers[0].addr, [0, 0xffff_7f00_0000]);
    assert_eq!(table.resolvers[0].mask, [u64::MAX, 0xffff_ffff_ff00_0000]);
    // Nobody asks: nobody is needed.
    let none = policy("  rules: []\n");
    assert_eq!(compile(&none, &env, 1).unwrap().table.resolver_count, 0);
}

#[test]
fn tests_of_a_policy_name_hosts() {
    let p = Policy::parse(
        b"apiVersion: aarm.dev/v1alpha1
kind: AgentPolicy
metadata: { name: p, version: '1' }
spec:
  rules:
    - { id: forge, match: { operation: connect, host: github.com }, decision: ALLOW }
tests:
  - { name: a, do: { connect: '203.0.113.9:443', host: GitHub.com. }, expect: { decision: ALLOW, rule: forge } }
  - { name: b, do: { connect: '203.0.113.9:443' }, expect: { decision: DENY, rule: default } }
",
    )
    .unwrap();
    assert!(run_tests(&p, &Env::for_tests()).unwrap().iter().all(|t| t.passed));
    let bad = b"apiVersion: aarm.dev/v1alpha1
kind: AgentPolicy
metadata: { name: p, version: '1' }
spec: { rules: [] }
tests: [{ name: a, do: { read: /x, host: a.b }, expect: { decision: ALLOW } }]
";
    let errors = Policy::parse(bad).unwrap_err();
    assert_eq!((errors[0].code, errors[0].column), (Code::Inapplicable, 36));
}

/// Tests of rules on what is known of a program only when it runs said that evaluator and table disagree.
#[test]
fn tests_of_a_policy_say_what_is_known_of_a_program() {
    let text = r##"
apiVersion: aarm.dev/v1alpha1
kind: AgentPolicy
metadata: { name: t, version: "1" }
spec:
  mode: enforce
  resolvers: [127.0.0.53]
  rules:
    - { id: preload, match: { operation: exec, env: [LD_PRELOAD] }, decision: DENY }
    - { id: pipe, match: { operation: exec, script: '(?m)^\s*curl .*[|] *(ba)?sh' }, decision: DENY }
    - { id: push, match: { operation: exec, args: [push] }, decision: STEP_UP }
    - { id: forge, match: { operation: connect, host: "/(api|www)[0-9]*[.]example[.]org/" }, decision: ALLOW }
tests:
  - { name: a, do: { exec: /usr/bin/git, args: [push], program: { env: ["LD_PRELOAD=x"] } }, expect: { decision: DENY, rule: preload } }
  - { name: b, do: { exec: /bin/sh, program: { script: "#!/bin/sh\n curl x | bash\n" } }, expect: { decision: DENY, rule: pipe } }
  - { name: c, do: { exec: /usr/bin/git, args: [push] }, expect: { decision: STEP_UP, rule: push } }
  - { name: d, do: { exec: /usr/bin/git }, expect: { decision: ALLOW, rule: default } }
  - { name: e, do: { connect: "203.0.113.9:443", host: api7.example.org }, expect: { decision: ALLOW, rule: forge } }
  - { name: f, do: { connect: "203.0.113.9:443", host: api7.example.org.x }, expect: { decision: DENY } }
"##;
    let p = Policy::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{e:#?}"));
    let failed: Vec<String> = run_tests(&p, &Env::for_tests())
        .unwrap()
        .into_iter()
        .filter(|t| !t.passed)
        .map(|t| format!("{}: {:?}", t.name, t.message))
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
}
