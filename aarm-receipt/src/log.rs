//! The one writer of a log.
//!
//! ```text
//! <log>/origin                the log's name for ever
//! <log>/log.pub               public keys, for verifiers
//! <log>/policies/             texts of policies that receipts name, see `policies`
//! <log>/rotations/            how they were exchanged, see `rotation`
//! <log>/segment-*.aarm[.zst]  receipts, see `segment`
//! <log>/next.segment          space reserved for the next segment; while the last one is copied, `renewing.segment`
//! <log>/tile/                 the tree's hashes, see `tile`
//! <log>/edge                  what was pruned comes to, see `log/edge`
//! <log>/chains                the chains of sessions that go on, see `log/chains`
//! <log>/index/                what each segment has, see `index`
//! <log>/checkpoint            the last signed tree head
//! <log>/lock                  held by the writer
//! ```
//! Order: append, make durable, place tiles, sign, place the checkpoint, make the directory durable. Never signs what is
//! not durable, nor believes that what another has written is: at the start the last segment is written anew if something in it is not
//! signed. A torn tail beyond the signed size is cut off then and said so; damage below it is never repaired. The oldest segments go when they
//! are too many or too old, if that is asked for, and a receipt says so before.

mod chains;
mod compress;
pub(crate) mod edge;
mod files;
mod prune;
mod recover;
mod rotate;
mod signing;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub use self::compress::{Compressed, compress};
pub use self::prune::{Expired, Retention};
pub use self::signing::Signing;

use self::files::{NEXT, io, no_room, place, renew, reserve, sync_dir};
use self::prune::Sealed;
use self::recover::{read_checkpoint, recover};
use self::rotate::settle;
use crate::bundle::ProveError;
use crate::chain::{self, Chains, Step};
use crate::index;
use crate::keys::{KeyError, Keys};
use crate::merkle::{self, Hash, Tree};
use crate::placing;
use crate::read::{ReadError, Reader};
use crate::receipt::MAX_RECEIPT;
use crate::rotation::{self, RotationError};
use crate::segment::{self, HEADER, Kind, RECORD_HEADER};
use crate::tile::{self, Growing, Place};
use crate::trust::TrustedKeys;

/// Bytes gathered before they are written, though not yet made durable.
const BUFFER: usize = 1 << 18;
/// Smallest segment: some receipts of the largest size.
pub const SEGMENT_MIN: u64 = 1 << 20;
pub use crate::segment::SEGMENT_MAX;

/// How a log is written.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of one segment.
    pub segment_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20 }
    }
}

/// Why a log cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A file or directory cannot be used.
    #[error("receipt log: {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What would be pruned comes to something that tiles do not say.
    #[error("receipt log: tiles before receipt {0} are missing or wrong: the next start mends them")]
    Tiles(u64),
    /// Another process writes it.
    #[error("receipt log: {0} is being written by another process")]
    Locked(PathBuf),
    /// It cannot be read.
    #[error("receipt log: {0}")]
    Read(#[from] ReadError),
    /// No room; nothing was written, and writing may go on when there is.
    #[error("receipt log: no room for {bytes} bytes in {path}: make room")]
    NoSpace {
        /// The directory.
        path: PathBuf,
        /// Bytes needed.
        bytes: u64,
    },
    /// Signed receipts are damaged or missing.
    #[error(
        "receipt log: damage below the signed size: {path}: {what}. It is never repaired: \
         keep the directory as evidence and start with an empty one"
    )]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The checkpoint is not by these keys.
    #[error("receipt log: {path}: {source}: were the keys exchanged?")]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// Why.
        source: crate::note::NoteError,
    },
    /// It is not signed by the keys that there are.
    #[error("receipt log: its log.pub has other keys: were the keys exchanged without `aarm keys`?")]
    Keys,
    /// `log.pub` is missing, or is not one.
    #[error("receipt log: {0} does not hold the public keys of a log: get it back from a copy")]
    Public(PathBuf),
    /// The keys cannot be exchanged.
    #[error("receipt log: {0}")]
    Key(#[from] KeyError),
    /// Nor be followed.
    #[error("receipt log: {0}")]
    Followed(#[from] RotationError),
    /// What proves that they were cannot be made.
    #[error("receipt log: {0}")]
    Rotation(Box<ProveError>),
    /// A receipt has a length no receipt has.
    #[error("receipt log: a receipt of {0} bytes")]
    Length(usize),
    /// The segment size is out of bounds.
    #[error("receipt log: segments have {SEGMENT_MIN} to {SEGMENT_MAX} bytes")]
    SegmentSize,
    /// An earlier write failed in a way after which nothing can be promised.
    #[error("receipt log: stopped after an earlier write error")]
    Poisoned,
}

/// What was found at the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opened {
    /// Receipts in the log.
    pub size: u64,
    /// Receipts a checkpoint had signed.
    pub signed: u64,
    /// Bytes of a torn tail that were cut off.
    pub bytes_cut: u64,
    /// The log was made just now.
    pub fresh: bool,
}

