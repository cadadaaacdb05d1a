//! What rules ask of who acts: what holds, what fails, what is unknown, and what is wrong with asking.

use aarm_common::limits::{SUBJECT_CONDITIONS, SUBJECT_PATTERNS};
use aarm_common::{Decision, Operation};
use aarm_policy::table::{self, TableContext};
use aarm_policy::{Action, Cause, Code, Context, Env, Explanation, Policy, compile, eval, run_tests};

const HEAD: &str =
    "apiVersion: aarm.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {name: p, version: \"1\"}\nspec:\n";

fn text(subject: &str) -> String {
    format!(
        "{HEAD}  defaults: {{network: ALLOW}}\n  rules:\n    - {{id: r, match: {{operation: [connect, exec]}}, subject: {subject}, decision: DENY}}\n"
    )
}

fn policy(text: &str) -> Policy {
    Policy::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{text}\n{e:#?}"))
}

/// Decides by evaluator, by table, and by the evaluator from what a receipt would say. All must agree.
fn decide(policy: &Policy, action: &Action) -> Explanation {
    let env = Env::for_tests();
    let e = eval(policy, &env, action, &Context::default());
    let compiled = compile(policy, &env, 1).unwrap();
    let seen = TableContext::of(policy, &Context::default());
    let v = table::decide(&compiled.table, action, &seen);
    let rule = v.rule.map(|i| compiled.rules[i as usize].id.clone());
    assert_eq!((v.decision, v.cause, &rule), (e.decision, e.cause, &e.rule));
    let subjects = table::subject_bits(&compiled.table, action);
    let nameless = Action { ancestors: None, container: None, ..action.clone() };
    assert_eq!(eval(policy, &env, &nameless, &Context::recorded(0, 0, subjects)), e);
    e
}

fn action(json: &str) -> Action {
    let head = r#"{"operation":"connect","addr":"203.0.113.9","port":443"#;
    Action::from_json(format!("{head},{json}}}").as_bytes()).unwrap_or_else(|e| panic!("{json}: {e:#?}"))
}

/// Whether the rule decides; else the condition that failed.
#[track_caller]
fn holds(subject: &str, json: &str) -> Result<Cause, &'static str> {
    let e = decide(&policy(&text(subject)), &action(json));
    match e.rule {
        Some(_) => Ok(e.cause),
        None => Err(e.considered[0].failed.expect("a failed condition")),
    }
}

