//! `data`: which labels touching something adds to the session.

use aarm_common::Operation;
use serde::Serialize;

use crate::diagnostic::Place;
use crate::glob::Glob;
use crate::model::{Match, OperationName};

/// How much harm comes of a label's data in the wrong hands, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    /// None.
    Public,
    /// Some, outside of the organisation.
    Internal,
    /// Much.
    Confidential,
    /// Most.
    Restricted,
}

impl Level {
    /// Every level, the lowest first.
    pub const ALL: [Level; 4] = [Level::Public, Level::Internal, Level::Confidential, Level::Restricted];

    /// The name used in policies.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Public => "PUBLIC",
            Level::Internal => "INTERNAL",
            Level::Confidential => "CONFIDENTIAL",
            Level::Restricted => "RESTRICTED",
        }
    }
}

/// A label that sessions under a policy can have. Its bit is its place in [`crate::Policy::labels`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Label {
    /// Its name.
    pub name: String,
    /// Its level.
    pub level: Level,
}

/// One entry of `data`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DataEntry {
    /// The label it adds.
    pub label: String,
    /// The label's level.
    pub level: Level,
    /// What adds it. Each facet of an action counts: who renames a file reads it, and who renames a directory
    /// reads what is below.
    pub on: On,
    /// Where it stands in the document.
    #[serde(skip)]
    pub place: Place,
}

/// What adds a label; any of these.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct On {
    /// Reading one of these: an operation of the family `read`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub read: Vec<Glob>,
    /// Writing one of these: an operation of the family `write`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub write: Vec<Glob>,
    /// Running or loading one of these: `exec` and `mmap_exec`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exec: Vec<Glob>,
    /// Talking to one of these: `connect`, `send` and `accept`. Its operations are not written out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive: Option<Match>,
}

impl On {
    /// What adds the label, as one match for each way. Each takes one of the kernel's `data` entries.
    pub(crate) fn parts(&self) -> Vec<Match> {
        use aarm_common::Family;
        let one = |op| OperationName::Operation(op);
        let paths = [
            (vec![OperationName::Family(Family::Read)], &self.read),
            (vec![OperationName::Family(Family::Write)], &self.write),
            (vec![one(Operation::Exec), one(Operation::MmapExec)], &self.exec),
        ];
        let paths = paths
            .into_iter()
            .filter(|(_, globs)| !globs.is_empty())
            .map(|(operations, globs)| Match { operations, path: globs.clone(), ..Match::default() });
        let receive = self.receive.iter().map(|m| Match {
            operations: vec![one(Operation::Connect), one(Operation::Send), one(Operation::Accept)],
            ..m.clone()
        });
        paths.chain(receive).collect()
    }
}
