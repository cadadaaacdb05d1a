//! Taking the oldest segments out of a log. What they had is not there any more, and the tree of all receipts goes on: its tiles say what
//! they came to, and a receipt that they were taken out.
//!
//! Must never: take out what no checkpoint covers, or what no receipt says that it goes.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::files::{io, sync_dir};
use super::{LogError, LogWriter};
use crate::merkle::Hash;
use crate::proof;
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
}

/// A segment that is not written any more.
pub(super) struct Sealed {
    pub path: PathBuf,
    bytes: u64,
    written: SystemTime,
    /// Index of the first receipt after it.
    pub next: u64,
}

impl LogWriter {
    /// Those segments, and the bytes of all.
    pub(super) fn sealed(&self) -> Result<(Vec<Sealed>, u64), LogError> {
        let segments = segment::list(&self.dir).map_err(io(&self.dir))?;
        let mut all = Vec::new();
        let mut total = 0;
        for (i, (_, path)) in segments.iter().enumerate() {
            let metadata = std::fs::metadata(path).map_err(io(path))?;
            total += metadata.len();
            let Some((_, next)) = segments.get(i + 1) else { break };
            let next = segment::first(next)
                .map_err(|e| LogError::Damaged { path: next.clone(), what: e.to_string() })?;
            let written = metadata.modified().map_err(io(path))?;
            all.push(Sealed { path: path.clone(), bytes: metadata.len(), written, next });
        }
        Ok((all, total))
    }

    /// What is to go by now, if anything is. Before it does, a receipt must say so, and be under a checkpoint.
    pub fn expired(&self, keep: &Retention, now: SystemTime) -> Result<Option<Expired>, LogError> {
        if !keep.is_asked_for() {
            return Ok(None);
        }
        let most = self.signed.min(self.size().saturating_sub(keep.at_least));
        let (sealed, mut total) = self.sealed()?;
        let mut expired: Option<Expired> = None;
        for segment in sealed.iter().take_while(|segment| segment.next <= most) {
            let is_large = keep.bytes.is_some_and(|most| total > most);
            // A clock that was set back makes nothing older.
            let age = now.duration_since(segment.written).unwrap_or_default();
            let is_old = keep.age.is_some_and(|most| age > most);
            if !is_large && !is_old {
                break;
            }
            total -= segment.bytes;
            let gone = expired.get_or_insert(Expired {
                before: 0,
                segments: 0,
                bytes: 0,
                why: if is_large { "size" } else { "age" },
            });
            gone.before = segment.next;
            gone.segments += 1;
            gone.bytes += segment.bytes;
        }
        Ok(expired)
    }

    /// Takes out what [`LogWriter::expired`] said, from the left, right after a checkpoint. What goes comes to what stays: should tiles say otherwise,
    /// nothing goes. After a crash the next start does the rest; tiles of receipts may be left over then.
    pub fn prune(&mut self, expired: &Expired) -> Result<(), LogError> {
        assert!(
            expired.before <= self.signed && self.signed == self.size(),
            "what goes is under a checkpoint"
        );
        let mut tiles = Tiles::new(&self.dir, self.signed);
        let wanted = proof::consistency(expired.before, self.signed).unwrap_or_default();
        let hashes: Option<Vec<Hash>> = wanted.iter().map(|range| tiles.subtree(range)).collect();
        let signed = (self.signed, &self.tree.root());
        let edge = tiles.tree(expired.before).zip(hashes).filter(|((tree, _), hashes)| {
            proof::is_consistent((expired.before, &tree.root()), signed, hashes)
        });
        let Some(((_, edge), _)) = edge else {
            let what = "tiles do not say what would go; the next start mends them".to_owned();
            return Err(LogError::Damaged { path: self.dir.join(tile::DIR), what });
        };
        super::edge::write(&self.dir, expired.before, &edge)?;
        let (sealed, _) = self.sealed()?;
        for segment in sealed.iter().take_while(|segment| segment.next <= expired.before) {
            std::fs::remove_file(&segment.path).map_err(io(&segment.path))?;
        }
        sync_dir(&self.dir)?;
        tile::prune(&self.dir, self.first, expired.before).map_err(io(&self.dir.join(tile::DIR)))?;
        self.first = expired.before;
        Ok(())
    }
}
