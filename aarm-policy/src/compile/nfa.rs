//! Globs as one non-deterministic automaton over the reversed path.
//!
//! The input is the one `aarm_common::policy` describes: for each component, from the last to the first, its
//! bytes backwards and then a `/`. Globs that end alike share their first nodes, as in a trie, so that five
//! hundred globs that end in `/**` wait in one node and not in five hundred.

use regex_syntax::hir::{Class, Hir, HirKind};
use std::collections::HashMap;
use std::rc::Rc;

use crate::glob::{Atom, ByteSet, Component, Pattern, Start};

/// Most nodes of one automaton.
const MAX_NODES: usize = 400_000;

/// The bytes of a label.
const NAME: &[u8; 38] = b"abcdefghijklmnopqrstuvwxyz0123456789-_";

/// Index of a node.
pub(crate) type NodeId = u32;

/// Which predicate of a rule a glob belongs to; the fields of `aarm_common::policy::Hits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Predicate {
    Path,
    NotPath,
    Exe,
    NotExe,
    /// A pattern of programs that `subject` has, by its bit.
    Program(u8),
    /// A pattern of cgroups.
    Container(u8),
    /// That a `path` glob can match below.
    Above,
}

/// What it means to arrive at a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Accept {
    /// Index of the rule in compiled order; 0 for a pattern of `subject`, which is no rule's own.
    pub rule: u16,
    /// Its predicate.
    pub predicate: Predicate,
    /// Whether it counts after any `/`, or only after the leading one.
    pub boundary: bool,
}

/// An edge that takes one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Edge {
    Slash,
    NotSlash,
    Byte(u8),
    /// Index into [`Nfa::classes`].
    Class(u32),
}

/// One step of a glob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    One(Edge),
    /// Any number of bytes of a component.
    Star,
    /// Any number of components.
    Deep,
}

#[derive(Debug, Default)]
pub(crate) struct Node {
    pub edges: Vec<(Edge, NodeId)>,
    /// Nodes that are reached without a byte.
    pub free: Vec<NodeId>,
    pub accepts: Vec<Accept>,
}

/// The automaton grew over its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooBig;

/// The automaton; node 0 is its start.
#[derive(Debug)]
pub(crate) struct Nfa<'h> {
    /// Home directories.
    host_homes: &'h [Vec<u8>],
    /// The directories above them.
    above_homes: Rc<[Pattern]>,
    pub nodes: Vec<Node>,
    pub classes: Vec<ByteSet>,
    steps: HashMap<(NodeId, Step), NodeId>,
    class_ids: HashMap<ByteSet, u32>,
    /// For each meaning, the node after which a home directory follows.
    homes: HashMap<Accept, NodeId>,
}

impl<'h> Nfa<'h> {
    pub(crate) fn new(host_homes: &'h [Vec<u8>]) -> Self {
        Nfa {
            host_homes,
            above_homes: above_all(host_homes).into(),
            nodes: vec![Node::default()],
            classes: Vec::new(),
            steps: HashMap::new(),
            class_ids: HashMap::new(),
            homes: HashMap::new(),
        }
    }

    /// Adds one pattern of a glob of `predicate` of `rule`.
    pub(crate) fn add(&mut self, pattern: &Pattern, rule: u16, predicate: Predicate) -> Result<(), TooBig> {
        self.add_part(pattern.start, &pattern.components, rule, predicate)
    }

    /// Adds the directories below which the pattern can match, see [`crate::eval`]: what its first components
    /// match, and above a home directory the directories above it.
    pub(crate) fn add_above(&mut self, pattern: &Pattern, rule: u16) -> Result<(), TooBig> {
        let all = &pattern.components;
        // A pattern that starts anywhere says nothing about directories of which it names no component.
        let first = usize::from(pattern.start == Start::Anywhere);
        for k in first..all.len() {
            // What `a` matches `a/**` matches too; and if that is the pattern, there is nothing to add.
            if all[k] != Component::Any {
                self.add_part(pattern.start, &all[..k], rule, Predicate::Above)?;
            }
        }
        if pattern.start == Start::Home {
            for directory in Rc::clone(&self.above_homes).iter() {
                self.add(directory, rule, Predicate::Above)?;
            }
        }
        Ok(())
    }

