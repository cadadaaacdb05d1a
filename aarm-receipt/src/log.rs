//! The one writer of a log.
//!
//! ```text
//! <log>/origin                the log's name for ever
//! <log>/log.pub               public keys, for verifiers
//! <log>/segment-*.aarm        receipts, see `segment`
//! <log>/next.segment          space reserved for the next segment
//! <log>/tile/                 the tree's hashes, see `tile`
//! <log>/checkpoint            the last signed tree head
//! <log>/lock                  held by the writer
//! ```
//! Order: append, make durable, place tiles, sign, place the checkpoint, make the directory durable. Never signs what is
//! not durable. At the start a torn tail beyond the signed size is cut off and said so; damage below it is
//! never repaired.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::keys::{Keys, TrustedKeys};
use crate::merkle::{self, Hash, Tree};
use crate::note::Checkpoint;
use crate::receipt::MAX_RECEIPT;
use crate::segment::{self, HEADER, Kind, RECORD_HEADER, Scanner, SegmentError};
use crate::tile::{self, Growing, Place};

/// Bytes gathered before they are written, though not yet made durable.
const BUFFER: usize = 1 << 18;
/// Smallest segment: some receipts of the largest size.
pub const SEGMENT_MIN: u64 = 1 << 20;
/// Largest segment.
pub const SEGMENT_MAX: u64 = 1 << 30;

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
    /// Another process writes it.
    #[error("receipt log: {0} is being written by another process")]
    Locked(PathBuf),
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
    /// Where `buffer` goes.
    offset: u64,
    buffer: Vec<u8>,
    tree: Tree,
    tiles: Growing,
    /// Parts of tiles that the last checkpoint needs, and those of the one before, whose reader may not be done.
    parts: [Vec<Place>; 2],
    durable: u64,
    signed: u64,
    poisoned: bool,
    _lock: File,
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> LogError {
    let path = path.to_path_buf();
    move |source| LogError::Io { path, source }
}

/// Hash of the origin, as segments carry it.
pub(crate) fn origin_hash(origin: &str) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, origin.as_bytes()).as_ref());
    hash
}

/// No room is something else than a failure: it may come to an end.
fn no_room<'a>(dir: &'a Path, path: &'a Path, bytes: usize) -> impl Fn(std::io::Error) -> LogError + 'a {
    move |e| match e.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => {
            LogError::NoSpace { path: dir.to_path_buf(), bytes: bytes as u64 }
        }
        _ => io(path)(e),
    }
}

fn sync_dir(dir: &Path) -> Result<(), LogError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(io(dir))
}

/// Writes a small file whole or not at all. Without room for it all stays as it was.
fn place(dir: &Path, name: &str, content: &[u8]) -> Result<(), LogError> {
    let temporary = dir.join(format!("{name}.new"));
    let room = no_room(dir, &temporary, content.len());
    let mut file = File::create(&temporary).map_err(&room)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(&room)?;
    let path = dir.join(name);
    std::fs::rename(&temporary, &path).map_err(io(&path))?;
    sync_dir(dir)
}

/// Overwrites a part of a file with zeros, durably.
fn clear(file: &File, mut at: u64, bytes: u64) -> std::io::Result<()> {
    let zeros = vec![0; 1 << 16];
    let end = at + bytes;
    while at < end {
        let n = (end - at).min(zeros.len() as u64);
        file.write_all_at(&zeros[..n as usize], at)?;
        at += n;
    }
    file.sync_all()
}

