//! State that kernel programs and the daemon share through maps: tasks, sessions, configuration, counters.

use crate::limits::*;
use crate::op::{OPERATIONS, named_u8};
use crate::policy::{Bits, Target};

/// Identity of a file: unique on this host while the inode lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ObjectId {
    /// Inode number.
    pub ino: u64,
    /// Device number of the filesystem, in the kernel's encoding (major << 20 | minor).
    pub dev: u32,
    /// Type and permission bits (`st_mode`).
    pub mode: u32,
}

/// The task is counted in its session's `tasks`.
pub const TASK_COUNTED: u32 = 1;
/// The task passed the check of an `execve` that has not taken effect yet: [`Task::exec_exe`] is valid.
pub const TASK_IN_EXEC: u32 = 2;

/// The running program was started outside the session: it is no ancestor of what the task runs next.
pub const TASK_OUTSIDE: u32 = 4;
/// The task began as a copy of one whose program had not been looked at: its own program joins its lineage as soon as it is.
pub const TASK_OWES_IMAGE: u32 = 8;

/// What the kernel keeps for a supervised task (task storage `TASKS`).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Task {
    /// Session id, see [`session_id`]; 0 = none.
    pub session: u64,
    /// `TASK_*` flags.
    pub flags: u32,
    /// Policy generation that [`Task::exe`] was computed for; 0 = not computed.
    pub exe_generation: u32,
    /// Session labels that [`Task::context`] was computed for.
    pub labels: u64,
    /// User that [`Task::context`] was computed for.
    pub uid: u32,
    /// Policy generation that [`Task::context`] and [`Task::who`] were computed for; 0 = not computed.
    pub who_generation: u32,
    /// Rules whose predicates on the user and conditions on labels hold.
    pub context: Bits,
    /// Of those, the rules whose `exe` predicate holds for the running image.
    pub who: Bits,
    /// Rules whose `exe` predicate holds for the running image.
    pub exe: Bits,
    /// The same for the image being loaded, while [`TASK_IN_EXEC`].
    pub exec_exe: Bits,
    /// Policy generation of [`Task::exec_exe`].
    pub exec_generation: u32,
    /// Subject conditions that hold (low half) and that are unknown (high half), as [`Task::context`].
    pub subjects: u32,
    /// Rules of [`Task::context`] that an unknown condition makes refuse.
    pub unsure: Bits,
    /// Patterns (`subject`) that the running image matches, computed with [`Task::exe`].
    pub image: u64,
    /// Patterns that it was held against.
    pub image_known: u64,
    /// The same for the image being loaded, with [`Task::exec_exe`].
    pub exec_image: u64,
    /// See `exec_image`.
    pub exec_known: u64,
    /// Patterns that some program of the lineage matches: within the session, what the processes above it ran when they
    /// made the next one, and what the process itself ran before.
    pub lineage: u64,
    /// Patterns that all programs of the lineage were held against.
    pub lineage_known: u64,
    /// Id of the cgroup that [`Task::container`] was computed for; 0: none.
    pub cgroup: u64,
    /// Patterns that the cgroup's path matches.
    pub container: u64,
    /// Key of the hold that was answered with ALLOW last.
    pub passed: u64,
    /// Name of the system call, and of what it is about, that was allowed to act then.
    pub passed_call: u64,
    /// Its operation.
    pub passed_op: u64,
    /// Key of the hold that was answered with ALLOW last, while its system call is begun anew because another of its actions had to wait:
    /// not to be asked again.
    pub kept: u64,
    /// Key in `LINES` of the exec that was asked for and has not taken effect; 0: its command line does not matter.
    pub line_key: u64,
    /// Key in `HOLDS` of the running image, which must not run before it is decided; 0: it may run.
    pub line_hold: u64,
    /// The rule that asks for the command line first.
    pub line_rule: u64,
    /// Not 0: there may be something of this thread in `REDIRECTING`.
    pub redirecting: u64,
    /// Where programs put the key of the path they look for.
    pub key: [u64; 7],
}

/// Entry of the map `MOVES`, which counts what changes the names of dentries and mounts: 1 if everything is seen that does.
/// Set by the daemon once it has tried.
pub const MOVES_TRUSTED: u32 = 0;
/// How many have begun.
pub const MOVES_BEGUN: u32 = 1;
/// How many are over.
pub const MOVES_DONE: u32 = 2;
/// Entries of `MOVES`.
pub const MOVES_ENTRIES: u32 = 3;

