//! Reading predicates on command lines.

use super::fields::{Fields, Shape, any_of, wrong_type};
use crate::args::{Arg, CommandLine, MAX_WORDS, Position, Word};
use crate::diagnostic::{Code, Diagnostic, Sink};
use crate::yaml::{Node, Value, shown};

const ANY: Shape = Shape { what: "a member of `args`", known: &["any"], later: &[] };

/// `args`, `not_args`, `argv` and `not_argv` of a match.
pub(crate) fn line(fields: &Fields<'_>, sink: &mut Sink) -> CommandLine {
    CommandLine {
        args: all(fields.get("args"), sink, arg).unwrap_or_default(),
        not_args: all(fields.get("not_args"), sink, arg).unwrap_or_default(),
        argv: positions(fields.get("argv"), sink),
        not_argv: positions(fields.get("not_argv"), sink),
    }
}

/// Reads each member, in order; a word may come twice.
fn all<T>(
    node: Option<&Node>,
    sink: &mut Sink,
    read: impl Fn(&Node, &mut Sink) -> Option<T>,
) -> Option<Vec<T>> {
    let node = node?;
    let items = any_of(node, "words", sink);
    if items.len() > MAX_WORDS {
        sink.error(node.place, Code::TooMany, format!("{} words; at most {MAX_WORDS}", items.len()));
    }
    Some(items.iter().take(MAX_WORDS).filter_map(|item| read(item, sink)).collect())
}

/// Words from first to last; an empty list is a command line without any.
fn positions(node: Option<&Node>, sink: &mut Sink) -> Option<Vec<Position>> {
    match node.map(|node| &node.value) {
        Some(Value::List(items)) if items.is_empty() => Some(Vec::new()),
        _ => all(node, sink, |item, sink| match item.text() {
            Some("**") => Some(Position::Rest),
            _ => word(item, sink).map(Position::Word),
        }),
    }
}

fn arg(node: &Node, sink: &mut Sink) -> Option<Arg> {
    if node.map().is_none() {
        return word(node, sink).map(Arg::Next);
    }
    let fields = Fields::of(node, &ANY, sink)?;
    fields.need("any", sink).and_then(|node| word(node, sink)).map(Arg::Any)
}

pub(crate) fn word(node: &Node, sink: &mut Sink) -> Option<Word> {
    let Some(text) = node.text() else {
        sink.push(wrong_type(node, "a word, as text"));
        return None;
    };
    match Word::parse(text) {
        Ok(word) => Some(word),
        Err(error) => {
            sink.push(
                Diagnostic::error(
                    node.place,
                    Code::BadValue,
                    format!("bad word \"{}\": {error}", shown(text)),
                )
                .help("`*` is any text, `?` one byte, `\\*` a `*`"),
            );
            None
        }
    }
}
