//! The compiled policy: what the policy compiler writes and `decide()` reads.
//!
//! A decision is an AND of bitmaps over the rules, one bitmap for each dimension of the action; the lowest
//! set bit is the winning rule, because the compiler sorts rules by precedence. Every lookup is a fixed
//! number of steps whatever the policy says.
//!
//! The bits of the last word, [`DATA_WORD`], are not rules but the entries of the policy's `data` section. They
//! match like rules, decide nothing, and when the action passes, those that match add their labels to the session.
//!
//! # Conditions
//! A rule's `when` is a set of conditions, each kept once. A condition that does not hold takes the rules that need
//! it out of the decision. Label conditions change only when a label is added, so a task keeps their outcome
//! ([`crate::state::Task::context`]); history conditions are looked at each time.
//!
//! A rule's `subject` is a set of conditions too, on which patterns the acting program, the programs of its lineage,
//! and its cgroup match. They change when a program is run, or the task is moved, so the task keeps their outcome as
//! well. Such a condition may be *unknown*: then the rule stands, but if it wins, the action is refused.
//!
//! # Path automaton
//! All globs compile to one automaton that reads the path **backwards**, from its last byte to the leading
//! `/`, because that is the order in which a dentry walk meets it. For components `c1..cn` of an absolute
//! path it is fed `rev(cn) '/' … rev(c1) '/'`; for the root directory itself a single `/`.
//! - After each `/` the entry `hit_boundary[state]` is added to the result: globs that start with `**/`, and
//!   so may start at any component.
//! - After the last `/` also `hit_end[state]`: globs anchored at the root.
//!
//! An entry of 0 means "nothing"; any other indexes [`Policy::hits`]. Results are only ever added: a rule's
//! bit in `path` says that one of its globs matched. So a glob with a free start costs no memory of having
//! matched in the automaton's states, which is what keeps the automaton small.
//!
//! Patterns of `subject` are no rules: they have bits of their own, in the last word of `exe` (programs) and of `not_exe`
//! (cgroups), where `data` entries, which have no such predicates, need none.
//!
//! # Hosts
//! A host's name is a path to the automaton: reversed as a whole, with `/` for the dots and before it. So it is read in the
//! order in which it is written, dots as `/`, with a `/` at the end. No rule asks for both a path and a host.
//!
//! # Ranges
//! Addresses and user ids are looked up in a sorted table of range starts: the entry is the last one whose
//! start is not above the value. The first start is always 0. Tables are padded to their full length with the
//! maximum value as start and the **last used entry's set**, so that the search may land on the padding.

use crate::limits::*;
use crate::op::{FAMILIES, OPERATIONS};

/// A bitmap over the rules of one policy.
pub type Bits = [u64; RULE_WORDS];

/// Which rules' glob predicates hold for a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Hits {
    /// Rules of which some `path` glob matches.
    pub path: Bits,
    /// Rules of which some `not_path` glob matches.
    pub not_path: Bits,
    /// Rules of which some `exe` glob matches; in [`DATA_WORD`] the patterns of programs that match.
    pub exe: Bits,
    /// Rules of which some `not_exe` glob matches; in [`DATA_WORD`] the patterns of cgroups that match.
    pub not_exe: Bits,
    /// Rules of which some `path` glob can match below this path, if it is a directory: whoever renames it, or
    /// mounts over it, changes the names of what the rule protects.
    pub above: Bits,
}

/// The session has one of the labels of [`LabelCondition::mask`].
pub const LABELS_ANY: u32 = 1;
/// The session has all of them.
pub const LABELS_ALL: u32 = 2;
/// The session has none of them.
pub const LABELS_NONE: u32 = 3;

/// A condition on a session's labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct LabelCondition {
    /// `LABELS_*`.
    pub kind: u32,
    /// Index into [`Policy::sets`]: rules that need the condition to hold.
    pub needed_by: u32,
    /// Labels.
    pub mask: u64,
}

/// At least [`HistoryCondition::count`] events of the watch, within a time if one is given.
pub const HISTORY_COUNT: u32 = 1;
/// Fewer than that.
pub const HISTORY_FEWER: u32 = 2;
/// The session is at least [`HistoryCondition::nanos`] old.
pub const HISTORY_OLDER: u32 = 3;
/// The session is younger than that.
pub const HISTORY_YOUNGER: u32 = 4;