/// What is kept of a task while the kernel copies it (map `SPARES`, by the task's address).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Spare {
    /// See [`Task::session`].
    pub session: u64,
    /// See [`Task::flags`].
    pub flags: u32,
    /// The task's number (`tid`).
    pub pid: u32,
    /// See [`Task::lineage`].
    pub lineage: u64,
    /// See [`Task::lineage_known`].
    pub lineage_known: u64,
    /// When a copy was begun after one that had not been completed, in boot-time nanoseconds; 0: none was.
    pub failed_ns: u64,
}

/// Events that a history condition counts, of one session.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Counter {
    /// [`crate::policy::Watch::key`] of what is counted; another key: nothing yet.
    pub key: u64,
    /// Events so far.
    pub count: u64,
    /// Boot-time nanoseconds of the latest, at `count % WATCH_TIMES` the next.
    pub times: [u64; WATCH_TIMES],
}

/// The descriptors of the session's first process were looked at.
pub const SESSION_SCANNED: u32 = 2;
/// The session holds files open since before it began: see `INHERITED`.
pub const SESSION_INHERITS: u32 = 4;
/// Labels of the session could not be passed on to all that it shares memory with: what it does is refused until they are.
pub const SESSION_OWES_LABELS: u32 = 8;
/// The session ended: its slot waits for the daemon to recycle it.
pub const SESSION_ENDED: u32 = 1;

/// One slot of the `SESSIONS` array.
///
/// A slot is taken from the `FREE_SLOTS` queue and returned to it by the daemon, after the receipt that
/// closes the session is written.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Session {
    /// Incremented whenever the slot is taken; 0 = never used.
    pub generation: u32,
    /// Policy slot. Written by the daemon to move a session to a new compilation.
    pub policy: u32,
    /// Live tasks (threads).
    pub tasks: u64,
    /// `SESSION_*` flags.
    pub flags: u32,
    /// Objects in the session's list `SHARES`: what it maps that others may map as well.
    pub shares: u32,
    /// Actions refused because the ring had no room: they have no receipt, and no effect.
    pub refused: u64,
    /// Boot-time nanoseconds at which the session began.
    pub started_ns: u64,
    /// Labels of the data it has touched. Only ever added to.
    pub labels: u64,
    /// Actions that were allowed and only counted, by operation.
    pub summary: [u64; OPERATIONS],
    /// What the policy's history conditions count.
    pub counters: [Counter; WATCHES],
}

impl Default for Session {
    fn default() -> Self {
        Self {
            generation: 0,
            policy: 0,
            tasks: 0,
            flags: 0,
            shares: 0,
            refused: 0,
            started_ns: 0,
            labels: 0,
            summary: [0; OPERATIONS],
            counters: [Counter { key: 0, count: 0, times: [0; WATCH_TIMES] }; WATCHES],
        }
    }
}

/// A file, whatever its names: unique on this host, also after the inode number was reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ObjectKey {
    /// Inode number.
    pub ino: u64,
    /// Device, as in [`ObjectId`].
    pub dev: u32,
    /// `i_generation`; 0 where the filesystem has none.
    pub generation: u32,
}

/// Key of `LINKED`: a file under one compilation of a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct LinkedKey {
    /// Inode number.
    pub ino: u64,
    /// Device, as in [`ObjectId`].
    pub dev: u32,
    /// Policy generation.
    pub generation: u32,
}

/// Key of `SHARES`: an entry in the list of what a session maps shared. The value is the object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ShareKey {
    /// Session.
    pub session: u64,
    /// Place in the list.
    pub n: u64,
}

/// 64-bit words of a bitmap over the session slots.
pub const SESSION_WORDS: usize = SESSIONS / 64;
/// In [`Shared::sessions`]: nobody maps it any more, and the entry is being removed.
pub const SHARED_GONE: u64 = 1 << 63;

/// An object that sessions map shared (value of `SHARED`, under an [`ObjectKey`]).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Shared {
    /// How many sessions map it; or [`SHARED_GONE`].
    pub sessions: u64,
    /// Which, a bit for each slot.
    pub mappers: [u64; SESSION_WORDS],
    /// Those of them that can write to it.
    pub writers: [u64; SESSION_WORDS],
}

/// Key of `INHERITED`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct InheritedKey {
    /// Session.
    pub session: u64,
    /// Inode number.
    pub ino: u64,
    /// Device, as in [`ObjectId`].
    pub dev: u32,
    /// Zero.
    pub reserved: u32,
}

