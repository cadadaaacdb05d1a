//! What the loader accepts, and what each bad input gets: an error with its place, all at once.

use aarm_common::{Decision, Family, Operation};
use aarm_policy::{Code, Diagnostic, MAX_DOCUMENT, Mode, OperationName, Policy, Redact, Severity};

const HEAD: &str = "\
apiVersion: aarm.dev/v1alpha1
kind: AgentPolicy
metadata: {name: p, version: \"1\"}
";

fn with_spec(spec: &str) -> String {
    format!("{HEAD}spec:\n{spec}\n")
}

/// A policy of one rule with this match, on line 6.
fn with_match(m: &str) -> String {
    with_spec(&format!("  rules:\n    - {{match: {{{m}}}, id: r, decision: DENY}}"))
}

fn errors(text: &str) -> Vec<Diagnostic> {
    Policy::parse(text.as_bytes()).expect_err("must be refused")
}

fn ok(text: &str) -> Policy {
    Policy::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{text}\n{e:#?}"))
}

/// One error only, of this kind, and shown so.
#[track_caller]
fn refused(text: &str, code: Code, shown: &str) {
    let all = errors(text);
    let lines: Vec<String> = all.iter().map(ToString::to_string).collect();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].contains(shown), "{lines:#?}");
    assert_eq!(all[0].code, code, "{lines:#?}");
    assert_eq!(all[0].severity, Severity::Error);
}

#[test]
fn unknown_fields_are_told_with_place_and_suggestion() {
    refused(
        &with_match("operation: read, pth: /a"),
        Code::UnknownField,
        "6:33: error: unknown field \"pth\" in `match` (did you mean \"path\"?)",
    );
    refused(
        &format!("{HEAD}spec: {{}}\nrules: []"),
        Code::UnknownField,
        "unknown field \"rules\" in a policy",
    );
    refused(
        &with_spec("  mod: audit"),
        Code::UnknownField,
        "5:3: error: unknown field \"mod\" in `spec` (did you mean \"mode\"?)",
    );
    refused(
        &with_spec("  agents: [{exec: /a}]"),
        Code::UnknownField,
        "unknown field \"exec\" in an agent (did you mean \"exe\"?)",
    );
    refused(&with_match("operation: read, <<: x"), Code::UnknownField, "unknown field \"<<\"");
}

#[test]
fn all_errors_come_at_once_and_in_order() {
    let text = with_spec(
        "  mode: enforced\n  rules:\n    - id: A\n      match: {operation: raed, path: a}\n      decision: NO\n    - match: {operation: read}\n  defaults: {exec: 1}",
    );
    let all = errors(&text);
    let codes: Vec<(u32, Code)> = all.iter().map(|e| (e.line, e.code)).collect();
    assert_eq!(
        codes,
        [
            (5, Code::BadValue),
            (7, Code::BadValue),
            (8, Code::BadValue),
            (8, Code::BadGlob),
            (9, Code::BadValue),
            (10, Code::MissingField),
            (10, Code::MissingField),
            (11, Code::WrongType),
        ],
        "{all:#?}"
    );
}

#[test]
fn wrong_types() {
    refused(&with_match("operation: 7"), Code::WrongType, "expected an operation, as text, found a number");
    refused(&with_match("operation: {read: 1}"), Code::WrongType, "found a mapping");
    refused(
        &with_match("operation: read, path: 7"),
        Code::WrongType,
        "6:39: error: expected a glob, as text, found a number (put it in quotes: \"7\")",
    );
    refused(
        &with_match("operation: read, path: ~"),
        Code::WrongType,
        "found nothing (a lone `~` is YAML for nothing",
    );
    refused(&with_match("operation: read, path: [[/a]]"), Code::WrongType, "found a list");
    refused(&with_match("operation: connect, port: 1.5"), Code::WrongType, "found a decimal number");
    refused(&with_match("operation: read, uid: [true]"), Code::WrongType, "found a truth value");
    refused(&with_spec("  rules: {}"), Code::WrongType, "expected rules, a list");
    refused(&with_spec("  rules: [read]"), Code::WrongType, "expected a rule, a mapping, found text");
    refused(&with_spec("  defaults: []"), Code::WrongType, "expected `defaults`");
    refused("[]", Code::WrongType, "1:1: error: expected a policy, a mapping, found a list");
    refused(
        "apiVersion: aarm.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {name: p, version: 2026.11}\nspec: {}",
        Code::WrongType,
        "3:30: error: expected text, found a decimal number (put it in quotes: \"2026.11\")",
    );
}

