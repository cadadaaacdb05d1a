//! Actions: how they are read, how their facets decide, and what is said about it.

use aarm_common::{Decision, Operation};
use aarm_policy::table::TableContext;
use aarm_policy::{Action, Cause, Code, Context, End, Env, Policy, compile, eval, table};
use std::net::IpAddr;

fn read(json: &str) -> Action {
    Action::from_json(json.as_bytes()).unwrap_or_else(|e| panic!("{json}: {e:#?}"))
}

#[track_caller]
fn refused(json: &str, code: Code, shown: &str) {
    let all = Action::from_json(json.as_bytes()).expect_err(json);
    let lines: Vec<String> = all.iter().map(ToString::to_string).collect();
    assert!(lines.len() == 1 && all[0].code == code && lines[0].contains(shown), "{lines:#?}");
}

#[test]
fn what_the_kernel_would_know_follows() {
    let a = read(
        r#"{"operation":"connect","addr":"203.0.113.9","port":443,"protocol":"tcp","exe":"/usr/bin/curl","uid":1000}"#,
    );
    assert_eq!((a.family, a.sock_type, a.protocol, a.port), (2, 1, 6, Some(443)));
    assert_eq!(a.exe.as_deref(), Some(&b"/usr/bin/curl"[..]));
    let a = read(r#"{"operation":"send","addr":"::ffff:1.2.3.4","port":53,"type":"dgram"}"#);
    assert_eq!((a.family, a.sock_type, a.protocol, a.addr), (2, 2, 17, Some(IpAddr::from([1, 2, 3, 4]))));
    let a = read(r#"{"operation":"socket","family":"inet6"}"#);
    assert_eq!((a.family, a.sock_type, a.protocol), (10, 1, 6));
    let a = read(r#"{"operation":"socket","family":"netlink","type":"raw","protocol":0}"#);
    assert_eq!((a.family, a.sock_type, a.protocol), (16, 3, 0));
    let a = read(r#"{"operation":"connect","family":"vsock"}"#);
    assert_eq!((a.family, a.addr, a.port), (40, None, None));
    let a = read(r#"{"operation":"unix_connect","path":"@name"}"#);
    assert_eq!(a.path.as_deref(), Some(&b"@name"[..]));
    assert_eq!(
        read(r#"{"operation":"open_read","path":"\/a\u00e9"}"#).path.as_deref(),
        Some("/aé".as_bytes())
    );
}

#[test]
fn what_is_wrong_is_said() {
    refused("{}", Code::MissingField, "1:1: error: an action needs the field \"operation\"");
    refused(r#"{"operation":"open_raed","path":"/a"}"#, Code::BadValue, "(did you mean \"open_read\"?)");
    refused(
        r#"{"operation":"exec_args"}"#,
        Code::Inapplicable,
        "`exec_args` is how receipts name a command line",
    );
    refused(r#"{"operation":"open_read"}"#, Code::MissingField, "needs the field \"path\"");
    refused(r#"{"operation":"open_read","path":"a"}"#, Code::BadValue, "it must be absolute");
    refused(r#"{"operation":"open_read","path":"@a"}"#, Code::BadValue, "it must be absolute");
    refused(
        r#"{"operation":"open_read","path":"/a","port":1}"#,
        Code::Inapplicable,
        "`open_read` has no \"port\"",
    );
    refused(
        r#"{"operation":"open_read","path":"/a","also_read":true}"#,
        Code::Inapplicable,
        "`open_read` has no \"also_read\"",
    );
    refused(
        r#"{"operation":"open_write","path":"/a","also_read":1}"#,
        Code::WrongType,
        "expected true or false",
    );
    refused(r#"{"operation":"rename","path":"/a"}"#, Code::MissingField, "needs the field \"path2\"");
    refused(r#"{"operation":"connect","addr":"x","port":1}"#, Code::BadAddress, "bad IP address \"x\"");
    refused(r#"{"operation":"connect","addr":"1.2.3.4"}"#, Code::MissingField, "needs the field \"port\"");
    refused(r#"{"operation":"connect","port":1}"#, Code::MissingField, "needs the field \"addr\"");
    refused(
        r#"{"operation":"connect","addr":"1.2.3.4","port":1,"family":"inet6"}"#,
        Code::BadValue,
        "of another family",
    );
    refused(r#"{"operation":"socket"}"#, Code::MissingField, "needs the field \"family\"");
    refused(r#"{"operation":"connect","addr":"1.2.3.4","port":65536}"#, Code::BadValue, "from 0 to 65535");
    refused(
        r#"{"operation":"open_read","path":"/a","uid":-1}"#,
        Code::BadValue,
        "a user id is a number from 0",
    );
    refused(
        r#"{"operation":"open_read","path":"/a","colour":1}"#,
        Code::UnknownField,
        "unknown field \"colour\"",
    );
    refused("", Code::Syntax, "empty");
    refused("{", Code::Syntax, "not YAML");
    assert!(Context::from_json(b"{}").is_ok());
    assert_eq!(Context::from_json(br#"{"intent":{}}"#).unwrap_err()[0].code, Code::NotSupportedYet);
    assert_eq!(Context::from_json(br#"{"lables":[]}"#).unwrap_err()[0].code, Code::UnknownField);
}

fn policy(rules: &str) -> Policy {
    let text = format!(
        "apiVersion: aarm.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: p, version: \"1\"}}\nspec:\n  rules:\n{rules}"
    );
    Policy::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{text}\n{e:#?}"))
}

/// Decides by evaluator and by table, which must agree; returns decision, rule, facet and end.
fn decide(policy: &Policy, action: &Action) -> (Decision, Option<String>, Operation, End) {
    let env = Env::for_tests();
    let e = eval(policy, &env, action, &Context::default());
    let compiled = compile(policy, &env, 1).unwrap();
    let v = table::decide(&compiled.table, action, &TableContext::default());
    let rule = v.rule.map(|i| compiled.rules[i as usize].id.clone());
    assert_eq!((v.decision, &rule, v.facet), (e.decision, &e.rule, e.facet.operation));
    (e.decision, e.rule, e.facet.operation, e.facet.end)
}

#[test]
fn an_action_is_refused_if_any_facet_is() {
    let p = policy(
        "    - {id: no-read, match: {operation: open_read, path: \"/secret/**\"}, decision: DENY}
    - {id: no-write, match: {operation: open_write, path: \"/fixed/**\"}, decision: DENY}
    - {id: no-rename, match: {operation: rename, path: \"/here/**\"}, decision: DENY}
    - {id: fine, match: {operation: rename, path: \"/tmp/**\"}, decision: ALLOW}
",
    );
    let two = |op: Operation, from: &str, to: &str| Action {
        path: Some(from.into()),
        path2: Some(to.into()),
        ..Action::new(op)
    };
    let open = |also_read| Action { also_read, ..Action::on_path(Operation::OpenWrite, "/secret/a") };
    use Operation::{Link, OpenRead, OpenWrite, Rename};
    let deny = |rule: &str, facet, end| (Decision::Deny, Some(rule.to_owned()), facet, end);
    assert_eq!(decide(&p, &open(true)), deny("no-read", OpenRead, End::Source));
    assert_eq!(decide(&p, &open(false)).0, Decision::Allow);
    assert_eq!(decide(&p, &two(Rename, "/secret/a", "/b")), deny("no-read", OpenRead, End::Source));
    assert_eq!(decide(&p, &two(Rename, "/fixed/a", "/b")), deny("no-write", OpenWrite, End::Source));
    assert_eq!(decide(&p, &two(Rename, "/a", "/fixed/b")), deny("no-write", OpenWrite, End::Target));
    assert_eq!(decide(&p, &two(Rename, "/a", "/here/b")), deny("no-rename", Rename, End::Target));
    assert_eq!(decide(&p, &two(Link, "/secret/a", "/b")), deny("no-read", OpenRead, End::Source));
    assert_eq!(decide(&p, &two(Link, "/a", "/here/b")).0, Decision::Allow);
    // Of a target nothing is read, unless it is exchanged.
    assert_eq!(decide(&p, &two(Rename, "/a", "/secret/b")).0, Decision::Allow);
    let exchange = Action { exchange: true, ..two(Rename, "/a", "/secret/b") };
    assert_eq!(decide(&p, &exchange), deny("no-read", OpenRead, End::Target));
    // The first refusal in the order of facets; without one the first facet's winner.
    assert_eq!(decide(&p, &two(Rename, "/fixed/a", "/here/b")), deny("no-write", OpenWrite, End::Source));
    assert_eq!(
        decide(&p, &two(Rename, "/tmp/a", "/b")),
        (Decision::Allow, Some("fine".into()), Rename, End::Source)
    );
}

#[test]
fn an_open_for_reading_that_truncates_is_refused_as_truncate() {
    let p = policy("    - {id: fixed, match: {operation: truncate, path: \"/fixed/**\"}, decision: DENY}\n");
    let open = |truncates| Action { truncates, ..Action::on_path(Operation::OpenRead, "/fixed/a") };
    assert_eq!(
        decide(&p, &open(true)),
        (Decision::Deny, Some("fixed".into()), Operation::Truncate, End::Source)
    );
    assert_eq!(decide(&p, &open(false)).0, Decision::Allow);
    assert!(read(r#"{"operation":"open_read","path":"/a","truncates":true}"#).truncates);
}

#[test]
fn a_target_is_refused_under_any_of_its_names() {
    let p = policy("    - {id: fixed, match: {operation: write, path: \"/fixed/**\"}, decision: DENY}\n");
    let to = read(r#"{"operation":"rename","path":"/a","path2":"/mnt/b","names2":["/fixed/b"]}"#);
    assert_eq!(decide(&p, &to), (Decision::Deny, Some("fixed".into()), Operation::Rename, End::Target));
    assert_eq!(decide(&p, &Action { names2: Vec::new(), ..to }).0, Decision::Allow);
    refused(r#"{"operation":"unlink","path":"/a","names2":[]}"#, Code::Inapplicable, "has no \"names2\"");
}

#[test]
fn exe_is_the_program_that_would_run() {
    let p = policy(
        "    - {id: no-nc, match: {operation: exec, exe: \"**/nc\"}, decision: DENY}
    - {id: not-from-nc, match: {operation: open_read, exe: \"**/nc\"}, decision: DENY}
",
    );
    let by = |exe: &str, action: Action| Action { exe: Some(exe.into()), ..action };
    let exec = |path: &str| Action::on_path(Operation::Exec, path);
    assert_eq!(decide(&p, &by("/bin/sh", exec("/bin/nc"))).0, Decision::Deny);
    assert_eq!(decide(&p, &by("/bin/nc", exec("/bin/sh"))).0, Decision::Allow);
    assert_eq!(decide(&p, &by("/bin/sh", Action::on_path(Operation::MmapExec, "/bin/nc"))).0, Decision::Deny);
    assert_eq!(decide(&p, &by("/bin/nc", Action::on_path(Operation::OpenRead, "/a"))).0, Decision::Deny);
    assert_eq!(decide(&p, &Action::on_path(Operation::OpenRead, "/a")).0, Decision::Allow);
}

#[test]
fn what_has_no_address_is_in_no_network() {
    let p = policy(
        "    - {id: near, match: {operation: connect, cidr: [\"0.0.0.0/0\", \"::/0\"]}, decision: ALLOW}
    - {id: low, match: {operation: connect, port: 0-65535}, decision: ALLOW}
    - {id: far, match: {operation: connect, not_cidr: [\"0.0.0.0/0\", \"::/0\"], not_port: 0-65535}, decision: ALLOW}
",
    );
    let vsock = Action { family: 40, ..Action::new(Operation::Connect) };
    assert_eq!(decide(&p, &vsock).1.as_deref(), Some("far"));
    let v6 = Action::on_address(Operation::Connect, "fd00::1".parse().unwrap(), 0, 6);
    assert_eq!(decide(&p, &v6).1.as_deref(), Some("near"));
}

#[test]
fn the_explanation_says_why() {
    let p = policy(
        "    - {id: a, match: {operation: read, path: /x}, decision: DENY}
    - {id: b, match: {operation: read, uid: 0}, decision: DENY}
    - {id: c, match: {operation: write}, decision: DENY}
    - {id: d, match: {operation: read, not_path: /y}, decision: DENY, reason: Because.}
",
    );
    let e = eval(&p, &Env::default(), &Action::on_path(Operation::OpenRead, "/a"), &Context::default());
    assert_eq!((e.cause, e.rule.as_deref(), e.enforced), (Cause::Rule, Some("d"), true));
    let considered: Vec<(&str, Option<&str>)> =
        e.considered.iter().map(|c| (c.rule.as_str(), c.failed)).collect();
    assert_eq!(considered, [("a", Some("path")), ("b", Some("uid")), ("d", None)]);
    assert_eq!(e.to_string(), "DENY by rule d, as open_read: Because.");
    let json = serde_json::to_value(&e).unwrap();
    assert_eq!(json["decision"], "DENY");
    assert_eq!(json["operation"], "open_read");
    assert_eq!(json["considered"][0]["failed"], "path");
    let e = eval(&p, &Env::default(), &Action::on_path(Operation::OpenRead, "/y"), &Context::default());
    assert_eq!((e.cause, e.rule), (Cause::Default, None));
}
