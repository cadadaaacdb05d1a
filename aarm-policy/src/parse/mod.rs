//! From a document to a [`Policy`].
//!
//! Strict: what is not understood is an error with its place, and all errors are reported at once. What a
//! later version of the language reads is told apart from what nothing reads.

mod action;
mod cases;
mod context;
mod data;
mod fields;
mod hold;
mod modify;
mod program;
mod rule;
mod scalars;
mod subject;
mod when;

pub use cases::MAX_TESTS;
pub use data::MAX_LABEL;
pub use rule::MAX_ID;

use aarm_common::limits::{AGENT_SELECTORS, RESOLVERS};
use aarm_common::{Decision, Family};
use std::collections::BTreeMap;

use crate::data::Label;
use crate::diagnostic::{Code, Diagnostic, Sink, nearest};
use crate::model::{API_VERSION, AgentSelector, KIND, Metadata, Mode, OperationName, Policy, Spec, TestCase};
use crate::yaml::{self, Node, shown};
use fields::{Fields, Shape, each, list, not_yet, text, wrong_type};

/// Longest `metadata.name`.
const MAX_NAME: usize = 64;
/// Longest `metadata.version`.
const MAX_VERSION: usize = 64;
/// Longest cgroup path.
const MAX_CGROUP: usize = 1024;

const DOCUMENT: Shape = Shape {
    what: "a policy",
    known: &["apiVersion", "kind", "metadata", "spec", "tests"],
    later: &["status"],
};

const METADATA: Shape =
    Shape { what: "`metadata`", known: &["name", "version"], later: &["labels", "annotations", "namespace"] };

const SPEC: Shape = Shape {
    what: "`spec`",
    known: &["mode", "agents", "defaults", "data", "record", "resolvers", "hold", "redact", "rules"],
    later: &["fail", "extends", "drift", "identity"],
};

const AGENT: Shape = Shape {
    what: "an agent",
    known: &["exe", "uid", "cgroup"],
    later: &["not_exe", "not_uid", "not_cgroup", "container", "env"],
};

impl Policy {
    /// Reads and checks a policy document. All errors are returned, by place.
    pub fn parse(source: &[u8]) -> Result<Policy, Vec<Diagnostic>> {
        let mut sink = Sink::default();
        let parts = yaml::read(source, &mut sink).and_then(|root| document(&root, &mut sink));
        match parts {
            Some((metadata, spec, tests)) if sink.errors() == 0 => {
                let mut policy = Policy::new(metadata, spec, tests);
                policy.warnings = rule::warnings(&policy);
                Ok(policy)
            }
            _ => Err(sink.into_sorted()),
        }
    }
}

fn document(root: &Node, sink: &mut Sink) -> Option<(Metadata, Spec, Vec<TestCase>)> {
    let fields = Fields::of(root, &DOCUMENT, sink)?;
    for (name, want) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        if let Some(node) = fields.need(name, sink)
            && node.text() != Some(want)
        {
            let written = shown(node.written().unwrap_or_default());
            sink.push(
                Diagnostic::error(
                    node.place,
                    Code::BadValue,
                    format!("\"{written}\" is no {name} that is read here"),
                )
                .help(format!("write {name}: {want}")),
            );
        }
    }
    let metadata = fields.need("metadata", sink).and_then(|n| metadata(n, sink));
    let mut named = Named::default();
    let spec = fields.need("spec", sink).and_then(|n| spec(n, &mut named, sink));
    let tests =
        fields.get("tests").map(|n| cases::cases(n, &named.rules, &named.labels, sink)).unwrap_or_default();
    Some((metadata?, spec?, tests))
}

fn metadata(node: &Node, sink: &mut Sink) -> Option<Metadata> {
    let fields = Fields::of(node, &METADATA, sink)?;
    let name = fields.need("name", sink).and_then(|n| {
        let name = text(n, sink)?;
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        // The form of a Kubernetes object's name, so that a policy can become one.
        if name.len() > MAX_NAME || !name.bytes().all(allowed) || name.starts_with('-') || name.ends_with('-')
        {
            sink.push(
                Diagnostic::error(n.place, Code::BadValue, format!("bad policy name \"{}\"", shown(name)))
                    .help(format!("1 to {MAX_NAME} of a-z, 0-9 and -, not - at either end")),
            );
            return None;
        }
        Some(name.to_owned())
    });
    let version = fields.need("version", sink).and_then(|n| {
        let version = text(n, sink)?;
        if version.len() > MAX_VERSION || !version.bytes().all(|b| b.is_ascii_graphic()) {
            sink.push(
                Diagnostic::error(n.place, Code::BadValue, format!("bad version \"{}\"", shown(version)))
                    .help(format!("1 to {MAX_VERSION} printable ASCII characters without blanks")),
            );
            return None;
        }
        Some(version.to_owned())
    });
    Some(Metadata { name: name?, version: version? })
}

/// What a test can refer to, of entries with errors too.
#[derive(Default)]
struct Named {
    rules: Vec<String>,
    labels: Vec<Label>,
}

