//! Batches of encoded receipts on their way from the core to the log and to watchers.
//!
//! The core fills one batch after another and never allocates for a single receipt: buffers come back from
//! the writer through the [`Pool`].

use std::sync::{Arc, Mutex};

use aarm_receipt::redact::{Classes, Withheld, redact};
use tokio::sync::oneshot;

use super::policies::Policies;
use super::sessions::Session;

/// Receipts in one batch.
pub const BATCH_RECEIPTS: usize = 256;
/// Bytes after which a batch is full. One receipt more may be in it.
pub const BATCH_BYTES: usize = 256 << 10;
/// Batches kept for reuse: as many as fill the writer's queue and wait for one sync. Fresh memory costs more than
/// all else that is done to a receipt.
const POOL_MAX: usize = 40;
/// [`Entry::owner`] of a receipt that belongs to no session: only root sees it.
pub const NO_OWNER: u32 = u32::MAX;

/// Whose receipt it is, and what of it is not shown.
#[derive(Clone, Copy, Debug)]
pub struct Whose<'a> {
    /// See [`Entry::owner`].
    pub owner: u32,
    /// See [`Entry::session`].
    pub session: u64,
    /// The session's UUID; empty: it has none that is known.
    pub uuid: &'a str,
    /// What its policy redacts.
    pub redact: Classes,
}

impl<'a> Whose<'a> {
    /// The daemon's own.
    pub const NOBODY: Whose<'static> = Whose { owner: NO_OWNER, session: 0, uuid: "", redact: Classes::NONE };

    /// A session's, of which nothing else may be known.
    #[inline]
    pub fn of(session: Option<&'a Session>, id: u64, policies: &Policies) -> Self {
        Whose {
            owner: session.map_or(NO_OWNER, |s| s.uid),
            session: id,
            uuid: session.map_or("", |s| &s.uuid_text),
            redact: policies.redacts(session.map(|s| s.generation)),
        }
    }

    /// By what name redacted values are kept.
    fn name(&self) -> String {
        if self.uuid.is_empty() { format!("{:016x}", self.session) } else { self.uuid.to_owned() }
    }
}

/// What is known of a receipt without parsing it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// End of its bytes in the batch; it starts where the one before ends.
    end: u32,
    /// User the session belongs to, or [`NO_OWNER`].
    pub owner: u32,
    /// Session, or 0.
    pub session: u64,
    /// Boot time of what it reports, in nanoseconds.
    pub time_ns: u64,
    /// `Decision as u8` of an action, 0 otherwise.
    pub decision: u8,
    /// Which kind of receipt.
    pub kind: Kind,
}

/// Kinds of receipts, as watchers filter them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A decided action.
    Action,
    /// What became of one.
    Outcome,
    /// What was answered of one that waited.
    Answer,
    /// A program that is about to run, and what its policy says of it, unless that refuses it.
    Program,
    /// A process came or went.
    Process,
    /// A session opened or closed.
    Session,
    /// Everything about the daemon, its policies and its log.
    System,
}

/// Encoded receipts.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// What its receipts do not show, by session.
    pub withheld: Vec<(String, Vec<Withheld>)>,
    /// Counts batches from 1; set by the core.
    pub number: u64,
    /// Place of the first receipt in the log; set by the writer.
    pub first_index: u64,
    /// Everything before this position of the event ring is in this batch or an earlier one.
    pub ring_end: u64,
    /// A thread is stopped until all of it is durable.
    pub urgent: bool,
    /// Told when all of it is durable.
    pub waiters: Vec<oneshot::Sender<()>>,
}

impl Batch {
    /// Appends a receipt that `encode` writes to the end of the buffer it is given.
    #[inline]
    pub fn push(
        &mut self,
        whose: Whose<'_>,
        time_ns: u64,
        decision: u8,
        kind: Kind,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = self.bytes.len();
        encode(&mut self.bytes);
        if !whose.redact.is_none() {
            self.redact(start, whose);
        }
        let Whose { owner, session, .. } = whose;
        let end = self.bytes.len() as u32;
        self.entries.push(Entry { end, owner, session, time_ns, decision, kind });
    }

    /// Takes out of a receipt what it must not show.
    #[cold]
    fn redact(&mut self, start: usize, whose: Whose<'_>) {
        let name = whose.name();
        if self.withheld.last().is_none_or(|(last, _)| *last != name) {
            self.withheld.push((name, Vec::new()));
        }
        let Some((_, withheld)) = self.withheld.last_mut() else { return };
        let done = redact(&mut self.bytes, start, whose.redact, withheld);
        // It is a receipt, and a system without random bytes has no keys either.
        assert!(done.is_ok(), "a receipt that cannot be redacted is not written: {done:?}");
    }

