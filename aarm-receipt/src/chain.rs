//! The chain of a session: each of its receipts names the one before, and so all that the session had done when it was decided.
//!
//! ```text
//! prev   leaf hash of the session's receipt before, in base64; of the first one 32 bytes of zero
//! ```
//! A chain begins with `session_open` and ends with `session_close`, and a `start` that took over nothing ends them all. What is told of a session
//! that has none names nothing. The writer of the log fills `prev` in, because only it knows what came before. Must never: change how long
//! a receipt is.

use std::collections::HashMap;
use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use memchr::memmem;

use crate::merkle::{self, Hash};

/// Before the first receipt of a session.
pub const NONE: Hash = [0; 32];
/// The same as it is written, and before the writer has filled in what it is.
pub const UNLINKED: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
/// Most chains at once, many more than sessions that a kernel has: a session for which there is no room has none.
pub const CHAINS_MAX: usize = 1 << 16;

/// What a receipt does to the chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// It is the next of a session.
    Next {
        /// The session's id in the kernel.
        session: u64,
        /// It begins a chain if there is none: a session's first, or one that names another, which is not there any more.
        begins: bool,
        /// It is the last.
        closes: bool,
    },
    /// All begin anew.
    Anew,
}

/// Where `prev` is, and what the receipt does. Within a text quotes are escaped, so that these are the members.
fn find(receipt: &[u8]) -> (Option<Range<usize>>, Step) {
    const SESSION: &[u8] = b"\"session\":{\"id\":\"";
    const PREV: &[u8] = b"\"prev\":\"";
    const OPENS: &[u8] = b"\"kind\":\"session_open\",";
    const CLOSES: &[u8] = b"\"kind\":\"session_close\",";
    const START: &[u8] = b"\"kind\":\"start\"";
    const FRESH: &[u8] = b"\"detail\":{\"adopted\":false,";
    let linked = || {
        let at = memmem::rfind(receipt, SESSION)?;
        let id = receipt.get(at + SESSION.len()..at + SESSION.len() + 16)?;
        let session = u64::from_str_radix(std::str::from_utf8(id).ok()?, 16).ok()?;
        let prev = memmem::rfind(&receipt[..at], PREV)?;
        let place = prev + PREV.len()..prev + PREV.len() + UNLINKED.len();
        let (before, text) = (&receipt[..prev], receipt[..at].get(place.clone())?);
        let begins = before.ends_with(OPENS) || text != UNLINKED.as_bytes();
        Some((place, Step::Next { session, begins, closes: before.ends_with(CLOSES) }))
    };
    match linked() {
        Some((place, step)) => (Some(place), step),
        None => {
            let fresh = memmem::find(receipt, START).is_some() && memmem::find(receipt, FRESH).is_some();
            (None, if fresh { Step::Anew } else { Step::Nothing })
        }
    }
}

/// What a receipt does to the chains.
pub fn step(receipt: &[u8]) -> Step {
    find(receipt).1
}

/// Takes back what the writer has filled in: the receipt as it was encoded.
pub fn unlink(receipt: &mut [u8]) {
    if let (Some(place), _) = find(receipt) {
        receipt[place].copy_from_slice(UNLINKED.as_bytes());
    }
}

/// A hash as receipts have it.
pub(crate) fn text(hash: &Hash) -> String {
    BASE64.encode(hash)
}

/// What a text in a receipt says came before. `None`: it is no hash.
pub(crate) fn parse(text: &[u8]) -> Option<Hash> {
    // It may want room for more than it needs.
    let mut room = [0; 33];
    let n = BASE64.decode_slice(text, &mut room).ok()?;
    room.get(..n)?.try_into().ok()
}

/// The last receipt of each session that goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chains(HashMap<u64, Hash>);

impl Chains {
    /// Fills in what came before a receipt, and says what it does. Nothing has changed here until it is [taken](Self::take).
    pub fn link(&self, receipt: &mut [u8]) -> Step {
        let (place, step) = find(receipt);
        if let (Some(place), Step::Next { session, .. }) = (place, step) {
            let mut text = [0; UNLINKED.len()];
            // It has room for just that.
            let _ = BASE64.encode_slice(self.last(session).unwrap_or(NONE), &mut text);
            receipt[place].copy_from_slice(&text);
        }
        step
    }

    /// A receipt, and its leaf hash, is in the log.
    pub fn take(&mut self, step: Step, leaf: Hash) {
        match step {
            Step::Nothing => {}
            Step::Anew => self.0.clear(),
            Step::Next { session, closes: true, .. } => _ = self.0.remove(&session),
            Step::Next { session, begins, .. } => {
                if let Some(last) = self.0.get_mut(&session) {
                    *last = leaf;
                } else if begins && self.0.len() < CHAINS_MAX {
                    self.0.insert(session, leaf);
                }
            }
        }
    }

    /// The next receipt of a log.
    pub fn follow(&mut self, receipt: &[u8]) {
        self.take(step(receipt), merkle::leaf(receipt));
    }

