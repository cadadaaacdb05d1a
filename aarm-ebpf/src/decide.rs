//! The one decision function.
//!
//! [`decide`] ANDs one bitmap of rules for each dimension of the query; the lowest bit left is the winner.
//! Its twin in user space is `aarm_policy::table`, and both are held against the reference evaluator.

use aarm_common::event::{Cause, NO_RULE};
use aarm_common::hold::Asks;
use aarm_common::limits::*;
use aarm_common::op::{Decision, FAMILIES, OPERATIONS, Operation};
use aarm_common::policy::{BY_LINE, BY_NAME, NO_SET, Policy, WAIT_DEFER, WAIT_STEP_UP};
use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;

use crate::hold::settled;
use crate::kernel::{current, opaque};
use crate::maps::{POLICIES, SCRATCH, TASKS};
use crate::scratch::{ASKED, Scratch, forget};
use crate::session::Frame;

/// What a decision says: which rule, and the decision.
#[derive(Clone, Copy)]
pub struct Verdict {
    /// The decision, as `Decision`.
    pub decision: u8,
    /// The facet it was reached for.
    pub facet: u8,
    /// The rule, or `NO_RULE`.
    pub rule: u16,
    /// What else is to be said of it, and its rank: a number, because the verifier goes every way that several truths may go.
    pub more: u16,
    /// What became of asking, see `hold::settled`.
    pub settled: u8,
}

impl Verdict {
    /// Why it is what it is.
    #[inline(always)]
    pub fn cause(&self) -> Cause {
        if self.more & LATER != 0 {
            Cause::Args
        } else if self.settled > settled::WAITS {
            match self.settled {
                settled::ANSWERED => Cause::Answered,
                settled::GRANTED => Cause::Granted,
                settled::CANNOT => Cause::CannotWait,
                settled::UNCHANGED => Cause::CannotModify,
                _ => Cause::NoMemory,
            }
        } else if self.more & UNSURE != 0 {
            Cause::Unknown
        } else if self.more & CONFLICT != 0 {
            Cause::Conflict
        } else if self.rule == NO_RULE {
            Cause::Default
        } else {
            Cause::Rule
        }
    }
}

/// The dimensions of a socket's action that are numbers, as indices into `Policy::sets`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Scalars {
    /// Of the address.
    pub addr: u16,
    /// Of the port.
    pub port: u16,
    /// Of the IP protocol.
    pub proto: u16,
    /// Of the address family.
    pub family: u16,
    /// Of the socket type.
    pub sock_type: u16,
    /// Zero.
    pub reserved: [u16; 3],
}

/// Which dimensions an operation has besides operation, actor and object.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Shape {
    /// None.
    Object = 0,
    /// A socket: family, type and protocol.
    Socket = 1,
    /// A socket and an address.
    Address = 2,
}

const SET_MASK: usize = RULE_SETS - 1;
const RULE_MASK: u32 = MAX_RULES as u32 - 1;
/// Flag in [`Verdict::more`]: another rule with the same right says otherwise.
const CONFLICT: u16 = 1 << 8;
/// Something that the rule asks for is unknown.
const UNSURE: u16 = 1 << 9;
/// It may wait for an answer. A decision that asks and may not is refused at once.
pub const WAITS: u16 = 1 << 10;
/// The command line decides: see `line`.
pub const LATER: u16 = 1 << 11;
/// Where [`Verdict::more`] has the rank: the strictest decision on the facets of an action is that on the action.
const RANK: u32 = 12;

/// Decides one facet of an action, whose dimensions are in the scratch buffer.
#[inline(always)]
pub fn decide(f: &Frame, op: Operation, shape: Shape) -> Verdict {
    let v = aarm_decide(f.scratch, f.slot, op as u32 | (op.family() as u32) << 8, shape as u32);
    Verdict {
        decision: v as u8,
        facet: op as u8,
        rule: (v >> 16) as u16,
        more: v as u16 & 0xff00,
        settled: settled::NO,
    }
}

/// Words of a bitmap that rules of the policy are in.
#[inline(always)]
pub unsafe fn used_words(p: *const Policy) -> u32 {
    // SAFETY: a valid map value.
    unsafe { ((*p).rules.wrapping_add(63)) >> 6 }
}

