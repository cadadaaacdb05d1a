//! What is done to the file system and the machine.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};

use crate::differential::rng::Rng;

const DISK: &str = "/dev/vda";
/// Where it is mounted.
pub const AT: &str = "/mnt";
/// `EXT4_IOC_SHUTDOWN`, and its three ways: with what is in memory, with the journal only, with neither.
const SHUTDOWN: libc::Ioctl = 0x8004_587d_u32 as libc::Ioctl;
const WAYS: [u32; 3] = [0, 1, 2];

fn last() -> std::io::Error {
    std::io::Error::last_os_error()
}

/// Mounts the disk as hosts do.
pub fn mount() -> Result<()> {
    std::fs::create_dir_all(AT)?;
    let (from, to, kind) = (CString::new(DISK)?, CString::new(AT)?, CString::new("ext4")?);
    let data = CString::new("errors=remount-ro")?;
    // SAFETY: the strings end in NUL.
    let done = unsafe {
        libc::mount(from.as_ptr(), to.as_ptr(), kind.as_ptr(), 0, data.as_ptr().cast::<libc::c_void>())
    };
    ensure!(done == 0, "{DISK}: {}", last());
    Ok(())
}

/// Lets go of it: nobody has it open any more, so nothing of it stays in memory.
pub fn unmount() -> Result<()> {
    let at = CString::new(AT)?;
    // SAFETY: the string ends in NUL.
    ensure!(unsafe { libc::umount(at.as_ptr()) } == 0, "umount {AT}: {}", last());
    Ok(())
}

/// Has the kernel write what nobody has made durable soon, or when it likes.
pub fn writeback(rng: &mut Rng) -> Result<()> {
    let (expire, look) = rng.one(&[("3000", "500"), ("50", "20")]);
    std::fs::write("/proc/sys/vm/dirty_expire_centisecs", expire)?;
    Ok(std::fs::write("/proc/sys/vm/dirty_writeback_centisecs", look)?)
}

/// What takes all the room.
const FULL: &str = "/mnt/full";

/// Leaves no room.
pub fn fill() -> Result<()> {
    let file = File::create(FULL)?;
    let (mut at, mut more): (i64, i64) = (0, 1 << 26);
    while more >= 4096 {
        // SAFETY: a valid descriptor.
        match unsafe { libc::posix_fallocate(file.as_raw_fd(), at, more) } {
            0 => at += more,
            libc::ENOSPC => more /= 2,
            e => return Err(std::io::Error::from_raw_os_error(e)).context(FULL),
        }
    }
    Ok(())
}

/// There is room again, if there was none.
pub fn make_room() -> Result<()> {
    match std::fs::remove_file(FULL) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).context(FULL),
        _ => Ok(()),
    }
}

/// Takes the file system away from who uses it.
pub fn shut_down(rng: &mut Rng) -> Result<()> {
    let (root, way) = (File::open(AT)?, rng.one(&WAYS));
    // SAFETY: a valid descriptor, and a number that lives as long as the call.
    let done = unsafe { libc::ioctl(root.as_raw_fd(), SHUTDOWN, &raw const way) };
    ensure!(done == 0, "shutdown: {}", last());
    Ok(())
}

/// Has all disks become read-only, whoever writes to them.
pub fn make_readonly() -> Result<()> {
    std::fs::write("/proc/sysrq-trigger", "u").context("sysrq")
}
