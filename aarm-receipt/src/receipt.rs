//! What a receipt says, and its one encoding.
//!
//! | member | in | meaning |
//! |---|---|---|
//! | `v` | all | schema version, [`SCHEMA`] |
//! | `kind` | all | which of [`KINDS`] |
//! | `time` | all | RFC 3339, UTC, nanoseconds; `boot_ns`: the same instant on the clock since boot |
//! | `host` | all | the host and boot it happened on |
//! | `session` | of sessions | `id` in the kernel, `uuid` for ever |
//! | `seq` | from the kernel | `cpu` and the number `n` of the event there |
//! | `action` | action | tool (family), operation, object: what was attempted |
//! | `context` | action | `labels` of the session when it was decided, what the action `adds`, history `conditions` that held (bits), conditions on who acts (`subjects`) that held and that were `unknown` (bits) |
//! | `decision` | action | result, mode, rule, reason, cause, facet, policy (name, version, hash), time taken; of MODIFY `modified`: where to it was redirected; `hold`: the name of the hold that it waits in (STEP_UP and DEFER), or that was answered |
//! | `detail` | attempt | a resolver that was asked about a hold: what it `found` (ALLOW, DENY, `unknown`, `failed`), its `text` and `facts` |
//! | `detail` | resolution | what became of a hold: `answer` (ALLOW, MODIFY or DENY), `modified`: what was changed of a program before its first instruction, before and after, but of variables the names only (`more`: so many are not listed), `method`, for answers of people `approver` and `scope`, `of` (the event that began it), time waited; `left`: so many other rules are still to be answered before it happens |
//! | `identity` | of processes | human (a claim), user, process, program, agent (the session's first program), `cgroup` where the process was when it was born or last ran a program |
//! | `outcome` | outcome | what became of an action, as far as it was observed |
//! | `detail` | all others | what the kind is about |
//!
//! What has no value is left out: there is no null, no empty text where there may be none, no empty list of flags.
//! So is what would repeat another member: `decision.facet` where it is `action.operation`, `identity.tid` where it
//! is `identity.pid`, `identity.cgroup` where it is the root or not known.
//!
//! Bytes that are not text (paths, arguments) are percent-encoded, see [`crate::canonical`].

mod parse;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::canonical::{self, Encoded, Object};
use crate::key;

pub use parse::{ParseError, parse};

/// Version of the members above.
pub const SCHEMA: u64 = 1;
/// Most bytes of one receipt.
pub const MAX_RECEIPT: usize = 65_535;
/// Most bytes of a text that comes from outside (reason, intent, detail); longer ones are cut.
pub const TEXT_MAX: usize = 4096;
/// Most bytes of a cgroup's path; longer ones are cut.
pub const CGROUP_MAX: usize = 1024;
/// Every kind of receipt.
pub const KINDS: &[&str] = &[
    "action",
    "attempt",
    "gap",
    "name",
    "outcome",
    "policy",
    "process",
    "recovery",
    "resolution",
    "session_close",
    "session_open",
    "start",
    "stop",
    "summary",
];

/// A session.
#[derive(Clone, Copy, Debug)]
pub struct SessionRef<'a> {
    /// Id in the kernel.
    pub id: u64,
    /// Id for ever.
    pub uuid: &'a str,
}

impl SessionRef<'_> {
    /// For [`Common::session`].
    pub fn encoded(&self) -> Encoded {
        Encoded::of(|out| {
            let mut o = Object::begin(out);
            o.bytes(key!("id"), &hold_name(self.id));
            o.bytes(key!("uuid"), self.uuid.as_bytes());
            o.end();
        })
    }
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
#[derive(Clone, Debug)]
pub struct Common<'a> {
    /// Nanoseconds since 1970, UTC.
    pub time_ns: u64,
    /// Nanoseconds since boot.
    pub boot_ns: u64,
    /// Host and boot: a text.
    pub host: &'a Encoded,
    /// The session, by [`SessionRef::encoded`].
    pub session: Option<Cow<'a, Encoded>>,
    /// The kernel event.
    pub seq: Option<Seq>,
}

/// What became of an action that waited.
#[derive(Clone, Copy, Debug, Default)]
pub struct Resolution<'a> {
    /// Name of the hold.
    pub hold: u64,
    /// The event that it began with.
    pub of: Option<Seq>,
    /// `ALLOW`, `MODIFY` or `DENY`.
    pub answer: &'a str,
    /// How it was reached: `approval`, `timeout`, `gone`, `restart`.
    pub method: &'a str,
    /// Who answered; empty if nobody did.
    pub approver: &'a str,
    /// For what the answer is good: `once`, `session`, or until when; empty if nobody answered.
    pub scope: &'a str,
    /// What was said with it; may be empty.
    pub comment: &'a str,
    /// The rule that asked; empty: a default.
    pub rule: &'a str,
    /// How many others are still to be answered before it happens.
    pub left: u64,
    /// How long it waited.
    pub waited_ns: u64,
    /// What was changed.
    pub modified: Option<Modified<'a>>,
    /// Who waited.
    pub identity: Identity<'a>,
}

/// What a resolver found out.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// Name of the hold.
    pub hold: u64,
    /// Which resolver.
    pub resolver: &'a str,
    /// `ALLOW`, `DENY`, `unknown` or `failed`.
    pub found: &'a str,
    /// What is to say of it.
    pub text: &'a str,
    /// What it says besides.
    pub facts: &'a BTreeMap<String, String>,
    /// How long it took.
    pub took_ns: u64,
}