/// Rules and `data` entries of word `w` that match.
#[inline(always)]
pub unsafe fn matching(s: *const Scratch, p: *const Policy, op: usize, shape: u32, w: usize) -> u64 {
    // SAFETY: valid map values; masks keep indices inside.
    unsafe {
        let mut m = (*p).op_rules[op][w] & (*s).who[w] & (*s).object[w];
        if shape != Shape::Object as u32 {
            let v = &raw const (*s).scalars;
            m &= (*p).sets[(*v).family as usize & SET_MASK][w];
            m &= (*p).sets[(*v).sock_type as usize & SET_MASK][w];
            m &= (*p).sets[(*v).proto as usize & SET_MASK][w];
            if shape == Shape::Address as u32 {
                m &= (*p).sets[(*v).addr as usize & SET_MASK][w];
                m &= (*p).sets[(*v).port as usize & SET_MASK][w];
            }
        }
        m
    }
}

/// What [`aarm_decide`] returns where `decision` was reached. Where it may wait for an answer, notes who has to be asked: each
/// facet of an action may be for somebody else to answer.
#[inline(always)]
unsafe fn reached(s: *mut Scratch, p: *const Policy, decision: u32, rule: u32, cause: Cause) -> u32 {
    let mut v = decision | rule << 16;
    match cause {
        Cause::Conflict => v |= CONFLICT as u32,
        Cause::Unknown => v |= UNSURE as u32,
        _ => {}
    }
    if decision == Decision::Allow as u32 {
        return v;
    }
    if decision != Decision::StepUp as u32 && decision != Decision::Defer as u32 {
        return v | rank(decision) << RANK;
    }
    // SAFETY: valid map values; masks keep indices inside.
    unsafe {
        let waits = if cause as u8 == Cause::Rule as u8 {
            let rule = rule as usize % MAX_RULES;
            (*p).at_once[rule / 64] >> (rule % 64) & 1 == 0
        } else {
            let step_up = decision == Decision::StepUp as u32;
            (*p).defaults_wait & if step_up { WAIT_STEP_UP } else { WAIT_DEFER } != 0
        };
        if waits {
            let n = opaque((*s).asked as u64) as usize & (ASKED - 1);
            (*s).asks[n] = Asks::bits(rule as u16, decision as u8, cause as u8);
            (*s).asked = n as u32 + 1;
            v | WAITS as u32 | rank(decision) << RANK
        } else {
            v | AT_ONCE << RANK
        }
    }
}

/// [`decide`] as a function that the verifier checks by itself, once: it takes numbers only. Returns the
/// decision, the rest of [`Verdict::more`], and the rule in the upper half.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn aarm_decide(scratch: u32, slot: u32, op: u32, shape: u32) -> u32 {
    let closed = Decision::Deny as u32 | (NO_RULE as u32) << 16 | rank(Decision::Deny as u32) << RANK;
    let Some(s) = SCRATCH.get_ptr_mut(scratch) else { return closed };
    let Some(p) = POLICIES.get_ptr(slot) else { return closed };
    let family = (op >> 8) as usize % FAMILIES;
    let op = op as usize % OPERATIONS;
    // SAFETY: valid map values; masks keep indices inside.
    unsafe {
        (*s).data |= matching(s, p, op, shape, DATA_WORD);
        // Sockets have so many dimensions that what is saved by few rules would be felt as a cost of many.
        let words = if shape == Shape::Object as u32 { used_words(p) } else { DATA_WORD as u32 };
        let mut rule = NO_RULE as u64;
        let mut w = 0;
        while w < DATA_WORD {
            if w as u32 >= words {
                break;
            }
            let m = matching(s, p, op, shape, w);
            if m != 0 {
                rule = (w as u64) << 6 | m.trailing_zeros() as u64;
                break;
            }
            w += 1;
        }
        let rule = forget(s, rule) as u32;
        if rule >= MAX_RULES as u32 {
            return reached(s, p, (*p).defaults[family] as u32, NO_RULE as u32, Cause::Default);
        }
        let rule = rule & RULE_MASK;
        if (*s).head.subjects >> 16 != 0 {
            let (w, bit) = (rule as usize / 64, 1u64 << (rule & 63));
            let task = TASKS.get(current());
            if task.is_null() {
                return closed;
            }
            if (*task).unsure[w] & bit != 0 && (*p).by_line[w] & bit == 0 {
                let deny = (*p).unknown_deny[w] & bit != 0;
                let decision = if deny { Decision::Deny } else { Decision::Defer };
                return reached(s, p, decision as u32, rule, Cause::Unknown);
            }
        }
        let decision = (*p).rule_decision[rule as usize];
        if decision & BY_LINE != 0 {
            return later(rule);
        }
        let set = (*p).conflicts[rule as usize];
        if set != NO_SET {
            let by = contradicted(s, p, op, shape, set);
            if by & LATER != 0 {
                return later(rule);
            }
            if by != 0 {
                return reached(s, p, Decision::Defer as u32, rule, Cause::Conflict);
            }
        }
        if decision & BY_NAME != 0 {
            return guarded(s, p, op, shape, rule);
        }
        reached(s, p, decision as u32, rule, Cause::Rule)
    }
}