    /// The bytes of the receipt appended last.
    pub fn last(&self) -> &[u8] {
        self.iter_from(self.entries.len().saturating_sub(1)).next().map_or(&[], |(_, bytes)| bytes)
    }

    /// Whether the next receipt should go into another batch.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.entries.len() >= BATCH_RECEIPTS || self.bytes.len() >= BATCH_BYTES
    }

    /// Whether there is nothing in it, not even somebody who waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.waiters.is_empty()
    }

    /// How many receipts.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many bytes of receipts.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// All receipts with what is known of them.
    pub fn iter(&self) -> impl Iterator<Item = (&Entry, &[u8])> {
        self.iter_from(0)
    }

    /// The same, for who fills in what only the log knows; a receipt's length stays.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Entry, &mut [u8])> {
        let (mut rest, mut start) = (self.bytes.as_mut_slice(), 0);
        self.entries.iter().map(move |entry| {
            let (bytes, after) = std::mem::take(&mut rest).split_at_mut((entry.end - start) as usize);
            (rest, start) = (after, entry.end);
            (entry, bytes)
        })
    }

    fn iter_from(&self, first: usize) -> impl Iterator<Item = (&Entry, &[u8])> {
        let mut start = first.checked_sub(1).map_or(0, |before| self.entries[before].end as usize);
        self.entries[first..].iter().map(move |entry| {
            let bytes = &self.bytes[start..entry.end as usize];
            start = entry.end as usize;
            (entry, bytes)
        })
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
        self.withheld.clear();
        self.waiters.clear();
        self.urgent = false;
        self.number = 0;
        self.first_index = 0;
        self.ring_end = 0;
    }
}

/// Empty batches with their buffers.
#[derive(Clone, Debug, Default)]
pub struct Pool(Arc<Mutex<Vec<Batch>>>);

impl Pool {
    /// An empty batch.
    pub fn take(&self) -> Batch {
        let reused = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
        reused.unwrap_or_else(|| Batch {
            bytes: Vec::with_capacity(BATCH_BYTES + aarm_receipt_max()),
            entries: Vec::with_capacity(BATCH_RECEIPTS),
            ..Batch::default()
        })
    }

    /// Takes a batch back, if nobody else holds it any more.
    pub fn give(&self, batch: Arc<Batch>) {
        if let Some(mut batch) = Arc::into_inner(batch) {
            batch.clear();
            let mut pool = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if pool.len() < POOL_MAX {
                pool.push(batch);
            }
        }
    }
}

/// Bytes that the last receipt of a batch may take.
const fn aarm_receipt_max() -> usize {
    u16::MAX as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_come_out_as_they_went_in() {
        let pool = Pool::default();
        let mut batch = pool.take();
        assert!(batch.is_empty());
        for i in 0..3u8 {
            let whose = Whose { owner: 7, session: u64::from(i), ..Whose::NOBODY };
            batch.push(whose, 0, 0, Kind::Action, |b| b.extend(std::iter::repeat_n(b'0' + i, i.into())));
        }
        let all: Vec<_> = batch.iter().map(|(e, bytes)| (e.session, bytes.to_vec())).collect();
        assert_eq!(all, [(0, vec![]), (1, b"1".to_vec()), (2, b"22".to_vec())]);
        assert_eq!((batch.last(), Batch::default().last()), (&b"22"[..], &b""[..]));
        batch.iter_mut().for_each(|(entry, bytes)| bytes.fill(b'a' + entry.session as u8));
        assert_eq!(batch.iter().map(|(_, bytes)| bytes).collect::<Vec<_>>(), [&b""[..], b"b", b"cc"]);
        let held = Arc::new(batch);
        pool.give(Arc::clone(&held));
        assert!(!held.is_empty(), "somebody still reads it");
        pool.give(held);
        assert!(pool.take().is_empty());
    }

    #[test]
    fn a_batch_fills_up() {
        let mut batch = Batch::default();
        for _ in 0..BATCH_RECEIPTS {
            assert!(!batch.is_full());
            batch.push(Whose::NOBODY, 0, 0, Kind::Process, |b| b.push(0));
        }
        assert!(batch.is_full());
    }
}
