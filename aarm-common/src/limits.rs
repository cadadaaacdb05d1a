//! Every bound that kernel and user space share, in one place.
//!
//! A bound is enforced where the data enters (the policy compiler, the daemon, the hook) and asserted where
//! it is used.

/// Rules in one compiled policy.
pub const MAX_RULES: usize = 512;
/// 64-bit words in a bitmap over the rules.
pub const RULE_WORDS: usize = MAX_RULES / 64;
/// Compiled policies the kernel holds at once. Slot [`AGENTS_SLOT`] is reserved.
pub const POLICY_SLOTS: usize = 16;
/// The policy slot whose "rules" are the agent selectors of all loaded policies.
pub const AGENTS_SLOT: u32 = 0;
/// Longest path the kernel programs build, in bytes, without a terminating NUL. The kernel's `PATH_MAX`.
pub const PATH_MAX: usize = 4096;
/// Longest single path component (`NAME_MAX`).
pub const NAME_MAX: usize = 255;
/// Most components walked: a path of [`PATH_MAX`] bytes has at most half as many, mounts come on top.
pub const WALK_MAX: u32 = 2304;
/// States of the path automaton.
pub const DFA_STATES: usize = 8192;
/// Cells (states times byte classes) of the path automaton's transition table.
pub const DFA_CELLS: usize = 1 << 19;
/// Distinct sets of glob predicates that one automaton state can satisfy.
pub const HIT_SETS: usize = 2048;
/// Distinct rule bitmaps that the scalar dimensions (address, port, uid, ...) refer to.
pub const RULE_SETS: usize = 2048;
/// Boundaries between IPv4 address ranges of one policy.
pub const V4_RANGES: usize = 1024;
/// Boundaries between IPv6 address ranges of one policy.
pub const V6_RANGES: usize = 1024;
/// Boundaries between user-id ranges of one policy.
pub const UID_RANGES: usize = 256;
/// Agent selectors of all loaded policies together.
pub const AGENT_SELECTORS: usize = 64;
/// Cgroup subtrees named by agent selectors.
pub const CGROUPS: usize = 32;
/// Address families told apart (`AF_*` below this; larger ones share the last entry).
pub const SOCKET_FAMILIES: usize = 64;
/// Socket types told apart (`SOCK_*`).
pub const SOCKET_TYPES: usize = 16;
/// Sessions alive at once.
pub const SESSIONS: usize = 1024;
/// Bytes of the event ring buffer.
pub const RING_BYTES: u32 = 16 << 20;
/// Fill level of the ring, in bytes, above which actions are refused: the rest is kept for events that
/// cannot be refused (process exit, session end).
pub const RING_ACTION_LIMIT: u64 = 12 << 20;
/// Bytes of argument vector recorded with an exec.
pub const ARGS_MAX: usize = 4096;
/// Most bytes that one event can have: header and two paths, or header, working directory and arguments. See
/// [`crate::event`].
pub const EVENT_MAX: usize = 256 + 2 * PATH_MAX;

const _: () = assert!(MAX_RULES.is_multiple_of(64));
const _: () = assert!(RING_BYTES.is_power_of_two());
const _: () = assert!(RING_ACTION_LIMIT < RING_BYTES as u64);
const _: () = assert!(DFA_STATES <= u16::MAX as usize);
const _: () = assert!(HIT_SETS <= u16::MAX as usize);
