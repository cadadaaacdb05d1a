//! Verification of a copied log directory: every byte, offline, with the public keys only.
//!
//! Trusts nothing it reads. What it finds wrong first decides the verdict; reading goes on in bounded memory
//! only as far as the log can still be understood.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::keys::TrustedKeys;
use crate::log::origin_hash;
use crate::merkle::{self, Hash, Tree};
use crate::note::Checkpoint;
use crate::receipt;
use crate::segment::{self, Kind, Scanner};
use crate::tile::{self, Growing, Place};

/// The one-word result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every byte is what was signed.
    Intact,
    /// What is there is genuine, but receipts are missing without an explanation in the log.
    Incomplete,
    /// Something is not what was signed, or was never signed.
    Tampered,
}

/// What verification found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The result.
    pub verdict: Verdict,
    /// The log's name.
    pub origin: String,
    /// Receipts read.
    pub receipts: u64,
    /// Receipts under the checkpoint.
    pub signed: u64,
    /// Receipts after it: written, not signed yet.
    pub unsigned: u64,
    /// Receipts with a signature of their own, checked.
    pub signatures: u64,
    /// Kernel events that have no receipt.
    pub missing: u64,
    /// How many of them the log itself declares.
    pub declared: u64,
    /// Receipts of each kind.
    pub kinds: BTreeMap<String, u64>,
    /// Receipts under a checkpoint that the caller saw before, with which the log begins.
    pub seen: Option<u64>,
    /// Tiles of the tree that are not there. They are derived: nothing is lost with them.
    pub tiles_missing: u64,
    /// The signed note that it was held against, if there is one to believe.
    #[serde(skip)]
    pub checkpoint: Vec<u8>,
    /// What is wrong, first things first.
    pub problems: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Intact => "intact",
            Verdict::Incomplete => "INCOMPLETE",
            Verdict::Tampered => "TAMPERED",
        };
        writeln!(f, "{}: {verdict}", self.origin)?;
        writeln!(
            f,
            "  {} receipts, {} signed, {} not signed yet",
            self.receipts, self.signed, self.unsigned
        )?;
        writeln!(f, "  {} signatures of single receipts checked", self.signatures)?;
        if let Some(seen) = self.seen {
            writeln!(f, "  begins with the {seen} receipts of the checkpoint seen before")?;
        }
        if self.tiles_missing > 0 {
            let n = self.tiles_missing;
            writeln!(
                f,
                "  {n} tiles are missing; nothing is lost with them, and the daemon's next start brings them back"
            )?;
        }
        writeln!(f, "  {} events without a receipt, {} of them declared", self.missing, self.declared)?;
        for (kind, n) in &self.kinds {
            writeln!(f, "  {n:>10} {kind}")?;
        }
        self.problems.iter().try_for_each(|p| writeln!(f, "  problem: {p}"))
    }
}

/// Most problems listed.
const PROBLEMS_MAX: usize = 20;

/// Sequence numbers of one CPU since they last began.
struct Sequence {
    /// The first that must be there.
    base: u64,
    /// One above the highest seen.
    end: u64,
    seen: u64,
}

/// Counts what is missing.
#[derive(Default)]
struct Sequences {
    cpus: BTreeMap<u64, Sequence>,
    missing: u64,
    declared: u64,
    repeated: bool,
    /// Numbers begin at 0: the programs were loaded under this log. Otherwise it took over running ones, and
    /// where they were is not known.
    from_zero: bool,
}

impl Sequences {
    fn event(&mut self, value: &Value) {
        if let (Some(cpu), Some(n)) = (value["seq"]["cpu"].as_u64(), value["seq"]["n"].as_u64()) {
            let base = if self.from_zero { 0 } else { n };
            let s = self.cpus.entry(cpu).or_insert(Sequence { base, end: n, seen: 0 });
            s.base = s.base.min(n);
            s.end = s.end.max(n.saturating_add(1));
            s.seen += 1;
        }
        match value["kind"].as_str() {
            Some("gap") => self.declared += value["detail"]["missing"].as_u64().unwrap_or(0),
            // Programs loaded anew count from 0 again.
            Some("start") if value["detail"]["adopted"] == false => {
                self.close();
                self.from_zero = true;
            }
            _ => {}
        }
    }

