//! The two signing keys: one for checkpoints, one for receipts that carry their own signature.
//!
//! ```text
//! <keys>/log.pk8, <keys>/receipt.pk8   PKCS#8, mode 0600, directory 0700
//! <log>/log.pub                        both public keys as verifier keys, one a line
//! ```

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::note::VerifierKey;

/// Largest key file read.
const KEY_MAX: u64 = 4096;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file or directory cannot be used.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Somebody else could read or write the key.
    #[error(
        "{path} can be read or written by others (mode {mode:o}): chmod 600 it if its content is still secret"
    )]
    Permissions {
        /// The key.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Not a key.
    #[error("{0} is not an Ed25519 key in PKCS#8")]
    Malformed(PathBuf),
    /// The random number generator failed.
    #[error("no random numbers to be had")]
    Random,
}

/// The signing keys.
pub struct Keys {
    pub(crate) log: Ed25519KeyPair,
    pub(crate) receipt: Ed25519KeyPair,
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> KeyError {
    let path = path.to_path_buf();
    move |source| KeyError::Io { path, source }
}

fn public(pair: &Ed25519KeyPair) -> [u8; 32] {
    let mut key = [0; 32];
    key.copy_from_slice(pair.public_key().as_ref());
    key
}

impl Keys {
    /// Opens the keys in a directory, making those that are not there. Says whether any was made.
    pub fn open_or_create(dir: &Path) -> Result<(Self, bool), KeyError> {
        if let Err(e) = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir) {
            return Err(io(dir)(e));
        }
        let (log, a) = open_or_create(&dir.join("log.pk8"))?;
        let (receipt, b) = open_or_create(&dir.join("receipt.pk8"))?;
        Ok((Self { log, receipt }, a || b))
    }

    /// Keys from fixed seeds, for tests and benchmarks.
    #[doc(hidden)]
    pub fn from_seeds(log: [u8; 32], receipt: [u8; 32]) -> Option<Self> {
        let pair = |seed: [u8; 32]| Ed25519KeyPair::from_seed_unchecked(&seed).ok();
        Some(Self { log: pair(log)?, receipt: pair(receipt)? })
    }

    /// The public keys of a log with this origin.
    pub fn trusted(&self, origin: &str) -> TrustedKeys {
        TrustedKeys {
            log: VerifierKey::new(origin, public(&self.log)),
            receipt: VerifierKey::new(&receipt_name(origin), public(&self.receipt)),
        }
    }
}

/// Name under which receipts themselves are signed.
fn receipt_name(origin: &str) -> String {
    format!("{origin}/receipt")
}

/// Opens a key, making it if it is not there. Says whether it was made.
pub(crate) fn open_or_create(path: &Path) -> Result<(Ed25519KeyPair, bool), KeyError> {
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return create(path).map(|k| (k, true)),
        Err(e) => return Err(io(path)(e)),
    };
    if !meta.is_file() || meta.len() > KEY_MAX {
        return Err(KeyError::Malformed(path.to_path_buf()));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(KeyError::Permissions { path: path.to_path_buf(), mode: meta.mode() & 0o7777 });
    }
    let bytes = std::fs::read(path).map_err(io(path))?;
    let pair = Ed25519KeyPair::from_pkcs8(&bytes).map_err(|_| KeyError::Malformed(path.to_path_buf()))?;
    Ok((pair, false))
}

/// Makes a key: whole under its name, or not there.
fn create(path: &Path) -> Result<Ed25519KeyPair, KeyError> {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeyError::Random)?;
    let temporary = path.with_extension("new");
    let _ = std::fs::remove_file(&temporary);
    let mut file = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(io(&temporary))?;
    file.write_all(document.as_ref()).and_then(|()| file.sync_all()).map_err(io(&temporary))?;
    std::fs::rename(&temporary, path).map_err(io(path))?;
    if let Some(dir) = path.parent() {
        std::fs::File::open(dir).and_then(|d| d.sync_all()).map_err(io(dir))?;
    }
    Ed25519KeyPair::from_pkcs8(document.as_ref()).map_err(|_| KeyError::Malformed(path.to_path_buf()))
}

/// What a verifier believes: both public keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedKeys {
    /// Signs checkpoints; its name is the log's origin.
    pub log: VerifierKey,
    /// Signs single receipts.
    pub receipt: VerifierKey,
}

impl TrustedKeys {
    /// Reads the text of `log.pub`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines().filter(|l| !l.trim().is_empty());
        let (log, receipt) = (VerifierKey::parse(lines.next()?)?, VerifierKey::parse(lines.next()?)?);
        (lines.next().is_none() && receipt.name == receipt_name(&log.name)).then_some(Self { log, receipt })
    }
}

impl std::fmt::Display for TrustedKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}\n{}", self.log, self.receipt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn keys_are_made_once_and_refused_when_others_can_read_them() {
        let dir = tempfile::tempdir().unwrap();
        let (a, made) = Keys::open_or_create(dir.path()).unwrap();
        let (b, again) = Keys::open_or_create(dir.path()).unwrap();
        assert!(made && !again);
        assert_eq!(a.trusted("x"), b.trusted("x"));
        assert_eq!(TrustedKeys::parse(&a.trusted("x").to_string()), Some(a.trusted("x")));
        let key = dir.path().join("log.pk8");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Keys::open_or_create(dir.path()), Err(KeyError::Permissions { .. })));
    }
}
