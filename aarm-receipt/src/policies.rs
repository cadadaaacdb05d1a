//! The texts of policies that receipts name by their hashes, kept beside the log.
//!
//! ```text
//! <log>/policies/<SHA-256, 64 hexadecimal digits>   a policy's canonical form, which has this hash
//! ```
//! They stay when receipts are pruned. Must never: be believed under a name that is not the text's own hash.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;

use ring::digest::{SHA256, digest};

use crate::placing;
use crate::source::Source;

/// The directory.
pub const DIR: &str = "policies";
/// Longest text, in bytes: some times what a policy's document may have.
pub const TEXT_MAX: usize = 4 << 20;
/// Most policies of a log: more are not looked at.
pub const POLICIES_MAX: usize = 4096;

/// The hash of a policy, as receipts have it.
pub type Name = [u8; 64];

/// Reads a hash: of a policy that has none (a test's, say) nothing is kept.
pub(crate) fn name(text: &[u8]) -> Option<Name> {
    let name: Name = text.try_into().ok()?;
    name.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')).then_some(name)
}

fn name_of(text: &[u8]) -> Name {
    let mut name = [0; 64];
    for (digits, byte) in name.chunks_exact_mut(2).zip(digest(&SHA256, text).as_ref()) {
        digits[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
        digits[1] = b"0123456789abcdef"[usize::from(byte & 15)];
    }
    name
}

/// The file of a policy.
pub(crate) fn file(name: &Name) -> String {
    format!("{DIR}/{}", String::from_utf8_lossy(name))
}

/// Keeps a text beside a log, durably, if it is not there.
pub fn place(log: &Path, text: &str) -> io::Result<()> {
    if text.len() > TEXT_MAX {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("it has more than {TEXT_MAX} bytes")));
    }
    let path = log.join(file(&name_of(text.as_bytes())));
    if std::fs::metadata(&path).is_ok_and(|meta| meta.len() == text.len() as u64) {
        return Ok(());
    }
    std::fs::create_dir_all(log.join(DIR))?;
    placing::sync_all(&File::open(log)?)?;
    placing::durable(&path, text.as_bytes())
}

/// Policies that a log keeps the texts of, by its own word.
pub(crate) fn list(log: &dyn Source) -> io::Result<BTreeSet<Name>> {
    match log.names(DIR) {
        Ok(names) => Ok(names.iter().filter_map(|text| name(text.as_bytes())).take(POLICIES_MAX).collect()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(e) => Err(e),
    }
}

/// Whether a log keeps the text of a policy. `false`: it keeps another one. None: it keeps none.
pub(crate) fn is_kept(log: &dyn Source, name: &Name) -> io::Result<Option<bool>> {
    match log.read(&file(name), TEXT_MAX) {
        Ok(text) => Ok(Some(name_of(&text) == *name)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_kept_under_its_hash_and_mended() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path();
        let text = "{\"a\":1}";
        let of = name_of(text.as_bytes());
        assert_eq!(is_kept(&log, &of).unwrap(), None);
        assert!(list(&log).unwrap().is_empty());
        place(log, text).unwrap();
        assert_eq!((is_kept(&log, &of).unwrap(), list(&log).unwrap().len()), (Some(true), 1));
        std::fs::write(log.join(file(&of)), "{\"a\":").unwrap();
        assert_eq!(is_kept(&log, &of).unwrap(), Some(false));
        place(log, text).unwrap();
        assert_eq!(is_kept(&log, &of).unwrap(), Some(true));
    }

    #[test]
    fn hashes_have_one_form() {
        let good = [b'a'; 64];
        assert!(name(&good).is_some());
        for wrong in [&good[1..], &[b'A'; 64], &[b'g'; 64], b"00", b""] {
            assert!(name(wrong).is_none());
        }
    }
}
