//! The compiled table against the reference evaluator, on random policies and random actions.

use aarm_common::{Decision, Operation};
use aarm_policy::table::TableContext;
use aarm_policy::{Action, Cause, Code, Context, Env, Past, Policy, Span, compile, eval, table};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One component of a glob. Few letters, so that globs and paths meet. `deep`: with `**` among them, of which
/// few already make an automaton explode.
fn component(deep: bool) -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "[ab]{1,3}",
        if deep { 2 } else { 0 } => Just("**".to_owned()),
        1 => Just("*".to_owned()),
        2 => "[ab?]{0,2}\\*?[ab?.]{1,2}",
        1 => "[ab]?\\[(!)?a-b\\.?\\][ab*]?",
        1 => "\\{[ab],[ab*]{1,2}x?\\}[ab]?",
        1 => Just("é\\*".to_owned()),
    ]
    .prop_map(|c| if c != "**" && c.contains("**") { c.replace("**", "*") } else { c })
    .prop_filter("not a special name", |c| c != "." && c != "..")
}

fn glob(deep: bool) -> impl Strategy<Value = String> {
    (
        prop_oneof![4 => Just("/"), 3 => Just("**/"), 2 => Just("~/")],
        prop::collection::vec(component(deep), 1..5),
        any::<bool>(),
    )
        .prop_map(|(start, parts, all_below)| {
            let tail = if all_below { "/**" } else { "" };
            format!("{start}{}{tail}", parts.join("/"))
        })
}

fn globs(deep: bool) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(
        prop_oneof![20 => glob(deep), 1 => Just("/".to_owned()), 1 => Just("**".to_owned()), 1 => Just("~".to_owned())],
        1..4,
    )
}

fn v4_net() -> impl Strategy<Value = String> {
    (any::<[u8; 2]>(), 0..=32u8).prop_map(|([a, b], bits)| {
        let addr = u32::from_be_bytes([10 + a % 2, b % 4, 0, a]);
        let addr = if bits == 0 { 0 } else { addr >> (32 - bits) << (32 - bits) };
        format!("{}/{bits}", Ipv4Addr::from(addr))
    })
}

fn v6_net() -> impl Strategy<Value = String> {
    prop_oneof![
        (any::<u8>(), 0..=128u8).prop_map(|(a, bits)| {
            let addr = 0xfd00_u128 << 112 | (a as u128 % 4) << 64 | a as u128;
            let addr = if bits == 0 { 0 } else { addr >> (128 - bits) << (128 - bits) };
            format!("{}/{bits}", Ipv6Addr::from(addr))
        }),
        Just("::ffff:10.0.0.0/104".to_owned()),
        Just("::1".to_owned()),
    ]
}

fn nets() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(prop_oneof![v4_net(), v6_net()], 1..4)
}

fn range(max: u64) -> impl Strategy<Value = String> {
    let small = 0..12u64;
    let edge = max - 3..=max;
    let value = prop_oneof![small, edge];
    (value.clone(), value, any::<bool>())
        .prop_map(|(a, b, one)| if one { a.to_string() } else { format!("{}-{}", a.min(b), a.max(b)) })
}

fn ranges(max: u64) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(range(max), 1..3)
}

fn words(all: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(prop::sample::select(all).prop_map(str::to_owned), 1..3)
}

fn maybe<T: std::fmt::Debug>(s: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    prop::option::weighted(0.3, s)
}

/// `field: [items]` for those that are there.
fn flow(fields: Vec<(&str, Option<Vec<String>>)>) -> String {
    let mut out = String::new();
    for (name, values) in fields {
        if let Some(values) = values {
            let items: Vec<String> = values.iter().map(|v| serde_json::to_string(v).unwrap()).collect();
            out.push_str(&format!(", {name}: [{}]", items.join(", ")));
        }
    }
    out
}

