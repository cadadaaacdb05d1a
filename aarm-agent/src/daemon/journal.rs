//! What began to wait since the state was kept last, and what was answered by rules, for a daemon that takes over from one that was
//! killed: a line each, in a file of its own, written before the event of it is given back to the kernel, or the answer to it.
//!
//! Not made durable: it outlives the daemon as what is in the kernel's ring does, and a host that ends takes both with it. A line that was not
//! written to its end is none. Must never: be believed about what waits without asking the kernel whether it still holds that.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::snapshot::Untold;

/// The file, in the state directory.
const FILE: &str = "holds";
/// Most bytes: more than all that can wait at once.
const MAX: u64 = 256 << 20;

/// What a journal has, oldest first.
#[derive(Debug, Default)]
pub struct Noted {
    /// What began to wait: `holds::Waiting` as JSON.
    pub waits: Vec<Vec<u8>>,
    /// Receipts of answers that had their effect before they were durable.
    pub told: Vec<Untold>,
}

impl Noted {
    /// Takes in a line; one that is none is left out, and said to be.
    fn add(&mut self, line: &[u8]) {
        match line.split_first() {
            Some((&WAITS, rest)) => self.waits.push(rest.to_vec()),
            Some((&TOLD, rest)) if let Some(told) = told(rest) => self.told.push(told),
            _ => tracing::warn!("not a line of what waits: {}", line[..line.len().min(80)].escape_ascii()),
        }
    }
}

/// First byte of a line about what waits.
const WAITS: u8 = b'w';
/// First byte of a line with a receipt, before which there are owner, session and time.
const TOLD: u8 = b't';

fn told(line: &[u8]) -> Option<Untold> {
    let mut fields = line.splitn(4, |b| *b == b' ');
    let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse::<u64>().ok();
    let (owner, session, time_ns) = (number()?, number()?, number()?);
    Some(Untold { owner: owner.try_into().ok()?, session, time_ns, bytes: fields.next()?.to_vec() })
}

/// The file.
#[derive(Debug)]
pub struct Journal {
    file: File,
    len: u64,
}

impl Journal {
    /// Opens it; what it has.
    pub fn open(dir: &Path) -> std::io::Result<(Self, Noted)> {
        let options = || {
            let mut options = File::options();
            options.read(true).append(true).create(true).mode(0o600);
            options
        };
        let file = options().open(dir.join(FILE))?;
        let mut bytes = Vec::new();
        (&file).take(MAX).read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
        let mut noted = Noted::default();
        bytes[..whole]
            .split(|b| *b == b'\n')
            .filter(|line| !line.is_empty())
            .for_each(|line| noted.add(line));
        // Half a line would spoil the next.
        file.set_len(whole as u64)?;
        Ok((Self { file, len: whole as u64 }, noted))
    }

    /// Adds what waits, as JSON.
    pub fn waits(&mut self, waiting: &[u8]) -> std::io::Result<()> {
        self.note([&[WAITS], waiting].concat())
    }

    /// Adds a receipt.
    pub fn told(&mut self, told: &Untold) -> std::io::Result<()> {
        let mut line =
            format!("{}{} {} {} ", char::from(TOLD), told.owner, told.session, told.time_ns).into_bytes();
        line.extend_from_slice(&told.bytes);
        self.note(line)
    }

    /// Adds a line, which has no line end in it.
    fn note(&mut self, mut line: Vec<u8>) -> std::io::Result<()> {
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
        assert!(before.waits.is_empty() && before.told.is_empty());
        let told = Untold { owner: 7, session: 1 << 40, time_ns: 9, bytes: b"{\"kind\": \"x y\"}".to_vec() };
        j.waits(b"{\"a\":1}").unwrap();
        j.told(&told).unwrap();
        j.waits(b"{\"b\":2}").unwrap();
        j.file.write_all(b"w{\"c\":").unwrap();
        drop(j);
        let (mut j, before) = Journal::open(dir.path()).unwrap();
        assert_eq!(before.waits, [b"{\"a\":1}", b"{\"b\":2}"]);
        assert_eq!(before.told, [told]);
        j.waits(b"{\"d\":3}").unwrap();
        for line in ["x", "t", "t1 2", "t1 2 x {}", "t4294967296 2 3 {}", "{}"] {
            j.note(line.into()).unwrap();
        }
        let (_, both) = Journal::open(dir.path()).unwrap();
        assert_eq!((both.waits.len(), both.told.len()), (3, 1), "what is no line is left out");
        j.len = MAX;
        assert!(j.waits(b"{}").is_err(), "it grows over its bound");
        j.clear().unwrap();
        j.waits(b"{\"e\":4}").unwrap();
        assert_eq!(Journal::open(dir.path()).unwrap().1.waits, [b"{\"e\":4}"]);
    }
}
