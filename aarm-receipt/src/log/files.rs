//! What the log does to files, and what it says when that fails.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::LogError;
use crate::placing;

pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> LogError {
    let path = path.to_path_buf();
    move |source| LogError::Io { path, source }
}

/// No room is something else than a failure: it may come to an end.
pub(super) fn no_room<'a>(
    dir: &'a Path,
    path: &'a Path,
    bytes: usize,
) -> impl Fn(std::io::Error) -> LogError + 'a {
    move |e| match e.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => {
            LogError::NoSpace { path: dir.to_path_buf(), bytes: bytes as u64 }
        }
        _ => io(path)(e),
    }
}

pub(super) fn sync_dir(dir: &Path) -> Result<(), LogError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(io(dir))
}

/// Writes a small file whole or not at all. Without room for it all stays as it was.
pub(super) fn place(dir: &Path, name: &str, content: &[u8]) -> Result<(), LogError> {
    let path = dir.join(name);
    placing::durable(&path, content).map_err(no_room(dir, &path, content.len()))
}

/// Overwrites a part of a file with zeros, durably.
pub(super) fn clear(file: &File, mut at: u64, bytes: u64) -> std::io::Result<()> {
    let zeros = vec![0; 1 << 16];
    let end = at + bytes;
    while at < end {
        let n = (end - at).min(zeros.len() as u64);
        file.write_all_at(&zeros[..n as usize], at)?;
        at += n;
    }
    file.sync_all()
}

/// Reserves room for a file.
pub(super) fn allocate(file: &File, dir: &Path, bytes: u64) -> Result<(), LogError> {
    // SAFETY: a valid descriptor.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, bytes as libc::off_t) } {
        0 => Ok(()),
        libc::ENOSPC | libc::EDQUOT => Err(LogError::NoSpace { path: dir.to_path_buf(), bytes }),
        e => Err(io(dir)(std::io::Error::from_raw_os_error(e))),
    }
}

/// Room for the next segment, under a name that is no segment's. Where it is there already, nothing is done: asking
/// a file system again for all blocks of a file costs some as much as the first time.
pub(super) fn reserve(dir: &Path, bytes: u64) -> Result<(), LogError> {
    let path = dir.join("next.segment");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o644)
        .open(&path)
        .map_err(io(&path))?;
    let found = file.metadata().map_err(io(&path))?;
    if found.len() >= bytes && found.blocks().saturating_mul(512) >= bytes {
        return Ok(());
    }
    allocate(&file, dir, bytes)
}