/// A condition on a session's history, evaluated at each decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct HistoryCondition {
    /// `HISTORY_*`.
    pub kind: u32,
    /// Index into [`Policy::sets`]: rules that need the condition to hold.
    pub needed_by: u32,
    /// Index into [`Policy::watches`].
    pub watch: u32,
    /// Events asked for: up to [`WATCH_TIMES`] where a time is given.
    pub count: u32,
    /// Nanoseconds; 0 = since the session began.
    pub nanos: u64,
}

/// The running program matches one of the patterns of [`SubjectCondition::mask`].
pub const IMAGE_ANY: u32 = 1;
/// It matches none of them.
pub const IMAGE_NONE: u32 = 2;
/// Some program of the lineage matches one of the patterns.
pub const ANCESTOR_ANY: u32 = 3;
/// None does.
pub const ANCESTOR_NONE: u32 = 4;
/// The task's cgroup matches one of the patterns.
pub const CONTAINER_ANY: u32 = 5;
/// It matches none of them.
pub const CONTAINER_NONE: u32 = 6;

/// A condition on who acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct SubjectCondition {
    /// One of the six above.
    pub kind: u32,
    /// Index into [`Policy::sets`]: rules that need the condition to hold.
    pub needed_by: u32,
    /// Patterns: of programs, or of cgroups.
    pub mask: u64,
}

/// Which events a history condition counts: those that fulfil both predicates given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Watch {
    /// Names the watch across compilations: a session goes on counting when its policy is compiled anew. Never 0
    /// in use.
    pub key: u64,
    /// Operations counted, a bit for each; 0: those of any.
    pub operations: u64,
    /// Rule (index) whose decisions count, whatever they were; [`ANY_RULE`]: actions that were let through.
    pub rule: u32,
    /// Zero.
    pub reserved: u32,
}

/// See [`Watch::rule`].
pub const ANY_RULE: u32 = u32::MAX;
/// No conflicting rules, see [`Policy::conflicts`].
pub const NO_SET: u16 = u16::MAX;

/// Flag in [`Policy::rule_decision`]: an ALLOW that holds because of a host's name. A network that some rule refuses stays
/// refused: see [`Policy::guards`].
pub const BY_NAME: u8 = 0x80;

/// Flag in [`Policy::rule_decision`]: the rule is one of [`Policy::by_line`].
pub const BY_LINE: u8 = 0x40;

/// In [`Policy::defaults_wait`]: a default's STEP_UP waits.
pub const WAIT_STEP_UP: u32 = 1;
/// A DEFER waits that is a default's, or follows from a conflict or from something unknown.
pub const WAIT_DEFER: u32 = 2;

/// A network, its bits in host byte order; IPv4 ones are mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Network {
    /// High and low half of the address.
    pub addr: [u64; 2],
    /// Of the bits that count.
    pub mask: [u64; 2],
}

/// A cgroup subtree named by an agent selector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CgroupEntry {
    /// Id (inode number) of the subtree's root; 0 ends the list.
    pub id: u64,
    /// Depth of the subtree's root below the root cgroup, which has 0.
    pub level: u32,
    /// Index into [`Policy::sets`]: the selectors that ask for this cgroup.
    pub set: u32,
}

/// An address and port, of IP of either version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Target {
    /// Network order; IPv4 in the first four bytes.
    pub addr: [u8; 16],
    /// `AF_INET` or `AF_INET6`; 0: none.
    pub family: u16,
    /// Host order.
    pub port: u16,
    /// Zero.
    pub reserved: u32,
}

impl From<core::net::SocketAddr> for Target {
    fn from(to: core::net::SocketAddr) -> Self {
        let mut addr = [0; 16];
        let family = match to.ip() {
            core::net::IpAddr::V4(v4) => {
                addr[..4].copy_from_slice(&v4.octets());
                AF_INET
            }
            core::net::IpAddr::V6(v6) => {
                addr = v6.octets();
                AF_INET6
            }
        };
        Self { addr, family, port: to.port(), reserved: 0 }
    }
}

impl Target {
    /// The same for people.
    pub fn socket_addr(&self) -> Option<core::net::SocketAddr> {
        let [a, b, c, d, ..] = self.addr;
        match self.family {
            AF_INET => Some(([a, b, c, d], self.port).into()),
            AF_INET6 => Some((self.addr, self.port).into()),
            _ => None,
        }
    }
}

