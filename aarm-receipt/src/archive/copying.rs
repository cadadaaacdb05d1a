//! Putting what an archive has not, and reading it back.
//!
//! Must never: count as put what was not read back as it was put.

use std::io::{self, Read};
use std::ops::Range;
use std::path::PathBuf;

use ring::digest::{Context, Digest, SHA256};

use super::list::{LIST, List};
use super::{ArchiveError, Copied, Files, Store};
use crate::log::{edge, origin_hash};
use crate::merkle::Hash;
use crate::policies::{self, POLICIES_MAX};
use crate::read::ReadError;
use crate::source::Source;
use crate::{rotation, segment, tile};

/// Tiles that are put at once.
const TILES: usize = 256;
/// Bytes of a tile.
const TILE: usize = tile::WIDTH * size_of::<Hash>();

/// Number of a log's first receipt.
pub(super) fn begins(log: &dyn Source) -> Result<u64, ArchiveError> {
    let all = segment::list(log).map_err(|source| ReadError::Io { path: log.path(""), source })?;
    let Some((_, name)) = all.first() else { return Ok(0) };
    Ok(segment::first(log, name).map_err(|source| ReadError::Segment { path: log.path(name), source })?)
}

/// An archive while it is brought to where the log is.
pub(super) struct Copying<'a> {
    pub log: &'a dyn Source,
    pub to: &'a dyn Store,
    /// The log's.
    pub origin: &'a [u8],
    /// What the archive has by now.
    pub list: List,
    /// What was done.
    pub copied: Copied,
}

