//! The validated policy: what the parser produces, and what the compiler and the evaluator read.
//!
//! A [`Policy`] exists only if its document had no error, so whoever holds one checks nothing again. Its
//! canonical form is the document reduced to its meaning (one-element lists unfolded, numbers for names);
//! its hash names that meaning, and receipts carry it.

use aarm_common::{Decision, Family, Operation};
use ipnet::IpNet;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::action::Action;
use crate::data::{DataEntry, Label};
use crate::diagnostic::{Diagnostic, Place};
use crate::glob::Glob;
use crate::hold::{HoldDefaults, RuleHold};
use crate::host::Host;
use crate::modify::Modify;
use crate::program::Program;
use crate::subject::Subject;
use crate::when::{Span, When};

/// The one `apiVersion` this version reads.
pub const API_VERSION: &str = "aarm.dev/v1alpha1";
/// The one `kind`.
pub const KIND: &str = "AgentPolicy";
/// What `expect.rule` says for "no rule matched", and so no rule's id.
pub const DEFAULT_RULE: &str = "default";

/// A policy without errors.
#[derive(Clone, Debug, Serialize)]
pub struct Policy {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    pub(crate) metadata: Metadata,
    pub(crate) spec: Spec,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tests: Vec<TestCase>,
    #[serde(skip)]
    hash: String,
    #[serde(skip)]
    pub(crate) warnings: Vec<Diagnostic>,
}

/// Which policy it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Metadata {
    pub name: String,
    pub version: String,
}

/// What the policy says.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Spec {
    pub mode: Mode,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<AgentSelector>,
    #[serde(serialize_with = "by_name", skip_serializing_if = "BTreeMap::is_empty")]
    pub defaults: BTreeMap<Family, Decision>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<DataEntry>,
    #[serde(serialize_with = "as_map", skip_serializing_if = "Vec::is_empty")]
    pub record: Vec<(OperationName, Record)>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resolvers: Vec<IpNet>,
    #[serde(skip_serializing_if = "is_unsaid")]
    pub hold: HoldDefaults,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub redact: Vec<Redact>,
    pub rules: Vec<Rule>,
}

impl Spec {
    /// The labels of `data`, each once, in the order of their first entries.
    pub(crate) fn labels(&self) -> Vec<Label> {
        let mut labels: Vec<Label> = Vec::new();
        for entry in &self.data {
            if labels.iter().all(|label| label.name != entry.label) {
                labels.push(Label { name: entry.label.clone(), level: entry.level });
            }
        }
        labels
    }
}

/// What becomes of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It is enforced.
    Enforce,
    /// It is recorded; nothing is blocked.
    Audit,
}

/// What is kept of an action that was allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Record {
    /// A receipt.
    Full,
    /// A number: how many there were. An action that adds a label, or that a condition counts, has a receipt
    /// all the same.
    Summary,
}

/// What receipts do not show of sessions under a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Redact {
    /// Command lines.
    Arguments,
    /// Addresses and names of hosts.
    Hosts,
    /// On whose behalf.
    Human,
    /// Names of files and programs.
    Paths,
    /// What people and agents have said.
    Texts,
}

impl Redact {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Arguments, Self::Hosts, Self::Human, Self::Paths, Self::Texts];

    /// Its name in policies.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Arguments => "arguments",
            Self::Hosts => "hosts",
            Self::Human => "human",
            Self::Paths => "paths",
            Self::Texts => "texts",
        }
    }
}

