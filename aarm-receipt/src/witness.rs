//! A witness (`c2sp.org/tlog-witness`): remembers of each log the newest checkpoint it has seen, and cosigns only what goes on from there.
//!
//! ```text
//! POST add-checkpoint        old <size>\n [<base64 of a proof's hash>\n]... \n <checkpoint>
//! 200  cosignatures          403 not signed by the log's key        404 no log that it knows      400 not a request
//! 409  its size for the log  422 the proof is wrong                 500 it cannot remember
//!
//! <state>/<hex of SHA-256 of the origin>     the checkpoint that was cosigned last, durable before it is answered
//! <state>/witness.pk8                        its key (PKCS#8, mode 0600)
//! <state>/witness.pub                        the same for verifiers: its name, and the public key
//! ```
//! Promises: of one log it never cosigns two histories, whatever it is sent and whenever it is ended. Must never: begin anew with a log whose
//! state it cannot read.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::cosign::{Cosigner, CosignerKey};
use crate::keys::{self, KeyError};
use crate::log::origin_hash;
use crate::merkle::Hash;
use crate::note::{Checkpoint, NOTE_MAX, NoteError};
use crate::trust::TrustedKeys;
use crate::{placing, proof};

/// Most hashes of a proof, as the specification has it.
const PROOF_MAX: usize = 63;
/// Largest request, in bytes.
pub const REQUEST_MAX: usize = NOTE_MAX + PROOF_MAX * 45 + 64;
/// Largest answer that a client reads, in bytes.
pub const ANSWER_MAX: usize = 16 << 10;
/// Type of an answer that is a size.
pub const SIZE_TYPE: &str = "text/x.tlog.size";
/// Most logs that a witness knows.
pub const LOGS_MAX: usize = 1 << 16;
/// Longest name of a witness, in bytes.
pub const NAME_MAX: usize = 255;
/// Public form of the key.
const PUBLIC: &str = "witness.pub";

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
    /// It has no key yet.
    #[error("{0} has no witness's key")]
    NoKey(PathBuf),
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Names have no blanks and no `+`.
    #[error("`{0}` is no name of a witness: it has 1 to {NAME_MAX} bytes, no blanks and no `+`")]
    Name(String),
    /// It has another name, or another key, than its public key says.
    #[error("{path} is for another {what}: its name and key are for ever, because verifiers know it by them")]
    Other {
        /// The public key.
        path: PathBuf,
        /// Name or key.
        what: &'static str,
    },
    /// There are too many logs, or two keys of one.
    #[error("{0}")]
    Logs(String),
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
    logs: RwLock<BTreeMap<String, TrustedKeys>>,
    /// One request at a time looks and remembers.
    turn: Mutex<()>,
    _lock: File,
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> WitnessError {
    let path = path.to_path_buf();
    move |source| WitnessError::Io { path, source }
}

/// The key of a witness whose state is in `dir`, made if there is none and it is given a name.
pub fn key(dir: &Path, name: Option<&str>) -> Result<Cosigner, WitnessError> {
    let path = dir.join(PUBLIC);
    let public = match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(io(&path)(e)),
    };
    let known = match &public {
        Some(text) => match CosignerKey::parse(text) {
            Some(key) if name.is_none_or(|name| name == key.name) => Some(key),
            Some(_) => return Err(WitnessError::Other { path, what: "name" }),
            None => return Err(WitnessError::Other { path, what: "witness" }),
        },
        None => None,
    };
    let Some(name) = known.as_ref().map(|key| key.name.as_str()).or(name) else {
        return Err(WitnessError::NoKey(dir.to_path_buf()));
    };
    let bad = || WitnessError::Name(name.to_owned());
    if name.len() > NAME_MAX {
        return Err(bad());
    }
    make(dir)?;
    let (pair, _) = keys::open_or_create(&dir.join("witness.pk8"))?;
    let cosigner = Cosigner::new(name, pair).ok_or_else(bad)?;
    match known {
        Some(key) if key != *cosigner.key() => Err(WitnessError::Other { path, what: "key" }),
        Some(_) => Ok(cosigner),
        None => {
            placing::durable(&path, format!("{}\n", cosigner.key()).as_bytes()).map_err(io(&path))?;
            Ok(cosigner)
        }
    }
}

