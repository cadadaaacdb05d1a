//! Events: what the kernel programs put into the ring buffer.
//!
//! ```text
//! offset 0            EventHeader (fixed size)
//! HEADER_BYTES        gap    (0 to 7 bytes without meaning: the path is built backwards, the header is aligned)
//! + gap               path   (path_len bytes, absolute, no NUL)
//! + path_len          path2  (path2_len bytes: rename and link target; cwd of an exec)
//! + path2_len         args   (args_len bytes: argv, each argument ended by NUL; a symlink's target; the names by which
//!                             an address was known, each ended by NUL)
//! = len
//! ```
//!
//! [`Event::decode`] trusts nothing: every length, enum and flag is checked, and a record that does not add
//! up is an error, never a guess.

use crate::ABI_VERSION;
use crate::hold::{ALSO, Asks};
use crate::limits::*;
use crate::op::{Decision, Operation, named_u8};
use crate::state::ObjectId;

named_u8! {
    /// What an event reports.
    Kind {
        /// An action that was decided.
        Action = 1 => "action",
        /// An exec that took effect: the exact arguments and working directory.
        ExecCommitted = 2 => "exec_committed",
        /// A new process in a session; `arg` is its process id.
        Fork = 3 => "fork",
        /// A process of a session ended; `arg` is its wait status.
        Exit = 4 => "exit",
        /// An agent selector began a session; `rule` is the selector.
        SessionBegin = 5 => "session_begin",
        /// The last task of a session ended.
        SessionEnd = 6 => "session_end",
        /// A resolver gave a name addresses, and the session knows them by it from now on. `path` is the name, `args` the
        /// addresses (16 bytes each, IPv4 mapped), `addr` the resolver, `arg` the seconds for which the first one holds.
        /// Nobody acts: process, user and command are zero.
        Name = 7 => "name",
    }
}

named_u8! {
    /// Why the decision is what it is.
    Cause {
        /// A rule matched.
        Rule = 1 => "rule",
        /// No rule matched: the family's default.
        Default = 2 => "default",
        /// The path could not be built within its bounds: fail closed.
        PathTooLong = 3 => "path_too_long",
        /// Kernel memory could not be read: fail closed.
        ReadFailed = 4 => "read_failed",
        /// The session's policy is not loaded: fail closed.
        NoPolicy = 5 => "no_policy",
        /// Not a decision (process events).
        None = 6 => "none",
        /// Rules with the same right contradict each other: DEFER.
        Conflict = 7 => "conflict",
        /// What must be remembered of the file found no room: fail closed.
        NoMemory = 8 => "no_memory",
        /// The rule that would decide depends on what is not known of who acts: DENY or DEFER, as it says.
        Unknown = 9 => "unknown",
        /// It waited, and this was answered.
        Answered = 10 => "answered",
        /// It would have waited, but an earlier answer is good for it as well.
        Granted = 11 => "granted",
        /// It would have to wait, and cannot: its system call cannot be begun anew. Refused.
        CannotWait = 12 => "cannot_wait",
        /// The rule that would decide an exec asks for its command line. An exec so far goes on to its first instruction, waits there
        /// (`exec_args`), and is decided; anything else that it would do before that is refused.
        Args = 13 => "args",
        /// It would have to be changed to happen, and cannot be: refused.
        CannotModify = 14 => "cannot_modify",
    }
}

/// The policy was in audit mode: the decision was recorded, not enforced.
pub const FLAG_AUDIT: u16 = 1;
/// The arguments did not fit and were cut; `arg` has their full length.
pub const FLAG_ARGS_CUT: u16 = 2;
/// The open was for reading as well as writing.
pub const FLAG_ALSO_READ: u16 = 4;
/// The unix address is abstract: the path is its name without the leading NUL.
pub const FLAG_ABSTRACT: u16 = 8;
/// The object has no name any more, or never had one in this tree.
pub const FLAG_UNLINKED: u16 = 16;
/// The path was cut off because it could not be built whole.
pub const FLAG_PATH_CUT: u16 = 32;
/// Renamed by exchange: both ends are source and target.
pub const FLAG_EXCHANGE: u16 = 64;
/// `path2` is the object's path on the host: what was used is another name of it.
pub const FLAG_ALIAS: u16 = 128;
/// Through a descriptor that was opened elsewhere: before the session, under another policy, or by another session.
pub const FLAG_INHERITED: u16 = 256;
/// The object is a directory.
pub const FLAG_DIRECTORY: u16 = 512;
/// The object has more than one hard link.
pub const FLAG_LINKED: u16 = 1024;
/// The action waits: nothing has happened yet, and `hold` is its name.
pub const FLAG_HELD: u16 = 2048;
/// The image that waits was traced when it began to: its tracer needs no leave any more to change it.
pub const FLAG_TRACED: u16 = 4096;
const FLAGS_KNOWN: u16 = 8191;

