//! Cosignatures of checkpoints (`c2sp.org/tlog-cosignature`, Ed25519): that somebody else saw a log, when, and always the same one.
//!
//! ```text
//! — <cosigner's name> <base64 of key id (4 bytes), seconds since 1970 (8, big-endian), signature (64)>
//! ```
//! The signature is over `cosignature/v1`, `time <seconds>`, a line each, and the checkpoint's text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::note::{self, Checkpoint, NamedKey, NoteError};

/// In a verifier key, and its id.
const COSIGNATURE_TYPE: u8 = 4;
/// Most cosigners that a verifier knows.
pub const COSIGNERS_MAX: usize = 64;

/// A key that cosigns checkpoints.
pub type CosignerKey = NamedKey<COSIGNATURE_TYPE>;

impl CosignerKey {
    /// Reads those of several, one a line; empty lines and those that begin with `#` are none.
    pub fn parse_all(text: &str) -> Option<Vec<Self>> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let all: Vec<Self> = lines.map(Self::parse).collect::<Option<_>>()?;
        // A key that is there twice would count twice.
        let once = all
            .iter()
            .enumerate()
            .all(|(i, k)| all[..i].iter().all(|other| other.key != k.key && other.name != k.name));
        (once && !all.is_empty() && all.len() <= COSIGNERS_MAX).then_some(all)
    }
}

/// What is signed.
fn message(checkpoint: &Checkpoint, seconds: u64) -> String {
    format!("cosignature/v1\ntime {seconds}\n{}", checkpoint.text())
}

/// Who cosigns.
pub struct Cosigner {
    pair: Ed25519KeyPair,
    key: CosignerKey,
}

impl Cosigner {
    /// By a name that is a URL without scheme, or like one. `None`: no name has blanks or `+`.
    pub fn new(name: &str, pair: Ed25519KeyPair) -> Option<Self> {
        let mut public = [0; 32];
        public.copy_from_slice(pair.public_key().as_ref());
        note::is_name(name).then(|| Self { key: CosignerKey::new(name, public), pair })
    }

    /// For verifiers.
    pub fn key(&self) -> &CosignerKey {
        &self.key
    }

    /// The line that is added to the checkpoint's note, with its end.
    pub fn cosign(&self, checkpoint: &Checkpoint, seconds: u64) -> String {
        let signature = self.pair.sign(message(checkpoint, seconds).as_bytes());
        let bytes = [&self.key.id[..], &seconds.to_be_bytes(), signature.as_ref()].concat();
        format!("\u{2014} {} {}\n", self.key.name, BASE64.encode(bytes))
    }
}

/// Who has cosigned a checkpoint, and when (seconds since 1970), of those that are known: each once, with its newest. Lines of others are not
/// looked at; one that claims to be of a known one and is not is an error.
pub fn cosigned<'a>(
    note: &[u8],
    checkpoint: &Checkpoint,
    known: &'a [CosignerKey],
) -> Result<Vec<(&'a CosignerKey, u64)>, NoteError> {
    let mut found: Vec<(&CosignerKey, u64)> = Vec::new();
    for (name, id, rest) in note::signatures(note)? {
        let Some(key) = known.iter().find(|key| key.name == name && key.id == id) else { continue };
        let Some((seconds, signature)) = rest.split_first_chunk::<8>() else {
            return Err(NoteError::WrongSignature);
        };
        let seconds = u64::from_be_bytes(*seconds);
        let text = message(checkpoint, seconds);
        let right = key.verify(text.as_bytes(), signature);
        if !right || i64::try_from(seconds).is_err() {
            return Err(NoteError::WrongSignature);
        }
        match found.iter_mut().find(|(other, _)| *other == key) {
            Some((_, newest)) => *newest = seconds.max(*newest),
            None => found.push((key, seconds)),
        }
    }
    Ok(found)
}