/// Most members of each list of [`Modified`]; the others are counted.
pub const MODIFIED_MAX: usize = 48;
/// Most bytes of a text in it; longer ones are cut.
pub const MODIFIED_TEXT_MAX: usize = 128;

/// What was changed of a program before its first instruction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Modified<'a> {
    /// Names of variables that it did not get.
    pub env: &'a [String],
    /// Limits, before and after.
    pub limits: &'a [(String, u64, u64)],
    /// Words of its command line by their place, before and after.
    pub args: &'a [(u64, String, String)],
}

/// Who acted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity<'a> {
    /// On whose behalf, as claimed at registration: a text.
    pub human: Option<&'a Encoded>,
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
    /// Program, if it is known: a text.
    pub exe: Option<&'a Encoded>,
    /// The session's first program, if it is known: a text.
    pub agent: Option<&'a Encoded>,
    /// Path of its cgroup from the root of the unified hierarchy, when it was born or last ran a program; if it is known, and not
    /// the root: a text of at most [`CGROUP_MAX`] bytes.
    pub cgroup: Option<&'a Encoded>,
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

impl PolicyRef<'_> {
    /// For [`Decided::policy`].
    pub fn encoded(&self) -> Encoded {
        Encoded::of(|out| self.write(Object::begin(out)))
    }

    fn write(&self, mut o: Object<'_>) {
        o.bytes(key!("hash"), self.hash.as_bytes());
        o.bytes(key!("name"), self.name.as_bytes());
        o.bytes(key!("version"), self.version.as_bytes());
        o.end();
    }
}

/// A socket's side of an action.
#[derive(Clone, Copy, Debug)]
pub struct Network<'a> {
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
    /// Names by which the address was known, each ended by NUL.
    pub hosts: &'a [u8],
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
    /// Operation of the facet that decided, if it is not the action's own.
    pub facet: Option<&'a str>,
    /// The rule.
    pub rule: Option<&'a str>,
    /// The rule's reason.
    pub reason: Option<&'a str>,
    /// Name of the hold that it waits in, or that was answered; 0: none.
    pub hold: u64,
    /// Where to it was redirected: an address and port.
    pub redirect: Option<&'a str>,
    /// The policy, by [`PolicyRef::encoded`].
    pub policy: &'a Encoded,
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
    /// Arguments of an exec that its command line decides, each ended by NUL.
    pub argv: &'a [u8],
    /// Socket.
    pub network: Option<Network<'a>>,
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
    /// What the session had seen.
    pub context: Seen<'a>,
}

/// What a session had seen when an action was decided.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen<'a> {
    /// Names of labels, by bit; at most 64.
    pub names: &'a [String],
    /// Labels it had.
    pub labels: u64,
    /// Labels that the action adds.
    pub adds: u64,
    /// History conditions of the policy that held, by their order.
    pub conditions: u32,
    /// Subject conditions of the policy, by their order: those that held in the low half, unknown ones in the high half.
    pub subjects: u32,
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
    /// Allowed actions that the policy has only counted, since the session began: the last summary of a session
    /// has them all.
    Summary {
        /// Operations and how many; none of which there was none.
        counts: &'a [(&'a str, u64)],
        /// The policy.
        policy: PolicyRef<'a>,
    },
    /// A resolver told the session a name's addresses; from then on it knows them by it.
    Name {
        /// The name.
        name: &'a [u8],
        /// The addresses, 16 bytes each, IPv4 mapped.
        addresses: &'a [u8],
        /// Who told.
        resolver: IpAddr,
        /// For how long the first of them holds.
        seconds: u64,
    },
    /// What became of an action that waited.
    Resolution(Resolution<'a>),
    /// A resolver tried to find out how to decide one.
    Attempt(Attempt<'a>),
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

/// The name of a hold, as receipts and people have it.
pub fn hold_name(hold: u64) -> [u8; 16] {
    let mut name = [0; 16];
    for (i, d) in name.iter_mut().enumerate() {
        *d = b"0123456789abcdef"[(hold >> (60 - 4 * i) & 15) as usize];
    }
    name
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
    // Members in sorted order: action, boot_ns, context, decision, detail, host, identity, kind, outcome, seq,
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
        Body::Gap { .. } => ("gap", None),
        Body::Recovery { .. } => ("recovery", None),
        Body::Policy { .. } => ("policy", None),
        Body::Start { .. } => ("start", None),
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

#[cfg(test)]
mod tests {
    use super::*;
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
            Body::SessionClose { allowed: 1, denied: 2, audited: 3, refused: 4 },
            Body::Process { what: "fork", child: Some(3), status: None, identity: who },
            Body::Gap { cpu: None, missing: 2, why: "ring full", detail: b"\0" },
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
            Body::Stop { version: "1" },
        ];
        let mut seen = Vec::new();
        for body in &bodies {
            let mut out = Vec::new();
            encode(&common(&host), body, &mut out);
            let value = parse(&out).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out)));
            assert_eq!(serde_json_canonicalizer::to_vec(&value).unwrap(), out);
            seen.push(value["kind"].as_str().unwrap().to_owned());
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen, KINDS);
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
}
