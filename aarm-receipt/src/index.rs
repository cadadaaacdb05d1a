//! What a segment has, so that who looks for something need not read those that have it not.
//!
//! ```text
//! <log>/index/<segment's number, 10 digits>.idx
//!
//! offset  0  magic "AARMIDX1"
//!         8  u64 index of the segment's first receipt
//!        16  u64 receipts
//!        24  u32 1: it has more paths than are listed
//!        28  u32 bytes of the terms as they are here
//!        32  earliest time, as receipts have it (30 bytes), latest time, and 4 bytes of zero
//!        96  terms: a zstd frame of lines, sorted, none twice
//!            u32 CRC-32C of all before
//! ```
//! All numbers little-endian. A term is a letter for the member, and its value: `s` session's id, `u` its UUID, `k` kind, `o` operation, `t` tool, `d` decision, `r` rule,
//! `h` human, `p` path. Derived from the receipts, made when a segment is not written any more, and made anew where it is missing. Must never:
//! be believed by who verifies.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::log::origin_hash;
use crate::note::NOTE_MAX;
use crate::placing;
use crate::read::ReadError;
use crate::segment::{self, Kind, Scanner, SegmentError};
use crate::source::Source;

/// The directory.
pub const DIR: &str = "index";
const MAGIC: &[u8; 8] = b"AARMIDX1";
const HEADER: usize = 96;
/// Bytes of a time.
const TIME: usize = 30;
/// Most paths that are listed of one segment, and the bytes of terms after which no more are.
const PATHS_MAX: usize = 1 << 17;
const PATH_BYTES_MAX: usize = 16 << 20;
/// Largest index read, in bytes.
const INDEX_MAX: usize = 64 << 20;
/// The same of its terms, decompressed: so many paths of their greatest length do not fit, those of a real log do many times over.
const TERMS_MAX: usize = 64 << 20;

/// What is looked for: receipts that have all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The session, by its id or UUID.
    pub session: Option<String>,
    /// The kind.
    pub kind: Option<String>,
    /// The operation.
    pub operation: Option<String>,
    /// The operation's family.
    pub tool: Option<String>,
    /// The decision.
    pub decision: Option<String>,
    /// The rule that decided, or asked.
    pub rule: Option<String>,
    /// The human.
    pub human: Option<String>,
    /// A path, or what is below it; as receipts have it, without a `/` at its end.
    pub path: Option<String>,
    /// From this time on, as receipts have it ([`receipt::time_text`]).
    pub since: Option<String>,
    /// Before this time.
    pub until: Option<String>,
}

/// What one segment has.
pub struct Index {
    /// Index of its first receipt.
    pub first: u64,
    /// How many it has.
    pub receipts: u64,
    earliest: String,
    latest: String,
    /// Not all paths are listed.
    more_paths: bool,
    terms: Terms,
}

/// Terms, sorted: lines of a text.
struct Terms {
    text: String,
    /// Where each begins.
    begins: Vec<u32>,
}

impl Terms {
    /// `None`: they are not lines, or not sorted.
    fn of(text: String) -> Option<Self> {
        if text.len() > TERMS_MAX || !text.is_empty() && !text.ends_with('\n') {
            return None;
        }
        let mut begins = Vec::new();
        let (mut at, mut before) = (0, "");
        for line in text.split_inclusive('\n') {
            if line <= before {
                return None;
            }
            begins.push(at as u32);
            (at, before) = (at + line.len(), line);
        }
        Some(Self { text, begins })
    }

    fn get(&self, at: usize) -> Option<&str> {
        let begin = *self.begins.get(at)? as usize;
        self.text[begin..].split('\n').next()
    }

    /// The first that is not less.
    fn from(&self, term: &str) -> Option<&str> {
        let at = self.begins.partition_point(|begin| {
            self.text[*begin as usize..].split('\n').next().is_some_and(|line| line < term)
        });
        self.get(at)
    }

    fn has(&self, term: &str) -> bool {
        self.from(term) == Some(term)
    }
}

/// Its terms, while they are gathered.
#[derive(Default)]
struct Gathered {
    terms: BTreeSet<String>,
    bytes: usize,
    paths: usize,
    more_paths: bool,
}