#[test]
fn bad_values() {
    for (m, code, shown) in [
        ("operation: raed", Code::BadValue, "\"raed\" is no operation (did you mean \"read\"?)"),
        ("operation: []", Code::BadValue, "an empty list of operations can never match"),
        ("operation: read, path: []", Code::BadValue, "an empty list of globs can never match"),
        (
            "operation: read, path: etc",
            Code::BadGlob,
            "a glob starts with `/`, `~/` or `**/` (write `**/etc`",
        ),
        ("operation: read, path: \"/a[\"", Code::BadGlob, "bad glob \"/a[\": `[` without `]`"),
        ("operation: read, path: \"/a/b**\"", Code::BadGlob, "`**` must be a whole component"),
        ("operation: read, not_exe: [/a, \"/b/\"]", Code::BadGlob, "does not end with `/` (write `/b` for"),
        ("operation: connect, cidr: 10.0.0.0/33", Code::BadAddress, "(the prefix is a number from 0 to 32)"),
        (
            "operation: connect, cidr: 10.0.0.1/8",
            Code::BadAddress,
            "bits set after its prefix (write \"10.0.0.0/8\"",
        ),
        ("operation: connect, cidr: localhost", Code::BadAddress, "bad network \"localhost\""),
        ("operation: connect, host: 10.0.0.1", Code::BadHost, "it is an address, not a name"),
        ("operation: send, not_host: 'https://a.b'", Code::BadHost, "bad host \"https://a.b\""),
        ("operation: connect, host: a.**.b", Code::BadHost, "`**` stands alone, as the first label"),
        ("operation: [connect, bind], host: a.b", Code::Inapplicable, "\"host\" says nothing about `bind`"),
        ("operation: read, host: a.b", Code::Inapplicable, "\"host\" says nothing about `open_read`"),
        ("operation: connect, not_cidr: \"fe80::/129\"", Code::BadAddress, "from 0 to 128"),
        ("operation: connect, cidr: 10.0.0/8", Code::BadAddress, "bad network"),
        ("operation: connect, port: 65536", Code::BadValue, "bad port \"65536\""),
        ("operation: connect, port: -1", Code::BadValue, "bad port \"-1\""),
        ("operation: connect, port: 0x50", Code::BadValue, "bad port \"0x50\""),
        ("operation: connect, port: 90-80", Code::BadValue, "the range \"90-80\" runs backwards"),
        ("operation: connect, not_port: http", Code::BadValue, "bad port \"http\""),
        ("operation: read, uid: 4294967295", Code::BadValue, "bad user id"),
        ("operation: connect, protocol: tpc", Code::BadValue, "no IP protocol (did you mean \"tcp\"?)"),
        ("operation: connect, protocol: 256", Code::BadValue, "from 0 to 255, not 256"),
        ("operation: socket, family: inet7", Code::BadValue, "no address family (did you mean \"inet"),
        ("operation: socket, family: 63", Code::BadValue, "from 0 to 62, not 63"),
        ("operation: socket, type: streem", Code::BadValue, "(did you mean \"stream\"?)"),
    ] {
        refused(&with_match(m), code, shown);
    }
}

