//! Verification of a log or a copy of one: every byte, offline, with the public keys only.
//!
//! Trusts nothing it reads. What it finds wrong first decides the verdict; reading goes on in bounded memory
//! only as far as the log can still be understood.

mod ahead;
mod part;
mod report;
mod sequences;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

pub use self::report::{Report, Seen, Verdict};

use self::sequences::Sequences;
use crate::chain::{self, Chains};
use crate::cosign::CosignerKey;
use crate::index;
use crate::log::{edge, origin_hash};
use crate::merkle::{Hash, Tree};
use crate::note::{Checkpoint, NOTE_MAX};
use crate::policies::{self, Name, POLICIES_MAX};
use crate::receipt::Facts;
use crate::receipt::schema::SCHEMAS;
use crate::rotation::{self, Followed};
use crate::segment;
use crate::source::Source;
use crate::tile::{self, Found, Growing, Place, Tiles};
use crate::trust::{self, TrustedKeys};
use crate::witnessed::Witnessed;

/// Most segments read at once.
const AT_ONCE: usize = 16;

/// How to verify, besides what always is.
#[derive(Clone, Copy, Default)]
pub struct How<'a> {
    /// A checkpoint of this log that the caller saw and believed before; a log that does not begin with what it has was rolled back, or is another
    /// one.
    pub seen: Option<&'a Checkpoint>,
    /// Whose cosignatures are demanded.
    pub witnesses: Option<Witnesses<'a>>,
    /// Also the index is held against the receipts: nothing is proven by it, but who looks for something relies on it.
    pub index: bool,
    /// Told how many segments of how many are done.
    pub progress: Option<&'a dyn Fn(usize, usize)>,
}

/// Whose word is asked for that a log was not cut or replaced.
#[derive(Clone, Copy)]
pub struct Witnesses<'a> {
    /// Those that are believed.
    pub known: &'a [CosignerKey],
    /// So many of them must have seen the log.
    pub at_least: usize,
    /// And not before this time, in seconds since 1970.
    pub since: Option<u64>,
}

/// How often a log is read that is pruned meanwhile.
const READINGS: usize = 4;

impl Witnesses<'_> {
    /// What is wrong if so many of them have seen it.
    pub fn lack(&self, seen: usize) -> Option<String> {
        let how = if self.since.is_some() { " lately enough" } else { "" };
        (seen < self.at_least)
            .then(|| format!("{seen} of the {} witnesses asked for have seen it{how}", self.at_least))
    }
}

/// Verifies a log directory: see [`verify`].
pub fn verify_dir(dir: &Path, trusted: &TrustedKeys, how: How<'_>) -> Report {
    verify(&dir, trusted, how)
}

/// Verifies a log, which may be written and pruned meanwhile. Segments are read by as many threads as there are processors; memory is bounded by
/// their size.
pub fn verify(log: &dyn Source, trusted: &TrustedKeys, how: How<'_>) -> Report {
    let begins = || segment::list(log).ok().and_then(|all| all.first().map(|first| first.0));
    for _ in 1..READINGS {
        let before = begins();
        let report = verify_once(log, trusted, how);
        if report.verdict == Verdict::Intact || begins() == before {
            return report;
        }
    }
    verify_once(log, trusted, how)
}

fn verify_once(log: &dyn Source, trusted: &TrustedKeys, how: How<'_>) -> Report {
    let mut r = Report::new(trusted);
    let mut sequences = Sequences::default();
    if let Err(problem) = check(log, trusted, how, &mut r, &mut sequences) {
        r.tampered(problem);
    }
    sequences.close();
    (r.missing, r.declared) = (sequences.missing, sequences.declared);
    if sequences.repeated {
        r.tampered("an event number occurs twice".into());
    }
    if r.verdict == Verdict::Intact && r.missing > r.declared {
        r.verdict = Verdict::Incomplete;
        r.problems.push(format!("{} events have no receipt and no explanation", r.missing - r.declared));
    }
    if let Some(witnesses) = how.witnesses {
        hear(&mut r, witnesses);
    }
    r
}

/// Whether as many witnesses as asked for have seen the log, and lately enough.
fn hear(r: &mut Report, asked: Witnesses<'_>) {
    r.witnesses.sort_by_key(|seen| std::cmp::Reverse(seen.receipts));
    let lately = r.witnesses.iter().filter(|seen| asked.since.is_none_or(|since| seen.seconds >= since));
    r.witnessed = lately.clone().nth(asked.at_least.saturating_sub(1)).map(|seen| seen.receipts);
    let lack = asked.lack(lately.count());
    if let Some(problem) = lack {
        if r.verdict == Verdict::Intact {
            r.verdict = Verdict::TooOld;
        }
        r.problems.push(problem);
    }
}

