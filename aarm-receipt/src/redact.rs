//! What receipts do not show: in its place they have a commitment, and the value is kept apart, for as long as it may be.
//!
//! ```text
//! "path":"/home/mia/taxes.ods"   ->   "path":{"redacted":"<base64 of SHA-256(DOMAIN | salt | value)>"}
//! ```
//! The value is the member's JSON as it would have been in the receipt; the salt is 32 random bytes of its own, so that no value can be guessed, and no two
//! receipts be said to have the same. Who is shown salt and value can tell that they are what the receipt has committed to; who has erased them has
//! taken nothing from the log. Which members can be redacted, and by which word of a policy, the table in [`crate::receipt::schema`] says.
//!
//! Must never: leave a value, or a hash of it without a salt, in a receipt.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::chain;
use crate::merkle::Hash;
use crate::receipt::{MAX_RECEIPT, ParseError, spans};

pub mod sidecar;

/// What a commitment's hash begins with: it is of nothing else.
pub const DOMAIN: &[u8] = b"aarm.dev/redacted/v1\n";
/// The member of what stands in a value's place.
pub const MEMBER: &str = "redacted";

/// Kinds of what can be redacted, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Classes(u8);

impl Classes {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Command lines.
    pub const ARGUMENTS: Self = Self(1);
    /// Addresses and names of hosts.
    pub const HOSTS: Self = Self(2);
    /// On whose behalf.
    pub const HUMAN: Self = Self(4);
    /// Names of files and programs.
    pub const PATHS: Self = Self(8);
    /// What people and agents have said.
    pub const TEXTS: Self = Self(16);
    /// Each by its name in policies.
    pub const NAMED: [(&'static str, Self); 5] = [
        ("arguments", Self::ARGUMENTS),
        ("hosts", Self::HOSTS),
        ("human", Self::HUMAN),
        ("paths", Self::PATHS),
        ("texts", Self::TEXTS),
    ];

    /// The class of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMED.iter().find(|(known, _)| *known == name).map(|(_, class)| *class)
    }

    /// Both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// As a number.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// From a number; bits that mean nothing are left out.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & 31)
    }

    /// Whether there is something of `other` in it.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is none.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// A value that a receipt has committed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withheld {
    /// Its salt.
    pub salt: [u8; 32],
    /// The value: JSON, as it would have been in the receipt.
    pub value: Vec<u8>,
}

impl Withheld {
    /// What the receipt has in its place.
    pub fn commitment(&self) -> Hash {
        let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
        [DOMAIN, &self.salt, &self.value].into_iter().for_each(|part| hash.update(part));
        let mut commitment = Hash::default();
        commitment.copy_from_slice(hash.finish().as_ref());
        commitment
    }
}

/// Takes values out of the receipt that `out` has from `start` on. What it takes out is appended to `withheld`.
///
/// # Errors
/// Those are not the bytes of a receipt, or there is no randomness: then nothing is changed.
pub fn redact(
    out: &mut Vec<u8>,
    start: usize,
    classes: Classes,
    withheld: &mut Vec<Withheld>,
) -> Result<(), RedactError> {
    if classes.is_none() {
        return Ok(());
    }
    let spans = spans(&out[start..], classes)?;
    let random = ring::rand::SystemRandom::new();
    let mut taken = Vec::with_capacity(spans.len());
    for span in &spans {
        let mut salt = [0; 32];
        ring::rand::SecureRandom::fill(&random, &mut salt).map_err(|_| RedactError::Random)?;
        taken.push(Withheld { salt, value: out[start..][span.clone()].to_vec() });
    }
    let receipt = out.split_off(start);
    let mut at = 0;
    for (span, w) in spans.iter().zip(&taken) {
        out.extend_from_slice(&receipt[at..span.start]);
        out.extend_from_slice(format!("{{\"{MEMBER}\":\"{}\"}}", chain::text(&w.commitment())).as_bytes());
        at = span.end;
    }
    out.extend_from_slice(&receipt[at..]);
    debug_assert!(out.len() - start <= MAX_RECEIPT, "the bounds of the parts bound the whole");
    withheld.append(&mut taken);
    Ok(())
}

/// Why nothing was taken out.
#[derive(Debug, thiserror::Error)]
pub enum RedactError {
    /// Those are not the bytes of a receipt.
    #[error(transparent)]
    Receipt(#[from] ParseError),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}

/// The commitment that stands in a value's place, if one does.
pub fn commitment(value: &Value) -> Option<Hash> {
    let members = value.as_object().filter(|members| members.len() == 1)?;
    chain::parse(members.get(MEMBER)?.as_str()?.as_bytes())
}

/// Puts values back into a receipt that was read: how many, and how many are not known.
pub fn reveal(receipt: &mut Value, known: &impl Fn(&Hash) -> Option<Value>) -> (usize, usize) {
    if let Some(hash) = commitment(receipt) {
        return match known(&hash) {
            Some(value) => {
                *receipt = value;
                (1, 0)
            }
            None => (0, 1),
        };
    }
    let parts: Vec<&mut Value> = match receipt {
        Value::Object(members) => members.values_mut().collect(),
        Value::Array(all) => all.iter_mut().collect(),
        _ => Vec::new(),
    };
    parts.into_iter().map(|part| reveal(part, known)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
}

/// A value as it is kept: a line of a sidecar.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    /// Base64.
    commitment: String,
    /// Base64.
    salt: String,
    value: Value,
}
