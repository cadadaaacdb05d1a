//! One receipt with all that proves it: a C2SP transparency log proof (`c2sp.org/tlog-proof`) whose extra data is the receipt.
//!
//! ```text
//! c2sp.org/tlog-proof@v1
//! extra <base64 of the receipt>
//! index <its place in the log>
//! <base64 of a sibling's hash>          from the leaf's to the root's child's, one a line
//!
//! <the log's checkpoint, see `note`>
//! ```
//! Whoever has the log's public keys checks it offline. Must never: tell of a receipt that it did not prove.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::log::origin_hash;
use crate::merkle::{self, Hash, Tree};
use crate::note::{Checkpoint, NOTE_MAX, NoteError};
use crate::proof::{self, PROOF_MAX};
use crate::read::{self, ReadError};
use crate::receipt::{self, MAX_RECEIPT, ParseError};
use crate::segment::{self, Kind, Scanner, SegmentError};
use crate::source::Source;
use crate::tile::Tiles;
use crate::trust::TrustedKeys;
use crate::witnessed;

/// First line.
pub(crate) const MAGIC: &str = "c2sp.org/tlog-proof@v1";
/// Largest bundle read, in bytes.
pub const BUNDLE_MAX: usize = MAX_RECEIPT.div_ceil(3) * 4 + PROOF_MAX * 45 + NOTE_MAX + 128;

/// A receipt, and its proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// Its bytes, as the log has them.
    pub receipt: Vec<u8>,
    /// Its place in the log.
    pub index: u64,
    /// Siblings, the leaf's first.
    pub proof: Vec<Hash>,
    /// The signed note.
    pub checkpoint: String,
}

/// What a bundle proves.
#[derive(Clone, Debug)]
pub struct Proven {
    /// The tree that the receipt is in.
    pub checkpoint: Checkpoint,
    /// What it says.
    pub receipt: serde_json::Value,
}

/// Why a bundle proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Larger than any.
    #[error("larger than {BUNDLE_MAX} bytes")]
    TooLong,
    /// Not of this form.
    #[error("line {line}: {what}")]
    Malformed {
        /// From 1.
        line: usize,
        /// What should be there.
        what: &'static str,
    },
    /// Its checkpoint is not believed.
    #[error("the checkpoint: {0}")]
    Checkpoint(#[from] NoteError),
    /// The receipt is not in that tree at that place.
    #[error("the receipt is not number {index} of the {size} receipts that were signed")]
    NotThere {
        /// Claimed place.
        index: u64,
        /// Receipts under the checkpoint.
        size: u64,
    },
    /// What is in the tree is no receipt.
    #[error("what is proven is no receipt: {0}")]
    Receipt(#[from] ParseError),
}

/// Why there is no bundle of a receipt.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The checkpoint is not believed.
    #[error("{path}: {source}")]
    Checkpoint {
        /// Which.
        path: PathBuf,
        /// Why.
        source: NoteError,
    },
    /// No checkpoint covers it.
    #[error(
        "receipt {index} is not signed yet, or is none: {size} are (a checkpoint follows within a second or so)"
    )]
    NotSigned {
        /// Asked for.
        index: u64,
        /// Receipts under the checkpoint.
        size: u64,
    },
    /// It was taken out of the log.
    #[error("receipt {index} was pruned: the first that is there is {first}")]
    Pruned {
        /// Asked for.
        index: u64,
        /// The first that is there.
        first: u64,
    },
    /// A segment is damaged.
    #[error("{path}: {source}: see `aarm verify`")]
    Segment {
        /// Which.
        path: PathBuf,
        /// Why.
        source: SegmentError,
    },
    /// The receipts are not those that were signed.
    #[error("the log's receipts are not those that were signed: see `aarm verify`")]
    Tampered,
}

impl From<ReadError> for ProveError {
    fn from(e: ReadError) -> Self {
        match e {
            ReadError::Io { path, source } => Self::Io { path, source },
            ReadError::Segment { path, source } => Self::Segment { path, source },
        }
    }
}

fn base64<const N: usize>(text: &str) -> Option<[u8; N]> {
    BASE64.decode(text).ok()?.try_into().ok()
}

impl Bundle {
    /// Makes the bundle of a log's receipt under the checkpoint that most witnesses have cosigned, or the newest if none has: from tiles where they
    /// prove it, otherwise by reading the whole log.
    pub fn make(log: impl Source, trusted: &TrustedKeys, index: u64) -> Result<Self, ProveError> {
        let log: &dyn Source = &log;
        let (newest, text) = newest(log, trusted)?;
        let witnessed = witnessed::most(log, trusted, index..newest.size);
        let (head, text) = witnessed.unwrap_or((newest, text));
        Self::under(log, trusted.origin(), index, &head, text)
    }

    /// The same under a checkpoint that is believed.
    pub(crate) fn under(
        log: &dyn Source,
        origin: &str,
        index: u64,
        head: &Checkpoint,
        text: String,
    ) -> Result<Self, ProveError> {
        let not_signed = ProveError::NotSigned { index, size: head.size };
        let wanted = proof::inclusion(index, head.size).ok_or(not_signed)?;
        let origin = origin_hash(origin);
        let receipt = find(log, &origin, index)?.ok_or(ProveError::Tampered)?;
        let leaf = merkle::leaf(&receipt);
        let proves = |proof: &[Hash]| proof::root(&leaf, index, head.size, proof) == Some(head.root);
        let mut tiles = Tiles::new(log, head.size);
        let hashes: Option<Vec<Hash>> = wanted.iter().map(|range| tiles.subtree(range)).collect();
        let proof = match hashes.filter(|proof| proves(proof)) {
            Some(proof) => proof,
            None => scan(log, &origin, &wanted)?,
        };
        if !proves(&proof) {
            return Err(ProveError::Tampered);
        }
        Ok(Self { receipt, index, proof, checkpoint: text })
    }

