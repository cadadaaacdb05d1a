//! Reading actions: from the JSON that `eval` is given, and from `given` and `do` of a test.

use aarm_common::Operation;
use aarm_common::limits::{HOST_NAMES, PATH_MAX};
use std::net::{IpAddr, SocketAddr};

use super::fields::{Fields, Shape, each, list, number, text, truth, wrong_type};
use super::program::hash;
use super::scalars::{self, MAX_UID};
use crate::action::{Action, canonical, family_of, op_has, type_of};
use crate::args::MAX_LINE;
use crate::diagnostic::{Code, Diagnostic, Place, Sink};
use crate::names;
use crate::program::{MAX_ENV, MAX_SCRIPT, Told};
use crate::yaml::{self, Node, Value, shown};

/// Most further paths of an object.
const MAX_NAMES: usize = 64;

const ACTION: Shape = Shape {
    what: "an action",
    known: &[
        "operation",
        "path",
        "names",
        "path2",
        "names2",
        "args",
        "program",
        "exe",
        "uid",
        "ancestors",
        "container",
        "addr",
        "host",
        "port",
        "protocol",
        "family",
        "type",
        "also_read",
        "truncates",
        "exchange",
        "directory",
        "raw_memory",
        "sysctl",
        "fast_open",
        "writes",
    ],
    later: &["tool"],
};

const PROGRAM: Shape = Shape { what: "`program`", known: &["env", "hash", "package", "script"], later: &[] };

const AS: Shape = Shape { what: "`as`", known: &["exe", "uid", "ancestors", "container"], later: &["tool"] };

impl Action {
    /// Reads an action from JSON (or YAML), for example
    /// `{"operation":"connect","addr":"203.0.113.9","port":443,"protocol":"tcp","exe":"/usr/bin/curl","uid":1000}`.
    ///
    /// What the kernel would know by itself follows from what is given: the address family from the address,
    /// type and protocol from each other, TCP where neither is given.
    pub fn from_json(text: &[u8]) -> Result<Action, Vec<Diagnostic>> {
        let mut sink = Sink::default();
        let action = yaml::read(text, &mut sink).and_then(|node| read(&node, &mut sink));
        finish(action, sink)
    }
}

/// The value, if nothing was wrong.
pub(crate) fn finish<T>(value: Option<T>, sink: Sink) -> Result<T, Vec<Diagnostic>> {
    match value {
        Some(value) if sink.errors() == 0 => Ok(value),
        _ => Err(sink.into_sorted()),
    }
}

/// A real path: absolute, without empty, `.` or `..` components, no `/` at the end.
fn path(node: &Node, sink: &mut Sink) -> Option<Vec<u8>> {
    let Some(text) = node.text() else {
        sink.push(wrong_type(node, "a path, as text"));
        return None;
    };
    let bad = |message: &str| {
        Diagnostic::error(node.place, Code::BadValue, format!("bad path \"{}\": {message}", shown(text)))
    };
    if text.starts_with('~') {
        sink.push(bad("`~` stands for many directories").help("write one, as /home/u/…"));
        return None;
    }
    let Some(rest) = text.strip_prefix('/') else {
        sink.push(bad("it must be absolute"));
        return None;
    };
    if text.len() > PATH_MAX {
        sink.push(bad("it is longer than a path can be"));
        return None;
    }
    if text.contains('\0') || !rest.is_empty() && rest.split('/').any(|c| matches!(c, "" | "." | "..")) {
        sink.push(bad("a real path has no empty, `.` or `..` component and no `/` at its end"));
        return None;
    }
    Some(text.as_bytes().to_vec())
}

/// The object of an operation: a path, or for unix sockets also an abstract name.
fn object(node: &Node, op: Operation, sink: &mut Sink) -> Option<Vec<u8>> {
    match node.text() {
        Some(text)
            if text.starts_with('@')
                && text.len() <= 108
                && matches!(op, Operation::UnixConnect | Operation::UnixSend) =>
        {
            Some(text.as_bytes().to_vec())
        }
        _ => path(node, sink),
    }
}

fn has_target(op: Operation) -> bool {
    matches!(op, Operation::Rename | Operation::Link)
}

