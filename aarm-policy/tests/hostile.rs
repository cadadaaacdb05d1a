//! Hostile input to everything that reads text: no panic, and an answer soon.

use aarm_policy::{Action, Context, Env, Glob, Policy, compile};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};
use std::time::{Duration, Instant};

proptest! {
    #![proptest_config(Config { failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))), ..Config::default() })]

    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Policy::parse(&bytes);
        let _ = Action::from_json(&bytes);
        let _ = Context::from_json(&bytes);
    }

    #[test]
    fn arbitrary_yaml(text in "([a-z]{1,3}|[-:?\\[\\]{},#&*!|>'\"%@`~\\\\ \n\t0-9é]){0,60}") {
        let _ = Policy::parse(text.as_bytes());
        let _ = Action::from_json(text.as_bytes());
    }

    #[test]
    fn arbitrary_globs(text in "[/~*?{},!\\[\\]\\\\^ab.é-]{0,40}") {
        if let Ok(glob) = Glob::parse(&text) {
            prop_assert_eq!(glob.as_str(), text);
            prop_assert!(!glob.patterns().is_empty());
        }
    }

    #[test]
    fn arbitrary_words_in_every_field(word in "\\PC{0,12}") {
        let word = serde_json::to_string(&word).unwrap();
        let text = format!(
            "{{apiVersion: {word}, kind: {word}, metadata: {{name: {word}, version: {word}}}, spec: {{mode: {word}, \
             data: [{{label: {word}, level: {word}, on: {{read: {word}, receive: {{cidr: {word}}}}}}}], record: {{{word}: {word}}}, \
             agents: [{{exe: {word}, uid: {word}, cgroup: {word}}}], defaults: {{exec: {word}, {word}: DENY}}, \
             rules: [{{id: {word}, decision: {word}, classification: {word}, priority: {word}, reason: {word}, \
             when: {{labels: {{any: {word}}}, level: {{at_most: {word}}}, elapsed: {{over: {word}}}, \
             prior: {{operation: {word}, rule: {word}, within: {word}}}, rate: {{operation: {word}, over: {word}, per: {word}}}}}, \
             match: {{operation: {word}, path: {word}, cidr: {word}, port: {word}, uid: {word}, protocol: {word}, \
             family: {word}, type: {word}}}}}]}}, tests: [{{name: {word}, do: {{{word}: {word}}}, given: [{word}], \
             expect: {{decision: {word}, rule: {word}}}}}]}}"
        );
        let errors = Policy::parse(text.as_bytes()).unwrap_err();
        let placed = errors.iter().all(|e| e.line == 1 && e.column >= 1 && !e.message.contains(char::is_control));
        prop_assert!(placed);
    }
}

/// Documents of the largest size, made to cost as much as they can.
#[test]
fn large_documents_end_soon() {
    let size = 1 << 20;
    let repeat = |text: &str| text.repeat(size / text.len()).into_bytes();
    let numbered = |line: fn(usize) -> String, head: &str| {
        let mut text = head.to_owned();
        for i in 0.. {
            let next = line(i);
            if text.len() + next.len() > size {
                break;
            }
            text.push_str(&next);
        }
        text.into_bytes()
    };
    let head = "apiVersion: aarm.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {name: p, version: \"1\"}\nspec:\n  rules:\n";
    let same_list = format!("[{}]", (0..500).map(|i| format!("/{i}")).collect::<Vec<_>>().join(","));
    let mut conditions = head.to_owned();
    for i in 0..512 {
        let priors: Vec<String> = (0..16)
            .map(|k| format!("{{operation: [connect, bind], count: {}, within: {}s}}", k + 1, i + 1))
            .collect();
        conditions.push_str(&format!(
            "    - {{id: r{i}, match: {{operation: read}}, when: {{prior: [{}]}}, decision: DENY}}\n",
            priors.join(",")
        ));
    }
    let mut shadow = head.to_owned();
    for i in 0..400 {
        shadow.push_str(&format!(
            "    - {{id: r{i}, match: {{operation: read, path: {same_list}, exe: /x{i}}}, decision: DENY}}\n"
        ));
        if shadow.len() > size - 4000 {
            break;
        }
    }
    for (name, text) in [
        ("brackets", repeat("[")),
        ("flow pairs", repeat("a: {")),
        ("dashes", repeat("- ")),
        ("question marks", repeat("? ")),
        ("quotes", repeat("'")),
        ("one long key", repeat("a")),
        ("colons", repeat("a:\n")),
        ("comments", repeat("# x\n")),
        ("tabs", repeat("\t")),
        ("documents", repeat("---\n")),
        ("unknown keys", numbered(|i| format!("k{i}: 1\n"), "")),
        ("one list", numbered(|i| format!("- {i}\n"), "")),
        (
            "rules",
            numbered(|i| format!("    - {{id: r{i}, match: {{operation: read}}, decision: DENY}}\n"), head),
        ),
        (
            "braces",
            format!(
                "{head}    - {{id: a, match: {{operation: read, path: \"/{}\"}}, decision: DENY}}",
                "{a,b}".repeat(200)
            )
            .into_bytes(),
        ),
        ("shadowed rules", shadow.into_bytes()),
        ("conditions", conditions.into_bytes()),
    ] {
        let start = Instant::now();
        if let Ok(policy) = Policy::parse(&text[..text.len().min(size)]) {
            let _ = compile(&policy, &Env::default(), 1).map(|c| c.report);
        }
        let took = start.elapsed();
        println!("{name}: {took:?}");
        assert!(took < Duration::from_secs(20), "{name} took {took:?}");
    }
}
