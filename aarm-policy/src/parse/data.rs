//! Reading `data`, `record` and `redact`.

use aarm_common::limits::{MAX_DATA, MAX_LABELS};
use std::collections::HashMap;

use super::fields::{Fields, Shape, each, list, wrong_type};
use super::rule::address_predicates;
use super::scalars;
use crate::data::{DataEntry, Label, Level, On};
use crate::diagnostic::{Code, Diagnostic, Place, Sink, nearest};
use crate::model::{Match, OperationName, Record, Redact};
use crate::yaml::{Key, Node, Value, shown};

/// Longest name of a label.
pub const MAX_LABEL: usize = 64;

const ENTRY: Shape =
    Shape { what: "an entry of `data`", known: &["label", "level", "on"], later: &["description", "from"] };

const ON: Shape =
    Shape { what: "`on`", known: &["read", "write", "exec", "receive"], later: &["send", "tool", "connect"] };

const RECEIVE: Shape = Shape {
    what: "`receive`",
    known: &[
        "host",
        "not_host",
        "cidr",
        "not_cidr",
        "port",
        "not_port",
        "protocol",
        "not_protocol",
        "family",
        "not_family",
        "type",
        "not_type",
    ],
    later: &[],
};

/// The entries of `data`, and the labels of all its entries, of those with errors too.
pub(crate) fn data(node: &Node, sink: &mut Sink) -> (Vec<DataEntry>, Vec<Label>) {
    let items = list(node, "data", sink);
    let mut declared: Vec<Label> = Vec::new();
    let mut entries: Vec<DataEntry> = Vec::new();
    let mut levels: HashMap<String, (Level, u32)> = HashMap::new();
    let mut parts = 0;
    for item in items.iter().take(MAX_DATA + 1) {
        let Some(fields) = Fields::of(item, &ENTRY, sink) else { continue };
        let label = fields.need("label", sink).and_then(|n| label(n, sink));
        if let Some(name) = &label
            && declared.iter().all(|known| known.name != *name)
        {
            declared.push(Label { name: name.clone(), level: Level::Public });
        }
        let Some(entry) = entry(&fields, label, item.place, sink) else { continue };
        let (level, line) = *levels.entry(entry.label.clone()).or_insert((entry.level, item.place.line));
        if level != entry.level {
            sink.push(
                Diagnostic::error(
                    item.place,
                    Code::BadValue,
                    format!(
                        "the label \"{}\" is {} at line {line} and {} here",
                        entry.label,
                        level.name(),
                        entry.level.name()
                    ),
                )
                .help("a label has one level"),
            );
        }
        parts += entry.on.parts().len();
        if parts > MAX_DATA {
            sink.push(
                Diagnostic::error(
                    item.place,
                    Code::TooMany,
                    format!("with this entry `data` has more than {MAX_DATA}"),
                )
                .help("each of `read`, `write`, `exec` and `receive` in an entry counts; join lists of globs of one label"),
            );
            break;
        }
        entries.push(entry);
    }
    (entries, declared)
}

const _: () = assert!(MAX_LABELS >= MAX_DATA);

/// An entry with this label.
fn entry(fields: &Fields<'_>, label: Option<String>, place: Place, sink: &mut Sink) -> Option<DataEntry> {
    let before = sink.errors();
    let level = fields.need("level", sink).and_then(|n| level(n, sink));
    let on = fields.need("on", sink).and_then(|n| on(n, sink));
    let entry = DataEntry { label: label?, level: level?, on: on?, place };
    (sink.errors() == before).then_some(entry)
}

fn label(node: &Node, sink: &mut Sink) -> Option<String> {
    let Some(text) = node.text() else {
        sink.push(wrong_type(node, "a label, as text"));
        return None;
    };
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if text.is_empty() || text.len() > MAX_LABEL || !text.bytes().all(allowed) {
        sink.push(
            Diagnostic::error(node.place, Code::BadValue, format!("bad label \"{}\"", shown(text)))
                .help(format!("1 to {MAX_LABEL} of A-Z, a-z, 0-9, - and _")),
        );
        return None;
    }
    Some(text.to_owned())
}

