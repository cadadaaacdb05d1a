//! The two signing keys: one for checkpoints, one for receipts that carry their own signature; and those that will take their place.
//!
//! ```text
//! <keys>/log.pk8, <keys>/receipt.pk8   PKCS#8, DER or PEM, mode 0600, directory 0700
//! <keys>/next/                         the same two, from when they are made until the log has been told of them
//! ```
//! Must never: leave a key where others can read it, or be without the old ones before the log has the new ones.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::note::VerifierKey;
use crate::trust::{Epoch, TrustedKeys, receipt_name};

/// Largest key file read.
pub const KEY_MAX: u64 = 4096;
const LOG: &str = "log.pk8";
const RECEIPT: &str = "receipt.pk8";
const NEXT: &str = "next";

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
    #[error("{0} is not an Ed25519 key in PKCS#8, DER or PEM")]
    Malformed(PathBuf),
    /// There are new keys already.
    #[error(
        "{0} has keys already that the daemon takes when it starts next: restart it, or forget them (`aarm keys forget`)"
    )]
    Prepared(PathBuf),
    /// The random number generator failed.
    #[error("no random numbers to be had")]
    Random,
}

/// The signing keys.
pub struct Keys {
    pub(crate) log: Ed25519KeyPair,
    pub(crate) receipt: Ed25519KeyPair,
    /// Those that are to take their place, and the directory of both.
    next: Option<(Box<Keys>, PathBuf)>,
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
        make_dir(dir)?;
        let next = dir.join(NEXT);
        if next.exists() && !next.join(LOG).exists() {
            // The one is in its place already.
            take_next(dir)?;
        }
        let (mut keys, made) = Self::in_dir(dir)?;
        if next.exists() {
            keys.next = Some((Box::new(Self::in_dir(&next)?.0), dir.to_path_buf()));
        }
        Ok((keys, made))
    }

    fn in_dir(dir: &Path) -> Result<(Self, bool), KeyError> {
        let (log, a) = open_or_create(&dir.join(LOG))?;
        let (receipt, b) = open_or_create(&dir.join(RECEIPT))?;
        Ok((Self { log, receipt, next: None }, a || b))
    }

    /// Keys from fixed seeds, for tests and benchmarks.
    #[doc(hidden)]
    pub fn from_seeds(log: [u8; 32], receipt: [u8; 32]) -> Option<Self> {
        let pair = |seed: [u8; 32]| Ed25519KeyPair::from_seed_unchecked(&seed).ok();
        Some(Self { log: pair(log)?, receipt: pair(receipt)?, next: None })
    }

    /// The public keys of a log with this origin that was never signed by others.
    pub fn trusted(&self, origin: &str) -> TrustedKeys {
        let Epoch { log, receipt, .. } = self.epoch(origin, 0);
        TrustedKeys::first(log, receipt)
    }

    /// The public keys as those of receipts from `since` on.
    pub(crate) fn epoch(&self, origin: &str, since: u64) -> Epoch {
        let log = VerifierKey::new(origin, public(&self.log));
        Epoch { since, log, receipt: VerifierKey::new(&receipt_name(origin), public(&self.receipt)) }
    }

    /// Those that are to take their place.
    pub(crate) fn next(&self) -> Option<&Self> {
        self.next.as_ref().map(|(keys, _)| keys.as_ref())
    }

    /// Has them take it; the old ones are gone then. Without any, nothing is done.
    pub(crate) fn take_next(&mut self) -> Result<(), KeyError> {
        if let Some((next, dir)) = self.next.take() {
            take_next(&dir)?;
            *self = *next;
        }
        Ok(())
    }
}

/// Keys that somebody brings.
#[derive(Clone, Copy, Debug, Default)]
pub struct Brought<'a> {
    /// For checkpoints; one is made if there is none.
    pub log: Option<&'a [u8]>,
    /// For receipts; likewise.
    pub receipt: Option<&'a [u8]>,
}

/// Prepares keys that take the place of those in `dir` when the log is opened next. What they are, as public keys of a log with this origin.
pub fn prepare(dir: &Path, brought: Brought<'_>, origin: &str) -> Result<Epoch, KeyError> {
    let next = dir.join(NEXT);
    if next.exists() {
        return Err(KeyError::Prepared(next));
    }
    let making = dir.join("next.new");
    if making.exists() {
        // Somebody was interrupted.
        std::fs::remove_dir_all(&making).map_err(io(&making))?;
    }
    make_dir(&making)?;
    let place = |name, bytes: Option<&[u8]>| match bytes {
        Some(bytes) => {
            let path = making.join(name);
            let pair = parse(bytes).ok_or_else(|| KeyError::Malformed(path.clone()))?;
            write(&path, bytes).map(|()| pair)
        }
        None => create(&making.join(name)),
    };
    let (log, receipt) = (place(LOG, brought.log)?, place(RECEIPT, brought.receipt)?);
    let epoch = Keys { log, receipt, next: None }.epoch(origin, 0);
    std::fs::rename(&making, &next).map_err(io(&next))?;
    sync(dir)?;
    Ok(epoch)
}