impl Gathered {
    fn add(&mut self, of: char, value: &Value) {
        let Some(text) = value.as_str() else { return };
        let term = format!("{of}{text}");
        if self.terms.contains(&term) {
            return;
        }
        let is_path = of == 'p';
        if is_path && (self.paths == PATHS_MAX || self.bytes + term.len() > PATH_BYTES_MAX) {
            self.more_paths = true;
            return;
        }
        self.paths += usize::from(is_path);
        self.bytes += term.len() + 1;
        self.terms.insert(term);
    }

    fn receipt(&mut self, r: &Value) {
        for (of, value) in [
            ('s', &r["session"]["id"]),
            ('u', &r["session"]["uuid"]),
            ('k', &r["kind"]),
            ('o', &r["action"]["operation"]),
            ('t', &r["action"]["tool"]),
            ('d', &r["decision"]["result"]),
            ('r', &r["decision"]["rule"]),
            ('r', &r["detail"]["rule"]),
            ('h', &r["identity"]["human"]),
            ('p', &r["action"]["path"]),
            ('p', &r["action"]["path2"]),
        ] {
            self.add(of, value);
        }
    }
}

fn name_of(number: u64) -> String {
    format!("{DIR}/{number:010}.idx")
}

fn path_of(log: &Path, number: u64) -> PathBuf {
    log.join(name_of(number))
}

/// Bytes of a header at a place.
fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

impl Index {
    /// Of a segment, from its receipts. What is none of them is overlooked: verification finds it.
    pub fn of(log: impl Source, segment: &str) -> Result<Self, ReadError> {
        let failed = |source| ReadError::Segment { path: log.path(segment), source };
        let origin = log
            .read("origin", NOTE_MAX)
            .map_err(|source| ReadError::Io { path: log.path("origin"), source })?;
        let origin = origin_hash(String::from_utf8_lossy(&origin).trim_end());
        let first = segment::first(&log, segment).map_err(failed)?;
        let mut scanner = Scanner::open(&log, segment, first, &origin).map_err(failed)?;
        let mut gathered = Gathered::default();
        let (mut receipts, mut earliest, mut latest) = (0, String::new(), String::new());
        while let Some((kind, bytes)) = scanner.next_record().map_err(failed)? {
            if kind != Kind::Receipt {
                continue;
            }
            receipts += 1;
            let Ok(r) = serde_json::from_slice::<Value>(bytes) else { continue };
            gathered.receipt(&r);
            let Some(time) = r["time"].as_str().filter(|time| time.len() == TIME) else { continue };
            if earliest.is_empty() || time < earliest.as_str() {
                time.clone_into(&mut earliest);
            }
            if time > latest.as_str() {
                time.clone_into(&mut latest);
            }
        }
        // Receipts have no line ends: what they have of them is encoded.
        let lines = gathered.terms.into_iter().filter(|term| !term.contains('\n'));
        let text = lines.flat_map(|term| [term, "\n".to_owned()]).collect();
        let too_many = || failed(SegmentError::Header("more different members than an index takes"));
        let terms = Terms::of(text).ok_or_else(too_many)?;
        Ok(Self { first, receipts, earliest, latest, more_paths: gathered.more_paths, terms })
    }

