//! A witness (`c2sp.org/tlog-witness`): remembers of each log the newest checkpoint it has seen, and cosigns only what goes on from there.
//!
//! ```text
//! POST add-checkpoint        old <size>\n [<base64 of a proof's hash>\n]... \n <checkpoint>
//! 200  cosignatures          403 not signed by the log's key        404 no log that it knows      400 not a request
//! 409  its size for the log  422 the proof is wrong                 500 it cannot remember
//!
//! <state>/<hex of SHA-256 of the origin>     the checkpoint that was cosigned last, durable before it is answered
//! ```
//! Promises: of one log it never cosigns two histories, whatever it is sent and whenever it is ended. Must never: begin anew with a log whose
//! state it cannot read.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::cosign::Cosigner;
use crate::log::origin_hash;
use crate::merkle::Hash;
use crate::note::{Checkpoint, NOTE_MAX, NoteError, VerifierKey};
use crate::proof;

/// Most hashes of a proof, as the specification has it.
const PROOF_MAX: usize = 63;
/// Largest request, in bytes.
pub const REQUEST_MAX: usize = NOTE_MAX + PROOF_MAX * 45 + 64;
/// Largest answer that a client reads, in bytes.
pub const ANSWER_MAX: usize = 16 << 10;
/// Type of an answer that is a size.
pub const SIZE_TYPE: &str = "text/x.tlog.size";

/// Why a witness cannot be one.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// Its state cannot be used.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process uses it.
    #[error("{0} is used by another witness")]
    Locked(PathBuf),
    /// What it remembers of a log is not a checkpoint of that log.
    #[error("{path}: {source}: what was cosigned last is not known. Restore it; never remove it")]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: NoteError,
    },
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Text: cosignatures, a size, or what is wrong.
    pub body: String,
}

/// A witness.
pub struct Witness {
    dir: PathBuf,
    cosigner: Cosigner,
    logs: Vec<VerifierKey>,
    /// One request at a time looks and remembers.
    turn: Mutex<()>,
    _lock: File,
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> WitnessError {
    let path = path.to_path_buf();
    move |source| WitnessError::Io { path, source }
}

impl Witness {
    /// One that keeps its state in `dir`, which is made if need be, and cosigns checkpoints of these logs. What it remembers is read once, to
    /// find out early that it cannot be.
    pub fn open(dir: &Path, cosigner: Cosigner, logs: Vec<VerifierKey>) -> Result<Self, WitnessError> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io(dir))?;
        let path = dir.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = lock.map_err(io(&path))?;
        // SAFETY: a valid descriptor.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            return Err(WitnessError::Locked(dir.to_path_buf()));
        }
        let witness = Self { dir: dir.to_path_buf(), cosigner, logs, turn: Mutex::new(()), _lock: lock };
        witness.logs.iter().try_for_each(|log| witness.last(log).map(drop))?;
        Ok(witness)
    }

    /// Its public key.
    pub fn cosigner(&self) -> &Cosigner {
        &self.cosigner
    }

    fn path(&self, log: &VerifierKey) -> PathBuf {
        let hex: String = origin_hash(&log.name).iter().map(|b| format!("{b:02x}")).collect();
        self.dir.join(hex)
    }

    /// What was cosigned last of a log.
    fn last(&self, log: &VerifierKey) -> Result<Option<Checkpoint>, WitnessError> {
        let path = self.path(log);
        match std::fs::read(&path) {
            Ok(note) => {
                Checkpoint::open(&note, log).map(Some).map_err(|source| WitnessError::State { path, source })
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io(&path)(e)),
        }
    }

    fn remember(&self, log: &VerifierKey, note: &[u8]) -> Result<(), WitnessError> {
        let path = self.path(log);
        let temporary = path.with_extension("new");
        let mut file = File::create(&temporary).map_err(io(&temporary))?;
        file.write_all(note).and_then(|()| file.sync_all()).map_err(io(&temporary))?;
        std::fs::rename(&temporary, &path).map_err(io(&path))?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(io(&self.dir))
    }

    /// Answers a request to cosign. `seconds`: now, since 1970.
    pub fn add_checkpoint(&self, request: &[u8], seconds: u64) -> Answer {
        let answer = |status, body: &str| Answer { status, body: format!("{body}\n") };
        let Some(request) = Request::parse(request) else {
            return answer(400, "not a request to add a checkpoint (c2sp.org/tlog-witness)");
        };
        let origin = request.checkpoint.lines().next().unwrap_or_default();
        let Some(log) = self.logs.iter().find(|log| log.name == origin) else {
            return answer(404, "no log that this witness knows");
        };
        let note = request.checkpoint.as_bytes();
        let new = match Checkpoint::open(note, log) {
            Ok(new) => new,
            Err(NoteError::Malformed | NoteError::OtherOrigin) => return answer(400, "not a checkpoint"),
            Err(e) => return answer(403, &e.to_string()),
        };
        if request.old > new.size {
            return answer(400, "the old size is larger than the checkpoint's");
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let last = match self.last(log) {
            Ok(last) => last,
            Err(e) => return answer(500, &e.to_string()),
        };
        let size = last.as_ref().map_or(0, |last| last.size);
        let conflict = || answer(409, &size.to_string());
        if request.old != size {
            return conflict();
        }
        if let Some(last) = last {
            if last.size == new.size && last.root != new.root {
                return conflict();
            }
            if !proof::is_consistent((last.size, &last.root), (new.size, &new.root), &request.proof) {
                return answer(422, "the checkpoint does not go on from the one before");
            }
        } else if !request.proof.is_empty() {
            return answer(422, "a proof, where there is nothing before");
        }
        match self.remember(log, note) {
            Ok(()) => Answer { status: 200, body: self.cosigner.cosign(&new, seconds) },
            Err(e) => answer(500, &e.to_string()),
        }
    }
}

/// A request to cosign a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Receipts under the checkpoint that the witness saw last; 0: none.
    pub old: u64,
    /// That the new one goes on from there; see [`proof::consistency`].
    pub proof: Vec<Hash>,
    /// The new one: a signed note.
    pub checkpoint: String,
}

impl Request {
    /// Reads one strictly.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= REQUEST_MAX)?;
        let (head, checkpoint) = text.split_once("\n\n")?;
        let mut lines = head.split('\n');
        let digits = lines.next()?.strip_prefix("old ")?;
        let old = digits.parse::<u64>().ok().filter(|n| n.to_string() == digits)?;
        let hash = |line: &str| BASE64.decode(line).ok()?.try_into().ok();
        let proof: Vec<Hash> = lines.map(hash).collect::<Option<_>>()?;
        (proof.len() <= PROOF_MAX).then(|| Self { old, proof, checkpoint: checkpoint.to_owned() })
    }
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "old {}", self.old)?;
        self.proof.iter().try_for_each(|hash| writeln!(f, "{}", BASE64.encode(hash)))?;
        write!(f, "\n{}", self.checkpoint)
    }
}
