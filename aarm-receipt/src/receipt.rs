//! What a receipt says, and its one encoding.
//!
//! | member | in | meaning |
//! |---|---|---|
//! | `v` | all | schema version, [`SCHEMA`] |
//! | `kind` | all | which of [`KINDS`] |
//! | `time` | all | RFC 3339, UTC, nanoseconds; `boot_ns`: the same instant on the clock since boot |
//! | `host` | all | the host and boot it happened on |
//! | `session` | of sessions | `id` in the kernel, `uuid` for ever; null otherwise |
//! | `seq` | from the kernel | `cpu` and the number `n` of the event there; null otherwise |
//! | `action` | action | tool (family), operation, object: what was attempted |
//! | `decision` | action | result, mode, rule, reason, cause, facet, policy (name, version, hash), time taken |
//! | `identity` | of processes | human (a claim), user, process, program, agent (the session's first program) |
//! | `outcome` | action, outcome | what became of it, as far as it was observed |
//! | `detail` | all others | what the kind is about |
//!
//! Bytes that are not text (paths, arguments) are percent-encoded, see [`crate::canonical`].

use std::net::IpAddr;

use crate::canonical::{self, NotCanonical, Object};

/// Version of the members above.
pub const SCHEMA: u64 = 1;
/// Most bytes of one receipt.
pub const MAX_RECEIPT: usize = 65_535;
/// Most bytes of a text that comes from outside (reason, intent, detail); longer ones are cut.
pub const TEXT_MAX: usize = 4096;
/// Every kind of receipt.
pub const KINDS: &[&str] = &[
    "action",
    "gap",
    "outcome",
    "policy",
    "process",
    "recovery",
    "session_close",
    "session_open",
    "start",
    "stop",
];

/// A session.
#[derive(Clone, Copy, Debug)]
pub struct SessionRef<'a> {
    /// Id in the kernel.
    pub id: u64,
    /// Id for ever.
    pub uuid: &'a str,
}

/// A kernel event's number.
#[derive(Clone, Copy, Debug)]
pub struct Seq {
    /// CPU.
    pub cpu: u32,
    /// Number on that CPU.
    pub n: u64,
}

/// What all receipts have.
#[derive(Clone, Copy, Debug)]
pub struct Common<'a> {
    /// Nanoseconds since 1970, UTC.
    pub time_ns: u64,
    /// Nanoseconds since boot.
    pub boot_ns: u64,
    /// Host and boot.
    pub host: &'a str,
    /// The session.
    pub session: Option<SessionRef<'a>>,
    /// The kernel event.
    pub seq: Option<Seq>,
}

/// Who acted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity<'a> {
    /// On whose behalf, as claimed at registration; empty: not known.
    pub human: &'a str,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Parent process.
    pub ppid: u32,
    /// Name of the thread.
    pub comm: &'a [u8],
    /// Program; empty: not known.
    pub exe: &'a [u8],
    /// The session's first program; empty: not known.
    pub agent: &'a [u8],
}

/// A policy.
#[derive(Clone, Copy, Debug, Default)]
pub struct PolicyRef<'a> {
    /// Name.
    pub name: &'a str,
    /// Version.
    pub version: &'a str,
    /// SHA-256 of its canonical form, hexadecimal.
    pub hash: &'a str,
}

/// A socket's side of an action.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    /// `AF_*`.
    pub family: u16,
    /// `SOCK_*`.
    pub sock_type: u16,
    /// `IPPROTO_*`.
    pub protocol: u8,
    /// Address, for IP.
    pub addr: Option<IpAddr>,
    /// Port.
    pub port: u16,
}

/// A file's identity.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileId {
    /// Device.
    pub dev: u32,
    /// Inode.
    pub ino: u64,
    /// Type and permissions.
    pub mode: u32,
}

/// What was decided.
#[derive(Clone, Copy, Debug)]
pub struct Decided<'a> {
    /// ALLOW, DENY, ...
    pub result: &'a str,
    /// Recorded only, not enforced.
    pub audit: bool,
    /// Why: rule, default, or what failed closed.
    pub cause: &'a str,
    /// Operation of the facet that decided.
    pub facet: &'a str,
    /// The rule.
    pub rule: Option<&'a str>,
    /// The rule's reason.
    pub reason: Option<&'a str>,
    /// The policy.
    pub policy: PolicyRef<'a>,
    /// Nanoseconds it took.
    pub took_ns: u32,
}