#[test]
fn rules_need_what_they_need() {
    let rule = |r: &str| with_spec(&format!("  rules:\n    - {{{r}}}"));
    refused(
        &rule("id: a, decision: DENY"),
        Code::MissingField,
        "6:7: error: a rule needs the field \"match\"",
    );
    refused(&rule("id: a, match: {operation: read}"), Code::MissingField, "needs the field \"decision\"");
    refused(&rule("match: {operation: read}, decision: DENY"), Code::MissingField, "needs the field \"id\"");
    refused(
        &rule("id: a, match: {path: /a}, decision: DENY"),
        Code::MissingField,
        "`match` needs the field \"operation\"",
    );
    refused(
        &rule("id: A_b, match: {operation: read}, decision: DENY"),
        Code::BadValue,
        "bad rule id \"A_b\" (1 to 64 of a-z, 0-9 and -)",
    );
    refused(
        &rule("id: default, match: {operation: read}, decision: DENY"),
        Code::BadValue,
        "stands for no rule",
    );
    refused(
        &rule("id: a, match: {operation: read}, decision: deny"),
        Code::BadValue,
        "\"deny\" is no decision (did you mean \"DENY\"?)",
    );
    refused(
        &rule("id: a, match: {operation: read}, decision: ALLOW, classification: forbidden"),
        Code::BadValue,
        "a forbidden rule can only be DENY",
    );
    refused(
        &rule("id: a, match: {operation: read}, decision: DENY, classification: forbiden"),
        Code::BadValue,
        "(did you mean \"forbidden\"?)",
    );
    refused(
        &rule("id: a, match: {operation: read}, decision: DENY, priority: 2000000"),
        Code::BadValue,
        "a priority is a number from",
    );
    let twice = with_spec(
        "  rules:\n    - {id: a, match: {operation: read}, decision: DENY}\n    - {id: a, match: {operation: write}, decision: DENY}",
    );
    refused(&twice, Code::DuplicateId, "7:12: error: rule id \"a\" is taken by the rule at line 6");
}

#[test]
fn the_head_is_checked() {
    let text = |api: &str, kind: &str, name: &str| {
        format!("apiVersion: {api}\nkind: {kind}\nmetadata: {{name: {name}, version: \"1\"}}\nspec: {{}}")
    };
    refused(
        &text("v2", "AgentPolicy", "p"),
        Code::BadValue,
        "1:13: error: \"v2\" is no apiVersion that is read here (write apiVersion: aarm.dev/v1alpha1)",
    );
    refused(&text("aarm.dev/v1alpha1", "Policy", "p"), Code::BadValue, "is no kind");
    refused(&text("aarm.dev/v1alpha1", "AgentPolicy", "A b"), Code::BadValue, "bad policy name");
    assert_eq!(errors("{}").len(), 4);
    refused("", Code::Syntax, "the document is empty");
    refused("a: [", Code::Syntax, "not YAML");
}

#[test]
fn later_parts_of_the_language_are_not_supported_yet() {
    let rule = |r: &str| with_spec(&format!("  rules:\n    - {{id: a, match: {{operation: read}}, {r}}}"));
    for (text, what) in [
        (rule("decision: DENY, when: {intent: {any: [deploy]}}"), "`intent` in `when`"),
        (rule("decision: DENY, when: {drift: {over: 1}}"), "`drift` in `when`"),
        (rule("decision: DENY, when: {declared: {tool: x}}"), "`declared` in `when`"),
        (rule("decision: DENY, when: {identity: {role: x}}"), "`identity` in `when`"),
        (rule("decision: DENY, subject: {declared: a}"), "`declared` in `subject`"),
        (rule("decision: DENY, overridable: true"), "`overridable` in a rule"),
        (with_match("operation: tool"), "the operation `tool`"),
        (with_spec("  fail: {}"), "`fail` in `spec`"),
        (with_spec("  record: {tool: summary}"), "the operation `tool`"),
        (with_spec("  defaults: {tool: DENY}"), "a default for the family `tool`"),
    ] {
        refused(&text, Code::NotSupportedYet, &format!("{what} is not supported yet"));
    }
}

#[test]
fn what_receipts_do_not_show_is_said_once_and_changes_the_hash() {
    let p = ok(&with_spec("  redact: [paths, arguments, paths]"));
    assert_eq!(p.redact(), [Redact::Arguments, Redact::Paths]);
    assert_ne!(p.hash(), ok(&with_spec("  mode: enforce")).hash());
    assert_eq!(ok(&with_spec("  redact: human")).redact(), [Redact::Human]);
    assert!(ok(&with_spec("  mode: enforce")).redact().is_empty());
    for (text, code, shown) in [
        ("  redact: [argments]", Code::BadValue, "(did you mean \"arguments\"?)"),
        ("  redact: [everything]", Code::BadValue, "there are arguments, hosts, human, paths, texts"),
        ("  redact: {paths: true}", Code::WrongType, "expected a part of receipts"),
    ] {
        refused(&with_spec(text), code, shown);
    }
}