/// Address families as the kernel numbers them.
pub const AF_INET: u16 = 2;
/// See [`AF_INET`].
pub const AF_INET6: u16 = 10;

/// Policy mode: decide and enforce.
pub const MODE_ENFORCE: u32 = 1;
/// Policy mode: decide and record, block nothing.
pub const MODE_AUDIT: u32 = 2;

/// One compiled policy, as one value of the `POLICIES` array map.
///
/// Sets named by index into [`Policy::sets`] hold the rules that are *satisfied* in that dimension, rules
/// without a predicate there included.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Policy {
    /// Number of this compilation, unique while the maps live; 0 marks an empty slot.
    pub generation: u32,
    /// [`MODE_ENFORCE`] or [`MODE_AUDIT`].
    pub mode: u32,
    /// Byte classes of the automaton: a state's row has this many cells.
    pub dfa_stride: u32,
    /// The automaton's first state.
    pub dfa_start: u32,
    /// Rules in use.
    pub rules: u32,
    /// Set for an address that is not IP.
    pub addr_none: u32,
    /// Set for an address without a port.
    pub port_none: u32,
    /// Entries of [`Policy::cgroups`] in use.
    pub cgroup_count: u32,
    /// Decision of each family when no rule matches, as [`crate::Decision`].
    pub defaults: [u8; FAMILIES],
    /// Label conditions in use.
    pub label_conditions: u32,
    /// History conditions in use.
    pub history_conditions: u32,
    /// Subject conditions in use.
    pub subject_conditions: u32,
    /// 1 if some of them are about cgroups.
    pub subject_containers: u32,
    /// Patterns of programs in use.
    pub subject_patterns: u64,
    /// Operations of which an allowed action is only counted, a bit for each.
    pub summary: u64,
    /// Entries of [`Policy::resolvers`] in use; 0 where no rule asks for a host's name.
    pub resolver_count: u32,
    /// Index into [`Policy::hits`]: what an address without a known name satisfies.
    pub host_unknown: u32,
    /// `WAIT_*`: what waits for its decision where no rule's own decision says so. All else is refused at once.
    pub defaults_wait: u32,
    /// [`Policy::generation`] where an open for reading that is allowed may be only counted, and nothing but the labels, user and program
    /// of a task decides whether it is: no history that is asked for or counted, no cgroup. Else 0.
    pub routine: u32,
    /// Rules that say STEP_UP or DEFER and refuse at once. What the others say so of waits for its decision.
    pub at_once: Bits,
    /// Rules that ask for the command line of an exec: what they decide is decided when it is known.
    pub by_line: Bits,
    /// Networks of the resolvers whose answers are believed.
    pub resolvers: [Network; RESOLVERS],
    /// Where the winner is [`BY_NAME`], the first of these that matches as well is looked at: rules that refuse networks or ask about
    /// them, and ALLOW rules that do not depend on a name. If it is no ALLOW, it wins.
    pub guards: Bits,
    /// Decision of each rule, as [`crate::Decision`], and [`BY_NAME`] or [`BY_LINE`].
    pub rule_decision: [u8; MAX_RULES],
    /// Of a rule that decides MODIFY of a connection: its place in [`Policy::redirects`], from 1 on; else 0.
    pub rule_redirect: [u8; MAX_RULES],
    /// Where connections are redirected to.
    pub redirects: [Target; REDIRECTS],
    /// For the agents matcher: the policy slot that a selector's sessions run under.
    pub rule_slot: [u8; MAX_RULES],
    /// Set of the rules that contradict a rule with the same right (same group and explicit priority, other
    /// decision): if one of them matches as well, the decision is DEFER. [`NO_SET`]: none.
    pub conflicts: [u16; MAX_RULES],
    /// Labels that each `data` entry adds to the session.
    pub data_labels: [u64; MAX_DATA],
    /// Conditions on labels.
    pub labels: [LabelCondition; LABEL_CONDITIONS],
    /// Conditions on who acts.
    pub subjects: [SubjectCondition; SUBJECT_CONDITIONS],
    /// Rules that do not hold while one of their subject conditions is unknown.
    pub unknown_skip: Bits,
    /// Rules that then decide DENY. All others decide DEFER.
    pub unknown_deny: Bits,
    /// Conditions on history.
    pub history: [HistoryCondition; HISTORY_CONDITIONS],
    /// What history conditions count.
    pub watches: [Watch; WATCHES],
    /// Rules that name the operation, and `data` entries that it touches.
    pub op_rules: [Bits; OPERATIONS],
    /// Rules without a `path` predicate.
    pub path_free: Bits,
    /// Rules without an `exe` predicate.
    pub exe_free: Bits,
    /// Rules without a cgroup predicate.
    pub cgroup_free: Bits,
    /// Byte to class.
    pub dfa_class: [u8; 256],
    /// Cell `state * dfa_stride + class`: the next state.
    pub dfa_next: [u16; DFA_CELLS],
    /// State after a `/`: index into [`Policy::hits`], 0 for none.
    pub hit_boundary: [u16; DFA_STATES],
    /// State after the leading `/`: index into [`Policy::hits`], 0 for none.
    pub hit_end: [u16; DFA_STATES],
    /// Glob predicates that hold.
    pub hits: [Hits; HIT_SETS],
    /// First user id of each range.
    pub uid_start: [u32; UID_RANGES],
    /// Set of each user id range.
    pub uid_set: [u16; UID_RANGES],
    /// First IPv4 address of each range, host byte order.
    pub v4_start: [u32; V4_RANGES],
    /// Set of each IPv4 range.
    pub v4_set: [u16; V4_RANGES],
    /// First IPv6 address of each range: high and low half, host byte order.
    pub v6_start: [[u64; 2]; V6_RANGES],
    /// Set of each IPv6 range.
    pub v6_set: [u16; V6_RANGES],
    /// Set of each port.
    pub port_set: [u16; 65536],
    /// Set of each IP protocol (`IPPROTO_*`).
    pub proto_set: [u16; 256],
    /// Set of each address family (`AF_*`).
    pub family_set: [u16; SOCKET_FAMILIES],
    /// Set of each socket type (`SOCK_*`).
    pub type_set: [u16; SOCKET_TYPES],
    /// Cgroup subtrees of the agent selectors.
    pub cgroups: [CgroupEntry; CGROUPS],
    /// The rule bitmaps the dimensions refer to.
    pub sets: [Bits; RULE_SETS],
}