/// A match about paths, sockets or addresses, each with all predicates that apply to it.
fn matching(deep: bool) -> impl Strategy<Value = String> {
    let subject = move || {
        (maybe(globs(deep)), maybe(globs(deep)), maybe(ranges(4_294_967_294)), maybe(ranges(4_294_967_294)))
    };
    let paths = words(&[
        "exec",
        "read",
        "write",
        "mmap_exec",
        "open_read",
        "open_write",
        "rename",
        "link",
        "unlink",
        "unix_connect",
        "receive_fd",
        "truncate",
        "mount",
        "raw_memory",
        "sysctl_write",
    ]);
    let path = (paths, prop::option::weighted(0.8, globs(deep)), maybe(globs(deep)), subject()).prop_map(
        |(ops, path, not_path, (exe, not_exe, uid, not_uid))| {
            format!(
                "operation: [{}]{}",
                ops.join(", "),
                flow(vec![
                    ("path", path),
                    ("not_path", not_path),
                    ("exe", exe),
                    ("not_exe", not_exe),
                    ("uid", uid),
                    ("not_uid", not_uid),
                ])
            )
        },
    );
    let socket = || {
        (
            maybe(words(&["tcp", "udp", "0", "255"])),
            maybe(words(&["tcp", "udp"])),
            maybe(words(&["inet", "inet6", "vsock", "62"])),
            maybe(words(&["inet", "vsock"])),
            maybe(words(&["stream", "dgram", "14"])),
            maybe(words(&["stream", "raw"])),
        )
    };
    let sockets = |ops: Vec<String>, (p, np, f, nf, t, nt), (exe, _, uid, not_uid), more: String| {
        let mut text = format!(
            "operation: [{}]{}",
            ops.join(", "),
            flow(vec![
                ("protocol", p),
                ("not_protocol", np),
                ("family", f),
                ("not_family", nf),
                ("type", t),
                ("not_type", nt),
            ])
        );
        // Numbers are not quoted.
        for n in ["0", "255", "62", "14"] {
            text = text.replace(&format!("\"{n}\""), n);
        }
        text.push_str(&flow(vec![("exe", exe), ("uid", uid), ("not_uid", not_uid)]));
        text + &more
    };
    let address = (
        words(&["connect", "send", "bind", "accept"]),
        socket(),
        subject(),
        (prop::option::weighted(0.6, nets()), maybe(nets()), maybe(ranges(65535)), maybe(ranges(65535))),
    )
        .prop_map(move |(ops, socket, subject, (cidr, not_cidr, port, not_port))| {
            let more =
                flow(vec![("cidr", cidr), ("not_cidr", not_cidr), ("port", port), ("not_port", not_port)]);
            sockets(ops, socket, subject, more)
        });
    let plain = (words(&["socket"]), socket(), subject())
        .prop_map(move |(ops, socket, subject)| sockets(ops, socket, subject, String::new()));
    let any = (words(&["exec", "read", "write", "network", "process", "privileged"]), subject()).prop_map(
        |(ops, (exe, not_exe, uid, _))| {
            format!(
                "operation: [{}]{}",
                ops.join(", "),
                flow(vec![("exe", exe), ("not_exe", not_exe), ("uid", uid)])
            )
        },
    );
    // Rules that hold for much, so that several hold for one action.
    let broad = (words(&["read", "write", "connect", "rename", "exec"]), maybe(globs(deep)))
        .prop_map(|(ops, exe)| format!("operation: [{}]{}", ops.join(", "), flow(vec![("not_exe", exe)])));
    prop_oneof![5 => path, 3 => address, 1 => plain, 1 => any, 3 => broad]
}

/// Conditions on a session. Of few kinds, so that many rules need no more than the kernel holds.
const WHEN: &[&str] = &[
    "labels: {any: [A, B]}",
    "labels: {all: [A, C]}",
    "labels: {all: [D], none: [B]}",
    "labels: {none: [C, D]}",
    "level: {at_least: CONFIDENTIAL}",
    "level: {at_most: INTERNAL}",
    "level: {at_most: RESTRICTED}",
    "prior: {operation: connect}",
    "prior: {operation: [read, connect], count: 2, within: 1m}",
    "not_prior: {operation: [read, connect], count: 3, within: 1m}",
    "prior: {rule: r0}",
    "prior: [{rule: r0, operation: connect}, {operation: connect, within: 10s}]",
    "rate: {operation: write, over: 3, per: 30s}",
    "not_rate: {operation: write, over: 2, per: 30s}, labels: {any: [A]}",
    "elapsed: {over: 30s}",
    "elapsed: {under: 45s}, level: {at_least: RESTRICTED}",
];

