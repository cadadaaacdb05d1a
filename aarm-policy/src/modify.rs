//! What a rule changes of an action that it lets happen.
//!
//! A connection is redirected by the kernel, from the table. What a program gets (environment, limits, arguments) is changed in its new
//! image, before its first instruction, by whoever decides command lines.

use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::args::{TooLong, Word};

/// Most patterns, or words to replace, in one list.
pub const MAX_CHANGES: usize = 32;

/// Something the kernel bounds for each process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource(u8);

/// Names of resources, as in limits.conf(5), by the number that Linux gives them.
const RESOURCES: [&str; 16] = [
    "cpu",
    "fsize",
    "data",
    "stack",
    "core",
    "rss",
    "nproc",
    "nofile",
    "memlock",
    "as",
    "locks",
    "sigpending",
    "msgqueue",
    "nice",
    "rtprio",
    "rttime",
];

impl Resource {
    /// By name.
    pub fn parse(name: &str) -> Option<Self> {
        RESOURCES.iter().position(|known| *known == name).map(|at| Self(at as u8))
    }

    /// Every name.
    pub fn names() -> impl Iterator<Item = &'static str> + Clone {
        RESOURCES.iter().copied()
    }

    /// As written.
    pub fn name(self) -> &'static str {
        RESOURCES[self.0 as usize]
    }

    /// `RLIMIT_*`.
    pub fn number(self) -> u32 {
        self.0.into()
    }

    /// Whether it is bounded in bytes.
    pub fn is_bytes(self) -> bool {
        matches!(self.name(), "fsize" | "data" | "stack" | "core" | "rss" | "memlock" | "as" | "msgqueue")
    }
}

/// A word of the command line and what takes its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replace {
    /// Words that are replaced, wherever they stand after the program's name.
    pub replace: Word,
    /// By what. It must have room where the word is: a program whose word is shorter does not run.
    pub with: String,
}

/// What is changed. At least one thing is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Modify {
    /// Where connections and datagrams go instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect: Option<SocketAddr>,
    /// Variables that the program does not get, by patterns of their names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scrub_env: Vec<Word>,
    /// Limits that are lowered to this, if they are higher.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        serialize_with = "by_name",
        deserialize_with = "of_names"
    )]
    pub limits: BTreeMap<Resource, u64>,
    /// Words that are replaced.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Replace>,
}

impl Modify {
    /// Whether a variable of this name is taken away.
    pub fn scrubs(&self, name: &[u8], fuel: &mut u64) -> Result<bool, TooLong> {
        for pattern in &self.scrub_env {
            if pattern.matches(name, fuel)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What takes a word's place, if anything does.
    pub fn replaces(&self, word: &[u8], fuel: &mut u64) -> Result<Option<&str>, TooLong> {
        for one in &self.args {
            if one.replace.matches(word, fuel)? {
                return Ok(Some(&one.with));
            }
        }
        Ok(None)
    }
}

/// What was changed, as receipts tell it: never the value of a variable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Names of the variables that were taken away.
    pub env: Vec<String>,
    /// Limits, before and after.
    pub limits: Vec<(String, u64, u64)>,
    /// Words, by their place in the command line, before and after.
    pub args: Vec<(u64, String, String)>,
}

fn of_names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<Resource, u64>, D::Error> {
    let named = BTreeMap::<String, u64>::deserialize(deserializer)?;
    let known = |(name, value): (String, u64)| {
        Resource::parse(&name)
            .map(|resource| (resource, value))
            .ok_or_else(|| serde::de::Error::custom(format!("`{name}` is no limit")))
    };
    named.into_iter().map(known).collect()
}

fn by_name<S: Serializer>(limits: &BTreeMap<Resource, u64>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(limits.len()))?;
    for (resource, value) in limits {
        map.serialize_entry(resource.name(), value)?;
    }
    map.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_for_the_next_daemon_reads_back() {
        let modify = Modify {
            redirect: None,
            scrub_env: vec![Word::parse("AWS_*").unwrap()],
            limits: [(Resource::parse("nofile").unwrap(), 64)].into(),
            args: vec![Replace { replace: Word::parse("-n").unwrap(), with: "x".into() }],
        };
        let text = serde_json::to_string(&modify).unwrap();
        assert_eq!(serde_json::from_str::<Modify>(&text).unwrap(), modify);
        assert!(serde_json::from_str::<Modify>(r#"{"limits":{"files":1}}"#).is_err());
        assert!(serde_json::from_str::<Modify>(r#"{"scrub_env":["a\\"]}"#).is_err());
    }
}
