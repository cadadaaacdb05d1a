//! Reading the files a user names, with a limit, and logs.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use aarm_receipt::source::Source;

use super::exit::CliError;
use crate::store::Store;

/// Reads a file of at most `limit` bytes; `-` is standard input.
pub fn read(path: &Path, limit: usize) -> Result<Vec<u8>, CliError> {
    let failed = |source| CliError::Read { path: path.to_owned(), source };
    let source: Box<dyn Read> = if path.as_os_str() == "-" {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).map_err(failed)?)
    };
    let mut bytes = Vec::new();
    source.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > limit {
        return Err(CliError::TooLarge { path: path.to_owned(), limit });
    }
    Ok(bytes)
}

/// Writes a file: whole under its name, or as it was.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    let failed = |source| CliError::Write { path: path.to_path_buf(), source };
    write_with(path, |file| file.write_all(bytes).map_err(failed))
}

/// The same with what there may be too much of for memory.
pub fn write_with(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let failed = |source| CliError::Write { path: path.to_path_buf(), source };
    let temporary = path.with_added_extension("new");
    let mut file = BufWriter::new(File::create(&temporary).map_err(failed)?);
    let filled = fill(&mut file)
        .and_then(|()| file.flush().and_then(|()| std::fs::rename(&temporary, path)).map_err(failed));
    if filled.is_err() {
        // Half of one is none.
        let _ = std::fs::remove_file(&temporary);
    }
    filled
}

/// What a user calls a log that is no directory.
pub fn url(log: &Path) -> Option<&str> {
    log.to_str().filter(|text| text.contains("://"))
}

/// A log: a directory, or an archive by its URL.
pub fn log(name: &Path) -> Result<Box<dyn Source>, CliError> {
    Ok(match url(name) {
        Some(url) => Box::new(Store::open(url)?),
        None => Box::new(name.to_path_buf()),
    })
}

/// Reads a policy document.
pub fn policy_text(path: &Path) -> Result<String, CliError> {
    let bytes = read(path, aarm_policy::MAX_DOCUMENT)?;
    String::from_utf8(bytes).map_err(|e| CliError::Read {
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, e.utf8_error()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        assert!(matches!(read(&path, 4), Err(CliError::TooLarge { limit: 4, .. })));
        // Endless, but no trap.
        assert!(matches!(read(Path::new("/dev/zero"), 1000), Err(CliError::TooLarge { .. })));
    }
}