/// A decided action.
#[derive(Clone, Copy, Debug)]
pub struct Action<'a> {
    /// Family.
    pub tool: &'a str,
    /// Operation.
    pub operation: &'a str,
    /// Object; empty: it has no path.
    pub path: &'a [u8],
    /// Target of a rename or link.
    pub path2: &'a [u8],
    /// Text of a symbolic link.
    pub target: &'a [u8],
    /// Socket.
    pub network: Option<Network>,
    /// File.
    pub object: FileId,
    /// Open flags, mode, owner: by operation.
    pub arg: u64,
    /// What else is to say: `also_read`, `exchange`, ...; sorted.
    pub flags: &'a [&'a str],
    /// Who.
    pub identity: Identity<'a>,
    /// What was decided.
    pub decision: Decided<'a>,
}

/// What became of an action.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    /// The action's event, if it is known.
    pub of: Option<Seq>,
    /// `executed`, ...
    pub result: &'a str,
    /// Arguments, each ended by NUL.
    pub argv: &'a [u8],
    /// Bytes of all arguments, also of those not recorded.
    pub argv_len: u64,
    /// Some arguments are not recorded.
    pub cut: bool,
    /// Working directory.
    pub cwd: &'a [u8],
    /// Who.
    pub identity: Identity<'a>,
}

/// What a receipt is about.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// A decided action.
    Action(Action<'a>),
    /// What became of one.
    Outcome(Outcome<'a>),
    /// A session began.
    SessionOpen {
        /// `run`, `agent` or `adopted`.
        how: &'a str,
        /// Its first program.
        program: &'a [u8],
        /// What it is for.
        intent: &'a str,
        /// Its policy.
        policy: PolicyRef<'a>,
        /// In audit mode.
        audit: bool,
        /// Who.
        identity: Identity<'a>,
    },
    /// A session ended.
    SessionClose {
        /// Actions allowed.
        allowed: u64,
        /// Actions denied.
        denied: u64,
        /// Actions denied on record only.
        audited: u64,
        /// Actions refused for want of room, without receipts.
        refused: u64,
    },
    /// A process came or went.
    Process {
        /// `fork` or `exit`.
        what: &'a str,
        /// The child of a fork.
        child: Option<u32>,
        /// The wait status of an exit.
        status: Option<u32>,
        /// Who.
        identity: Identity<'a>,
    },
    /// Events that are missing.
    Gap {
        /// On which CPU.
        cpu: Option<u32>,
        /// How many.
        missing: u64,
        /// Why, as far as known.
        why: &'a str,
        /// What was found instead.
        detail: &'a [u8],
    },
    /// The log was repaired.
    Recovery {
        /// Why.
        why: &'a str,
        /// Bytes cut off.
        bytes_cut: u64,
    },
    /// A policy was loaded.
    Policy {
        /// Which.
        policy: PolicyRef<'a>,
        /// From where.
        file: &'a [u8],
        /// `enforce` or `audit`.
        mode: &'a str,
        /// Its rules.
        rules: u64,
    },
    /// The daemon started.
    Start {
        /// Its version.
        version: &'a str,
        /// The kernel's release.
        kernel: &'a str,
        /// It took over kernel state of a former daemon; otherwise event numbers begin anew.
        adopted: bool,
    },
    /// The daemon ended in good order.
    Stop {
        /// Its version.
        version: &'a str,
    },
}

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
fn time(out: &mut Vec<u8>, ns: u64) {
    let (seconds, mut nanos) = (ns / 1_000_000_000, ns % 1_000_000_000);
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let mut text = *b"\"0000-00-00T00:00:00.000000000Z\"";
    let mut put = |at: usize, width: usize, mut n: u64| {
        for i in (0..width).rev() {
            text[at + i] = b'0' + (n % 10) as u8;
            n /= 10;
        }
    };
    put(1, 4, year);
    put(6, 2, month);
    put(9, 2, day);
    put(12, 2, rest / 3600);
    put(15, 2, rest / 60 % 60);
    put(18, 2, rest % 60);
    let mut width = 9;
    while width > 0 {
        width -= 1;
        text[21 + width] = b'0' + (nanos % 10) as u8;
        nanos /= 10;
    }
    out.extend_from_slice(&text);
}

fn cut(text: &[u8]) -> &[u8] {
    &text[..text.len().min(TEXT_MAX)]
}

fn identity(o: &mut Object<'_>, i: &Identity<'_>) {
    o.object("identity", |o| {
        o.bytes_or_null("agent", i.agent);
        o.bytes("comm", i.comm);
        o.bytes_or_null("exe", i.exe);
        o.number("gid", i.gid.into());
        o.bytes_or_null("human", cut(i.human.as_bytes()));
        o.number("pid", i.pid.into());
        o.number("ppid", i.ppid.into());
        o.number("tid", i.tid.into());
        o.number("uid", i.uid.into());
    });
}

fn policy(o: &mut Object<'_>, p: &PolicyRef<'_>) {
    o.object("policy", |o| {
        o.bytes("hash", p.hash.as_bytes());
        o.bytes("name", p.name.as_bytes());
        o.bytes("version", p.version.as_bytes());
    });
}

fn mode(audit: bool) -> &'static [u8] {
    if audit { b"audit" } else { b"enforce" }
}

