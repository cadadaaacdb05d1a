//! Reading receipts in order, also from a log that is being written.

use std::path::{Path, PathBuf};

use crate::index::{Index, Wanted};
use crate::log::origin_hash;
use crate::merkle::Hash;
use crate::segment::{self, Kind, Scanner, SegmentError};

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
fn begin(segments: &[(u64, PathBuf)], from: u64) -> Result<(usize, u64), ReadError> {
    let first = |(_, path): &(u64, PathBuf)| {
        segment::first(path).map_err(|source| ReadError::Segment { path: path.clone(), source })
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

/// Iterates over the receipts of a log directory. A record that is not whole at the very end is the tail of
/// a log being written: there the iteration ends.
pub struct Reader {
    origin: Hash,
    segments: std::vec::IntoIter<(u64, PathBuf)>,
    current: Option<(PathBuf, Scanner)>,
    last: u64,
    number: u64,
    index: u64,
    from: u64,
    /// The log, and what is looked for in it.
    wanted: Option<(PathBuf, Wanted)>,
    /// A segment was read.
    begun: bool,
    failed: bool,
}

impl Reader {
    /// Opens a log directory to read what may be among those that are looked for: of segments that have an index, only those. Who reads still looks
    /// at each.
    pub fn select(dir: &Path, wanted: &Wanted) -> Result<Self, ReadError> {
        let mut reader = Self::open(dir, 0)?;
        reader.wanted = Some((dir.to_path_buf(), wanted.clone()));
        Ok(reader)
    }

    /// Opens a log directory to read from a receipt's index on, or from the first that was not pruned.
    pub fn open(dir: &Path, from: u64) -> Result<Self, ReadError> {
        // Segments may be pruned between listing and opening them.
        for _ in 1..OPENINGS {
            match Self::open_once(dir, from) {
                Err(ReadError::Segment { source, .. }) if source.is_gone() => {}
                opened => return opened,
            }
        }
        Self::open_once(dir, from)
    }

    fn open_once(dir: &Path, from: u64) -> Result<Self, ReadError> {
        let path = dir.join("origin");
        let origin = std::fs::read_to_string(&path).map_err(|source| ReadError::Io { path, source })?;
        let mut segments =
            segment::list(dir).map_err(|source| ReadError::Io { path: dir.to_path_buf(), source })?;
        let last = segments.last().map_or(0, |s| s.0);
        let (skipped, index) = begin(&segments, from)?;
        segments.drain(..skipped);
        Ok(Self {
            origin: origin_hash(origin.trim_end()),
            segments: segments.into_iter(),
            current: None,
            last,
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
            let Some((path, scanner)) = &mut self.current else {
                let Some((number, path)) = self.segments.next() else { return Ok(None) };
                if let Some((dir, wanted)) = &self.wanted
                    && let Some(index) = Index::read(dir, number, self.index)
                    && !index.may_have(wanted)
                {
                    self.index += index.receipts;
                    continue;
                }
                let scanner = match Scanner::open(&path, self.index, &self.origin) {
                    Ok(scanner) => scanner,
                    // Pruned since it was listed, and with it what it would begin with.
                    Err(e) if e.is_gone() && !self.begun => {
                        if let Some((_, next)) = self.segments.as_slice().first() {
                            self.index = segment::first(next).unwrap_or(self.index);
                        }
                        continue;
                    }
                    Err(source) => return Err(ReadError::Segment { path, source }),
                };
                self.begun = true;
                self.number = number;
                self.current = Some((path, scanner));
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
                Err(source) => return Err(ReadError::Segment { path: path.clone(), source }),
            }
        }
    }
}

impl Iterator for Reader {
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
