//! `subject`: what a rule asks of who acts, besides the user (which is a predicate of the match, wherever it is written).
//!
//! The kernel knows programs and cgroups as bits: a bit for each distinct pattern, and conditions on sets of bits. Their
//! numbering is a function of the policy alone, so that the bits of a receipt can be understood with the policy it names.
//!
//! A condition holds, fails, or is unknown: a lineage that began under another policy was not held against the patterns of
//! this one, and a cgroup may not be readable.

use aarm_common::limits::SUBJECT_PATTERNS;
use aarm_common::policy::{
    ANCESTOR_ANY, ANCESTOR_NONE, CONTAINER_ANY, CONTAINER_NONE, IMAGE_ANY, IMAGE_NONE, Policy as Table,
};
use serde::Serialize;

use crate::glob::Glob;
use crate::model::{Policy, Rule};

/// The word for [`CONTAINERS`].
pub(crate) const ANY_CONTAINER: &str = "any";

/// Cgroups that runtimes make for what runs in a container, each with everything below it. What only watches one (conmon, the
/// supervisor of nspawn, the monitor of LXC) is in a cgroup beside it.
pub const CONTAINERS: &[&str] = &[
    // Scopes of systemd: Docker, containerd (CRI, nerdctl), runc and crun by themselves.
    "**/{docker,cri-containerd,nerdctl,runc,crun}-*.scope/**",
    // CRI-O and Podman: the name is followed by the container's number, and not by `conmon`.
    "**/crio-[0-9a-f][0-9a-f]*/**",
    "**/libpod-{,payload-}[0-9a-f][0-9a-f]*/**",
    // Without systemd: Docker, BuildKit, Kubernetes, Amazon ECS.
    "**/docker/[0-9a-f][0-9a-f]*/**",
    "**/docker/buildkit/*/**",
    "**/kubepods/{pod*,*/pod*}/*/**",
    "**/ecs/*/*/**",
    // LXC, and with libvirt.
    "**/lxc/*/**",
    "**/lxc.payload.*/**",
    "**/machine-lxc*.scope/**",
    // systemd-nspawn, as a service or by hand.
    "**/{systemd-nspawn@*.service,machine-*.scope}/payload/**",
];

/// Predicates on who acts. All that are given must hold; a list means any of its members.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Subject {
    /// The acting program, also where the match's `exe` is the program that would run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exe: Vec<Glob>,
    /// Not the acting program.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_exe: Vec<Glob>,
    /// Some program of its lineage within the session: of the processes above it, and what it ran itself before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ancestors: Vec<Glob>,
    /// No program of its lineage.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_ancestors: Vec<Glob>,
    /// Its cgroup, by the path from the root of the unified hierarchy; `any`: one of [`CONTAINERS`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub container: Vec<Glob>,
    /// Not its cgroup.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_container: Vec<Glob>,
    /// What becomes of the rule while one of these is unknown.
    #[serde(skip_serializing_if = "Unknown::is_default")]
    pub unknown: Unknown,
}

/// What becomes of a rule while something that it asks for is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unknown {
    /// It decides DEFER.
    #[default]
    Defer,
    /// It decides DENY.
    Deny,
    /// It does not hold.
    Skip,
}

impl Unknown {
    fn is_default(&self) -> bool {
        *self == Unknown::default()
    }
}

impl Subject {
    /// The conditions: name, kind (`aarm_common::policy`), and patterns.
    pub(crate) fn asks(&self) -> impl Iterator<Item = (&'static str, u32, &[Glob])> {
        [
            ("subject.exe", IMAGE_ANY, &self.exe),
            ("subject.not_exe", IMAGE_NONE, &self.not_exe),
            ("subject.ancestors", ANCESTOR_ANY, &self.ancestors),
            ("subject.not_ancestors", ANCESTOR_NONE, &self.not_ancestors),
            ("subject.container", CONTAINER_ANY, &self.container),
            ("subject.not_container", CONTAINER_NONE, &self.not_container),
        ]
        .into_iter()
        .filter(|(_, _, globs)| !globs.is_empty())
        .map(|(name, kind, globs)| (name, kind, globs.as_slice()))
    }
}

/// Whether a condition is about cgroups.
pub(crate) fn is_container(kind: u32) -> bool {
    matches!(kind, CONTAINER_ANY | CONTAINER_NONE)
}

/// Whether a condition asks that some pattern matches, rather than none.
pub(crate) fn is_positive(kind: u32) -> bool {
    matches!(kind, IMAGE_ANY | ANCESTOR_ANY | CONTAINER_ANY)
}