fn seq(o: &mut Object<'_>, key: &'static str, seq: Option<Seq>) {
    match seq {
        Some(s) => o.object(key, |o| {
            o.number("cpu", s.cpu.into());
            o.number("n", s.n);
        }),
        None => o.text_or_null(key, None),
    }
}

fn family_name(family: u16) -> Option<&'static str> {
    Some(match family {
        1 => "unix",
        2 => "inet",
        10 => "inet6",
        16 => "netlink",
        17 => "packet",
        38 => "alg",
        40 => "vsock",
        44 => "xdp",
        _ => return None,
    })
}

fn network(o: &mut Object<'_>, n: &Network) {
    use std::io::Write;
    o.object("network", |o| {
        match n.addr {
            Some(addr) => {
                let out = o.key("addr");
                // Writing to a vector cannot fail.
                let _ = write!(out, "\"{addr}\"");
            }
            None => o.text_or_null("addr", None),
        }
        match family_name(n.family) {
            Some(name) => o.bytes("family", name.as_bytes()),
            None => o.number("family", n.family.into()),
        }
        o.number("port", n.port.into());
        o.number("protocol", n.protocol.into());
        o.number("type", n.sock_type.into());
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
    // Members in sorted order: action, boot_ns, decision, detail, host, identity, kind, outcome, seq,
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
        Body::Gap { .. } => ("gap", None),
        Body::Recovery { .. } => ("recovery", None),
        Body::Policy { .. } => ("policy", None),
        Body::Start { .. } => ("start", None),
        Body::Stop { .. } => ("stop", None),
    };
    o.number("boot_ns", c.boot_ns);
    if let Body::Action(a) = body {
        decision(&mut o, &a.decision);
    } else {
        o.object("detail", |o| detail(o, body));
    }
    o.bytes("host", c.host.as_bytes());
    if let Some(who) = who {
        identity(&mut o, who);
    }
    o.bytes("kind", kind.as_bytes());
    match body {
        Body::Action(_) => o.bytes("outcome", b"not_observed"),
        Body::Outcome(b) => o.bytes("outcome", b.result.as_bytes()),
        _ => {}
    }
    seq(&mut o, "seq", c.seq);
    match c.session {
        Some(s) => o.object("session", |o| {
            let mut id = *b"0000000000000000";
            for (i, d) in id.iter_mut().enumerate() {
                *d = b"0123456789abcdef"[(s.id >> (60 - 4 * i) & 15) as usize];
            }
            o.bytes("id", &id);
            o.bytes("uuid", s.uuid.as_bytes());
        }),
        None => o.text_or_null("session", None),
    }
    time(o.key("time"), c.time_ns);
    o.number("v", SCHEMA);
    o.end();
    debug_assert!(out.len() - start <= MAX_RECEIPT, "the bounds of the parts bound the whole");
}

fn action(o: &mut Object<'_>, a: &Action<'_>) {
    o.object("action", |o| {
        o.number("arg", a.arg);
        let out = o.key("flags");
        out.push(b'[');
        for (i, flag) in a.flags.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            canonical::bytes(out, flag.as_bytes());
        }
        out.push(b']');
        match &a.network {
            Some(n) => network(o, n),
            None => o.text_or_null("network", None),
        }
        o.object("object", |o| {
            o.number("dev", a.object.dev.into());
            o.number("ino", a.object.ino);
            o.number("mode", a.object.mode.into());
        });
        o.bytes("operation", a.operation.as_bytes());
        o.bytes_or_null("path", a.path);
        o.bytes_or_null("path2", a.path2);
        o.bytes_or_null("target", a.target);
        o.bytes("tool", a.tool.as_bytes());
    });
}

