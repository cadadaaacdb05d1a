//! What witnesses have said of a log, kept beside it: of each the newest checkpoint that it has cosigned.
//!
//! ```text
//! <log>/witnessed/<id of the witness's key, hex>   a checkpoint's note, with the log's signature and the witness's
//! ```
//! Nothing but verification depends on it. Must never: keep what is not signed by both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::cosign::{COSIGNERS_MAX, CosignerKey, cosigned};
use crate::note::{Checkpoint, NOTE_MAX, NoteError};
use crate::placing;
use crate::source::Source;
use crate::trust::TrustedKeys;

/// The directory.
pub const DIR: &str = "witnessed";

/// A checkpoint that a witness has cosigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witnessed {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// When, in seconds since 1970, by the witness's clock.
    pub seconds: u64,
    /// The note with both signatures.
    pub note: String,
}

impl Witnessed {
    /// Reads a note that a log and a witness have signed.
    pub fn open(note: &[u8], log: &TrustedKeys, witness: &CosignerKey) -> Result<Self, NoteError> {
        let checkpoint = log.open(note)?;
        let seconds = match cosigned(note, &checkpoint, std::slice::from_ref(witness))?.first() {
            Some((_, seconds)) => *seconds,
            None => return Err(NoteError::NotSigned),
        };
        let note = std::str::from_utf8(note).map_err(|_| NoteError::Malformed)?.to_owned();
        Ok(Self { checkpoint, seconds, note })
    }

    /// A log's note and what a witness answered to it. Of the answer nothing but the witness's own lines is kept.
    pub fn join(
        note: &str,
        answer: &str,
        log: &TrustedKeys,
        witness: &CosignerKey,
    ) -> Result<Self, NoteError> {
        let own = format!("\u{2014} {} ", witness.name);
        let lines = answer.split_inclusive('\n').filter(|line| line.starts_with(&own));
        let joined: String = std::iter::once(note).chain(lines).collect();
        Self::open(joined.as_bytes(), log, witness)
    }

    /// What is kept of a witness beside a log. `None`: nothing yet.
    pub fn read(
        from: impl Source,
        log: &TrustedKeys,
        witness: &CosignerKey,
    ) -> Result<Option<Self>, ReadError> {
        let name = name(witness);
        let path = from.path(&name);
        match from.read(&name, NOTE_MAX) {
            Ok(note) => {
                Self::open(&note, log, witness).map(Some).map_err(|source| ReadError::Note { path, source })
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ReadError::Io { path, source }),
        }
    }

    /// Keeps it beside a log, durably: whole, or what was there before.
    pub fn place(&self, dir: &Path, witness: &CosignerKey) -> std::io::Result<()> {
        std::fs::create_dir_all(dir.join(DIR))?;
        placing::durable(&dir.join(name(witness)), self.note.as_bytes())
    }
}

/// Why it is not known what a witness has said.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what both have signed.
    #[error("{path}: {source}")]
    Note {
        /// The file.
        path: PathBuf,
        /// Why.
        source: NoteError,
    },
}

fn name(witness: &CosignerKey) -> String {
    let id: String = witness.id.iter().map(|b| format!("{b:02x}")).collect();
    file(&id)
}

/// The file of the witness whose key has this id.
pub(crate) fn file(id: &str) -> String {
    format!("{DIR}/{id}")
}

/// Whether a file of the directory may have this name.
pub(crate) fn is_id(name: &str) -> bool {
    name.len() == 8 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The checkpoint that most witnesses have cosigned, of those with a receipt of this index and not more than so many; of several the newest. A
/// note with the log's signature and theirs. Whose they are, who verifies looks.
pub(crate) fn most(
    from: impl Source,
    log: &TrustedKeys,
    receipts: std::ops::Range<u64>,
) -> Option<(Checkpoint, String)> {
    let mut found: BTreeMap<u64, (Checkpoint, String, usize)> = BTreeMap::new();
    for id in from.names(DIR).ok()?.iter().take(COSIGNERS_MAX) {
        let note = from.read(&file(id), NOTE_MAX).ok();
        let Some(note) = note.and_then(|note| String::from_utf8(note).ok()) else { continue };
        let Ok(checkpoint) = log.open(note.as_bytes()) else { continue };
        if checkpoint.size <= receipts.start || checkpoint.size > receipts.end {
            continue;
        }
        match found.get_mut(&checkpoint.size) {
            None => _ = found.insert(checkpoint.size, (checkpoint, note, 1)),
            Some((other, all, witnesses)) if *other == checkpoint => {
                let lines = note.rsplit_once("\n\n").map_or("", |(_, lines)| lines);
                for line in lines.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
                    if !all.contains(line) {
                        all.push_str(line);
                    }
                }
                *witnesses += 1;
            }
            // Two trees of one size: verification finds it.
            Some(_) => {}
        }
    }
    let best = found.into_values().max_by_key(|(checkpoint, _, witnesses)| (*witnesses, checkpoint.size))?;
    (best.1.len() <= NOTE_MAX).then_some((best.0, best.1))
}