/// A log open for writing.
pub struct LogWriter {
    dir: PathBuf,
    keys: Keys,
    trusted: TrustedKeys,
    origin_hash: Hash,
    segment_bytes: u64,
    file: File,
    path: PathBuf,
    number: u64,
    /// Index of the first receipt that was not pruned.
    first: u64,
    /// Segments that are not written any more, oldest first.
    sealed: Vec<Sealed>,
    /// Where `buffer` goes.
    offset: u64,
    buffer: Vec<u8>,
    tree: Tree,
    tiles: Growing,
    /// None: not known yet, and not asked for either.
    chains: Option<Chains>,
    /// After how many receipts they were kept last.
    chains_kept: u64,
    /// Parts of tiles that the last checkpoint needs, and those of the one before, whose reader may not be done.
    parts: [Vec<Place>; 2],
    durable: u64,
    signed: u64,
    /// Of the tree that was signed.
    root: Hash,
    poisoned: bool,
    _lock: File,
}

/// Hash of the origin, as segments carry it.
pub(crate) fn origin_hash(origin: &str) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, origin.as_bytes()).as_ref());
    hash
}

impl LogWriter {
    /// Opens a log, making it if it is not there. `origin` names a new one; an existing one keeps its name.
    pub fn open(dir: &Path, keys: Keys, origin: &str, options: Options) -> Result<(Self, Opened), LogError> {
        if !(SEGMENT_MIN..=SEGMENT_MAX).contains(&options.segment_bytes) {
            return Err(LogError::SegmentSize);
        }
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(io(dir))?;
        let lock_path = dir.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(io(&lock_path))?;
        // SAFETY: a valid descriptor.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            return Err(LogError::Locked(dir.to_path_buf()));
        }
        let mut opened = Opened::default();
        let origin_path = dir.join("origin");
        let origin = match std::fs::read_to_string(&origin_path) {
            Ok(text) => text.trim_end().to_owned(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                opened.fresh = true;
                place(dir, "log.pub", keys.trusted(origin).to_string().as_bytes())?;
                place(dir, "origin", format!("{origin}\n").as_bytes())?;
                // The directory's own name must outlive the power, too.
                let above = dir.parent().filter(|above| !above.as_os_str().is_empty());
                sync_dir(above.unwrap_or(Path::new(".")))?;
                origin.to_owned()
            }
            Err(e) => return Err(io(&origin_path)(e)),
        };
        let public = dir.join("log.pub");
        let text = std::fs::read_to_string(&public).map_err(io(&public))?;
        let public = TrustedKeys::parse(&text)
            .filter(|keys| keys.origin() == origin)
            .ok_or(LogError::Public(public))?;
        let trusted = rotation::follow(&dir, &public)?.keys;
        let keys = settle(keys, &trusted)?;
        if trusted != public {
            // Whoever kept the proof may have been killed before its name was durable.
            sync_dir(&dir.join(rotation::DIR))?;
            place(dir, "log.pub", trusted.to_string().as_bytes())?;
        }
        let checkpoint = read_checkpoint(dir, &trusted)?;
        opened.signed = checkpoint.as_ref().map_or(0, |c| c.size);
        let hash = origin_hash(&origin);
        let scan = recover(dir, &hash, checkpoint.as_ref(), &mut opened)?;
        let (file, path, number, offset) = match scan.last {
            Some((number, offset)) => {
                let path = dir.join(segment::file_name(number));
                // Whoever wrote what is not signed may have been killed before it was durable, or have failed to make it so. A torn tail goes with it.
                let file = if opened.bytes_cut > 0 || scan.tree.size() > opened.signed {
                    renew(dir, &path, offset, options.segment_bytes)?
                } else {
                    // Its name may not be on disk yet.
                    sync_dir(dir)?;
                    File::options().read(true).write(true).open(&path).map_err(io(&path))?
                };
                (file, path, number, offset)
            }
            None => {
                let (file, path) = new_segment(dir, 0, 0, &hash, options.segment_bytes)?;
                (file, path, 0, HEADER as u64)
            }
        };
        opened.size = scan.tree.size();
        let writer = Self {
            dir: dir.to_path_buf(),
            keys,
            trusted,
            origin_hash: hash,
            segment_bytes: options.segment_bytes,
            file,
            path,
            number,
            first: scan.first,
            sealed: scan.sealed,
            offset,
            buffer: Vec::with_capacity(BUFFER + MAX_RECEIPT),
            durable: scan.tree.size(),
            signed: opened.signed,
            root: checkpoint.map_or_else(|| Tree::default().root(), |c| c.root),
            tree: scan.tree,
            tiles: scan.tiles,
            chains: scan.chains,
            chains_kept: 0,
            parts: Default::default(),
            poisoned: false,
            _lock: lock,
        };
        reserve(dir, options.segment_bytes)?;
        Ok((writer, opened))
    }

    /// Appends a receipt; it is durable after [`LogWriter::sync`]. A weighty one also gets a signature of its
    /// own: verifiers demand it of those that weigh ([`crate::receipt::Facts::weighs`]). Fills in what came before it in its session
    /// ([`chain`]). Returns its index.
    pub fn append(&mut self, receipt: &mut [u8], weighty: bool) -> Result<u64, LogError> {
        self.unless_poisoned(|log| log.append_one(receipt, weighty))
    }

    /// After a failure of a file nothing can be promised, whatever succeeds then: the kernel may have dropped what it could not write, and says so
    /// once.
    fn unless_poisoned<T>(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        if self.poisoned {
            return Err(LogError::Poisoned);
        }
        let done = act(self);
        self.poisoned |= matches!(done, Err(LogError::Io { .. }));
        done
    }

    fn append_one(&mut self, receipt: &mut [u8], weighty: bool) -> Result<u64, LogError> {
        if receipt.is_empty() || receipt.len() > MAX_RECEIPT {
            return Err(LogError::Length(receipt.len()));
        }
        let needed = RECORD_HEADER + receipt.len() + if weighty { RECORD_HEADER + 64 } else { 0 };
        if self.offset + (self.buffer.len() + needed) as u64 > self.segment_bytes {
            self.roll()?;
        }
        if self.tiles.is_full() {
            place_tiles(&self.dir, self.tiles.whole())?;
        }
        let step = self.link(receipt)?;
        segment::record(&mut self.buffer, Kind::Receipt, receipt);
        if weighty {
            segment::record(&mut self.buffer, Kind::Signature, self.keys.receipt.sign(receipt).as_ref());
        }
        let index = self.tree.size();
        let leaf = merkle::leaf(receipt);
        self.tiles.push(&mut self.tree, leaf);
        if let Some(chains) = &mut self.chains {
            chains.take(step, leaf);
        }
        if self.buffer.len() >= BUFFER {
            self.write()?;
        }
        Ok(index)
    }

    /// Fills in what came before a receipt. What the chains are is read from the log where nobody has kept it, once it matters.
    fn link(&mut self, receipt: &mut [u8]) -> Result<Step, LogError> {
        if self.chains.is_none() {
            match chain::step(receipt) {
                Step::Nothing => return Ok(Step::Nothing),
                Step::Anew => self.chains = Some(Chains::default()),
                Step::Next { .. } => self.chains = Some(self.read_chains()?),
            }
        }
        Ok(self.chains.as_ref().map_or(Step::Nothing, |chains| chains.link(receipt)))
    }

    fn read_chains(&mut self) -> Result<Chains, LogError> {
        self.write()?;
        let mut chains = Chains::default();
        for item in Reader::open(self.dir.as_path(), 0)? {
            chains.follow(&item?.1);
        }
        Ok(chains)
    }

    /// Hands the buffer to the kernel.
    fn write(&mut self) -> Result<(), LogError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.file.write_all_at(&self.buffer, self.offset).map_err(io(&self.path))?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes everything appended durable; returns the durable size.
    pub fn sync(&mut self) -> Result<u64, LogError> {
        self.unless_poisoned(|log| {
            if log.durable < log.tree.size() {
                log.write()?;
                placing::sync_data(&log.file).map_err(io(&log.path))?;
                log.durable = log.tree.size();
            }
            Ok(log.durable)
        })
    }

    /// Goes on in the next segment.
    fn roll(&mut self) -> Result<(), LogError> {
        // The room first: without it nothing has happened yet.
        reserve(&self.dir, self.segment_bytes)?;
        self.sync()?;
        let (file, path) =
            new_segment(&self.dir, self.number + 1, self.tree.size(), &self.origin_hash, self.segment_bytes)?;
        let sealed = Sealed::of(self.number, std::mem::replace(&mut self.path, path), self.tree.size())?;
        self.sealed.push(sealed);
        self.number += 1;
        (self.file, self.offset) = (file, HEADER as u64);
        // The one after; if there is no room now, rolling will ask again.
        match reserve(&self.dir, self.segment_bytes) {
            Ok(()) | Err(LogError::NoSpace { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// The oldest segment that has no index and may have one, by its number and name.
    pub fn unindexed(&self) -> Option<(u64, String)> {
        let signed = self.sealed.iter().take_while(|segment| segment.next <= self.signed);
        signed.filter(|segment| !segment.indexed).map(|segment| (segment.number, segment.name())).next()
    }

    /// A segment has its index, or cannot have one until the next start.
    pub fn indexed(&mut self, number: u64) {
        match self.sealed.iter_mut().find(|segment| segment.number == number) {
            Some(segment) => segment.indexed = true,
            // It was pruned meanwhile.
            None => index::remove(&self.dir, number),
        }
    }

    /// Index of the first receipt that is there: those before were pruned.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Receipts appended.
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    /// Receipts that are durable.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Receipts under the last checkpoint.
    pub fn signed(&self) -> u64 {
        self.signed
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The log's name.
    pub fn origin(&self) -> &str {
        self.trusted.origin()
    }

    /// The public keys.
    pub fn trusted(&self) -> &TrustedKeys {
        &self.trusted
    }
}

/// Makes the reserved file segment `number`.
fn new_segment(
    dir: &Path,
    number: u64,
    first: u64,
    origin: &Hash,
    bytes: u64,
) -> Result<(File, PathBuf), LogError> {
    reserve(dir, bytes)?;
    let (from, path) = (dir.join(NEXT), dir.join(segment::file_name(number)));
    let file = File::options().read(true).write(true).open(&from).map_err(io(&from))?;
    file.write_all_at(&segment::header(first, origin), 0).map_err(io(&from))?;
    placing::sync_all(&file).map_err(io(&from))?;
    std::fs::rename(&from, &path).map_err(io(&path))?;
    sync_dir(dir)?;
    Ok((file, path))
}

fn place_tile(dir: &Path, place: Place, hashes: &[Hash]) -> Result<(), LogError> {
    let path = place.path(dir);
    tile::write(dir, place, hashes).map_err(no_room(dir, &path, hashes.as_flattened().len()))
}

/// Places whole tiles; those that there is no room for are still there afterwards.
fn place_tiles(dir: &Path, whole: &mut Vec<(Place, Vec<Hash>)>) -> Result<(), LogError> {
    let mut placed = 0;
    let result = whole.iter().try_for_each(|(place, hashes)| {
        place_tile(dir, *place, hashes)?;
        tile::remove_parts(dir, *place);
        placed += 1;
        Ok(())
    });
    whole.drain(..placed);
    result
}
