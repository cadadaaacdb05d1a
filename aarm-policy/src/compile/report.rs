//! How full a compiled policy makes the kernel's tables.

use serde::Serialize;
use std::fmt;

/// How much of something is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Use {
    /// What the policy needs.
    pub used: usize,
    /// What there is.
    pub limit: usize,
}

impl Use {
    pub(crate) fn new(used: usize, limit: usize) -> Self {
        Use { used, limit }
    }
}

/// The sizes of a compiled policy, one for each table that can be too small.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Rules.
    pub rules: Use,
    /// Parts of `data` entries.
    pub data: Use,
    /// Distinct conditions on labels.
    pub label_conditions: Use,
    /// Distinct conditions on history.
    pub history_conditions: Use,
    /// Kinds of events that those count.
    pub watches: Use,
    /// Distinct conditions on who acts.
    pub subject_conditions: Use,
    /// Patterns of programs that those have.
    pub program_patterns: Use,
    /// Patterns of cgroups that those have.
    pub container_patterns: Use,
    /// States of the path automaton.
    pub states: Use,
    /// Cells of its transition table.
    pub cells: Use,
    /// Combinations of globs that match together.
    pub hits: Use,
    /// Combinations of rules over all scalar dimensions.
    pub sets: Use,
    /// Ranges of IPv4 addresses.
    pub v4_ranges: Use,
    /// Ranges of IPv6 addresses.
    pub v6_ranges: Use,
    /// Ranges of user ids.
    pub uid_ranges: Use,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            ("rules", self.rules),
            ("path states", self.states),
            ("path cells", self.cells),
            ("glob sets", self.hits),
            ("rule sets", self.sets),
            ("IPv4 ranges", self.v4_ranges),
            ("IPv6 ranges", self.v6_ranges),
            ("uid ranges", self.uid_ranges),
            ("data entries", self.data),
            ("label conditions", self.label_conditions),
            ("history conditions", self.history_conditions),
            ("watches", self.watches),
            ("subject conditions", self.subject_conditions),
            ("program patterns", self.program_patterns),
            ("container patterns", self.container_patterns),
        ];
        for (i, (name, Use { used, limit })) in rows.into_iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}{name} {used}/{limit}")?;
        }
        Ok(())
    }
}
