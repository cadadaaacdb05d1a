use super::encode::time;
use super::*;
use crate::canonical;
use crate::redact::{Classes, redact};
use proptest::prelude::*;

fn common(host: &Encoded) -> Common<'_> {
    Common {
        time_ns: 1_795_514_400_000_000_007,
        boot_ns: 12,
        host,
        session: Some(Cow::Owned(SessionRef { id: 0x1_0000_0002, uuid: "u" }.encoded())),
        seq: Some(Seq { cpu: 1, n: 5 }),
    }
}

fn sample<'a>(path: &'a [u8], reason: &'a str, policy: &'a Encoded) -> Body<'a> {
    Body::Action(Action {
        tool: "read",
        operation: "open_read",
        path,
        path2: path,
        target: path,
        argv: b"a\0b\0",
        network: Some(Network {
            family: 2,
            sock_type: 1,
            protocol: 6,
            addr: Some([127, 0, 0, 1].into()),
            port: 80,
            hosts: b"a.example\0b.example\0",
        }),
        object: FileId { dev: 1, ino: u64::MAX, mode: 0o100644 },
        arg: 0,
        flags: &["also_read"],
        identity: Identity { comm: path, ..Identity::default() },
        decision: Decided {
            hold: 0x1f,
            redirect: Some("127.0.0.1:3128"),
            result: "DENY",
            audit: false,
            cause: "rule",
            facet: Some("open_write"),
            rule: Some("r"),
            reason: Some(reason),
            policy,
            took_ns: 3,
        },
        context: Seen { names: &[], labels: 5, adds: 2, conditions: 1, subjects: 0x4_0003 },
    })
}

#[test]
fn the_longest_action_fits() {
    // What an agent can make long, at its bound, and of bytes that take three characters each.
    let path = [0xff; 4096];
    let reason = "\u{e9}".repeat(512);
    let program = Encoded::text(&path);
    let human = Encoded::text(&[0xff; 256]);
    let hash = "0".repeat(64);
    let policy = PolicyRef { name: &"n".repeat(63), version: &"v".repeat(63), hash: &hash }.encoded();
    let names: Vec<String> = (0..64).map(|i| format!("{i:064}")).collect();
    let mut body = sample(&path, &reason, &policy);
    let Body::Action(action) = &mut body else { unreachable!() };
    // Two of the three texts at most: a link's text and a second path exclude each other.
    action.target = b"";
    action.identity.exe = Some(&program);
    action.identity.agent = Some(&program);
    action.identity.human = Some(&human);
    let cgroup = Encoded::text(&[&b"/"[..], &[0xff; CGROUP_MAX - 1]].concat());
    action.identity.cgroup = Some(&cgroup);
    action.identity.comm = &path[..15];
    action.context = Seen {
        names: &names,
        labels: u64::MAX >> 32,
        adds: u64::MAX << 32,
        conditions: 0xffff,
        subjects: 0xffff_ffff,
    };
    let mut out = Vec::new();
    encode(&common(&Encoded::text(&[b'h'; 128])), &body, &mut out);
    assert!(out.len() > MAX_RECEIPT * 8 / 10, "{}: not the worst case any more", out.len());
    assert!(out.len() <= MAX_RECEIPT, "{}", out.len());
    parse(&out).unwrap();
}

#[test]
fn time_is_utc() {
    let mut out = Vec::new();
    time(&mut out, 1_795_514_400_000_000_007);
    assert_eq!(out, b"\"2026-11-24T10:00:00.000000007Z\"");
    out.clear();
    time(&mut out, 951_782_400_000_000_000);
    assert_eq!(out, b"\"2000-02-29T00:00:00.000000000Z\"");
}

