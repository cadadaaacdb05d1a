//! Inclusion and consistency proofs of RFC 6962, sections 2.1.1 and 2.1.2.
//!
//! A proof is a list of subtree hashes. Which subtrees is decided by sizes alone, so it is planned here, hashed from tiles
//! ([`crate::tile`]) or from the receipts, and checked here again. Must never: read a file.

use std::ops::Range;

use crate::merkle::{self, Hash};

/// Most hashes of a proof: a tree has less than 2^64 leaves, and a consistency proof may have one more than its height.
pub const PROOF_MAX: usize = 65;

/// A sibling on the way from the root down.
enum Step {
    Left(Range<u64>),
    Right(Range<u64>),
}

impl Step {
    fn range(&self) -> Range<u64> {
        let (Self::Left(range) | Self::Right(range)) = self;
        range.clone()
    }

    /// The parent of a node and its sibling.
    fn parent(&self, node: &Hash, sibling: &Hash) -> Hash {
        match self {
            Self::Left(_) => merkle::node(sibling, node),
            Self::Right(_) => merkle::node(node, sibling),
        }
    }
}

/// The largest power of two below `leaves`, which are at least two: where RFC 6962 splits a tree.
fn split(leaves: u64) -> u64 {
    1 << (63 - (leaves - 1).leading_zeros())
}

/// The siblings from a leaf to the root.
fn inclusion_steps(index: u64, size: u64) -> Option<Vec<Step>> {
    if index >= size {
        return None;
    }
    let (mut begin, mut end) = (0, size);
    let mut steps = Vec::new();
    while end - begin > 1 {
        let middle = begin + split(end - begin);
        if index < middle {
            steps.push(Step::Right(middle..end));
            end = middle;
        } else {
            steps.push(Step::Left(begin..middle));
            begin = middle;
        }
    }
    steps.reverse();
    Some(steps)
}

/// The siblings from the last complete subtree of the older tree to the root of the newer, and that subtree, unless it is the whole older
/// tree.
fn consistency_steps(old: u64, new: u64) -> Option<(Vec<Step>, Option<Range<u64>>)> {
    if old == 0 || old > new {
        return None;
    }
    let (mut begin, mut end, mut whole) = (0, new, true);
    let mut steps = Vec::new();
    while end != old {
        let middle = begin + split(end - begin);
        if old <= middle {
            steps.push(Step::Right(middle..end));
            end = middle;
        } else {
            steps.push(Step::Left(begin..middle));
            begin = middle;
            whole = false;
        }
    }
    steps.reverse();
    Some((steps, (!whole).then_some(begin..end)))
}

/// The subtrees, as ranges of leaves, whose hashes prove that a leaf is in a tree of `size`: its sibling first. `None`: there is no such
/// leaf.
pub fn inclusion(index: u64, size: u64) -> Option<Vec<Range<u64>>> {
    Some(inclusion_steps(index, size)?.iter().map(Step::range).collect())
}

/// The subtrees whose hashes prove that a tree of `new` leaves begins with one of `old`. `None`: the older one is empty, or larger.
pub fn consistency(old: u64, new: u64) -> Option<Vec<Range<u64>>> {
    let (steps, first) = consistency_steps(old, new)?;
    Some(first.into_iter().chain(steps.iter().map(Step::range)).collect())
}

/// The root that a leaf and its proof lead to. `None`: a proof of another place has as many hashes.
pub fn root(leaf: &Hash, index: u64, size: u64, proof: &[Hash]) -> Option<Hash> {
    let steps = inclusion_steps(index, size)?;
    (steps.len() == proof.len())
        .then(|| steps.iter().zip(proof).fold(*leaf, |hash, (step, sibling)| step.parent(&hash, sibling)))
}

/// Whether the newer tree (size and root) begins with the older.
pub fn is_consistent(old: (u64, &Hash), new: (u64, &Hash), proof: &[Hash]) -> bool {
    let Some((steps, first)) = consistency_steps(old.0, new.0) else {
        // With nothing everything begins.
        return old.0 == 0 && *old.1 == merkle::Tree::default().root() && proof.is_empty();
    };
    let (seed, rest) = match first {
        None => (*old.1, proof),
        Some(_) => match proof.split_first() {
            Some((seed, rest)) => (*seed, rest),
            None => return false,
        },
    };
    if rest.len() != steps.len() {
        return false;
    }
    let (mut older, mut newer) = (seed, seed);
    for (step, sibling) in steps.iter().zip(rest) {
        newer = step.parent(&newer, sibling);
        if matches!(step, Step::Left(_)) {
            older = step.parent(&older, sibling);
        }
    }
    older == *old.1 && newer == *new.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(n: u64) -> Vec<Hash> {
        (0..n).map(|i| merkle::leaf(&i.to_be_bytes())).collect()
    }

    fn hash(leaves: &[Hash], range: &Range<u64>) -> Hash {
        let mut tree = merkle::Tree::default();
        leaves[range.start as usize..range.end as usize].iter().for_each(|leaf| tree.push(*leaf));
        tree.root()
    }

    #[test]
    fn every_leaf_of_every_small_tree_is_proven_and_no_other() {
        let all = leaves(70);
        for size in 0..=70 {
            let root_of = hash(&all, &(0..size));
            for index in 0..size {
                let ranges = inclusion(index, size).unwrap();
                let proof: Vec<Hash> = ranges.iter().map(|r| hash(&all, r)).collect();
                assert_eq!(
                    root(&all[index as usize], index, size, &proof),
                    Some(root_of),
                    "{index} of {size}"
                );
                for other in (0..size).filter(|other| *other != index) {
                    assert_ne!(root(&all[index as usize], other, size, &proof), Some(root_of));
                }
                for at in 0..proof.len() {
                    let mut changed = proof.clone();
                    changed[at][at % 32] ^= 1;
                    assert_ne!(root(&all[index as usize], index, size, &changed), Some(root_of));
                }
                assert_eq!(root(&all[0], index, size, &[proof, vec![[0; 32]]].concat()), None);
            }
            assert!(inclusion(size, size).is_none());
        }
    }

    #[test]
    fn every_small_tree_begins_with_every_smaller_and_with_no_other() {
        let all = leaves(50);
        let mut others = all.clone();
        others[3] = [9; 32];
        for new in 0..=50 {
            let new_root = hash(&all, &(0..new));
            for old in 0..=new {
                let old_root = hash(&all, &(0..old));
                let ranges = if old == 0 { Vec::new() } else { consistency(old, new).unwrap() };
                let proof: Vec<Hash> = ranges.iter().map(|r| hash(&all, r)).collect();
                assert!(is_consistent((old, &old_root), (new, &new_root), &proof), "{old} in {new}");
                let other = hash(&others, &(0..old));
                assert_eq!(
                    old > 3,
                    !is_consistent((old, &other), (new, &new_root), &proof),
                    "{old} in {new}"
                );
                for at in 0..proof.len() {
                    let mut changed = proof.clone();
                    changed[at][at % 32] ^= 1;
                    assert!(!is_consistent((old, &old_root), (new, &new_root), &changed));
                }
            }
            assert!(!is_consistent((new + 1, &new_root), (new, &new_root), &[]));
        }
    }

    #[test]
    fn the_largest_tree_has_a_proof_within_the_bound() {
        for index in [0, 1, u64::MAX / 2, u64::MAX - 1] {
            assert!(inclusion(index, u64::MAX).unwrap().len() <= PROOF_MAX);
            assert!(consistency(index.max(1), u64::MAX).unwrap().len() <= PROOF_MAX);
        }
    }
}
