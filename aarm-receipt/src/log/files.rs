//! What the log does to files, and what it says when that fails.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::LogError;
use crate::placing;

/// Room for the next segment.
pub(super) const NEXT: &str = "next.segment";

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
    File::open(dir).and_then(|d| placing::sync_all(&d)).map_err(io(dir))
}

/// Writes a small file whole or not at all. Without room for it all stays as it was.
pub(super) fn place(dir: &Path, name: &str, content: &[u8]) -> Result<(), LogError> {
    let path = dir.join(name);
    placing::durable(&path, content).map_err(no_room(dir, &path, content.len()))
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

/// What a segment is copied to, in the room of the next one.
pub(super) const RENEWING: &str = "renewing.segment";

/// Puts a copy of a segment, as far as its records go, in its place, durably. What another has written may be in the kernel's memory only, which
/// reading does not tell. Writing it there once more is not enough: what ext4 could not write once, it writes again, says so, and reads as zeros
/// after the next start.
pub(super) fn renew(dir: &Path, segment: &Path, end: u64, bytes: u64) -> Result<File, LogError> {
    // The room first: without it nothing is changed.
    reserve(dir, bytes)?;
    let (room, copy) = (dir.join(NEXT), dir.join(RENEWING));
    std::fs::rename(&room, &copy).map_err(io(&copy))?;
    let file = File::options().read(true).write(true).open(&copy).map_err(io(&copy))?;
    allocate(&file, dir, bytes.max(end))?;
    let from = File::open(segment).map_err(io(segment))?;
    let mut buffer = vec![0; 1 << 18];
    let mut at = 0;
    while at < end {
        let some = (end - at).min(buffer.len() as u64) as usize;
        from.read_exact_at(&mut buffer[..some], at).map_err(io(segment))?;
        file.write_all_at(&buffer[..some], at).map_err(no_room(dir, &copy, some))?;
        at += some as u64;
    }
    placing::sync_all(&file).map_err(no_room(dir, &copy, end as usize))?;
    std::fs::rename(&copy, segment).map_err(io(segment))?;
    sync_dir(dir)?;
    Ok(file)
}

/// Room for the next segment, under a name that is no segment's. Where it is there already, nothing is done: asking
/// a file system again for all blocks of a file costs some as much as the first time.
pub(super) fn reserve(dir: &Path, bytes: u64) -> Result<(), LogError> {
    let path = dir.join(NEXT);
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