    /// The last receipt of a session; none: it has none, or has ended.
    pub fn last(&self, session: u64) -> Option<Hash> {
        self.0.get(&session).copied()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All, by session.
    pub(crate) fn sorted(&self) -> Vec<(u64, Hash)> {
        let mut all: Vec<_> = self.0.iter().map(|(session, hash)| (*session, *hash)).collect();
        all.sort_unstable();
        all
    }

    pub(crate) fn of(all: impl IntoIterator<Item = (u64, Hash)>) -> Self {
        Self(all.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::Encoded;
    use crate::receipt::{Identity, PolicyRef, SessionRef};
    use crate::{Body, Common, encode};
    use std::borrow::Cow;

    fn receipt(session: Option<u64>, body: &Body<'_>) -> Vec<u8> {
        let session = session.map(|id| Cow::Owned(SessionRef { id, uuid: "u" }.encoded()));
        let common = Common { time_ns: 1, boot_ns: 1, host: &Encoded::text(b"h"), session, seq: None };
        let mut out = Vec::new();
        encode(&common, body, &mut out);
        out
    }

    #[test]
    fn each_names_the_one_before() {
        // A text that looks like a link is none.
        let trap = b"\"prev\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\",\"session\":{\"id\":\"0000000000000001\"";
        let says =
            Body::Name { name: trap, addresses: &[9; 16], resolver: [127, 0, 0, 1].into(), seconds: 1 };
        let policy = PolicyRef { name: "p", version: "1", hash: "00" };
        let open = Body::SessionOpen {
            how: "run",
            program: b"",
            intent: "",
            policy,
            audit: false,
            identity: Identity::default(),
        };
        let close = Body::SessionClose { allowed: 0, denied: 0, audited: 0, refused: 0 };
        let mut chains = Chains::default();
        let mut before = NONE;
        // What is told of a session that has not begun begins none.
        chains.follow(&receipt(Some(7), &says));
        assert!(chains.is_empty());
        for n in 0..3 {
            let encoded = receipt(Some(7), if n == 0 { &open } else { &says });
            let mut linked = encoded.clone();
            let step = chains.link(&mut linked);
            assert_eq!(step, Step::Next { session: 7, begins: n == 0, closes: false });
            let facts = crate::receipt::check(&linked).unwrap();
            assert_eq!((facts.session, facts.prev, linked.len()), (Some(7), before, encoded.len()), "{n}");
            before = merkle::leaf(&linked);
            chains.take(step, before);
            assert_eq!(super::step(&linked), facts.step());
            let mut back = linked.clone();
            unlink(&mut back);
            assert_eq!(back, encoded);
        }
        let mut other = receipt(Some(8), &says);
        chains.link(&mut other);
        assert_eq!(crate::receipt::check(&other).unwrap().prev, NONE, "another session");
        let mut closed = receipt(Some(7), &close);
        let step = chains.link(&mut closed);
        assert_eq!(step, Step::Next { session: 7, begins: false, closes: true });
        assert_eq!(crate::receipt::check(&closed).unwrap().prev, before);
        chains.take(step, merkle::leaf(&closed));
        assert!(chains.is_empty());
        // Where the beginning is not there any more, what names it is one.
        let mut rest = Chains::default();
        rest.follow(&closed);
        assert!(rest.is_empty());
        let mut middle = receipt(Some(7), &says);
        Chains::of([(7, [1; 32])]).link(&mut middle);
        rest.follow(&middle);
        assert_eq!(rest.last(7), Some(merkle::leaf(&middle)));
    }

    #[test]
    fn there_are_not_more_than_so_many() {
        let mut chains = Chains::of((0..CHAINS_MAX as u64).map(|session| (session, NONE)));
        let next = |session| Step::Next { session, begins: true, closes: false };
        chains.take(next(u64::MAX), [1; 32]);
        assert_eq!(chains.last(u64::MAX), None);
        chains.take(next(7), [1; 32]);
        assert_eq!(chains.last(7), Some([1; 32]));
        chains.take(Step::Next { session: 7, begins: false, closes: true }, [1; 32]);
        chains.take(next(u64::MAX), [1; 32]);
        assert_eq!(chains.last(u64::MAX), Some([1; 32]));
    }

    #[test]
    fn a_fresh_start_ends_them_all() {
        let start = |adopted| receipt(None, &Body::Start { version: "1", kernel: "k", adopted });
        assert_eq!(step(&start(true)), Step::Nothing);
        assert_eq!(step(&start(false)), Step::Anew);
        assert_eq!(step(&receipt(None, &Body::Stop { version: "\"kind\":\"start\"" })), Step::Nothing);
        let mut chains = Chains::of([(1, [1; 32]), (2, [2; 32])]);
        chains.follow(&start(false));
        assert!(chains.is_empty());
    }

    #[test]
    fn bytes_that_are_no_receipt_do_nothing() {
        for bytes in [
            &b""[..],
            b"{}",
            b"\"session\":{\"id\":\"",
            b"\"prev\":\"\"session\":{\"id\":\"0000000000000001\"",
            b"\"session\":{\"id\":\"000000000000000g\"",
        ] {
            assert_eq!(step(bytes), Step::Nothing, "{bytes:?}");
            unlink(&mut bytes.to_vec());
        }
        assert_eq!(parse(UNLINKED.as_bytes()), Some(NONE));
        assert_eq!(parse(&UNLINKED.as_bytes()[1..]), None);
        assert_eq!(parse(b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB="), None, "another form of the same");
    }
}
