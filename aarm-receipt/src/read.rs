//! Reading receipts in order, also from a log that is being written.

use std::path::PathBuf;

use crate::index::{Index, Wanted};
use crate::log::origin_hash;
use crate::merkle::Hash;
use crate::note::NOTE_MAX;
use crate::segment::{self, Kind, Scanner, SegmentError};
use crate::source::Source;

/// Why reading stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A segment cannot be read on.
    #[error("{path}: {source}")]
    Segment {
        /// Which.
        path: PathBuf,
        /// Why.
        source: SegmentError,
    },
}

/// How often a log is opened while its first segments go.
const OPENINGS: usize = 8;

/// How many segments to leave out, and the number of the first receipt after them: the first that is there, if `from` was pruned.
pub(crate) fn begin(
    log: &dyn Source,
    segments: &[(u64, String)],
    from: u64,
) -> Result<(usize, u64), ReadError> {
    let first = |(_, name): &(u64, String)| {
        segment::first(log, name).map_err(|source| ReadError::Segment { path: log.path(name), source })
    };
    let (mut low, mut high) = (0, segments.len());
    let mut index = segments.first().map_or(Ok(0), first)?;
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        let of_middle = first(&segments[middle])?;
        if of_middle <= from {
            (low, index) = (middle, of_middle);
        } else {
            high = middle;
        }
    }
    Ok((low, index))
}

/// Iterates over the receipts of a log. A record that is not whole at the very end is the tail of
/// a log being written: there the iteration ends.
pub struct Reader<'a> {
    log: Box<dyn Source + 'a>,
    origin: Hash,
    segments: std::vec::IntoIter<(u64, String)>,
    current: Option<(String, Scanner)>,
    last: u64,
    number: u64,
    index: u64,
    from: u64,
    /// What is looked for.
    wanted: Option<Wanted>,
    /// A segment was read.
    begun: bool,
    failed: bool,
}

impl<'a> Reader<'a> {
    /// Opens a log to read what may be among those that are looked for: of segments that have an index, only those. Who reads still looks
    /// at each.
    pub fn select(log: impl Source + 'a, wanted: &Wanted) -> Result<Self, ReadError> {
        let mut reader = Self::open(log, 0)?;
        reader.wanted = Some(wanted.clone());
        Ok(reader)
    }

    /// Opens a log to read from a receipt's index on, or from the first that was not pruned.
    pub fn open(log: impl Source + 'a, from: u64) -> Result<Self, ReadError> {
        let origin = log
            .read("origin", NOTE_MAX)
            .map_err(|source| ReadError::Io { path: log.path("origin"), source })?;
        let mut found = segments(&log, from);
        // Segments may be pruned between listing and opening them.
        for _ in 1..OPENINGS {
            match &found {
                Err(ReadError::Segment { source, .. }) if source.is_gone() => found = segments(&log, from),
                _ => break,
            }
        }
        let (segments, index) = found?;
        Ok(Self {
            log: Box::new(log),
            origin: origin_hash(String::from_utf8_lossy(&origin).trim_end()),
            last: segments.last().map_or(0, |s| s.0),
            segments: segments.into_iter(),
            current: None,
            number: 0,
            index,
            from,
            wanted: None,
            begun: false,
            failed: false,
        })
    }

    fn step(&mut self) -> Result<Option<(u64, Vec<u8>)>, ReadError> {
        loop {
            let Some((name, scanner)) = &mut self.current else {
                let Some((number, name)) = self.segments.next() else { return Ok(None) };
                if let Some(wanted) = &self.wanted
                    && let Some(index) = Index::read(&*self.log, number, self.index)
                    && !index.may_have(wanted)
                {
                    self.index += index.receipts;
                    continue;
                }
                let scanner = match Scanner::open(&*self.log, &name, self.index, &self.origin) {
                    Ok(scanner) => scanner,
                    // Pruned since it was listed, and with it what it would begin with.
                    Err(e) if e.is_gone() && !self.begun => {
                        if let Some((_, next)) = self.segments.as_slice().first() {
                            self.index = segment::first(&*self.log, next).unwrap_or(self.index);
                        }
                        continue;
                    }
                    Err(source) => return Err(ReadError::Segment { path: self.log.path(&name), source }),
                };
                self.begun = true;
                self.number = number;
                self.current = Some((name, scanner));
                continue;
            };
            match scanner.next_record() {
                Ok(Some((Kind::Receipt, bytes))) => {
                    self.index += 1;
                    if self.index > self.from {
                        return Ok(Some((self.index - 1, bytes.to_vec())));
                    }
                }
                Ok(Some((Kind::Signature, _))) => {}
                Ok(None) => self.current = None,
                Err(SegmentError::Record(_)) if self.number == self.last => return Ok(None),
                Err(source) => return Err(ReadError::Segment { path: self.log.path(name), source }),
            }
        }
    }
}

/// A log's segments from the one on that has a receipt, and the number of the first receipt in them.
fn segments(log: &dyn Source, from: u64) -> Result<(Vec<(u64, String)>, u64), ReadError> {
    let mut all = segment::list(log).map_err(|source| ReadError::Io { path: log.path(""), source })?;
    let (skipped, index) = begin(log, &all, from)?;
    all.drain(..skipped);
    Ok((all, index))
}

impl Iterator for Reader<'_> {
    type Item = Result<(u64, Vec<u8>), ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.step();
        self.failed = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}
