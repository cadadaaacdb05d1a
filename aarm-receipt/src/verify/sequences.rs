//! Are there receipts of all events? The kernel numbers them on each CPU.

use std::collections::BTreeMap;

use crate::receipt::{Facts, Seq};

/// Sequence numbers of one CPU since they last began.
struct Sequence {
    /// The first that must be there.
    base: u64,
    /// One above the highest seen.
    end: u64,
    seen: u64,
}

/// Counts what is missing.
#[derive(Default)]
pub(super) struct Sequences {
    cpus: BTreeMap<u32, Sequence>,
    /// Events without a receipt.
    pub missing: u64,
    /// How many of them the log declares.
    pub declared: u64,
    /// Two receipts have the same number.
    pub repeated: bool,
    /// Numbers begin at 0: the programs were loaded under this log. Otherwise it took over running ones, and
    /// where they were is not known.
    from_zero: bool,
}

impl Sequences {
    /// Takes in a receipt.
    pub fn note(&mut self, facts: &Facts) {
        if let Some(Seq { cpu, n }) = facts.seq {
            let base = if self.from_zero { 0 } else { n };
            let s = self.cpus.entry(cpu).or_insert(Sequence { base, end: n, seen: 0 });
            s.base = s.base.min(n);
            s.end = s.end.max(n.saturating_add(1));
            s.seen += 1;
        }
        match facts.kind() {
            "gap" => self.declared = self.declared.saturating_add(facts.missing),
            // Programs loaded anew count from 0 again.
            "start" if !facts.adopted => {
                self.close();
                self.from_zero = true;
            }
            _ => {}
        }
    }

    /// Numbers begin anew, or end.
    pub fn close(&mut self) {
        for s in std::mem::take(&mut self.cpus).into_values() {
            self.repeated |= s.seen > s.end - s.base;
            self.missing += (s.end - s.base).saturating_sub(s.seen);
        }
    }
}
