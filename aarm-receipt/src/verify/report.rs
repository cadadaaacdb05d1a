//! What verification found, and how it is told to people.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::trust::TrustedKeys;

/// The one-word result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every byte is what was signed.
    Intact,
    /// What is there is genuine, but receipts are missing without an explanation in the log.
    Incomplete,
    /// What is there is genuine, but fewer witnesses than asked for have seen it, or not lately enough: what came after may have been cut off.
    TooOld,
    /// Something is not what was signed, or was never signed.
    Tampered,
}

/// What verification found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The result.
    pub verdict: Verdict,
    /// The log's name.
    pub origin: String,
    /// Receipts that the log has had.
    pub receipts: u64,
    /// How many of them, from the first on, were pruned: they are not there any more, as a receipt says.
    pub pruned: u64,
    /// Receipts under the checkpoint.
    pub signed: u64,
    /// Receipts after it: written, not signed yet.
    pub unsigned: u64,
    /// Receipts with a signature of their own, checked.
    pub signatures: u64,
    /// Kernel events that have no receipt.
    pub missing: u64,
    /// How many of them the log itself declares.
    pub declared: u64,
    /// Receipts of each kind.
    pub kinds: BTreeMap<&'static str, u64>,
    /// Receipts under a checkpoint that the caller saw before, with which the log begins.
    pub seen: Option<u64>,
    /// Receipts that as many witnesses as asked for have seen.
    pub witnessed: Option<u64>,
    /// What each of them has seen.
    pub witnesses: Vec<Seen>,
    /// The first receipt by each of the log's keys.
    pub keys_since: Vec<u64>,
    /// Tiles of the tree that are not there, or not whole. They are derived: nothing is lost with them.
    pub tiles_missing: u64,
    /// Policies that receipts name, and whose texts are there.
    pub policies: u64,
    /// Those whose texts are not.
    pub policies_missing: u64,
    /// The keys that were trusted, and those that they lead to.
    #[serde(skip)]
    pub keys: TrustedKeys,
    /// The signed note that it was held against, if there is one to believe.
    #[serde(skip)]
    pub checkpoint: Vec<u8>,
    /// What is wrong, first things first.
    pub problems: Vec<String>,
}

/// What a witness has seen of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// The witness.
    pub name: String,
    /// Receipts.
    pub receipts: u64,
    /// When, in seconds since 1970, by its clock.
    pub seconds: u64,
}

/// Most problems listed.
pub(super) const PROBLEMS_MAX: usize = 20;

impl Report {
    /// Of a log that nothing is known of yet.
    pub(super) fn new(trusted: &TrustedKeys) -> Self {
        Self {
            verdict: Verdict::Intact,
            origin: trusted.origin().to_owned(),
            receipts: 0,
            pruned: 0,
            signed: 0,
            unsigned: 0,
            signatures: 0,
            missing: 0,
            declared: 0,
            kinds: BTreeMap::new(),
            seen: None,
            witnessed: None,
            witnesses: Vec::new(),
            keys_since: Vec::new(),
            tiles_missing: 0,
            policies: 0,
            policies_missing: 0,
            keys: trusted.clone(),
            checkpoint: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// Something is not what was signed.
    pub(super) fn tampered(&mut self, problem: String) {
        self.verdict = Verdict::Tampered;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Intact => "intact",
            Verdict::Incomplete => "INCOMPLETE",
            Verdict::TooOld => "TOO OLD",
            Verdict::Tampered => "TAMPERED",
        };
        writeln!(f, "{}: {verdict}", self.origin)?;
        writeln!(
            f,
            "  {} receipts, {} signed, {} not signed yet",
            self.receipts, self.signed, self.unsigned
        )?;
        if self.pruned > 0 {
            writeln!(f, "  the first {} were pruned", self.pruned)?;
        }
        writeln!(f, "  {} signatures of single receipts checked", self.signatures)?;
        if let Some(since) = self.keys_since.last().filter(|since| **since > 0) {
            writeln!(f, "  its keys were exchanged, last before receipt {since}")?;
        }
        if let Some(seen) = self.seen {
            writeln!(f, "  begins with the {seen} receipts of the checkpoint seen before")?;
        }
        if let Some(receipts) = self.witnessed {
            writeln!(f, "  the first {receipts} receipts were seen by the witnesses asked for")?;
        }
        if self.tiles_missing > 0 {
            let n = self.tiles_missing;
            writeln!(
                f,
                "  {n} tiles are missing; nothing is lost with them, but proofs take as long as the log is"
            )?;
        }
        if self.policies > 0 {
            writeln!(f, "  {} policies are the texts that receipts name", self.policies)?;
        }
        writeln!(f, "  {} events without a receipt, {} of them declared", self.missing, self.declared)?;
        for (kind, n) in &self.kinds {
            writeln!(f, "  {n:>10} {kind}")?;
        }
        self.problems.iter().try_for_each(|p| writeln!(f, "  problem: {p}"))
    }
}