/// An action in its long form.
pub(crate) fn read(node: &Node, sink: &mut Sink) -> Option<Action> {
    let before = sink.errors();
    let fields = Fields::of(node, &ACTION, sink)?;
    let op = fields.need("operation", sink).and_then(|n| scalars::operation(n, sink))?;
    for name in fields.names() {
        let applies = op_has(op, name);
        if !applies {
            let place = fields.get(name).map_or(fields.place(), |n| n.place);
            sink.error(place, Code::Inapplicable, format!("`{}` has no \"{name}\"", op.name()));
        }
    }
    let mut action = Action::new(op);
    if op.has_path() {
        action.path = fields.need("path", sink).and_then(|n| object(n, op, sink));
        action.names = names(&fields, "names", op, sink);
    }
    if has_target(op) {
        action.path2 = fields.need("path2", sink).and_then(|n| path(n, sink));
        action.names2 = names(&fields, "names2", op, sink);
    }
    if let Some(node) = fields.get("args") {
        action.args = arguments(node, sink);
    }
    if let Some(node) = fields.get("program") {
        action.told = told(node, sink);
    }
    subject(&fields, &mut action, sink);
    for (name, flag) in [
        ("also_read", &mut action.also_read),
        ("truncates", &mut action.truncates),
        ("exchange", &mut action.exchange),
        ("directory", &mut action.directory),
        ("raw_memory", &mut action.raw_memory),
        ("sysctl", &mut action.sysctl),
        ("fast_open", &mut action.fast_open),
        ("writes", &mut action.writes),
    ] {
        if let Some(node) = fields.get(name) {
            *flag = truth(node, sink)?;
        }
    }
    if op.has_socket() {
        socket(&fields, &mut action, sink);
    }
    action.hosts = hosts(fields.get("host"), sink);
    (sink.errors() == before).then_some(action)
}

/// The arguments of an exec, without the program's name; null: they are unknown.
fn arguments(node: &Node, sink: &mut Sink) -> Option<Vec<Vec<u8>>> {
    if node.kind() == yaml::Kind::Nothing {
        return None;
    }
    let items = list(node, "arguments", sink);
    let mut found = Vec::new();
    for item in items {
        // Numbers are written as they are.
        match item.written() {
            Some(text) if !text.contains('\0') => found.push(text.as_bytes().to_vec()),
            _ => sink.push(wrong_type(item, "an argument, as text")),
        }
    }
    if found.iter().map(|word| word.len() + 1).sum::<usize>() > MAX_LINE {
        sink.error(node.place, Code::TooLarge, format!("the arguments have more than {MAX_LINE} bytes"));
    }
    Some(found)
}

/// What is known of a program besides its arguments; null: it is not known.
fn told(node: &Node, sink: &mut Sink) -> Option<Told> {
    if node.kind() == yaml::Kind::Nothing {
        return None;
    }
    let fields = Fields::of(node, &PROGRAM, sink)?;
    let mut env = Vec::new();
    if let Some(node) = fields.get("env") {
        for item in list(node, "variables", sink) {
            match item.text() {
                Some(text) if !text.contains('\0') => env.push(text.as_bytes().to_vec()),
                _ => sink.push(wrong_type(item, "a variable, NAME=VALUE as text")),
            }
        }
        if env.iter().map(|v| v.len() + 1).sum::<usize>() > MAX_ENV {
            sink.error(node.place, Code::TooLarge, format!("the variables have more than {MAX_ENV} bytes"));
        }
    }
    let script = fields.get("script").and_then(|n| text(n, sink)).map(|text| text.as_bytes().to_vec());
    if script.as_ref().is_some_and(|text| text.len() > MAX_SCRIPT) {
        sink.error(node.place, Code::TooLarge, format!("the script has more than {MAX_SCRIPT} bytes"));
    }
    Some(Told {
        env,
        hash: fields.get("hash").and_then(|n| hash(n, sink)),
        package: fields.get("package").and_then(|n| text(n, sink)).map(str::to_owned),
        script,
    })
}

/// Names by which an address is known.
fn hosts(node: Option<&Node>, sink: &mut Sink) -> Vec<String> {
    let Some(node) = node else { return Vec::new() };
    let found = each(Some(node), "names", sink, |node, sink| {
        let name = node.text().and_then(crate::host::name);
        if name.is_none() {
            let written = shown(node.written().unwrap_or_default());
            sink.error(node.place, Code::BadHost, format!("bad name of a host \"{written}\""));
        }
        name
    });
    if found.len() > HOST_NAMES {
        sink.error(node.place, Code::TooMany, format!("{} names; at most {HOST_NAMES}", found.len()));
    }
    found
}

/// Further paths of the object.
fn names(fields: &Fields<'_>, field: &str, op: Operation, sink: &mut Sink) -> Vec<Vec<u8>> {
    let Some(node) = fields.get(field) else { return Vec::new() };
    let items = list(node, "paths", sink);
    if items.len() > MAX_NAMES {
        sink.error(node.place, Code::TooMany, format!("{} paths; at most {MAX_NAMES}", items.len()));
    }
    items.iter().take(MAX_NAMES).filter_map(|item| object(item, op, sink)).collect()
}

