//! What was redacted, for those who may know: a file for each session, a line for each value.
//!
//! ```text
//! DIR/SESSION   {"commitment":"<base64>","salt":"<base64>","value":<JSON>}
//! ```
//! Directory and files are their owner's only. Not in the log's directory: who is given a copy of that is not given this. To erase is to take away the
//! file: with the salt nothing is left by which anybody could tell what the value was.
//!
//! Must never: be needed. A log verifies without, and whatever is missing here, or is not what a receipt has committed to, is shown as redacted.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{Line, Withheld, chain};
use crate::merkle::Hash;
use crate::receipt::MAX_RECEIPT;

/// Longest line that is read: a value is part of a receipt.
const LINE_MAX: u64 = 2 * MAX_RECEIPT as u64;
/// Longest name of a session's file.
const NAME_MAX: usize = 64;
/// What is held of values at most when they are read, in bytes.
pub const KNOWN_MAX: usize = 1 << 30;

/// The directory.
#[derive(Clone, Debug)]
pub struct Sidecar {
    dir: PathBuf,
}

/// Values that were redacted, by their commitments.
#[derive(Debug, Default)]
pub struct Known {
    values: HashMap<Hash, serde_json::Value>,
    /// Lines that are none, or are not of the value that they name.
    pub wrong: u64,
}

impl Known {
    /// How many.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The value of a commitment.
    pub fn value(&self, commitment: &Hash) -> Option<serde_json::Value> {
        self.values.get(commitment).cloned()
    }
}

/// Whether it can be the name of a session: a UUID, or a number.
fn is_name(name: &str) -> bool {
    let right = |b: u8| b.is_ascii_hexdigit() && !b.is_ascii_uppercase() || b == b'-';
    !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(right) && !name.starts_with('-')
}

impl Sidecar {
    /// In this directory, which need not be there.
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    fn file(&self, session: &str) -> io::Result<PathBuf> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidInput, format!("no session: {session:?}"));
        is_name(session).then(|| self.dir.join(session)).ok_or_else(wrong)
    }

    /// Keeps values of a session, durably.
    ///
    /// # Errors
    /// Of the file system: then they may be lost.
    pub fn keep(&self, session: &str, values: &[Withheld]) -> io::Result<()> {
        let path = self.file(session)?;
        let mut lines = Vec::new();
        for w in values {
            let line = Line {
                commitment: chain::text(&w.commitment()),
                salt: BASE64.encode(w.salt),
                value: serde_json::from_slice(&w.value)?,
            };
            serde_json::to_writer(&mut lines, &line)?;
            lines.push(b'\n');
        }
        let is_new = !path.exists();
        if is_new {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        }
        let mut file = File::options().append(true).create(true).mode(0o600).open(&path)?;
        file.write_all(&lines)?;
        file.sync_data()?;
        if is_new { File::open(&self.dir)?.sync_all() } else { Ok(()) }
    }

    /// Reads values: of one session, or all. What is not as it should be is counted, and left out.
    ///
    /// # Errors
    /// Of the file system; a directory or file that is not there has nothing. More than [`KNOWN_MAX`] bytes are refused.
    pub fn read(&self, session: Option<&str>) -> io::Result<Known> {
        let paths = match session {
            Some(session) => vec![self.file(session)?],
            None => self.sessions()?.into_iter().map(|(name, _)| self.dir.join(name)).collect(),
        };
        let (mut known, mut left) = (Known::default(), KNOWN_MAX);
        for path in paths {
            match File::open(&path) {
                Ok(file) => read_lines(BufReader::new(file), &mut known, &mut left)?,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(io::Error::new(e.kind(), format!("{}: {e}", path.display()))),
            }
        }
        Ok(known)
    }

    /// The sessions of which something is kept, and since when nothing was added.
    ///
    /// # Errors
    /// Of the file system.
    pub fn sessions(&self) -> io::Result<Vec<(String, SystemTime)>> {
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(io::Error::new(e.kind(), format!("{}: {e}", self.dir.display()))),
        };
        let mut all = Vec::new();
        for entry in entries {
            let entry = entry?;
            if let Some(name) = entry.file_name().to_str().filter(|name| is_name(name)) {
                all.push((name.to_owned(), entry.metadata()?.modified()?));
            }
        }
        all.sort();
        Ok(all)
    }

    /// Erases what is kept of a session. How many values; none: nothing was.
    ///
    /// # Errors
    /// Of the file system: then it may be there still.
    pub fn erase(&self, session: &str) -> io::Result<Option<u64>> {
        let path = self.file(session)?;
        let file = match File::options().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut values = 0;
        for byte in BufReader::new(&file).bytes() {
            values += u64::from(byte? == b'\n');
        }
        // Whoever has it open has nothing either.
        file.set_len(0)?;
        file.sync_all()?;
        std::fs::remove_file(&path)?;
        File::open(&self.dir)?.sync_all()?;
        Ok(Some(values))
    }
}

