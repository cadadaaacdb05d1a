//! What is there when a log is opened, and where to go on.
//!
//! Segments that a checkpoint covers whole are not read: their tiles say what they come to, and the checkpoint whether that is true. Must never:
//! repair what was signed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::files::{io, sync_dir};
use super::{LogError, Opened, edge, place_tiles};
use crate::keys::TrustedKeys;
use crate::merkle::{self, Hash, Tree};
use crate::note::Checkpoint;
use crate::receipt;
use crate::segment::{self, Kind, Scanner, SegmentError};
use crate::tile::{self, Growing, Place, Tiles};

/// Reads and checks the checkpoint; `None` if there is none yet.
pub(super) fn read_checkpoint(dir: &Path, trusted: &TrustedKeys) -> Result<Option<Checkpoint>, LogError> {
    let path = dir.join("checkpoint");
    match std::fs::read(&path) {
        Ok(note) => Checkpoint::open(&note, &trusted.log)
            .map(Some)
            .map_err(|source| LogError::Checkpoint { path: path.clone(), source }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io(&path)(e)),
    }
}

/// Leaves those whole tiles that are on disk as they should be.
fn mend_tiles(dir: &Path, whole: &mut Vec<(Place, Vec<Hash>)>) -> Result<(), LogError> {
    whole.retain(|(place, hashes)| tile::read(dir, *place).as_ref() != Some(hashes));
    place_tiles(dir, whole)
}

fn damaged(path: &Path, what: impl Into<String>) -> LogError {
    LogError::Damaged { path: path.to_path_buf(), what: what.into() }
}

/// What a log has.
pub(super) struct Scan {
    pub tree: Tree,
    pub tiles: Growing,
    /// Number of the last segment and where its records end.
    pub last: Option<(u64, u64)>,
    /// Index of the first receipt that is there.
    pub first: u64,
}

/// Checks a log against its checkpoint, and finds where to go on.
pub(super) fn recover(
    dir: &Path,
    origin: &Hash,
    checkpoint: Option<&Checkpoint>,
    opened: &mut Opened,
) -> Result<Scan, LogError> {
    let segments = segment::list(dir).map_err(io(dir))?;
    super::compress::tidy(dir, &segments)?;
    let first = |path: &PathBuf| segment::first(path).map_err(|e| damaged(path, e.to_string()));
    let signed = checkpoint.map_or(0, |c| c.size);
    let begin = segments.first().map_or(Ok(0), |(_, path)| first(path))?;
    if begin > signed {
        return Err(damaged(dir, format!("it begins with receipt {begin}, and {signed} were signed")));
    }
    let pruned = edge::read(dir).map_or(0, |(tree, _)| tree.size());
    // The last segment that begins under the checkpoint is the first that must be read.
    let (mut from, mut left) = (0, None);
    while from + 1 < segments.len() {
        let next = first(&segments[from + 1].1)?;
        if next == pruned {
            left = Some(from + 1);
        }
        if next > signed {
            break;
        }
        from += 1;
    }
    let all = Segments { dir, origin, checkpoint, segments: &segments, begin };
    // A crash has left something of what was to go. It goes if what it comes to is true.
    if let Some(stays) = left
        && let Some(mut scan) = all.read_from(stays, opened)?
    {
        segments[..stays].iter().try_for_each(|(_, path)| std::fs::remove_file(path).map_err(io(path)))?;
        sync_dir(dir)?;
        scan.first = pruned;
        return Ok(scan);
    }
    // Where tiles are missing or wrong, everything is read, and they are mended.
    if from > 0
        && let Some(scan) = all.read_from(from, opened)?
    {
        return Ok(scan);
    }
    let what =
        "the receipts are not those that were signed, or what those come to that were pruned is missing";
    all.read_from(0, opened)?.ok_or_else(|| damaged(dir, what))
}

struct Segments<'a> {
    dir: &'a Path,
    origin: &'a Hash,
    checkpoint: Option<&'a Checkpoint>,
    segments: &'a [(u64, PathBuf)],
    begin: u64,
}

