//! Finds events that never arrived, from the per-CPU sequence numbers.
//!
//! A program can be preempted between taking its number and putting its event into the ring, so numbers of
//! one CPU may arrive slightly out of order. A number counts as missing when a later one has been here for
//! [`GRACE_NS`], or when [`PENDING_MAX`] later ones are waiting for it.

/// How long a number may be late, in nanoseconds.
pub const GRACE_NS: u64 = 1_000_000_000;
/// Numbers of one CPU that may wait for an earlier one.
pub const PENDING_MAX: usize = 64;
/// CPUs followed; the largest number of CPUs Linux supports (`NR_CPUS`). Events of others are not followed.
pub const CPUS_MAX: usize = 8192;

/// Events that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The CPU.
    pub cpu: u32,
    /// First missing number.
    pub first: u64,
    /// How many.
    pub count: u64,
}

#[derive(Clone, Debug, Default)]
struct Cpu {
    /// The first number may be anything: nothing is known of the events before.
    started: bool,
    next: u64,
    /// Numbers above `next`, sorted.
    pending: Vec<u64>,
    since_ns: u64,
}

/// What has arrived.
#[derive(Clone, Debug, Default)]
pub struct GapTracker {
    cpus: Vec<Cpu>,
    /// CPUs whose first number must be 0.
    from_zero: bool,
    holes: usize,
    late: u64,
}

impl GapTracker {
    /// A tracker for freshly loaded programs: numbers start at 0. The default one is for programs that have run
    /// before: the first number of each CPU may be anything.
    pub fn fresh() -> Self {
        Self { from_zero: true, ..Self::default() }
    }

    fn cpu(&mut self, cpu: u32) -> Option<&mut Cpu> {
        let i = cpu as usize;
        if i >= CPUS_MAX {
            return None;
        }
        if i >= self.cpus.len() {
            self.cpus.resize_with(i + 1, Cpu::default);
        }
        Some(&mut self.cpus[i])
    }

    /// Notes an event's number. `false`: it was here before, or was given up as missing.
    #[inline]
    pub fn note(&mut self, cpu: u32, seq: u64, now_ns: u64) -> bool {
        match self.cpus.get_mut(cpu as usize) {
            Some(c) if c.next == seq && c.started && c.pending.is_empty() => {
                c.next += 1;
                true
            }
            _ => self.note_slow(cpu, seq, now_ns),
        }
    }

    #[cold]
    fn note_slow(&mut self, cpu: u32, seq: u64, now_ns: u64) -> bool {
        let from_zero = self.from_zero;
        let Some(c) = self.cpu(cpu) else { return true };
        if !c.started {
            c.started = true;
            c.next = if from_zero { 0 } else { seq };
        }
        if seq < c.next {
            self.late += 1;
            return false;
        }
        let had_hole = !c.pending.is_empty();
        match c.pending.binary_search(&seq) {
            Ok(_) => {
                self.late += 1;
                return false;
            }
            Err(at) => c.pending.insert(at, seq),
        }
        Self::absorb(c);
        let has_hole = !c.pending.is_empty();
        if has_hole && !had_hole {
            c.since_ns = now_ns;
        }
        self.holes = self.holes + usize::from(has_hole) - usize::from(had_hole);
        true
    }

    /// Takes waiting numbers that are in order now.
    fn absorb(c: &mut Cpu) {
        let ready = c.pending.iter().zip(c.next..).take_while(|(have, want)| **have == *want).count();
        c.pending.drain(..ready);
        c.next += ready as u64;
    }

    /// Whether [`GapTracker::overdue`] could find anything.
    pub fn has_holes(&self) -> bool {
        self.holes > 0
    }

    /// Hands the numbers given up on to `report`, at most `limit` gaps; the others come next time. Time 0: only
    /// those that enough later ones are waiting for.
    pub fn overdue(&mut self, now_ns: u64, mut limit: usize, mut report: impl FnMut(Gap)) {
        if self.holes == 0 {
            return;
        }
        for (cpu, c) in self.cpus.iter_mut().enumerate() {
            while let Some(&first_here) = c.pending.first() {
                let early = now_ns.saturating_sub(c.since_ns) < GRACE_NS && c.pending.len() < PENDING_MAX;
                if early || limit == 0 {
                    break;
                }
                limit -= 1;
                report(Gap { cpu: cpu as u32, first: c.next, count: first_here - c.next });
                c.next = first_here;
                Self::absorb(c);
                // Whatever still waits gets its own time.
                c.since_ns = now_ns;
                if c.pending.is_empty() {
                    self.holes -= 1;
                }
            }
        }
    }

    /// Takes in a gap that was reported by a former tracker: `missing` numbers before the first that waits.
    pub fn told(&mut self, cpu: u32, missing: u64) {
        let Some(c) = self.cpus.get_mut(cpu as usize) else { return };
        // Otherwise it is one whose beginning this tracker has not seen.
        if c.pending.first().is_some_and(|first| c.next.checked_add(missing) == Some(*first)) {
            c.next += missing;
            Self::absorb(c);
            if c.pending.is_empty() {
                self.holes -= 1;
            }
        }
    }