/// Processes that become sessions when they exec. All that is given must hold; at least one thing is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AgentSelector {
    /// The program that is exec'd.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exe: Vec<Glob>,
    /// The user who does it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uid: Vec<Range<u32>>,
    /// Cgroups by path from the root of the cgroup tree; each means its whole subtree.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cgroup: Vec<String>,
    /// Where it stands in the document.
    #[serde(skip)]
    pub place: Place,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rule {
    /// Name, unique in the policy.
    pub id: String,
    /// What it is about.
    #[serde(rename = "match")]
    pub matches: Match,
    /// What it asks of the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<When>,
    /// What it asks of who acts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<Subject>,
    /// What it decides.
    #[serde(serialize_with = "decision_name")]
    pub decision: Decision,
    /// What it says of waiting.
    #[serde(flatten)]
    pub hold: RuleHold,
    /// What it changes: of MODIFY, and of nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modify: Option<Modify>,
    /// Its group in the precedence.
    pub classification: Classification,
    /// Its place within the group, larger first; absent counts as 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// Why, for the one who is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// For the reader of the policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Where it stands in the document.
    #[serde(skip)]
    pub place: Place,
}

/// Groups of rules; an earlier one comes before any later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Classification {
    /// Denied whatever the context.
    Forbidden,
    /// Deferred in some contexts.
    ContextDependentDefer,
    /// Denied, or asked about, in some contexts.
    ContextDependentDeny,
    /// Allowed, or asked about, in some contexts, whatever is decided otherwise.
    ContextDependentAllow,
    /// Decided by the action alone.
    Static,
}

/// Predicates on an action. All that are given must hold; a list means any of its members.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Match {
    /// Operations, and families for all their members.
    #[serde(rename = "operation", skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<OperationName>,
    /// The program that is run, of an exec: decided when it is about to.
    #[serde(flatten)]
    pub program: Program,
    /// The object's path.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub path: Vec<Glob>,
    /// Not the object's path.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_path: Vec<Glob>,
    /// The program: for the exec family the one that would run, otherwise the one that acts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exe: Vec<Glob>,
    /// Not the program.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_exe: Vec<Glob>,
    /// The address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cidr: Vec<IpNet>,
    /// Not the address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_cidr: Vec<IpNet>,
    /// A name by which the address is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub host: Vec<Host>,
    /// No name by which the address is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_host: Vec<Host>,
    /// The port.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port: Vec<Range<u16>>,
    /// Not the port.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_port: Vec<Range<u16>>,
    /// The IP protocol.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub protocol: Vec<u8>,
    /// Not the IP protocol.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_protocol: Vec<u8>,
    /// The address family, `AF_*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub family: Vec<u16>,
    /// Not the address family.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_family: Vec<u16>,
    /// The socket type, `SOCK_*`.
    #[serde(rename = "type", skip_serializing_if = "Vec::is_empty")]
    pub sock_type: Vec<u16>,
    /// Not the socket type.
    #[serde(rename = "not_type", skip_serializing_if = "Vec::is_empty")]
    pub not_sock_type: Vec<u16>,
    /// The acting user.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uid: Vec<Range<u32>>,
    /// Not the acting user.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_uid: Vec<Range<u32>>,
}

/// What may stand in `operation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperationName {
    /// One operation.
    Operation(Operation),
    /// All decided operations of a family. `exec` is always the family.
    Family(Family),
}

impl OperationName {
    /// The name as written.
    pub fn name(self) -> &'static str {
        match self {
            OperationName::Operation(operation) => operation.name(),
            OperationName::Family(family) => family.name(),
        }
    }

    /// The operations it means: of a family, those that this version decides.
    pub fn members(self) -> impl Iterator<Item = Operation> {
        Operation::ALL.iter().copied().filter(move |op| match self {
            OperationName::Operation(one) => *op == one,
            OperationName::Family(family) => op.family() == family && op.is_decided(),
        })
    }
}

impl Serialize for OperationName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Policy {
    /// Whether some exec is decided at the first instruction of the new image.
    pub fn asks_for_lines(&self) -> bool {
        self.rules().iter().any(Rule::is_by_line)
    }

    /// Whether some connection is redirected.
    pub fn redirects(&self) -> bool {
        self.rules().iter().any(|rule| rule.redirect().is_some())
    }
}

impl Rule {
    /// Whether it is for an answer to decide.
    pub fn asks(&self) -> bool {
        matches!(self.decision, Decision::StepUp | Decision::Defer)
    }

