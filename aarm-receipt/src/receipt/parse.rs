//! Reading a receipt strictly: its one encoding, the members of its kind and no others.
//!
//! One pass over the bytes, along the table of members, which allocates nothing: a verifier reads millions.

use std::ops::Range;

use super::encode::family_number;
use super::schema::{COMMON, Member, Presence, SCHEMAS, Signed, Type};
use super::{MAX_RECEIPT, SCHEMA, Seq};
use crate::merkle::Hash;
use crate::redact::{self, Classes};
use crate::{canonical, chain, policies};

/// Why bytes are not a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Too long.
    #[error("longer than a receipt may be")]
    TooLong,
    /// Of no kind that is known.
    #[error("not a receipt: no kind that is known")]
    Kind,
    /// Not the one encoding of a receipt of its kind.
    #[error("not a receipt of schema {SCHEMA}: byte {at} is not as it should be")]
    Form {
        /// Up to there it is.
        at: usize,
    },
}

/// What a verifier must know of a receipt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Its kind, by its place in [`SCHEMAS`].
    pub kind: usize,
    /// The kernel's event.
    pub seq: Option<Seq>,
    /// Of a gap: how many events are missing.
    pub missing: u64,
    /// Of a prune: the first receipt that stays.
    pub before: u64,
    /// Of a start: whether it took over what a former daemon had loaded.
    pub adopted: bool,
    /// Whether it weighs: then it must have a signature of its own.
    pub weighs: bool,
    /// Where its policy's hash is, if it has one of 64 bytes.
    pub policy: Option<u32>,
    /// Its session, by the id in the kernel.
    pub session: Option<u64>,
    /// Of a session's receipt: what it says came before, see [`chain`].
    pub prev: Hash,
}

impl Facts {
    /// The hash of its policy, if it names one. `bytes`: the receipt.
    pub(crate) fn policy_in(self, bytes: &[u8]) -> Option<&policies::Name> {
        bytes.get(self.policy? as usize..)?.first_chunk()
    }

    /// Its kind.
    pub fn kind(&self) -> &'static str {
        SCHEMAS[self.kind].name
    }

    /// What it does to the chains of sessions.
    pub fn step(&self) -> chain::Step {
        match (self.session, self.kind()) {
            (Some(session), kind) => chain::Step::Next {
                session,
                begins: kind == "session_open" || self.prev != chain::NONE,
                closes: kind == "session_close",
            },
            (None, "start") if !self.adopted => chain::Step::Anew,
            (None, _) => chain::Step::Nothing,
        }
    }
}

/// Most members of one object.
const MEMBERS_MAX: usize = 16;

/// The members of a kind and those that all have, sorted.
const fn merged(of: &[Member]) -> ([Option<Member>; MEMBERS_MAX], usize) {
    let mut all = [None; MEMBERS_MAX];
    let (mut a, mut b, mut n) = (0, 0, 0);
    while a < COMMON.len() || b < of.len() {
        let common = b == of.len() || a < COMMON.len() && is_before(COMMON[a].name, of[b].name);
        all[n] = Some(if common { COMMON[a] } else { of[b] });
        (a, b) = if common { (a + 1, b) } else { (a, b + 1) };
        n += 1;
    }
    (all, n)
}

const fn is_before(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i < b.len() && (i == a.len() || a[i] < b[i])
}

/// Those of each kind.
static MEMBERS: [([Option<Member>; MEMBERS_MAX], usize); SCHEMAS.len()] = {
    let mut all = [([None; MEMBERS_MAX], 0); SCHEMAS.len()];
    let mut i = 0;
    while i < all.len() {
        all[i] = merged(SCHEMAS[i].members);
        i += 1;
    }
    all
};

/// Texts of some members, which others must not repeat.
#[derive(Default)]
struct Met<'a> {
    operation: &'a [u8],
    result: &'a [u8],
    answer: &'a [u8],
    method: &'a [u8],
    facet: &'a [u8],
    session: &'a [u8],
    prev: &'a [u8],
    pid: Option<u64>,
    tid: Option<u64>,
    cpu: u64,
    n: u64,
    v: u64,
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    met: Met<'a>,
    facts: Facts,
    /// What to find the values of, and where they are.
    classes: Classes,
    spans: Vec<Range<usize>>,
}