/// The decision where `rule` lets happen because of a name: an answer of a resolver, true or forged, opens no network that a rule
/// refuses.
#[inline(always)]
unsafe fn guarded(s: *mut Scratch, p: *const Policy, op: usize, shape: u32, rule: u32) -> u32 {
    let mut guard = NO_RULE as u64;
    let mut w = 0;
    while w < DATA_WORD {
        // SAFETY: valid map values; masks keep indices inside.
        let m = unsafe { matching(s, p, op, shape, w) & (*p).guards[w] };
        if m != 0 {
            guard = (w as u64) << 6 | m.trailing_zeros() as u64;
            break;
        }
        w += 1;
    }
    // SAFETY: ours.
    let guard = unsafe { forget(s, guard) } as u32;
    if guard < MAX_RULES as u32 {
        let guard = guard & RULE_MASK;
        // SAFETY: as above.
        unsafe {
            let decision = (*p).rule_decision[guard as usize] & !BY_NAME;
            if decision != Decision::Allow as u8 {
                return reached(s, p, decision as u32, guard, Cause::Rule);
            }
        }
    }
    // SAFETY: a valid map value; rules are numbered below the table's length.
    let own = unsafe { (*p).rule_decision[(rule & RULE_MASK) as usize] & !BY_NAME } as u32;
    own | rule << 16 | rank(own) << RANK
}

/// An exec that is let through to its first instruction.
#[inline(always)]
fn later(rule: u32) -> u32 {
    Decision::Allow as u32 | LATER as u32 | rule << 16 | rank(Decision::Allow as u32) << RANK
}

/// Whether a rule of the set matches as well: [`CONFLICT`], and [`LATER`] if that depends on a command line; otherwise 0.
#[inline(always)]
unsafe fn contradicted(s: *const Scratch, p: *const Policy, op: usize, shape: u32, set: u16) -> u16 {
    let mut found = 0;
    let mut lines = 0;
    let mut w = 0;
    while w < DATA_WORD {
        // SAFETY: valid map values; masks keep indices inside.
        unsafe {
            let m = matching(s, p, op, shape, w) & (*p).sets[set as usize & SET_MASK][w];
            found |= m;
            lines |= m & (*p).by_line[w];
        }
        w += 1;
    }
    if lines != 0 {
        CONFLICT | LATER
    } else if found != 0 {
        CONFLICT
    } else {
        0
    }
}

