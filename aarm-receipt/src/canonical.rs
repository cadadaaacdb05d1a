//! Canonical JSON by construction: RFC 8785 (JCS) where it needs neither floating point nor Unicode order.
//!
//! - ASCII only: in text that is bytes (paths, arguments, names of commands) `%` and every byte outside
//!   printable ASCII is percent-encoded, so that any bytes come back exactly.
//! - Integers below 2^53; larger ones as decimal strings.
//! - Keys sorted: the caller writes them in order, and debug builds check.
//!
//! There RFC 8785 and a plain sorted dump agree byte for byte.

/// Largest integer written as a number.
pub const NUMBER_MAX: u64 = (1 << 53) - 1;
const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// For each byte: 0 = as it is, 1 = percent, 2 = backslash.
const CLASS: [u8; 256] = {
    let mut t = [1u8; 256];
    let mut b = 0x20;
    while b < 0x7f {
        t[b] = 0;
        b += 1;
    }
    t[b'%' as usize] = 1;
    t[b'"' as usize] = 2;
    t[b'\\' as usize] = 2;
    t
};

/// Two digits of every number below 100.
const PAIRS: [[u8; 2]; 100] = {
    let mut t = [[0; 2]; 100];
    let mut n = 0;
    while n < 100 {
        t[n] = [b'0' + (n / 10) as u8, b'0' + (n % 10) as u8];
        n += 1;
    }
    t
};

/// A member's key with all its punctuation, as one constant: `,"key":`.
#[macro_export]
macro_rules! key {
    ($key:literal) => {
        concat!(",\"", $key, "\":")
    };
}

/// One JSON value, encoded once for members that repeat from receipt to receipt. Empty: no value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded(Box<[u8]>);

impl Encoded {
    /// A string of bytes; no value if it is empty.
    pub fn text(value: &[u8]) -> Self {
        if value.is_empty() { Self::default() } else { Self::of(|out| bytes(out, value)) }
    }

    /// What `write` writes, which must be one value.
    pub fn of(write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut out = Vec::new();
        write(&mut out);
        Self(out.into())
    }
}

/// Writes one JSON object into a buffer. Keys are made by [`key!`](crate::key).
pub struct Object<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    #[cfg(debug_assertions)]
    last: &'static str,
}

impl<'a> Object<'a> {
    /// Begins an object. Its brace takes the place of the first key's comma at the end.
    #[inline(always)]
    pub fn begin(out: &'a mut Vec<u8>) -> Self {
        Self {
            start: out.len(),
            out,
            #[cfg(debug_assertions)]
            last: "",
        }
    }

    /// Writes a key; what follows must write one value.
    #[inline(always)]
    pub fn key(&mut self, key: &'static str) -> &mut Vec<u8> {
        #[cfg(debug_assertions)]
        {
            assert!(key.starts_with(",\"") && key.ends_with("\":"), "{key} is not of key!");
            assert!(self.last < key, "key {key} after {}", self.last);
            self.last = key;
        }
        self.out.extend_from_slice(key.as_bytes());
        self.out
    }

    /// A member of bytes.
    #[inline(always)]
    pub fn bytes(&mut self, key: &'static str, value: &[u8]) {
        bytes(self.key(key), value);
    }

    /// A member of bytes, left out if there are none.
    #[inline(always)]
    pub fn bytes_if_any(&mut self, key: &'static str, value: &[u8]) {
        if !value.is_empty() {
            self.bytes(key, value);
        }
    }

    /// A member of text that is printable ASCII without `%`, `"` and `\`: names that are ours.
    #[inline(always)]
    pub fn name(&mut self, key: &'static str, value: &str) {
        debug_assert!(plain(value.as_bytes()), "{value} is no plain name");
        let out = self.key(key);
        out.push(b'"');
        out.extend_from_slice(value.as_bytes());
        out.push(b'"');
    }

    /// A member that is encoded already, left out if it has no value.
    #[inline(always)]
    pub fn encoded(&mut self, key: &'static str, value: &Encoded) {
        if !value.0.is_empty() {
            self.key(key).extend_from_slice(&value.0);
        }
    }

    /// A member that is a number.
    #[inline(always)]
    pub fn number(&mut self, key: &'static str, value: u64) {
        number(self.key(key), value);
    }