#[test]
fn who_is_asked_before_people_are() {
    let rule =
        |r: &str| with_spec(&format!("  rules:\n    - {{id: a, match: {{operation: open_read}}, {r}}}"));
    let p = ok(&rule("decision: DEFER, resolve: [intent, hash, reputation], on_timeout: STEP_UP"));
    assert_eq!(p.rules()[0].hold.resolve, ["intent", "hash", "reputation"]);
    for (r, code, shown) in [
        (
            "decision: DENY, resolve: [hash]",
            Code::Inapplicable,
            "`resolve` says nothing about a rule that decides DENY",
        ),
        ("decision: DEFER, resolve: [dns]", Code::Inapplicable, "`dns` finds nothing out about `open_read`"),
        ("decision: STEP_UP, resolve: [hash]", Code::Inapplicable, "decides STEP_UP"),
        ("decision: DEFER, resolve: [Hash]", Code::BadValue, "\"Hash\" is no name of a resolver"),
        ("decision: DEFER, resolve: []", Code::BadValue, "an empty list"),
        ("decision: DEFER, resolve: [a, b, c, d, e, f, g, h, i]", Code::TooMany, "9 resolvers; at most 8"),
    ] {
        refused(&rule(r), code, shown);
    }
}

#[test]
fn what_is_changed() {
    let rule = |operation: &str, modify: &str| {
        with_spec(&format!(
            "  rules:\n    - {{id: a, match: {{operation: {operation}}}, decision: MODIFY, modify: {modify}}}"
        ))
    };
    let of = |text: &str| ok(text).rules()[0].modify.clone().expect("it changes something");
    let m = of(&rule(
        "exec",
        "{scrub_env: [\"AWS_*\", \"*_KEY\"], limits: {nofile: 64, as: 2GiB}, args: [{replace: -n, with: x}]}",
    ));
    let limits: Vec<_> = m.limits.iter().map(|(r, n)| (r.name(), r.number(), *n)).collect();
    assert_eq!(limits, [("nofile", 7, 64), ("as", 9, 2 << 30)]);
    assert!(m.scrubs(b"AWS_X", &mut 100).unwrap() && !m.scrubs(b"PATH", &mut 100).unwrap());
    assert_eq!(m.replaces(b"-n", &mut 100), Ok(Some("x")));
    assert_eq!(of(&rule("[connect, send]", "{redirect: \"[::1]:53\"}")).redirect.unwrap().port(), 53);
    // Of the family, what is run.
    assert!(ok(&rule("exec", "{limits: {core: 0}}")).asks_for_lines());
    assert!(!ok(&rule("connect", "{redirect: \"127.0.0.1:1\"}")).asks_for_lines());
    for (operation, modify, shown) in [
        ("connect", "{scrub_env: [A]}", "\"scrub_env\" changes programs, and nothing of `connect`"),
        ("exec", "{redirect: \"127.0.0.1:1\"}", "\"redirect\" changes connections, and nothing of `exec`"),
        ("network", "{redirect: \"127.0.0.1:1\"}", "nothing of `socket`"),
        ("connect", "{redirect: localhost}", "\"localhost\" is no address and port to redirect to"),
        ("connect", "{redirect: \"127.0.0.1:0\"}", "is no address and port"),
        ("connect", "{redirect: \"0.0.0.0:80\"}", "is no address and port"),
        ("connect", "{redirect: \"[::ffff:127.0.0.1]:80\"}", "is no address and port"),
        ("connect", "{redirect: \"[fe80::1%2]:80\"}", "is no address and port"),
        ("exec", "{}", "`modify` changes nothing"),
        ("exec", "{limits: {nofiles: 1}}", "unknown limit \"nofiles\""),
        ("exec", "{limits: {nofile: 1KiB}}", "\"1KiB\" is no limit of nofile"),
        ("exec", "{limits: {as: -1}}", "\"-1\" is no limit of as"),
        ("exec", "{limits: {as: 99999999999TiB}}", "is no limit of as"),
        ("exec", "{args: [{replace: a}]}", "needs the field \"with\""),
    ] {
        let all = errors(&rule(operation, modify));
        assert!(all.len() == 1 && all[0].to_string().contains(shown), "{modify}: {all:#?}");
    }
    let rule = |r: &str| with_spec(&format!("  rules:\n    - {{id: a, match: {{operation: exec}}, {r}}}"));
    refused(&rule("decision: MODIFY"), Code::MissingField, "needs the field \"modify\"");
    refused(&rule("decision: DENY, modify: {limits: {core: 0}}"), Code::Inapplicable, "decides DENY");
    refused(&with_spec("  defaults: {exec: MODIFY}"), Code::NotSupportedYet, "the decision MODIFY");
}