/// The agent selector that the program just walked and the current task satisfy, if any. `p` is the agents
/// matcher; selectors are its rules, and there are at most 64 of them.
#[inline(always)]
pub unsafe fn select_agent(p: *const Policy, s: *const Scratch, uid: u16) -> Option<u32> {
    // SAFETY: `p` and `s` are valid map values; masks keep indices inside.
    unsafe {
        let mut m = (*p).op_rules[Operation::Exec as usize][0];
        m &= (*p).sets[uid as usize & SET_MASK][0];
        m &= ((*p).exe_free[0] | (*s).hits.exe[0]) & !(*s).hits.not_exe[0];
        let mut cgroups = (*p).cgroup_free[0];
        let mut i = 0;
        while i < CGROUPS {
            let entry = &raw const (*p).cgroups[i];
            let id = (*entry).id;
            if id == 0 {
                break;
            }
            if bpf_get_current_ancestor_cgroup_id((*entry).level as i32) == id {
                cgroups |= (*p).sets[(*entry).set as usize & SET_MASK][0];
            }
            i += 1;
        }
        m &= cgroups;
        if m == 0 { None } else { Some(opaque(m.trailing_zeros() as u64) as u32 & 63) }
    }
}

/// Whether a verdict refuses the action, at least for now. Everything that is neither ALLOW nor MODIFY does.
#[inline(always)]
pub fn refuses(v: Verdict) -> bool {
    v.decision != Decision::Allow as u8 && v.decision != Decision::Modify as u8
}

/// The stricter verdict of two facets of an action: DENY, then what asks and refuses at once, then DEFER, STEP_UP and ALLOW. Who
/// answers for one facet must not lift what the other refuses.
#[inline(always)]
pub fn stricter(first: Verdict, then: Verdict) -> Verdict {
    if then.more >> RANK > first.more >> RANK { then } else { first }
}

/// The rank of a decision that does not refuse at once what it asks about.
#[inline(always)]
const fn rank(decision: u32) -> u32 {
    // Four bits for each decision, by its number: none, ALLOW, DENY, MODIFY, STEP_UP, DEFER.
    0x321_505 >> ((decision & 7) * 4) & 0xf
}

const _: () = assert!(rank(Decision::Allow as u32) == 0);
/// The rank of one that does.
const AT_ONCE: u32 = 4;
/// DENY, whatever for.
pub const DENIED: u16 = (rank(Decision::Deny as u32) << RANK) as u16;

const _: () = assert!(Decision::Allow as u8 == 1 && Decision::Deny as u8 == 2 && Decision::Modify as u8 == 3);
const _: () = assert!(Decision::StepUp as u8 == 4 && Decision::Defer as u8 == 5);

/// Where a sorted table of `N` entries, a power of two, has the last one that `is_at_most`. The first one always is.
#[inline(always)]
unsafe fn search<const N: usize>(s: *mut Scratch, is_at_most: impl Fn(usize) -> bool) -> usize {
    const { assert!(N.is_power_of_two()) };
    let mut at = 0;
    let mut half = N / 2;
    while half > 0 {
        let next = (at + half) & (N - 1);
        if is_at_most(next) {
            at = next;
        }
        // Otherwise the verifier follows the way to each of the entries.
        // SAFETY: by contract.
        at = unsafe { forget(s, at as u64) } as usize & (N - 1);
        half /= 2;
    }
    at
}

/// Set of a user id.
#[inline(always)]
pub unsafe fn uid_set(s: *mut Scratch, p: *const Policy, uid: u32) -> u16 {
    // SAFETY: valid map values; the index stays below the power of two that is the table's length.
    unsafe {
        if (*p).uid_start[1] == u32::MAX {
            return (*p).uid_set[0];
        }
        (*p).uid_set[search::<UID_RANGES>(s, |at| (*p).uid_start[at] <= uid)]
    }
}

/// Set of an IPv4 address in host byte order.
#[inline(always)]
pub unsafe fn v4_set(s: *mut Scratch, p: *const Policy, addr: u32) -> u16 {
    // SAFETY: as in `uid_set`.
    unsafe { (*p).v4_set[search::<V4_RANGES>(s, |at| (*p).v4_start[at] <= addr)] }
}

/// Set of an IPv6 address: its high and low half in host byte order.
#[inline(always)]
pub unsafe fn v6_set(s: *mut Scratch, p: *const Policy, high: u64, low: u64) -> u16 {
    // SAFETY: as in `uid_set`.
    unsafe {
        let at = search::<V6_RANGES>(s, |at| {
            let [h, l] = (*p).v6_start[at];
            h < high || h == high && l <= low
        });
        (*p).v6_set[at]
    }
}
