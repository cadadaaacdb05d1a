//! A copy of a log that grows with it, kept where the log's host is not.
//!
//! ```text
//! <archive>/archive                     what it has, see `archive/list`
//! <archive>/segment-<number>.aarm.zst   receipts, of the last one as far as the checkpoint goes
//! <archive>/origin, log.pub, rotations/, policies/, edge, tile/, witnessed/, checkpoint    as in the log
//! ```
//! The checkpoint is put last, when all that it covers was read back: so an archive can be verified at any moment. How far it is, it says
//! itself; nothing is kept about it elsewhere, and what broke off is gone on with by beginning again. Must never: go on with another history
//! than the one that is archived; believe what it reads.

mod copying;
mod list;

use std::io::{self, Read};
use std::path::PathBuf;

pub use self::list::names;

use self::copying::Copying;
use self::list::{LIST, LIST_MAX, List};
use crate::cosign::COSIGNERS_MAX;
use crate::note::{Checkpoint, NOTE_MAX, NoteError};
use crate::read::ReadError;
use crate::rotation::{self, RotationError};
use crate::source::Source;
use crate::tile::Tiles;
use crate::trust::TrustedKeys;
use crate::witnessed;

/// Small files by their names.
type Files = Vec<(String, Vec<u8>)>;

/// Where an archive is kept.
pub trait Store: Source {
    /// Puts what is read under a name: all of it in the place of what was there, or nothing.
    fn put(&self, name: &str, from: &mut dyn Read) -> io::Result<()>;

    /// The same of small files: where each takes a while, at once.
    fn put_all(&self, files: &[(String, Vec<u8>)]) -> io::Result<()> {
        files.iter().try_for_each(|(name, content)| self.put(name, &mut content.as_slice()))
    }

    /// Takes something away, if it is there.
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// Why a log is not archived.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// How its keys were exchanged is not proven.
    #[error(transparent)]
    Keys(#[from] RotationError),
    /// The store cannot be used.
    #[error("{path}: {source}")]
    Store {
        /// What of it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store gives something else back than what was put there.
    #[error("{0}: what is read there is not what was put there")]
    Changed(PathBuf),
    /// A checkpoint is not by this log's key.
    #[error("{path}: {source}")]
    Checkpoint {
        /// Which.
        path: PathBuf,
        /// Why.
        source: NoteError,
    },
    /// What is there is no archive, or not a whole one.
    #[error("{path}: {what}: archive to another place, and keep this one as it is")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// Another log is archived there.
    #[error("{0}: another log is archived there: each log has a place of its own")]
    Other(PathBuf),
    /// More of this log is archived than there is.
    #[error("{archived} receipts of this log are archived, and it has {signed}: its end was cut off")]
    Ahead {
        /// Receipts in the archive.
        archived: u64,
        /// Receipts here.
        signed: u64,
    },
    /// What is archived is not what the log has.
    #[error(
        "the first {0} receipts, which are archived, are not those of this log: there are two of this name and key"
    )]
    Diverged(u64),
    /// It is not known whether what is archived is what the log has.
    #[error(
        "that the log goes on from the {0} receipts that are archived cannot be proven: tiles are missing, or were pruned"
    )]
    Unproven(u64),
    /// Something was pruned that was not archived.
    #[error(
        "segment {0} was pruned before it was archived: archive to another place, this archive stays as it is"
    )]
    Gap(u64),
}

impl ArchiveError {
    /// Whose failure it is, in a word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Log(_) | Self::Keys(_) => "log",
            Self::Store { .. } => "store",
            Self::Changed(_) => "changed",
            Self::Gap(_) => "pruned",
            Self::Checkpoint { .. }
            | Self::Damaged { .. }
            | Self::Other(_)
            | Self::Ahead { .. }
            | Self::Diverged(_)
            | Self::Unproven(_) => "disagrees",
        }
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Copied {
    /// Receipts of the log that the archive's checkpoint covers now.
    pub receipts: u64,
    /// Segments that were put.
    pub segments: u64,
    /// Tiles that were put.
    pub tiles: u64,
    /// Bytes that were put, and read back.
    pub bytes: u64,
}

/// Brings an archive to where the log is, or makes it. `progress` is told how many segments of how many are done.
pub fn copy(
    log: &dyn Source,
    to: &dyn Store,
    trusted: &TrustedKeys,
    progress: &dyn Fn(usize, usize),
) -> Result<Copied, ArchiveError> {
    // Before the checkpoint, so that it has what they have seen.
    let seen = notes(log);
    let note = of_log(log, "checkpoint")?;
    let trusted = &rotation::follow(log, trusted)?.keys;
    let mut copied = Copied::default();
    // First to where the keys were exchanged: what is after that is proven by the exchange, and the exchange by what is before.
    for since in trusted.epochs().iter().skip(1).map(|epoch| epoch.since) {
        let (name, proof) = rotation::proof(log, since)?;
        let note = proof.checkpoint.as_bytes();
        up_to(log, to, trusted, (note, &name), seen.clone(), (Some(since), &mut copied), progress)?;
    }
    up_to(log, to, trusted, (&note, "checkpoint"), seen, (None, &mut copied), progress)?;
    Ok(copied)
}