fn make(dir: &Path) -> Result<(), WitnessError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io(dir))
}

impl Witness {
    /// One that keeps its state in `dir`, which is made if need be, and cosigns checkpoints of these logs. What it remembers is read once, to
    /// find out early that it cannot be.
    pub fn open(dir: &Path, cosigner: Cosigner, logs: Vec<TrustedKeys>) -> Result<Self, WitnessError> {
        make(dir)?;
        let path = dir.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = lock.map_err(io(&path))?;
        // SAFETY: a valid descriptor.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            return Err(WitnessError::Locked(dir.to_path_buf()));
        }
        let (logs_of, turn) = (RwLock::default(), Mutex::new(()));
        let witness = Self { dir: dir.to_path_buf(), cosigner, logs: logs_of, turn, _lock: lock };
        witness.know(logs)?;
        Ok(witness)
    }

    /// Cosigns checkpoints of these logs from now on, and of no others. What is remembered of those that are not among them stays.
    pub fn know(&self, logs: Vec<TrustedKeys>) -> Result<usize, WitnessError> {
        if logs.len() > LOGS_MAX {
            return Err(WitnessError::Logs(format!(
                "{} logs, where a witness knows {LOGS_MAX} at most",
                logs.len()
            )));
        }
        let mut all = BTreeMap::new();
        for log in logs {
            self.last(&log)?;
            // The same key may be given twice; which of two is right is not for us to say.
            if all.get(log.origin()).is_some_and(|other| *other != log) {
                return Err(WitnessError::Logs(format!("there are two keys of the log {}", log.origin())));
            }
            all.insert(log.origin().to_owned(), log);
        }
        let known = all.len();
        *self.logs.write().unwrap_or_else(PoisonError::into_inner) = all;
        Ok(known)
    }

    /// Its public key.
    pub fn cosigner(&self) -> &Cosigner {
        &self.cosigner
    }

    fn path(&self, log: &TrustedKeys) -> PathBuf {
        let hex: String = origin_hash(log.origin()).iter().map(|b| format!("{b:02x}")).collect();
        self.dir.join(hex)
    }

    /// What was cosigned last of a log.
    fn last(&self, log: &TrustedKeys) -> Result<Option<Checkpoint>, WitnessError> {
        let path = self.path(log);
        match std::fs::read(&path) {
            Ok(note) => log.open(&note).map(Some).map_err(|source| WitnessError::State { path, source }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io(&path)(e)),
        }
    }

    /// Answers a request to cosign. `seconds`: now, since 1970.
    pub fn add_checkpoint(&self, request: &[u8], seconds: u64) -> Answer {
        let answer = |status, body: &str| Answer { status, body: format!("{body}\n") };
        let Some(request) = Request::parse(request) else {
            return answer(400, "not a request to add a checkpoint (c2sp.org/tlog-witness)");
        };
        let origin = request.checkpoint.lines().next().unwrap_or_default();
        let log = self.logs.read().unwrap_or_else(PoisonError::into_inner).get(origin).cloned();
        let Some(log) = log else {
            return answer(404, "no log that this witness knows");
        };
        let note = request.checkpoint.as_bytes();
        let new = match log.open(note) {
            Ok(new) => new,
            Err(NoteError::Malformed | NoteError::OtherOrigin) => return answer(400, "not a checkpoint"),
            Err(e) => return answer(403, &e.to_string()),
        };
        if request.old > new.size {
            return answer(400, "the old size is larger than the checkpoint's");
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let last = match self.last(&log) {
            Ok(last) => last,
            Err(e) => return answer(500, &e.to_string()),
        };
        let size = last.as_ref().map_or(0, |last| last.size);
        let conflict = || answer(409, &size.to_string());
        if request.old != size {
            return conflict();
        }
        if let Some(last) = &last {
            if last.size == new.size && last.root != new.root {
                return conflict();
            }
            if !proof::is_consistent((last.size, &last.root), (new.size, &new.root), &request.proof) {
                return answer(422, "the checkpoint does not go on from the one before");
            }
        } else if !request.proof.is_empty() {
            return answer(422, "a proof, where there is nothing before");
        }
        let known = last.as_ref() == Some(&new);
        let remembered = if known { Ok(()) } else { placing::durable(&self.path(&log), note) };
        match remembered {
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