/// A level of classification.
pub(crate) fn level(node: &Node, sink: &mut Sink) -> Option<Level> {
    let Some(text) = node.text() else {
        sink.push(wrong_type(node, "a level, as text"));
        return None;
    };
    let found = Level::ALL.into_iter().find(|level| level.name() == text);
    if found.is_none() {
        sink.push(scalars::unknown_word(node, "level", Level::ALL.iter().map(|level| level.name())));
    }
    found
}

fn on(node: &Node, sink: &mut Sink) -> Option<On> {
    let before = sink.errors();
    let fields = Fields::of(node, &ON, sink)?;
    if fields.names().next().is_none() && sink.errors() == before {
        sink.push(
            Diagnostic::error(node.place, Code::MissingField, "an entry that nothing adds")
                .help(format!("give at least one of {}", ON.known.join(", "))),
        );
    }
    let mut globs = |name: &str| each(fields.get(name), "globs", sink, scalars::glob);
    let (read, write, exec) = (globs("read"), globs("write"), globs("exec"));
    let receive = fields.get("receive").and_then(|n| {
        let fields = Fields::of(n, &RECEIVE, sink)?;
        Some(address_predicates(&fields, Match::default(), sink))
    });
    (sink.errors() == before).then_some(On { read, write, exec, receive })
}

/// `record`: names of operations and families, each with what is kept.
pub(crate) fn record(node: &Node, sink: &mut Sink) -> Vec<(OperationName, Record)> {
    let mut out = Vec::new();
    let Some(map) = node.map() else {
        sink.push(wrong_type(node, "`record`, a mapping of operations and families to `full` or `summary`"));
        return out;
    };
    for (key, value) in map {
        if let (Some(name), Some(kept)) = (record_name(key, sink), kept(value, sink)) {
            out.push((name, kept));
        }
    }
    out.sort_by_key(|(name, _)| name.name());
    out
}

/// One word of `redact`.
pub(crate) fn redacted(node: &Node, sink: &mut Sink) -> Option<Redact> {
    let Some(word) = node.text() else {
        sink.push(wrong_type(node, "a part of receipts, as text"));
        return None;
    };
    let found = Redact::ALL.into_iter().find(|redact| redact.name() == word);
    if found.is_none() {
        let names = Redact::ALL.map(Redact::name);
        let message = format!("\"{}\" is no part of receipts that can be redacted", shown(word));
        let error = Diagnostic::error(node.place, Code::BadValue, message);
        sink.push(match nearest(word, names) {
            Some(near) => error.help(format!("did you mean \"{near}\"?")),
            None => error.help(format!("there are {}", names.join(", "))),
        });
    }
    found
}

fn record_name(key: &Key, sink: &mut Sink) -> Option<OperationName> {
    let value = Value::Scalar { text: key.text.clone(), plain: false };
    scalars::operation_name(&Node { place: key.place, value }, sink)
}

fn kept(node: &Node, sink: &mut Sink) -> Option<Record> {
    match node.text() {
        Some("full") => Some(Record::Full),
        Some("summary") => Some(Record::Summary),
        Some("none" | "nothing" | "off") => {
            sink.push(
                Diagnostic::error(node.place, Code::BadValue, "every action leaves something")
                    .help("there are full and summary"),
            );
            None
        }
        Some(other) => {
            let error = Diagnostic::error(
                node.place,
                Code::BadValue,
                format!("\"{}\" is nothing that is kept", shown(other)),
            );
            sink.push(match nearest(other, ["full", "summary"]) {
                Some(near) => error.help(format!("did you mean \"{near}\"?")),
                None => error.help("there are full and summary"),
            });
            None
        }
        None => {
            sink.push(wrong_type(node, "`full` or `summary`, as text"));
            None
        }
    }
}