    /// A member that is a number, left out if there is none.
    #[inline(always)]
    pub fn number_if_any(&mut self, key: &'static str, value: Option<u64>) {
        if let Some(v) = value {
            self.number(key, v);
        }
    }

    /// A member that is true or false.
    #[inline(always)]
    pub fn boolean(&mut self, key: &'static str, value: bool) {
        self.key(key).extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// A member that is an object.
    #[inline(always)]
    pub fn object(&mut self, key: &'static str, write: impl FnOnce(&mut Object<'_>)) {
        let mut inner = Object::begin(self.key(key));
        write(&mut inner);
        inner.end();
    }

    /// Ends the object.
    #[inline(always)]
    pub fn end(self) {
        match self.out.get_mut(self.start) {
            Some(comma) => *comma = b'{',
            None => self.out.push(b'{'),
        }
        self.out.push(b'}');
    }
}

/// Whether one of eight bytes must be escaped.
#[inline(always)]
fn eight_escape(bytes: [u8; 8]) -> bool {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    let x = u64::from_le_bytes(bytes);
    let zero = |v: u64| v.wrapping_sub(ONES) & !v;
    let is = |b: u8| zero(x ^ (ONES * b as u64));
    let control = x.wrapping_sub(ONES * 0x20) & !x;
    (x | control | is(b'%') | is(b'"') | is(b'\\') | is(0x7f)) & HIGH != 0
}

/// Whether nothing of it must be escaped. Eight bytes at a time; the last eight may overlap those before.
#[inline]
fn plain(value: &[u8]) -> bool {
    let (words, rest) = value.as_chunks::<8>();
    if rest.is_empty() || words.is_empty() {
        return !words.iter().any(|w| eight_escape(*w)) && rest.iter().all(|b| CLASS[*b as usize] == 0);
    }
    let last = value.last_chunk::<8>().is_some_and(|w| eight_escape(*w));
    !last && !words.iter().any(|w| eight_escape(*w))
}

/// How many bytes, from the first, are written as they are.
#[inline]
pub(crate) fn plain_length(value: &[u8]) -> usize {
    let words = value.as_chunks::<8>().0.iter().take_while(|w| !eight_escape(**w)).count();
    let rest = value[8 * words..].iter().take_while(|b| CLASS[**b as usize] == 0).count();
    8 * words + rest
}

/// The byte that two digits after `%` stand for, if it is written so.
pub(crate) fn percent(digits: &[u8]) -> Option<u8> {
    let digit = |d: u8| HEX.iter().position(|h| *h == d).map(|d| d as u8);
    let [high, low] = digits else { return None };
    Some(digit(*high)? << 4 | digit(*low)?).filter(|b| CLASS[*b as usize] == 1)
}

/// A string of bytes.
#[inline]
pub fn bytes(out: &mut Vec<u8>, value: &[u8]) {
    out.reserve(value.len() + 2);
    out.push(b'"');
    if plain(value) {
        out.extend_from_slice(value);
    } else {
        escaped(out, value);
    }
    out.push(b'"');
}