    /// What each CPU's numbers have come to: the next one, and those above it that came early.
    pub fn read(&self) -> impl Iterator<Item = (u64, &[u64])> {
        self.cpus.iter().map(|c| (c.next, &c.pending[..]))
    }

    /// Events that came twice, or after they were given up on.
    pub fn late(&self) -> u64 {
        self.late
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn gaps(t: &mut GapTracker, now: u64) -> Vec<Gap> {
        let mut found = Vec::new();
        t.overdue(now, usize::MAX, |g| found.push(g));
        found
    }

    #[test]
    fn order_within_the_grace_time_does_not_matter() {
        let mut t = GapTracker::fresh();
        for seq in [0, 2, 1, 3, 6, 5, 4] {
            assert!(t.note(1, seq, 10));
        }
        assert!(!t.has_holes());
        assert!(gaps(&mut t, u64::MAX).is_empty());
        assert_eq!(t.read().collect::<Vec<_>>(), [(0, &[][..]), (7, &[][..])]);
    }

    #[test]
    fn a_missing_number_is_reported_once() {
        let mut t = GapTracker::fresh();
        t.note(0, 0, 5);
        t.note(0, 3, 5);
        assert!(gaps(&mut t, 5 + GRACE_NS - 1).is_empty());
        assert_eq!(gaps(&mut t, 5 + GRACE_NS), [Gap { cpu: 0, first: 1, count: 2 }]);
        assert!(gaps(&mut t, u64::MAX).is_empty());
        assert!(!t.note(0, 1, 6 + GRACE_NS));
        assert_eq!(t.late(), 1);
        assert!(t.note(0, 4, 6 + GRACE_NS));
    }

    #[test]
    fn the_first_number_counts_on_fresh_programs_only() {
        let mut t = GapTracker::fresh();
        t.note(0, 2, 0);
        assert_eq!(gaps(&mut t, GRACE_NS), [Gap { cpu: 0, first: 0, count: 2 }]);
        let mut t = GapTracker::default();
        t.note(0, 2, 0);
        t.note(1, 6, 0);
        t.note(1, 8, 0);
        assert_eq!(gaps(&mut t, GRACE_NS), [Gap { cpu: 1, first: 7, count: 1 }]);
    }

    #[test]
    fn gaps_beyond_the_limit_come_next_time() {
        let mut t = GapTracker::fresh();
        for seq in [1, 3, 5] {
            t.note(0, seq, 0);
        }
        let (mut first, mut rest) = (Vec::new(), Vec::new());
        t.overdue(GRACE_NS, 1, |g| first.push(g.first));
        t.overdue(2 * GRACE_NS, 9, |g| rest.push(g.first));
        t.overdue(3 * GRACE_NS, 9, |g| rest.push(g.first));
        assert_eq!((first, rest), (vec![0], vec![2, 4]));
    }

    #[test]
    fn a_gap_of_a_former_tracker_is_not_reported_again() {
        let mut t = GapTracker::default();
        for seq in [4, 7, 9] {
            t.note(0, seq, 0);
        }
        t.told(0, 1);
        assert_eq!(t.read().next(), Some((5, &[7, 9][..])), "not the gap that is there");
        t.told(0, 2);
        t.told(3, 2);
        assert_eq!(gaps(&mut t, GRACE_NS), [Gap { cpu: 0, first: 8, count: 1 }]);
        assert!(!t.has_holes());
    }

    #[test]
    fn waiting_numbers_are_bounded() {
        let mut t = GapTracker::fresh();
        for seq in 0..PENDING_MAX as u64 {
            t.note(0, 2 * seq + 1, 0);
        }
        assert!(!gaps(&mut t, 0).is_empty());
        assert!(t.note(u32::MAX, 3, 0), "an absurd CPU is not followed");
    }

    proptest! {
        #[test]
        fn every_number_is_either_seen_or_reported(present in proptest::collection::vec(any::<bool>(), 1..200), swap in any::<u64>()) {
            let mut numbers: Vec<u64> =
                present.iter().enumerate().filter(|(_, p)| **p).map(|(i, _)| i as u64).collect();
            let mut state = swap;
            for i in 1..numbers.len() {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
                if state >> 63 == 1 { numbers.swap(i - 1, i); }
            }
            let mut t = GapTracker::fresh();
            let mut missing = 0;
            for n in &numbers {
                t.note(0, *n, 0);
                t.overdue(0, usize::MAX, |g| missing += g.count);
            }
            // Each hole has a time of its own, which begins when the one before is given up.
            for turn in 1..=numbers.len() as u64 + 1 {
                t.overdue(turn * GRACE_NS, usize::MAX, |g| missing += g.count);
            }
            let end = numbers.iter().max().map_or(0, |m| m + 1);
            let seen = numbers.len() as u64 - t.late();
            prop_assert_eq!(seen + missing, end);
        }
    }
}
