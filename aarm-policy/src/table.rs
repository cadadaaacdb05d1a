//! The compiled table, interpreted in user space the way the kernel does.
//!
//! The kernel's `decide()` and path walk have the same steps in the same order; this is where they are held
//! against the reference evaluator, and where the cost of a table can be measured without a kernel.

use aarm_common::hold::{ALSO, Asks};
use aarm_common::limits::*;
use aarm_common::op::{FAMILIES, OPERATIONS};
use aarm_common::policy::{
    ANCESTOR_ANY, ANCESTOR_NONE, ANY_RULE, BY_NAME, Bits, Hits, IMAGE_ANY, IMAGE_NONE, MODE_AUDIT, NO_SET,
    Policy as Table, WAIT_DEFER, WAIT_STEP_UP,
};
use aarm_common::{Decision, Operation};
use std::net::IpAddr;

use crate::action::{Action, canonical};
use crate::compile::CgroupId;
use crate::conditions::{Conditions, LabelTest};
use crate::eval::{Cause, Context, End, Facet, facets, strictness};
use crate::host::as_path;
use crate::model::Policy;
use crate::subject::Truth;

/// What a table asks of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableContext {
    /// Its labels.
    pub labels: u64,
    /// The history conditions that hold, a bit for each.
    pub conditions: u32,
}

impl TableContext {
    /// A context in the terms of the policy's table.
    pub fn of(policy: &Policy, context: &Context) -> Self {
        TableContext {
            labels: context.label_bits(policy),
            conditions: context.condition_bits(&Conditions::of(policy)),
        }
    }
}

/// What the table says about an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The decision.
    pub decision: Decision,
    /// The rule, by its index in compiled order; `None` for the default.
    pub rule: Option<u16>,
    /// The facet that decided.
    pub facet: Operation,
    /// Why.
    pub cause: Cause,
    /// It may wait for an answer.
    pub waits: bool,
    /// What else asks about it: other facets are for others to answer.
    pub also: [Option<Asks>; ALSO + 1],
    /// Labels that the session did not have and gets, because the action passes.
    pub adds: u64,
    /// Watches that count the action, a bit for each.
    pub counts: u32,
    /// Whether the action is only counted, instead of having an event.
    pub summarized: bool,
}

const EMPTY: Bits = [0; RULE_WORDS];

const NO_HITS: Hits = Hits { path: EMPTY, not_path: EMPTY, exe: EMPTY, not_exe: EMPTY, above: EMPTY };

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

/// Adds what another name of the same object satisfies.
pub fn add(to: &mut Hits, from: &Hits) {
    for w in 0..RULE_WORDS {
        to.path[w] |= from.path[w];
        to.not_path[w] |= from.not_path[w];
        to.exe[w] |= from.exe[w];
        to.not_exe[w] |= from.not_exe[w];
        to.above[w] |= from.above[w];
    }
}

/// Decides an action.
pub fn decide(table: &Table, action: &Action, context: &TableContext) -> Verdict {
    let mut who = context_bits(table, action.uid, context);
    let unsure = narrow_by_subject(table, subject_bits(table, action), &mut who);
    let mut chosen: Option<Verdict> = None;
    let mut asking = Vec::new();
    let mut touched = 0;
    for facet in facets(action) {
        let m = matching(table, action, facet, &who);
        touched |= m[DATA_WORD];
        let verdict = outcome(table, &m, &unsure, facet.operation);
        // The strictest, and of equally strict ones the first.
        let strict = |v: &Verdict| strictness(v.decision, v.waits);
        match &chosen {
            Some(first) if strict(&verdict) <= strict(first) => {}
            _ => chosen = Some(verdict),
        }
        let one = asks(&verdict);
        if verdict.waits && !asking.contains(&one) {
            asking.push(one);
        }
    }
    // `facets` never returns none; were it to, nothing was allowed.
    let mut verdict =
        chosen.unwrap_or_else(|| decided(table, Decision::Deny, None, action.operation, Cause::Default));
    verdict.waits &= table.mode != MODE_AUDIT;
    asking.retain(|other| verdict.waits && *other != asks(&verdict));
    verdict.also.iter_mut().zip(asking).for_each(|(to, one)| *to = Some(one));
    let allowed = verdict.decision == Decision::Allow;
    let passed = allowed || verdict.decision == Decision::Modify || table.mode == MODE_AUDIT;
    if passed {
        let on = (0..MAX_DATA).filter(|i| touched >> i & 1 == 1);
        verdict.adds = on.fold(0, |labels, i| labels | table.data_labels[i]) & !context.labels;
    }
    verdict.counts = counts(table, action.operation, verdict.rule, passed);
    let summary = table.summary >> action.operation as u8 & 1 == 1;
    verdict.summarized =
        allowed && verdict.cause != Cause::Args && summary && verdict.adds == 0 && verdict.counts == 0;
    verdict
}