/// What is redacted of a receipt is not in it, the rest is a receipt, and what is revealed is the receipt that it was.
fn redacts(receipt: &[u8], value: &serde_json::Value) {
    let all = Classes::NAMED.iter().fold(Classes::NONE, |all, (_, class)| all.and(*class));
    for class in Classes::NAMED.iter().map(|(_, class)| *class).chain([Classes::NONE, all]) {
        let mut out = b"before".to_vec();
        out.extend_from_slice(receipt);
        let mut withheld = Vec::new();
        redact(&mut out, b"before".len(), class, &mut withheld).unwrap();
        let redacted = &out[b"before".len()..];
        let mut found = parse(redacted).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out)));
        assert_eq!(serde_json_canonicalizer::to_vec(&found).unwrap(), redacted);
        assert_eq!(withheld.is_empty(), redacted == receipt);
        // Nothing is taken out twice, and a commitment is not taken for a value.
        let before = out.clone();
        let mut none = Vec::new();
        redact(&mut out, b"before".len(), class, &mut none).unwrap();
        assert!(none.is_empty() && out == before);
        let by_hash: BTreeMap<_, _> = withheld.iter().map(|w| (w.commitment(), w)).collect();
        assert_eq!(by_hash.len(), withheld.len(), "each has a salt of its own");
        let known = |hash: &_| serde_json::from_slice(&by_hash.get(hash)?.value).ok();
        assert_eq!(crate::redact::reveal(&mut found, &known), (withheld.len(), 0));
        assert_eq!(found, *value);
    }
}

#[test]
fn what_stands_in_a_values_place_is_a_commitment_where_one_may_be_and_nothing_else() {
    let host = Encoded::text(b"h");
    let mut out = Vec::new();
    let policy = PolicyRef { name: "n", version: "1", hash: "00" }.encoded();
    encode(&common(&host), &sample(b"/secret", "because", &policy), &mut out);
    let plain = String::from_utf8(out.clone()).unwrap();
    redact(&mut out, 0, Classes::PATHS, &mut Vec::new()).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(!text.contains("secret") && check(text.as_bytes()).is_ok());
    let begin = text.find("{\"redacted\":\"").unwrap();
    let one = &text[begin..begin + 59];
    assert!(one.ends_with("\"}"), "{one}");
    for (from, to) in [
        (one, "{\"redacted\":\"\"}"),
        (one, "{\"redacted\":7}"),
        (one, "{}"),
        (one, &one.replace("redacted", "Redacted")[..]),
        (one, &one.replace("\"}", "\",\"x\":1}")[..]),
        ("\"operation\":\"open_read\"", &format!("\"operation\":{one}")[..]),
    ] {
        assert!(plain.contains("open_read"));
        let wrong = text.replacen(from, to, 1);
        assert!(wrong != text && check(wrong.as_bytes()).is_err(), "{wrong}");
    }
}

#[test]
fn every_kind_parses_back_and_equals_an_independent_rfc_8785() {
    let cgroup = Encoded::text(b"/a.slice/b\xff");
    let who = Identity { comm: b"sh", cgroup: Some(&cgroup), ..Identity::default() };
    let facts = BTreeMap::from([("score".to_owned(), "9".to_owned())]);
    let p = PolicyRef { name: "n", version: "1", hash: "00" };
    let (host, policy) = (Encoded::text(b"h"), p.encoded());
    let bodies = [
        sample(b"/a\xff%\"\\", "because", &policy),
        sample(b"", "", &policy),
        Body::Outcome(Outcome {
            of: None,
            result: "executed",
            argv: b"a\0\0b\0",
            argv_len: 5,
            cut: false,
            cwd: b"/",
            identity: who,
        }),
        Body::Resolution(Resolution {
            hold: 7,
            answer: "DENY",
            method: "timeout",
            identity: who,
            ..Resolution::default()
        }),
        Body::Resolution(Resolution {
            hold: u64::MAX,
            of: Some(Seq { cpu: 1, n: 2 }),
            answer: "ALLOW",
            method: "approval",
            approver: "uid:0 root",
            scope: "once",
            comment: "go on",
            rule: "ask",
            left: 2,
            modified: Some(Modified {
                env: &["A".to_owned()],
                limits: &[("nofile".to_owned(), u64::MAX, 64)],
                args: &[(3, "before".to_owned(), "after".to_owned())],
            }),
            waited_ns: 5,
            identity: who,
        }),
        Body::SessionOpen {
            how: "run",
            program: b"/p",
            intent: "fix \u{fc}",
            policy: p,
            audit: true,
            identity: who,
        },
        Body::Attempt(Attempt {
            hold: 3,
            resolver: "reputation",
            found: "unknown",
            text: "never seen",
            facts: &facts,
            took_ns: 9,
        }),
        Body::Statement { what: "tool", name: "Bash", text: b"git push" },
        Body::SessionClose { allowed: 1, denied: 2, audited: 3, refused: 4 },
        Body::Process { what: "fork", child: Some(3), status: None, identity: who },
        Body::Gap { cpu: None, missing: 2, why: "ring full", detail: b"\0" },
        Body::Prune { before: 1 << 60, segments: 2, bytes: 1 << 21, why: "size" },
        Body::Keys { checkpoint: "h+01+AQ==", receipt: "h/receipt+02+AQ==" },
        Body::Recovery { why: "torn", bytes_cut: 7 },
        Body::Policy { policy: p, file: b"/f", mode: "enforce", rules: 3 },
        Body::Start { version: "1", kernel: "6.1", adopted: false },
        Body::Summary { counts: &[("create", 2), ("open_read", 7)], policy: p },
        Body::Name {
            name: b"a.example",
            addresses:
                b"\0\0\0\0\0\0\0\0\0\0\xff\xff\xcb\0\x71\x09\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x09",
            resolver: [127, 0, 0, 53].into(),
            seconds: 60,
        },
        Body::Erasure { session: "u", values: 2, by: "uid:0" },
        Body::Stop { version: "1" },
    ];
    let mut seen = Vec::new();
    for body in &bodies {
        let mut out = Vec::new();
        encode(&common(&host), body, &mut out);
        let value = parse(&out).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out)));
        assert_eq!(serde_json_canonicalizer::to_vec(&value).unwrap(), out);
        seen.push(value["kind"].as_str().unwrap().to_owned());
        redacts(&out, &value);
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen, schema::SCHEMAS.iter().map(|kind| kind.name).collect::<Vec<_>>());
}