/// What rules ask of who acts. Of few kinds, for the same reason.
const SUBJECT: &[&str] = &[
    "exe: [\"**/a*\"]",
    "not_exe: [\"**/a*\", \"~/**\"]",
    "ancestors: [\"**/ab\", \"/a/**\"]",
    "ancestors: \"~/**\", unknown: deny",
    "not_ancestors: \"**/b*\", unknown: skip",
    "not_ancestors: \"**/b*\"",
    "container: [\"/a/**\", \"**/b\"]",
    "not_container: \"/*\", unknown: skip",
    "container: \"**/ab/**\", unknown: deny",
    "exe: \"**/a*\", ancestors: \"**/b*\", not_container: \"/a/**\", unknown: deny",
    "uid: \"0-7\", not_ancestors: \"**\"",
];

/// An entry of `data` for one of four labels.
fn data_entry(deep: bool) -> impl Strategy<Value = String> {
    let on = prop_oneof![
        3 => globs(deep).prop_map(|g| flow(vec![("read", Some(g))])),
        2 => globs(deep).prop_map(|g| flow(vec![("write", Some(g))])),
        1 => globs(deep).prop_map(|g| flow(vec![("exec", Some(g))])),
        1 => (globs(deep), globs(deep)).prop_map(|(r, x)| flow(vec![("read", Some(r)), ("exec", Some(x))])),
        2 => (maybe(nets()), maybe(nets()), maybe(ranges(65535))).prop_map(|(cidr, not_cidr, port)| {
            let predicates = flow(vec![("cidr", cidr), ("not_cidr", not_cidr), ("port", port)]);
            format!(", receive: {{{}}}", predicates.trim_start_matches(", "))
        }),
    ];
    on.prop_map(|on| format!("on: {{{}}}", on.trim_start_matches(", ")))
}

fn policy(deep: bool, most: usize) -> impl Strategy<Value = String> {
    let when = prop::option::weighted(0.4, prop::sample::select(WHEN));
    let subject = prop::option::weighted(0.3, prop::sample::select(SUBJECT));
    let rule = (matching(deep), any::<bool>(), 0..8u8, when, subject);
    let family = || prop::option::of(prop::sample::select(&["ALLOW", "DENY"][..]));
    let entries = prop::collection::vec(data_entry(deep), if deep { 4..5 } else { 4..8 });
    let record = prop::option::of(prop::sample::select(&["full", "summary"][..]));
    (
        prop::collection::vec(rule, 0..most),
        (family(), family(), family(), family()),
        entries,
        (record.clone(), record.clone(), record),
        (prop_oneof![3 => Just("enforce"), 1 => Just("audit")], prop::bool::weighted(0.3)),
    )
        .prop_map(|(rules, (exec, read, write, network), entries, (all, one, net), (mode, tied))| {
            let mut text = format!(
                "apiVersion: aarm.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: p, version: \"1\"}}\nspec:\n  mode: {mode}\n  defaults: {{",
            );
            for (name, value) in [("exec", exec), ("read", read), ("write", write), ("network", network)] {
                if let Some(value) = value {
                    text.push_str(&format!("{name}: {value}, "));
                }
            }
            text.push_str("}\n  record: {");
            for (name, value) in [("read", all), ("open_read", one), ("network", net)] {
                if let Some(value) = value {
                    text.push_str(&format!("{name}: {value}, "));
                }
            }
            text.push_str("}\n  data:\n");
            let labels =
                [("A", "PUBLIC"), ("B", "INTERNAL"), ("C", "CONFIDENTIAL"), ("D", "RESTRICTED")];
            for (i, on) in entries.iter().enumerate() {
                let (label, level) = labels[i % 4];
                text.push_str(&format!("    - {{label: {label}, level: {level}, {on}}}\n"));
            }
            text.push_str("  rules:\n");
            if rules.is_empty() {
                text.push_str("    []\n");
            }
            for (i, (m, deny, extra, when, subject)) in rules.iter().enumerate() {
                let when = when.filter(|_| *extra != 1);
                let decision = if *deny || *extra == 1 { "DENY" } else { "ALLOW" };
                let more = match extra {
                    // Rules with the same right, which contradict each other.
                    0 | 2..8 if tied => ", priority: 0".to_owned(),
                    1 => ", classification: forbidden".to_owned(),
                    2 => format!(", priority: {}", if i % 2 == 0 { i as i64 + 1 } else { -(i as i64) }),
                    3 => ", priority: 0".to_owned(),
                    4 => ", priority: 3".to_owned(),
                    _ => String::new(),
                };
                let when = when.map_or(String::new(), |when| format!(", when: {{{when}}}"));
                // The user may be asked for once.
                let subject = subject.filter(|s| !s.contains("uid") || !m.contains("uid:"));
                let subject = subject.map_or(String::new(), |subject| format!(", subject: {{{subject}}}"));
                text.push_str(&format!(
                    "    - {{id: r{i}, match: {{{m}}}, decision: {decision}{more}{when}{subject}}}\n"
                ));
            }
            text
        })
}

