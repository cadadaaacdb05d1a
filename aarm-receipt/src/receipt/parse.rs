//! Reading a receipt strictly: its one encoding, the members of its kind and no others.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::encode::family_number;
use super::schema::{COMMON, KindOf, Member, Presence, SCHEMAS, Type};
use super::{MAX_RECEIPT, SCHEMA};
use crate::canonical::{self, NotCanonical};

/// Why bytes are not a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Too long.
    #[error("longer than a receipt may be")]
    TooLong,
    /// Not JSON.
    #[error("not JSON")]
    Json,
    /// Not the one encoding.
    #[error(transparent)]
    Canonical(#[from] NotCanonical),
    /// Of another schema, or a kind that is not known.
    #[error("not a receipt of schema {SCHEMA}")]
    Schema,
}

/// All members of each kind, sorted.
static MEMBERS: LazyLock<Vec<(&'static str, Vec<Member>)>> = LazyLock::new(|| {
    let all = |of: &KindOf| {
        let mut members = [COMMON, of.members].concat();
        members.sort_unstable_by_key(|m| m.name);
        (of.name, members)
    };
    SCHEMAS.iter().map(all).collect()
});

fn members_of(kind: &str) -> Option<&'static [Member]> {
    MEMBERS.iter().find(|(name, _)| *name == kind).map(|(_, members)| members.as_slice())
}

/// Whether an object has the members it should have and no others, each as it should be.
fn is_right(object: &Map<String, Value>, members: &[Member]) -> bool {
    let mut found = object.iter().peekable();
    members.iter().all(|member| match found.next_if(|(name, _)| *name == member.name) {
        Some((_, value)) => value_is_right(value, member),
        None => matches!(member.presence, Presence::IfAny | Presence::IfKnown),
    }) && found.next().is_none()
}

fn value_is_right(value: &Value, member: &Member) -> bool {
    let may_be_empty = matches!(member.presence, Presence::Always | Presence::IfKnown);
    let has = |empty: bool| may_be_empty || !empty;
    match (member.ty, value) {
        (Type::Text, Value::String(text)) => has(text.is_empty()),
        (Type::Number, Value::Number(n)) => n.is_u64() && has(n.as_u64() == Some(0)),
        (Type::Number, Value::String(text)) => is_large(text),
        (Type::Boolean, Value::Bool(_)) => true,
        (Type::Family, Value::String(name)) => family_number(name).is_some(),
        (Type::Family, Value::Number(n)) => n.is_u64(),
        (Type::Texts, Value::Array(items)) => has(items.is_empty()) && items.iter().all(Value::is_string),
        (Type::Object(members), Value::Object(object)) => has(object.is_empty()) && is_right(object, members),
        (Type::Objects(members), Value::Array(items)) => {
            has(items.is_empty()) && items.iter().all(|i| i.as_object().is_some_and(|o| is_right(o, members)))
        }
        (Type::Counts, Value::Object(counts)) => {
            counts.values().all(|n| n.as_u64().map_or(n.as_str().is_some_and(is_large), |n| n > 0))
        }
        _ => false,
    }
}

/// Whether a text is a number that is too large for one.
fn is_large(text: &str) -> bool {
    text.parse::<u64>().is_ok_and(|n| n > canonical::NUMBER_MAX && n.to_string() == text)
}

/// Whether `identity.cgroup`, if there is one, is a path, and not that of the root.
fn cgroup_is_right(value: &Value) -> bool {
    value["identity"].get("cgroup").is_none_or(|cgroup| {
        // Bytes that are not text are percent-encoded, `/` never is.
        cgroup.as_str().is_some_and(|path| path.len() > 1 && path.starts_with('/') && !path.ends_with('/'))
    })
}

/// Reads a receipt strictly: its one encoding, the members of its kind and no others.
pub fn parse(bytes: &[u8]) -> Result<Value, ParseError> {
    if bytes.len() > MAX_RECEIPT {
        return Err(ParseError::TooLong);
    }
    let value: Value = serde_json::from_slice(bytes).map_err(|_| ParseError::Json)?;
    let mut again = Vec::with_capacity(bytes.len());
    canonical::reencode(&value, &mut again)?;
    if again != bytes {
        return Err(ParseError::Canonical(NotCanonical));
    }
    let kind = value["kind"].as_str().ok_or(ParseError::Schema)?;
    if value["v"] != SCHEMA {
        return Err(ParseError::Schema);
    }
    let members = members_of(kind).ok_or(ParseError::Schema)?;
    let (of, who) = (&value["action"]["operation"], &value["identity"]["pid"]);
    let repeats = of.is_string() && value["decision"]["facet"] == *of
        || who.is_u64() && value["identity"]["tid"] == *who;
    let right = value.as_object().is_some_and(|object| is_right(object, members));
    if !right || repeats || !cgroup_is_right(&value) {
        return Err(ParseError::Schema);
    }
    Ok(value)
}
