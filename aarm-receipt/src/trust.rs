//! The public keys that a verifier believes, and which receipts they are for: what `log.pub` says, and a trusted copy of it.
//!
//! ```text
//! <verifier key of checkpoints; its name is the log's>
//! <verifier key of single receipts>
//! since <number of the first receipt that they are for>      before each later pair
//! <both keys>
//! until <number of a receipt>                                nothing is believed from this one on
//! ```
//! Must never: take a key for what another one was for, before it or after.

use std::fmt;

use crate::note::{Checkpoint, NoteError, VerifierKey};

/// Most pairs of keys that a log has had.
pub const EPOCHS_MAX: usize = 256;
/// Longest text, in bytes.
pub const TEXT_MAX: usize = 256 << 10;

/// A pair of keys, and where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// The first receipt that is signed by them. So many receipts are under the last checkpoint by the pair before.
    pub since: u64,
    /// Signs checkpoints; its name is the log's origin.
    pub log: VerifierKey,
    /// Signs single receipts.
    pub receipt: VerifierKey,
}

impl Epoch {
    /// Two keys that belong together.
    pub fn new(since: u64, log: VerifierKey, receipt: VerifierKey) -> Option<Self> {
        (receipt.name == receipt_name(&log.name)).then_some(Self { since, log, receipt })
    }

    /// Whether they are the same two, wherever they begin.
    pub(crate) fn has_keys_of(&self, other: &Self) -> bool {
        (&self.log, &self.receipt) == (&other.log, &other.receipt)
    }
}

/// What a verifier believes of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedKeys {
    /// Never empty: the first begins with receipt 0, and each later.
    epochs: Vec<Epoch>,
    /// The first receipt that is not believed, whoever signed it.
    until: Option<u64>,
}

/// Name under which receipts themselves are signed.
pub(crate) fn receipt_name(origin: &str) -> String {
    format!("{origin}/receipt")
}

impl TrustedKeys {
    /// Two keys that a log begins with.
    pub(crate) fn first(log: VerifierKey, receipt: VerifierKey) -> Self {
        Self { epochs: vec![Epoch { since: 0, log, receipt }], until: None }
    }

    /// The log's name.
    pub fn origin(&self) -> &str {
        &self.epochs[0].log.name
    }

    /// All pairs, the oldest first.
    pub fn epochs(&self) -> &[Epoch] {
        &self.epochs
    }

    /// The newest pair.
    pub fn latest(&self) -> &Epoch {
        &self.epochs[self.epochs.len() - 1]
    }

    /// Goes on with other keys. `false`: they do not belong to this log, do not come later, or are too many.
    #[must_use]
    pub(crate) fn push(&mut self, epoch: Epoch) -> bool {
        let right = epoch.since > self.latest().since
            && epoch.log.name == self.origin()
            && !epoch.has_keys_of(self.latest())
            && self.until.is_none_or(|until| epoch.since <= until)
            && self.epochs.len() < EPOCHS_MAX;
        if right {
            self.epochs.push(epoch);
        }
        right
    }

    /// What was known of a log when it had so many receipts.
    pub(crate) fn up_to(&self, size: u64) -> Self {
        let epochs = self.epochs.iter().filter(|epoch| epoch.since <= size);
        Self { epochs: epochs.cloned().collect(), until: None }
    }

    /// Whether others say nothing else of the log's keys, though perhaps less.
    pub(crate) fn begins_with(&self, others: &Self) -> bool {
        self.epochs.starts_with(&others.epochs)
    }

    /// The key of a checkpoint of so many receipts.
    fn log_of(&self, size: u64) -> Option<&VerifierKey> {
        let believed = self.until.is_none_or(|until| size <= until);
        let epoch = self.epochs.iter().rev().find(|epoch| epoch.since < size).unwrap_or(&self.epochs[0]);
        believed.then_some(&epoch.log)
    }

    /// The key of a receipt's own signature.
    pub fn receipt_of(&self, index: u64) -> Option<&VerifierKey> {
        let believed = self.until.is_none_or(|until| index < until);
        let epoch = self.epochs.iter().rev().find(|epoch| epoch.since <= index)?;
        believed.then_some(&epoch.receipt)
    }

    /// Reads a checkpoint of this log, and checks the signature by the key that was to sign it.
    pub fn open(&self, note: &[u8]) -> Result<Checkpoint, NoteError> {
        let checkpoint = Checkpoint::claimed(note)?;
        if checkpoint.origin != self.origin() {
            return Err(NoteError::OtherOrigin);
        }
        let key = self.log_of(checkpoint.size).ok_or(NoteError::Ended)?;
        checkpoint.signed(note, key)
    }