impl<'a> Walk<'a> {
    #[inline]
    fn peek(&self) -> u8 {
        // No receipt has a NUL.
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    #[inline]
    fn eat(&mut self, byte: u8) -> Option<()> {
        let is = self.peek() == byte;
        self.at += usize::from(is);
        is.then_some(())
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        let is = self.bytes[self.at..].starts_with(word);
        self.at += if is { word.len() } else { 0 };
        is.then_some(())
    }

    /// A text, as it is written.
    #[inline]
    fn text(&mut self) -> Option<&'a [u8]> {
        self.eat(b'"')?;
        let begin = self.at;
        loop {
            self.at += canonical::plain_length(&self.bytes[self.at..]);
            match self.peek() {
                b'"' => break,
                b'\\' if matches!(self.bytes.get(self.at + 1), Some(b'"' | b'\\')) => self.at += 2,
                b'%' => {
                    canonical::percent(self.bytes.get(self.at + 1..self.at + 3)?)?;
                    self.at += 3;
                }
                _ => return None,
            }
        }
        let text = &self.bytes[begin..self.at];
        self.at += 1;
        Some(text)
    }

    /// A number below 2^53.
    #[inline]
    fn small(&mut self) -> Option<u64> {
        let begin = self.at;
        let mut n = 0u64;
        while self.peek().is_ascii_digit() {
            n = n.checked_mul(10)?.checked_add(u64::from(self.peek() - b'0'))?;
            self.at += 1;
        }
        let digits = self.at - begin;
        let right = digits == 1 || digits > 1 && self.bytes[begin] != b'0' && n <= canonical::NUMBER_MAX;
        right.then_some(n)
    }

    /// A number of any size.
    #[inline]
    fn number(&mut self) -> Option<u64> {
        if self.peek() != b'"' {
            return self.small();
        }
        let text = std::str::from_utf8(self.text()?).ok()?;
        // It is the only form of that number.
        let n = text.parse::<u64>().ok()?;
        (n > canonical::NUMBER_MAX && text.len() == n.ilog10() as usize + 1 && !text.starts_with('+'))
            .then_some(n)
    }

    /// A list; how many are in it.
    fn list(&mut self, mut each: impl FnMut(&mut Self) -> Option<()>) -> Option<usize> {
        self.eat(b'[')?;
        let mut n = 0;
        if self.peek() != b']' {
            loop {
                each(self)?;
                n += 1;
                if self.eat(b',').is_none() {
                    break;
                }
            }
        }
        self.eat(b']')?;
        Some(n)
    }

    /// An object; how many members it has.
    fn object<'m>(&mut self, members: impl IntoIterator<Item = &'m Member>) -> Option<usize> {
        self.eat(b'{')?;
        let mut members = members.into_iter();
        let may_lack = |m: &Member| matches!(m.presence, Presence::IfAny | Presence::IfKnown);
        let mut n = 0;
        if self.peek() != b'}' {
            loop {
                let name = self.text()?;
                let member = loop {
                    let member = members.next()?;
                    if member.name.as_bytes() == name {
                        break member;
                    }
                    if !may_lack(member) {
                        return None;
                    }
                };
                self.eat(b':')?;
                self.value(member)?;
                n += 1;
                if self.eat(b',').is_none() {
                    break;
                }
            }
        }
        self.eat(b'}')?;
        members.all(may_lack).then_some(n)
    }

    /// Numbers by names, sorted.
    fn counts(&mut self) -> Option<usize> {
        self.eat(b'{')?;
        let mut before: &[u8] = b"";
        let mut n = 0;
        if self.peek() != b'}' {
            loop {
                let name = self.text()?;
                if name <= before {
                    return None;
                }
                before = name;
                self.eat(b':')?;
                if self.number()? == 0 {
                    return None;
                }
                n += 1;
                if self.eat(b',').is_none() {
                    break;
                }
            }
        }
        self.eat(b'}')?;
        Some(n)
    }

    /// What stands in a value's place.
    #[cold]
    fn commitment(&mut self) -> Option<()> {
        self.eat(b'{')?;
        self.eat(b'"')?;
        self.word(redact::MEMBER.as_bytes())?;
        self.word(b"\":")?;
        chain::parse(self.text()?)?;
        self.eat(b'}')
    }

    fn value(&mut self, member: &Member) -> Option<()> {
        let begin = self.at;
        if !member.class.is_none() && self.peek() == b'{' {
            return self.commitment();
        }
        // How much there is of it: nothing where there must be something is an error.
        let size = match member.ty {
            Type::Text => {
                let text = self.text()?;
                match member.name {
                    "operation" => self.met.operation = text,
                    "facet" => self.met.facet = text,
                    "result" => self.met.result = text,
                    "answer" => self.met.answer = text,
                    "method" => self.met.method = text,
                    "id" => self.met.session = text,
                    "prev" => self.met.prev = text,
                    // Before the quote that ends it.
                    "hash" if text.len() == size_of::<policies::Name>() => {
                        self.facts.policy = Some((self.at - 1 - text.len()) as u32);
                    }
                    // Bytes that are not text are percent-encoded, `/` never is.
                    "cgroup" if text.len() < 2 || !text.starts_with(b"/") || text.ends_with(b"/") => {
                        return None;
                    }
                    _ => {}
                }
                text.len()
            }
            Type::Number => {
                let n = self.number()?;
                match member.name {
                    "pid" => self.met.pid = Some(n),
                    "tid" => self.met.tid = Some(n),
                    "cpu" => self.met.cpu = n,
                    "n" => self.met.n = n,
                    "v" => self.met.v = n,
                    "missing" => self.facts.missing = n,
                    "before" => self.facts.before = n,
                    _ => {}
                }
                usize::from(n > 0)
            }
            Type::Boolean => {
                let yes = self.peek() == b't';
                self.word(if yes { b"true" } else { b"false" })?;
                if member.name == "adopted" {
                    self.facts.adopted = yes;
                }
                1
            }
            Type::Family if self.peek() == b'"' => {
                family_number(std::str::from_utf8(self.text()?).ok()?)?;
                1
            }
            Type::Family => {
                self.small()?;
                1
            }
            Type::Texts => self.list(|walk| walk.text().map(drop))?,
            Type::Object(members) => {
                let n = self.object(members)?;
                if member.name == "seq" {
                    self.facts.seq = Some(Seq { cpu: self.met.cpu.try_into().ok()?, n: self.met.n });
                }
                n
            }
            Type::Objects(members) => self.list(|walk| walk.object(members).map(drop))?,
            Type::Counts => self.counts()?,
        };
        if self.classes.has(member.class) {
            self.spans.push(begin..self.at);
        }
        let filled = matches!(member.presence, Presence::Filled | Presence::IfAny);
        (size > 0 || !filled).then_some(())
    }
}