/// `rule` when no rule decided.
pub const NO_RULE: u16 = u16::MAX;

/// The fixed part of an event.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct EventHeader {
    /// [`ABI_VERSION`].
    pub version: u16,
    /// [`Kind`].
    pub kind: u8,
    /// [`Operation`]; 0 where `kind` is not an action.
    pub op: u8,
    /// Bytes of the whole event.
    pub len: u32,
    /// Sequence number on `cpu`, from 0; a missing one is an event that found no room.
    pub seq: u64,
    /// Nanoseconds since boot (`CLOCK_BOOTTIME`) when the hook was entered.
    pub time_ns: u64,
    /// Session id, see [`crate::state::session_id`].
    pub session: u64,
    /// Nanoseconds from `time_ns` to the event's emission: what deciding took.
    pub took_ns: u32,
    /// CPU the program ran on.
    pub cpu: u32,
    /// Policy generation that decided.
    pub policy: u32,
    /// Process id (thread group), in the initial pid namespace.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Parent's process id.
    pub ppid: u32,
    /// Real user id, in the initial user namespace.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// [`Decision`].
    pub decision: u8,
    /// [`Cause`].
    pub cause: u8,
    /// `FLAG_*`.
    pub flags: u16,
    /// Index of the rule in the compiled policy, or [`NO_RULE`].
    pub rule: u16,
    /// [`Operation`] of the facet that decided (a rename is also a read of its source).
    pub facet: u8,
    /// IP protocol.
    pub protocol: u8,
    /// The object. Of a birth, an exec that took effect and a session's beginning: `ino` is the id of the process's cgroup in
    /// the unified hierarchy (of the child's, at a birth).
    pub object: ObjectId,
    /// By kind and operation: open flags, new mode, new owner (uid << 32 | gid), child pid, exit status,
    /// full length of the arguments.
    pub arg: u64,
    /// Socket address family.
    pub family: u16,
    /// Port, host byte order.
    pub port: u16,
    /// Socket type.
    pub sock_type: u16,
    /// Bytes of `path`.
    pub path_len: u16,
    /// Bytes of `path2`.
    pub path2_len: u16,
    /// Bytes of `args`.
    pub args_len: u16,
    /// Bytes between header and path, 0 to [`GAP_MAX`]: they mean nothing.
    pub gap: u32,
    /// IPv6 address, or IPv4 in the first four bytes, network byte order.
    pub addr: [u8; 16],
    /// Command name of the thread, NUL-padded.
    pub comm: [u8; 16],
    /// Labels of the session when the action was decided.
    pub labels: u64,
    /// Labels that the action adds, if it passes.
    pub adds: u64,
    /// History conditions of the policy that held, a bit for each.
    pub conditions: u32,
    /// Subject conditions of the policy that held (low half), and that were unknown (high half), a bit for each.
    pub subjects: u32,
    /// Key of the hold (see [`crate::hold`]) that the action waits in, or that was answered; of a grant, [`Hold::action`];
    /// otherwise 0.
    ///
    /// [`Hold::action`]: crate::hold::Hold::action
    pub hold: u64,
    /// What else asks about the action that waits, besides `rule`, see [`crate::hold::Asks`]; 0 for none, and after the last.
    pub also: [u16; ALSO],
}

/// Most bytes between header and path: records come in a few sizes.
pub const GAP_MAX: usize = 39;

/// Bytes of [`EventHeader`].
pub const HEADER_BYTES: usize = size_of::<EventHeader>();

const _: () = assert!(HEADER_BYTES == 184);
const _: () = assert!(EVENT_MAX >= HEADER_BYTES + 2 * PATH_MAX);

/// Why bytes are not an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Fewer bytes than a header.
    Short,
    /// Another ABI version.
    Version(u16),
    /// The stated length, or the sum of the parts, is not the record's length.
    Length,
    /// A field holds a value that means nothing; its name.
    Field(&'static str),
}

