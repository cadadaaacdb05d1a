//! From the non-deterministic automaton to a table with one next state for each state and byte class.
//!
//! The subset construction, within a bounded number of states and steps, and then Hopcroft's minimisation,
//! so that what is left is what the policy costs and not how it was written.

use std::collections::HashMap;
use std::rc::Rc;

use aarm_common::limits::{DFA_CELLS, DFA_STATES};

use super::nfa::{Accept, ByteClasses, Edge, Nfa, NodeId, TooBig};

/// States before minimisation.
const MAX_RAW_STATES: usize = 16 * DFA_STATES;
/// Cells before minimisation.
const MAX_RAW_CELLS: usize = 16 * DFA_CELLS;
/// Nodes and cells looked at for one automaton: bounds time and memory.
pub(crate) const MAX_WORK: usize = 10_000_000;

/// A deterministic automaton; state 0 is its start.
#[derive(Debug)]
pub(crate) struct Dfa {
    /// Byte to class.
    pub class_of: [u8; 256],
    /// Number of classes.
    pub stride: usize,
    /// Cell `state * stride + class`: the next state.
    pub next: Vec<u32>,
    /// For each state, what it means to be there: an index into [`Dfa::outputs`].
    pub output: Vec<u32>,
    /// Meanings, each sorted. The first is empty.
    pub outputs: Vec<Vec<Accept>>,
}

impl Dfa {
    /// Number of states.
    pub(crate) fn states(&self) -> usize {
        self.output.len()
    }

    /// The smallest automaton for `nfa`. What it costs is taken from `fuel`, and at most [`MAX_WORK`].
    pub(crate) fn build(nfa: &Nfa<'_>, fuel: &mut usize) -> Result<Dfa, TooBig> {
        let mut subsets = Subsets::new(nfa, MAX_WORK.min(*fuel));
        let before = subsets.fuel;
        let raw = subsets.run();
        *fuel -= before - subsets.fuel;
        raw.map(minimized)
    }
}

/// The subset construction.
struct Subsets<'n> {
    nfa: &'n Nfa<'n>,
    classes: ByteClasses,
    ids: HashMap<Rc<[NodeId]>, u32>,
    sets: Vec<Rc<[NodeId]>>,
    output: Vec<u32>,
    outputs: Vec<Vec<Accept>>,
    output_ids: HashMap<Vec<Accept>, u32>,
    /// Marks nodes that are in the set being closed.
    mark: Vec<u32>,
    round: u32,
    fuel: usize,
}

impl<'n> Subsets<'n> {
    fn new(nfa: &'n Nfa<'n>, fuel: usize) -> Self {
        Subsets {
            nfa,
            classes: ByteClasses::of(nfa),
            ids: HashMap::new(),
            sets: Vec::new(),
            output: Vec::new(),
            outputs: vec![Vec::new()],
            output_ids: HashMap::from([(Vec::new(), 0)]),
            mark: vec![0; nfa.nodes.len()],
            round: 0,
            fuel,
        }
    }

    /// Pays for work.
    fn pay(&mut self, work: usize) -> Result<(), TooBig> {
        self.fuel = self.fuel.checked_sub(work).ok_or(TooBig)?;
        Ok(())
    }

