//! The second disk, by which this machine and its host talk: see `xtask/src/cuts/stage.rs`.
//!
//! What is said has its place among what the first disk was told, because it is said when the system call before has returned. Must never: be
//! said from memory that the kernel writes when it likes.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use anyhow::{Context, Result, ensure};

const DISK: &str = "/dev/vdb";
/// Where a line is written, and a task is read.
const SAY: u64 = 0;
const ASK: u64 = 512 << 10;

/// As the disk takes it, past the page cache.
#[repr(align(512))]
struct Sector([u8; 512]);

fn open() -> Result<File> {
    File::options().read(true).write(true).custom_flags(libc::O_DIRECT).open(DISK).context(DISK)
}

/// Says a line: as much of it as there is room for.
pub fn say(line: std::fmt::Arguments<'_>) -> Result<()> {
    let line = line.to_string().replace(['\n', '\0'], " ");
    let mut sector = Sector([0; 512]);
    let length = line.len().min(sector.0.len());
    sector.0[..length].copy_from_slice(&line.as_bytes()[..length]);
    Ok(open()?.write_all_at(&sector.0, SAY)?)
}

/// Asks for the next task, and waits for it.
pub fn ask() -> Result<String> {
    let mut sector = Sector([0; 512]);
    let n = open()?.read_at(&mut sector.0, ASK)?;
    ensure!(n == sector.0.len(), "{n} bytes of a task");
    Ok(String::from_utf8(sector.0.to_vec())?.trim_end_matches('\0').to_owned())
}
