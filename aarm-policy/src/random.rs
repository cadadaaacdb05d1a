//! Random policies and actions, for the tests that hold two deciders against each other (feature `random`).
//!
//! Few letters, few addresses, few users, so that what a policy names and what is done meet. Used by this crate's own
//! test (the table against the evaluator) and by the suites in the VM (the kernel against the evaluator). Must never be
//! part of the product.

use aarm_common::{Family, Operation};
use proptest::prelude::*;
use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use crate::{Action, Context, Past, Sha256, Span, Told};

/// What policies are to be like.
#[derive(Clone, Debug)]
pub struct Shape {
    /// `**` in the middle of globs, of which few already make an automaton explode.
    pub deep: bool,
    /// Globs of letters and `*` only: so many different ones fit the automaton that a policy can have all the rules there can be.
    pub plain: bool,
    /// How many rules.
    pub rules: Range<usize>,
    /// Weight of rules that hold for much, so that several hold for one action; against 10 for all others.
    pub broad: u32,
    /// Weight of rules that ask for a command line.
    pub lines: u32,
    /// Globs of programs, besides those that are like paths.
    pub exe: &'static [&'static str],
    /// Networks, besides random ones.
    pub nets: &'static [&'static str],
    /// Conditions on a session. Of few kinds, so that many rules need no more than the kernel holds.
    pub when: &'static [&'static str],
    /// What rules ask of who acts; none: no rule does.
    pub subject: &'static [&'static str],
    /// What asks waits for an answer, or some of it. Otherwise all of it is refused at once.
    pub waits: bool,
}

impl Shape {
    /// Without anything that is of one host.
    pub fn small(rules: Range<usize>) -> Self {
        Shape {
            deep: false,
            plain: false,
            rules,
            broad: 3,
            lines: 1,
            exe: &[],
            nets: &[],
            when: WHEN,
            subject: SUBJECT,
            waits: true,
        }
    }

    fn style(&self) -> Style {
        (self.deep, self.plain)
    }
}

/// [`Shape::deep`] and [`Shape::plain`].
type Style = (bool, bool);

/// One component of a glob. Few letters, so that globs and paths meet. `deep`: with `**` among them, of which
/// few already make an automaton explode. `plain`: of one or two letters, or any.
fn component((deep, plain): Style) -> impl Strategy<Value = String> {
    if plain {
        return prop_oneof![7 => "[ab]{1,2}", 1 => Just("*".to_owned())].boxed();
    }
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
    .boxed()
}

fn glob(style: Style) -> impl Strategy<Value = String> {
    (
        prop_oneof![4 => Just("/"), 3 => Just("**/"), 2 => Just("~/")],
        prop::collection::vec(component(style), if style.1 { 1..4 } else { 1..5 }),
        any::<bool>(),
    )
        .prop_map(|(start, parts, all_below)| {
            let tail = if all_below { "/**" } else { "" };
            format!("{start}{}{tail}", parts.join("/"))
        })
}

fn globs(style: Style) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(
        prop_oneof![20 => glob(style), 1 => Just("/".to_owned()), 1 => Just("**".to_owned()), 1 => Just("~".to_owned())],
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

fn nets(shape: &Shape) -> impl Strategy<Value = Vec<String>> + use<> {
    let given = given(shape.nets);
    prop::collection::vec(prop_oneof![3 => v4_net(), 3 => v6_net(), given.0 => given.1], 1..4)
}

/// One of what a shape gives, and its weight: none if it gives nothing.
fn given(list: &'static [&'static str]) -> (u32, BoxedStrategy<String>) {
    match list {
        [] => (0, Just(String::new()).boxed()),
        _ => (3, prop::sample::select(list).prop_map(str::to_owned).boxed()),
    }
}

fn programs(shape: &Shape) -> impl Strategy<Value = Vec<String>> + use<> {
    let (weight, given) = given(shape.exe);
    prop_oneof![2 => globs(shape.style()), weight => given.prop_map(|glob| vec![glob])]
}

