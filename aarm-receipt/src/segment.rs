//! The on-disk form of the log's hot part.
//!
//! ```text
//! <log>/segment-<number, 10 digits>.aarm      preallocated, zeros after the last record
//!
//! offset  0  magic "AARMSEG1"
//!         8  u32 version (1)
//!        12  u32 bytes of this header (64)
//!        16  u64 index of the first receipt
//!        24  SHA-256 of the log's origin
//!        56  u32 zero
//!        60  u32 CRC-32C of bytes 0..60
//!        64  records
//!
//! record  0  u32 kind << 24 | length (1 ..= 65535)
//!         4  u32 CRC-32C of the word before and the bytes after
//!         8  bytes
//! ```
//! One that is not written any more may be compressed: `segment-<number>.aarm.zst`, one zstd frame of all these bytes.
//!
//! All numbers little-endian. Kinds: 0 a receipt, the leaf of the tree; 1 the Ed25519 signature of the
//! receipt before it. A word of zero ends the segment, and only zeros follow.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::path::Path;

use crate::merkle::Hash;
use crate::receipt::MAX_RECEIPT;
use crate::source::Source;

/// Bytes of the header.
pub const HEADER: usize = 64;
/// Bytes before a record's content.
pub const RECORD_HEADER: usize = 8;
/// Largest segment.
pub const SEGMENT_MAX: u64 = 1 << 30;
/// zstd's own default: what more costs in time saves little in room.
pub(crate) const LEVEL: i32 = 3;
/// Memory that decompressing may take, as a power of two: more than compressing ever asks for here.
pub(crate) const WINDOW_LOG_MAX: u32 = 23;
const MAGIC: &[u8; 8] = b"AARMSEG1";
const VERSION: u32 = 1;

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A receipt.
    Receipt,
    /// The signature of the receipt before.
    Signature,
}

/// Why a segment cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// The header is not this log's.
    #[error("header: {0}")]
    Header(&'static str),
    /// A record is not whole.
    #[error("damaged record at byte {0}")]
    Record(u64),
    /// Something follows the end.
    #[error("bytes after the end, at {0}")]
    AfterEnd(u64),
}

impl SegmentError {
    /// There is no such segment, or none any more.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Io(e) if e.kind() == std::io::ErrorKind::NotFound)
    }
}

/// A segment's file name.
pub fn file_name(number: u64) -> String {
    format!("segment-{number:010}.aarm")
}

/// The same of one that is compressed.
pub fn compressed_name(number: u64) -> String {
    format!("{}.zst", file_name(number))
}

/// Whether a segment is compressed.
pub(crate) fn is_compressed(name: impl AsRef<Path>) -> bool {
    name.as_ref().extension().is_some_and(|extension| extension == "zst")
}

/// A segment's file, and whether it is compressed: it may have been since it was listed.
pub(crate) fn open(log: impl Source, name: &str) -> std::io::Result<(Box<dyn Read + Send>, bool)> {
    match log.open(name) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !is_compressed(name) => {
            Ok((log.open(&format!("{name}.zst")).map_err(|_| e)?, true))
        }
        file => Ok((file?, is_compressed(name))),
    }
}

/// A segment's bytes: no more than a segment can have.
pub(crate) fn bytes(log: impl Source, name: &str) -> std::io::Result<Box<dyn Read + Send>> {
    let (file, is_compressed) = open(log, name)?;
    if !is_compressed {
        return Ok(Box::new(file.take(SEGMENT_MAX)));
    }
    let mut decoder = zstd::Decoder::new(file)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    Ok(Box::new(decoder.take(SEGMENT_MAX)))
}

/// How often a directory is read until it is the same twice.
const LISTINGS: usize = 16;

/// The segments of a log by number and name, in order; the first ones may have been pruned. A name that is nearly one is an error, not
/// overlooked.
pub fn list(log: impl Source) -> std::io::Result<Vec<(u64, String)>> {
    // Of a segment that gets another name meanwhile, one reading may see neither.
    let mut found = list_once(&log)?;
    for _ in 0..LISTINGS {
        let again = list_once(&log)?;
        let same = again.iter().map(|(n, _)| n).eq(found.iter().map(|(n, _)| n));
        found = again;
        if same {
            break;
        }
    }
    for pair in found.windows(2) {
        let next = pair[0].0 + 1;
        if pair[1].0 != next {
            return Err(std::io::Error::other(format!("{} is missing", file_name(next))));
        }
    }
    Ok(found)
}

fn list_once(log: impl Source) -> std::io::Result<Vec<(u64, String)>> {
    let mut found = BTreeMap::new();
    for name in log.names("")?.into_iter().filter(|name| name.starts_with("segment-")) {
        let number = name.strip_prefix("segment-").and_then(|n| n.split('.').next()?.parse().ok());
        match number {
            Some(n) if file_name(n) == name => _ = found.insert(n, name),
            // Where both are there, compressing it was not finished.
            Some(n) if compressed_name(n) == name => _ = found.entry(n).or_insert(name),
            _ => return Err(std::io::Error::other(format!("{name} is not a segment's name"))),
        }
    }
    Ok(found.into_iter().collect())
}