    /// Whether what it says of an exec is said at the first instruction of the new image: it asks what the kernel cannot see of the program, or changes what
    /// the program gets.
    pub fn is_by_line(&self) -> bool {
        !self.matches.program.is_empty() || self.decision == Decision::Modify && self.redirect().is_none()
    }

    /// Where it redirects to.
    pub fn redirect(&self) -> Option<SocketAddr> {
        self.modify.as_ref().and_then(|modify| modify.redirect)
    }

    /// Whether it lets happen because of a name: then a network that another rule refuses stays refused.
    pub(crate) fn allows_by_name(&self) -> bool {
        matches!(self.decision, Decision::Allow | Decision::Modify) && !self.matches.host.is_empty()
    }

    /// Whether it is looked at where a rule allows by name: it refuses networks or asks about them, or allows whatever the name.
    pub(crate) fn is_guard(&self) -> bool {
        match self.decision {
            // One that may not be sure to hold opens nothing.
            Decision::Allow => self.matches.host.is_empty() && self.subject.is_none(),
            // What happens because of a name refuses nothing: it would be found where it is itself what decides, and hide what refuses.
            _ => !self.matches.cidr.is_empty() && !self.allows_by_name(),
        }
    }
}

impl Match {
    /// Whether the match names the operation.
    pub fn names(&self, operation: Operation) -> bool {
        self.operations.iter().any(|name| name.members().any(|op| op == operation))
    }
}

/// From `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range<T> {
    /// The first value.
    pub first: T,
    /// The last value.
    pub last: T,
}

impl<T: PartialOrd + Copy> Range<T> {
    /// Whether the value is in the range.
    pub fn contains(&self, value: T) -> bool {
        self.first <= value && value <= self.last
    }
}

impl<T: Into<u64> + Copy + PartialEq> Serialize for Range<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (first, last): (u64, u64) = (self.first.into(), self.last.into());
        if first == last {
            serializer.serialize_u64(first)
        } else {
            serializer.collect_str(&format_args!("{first}-{last}"))
        }
    }
}

/// One entry of the `tests` section.
#[derive(Clone, Debug, Serialize)]
pub struct TestCase {
    /// What it shows.
    pub name: String,
    /// What the session did before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub given: Vec<Given>,
    /// The action.
    #[serde(rename = "do")]
    pub action: Action,
    /// What it must get.
    pub expect: Expect,
    /// Where it stands in the document.
    #[serde(skip)]
    pub place: Place,
}

/// Something that happened before the action of a test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Given {
    /// This time went by.
    Wait(Span),
    /// The session got this label, whatever for.
    Label(String),
    /// The session did this, and what the policy says became of it.
    #[serde(untagged)]
    Action(Box<Action>),
}

/// What a test expects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Expect {
    /// The decision.
    #[serde(serialize_with = "decision_name")]
    pub decision: Decision,
    /// The rule that decides, or [`DEFAULT_RULE`] for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

impl Policy {
    /// Seals the parts into a policy and computes its hash.
    pub(crate) fn new(metadata: Metadata, spec: Spec, tests: Vec<TestCase>) -> Self {
        let mut policy = Policy {
            api_version: API_VERSION,
            kind: KIND,
            metadata,
            spec,
            tests,
            hash: String::new(),
            warnings: Vec::new(),
        };
        let digest = ring::digest::digest(&ring::digest::SHA256, policy.canonical().as_bytes());
        policy.hash = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        policy
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        &self.metadata.name
    }

    /// `metadata.version`.
    pub fn version(&self) -> &str {
        &self.metadata.version
    }

    /// SHA-256 of [`canonical`](Self::canonical), in lower-case hex.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The policy in canonical JSON (RFC 8785).
    pub fn canonical(&self) -> String {
        serde_json_canonicalizer::to_string(self).expect("a policy is strings, integers, lists and maps")
    }