/// `exe`, `uid`, `ancestors` and `container`; null for one of the latter two: it is unknown.
fn subject(fields: &Fields<'_>, action: &mut Action, sink: &mut Sink) {
    if let Some(node) = fields.get("exe") {
        action.exe = path(node, sink);
    }
    if let Some(node) = fields.get("uid")
        && let Some(uid) = number(node, "a user id", 0, MAX_UID as i128, sink)
    {
        action.uid = uid as u32;
    }
    if let Some(node) = fields.get("ancestors") {
        action.ancestors = (node.kind() != yaml::Kind::Nothing).then(|| {
            let items = list(node, "programs", sink);
            if items.len() > MAX_NAMES {
                sink.error(
                    node.place,
                    Code::TooMany,
                    format!("{} programs; at most {MAX_NAMES}", items.len()),
                );
            }
            items.iter().take(MAX_NAMES).filter_map(|item| path(item, sink)).collect()
        });
    }
    if let Some(node) = fields.get("container") {
        action.container = if node.kind() == yaml::Kind::Nothing { None } else { path(node, sink) };
    }
}

/// Address, port, family, type and protocol, with what follows from them.
fn socket(fields: &Fields<'_>, action: &mut Action, sink: &mut Sink) {
    let family = fields.get("family").and_then(|n| scalars::family(n, sink));
    let kind = fields.get("type").and_then(|n| scalars::sock_type(n, sink));
    let protocol = fields.get("protocol").and_then(|n| scalars::protocol(n, sink));
    if action.operation.has_address() {
        match fields.get("addr") {
            Some(node) => {
                action.addr = address(node, sink);
                action.port = fields
                    .need("port", sink)
                    .and_then(|n| number(n, "a port", 0, u16::MAX as i128, sink).map(|port| port as u16));
                if let (Some(addr), Some(family)) = (action.addr, family)
                    && family_of(addr) != family
                {
                    sink.error(
                        node.place,
                        Code::BadValue,
                        "the address is of another family than \"family\"",
                    );
                }
            }
            None if matches!(family, Some(names::AF_INET | names::AF_INET6) | None) => {
                fields.need("addr", sink);
            }
            None if fields.get("port").is_some() => {
                sink.error(fields.place(), Code::Inapplicable, "a port without an IP address");
            }
            None => {}
        }
    } else if family.is_none() && fields.get("family").is_none() {
        fields.need("family", sink);
    }
    action.family = action.addr.map(family_of).or(family).unwrap_or_default();
    (action.sock_type, action.protocol) = completed(action.family, kind, protocol);
}

/// Socket type and protocol, each from the other where it is missing; TCP on IP where both are.
fn completed(family: u16, kind: Option<u16>, protocol: Option<u8>) -> (u16, u8) {
    let ip = matches!(family, names::AF_INET | names::AF_INET6);
    let kind = match (kind, protocol) {
        (Some(kind), _) => kind,
        (None, Some(protocol)) if ip && protocol != 0 => type_of(protocol),
        _ => names::SOCK_STREAM,
    };
    let protocol = match (protocol, kind) {
        (Some(protocol), _) if protocol != 0 => protocol,
        (_, names::SOCK_STREAM) if ip => names::TCP,
        (_, names::SOCK_DGRAM) if ip => names::UDP,
        _ => 0,
    };
    (kind, protocol)
}

fn address(node: &Node, sink: &mut Sink) -> Option<IpAddr> {
    let Some(text) = node.text() else {
        sink.push(wrong_type(node, "an IP address, as text"));
        return None;
    };
    match text.parse::<IpAddr>() {
        Ok(addr) => Some(canonical(addr)),
        Err(_) => {
            sink.error(node.place, Code::BadAddress, format!("bad IP address \"{}\"", shown(text)));
            None
        }
    }
}

