//! What a policy says of actions that wait for an answer: who is asked, for how long, and what then.

use aarm_common::Decision;
use serde::{Serialize, Serializer};
use std::fmt;

use crate::model::{Policy, Rule};
use crate::when::Span;

/// Most approvers in one list.
pub const MAX_APPROVERS: usize = 32;
/// Longest name of a user or group.
pub const MAX_APPROVER: usize = 64;
/// Most resolvers of one rule.
pub const MAX_RESOLVERS: usize = 8;
/// Longest name of a resolver.
pub const MAX_RESOLVER: usize = 64;
/// Longest wait.
pub const MAX_WAIT: Span = Span(24 * 3_600_000_000_000);
/// How long a STEP_UP waits where nothing is said.
pub const STEP_UP_WAIT: Span = Span(600_000_000_000);
/// How long a DEFER waits where nothing is said.
pub const DEFER_WAIT: Span = Span(30_000_000_000);

/// How much of one session is deferred at once at most, where nothing is said.
pub const CASCADE: u32 = 256;
/// The most that can be said.
pub const MAX_CASCADE: u32 = 8192;

/// Somebody who may answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Approver {
    /// The user whom the session acts for. No other entry but `uid:` and `user:` lets him answer for his own agent.
    Human,
    /// A user by number.
    Uid(u32),
    /// A user by name.
    User(String),
    /// A group by number.
    Gid(u32),
    /// A group by name.
    Group(String),
    /// Who holds a key that the daemon's settings know by this name: for answers from elsewhere.
    Key(String),
}

impl Approver {
    /// Reads `uid:0`, `user:mia`, `gid:50`, `group:release`, `key:mia` or `human`.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "human" {
            return Some(Self::Human);
        }
        let (kind, name) = text.split_once(':')?;
        let number = || {
            let digits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
            name.parse().ok().filter(|n| digits && *n != u32::MAX)
        };
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let named = (1..=MAX_APPROVER).contains(&name.len()) && name.bytes().all(allowed);
        match kind {
            "uid" => number().map(Self::Uid),
            "gid" => number().map(Self::Gid),
            "user" if named => Some(Self::User(name.to_owned())),
            "group" if named => Some(Self::Group(name.to_owned())),
            "key" if named => Some(Self::Key(name.to_owned())),
            _ => None,
        }
    }
}

impl fmt::Display for Approver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Human => write!(f, "human"),
            Self::Uid(n) => write!(f, "uid:{n}"),
            Self::User(name) => write!(f, "user:{name}"),
            Self::Gid(n) => write!(f, "gid:{n}"),
            Self::Group(name) => write!(f, "group:{name}"),
            Self::Key(name) => write!(f, "key:{name}"),
        }
    }
}

impl Serialize for Approver {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What happens when the time is over. Never ALLOW.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub enum OnTimeout {
    /// It is refused.
    #[default]
    #[serde(rename = "DENY")]
    Deny,
    /// People are asked, for as long again. For DEFER.
    #[serde(rename = "STEP_UP")]
    StepUp,
}

/// How much is at stake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Risk {
    /// Little.
    Low,
    /// Some.
    Medium,
    /// Much.
    High,
    /// Very much.
    Critical,
}

impl Risk {
    /// Every value.
    pub const ALL: [Risk; 4] = [Risk::Low, Risk::Medium, Risk::High, Risk::Critical];

    /// As written.
    pub fn name(self) -> &'static str {
        match self {
            Risk::Low => "LOW",
            Risk::Medium => "MEDIUM",
            Risk::High => "HIGH",
            Risk::Critical => "CRITICAL",
        }
    }
}

/// Backup approvers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Escalate {
    /// From when on.
    pub after: Span,
    /// Who may answer then as well.
    pub approvers: Vec<Approver>,
}

/// What a rule says of waiting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuleHold {
    /// Who may answer; empty: as `spec.hold` says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<Approver>,
    /// For how long it waits; `0s`: it is refused at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// What then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_timeout: Option<OnTimeout>,
    /// Backup approvers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub escalate: Option<Escalate>,
    /// How much is at stake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub risk: Option<Risk>,
    /// Who is asked before people are, one after the other.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resolve: Vec<String>,
}

/// Whether text can be the name of a resolver: `[a-z0-9-]{1,64}`.
pub fn is_resolver_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=MAX_RESOLVER).contains(&text.len()) && text.bytes().all(allowed)
}

/// `spec.hold`: what holds where rules say nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HoldDefaults {
    /// Who may answer; empty: root.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<Approver>,
    /// For how long a STEP_UP waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// For how long a DEFER waits, also one because of a conflict or of something unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub defer_timeout: Option<Span>,
    /// How much is at stake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub risk: Option<Risk>,
    /// How much of one session is deferred at once; what comes then is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cascade: Option<u32>,
}

/// What holds for one decision, with everything filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Who may answer; at least one.
    pub approvers: Vec<Approver>,
    /// For how long it waits; 0: it is refused at once.
    pub timeout: Span,
    /// What then.
    pub on_timeout: OnTimeout,
    /// Backup approvers.
    pub escalate: Option<Escalate>,
    /// How much is at stake.
    pub risk: Option<Risk>,
    /// Who is asked before people are.
    pub resolve: Vec<String>,
}

impl Policy {
    /// What holds where `decision` (STEP_UP or DEFER) is `rule`'s own; without a rule, where it is a default's, or follows from a
    /// conflict or from something unknown.
    pub fn hold(&self, rule: Option<&Rule>, decision: Decision) -> Hold {
        let spec = self.hold_defaults();
        let own = rule.map(|rule| &rule.hold);
        let timeout = match decision {
            Decision::Defer => spec.defer_timeout.unwrap_or(DEFER_WAIT),
            _ => spec.timeout.unwrap_or(STEP_UP_WAIT),
        };
        let approvers = own.map(|own| &own.approvers).filter(|a| !a.is_empty()).unwrap_or(&spec.approvers);
        Hold {
            approvers: if approvers.is_empty() { vec![Approver::Uid(0)] } else { approvers.clone() },
            timeout: own.and_then(|own| own.timeout).unwrap_or(timeout),
            on_timeout: own.and_then(|own| own.on_timeout).unwrap_or_default(),
            escalate: own.and_then(|own| own.escalate.clone()),
            risk: own.and_then(|own| own.risk).or(spec.risk),
            resolve: own.map(|own| own.resolve.clone()).unwrap_or_default(),
        }
    }

    /// How much of one session is deferred at once at most.
    pub fn cascade(&self) -> u32 {
        self.hold_defaults().cascade.unwrap_or(CASCADE)
    }

    /// Whether such a decision waits for an answer; otherwise it is refused at once. `rule`: whose own decision it is.
    pub fn waits(&self, rule: Option<&Rule>, decision: Decision) -> bool {
        matches!(decision, Decision::StepUp | Decision::Defer) && self.hold(rule, decision).timeout > Span(0)
    }
}
