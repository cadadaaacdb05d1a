//! Requests that are like each other are told together: who is told of each of fifty looks at none.
//!
//! The first of a kind is told at once. Those that follow within [`QUIET_NS`] are told together when that is over, and so on while
//! there are more. Owns when people elsewhere are told; what waits, and that all of it is listed, is none of its business.

use std::collections::BTreeMap;

/// How long others like it are not told of.
pub const QUIET_NS: u64 = 10_000_000_000;
/// Most kinds that are kept apart; more are told of one by one. And most of one kind that are told together.
const KINDS_MAX: usize = 1024;
const MORE_MAX: usize = 1024;

/// What was told lately.
#[derive(Debug, Default)]
pub struct Quiet {
    kinds: BTreeMap<String, Kind>,
}

#[derive(Debug)]
struct Kind {
    told_ns: u64,
    /// Those that were not told of, by their keys.
    more: Vec<u64>,
}

impl Quiet {
    /// Whether one of a kind is told now. Otherwise it is when [`Quiet::over`] says so.
    pub fn tells(&mut self, like: &str, key: u64, now_ns: u64) -> bool {
        if let Some(kind) = self.kinds.get_mut(like) {
            // Those that are too many are listed all the same.
            if kind.more.len() < MORE_MAX {
                kind.more.push(key);
            }
            return false;
        }
        if self.kinds.len() >= KINDS_MAX {
            return true;
        }
        self.kinds.insert(like.to_owned(), Kind { told_ns: now_ns, more: Vec::new() });
        true
    }

    /// The kinds whose time is over, each with those that are told of now: of what `waits` still.
    pub fn over(&mut self, now_ns: u64, waits: impl Fn(u64) -> bool) -> Vec<Vec<u64>> {
        let mut all = Vec::new();
        self.kinds.retain(|_, kind| {
            if now_ns.saturating_sub(kind.told_ns) < QUIET_NS {
                return true;
            }
            let more: Vec<u64> = kind.more.drain(..).filter(|key| waits(*key)).collect();
            let tells = !more.is_empty();
            all.extend(tells.then_some(more));
            kind.told_ns = now_ns;
            tells
        });
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_those_that_follow_together() {
        let mut q = Quiet::default();
        assert!(q.tells("a", 1, 0) && q.tells("b", 2, 5));
        assert!(!q.tells("a", 3, 6) && !q.tells("a", 4, 7) && !q.tells("a", 5, 8));
        assert!(q.over(QUIET_NS - 1, |_| true).is_empty());
        // Not those that were answered meanwhile.
        assert_eq!(q.over(QUIET_NS + 5, |key| key != 4), [vec![3, 5]]);
        assert!(!q.tells("a", 6, QUIET_NS + 6), "it was told just now");
        assert!(q.tells("b", 7, QUIET_NS + 6), "nothing was left untold");
        assert_eq!(q.over(2 * QUIET_NS + 6, |_| true), [vec![6]]);
        assert!(q.over(3 * QUIET_NS + 6, |_| true).is_empty() && q.kinds.is_empty());
    }

    #[test]
    fn a_flood_is_bounded() {
        let mut q = Quiet::default();
        (0..2 * KINDS_MAX as u64).for_each(|n| assert!(q.tells(&n.to_string(), n, 0)));
        (0..2 * MORE_MAX as u64).for_each(|n| assert!(!q.tells("0", n, 1)));
        assert_eq!((q.kinds.len(), q.over(QUIET_NS, |_| true)[0].len()), (KINDS_MAX, MORE_MAX));
    }
}