#[test]
fn command_lines() {
    let line = |m: &str| {
        let text = with_match(&format!("operation: exec, exe: \"**/git\", {m}"));
        Policy::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{text}\n{e:#?}"))
    };
    for m in [
        "args: push",
        "args: [push, {any: \"--force*\"}], not_args: [{any: -n}]",
        "argv: []",
        "argv: [log, \"**\"], not_argv: [\"**\", x, x]",
    ] {
        let policy = line(m);
        assert!(policy.asks_for_lines(), "{m}");
        // One form: what is written in another way is the same policy.
        assert_eq!(Policy::parse(policy.canonical().as_bytes()).unwrap().hash(), policy.hash(), "{m}");
    }
    // Only running a program has one.
    refused(
        &with_match("operation: open_read, args: [a]"),
        Code::Inapplicable,
        "\"args\" says nothing about `open_read`",
    );
    refused(&with_match("operation: [exec, mmap_exec], argv: [a]"), Code::Inapplicable, "`mmap_exec`");
    refused(
        &with_match("operation: [read, exec_args]"),
        Code::Inapplicable,
        "name `exec`, and give the rule `args`",
    );
    refused(&with_match("operation: exec, args: []"), Code::BadValue, "can never match");
    refused(&with_match("operation: exec, args: [1]"), Code::WrongType, "put it in quotes");
    refused(&with_match("operation: exec, args: [{any: x, all: y}]"), Code::UnknownField, "fields are any");
    refused(&with_match("operation: exec, args: [\"a\\\\\"]"), Code::BadValue, "nothing after its last");
    let many = vec!["a"; 33].join(", ");
    refused(&with_match(&format!("operation: exec, argv: [{many}]")), Code::TooMany, "33 words; at most 32");
}

#[test]
fn what_is_known_of_a_program_when_it_is_about_to_run() {
    let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    for m in [
        "env: LD_PRELOAD".to_owned(),
        "not_env: [\"NODE_OPTIONS=*--require*\", \"*_TOKEN\"]".to_owned(),
        format!("hash: {hash}"),
        format!("not_hash: [\"sha256:{hash}\"], args: push"),
        "package: [git, \"python3*\"]".to_owned(),
        "not_package: \"*\"".to_owned(),
        "script: \"(?m)^curl .*[|] *sh$\"".to_owned(),
        "not_script: [\"#!/usr/bin/env\"]".to_owned(),
    ] {
        let policy = ok(&with_match(&format!("operation: exec, {m}")));
        assert!(policy.asks_for_lines(), "{m}");
        assert_eq!(ok(&policy.canonical()).hash(), policy.hash(), "{m}");
    }
    let plain = ok(&with_match(&format!("operation: exec, hash: {hash}")));
    let upper = ok(&with_match(&format!("operation: exec, hash: \"sha256:{}\"", hash.to_uppercase())));
    assert_eq!(plain.hash(), upper.hash(), "one form");
    for (m, code, shown) in [
        ("operation: connect, env: x", Code::Inapplicable, "\"env\" says nothing about `connect`"),
        ("operation: [exec, mmap_exec], package: git", Code::Inapplicable, "`mmap_exec`"),
        ("operation: exec, hash: [abc]", Code::BadValue, "\"abc\" is no SHA-256"),
        ("operation: exec, script: \"(\"", Code::BadValue, "bad regular expression \"(\": unclosed group"),
        ("operation: exec, script: \"(?=x)\"", Code::BadValue, "look-around"),
        ("operation: exec, env: \"A=\\\\\"", Code::BadValue, "bad variable"),
        ("operation: exec, env: []", Code::BadValue, "can never match"),
    ] {
        refused(&with_match(m), code, shown);
    }
    let many: Vec<String> = (0..33).map(|n| format!("A{n}")).collect();
    let many = with_match(&format!("operation: exec, env: [{}]", many.join(", ")));
    refused(&many, Code::TooMany, "33 in `env`; at most 32");
}

#[test]
fn predicates_that_say_nothing_are_refused() {
    for (m, shown) in [
        ("operation: open_read, cidr: 10.0.0.0/8", "6:44: error: \"cidr\" says nothing about `open_read`"),
        ("operation: connect, path: /a", "\"path\" says nothing about `connect`"),
        ("operation: socket, port: 1", "\"port\" says nothing about `socket`"),
        ("operation: unix_connect, not_family: inet", "\"not_family\" says nothing about `unix_connect`"),
        (
            "operation: network, cidr: 10.0.0.0/8",
            "a member of `network` (instead of `network` name [connect, send, bind, listen, accept])",
        ),
        (
            "operation: [connect, read], port: 80",
            "\"port\" says nothing about `open_read`, a member of `read`",
        ),
        ("operation: network, path: /a", "name [unix_connect, unix_send]"),
    ] {
        refused(&with_match(m), Code::Inapplicable, shown);
    }
}

#[test]
fn rules_of_one_priority_that_disagree_are_warned_about() {
    let two = |a: &str, b: &str| {
        with_spec(&format!(
            "  rules:\n    - {{id: a, match: {{operation: write}}, {a}}}\n    - {{id: b, match: {{operation: [read, unlink], path: /x}}, {b}}}"
        ))
    };
    let warned = |a: &str, b: &str| -> Vec<String> {
        ok(&two(a, b)).warnings().iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        warned("decision: DENY, priority: 5", "decision: ALLOW, priority: 5"),
        [
            "7:7: warning: rules \"a\" and \"b\" have the same priority 5 and disagree: what both match gets DEFER \
             (give one of them another priority, or none)"
        ]
    );
    assert!(warned("decision: DENY, priority: 5", "decision: ALLOW, priority: 6").is_empty());
    ok(&two("decision: DENY, priority: 5", "decision: DENY, priority: 5"));
    ok(&two("decision: DENY, priority: 5", "decision: ALLOW, priority: 6"));
    // Only explicit priorities: 0 by absence is file order.
    ok(&two("decision: DENY, priority: 0", "decision: ALLOW"));
    ok(&two("decision: DENY, priority: 5, classification: forbidden", "decision: ALLOW, priority: 5"));
}

#[test]
fn bounds_hold() {
    let rules = |n: usize| {
        let mut text = with_spec("  rules:");
        for i in 0..n {
            text.push_str(&format!(
                "    - {{id: r{i}, match: {{operation: read, path: \"**/f{i}\"}}, decision: DENY}}\n"
            ));
        }
        text
    };
    assert_eq!(ok(&rules(512)).rules().len(), 512);
    refused(&rules(513), Code::TooMany, "518:7: error: 513 rules; a policy has at most 512");
    let huge = vec![b' '; 100 << 20];
    let all = Policy::parse(&huge).unwrap_err();
    assert_eq!((all.len(), all[0].code), (1, Code::TooLarge));
    const { assert!(MAX_DOCUMENT == 1 << 20) };
    let long = format!("operation: read, path: \"/{}\"", "a".repeat(2000));
    refused(&with_match(&long), Code::BadGlob, "a glob has at most 1024 bytes");
    let list: Vec<String> = (0..1025).map(|i| format!("/f{i}")).collect();
    refused(
        &with_match(&format!("operation: read, path: [{}]", list.join(","))),
        Code::TooMany,
        "a list of 1025 globs",
    );
    let agents = vec!["{uid: 1}"; 65].join(",");
    refused(&with_spec(&format!("  agents: [{agents}]")), Code::TooMany, "65 agents");
    // Hundreds of errors are cut, with a last one that says so.
    let bad: String = (0..400).map(|i| format!("\nx{i}: 1")).collect();
    assert_eq!(errors(&format!("{HEAD}spec: {{}}{bad}")).len(), 201);
}

#[test]
fn agents_are_checked() {
    let agent = |a: &str| with_spec(&format!("  agents: [{a}]"));
    refused(&agent("{}"), Code::MissingField, "told by nothing (give at least one of exe, uid, cgroup)");
    refused(&agent("{cgroup: a}"), Code::BadValue, "bad cgroup \"a\"");
    refused(&agent("{cgroup: /a/*}"), Code::BadValue, "bad cgroup");
    refused(&agent("{cgroup: /a/../b}"), Code::BadValue, "bad cgroup");
    refused(&agent("{uid: bob}"), Code::BadValue, "bad user id \"bob\"");
    refused(&agent("{exe: claude}"), Code::BadGlob, "write `**/claude`");
    let policy =
        ok(&agent("{exe: /usr/local/bin/claude, uid: 1500-1599}, {cgroup: [/kubepods.slice/**, /x/y, /**]}"));
    assert_eq!(policy.agents()[0].uid[0].last, 1599);
    assert_eq!(policy.agents()[1].cgroup, ["/kubepods.slice", "/x/y", "/"]);
}

#[test]
fn tests_are_checked() {
    let case = |c: &str| {
        format!(
            "{HEAD}spec:\n  rules:\n    - {{id: no-keys, match: {{operation: read}}, decision: DENY}}\ntests:\n  - {{{c}}}"
        )
    };
    let expect = "expect: {decision: DENY}";
    for (text, shown) in [
        (case("name: t, do: {read: /a}"), "a test needs the field \"expect\""),
        (
            case("name: t, do: {read: /a}, expect: {decision: DENY, rule: no-key}"),
            "there is no rule \"no-key\" (did you mean \"no-keys\"?)",
        ),
        (case(&format!("name: t, do: {{read: a}}, {expect}")), "bad path \"a\": it must be absolute"),
        (case(&format!("name: t, do: {{read: ~/a}}, {expect}")), "`~` stands for many directories"),
        (case(&format!("name: t, do: {{read: /a/../b}}, {expect}")), "a real path has no empty"),
        (case(&format!("name: t, do: {{}}, {expect}")), "no action: write for example"),
        (case(&format!("name: t, do: {{read: /a, write: /a}}, {expect}")), "one action at a time"),
        (case(&format!("name: t, do: {{raed: /a}}, {expect}")), "\"raed\" is no operation"),
        (case(&format!("name: t, do: {{connect: \"1.2.3.4\"}}, {expect}")), "bad endpoint \"1.2.3.4\""),
        (case(&format!("name: t, do: {{connect: \"1.2.3.4:1/tpc\"}}, {expect}")), "bad endpoint"),
        (case(&format!("name: t, do: {{rename: /a}}, {expect}")), "expected source and target, a list"),
        (case(&format!("name: t, do: {{rename: [/a]}}, {expect}")), "takes [SOURCE, TARGET]"),
        (
            case(&format!("name: t, do: {{read: /a, as: {{user: 1}}}}, {expect}")),
            "unknown field \"user\" in `as`",
        ),
    ] {
        let lines: Vec<String> = errors(&text).iter().map(ToString::to_string).collect();
        assert!(lines.len() == 1 && lines[0].contains(shown), "{shown}: {lines:#?}");
    }
    let twice = format!(
        "{}\n  - {{name: t, do: {{read: /a}}, {expect}}}",
        case(&format!("name: t, do: {{read: /a}}, {expect}"))
    );
    refused(&twice, Code::DuplicateId, "there is another test named \"t\"");
}

#[test]
fn a_rule_that_can_never_win_is_warned_about() {
    let policy = ok(&with_spec(
        "  rules:
    - {id: wide, match: {operation: read, path: [\"/a/**\", /b]}, decision: ALLOW}
    - {id: lost, match: {operation: open_read, path: /b, uid: 7}, decision: DENY}
    - {id: other, match: {operation: read, path: /c}, decision: DENY}
    - {id: saved, match: {operation: open_read, path: /b}, decision: DENY, classification: forbidden}",
    ));
    let warnings: Vec<String> = policy.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        ["7:7: warning: rule \"lost\" can never decide: \"saved\" comes first and holds wherever it does"]
    );
}

#[test]
fn what_is_read_is_what_was_written() {
    let policy = ok("
apiVersion: aarm.dev/v1alpha1
kind: AgentPolicy
metadata: {name: p-1, version: \"2026.11\"}
spec:
  mode: audit
  defaults: {read: DENY}
  rules:
    - id: a
      match: {operation: [exec, connect], uid: [0, 10-20]}
      decision: ALLOW
      priority: -3
      reason: Why.
    - {id: b, match: {operation: connect, cidr: [\"::ffff:10.0.0.0/104\", 1.2.3.4, \"::/0\"]}, decision: DENY, classification: forbidden}
    - {id: c, match: {operation: read}, decision: ALLOW, classification: static, priority: 1}
");
    assert_eq!((policy.name(), policy.version(), policy.mode()), ("p-1", "2026.11", Mode::Audit));
    assert_eq!(policy.default_for(Family::Read), Decision::Deny);
    assert_eq!(policy.default_for(Family::Write), Decision::Allow);
    assert_eq!(policy.default_for(Family::Network), Decision::Deny);
    assert_eq!(policy.order(), [1, 2, 0]);
    let a = &policy.rules()[0];
    assert_eq!(
        (a.place.line, a.place.column, a.priority, a.reason.as_deref()),
        (9, 7, Some(-3), Some("Why."))
    );
    assert_eq!(a.matches.operations[0], OperationName::Family(Family::Exec));
    assert!(a.matches.names(Operation::MmapExec) && !a.matches.names(Operation::ExecArgs));
    let nets: Vec<String> = policy.rules()[1].matches.cidr.iter().map(ToString::to_string).collect();
    assert_eq!(nets, ["10.0.0.0/8", "1.2.3.4/32", "::/0"]);
}

#[test]
fn the_hash_names_the_meaning() {
    let block = ok("
# a comment
apiVersion: aarm.dev/v1alpha1
kind: AgentPolicy
metadata:
  name: p
  version: '1'
spec:
  rules:
    - id: a
      match: {operation: connect, protocol: tcp, port: 80-80}
      decision: DENY
");
    let json =
        ok(r#"{"kind":"AgentPolicy","apiVersion":"aarm.dev/v1alpha1","metadata":{"version":"1","name":"p"},
        "spec":{"mode":"enforce","rules":[{"decision":"DENY","classification":"static","id":"a",
        "match":{"port":[80],"protocol":[6],"operation":["connect"]}}]}}"#);
    assert_eq!(
        block.canonical(),
        r#"{"apiVersion":"aarm.dev/v1alpha1","kind":"AgentPolicy","metadata":{"name":"p","version":"1"},"spec":{"mode":"enforce","rules":[{"classification":"static","decision":"DENY","id":"a","match":{"operation":["connect"],"port":[80],"protocol":[6]}}]}}"#
    );
    assert_eq!(block.hash(), json.hash());
    assert_eq!(block.hash(), "9bf111ab5fe33ec328cb93698b3257a97117cd8d1379676ac19a22ee02fc1c43");
    // The canonical form is itself a document of the same meaning.
    assert_eq!(ok(&block.canonical()).hash(), block.hash());
}

#[test]
fn canonical_forms_of_real_policies_mean_the_same() {
    for text in
        [include_str!("../../policies/coding-agent.yaml"), include_str!("../../policies/audit-only.yaml")]
    {
        let policy = ok(text);
        assert_eq!(ok(&policy.canonical()).hash(), policy.hash());
    }
}