    fn close(&mut self) {
        for s in std::mem::take(&mut self.cpus).into_values() {
            self.repeated |= s.seen > s.end - s.base;
            self.missing += (s.end - s.base).saturating_sub(s.seen);
        }
    }
}

/// Verifies a log directory. `seen`: a checkpoint of this log that the caller saw and believed before; a log that does not begin with what it
/// has was rolled back, or is another one.
pub fn verify_dir(dir: &Path, trusted: &TrustedKeys, seen: Option<&Checkpoint>) -> Report {
    let mut r = Report {
        verdict: Verdict::Intact,
        origin: trusted.log.name.clone(),
        receipts: 0,
        signed: 0,
        unsigned: 0,
        signatures: 0,
        missing: 0,
        declared: 0,
        kinds: BTreeMap::new(),
        seen: None,
        tiles_missing: 0,
        checkpoint: Vec::new(),
        problems: Vec::new(),
    };
    let mut sequences = Sequences::default();
    if let Err(problem) = check(dir, trusted, seen, &mut r, &mut sequences) {
        tampered(&mut r, problem);
    }
    sequences.close();
    (r.missing, r.declared) = (sequences.missing, sequences.declared);
    if sequences.repeated {
        tampered(&mut r, "an event number occurs twice".into());
    }
    if r.verdict == Verdict::Intact && r.missing > r.declared {
        r.verdict = Verdict::Incomplete;
        r.problems.push(format!("{} events have no receipt and no explanation", r.missing - r.declared));
    }
    r
}

fn tampered(r: &mut Report, problem: String) {
    r.verdict = Verdict::Tampered;
    if r.problems.len() < PROBLEMS_MAX {
        r.problems.push(problem);
    }
}

/// Holds tiles against those that there should be.
fn check_tiles<'a>(dir: &Path, tiles: impl Iterator<Item = (Place, &'a [Hash])>, r: &mut Report) {
    for (place, hashes) in tiles {
        match tile::read(dir, place) {
            Some(found) if found == hashes => {}
            None if !place.path(dir).exists() => {
                // A partial one goes when the tree has grown.
                r.tiles_missing += u64::from(place.width == tile::WIDTH);
            }
            _ => tampered(
                r,
                format!("{}: not the tree's hashes", tile::path(place.level, place.n, place.width)),
            ),
        }
    }
}