fn decision(o: &mut Object<'_>, d: &Decided<'_>) {
    o.object("decision", |o| {
        o.bytes("cause", d.cause.as_bytes());
        o.bytes("facet", d.facet.as_bytes());
        o.bytes("mode", mode(d.audit));
        policy(o, &d.policy);
        let out = o.key("reason");
        match d.reason {
            Some(r) => canonical::bytes(out, cut(r.as_bytes())),
            None => out.extend_from_slice(b"null"),
        }
        o.bytes("result", d.result.as_bytes());
        o.text_or_null("rule", d.rule);
        o.number("took_ns", d.took_ns.into());
    });
}

fn detail(o: &mut Object<'_>, body: &Body<'_>) {
    match body {
        Body::Action(_) => {}
        Body::Outcome(b) => {
            argv(o.key("argv"), b.argv);
            o.number("argv_len", b.argv_len);
            let hash = ring::digest::digest(&ring::digest::SHA256, b.argv);
            o.bytes("argv_sha256", hex(hash.as_ref()).as_bytes());
            o.boolean("cut", b.cut);
            o.bytes_or_null("cwd", b.cwd);
            seq(o, "of", b.of);
        }
        Body::SessionOpen { how, program, intent, policy: p, audit, .. } => {
            o.bytes("how", how.as_bytes());
            o.bytes_or_null("intent", cut(intent.as_bytes()));
            o.bytes("mode", mode(*audit));
            policy(o, p);
            o.bytes_or_null("program", program);
        }
        Body::SessionClose { allowed, denied, audited, refused } => {
            o.number("allowed", *allowed);
            o.number("audited", *audited);
            o.number("denied", *denied);
            o.number("refused", *refused);
        }
        Body::Process { what, child, status, .. } => {
            o.number_or_null("child", child.map(u64::from));
            o.number_or_null("status", status.map(u64::from));
            o.bytes("what", what.as_bytes());
        }
        Body::Gap { cpu, missing, why, detail } => {
            o.number_or_null("cpu", cpu.map(u64::from));
            o.bytes_or_null("found", cut(detail));
            o.number("missing", *missing);
            o.bytes("why", cut(why.as_bytes()));
        }
        Body::Recovery { why, bytes_cut } => {
            o.number("bytes_cut", *bytes_cut);
            o.bytes("why", cut(why.as_bytes()));
        }
        Body::Policy { policy: p, file, mode, rules } => {
            o.bytes("file", cut(file));
            o.bytes("mode", mode.as_bytes());
            policy(o, p);
            o.number("rules", *rules);
        }
        Body::Start { version, kernel, adopted } => {
            o.boolean("adopted", *adopted);
            o.bytes("kernel", kernel.as_bytes());
            o.bytes("version", version.as_bytes());
        }
        Body::Stop { version } => o.bytes("version", version.as_bytes()),
    }
}

/// Why bytes are not a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Too long.
    #[error("longer than a receipt may be")]
    TooLong,
    /// Not JSON.
    #[error("not JSON")]
    Json,
    /// Not the one encoding.
    #[error(transparent)]
    Canonical(#[from] NotCanonical),
    /// Of another schema, or a kind that is not known.
    #[error("not a receipt of schema {SCHEMA}")]
    Schema,
}

/// Members that each kind has, sorted.
fn members(kind: &str) -> &'static [&'static str] {
    match kind {
        "action" => &[
            "action", "boot_ns", "decision", "host", "identity", "kind", "outcome", "seq", "session", "time",
            "v",
        ],
        "outcome" => {
            &["boot_ns", "detail", "host", "identity", "kind", "outcome", "seq", "session", "time", "v"]
        }
        "session_open" | "process" => {
            &["boot_ns", "detail", "host", "identity", "kind", "seq", "session", "time", "v"]
        }
        _ => &["boot_ns", "detail", "host", "kind", "seq", "session", "time", "v"],
    }
}

