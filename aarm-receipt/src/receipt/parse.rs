//! Reading a receipt strictly: its one encoding, the members of its kind and no others.

use super::{KINDS, MAX_RECEIPT, SCHEMA};
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

/// Members that each kind has, sorted, and whether it may be without them.
fn members(kind: &str) -> impl Iterator<Item = (&'static str, bool)> {
    let of_kind: &[&str] = match kind {
        "action" => &["action", "context", "decision", "identity"],
        "outcome" => &["detail", "identity", "outcome"],
        "session_open" | "process" | "resolution" => &["detail", "identity"],
        _ => &["detail"],
    };
    [
        ("action", false),
        ("boot_ns", false),
        ("context", true),
        ("decision", false),
        ("detail", false),
        ("host", false),
        ("identity", false),
        ("kind", false),
        ("outcome", false),
        ("seq", true),
        ("session", true),
        ("time", false),
        ("v", false),
    ]
    .into_iter()
    .filter(move |(m, _)| {
        !["action", "context", "decision", "detail", "identity", "outcome"].contains(m) || of_kind.contains(m)
    })
}

/// Texts that are left out rather than empty.
const MAY_BE_ABSENT: &[&str] = &[
    "agent", "approver", "cgroup", "comment", "cwd", "exe", "found", "human", "intent", "path", "path2",
    "program", "reason", "rule", "scope", "target", "text",
];

/// Members of `context`.
const CONTEXT: &[&str] = &["adds", "conditions", "labels", "subjects", "unknown"];

/// Whether `context`, if there is one, has members of its own only, and none that says nothing.
fn context_is_right(value: &serde_json::Value) -> bool {
    let Some(context) = value.get("context") else { return true };
    context.as_object().is_some_and(|c| {
        !c.is_empty() && c.iter().all(|(key, v)| CONTEXT.contains(&key.as_str()) && v.as_u64() != Some(0))
    })
}

/// Whether `identity.cgroup`, if there is one, is a path, and not that of the root.
fn cgroup_is_right(value: &serde_json::Value) -> bool {
    value["identity"].get("cgroup").is_none_or(|cgroup| {
        // Bytes that are not text are percent-encoded, `/` never is.
        cgroup.as_str().is_some_and(|path| path.len() > 1 && path.starts_with('/') && !path.ends_with('/'))
    })
}

/// Whether what has no value is left out, everywhere: that is its one encoding.
fn absent_is_left_out(value: &serde_json::Value) -> bool {
    use serde_json::Value;
    match value {
        Value::Null => false,
        Value::Array(items) => items.iter().all(absent_is_left_out),
        Value::Object(members) => members.iter().all(|(key, v)| match v {
            Value::String(text) => !text.is_empty() || !MAY_BE_ABSENT.contains(&key.as_str()),
            Value::Array(items) if items.is_empty() => {
                !["adds", "addresses", "args", "env", "facts", "flags", "hosts", "labels", "limits"]
                    .contains(&key.as_str())
            }
            Value::Object(members) if members.is_empty() => key != "modified",
            v => absent_is_left_out(v),
        }),
        _ => true,
    }
}

/// Reads a receipt strictly: its one encoding, the members of its kind and no others.
pub fn parse(bytes: &[u8]) -> Result<serde_json::Value, ParseError> {
    if bytes.len() > MAX_RECEIPT {
        return Err(ParseError::TooLong);
    }
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|_| ParseError::Json)?;
    let mut again = Vec::with_capacity(bytes.len());
    canonical::reencode(&value, &mut again)?;
    if again != bytes {
        return Err(ParseError::Canonical(NotCanonical));
    }
    let kind = value["kind"].as_str().ok_or(ParseError::Schema)?;
    if value["v"] != SCHEMA || !KINDS.contains(&kind) {
        return Err(ParseError::Schema);
    }
    let object = value.as_object().ok_or(ParseError::Schema)?;
    let wanted = members(kind).filter(|(m, optional)| !optional || object.contains_key(*m)).map(|(m, _)| m);
    let (of, who) = (&value["action"]["operation"], &value["identity"]["pid"]);
    let repeats = of.is_string() && value["decision"]["facet"] == *of
        || who.is_u64() && value["identity"]["tid"] == *who;
    if !object.keys().map(String::as_str).eq(wanted)
        || repeats
        || !absent_is_left_out(&value)
        || !context_is_right(&value)
        || !cgroup_is_right(&value)
    {
        return Err(ParseError::Schema);
    }
    Ok(value)
}
