//! What a receipt says, and its one encoding.
//!
//! Which members each kind has, of which type and from where, is one table in [`schema`]; `docs/receipts.md` shows it.
//!
//! What has no value is left out: there is no null, no empty text where there may be none, no empty list of flags.
//! So is what would repeat another member: `decision.facet` where it is `action.operation`, `identity.tid` where it
//! is `identity.pid`, `identity.cgroup` where it is the root or not known.
//!
//! Bytes that are not text (paths, arguments) are percent-encoded, see [`crate::canonical`].

mod encode;
mod parse;
mod reference;
pub mod schema;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::canonical::{Encoded, Object};
use crate::key;

pub use encode::{cut, encode, family_number, time_text};
pub(crate) use parse::spans;
pub use parse::{Facts, ParseError, check, parse};
pub use reference::{json_schema, receipts_md};

/// Version of the members above.
pub const SCHEMA: u64 = 1;
/// Most bytes of one receipt.
pub const MAX_RECEIPT: usize = 65_535;
/// Most bytes of a text that comes from outside (reason, intent, detail); longer ones are cut.
pub const TEXT_MAX: usize = 4096;
/// Most bytes of a cgroup's path; longer ones are cut.
pub const CGROUP_MAX: usize = 1024;
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// For what the answer is good: `once`, `session`, `like` (with others like it), or until when; empty if nobody answered.
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
    /// Something that an agent said of itself.
    Statement {
        /// `intent` or `tool`.
        what: &'a str,
        /// The tool; empty of a request.
        name: &'a str,
        /// What was said; the beginning of a long one.
        text: &'a [u8],
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
    /// Receipts are about to be taken out of the log, from its beginning.
    Prune {
        /// The first that stays.
        before: u64,
        /// Segments that go.
        segments: u64,
        /// Their bytes.
        bytes: u64,
        /// `size` or `age`.
        why: &'a str,
    },
    /// The log's keys are exchanged for others: these are for the receipts after this one.
    Keys {
        /// Verifier key of checkpoints.
        checkpoint: &'a str,
        /// Verifier key of single receipts.
        receipt: &'a str,
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
    /// What was redacted of a session is erased.
    Erasure {
        /// The session: its UUID, or its number.
        session: &'a str,
        /// How many values.
        values: u64,
        /// Who asked for it.
        by: &'a str,
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

#[cfg(test)]
mod tests;
