//! Every policy in `policies/`: it has no warnings, compiles with room to spare, and its tests pass.

use aarm_policy::{Code, Env, Policy, compile, run_tests};
use std::fs;
use std::path::{Path, PathBuf};

fn shipped() -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let mut found: Vec<(PathBuf, Vec<u8>)> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .map(|path| (path.clone(), fs::read(&path).unwrap()))
        .collect();
    found.sort();
    assert!(found.len() >= 2, "no policies in {}", dir.display());
    found
}

fn parse(file: &Path, text: &[u8]) -> Policy {
    let name = file.display().to_string();
    Policy::parse(text).unwrap_or_else(|errors| {
        let lines: Vec<String> = errors.iter().map(|e| e.in_file(&name).to_string()).collect();
        panic!("{}", lines.join("\n"))
    })
}

#[test]
fn tests_pass_and_nothing_is_warned_about() {
    for (file, text) in shipped() {
        let policy = parse(&file, &text);
        assert_eq!(file.file_stem().unwrap().to_str(), Some(policy.name()), "file and policy have one name");
        assert_eq!(policy.warnings(), [], "{}", file.display());
        assert!(!policy.tests().is_empty(), "{} has no tests", file.display());
        let results = run_tests(&policy, &Env::for_tests()).unwrap();
        let failed: Vec<String> = results
            .iter()
            .filter(|r| !r.passed)
            .map(|r| format!("{}:{}: {}: {:?}", file.display(), r.line, r.name, r.message))
            .collect();
        assert!(failed.is_empty(), "{}", failed.join("\n"));
    }
}

/// Each rule of a shipped policy decides at least one of its tests, or the tests would not notice its loss.
#[test]
fn every_refusing_rule_has_a_test() {
    for (file, text) in shipped() {
        let policy = parse(&file, &text);
        for rule in policy.rules().iter().filter(|r| r.decision == aarm_common::Decision::Deny) {
            let tested = policy.tests().iter().any(|t| t.expect.rule.as_deref() == Some(&rule.id));
            assert!(tested, "{}: no test for rule {}", file.display(), rule.id);
        }
    }
}

#[test]
fn a_host_with_many_homes_has_room() {
    // Debian's system users and fifty people.
    let passwd: String = ["root:x:0:0::/root:", "www:x:33:33::/var/www:", "man:x:6:12::/var/cache/man:"]
        .iter()
        .map(|line| format!("{line}/bin/sh\n"))
        .chain((0..50).map(|i| format!("u{i}:x:{}:100::/home/person-{i}:/bin/sh\n", 1000 + i)))
        .chain((0..25).map(|i| format!("s{i}:x:{}:100::/var/lib/service{i}:/bin/false\n", 100 + i)))
        .collect();
    for (file, text) in shipped() {
        let compiled = compile(&parse(&file, &text), &Env::from_passwd(passwd.as_bytes()), 1).unwrap();
        let report = compiled.report;
        println!("{}: {report}", file.display());
        for (name, u) in [("states", report.states), ("cells", report.cells), ("hits", report.hits)] {
            assert!(u.used * 4 <= u.limit * 3, "{}: {name} {u:?}", file.display());
        }
    }
}

/// Mutations of real documents: the parser says what is wrong and never panics.
#[test]
fn mutated_policies_do_not_panic() {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};
    let files = shipped();
    let mutation = (
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        "\\PC{0,3}|[ \n:{}\\[\\],&*!|>'\"#%@`~?-]{0,4}",
    );
    let mut runner = TestRunner::new(Config {
        cases: 300,
        source_file: Some(file!()),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..Config::default()
    });
    runner
        .run(&(0..files.len(), prop::collection::vec(mutation, 1..5)), |(file, mutations)| {
            let mut text = files[file].1.clone();
            for (at, len, of, put) in mutations {
                let at = at.index(text.len());
                let end = (at + len.index(8)).min(text.len());
                // Either foreign text, or a piece of the document itself.
                let piece = if put.is_empty() {
                    text[of.index(text.len())..].iter().take(40).copied().collect()
                } else {
                    put.into_bytes()
                };
                text.splice(at..end, piece);
            }
            if let Err(errors) = Policy::parse(&text) {
                prop_assert!(!errors.is_empty() && errors.iter().all(|e| e.line >= 1 && e.column >= 1));
                prop_assert!(errors.iter().all(|e| e.code != Code::TooCostly));
            }
            Ok(())
        })
        .unwrap();
}
