//! C2SP signed notes (`c2sp.org/signed-note`) and checkpoints (`c2sp.org/tlog-checkpoint`) with Ed25519.
//!
//! ```text
//! <origin>\n<size>\n<root, base64>\n\n— <key name> <base64 of key id (4 bytes) and signature (64)>\n
//! ```

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::merkle::Hash;

/// Largest note read, in bytes.
pub const NOTE_MAX: usize = 64 << 10;
const ED25519_TYPE: u8 = 1;

/// Why a note is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// The text is not a note, or not a checkpoint.
    #[error("not a signed checkpoint")]
    Malformed,
    /// Another log's checkpoint.
    #[error("the checkpoint names another log")]
    OtherOrigin,
    /// No signature by the trusted key.
    #[error(
        "no signature by the trusted key: if the log's keys were exchanged, get its log.pub again, or `aarm verify DIR --key FILE --renew-key`"
    )]
    NotSigned,
    /// A signature that claims to be the key's, and is not.
    #[error("a wrong signature")]
    WrongSignature,
    /// It covers receipts from which on nothing is believed any more.
    #[error("it is after the end that was set for the log's keys")]
    Ended,
}

/// A key that signs notes, checkpoints among them.
pub type VerifierKey = NamedKey<ED25519_TYPE>;

/// An Ed25519 public key with the name it signs under: a "verifier key", `name+id+base64`. `KIND` says what it signs, and is part of the id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedKey<const KIND: u8> {
    /// Name.
    pub name: String,
    /// First bytes of the hash of name and key.
    pub id: [u8; 4],
    /// Ed25519 public key.
    pub key: [u8; 32],
}

impl<const KIND: u8> NamedKey<KIND> {
    /// From a name and a public key.
    pub fn new(name: &str, key: [u8; 32]) -> Self {
        let hash = digest(&SHA256, &[name.as_bytes(), &[b'\n', KIND], &key].concat());
        let mut id = [0; 4];
        id.copy_from_slice(&hash.as_ref()[..4]);
        Self { name: name.to_owned(), id, key }
    }

    /// Reads the textual form.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().splitn(3, '+');
        let (name, id, key) = (parts.next()?, parts.next()?, parts.next()?);
        let bytes = BASE64.decode(key).ok()?;
        let (kind, key) = bytes.split_first()?;
        if *kind != KIND || !is_name(name) {
            return None;
        }
        let made = Self::new(name, key.try_into().ok()?);
        (made.hex_id() == id).then_some(made)
    }

    fn hex_id(&self) -> String {
        self.id.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Whether `signature` over `message` is this key's.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.key).verify(message, signature).is_ok()
    }
}

impl<const KIND: u8> std::fmt::Display for NamedKey<KIND> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = [&[KIND][..], &self.key].concat();
        write!(f, "{}+{}+{}", self.name, self.hex_id(), BASE64.encode(bytes))
    }
}

/// Whether a key may have this name.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(char::is_whitespace) && !name.contains('+')
}

/// A signature of a note: name, key id, and what follows that.
pub(crate) type Signature<'a> = (&'a str, [u8; 4], Vec<u8>);

/// The text of a note, without its last line end, and its signatures.
fn split(note: &[u8]) -> Result<(&str, Vec<Signature<'_>>), NoteError> {
    if note.len() > NOTE_MAX {
        return Err(NoteError::Malformed);
    }
    let text = std::str::from_utf8(note).map_err(|_| NoteError::Malformed)?;
    let (body, signatures) = text.rsplit_once("\n\n").ok_or(NoteError::Malformed)?;
    let signatures = signatures.strip_suffix('\n').ok_or(NoteError::Malformed)?;
    let line = |line| {
        let (name, signature) = str::strip_prefix(line, "\u{2014} ")?.split_once(' ')?;
        let bytes = BASE64.decode(signature).ok()?;
        let (id, rest) = bytes.split_first_chunk()?;
        Some((name, *id, rest.to_vec()))
    };
    let all = signatures.split('\n').map(line).collect::<Option<_>>().ok_or(NoteError::Malformed)?;
    Ok((body, all))
}