    /// Reads the text strictly: there is one for each.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > TEXT_MAX {
            return None;
        }
        let mut lines = text.lines().filter(|l| !l.trim().is_empty()).peekable();
        let pair = |lines: &mut dyn Iterator<Item = &str>, since| {
            Epoch::new(since, VerifierKey::parse(lines.next()?)?, VerifierKey::parse(lines.next()?)?)
        };
        let mut trusted = Self { epochs: vec![pair(&mut lines, 0)?], until: None };
        while let Some(line) = lines.next() {
            let (word, digits) = line.split_once(' ')?;
            let number = digits.parse::<u64>().ok().filter(|number| number.to_string() == digits)?;
            match word {
                "since" => {
                    let epoch = pair(&mut lines, number)?;
                    if !trusted.push(epoch) {
                        return None;
                    }
                }
                "until" if lines.peek().is_none() && number >= trusted.latest().since => {
                    trusted.until = Some(number);
                }
                _ => return None,
            }
        }
        Some(trusted)
    }
}

impl fmt::Display for TrustedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, epoch) in self.epochs.iter().enumerate() {
            if i > 0 {
                writeln!(f, "since {}", epoch.since)?;
            }
            writeln!(f, "{}\n{}", epoch.log, epoch.receipt)?;
        }
        self.until.map_or(Ok(()), |until| writeln!(f, "until {until}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, n: u8) -> VerifierKey {
        VerifierKey::new(name, [n; 32])
    }

    fn epoch(since: u64, n: u8) -> Epoch {
        Epoch::new(since, key("a.test", n), key("a.test/receipt", n + 1)).unwrap()
    }

    fn exchanged() -> TrustedKeys {
        let mut trusted = TrustedKeys::first(key("a.test", 1), key("a.test/receipt", 2));
        assert!(trusted.push(epoch(10, 3)) && trusted.push(epoch(20, 5)));
        trusted
    }

    #[test]
    fn each_key_is_for_its_own_receipts_only() {
        let mut trusted = exchanged();
        let log = |t: &TrustedKeys, size| t.log_of(size).map(|key| key.key[0]);
        let receipt = |t: &TrustedKeys, index| t.receipt_of(index).map(|key| key.key[0]);
        assert_eq!([0, 1, 10, 11, 20, 21].map(|size| log(&trusted, size)), [1, 1, 1, 3, 3, 5].map(Some));
        assert_eq!([0, 9, 10, 19, 20].map(|index| receipt(&trusted, index)), [2, 2, 4, 4, 6].map(Some));
        trusted.until = Some(25);
        assert_eq!((log(&trusted, 25), log(&trusted, 26)), (Some(5), None));
        assert_eq!((receipt(&trusted, 24), receipt(&trusted, 25)), (Some(6), None));
    }

    #[test]
    fn keys_only_come_later_and_are_of_the_same_log() {
        let mut trusted = exchanged();
        assert!(!trusted.push(epoch(20, 7)) && !trusted.push(epoch(30, 5)));
        let other = Epoch::new(30, key("b.test", 7), key("b.test/receipt", 8)).unwrap();
        assert!(!trusted.push(other) && Epoch::new(30, key("a.test", 7), key("a.test", 8)).is_none());
        trusted.until = Some(25);
        assert!(!trusted.push(epoch(26, 7)));
    }

    #[test]
    fn the_text_comes_back_and_others_are_refused() {
        let mut trusted = exchanged();
        assert_eq!(TrustedKeys::parse(&trusted.to_string()), Some(trusted.clone()));
        trusted.until = Some(25);
        let text = trusted.to_string();
        assert_eq!(TrustedKeys::parse(&text), Some(trusted));
        for (from, to) in [
            ("since 10", "since 0"),
            ("since 10", "since 010"),
            ("since 10", "since 20"),
            ("since 10", "until 10"),
            ("since 10\n", ""),
            ("until 25", "until 19"),
            ("until 25", "until 25\nuntil 26"),
            ("until 25", "since 25"),
            ("until 25", "until"),
        ] {
            let wrong = text.replacen(from, to, 1);
            assert!(wrong != text && TrustedKeys::parse(&wrong).is_none(), "{wrong}");
        }
    }
}
