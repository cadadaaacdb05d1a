//! A checkpoint on its way to the disk. The writer gathers what it takes, and whoever has the time places it: what is to be appended meanwhile
//! does not wait for it.
//!
//! Must never: be placed after a newer one, or be forgotten where it failed: the writer is told what became of it.

use std::path::PathBuf;

use ring::signature::Ed25519KeyPair;

use super::files::place;
use super::{LogError, LogWriter, chains, place_tile, place_tiles};
use crate::chain::Chains;
use crate::merkle::Hash;
use crate::note::Checkpoint;
use crate::tile::Place;

/// What a checkpoint takes. All that it covers is durable.
pub struct Signing {
    dir: PathBuf,
    head: Checkpoint,
    note: String,
    /// Whole tiles that are not placed yet.
    whole: Vec<(Place, Vec<Hash>)>,
    /// Parts of tiles that whoever reads it needs, if they are not those of the one before.
    parts: Option<Vec<(Place, Vec<Hash>)>>,
    /// Those that nobody needs any more.
    gone: Vec<Place>,
    /// The chains, if they are other ones than those that are kept.
    chains: Option<Chains>,
}

impl Signing {
    /// Places it. What became of it is for [`LogWriter::placed`].
    pub fn place(&mut self) -> Result<(), LogError> {
        place_tiles(&self.dir, &mut self.whole)?;
        for (part, hashes) in self.parts.iter().flatten() {
            place_tile(&self.dir, *part, hashes)?;
        }
        if let Some(chains) = &self.chains {
            chains::write(&self.dir, self.head.size, chains)?;
        }
        place(&self.dir, "checkpoint", self.note.as_bytes())?;
        for gone in &self.gone {
            // Where it stays, it only takes room.
            let _ = std::fs::remove_file(gone.path(&self.dir));
        }
        Ok(())
    }
}

impl Signing {
    /// Adds the signature of the keys that come next.
    pub(super) fn sign_also(&mut self, key: &Ed25519KeyPair) {
        self.head.sign_also(&mut self.note, key);
    }

    /// The signed note.
    pub(super) fn note(&self) -> &str {
        &self.note
    }
}

impl LogWriter {
    /// Makes everything durable, and gathers what the next checkpoint takes. Another one is begun when this has come back, by
    /// [`LogWriter::placed`]. None: there is nothing that is not signed.
    pub fn begin_checkpoint(&mut self) -> Result<Option<Signing>, LogError> {
        self.sync()?;
        let head =
            Checkpoint { origin: self.origin().to_owned(), size: self.durable, root: self.tree.root() };
        if head.size > 0 && head.size == self.trusted.latest().since {
            // It is signed by the keys before and by these.
            return Ok(None);
        }
        let note = head.sign(&self.keys.log);
        let kept = self.chains_kept == head.size;
        let chains = self.chains.as_ref().filter(|_| !kept).cloned();
        let parts: Vec<_> = self.tiles.partial().map(|(part, hashes)| (part, hashes.to_vec())).collect();
        let (mut gone, mut changed) = (Vec::new(), None);
        if !parts.iter().map(|(part, _)| part).eq(&self.parts[0]) {
            let stays =
                |gone: &Place| self.parts[0].contains(gone) || parts.iter().any(|(part, _)| part == gone);
            gone.extend(self.parts[1].iter().filter(|gone| !stays(gone)));
            changed = Some(parts);
        }
        let whole = std::mem::take(self.tiles.whole());
        Ok(Some(Signing { dir: self.dir.clone(), head, note, whole, parts: changed, gone, chains }))
    }

    /// A checkpoint has come back, with what [`Signing::place`] said. Where there was no room for it, the next one takes its place; any other
    /// failure of it is one of the log.
    pub fn placed(&mut self, signing: Signing, became: Result<(), LogError>) -> Result<Checkpoint, LogError> {
        self.unless_poisoned(|log| match became {
            Ok(()) => Ok(log.is_signed(signing)),
            Err(e) => {
                // What of it was not placed, that one has.
                log.tiles.whole().extend(signing.whole);
                Err(e)
            }
        })
    }

    fn is_signed(&mut self, placed: Signing) -> Checkpoint {
        let Signing { head, parts, chains, .. } = placed;
        if let Some(parts) = parts {
            let now = parts.into_iter().map(|(part, _)| part).collect();
            self.parts[1] = std::mem::replace(&mut self.parts[0], now);
        }
        if chains.is_some() {
            self.chains_kept = head.size;
        }
        (self.signed, self.root) = (head.size, head.root);
        head
    }

    /// Signs the whole log, made durable first, and places the checkpoint.
    pub fn checkpoint(&mut self) -> Result<Checkpoint, LogError> {
        match self.begin_checkpoint()? {
            Some(signing) => self.place_checkpoint(signing),
            None => Ok(Checkpoint { origin: self.origin().to_owned(), size: self.signed, root: self.root }),
        }
    }

    /// Places a checkpoint here and now.
    pub(super) fn place_checkpoint(&mut self, mut signing: Signing) -> Result<Checkpoint, LogError> {
        let became = signing.place();
        self.placed(signing, became)
    }
}
