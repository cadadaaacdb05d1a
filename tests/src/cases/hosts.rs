//! Names of hosts: what a session learns from resolvers, and what it does not.

use std::net::TcpListener;

use anyhow::{Result, ensure};

use super::Case;
use crate::host::{Attempt, Host, policy};
use crate::resolver::{Record, Resolver, answer};

pub const CASES: &[Case] = &[
    ("names_decide_from_the_very_next_connect_on", names),
    ("a_name_holds_as_long_as_the_resolver_says", expiry),
    ("what_nobody_asked_for_teaches_nothing", forged),
    ("a_forged_answer_opens_no_network_that_a_rule_refuses", guarded),
    ("names_learnt_in_another_namespace_do_not_hold_here", elsewhere),
    ("labels_follow_names", labels),
];

const RESOLVER: &str = "127.0.0.53:53";
const RULES: &str = "
- { id: ask, match: { operation: [connect, send], port: 53 }, decision: ALLOW }
- { id: good, match: { operation: connect, host: ['good.example', '*.good.example'] }, decision: ALLOW }
- { id: nameless, match: { operation: connect, host: unknown }, decision: DENY }
- { id: others, match: { operation: connect }, decision: DENY }
- { id: metadata, match: { operation: connect, cidr: '127.0.9.0/24' }, decision: DENY }
";

fn host(rules: &str) -> Result<Host> {
    Host::start(&(policy(rules) + "  resolvers: ['127.0.0.53', '::1']\n"))
}

/// A resolver that tells of every name the same.
fn telling(at: &str, records: &'static [(&'static str, u32)]) -> Result<Resolver> {
    Ok(Resolver::start(at, move |q| {
        let all: Vec<Record<'_>> = records
            .iter()
            .map(|(text, ttl)| text.parse().map_or(Record::Alias(text), |a| Record::Address(a, *ttl)))
            .collect();
        vec![answer(q, &all)]
    })?)
}

/// Asks, and then connects.
fn ask(h: &Host, name: &str, how: &str, targets: &[&str]) -> Result<Attempt> {
    let mut technique = vec!["ask", RESOLVER, name, how];
    technique.extend(targets);
    h.act(&technique)
}

/// Names by which the last connect's receipt knew its address.
fn known(a: &Attempt) -> Vec<String> {
    let connect = a
        .receipts
        .iter()
        .rev()
        .find(|r| r["action"]["operation"] == "connect" && r["action"]["network"]["port"] != 53);
    let names = connect.and_then(|r| r["action"]["network"]["hosts"].as_array().cloned());
    names.into_iter().flatten().filter_map(|n| n.as_str().map(str::to_owned)).collect()
}

fn names() -> Result<()> {
    let h = host(RULES)?;
    let _server = TcpListener::bind("127.0.0.10:8080")?;
    let _server6 = TcpListener::bind("[::1]:8080")?;
    h.act(&["tcp", "127.0.0.10:8080"])?.refused("connect", "127.0.0.10", "nameless")?;
    let resolver = telling(RESOLVER, &[("elsewhere.example", 0), ("127.0.0.11", 30), ("127.0.0.10", 60)])?;
    for how in ["connected", "sendto"] {
        let a = ask(&h, "API.Good.example", how, &["127.0.0.10:8080"])?;
        a.allowed("connect", "127.0.0.10")?;
        ensure!(known(&a) == ["api.good.example"], "{}", a.tell());
        let told = a.receipts.iter().find(|r| r["kind"] == "name").map(|r| &r["detail"]);
        ensure!(
            told.is_some_and(|d| d["name"] == "api.good.example"
                && d["addresses"] == serde_json::json!(["127.0.0.11", "127.0.0.10"])
                && d["resolver"] == "127.0.0.53"
                && d["seconds"] == 30),
            "{}",
            a.tell()
        );
    }
    let a = ask(&h, "evil.example", "connected", &["127.0.0.10:8080"])?;
    a.refused("connect", "127.0.0.10", "others")?;
    ensure!(known(&a) == ["evil.example"], "{}", a.tell());
    // The alias is not the name that was asked for.
    ask(&h, "good.example", "connected", &["127.0.0.10:8080"])?.allowed("connect", "127.0.0.10")?;
    // Names are the session's own.
    h.act(&["tcp", "127.0.0.10:8080"])?.refused("connect", "127.0.0.10", "nameless")?;
    drop(resolver);
    let _v6 = telling("[::1]:53", &[("::1", 60)])?;
    let a = h.act(&["ask", "[::1]:53", "good.example", "connected6", "[::1]:8080"])?;
    a.allowed("connect", "::1")?;
    // What explains decisions says the same of them.
    let receipt = a.receipts.iter().rev().find(|r| r["action"]["network"]["port"] == 8080);
    let file = h.path("receipt.json");
    std::fs::write(&file, serde_json::to_vec(&receipt)?)?;
    let policy = h.path("policies/test.yaml");
    let out = h.aarm(&["explain", &file.display().to_string(), "--policy", &policy.display().to_string()])?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    h.verified()
}

