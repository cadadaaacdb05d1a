//! The chains of sessions that go on, kept beside the log for who goes on with it.
//!
//! ```text
//! aarm-chains-v1
//! <receipts that it is after>
//! <session, 16 hexadecimal digits> <leaf hash of its last receipt, base64>
//! ...
//! <CRC-32C of all that, 8 hexadecimal digits>
//! ```
//! Derived, and not made durable: sessions do not outlive the power. Where it is missing or wrong and sessions go on, the log is read instead.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::LogError;
use super::files::no_room;
use crate::chain::{CHAINS_MAX, Chains};
use crate::placing;

const FILE: &str = "chains";
const MAGIC: &str = "aarm-chains-v1";
/// Most bytes: a line for each chain, and some more.
const MAX: u64 = CHAINS_MAX as u64 * 64 + 256;

/// Writes them, as they are after so many receipts.
pub fn write(dir: &Path, size: u64, chains: &Chains) -> Result<(), LogError> {
    let mut text = format!("{MAGIC}\n{size}\n");
    for (session, hash) in chains.sorted() {
        text.push_str(&format!("{session:016x} {}\n", BASE64.encode(hash)));
    }
    text.push_str(&format!("{:08x}\n", crc32c::crc32c(text.as_bytes())));
    let path = dir.join(FILE);
    placing::whole(&path, text.as_bytes()).map_err(no_room(dir, &path, text.len()))
}

/// What was kept, and after how many receipts. `None`: there is no such file, or it is not one.
pub fn read(dir: &Path) -> Option<(u64, Chains)> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(dir.join(FILE)).ok()?.take(MAX).read_to_string(&mut text).ok()?;
    parse(&text)
}

fn parse(text: &str) -> Option<(u64, Chains)> {
    let (body, crc) = text.strip_suffix('\n')?.rsplit_once('\n')?;
    let covered = &text.as_bytes()[..body.len() + 1];
    if crc != format!("{:08x}", crc32c::crc32c(covered)) {
        return None;
    }
    let mut lines = body.split('\n');
    let size = lines.next().filter(|line| *line == MAGIC).and_then(|_| lines.next())?.parse().ok()?;
    let all: Option<Vec<_>> = lines
        .map(|line| {
            let (session, hash) = line.split_once(' ')?;
            Some((u64::from_str_radix(session, 16).ok()?, BASE64.decode(hash).ok()?.try_into().ok()?))
        })
        .collect();
    Some((size, Chains::of(all?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_come_back_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).is_none());
        let chains = Chains::of((0..5u64).map(|n| (n << 32 | 7, [n as u8; 32])));
        write(dir.path(), 99, &chains).unwrap();
        assert_eq!(read(dir.path()), Some((99, chains)));
        write(dir.path(), 100, &Chains::default()).unwrap();
        assert_eq!(read(dir.path()), Some((100, Chains::default())));
        let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        for at in 0..text.len() {
            assert_eq!(parse(&text[..at]), None, "cut at {at}");
            let mut changed = text.clone().into_bytes();
            changed[at] ^= 1;
            assert_eq!(std::str::from_utf8(&changed).ok().and_then(parse), None, "byte {at}");
        }
    }
}