#[test]
fn what_is_absent_has_one_encoding() {
    let (host, policy) = (Encoded::text(b"h"), PolicyRef::default().encoded());
    let mut out = Vec::new();
    encode(&Common { session: None, ..common(&host) }, &sample(b"/p", "r", &policy), &mut out);
    let good = String::from_utf8(out).unwrap();
    assert!(parse(good.as_bytes()).is_ok());
    for (from, to) in [
        (r#""reason":"r","#, r#""reason":null,"#),
        (r#""reason":"r","#, r#""reason":"","#),
        (r#""flags":["also_read"]"#, r#""flags":[]"#),
        (r#""hosts":["a.example","b.example"]"#, r#""hosts":[]"#),
        (r#""facet":"open_write""#, r#""facet":"open_read""#),
        (r#""uid":0"#, r#""tid":0,"uid":0"#),
        (r#""conditions":1"#, r#""conditions":0"#),
        (r#""subjects":3"#, r#""subjects":0"#),
        (r#""unknown":4"#, r#""unknown":0"#),
        (r#""unknown":4"#, r#""other":1,"unknown":4"#),
        (r#""comm":"#, r#""cgroup":"/","comm":"#),
        (r#""comm":"#, r#""cgroup":"","comm":"#),
        (r#""comm":"#, r#""cgroup":"a/b","comm":"#),
        (r#""comm":"#, r#""cgroup":"/a/","comm":"#),
        (r#""comm":"#, r#""cgroup":7,"comm":"#),
        (r#""time""#, r#""session":null,"time""#),
        (r#""kind":"action","#, ""),
        (r#""host":"h","#, ""),
        (r#""boot_ns":12,"#, ""),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from}");
        assert!(parse(bad.as_bytes()).is_err(), "{bad}");
    }
    let there = good.replacen(r#""comm":"#, r#""cgroup":"/a/b","comm":"#, 1);
    assert!(there != good && parse(there.as_bytes()).is_ok(), "{there}");
}

#[test]
fn the_longest_receipt_stays_within_its_bound() {
    let path = [0xffu8; 4096];
    let (policy, reason) = (PolicyRef::default().encoded(), "\u{fc}".repeat(4000));
    let mut out = Vec::new();
    encode(&common(&Encoded::text(b"h")), &sample(&path, &reason, &policy), &mut out);
    assert!(out.len() <= MAX_RECEIPT, "{}", out.len());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn any_path_is_canonical(path in proptest::collection::vec(any::<u8>(), 1..200)) {
        let mut out = Vec::new();
        let (host, policy) = (Encoded::text(b"h"), PolicyRef::default().encoded());
        encode(&common(&host), &sample(&path, "r", &policy), &mut out);
        let value = parse(&out).unwrap();
        prop_assert_eq!(canonical::decode(value["action"]["path"].as_str().unwrap()).unwrap(), path);
    }
}
