//! Reading what a rule changes, and whether what it names can be changed so.

use aarm_common::{Decision, Operation};
use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::fields::{Fields, Shape, any_of, each, text, wrong_type};
use super::program::word;
use crate::args::MAX_PATTERN;
use crate::diagnostic::{Code, Diagnostic, Sink};
use crate::model::OperationName;
use crate::modify::{MAX_CHANGES, Modify, Replace, Resource};
use crate::yaml::{Node, shown};

const MODIFY: Shape = Shape {
    what: "`modify`",
    known: &["redirect", "scrub_env", "limits", "args"],
    later: &["set_env", "stdin"],
};
const REPLACE: Shape = Shape { what: "a member of `args`", known: &["replace", "with"], later: &[] };

/// What is changed of which operations.
const OF_PROGRAMS: &[Operation] = &[Operation::Exec];
const OF_CONNECTIONS: &[Operation] = &[Operation::Connect, Operation::Send];

/// `modify` of a rule with this decision about these operations.
pub(crate) fn of_rule(
    fields: &Fields<'_>,
    decision: Option<Decision>,
    operations: &[OperationName],
    sink: &mut Sink,
) -> Option<Modify> {
    match (fields.get("modify"), decision) {
        (None, Some(Decision::Modify)) => {
            sink.push(
                Diagnostic::error(
                    fields.place(),
                    Code::MissingField,
                    "a rule that decides MODIFY needs the field \"modify\"",
                )
                .help("what is changed: redirect, scrub_env, limits or args"),
            );
            None
        }
        (None, _) => None,
        (Some(node), Some(Decision::Modify) | None) => modify(node, operations, sink),
        (Some(node), Some(other)) => {
            sink.push(
                Diagnostic::error(
                    node.place,
                    Code::Inapplicable,
                    format!("`modify` says nothing about a rule that decides {}", other.name()),
                )
                .help("write `decision: MODIFY`"),
            );
            None
        }
    }
}

fn modify(node: &Node, operations: &[OperationName], sink: &mut Sink) -> Option<Modify> {
    let before = sink.errors();
    let fields = Fields::of(node, &MODIFY, sink)?;
    if fields.names().next().is_none() && sink.errors() == before {
        sink.error(node.place, Code::MissingField, "`modify` changes nothing");
        return None;
    }
    for name in fields.names() {
        let (fitting, what) = match name {
            "redirect" => (OF_CONNECTIONS, "connections"),
            _ => (OF_PROGRAMS, "programs"),
        };
        let other = operations.iter().flat_map(|name| name.members()).find(|op| !fitting.contains(op));
        if let Some(op) = other {
            let names: Vec<&str> = fitting.iter().map(|op| op.name()).collect();
            sink.push(
                Diagnostic::error(
                    fields.get(name).map_or(node.place, |n| n.place),
                    Code::Inapplicable,
                    format!("\"{name}\" changes {what}, and nothing of `{}`", op.name()),
                )
                .help(format!("the rule's operations can be {}", names.join(" and "))),
            );
        }
    }
    let modify = Modify {
        redirect: fields.get("redirect").and_then(|n| target(n, sink)),
        scrub_env: each(fields.get("scrub_env"), "names of variables", sink, word),
        limits: fields.get("limits").map(|n| limits(n, sink)).unwrap_or_default(),
        args: words(fields.get("args"), sink),
    };
    for (name, n) in [("scrub_env", modify.scrub_env.len()), ("args", modify.args.len())] {
        if n > MAX_CHANGES {
            let place = fields.get(name).map_or(node.place, |n| n.place);
            sink.error(place, Code::TooMany, format!("{n} in `{name}`; at most {MAX_CHANGES}"));
        }
    }
    (sink.errors() == before).then_some(modify)
}

/// An address and port.
fn target(node: &Node, sink: &mut Sink) -> Option<SocketAddr> {
    let found = node.text().and_then(|text| text.parse::<SocketAddr>().ok());
    // What has an interface in it, or leads nowhere, is not what is meant.
    let found = found.filter(|a| a.port() != 0 && !a.ip().is_unspecified());
    let found = found.filter(|a| !matches!(a, SocketAddr::V6(v6) if v6.scope_id() != 0));
    let found =
        found.filter(|a| !matches!(a.ip(), std::net::IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()));
    if found.is_none() {
        sink.push(
            Diagnostic::error(
                node.place,
                Code::BadValue,
                format!(
                    "\"{}\" is no address and port to redirect to",
                    shown(node.written().unwrap_or_default())
                ),
            )
            .help("write 127.0.0.1:3128 or \"[::1]:3128\"; names are not looked up"),
        );
    }
    found
}

fn limits(node: &Node, sink: &mut Sink) -> BTreeMap<Resource, u64> {
    let mut found = BTreeMap::new();
    let Some(map) = node.map() else {
        sink.push(wrong_type(node, "limits, a mapping"));
        return found;
    };
    for (key, value) in map {
        match Resource::parse(&key.text) {
            Some(resource) => {
                if let Some(value) = limit(resource, value, sink) {
                    found.insert(resource, value);
                }
            }
            None => {
                let error = Diagnostic::error(
                    key.place,
                    Code::UnknownField,
                    format!("unknown limit \"{}\"", shown(&key.text)),
                );
                let all: Vec<&str> = Resource::names().collect();
                sink.push(error.help(format!("limits are {}", all.join(", "))));
            }
        }
    }
    found
}

/// A number, or bytes with a unit.
fn limit(resource: Resource, node: &Node, sink: &mut Sink) -> Option<u64> {
    let sized = || {
        let text = node.text()?;
        let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
        let (number, shift) = units.iter().find_map(|(unit, n)| Some((text.strip_suffix(unit)?, n)))?;
        let number = number.trim_end();
        let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        number.parse::<u64>().ok().filter(|_| digits)?.checked_mul(1 << shift)
    };
    let plain = node.integer().and_then(|n| u64::try_from(n).ok());
    // The largest number means "none" to the kernel.
    let found = plain.or_else(|| sized().filter(|_| resource.is_bytes())).filter(|n| *n < 1 << 53);
    if found.is_none() {
        sink.push(
            Diagnostic::error(
                node.place,
                Code::BadValue,
                format!(
                    "\"{}\" is no limit of {}",
                    shown(node.written().unwrap_or_default()),
                    resource.name()
                ),
            )
            .help(match resource.is_bytes() {
                true => "a number of bytes, or one with KiB, MiB, GiB or TiB",
                false => "a number, in the unit of setrlimit(2)",
            }),
        );
    }
    found
}

fn words(node: Option<&Node>, sink: &mut Sink) -> Vec<Replace> {
    let Some(node) = node else { return Vec::new() };
    any_of(node, "words to replace", sink)
        .iter()
        .filter_map(|item| {
            let fields = Fields::of(item, &REPLACE, sink)?;
            let replace = fields.need("replace", sink).and_then(|n| word(n, sink));
            let with = fields.need("with", sink).and_then(|n| text(n, sink));
            if let (Some(n), Some(with)) = (fields.get("with"), with)
                && with.len() > MAX_PATTERN
            {
                sink.error(n.place, Code::TooLarge, format!("a word of more than {MAX_PATTERN} bytes"));
            }
            Some(Replace { replace: replace?, with: with?.to_owned() })
        })
        .collect()
}