impl core::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Short => write!(f, "event shorter than its header"),
            Self::Version(v) => write!(f, "event of ABI version {v}, this program speaks {ABI_VERSION}"),
            Self::Length => write!(f, "event whose parts do not add up to its length"),
            Self::Field(name) => write!(f, "event with an invalid `{name}`"),
        }
    }
}

impl core::error::Error for DecodeError {}

/// A decoded event, borrowing its variable part from the record.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// The fixed part, for its plain numbers.
    pub header: EventHeader,
    /// What the event reports.
    pub kind: Kind,
    /// The operation; `Exec` for process events.
    pub op: Operation,
    /// The decision.
    pub decision: Decision,
    /// Why.
    pub cause: Cause,
    /// Operation of the facet that decided.
    pub facet: Operation,
    /// The deciding rule's index.
    pub rule: Option<u16>,
    /// The object's path, absolute, as seen from the root of its mount namespace.
    pub path: &'a [u8],
    /// Second path, see the module docs.
    pub path2: &'a [u8],
    /// Arguments, each ended by NUL.
    pub args: &'a [u8],
    /// What else asks about the action, until the first `None`.
    pub also: [Option<Asks>; ALSO],
}

impl<'a> Event<'a> {
    /// Decodes one ring-buffer record.
    pub fn decode(record: &'a [u8]) -> Result<Self, DecodeError> {
        if record.len() < HEADER_BYTES {
            return Err(DecodeError::Short);
        }
        // SAFETY: the length was checked, and every bit pattern is a valid `EventHeader` (integers only).
        let header: EventHeader = unsafe { core::ptr::read_unaligned(record.as_ptr().cast()) };
        if header.version != ABI_VERSION {
            return Err(DecodeError::Version(header.version));
        }
        let kind = Kind::from_u8(header.kind).ok_or(DecodeError::Field("kind"))?;
        let op = Operation::from_u8(header.op).ok_or(DecodeError::Field("op"))?;
        let facet = Operation::from_u8(header.facet).ok_or(DecodeError::Field("facet"))?;
        let decision = Decision::from_u8(header.decision).ok_or(DecodeError::Field("decision"))?;
        let cause = Cause::from_u8(header.cause).ok_or(DecodeError::Field("cause"))?;
        if header.flags & !FLAGS_KNOWN != 0 {
            return Err(DecodeError::Field("flags"));
        }
        if header.conditions >> HISTORY_CONDITIONS != 0 {
            return Err(DecodeError::Field("conditions"));
        }
        if header.subjects & header.subjects >> 16 != 0 {
            return Err(DecodeError::Field("subjects"));
        }
        let rule = match header.rule {
            NO_RULE => None,
            r if (r as usize) < MAX_RULES => Some(r),
            _ => return Err(DecodeError::Field("rule")),
        };
        let mut also = [None; ALSO];
        let used = header.also.iter().position(|bits| *bits == 0).unwrap_or(ALSO);
        if header.also[used..].iter().any(|bits| *bits != 0) {
            return Err(DecodeError::Field("also"));
        }
        for (to, bits) in also.iter_mut().zip(&header.also[..used]) {
            *to = Some(Asks::from_bits(*bits).ok_or(DecodeError::Field("also"))?);
        }
        let (p, p2, a) = (header.path_len as usize, header.path2_len as usize, header.args_len as usize);
        let gap = header.gap as usize;
        if gap > GAP_MAX || p > PATH_MAX || p2 > PATH_MAX || a > ARGS_MAX {
            return Err(DecodeError::Length);
        }
        let total = HEADER_BYTES + gap + p + p2 + a;
        if header.len as usize != total || record.len() != total {
            return Err(DecodeError::Length);
        }
        let (path, rest) = record[HEADER_BYTES + gap..].split_at(p);
        let (path2, args) = rest.split_at(p2);
        Ok(Self { header, kind, op, decision, cause, facet, rule, path, path2, args, also })
    }

    /// The thread's command name without its padding.
    pub fn comm(&self) -> &[u8] {
        let end = self.header.comm.iter().position(|b| *b == 0).unwrap_or(self.header.comm.len());
        &self.header.comm[..end]
    }

    /// Whether the decision was recorded only.
    pub fn is_audit(&self) -> bool {
        self.header.flags & FLAG_AUDIT != 0
    }
}

#[cfg(test)]
mod tests;
