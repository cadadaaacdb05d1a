//! Taking the oldest segments out of a log. What they had is not there any more, and the tree of all receipts goes on: its tiles say what
//! they came to, and a receipt that they were taken out.
//!
//! Must never: take out what no checkpoint covers, or what no receipt says that it goes.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::files::{io, sync_dir};
use super::{LogError, LogWriter};
use crate::index;
use crate::merkle::Hash;
use crate::segment;
use crate::tile::{self, Tiles};

/// What is kept of a log. Whole segments go, and never the one that is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Most bytes of all segments.
    pub bytes: Option<u64>,
    /// How long after its last receipt a segment stays.
    pub age: Option<Duration>,
    /// So many of the newest receipts stay in any case.
    pub at_least: u64,
    /// Receipts from this index on stay in any case.
    pub below: Option<u64>,
}

impl Retention {
    /// Whether anything ever goes.
    pub fn is_asked_for(&self) -> bool {
        self.bytes.is_some() || self.age.is_some()
    }
}

/// What is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Index of the first receipt that stays.
    pub before: u64,
    /// Segments that go.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Why: `size` or `age`.
    pub why: &'static str,
    /// What they come to.
    edge: Vec<Vec<Hash>>,
}

/// A segment that is not written any more.
pub(super) struct Sealed {
    pub number: u64,
    pub path: PathBuf,
    pub bytes: u64,
    written: SystemTime,
    /// Index of the first receipt after it.
    pub next: u64,
    /// It has its index, as far as is known.
    pub indexed: bool,
}

impl Sealed {
    pub fn of(number: u64, path: PathBuf, next: u64) -> Result<Self, LogError> {
        let metadata = std::fs::metadata(&path).map_err(io(&path))?;
        let written = metadata.modified().map_err(io(&path))?;
        let indexed = path.parent().is_some_and(|log| index::is_there(log, number));
        Ok(Self { number, path, bytes: metadata.len(), written, next, indexed })
    }

    /// Its file's name.
    pub fn name(&self) -> String {
        match segment::is_compressed(&self.path) {
            true => segment::compressed_name(self.number),
            false => segment::file_name(self.number),
        }
    }
}

impl LogWriter {
    /// What is to go by now, if anything is. Before it does, a receipt must say so, and be under a checkpoint.
    pub fn expired(&self, keep: &Retention, now: SystemTime) -> Result<Option<Expired>, LogError> {
        let most = self.signed.min(self.size().saturating_sub(keep.at_least));
        let most = most.min(keep.below.unwrap_or(u64::MAX));
        let mut total = self.segment_bytes + self.sealed.iter().map(|segment| segment.bytes).sum::<u64>();
        let (mut before, mut segments, mut bytes, mut why) = (0, 0, 0, "");
        for segment in self.sealed.iter().take_while(|segment| segment.next <= most) {
            let is_large = keep.bytes.is_some_and(|most| total > most);
            // A clock that was set back makes nothing older.
            let age = now.duration_since(segment.written).unwrap_or_default();
            let is_old = keep.age.is_some_and(|most| age > most);
            if !is_large && !is_old {
                break;
            }
            if segments == 0 {
                why = if is_large { "size" } else { "age" };
            }
            total -= segment.bytes;
            (before, segments, bytes) = (segment.next, segments + 1, bytes + segment.bytes);
        }
        if segments == 0 {
            return Ok(None);
        }
        // What is not known before it goes would never be known again.
        let proven = Tiles::new(self.dir.as_path(), self.signed).proven(before, &self.root);
        let (_, tiles) = proven.ok_or(LogError::Tiles(before))?;
        Ok(Some(Expired { before, segments, bytes, why, edge: tiles.edge() }))
    }

    /// Takes out what [`LogWriter::expired`] said, from the left. After a crash the next start does the rest; tiles of receipts may be left over
    /// then.
    pub fn prune(&mut self, expired: &Expired) -> Result<(), LogError> {
        assert!(expired.before <= self.signed, "what goes is under a checkpoint");
        super::edge::write(&self.dir, expired.before, &expired.edge)?;
        let gone = self.sealed.partition_point(|segment| segment.next <= expired.before);
        for segment in self.sealed.drain(..gone) {
            std::fs::remove_file(&segment.path).map_err(io(&segment.path))?;
            index::remove(&self.dir, segment.number);
        }
        sync_dir(&self.dir)?;
        tile::prune(&self.dir, self.first, expired.before).map_err(io(&self.dir.join(tile::DIR)))?;
        self.first = expired.before;
        Ok(())
    }
}
