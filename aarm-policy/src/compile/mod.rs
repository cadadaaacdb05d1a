//! From a policy to the table that the kernel reads.
//!
//! Promises that for every action the table decides as the reference evaluator does; that what does not fit
//! the table is an error which names the rules that cost most; and that work and memory are bounded whatever
//! the policy. `aarm_common::policy` describes the table.

mod agents;
mod dfa;
mod hosts;
mod nfa;
mod report;
mod session;
mod sets;
mod subject;

pub use agents::{AgentEntry, CgroupId, compile_agents};
pub use report::{Report, Use};

use aarm_common::limits::*;
use aarm_common::op::FAMILIES;
use aarm_common::policy::{
    BY_LINE, BY_NAME, Bits, Hits, MODE_AUDIT, MODE_ENFORCE, NO_SET, Policy as Table, Target, WAIT_DEFER,
    WAIT_STEP_UP,
};
use aarm_common::{Decision, Family, Operation};
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::conditions::Conditions;
use crate::data::Label;
use crate::diagnostic::{Code, Diagnostic, Place};
use crate::env::Env;
use crate::glob::Glob;
use crate::hold::Hold;
use crate::host::Shape;
use crate::model::{Match, Mode, Policy, Rule};
use crate::subject::Subjects;
use dfa::{Dfa, MAX_WORK};
use nfa::{Nfa, Predicate, TooBig};
use sets::{Dimension, Sets, set_bit};

/// A policy in the kernel's form.
#[derive(Clone)]
pub struct Compiled {
    /// The table.
    pub table: Box<Table>,
    /// The rules by the index that verdicts carry.
    pub rules: Vec<RuleInfo>,
    /// The labels by their bit.
    pub labels: Vec<Label>,
    /// The history conditions by their bit, in words.
    pub conditions: Vec<String>,
    /// The patterns of programs that `subject` has, by their bit in this table.
    pub programs: Vec<Glob>,
    /// What the table is filled with.
    pub report: Report,
}

/// A rule, for those who meet its index in a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleInfo {
    /// Its id.
    pub id: String,
    /// Its reason.
    pub reason: Option<String>,
    /// Its decision.
    pub decision: Decision,
    /// Of STEP_UP and DEFER: what holds while it waits for an answer.
    pub hold: Option<Hold>,
    /// Where it redirects to.
    pub redirect: Option<SocketAddr>,
    /// Its line in the document.
    pub line: u32,
}

/// What the compiler needs of one rule, or of one part of a `data` entry.
struct Entry<'p> {
    matches: &'p Match,
    place: Place,
    id: &'p str,
    /// Its bit: a rule's place in compiled order, or one in the word of the `data` entries.
    bit: usize,
    /// The patterns that its `subject` has.
    patterns: Vec<(Predicate, &'p Glob)>,
}

impl Entry<'_> {
    /// The globs of the rule with what they are for.
    fn globs(&self) -> impl Iterator<Item = (Predicate, &Glob)> {
        let m = self.matches;
        [
            (Predicate::Path, &m.path),
            (Predicate::NotPath, &m.not_path),
            (Predicate::Exe, &m.exe),
            (Predicate::NotExe, &m.not_exe),
        ]
        .into_iter()
        .flat_map(|(predicate, globs)| globs.iter().map(move |glob| (predicate, glob)))
        .chain(self.patterns.iter().copied())
    }

    /// Whether some operation that it names is asked about names below a path (see [`Hits::above`]).
    fn asks_above(&self) -> bool {
        use Operation::{Mount, OpenRead, OpenWrite, Rename};
        [Mount, OpenRead, OpenWrite, Rename].into_iter().any(|op| self.matches.names(op))
    }
}

