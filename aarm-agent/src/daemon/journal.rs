//! What began to wait since the state was kept last, for a daemon that takes over from one that was killed: a line each, in a file of
//! its own, written before the event of it is given back to the kernel.
//!
//! Not made durable: what waits ends with the kernel that holds it. A line that was not written to its end is none. Must never: be believed without
//! asking the kernel whether it still holds that.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The file, in the state directory.
const FILE: &str = "holds";
/// Most bytes: more than all that can wait at once.
const MAX: u64 = 256 << 20;

/// The file.
#[derive(Debug)]
pub struct Journal {
    file: File,
    len: u64,
}

impl Journal {
    /// Opens it; what it has.
    pub fn open(dir: &Path) -> std::io::Result<(Self, Vec<Vec<u8>>)> {
        let options = || {
            let mut options = File::options();
            options.read(true).append(true).create(true).mode(0o600);
            options
        };
        let file = options().open(dir.join(FILE))?;
        let mut bytes = Vec::new();
        (&file).take(MAX).read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
        let lines = bytes[..whole].split(|b| *b == b'\n').filter(|line| !line.is_empty());
        let lines = lines.map(<[u8]>::to_vec).collect();
        // Half a line would spoil the next.
        file.set_len(whole as u64)?;
        Ok((Self { file, len: whole as u64 }, lines))
    }

    /// Adds a line, which has no line end in it.
    pub fn note(&mut self, mut line: Vec<u8>) -> std::io::Result<()> {
        debug_assert!(!line.contains(&b'\n'), "JSON has none");
        line.push(b'\n');
        self.len += line.len() as u64;
        if self.len > MAX {
            return Err(std::io::Error::other(format!("more than {MAX} bytes since the state was kept")));
        }
        self.file.write_all(&line)
    }

    /// All of it is kept elsewhere by now.
    pub fn clear(&mut self) -> std::io::Result<()> {
        if std::mem::take(&mut self.len) > 0 { self.file.set_len(0) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_lines_are_left_to_the_next_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let (mut j, before) = Journal::open(dir.path()).unwrap();
        assert!(before.is_empty());
        j.note(b"{\"a\":1}".to_vec()).unwrap();
        j.note(b"{\"b\":2}".to_vec()).unwrap();
        j.file.write_all(b"{\"c\":").unwrap();
        drop(j);
        let (mut j, before) = Journal::open(dir.path()).unwrap();
        assert_eq!(before, [b"{\"a\":1}", b"{\"b\":2}"]);
        j.note(b"{\"d\":3}".to_vec()).unwrap();
        assert_eq!(Journal::open(dir.path()).unwrap().1.len(), 3);
        j.len = MAX;
        assert!(j.note(b"{}".to_vec()).is_err(), "it grows over its bound");
        j.clear().unwrap();
        j.note(b"{\"e\":4}".to_vec()).unwrap();
        assert_eq!(Journal::open(dir.path()).unwrap().1, [b"{\"e\":4}"]);
    }
}
