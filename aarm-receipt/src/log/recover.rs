//! What is there when a log is opened, and where to go on.
//!
//! Segments that a checkpoint covers whole are not read: their tiles say what they come to, and the checkpoint whether that is true. Must never:
//! repair what was signed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::files::{io, sync_dir};
use super::prune::Sealed;
use super::{LogError, Opened, chains, edge, place_tiles};
use crate::chain::{self, Chains, Step};
use crate::merkle::{self, Hash, Tree};
use crate::note::Checkpoint;
use crate::receipt;
use crate::segment::{self, Kind, Scanner, SegmentError};
use crate::tile::{self, Growing, Place, Tiles};
use crate::trust::TrustedKeys;

/// Reads and checks the checkpoint; `None` if there is none yet.
pub(super) fn read_checkpoint(dir: &Path, trusted: &TrustedKeys) -> Result<Option<Checkpoint>, LogError> {
    let path = dir.join("checkpoint");
    match std::fs::read(&path) {
        Ok(note) => trusted
            .open(&note)
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

/// What is wrong with a segment, unless it just cannot be read.
fn of_segment(path: &Path, e: SegmentError) -> LogError {
    match e {
        SegmentError::Io(e) => io(path)(e),
        e => damaged(path, e.to_string()),
    }
}

/// What a log has.
pub(super) struct Scan {
    pub tree: Tree,
    pub tiles: Growing,
    /// Number of the last segment and where its records end.
    pub last: Option<(u64, u64)>,
    /// Index of the first receipt that is there.
    pub first: u64,
    /// Segments before the last one.
    pub sealed: Vec<Sealed>,
    /// The chains of sessions, if they were kept.
    pub chains: Option<Chains>,
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
    let firsts = segments
        .iter()
        .map(|(_, name)| segment::first(dir, name).map_err(|e| of_segment(&dir.join(name), e)));
    let firsts: Vec<u64> = firsts.collect::<Result<_, _>>()?;
    let signed = checkpoint.map_or(0, |c| c.size);
    let begin = firsts.first().copied().unwrap_or(0);
    if begin > signed {
        return Err(damaged(dir, format!("it begins with receipt {begin}, and {signed} were signed")));
    }
    let all =
        Segments { dir, origin, checkpoint, segments: &segments, firsts: &firsts, pruned: edge::read(dir) };
    // A crash has left something of what was to go. It goes if what it comes to is true.
    let pruned = all.pruned.as_ref().map_or(0, |(tree, _)| tree.size());
    let stays = firsts.iter().position(|first| *first == pruned).filter(|at| *at > 0);
    if let Some(stays) = stays
        && let Some(scan) = all.read_from(stays, stays, opened)?
    {
        for (_, name) in &segments[..stays] {
            let path = dir.join(name);
            std::fs::remove_file(&path).map_err(io(&path))?;
        }
        sync_dir(dir)?;
        return Ok(scan);
    }
    // The last segment that begins under the checkpoint is the first that must be read, if tiles say what comes before each. Where they do not,
    // everything is read, and they are mended.
    let from = firsts.partition_point(|first| *first <= signed).saturating_sub(1);
    if from > 0
        && (1..=from).all(|at| all.proven(at).is_some())
        && let Some(scan) = all.read_from(from, 0, opened)?
    {
        return Ok(scan);
    }
    let what =
        "the receipts are not those that were signed, or what those come to that were pruned is missing";
    all.read_from(0, 0, opened)?.ok_or_else(|| damaged(dir, what))
}

struct Segments<'a> {
    dir: &'a Path,
    origin: &'a Hash,
    checkpoint: Option<&'a Checkpoint>,
    segments: &'a [(u64, String)],
    /// Index of the first receipt of each.
    firsts: &'a [u64],
    /// What was pruned comes to.
    pruned: Option<(Tree, Growing)>,
}

impl Segments<'_> {
    fn signed(&self) -> u64 {
        self.checkpoint.map_or(0, |c| c.size)
    }

    /// The tree before a segment, and the tiles that grow on, if tiles prove it.
    fn proven(&self, at: usize) -> Option<(Tree, Growing)> {
        let checkpoint = self.checkpoint?;
        Tiles::new(self.dir, checkpoint.size).proven(self.firsts[at], &checkpoint.root)
    }

    /// The same by whatever says it. What is read from there leads to what was signed, or it is not so.
    fn before(&self, at: usize) -> Option<(Tree, Growing)> {
        match self.firsts.get(at).copied().unwrap_or(0) {
            0 => Some(Default::default()),
            first => {
                let pruned = || self.pruned.clone().filter(|(tree, _)| tree.size() == first);
                self.proven(at).or_else(pruned)
            }
        }
    }

    /// Segments before the last one, from `stays` on.
    fn sealed(&self, stays: usize) -> Result<Vec<Sealed>, LogError> {
        let nexts = self.firsts.iter().skip(1);
        let all = self.segments.iter().zip(nexts).skip(stays);
        all.map(|((number, name), next)| Sealed::of(*number, self.dir.join(name), *next)).collect()
    }

    /// Whether a tree is the one that was signed, once it is as large.
    fn is_signed(&self, tree: &Tree) -> bool {
        self.checkpoint.is_none_or(|c| c.size != tree.size() || c.root == tree.root())
    }

    /// Reads segments from one on; `stays` is the first that does. `None`: what comes of it is not what was signed.
    fn read_from(&self, from: usize, stays: usize, opened: &mut Opened) -> Result<Option<Scan>, LogError> {
        let signed = self.signed();
        let Some((tree, tiles)) = self.before(from) else { return Ok(None) };
        let first = self.firsts.get(stays).copied().unwrap_or(0);
        // What was kept is after something that is read.
        let kept = chains::read(self.dir).filter(|(after, _)| *after >= tree.size());
        let (after, chains) = kept.map_or((u64::MAX, None), |(after, chains)| (after, Some(chains)));
        let mut scan = Scan { tree, tiles, last: None, first, sealed: self.sealed(stays)?, chains };
        if !self.is_signed(&scan.tree) {
            return Ok(None);
        }
        for (i, (number, name)) in self.segments.iter().enumerate().skip(from) {
            let path = &self.dir.join(name);
            let mut scanner = Scanner::open(self.dir, name, scan.tree.size(), self.origin)
                .map_err(|e| of_segment(path, e))?;
            // Where a receipt begins that is to be followed by its signature.
            let mut unsigned = None;
            let problem = loop {
                let at = scanner.offset();
                match scanner.next_record() {
                    Ok(Some((kind, bytes))) => {
                        if let Some((_, step, leaf)) = unsigned.take() {
                            scan.push(self.dir, after, step, leaf)?;
                        }
                        if kind == Kind::Receipt {
                            // Those that are under a checkpoint are never cut off.
                            let is_new = scan.tree.size() >= signed;
                            let (step, leaf) = (chain::step(bytes), merkle::leaf(bytes));
                            match is_new && receipt::check(bytes).is_ok_and(|facts| facts.weighs) {
                                true => unsigned = Some((at, step, leaf)),
                                false => scan.push(self.dir, after, step, leaf)?,
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
            let end = unsigned.map_or(scanner.offset(), |(at, ..)| at);
            let torn = match problem {
                None => match scanner.check_rest() {
                    Err(SegmentError::Io(e)) => return Err(io(path)(e)),
                    rest => rest.err(),
                },
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
        // More was kept than is there: it is not what there is.
        scan.chains = scan.chains.filter(|_| after <= scan.tree.size());
        Ok(Some(scan))
    }
}

impl Scan {
    /// The next receipt; `after`: chains were kept after so many.
    fn push(&mut self, dir: &Path, after: u64, step: Step, leaf: Hash) -> Result<(), LogError> {
        if let Some(chains) = self.chains.as_mut().filter(|_| self.tree.size() >= after) {
            chains.take(step, leaf);
        }
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