/// Globs over names, and regular expressions; few letters, as with paths. Of `plain` ones no regular expression, as with globs.
fn hosts((_, plain): Style) -> impl Strategy<Value = Vec<String>> {
    let label = || "[ab*?]{1,2}".prop_map(|l| l.replace("**", "*"));
    let host = prop_oneof![
        3 => (label(), "[ab]").prop_map(|(a, b)| format!("{a}.{b}")),
        3 => (label(), "[ab]").prop_map(|(a, b)| format!("**.{a}.{b}")),
        2 => "[ab]\\.[ab]",
        1 => Just("**".to_owned()),
        1 => Just("*".to_owned()),
        1 => Just("unknown".to_owned()),
        if plain { 0 } else { 1 } => prop::sample::select(&["/[ab](x|b)?[.][ab]/", "/a.*/", "/([ab]+[.]){1,2}[^b]/", "/(?:a[.])*b?.b/"][..])
            .prop_map(str::to_owned),
    ];
    prop::collection::vec(host, 1..3)
}

/// A hash that rules ask for and programs have.
const ALIKE: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// What is known of a program.
fn told() -> impl Strategy<Value = Told> {
    let texts = |all: &'static [&'static str]| prop::sample::select(all);
    (
        prop::collection::vec(texts(&["A=", "A=bc", "B=A", "AB=b"]), 0..3),
        any::<bool>(),
        prop::option::of(texts(&["a", "ab", "b"])),
        prop::option::of(texts(&["", "aab", "b", "xc"])),
    )
        .prop_map(|(env, hashed, package, script)| Told {
            env: env.into_iter().map(|v| v.as_bytes().to_vec()).collect(),
            hash: Sha256::parse(ALIKE).filter(|_| hashed),
            package: package.map(str::to_owned),
            script: script.map(|text| text.as_bytes().to_vec()),
        })
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

fn maybe<T: Debug>(s: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
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

/// Largest user id a rule can name.
const MAX_UID: u64 = 4_294_967_294;

/// Families, and operations without an object.
const ANY: &[&str] = &[
    "exec",
    "read",
    "write",
    "network",
    "process",
    "privileged",
    "signal",
    "ptrace",
    "prlimit",
    "shm",
    "mqueue",
    "setuid",
    "bpf",
    "perf",
];

/// A match about paths, sockets or addresses, each with all predicates that apply to it.
fn matching(shape: &Shape) -> impl Strategy<Value = String> + use<> {
    let style = shape.style();
    let subject =
        || (maybe(programs(shape)), maybe(programs(shape)), maybe(ranges(MAX_UID)), maybe(ranges(MAX_UID)));
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
        "umount",
        "chroot",
        "raw_memory",
        "sysctl_write",
        "create",
        "mkdir",
        "mknod",
        "symlink",
        "rmdir",
        "chmod",
        "chown",
        "setxattr",
        "ioctl_write",
        "mprotect_exec",
        "unix_send",
    ]);
    let path = (paths, prop::option::weighted(0.8, globs(style)), maybe(globs(style)), subject()).prop_map(
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
    let told = format!("hash: \"{ALIKE}\"");
    let told = prop::sample::select(vec![
        String::new(),
        "env: [A]".into(),
        "not_env: [\"A=b*\", B]".into(),
        told.clone(),
        format!("not_{told}"),
        "package: \"a*\"".into(),
        "not_package: [b]".into(),
        "script: \"a+b\"".into(),
        "not_script: [\"^b\", \"c\"]".into(),
    ]);
    let word = || prop::sample::select(&["a", "b", "a*", "{any: b}", "{any: \"?\"}"][..]);
    let line = (
        (maybe(globs(style)), maybe(programs(shape)), maybe(ranges(MAX_UID))),
        prop::sample::select(&["args", "not_args", "argv", "not_argv"][..]),
        prop::collection::vec(word(), 1..3),
        told,
        any::<bool>(),
    )
        .prop_map(|((path, exe, uid), field, words, told, only)| {
            let exact = field.ends_with("argv");
            let words: Vec<&str> =
                words.into_iter().map(|w| if exact && w.starts_with('{') { "\"**\"" } else { w }).collect();
            let mut text =
                format!("operation: [exec]{}", flow(vec![("path", path), ("exe", exe), ("uid", uid)]));
            if told.is_empty() || !only {
                text.push_str(&format!(", {field}: [{}]", words.join(", ")));
            }
            if !told.is_empty() {
                text.push_str(&format!(", {told}"));
            }
            text
        });
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
        words(&["connect", "send", "bind", "listen", "accept"]),
        socket(),
        subject(),
        (
            prop::option::weighted(0.6, nets(shape)),
            maybe(nets(shape)),
            maybe(ranges(65535)),
            maybe(ranges(65535)),
        ),
        (maybe(hosts(style)), maybe(hosts(style))),
    )
        .prop_map(
            move |(mut ops, socket, subject, (cidr, not_cidr, port, not_port), (host, not_host))| {
                if host.is_some() || not_host.is_some() {
                    ops.retain(|op| op == "connect" || op == "send");
                    if ops.is_empty() {
                        ops.push("connect".to_owned());
                    }
                }
                let more = flow(vec![
                    ("cidr", cidr),
                    ("not_cidr", not_cidr),
                    ("port", port),
                    ("not_port", not_port),
                    ("host", host),
                    ("not_host", not_host),
                ]);
                sockets(ops, socket, subject, more)
            },
        );
    let plain = (words(&["socket"]), socket(), subject())
        .prop_map(move |(ops, socket, subject)| sockets(ops, socket, subject, String::new()));
    let any = (words(ANY), subject()).prop_map(|(ops, (exe, not_exe, uid, _))| {
        format!(
            "operation: [{}]{}",
            ops.join(", "),
            flow(vec![("exe", exe), ("not_exe", not_exe), ("uid", uid)])
        )
    });
    // Rules that hold for much, so that several hold for one action.
    let broad = (
        words(&["read", "write", "connect", "rename", "exec", "open_read", "open_write"]),
        maybe(programs(shape)),
    )
        .prop_map(|(ops, exe)| format!("operation: [{}]{}", ops.join(", "), flow(vec![("not_exe", exe)])));
    prop_oneof![5 => path, 3 => address, 1 => plain, 1 => any, shape.lines => line, shape.broad => broad]
}