/// Compiles a policy for a host. `generation` must be unique while the kernel's maps live, and not 0.
///
/// # Errors
/// What does not fit the kernel's tables, with the rules that cost most.
pub fn compile(policy: &Policy, env: &Env, generation: u32) -> Result<Compiled, Vec<Diagnostic>> {
    let order = policy.order();
    let ordered: Vec<_> = order.iter().map(|i| &policy.rules()[*i]).collect();
    let data: Vec<(String, Place, Match)> = policy
        .data()
        .iter()
        .flat_map(|entry| {
            let id = format!("data {}", entry.label);
            entry.on.parts().into_iter().map(move |part| (id.clone(), entry.place, part))
        })
        .collect();
    let rules = ordered.iter().enumerate();
    let subjects = Subjects::of(policy);
    let rules = rules.map(|(bit, r)| Entry {
        matches: &r.matches,
        place: r.place,
        id: &r.id,
        bit,
        patterns: subject::globs(r, &subjects),
    });
    let parts = data.iter().enumerate().map(|(i, (id, place, matches))| Entry {
        matches,
        place: *place,
        id,
        bit: DATA_WORD * 64 + i,
        patterns: Vec::new(),
    });
    let entries: Vec<Entry<'_>> = rules.chain(parts).collect();
    let mut table = empty_table();
    table.generation = generation;
    table.mode = match policy.mode() {
        Mode::Enforce => MODE_ENFORCE,
        Mode::Audit => MODE_AUDIT,
    };
    table.defaults = [Decision::Deny as u8; FAMILIES];
    for family in Family::ALL {
        table.defaults[*family as usize] = policy.default_for(*family) as u8;
    }
    for (i, rule) in ordered.iter().enumerate() {
        let by_line = rule.is_by_line();
        let flag = if by_line {
            BY_LINE
        } else if rule.allows_by_name() {
            BY_NAME
        } else {
            0
        };
        table.rule_decision[i] = rule.decision as u8 | flag;
        if by_line {
            set_bit(&mut table.by_line, i);
        }
        if rule.asks() && !policy.waits(Some(rule), rule.decision) {
            set_bit(&mut table.at_once, i);
        }
        if rule.is_guard() {
            set_bit(&mut table.guards, i);
        }
    }
    let mut errors = redirects(&mut table, &ordered);
    for (decision, flag) in [(Decision::StepUp, WAIT_STEP_UP), (Decision::Defer, WAIT_DEFER)] {
        table.defaults_wait |= if policy.waits(None, decision) { flag } else { 0 };
    }
    // A policy is not selected by cgroup.
    entries.iter().for_each(|entry| set_bit(&mut table.cgroup_free, entry.bit));
    let mut sets = Sets::default();
    let mut report = Report::default();
    errors.extend(session::fill(&mut table, policy, &order, &mut sets, &mut report));
    errors.extend(hosts::resolvers(&mut table, policy, env));
    errors.extend(subject::fill(&mut table, &subjects, &ordered, &mut sets, &mut report));
    let report = fill(&mut table, &entries, env, sets, report, errors)?;
    let counted = table.summary >> Operation::OpenRead as u8 & 1 != 0;
    if counted && table.history_conditions == 0 && table.watches[0].key == 0 && table.subject_containers == 0
    {
        table.routine = generation;
    }
    let rules = ordered
        .iter()
        .map(|r| RuleInfo {
            id: r.id.clone(),
            reason: r.reason.clone(),
            decision: r.decision,
            redirect: r.redirect(),
            hold: r.asks().then(|| policy.hold(Some(r), r.decision)),
            line: r.place.line,
        })
        .collect();
    let conditions = Conditions::of(policy).shown;
    Ok(Compiled { table, rules, labels: policy.labels(), conditions, programs: subjects.programs, report })
}

/// A table without rules, made on the heap: it is too large for a stack.
fn empty_table() -> Box<Table> {
    // SAFETY: the table is made of integers only, for which all bytes 0 is a valid value.
    let mut table = unsafe { Box::<Table>::new_zeroed().assume_init() };
    table.conflicts.fill(NO_SET);
    table
}

