//! From a kernel event to its receipt.
//!
//! The hot path of the daemon: no allocation, no lookup by name. Must never: drop an event; what cannot be
//! understood becomes a `gap` receipt.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use aarm_common::event::{self, Event};
use aarm_common::op::{Decision, Operation};
use aarm_common::policy::{AF_INET, AF_INET6};
use aarm_receipt::canonical::Encoded;
use aarm_receipt::receipt::{
    Action, Decided, FileId, Identity, Network, Outcome, PolicyRef, Seen, Seq, SessionRef,
};
use aarm_receipt::{Body, Common};

use super::policies::Loaded;
use super::sessions::Session;
use crate::api::types::PolicyLabel;

/// The clocks: unix time is boot time plus this.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    offset_ns: u64,
}

impl Clock {
    /// Reads both clocks.
    pub fn now() -> Self {
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { offset_ns: (unix.as_nanos() as u64).saturating_sub(crate::kernel::boot_ns()) }
    }

    /// Unix time of a boot time.
    #[inline]
    pub fn unix(self, boot_ns: u64) -> u64 {
        boot_ns.saturating_add(self.offset_ns)
    }
}

/// RFC 3339 of unix nanoseconds.
pub fn timestamp(unix_ns: u64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(unix_ns)).map(|t| t.to_string()).unwrap_or_default()
}

/// The policy as receipts name it.
#[inline]
pub fn policy_ref(label: &PolicyLabel) -> PolicyRef<'_> {
    PolicyRef { name: &label.name, version: &label.version, hash: &label.hash }
}

/// What all receipts of an event have.
#[inline]
pub fn common<'a>(
    e: &Event<'_>,
    clock: Clock,
    host: &'a Encoded,
    session: Option<&'a Session>,
) -> Common<'a> {
    Common {
        time_ns: clock.unix(e.header.time_ns),
        boot_ns: e.header.time_ns,
        host,
        session: Some(match session {
            Some(s) => Cow::Borrowed(&s.encoded),
            None => Cow::Owned(SessionRef { id: e.header.session, uuid: "" }.encoded()),
        }),
        seq: Some(Seq { cpu: e.header.cpu, n: e.header.seq }),
    }
}

/// Who acted.
#[inline]
pub fn identity<'a>(e: &'a Event<'_>, session: Option<&'a Session>) -> Identity<'a> {
    let process = session.and_then(|s| s.processes.get(&e.header.pid));
    Identity {
        human: session.map(|s| s.human.encoded()),
        uid: e.header.uid,
        gid: e.header.gid,
        pid: e.header.pid,
        tid: e.header.tid,
        ppid: e.header.ppid,
        comm: e.comm(),
        exe: process.map(|p| p.exe.encoded()),
        agent: session.map(|s| s.exe.encoded()),
        cgroup: process.map(|p| p.cgroup.encoded()),
    }
}

/// Flags that receipts name.
const FLAGS: usize = 10;

/// The flags of an event by name, sorted.
fn flags(e: &Event<'_>, names: &mut [&'static str; FLAGS]) -> usize {
    let known: [(u16, &'static str); FLAGS] = [
        (event::FLAG_ABSTRACT, "abstract"),
        (event::FLAG_ALIAS, "alias"),
        (event::FLAG_ALSO_READ, "also_read"),
        (event::FLAG_ARGS_CUT, "args_cut"),
        (event::FLAG_DIRECTORY, "directory"),
        (event::FLAG_EXCHANGE, "exchange"),
        (event::FLAG_INHERITED, "inherited"),
        (event::FLAG_LINKED, "linked"),
        (event::FLAG_PATH_CUT, "path_cut"),
        (event::FLAG_UNLINKED, "unlinked"),
    ];
    let mut n = 0;
    for (bit, name) in known {
        if e.header.flags & bit != 0 {
            names[n] = name;
            n += 1;
        }
    }
    n
}

/// The address of an action, if it has one: `203.0.113.9:443`, `[2001:db8::1]:443`.
pub fn address(e: &Event<'_>) -> Option<String> {
    reached(e).map(|address| address.to_string())
}

/// The address of an action, if it has one.
#[inline]
pub fn reached(e: &Event<'_>) -> Option<SocketAddr> {
    let n = network(e)?;
    Some(SocketAddr::new(n.addr?, n.port))
}

fn network<'a>(e: &Event<'a>) -> Option<Network<'a>> {
    if !e.op.has_socket() && e.header.family == 0 {
        return None;
    }
    let a = &e.header.addr;
    let addr = if !e.op.has_address() {
        None
    } else {
        match e.header.family {
            AF_INET => Some(IpAddr::V4(Ipv4Addr::new(a[0], a[1], a[2], a[3]))),
            AF_INET6 => Some(IpAddr::V6(Ipv6Addr::from(*a))),
            _ => None,
        }
    };
    Some(Network {
        family: e.header.family,
        sock_type: e.header.sock_type,
        protocol: e.header.protocol,
        addr,
        port: e.header.port,
        hosts: if e.op.has_address() { e.args } else { b"" },
    })
}