    /// Adds a regular expression over the name of a host. A name is fed from its first byte to its last, with a `/` where it has a dot,
    /// and one at its end.
    pub(crate) fn add_name(&mut self, hir: &Hir, rule: u16, predicate: Predicate) -> Result<(), TooBig> {
        // Nodes of its own: what others share must not become part of a loop.
        let start = self.after(0)?;
        let end = self.regex(start, hir)?;
        let whole = self.node()?;
        self.nodes[end as usize].edges.push((Edge::Slash, whole));
        self.accept(whole, Accept { rule, predicate, boundary: false });
        Ok(())
    }

    /// The node after what an expression describes.
    fn regex(&mut self, at: NodeId, hir: &Hir) -> Result<NodeId, TooBig> {
        match hir.kind() {
            // The parser of hosts lets nothing through that looks around.
            HirKind::Empty | HirKind::Look(_) => Ok(at),
            HirKind::Literal(literal) => {
                literal.0.iter().try_fold(at, |at, byte| self.one_of(at, &|b| b == *byte))
            }
            HirKind::Class(Class::Bytes(class)) => {
                let ranges: Vec<(u8, u8)> = class.iter().map(|r| (r.start(), r.end())).collect();
                self.one_of(at, &|b| ranges.iter().any(|(first, last)| (*first..=*last).contains(&b)))
            }
            HirKind::Class(Class::Unicode(class)) => {
                let ranges: Vec<(char, char)> = class.iter().map(|r| (r.start(), r.end())).collect();
                self.one_of(at, &|b| {
                    ranges.iter().any(|(first, last)| (*first..=*last).contains(&char::from(b)))
                })
            }
            HirKind::Capture(capture) => self.regex(at, &capture.sub),
            HirKind::Concat(parts) => parts.iter().try_fold(at, |at, part| self.regex(at, part)),
            HirKind::Alternation(parts) => {
                let end = self.node()?;
                for part in parts {
                    let begin = self.after(at)?;
                    let to = self.regex(begin, part)?;
                    self.nodes[to as usize].free.push(end);
                }
                Ok(end)
            }
            HirKind::Repetition(repetition) => {
                let mut at = at;
                for _ in 0..repetition.min {
                    at = self.regex(at, &repetition.sub)?;
                }
                match repetition.max {
                    None => {
                        let again = self.after(at)?;
                        let to = self.regex(again, &repetition.sub)?;
                        self.nodes[to as usize].free.push(again);
                        self.after(again)
                    }
                    Some(max) => {
                        let end = self.after(at)?;
                        for _ in repetition.min..max {
                            let begin = self.after(at)?;
                            at = self.regex(begin, &repetition.sub)?;
                            self.nodes[at as usize].free.push(end);
                        }
                        Ok(end)
                    }
                }
            }
        }
    }

    /// The edge of a set of bytes.
    fn class(&mut self, set: ByteSet) -> Edge {
        let next = self.classes.len() as u32;
        let id = *self.class_ids.entry(set).or_insert(next);
        if id == next {
            self.classes.push(set);
        }
        Edge::Class(id)
    }

    /// A new node that is reached without a byte.
    fn after(&mut self, from: NodeId) -> Result<NodeId, TooBig> {
        let to = self.node()?;
        self.nodes[from as usize].free.push(to);
        Ok(to)
    }

