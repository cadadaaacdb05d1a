//! Reading `subject`.

use super::fields::{Fields, Shape, each, wrong_type};
use super::scalars;
use crate::diagnostic::{Code, Diagnostic, Sink};
use crate::glob::Glob;
use crate::model::Match;
use crate::subject::{ANY_CONTAINER, CONTAINERS, Subject, Unknown};
use crate::yaml::{Node, shown};

const SUBJECT: Shape = Shape {
    what: "`subject`",
    known: &[
        "exe",
        "not_exe",
        "ancestors",
        "not_ancestors",
        "uid",
        "not_uid",
        "container",
        "not_container",
        "unknown",
    ],
    later: &["declared", "not_declared"],
};

/// Reads `subject`. What it says of the user is the same as in `match`, and goes there. `None`: nothing else is asked, or
/// something is wrong.
pub(crate) fn subject(node: &Node, matches: Option<&mut Match>, sink: &mut Sink) -> Option<Subject> {
    let before = sink.errors();
    let fields = Fields::of(node, &SUBJECT, sink)?;
    let asked = || fields.names().filter(|name| *name != "unknown");
    if asked().next().is_none() && sink.errors() == before {
        sink.push(
            Diagnostic::error(node.place, Code::MissingField, "a `subject` that asks for nothing")
                .help("give at least one of exe, ancestors, uid, container, or their not_ forms"),
        );
    }
    let mut programs = |name: &str| each(fields.get(name), "globs", sink, scalars::glob);
    let mut subject = Subject {
        exe: programs("exe"),
        not_exe: programs("not_exe"),
        ancestors: programs("ancestors"),
        not_ancestors: programs("not_ancestors"),
        ..Subject::default()
    };
    let within = fields.get("container");
    subject.not_container = each(fields.get("not_container"), "globs", sink, container);
    if within.and_then(Node::text) == Some("none") {
        // In none is not in any; what else it is not in stays.
        let any = Glob::word(ANY_CONTAINER, CONTAINERS).ok();
        subject.not_container.extend(any.filter(|any| !subject.not_container.contains(any)));
    } else {
        subject.container = each(within, "globs", sink, container);
    }
    if let Some(node) = fields.get("unknown") {
        subject.unknown = unknown(node, sink).unwrap_or_default();
        if asked().next().is_some() && asked().all(|name| name.ends_with("exe") || name.ends_with("uid")) {
            sink.push(
                Diagnostic::error(
                    node.place,
                    Code::Inapplicable,
                    "\"unknown\" says nothing where only exe and uid are asked for",
                )
                .help("they are always known: leave it out"),
            );
        }
    }
    let mut own = Match::default();
    for (name, to) in [("uid", &mut own.uid), ("not_uid", &mut own.not_uid)] {
        *to = each(fields.get(name), "user ids", sink, scalars::uids);
    }
    if let Some(matches) = matches {
        for (name, to, from) in
            [("uid", &mut matches.uid, own.uid), ("not_uid", &mut matches.not_uid, own.not_uid)]
        {
            let Some(node) = fields.get(name) else { continue };
            if !to.is_empty() {
                sink.push(
                    Diagnostic::error(
                        node.place,
                        Code::BadValue,
                        format!("\"{name}\" is in `match` and in `subject`, where it means the same"),
                    )
                    .help("give it once"),
                );
            }
            *to = from;
        }
    }
    (sink.errors() == before && subject != Subject::default()).then_some(subject)
}

/// A glob over the path of a cgroup, or the word for that of any container.
fn container(node: &Node, sink: &mut Sink) -> Option<Glob> {
    match node.text() {
        Some(ANY_CONTAINER) => return Glob::word(ANY_CONTAINER, CONTAINERS).ok(),
        Some("none") => {
            sink.push(
                Diagnostic::error(
                    node.place,
                    Code::BadValue,
                    "\"none\" stands alone, and in `container` only",
                )
                .help("write `not_container: any`, or `container: any` for its contrary"),
            );
            return None;
        }
        _ => {}
    }
    if let Some(text) = node.text().filter(|text| text.starts_with('~')) {
        sink.push(
            Diagnostic::error(
                node.place,
                Code::BadGlob,
                format!("bad glob \"{}\": a cgroup is in no home directory", shown(text)),
            )
            .help("write the path from the root of the cgroup tree, such as /kubepods.slice/**"),
        );
        return None;
    }
    scalars::glob(node, sink)
}

fn unknown(node: &Node, sink: &mut Sink) -> Option<Unknown> {
    match node.text() {
        Some("defer") => Some(Unknown::Defer),
        Some("deny") => Some(Unknown::Deny),
        Some("skip") => Some(Unknown::Skip),
        Some(_) => {
            sink.push(scalars::unknown_word(
                node,
                "way to take the unknown",
                ["defer", "deny", "skip"].into_iter(),
            ));
            None
        }
        None => {
            sink.push(wrong_type(node, "defer, deny or skip, as text"));
            None
        }
    }
}