/// Holds tiles against those that there should be.
fn check_tiles<'a>(log: &dyn Source, tiles: impl Iterator<Item = (Place, &'a [Hash])>, r: &mut Report) {
    let (names, tiles): (Vec<String>, Vec<&[Hash]>) =
        tiles.map(|(place, hashes)| (place.name(), hashes)).unzip();
    let found = log.read_all(&names, tile::WIDTH * size_of::<Hash>());
    for ((name, hashes), found) in names.iter().zip(tiles).zip(found) {
        let found = match found {
            Ok(found) => tile::compare(&found, hashes),
            Err(e) if e.kind() == ErrorKind::NotFound => Found::Less,
            Err(_) => Found::Other,
        };
        match found {
            Found::Whole => {}
            // A partial one goes when the tree has grown.
            Found::Less => r.tiles_missing += u64::from(hashes.len() == tile::WIDTH),
            Found::Other => r.tampered(format!("{name}: not the tree's hashes")),
        }
    }
}

/// A checkpoint that the log must begin with what it has of.
struct Known {
    checkpoint: Checkpoint,
    /// Which it is, in words.
    which: String,
    by: By,
}

/// From where a checkpoint is known.
enum By {
    /// The caller.
    Caller,
    /// A witness has seen it, at this time.
    Witness(String, u64),
    /// Its keys were exchanged with it.
    Keys,
}

impl Known {
    /// The log begins with what it has.
    fn met(&self, r: &mut Report) {
        let receipts = self.checkpoint.size;
        match &self.by {
            By::Witness(name, seconds) => {
                r.witnesses.push(Seen { name: name.clone(), receipts, seconds: *seconds });
            }
            By::Caller => r.seen = Some(receipts),
            By::Keys => {}
        }
    }

    fn other(&self) -> String {
        format!("the first {} receipts are not those of {}", self.checkpoint.size, self.which)
    }
}

/// The checkpoints that are known from elsewhere, those of fewer receipts first.
fn known(log: &dyn Source, followed: Followed, how: How<'_>) -> Result<Vec<Known>, String> {
    let mut all = Vec::new();
    if let Some(seen) = how.seen {
        let which = "the checkpoint seen before".into();
        all.push(Known { checkpoint: seen.clone(), which, by: By::Caller });
    }
    for witness in how.witnesses.map_or(&[][..], |asked| asked.known) {
        let found = Witnessed::read(log, &followed.keys, witness).map_err(|e| e.to_string())?;
        all.extend(found.map(|found| Known {
            checkpoint: found.checkpoint,
            which: format!("the checkpoint that {} has cosigned", witness.name),
            by: By::Witness(witness.name.clone(), found.seconds),
        }));
    }
    all.extend(followed.heads.into_iter().map(|checkpoint| {
        let which = "the checkpoint with which its keys were exchanged".into();
        Known { checkpoint, which, by: By::Keys }
    }));
    all.sort_by_key(|known| known.checkpoint.size);
    Ok(all)
}

/// Holds a growing tree against what was signed, and what is known from elsewhere.
struct Heads<'a> {
    log: &'a dyn Source,
    signed: &'a Checkpoint,
    /// What the tree has not grown to yet.
    known: std::iter::Peekable<std::vec::IntoIter<Known>>,
    tree: Tree,
    tiles: Growing,
}

impl Heads<'_> {
    /// Looks whether the tree has become one that is known.
    fn compare(&mut self, r: &mut Report) -> Result<(), String> {
        let size = self.tree.size();
        while let Some(known) = self.known.next_if(|known| known.checkpoint.size == size) {
            if known.checkpoint.root != self.tree.root() {
                return Err(known.other());
            }
            known.met(r);
        }
        if size == self.signed.size || self.tiles.is_full() {
            let whole = std::mem::take(self.tiles.whole());
            check_tiles(self.log, whole.iter().map(|(place, hashes)| (*place, hashes.as_slice())), r);
        }
        if size == self.signed.size {
            check_tiles(self.log, self.tiles.partial(), r);
            if self.tree.root() != self.signed.root {
                return Err(format!("the first {size} receipts are not those that were signed"));
            }
        }
        Ok(())
    }

    fn push(&mut self, leaf: Hash, r: &mut Report) -> Result<(), String> {
        // Tiles are there for what is signed.
        if self.tree.size() < self.signed.size {
            self.tiles.push(&mut self.tree, leaf);
        } else {
            self.tree.push(leaf);
        }
        self.compare(r)
    }
}

