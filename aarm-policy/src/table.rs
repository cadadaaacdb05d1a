//! The compiled table, interpreted in user space the way the kernel does.
//!
//! The kernel's `decide()` and path walk have the same steps in the same order; this is where they are held
//! against the reference evaluator, and where the cost of a table can be measured without a kernel.

use aarm_common::limits::*;
use aarm_common::op::{FAMILIES, OPERATIONS};
use aarm_common::policy::{Bits, Hits, Policy as Table};
use aarm_common::{Decision, Operation};
use std::net::IpAddr;

use crate::action::{Action, canonical};
use crate::compile::CgroupId;
use crate::eval::{End, facets};

/// What the table says about an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The decision.
    pub decision: Decision,
    /// The rule, by its index in compiled order; `None` for the default.
    pub rule: Option<u16>,
    /// The facet that decided.
    pub facet: Operation,
}

const NO_HITS: Hits =
    Hits { path: [0; RULE_WORDS], not_path: [0; RULE_WORDS], exe: [0; RULE_WORDS], not_exe: [0; RULE_WORDS] };

/// Runs the path automaton over a path. One that is not absolute satisfies no glob.
pub fn walk(table: &Table, path: &[u8]) -> Hits {
    let mut hits = NO_HITS;
    let Some((b'/', rest)) = path.split_first() else { return hits };
    let step = |state: usize, byte: u8| {
        table.dfa_next[state * table.dfa_stride as usize + table.dfa_class[byte as usize] as usize] as usize
    };
    let mut state = table.dfa_start as usize;
    let boundary = |state: usize, hits: &mut Hits| {
        let state = step(state, b'/');
        add(hits, &table.hits[table.hit_boundary[state] as usize]);
        state
    };
    for byte in rest.iter().rev() {
        state = if *byte == b'/' { boundary(state, &mut hits) } else { step(state, *byte) };
    }
    state = boundary(state, &mut hits);
    add(&mut hits, &table.hits[table.hit_end[state] as usize]);
    hits
}

fn add(to: &mut Hits, from: &Hits) {
    for w in 0..RULE_WORDS {
        to.path[w] |= from.path[w];
        to.not_path[w] |= from.not_path[w];
        to.exe[w] |= from.exe[w];
        to.not_exe[w] |= from.not_exe[w];
    }
}

/// Decides an action.
pub fn decide(table: &Table, action: &Action) -> Verdict {
    let mut first = None;
    for facet in facets(action) {
        let path = match facet.end {
            End::Source => action.path.as_deref(),
            End::Target => action.path2.as_deref(),
        };
        let verdict = decide_facet(table, action, facet.operation, path);
        if verdict.decision != Decision::Allow {
            return verdict;
        }
        first.get_or_insert(verdict);
    }
    // `facets` never returns none; were it to, nothing was allowed.
    first.unwrap_or(Verdict { decision: Decision::Deny, rule: None, facet: action.operation })
}

fn decide_facet(table: &Table, action: &Action, op: Operation, path: Option<&[u8]>) -> Verdict {
    let object = path.map_or(NO_HITS, |path| walk(table, path));
    let program = match op.is_exec() {
        true => object,
        false => action.exe.as_deref().map_or(NO_HITS, |exe| walk(table, exe)),
    };
    let mut m = table.op_rules[op as usize % OPERATIONS];
    and(&mut m, &table.sets[uid_set(table, action.uid)]);
    predicate(&mut m, &table.exe_free, &program.exe, &program.not_exe);
    if op.has_path() {
        predicate(&mut m, &table.path_free, &object.path, &object.not_path);
    }
    if op.has_socket() {
        let family = (action.family as usize).min(SOCKET_FAMILIES - 1);
        let kind = (action.sock_type as usize).min(SOCKET_TYPES - 1);
        and(&mut m, &table.sets[table.family_set[family] as usize]);
        and(&mut m, &table.sets[table.type_set[kind] as usize]);
        and(&mut m, &table.sets[table.proto_set[action.protocol as usize] as usize]);
    }
    if op.has_address() {
        let (addr, port) = match action.addr.map(canonical) {
            Some(addr) => {
                let port = table.port_set[action.port.unwrap_or(0) as usize];
                (addr_set(table, addr), port as usize)
            }
            None => (table.addr_none as usize, table.port_none as usize),
        };
        and(&mut m, &table.sets[addr]);
        and(&mut m, &table.sets[port]);
    }
    let decision = |byte: u8| Decision::from_u8(byte).unwrap_or(Decision::Deny);
    match lowest(&m) {
        Some(rule) => {
            Verdict { decision: decision(table.rule_decision[rule]), rule: Some(rule as u16), facet: op }
        }
        None => Verdict {
            decision: decision(table.defaults[op.family() as usize % FAMILIES]),
            rule: None,
            facet: op,
        },
    }
}

fn and(m: &mut Bits, with: &Bits) {
    m.iter_mut().zip(with).for_each(|(m, w)| *m &= w);
}

/// Keeps the rules without the predicate and those of which it holds, less those whose negation fails.
fn predicate(m: &mut Bits, free: &Bits, yes: &Bits, no: &Bits) {
    for w in 0..RULE_WORDS {
        m[w] &= (free[w] | yes[w]) & !no[w];
    }
}

fn lowest(m: &Bits) -> Option<usize> {
    m.iter().position(|w| *w != 0).map(|w| w * 64 + m[w].trailing_zeros() as usize)
}

/// The entry of the last start that is not above the value. The first start is 0, so there is one.
fn search<T: PartialOrd>(starts: &[T], sets: &[u16], value: T) -> usize {
    let at = starts.partition_point(|start| *start <= value).max(1) - 1;
    sets[at] as usize
}

fn uid_set(table: &Table, uid: u32) -> usize {
    search(&table.uid_start, &table.uid_set, uid)
}

fn addr_set(table: &Table, addr: IpAddr) -> usize {
    match addr {
        IpAddr::V4(v4) => search(&table.v4_start, &table.v4_set, v4.to_bits()),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            search(&table.v6_start, &table.v6_set, [(bits >> 64) as u64, bits as u64])
        }
    }
}

/// The agent selector that an exec satisfies, by its index: the program exec'd, the user, and the cgroups
/// that the task is in, from the root down.
pub fn select_agent(table: &Table, exe: &[u8], uid: u32, cgroups: &[CgroupId]) -> Option<u16> {
    let hits = walk(table, exe);
    let mut m = table.op_rules[Operation::Exec as usize];
    and(&mut m, &table.sets[uid_set(table, uid)]);
    predicate(&mut m, &table.exe_free, &hits.exe, &hits.not_exe);
    let mut within = table.cgroup_free;
    for entry in table.cgroups.iter().take_while(|entry| entry.id != 0) {
        if cgroups.contains(&CgroupId { id: entry.id, level: entry.level }) {
            within.iter_mut().zip(&table.sets[entry.set as usize]).for_each(|(w, s)| *w |= s);
        }
    }
    and(&mut m, &within);
    lowest(&m).map(|i| i as u16)
}
