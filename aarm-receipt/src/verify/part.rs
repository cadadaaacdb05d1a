//! One segment, checked by itself: what it takes to check the next is added up elsewhere, so that several are read at once.

use std::collections::BTreeSet;

use super::report::PROBLEMS_MAX;
use crate::merkle::{self, Hash};
use crate::note::VerifierKey;
use crate::policies::{self, Name};
use crate::receipt::schema::SCHEMAS;
use crate::receipt::{self, Facts};
use crate::segment::{self, Kind, Scanner, SegmentError};
use crate::source::Source;
use crate::trust::TrustedKeys;

/// What a segment has.
#[derive(Default)]
pub(super) struct Part {
    /// Index of its first receipt, as its header says.
    pub first: u64,
    /// Hash of each receipt.
    pub leaves: Vec<Hash>,
    /// What is to know of each that is one.
    pub facts: Vec<Facts>,
    /// How many there are of each kind, by its place in [`SCHEMAS`].
    pub kinds: [u64; SCHEMAS.len()],
    /// The policies that they name.
    pub policies: BTreeSet<Name>,
    /// Signatures of single receipts that are right.
    pub signatures: u64,
    /// What is wrong; the first ones of many.
    pub problems: Vec<String>,
    /// Its last receipt has no signature, and must have one: which that is, and the problem.
    pub unsigned: Option<(u64, String)>,
    /// Why it does not end as it should.
    pub unfinished: Option<String>,
}

impl Part {
    fn problem(&mut self, problem: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }

    fn read(&mut self, name: &str, scanner: &mut Scanner, trusted: &TrustedKeys) -> Result<(), SegmentError> {
        // The receipt that a signature would belong to; none after one.
        let mut before = Vec::new();
        let mut key = None;
        // The same as the one before, mostly.
        let mut policy = None;
        // Which receipt must be followed by one, and where that is.
        let mut weighs = None;
        loop {
            let at = scanner.offset();
            let next = scanner.next_record();
            if let Some((index, at)) = weighs.take()
                && !matches!(next, Ok(Some((Kind::Signature, _))))
            {
                let problem = format!("{name}: receipt {index} at byte {at} has no signature of its own");
                match next {
                    Ok(Some(_)) => self.problem(problem),
                    // Perhaps it is being written.
                    _ => self.unsigned = Some((index, problem)),
                }
            }
            let Some((kind, bytes)) = next? else { return Ok(()) };
            if kind == Kind::Signature {
                if before.is_empty() {
                    self.problem(format!("{name}: a signature without a receipt at byte {at}"));
                } else if key.is_some_and(|key: &VerifierKey| key.verify(&before, bytes)) {
                    self.signatures += 1;
                } else {
                    self.problem(format!("{name}: a wrong signature at byte {at}"));
                }
                before.clear();
                continue;
            }
            let index = self.first.saturating_add(self.leaves.len() as u64);
            key = trusted.receipt_of(index);
            match receipt::check(bytes) {
                Ok(facts) => {
                    weighs = facts.weighs.then_some((index, at));
                    self.kinds[facts.kind] += 1;
                    if let Some(named) = facts.policy_in(bytes).filter(|named| policy != Some(**named)) {
                        policy = Some(*named);
                        self.policies.extend(policies::name(named));
                    }
                    self.facts.push(facts);
                }
                Err(e) => {
                    self.problem(format!("{name}: receipt {index} at byte {at}: {e}"));
                }
            }
            self.leaves.push(merkle::leaf(bytes));
            before.clear();
            before.extend_from_slice(bytes);
        }
    }
}

/// Reads a segment. An error: its header is not one of this log.
pub(super) fn read(
    log: &dyn Source,
    name: &str,
    origin: &Hash,
    trusted: &TrustedKeys,
) -> Result<Part, String> {
    let failed = |e: SegmentError| format!("{name}: {e}");
    let first = segment::first(log, name).map_err(failed)?;
    let mut scanner = Scanner::open(log, name, first, origin).map_err(failed)?;
    let mut part = Part { first, ..Part::default() };
    let ended = part.read(name, &mut scanner, trusted).and_then(|()| scanner.check_rest());
    part.unfinished = ended.err().map(failed);
    Ok(part)
}