/// The receipt of a decided action.
#[inline]
pub fn action(
    e: &Event<'_>,
    clock: Clock,
    host: &Encoded,
    session: Option<&Session>,
    policy: Option<&Loaded>,
    labels: &[String],
    out: &mut Vec<u8>,
) {
    let mut names = [""; FLAGS];
    let n = flags(e, &mut names);
    let rule = e.rule.and_then(|r| policy.and_then(|p| p.rules.get(r as usize)));
    // A rule, or a whole policy, that no record tells of: the kernel has it from a former daemon.
    let unknown = e.rule.filter(|_| rule.is_none()).map(|r| format!("#{r}"));
    let nothing = match policy {
        Some(_) => Encoded::default(),
        None => PolicyRef::default().encoded(),
    };
    let body = Body::Action(Action {
        tool: e.op.family().name(),
        operation: e.op.name(),
        path: e.path,
        // Of a command line it is the working directory, which the outcome of the exec has.
        path2: if e.op == Operation::ExecArgs { b"" } else { e.path2 },
        target: if e.op.has_address() || e.op == Operation::ExecArgs { b"" } else { e.args },
        argv: if e.op == Operation::ExecArgs { e.args } else { b"" },
        network: network(e),
        object: FileId { dev: e.header.object.dev, ino: e.header.object.ino, mode: e.header.object.mode },
        arg: e.header.arg,
        flags: &names[..n],
        identity: identity(e, session),
        decision: Decided {
            result: e.decision.name(),
            audit: e.is_audit() || policy.is_some_and(|p| p.audit),
            cause: e.cause.name(),
            facet: (e.facet != e.op).then(|| e.facet.name()),
            rule: rule.map(|r| r.id.as_str()).or(unknown.as_deref()),
            reason: rule.and_then(|r| r.reason.as_deref()),
            policy: policy.map_or(&nothing, |p| &p.encoded),
            hold: e.header.hold,
            redirect: rule.filter(|_| e.decision == Decision::Modify).and_then(|r| r.redirect.as_deref()),
            took_ns: e.header.took_ns,
        },
        context: Seen {
            names: labels,
            labels: e.header.labels,
            adds: e.header.adds,
            conditions: e.header.conditions,
            subjects: e.header.subjects,
        },
    });
    aarm_receipt::encode(&common(e, clock, host, session), &body, out);
}

/// The receipt of an exec that took effect.
pub fn outcome(
    e: &Event<'_>,
    clock: Clock,
    host: &Encoded,
    session: Option<&Session>,
    of: Option<Seq>,
    out: &mut Vec<u8>,
) {
    let body = Body::Outcome(Outcome {
        of,
        result: "executed",
        argv: e.args,
        argv_len: e.header.arg,
        cut: e.header.flags & event::FLAG_ARGS_CUT != 0,
        cwd: e.path2,
        identity: identity(e, session),
    });
    aarm_receipt::encode(&common(e, clock, host, session), &body, out);
}

/// The receipt of what a resolver told.
pub fn name(e: &Event<'_>, clock: Clock, host: &Encoded, session: Option<&Session>, out: &mut Vec<u8>) {
    let resolver = IpAddr::from(e.header.addr).to_canonical();
    let body = Body::Name { name: e.path, addresses: e.args, resolver, seconds: e.header.arg };
    aarm_receipt::encode(&common(e, clock, host, session), &body, out);
}

/// Whether a receipt gets a signature of its own.
#[inline]
pub fn is_weighty(decision: u8) -> bool {
    decision != 0 && decision != Decision::Allow as u8
}
