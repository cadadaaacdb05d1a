//! Every bound that kernel and user space share, in one place.
//!
//! A bound is enforced where the data enters (the policy compiler, the daemon, the hook) and asserted where
//! it is used.

/// Rules in one compiled policy.
pub const MAX_RULES: usize = 512;
/// Entries of one policy's `data` section: what touching something adds to the session.
pub const MAX_DATA: usize = 64;
/// 64-bit words in a bitmap over the rules: those of the rules, then one of the `data` entries.
pub const RULE_WORDS: usize = MAX_RULES / 64 + 1;
/// The word of the `data` entries.
pub const DATA_WORD: usize = RULE_WORDS - 1;
/// Labels that a session can have.
pub const MAX_LABELS: usize = 64;
/// Distinct conditions on a session's labels (`when.labels`, `when.level`) in one policy.
pub const LABEL_CONDITIONS: usize = 64;
/// Distinct conditions on a session's history (`when.prior`, `when.rate`, `when.elapsed`) in one policy.
pub const HISTORY_CONDITIONS: usize = 16;
/// Kinds of events that one policy's history conditions count.
pub const WATCHES: usize = 8;
/// Distinct conditions on who acts (`subject`) in one policy.
pub const SUBJECT_CONDITIONS: usize = 16;
/// Patterns that `subject` has of programs (of all policies together), and of cgroups (of one policy).
pub const SUBJECT_PATTERNS: usize = 64;
/// Components of a cgroup's path that are looked at.
pub const CGROUP_DEPTH: u32 = 1024;
/// Most events within a time that a history condition can ask for.
pub const WATCH_TIMES: usize = 64;
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
/// Files with several hard links whose names are remembered, of all policies.
pub const LINKED_MAX: u32 = 16384;
/// Files, pipes and sockets that carry labels.
pub const CARRIED_MAX: u32 = 262_144;
/// Files and segments that sessions map shared, of all sessions.
pub const SHARED_MAX: u32 = 16384;
/// The same, counted for each session by itself.
pub const SHARES_MAX: u32 = 65536;
/// The same, of one session.
pub const SESSION_SHARES_MAX: u32 = 8192;
/// Files that sessions hold open since before they began, of all sessions.
pub const INHERITED_MAX: u32 = 65536;
/// Addresses whose names are known, of all sessions; the ones used longest ago make room.
pub const HOSTS_MAX: u32 = 4096;
/// Names known of one address in one session; the one that expires first makes room.
pub const HOST_NAMES: usize = 3;
/// Networks of the resolvers that one policy trusts.
pub const RESOLVERS: usize = 16;
/// Queries of one socket that wait for their answers; the oldest makes room.
pub const QUERIES: usize = 8;
/// A name holds at least so many seconds: time to connect, also where a resolver says 0.
pub const HOST_SECONDS_MIN: u32 = 5;
/// A name holds at most so many seconds, whatever the resolver says.
pub const HOST_SECONDS_MAX: u32 = 86_400;
/// Actions that wait for their decision at once, of all sessions. One more is refused.
pub const HOLDS_MAX: u32 = 16384;
/// Grants that hold at once, of all sessions: answers that are good for more than one action.
pub const GRANTS_MAX: u32 = 8192;
/// For so long, in nanoseconds, an image whose command line decides looks for its decision before it stops: whoever waits for
/// stopped children (a shell with job control) is told of a stop.
pub const LINE_LOOK_NS: u64 = 30_000_000;
/// For so long, in microseconds, a call that is deferred looks for its answer before its thread stops, unless the host's settings say otherwise:
/// what rules and resolvers know already is answered meanwhile, without a signal. An image looks for so long without a pause, between which the
/// kernel may run others. Not on one CPU, where whoever decides is one of them.
pub const SPIN_US: u32 = 100;
/// The longest that settings may say.
pub const SPIN_US_MAX: u32 = 10_000;
/// System calls whose actions can wait are numbered below this.
pub const SYSCALLS: usize = 512;
/// Tasks of which something is kept because a copy of them is being made, or was not completed. One more is killed.
pub const SPARES_MAX: u32 = 16384;
/// After a fork that failed, a fork that succeeds lets go of what was kept no sooner than this, in nanoseconds: until then
/// the kernel may still free what belongs to the parent.
pub const SPARE_NS: u64 = 60_000_000_000;
/// Descriptors of a process that becomes a session; one with more is refused.
pub const DESCRIPTORS_MAX: u32 = 4096;
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

const _: () = assert!(MAX_RULES.is_multiple_of(64) && MAX_DATA == 64 && MAX_LABELS == 64);
const _: () = assert!(SUBJECT_PATTERNS == 64 && SUBJECT_CONDITIONS <= 16);
const _: () = assert!(RING_BYTES.is_power_of_two());
const _: () = assert!(RING_ACTION_LIMIT < RING_BYTES as u64);
const _: () = assert!(SESSIONS.is_multiple_of(64) && SESSION_SHARES_MAX <= SHARES_MAX);
const _: () = assert!(DFA_STATES <= u16::MAX as usize);
const _: () = assert!(HIT_SETS <= u16::MAX as usize);

const _: () =
    assert!(REDIRECTS.is_power_of_two() && REDIRECTS < u8::MAX as usize && MAX_RULES.is_power_of_two());

/// Addresses that the rules of one policy can redirect to.
pub const REDIRECTS: usize = 32;
/// Threads at once between a decision to redirect and its effect.
pub const REDIRECTING_MAX: u32 = 4096;
/// Sockets whose original destination is kept; the oldest is forgotten for a new one.
pub const REDIRECTED_MAX: u32 = 16384;