/// Reads `spec`, and into `named` the names in it.
fn spec(node: &Node, named: &mut Named, sink: &mut Sink) -> Option<Spec> {
    let fields = Fields::of(node, &SPEC, sink)?;
    let mode = fields.get("mode").map_or(Some(Mode::Enforce), |n| mode(n, sink));
    let agents = fields.get("agents").map(|n| agents(n, sink)).unwrap_or_default();
    let defaults = fields.get("defaults").map(|n| defaults(n, sink)).unwrap_or_default();
    let (data, labels) = fields.get("data").map(|n| data::data(n, sink)).unwrap_or_default();
    let record = fields.get("record").map(|n| data::record(n, sink)).unwrap_or_default();
    let resolvers = fields.get("resolvers").map(|n| resolvers(n, sink)).unwrap_or_default();
    let hold = fields.get("hold").map(|n| hold::defaults(n, sink)).unwrap_or_default();
    let mut redact = each(fields.get("redact"), "parts of receipts", sink, data::redacted);
    redact.sort_unstable();
    let mut spec = Spec {
        mode: Mode::Enforce,
        agents,
        defaults,
        data,
        record,
        resolvers,
        hold,
        redact,
        rules: Vec::new(),
    };
    let (rules, found) = fields.get("rules").map(|n| rule::rules(n, &labels, sink)).unwrap_or_default();
    *named = Named { rules: found, labels };
    spec.rules = rules;
    spec.mode = mode?;
    Some(spec)
}

fn mode(node: &Node, sink: &mut Sink) -> Option<Mode> {
    match node.text() {
        Some("enforce") => Some(Mode::Enforce),
        Some("audit") => Some(Mode::Audit),
        Some(other) => {
            let error =
                Diagnostic::error(node.place, Code::BadValue, format!("\"{}\" is no mode", shown(other)));
            sink.push(match nearest(other, ["enforce", "audit"]) {
                Some(near) => error.help(format!("did you mean \"{near}\"?")),
                None => error.help("there are enforce and audit"),
            });
            None
        }
        None => {
            sink.push(wrong_type(node, "a mode, as text"));
            None
        }
    }
}

fn defaults(node: &Node, sink: &mut Sink) -> BTreeMap<Family, Decision> {
    let mut out = BTreeMap::new();
    let Some(map) = node.map() else {
        sink.push(wrong_type(node, "`defaults`, a mapping of families to decisions"));
        return out;
    };
    for (key, value) in map {
        let Some(family) = Family::from_name(&key.text) else {
            let error = Diagnostic::error(
                key.place,
                Code::UnknownField,
                format!("\"{}\" is no family", shown(&key.text)),
            );
            let names = Family::ALL.iter().map(|f| f.name());
            sink.push(match nearest(&key.text, names) {
                Some(near) => error.help(format!("did you mean \"{near}\"?")),
                None => error.help("there are exec, read, write, network, process and privileged"),
            });
            continue;
        };
        if !aarm_common::Operation::ALL.iter().any(|op| op.family() == family && op.is_decided()) {
            sink.push(not_yet(key.place, &format!("a default for the family `{}`", family.name())));
            continue;
        }
        if let Some(decision) = scalars::decision(value, sink) {
            hold::check(decision, &[OperationName::Family(family)], value.place, sink);
            out.insert(family, decision);
        }
    }
    out
}

/// Whose answers are believed.
fn resolvers(node: &Node, sink: &mut Sink) -> Vec<ipnet::IpNet> {
    let found: Vec<ipnet::IpNet> = each(Some(node), "networks", sink, scalars::network);
    if found.len() > RESOLVERS {
        sink.error(node.place, Code::TooMany, format!("{} resolvers; at most {RESOLVERS}", found.len()));
    }
    found
}

fn agents(node: &Node, sink: &mut Sink) -> Vec<AgentSelector> {
    let items = list(node, "agents", sink);
    if items.len() > AGENT_SELECTORS {
        sink.error(
            node.place,
            Code::TooMany,
            format!("{} agents; at most {AGENT_SELECTORS}, over all policies", items.len()),
        );
    }
    items.iter().take(AGENT_SELECTORS).filter_map(|item| agent(item, sink)).collect()
}

fn agent(node: &Node, sink: &mut Sink) -> Option<AgentSelector> {
    let before = sink.errors();
    let fields = Fields::of(node, &AGENT, sink)?;
    if fields.names().next().is_none() && sink.errors() == before {
        sink.push(
            Diagnostic::error(node.place, Code::MissingField, "an agent that is told by nothing")
                .help("give at least one of exe, uid, cgroup"),
        );
    }
    let selector = AgentSelector {
        exe: each(fields.get("exe"), "globs", sink, scalars::glob),
        uid: each(fields.get("uid"), "user ids", sink, scalars::uids),
        cgroup: each(fields.get("cgroup"), "cgroups", sink, cgroup),
        place: node.place,
    };
    (sink.errors() == before).then_some(selector)
}

/// A cgroup: `/a/b`, or `/a/b/**` for the same, as a cgroup always means its subtree.
fn cgroup(node: &Node, sink: &mut Sink) -> Option<String> {
    let Some(text) = node.text() else {
        sink.push(wrong_type(node, "a cgroup path, as text"));
        return None;
    };
    let path = text.strip_suffix("/**").unwrap_or(text);
    let root = path.is_empty() && text == "/**" || path == "/";
    let plain = text.len() <= MAX_CGROUP
        && path.starts_with('/')
        && path[1..].split('/').all(|c| !matches!(c, "" | "." | "..") && !c.contains(['*', '?', '\0']));
    if !root && !plain {
        sink.push(
            Diagnostic::error(node.place, Code::BadValue, format!("bad cgroup \"{}\"", shown(text)))
                .help("write a path below the cgroup root, such as /agents.slice or /kubepods.slice/**"),
        );
        return None;
    }
    Some(if root { "/".to_owned() } else { path.to_owned() })
}
