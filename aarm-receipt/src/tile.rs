//! The tree's hashes on disk, as C2SP tiles (`c2sp.org/tlog-tiles`), so that a proof needs a few small files and not the whole log.
//!
//! ```text
//! <log>/tile/<level>/<n>          256 hashes of 32 bytes: at level 0 of receipts, above of whole tiles of the level below
//! <log>/tile/<level>/<n>.p/<w>    the first w of them: the rightmost tile when a checkpoint was signed
//! <n>                             three digits a directory, all but the last after an `x`: 1234067 is x001/x234/067
//! ```
//! Derived: what is missing, or not what the receipts say, is written again when the log is opened; who reads tiles checks what they lead to
//! against a checkpoint. Must never: be made durable before receipts, or believed.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::merkle::{self, Hash, Tree};
use crate::source::Source;
use crate::{placing, proof};

/// Hashes of a whole tile.
pub const WIDTH: usize = 256;
/// Levels of the tree that one level of tiles stands for.
const HEIGHT: u32 = WIDTH.trailing_zeros();
/// Levels of tiles.
const LEVELS: usize = (u64::BITS / HEIGHT) as usize;
/// Most tiles that wait to be written before more is added: 16 MiB, of half a million receipts. One leaf may complete one of each level.
const WAITING_MAX: usize = 2048;

/// The directory.
pub const DIR: &str = "tile";

/// A tile's path in the log's directory; of a partial one with its width.
pub fn path(level: u32, n: u64, width: usize) -> String {
    assert!((1..=WIDTH).contains(&width) && (level as usize) < LEVELS, "a tile of the tree");
    let mut groups = vec![format!("{:03}", n % 1000)];
    let mut rest = n / 1000;
    while rest > 0 {
        groups.push(format!("x{:03}", rest % 1000));
        rest /= 1000;
    }
    groups.reverse();
    let partial = if width < WIDTH { format!(".p/{width}") } else { String::new() };
    format!("{DIR}/{level}/{}{partial}", groups.join("/"))
}

/// A tile by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub level: u32,
    pub n: u64,
    pub width: usize,
}

impl Place {
    pub fn name(&self) -> String {
        path(self.level, self.n, self.width)
    }

    pub fn path(&self, log: &Path) -> PathBuf {
        log.join(self.name())
    }
}

/// Whole tiles of a tree of `to` leaves that it had not when it had `from`.
pub(crate) fn completed(from: u64, to: u64) -> impl Iterator<Item = Place> {
    (0..LEVELS as u32 - 1).flat_map(move |level| {
        let whole = |size: u64| size >> ((level + 1) * HEIGHT);
        (whole(from)..whole(to)).map(move |n| Place { level, n, width: WIDTH })
    })
}

/// Partial tiles of a tree of `size` leaves.
pub(crate) fn partial(size: u64) -> impl Iterator<Item = Place> {
    (0..LEVELS as u32).filter_map(move |level| {
        let hashes = size >> (level * HEIGHT);
        let width = (hashes % WIDTH as u64) as usize;
        (width > 0).then_some(Place { level, n: hashes / WIDTH as u64, width })
    })
}

/// One level's rightmost tile.
#[derive(Clone, Default)]
struct Level {
    /// Whole tiles left of it.
    whole: u64,
    /// Less than [`WIDTH`].
    hashes: Vec<Hash>,
}

/// Tiles of a tree that grows.
#[derive(Clone, Default)]
pub(crate) struct Growing {
    levels: Vec<Level>,
    waiting: Vec<(Place, Vec<Hash>)>,
}

impl Growing {
    /// Adds a leaf to a tree and to its tiles.
    #[inline]
    pub fn push(&mut self, tree: &mut Tree, leaf: Hash) {
        assert!(self.waiting.len() < WAITING_MAX + LEVELS, "whoever adds takes what is whole");
        tree.push_each(leaf, |height, hash| {
            if height % HEIGHT == 0 {
                self.add((height / HEIGHT) as usize, *hash);
            }
        });
    }

    #[inline]
    fn add(&mut self, at: usize, hash: Hash) {
        if self.levels.len() <= at {
            self.levels.push(Level { whole: 0, hashes: Vec::with_capacity(WIDTH) });
        }
        let level = &mut self.levels[at];
        level.hashes.push(hash);
        if level.hashes.len() == WIDTH {
            let place = Place { level: at as u32, n: level.whole, width: WIDTH };
            let hashes = std::mem::replace(&mut level.hashes, Vec::with_capacity(WIDTH));
            level.whole += 1;
            self.waiting.push((place, hashes));
        }
    }