/// Reserves room for a file.
fn allocate(file: &File, dir: &Path, bytes: u64) -> Result<(), LogError> {
    // SAFETY: a valid descriptor.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, bytes as libc::off_t) } {
        0 => Ok(()),
        libc::ENOSPC | libc::EDQUOT => Err(LogError::NoSpace { path: dir.to_path_buf(), bytes }),
        e => Err(io(dir)(std::io::Error::from_raw_os_error(e))),
    }
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
                origin.to_owned()
            }
            Err(e) => return Err(io(&origin_path)(e)),
        };
        let trusted = keys.trusted(&origin);
        let checkpoint = read_checkpoint(dir, &trusted)?;
        opened.signed = checkpoint.as_ref().map_or(0, |c| c.size);
        let hash = origin_hash(&origin);
        let scan = recover(dir, &hash, checkpoint.as_ref(), &mut opened)?;
        let (file, path, number, offset) = match scan.last {
            Some((number, offset)) => {
                let path = dir.join(segment::file_name(number));
                let file = File::options().read(true).write(true).open(&path).map_err(io(&path))?;
                if opened.bytes_cut > 0 {
                    // The room first: without it nothing is changed, and the next start finds the tail again.
                    reserve(dir, options.segment_bytes)?;
                    allocate(&file, dir, options.segment_bytes.max(offset + opened.bytes_cut))?;
                    clear(&file, offset, opened.bytes_cut).map_err(io(&path))?;
                }
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
            offset,
            buffer: Vec::with_capacity(BUFFER + MAX_RECEIPT),
            durable: scan.tree.size(),
            signed: opened.signed,
            tree: scan.tree,
            tiles: scan.tiles,
            parts: Default::default(),
            poisoned: false,
            _lock: lock,
        };
        reserve(dir, options.segment_bytes)?;
        Ok((writer, opened))
    }

    /// Appends a receipt; it is durable after [`LogWriter::sync`]. A weighty one also gets a signature of its
    /// own. Returns its index.
    pub fn append(&mut self, receipt: &[u8], weighty: bool) -> Result<u64, LogError> {
        if self.poisoned {
            return Err(LogError::Poisoned);
        }
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
        segment::record(&mut self.buffer, Kind::Receipt, receipt);
        if weighty {
            segment::record(&mut self.buffer, Kind::Signature, self.keys.receipt.sign(receipt).as_ref());
        }
        let index = self.tree.size();
        self.tiles.push(&mut self.tree, merkle::leaf(receipt));
        if self.buffer.len() >= BUFFER {
            self.write()?;
        }
        Ok(index)
    }

    /// Hands the buffer to the kernel. After a failure nothing can be said of the file.
    fn write(&mut self) -> Result<(), LogError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        if let Err(e) = self.file.write_all_at(&self.buffer, self.offset) {
            self.poisoned = true;
            return Err(io(&self.path)(e));
        }
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes everything appended durable; returns the durable size.
    pub fn sync(&mut self) -> Result<u64, LogError> {
        if self.poisoned {
            return Err(LogError::Poisoned);
        }
        if self.durable < self.tree.size() {
            self.write()?;
            if let Err(e) = self.file.sync_data() {
                // The kernel may have dropped the pages: what is on disk is unknown.
                self.poisoned = true;
                return Err(io(&self.path)(e));
            }
            self.durable = self.tree.size();
        }
        Ok(self.durable)
    }

    /// Goes on in the next segment.
    fn roll(&mut self) -> Result<(), LogError> {
        // The room first: without it nothing has happened yet.
        reserve(&self.dir, self.segment_bytes)?;
        self.sync()?;
        let (file, path) =
            new_segment(&self.dir, self.number + 1, self.tree.size(), &self.origin_hash, self.segment_bytes)?;
        self.number += 1;
        (self.file, self.path, self.offset) = (file, path, HEADER as u64);
        // The one after; if there is no room now, rolling will ask again.
        match reserve(&self.dir, self.segment_bytes) {
            Ok(()) | Err(LogError::NoSpace { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Signs the whole log, made durable first, and places the checkpoint.
    pub fn checkpoint(&mut self) -> Result<Checkpoint, LogError> {
        self.sync()?;
        let c = Checkpoint { origin: self.origin().to_owned(), size: self.durable, root: self.tree.root() };
        self.place_all_tiles()?;
        place(&self.dir, "checkpoint", c.sign(&self.keys.log).as_bytes())?;
        self.signed = c.size;
        Ok(c)
    }

    /// Places what whoever reads the next checkpoint needs.
    fn place_all_tiles(&mut self) -> Result<(), LogError> {
        place_tiles(&self.dir, self.tiles.whole())?;
        let parts: Vec<_> = self.tiles.partial().collect();
        if parts.iter().map(|(part, _)| part).eq(&self.parts[0]) {
            return Ok(());
        }
        for (part, hashes) in &parts {
            place_tile(&self.dir, *part, hashes)?;
        }
        let now = parts.into_iter().map(|(part, _)| part).collect();
        let before = std::mem::replace(&mut self.parts[0], now);
        for gone in std::mem::replace(&mut self.parts[1], before) {
            if !self.parts.iter().any(|parts| parts.contains(&gone)) {
                // Where it stays, it only takes room.
                let _ = std::fs::remove_file(gone.path(&self.dir));
            }
        }
        Ok(())
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

    /// The log's name.
    pub fn origin(&self) -> &str {
        &self.trusted.log.name
    }

    /// The public keys.
    pub fn trusted(&self) -> &TrustedKeys {
        &self.trusted
    }
}

/// Reads and checks the checkpoint; `None` if there is none yet.
fn read_checkpoint(dir: &Path, trusted: &TrustedKeys) -> Result<Option<Checkpoint>, LogError> {
    let path = dir.join("checkpoint");
    match std::fs::read(&path) {
        Ok(note) => Checkpoint::open(&note, &trusted.log)
            .map(Some)
            .map_err(|source| LogError::Checkpoint { path: path.clone(), source }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io(&path)(e)),
    }
}

/// Room for the next segment, under a name that is no segment's. Where it is there already, nothing is done: asking
/// a file system again for all blocks of a file costs some as much as the first time.
fn reserve(dir: &Path, bytes: u64) -> Result<(), LogError> {
    let path = dir.join("next.segment");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o644)
        .open(&path)
        .map_err(io(&path))?;
    let found = file.metadata().map_err(io(&path))?;
    if found.len() >= bytes && found.blocks().saturating_mul(512) >= bytes {
        return Ok(());
    }
    allocate(&file, dir, bytes)
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
    let (from, path) = (dir.join("next.segment"), dir.join(segment::file_name(number)));
    let file = File::options().read(true).write(true).open(&from).map_err(io(&from))?;
    file.write_all_at(&segment::header(first, origin), 0).map_err(io(&from))?;
    file.sync_all().map_err(io(&from))?;
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

/// Leaves those whole tiles that are on disk as they should be.
fn mend_tiles(dir: &Path, whole: &mut Vec<(Place, Vec<Hash>)>) -> Result<(), LogError> {
    whole.retain(|(place, hashes)| tile::read(dir, *place).as_ref() != Some(hashes));
    place_tiles(dir, whole)
}

struct Scan {
    tree: Tree,
    tiles: Growing,
    /// Number of the last segment and where its records end.
    last: Option<(u64, u64)>,
}

/// Reads the whole log, checks it against the checkpoint, and finds where to go on.
fn recover(
    dir: &Path,
    origin: &Hash,
    checkpoint: Option<&Checkpoint>,
    opened: &mut Opened,
) -> Result<Scan, LogError> {
    let signed = checkpoint.map_or(0, |c| c.size);
    let segments = segment::list(dir).map_err(io(dir))?;
    let (mut tree, mut tiles) = (Tree::default(), Growing::default());
    let mut last = None;
    let damaged = |path: &Path, what: String| LogError::Damaged { path: path.to_path_buf(), what };
    let check = |tree: &Tree, path: &Path| match checkpoint {
        Some(c) if c.size == tree.size() && c.root != tree.root() => {
            Err(damaged(path, "the receipts are not those that were signed".into()))
        }
        _ => Ok(()),
    };
    check(&tree, dir)?;
    for (i, (number, path)) in segments.iter().enumerate() {
        let mut scanner =
            Scanner::open(path, tree.size(), origin).map_err(|e| damaged(path, e.to_string()))?;
        let problem = loop {
            match scanner.next_record() {
                Ok(Some((Kind::Receipt, bytes))) => {
                    tiles.push(&mut tree, merkle::leaf(bytes));
                    check(&tree, path)?;
                    if tiles.is_full() {
                        mend_tiles(dir, tiles.whole())?;
                    }
                }
                Ok(Some((Kind::Signature, _))) => {}
                Ok(None) => break None,
                Err(SegmentError::Io(e)) => return Err(io(path)(e)),
                Err(e) => break Some(e),
            }
        };
        let end = scanner.offset();
        let problem = match problem {
            None => scanner.check_rest().err(),
            some => some,
        };
        if let Some(e) = problem {
            if tree.size() < signed || i + 1 < segments.len() {
                return Err(damaged(path, e.to_string()));
            }
            let length = std::fs::metadata(path).map_err(io(path))?.len();
            opened.bytes_cut = torn_bytes(path, end, length)?;
        }
        last = Some((*number, end));
    }
    if tree.size() < signed {
        let what = format!("{} receipts where {signed} were signed", tree.size());
        return Err(damaged(dir, what));
    }
    mend_tiles(dir, tiles.whole())?;
    Ok(Scan { tree, tiles, last })
}

/// How much of the tail is not zero: from the end of the records to the last byte that is not.
fn torn_bytes(path: &Path, end: u64, length: u64) -> Result<u64, LogError> {
    let file = File::open(path).map_err(io(path))?;
    let mut buffer = vec![0; 1 << 16];
    let (mut at, mut last) = (end, end);
    while at < length {
        let n = file.read_at(&mut buffer, at).map_err(io(path))?;
        if n == 0 {
            break;
        }
        if let Some(i) = buffer[..n].iter().rposition(|b| *b != 0) {
            last = at + i as u64 + 1;
        }
        at += n as u64;
    }
    Ok((last - end).max(1))
}