    /// What its author should look at. Severity is always `Warning`.
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }

    /// `spec.mode`.
    pub fn mode(&self) -> Mode {
        self.spec.mode
    }

    /// `spec.agents`.
    pub fn agents(&self) -> &[AgentSelector] {
        &self.spec.agents
    }

    /// `spec.rules`, in file order.
    pub fn rules(&self) -> &[Rule] {
        &self.spec.rules
    }

    /// `spec.resolvers`; empty: those of the host.
    pub fn resolvers(&self) -> &[IpNet] {
        &self.spec.resolvers
    }

    /// Whether some rule or `data` entry asks for a host's name.
    pub fn asks_for_hosts(&self) -> bool {
        let asks = |m: &Match| !m.host.is_empty() || !m.not_host.is_empty();
        self.spec.rules.iter().any(|rule| asks(&rule.matches))
            || self.spec.data.iter().filter_map(|entry| entry.on.receive.as_ref()).any(asks)
    }

    /// `spec.hold`.
    pub fn hold_defaults(&self) -> &HoldDefaults {
        &self.spec.hold
    }

    /// `spec.data`, in file order.
    pub fn data(&self) -> &[DataEntry] {
        &self.spec.data
    }

    /// The labels of `spec.data`, each once, in the order of their first entries. A label's place is its bit.
    pub fn labels(&self) -> Vec<Label> {
        self.spec.labels()
    }

    /// What receipts do not show, each once, sorted.
    pub fn redact(&self) -> &[Redact] {
        &self.spec.redact
    }

    /// What is kept of an allowed action of this operation: what is said of the operation, or else of its
    /// family.
    pub fn record(&self, operation: Operation) -> Record {
        let said = |name| self.spec.record.iter().find(|(n, _)| *n == name).map(|(_, record)| *record);
        said(OperationName::Operation(operation))
            .or_else(|| said(OperationName::Family(operation.family())))
            .unwrap_or(Record::Full)
    }

    /// Whether two rules contradict each other with the same right: same group, same explicit priority, other
    /// decision.
    pub(crate) fn conflict(&self, one: usize, other: usize) -> bool {
        let (one, other) = (&self.spec.rules[one], &self.spec.rules[other]);
        one.priority.is_some()
            && one.priority == other.priority
            && one.classification == other.classification
            && one.decision != other.decision
    }

    /// `tests`.
    pub fn tests(&self) -> &[TestCase] {
        &self.tests
    }

    /// Indices into [`rules`](Self::rules) in order of precedence: by group, explicit priority (larger
    /// first), file order. The first that matches wins, and compiled rules have this order.
    pub fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.spec.rules.len()).collect();
        order.sort_by_key(|i| {
            let rule = &self.spec.rules[*i];
            (rule.classification, std::cmp::Reverse(rule.priority.unwrap_or(0)))
        });
        order
    }

    /// A rule by its index in compiled order.
    pub fn compiled(&self, index: u16) -> Option<&Rule> {
        self.order().get(index as usize).map(|i| &self.spec.rules[*i])
    }

    /// What is decided when no rule matches.
    pub fn default_for(&self, family: Family) -> Decision {
        self.spec.defaults.get(&family).copied().unwrap_or(built_in_default(family))
    }
}

/// The documented posture for a family that `defaults` does not name: running, reading and writing are what
/// an agent is for; talking to others, reaching into their processes and what needs privilege are not, until a
/// rule says so.
pub fn built_in_default(family: Family) -> Decision {
    match family {
        Family::Exec | Family::Read | Family::Write => Decision::Allow,
        Family::Network | Family::Process | Family::Privileged | Family::Tool => Decision::Deny,
    }
}

pub(crate) fn decision_name<S: Serializer>(decision: &Decision, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(decision.name())
}

pub(crate) fn operation_name<S: Serializer>(op: &Operation, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(op.name())
}

fn is_unsaid(hold: &HoldDefaults) -> bool {
    *hold == HoldDefaults::default()
}

fn by_name<S: Serializer>(defaults: &BTreeMap<Family, Decision>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(defaults.iter().map(|(family, decision)| (family.name(), decision.name())))
}

fn as_map<S: Serializer>(record: &[(OperationName, Record)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(record.iter().map(|(name, record)| (name.name(), record)))
}