    /// Its one form.
    fn bytes(&self) -> std::io::Result<Vec<u8>> {
        let terms = zstd::bulk::compress(self.terms.text.as_bytes(), segment::LEVEL)?;
        let mut out = Vec::with_capacity(HEADER + terms.len() + 4);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&self.receipts.to_le_bytes());
        out.extend_from_slice(&u32::from(self.more_paths).to_le_bytes());
        out.extend_from_slice(&(terms.len() as u32).to_le_bytes());
        for time in [&self.earliest, &self.latest] {
            let mut room = [0; TIME];
            room[..time.len()].copy_from_slice(time.as_bytes());
            out.extend_from_slice(&room);
        }
        out.resize(HEADER, 0);
        out.extend_from_slice(&terms);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        Ok(out)
    }

    /// Reads its one form. `None`: it is not one.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (covered, crc) = bytes.split_last_chunk::<4>()?;
        if covered.get(..8)? != MAGIC || u32::from_le_bytes(*crc) != crc32c::crc32c(covered) {
            return None;
        }
        let (first, receipts, more) = (u64_at(covered, 8)?, u64_at(covered, 16)?, u32_at(covered, 24)?);
        let terms = covered.get(HEADER..)?;
        let time = |at: usize| {
            let text = std::str::from_utf8(covered.get(at..at + TIME)?).ok()?.trim_end_matches('\0');
            Some(text.to_owned())
        };
        let (earliest, latest) = (time(32)?, time(32 + TIME)?);
        if u32_at(covered, 28)? as usize != terms.len()
            || more > 1
            || covered[32 + 2 * TIME..HEADER] != [0; 4]
        {
            return None;
        }
        let mut text = String::new();
        let mut decoder = zstd::Decoder::new(terms).ok()?;
        decoder.window_log_max(segment::WINDOW_LOG_MAX).ok()?;
        decoder.take(TERMS_MAX as u64 + 1).read_to_string(&mut text).ok()?;
        let terms = Terms::of(text)?;
        Some(Self { first, receipts, earliest, latest, more_paths: more == 1, terms })
    }

    /// Keeps it beside the log: whole under its name, or not there, also after a loss of power. Half of one would be taken for one that was
    /// tampered with, and for no reason to make another.
    pub fn place(&self, log: &Path, number: u64) -> Result<(), ReadError> {
        let path = path_of(log, number);
        let write = || {
            std::fs::create_dir_all(log.join(DIR))?;
            placing::durable(&path, &self.bytes()?)
        };
        write().map_err(|source| ReadError::Io { path: path.clone(), source })
    }

    /// What is kept of a segment that begins with a receipt. `None`: nothing, or nothing of use.
    pub fn read(log: impl Source, number: u64, first: u64) -> Option<Self> {
        let found = Self::parse(&log.read(&name_of(number), INDEX_MAX).ok()?)?;
        (found.first == first).then_some(found)
    }

    /// Whether some of its receipts may be among those that are looked for; if not, none is.
    pub fn may_have(&self, wanted: &Wanted) -> bool {
        let has = |of: char, value: &Option<String>| {
            value.as_ref().is_none_or(|value| self.terms.has(&format!("{of}{value}")))
        };
        let session = wanted.session.is_none() || has('s', &wanted.session) || has('u', &wanted.session);
        let timely = wanted.since.as_ref().is_none_or(|since| *since <= self.latest)
            && wanted.until.as_ref().is_none_or(|until| *until > self.earliest);
        timely
            && session
            && has('k', &wanted.kind)
            && has('o', &wanted.operation)
            && has('t', &wanted.tool)
            && has('d', &wanted.decision)
            && has('r', &wanted.rule)
            && has('h', &wanted.human)
            && (self.more_paths || wanted.path.as_deref().is_none_or(|path| self.has_path(path)))
    }

    fn has_path(&self, path: &str) -> bool {
        let below = if path == "/" { "p/".to_owned() } else { format!("p{path}/") };
        self.terms.from(&below).is_some_and(|term| term.starts_with(&below))
            || self.terms.has(&format!("p{path}"))
    }
}

/// Makes the index of a segment, and keeps it.
pub fn make(log: &Path, number: u64, segment: &str) -> Result<(), ReadError> {
    Index::of(log, segment)?.place(log, number)
}

/// Whether what is kept of a segment is what its receipts say. `None`: nothing is kept.
pub fn is_right(log: impl Source, number: u64, segment: &str) -> Result<Option<bool>, ReadError> {
    let name = name_of(number);
    let io = |source| ReadError::Io { path: log.path(&name), source };
    let kept = match log.read(&name, INDEX_MAX) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        kept => kept.map_err(io)?,
    };
    Ok(Some(Index::of(&log, segment)?.bytes().map_err(io)? == kept))
}

/// Whether there is one of a segment. What is in it shows when it is read.
pub fn is_there(log: &Path, number: u64) -> bool {
    path_of(log, number).exists()
}

/// Takes away that of a segment that goes.
pub(crate) fn remove(log: &Path, number: u64) {
    // Where it stays, it only takes room.
    let _ = std::fs::remove_file(path_of(log, number));
}

/// Makes the index of each segment anew, but for the one that is written. `each` is told how many of how many are done. How many.
pub fn rebuild(log: &Path, mut each: impl FnMut(usize, usize)) -> Result<usize, ReadError> {
    let mut all = segment::list(log).map_err(|source| ReadError::Io { path: log.to_path_buf(), source })?;
    all.pop();
    let directory = log.join(DIR);
    match std::fs::remove_dir_all(&directory) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(ReadError::Io { path: directory, source: e });
        }
        _ => {}
    }
    for (done, (number, name)) in all.iter().enumerate() {
        each(done, all.len());
        make(log, *number, name)?;
    }
    each(all.len(), all.len());
    Ok(all.len())
}
