//! What pruned receipts come to: the right edge of the tree that they were, in a file of its own, because tiles may be lost with the power.
//!
//! ```text
//! aarm-edge-v1
//! <number of the first receipt that stays>
//! <hashes of the rightmost tile of level 0, in base64>      empty where its last tile is whole
//! <level 1>
//! ...
//! ```
//! Must never: be believed. What it says leads to the signed root, or is wrong.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::LogError;
use super::files::place;
use crate::merkle::{Hash, Tree};
use crate::source::Source;
use crate::tile::Growing;

/// The file.
pub const FILE: &str = "edge";
const MAGIC: &str = "aarm-edge-v1";
/// Most bytes: eight levels of 255 hashes each.
pub const MAX: usize = 1 << 17;

/// Writes it, durably.
pub fn write(dir: &Path, size: u64, levels: &[Vec<Hash>]) -> Result<(), LogError> {
    let mut text = format!("{MAGIC}\n{size}\n");
    for hashes in levels {
        BASE64.encode_string(hashes.as_flattened(), &mut text);
        text.push('\n');
    }
    place(dir, FILE, text.as_bytes())
}

/// The tree that was pruned, and its tiles. `None`: there is no such file, or it is not one.
pub fn read(log: impl Source) -> Option<(Tree, Growing)> {
    parse(std::str::from_utf8(&log.read(FILE, MAX).ok()?).ok()?)
}

fn parse(text: &str) -> Option<(Tree, Growing)> {
    let mut lines = text.strip_suffix('\n')?.split('\n');
    let size: u64 = lines.next().filter(|line| *line == MAGIC).and_then(|_| lines.next())?.parse().ok()?;
    let levels: Option<Vec<Vec<Hash>>> = lines
        .map(|line| {
            let bytes = BASE64.decode(line).ok()?;
            let (hashes, rest) = bytes.as_chunks();
            rest.is_empty().then(|| hashes.to_vec())
        })
        .collect();
    let levels = levels?;
    let (tree, tiles) = Growing::of(size, |level, _, _| levels.get(level as usize).cloned())?;
    (tiles.edge().len() == levels.len()).then_some((tree, tiles))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle;

    #[test]
    fn a_tree_goes_on_from_its_edge() {
        let (mut tree, mut tiles) = (Tree::default(), Growing::default());
        for n in 0..70_000u64 {
            tiles.push(&mut tree, merkle::leaf(&n.to_be_bytes()));
            tiles.whole().clear();
            if ![1, 255, 256, 257, 511, 65_535, 65_536, 65_537, 69_999].contains(&n) {
                continue;
            }
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), n + 1, &tiles.edge()).unwrap();
            let (mut again, mut growing) = read(dir.path()).unwrap();
            assert_eq!((again.size(), again.root()), (n + 1, tree.root()), "{n}");
            // One more, in both.
            let (mut other, leaf) = (tree.clone(), merkle::leaf(b"more"));
            other.push(leaf);
            growing.push(&mut again, leaf);
            assert_eq!(again.root(), other.root(), "{n}");
            let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
            for wrong in
                [&text[1..], &text[..text.len() - 1], &format!("{text}\n"), &text.replace("v1", "v2"), ""]
            {
                assert!(parse(wrong).is_none(), "{n}: {wrong}");
            }
        }
    }
}