/// Conditions that hold at one time and not at another.
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
    "container: none",
    "container: [any, \"/a/b\"], unknown: deny",
    "exe: \"**/a*\", ancestors: \"**/b*\", not_container: \"/a/**\", unknown: deny",
    "uid: \"0-7\", not_ancestors: \"**\"",
];

/// An entry of `data` for one of four labels.
fn data_entry(shape: &Shape) -> impl Strategy<Value = String> + use<> {
    let style = shape.style();
    let on = prop_oneof![
        3 => globs(style).prop_map(|g| flow(vec![("read", Some(g))])),
        2 => globs(style).prop_map(|g| flow(vec![("write", Some(g))])),
        1 => globs(style).prop_map(|g| flow(vec![("exec", Some(g))])),
        1 => (globs(style), globs(style)).prop_map(|(r, x)| flow(vec![("read", Some(r)), ("exec", Some(x))])),
        2 => (maybe(nets(shape)), maybe(nets(shape)), maybe(ranges(65535)), maybe(hosts(style))).prop_map(
            |(cidr, not_cidr, port, host)| {
                let predicates =
                    flow(vec![("cidr", cidr), ("not_cidr", not_cidr), ("port", port), ("not_host", host)]);
                format!(", receive: {{{}}}", predicates.trim_start_matches(", "))
            },
        ),
    ];
    on.prop_map(|on| format!("on: {{{}}}", on.trim_start_matches(", ")))
}