#[cold]
fn escaped(out: &mut Vec<u8>, value: &[u8]) {
    let mut rest = value;
    while let Some(at) = rest.iter().position(|b| CLASS[*b as usize] != 0) {
        out.extend_from_slice(&rest[..at]);
        let b = rest[at];
        if CLASS[b as usize] == 2 {
            out.extend_from_slice(&[b'\\', b]);
        } else {
            out.extend_from_slice(&[b'%', HEX[(b >> 4) as usize], HEX[(b & 15) as usize]]);
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// The last two decimal digits of a number.
#[inline(always)]
pub(crate) fn pair(value: u64) -> [u8; 2] {
    PAIRS[(value % 100) as usize]
}

/// A number.
#[inline]
pub fn number(out: &mut Vec<u8>, value: u64) {
    if value > NUMBER_MAX {
        return large(out, value);
    }
    // What is copied has a fixed length, which is a move or two; what is too much is cut off again.
    if value < 10_000 {
        let [a, b] = pair(value / 100);
        let [c, d] = pair(value);
        let zeros = usize::from(value < 1000) + usize::from(value < 100) + usize::from(value < 10);
        let end = out.len() + 4 - zeros;
        out.extend_from_slice(&(u32::from_le_bytes([a, b, c, d]) >> (8 * zeros)).to_le_bytes());
        return out.truncate(end);
    }
    // Digits end at the middle.
    let mut text = [0; 32];
    let (mut at, mut rest) = (16usize, value);
    while rest >= 100 && at >= 4 {
        at -= 2;
        text[at..at + 2].copy_from_slice(&pair(rest));
        rest /= 100;
    }
    at -= 2;
    text[at..at + 2].copy_from_slice(&pair(rest));
    at += usize::from(rest < 10);
    let end = out.len() + 16 - at;
    if let Some(digits) = text[at..].first_chunk::<16>() {
        out.extend_from_slice(digits);
    }
    out.truncate(end);
}

#[cold]
fn large(out: &mut Vec<u8>, value: u64) {
    use std::io::Write;
    // Writing to a vector cannot fail.
    let _ = write!(out, "\"{value}\"");
}

/// Undoes the percent-encoding of [`bytes`]. `None`: not of that form.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        out.push(percent(&[rest.next()?, rest.next()?])?);
    }
    Some(out)
}

/// Re-encodes parsed JSON; equal to the original exactly if that was canonical in this sense.
pub fn reencode(value: &serde_json::Value, out: &mut Vec<u8>) -> Result<(), NotCanonical> {
    use serde_json::Value;
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(b) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
        Value::Number(n) => match n.as_u64() {
            Some(n) if n <= NUMBER_MAX => number(out, n),
            _ => return Err(NotCanonical),
        },
        Value::String(s) => {
            if !s.bytes().all(|b| (0x20..0x7f).contains(&b)) {
                return Err(NotCanonical);
            }
            out.push(b'"');
            for b in s.bytes() {
                if b == b'"' || b == b'\\' {
                    out.push(b'\\');
                }
                out.push(b);
            }
            out.push(b'"');
        }
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                reencode(item, out)?;
            }
            out.push(b']');
        }
        Value::Object(members) => {
            // Sorted, whatever the map's own order.
            let mut keys: Vec<&String> = members.keys().collect();
            keys.sort_unstable();
            out.push(b'{');
            for (i, key) in keys.into_iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                reencode(&Value::String(key.clone()), out)?;
                out.push(b':');
                reencode(&members[key.as_str()], out)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

/// The value has no canonical form here: a float, a large integer, or text that is not ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not canonical JSON")]
pub struct NotCanonical;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_byte_at_every_place_is_seen() {
        for length in 0..20 {
            for at in 0..length {
                for b in 0..=255u8 {
                    let mut value = vec![b'~'; length];
                    value[at] = b;
                    assert_eq!(plain(&value), CLASS[b as usize] == 0, "{b} at {at} of {length}");
                }
            }
        }
    }

    #[test]
    fn numbers_of_every_length() {
        let powers = (0..19).map(|i| 10u64.pow(i));
        for n in powers.flat_map(|p| [p - 1, p, p + 1]).chain([NUMBER_MAX, NUMBER_MAX + 1, u64::MAX]) {
            let mut out = Vec::new();
            number(&mut out, n);
            let want = if n > NUMBER_MAX { format!("\"{n}\"") } else { n.to_string() };
            assert_eq!(out, want.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(value in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut out = Vec::new();
            bytes(&mut out, &value);
            let text: String = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(decode(&text).unwrap(), value);
        }

        #[test]
        fn equals_an_independent_rfc_8785(a in proptest::collection::vec(any::<u8>(), 0..100), n in any::<u64>(), b in any::<bool>()) {
            let mut out = Vec::new();
            let mut o = Object::begin(&mut out);
            o.boolean(key!("a"), b);
            o.object(key!("b"), |o| { o.bytes(key!("x"), &a); o.number(key!("y"), n); });
            o.object(key!("c"), |_| ());
            o.encoded(key!("d"), &Encoded::text(&a));
            o.end();
            let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(&serde_json_canonicalizer::to_vec(&value).unwrap(), &out);
            let mut again = Vec::new();
            reencode(&value, &mut again).unwrap();
            prop_assert_eq!(again, out);
        }
    }
}