/// Key of `HOSTS`: an address as one session sees it. Names are learnt by a session for itself, and hold in the network
/// namespace in which they were learnt: who makes a namespace of its own can answer itself there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct HostKey {
    /// The address in network order, IPv4 mapped.
    pub addr: [u64; 2],
    /// Session.
    pub session: u64,
    /// Inode number of the network namespace.
    pub netns: u64,
}

/// One name of an address.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct HostName {
    /// Boot-time nanoseconds until which it holds.
    pub expires_ns: u64,
    /// FNV-1a of the text.
    pub hash: u64,
    /// Bytes of the text.
    pub len: u64,
    /// The text: lower case, without a final dot.
    pub text: [u64; crate::dns::NAME_MAX / 8],
}

/// Names of an address. A value may be given to another key while it is being read; so it has its key, and a reader looks at
/// that again in the end.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Hosts {
    /// Whose they are.
    pub key: HostKey,
    /// The names.
    pub names: [HostName; HOST_NAMES],
}

/// A query that waits for its answer.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Query {
    /// Whom it was sent to, as [`HostKey::addr`].
    pub resolver: [u64; 2],
    /// FNV-1a of the name asked for.
    pub question: u64,
    /// Its number, and 1 << 16; 0: none.
    pub id: u32,
    /// Zero.
    pub reserved: u32,
}

/// What is kept for a socket of a session that asks resolvers (socket storage `RESOLVING`).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Resolving {
    /// The session.
    pub session: u64,
    /// Inode number of the socket's network namespace.
    pub netns: u64,
    /// Queries so far.
    pub count: u64,
    /// The latest.
    pub queries: [Query; QUERIES],
}

/// What was decided of reading a file through a descriptor from before.
pub const INHERITED_READ: u32 = 1;
/// What was decided of writing.
pub const INHERITED_WRITE: u32 = 2;

/// What was decided of a file that a session has held open since before it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Inherited {
    /// Policy generation of the decisions.
    pub generation: u32,
    /// `INHERITED_*` that were decided.
    pub decided: u16,
    /// `INHERITED_*` that were refused.
    pub refused: u16,
}

/// What programs count on each CPU (per-CPU array `CPU`).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Cpu {
    /// Next event's number.
    pub seq: u64,
    /// Counters, by [`Stat`].
    pub stats: [u64; STATS],
}

/// A session id from its slot and the slot's generation. Never 0, because generations start at 1.
pub const fn session_id(slot: u32, generation: u32) -> u64 {
    (generation as u64) << 32 | slot as u64
}

/// The slot of a session id.
pub const fn session_slot(id: u64) -> u32 {
    id as u32
}

/// The generation of a session id.
pub const fn session_generation(id: u64) -> u32 {
    (id >> 32) as u32
}

/// The one entry of the `CONFIG` array, written by the daemon.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Config {
    /// [`crate::ABI_VERSION`] of the daemon that set the maps up.
    pub abi: u32,
    /// 1 if some policy selects agents at exec.
    pub agents: u32,
    /// Process id of the daemon.
    pub daemon: u32,
    /// Inode number of the host's mount namespace: paths of objects that have several are those seen there.
    pub mount_namespace: u32,
    /// First 16 bytes of the SHA-256 of the object the maps were made for.
    pub object: [u8; 16],
    /// Key of the hash that names actions which wait. Secret: who knew it could find two actions with one name.
    pub hold_key: [u64; 2],
    /// Numbers that were given so far. None is given twice while the maps live, because tables, caches and sessions keep them, also
    /// when the daemon that gave them left no word of it.
    pub given: Given,
    /// [`crate::policy::Policy::generation`] in each slot.
    pub generations: [u32; POLICY_SLOTS],
    /// Links of programs that were pinned: with fewer, some do not decide any more.
    pub links: u32,
    /// For so long, in nanoseconds, whoever waits looks for the answer without a pause: see [`crate::limits::SPIN_US`].
    pub spin_ns: u32,
}

/// A connection, or a datagram, that goes somewhere else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Redirect {
    /// Where it was to go.
    pub original: Target,
    /// Where it goes.
    pub target: Target,
    /// The session whose it is.
    pub session: u64,
    /// When it was decided, in boot-time nanoseconds.
    pub time_ns: u64,
    /// Address of the kernel's socket.
    pub socket: u64,
}