/// Forgets prepared keys. `false`: there are none.
pub fn forget(dir: &Path) -> Result<bool, KeyError> {
    let next = dir.join(NEXT);
    if !next.join(LOG).exists() {
        return Ok(false);
    }
    std::fs::remove_dir_all(&next).map_err(io(&next))?;
    sync(dir).map(|()| true)
}

/// Puts prepared keys, or what is left of them, where the old ones are.
fn take_next(dir: &Path) -> Result<(), KeyError> {
    let next = dir.join(NEXT);
    for name in [LOG, RECEIPT] {
        let from = next.join(name);
        if from.exists() {
            std::fs::rename(&from, dir.join(name)).map_err(io(&from))?;
            sync(dir)?;
        }
    }
    std::fs::remove_dir(&next).map_err(io(&next))?;
    sync(dir)
}

fn make_dir(dir: &Path) -> Result<(), KeyError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io(dir))
}

fn sync(dir: &Path) -> Result<(), KeyError> {
    std::fs::File::open(dir).and_then(|d| d.sync_all()).map_err(io(dir))
}

/// Reads a key: PKCS#8 (with the public key or without), in DER or in PEM, as `openssl genpkey -algorithm ed25519` writes it.
fn parse(bytes: &[u8]) -> Option<Ed25519KeyPair> {
    let pem = std::str::from_utf8(bytes).ok().and_then(|text| {
        let text = text.trim().strip_prefix("-----BEGIN PRIVATE KEY-----")?;
        let text = text.strip_suffix("-----END PRIVATE KEY-----")?;
        BASE64.decode(text.split_ascii_whitespace().collect::<String>()).ok()
    });
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(pem.as_deref().unwrap_or(bytes)).ok()
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
    Ok((parse(&bytes).ok_or_else(|| KeyError::Malformed(path.to_path_buf()))?, false))
}

/// Makes a key.
fn create(path: &Path) -> Result<Ed25519KeyPair, KeyError> {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeyError::Random)?;
    write(path, document.as_ref())?;
    parse(document.as_ref()).ok_or_else(|| KeyError::Malformed(path.to_path_buf()))
}

/// Writes a key: whole under its name, or not there.
fn write(path: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    let temporary = path.with_extension("new");
    let _ = std::fs::remove_file(&temporary);
    let mut file = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(io(&temporary))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io(&temporary))?;
    std::fs::rename(&temporary, path).map_err(io(path))?;
    path.parent().map_or(Ok(()), sync)
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

    #[test]
    fn keys_of_others_are_taken_as_they_write_them() {
        // As `openssl genpkey -algorithm ed25519` writes it: version 1, without the public key.
        let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB\n-----END PRIVATE KEY-----\n";
        let der = BASE64.decode("MC4CAQAwBQYDK2VwBCIEIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB").unwrap();
        let ours = Keys::from_seeds([1; 32], [2; 32]).unwrap().trusted("x");
        for bytes in [pem.as_bytes(), &der] {
            let dir = tempfile::tempdir().unwrap();
            let epoch = prepare(dir.path(), Brought { log: Some(bytes), receipt: None }, "x").unwrap();
            assert_eq!(epoch.log, ours.latest().log);
            let keys = Keys::open_or_create(dir.path()).unwrap().0;
            assert!(keys.next().unwrap().epoch("x", 0) == epoch);
        }
        let dir = tempfile::tempdir().unwrap();
        for wrong in [&pem.as_bytes()[1..], &der[1..], &der[..47], b""] {
            let brought = Brought { log: None, receipt: Some(wrong) };
            assert!(matches!(prepare(dir.path(), brought, "x"), Err(KeyError::Malformed(_))));
        }
        assert!(!forget(dir.path()).unwrap());
    }

    #[test]
    fn new_keys_take_the_place_of_old_ones_wherever_that_is_interrupted() {
        for done in 0..3 {
            let dir = tempfile::tempdir().unwrap();
            let old = Keys::open_or_create(dir.path()).unwrap().0.trusted("x");
            let new = prepare(dir.path(), Brought::default(), "x").unwrap();
            assert!(matches!(prepare(dir.path(), Brought::default(), "x"), Err(KeyError::Prepared(_))));
            let next = dir.path().join(NEXT);
            for name in [LOG, RECEIPT].iter().take(done) {
                std::fs::rename(next.join(name), dir.path().join(name)).unwrap();
            }
            let mut keys = Keys::open_or_create(dir.path()).unwrap().0;
            assert_eq!(keys.trusted("x") == old, done == 0);
            keys.take_next().unwrap();
            assert_eq!(keys.trusted("x").latest(), &new, "{done}");
            assert!(
                !next.exists()
                    && Keys::open_or_create(dir.path()).unwrap().0.trusted("x") == keys.trusted("x")
            );
        }
    }

    #[test]
    fn prepared_keys_can_be_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let old = Keys::open_or_create(dir.path()).unwrap().0.trusted("x");
        prepare(dir.path(), Brought::default(), "x").unwrap();
        assert!(forget(dir.path()).unwrap() && !forget(dir.path()).unwrap());
        let keys = Keys::open_or_create(dir.path()).unwrap().0;
        assert!(keys.next().is_none() && keys.trusted("x") == old);
    }
}
