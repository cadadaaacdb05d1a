//! What is there when a log is opened, and where to go on.
//!
//! Must never: repair what was signed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::files::io;
use super::{LogError, Opened, place_tiles};
use crate::keys::TrustedKeys;
use crate::merkle::{self, Hash, Tree};
use crate::note::Checkpoint;
use crate::receipt;
use crate::segment::{self, Kind, Scanner, SegmentError};
use crate::tile::{self, Growing, Place};

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

/// What a log has.
pub(super) struct Scan {
    pub tree: Tree,
    pub tiles: Growing,
    /// Number of the last segment and where its records end.
    pub last: Option<(u64, u64)>,
}

/// Reads the whole log, checks it against the checkpoint, and finds where to go on.
pub(super) fn recover(
    dir: &Path,
    origin: &Hash,
    checkpoint: Option<&Checkpoint>,
    opened: &mut Opened,
) -> Result<Scan, LogError> {
    let signed = checkpoint.map_or(0, |c| c.size);
    let segments = segment::list(dir).map_err(io(dir))?;
    let (mut tree, mut tiles) = (Tree::default(), Growing::default());
    let mut last = None;
    let is_last = |i: usize| i + 1 == segments.len();
    let damaged = |path: &Path, what: String| LogError::Damaged { path: path.to_path_buf(), what };
    let check = |tree: &Tree, path: &Path| match checkpoint {
        Some(c) if c.size == tree.size() && c.root != tree.root() => {
            Err(damaged(path, "the receipts are not those that were signed".into()))
        }
        _ => Ok(()),
    };
    let push = |tree: &mut Tree, tiles: &mut Growing, leaf: Hash| {
        tiles.push(tree, leaf);
        if tiles.is_full() { mend_tiles(dir, tiles.whole()) } else { Ok(()) }
    };
    check(&tree, dir)?;
    for (i, (number, path)) in segments.iter().enumerate() {
        let mut scanner =
            Scanner::open(path, tree.size(), origin).map_err(|e| damaged(path, e.to_string()))?;
        // Where a receipt begins that is to be followed by its signature.
        let mut unsigned = None;
        let problem = loop {
            let at = scanner.offset();
            match scanner.next_record() {
                Ok(Some((Kind::Receipt, bytes))) => {
                    // Those that are under a checkpoint are never cut off.
                    let weighs = tree.size() >= signed && receipt::check(bytes).is_ok_and(|f| f.weighs);
                    let leaf = merkle::leaf(bytes);
                    if let Some((_, leaf)) = std::mem::replace(&mut unsigned, weighs.then_some((at, leaf))) {
                        push(&mut tree, &mut tiles, leaf)?;
                    }
                    if !weighs {
                        push(&mut tree, &mut tiles, leaf)?;
                    }
                    check(&tree, path)?;
                }
                Ok(Some((Kind::Signature, _))) => {
                    if let Some((_, leaf)) = unsigned.take() {
                        push(&mut tree, &mut tiles, leaf)?;
                        check(&tree, path)?;
                    }
                }
                Ok(None) => break None,
                Err(SegmentError::Io(e)) => return Err(io(path)(e)),
                Err(e) => break Some(e),
            }
        };
        let mut end = scanner.offset();
        let problem = match problem {
            None => scanner.check_rest().err(),
            some => some,
        };
        let torn = match (problem, unsigned) {
            (Some(e), _) => Some(e.to_string()),
            // A signature that is not there at all was not written: neither was durable.
            (None, Some(_)) => Some("its last receipt has no signature".to_owned()),
            (None, None) => None,
        };
        if let Some((at, _)) = unsigned {
            end = at;
        }
        if let Some(what) = torn {
            if tree.size() < signed || !is_last(i) {
                return Err(damaged(path, what));
            }
            let length = std::fs::metadata(path).map_err(io(path))?.len();
            opened.bytes_cut = torn_bytes(path, end, length)?;
        }
        last = Some((*number, end));
    }
    if tree.size() < signed {
        let what = format!("{} receipts where {signed} were signed", tree.size());
        return Err(damaged(dir, what));
    }
    mend_tiles(dir, tiles.whole())?;
    Ok(Scan { tree, tiles, last })
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
