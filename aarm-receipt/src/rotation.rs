//! Keys that were exchanged for others: of each exchange what proves it to whoever trusts the keys before.
//!
//! ```text
//! <log>/rotations/<number of receipts before the new keys'>
//! ```
//! is the proof ([`crate::bundle`]) of the last receipt before, of kind `keys`, which names the new ones, under a checkpoint of just so many receipts
//! that is signed by the old key *and* the new one. It stays when that receipt is pruned.
//!
//! Must never: believe a new key that the one before has not signed for, or that has not signed itself.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::bundle::{BUNDLE_MAX, Bundle, BundleError};
use crate::note::{Checkpoint, NoteError, VerifierKey};
use crate::placing;
use crate::source::Source;
use crate::trust::{EPOCHS_MAX, Epoch, TrustedKeys};

/// The directory.
pub const DIR: &str = "rotations";
/// Kind of the receipt.
const KIND: &str = "keys";

/// Why an exchange of keys is not believed.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// A file or directory cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A name that is no number, or more than there can be.
    #[error("{0} is no exchange of keys")]
    Name(PathBuf),
    /// It is not proven by the keys before.
    #[error("{path}: {source}")]
    Proof {
        /// The file.
        path: PathBuf,
        /// Why.
        source: BundleError,
    },
    /// The new key has not signed.
    #[error("{path}: the new key: {source}")]
    New {
        /// The file.
        path: PathBuf,
        /// Why.
        source: NoteError,
    },
    /// It proves something else.
    #[error("{0} does not prove that the log's keys were exchanged there")]
    Other(PathBuf),
}

/// The file of an exchange.
fn file(since: u64) -> String {
    format!("{DIR}/{since}")
}

/// Keeps the proof beside a log, durably.
pub(crate) fn place(dir: &Path, since: u64, proof: &Bundle) -> std::io::Result<()> {
    std::fs::create_dir_all(dir.join(DIR))?;
    placing::sync_all(&File::open(dir)?)?;
    placing::durable(&dir.join(file(since)), proof.to_string().as_bytes())
}

/// Where the new keys begin, of each exchange that a log tells of.
fn list(log: &dyn Source) -> Result<BTreeSet<u64>, RotationError> {
    let names = match log.names(DIR) {
        Ok(names) => names,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(source) => return Err(RotationError::Io { path: log.path(DIR), source }),
    };
    let mut all = BTreeSet::new();
    // One that ends so is being placed, or never was.
    for name in names.iter().filter(|name| !name.ends_with(".new")) {
        let since =
            name.parse::<u64>().ok().filter(|since| since.to_string() == *name && all.len() < EPOCHS_MAX);
        let since = since.ok_or_else(|| RotationError::Name(log.path(&format!("{DIR}/{name}"))))?;
        all.insert(since);
    }
    Ok(all)
}

/// The file of an exchange, and what it proves, which is not checked here.
pub(crate) fn proof(log: &dyn Source, since: u64) -> Result<(String, Bundle), RotationError> {
    let name = file(since);
    let path = || log.path(&name);
    let bytes = log.read(&name, BUNDLE_MAX).map_err(|source| RotationError::Io { path: path(), source })?;
    let proof = Bundle::parse(&bytes).map_err(|source| RotationError::Proof { path: path(), source })?;
    Ok((name, proof))
}

/// The keys that a `keys` receipt names, for the receipts after it.
pub(crate) fn named(since: u64, receipt: &serde_json::Value) -> Option<Epoch> {
    let key = |name| VerifierKey::parse(receipt["detail"][name].as_str()?);
    (receipt["kind"] == KIND).then_some(())?;
    Epoch::new(since, key("checkpoint")?, key("receipt")?)
}

/// What a log's exchanges of keys come to.
#[derive(Clone, Debug)]
pub struct Followed {
    /// The keys that were trusted, and those that they lead to.
    pub keys: TrustedKeys,
    /// The checkpoint of each exchange.
    pub heads: Vec<Checkpoint>,
}

/// Follows the exchanges of a log's keys from those that are trusted.
pub fn follow(log: &dyn Source, trusted: &TrustedKeys) -> Result<Followed, RotationError> {
    let mut keys = trusted.clone();
    let mut heads = Vec::new();
    for since in list(log)? {
        let (name, proof) = proof(log, since)?;
        let path = log.path(&name);
        let proven =
            proof.verify(&keys).map_err(|source| RotationError::Proof { path: path.clone(), source })?;
        let other = || RotationError::Other(path.clone());
        let (head, receipt) = (proven.checkpoint, proven.receipt);
        let is_last = head.size == since && proof.index.checked_add(1) == Some(since);
        let epoch = named(since, &receipt).filter(|_| is_last).ok_or_else(other)?;
        let head = head
            .signed(proof.checkpoint.as_bytes(), &epoch.log)
            .map_err(|source| RotationError::New { path: path.clone(), source })?;
        if !keys.epochs().contains(&epoch) && !keys.push(epoch) {
            return Err(other());
        }
        heads.push(head);
    }
    Ok(Followed { keys, heads })
}