/// An action as a test writes it: the long form, or one operation with its object, `{ read: PATH }`, and who
/// does it: `as: { exe: PATH, uid: N, ancestors: [PATH], container: PATH }`.
pub(crate) fn read_short(node: &Node, sink: &mut Sink) -> Option<Action> {
    let Some(map) = node.map() else {
        sink.push(wrong_type(node, "an action, as a mapping such as { read: /etc/hosts }"));
        return None;
    };
    if map.iter().any(|(key, _)| key.text == "operation") {
        return read(node, sink);
    }
    let before = sink.errors();
    let mut actor = Action::new(Operation::Exec);
    let mut found: Option<Action> = None;
    let mut names = None;
    let mut args = None;
    let mut program = None;
    for (key, value) in map {
        if key.text == "args" {
            args = Some((key.place, arguments(value, sink)));
        } else if key.text == "program" {
            program = Some((key.place, told(value, sink)));
        } else if key.text == "as" {
            if let Some(fields) = Fields::of(value, &AS, sink) {
                subject(&fields, &mut actor, sink);
            }
        } else if key.text == "host" {
            names = Some((key.place, hosts(Some(value), sink)));
        } else if matches!(key.text.as_str(), "receive" | "tool") {
            sink.push(super::fields::not_yet(key.place, &format!("`{}` in a test", key.text)));
        } else if found.is_some() {
            sink.error(key.place, Code::BadValue, "one action at a time");
        } else if let Some(op) = short_operation(key, sink) {
            found = Some(short_object(op, value, sink).unwrap_or_else(|| Action::new(op)));
        }
    }
    let given = [
        ("host", names.as_ref().map(|(place, _)| *place)),
        ("args", args.as_ref().map(|(place, _)| *place)),
        ("program", program.as_ref().map(|(place, _)| *place)),
    ];
    for (name, place) in given {
        if let (Some(action), Some(place)) = (&found, place)
            && !op_has(action.operation, name)
        {
            sink.error(place, Code::Inapplicable, format!("`{}` has no \"{name}\"", action.operation.name()));
        }
    }
    let names = names.map(|(_, names)| names).unwrap_or_default();
    let args = args.map_or_else(|| Some(Vec::new()), |(_, args)| args);
    let told = program.map_or_else(|| Some(Told::default()), |(_, told)| told);
    match found {
        Some(action) if sink.errors() == before => Some(Action {
            exe: actor.exe,
            uid: actor.uid,
            ancestors: actor.ancestors,
            container: actor.container,
            hosts: names,
            args,
            told,
            ..action
        }),
        None if sink.errors() == before => {
            sink.error(node.place, Code::MissingField, "no action: write for example { read: /etc/hosts }");
            None
        }
        _ => None,
    }
}

/// The operation that a shorthand key names.
fn short_operation(key: &yaml::Key, sink: &mut Sink) -> Option<Operation> {
    match key.text.as_str() {
        "read" => Some(Operation::OpenRead),
        "write" => Some(Operation::OpenWrite),
        _ => {
            let node =
                Node { place: key.place, value: Value::Scalar { text: key.text.clone(), plain: false } };
            scalars::operation(&node, sink)
        }
    }
}

/// The action of a shorthand: its operation and what stands after the colon.
fn short_object(op: Operation, node: &Node, sink: &mut Sink) -> Option<Action> {
    if has_target(op) {
        let ends = list(node, "source and target", sink);
        let [from, to] = ends else {
            if node.kind() == yaml::Kind::List {
                sink.error(node.place, Code::BadValue, format!("`{}` takes [SOURCE, TARGET]", op.name()));
            }
            return None;
        };
        let (from, to) = (path(from, sink), path(to, sink));
        return Some(Action { path: from, path2: to, ..Action::new(op) });
    }
    if op.has_path() {
        return object(node, op, sink).map(|path| Action::on_path(op, path));
    }
    if !op.has_socket() {
        if node.kind() != yaml::Kind::Nothing {
            sink.push(
                Diagnostic::error(
                    node.place,
                    Code::BadValue,
                    format!("`{}` has no object that rules know", op.name()),
                )
                .help(format!("write {{ {}: }}", op.name())),
            );
        }
        return None;
    }
    let Some(text) = node.text() else {
        sink.push(wrong_type(node, "an address or socket, as text"));
        return None;
    };
    if op.has_address() { endpoint(op, text, node.place, sink) } else { short_socket(text, node.place, sink) }
}

/// `ADDRESS:PORT`, `[ADDRESS]:PORT`, with `/PROTOCOL` after it where it is not TCP.
fn endpoint(op: Operation, text: &str, place: Place, sink: &mut Sink) -> Option<Action> {
    let (address, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = names::number(names::PROTOCOLS, protocol);
    match (address.parse::<SocketAddr>(), protocol) {
        (Ok(address), Some(protocol)) => {
            Some(Action::on_address(op, address.ip(), address.port(), protocol as u8))
        }
        _ => {
            sink.push(
                Diagnostic::error(place, Code::BadAddress, format!("bad endpoint \"{}\"", shown(text)))
                    .help("write \"203.0.113.9:443\", \"[::1]:80\" or \"203.0.113.9:53/udp\""),
            );
            None
        }
    }
}

/// `FAMILY` or `FAMILY/TYPE`.
fn short_socket(text: &str, place: Place, sink: &mut Sink) -> Option<Action> {
    let (family, kind) = text.split_once('/').unwrap_or((text, "stream"));
    match (names::number(names::FAMILIES, family), names::number(names::TYPES, kind)) {
        (Some(family), Some(kind)) => {
            let (sock_type, protocol) = completed(family, Some(kind), None);
            Some(Action { family, sock_type, protocol, ..Action::new(Operation::Socket) })
        }
        _ => {
            sink.push(
                Diagnostic::error(place, Code::BadValue, format!("bad socket \"{}\"", shown(text)))
                    .help("write a family and a type: \"inet/stream\", \"packet/raw\""),
            );
            None
        }
    }
}