/// What a session did before.
fn context() -> impl Strategy<Value = Context> {
    use Operation::{Connect, OpenRead, OpenWrite, Signal, Unlink};
    let past = (
        prop::sample::select(&[OpenRead, OpenWrite, Unlink, Connect, Signal][..]),
        prop::option::of(prop::sample::select(&["r0", "r1"][..])),
        any::<bool>(),
        prop::sample::select(&[0u64, 5, 10, 11, 30, 31, 60, 61][..]),
    )
        .prop_map(|(operation, rule, passed, seconds)| Past {
            operation,
            rule: rule.map(str::to_owned),
            passed,
            ago: Span(seconds * 1_000_000_000),
        });
    let labels = prop::sample::subsequence(vec!["A", "B", "C", "D"], 0..=4);
    (labels, 0..90u64, prop::collection::vec(past, 0..8)).prop_map(|(labels, seconds, history)| {
        let mut context = Context::default();
        context.labels.extend(labels.into_iter().map(str::to_owned));
        context.elapsed = Span(seconds * 1_000_000_000);
        context.history = history;
        context
    })
}

fn path() -> impl Strategy<Value = String> {
    prop_oneof![
        10 => ("(/root|/home/u|/h)?", prop::collection::vec("[abx.]{1,3}|a|b|ab|é\\*", 0..6)).prop_map(|(home, parts)| {
            let parts: Vec<String> = parts.into_iter().filter(|p| p != "." && p != "..").collect();
            let path = format!("{home}/{}", parts.join("/"));
            if path.len() > 1 { path.trim_end_matches('/').to_owned() } else { path }
        }),
        1 => Just("@ab".to_owned()),
        1 => Just("/".to_owned()),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let decided: Vec<Operation> = Operation::ALL.iter().copied().filter(|op| op.is_decided()).collect();
    use Operation::{Accept, Connect, Exec, Mount, OpenRead, OpenWrite, ReceiveFd, Rename, Send};
    let common = &[OpenRead, OpenWrite, Rename, Exec, Connect, Send, Accept, ReceiveFd, Mount][..];
    let op = prop_oneof![1 => prop::sample::select(decided), 3 => prop::sample::select(common)];
    let addr = prop_oneof![
        4 => any::<[u8; 2]>().prop_map(|[a, b]| IpAddr::from([10 + a % 3, b % 5, 0, a])),
        1 => any::<[u8; 4]>().prop_map(IpAddr::from),
        3 => any::<u8>().prop_map(|a| IpAddr::from((0xfd00_u128 << 112 | (a as u128 % 5) << 64 | a as u128).to_be_bytes())),
        1 => Just(IpAddr::from(Ipv6Addr::LOCALHOST)),
        1 => Just(IpAddr::from(Ipv4Addr::new(10, 1, 0, 3).to_ipv6_mapped())),
        1 => Just(IpAddr::from([255; 4])),
        1 => Just(IpAddr::from([255; 16])),
    ];
    let number = || prop_oneof![0..14u32, 65530..=65535u32, 4_294_967_290..4_294_967_295u32];
    (
        (op, path(), path(), prop::option::of(path()), number()),
        (prop::option::weighted(0.8, addr), number(), prop::sample::select(&[0u8, 6, 17, 255][..])),
        (
            prop::sample::select(&[0u16, 1, 2, 10, 40, 62, 63, 200][..]),
            prop::sample::select(&[1u16, 2, 3, 14, 15, 99][..]),
        ),
        (any::<bool>(), any::<bool>(), any::<bool>(), any::<[bool; 5]>()),
        prop::collection::vec(path(), 0..3),
        (
            prop::option::weighted(0.8, prop::collection::vec(path(), 0..4)),
            prop::option::weighted(0.8, path()),
        ),
    )
        .prop_map(
            |(
                (op, path, path2, exe, uid),
                (addr, port, protocol),
                (family, sock_type),
                (also_read, truncates, exchange, [directory, raw_memory, sysctl, fast_open, writes]),
                names,
                (ancestors, container),
            )| {
                Action {
                    path: Some(path.into_bytes()),
                    path2: Some(path2.into_bytes()),
                    exe: exe.map(String::into_bytes),
                    uid,
                    addr,
                    port: Some(port as u16),
                    protocol,
                    family,
                    sock_type,
                    also_read,
                    truncates,
                    exchange,
                    directory,
                    raw_memory,
                    sysctl,
                    fast_open,
                    writes,
                    names: names.into_iter().map(String::into_bytes).collect(),
                    ancestors: ancestors.map(|all| all.into_iter().map(String::into_bytes).collect()),
                    container: container.map(String::into_bytes),
                    ..Action::new(op)
                }
            },
        )
}

/// Holds the two against each other. Returns false for a policy that does not fit the kernel's tables.
fn agree(
    text: &str,
    homes: &Env,
    actions: &[Action],
    contexts: &[Context],
    met: &RefCell<BTreeMap<&'static str, u32>>,
) -> bool {
    let policy = Policy::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{text}\n{e:#?}"));
    let compiled = match compile(&policy, homes, 1) {
        Ok(compiled) => compiled,
        Err(errors) => {
            assert!(errors.iter().all(|e| e.code == Code::TooCostly), "{text}\n{errors:#?}");
            return false;
        }
    };
    for (action, context) in actions.iter().zip(contexts.iter().cycle()) {
        let seen = TableContext::of(&policy, context);
        let by_eval = eval(&policy, homes, action, context);
        let by_table = table::decide(&compiled.table, action, &seen);
        let rule = by_table.rule.map(|i| compiled.rules[i as usize].id.as_str());
        let adds = (0..64).filter(|i| by_table.adds >> i & 1 == 1);
        let mut adds: Vec<&str> = adds.map(|i: usize| compiled.labels[i].name.as_str()).collect();
        adds.sort_unstable();
        let mut adds_by_eval: Vec<&str> = by_eval.adds.iter().map(String::as_str).collect();
        adds_by_eval.sort_unstable();
        assert_eq!(
            (by_eval.decision, by_eval.cause, by_eval.rule.as_deref(), by_eval.facet.operation),
            (by_table.decision, by_table.cause, rule, by_table.facet),
            "{text}\n{action:?}\n{context:?}\n{by_eval:#?}"
        );
        assert_eq!(
            (adds_by_eval, by_eval.summarized),
            (adds, by_table.summarized),
            "{text}\n{action:?}\n{context:?}\n{by_eval:#?}"
        );
        let ruled = policy.rules().iter().find(|r| Some(&r.id) == by_eval.rule.as_ref());
        let without = |change: fn(&mut Action)| {
            let mut other = action.clone();
            change(&mut other);
            let other = eval(&policy, homes, &other, context);
            (other.rule, other.adds) != (by_eval.rule.clone(), by_eval.adds.clone())
        };
        for (what, is) in [
            ("conflict", by_eval.cause == Cause::Conflict),
            ("labels", !by_eval.adds.is_empty()),
            ("summary", by_eval.summarized),
            ("condition", ruled.is_some_and(|rule| rule.when.is_some())),
            (
                "failed condition",
                by_eval.considered.iter().any(|c| c.failed.is_some_and(|f| f.starts_with("when"))),
            ),
            ("history", seen.conditions != 0),
            ("names", without(|a| a.names.clear())),
            ("above", without(|a| a.directory = false)),
            ("watch", by_table.counts != 0),
            ("subject", ruled.is_some_and(|rule| rule.subject.is_some())),
            ("unknown", by_eval.cause == Cause::Unknown),
            ("denied as unknown", by_eval.cause == Cause::Unknown && by_eval.decision == Decision::Deny),
            ("skipped as unknown", by_eval.considered.iter().any(|c| !c.matched && c.unknown.is_some())),
            (
                "failed subject",
                by_eval.considered.iter().any(|c| c.failed.is_some_and(|f| f.starts_with("subject"))),
            ),
        ] {
            *met.borrow_mut().entry(what).or_default() += u32::from(is);
        }
        // What a receipt carries is enough to decide the same again.
        let subjects = table::subject_bits(&compiled.table, action);
        let recorded = Context::recorded(seen.labels, seen.conditions, subjects);
        let told = Action { ancestors: None, container: None, ..action.clone() };
        assert_eq!(eval(&policy, homes, &told, &recorded), by_eval, "{text}\n{action:?}\n{context:?}");
    }
    let canonical = Policy::parse(policy.canonical().as_bytes());
    assert_eq!(canonical.expect("a canonical form is a document").hash(), policy.hash());
    true
}

/// Runs a strategy of policies; most of them must fit, else the test would show nothing;
/// with `meets_all` everything the two can differ in must occur. `PROPTEST_CASES`
/// scales the number of cases: 256 is its default.
fn run(policies: impl Strategy<Value = String>, cases: u32, meets_all: bool) {
    let cases = (cases * Config::default().cases / 256).max(1);
    let homes = prop::sample::subsequence(vec!["/root", "/home/u", "/h", ""], 0..=4);
    let mut runner = TestRunner::new(Config {
        cases,
        max_shrink_iters: 300,
        max_local_rejects: u32::MAX,
        source_file: Some(file!()),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..Config::default()
    });
    let fitted = Cell::new(0);
    let met = RefCell::default();
    let contexts = prop::collection::vec(context(), 1..8);
    runner
        .run(
            &(policies, prop::collection::vec(action(), 40), homes, contexts),
            |(text, actions, homes, contexts)| {
                let homes = Env::new(homes.into_iter().map(|h| h.as_bytes().to_vec()));
                fitted.set(fitted.get() + agree(&text, &homes, &actions, &contexts, &met) as u32);
                Ok(())
            },
        )
        .unwrap_or_else(|e| panic!("{e}"));
    println!("{} of {cases} policies fit; met: {:?}", fitted.get(), met.borrow());
    assert!(
        !meets_all || cases < 40 || met.borrow().values().all(|n| *n > 0),
        "something was never tried: {:?}",
        met.borrow()
    );
    assert!(fitted.get() > cases / 2, "too few policies fit to show anything");
}

#[test]
fn few_rules_with_wild_globs() {
    run(policy(true, 5), 120, false);
}

#[test]
fn many_rules() {
    run(policy(false, 40), 60, true);
}
