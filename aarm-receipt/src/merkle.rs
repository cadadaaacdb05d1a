//! The Merkle tree of RFC 6962 section 2.1 over the receipts, kept as its right edge.

use sha2::block_api::compress256;

/// A node's or leaf's hash.
pub type Hash = [u8; 32];

/// SHA-256 before the first block (FIPS 180-4, 5.3.3).
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// The end of a message of `length` bytes, of which `rest` are not hashed yet: less than a block.
#[inline]
fn finish(mut state: [u32; 8], rest: &[u8], length: usize) -> Hash {
    let mut blocks = [[0; 64]; 2];
    let bytes = blocks.as_flattened_mut();
    bytes[..rest.len()].copy_from_slice(rest);
    bytes[rest.len()] = 0x80;
    let used = if rest.len() < 56 { 1 } else { 2 };
    bytes[64 * used - 8..64 * used].copy_from_slice(&(8 * length as u64).to_be_bytes());
    compress256(&mut state, &blocks[..used]);
    let mut hash = [0; 32];
    for (bytes, word) in hash.as_chunks_mut::<4>().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
    hash
}

/// Hash of a leaf: SHA-256 of 0x00 and the entry.
#[inline]
pub fn leaf(entry: &[u8]) -> Hash {
    let (mut state, mut first) = (INITIAL, [0; 64]);
    let length = entry.len() + 1;
    let Some((head, tail)) = entry.split_at_checked(63) else {
        first[1..length].copy_from_slice(entry);
        return finish(state, &first[..length], length);
    };
    first[1..].copy_from_slice(head);
    compress256(&mut state, &[first]);
    let (blocks, rest) = tail.as_chunks();
    compress256(&mut state, blocks);
    finish(state, rest, length)
}

/// Hash of a node: SHA-256 of 0x01, left and right.
#[inline]
pub fn node(left: &Hash, right: &Hash) -> Hash {
    let (mut state, mut first) = (INITIAL, [1; 64]);
    first[1..33].copy_from_slice(left);
    first[33..].copy_from_slice(&right[..31]);
    compress256(&mut state, &[first]);
    finish(state, &right[31..], 65)
}

/// A tree being grown: the roots of its complete subtrees, largest first. At most 64 of them.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    size: u64,
    edge: Vec<Hash>,
}

impl Tree {
    /// A tree of so many leaves, by the roots of its complete subtrees, largest first.
    pub(crate) fn of(size: u64, edge: Vec<Hash>) -> Self {
        assert_eq!(size.count_ones() as usize, edge.len(), "one for each bit of the size");
        Self { size, edge }
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf.
    #[inline]
    pub fn push(&mut self, leaf: Hash) {
        self.push_each(leaf, |_, _| {});
    }

    /// Adds a leaf; `each` gets the height and the root of every subtree that is complete with it, the leaf first.
    #[inline]
    pub(crate) fn push_each(&mut self, leaf: Hash, mut each: impl FnMut(u32, &Hash)) {
        let mut hash = leaf;
        each(0, &hash);
        // One complete subtree ends for each trailing one of the old size.
        for height in 1..=self.size.trailing_ones() {
            if let Some(left) = self.edge.pop() {
                hash = node(&left, &hash);
                each(height, &hash);
            }
        }
        self.edge.push(hash);
        self.size += 1;
    }

    /// The root hash; of an empty tree, SHA-256 of nothing.
    pub fn root(&self) -> Hash {
        let mut nodes = self.edge.iter().rev();
        let Some(first) = nodes.next() else { return finish(INITIAL, &[], 0) };
        nodes.fold(*first, |right, left| node(left, &right))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_sha_256_agrees() {
        let other = |parts: &[&[u8]]| -> Vec<u8> {
            ring::digest::digest(&ring::digest::SHA256, &parts.concat()).as_ref().into()
        };
        let bytes: Vec<u8> = (0..1000u32).map(|i| (i * 7) as u8).collect();
        for n in 0..bytes.len() {
            assert_eq!(leaf(&bytes[..n])[..], other(&[&[0], &bytes[..n]]), "{n} bytes");
        }
        let (a, b) = (leaf(b"a"), leaf(b"b"));
        assert_eq!(node(&a, &b)[..], other(&[&[1], &a, &b]));
    }

    fn hex(hash: &Hash) -> String {
        hash.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The definition, literally.
    fn reference(entries: &[&[u8]]) -> Hash {
        match entries.len() {
            0 => finish(INITIAL, &[], 0),
            1 => leaf(entries[0]),
            n => {
                let k = n.next_power_of_two() / 2;
                node(&reference(&entries[..k]), &reference(&entries[k..]))
            }
        }
    }

    #[test]
    fn known_answers_of_certificate_transparency() {
        let entries: [&[u8]; 8] = [
            b"",
            b"\0",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let mut tree = Tree::default();
        assert_eq!(hex(&tree.root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        for e in entries {
            tree.push(leaf(e));
        }
        assert_eq!(hex(&tree.root()), "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328");
    }

    #[test]
    fn every_size_equals_the_definition() {
        let entries: Vec<Vec<u8>> = (0..130u32).map(|i| i.to_le_bytes().to_vec()).collect();
        let mut tree = Tree::default();
        for n in 0..entries.len() {
            let all: Vec<&[u8]> = entries[..n].iter().map(Vec::as_slice).collect();
            assert_eq!(tree.root(), reference(&all));
            tree.push(leaf(&entries[n]));
        }
    }
}