fn check(
    log: &dyn Source,
    trusted: &TrustedKeys,
    how: How<'_>,
    r: &mut Report,
    sequences: &mut Sequences,
) -> Result<(), String> {
    let origin = log.read("origin", NOTE_MAX).map_err(|e| format!("origin: {e}"))?;
    if origin != format!("{}\n", trusted.origin()).as_bytes() {
        return Err("it is another log than the one the keys are for".into());
    }
    let followed = rotation::follow(log, trusted).map_err(|e| e.to_string())?;
    let trusted = &followed.keys.clone();
    (r.keys_since, r.keys) = (trusted.epochs().iter().map(|epoch| epoch.since).collect(), trusted.clone());
    let text = log.read("log.pub", trust::TEXT_MAX).map_err(|e| format!("log.pub: {e}"))?;
    let own = std::str::from_utf8(&text).ok().and_then(TrustedKeys::parse);
    // It has fewer while they are exchanged.
    if !own.is_some_and(|own| own.to_string().as_bytes() == text && trusted.begins_with(&own)) {
        r.tampered("log.pub holds other keys than the trusted ones, or those that they lead to".into());
    }
    let note = log.read("checkpoint", NOTE_MAX).map_err(|e| format!("checkpoint: {e}"))?;
    let checkpoint = trusted.open(&note).map_err(|e| format!("checkpoint: {e}"))?;
    (r.signed, r.checkpoint) = (checkpoint.size, note);
    let hash = origin_hash(trusted.origin());
    let segments = segment::list(log).map_err(|e| e.to_string())?;
    let (skipped, (tree, tiles)) = begin(log, &segments, &checkpoint, r)?;
    let segments = &segments[skipped..];
    let known = known(log, followed, how)?.into_iter().peekable();
    let mut heads = Heads { log, signed: &checkpoint, known, tree, tiles };
    while let Some(known) = heads.known.next_if(|known| known.checkpoint.size < r.pruned) {
        match compare_pruned(log, &known.checkpoint, &checkpoint) {
            Some(true) => known.met(r),
            Some(false) => return Err(known.other()),
            // What it has said does not count; what was exchanged there is proven by itself.
            None if !matches!(known.by, By::Caller) => {}
            None => {
                r.verdict = Verdict::Incomplete;
                r.problems.push(format!(
                    "{} ends with receipt {}, and what it is compared by was pruned: remember one more often than receipts are pruned",
                    known.which, known.checkpoint.size
                ));
            }
        }
    }
    heads.compare(r)?;
    let mut said = 0;
    let mut chains = Chains::default();
    let mut named = BTreeSet::new();
    let at_once = std::thread::available_parallelism().map_or(1, usize::from).min(AT_ONCE);
    let mut done = 0;
    let read = |(_, name): &(u64, String)| part::read(log, name, &hash, trusted);
    ahead::in_order(segments, at_once, read, |(_, name), part| {
        done += 1;
        let part = part?;
        if part.first != heads.tree.size() {
            return Err(format!(
                "{name}: begins with receipt {} instead of {}",
                part.first,
                heads.tree.size()
            ));
        }
        // Of those that are no receipts nothing is known, and that is said.
        if part.facts.len() == part.leaves.len() {
            for (facts, leaf) in part.facts.iter().zip(&part.leaves) {
                follow(&mut chains, facts, *leaf, r);
            }
        }
        part.leaves.into_iter().try_for_each(|leaf| heads.push(leaf, r))?;
        part.problems.into_iter().for_each(|problem| r.tampered(problem));
        for (index, facts) in (part.first..).zip(&part.facts) {
            said = said.max(facts.before);
            sequences.note(facts);
            if facts.kind() == "keys" {
                exchanged(trusted, index, checkpoint.size, r);
            }
        }
        named.extend(part.policies);
        for (kind, n) in SCHEMAS.iter().zip(part.kinds).filter(|(_, n)| *n > 0) {
            *r.kinds.entry(kind.name).or_default() += n;
        }
        r.receipts = heads.tree.size();
        r.signatures += part.signatures;
        if let Some((index, problem)) = part.unsigned {
            unfinished(r, done == segments.len() && index >= checkpoint.size, problem);
        }
        if let Some(problem) = part.unfinished {
            unfinished(r, done == segments.len() && r.receipts >= checkpoint.size, problem);
        }
        if let Some(progress) = how.progress {
            progress(done, segments.len());
        }
        Ok(())
    })?;
    check_policies(log, &named, r)?;
    if how.index {
        for (number, name) in segments {
            let right = index::is_right(log, *number, name).map_err(|e| e.to_string())?;
            if right == Some(false) {
                r.tampered(format!(
                    "the index of {} is not what its receipts say",
                    segment::file_name(*number)
                ));
            }
        }
    }
    if r.pruned > said {
        return Err(format!(
            "the first {} receipts are gone, and no receipt says that they were pruned",
            r.pruned
        ));
    }
    if r.receipts < checkpoint.size {
        return Err(format!("{} receipts where {} were signed", r.receipts, checkpoint.size));
    }
    r.unsigned = r.receipts - checkpoint.size;
    // What is left has more receipts than the log.
    match heads.known.next() {
        Some(known) => Err(format!(
            "{} receipts, where {} had {}: it was rolled back",
            r.receipts, known.which, known.checkpoint.size
        )),
        None => Ok(()),
    }
}