    /// A tree of so many leaves and its tiles, by what the rightmost tile of each level has: the rest is not needed any more. `None`: one
    /// is not there, or not as wide as it should be.
    pub fn of(size: u64, mut edge: impl FnMut(u32, u64, usize) -> Option<Vec<Hash>>) -> Option<(Tree, Self)> {
        let mut levels = Vec::new();
        for at in 0..LEVELS as u32 {
            let hashes = size >> (at * HEIGHT);
            if hashes == 0 {
                break;
            }
            let (whole, width) = (hashes / WIDTH as u64, (hashes % WIDTH as u64) as usize);
            let mut found = if width == 0 { Vec::new() } else { edge(at, whole, width)? };
            if found.len() != width {
                return None;
            }
            found.reserve(WIDTH - found.len());
            levels.push(Level { whole, hashes: found });
        }
        // Of each level as many hashes as there are make complete subtrees, largest first.
        let mut roots = Vec::new();
        for level in levels.iter().rev() {
            let mut rest = level.hashes.as_slice();
            for height in (0..HEIGHT).rev().filter(|height| level.hashes.len() >> height & 1 == 1) {
                let (subtree, more) = rest.split_at(1 << height);
                let mut tree = Tree::default();
                subtree.iter().for_each(|hash| tree.push(*hash));
                roots.push(tree.root());
                rest = more;
            }
        }
        Some((Tree::of(size, roots), Self { levels, waiting: Vec::new() }))
    }

    /// What the rightmost tile of each level has.
    pub fn edge(&self) -> Vec<Vec<Hash>> {
        self.levels.iter().map(|level| level.hashes.clone()).collect()
    }

    /// Whether whole tiles should be taken before more is added.
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_MAX
    }

    /// Whole tiles since the last time, as they were completed.
    pub fn whole(&mut self) -> &mut Vec<(Place, Vec<Hash>)> {
        &mut self.waiting
    }

    /// The rightmost tiles, of those levels that have one.
    pub fn partial(&self) -> impl Iterator<Item = (Place, &[Hash])> {
        self.levels.iter().enumerate().filter(|(_, level)| !level.hashes.is_empty()).map(|(at, level)| {
            let place = Place { level: at as u32, n: level.whole, width: level.hashes.len() };
            (place, level.hashes.as_slice())
        })
    }
}

/// What is in a tile's file, if it is one of that width.
pub(crate) fn read(log: impl Source, place: Place) -> Option<Vec<Hash>> {
    let found = log.read(&place.name(), place.width * size_of::<Hash>()).ok()?;
    let (hashes, rest) = found.as_chunks();
    (hashes.len() == place.width && rest.is_empty()).then(|| hashes.to_vec())
}

/// What there is of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// All of it.
    Whole,
    /// Less, and nothing else.
    Less,
    /// Something else.
    Other,
}

/// Holds the bytes of a tile's file against what should be there. Of one that was written lately a loss of power may leave less: a file that is
/// shorter, or zeros in place of hashes, which no hash is. That says nothing, as a tile that is not there.
pub(crate) fn compare(found: &[u8], hashes: &[Hash]) -> Found {
    let expected = hashes.as_flattened();
    if found == expected {
        return Found::Whole;
    }
    let says_nothing = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0) || bytes.len() < size_of::<Hash>();
    let mut pairs = found.chunks(size_of::<Hash>()).zip(hashes);
    let is_less =
        found.len() <= expected.len() && pairs.all(|(bytes, hash)| bytes == hash || says_nothing(bytes));
    if is_less { Found::Less } else { Found::Other }
}

/// Writes a tile: whole under its name, or not there. Not durable.
pub(crate) fn write(log: &Path, place: Place, hashes: &[Hash]) -> std::io::Result<()> {
    let path = place.path(log);
    let write = || placing::whole(&path, hashes.as_flattened());
    match (write(), path.parent()) {
        (Err(e), Some(dir)) if e.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(dir)?;
            write()
        }
        (written, _) => written,
    }
}

/// Takes away what was a part of a tile that is whole now.
pub(crate) fn remove_parts(log: &Path, whole: Place) {
    // Where it stays, it only takes room.
    let _ = std::fs::remove_dir_all(whole.path(log).with_extension("p"));
}

