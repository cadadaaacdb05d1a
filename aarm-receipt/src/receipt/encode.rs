//! The one encoding of a receipt. Members are written in sorted order, and what has no value is left out.

use std::net::IpAddr;

use super::*;
use crate::canonical::{self, Encoded, Object};
use crate::{chain, key};

/// Days since 1970 to year, month, day (Gregorian).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, day)
}

/// `2026-11-24T10:00:00.000000001Z`.
pub(super) fn time(out: &mut Vec<u8>, ns: u64) {
    let (seconds, nanos) = (ns / 1_000_000_000, ns % 1_000_000_000);
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let mut text = *b"\"0000-00-00T00:00:00.000000000Z\"";
    let pairs = [
        (1, year / 100),
        (3, year),
        (6, month),
        (9, day),
        (12, rest / 3600),
        (15, rest / 60 % 60),
        (18, rest % 60),
        (21, nanos / 10_000_000),
        (23, nanos / 100_000),
        (25, nanos / 1000),
        (27, nanos / 10),
    ];
    for (at, value) in pairs {
        text[at..at + 2].copy_from_slice(&canonical::pair(value));
    }
    text[29] = b'0' + (nanos % 10) as u8;
    out.extend_from_slice(&text);
}

/// A time (nanoseconds since 1970) as receipts have it. All are of one length: later ones are greater texts.
pub fn time_text(ns: u64) -> String {
    let mut out = Vec::new();
    time(&mut out, ns);
    String::from_utf8_lossy(out.get(1..out.len() - 1).unwrap_or_default()).into_owned()
}

/// The part of a text from outside that receipts show.
pub fn cut(text: &[u8]) -> &[u8] {
    &text[..text.len().min(TEXT_MAX)]
}

#[inline(always)]
fn identity(o: &mut Object<'_>, i: &Identity<'_>) {
    let if_any = |o: &mut Object<'_>, key, value: Option<&Encoded>| {
        if let Some(value) = value {
            o.encoded(key, value);
        }
    };
    o.object(key!("identity"), |o| {
        if_any(o, key!("agent"), i.agent);
        if_any(o, key!("cgroup"), i.cgroup);
        o.bytes(key!("comm"), i.comm);
        if_any(o, key!("exe"), i.exe);
        o.number(key!("gid"), i.gid.into());
        if_any(o, key!("human"), i.human);
        o.number(key!("pid"), i.pid.into());
        o.number(key!("ppid"), i.ppid.into());
        if i.tid != i.pid {
            o.number(key!("tid"), i.tid.into());
        }
        o.number(key!("uid"), i.uid.into());
    });
}

fn policy(o: &mut Object<'_>, p: &PolicyRef<'_>) {
    p.write(Object::begin(o.key(key!("policy"))));
}

fn mode(audit: bool) -> &'static str {
    if audit { "audit" } else { "enforce" }
}

#[inline(always)]
fn seq(o: &mut Object<'_>, key: &'static str, seq: Option<Seq>) {
    if let Some(s) = seq {
        o.object(key, |o| {
            o.number(key!("cpu"), s.cpu.into());
            o.number(key!("n"), s.n);
        });
    }
}

/// Address families that have a name in receipts.
const FAMILIES: &[(u16, &str)] = &[
    (1, "unix"),
    (2, "inet"),
    (10, "inet6"),
    (16, "netlink"),
    (17, "packet"),
    (38, "alg"),
    (40, "vsock"),
    (44, "xdp"),
];

fn family_name(family: u16) -> Option<&'static str> {
    FAMILIES.iter().find(|(number, _)| *number == family).map(|(_, name)| *name)
}

/// The number (`AF_*`) of a family's name in receipts.
pub fn family_number(name: &str) -> Option<u16> {
    FAMILIES.iter().find(|(_, known)| *known == name).map(|(number, _)| *number)
}

fn network(o: &mut Object<'_>, n: &Network<'_>) {
    use std::io::Write;
    o.object(key!("network"), |o| {
        if let Some(addr) = n.addr {
            // Writing to a vector cannot fail.
            let _ = write!(o.key(key!("addr")), "\"{addr}\"");
        }
        match family_name(n.family) {
            Some(name) => o.name(key!("family"), name),
            None => o.number(key!("family"), n.family.into()),
        }
        if !n.hosts.is_empty() {
            argv(o.key(key!("hosts")), n.hosts);
        }
        o.number(key!("port"), n.port.into());
        o.number(key!("protocol"), n.protocol.into());
        o.number(key!("type"), n.sock_type.into());
    });
}