    /// A new node after one byte of a name.
    fn one_of(&mut self, at: NodeId, is: &dyn Fn(u8) -> bool) -> Result<NodeId, TooBig> {
        let to = self.node()?;
        let mut set = ByteSet::default();
        NAME.iter().filter(|b| is(**b)).for_each(|b| set.insert(*b));
        if !set.is_empty() {
            let class = self.class(set);
            self.nodes[at as usize].edges.push((class, to));
        }
        if is(b'.') {
            self.nodes[at as usize].edges.push((Edge::Slash, to));
        }
        Ok(to)
    }

    fn add_part(
        &mut self,
        start: Start,
        components: &[Component],
        rule: u16,
        predicate: Predicate,
    ) -> Result<(), TooBig> {
        let homes = self.host_homes;
        let accept = Accept { rule, predicate, boundary: start == Start::Anywhere };
        let mut at = 0;
        for component in components.iter().rev() {
            at = match component {
                Component::Any => self.step(at, Step::Deep)?,
                Component::Parts(parts) => {
                    let end = self.parts(at, parts)?;
                    self.step(end, Step::One(Edge::Slash))?
                }
            };
        }
        match start {
            Start::Root if components.is_empty() => {
                let root = self.step(at, Step::One(Edge::Slash))?;
                self.accept(root, accept);
            }
            Start::Root | Start::Anywhere => self.accept(at, accept),
            Start::Home => {
                let home = self.home(homes, accept)?;
                if !self.nodes[at as usize].free.contains(&home) {
                    self.nodes[at as usize].free.push(home);
                }
                if components.is_empty() && homes.iter().any(Vec::is_empty) {
                    // The root directory as a home is fed as a single `/`.
                    let root = self.step(at, Step::One(Edge::Slash))?;
                    self.accept(root, accept);
                }
            }
        }
        Ok(())
    }

    /// The parts of a component, from its last byte to its first.
    fn parts(&mut self, mut at: NodeId, parts: &[Atom]) -> Result<NodeId, TooBig> {
        if parts == [Atom::Star] {
            // A component has at least one byte; only the root is fed as an empty one.
            at = self.step(at, Step::One(Edge::NotSlash))?;
        }
        for atom in parts.iter().rev() {
            let step = match atom {
                Atom::Byte(byte) => Step::One(Edge::Byte(*byte)),
                Atom::Any => Step::One(Edge::NotSlash),
                Atom::Star => Step::Star,
                Atom::Class(set) => Step::One(self.class(*set)),
            };
            at = self.step(at, step)?;
        }
        Ok(at)
    }

    /// The node from which the home directories, backwards, lead to `accept`. Homes that begin alike end in
    /// the same nodes, so that a further home under `/home` costs its own name only.
    fn home(&mut self, homes: &[Vec<u8>], accept: Accept) -> Result<NodeId, TooBig> {
        if let Some(node) = self.homes.get(&accept) {
            return Ok(*node);
        }
        let (first, end) = (self.node()?, self.node()?);
        self.homes.insert(accept, first);
        self.accept(end, accept);
        // For a node and the byte that leads to it, the node before.
        let mut before: HashMap<(NodeId, u8), NodeId> = HashMap::new();
        for home in homes {
            let mut at = end;
            for byte in home {
                at = match before.get(&(at, *byte)) {
                    Some(node) => *node,
                    None => {
                        let node = self.node()?;
                        let edge = if *byte == b'/' { Edge::Slash } else { Edge::Byte(*byte) };
                        self.nodes[node as usize].edges.push((edge, at));
                        before.insert((at, *byte), node);
                        node
                    }
                };
            }
            self.nodes[first as usize].free.push(at);
        }
        Ok(first)
    }