/// The header's bytes.
pub fn header(first: u64, origin: &Hash) -> [u8; HEADER] {
    let mut h = [0; HEADER];
    h[..8].copy_from_slice(MAGIC);
    h[8..12].copy_from_slice(&VERSION.to_le_bytes());
    h[12..16].copy_from_slice(&(HEADER as u32).to_le_bytes());
    h[16..24].copy_from_slice(&first.to_le_bytes());
    h[24..56].copy_from_slice(origin);
    let crc = crc32c::crc32c(&h[..60]);
    h[60..].copy_from_slice(&crc.to_le_bytes());
    h
}

/// Appends a record.
#[inline]
pub fn record(out: &mut Vec<u8>, kind: Kind, bytes: &[u8]) {
    assert!(!bytes.is_empty() && bytes.len() <= MAX_RECEIPT, "callers check the length");
    let word = ((kind as u32) << 24 | bytes.len() as u32).to_le_bytes();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&word), bytes);
    out.extend_from_slice(&word);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// A disk that cannot be read is no damage: that is for the system to say.
fn no_header(e: std::io::Error) -> SegmentError {
    if e.raw_os_error().is_some() { e.into() } else { SegmentError::Header("too short") }
}

/// The number of a segment's first receipt, as its header says.
pub fn first(log: impl Source, name: &str) -> Result<u64, SegmentError> {
    let mut found = [0; HEADER];
    bytes(log, name)?.read_exact(&mut found).map_err(no_header)?;
    let (mut first, mut origin) = ([0; 8], [0; 32]);
    first.copy_from_slice(&found[16..24]);
    origin.copy_from_slice(&found[24..56]);
    let first = u64::from_le_bytes(first);
    if found != header(first, &origin) {
        return Err(SegmentError::Header("not a segment's header"));
    }
    Ok(first)
}

/// Where a segment's records up to a receipt end, its own signature with it. What follows is not looked at: it may be half written.
pub(crate) fn end_of(
    log: impl Source,
    name: &str,
    first: u64,
    origin: &Hash,
    before: u64,
) -> Result<u64, SegmentError> {
    let mut scanner = Scanner::open(log, name, first, origin)?;
    let mut at = first;
    while at < before {
        match scanner.next_record()? {
            Some((Kind::Receipt, _)) => at += 1,
            Some((Kind::Signature, _)) => {}
            None => return Err(SegmentError::Record(scanner.offset())),
        }
    }
    let end = scanner.offset();
    let is_signed = matches!(scanner.next_record(), Ok(Some((Kind::Signature, _))));
    Ok(if is_signed { scanner.offset() } else { end })
}

/// Reads one segment, record by record, in bounded memory.
pub struct Scanner {
    file: BufReader<Box<dyn Read + Send>>,
    offset: u64,
    content: Vec<u8>,
    ended: bool,
}

impl Scanner {
    /// Opens a segment and checks its header.
    pub fn open(log: impl Source, name: &str, first: u64, origin: &Hash) -> Result<Self, SegmentError> {
        let mut file = BufReader::with_capacity(1 << 18, bytes(log, name)?);
        let mut found = [0; HEADER];
        file.read_exact(&mut found).map_err(no_header)?;
        if found != header(first, origin) {
            return Err(SegmentError::Header("not the header of this log and place"));
        }
        Ok(Self { file, offset: HEADER as u64, content: Vec::new(), ended: false })
    }

    /// Where the next record begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next record; `None` at the end.
    pub fn next_record(&mut self) -> Result<Option<(Kind, &[u8])>, SegmentError> {
        if self.ended {
            return Ok(None);
        }
        let damaged = SegmentError::Record(self.offset);
        let mut word = [0; 4];
        if !self.fill(&mut word)? {
            // A segment may be filled to its last byte, or to less than a word before it.
            self.ended = true;
            return if word == [0; 4] { Ok(None) } else { Err(damaged) };
        }
        let word32 = u32::from_le_bytes(word);
        if word32 == 0 {
            self.ended = true;
            return Ok(None);
        }
        let length = (word32 & 0xff_ffff) as usize;
        let kind = match word32 >> 24 {
            0 => Kind::Receipt,
            1 if length == 64 => Kind::Signature,
            _ => return Err(damaged),
        };
        if length == 0 || length > MAX_RECEIPT {
            return Err(damaged);
        }
        let mut crc = [0; 4];
        self.content.resize(length, 0);
        let mut content = std::mem::take(&mut self.content);
        let whole = self.fill(&mut crc)? && self.fill(&mut content)?;
        self.content = content;
        if !whole || crc32c::crc32c_append(crc32c::crc32c(&word), &self.content) != u32::from_le_bytes(crc) {
            return Err(damaged);
        }
        self.offset += (RECORD_HEADER + length) as u64;
        Ok(Some((kind, &self.content)))
    }

    /// Fills the buffer; false if the file ends before.
    fn fill(&mut self, mut to: &mut [u8]) -> Result<bool, SegmentError> {
        while !to.is_empty() {
            match self.file.read(to) {
                Ok(0) => return Ok(false),
                Ok(n) => to = &mut to[n..],
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(true)
    }

    /// After the end: checks that only zeros follow.
    pub fn check_rest(mut self) -> Result<(), SegmentError> {
        let mut at = self.offset;
        let mut buffer = [0; 1 << 14];
        loop {
            let n = match self.file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            };
            if let Some(i) = buffer[..n].iter().position(|b| *b != 0) {
                return Err(SegmentError::AfterEnd(at + i as u64));
            }
            at += n as u64;
        }
    }
}
