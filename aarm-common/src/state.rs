//! State that kernel programs and the daemon share through maps: tasks, sessions, configuration, counters.

use crate::limits::*;
use crate::op::named_u8;
use crate::policy::Bits;

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
    /// Rules whose `exe` predicate holds for the running image.
    pub exe: Bits,
    /// The same for the image being loaded, while [`TASK_IN_EXEC`].
    pub exec_exe: Bits,
    /// Policy generation of [`Task::exec_exe`].
    pub exec_generation: u32,
    /// Zero.
    pub reserved: u32,
}

/// The session ended: its slot waits for the daemon to recycle it.
pub const SESSION_ENDED: u32 = 1;

/// One slot of the `SESSIONS` array.
///
/// A slot is taken from the `FREE_SLOTS` queue and returned to it by the daemon, after the receipt that
/// closes the session is written.
#[derive(Clone, Copy, Debug, Default)]
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
    /// Zero.
    pub reserved: u32,
    /// Actions refused because the ring had no room: they have no receipt, and no effect.
    pub refused: u64,
    /// Boot-time nanoseconds at which the session began.
    pub started_ns: u64,
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
    /// Process id of the daemon, to leave its own actions alone.
    pub daemon: u32,
    /// Zero.
    pub reserved: u32,
    /// First 16 bytes of the SHA-256 of the object the maps were made for.
    pub object: [u8; 16],
}

named_u8! {
    /// Counters of the `STATS` per-CPU array: one for each cause, so that none hides another.
    Stat {
        /// Events put into the ring.
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
    }
}

/// Entries of the `STATS` array.
pub const STATS: usize = 32;

const _: () = assert!(Stat::ALL.len() <= STATS);
const _: () = assert!(size_of::<ObjectId>() == 16);
const _: () = assert!(size_of::<Task>() == 16 + 2 * 8 * RULE_WORDS + 8);
const _: () = assert!(size_of::<Session>() == 40);
const _: () = assert!(size_of::<Config>() == 32);

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), integers only, without padding (sizes asserted above).
    unsafe impl aya::Pod for super::Task {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Session {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Config {}
}