/// The kind that it says it is of. Within a text the quotes would be escaped, and no other member is called so.
fn kind_of(bytes: &[u8]) -> Option<usize> {
    const KEY: &[u8] = b"\"kind\":\"";
    let at = memchr::memmem::find(bytes, KEY)? + KEY.len();
    let rest = &bytes[at..];
    let name = &rest[..rest.iter().position(|b| *b == b'"')?];
    SCHEMAS.iter().position(|kind| kind.name.as_bytes() == name)
}

/// Checks that bytes are a receipt: its one encoding, the members of its kind and no others.
pub fn check(bytes: &[u8]) -> Result<Facts, ParseError> {
    walk(bytes, Classes::NONE).map(|(facts, _)| facts)
}

/// Where a receipt has values of these classes, in their order.
pub(crate) fn spans(bytes: &[u8], classes: Classes) -> Result<Vec<Range<usize>>, ParseError> {
    walk(bytes, classes).map(|(_, spans)| spans)
}

fn walk(bytes: &[u8], classes: Classes) -> Result<(Facts, Vec<Range<usize>>), ParseError> {
    if bytes.len() > MAX_RECEIPT {
        return Err(ParseError::TooLong);
    }
    let kind = kind_of(bytes).ok_or(ParseError::Kind)?;
    let facts = Facts { kind, ..Facts::default() };
    let mut walk = Walk { bytes, at: 0, met: Met::default(), facts, classes, spans: Vec::new() };
    let (members, n) = &MEMBERS[kind];
    let whole = walk.object(members[..*n].iter().flatten());
    let met = &walk.met;
    let repeats =
        !met.operation.is_empty() && met.facet == met.operation || met.tid.is_some() && met.tid == met.pid;
    if whole.is_none() || walk.at != bytes.len() || repeats || met.v != SCHEMA {
        return Err(ParseError::Form { at: walk.at });
    }
    let wrong = || ParseError::Form { at: walk.at };
    let (session, prev) = match (met.session, met.prev) {
        (b"", b"") => (None, chain::NONE),
        (b"", _) | (_, b"") => return Err(wrong()),
        (id, prev) => {
            let session = session_id(id).ok_or_else(wrong)?;
            (Some(session), chain::parse(prev).ok_or_else(wrong)?)
        }
    };
    let weighs = match SCHEMAS[kind].signed {
        Signed::Never => false,
        Signed::Always => true,
        Signed::Decided => met.result != b"ALLOW" && met.operation != b"exec_args",
        Signed::Answered => met.answer != b"ALLOW" || met.method != b"policy",
    };
    Ok((Facts { weighs, session, prev, ..walk.facts }, walk.spans))
}

/// A session's id, as receipts have it: 16 hexadecimal digits.
fn session_id(text: &[u8]) -> Option<u64> {
    let right = text.len() == 16 && text.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    right.then(|| u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()).flatten()
}

/// Reads a receipt as strictly as [`check`].
pub fn parse(bytes: &[u8]) -> Result<serde_json::Value, ParseError> {
    check(bytes)?;
    serde_json::from_slice(bytes).map_err(|e| ParseError::Form { at: e.column() })
}