/// The rules that match an action's first facet, and those of them that something unknown makes refuse: `Lines` of an exec.
pub fn matched(table: &Table, action: &Action, context: &TableContext) -> (Bits, Bits) {
    let mut who = context_bits(table, action.uid, context);
    let unsure = narrow_by_subject(table, subject_bits(table, action), &mut who);
    let facet = Facet { operation: action.operation, end: End::Source };
    (matching(table, action, facet, &who), unsure)
}

/// The rules whose predicates on the user and conditions on the session hold; `Task::context`, less what
/// history takes away.
fn context_bits(table: &Table, uid: u32, context: &TableContext) -> Bits {
    let mut m = table.sets[uid_set(table, uid)];
    let mut without = |set: u32| {
        m.iter_mut().zip(&table.sets[set as usize]).for_each(|(m, needed)| *m &= !needed);
    };
    for condition in table.labels.iter().take(table.label_conditions as usize) {
        if !LabelTest::holds(condition.kind, condition.mask, context.labels) {
            without(condition.needed_by);
        }
    }
    for (i, condition) in table.history.iter().take(table.history_conditions as usize).enumerate() {
        if context.conditions >> i & 1 == 0 {
            without(condition.needed_by);
        }
    }
    m
}

/// The subject conditions that hold for who acts (low half), and that are unknown (high half), a bit for each; the event's
/// `subjects`.
pub fn subject_bits(table: &Table, action: &Action) -> u32 {
    let image = walk_all(table, action.exe.iter()).exe[DATA_WORD];
    let lineage = walk_all(table, action.ancestors.iter().flatten()).exe[DATA_WORD];
    let container = walk_all(table, action.container.iter()).not_exe[DATA_WORD];
    let mut bits = 0;
    for (i, c) in table.subjects.iter().take(table.subject_conditions as usize).enumerate() {
        let (has, known) = match c.kind {
            IMAGE_ANY | IMAGE_NONE => (image, true),
            ANCESTOR_ANY | ANCESTOR_NONE => (lineage, action.ancestors.is_some()),
            _ => (container, action.container.is_some()),
        };
        match Truth::of(c.kind, has & c.mask != 0, known) {
            Truth::Holds => bits |= 1 << i,
            Truth::Unknown => bits |= 0x1_0000 << i,
            Truth::Fails => {}
        }
    }
    bits
}

/// Takes out the rules whose subject does not hold; gives those that unknown conditions make refuse, `Task::unsure`.
fn narrow_by_subject(table: &Table, subjects: u32, who: &mut Bits) -> Bits {
    let mut unsure = EMPTY;
    for (i, c) in table.subjects.iter().take(table.subject_conditions as usize).enumerate() {
        let needed = &table.sets[c.needed_by as usize];
        for w in 0..RULE_WORDS {
            match Truth::recorded(subjects, i) {
                Truth::Holds => {}
                Truth::Fails => who[w] &= !needed[w],
                Truth::Unknown => {
                    who[w] &= !(needed[w] & table.unknown_skip[w]);
                    unsure[w] |= needed[w];
                }
            }
        }
    }
    unsure
}

/// The watches that count an action.
fn counts(table: &Table, op: Operation, rule: Option<u16>, passed: bool) -> u32 {
    let mut counts = 0;
    for (i, watch) in table.watches.iter().enumerate().filter(|(_, watch)| watch.key != 0) {
        let operation = watch.operations == 0 || watch.operations >> op as u8 & 1 == 1;
        let decided = match watch.rule {
            ANY_RULE => passed,
            asked => rule.map(u32::from) == Some(asked),
        };
        counts |= u32::from(operation && decided) << i;
    }
    counts
}

/// The globs that hold for any of some paths.
fn walk_all<'p>(table: &Table, paths: impl Iterator<Item = &'p Vec<u8>>) -> Hits {
    let mut hits = NO_HITS;
    paths.for_each(|path| add(&mut hits, &walk(table, path)));
    hits
}

