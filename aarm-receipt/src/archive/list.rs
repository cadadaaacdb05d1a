//! What an archive has, for stores that cannot say it.
//!
//! ```text
//! aarm-archive-v1
//! segments <number of the first> <how many>
//! witness <id of a witness's key, hex>      one for each in witnessed/
//! rotation <number of receipts>             one for each in rotations/
//! policy <hash of a policy>                 one for each in policies/
//! ```
//! Must never: be believed. Who reads finds out what is not there, and verification what is missing.

use std::collections::BTreeSet;
use std::fmt;
use std::io;

use crate::cosign::COSIGNERS_MAX;
use crate::policies::{self, Name, POLICIES_MAX};
use crate::source::Source;
use crate::trust::EPOCHS_MAX;
use crate::{rotation, segment, witnessed};

/// Its name.
pub const LIST: &str = "archive";
/// Largest list read, in bytes.
pub const LIST_MAX: usize = 512 << 10;
const MAGIC: &str = "aarm-archive-v1";
/// Most segments of an archive.
const SEGMENTS_MAX: u64 = 1 << 20;

/// What an archive has, as it says itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct List {
    /// Number of the first segment.
    pub first: u64,
    /// How many there are.
    pub segments: u64,
    /// Ids of the keys of those who have said something.
    pub witnesses: BTreeSet<String>,
    /// Where keys were exchanged.
    pub rotations: BTreeSet<u64>,
    /// Policies whose texts it has.
    pub policies: BTreeSet<Name>,
}

impl List {
    /// Reads its one form.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut list = Self::default();
        let whole = std::str::from_utf8(text).ok()?;
        let mut lines = whole.lines();
        lines.next().filter(|line| *line == MAGIC)?;
        let (first, segments) = lines.next()?.strip_prefix("segments ")?.split_once(' ')?;
        (list.first, list.segments) = (first.parse().ok()?, segments.parse().ok()?);
        list.first.checked_add(list.segments).filter(|_| list.segments <= SEGMENTS_MAX)?;
        for line in lines {
            match line.split_once(' ')? {
                ("witness", id) if witnessed::is_id(id) => _ = list.witnesses.insert(id.to_owned()),
                ("rotation", since) => _ = list.rotations.insert(since.parse().ok()?),
                ("policy", hash) => _ = list.policies.insert(policies::name(hash.as_bytes())?),
                _ => return None,
            }
        }
        let bounded = list.witnesses.len() <= COSIGNERS_MAX
            && list.rotations.len() < EPOCHS_MAX
            && list.policies.len() <= POLICIES_MAX;
        (bounded && list.to_string() == whole).then_some(list)
    }

    /// Number of the first segment after those that it has.
    pub fn end(&self) -> u64 {
        self.first + self.segments
    }
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{MAGIC}\nsegments {} {}", self.first, self.segments)?;
        self.witnesses.iter().try_for_each(|id| writeln!(f, "witness {id}"))?;
        self.rotations.iter().try_for_each(|since| writeln!(f, "rotation {since}"))?;
        self.policies.iter().try_for_each(|name| writeln!(f, "policy {}", String::from_utf8_lossy(name)))
    }
}

/// What [`Source::names`] is of an archive: what its list says. That may be wrong, as all else.
pub fn names(archive: &dyn Source, below: &str) -> io::Result<Vec<String>> {
    let list = List::parse(&archive.read(LIST, LIST_MAX)?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is no archive's list"))?;
    Ok(match below {
        "" => (list.first..list.end()).map(segment::compressed_name).collect(),
        witnessed::DIR => list.witnesses.into_iter().collect(),
        rotation::DIR => list.rotations.iter().map(u64::to_string).collect(),
        policies::DIR => {
            list.policies.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
        }
        _ => Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_one_form() {
        let witnesses = ["0a0b0c0d".into(), "ffffffff".into()].into();
        let list = List {
            first: 7,
            segments: 3,
            witnesses,
            rotations: [3, 20].into(),
            policies: [[b'a'; 64]].into(),
        };
        let text = list.to_string();
        assert_eq!(List::parse(text.as_bytes()), Some(list));
        assert_eq!(List::parse(b"aarm-archive-v1\nsegments 0 0\n"), Some(List::default()));
        for at in (0..text.len()).filter(|at| !text[..*at].ends_with('\n')) {
            assert_eq!(List::parse(&text.as_bytes()[..at]), None, "cut at {at}");
        }
        for wrong in [
            format!("{text}\n"),
            format!("{text}witness 0a0b0c0d\n"),
            format!("{text}witness ../chains\n"),
            text.replace("segments 7", "segments 07"),
            text.replace("7 3", "18446744073709551615 3"),
            text.replace("7 3", &format!("0 {}", SEGMENTS_MAX + 1)),
            text.replace('\n', "\r\n"),
        ] {
            assert_eq!(List::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