/// Brings it to a checkpoint of the log, and has it go on with other keys from there.
fn up_to(
    log: &dyn Source,
    to: &dyn Store,
    trusted: &TrustedKeys,
    (note, name): (&[u8], &str),
    mut seen: Files,
    (exchange, copied): (Option<u64>, &mut Copied),
    progress: &dyn Fn(usize, usize),
) -> Result<(), ArchiveError> {
    let signed =
        trusted.open(note).map_err(|source| ArchiveError::Checkpoint { path: log.path(name), source })?;
    // At once: the writer keeps those of its newest checkpoints only.
    let partial = partial(log, &signed);
    let origin = of_log(log, "origin")?;
    let there = There::look(to, trusted, &origin)?;
    let archived = there.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.size);
    // Those whose exchange is archived.
    let keys = |list: &List| trusted.up_to(list.rotations.last().copied().unwrap_or(0)).to_string();
    let mut copying = Copying { log, to, origin: &origin, list: there.list.clone(), copied: *copied };
    copying.copied.receipts = signed.size.max(archived);
    if there.is_new() {
        // First of all, so that no other log takes the place.
        copying.put_small("origin", &origin)?;
    }
    // What was pruned before anything was archived is not gone to.
    if exchange.is_none() || archived < signed.size && copying::begins(log)? < signed.size {
        if let Some(archived) = &there.checkpoint {
            goes_on(log, archived, &signed)?;
        }
        seen.retain(|(_, note)| trusted.open(note).is_ok_and(|c| c.size <= signed.size));
        there.leave_out(to, &mut seen);
        if there.note.as_deref() == Some(note) && seen.is_empty() {
            *copied = copying.copied;
            return Ok(());
        }
        copying.put_small("log.pub", keys(&copying.list).as_bytes())?;
        copying.policies()?;
        let first = copying.segments(archived, signed.size, progress)?;
        copying.tiles(first, archived, signed.size, &partial)?;
        copying.notes(&seen)?;
        copying.put_small("checkpoint", note)?;
        copying.tidy(archived, signed.size);
    }
    if let Some(since) = exchange.filter(|since| !copying.list.rotations.contains(since)) {
        copying.exchange(since)?;
        copying.put_small("log.pub", keys(&copying.list).as_bytes())?;
    }
    *copied = copying.copied;
    Ok(())
}

/// A small file of the log.
fn of_log(log: &dyn Source, name: &str) -> Result<Vec<u8>, ReadError> {
    log.read(name, NOTE_MAX).map_err(|source| ReadError::Io { path: log.path(name), source })
}

/// What witnesses have said of a log.
fn notes(log: &dyn Source) -> Files {
    let ids = log.names(witnessed::DIR).unwrap_or_default();
    let names =
        ids.iter().filter(|id| witnessed::is_id(id)).take(COSIGNERS_MAX).map(|id| witnessed::file(id));
    names.filter_map(|name| log.read(&name, NOTE_MAX).ok().map(|note| (name, note))).collect()
}

/// The tiles that are not whole yet, if they lead to what was signed.
fn partial(log: &dyn Source, signed: &Checkpoint) -> Files {
    let tree = Tiles::new(log, signed.size).tree(signed.size);
    let Some((_, tiles)) = tree.filter(|(tree, _)| tree.root() == signed.root) else { return Vec::new() };
    tiles.partial().map(|(place, hashes)| (place.name(), hashes.as_flattened().to_vec())).collect()
}

/// Looks whether the log goes on from what is archived.
fn goes_on(log: &dyn Source, archived: &Checkpoint, signed: &Checkpoint) -> Result<(), ArchiveError> {
    if archived.size > signed.size {
        return Err(ArchiveError::Ahead { archived: archived.size, signed: signed.size });
    }
    if archived.size == 0 || archived == signed {
        return Ok(());
    }
    match Tiles::new(log, signed.size).begins_with((archived.size, &archived.root), &signed.root) {
        Some(true) => Ok(()),
        Some(false) => Err(ArchiveError::Diverged(archived.size)),
        None => Err(ArchiveError::Unproven(archived.size)),
    }
}

/// What an archive has.
struct There {
    list: List,
    checkpoint: Option<Checkpoint>,
    note: Option<Vec<u8>>,
}

impl There {
    fn look(to: &dyn Store, trusted: &TrustedKeys, origin: &[u8]) -> Result<Self, ArchiveError> {
        let read = |name: &str| match to.read(name, LIST_MAX) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some).map_err(|source| ArchiveError::Store { path: to.path(name), source }),
        };
        if read("origin")?.is_some_and(|theirs| theirs != origin) {
            return Err(ArchiveError::Other(to.path("")));
        }
        let note = read("checkpoint")?;
        let checkpoint = note.as_ref().map(|note| trusted.open(note)).transpose();
        let checkpoint =
            checkpoint.map_err(|source| ArchiveError::Checkpoint { path: to.path("checkpoint"), source })?;
        let damaged = |what| ArchiveError::Damaged { path: to.path(LIST), what };
        let list = match read(LIST)? {
            Some(text) => List::parse(&text).ok_or_else(|| damaged("it is no archive's list"))?,
            None if checkpoint.is_some() => return Err(damaged("it is gone")),
            None => List::default(),
        };
        Ok(Self { list, checkpoint, note })
    }

    fn is_new(&self) -> bool {
        self.checkpoint.is_none() && self.list == List::default()
    }

    /// Leaves out what it has already of what witnesses have said.
    fn leave_out(&self, to: &dyn Store, seen: &mut Files) {
        let names: Vec<String> = seen.iter().map(|(name, _)| name.clone()).collect();
        let mut theirs = to.read_all(&names, NOTE_MAX).into_iter();
        seen.retain(|(_, note)| !theirs.next().is_some_and(|theirs| theirs.is_ok_and(|t| t == *note)));
    }
}