/// Takes away the tiles of receipts before a place, as far as they are whole; those above them stay.
pub(crate) fn prune(log: &Path, from: u64, to: u64) -> std::io::Result<()> {
    for n in from / WIDTH as u64..to / WIDTH as u64 {
        match std::fs::remove_file(Place { level: 0, n, width: WIDTH }.path(log)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Hashes of subtrees, from the tiles of a log. What it says is for the caller to check.
pub struct Tiles<'a> {
    log: Box<dyn Source + 'a>,
    /// Of the tree.
    size: u64,
    read: HashMap<(u32, u64), Vec<Hash>>,
}

impl<'a> Tiles<'a> {
    /// Of a log that has (at least) so many receipts.
    pub fn new(log: impl Source + 'a, size: u64) -> Self {
        Self { log: Box::new(log), size, read: HashMap::new() }
    }

    /// The hash of a range of leaves that RFC 6962 makes a subtree of. `None`: a tile is not there.
    pub fn subtree(&mut self, range: &Range<u64>) -> Option<Hash> {
        let leaves = range.end.checked_sub(range.start).filter(|n| *n > 0 && range.end <= self.size)?;
        // Whole subtrees from the left, each as large as the rest has room for.
        let mut begin = range.start;
        let mut parts = Vec::new();
        let mut rest = leaves;
        while rest > 0 {
            let height = 63 - rest.leading_zeros();
            parts.push(self.whole(height, begin >> height)?);
            begin += 1 << height;
            rest -= 1 << height;
        }
        let mut parts = parts.into_iter().rev();
        let last = parts.next()?;
        Some(parts.fold(last, |right, left| merkle::node(&left, &right)))
    }

    /// The tree when it had `size` leaves, and its tiles. `None`: a tile is not there.
    pub(crate) fn tree(&mut self, size: u64) -> Option<(Tree, Growing)> {
        let is_there = size <= self.size;
        is_there
            .then(|| Growing::of(size, |level, n, width| Some(self.tile(level, n)?.get(..width)?.to_vec())))
            .flatten()
    }

    /// Whether the tree with this root begins with an older one (size and root). `None`: a tile that would say so is not there.
    pub(crate) fn begins_with(&mut self, old: (u64, &Hash), root: &Hash) -> Option<bool> {
        let hashes = self.consistency(old.0)?;
        Some(proof::is_consistent(old, (self.size, root), &hashes))
    }

    /// What proves that the tree begins with one of `old` leaves. `None`: that one is empty, or a tile is not there.
    pub fn consistency(&mut self, old: u64) -> Option<Vec<Hash>> {
        let wanted = proof::consistency(old, self.size)?;
        wanted.iter().map(|range| self.subtree(range)).collect()
    }

    /// The tree when it had `size` leaves, and its tiles, if they prove that the one with this root began so.
    pub(crate) fn proven(&mut self, size: u64, root: &Hash) -> Option<(Tree, Growing)> {
        let before = self.tree(size)?;
        (self.begins_with((size, &before.0.root()), root) == Some(true)).then_some(before)
    }

    /// The root of the subtree of `height` that is the `index`th of its kind.
    fn whole(&mut self, height: u32, index: u64) -> Option<Hash> {
        let (level, within) = (height / HEIGHT, height % HEIGHT);
        let first = index << within;
        let tile = self.tile(level, first / WIDTH as u64)?;
        let from = (first % WIDTH as u64) as usize;
        let mut tree = Tree::default();
        tile.get(from..from + (1 << within))?.iter().for_each(|hash| tree.push(*hash));
        Some(tree.root())
    }

    fn tile(&mut self, level: u32, n: u64) -> Option<&[Hash]> {
        use std::collections::hash_map::Entry;
        let width =
            (self.size >> (level * HEIGHT)).saturating_sub(n * WIDTH as u64).min(WIDTH as u64) as usize;
        match self.read.entry((level, n)) {
            Entry::Occupied(found) => Some(found.into_mut()),
            Entry::Vacant(place) => {
                let of = |width| read(&*self.log, Place { level, n, width });
                // A partial one may have gone since the whole one came.
                let hashes = Some(width).filter(|w| *w > 0).and_then(|w| of(w).or_else(|| of(WIDTH)))?;
                Some(place.insert(hashes))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        assert_eq!(path(0, 1_234_067, WIDTH), "tile/0/x001/x234/067");
        assert_eq!(path(2, 0, 1), "tile/2/000.p/1");
        assert_eq!(path(0, 273, 112), "tile/0/273.p/112");
        assert_eq!(path(1, 1000, 255), "tile/1/x001/000.p/255");
    }

    #[test]
    fn a_tree_has_the_tiles_of_the_specification() {
        let mut tiles = Growing::default();
        let mut tree = Tree::default();
        let mut taken = Vec::new();
        for i in 0..70_000u64 {
            tiles.push(&mut tree, merkle::leaf(&i.to_be_bytes()));
            if tiles.is_full() {
                taken.append(tiles.whole());
            }
        }
        taken.append(tiles.whole());
        let whole = |level| taken.iter().filter(|(place, _)| place.level == level).count();
        assert_eq!((whole(0), whole(1), whole(2)), (273, 1, 0));
        for at in [0, 255, 256, 65_535, 65_536, 69_999, 70_000] {
            let planned = completed(0, at).chain(completed(at, 70_000));
            assert!(
                planned.count() == taken.len() && completed(0, at).all(|p| taken.iter().any(|t| t.0 == p))
            );
        }
        let widths: Vec<_> =
            tiles.partial().map(|(p, hashes)| (p.level, p.n, p.width, hashes.len())).collect();
        assert_eq!(widths, [(0, 273, 112, 112), (1, 1, 17, 17), (2, 0, 1, 1)]);
        assert!(partial(70_000).eq(tiles.partial().map(|(p, _)| p)));
    }
}