    fn run(&mut self) -> Result<Dfa, TooBig> {
        let stride = self.classes.count;
        let slash = self.classes.slash as usize;
        let nfa = self.nfa;
        self.pay(nfa.nodes.len())?;
        self.state(vec![0])?;
        let mut next = Vec::new();
        let mut buckets: Vec<Vec<NodeId>> = vec![Vec::new(); stride];
        let mut state = 0;
        while state < self.sets.len() {
            let set = Rc::clone(&self.sets[state]);
            let mut common = Vec::new();
            buckets.iter_mut().for_each(Vec::clear);
            for node in set.iter() {
                for (edge, to) in &nfa.nodes[*node as usize].edges {
                    match edge {
                        Edge::Slash => buckets[slash].push(*to),
                        Edge::NotSlash => common.push(*to),
                        Edge::Byte(byte) => buckets[self.classes.of[*byte as usize] as usize].push(*to),
                        Edge::Class(id) => {
                            for class in &self.classes.members[*id as usize] {
                                buckets[*class as usize].push(*to);
                            }
                        }
                    }
                }
            }
            // Most bytes lead where every byte leads.
            let otherwise = self.state(common.clone())?;
            for (class, bucket) in buckets.iter().enumerate() {
                next.push(match (class == slash, bucket.is_empty()) {
                    (true, _) => self.state(bucket.clone())?,
                    (false, true) => otherwise,
                    (false, false) => self.state([bucket.as_slice(), &common].concat())?,
                });
            }
            // Once here, and about as much again for minimising.
            self.pay(2 * stride)?;
            state += 1;
        }
        let output = std::mem::take(&mut self.output);
        let outputs = std::mem::take(&mut self.outputs);
        Ok(Dfa { class_of: self.classes.of, stride, next, output, outputs })
    }

    /// The state for a set of nodes and all that follows from it without a byte.
    fn state(&mut self, mut open: Vec<NodeId>) -> Result<u32, TooBig> {
        self.round += 1;
        let mut set = Vec::new();
        let mut accepts = Vec::new();
        while let Some(node) = open.pop() {
            self.pay(1)?;
            if std::mem::replace(&mut self.mark[node as usize], self.round) == self.round {
                continue;
            }
            let n = &self.nfa.nodes[node as usize];
            open.extend(&n.free);
            if !n.edges.is_empty() || !n.accepts.is_empty() {
                set.push(node);
            }
        }
        self.pay(set.len())?;
        set.sort_unstable();
        if let Some(id) = self.ids.get(set.as_slice()) {
            return Ok(*id);
        }
        if self.sets.len() >= MAX_RAW_STATES.min(MAX_RAW_CELLS / self.classes.count) {
            return Err(TooBig);
        }
        for node in &set {
            accepts.extend(&self.nfa.nodes[*node as usize].accepts);
        }
        self.pay(accepts.len())?;
        accepts.sort_unstable();
        accepts.dedup();
        let output = match self.output_ids.get(&accepts) {
            Some(id) => *id,
            None => {
                let id = self.outputs.len() as u32;
                self.outputs.push(accepts.clone());
                self.output_ids.insert(accepts, id);
                id
            }
        };
        let id = self.sets.len() as u32;
        let set: Rc<[NodeId]> = set.into();
        self.ids.insert(Rc::clone(&set), id);
        self.sets.push(set);
        self.output.push(output);
        Ok(id)
    }
}

/// A partition of the states into blocks, refined in place.
struct Partition {
    /// The states, those of one block side by side.
    order: Vec<u32>,
    /// Where each state is in `order`.
    place: Vec<u32>,
    block_of: Vec<u32>,
    /// First and past-the-last place of each block, and how many of its first states are marked.
    blocks: Vec<(u32, u32, u32)>,
}

impl Partition {
    /// The states grouped by their output.
    fn by(keys: &[u32]) -> Self {
        let mut order: Vec<u32> = (0..keys.len() as u32).collect();
        order.sort_by_key(|s| keys[*s as usize]);
        let mut p = Partition {
            place: vec![0; keys.len()],
            block_of: vec![0; keys.len()],
            blocks: Vec::new(),
            order,
        };
        for i in 0..p.order.len() {
            let state = p.order[i] as usize;
            p.place[state] = i as u32;
            if i == 0 || keys[p.order[i - 1] as usize] != keys[state] {
                p.blocks.push((i as u32, i as u32, 0));
            }
            let block = p.blocks.len() - 1;
            p.blocks[block].1 += 1;
            p.block_of[state] = block as u32;
        }
        p
    }

