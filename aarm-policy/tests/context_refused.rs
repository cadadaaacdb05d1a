//! What is wrong in `when`, `data`, `record` and contexts, and what is said about it.

mod sessions;

use aarm_policy::{Code, Context, Policy, Span};
use sessions::{DATA, HEAD};

#[track_caller]
fn refused(text: &str, code: Code, shown: &str) {
    let all = Policy::parse(text.as_bytes()).expect_err(text);
    let lines: Vec<String> = all.iter().map(ToString::to_string).collect();
    assert!(lines.len() == 1 && lines[0].contains(shown) && all[0].code == code, "{lines:#?}");
}

#[test]
fn what_is_wrong_in_when_is_said() {
    let with = |when: &str, more: &str| {
        format!(
            "{HEAD}{DATA}  rules:\n    - {{id: r, match: {{operation: connect}}, when: {when}, decision: DENY{more}}}"
        )
    };
    for (when, code, shown) in [
        ("{}", Code::MissingField, "a `when` that asks for nothing (give at least one of labels"),
        ("{labels: {}}", Code::MissingField, "`labels` that asks for nothing"),
        (
            "{labels: {any: [SECERT]}}",
            Code::BadValue,
            "11:66: error: no entry of `data` declares the label \"SECERT\" (did you mean \"SECRET\"?)",
        ),
        ("{labels: {any: []}}", Code::BadValue, "an empty list of labels can never match"),
        ("{labels: [SECRET]}", Code::WrongType, "expected `labels`, a mapping"),
        ("{label: {any: [SECRET]}}", Code::UnknownField, "(did you mean \"labels\"?)"),
        (
            "{level: {at_least: SECRET}}",
            Code::BadValue,
            "\"SECRET\" is no level (there are PUBLIC, INTERNAL, CONFIDENTIAL, RESTRICTED)",
        ),
        ("{level: {atleast: PUBLIC}}", Code::UnknownField, "(did you mean \"at_least\"?)"),
        ("{prior: {count: 2}}", Code::MissingField, "`prior` needs to know what is counted"),
        ("{prior: {rule: s}}", Code::BadValue, "there is no rule \"s\" (did you mean \"r\"?)"),
        ("{prior: {operation: conect}}", Code::BadValue, "(did you mean \"connect\"?)"),
        ("{prior: {operation: connect, count: 0}}", Code::BadValue, "a count is a number from 1"),
        (
            "{prior: {operation: connect, count: 65, within: 1s}}",
            Code::BadValue,
            "a count with \"within\" is a number from 1 to 64, not 65",
        ),
        (
            "{prior: {operation: connect, within: 10}}",
            Code::BadValue,
            "bad time \"10\" (write a number and a unit",
        ),
        ("{prior: {operation: connect, within: 0s}}", Code::BadValue, "a time of 0"),
        ("{prior: []}", Code::BadValue, "an empty list of conditions"),
        (
            "{rate: {operation: connect, over: 100, per: 1m}}",
            Code::BadValue,
            "\"over\" is a number from 1 to 64, not 100",
        ),
        ("{rate: {operation: connect, over: 1}}", Code::MissingField, "needs the field \"per\""),
        ("{elapsed: {over: 400d}}", Code::BadValue, "at most 366d"),
        ("{elapsed: {}}", Code::MissingField, "`elapsed` that asks for nothing"),
        ("{unknown: deny, elapsed: {over: 1m}}", Code::NotSupportedYet, "`unknown` in `when`"),
    ] {
        refused(&with(when, ""), code, shown);
    }
    let many = vec!["{operation: connect}"; 17].join(",");
    refused(&with(&format!("{{prior: [{many}]}}"), ""), Code::TooMany, "a list of 17 conditions; at most 16");
    refused(
        &with("{elapsed: {over: 1m}}", ", classification: static"),
        Code::BadValue,
        "a static rule does not depend on the context",
    );
    refused(
        &with("{elapsed: {over: 1m}}", ", classification: forbidden"),
        Code::BadValue,
        "a forbidden rule does not depend on the context (leave out \"when\"",
    );
    refused(
        &with("{elapsed: {over: 1m}}", ", classification: context_dependent_allow"),
        Code::BadValue,
        "a context_dependent_allow rule can only be ALLOW",
    );
    refused(
        &format!(
            "{HEAD}  rules:\n    - {{id: r, match: {{operation: read}}, decision: DENY, classification: context_dependent_deny}}"
        ),
        Code::MissingField,
        "a context_dependent_deny rule needs the field \"when\" (without one it is static)",
    );
}