/// Size of [`Policy`] in bytes; part of the ABI.
pub const POLICY_BYTES: usize = size_of::<Policy>();

#[cfg(feature = "user")]
// SAFETY: repr(C), made of integers only, without padding (asserted below), so every bit pattern is valid.
unsafe impl aya::Pod for Policy {}

#[cfg(feature = "user")]
impl Policy {
    /// All that the kernel gets, but for the number of the compilation, which comes first.
    pub fn unnumbered(&self) -> &[u8] {
        const NUMBER: usize = size_of::<u32>();
        const _: () = assert!(core::mem::offset_of!(Policy, generation) == 0);
        // SAFETY: as long as the value, and integers without padding in between.
        let bytes = unsafe { core::slice::from_raw_parts((&raw const *self).cast::<u8>(), POLICY_BYTES) };
        &bytes[NUMBER..]
    }
}

const _: () = {
    let fields = 8 * 4
        + FAMILIES
        + 6 * 8
        + size_of::<Network>() * RESOLVERS
        + size_of::<Target>() * REDIRECTS
        + MAX_RULES
        + 4 * MAX_RULES
        + 8 * MAX_DATA
        + size_of::<LabelCondition>() * LABEL_CONDITIONS
        + size_of::<HistoryCondition>() * HISTORY_CONDITIONS
        + size_of::<Watch>() * WATCHES
        + size_of::<SubjectCondition>() * SUBJECT_CONDITIONS
        + size_of::<Bits>() * (OPERATIONS + 8 + RULE_SETS)
        + 256
        + 2 * DFA_CELLS
        + 4 * DFA_STATES
        + size_of::<Hits>() * HIT_SETS
        + 6 * UID_RANGES
        + 6 * V4_RANGES
        + 18 * V6_RANGES
        + 2 * (65536 + 256 + SOCKET_FAMILIES + SOCKET_TYPES)
        + size_of::<CgroupEntry>() * CGROUPS;
    assert!(size_of::<Policy>() == fields, "Policy has padding");
};