/// Fills in all that follows from the rules' matches.
fn fill(
    table: &mut Table,
    entries: &[Entry<'_>],
    env: &Env,
    mut sets: Sets,
    mut report: Report,
    mut errors: Vec<Diagnostic>,
) -> Result<Report, Vec<Diagnostic>> {
    let rules = entries.iter().filter(|entry| entry.bit < MAX_RULES).count();
    debug_assert!(rules <= MAX_RULES && entries.len() - rules <= MAX_DATA);
    table.rules = rules as u32;
    for entry in entries {
        for op in Operation::ALL.iter().filter(|op| entry.matches.names(**op)) {
            set_bit(&mut table.op_rules[*op as usize], entry.bit);
        }
        if entry.matches.path.is_empty() && entry.matches.host.is_empty() {
            set_bit(&mut table.path_free, entry.bit);
        }
        if entry.matches.exe.is_empty() {
            set_bit(&mut table.exe_free, entry.bit);
        }
    }
    scalars(table, entries, &mut sets, &mut report, &mut errors);
    table.sets[..sets.list().len()].copy_from_slice(sets.list());
    report.rules = Use::new(rules, MAX_RULES);
    report.data = Use::new(entries.len() - rules, MAX_DATA);
    report.sets = Use::new(sets.needed(), RULE_SETS);
    paths(table, entries, env, &mut report, &mut errors);
    if errors.is_empty() { Ok(report) } else { Err(errors) }
}

/// Where rules redirect to.
fn redirects(table: &mut Table, rules: &[&Rule]) -> Vec<Diagnostic> {
    let mut targets: Vec<Target> = Vec::new();
    for (i, rule) in rules.iter().enumerate() {
        let Some(to) = rule.redirect() else { continue };
        let target = Target::from(to);
        let at = targets.iter().position(|known| *known == target).unwrap_or_else(|| {
            targets.push(target);
            targets.len() - 1
        });
        if at >= REDIRECTS {
            let message = format!("more than {REDIRECTS} different addresses to redirect to");
            return vec![Diagnostic::error(rule.place, Code::TooMany, message)];
        }
        table.redirects[at] = target;
        table.rule_redirect[i] = at as u8 + 1;
    }
    Vec::new()
}

/// User ids, addresses, ports, protocols, families and types.
fn scalars(
    table: &mut Table,
    entries: &[Entry<'_>],
    sets: &mut Sets,
    report: &mut Report,
    errors: &mut Vec<Diagnostic>,
) {
    let bits: Rc<[usize]> = entries.iter().map(|entry| entry.bit).collect();
    let new = || Dimension::new(Rc::clone(&bits));
    let (mut uid, mut v4, mut v6, mut port) = (new(), new(), new(), new());
    let (mut protocol, mut family, mut kind) = (new(), new(), new());
    for (i, entry) in entries.iter().enumerate() {
        let m = entry.matches;
        m.uid.iter().for_each(|r| uid.ask(i, r.first.into(), r.last.into()));
        m.not_uid.iter().for_each(|r| uid.refuse(i, r.first.into(), r.last.into()));
        m.port.iter().for_each(|r| port.ask(i, r.first.into(), r.last.into()));
        m.not_port.iter().for_each(|r| port.refuse(i, r.first.into(), r.last.into()));
        for (dimension, ask, refuse) in
            [(&mut family, &m.family, &m.not_family), (&mut kind, &m.sock_type, &m.not_sock_type)]
        {
            ask.iter().for_each(|n| dimension.ask(i, (*n).into(), (*n).into()));
            refuse.iter().for_each(|n| dimension.refuse(i, (*n).into(), (*n).into()));
        }
        m.protocol.iter().for_each(|n| protocol.ask(i, (*n).into(), (*n).into()));
        m.not_protocol.iter().for_each(|n| protocol.refuse(i, (*n).into(), (*n).into()));
        for net in &m.cidr {
            let (first, last) = bounds(net);
            let (own, other) = if is_v4(net) { (&mut v4, &mut v6) } else { (&mut v6, &mut v4) };
            own.ask(i, first, last);
            other.ask_elsewhere(i);
        }
        for net in &m.not_cidr {
            let (first, last) = bounds(net);
            (if is_v4(net) { &mut v4 } else { &mut v6 }).refuse(i, first, last);
        }
    }
    table.addr_none = sets.id(v4.none()).into();
    table.port_none = sets.id(port.none()).into();

    let mut ranges = |dimension: &Dimension, max: u128, what: &str, limit: usize| {
        let ranges: Vec<(u128, u16)> =
            dimension.ranges(max).into_iter().map(|(start, bits)| (start, sets.id(bits))).collect();
        if ranges.len() > limit {
            errors.push(too_costly(what, ranges.len(), limit, entries, &dimension.cost(), "boundaries"));
        }
        ranges
    };
    // The largest user id means "none", so a boundary there would only cost a range.
    let found = ranges(&uid, u32::MAX as u128 - 1, "ranges of user ids", UID_RANGES);
    report.uid_ranges = Use::new(found.len(), UID_RANGES);
    spread(&found, u32::MAX, |start| start as u32, &mut table.uid_start, &mut table.uid_set);

    let found = ranges(&v4, u32::MAX as u128, "ranges of IPv4 addresses", V4_RANGES);
    report.v4_ranges = Use::new(found.len(), V4_RANGES);
    spread(&found, u32::MAX, |start| start as u32, &mut table.v4_start, &mut table.v4_set);

    let found = ranges(&v6, u128::MAX, "ranges of IPv6 addresses", V6_RANGES);
    report.v6_ranges = Use::new(found.len(), V6_RANGES);
    let halves = |start: u128| [(start >> 64) as u64, start as u64];
    spread(&found, [u64::MAX; 2], halves, &mut table.v6_start, &mut table.v6_set);

    for (dimension, entries) in [
        (&port, &mut table.port_set[..]),
        (&protocol, &mut table.proto_set[..]),
        (&family, &mut table.family_set[..]),
        (&kind, &mut table.type_set[..]),
    ] {
        let max = entries.len() - 1;
        let found = ranges(dimension, max as u128, "ranges", usize::MAX);
        for (i, (start, set)) in found.iter().enumerate() {
            let end = found.get(i + 1).map_or(max + 1, |(next, _)| *next as usize);
            entries[*start as usize..end].fill(*set);
        }
    }
    if sets.needed() > RULE_SETS {
        let mut cost = vec![0; entries.len()];
        for (rule, n) in [&uid, &v4, &v6, &port].into_iter().flat_map(Dimension::cost) {
            cost[rule] += n;
        }
        let mut cost: Vec<(usize, usize)> = cost.into_iter().enumerate().collect();
        cost.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        let what = "combinations of rules over addresses, ports and users";
        errors.push(too_costly(what, sets.needed(), RULE_SETS, entries, &cost, "boundaries"));
    }
}

/// Writes ranges into a table of starts and one of sets, padded as the kernel's search expects.
fn spread<T: Copy>(
    found: &[(u128, u16)],
    max: T,
    start: impl Fn(u128) -> T,
    starts: &mut [T],
    sets: &mut [u16],
) {
    let last = found.last().map_or(0, |(_, set)| *set);
    starts.fill(max);
    sets.fill(last);
    for (i, (first, set)) in found.iter().take(starts.len()).enumerate() {
        starts[i] = start(*first);
        sets[i] = *set;
    }
}

fn is_v4(net: &IpNet) -> bool {
    matches!(net, IpNet::V4(_))
}

/// First and last address of a network.
fn bounds(net: &IpNet) -> (u128, u128) {
    match net {
        IpNet::V4(net) => (net.network().to_bits().into(), net.broadcast().to_bits().into()),
        IpNet::V6(net) => (net.network().to_bits(), net.broadcast().to_bits()),
    }
}

/// The automaton of the globs of some rules.
fn automaton(
    entries: &[Entry<'_>],
    env: &Env,
    fuel: &mut usize,
    only: impl Fn(usize) -> bool,
) -> Result<Dfa, TooBig> {
    let mut nfa = Nfa::new(&env.homes);
    for (i, entry) in entries.iter().enumerate().filter(|(i, _)| only(*i)) {
        let above = entry.asks_above();
        for (predicate, glob) in entry.globs() {
            let rule = match predicate {
                Predicate::Program(_) | Predicate::Container(_) => 0,
                _ => i as u16,
            };
            for pattern in glob.patterns() {
                nfa.add(pattern, rule, predicate)?;
                if above && predicate == Predicate::Path {
                    nfa.add_above(pattern, i as u16)?;
                }
            }
        }
    }
    for (i, entry) in entries.iter().enumerate().filter(|(i, _)| only(*i)) {
        for (predicate, host) in hosts::globs(entry.matches) {
            match host.shape() {
                Some(Shape::Pattern(pattern)) => nfa.add(&pattern, i as u16, predicate)?,
                Some(Shape::Regex(hir)) => nfa.add_name(hir, i as u16, predicate)?,
                None => {}
            }
        }
    }
    Dfa::build(&nfa, fuel)
}

/// Whether the automaton fits the table.
fn fits(dfa: &Dfa) -> bool {
    dfa.states() <= DFA_STATES && dfa.next.len() <= DFA_CELLS
}

/// Builds the path automaton into the table.
fn paths(
    table: &mut Table,
    entries: &[Entry<'_>],
    env: &Env,
    report: &mut Report,
    errors: &mut Vec<Diagnostic>,
) {
    let dfa = match automaton(entries, env, &mut { MAX_WORK }, |_| true) {
        Ok(dfa) if fits(&dfa) => dfa,
        too_big => {
            errors.push(too_many_states(too_big.ok().as_ref(), entries, env));
            return;
        }
    };
    table.dfa_stride = dfa.stride as u32;
    table.dfa_start = 0;
    table.dfa_class = dfa.class_of;
    for (cell, next) in table.dfa_next.iter_mut().zip(&dfa.next) {
        *cell = *next as u16;
    }
    // Entry 0 stays empty: "nothing".
    let mut hits = vec![NOTHING];
    let mut ids: HashMap<Hits, u16> = HashMap::from([(NOTHING, 0)]);
    let mut id = |found: Hits| {
        let next = hits.len();
        *ids.entry(found).or_insert_with(|| {
            hits.push(found);
            next.min(HIT_SETS) as u16
        })
    };
    let by_output: Vec<[u16; 2]> = dfa
        .outputs
        .iter()
        .map(|accepts| {
            let mut found = [NOTHING; 2];
            for accept in accepts {
                let to = &mut found[accept.boundary as usize];
                let bits = match accept.predicate {
                    Predicate::Program(bit) => {
                        to.exe[DATA_WORD] |= 1 << bit;
                        continue;
                    }
                    Predicate::Container(bit) => {
                        to.not_exe[DATA_WORD] |= 1 << bit;
                        continue;
                    }
                    Predicate::Path => &mut to.path,
                    Predicate::NotPath => &mut to.not_path,
                    Predicate::Exe => &mut to.exe,
                    Predicate::NotExe => &mut to.not_exe,
                    Predicate::Above => &mut to.above,
                };
                set_bit(bits, entries[usize::from(accept.rule)].bit);
            }
            found.map(&mut id)
        })
        .collect();
    for (state, output) in dfa.output.iter().enumerate() {
        [table.hit_end[state], table.hit_boundary[state]] = by_output[*output as usize];
    }
    let mut unknown = NOTHING;
    for entry in entries {
        hosts::globs(entry.matches).filter(|(_, host)| host.is_unknown()).for_each(|(predicate, _)| {
            let bits = if predicate == Predicate::Path { &mut unknown.path } else { &mut unknown.not_path };
            set_bit(bits, entry.bit);
        });
    }
    table.host_unknown = id(unknown).into();
    report.states = Use::new(dfa.states(), DFA_STATES);
    report.cells = Use::new(dfa.next.len(), DFA_CELLS);
    report.hits = Use::new(hits.len(), HIT_SETS);
    if hits.len() > HIT_SETS {
        let mut cost: Vec<(usize, usize)> =
            entries.iter().enumerate().map(|(i, e)| (i, e.globs().count())).collect();
        cost.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        let what = "combinations of globs that match together";
        errors.push(too_costly(what, hits.len(), HIT_SETS, entries, &cost, "globs"));
        return;
    }
    table.hits[..hits.len()].copy_from_slice(&hits);
}

const EMPTY: Bits = [0; RULE_WORDS];

const NOTHING: Hits = Hits { path: EMPTY, not_path: EMPTY, exe: EMPTY, not_exe: EMPTY, above: EMPTY };

/// Work spent on finding out which rules are dear, in all.
const MEASURING_FUEL: usize = 2 * MAX_WORK;

/// The error for an automaton that does not fit, with what each of the dearest rules costs.
fn too_many_states(dfa: Option<&Dfa>, entries: &[Entry<'_>], env: &Env) -> Diagnostic {
    let mut fuel = MEASURING_FUEL;
    // What a rule costs by itself. A rule that fits alone but is dear together with others (`/a/**/b` makes
    // every state remember whether `b` was met) shows when the rest is built without it.
    let mut cost: Vec<(usize, usize)> = Vec::new();
    for i in (0..entries.len()).filter(|i| entries[*i].globs().next().is_some()) {
        let half = MEASURING_FUEL / 2;
        let mut share = fuel.saturating_sub(half);
        let states = automaton(entries, env, &mut share, |n| n == i).map_or(usize::MAX, |dfa| dfa.states());
        if share == 0 {
            break;
        }
        fuel = half + share;
        cost.push((i, states));
    }
    cost.sort_by_key(|(rule, n)| (std::cmp::Reverse(*n), *rule));
    let (needed, limit) = match dfa {
        Some(dfa) if dfa.states() <= DFA_STATES => (dfa.next.len().to_string(), format!("{DFA_CELLS} cells")),
        Some(dfa) => (dfa.states().to_string(), format!("{DFA_STATES} states")),
        None => ("many more".to_owned(), format!("{DFA_STATES} states")),
    };
    let without = cost
        .iter()
        .find(|(rule, _)| automaton(entries, env, &mut fuel, |n| n != *rule).is_ok_and(|dfa| fits(&dfa)));
    // Where it is the interplay of many: the first rule, in order, with which it is too much.
    let last_straw = || {
        let (mut enough, mut too_many) = (0, entries.len());
        while enough + 1 < too_many {
            let middle = enough.midpoint(too_many);
            match automaton(entries, env, &mut { MAX_WORK }, |n| n < middle) {
                Ok(dfa) if fits(&dfa) => enough = middle,
                _ => too_many = middle,
            }
        }
        too_many.saturating_sub(1)
    };
    let blamed = without.map_or_else(last_straw, |(rule, _)| *rule);
    let place = entries.get(blamed).map_or(Place::default(), |entry| entry.place);
    let names: Vec<String> = cost
        .iter()
        .take(3)
        .map(|(rule, n)| match *n {
            usize::MAX => format!("\"{}\" alone more than that", entries[*rule].id),
            n => format!("\"{}\" alone {n} states", entries[*rule].id),
        })
        .collect();
    let message = format!("the globs need {needed} of {limit}; the dearest rules: {}", names.join(", "));
    let error = Diagnostic::error(place, Code::TooCostly, message);
    error.help(match (without, entries.get(blamed)) {
        (Some(_), Some(entry)) => format!("without \"{}\" it fits", entry.id),
        (None, Some(entry)) => format!(
            "together they do: the rules before \"{}\" fit, with it no more; a `**` or `*` between two names is \
             what multiplies",
            entry.id
        ),
        _ => "a `**` or `*` between two names is what multiplies".to_owned(),
    })
}

/// The error for a table that does not suffice, naming the dearest rules.
fn too_costly(
    what: &str,
    needed: usize,
    limit: usize,
    entries: &[Entry<'_>],
    cost: &[(usize, usize)],
    unit: &str,
) -> Diagnostic {
    let names: Vec<String> =
        cost.iter().take(3).map(|(rule, n)| format!("\"{}\" has {n} {unit}", entries[*rule].id)).collect();
    let place = cost.first().map_or(Place::default(), |(rule, _)| entries[*rule].place);
    Diagnostic::error(
        place,
        Code::TooCostly,
        format!(
            "{needed} {what}, and the kernel's table holds {limit}; the dearest rules: {}",
            names.join(", ")
        ),
    )
}
