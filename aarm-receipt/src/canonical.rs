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

/// Writes one JSON object into a buffer.
pub struct Object<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
    #[cfg(debug_assertions)]
    last: &'static str,
}

impl<'a> Object<'a> {
    /// Begins an object.
    #[inline]
    pub fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self {
            out,
            first: true,
            #[cfg(debug_assertions)]
            last: "",
        }
    }

    /// Writes a key; what follows must write one value.
    #[inline]
    pub fn key(&mut self, key: &'static str) -> &mut Vec<u8> {
        #[cfg(debug_assertions)]
        {
            assert!(self.first || self.last < key, "key {key} after {}", self.last);
            self.last = key;
        }
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    /// A member of bytes.
    #[inline]
    pub fn bytes(&mut self, key: &'static str, value: &[u8]) {
        bytes(self.key(key), value);
    }

    /// A member of bytes, or null for none.
    #[inline]
    pub fn bytes_or_null(&mut self, key: &'static str, value: &[u8]) {
        let out = self.key(key);
        if value.is_empty() { out.extend_from_slice(b"null") } else { bytes(out, value) }
    }

    /// A member that is text or null.
    #[inline]
    pub fn text_or_null(&mut self, key: &'static str, value: Option<&str>) {
        let out = self.key(key);
        match value {
            Some(v) => bytes(out, v.as_bytes()),
            None => out.extend_from_slice(b"null"),
        }
    }

    /// A member that is a number.
    #[inline]
    pub fn number(&mut self, key: &'static str, value: u64) {
        number(self.key(key), value);
    }

    /// A member that is a number or null.
    #[inline]
    pub fn number_or_null(&mut self, key: &'static str, value: Option<u64>) {
        let out = self.key(key);
        match value {
            Some(v) => number(out, v),
            None => out.extend_from_slice(b"null"),
        }
    }

    /// A member that is true or false.
    #[inline]
    pub fn boolean(&mut self, key: &'static str, value: bool) {
        self.key(key).extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// A member that is an object.
    #[inline]
    pub fn object(&mut self, key: &'static str, write: impl FnOnce(&mut Object<'_>)) {
        let mut inner = Object::begin(self.key(key));
        write(&mut inner);
        inner.end();
    }

    /// Ends the object.
    #[inline]
    pub fn end(self) {
        self.out.push(b'}');
    }
}

/// A string of bytes.
#[inline]
pub fn bytes(out: &mut Vec<u8>, value: &[u8]) {
    out.push(b'"');
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
    out.push(b'"');
}

/// A number.
#[inline]
pub fn number(out: &mut Vec<u8>, value: u64) {
    let mut buffer = itoa::Buffer::new();
    let text = buffer.format(value).as_bytes();
    if value <= NUMBER_MAX {
        out.extend_from_slice(text);
    } else {
        out.push(b'"');
        out.extend_from_slice(text);
        out.push(b'"');
    }
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
        let mut digit = || {
            let digit = rest.next()?;
            HEX.iter().position(|h| *h == digit).map(|d| d as u8)
        };
        let (high, low) = (digit()?, digit()?);
        out.push(high << 4 | low);
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
            o.boolean("a", b);
            o.object("b", |o| { o.bytes("x", &a); o.number("y", n); });
            o.text_or_null("c", None);
            o.end();
            let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(&serde_json_canonicalizer::to_vec(&value).unwrap(), &out);
            let mut again = Vec::new();
            reencode(&value, &mut again).unwrap();
            prop_assert_eq!(again, out);
        }
    }
}
