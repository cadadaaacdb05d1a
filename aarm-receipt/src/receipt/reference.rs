//! What is generated from the table of members: `docs/receipts.md` and `docs/receipt.schema.json`.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::SCHEMA;
use crate::redact::{self, Classes};

use super::schema::{COMMON, Member, Presence, SCHEMAS, Signed, Type};

/// A hash: 32 bytes in base64.
const HASH: &str = "^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$";

/// `docs/receipts.md`: every member of every kind of receipt, with its type, when it is there, and where it comes from.
pub fn receipts_md() -> String {
    let mut out = String::from(
        "# Receipts\n\nGenerated from the code: `cargo run -p aarm-receipt --example reference`. As JSON Schema: \
         [receipt.schema.json](receipt.schema.json).\n\n\
         A receipt is one line of canonical JSON (RFC 8785) of ASCII: no spaces, members sorted, integers below 2^53 as numbers and \
         larger ones as text. Bytes of paths and arguments that are not printable ASCII, and `%`, stand as `%` and two hexadecimal \
         digits. Each receipt has one encoding: what has no value is left out, as is what would repeat another member \
         (`decision.facet` that is `action.operation`, `identity.tid` that is `identity.pid`); anything else is refused when a log is \
         verified. A receipt has both `session` and `prev`, or neither. What a policy redacts has an object in its place, `{\"redacted\":\"...\"}`: \
         a commitment to the value, see logs.md. How receipts become a log that anyone can check: [logs.md](logs.md).\n\n\
         When a member is there: *always*, *filled* (always, and never empty), *if any* (left out when it would be empty or 0), *if \
         known* (left out when it is not, or does not apply).\n\n## All kinds\n\n",
    );
    table(&mut out, COMMON);
    for kind in SCHEMAS {
        let signed = match kind.signed {
            Signed::Never => "",
            Signed::Always => " Each has a signature of its own.",
            Signed::Decided => {
                " Those that are not simply allowed have a signature of their own, but for `exec_args`."
            }
            Signed::Answered => " Each has a signature of its own, but for `ALLOW` by `policy`.",
        };
        let _ = write!(out, "\n## {}\n\nOf {}.{signed}\n\n", kind.name, kind.meaning);
        table(&mut out, kind.members);
    }
    out
}

fn table(out: &mut String, members: &[Member]) {
    out.push_str("| member | type | there | from | |\n|---|---|---|---|---|\n");
    rows(out, "", members);
}

fn rows(out: &mut String, before: &str, members: &[Member]) {
    for m in members {
        let (ty, below): (_, &[Member]) = match m.ty {
            Type::Text => ("text", &[]),
            Type::Number => ("integer", &[]),
            Type::Boolean => ("boolean", &[]),
            Type::Family => ("text or integer", &[]),
            Type::Texts => ("list of texts", &[]),
            Type::Object(below) => ("object", below),
            Type::Objects(below) => ("list of objects", below),
            Type::Counts => ("integers by operation", &[]),
        };
        let there = match m.presence {
            Presence::Always => "always",
            Presence::Filled => "filled",
            Presence::IfAny => "if any",
            Presence::IfKnown => "if known",
        };
        let class = Classes::NAMED.iter().find(|(_, class)| m.class.has(*class));
        let class = class.map(|(name, _)| format!(" (redacted by `{name}`)")).unwrap_or_default();
        let _ =
            writeln!(out, "| `{before}{}` | {ty} | {there} | {} | {}{class} |", m.name, m.source, m.meaning);
        let list = if matches!(m.ty, Type::Objects(_)) { "[]" } else { "" };
        rows(out, &format!("{before}{}{list}.", m.name), below);
    }
}

/// `docs/receipt.schema.json`: JSON Schema (draft 2020-12) of a receipt.
pub fn json_schema() -> Value {
    let of_kind = |kind: &super::schema::KindOf| {
        let mut members = [COMMON, kind.members].concat();
        members.sort_unstable_by_key(|m| m.name);
        let mut schema = object(&members);
        schema["title"] = kind.name.into();
        schema["description"] = kind.meaning.into();
        schema["properties"]["kind"] = json!({ "const": kind.name });
        schema["properties"]["v"] = json!({ "const": SCHEMA });
        schema["properties"]["prev"]["pattern"] = HASH.into();
        schema["properties"]["session"]["properties"]["id"]["pattern"] = "^[0-9a-f]{16}$".into();
        schema["dependentRequired"] = json!({ "prev": ["session"], "session": ["prev"] });
        schema
    };
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A receipt of aarm",
        "oneOf": SCHEMAS.iter().map(of_kind).collect::<Vec<_>>(),
    })
}

fn object(members: &[Member]) -> Value {
    let needed = |m: &&Member| matches!(m.presence, Presence::Always | Presence::Filled);
    let required: Vec<_> = members.iter().filter(needed).map(|m| m.name).collect();
    let properties: Map<String, Value> = members.iter().map(|m| (m.name.to_owned(), property(m))).collect();
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn property(m: &Member) -> Value {
    let filled = matches!(m.presence, Presence::Filled | Presence::IfAny);
    let least = u64::from(filled);
    let large = json!({ "type": "string", "pattern": "^[1-9][0-9]{15,19}$" });
    let number =
        |least: u64| json!({ "type": "integer", "minimum": least, "maximum": crate::canonical::NUMBER_MAX });
    let mut schema = match m.ty {
        Type::Text => json!({ "type": "string", "minLength": least }),
        Type::Number => json!({ "anyOf": [number(least), large] }),
        Type::Boolean => json!({ "type": "boolean" }),
        Type::Family => json!({ "type": ["string", "integer"] }),
        Type::Texts => json!({ "type": "array", "items": { "type": "string" }, "minItems": least }),
        Type::Object(members) => object(members),
        Type::Objects(members) => json!({ "type": "array", "items": object(members), "minItems": least }),
        Type::Counts => json!({ "type": "object", "additionalProperties": { "anyOf": [number(1), large] } }),
    };
    if filled && matches!(m.ty, Type::Object(_)) {
        schema["minProperties"] = 1.into();
    }
    if !m.class.is_none() {
        let hash = json!({ "type": "string", "pattern": HASH });
        let commitment = json!({
            "type": "object",
            "properties": { redact::MEMBER: hash },
            "required": [redact::MEMBER],
            "additionalProperties": false,
        });
        schema = json!({ "anyOf": [schema, commitment] });
    }
    schema["description"] = m.meaning.into();
    schema
}