/// What can be said of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    Holds,
    Fails,
    Unknown,
}

impl Truth {
    /// Of a condition of this kind: `met`, whether some pattern is known to match; `known`, whether the others are known
    /// not to.
    pub(crate) fn of(kind: u32, met: bool, known: bool) -> Self {
        match (met, known) {
            (false, false) => Truth::Unknown,
            _ if met == is_positive(kind) => Truth::Holds,
            _ => Truth::Fails,
        }
    }

    /// From the bits of an event: conditions that held in the low half, that were unknown in the high half.
    pub(crate) fn recorded(subjects: u32, condition: usize) -> Self {
        let bit = |shift: usize| subjects.checked_shr(shift as u32).is_some_and(|bits| bits & 1 == 1);
        match (bit(condition), bit(condition + 16)) {
            (_, true) => Truth::Unknown,
            (true, _) => Truth::Holds,
            _ => Truth::Fails,
        }
    }
}

/// A condition, and the rules that need it, by their place in compiled order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SubjectTest {
    pub kind: u32,
    /// Bits of the patterns, in rising order.
    pub patterns: Vec<usize>,
    pub rules: Vec<usize>,
}

impl SubjectTest {
    /// The patterns as a mask, of a policy that has not too many.
    pub(crate) fn mask(&self) -> u64 {
        self.patterns.iter().filter(|bit| **bit < SUBJECT_PATTERNS).fold(0, |mask, bit| mask | 1 << bit)
    }
}

/// All patterns and conditions of a policy, each once, numbered in the order in which its rules, by precedence, ask.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Subjects {
    pub programs: Vec<Glob>,
    pub containers: Vec<Glob>,
    pub tests: Vec<SubjectTest>,
}

impl Subjects {
    pub(crate) fn of(policy: &Policy) -> Self {
        let mut found = Subjects::default();
        for (rule, at) in policy.order().into_iter().enumerate() {
            for (_, kind, globs) in policy.rules()[at].subject.iter().flat_map(Subject::asks) {
                found.add(kind, globs, rule);
            }
        }
        found
    }

    fn add(&mut self, kind: u32, globs: &[Glob], rule: usize) {
        let known = if is_container(kind) { &mut self.containers } else { &mut self.programs };
        for glob in globs {
            if !known.contains(glob) {
                known.push(glob.clone());
            }
        }
        match self.index(kind, globs) {
            Some(at) => self.tests[at].rules.push(rule),
            None => {
                let patterns = self.bits(kind, globs);
                self.tests.push(SubjectTest { kind, patterns, rules: vec![rule] });
            }
        }
    }

    /// The bits of patterns.
    fn bits(&self, kind: u32, globs: &[Glob]) -> Vec<usize> {
        let known = if is_container(kind) { &self.containers } else { &self.programs };
        (0..known.len()).filter(|bit| globs.contains(&known[*bit])).collect()
    }

    /// The number of a condition.
    pub(crate) fn index(&self, kind: u32, globs: &[Glob]) -> Option<usize> {
        let patterns = self.bits(kind, globs);
        self.tests.iter().position(|test| test.kind == kind && test.patterns == patterns)
    }
}

impl Rule {
    /// Globs of programs that its `subject` has.
    pub fn subject_programs(&self) -> impl Iterator<Item = &Glob> {
        let subjects = self.subject.iter();
        subjects.flat_map(|s| [&s.exe, &s.not_exe, &s.ancestors, &s.not_ancestors]).flatten()
    }
}

/// Gives the patterns of programs in a table other bits: `to[i]` is the new bit of pattern `i`. A host has one numbering for
/// all of its policies, so that a lineage keeps its meaning when a policy is loaded anew.
pub fn renumber_programs(table: &mut Table, to: &[u8]) {
    use aarm_common::limits::DATA_WORD;
    let moved = |mask: u64| {
        to.iter()
            .enumerate()
            .filter(|(i, _)| mask >> i & 1 == 1)
            .fold(0u64, |m, (_, bit)| m | 1 << (bit & 63))
    };
    table.subject_patterns = moved(table.subject_patterns);
    table.hits.iter_mut().for_each(|hits| hits.exe[DATA_WORD] = moved(hits.exe[DATA_WORD]));
    table.subjects.iter_mut().filter(|c| !is_container(c.kind)).for_each(|c| c.mask = moved(c.mask));
}