#[test]
fn what_is_known_holds_or_fails() {
    let npm = r#""exe":"/usr/bin/node","ancestors":["/usr/bin/npm","/bin/sh"],"container":"/kubepods.slice/a.scope""#;
    for (subject, outcome) in [
        ("{exe: [\"**/npm\", \"**/node\"]}", Ok(Cause::Rule)),
        ("{exe: \"**/npm\"}", Err("subject.exe")),
        ("{not_exe: \"**/npm\"}", Ok(Cause::Rule)),
        ("{not_exe: \"**/node\"}", Err("subject.not_exe")),
        ("{ancestors: \"**/npm\"}", Ok(Cause::Rule)),
        // A program is not its own ancestor.
        ("{ancestors: \"**/node\"}", Err("subject.ancestors")),
        ("{not_ancestors: \"**/node\"}", Ok(Cause::Rule)),
        ("{not_ancestors: [\"/x\", \"/bin/sh\"]}", Err("subject.not_ancestors")),
        ("{container: /kubepods.slice/**}", Ok(Cause::Rule)),
        ("{container: \"/*\"}", Err("subject.container")),
        ("{not_container: [/docker, \"**/*.scope\"]}", Err("subject.not_container")),
        ("{not_container: \"/*\"}", Ok(Cause::Rule)),
        ("{ancestors: \"**/npm\", container: \"/*\"}", Err("subject.container")),
        ("{ancestors: \"**/npm\", uid: 1000}", Ok(Cause::Rule)),
        ("{ancestors: \"**/npm\", not_uid: 1000}", Err("not_uid")),
    ] {
        assert_eq!(holds(subject, npm), outcome, "{subject}");
    }
    // What is not said is nothing; the root cgroup has a path too.
    assert_eq!(holds("{not_ancestors: \"**\", container: /}", r#""uid":7"#), Ok(Cause::Rule));
    assert_eq!(holds("{container: \"/*\"}", r#""uid":7"#), Err("subject.container"));
    // Of an exec `exe` is the program that acts, and `match.exe` the one that would run.
    let p = policy(&text("{exe: \"**/git\"}"));
    let exec = |exe: &str, path: &str| {
        decide(&p, &Action { exe: Some(exe.into()), ..Action::on_path(Operation::Exec, path) }).rule
    };
    assert_eq!((exec("/bin/git", "/bin/ls"), exec("/bin/ls", "/bin/git")), (Some("r".into()), None));
}

#[test]
fn any_is_the_cgroup_of_a_container() {
    let id = "0123456789abcdef".repeat(4);
    let pod = "kubepods-burstable.slice/kubepods-burstable-pod1a2b.slice";
    let inside = [
        format!("/system.slice/docker-{id}.scope"),
        format!("/system.slice/docker-{id}.scope/init/deeper"),
        format!("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{id}.scope"),
        format!("/docker/{id}"),
        "/docker/buildkit/x1y2".into(),
        format!("/actions.slice/nerdctl-{id}.scope"),
        format!("/kubepods.slice/{pod}/cri-containerd-{id}.scope"),
        format!("/docker/{id}/kubelet.slice/kubelet-kubepods.slice/x.slice/cri-containerd-{id}.scope"),
        format!("/kubepods.slice/{pod}/crio-{id}.scope/container"),
        format!("/kubepods/burstable/pod1a2b/{id}"),
        format!("/kubepods/pod1a2b/{id}"),
        format!("/machine.slice/libpod-{id}.scope/container"),
        format!("/libpod_parent/libpod-{id}"),
        format!("/system.slice/web.service/libpod-payload-{id}"),
        format!("/ecs/0a1b/{id}"),
        "/lxc.payload.web/system.slice/cron.service".into(),
        "/lxc/web".into(),
        "/machine.slice/machine-lxc\\x2d1\\x2dweb.scope".into(),
        "/machine.slice/systemd-nspawn@web.service/payload/init.scope".into(),
        "/machine.slice/machine-web.scope/payload".into(),
        "/user.slice/runc-web.scope".into(),
    ];
    let outside = [
        "/".into(),
        "/init.scope".into(),
        "/system.slice/docker.service".into(),
        "/system.slice/docker.socket/x".into(),
        "/docker".into(),
        format!("/machine.slice/libpod-conmon-{id}.scope"),
        format!("/kubepods.slice/{pod}/crio-conmon-{id}.scope"),
        format!("/kubepods.slice/{pod}"),
        "/kubepods/burstable/pod1a2b".into(),
        "/lxc.monitor.web".into(),
        "/machine.slice/systemd-nspawn@web.service/supervisor".into(),
        "/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/emulator".into(),
        "/user.slice/user-1000.slice/session-2.scope".into(),
    ];
    let asked = |subject: &str, path: &str| holds(subject, &format!(r#""container":"{path}""#));
    for path in &inside {
        assert_eq!(asked("{container: any}", path), Ok(Cause::Rule), "{path}");
        assert_eq!(asked("{container: none}", path), Err("subject.not_container"), "{path}");
        assert_eq!(asked("{not_container: any}", path), Err("subject.not_container"), "{path}");
    }
    for path in &outside {
        assert_eq!(asked("{container: any}", path), Err("subject.container"), "{path}");
        assert_eq!(asked("{container: none}", path), Ok(Cause::Rule), "{path}");
    }
    // Beside globs.
    assert_eq!(asked("{container: [any, /init.scope]}", "/init.scope"), Ok(Cause::Rule));
    assert_eq!(
        asked("{container: any, not_container: /docker/**}", &inside[3]),
        Err("subject.not_container")
    );
    assert_eq!(asked("{container: none, not_container: /lxc.*}", &outside[9]), Err("subject.not_container"));
    // What is unknown is neither.
    for subject in ["{container: any}", "{container: none}"] {
        assert_eq!(holds(subject, r#""container":null"#), Ok(Cause::Unknown));
    }
    let one = policy(&text("{container: none}"));
    assert!(one.canonical().contains(r#""subject":{"not_container":["any"]}"#), "{}", one.canonical());
    assert_eq!(policy(&one.canonical()).hash(), one.hash());
    let report = compile(&one, &Env::for_tests(), 1).unwrap().report;
    assert!(report.states.used < 1000 && report.container_patterns.used == 1, "{report:?}");
}

#[test]
fn what_is_unknown_refuses_unless_it_says_otherwise() {
    let got = |subject: &str, json: &str| {
        let e = decide(&policy(&text(subject)), &action(json));
        (e.decision, e.cause, e.considered[0].unknown)
    };
    let ancestors = r#""ancestors":null"#;
    let name = Some("subject.ancestors");
    assert_eq!(got("{ancestors: /a}", ancestors), (Decision::Defer, Cause::Unknown, name));
    assert_eq!(got("{ancestors: /a, unknown: defer}", ancestors), (Decision::Defer, Cause::Unknown, name));
    assert_eq!(got("{ancestors: /a, unknown: deny}", ancestors), (Decision::Deny, Cause::Unknown, name));
    assert_eq!(got("{ancestors: /a, unknown: skip}", ancestors), (Decision::Allow, Cause::Default, name));
    let name = Some("subject.not_container");
    assert_eq!(got("{not_container: /a}", r#""container":null"#), (Decision::Defer, Cause::Unknown, name));
    // Something that fails decides, whatever else is unknown.
    let known = (Decision::Allow, Cause::Default, None);
    assert_eq!(got("{ancestors: /a, exe: /b}", ancestors), known);
    assert_eq!(got("{ancestors: /a, container: /b}", ancestors), known);
    // An unknown rule that allows does not allow, and one that another contradicts refuses by itself.
    let rules = |one: &str| {
        policy(&format!(
            "{HEAD}  rules:\n    - {{id: a, priority: 1, match: {{operation: connect}}, subject: {{{one}}}, decision: ALLOW}}\n    - {{id: b, priority: 1, match: {{operation: connect}}, decision: DENY}}\n"
        ))
    };
    let e = decide(&rules("ancestors: /a"), &action(ancestors));
    assert_eq!((e.decision, e.cause, e.rule.as_deref()), (Decision::Defer, Cause::Unknown, Some("a")));
    assert!(e.conflicts_with.is_none() && e.to_string().contains("not fully known"), "{e}");
    let e = decide(&rules("ancestors: /a, unknown: skip"), &action(ancestors));
    assert_eq!((e.decision, e.cause, e.rule.as_deref()), (Decision::Deny, Cause::Rule, Some("b")));
    let e = decide(&rules("ancestors: /a"), &action(r#""ancestors":["/a"]"#));
    assert_eq!((e.decision, e.cause), (Decision::Defer, Cause::Conflict));
}

#[test]
fn the_canonical_form_is_the_meaning() {
    let canonical = |subject: &str| policy(&text(subject)).canonical();
    let one = canonical("{ancestors: \"**/npm\", container: /a, uid: 7, unknown: defer}");
    assert!(one.contains(r#""subject":{"ancestors":["**/npm"],"container":["/a"]}"#), "{one}");
    // The user is a predicate of the match, wherever it is written.
    assert!(one.contains(r#""uid":[7]}"#) && policy(&one).canonical() == one, "{one}");
    let user = |m: &str, more: &str| {
        policy(&format!(
            "{HEAD}  rules:\n    - {{id: r, match: {{operation: read{m}}}, {more}decision: DENY}}\n"
        ))
    };
    assert_eq!(user(", not_uid: 5", "").hash(), user("", "subject: {not_uid: 5}, ").hash());
    let deny = canonical("{container: \"**/x\", unknown: deny}");
    assert!(deny.contains(r#""unknown":"deny""#) && policy(&deny).canonical() == deny, "{deny}");
    assert_ne!(canonical("{exe: /a}"), canonical("{not_exe: /a}"));
}

#[test]
fn tests_say_who_acts() {
    let cases = "tests:
  - {name: a, do: {connect: \"1.2.3.4:5\", as: {exe: /bin/x, ancestors: [/usr/bin/npm], container: /pod}}, expect: {decision: DENY, rule: r}}
  - {name: b, do: {connect: \"1.2.3.4:5\", as: {ancestors: [/usr/bin/npm]}}, expect: {decision: ALLOW}}
  - {name: c, do: {connect: \"1.2.3.4:5\", as: {ancestors: null, container: /pod}}, expect: {decision: DEFER, rule: r}}
";
    let p = policy(&(text("{ancestors: \"**/npm\", container: /pod/**}") + cases));
    let results = run_tests(&p, &Env::for_tests()).unwrap();
    assert!(results.len() == 3 && results.iter().all(|r| r.passed), "{results:#?}");
    assert_eq!(policy(&p.canonical()).hash(), p.hash());
}

#[test]
fn what_is_wrong_is_said() {
    let refused = |text: &str, code: Code, shown: &str| {
        let all = Policy::parse(text.as_bytes()).expect_err(text);
        let lines: Vec<String> = all.iter().map(ToString::to_string).collect();
        assert!(lines.len() == 1 && lines[0].contains(shown) && all[0].code == code, "{shown}: {lines:#?}");
    };
    for (subject, code, shown) in [
        (
            "{}",
            Code::MissingField,
            "7:61: error: a `subject` that asks for nothing (give at least one of exe, ancestors, uid, container",
        ),
        ("{unknown: deny}", Code::MissingField, "a `subject` that asks for nothing"),
        ("[/a]", Code::WrongType, "expected `subject`, a mapping, found a list"),
        (
            "{ancestor: /a}",
            Code::UnknownField,
            "7:62: error: unknown field \"ancestor\" in `subject` (did you mean \"ancestors\"?)",
        ),
        ("{declared: [x]}", Code::NotSupportedYet, "`declared` in `subject` is not supported yet"),
        ("{container: [none]}", Code::BadValue, "\"none\" stands alone, and in `container` only"),
        ("{container: [/a, none]}", Code::BadValue, "(write `not_container: any`"),
        ("{not_container: none}", Code::BadValue, "or `container: any` for its contrary)"),
        ("{container: Any}", Code::BadGlob, "(write `**/Any`"),
        ("{container: \"~/x\"}", Code::BadGlob, "bad glob \"~/x\": a cgroup is in no home directory"),
        ("{container: docker}", Code::BadGlob, "(write `**/docker`"),
        ("{ancestors: npm}", Code::BadGlob, "(write `**/npm`"),
        ("{ancestors: []}", Code::BadValue, "an empty list of globs can never match"),
        ("{uid: root}", Code::BadValue, "7:67: error: bad user id"),
        ("{ancestors: /a, unknown: dney}", Code::BadValue, "(did you mean \"deny\"?)"),
        ("{ancestors: /a, unknown: allow}", Code::BadValue, "(there are defer, deny, skip)"),
        ("{ancestors: /a, unknown: 1}", Code::WrongType, "expected defer, deny or skip, as text"),
        (
            "{exe: /a, uid: 1, unknown: deny}",
            Code::Inapplicable,
            "\"unknown\" says nothing where only exe and uid are asked for (they are always known: leave it out)",
        ),
    ] {
        refused(&text(subject), code, shown);
    }
    let twice = text("{uid: 7, exe: /a}").replace("[connect, exec]", "[connect, exec], uid: 8");
    refused(
        &twice,
        Code::BadValue,
        "\"uid\" is in `match` and in `subject`, where it means the same (give it once)",
    );
    // One of each is no contradiction.
    assert!(Policy::parse(twice.replace("uid: 7", "not_uid: 7").as_bytes()).is_ok());
    for (json, shown) in [
        (r#""ancestors":"/a""#, "expected programs, a list"),
        (r#""ancestors":["a"]"#, "it must be absolute"),
        (r#""container":"~/a""#, "stands for many directories"),
    ] {
        let json = format!(r#"{{"operation":"open_read","path":"/a",{json}}}"#);
        let all = Action::from_json(json.as_bytes()).expect_err(&json);
        assert!(all.len() == 1 && all[0].to_string().contains(shown), "{json}: {all:#?}");
    }
}

#[test]
fn what_does_not_fit_names_the_rule() {
    let rules = |n: usize, rule: &dyn Fn(usize) -> String| -> Policy {
        let list: Vec<String> = (0..n)
            .map(|i| {
                format!(
                    "    - {{id: r{i}, match: {{operation: read}}, subject: {{{}}}, decision: DENY}}\n",
                    rule(i)
                )
            })
            .collect();
        policy(&format!("{HEAD}  rules:\n{}", list.concat()))
    };
    let errors = |p: &Policy| compile(p, &Env::for_tests(), 1).err().map(|e| e[0].to_string());
    let conditions = |i: usize| format!("exe: [\"/a\", \"/b{i}\"]");
    assert_eq!(errors(&rules(SUBJECT_CONDITIONS, &conditions)), None);
    let found = errors(&rules(SUBJECT_CONDITIONS + 1, &conditions)).unwrap();
    assert!(
        found.contains("17 distinct conditions on subjects") && found.contains("rule \"r16\""),
        "{found}"
    );
    for (field, what) in [("ancestors", "patterns of programs"), ("container", "patterns of containers")] {
        let eight = |i: usize| {
            let globs: Vec<String> = (0..8).map(|k| format!("/x{}", i * 8 + k)).collect();
            format!("{field}: [{}]", globs.join(", "))
        };
        assert_eq!(errors(&rules(SUBJECT_PATTERNS / 8, &eight)), None);
        let found = errors(&rules(SUBJECT_PATTERNS / 8 + 1, &eight)).unwrap();
        assert!(found.contains(&format!("72 {what}")) && found.contains("rule \"r8\""), "{found}");
    }
    // What is written the same counts once.
    assert_eq!(errors(&rules(100, &|_| "not_ancestors: [\"/b\", \"/a\"]".into())), None);
}

#[test]
fn a_rule_with_a_subject_shadows_no_other() {
    let two = |one: &str, other: &str| {
        policy(&format!(
            "{HEAD}  rules:\n    - {{id: a, match: {{operation: read}}{one}, decision: DENY}}\n    - {{id: b, match: {{operation: read}}{other}, decision: DENY}}\n"
        ))
        .warnings()
        .len()
    };
    assert_eq!(two(", subject: {exe: /a}", ""), 0);
    assert_eq!(two("", ", subject: {exe: /a}"), 1);
    assert_eq!(two(", subject: {exe: /a}", ", subject: {exe: /a}"), 1);
    assert_eq!(two(", subject: {exe: /a}", ", subject: {exe: /b}"), 0);
}
