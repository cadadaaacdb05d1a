//! Reading what a rule asks of a program that is about to run.

use super::fields::{Fields, Shape, any_of, each, wrong_type};
use crate::args::{Arg, MAX_WORDS, Position, Word};
use crate::diagnostic::{Code, Diagnostic, Sink};
use crate::program::{MAX_ASKED, MAX_REGEX, PREDICATES, Program, Regex, Sha256, Variable};
use crate::yaml::{Node, Value, shown};

const ANY: Shape = Shape { what: "a member of `args`", known: &["any"], later: &[] };

/// Whether a match asks for any of it.
pub(crate) fn is_asked(fields: &Fields<'_>) -> bool {
    PREDICATES.iter().any(|(name, _)| fields.get(name).is_some())
}

/// The predicates on programs of a match.
pub(crate) fn program(fields: &Fields<'_>, sink: &mut Sink) -> Program {
    let get = |name: &str| fields.get(name);
    Program {
        args: all(get("args"), sink, arg).unwrap_or_default(),
        not_args: all(get("not_args"), sink, arg).unwrap_or_default(),
        argv: positions(get("argv"), sink),
        not_argv: positions(get("not_argv"), sink),
        env: some(fields, "env", "variables", sink, variable),
        not_env: some(fields, "not_env", "variables", sink, variable),
        hash: some(fields, "hash", "hashes", sink, hash),
        not_hash: some(fields, "not_hash", "hashes", sink, hash),
        package: some(fields, "package", "packages", sink, word),
        not_package: some(fields, "not_package", "packages", sink, word),
        script: some(fields, "script", "regular expressions", sink, regex),
        not_script: some(fields, "not_script", "regular expressions", sink, regex),
    }
}

/// Reads a list of which any will do, and which has a bound.
fn some<T: PartialEq>(
    fields: &Fields<'_>,
    name: &str,
    what: &str,
    sink: &mut Sink,
    read: impl Fn(&Node, &mut Sink) -> Option<T>,
) -> Vec<T> {
    let found = each(fields.get(name), what, sink, read);
    if let (Some(node), true) = (fields.get(name), found.len() > MAX_ASKED) {
        sink.error(node.place, Code::TooMany, format!("{} in `{name}`; at most {MAX_ASKED}", found.len()));
    }
    found
}

fn variable(node: &Node, sink: &mut Sink) -> Option<Variable> {
    let Some(text) = node.text() else {
        sink.push(wrong_type(node, "a variable, as text"));
        return None;
    };
    match Variable::parse(text) {
        Ok(variable) => Some(variable),
        Err(error) => {
            sink.push(
                Diagnostic::error(
                    node.place,
                    Code::BadValue,
                    format!("bad variable \"{}\": {error}", shown(text)),
                )
                .help("NAME, or NAME=VALUE; `*` is any text in either"),
            );
            None
        }
    }
}

pub(crate) fn hash(node: &Node, sink: &mut Sink) -> Option<Sha256> {
    let found = node.text().and_then(Sha256::parse);
    if found.is_none() {
        let written = shown(node.written().unwrap_or_default());
        sink.push(
            Diagnostic::error(node.place, Code::BadValue, format!("\"{written}\" is no SHA-256"))
                .help("64 hexadecimal digits, as sha256sum prints them; `sha256:` may stand before them"),
        );
    }
    found
}

fn regex(node: &Node, sink: &mut Sink) -> Option<Regex> {
    let Some(text) = node.text() else {
        sink.push(wrong_type(node, "a regular expression, as text"));
        return None;
    };
    match Regex::parse(text) {
        Ok(regex) => Some(regex),
        Err(error) => {
            sink.push(
                Diagnostic::error(
                    node.place,
                    Code::BadValue,
                    format!("bad regular expression \"{}\": {error}", shown(text)),
                )
                .help(format!("at most {MAX_REGEX} bytes; (?i) ignores case, (?m) lets ^ and $ mean lines")),
            );
            None
        }
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