fn expiry() -> Result<()> {
    let h = host(RULES)?;
    let _server = TcpListener::bind("127.0.0.10:8080")?;
    let _resolver = telling(RESOLVER, &[("127.0.0.10", 0)])?;
    ask(&h, "good.example", "connected", &["127.0.0.10:8080"])?.allowed("connect", "127.0.0.10")?;
    let a = ask(&h, "good.example", "connected", &["127.0.0.10:8080", "wait", "127.0.0.10:8080"])?;
    a.refused("connect", "127.0.0.10", "nameless")
}

fn forged() -> Result<()> {
    let h = host(RULES)?;
    let _server = TcpListener::bind("127.0.0.10:8080")?;
    let good: Record<'_> = Record::Address([127, 0, 0, 10].into(), 60);
    type Forge = fn(&[u8], Record<'_>) -> Vec<Vec<u8>>;
    let forgeries: &[(&str, Forge)] = &[
        ("another number", |q, r| {
            let mut m = answer(q, &[r]);
            m[0] ^= 1;
            vec![m]
        }),
        ("another question", |q, r| {
            let other = crate::resolver::query(u16::from_be_bytes([q[0], q[1]]), "good.example", 1);
            vec![answer(&other, &[r])]
        }),
        ("an error", |q, r| {
            let mut m = answer(q, &[r]);
            m[3] |= 3;
            vec![m]
        }),
        ("cut off", |q, r| {
            let mut m = answer(q, &[r]);
            m[2] |= 2;
            vec![m]
        }),
        ("a query", |q, _| vec![q.to_vec()]),
        ("torn", |q, r| {
            let mut m = answer(q, &[r]);
            m.truncate(m.len() - 1);
            vec![m]
        }),
        ("nothing", |_, _| vec![vec![0]]),
    ];
    for (what, forge) in forgeries {
        let forge = *forge;
        let _resolver = Resolver::start(RESOLVER, move |q| forge(q, good))?;
        let name = if *what == "another question" { "evil.example" } else { "good.example" };
        let a = ask(&h, name, "connected", &["127.0.0.10:8080"])?;
        a.refused("connect", "127.0.0.10", "nameless")?;
        ensure!(a.receipts.iter().all(|r| r["kind"] != "name"), "{what}: {}", a.tell());
    }
    // A second answer to one question.
    let resolver = Resolver::start(RESOLVER, move |q| {
        vec![answer(q, &[Record::Address([127, 0, 0, 77].into(), 60)]), answer(q, &[good])]
    })?;
    ask(&h, "good.example", "connected", &["127.0.0.10:8080"])?.refused(
        "connect",
        "127.0.0.10",
        "nameless",
    )?;
    drop(resolver);
    // Somebody whom the policy does not believe.
    let _other = telling("127.0.0.54:53", &[("127.0.0.10", 60)])?;
    let a = h.act(&["ask", "127.0.0.54:53", "good.example", "connected", "127.0.0.10:8080"])?;
    a.refused("connect", "127.0.0.10", "nameless")
}

fn guarded() -> Result<()> {
    let h = host(RULES)?;
    let _server = TcpListener::bind("127.0.9.1:8080")?;
    let _resolver = telling(RESOLVER, &[("127.0.9.1", 60)])?;
    let a = ask(&h, "good.example", "connected", &["127.0.9.1:8080"])?;
    a.refused("connect", "127.0.9.1", "metadata")?;
    ensure!(known(&a) == ["good.example"], "{}", a.tell());
    Ok(())
}

fn elsewhere() -> Result<()> {
    let h = host(RULES)?;
    let _server = TcpListener::bind("127.0.0.10:8080")?;
    let a = h.act(&["ask-elsewhere", RESOLVER, "good.example", "127.0.0.10", "127.0.0.10:8080"])?;
    // It was learnt, but not for here.
    ensure!(a.receipts.iter().any(|r| r["kind"] == "name"), "{}", a.tell());
    a.refused("connect", "127.0.0.10", "nameless")
}

fn labels() -> Result<()> {
    let data = "data:
  - { label: UNTRUSTED, level: PUBLIC, on: { receive: { not_host: '**.corp.example', not_port: 53 } } }
";
    let data: String = data.lines().map(|l| format!("  {l}\n")).collect();
    let h = Host::start(&(policy("") + "  resolvers: [127.0.0.53]\n" + &data))?;
    let _server = TcpListener::bind("127.0.0.10:8080")?;
    let _resolver = telling(RESOLVER, &[("127.0.0.10", 60)])?;
    let adds = |a: &Attempt| a.receipts.iter().any(|r| r["context"]["adds"][0] == "UNTRUSTED");
    let a = ask(&h, "git.corp.example", "connected", &["127.0.0.10:8080"])?;
    ensure!(!adds(&a), "{}", a.tell());
    let a = ask(&h, "corp.example.evil.org", "connected", &["127.0.0.10:8080"])?;
    ensure!(adds(&a), "{}", a.tell());
    let a = h.act(&["tcp", "127.0.0.10:8080"])?;
    ensure!(adds(&a), "{}", a.tell());
    Ok(())
}