/// The text of a policy. It is well formed; whether it fits the kernel's tables is another question.
///
/// A rule, and an entry of `data`, is a line of its own that begins with `    - {`; so a test can leave some out.
pub fn policy(shape: Shape) -> impl Strategy<Value = String> {
    let rule = (
        matching(&shape),
        any::<bool>(),
        0..8u8,
        prop::option::weighted(0.4, prop::sample::select(shape.when)),
        match shape.subject {
            [] => Just(None).boxed(),
            some => prop::option::weighted(0.3, prop::sample::select(some)).boxed(),
        },
    );
    let lines = shape.lines > 0;
    let family = || prop::option::of(prop::sample::select(&["ALLOW", "DENY"][..]));
    let entries = prop::collection::vec(data_entry(&shape), if shape.deep { 4..5 } else { 4..8 });
    let record = prop::option::of(prop::sample::select(&["full", "summary"][..]));
    let hold = if shape.waits {
        prop::sample::select(&[AT_ONCE, "timeout: 5m", "defer_timeout: 0s"][..]).boxed()
    } else {
        Just(AT_ONCE).boxed()
    };
    (
        prop::collection::vec(rule, shape.rules),
        (family(), family(), family(), family(), family(), family()),
        entries,
        (record.clone(), record.clone(), record),
        (prop_oneof![3 => Just("enforce"), 1 => Just("audit")], prop::bool::weighted(0.3), hold),
    )
        .prop_map(move |(rules, (exec, read, write, network, process, privileged), entries, (all, one, net), (mode, tied, hold))| {
            let mut text = format!(
                "apiVersion: aarm.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: p, version: \"1\"}}\nspec:\n  mode: {mode}\n  resolvers: [127.0.0.53]\n  hold: {{{hold}}}\n  defaults: {{",
            );
            for (name, value) in [
                ("exec", exec),
                ("read", read),
                ("write", write),
                ("network", network),
                ("process", process),
                ("privileged", privileged),
            ] {
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
                let decision = match extra {
                    2 if waits(m) => "STEP_UP",
                    3 if waits(m) => "DEFER",
                    1 => "DENY",
                    5..8 if changes(m, lines).is_some() => "MODIFY",
                    _ if *deny => "DENY",
                    _ => "ALLOW",
                };
                let more = match extra {
                    // Rules with the same right, which contradict each other.
                    0 | 2..8 if tied => ", priority: 0".to_owned(),
                    1 => ", classification: forbidden".to_owned(),
                    2 => format!(", priority: {}", if i % 2 == 0 { i as i64 + 1 } else { -(i as i64) }),
                    3 => ", priority: 0".to_owned(),
                    4 => ", priority: 3".to_owned(),
                    _ => String::new(),
                };
                let at_once = *extra == 2 && decision == "STEP_UP" && i % 3 == 0;
                let more = if at_once { more + ", timeout: 0s" } else { more };
                let modify = changes(m, lines).filter(|_| decision == "MODIFY");
                let more = modify.map_or(more.clone(), |modify| format!("{more}, modify: {{{modify}}}"));
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

/// What can be changed of all operations that a match names; of programs where command lines decide.
fn changes(m: &str, lines: bool) -> Option<&'static str> {
    let names = m.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("", |(names, _)| names);
    let all = |of: &[&str]| names.split(',').all(|name| of.contains(&name.trim()));
    match () {
        () if lines && all(&["exec"]) => Some("limits: {core: 0}"),
        () if all(&["connect", "send"]) => Some("redirect: \"127.0.0.1:3128\""),
        () => None,
    }
}

/// Nothing waits.
const AT_ONCE: &str = "timeout: 0s, defer_timeout: 0s";

/// Whether all operations that a match names can wait for an answer.
fn waits(m: &str) -> bool {
    let names = m.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("", |(names, _)| names);
    let can = |name: &str| match (Family::from_name(name), Operation::from_name(name)) {
        (Some(family), _) => {
            Operation::ALL.iter().all(|op| op.family() != family || op.cannot_wait().is_empty())
        }
        (_, Some(op)) => op.cannot_wait().is_empty(),
        _ => false,
    };
    names.split(',').all(|name| can(name.trim()))
}

/// What a session did before.
pub fn context() -> impl Strategy<Value = Context> {
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

/// An action of any operation.
pub fn action() -> impl Strategy<Value = Action> {
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
        (
            prop::collection::vec(path(), 0..3),
            prop::collection::vec(path(), 0..2),
            prop::collection::vec("([ab]\\.)?[abx]{1,2}\\.[ab]", 0..3),
        ),
        (
            prop::option::weighted(0.8, prop::collection::vec(path(), 0..4)),
            prop::option::weighted(0.8, path()),
        ),
        prop::collection::vec(prop::sample::select(&["a", "b", "ab", ""][..]), 0..4),
        told(),
    )
        .prop_map(
            |(
                (op, path, path2, exe, uid),
                (addr, port, protocol),
                (family, sock_type),
                (also_read, truncates, exchange, [directory, raw_memory, sysctl, fast_open, writes]),
                (names, names2, hosts),
                (ancestors, container),
                args,
                told,
            )| {
                Action {
                    args: match op {
                        Exec => Some(args.into_iter().map(|w| w.as_bytes().to_vec()).collect()),
                        _ => Some(Vec::new()),
                    },
                    told: match op {
                        Exec => Some(told),
                        _ => Some(Told::default()),
                    },
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
                    hosts,
                    ancestors: ancestors.map(|all| all.into_iter().map(String::into_bytes).collect()),
                    container: container.map(String::into_bytes),
                    names: names.into_iter().map(String::into_bytes).collect(),
                    names2: names2.into_iter().map(String::into_bytes).collect(),
                    ..Action::new(op)
                }
            },
        )
}
