//! All receipts of a session with what proves them: a chain needs the proof of its last one only.
//!
//! ```text
//! <receipt>                one a line, oldest first, all but the last
//! ...
//! <the last one's proof, see `bundle`>
//! ```
//! Each receipt is named by the next ([`crate::chain`]), and the last one is proven to be in the log. So nothing can be changed, left out, or
//! added in between; and if it begins with `session_open` and ends with `session_close`, it is all there ever was. Memory is bounded by a
//! receipt. Must never: tell of a receipt before it is known to belong.

use std::collections::BTreeMap;
use std::io::{BufRead, Read, Write};

use memchr::memmem;

use crate::bundle::{self, BUNDLE_MAX, Bundle, BundleError, MAGIC, ProveError};
use crate::chain;
use crate::merkle::{self, Hash};
use crate::note::Checkpoint;
use crate::read::{ReadError, Reader};
use crate::receipt::{self, Facts, MAX_RECEIPT, ParseError};
use crate::source::Source;
use crate::trust::TrustedKeys;

/// Why there is no history of a session.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The last receipt cannot be proven.
    #[error(transparent)]
    Prove(#[from] ProveError),
    /// A receipt is none.
    #[error("receipt {index}: {source}: see `aarm verify`")]
    Receipt {
        /// Which.
        index: u64,
        /// Why.
        source: ParseError,
    },
    /// No receipt under a checkpoint is of that session.
    #[error("no receipt that is signed is of session {0}")]
    None(String),
    /// Writing failed.
    #[error("cannot write: {0}")]
    Io(#[from] std::io::Error),
}

/// Why a history is not believed.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// A line is no receipt.
    #[error("line {line}: {source}")]
    Receipt {
        /// From 1.
        line: u64,
        /// Why.
        source: ParseError,
    },
    /// A receipt does not name the one before it, or is another session's.
    #[error("line {line}: {what}")]
    Chain {
        /// From 1.
        line: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The last one's proof.
    #[error("the last receipt: {0}")]
    Bundle(#[from] BundleError),
}

/// What a history proves.
#[derive(Clone, Debug)]
pub struct History {
    /// The tree that the last receipt is in.
    pub checkpoint: Checkpoint,
    /// The note with its signatures.
    pub note: String,
    /// Its place there.
    pub index: u64,
    /// The session's id in the kernel.
    pub session: u64,
    /// The first receipt is the session's beginning.
    pub begins: bool,
    /// The last one is its end.
    pub ends: bool,
    /// How many there are, by kind.
    pub kinds: BTreeMap<&'static str, u64>,
}

/// Members of a session's receipts.
fn uuid_of(receipt: &[u8]) -> Option<&[u8]> {
    const UUID: &[u8] = b"\"uuid\":\"";
    let at = memmem::rfind(receipt, b"\"session\":{\"id\":\"")?;
    let rest = &receipt[at..];
    let begin = memmem::find(rest, UUID)? + UUID.len();
    let length = memchr::memchr(b'"', &rest[begin..])?;
    Some(&rest[begin..begin + length])
}

/// Writes the history of a session of a log, as far as it is signed. `uuid`: what it is called for ever. How many receipts it has.
pub fn write(
    log: impl Source,
    trusted: &TrustedKeys,
    uuid: &str,
    out: &mut impl Write,
) -> Result<u64, WriteError> {
    let log: &dyn Source = &log;
    let signed = bundle::newest(log, trusted)?.0.size;
    let mut last: Option<(u64, Vec<u8>, Hash)> = None;
    let mut receipts = 0;
    for item in Reader::open(log, 0)? {
        let (index, bytes) = item?;
        if index >= signed {
            break;
        }
        if uuid_of(&bytes) != Some(uuid.as_bytes()) {
            continue;
        }
        let facts = receipt::check(&bytes).map_err(|source| WriteError::Receipt { index, source })?;
        let goes_on = match &last {
            Some((.., leaf)) => facts.prev == *leaf,
            // What is told of a session after its end belongs to no chain.
            None => matches!(facts.step(), chain::Step::Next { begins: true, .. }),
        };
        if !goes_on {
            continue;
        }
        if let Some((_, before, _)) = &last {
            out.write_all(before)?;
            out.write_all(b"\n")?;
        }
        let leaf = merkle::leaf(&bytes);
        last = Some((index, bytes, leaf));
        receipts += 1;
    }
    let (index, ..) = last.ok_or_else(|| WriteError::None(uuid.to_owned()))?;
    write!(out, "{}", Bundle::make(log, trusted, index)?)?;
    Ok(receipts)
}

/// Whether a file that begins so is the history of a session rather than the proof of one receipt. (That of a session with one receipt is both.)
pub fn is_history(begin: &[u8]) -> bool {
    begin.first() == Some(&b'{')
}

/// Reads a history, and checks it with the log's public keys. Nothing it says is to be believed before this returns.
pub fn verify(mut from: impl BufRead, trusted: &TrustedKeys) -> Result<History, HistoryError> {
    let mut chain = Chain::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        let most = MAX_RECEIPT as u64 + 1;
        from.by_ref().take(most).read_until(b'\n', &mut line)?;
        if line.first() != Some(&b'{') {
            break;
        }
        // Without its end it is longer than a receipt, and not one.
        let receipt = line.strip_suffix(b"\n").unwrap_or(&line);
        chain.next(receipt)?;
    }
    // What was read is the beginning of the proof.
    from.take((BUNDLE_MAX + 1) as u64).read_to_end(&mut line)?;
    if !line.starts_with(MAGIC.as_bytes()) {
        return Err(HistoryError::Chain {
            line: chain.lines + 1,
            what: "a receipt, or the proof of the last one, should be here",
        });
    }
    let bundle = Bundle::parse(&line)?;
    let checkpoint = bundle.verify(trusted)?.checkpoint;
    chain.next(&bundle.receipt)?;
    let Chain { session, begins, ends, kinds, .. } = chain;
    Ok(History { checkpoint, note: bundle.checkpoint, index: bundle.index, session, begins, ends, kinds })
}

#[derive(Default)]
struct Chain {
    lines: u64,
    session: u64,
    last: Option<Hash>,
    begins: bool,
    ends: bool,
    kinds: BTreeMap<&'static str, u64>,
}

impl Chain {
    fn next(&mut self, bytes: &[u8]) -> Result<(), HistoryError> {
        self.lines += 1;
        let line = self.lines;
        let facts: Facts = receipt::check(bytes).map_err(|source| HistoryError::Receipt { line, source })?;
        let wrong = |what| Err(HistoryError::Chain { line, what });
        let Some(session) = facts.session else { return wrong("it is of no session") };
        match self.last {
            None => {
                (self.session, self.begins) =
                    (session, facts.kind() == "session_open" && facts.prev == chain::NONE)
            }
            Some(_) if session != self.session => return wrong("it is of another session"),
            Some(_) if self.ends => return wrong("the session had ended"),
            Some(last) if facts.prev != last => return wrong("it does not name the receipt before"),
            Some(_) => {}
        }
        self.ends = facts.kind() == "session_close";
        *self.kinds.entry(facts.kind()).or_default() += 1;
        self.last = Some(merkle::leaf(bytes));
        Ok(())
    }
}