impl Segments<'_> {
    fn signed(&self) -> u64 {
        self.checkpoint.map_or(0, |c| c.size)
    }

    /// The tree before a segment, by its tiles, and the tiles that grow on. `None`: there are none that say it.
    fn before(&self, from: usize) -> Result<Option<(Tree, Growing)>, LogError> {
        let Some((_, path)) = self.segments.get(from).filter(|_| from > 0 || self.begin > 0) else {
            return Ok(Some(Default::default()));
        };
        let first = segment::first(path).map_err(|e| damaged(path, e.to_string()))?;
        if let Some(pruned) = edge::read(self.dir).filter(|(tree, _)| tree.size() == first) {
            return Ok(Some(pruned));
        }
        Ok(Tiles::new(self.dir, self.signed()).tree(first))
    }

    /// Whether a tree is the one that was signed, once it is as large.
    fn is_signed(&self, tree: &Tree) -> bool {
        self.checkpoint.is_none_or(|c| c.size != tree.size() || c.root == tree.root())
    }

    /// Reads segments from one on. `None`: what comes of it is not what was signed.
    fn read_from(&self, from: usize, opened: &mut Opened) -> Result<Option<Scan>, LogError> {
        let signed = self.signed();
        let Some((tree, tiles)) = self.before(from)? else { return Ok(None) };
        let mut scan = Scan { tree, tiles, last: None, first: self.begin };
        if !self.is_signed(&scan.tree) {
            return Ok(None);
        }
        for (i, (number, path)) in self.segments.iter().enumerate().skip(from) {
            let mut scanner = Scanner::open(path, scan.tree.size(), self.origin)
                .map_err(|e| damaged(path, e.to_string()))?;
            // Where a receipt begins that is to be followed by its signature.
            let mut unsigned = None;
            let problem = loop {
                let at = scanner.offset();
                match scanner.next_record() {
                    Ok(Some((kind, bytes))) => {
                        if let Some((_, leaf)) = unsigned.take() {
                            scan.push(self.dir, leaf)?;
                        }
                        if kind == Kind::Receipt {
                            // Those that are under a checkpoint are never cut off.
                            let is_new = scan.tree.size() >= signed;
                            let leaf = merkle::leaf(bytes);
                            match is_new && receipt::check(bytes).is_ok_and(|facts| facts.weighs) {
                                true => unsigned = Some((at, leaf)),
                                false => scan.push(self.dir, leaf)?,
                            }
                        }
                        if !self.is_signed(&scan.tree) {
                            return Ok(None);
                        }
                    }
                    Ok(None) => break None,
                    Err(SegmentError::Io(e)) => return Err(io(path)(e)),
                    Err(e) => break Some(e),
                }
            };
            let end = unsigned.map_or(scanner.offset(), |(at, _)| at);
            let torn = match problem {
                None => scanner.check_rest().err(),
                some => some,
            };
            // A signature that is not there at all was not written: neither was durable.
            let torn = torn.map(|e| e.to_string());
            if let Some(what) = torn.or(unsigned.map(|_| "its last receipt has no signature".to_owned())) {
                if scan.tree.size() < signed || i + 1 < self.segments.len() {
                    return Err(damaged(path, what));
                }
                let length = std::fs::metadata(path).map_err(io(path))?.len();
                opened.bytes_cut = torn_bytes(path, end, length)?;
            }
            scan.last = Some((*number, end));
        }
        if scan.tree.size() < signed {
            return Err(damaged(
                self.dir,
                format!("{} receipts where {signed} were signed", scan.tree.size()),
            ));
        }
        mend_tiles(self.dir, scan.tiles.whole())?;
        Ok(Some(scan))
    }
}

impl Scan {
    fn push(&mut self, dir: &Path, leaf: Hash) -> Result<(), LogError> {
        self.tiles.push(&mut self.tree, leaf);
        if self.tiles.is_full() { mend_tiles(dir, self.tiles.whole()) } else { Ok(()) }
    }
}

/// How much of the tail is not zero: from the end of the records to the last byte that is not.
fn torn_bytes(path: &Path, end: u64, length: u64) -> Result<u64, LogError> {
    let file = File::open(path).map_err(io(path))?;
    let mut buffer = vec![0; 1 << 16];
    let (mut at, mut last) = (end, end);
    while at < length {
        let n = file.read_at(&mut buffer, at).map_err(io(path))?;
        if n == 0 {
            break;
        }
        if let Some(i) = buffer[..n].iter().rposition(|b| *b != 0) {
            last = at + i as u64 + 1;
        }
        at += n as u64;
    }
    Ok((last - end).max(1))
}