    /// Marks a state; returns its block if it is the first marked one of it.
    fn mark(&mut self, state: u32) -> Option<u32> {
        let block = self.block_of[state as usize];
        let (first, _, marked) = self.blocks[block as usize];
        let at = self.place[state as usize];
        let to = first + marked;
        if at < to {
            return None;
        }
        let other = self.order[to as usize];
        self.order.swap(at as usize, to as usize);
        self.place[other as usize] = at;
        self.place[state as usize] = to;
        self.blocks[block as usize].2 += 1;
        (marked == 0).then_some(block)
    }

    /// Splits a block into its marked and its other states; returns the new block, which is the smaller.
    fn split(&mut self, block: u32) -> Option<u32> {
        let (first, last, marked) = self.blocks[block as usize];
        self.blocks[block as usize].2 = 0;
        let middle = first + marked;
        if marked == 0 || middle == last {
            return None;
        }
        let new = self.blocks.len() as u32;
        if marked <= last - middle {
            self.blocks[block as usize].0 = middle;
            self.blocks.push((first, middle, 0));
        } else {
            self.blocks[block as usize].1 = middle;
            self.blocks.push((middle, last, 0));
        }
        let (from, to, _) = self.blocks[new as usize];
        for at in from..to {
            self.block_of[self.order[at as usize] as usize] = new;
        }
        Some(new)
    }
}

/// For one byte class, the states that lead to each state.
struct Before {
    starts: Vec<u32>,
    states: Vec<u32>,
}

impl Before {
    fn of(dfa: &Dfa, class: usize) -> Self {
        let n = dfa.states();
        let mut starts = vec![0u32; n + 1];
        let to = |state: usize| dfa.next[state * dfa.stride + class] as usize;
        (0..n).for_each(|s| starts[to(s) + 1] += 1);
        (0..n).for_each(|s| starts[s + 1] += starts[s]);
        let mut fill = starts.clone();
        let mut states = vec![0u32; n];
        for s in 0..n {
            let at = &mut fill[to(s)];
            states[*at as usize] = s as u32;
            *at += 1;
        }
        Before { starts, states }
    }

    fn of_state(&self, state: u32) -> &[u32] {
        &self.states[self.starts[state as usize] as usize..self.starts[state as usize + 1] as usize]
    }
}

/// The automaton with states that no input tells apart made one. Start stays 0.
fn minimized(dfa: Dfa) -> Dfa {
    let before: Vec<Before> = (0..dfa.stride).map(|class| Before::of(&dfa, class)).collect();
    let mut p = Partition::by(&dfa.output);
    let mut waiting: Vec<u32> = (0..p.blocks.len() as u32).collect();
    let mut touched = Vec::new();
    while let Some(splitter) = waiting.pop() {
        let (first, last, _) = p.blocks[splitter as usize];
        let members = p.order[first as usize..last as usize].to_vec();
        for before in &before {
            for state in &members {
                for from in before.of_state(*state) {
                    touched.extend(p.mark(*from));
                }
            }
            for block in touched.drain(..) {
                // Whether the old block waits still or not, the new and smaller one must.
                waiting.extend(p.split(block));
            }
        }
    }
    renumbered(&dfa, &p)
}

/// The blocks as states, numbered by first visit from the start: the result is a function of the language.
fn renumbered(dfa: &Dfa, p: &Partition) -> Dfa {
    let mut number: Vec<Option<u32>> = vec![None; p.blocks.len()];
    let mut visit: Vec<u32> = Vec::new();
    let mut see = |state: u32, visit: &mut Vec<u32>| {
        *number[p.block_of[state as usize] as usize].get_or_insert_with(|| {
            visit.push(state);
            visit.len() as u32 - 1
        })
    };
    see(0, &mut visit);
    let (mut next, mut output) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < visit.len() {
        let state = visit[at] as usize;
        output.push(dfa.output[state]);
        for class in 0..dfa.stride {
            next.push(see(dfa.next[state * dfa.stride + class], &mut visit));
        }
        at += 1;
    }
    Dfa { class_of: dfa.class_of, stride: dfa.stride, next, output, outputs: dfa.outputs.clone() }
}
