//! Reading mappings and typed values, with an error for all that does not belong.

use crate::diagnostic::{Code, Diagnostic, Place, Sink, nearest};
use crate::yaml::{Kind, Node, Value, shown};

/// Longest text of a name, reason or description, in bytes.
pub(crate) const MAX_TEXT: usize = 1024;
/// Most members of one list.
pub(crate) const MAX_LIST: usize = 1024;

/// The fields that a mapping may have.
pub(crate) struct Shape {
    /// What the mapping is, for messages: "a rule".
    pub what: &'static str,
    /// Fields of this version.
    pub known: &'static [&'static str],
    /// Fields of the language that a later version reads.
    pub later: &'static [&'static str],
}

/// A mapping whose fields have been checked against a shape.
pub(crate) struct Fields<'a> {
    place: Place,
    what: &'static str,
    entries: Vec<(&'a str, &'a Node)>,
}

impl<'a> Fields<'a> {
    /// Checks a mapping. Fields that do not belong are reported and left out.
    pub(crate) fn of(node: &'a Node, shape: &Shape, sink: &mut Sink) -> Option<Self> {
        let Some(map) = node.map() else {
            sink.push(wrong_type(node, &format!("{}, a mapping", shape.what)));
            return None;
        };
        let mut entries = Vec::new();
        for (key, value) in map {
            let name = key.text.as_str();
            if shape.known.contains(&name) {
                entries.push((name, value));
            } else if shape.later.contains(&name) {
                sink.push(not_yet(key.place, &format!("`{name}` in {}", shape.what)));
            } else {
                let error = Diagnostic::error(
                    key.place,
                    Code::UnknownField,
                    format!("unknown field \"{}\" in {}", shown(name), shape.what),
                );
                let near = nearest(name, shape.known.iter().chain(shape.later).copied());
                sink.push(match near {
                    Some(near) => error.help(format!("did you mean \"{near}\"?")),
                    None => error.help(format!("fields are {}", shape.known.join(", "))),
                });
            }
        }
        Some(Fields { place: node.place, what: shape.what, entries })
    }

    /// The value of a field.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Node> {
        self.entries.iter().find(|(n, _)| *n == name).map(|(_, node)| *node)
    }

    /// The value of a field that must be there.
    pub(crate) fn need(&self, name: &str, sink: &mut Sink) -> Option<&'a Node> {
        let found = self.get(name);
        if found.is_none() {
            sink.error(self.place, Code::MissingField, format!("{} needs the field \"{name}\"", self.what));
        }
        found
    }

    /// Where the mapping starts.
    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// The names of the fields that are there.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.entries.iter().map(|(name, _)| *name)
    }
}

/// "Not supported yet", for what is part of the language but not of this version.
pub(crate) fn not_yet(place: Place, what: &str) -> Diagnostic {
    Diagnostic::error(place, Code::NotSupportedYet, format!("{what} is not supported yet"))
}

/// "Expected …, found …".
pub(crate) fn wrong_type(node: &Node, expected: &str) -> Diagnostic {
    let kind = node.kind();
    let error = Diagnostic::error(
        node.place,
        Code::WrongType,
        format!("expected {expected}, found {}", kind.article()),
    );
    match (kind, node.written()) {
        (Kind::Nothing, Some("~")) => error.help("a lone `~` is YAML for nothing; put it in quotes"),
        (Kind::Truth | Kind::Integer | Kind::Float, Some(text)) if expected.contains("text") => {
            error.help(format!("put it in quotes: \"{}\"", shown(text)))
        }
        _ => error,
    }
}

/// Text of at most [`MAX_TEXT`] bytes, without control characters other than line ends.
pub(crate) fn text<'a>(node: &'a Node, sink: &mut Sink) -> Option<&'a str> {
    let Some(text) = node.text() else {
        sink.push(wrong_type(node, "text"));
        return None;
    };
    if text.is_empty() {
        sink.error(node.place, Code::BadValue, "the text is empty");
        return None;
    }
    if text.len() > MAX_TEXT {
        sink.error(
            node.place,
            Code::TooLarge,
            format!("the text has {} bytes; at most {MAX_TEXT}", text.len()),
        );
        return None;
    }
    if text.chars().any(|c| c.is_control() && c != '\n') {
        sink.error(node.place, Code::BadValue, "the text has control characters");
        return None;
    }
    Some(text)
}

/// A truth value.
pub(crate) fn truth(node: &Node, sink: &mut Sink) -> Option<bool> {
    let value = node.truth();
    if value.is_none() {
        sink.push(wrong_type(node, "true or false"));
    }
    value
}

/// A whole number within bounds.
pub(crate) fn number(node: &Node, what: &str, first: i128, last: i128, sink: &mut Sink) -> Option<i128> {
    let Some(value) = node.integer() else {
        sink.push(wrong_type(node, &format!("{what}, a number")));
        return None;
    };
    if value < first || value > last {
        sink.error(
            node.place,
            Code::BadValue,
            format!("{what} is a number from {first} to {last}, not {value}"),
        );
        return None;
    }
    Some(value)
}

/// The items of a list that must be one.
pub(crate) fn list<'a>(node: &'a Node, what: &str, sink: &mut Sink) -> &'a [Node] {
    match &node.value {
        Value::List(items) => items,
        _ => {
            sink.push(wrong_type(node, &format!("{what}, a list")));
            &[]
        }
    }
}

/// The members of what may be one value or a list of them.
pub(crate) fn any_of<'a>(node: &'a Node, what: &str, sink: &mut Sink) -> &'a [Node] {
    match &node.value {
        Value::List(items) if items.is_empty() => {
            sink.error(node.place, Code::BadValue, format!("an empty list of {what} can never match"));
            &[]
        }
        Value::List(items) if items.len() > MAX_LIST => {
            sink.error(
                node.place,
                Code::TooMany,
                format!("a list of {} {what}; at most {MAX_LIST}", items.len()),
            );
            &[]
        }
        Value::List(items) => items,
        _ => std::slice::from_ref(node),
    }
}

/// Reads each member of what may be one value or a list, leaving out those with an error.
pub(crate) fn each<T: PartialEq>(
    node: Option<&Node>,
    what: &str,
    sink: &mut Sink,
    mut read: impl FnMut(&Node, &mut Sink) -> Option<T>,
) -> Vec<T> {
    let mut out = Vec::new();
    for item in node.map(|node| any_of(node, what, sink)).unwrap_or_default() {
        if let Some(value) = read(item, sink)
            && !out.contains(&value)
        {
            out.push(value);
        }
    }
    out
}