/// The signatures of a note, whoever's they are.
pub(crate) fn signatures(note: &[u8]) -> Result<Vec<Signature<'_>>, NoteError> {
    split(note).map(|(_, signatures)| signatures)
}

/// A signed tree head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name.
    pub origin: String,
    /// Receipts in the tree.
    pub size: u64,
    /// The tree's root.
    pub root: Hash,
}

impl Checkpoint {
    /// What is signed.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(self.root))
    }

    /// The signed note. The key signs under the log's name.
    pub fn sign(&self, key: &Ed25519KeyPair) -> String {
        let body = self.text();
        let mut public = [0; 32];
        public.copy_from_slice(key.public_key().as_ref());
        let verifier = VerifierKey::new(&self.origin, public);
        let mut bytes = verifier.id.to_vec();
        bytes.extend_from_slice(key.sign(body.as_bytes()).as_ref());
        format!("{body}\n\u{2014} {} {}\n", self.origin, BASE64.encode(bytes))
    }

    /// Adds the signature of another of the log's keys to a note.
    pub(crate) fn sign_also(&self, note: &mut String, key: &Ed25519KeyPair) {
        let own = self.sign(key);
        note.push_str(own.rsplit_once("\n\n").map_or("", |(_, line)| line));
    }

    /// Reads what a note says, whoever signed it.
    pub(crate) fn claimed(note: &[u8]) -> Result<Self, NoteError> {
        let (body, _) = split(note)?;
        let mut lines = body.split('\n');
        let (origin, size, root) = (lines.next(), lines.next(), lines.next());
        let (Some(origin), Some(size), Some(root), None) = (origin, size, root, lines.next()) else {
            return Err(NoteError::Malformed);
        };
        let number: u64 = size.parse().map_err(|_| NoteError::Malformed)?;
        if number.to_string() != size {
            return Err(NoteError::Malformed);
        }
        let root: Hash =
            BASE64.decode(root).ok().and_then(|r| r.try_into().ok()).ok_or(NoteError::Malformed)?;
        Ok(Self { origin: origin.to_owned(), size: number, root })
    }

    /// Checks that a note with what this says is signed by a key.
    pub(crate) fn signed(self, note: &[u8], key: &VerifierKey) -> Result<Self, NoteError> {
        if self.origin != key.name {
            return Err(NoteError::OtherOrigin);
        }
        let text = self.text();
        let mut signed = Err(NoteError::NotSigned);
        for (name, id, signature) in signatures(note)? {
            if name == key.name && id == key.id {
                if !key.verify(text.as_bytes(), &signature) {
                    return Err(NoteError::WrongSignature);
                }
                signed = Ok(());
            }
        }
        signed.map(|()| self)
    }

    /// Reads a note and checks the key's signature.
    pub fn open(note: &[u8], key: &VerifierKey) -> Result<Self, NoteError> {
        Self::claimed(note)?.signed(note, key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_comes_back_and_no_change_does() {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let key = VerifierKey::new("host.test/log", pair.public_key().as_ref().try_into().unwrap());
        assert_eq!(VerifierKey::parse(&key.to_string()), Some(key.clone()));
        let c = Checkpoint { origin: "host.test/log".into(), size: 12, root: [9; 32] };
        let note = c.sign(&pair);
        assert_eq!(Checkpoint::open(note.as_bytes(), &key), Ok(c));
        for at in 0..note.len() {
            for bit in 0..8 {
                let mut bytes = note.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                assert!(Checkpoint::open(&bytes, &key).is_err(), "byte {at} bit {bit}");
            }
            // One form of each: no other line ends, and nothing between.
            for byte in *b"\r\n\t =" {
                let mut bytes = note.clone().into_bytes();
                bytes.insert(at, byte);
                assert!(Checkpoint::open(&bytes, &key).is_err(), "{byte} before byte {at}");
            }
        }
    }
}