/// Looks whether a receipt goes on with its session's chain.
fn follow(chains: &mut Chains, facts: &Facts, leaf: Hash, r: &mut Report) {
    if let Some(session) = facts.session {
        let right = match chains.last(session) {
            Some(last) => facts.prev == last,
            // What is before may have been pruned.
            None => facts.prev == chain::NONE || r.pruned > 0,
        };
        if !right {
            r.tampered(format!("a receipt of session {session:016x} does not name the one before"));
        }
    }
    chains.take(facts.step(), leaf);
}

/// Holds the texts of policies against the hashes by which receipts name them.
fn check_policies(log: &dyn Source, named: &BTreeSet<Name>, r: &mut Report) -> Result<(), String> {
    if named.len() > POLICIES_MAX {
        return Err(format!("receipts name {} policies, and a log has {POLICIES_MAX} at most", named.len()));
    }
    for name in named {
        let file = policies::file(name);
        match policies::is_kept(log, name).map_err(|e| format!("{file}: {e}"))? {
            Some(true) => r.policies += 1,
            Some(false) => r.tampered(format!("{file}: not the policy that receipts name")),
            None => r.policies_missing += 1,
        }
    }
    if r.policies_missing > 0 {
        if r.verdict == Verdict::Intact {
            r.verdict = Verdict::Incomplete;
        }
        let n = r.policies_missing;
        r.problems
            .push(format!("the texts of {n} policies that receipts name are not in {}/", policies::DIR));
    }
    Ok(())
}

/// Whether what a receipt says of an exchange of keys is proven. The last one that is signed may not be yet.
fn exchanged(trusted: &TrustedKeys, index: u64, signed: u64, r: &mut Report) {
    let since = index.saturating_add(1);
    let proven = trusted.epochs().iter().any(|epoch| epoch.since == since);
    if !proven && since < signed {
        r.tampered(format!(
            "receipt {index} exchanges the keys, and {}/{since} does not prove it",
            rotation::DIR
        ));
    }
}

/// The tree before the first receipt that is there, and how many segments to leave out. Of what was pruned a file, or tiles, say what it came to;
/// whether that is true shows when the rest leads to what was signed.
fn begin(
    log: &dyn Source,
    segments: &[(u64, String)],
    checkpoint: &Checkpoint,
    r: &mut Report,
) -> Result<(usize, (Tree, Growing)), String> {
    let first = |(_, name): &(u64, String)| segment::first(log, name).map_err(|e| format!("{name}: {e}"));
    let Some(begin) = segments.first().map(first).transpose()?.filter(|first| *first > 0) else {
        return Ok(Default::default());
    };
    let edge = edge::read(log);
    let size = edge.as_ref().map_or(0, |(tree, _)| tree.size());
    let tiles = if size == begin { None } else { Tiles::new(log, checkpoint.size).tree(begin) };
    let (skipped, before) = match (edge, tiles) {
        (_, Some(tiles)) => (0, tiles),
        // What is left of the segments before is taken away at the next start.
        (Some(edge), None) => {
            let mut skipped = 0;
            while skipped < segments.len() && first(&segments[skipped])? < size {
                skipped += 1;
            }
            (skipped, edge)
        }
        (None, None) => {
            return Err(format!("the first {begin} receipts are gone, and nothing says what they come to"));
        }
    };
    r.pruned = before.0.size();
    r.receipts = r.pruned;
    Ok((skipped, before))
}

/// Whether the log begins with what a checkpoint had whose last receipts were pruned since, by a proof from tiles. `None`: those were, too.
fn compare_pruned(log: &dyn Source, old: &Checkpoint, signed: &Checkpoint) -> Option<bool> {
    Tiles::new(log, signed.size).begins_with((old.size, &old.root), &signed.root)
}

/// A tail beyond everything signed may be half written; anywhere else it is damage.
fn unfinished(r: &mut Report, tail: bool, problem: String) {
    if !tail {
        r.tampered(problem);
        return;
    }
    if r.verdict == Verdict::Intact {
        r.verdict = Verdict::Incomplete;
    }
    r.problems.push(format!("{problem} (after everything signed: a write that did not finish)"));
}
