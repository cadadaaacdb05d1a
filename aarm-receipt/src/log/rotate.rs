//! The log's keys give way to others: between two receipts, and so that whoever trusts the old ones can follow.
//!
//! The order is what makes it safe to be interrupted anywhere: a `keys` receipt names the new ones; a checkpoint of it is signed by both; the
//! proof of that is kept (`rotation`); `log.pub` has the new ones; the old ones go. The next start finds how far it came. Must never: sign
//! with a key that nobody can follow to.

use super::files::place;
use super::{LogError, LogWriter};
use crate::bundle::{Bundle, ProveError};
use crate::keys::Keys;
use crate::read::Reader;
use crate::rotation;
use crate::trust::{Epoch, TrustedKeys};

fn failed(source: ProveError) -> LogError {
    LogError::Rotation(Box::new(source))
}

/// Which keys go on with a log whose public keys are these: those that there are, or, where an exchange was interrupted near its end, the next ones.
pub(super) fn settle(mut keys: Keys, trusted: &TrustedKeys) -> Result<Keys, LogError> {
    let is_latest = |keys: &Keys| keys.epoch(trusted.origin(), 0).has_keys_of(trusted.latest());
    if is_latest(&keys) {
        return Ok(keys);
    }
    match keys.next() {
        Some(next) if is_latest(next) => keys.take_next().map(|()| keys).map_err(LogError::Key),
        _ => Err(LogError::Keys),
    }
}

impl LogWriter {
    /// Exchanges the keys for those that were prepared ([`crate::keys::prepare`]), if any were. `receipt` makes the `keys` receipt, which names them. The
    /// first receipt that is signed by them. If it fails, this writer does nothing any more, also where it failed for want of room: what it would
    /// append would follow a receipt that exchanges the keys, signed by the old ones. The next one finds how far it came.
    pub fn rotate(&mut self, receipt: impl FnOnce(&Epoch) -> Vec<u8>) -> Result<Option<u64>, LogError> {
        let exchanged = self.unless_poisoned(|log| log.exchange(receipt));
        self.poisoned |= exchanged.is_err();
        exchanged
    }

    fn exchange(&mut self, receipt: impl FnOnce(&Epoch) -> Vec<u8>) -> Result<Option<u64>, LogError> {
        let Some(next) = self.keys.next() else { return Ok(None) };
        let named = next.epoch(self.origin(), 0);
        if !self.ends_with(&named)? {
            self.append(&mut receipt(&named), true)?;
        }
        let mut signing = self.begin_checkpoint()?.ok_or(LogError::Keys)?;
        if let Some(next) = self.keys.next() {
            signing.sign_also(&next.log);
        }
        let note = signing.note().to_owned();
        let head = self.place_checkpoint(signing)?;
        let since = head.size;
        let proof =
            Bundle::under(&self.dir.as_path(), self.origin(), since - 1, &head, note).map_err(failed)?;
        rotation::place(&self.dir, since, &proof).map_err(super::files::io(&self.dir))?;
        if !self.trusted.push(Epoch { since, ..named }) {
            return Err(LogError::Keys);
        }
        place(&self.dir, "log.pub", self.trusted.to_string().as_bytes())?;
        self.keys.take_next()?;
        Ok(Some(since))
    }

    /// Whether the last receipt names these keys: whoever wrote it was interrupted.
    fn ends_with(&mut self, keys: &Epoch) -> Result<bool, LogError> {
        self.write()?;
        let Some(last) = self.tree.size().checked_sub(1).filter(|last| *last >= self.first) else {
            return Ok(false);
        };
        let Some(item) = Reader::open(self.dir.as_path(), last)?.next() else { return Ok(false) };
        let named = crate::receipt::parse(&item?.1).ok().and_then(|receipt| rotation::named(0, &receipt));
        Ok(named.is_some_and(|named| named.has_keys_of(keys)))
    }
}