#[test]
fn what_is_wrong_in_data_and_record_is_said() {
    let data = |entry: &str| format!("{HEAD}  data:\n    - {{{entry}}}");
    for (text, code, shown) in [
        (
            data("level: PUBLIC, on: {read: /a}"),
            Code::MissingField,
            "an entry of `data` needs the field \"label\"",
        ),
        (data("label: A, on: {read: /a}"), Code::MissingField, "needs the field \"level\""),
        (data("label: A, level: PUBLIC"), Code::MissingField, "needs the field \"on\""),
        (data("label: A, level: PUBLIC, on: {}"), Code::MissingField, "an entry that nothing adds"),
        (data("label: \"A B\", level: PUBLIC, on: {read: /a}"), Code::BadValue, "bad label \"A B\""),
        (data("label: A, level: public, on: {read: /a}"), Code::BadValue, "(did you mean \"PUBLIC\"?)"),
        (data("label: A, level: PUBLIC, on: {read: a}"), Code::BadGlob, "write `**/a`"),
        (data("label: A, level: PUBLIC, on: {reed: /a}"), Code::UnknownField, "(did you mean \"read\"?)"),
        (data("label: A, level: PUBLIC, on: {receive: {port: 99999}}"), Code::BadValue, "bad port"),
        (
            data("label: A, level: PUBLIC, on: {receive: {path: /a}}"),
            Code::UnknownField,
            "unknown field \"path\"",
        ),
        (
            format!(
                "{}\n    - {{label: A, level: INTERNAL, on: {{read: /b}}}}",
                data("label: A, level: PUBLIC, on: {read: /a}")
            ),
            Code::BadValue,
            "7:7: error: the label \"A\" is PUBLIC at line 6 and INTERNAL here (a label has one level)",
        ),
        (format!("{HEAD}  record: {{raed: summary}}"), Code::BadValue, "(did you mean \"read\"?)"),
        (format!("{HEAD}  record: {{read: sumary}}"), Code::BadValue, "(did you mean \"summary\"?)"),
        (format!("{HEAD}  record: {{read: none}}"), Code::BadValue, "every action leaves something"),
        (format!("{HEAD}  record: [read]"), Code::WrongType, "expected `record`"),
    ] {
        refused(&text, code, shown);
    }
    // A label of an entry with errors is declared all the same.
    let text = format!(
        "{}\n  rules:\n    - {{id: r, match: {{operation: read}}, when: {{labels: {{any: [A]}}}}, decision: DENY}}",
        data("label: A, level: PUBLIC, on: {read: a}")
    );
    refused(&text, Code::BadGlob, "bad glob");
    let entries = |n: usize| -> String {
        let list: Vec<String> = (0..n)
            .map(|i| format!("    - {{label: L{i}, level: PUBLIC, on: {{read: /{i}, write: /{i}}}}}\n"))
            .collect();
        format!("{HEAD}  data:\n{}", list.concat())
    };
    assert!(Policy::parse(entries(32).as_bytes()).is_ok());
    refused(&entries(33), Code::TooMany, "38:7: error: with this entry `data` has more than 64");
}

#[test]
fn contexts_are_read_strictly() {
    let p = Policy::parse(format!("{HEAD}{DATA}").as_bytes()).unwrap();
    for (json, code, shown) in [
        (r#"{"labels":["SECERT"]}"#, Code::BadValue, "(did you mean \"SECRET\"?)"),
        (r#"{"labels":"SECRET"}"#, Code::WrongType, "expected labels, a list"),
        (r#"{"lables":[]}"#, Code::UnknownField, "(did you mean \"labels\"?)"),
        (r#"{"elapsed":5}"#, Code::BadValue, "bad time \"5\""),
        (r#"{"history":[{"rule":null}]}"#, Code::MissingField, "needs the field \"operation\""),
        (r#"{"history":[{"operation":"bind","rule":"x"}]}"#, Code::BadValue, "there is no rule \"x\""),
        (
            r#"{"history":[{"operation":"bind","seconds_ago":-1}]}"#,
            Code::BadValue,
            "seconds is a number from 0",
        ),
        (r#"{"history":[{"operation":"bind","ago":"1s","seconds_ago":1}]}"#, Code::BadValue, "give one"),
        (
            r#"{"elapsed":"1s","history":[{"operation":"bind","ago":"2s"}]}"#,
            Code::BadValue,
            "began 1s ago, but acted 2s ago",
        ),
        (r#"{"drift":1}"#, Code::NotSupportedYet, "`drift`"),
    ] {
        let all = Context::for_policy(json.as_bytes(), &p).expect_err(json);
        assert!(
            all.len() == 1 && all[0].code == code && all[0].to_string().contains(shown),
            "{json}: {all:#?}"
        );
    }
    // Without a policy, names are taken as they are.
    let c = Context::from_json(
        br#"{"labels":["X"],"elapsed":"5m","history":[{"operation":"connect","rule":null,"seconds_ago":3}]}"#,
    );
    let c = c.unwrap();
    assert_eq!(
        (c.labels.len(), c.elapsed, c.history[0].ago),
        (1, Span(300_000_000_000), Span(3_000_000_000))
    );
    let many = format!("{{\"history\":[{}]}}", vec!["{\"operation\":\"bind\"}"; 4097].join(","));
    assert_eq!(Context::from_json(many.as_bytes()).unwrap_err()[0].code, Code::TooMany);
}
