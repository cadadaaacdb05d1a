//! Values that are one word: names of the vocabulary, numbers, ranges, networks, globs.

use aarm_common::{Decision, Family, Operation};
use ipnet::{IpNet, Ipv4Net};
use std::net::IpAddr;

use super::fields::{not_yet, wrong_type};
use crate::diagnostic::{Code, Diagnostic, Sink, nearest};
use crate::glob::Glob;
use crate::host::Host;
use crate::model::{OperationName, Range};
use crate::names;
use crate::yaml::{Node, shown};

/// Largest user id; the one above means "none" to the kernel.
pub(crate) const MAX_UID: u32 = u32::MAX - 1;
/// Largest address family that can be named: the kernel's table has one entry left for all others.
pub(crate) const MAX_FAMILY: u16 = aarm_common::limits::SOCKET_FAMILIES as u16 - 2;

/// Largest socket type that can be named, likewise.
pub(crate) const MAX_TYPE: u16 = aarm_common::limits::SOCKET_TYPES as u16 - 2;

/// "`x` is no …", with what was probably meant.
pub(crate) fn unknown_word<'a>(
    node: &Node,
    what: &str,
    words: impl Iterator<Item = &'a str> + Clone,
) -> Diagnostic {
    let word = shown(node.written().unwrap_or_default());
    let error = Diagnostic::error(node.place, Code::BadValue, format!("\"{word}\" is no {what}"));
    match nearest(&word, words.clone()) {
        Some(near) => error.help(format!("did you mean \"{near}\"?")),
        None => {
            let all: Vec<&str> = words.collect();
            if all.len() <= 12 { error.help(format!("there are {}", all.join(", "))) } else { error }
        }
    }
}

/// A decision that a rule, or a test of one, can have.
pub(crate) fn rule_decision(node: &Node, sink: &mut Sink) -> Option<Decision> {
    one_of(node, Decision::ALL, sink)
}

/// A decision that a default can have: what is to be changed is for a rule to say.
pub(crate) fn decision(node: &Node, sink: &mut Sink) -> Option<Decision> {
    one_of(node, &[Decision::Allow, Decision::Deny, Decision::StepUp, Decision::Defer], sink)
}

fn one_of(node: &Node, supported: &[Decision], sink: &mut Sink) -> Option<Decision> {
    let Some(text) = node.text() else {
        sink.push(wrong_type(node, "a decision, as text"));
        return None;
    };
    match Decision::from_name(text) {
        Some(found) if supported.contains(&found) => Some(found),
        Some(later) => {
            sink.push(not_yet(node.place, &format!("the decision {}", later.name())));
            None
        }
        None => {
            sink.push(unknown_word(node, "decision", Decision::ALL.iter().map(|d| d.name())));
            None
        }
    }
}

/// Every name that `operation` takes.
fn operation_words() -> impl Iterator<Item = &'static str> + Clone {
    Operation::ALL.iter().map(|op| op.name()).chain(Family::ALL.iter().map(|family| family.name()))
}

/// An operation or family that this version decides.
pub(crate) fn operation_name(node: &Node, sink: &mut Sink) -> Option<OperationName> {
    let Some(text) = node.text() else {
        sink.push(wrong_type(node, "an operation, as text"));
        return None;
    };
    let found = match (Family::from_name(text), Operation::from_name(text)) {
        (Some(family), _) => OperationName::Family(family),
        (_, Some(op)) => OperationName::Operation(op),
        _ => {
            sink.push(unknown_word(node, "operation", operation_words()));
            return None;
        }
    };
    if found.members().any(|op| op.is_decided()) {
        return Some(found);
    }
    if found == OperationName::Operation(Operation::ExecArgs) {
        sink.push(
            Diagnostic::error(
                node.place,
                Code::Inapplicable,
                "`exec_args` is how receipts name a command line",
            )
            .help("name `exec`, and give the rule `args` or `argv`"),
        );
        return None;
    }
    sink.push(not_yet(node.place, &format!("the operation `{text}`")));
    None
}

/// What receipts call `exec_args`.
fn command_line(node: &Node) -> Diagnostic {
    Diagnostic::error(node.place, Code::Inapplicable, "`exec_args` is how receipts name a command line")
        .help("name `exec`, and give the rule `args` or `argv`")
}

/// One operation that this version decides; `exec` is the operation here.
pub(crate) fn operation(node: &Node, sink: &mut Sink) -> Option<Operation> {
    let Some(text) = node.text() else {
        sink.push(wrong_type(node, "an operation, as text"));
        return None;
    };
    match Operation::from_name(text) {
        Some(op) if op.is_decided() => Some(op),
        Some(Operation::ExecArgs) => {
            sink.push(command_line(node));
            None
        }
        Some(_) => {
            sink.push(not_yet(node.place, &format!("the operation `{text}`")));
            None
        }
        None => {
            sink.push(unknown_word(node, "operation", Operation::ALL.iter().map(|op| op.name())));
            None
        }
    }
}

/// A glob.
pub(crate) fn glob(node: &Node, sink: &mut Sink) -> Option<Glob> {
    let Some(text) = node.text() else {
        sink.push(wrong_type(node, "a glob, as text"));
        return None;
    };
    match Glob::parse(text) {
        Ok(glob) => Some(glob),
        Err(error) => {
            let found = Diagnostic::error(
                node.place,
                Code::BadGlob,
                format!("bad glob \"{}\": {error}", shown(text)),
            );
            sink.push(match error.help(&shown(text)) {
                Some(help) => found.help(help),
                None => found,
            });
            None
        }
    }
}