impl Copying<'_> {
    /// Puts those segments, or as much of the last one, that the checkpoint covers and the archive has not. Number of the log's first receipt.
    pub fn segments(
        &mut self,
        archived: u64,
        signed: u64,
        progress: &dyn Fn(usize, usize),
    ) -> Result<u64, ArchiveError> {
        let log = self.log;
        let first = |(_, name): &(u64, String)| {
            segment::first(log, name).map_err(|source| ReadError::Segment { path: log.path(name), source })
        };
        let all = segment::list(log).map_err(|source| ReadError::Io { path: log.path(""), source })?;
        let oldest = all.first().ok_or_else(|| ReadError::Io {
            path: log.path(&segment::file_name(0)),
            source: io::ErrorKind::NotFound.into(),
        })?;
        let begins = first(oldest)?;
        if self.list.segments == 0 {
            self.list.first = oldest.0;
            self.edge(begins)?;
        } else if self.list.end() < oldest.0 {
            return Err(ArchiveError::Gap(self.list.end()));
        }
        // The last one that is there may have been put while it was written.
        let last = self.list.end() - self.list.segments.min(1);
        let rest = &all[all.partition_point(|(number, _)| *number < last)..];
        let mut begin = rest.first().map_or(Ok(begins), first)?;
        for (done, (number, name)) in rest.iter().enumerate() {
            if begin >= signed {
                break;
            }
            progress(done, rest.len());
            let next = rest.get(done + 1).map(first).transpose()?.filter(|next| *next <= signed);
            let end = next.unwrap_or(signed);
            if end > archived || *number >= self.list.end() {
                self.segment(name, *number, begin..end, next.is_some())?;
            }
            begin = end;
        }
        progress(rest.len(), rest.len());
        // A list may say more than is true.
        let what = "it has segments that the log has not";
        let damaged = || ArchiveError::Damaged { path: self.to.path(LIST), what };
        (begin >= signed).then_some(begins).ok_or_else(damaged)
    }

    /// Puts a segment: the whole file, or as far as those receipts go.
    fn segment(
        &mut self,
        name: &str,
        number: u64,
        receipts: Range<u64>,
        whole: bool,
    ) -> Result<(), ArchiveError> {
        let log = self.log;
        let io = |source| ReadError::Io { path: log.path(name), source };
        let (content, is_compressed) = match whole {
            true => segment::open(log, name).map_err(io)?,
            false => {
                let origin = origin_hash(String::from_utf8_lossy(self.origin).trim_end());
                let end = segment::end_of(log, name, receipts.start, &origin, receipts.end)
                    .map_err(|source| ReadError::Segment { path: log.path(name), source })?;
                let begin: Box<dyn Read + Send> = Box::new(segment::bytes(log, name).map_err(io)?.take(end));
                (begin, false)
            }
        };
        let to = segment::compressed_name(number);
        if is_compressed {
            self.put(&to, log.path(name), content)?;
        } else {
            let mut encoder = zstd::stream::read::Encoder::new(content, segment::LEVEL).map_err(io)?;
            encoder.include_checksum(true).map_err(io)?;
            self.put(&to, log.path(name), encoder)?;
        }
        self.copied.segments += 1;
        if number == self.list.end() {
            self.list.segments += 1;
            self.put_list()?;
        }
        Ok(())
    }

    /// Puts what was pruned before anything was archived. Tiles may say it as well.
    fn edge(&mut self, begins: u64) -> Result<(), ArchiveError> {
        match self.log.read(edge::FILE, edge::MAX) {
            Ok(edge) if begins > 0 => self.put_small(edge::FILE, &edge),
            _ => Ok(()),
        }
    }

    /// Puts the tiles that were completed since, and those that are not whole. Tiles are derived: those that the log has not, the archive has
    /// not.
    pub fn tiles(
        &mut self,
        first: u64,
        archived: u64,
        signed: u64,
        partial: &Files,
    ) -> Result<(), ArchiveError> {
        let pruned = first / tile::WIDTH as u64;
        let mut places = tile::completed(archived, signed).filter(|at| at.level > 0 || at.n >= pruned);
        loop {
            let names: Vec<String> = places.by_ref().take(TILES).map(|place| place.name()).collect();
            if names.is_empty() {
                break;
            }
            let tiles = names.iter().cloned().zip(self.log.read_all(&names, TILE));
            let tiles = tiles.filter_map(|(name, tile)| Some((name, tile.ok()?)));
            self.put_all(&tiles.filter(|(_, tile)| tile.len() == TILE).collect())?;
        }
        self.put_all(partial)
    }

    /// Puts what witnesses have said. The list first: what is there and not in it would not be put again.
    pub fn notes(&mut self, notes: &Files) -> Result<(), ArchiveError> {
        let ids = notes.iter().filter_map(|(name, _)| name.rsplit('/').next());
        self.list.witnesses.extend(ids.map(str::to_owned));
        self.put_list()?;
        notes.iter().try_for_each(|(name, note)| self.put_small(name, note))
    }

    /// Puts the texts of policies, which receipts name: so before those.
    pub fn policies(&mut self) -> Result<(), ArchiveError> {
        let log = self.log;
        let all = policies::list(log);
        let all = all.map_err(|source| ReadError::Io { path: log.path(policies::DIR), source })?;
        for name in all {
            if !self.list.policies.contains(&name) && self.list.policies.len() < POLICIES_MAX {
                let file = policies::file(&name);
                let text = log.read(&file, policies::TEXT_MAX);
                let text = text.map_err(|source| ReadError::Io { path: log.path(&file), source })?;
                self.put_small(&file, &text)?;
                self.list.policies.insert(name);
                self.put_list()?;
            }
        }
        Ok(())
    }

    /// Puts the proof of an exchange of keys.
    pub fn exchange(&mut self, since: u64) -> Result<(), ArchiveError> {
        let (name, proof) = rotation::proof(self.log, since)?;
        self.put_small(&name, proof.to_string().as_bytes())?;
        self.list.rotations.insert(since);
        self.put_list()
    }

    /// Takes away the tiles of the checkpoint before that are not whole.
    pub fn tidy(&self, before: u64, now: u64) {
        let stay: Vec<_> = tile::partial(now).collect();
        for gone in tile::partial(before).filter(|gone| !stay.contains(gone)) {
            // Where it stays, it only takes room.
            let _ = self.to.remove(&gone.name());
        }
    }

    fn put_list(&mut self) -> Result<(), ArchiveError> {
        self.put_small(LIST, self.list.to_string().as_bytes())
    }

    /// Puts a file of this name.
    pub fn put_small(&mut self, name: &str, content: &[u8]) -> Result<(), ArchiveError> {
        self.put(name, self.log.path(name), content)
    }

    /// Puts something that has a name here too.
    fn put(&mut self, name: &str, here: PathBuf, content: impl Read) -> Result<(), ArchiveError> {
        let at = || self.to.path(name);
        let mut content = Hashed::new(content);
        if let Err(source) = self.to.put(name, &mut content) {
            return Err(match content.failed {
                true => ReadError::Io { path: here, source }.into(),
                false => ArchiveError::Store { path: at(), source },
            });
        }
        let store = |source| ArchiveError::Store { path: at(), source };
        let (bytes, digest) = content.end();
        let mut back = Hashed::new(self.to.open(name).map_err(store)?.take(bytes + 1));
        io::copy(&mut back, &mut io::sink()).map_err(store)?;
        let (found, other) = back.end();
        if found != bytes || other.as_ref() != digest.as_ref() {
            return Err(ArchiveError::Changed(at()));
        }
        self.copied.bytes += bytes;
        Ok(())
    }

    /// The same of many tiles at once.
    fn put_all(&mut self, tiles: &Files) -> Result<(), ArchiveError> {
        let store = |path, source| ArchiveError::Store { path, source };
        self.to.put_all(tiles).map_err(|source| store(self.to.path(tile::DIR), source))?;
        let names: Vec<String> = tiles.iter().map(|(name, _)| name.clone()).collect();
        for ((name, tile), back) in tiles.iter().zip(self.to.read_all(&names, TILE)) {
            if back.map_err(|source| store(self.to.path(name), source))? != *tile {
                return Err(ArchiveError::Changed(self.to.path(name)));
            }
            self.copied.tiles += 1;
            self.copied.bytes += tile.len() as u64;
        }
        Ok(())
    }
}

/// Counts and hashes what is read.
struct Hashed<R> {
    from: R,
    bytes: u64,
    hash: Context,
    /// It was not read to its end.
    failed: bool,
}

impl<R: Read> Hashed<R> {
    fn new(from: R) -> Self {
        Self { from, bytes: 0, hash: Context::new(&SHA256), failed: false }
    }

    /// How much it was, and its hash.
    fn end(self) -> (u64, Digest) {
        (self.bytes, self.hash.finish())
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(to);
        match &read {
            Ok(n) => {
                self.bytes += *n as u64;
                self.hash.update(&to[..*n]);
            }
            Err(e) => self.failed = e.kind() != io::ErrorKind::Interrupted,
        }
        read
    }
}