    /// The node after a step, made if it is not there.
    fn step(&mut self, from: NodeId, step: Step) -> Result<NodeId, TooBig> {
        if let Some(to) = self.steps.get(&(from, step)) {
            return Ok(*to);
        }
        let to = self.node()?;
        self.steps.insert((from, step), to);
        match step {
            Step::One(edge) => self.nodes[from as usize].edges.push((edge, to)),
            Step::Star => {
                self.nodes[from as usize].free.push(to);
                self.nodes[to as usize].edges.push((Edge::NotSlash, to));
            }
            Step::Deep => {
                let within = self.node()?;
                self.nodes[from as usize].free.push(to);
                self.nodes[to as usize].edges.extend([(Edge::Slash, to), (Edge::NotSlash, within)]);
                self.nodes[within as usize].edges.extend([(Edge::Slash, to), (Edge::NotSlash, within)]);
            }
        }
        Ok(to)
    }

    fn node(&mut self) -> Result<NodeId, TooBig> {
        if self.nodes.len() >= MAX_NODES {
            return Err(TooBig);
        }
        self.nodes.push(Node::default());
        Ok(self.nodes.len() as NodeId - 1)
    }

    fn accept(&mut self, node: NodeId, accept: Accept) {
        let accepts = &mut self.nodes[node as usize].accepts;
        if !accepts.contains(&accept) {
            accepts.push(accept);
        }
    }
}

/// The directories above the home directories, each once.
fn above_all(homes: &[Vec<u8>]) -> Vec<Pattern> {
    let mut found: Vec<Vec<&[u8]>> = Vec::new();
    for home in homes.iter().filter(|home| !home.is_empty()) {
        let parts: Vec<&[u8]> = home.split(|b| *b == b'/').skip(1).collect();
        found.extend((0..parts.len()).map(|k| parts[..k].to_vec()));
    }
    found.sort();
    found.dedup();
    let literal = |name: &[u8]| Component::Parts(name.iter().map(|b| Atom::Byte(*b)).collect());
    let pattern = |parts: Vec<&[u8]>| Pattern {
        start: Start::Root,
        components: parts.into_iter().map(literal).collect(),
    };
    found.into_iter().map(pattern).collect()
}

/// Bytes that no edge tells apart, as classes numbered from 0.
pub(crate) struct ByteClasses {
    /// The class of each byte.
    pub of: [u8; 256],
    /// How many there are.
    pub count: usize,
    /// The class of `/`, which has no other byte.
    pub slash: u8,
    /// For each of [`Nfa::classes`], the byte classes it is made of.
    pub members: Vec<Vec<u8>>,
}

impl ByteClasses {
    pub(crate) fn of(nfa: &Nfa<'_>) -> Self {
        let mut of = [0u16; 256];
        let mut count = 1u16;
        let mut split = |inside: &dyn Fn(u8) -> bool| {
            let mut moved: HashMap<u16, u16> = HashMap::new();
            let mut left: Vec<bool> = vec![false; count as usize];
            for byte in 0..=255u8 {
                if !inside(byte) {
                    left[of[byte as usize] as usize] = true;
                }
            }
            for byte in 0..=255u8 {
                let class = of[byte as usize];
                // A class that lies inside as a whole keeps its number.
                if inside(byte) && left[class as usize] {
                    of[byte as usize] = *moved.entry(class).or_insert_with(|| {
                        count += 1;
                        count - 1
                    });
                }
            }
        };
        split(&|b| b == b'/');
        let mut used = [false; 256];
        for (edge, _) in nfa.nodes.iter().flat_map(|node| &node.edges) {
            if let Edge::Byte(byte) = edge {
                used[*byte as usize] = true;
            }
        }
        for byte in (0..=255u8).filter(|b| used[*b as usize]) {
            split(&|b| b == byte);
        }
        for set in &nfa.classes {
            split(&|b| set.contains(b));
        }
        let of = of.map(|class| class as u8);
        let members = nfa
            .classes
            .iter()
            .map(|set| {
                let mut list: Vec<u8> =
                    (0..=255u8).filter(|b| set.contains(*b)).map(|b| of[b as usize]).collect();
                list.sort_unstable();
                list.dedup();
                list
            })
            .collect();
        ByteClasses { of, count: count as usize, slash: of[b'/' as usize], members }
    }
}
