//! What parsing, compiling and deciding cost: `cargo bench -p aarm-policy`.
//!
//! Prints the median of several runs for policies of several sizes. The target for 512 rules is under 100 ms
//! to compile.

use aarm_common::Operation;
use aarm_policy::table::TableContext;
use aarm_policy::{Action, Context, Env, Policy, compile, eval, table};
use std::fmt::Write;
use std::hint::black_box;
use std::time::{Duration, Instant};

fn header() -> String {
    "apiVersion: aarm.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {name: bench, version: \"1\"}\nspec:\n  rules:\n".into()
}

/// Rules about paths, addresses and users, as a policy of that size has them.
fn ordinary(rules: usize) -> String {
    let mut text = header();
    for i in 0..rules {
        let m = match i % 4 {
            0 => format!("operation: read, path: \"**/secret-{i:x}/**\""),
            1 => format!("operation: connect, cidr: \"10.{}.{}.0/24\", port: {}", i / 250, i % 250, 1000 + i),
            2 => format!("operation: write, path: [\"**/s{i:x}\", \"**/*.{i:x}\"]"),
            _ => format!("operation: exec, exe: \"**/t{i:x}\", uid: \"{}-{}\"", i % 50, i % 50 + 100),
        };
        let _ = writeln!(text, "    - {{ id: r{i}, match: {{ {m} }}, decision: DENY }}");
    }
    text
}

/// The same with what sessions bring: data, conditions, priorities that tie, globs in home directories.
fn contextual(rules: usize) -> String {
    let mut data = String::from("spec:\n  record: {read: summary}\n  data:\n");
    for i in 0..60 {
        let _ = writeln!(
            data,
            "    - {{label: L{i}, level: INTERNAL, on: {{read: [\"/var/d{i:x}/**\", \"**/*.e{i:x}\"]}}}}"
        );
    }
    let mut text = header().replace("spec:\n", &data);
    for i in 0..rules {
        let m = match i % 3 {
            // A glob in a home directory costs the states of all homes, for each name before it.
            0 if i < 150 => format!("operation: [read, write], path: \"~/.x{i:x}/**\""),
            0 => format!("operation: [read, write], path: \"/opt/x{i:x}/**\""),
            1 => format!("operation: connect, cidr: \"10.{}.{}.0/24\"", i / 250, i % 250),
            _ => format!("operation: write, path: [\"/srv/s{i:x}/t/*\", \"**/u/v{i:x}\"]"),
        };
        let more = match i % 4 {
            0 => format!("when: {{labels: {{any: [L{}]}}}}, decision: DENY", i % 60),
            1 => format!("when: {{prior: {{operation: unlink, count: {}}}}}, decision: ALLOW", i % 15 + 1),
            2 => "priority: 5, decision: ALLOW".to_owned(),
            _ => "priority: 5, decision: DENY".to_owned(),
        };
        let _ = writeln!(text, "    - {{ id: r{i}, match: {{ {m} }}, {more} }}");
    }
    text
}

/// Globs that remember what they met, so that their automaton explodes.
fn hostile(rules: usize) -> String {
    let mut text = header();
    for i in 0..rules {
        let _ = writeln!(
            text,
            "    - {{ id: r{i}, match: {{ operation: read, path: [\"/a{i}/**/b{i}*/**/*c{i}*d*/**\"] }}, decision: DENY }}"
        );
    }
    text
}

fn median(runs: usize, mut f: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            f();
            start.elapsed()
        })
        .collect();
    times.sort();
    times[runs / 2]
}

fn main() {
    let env = Env::new((0..20).map(|i| format!("/home/user{i}").into_bytes()));
    let shipped = include_str!("../../policies/coding-agent.yaml").to_owned();
    println!("{:<16} {:>10} {:>12} {:>12} {:>12}  fit", "policy", "parse", "compile", "table", "evaluator");
    for (name, text) in [
        ("coding-agent", shipped),
        ("1 rule", ordinary(1)),
        ("20 rules", ordinary(20)),
        ("512 rules", ordinary(512)),
        ("512, contextual", contextual(512)),
        ("hostile, 8", hostile(8)),
        ("hostile, 512", hostile(512)),
    ] {
        let parse = median(9, || drop(black_box(Policy::parse(text.as_bytes()))));
        let policy = Policy::parse(text.as_bytes()).expect("valid");
        let build = median(5, || drop(black_box(compile(&policy, &env, 1))));
        let action = Action::on_path(Operation::OpenRead, "/home/user7/project/src/module/file.rs");
        let (by_table, fit) = match compile(&policy, &env, 1) {
            Ok(compiled) => {
                let many = median(9, || {
                    (0..1000).for_each(|_| {
                        black_box(table::decide(
                            black_box(&compiled.table),
                            &action,
                            &TableContext::default(),
                        ));
                    });
                });
                (format!("{:.2?}", many / 1000), compiled.report.to_string())
            }
            Err(errors) => ("-".into(), errors[0].to_string()),
        };
        let by_eval = median(9, || drop(black_box(eval(&policy, &env, &action, &Context::default()))));
        println!("{name:<16} {parse:>10.2?} {build:>12.2?} {by_table:>12} {by_eval:>12.2?}  {fit}");
    }
}
