//! Rule bitmaps, each kept once, and the tables of ranges that refer to them.

use std::collections::HashMap;
use std::rc::Rc;

use aarm_common::limits::RULE_SETS;
use aarm_common::policy::Bits;

/// Sets a rule's bit.
pub(crate) fn set_bit(bits: &mut Bits, rule: usize) {
    bits[rule / 64] |= 1 << (rule % 64);
}

/// Clears a rule's bit.
fn clear_bit(bits: &mut Bits, rule: usize) {
    bits[rule / 64] &= !(1 << (rule % 64));
}

/// The distinct bitmaps of a policy. Beyond [`RULE_SETS`] they are counted but no longer told apart: whoever
/// builds a table must refuse it if [`Sets::needed`] is larger.
#[derive(Debug, Default)]
pub(crate) struct Sets {
    ids: HashMap<Bits, u16>,
    list: Vec<Bits>,
    over: usize,
}

impl Sets {
    /// The index of a bitmap.
    pub(crate) fn id(&mut self, bits: Bits) -> u16 {
        if let Some(id) = self.ids.get(&bits) {
            return *id;
        }
        if self.list.len() == RULE_SETS {
            self.over += 1;
            return 0;
        }
        let id = self.list.len() as u16;
        self.ids.insert(bits, id);
        self.list.push(bits);
        id
    }

    /// The bitmaps, by index.
    pub(crate) fn list(&self) -> &[Bits] {
        &self.list
    }

    /// How many the policy needs; over [`RULE_SETS`] an upper bound.
    pub(crate) fn needed(&self) -> usize {
        self.list.len() + self.over
    }
}

/// Values from `first` to `last` that a rule asks for, or asks not to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interval {
    pub rule: usize,
    pub negated: bool,
    pub first: u128,
    pub last: u128,
}

/// One scalar dimension: what each rule says about a value.
#[derive(Clone, Debug)]
pub(crate) struct Dimension {
    intervals: Vec<Interval>,
    /// Rules that ask for some value, here or in a sister dimension (IPv4 and IPv6).
    asking: Vec<bool>,
    /// The bit of each rule.
    bits: Rc<[usize]>,
}

impl Dimension {
    /// A dimension of rules with these bits, which say nothing yet.
    pub(crate) fn new(bits: Rc<[usize]>) -> Self {
        Dimension { intervals: Vec::new(), asking: vec![false; bits.len()], bits }
    }

    /// The rule holds for these values, and for others it names.
    pub(crate) fn ask(&mut self, rule: usize, first: u128, last: u128) {
        self.asking[rule] = true;
        self.intervals.push(Interval { rule, negated: false, first, last });
    }

    /// The rule asks for a value, but for none of this dimension.
    pub(crate) fn ask_elsewhere(&mut self, rule: usize) {
        self.asking[rule] = true;
    }

    /// The rule does not hold for these values.
    pub(crate) fn refuse(&mut self, rule: usize, first: u128, last: u128) {
        self.intervals.push(Interval { rule, negated: true, first, last });
    }

    /// The rules that hold for something that is not a value at all: those that ask for none.
    pub(crate) fn none(&self) -> Bits {
        let mut bits = Bits::default();
        for rule in (0..self.asking.len()).filter(|rule| !self.asking[*rule]) {
            set_bit(&mut bits, self.bits[rule]);
        }
        bits
    }

    /// How many boundaries each rule brings, the dearest first.
    pub(crate) fn cost(&self) -> Vec<(usize, usize)> {
        let mut cost = vec![0; self.asking.len()];
        self.intervals.iter().for_each(|i| cost[i.rule] += 2);
        let mut cost: Vec<(usize, usize)> = cost.into_iter().enumerate().filter(|(_, n)| *n > 0).collect();
        cost.sort_by_key(|(rule, n)| (std::cmp::Reverse(*n), *rule));
        cost
    }

    /// Starts of the ranges in which the same rules hold, with these rules; the first is 0. Values go up to
    /// `max`. Neighbours differ.
    pub(crate) fn ranges(&self, max: u128) -> Vec<(u128, Bits)> {
        // At each boundary, which rule gains or loses an interval.
        let mut edges: Vec<(u128, bool, usize, bool)> = Vec::with_capacity(2 * self.intervals.len());
        for i in &self.intervals {
            edges.push((i.first, true, i.rule, i.negated));
            if i.last < max {
                edges.push((i.last + 1, false, i.rule, i.negated));
            }
        }
        edges.sort_unstable();
        let mut within = vec![[0u32; 2]; self.asking.len()];
        let mut bits = self.none();
        let mut out: Vec<(u128, Bits)> = vec![(0, bits)];
        for (at, opens, rule, negated) in edges {
            let count = &mut within[rule];
            let slot = &mut count[negated as usize];
            // Within one boundary closing edges sort first; a rule always closes what it opened before.
            *slot = if opens { *slot + 1 } else { *slot - 1 };
            if (!self.asking[rule] || count[0] > 0) && count[1] == 0 {
                set_bit(&mut bits, self.bits[rule]);
            } else {
                clear_bit(&mut bits, self.bits[rule]);
            }
            match out.last_mut() {
                Some(last) if last.0 == at => last.1 = bits,
                _ => out.push((at, bits)),
            }
        }
        out.dedup_by(|later, earlier| later.1 == earlier.1);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(d: &Dimension, max: u128, value: u128, rule: usize) -> bool {
        let ranges = d.ranges(max);
        let (_, bits) = ranges.iter().rev().find(|(start, _)| *start <= value).unwrap();
        bits[rule / 64] >> (rule % 64) & 1 == 1
    }

    #[test]
    fn ranges_hold_what_rules_ask() {
        let mut d = Dimension::new([0, 1, 2, 3].into());
        d.ask(0, 10, 20);
        d.ask(0, 15, 30);
        d.refuse(0, 18, 18);
        d.refuse(1, 0, 255);
        d.ask(2, 255, 255);
        for value in 0..=255 {
            assert_eq!(holds(&d, 255, value, 0), (10..=30).contains(&value) && value != 18, "{value}");
            assert!(!holds(&d, 255, value, 1));
            assert_eq!(holds(&d, 255, value, 2), value == 255);
            assert!(holds(&d, 255, value, 3));
        }
        assert_eq!(d.ranges(255).first().unwrap().0, 0);
        assert_eq!(d.none()[0], 0b1010);
        assert_eq!(d.cost()[0], (0, 6));
    }

    #[test]
    fn neighbours_are_merged() {
        let mut d = Dimension::new([0].into());
        (0..100).for_each(|i| d.ask(0, i, i));
        assert_eq!(d.ranges(1000).len(), 2);
    }

    #[test]
    fn sets_are_kept_once_and_bounded() {
        let mut sets = Sets::default();
        for n in 0..RULE_SETS as u64 + 10 {
            let mut bits = Bits::default();
            bits[0] = n;
            assert_eq!(sets.id(bits), if n < RULE_SETS as u64 { n as u16 } else { 0 });
        }
        assert_eq!(sets.id(Bits::default()), 0);
        assert_eq!((sets.list().len(), sets.needed()), (RULE_SETS, RULE_SETS + 10));
    }
}
