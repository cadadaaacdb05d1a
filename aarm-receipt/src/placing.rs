//! Small files that are replaced: under their name is all of what was written, or what was there before. And what it takes to believe that something
//! is on disk.
//!
//! Must never: leave half a file under a name.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

fn temporary(path: &Path) -> PathBuf {
    path.with_added_extension("new")
}

/// Writes a file that need not outlive a loss of power.
pub(crate) fn whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temporary(path);
    std::fs::write(&temporary, content)?;
    std::fs::rename(&temporary, path)
}

/// Writes a file that is there, under its name, whatever happens after this returns.
pub(crate) fn durable(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temporary(path);
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    sync_all(&file)?;
    std::fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |dir| sync_all(&File::open(dir)?))
}

/// Makes a file or a directory durable.
pub(crate) fn sync_all(file: &File) -> io::Result<()> {
    file.sync_all()?;
    is_writable(file)
}

/// Makes the bytes of a file durable.
pub(crate) fn sync_data(file: &File) -> io::Result<()> {
    file.sync_data()?;
    is_writable(file)
}

/// An error if a file system has become read-only. Where that was forced upon open files (an emergency remount), ext4 takes what is written to them,
/// and calls it durable, and writes nothing.
fn is_writable(file: &File) -> io::Result<()> {
    // SAFETY: numbers and padding only, for which zeros are values.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: a valid descriptor, and a place that lives as long as the call.
    if unsafe { libc::fstatvfs(file.as_raw_fd(), &raw mut found) } != 0 {
        return Err(io::Error::last_os_error());
    }
    match found.f_flag & libc::ST_RDONLY {
        0 => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::EROFS)),
    }
}