/// The rules and data entries that match a facet.
fn matching(table: &Table, action: &Action, facet: Facet, who: &Bits) -> Bits {
    let op = facet.operation;
    let mut object = match facet.end {
        End::Source => walk_all(table, action.path.iter().chain(&action.names)),
        End::Target => walk_all(table, action.path2.iter().chain(&action.names2)),
    };
    if action.moves_tree() {
        object.path.iter_mut().zip(&object.above).for_each(|(path, above)| *path |= above);
    }
    let program = match op.is_exec() {
        true => object,
        false => walk_all(table, action.exe.iter()),
    };
    let mut m = table.op_rules[op as usize % OPERATIONS];
    and(&mut m, who);
    program_predicate(&mut m, table, &program);
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
    if matches!(op, Operation::Connect | Operation::Send) {
        let names: Vec<Vec<u8>> = action.hosts.iter().map(|name| as_path(name)).collect();
        let hits = match names.is_empty() {
            true => table.hits[table.host_unknown as usize],
            false => walk_all(table, names.iter()),
        };
        predicate(&mut m, &table.path_free, &hits.path, &hits.not_path);
    } else if op.has_socket() {
        and(&mut m, &table.path_free);
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
    m
}

/// What the matching rules say.
fn outcome(table: &Table, m: &Bits, unsure: &Bits, op: Operation) -> Verdict {
    let decision = |byte: u8| Decision::from_u8(byte).unwrap_or(Decision::Deny);
    let Some(rule) = lowest(m) else {
        let byte = table.defaults[op.family() as usize % FAMILIES];
        return decided(table, decision(byte), None, op, Cause::Default);
    };
    let is_in = |bits: &Bits| bits[rule / 64] >> (rule % 64) & 1 == 1;
    if is_in(&table.by_line) {
        return decided(table, Decision::Allow, Some(rule as u16), op, Cause::Args);
    }
    if is_in(unsure) {
        let found = if is_in(&table.unknown_deny) { Decision::Deny } else { Decision::Defer };
        return decided(table, found, Some(rule as u16), op, Cause::Unknown);
    }
    let contradicted = match table.conflicts[rule] {
        NO_SET => false,
        set => {
            let found: Vec<u64> =
                m.iter().zip(&table.sets[set as usize]).map(|(m, other)| m & other).collect();
            if found.iter().zip(&table.by_line).any(|(found, line)| found & line != 0) {
                return decided(table, Decision::Allow, Some(rule as u16), op, Cause::Args);
            }
            found.iter().any(|found| *found != 0)
        }
    };
    let (found, cause) = match contradicted {
        true => (Decision::Defer, Cause::Conflict),
        false if table.rule_decision[rule] & BY_NAME != 0 => {
            // A name opens no network that a rule refuses.
            let mut guards = *m;
            and(&mut guards, &table.guards);
            let guard = lowest(&guards).filter(|g| table.rule_decision[*g] != Decision::Allow as u8);
            let found = decision(table.rule_decision[guard.unwrap_or(rule)] & !BY_NAME);
            return decided(table, found, Some(guard.unwrap_or(rule) as u16), op, Cause::Rule);
        }
        false => (decision(table.rule_decision[rule]), Cause::Rule),
    };
    decided(table, found, Some(rule as u16), op, cause)
}

fn decided(table: &Table, decision: Decision, rule: Option<u16>, facet: Operation, cause: Cause) -> Verdict {
    let by_default = match decision {
        Decision::StepUp => table.defaults_wait & WAIT_STEP_UP != 0,
        Decision::Defer => table.defaults_wait & WAIT_DEFER != 0,
        _ => false,
    };
    let waits = match rule {
        Some(rule) if cause == Cause::Rule => {
            let asks = matches!(decision, Decision::StepUp | Decision::Defer);
            asks && table.at_once[rule as usize / 64] >> (rule % 64) & 1 == 0
        }
        _ => by_default,
    };
    let also = [None; ALSO + 1];
    Verdict { decision, rule, facet, cause, waits, also, adds: 0, counts: 0, summarized: false }
}

/// What asks, by a verdict.
fn asks(v: &Verdict) -> Asks {
    Asks { rule: v.rule, decision: v.decision, cause: v.cause.into() }
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

/// [`predicate`] on the program. `data` entries have none, and the last word of these hits is that of patterns.
fn program_predicate(m: &mut Bits, table: &Table, program: &Hits) {
    for (w, m) in m.iter_mut().enumerate().take(DATA_WORD) {
        *m &= (table.exe_free[w] | program.exe[w]) & !program.not_exe[w];
    }
}

/// The first rule. Entries of the data section, in the last word, are none.
fn lowest(m: &Bits) -> Option<usize> {
    m[..DATA_WORD].iter().position(|w| *w != 0).map(|w| w * 64 + m[w].trailing_zeros() as usize)
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
    program_predicate(&mut m, table, &hits);
    let mut within = table.cgroup_free;
    for entry in table.cgroups.iter().take_while(|entry| entry.id != 0) {
        if cgroups.contains(&CgroupId { id: entry.id, level: entry.level }) {
            within.iter_mut().zip(&table.sets[entry.set as usize]).for_each(|(w, s)| *w |= s);
        }
    }
    and(&mut m, &within);
    lowest(&m).map(|i| i as u16)
}