/// A glob over names of hosts, or the word for a name that is not known.
pub(crate) fn host(node: &Node, sink: &mut Sink) -> Option<Host> {
    let Some(text) = node.text() else {
        sink.push(wrong_type(node, "a host's name or glob, as text"));
        return None;
    };
    match Host::parse(text) {
        Ok(host) => Some(host),
        Err(error) => {
            let message = format!("bad host \"{}\": {error}", shown(text));
            let found = Diagnostic::error(node.place, Code::BadHost, message);
            sink.push(match error.help() {
                Some(help) => found.help(help),
                None => found,
            });
            None
        }
    }
}

/// A network, or an address for the network of that one address. IPv4-mapped IPv6 is IPv4.
pub(crate) fn network(node: &Node, sink: &mut Sink) -> Option<IpNet> {
    let Some(text) = node.text() else {
        sink.push(wrong_type(node, "a network such as 10.0.0.0/8, as text"));
        return None;
    };
    let bad = |message: String| Diagnostic::error(node.place, Code::BadAddress, message);
    let net = match (text.parse::<IpNet>(), text.parse::<IpAddr>()) {
        (Ok(net), _) => net,
        (_, Ok(addr)) => IpNet::from(addr),
        _ => {
            let error = bad(format!("bad network \"{}\"", shown(text)));
            sink.push(match text.split_once('/').map(|(addr, bits)| (addr.parse::<IpAddr>(), bits)) {
                Some((Ok(addr), _)) => error.help(format!(
                    "the prefix is a number from 0 to {}",
                    if addr.is_ipv4() { 32 } else { 128 }
                )),
                _ => error.help("write an address and a prefix: \"10.0.0.0/8\", \"fd00::/8\""),
            });
            return None;
        }
    };
    if net.addr() != net.network() {
        sink.push(bad(format!("\"{}\" has bits set after its prefix", shown(text))).help(format!(
            "write \"{}\" for the network, \"{}\" for the address",
            net.trunc(),
            net.addr()
        )));
        return None;
    }
    Some(match net {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.addr().to_ipv4_mapped() {
            // A prefix of 96 to 128 leaves 0 to 32 bits of IPv4.
            Some(v4) => Ipv4Net::new(v4, v6.prefix_len() - 96).map_or(net, IpNet::V4),
            None => net,
        },
        _ => net,
    })
}

/// A number, or `first-last`.
fn range(node: &Node, what: &str, max: u64, sink: &mut Sink) -> Option<Range<u64>> {
    let bad = |message: String| {
        Diagnostic::error(node.place, Code::BadValue, message)
            .help(format!("write a number from 0 to {max}, or a range \"1000-1999\""))
    };
    let written = match (node.text(), node.integer()) {
        (_, Some(_)) | (Some(_), _) => node.written().unwrap_or_default(),
        _ => {
            sink.push(wrong_type(node, &format!("{what}, a number or a range as text")));
            return None;
        }
    };
    // Decimal digits only: a sign, a blank or hex here is more likely a slip than meant.
    let digits = |text: &str| -> Option<u64> {
        if !text.is_empty() && text.len() <= 10 && text.bytes().all(|b| b.is_ascii_digit()) {
            text.parse().ok().filter(|n| *n <= max)
        } else {
            None
        }
    };
    let (first, last) = written.split_once('-').unwrap_or((written, written));
    match (digits(first), digits(last)) {
        (Some(first), Some(last)) if first <= last => Some(Range { first, last }),
        (Some(_), Some(_)) => {
            sink.push(bad(format!("the range \"{}\" runs backwards", shown(written))));
            None
        }
        _ => {
            sink.push(bad(format!("bad {what} \"{}\"", shown(written))));
            None
        }
    }
}

/// A port or a range of ports.
pub(crate) fn ports(node: &Node, sink: &mut Sink) -> Option<Range<u16>> {
    range(node, "port", u16::MAX as u64, sink).map(|r| Range { first: r.first as u16, last: r.last as u16 })
}

/// A user id or a range of them.
pub(crate) fn uids(node: &Node, sink: &mut Sink) -> Option<Range<u32>> {
    range(node, "user id", MAX_UID as u64, sink).map(|r| Range { first: r.first as u32, last: r.last as u32 })
}

/// A name of a table, or its number.
fn named(node: &Node, what: &str, table: &[(&'static str, u16)], max: u16, sink: &mut Sink) -> Option<u16> {
    if let Some(value) = node.integer() {
        if (0..=max as i128).contains(&value) {
            return Some(value as u16);
        }
        sink.error(
            node.place,
            Code::BadValue,
            format!("{what} is a name or a number from 0 to {max}, not {value}"),
        );
        return None;
    }
    let Some(text) = node.text() else {
        sink.push(wrong_type(node, &format!("{what}, a name as text or a number")));
        return None;
    };
    let found = names::number(table, text);
    if found.is_none() {
        sink.push(unknown_word(node, what, table.iter().map(|(name, _)| *name)));
    }
    found
}

/// An IP protocol.
pub(crate) fn protocol(node: &Node, sink: &mut Sink) -> Option<u8> {
    named(node, "IP protocol", names::PROTOCOLS, u8::MAX as u16, sink).map(|n| n as u8)
}

/// An address family.
pub(crate) fn family(node: &Node, sink: &mut Sink) -> Option<u16> {
    named(node, "address family", names::FAMILIES, MAX_FAMILY, sink)
}

/// A socket type.
pub(crate) fn sock_type(node: &Node, sink: &mut Sink) -> Option<u16> {
    named(node, "socket type", names::TYPES, MAX_TYPE, sink)
}