    /// Reads the textual form strictly: there is one for each bundle.
    pub fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        if bytes.len() > BUNDLE_MAX {
            return Err(BundleError::TooLong);
        }
        let malformed = |line: usize, what| BundleError::Malformed { line, what };
        let text = std::str::from_utf8(bytes).map_err(|_| malformed(1, "text"))?;
        let (head, checkpoint) =
            text.split_once("\n\n").ok_or(malformed(1, "an empty line before a checkpoint"))?;
        let mut lines = head.split('\n');
        if lines.next() != Some(MAGIC) {
            return Err(malformed(1, MAGIC));
        }
        let receipt = lines.next().and_then(|line| BASE64.decode(line.strip_prefix("extra ")?).ok());
        let receipt = receipt.filter(|r| !r.is_empty() && r.len() <= MAX_RECEIPT);
        let receipt = receipt.ok_or(malformed(2, "`extra`, and a receipt in base64"))?;
        let index = lines.next().and_then(|line| {
            let digits = line.strip_prefix("index ")?;
            digits.parse::<u64>().ok().filter(|index| index.to_string() == digits)
        });
        let index = index.ok_or(malformed(3, "`index`, and a number"))?;
        let mut proof = Vec::new();
        for (i, line) in lines.enumerate() {
            if proof.len() == PROOF_MAX {
                return Err(malformed(4 + i, "an empty line: no proof has so many hashes"));
            }
            proof.push(base64(line).ok_or(malformed(4 + i, "a hash in base64"))?);
        }
        Ok(Self { receipt, index, proof, checkpoint: checkpoint.to_owned() })
    }

    /// Checks it with the log's public keys.
    pub fn verify(&self, trusted: &TrustedKeys) -> Result<Proven, BundleError> {
        let checkpoint = trusted.open(self.checkpoint.as_bytes())?;
        let leaf = merkle::leaf(&self.receipt);
        if proof::root(&leaf, self.index, checkpoint.size, &self.proof) != Some(checkpoint.root) {
            return Err(BundleError::NotThere { index: self.index, size: checkpoint.size });
        }
        Ok(Proven { receipt: receipt::parse(&self.receipt)?, checkpoint })
    }
}

impl fmt::Display for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{MAGIC}\nextra {}\nindex {}", BASE64.encode(&self.receipt), self.index)?;
        self.proof.iter().try_for_each(|hash| writeln!(f, "{}", BASE64.encode(hash)))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

/// The log's newest checkpoint, and its note.
pub(crate) fn newest(log: &dyn Source, trusted: &TrustedKeys) -> Result<(Checkpoint, String), ProveError> {
    let path = log.path("checkpoint");
    let note =
        log.read("checkpoint", NOTE_MAX).map_err(|source| ProveError::Io { path: path.clone(), source })?;
    let signed = |source| ProveError::Checkpoint { path: path.clone(), source };
    let checkpoint = trusted.open(&note).map_err(signed)?;
    Ok((checkpoint, String::from_utf8(note).map_err(|_| signed(NoteError::Malformed))?))
}

/// The segments by number and name.
fn segments(log: &dyn Source) -> Result<Vec<(u64, String)>, ProveError> {
    segment::list(log).map_err(|source| ProveError::Io { path: log.path(""), source })
}

/// A receipt by its place, without reading segments before its own.
fn find(log: &dyn Source, origin: &Hash, index: u64) -> Result<Option<Vec<u8>>, ProveError> {
    let all = segments(log)?;
    let (at, first) = read::begin(log, &all, index)?;
    let Some((_, name)) = all.get(at) else { return Ok(None) };
    if first > index {
        return Err(ProveError::Pruned { index, first });
    }
    let mut found = None;
    each(log, name, first, origin, |at, receipt| {
        if at == index {
            found = Some(receipt.to_vec());
        }
        at < index
    })?;
    Ok(found)
}

/// Hashes of subtrees, from the receipts.
fn scan(log: &dyn Source, origin: &Hash, wanted: &[Range<u64>]) -> Result<Vec<Hash>, ProveError> {
    let mut trees = vec![Tree::default(); wanted.len()];
    for (_, name) in segments(log)? {
        let first = segment::first(log, &name)
            .map_err(|source| ProveError::Segment { path: log.path(&name), source })?;
        each(log, &name, first, origin, |at, receipt| {
            if let Some(of) = wanted.iter().position(|range| range.contains(&at)) {
                trees[of].push(merkle::leaf(receipt));
            }
            true
        })?;
    }
    Ok(trees.iter().map(Tree::root).collect())
}

/// The receipts of a segment, by their places, while `f` asks for more.
fn each(
    log: &dyn Source,
    name: &str,
    first: u64,
    origin: &Hash,
    mut f: impl FnMut(u64, &[u8]) -> bool,
) -> Result<(), ProveError> {
    let failed = |source| ProveError::Segment { path: log.path(name), source };
    let mut scanner = Scanner::open(log, name, first, origin).map_err(failed)?;
    let mut at = first;
    while let Some((kind, bytes)) = scanner.next_record().map_err(failed)? {
        if matches!(kind, Kind::Receipt) {
            if !f(at, bytes) {
                return Ok(());
            }
            at += 1;
        }
    }
    Ok(())
}