/// Takes in lines. Half a line, which a loss of power may leave, is none.
fn read_lines(mut from: impl BufRead, known: &mut Known, left: &mut usize) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        if from.by_ref().take(LINE_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if !line.ends_with(b"\n") {
            known.wrong += 1;
            // The rest of a line that is too long.
            from.skip_until(b'\n')?;
            continue;
        }
        *left = left.checked_sub(line.len()).ok_or_else(|| {
            io::Error::other(format!("more than {KNOWN_MAX} bytes of redacted values: name a session"))
        })?;
        match value_of(&line) {
            Some((commitment, value)) => drop(known.values.insert(commitment, value)),
            None => known.wrong += 1,
        }
    }
}

/// What a line says, if that is so.
fn value_of(line: &[u8]) -> Option<(Hash, serde_json::Value)> {
    let line: Line = serde_json::from_slice(line).ok()?;
    let salt = BASE64.decode(&line.salt).ok()?.try_into().ok()?;
    let commitment = chain::parse(line.commitment.as_bytes())?;
    let withheld = Withheld { salt, value: serde_json::to_vec(&line.value).ok()? };
    (withheld.commitment() == commitment).then_some((commitment, line.value))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn withheld(n: u8) -> Withheld {
        Withheld { salt: [n; 32], value: format!("[\"a%C3%A4\\\\ {n}\"]").into_bytes() }
    }

    #[test]
    fn what_is_kept_is_found_until_it_is_erased() {
        let dir = tempfile::tempdir().unwrap();
        let sidecar = Sidecar::at(&dir.path().join("redacted"));
        assert!(sidecar.sessions().unwrap().is_empty() && sidecar.read(None).unwrap().is_empty());
        for n in 0..3 {
            sidecar.keep("0199-aa", &[withheld(n), withheld(n + 10)]).unwrap();
        }
        sidecar.keep("00000001000000ff", &[withheld(99)]).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&sidecar.dir), mode(&sidecar.dir.join("0199-aa"))), (0o700, 0o600));
        let names: Vec<String> = sidecar.sessions().unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["00000001000000ff", "0199-aa"]);
        let known = sidecar.read(Some("0199-aa")).unwrap();
        assert_eq!((known.len(), known.wrong), (6, 0));
        for n in [0, 1, 2, 10, 11, 12] {
            let value = known.value(&withheld(n).commitment()).unwrap();
            assert_eq!(serde_json::to_vec(&value).unwrap(), withheld(n).value);
        }
        assert!(known.value(&withheld(99).commitment()).is_none());
        assert_eq!(sidecar.read(None).unwrap().len(), 7);
        assert_eq!(sidecar.erase("0199-aa").unwrap(), Some(6));
        assert_eq!(sidecar.erase("0199-aa").unwrap(), None);
        assert_eq!(sidecar.read(None).unwrap().len(), 1);
    }

    #[test]
    fn what_is_no_value_of_its_commitment_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let sidecar = Sidecar::at(dir.path());
        sidecar.keep("a", &[withheld(1), withheld(2)]).unwrap();
        let path = dir.path().join("a");
        let whole = std::fs::read_to_string(&path).unwrap();
        let first = whole.lines().next().unwrap();
        let long = format!("{{\"commitment\":\"{}\"", "x".repeat(3 * MAX_RECEIPT));
        for (wrong, known) in [
            // Another value, another salt, no line, a member more, half a line at the end, one that is too long.
            (whole.replacen("C3", "C4", 1), 1),
            (whole.replacen("\"salt\":\"A", "\"salt\":\"B", 1), 1),
            (format!("{whole}x\n"), 2),
            (format!("{whole}{}\n", first.replacen('{', "{\"more\":1,", 1)), 2),
            (format!("{whole}{}", &first[..first.len() / 2]), 2),
            (format!("{long}\n{whole}"), 2),
        ] {
            std::fs::write(&path, &wrong).unwrap();
            let found = sidecar.read(None).unwrap();
            assert_eq!((found.len(), found.wrong), (known, 1), "{}", &wrong[..wrong.len().min(300)]);
        }
    }

    #[test]
    fn a_name_leads_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let sidecar = Sidecar::at(&dir.path().join("redacted"));
        std::fs::write(dir.path().join("other"), "x\n").unwrap();
        let long = "a".repeat(65);
        for name in ["", "..", "../other", "/etc/passwd", "a/b", "A", "a\0", "-a", long.as_str()] {
            assert!(sidecar.keep(name, &[withheld(1)]).is_err(), "{name:?}");
            assert!(sidecar.erase(name).is_err() && sidecar.read(Some(name)).is_err(), "{name:?}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