/// A socket whose datagrams go somewhere else (map `ANSWERING`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct AnsweringKey {
    /// The socket's cookie.
    pub socket: u64,
    /// Where they go, and where answers come from.
    pub target: Target,
}

/// How many of each are given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Given {
    /// Generations of policies: 1 to this.
    pub generations: u32,
    /// Bits of labels, from 0 on.
    pub labels: u32,
    /// Bits of `subject`'s patterns of programs, from 0 on.
    pub patterns: u32,
    /// Zero.
    pub reserved: u32,
}

named_u8! {
    /// Counters of [`Cpu`]: one for each cause, so that none hides another.
    Stat {
        /// Events numbered. Not counted by programs: the sum of [`Cpu::seq`].
        Events = 0 => "events",
        /// Actions allowed.
        Allowed = 1 => "allowed",
        /// Actions denied by rule or default.
        Denied = 2 => "denied",
        /// Actions denied in audit mode, and so let through.
        Audited = 3 => "audited",
        /// Actions refused because the ring was full.
        RingFull = 4 => "ring_full",
        /// Events that could not be refused and found no room. Must stay 0.
        Lost = 5 => "lost",
        /// Paths over `PATH_MAX` bytes: denied.
        PathTooLong = 6 => "path_too_long",
        /// No scratch buffer was free: denied.
        ScratchBusy = 7 => "scratch_busy",
        /// A kernel read failed: denied.
        ReadFailed = 8 => "read_failed",
        /// A task without room for its session: its fork was refused.
        TaskStorage = 9 => "task_storage",
        /// No session slot was free: the agent's exec was refused.
        NoSessionSlot = 10 => "no_session_slot",
        /// The session's policy slot held no policy: denied.
        NoPolicy = 11 => "no_policy",
        /// Sessions begun by an agent selector.
        SessionsBegun = 12 => "sessions_begun",
        /// Sessions ended.
        SessionsEnded = 13 => "sessions_ended",
        /// Actions allowed and only counted, by `record: summary`.
        Summarized = 14 => "summarized",
        /// A map had no room for what must be remembered of a file: denied.
        NoMemory = 15 => "no_memory",
        /// Actions that began to wait.
        Held = 16 => "held",
        /// Actions that were refused because they cannot wait.
        CannotWait = 17 => "cannot_wait",
    }
}

/// Entries of [`Cpu::stats`].
pub const STATS: usize = 32;

const _: () = assert!(Stat::ALL.len() <= STATS);
const _: () = assert!(size_of::<ObjectId>() == 16);
const _: () = assert!(size_of::<Task>() == 32 + 5 * 8 * RULE_WORDS + 24 * 8);
const _: () =
    assert!(MOVES_TRUSTED < MOVES_ENTRIES && MOVES_BEGUN < MOVES_ENTRIES && MOVES_DONE < MOVES_ENTRIES);
const _: () = assert!(size_of::<Spare>() == 40);
const _: () = assert!(size_of::<Session>() == 48 + 8 * OPERATIONS + (16 + 8 * WATCH_TIMES) * WATCHES);
const _: () = assert!(size_of::<Cpu>() == 8 + 8 * STATS);
const _: () = assert!(size_of::<ObjectKey>() == 16 && size_of::<LinkedKey>() == 16);
const _: () = assert!(size_of::<ShareKey>() == 16 && size_of::<Shared>() == 8 + 16 * SESSION_WORDS);
const _: () = assert!(size_of::<InheritedKey>() == 24 && size_of::<Inherited>() == 8);
const _: () = assert!(size_of::<Redirect>() == 72 && size_of::<AnsweringKey>() == 32);
const _: () = assert!(size_of::<Config>() == 72 + 4 * POLICY_SLOTS);
const _: () =
    assert!(crate::dns::NAME_MAX.is_multiple_of(8) && size_of::<HostName>() == 24 + crate::dns::NAME_MAX);
const _: () = assert!(size_of::<Hosts>() == 32 + size_of::<HostName>() * HOST_NAMES);
const _: () = assert!(size_of::<Resolving>() == 24 + 32 * QUERIES && QUERIES.is_power_of_two());

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), integers only, without padding (sizes asserted above).
    unsafe impl aya::Pod for super::Task {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Spare {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Session {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Cpu {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::ObjectKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::LinkedKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::InheritedKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Inherited {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Config {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Redirect {}
}
