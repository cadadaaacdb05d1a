//! DNS messages (RFC 1035), as far as names need them: the question, and the addresses of an answer.
//!
//! One parser for the kernel programs, which read answers on their way to a socket, and for user space, where it is
//! fuzzed. It goes in steps of a few loads each, so that whoever drives it bounds the work: at most [`QUESTION_STEPS`] for
//! a question, [`RECORD_STEPS`] for the records. Every byte may be hostile: a length is checked before it is believed,
//! a name is followed through no pointer, and what is not plain is [`Step::Bad`].
//!
//! An address belongs to the name that was asked for, whatever names the records of the answer bear: so what else an
//! answer tells (other names, additional records) changes nothing.

/// Where servers listen.
pub const PORT: u16 = 53;
/// Longest message read, in bytes; longer ones teach nothing.
pub const MESSAGE_MAX: usize = 4096;
/// Longest name learnt, in bytes, dots included.
pub const NAME_MAX: usize = 232;
/// Most addresses taken from one answer.
pub const ADDRESSES_MAX: usize = 32;
/// Steps that are enough for any question.
pub const QUESTION_STEPS: u32 = 2 * NAME_MAX as u32 + 2;
/// Steps taken for the records of an answer; what comes after them is not seen.
pub const RECORD_STEPS: u32 = 1024;
/// Bytes before the question.
const HEADER: u32 = 12;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;

/// Bytes of a message.
pub trait Message {
    /// How many there are.
    fn len(&self) -> u32;
    /// One of them; anything beyond the end.
    fn byte(&self, at: u32) -> u8;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Two of them, as a number.
    #[inline(always)]
    fn word(&self, at: u32) -> u16 {
        (self.byte(at) as u16) << 8 | self.byte(at.wrapping_add(1)) as u16
    }
}

impl Message for [u8] {
    fn len(&self) -> u32 {
        <[u8]>::len(self).min(u32::MAX as usize) as u32
    }

    fn byte(&self, at: u32) -> u8 {
        self.get(at as usize).copied().unwrap_or(0)
    }
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A query.
    Query,
    /// An answer without error, and whole.
    Answer,
}

/// The part of a header that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The number that ties an answer to its query.
    pub id: u16,
    /// What the message is.
    pub kind: Kind,
    /// Records in the answer section.
    pub answers: u16,
}

impl Header {
    /// Reads a header. `None` for what is neither a standard query with one question nor a whole answer to one.
    #[inline(always)]
    pub fn read(m: &(impl Message + ?Sized)) -> Option<Self> {
        if m.len() <= HEADER || m.len() > MESSAGE_MAX as u32 {
            return None;
        }
        let flags = m.word(2);
        // QR; then opcode (standard), TC (cut off), RCODE (no error).
        let answer = flags & 0x8000 != 0;
        let wrong = if answer { flags & 0x7a0f } else { flags & 0x7a00 };
        if wrong != 0 || m.word(4) != 1 {
            return None;
        }
        let kind = if answer { Kind::Answer } else { Kind::Query };
        Some(Self { id: m.word(0), kind, answers: m.word(6) })
    }
}

/// What a step found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet.
    More,
    /// The next byte of the name's text, in lower case.
    Text(u8),
    /// The end.
    Done,
    /// Something that is not plain: the message teaches nothing.
    Bad,
}

/// FNV-1a of no text.
pub const HASH_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a of a text and one byte more.
#[inline(always)]
pub const fn hashed(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(0x0100_0000_01b3)
}

/// The question being read: its name comes out byte by byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Question {
    /// Where to read next; at the end the records begin here.
    pub at: u32,
    /// Bytes left of the label.
    left: u32,
    /// Bytes of text so far.
    pub len: u32,
    /// Zero.
    pub reserved: u32,
    /// FNV-1a of the text, to tell questions apart.
    pub hash: u64,
}

impl Question {
    /// At the first byte of the question.
    #[inline(always)]
    pub const fn start() -> Self {
        Self { at: HEADER, left: 0, len: 0, reserved: 0, hash: HASH_START }
    }

    #[inline(always)]
    fn text(&mut self, byte: u8) -> Step {
        if self.len >= NAME_MAX as u32 {
            return Step::Bad;
        }
        self.len += 1;
        self.hash = hashed(self.hash, byte);
        Step::Text(byte)
    }

    /// One step.
    #[inline(always)]
    pub fn step(&mut self, m: &(impl Message + ?Sized)) -> Step {
        if self.at >= m.len() {
            return Step::Bad;
        }
        let byte = m.byte(self.at);
        self.at += 1;
        if self.left > 0 {
            self.left -= 1;
            let byte = if byte.is_ascii_uppercase() { byte | 0x20 } else { byte };
            // Dots and other bytes within a label would make one name look like another.
            let plain = byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
            return if plain { self.text(byte) } else { Step::Bad };
        }
        if byte == 0 {
            // Type and class follow. The root is no name that a rule could mean.
            let class = m.word(self.at.wrapping_add(2));
            self.at = self.at.wrapping_add(4);
            let whole = self.at <= m.len() && class == CLASS_IN && self.len > 0;
            return if whole { Step::Done } else { Step::Bad };
        }
        // A pointer has no place in the first name of a message.
        if byte > 63 {
            return Step::Bad;
        }
        self.left = byte as u32;
        if self.len > 0 { self.text(b'.') } else { Step::More }
    }
}

/// What a step through the records found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing yet.
    More,
    /// An address of 4 or 16 bytes at a place in the message, and the seconds for which it holds.
    Address {
        /// Where it is.
        at: u32,
        /// 4 or 16.
        len: u32,
        /// Seconds.
        ttl: u32,
    },
    /// The end of the answer section.
    Done,
    /// Something that is not plain: what was found before counts, nothing after it.
    Bad,
}

/// The records of an answer being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Records {
    /// Where to read next.
    pub at: u32,
    /// Records left.
    pub left: u32,
}

impl Records {
    /// One step: a label of a record's name, or what comes after the name.
    #[inline(always)]
    pub fn step(&mut self, m: &(impl Message + ?Sized)) -> Found {
        if self.left == 0 {
            return Found::Done;
        }
        if self.at >= m.len() {
            return Found::Bad;
        }
        let byte = m.byte(self.at);
        let name = match byte {
            0 => 1,
            1..=63 => {
                self.at += 1 + byte as u32;
                return Found::More;
            }
            192..=255 => 2,
            _ => return Found::Bad,
        };
        let fixed = self.at + name;
        let data = fixed + 10;
        if data > m.len() {
            return Found::Bad;
        }
        let len = m.word(fixed + 8) as u32;
        if data + len > m.len() {
            return Found::Bad;
        }
        self.at = data + len;
        self.left -= 1;
        let kind = m.word(fixed);
        let wanted = kind == TYPE_A && len == 4 || kind == TYPE_AAAA && len == 16;
        if !wanted || m.word(fixed + 2) != CLASS_IN {
            return Found::More;
        }
        let ttl = (m.word(fixed + 4) as u32) << 16 | m.word(fixed + 6) as u32;
        // RFC 2181, section 8: one with its highest bit set means 0.
        Found::Address { at: data, len, ttl: if ttl >> 31 != 0 { 0 } else { ttl } }
    }
}

#[cfg(test)]
mod tests;