/// Reads a receipt strictly: its one encoding, the members of its kind and no others.
pub fn parse(bytes: &[u8]) -> Result<serde_json::Value, ParseError> {
    if bytes.len() > MAX_RECEIPT {
        return Err(ParseError::TooLong);
    }
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|_| ParseError::Json)?;
    let mut again = Vec::with_capacity(bytes.len());
    canonical::reencode(&value, &mut again)?;
    if again != bytes {
        return Err(ParseError::Canonical(NotCanonical));
    }
    let kind = value["kind"].as_str().ok_or(ParseError::Schema)?;
    if value["v"] != SCHEMA || !KINDS.contains(&kind) {
        return Err(ParseError::Schema);
    }
    let object = value.as_object().ok_or(ParseError::Schema)?;
    if !object.keys().map(String::as_str).eq(members(kind).iter().copied()) {
        return Err(ParseError::Schema);
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn common() -> Common<'static> {
        Common {
            time_ns: 1_795_514_400_000_000_007,
            boot_ns: 12,
            host: "h",
            session: Some(SessionRef { id: 0x1_0000_0002, uuid: "u" }),
            seq: Some(Seq { cpu: 1, n: 5 }),
        }
    }

    fn sample<'a>(path: &'a [u8], reason: &'a str) -> Body<'a> {
        Body::Action(Action {
            tool: "read",
            operation: "open_read",
            path,
            path2: path,
            target: path,
            network: Some(Network {
                family: 2,
                sock_type: 1,
                protocol: 6,
                addr: Some([127, 0, 0, 1].into()),
                port: 80,
            }),
            object: FileId { dev: 1, ino: u64::MAX, mode: 0o100644 },
            arg: 0,
            flags: &["also_read"],
            identity: Identity { comm: path, ..Identity::default() },
            decision: Decided {
                result: "DENY",
                audit: false,
                cause: "rule",
                facet: "open_read",
                rule: Some("r"),
                reason: Some(reason),
                policy: PolicyRef::default(),
                took_ns: 3,
            },
        })
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

    #[test]
    fn every_kind_parses_back_and_equals_an_independent_rfc_8785() {
        let who = Identity { comm: b"sh", ..Identity::default() };
        let p = PolicyRef { name: "n", version: "1", hash: "00" };
        let bodies = [
            sample(b"/a\xff%\"\\", "because"),
            Body::Outcome(Outcome {
                of: None,
                result: "executed",
                argv: b"a\0\0b\0",
                argv_len: 5,
                cut: false,
                cwd: b"/",
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
            Body::SessionClose { allowed: 1, denied: 2, audited: 3, refused: 4 },
            Body::Process { what: "fork", child: Some(3), status: None, identity: who },
            Body::Gap { cpu: None, missing: 2, why: "ring full", detail: b"\0" },
            Body::Recovery { why: "torn", bytes_cut: 7 },
            Body::Policy { policy: p, file: b"/f", mode: "enforce", rules: 3 },
            Body::Start { version: "1", kernel: "6.1", adopted: false },
            Body::Stop { version: "1" },
        ];
        let mut seen = Vec::new();
        for body in &bodies {
            let mut out = Vec::new();
            encode(&common(), body, &mut out);
            let value = parse(&out).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out)));
            assert_eq!(serde_json_canonicalizer::to_vec(&value).unwrap(), out);
            seen.push(value["kind"].as_str().unwrap().to_owned());
        }
        seen.sort();
        assert_eq!(seen, KINDS);
    }

    #[test]
    fn the_longest_receipt_stays_within_its_bound() {
        let path = [0xffu8; 4096];
        let mut out = Vec::new();
        encode(&common(), &sample(&path, &"\u{fc}".repeat(4000)), &mut out);
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
            encode(&common(), &sample(&path, "r"), &mut out);
            let value = parse(&out).unwrap();
            prop_assert_eq!(canonical::decode(value["action"]["path"].as_str().unwrap()).unwrap(), path);
        }
    }
}