/// Arguments as an array; the empty last word is the end of the one before.
fn argv(out: &mut Vec<u8>, argv: &[u8]) {
    out.push(b'[');
    let words = argv.strip_suffix(b"\0").unwrap_or(argv);
    if !argv.is_empty() {
        for (i, word) in words.split(|b| *b == 0).enumerate() {
            if i > 0 {
                out.push(b',');
            }
            canonical::bytes(out, word);
        }
    }
    out.push(b']');
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Appends a receipt's canonical bytes.
pub fn encode(c: &Common<'_>, body: &Body<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    let mut o = Object::begin(out);
    // Members in sorted order: action, boot_ns, context, decision, detail, host, identity, kind, outcome, prev, seq,
    // session, time, v.
    let (kind, who): (&str, Option<&Identity<'_>>) = match body {
        Body::Action(a) => {
            action(&mut o, a);
            ("action", Some(&a.identity))
        }
        Body::Outcome(b) => ("outcome", Some(&b.identity)),
        Body::SessionOpen { identity, .. } => ("session_open", Some(identity)),
        Body::SessionClose { .. } => ("session_close", None),
        Body::Process { identity, .. } => ("process", Some(identity)),
        Body::Summary { .. } => ("summary", None),
        Body::Name { .. } => ("name", None),
        Body::Resolution(r) => ("resolution", Some(&r.identity)),
        Body::Attempt(_) => ("attempt", None),
        Body::Statement { .. } => ("statement", None),
        Body::Gap { .. } => ("gap", None),
        Body::Prune { .. } => ("prune", None),
        Body::Keys { .. } => ("keys", None),
        Body::Recovery { .. } => ("recovery", None),
        Body::Policy { .. } => ("policy", None),
        Body::Start { .. } => ("start", None),
        Body::Erasure { .. } => ("erasure", None),
        Body::Stop { .. } => ("stop", None),
    };
    o.number(key!("boot_ns"), c.boot_ns);
    if let Body::Action(a) = body {
        context(&mut o, &a.context);
        decision(&mut o, &a.decision);
    } else {
        o.object(key!("detail"), |o| detail(o, body));
    }
    o.encoded(key!("host"), c.host);
    if let Some(who) = who {
        identity(&mut o, who);
    }
    o.name(key!("kind"), kind);
    if let Body::Outcome(b) = body {
        o.name(key!("outcome"), b.result);
    }
    if c.session.is_some() {
        // Whoever appends it to a log knows what it is.
        o.name(key!("prev"), chain::UNLINKED);
    }
    seq(&mut o, key!("seq"), c.seq);
    if let Some(s) = &c.session {
        o.encoded(key!("session"), s);
    }
    time(o.key(key!("time")), c.time_ns);
    o.number(key!("v"), SCHEMA);
    o.end();
    debug_assert!(out.len() - start <= MAX_RECEIPT, "the bounds of the parts bound the whole");
}

#[inline(always)]
fn action(o: &mut Object<'_>, a: &Action<'_>) {
    o.object(key!("action"), |o| {
        o.number(key!("arg"), a.arg);
        if !a.argv.is_empty() {
            argv(o.key(key!("argv")), a.argv);
        }
        if !a.flags.is_empty() {
            let out = o.key(key!("flags"));
            for (i, flag) in a.flags.iter().enumerate() {
                out.push(if i == 0 { b'[' } else { b',' });
                canonical::bytes(out, flag.as_bytes());
            }
            out.push(b']');
        }
        if let Some(n) = &a.network {
            network(o, n);
        }
        o.object(key!("object"), |o| {
            o.number(key!("dev"), a.object.dev.into());
            o.number(key!("ino"), a.object.ino);
            o.number(key!("mode"), a.object.mode.into());
        });
        o.name(key!("operation"), a.operation);
        o.bytes_if_any(key!("path"), a.path);
        o.bytes_if_any(key!("path2"), a.path2);
        o.bytes_if_any(key!("target"), a.target);
        o.name(key!("tool"), a.tool);
    });
}

/// Names of the labels in a mask.
fn labels(out: &mut Vec<u8>, names: &[String], mask: u64) {
    let mut first = true;
    for bit in (0..64).filter(|bit| mask >> bit & 1 != 0) {
        out.push(if first { b'[' } else { b',' });
        first = false;
        canonical::bytes(out, names.get(bit).map_or("?", String::as_str).as_bytes());
    }
    out.push(b']');
}

#[inline(always)]
fn context(o: &mut Object<'_>, c: &Seen<'_>) {
    if c.labels | c.adds | u64::from(c.conditions | c.subjects) == 0 {
        return;
    }
    o.object(key!("context"), |o| {
        if c.adds != 0 {
            labels(o.key(key!("adds")), c.names, c.adds);
        }
        if c.conditions != 0 {
            o.number(key!("conditions"), c.conditions.into());
        }
        if c.labels != 0 {
            labels(o.key(key!("labels")), c.names, c.labels);
        }
        if c.subjects & 0xffff != 0 {
            o.number(key!("subjects"), (c.subjects & 0xffff).into());
        }
        if c.subjects >> 16 != 0 {
            o.number(key!("unknown"), (c.subjects >> 16).into());
        }
    });
}

#[inline(always)]
fn decision(o: &mut Object<'_>, d: &Decided<'_>) {
    o.object(key!("decision"), |o| {
        o.name(key!("cause"), d.cause);
        if let Some(facet) = d.facet {
            o.name(key!("facet"), facet);
        }
        if d.hold != 0 {
            o.bytes(key!("hold"), &hold_name(d.hold));
        }
        o.name(key!("mode"), mode(d.audit));
        if let Some(to) = d.redirect {
            o.object(key!("modified"), |o| o.bytes(key!("redirect"), to.as_bytes()));
        }
        o.encoded(key!("policy"), d.policy);
        o.bytes_if_any(key!("reason"), cut(d.reason.unwrap_or_default().as_bytes()));
        o.name(key!("result"), d.result);
        o.bytes_if_any(key!("rule"), d.rule.unwrap_or_default().as_bytes());
        o.number(key!("took_ns"), d.took_ns.into());
    });
}

fn modified(o: &mut Object<'_>, m: &Modified<'_>) {
    let short = |text: &'_ str| text.as_bytes()[..text.len().min(MODIFIED_TEXT_MAX)].to_vec();
    let mut more = 0;
    let mut counted = |n: usize| {
        more += n.saturating_sub(MODIFIED_MAX) as u64;
        n != 0
    };
    if counted(m.args.len()) {
        let out = o.key(key!("args"));
        for (i, (at, before, after)) in m.args.iter().take(MODIFIED_MAX).enumerate() {
            out.push(if i == 0 { b'[' } else { b',' });
            let mut o = Object::begin(out);
            o.bytes(key!("after"), &short(after));
            o.number(key!("at"), *at);
            o.bytes(key!("before"), &short(before));
            o.end();
        }
        out.push(b']');
    }
    if counted(m.env.len()) {
        let out = o.key(key!("env"));
        for (i, name) in m.env.iter().take(MODIFIED_MAX).enumerate() {
            out.push(if i == 0 { b'[' } else { b',' });
            canonical::bytes(out, &short(name));
        }
        out.push(b']');
    }
    if counted(m.limits.len()) {
        let out = o.key(key!("limits"));
        for (i, (name, before, after)) in m.limits.iter().take(MODIFIED_MAX).enumerate() {
            out.push(if i == 0 { b'[' } else { b',' });
            let mut o = Object::begin(out);
            o.number(key!("after"), *after);
            o.number(key!("before"), *before);
            o.bytes(key!("name"), &short(name));
            o.end();
        }
        out.push(b']');
    }
    o.number_if_any(key!("more"), Some(more).filter(|n| *n != 0));
}

fn detail(o: &mut Object<'_>, body: &Body<'_>) {
    match body {
        Body::Action(_) => {}
        Body::Outcome(b) => {
            argv(o.key(key!("argv")), b.argv);
            o.number(key!("argv_len"), b.argv_len);
            let hash = ring::digest::digest(&ring::digest::SHA256, b.argv);
            o.bytes(key!("argv_sha256"), hex(hash.as_ref()).as_bytes());
            o.boolean(key!("cut"), b.cut);
            o.bytes_if_any(key!("cwd"), b.cwd);
            seq(o, key!("of"), b.of);
        }
        Body::SessionOpen { how, program, intent, policy: p, audit, .. } => {
            o.bytes(key!("how"), how.as_bytes());
            o.bytes_if_any(key!("intent"), cut(intent.as_bytes()));
            o.name(key!("mode"), mode(*audit));
            policy(o, p);
            o.bytes_if_any(key!("program"), program);
        }
        Body::Erasure { session, values, by } => {
            o.bytes(key!("by"), cut(by.as_bytes()));
            o.bytes(key!("session"), cut(session.as_bytes()));
            o.number(key!("values"), *values);
        }
        Body::SessionClose { allowed, denied, audited, refused } => {
            o.number(key!("allowed"), *allowed);
            o.number(key!("audited"), *audited);
            o.number(key!("denied"), *denied);
            o.number(key!("refused"), *refused);
        }
        Body::Process { what, child, status, .. } => {
            o.number_if_any(key!("child"), child.map(u64::from));
            o.number_if_any(key!("status"), status.map(u64::from));
            o.bytes(key!("what"), what.as_bytes());
        }
        Body::Summary { counts, policy: p } => {
            let out = o.key(key!("counts"));
            for (i, (operation, n)) in counts.iter().enumerate() {
                out.push(if i == 0 { b'{' } else { b',' });
                canonical::bytes(out, operation.as_bytes());
                out.push(b':');
                canonical::number(out, *n);
            }
            out.push(b'}');
            policy(o, p);
        }
        Body::Resolution(r) => {
            o.name(key!("answer"), r.answer);
            o.bytes_if_any(key!("approver"), cut(r.approver.as_bytes()));
            o.bytes_if_any(key!("comment"), cut(r.comment.as_bytes()));
            o.bytes(key!("hold"), &hold_name(r.hold));
            o.number_if_any(key!("left"), Some(r.left).filter(|n| *n != 0));
            o.name(key!("method"), r.method);
            if let Some(m) = &r.modified {
                o.object(key!("modified"), |o| modified(o, m));
            }
            seq(o, key!("of"), r.of);
            o.bytes_if_any(key!("rule"), r.rule.as_bytes());
            o.bytes_if_any(key!("scope"), r.scope.as_bytes());
            o.number(key!("waited_ns"), r.waited_ns);
        }
        Body::Statement { what, name, text } => {
            o.bytes_if_any(key!("name"), cut(name.as_bytes()));
            o.bytes(key!("text"), cut(text));
            o.name(key!("what"), what);
        }
        Body::Attempt(a) => {
            if !a.facts.is_empty() {
                let out = o.key(key!("facts"));
                // Names come from outside: pairs, because members must be in one order.
                for (i, (name, fact)) in a.facts.iter().enumerate() {
                    out.push(if i == 0 { b'[' } else { b',' });
                    let mut o = Object::begin(out);
                    o.bytes(key!("fact"), cut(fact.as_bytes()));
                    o.bytes(key!("name"), cut(name.as_bytes()));
                    o.end();
                }
                out.push(b']');
            }
            o.name(key!("found"), a.found);
            o.bytes(key!("hold"), &hold_name(a.hold));
            o.name(key!("resolver"), a.resolver);
            o.bytes_if_any(key!("text"), cut(a.text.as_bytes()));
            o.number(key!("took_ns"), a.took_ns);
        }
        Body::Name { name, addresses, resolver, seconds } => {
            use std::io::Write;
            let out = o.key(key!("addresses"));
            for (i, address) in addresses.as_chunks::<16>().0.iter().enumerate() {
                // Writing to a vector cannot fail.
                let _ = write!(
                    out,
                    "{}\"{}\"",
                    if i == 0 { '[' } else { ',' },
                    IpAddr::from(*address).to_canonical()
                );
            }
            out.push(b']');
            o.bytes(key!("name"), name);
            let _ = write!(o.key(key!("resolver")), "\"{resolver}\"");
            o.number(key!("seconds"), *seconds);
        }
        Body::Gap { cpu, missing, why, detail } => {
            o.number_if_any(key!("cpu"), cpu.map(u64::from));
            o.bytes_if_any(key!("found"), cut(detail));
            o.number(key!("missing"), *missing);
            o.bytes(key!("why"), cut(why.as_bytes()));
        }
        Body::Prune { before, segments, bytes, why } => {
            o.number(key!("before"), *before);
            o.number(key!("bytes"), *bytes);
            o.number(key!("segments"), *segments);
            o.bytes(key!("why"), why.as_bytes());
        }
        Body::Keys { checkpoint, receipt } => {
            o.bytes(key!("checkpoint"), checkpoint.as_bytes());
            o.bytes(key!("receipt"), receipt.as_bytes());
        }
        Body::Recovery { why, bytes_cut } => {
            o.number(key!("bytes_cut"), *bytes_cut);
            o.bytes(key!("why"), cut(why.as_bytes()));
        }
        Body::Policy { policy: p, file, mode, rules } => {
            o.bytes(key!("file"), cut(file));
            o.bytes(key!("mode"), mode.as_bytes());
            policy(o, p);
            o.number(key!("rules"), *rules);
        }
        Body::Start { version, kernel, adopted } => {
            o.boolean(key!("adopted"), *adopted);
            o.bytes(key!("kernel"), kernel.as_bytes());
            o.bytes(key!("version"), version.as_bytes());
        }
        Body::Stop { version } => o.bytes(key!("version"), version.as_bytes()),
    }
}