fn check(
    dir: &Path,
    trusted: &TrustedKeys,
    seen: Option<&Checkpoint>,
    r: &mut Report,
    sequences: &mut Sequences,
) -> Result<(), String> {
    let origin = std::fs::read_to_string(dir.join("origin")).map_err(|e| format!("origin: {e}"))?;
    if origin != format!("{}\n", trusted.log.name) {
        return Err("the directory holds another log than the keys are for".into());
    }
    match std::fs::read_to_string(dir.join("log.pub")) {
        Ok(text) if text == trusted.to_string() => {}
        Ok(_) => tampered(r, "log.pub holds other keys than the trusted ones".into()),
        Err(e) => return Err(format!("log.pub: {e}")),
    }
    let note = std::fs::read(dir.join("checkpoint")).map_err(|e| format!("checkpoint: {e}"))?;
    let checkpoint = Checkpoint::open(&note, &trusted.log).map_err(|e| format!("checkpoint: {e}"))?;
    r.signed = checkpoint.size;
    r.checkpoint = note;
    let hash = origin_hash(&trusted.log.name);
    let segments = segment::list(dir).map_err(|e| e.to_string())?;
    let (mut tree, mut tiles) = (Tree::default(), Growing::default());
    let mut proven = checkpoint.size == 0 && checkpoint.root == tree.root();
    let begins = |tree: &Tree, r: &mut Report| match seen {
        Some(seen) if seen.size == tree.size() => {
            if seen.root != tree.root() {
                return Err(format!(
                    "the first {} receipts are not those of the checkpoint seen before",
                    seen.size
                ));
            }
            r.seen = Some(seen.size);
            Ok(())
        }
        _ => Ok(()),
    };
    begins(&tree, r)?;
    let last = segments.len().saturating_sub(1);
    for (i, (_, path)) in segments.iter().enumerate() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut scanner = Scanner::open(path, tree.size(), &hash).map_err(|e| format!("{name}: {e}"))?;
        // The receipt a signature record would belong to.
        let mut before: Option<Vec<u8>> = None;
        loop {
            let at = scanner.offset();
            match scanner.next_record() {
                Ok(Some((Kind::Receipt, bytes))) => {
                    let leaf = merkle::leaf(bytes);
                    if tree.size() < checkpoint.size {
                        tiles.push(&mut tree, leaf);
                    } else {
                        tree.push(leaf);
                    }
                    begins(&tree, r)?;
                    if tiles.is_full() || tree.size() == checkpoint.size {
                        let whole = std::mem::take(tiles.whole());
                        check_tiles(dir, whole.iter().map(|(place, hashes)| (*place, hashes.as_slice())), r);
                    }
                    if tree.size() == checkpoint.size {
                        check_tiles(dir, tiles.partial(), r);
                        proven = tree.root() == checkpoint.root;
                        if !proven {
                            return Err(format!(
                                "the first {} receipts are not those that were signed",
                                tree.size()
                            ));
                        }
                    }
                    let place = || format!("{name}: receipt {} at byte {at}", tree.size() - 1);
                    match receipt::parse(bytes) {
                        Ok(value) => {
                            let kind = value["kind"].as_str().unwrap_or_default().to_owned();
                            *r.kinds.entry(kind).or_default() += 1;
                            sequences.event(&value);
                        }
                        Err(e) => tampered(r, format!("{}: {e}", place())),
                    }
                    r.receipts += 1;
                    before = Some(bytes.to_vec());
                }
                Ok(Some((Kind::Signature, signature))) => {
                    let Some(receipt) = before.take() else {
                        tampered(r, format!("{name}: a signature without a receipt at byte {at}"));
                        continue;
                    };
                    if trusted.receipt.verify(&receipt, signature) {
                        r.signatures += 1;
                    } else {
                        tampered(r, format!("{name}: a wrong signature at byte {at}"));
                    }
                }
                Ok(None) => {
                    if let Err(e) = scanner.check_rest() {
                        unfinished(r, i == last && tree.size() >= checkpoint.size, format!("{name}: {e}"));
                    }
                    break;
                }
                Err(e) => {
                    unfinished(r, i == last && tree.size() >= checkpoint.size, format!("{name}: {e}"));
                    break;
                }
            }
        }
    }
    if !proven {
        return Err(format!("{} receipts where {} were signed", tree.size(), checkpoint.size));
    }
    r.unsigned = tree.size() - checkpoint.size;
    match seen {
        Some(seen) if r.seen.is_none() => Err(format!(
            "{} receipts, where a checkpoint seen before had {}: it was rolled back",
            tree.size(),
            seen.size
        )),
        _ => Ok(()),
    }
}

/// A tail beyond everything signed may be half written; anywhere else it is damage.
fn unfinished(r: &mut Report, tail: bool, problem: String) {
    if !tail {
        tampered(r, problem);
        return;
    }
    if r.verdict == Verdict::Intact {
        r.verdict = Verdict::Incomplete;
    }
    r.problems.push(format!("{problem} (after everything signed: a write that did not finish)"));
}
